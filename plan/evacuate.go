package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// What Nova really does on an evacuation was measured, and the rules here follow from it:
//
//   - it does not refuse a second one of the same server, and the two spoil it. So each try
//     is recorded before it is asked for, and whoever leads next finds it.
//   - an answer may be lost after the deed. But Nova writes its own record, the migration,
//     before it answers: one that is newer than those before the try says that the
//     try was accepted, whatever became of the answer.
//   - a server that is active with no task may still be waiting: only the migration says
//     that it is over.
//   - the target may die in the middle, and no time-out ever comes. Once that host is proved
//     dead and forced down too, the server is asked for again.
//   - the scheduler puts all on the emptiest host, which takes them one by one. So Mainstay
//     names the target, spreads them, and leaves the choice to Nova when its own is refused.
const (
	// perTarget and evacuateAtOnce bound how many are on their way, to one target and in all.
	perTarget      = 3
	evacuateAtOnce = 30
	// evacuatePause is the longest pause between two tries of one server, pathKept how many
	// of them its record tells of.
	evacuatePause = 5 * time.Minute
	pathKept      = 10
	// cloudLasts bounds how long after it was sent a request can still be carried out: an API
	// with one worker keeps it in line while that worker waits for a dead compute, which it
	// does for Nova's rpc_response_timeout of a minute (seen: carried out after 50 s).
	cloudLasts = 150 * time.Second
	// An accepted one that no target has got after unscheduled has lost its message with a
	// broker, as one in forty did that was watched; one that a living target has may take longer.
	unscheduled   = 3 * time.Minute
	evacuateLasts = 10 * time.Minute
	// accepted is a migration's status until a host takes it.
	accepted = "accepted"
	// deleted is how the evacuation of such a server ends.
	deleted = "deleted by its owner"
)

// move is one turn's thought about all servers that leave dead hosts.
type move struct {
	*decision
	onWay   map[string]int // by target: how many are on their way there
	pledged map[string]int // by target: MiB that they will take
	total   int
	stay    map[string]bool // hosts whose next boot gets what nobody took
	berths  []berth         // that may be given servers at present, by name; nil before sound has looked
	// departing is how many are live-migrated, draining why each host is left by its servers.
	departing int
	draining  map[string]string
	order     *ordering // nil: no server comes after others
	due       []due
}

// due is a server that may be asked for in this turn.
type due struct {
	fleet.Evacuation
	server fleet.Server
}

// berth is a compute that may be given servers.
type berth struct {
	host, zone string
	free       int // MiB, by Nova's count
}

func (d *decision) newMove() *move {
	m := &move{decision: d, onWay: map[string]int{}, pledged: map[string]int{}, stay: map[string]bool{}, draining: map[string]string{}}
	for _, id := range fleet.Sorted(d.w.State.Evacuations) {
		e := d.w.State.Evacuations[id]
		if e.Ended != "" {
			continue
		}
		s := d.w.Cloud.Servers[id]
		if failed(e, s) {
			continue // it waits for its next try, and keeps no other from the way
		}
		m.total++
		to := cmp.Or(e.To, s.Migration.To)
		m.onWay[to]++
		if e.Restore.Image == "" || s.Host != to { // while it is restored it is there already
			m.pledged[to] += s.RAM
		}
	}
	for _, id := range fleet.Sorted(d.w.State.Departures) {
		if p := d.w.State.Departures[id]; underway(p) {
			m.departing++
			m.onWay[p.To]++
			m.pledged[p.To] += d.w.Cloud.Servers[id].RAM
		}
	}
	return m
}

// recover brings the servers of a dead boot elsewhere, decided afresh each turn: no new
// servers there, force-down at once, then one server after the other.
func (m *move) recover(h fleet.Holding, why string) {
	d := m.decision
	d.plan.Looks = append(d.plan.Looks, h.Host)
	c, known := d.w.Cloud.Computes[h.Host]
	switch {
	case d.w.Cloud.At == 0 || d.w.Cloud.Away != "":
		d.wait(h.Thing, "OpenStack to answer: "+cmp.Or(d.w.Cloud.Away, "it has not been asked yet"), "openstack compute service list")
		if d.w.Cloud.At == 0 {
			return
		}
	case !known:
		d.emptied(h, nil) // Nova has no such compute: nothing of Nova's can be on it
		return
	}
	if c.Forced && !c.Disabled {
		d.disable(h, why)
	}
	if !c.Forced {
		d.cloud(fleet.CloudForceDown, h.Thing, cloudKey(fleet.CloudForceDown, h), "boot "+h.Boot+" is dead: "+why)
		d.wait(h.Thing, "Nova to take it for down", "openstack compute service set --down "+h.Host+" nova-compute")
		return
	}
	// The list must be of a time at which Nova took the host for down: before that it could
	// still have been given servers.
	if looked := d.w.Cloud.Looked[h.Host]; looked == 0 || looked.Before(d.w.Cloud.At) {
		d.wait(h.Thing, "Nova to list its servers", "openstack server list --all-projects --host "+h.Host)
		return
	}
	var left []string
	onWay, waiting, disks := 0, 0, 0
	for _, id := range fleet.Sorted(d.w.State.Evacuations) {
		if e := d.w.State.Evacuations[id]; goes(e, h) {
			onWay++
		}
	}
	for _, s := range m.servers(h.Host) {
		e, known := d.w.State.Evacuations[s.ID]
		switch why, stays, torn := d.leave(s), d.detained(h.Host, s), d.torn(h, &s); {
		case known && goes(e, h):
		case why != "" && d.adrift(h, s) != "":
			// Were it left, the next boot's nova-compute would start it beside the guest.
			waiting++
			d.wait("server/"+s.ID, fmt.Sprintf("%s to say that its guest is not there, or a person: %s, and %s died while it was live-migrated to it", d.adrift(h, s), why, h.Host),
				fmt.Sprintf("on %s: virsh list; if it runs there, Nova's database must say so", d.adrift(h, s)))
		case why != "":
			left = append(left, fmt.Sprintf("%s (%s)", title(s), why))
		case torn != "":
			waiting++
			d.wait("server/"+s.ID, fmt.Sprintf("%s to say whether its guest is there, or a person: %s died while it was live-migrated to it, and its disk is on one of the two", torn, h.Host),
				fmt.Sprintf("on %s: virsh list --all; if it runs there, Nova's database must say so; else virsh destroy and virsh undefine it there", torn))
		case d.stays(h, &s) != "":
			disks++
		case stays != "":
			waiting++
			d.wait("server/"+s.ID, stays, "virsh destroy "+s.ID+" on "+h.Host)
		default:
			waiting++
			m.due = append(m.due, due{d.restored(fleet.Evacuation{Server: s.ID, Name: s.Name, From: h.Host, Boot: h.Boot, Was: s.State, Lock: e.Lock, Pinned: cmp.Or(stray(s), d.strayed(s.ID, h))}, s), s})
		}
	}
	switch {
	case disks > 0 && (waiting+onWay == 0 || d.stranded(h)):
		m.awaits(h)
	case d.stranded(h):
		d.wait(h.Thing, fmt.Sprintf("a compute that can take its servers, or for itself to be back; servers that have nowhere to go: %d", waiting+onWay), "openstack compute service list; turn on or enable one of their zone")
	case waiting+onWay > 0:
		d.wait(h.Thing, fmt.Sprintf("its servers to be evacuated: %d on their way, %d yet to go", onWay, waiting), "mainstay status")
	case d.w.Cloud.Away == "" && c.Disabled:
		d.emptied(h, left)
	}
}

// setOff tries the servers of all dead hosts in their order.
func (m *move) setOff() {
	for _, x := range m.ordered(m.due) {
		if !m.waits(x.server) {
			m.try(x.Evacuation, x.server)
		}
	}
}

// goes says whether a server is on its way from a dead boot's host; one that is restored on a later
// boot of it was not, and goes anew when that dies too.
func goes(e fleet.Evacuation, h fleet.Holding) bool {
	return e.From == h.Host && e.Ended == "" && (!e.Restore.Here || e.Boot == h.Boot)
}

func title(s fleet.Server) string { return cmp.Or(s.Name, s.ID) }

// leave says why a server is left where it is; "" if it is evacuated.
func (d *decision) leave(s fleet.Server) string {
	switch {
	case slices.Contains(d.w.Spec.OpenStack.Leave, s.Project):
		return "its project is left to its owner"
	case strings.EqualFold(s.Metadata["HA_Enabled"], "false"):
		return "its owner says HA_Enabled: false"
	}
	switch s.State {
	case fleet.ServerActive, fleet.ServerStopped, fleet.ServerError:
		return ""
	}
	return "Nova evacuates no server that is " + s.State
}

// try records a server's next try, if there is room on the way.
func (m *move) try(e fleet.Evacuation, s fleet.Server) {
	d := m.decision
	if e.Try == 0 && m.total >= evacuateAtOnce {
		return
	}
	to, busy := m.berth(e, s)
	if to == "" && (busy || !scheduled(e) && m.fromReserve(e, s) || !m.chooses(s)) {
		return
	}
	if e.Try == 0 {
		m.total++
	}
	e = m.told(e, s)
	switch {
	case s.Ours() && e.Try == 1: // one request was made for it, and this is what came of that
		e.Lock = fleet.LockSeen
	case !s.Locked || s.Ours() && e.Lock == "":
		e.Lock = fleet.LockAsked
	}
	e.Try, e.To, e.After, e.Epoch, e.At, e.Doubt = e.Try+1, to, s.Migration.ID, d.w.Epoch, d.w.Wall, false
	e.ToBoot = d.w.State.Holdings[Compute(to)].Boot
	m.onWay[to]++
	m.pledged[to] += s.RAM
	where := "to " + to
	if to == "" {
		where = "where Nova's scheduler puts it"
	}
	d.record(fleet.Put("evacuation/"+s.ID, e, fmt.Sprintf("%s is evacuated from %s %s (try %d)", title(s), e.From, where, e.Try)))
}

// target chooses where a server goes: to a sound compute of its zone that it has not
// failed on, where fewest are on their way and most memory is left. With none
// Nova's scheduler chooses: it knows rules that are not seen from here, and so each
// third try is its own. ok is false while all that fit are busy.
func (m *move) target(e fleet.Evacuation, s fleet.Server) (to string, ok bool) {
	to, busy := m.berth(e, s)
	return to, to != "" || !busy && m.chooses(s)
}

// chooses says whether Nova's scheduler may be left the choice now: a dozen at once would all go to one host.
func (m *move) chooses(s fleet.Server) bool { return !m.nobody(s) && m.onWay[""] < perTarget }

// berth is the target itself, a reserve in use only where no other fits; busy says that all
// that fit are.
func (m *move) berth(e fleet.Evacuation, s fleet.Server) (best string, busy bool) {
	if e.Pinned != "" && m.astray(e, s) != "" {
		if to, ok := m.pinned(e); ok {
			return to, false
		}
		return "", true // its only target has its hands full, or cannot take it
	}
	zone, room := m.w.Cloud.Computes[e.From].Zone, 0
	for _, c := range m.sound() {
		free, on := c.free-m.pledged[c.host], m.onWay[c.host]
		later, sooner := m.reserved(c.host) && !m.reserved(best), m.reserved(best) && !m.reserved(c.host)
		switch {
		case scheduled(e) || c.host == e.From || c.zone != zone || free < s.RAM || slices.Contains(e.Tried, c.host):
		case on >= perTarget:
			busy = true
		case best == "" || sooner || !later && (on < m.onWay[best] || on == m.onWay[best] && free > room):
			best, room = c.host, free
		}
	}
	return best, busy && best == ""
}

// scheduled says whether a server's next try is the scheduler's.
func scheduled(e fleet.Evacuation) bool { return e.Try%3 == 2 }

// sound lists the computes that may be given servers: up and enabled for Nova, whole on
// all networks, and with the right to run servers in the boot that is heard.
func (m *move) sound() []berth {
	if m.berths != nil {
		return m.berths
	}
	d := m.decision
	m.berths = []berth{}
	for _, host := range fleet.Sorted(d.w.Cloud.Computes) {
		c, h := d.w.Cloud.Computes[host], d.w.State.Holdings[Compute(host)]
		if !c.Up || c.Disabled || c.Forced || len(d.w.State.Cutoffs[host].Networks) > 0 || d.blocked[host] != "" || h.Host != host || h.Boot != d.w.Heard[host].Stint.Boot || d.spare(host) {
			continue
		}
		m.berths = append(m.berths, berth{host, c.Zone, c.FreeRAM})
	}
	return m.berths
}

// follow takes each evacuation that is under way one step on.
func (m *move) follow() {
	for _, id := range fleet.Sorted(m.w.State.Evacuations) {
		e := m.w.State.Evacuations[id]
		if s, seen := m.w.Cloud.Servers[id]; seen && e.Ended == "" && !m.stay[e.From] {
			m.step(e, s)
		}
	}
}

// step decides what a server's try has come to, by Nova's own record of it first.
func (m *move) step(e fleet.Evacuation, s fleet.Server) {
	d, mig := m.decision, s.Migration
	ended, well := mig.Ended()
	switch {
	case s.State == fleet.ServerDeleted:
		m.end(e, deleted)
	case e.Restore.Here && s.Host == e.From:
		m.arrived(e, s)
	case mig.ID <= e.After && s.Host != e.From:
		m.end(e, "moved to "+s.Host+" by somebody else")
	case mig.ID <= e.After:
		m.request(e, s)
	case ended && well && s.Host != e.From:
		m.arrived(e, s)
	case ended && !well && s.Task == "":
		m.again(e, s, cmp.Or(s.Fault, "its migration ended as "+mig.Status))
	case !ended && mig.To != "" && d.w.Cloud.Computes[mig.To].Forced:
		m.again(e, s, mig.To+" died while it took it")
	case !ended && mig.To != "" && d.rebooted(mig.To, e):
		m.again(e, s, mig.To+" was rebooted while it took it")
	case ended && well: // Nova writes the new host down a moment later
	case d.w.Cloud.Away != "" || d.w.Now.Sub(d.w.Cloud.At) > restMax: // what was seen is of before
	case d.w.Wall.Sub(e.At) > unscheduled && m.untaken(e, mig), d.w.Wall.Sub(e.At) > evacuateLasts:
		m.again(e, s, fmt.Sprintf("its migration stands still as %s since %s", mig.Status, e.At.UTC().Format(time.TimeOnly)))
	}
}

// untaken says whether no host has taken an evacuation that Nova has accepted, and none has its hands
// full. The target stands in the record from the request on where it was named, so that it stands there does not say
// that it has the message: of twelve that were asked for seconds after a broker had died with the
// leader, five had not (seen). One that Nova hears and that is at work with none is not behind with its queue.
// Of a later try nothing is known before its end: Nova writes the work on it into the record of the first.
func (m *move) untaken(e fleet.Evacuation, mig fleet.Migration) bool {
	if e.Try > 1 {
		return false
	}
	if mig.To == "" {
		return true
	}
	for _, id := range fleet.Sorted(m.w.Cloud.Servers) {
		other := m.w.Cloud.Servers[id].Migration
		if ended, _ := other.Ended(); other.To == mig.To && !ended && (other.Status != accepted || m.w.State.Evacuations[id].Try > 1) {
			return false
		}
	}
	return m.w.Cloud.Computes[mig.To].Up
}

// request sees to a try of which Nova has no record yet.
func (m *move) request(e fleet.Evacuation, s fleet.Server) {
	d := m.decision
	f, flying := d.w.Flights[e.Key()]
	answered := flying && f.Effect != nil
	// Whatever was sent has been carried out by then, or never will be; and a look that
	// began later would show it.
	over := func(since fleet.Moment) bool {
		if left := cloudLasts - d.w.Now.Sub(since); left > 0 {
			d.wake(left)
			return false
		}
		return !d.w.Cloud.At.Before(since.Add(cloudLasts)) && d.w.Cloud.Away == ""
	}
	switch {
	case answered && (f.Effect.Outcome == fleet.Broken || f.Effect.Outcome == fleet.Refused):
		m.again(e, s, f.Effect.Why)
	case flying && over(f.Sent), e.Epoch != d.w.Epoch && over(d.w.Since):
		m.again(e, s, "Nova has no trace of it")
	case answered && !e.Doubt && d.w.Now.Sub(f.Arrived) > restMax:
		e.Doubt = true // a flight is not remembered for ever
		d.record(fleet.Put("evacuation/"+e.Server, e, fmt.Sprintf("%s: Nova was asked for try %d, and shows no trace of it yet", title(s), e.Try)))
	case !flying && e.Epoch == d.w.Epoch && e.Doubt:
		if d.w.Wall.Sub(e.At) > 2*cloudLasts && d.w.Cloud.Away == "" && d.w.Now.Sub(d.w.Cloud.At) < restMax {
			m.again(e, s, "Nova has no trace of it")
		}
	case !flying && e.Epoch == d.w.Epoch:
		d.order(fleet.Order{Key: e.Key(), Verb: fleet.VerbCloud, To: d.w.Leader, Thing: "server/" + e.Server, Step: fleet.CloudEvacuate, With: e.To, Mark: e.Stopped(),
			Why: fmt.Sprintf("%s is dead, and %s was on it", e.From, title(s))})
		m.lock(e, s)
	}
}

// arrived ends an evacuation once the server is as it was.
func (m *move) arrived(e fleet.Evacuation, s fleet.Server) {
	d, about := m.decision, "server/"+s.ID
	if !m.restore(e, s) {
		return
	}
	switch {
	case s.Task != "":
	case s.State == fleet.ServerError:
		// It runs there, by Nova's own record of the migration: what failed is another try.
		d.wait(about, fmt.Sprintf("a person: it has arrived on %s, and Nova calls it broken (%s)", s.Host, s.Fault),
			"look whether it runs there, then: openstack server set --state active "+s.ID)
	case e.Was == fleet.ServerStopped && s.State == fleet.ServerActive:
		d.cloud(fleet.CloudStop, about, fmt.Sprintf("stop/%s/%s/%d", s.ID, e.Boot, e.Try), "it was stopped before its host died")
	default:
		if s.Ours() && e.Try == 1 {
			e.Lock = fleet.LockSeen
		}
		m.end(e, "on "+s.Host)
	}
}

func (m *move) end(e fleet.Evacuation, how string) {
	e.Ended, e.Over = how, m.w.Wall
	m.record(fleet.Put("evacuation/"+e.Server, e, fmt.Sprintf("%s, evacuated from %s: %s", cmp.Or(e.Name, e.Server), e.From, how)))
}

// again makes the next try of what came to nothing. It is never given up, for the server
// serves nobody meanwhile: the pauses grow, and a person is told.
func (m *move) again(e fleet.Evacuation, s fleet.Server, why string) {
	d := m.decision
	if d.atHome(e, s) {
		m.remains(e, s, "its host is back, with its disk")
		return
	}
	m.found(e, why)
	if left := min(2*time.Second<<min(e.Try, 8), evacuatePause) - d.w.Wall.Sub(e.At); left > 0 {
		d.wait("server/"+s.ID, fmt.Sprintf("the next try to evacuate it; the last one, number %d: %s", e.Try, why), "openstack server migration list; mainstay why server/"+s.ID)
		d.wake(left)
		return
	}
	where := e.To
	if s.Migration.ID > e.After {
		where = cmp.Or(s.Migration.To, e.To)
	}
	e.Path = append(slices.Clone(e.Path), fmt.Sprintf("try %d, %s: %s", e.Try, cmp.Or(where, "Nova's scheduler"), why))
	e.Path = e.Path[max(0, len(e.Path)-pathKept):]
	switch {
	case where == "":
		e.Tried = nil // all were tried: from the beginning
	case !slices.Contains(e.Tried, where):
		e.Tried = append(slices.Clone(e.Tried), where)
	}
	// Its own former try is in nobody's way: three of them would wait for each other.
	if !failed(e, s) { // else it was not counted
		last := cmp.Or(e.To, s.Migration.To)
		m.onWay[last]--
		m.pledged[last] -= s.RAM
	}
	m.try(e, s)
}
