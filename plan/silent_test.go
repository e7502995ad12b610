package plan

import (
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// TestShortSilence: ears that answered that a compute has been silent, but not for long
// enough, are asked again after a lease, not at each turn.
func TestShortSilence(t *testing.T) {
	for _, c := range []struct {
		since time.Duration
		asks  int
	}{{ms, 0}, {room.Lease + ms, 1}} {
		w := computed()
		silent(w, "n2", time.Minute)
		w.State.Intents["n2"] = fleet.Intent{Host: "n2", Boot: "b", Device: "redfish", Executor: "c1", Epoch: w.Epoch, At: w.Wall, Lasts: time.Minute}
		m := w.State.Members["n2"]
		m.Barred = "it is being fenced"
		w.State.Members["n2"] = m
		asked := w.Now.Add(-c.since)
		w.Rounds["n2"] = fleet.Round{Stint: fleet.Stint{Host: "n2", Boot: "b", N: lease.AnyStint}, Number: 3, Asked: asked, Over: true,
			Promised: map[string]fleet.Moment{"c1": asked, "c2": asked}, Silent: map[string]time.Duration{"c1": time.Minute, "c2": 3 * room.Lease}}
		_, p := Turn(w)
		n := 0
		for _, r := range p.Asks {
			if r.Stint.Host == "n2" {
				n++
			}
		}
		if n != c.asks {
			t.Errorf("%v after the last question: %d questions, want %d", c.since, n, c.asks)
		}
	}
}
