package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// TestRouteBeyondReach: a server whose host is cut off from the network over which
// HAProxy reaches it takes nothing, though all is well on the host itself; unless
// that goes for all of them.
func TestRouteBeyondReach(t *testing.T) {
	const ready, out = fleet.RouteReady, fleet.RouteOut
	for _, x := range []struct {
		name string
		cut  func(w fleet.World)
		want map[string]fleet.Route
	}{
		{"all well", func(fleet.World) {}, map[string]fleet.Route{"c1": ready, "c2": ready, "c3": ready}},
		{"the leader does not hear it there", func(w fleet.World) {
			w.Verdicts["c2"] = fleet.Verdict{Condition: fleet.Degraded, Silent: []string{"management"}}
		},
			map[string]fleet.Route{"c1": ready, "c2": out, "c3": ready}},
		{"it says so itself", func(w fleet.World) { w.Reports["c3"].Links["management"] = false },
			map[string]fleet.Route{"c1": ready, "c2": ready, "c3": out}},
		{"another network", func(w fleet.World) { w.Reports["c3"].Links["storage"] = false },
			map[string]fleet.Route{"c1": ready, "c2": ready, "c3": ready}},
		{"it goes for all", func(w fleet.World) {
			for _, r := range w.Reports {
				r.Links["management"] = false
			}
		}, map[string]fleet.Route{"c1": ready, "c2": ready, "c3": ready}},
	} {
		w := small()
		w.Spec.Services = []fleet.Service{{Name: "web", Mode: fleet.ActiveActive, Roles: []string{"controller"}, Listen: fleet.Listen{Port: 5000, Network: "management"}}}
		w.Verdicts = map[string]fleet.Verdict{}
		for host, r := range w.Reports {
			r.Links = map[string]bool{"management": true, "storage": true}
			r.Services["haproxy"] = fleet.ServiceState{Phase: fleet.Running, Ready: true}
			r.Services["web"] = fleet.ServiceState{Phase: fleet.Running, Ready: true}
			w.Reports[host] = r
			w.Verdicts[host] = fleet.Verdict{Host: host, Condition: fleet.Healthy, Stint: w.Heard[host].Stint}
		}
		x.cut(w)
		var got map[string]fleet.Route
		for _, o := range Decide(w).Orders {
			if o.Verb == fleet.VerbRoute {
				got = o.Routes.Servers["web"]
			}
		}
		if diff := cmp.Diff(x.want, got); diff != "" {
			t.Errorf("%s: %s", x.name, diff)
		}
	}
}

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

func TestDrained(t *testing.T) {
	for _, c := range []struct {
		name    string
		servers map[string]fleet.Route
		want    bool
	}{
		{"no server here", map[string]fleet.Route{"c2": fleet.RouteReady}, true},
		{"in the rotation", map[string]fleet.Route{"c1": fleet.RouteReady, "c2": fleet.RouteReady}, false},
		{"a stand-in", map[string]fleet.Route{"c1": fleet.RouteBackup, "c2": fleet.RouteReady}, false},
		{"draining", map[string]fleet.Route{"c1": fleet.RouteDrain, "c2": fleet.RouteReady}, true},
		{"the last one", map[string]fleet.Route{"c1": fleet.RouteReady, "c2": fleet.RouteDead}, true},
	} {
		if got := Drained(fleet.Routes{Servers: map[string]map[string]fleet.Route{"s": c.servers}}, "c1"); got != c.want {
			t.Errorf("%s: drained is %v", c.name, got)
		}
	}
}
