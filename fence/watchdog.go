package fence

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// Watchdog is this host's own watchdog, armed: it resets the host when nobody has kicked
// it for Timeout. It is the one fence that nobody else has to reach. When it may be
// kicked, plan.Hand.MayKick says; that counts for opening it too, for that is a kick.
// (The interface is the kernel's, Documentation/watchdog/watchdog-api.rst.)
type Watchdog struct {
	device  watchdogDevice
	path    string
	timeout time.Duration
	lasting bool // nowayout: once armed it cannot be stopped
}

// watchdogDevice is what of an open device is used.
type watchdogDevice interface {
	SetTimeout(seconds int) error
	Timeout() (seconds int, err error)
	Kick() error
	Write(b []byte) (int, error)
	Close() error
}

// softdog is the identity of the kernel's own timer, which is no device.
const softdog = "Software Watchdog"

// OpenWatchdog arms the watchdog that the site's file describes, and reads back how long
// it waits. A device that does not keep the contract is refused before it is opened:
// one that can be stopped (no nowayout), and softdog, unless the site allows it. Where
// keep is set a time-out that the device has already is never made longer: something
// rests on it.
func OpenWatchdog(w fleet.Watchdog, keep bool) (*Watchdog, error) {
	x, err := examineWatchdog(w, "/sys", "/proc")
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(w.Device, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("open the watchdog %s: another program has it: RuntimeWatchdogSec= of systemd, sbd or watchdogd", w.Device)
	}
	if err != nil {
		return nil, fmt.Errorf("open the watchdog %s: %w", w.Device, err)
	}
	return arm(kernelWatchdog(fd), w, x, keep)
}

func arm(device watchdogDevice, w fleet.Watchdog, x watchdogFacts, keep bool) (*Watchdog, error) {
	d := &Watchdog{device: device, path: w.Device, lasting: x.lasting}
	had, err := device.Timeout()
	if want := int(w.Timeout / time.Second); err == nil && had != want && !(keep && had < want) {
		// Some devices know one time-out only; what counts is what is read back.
		if err = device.SetTimeout(want); errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
			err = nil
		}
	}
	seconds := 0
	if err == nil {
		seconds, err = device.Timeout()
	}
	if err == nil && seconds <= 0 {
		err = fmt.Errorf("it says that it waits %d s", seconds)
	}
	if err != nil {
		// Without knowing how long it waits it is good for nothing, and not to be left armed.
		return nil, errors.Join(fmt.Errorf("read back the time-out of the watchdog %s: %w", w.Device, err), d.Close(true))
	}
	d.timeout = time.Duration(seconds) * time.Second
	return d, nil
}

// Timeout is how long the device waits, as read back from it.
func (d *Watchdog) Timeout() time.Duration { return d.timeout }

// Kick lets it wait anew.
func (d *Watchdog) Kick() error {
	if err := d.device.Kick(); err != nil {
		return fmt.Errorf("kick the watchdog %s: %w", d.path, err)
	}
	return nil
}

// Close lets go of the device. With stop it is disarmed, which a lasting one cannot be:
// then the error says so. Without, it goes on, and whoever comes next must open it in time.
func (d *Watchdog) Close(stop bool) error {
	var err error
	if stop {
		_, err = d.device.Write([]byte("V")) // "magic close"
	}
	if err = errors.Join(err, d.device.Close()); err != nil {
		return fmt.Errorf("close the watchdog %s: %w", d.path, err)
	}
	if stop && d.lasting {
		return fmt.Errorf("close the watchdog %s: it cannot be stopped (nowayout), and resets this host in %v unless an agent is there again", d.path, d.timeout)
	}
	return nil
}

// CheckWatchdog says what is wrong, and what is unwise, with a host's watchdog on this
// host. It opens nothing.
func CheckWatchdog(w fleet.Watchdog) (warning string, err error) {
	x, err := examineWatchdog(w, "/sys", "/proc")
	if x.guest != "" {
		warning = fmt.Sprintf("this is a guest (%s): one that can be paused must not have a watchdog, because that stands still with it, and its silence would be taken for its death", x.guest)
	}
	return warning, err
}

// watchdogFacts is what is known of a device without opening it.
type watchdogFacts struct {
	lasting bool
	guest   string // why this machine is taken for a guest
}

func examineWatchdog(w fleet.Watchdog, sys, proc string) (x watchdogFacts, err error) {
	x.guest = guest(sys, proc)
	var st unix.Stat_t
	if err := unix.Stat(w.Device, &st); err != nil {
		return x, fmt.Errorf("watchdog %s: %w; is its module loaded (iTCO_wdt, sp5100_tco, ipmi_watchdog ...)?", w.Device, err)
	}
	// /dev/watchdog is another name of the first device.
	dir, major, minor := filepath.Join(sys, "class/watchdog/watchdog0"), unix.Major(st.Rdev), unix.Minor(st.Rdev)
	if !(major == 10 && minor == 130) {
		dir = filepath.Join(sys, "dev/char", fmt.Sprintf("%d:%d", major, minor))
	}
	identity, err := os.ReadFile(filepath.Join(dir, "identity"))
	if err != nil {
		return x, fmt.Errorf("watchdog %s: ask the kernel what it is: %w", w.Device, err)
	}
	nowayout, err := os.ReadFile(filepath.Join(dir, "nowayout"))
	if err != nil {
		return x, fmt.Errorf("watchdog %s: ask the kernel whether it can be stopped: %w", w.Device, err)
	}
	name := strings.TrimSpace(string(identity))
	x.lasting = strings.TrimSpace(string(nowayout)) == "1"
	switch {
	case w.Softdog:
	case name == softdog:
		return x, fmt.Errorf("watchdog %s is softdog, a timer of the kernel that hangs with it: right would be a device of the hardware, or softdog: true in the site's file if you know that", w.Device)
	case !x.lasting:
		return x, fmt.Errorf("watchdog %s (%s) can be stopped by whoever closes it: right would be nowayout, as options MODULE nowayout=1 in /etc/modprobe.d or 1 written to %s", w.Device, name, filepath.Join(dir, "nowayout"))
	}
	return x, nil
}

// guest says why this machine is taken for a virtual one; "" if it is not.
func guest(sys, proc string) string {
	for _, name := range []string{"sys_vendor", "product_name"} {
		raw, _ := os.ReadFile(filepath.Join(sys, "class/dmi/id", name)) // not there is not known
		for _, brand := range []string{"QEMU", "KVM", "VMware", "VirtualBox", "Xen", "Bochs", "Virtual Machine", "OpenStack", "Amazon EC2", "Google Compute"} {
			if strings.Contains(string(raw), brand) {
				return strings.TrimSpace(string(raw))
			}
		}
	}
	if raw, err := os.ReadFile(filepath.Join(proc, "cpuinfo")); err == nil {
		for line := range strings.Lines(string(raw)) {
			if key, flags, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "flags" && strings.Contains(flags+" ", " hypervisor ") {
				return "its processor says hypervisor"
			}
		}
	}
	return ""
}

// kernelWatchdog is an open device of the kernel's.
type kernelWatchdog int

func (d kernelWatchdog) SetTimeout(seconds int) error {
	return unix.IoctlSetPointerInt(int(d), unix.WDIOC_SETTIMEOUT, seconds)
}

func (d kernelWatchdog) Timeout() (int, error) {
	seconds, err := unix.IoctlGetUint32(int(d), unix.WDIOC_GETTIMEOUT)
	return int(int32(seconds)), err
}

func (d kernelWatchdog) Kick() error                 { return unix.IoctlWatchdogKeepalive(int(d)) }
func (d kernelWatchdog) Write(b []byte) (int, error) { return unix.Write(int(d), b) }
func (d kernelWatchdog) Close() error                { return unix.Close(int(d)) }
