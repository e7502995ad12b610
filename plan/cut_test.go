package plan

import (
	"testing"

	"mainstay/fleet"
)

// TestCut: of two hosts that do not answer each other over a network the one that is worse
// off there is cut off; of three, whoever is answered by nobody.
func TestCut(t *testing.T) {
	const answered, unlinked, unknown = "answered", "unlinked", ""
	for _, x := range []struct {
		name       string
		c1, c2, c3 string // what comes in over the network; c3 "-": it is not on it
		cut1, cut2 bool
	}{
		{"all is well", answered, answered, "-", false, false},
		{"c2 has lost its cable", fleet.HearsOthers, unlinked, "-", false, true},
		{"and c1 hears nobody else there", fleet.HearsNothing, unlinked, "-", false, true},
		{"c2 is deaf", fleet.HearsBeats, fleet.HearsNothing, "-", false, true},
		{"c2 hears nothing, and c1 others", fleet.HearsOthers, fleet.HearsNothing, "-", false, true},
		{"c2 is mute", fleet.HearsOthers, fleet.HearsBeats, "-", false, true},
		{"the fault lies between them", fleet.HearsOthers, fleet.HearsOthers, "-", true, true},
		{"it cannot be told", fleet.HearsNothing, fleet.HearsNothing, "-", true, true},
		{"it is not known yet what c1 hears", unknown, fleet.HearsNothing, "-", true, true},
		{"but that c2 has no cable", unknown, unlinked, "-", true, true},
		{"one report is older", fleet.HearsBeats, answered, "-", false, false},
		{"and it is not known yet what c1 hears", unknown, answered, "-", false, false},
		{"of three c2 and c3 answer each other", fleet.HearsOthers, answered, answered, true, false},
		{"of three two have lost their cables", fleet.HearsOthers, unlinked, unlinked, false, true},
	} {
		w := small()
		w.Spec.Addresses[0].Network = "storage"
		for host, in := range map[string]string{"c1": x.c1, "c2": x.c2, "c3": x.c3} {
			r := w.Reports[host]
			r.Links, r.Unanswered = map[string]bool{"storage": in == answered}, nil
			if in != answered && in != unlinked {
				r.Unanswered = map[string]string{"storage": in}
			}
			w.Reports[host] = r
		}
		if x.c3 == "-" {
			for i := range w.Spec.Hosts {
				if w.Spec.Hosts[i].Name == "c3" {
					w.Spec.Hosts[i].Addresses = nil
				}
			}
		}
		w.Verdicts = map[string]fleet.Verdict{"c1": {Condition: fleet.Healthy}, "c2": {Condition: fleet.Healthy}, "c3": {Condition: fleet.Healthy}}
		d := &decision{w: w}
		if cut1, cut2 := d.cut("c1", "storage") != "", d.cut("c2", "storage") != ""; cut1 != x.cut1 || cut2 != x.cut2 {
			t.Errorf("%s: c1 %v, c2 %v", x.name, cut1, cut2)
		}
	}
}
