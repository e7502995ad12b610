package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// stuck is a host on which addresses cannot be removed at first.
type stuck struct {
	Addresses
	silent func() bool
	left   int
	early  bool
}

func (s *stuck) Drop(context.Context) error {
	s.early = s.early || !s.silent()
	if s.left--; s.left >= 0 {
		return errors.New("netlink: busy")
	}
	return nil
}

// TestDropBeforeBeat: a host is not heard of under a new stint before everything of
// the former one is surely gone; its first beat would be taken for the word on that.
func TestDropBeforeBeat(t *testing.T) {
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}}}
	s := &stuck{left: 2}
	a, err := New(Config{
		Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Addresses: s, Log: slog.New(slog.DiscardHandler),
		Now: func() fleet.Moment { return fleet.Moment(time.Hour) }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.silent = func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.hand.Silent()
	}
	beats := func() uint64 {
		a.tick(spec.Timing.Beat, spec.Timing.Lease) // its own ear hears it, if it beats at all
		return a.Beats("c1", "b")
	}
	if n := beats(); n != 0 {
		t.Errorf("it beat before the drop was done: %d", n)
	}
	d, _ := a.next()
	if d.Do != plan.DoDrop {
		t.Fatalf("first of all comes %s, not a drop", d.Do)
	}
	a.do(t.Context(), d)
	if s.early || s.left >= 0 || s.silent() {
		t.Errorf("dropped too early (%t), %d tries left, or still silent (%t)", s.early, s.left, s.silent())
	}
	if n := beats(); n == 0 {
		t.Error("it does not beat after the drop")
	}
}

// TestStuckHandsBlockNobody: whoever queues a deed holds the lock that the hands need
// to go on, so hands that are stuck for long must not make the queue wait.
func TestStuckHandsBlockNobody(t *testing.T) {
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}}}
	a, err := New(Config{
		Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Now: func() fleet.Moment { return fleet.Moment(time.Hour) }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	queued := make(chan struct{})
	go func() {
		defer close(queued)
		a.mu.Lock()
		defer a.mu.Unlock()
		for range 1000 {
			a.queue([]plan.Deed{{Do: plan.DoRenew}, {Do: plan.DoRenew}, {Do: plan.DoClaim}}, nil)
		}
	}()
	select {
	case <-queued:
	case <-time.After(30 * time.Second):
		t.Fatal("the queue waits for hands that wait for its lock")
	}
	n := 0
	for d, ok := a.next(); ok; d, ok = a.next() {
		if n++; n > 1 && (d.Do == plan.DoRenew) != (n%2 == 0) {
			t.Fatalf("deed %d is %s", n, d.Do)
		}
	}
	if n != 2001 { // the drop that the agent began with, and 1000 times one renewal and one claim
		t.Errorf("%d deeds wait", n)
	}
}

// ending is a host whose hand is stuck in a claim until its stint has ended.
type ending struct {
	Addresses
	end func()
}

func (e *ending) Others(context.Context, netip.Addr) ([]net.HardwareAddr, error) { return nil, nil }

func (e *ending) Drop(context.Context) error { return nil }

func (e *ending) Claim(context.Context, netip.Addr, fleet.Moment) (time.Duration, error) {
	e.end()
	return 0, nil
}

// TestClaimOutlivesItsStint: a claim under way when its stint ends must leave nothing
// that the next stint would count as its own (HOLES 69).
func TestClaimOutlivesItsStint(t *testing.T) {
	const thing, generation = "address/internal", 3
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}}, Addresses: []fleet.Address{{Name: "internal", Addr: netip.MustParseAddr("10.0.0.200")}}}
	now := fleet.Moment(time.Hour)
	e := &ending{}
	a, err := New(Config{
		Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Addresses: e, Log: slog.New(slog.DiscardHandler),
		Now: func() fleet.Moment { return now }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	first, _ := a.next()
	a.do(t.Context(), first) // the drop that an agent begins with
	a.hand.Ack("c1", a.hand.Stint(), now-1, now)
	deeds, refused := a.hand.Order(fleet.Order{Verb: fleet.VerbClaim, Thing: thing, Generation: generation, Boot: "b", Stint: a.hand.Stint().N}, now)
	if refused != nil {
		t.Fatal(refused.Why)
	}
	stint := a.hand.Stint().N
	e.end = func() {
		now = now.Add(spec.Timing.Lease + time.Millisecond)
		a.mu.Lock()
		a.queue(a.hand.Tick(now), nil)
		a.mu.Unlock()
	}
	a.do(t.Context(), deed{Deed: deeds[0]})
	if a.hand.Stint().N != stint+1 {
		t.Fatal("the stint did not end")
	}
	if len(a.speaking) > 0 {
		t.Errorf("the new stint counts as its own %v", a.speaking)
	}
	if d, ok := a.next(); !ok || d.Do != plan.DoDrop {
		t.Errorf("behind the claim waits %q, not the drop", d.Do)
	}
}
