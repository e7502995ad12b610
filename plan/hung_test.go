package plan

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// stuck lets a member hang for longer than a busy spell explains.
func stuck(w fleet.World, hosts ...string) {
	for _, host := range hosts {
		says(w, host, func(s *fleet.ServiceState) {
			*s = fleet.ServiceState{Phase: fleet.Running, Hung: true, Stuck: true, Why: "no CPU", Replica: fleet.Replica{UUID: one, View: viewABC, Seen: "c1,c2,c3", Me: host}}
		})
	}
}

// serves lets a member be in the primary component of those that are named.
func serves(w fleet.World, host, seen string) {
	says(w, host, func(s *fleet.ServiceState) {
		*s = fleet.ServiceState{Phase: fleet.Running, Ready: true, Replica: fleet.Replica{UUID: one, Part: fleet.PartSynced, View: viewABC, Seen: seen, Me: host}}
	})
}

func killing(w fleet.World, host string, e *fleet.Effect) {
	w.Flights["kill/db/"+host+"/0"] = fleet.Flight{Order: fleet.Order{Key: "kill/db/" + host + "/0", Verb: VerbKill, Thing: "service/db", To: host, Boot: "b"}, Sent: w.Now, Arrived: w.Now, Tries: 1, Effect: e}
}

// TestHungMember: a member that hangs is killed only where nobody can serve by its vote,
// one at a time, and not without end.
func TestHungMember(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(w fleet.World)
		want string // whom to kill; "?c1" for one that is asked first
		wait string
	}{
		{"it hangs, and the others are down", func(w fleet.World) { stuck(w, "c3") }, "c3", "c3 to be ended, which hangs"},
		{"it hangs, and another says that it is in no primary component", func(w fleet.World) {
			stuck(w, "c3")
			says(w, "c1", func(s *fleet.ServiceState) {
				*s = fleet.ServiceState{Phase: fleet.Running, Replica: fleet.Replica{UUID: one, Part: fleet.PartApart}}
			})
		}, "c3", ""},
		{"it hangs, and another is on its way up", func(w fleet.World) {
			stuck(w, "c3")
			says(w, "c1", func(s *fleet.ServiceState) { s.Phase = fleet.Starting })
		}, "c3", ""},
		{"it does not answer yet", func(w fleet.World) {
			stuck(w, "c3")
			says(w, "c3", func(s *fleet.ServiceState) { s.Stuck = false })
		}, "", "word from c3"},
		{"another host is silent, which may serve by its vote", func(w fleet.World) {
			stuck(w, "c3")
			silent(w, "c2", time.Second)
		}, "", "word from c2, c3"},
		{"another is off", func(w fleet.World) {
			stuck(w, "c3")
			dead(w, "c2")
		}, "c3", "c2, which is off"},
		{"another does not answer, and does not hang", func(w fleet.World) {
			stuck(w, "c3")
			says(w, "c2", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Running} })
		}, "", "word from c2, c3"},
		{"another has missed beats", func(w fleet.World) {
			stuck(w, "c3")
			silent(w, "c2", 150*time.Millisecond)
		}, "", "word from c2, c3"},
		{"what it said is old", func(w fleet.World) {
			stuck(w, "c3")
			w.Told["c3"] = w.Now.Add(-toldFor - time.Second)
		}, "", "word from c3"},
		{"another has not spoken in this epoch", func(w fleet.World) {
			stuck(w, "c3")
			r := w.Reports["c1"]
			r.Epoch = w.Epoch - 1
			w.Reports["c1"] = r
		}, "?c1", "c1 to say so in this leader's epoch"},
		{"two hang: one after the other", func(w fleet.World) { stuck(w, "c2", "c3") }, "c2", ""},
		{"two hang, and one is being killed", func(w fleet.World) {
			stuck(w, "c2", "c3")
			killing(w, "c3", nil)
		}, "", ""},
		{"two hang, and nobody knows whether one was killed", func(w fleet.World) {
			stuck(w, "c2", "c3")
			killing(w, "c3", &fleet.Effect{Outcome: fleet.NoWord})
		}, "", ""},
		{"another is about to stop", func(w fleet.World) {
			stuck(w, "c3")
			says(w, "c1", func(s *fleet.ServiceState) { s.Phase = fleet.Stopping })
		}, "", "c1 to have stopped"},
		{"all hang", func(w fleet.World) { stuck(w, "c1", "c2", "c3") }, "", "all of them hang"},
		{"maintenance", func(w fleet.World) {
			stuck(w, "c3")
			w.State.Wishes["maintenance-c3"] = fleet.Wish{ID: "maintenance-c3", Verb: "maintenance", Host: "c3"}
		}, "", "it is in maintenance"},
		{"disarmed", func(w fleet.World) {
			stuck(w, "c3")
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, "", "armed again"},
		{"it was tried too often", func(w fleet.World) {
			stuck(w, "c3")
			says(w, "c3", func(s *fleet.ServiceState) { s.Restarts = 60 })
		}, "", "c3 to be ended"},
		{"the one that begins hangs at its start", func(w fleet.World) {
			begun(w, "c3", 4)
			given(w, "c3", 4)
			says(w, "c3", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Starting, Hung: true, Stuck: true} })
		}, "c3", ""},
		{"it begins, and is busy", func(w fleet.World) {
			begun(w, "c3", 4)
			given(w, "c3", 4)
			says(w, "c3", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Starting} })
		}, "", "c3 to have begun"},
		{"two serve without it", func(w fleet.World) {
			stuck(w, "c3")
			serves(w, "c1", "c1,c2")
			serves(w, "c2", "c1,c2")
		}, "c3", ""},
		{"two serve, and may count on it", func(w fleet.World) {
			stuck(w, "c3")
			serves(w, "c1", "c1,c2,c3")
			serves(w, "c2", "c1,c2,c3")
		}, "c3", ""},
		{"one serves by its vote", func(w fleet.World) {
			stuck(w, "c3")
			serves(w, "c1", "c1,c3")
		}, "", ""},
		{"one serves, and has left it behind", func(w fleet.World) {
			stuck(w, "c3")
			serves(w, "c1", "c1,c2")
		}, "c3", ""},
		{"one serves, and does not say with whom", func(w fleet.World) {
			stuck(w, "c3")
			serves(w, "c1", "")
		}, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := lost()
			tc.set(w)
			_, p := Turn(w)
			var got []string
			for _, o := range p.Orders {
				switch {
				case o.Verb == VerbKill && o.Thing == "service/db":
					got = append(got, o.To)
				case o.Verb == VerbInventory:
					got = append(got, "?"+o.To)
				case o.Verb == fleet.VerbRestart, o.Verb == VerbPosition && strings.HasPrefix(tc.want, "c"):
					t.Errorf("%s %s", o.Verb, o.To)
				}
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("kills %q, want %q\n%v", s, tc.want, brief(p))
			}
			if waits := fmt.Sprint(p.Waits); !strings.Contains(waits, tc.wait) {
				t.Errorf("waits for %s; want %q", waits, tc.wait)
			}
		})
	}
}

// TestKillsOnlyWhatHangs: an order that was long on its way finds a member that serves.
func TestKillsOnlyWhatHangs(t *testing.T) {
	spec := lost().Spec
	o := fleet.Order{Verb: VerbKill, Thing: "service/db"}
	for _, s := range []fleet.ServiceState{{Phase: fleet.Running}, {Phase: fleet.Running, Hung: true}, {Phase: fleet.Stopped}} {
		if why := Obstructed(&spec, o, map[string]fleet.ServiceState{"db": s}); !strings.Contains(why, "hangs no more") {
			t.Errorf("%+v: %q", s, why)
		}
	}
	if why := Obstructed(&spec, o, map[string]fleet.ServiceState{"db": {Phase: fleet.Running, Hung: true, Stuck: true}}); why != "" {
		t.Error(why)
	}
}
