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
