package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// A guest can hang and its process live: a kernel that stands still in it crashes for nobody. Its
// guest agent shows that, if it has one: it answered, its channel is still open at the guest's end, and
// it answers no more. That is a sign and no proof, for the agent is one process of the guest, and who does
// not answer it may well answer its clients. So Nova is asked to reboot a guest for it only
//
//   - where its owner says so (HA_Alive), and nobody else is about something with it: its owner's
//     lock, a task of Nova's, a state but active, its question HA_Ready that is answered;
//   - where it is alone: guests that fall silent at once do so for their host's sake, or for ours;
//   - after it was recorded, and watched by Nova's word and its own for a while from then on: a snapshot that
//     quiesces it holds its agent up, and the silence outlasts the task by a question;
//   - once: the next time is another silence, which its host says only of a guest that has answered again.
//
// What Masakari's introspective monitor does is the precedent: a ping each ten seconds, three without an answer.
const (
	// silentFor is how long an agent must be silent where its owner names no longer time, and
	// silentWatched how long the record of it must stand.
	silentFor     = time.Minute
	silentWatched = 30 * time.Second
	// silentSpan: whose silences began within this of each other fell silent at once.
	silentSpan = 5 * time.Minute
	// silentAsks is how many Nova is asked about at a time, in turn, whose owners' wishes are not known, or are and whose
	// time has not come; silentAsked how long a silence, or a leader, is young: then nobody asks for its guest.
	silentAsks  = 20
	silentAsked = 10 * time.Minute
	// silentBoot is how long a guest that was rebooted has until its agent is missed.
	silentBoot = 3 * time.Minute
)

// Alive reads the question by which a server is seen to be alive, fleet.MetaAlive: for how long its
// agent must be silent; 0 where nothing is asked for, or nothing that can be read.
func Alive(text string) (time.Duration, error) {
	kind, span, timed := strings.Cut(strings.TrimSpace(text), ":")
	switch {
	case kind == "":
		return 0, nil
	case kind == fleet.CheckAgent && !timed:
		return silentFor, nil
	}
	if d, err := time.ParseDuration(span); kind == fleet.CheckAgent && err == nil && d >= silentFor {
		return d, nil
	}
	return 0, fmt.Errorf("%q is no question: agent, or agent:DURATION of a minute at least, such as agent:5m, would be one", text)
}

// quiet is a guest whose agent fell silent, by its host's word.
type quiet struct {
	host, boot, id string
	since          time.Time
	age            time.Duration // by that host's own clock
}

// lull is what hosts say of silent agents, put in order once in a turn: thousands fall silent at once where a network
// or a storage goes, and each asks who else did.
type lull struct {
	all []quiet
	at  map[[2]string]int   // where in all, by host and id
	on  map[string][]int    // those of a host, the newest silence first
	of  []int               // the number of hosts with one that began at once with it, its own too
	was map[string][]string // by host, whom Mainstay had rebooted for a silence
	// computes is how many the site has, steps what the counting took.
	computes, steps int
}

// lulled returns this turn's.
func (d *decision) lulled() *lull {
	if d.lull != nil {
		return d.lull
	}
	x := &lull{at: map[[2]string]int{}, on: map[string][]int{}, was: map[string][]string{}}
	d.lull = x
	for i := range d.w.Spec.Hosts {
		host := d.w.Spec.Hosts[i].Name
		if d.w.Spec.Hosts[i].HasRole("compute") {
			x.computes++
		}
		if len(d.w.Reports[host].Guests.Silent) == 0 {
			continue
		}
		g, boot, ok := d.living(host)
		if !ok {
			continue // nothing is known of them now
		}
		for _, id := range fleet.Sorted(g.Silent) {
			x.at[[2]string{host, id}] = len(x.all)
			x.all = append(x.all, quiet{host, boot, id, g.Silent[id], d.w.Reports[host].Wall.Sub(g.Silent[id])})
		}
	}
	for _, id := range fleet.Sorted(d.w.State.Revivals) {
		if r := d.w.State.Revivals[id]; r.Silent && r.Try > 0 {
			x.was[r.Host] = append(x.was[r.Host], id)
		}
	}
	x.count()
	return x
}

// count finds with one pass over the silences by age how many hosts each one's neighbours in time are on.
func (x *lull) count() {
	x.of = make([]int, len(x.all))
	byAge := make([]int, len(x.all))
	for i := range byAge {
		byAge[i] = i
	}
	slices.SortStableFunc(byAge, func(i, j int) int { return cmp.Compare(x.all[i].age, x.all[j].age) })
	in := map[string]int{} // the hosts of those from first to last
	first, last := 0, 0
	for _, i := range byAge {
		age := x.all[i].age
		for ; last < len(byAge) && x.all[byAge[last]].age-age < silentSpan; last++ {
			in[x.all[byAge[last]].host]++
			x.steps++
		}
		for ; age-x.all[byAge[first]].age >= silentSpan; first++ {
			host := x.all[byAge[first]].host
			if in[host]--; in[host] == 0 {
				delete(in, host)
			}
			x.steps++
		}
		x.of[i] = len(in)
		x.on[x.all[i].host] = append(x.on[x.all[i].host], i)
	}
}

// beside says whether another of its host fell silent at once with it, one that was rebooted for it a moment ago too.
func (d *decision) beside(x quiet) bool {
	h := d.lulled()
	on := h.on[x.host]
	k, _ := slices.BinarySearchFunc(on, x.age-silentSpan+1, func(i int, age time.Duration) int { return cmp.Compare(h.all[i].age, age) })
	for ; k < len(on) && h.all[on[k]].age-x.age < silentSpan; k++ {
		h.steps++
		if h.all[on[k]].id != x.id {
			return true
		}
	}
	return slices.ContainsFunc(h.was[x.host], func(id string) bool { return d.rebootedWith(id, x) })
}

// rebootedWith says whether a server was rebooted for a silence that began at once with another's.
func (d *decision) rebootedWith(id string, x quiet) bool {
	d.lulled().steps++
	return id != x.id && d.w.State.Revivals[id].Crash.Sub(x.since).Abs() < silentSpan
}

// widely says whether silences began at once on so many hosts as a brake would not let be fenced.
func (d *decision) widely(hosts int) bool {
	b := d.w.Spec.Brakes
	return fleet.Armed(fleet.GuardBrake) && hosts > 1 && (hosts > b.Count || hosts*100 > b.Share*d.lulled().computes)
}

// together says why a silence is no fault of its guest's: others began at once, on so many hosts as a
// brake would not let be fenced, or on its own.
func (d *decision) together(x quiet) string {
	h := d.lulled()
	i, known := h.at[[2]string{x.host, x.id}]
	switch {
	case known && d.widely(h.of[i]):
		hosts := []string{}
		for _, y := range h.all { // in the order of hosts
			if (x.age-y.age).Abs() < silentSpan && (len(hosts) == 0 || hosts[len(hosts)-1] != y.host) {
				hosts = append(hosts, y.host)
			}
		}
		return fmt.Sprintf("guests of %d of %d computes fell silent at once (%s), which is no fault of theirs until shown otherwise", len(hosts), h.computes, few(hosts))
	case d.beside(x):
		here := []string{x.id}
		for _, i := range h.on[x.host] {
			if y := h.all[i]; y.id != x.id && (x.age-y.age).Abs() < silentSpan {
				here = append(here, y.id)
			}
		}
		for _, id := range h.was[x.host] {
			if d.rebootedWith(id, x) {
				here = append(here, id)
			}
		}
		slices.Sort(here)
		return fmt.Sprintf("guests of %s fell silent at once (%s), which is its host's fault or ours until shown otherwise", x.host, few(slices.Compact(here)))
	}
	return ""
}

// silences takes up what hosts say of guests whose agents are silent. Nova is asked of those that are alone,
// with the looks that are made anyway, until their time comes.
func (d *decision) silences(taken map[string]bool) {
	h := d.lulled()
	most := -1 // of those on too many hosts, who fell silent with those of the most: one line tells of all
	told := map[string]time.Duration{}
	var ask, wanted []string // of those that are alone
	for i, x := range h.all {
		was, known := d.w.State.Revivals[x.id]
		same := known && was.Silent && was.Host == x.host && was.Crash.Equal(x.since) && !was.Busy
		tell := x.age >= silentFor && x.age < crashSpan
		switch {
		case d.widely(h.of[i]):
			if tell && (most < 0 || h.of[i] > h.of[most]) {
				most = i
			}
			continue
		case d.beside(x):
			if last, before := told[x.host]; tell && (!before || (last-x.age).Abs() >= silentSpan) {
				told[x.host] = x.age
				d.wait(Compute(x.host), "a person: "+d.together(x)+"; none of them is rebooted", "look at the load, the memory and the storage of "+x.host)
			}
			continue
		}
		p, leaves := d.w.State.Departures[x.id]
		if same || taken[x.id] || known && was.Ended == "" || d.evacuated(x.id) || leaves && p.Ended == "" || d.drained(x.host) {
			continue
		}
		s, seen := d.w.Cloud.Servers[x.id]
		span, err := Alive(s.Metadata[fleet.MetaAlive])
		if err != nil {
			d.wait("server/"+x.id, "its owner, whose word is taken for not said: "+fleet.MetaAlive+": "+err.Error(), "openstack server set --property ... "+x.id)
		}
		left := span - silentWatched - x.age
		if !seen || span == 0 || left > 0 {
			switch young := min(x.age, d.w.Now.Sub(d.w.Since)); {
			case s.Metadata[fleet.MetaAlive] != "":
				wanted = append(wanted, x.id)
			case young < silentAsked: // else its owner has been asked, and does not ask for it
				ask = append(ask, x.id)
			}
			if left > 0 {
				d.wake(left)
			}
			continue
		}
		d.plan.Servers = append(d.plan.Servers, x.id)
		if d.w.Cloud.Away != "" || s.Task != "" {
			continue // somebody is about to do something with it: its time begins again after that
		}
		next := fleet.Revival{Server: x.id, Name: s.Name, Host: x.host, Boot: x.boot, Crash: x.since, Silent: true, Crashes: append(d.recent(was.Crashes), d.w.Wall), At: d.w.Wall}
		text := fmt.Sprintf("the guest agent of %s has been silent for %v on %s", cmp.Or(s.Name, x.id), x.age.Truncate(time.Second), x.host)
		if why := d.spared(next, s); why != "" {
			next.Ended, next.Crashes = why, d.recent(was.Crashes)
			text += ", and it is left as it is: " + why
		}
		taken[x.id] = true
		d.record(fleet.Put("revival/"+x.id, next, text))
	}
	wanted = inTurn(d, wanted, silentAsks)
	d.plan.Later = slices.Concat(d.plan.Later, wanted, inTurn(d, ask, silentAsks-len(wanted)))
	if most >= 0 {
		d.wait("guests", "a person: "+d.together(h.all[most])+"; none of them is rebooted", "look at the load, the memory and the storage of these computes, and at what they share")
	}
}

// goesFirst is why a silence is left alone while its host is drained: a reboot would wait for the drain's end, and the
// drain for the reboot's. Its guest runs, so it can be live-migrated, which one that crashed cannot.
const goesFirst = "its host is drained, and it goes elsewhere first"

// drained says whether servers are to leave a host that lives.
func (d *decision) drained(host string) bool {
	wish, _ := d.wishes(host)
	return wish.Drain && d.maintenance(host) || d.pushed(d.w.State.Holdings[Compute(host)]) != ""
}

// passes ends a silence for its host's drain; whoever stays may be taken up again after that.
func (d *decision) passes(r fleet.Revival) {
	r.Busy = true
	d.reviveEnd(r, goesFirst)
}

// spared says why a guest whose agent is silent is not rebooted, whatever comes of the silence; "" if it may be.
func (d *decision) spared(r fleet.Revival, s fleet.Server) string {
	awake := s
	awake.State = fleet.ServerActive
	span, _ := Alive(s.Metadata[fleet.MetaAlive])
	i, silent := d.lulled().at[[2]string{r.Host, r.Server}]
	switch {
	case s.State == fleet.ServerDeleted:
		return "deleted by its owner"
	case s.Host != r.Host:
		return "Nova has it on " + s.Host
	case d.leave(awake) != "":
		return d.leave(awake)
	case s.State != fleet.ServerActive && !(s.State == fleet.ServerError && r.Failed > 0):
		return "Nova says that it is " + s.State
	case s.Locked && !s.Ours():
		return "its owner has locked it"
	case span == 0:
		return "its owner does not ask for it (" + fleet.MetaAlive + ")"
	case silent:
		return d.together(d.lulled().all[i])
	}
	return ""
}

// serves says whether a server answers its owner's question HA_Ready, where that can be asked over a network:
// then it serves, whatever its agent does. known is false until the newest look has asked.
func (d *decision) serves(s fleet.Server) (answers, known bool) {
	g, _ := d.gate(s)
	if g == nil || g.Check.Kind == fleet.CheckAgent {
		return false, true
	}
	d.plan.Gates = append(d.plan.Gates, *g)
	why, asked := d.w.Cloud.Gates[s.ID]
	return asked && why == "", asked
}

// silentStep takes a server whose guest agent fell silent one step on.
func (d *decision) silentStep(r fleet.Revival, onWay map[string]int) {
	about := "server/" + r.Server
	g, _, known := d.living(r.Host)
	since, still := g.Silent[r.Server]
	still = still && since.Equal(r.Crash)
	f, flying := d.w.Flights[r.Key()]
	asked := r.Try > 0 && (flying || r.Epoch != d.w.Epoch || r.Doubt)
	spent := d.personal(r)
	if (!asked || spent != "") && d.drained(r.Host) {
		d.passes(r)
		return
	}
	if spent != "" && (still || !known) {
		d.wait(about, "a person: "+spent, "openstack console log show "+r.Server)
		return
	}
	d.plan.Servers = append(d.plan.Servers, r.Server)
	s, seen := d.w.Cloud.Servers[r.Server]
	if !seen || !d.w.Cloud.At.After(d.w.Now.Add(-d.w.Wall.Sub(r.At))) {
		if d.w.Cloud.Away != "" {
			d.wait(about, "OpenStack to answer: "+d.w.Cloud.Away, "openstack server show "+r.Server)
		}
		return
	}
	span, _ := Alive(s.Metadata[fleet.MetaAlive])
	switch answers, sure := d.serves(s); {
	case s.State == fleet.ServerDeleted:
		d.reviveEnd(r, "deleted by its owner")
	case s.Host != r.Host:
		d.reviveEnd(r, "moved to "+s.Host+" by somebody else")
	case !asked && s.Task != "":
		r.Busy = true
		d.reviveEnd(r, "Nova is about something else with it: "+s.Task)
	case !known:
		d.wait(about, cmp.Or(g.Unknown, r.Host+" to be heard"), "mainstay status")
	case !asked && d.spared(r, s) != "":
		d.reviveEnd(r, d.spared(r, s))
	case !asked && answers:
		d.reviveEnd(r, fmt.Sprintf("its %s (%s) is answered: it serves", fleet.MetaReady, s.Metadata[fleet.MetaReady]))
	case !still && s.State == fleet.ServerActive && s.Task == "" && d.reviveLooked(r):
		if flying && f.Effect != nil && f.Effect.Outcome == fleet.Done || !flying && r.Doubt { // long done: the record tells
			d.reviveEnd(r, rebootedFor)
			return
		}
		d.reviveEnd(r, "it is silent no more")
	case r.Try > 0:
		d.reviveTried(r, s, onWay)
	case d.w.Wall.Sub(r.At) < silentWatched:
		d.wake(silentWatched - d.w.Wall.Sub(r.At))
	case d.w.Reports[r.Host].Wall.Sub(r.Crash) < span:
		d.wake(span - d.w.Reports[r.Host].Wall.Sub(r.Crash))
	case sure:
		d.reviveTry(r, s, onWay)
	}
}

// rebootedFor is how the record of a silence ends when it came to a reboot.
const rebootedFor = "it was rebooted"

// forgetSilence takes back the record of a silence that is over. A guest that was rebooted for it, and whose agent does
// not come back, is a person's.
func (d *decision) forgetSilence(r fleet.Revival) {
	g, boot, ok := d.living(r.Host)
	since, still := g.Silent[r.Server]
	still = still && since.Equal(r.Crash)
	if age := d.w.Wall.Sub(r.At); r.Ended == rebootedFor && ok && boot == r.Boot && slices.Contains(g.Machines, r.Server) && !slices.Contains(g.Answering, r.Server) && age < crashSpan {
		if age >= silentBoot {
			d.wait("server/"+r.Server, fmt.Sprintf("a person: %s was rebooted on %s because its guest agent was silent, and that has not answered since", cmp.Or(r.Name, r.Server), r.Host),
				"openstack console log show "+r.Server)
		} else {
			d.wake(silentBoot - age)
		}
	}
	if h := d.w.State.Holdings[Compute(r.Host)]; len(d.recent(r.Crashes)) > 0 || still || !ok && h.Host == r.Host && h.Boot == r.Boot {
		return
	}
	d.record(fleet.Remove("revival/"+r.Server, "that its guest agent was silent is over; history tells it"))
}
