package store

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"mainstay/fleet"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// played is a raft that does as the test says. It is member 1.
type played struct {
	mu      sync.Mutex
	leader  types.ID
	term    uint64
	changed chan struct{}
	// read and move, if set, run inside these calls.
	read func() error
	move func(to types.ID) error
}

func newPlayed(leader types.ID, term uint64) *played {
	return &played{leader: leader, term: term, changed: make(chan struct{})}
}

func (p *played) set(leader types.ID, term uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leader, p.term = leader, term
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *played) MemberID() types.ID { return 1 }
func (p *played) Leader() types.ID   { p.mu.Lock(); defer p.mu.Unlock(); return p.leader }
func (p *played) Term() uint64       { p.mu.Lock(); defer p.mu.Unlock(); return p.term }
func (p *played) LeaderChangedNotify() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

func (p *played) LinearizableReadNotify(context.Context) error {
	if p.read != nil {
		return p.read()
	}
	return nil
}

func (p *played) MoveLeader(_ context.Context, _, to uint64) error {
	if p.move != nil {
		return p.move(types.ID(to))
	}
	p.set(types.ID(to), p.Term()+1)
	return nil
}

func TestGateGrantsOnlyOnAConfirmedRead(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		leader types.ID
		read   func(*played) error
		want   bool
	}{
		"it leads":                               {1, nil, true},
		"it does not lead":                       {2, nil, false},
		"no majority answers":                    {1, func(*played) error { return errors.New("time-out") }, false},
		"another leads when the answer is there": {1, func(p *played) error { p.set(2, 6); return nil }, false},
		"another confirmed the read, and the lead came back": {1, func(p *played) error { p.set(2, 6); p.set(1, 7); return nil }, false},
	} {
		p := newPlayed(c.leader, 5)
		if c.read != nil {
			p.read = func() error { return c.read(p) }
		}
		if _, lead := newGate(p, room(), now()).ping(ctx, 1, now()); lead != c.want {
			t.Errorf("%s: got lead %v", name, lead)
		}
	}
}

func TestTransferWaitsForTheLease(t *testing.T) {
	ctx := context.Background()
	p := newPlayed(1, 5)
	g := newGate(p, room(), now())
	asked := now()
	if _, lead := g.ping(ctx, 1, asked); !lead {
		t.Fatal("does not lead")
	}
	var moved fleet.Moment
	p.move = func(to types.ID) error { moved = now(); p.set(to, 6); return nil }
	check(t, g.handOver(ctx, 2, 0))
	if end := asked.Add(room().LeadLease()); moved < end {
		t.Errorf("the lead moved %s before its holder's lease ended", end.Sub(moved))
	}
	// It comes back, and the holder says that it has dropped it: no need to wait.
	p.set(1, 7)
	g.settle()
	asked = now()
	if _, lead := g.ping(ctx, 1, asked); !lead {
		t.Fatal("does not lead again")
	}
	if end := g.begin(1); end >= asked.Add(room().LeadLease()) {
		t.Error("waits for a lease that its holder says it has dropped")
	}
	p.move = func(to types.ID) error { p.set(to, 8); return nil }
	check(t, g.handOver(ctx, 2, 1))
	// Another session's lease is another's to drop.
	p.set(1, 9)
	g.settle()
	asked = now()
	if _, lead := g.ping(ctx, 2, asked); !lead {
		t.Fatal("does not lead again")
	}
	p.move = func(to types.ID) error { moved = now(); p.set(to, 10); return nil }
	check(t, g.handOver(ctx, 2, 1))
	if end := asked.Add(room().LeadLease()); moved < end {
		t.Error("the lead moved inside the lease of another session")
	}
}

func TestPingAcrossATransferIsRefused(t *testing.T) {
	ctx := context.Background()
	p := newPlayed(1, 5)
	g := newGate(p, room(), now())
	begun := false
	p.read = func() error {
		if !begun { // the ping's own read; the transfer has one too
			begun = true
			return g.handOver(ctx, 2, 0)
		}
		return nil
	}
	p.move = func(to types.ID) error { p.set(to, 5); p.set(1, 5); return nil } // as bad as can be: nothing to see
	if _, lead := g.ping(ctx, 1, now()); lead {
		t.Error("a read from before a transfer granted the lead after it")
	}
}

func TestFailedTransferEndsTheTerm(t *testing.T) {
	ctx := context.Background()
	p := newPlayed(1, 5)
	g := newGate(p, room(), now())
	p.move = func(types.ID) error { return errors.New("took too long") }
	if err := g.handOver(ctx, 2, 0); err == nil {
		t.Fatal("a failed transfer counts as one")
	}
	if _, lead := g.ping(ctx, 1, now()); lead {
		t.Error("the lead is granted although the other may still be campaigning past all leases")
	}
	if why, _ := g.must(now()); why == "" {
		t.Error("a term without grants is kept")
	}
	p.move = nil
	check(t, g.handOver(ctx, 3, 0))
	p.set(1, 9)
	if g.settle(); !func() bool { _, lead := g.ping(ctx, 1, now()); return lead }() {
		t.Error("the lead came back in a new term, but is not granted")
	}
	// The other's reign was over before anybody looked.
	p.move = func(to types.ID) error { p.set(to, 10); p.set(1, 11); return errors.New("took too long") }
	check(t, g.handOver(ctx, 2, 0))
	if _, lead := g.ping(ctx, 1, now()); !lead {
		t.Error("a lead that went and came back is not granted")
	}
}

func TestTransferNeedsItsOwnRead(t *testing.T) {
	p := newPlayed(1, 5)
	g := newGate(p, room(), now())
	p.read = func() error { return errors.New("no majority") }
	p.move = func(types.ID) error { t.Error("raft would pass the request on to another leader"); return nil }
	if err := g.handOver(context.Background(), 2, 0); err == nil {
		t.Error("handed over without knowing whether it leads")
	}
	p.read = nil
	if _, lead := g.ping(context.Background(), 1, now()); !lead {
		t.Error("raft was not asked to transfer anything, but the lead is granted no more")
	}
}

func TestOrphanPatience(t *testing.T) {
	E := room().Election
	at := fleet.Moment(time.Hour)
	p := newPlayed(1, 5)
	g := newGate(p, room(), at)
	if why, again := g.must(at.Add(E / 4)); why != "" || at.Add(E/4+again) != at.Add(E+1) {
		t.Errorf("looks again after %v (%s), and not as soon as it is an orphan", again, why)
	}
	if why, _ := g.must(at.Add(E)); why != "" {
		t.Errorf("handed over within E: %s", why)
	}
	if why, _ := g.must(at.Add(E + 1)); why == "" {
		t.Error("an orphan leads on")
	}
	g.orphaned(at.Add(E + 1))
	if why, _ := g.must(at.Add(10 * E)); why == "" {
		t.Error("an orphan keeps a lead that came back")
	}
	g.orphaned(at.Add(10 * E))
	if why, _ := g.must(at.Add(11*E + 2)); why != "" {
		t.Errorf("two orphans would toss the lead to and fro: %s", why)
	}
	g.ping(context.Background(), 1, at.Add(12*E))
	if why, _ := g.must(at.Add(13 * E)); why != "" {
		t.Errorf("its agent is back, but %s", why)
	}
	g.hold(1, at.Add(13*E), time.Hour) // bounded by maxHold
	if why, _ := g.must(at.Add(13*E + maxHold)); why != "" {
		t.Errorf("held, but %s", why)
	}
}

func TestRing(t *testing.T) {
	for _, c := range []struct {
		voters []types.ID
		me     types.ID
		skip   int
		want   types.ID
		ok     bool
	}{
		{[]types.ID{3, 1, 2}, 1, 0, 2, true},
		{[]types.ID{3, 1, 2}, 1, 1, 3, true},
		{[]types.ID{3, 1, 2}, 1, 2, 2, true},
		{[]types.ID{3, 1, 2}, 3, 0, 1, true},
		{[]types.ID{1, 2}, 2, 5, 1, true},
		{[]types.ID{1}, 1, 0, 0, false},
		{[]types.ID{2, 3}, 1, 0, 0, false},
	} {
		if got, ok := next(c.voters, c.me, c.skip); got != c.want || ok != c.ok {
			t.Errorf("after %d of %v, %d on: got %d %v", c.me, c.voters, c.skip, got, ok)
		}
	}
}

func TestLeadFollowsAnswersInOrder(t *testing.T) {
	length := room().LeadLease()
	var l Lead
	var newest uint64
	l, newest = l.follow(newest, answered{asked: 100, id: 3, term: 5, lead: true}, length)
	if !l.Holds(fleet.Moment(100).Add(length)-1) || l.Holds(fleet.Moment(100).Add(length)) {
		t.Errorf("the lease %+v does not end %s after the question", l, length)
	}
	l, newest = l.follow(newest, answered{asked: 200, id: 5, lead: false, term: 5}, length)
	if l.Holds(201) {
		t.Error("leads after a no")
	}
	l, newest = l.follow(newest, answered{asked: 150, id: 4, term: 5, lead: true}, length)
	if l.Holds(201) || newest != 5 {
		t.Error("an old yes outlived a newer no")
	}
}

func TestMirrorNeverGoesBack(t *testing.T) {
	log := quiet()
	var m mirror
	m.reset(0)
	m.load(7, 10, nil, log)
	put := func(key string, generation uint64) fleet.Record { return holding(key, "c1", generation) }
	one := put("address/a", 2)
	m.wrote(14, []fleet.Record{put("address/a", 1), one}, log)
	// The watch comes later, with older news of others and with our own again.
	m.watched(12, []change{{key: "holding/address/b", value: put("address/b", 1).Value, rev: 11}, {key: one.Key, value: put("address/a", 9).Value, rev: 12}}, log)
	if s := m.state; s.Holdings["address/a"].Generation != 2 || s.Holdings["address/b"].Generation != 1 {
		t.Errorf("state %+v", s.Holdings)
	}
	m.load(7, 13, nil, log) // a reading from before our write
	if len(m.state.Holdings) != 2 {
		t.Error("an old reading replaced a newer state")
	}
	m.watched(14, []change{{key: one.Key, value: one.Value, rev: 14}}, log)
	m.wrote(15, []fleet.Record{fleet.Remove(one.Key, "")}, log)
	m.watched(14, []change{{key: one.Key, value: one.Value, rev: 14}}, log)
	if _, there := m.state.Holdings["address/a"]; there {
		t.Error("what was removed came back")
	}
	m.watched(16, []change{{key: "strange/x", value: []byte("{}"), rev: 16}, {key: one.Key, value: one.Value, rev: 16}}, log)
	if m.state.Holdings["address/a"].Generation != 2 {
		t.Error("a record of a newer version hid the others")
	}
	if len(m.revs) != 0 {
		t.Errorf("left over: %v", m.revs)
	}
	m.reset(8)
	if len(m.state.Holdings) != 0 || m.seen != 0 {
		t.Error("another cluster's state was kept")
	}
}
