package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mainstay/fleet"
)

// TestRollingUpgrade: one host at a time as a rolling restart, and where the packages could
// not be put in nothing goes on, whoever leads, until a person has looked.
func TestRollingUpgrade(t *testing.T) {
	key := "roll/web/c2/" + wished.UTC().Format("150405.000")
	for _, tc := range []struct {
		name string
		set  func(w fleet.World)
		want string
		wait string
	}{
		{"the first", func(fleet.World) {}, "upgrade c2", ""},
		{"it is under way", func(w fleet.World) { w.Flights[key] = fleet.Flight{Sent: w.Now, Tries: 1} }, "", "to end"},
		{"it is done", func(w fleet.World) {
			w.Flights[key] = fleet.Flight{Effect: &fleet.Effect{Outcome: fleet.Done}, Arrived: w.Now}
		}, "web is upgraded and restarted on c2", ""},
		{"apt-get failed", func(w fleet.World) {
			w.Flights[key] = fleet.Flight{Tries: 1, Effect: &fleet.Effect{Outcome: fleet.Broken, Why: "E: no room"}, Arrived: w.Now}
		}, "web could not be upgraded on c2: failed E: no room, and no further host is touched", ""},
		{"nobody knows what became of it", func(w fleet.World) {
			w.Flights[key] = fleet.Flight{Tries: 1, Effect: &fleet.Effect{Outcome: fleet.NoWord, Why: "no answer"}, Arrived: w.Now}
		}, "web could not be upgraded on c2: unknown no answer, and no further host is touched", ""},
		{"it has failed, and another leads", func(w fleet.World) {
			x := w.State.Wishes["restart-web"]
			x.Stuck = "c2: failed E: no room"
			w.State.Wishes["restart-web"] = x
		}, "", "a person: the upgrade of its packages ended on c2: failed E: no room"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := small()
			w.Spec.Services = append(w.Spec.Services, fleet.Service{Name: "web", Mode: fleet.ActiveActive, Roles: []string{"controller"}, Listen: fleet.Listen{Port: 1, Writer: true}})
			w.State.Writers = map[string]string{"web": "c1"}
			for _, host := range []string{"c1", "c2", "c3"} {
				web(w, host, fleet.ServiceState{Phase: fleet.Running, Ready: true})
			}
			wishRestart(w)
			x := w.State.Wishes["restart-web"]
			x.Upgrade = true
			w.State.Wishes["restart-web"] = x
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
					got = append(got, r.Text)
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
