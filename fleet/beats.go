package fleet

import "time"

// Beats returns how often a host beats and how long its lease is: fast where
// exclusive things can live and on voters, slow elsewhere.
func (s Spec) Beats(host Host) (every, length time.Duration) {
	if host.Voter || s.CanHold(host) {
		return s.Timing.Beat, s.Timing.Lease
	}
	return s.Timing.SlowBeat, s.Timing.SlowLease
}

// CanHold says whether an address, an active/passive service or a promoted role may live there.
func (s Spec) CanHold(host Host) bool {
	for _, a := range s.Addresses {
		if s.MayCarry(a, host) {
			return true
		}
	}
	for _, v := range s.Services {
		if !v.Mode.Exclusive() {
			continue
		}
		for _, home := range s.Homes(v) {
			if home == host.Name {
				return true
			}
		}
	}
	return false
}

// MayCarry says whether an address may live on a host: it has an own address on
// that network and, when the address wants company, may run all of it; an
// address that wants none lives on controllers and network nodes.
func (s Spec) MayCarry(a Address, host Host) bool {
	if _, ok := host.Addresses[a.Network]; !ok {
		return false
	}
	if len(a.With) == 0 {
		return host.HasRole("controller", "network")
	}
	for _, name := range a.With {
		v, ok := s.Service(name)
		if !ok {
			return false
		}
		found := false
		for _, home := range s.Homes(v) {
			found = found || home == host.Name
		}
		if !found {
			return false
		}
	}
	return true
}
