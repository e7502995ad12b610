package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
	"mainstay/plan"
)

// Violation is one thing that must never happen and did.
type Violation struct {
	Audit string // its short name
	Text  string
}

// watch holds the audits. It sees the whole site from outside and knows what
// must never be, not how that is avoided.
type watch struct {
	site       *Site
	speakers   [][]*host // by address
	excused    map[*host]at
	running    map[string][]*unit
	found      map[*unit]bool        // ran before Mainstay came
	steady     map[*host]at          // since when it has held its lease without a break
	stints     map[*host]fleet.Stint // the stint that it was last seen to hold one in
	lapsed     map[*host]at          // since when it has not
	promises   map[string]map[string]bool
	epochs     map[string]uint64  // by boot: the newest epoch of an order accepted
	farewells  map[parting]parted // in which life of the voter's agent it was heard, and when
	ruled      map[string]bool    // its newest intent follows a service's rule, not silence
	stop       *Violation
	leaderAt   at // when somebody last led
	stormed    at // when the network last lost, delayed or doubled packets
	turnSecond at
	turned     int
	written    int
	patience   map[string]*patienceOf // by thing
	most       Most
	silentAt   map[*host]at   // since when no majority of ears hears it
	shot       map[*host]bool // of a pair: switched off by the other, and not on since
}

// Most is the most that came up of what must not be too much: turns and transactions
// of leaders within a second, and changes of hands of one thing beyond what its faults
// explain, of those that are allowed.
type Most struct{ Turns, Writes, Hands int }

// patienceOf is how many more changes of hands a thing's faults explain. Each fault
// allows some, time brings some back, and each change takes one.
type patienceOf struct {
	left float64
	at   at
}

func newWatch(s *Site) *watch {
	return &watch{
		site: s, speakers: make([][]*host, len(s.spec.Addresses)), excused: map[*host]at{}, running: map[string][]*unit{}, found: map[*unit]bool{},
		patience: map[string]*patienceOf{}, steady: map[*host]at{}, silentAt: map[*host]at{}, stints: map[*host]fleet.Stint{}, lapsed: map[*host]at{}, promises: map[string]map[string]bool{}, epochs: map[string]uint64{}, ruled: map[string]bool{}, farewells: map[parting]parted{},
	}
}

func (w *watch) fail(audit, format string, args ...any) {
	if w.stop == nil {
		w.stop = &Violation{audit, fmt.Sprintf(format, args...)}
		w.site.tell("VIOLATION of %s: %s", audit, w.stop.Text)
	}
}

// speaks: at most one host speaks for an address, but for the bounded cases of
// docs/HOLES.md 23 and 24, for which the host is excused for a while.
func (w *watch) speaks(h *host, i int, on bool) {
	s := w.site
	name := s.spec.Addresses[i].Thing()
	s.stir(time.Second)
	if !on {
		w.speakers[i] = slices.DeleteFunc(w.speakers[i], func(x *host) bool { return x == h })
		s.tell("%s falls silent for %s", h.name, name)
		return
	}
	s.tell("%s speaks for %s", h.name, name)
	w.speakers[i] = append(w.speakers[i], h)
	if len(w.speakers[i]) > 1 {
		w.alone(i)
	}
}

func (w *watch) alone(i int) {
	s := w.site
	var excuse at
	for _, h := range w.speakers[i] {
		excuse = max(excuse, w.excused[h])
	}
	s.after(max(excuse-s.now, 0)+1, func() {
		if len(w.speakers[i]) < 2 {
			return
		}
		for _, h := range w.speakers[i] {
			if w.excused[h] > s.now {
				w.alone(i)
				return
			}
		}
		w.fail("one speaker", "%s and %s both speak for %s", w.speakers[i][0].name, w.speakers[i][1].name, s.spec.Addresses[i].Thing())
	})
}

// excuse allows a host to speak a while longer than its lease says.
func (w *watch) excuse(h *host, d time.Duration) {
	w.excused[h] = max(w.excused[h], w.site.now+at(d)*11/10)
}

// runs: an active/passive service runs on one host at most, and one in mode promoted is
// promoted on one at most.
func (w *watch) runs(u *unit, on bool) {
	s, name := w.site, u.service.Thing()
	all := slices.DeleteFunc(w.running[name], func(x *unit) bool { return x == u })
	does, no := "runs", "runs no more"
	if u.promotable() {
		does, no = "is promoted", "is promoted no more"
	}
	if on {
		s.tell("%s %s on %s", name, does, u.host.name)
		for _, other := range all {
			if !w.found[u] || !w.found[other] {
				w.fail("one copy", "%s %s on %s and on %s", name, does, other.host.name, u.host.name)
			}
		}
		all = append(all, u)
	} else {
		s.tell("%s %s on %s", name, no, u.host.name)
		delete(w.found, u)
	}
	w.running[name] = all
}

// starts: no start whose generation is not the record.
func (w *watch) starts(u *unit, generation uint64) {
	h := w.site.quorum.newest().Holdings[u.service.Thing()]
	if h.Host != u.host.name || h.Boot != u.host.boot || h.Generation != generation {
		w.fail("by the record", "%s starts %s under generation %d, and the record is %d for %s", u.host.name, u.service.Thing(), generation, h.Generation, h.Host)
	}
}

// claims: no claim whose generation is not the record.
func (w *watch) claims(host *host, thing string, generation uint64) {
	h := w.site.quorum.newest().Holdings[thing]
	if h.Host != host.name || h.Boot != host.boot || h.Generation != generation {
		w.fail("by the record", "%s claims %s under generation %d, and the record is %d for %s", host.name, thing, generation, h.Generation, h.Host)
	}
}

// leads: never two who may act.
func (w *watch) leads(h *host) {
	w.leaderAt = w.site.now
	for _, o := range w.site.hosts {
		if o != h && o.on && o.agent != nil && o.agent.lead.holds(o.clock()) {
			w.fail("one leader", "%s and %s may both act as the leader", o.name, h.name)
		}
	}
}

// ordered: whoever gives an order leads in the newest epoch.
func (w *watch) ordered(h *host, o fleet.Order) {
	w.reason(o.Key, o.Why)
	if newest := w.site.quorum.newest().Epoch; o.Epoch < newest {
		w.fail("newest epoch", "%s orders %s in epoch %d, and epoch %d has begun", h.name, o.Key, o.Epoch, newest)
	}
}

// accepts: no agent follows an older epoch than it has followed.
func (w *watch) accepts(h *host, o fleet.Order) {
	if o.Epoch < w.epochs[h.boot] {
		w.fail("newest epoch", "%s follows %s of epoch %d after one of epoch %d", h.name, o.Key, o.Epoch, w.epochs[h.boot])
	}
	w.epochs[h.boot] = max(w.epochs[h.boot], o.Epoch)
}

// reason: whatever is done says why.
func (w *watch) reason(key, why string) {
	if why == "" && !strings.HasPrefix(key, "spec") {
		w.fail("a reason", "%s has none", key)
	}
}

// renewing freezes the agent between its look at the clock and its deed, when the
// script wants that.
func (w *watch) renewing(h *host) {
	if d := h.freezeFor; d > 0 {
		h.freezeFor = 0
		h.agentProcess.freeze()
		w.site.after(d, h.agentProcess.thaw)
	}
}

// How much a leader may turn and write in a second, and how often a thing may change
// hands: so many times at once, so many for each fault, and once in a while without one.
const (
	turnsMost   = 120
	turnsStormy = 3 * turnsMost // in a storm every host has news at every beat
	writesMost  = 70
	handsMost   = 8
	handsFault  = 3
	handsEvery  = 15 * second
	handsStormy = second // while the network loses, delays or doubles packets
)

// turns: no leader turns in circles.
func (w *watch) turns() {
	w.tick()
	w.turned++
	w.most.Turns = max(w.most.Turns, w.turned)
	most := turnsMost
	if w.site.stormy() {
		w.stormed = w.site.now
	}
	if w.stormed > 0 && w.site.now-w.stormed < second {
		most = turnsStormy
	}
	if w.turned > most {
		w.fail("no circles", "%d turns within a second", w.turned)
	}
}

func (w *watch) tick() {
	if sec := w.site.now / second; sec != w.turnSecond {
		w.turnSecond, w.turned, w.written = sec, 0, 0
	}
}

// hands: nothing changes hands more often than its faults explain.
func (w *watch) hands(thing string) {
	p := w.patient(thing)
	p.left--
	w.most.Hands = max(w.most.Hands, handsMost-int(p.left))
	if p.left < 0 {
		w.fail("no circles", "%s changes hands again and again, more often than its faults explain", thing)
	}
}

func (w *watch) patient(thing string) *patienceOf {
	s := w.site
	p := w.patience[thing]
	if p == nil {
		p = &patienceOf{left: handsMost}
		w.patience[thing] = p
	}
	every := handsEvery
	if s.stormy() {
		every = min(handsStormy, at(s.timing.Lease)) // it ends one stint after the other
	}
	p.left = min(handsMost, p.left+float64(s.elapsed()-p.at)/float64(every))
	p.at = s.elapsed()
	return p
}

// stormy says whether a network loses, delays or doubles packets.
func (s *Site) stormy() bool {
	return slices.ContainsFunc(s.nets, func(n *network) bool { return n.loss+n.double+n.late > 0 })
}

// fault gives every thing the patience that a fault deserves.
func (w *watch) fault() {
	for _, a := range w.site.spec.Addresses {
		p := w.patient(a.Thing())
		p.left = min(handsMost, p.left+handsFault)
	}
	for _, v := range w.site.spec.Services {
		p := w.patient(v.Thing())
		p.left = min(handsMost, p.left+handsFault)
	}
}

func (w *watch) power(h *host, on bool) {
	delete(w.steady, h)
	w.lapsed[h] = w.site.now
	if on {
		delete(w.shot, h)
	}
	if on {
		w.site.tell("%s boots as %s", h.name, h.boot)
	}
}

// silent counts who has said that nothing of a boot is heard.
func (w *watch) silent(ear *host, stint fleet.Stint) {
	if w.promises[stint.Boot] == nil {
		w.promises[stint.Boot] = map[string]bool{}
	}
	w.promises[stint.Boot][ear.name] = true
}

// parting is the farewell of an agent, as one voter heard it.
type parting struct{ voter, host, boot string }

type parted struct {
	life uint32
	at   at
}

// told: the last thing that a voter's agent was told by a host's.
func (w *watch) told(voter *host, r *fleet.Report) {
	p := parting{voter.name, r.Host, r.Boot}
	if r.Leaving && !r.GoesDown {
		w.farewells[p] = parted{voter.agentProcess.life, w.site.now}
	} else if len(w.farewells) > 0 {
		delete(w.farewells, p)
	}
}

// offOrdered: nobody is switched off but by an intent that names the boot, and
// not when a later boot of the host has been well for a while.
func (w *watch) offOrdered(h *host, boot string, first bool) {
	if w.site.paired() {
		return // who has no leader has no intents
	}
	if in, open := w.site.quorum.newest().Intents[h.name]; !open || in.Boot != boot {
		w.fail("no needless kill", "%s is switched off for its boot %s, and the open intent is %q", h.name, boot, in.Boot)
	}
	since, steady := w.steady[h]
	if well := at(time.Second + 2*w.site.timing.Lease); first && steady && h.boot == boot && w.site.now-since > well && !w.ruled[h.name] && !h.broke() && w.reaches(h) && !w.justBack(h) {
		w.fail("no healthy host is fenced", "%s is switched off and has been heard by a majority of ears for %v", h.name, time.Duration(w.site.now-since))
	}
	if steady && h.boot != boot && w.site.now-since > at(time.Second+2*w.site.timing.Lease) {
		w.fail("no needless kill", "%s is switched off for its boot %s, and boot %s is well", h.name, boot, h.boot)
	}
}

// broke says whether a service whose rule is to fence has used its starts up here, now or
// when an off that comes late was ordered: an intent that began with a silence goes on for
// that.
func (h *host) broke() bool {
	for _, u := range h.copies {
		v := u.service
		if v.OnFailure != fleet.FailFence || v.Restarts.Count == 0 || u.alive() {
			continue
		}
		n := 0
		for _, t := range u.begun {
			if h.site.elapsed()-t < at(v.Restarts.Within+plan.FenceLasts) {
				n++
			}
		}
		if n >= v.Restarts.Count {
			return true
		}
	}
	return false
}

// reaches says whether a majority of ears has heard the host a moment ago.
func (w *watch) reaches(h *host) bool {
	span := 3 * h.every
	if h.every == w.site.timing.SlowBeat {
		span = 2 * h.every // it is fenced before its third beat is missed, and before its lease ends
	}
	n := 0
	voters := w.site.spec.Voters()
	for _, name := range voters {
		v := w.site.names[name]
		if v.agent == nil || v.agent.ear == nil || v.agentProcess.stopped() {
			continue
		}
		if row, ok := v.agent.ear.Row(fleet.Stint{Host: h.name, Boot: h.boot}); ok && v.clock().Sub(row.Heard) < span {
			n++
		}
	}
	return n >= fleet.Majority(len(voters))
}

// justBack says whether a host that beats slowly was out of reach until a moment ago. Its
// lease may have lasted all the while, and the first beat after it may cross the order.
func (w *watch) justBack(h *host) bool {
	return h.every == w.site.timing.SlowBeat && h.healed > 0 && w.site.now-h.healed < at(2*h.every)
}

// fenced: an off that comes late comes while its intent is still open.
func (w *watch) fenced(h *host) {
	if w.site.paired() {
		w.oneLives(h)
		return
	}
	if _, open := w.site.quorum.newest().Intents[h.name]; !open {
		w.fail("no needless kill", "%s is switched off and no intent is open", h.name)
	}
}

// committed looks at every change of what is remembered, once.
func (w *watch) committed(before, after fleet.State, deed *write) {
	s := w.site
	if after.Epoch < before.Epoch {
		w.fail("newest epoch", "the epoch fell from %d to %d", before.Epoch, after.Epoch)
	}
	w.tick()
	w.written++
	w.most.Writes = max(w.most.Writes, w.written)
	if w.written > writesMost {
		w.fail("no circles", "%d transactions within a second", w.written)
	}
	for _, r := range deed.records {
		kind, name, _ := strings.Cut(r.Key, "/")
		switch kind {
		case "holding":
			old, was := before.Holdings[name]
			now := after.Holdings[name]
			if was && r.Value != nil && now.Generation < old.Generation {
				w.fail("generations rise", "%s fell from generation %d to %d", name, old.Generation, now.Generation)
			}
			if was && r.Value != nil && now.Generation != old.Generation {
				w.hands(name)
			}
			if was && r.Value != nil && now.Generation == old.Generation && now.Holder() != old.Holder() {
				w.fail("generations rise", "%s changed hands within generation %d", name, old.Generation)
			}
		case "proof":
			if p, ok := after.Proofs[name]; ok && r.Value != nil {
				w.proves(p, before.Proofs[name])
			}
		case "evacuation":
			if s.nova != nil && r.Value != nil {
				s.nova.goes(name, before, after)
				s.nova.gives(name, before, after)
			}
		case "intent":
			if in, ok := after.Intents[name]; ok && r.Value != nil && !in.Proved { // a proved one asks for nothing more, and there may be more ears by now
				open := 0
				for _, other := range after.Intents { // in whatever order: they are counted
					if !other.Proved { // else it is done, and open for what an earlier level may do yet
						open++
					}
				}
				w.intends(in, open, r.Text, deed)
			}
		}
	}
	s.stir(time.Second)
}

// proves: no living boot is proved dead.
func (w *watch) proves(p, before fleet.Proof) {
	h := w.site.names[p.Host]
	if p.Boot == before.Boot || p.Kind == "oath" {
		return
	}
	if p.Kind == "watchdog" && !slices.ContainsFunc(h.copies, func(u *unit) bool { return u.exclusive() && u.alive() || u.role() == fleet.RolePromoted }) {
		return // a host that has nothing any more may live on
	}
	if h.on && h.boot == p.Boot {
		w.fail("true proofs", "boot %s of %s lives and is proved dead: %s", p.Boot, p.Host, p.Evidence)
	}
}

// intends: nobody is fenced on one witness, nor many at once, nor one who was well when
// that was decided. A store may take minutes to record it; offOrdered sees that nothing
// follows for a host that is well by then.
func (w *watch) intends(in fleet.Intent, open int, why string, deed *write) {
	s, decided := w.site, deed.at
	h := s.names[in.Host]
	// What was said after the decision, while the store wrote it down, ends the intent.
	if p, left := w.farewells[parting{deed.host, in.Host, in.Boot}]; left && p.life == s.names[deed.host].agentProcess.life && p.at <= decided {
		w.fail("no needless kill", "%s is to be fenced by %s, whom its agent has told that a person stops it", in.Host, deed.host)
	}
	// An intent that goes on, with the next level or for an earlier one, has the reason that it had.
	goesOn := strings.Contains(why, "its next level") || strings.Contains(why, "is proved, and open")
	_, network, cut := strings.Cut(why, "its servers need ")
	w.ruled[in.Host] = strings.Contains(why, "its rule is to fence") || cut || goesOn && w.ruled[in.Host]
	if cut && w.linked(h, network) {
		w.fail("no needless kill", "%s is to be fenced for the loss of %s, over which a majority of voters hears it and answers", in.Host, network)
	}
	if w.ruled[in.Host] {
		return
	}
	w.sweep()
	if _, what, ok := strings.Cut(why, "will be fenced: "); ok {
		what, _, _ = strings.Cut(what, " ")
		w.heldToLive(h, in.Boot, what)
	}
	if n, voters := len(w.promises[in.Boot]), s.spec.Voters(); n < fleet.Majority(len(deed.ears)) || len(deed.ears) < len(voters)-1 {
		w.fail("more than one witness", "%s is to be fenced on the word of %d of %d ears, and there are %d", in.Host, n, len(deed.ears), len(voters))
	}
	since, steady := w.steady[h]
	well := at(2*time.Second + 3*s.timing.Lease)
	// The lease of a compute, also of one that was made a voter meanwhile, may outlast its silence.
	steady = steady && (h.role != "compute" || w.reaches(h) && !w.justBack(h))
	if steady && h.boot == in.Boot && decided-since > well {
		w.fail("no needless kill", "%s is to be fenced and has held its lease for %v", in.Host, time.Duration(decided-since))
	}
	lost := 0
	for _, x := range s.hosts {
		p, proved := s.quorum.newest().Proofs[x.name]
		left := s.quorum.newest().Members[x.name].Left
		offline := left != nil && (left.Boot == x.boot || !s.spoke(x)) // shut down in good order; its next boot has said nothing yet
		// Of one that was fenced and turned on, and has said nothing since, nobody knows a boot that could be lost.
		dead := proved && (p.Boot == x.boot || !s.spoke(x))
		if s.unheard(x, time.Duration(well)) && !dead && !offline {
			lost++
		}
	}
	if open > s.spec.Brakes.Count || lost > s.spec.Brakes.Count {
		w.fail("the brake", "%s is to be fenced while %d hosts are lost and %d intents are open", in.Host, lost, open)
	}
}

// linked says whether a host and a majority of the voters hear each other over a network,
// and not only since a moment ago.
func (w *watch) linked(h *host, network string) bool {
	n := 0
	for net := range w.site.nets {
		if w.site.nets[net].name != network || !h.links[net] {
			continue
		}
		for _, name := range w.site.spec.Voters() {
			v := w.site.names[name]
			if v != h && w.site.open(h, v, net) && w.site.open(v, h, net) && w.site.now-max(h.healed, v.healed) > at(4*w.site.timing.SlowBeat) {
				n++
			}
		}
	}
	return n >= fleet.Majority(len(w.site.spec.Voters()))
}

// unheard says whether no ear has heard the host for a while.
func (s *Site) unheard(h *host, d time.Duration) bool {
	for _, v := range s.hosts {
		if v.agent == nil || v.agent.ear == nil {
			continue
		}
		for _, row := range v.agent.ear.Boots(h.name) {
			if v.clock().Sub(row.Heard) < d {
				return false
			}
		}
	}
	return true
}

// spoke says whether an ear has heard the boot that a host has now.
func (s *Site) spoke(h *host) bool {
	for _, v := range s.hosts {
		if v.agent == nil || v.agent.ear == nil {
			continue
		}
		if slices.ContainsFunc(v.agent.ear.Boots(h.name), func(r lease.Row) bool { return r.Stint.Boot == h.boot }) {
			return true
		}
	}
	return false
}

// sweep is what is looked at from time to time rather than when it changes.
func (w *watch) sweep() {
	s := w.site
	for _, h := range s.hosts {
		led := h.on && !h.agentProcess.stopped() && h.agent != nil && h.agent.hand.Leased(h.clock())
		_, steady := w.steady[h]
		switch {
		case led && (!steady || w.stints[h] != h.agent.hand.Stint()): // one that ends and the next fit between two looks
			w.steady[h], w.stints[h] = s.now, h.agent.hand.Stint()
			delete(w.lapsed, h)
		case !led && steady:
			delete(w.steady, h)
			w.lapsed[h] = s.now
		}
		w.hearing(h)
	}
	w.led()
}

// led: where a majority of voters is well and connected, somebody leads soon.
func (w *watch) led() {
	s := w.site
	voters := s.quorum.voters
	well := 0
	for _, h := range voters {
		if !h.on || h.agentProcess.stopped() || h.quorumProcess.stopped() || h.agent == nil || h.member.node == nil || h.member.hung || h.member.slow > 0 {
			continue
		}
		fine := true
		for _, o := range voters {
			// One that is frozen or off hinders nobody; a cut way might.
			if o != h && o.on && !(s.open(h, o, 0) && s.open(o, h, 0)) {
				fine = false
			}
		}
		if fine {
			well++
		}
	}
	if s.quorum.changing || well < fleet.Majority(len(voters)) || s.nets[0].loss > 0 || s.nets[0].late > 0 {
		w.leaderAt = max(w.leaderAt, s.now)
	}
	bound := 12*at(s.timing.Election) + 2*second
	if s.now-w.leaderAt > bound {
		w.fail("a leader", "nobody has led for %v although %d of %d voters are well", time.Duration(s.now-w.leaderAt), well, len(voters))
	}
}

// severed says which host that is up has not ended its own TCP to an address that has
// moved; "" if all have.
func (s *Site) severed(a fleet.Address) string {
	held := s.quorum.newest().Holdings[a.Thing()]
	for _, h := range s.hosts {
		if held.From.Host != "" && h.on && h.agent != nil && h.agent.severed[a.Name] < held.Generation {
			return fmt.Sprintf("%s has half-dead TCP to %s, which moved to %s", h.name, a.Thing(), held.Host)
		}
	}
	return ""
}

// well says what is not as it should be once nothing is wrong any more.
func (s *Site) well() string {
	var leader *leader
	for _, h := range s.hosts {
		if !h.on || h.agent == nil || h.agentProcess.stopped() {
			return h.name + " is not up"
		}
		if !h.agent.hand.Leased(h.clock()) {
			return h.name + " has no lease"
		}
		if h.voter && h.agent.leader.on && h.agent.leader.holds() {
			leader = &h.agent.leader
		}
	}
	if leader == nil {
		return "nobody leads"
	}
	state := s.quorum.newest()
	for i, a := range s.spec.Addresses {
		who := s.watch.speakers[i]
		if len(who) != 1 {
			return fmt.Sprintf("%d hosts speak for %s", len(who), a.Thing())
		}
		if state.Holdings[a.Thing()].Host != who[0].name {
			return fmt.Sprintf("%s speaks for %s, the record says %s", who[0].name, a.Thing(), state.Holdings[a.Thing()].Host)
		}
		if why := s.severed(a); why != "" {
			return why
		}
	}
	for _, v := range s.spec.Services {
		for _, home := range s.spec.Homes(v) {
			u := s.names[home].copy(v.Name)
			holder := state.Holdings[v.Thing()].Host
			switch {
			case v.Mode == fleet.ActiveActive && (u.phase != fleet.Running || u.hung):
				return fmt.Sprintf("%s is %s on %s", v.Name, u.phase, home)
			case v.Mode == fleet.ActivePassive && home == holder && (u.phase != fleet.Running || u.hung):
				return fmt.Sprintf("%s is %s on %s, which holds it", v.Name, u.phase, home)
			case v.Mode == fleet.Promoted && (u.phase != fleet.Running || u.hung):
				return fmt.Sprintf("%s is %s on %s", v.Name, u.phase, home)
			case v.Mode == fleet.Promoted && u.promoted != (home == holder):
				return fmt.Sprintf("%s is %s on %s, and the record says %q", v.Name, u.role(), home, holder)
			case v.Mode == fleet.ActivePassive && home != holder && u.alive():
				return fmt.Sprintf("%s runs on %s, and the record says %q", v.Name, home, holder)
			}
		}
	}
	if s.brokers != nil {
		if why := s.brokers.lacks(); why != "" {
			return why
		}
	}
	if s.nova != nil {
		if why := s.nova.lacks(); why != "" {
			return why
		}
	}
	if why := s.pairWell(); why != "" {
		return why
	}
	for _, host := range fleet.Sorted(state.Intents) {
		return "the intent to fence " + host + " is open"
	}
	for _, x := range leader.plan.Waits {
		return fmt.Sprintf("%s waits for %s", x.About, x.For)
	}
	return ""
}
