package sim

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
	"mainstay/plan"
)

// leader is the turn of one host, as package leader runs it: look, think,
// commit, ask, order, and the lead checked again before each.
type leader struct {
	agent   *agent
	reigns  uint64 // counts the reigns of this process
	on      bool
	raising bool
	busy    bool // a commit is on its way
	again   bool // news came meanwhile
	coming  bool // a turn is about to start
	timer   uint64
	epoch   uint64
	since   fleet.Moment
	rounds  map[string]fleet.Round
	flights map[string]fleet.Flight
	told    map[string]string
	// verdicts is what was last told of each host.
	verdicts map[string]string
	pending  int          // events that are not written yet
	held     fleet.Moment // since when they wait
	plan     fleet.Plan
	seen     fleet.Cloud // of OpenStack, by its newest look
	tally    fleet.Tally
	calm     int // turns in a row that had nothing to do
}

const opDeadline = 5 * time.Second

// elected begins a reign: the epoch is raised before anything else.
func (l *leader) elected() {
	a := l.agent
	if a == nil || l.on || l.raising || !a.lead.holds(a.host.clock()) {
		return
	}
	h := a.host
	l.raising = true
	l.since = h.clock()
	before := h.member.state().Epoch
	h.member.propose(&write{raise: true, epoch: before, host: h.name}, opDeadline, func(ok, known bool) {
		l.raising = false
		if !ok {
			if a.lead.holds(h.clock()) {
				h.agentProcess.in(5*millisecond, l.elected)
			}
			return
		}
		l.on, l.busy, l.again, l.coming = true, false, false, false
		l.reigns++
		l.epoch = before + 1
		l.rounds, l.flights, l.told = map[string]fleet.Round{}, map[string]fleet.Flight{}, map[string]string{}
		l.verdicts = map[string]string{}
		l.pending, l.held, l.calm = 1, 0, 0
		l.seen, l.plan = fleet.Cloud{}, fleet.Plan{}
		h.site.tell("%s leads in epoch %d", h.name, l.epoch)
		l.watchCloud(l.reigns, -cloudIdle)
		l.tally = fleet.Tally{}
		l.watchStock(l.reigns, -stockIdle)
		l.turn()
	})
}

// resign ends the reign; whoever leads next decides afresh.
func (l *leader) resign(why string) {
	h := l.agent.host
	l.on = false
	l.reigns++
	if why == lostLead {
		h.site.guard(fleet.GuardLeadRead)
	}
	h.site.tell("%s leads no longer: %s", h.name, why)
	h.agentProcess.in(millisecond, l.elected)
}

const lostLead = "the lead is not confirmed any more"

// news starts a turn, unless one is going on: then the next follows it.
func (l *leader) news() {
	if l.agent == nil || !l.on {
		return
	}
	if l.busy {
		l.again = true
		return
	}
	l.soon(l.agent.host.site.between(100*microsecond, millisecond))
}

func (l *leader) soon(d at) {
	if l.coming {
		return
	}
	l.coming = true
	reign := l.reigns
	l.agent.host.agentProcess.in(d, func() {
		if l.reigns != reign || !l.on || !l.coming {
			return
		}
		if l.busy { // one turn at a time
			l.coming, l.again = false, true
			return
		}
		l.turn()
	})
}

func (l *leader) holds() bool { return l.agent.lead.holds(l.agent.host.clock()) }

// turn looks, thinks and acts once.
func (l *leader) turn() {
	h := l.agent.host
	s := h.site
	l.coming, l.again = false, false
	l.timer++
	if !l.holds() {
		l.resign(lostLead)
		return
	}
	s.count.turns++
	s.watch.turns()
	now := h.clock()
	w, p := plan.Turn(l.look(now))
	l.plan = p
	l.note(w, p)
	orders := func() {
		for _, r := range p.Asks {
			l.rounds[r.Stint.Host] = r
			l.once(fmt.Sprintf("round/%s/%d", r.Stint.Host, r.Stint.N), true, "every ear is %s", lease.Question(r.Stint))
			l.agent.ask(l.epoch, r)
		}
		for _, o := range p.Orders {
			if !l.dispatch(o) {
				return
			}
		}
		if len(p.Records) > 0 {
			l.soon(0)
			return
		}
		l.flush(w, p, now)
	}
	if len(p.Records) == 0 {
		orders()
		return
	}
	if !fleet.Armed(fleet.GuardRecordFirst) {
		for _, o := range p.Orders {
			if !l.dispatch(o) {
				return
			}
		}
		p.Orders = nil
	}
	s.guard(fleet.GuardRecordFirst)
	l.commit(p.Records, orders)
}

// commit writes under the epoch, and goes on if the reign does.
func (l *leader) commit(records []fleet.Record, next func()) {
	h := l.agent.host
	if !l.holds() {
		l.resign(lostLead)
		return
	}
	l.busy, l.pending, l.held = true, 0, 0
	reign := l.reigns
	h.member.propose(&write{epoch: l.epoch, records: records, host: h.name, ears: l.agent.spec.Voters()}, opDeadline, func(ok, known bool) {
		if l.reigns != reign {
			return
		}
		l.busy = false
		if !ok {
			why := "its commit was refused"
			if !known {
				why = "nobody knows what became of its commit"
			}
			l.resign(why)
			return
		}
		next()
	})
}

// flush writes what was noted without a record, and rests. While a decision about a
// host's life is about to fall the notes wait a little.
func (l *leader) flush(w fleet.World, p fleet.Plan, now fleet.Moment) {
	if l.pending == 0 {
		l.rest(p, now)
		return
	}
	if l.held == 0 {
		l.held = now
	}
	t := w.Spec.Timing
	w.Rounds, w.Flights = l.rounds, l.flights // with those of this turn
	if until := l.held.Add(t.Silence(fleet.GuardLate) + t.Lease); now.Before(until) && plan.Urgent(w) {
		if p.Wake == 0 || until.Before(p.Wake) {
			p.Wake = until
		}
		l.rest(p, now)
		return
	}
	l.commit(nil, func() { l.rest(p, now) })
}

// rest waits for news or for the moment that the plan names.
func (l *leader) rest(p fleet.Plan, now fleet.Moment) {
	if l.again {
		l.soon(0)
		return
	}
	wake := now.Add(time.Second)
	if p.Wake != 0 && p.Wake.Before(wake) {
		wake = p.Wake
	}
	l.timer++
	timer, reign := l.timer, l.reigns
	l.agent.host.agentProcess.on(wake, func() {
		if l.on && l.reigns == reign && l.timer == timer && !l.busy {
			l.turn()
		}
	})
}

// rests says whether the leader has come to rest: several turns in a row brought
// nothing new, no order is on its way and none is to be tried again after a while.
func (l *leader) rests() bool {
	h := l.agent.host
	if l.busy || l.calm < 4 || !l.holds() || h.clock().Sub(l.since) < 4*time.Second {
		return false
	}
	for _, f := range l.flights {
		if f.Effect == nil || f.Effect.Outcome != fleet.Done && h.clock().Sub(f.Arrived) < min(30*time.Second, time.Second<<min(f.Tries, 5)) {
			return false
		}
	}
	return true
}

// look gathers the World. A turn is over before anything else happens, so its maps
// are the leader's own.
func (l *leader) look(now fleet.Moment) fleet.World {
	a := l.agent
	h := a.host
	for key, f := range l.flights {
		if f.Effect != nil && now.Sub(f.Arrived) > time.Minute {
			delete(l.flights, key)
		}
	}
	return fleet.World{
		Spec: a.spec, Now: now, Wall: h.wall(), Leader: h.name, Epoch: l.epoch, Since: l.since,
		State: h.member.state(), Reports: a.desk.reports, Told: a.desk.told, Heard: a.heard(), Rounds: l.rounds, Flights: l.flights, Cloud: l.seen, Tally: l.tally,
	}
}

// answered counts an ear's promise.
func (l *leader) answered(ear string, epoch uint64, asked fleet.Round, why string, silent time.Duration) {
	if l.agent == nil || !l.on || epoch != l.epoch {
		return
	}
	r, ok := l.rounds[asked.Stint.Host]
	if !ok || r.Number != asked.Number || r.Stint != asked.Stint || r.Over {
		return
	}
	promised := make(map[string]fleet.Moment, len(r.Promised)+1)
	for e, at := range r.Promised {
		promised[e] = at
	}
	if _, known := promised[ear]; !known {
		promised[ear] = l.agent.host.clock()
		l.once(fmt.Sprintf("round/%s/%d/%s", r.Stint.Host, r.Stint.N, ear), true, "%s %s: %s", ear, lease.Answer(r.Stint), why)
	}
	r.Promised = promised
	if r.Stint.N == lease.AnyStint {
		r.Silent = maps.Clone(r.Silent)
		if r.Silent == nil {
			r.Silent = map[string]time.Duration{}
		}
		r.Silent[ear] = silent
	}
	now := l.agent.host.clock()
	heard, _ := l.agent.ear.Newest(r.Stint.Host, now)
	r.Over = lease.Over(r, l.agent.spec.Voters(), l.agent.spec.Timing, heard.Late, now)
	l.rounds[asked.Stint.Host] = r
	l.news()
}

// dispatch sends an order and remembers that it is on its way. The lead was
// checked; what happens between the check and the sending, happens.
func (l *leader) dispatch(o fleet.Order) bool {
	h := l.agent.host
	now := h.clock()
	if !l.holds() {
		l.resign(lostLead)
		return false
	}
	f := l.flights[o.Key]
	o.Try = f.Tries + 1
	f.Order, f.Sent, f.Effect, f.Arrived, f.Tries = o, now, nil, 0, f.Tries+1
	l.flights[o.Key] = f
	l.once("order/"+o.Key, aloud(o.Verb), "%s shall %s %s: %s", o.To, deedOf(o), about(o), o.Why)
	h.site.watch.ordered(h, o)
	reign := l.reigns
	h.agentProcess.in(h.site.between(20*microsecond, 200*microsecond), func() {
		if l.reigns != reign && o.To != h.name {
			return // its context has ended
		}
		l.send(o, reign)
	})
	return true
}

func about(o fleet.Order) string {
	if o.Target.Host != "" {
		return "host/" + o.Target.Host
	}
	return o.Thing
}

// aloud says whether an order is worth a line in the log.
func aloud(v fleet.Verb) bool {
	return v != fleet.VerbRoute && v != fleet.VerbSever && v != plan.VerbInventory
}

// patience is how long the effect of an order is waited for.
func patience(v fleet.Verb) at {
	switch v {
	case fleet.VerbStart, fleet.VerbStop, fleet.VerbRestart, fleet.VerbPromote, fleet.VerbDemote, plan.VerbJoin, plan.VerbPosition, plan.VerbBootstrap, plan.VerbKill:
		return 1500 * second
	case fleet.VerbFence, fleet.VerbConfirm, fleet.VerbPowerOn:
		return 120 * second
	case fleet.VerbClaim:
		return 5 * second
	case fleet.VerbCloud:
		return 15 * second
	}
	return 2 * second
}

// send carries an order over one network after the other until one answers.
func (l *leader) send(o fleet.Order, reign uint64) {
	h := l.agent.host
	s := h.site
	p := &h.agentProcess
	life := p.life // an answer to a process that has ended is nobody's
	landed := func(e fleet.Effect) {
		if l.reigns == reign && p.life == life {
			l.landed(e)
		}
	}
	to := s.names[o.To]
	if to == h {
		l.agent.order(o, func(e fleet.Effect) { p.in(0, func() { landed(e) }) })
		return
	}
	answered, failed := false, 0
	broken := func() {
		if failed++; failed == len(s.nets) && !answered {
			answered = true
			landed(fleet.Effect{Key: o.Key, From: o.To, Outcome: fleet.NoWord, Why: "it cannot be reached", Wall: h.wall()})
		}
	}
	for net := range s.nets {
		p.in(at(net)*60*millisecond, func() {
			if answered || l.reigns != reign {
				return
			}
			_, there := s.packet(h, to, net)
			_, back := s.packet(to, h, net)
			connected := there && back && to.agentProcess.alive
			if !connected && !s.chance(300) {
				wait := 2 * second // nobody answers the call
				if there && back {
					wait = millisecond // nobody is at home
				}
				p.in(wait, broken)
				return
			}
			// The connection stood already: what is written into it arrives when the
			// way is open again, even if its sender has given up.
			s.stream(h, to, net, 20*second, func() {
				to.agent.order(o, func(e fleet.Effect) {
					s.stream(to, h, net, 20*second, func() {
						if !answered {
							answered = true
							landed(e)
						}
					})
				})
			})
			p.in(min(patience(o.Verb), 15*second+patience(o.Verb)/60), broken)
		})
	}
}

// landed notes what became of an order.
func (l *leader) landed(e fleet.Effect) {
	f, ok := l.flights[e.Key]
	if !ok || f.Effect != nil {
		return
	}
	f.Effect, f.Arrived = &e, l.agent.host.clock()
	l.flights[e.Key] = f
	if f.Order.Verb != fleet.VerbRoute && f.Order.Verb != fleet.VerbSever || e.Outcome != fleet.Done {
		text := fmt.Sprintf("%s: %s %s: %s", e.From, deedOf(f.Order), about(f.Order), e.Outcome)
		if e.Why != "" {
			text += " (" + e.Why + ")"
		}
		l.once("effect/"+e.Key, aloud(f.Order.Verb), "%s", text)
	}
	l.news()
}

// once notes what was not said of the topic before.
func (l *leader) once(topic string, aloud bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if l.told[topic] == text || strings.HasPrefix(topic, "order/") && l.told[topic] != "" {
		return
	}
	l.told[topic] = text
	l.pending++
	if aloud {
		l.agent.host.site.tell("%s", text)
	}
}

// note tells verdicts and waits that are new, and counts the guards that show.
func (l *leader) note(w fleet.World, p fleet.Plan) {
	s := l.agent.host.site
	for _, h := range s.hosts {
		v := w.Verdicts[h.name]
		said := string(v.Condition)
		for _, n := range v.Silent {
			said += " " + n
		}
		if l.verdicts[h.name] != said {
			l.verdicts[h.name] = said
			l.pending++
			s.tell("%s is %s: %s", h.name, v.Condition, v.Why)
			maps.DeleteFunc(l.told, func(topic, _ string) bool { return strings.HasPrefix(topic, "round/"+h.name+"/") })
		}
	}
	open := map[string]bool{}
	for _, x := range p.Waits {
		topic := "wait/" + x.About
		open[topic] = true
		l.once(topic, true, "%s waits for %s", x.About, x.For)
		switch {
		case x.About == "brake":
			s.guard(fleet.GuardBrake)
		case strings.Contains(x.For, "it was fenced"):
			s.guard(fleet.GuardLoop)
		case strings.Contains(x.For, "never frees"), strings.Contains(x.For, "a proof that it is off"), strings.Contains(x.For, "say twice"):
			s.guard(fleet.GuardHandover)
		case strings.Contains(x.For, "to have ended"), strings.Contains(x.For, "fence intent"):
			s.guard(fleet.GuardIntent)
		case strings.Contains(x.For, "word from"), strings.Contains(x.For, "no record says"):
			s.guard(fleet.GuardInventory)
		case strings.Contains(x.For, "once more"):
			s.guard(fleet.GuardProof)
		case strings.Contains(x.For, "its copy on"):
			s.guard(fleet.GuardBehind)
		}
	}
	for topic := range l.told {
		if strings.HasPrefix(topic, "wait/") && !open[topic] {
			delete(l.told, topic)
		}
	}
	for _, r := range p.Records {
		if r.Text != "" {
			s.tell("%s", r.Text)
		}
		s.watch.reason(r.Key, r.Text)
	}
	for _, o := range p.Orders {
		s.watch.reason(o.Key, o.Why)
	}
	if len(p.Records)+len(p.Orders)+len(p.Asks) > 0 {
		l.calm = 0
	} else {
		l.calm++
	}
}
