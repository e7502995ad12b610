package agent

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// TestFallenAndLater: who fell silent since a host did, and which boot speaks after the one
// that was meant.
func TestFallenAndLater(t *testing.T) {
	at := fleet.Moment(time.Hour)
	a := watchdogAgent(t, func() fleet.Moment { return at }, slog.New(slog.DiscardHandler), nil)
	hear := func(host, boot string, since time.Duration) {
		a.ear.Beat(lease.Beat{Stint: fleet.Stint{Host: host, Boot: boot, N: 1}, Sent: at.Add(-since)}, at.Add(-since))
	}
	for _, c := range []struct {
		c2, c3 time.Duration // how long ago each was heard
		fallen []string
	}{
		{time.Minute, 0, nil},                          // it is heard
		{time.Minute, 2 * time.Minute, nil},            // it was silent before
		{time.Minute, time.Second, []string{"c3"}},     // it fell silent since
		{time.Minute, time.Minute, []string{"c3"}},     // together
		{0, 2 * time.Minute, nil},                      // the one we mean is heard
		{2 * time.Minute, 100 * time.Millisecond, nil}, // two beats are nothing
	} {
		a.ear = lease.NewEar("c1", a.spec.Timing, []lease.Row{}, at)
		hear("c2", "b", c.c2)
		hear("c3", "b", c.c3)
		if got := a.Fallen("c2", "b"); !slices.Equal(got, c.fallen) {
			t.Errorf("c2 was heard %v ago, c3 %v ago: fallen %v, want %v", c.c2, c.c3, got, c.fallen)
		}
	}
	a.ear = lease.NewEar("c1", a.spec.Timing, []lease.Row{}, at)
	if later := a.Later("c2", "b"); later != "" {
		t.Errorf("nothing was heard, and %q speaks", later)
	}
	hear("c2", "b", time.Minute)
	if later := a.Later("c2", "b"); later != "" {
		t.Errorf("only the one that was meant was heard, and %q speaks", later)
	}
	hear("c2", "x", 0)
	if later := a.Later("c2", "b"); later != "x" {
		t.Errorf("a later boot was heard, and %q speaks", later)
	}
}
