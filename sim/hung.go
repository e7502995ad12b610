package sim

import (
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// mayHang says whether the processes of a unit can be stopped: it runs, or begins the
// cluster of which it is a member.
func (u *unit) mayHang() bool { return u.phase == fleet.Running || u.begins() }

func (u *unit) begins() bool {
	return u.of != nil && u.phase == fleet.Starting && u.working && u.verb == plan.VerbBootstrap
}

// hangFor is after how long its agent calls a unit stuck.
func (u *unit) hangFor() at {
	if u.begins() {
		return 30 * second
	}
	return 10 * second
}

// kill ends a member that hangs, and waits behind no other order.
func (a *agent) kill(d deed) {
	_, name, _ := strings.Cut(d.Order.Thing, "/")
	u := a.host.copy(name)
	s := a.host.site
	why := a.hand.Refuses(d.Order, a.host.clock())
	if why == "" {
		why = plan.Obstructed(&a.spec, d.Order, map[string]fleet.ServiceState{u.service.Name: u.state()})
	}
	if why != "" || u.of == nil {
		a.done(d, fleet.Broken, why)
		return
	}
	s.watch.kills(u)
	u.begun = append(u.begun, s.elapsed())
	u.life++
	life := u.life
	u.of.gone()
	u.of.killed = true
	u.set(fleet.Stopping)
	if u.working {
		u.answer("the unit failed")
	}
	// The kernel lets go of the memory of a large process late.
	s.after(s.between(10*millisecond, 2*second), func() {
		if !u.host.on {
			return
		}
		if u.life == life {
			u.set(fleet.Failed)
		}
		a.host.agentProcess.in(0, func() { a.operated(d, u, "") })
	})
}

// kills judges the end of a member by force: none that serves, and no two at once.
func (w *watch) kills(u *unit) {
	m := u.of
	if m.up() {
		w.fail("only what hangs is killed", "the member on %s works, and is killed", u.host.name)
	}
	for _, o := range w.site.cluster.copies {
		if o != m && o.u.host.on && o.u.phase == fleet.Stopping && o.killed {
			w.fail("one is killed at a time", "the member on %s is killed, and the one on %s dies yet", u.host.name, o.u.host.name)
		}
	}
	w.site.tell("the member of db on %s is killed after %v", u.host.name, time.Duration(w.site.now-u.hungSince).Round(time.Second))
}
