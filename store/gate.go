package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"mainstay/fleet"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// raft is what the gate needs of the member. *etcdserver.EtcdServer has it; a
// test can play one that loses its lead at the worst moment.
type raft interface {
	MemberID() types.ID
	Leader() types.ID
	Term() uint64 // of the last applied entry: it may lag behind raft's own
	LinearizableReadNotify(context.Context) error
	MoveLeader(ctx context.Context, lead, transferee uint64) error
	// LeaderChangedNotify is closed when the next leader is known.
	LeaderChangedNotify() <-chan struct{}
}

// gate stands between raft and whoever acts as the leader. It says "you lead"
// only on a confirmed read [lease-read], and it never lets the lead be handed
// over while such a word may still be acted on [transfer].
type gate struct {
	raft   raft
	timing fleet.Timing
	began  fleet.Moment

	mu sync.Mutex
	// leaving: a transfer was begun and raft has not been seen to follow another
	// since. A transfer that failed may still succeed later: the message that
	// makes the other voter campaign can wait in a full socket, and it bypasses
	// every refusal. So nothing is granted until this term of ours is over.
	leaving bool
	sent    bool            // raft was asked for a transfer since then
	changed <-chan struct{} // closed when another term's leader is known since then
	turns   uint64          // counts the transfers begun
	// granted is until when each session may act on what it was told. A closed
	// session stays: its agent may be acting still.
	granted map[uint64]fleet.Moment
	heard   fleet.Moment // the last ping
	strikes int          // hand-overs as an orphan since the last ping
	left    fleet.Moment // the last of these
}

func newGate(r raft, timing fleet.Timing, at fleet.Moment) *gate {
	return &gate{raft: r, timing: timing, began: at, heard: at, granted: map[uint64]fleet.Moment{}}
}

// ping answers the agent: does it lead, and in which term? received must have
// been read when the question arrived. A read that takes longer than the lease
// would be worth nothing, so it is given up then.
func (g *gate) ping(ctx context.Context, session uint64, received fleet.Moment) (term uint64, lead bool) {
	g.mu.Lock()
	g.heard, g.strikes = max(g.heard, received), 0
	turn := g.turns
	g.mu.Unlock()

	term = g.raft.Term()
	if g.raft.Leader() != g.raft.MemberID() {
		return term, false
	}
	if fleet.Armed(fleet.GuardLeadRead) {
		ctx, cancel := context.WithTimeout(ctx, g.timing.LeadLease())
		defer cancel()
		if g.raft.LinearizableReadNotify(ctx) != nil {
			return term, false
		}
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	// Under the lock, so that a transfer either finds this grant and waits for
	// its end, or is found here. The term was the same before and after: a read
	// that another leader confirmed has applied that leader's first entry.
	if g.raft.Leader() != g.raft.MemberID() || g.raft.Term() != term {
		return g.raft.Term(), false
	}
	if g.turns != turn || g.leaving {
		return term, false
	}
	end := received.Add(g.timing.LeadLease())
	g.granted[session] = max(g.granted[session], end)
	return term, true
}

// hold keeps the orphan rule from firing for d: the agent is about to restart
// and would rather find its term again.
func (g *gate) hold(session uint64, at fleet.Moment, d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.heard = max(g.heard, at.Add(min(d, maxHold)))
	delete(g.granted, session)
}

// maxHold bounds how long a host may sit on the lead without deciding anything.
const maxHold = 5 * time.Second

// begin stops all grants and returns when the last of those given will have
// run out. dropped is the session that said it has dropped its lead; 0 is none.
func (g *gate) begin(dropped uint64) fleet.Moment {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaving = true
	g.turns++
	delete(g.granted, dropped)
	var end fleet.Moment
	for _, e := range g.granted {
		end = max(end, e)
	}
	clear(g.granted)
	// What is waited for must survive a hand-over that gives up while waiting.
	g.granted[0] = end
	return end
}

// settle notes that the term of the transfer is over, so that any later lead of
// ours is a new one: raft follows another, or has had another leader meanwhile,
// if only for a moment. It says whether we lead.
func (g *gate) settle() (leading bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	leading = g.raft.Leader() == g.raft.MemberID()
	if !leading {
		g.leaving, g.sent = false, false
	}
	select {
	case <-g.changed:
		g.leaving, g.sent, g.changed = false, false, nil
	default:
	}
	return leading
}

// must says whether the lead has to be handed over now, and why; if not, after what
// time at the soonest. A member whose agent stays silent waits longer each time the
// lead comes back to it, or two of them would toss it to and fro.
func (g *gate) must(at fleet.Moment) (why string, again time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leaving {
		return "a hand-over begun in this term has not taken place", 0
	}
	patience, since := g.timing.Election, max(g.heard, g.began)
	if g.strikes > 0 {
		since = max(since, g.left)
		patience = g.timing.Election << min(g.strikes-1, 4)
	}
	if left := patience - at.Sub(since); left >= 0 || !fleet.Armed(fleet.GuardOrphan) {
		return "", left + 1
	}
	return fmt.Sprintf("no ping of the agent for %s", at.Sub(g.heard).Round(time.Millisecond)), 0
}

// orphaned counts a hand-over for want of pings.
func (g *gate) orphaned(at fleet.Moment) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.strikes++
	g.left = at
}

// quiet stops all grants, waits until none can be acted on any more, and then
// proves once more that we lead, which the caller must use within LeadLease:
// raft forwards the request for a transfer to whoever leads by then, and that
// one's agent has dropped nothing.
func (g *gate) quiet(ctx context.Context, dropped uint64) (until fleet.Moment, err error) {
	end := g.begin(dropped)
	if fleet.Armed(fleet.GuardTransfer) {
		if err := sleepUntil(ctx, end); err != nil {
			return 0, err
		}
	}
	until = now().Add(g.timing.LeadLease())
	ctx, cancel := context.WithTimeout(ctx, g.timing.LeadLease())
	defer cancel()
	if err := g.raft.LinearizableReadNotify(ctx); err != nil {
		return 0, fmt.Errorf("confirm the lead before handing it over: %w", err)
	}
	if g.raft.Leader() != g.raft.MemberID() {
		return 0, ErrNotLeader
	}
	return until, nil
}

// stay grants again, if raft was not asked for a transfer in this term.
func (g *gate) stay() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaving = g.sent
}

// handOver gives the lead to the voter to, once nobody may act on it any more.
// If raft was asked and it still failed, the member grants nothing more in this
// term, and must says so: the caller tries again, with another voter too. nil
// means that the lead is away.
func (g *gate) handOver(ctx context.Context, to types.ID, dropped uint64) error {
	until, err := g.quiet(ctx, dropped)
	if err != nil {
		if !g.settle() {
			return nil
		}
		g.stay()
		return err
	}
	if now().After(until) {
		g.stay()
		return errors.New("confirm the lead before handing it over: this host is too slow")
	}
	changed := g.raft.LeaderChangedNotify()
	g.mu.Lock()
	g.changed, g.sent = changed, true
	g.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, g.timing.Election+4*g.timing.Heartbeat)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() { // MoveLeader only looks now and then, and would miss a short reign
		select {
		case <-changed:
			cancel()
		case <-stop:
		}
	}()
	err = g.raft.MoveLeader(ctx, uint64(g.raft.MemberID()), uint64(to))
	select {
	case <-changed:
		err = nil
	default:
	}
	if !g.settle() || err == nil {
		return nil
	}
	return err
}

// next is the voter after me in the ring of voters, skip places on.
func next(voters []types.ID, me types.ID, skip int) (types.ID, bool) {
	voters = slices.Sorted(slices.Values(voters))
	i := slices.Index(voters, me)
	if i < 0 || len(voters) < 2 {
		return 0, false
	}
	return voters[(i+1+skip%(len(voters)-1))%len(voters)], true
}

// sleepUntil waits for a Moment. A timer runs on a clock that stands still
// while the host is suspended, so the Moment is compared again afterwards.
func sleepUntil(ctx context.Context, until fleet.Moment) error {
	for {
		left := until.Sub(now())
		if left <= 0 {
			return ctx.Err()
		}
		if err := sleep(ctx, left); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
