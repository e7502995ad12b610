package sim

import (
	"slices"

	"mainstay/fleet"
)

// askNeighbours asks this host's watchers on the network on which no voter lives, once in a slow
// beat. The question and its answer go over one stream, so both ways must be open.
func (a *agent) askNeighbours(now fleet.Moment) {
	h := a.host
	s := h.site
	if s.shape.Apart == "" || a.asked != 0 && now.Sub(a.asked) < a.spec.Timing.SlowBeat {
		return
	}
	if a.asked != 0 && now.Sub(a.asked) >= 2*a.spec.Timing.SlowBeat {
		a.neighbours.Return(now) // it was away
	}
	a.asked = now
	for net, n := range s.nets {
		if !slices.Contains(a.neighbours.Networks(), n.name) {
			continue
		}
		for _, name := range a.neighbours.Of(n.name) {
			o := s.names[name]
			if !s.open(h, o, net) || !s.open(o, h, net) || !o.agentProcess.alive || o.agentProcess.stopped() || o.agent == nil {
				continue
			}
			o.agent.neighbours.Asked(n.name, h.name, o.clock())
			a.neighbours.Answered(n.name, name, now)
		}
	}
}
