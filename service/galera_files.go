package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// Programs that come with every MariaDB that has Galera.
const (
	// foundProgram starts the unit that it is given as the first of a new cluster.
	foundProgram = "galera_new_cluster"
	// recoverProgram starts the server for a moment, without a network, to ask InnoDB for
	// its position; the unit itself does so at each start. Two at once are held apart by
	// InnoDB's own lock on its files.
	recoverProgram = "galera_recovery"
	// foundFile is how foundProgram tells Debian's unit; a start that finds it begins a
	// cluster.
	foundFile = "/run/mariadb-wsrep-new-cluster"
)

// roomLeft is how much room a member needs to go on: with less, InnoDB may wait for
// space in the middle of a write, and the whole cluster for this member.
const roomLeft = 64 << 20

// galeraFiles are the files by which a member knows where it stands while no server runs.
type galeraFiles struct {
	data string // the server's data directory
}

// read reads grastate.dat and gvwstate.dat. What grastate.dat says of the newest change
// is not believed: a power cut can leave the file as it was long before.
func (f galeraFiles) read() fleet.Replica {
	var r fleet.Replica
	raw, err := os.ReadFile(filepath.Join(f.data, "grastate.dat"))
	switch {
	case err == nil:
		r.UUID = fields(string(raw))["uuid"]
		if strings.Trim(r.UUID, "0-") == "" {
			// Safe to bootstrap, as such a file may say (INCIDENTS G2), is then the way to
			// lose everything. A transfer that was interrupted leaves it so, too.
			r.UUID, r.Empty = "", true
		}
	case errors.Is(err, fs.ErrNotExist):
		// No server has ever been a member here; else there is its cache.
		_, err := os.Lstat(filepath.Join(f.data, "galera.cache"))
		r.Empty = errors.Is(err, fs.ErrNotExist)
	}
	if raw, err := os.ReadFile(filepath.Join(f.data, "gvwstate.dat")); err == nil {
		r.View, r.Seen, r.Me = view(string(raw))
	}
	return r
}

// view reads gvwstate.dat. One that is torn or empty, as after a power cut, names nobody:
// Galera does not go on from it either.
func view(text string) (id, seen, me string) {
	var members []string
	whole := false
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "my_uuid":
			me = value
		case "view_id":
			id = value
		case "member":
			uuid, _, _ := strings.Cut(value, " ")
			members = append(members, uuid)
		case "#vwend":
			whole = true
		}
	}
	if !whole || id == "" || me == "" || len(members) == 0 {
		return "", "", ""
	}
	return id, strings.Join(members, ","), me
}

// fields reads the lines "name: value" of Galera's state file.
func fields(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
			out[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return out
}

// recover asks InnoDB where its data stand. The server must be down.
func (f galeraFiles) recover(ctx context.Context, limit time.Duration) (fleet.Replica, error) {
	r := f.read()
	if r.Empty {
		return r, nil
	}
	code, last, err := run(ctx, limit, []string{recoverProgram}, false)
	if err != nil {
		return r, fmt.Errorf("ask InnoDB for its position: %w", err)
	}
	uuid, seqno, err := position(last)
	if code != 0 || err != nil {
		return r, fmt.Errorf("ask InnoDB for its position: %s ended with %d and said %q; look: run it by hand", recoverProgram, code, last)
	}
	switch {
	case strings.Trim(uuid, "0-") == "":
		if r.UUID != "" {
			return r, fmt.Errorf("ask InnoDB for its position: it has none, and grastate.dat names the history %s", r.UUID)
		}
		r.Empty = true
		return r, nil
	case r.UUID != "" && r.UUID != uuid:
		return r, fmt.Errorf("ask InnoDB for its position: its history is %s, and that of grastate.dat %s", uuid, r.UUID)
	}
	r.UUID, r.Seqno, r.Known = uuid, seqno, true
	return r, nil
}

// position reads what galera_recovery ends with: --wsrep_start_position=UUID:SEQNO, and a
// GTID behind a comma in some versions.
func position(line string) (uuid string, seqno int64, err error) {
	_, value, ok := strings.Cut(line, "start_position=")
	if !ok {
		return "", 0, errors.New("no position")
	}
	value, _, _ = strings.Cut(strings.TrimSpace(value), ",")
	uuid, number, ok := strings.Cut(value, ":")
	if !ok || len(uuid) != 36 {
		return "", 0, fmt.Errorf("%q is no position", value)
	}
	seqno, err = strconv.ParseInt(number, 10, 64)
	if err == nil && seqno < 0 && strings.Trim(uuid, "0-") != "" {
		err = fmt.Errorf("%q names no change", value)
	}
	return uuid, seqno, err
}

// forgetView puts aside what the member could go on from by itself.
func (f galeraFiles) forgetView() error {
	path := filepath.Join(f.data, "gvwstate.dat")
	if err := os.Rename(path, path+".before"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := syncDir(f.data); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sync %s: %w", f.data, err)
	}
	return nil
}

// vouch makes grastate.dat say that a cluster may be begun from here: the server asks
// for it, and only who has compared all members can know.
func (f galeraFiles) vouch() error {
	path := filepath.Join(f.data, "grastate.dat")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // then it does not ask
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	var text strings.Builder
	for line := range strings.Lines(string(raw)) {
		if !strings.HasPrefix(line, "safe_to_bootstrap:") {
			text.WriteString(line)
		}
	}
	text.WriteString("safe_to_bootstrap: 1\n")
	if _, err := write(path, []byte(text.String())); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	return errors.Join(os.Chown(path, int(owner.Uid), int(owner.Gid)), os.Chmod(path, info.Mode().Perm()))
}

// sync writes all that is on its way to the data's file system.
func (f galeraFiles) sync() error {
	d, err := os.Open(f.data)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// full says that there is too little room for the member to go on; "" if there is enough.
func (f galeraFiles) full() string {
	var s unix.Statfs_t
	if err := unix.Statfs(f.data, &s); err != nil || int64(s.Bavail)*s.Bsize >= roomLeft {
		return ""
	}
	return fmt.Sprintf("its disk is full: %d MiB are left below %s, and it needs %d; look: df -h %[2]s", int64(s.Bavail)*s.Bsize>>20, f.data, int64(roomLeft)>>20)
}

// unfound takes back what tells the unit to begin a cluster: left behind by a
// foundProgram that was killed, it would make the next start do so.
func (c *galeraCopy) unfound(ctx context.Context) error {
	if err := os.Remove(foundFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.systemd.call(ctx, "UnsetEnvironment", []string{"_WSREP_NEW_CLUSTER"}).Err; err != nil {
		return err
	}
	return c.nameDonor(ctx, "") // of a start that was killed half-way
}
