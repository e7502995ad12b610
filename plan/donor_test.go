package plan

import (
	"testing"

	"mainstay/fleet"
)

// TestDonor: whoever joins is given its data by a member to which nobody writes.
func TestDonor(t *testing.T) {
	synced := func(host string) fleet.ServiceState {
		return fleet.ServiceState{Phase: fleet.Running, Ready: true, Replica: fleet.Replica{UUID: one, Part: fleet.PartSynced, Name: "node-" + host}}
	}
	for _, tc := range []struct {
		name string
		set  func(w *fleet.World)
		want string
	}{
		{"the one that does not write", func(*fleet.World) {}, "node-c3"},
		{"the writer is the other", func(w *fleet.World) { w.State.Writers["db"] = "c3" }, "node-c2"},
		{"the writer is the one that was lost: the next takes the writes", func(w *fleet.World) { w.State.Writers["db"] = "c1" }, "node-c3"},
		{"only the writer is left", func(w *fleet.World) {
			says(*w, "c3", func(s *fleet.ServiceState) { s.Ready, s.Replica.Part = false, fleet.PartDonor })
		}, "node-c2"},
		{"one that is not ready", func(w *fleet.World) { says(*w, "c3", func(s *fleet.ServiceState) { s.Ready = false }) }, "node-c2"},
		{"one whose name is not known", func(w *fleet.World) { says(*w, "c3", func(s *fleet.ServiceState) { s.Replica.Name = "" }) }, "node-c2"},
		{"the one with fewer writers", func(w *fleet.World) {
			for i := range w.Spec.Services {
				if w.Spec.Services[i].Name == "db" {
					w.Spec.Services[i].Listen.Writers = map[string]int{"nova": 3307, "neutron": 3308}
				}
			}
			w.State.Writers = map[string]string{"db": "c3", "db-nova": "c3", "db-neutron": "c2"}
		}, "node-c2"},
		{"nobody can say", func(w *fleet.World) {
			hush(*w, "c3")
			says(*w, "c2", func(s *fleet.ServiceState) { s.Replica.Name = "" })
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := lost()
			for i := range w.Spec.Services {
				if w.Spec.Services[i].Name == "db" {
					w.Spec.Services[i].Listen = fleet.Listen{Port: 3306, Writer: true}
				}
			}
			w.State.Writers = map[string]string{"db": "c2"}
			for _, host := range []string{"c2", "c3"} {
				says(w, host, func(s *fleet.ServiceState) { *s = synced(host) })
			}
			tc.set(&w)
			_, p := Turn(w)
			for _, o := range p.Orders {
				if o.Verb == VerbJoin {
					if o.To != "c1" || o.With != tc.want {
						t.Errorf("%s joins with the data of %q, want %q", o.To, o.With, tc.want)
					}
					return
				}
			}
			t.Errorf("nobody joins: %v", brief(p))
		})
	}
}
