package plan

import (
	"slices"
	"strings"
	"testing"

	"mainstay/fleet"
)

// TestDrags: one member that holds the others up is let lag, while two others are ready;
// else nobody is, and a person is told.
func TestDrags(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(w fleet.World)
		want string
		wait string
	}{
		{"one drags", func(fleet.World) {}, "lag c3", ""},
		{"nobody drags", func(w fleet.World) { says(w, "c3", func(s *fleet.ServiceState) { s.Replica.Drags = false }) }, "", ""},
		{"only one other is ready", func(w fleet.World) { says(w, "c2", func(s *fleet.ServiceState) { s.Ready = false }) }, "", "it to keep up, or a person: it is slow"},
		{"another gives its data", func(w fleet.World) { says(w, "c2", func(s *fleet.ServiceState) { s.Replica.Part = fleet.PartDonor }) }, "", "it to keep up"},
		{"two drag", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { s.Ready, s.Replica.Drags, s.Why = false, true, "is slow" })
		}, "", "it to keep up"},
		{"all drag", func(w fleet.World) {
			for _, host := range []string{"c1", "c2"} {
				says(w, host, func(s *fleet.ServiceState) { s.Ready, s.Replica.Drags, s.Why = false, true, "is slow" })
			}
		}, "", "it to keep up"},
		{"it lags already", func(w fleet.World) { says(w, "c3", func(s *fleet.ServiceState) { s.Replica.Part = fleet.PartDonor }) }, "", ""},
		{"disarmed", func(w fleet.World) {
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm", By: "ann"}
		}, "", "armed again"},
		{"its host is in maintenance", func(w fleet.World) {
			w.State.Wishes["maintenance-c3"] = fleet.Wish{ID: "maintenance-c3", Verb: "maintenance", Host: "c3"}
		}, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := lost()
			for _, host := range []string{"c1", "c2", "c3"} {
				says(w, host, func(s *fleet.ServiceState) {
					*s = fleet.ServiceState{Phase: fleet.Running, Ready: true, Replica: fleet.Replica{UUID: one, Part: fleet.PartSynced}}
				})
			}
			says(w, "c3", func(s *fleet.ServiceState) { s.Ready, s.Replica.Drags, s.Why = false, true, "is slow" })
			tc.set(w)
			_, p := Turn(w)
			var got []string
			for _, o := range p.Orders {
				if o.Thing == "service/db" {
					got = append(got, o.Step+" "+o.To)
				}
			}
			if s := strings.Join(got, ", "); s != tc.want {
				t.Errorf("got %q, want %q: %v", s, tc.want, brief(p))
			}
			told := slices.ContainsFunc(p.Waits, func(x fleet.Wait) bool {
				return x.About == "db@c3" && strings.Contains(x.For, tc.wait)
			})
			if told != (tc.wait != "") {
				t.Errorf("waits for %v, want %q", p.Waits, tc.wait)
			}
		})
	}
}
