package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/judge"
)

// What the loss of computes would come to is told before it comes: the very rules of
// evacuate.go choose the targets, in the same order, one request after another in a time
// of their own, and after each the rules of Nova's scheduler (nova.go) say whether it would
// be taken there. A refusal costs a try and a pause, as it would on the day.

// What an evacuation takes, as it was measured on a real Nova (docs/STATE.md, "Servers of dead
// computes on the real Nova"). Two beats in a row are missing and the third is late; ears and
// leader answer within the sums of docs/DESIGN.md section 3.
const (
	previewAsks = 40 * time.Millisecond // R at worst
	// A BMC must say off twice, a second apart; the lab's took 1.0 s in all.
	previewProof = time.Second
	// From the proof to the first request that Nova took: 0.5 s. Nova is looked at once a
	// second meanwhile, twice before the first server is known.
	previewAccepted, previewLooks = 500 * time.Millisecond, 2 * time.Second
	// From the request to active: 3.5 s and 4.1 s for one alone; six on one target took
	// 8.4 s, which is a second for each after the first, and up to 15 s; in the worst case
	// none begins before the one ahead is done.
	previewAlone, previewAloneMost = 3500 * time.Millisecond, 4100 * time.Millisecond
	previewEach                    = time.Second
	// A restore is a rebuild more: 8.4 s and 10.8 s from its request to active, two at once, of images
	// of 0.4 MB (make lab-snapshots). A large image's way from Glance comes on top.
	previewRebuild, previewRebuildMost = 8 * time.Second, 11 * time.Second
	// A reserve is put into the aggregates and enabled, each seen at the next look.
	previewOpens = 2 * previewLooks
	// A request that finds no valid host ends so half a second later.
	previewRefused = 500 * time.Millisecond
)

// pace is how fast a target works: one server alone, and each of several; and how long a server
// that is there needs until its gate is answered, which is its guest's own affair.
type pace struct{ alone, each, gate time.Duration }

var (
	paceLeast = pace{previewAlone, previewEach, 0}
	paceMost  = pace{previewAloneMost, previewAloneMost, groupLasts}
)

// foresight is one World and one survey, and what is looked up in them many times.
type foresight struct {
	d     *decision
	rules *rules
	sound []berth
}

func newForesight(w fleet.World, s fleet.Survey) *foresight {
	f := &foresight{d: newDecision(w)}
	f.d.byHost = map[string][]fleet.Server{}
	m := f.d.newMove()
	f.sound = m.sound()
	f.rules = newRules(w.Cloud.Computes, &s)
	for _, id := range fleet.Sorted(s.Servers) {
		v := s.Servers[id]
		f.d.byHost[v.Host] = append(f.d.byHost[v.Host], v)
	}
	return f
}

// passenger is a server on its way in a preview.
type passenger struct {
	fleet.Server
	e     fleet.Evacuation
	fate  fleet.Fate
	ready time.Duration // no next try before
	due   time.Duration // when its present try comes to an end
	under bool          // one is under way
	over  bool
	after []*band
}

// band is a restart group in a preview.
type band struct {
	members []*passenger
	after   []*band
	gated   map[*passenger]bool
}

// bands says for whom each server waits, as holdsUp does.
func (f *foresight) bands(all []*passenger) {
	o := &ordering{groups: map[string]*restart{}}
	at := map[string]*band{}
	key := func(x *passenger, name string) string {
		return fleet.RestartGroup{Project: x.Project, Name: name}.Key()
	}
	for _, x := range all {
		name := groupOf(x.Server)
		if name == "" || x.over {
			continue
		}
		k := key(x, name)
		if at[k] == nil {
			at[k], o.groups[k] = &band{gated: map[*passenger]bool{}}, &restart{after: map[string]bool{}}
		}
		at[k].members = append(at[k].members, x)
		if gate, _ := f.d.gate(x.Server); gate != nil && x.State == fleet.ServerActive {
			at[k].gated[x] = true
		}
		for _, first := range known(names(x.Server, fleet.MetaAfter)) {
			o.groups[k].after[key(x, first)] = true
		}
	}
	for _, x := range all {
		own := key(x, groupOf(x.Server))
		for _, first := range known(names(x.Server, fleet.MetaAfter)) {
			b := at[key(x, first)]
			if b == nil || o.circle(own, key(x, first)) {
				continue
			}
			x.after = append(x.after, b)
			if g := at[own]; g != nil && !slices.Contains(g.after, b) {
				g.after = append(g.after, b)
			}
		}
	}
}

// readiness is when those after a group go on, by what is known so far: when its last member is
// there and its gate is answered, or when it has been waited for long enough.
type readiness struct {
	gate time.Duration
	at   map[*band]time.Duration
}

func (r readiness) of(b *band) time.Duration {
	if at, known := r.at[b]; known {
		return at
	}
	since, at := time.Duration(0), time.Duration(0)
	for _, first := range b.after {
		since = max(since, r.of(first))
	}
	for _, x := range b.members {
		switch {
		case x.fate.State != fleet.FateMoves && x.fate.State != fleet.FateUnsure:
			at = since + groupLasts
		case b.gated[x]:
			at = max(at, x.due+r.gate)
		default:
			at = max(at, x.due)
		}
	}
	r.at[b] = min(at, since+groupLasts)
	return r.at[b]
}

// last is when a server may go.
func (r readiness) last(x *passenger) (at time.Duration) {
	for _, b := range x.after {
		at = max(at, r.of(b))
	}
	return at
}

// kin are servers for which the same targets are looked at.
type kin struct {
	from, zone string
	ram        int
}

// unroll plays the evacuation of the hosts in virtual time, from the first request on. The
// fates' RTO is that time.
func (f *foresight) unroll(hosts []string, p pace) []fleet.Fate {
	gone := map[string]bool{}
	for _, h := range hosts {
		gone[h] = true
	}
	d := *f.d
	d.gone, d.takers = gone, map[string]bool{}
	m := d.newMove()
	m.berths = make([]berth, 0, len(f.sound))
	for _, b := range f.sound {
		if !gone[b.host] {
			m.berths = append(m.berths, b)
		}
	}
	r := f.rules.without(gone)
	var all, fresh, going []*passenger // going are under way, or in the pause before their next try
	var ready []due
	for _, h := range hosts {
		for _, s := range m.servers(h) {
			ready = append(ready, due{fleet.Evacuation{Server: s.ID, From: h}, s})
		}
	}
	for _, y := range m.ordered(ready) {
		s, h := y.server, y.From
		if e, known := f.d.w.State.Evacuations[s.ID]; known && e.Ended == "" {
			continue // it is on its way already
		}
		x := &passenger{Server: s, e: fleet.Evacuation{Server: s.ID, From: h}, fate: fleet.Fate{Server: s.ID, Name: s.Name, From: h}}
		if why := f.d.leave(s); why != "" {
			x.fate.State, x.fate.Why, x.over = fleet.FateLeft, why, true
		} else if f.d.onHost(&s) {
			f.disk(x, h)
		}
		if all = append(all, x); !x.over {
			fresh = append(fresh, x)
		}
	}
	// opens takes a reserve into use for one that fits on no other, as fromReserve does.
	opens := func(x *passenger) bool {
		zone := d.w.Cloud.Computes[x.Host].Zone
		for _, host := range d.w.Spec.OpenStack.Reserved {
			c, own := d.w.Cloud.Computes[host], d.zoneOf(host)
			_, used := r.used[host]
			switch {
			case used || gone[host] || !d.inHand(host) || c.FreeRAM < x.RAM || slices.Contains(x.e.Tried, host):
			case own != "" && own != zone || own == "" && d.zoneOf(x.Host) == "" && c.Zone != zone:
			default:
				r.used[host] = zone
				m.berths = append(m.berths, berth{host, zone, c.FreeRAM})
				return true
			}
		}
		return false
	}
	f.bands(all)
	free := map[string]time.Duration{} // when a target has done what it was given
	for now := time.Duration(0); ; {
		groups := readiness{p.gate, map[*band]time.Duration{}}
		// start asks for the next try of one, if a target is free. What all that fit are too busy
		// for, they are for the next one like it.
		busy := map[kin]bool{}
		start := func(x *passenger) bool {
			if groups.last(x) > now {
				return false
			}
			like := kin{x.Host, x.Zone, x.RAM}
			if x.e.Try == 0 && busy[like] {
				return false
			}
			opened := time.Duration(0)
			if to, all := m.berth(x.e, x.Server); to == "" && !all && !scheduled(x.e) && opens(x) {
				opened = previewOpens
			}
			to, ok := m.target(x.e, x.Server)
			if !ok {
				busy[like] = busy[like] || x.e.Try == 0
				return false
			}
			host := to
			if to == "" {
				host = r.choose(&x.Server)
			}
			m.total++
			x.e.Try, x.e.To, x.under = x.e.Try+1, to, true
			x.e.At = time.Time{}.Add(now)
			m.onWay[host]++
			m.pledged[host] += x.RAM
			if host == "" || to != "" && r.refuses(host, &x.Server) != "" {
				x.due = now + previewRefused
				return true
			}
			x.fate.To = host
			r.take(host, &x.Server)
			x.due = max(now+opened+p.alone, free[host]+p.each)
			free[host] = x.due
			return true
		}
		tried, skipped := 0, []*passenger(nil)
		for ; tried < len(fresh) && m.total < evacuateAtOnce; tried++ {
			if x := fresh[tried]; start(x) {
				going = append(going, x)
			} else {
				skipped = append(skipped, x)
			}
		}
		if fresh = fresh[tried:]; len(skipped) > 0 {
			fresh = append(skipped, fresh...)
		}
		for _, x := range going {
			if !x.under && x.ready <= now {
				start(x)
			}
		}
		// On to what happens next: a try that ends, or a pause that is over.
		next := time.Duration(-1)
		for _, x := range going {
			at := x.ready
			if x.under {
				at = x.due
			}
			if at > now && (next < 0 || at < next) {
				next = at
			}
		}
		for _, x := range fresh {
			if at := groups.last(x); at > now && (next < 0 || at < next) {
				next = at
			}
		}
		if next < 0 {
			break
		}
		now = next
		for _, x := range going {
			if !x.under || x.due > now {
				continue
			}
			x.under = false
			m.total--
			host := cmp.Or(x.fate.To, x.e.To)
			m.onWay[host]--
			switch {
			case x.fate.To != "":
				x.over = true
				x.fate.State, x.fate.Tries, x.fate.RTO = fleet.FateMoves, x.e.Try, fleet.Span{Least: now, Most: now}
				if why := r.unsure(&x.Server); why != "" {
					x.fate.State, x.fate.Why = fleet.FateUnsure, why
				}
				continue // its memory stays taken
			case x.e.To == "":
				x.over = true
				x.fate.State, x.fate.Tries, x.fate.Why = fleet.FateUnfit, x.e.Try, r.lacks(&x.Server)
			default:
				x.e.Tried = append(x.e.Tried, x.e.To)
				x.ready = now + max(0, min(2*time.Second<<min(x.e.Try, 8), evacuatePause)-previewRefused)
			}
			m.pledged[host] -= x.RAM
		}
		going = slices.DeleteFunc(going, func(x *passenger) bool { return x.over })
	}
	out := make([]fleet.Fate, 0, len(all))
	for _, x := range all {
		if !x.over {
			x.fate.State, x.fate.Why = fleet.FateUnfit, r.lacks(&x.Server) // Nova is not even asked
		}
		out = append(out, x.fate)
	}
	return out
}

// Foresee says what would become of the servers of some computes if these died at once,
// in a World as the leader has it now and a survey of OpenStack. It decides nothing.
func Foresee(w fleet.World, s fleet.Survey, hosts []string) fleet.Preview {
	f := newForesight(w, s)
	hosts = slices.Compact(slices.Sorted(slices.Values(hosts)))
	out := fleet.Preview{Hosts: hosts, At: w.Wall, Requests: s.Requests, Held: f.held(hosts)}
	out.Fates = f.unroll(hosts, paceLeast)
	latest := map[string]time.Duration{}
	for _, x := range f.unroll(hosts, paceMost) {
		latest[x.Server] = x.RTO.Most
	}
	before, how := f.before()
	out.How = how
	images, restored := 0, 0
	for i := range out.Fates {
		x := &out.Fates[i]
		switch x.State {
		case fleet.FateLeft:
			out.Left++
			continue
		case fleet.FateUnfit:
			out.Unfit++
			continue
		case fleet.FateUnsure:
			out.Unsure++
		}
		local := w.Spec.Local(x.From)
		if !s.Servers[x.Server].Volume && !local {
			images++
		}
		if v := s.Servers[x.Server]; local && !v.Volume {
			x.RTO.Least += w.Spec.OpenStack.LocalDisks.Wait
			latest[x.Server] += w.Spec.OpenStack.LocalDisks.Wait
			if !x.Snapshot.IsZero() {
				restored++
				x.RTO.Least += previewRebuild
				latest[x.Server] += previewRebuildMost
			}
		}
		x.RTO = fleet.Span{Least: before.Least + x.RTO.Least, Most: before.Most + max(x.RTO.Least, latest[x.Server])}
		if out.First.Least == 0 || x.RTO.Least < out.First.Least {
			out.First.Least = x.RTO.Least
		}
		if out.First.Most == 0 || x.RTO.Most < out.First.Most {
			out.First.Most = x.RTO.Most
		}
		out.Last.Least, out.Last.Most = max(out.Last.Least, x.RTO.Least), max(out.Last.Most, x.RTO.Most)
	}
	for _, host := range w.Spec.OpenStack.Reserved {
		if f.d.spare(host) && slices.ContainsFunc(out.Fates, func(x fleet.Fate) bool { return x.To == host }) {
			out.Notes = append(out.Notes, host+" is taken from the reserve for what fits nowhere else")
		}
	}
	if s.Away != "" {
		out.Notes = append(out.Notes, "Placement did not answer ("+s.Away+"): room is Nova's own count of memory, without overcommitment, reservations, traits and devices")
	}
	if restored > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("%d of them are restored from snapshots: %v to %v more is reckoned for each (measured, with images of 0.4 MB); the way of a large image from Glance comes on top", restored, previewRebuild, previewRebuildMost))
	}
	if images > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("%d of them boot from an image: they keep their disks only if these are on storage that all computes share", images))
	}
	return out
}

// before is what comes before the first request, and how all times are computed.
func (f *foresight) before() (fleet.Span, []string) {
	t := f.d.w.Spec.Timing
	silent := fleet.Span{Least: f.d.fatal() - t.SlowBeat, Most: f.d.fatal() + previewAsks}
	proof := fleet.Span{Least: previewProof, Most: FenceLasts}
	asked := fleet.Span{Least: previewAccepted, Most: previewAccepted + previewLooks}
	return fleet.Span{Least: silent.Least + proof.Least + asked.Least, Most: silent.Most + proof.Most + asked.Most}, []string{
		fmt.Sprintf("silence: %v to %v (a beat each %v; two are missing and the third is late)", silent.Least, silent.Most, t.SlowBeat),
		fmt.Sprintf("proof by its BMC: %v to %v (off twice, a second apart; what its first level is given at most)", proof.Least, proof.Most),
		fmt.Sprintf("first request taken by Nova: %v to %v (measured, and two looks at it)", asked.Least, asked.Most),
		fmt.Sprintf("each server: %v to %v from its request to active (measured), then %v to %v for each more on the same target; at most %d at a time to one target and %d in all; a try that is refused costs its pause",
			previewAlone, previewAloneMost, previewEach, previewAloneMost, perTarget, evacuateAtOnce),
		fmt.Sprintf("what comes after a group (%s) waits until that is there and its gates are answered, at best at once; %v at most", fleet.MetaAfter, groupLasts),
		"the guest's own boot comes after that",
	}
}

// held says why nothing would be done about the loss of some hosts before a person acts.
func (f *foresight) held(hosts []string) (out []string) {
	d := f.d
	lost := map[string]bool{}
	for _, name := range slices.Concat(judge.Lost(d.w), fleet.Sorted(d.w.State.Intents), hosts) {
		lost[name] = true
	}
	switch {
	case d.w.Spec.Mode == "shadow":
		out = append(out, "the site is in shadow mode: nothing is carried out")
	case d.disarmed:
		out = append(out, "fencing is disarmed: mainstay disarm off")
	}
	told := map[string]bool{}
	for _, name := range hosts {
		host, _ := d.w.Spec.Host(name)
		b, holds := d.braked(&host, lost)
		if !holds || told[b.of] {
			continue
		}
		told[b.of] = true
		if b.of == unzoned {
			out = append(out, "the brake: Nova does not say which zone "+name+" is in")
			continue
		}
		out = append(out, fmt.Sprintf("the brake: %d lost at once is more than %s of %d %s, and %s before a person swears for each: mainstay recover oath HOST",
			len(b.lost), b.allows, b.all, b.whose(), b.then()))
	}
	for _, name := range hosts {
		host, _ := d.w.Spec.Host(name)
		switch h := d.w.State.Holdings[Compute(name)]; {
		case h.Host == "":
			out = append(out, fmt.Sprintf("no boot of %s has the right to run servers: none of them is evacuated (mainstay status)", name))
		case len(host.Fence) == 0:
			out = append(out, fmt.Sprintf("%s has no fence: a person must swear that it is off (mainstay recover oath %s)", name, name))
		case d.maintenance(name):
			out = append(out, fmt.Sprintf("%s is in maintenance, and is not fenced before its end or an oath", name))
		case d.loops(d.w.State.Members[name]):
			out = append(out, fmt.Sprintf("%s: %s", name, d.often(d.w.State.Members[name])))
		}
	}
	return out
}

// Bear says which losses of computes can be borne at present, by a survey of all servers.
func Bear(w fleet.World, s fleet.Survey) fleet.Capacity {
	f := newForesight(w, s)
	out := fleet.Capacity{At: w.Wall, Servers: len(s.Servers), Short: map[string]fleet.Shortage{}, Zones: map[string]fleet.Bearing{}, Away: s.Away, Requests: s.Requests}
	// Of rigid servers no compute lacks but room: a rule keeps them where they are, however many are lost.
	rigid := map[string]bool{}
	tight := map[string]bool{} // zones of which one host's loss does not fit for want of room
	zones := map[string][]string{}
	weight := map[string]int{}
	for i := range w.Spec.Hosts {
		host := w.Spec.Hosts[i].Name
		c, known := w.Cloud.Computes[host]
		if !known || c.Forced || !w.Spec.Hosts[i].HasRole("compute") {
			continue // of one that is dead its evacuation tells
		}
		out.Hosts++
		zones[c.Zone] = append(zones[c.Zone], host)
		for _, v := range f.d.byHost[host] {
			weight[host] += v.RAM
		}
		var short fleet.Shortage
		for _, x := range f.unroll([]string{host}, paceLeast) {
			if x.State != fleet.FateUnfit {
				continue
			}
			if v := s.Servers[x.Server]; f.rules.without(map[string]bool{host: true}).rigid(&v) {
				rigid[x.Server] = true
			} else {
				tight[c.Zone] = true
			}
			if short.Servers++; short.Servers == 1 {
				short.First, short.Why = cmp.Or(x.Name, x.Server), x.Why
			}
		}
		if short.Servers > 0 {
			out.Short[host] = short
		}
	}
	for _, zone := range fleet.Sorted(zones) {
		hosts := zones[zone]
		slices.SortStableFunc(hosts, func(a, b string) int { return cmp.Or(cmp.Compare(weight[b], weight[a]), cmp.Compare(a, b)) })
		fits := func(k int) bool {
			return !slices.ContainsFunc(f.unroll(hosts[:k], paceLeast), func(x fleet.Fate) bool { return x.State == fleet.FateUnfit && !rigid[x.Server] })
		}
		b := fleet.Bearing{Hosts: len(hosts), Worst: hosts[0]}
		if !tight[zone] && fits(1) {
			low, high := 1, len(hosts) // low fits, high is not known to
			for low < high-1 {
				if mid := (low + high) / 2; fits(mid) {
					low = mid
				} else {
					high = mid
				}
			}
			b.K = low
		}
		out.Zones[zone] = b
	}
	return out
}

// capacity tells a person which compute's loss would not fit, long before it is lost.
func (d *decision) capacity() {
	short := d.w.Capacity.Short
	if len(short) == 0 || d.w.Spec.OpenStack.Cloud == "" {
		return
	}
	hosts := fleet.Sorted(short)
	slices.SortStableFunc(hosts, func(a, b string) int { return cmp.Compare(short[b].Servers, short[a].Servers) })
	first := short[hosts[0]]
	text := fmt.Sprintf("a person: if %s died, %s of its servers would find no place (%s: %s)", hosts[0], count(first.Servers), first.First, first.Why)
	if len(hosts) > 1 {
		text += fmt.Sprintf("; the loss of %s would not fit either", few(hosts[1:]))
	}
	d.wait("capacity", text, fmt.Sprintf("mainstay preview 'host %s dies'; more or larger computes, or fewer servers", hosts[0]))
}

func count(n int) string {
	if n == 1 {
		return "one"
	}
	return fmt.Sprint(n)
}

// Question reads what a person asks a preview: "host n017 dies", "hosts n001,n002 die", "hosts
// n[001-040] die", or nothing, which is about each compute in turn.
func Question(words []string) (hosts []string, err error) {
	list := strings.Fields(strings.ReplaceAll(strings.Join(words, " "), ",", " "))
	if len(list) == 0 {
		return nil, nil
	}
	last := list[len(list)-1]
	if len(list) < 3 || list[0] != "host" && list[0] != "hosts" || last != "dies" && last != "die" {
		return nil, fmt.Errorf("a preview cannot answer %q: ask 'host n017 dies' or 'hosts n001,n002 die'", strings.Join(words, " "))
	}
	for _, pattern := range list[1 : len(list)-1] {
		names, err := fleet.Names(pattern)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, names...)
	}
	return hosts, nil
}
