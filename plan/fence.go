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

// The brakes that no site may loosen.
const (
	// leaderPause: a new leader fences nobody for so long (HOLES 14).
	leaderPause = 3 * time.Second
	// fenceLoop boots of one host that were proved off within fenceSpan end in a wait for a person.
	fenceLoop = 3
	fenceSpan = time.Hour
	// After fenceEager tries without a proof the levels are gone through every fenceLazy: a
	// device may stay away for a weekend, and history has an end. A host that a power policy
	// turns on after each off also gets the time to boot.
	fenceEager = 20
	fenceLazy  = 10 * time.Minute
)

// FenceLasts bounds one attempt to prove a host off: so long its intent is open, and
// nothing of it can act later.
const FenceLasts = 30 * time.Second

// fences proves hosts off whose boot holds what only a proof can free.
func (d *decision) fences() {
	for _, voter := range d.w.Spec.Voters() {
		r, ok := d.current(voter)
		if !ok {
			continue
		}
		for _, host := range fleet.Sorted(r.Fences) {
			switch d.w.Verdicts[host].Condition {
			case fleet.Healthy, fleet.Degraded, fleet.Suspect:
			default:
				continue // its switch may have gone with it, and its loss says itself what it waits for
			}
			d.wait("fence/"+host, fmt.Sprintf("a person: %s would prove nothing with it (%s)", voter, r.Fences[host]), "mainstay fence test "+host)
		}
	}
	for _, host := range fleet.Sorted(d.w.State.Intents) {
		d.pursue(d.w.State.Intents[host])
	}
	for i := range d.w.Spec.Hosts {
		host := &d.w.Spec.Hosts[i]
		if _, open := d.w.State.Intents[host.Name]; open {
			continue
		}
		if boot, why := d.needsFence(host.Name); why != "" {
			d.intend(host, boot, why)
			continue
		}
		d.powerOn(host)
	}
}

// needsFence says which boot of a host must be proved dead, and what for.
func (d *decision) needsFence(host string) (boot, why string) {
	for _, thing := range d.on[host] {
		h := d.w.State.Holdings[thing]
		kind, name := split(thing)
		if h.Host != host || kind == "address" {
			continue
		}
		if _, dead := d.provedDead(h); dead {
			continue
		}
		if d.w.Heard[host].Stint.Boot != h.Boot && d.w.Heard[host].Stint.Boot != "" && d.reaches(host) {
			continue // a later boot speaks: that is proof enough, once admitted
		}
		if d.returns(host, h.Boot) || d.proving(host, h.Boot) {
			continue
		}
		switch d.w.Verdicts[host].Condition {
		case fleet.Lapsed:
			round := d.w.Rounds[host]
			if _, ok := d.vouched(round, h.Boot, d.patience(host)); !ok {
				continue // a stint that is over may have been followed by another, and there may be more ears now
			}
			if kind == "compute" {
				if holds, why := d.heldToLive(h); holds {
					continue
				} else if why != "" {
					return h.Boot, fmt.Sprintf("%s is there, and %s; %s", thing, d.w.Verdicts[host].Why, why)
				}
			}
			return h.Boot, fmt.Sprintf("%s is there, and %s", thing, d.w.Verdicts[host].Why)
		case fleet.Healthy, fleet.Degraded:
			if kind == "compute" {
				if why := d.forsaken(h); why != "" {
					return h.Boot, why
				}
				continue
			}
			v, _ := d.service(name)
			s := Exclusive(v, d.w.Reports[host].Services[name])
			if v.OnFailure == fleet.FailFence && v.Restarts.Count > 0 && s.Restarts >= v.Restarts.Count && (!alive(s) || s.Stuck) {
				return h.Boot, fmt.Sprintf("%s failed %d times there and its rule is to fence", thing, s.Restarts)
			}
		}
	}
	return "", ""
}

// returns says whether another boot of a host has reported, after the last beat of
// this one and within the time that its own beats may take to follow.
func (d *decision) returns(host, boot string) bool {
	told := d.w.Told[host]
	left := max(restMin, 2*d.w.Spec.Timing.Lease) - d.w.Now.Sub(told)
	if told == 0 || d.w.Reports[host].Boot == boot || !told.After(d.w.Heard[host].Last) || left <= 0 {
		return false
	}
	d.wake(left)
	return true
}

// intend records the intent to fence, if no brake holds it back; an intent of a former leader's
// that is open goes on as its own, and stays open for what that one may do yet.
func (d *decision) intend(host *fleet.Host, boot, why string) {
	about := "host/" + host.Name
	oath := fmt.Sprintf("mainstay recover oath %s, once you have seen that it is off", host.Name)
	lost := d.lostOnes()
	if !lost[host.Name] {
		lost = maps.Clone(lost)
		lost[host.Name] = true
	}
	held, brakes := d.braked(host, lost)
	m := d.w.State.Members[host.Name]
	switch {
	case host.Name == d.w.Leader:
		d.wait(about, "another leader: a leader never fences itself", "")
	case d.unwatched(host.Name, boot):
		d.wait(about, "its agent to be started again: somebody stopped it, and what runs there runs on unwatched ("+why+")",
			fmt.Sprintf("systemctl start mainstay on %s; if the host is off: mainstay recover oath %s", host.Name, host.Name))
	case d.dumps(host, boot):
	case d.disarmed:
		d.wait(about, "fencing to be armed again: it would be fenced now because "+why, "mainstay disarm off")
	case len(host.Fence) == 0:
		d.wait(about, "a proof that it is off: it has no fence ("+why+")", oath)
	case d.maintenance(host.Name):
		d.wait(about, "the end of its maintenance, or an oath ("+why+")", oath)
	case d.w.Now.Sub(d.w.Since) < leaderPause:
		d.wait(about, "the first seconds of a new leader to pass", "")
		d.wake(leaderPause - d.w.Now.Sub(d.w.Since))
	case brakes:
		if _, told := d.waits[held.about()]; told {
			break // a person who is woken by a switch needs one line, not two thousand
		}
		if held.of == unzoned {
			d.wait(about, "Nova to say which zone it is in: brakes/zones bounds how many of one are fenced at once ("+why+")", oath)
			break
		}
		d.wait(held.about(), fmt.Sprintf("a person: %d of %d %s are lost at once (%s), which is our own blindness until shown otherwise%s, and %s", len(held.lost), held.all, held.whose(), few(held.lost), d.itIsTheNetwork(), held.then()),
			"look at the switch that they share; for each host that you have seen to be off: mainstay recover oath HOST")
	case d.loops(m):
		d.wait(about, d.often(m)+"; the next when the first of these is that long ago ("+why+")", oath)
	default:
		// Each try takes the next level, the first one again after the last.
		tries := m.Tried.Of(boot)
		level := tries % len(host.Fence)
		former, taken := d.w.State.Intents[host.Name]
		if taken {
			level = min(former.Level, len(host.Fence)-1) // nobody knows of it that it does not work
		}
		if f, tried := d.w.Flights[d.fenceKey(host.Name, boot)]; tried && f.Effect != nil && f.Effect.Outcome != fleet.Done {
			pause := restMax
			if tries >= fenceEager {
				pause = fenceLazy
			}
			// Another level has not been tried yet, and need not rest.
			if rest := pause - d.w.Now.Sub(f.Arrived); rest > 0 && level == 0 {
				d.wait(about, nextTry(f), oath)
				d.wake(rest)
				return
			}
			d.wait(about, nextTry(f), oath) // still, or a person would hear that nothing is awaited any more
		}
		if v := d.w.Verdicts[host.Name]; v.Condition == fleet.Lapsed && !d.silentNow(host.Name, boot) {
			return // a brake may have held for long, and ears may have heard it since
		}
		d.lostHosts[host.Name] = true
		m.Barred = "fenced: " + why
		m.Tried = fleet.Tries{Boot: boot, Count: tries + 1}
		d.record(fleet.Put("member/"+host.Name, m, host.Name+" is barred"))
		text := fmt.Sprintf("%s will be fenced: %s", host.Name, why)
		if taken {
			text = fmt.Sprintf("%s goes on with the fence of %s that %s began: %s", d.w.Leader, host.Name, former.Executor, why)
		}
		d.record(fleet.Put("intent/"+host.Name, fleet.Intent{
			Host: host.Name, Boot: boot, Device: host.Fence[level].Name(), Level: level, Executor: d.w.Leader, Epoch: d.w.Epoch, At: d.w.Wall, Lasts: FenceLasts, Loose: taken,
		}, text))
	}
}

// lostOnes are the hosts that count for the brakes.
func (d *decision) lostOnes() map[string]bool {
	if d.lostHosts == nil {
		d.lostHosts = map[string]bool{}
		for _, name := range slices.Concat(judge.Lost(d.w), fleet.Sorted(d.w.State.Intents)) { // some are fenced while they are heard
			d.lostHosts[name] = true
		}
	}
	return d.lostHosts
}

// brake is one that holds.
type brake struct {
	of     string // the hosts that it is about: "", role NAME or zone NAME
	lost   []string
	all    int
	allows fleet.Brake
}

// about names it among what is waited for.
func (b brake) about() string {
	return strings.TrimSuffix("brake/"+strings.ReplaceAll(b.of, " ", "/"), "/")
}

// whose says which hosts it is about.
func (b brake) whose() string {
	if b.of == "" {
		return "hosts"
	}
	return "hosts of " + b.of
}

// then says what follows.
func (b brake) then() string {
	if b.of == "" {
		return "nobody is fenced"
	}
	return "none of them is fenced"
}

// unzoned is in place of the hosts while nobody knows which those are: a new leader asks Nova first,
// and it may be away with the switch that took the zone.
const unzoned = "a zone that Nova has not told yet"

// braked returns the brake that keeps a host from being fenced while so many are lost: the site's
// first, then those of its roles and of its zone.
func (d *decision) braked(host *fleet.Host, lost map[string]bool) (brake, bool) {
	if !fleet.Armed(fleet.GuardBrake) {
		return brake{}, false
	}
	holds := func(of string, allows fleet.Brake, in func(*fleet.Host) bool) (brake, bool) {
		b := brake{of: of, allows: allows}
		for i := range d.w.Spec.Hosts {
			if x := &d.w.Spec.Hosts[i]; in(x) {
				b.all++
				if lost[x.Name] {
					b.lost = append(b.lost, x.Name)
				}
			}
		}
		return b, allows.Exceeded(len(b.lost), b.all)
	}
	brakes := d.w.Spec.Brakes
	if all := len(d.w.Spec.Hosts); brakes.Site().Exceeded(len(lost), all) {
		b := brake{all: all, allows: brakes.Site()}
		if _, told := d.waits[b.about()]; !told { // thousands ask, one after the other
			b.lost = fleet.Sorted(lost)
		}
		return b, true
	}
	for _, role := range fleet.Sorted(brakes.Roles) {
		if !host.HasRole(role) {
			continue
		}
		if b, yes := holds("role "+role, brakes.Roles[role], func(x *fleet.Host) bool { return x.HasRole(role) }); yes {
			return b, true
		}
	}
	c, known := d.w.Cloud.Computes[host.Name]
	if len(brakes.Zones) > 0 && host.HasRole("compute") && !known {
		return brake{of: unzoned}, true
	}
	zone := c.Zone
	if allows, bound := brakes.Zones[zone]; bound {
		return holds("zone "+zone, allows, func(x *fleet.Host) bool { return d.w.Cloud.Computes[x.Name].Zone == zone })
	}
	return brake{}, false
}

// unwatched says whether a boot of a host is silent because somebody stopped its agent:
// by the last report that this leader has of it, or by what an earlier one wrote down,
// whose agent may have been restarted since.
func (d *decision) unwatched(host, boot string) bool {
	if r := d.w.Reports[host]; r.Boot == boot {
		return r.Leaving && !r.GoesDown
	}
	left := d.w.State.Members[host].Left
	return left != nil && left.Boot == boot && !left.Down
}

// lately is when a host's boots were proved off within the last fenceSpan.
func (d *decision) lately(m fleet.Member) []time.Time {
	return slices.DeleteFunc(slices.Clone(m.Fenced), func(at time.Time) bool { return d.w.Wall.Sub(at) >= fenceSpan })
}

// loops says whether a host is fenced, and turned on, no more by itself.
func (d *decision) loops(m fleet.Member) bool {
	return len(d.lately(m)) >= fenceLoop && fleet.Armed(fleet.GuardLoop)
}

// often is why not.
func (d *decision) often(m fleet.Member) string {
	return fmt.Sprintf("a person: it was fenced %d times within %v", len(d.lately(m)), fenceSpan)
}

// fenceKey names the newest try to fence a boot.
func (d *decision) fenceKey(host, boot string) string {
	return tryKey(host, boot, d.w.State.Members[host].Tried.Of(boot))
}

func tryKey(host, boot string, try int) string { return fmt.Sprintf("fence/%s/%s/%d", host, boot, try) }

// pursue follows an open intent to its end: an own one by the order and its
// effect, that of a former leader by taking it over, or by waiting until nothing of it can still act.
func (d *decision) pursue(in fleet.Intent) {
	about := "host/" + in.Host
	if in.Epoch != d.w.Epoch {
		left := in.Lasts - d.w.Now.Sub(d.w.Since)
		if left <= 0 || !fleet.Armed(fleet.GuardIntent) {
			d.record(fleet.Remove("intent/"+in.Host, "the fence of "+in.Host+" that a former leader began has ended"))
			return
		}
		d.wake(left)
		// Nobody's servers wait for what a dead leader may still do: the switch is told again, by
		// what the ears of now say. An off is the same off twice.
		if boot, why := d.needsFence(in.Host); why != "" && boot == in.Boot && !in.Proved {
			host, _ := d.w.Spec.Host(in.Host)
			before := len(d.plan.Records)
			d.intend(&host, boot, why)
			if len(d.plan.Records) > before {
				return
			}
		}
		d.wait(about, fmt.Sprintf("the fence that leader %s began in epoch %d to have ended, which may act yet", in.Executor, in.Epoch), "")
		return
	}
	o := fleet.Order{Key: d.fenceKey(in.Host, in.Boot), Verb: fleet.VerbFence, To: in.Executor, Target: fleet.Stint{Host: in.Host, Boot: in.Boot},
		Level: in.Level, Why: "its intent is recorded"}
	f, sent := d.w.Flights[o.Key]
	left := in.Lasts - d.w.Now.Sub(f.Sent)
	switch early := d.earlier(in); {
	case !sent && early > 0 && (d.unwatched(in.Host, in.Boot) || d.writesOn(in) || d.back(in)):
		d.wait(about, "an earlier try to have ended, which may act yet", "")
		d.wake(early)
		return
	case !sent && d.unwatched(in.Host, in.Boot):
		// It said so while the intent was being written down.
		d.record(fleet.Remove("intent/"+in.Host, "somebody stopped the agent of "+in.Host+", and its fence was not ordered yet"))
		return
	case !sent && d.writesOn(in):
		d.record(fleet.Remove("intent/"+in.Host, in.Host+" writes to storage, and its fence was not ordered yet"))
		return
	case !sent && d.back(in):
		d.record(fleet.Remove("intent/"+in.Host, in.Host+" is heard again before its fence was ordered"))
		return
	case f.Effect == nil && sent && left <= 0 && d.back(in):
		d.record(fleet.Remove("intent/"+in.Host, in.Host+" is heard again, and nothing of its fence can act any more"))
		return
	case f.Effect == nil:
		d.wait(about, "its BMC to say twice that it is off", "mainstay recover oath "+in.Host)
		if sent && d.back(in) {
			d.wake(left) // it is well again: it is not told to go off once more
			return
		}
		d.off(in, o)
		return
	case left > 0 && (in.Loose || d.mayAct(f)) && f.Effect.Outcome != fleet.Done && fleet.Armed(fleet.GuardIntent):
		// The device was told, or nobody knows: it may act until the deed is over.
		host, _ := d.w.Spec.Host(in.Host)
		if in.Level+1 < len(host.Fence) && d.unheard(in) {
			d.nextLevel(in, host, f)
			return
		}
		d.wait(about, fmt.Sprintf("its fence to have ended: %s", f.Effect.Why), "mainstay recover oath "+in.Host)
		d.wake(left)
		if f.Effect.Outcome == fleet.NoWord && !d.back(in) && len(host.Fence) == 1 {
			d.off(in, o) // a device that nobody reached is tried until it answers
		}
		return
	}
	// What came of it is known, however long ago: the intent ends with this turn,
	// and nothing may be ordered under it any more.
	switch {
	case f.Effect.Outcome == fleet.Done && f.Effect.Proof != nil:
		p := *f.Effect.Proof
		if !in.Proved {
			d.record(fleet.Put("proof/"+in.Host, p, fmt.Sprintf("%s is off: %s", in.Host, p.Evidence)))
			if m, joined := d.w.State.Members[in.Host]; joined {
				m.Fenced = append(d.lately(m), d.w.Wall)
				d.member(m, fmt.Sprintf("%s was fenced, %d of at most %d times within %v", in.Host, len(m.Fenced), fenceLoop, fenceSpan))
			}
		}
		if in.Loose && left > 0 && fleet.Armed(fleet.GuardIntent) {
			if !in.Proved {
				in.Proved = true
				d.record(fleet.Put("intent/"+in.Host, in, fmt.Sprintf("the fence of %s is proved, and open for what an earlier try may do yet", in.Host)))
			}
			d.wait(about, "an earlier try to have ended, which may act yet", "")
			d.wake(left)
			return
		}
		d.record(fleet.Remove("intent/"+in.Host, "the fence of "+in.Host+" is done"))
	default:
		d.record(fleet.Remove("intent/"+in.Host, fmt.Sprintf("the fence of %s: %s %s", in.Host, f.Effect.Outcome, f.Effect.Why)))
		if boot, why := d.needsFence(in.Host); why != "" && boot == in.Boot {
			d.wait(about, nextTry(f), "mainstay recover oath "+in.Host)
		}
	}
}

// earlier is how long what was begun before an intent's newest try may act yet: by an earlier level,
// or by a former leader.
func (d *decision) earlier(in fleet.Intent) time.Duration {
	if !in.Loose || !fleet.Armed(fleet.GuardIntent) {
		return 0
	}
	since := d.w.Since
	if f, sent := d.w.Flights[tryKey(in.Host, in.Boot, d.w.State.Members[in.Host].Tried.Of(in.Boot)-1)]; sent {
		since = f.Sent
	}
	return in.Lasts - d.w.Now.Sub(since)
}

// nextTry is what a host waits for that a try did not prove off.
func nextTry(f fleet.Flight) string {
	return fmt.Sprintf("the next try to fence it; the last one: %s %s", f.Effect.Outcome, f.Effect.Why)
}

// unheard says whether what an intent was written down for is so yet, by the ears of now.
func (d *decision) unheard(in fleet.Intent) bool {
	boot, why := d.needsFence(in.Host)
	return why != "" && boot == in.Boot && (d.w.Verdicts[in.Host].Condition != fleet.Lapsed || d.silentNow(in.Host, in.Boot))
}

// nextLevel goes on with a host's next power switch when nobody knows what came of the one
// before: a BMC often loses power together with its host. It is still one intent: what the
// earlier one does late would hit the host's next boot, which is not admitted before.
func (d *decision) nextLevel(in fleet.Intent, host fleet.Host, f fleet.Flight) {
	m := d.w.State.Members[in.Host]
	m.Tried = fleet.Tries{Boot: in.Boot, Count: m.Tried.Of(in.Boot) + 1}
	d.record(fleet.Put("member/"+in.Host, m, fmt.Sprintf("the fence of %s by %s: %s %s", in.Host, in.Device, f.Effect.Outcome, f.Effect.Why)))
	in.Level, in.Loose, in.At = in.Level+1, true, d.w.Wall
	in.Device = host.Fence[in.Level].Name()
	d.record(fleet.Put("intent/"+in.Host, in, fmt.Sprintf("%s will be fenced by %s, its next level", in.Host, in.Device)))
	d.wait("host/"+in.Host, nextTry(f), "mainstay recover oath "+in.Host)
}

// back says whether the boot that was to be fenced, or a later one, is heard again and
// nothing else asks for its fence: nobody who is well is switched off.
func (d *decision) back(in fleet.Intent) bool {
	v := d.w.Verdicts[in.Host]
	if v.Condition != fleet.Healthy && v.Condition != fleet.Degraded || v.Stint.Boot != in.Boot && d.w.Heard[in.Host].Rival != "" {
		return false
	}
	_, why := d.needsFence(in.Host)
	return why == ""
}

// mayAct says whether an off may still be on its way after what came of the try: not
// if it was proved done, nor if the only one was refused before it was sent.
func (decision) mayAct(f fleet.Flight) bool {
	switch f.Effect.Outcome {
	case fleet.Done:
		return false
	case fleet.Refused:
		return f.Tries > 1
	}
	return true
}

// off orders the fence, if it is still true that nobody hears the host: the answers
// of the ears may have waited for a slow store, or be those of an earlier try.
func (d *decision) off(in fleet.Intent, o fleet.Order) {
	if d.rest(o) > 0 {
		d.order(o)
		return
	}
	switch d.w.Verdicts[in.Host].Condition {
	case fleet.Healthy, fleet.Degraded:
		d.order(o) // by the rule of a service, not for its silence
		return
	}
	round := d.w.Rounds[in.Host]
	_, sent := d.w.Flights[o.Key]
	refused := round.Stint == fleet.Stint{Host: in.Host, Boot: in.Boot, N: lease.AnyStint} && !round.Over && lease.Stale(round, d.w.Spec.Timing, d.w.Now)
	switch {
	case refused && !sent && d.earlier(in) > 0:
		d.wake(d.earlier(in))
	case refused && !sent:
		d.record(fleet.Remove("intent/"+in.Host, in.Host+" is heard by too many ears, and its fence was not ordered yet"))
	case d.silentNow(in.Host, in.Boot):
		d.order(o)
	}
}

// silentNow says whether a majority of ears heard nothing of a boot a moment ago; if
// the last answer is older or has not come yet, they are asked, and a later turn knows.
func (d *decision) silentNow(host, boot string) bool {
	round, t := d.w.Rounds[host], d.w.Spec.Timing
	age := d.w.Now.Sub(round.Asked)
	_, vouched := d.vouched(round, boot, d.patience(host))
	switch {
	case vouched && age <= max(restMin, 2*t.Lease):
		return true
	case round.Stint.Boot == boot && (!round.Over || judge.Silent(round, boot)) && age <= t.Lease: // also one about its stint; or the silence of some is too short yet
		d.wake(t.Lease - age)
	case !slices.ContainsFunc(d.plan.Asks, func(r fleet.Round) bool { return r.Stint.Host == host }):
		d.plan.Asks = append(d.plan.Asks, fleet.Round{Stint: fleet.Stint{Host: host, Boot: boot, N: lease.AnyStint}, Number: round.Number + 1, Asked: d.w.Now})
		d.wake(t.Lease)
	}
	return false
}

// heldOff says for what of a dead boot its host stays off yet; stays says that its servers do not count.
func (d *decision) heldOff(host string, p fleet.Proof, stays bool) string {
	for _, thing := range d.things {
		h := d.w.State.Holdings[thing]
		switch {
		case thing == Compute(host) && stays:
		case h.Host == host || h.From.Host == host && h.From.Boot == p.Boot && !d.arrived(h):
			if thing == Compute(host) {
				return "its servers to be evacuated"
			}
			return thing + " to arrive elsewhere"
		}
	}
	return ""
}

// powerOn turns a fenced host on again, once nothing is left that it held.
func (d *decision) powerOn(host *fleet.Host) {
	p, proved := d.w.State.Proofs[host.Name]
	if !proved {
		return
	}
	m := d.w.State.Members[host.Name]
	if m.Barred == "" || p.Kind != "fence" || d.w.Verdicts[host.Name].Condition != fleet.Dead {
		return
	}
	h := d.w.State.Holdings[Compute(host.Name)]
	why, stays := "what it held has arrived elsewhere", d.stranded(h)
	if stays {
		why = "its servers have nowhere else to go"
		if len(d.keeps(h)) > 0 {
			why = "the disks of its servers are on it"
		}
	}
	if what := d.heldOff(host.Name, p, stays); what != "" {
		d.wait("host/"+host.Name, what+" before it is turned on again", "")
		return
	}
	if d.loops(m) {
		d.wait("host/"+host.Name, d.often(m)+", it stays off until the first of these is that long ago", "turn it on once you know why")
		return
	}
	d.order(fleet.Order{Key: fmt.Sprintf("power-on/%s/%s", host.Name, p.Boot), Verb: fleet.VerbPowerOn, To: d.w.Leader,
		Target: fleet.Stint{Host: host.Name, Boot: p.Boot}, Level: p.Level, Why: why})
}
