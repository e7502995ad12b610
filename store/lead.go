package store

import (
	"time"

	"mainstay/fleet"
)

// Lead is the right to act as the leader: in Term, until Until. The zero Lead
// is none.
type Lead struct {
	Term  uint64
	Until fleet.Moment
}

// Holds says whether the holder may act at now.
func (l Lead) Holds(now fleet.Moment) bool { return l.Term != 0 && now.Before(l.Until) }

// answered is one answer of the gate, with the moment before its question left.
type answered struct {
	asked fleet.Moment // t0, read before the question was written
	id    uint64       // of the question; counts up
	term  uint64
	lead  bool
}

// follow returns the lead after an answer. newest is the id of the newest
// question whose answer was used; answers that come out of order are ignored,
// or an old "you lead" could outlive a newer "no more".
func (l Lead) follow(newest uint64, a answered, length time.Duration) (Lead, uint64) {
	if a.id <= newest {
		return l, newest
	}
	if !a.lead {
		return Lead{}, a.id
	}
	return Lead{Term: a.term, Until: a.asked.Add(length)}, a.id
}
