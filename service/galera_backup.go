package service

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Saver is a Copy whose data can be saved while it runs, and be put back while every copy
// of its cluster is down. Whoever calls it is a person's command on the copy's own host.
type Saver interface {
	Copy
	// Backup saves the data in a folder that does not exist yet, ready to be put back.
	Backup(ctx context.Context, dir string, about Saved) (Saved, error)
	// Restore puts them back, as the beginning of a new history: whatever still has data of
	// the old one can never pass for a member that only missed a little. What was there is
	// set aside, and aside says where. It fails while the copy runs.
	Restore(ctx context.Context, dir string, about Saved) (s Saved, aside string, err error)
	// Renounce makes the copy have no data of any cluster, so that it is given all of
	// another's when it joins. It fails while the copy runs.
	Renounce(ctx context.Context) error
}

// Saved is what a backup of a database says of itself, in savedFile.
type Saved struct {
	Mainstay string    `json:"mainstay"` // always "database backup"
	Format   int       `json:"format"`   // always 1
	Site     string    `json:"site"`
	Service  string    `json:"service"`
	Host     string    `json:"host"`    // on which it was made
	Version  string    `json:"version"` // of Mainstay
	Taken    time.Time `json:"taken"`
	UUID     string    `json:"uuid"`  // the history that it is of
	Seqno    int64     `json:"seqno"` // and its newest change in it
	Bytes    int64     `json:"bytes"`
}

const (
	savedFile = "mainstay.json"
	// savedData is the folder, beside that file, as backupProgram makes and takes it.
	savedData     = "data"
	backupProgram = "mariadb-backup"
	// backupMost bounds each of its runs: a terabyte over a slow disk.
	backupMost = 48 * time.Hour
)

// Backup lets mariadb-backup copy the data of a member that serves, and prepares the copy:
// a backup that cannot be prepared is none. Meanwhile the member is told to lag (wsrep_desync),
// so that the cluster does not wait for it; it is out of the rotation then.
func (c *galeraCopy) Backup(ctx context.Context, dir string, about Saved) (s Saved, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("back up %s to %s: %w", c.name, dir, err)
		}
	}()
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return s, errors.Join(errors.New("it exists already; name a folder that does not"), err)
	}
	u, err := c.find(ctx, c.systemd.look)
	if err != nil {
		return s, err
	}
	v, err := c.status(ctx)
	if err != nil {
		return s, err
	}
	if ready, why := galeraReady(v, u.ID, false); !ready {
		return s, fmt.Errorf("the member on this host %s", why)
	}
	part := dir + ".part"
	if err := os.Mkdir(part, 0o700); err != nil {
		return s, fmt.Errorf("%w; a backup that was cut short leaves it behind: remove it, if none is under way", err)
	}
	defer os.RemoveAll(part) // gone already, once it has its name
	login, forget, err := c.login()
	if err != nil {
		return s, err
	}
	defer forget()
	if err := c.copyOut(ctx, append(login, "--backup", "--galera-info", "--target-dir="+filepath.Join(part, savedData))); err != nil {
		return s, err
	}
	s = about
	s.Mainstay, s.Format, s.Service, s.Taken = "database backup", 1, c.name, time.Now().UTC().Truncate(time.Second)
	if s.UUID, s.Seqno, err = savedPosition(filepath.Join(part, savedData)); err != nil {
		return s, err
	}
	if err := backupRun(ctx, "--prepare", "--target-dir="+filepath.Join(part, savedData)); err != nil {
		return s, err
	}
	if s.Bytes, err = sizeOf(part); err != nil {
		return s, err
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return s, err
	}
	if _, err := write(filepath.Join(part, savedFile), append(raw, '\n')); err != nil {
		return s, err
	}
	if err := (galeraFiles{data: part}).sync(); err != nil {
		return s, fmt.Errorf("write it to disk: %w", err)
	}
	if err := os.Rename(part, dir); err != nil {
		return s, err
	}
	_, err = write(c.taken, append(raw, '\n'))
	return s, errors.Join(err, syncDir(filepath.Dir(dir)))
}

// copyOut runs mariadb-backup while the member is told to lag.
func (c *galeraCopy) copyOut(ctx context.Context, argv []string) error {
	err := c.desync(ctx, "ON")
	if err != nil {
		err = fmt.Errorf("tell the member to lag: %w", err)
	} else {
		err = backupRun(ctx, argv...)
	}
	// Also when no answer came, or a person has ended the command: it would lag for ever.
	if sync := c.desync(context.WithoutCancel(ctx), "OFF"); sync != nil {
		err = errors.Join(err, fmt.Errorf("tell the member to lag no more: %w; mariadb -e \"SET GLOBAL wsrep_desync=OFF\" does", sync))
	}
	return err
}

// login is what mariadb-backup is told of the server; a password stands in a file that
// root alone can read.
func (c *galeraCopy) login() (argv []string, forget func(), err error) {
	argv, forget = []string{"--user=" + c.server.user}, func() {}
	if c.server.network == "unix" {
		argv = append(argv, "--socket="+c.server.address)
	} else {
		host, port, err := net.SplitHostPort(c.server.address)
		if err != nil {
			return nil, nil, err
		}
		argv = append(argv, "--host="+host, "--port="+port)
	}
	if c.server.passwordFile == "" {
		return argv, forget, nil
	}
	raw, err := os.ReadFile(c.server.passwordFile)
	if err != nil {
		return nil, nil, fmt.Errorf("password file: %w", err)
	}
	text := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(strings.TrimRight(string(raw), "\r\n"))
	f, err := os.CreateTemp("", "mainstay-*.cnf") // for root alone
	if err != nil {
		return nil, nil, err
	}
	forget = func() { os.Remove(f.Name()) }
	_, err = f.WriteString("[client]\npassword=\"" + text + "\"\n")
	if err := errors.Join(err, f.Close()); err != nil {
		forget()
		return nil, nil, err
	}
	return append([]string{"--defaults-extra-file=" + f.Name()}, argv...), forget, nil // it must stand first
}

// backupRun runs mariadb-backup, which says so when all went well.
func backupRun(ctx context.Context, argv ...string) error {
	code, last, err := run(ctx, backupMost, append([]string{backupProgram}, argv...), false)
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: apt-get install mariadb-backup", err)
	}
	if err == nil && (code != 0 || !strings.Contains(last, "completed OK!")) {
		err = fmt.Errorf("%s ended with %d: %s", backupProgram, code, last)
	}
	return err
}

// savedPosition is where a copy stands in its history; the file's name is that of
// MariaDB 10 or of later ones.
func savedPosition(data string) (uuid string, seqno int64, err error) {
	raw, err := os.ReadFile(filepath.Join(data, "xtrabackup_galera_info"))
	if errors.Is(err, fs.ErrNotExist) {
		raw, err = os.ReadFile(filepath.Join(data, "mariadb_backup_galera_info"))
	}
	if err != nil {
		return "", 0, fmt.Errorf("where the copy stands: %w", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(raw)), " ")
	uuid, seqno, err = position("start_position=" + first)
	if err != nil {
		return "", 0, fmt.Errorf("where the copy stands: %w", err)
	}
	return uuid, seqno, nil
}

func sizeOf(dir string) (n int64, err error) {
	return n, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
}

// readSaved reads what a backup says of itself.
func readSaved(file string) (Saved, error) {
	var s Saved
	raw, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("no backup of mainstay backup --database: %w", err)
	}
	if err := json.Unmarshal(raw, &s); err != nil || s.Mainstay != "database backup" {
		return s, fmt.Errorf("%s is not what mainstay backup --database writes", file)
	}
	if s.Format != 1 {
		return s, fmt.Errorf("its format is %d, and this version knows 1", s.Format)
	}
	return s, nil
}

// Restore puts a backup in the place of the data.
func (c *galeraCopy) Restore(ctx context.Context, dir string, about Saved) (s Saved, aside string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore %s from %s: %w", c.name, dir, err)
		}
	}()
	if s, err = readSaved(filepath.Join(dir, savedFile)); err != nil {
		return s, "", err
	}
	if s.Service != c.name || s.Site != about.Site {
		return s, "", fmt.Errorf("it is of %s of site %s, and this is %s of site %s", s.Service, s.Site, c.name, about.Site)
	}
	c.ask.Lock()
	defer c.ask.Unlock()
	if err := c.idle(ctx); err != nil {
		return s, "", err
	}
	data, err := filepath.EvalSymlinks(c.data)
	if err != nil {
		return s, "", err
	}
	info, err := os.Stat(data)
	if err != nil {
		return s, "", err
	}
	aside = data + ".before-" + time.Now().UTC().Format("20060102T150405Z")
	if err := os.Rename(data, aside); err != nil {
		return s, "", fmt.Errorf("set the present data aside: %w; if %s is a file system of its own, mount it one level higher", err, data)
	}
	if err := c.putBack(ctx, filepath.Join(dir, savedData), data, info, s.UUID); err != nil {
		// As it was, so that nothing begins with half of it.
		return s, "", errors.Join(err, os.RemoveAll(data), os.Rename(aside, data))
	}
	return s, aside, nil
}

// putBack fills an empty data directory and begins a new history there.
func (c *galeraCopy) putBack(ctx context.Context, from, data string, info fs.FileInfo, was string) error {
	owner := info.Sys().(*syscall.Stat_t)
	uid, gid := int(owner.Uid), int(owner.Gid)
	if err := os.Mkdir(data, info.Mode().Perm()); err != nil {
		return err
	}
	if err := backupRun(ctx, "--copy-back", "--target-dir="+from, "--datadir="+data); err != nil {
		return err
	}
	err := filepath.WalkDir(data, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
	if err == nil {
		err = os.Chmod(data, info.Mode().Perm())
	}
	if err != nil {
		return fmt.Errorf("give the data to their owner: %w", err)
	}
	if err := beginAlone(ctx, c.startTime, data, uid); err != nil {
		return err
	}
	// It has changes of that server alone in it.
	if err := os.Remove(filepath.Join(data, "galera.cache")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	at, err := c.recover(ctx, c.startTime)
	switch {
	case err != nil:
		return err
	case !at.Known || at.UUID == was:
		return fmt.Errorf("it has not begun a new history: it stands at %s:%d", at.UUID, at.Seqno)
	}
	return c.sync()
}

// beginAlone starts the server once, as the only member of a cluster that nobody can
// reach, and ends it: without a state file it makes a new history, and this shows that it
// comes up with the data at all.
func beginAlone(ctx context.Context, limit time.Duration, data string, uid int) error {
	fail := func(err error) error { return fmt.Errorf("start the server once, alone: %w", err) }
	owner, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return fail(err)
	}
	program := "mariadbd"
	if _, err := exec.LookPath(program); err != nil {
		program = "mysqld"
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--user="+owner.Username, "--datadir="+data, "--disable-log-error",
		"--skip-networking", "--socket="+filepath.Join(data, "alone.sock"), "--pid-file="+filepath.Join(data, "alone.pid"),
		"--wsrep-new-cluster", "--wsrep-cluster-address=gcomm://", "--wsrep-node-address=127.0.0.1",
		"--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:4567; ist.recv_addr=127.0.0.1:4568; pc.recovery=false")
	said, err := cmd.StderrPipe()
	if err != nil {
		return fail(err)
	}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	var end tail
	up := false
	lines := bufio.NewScanner(io.TeeReader(said, &end))
	for lines.Scan() {
		// Not the group's "Synchronized with group, ready for connections", which comes before
		// the server hears a signal.
		if !up && strings.Contains(lines.Text(), ": ready for connections") {
			up = true
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				return fail(err)
			}
		}
	}
	err = errors.Join(lines.Err(), cmd.Wait())
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil || !up {
		return fail(fmt.Errorf("%w: %s", errors.Join(err, errors.New("it did not come up, or not down")), end.last()))
	}
	return nil
}

// Renounce takes away what says that there are data; the data themselves stay until they
// are overwritten.
func (c *galeraCopy) Renounce(ctx context.Context) error {
	fail := func(err error) error { return fmt.Errorf("renounce the data of %s: %w", c.name, err) }
	c.ask.Lock()
	defer c.ask.Unlock()
	if err := c.idle(ctx); err != nil {
		return fail(err)
	}
	state := filepath.Join(c.data, "grastate.dat")
	if err := os.Rename(state, state+".before"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	if err := os.Remove(filepath.Join(c.data, "galera.cache")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	if err := c.forgetView(); err != nil {
		return fail(err)
	}
	if !c.read().Empty {
		return fail(errors.New("it still says that it has some"))
	}
	return nil
}

// idle fails unless the copy is surely not running.
func (c *galeraCopy) idle(ctx context.Context) error {
	st, u, err := c.unitCopy.state(ctx, c.systemd.look)
	if err != nil {
		return err
	}
	if !down(st.Phase) {
		return fmt.Errorf("%s is %s on this host; mainstay stop %s ends all copies, and keeps them down", u.ID, st.Phase, c.name)
	}
	// A server that somebody has started by hand holds the lock of InnoDB's files.
	f, err := os.OpenFile(filepath.Join(c.data, "ibdata1"), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return fmt.Errorf("who uses %s: %w", f.Name(), err)
	}
	if lock.Type != unix.F_UNLCK {
		return fmt.Errorf("process %d uses %s", lock.Pid, f.Name())
	}
	return nil
}
