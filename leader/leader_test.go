package leader

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"mainstay/fleet"
)

// quorum is a store that takes everything and counts what it was given.
type quorum struct {
	state   fleet.State
	records int // written
	bare    int // writes of events alone
	take    func([]fleet.Event)
}

func (q *quorum) Holds(fleet.Moment) bool      { return true }
func (q *quorum) LeadChanged() <-chan struct{} { return nil }
func (q *quorum) State() fleet.State           { return q.state }
func (q *quorum) Changed() <-chan struct{}     { return nil }
func (q *quorum) RaiseEpoch(context.Context, string) (fleet.State, uint64, error) {
	return q.state, 1, nil
}

func (q *quorum) Commit(_ context.Context, _ uint64, records []fleet.Record, events []fleet.Event) error {
	if q.take != nil {
		q.take(events)
	}
	q.records += len(records)
	if len(records) == 0 {
		q.bare++
	}
	return nil
}

// eyes hear what the test says, and note what the ears are asked.
type eyes struct {
	heard map[string]fleet.Heard
	asked []fleet.Round
}

func (e *eyes) Heard() map[string]fleet.Heard   { return e.heard }
func (e *eyes) Ask(_ uint64, round fleet.Round) { e.asked = append(e.asked, round) }
func (e *eyes) Answers() <-chan Answer          { return nil }
func (e *eyes) Changed() <-chan struct{}        { return nil }

// full is a store that elects this host and takes nothing.
type full struct {
	quorum
	asked chan time.Time
}

func (f *full) RaiseEpoch(ctx context.Context, _ string) (fleet.State, uint64, error) {
	select {
	case f.asked <- time.Now():
	case <-ctx.Done():
	}
	return fleet.State{}, 0, errors.New("database space exceeded")
}

// TestFullStoreIsNotAskedAsFastAsItRefuses: such a leader would take a whole core and
// fill the journal, on the host where somebody has to find out why.
func TestFullStoreIsNotAskedAsFastAsItRefuses(t *testing.T) {
	timing := fleet.Presets()["rack"]
	begun := time.Now()
	f := &full{asked: make(chan time.Time)}
	l := New(Config{
		Host: "c1", Spec: func() fleet.Spec { return fleet.Spec{Timing: timing} }, Quorum: f,
		Now: func() fleet.Moment { return fleet.Moment(time.Since(begun)) }, Wall: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	go l.Run(t.Context())
	last := <-f.asked
	for range 3 {
		again := <-f.asked
		if again.Sub(last) < timing.Election/2 {
			t.Errorf("asked again after %v", again.Sub(last))
		}
		last = again
	}
}

// TestEventsWaitForTheDecision: a disk may take longer for a write than the ears
// for their answer, so nothing is written that a decision does not need while a
// host is being lost; it is written all the same if that takes long.
func TestEventsWaitForTheDecision(t *testing.T) {
	timing := fleet.Presets()["rack"]
	spec := fleet.Spec{Site: "test", Mode: "act", Timing: timing, Networks: []fleet.Network{{Name: "a", CIDR: netip.MustParsePrefix("10.0.0.0/24")}}}
	now := fleet.Moment(time.Hour)
	q := &quorum{state: fleet.State{Members: map[string]fleet.Member{}, Holdings: map[string]fleet.Holding{
		"address/x": {Thing: "address/x", Host: "c2", Boot: "b", Stint: 1, Generation: 1},
	}}}
	e := &eyes{heard: map[string]fleet.Heard{}}
	spec.Addresses = []fleet.Address{{Name: "x", Addr: netip.MustParseAddr("10.0.0.9"), Network: "a"}}
	desk := NewDesk(func() fleet.Moment { return now })
	for i, name := range []string{"c1", "c2", "c3"} {
		spec.Hosts = append(spec.Hosts, fleet.Host{Name: name, Voter: true, Roles: []string{"controller"},
			Addresses: map[string]netip.Addr{"a": netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}})
		q.state.Members[name] = fleet.Member{Host: name, Admitted: "b"}
		e.heard[name] = fleet.Heard{Stint: fleet.Stint{Host: name, Boot: "b", N: 1}, Last: now, Leased: true, Nets: map[string]fleet.Moment{"a": now}}
		desk.Put(fleet.Report{Host: name, Boot: "b", Stint: 1, Seq: 1, Leased: true, Epoch: 1,
			Addresses: map[string]fleet.AddressState{}, Services: map[string]fleet.ServiceState{}})
	}
	l := New(Config{
		Host: "c1", Spec: func() fleet.Spec { return spec }, Quorum: q, Eyes: e, Desk: desk,
		Send: func(_ context.Context, o fleet.Order) fleet.Effect {
			return fleet.Effect{Key: o.Key, Outcome: fleet.Done}
		},
		Now: func() fleet.Moment { return now }, Wall: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	l.epoch, l.rounds, l.flights, l.book = 1, map[string]fleet.Round{}, map[string]fleet.Flight{}, newBook("c1", 1, time.Now)
	go l.last.serve(t.Context())
	turn := func() time.Duration {
		t.Helper()
		rest, err := l.turn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return rest
	}
	pass := func(d time.Duration) {
		now = now.Add(d)
		for _, name := range []string{"c1", "c3"} {
			h := e.heard[name]
			h.Last, h.Nets = now, map[string]fleet.Moment{"a": now}
			e.heard[name] = h
		}
	}
	for turn() == 0 || len(l.book.pending) > 0 {
		now = now.Add(time.Millisecond)
	}
	clear(l.flights)
	before := q.bare

	pass(timing.Suspect() + time.Millisecond)
	if turn(); len(l.book.pending) == 0 {
		t.Fatal("nothing was noted of a suspect host")
	}
	pass(timing.Silence(fleet.GuardLate))
	turn()
	if len(e.asked) == 0 {
		t.Fatalf("the ears were not asked")
	}
	if q.bare != before {
		t.Errorf("%d writes of events alone while a host was being lost", q.bare-before)
	}
	for waited := time.Duration(0); q.bare == before; waited += timing.Lease {
		if waited > 10*timing.Lease {
			t.Fatal("the events were never written")
		}
		pass(timing.Lease)
		turn()
	}
	if len(l.book.pending) != 0 {
		t.Error("events were left behind")
	}
}
