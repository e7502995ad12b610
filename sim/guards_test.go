//go:build mutate

package sim

import (
	"flag"
	"slices"
	"testing"

	"mainstay/fleet"
)

var hunt = flag.Int("hunt", 0, "how many seeds may go by until a guard's removal is seen")

// TestGuards takes every guard away, one at a time, and sees that each story
// which names it fails, and how soon a seed does.
func TestGuards(t *testing.T) {
	defer func() { fleet.Disarmed = "" }()
	all := stories(t)
	for _, g := range fleet.Guards() {
		t.Run(string(g), func(t *testing.T) {
			fleet.Disarmed = g
			told := 0
			for file, st := range all {
				if !slices.Contains(st.Guards, g) {
					continue
				}
				told++
				if v := fails(st); v == nil {
					t.Errorf("%s does not fail without it", file)
				} else {
					t.Logf("%s: %s: %s", file, v.Audit, v.Text)
				}
			}
			if told == 0 {
				t.Errorf("no story is about it")
			}
			for i := range *hunt {
				if r := Play(Draw(uint64(i + 1))); r.Violation != nil {
					t.Logf("seed %d: %s: %s", i+1, r.Violation.Audit, r.Violation.Text)
					return
				}
			}
			t.Logf("%d seeds do not see it", *hunt)
		})
	}
}

// fails plays a story with ten throws of the dice, its own first: some guards are
// needed only when messages meet at a bad moment.
func fails(st Story) *Violation {
	for range 10 {
		if r := Play(st); r.Violation != nil {
			return r.Violation
		}
		st.Seed++
	}
	return nil
}
