package lease

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

func TestStorageEvery(t *testing.T) {
	for unheard, want := range map[time.Duration]time.Duration{0: 10 * time.Second, 1240 * time.Millisecond: 10 * time.Second, 1250 * time.Millisecond: 250 * time.Millisecond, time.Hour: 250 * time.Millisecond} {
		if got := StorageEvery(unheard, time.Second); got != want {
			t.Errorf("not acknowledged for %v: it writes every %v, want %v", unheard, got, want)
		}
	}
}

func TestStorageOthers(t *testing.T) {
	s := computes(6)
	all := func(string) bool { return true }
	if diff := cmp.Diff([]string{"n005", "n000", "n001"}, StorageOthers(s, "n004", 3, all)); diff != "" {
		t.Error("the next three, no controller: ", diff)
	}
	if diff := cmp.Diff([]string{"n001"}, StorageOthers(s, "n004", 3, func(n string) bool { return n == "n001" || n == "n004" })); diff != "" {
		t.Error("only those that are able, and not itself: ", diff)
	}
}

// computes is street100 with roles, which networks do not ask for.
func computes(n int) *fleet.Spec {
	s := street100(n)
	for i := range s.Hosts[1:] {
		s.Hosts[1+i].Roles = []string{"compute"}
	}
	return s
}

// TestReadings walks one reader through what can stand in another's file.
func TestReadings(t *testing.T) {
	at := fleet.Moment(time.Hour)
	for _, c := range []struct {
		name string
		do   func(r *Readings)
		at   time.Duration
		want map[string]string
	}{
		{"nobody was asked about", func(r *Readings) { r.Saw("n001", "b", 1, at); r.Saw("n001", "b", 2, at) }, 0, nil},
		{"one look says nothing: the count may be of before", func(r *Readings) { r.Ask("n001", "b", at); r.Saw("n001", "b", 7, at) }, 0, nil},
		{"it counts up", func(r *Readings) { r.Ask("n001", "b", at); r.Saw("n001", "b", 7, at); r.Saw("n001", "b", 8, at) }, 0, map[string]string{"n001": "b"}},
		{"a dead host's file stands still", func(r *Readings) { r.Ask("n001", "b", at); r.Saw("n001", "b", 7, at); r.Saw("n001", "b", 7, at) }, 0, nil},
		{"a moment ago it did", func(r *Readings) { r.Ask("n001", "b", at); r.Saw("n001", "b", 7, at); r.Saw("n001", "b", 8, at) }, 2900 * time.Millisecond, map[string]string{"n001": "b"}},
		{"it has stopped", func(r *Readings) {
			r.Ask("n001", "b", at)
			r.Saw("n001", "b", 7, at)
			r.Saw("n001", "b", 8, at)
			r.Ask("n001", "b", at.Add(2*time.Second))
			r.Saw("n001", "b", 8, at.Add(2*time.Second))
		}, 3 * time.Second, nil},
		{"a former boot's, or a later one's", func(r *Readings) { r.Ask("n001", "b", at); r.Saw("n001", "a", 7, at); r.Saw("n001", "a", 8, at) }, 0, nil},
		{"from a former boot's to this one's", func(r *Readings) { r.Ask("n001", "b", at); r.Saw("n001", "a", 7, at); r.Saw("n001", "b", 8, at) }, 0, nil},
		{"put back from a copy", func(r *Readings) { r.Ask("n001", "b", at); r.Saw("n001", "b", 7, at); r.Saw("n001", "b", 3, at) }, 0, nil},
		{"and counts on from there", func(r *Readings) {
			r.Ask("n001", "b", at)
			r.Saw("n001", "b", 7, at)
			r.Saw("n001", "b", 3, at)
			r.Saw("n001", "b", 4, at)
		}, 0, map[string]string{"n001": "b"}},
		{"asked about another boot since", func(r *Readings) {
			r.Ask("n001", "b", at)
			r.Saw("n001", "b", 7, at)
			r.Saw("n001", "b", 8, at)
			r.Ask("n001", "c", at)
		}, 0, nil},
		{"asked anew after a while: what was before does not count", func(r *Readings) {
			r.Ask("n001", "b", at)
			r.Saw("n001", "b", 7, at)
			r.Ask("n001", "b", at.Add(6*time.Second))
			r.Saw("n001", "b", 8, at.Add(6*time.Second))
		}, 6 * time.Second, nil},
		{"its own storage was away, and it was asked", func(r *Readings) {
			r.Ask("n001", "b", at)
			r.Saw("n001", "b", 7, at)
			r.Return(at)
			r.Saw("n001", "b", 8, at)
		}, 0, map[string]string{"n001": "b"}},
		{"nobody has asked for long", func(r *Readings) {
			r.Ask("n001", "b", at)
			r.Saw("n001", "b", 7, at)
			r.Saw("n001", "b", 8, at.Add(4*time.Second))
		}, 5 * time.Second, nil},
	} {
		r := NewReadings(computes(3), "n000", at)
		c.do(r)
		if diff := cmp.Diff(c.want, r.Writes(at.Add(c.at))); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// TestReadingsDue: who is asked about is looked at often, and for a while; the others now and then.
func TestReadingsDue(t *testing.T) {
	at := fleet.Moment(time.Hour)
	r := NewReadings(computes(6), "n000", at)
	looks := map[string]int{}
	r.Ask("n005", "b", at)
	r.Ask("n002", "b", at)
	for ms := range 90_000 {
		for _, host := range r.Due(at.Add(time.Duration(ms) * time.Millisecond)) {
			looks[host]++
			r.Saw(host, "b", uint64(ms), at.Add(time.Duration(ms)*time.Millisecond))
		}
	}
	if diff := cmp.Diff(map[string]int{"n001": 3, "n002": 23, "n003": 3, "n005": 20}, looks); diff != "" {
		t.Error("within 90 s: ", diff)
	}
	if got := r.Unseen(at.Add(90 * time.Second)); len(got) > 0 {
		t.Errorf("all were seen to write: %v", got)
	}
	r.Return(at.Add(100 * time.Second))
	if got := r.Unseen(at.Add(174 * time.Second)); len(got) > 0 {
		t.Errorf("it was away itself: %v", got)
	}
	r.Saw("n001", "b", 90_001, at.Add(170*time.Second))
	r.Saw("n001", "c", 1, at.Add(171*time.Second))
	if diff := cmp.Diff([]string{"n002", "n003"}, r.Unseen(at.Add(175*time.Second))); diff != "" {
		t.Error("two of three are not seen, a reboot is: ", diff)
	}
}
