package plan

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// pairOf is what a host of the pair a and b knows that has had no lease for so long.
func pairOf(self string, agreed fleet.Pair, lost time.Duration) PairView {
	partner := map[string]string{"a": "b", "b": "a"}[self]
	return PairView{Self: self, Partner: partner, Boot: self + "1", Pair: agreed, Led: true, Lost: lost, Silence: 350 * time.Millisecond}
}

func joint(first string) fleet.Pair {
	return fleet.Pair{N: 1, Boots: map[string]string{"a": "a1", "b": "b1"}, First: first}
}

// TestTimesApart: whatever agreements that follow each other the two have applied, blind
// or mute or neither, an off of one has had the time to act before the other may send its own: within
// an hour, and with three seconds between the moments from which they count.
func TestTimesApart(t *testing.T) {
	const call, skew = 8 * time.Second, 2900 * time.Millisecond
	for _, agreed := range [][2]string{{"a", "a"}, {"b", "b"}, {"", ""}, {"a", ""}, {"", "a"}, {"b", ""}, {"", "b"}} {
		for _, ails := range []string{"", "blind a", "blind b", "mute a", "mute a, blind b", "mute a, mute b"} {
			last := map[string]time.Duration{"a": -time.Hour, "b": -time.Hour}
			ever := map[string]bool{}
			for at := time.Duration(0); at < 10*time.Minute; at += 50 * time.Millisecond {
				for i, self := range []string{"a", "b"} {
					v := pairOf(self, joint(agreed[i]), at)
					v.Blind, v.Mute = strings.Contains(ails, "blind "+self), strings.Contains(ails, "mute "+self)
					if !v.Step().Fence {
						continue
					}
					last[self], ever[self] = at, true
					if gap := at - last[v.Partner]; gap < call+skew {
						t.Fatalf("agreed %v, %s: %s may fence %v after the start, %v after %s", agreed, ails, self, at, gap, v.Partner)
					}
				}
			}
			if !ever["a"] || !ever["b"] {
				t.Errorf("agreed %v, %s: %v had a time", agreed, ails, ever)
			}
		}
	}
}

func TestPairStep(t *testing.T) {
	const w = fleet.PairPause
	for _, x := range []struct {
		name   string
		change func(*PairView)
		lost   time.Duration
		fence  bool
		why    string
	}{
		{"the first fences at once", nil, w, true, "the time of a"},
		{"but not before its partner's silence says something", nil, w - time.Millisecond, false, "its time"},
		{"and sends nothing when its time is over", nil, w + fleet.PairSend, false, "its time"},
		{"it tries again", nil, w + 4*fleet.PairApart, true, "the time of a"},
		{"the other waits", func(v *PairView) { v.Pair.First = "b" }, w + time.Second, false, "its time"},
		{"and fences then", func(v *PairView) { v.Pair.First = "b" }, w + fleet.PairApart, true, "the time of a"},
		{"a rebooted one does not", func(v *PairView) { v.Boot = "a2" }, w + fleet.PairApart, false, "has booted since"},
		{"nor an agent that began without a lease", func(v *PairView) { v.Led = false }, w, false, "began without a lease"},
		{"who hears nothing at all waits", func(v *PairView) { v.Blind = true }, w, false, "hears nothing on any network"},
		{"and then tries all the same", func(v *PairView) { v.Blind = true }, w + 4*fleet.PairApart, true, ""},
		{"who is not heard by a partner that hears others waits", func(v *PairView) { v.Mute, v.Heard = true, "b1" }, w, false, "b lives and hears others"},
		{"and then tries all the same too", func(v *PairView) { v.Mute, v.Heard = true, "b1" }, w + 4*fleet.PairApart, true, ""},
		{"a partner that has just booted may join", func(v *PairView) { v.Heard, v.Hears = "b2", true }, w, false, "may join"},
		{"one that booted and is silent again is fenced, in its later boot", func(v *PairView) { v.Heard = "b2" }, w, true, ""},
		{"one that is alone is first", func(v *PairView) { v.Alone, v.Pair, v.Heard = true, fleet.Pair{}, "b1" }, w, true, ""},
		{"after an hour it is a person's affair", nil, w + time.Hour, false, "a person"},
	} {
		v := pairOf("a", joint("a"), x.lost)
		if x.change != nil {
			x.change(&v)
		}
		got := v.Step()
		if got.Fence != x.fence || !strings.Contains(got.Why, x.why) {
			t.Errorf("%s: %+v", x.name, got)
		}
		if want := map[bool]string{true: v.Heard, false: "b1"}[v.Heard != ""]; got.Fence && got.Target != want {
			t.Errorf("%s: it fences boot %q", x.name, got.Target)
		}
	}
}

func TestMayGoAlone(t *testing.T) {
	proof := fleet.Proof{Host: "b", Boot: "b1", Kind: "fence"}
	for _, x := range []struct {
		name   string
		change func(*PairView, *fleet.Proof)
		why    string
	}{
		{"by a proof", func(*PairView, *fleet.Proof) {}, ""},
		{"not without one", func(_ *PairView, p *fleet.Proof) { *p = fleet.Proof{} }, "no proof"},
		{"not by one of another host", func(_ *PairView, p *fleet.Proof) { p.Host = "c" }, "no proof"},
		{"not when a later boot has spoken", func(v *PairView, _ *fleet.Proof) { v.Heard = "b2" }, "has spoken since"},
		{"not in a boot that was never joint", func(v *PairView, _ *fleet.Proof) { v.Boot = "a2" }, "has booted since"},
	} {
		v, p := pairOf("a", joint("a"), time.Minute), proof
		x.change(&v, &p)
		if got := v.MayGoAlone(p); got != x.why && (x.why == "" || !strings.Contains(got, x.why)) {
			t.Errorf("%s: %q", x.name, got)
		}
	}
}

func TestPairReturns(t *testing.T) {
	for _, x := range []struct {
		name  string
		stale bool
		word  *fleet.PairWord
		want  PairReturn
	}{
		{"no word, nothing", false, nil, PairWaits},
		{"nor for one that was alone", true, nil, PairWaits},
		{"both booted: the stores elect", false, &fleet.PairWord{}, PairWaits},
		{"the partner went on alone without an earlier boot", false, &fleet.PairWord{Alone: true, Without: "a1"}, PairJoins},
		{"without this boot: it is to die", false, &fleet.PairWord{Alone: true, Without: "a2"}, PairWaits},
		{"without this boot, by its own word", false, &fleet.PairWord{Alone: true, Without: "a2", Left: true}, PairJoins},
		{"it was alone, and the partner is not", true, &fleet.PairWord{}, PairGoesOn},
		{"it was alone, and the partner is since", true, &fleet.PairWord{Alone: true, Without: "a1"}, PairJoins},
		{"both were alone, and both have booted", true, &fleet.PairWord{Stale: true}, PairWaits},
	} {
		if got, why := PairReturns("a2", x.stale, x.word); got != x.want {
			t.Errorf("%s: %q (%s)", x.name, got, why)
		}
	}
}

// TestPairAgreement: each step of the agreement waits until both go by the one before, and
// from one first to the other it leads through nobody.
func TestPairAgreement(t *testing.T) {
	boots := map[string]string{"c1": "b", "c2": "b"}
	agreed := func(w *fleet.World, first string, ago time.Duration, told ...uint64) {
		w.State.Pair = fleet.Pair{N: 7, Boots: boots, First: first, At: w.Wall.Add(-ago)}
		for i, host := range []string{"c1", "c2"} {
			r := w.Reports[host]
			r.Pair = told[i]
			w.Reports[host] = r
		}
	}
	heavy := func(w *fleet.World, host string) {
		h := w.State.Holdings["address/internal"]
		h.Host = host
		w.State.Holdings["address/internal"] = h
		r := w.Reports[host]
		r.Addresses = map[string]fleet.AddressState{"internal": {Generation: h.Generation, Phase: fleet.Speaking}}
		w.Reports[host] = r
		for name, other := range w.Reports {
			if name != host {
				other.Addresses = nil
				w.Reports[name] = other
			}
		}
	}
	for _, x := range []struct {
		name   string
		change func(*fleet.World)
		want   string // N, boots, first; "" for no record
	}{
		{"at first nobody is first", func(*fleet.World) {}, "1 2 "},
		{"who is first is named when both go by that", func(w *fleet.World) { agreed(w, "", 0, 7, 7) }, "8 2 c1"},
		{"not before", func(w *fleet.World) { agreed(w, "", 0, 7, 6) }, ""},
		{"it stays where it is while both hold as much", func(w *fleet.World) { agreed(w, "c2", time.Hour, 7, 7) }, ""},
		{"load moves it", func(w *fleet.World) { agreed(w, "c1", time.Hour, 7, 7); heavy(w, "c2") }, "8 2 "},
		{"once a minute", func(w *fleet.World) { agreed(w, "c1", time.Second, 7, 7); heavy(w, "c2") }, ""},
		{"a new boot is agreed on anew", func(w *fleet.World) {
			agreed(w, "c1", time.Hour, 7, 7)
			reboot(*w, "c2", "x")
			w.State.Members["c2"] = fleet.Member{Host: "c2", Admitted: "x"}
		}, "8 2 "},
		{"nothing with one who is not admitted", func(w *fleet.World) { agreed(w, "c1", time.Hour, 7, 7); reboot(*w, "c2", "x") }, ""},
		{"nothing with one who leaves", func(w *fleet.World) {
			agreed(w, "", time.Hour, 7, 7)
			r := w.Reports["c2"]
			r.Leaving = true
			w.Reports["c2"] = r
		}, ""},
		{"one that goes by it no more voids it", func(w *fleet.World) { agreed(w, "c1", time.Hour, 7, 0) }, "8 0 "},
		{"alone it is void", func(w *fleet.World) { agreed(w, "c1", time.Hour, 7, 7); w.Spec = w.Spec.Without("c2") }, "8 0 "},
	} {
		w := small()
		w.Spec.Hosts = slices.Clone(w.Spec.Hosts[:2])
		x.change(&w)
		_, p := Turn(w)
		got := ""
		for _, r := range p.Records {
			var pair fleet.Pair
			if r.Key == "pair" && json.Unmarshal(r.Value, &pair) == nil {
				got = fmt.Sprintf("%d %d %s", pair.N, len(pair.Boots), pair.First)
			}
		}
		if got != x.want {
			t.Errorf("%s: %q, want %q; waits %v", x.name, got, x.want, p.Waits)
		}
	}
}

// TestMayTakeWord: the word of a partner is enough for the store alone, and only where each
// commit is surely on both: the two boots are joint, by what this host has applied.
func TestMayTakeWord(t *testing.T) {
	joint := PairView{Self: "c1", Partner: "c2", Boot: "b1", Pair: fleet.Pair{N: 7, Boots: map[string]string{"c1": "b1", "c2": "d1"}}}
	for _, x := range []struct {
		name string
		of   string
		view func(*PairView)
		may  bool
	}{
		{"the boot that is joint", "d1", func(*PairView) {}, true},
		{"it has no lease, and never had one", "d1", func(v *PairView) { v.Led = false }, true},
		{"another boot of the partner", "d2", func(*PairView) {}, false},
		{"no boot", "", func(v *PairView) { v.Pair.Boots = map[string]string{"c1": "b1"} }, false},
		{"this host has booted since", "d1", func(v *PairView) { v.Boot = "b2" }, false},
		{"this host has given up its vote", "d1", func(v *PairView) { v.Left = true }, false},
		{"nothing is agreed on", "d1", func(v *PairView) { v.Pair = fleet.Pair{N: 8} }, false},
	} {
		v := joint
		x.view(&v)
		if why := v.MayTakeWord(x.of); (why == "") != x.may {
			t.Errorf("%s: %q", x.name, why)
		}
	}
}
