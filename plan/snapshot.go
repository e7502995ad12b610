package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// A server whose disk is on its host's own disks is only as safe as these. So images of such
// disks are put into Glance, as the site's file says, by Nova's own createImage; restore.go
// brings them back.
//
// Which server is due, and which images are not needed any more, is found from a Stock of all of
// them, now and then, apart from the turn (Take): 20,000 servers are not looked at each second.
// What is done about it is decided each turn, on Nova's newest word of the server:
//
//   - it is recorded first. What was asked for is found by the mark that its image bears, so a lost
//     answer costs nothing, and nobody asks twice.
//   - one at a time on one host, at_once in the site, and between two beginnings half of the time
//     that would be even: neither a start nor the end of an outage is a stampede.
//   - none of a server that Nova is about, none on a host that is not well, is being emptied or
//     maintained, and none while servers of dead hosts are on their way: each reads a whole disk.
//   - the newest image that is whole is never deleted, nor one that a server is built from or restored from.
const (
	// evenMost is the longest time between two beginnings that is kept for evenness.
	evenMost = time.Minute
	// Of what came to nothing the next try waits, twice as long each time.
	snapshotRest = 5 * time.Minute
	// An image that is not whole, and that nobody makes any more, is deleted after pruneStale; those
	// of a server that was deleted, a day after the newest was made: somebody may have erred.
	pruneStale   = time.Hour
	pruneDeleted = 24 * time.Hour
	// pruneAtOnce bounds how many are deleted at a time, tallyGood how old a Tally may be that
	// anything is deleted on: it says which images are in use.
	pruneAtOnce = 2
	tallyGood   = time.Minute
	// tallyTold is how old it may be before a person is told: it is made anew each ten minutes.
	tallyTold = 30 * time.Minute
	// snapshotLooks is how many servers are looked at to find the next one that can be made.
	snapshotLooks = 4
)

// snapshotEvery is how often snapshots of a server are to be made, by the site's file and
// its owner; 0: never. An owner gets fewer than the site's file says, never more: each costs
// all others time. What cannot be read is an error, and is taken for not said.
func snapshotEvery(spec *fleet.Spec, s *fleet.Server) (time.Duration, error) {
	every := spec.OpenStack.Snapshots.Every
	if every == 0 || s.Volume || s.Image == "" || !spec.Local(s.Host) || slices.Contains(spec.OpenStack.Leave, s.Project) || strings.EqualFold(s.Metadata["HA_Enabled"], "false") {
		return 0, nil
	}
	own, never, err := wanted(s)
	if never {
		return 0, nil
	}
	return max(every, own), err
}

// wanted reads how often a server's owner wants snapshots of it; 0: as the site's file says.
func wanted(s *fleet.Server) (own time.Duration, never bool, err error) {
	text := strings.TrimSpace(s.Metadata[fleet.MetaSnapshot])
	if text == "" || strings.EqualFold(text, "true") {
		return 0, false, nil
	}
	if strings.EqualFold(text, "false") {
		return 0, true, nil
	}
	if own, err = time.ParseDuration(text); err != nil || own <= 0 {
		return 0, false, fmt.Errorf("%q is neither False nor how often, such as 12h", text)
	}
	return own, false, nil
}

// pictured says whether Nova makes a snapshot of a server in this state.
func pictured(state string) bool {
	return slices.Contains([]string{fleet.ServerActive, fleet.ServerStopped, fleet.ServerPaused, "suspended"}, state)
}

// Take says what a Stock comes to: which servers are due next, and which images are not
// needed any more.
func Take(w fleet.World, s fleet.Stock) fleet.Tally {
	out := fleet.Tally{At: s.At}
	spec := &w.Spec
	known := map[string]bool{}
	restores := map[string]bool{}
	for _, id := range fleet.Sorted(w.State.Evacuations) {
		if e := w.State.Evacuations[id]; e.Ended == "" {
			restores[e.Restore.Image] = true
		}
	}
	prune := func(i fleet.Image) {
		if len(out.Prune) < fleet.TallyShown && !s.Used[i.ID] && !restores[i.ID] {
			out.Prune = append(out.Prune, i)
		}
	}
	for k := range s.Servers {
		v := &s.Servers[k]
		known[v.ID] = true
		every, _ := snapshotEvery(spec, v)
		newest, whole := fleet.Images{List: s.Images[v.ID]}.Newest()
		if newest.Made.After(out.Last) {
			out.Last = newest.Made
		}
		if every > 0 && pictured(v.State) {
			made := newest.Made
			if !whole { // as old as the server
				made, _ = time.Parse(time.RFC3339, v.Created)
			}
			p := fleet.Picture{Server: v.ID, Name: v.Name, Host: v.Host, Newest: newest.Made, Due: newest.Made.Add(every), Late: made.Add(2 * every)}
			if !whole {
				out.Without++
				p.Due = made
			}
			if out.Servers++; p.Overdue(s.At) {
				out.Late++
			}
			out.Oldest = append(out.Oldest, p)
		}
		if unrestored(w.State.Evacuations[v.ID]) {
			continue
		}
		surplus(s.Images[v.ID], spec.OpenStack.Snapshots.Keep, w.State.Snapshots[v.ID], s.At, prune)
	}
	slices.SortFunc(out.Oldest, func(a, b fleet.Picture) int { return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.Server, b.Server)) })
	out.Oldest = slices.Clip(out.Oldest[:min(len(out.Oldest), fleet.TallyShown)])
	for _, id := range fleet.Sorted(s.Images) {
		newest := time.Time{}
		for _, i := range s.Images[id] {
			if i.Made.After(newest) {
				newest = i.Made
			}
		}
		if known[id] || s.At.Sub(newest) < pruneDeleted || len(out.Prune) >= fleet.TallyShown {
			continue
		}
		out.Gone = append(out.Gone, id)
		for _, i := range s.Images[id] {
			prune(i) // once Nova says by its id that it is gone
		}
	}
	return out
}

// surplus finds, of one server's images, those that are more than are kept, and those that
// will never be whole.
func surplus(list []fleet.Image, keep int, making fleet.Snapshot, now time.Time, prune func(fleet.Image)) {
	whole := slices.Clone(list)
	whole = slices.DeleteFunc(whole, func(i fleet.Image) bool { return i.Status != fleet.ImageActive })
	slices.SortFunc(whole, func(a, b fleet.Image) int { return cmp.Or(b.Made.Compare(a.Made), cmp.Compare(a.ID, b.ID)) })
	for _, i := range whole[min(len(whole), max(1, keep)):] {
		prune(i)
	}
	for _, i := range list {
		if i.Status != fleet.ImageActive && now.Sub(i.Made) > pruneStale && (making.Server == "" || making.Ended != "" || making.Mark() != i.Mark) {
			prune(i)
		}
	}
}

// snapshots sees to the snapshots that are made, begins what is due, and deletes what is not
// needed any more.
func (m *move) snapshots() {
	d := m.decision
	if d.w.Spec.OpenStack.Snapshots.Every == 0 && len(d.w.State.Snapshots) == 0 {
		return
	}
	onWay, hosts, last := 0, map[string]bool{}, d.w.Tally.Last
	for _, id := range fleet.Sorted(d.w.State.Snapshots) {
		x := d.w.State.Snapshots[id]
		if x.At.After(last) {
			last = x.At
		}
		if x.Ended == "" {
			onWay++
			hosts[x.Host] = true
			d.pictureStep(x)
		} else if age, known := d.w.Wall.Sub(x.Over), d.w.Tally.At.After(x.Over); x.Failed == 0 && known || age > 2*d.w.Spec.OpenStack.Snapshots.Every {
			d.record(fleet.Remove("snapshot/"+id, "what came of it is known; history tells it"))
		} else if !known && age >= 0 { // until the next idle list its server would be told as due
			d.plan.Stock = true
		}
	}
	if onWay > 0 {
		d.plan.Stock = true
	}
	d.unlisted()
	if n, shown := d.w.Tally.Overdue(d.w.Wall); n > 0 {
		var late []string
		for _, p := range shown {
			late = append(late, cmp.Or(p.Name, p.Server))
		}
		d.wait("snapshots", fmt.Sprintf("newer snapshots of %d of %d servers: theirs are older than twice their interval, or there are none: %s", n, d.w.Tally.Servers, few(late)), "mainstay status; mainstay events; openstack image list --property mainstay=snapshot")
	}
	if d.w.Cloud.Away != "" || d.w.Cloud.Glance != "" || d.disarmed || m.total > 0 {
		return
	}
	m.nextPicture(onWay, hosts, last)
	d.prune()
}

// unlisted tells a person when snapshots stand still because nobody knows which are due: all
// servers with local disks could not be listed for so long.
func (d *decision) unlisted() {
	t, age := &d.w.Tally, d.w.Now.Sub(d.w.Since)
	what := "a first list of all servers with local disks, and of their snapshots"
	if !t.At.IsZero() {
		age = d.w.Wall.Sub(t.At)
		what = "a newer list of all servers with local disks, and of their snapshots, than that of " + t.At.UTC().Format(time.DateTime)
	}
	if d.w.Spec.OpenStack.Snapshots.Every == 0 || age <= tallyTold {
		return
	}
	d.wait("snapshots", what+", without which none is made on time: "+cmp.Or(t.Away, d.w.Cloud.Away, d.w.Cloud.Glance, "it is not known why"), "openstack server list --all-projects; openstack image list --property mainstay=snapshot")
}

// pictureRest is how long the next try waits after one that came to nothing.
func (d *decision) pictureRest(x fleet.Snapshot) time.Duration {
	return min(snapshotRest<<min(x.Failed-1, 10), d.w.Spec.OpenStack.Snapshots.Every)
}

// nextPicture records the snapshot of the server that has waited longest, of those that can
// be made now.
func (m *move) nextPicture(onWay int, hosts map[string]bool, last time.Time) {
	d, o := m.decision, m.w.Spec.OpenStack.Snapshots
	t := &d.w.Tally
	if onWay >= o.AtOnce || t.Servers == 0 || o.Every == 0 {
		return
	}
	if left := min(o.Every/time.Duration(2*t.Servers), evenMost) - d.w.Wall.Sub(last); left > 0 {
		d.wake(left)
		return
	}
	looks := 0
	for i := range t.Oldest {
		p := &t.Oldest[i]
		if left := p.Due.Sub(d.w.Wall); left > 0 { // and all after it are due later
			d.wake(min(left, restMax))
			return
		}
		x, known := d.w.State.Snapshots[p.Server]
		if known && (x.Ended == "" || x.Failed == 0 || d.w.Wall.Sub(x.Over) < d.pictureRest(x)) || hosts[p.Host] || !m.picturable(p.Host) || m.taken(p.Server) {
			continue
		}
		if looks++; looks > snapshotLooks {
			return
		}
		d.plan.Later = append(d.plan.Later, p.Server)
		s, seen := d.w.Cloud.Servers[p.Server]
		if !seen || d.w.Now.Sub(d.w.Cloud.At) > restMax {
			return // the next look tells
		}
		if every, _ := snapshotEvery(&d.w.Spec, &s); s.Host != p.Host || s.Task != "" || !pictured(s.State) || every == 0 {
			continue
		}
		if images := d.w.Cloud.Images[p.Server]; images.At == 0 {
			return
		} else if newest, whole := images.Newest(); whole && newest.Made.After(p.Newest) {
			d.plan.Stock = true // the Tally is of before
			continue
		}
		x = fleet.Snapshot{Server: s.ID, Name: s.Name, Host: s.Host, Epoch: d.w.Epoch, At: d.w.Wall, Failed: x.Failed}
		d.record(fleet.Put("snapshot/"+s.ID, x, fmt.Sprintf("a snapshot of %s on %s is made: %s", title(s), s.Host, since(p.Newest, d.w.Wall))))
		return
	}
}

// since says how old a snapshot is.
func since(made, now time.Time) string {
	if made.IsZero() {
		return "there is none"
	}
	return fmt.Sprintf("the newest is %v old", now.Sub(made).Truncate(time.Second))
}

// picturable says whether the servers of a host may be read now.
func (m *move) picturable(host string) bool {
	d := m.decision
	c, h, v := d.w.Cloud.Computes[host], d.w.State.Holdings[Compute(host)], d.w.Verdicts[host]
	_, fenced := d.w.State.Intents[host]
	return c.Up && !c.Disabled && !c.Forced && h.Host == host && h.Boot == d.w.Heard[host].Stint.Boot && (v.Condition == fleet.Healthy || v.Condition == fleet.Degraded) &&
		!fenced && !d.maintenance(host) && len(d.w.State.Ailments[host].Of) == 0 && len(d.w.State.Cutoffs[host].Networks) == 0 && m.draining[host] == ""
}

// taken says whether something else is being done with a server.
func (m *move) taken(id string) bool {
	d := m.decision
	p, leaves := d.w.State.Departures[id]
	r, crashed := d.w.State.Revivals[id]
	return d.evacuated(id) || unrestored(d.w.State.Evacuations[id]) || leaves && p.Ended == "" || crashed && r.Ended == ""
}

// pictureStep takes a snapshot that is made one step on.
func (d *decision) pictureStep(x fleet.Snapshot) {
	d.plan.Later = append(d.plan.Later, x.Server)
	s, seen := d.w.Cloud.Servers[x.Server]
	images := d.w.Cloud.Images[x.Server]
	i := slices.IndexFunc(images.List, func(i fleet.Image) bool { return i.Mark == x.Mark() })
	f, flying := d.w.Flights[x.Key()]
	age := d.w.Wall.Sub(x.At)
	// Whatever was asked for is there by then, or never will be, and a look that began since shows it.
	over := func() bool {
		if age <= cloudLasts {
			d.wake(cloudLasts - age)
			return false
		}
		return d.w.Cloud.Away == "" && d.w.Cloud.Glance == "" && d.w.Now.Sub(d.w.Cloud.At) < restMax && d.w.Now.Sub(images.At) < restMax
	}
	// Or Nova has said that it has begun it, and is not at it any more.
	told := func() bool {
		return flying && f.Effect != nil && f.Effect.Outcome == fleet.Done && d.w.Cloud.At.After(f.Arrived) && !images.At.Before(d.w.Cloud.At)
	}
	switch {
	case seen && s.State == fleet.ServerDeleted:
		d.pictureEnd(x, "the server was deleted", true)
	case i >= 0 && images.List[i].Status == fleet.ImageActive:
		x.Failed = 0
		d.pictureEnd(x, "made", true)
	case seen && s.Host != x.Host:
		d.pictureEnd(x, "the server is on "+s.Host, false)
	case flying && f.Effect != nil && (f.Effect.Outcome == fleet.Refused || f.Effect.Outcome == fleet.Broken):
		d.pictureEnd(x, f.Effect.Why, false)
	case seen && s.TaskSnapshots():
		if every := d.w.Spec.OpenStack.Snapshots.Every; age > every {
			d.wait("server/"+x.Server, fmt.Sprintf("its snapshot to be made: Nova has been at it since %s (%s)", x.At.UTC().Format(time.DateTime), s.Task), "openstack server show "+x.Server+"; look at nova-compute on "+x.Host)
		}
	case !flying && x.Epoch == d.w.Epoch && age < askWithin:
		d.order(fleet.Order{Key: x.Key(), Verb: fleet.VerbCloud, To: d.w.Leader, Thing: "server/" + x.Server, Step: fleet.CloudSnapshot, Mark: x.Mark(),
			Why: "its disk is on " + x.Host + " alone"})
	case !over() && !told():
	case i >= 0:
		d.pictureEnd(x, "it came to nothing: its image is "+images.List[i].Status+", and Nova is not at it any more", false)
	case seen:
		d.pictureEnd(x, "it came to nothing: there is no image of it", false)
	}
}

// pictureEnd ends a snapshot's record; it is kept until a Tally knows what came of it.
func (d *decision) pictureEnd(x fleet.Snapshot, how string, well bool) {
	x.Ended, x.Over = how, d.w.Wall
	if !well {
		x.Failed++
	}
	d.plan.Stock = true
	d.record(fleet.Put("snapshot/"+x.Server, x, fmt.Sprintf("the snapshot of %s on %s: %s", cmp.Or(x.Name, x.Server), x.Host, how)))
}

// prune deletes images that are not needed any more, on a Tally of a moment ago.
func (d *decision) prune() {
	if len(d.w.Tally.Prune) == 0 {
		return
	}
	if d.w.Wall.Sub(d.w.Tally.At) > tallyGood {
		d.plan.Stock = true
		return
	}
	used := map[string]bool{}
	for _, id := range fleet.Sorted(d.w.State.Evacuations) {
		if e := d.w.State.Evacuations[id]; e.Ended == "" {
			used[e.Restore.Image] = true
		}
	}
	going := 0
	for i := range d.w.Tally.Prune {
		if f, flying := d.w.Flights[pruneKey(d.w.Tally.Prune[i])]; flying && f.Effect == nil {
			going++
		}
	}
	for _, x := range d.w.Tally.Prune {
		s, seen := d.w.Cloud.Servers[x.Server]
		_, flying := d.w.Flights[pruneKey(x)]
		switch {
		case going >= pruneAtOnce:
			return
		case flying || used[x.ID] || seen && s.Image == x.ID || unrestored(d.w.State.Evacuations[x.Server]):
			continue
		case slices.Contains(d.w.Tally.Gone, x.Server): // it is in no list of Nova's: what is not listed is not gone
			d.plan.Later = append(d.plan.Later, x.Server)
			if !seen || s.State != fleet.ServerDeleted {
				continue
			}
		}
		going++
		d.order(fleet.Order{Key: pruneKey(x), Verb: fleet.VerbCloud, To: d.w.Leader, Thing: "image/" + x.ID, Step: fleet.CloudPrune,
			Why: fmt.Sprintf("the snapshot %s of %s is not needed any more", x.Mark, x.Server)})
	}
}

func pruneKey(x fleet.Image) string { return "prune/" + x.ID }
