package plan

import "mainstay/fleet"

// contested tells of another machine that answers for an address as its holder does: a
// stranger, or a host of ours without our guard. Clients reach now the one and now the
// other, and no decision of ours ends that.
func (d *decision) contested(a fleet.Address, h fleet.Holding) {
	r, ok := d.current(h.Host)
	if !ok || !d.reaches(h.Host) {
		return
	}
	if s := r.Addresses[a.Name]; s.Contested != "" && s.Generation == h.Generation {
		d.wait(a.Thing(), "a person: "+s.Contested+" answers for it too", "take "+a.Addr.String()+" from that machine; the switch knows at which port its MAC is")
	}
}
