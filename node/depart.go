package node

import (
	"context"
	"time"

	"mainstay/fleet"
)

// How long a shutdown waits, at most: for systemd to say that it is one, for a leader to
// move what this host holds, for this host's own hands to stop and give back the rest,
// and for the voters to hear its last report. TimeoutStopSec of the unit is above their sum.
const (
	askBound      = 5 * time.Second
	departBound   = 10 * time.Second
	letGoBound    = 25 * time.Second
	farewellBound = 2 * time.Second
	// pairLeaveBound is for the partner of a pair to go on alone, pairVoteBound how much of
	// it for a commit of both: a store that was out of touch refuses any for 5 s.
	pairLeaveBound = 20 * time.Second
	pairVoteBound  = 6 * time.Second
)

// depart hands over what this host holds because it shuts down, while everything on it
// still runs. ctx ends when the shutdown is called off, or this process ends.
func (n *node) depart(ctx context.Context) {
	first := n.down.CompareAndSwap(0, int64(n.now()))
	if first {
		n.log.Info("this host is shutting down: what it holds goes elsewhere first")
	}
	until := departBound - n.now().Sub(fleet.Moment(n.down.Load()))
	waiting, cancel := context.WithTimeout(ctx, until)
	defer cancel()
	if first {
		go n.yield(waiting)
	}
	if n.agent.Depart(waiting) {
		n.log.Info("this host holds nothing any more")
	}
}

// stay takes a depart back: the shutdown was called off.
func (n *node) stay() {
	n.down.Store(0)
	n.agent.Stay()
	n.log.Info("the shutdown was called off: this host stays")
}

// yield hands the lead to a voter that is heard, if this host leads: the next leader
// decides about this host as about any other.
func (n *node) yield(ctx context.Context) {
	if n.store == nil || !n.quorum.Holds(n.now()) {
		return
	}
	heard, reports := n.agent.Heard(), n.desk.Reports()
	for _, voter := range n.spec.Voters() {
		h, ok := heard[voter]
		if voter == n.host || !ok || n.now().Sub(h.Last) > n.spec.Timing.Lease || reports[voter].GoesDown {
			continue
		}
		if err := n.store.MoveLead(ctx, voter); err != nil {
			n.log.Info("the lead cannot be handed over before this host shuts down", "to", voter, "error", err)
			continue
		}
		return
	}
}

// leavePair lets the partner of a pair go on alone, by this host's word.
func (n *node) leavePair(ctx context.Context) {
	if n.pair == nil {
		return
	}
	leaving, cancel := context.WithTimeout(ctx, pairLeaveBound)
	defer cancel()
	n.pair.leave(leaving)
}

// leave is what this process does when it is asked to end, before it ends. If another
// goes on in its place, nothing. If somebody stopped the agent and its host stays up,
// the voters shall hear that: a host is not switched off because a person looks at its
// agent. They hear it while it still beats, for on a busy machine an agent may take
// longer to end than a lease. If the host shuts down, it hands over and lets go of
// everything first. Nobody is told anything if systemd does not say which: a host that
// goes down while it holds something is fenced before that starts elsewhere.
func (n *node) leave(ctx context.Context) {
	if n.succeeded.Load() {
		return
	}
	asking, cancel := context.WithTimeout(ctx, askBound)
	stopping, err := n.system.Stopping(asking)
	cancel()
	if err != nil {
		n.log.Error("ask systemd whether this host is shutting down", "error", err)
		return
	}
	n.bye.Store(true)
	if !stopping {
		telling, cancel := context.WithTimeout(ctx, farewellBound)
		defer cancel()
		n.peers.last(telling, n.agent.Farewell())
		yielding, cancel := context.WithTimeout(ctx, farewellBound)
		defer cancel()
		n.yield(yielding)
		n.leavePair(ctx)
		return
	}
	n.depart(ctx)
	letting, cancel := context.WithTimeout(ctx, letGoBound)
	defer cancel()
	if !n.agent.LetGo(letting) {
		n.log.Error("this host goes down with something in its hands: it will be fenced before that starts elsewhere")
	}
	n.leavePair(ctx)
}
