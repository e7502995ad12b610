package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"mainstay/fleet"
	"mainstay/probe/kdump"
)

// dumpOver is how long after its last word a dump is over.
const dumpOver = 3 * kdump.Every

// bootsLeast is the least time from a host's last beat to the first word of its crash kernel.
const bootsLeast = 3 * time.Second

// dump is what a voter has heard of a host's crash kernel.
type dump struct {
	since time.Time // by this host's wall clock
	last  fleet.Moment
}

// hearDumps listens for crash kernels while the site's file says that some host has one.
func (a *Agent) hearDumps(ctx context.Context) {
	told := ""
	for {
		if a.mayDump() {
			while, cancel := context.WithCancel(ctx)
			go func() { // the file may be changed
				defer cancel()
				for a.mayDump() && pause(while, kdump.Every) {
				}
			}()
			err := kdump.Listen(while, fmt.Sprintf(":%d", kdump.Port), a.dumps)
			if err != nil && while.Err() == nil && err.Error() != told {
				told = err.Error()
				slog.Error("no crash kernel is heard", "err", err)
			}
			cancel()
		}
		if !pause(ctx, kdump.Every) {
			return
		}
	}
}

// pause returns false if ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (a *Agent) mayDump() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.spec.Hosts, func(h fleet.Host) bool { return h.Kdump > 0 })
}

// dumps takes the word of a crash kernel.
func (a *Agent) dumps(from netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.spec.Hosts {
		h := &a.spec.Hosts[i]
		if h.Kdump == 0 || !a.owns(h, from) {
			continue
		}
		now := a.cfg.Now()
		if a.ear != nil {
			// No crash kernel boots so soon after the last beat: somebody tries the program.
			if rows := a.ear.Boots(h.Name); len(rows) > 0 && now.Sub(rows[0].Heard) < bootsLeast {
				return
			}
		}
		d, known := a.dumped[h.Name]
		if !known || now.Sub(d.last) >= dumpOver {
			d.since = a.cfg.Wall().Round(0)
			a.poke(a.tell)
		}
		d.last = now
		if a.dumped == nil {
			a.dumped = map[string]dump{}
		}
		a.dumped[h.Name] = d
		return
	}
}

func (a *Agent) owns(h *fleet.Host, from netip.Addr) bool {
	for _, own := range h.Addresses { // in whatever order: any will do
		if own == from.WithZone("") {
			return true
		}
	}
	return false
}

// dumping is what this voter says of crash kernels: what is not over, and of no host that has
// been heard since. The caller holds the lock.
func (a *Agent) dumping(now fleet.Moment) (out map[string]time.Time) {
	for host, d := range a.dumped { // in whatever order: a map is filled
		if now.Sub(d.last) >= dumpOver {
			delete(a.dumped, host)
			continue
		}
		if a.ear != nil {
			if rows := a.ear.Boots(host); len(rows) > 0 && rows[0].Heard.After(d.last) {
				continue
			}
		}
		if out == nil {
			out = map[string]time.Time{}
		}
		out[host] = d.since
	}
	return out
}
