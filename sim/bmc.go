package sim

import (
	"fmt"
	"slices"
	"time"

	"mainstay/fleet"
)

// bmc is a host's power switch and the machine that answers for it.
type bmc struct {
	host *host
	uuid string // of the machine it is in; swapped cables change it
	// power is what it would do and say by itself.
	power bool
	dead  bool // it lost power together with its host, or its network is cut
	lose  int  // of a thousand answers
	slow  at   // how much longer an off takes
	lies  bool // it says off although the host is on
	late  bool // it says whose it is and does as it is told, and its answers come after the deadline
	shut  bool // it refuses the password
	// wrong is the host that hangs on this plug in truth; the plug knows no machine.
	wrong *host
	again bool // a power policy turns the host on a while after an off
	stray int  // offs on their way
	done  at   // when the last of them will be carried out: it obeys in the order it is told
	lost  int  // how often the machine went off: what it was told to do before is done with
}

// how an answer of a BMC failed.
const (
	lost     = "its answer was lost"
	denied   = "it refuses the password"
	deadline = 3 * second
)

// call reaches the device: the answer comes after a while, or never.
func (b *bmc) call(from *process, do func() string, answer func(value string, err string)) {
	s := b.host.site
	there, back := s.between(2*millisecond, 30*millisecond), s.between(2*millisecond, 30*millisecond)
	gone, life := b.dead, from.life
	noAnswer := s.chance(b.lose)
	s.after(there, func() {
		if gone || b.dead {
			if !gone && !noAnswer { // it died while it was called
				from.in(deadline-there, func() { answer("", lost) })
			}
			return
		}
		v, err := "", denied
		if !b.shut {
			v, err = do(), ""
		}
		if b.late && v != b.uuid && !noAnswer {
			from.in(deadline-there, func() { answer("", lost) })
			return
		}
		if !noAnswer {
			from.in(back, func() {
				if from.life == life {
					answer(v, err)
				}
			})
		}
	})
	if gone || noAnswer {
		from.in(deadline, func() { answer("", lost) })
	}
}

func (b *bmc) off() string {
	s := b.host.site
	if b.wrong != nil {
		s.after(s.between(20*millisecond, 300*millisecond), func() {
			s.tell("%s is switched off by the plug of %s", b.wrong.name, b.host.name)
			b.wrong.powerOff()
		})
		return "ok"
	}
	if !b.host.on && !b.host.posting && !b.lies && b.uuid == b.host.uuid {
		return "ok" // of a machine that is off already there is nothing to do later
	}
	d := s.between(20*millisecond, 300*millisecond) + b.slow
	b.stray++
	b.done = max(b.done, s.now+d)
	lost := b.lost
	s.after(d, func() {
		b.stray--
		if b.lost != lost {
			return
		}
		if b.lies || b.uuid != b.host.uuid {
			return // another machine went off, or none
		}
		if b.host.on {
			s.watch.fenced(b.host)
			s.tell("%s is switched off by its BMC", b.host.name)
			b.host.powerOff()
		}
		s.watch.dumpCut(b.host)
		b.host.posting, b.host.dumping, b.power = false, false, false
		if b.again {
			s.after(s.between(300*millisecond, 3*second), func() {
				if !b.host.on && !b.dead {
					s.tell("a power policy turns %s on again", b.host.name)
					b.host.powerOn()
				}
			})
		}
	})
	return "ok"
}

func (b *bmc) state() string {
	if b.wrong != nil {
		if b.wrong.on {
			return "on"
		}
		return "off"
	}
	if (b.host.on || b.host.posting) && !b.lies && b.uuid == b.host.uuid {
		return "on"
	}
	return "off"
}

// prover is one fence order on its way, step by step as fence.Prove takes them.
type prover struct {
	site   *Site
	by     *host
	victim *host
	order  fleet.Order
	uuid   string // as the victim reported it
	done   func(*fleet.Proof, fleet.Outcome, string)
	given  fleet.Moment
	// may says whether one of a pair may still send it; nil: a leader's order.
	may func() bool
	// others is who was heard well before the order, where the device knows no machine.
	others map[string]fleet.Moment
}

// latest is fence.Latest.
const latest = 24 * time.Second

// still says whether the order may be carried out, as package node and agent ask right
// before each off.
func (p *prover) still() bool {
	if p.may != nil {
		return p.may()
	}
	a, now := p.by.agent, p.by.clock()
	return a.lead.holds(now) && p.by.member.state().Epoch == p.order.Epoch && now.Sub(p.given) <= latest && a.hand.Refuses(p.order, now) == ""
}

func (h *host) beatsOf(victim, boot string) fleet.Moment {
	if h.agent == nil || h.agent.ear == nil {
		return 0
	}
	row, _ := h.agent.ear.Row(fleet.Stint{Host: victim, Boot: boot})
	return row.Heard
}

// heardWell is Agent.Others: when each other host that is heard well was last heard.
func (h *host) heardWell(but *host) map[string]fleet.Moment {
	out, now := map[string]fleet.Moment{}, h.clock()
	for i := range h.agent.senses {
		from, x := h.site.hosts[i], &h.agent.senses[i]
		if from == h || from == but || !x.seen {
			continue
		}
		if last := slices.Max(x.nets); now.Sub(last) < 3*from.every {
			out[from.name] = last
		}
	}
	return out
}

// fallen is Agent.Fallen.
func (a *agent) fallen(but *host, boot string) string {
	meant, _ := a.ear.Row(fleet.Stint{Host: but.name, Boot: boot})
	for _, h := range a.host.site.hosts {
		var last fleet.Moment
		if boots := a.ear.Boots(h.name); len(boots) > 0 {
			last = boots[0].Heard
		}
		if h != but && h != a.host && a.host.clock().Sub(last) >= 3*h.every && !last.Before(meant.Heard) {
			return h.name
		}
	}
	return ""
}

// fence carries out fence, confirm and power-on.
func (a *agent) fence(o fleet.Order, done func(*fleet.Proof, fleet.Outcome, string)) {
	s := a.host.site
	victim := s.names[o.Target.Host]
	state := a.host.member.state()
	p := &prover{site: s, by: a.host, victim: victim, order: o, uuid: state.Members[victim.name].UUID, done: done, given: a.host.clock()}
	s.stir(fenceStir)
	switch o.Verb {
	case fleet.VerbPowerOn:
		p.same(func() {
			p.device().call(&a.host.agentProcess, func() string {
				s.tell("%s is switched on by its BMC", victim.name)
				s.after(max(p.device().done-s.now, 0)+victim.bootTime(), func() {
					if !p.device().dead {
						victim.powerOn()
					}
				})
				return "ok"
			}, func(_, err string) {
				if err != "" {
					done(nil, fleet.NoWord, err)
					return
				}
				done(nil, fleet.Done, "")
			})
		})
	case fleet.VerbConfirm:
		before := a.host.beatsOf(victim.name, o.Target.Boot)
		p.same(func() {
			p.state(func(v string) {
				switch {
				case v != "off":
					s.guard(fleet.GuardProof)
					done(nil, fleet.Broken, "it says "+v+": somebody or something turned the host on again")
				case a.host.beatsOf(victim.name, o.Target.Boot) != before:
					done(nil, fleet.NoWord, "the host still beats")
				default:
					proof := state.Proofs[victim.name]
					done(&proof, fleet.Done, "")
				}
			})
		})
	default:
		p.same(func() { p.off(1) })
	}
}

const fenceStir = 4e9

// device is the power switch of the order's level.
func (p *prover) device() *bmc {
	if p.order.Level > 0 {
		return &p.victim.second
	}
	return &p.victim.bmc
}

func (p *prover) call(do func() string, answer func(v, err string)) {
	p.device().call(&p.by.agentProcess, do, answer)
}

// same compares the machine.
func (p *prover) same(next func()) {
	if !fleet.Armed(fleet.GuardProof) {
		next()
		return
	}
	if p.device().wrong != nil {
		if p.others == nil {
			if fallen := p.by.agent.fallen(p.victim, p.order.Target.Boot); fallen != "" {
				p.site.guard(fleet.GuardProof)
				p.done(nil, fleet.Broken, "its plug knows no machine, and fell silent since it did: "+fallen)
				return
			}
			p.others = p.by.heardWell(p.victim)
		}
		next()
		return
	}
	p.call(func() string { return p.device().uuid }, func(v, err string) {
		switch {
		case err == denied:
			p.done(nil, fleet.Refused, err)
		case err != "":
			p.done(nil, fleet.NoWord, err)
		case v != p.uuid:
			p.site.guard(fleet.GuardProof)
			p.done(nil, fleet.Refused, fmt.Sprintf("the device holds machine %s, and %s is machine %s", v, p.victim.name, p.uuid))
		default:
			next()
		}
	})
}

// later says whether the ear has heard a later boot: then the one that was meant
// is dead already, and an off would kill a healthy host.
func (p *prover) later() bool {
	if p.by.agent.ear == nil {
		return false
	}
	boots := p.by.agent.ear.Boots(p.victim.name)
	return len(boots) > 0 && boots[0].Stint.Boot != p.order.Target.Boot && boots[0].Heard != 0
}

func (p *prover) off(tries int) {
	if p.later() {
		p.done(nil, fleet.Refused, "a later boot of it speaks: that is proof enough")
		return
	}
	if !p.still() {
		outcome := fleet.Refused
		if tries == 0 {
			outcome = fleet.NoWord // the first may have been carried out
		}
		p.done(nil, outcome, "this host does not lead in that epoch any more")
		return
	}
	p.site.watch.offOrdered(p.victim, p.order.Target.Boot, tries == 1)
	p.call(p.device().off, func(_, err string) {
		switch {
		case err != "" && tries > 0:
			p.off(tries - 1)
		case err != "":
			p.done(nil, fleet.NoWord, err)
		default:
			p.until(p.site.now + 2*deadline)
		}
	})
}

func (p *prover) until(end at) {
	p.call(p.device().state, func(v, err string) {
		switch {
		case err == "" && v == "off":
			p.twice()
		case p.site.now > end:
			p.done(nil, fleet.NoWord, "it acknowledged and still says "+v+err)
		default:
			p.by.agentProcess.in(200*millisecond, func() { p.until(end) })
		}
	})
}

func (p *prover) state(next func(v string)) {
	p.call(p.device().state, func(v, err string) {
		if err != "" {
			p.done(nil, fleet.NoWord, err)
			return
		}
		next(v)
	})
}

// twice asks again a second later, compares the machine again, and listens.
func (p *prover) twice() {
	proof := &fleet.Proof{Host: p.victim.name, Boot: p.order.Target.Boot, Kind: "fence", Level: p.order.Level, By: p.by.name, At: p.by.wall(),
		Evidence: "its BMC said off twice, a second apart"}
	if !fleet.Armed(fleet.GuardProof) {
		p.done(proof, fleet.Done, "")
		return
	}
	before := p.by.beatsOf(p.victim.name, p.order.Target.Boot)
	var since map[string]fleet.Moment
	if len(p.others) > 0 {
		p.by.agentProcess.in(200*millisecond, func() { since = p.by.heardWell(p.victim) })
	}
	p.by.agentProcess.in(p.by.span(1e9), func() {
		p.state(func(v string) {
			if v != "off" {
				p.site.guard(fleet.GuardProof)
				p.done(nil, fleet.Broken, "it said off, and a second later "+v)
				return
			}
			p.same(func() {
				p.company(since, func() {
					if p.by.beatsOf(p.victim.name, p.order.Target.Boot) != before {
						p.site.guard(fleet.GuardProof)
						p.done(nil, fleet.NoWord, "the device says off, but the host still beats")
						return
					}
					p.done(proof, fleet.Done, "")
				})
			})
		})
	})
}

// company is fence.company: a plug that knows no machine has perhaps silenced another.
func (p *prover) company(since map[string]fleet.Moment, then func()) {
	well := p.by.heardWell(p.victim)
	for _, name := range fleet.Sorted(p.others) {
		switch n, still := well[name]; {
		case !still:
			p.site.guard(fleet.GuardProof)
			p.done(nil, fleet.NoWord, name+" was heard well before the order and has fallen silent since: is it the machine on that plug?")
			return
		case n == since[name]:
			p.by.agentProcess.in(200*millisecond, func() { p.company(since, then) })
			return
		}
	}
	then()
}
