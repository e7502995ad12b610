package agent

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestSlowLease: a host on which nothing exclusive can live beats seldom, and its lease
// must last until its next beats.
func TestSlowLease(t *testing.T) {
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}, {Name: "n1", Roles: []string{"compute"}}}}
	now := fleet.Moment(time.Hour)
	a, err := New(Config{
		Host: "n1", Boot: "b", Spec: spec, Run: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Now: func() fleet.Moment { return now }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	stint := a.hand.Stint()
	a.hand.Dropped(stint.N)
	for range 5 {
		a.acked("c1", stint, now, now)
		now = now.Add(spec.Timing.SlowBeat)
		if a.tick(spec.Beats(spec.Hosts[1])); a.hand.Stint() != stint || !a.hand.Leased(now) {
			t.Fatalf("its lease ended between two beats: %v", a.hand.Stint())
		}
	}
}

// TestDue: a report is due each second, and at once when time itself made news.
func TestDue(t *testing.T) {
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}}}
	now := fleet.Moment(time.Hour)
	a, err := New(Config{
		Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Now: func() fleet.Moment { return now }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	said := func() {
		a.said, a.saidAt = a.testimony(now), now
		if a.due(now) {
			t.Error("due again at once")
		}
	}
	a.links = map[string]bool{"storage": true, "tenant": true}
	said()
	if now = now.Add(time.Second); !a.due(now) {
		t.Error("not due after a second")
	}
	said()
	a.acked("c1", a.hand.Stint(), now, now)
	if !a.due(now) {
		t.Error("not due when the lease lives")
	}
	a.paths.Acked("tenant", now)
	said()
	now = now.Add(spec.Timing.Lease / 2)
	a.paths.Acked("storage", now)
	a.acked("c1", a.hand.Stint(), now, now)
	said()
	now = now.Add(spec.Timing.Lease * 3 / 4)
	a.acked("c1", a.hand.Stint(), now.Add(-spec.Timing.Beat), now)
	a.paths.Acked("storage", now)
	if !a.due(now) {
		t.Error("not due when a network brings no answers any more")
	}
	said()
	if now = now.Add(spec.Timing.Lease); !a.due(now) {
		t.Error("not due when the lease has ended")
	}
}

// TestAskedBeforeItRuns: a leader on this host may have the ears asked before its agent has a socket.
func TestAskedBeforeItRuns(t *testing.T) {
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Networks: []fleet.Network{{Name: "management"}}, Hosts: []fleet.Host{
		{Name: "c1", Voter: true, Addresses: map[string]netip.Addr{"management": netip.MustParseAddr("127.0.0.1")}},
		{Name: "c2", Voter: true, Addresses: map[string]netip.Addr{"management": netip.MustParseAddr("127.0.0.2")}},
	}}
	a, err := New(Config{
		Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Now: func() fleet.Moment { return fleet.Moment(time.Hour) }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.ears) == 0 {
		t.Fatal("it has no ear to ask")
	}
	round := fleet.Round{Stint: fleet.Stint{Host: "c2", Boot: "b", N: 1}, Number: 1, Asked: fleet.Moment(time.Hour)}
	a.rounds["c2"] = asking{epoch: 1, round: round, promised: map[string]bool{}}
	asked := make(chan struct{})
	go func() { a.repeat(1, round); close(asked) }()
	select {
	case <-asked:
		t.Error("it asked without a socket")
	default:
	}
	close(a.over)
	<-asked
}
