package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestRolling restarts one copy at a time, the writer's last, and never while another is
// not ready.
func TestRolling(t *testing.T) {
	key := func(host string) string { return "roll/web/" + host + "/" + wished.UTC().Format("150405.000") }
	done := &fleet.Effect{Outcome: fleet.Done}
	for _, tc := range []struct {
		name string
		set  func(w fleet.World)
		want string
		wait string
	}{
		{"the first that is not the writer", func(fleet.World) {}, "restart c2", ""},
		{"it is under way", func(w fleet.World) { w.Flights[key("c2")] = fleet.Flight{Sent: w.Now, Tries: 1} }, "", ""},
		{"it comes up", func(w fleet.World) {
			w.Flights[key("c2")] = fleet.Flight{Effect: done, Arrived: w.Now}
			web(w, "c2", fleet.ServiceState{Phase: fleet.Starting, Why: "joins"})
		}, "", "c2 to be ready again after its restart (joins)"},
		{"it is ready again", func(w fleet.World) { w.Flights[key("c2")] = fleet.Flight{Effect: done, Arrived: w.Now} }, "=c2", ""},
		{"the next", func(w fleet.World) { wishRestart(w, "c2") }, "restart c3", ""},
		{"another is not ready", func(w fleet.World) {
			wishRestart(w, "c2")
			web(w, "c2", fleet.ServiceState{Phase: fleet.Running, Why: "catches up"})
		}, "", "the one on c2 is not (catches up)"},
		{"the writer's at last", func(w fleet.World) { wishRestart(w, "c2", "c3") }, "restart c1", ""},
		{"it failed", func(w fleet.World) {
			w.Flights[key("c2")] = fleet.Flight{Tries: 1, Effect: &fleet.Effect{Outcome: fleet.Broken, Why: "no unit"}, Arrived: w.Now}
		}, "", "the restart on c2: failed no unit"},
		{"its host is in maintenance", func(w fleet.World) {
			w.State.Wishes["maintenance-c2"] = fleet.Wish{ID: "maintenance-c2", Verb: "maintenance", Host: "c2"}
		}, "", "c2 to be there"},
		{"all are done", func(w fleet.World) { wishRestart(w, "c2", "c3", "c1") }, "over", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := small()
			w.Spec.Services = append(w.Spec.Services, fleet.Service{Name: "web", Mode: fleet.ActiveActive, Roles: []string{"controller"}, Listen: fleet.Listen{Port: 1, Writer: true}})
			w.State.Writers = map[string]string{"web": "c1"}
			for _, host := range []string{"c1", "c2", "c3"} {
				web(w, host, fleet.ServiceState{Phase: fleet.Running, Ready: true})
			}
			wishRestart(w)
			tc.set(w)
			_, p := Turn(w)
			var got []string
			for _, o := range p.Orders {
				if o.Thing == "service/web" {
					got = append(got, fmt.Sprintf("%s %s", o.Verb, o.To))
				}
			}
			for _, r := range p.Records {
				if r.Key == "wish/restart-web" {
					if r.Value == nil {
						got = append(got, "over")
					} else {
						got = append(got, "="+strings.TrimPrefix(r.Text, "web is restarted on "))
					}
				}
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("got %q, want %q: %v", s, tc.want, brief(p))
			}
			if !slices.ContainsFunc(p.Waits, func(x fleet.Wait) bool { return strings.Contains(x.For, tc.wait) }) && tc.wait != "" {
				t.Errorf("waits for %v, want %q", p.Waits, tc.wait)
			}
		})
	}
}

// TestRollingDrains takes the copy that is being restarted out of the rotation, and lets
// another take the writes.
func TestRollingDrains(t *testing.T) {
	w := small()
	w.Spec.Services = append(w.Spec.Services, fleet.Service{Name: "web", Mode: fleet.ActiveActive, Roles: []string{"controller"}, Listen: fleet.Listen{Port: 1, Writer: true}})
	w.State.Writers = map[string]string{"web": "c1"}
	for _, host := range []string{"c1", "c2", "c3"} {
		web(w, host, fleet.ServiceState{Phase: fleet.Running, Ready: true})
		w.Reports[host].Services["haproxy"] = fleet.ServiceState{Phase: fleet.Running, Ready: true}
	}
	wishRestart(w, "c2", "c3")
	_, p := Turn(w)
	for _, o := range p.Orders {
		if o.Verb == fleet.VerbRoute {
			if s := o.Routes.Servers["web"]; s["c1"] != fleet.RouteDrain || s["c2"] != fleet.RouteReady {
				t.Errorf("routes: %v", s)
			}
			return
		}
	}
	t.Errorf("no routes: %v", brief(p))
}

var wished = time.Date(2027, 1, 1, 10, 0, 0, 0, time.UTC)

func wishRestart(w fleet.World, done ...string) {
	w.State.Wishes["restart-web"] = fleet.Wish{ID: "restart-web", Verb: "restart", Thing: "service/web", By: "ann", At: wished, Done: done}
}

func web(w fleet.World, host string, s fleet.ServiceState) { w.Reports[host].Services["web"] = s }
