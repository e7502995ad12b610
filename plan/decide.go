// Package plan decides. Decide looks at one World, afresh at every turn, and
// returns what may be written down and ordered now; nothing is remembered
// between turns, so a new leader needs no hand-over and a crash in the middle
// of anything is just another World.
//
// Sequences are not programmed, they emerge: an order appears only once what it
// rests on stands in the World. A right is first recorded; only when the World
// shows the record is its order given; only when a report shows the effect does
// the next thing follow.
//
// The agent's side of the same rules, what to accept and what to do when a
// lease ends, is Hand.
package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/judge"
	"mainstay/lease"
)

// How long an order may be on its way before it is sent again, and how long
// one that was refused or failed rests before it is tried again.
const (
	resend  = 300 * time.Millisecond
	restMin = time.Second
	restMax = 30 * time.Second
)

// decision is one turn's thinking.
type decision struct {
	index
	w    fleet.World
	plan fleet.Plan
	// blocked says why a host may be given nothing; absent: it may.
	blocked map[string]string
	// takers says by zone whether any compute could be given a server, byHost has the servers
	// by Nova's host, once somebody has asked.
	takers map[string]bool
	byHost map[string][]fleet.Server
	gone   map[string]bool // hosts that a preview takes for lost
	// failed says, by "THING@HOST", why and until when a claim is not tried there.
	failed map[string]failure
	waits  map[string]int // where in the plan a thing's wait stands
	// load counts the exclusive things that each host holds or is about to.
	load map[string]int
	// rolls is, by service, the host whose copy is being restarted.
	rolls map[string]string
	// lostHosts are those that count for the brakes: lost, or being fenced. Nil: not counted yet.
	lostHosts map[string]bool
	second    secondOpinion
	lull      *lull // nil: nobody has asked yet
}

// Decide returns the plan for a World whose Verdicts are filled in.
func Decide(w fleet.World) fleet.Plan {
	d := newDecision(w)
	d.void()
	d.farewells()
	d.missing()
	d.admit()
	d.rounds()
	d.contracts()
	d.askStorage()
	d.addresses()
	d.services()
	d.rolling()
	d.computes()
	d.badStorage()
	d.capacity()
	d.fences()
	d.unready()
	d.routes()
	d.refusals()
	d.stores()
	d.pair()
	d.settle()
	if len(d.plan.Records) > 0 {
		// No power switch is touched on what was seen before a write that may have
		// waited for a disk: the next turn, right after it, looks again.
		d.plan.Orders = slices.DeleteFunc(d.plan.Orders, func(o fleet.Order) bool { return o.Verb == fleet.VerbFence })
	}
	return d.plan
}

// newDecision is a World with what a turn looks up in it, before anything is decided.
func newDecision(w fleet.World) *decision {
	d := &decision{index: newIndex(&w), w: w, blocked: map[string]string{}, takers: map[string]bool{}, load: make(map[string]int, len(w.Spec.Hosts)), waits: map[string]int{}, rolls: map[string]string{}, failed: failures(w.Flights)}
	for i := range w.Spec.Hosts {
		host := w.Spec.Hosts[i].Name
		if why := d.unfit(host); why != "" {
			d.blocked[host] = why
		}
	}
	for _, host := range d.holders {
		d.load[host] = len(d.on[host])
	}
	return d
}

// failure is the newest of a host's claims that failed.
type failure struct {
	times int
	at    fleet.Moment
	why   string
}

// failures counts the claims that failed lately, by "THING@HOST": each doubles
// the time until the next, or a host that cannot would be tried without end.
func failures(flights map[string]fleet.Flight) map[string]failure {
	out := map[string]failure{}
	for _, key := range fleet.Sorted(flights) {
		f := flights[key]
		if f.Order.Verb != fleet.VerbClaim || f.Effect == nil || f.Effect.Outcome != fleet.Broken {
			continue
		}
		x := out[f.Order.Thing+"@"+f.Order.To]
		x.times++
		if f.Arrived.After(x.at) {
			x.at, x.why = f.Arrived, f.Effect.Why
		}
		out[f.Order.Thing+"@"+f.Order.To] = x
	}
	return out
}

// Turn judges and decides: the whole thought of one turn.
func Turn(w fleet.World) (fleet.World, fleet.Plan) {
	w.Verdicts = judge.Judge(w)
	return w, Decide(w)
}

// unfit says why a host may be given nothing new; "" if it may.
func (d *decision) unfit(host string) string {
	if why := d.unwell(host); why != "" {
		return why
	}
	return d.departs(host)
}

// unwell says why a host could hold nothing new, whatever people wish; "" if it could.
func (d *decision) unwell(host string) string {
	v := d.w.Verdicts[host]
	if v.Condition != fleet.Healthy && v.Condition != fleet.Degraded {
		return fmt.Sprintf("%s is %s: %s", host, v.Condition, v.Why)
	}
	x, heard := d.see(host), d.w.Heard[host]
	report := &x.report
	if heard.Rival != "" {
		return v.Why
	}
	m, joined := d.w.State.Members[host]
	switch {
	case !joined:
		return host + " has not joined"
	case fleet.Armed(fleet.GuardBar) && m.Admitted != heard.Stint.Boot:
		return fmt.Sprintf("%s is barred until its boot %s is admitted", host, heard.Stint.Boot)
	case fleet.Armed(fleet.GuardBar) && m.Barred != "":
		return fmt.Sprintf("%s is barred (%s)", host, m.Barred)
	case report.Boot != heard.Stint.Boot || report.Stint != heard.Stint.N:
		return host + " has not reported in its present stint"
	case !heard.Leased || !report.Leased:
		return host + " says that no majority acknowledges it"
	}
	if _, open := d.w.State.Intents[host]; open && fleet.Armed(fleet.GuardIntent) {
		return host + " is being fenced"
	}
	if d.w.Spec.Alone == host {
		return host + " has no vote yet since " + d.w.Leader + " went on without it"
	}
	return ""
}

// maintenance says whether a person has taken the host out of service.
func (d *decision) maintenance(host string) bool { return d.see(host).maintenance }

// departs says why what a host has shall go elsewhere and nothing new come to it: a
// person has taken it out of service, or it is shutting down; "" if it stays.
func (d *decision) departs(host string) string {
	switch s := d.see(host); {
	case s.down:
		return host + " is shutting down"
	case s.maintenance:
		return host + " is in maintenance"
	}
	return ""
}

func (d *decision) record(r fleet.Record) { d.plan.Records = append(d.plan.Records, r) }

// wait notes what something waits for. One thing has one wait: a second reason is
// added to the first, or each would be news whenever the other was told last.
func (d *decision) wait(about, forWhat, help string) {
	if i, ok := d.waits[about]; ok {
		x := &d.plan.Waits[i]
		if !strings.Contains(x.For, forWhat) {
			x.For += "; and for " + forWhat
		}
		if x.Help == "" {
			x.Help = help
		}
		return
	}
	d.waits[about] = len(d.plan.Waits)
	d.plan.Waits = append(d.plan.Waits, fleet.Wait{About: about, For: forWhat, Help: help})
}

// wake asks to decide again after a while although nothing may have changed.
func (d *decision) wake(after time.Duration) {
	at := d.w.Now.Add(max(after, time.Millisecond))
	if d.plan.Wake == 0 || at.Before(d.plan.Wake) {
		d.plan.Wake = at
	}
}

// order gives an order unless the same one is on its way or resting.
func (d *decision) order(o fleet.Order) {
	o.Epoch = d.w.Epoch
	if rest := d.rest(o); rest > 0 {
		d.wake(rest)
		return
	}
	d.plan.Orders = append(d.plan.Orders, o)
	d.wake(resend)
}

// rest is how long an order is not to be given, because the same one is on its way
// or was tried a moment ago.
func (d *decision) rest(o fleet.Order) time.Duration {
	f, flying := d.w.Flights[o.Key]
	switch {
	case !flying:
		return 0
	case f.Effect == nil && patient(o.Verb):
		return restMax - d.w.Now.Sub(f.Sent)
	case f.Effect == nil:
		return resend - d.w.Now.Sub(f.Sent)
	case f.Effect.Outcome == fleet.Done && o.Verb == fleet.VerbPowerOn: // a machine takes its time to boot
		return restMax - d.w.Now.Sub(f.Arrived)
	case f.Effect.Outcome == fleet.Done:
		return restMin - d.w.Now.Sub(f.Arrived)
	case o.Verb == fleet.VerbClaim || o.Verb == fleet.VerbRelease:
		return restMin/4 - d.w.Now.Sub(f.Arrived)
	}
	return min(restMax, restMin<<min(f.Tries, 5)) - d.w.Now.Sub(f.Arrived)
}

// patient says whether a verb may take long: its answer is awaited.
func patient(v fleet.Verb) bool {
	switch v {
	case fleet.VerbStart, fleet.VerbStop, fleet.VerbRestart, fleet.VerbPromote, fleet.VerbDemote, fleet.VerbTend, VerbJoin, VerbPosition, VerbBootstrap, VerbKill, VerbUpgrade, VerbGoOn, VerbEven,
		fleet.VerbFence, fleet.VerbConfirm, fleet.VerbPowerOn, fleet.VerbCloud, fleet.VerbRead:
		return true
	}
	return false
}

// to addresses an order to a host's present boot and stint.
func (d *decision) to(o fleet.Order, host string) fleet.Order {
	heard := d.w.Heard[host]
	o.To, o.Boot, o.Stint = host, heard.Stint.Boot, heard.Stint.N
	return o
}

// reaches says whether it makes sense to send a host anything.
func (d *decision) reaches(host string) bool { return d.see(host).reaches }

// current returns a host's report if it speaks for the boot that is heard now.
func (d *decision) current(host string) (*fleet.Report, bool) {
	s := d.see(host)
	return &s.report, s.current
}

// void takes back the proof that a boot is dead which has spoken since: were it
// kept, it would be believed again as soon as the host falls silent.
func (d *decision) void() {
	for _, host := range fleet.Sorted(d.w.State.Proofs) {
		p, v := d.w.State.Proofs[host], d.w.Verdicts[host]
		if d.proving(host, p.Boot) {
			continue
		}
		if v.Stint.Boot == p.Boot && (v.Condition == fleet.Healthy || v.Condition == fleet.Degraded) && fleet.Armed(fleet.GuardProof) {
			d.record(fleet.Remove("proof/"+host, fmt.Sprintf("boot %s of %s has spoken since it was proved dead: the proof is void", p.Boot, host)))
		}
	}
}

// proving says whether a boot has been proved off and not been heard since, though its
// verdict does not say so yet: a host that beats slowly, and was fenced by a rule while it was heard,
// is not silent before three of its beats are missing. Neither the proof nor a living host is
// believed until then.
func (d *decision) proving(host, boot string) bool {
	if p, proved := d.w.State.Proofs[host]; !proved || p.Kind != "fence" || p.Boot != boot || d.w.Heard[host].Stint.Boot != boot {
		return false
	}
	switch d.w.Verdicts[host].Condition {
	case fleet.Healthy, fleet.Degraded:
	default:
		return false
	}
	since := fleet.Moment(0)
	for _, key := range fleet.Sorted(d.w.Flights) {
		f := d.w.Flights[key]
		if f.Order.Verb == fleet.VerbFence && f.Order.Target.Boot == boot && f.Effect != nil && f.Effect.Proof != nil && f.Arrived.After(since) {
			since = f.Arrived
		}
	}
	return since != 0 && !d.w.Heard[host].Last.After(since)
}

// farewells notes which hosts have gone silent in good order: whoever leads later, and
// has never heard them, knows why they are silent. One that goes down with something in
// its hands has not: it is fenced like any other.
func (d *decision) farewells() {
	for i := range d.w.Spec.Hosts {
		host := &d.w.Spec.Hosts[i]
		m, joined := d.w.State.Members[host.Name]
		v := d.w.Verdicts[host.Name]
		speaks := v.Condition == fleet.Healthy || v.Condition == fleet.Degraded
		r, spoken := d.current(host.Name)
		switch {
		case !joined:
		case speaks && m.Left != nil && v.Stint.Boot == m.Left.Boot && !r.Leaving:
			m.Left = nil
			d.member(m, host.Name+" is heard again")
		case !speaks && spoken && r.Leaving && (m.Left == nil || m.Left.Boot != r.Boot) && m.Admitted == r.Boot:
			holds := len(d.on[host.Name]) > 0
			what := "its agent was stopped"
			switch {
			case r.GoesDown && holds:
				continue
			case r.GoesDown:
				what = "it was shut down, and holds nothing"
			case !holds:
				what += ", and it holds nothing"
			}
			m.Left = &fleet.Farewell{Boot: r.Boot, Down: r.GoesDown, At: r.Wall}
			d.member(m, fmt.Sprintf("%s has left in good order: %s", host.Name, what))
		}
	}
}

// missedFor is how long a host may be silent until a person is told.
const missedFor = 10 * time.Second

// missing tells of hosts that fell silent without a word. Of one that has nothing the
// ears are not asked, so nothing is ever decided about it that would tell a person.
func (d *decision) missing() {
	for i := range d.w.Spec.Hosts {
		host := d.w.Spec.Hosts[i].Name
		if _, joined := d.w.State.Members[host]; !joined || d.maintenance(host) {
			continue
		}
		since := d.w.Since
		switch d.w.Verdicts[host].Condition {
		case fleet.Suspect:
			since = d.w.Heard[host].Last
		case fleet.Unheard:
		default:
			continue
		}
		if d.w.Now.Sub(since) >= missedFor {
			d.wait("host/"+host, fmt.Sprintf("a sign of life: nothing has been heard of it for more than %v", missedFor), "look at its power and its networks; mainstay why host/"+host)
		}
	}
}

// member records what is remembered of a host, for this turn's later thoughts too.
func (d *decision) member(m fleet.Member, text string) {
	d.record(fleet.Put("member/"+m.Host, m, text))
	d.w.State.Members = maps.Clone(d.w.State.Members)
	d.w.State.Members[m.Host] = m
}

// admit gives a joined host's new boot its rights back, once nothing that was
// taken from the old one is still on its way and no fence for it is open.
func (d *decision) admit() {
	for i := range d.w.Spec.Hosts {
		host := &d.w.Spec.Hosts[i]
		m, joined := d.w.State.Members[host.Name]
		heard := d.w.Heard[host.Name]
		v := d.w.Verdicts[host.Name]
		report, spoken := d.current(host.Name)
		known := heard.Stint.Boot == m.Admitted
		if !joined || !spoken || known && m.Barred == "" || heard.Rival != "" ||
			v.Condition != fleet.Healthy && v.Condition != fleet.Degraded {
			continue
		}
		if d.proving(host.Name, heard.Stint.Boot) {
			continue
		}
		if _, open := d.w.State.Intents[host.Name]; open && fleet.Armed(fleet.GuardIntent) {
			d.wait("host/"+host.Name, "the open fence intent to end before its new boot is admitted", "")
			if !known {
				d.reborn(m, heard.Stint.Boot) // what it had waits for no fence any more
			}
			continue
		}
		if why := d.leaving(host.Name, heard.Stint.Boot); why != "" {
			d.wait("host/"+host.Name, why+" before its new boot is admitted", "mainstay status")
			d.reborn(m, heard.Stint.Boot)
			continue
		}
		if thing := d.onItsWay(host.Name, heard.Stint.Boot); thing != "" {
			d.wait("host/"+host.Name, thing+" to arrive where it was given before the new boot is admitted", "")
			continue
		}
		if known { // its fence came to nothing, and it is back
			m.Barred = ""
			d.record(fleet.Put("member/"+host.Name, m, fmt.Sprintf("%s is barred no more: boot %s speaks, and no fence is open", host.Name, m.Admitted)))
			continue
		}
		former := m
		m.Admitted, m.Barred, m.Left = heard.Stint.Boot, "", nil
		if report.UUID != "" {
			m.UUID = report.UUID
		}
		d.record(fleet.Put("member/"+host.Name, m, fmt.Sprintf("%s admitted with boot %s", host.Name, heard.Stint.Boot)))
		d.reborn(former, heard.Stint.Boot)
	}
}

// reborn records that a host's admitted boot is dead, because a later one speaks.
func (d *decision) reborn(m fleet.Member, boot string) {
	if p, proved := d.w.State.Proofs[m.Host]; m.Admitted == "" || proved && p.Boot == m.Admitted && p.Kind == "reboot" {
		return
	}
	d.record(fleet.Put("proof/"+m.Host, fleet.Proof{
		Host: m.Host, Boot: m.Admitted, Kind: "reboot", By: d.w.Leader, At: d.w.Wall,
		Evidence: fmt.Sprintf("a later boot of %s, %s, has spoken", m.Host, boot),
	}, fmt.Sprintf("boot %s of %s is dead: a later one has spoken", m.Admitted, m.Host)))
}

// onItsWay names a thing that was taken from an earlier boot of the host and has
// not yet been seen working elsewhere. What was given to a boot that is gone is on its
// way no more: two hosts that lost their power would wait for each other for ever.
func (d *decision) onItsWay(host, boot string) string {
	for _, thing := range d.from[host] {
		h := d.w.State.Holdings[thing]
		if h.From.Host == host && h.From.Boot != boot && h.Host != host && !d.arrived(h) && d.reaches(h.Host) && d.w.Heard[h.Host].Stint.Boot == h.Boot {
			return thing
		}
	}
	return ""
}

// arrived says whether a thing works where it was given, or has come to nothing there, or
// was given back there, which nobody need wait for either: it may be waiting itself for
// what only the host can have that is to be admitted.
func (d *decision) arrived(h fleet.Holding) bool {
	kind, name := split(h.Thing)
	if _, free := d.word(h); free {
		return true
	}
	return d.inEffect(h) || h.Blocked != "" || kind == "service" && d.w.Reports[h.Host].Services[name].Phase == fleet.Failed
}

// inEffect says whether the holder's own report shows the thing working under
// the recorded generation.
func (d *decision) inEffect(h fleet.Holding) bool {
	r, ok := d.current(h.Host)
	if !ok || r.Boot != h.Boot {
		return false
	}
	kind, name := split(h.Thing)
	if kind == "address" {
		a := r.Addresses[name]
		return r.Stint == h.Stint && a.Generation == h.Generation && a.Phase == fleet.Speaking
	}
	s := r.Services[name]
	return s.Generation == h.Generation && s.Phase == fleet.Running && s.Role != fleet.RoleUnpromoted
}

// rounds asks the ears about every host that holds something and has been silent,
// by the leader's own ear, for as long as an ear needs to promise. As long as it
// holds an address the question is about its stint, whose end lets the address
// move; when only services are left it is about the whole boot, whose silence is
// the least that a fence needs.
func (d *decision) rounds() {
	for _, host := range d.holders {
		if d.w.Verdicts[host].Condition == fleet.Dead {
			continue
		}
		heard := d.w.Heard[host]
		round, asked := d.w.Rounds[host]
		stint, address, service := d.holder(host)
		// An address that nobody else can take yet must not keep its host from being
		// fenced for what else it holds.
		stuck := asked && round.Stint == stint && round.Over && d.w.Now.Sub(round.Asked) > d.w.Spec.Timing.Lease
		// That the boot was silent once says nothing of it when it was heard since.
		silent := judge.Silent(round, stint.Boot) && !heard.Last.After(round.Asked)
		if address && service && (stuck || silent) {
			stint.N, address = lease.AnyStint, false
		}
		if asked && round.Over && !address && len(round.Promised) < fleet.Majority(len(d.w.Spec.Voters())) {
			asked = false // there are more ears now: a host is fenced on the word of most of these
		}
		if patience := d.patience(host); asked && round.Over && patience > 0 {
			if _, ok := d.vouched(round, stint.Boot, patience); !ok {
				if left := d.w.Spec.Timing.Lease - d.w.Now.Sub(round.Asked); left > 0 {
					d.wake(left)
					continue
				}
				asked = false // most ears had heard it later than this one
			}
		}
		switch {
		case heard.Stint.Boot != stint.Boot && heard.Stint.Boot != "" && d.reaches(host):
			if !address {
				continue // a later boot speaks, and will be admitted
			}
		case address && heard.Stint.Succeeds(stint):
			continue // its own later stint says it
		case heard.Stint.Boot == stint.Boot:
			silence, last := max(d.w.Spec.Timing.Silence(heard.Late), d.patience(host)), heard.Last
			if !address && asked && round.Over && last.Before(round.Asked) {
				last = max(last, d.w.Told[host]) // its agent was started again: beats may follow
			}
			if left := silence - d.w.Now.Sub(last); left > 0 {
				d.wake(left)
				continue
			}
		}
		if asked && round.Stint == stint && round.Over && (address || heard.Stint.Boot != stint.Boot || heard.Last.Before(round.Asked) && !d.w.Told[host].After(round.Asked)) {
			continue
		}
		// One question at a time: the fence's, about the boot, is not taken back for this.
		same := round.Stint == stint || round.Stint.Boot == stint.Boot && round.Stint.N == lease.AnyStint
		if asked && same && !round.Over && d.w.Now.Sub(round.Asked) <= d.w.Spec.Timing.Lease {
			d.wake(d.w.Spec.Timing.Lease - d.w.Now.Sub(round.Asked))
			continue
		}
		d.plan.Asks = append(d.plan.Asks, fleet.Round{Stint: stint, Number: round.Number + 1, Asked: d.w.Now})
		d.wake(d.w.Spec.Timing.Lease)
	}
}

// holder returns the newest stint under which a host holds an address, or if it
// holds only services, their boot with any stint; and which of the two it holds.
func (d *decision) holder(host string) (stint fleet.Stint, address, service bool) {
	heard := d.w.Heard[host].Stint.Boot
	for _, thing := range d.on[host] {
		h := d.w.State.Holdings[thing]
		kind, _ := split(thing)
		service = service || kind != "address"
		switch {
		case kind == "address" && (!address || h.Boot == stint.Boot && h.Stint > stint.N || h.Boot != stint.Boot && h.Boot == heard):
			stint, address = h.Holder(), true
		case kind != "address" && !address && (stint.Boot == "" || h.Boot == heard):
			stint = fleet.Stint{Host: host, Boot: h.Boot, N: lease.AnyStint}
		}
	}
	return stint, address, service
}

// settle removes wishes that have come true, or cannot any more.
func (d *decision) settle() {
	for _, id := range fleet.Sorted(d.w.State.Wishes) {
		wish := d.w.State.Wishes[id]
		if wish.Verb == fleet.VerbDeed {
			d.record(fleet.Remove("wish/"+id, "history tells it"))
		}
		if wish.Verb == "oath" {
			d.oath(id, wish)
		}
		if wish.Verb == WishCopy {
			d.needless(id, wish)
		}
		if wish.Verb != "move" {
			continue
		}
		if why := d.vain(wish); why != "" {
			d.record(fleet.Remove("wish/"+id, fmt.Sprintf("%s cannot be moved to %s: %s", wish.Thing, wish.To, why)))
			continue
		}
		h, held := d.w.State.Holdings[wish.Thing]
		if held && h.Host == wish.To && d.inEffect(h) {
			d.record(fleet.Remove("wish/"+id, fmt.Sprintf("%s is on %s as %s wished", wish.Thing, wish.To, wish.By)))
		}
	}
}

// oath turns a person's word into a proof, unless the host speaks against it.
func (d *decision) oath(id string, wish fleet.Wish) {
	// One that holds nothing is asked about by nobody, and stays suspect however long it is off.
	h := d.w.Heard[wish.Host]
	muted := d.w.Verdicts[wish.Host].Condition == fleet.Suspect && d.w.Now.Sub(h.Last) >= d.w.Spec.Timing.Silence(fleet.CoarseLate)
	if d.reaches(wish.Host) && !muted && h.Stint.Boot == wish.Boot && fleet.Armed(fleet.GuardProof) {
		d.record(fleet.Remove("wish/"+id, fmt.Sprintf("%s swore that %s is off, but it speaks", wish.By, wish.Host)))
		return
	}
	d.record(fleet.Put("proof/"+wish.Host, fleet.Proof{
		Host: wish.Host, Boot: wish.Boot, Kind: "oath", By: wish.By, At: d.w.Wall,
		Evidence: fmt.Sprintf("%s swore that %s is off: %s", wish.By, wish.Host, wish.Why),
	}, fmt.Sprintf("boot %s of %s is dead by the oath of %s", wish.Boot, wish.Host, wish.By)))
	d.record(fleet.Remove("wish/"+id, "the oath is taken"))
}

// moveWish returns where a person wants a thing to be, unless that is in vain.
func (d *decision) moveWish(thing string) (fleet.Wish, bool) {
	w, ok := d.moves[thing]
	return w, ok && d.vain(w) == ""
}

func split(thing string) (kind, name string) {
	for i := range thing {
		if thing[i] == '/' {
			return thing[:i], thing[i+1:]
		}
	}
	return "", thing
}

// best returns the hosts in the order in which a thing would rather live there:
// as the operator prefers, then where least is held, then by name.
func (d *decision) best(hosts, prefer []string) []string {
	out := slices.Clone(hosts)
	rank := func(host string) int {
		if i := slices.Index(prefer, host); i >= 0 {
			return i
		}
		return len(prefer)
	}
	slices.SortStableFunc(out, func(a, b string) int {
		if r := rank(a) - rank(b); r != 0 {
			return r
		}
		if l := d.load[a] - d.load[b]; l != 0 {
			return l
		}
		if a < b {
			return -1
		}
		return 1
	})
	return out
}

// Urgent says whether a host is being lost, the ears are being asked, or a claim is
// on its way: a leader then writes nothing that the decision does not need.
func Urgent(w fleet.World) bool {
	for _, host := range fleet.Sorted(w.Verdicts) {
		if w.Verdicts[host].Condition == fleet.Suspect {
			return true
		}
	}
	for _, host := range fleet.Sorted(w.Rounds) {
		if r := w.Rounds[host]; !r.Over && !lease.Stale(r, w.Spec.Timing, w.Now) {
			return true
		}
	}
	for _, key := range fleet.Sorted(w.Flights) {
		if f := w.Flights[key]; f.Order.Verb == fleet.VerbClaim && f.Effect == nil && w.Now.Sub(f.Sent) < w.Spec.Timing.Lease {
			return true
		}
	}
	return false
}
