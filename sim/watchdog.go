package sim

import (
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// watchdog is a host's watchdog: it resets the host when it was not kicked for its
// time-out, whatever has become of the agent or of all else that runs there. It is
// hardware, and stands still only with the whole machine.
type watchdog struct {
	host    *host
	timeout time.Duration // 0: the host has none
	armed   bool
	fires   at
	looks   bool // a look at it is on its way
	stood   at   // since when it has been standing still
	// freezeFor freezes the agent between its next look at the lease and its kick.
	freezeFor at
}

// kick arms it or winds it up again. It is up to half a second late: devices count in
// ticks.
func (w *watchdog) kick() {
	s := w.host.site
	w.armed, w.fires = true, s.now+w.host.span(w.timeout)+s.between(0, 500*millisecond)
	w.await()
}

func (w *watchdog) await() {
	if w.looks || !w.armed {
		return
	}
	w.looks = true
	w.host.site.after(w.fires-w.host.site.now, func() {
		w.looks = false
		switch {
		case !w.armed || w.host.suspended: // wake awaits it anew
		case w.host.site.now < w.fires:
			w.await()
		default:
			w.reset()
		}
	})
}

// reset is what it is for: the machine loses all and boots.
func (w *watchdog) reset() {
	h := w.host
	h.site.tell("%s is reset by its watchdog", h.name)
	h.powerOff()
	h.posting = true
	h.site.after(h.bootTime(), func() {
		if h.posting {
			h.powerOn()
		}
	})
}

func (w *watchdog) wake(away at) {
	w.fires += away
	w.await()
}

// overdue says that it has not been kicked for a while.
func (w *watchdog) overdue() bool {
	return w.armed && w.fires-w.host.site.now < at(w.timeout)/2
}

// awaitsContract says that a silence of the host is to become a proof.
func (s *Site) awaitsContract(h *host) bool {
	if h.watchdog.timeout == 0 || h.on && !h.agentProcess.stopped() && h.agent != nil && h.agent.hand.Leased(h.clock()) {
		return false
	}
	state := s.quorum.newest()
	for _, thing := range fleet.Sorted(state.Holdings) {
		if x := state.Holdings[thing]; x.Host == h.name && x.Watchdog > 0 && state.Proofs[h.name].Boot != x.Boot {
			return true
		}
	}
	return false
}

// guardLife kicks the host's watchdog as often as package agent does, by the same rule.
func (a *agent) guardLife() {
	w := &a.host.watchdog
	if w.timeout == 0 {
		return
	}
	s, proc := a.host.site, &a.host.agentProcess
	proc.in(at(w.timeout)/plan.Kicks, a.guardLife)
	if ok, _ := a.hand.MayKick(a.host.clock(), &a.spec, a.services); !ok {
		s.guard(fleet.GuardWatchdog)
		return
	}
	if w.freezeFor > 0 {
		proc.freeze()
		s.after(w.freezeFor, proc.thaw)
		w.freezeFor = 0
	}
	proc.in(s.between(20*microsecond, 200*microsecond), func() {
		w.kick()
		if a.watchdog != w.timeout {
			a.watchdog = w.timeout
			a.hand.Arm(w.timeout)
			a.poke()
		}
	})
}
