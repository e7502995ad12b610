package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// A drain takes the servers of a compute that lives elsewhere by live migration: because
// a person said so (maintenance --drain), or because it lost a network and the site's file
// says drain. Nothing is at stake but the move itself, so it is the one that gives way:
//
//   - one server after the other from one host, and none while servers are being evacuated.
//   - what Nova does not move after a few targets stays where it is, and is told.
//   - nothing is aborted: when the drain is over nothing more is asked for.
//
// Nova's live migration has its record made a moment after the answer, and refuses a second
// one of the same server while the first goes on; so a request of which nobody knows
// whether it arrived is at worst refused. But its host field changes last: from the moment at
// which the guest goes on at the target, until the source's own nova-compute has said so,
// Nova has it on the source, as "running". A source that dies then leaves a guest that runs
// where nobody looks for it: see stray.
const (
	// perSource is Nova's own max_concurrent_live_migrations; more would wait in line there.
	perSource   = 1
	drainAtOnce = 8
	drainTries  = 3
	// askWithin is how soon after its record a live migration is asked for, or never.
	askWithin = 10 * time.Second
	drainRest = 5 * time.Second
	// strayFor is how long Nova must have called a live migration done, and have the server
	// on the source still: a look reads servers first, and what became of them after that.
	strayFor = 10 * time.Second
	// absentFor is how old that time must be: an agent asks its hypervisor every five
	// seconds, waits as long for the answer, and tells of none after two.
	absentFor = 30 * time.Second
)

// wishes returns the maintenance of a host, if a person wants one.
func (d *decision) wishes(host string) (fleet.Wish, bool) {
	w, ok := d.w.State.Wishes["maintenance-"+host]
	return w, ok && d.maintenance(host)
}

// rests sees to a compute whose boot lives, and from which its servers shall go; true if it
// must stay disabled.
func (m *move) rests(h fleet.Holding) bool {
	d := m.decision
	wish, keep := d.wishes(h.Host)
	why := ""
	if keep {
		because := "maintenance by " + wish.By
		if c, known := d.w.Cloud.Computes[h.Host]; known && !c.Disabled && !c.Forced && d.answers(h.Host) {
			d.cloud(fleet.CloudDisable, h.Thing, cloudKey(fleet.CloudDisable, h)+"/"+wish.At.UTC().Format(time.RFC3339), disabledBy+because)
		}
		if wish.Drain {
			why = because
		}
	}
	if why == "" {
		why = d.pushed(h)
	}
	if why != "" {
		m.draining[h.Host] = why
		m.drain(h, why, keep)
	}
	return keep
}

// pushed says why a compute is drained without a person's word: it has lost a network, says
// so itself, and the site's file says drain.
func (d *decision) pushed(h fleet.Holding) string {
	for _, name := range d.lost(h.Host, fleet.LossDrain, lostActs, false) {
		if up, known := d.w.Reports[h.Host].Links[name]; d.w.Spec.OpenStack.OnLoss(name) == fleet.LossDrain && known && !up && !d.blameless(h.Host, name) && d.many(h.Host, name) == "" {
			return "it is cut off from " + name
		}
	}
	return ""
}

// drain moves the servers of a compute on by one step. by says that a person wants it.
func (m *move) drain(h fleet.Holding, why string, by bool) {
	d := m.decision
	d.plan.Looks = append(d.plan.Looks, h.Host)
	c, known := d.w.Cloud.Computes[h.Host]
	network := d.w.Spec.MigrationNetwork()
	shut := ""
	if host, ok := d.w.Spec.Host(h.Host); ok && network != "" {
		if _, on := host.Addresses[network]; on {
			shut = d.cut(h.Host, network)
		}
	}
	looked := d.w.Cloud.Looked[h.Host]
	switch {
	case d.w.Cloud.At == 0 || d.w.Cloud.Away != "":
		d.wait(h.Thing, "OpenStack to answer: "+cmp.Or(d.w.Cloud.Away, "it has not been asked yet"), "openstack compute service list")
		return
	case !known:
		return // Nova has no such compute: nothing of Nova's can be on it
	case shut != "":
		d.wait(h.Thing, fmt.Sprintf("%s to be back: %s, and over it its servers would be live-migrated, so nothing is tried", network, shut), "look at its cables and its switch; openstack/migration in the site's file names that network")
		return
	case !c.Up:
		d.wait(h.Thing, "Nova to hear its nova-compute: it takes it for down, and live-migrates nothing from it", "openstack compute service list --host "+h.Host)
		return
	case !c.Disabled:
		d.wait(h.Thing, "Nova to give it no new servers", "openstack compute service list --host "+h.Host)
		return
	case looked == 0 || looked.Before(d.w.Cloud.At):
		d.wait(h.Thing, "Nova to list its servers", "openstack server list --all-projects --host "+h.Host)
		return
	}
	var stay, rest []string
	var next []fleet.Server
	onWay, waiting := 0, 0
	for _, id := range fleet.Sorted(d.w.State.Departures) {
		if p := d.w.State.Departures[id]; p.From == h.Host && underway(p) {
			onWay++
		}
	}
	var all []due
	for _, s := range d.servers(h.Host) {
		all = append(all, due{fleet.Evacuation{Server: s.ID}, s})
	}
	for _, x := range m.ordered(all) {
		s := x.server
		p, known := d.w.State.Departures[s.ID]
		known = known && p.From == h.Host && p.Boot == h.Boot
		switch reason := Fixed(&d.w.Spec, s); {
		case known && underway(p):
		case stray(s) != "", known && p.Ended == "":
			stay = append(stay, fmt.Sprintf("%s (its live migration to %s is over, and its guest may be there: virsh list on both)", title(s), cmp.Or(stray(s), p.To)))
		case known && p.Stays && p.Why == why:
			stay = append(stay, fmt.Sprintf("%s (%s)", title(s), p.Ended))
		case s.State == fleet.ServerStopped:
			rest = append(rest, fmt.Sprintf("%s (%s)", title(s), reason))
		case reason != "":
			stay = append(stay, fmt.Sprintf("%s (%s)", title(s), reason))
		default:
			waiting++
			if r, crashed := d.w.State.Revivals[s.ID]; s.Task == "" && (!crashed || r.Ended != "") {
				next = append(next, s)
			}
		}
	}
	for _, id := range fleet.Sorted(d.w.State.Departures) {
		if p := d.w.State.Departures[id]; p.Ended == "" && !p.Strayed.IsZero() && p.To == h.Host && !d.absent(id, h.Host, p.Strayed) {
			stay = append(stay, fmt.Sprintf("%s (Nova has it on %s, and its guest may run here, where its live migration went: virsh list)", p.Title(), p.From))
		}
	}
	hold := ""
	switch {
	case len(next) > 0 && d.nobody(next[0]):
		hold = "; no other compute can be given any"
	case d.disarmed:
		hold = "; nothing is asked for while it is disarmed"
	case m.total > 0:
		hold = "; nothing is asked for while servers of dead hosts are evacuated"
	case len(next) > 0 && onWay < perSource && m.departing < drainAtOnce:
		m.depart(fleet.Departure{Server: next[0].ID, Name: next[0].Name, From: h.Host, Boot: h.Boot, Why: why}, next[0])
	}
	if waiting+onWay > 0 {
		d.wait(h.Thing, fmt.Sprintf("its servers to leave it (%s): %d on their way, %d yet to go%s", why, onWay, waiting, hold), "mainstay status")
	}
	switch {
	case len(stay) > 0:
		slices.Sort(stay)
		d.wait(h.Thing, fmt.Sprintf("a person: of its servers %d stay: %s", len(stay), few(stay)), "openstack server list --all-projects --host "+h.Host)
	case by && waiting+onWay == 0:
		// Nothing runs there that its death could cost: whoever switches it off now loses nothing,
		// and nobody is fenced for it (E6). A stopped server needs nothing of its host but at its start.
		d.emptied(h, rest)
	}
}

// underway says whether a live migration goes on, as far as Nova knows.
func underway(p fleet.Departure) bool { return p.Ended == "" && p.Strayed.IsZero() }

// sends says whether a server is live-migrated from a host.
func (d *decision) sends(host string) bool {
	for _, id := range fleet.Sorted(d.w.State.Departures) {
		if p := d.w.State.Departures[id]; p.From == host && p.Ended == "" {
			return true
		}
	}
	return false
}

// Fixed says why a drain leaves a server where it is; "" if Nova is asked to live-migrate it.
func Fixed(spec *fleet.Spec, s fleet.Server) string {
	switch {
	case slices.Contains(spec.OpenStack.Leave, s.Project):
		return "its project is left to its owner"
	case s.State == fleet.ServerStopped:
		return "it is stopped"
	case s.State != fleet.ServerActive && s.State != fleet.ServerPaused:
		return "Nova live-migrates no server that is " + s.State
	}
	return ""
}

// depart records a server's next try, if there is somewhere to go.
func (m *move) depart(p fleet.Departure, s fleet.Server) {
	if to, ok := m.target(fleet.Evacuation{From: p.From, Tried: p.Tried}, s); ok {
		m.departTo(p, s, to)
	}
}

// departTo records its next try, to a host; "" leaves the choice to Nova's scheduler.
func (m *move) departTo(p fleet.Departure, s fleet.Server, to string) {
	d := m.decision
	p.Try, p.To, p.After, p.Epoch, p.At = p.Try+1, to, s.Live.ID, d.w.Epoch, d.w.Wall
	p.Strayed, p.Reset = time.Time{}, time.Time{} // of the try before
	m.departing++
	m.onWay[to]++
	m.pledged[to] += s.RAM
	where := "to " + to
	if to == "" {
		where = "to where Nova's scheduler puts it"
	}
	d.record(fleet.Put("departure/"+s.ID, p, fmt.Sprintf("%s is live-migrated from %s %s (try %d): %s", title(s), p.From, where, p.Try, p.Why)))
}

// departures takes each live migration that is under way one step on, and forgets those
// that are over with their drain.
func (m *move) departures() {
	d := m.decision
	for _, id := range fleet.Sorted(d.w.State.Departures) {
		p := d.w.State.Departures[id]
		h := d.w.State.Holdings[Compute(p.From)]
		e, evacuated := d.w.State.Evacuations[id]
		s, seen := d.w.Cloud.Servers[id]
		switch {
		case p.Ended != "" && d.w.Spec.OpenStack.Rebalance == fleet.RebalanceReturned && strings.HasPrefix(p.Ended, "on ") && !p.Back && d.maintenance(p.From):
			// It may go back once its host has been back for a while, and that is not back yet.
		case p.Ended != "" && (m.draining[p.From] == "" || h.Boot != p.Boot):
			if p.Back {
				d.record(fleet.Remove("departure/"+id, "its way back is over; history keeps it"))
				break
			}
			d.displaced(id, p.Name, p.From, p.Ended)
			d.record(fleet.Remove("departure/"+id, "the drain is over; history keeps the way it took"))
		case p.Ended != "":
		case evacuated && e.From == p.From && e.Boot == p.Boot:
			m.leaves(p, p.From+" died, and it is evacuated", false)
		case seen && h.Host == p.From && h.Boot != p.Boot && s.Host == p.From && (stray(s) == "" || d.fallen(p.To) || d.absent(id, p.To, p.At)) && s.Task == "" && d.w.Wall.Sub(p.At) > cloudLasts:
			// A later boot has it, with its disk (restore.go), and nothing of the request can come any more.
			m.leaves(p, p.From+" was started anew with it", false)
		case seen:
			m.follows(p, h, s)
		}
	}
}

// leaves ends a departure.
func (m *move) leaves(p fleet.Departure, how string, stays bool) {
	p.Ended, p.Stays = how, stays
	text := fmt.Sprintf("%s, live-migrated from %s: %s", p.Title(), p.From, how)
	if stays {
		text = fmt.Sprintf("%s stays on %s: %s", p.Title(), p.From, how)
	}
	m.record(fleet.Put("departure/"+p.Server, p, text))
}

// follows decides what a try has come to, by Nova's own record of it first.
func (m *move) follows(p fleet.Departure, h fleet.Holding, s fleet.Server) {
	d, live := m.decision, s.Live
	traced := live.ID > p.After && live.From == p.From
	ended, well := live.Ended()
	_, dead := d.provedDead(h)
	since := d.w.Wall.Sub(p.At)
	switch {
	case s.State == fleet.ServerDeleted:
		m.leaves(p, "deleted by its owner", false)
	case s.Host != p.From && s.Task == "":
		m.leaves(p, "on "+s.Host, false)
	case s.Host != p.From, dead, h.Host != p.From, h.Boot != p.Boot: // its evacuation, if it needs one, is another duty
	case traced && ended && (well || s.State == fleet.ServerError || stray(s) != ""), !traced && !p.Strayed.IsZero() && s.Task == "":
		// Another try would end at once if the guest is at the target, and Nova's newest record say nothing of that any more.
		m.strays(p, s)
	case traced && ended:
		m.retry(p, s, "its live migration ended as "+live.Status)
	case traced && live.Status == "accepted" && since > evacuateLasts:
		m.leaves(p, "its live migration stands still as accepted", true)
	case traced: // Nova itself bounds how long a guest may take (live_migration_completion_timeout)
	case s.Task == fleet.TaskMigrating && since > unscheduled:
		m.leaves(p, "Nova calls it migrating, and has no record of that: its message was lost; openstack server set --state active "+s.ID, true)
	case s.Task == fleet.TaskMigrating:
		d.wake(unscheduled - since)
	default:
		m.asks(p, s)
	}
}

// asks sees to a try of which Nova shows nothing.
func (m *move) asks(p fleet.Departure, s fleet.Server) {
	d := m.decision
	f, flying := d.w.Flights[p.Key()]
	since := d.w.Wall.Sub(p.At)
	switch {
	case flying && f.Effect != nil && (f.Effect.Outcome == fleet.Broken || f.Effect.Outcome == fleet.Refused):
		m.retry(p, s, f.Effect.Why)
	case since > cloudLasts:
		if d.w.Cloud.Away == "" && d.w.Now.Sub(d.w.Cloud.At) < restMax {
			m.retry(p, s, "Nova has no trace of it")
		}
	case !flying && p.Epoch == d.w.Epoch && since < askWithin && !m.onward(p):
		why := "its drain was taken back before Nova was asked"
		if p.Back {
			why = "something else came first, and Nova was not asked"
			x := fleet.Displaced{Server: p.Server, Name: p.Name, From: p.To, On: p.From, At: d.w.Wall, Wait: rebalanceAfter}
			d.record(fleet.Put("displaced/"+p.Server, x, p.Title()+" may go back later"))
		}
		m.leaves(p, why, true)
	case !flying && p.Epoch == d.w.Epoch && since < askWithin:
		d.order(fleet.Order{Key: p.Key(), Verb: fleet.VerbCloud, To: d.w.Leader, Thing: "server/" + p.Server, Step: fleet.CloudMigrate, With: p.To, Why: p.From + ": " + p.Why})
	default:
		d.wake(cloudLasts - since)
	}
}

// retry makes the next try of what came to nothing, or lets the server stay: it serves
// where it is.
func (m *move) retry(p fleet.Departure, s fleet.Server, why string) {
	d := m.decision
	if left := drainRest - d.w.Wall.Sub(p.At); left > 0 {
		d.wake(left)
		return
	}
	p.Path = append(slices.Clone(p.Path), fmt.Sprintf("try %d, %s: %s", p.Try, cmp.Or(p.To, "Nova's scheduler"), why))
	if p.Try >= drainTries || p.To == "" || m.draining[p.From] == "" {
		m.leaves(p, why, true)
		return
	}
	if d.disarmed || m.total > 0 {
		return
	}
	p.Tried = append(slices.Clone(p.Tried), p.To)
	if underway(p) { // its own former try is in nobody's way
		m.onWay[p.To]--
		m.pledged[p.To] -= s.RAM
	}
	m.depart(p, s)
}

// strayKey names what is asked for a server whose live migration left it nowhere.
func strayKey(step string, p fleet.Departure) string {
	since := p.Strayed
	if p.Reset.After(since) {
		since = p.Reset
	}
	return fmt.Sprintf("%s/%s/%s", step, p.Server, since.UTC().Format(time.RFC3339))
}

// strays sees to a server of which Nova says that its live migration is over, and that it is
// on the source: the target's nova-compute did not answer at the end, so its guest runs there; or
// that it broke, as Nova writes of one whose source's nova-compute was started anew in the middle, wherever its guest is.
// Nova may forget the migration, as its records are purged; the departure does not.
func (m *move) strays(p fleet.Departure, s fleet.Server) {
	d, about := m.decision, "server/"+s.ID
	if p.Strayed.IsZero() {
		p.Strayed, p.To = d.w.Wall, cmp.Or(s.Live.To, p.To)
		d.record(fleet.Put("departure/"+s.ID, p, fmt.Sprintf("%s: Nova says that its live migration to %s is over (%s), and has it on %s", title(s), p.To, s.Live.Status, p.From)))
		return
	}
	if left := strayFor - d.w.Wall.Sub(p.Strayed); left > 0 {
		d.wake(left)
		return
	}
	to := p.To
	_, well := s.Live.Ended()
	well = well && s.Live.ID > p.After && s.Live.From == p.From
	again := func(step, with, why string) {
		d.order(fleet.Order{Key: strayKey(step, p), Verb: fleet.VerbCloud, To: d.w.Leader, Thing: about, Step: step, With: with, Why: why})
	}
	// It died with its target, or is on neither side: that migration is over, and brings it nowhere.
	left := d.fallen(to) || d.absent(s.ID, to, p.Strayed)
	gone := d.absent(s.ID, p.From, p.Strayed)
	lost := d.fallen(to) || left && gone
	whole := s.State == fleet.ServerActive && s.Task == ""
	asked := d.w.Wall.Sub(p.Reset) // long ago if it was never
	_, sent := d.w.Flights[strayKey(fleet.CloudReset, p)]
	either := fmt.Sprintf("virsh list on %s and on %s; if it runs on %s, Nova's database must say so", p.From, to, to)
	switch {
	case whole && well:
		m.leaves(p, "it was started on "+p.From+" anew", false)
	case whole && asked <= cloudLasts && (asked > askWithin || sent || p.Epoch != d.w.Epoch):
		// What another leader recorded it has perhaps asked for, and had the server started since.
		d.wake(cloudLasts - asked) // what was asked may be carried out yet, and its guest come
		if asked > absentFor && !d.present(s.ID, p.From, p.Reset) {
			d.wait(about, fmt.Sprintf("its guest to be seen on %s, where it was to be started: it was on neither side of a live migration to %s that broke", p.From, to), either)
		}
	case whole && asked <= cloudLasts:
		again(fleet.CloudReset, fleet.ServerError, "its guest is neither on "+to+" any more, where its live migration broke, nor on "+p.From)
		d.wake(askWithin - asked)
	case whole && left && d.present(s.ID, p.From, p.Strayed):
		m.leaves(p, "its live migration to "+to+" ended in error, and its guest is on "+p.From, true)
	case whole && left && gone && (p.Reset.IsZero() || d.absent(s.ID, p.From, p.Reset)):
		// Nova has it running where it is not.
		p.Reset, p.Epoch = d.w.Wall, d.w.Epoch
		d.record(fleet.Put("departure/"+s.ID, p, fmt.Sprintf("%s is on neither side of its live migration that broke: it is called broken, and started on %s", title(s), p.From)))
	case whole && !d.w.Reports[p.From].Guests.Asked: // nobody will ever say
		m.leaves(p, "its live migration to "+to+" ended in error, and its guest may be there", true)
	case whole:
		d.wait(about, fmt.Sprintf("a person: its live migration to %s broke (%s), and its guest may be there", to, cmp.Or(s.Fault, s.Live.Status)), either)
	case s.State == fleet.ServerStopped && s.Task == "" && left:
		m.leaves(p, "it was stopped on "+p.From, false)
	case s.State == fleet.ServerStopped && s.Task == "":
		d.wait(about, fmt.Sprintf("a person: it is stopped, and its guest may run on %s, where its live migration broke", to), either)
	case lost && well && s.State == fleet.ServerActive:
		again(fleet.CloudReset, fleet.ServerError, "its guest is not on "+to+" any more, and Nova never wrote down that it was there")
	case !p.Reset.IsZero() && left && s.State == fleet.ServerError && s.Task == "" && d.present(s.ID, p.From, p.Reset):
		again(fleet.CloudReset, fleet.ServerActive, "its guest runs on "+p.From+", and Mainstay had it called broken")
	case lost && s.State == fleet.ServerError && s.Task == "":
		again(fleet.CloudStart, "", "its guest is not on "+to+" any more, and Nova has it on "+p.From)
	case well:
		d.wait(about, fmt.Sprintf("a person: its guest runs on %s, where its live migration ended, and Nova has it on %s, for the nova-compute there did not answer", to, p.From),
			fmt.Sprintf("on %s: virsh list; if it runs there, Nova's database must say so; else openstack server reboot --hard %s", to, s.ID))
	default:
		d.wait(about, fmt.Sprintf("a person: its live migration to %s broke (%s), and its guest may be on either side", to, cmp.Or(s.Fault, s.Live.Status)),
			fmt.Sprintf("virsh list on %s and on %s; if it runs on %s: openstack server set --state active %s", p.From, to, p.From, s.ID))
	}
}

// fallen says whether a compute is forced down in Nova by a proof: nothing of what it ran is left. What somebody
// else forces down, by hand or by another tool, may run.
func (d *decision) fallen(host string) bool {
	h := d.w.State.Holdings[Compute(host)]
	_, dead := d.provedDead(h)
	return d.w.Cloud.Computes[host].Forced && (d.w.Verdicts[host].Condition == fleet.Dead || h.Host == host && dead)
}

// strayed is where the guest of a server may be whose live migration from a boot was over without
// Nova's saying where it went; "" if there was none.
func (d *decision) strayed(id string, h fleet.Holding) string {
	if p := d.w.State.Departures[id]; p.From == h.Host && p.Boot == h.Boot && p.Ended == "" && !p.Strayed.IsZero() {
		return p.To
	}
	return ""
}

// stray is where the guest of a server may run although its host is dead: the target of a
// live migration that was on its way when the host died; "" if it ran there, and died with it.
// Nova writes "running" before it lets the guest go, so what had not come that far never left;
// and the guest has left long before Nova writes the new host down. "error" with a target is
// ambiguous: so does a nova-compute end it that is started again, wherever the guest is.
func stray(s fleet.Server) string {
	live := s.Live
	if live.To == "" || live.To == s.Host || live.From != s.Host || live.ID < s.Migration.ID {
		return ""
	}
	ended, well := live.Ended()
	switch {
	case !ended && slices.Contains([]string{"accepted", "queued", "preparing"}, live.Status):
		return ""
	case !ended, well && s.Task == fleet.TaskMigrating, live.Status == "error":
		return live.To
	}
	return ""
}

// astray is the compute on which the guest of a dead host's server may run; "" if none is.
func (d *decision) astray(e fleet.Evacuation, s fleet.Server) string {
	to := cmp.Or(e.Pinned, stray(s))
	// Without its source no live migration begins anything at a target.
	since := e.At // of its newest try: the source was dead before the first
	if p := d.w.State.Proofs[e.From]; p.Boot == e.Boot {
		since = p.At
	}
	if to == "" || d.fallen(to) || d.absent(e.Server, to, since) {
		return ""
	}
	return to
}

// adrift is the compute on which the guest of a server may run that is on a dead boot's host.
func (d *decision) adrift(h fleet.Holding, s fleet.Server) string {
	return d.astray(fleet.Evacuation{Server: s.ID, From: h.Host, Boot: h.Boot, Pinned: d.strayed(s.ID, h)}, s)
}

// absent says whether a compute's own hypervisor has had no such machine since a time at which
// nothing could bring it there any more.
func (d *decision) absent(server, host string, since time.Time) bool {
	has, known := d.machine(server, host, since)
	return known && !has
}

// present says whether it has had one.
func (d *decision) present(server, host string, since time.Time) bool {
	has, known := d.machine(server, host, since)
	return known && has
}

// machine is what a compute's own hypervisor says of a machine, if it said so after a time.
func (d *decision) machine(server, host string, since time.Time) (has, known bool) {
	r, current := d.current(host)
	v := d.w.Verdicts[host]
	if g := r.Guests; !current || v.Condition != fleet.Healthy && v.Condition != fleet.Degraded || !g.Listed || g.Unknown != "" {
		return false, false
	}
	if since.IsZero() {
		return false, false
	}
	// What counts is when it was said, or said by a beat to be so still.
	if left := absentFor - (d.w.Wall.Sub(since) - d.w.Now.Sub(d.w.Told[host])); left > 0 {
		d.wake(left)
		return false, false
	}
	return slices.Contains(r.Guests.Machines, server), true
}

// pinned is the target of a server whose guest may run on one compute: that one, and no
// other while it is not proved dead, nor says that it has no such machine. There is no second guest: its nova-compute looks first,
// and does not build a server that it has.
func (m *move) pinned(e fleet.Evacuation) (to string, ok bool) {
	d := m.decision
	c := d.w.Cloud.Computes[e.Pinned]
	if !c.Up || c.Disabled {
		d.wait("server/"+e.Server, fmt.Sprintf("%s to answer and take servers, or to be proved dead: the guest may run there, for %s died while it was live-migrated to it", e.Pinned, e.From), "openstack compute service list --host "+e.Pinned)
		return "", false
	}
	return e.Pinned, m.onWay[e.Pinned] < perTarget
}

// found tells a person of a guest that runs where a live migration left it.
func (m *move) found(e fleet.Evacuation, why string) {
	if e.Pinned == "" || !strings.Contains(why, "already exists") {
		return
	}
	m.wait("server/"+e.Server, fmt.Sprintf("a person: its guest is on %s, by the word of the nova-compute there, where a live migration left it when %s died; Nova has it on %s, and builds no second one", e.Pinned, e.From, e.From),
		fmt.Sprintf("on %s: virsh list --all; it serves on if it runs; virsh destroy and virsh undefine it there, and Mainstay has it started anew", e.Pinned))
}
