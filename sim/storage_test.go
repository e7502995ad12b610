package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// withHeartbeats gives the story of a seed storage that the computes share and beat to: it hangs for some, is not
// mounted on some, and computes lose every network with it or without it, for a moment or for minutes.
func withHeartbeats(seed uint64) Story {
	st := withServers(seed)
	dice := rand.New(rand.NewPCG(seed, 0x73746f72))
	st.Shape.Heartbeat = pick(dice, storageSan, storageSan, "storage")
	lost := map[string]fleet.Loss{fleet.EveryNetwork: pick(dice, fleet.LossEvacuate, fleet.LossEvacuate, fleet.LossDisable)}
	for network, then := range st.Shape.Lost { // in whatever order: a map is filled
		lost[network] = then
	}
	st.Shape.Lost = lost
	end := st.Commands[len(st.Commands)-1]
	span := func(low, top time.Duration) time.Duration {
		return low + time.Duration(dice.Int64N(int64(top-low))).Truncate(time.Microsecond)
	}
	for range 4 + dice.IntN(5) {
		t := span(20*time.Second, length-100*time.Second)
		group := 5000 + len(st.Commands)
		add := func(after time.Duration, line string) {
			words := strings.Fields(line)
			st.Commands = append(st.Commands, Command{At: t + after, Verb: words[0], Args: words[1:], Group: group})
		}
		first := dice.IntN(st.Shape.Hosts)
		for i := range pick(dice, 1, 1, 1, 2, st.Shape.Hosts) {
			h := fmt.Sprintf("n%d", 1+(first+i)%st.Shape.Hosts)
			back := span(0, pick(dice, 4*time.Second, 20*time.Second, 100*time.Second))
			add(0, fmt.Sprintf("cut %s all %s", h, pick(dice, "both", "both", "in", "out", "link")))
			add(back, "heal "+h)
			switch dice.IntN(4) {
			case 0:
				add(span(0, 40*time.Second), "storage "+h+" hang")
				add(span(40*time.Second, 80*time.Second), "storage "+h+" ok")
			case 1:
				add(span(0, 40*time.Second), "poweroff "+h)
				add(span(40*time.Second, 80*time.Second), "start "+h)
			}
		}
		h := fmt.Sprintf("n%d", 1+dice.IntN(st.Shape.Hosts))
		switch dice.IntN(4) {
		case 0, 1:
			add(span(0, 30*time.Second), "storage "+h+" hang")
			add(span(30*time.Second, 90*time.Second), "storage "+h+" ok")
		case 2:
			add(0, "storage "+h+" other")
			add(span(time.Second, 90*time.Second), "storage "+h+" ok")
		}
		if dice.IntN(3) == 0 {
			add(span(0, 70*time.Second), pick(dice, "transfer", fmt.Sprintf("killagent n%d", 1+dice.IntN(st.Shape.Hosts))))
		}
	}
	slices.SortStableFunc(st.Commands, func(a, b Command) int { return int(a.At - b.At) })
	st.Commands = slices.DeleteFunc(st.Commands, func(c Command) bool { return c.Verb == "end" })
	end.At = max(end.At, st.Commands[len(st.Commands)-1].At+time.Second)
	st.Commands = append(st.Commands, end)
	return st
}

// TestStorageSeeds plays the sites of TestServerSeeds with storage heartbeats: the same audits hold, and nobody is fenced
// for his silence within the minute in which another sees him write.
func TestStorageSeeds(t *testing.T) {
	n := uint64(max(1, *seeds/12))
	if testing.Short() {
		n = 1
	}
	for seed := *first; seed < *first+n; seed++ {
		if r := Play(withHeartbeats(seed)); r.Violation != nil {
			small := Shrink(withHeartbeats(seed))
			r := Play(small)
			t.Errorf("seed %d: %s: %s\nshrunk to this story:\n\n%s%s", seed, r.Violation.Audit, r.Violation.Text, small.Write(), strings.Join(r.Log[max(0, len(r.Log)-100):], "\n"))
			return
		}
	}
}
