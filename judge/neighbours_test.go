package judge

import (
	"slices"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestMissing: a host is cut off from a network without voters by the word of most of its
// neighbours that hear others there, two at least.
func TestMissing(t *testing.T) {
	of := []string{"n2", "n3", "n4"}
	missed, heard := fleet.Neighbourhood{Of: of, Missed: []string{"n1"}, Heard: []string{"n9"}}, fleet.Neighbourhood{Of: of, Heard: []string{"n1"}}
	alone := fleet.Neighbourhood{Of: of, Missed: []string{"n1", "n9"}, Alone: true}
	none := fleet.Neighbourhood{Of: of, Heard: []string{"n9"}}
	for _, c := range []struct {
		name string
		says [3]fleet.Neighbourhood
		want bool
	}{
		{"all hear it", [3]fleet.Neighbourhood{heard, heard, heard}, false},
		{"one misses it", [3]fleet.Neighbourhood{missed, heard, heard}, false},
		{"two of three", [3]fleet.Neighbourhood{missed, missed, heard}, true},
		{"all three", [3]fleet.Neighbourhood{missed, missed, missed}, true},
		{"one, and two hear nobody", [3]fleet.Neighbourhood{missed, alone, alone}, false},
		{"two, and one hears nobody", [3]fleet.Neighbourhood{missed, missed, alone}, true},
		{"nobody hears anybody", [3]fleet.Neighbourhood{alone, alone, alone}, false},
		{"one, and two do not know it", [3]fleet.Neighbourhood{missed, none, none}, false},
	} {
		w := world()
		w.Reports = map[string]fleet.Report{"n1": {Boot: "b", Neighbours: map[string]fleet.Neighbourhood{"tenant": {Of: of}}}}
		w.Spec.Hosts = append(w.Spec.Hosts, fleet.Host{Name: "n1"})
		w.Heard["n1"] = fleet.Heard{Stint: fleet.Stint{Host: "n1", Boot: "b"}, Last: now, Leased: true}
		for i, name := range of {
			w.Spec.Hosts = append(w.Spec.Hosts, fleet.Host{Name: name})
			w.Heard[name] = fleet.Heard{Stint: fleet.Stint{Host: name, Boot: "b"}, Last: now, Leased: true}
			w.Reports[name] = fleet.Report{Boot: "b", Neighbours: map[string]fleet.Neighbourhood{"tenant": c.says[i]}}
		}
		v := Judge(w)["n1"]
		if got := slices.Contains(v.Silent, "tenant"); got != c.want || got != (v.Condition == fleet.Degraded) || got && !slices.Contains(v.Witnesses, "n2") {
			t.Errorf("%s: %+v", c.name, v)
		}
		if !c.want {
			continue
		}
		for name, change := range map[string]func(){
			"a neighbour rebooted since":  func() { r := w.Reports["n2"]; r.Boot = "a"; w.Reports["n2"] = r },
			"a neighbour is silent":       func() { h := w.Heard["n2"]; h.Last = now.Add(-time.Minute); w.Heard["n2"] = h },
			"its own report is of before": func() { r := w.Reports["n1"]; r.Boot = "a"; w.Reports["n1"] = r },
		} {
			keepR, keepH := w.Reports["n2"], w.Heard["n2"]
			own := w.Reports["n1"]
			change()
			if says := Missing(&w, "n1", "tenant"); slices.Contains(says, "n2") {
				t.Errorf("%s, %s: %v", c.name, name, says)
			}
			w.Reports["n2"], w.Heard["n2"], w.Reports["n1"] = keepR, keepH, own
		}
	}
}
