package lease

import (
	"testing"
	"time"

	"mainstay/fleet"
)

// TestTelling: a voter is told the whole once, again within two beats when its acknowledgements say that
// it does not have it, after three when none comes, and once in a while besides, not all voters at once.
func TestTelling(t *testing.T) {
	const beat = time.Second
	now := fleet.Moment(time.Hour)
	x := NewTelling(beat)
	due := func(when string, want bool) {
		t.Helper()
		if got := x.Due("c1", now); got != want {
			t.Errorf("%s: due %v", when, got)
		}
		if want {
			x.Told("c1", now)
		}
	}
	beats := func(when string, n int, number uint64) {
		t.Helper()
		for range n {
			now = now.Add(beat)
			due(when, false)
			x.Acked("c1", number, now)
		}
	}
	x.News(7)
	due("something new", true)
	due("told", false)
	x.Acked("c1", 7, now.Add(beat/10))
	beats("it has it", 299, 7)
	for now = now.Add(beat); !x.Due("c1", now) && now.Before(fleet.Moment(time.Hour).Add(2*telling)); now = now.Add(beat) {
		x.Acked("c1", 7, now)
	}
	due("long ago", true)
	x.Acked("c1", 7, now)
	beats("it has it still", 3, 7)
	now = now.Add(beat)
	due("its beat has just been sent", false)
	now = now.Add(beat)
	due("one acknowledgement did not come", false)
	now = now.Add(beat)
	due("no acknowledgement came", true)
	x.Acked("c1", 7, now)
	beats("it has it again", 3, 7)
	beats("it was started again", 1, 0)
	now = now.Add(beat)
	due("it has forgotten it", true)
	x.Acked("c1", 0, now.Add(beat/10))
	now = now.Add(beat)
	due("it is of a version that names none", true)
	now = now.Add(beat)
	due("still", true)
	now = now.Add(beat / 2)
	due("no more often than beats", false)
	x.Acked("c1", 7, now)
	beats("it has it at last", 2, 7)
	x.News(8)
	due("something new again", true)
	x.Acked("c1", 7, now.Add(beat/10))
	now = now.Add(beat)
	due("what it has is the former one", true)
	if !x.Due("c2", now) {
		t.Error("another voter was never told")
	}
	if x.Acked("c2", 8, now); !x.Due("c2", now) {
		t.Error("one that this process never told is told, whatever it has")
	}
	at := map[time.Duration]bool{}
	for i := range 100 {
		told := now.Add(time.Duration(i) * time.Millisecond)
		x.Told("c3", told)
		var d time.Duration
		for x.Acked("c3", 8, told.Add(d)); !x.Due("c3", told.Add(d)); d += beat {
			x.Acked("c3", 8, told.Add(d))
		}
		if d < telling || d > 2*telling+beat {
			t.Errorf("told again after %v", d)
		}
		at[d.Truncate(telling/100)] = true
	}
	if len(at) < 30 {
		t.Errorf("hundred hosts that tell a voter within a tenth of a second do so again in %d hundredths of the time", len(at))
	}
}
