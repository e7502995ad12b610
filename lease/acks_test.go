package lease

import (
	"maps"
	"slices"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestAcks: while all is well each ear and each network brings one acknowledgement of each beat and
// hardly more are asked for; what is cut is asked for more, at once, and loses no more than one beat.
func TestAcks(t *testing.T) {
	ears, networks := []string{"c1", "c2", "c3"}, []string{"management", "migration", "storage", "tenant"}
	var ways []Way
	for _, ear := range ears {
		for _, network := range networks {
			ways = append(ways, Way{ear, network})
		}
	}
	now := fleet.Moment(time.Hour)
	var a *Acks
	// beat sends one, and says how many copies were to be acknowledged, and by whom and over what it was.
	beat := func(lost func(Way) bool) (asked int, by, over map[string]bool) {
		now = now.Add(time.Second)
		by, over = map[string]bool{}, map[string]bool{}
		for i, wanted := range a.Wanted(now) {
			if !wanted {
				continue
			}
			if asked++; !lost(ways[i]) {
				a.Acked(ways[i], now)
				by[ways[i].Ear], over[ways[i].Network] = true, true
			}
		}
		return asked, by, over
	}
	well := func(Way) bool { return false }
	settle := func(when string) {
		t.Helper()
		for range sure + 2 {
			beat(well)
		}
		for range 24 {
			asked, by, over := beat(well)
			if len(by) != 3 || len(over) != 4 || asked != 4 {
				t.Fatalf("%s: %d copies were to be acknowledged, by %v over %v", when, asked, by, over)
			}
		}
	}
	type fault struct {
		name         string
		lost         func(Way) bool
		ears, routes int // that answer at all
	}
	for k, x := range slices.Repeat([]fault{
		{"an ear is dead", func(w Way) bool { return w.Ear == "c2" }, 2, 4},
		{"a network is cut", func(w Way) bool { return w.Network == "tenant" }, 3, 3},
		{"a way is cut", func(w Way) bool { return w == Way{"c3", "storage"} }, 3, 4},
		{"an ear is to be heard over one network only", func(w Way) bool { return w.Ear == "c1" && w.Network != "migration" }, 3, 4},
		{"one ear only is on a network", func(w Way) bool { return w.Network == "storage" && w.Ear != "c2" }, 3, 4},
	}, len(ways)) {
		a = NewAcks(ways)
		if asked, _, _ := beat(well); asked != len(ways) {
			t.Errorf("of the first beat %d copies are to be acknowledged", asked)
		}
		settle(x.name)
		for range k / 5 { // whose turn it is then
			beat(well)
		}
		missed, row, longest := map[string]int{}, map[string]int{}, map[string]int{}
		for range 40 {
			_, by, over := beat(x.lost)
			maps.Copy(by, over)
			for _, name := range append(ears, networks...) {
				if row[name]++; by[name] {
					row[name] = 0
				} else {
					missed[name]++
				}
				longest[name] = max(longest[name], row[name])
			}
		}
		dead := 0
		for _, name := range fleet.Sorted(missed) {
			switch {
			case missed[name] == 40:
				dead++
			case missed[name] > 3 || longest[name] > 1:
				t.Errorf("%s: %s brought no acknowledgement of %d of 40 beats, of %d in a row", x.name, name, missed[name], longest[name])
			}
		}
		if want := len(ears) - x.ears + len(networks) - x.routes; dead != want {
			t.Errorf("%s: %v", x.name, missed)
		}
		settle(x.name + ", and healed")
	}
	a = NewAcks(ways)
	settle("begun anew")
	now = now.Add(time.Minute)
	if asked, _, _ := beat(well); asked != 4 {
		t.Errorf("after a pause of its own a host asks for %d", asked)
	}
}
