package plan

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"mainstay/fleet"
)

// A server whose guest crashed on a host that lives: its process ended without having been
// told to, or its kernel panicked, by the word of that host's own hypervisor. Nova itself
// notices after 15 s and writes down that the server is stopped; nobody starts it. Who
// stopped it (the owner from inside, Nova, virsh) is told apart by the hypervisor's reason,
// so a server that was shut down is never taken for one that crashed.
//
// What is done is what Masakari's operators expect of an instance's failure: it is started
// again where it was, as it was. Mainstay asks for a hard reboot, which needs no stop before
// it, and for a start if Nova has stopped it meanwhile. It never rebuilds a server: a
// rebuild writes the image anew over its root disk, from microversion 2.93 also over a
// volume, and no restart is worth data. What three tries do not start is a person's.
//
//   - what Nova was asked for is recorded first, as an evacuation is, and one server has one
//     deed at a time: none begins while it is evacuated, or while Nova has a task on it.
//   - nothing that runs is rebooted: Nova's word must be newer than the record, and the
//     host's own report still call it crashed.
const (
	// revivesPerHost bounds how many are on their way on one host: each start reads its disk.
	revivesPerHost = 3
	// Who crashed more than crashLoop times within crashSpan is left to a person, as one
	// whose crash took reviveTries failures.
	crashLoop   = 3
	crashSpan   = time.Hour
	reviveTries = 3
	// reviveLasts is how long Nova may be about a reboot; reviveSeen how long after it says
	// that it is done the host may take to say so too.
	reviveLasts = 5 * time.Minute
	reviveSeen  = 15 * time.Second
	// askLasts is how long a request waits for its answer; one whose answer is lost may be
	// carried out later, as any (cloudLasts).
	askLasts = 20 * time.Second
	// stoppedTold is how long a person is told of a crash that Nova took for a stop.
	stoppedTold = 10 * time.Minute
)

// revive sees to the servers whose guests crashed.
func (d *decision) revive() {
	if d.w.Spec.OpenStack.Cloud == "" {
		return
	}
	taken := map[string]bool{} // in this turn: a second thought would rest on the record of before
	for i := range d.w.Spec.Hosts {
		if host := &d.w.Spec.Hosts[i]; host.HasRole("compute") {
			d.crashes(host.Name, taken)
		}
	}
	d.silences(taken)
	onWay := map[string]int{}
	for _, id := range fleet.Sorted(d.w.State.Revivals) {
		if r := d.w.State.Revivals[id]; r.Ended == "" && r.Try > 0 {
			onWay[r.Host]++
		}
	}
	for _, id := range fleet.Sorted(d.w.State.Revivals) {
		r := d.w.State.Revivals[id]
		switch {
		case taken[id]:
		case r.Ended == "":
			d.reviveStep(r, onWay)
		default:
			d.forget(r)
		}
	}
}

// living returns what a host's agent says of its guests; ok is false if the host is not
// heard, is not the boot that may run servers, or its hypervisor cannot be asked.
func (d *decision) living(host string) (g fleet.Guests, boot string, ok bool) {
	r, current := d.current(host)
	h, v := d.w.State.Holdings[Compute(host)], d.w.Verdicts[host]
	if !current || h.Host != host || h.Boot != r.Boot || v.Condition != fleet.Healthy && v.Condition != fleet.Degraded {
		return fleet.Guests{}, "", false
	}
	if _, dead := d.provedDead(h); dead {
		return fleet.Guests{}, "", false
	}
	return r.Guests, r.Boot, r.Guests.Asked && r.Guests.Unknown == ""
}

// crashes takes up what a host calls crashed, once Nova has said what it thinks of it.
func (d *decision) crashes(host string, taken map[string]bool) {
	if len(d.see(host).report.Guests.Crashed) == 0 {
		return
	}
	g, boot, ok := d.living(host)
	if !ok {
		return
	}
	for _, id := range fleet.Sorted(g.Crashed) {
		r, known := d.w.State.Revivals[id]
		same := known && !r.Silent && r.Host == host && r.Crash.Equal(g.Crashed[id]) && !r.Busy
		p, leaves := d.w.State.Departures[id]
		if same || known && d.asking(r) || d.evacuated(id) || leaves && p.Ended == "" {
			continue
		}
		d.plan.Servers = append(d.plan.Servers, id)
		s, seen := d.w.Cloud.Servers[id]
		if !seen || d.w.Cloud.Away != "" || s.Task != "" {
			continue // somebody is about to do something with it: what comes of that is waited for
		}
		next := fleet.Revival{Server: id, Name: s.Name, Host: host, Boot: boot, Crash: g.Crashed[id], Crashes: d.recent(r.Crashes), At: d.w.Wall}
		awake := s
		awake.State = fleet.ServerActive
		why := d.leave(awake)
		switch {
		case s.State == fleet.ServerDeleted:
			next.Ended = "Nova knows no such server"
		case s.Host != host:
			next.Ended = "Nova has it on " + s.Host
		case why != "":
			next.Ended = why
		case s.State != fleet.ServerActive:
			next.Ended = "Nova says that it is " + s.State
		default:
			next.Crashes = append(next.Crashes, d.w.Wall)
		}
		text := fmt.Sprintf("%s crashed on %s", cmp.Or(s.Name, id), host)
		if next.Ended != "" {
			text += ", and is left as it is: " + next.Ended
		}
		taken[id] = true
		d.record(fleet.Put("revival/"+id, next, text))
	}
}

// recent keeps, of the times of crashes, those of the last hour.
func (d *decision) recent(all []time.Time) (out []time.Time) {
	for _, at := range all {
		if d.w.Wall.Sub(at) < crashSpan {
			out = append(out, at)
		}
	}
	return out
}

// evacuated says whether a server is on its way from a dead host.
func (d *decision) evacuated(id string) bool {
	e, known := d.w.State.Evacuations[id]
	return known && e.Ended == ""
}

// asking says whether a request about a crashed server may be on its way, unanswered.
func (d *decision) asking(r fleet.Revival) bool {
	if r.Ended != "" || r.Try == 0 {
		return false
	}
	f, flying := d.w.Flights[r.Key()]
	return flying && f.Effect == nil && d.w.Now.Sub(f.Sent) < askLasts || r.Epoch != d.w.Epoch && d.w.Now.Sub(d.w.Since) < askLasts
}

// detained says why a server of a dead host is not evacuated yet.
func (d *decision) detained(host string, s fleet.Server) string {
	if d.asking(d.w.State.Revivals[s.ID]) {
		d.wake(time.Second)
		return "Nova's answer: it was asked to reboot it before " + host + " died"
	}
	// What a boot had said that is proved dead itself ended with it.
	if r, ok := d.current(host); ok && d.w.Verdicts[host].Condition != fleet.Dead && slices.Contains(r.Guests.Brought, s.ID) {
		return fmt.Sprintf("it to end on %s, whose later boot runs it: evacuated, it would run twice", host)
	}
	return ""
}

// forget takes back the record of what is over, once nothing can rest on it any more.
func (d *decision) forget(r fleet.Revival) {
	if r.Silent {
		d.forgetSilence(r)
		return
	}
	g, boot, ok := d.living(r.Host)
	_, still := g.Crashed[r.Server]
	if age := d.w.Wall.Sub(r.At); r.Ended == "Nova says that it is "+fleet.ServerStopped && still && age < stoppedTold {
		d.wait("server/"+r.Server, fmt.Sprintf("a person: %s crashed on %s, and by the time Nova could be asked it called it stopped: whether its owner wants it is not known", cmp.Or(r.Name, r.Server), r.Host),
			"openstack server start "+r.Server)
		d.wake(stoppedTold - age)
	}
	if h := d.w.State.Holdings[Compute(r.Host)]; len(d.recent(r.Crashes)) > 0 || still || !ok && h.Host == r.Host && h.Boot == r.Boot || ok && boot == r.Boot && d.w.Wall.Sub(r.At) < stoppedTold {
		return
	}
	d.record(fleet.Remove("revival/"+r.Server, "that it crashed is long ago; history tells it"))
}

// reviveStep takes one crashed server one step on.
func (d *decision) reviveStep(r fleet.Revival, onWay map[string]int) {
	about := "server/" + r.Server
	h := d.w.State.Holdings[Compute(r.Host)]
	if d.evacuated(r.Server) {
		d.reviveEnd(r, "its host died, and it is evacuated")
		return
	}
	if h.Host != r.Host || h.Boot != r.Boot {
		d.reviveEnd(r, "its host has another boot")
		return
	}
	if _, dead := d.provedDead(h); dead {
		return // it is evacuated
	}
	if r.Silent {
		d.silentStep(r, onWay)
		return
	}
	g, _, known := d.living(r.Host)
	_, still := g.Crashed[r.Server]
	spent := d.personal(r)
	if spent != "" && (still || !known) {
		d.wait(about, "a person: "+spent, fmt.Sprintf("openstack server reboot --hard %s; a rebuild would write its image over its disk", r.Server))
		return // it is looked at again when it runs
	}
	d.plan.Servers = append(d.plan.Servers, r.Server)
	s, seen := d.w.Cloud.Servers[r.Server]
	if !seen || !d.w.Cloud.At.After(d.w.Now.Add(-d.w.Wall.Sub(r.At))) {
		if d.w.Cloud.Away != "" {
			d.wait(about, "OpenStack to answer: "+d.w.Cloud.Away, "openstack server show "+r.Server)
		}
		return
	}
	switch {
	case s.State == fleet.ServerDeleted:
		d.reviveEnd(r, "deleted by its owner")
	case s.Host != r.Host:
		d.reviveEnd(r, "moved to "+s.Host+" by somebody else")
	case r.Try == 0 && s.Task != "":
		r.Busy = true
		d.reviveEnd(r, "Nova is about something else with it: "+s.Task)
	case !known:
		d.wait(about, cmp.Or(g.Unknown, r.Host+" to be heard"), "mainstay status")
	case !still && s.State == fleet.ServerActive && s.Task == "" && d.reviveLooked(r):
		d.reviveEnd(r, "it runs again on "+r.Host)
	case r.Try > 0:
		d.reviveTried(r, s, onWay)
	case still:
		d.reviveTry(r, s, onWay)
	case s.State != fleet.ServerActive:
		d.reviveEnd(r, "Nova says that it is "+s.State)
	}
}

// personal says why a crashed server is left to a person; "" if it is not.
func (d *decision) personal(r fleet.Revival) string {
	if recent := d.recent(r.Crashes); r.Try == 0 && len(recent) > crashLoop {
		d.wake(crashSpan - d.w.Wall.Sub(recent[0]))
		what := "it crashed %d times within an hour; it is started again when the first of these is that long ago"
		if r.Silent {
			what = "it hung, or crashed, %d times within an hour; it is rebooted when the first of these is that long ago"
		}
		return fmt.Sprintf(what, len(recent))
	}
	if left := crashSpan - d.w.Wall.Sub(r.At); r.Failed >= reviveTries && left > 0 {
		d.wake(left)
		return fmt.Sprintf("Nova failed to start it %d times (%s); it is tried again an hour after the last", r.Failed, r.Why)
	}
	return ""
}

// reviveLooked says whether Nova was looked at since its newest request was answered, if one was made.
func (d *decision) reviveLooked(r fleet.Revival) bool {
	f, flying := d.w.Flights[r.Key()]
	return r.Try == 0 || !flying || f.Effect != nil && d.w.Cloud.At.After(f.Arrived)
}

// reviveTried decides what a try has come to.
func (d *decision) reviveTried(r fleet.Revival, s fleet.Server, onWay map[string]int) {
	f, flying := d.w.Flights[r.Key()]
	answered := flying && f.Effect != nil
	age := d.w.Wall.Sub(r.At)
	over := func(since fleet.Moment) bool { // as of an evacuation's request
		if left := cloudLasts - d.w.Now.Sub(since); left > 0 {
			d.wake(left)
			return false
		}
		return !d.w.Cloud.At.Before(since.Add(cloudLasts)) && d.w.Cloud.Away == ""
	}
	switch {
	case answered && !d.w.Cloud.At.After(f.Arrived):
	case answered && (f.Effect.Outcome == fleet.Broken || f.Effect.Outcome == fleet.Refused):
		if f.Effect.Outcome == fleet.Broken {
			r.Failed++
		}
		d.reviveAgain(r, s, onWay, f.Effect.Why)
	case answered && !r.Doubt && d.w.Now.Sub(f.Arrived) > restMax:
		r.Doubt = true // a flight is not remembered for ever, and a reboot may last for minutes
		what := "shows no trace of it yet"
		if s.Task != "" {
			what = "is about it: " + s.Task
		}
		d.record(fleet.Put("revival/"+r.Server, r, fmt.Sprintf("%s: Nova was asked to start it (try %d), and %s", title(s), r.Try, what)))
	case flying && !answered && d.w.Now.Sub(f.Sent) < askLasts:
	case !flying && r.Epoch == d.w.Epoch && !r.Doubt:
		if why, help := d.unrevivable(r.Host); why != "" { // since it was recorded
			d.wait("server/"+r.Server, why+toRevive(r), help)
			return
		}
		o := fleet.Order{Key: r.Key(), Verb: fleet.VerbCloud, To: d.w.Leader, Thing: "server/" + r.Server, Step: fleet.CloudReboot,
			Why: fmt.Sprintf("it crashed on %s, which is well", r.Host)}
		if r.Silent {
			o.With, o.Why = fleet.ServerActive, fmt.Sprintf("its guest agent is silent on %s, which is well", r.Host)
		}
		d.order(o)
	case s.Task != "" && age < reviveLasts:
		d.wake(reviveLasts - age)
	case s.Task != "":
		r.Failed++
		d.reviveAgain(r, s, onWay, "Nova's task "+s.Task+" stands still")
	case answered && f.Effect.Outcome == fleet.Done && s.State == fleet.ServerError: // else it may be of before
		r.Failed++
		d.reviveAgain(r, s, onWay, cmp.Or(s.Fault, "Nova calls it broken"))
	case answered && f.Effect.Outcome == fleet.Done && age < reviveSeen:
		d.wake(reviveSeen - age)
	case answered && f.Effect.Outcome == fleet.Done:
		r.Failed++
		d.reviveAgain(r, s, onWay, "Nova has done it, and it does not run")
	case flying && over(f.Sent), r.Epoch != d.w.Epoch && over(d.w.Since), !flying && r.Doubt && age > 2*cloudLasts && d.w.Cloud.Away == "" && d.w.Now.Sub(d.w.Cloud.At) < restMax:
		d.reviveAgain(r, s, onWay, "Nova has no trace of it")
	}
}

// reviveAgain makes the next try of what came to nothing, after a pause that grows. That the last one failed is
// counted with it.
func (d *decision) reviveAgain(r fleet.Revival, s fleet.Server, onWay map[string]int, why string) {
	r.Why = why
	if r.Failed >= reviveTries {
		d.record(fleet.Put("revival/"+r.Server, r, fmt.Sprintf("%s is left to a person: %s", title(s), why)))
		return
	}
	if left := min(2*time.Second<<min(r.Try, 8), evacuatePause) - d.w.Wall.Sub(r.At); left > 0 {
		d.wait("server/"+r.Server, fmt.Sprintf("the next try to start it; the last one, number %d: %s", r.Try, why), "mainstay why server/"+r.Server)
		d.wake(left)
		return
	}
	d.reviveTry(r, s, onWay)
}

// reviveTry records the next try, unless something stands in its way.
func (d *decision) reviveTry(r fleet.Revival, s fleet.Server, onWay map[string]int) {
	if r.Silent && d.drained(r.Host) {
		d.passes(r)
		return
	}
	if why, help := d.unrevivable(r.Host); why != "" {
		d.wait("server/"+r.Server, why+toRevive(r), help)
		return
	}
	if why := d.spared(r, s); r.Silent && r.Try > 0 && why != "" {
		d.reviveEnd(r, why)
		return
	}
	if r.Try == 0 {
		if onWay[r.Host] >= revivesPerHost {
			return
		}
		onWay[r.Host]++
	}
	if r.Failed >= reviveTries {
		r.Failed = 0 // an hour has passed
	}
	r.Try, r.Epoch, r.At, r.Doubt = r.Try+1, d.w.Epoch, d.w.Wall, false
	text := fmt.Sprintf("%s is started again on %s (try %d)", title(s), r.Host, r.Try)
	if r.Silent {
		text = fmt.Sprintf("%s is rebooted on %s (try %d): its guest agent has been silent for %v", title(s), r.Host, r.Try, d.w.Reports[r.Host].Wall.Sub(r.Crash).Truncate(time.Second))
	}
	d.record(fleet.Put("revival/"+r.Server, r, text))
}

// toRevive says what a wait is for.
func toRevive(r fleet.Revival) string {
	if r.Silent {
		return ", to reboot it: its guest agent is silent"
	}
	return ", to start it again: it crashed"
}

// unrevivable says what a host lacks to start a server, and the command that shows it.
func (d *decision) unrevivable(host string) (why, help string) {
	c := d.w.Cloud.Computes[host]
	_, fenced := d.w.State.Intents[host]
	g := d.w.Reports[host].Guests
	switch {
	case d.disarmed:
		return "Mainstay to be armed again", "mainstay disarm off"
	case d.maintenance(host):
		return "the maintenance of " + host + " to end", "mainstay maintenance " + host + " off"
	case fenced:
		return "the fence of " + host + " to end", "mainstay status"
	case d.unserved(host) != "":
		return host + " to have " + d.unserved(host) + " back", "look at its cables and its switch"
	case g.Disks != "":
		return "its disks to be usable: " + g.Disks, "df, mount on " + host
	case !c.Up || d.startsCompute(host):
		return "the nova-compute of " + host + " to be up", "openstack compute service list; mainstay status"
	}
	return "", ""
}

// startsCompute says whether a host's nova-compute is not ready, by its agent, which knows
// it a minute before Nova: when it starts it may start what crashed by itself.
func (d *decision) startsCompute(host string) bool {
	for _, v := range d.local(host) {
		if v.Kind == "compute" && !d.w.Reports[host].Services[v.Name].Ready {
			return true
		}
	}
	return false
}

func (d *decision) reviveEnd(r fleet.Revival, how string) {
	text := fmt.Sprintf("%s, which crashed on %s: %s", cmp.Or(r.Name, r.Server), r.Host, how)
	if r.Silent {
		text = fmt.Sprintf("%s, whose guest agent was silent on %s: %s", cmp.Or(r.Name, r.Server), r.Host, how)
		if n := len(r.Crashes); r.Try == 0 && n > 0 {
			r.Crashes = slices.Clone(r.Crashes[:n-1]) // it was not rebooted for it
		}
	}
	r.Ended, r.At = how, d.w.Wall
	d.record(fleet.Put("revival/"+r.Server, r, text))
}
