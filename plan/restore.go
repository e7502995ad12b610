package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// A server whose disk is on a dead host's own disks. Nova's evacuation builds it from its
// image anew, as on its first day; what it had is on that host, and in its newest snapshot as it was then.
// So the host comes first: it is turned on, and whoever comes back within the site's wait
// has its servers as they were, for nova-compute starts what it finds. A snapshot is as old as the interval
// of the policy, and a machine that has lost its power is back in minutes: to restore at once would give
// up hours of everybody's data to save those minutes. Only a host that does not come back in time has its servers restored
// elsewhere: evacuated, which gives them a host, their ports and addresses there, and then
// rebuilt there from the snapshot. From then on what is newer on the old disks is given up: Nova
// destroys them when that host is back.
//
// A server without a snapshot stays, however long: its disk may come back, and a server of
// the image's first day is nobody's server. Its owner may say otherwise (HA_Rebuild).
//
//   - what is asked of Nova is recorded first. Nova itself refuses a second rebuild while the first goes on,
//     and shows the image from the answer on; nobody asks for what its record shows.
//   - the clock runs from when the host was given the way free, by a record: for every leader the same.
const (
	// restoreTold is after how long a person is told of a rebuild that goes on: a large image takes long.
	restoreTold = 30 * time.Minute
)

// onHost says whether a server's disk is on its host alone.
func (d *decision) onHost(s *fleet.Server) bool { return !s.Volume && d.w.Spec.Local(s.Host) }

// torn is the compute on which the guest of a dead boot's server may run, with its disk: a live
// migration to it was on its way. Whatever were built there, or here, would be a second one, and
// one of the two disks would be given up. Once that compute says that it has no such machine, or is dead, the disk is
// on the dead boot's host as any other; "" then.
func (d *decision) torn(h fleet.Holding, s *fleet.Server) string {
	if !d.onHost(s) {
		return ""
	}
	return d.astray(fleet.Evacuation{Server: s.ID, From: h.Host, Boot: h.Boot}, *s)
}

// stays says why a server of a dead boot is not evacuated yet, or never is: its disk is there.
func (d *decision) stays(h fleet.Holding, s *fleet.Server) string {
	if !d.onHost(s) || d.torn(h, s) != "" { // where its disk is, nobody knows yet: recover waits
		return ""
	}
	if e, known := d.w.State.Evacuations[s.ID]; known && e.From == h.Host && e.Boot == h.Boot && e.Ended == "" {
		return "" // it was decided
	}
	r, waited := d.w.State.Returns[h.Host]
	switch images := d.w.Cloud.Images[s.ID]; {
	case !waited || r.Boot != h.Boot || d.w.Wall.Sub(r.Since) < d.w.Spec.OpenStack.LocalDisks.Wait:
		return "its host is waited for"
	case d.w.Heard[h.Host].Stint.Boot != h.Boot && d.reaches(h.Host):
		return "its host is back"
	case images.At == 0:
		return "Glance has not been asked for its snapshots yet"
	default:
		if _, any := images.Newest(); !any && !strings.EqualFold(strings.TrimSpace(s.Metadata[fleet.MetaRebuild]), "true") {
			return "it has no snapshot"
		}
	}
	return ""
}

// atHome says whether a server that was to be evacuated has its disk on its host still, which is back:
// its newest try has ended in nothing, and a try more would give up the disk for its snapshot.
// One that owes a restore has nothing there to come back to.
func (d *decision) atHome(e fleet.Evacuation, s fleet.Server) bool {
	return s.Host == e.From && d.onHost(&s) && !e.Restore.Owed && failed(e, s) && d.torn(fleet.Holding{Host: e.From, Boot: e.Boot}, &s) == "" &&
		d.w.Heard[e.From].Stint.Boot != e.Boot && d.reaches(e.From)
}

// restoring says whether a server of a dead boot has left it, and has not its data yet. Nova destroys
// the old disk as soon as that host's nova-compute is started: until then it may be the last.
func (d *decision) restoring(h fleet.Holding) bool {
	for _, id := range fleet.Sorted(d.w.State.Evacuations) {
		if e := d.w.State.Evacuations[id]; e.From == h.Host && e.Boot == h.Boot && e.Ended == "" && e.Restore.Image != "" && d.w.Cloud.Servers[id].Host != h.Host {
			return true
		}
	}
	return false
}

// keeps are the servers of a dead boot that stay for their disks, by why.
func (d *decision) keeps(h fleet.Holding) map[string][]fleet.Server {
	out := map[string][]fleet.Server{}
	for _, s := range d.servers(h.Host) {
		if d.leave(s) == "" {
			if why := d.stays(h, &s); why != "" {
				out[why] = append(out[why], s)
			}
		}
	}
	return out
}

// awaits sees to a dead host on which there are disks, once nothing else of it is to be moved.
func (m *move) awaits(h fleet.Holding) {
	d := m.decision
	if r, known := d.w.State.Returns[h.Host]; !known || r.Boot != h.Boot {
		// While Mainstay itself keeps it off, or while it writes its dump, its time does not run: it could not be back.
		member := d.w.State.Members[h.Host]
		if d.loops(member) {
			d.wait(h.Thing, d.often(member)+", it stays off until the first of these is that long ago; the disks of its servers are on it", "turn "+h.Host+" on once you know why")
			return
		}
		if by, _ := d.dumping(h.Host); by != "" {
			d.wait(h.Thing, "its crash kernel, which "+by+" hears, to have written its dump: the disks of its servers are on it", "mainstay status")
			return
		}
		if what := d.heldOff(h.Host, d.w.State.Proofs[h.Host], true); what != "" {
			d.wait(h.Thing, what+", and its host to be turned on then: the disks of its servers are on it", "mainstay status")
			return
		}
		d.record(fleet.Put("return/"+h.Host, fleet.Return{Host: h.Host, Boot: h.Boot, Since: d.w.Wall}, fmt.Sprintf("the disks of servers are on %s: it is waited for, for %v", h.Host, d.w.Spec.OpenStack.LocalDisks.Wait)))
		return
	}
	if left := d.w.Spec.OpenStack.LocalDisks.Wait - d.w.Wall.Sub(d.w.State.Returns[h.Host].Since); left > 0 {
		d.wake(left)
	}
	var what []string
	kept := d.keeps(h)
	for _, why := range fleet.Sorted(kept) {
		var names []string
		for _, s := range kept[why] {
			names = append(names, title(s))
		}
		what = append(what, fmt.Sprintf("%d stay (%s): %s", len(names), why, few(names)))
	}
	d.wait(h.Thing, "itself to be back, for the disks of its servers are on it: "+strings.Join(what, "; "), "turn "+h.Host+" on; a server without a snapshot begins anew from its image if its metadata has "+fleet.MetaRebuild+"=True, or by: openstack server evacuate")
}

// returned forgets that a host was waited for, once another boot has its servers, or none has.
func (m *move) returned() {
	d := m.decision
	for _, host := range fleet.Sorted(d.w.State.Returns) {
		if r, h := d.w.State.Returns[host], d.w.State.Holdings[Compute(host)]; h.Boot != r.Boot {
			d.record(fleet.Remove("return/"+host, "it is settled what becomes of the disks of its servers"))
		}
	}
}

// unrestored says whether what is on a server's disk may be of its image's first day: it was to be
// restored, and the record of that does not say that it has arrived. A snapshot of it would
// push a better one out.
func unrestored(e fleet.Evacuation) bool {
	return e.Restore.Image != "" && !strings.HasPrefix(e.Ended, "on ") && e.Ended != deleted
}

// restored is the evacuation of a server as it begins: with the snapshot that it is restored from,
// and, if its former target died before it had that, with what was decided then.
func (d *decision) restored(e fleet.Evacuation, s fleet.Server) fleet.Evacuation {
	if before, known := d.w.State.Evacuations[s.ID]; known && before.Ended == "" && before.Restore.Image != "" {
		e.Was, e.Restore = before.Was, fleet.Restore{Image: before.Restore.Image, Made: before.Restore.Made, Dead: before.Restore.Dead, Owed: true}
	}
	if newest, any := d.w.Cloud.Images[s.ID].Newest(); any && d.onHost(&s) {
		e.Restore.Image, e.Restore.Made = newest.ID, newest.Made
		if proof := d.w.State.Proofs[e.From]; !e.Restore.Owed && proof.Boot == e.Boot {
			e.Restore.Dead = proof.At
		}
	}
	return e
}

// restore takes a server that has arrived elsewhere without its disk one step on; true when
// it has what its snapshot had.
func (m *move) restore(e fleet.Evacuation, s fleet.Server) bool {
	d, r := m.decision, e.Restore
	if r.Image == "" {
		return true
	}
	about, c := "server/"+s.ID, d.w.Cloud.Computes[s.Host]
	age := d.w.Wall.Sub(r.At)
	f, flying := d.w.Flights[e.RestoreKey()]
	switch {
	case s.Task != "":
		if r.Try > 0 && age > restoreTold {
			d.wait(about, fmt.Sprintf("Nova to have built it anew from its snapshot: it has been at it since %s (%s)", r.At.UTC().Format(time.DateTime), s.Task), "look at nova-compute on "+s.Host+"; openstack server set --state error "+s.ID+" has it tried again")
		}
	case s.Image == r.Image && s.State != fleet.ServerError:
		return d.asWas(e, s)
	case !c.Up || c.Forced:
		d.wait(about, s.Host+" to be back, or proved dead: it is restored from its snapshot there", "openstack compute service list --host "+s.Host)
	case r.Try == 0:
		m.rebuild(e, s)
	case flying && f.Effect != nil && (f.Effect.Outcome == fleet.Refused || f.Effect.Outcome == fleet.Broken):
		m.rebuildAgain(e, s, f.Effect.Why)
	case s.Image == r.Image: // in error, with the task over
		m.rebuildAgain(e, s, cmp.Or(s.Fault, "Nova calls it broken"))
	case !flying && r.Epoch == d.w.Epoch && age < askWithin:
		d.order(fleet.Order{Key: e.RestoreKey(), Verb: fleet.VerbCloud, To: d.w.Leader, Thing: about, Step: fleet.CloudRebuild, With: r.Image,
			Why: fmt.Sprintf("its disk was on %s, which is dead; its newest snapshot is of %s", e.From, r.Made.UTC().Format(time.DateTime))})
	case age <= cloudLasts:
		d.wake(cloudLasts - age)
	case d.w.Cloud.Away == "" && d.w.Now.Sub(d.w.Cloud.At) < restMax:
		m.rebuildAgain(e, s, "Nova has no trace of it")
	}
	return false
}

// rebuild records the next request.
func (m *move) rebuild(e fleet.Evacuation, s fleet.Server) {
	d := m.decision
	e.Restore.Try, e.Restore.Epoch, e.Restore.At = e.Restore.Try+1, d.w.Epoch, d.w.Wall
	text := fmt.Sprintf("%s is restored on %s from its snapshot of %s (try %d)", title(s), s.Host, e.Restore.Made.UTC().Format(time.DateTime), e.Restore.Try)
	if lost := e.Restore.Lost(); lost != "" {
		text += ": " + lost
	}
	d.record(fleet.Put("evacuation/"+s.ID, e, text))
}

// rebuildAgain makes the next request after a pause that grows, from the newest snapshot that there is.
func (m *move) rebuildAgain(e fleet.Evacuation, s fleet.Server, why string) {
	d := m.decision
	if left := min(2*time.Second<<min(e.Restore.Try, 8), evacuatePause) - d.w.Wall.Sub(e.Restore.At); left > 0 {
		d.wait("server/"+s.ID, fmt.Sprintf("the next try to restore it from its snapshot; the last one, number %d: %s", e.Restore.Try, why), "openstack image show "+e.Restore.Image+"; mainstay why server/"+s.ID)
		d.wake(left)
		return
	}
	images := d.w.Cloud.Images[s.ID]
	there := slices.ContainsFunc(images.List, func(i fleet.Image) bool { return i.ID == e.Restore.Image && i.Status == fleet.ImageActive })
	if newest, any := images.Newest(); any && !there {
		e.Restore.Image, e.Restore.Made = newest.ID, newest.Made
	}
	e.Path = append(slices.Clone(e.Path), fmt.Sprintf("restore %d: %s", e.Restore.Try, why))
	e.Path = e.Path[max(0, len(e.Path)-pathKept):]
	m.rebuild(e, s)
}

// asWas has a server run again that Nova has left stopped for its disk.
func (d *decision) asWas(e fleet.Evacuation, s fleet.Server) bool {
	if e.Was == fleet.ServerActive && s.State == fleet.ServerStopped {
		d.cloud(fleet.CloudStart, "server/"+s.ID, fmt.Sprintf("start/%s/%s/%d", s.ID, e.Boot, e.Try), "it is restored, and ran before its host died")
		return false
	}
	return true
}

// disk says what a preview foresees for a server whose disk is on a host that dies: if that host
// comes back in time, it has it as it was; this is of one that does not.
func (f *foresight) disk(x *passenger, host string) {
	wait := f.d.w.Spec.OpenStack.LocalDisks.Wait
	newest, any := fleet.Images{List: f.rules.s.Images[x.ID]}.Newest()
	switch {
	case any:
		x.fate.Snapshot = newest.Made
		x.fate.Why = fmt.Sprintf("if %s is not back within %v, restored from its snapshot of %s, %v old", host, wait, newest.Made.UTC().Format(time.DateTime), f.d.w.Wall.Sub(newest.Made).Truncate(time.Minute))
	case f.rules.s.Glance != "":
		x.fate.State, x.fate.Why, x.over = fleet.FateLeft, "its disk is on "+host+" alone, and Glance did not say whether there is a snapshot of it: "+f.rules.s.Glance, true
	case strings.EqualFold(strings.TrimSpace(x.Metadata[fleet.MetaRebuild]), "true"):
		x.fate.Why = fmt.Sprintf("if %s is not back within %v, begun anew from its image: there is no snapshot, and its owner says %s", host, wait, fleet.MetaRebuild)
	default:
		x.fate.State, x.fate.Why, x.over = fleet.FateLeft, "its disk is on "+host+" alone, and there is no snapshot of it: it stays until that is back", true
	}
}
