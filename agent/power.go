package agent

import (
	"maps"

	"mainstay/fleet"
)

// Fences takes what an examination of these hosts found: why their fences would prove
// nothing; empty if they would prove.
func (a *Agent) Fences(found map[string]string) {
	a.mu.Lock()
	now := maps.Clone(a.fences) // reports hold the former map
	if now == nil {
		now = map[string]string{}
	}
	for host, why := range found {
		if now[host] = why; why == "" {
			delete(now, host)
		}
	}
	a.fences = now
	a.mu.Unlock()
	a.poke(a.tell)
}

// Others returns, by each host but one that this ear hears well at this moment, a
// number that changes with its every beat; nil where this host is no voter.
func (a *Agent) Others(but string) map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ear == nil {
		return nil
	}
	now, out := a.cfg.Now(), map[string]uint64{}
	for host, s := range a.senses {
		every, known := a.beats[host]
		if !known || host == but || host == a.cfg.Host {
			continue
		}
		if last := s.last(); now.Sub(last) < 3*every {
			out[host] = uint64(last)
		}
	}
	return out
}

// Fallen names, but for a host of the given boot, the hosts that this ear does not hear well
// and that were not silent before that one was.
func (a *Agent) Fallen(but, boot string) (fallen []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ear == nil {
		return nil
	}
	now := a.cfg.Now()
	meant, _ := a.ear.Row(fleet.Stint{Host: but, Boot: boot})
	for _, host := range fleet.Sorted(a.beats) {
		if host == but || host == a.cfg.Host {
			continue
		}
		var last fleet.Moment
		if boots := a.ear.Boots(host); len(boots) > 0 {
			last = boots[0].Heard
		}
		if now.Sub(last) >= 3*a.beats[host] && !last.Before(meant.Heard) {
			fallen = append(fallen, host)
		}
	}
	return fallen
}

// Later returns the boot of a host that this ear has heard after the given one: that one
// is dead then, and an off would hit the later.
func (a *Agent) Later(host, boot string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ear == nil {
		return ""
	}
	if boots := a.ear.Boots(host); len(boots) > 0 && boots[0].Heard != 0 && boots[0].Stint.Boot != boot {
		return boots[0].Stint.Boot
	}
	return ""
}
