package plan

import (
	"testing"

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
