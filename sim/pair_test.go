package sim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// asTwo gives the story of a seed to a site of two voters: what happened to a third happens
// to one of the two, and what no rule of a pair bounds is left out.
func asTwo(seed uint64) Story {
	st := Draw(seed)
	st.Shape.Voters, st.Shape.Hosts, st.Shape.Promoted, st.Shape.Watchdog = 2, 1, false, 0
	st.Shape.Found, st.Shape.Mirror, st.Shape.Copies = nil, false, 0
	st.Coarse = slices.DeleteFunc(st.Coarse, func(h string) bool { return h > "c2" })
	for i := range st.Commands {
		c := &st.Commands[i]
		if slices.Contains(c.Args, "manila") { // which lives on hosts that do not vote
			c.Args[0] = "c1"
		}
		for k, word := range c.Args {
			var n int
			switch {
			case word == "drbd":
				c.Args[k] = "keystone"
			case word == "manila":
				c.Args[k] = "cinder"
			case word == "service/drbd":
				c.Args[k] = "service/cinder"
			case len(word) > 1 && word[0] == 'c' && atoi(word[1:], &n):
				c.Args[k] = fmt.Sprintf("c%d", 1+(n-1)%2)
			case len(word) > 1 && word[0] == 'n' && atoi(word[1:], &n):
				c.Args[k] = "n1"
			}
		}
	}
	st.Commands = slices.DeleteFunc(st.Commands, func(c Command) bool {
		switch c.Verb {
		case "oath", "voters", "clone", "freezekick":
			return true
		case "cut":
			return len(c.Args) > 3 && c.Args[3] == c.Args[0]
		}
		return false
	})
	return st
}

func atoi(s string, n *int) bool {
	k, err := fmt.Sscanf(s, "%d", n)
	return err == nil && k == 1
}

// TestTwoSeeds: whatever happens to two voters without a third, there is one leader, one
// copy and one speaker at most, they never switch each other off, nothing committed is
// lost, and healed they are joint again.
func TestTwoSeeds(t *testing.T) {
	n := uint64(max(1, *seeds/6))
	if testing.Short() {
		n = 1
	}
	began, alone, guards := time.Now(), 0, map[fleet.Guard]int{}
	for seed := *first; seed < *first+n; seed++ {
		r := Play(asTwo(seed))
		alone += strings.Count(strings.Join(r.Log, "\n"), "goes on alone")
		for g, n := range r.Guards {
			guards[g] += n
		}
		if r.Violation != nil {
			t.Errorf("seed %d: %s: %s\n%s\n%s", seed, r.Violation.Audit, r.Violation.Text, asTwo(seed).Write(), strings.Join(r.Log[max(0, len(r.Log)-60):], "\n"))
			return
		}
	}
	t.Logf("%d sites of two in %v: %d times one went on alone", n, time.Since(began).Round(time.Second), alone)
	for _, g := range []fleet.Guard{fleet.GuardPairFirst, fleet.GuardPairRight, fleet.GuardPairAlone} {
		t.Logf("guard %-18s %d", g, guards[g])
		if n >= enough/6 && guards[g] == 0 {
			t.Errorf("in %d seeds the guard %s never came up", n, g)
		}
	}
	if n >= 10 && alone == 0 {
		t.Error("nobody ever went on alone")
	}
}
