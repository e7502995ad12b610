package service

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"mainstay/fleet"
)

// bar keeps an active/passive service down on a host that does not hold it
// (docs/DESIGN.md section 3, rule 8). Its file in /run is gone after each boot,
// so what a boot, a package or an operator's habit starts stays down until the
// leader has admitted the host and given it the right. The zero bar is that of
// an active/active service and does nothing; a member of a Galera cluster sets it too.
type bar struct {
	name string // of the service
	held string // the file whose existence lets the service start
	why  string // what the drop-in says
}

func barOf(s fleet.Service, env Env) bar {
	if s.Mode != fleet.ActivePassive {
		return bar{}
	}
	return bar{name: s.Name, held: filepath.Join(env.Held, s.Name), why: "The service " + s.Name + " runs on one host at a time"}
}

func (b bar) set() bool { return b.held != "" }

// lift lets the service start on this boot.
func (b bar) lift() error {
	if !b.set() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(b.held), 0o755); err != nil {
		return fmt.Errorf("lift the bar of %s: %w", b.name, err)
	}
	if err := os.WriteFile(b.held, []byte("this host may run "+b.name+" on this boot\n"), 0o644); err != nil {
		return fmt.Errorf("lift the bar of %s: %w", b.name, err)
	}
	return nil
}

// drop forbids any further start; what runs runs on.
func (b bar) drop() error {
	if !b.set() {
		return nil
	}
	if err := os.Remove(b.held); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop the bar of %s: %w", b.name, err)
	}
	return nil
}

// dropIn is the file that makes systemd heed the bar for a unit.
func (b bar) dropIn(units, unit string) string {
	return filepath.Join(units, unit+".d", "50-mainstay.conf")
}

func (b bar) text() []byte {
	return fmt.Appendf(nil, `# Written by Mainstay. %[3]s. systemd starts it here
# only while this file exists: Mainstay writes it before a start, removes it before a
# stop, and it is gone after each boot. To run the unit without Mainstay, take %[1]s
# out of the site's file (this drop-in goes with it) or remove this drop-in.
[Unit]
ConditionPathExists=%[2]s
`, b.name, b.held, b.why)
}

// write puts the file at path, whole or not at all, so that a power cut right
// after it leaves it in place; it reports whether anything changed.
func write(path string, text []byte) (changed bool, err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return false, nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	f, err := os.CreateTemp(dir, ".mainstay-*")
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name()) // fails once it has been renamed
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return false, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return false, err
	}
	for _, d := range []string{dir, filepath.Dir(dir)} { // the folder itself may be new
		if err := syncDir(d); err != nil {
			return true, err
		}
	}
	return true, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
