package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
	"mainstay/probe/kdump"
)

// hearDumps listens for crash kernels while the site's file says that some host has one.
func (a *Agent) hearDumps(ctx context.Context) {
	told := ""
	for {
		if a.mayDump() {
			while, cancel := context.WithCancel(ctx)
			go func() { // the file may be changed
				defer cancel()
				for a.mayDump() && pause(while, lease.DumpSays) {
				}
			}()
			err := kdump.Listen(while, fmt.Sprintf(":%d", kdump.Port), a.dumps)
			if err != nil && while.Err() == nil && err.Error() != told {
				told = err.Error()
				slog.Error("no crash kernel is heard", "err", err)
			}
			cancel()
		}
		if !pause(ctx, lease.DumpSays) {
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
		if a.dumped.Heard(h.Name, a.cfg.Now(), a.cfg.Wall(), a.ear) {
			a.poke(a.tell)
		}
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
