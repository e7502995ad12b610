package lease

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

func street100(n int) *fleet.Spec {
	s := &fleet.Spec{Timing: fleet.Presets()["room"]}
	s.Hosts = []fleet.Host{{Name: "c1", Voter: true, Addresses: map[string]netip.Addr{"management": {}}}}
	for i := range n {
		s.Hosts = append(s.Hosts, fleet.Host{Name: fmt.Sprintf("n%03d", i), Addresses: map[string]netip.Addr{"management": {}, "storage": {}}})
	}
	return s
}

// TestWatchers: everybody finds the same ones, they are spread over all, and a host more changes few.
func TestWatchers(t *testing.T) {
	s := street100(200)
	if diff := cmp.Diff([]string{"storage"}, Unvoted(s, "n001")); diff != "" {
		t.Error("networks without a voter: ", diff)
	}
	watches, before := map[string]int{}, map[string][]string{}
	for _, h := range s.Hosts[1:] {
		of := Watchers(s, h.Name, "storage")
		if len(of) != Watching || slices.Contains(of, h.Name) || slices.Contains(of, "c1") {
			t.Fatalf("%s is watched by %v", h.Name, of)
		}
		before[h.Name] = of
		for _, w := range of {
			watches[w]++
		}
	}
	most := 0
	for _, n := range watches {
		most = max(most, n)
	}
	if most > 12 || len(watches) < 180 {
		t.Errorf("one of them watches %d, and only %d of 200 watch anybody", most, len(watches))
	}
	s.Hosts = append(s.Hosts, fleet.Host{Name: "n999", Addresses: map[string]netip.Addr{"storage": {}}})
	changed := 0
	for name, of := range before {
		now := Watchers(s, name, "storage")
		if !slices.Equal(now, of) {
			changed++
			if !slices.Contains(now, "n999") {
				t.Errorf("%s: %v, and before n999 came %v", name, now, of)
			}
		}
	}
	if changed > 15 {
		t.Errorf("a host that came changed the watchers of %d of 200", changed)
	}
}

func TestNeighboursWord(t *testing.T) {
	s := street100(3)
	at := fleet.Moment(time.Hour)
	n := NewNeighbours(s, "n000", at)
	word := func(after time.Duration) fleet.Neighbourhood { return n.Word(at.Add(after))["storage"] }
	of := []string{"n001", "n002"}
	for _, c := range []struct {
		name string
		do   func()
		at   time.Duration
		want fleet.Neighbourhood
	}{
		{"just begun", func() {}, 0, fleet.Neighbourhood{Of: of}},
		{"nobody ever heard", func() {}, 3 * time.Second, fleet.Neighbourhood{Of: of, Unanswered: of, Alone: true}},
		{"one answers, one asks", func() {
			n.Answered("storage", "n001", at.Add(4*time.Second))
			n.Asked("storage", "n002", at.Add(4*time.Second))
			n.Asked("management", "n002", at.Add(4*time.Second)) // a voter lives there
		}, 5 * time.Second, fleet.Neighbourhood{Of: of, Unanswered: []string{"n002"}, Heard: []string{"n002"}}},
		{"both fall silent at once: it is cut off itself", func() {}, 7 * time.Second, fleet.Neighbourhood{Of: of, Unanswered: of, Alone: true}},
		{"it was away itself", func() { n.Return(at.Add(7 * time.Second)) }, 8 * time.Second, fleet.Neighbourhood{Of: of, Heard: []string{"n002"}}},
		{"one falls silent a beat before the other, as beats come", func() { n.Answered("storage", "n001", at.Add(8*time.Second)) }, 10 * time.Second, fleet.Neighbourhood{Of: of, Unanswered: []string{"n002"}}},
		{"one is silent, the other goes on", func() { n.Answered("storage", "n001", at.Add(9*time.Second)) }, 10 * time.Second, fleet.Neighbourhood{Of: of, Unanswered: []string{"n002"}, Missed: []string{"n002"}}},
		{"its own answers say nothing of others", func() {
			n.Return(at.Add(10 * time.Second))
			n.Answered("storage", "n002", at.Add(13*time.Second))
		}, 13 * time.Second, fleet.Neighbourhood{Of: of, Unanswered: []string{"n001"}}},
	} {
		c.do()
		if diff := cmp.Diff(c.want, word(c.at)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
