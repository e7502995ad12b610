package plan

import (
	"fmt"
	"slices"

	"mainstay/fleet"
)

// A fenced compute stays off until its servers are elsewhere. Where they have nowhere to
// go, because no other compute is left or has room, that would be for ever, and the machine
// that could run them is the one that waits for them. So it is turned on then, and what
// nobody took stays on it (HOLES 102, 103).

// stayed begins the end of an evacuation whose server stays where it was.
const stayed = "left to "

// able says whether a compute of the cloud could be given a server that asks for a zone
// ("": any), whether it has room or not. Nova believes in one that died a moment ago.
func (d *decision) able(host, zone string) bool {
	c := d.w.Cloud.Computes[host]
	if d.gone[host] || !c.Up || c.Disabled || c.Forced || zone != "" && zone != c.Zone {
		return false
	}
	if _, ours := d.w.Spec.Host(host); !ours {
		return true
	}
	h := d.w.State.Holdings[Compute(host)]
	return d.blocked[host] == "" && h.Host == host && h.Boot == d.w.Heard[host].Stint.Boot
}

// nobody says that no compute could be asked to take a server of a dead host. Nova's
// scheduler, asked all the same, would find no valid host and call the server broken.
func (d *decision) nobody(s fleet.Server) bool {
	some, known := d.takers[s.Zone]
	if !known {
		some = slices.ContainsFunc(fleet.Sorted(d.w.Cloud.Computes), func(host string) bool { return d.able(host, s.Zone) })
		d.takers[s.Zone] = some
	}
	return !some && !d.mayReserve(s, nil)
}

// servers are those that Nova has on a host, as far as it was looked at.
func (d *decision) servers(host string) []fleet.Server {
	if d.byHost == nil {
		d.byHost = map[string][]fleet.Server{}
		for _, id := range fleet.Sorted(d.w.Cloud.Servers) {
			s := d.w.Cloud.Servers[id]
			d.byHost[s.Host] = append(d.byHost[s.Host], s)
		}
	}
	return d.byHost[host]
}

// failed says that a server's newest try has ended in nothing, by Nova's own record: nobody
// carries it out any more. A try without a record, or with one that a dead target has left
// open, is not over: a nova-compute that starts destroys what it finds of such a server.
func failed(e fleet.Evacuation, s fleet.Server) bool {
	ended, well := s.Migration.Ended()
	return s.Migration.ID > e.After && ended && !well && s.Task == ""
}

// stranded says whether servers are left on a dead boot of which none has anywhere to go,
// and none is on its way.
func (d *decision) stranded(h fleet.Holding) bool {
	if looked := d.w.Cloud.Looked[h.Host]; looked == 0 || looked.Before(d.w.Cloud.At) || d.w.Cloud.Away != "" || !d.w.Cloud.Computes[h.Host].Forced {
		return false
	}
	if d.restoring(h) {
		return false
	}
	left := 0
	for _, s := range d.servers(h.Host) {
		if d.leave(s) != "" {
			continue
		}
		left++
		if d.stays(h, &s) != "" {
			continue // its disk is there
		}
		e, known := d.w.State.Evacuations[s.ID]
		if known = known && e.From == h.Host && e.Boot == h.Boot; !known {
			e = fleet.Evacuation{Server: s.ID, From: h.Host, Boot: h.Boot}
		}
		switch {
		case d.astray(e, s) != "": // its guest may run elsewhere: here it must not be started
			return false
		case known && (e.Ended != "" || e.Restore.Here): // it stays, or came back
		case known && failed(e, s) && (e.To == "" && !d.mayReserve(s, e.Tried) || d.nobody(s)):
		case !known && d.nobody(s):
		default:
			return false
		}
	}
	return left > 0
}

// leaveBehind gives the next boot of a dead one the servers that have nowhere else to go.
// Nova has called those broken for which its scheduler found no host, and its nova-compute would
// not start them: so each is called active again first. One that was stopped
// is not started by that, for Nova keeps its power state beside.
func (m *move) leaveBehind(h fleet.Holding, why string) {
	d := m.decision
	m.stay[h.Host] = true
	d.plan.Looks = append(d.plan.Looks, h.Host)
	over := true
	for _, s := range d.servers(h.Host) {
		// One that has not its data yet stays broken, until it is restored here (restore).
		if x := d.w.State.Evacuations[s.ID]; s.State == fleet.ServerError && s.Task == "" && d.stays(h, &s) != "" && (x.Ended != "" || x.Restore.Image == "") {
			// Elsewhere its evacuation would have mended it, as that of any server that Nova calls broken.
			over = false
			d.ask(fleet.Order{Key: fmt.Sprintf("reset/%s/%s/back", s.ID, h.Boot), Thing: "server/" + s.ID, Step: fleet.CloudReset, With: fleet.ServerActive,
				Why: "its disk is on " + h.Host + ", which is on again"})
			continue
		}
		e, known := d.w.State.Evacuations[s.ID]
		if !known || e.From != h.Host || e.Boot != h.Boot || e.Ended != "" {
			continue
		}
		if e.Restore.Owed {
			over = m.restoredHere(e, s) && over
			continue
		}
		over = false
		m.remains(e, s, fmt.Sprintf("%s%s, which is on again: no other compute could take it", stayed, h.Host))
	}
	if over {
		d.license(h.Host, h, why)
	}
}

// restoredHere leaves the evacuation of a server that owes a restore open: its disk is of no worth, here as
// elsewhere, and it gets its data where it is. Until then it stays broken for Nova, which does not start such a
// one on that disk, and rebuilds it; true once that is recorded.
func (m *move) restoredHere(e fleet.Evacuation, s fleet.Server) bool {
	switch {
	case e.Restore.Here:
		return true
	case s.State != fleet.ServerError:
		m.ask(fleet.Order{Key: fmt.Sprintf("broken/%s/%s/%d", s.ID, e.Boot, e.Try), Thing: "server/" + s.ID, Step: fleet.CloudReset, With: fleet.ServerError,
			Why: "its disk has not been restored, and must not be started"})
	default:
		e.Restore.Here = true
		m.record(fleet.Put("evacuation/"+s.ID, e, fmt.Sprintf("%s is restored on %s itself, which is on again: no other compute could take it", title(s), e.From)))
	}
	return false
}

// remains ends an evacuation whose server stays where it is.
func (m *move) remains(e fleet.Evacuation, s fleet.Server, how string) {
	if s.State == fleet.ServerError && e.Was != fleet.ServerError {
		m.ask(fleet.Order{Key: fmt.Sprintf("reset/%s/%s/%d", s.ID, e.Boot, e.Try), Thing: "server/" + s.ID, Step: fleet.CloudReset, With: fleet.ServerActive,
			Why: "no host could take it (" + s.Fault + "), and its own is on again"})
		return
	}
	m.end(e, how)
}
