package plan

import (
	"slices"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestObstructed: a host carries out no start beside the end of what it stands on, and no
// end below what stands on it.
func TestObstructed(t *testing.T) {
	spec := fleet.Spec{Services: []fleet.Service{
		{Name: "drbd", Mode: fleet.Promoted}, {Name: "fs", Mode: fleet.ActivePassive, With: []string{"service/drbd", "address/x"}},
		{Name: "db", Mode: fleet.Promoted, With: []string{"service/fs"}}, {Name: "api", Mode: fleet.ActiveActive, With: []string{"service/fs"}},
	}}
	copyOf := func(phase, role string) fleet.ServiceState { return fleet.ServiceState{Phase: phase, Role: role} }
	promoted, unpromoted := copyOf(fleet.Running, fleet.RolePromoted), copyOf(fleet.Running, fleet.RoleUnpromoted)
	stopped := copyOf(fleet.Stopped, "")
	for _, c := range []struct {
		name     string
		verb     fleet.Verb
		thing    string
		drbd, fs fleet.ServiceState
		free     bool
	}{
		{"a start on what is promoted", fleet.VerbStart, "service/fs", promoted, stopped, true},
		{"a start on what is not", fleet.VerbStart, "service/fs", unpromoted, stopped, false},
		{"a start on what is being demoted", fleet.VerbStart, "service/fs", copyOf(fleet.Stopping, fleet.RolePromoted), stopped, false},
		{"a start on what nobody can tell of", fleet.VerbStart, "service/fs", copyOf(fleet.Unknown, ""), stopped, false},
		{"a start of what runs, to tell it its generation", fleet.VerbStart, "service/fs", unpromoted, copyOf(fleet.Running, ""), true},
		{"a demotion below nothing", fleet.VerbDemote, "service/drbd", promoted, stopped, true},
		{"a demotion below what runs", fleet.VerbDemote, "service/drbd", promoted, copyOf(fleet.Running, ""), false},
		{"a demotion below what starts", fleet.VerbDemote, "service/drbd", promoted, copyOf(fleet.Starting, ""), false},
		{"a restart below what stops", fleet.VerbRestart, "service/drbd", promoted, copyOf(fleet.Stopping, ""), false},
		{"a stop of what is on top", fleet.VerbStop, "service/fs", promoted, copyOf(fleet.Running, ""), true},
		{"a start of a copy that is to be promoted elsewhere", fleet.VerbStart, "service/db", unpromoted, stopped, true},
		{"a promotion on what does not run", fleet.VerbPromote, "service/db", unpromoted, stopped, false},
		{"a promotion on what runs", fleet.VerbPromote, "service/db", promoted, copyOf(fleet.Running, ""), true},
		{"a promotion", fleet.VerbPromote, "service/drbd", unpromoted, stopped, true},
		{"an address", fleet.VerbRelease, "address/x", promoted, copyOf(fleet.Running, ""), true},
	} {
		why := Obstructed(&spec, fleet.Order{Verb: c.verb, Thing: c.thing}, map[string]fleet.ServiceState{"drbd": c.drbd, "fs": c.fs, "api": promoted})
		if (why == "") != c.free {
			t.Errorf("%s: %q", c.name, why)
		}
	}
}

// TestHesitates: what was stopped for a move is not started again where it was while the
// target may be given nothing just now; but not for long, and not for one that is lost.
func TestHesitates(t *testing.T) {
	suspect := func(w fleet.World) { silent(w, "c3", w.Spec.Timing.Suspect()+ms) }
	for _, c := range []struct {
		name    string
		change  func(w fleet.World)
		since   time.Duration // the stop was done so long ago
		started bool
	}{
		{"nobody wishes a move", func(w fleet.World) { suspect(w); delete(w.State.Wishes, "move-s") }, time.Second, true},
		{"the target is fit: the move goes on", func(fleet.World) {}, time.Second, false},
		{"the target is suspect", suspect, time.Second, false},
		{"it begins a stint", func(w fleet.World) {
			h := w.Heard["c3"]
			h.Leased = false
			w.Heard["c3"] = h
		}, time.Second, false},
		{"it is still suspect after a while", suspect, turnBack + ms, true},
		{"it is lost", func(w fleet.World) { silent(w, "c3", 2*w.Spec.Timing.Lease) }, time.Second, true},
	} {
		w := duo()
		w.Spec.Services = append(w.Spec.Services, fleet.Service{Name: "fs", Mode: fleet.ActivePassive, Roles: []string{"controller"}, With: []string{"service/s"}, Restarts: fleet.Restarts{Count: 3}},
			fleet.Service{Name: "db", Mode: fleet.ActivePassive, Roles: []string{"controller"}, With: []string{"service/fs"}, Restarts: fleet.Restarts{Count: 3}})
		w.State.Wishes["move-s"] = fleet.Wish{ID: "move-s", Verb: "move", Thing: "service/s", To: "c3", By: "ann"}
		w.State.Holdings["service/fs"] = fleet.Holding{Thing: "service/fs", Host: "c2", Boot: "b", Stint: 1, Generation: 2}
		w.State.Holdings["service/db"] = fleet.Holding{Thing: "service/db", Generation: 2}
		for _, host := range []string{"c1", "c2", "c3"} {
			w.Reports[host].Services["fs"], w.Reports[host].Services["db"] = fleet.ServiceState{Phase: fleet.Stopped}, fleet.ServiceState{Phase: fleet.Stopped}
		}
		w.Reports["c2"].Services["fs"] = fleet.ServiceState{Phase: fleet.Running, Ready: true, Generation: 2}
		w.Flights["stop/db/c2/1"] = fleet.Flight{Order: fleet.Order{Verb: fleet.VerbStop, Thing: "service/db", To: "c2"}, Sent: w.Now.Add(-c.since - time.Second), Arrived: w.Now.Add(-c.since), Effect: &fleet.Effect{Outcome: fleet.Done}}
		c.change(w)
		_, p := Turn(w)
		if started := slices.ContainsFunc(p.Records, func(r fleet.Record) bool { return r.Key == "holding/service/db" }); started != c.started {
			t.Errorf("%s: given back to its host: %v: %q", c.name, started, brief(p))
		}
	}
}
