package agent

import (
	"log/slog"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestUnanswered: what comes in over a network without acknowledgements: a voter's beats,
// something else again and again, nothing for long, or that cannot be told yet.
func TestUnanswered(t *testing.T) {
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}, {Name: "c2", Voter: true}}}
	now := fleet.Moment(time.Hour)
	a, err := New(Config{
		Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Now: func() fleet.Moment { return now }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	a.links = map[string]bool{"management": true, "storage": true}
	a.paths.Acked("storage", now)
	a.paths.Acked("management", now)
	if got := a.unanswered(now); got != nil {
		t.Errorf("all is answered: %v", got)
	}
	now = now.Add(a.length + time.Millisecond)
	a.paths.Acked("management", now)
	is := func(name, want string) {
		t.Helper()
		if got, ok := a.unanswered(now)["storage"]; !ok || got != want {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
	is("broken a moment ago", "")
	count := func(packets uint64) { now = now.Add(a.length); a.received(map[string]uint64{"storage": packets}, now) }
	count(7)
	is("counted once", "")
	count(7)
	now = now.Add(a.quiet())
	is("nothing for long", fleet.HearsNothing)
	count(8)
	is("once: beats may be about to be heard", "")
	count(9)
	is("again and again", fleet.HearsOthers)
	a.senses["c2"] = &sense{nets: map[string]fleet.Moment{"storage": now}}
	is("a voter's beats", fleet.HearsBeats)
	now = now.Add(a.quiet())
	count(9)
	is("nothing any more", fleet.HearsNothing)
	a.links["storage"] = false
	if got := a.unanswered(now); got != nil {
		t.Errorf("a network without a carrier has no end that could hear: %v", got)
	}
	a.links["storage"] = true
	a.received(nil, now)
	is("begun anew", "")
}
