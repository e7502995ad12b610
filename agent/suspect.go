package agent

import (
	"math"
	"slices"
	"time"

	"mainstay/fleet"
	"mainstay/probe/heartbeat"
)

// sense is what this ear heard of a host beyond what the lease arithmetic needs.
type sense struct {
	host  string
	every time.Duration // how often it beats
	// due is the earliest moment at which a look could find it silent anywhere: thousands
	// of hosts are not looked at in every tick.
	due     fleet.Moment
	nets    map[string]fleet.Moment
	again   map[string]fleet.Moment // since when it is heard there without a gap
	leased  bool
	suspect bool
	stint   fleet.Stint
	sent    fleet.Moment // of its newest beat, by its own clock
	blind   bool         // by its own word it receives nothing at all
}

// last is when it was last heard on any network; 0: never.
func (s *sense) last() (newest fleet.Moment) {
	for _, at := range s.nets {
		newest = max(newest, at)
	}
	return newest
}

// heardBeat notes what judge wants to know of a host, and says whether this is the first copy of that
// beat. The caller holds the lock.
func (a *Agent) heardBeat(b heartbeat.Beat, network string, now fleet.Moment) (first bool) {
	s := a.senses[b.Stint.Host]
	if s == nil {
		s = &sense{host: b.Stint.Host, every: a.beats[b.Stint.Host], nets: map[string]fleet.Moment{}, again: map[string]fleet.Moment{}}
		a.senses[b.Stint.Host] = s
		if _, known := a.beats[s.host]; known && s.host != a.cfg.Host {
			a.others = append(a.others, s)
		}
	}
	changed := s.stint != b.Stint || s.leased != b.Leased || s.suspect
	if network != "" {
		if now.Sub(s.nets[network]) >= 3*s.every {
			changed, s.again[network] = true, now
		}
		s.nets[network] = now
		s.due = min(s.due, now.Add(3*s.every))
	}
	first = s.sent != b.Sent
	s.stint, s.sent, s.leased, s.blind = b.Stint, b.Sent, b.Leased, b.Blind
	if s.suspect {
		s.suspect = false
		a.suspects = slices.DeleteFunc(a.suspects, func(h string) bool { return h == b.Stint.Host })
		a.reroute()
	}
	if changed {
		a.poke(a.news)
	}
	return first
}

// suspect finds hosts that fell silent for three beats, on one network or on all
// of them. The caller holds the lock.
func (a *Agent) suspect(now fleet.Moment) {
	for _, s := range a.others {
		if now.Before(s.due) {
			continue
		}
		s.due = math.MaxInt64
		for _, at := range s.nets {
			switch gap := now.Sub(at); {
			case gap < 3*s.every:
				s.due = min(s.due, at.Add(3*s.every))
			case gap < 5*s.every:
				s.due = now
				a.poke(a.news)
			}
		}
		if last := s.last(); !s.suspect && last != 0 && now.Sub(last) >= 3*s.every {
			s.suspect = true
			a.suspects = append(a.suspects, s.host)
			a.reroute()
			a.poke(a.news)
		}
	}
}
