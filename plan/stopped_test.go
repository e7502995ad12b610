package plan

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestStopped: what a person wished down is ended, nothing is begun, joined or asked for
// its position meanwhile, and it comes back when the wish is taken back.
func TestStopped(t *testing.T) {
	runs := func(w fleet.World, hosts ...string) {
		for _, host := range hosts {
			says(w, host, func(s *fleet.ServiceState) {
				*s = fleet.ServiceState{Phase: fleet.Running, Ready: true, Replica: fleet.Replica{UUID: one, Part: fleet.PartSynced}}
			})
		}
	}
	for _, tc := range []struct {
		name       string
		set        func(w fleet.World)
		want, wait string
	}{
		{"all run", func(w fleet.World) { runs(w, "c1", "c2", "c3") }, "stop c1 stop c2 stop c3", "c1, c2, c3 to stop: ann wishes it"},
		{"one is left, and hangs", func(w fleet.World) {
			runs(w, "c2")
			says(w, "c2", func(s *fleet.ServiceState) { s.Stuck, s.Ready = true, false })
		}, "stop c2", "c2 to stop"},
		{"one waits for its peers", func(w fleet.World) { says(w, "c2", func(s *fleet.ServiceState) { s.Phase = fleet.Starting }) }, "position c2", "c2 to stop"},
		{"one is silent", func(w fleet.World) { silent(w, "c3", time.Second) }, "stop-like", "c3 to stop"},
		{"one is proved off", func(w fleet.World) { dead(w, "c3") }, "", "a person: it is kept down"},
		{"all are down", func(fleet.World) {}, "", "a person: it is kept down, as ann wishes (a table is gone)"},
		{"one has a right to begin", func(w fleet.World) { begun(w, "c3", 4) }, "", "a person: it is kept down"},
		{"taken back", func(w fleet.World) { delete(w.State.Wishes, "stop-db") }, "=c3/1", ""},
		{"taken back, after a restore on c2", func(w fleet.World) {
			delete(w.State.Wishes, "stop-db")
			for _, host := range []string{"c1", "c3"} {
				says(w, host, func(s *fleet.ServiceState) { s.Replica = fleet.Replica{Empty: true} })
			}
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica = fleet.Replica{UUID: two, Seqno: 2, Known: true} })
		}, "=c2/1", ""},
		{"taken back, and one was forgotten", func(w fleet.World) {
			delete(w.State.Wishes, "stop-db")
			says(w, "c1", func(s *fleet.ServiceState) { s.Replica = fleet.Replica{Empty: true} })
			says(w, "c2", func(s *fleet.ServiceState) { s.Replica = fleet.Replica{UUID: two, Seqno: 2, Known: true} })
		}, "", "different histories"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := lost()
			w.State.Wishes["stop-db"] = fleet.Wish{ID: "stop-db", Verb: "stop", Thing: "service/db", By: "ann", Why: "a table is gone", At: wished}
			tc.set(w)
			_, p := Turn(w)
			var got []string
			for _, o := range p.Orders {
				if o.Thing == "service/db" || o.Thing == "bootstrap/db" {
					got = append(got, fmt.Sprintf("%s %s", o.Verb, o.To))
				}
			}
			for _, r := range p.Records {
				if r.Key == "bootstrap/db" {
					var b fleet.Bootstrap
					if err := json.Unmarshal(r.Value, &b); err != nil {
						t.Fatal(err)
					}
					got = append(got, fmt.Sprintf("=%s/%d", b.Host, b.Generation))
				}
			}
			if s := strings.Join(got, " "); s != tc.want && (tc.want != "stop-like" || s != "" && s != "stop c3") {
				t.Errorf("got %q, want %q: %v", s, tc.want, brief(p))
			}
			if !slices.ContainsFunc(p.Waits, func(x fleet.Wait) bool { return strings.Contains(x.For, tc.wait) }) && tc.wait != "" {
				t.Errorf("waits for %v, want %q", p.Waits, tc.wait)
			}
		})
	}
}

// TestBackups: a person is told when no member knows of a backup that is young enough.
func TestBackups(t *testing.T) {
	for _, tc := range []struct {
		name, within string
		c1, c2       time.Duration // the age of the newest backup there; 0: none
		want         string
	}{
		{"nobody asked for any", "", 0, 0, ""},
		{"none", "26h", 0, 0, "none was ever taken"},
		{"one is young", "26h", 50 * time.Hour, 25 * time.Hour, ""},
		{"all are old", "26h", 50 * time.Hour, 27 * time.Hour, "no backup of it for 26h0m0s (the newest is of"},
		{"never", "0s", 50 * time.Hour, 0, ""},
	} {
		w := lost()
		db := &w.Spec.Services[len(w.Spec.Services)-1]
		db.Params = map[string]string{"backup_within": tc.within}
		for host, age := range map[string]time.Duration{"c1": tc.c1, "c2": tc.c2, "c3": 0} {
			says(w, host, func(s *fleet.ServiceState) {
				*s = fleet.ServiceState{Phase: fleet.Running, Ready: true, Replica: fleet.Replica{UUID: one, Part: fleet.PartSynced}}
				if age > 0 {
					s.Replica.Saved = w.Wall.Add(-age)
				}
			})
		}
		_, p := Turn(w)
		got := ""
		for _, x := range p.Waits {
			if x.About == "backup/db" {
				got = x.For
			}
		}
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: waits for %q, want %q", tc.name, got, tc.want)
		}
	}
}
