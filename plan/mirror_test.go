package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// TestMirrors: a promoted copy goes on without another only under a record that says so,
// and that one is not promoted before the record is taken back, but by a person's word.
func TestMirrors(t *testing.T) {
	asks := func(w fleet.World, host, key, mark string) {
		r := w.Reports[host]
		r.Parted = map[string]string{key: mark}
		w.Reports[host] = r
	}
	behind := func(w fleet.World, host, mark string) {
		w.State.Lags["s@"+host] = fleet.Lag{Mark: mark, From: "c2"}
	}
	even := func(w fleet.World) { be(w, "c2", func(s *fleet.ServiceState) { s.Mirror.Even = "c1 c3" }) }
	answered := func(w fleet.World, mark string, o fleet.Outcome) {
		key := "even/s/c1/4/" + mark
		w.Flights[key] = fleet.Flight{Order: fleet.Order{Key: key, Verb: VerbEven, To: "c2"}, Sent: w.Now.Add(-20 * ms), Effect: &fleet.Effect{Outcome: o}, Arrived: w.Now.Add(-10 * ms)}
	}
	dead := func(w fleet.World) {
		hush(w, "c2")
		w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Kind: "oath"}
	}
	word := func(w fleet.World, host string) {
		w.State.Wishes["copy-s-"+host] = fleet.Wish{ID: "copy-s-" + host, Verb: WishCopy, Thing: "service/s", Host: host, By: "ann"}
	}
	forked := func(w fleet.World, host, data string, apart bool) {
		be(w, host, func(s *fleet.ServiceState) { s.Mirror = fleet.Mirror{Data: data, Fork: "F", Apart: apart} })
	}
	for name, tc := range map[string]struct {
		change func(w fleet.World)
		want   []string
	}{
		"it asks":              {func(w fleet.World) { asks(w, "c2", "s@c1", "b/1") }, []string{"lag/s@c1", "s@c1 waits"}},
		"it is recorded":       {func(w fleet.World) { asks(w, "c2", "s@c1", "b/1"); behind(w, "c1", "b/1") }, []string{"c2: go-on service/s", "s@c1 waits"}},
		"it asks once more":    {func(w fleet.World) { asks(w, "c2", "s@c1", "b/2"); behind(w, "c1", "b/1") }, []string{"lag/s@c1", "s@c1 waits"}},
		"another host asks":    {func(w fleet.World) { asks(w, "c3", "s@c1", "b/1") }, nil},
		"it asks about itself": {func(w fleet.World) { asks(w, "c2", "s@c2", "b/1") }, nil},
		"it asks and has given it up": {func(w fleet.World) {
			asks(w, "c2", "s@c3", "b/1")
			be(w, "c2", func(s *fleet.ServiceState) { s.Role = fleet.RoleUnpromoted; s.Score = 20 })
			r := w.Reports["c2"]
			r.GivenUp = map[string]uint64{"service/s": 4}
			w.Reports["c2"] = r
		}, []string{"holding/service/s=c2#5"}},
		"another boot of it asks": {func(w fleet.World) {
			h := w.State.Holdings["service/s"]
			h.Boot = "a"
			w.State.Holdings["service/s"] = h
			asks(w, "c2", "s@c1", "b/1")
		}, []string{"holding/service/s=c2#5"}},
		"behind":                     {func(w fleet.World) { behind(w, "c1", "b/1") }, []string{"s@c1 waits"}},
		"even by its report":         {func(w fleet.World) { behind(w, "c1", "b/1"); even(w) }, []string{"c2: even service/s", "s@c1 waits"}},
		"even by its kernel":         {func(w fleet.World) { behind(w, "c1", "b/1"); even(w); answered(w, "b/1", fleet.Done) }, []string{"-lag/s@c1"}},
		"even before it fell behind": {func(w fleet.World) { behind(w, "c1", "b/2"); even(w); answered(w, "b/1", fleet.Done) }, []string{"c2: even service/s", "s@c1 waits"}},
		"even, and it asks again": {func(w fleet.World) {
			behind(w, "c1", "b/1")
			even(w)
			answered(w, "b/1", fleet.Done)
			asks(w, "c2", "s@c1", "b/2")
		}, []string{"lag/s@c1", "s@c1 waits"}},
		"its kernel does not say even": {func(w fleet.World) { behind(w, "c1", "b/1"); even(w); answered(w, "b/1", fleet.NoWord) }, []string{"s@c1 waits"}},
		"even by the report of one that is not promoted": {func(w fleet.World) {
			behind(w, "c1", "b/1")
			even(w)
			be(w, "c2", func(s *fleet.ServiceState) { s.Role = fleet.RoleUnpromoted })
		}, []string{"c2: promote service/s", "s@c1 waits"}},
		"its holder is dead, the best copy is behind": {func(w fleet.World) {
			dead(w)
			behind(w, "c1", "b/1")
			be(w, "c1", func(s *fleet.ServiceState) { s.Score = 100 })
		}, []string{"holding/service/s=c3#5", "s@c1 waits"}},
		"its holder is dead, and all others are behind": {func(w fleet.World) { dead(w); behind(w, "c1", "b/1"); behind(w, "c3", "b/2") }, []string{"s@c1 waits", "s@c3 waits", "service/s waits"}},
		"a person lets one be promoted": {func(w fleet.World) { dead(w); behind(w, "c1", "b/1"); behind(w, "c3", "b/2"); word(w, "c1") },
			[]string{"lag/s@c2", "lag/s@c3", "-lag/s@c1", "-wish/copy-s-c1", "holding/service/s=c1#5", "s@c1 waits", "s@c3 waits"}},
		"a person lets one be promoted, and a newer one can be": {func(w fleet.World) { dead(w); behind(w, "c1", "b/1"); word(w, "c1") }, []string{"holding/service/s=c3#5", "s@c1 waits"}},
		"a person's word while it works":                        {func(w fleet.World) { behind(w, "c1", "b/1"); word(w, "c1") }, []string{"-wish/copy-s-c1", "s@c1 waits"}},
		"it shall move to a copy that is behind": {func(w fleet.World) {
			behind(w, "c1", "b/1")
			w.State.Wishes["m"] = fleet.Wish{Verb: "move", Thing: "service/s", To: "c1", By: "ann"}
		}, []string{"s@c1 waits", "service/s waits"}},
		"nobody holds it, and two have changed apart": {func(w fleet.World) { free(w); forked(w, "c1", "A", true); forked(w, "c2", "B", false) }, []string{"split/s waits", "holding/service/s=c3#1"}},
		"two have changed apart, and one is recorded as behind": {func(w fleet.World) {
			free(w)
			forked(w, "c1", "A", true)
			forked(w, "c2", "B", true)
			behind(w, "c1", "b/1")
		}, []string{"holding/service/s=c2#1", "s@c1 waits", "split/s waits"}},
		"one has changed": {func(w fleet.World) {
			forked(w, "c2", "B", true)
			be(w, "c1", func(s *fleet.ServiceState) { s.Mirror = fleet.Mirror{Data: "A", Apart: true} })
		}, nil},
		"both have the same change": {func(w fleet.World) { forked(w, "c2", "B", true); forked(w, "c1", "B", true) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := duo()
			w.State.Lags = map[string]fleet.Lag{}
			tc.change(w)
			_, p := Turn(w)
			got := brief(p)
			slices.Sort(got)
			slices.Sort(tc.want)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestBehindHelp: who waits for a copy that is behind is told what would help, and that it
// costs data.
func TestBehindHelp(t *testing.T) {
	w := duo()
	hush(w, "c2")
	w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Kind: "oath"}
	w.State.Lags = map[string]fleet.Lag{"s@c1": {Mark: "b/1", From: "c2", At: w.Wall}, "s@c3": {Mark: "b/2", From: "c2", At: w.Wall}}
	_, p := Turn(w)
	for _, x := range p.Waits {
		if x.About == "service/s" {
			if !strings.Contains(x.For, "its copy on c1 is behind: c2 has written without it since") || !strings.Contains(x.Help, "only if its data are lost: mainstay recover copy s c1") {
				t.Errorf("%+v", x)
			}
			return
		}
	}
	t.Errorf("nothing waits: %+v", p.Waits)
}
