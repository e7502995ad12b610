package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
	"mainstay/plan"
)

// beat is a heartbeat, and the acknowledgement that names one.
type beat struct {
	stint  fleet.Stint
	sent   fleet.Moment
	late   time.Duration
	leased bool
	blind  bool // of a pair: nobody gets a packet to the sender
	spared bool // this copy needs no acknowledgement
	// news is the number of the report that the sender would make now, or in an acknowledgement
	// that of the report which its ear has; 0: none. wall is the sender's clock.
	news uint64
	wall time.Time
}

// agent is the shell around plan.Hand and lease.Ear: what package agent does,
// step by step and in its order, on virtual hands.
type agent struct {
	host   *host
	spec   fleet.Spec
	voters []*host
	every  time.Duration
	hand   *plan.Hand
	ear    *lease.Ear
	late   time.Duration
	length time.Duration // of its lease
	paths  lease.Paths

	senses     []sense        // by host
	fromOthers []fleet.Moment // since when somebody's packets come in over a network without an answer
	ears       map[string]fleet.Heard
	suspects   []string
	asking     map[string]asking
	errands    map[string]*errand
	speaking   map[string]uint64
	severed    map[string]uint64
	services   map[string]fleet.ServiceState
	dumped     lease.Dumps
	parted     map[string]string // the open questions of its kernel
	routes     fleet.Routes
	applied    uint64

	deeds  []deed
	doing  bool
	jammed bool // the loop that owns the addresses has stopped, and nothing else has
	ticked fleet.Moment
	first  fleet.Moment
	said   fleet.Report
	draft  fleet.Report // its maps are filled anew until it is said
	saidAt fleet.Moment
	owes   *lease.Telling // of a host that beats slowly
	acks   *lease.Acks    // of the same
	sayLed bool
	telling,
	everTold bool
	// neighbours are those on the network without a voter, asked when they were asked last.
	neighbours *lease.Neighbours
	asked      fleet.Moment
	seq        uint64
	content    uint64 // counts what was said anew

	watchdog time.Duration // as armed by this process

	departing fleet.Moment // since when its host has been shutting down; 0: it is not
	leaving   bool

	desk    desk
	leader  leader
	lead    lead
	pairing pairing
	storage storageOf
}

type deed struct {
	plan.Deed
	reply  func(fleet.Effect)
	forced bool
}

type sense struct {
	nets    []fleet.Moment
	again   []fleet.Moment // since when it is heard there without a gap
	leased  bool
	suspect bool
	stint   fleet.Stint
	seen    bool
	blind   bool // by its own word nobody gets a packet to it
}

type asking struct {
	epoch    uint64
	round    fleet.Round
	promised map[string]bool
}

type errand struct {
	effect  *fleet.Effect
	waiting []func(fleet.Effect)
}

// newAgent is agent.New and the start of Run.
func newAgent(h *host) *agent {
	s := h.site
	a := &agent{
		host: h, spec: s.specOf(h), late: fleet.GuardLate, asking: map[string]asking{}, errands: map[string]*errand{},
		speaking: map[string]uint64{}, severed: map[string]uint64{}, services: map[string]fleet.ServiceState{},
		senses: make([]sense, len(s.hosts)),
	}
	if h.kernel.coarse {
		a.late = fleet.CoarseLate
	}
	a.fromOthers = make([]fleet.Moment, len(s.nets))
	for i := range a.senses {
		a.senses[i].nets, a.senses[i].again = make([]fleet.Moment, len(s.nets)), make([]fleet.Moment, len(s.nets))
	}
	h.agent = a
	a.desk = desk{reports: map[string]fleet.Report{}, content: map[string]uint64{}, told: map[string]fleet.Moment{}}
	for _, name := range a.spec.Voters() {
		a.voters = append(a.voters, s.names[name])
	}
	me, _ := a.spec.Host(h.name)
	timing := a.spec.Timing
	a.every, timing.Lease = a.spec.Beats(me)
	a.length = timing.Lease
	h.every = a.every
	if a.every >= a.spec.Timing.SlowBeat {
		a.owes = lease.NewTelling(a.every)
	}
	a.spare()
	memory := h.run.memory
	memory.End = 0
	if h.run.stint == memory.Stint {
		memory.End = h.run.end
	}
	now := h.clock()
	hand, deeds := plan.NewHand(h.name, h.boot, memory, a.spec.Voters(), timing, now)
	a.hand, a.neighbours = hand, lease.NewNeighbours(&a.spec, h.name, now)
	if len(deeds) == 0 {
		for _, thing := range fleet.Sorted(memory.Held) {
			_, name, _ := strings.Cut(thing, "/")
			a.speaking[name] = memory.Held[thing]
		}
	}
	a.queue(deeds, nil)
	a.startStorage()
	if me.Voter {
		a.ear = lease.NewEar(h.name, a.spec.Timing, h.run.rows, now)
		h.run.ear = a.ear
		a.leader.agent = a
	}
	a.keep()
	for _, u := range h.copies {
		a.observe(u)
	}
	a.first = now.Add(time.Duration(s.between(0, at(a.every))))
	a.await(a.first)
	a.guardLife()
	if h.member != nil {
		h.agentProcess.in(s.between(0, at(a.spec.Timing.Heartbeat)), a.pings)
	}
	a.startPair()
	return a
}

// follow takes up a changed site's file.
func (a *agent) follow(spec fleet.Spec) {
	h := a.host
	a.spec, a.voters = spec, nil
	for _, name := range spec.Voters() {
		a.voters = append(a.voters, h.site.names[name])
	}
	a.hand.SetEars(spec.Voters())
	if me, _ := spec.Host(h.name); me.Voter {
		a.every, _ = spec.Beats(me)
		h.every = a.every
	}
	a.spare()
	if me, _ := spec.Host(h.name); me.Voter && a.ear == nil {
		a.ear = lease.NewEar(h.name, spec.Timing, nil, h.clock())
		h.run.ear = a.ear
		a.leader.agent = a
		a.pings()
	}
}

// spare begins to want only those acknowledgements that a host needs which beats slowly.
func (a *agent) spare() {
	if a.acks = nil; a.every < a.spec.Timing.SlowBeat {
		return
	}
	var ways []lease.Way
	for _, v := range a.voters {
		for _, n := range a.host.site.nets {
			ways = append(ways, lease.Way{Ear: v.name, Network: n.name})
		}
	}
	a.acks = lease.NewAcks(ways)
}

// await puts the next tick of the beat loop on its way.
func (a *agent) await(m fleet.Moment) {
	s := a.host.site
	e := s.queue.make()
	e.kind, e.proc, e.live = tickEvent, &a.host.agentProcess, a.host.agentProcess.life
	s.queue.push(max(s.now, a.host.when(m)), e)
}

// tick is one turn of the beat loop: the clock first, then the beat.
func (a *agent) tick() {
	h := a.host
	s := h.site
	now := h.clock()
	if a.ear != nil && a.ticked != 0 && now.Sub(a.ticked) > 3*a.every {
		a.ear.Return(now)
	}
	a.ticked = now
	a.queue(a.hand.Tick(now), nil)
	b := &beat{stint: a.hand.Stint(), sent: now, late: a.late, leased: a.hand.Leased(now), blind: s.paired() && h.blind()}
	if a.hand.Silent() {
		a.remind(now)
		a.next(now)
		return // what the former stint held is not yet gone: this one must not be heard of
	}
	if a.ear != nil {
		a.heardBeat(h, b, -1, now)
		if a.earBeat(b, now) {
			a.acked(h.name, b.stint, b.sent, now)
		}
		a.suspect(now)
	}
	a.askNeighbours(now)
	a.remind(now)
	a.name(b, now)
	spared := *b
	spared.spared = true
	var wanted []bool // nil: all
	if a.acks != nil {
		wanted = a.acks.Wanted(now)
	}
	for i, v := range a.voters {
		if v == h {
			continue
		}
		for net := range s.nets {
			x := b
			if wanted != nil && !wanted[i*len(s.nets)+net] {
				x = &spared
			}
			a.datagram(beatEvent, v, net, x)
		}
	}
	a.next(now)
}

func (a *agent) next(now fleet.Moment) {
	gone := now.Sub(a.first)
	a.await(a.first.Add(gone - gone%a.every + a.every))
}

// datagram sends a beat or an acknowledgement. Of an acknowledgement that is spared only the dice are cast, as they
// were when each copy was acknowledged: a seed means what it meant.
func (a *agent) datagram(k kind, to *host, net int, b *beat) {
	s := a.host.site
	copies := 1
	if n := s.nets[net]; n.double > 0 && s.chance(n.double) {
		copies = 2
	}
	for range copies {
		d, ok := s.packet(a.host, to, net)
		if !ok || !to.agentProcess.alive || k == ackEvent && b.spared {
			continue
		}
		e := s.queue.make()
		e.kind, e.proc, e.live, e.from, e.net, e.beat = k, &to.agentProcess, to.agentProcess.life, a.host, uint8(net), b
		s.queue.push(s.now+d, e)
	}
}

// hearBeat takes a heartbeat of another host and acknowledges it.
func (a *agent) hearBeat(from *host, net int, b *beat) {
	if a.ear == nil {
		return
	}
	now := a.host.clock()
	a.heardBeat(from, b, net, now)
	x := b
	if b.news != 0 {
		ack := *b
		x = &ack
		x.news = a.desk.named(from.name, b, now)
	}
	if a.earBeat(b, now) {
		a.datagram(ackEvent, from, net, x)
	}
}

func (a *agent) earBeat(b *beat, now fleet.Moment) bool {
	ack, why := a.ear.Beat(lease.Beat{Stint: b.stint, Sent: b.sent, Late: b.late}, now)
	if !ack && strings.Contains(why, "just booted") {
		a.host.site.guard(fleet.GuardEarWait)
	}
	return ack
}

func (a *agent) hearAck(from *host, net int, b *beat) {
	now := a.host.clock()
	if b.stint.Boot == a.host.boot {
		a.paths.Acked(a.host.site.nets[net].name, b.sent)
		if a.owes != nil {
			a.owes.Acked(from.name, b.news, b.sent)
		}
		if a.acks != nil {
			a.acks.Acked(lease.Way{Ear: from.name, Network: a.host.site.nets[net].name}, b.sent)
		}
	}
	a.acked(from.name, b.stint, b.sent, now)
}

func (a *agent) acked(ear string, stint fleet.Stint, sent, now fleet.Moment) {
	was := a.hand.Leased(now)
	end := a.hand.End()
	deeds := a.hand.Ack(ear, stint, sent, now)
	a.keepEnd() // before the kernel is told: a process that follows must know the later end
	a.queue(deeds, nil)
	if is := a.hand.Leased(now); is != was {
		a.poke()
	}
	if a.hand.End() != end && ear != a.host.name {
		a.host.site.count.guards[fleet.GuardEars]++
	}
}

// heardBeat notes what judge wants to know.
func (a *agent) heardBeat(from *host, b *beat, net int, now fleet.Moment) {
	x := &a.senses[from.index]
	changed := !x.seen || x.stint != b.stint || x.leased != b.leased || x.suspect
	if net >= 0 {
		if now.Sub(x.nets[net]) >= 3*from.every {
			changed, x.again[net] = true, now
		}
		x.nets[net] = now
	}
	x.seen, x.stint, x.leased, x.blind = true, b.stint, b.leased, b.blind
	if x.suspect {
		x.suspect = false
		a.suspects = slices.DeleteFunc(a.suspects, func(h string) bool { return h == from.name })
	}
	if changed {
		a.leader.news()
	}
}

// suspect finds hosts that fell silent for three beats.
func (a *agent) suspect(now fleet.Moment) {
	for i := range a.senses {
		x := &a.senses[i]
		from := a.host.site.hosts[i]
		if !x.seen || from == a.host {
			continue
		}
		every := from.every
		var last fleet.Moment
		for _, at := range x.nets {
			last = max(last, at)
			if gap := now.Sub(at); gap >= 3*every && gap < 5*every {
				a.leader.news()
			}
		}
		if !x.suspect && last != 0 && now.Sub(last) >= 3*every {
			x.suspect = true
			a.suspects = append(a.suspects, from.name)
			a.leader.news()
		}
	}
}

// ask puts a question to every ear and repeats it.
func (a *agent) ask(epoch uint64, r fleet.Round) {
	a.asking[r.Stint.Host] = asking{epoch, r, map[string]bool{}}
	a.repeat(epoch, r)
}

func (a *agent) repeat(epoch uint64, r fleet.Round) {
	s := a.host.site
	x := a.asking[r.Stint.Host]
	now := a.host.clock()
	if x.epoch != epoch || x.round.Number != r.Number || lease.Stale(r, a.spec.Timing, now) || len(x.promised) == len(a.voters) {
		return
	}
	for _, v := range a.voters {
		switch {
		case x.promised[v.name]:
		case v == a.host:
			if ok, why := a.earAsk(r.Stint, r.Evict); ok {
				x.promised[v.name] = true
				a.leader.answered(v.name, epoch, r, why, a.ear.Silent(r.Stint, a.host.clock()))
			}
		default:
			for net := range s.nets {
				a.askOver(v, net, epoch, r)
			}
		}
	}
	again := max(10*millisecond, at(a.spec.Timing.Lease)/30)
	a.host.agentProcess.in(again, func() { a.repeat(epoch, r) })
}

func (a *agent) askOver(v *host, net int, epoch uint64, r fleet.Round) {
	s := a.host.site
	d, ok := s.packet(a.host, v, net)
	if !ok {
		return
	}
	v.agentProcess.in(d, func() {
		if v.agent.ear == nil {
			return
		}
		promised, why := v.agent.earAsk(r.Stint, r.Evict)
		silent := v.agent.ear.Silent(r.Stint, v.clock())
		back, ok := s.packet(v, a.host, net)
		if !ok || !promised {
			return
		}
		a.host.agentProcess.in(back, func() {
			if a.host.agent != a {
				return
			}
			if x := a.asking[r.Stint.Host]; x.epoch != epoch || x.round.Number != r.Number {
				return
			} else if x.promised[v.name] {
				return
			} else {
				x.promised[v.name] = true
			}
			a.leader.answered(v.name, epoch, r, why, silent)
		})
	})
}

func (a *agent) earAsk(stint fleet.Stint, evict bool) (bool, string) {
	promised, why := a.ear.Ask(stint, evict, a.host.clock())
	switch {
	case promised && stint.N == lease.AnyStint:
		a.host.site.watch.silent(a.host, stint)
	case !promised:
		if strings.Contains(why, "just booted") {
			a.host.site.guard(fleet.GuardEarWait)
		} else {
			a.host.site.guard(fleet.GuardPromise)
		}
	}
	return promised, why
}

// queue hands deeds to the loop that carries them out.
func (a *agent) queue(deeds []plan.Deed, reply func(fleet.Effect)) {
	for _, d := range deeds {
		if d.Do == plan.DoDrop {
			clear(a.speaking)
			a.keep()
			if a.hand.Stint().N > 1 {
				a.host.site.guard(fleet.GuardStint)
			}
		}
		x := deed{Deed: d}
		if d.Order.Key != "" {
			x.reply = reply
		}
		if d.Apart() {
			a.apart(x)
			continue
		}
		if d.Do == plan.DoRenew && len(a.deeds) > 0 && a.deeds[len(a.deeds)-1].Do == plan.DoRenew {
			continue // several renewals that queue up are one
		}
		a.deeds = append(a.deeds, x)
	}
	a.work()
}

// apart carries out what need not wait for the addresses.
func (a *agent) apart(d deed) {
	a.host.agentProcess.in(a.host.site.between(20*microsecond, 300*microsecond), func() { a.perform(d) })
}

// work is the loop that owns the addresses: one deed after the other.
func (a *agent) work() {
	if a.doing || a.jammed || len(a.deeds) == 0 {
		return
	}
	a.doing = true
	d := a.deeds[0]
	a.deeds = a.deeds[1:]
	a.host.agentProcess.in(a.host.site.between(20*microsecond, 300*microsecond), func() {
		a.do(d, func() {
			a.doing = false
			a.work()
		})
	})
}

func (a *agent) address(thing string) (int, string) {
	_, name, _ := strings.Cut(thing, "/")
	for i, v := range a.spec.Addresses {
		if v.Name == name {
			return i, name
		}
	}
	return -1, name
}

func (a *agent) do(d deed, next func()) {
	switch d.Do {
	case plan.DoRenew:
		a.renew(next)
		return
	case plan.DoDrop:
		for i := range a.spec.Addresses {
			a.host.kernel.remove(i)
		}
		a.hand.Dropped(d.Generation)
		a.poke()
	case plan.DoClaim:
		a.claim(d, next)
		return
	case plan.DoRelease:
		i, name := a.address(d.Thing)
		a.host.kernel.remove(i)
		delete(a.speaking, name)
		a.hand.Released(d.Thing, d.Generation)
		a.keep()
		a.done(d, fleet.Done, "")
	case plan.DoPerform:
		a.perform(d)
	}
	next()
}

// renew keeps the guards open: the clock is read, the kernel is told a moment
// later, and the clock is read again.
func (a *agent) renew(next func()) {
	s := a.host.site
	until := a.hand.End()
	if len(a.speaking) == 0 {
		next()
		return
	}
	before := a.host.clock()
	s.watch.renewing(a.host)
	a.host.agentProcess.in(s.between(20*microsecond, 200*microsecond), func() {
		if until.After(before) {
			for _, name := range fleet.Sorted(a.speaking) {
				i, _ := a.address("address/" + name)
				a.put(i, until, before)
			}
			if !a.tooLate(until) {
				a.hand.Kept(until)
			}
		}
		next()
	})
}

// put opens an address's guard for what was left of the lease before. Where that was so
// long ago that the guard would stay open beyond it, it is told again at once, as package
// vip does.
func (a *agent) put(i int, until, before fleet.Moment) {
	a.late = a.host.kernel.put(i, until.Sub(before))
	if now := a.host.clock(); now.Sub(before) > fleet.GuardLate && now.Before(until) && fleet.Armed(fleet.GuardAfterCheck) {
		a.late = a.host.kernel.put(i, until.Sub(now))
	}
}

// tooLate is the after-check.
func (a *agent) tooLate(until fleet.Moment) bool {
	if !lease.TooLate(until, a.host.clock()) {
		return false
	}
	a.host.site.guard(fleet.GuardAfterCheck)
	for i := range a.spec.Addresses {
		a.host.kernel.remove(i)
	}
	return true
}

// claim asks first who else answers for the address.
func (a *agent) claim(d deed, next func()) {
	i, _ := a.address(d.Thing)
	if !d.forced && a.others(i) {
		asked := a.host.clock()
		var later func()
		later = func() {
			if a.others(i) && a.host.clock().Sub(asked) < fleet.CoarseLate {
				a.host.agentProcess.in(50*millisecond, later)
				return
			}
			if a.hand.Held(d.Thing) != d.Generation {
				a.done(d, fleet.Broken, "the lease ended while somebody else answered for the address")
				return
			}
			d.forced = true
			a.deeds = append(a.deeds, d)
			a.work()
		}
		a.host.agentProcess.in(50*millisecond, later)
		next()
		return
	}
	a.claimNow(d, i, next)
}

// others says whether another host answers the duplicate probe.
func (a *agent) others(i int) bool {
	s := a.host.site
	net := slices.IndexFunc(s.nets, func(n *network) bool { return n.name == a.spec.Addresses[i].Network })
	for _, h := range s.hosts {
		if h != a.host && h.kernel.has[i].spoken && s.open(a.host, h, net) && s.open(h, a.host, net) {
			return true
		}
	}
	return false
}

func (a *agent) claimNow(d deed, i int, next func()) {
	s := a.host.site
	_, name := a.address(d.Thing)
	until := a.hand.End()
	now := a.host.clock()
	if !a.hand.Leased(now) || a.hand.Held(d.Thing) != d.Generation {
		a.done(d, fleet.Broken, "the lease ended before the address was claimed")
		next()
		return
	}
	if s.deaf[a.host.name+"/"+name] {
		a.host.kernel.remove(i) // it may speak already, if the claim was ordered once more
		a.hand.Lost(d.Thing)
		delete(a.speaking, name)
		a.keep()
		a.done(d, fleet.Broken, "add the address: no such interface")
		next()
		return
	}
	s.watch.renewing(a.host)
	a.host.agentProcess.in(s.between(50*microsecond, 2*millisecond), func() {
		a.put(i, until, now)
		if !a.tooLate(until) {
			s.watch.claims(a.host, d.Thing, d.Generation)
			if a.hand.Held(d.Thing) == d.Generation {
				a.speaking[name] = d.Generation
				a.hand.Kept(until)
			}
		}
		a.done(d, fleet.Done, "")
		next()
	})
}

func (a *agent) done(d deed, o fleet.Outcome, why string) {
	a.poke()
	if d.reply != nil {
		d.reply(fleet.Effect{Key: d.Order.Key, From: a.host.name, Outcome: o, Why: why, Wall: a.host.wall()})
	}
}

// perform carries out what needs no lease arithmetic.
func (a *agent) perform(d deed) {
	o := d.Order
	_, name, _ := strings.Cut(o.Thing, "/")
	switch o.Verb {
	case fleet.VerbSever:
		a.severed[name] = max(a.severed[name], o.Generation)
		a.done(d, fleet.Done, "")
	case fleet.VerbRoute:
		a.routes, a.applied = o.Routes, o.Routes.Revision
		a.done(d, fleet.Done, "")
	case fleet.VerbStart, fleet.VerbStop, fleet.VerbRestart, fleet.VerbTend, fleet.VerbPromote, fleet.VerbDemote, plan.VerbJoin, plan.VerbPosition, plan.VerbBootstrap:
		u := a.host.copy(name)
		if u == nil {
			a.done(d, fleet.Broken, o.Thing+" is not a service of this host")
			return
		}
		proc, life := &a.host.agentProcess, a.host.agentProcess.life
		refuses := func() string {
			why := a.hand.Refuses(o, a.host.clock())
			if why == "" {
				copies := map[string]fleet.ServiceState{}
				for _, u := range a.host.copies {
					copies[u.service.Name] = u.state()
				}
				why = plan.Obstructed(&a.spec, o, copies)
			}
			if why == "" && o.Generation > 0 && (o.Verb == plan.VerbBootstrap || o.Verb == plan.VerbPosition) {
				a.hand.Spent(o.Thing, o.Generation) // before the deed, and told with its beginning
				st := u.state()
				st.Phase = fleet.Starting
				a.services[u.service.Name] = st
				a.keep()
			}
			return why
		}
		if o.Verb == plan.VerbPosition && u.working && u.of != nil && u.phase == fleet.Starting {
			u.of.ended("it waits no more")
		}
		if o.Verb == fleet.VerbTend && u.working && u.node != nil && u.verb == fleet.VerbStart {
			u.answer("it waits no more")
		}
		u.operate(job{verb: o.Verb, generation: o.Generation, epoch: o.Epoch, step: o.Step, with: o.With, refuses: refuses, done: func(err string) {
			if proc.life != life {
				return
			}
			proc.in(0, func() { a.operated(d, u, err) })
		}})
	case plan.VerbKill:
		a.kill(d)
	case plan.VerbGoOn, plan.VerbEven:
		answer, c := a.host.site.mirror.goOn, a.host.copy(name).mirror
		if o.Verb == plan.VerbEven {
			answer = func(c *mirrorOf, o fleet.Order) string { return a.host.site.mirror.isEven(c, o.With) }
		}
		if why := answer(c, o); why != "" {
			a.done(d, fleet.Broken, why)
			return
		}
		a.done(d, fleet.Done, "")
	case fleet.VerbFence, fleet.VerbConfirm, fleet.VerbPowerOn:
		a.fence(o, func(p *fleet.Proof, outcome fleet.Outcome, why string) {
			if d.reply != nil {
				d.reply(fleet.Effect{Key: o.Key, From: a.host.name, Outcome: outcome, Why: why, Proof: p, Wall: a.host.wall()})
			}
		})
	case fleet.VerbRead:
		a.storage.readings.Ask(o.Target.Host, o.Target.Boot, a.host.clock())
		a.stepStorage()
		a.done(d, fleet.Done, "")
	case fleet.VerbCloud:
		a.cloudOrder(d)
	default:
		a.done(d, fleet.Broken, fmt.Sprintf("no verb %q is known", o.Verb))
	}
}

// operated is the end of an order to a unit.
func (a *agent) operated(d deed, u *unit, err string) {
	if err != "" {
		a.done(d, fleet.Broken, err)
		return
	}
	if d.Order.Verb == fleet.VerbStop && u.service.Mode.Exclusive() && !u.alive() || d.Order.Verb == fleet.VerbDemote && u.role() != fleet.RolePromoted {
		a.hand.Stopped(d.Order.Thing, d.Order.Generation)
		a.keep()
	}
	a.observe(u)
	a.done(d, fleet.Done, "")
}

// observe looks at a unit.
func (a *agent) observe(u *unit) {
	before := a.services[u.service.Name]
	if st := u.state().Follows(before, a.host.wall()); before != st {
		a.services[u.service.Name] = st
		a.poke()
	}
}

// order follows an order; a copy of it waits for the same effect.
func (a *agent) order(o fleet.Order, reply func(fleet.Effect)) {
	key := fmt.Sprintf("%d/%s/%d", o.Epoch, o.Key, o.Try)
	e, copied := a.errands[key]
	if copied {
		if e.effect != nil {
			reply(*e.effect)
			return
		}
		e.waiting = append(e.waiting, reply)
		return
	}
	e = &errand{waiting: []func(fleet.Effect){reply}}
	a.errands[key] = e
	deeds, refusal := a.hand.Order(o, a.host.clock())
	answer := func(f fleet.Effect) {
		e.effect = &f
		for _, w := range e.waiting {
			w(f)
		}
		e.waiting = nil
	}
	if refusal != nil {
		if strings.Contains(refusal.Why, "stint") || strings.Contains(refusal.Why, "majority") {
			a.host.site.guard(fleet.GuardStint)
		}
	} else {
		a.host.site.watch.accepts(a.host, o)
		a.keep()
	}
	a.queue(deeds, answer)
	a.poke()
	if refusal != nil {
		answer(*refusal)
	}
}

// keep writes the memory to /run.
func (a *agent) keep() {
	a.host.run.memory = a.hand.Memory()
	a.keepEnd()
}

func (a *agent) keepEnd() {
	a.host.run.end, a.host.run.stint = a.hand.End(), a.hand.Stint().N
}

// poke lets the report be looked at anew, a moment later.
func (a *agent) poke() {
	if a.telling {
		return
	}
	a.telling = true
	a.host.agentProcess.in(100*microsecond, a.report)
}

// remind pokes when the report is a second old, or the lease's or a network's state
// has changed.
func (a *agent) remind(now fleet.Moment) {
	if !a.everTold || a.hand.Leased(now) != a.sayLed || now.Sub(a.saidAt) >= time.Second {
		a.poke()
		return
	}
	if s := a.host.site; s.shape.Apart != "" && !maps.EqualFunc(a.said.Neighbours, a.neighbours.Word(now), fleet.Neighbourhood.Equal) {
		a.poke()
	}
	for i, up := range a.host.links {
		name := a.host.site.nets[i].name
		if a.host.voter && name == a.host.site.shape.Apart {
			continue
		}
		in, unanswered := a.comesIn(i, now)
		if said, was := a.said.Unanswered[name]; a.said.Links[name] != (up && !unanswered) || was != unanswered || said != in {
			a.poke()
		}
	}
}

// How long a shutdown waits, as package node has it: for a leader, then for the host's
// own hands; and how long it serves on at least.
const (
	departBound = 10 * time.Second
	letGoBound  = 25 * time.Second
	departLeast = time.Second
)

// shutDown is what a host does that goes down in good order: it hands over, lets go of
// the rest, says farewell, and then has no power.
func (a *agent) shutDown(gone func()) {
	if a.departing != 0 {
		return
	}
	h := a.host
	a.departing = h.clock()
	a.hand.Depart(true)
	a.poke()
	if h.member != nil && h.member.leads() && !h.quorumProcess.stopped() && a.lead.holds(h.clock()) {
		for _, v := range a.voters {
			if x := &a.senses[v.index]; v != h && x.seen && !x.suspect && !a.desk.reports[v.name].GoesDown {
				h.member.handOver(uint64(v.index + 1))
				break
			}
		}
	}
	a.whenFree(h.clock().Add(departBound), func() bool {
		return h.clock().Sub(a.departing) >= departLeast && plan.Drained(a.routes, h.name)
	}, func() {
		a.whenFree(h.clock().Add(letGoBound), func() bool {
			for _, d := range a.hand.LetGo(a.spec, "this host is shutting down") {
				a.queue([]plan.Deed{d}, func(e fleet.Effect) {
					if e.Outcome != fleet.Done {
						a.host.agentProcess.in(250*millisecond, func() { a.hand.LetGoAgain(d.Thing) })
					}
				})
			}
			a.keep()
			return true
		}, func() {
			a.farewell()
			a.leavePair(gone)
		})
	})
}

// whenFree goes on as soon as the host has nothing any more that only one may have, at
// the latest at until.
func (a *agent) whenFree(until fleet.Moment, also func() bool, then func()) {
	if also() && a.hand.Free() || !a.host.clock().Before(until) {
		then()
		return
	}
	a.host.agentProcess.in(20*millisecond, func() { a.whenFree(until, also, then) })
}

// farewell is the last report.
func (a *agent) farewell() {
	a.leaving = true
	a.saidAt = 0
	a.report()
}
