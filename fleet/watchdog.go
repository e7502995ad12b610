package fleet

import (
	"path"
	"time"
)

// Watchdog is a host's watchdog: a device that resets the host when nobody has kicked
// it for Timeout. By docs/DESIGN.md section 3 rule 7 it is kicked only under a lease, or
// while the host holds no service; so its long silence proves that a host has died by it.
type Watchdog struct {
	// Device is its path, /dev/watchdog; empty: the host has none.
	Device string `json:"device,omitempty"`
	// Timeout is what the device is told, in whole seconds; what counts is what is read
	// back from it.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Softdog allows the kernel's own timer in place of a device, and one that can be
	// stopped again (no nowayout).
	Softdog bool `json:"softdog,omitempty"`
}

// The time-out that holds where the site's file names none, and those that may be named: a
// host that loses its lease for a moment must have it again well before it is reset, and
// many devices count no further than 255 s.
const (
	WatchdogTimeout = 10 * time.Second
	watchdogLeast   = 5 * time.Second
	watchdogMost    = 255 * time.Second
)

// Outlived is after how long a silence of a boot its host is dead by the contract of its
// watchdog: by then the lease has ended, a kick that was under way has been the last one
// (HOLES 35: frozen between the look at the lease and the deed, for just less than the
// time-out), and the device has fired. lease is the host's, wd the device's time-out.
// The factor covers clocks that run at different speeds, the second what the device is
// late.
func Outlived(lease, wd time.Duration) time.Duration {
	return (lease+2*wd)*11/10 + time.Second
}

// watchdog reads a host's watchdog.
func (r *reader) watchdog(f field) Watchdog {
	w := Watchdog{Timeout: WatchdogTimeout}
	r.record(f, "{device: /dev/watchdog}", []column{
		{"device", r.text(&w.Device, "the path of a device such as /dev/watchdog")},
		{"timeout", r.span(&w.Timeout)},
		{"softdog", r.flag(&w.Softdog)},
	})
	return w
}

// kdump checks a host's word for its crash kernel.
func (c *checker) kdump(h Host) {
	at := "hosts/" + h.Name + "/kdump"
	switch {
	case h.Kdump < 0:
		c.fault(at, "kdump", h.Kdump.String(), "is no time", "60s, or what its crash kernel takes from the crash to its first word")
	case h.Kdump > 5*time.Minute:
		c.fault(at, "kdump", h.Kdump.String(), "keeps what it ran alone down for so long whenever the host just loses its power", "5m0s at most; 60s is fence_kdump's own")
	case h.Kdump > 0 && h.Watchdog.Device != "":
		c.warn(at, "kdump", h.Kdump.String(), "and its watchdog contradict each other: the device resets the host in the midst of its dump", "one of the two")
	}
}

// watchdog checks a host's watchdog.
func (c *checker) watchdog(h Host) {
	w, at := h.Watchdog, "hosts/"+h.Name+"/watchdog"
	if w == (Watchdog{}) {
		return
	}
	if w.Device == "" {
		c.fault(at+"/device", "watchdog", "", "is missing", "device: /dev/watchdog")
	} else if !path.IsAbs(w.Device) {
		c.fault(at+"/device", "watchdog", w.Device, "is not the path of a device", "device: /dev/watchdog")
	}
	_, lease := c.s.Beats(h)
	least := max(watchdogLeast, (3*lease).Truncate(time.Second)+time.Second)
	switch {
	case w.Timeout%time.Second != 0:
		c.fault(at+"/timeout", "watchdog", w.Timeout.String(), "is not whole seconds, and a watchdog counts no others", w.Timeout.Truncate(time.Second).String())
	case w.Timeout < least:
		c.fault(at+"/timeout", "watchdog", w.Timeout.String(), "would reset the host before it can have its lease again after a short cut", least.String()+" or more; "+WatchdogTimeout.String()+" if left out")
	case w.Timeout > watchdogMost:
		c.fault(at+"/timeout", "watchdog", w.Timeout.String(), "is longer than many devices can count", watchdogMost.String()+" at most")
	}
}
