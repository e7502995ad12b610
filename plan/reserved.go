package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// A compute in reserve is kept empty and disabled. It is taken into use when a server of a lost
// one fits on no other, one reserve at a time, and given back when the lost one is back and
// nothing is on the reserve. Each step is decided on what Nova shows, never on what it answered:
// a request to put a host into an aggregate may be answered as failed though the host is in it,
// and says "already" ever after.
const (
	// reserveLasts is how long a server waits for a reserve to be ready; then Nova's scheduler
	// has its say.
	reserveLasts = 2 * time.Minute
	// reserveCalm is how long a reserve that is given back has been disabled before it is
	// believed to be empty: what was sent to it before may arrive until then.
	reserveCalm = 30 * time.Second
)

// reserved says whether the site keeps a compute in reserve.
func (d *decision) reserved(host string) bool {
	return slices.Contains(d.w.Spec.OpenStack.Reserved, host)
}

// spare says whether a compute is in reserve, and not in use.
func (d *decision) spare(host string) bool {
	r, used := d.w.State.Reserves[host]
	return d.reserved(host) && (!used || !r.Back.IsZero())
}

// outside lists the aggregates that a reserve is still to join, of those that exist.
func (d *decision) outside(r fleet.Reserve) (out []string) {
	for _, id := range r.Added {
		if a, there := d.w.Cloud.Aggregates[id]; there && !a.Has(r.Host) {
			out = append(out, id)
		}
	}
	return out
}

// zoneOf is the zone that the aggregates of a host make; "" if none does.
func (d *decision) zoneOf(host string) string {
	for _, id := range fleet.Sorted(d.w.Cloud.Aggregates) {
		if a := d.w.Cloud.Aggregates[id]; a.Zone != "" && a.Has(host) {
			return a.Zone
		}
	}
	return ""
}

// inHand says whether a compute of the reserve could be taken into use, or is about to be.
func (d *decision) inHand(host string) bool {
	c, h := d.w.Cloud.Computes[host], d.w.State.Holdings[Compute(host)]
	if !c.Up || c.Forced || d.blocked[host] != "" || h.Host != host || h.Boot != d.w.Heard[host].Stint.Boot || len(d.w.State.Cutoffs[host].Networks) > 0 {
		return false
	}
	if r, used := d.w.State.Reserves[host]; used {
		return r.Back.IsZero() && d.w.Wall.Sub(r.Since) <= reserveLasts
	}
	return c.Disabled && strings.HasPrefix(c.Reason, disabledBy) && c.Servers == 0
}

// mayReserve says whether a compute of the reserve may take a server that the others cannot.
func (d *decision) mayReserve(s fleet.Server, tried []string) bool {
	return slices.ContainsFunc(d.w.Spec.OpenStack.Reserved, func(host string) bool {
		own := d.zoneOf(host)
		return d.inHand(host) && (s.Zone == "" || own == "" || own == s.Zone) && d.w.Cloud.Computes[host].FreeRAM >= s.RAM && !slices.Contains(tried, host)
	})
}

// fromReserve says whether a server that fits nowhere waits for a reserve, and takes one if
// none is on its way that has room for it.
func (m *move) fromReserve(e fleet.Evacuation, s fleet.Server) bool {
	d := m.decision
	if len(d.w.Spec.OpenStack.Reserved) == 0 || d.w.Cloud.Away != "" {
		return false
	}
	zone := d.w.Cloud.Computes[e.From].Zone
	room := func(host string) bool {
		return d.w.Cloud.Computes[host].FreeRAM-m.pledged[host] >= s.RAM && !slices.Contains(e.Tried, host)
	}
	takes := func(host string) bool {
		m.pledged[host] += s.RAM
		d.wait("server/"+s.ID, fmt.Sprintf("%s, of the reserve, to be ready: it fits nowhere else", host), "mainstay why "+Compute(host))
		return true
	}
	for _, host := range fleet.Sorted(d.w.State.Reserves) {
		r, c := d.w.State.Reserves[host], d.w.Cloud.Computes[host]
		if ready := !c.Disabled && len(d.outside(r)) == 0; ready || !d.inHand(host) || !room(host) {
			continue
		}
		if c.Zone != zone && !slices.ContainsFunc(r.Added, func(id string) bool { return d.w.Cloud.Aggregates[id].Zone == zone }) {
			continue
		}
		d.wake(reserveLasts - d.w.Wall.Sub(r.Since))
		return takes(host)
	}
	for _, host := range d.w.Spec.OpenStack.Reserved {
		c := d.w.Cloud.Computes[host]
		own := d.zoneOf(host)
		switch _, used := d.w.State.Reserves[host]; {
		case used || host == e.From || !room(host) || !d.inHand(host):
		case own != "" && own != zone || own == "" && d.zoneOf(e.From) == "" && c.Zone != zone:
		default:
			r := fleet.Reserve{Host: host, For: e.From, Boot: e.Boot, Since: d.w.Wall}
			for _, id := range fleet.Sorted(d.w.Cloud.Aggregates) {
				if a := d.w.Cloud.Aggregates[id]; a.Has(e.From) && !a.Has(host) {
					r.Added = append(r.Added, id)
				}
			}
			d.record(fleet.Put("reserve/"+host, r, fmt.Sprintf("%s is taken from the reserve for the servers of %s: %s fits nowhere else", host, e.From, title(s))))
			d.w.State.Reserves = maps.Clone(d.w.State.Reserves)
			if d.w.State.Reserves == nil {
				d.w.State.Reserves = map[string]fleet.Reserve{}
			}
			d.w.State.Reserves[host] = r
			return takes(host)
		}
	}
	return false
}

// keep sees to a compute of the reserve whose boot lives: empty and disabled while nobody
// needs it, else in use as far as its record says. What a person disabled stays so.
func (m *move) keep(h fleet.Holding, cut bool) {
	d := m.decision
	c, known := d.w.Cloud.Computes[h.Host]
	r, used := d.w.State.Reserves[h.Host]
	if !known || d.w.Cloud.At == 0 {
		return
	}
	if !used || !r.Back.IsZero() {
		d.enable(h, true) // lifts, at most
		if !c.Disabled && !c.Forced && d.answers(h.Host) {
			d.cloud(fleet.CloudDisable, h.Thing, cloudKey(fleet.CloudDisable, h)+"/reserve", disabledBy+"it is kept in reserve")
		}
		switch {
		case used:
			m.giveBack(r, c)
		case c.Servers > 0:
			d.wait(h.Thing, fmt.Sprintf("a person: it is kept in reserve, and servers are on it: %d", c.Servers), "openstack server list --all-projects --host "+h.Host+"; move them away, or take it out of openstack/reserved")
		}
		return
	}
	outside := d.outside(r)
	for _, id := range outside {
		d.orderInto(fleet.CloudJoin, h.Thing, r, id)
	}
	if len(outside) == 0 {
		d.enable(h, cut)
	} else if d.w.Wall.Sub(r.Since) > reserveLasts {
		d.wait(h.Thing, fmt.Sprintf("Nova to take it into the aggregates %s of %s", strings.Join(d.called(outside), ", "), r.For), "openstack aggregate add host NAME "+h.Host)
	}
	back := d.w.State.Holdings[Compute(r.For)]
	home := d.w.Cloud.Computes[r.For]
	_, named := d.w.Spec.Host(r.For)
	wish, _ := d.wishes(h.Host)
	switch {
	case named && (back.Host == "" || back.Boot == r.Boot || !home.Up || home.Disabled || home.Forced) || m.onWay[h.Host] > 0 || d.expects(h.Host):
	case c.Servers > 0 && (d.goesHome(h.Host) || wish.Drain): // by itself, or a person sees to it, and the drain tells of what stays
	case c.Servers > 0:
		d.wait(h.Thing, fmt.Sprintf("a person: it is of the reserve, and took servers of %s, which is back; on it are %d", r.For, c.Servers),
			"move them away, and it is given back by itself; or take it out of openstack/reserved, and it stays in use")
	case d.w.Cloud.Away == "" && !d.w.Cloud.At.Before(d.w.Now.Add(-restMax)):
		r.Back = d.w.Wall
		d.record(fleet.Put("reserve/"+h.Host, r, fmt.Sprintf("%s is given back to the reserve: %s is back, and nothing is on it", h.Host, r.For)))
	}
}

// giveBack takes a reserve out of the aggregates that it joined, when it is surely empty.
func (m *move) giveBack(r fleet.Reserve, c fleet.Compute) {
	d := m.decision
	thing := Compute(r.Host)
	d.plan.Looks = append(d.plan.Looks, r.Host)
	if left := reserveCalm - d.w.Wall.Sub(r.Back); left > 0 {
		d.wake(left)
		return
	}
	looked := d.w.Cloud.Looked[r.Host]
	if !c.Disabled || looked.Before(d.w.Cloud.At) || d.w.Cloud.Away != "" || d.w.Now.Sub(looked) > reserveCalm/2 {
		return
	}
	if n := len(m.servers(r.Host)); n > 0 || m.onWay[r.Host] > 0 {
		r.Back = time.Time{}
		d.record(fleet.Put("reserve/"+r.Host, r, fmt.Sprintf("%s stays in use: what came to it while it was given back: %d", r.Host, n)))
		return
	}
	inside := slices.DeleteFunc(slices.Clone(r.Added), func(id string) bool { return !d.w.Cloud.Aggregates[id].Has(r.Host) })
	for _, id := range inside {
		d.orderInto(fleet.CloudPart, thing, r, id)
	}
	if len(inside) == 0 {
		d.record(fleet.Remove("reserve/"+r.Host, r.Host+" is in reserve again"))
	}
}

// called are the names of aggregates.
func (d *decision) called(ids []string) (out []string) {
	for _, id := range ids {
		out = append(out, d.w.Cloud.Aggregates[id].Name)
	}
	return out
}

// orderInto has a reserve join an aggregate, or leave it.
func (d *decision) orderInto(step, thing string, r fleet.Reserve, id string) {
	key := fmt.Sprintf("%s/%s/%s/%d", step, r.Host, id, r.Since.UnixNano())
	if f := d.w.Flights[key]; f.Effect != nil && f.Effect.Outcome == fleet.Done && !d.w.Cloud.At.After(f.Arrived) {
		return // it is done, and has not been looked at since
	}
	d.order(fleet.Order{Key: key, Verb: fleet.VerbCloud, To: d.w.Leader, Thing: thing, Step: step, With: id,
		Why: fmt.Sprintf("%s, aggregate %s", cmp.Or(d.inUse(r.Host), "it goes back to the reserve"), d.w.Cloud.Aggregates[id].Name)})
}

// inUse says what a compute of the reserve is used for; "" if it is none, or not used.
func (d *decision) inUse(host string) string {
	if r, used := d.w.State.Reserves[host]; used && r.Back.IsZero() {
		return "it takes servers of " + r.For
	}
	return ""
}

// reserves forgets the records of computes that are no reserve any more.
func (d *decision) reserves() {
	for _, host := range fleet.Sorted(d.w.State.Reserves) {
		if !d.reserved(host) {
			d.record(fleet.Remove("reserve/"+host, "the site's file does not keep it in reserve any more"))
		}
	}
}
