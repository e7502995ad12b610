package fence

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// dog is a device that can misbehave. The real one is asked in make lab-watchdog.
type dog struct {
	timeout, most int   // of what it can count
	set, get      error // what it answers
	written       string
	closed        bool
}

func (d *dog) SetTimeout(s int) error {
	if d.set == nil {
		d.timeout = min(s, d.most)
	}
	return d.set
}
func (d *dog) Timeout() (int, error)       { return d.timeout, d.get }
func (d *dog) Kick() error                 { return d.set }
func (d *dog) Write(b []byte) (int, error) { d.written += string(b); return len(b), nil }
func (d *dog) Close() error                { d.closed = true; return nil }

// TestArm: what counts is what the device says, and what rests on it is never made longer.
func TestArm(t *testing.T) {
	for _, c := range []struct {
		name    string
		dog     dog
		keep    bool
		timeout time.Duration // 0: refused
	}{
		{"set", dog{timeout: 60, most: 600}, false, 10 * time.Second},
		{"it can count no further", dog{timeout: 60, most: 8}, false, 8 * time.Second},
		{"it knows one time-out only", dog{timeout: 60, set: unix.EOPNOTSUPP}, false, 60 * time.Second},
		{"something rests on a shorter one", dog{timeout: 6, most: 600}, true, 6 * time.Second},
		{"something rests on a longer one", dog{timeout: 60, most: 600}, true, 10 * time.Second},
		{"it does not take it", dog{timeout: 60, set: unix.EIO}, false, 0},
		{"it does not say", dog{timeout: 60, most: 600, get: unix.EIO}, false, 0},
		{"it says nonsense", dog{timeout: 0, most: 0}, false, 0},
	} {
		d, err := arm(&c.dog, fleet.Watchdog{Device: "/dev/watchdog", Timeout: 10 * time.Second}, watchdogFacts{}, c.keep)
		if c.timeout == 0 {
			if err == nil || !c.dog.closed || c.dog.written != "V" {
				t.Errorf("%s: %v; it must be refused, and not be left armed (closed %v, written %q)", c.name, err, c.dog.closed, c.dog.written)
			}
			continue
		}
		if err != nil || d.Timeout() != c.timeout {
			t.Errorf("%s: %v, want %v", c.name, err, c.timeout)
		}
	}
}

func TestCloseWatchdog(t *testing.T) {
	for _, c := range []struct {
		lasting, stop bool
		written       string
		fails         bool
	}{{false, false, "", false}, {false, true, "V", false}, {true, false, "", false}, {true, true, "V", true}} {
		device := &dog{timeout: 10, most: 10}
		d, err := arm(device, fleet.Watchdog{Device: "/dev/watchdog", Timeout: 10 * time.Second}, watchdogFacts{lasting: c.lasting}, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(c.stop); (err != nil) != c.fails || device.written != c.written || !device.closed {
			t.Errorf("lasting %v, stop %v: %v, written %q, closed %v", c.lasting, c.stop, err, device.written, device.closed)
		}
	}
}

// TestExamineWatchdog: what does not keep the contract is refused before it is opened.
func TestExamineWatchdog(t *testing.T) {
	for _, c := range []struct {
		name, identity, nowayout string
		softdog                  bool
		want                     string // of the error; "": none
		lasting                  bool
	}{
		{"a device that lasts", "iTCO_wdt", "1", false, "", true},
		{"a device that can be stopped", "iTCO_wdt", "0", false, "right would be nowayout", false},
		{"softdog", softdog, "1", false, "softdog: true", true},
		{"softdog that is allowed", softdog, "0", true, "", false},
		{"a kernel that does not say", "", "", true, "ask the kernel", false},
	} {
		sys := t.TempDir()
		dir := filepath.Join(sys, "dev/char/1:3")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"identity": c.identity, "nowayout": c.nowayout} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		x, err := examineWatchdog(fleet.Watchdog{Device: "/dev/null", Softdog: c.softdog}, sys, t.TempDir())
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || x.lasting != c.lasting {
			t.Errorf("%s: %+v, %v", c.name, x, err)
		}
	}
	if _, err := examineWatchdog(fleet.Watchdog{Device: filepath.Join(t.TempDir(), "none")}, "/sys", "/proc"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no device: %v", err)
	}
}

func TestGuest(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"":                              {"sys/class/dmi/id/sys_vendor": "Dell Inc.", "proc/cpuinfo": "flags : fpu vme sse2\n"},
		"QEMU":                          {"sys/class/dmi/id/sys_vendor": "QEMU\n"},
		"VMware7,1":                     {"sys/class/dmi/id/product_name": "VMware7,1\n"},
		"its processor says hypervisor": {"proc/cpuinfo": "processor : 0\nflags\t\t: fpu vme hypervisor lahf_lm\n"},
	} {
		dir := t.TempDir()
		for name, text := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := guest(filepath.Join(dir, "sys"), filepath.Join(dir, "proc")); got != want {
			t.Errorf("%v: %q, want %q", files, got, want)
		}
	}
}
