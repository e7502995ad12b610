package plan

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

var leftAt = fleet.LeftOut{At: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}

// out marks a member in the record as left out, of a boot that was proved off, or of none.
func out(w fleet.World, host, boot string) {
	b := w.State.Bootstraps["db"]
	b.Service, b.Without = "db", map[string]fleet.LeftOut{host: {At: leftAt.At, Boot: boot}}
	w.State.Bootstraps["db"] = b
}

func synced(w fleet.World, hosts ...string) {
	for _, host := range hosts {
		says(w, host, func(s *fleet.ServiceState) {
			*s = fleet.ServiceState{Phase: fleet.Running, Ready: true, Replica: fleet.Replica{UUID: one, Part: fleet.PartSynced, Renounced: s.Replica.Renounced}}
		})
	}
}

// TestLeftOut: a member whose data were given up joins with nothing, and decides nothing
// about others until it has all of theirs.
func TestLeftOut(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(w fleet.World)
		want string // orders; a record as "=HOST/GENERATION -LEFTOUT..."
		wait string // any, of db or of its member
	}{
		{"it is dead and waived: a mark", func(w fleet.World) { dead(w, "c3"); waive(w, "c3") }, "=c2/1 -c3@b", ""},
		{"it could not tell: a mark", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica.Known, s.Replica.Seqno = false, 0 })
			waive(w, "c2")
			w.Flights["position/db/c2/b/0"] = fleet.Flight{Effect: &fleet.Effect{Outcome: fleet.Broken, Why: "corrupt page"}, Arrived: w.Now, Tries: 1}
		}, "=c3/1 -c2@", ""},
		{"it has another history: a mark", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica.UUID = two })
			waive(w, "c2")
		}, "=c3/1 -c2@", ""},
		{"it has nothing that the others lack: none", func(w fleet.World) { waive(w, "c2") }, "=c3/1", ""},
		{"it has no data: none", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica = fleet.Replica{Empty: true} })
			waive(w, "c2")
		}, "=c3/1", ""},
		{"it has the newest after all: none", func(w fleet.World) {
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica.Seqno = 500 })
			waive(w, "c2")
		}, "=c2/1", ""},
		{"it comes back: it gives its data up", func(w fleet.World) { synced(w, "c1", "c2"); out(w, "c3", "earlier") }, "tend/renounce c3", "db@c3 waits for a whole copy"},
		{"behind one that needs a few changes", func(w fleet.World) { synced(w, "c2"); out(w, "c1", "") }, "join c3", "db@c1 waits for a whole copy"},
		{"it has", func(w fleet.World) {
			synced(w, "c1", "c2")
			out(w, "c3", "earlier")
			says(w, "c3", func(s *fleet.ServiceState) {
				s.Replica = fleet.Replica{Empty: true, Renounced: "x," + leftAt.Mark()}
			})
		}, "join c3", "db@c3 waits for a whole copy"},
		{"under an earlier mark only", func(w fleet.World) {
			synced(w, "c1", "c2")
			out(w, "c3", "earlier")
			says(w, "c3", func(s *fleet.ServiceState) { s.Replica.Renounced = "2026-10-01T00:00:00Z" })
		}, "tend/renounce c3", ""},
		{"disarmed", func(w fleet.World) {
			synced(w, "c1", "c2")
			out(w, "c3", "earlier")
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, "", "armed again"},
		{"synced again: the mark goes", func(w fleet.World) {
			out(w, "c3", "earlier")
			says(w, "c3", func(s *fleet.ServiceState) { s.Replica.Renounced = leftAt.Mark() })
			synced(w, "c1", "c2", "c3")
		}, "=/0", ""},
		{"joined, not synced: it stays", func(w fleet.World) {
			out(w, "c3", "earlier")
			says(w, "c3", func(s *fleet.ServiceState) { s.Replica.Renounced = leftAt.Mark() })
			synced(w, "c1", "c2", "c3")
			says(w, "c3", func(s *fleet.ServiceState) { s.Replica.Part = fleet.PartJoining })
		}, "", "db@c3 waits for a whole copy"},
		{"somebody started it as it was", func(w fleet.World) { synced(w, "c1", "c2", "c3"); out(w, "c3", "earlier") }, "stop c3", "db@c3 waits for its end"},
		{"it alone serves: it stays", func(w fleet.World) { synced(w, "c3"); out(w, "c3", "earlier") }, "join c1", "whole copy"},
		{"another outage: what it has counts for nothing", func(w fleet.World) { out(w, "c3", "earlier") }, "=c2/1 -c3@earlier", ""},
		{"another outage, and it has been off since", func(w fleet.World) { dead(w, "c3"); out(w, "c3", "b") }, "=c2/1 -c3@b", ""},
		{"another outage, and it was on since", func(w fleet.World) { dead(w, "c3"); out(w, "c3", "earlier") }, "start c1", "c3, which is off"},
		{"another outage, after it had got all", func(w fleet.World) {
			out(w, "c3", "earlier")
			says(w, "c3", func(s *fleet.ServiceState) { s.Replica.Renounced = leftAt.Mark() })
		}, "=c3/1", ""},
		{"it goes on with nobody by itself", func(w fleet.World) {
			viewed(w, "c1", "c2", "c3")
			out(w, "c3", "earlier")
		}, "position c1 position c2 position c3", ""},
		{"nor while another is silent", func(w fleet.World) {
			viewed(w, "c2", "c3")
			silent(w, "c1", time.Second)
			says(w, "c2", func(s *fleet.ServiceState) { *s = fleet.ServiceState{Phase: fleet.Starting} })
			says(w, "c3", func(s *fleet.ServiceState) { s.Replica.Seen = "c1,c2,c3" })
			out(w, "c3", "earlier")
		}, "", "word from c1"},
		{"nobody else has data", func(w fleet.World) {
			for _, host := range []string{"c1", "c2"} {
				says(w, host, func(s *fleet.ServiceState) { s.Replica = fleet.Replica{Empty: true} })
			}
			out(w, "c3", "earlier")
		}, "", "only c3 may have data"},
		{"and a person gives the others up", func(w fleet.World) {
			for _, host := range []string{"c1", "c2"} {
				says(w, host, func(s *fleet.ServiceState) { s.Replica = fleet.Replica{Empty: true} })
				waive(w, host)
			}
			out(w, "c3", "earlier")
		}, "=c3/1", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := lost()
			tc.set(w)
			_, p := Turn(w)
			var got []string
			for _, r := range p.Records {
				if r.Key != "bootstrap/db" {
					continue
				}
				var b fleet.Bootstrap
				if err := json.Unmarshal(r.Value, &b); err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("=%s/%d", b.Host, b.Generation))
				for _, host := range fleet.Sorted(b.Without) {
					got = append(got, "-"+host+"@"+b.Without[host].Boot)
				}
			}
			for _, o := range p.Orders {
				if strings.HasSuffix(o.Thing, "/db") {
					verb := string(o.Verb)
					if o.Step != "" {
						verb += "/" + o.Step
					}
					got = append(got, verb+" "+o.To)
				}
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("got %q, want %q\n%v", s, tc.want, brief(p))
			}
			var waits []string
			for _, x := range p.Waits {
				waits = append(waits, x.About+" waits for "+x.For)
			}
			if !strings.Contains(strings.Join(waits, "\n"), tc.wait) {
				t.Errorf("the waits are %q, want %q", waits, tc.wait)
			}
		})
	}
}

// TestOathOfOneThatHoldsNothing: no ear is asked about it, so it stays suspect however long
// it has been off; a person's oath is taken all the same, but not of one just heard.
func TestOathOfOneThatHoldsNothing(t *testing.T) {
	for since, taken := range map[time.Duration]bool{200 * time.Millisecond: false, time.Minute: true} {
		w := lost()
		silent(w, "c3", since)
		w.State.Wishes["oath-c3"] = fleet.Wish{ID: "oath-c3", Verb: "oath", Host: "c3", Boot: "b", By: "ann"}
		v, p := Turn(w)
		if c := v.Verdicts["c3"].Condition; c != fleet.Suspect {
			t.Fatalf("after %v it is %s", since, c)
		}
		got := false
		for _, r := range p.Records {
			if r.Key == "proof/c3" {
				next, err := w.State.Apply(r)
				if err != nil {
					t.Fatal(err)
				}
				w.State, got = next, true
			}
		}
		if v, _ = Turn(w); got != taken || taken != (v.Verdicts["c3"].Condition == fleet.Dead) {
			t.Errorf("silent for %v: taken %v, then %s: %v", since, got, v.Verdicts["c3"].Condition, brief(p))
		}
	}
}
