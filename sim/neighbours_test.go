package sim

import (
	"slices"
	"strings"
	"testing"
)

// TestNeighbourSeeds plays the sites of TestServerSeeds on which networks are lost, with no voter
// on the tenants' network: there the computes watch each other, and the same audits hold.
func TestNeighbourSeeds(t *testing.T) {
	n := max(1, *seeds/24)
	if testing.Short() {
		n = 1
	}
	for seed := *first * 2; n > 0; seed += 2 {
		st := withServers(seed)
		if st.Shape.Networks < 3 {
			continue
		}
		n--
		st.Shape.Apart = "tenant"
		// A compute that becomes a voter would be one on that network; no running site does that.
		st.Commands = slices.DeleteFunc(st.Commands, func(c Command) bool { return c.Verb == "voters" })
		if r := Play(st); r.Violation != nil {
			small := Shrink(st)
			r := Play(small)
			t.Errorf("seed %d: %s: %s\nshrunk to this story:\n\n%s%s", seed, r.Violation.Audit, r.Violation.Text, small.Write(), strings.Join(r.Log[max(0, len(r.Log)-100):], "\n"))
			return
		}
	}
}
