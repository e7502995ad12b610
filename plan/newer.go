package plan

import (
	"fmt"
	"slices"

	"mainstay/fleet"
)

// What hosts know may be newer than the record: the store was restored from a
// backup, or goes on from what one voter knew. Addresses and services ran on
// meanwhile, for no lease and no copy needs a store. A generation that a host
// has seen is then never given again, and who works under a newer one than the
// record's is the holder: the lost history gave it that right only when the one
// before had ended.

// next is the generation of a thing's next change of hands: above the record, and
// above whatever any host has reported of it.
func (d *decision) next(old fleet.Holding) uint64 {
	top := old.Generation
	kind, name := split(old.Thing)
	for i := range d.w.Spec.Hosts {
		r := &d.see(d.w.Spec.Hosts[i].Name).report
		top = max(top, r.GivenUp[old.Thing])
		if kind == "address" {
			top = max(top, r.Addresses[name].Generation)
		} else {
			top = max(top, r.Services[name].Generation)
		}
	}
	return top + 1
}

// speaker finds who speaks for an address, in a stint that goes on, under a right
// that the record does not know.
func (d *decision) speaker(a fleet.Address, h fleet.Holding) (host string, generation uint64) {
	for i := range d.w.Spec.Hosts {
		name := d.w.Spec.Hosts[i].Name
		got, ok := d.speaks(a.Name, name)
		if ok && (h.Host == "" || got > h.Generation) && got > generation {
			host, generation = name, got
		}
	}
	return host, generation
}

// speaks returns the generation under which a host's present stint speaks for an
// address, or is about to.
func (d *decision) speaks(address, host string) (uint64, bool) {
	x := d.see(host)
	if !x.speaks || len(x.report.Addresses) == 0 {
		return 0, false
	}
	s := x.report.Addresses[address]
	return s.Generation, s.Phase == fleet.Speaking || s.Phase == fleet.Shut
}

// adopt takes the one who speaks for an address into the record. It says whether
// there is one; then nothing else may be done about the address now.
func (d *decision) adopt(a fleet.Address, h fleet.Holding) bool {
	host, generation := d.speaker(a, h)
	if host == "" {
		return false
	}
	heard := d.w.Heard[host]
	if d.w.State.Members[host].Admitted != heard.Stint.Boot {
		// The record of another boot would count as that one's end.
		d.wait(a.Thing(), fmt.Sprintf("%s to be admitted: it speaks for it under generation %d, which the record does not know", host, generation), "")
		return true
	}
	h.Thing = a.Thing()
	d.load[host]++
	d.record(fleet.Put("holding/"+h.Thing, fleet.Holding{
		Thing: h.Thing, Host: host, Boot: heard.Stint.Boot, Stint: heard.Stint.N, Generation: d.next(h), From: h.Holder(), At: d.w.Wall,
		Why: fmt.Sprintf("it speaks for it already, under generation %d; the record, of a restored store, was older", generation),
	}, fmt.Sprintf("%s stays on %s, which speaks for it under generation %d: the record was older", h.Thing, host, generation)))
	return true
}

// hushOthers lets hosts go silent that speak for an address under an older right
// than the record's.
func (d *decision) hushOthers(a fleet.Address, h fleet.Holding) {
	for i := range d.w.Spec.Hosts {
		name := d.w.Spec.Hosts[i].Name
		got, ok := d.speaks(a.Name, name)
		if !ok || name == h.Host || got > h.Generation {
			continue
		}
		d.order(d.to(fleet.Order{
			Key: fmt.Sprintf("release/%s/%d/%s", h.Thing, got, name), Verb: fleet.VerbRelease, Thing: h.Thing, Generation: got,
			Why: fmt.Sprintf("the record says %s", h.Host),
		}, name))
	}
}

// unsure lists the hosts that might speak for an address nobody is recorded to
// hold: those that are heard and have not said what they do, and, where a restored
// store forgot the holder, every member that is silent and not proved dead.
func (d *decision) unsure(a fleet.Address, h fleet.Holding) []string {
	var out []string
	for i := range d.w.Spec.Hosts {
		host := &d.w.Spec.Hosts[i]
		_, joined := d.w.State.Members[host.Name]
		told := d.see(host.Name).speaks
		forgotten := h.Generation > 0 && joined && !d.deadNow(host.Name)
		if !told && d.mayCarry(&a, host) && (forgotten || d.reaches(host.Name)) {
			out = append(out, host.Name)
		}
	}
	slices.Sort(out)
	return out
}
