package plan

import (
	"testing"
	"time"

	"mainstay/fleet"
)

// TestNeighboursWord: a compute that its neighbours miss on a network is fenced for it only if it
// says itself that it hears nobody there; until then the alarm stands, and it gets no new servers.
func TestNeighboursWord(t *testing.T) {
	of := []string{"n1", "n3"}
	says := func(w fleet.World, host string, n fleet.Neighbourhood) {
		r := w.Reports[host]
		r.Neighbours = map[string]fleet.Neighbourhood{"storage": n}
		w.Reports[host] = r
	}
	for _, c := range []struct {
		name  string
		own   fleet.Neighbourhood
		one   bool // of its neighbours hears it
		cut   bool
		fence bool
	}{
		{"both miss it, and it hears nobody", fleet.Neighbourhood{Of: of, Unanswered: of, Alone: true}, false, true, true},
		{"both miss it, and it hears another", fleet.Neighbourhood{Of: of, Unanswered: of, Heard: []string{"n4"}}, false, true, false},
		{"one misses it, and it hears nobody", fleet.Neighbourhood{Of: of, Unanswered: of, Alone: true}, true, false, false},
	} {
		w := lostStorage(time.Minute)
		plug(w, "n2")
		says(w, "n2", c.own)
		says(w, "n1", fleet.Neighbourhood{Missed: []string{"n2"}, Heard: []string{"n3"}})
		says(w, "n3", fleet.Neighbourhood{Missed: []string{"n2"}, Heard: []string{"n1"}})
		if c.one {
			says(w, "n3", fleet.Neighbourhood{Heard: []string{"n1", "n2"}})
		}
		_, p := Turn(w)
		fenced, waits := false, false
		for _, r := range p.Records {
			fenced = fenced || r.Key == "intent/n2"
		}
		for _, x := range p.Waits {
			waits = waits || x.About == Compute("n2")
		}
		if fenced != c.fence || waits != c.cut {
			t.Errorf("%s: fenced %v, waits %v: %+v %+v", c.name, fenced, waits, p.Records, p.Waits)
		}
	}
}
