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
	host    string
	every   time.Duration // how often it beats
	number  int           // among the others; -1: it is none of them
	nets    map[string]fleet.Moment
	again   map[string]fleet.Moment // since when it is heard there without a gap
	back    fleet.Moment            // the newest of these
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
		s = &sense{host: b.Stint.Host, number: -1, every: a.beats[b.Stint.Host], nets: map[string]fleet.Moment{}, again: map[string]fleet.Moment{}}
		a.senses[b.Stint.Host] = s
		if _, known := a.beats[s.host]; known && s.host != a.cfg.Host {
			s.number = len(a.others)
			a.others, a.dues = append(a.others, s), append(a.dues, math.MaxInt64)
		}
	}
	changed := s.stint != b.Stint || s.leased != b.Leased || s.suspect
	if network != "" {
		if now.Sub(s.nets[network]) >= 3*s.every {
			changed, s.again[network], s.back = true, now, now
		}
		s.nets[network] = now
		if s.number >= 0 {
			a.dues[s.number] = min(a.dues[s.number], now.Add(3*s.every))
		}
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
	for i, due := range a.dues {
		if now.Before(due) {
			continue
		}
		s := a.others[i]
		due = math.MaxInt64
		for _, at := range s.nets {
			switch gap := now.Sub(at); {
			case gap < 3*s.every:
				due = min(due, at.Add(3*s.every))
			case gap < 5*s.every:
				due = now
				a.poke(a.news)
			}
		}
		a.dues[i] = due
		if last := s.last(); !s.suspect && last != 0 && now.Sub(last) >= 3*s.every {
			s.suspect = true
			a.suspects = append(a.suspects, s.host)
			a.reroute()
			a.poke(a.news)
		}
	}
}
