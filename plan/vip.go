package plan

import (
	"fmt"
	"slices"
	"strings"

	"mainstay/fleet"
	"mainstay/lease"
)

// addresses gives each virtual address to exactly one host.
func (d *decision) addresses() {
	for _, a := range d.w.Spec.Addresses {
		d.address(a)
	}
}

func (d *decision) address(a fleet.Address) {
	thing := a.Thing()
	for i := range d.w.Spec.Hosts {
		host := &d.w.Spec.Hosts[i]
		if r, ok := d.current(host.Name); ok && len(r.Addresses) > 0 && r.Addresses[a.Name].Phase == fleet.Foreign {
			d.wait(thing, fmt.Sprintf("%s has it without our guard (%s): remove it there", host.Name, r.Addresses[a.Name].Why),
				fmt.Sprintf("on %s: ip addr del %s/%d dev INTERFACE, and stop what put it there", host.Name, a.Addr, a.Addr.BitLen()))
			return
		}
	}
	h := d.w.State.Holdings[thing]
	if d.adopt(a, h) {
		return
	}
	if h.Host == "" {
		if who := d.unsure(a, h); len(who) > 0 {
			d.wait(thing, "word from "+strings.Join(who, ", ")+" that it does not speak for it, or a proof that it is off",
				"mainstay recover oath HOST, once you have seen that the host is off")
			return
		}
		h.Thing = thing
		d.giveAddress(a, h, "nobody held it")
		return
	}
	d.hushOthers(a, h)
	d.contested(a, h)
	why, free := d.addressFree(h)
	if !free {
		d.keepAddress(a, h)
		return
	}
	d.giveAddress(a, h, why)
}

// addressFree says whether, and on what evidence, nobody speaks for the address
// under the recorded holding any more.
func (d *decision) addressFree(h fleet.Holding) (string, bool) {
	if why, ok := d.word(h); ok {
		return why, true
	}
	if why, ok := d.provedDead(h); ok {
		return why, true
	}
	if h.Unguarded {
		return "", false
	}
	heard := d.w.Heard[h.Host]
	if heard.Stint.Succeeds(h.Holder()) {
		return fmt.Sprintf("%s has begun stint %d itself", h.Host, heard.Stint.N), true
	}
	if r, ok := d.w.Rounds[h.Host]; ok && r.Over && r.Stint.Boot == h.Boot && r.Stint.N >= h.Stint && r.Stint.N != lease.AnyStint {
		return fmt.Sprintf("stint %d of %s is over: %v promised to acknowledge it no more", h.Stint, h.Host, fleet.Sorted(r.Promised)), true
	}
	if !fleet.Armed(fleet.GuardPromise) && d.w.Verdicts[h.Host].Condition == fleet.Suspect {
		return "a few beats were missed", true
	}
	return "", false
}

// word is the holder's own: it gave that generation up.
func (d *decision) word(h fleet.Holding) (string, bool) {
	r, ok := d.w.Reports[h.Host]
	if ok && r.Boot == h.Boot && r.GivenUp[h.Thing] >= h.Generation {
		return fmt.Sprintf("%s gave generation %d up", h.Host, h.Generation), true
	}
	return "", false
}

// provedDead says whether the boot that holds it is proved dead, and not heard
// since.
func (d *decision) provedDead(h fleet.Holding) (string, bool) {
	if m := d.w.State.Members[h.Host]; m.Admitted != "" && m.Admitted != h.Boot {
		// The proof is kept of one boot only; an earlier one died before it.
		return fmt.Sprintf("a later boot of %s, %s, was admitted since", h.Host, m.Admitted), true
	}
	p, ok := d.w.State.Proofs[h.Host]
	if !ok || p.Boot != h.Boot {
		return "", false
	}
	v := d.w.Verdicts[h.Host]
	if v.Stint.Boot == p.Boot && (v.Condition == fleet.Healthy || v.Condition == fleet.Degraded) && fleet.Armed(fleet.GuardProof) {
		return "", false // a later beat voids the proof
	}
	return p.Evidence, true
}

// stays is for how many leases an address stays, once moved, on a host that seems
// cut off from its network: each move costs every client its connections.
const stays = 10

// giveAddress records the address for the best host that may carry it.
func (d *decision) giveAddress(a fleet.Address, old fleet.Holding, why string) {
	thing := a.Thing()
	fit, reasons := d.carriers(a)
	if wish, ok := d.moveWish(thing); ok && slices.Contains(fit, wish.To) {
		fit = []string{wish.To}
	}
	if len(fit) == 0 {
		d.wait(thing, "a host that may carry it: "+join(reasons), "mainstay status")
		return
	}
	to := d.best(fit, a.Prefer)[0]
	s := d.w.Heard[to].Stint
	d.load[to]++
	generation := d.next(old)
	d.record(fleet.Put("holding/"+thing, fleet.Holding{
		Thing: thing, Host: to, Boot: s.Boot, Stint: s.N, Generation: generation,
		From: old.Holder(), Why: why, At: d.w.Wall,
	}, fmt.Sprintf("%s goes to %s: %s", thing, to, why)))
	if !fleet.Armed(fleet.GuardRecordFirst) {
		d.claim(a, to, generation, why)
	}
}

// carriers lists the hosts that may carry an address now, and why others may not.
func (d *decision) carriers(a fleet.Address) (fit, reasons []string) {
	for i := range d.w.Spec.Hosts {
		host := &d.w.Spec.Hosts[i]
		if !d.mayCarry(&a, host) {
			continue
		}
		if why := d.cannotCarry(a, host.Name); why != "" {
			reasons = append(reasons, why)
			continue
		}
		fit = append(fit, host.Name)
	}
	return fit, reasons
}

func (d *decision) cannotCarry(a fleet.Address, host string) string {
	if why, no := d.blocked[host]; no {
		return why
	}
	if x := d.failed[a.Thing()+"@"+host]; x.times > 0 {
		if left := min(restMax, restMin<<min(x.times-1, 5)) - d.w.Now.Sub(x.at); left > 0 {
			d.wake(left)
			return fmt.Sprintf("its last claim failed on %s: %s", host, x.why)
		}
	}
	return d.lacksAddressNeeds(a, host)
}

// lacksAddressNeeds says what an otherwise sound host lacks for an address: the
// network it lives on, or the company it wants.
func (d *decision) lacksAddressNeeds(a fleet.Address, host string) string {
	r, ok := d.current(host)
	if !ok {
		return host + " has not reported"
	}
	if why := d.cut(host, a.Network); why != "" {
		return why
	}
	for _, name := range a.With {
		if s := r.Services[name]; s.Phase != fleet.Running || !s.Ready {
			return fmt.Sprintf("%s is not ready on %s", name, host)
		}
	}
	return ""
}

// keepAddress sees that the holder speaks for it and nobody else does, and
// moves it by the holder's word where that is better.
func (d *decision) keepAddress(a fleet.Address, h fleet.Holding) {
	thing := a.Thing()
	if why := d.armed(h, d.shouldLeave(a, h)); why != "" {
		if d.reaches(h.Host) {
			d.order(d.to(fleet.Order{
				Key: fmt.Sprintf("release/%s/%d", thing, h.Generation), Verb: fleet.VerbRelease,
				Thing: thing, Generation: h.Generation, Why: why,
			}, h.Host))
		}
		return
	}
	if !d.inEffect(h) {
		heard := d.w.Heard[h.Host]
		switch {
		case heard.Stint == h.Holder() && d.reaches(h.Host):
			d.claim(a, h.Host, h.Generation, h.Why)
		case d.w.Verdicts[h.Host].Condition == fleet.Healthy, d.w.Verdicts[h.Host].Condition == fleet.Degraded:
		default:
			d.wait(thing, fmt.Sprintf("the end of stint %d of %s, by promises of a majority of ears", h.Stint, h.Host), "mainstay why "+thing)
		}
		return
	}
	if h.From.Host == "" {
		return // nobody held it before, so no flow can be half-dead
	}
	// The claim works: every host ends its own half-dead TCP to the address.
	for i := range d.w.Spec.Hosts {
		host := &d.w.Spec.Hosts[i]
		r, ok := d.current(host.Name)
		if !ok || !d.reaches(host.Name) || r.Severed[a.Name] >= h.Generation {
			continue
		}
		d.order(d.to(fleet.Order{
			Key: fmt.Sprintf("sever/%s/%d/%s", thing, h.Generation, host.Name), Verb: fleet.VerbSever,
			Thing: thing, Generation: h.Generation, Why: fmt.Sprintf("%s moved to %s", thing, h.Host),
		}, host.Name))
	}
}

func (d *decision) claim(a fleet.Address, host string, generation uint64, why string) {
	d.order(d.to(fleet.Order{
		Key: fmt.Sprintf("claim/%s/%d", a.Thing(), generation), Verb: fleet.VerbClaim,
		Thing: a.Thing(), Generation: generation, Why: why,
	}, host))
}

// shouldLeave says why a sound holder should hand the address over; "" if it
// should stay. It leaves only if somebody else is ready to take it.
func (d *decision) shouldLeave(a fleet.Address, h fleet.Holding) string {
	others := false
	wish, wished := d.moveWish(a.Thing())
	fit, _ := d.carriers(a)
	for _, host := range fit {
		others = others || host != h.Host
	}
	switch {
	case wished && wish.To != h.Host && slices.Contains(fit, wish.To):
		return fmt.Sprintf("%s wishes it on %s", wish.By, wish.To)
	case wished && wish.To != h.Host:
		d.unmet(a.Thing(), wish, "carry", d.cannotCarry(a, wish.To))
	}
	switch {
	case !others:
		return ""
	case d.departs(h.Host) != "":
		return d.departs(h.Host)
	}
	if d.w.Verdicts[h.Host].Condition == fleet.Suspect || !others {
		return ""
	}
	if _, ok := d.current(h.Host); !ok {
		return ""
	}
	why := d.lacksAddressNeeds(a, h.Host)
	if moved := d.w.Wall.Sub(h.At); why != "" && why == d.cut(h.Host, a.Network) && moved >= 0 && moved < stays*d.w.Spec.Timing.Lease {
		// A network that loses packets seems cut now here, now there.
		d.wake(stays*d.w.Spec.Timing.Lease - moved)
		return ""
	}
	return why
}

// armed returns why a thing should leave its sound holder; of a site that a person has
// disarmed it tells instead what does not happen.
func (d *decision) armed(h fleet.Holding, why string) string {
	if why == "" || !d.disarmed {
		return why
	}
	d.wait(h.Thing, fmt.Sprintf("the site to be armed again: it would be moved from %s now because %s", h.Host, why), "mainstay disarm off")
	return ""
}

func join(reasons []string) string {
	if len(reasons) == 0 {
		return "none is allowed to"
	}
	out := reasons[0]
	for _, r := range reasons[1:] {
		out += "; " + r
	}
	return out
}
