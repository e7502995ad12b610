package agent

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"mainstay/fleet"
)

// Where two hosts alone are on a network and no beat of either is acknowledged over it, the
// fault is of one of them, or lies between. Each says what still comes in at its own end;
// plan compares.

// inbound is what came in over a network since no voter answers over it.
type inbound struct {
	packets uint64
	since   fleet.Moment
	heard   fleet.Moment // when packets last rose; 0: not since
	// rises is how often, without a pause: the first may be the end of what was broken, and
	// beats are about to be heard.
	rises int
}

// quiet is how long nothing at all must come in before that means anything: whoever beats
// slowly may be the only other one.
func (a *Agent) quiet() time.Duration { return 3 * a.spec.Timing.SlowBeat }

// broken lists the networks with a carrier over which no beat is acknowledged, while beats
// over others are. The caller holds the lock.
func (a *Agent) broken() []string {
	var out []string
	for network, up := range a.links {
		if up && a.paths.Broken(network, a.length) {
			out = append(out, network)
		}
	}
	slices.Sort(out)
	return out
}

// countInbound counts, until ctx ends, what comes in over networks without an answer.
func (a *Agent) countInbound(ctx context.Context) {
	me, _ := a.cfg.Spec.Host(a.cfg.Host)
	ticker := time.NewTicker(a.length)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		a.mu.Lock()
		broken := a.broken()
		a.mu.Unlock()
		counted := map[string]uint64{}
		for _, network := range broken {
			packets, err := a.cfg.Addresses.Received([]netip.Addr{me.Addresses[network]})
			if err != nil {
				a.cfg.Log.Debug("count what comes in", "network", network, "error", err)
				continue
			}
			counted[network] = packets
		}
		a.mu.Lock()
		a.received(counted, a.cfg.Now())
		a.mu.Unlock()
	}
}

// received takes what has been counted on the networks without an answer, all of them. The
// caller holds the lock.
func (a *Agent) received(counted map[string]uint64, now fleet.Moment) {
	for network := range a.inbound {
		if _, still := counted[network]; !still {
			delete(a.inbound, network)
		}
	}
	for network, packets := range counted {
		e := a.inbound[network]
		switch {
		case e == nil:
			if a.inbound == nil {
				a.inbound = map[string]*inbound{}
			}
			a.inbound[network] = &inbound{packets: packets, since: now}
		case e.packets != packets:
			e.packets, e.heard = packets, now
			e.rises++
		case now.Sub(e.heard) >= a.quiet():
			e.rises = 0
		}
	}
}

// unanswered says what comes in over each network without an answer; nil if there is none.
// The caller holds the lock.
func (a *Agent) unanswered(now fleet.Moment) map[string]string {
	var out map[string]string
	for _, network := range a.broken() {
		if out == nil {
			out = map[string]string{}
		}
		out[network] = a.comesIn(network, now)
	}
	return out
}

func (a *Agent) comesIn(network string, now fleet.Moment) string {
	for _, v := range a.spec.Voters() {
		s := a.senses[v]
		if v == a.cfg.Host || s == nil {
			continue
		}
		if at := s.nets[network]; at != 0 && now.Sub(at) < 3*a.beats[v] {
			return fleet.HearsBeats
		}
	}
	switch e := a.inbound[network]; {
	case e == nil:
	case e.rises > 1:
		return fleet.HearsOthers
	case now.Sub(max(e.since, e.heard)) >= a.quiet():
		return fleet.HearsNothing
	}
	return ""
}

// linked says over which networks this host is linked with the others, as far as it
// can know. The caller holds the lock.
func (a *Agent) linked() map[string]bool {
	out := make(map[string]bool, len(a.links))
	for network, up := range a.links {
		out[network] = up && !a.paths.Broken(network, a.length)
	}
	return out
}
