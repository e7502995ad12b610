package sim

import (
	"maps"

	"mainstay/fleet"
	"mainstay/plan"
)

// heard is what this ear knows of every host.
func (a *agent) heard() map[string]fleet.Heard {
	if a.ears == nil {
		a.ears = map[string]fleet.Heard{}
	}
	out := a.ears // made anew in place: the last turn's is looked at no more
	now := a.host.clock()
	for i, host := range a.host.site.hosts {
		name := host.name
		newest, rival := a.ear.Newest(name, now)
		if newest.Heard == 0 {
			continue
		}
		h := fleet.Heard{Stint: newest.Stint, Last: newest.Heard, Late: newest.Late, Rival: rival, Nets: out[name].Nets}
		if h.Nets == nil {
			h.Nets = map[string]fleet.Moment{}
		}
		x := &a.senses[i]
		if x.seen {
			h.Leased = x.leased
			for i, at := range x.nets {
				if at == 0 {
					continue
				}
				net := a.host.site.nets[i].name
				h.Nets[net] = at
				if now.Sub(x.again[i]) < 3*a.spec.Timing.SlowBeat {
					if h.Again == nil {
						h.Again = map[string]fleet.Moment{}
					}
					h.Again[net] = x.again[i]
				}
			}
		}
		out[name] = h
	}
	return out
}

// comesIn says what comes in over a network that has a carrier and no acknowledgements.
func (a *agent) comesIn(net int, now fleet.Moment) (what string, unanswered bool) {
	h := a.host
	if !h.links[net] || !a.paths.Broken(h.site.nets[net].name, a.length) {
		a.fromOthers[net] = 0
		return "", false
	}
	what = fleet.HearsNothing
	began := a.fromOthers[net]
	a.fromOthers[net] = 0
	for _, o := range h.site.hosts {
		switch x := &a.senses[o.index]; {
		case o == h:
		case o.voter && a.ear != nil && x.seen && now.Sub(x.nets[net]) < 3*o.every:
			return fleet.HearsBeats, true
		case h.site.open(o, h, net):
			if a.fromOthers[net] = began; began == 0 {
				a.fromOthers[net] = now
			}
			if what = ""; now.Sub(a.fromOthers[net]) >= a.length {
				what = fleet.HearsOthers
			}
		}
	}
	return what, true
}

// testimony is what this host says of itself.
func (a *agent) testimony(now fleet.Moment) fleet.Report {
	m := a.hand.Memory()
	d := &a.draft
	if d.Addresses == nil {
		d.Addresses, d.Services = map[string]fleet.AddressState{}, map[string]fleet.ServiceState{}
		d.Links, d.Severed = map[string]bool{}, map[string]uint64{}
	}
	clear(d.Addresses)
	clear(d.Services)
	clear(d.Links)
	clear(d.Severed)
	r := fleet.Report{
		Host: a.host.name, Boot: a.host.boot, Stint: a.hand.Stint().N, Epoch: m.Epoch, Version: "sim", Leased: a.hand.Leased(now),
		Late: a.late, UUID: a.host.uuid, GivenUp: m.GivenUp, Routes: a.applied,
		GoesDown: a.departing != 0, Leaving: a.leaving, Watchdog: a.watchdog, Pair: a.host.run.pair.N,
		Addresses: d.Addresses, Services: d.Services, Links: d.Links, Severed: d.Severed,
	}
	for i := range a.spec.Addresses {
		addr := &a.spec.Addresses[i]
		g, held := m.Held[addr.Thing()]
		switch {
		case held && a.speaking[addr.Name] == g:
			r.Addresses[addr.Name] = fleet.AddressState{Generation: g, Phase: fleet.Speaking}
		case held:
			r.Addresses[addr.Name] = fleet.AddressState{Generation: g, Phase: fleet.Shut}
		case len(a.host.site.foreign) > 0 && a.host.site.foreign[a.host.name+"/"+addr.Name]:
			r.Addresses[addr.Name] = fleet.AddressState{Phase: fleet.Foreign, Why: "made permanent by another program"}
		}
	}
	for name, st := range a.services { // in whatever order: a map is filled
		if u := a.host.copy(name); u.service.Mode.Exclusive() {
			if p := plan.Exclusive(*u.service, st).Phase; p != fleet.Stopped && p != fleet.Failed && p != fleet.Absent {
				st.Generation = m.Running["service/"+name]
			}
		}
		r.Services[name] = st
	}
	for i, up := range a.host.links {
		name := a.host.site.nets[i].name
		if a.host.voter && name == a.host.site.shape.Apart {
			continue
		}
		in, unanswered := a.comesIn(i, now)
		r.Links[name] = up && !unanswered
		if unanswered {
			if r.Unanswered == nil {
				r.Unanswered = map[string]string{}
			}
			r.Unanswered[name] = in
		}
	}
	maps.Copy(r.Severed, a.severed)
	r.Neighbours = a.neighbours.Word(now)
	r.Parted = maps.Clone(a.parted)
	r.Dumps = a.dumped.Word(a.host.clock(), a.ear)
	if n := a.host.site.nova; n != nil && n.nodes[a.host] != nil {
		r.Guests = n.said(a.host)
	}
	r.Storage = a.storage.said
	return r
}
