// Package storage keeps this compute's heartbeat on storage that computes share, and reads those of
// others: a sign of life that needs no network of the site.
//
// Each host has one file, DIRECTORY/mainstay-SITE/HOST, of always the same length, which it
// overwrites in place with one synchronous write. So no reader finds it empty, no attribute
// that its kernel remembers (NFS keeps a length for seconds) hides its end, and a thousand hosts cost
// a thousand writes and no renames. The count stands at both ends of the line: a line that was read
// while it was written is no answer.
//
// Every call goes to a file system that may hang for ever: the caller asks apart, and takes
// no answer for unknown.
package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// length of a file, and of the one line in it.
const length = 512

// line is what stands in a file.
type line struct {
	Count uint64 `json:"count"`
	Host  string `json:"host"`
	Boot  string `json:"boot"`
	Again uint64 `json:"again"`
}

// Directory is where the computes of a site keep their heartbeats.
type Directory struct{ path, site, host, boot string }

// Open names the directory, and whose heartbeat is written there. Nothing is looked at yet.
func Open(path, site, host, boot string) *Directory { return &Directory{path, site, host, boot} }

// Path is the site's directory in it.
func (d *Directory) Path() string { return filepath.Join(d.path, "mainstay-"+d.site) }

// root opens the directory. Others than root may own it: no link in it leads out of it.
func (d *Directory) root() (*os.Root, error) {
	return os.OpenRoot(d.path) // it is never made: where nothing is mounted is nothing shared
}

// Write writes this host's heartbeat, and returns when it is on the storage.
func (d *Directory) Write(count uint64) error {
	root, err := d.root()
	if err != nil {
		return fmt.Errorf("write the storage heartbeat: %w", err)
	}
	defer root.Close()
	dir := "mainstay-" + d.site
	if err := root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write the storage heartbeat in %s: %w", d.path, err)
	}
	text, err := json.Marshal(line{count, d.host, d.boot, count})
	if err != nil {
		return fmt.Errorf("write the storage heartbeat: %w", err)
	}
	if len(text) >= length {
		return fmt.Errorf("write the storage heartbeat: %d bytes are more than its file's %d", len(text), length-1)
	}
	buf := make([]byte, length)
	for i := copy(buf, text); i < length-1; i++ {
		buf[i] = ' '
	}
	buf[length-1] = '\n'
	f, err := root.OpenFile(filepath.Join(dir, d.host), os.O_WRONLY|os.O_CREATE|unix.O_SYNC, 0o644)
	if err != nil {
		return fmt.Errorf("write the storage heartbeat in %s: %w", d.path, err)
	}
	_, err = f.WriteAt(buf, 0)
	if err = errors.Join(err, f.Close()); err != nil { // NFS may tell only now
		return fmt.Errorf("write the storage heartbeat in %s: %w", d.path, err)
	}
	return nil
}

// Read reads the heartbeat of a host. That there is none is an error as any other: nothing is
// known of the host.
func (d *Directory) Read(host string) (boot string, count uint64, err error) {
	root, err := d.root()
	if err != nil {
		return "", 0, fmt.Errorf("read the storage heartbeat of %s: %w", host, err)
	}
	defer root.Close()
	f, err := root.Open(filepath.Join("mainstay-"+d.site, host))
	if err != nil {
		return "", 0, fmt.Errorf("read the storage heartbeat of %s: %w", host, err)
	}
	defer f.Close()
	buf := make([]byte, length)
	if _, err := io.ReadFull(f, buf); err != nil {
		return "", 0, fmt.Errorf("read the storage heartbeat of %s: %w", host, err)
	}
	var l line
	if err := json.Unmarshal(buf, &l); err != nil {
		return "", 0, fmt.Errorf("read the storage heartbeat of %s: %w", host, err)
	}
	if l.Host != host || l.Count != l.Again {
		return "", 0, fmt.Errorf("read the storage heartbeat of %s: it is another's, or was being written", host)
	}
	return l.Boot, l.Count, nil
}

// own are file systems that no two hosts have mounted at once.
var own = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "XFS", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	unix.F2FS_SUPER_MAGIC: "F2FS", 0x2fc12fc1: "ZFS",
}

// Examine says what is wrong with the directory on this host, as far as can be seen at once:
// it writes and removes a file there. others are the computes whose heartbeats should be there as well.
func (d *Directory) Examine(others []string) (problems []string) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		return []string{fmt.Sprintf("is not there on this host (%v)", err)}
	}
	if name, is := own[st.Type]; is {
		problems = append(problems, "lies on "+name+" here, which no other host shares: is it mounted?")
	}
	trial := &Directory{d.path, d.site, d.host + ".check", d.boot}
	if err := trial.Write(1); err != nil {
		return append(problems, fmt.Sprintf("cannot be written by root on this host (%v)", err))
	}
	if err := os.Remove(filepath.Join(trial.Path(), trial.host)); err != nil {
		problems = append(problems, err.Error())
	}
	if _, _, err := d.Read(d.host); err != nil {
		return problems // this host's agent has not run with it yet
	}
	none := []string(nil)
	for _, host := range others {
		if _, _, err := d.Read(host); err != nil {
			none = append(none, host)
		}
	}
	if len(none) == len(others) && len(others) > 0 {
		problems = append(problems, "has this host's storage heartbeat and no other's: the others write to other storage, or not at all")
	}
	return problems
}
