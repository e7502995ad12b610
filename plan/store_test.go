package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// TestStores: a voter whose member of the store is missing is told of after a while,
// though nothing else is amiss; one of another host, or that departs, is not.
func TestStores(t *testing.T) {
	learns := func(w *fleet.World) {
		r := w.Reports["c2"]
		r.Store.Phase, r.Store.Why = fleet.StoreLearns, "c1 gives it"
		w.Reports["c2"] = r
	}
	for _, c := range []struct {
		name, host string
		lasts      time.Duration
		then       func(w *fleet.World)
		want       []string
	}{
		{"for a moment", "c2", 4 * time.Second, nil, nil},
		{"for long", "c2", 5 * time.Second, nil, []string{"store/c2 waits"}},
		{"of the leader's own host", "c1", time.Minute, nil, []string{"store/c1 waits"}},
		{"seen before this leader began", "c2", time.Minute, func(w *fleet.World) { w.Since = w.Now.Add(-4 * time.Second) }, nil},
		{"in maintenance", "c3", time.Minute, func(w *fleet.World) {
			w.State.Wishes["maintenance-c3"] = fleet.Wish{Verb: "maintenance", Host: "c3"}
		}, nil},
		{"that learns for a while", "c2", 59 * time.Second, learns, nil},
		{"that learns for long", "c2", time.Minute, learns, []string{"store/c2 waits"}},
		{"of a partner that learns for long", "c2", time.Minute, func(w *fleet.World) {
			learns(w)
			w.Spec = w.Spec.Without("c2")
		}, []string{"store/c2 waits"}},
		{"of a host that does not vote", "c3", time.Minute, func(w *fleet.World) {
			w.Spec.Hosts[2].Voter = false
			w.Spec.Hosts = append(w.Spec.Hosts, fleet.Host{Name: "c4", Voter: true}) // two voters would be a pair
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := small()
			r := w.Reports[c.host]
			r.Wall = w.Wall
			r.Store = fleet.StoreState{Phase: fleet.StoreDown, Why: "no connection", Since: w.Wall.Add(-c.lasts)}
			w.Reports[c.host] = r
			if c.then != nil {
				c.then(&w)
			}
			_, p := Turn(w)
			if diff := cmp.Diff(c.want, brief(p)); diff != "" {
				t.Error(diff)
			}
			for _, x := range p.Waits {
				if w.Reports[c.host].Store.Phase == fleet.StoreLearns {
					if want := "its vote: its store learns since " + w.Wall.Add(-c.lasts).UTC().Format(time.RFC3339) + " (c1 gives it)"; !strings.Contains(x.For, want) || !strings.Contains(x.Help, "on c1: journalctl -u mainstay ") {
						t.Errorf("%+v, and not %q", x, want)
					}
					continue
				}
				if !strings.Contains(x.For, "its store: it is down (no connection)") || !strings.Contains(x.Help, "systemctl status mainstay-quorum") {
					t.Errorf("%+v", x)
				}
			}
		})
	}
}
