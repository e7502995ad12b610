package sim

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"mainstay/fleet"
)

var (
	seeds = flag.Int("seeds", 40, "how many seeds to play")
	first = flag.Uint64("seed", 1, "the first seed")
)

func TestSeeds(t *testing.T) {
	began := time.Now()
	faults, guards := map[string]int{}, map[fleet.Guard]int{}
	var virtual, played time.Duration
	events, turns := 0, 0
	for i := range *seeds {
		seed := *first + uint64(i)
		r := Play(Draw(seed))
		virtual, played = virtual+r.Virtual, played+r.Played
		events, turns = events+r.Events, turns+r.Turns
		for k, n := range r.Faults {
			faults[k] += n
		}
		for k, n := range r.Guards {
			guards[k] += n
		}
		if r.Violation != nil {
			small := Shrink(Draw(seed))
			r = Play(small)
			log := r.Log
			if len(log) > 60 && !testing.Verbose() {
				log = log[len(log)-60:]
			}
			for _, l := range log {
				fmt.Println(l)
			}
			t.Fatalf("seed %d: %s: %s\nrun it again: go test ./sim -run Seeds -seeds 1 -seed %d\nshrunk to:\n%s", seed, r.Violation.Audit, r.Violation.Text, seed, small.Write())
		}
	}
	spent := time.Since(began)
	t.Logf("%d seeds in %v: %.1f a second; %v virtual, %v played; %d events (%.0f ns each), %d turns", *seeds, spent.Round(time.Millisecond), float64(*seeds)/spent.Seconds(), virtual, played,
		events, float64(spent.Nanoseconds())/float64(events), turns)
	for _, k := range fleet.Sorted(faults) {
		t.Logf("fault %-20s %d", k, faults[k])
	}
	for _, g := range fleet.Guards() {
		t.Logf("guard %-20s %d", g, guards[g])
	}
}
