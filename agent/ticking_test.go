package agent

import (
	"log/slog"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestTicking: an agent is alive as long as the loop that beats comes round, whatever
// else works in it.
func TestTicking(t *testing.T) {
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}}}
	now := fleet.Moment(time.Hour)
	a, err := New(Config{
		Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Now: func() fleet.Moment { return now }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	beat := func() { a.tick(spec.Timing.Beat, spec.Timing.Lease) }
	pass := func(d time.Duration) { now += fleet.Moment(d) }
	is := func(want bool, when string) {
		t.Helper()
		if a.Ticking() != want {
			t.Errorf("%s: alive is %v", when, !want)
		}
	}
	is(false, "before its first beat")
	beat()
	is(true, "after a beat")
	pass(4 * time.Second)
	is(true, "late, as on a busy machine")
	pass(2 * time.Second)
	is(false, "hung")
	beat()
	is(true, "it goes on")
}
