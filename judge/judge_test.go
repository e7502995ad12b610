package judge

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

const now = fleet.Moment(time.Hour)

func world() fleet.World {
	w := fleet.World{Now: now, Leader: "c1", Epoch: 3, Since: now.Add(-time.Minute), Heard: map[string]fleet.Heard{}, Rounds: map[string]fleet.Round{},
		State: fleet.State{Proofs: map[string]fleet.Proof{}}}
	w.Spec.Timing = fleet.Presets()["room"]
	w.Spec.Networks = []fleet.Network{{Name: "management"}, {Name: "storage"}}
	for i, name := range []string{"c1", "c2", "c3"} {
		w.Spec.Hosts = append(w.Spec.Hosts, fleet.Host{Name: name, Roles: []string{"controller"}, Voter: true, Addresses: map[string]netip.Addr{
			"management": netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), "storage": netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}),
		}})
		w.Heard[name] = fleet.Heard{Stint: fleet.Stint{Host: name, Boot: "b", N: 1}, Last: now, Leased: true,
			Nets: map[string]fleet.Moment{"management": now, "storage": now}}
	}
	return w
}

// TestConditions walks one host down, sign by sign, and up again.
func TestConditions(t *testing.T) {
	beat := fleet.Presets()["room"].Beat
	stint := fleet.Stint{Host: "c2", Boot: "b", N: 1}
	for _, c := range []struct {
		name   string
		change func(*fleet.World, *fleet.Heard)
		want   fleet.Condition
		silent []string
	}{
		{"all is well", func(*fleet.World, *fleet.Heard) {}, fleet.Healthy, nil},
		{"two beats missed", func(_ *fleet.World, h *fleet.Heard) { h.Last = now.Add(-2 * beat) }, fleet.Healthy, nil},
		{"three beats missed", func(_ *fleet.World, h *fleet.Heard) { h.Last = now.Add(-3 * beat) }, fleet.Suspect, nil},
		{"one network silent", func(_ *fleet.World, h *fleet.Heard) { h.Nets["storage"] = now.Add(-3 * beat) }, fleet.Degraded, []string{"storage"}},
		{"no majority acknowledges it", func(_ *fleet.World, h *fleet.Heard) { h.Leased = false }, fleet.Degraded, nil},
		{"two boots at once", func(_ *fleet.World, h *fleet.Heard) { h.Rival = "x" }, fleet.Degraded, nil},
		{"its stint is over", func(w *fleet.World, _ *fleet.Heard) {
			w.Rounds["c2"] = fleet.Round{Stint: stint, Over: true, Promised: map[string]fleet.Moment{"c1": now, "c3": now}}
		}, fleet.Lapsed, nil},
		{"a former stint is over", func(w *fleet.World, h *fleet.Heard) {
			w.Rounds["c2"] = fleet.Round{Stint: stint, Over: true}
			h.Stint.N = 2
		}, fleet.Healthy, nil},
		{"never heard", func(_ *fleet.World, h *fleet.Heard) { *h = fleet.Heard{} }, fleet.Unheard, nil},
		{"silent after its farewell", func(w *fleet.World, h *fleet.Heard) {
			w.State.Members = map[string]fleet.Member{"c2": {Host: "c2", Left: &fleet.Farewell{Boot: "b", Down: true}}}
			h.Last = now.Add(-time.Second)
		}, fleet.Offline, nil},
		{"never heard, and it had said farewell", func(w *fleet.World, h *fleet.Heard) {
			w.State.Members = map[string]fleet.Member{"c2": {Host: "c2", Left: &fleet.Farewell{Boot: "b", Down: true}}}
			*h = fleet.Heard{}
		}, fleet.Offline, nil},
		{"the farewell was of an earlier boot", func(w *fleet.World, h *fleet.Heard) {
			w.State.Members = map[string]fleet.Member{"c2": {Host: "c2", Left: &fleet.Farewell{Boot: "a"}}}
			h.Last = now.Add(-time.Second)
		}, fleet.Suspect, nil},
		{"it holds something", func(w *fleet.World, h *fleet.Heard) {
			w.State.Members = map[string]fleet.Member{"c2": {Host: "c2", Left: &fleet.Farewell{Boot: "b"}}}
			w.State.Holdings = map[string]fleet.Holding{"service/s": {Thing: "service/s", Host: "c2", Boot: "b"}}
			h.Last = now.Add(-time.Second)
		}, fleet.Suspect, nil},
		{"it has reported since", func(w *fleet.World, h *fleet.Heard) {
			w.State.Members = map[string]fleet.Member{"c2": {Host: "c2", Left: &fleet.Farewell{Boot: "b"}}}
			w.Reports = map[string]fleet.Report{"c2": {Host: "c2", Boot: "b"}}
			h.Last = now.Add(-time.Second)
		}, fleet.Suspect, nil},
		{"a farewell, and it beats", func(w *fleet.World, _ *fleet.Heard) {
			w.State.Members = map[string]fleet.Member{"c2": {Host: "c2", Left: &fleet.Farewell{Boot: "b"}}}
		}, fleet.Healthy, nil},
		{"proved dead and silent", func(w *fleet.World, h *fleet.Heard) {
			w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Evidence: "its BMC said off twice"}
			h.Last = now.Add(-time.Second)
		}, fleet.Dead, nil},
		{"proved dead, and it speaks", func(w *fleet.World, _ *fleet.Heard) {
			w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Evidence: "its BMC said off twice"}
		}, fleet.Healthy, nil},
		{"a former boot proved dead, and silent", func(w *fleet.World, h *fleet.Heard) {
			w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "a"}
			h.Last = now.Add(-time.Second)
		}, fleet.Suspect, nil},
	} {
		w := world()
		h := w.Heard["c2"]
		c.change(&w, &h)
		w.Heard["c2"] = h
		got := Judge(w)["c2"]
		if got.Condition != c.want || got.Why == "" {
			t.Errorf("%s: %s (%s), want %s", c.name, got.Condition, got.Why, c.want)
		}
		if diff := cmp.Diff(c.silent, got.Silent); diff != "" {
			t.Errorf("%s: silent networks: %s", c.name, diff)
		}
	}
}

// TestFastIsCanHold compares what is found for all hosts at once with what
// Spec.CanHold says of each.
func TestFastIsCanHold(t *testing.T) {
	var spec fleet.Spec
	for i := range 12 {
		h := fleet.Host{Name: fmt.Sprint("h", i), Roles: []string{[]string{"controller", "network", "compute", "arbiter"}[i%4]}, Addresses: map[string]netip.Addr{"a": {}}}
		if i%3 == 0 {
			h.Addresses["b"] = netip.Addr{}
		}
		spec.Hosts = append(spec.Hosts, h)
	}
	services := []fleet.Service{
		{Name: "s", Mode: fleet.ActiveActive, Roles: []string{"network"}},
		{Name: "t", Mode: fleet.ActiveActive, Hosts: []string{"h1", "h2"}},
		{Name: "p", Mode: fleet.ActivePassive, Hosts: []string{"h7"}},
	}
	for _, addresses := range [][]fleet.Address{nil, {{Name: "x", Network: "b"}}, {{Name: "x", Network: "a", With: []string{"s"}}},
		{{Name: "x", Network: "a", With: []string{"s", "t"}}}, {{Name: "x", Network: "a", With: []string{"none"}}}} {
		for n := range len(services) + 1 {
			spec.Addresses, spec.Services = addresses, services[:n]
			got := fast(&spec)
			for _, h := range spec.Hosts {
				if want := spec.CanHold(h); got[h.Name] != want {
					t.Errorf("%v with %d services: %s: %v, want %v", addresses, n, h.Name, got[h.Name], want)
				}
			}
		}
	}
}

func TestLost(t *testing.T) {
	w := world()
	w.Verdicts = map[string]fleet.Verdict{"c1": {Condition: fleet.Healthy}, "c2": {Condition: fleet.Suspect}, "c3": {Condition: fleet.Dead}}
	if diff := cmp.Diff([]string{"c2"}, Lost(w)); diff != "" {
		t.Error("a dead host is no riddle, a silent one is: ", diff)
	}
	w.State.Proofs["c3"] = fleet.Proof{Host: "c3", Boot: "b", Kind: "reboot"}
	if diff := cmp.Diff([]string{"c2", "c3"}, Lost(w)); diff != "" {
		t.Error("one whose later boot was heard of, and is not heard, is a riddle: ", diff)
	}
}

// TestWhoIsCutOff: who is not heard over a network is blamed only if the leader hears
// somebody else there: else the leader itself is cut off from it.
func TestWhoIsCutOff(t *testing.T) {
	beat := fleet.Presets()["room"].Beat
	for _, c := range []struct {
		name      string
		c2, c3    time.Duration // how long ago they were heard over storage
		change    func(w *fleet.World)
		condition fleet.Condition
		silent    bool
	}{
		{"one of two", 3 * beat, 0, nil, fleet.Degraded, true},
		{"the leader hears nobody there", time.Second, time.Second, nil, fleet.Healthy, false},
		{"nor since a moment, one after the other", 3 * beat, 2*beat + time.Millisecond, nil, fleet.Healthy, false},
		{"and hears one before the other again", time.Second, 0, func(w *fleet.World) {
			h := w.Heard["c3"]
			h.Again = map[string]fleet.Moment{"storage": now}
			w.Heard["c3"] = h
		}, fleet.Healthy, false},
		{"the other is dead", 3 * beat, time.Minute, func(w *fleet.World) {
			h := w.Heard["c3"]
			h.Last = now.Add(-time.Minute)
			w.Heard["c3"] = h
		}, fleet.Degraded, false},
	} {
		w := world()
		w.Heard["c2"].Nets["storage"], w.Heard["c3"].Nets["storage"] = now.Add(-c.c2), now.Add(-c.c3)
		if c.change != nil {
			c.change(&w)
		}
		if v := Judge(w)["c2"]; v.Condition != c.condition || len(v.Silent) > 0 != c.silent {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}
