package plan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// TestContested: whom the holder of an address hears answer for it too is named to a
// person, and nothing else follows from it.
func TestContested(t *testing.T) {
	const who = "an unknown machine (MAC 02:00:00:00:00:01)"
	for _, c := range []struct {
		name   string
		change func(w *fleet.World, s *fleet.AddressState)
		want   []string
	}{
		{"at rest", func(*fleet.World, *fleet.AddressState) {}, nil},
		{"a stranger answers", func(_ *fleet.World, s *fleet.AddressState) { s.Contested = who }, []string{"address/internal waits"}},
		{"before it has claimed it", func(_ *fleet.World, s *fleet.AddressState) { s.Contested, s.Phase = who, fleet.Shut }, []string{"c1: claim address/internal", "address/internal waits"}},
		{"of an older generation", func(_ *fleet.World, s *fleet.AddressState) { s.Contested, s.Generation = who, 0 }, []string{"c1: claim address/internal"}},
		{"the word of one that is gone", func(w *fleet.World, s *fleet.AddressState) { s.Contested = who; lapse(*w, "c1"); w.Leader = "c3" }, []string{"holding/address/internal=c3#2"}},
	} {
		w := small()
		s := w.Reports["c1"].Addresses["internal"]
		c.change(&w, &s)
		w.Reports["c1"].Addresses["internal"] = s
		_, p := Turn(w)
		if diff := cmp.Diff(c.want, brief(p)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		for _, x := range p.Waits {
			if x.For != "a person: "+who+" answers for it too" || !strings.Contains(x.Help, "switch") {
				t.Errorf("%s: %+v", c.name, x)
			}
		}
	}
}
