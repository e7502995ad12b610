package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// HOLES 44: an agent takes out of the rotation what its own ear suspects, at once and
// without asking anybody, and never the last one.
func TestOverlay(t *testing.T) {
	table := func(c1, c2, c3 fleet.Route) fleet.Routes {
		return fleet.Routes{Revision: 7, Servers: map[string]map[string]fleet.Route{"api": {"c1": c1, "c2": c2, "c3": c3}}}
	}
	for _, c := range []struct {
		name    string
		routes  fleet.Routes
		suspect []string
		want    fleet.Routes
	}{
		{"nobody", table("ready", "ready", "ready"), nil, table("ready", "ready", "ready")},
		{"one", table("ready", "ready", "ready"), []string{"c2"}, table("ready", "out", "ready")},
		{"a backup", table("ready", "backup", "backup"), []string{"c2"}, table("ready", "out", "backup")},
		{"the writer, and a backup is left", table("ready", "backup", "out"), []string{"c1"}, table("out", "backup", "out")},
		{"what is dead stays dead", table("ready", "dead", "ready"), []string{"c2"}, table("ready", "dead", "ready")},
		{"the last one stays", table("ready", "dead", "out"), []string{"c1"}, table("ready", "dead", "out")},
		{"all", table("ready", "ready", "ready"), []string{"c1", "c2", "c3"}, table("ready", "ready", "ready")},
	} {
		if diff := cmp.Diff(c.want, Overlay(c.routes, c.suspect)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
