package sim

import (
	"cmp"
	"time"

	"mainstay/fleet"
)

// unit is one host's copy of a service, as systemd keeps it: it outlives the
// agent.
type unit struct {
	host       *host
	service    *fleet.Service
	phase      string
	generation uint64 // of the order that last started it; 0: nobody's
	hung       bool
	hungSince  at
	life       int // counts its starts: what was begun for an earlier one is void
	failStarts int // so many starts fail from now on
	slowStarts bool
	deafStops  bool  // a stop does not end it before it is killed
	begun      []at  // starts after a failure, for the restart budget
	pending    []job // orders are carried out one at a time
	working    bool
	jobs       int
	answer     func(err string) // to whoever waits for the one that is carried out
	promoted   bool             // of one in mode promoted
	turning    string           // the phase that it shows while it is promoted or demoted
	score      int              // how well it could be promoted
	of         *copyOf          // what it is as a member of a cluster; nil: it is none
	node       *broker          // what it is as a node of a RabbitMQ cluster; nil: it is none
	verb       fleet.Verb       // what is carried out, or was last
	mirror     *mirrorOf        // the disk that it shares with others; nil: none
}

// job is one order to a unit and who waits for its end.
type job struct {
	verb       fleet.Verb
	generation uint64
	epoch      uint64
	step, with string
	// refuses is asked right before the deed: what came first may have given the
	// generation up.
	refuses func() string
	done    func(err string)
}

// alive says whether a process of it runs.
func (u *unit) alive() bool {
	return u.phase == fleet.Running || u.phase == fleet.Starting || u.phase == fleet.Stopping
}

func (u *unit) exclusive() bool { return u.service.Mode == fleet.ActivePassive }

// compute says whether it is a nova-compute, which carries the bar as well.
func (u *unit) compute() bool { return u.service.Kind == "compute" }

// set changes the phase, tells the audits and lets the agent look.
func (u *unit) set(phase string) {
	was := u.alive()
	u.phase = phase
	if !u.alive() {
		u.hung, u.turning = false, ""
		u.setRole(false)
	}
	if is := u.alive(); is != was && u.exclusive() {
		u.host.site.watch.runs(u, is)
	}
	if u.compute() && phase == fleet.Running {
		u.host.site.nova.started(u.host)
	}
	u.host.site.stir(2 * time.Second)
	u.notice()
}

// notice lets the agent see the unit: systemd says at once that it changed.
func (u *unit) notice() {
	h := u.host
	if h.agent != nil {
		a := h.agent
		h.agentProcess.in(h.site.between(200*microsecond, 5*millisecond), func() { a.observe(u) })
	}
}

// boot is what systemd does by itself when the host starts: what is enabled and
// has no unmet condition is started.
func (u *unit) boot() {
	u.phase, u.hung, u.generation, u.begun, u.pending, u.working = fleet.Stopped, false, 0, nil, nil, false
	u.life++
	if u.promotable() {
		return // no unit of systemd's
	}
	if u.of != nil {
		u.of.gone()
		return // it carries the bar as well
	}
	if u.node != nil {
		u.node.gone()
		return // it is not enabled: Mainstay starts it
	}
	if !u.exclusive() && !u.compute() || !fleet.Armed(fleet.GuardBar) {
		life := u.life
		u.host.site.after(u.host.site.between(200*millisecond, second), func() {
			if u.life == life && u.host.on && u.phase == fleet.Stopped {
				u.start(func(string) {})
			}
		})
	} else {
		u.host.site.guard(fleet.GuardBar)
	}
}

func (u *unit) off() {
	u.life++
	u.pending, u.working = nil, false
	if u.alive() && u.exclusive() {
		u.host.site.watch.runs(u, false)
	}
	u.setRole(false)
	u.phase, u.hung, u.turning = fleet.Stopped, false, ""
	if u.mirror != nil {
		u.mirror.off()
	}
	if u.of != nil {
		u.of.gone()
	}
	if u.node != nil {
		u.node.gone()
	}
}

// start runs it: it takes a while and may fail.
func (u *unit) start(done func(err string)) {
	s := u.host.site
	if u.phase == fleet.Running {
		done("")
		return
	}
	if u.phase == fleet.Failed {
		u.begun = append(u.begun, s.elapsed())
	}
	u.life++
	life := u.life
	u.set(fleet.Starting)
	d := s.between(20*millisecond, 400*millisecond)
	if u.slowStarts {
		d += s.between(second, 4*second)
	}
	fails := u.failStarts > 0
	if fails {
		u.failStarts--
	}
	s.after(d, func() {
		if u.life != life || !u.host.on {
			return
		}
		if fails {
			u.set(fleet.Failed)
			done("the unit failed")
			return
		}
		u.set(fleet.Running)
		done("")
	})
}

// stop ends it.
func (u *unit) stop(done func(err string)) {
	s := u.host.site
	if !u.alive() {
		if u.phase == fleet.Failed {
			u.set(fleet.Stopped)
		}
		done("")
		return
	}
	u.life++
	life := u.life
	u.set(fleet.Stopping)
	d := s.between(10*millisecond, 300*millisecond)
	if u.deafStops || u.hung {
		d += s.between(2*second, 5*second) // until systemd kills it
	}
	s.after(d, func() {
		if u.life != life || !u.host.on {
			return
		}
		u.set(fleet.Stopped)
		u.generation = 0
		done("")
	})
}

// crash ends it as a fault of its own does.
func (u *unit) crash() {
	if !u.alive() || !u.host.on {
		return
	}
	u.life++
	if u.of != nil {
		u.of.gone()
	}
	if u.node != nil {
		u.node.gone()
	}
	u.set(fleet.Failed)
	if u.working {
		u.answer("the unit failed")
	}
}

// hang stops its processes; resume lets them go on.
func (u *unit) hang() {
	if u.mayHang() && !u.hung {
		u.hung, u.hungSince = true, u.host.site.now
		u.notice()
		life := u.life
		u.host.site.after(u.hangFor()+second, func() { // the time after which it is stuck
			if u.life == life && u.hung {
				u.notice()
			}
		})
	}
}

func (u *unit) resume() {
	if u.hung {
		u.hung = false
		u.notice()
	}
}

// operate carries out an order, after those before it.
func (u *unit) operate(j job) {
	u.pending = append(u.pending, j)
	u.work()
}

func (u *unit) work() {
	if u.working || len(u.pending) == 0 || !u.host.on {
		return
	}
	j := u.pending[0]
	u.pending = u.pending[1:]
	u.working, u.verb = true, j.verb
	life := u.host.boot
	u.jobs++
	number := u.jobs
	done := func(err string) {
		if u.host.boot != life || !u.host.on || u.jobs != number || !u.working {
			return
		}
		u.working = false
		j.done(err)
		u.host.agentProcess.in(0, u.work)
	}
	u.answer = done
	if why := j.refuses(); why != "" {
		u.host.site.guard(fleet.GuardStint)
		done(why)
		return
	}
	u.host.site.watch.stands(u, j)
	if u.of != nil {
		u.of.operate(j, done)
		return
	}
	if u.node != nil {
		u.node.operate(j, done)
		return
	}
	switch j.verb {
	case fleet.VerbStart:
		if u.exclusive() {
			u.host.site.watch.starts(u, j.generation)
			u.generation = j.generation
		}
		u.start(done)
	case fleet.VerbRestart:
		u.begun = append(u.begun, u.host.site.elapsed())
		u.stop(func(string) {
			u.generation = j.generation
			u.start(done)
		})
	case fleet.VerbStop:
		u.stop(done)
	case fleet.VerbPromote, fleet.VerbDemote:
		u.turn(j.verb, j.generation, done)
	}
}

// state is what the agent finds when it looks.
func (u *unit) state() fleet.ServiceState {
	s := u.host.site
	st := fleet.ServiceState{Phase: u.phase, Ready: u.phase == fleet.Running && !u.hung, Role: u.role()}
	if u.promotable() && u.alive() {
		st.Phase, st.Score = cmp.Or(u.turning, u.phase), u.score
		if u.mirror != nil {
			st.Mirror = u.mirror.state(s.mirror)
			if u.mirror.stale {
				st.Score = 0
			}
		}
	}
	for _, when := range u.begun {
		if s.elapsed()-when < at(u.service.Restarts.Within) || u.service.Restarts.Within == 0 && s.elapsed()-when < 60*second {
			st.Restarts++
		}
	}
	if u.of != nil {
		st.Replica = u.of.replica()
		st.Ready = st.Replica.Part == fleet.PartSynced
		if u.hung && u.mayHang() && s.now-u.hungSince >= u.hangFor() {
			st.Hung, st.Stuck, st.Why = true, true, "no answer, no request finished, no CPU used"
		}
		return st
	}
	if u.node != nil {
		st = u.node.state(st)
	}
	if u.hung && u.phase == fleet.Running {
		st.Hung, st.Why = true, "no answer, no request finished, no CPU used"
		st.Stuck = s.now-u.hungSince >= 10*second
	}
	return st
}
