package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// What an operator had spread over his computes, and kept free for the loss of one, a loss heaps up on
// the others; a compute that returns stays empty until somebody creates servers, and a reserve stays in use.
// So, where the site's file says rebalance: returned, what was taken from a compute goes back to it by
// live migration. Nothing is at stake but the place, so it gives way to everything: it begins when the host has been
// back for long enough, goes on one server after the other in the whole site while nothing else is amiss,
// tries each once, for each move may stall its guest, and is over after a day, when its place may be another's.
// A compute that is lost again and again, as behind a cable that is loose, would have them moved away and back each time: what
// it was given back and loses within a day it is given back after twice the time, and after eight times not any more.
const (
	// rebalanceAfter is how long a compute has been back, and rebalanceWithin for how long its servers may return, and
	// what became of those before them is remembered.
	rebalanceAfter  = 10 * time.Minute
	rebalanceWithin = 24 * time.Hour
	// rebalanceAsks is how many Nova is asked about at a time.
	rebalanceAsks = 50
)

// displaced notes that a server was brought from a host that is back now.
func (d *decision) displaced(server, name, from, ended string) {
	on, arrived := strings.CutPrefix(ended, "on ")
	if d.w.Spec.OpenStack.Rebalance != fleet.RebalanceReturned || !arrived || on == from {
		return
	}
	x, known := d.w.State.Displaced[server]
	if !known || d.w.Wall.Sub(x.At) >= rebalanceWithin { // else it was on its second host only by accident
		x = fleet.Displaced{Server: server, Name: name, From: from}
	}
	if x.From == on {
		d.placed(x, "it is there")
		return
	}
	x.On, x.At, x.Wait = on, d.w.Wall, rebalanceAfter
	g, again := d.w.State.Regained[x.From]
	if again = again && d.w.Wall.Sub(g.At) < rebalanceWithin; again {
		x.Wait = min(2*g.Wait, rebalanceWithin)
	}
	text := fmt.Sprintf("%s may go back from %s to %s from %s UTC on", cmp.Or(name, server), on, x.From, d.w.Wall.Add(x.Wait).UTC().Format(time.TimeOnly))
	switch {
	case x.Wait == rebalanceWithin:
		text = fmt.Sprintf("%s stays on %s: what %s was given back it has lost again and again", cmp.Or(name, server), on, x.From)
	case again:
		text += fmt.Sprintf(", %v after its return: what it was given back it has lost again", x.Wait)
	}
	d.record(fleet.Put("displaced/"+server, x, text))
}

// regains notes that a compute is given back what was taken from it.
func (d *decision) regains(x fleet.Displaced) {
	wait := cmp.Or(x.Wait, rebalanceAfter)
	g, known := d.w.State.Regained[x.From]
	if age := d.w.Wall.Sub(g.At); known && age < rebalanceWithin {
		if g.Wait >= wait && age < time.Hour {
			return // it is one of many
		}
		wait = max(wait, g.Wait)
	}
	d.record(fleet.Put("regained/"+x.From, fleet.Regained{Host: x.From, Wait: wait, At: d.w.Wall}, fmt.Sprintf("what was taken from %s goes back: were it lost again within a day, it would be waited for %v", x.From, 2*wait)))
}

// placed ends what was noted.
func (d *decision) placed(x fleet.Displaced, why string) {
	d.record(fleet.Remove("displaced/"+x.Server, fmt.Sprintf("%s does not go back to %s any more: %s", cmp.Or(x.Name, x.Server), x.From, why)))
}

// rebalance lets the next server go back.
func (m *move) rebalance() {
	d := m.decision
	for _, host := range fleet.Sorted(d.w.State.Regained) {
		if d.w.Wall.Sub(d.w.State.Regained[host].At) >= rebalanceWithin {
			d.record(fleet.Remove("regained/"+host, fmt.Sprintf("%s got its servers back a day ago, or more", host)))
		}
	}
	var may []fleet.Displaced
	for _, id := range fleet.Sorted(d.w.State.Displaced) {
		x := d.w.State.Displaced[id]
		_, evacuated := d.w.State.Evacuations[id]
		_, departs := d.w.State.Departures[id]
		since := d.w.Wall.Sub(x.At)
		switch {
		case d.w.Spec.OpenStack.Rebalance != fleet.RebalanceReturned:
			d.placed(x, "the site's file does not say so any more")
		case since >= rebalanceWithin:
			d.placed(x, fmt.Sprintf("it could not within %v", rebalanceWithin))
		case evacuated || departs:
		case since < cmp.Or(x.Wait, rebalanceAfter):
			d.wake(cmp.Or(x.Wait, rebalanceAfter) - since)
		default:
			may = append(may, x)
		}
	}
	if len(may) == 0 || m.busy() || !m.calm() {
		return
	}
	for _, x := range inTurn(d, may, rebalanceAsks) { // what cannot go yet must not hide what can
		d.plan.Later = append(d.plan.Later, x.Server)
		if s, seen := d.w.Cloud.Servers[x.Server]; seen {
			m.goesBack(x, s)
		}
	}
}

// inTurn returns so many of a list, others each minute where there are more.
func inTurn[T any](d *decision, list []T, most int) []T {
	if n := len(list); n > most {
		first := int(d.w.Wall.Unix()/60) * most % n
		list = slices.Concat(list[first:], list[:first])[:most]
		d.wake(time.Minute)
	}
	return list
}

// goesBack records the way of a server back, if it may go now.
func (m *move) goesBack(x fleet.Displaced, s fleet.Server) {
	d := m.decision
	r, crashed := d.w.State.Revivals[s.ID]
	reviving := crashed && r.Ended == ""
	switch {
	case s.State == fleet.ServerDeleted:
		d.placed(x, deleted)
	case s.Host == x.From:
		d.placed(x, "it is there")
	case s.Host != x.On:
		d.placed(x, "somebody has moved it to "+s.Host)
	case strings.EqualFold(s.Metadata["HA_Enabled"], "false") || s.Locked:
		d.placed(x, "its owner would not have it moved")
	case Fixed(&d.w.Spec, s) != "" || s.Task != "" || stray(s) != "": // it may be otherwise tomorrow
	case m.departing > 0 || reviving || !m.reach(x.On) || !m.room(x.From, s):
	default:
		m.departTo(fleet.Departure{Server: s.ID, Name: s.Name, From: x.On, Boot: d.w.State.Holdings[Compute(x.On)].Boot, Why: backTo(x.From), Back: true}, s, x.From)
		d.record(fleet.Remove("displaced/"+x.Server, "it is on its way back"))
		d.regains(x)
	}
}

func backTo(host string) string { return "it was on " + host + ", which has returned" }

// calm says whether nothing is amiss that a live migration should wait for: no server of a dead host is on its way or
// waits for that, no host is silent that has something, and none is fenced or drained.
func (m *move) calm() bool {
	d := m.decision
	if m.total > 0 || len(m.due) > 0 || len(m.draining) > 0 || d.disarmed || d.w.Cloud.Away != "" || len(d.w.State.Intents) > 0 {
		return false
	}
	for _, id := range fleet.Sorted(d.w.State.Evacuations) {
		if d.w.State.Evacuations[id].Ended == "" {
			return false
		}
	}
	for i := range d.w.Spec.Hosts {
		switch host := d.w.Spec.Hosts[i].Name; d.w.Verdicts[host].Condition {
		case fleet.Healthy, fleet.Degraded:
		case fleet.Suspect, fleet.Lapsed:
			return false
		default:
			if len(d.on[host]) > 0 {
				return false
			}
		}
	}
	return true
}

// busy says whether a live migration goes on, or nobody knows yet where one left its guest.
func (m *move) busy() bool {
	for _, id := range fleet.Sorted(m.w.State.Departures) {
		if m.w.State.Departures[id].Ended == "" {
			return true
		}
	}
	return false
}

// reach says whether a compute lives, is heard by Nova, and has all its networks.
func (m *move) reach(host string) bool {
	d := m.decision
	h, v := d.w.State.Holdings[Compute(host)], d.w.Verdicts[host]
	return v.Condition == fleet.Healthy && h.Host == host && h.Boot == d.w.Heard[host].Stint.Boot && d.w.Cloud.Computes[host].Up && len(d.w.State.Cutoffs[host].Networks) == 0
}

// room says whether a compute may be given servers, and this one fits.
func (m *move) room(host string, s fleet.Server) bool {
	if !m.reach(host) {
		return false
	}
	i := slices.IndexFunc(m.sound(), func(b berth) bool { return b.host == host })
	return i >= 0 && m.berths[i].free-m.pledged[host] >= s.RAM
}

// onward says whether a departure is still wanted.
func (m *move) onward(p fleet.Departure) bool {
	return m.draining[p.From] != "" || p.Back && m.calm() && m.w.Spec.OpenStack.Rebalance == fleet.RebalanceReturned
}

// goesHome says whether a server may go back from a host.
func (d *decision) goesHome(host string) bool {
	for _, id := range fleet.Sorted(d.w.State.Displaced) {
		if d.w.State.Displaced[id].On == host {
			return true
		}
	}
	for _, id := range fleet.Sorted(d.w.State.Departures) {
		if p := d.w.State.Departures[id]; p.Back && p.From == host {
			return true
		}
	}
	return false
}
