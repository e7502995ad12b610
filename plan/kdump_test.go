package plan

import (
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestDumps: a host that may dump is not switched off before its time is over; the word of its
// crash kernel proves it dead, beside ears that hear nothing of it, and then nobody switches it off at all.
func TestDumps(t *testing.T) {
	speaks := func(voter string) func(w *fleet.World) {
		return func(w *fleet.World) {
			r := w.Reports[voter]
			r.Dumps = map[string]time.Time{"n2": w.Wall}
			w.Reports[voter] = r
			said(w, voter, 0)
		}
	}
	for _, c := range []struct {
		name   string
		silent time.Duration
		change func(w *fleet.World)
		want   string
	}{
		{"it may speak yet", 29 * time.Second, nil, "waits"},
		{"it had its time", 30 * time.Second, nil, "fence"},
		{"it never would", 29 * time.Second, func(w *fleet.World) { w.Spec.Hosts[4].Kdump = 0 }, "fence"},
		{"it speaks", 20 * time.Second, speaks("c1"), "proof"},
		{"to any voter", 20 * time.Second, speaks("c3"), "proof"},
		{"to who is no voter", 20 * time.Second, speaks("n3"), "waits"},
		{"to a voter whose word is old", 20 * time.Second, func(w *fleet.World) {
			speaks("c3")(w)
			silent(*w, "c3", time.Minute)
			h := w.Heard["c3"]
			h.Stint.Boot = "another"
			w.Heard["c3"] = h
		}, "waits"},
		{"to a voter that has fallen silent since", 20 * time.Second, func(w *fleet.World) {
			speaks("c3")(w)
			said(w, "c3", dumpWord+1)
		}, "waits"},
		{"late, and it was not off yet", time.Hour, speaks("c1"), "proof"},
		{"but what the ears said is old: they are asked again", time.Hour, func(w *fleet.World) {
			speaks("c1")(w)
			r := w.Rounds["n2"]
			r.Asked = w.Now.Add(-50 * time.Minute)
			w.Rounds["n2"] = r
		}, "asks"},
		{"of one that should not be able to", 20 * time.Second, func(w *fleet.World) {
			speaks("c1")(w)
			w.Spec.Hosts[4].Kdump = 0
		}, "fence"},
		{"of one that is heard", 0, speaks("c1"), ""},
		{"a leader counts from its own beginning", time.Hour, func(w *fleet.World) { w.Since = w.Now.Add(-29 * time.Second) }, "waits"},
		{"disarmed: a proof harms nobody", 20 * time.Second, func(w *fleet.World) {
			speaks("c1")(w)
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, "proof"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := computed()
			delete(w.State.Holdings, Compute("n1"))
			if w.Spec.Hosts[4].Name != "n2" {
				t.Fatal("the hosts stand otherwise")
			}
			w.Spec.Hosts[4].Kdump = 30 * time.Second
			if c.silent > 0 {
				hush(w, "n2")
				silent(w, "n2", c.silent)
				r := w.Rounds["n2"]
				r.Silent = map[string]time.Duration{"c1": c.silent, "c3": c.silent}
				w.Rounds["n2"] = r
			}
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			got := ""
			for _, r := range p.Records {
				switch {
				case r.Key == "intent/n2":
					got += "fence"
				case r.Key == "proof/n2" && r.Value != nil && strings.Contains(string(r.Value), `"kdump"`):
					got += "proof"
				}
			}
			for _, x := range p.Waits {
				if x.About == "host/n2" && strings.Contains(x.For, "its crash kernel to speak") {
					got += "waits"
				}
			}
			if got == "" && slices.ContainsFunc(p.Asks, func(r fleet.Round) bool { return r.Stint.Host == "n2" }) {
				got = "asks"
			}
			if got != c.want {
				t.Errorf("%q, not %q", got, c.want)
			}
		})
	}
}

// TestDumpsOfTheLiving: one that is heard, and is fenced for what it lacks, has no crash kernel to wait for.
func TestDumpsOfTheLiving(t *testing.T) {
	w := lostStorage(40 * time.Second)
	w.Spec.Hosts[4].Kdump = time.Hour
	_, p := Turn(w)
	if !slices.ContainsFunc(p.Records, func(r fleet.Record) bool { return r.Key == "intent/n2" }) {
		t.Errorf("%+v", p.Waits)
	}
}
