package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// long lets c2 be silent, with a service that only a proof frees, and c3 lead; each fence
// of it ends as answer says, at once. It plays for so long and returns the state, and the
// levels that were tried, in their order.
func long(t *testing.T, w fleet.World, d time.Duration, answer func(at time.Duration, o fleet.Order) fleet.Effect) (state fleet.State, levels []int) {
	t.Helper()
	hush(w, "c2")
	w.Leader = "c3"
	w.Flights = map[string]fleet.Flight{}
	begun := w.Now
	for i := 0; w.Now.Sub(begun) < d; i++ {
		if i > 50000 {
			t.Fatalf("%d turns in %v", i, w.Now.Sub(begun))
		}
		for _, host := range []string{"c1", "c3"} {
			h := w.Heard[host]
			h.Last, h.Nets = w.Now, map[string]fleet.Moment{}
			for _, n := range w.Spec.Networks {
				h.Nets[n.Name] = w.Now
			}
			w.Heard[host] = h
		}
		w.Rounds["c2"] = fleet.Round{Stint: fleet.Stint{Host: "c2", Boot: "b", N: lease.AnyStint}, Number: uint64(i + 2), Asked: w.Now.Add(-10 * ms), Over: true,
			Promised: map[string]fleet.Moment{"c1": w.Now, "c3": w.Now}}
		_, p := Turn(w)
		var err error
		if w.State, err = w.State.Apply(p.Records...); err != nil {
			t.Fatal(err)
		}
		for _, o := range p.Orders {
			if o.Verb != fleet.VerbFence {
				continue
			}
			levels = append(levels, o.Level)
			e, f := answer(w.Now.Sub(begun), o), w.Flights[o.Key]
			w.Flights[o.Key] = fleet.Flight{Order: o, Sent: w.Now, Tries: f.Tries + 1, Effect: &e, Arrived: w.Now}
		}
		if _, off := w.State.Proofs["c2"]; off {
			break
		}
		next := time.Second
		if len(p.Records) > 0 {
			next = 10 * ms
		}
		w.Now, w.Wall = w.Now.Add(next), w.Wall.Add(next)
	}
	return w.State, levels
}

func withLevels(n int) fleet.World {
	w := small()
	for i := range w.Spec.Hosts {
		w.Spec.Hosts[i].Fence = nil
		for l := range n {
			w.Spec.Hosts[i].Fence = append(w.Spec.Hosts[i].Fence, fleet.Level{{Driver: fmt.Sprint("driver", l)}})
		}
	}
	return w
}

// TestTriesAreNoFences: a device that is away, or refuses the password, is tried until it
// answers, however often that was; only a fence that was proved is one of those after which
// a host stays off, and each try has a number, and so an order, of its own.
func TestTriesAreNoFences(t *testing.T) {
	for _, outcome := range []fleet.Outcome{fleet.NoWord, fleet.Refused, fleet.Broken} {
		for _, away := range []time.Duration{5 * time.Minute, 90 * time.Minute} {
			var last time.Duration
			keys := map[string]bool{}
			state, tried := long(t, withLevels(1), away+fenceLazy+time.Minute, func(at time.Duration, o fleet.Order) fleet.Effect {
				last = at
				keys[o.Key] = true
				if at < away {
					return fleet.Effect{Outcome: outcome, Why: "no"}
				}
				return fleet.Effect{Outcome: fleet.Done, Proof: &fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Evidence: "off"}}
			})
			m := state.Members["c2"]
			if _, off := state.Proofs["c2"]; !off || len(m.Fenced) != 1 || m.Tried.Count != len(keys) {
				t.Fatalf("%s for %v: proved %v, fenced %d times, tried %d times, with %d orders", outcome, away, off, len(m.Fenced), m.Tried.Count, len(keys))
			}
			bound := 2*restMax + 5*time.Second
			if away > time.Hour {
				bound = fenceLazy + restMax
			}
			if last > away+bound {
				t.Errorf("%s for %v: the device was asked again only after %v", outcome, away, last)
			}
			if most := 200; len(tried) > most {
				t.Errorf("%s for %v: tried %d times, and each is told in a history that has an end", outcome, away, len(tried))
			}
		}
	}
}

// TestEveryLevelIsReached: the level that proves is tried at once after those that do not,
// whichever it is, and however often the host was fenced before.
func TestEveryLevelIsReached(t *testing.T) {
	for levels := 1; levels <= 4; levels++ {
		for good := range levels {
			for _, outcome := range []fleet.Outcome{fleet.NoWord, fleet.Refused} {
				for before := range fenceLoop {
					w := withLevels(levels)
					m := w.State.Members["c2"]
					for range before {
						m.Fenced = append(m.Fenced, w.Wall.Add(-time.Minute))
					}
					m.Tried = fleet.Tries{Boot: "a", Count: 2} // of an earlier boot, which says nothing of this one
					w.State.Members["c2"] = m
					state, tried := long(t, w, 20*time.Second, func(_ time.Duration, o fleet.Order) fleet.Effect {
						if o.Level != good {
							return fleet.Effect{Outcome: outcome, Why: "no"}
						}
						return fleet.Effect{Outcome: fleet.Done, Proof: &fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Level: o.Level, Evidence: "off"}}
					})
					if p, off := state.Proofs["c2"]; !off || p.Level != good || len(tried) != good+1 {
						t.Errorf("%d levels of which number %d proves, the others %s, fenced %d times before: tried %v, proved %v", levels, good, outcome, before, tried, off)
					}
					if n := len(state.Members["c2"].Fenced); n != before+1 {
						t.Errorf("fenced %d times and once more, and %d are counted", before, n)
					}
				}
			}
		}
	}
}

// TestFencesAreCountedOnce: a proof that is kept open for an earlier level counts once, and
// what is older than an hour is forgotten.
func TestFencesAreCountedOnce(t *testing.T) {
	w := withLevels(2)
	m := w.State.Members["c2"]
	m.Fenced = []time.Time{w.Wall.Add(-2 * time.Hour), w.Wall.Add(-fenceSpan), w.Wall.Add(-time.Minute)}
	w.State.Members["c2"] = m
	hush(w, "c2")
	w.Leader = "c3"
	proof := &fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Level: 1, Evidence: "off"}
	m.Tried = fleet.Tries{Boot: "b", Count: 2}
	w.State.Members["c2"] = m
	w.State.Intents["c2"] = fleet.Intent{Host: "c2", Boot: "b", Device: "driver1", Level: 1, Loose: true, Executor: "c3", Epoch: w.Epoch, At: w.Wall, Lasts: FenceLasts}
	w.Flights = map[string]fleet.Flight{"fence/c2/b/2": {Sent: w.Now.Add(-time.Second), Tries: 1, Arrived: w.Now, Effect: &fleet.Effect{Outcome: fleet.Done, Proof: proof}}}
	for range 3 {
		_, p := Turn(w)
		var err error
		if w.State, err = w.State.Apply(p.Records...); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.State.Members["c2"].Fenced); n != 2 || !w.State.Intents["c2"].Proved {
		t.Errorf("%d fences are counted, and the intent is %+v", n, w.State.Intents["c2"])
	}
}

// TestFenceLoop: after the third proved fence within the hour a host is not turned on, and
// not fenced again if somebody else turned it on; an hour later both are as ever.
func TestFenceLoop(t *testing.T) {
	fenced := func(w fleet.World, ago ...time.Duration) {
		m := w.State.Members["c2"]
		for _, d := range ago {
			m.Fenced = append(m.Fenced, w.Wall.Add(-d))
		}
		w.State.Members["c2"] = m
	}
	for _, x := range []struct {
		name string
		ago  []time.Duration
		may  bool
	}{
		{"twice within the hour", []time.Duration{20 * time.Minute, time.Minute}, true},
		{"three times", []time.Duration{40 * time.Minute, 20 * time.Minute, time.Minute}, false},
		{"three times, the first an hour ago", []time.Duration{time.Hour, 20 * time.Minute, time.Minute}, true},
	} {
		w := small()
		hush(w, "c2")
		w.Leader = "c3"
		fenced(w, x.ago...)
		_, p := Turn(w)
		if got := strings.Join(brief(p), " "); strings.Contains(got, "intent/c2") != x.may {
			t.Errorf("%s, and it is silent again: %s", x.name, got)
		}

		w = small()
		lapse(w, "c2")
		w.Leader = "c3"
		fenced(w, x.ago...)
		m := w.State.Members["c2"]
		m.Barred = "fenced"
		w.State.Members["c2"] = m
		w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Evidence: "off"}
		w.State.Holdings["service/s"] = fleet.Holding{Thing: "service/s", Host: "c3", Boot: "b", Stint: 1, Generation: 5, Why: "off"}
		w.Reports["c2"].Services["s"] = fleet.ServiceState{Phase: fleet.Stopped}
		w.Reports["c3"].Services["s"] = fleet.ServiceState{Phase: fleet.Running, Ready: true, Generation: 5}
		_, p = Turn(w)
		got := strings.Join(brief(p), " ")
		if strings.Contains(got, "power-on") != x.may || strings.Contains(got, "host/c2 waits") == x.may {
			t.Errorf("%s, and what it held has arrived elsewhere: %s", x.name, got)
		}
		if !x.may && !strings.Contains(fmt.Sprint(p.Waits), "a person: it was fenced 3 times within 1h0m0s, it stays off") {
			t.Errorf("%s: %v", x.name, p.Waits)
		}
	}
}

// TestBrakesOfSome: a brake of a role or of a zone holds for its own hosts alone, and after the site's.
func TestBrakesOfSome(t *testing.T) {
	fenced := func(p fleet.Plan) (out []string) {
		for _, r := range p.Records {
			if name, ok := strings.CutPrefix(r.Key, "intent/"); ok {
				out = append(out, name)
			}
		}
		return out
	}
	for _, c := range []struct {
		name   string
		brakes fleet.Brakes
		zone   string // of n3
		want   []string
		waits  map[string]string
	}{
		{"none but the site's", fleet.Brakes{}, "nova", []string{"n1", "n2"}, nil},
		{"of the computes", fleet.Brakes{Roles: map[string]fleet.Brake{"compute": {Count: 1}}}, "nova", nil,
			map[string]string{"brake/role/compute": "a person: 2 of 3 hosts of role compute are lost at once (n1, n2), which is our own blindness until shown otherwise, and none of them is fenced"}},
		{"as many as it allows", fleet.Brakes{Roles: map[string]fleet.Brake{"compute": {Count: 2, Share: 67}}}, "nova", []string{"n1", "n2"}, nil},
		{"of another role, of which too many are lost too", fleet.Brakes{Roles: map[string]fleet.Brake{"controller": {Share: 30}}}, "nova", []string{"n1", "n2"}, nil},
		{"a share of the zone", fleet.Brakes{Zones: map[string]fleet.Brake{"nova": {Share: 60}}}, "nova", nil,
			map[string]string{"brake/zone/nova": "a person: 2 of 3 hosts of zone nova are lost at once (n1, n2), which is our own blindness until shown otherwise, and none of them is fenced"}},
		{"one that is not in it", fleet.Brakes{Zones: map[string]fleet.Brake{"nova": {Count: 1}}}, "other", nil,
			map[string]string{"brake/zone/nova": "a person: 2 of 2 hosts of zone nova are lost at once (n1, n2), which is our own blindness until shown otherwise, and none of them is fenced"}},
		{"of another zone", fleet.Brakes{Zones: map[string]fleet.Brake{"other": {Count: 1}}}, "other", []string{"n1", "n2"}, nil},
		{"whose zone nobody knows", fleet.Brakes{Zones: map[string]fleet.Brake{"nova": {Count: 3}}}, "?", []string{"n1"}, nil},
		{"the site's first", fleet.Brakes{Count: 1, Roles: map[string]fleet.Brake{"compute": {Count: 1}}}, "nova", nil,
			map[string]string{"brake": "a person: 3 of 6 hosts are lost at once (c3, n1, n2), which is our own blindness until shown otherwise, and nobody is fenced"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := computed()
			w.State.Proofs = map[string]fleet.Proof{}
			c.brakes.Share = 100
			c.brakes.Count = cmp.Or(c.brakes.Count, 9)
			w.Spec.Brakes = c.brakes
			for host, compute := range w.Cloud.Computes {
				compute.Zone = "nova"
				if host == "n3" {
					compute.Zone = c.zone
				}
				w.Cloud.Computes[host] = compute
			}
			if c.zone == "?" {
				delete(w.Cloud.Computes, "n2")
			}
			silent(w, "c3", time.Minute)
			for _, host := range []string{"n1", "n2"} {
				hush(w, host)
				silent(w, host, time.Minute)
				r := w.Rounds[host]
				r.Silent = map[string]time.Duration{"c1": time.Minute, "c2": time.Minute, "c3": time.Minute}
				r.Promised["c2"] = w.Now
				w.Rounds[host] = r
			}
			_, p := Turn(w)
			if got := fenced(p); !slices.Equal(got, c.want) {
				t.Errorf("fenced are %v, not %v", got, c.want)
			}
			got := map[string]string{}
			for _, x := range p.Waits {
				if strings.HasPrefix(x.About, "brake") {
					got[x.About] = x.For
				}
			}
			if !maps.Equal(got, c.waits) {
				t.Errorf("got  %q\nwant %q", got, c.waits)
			}
		})
	}
}

// TestTakesOver: a new leader goes on with a former one's fence by the level that that one had come to,
// and the intent is open for as long as anything of an earlier try may act, whatever becomes of its own.
func TestTakesOver(t *testing.T) {
	w := withLevels(2)
	formers(&w)
	turn := func() fleet.Plan {
		t.Helper()
		_, p := Turn(w)
		var err error
		if w.State, err = w.State.Apply(p.Records...); err != nil {
			t.Fatal(err)
		}
		return p
	}
	turn()
	in := w.State.Intents["c2"]
	if !in.Loose || in.Level != 0 || in.Device != w.Spec.Hosts[1].Fence[0].Name() || in.Executor != w.Leader || in.Epoch != w.Epoch || w.State.Members["c2"].Tried.Count != 2 {
		t.Fatalf("taken over as %+v, try %d", in, w.State.Members["c2"].Tried.Count)
	}
	heard := func(number uint64) {
		w.Rounds["c2"] = fleet.Round{Stint: fleet.Stint{Host: "c2", Boot: "b", N: lease.AnyStint}, Number: number, Asked: w.Now.Add(-time.Second)}
	}
	// The ears hear it, and nothing was ordered yet.
	before := w.Rounds["c2"]
	heard(2)
	if turn(); w.State.Intents["c2"].Boot == "" {
		t.Error("it has ended, and the former leader's off may act yet")
	}
	// An earlier try of this leader's own, by another level, lasts longer than what a former one began.
	w.Since = w.Now.Add(-time.Hour)
	w.Flights["fence/c2/b/1"] = fleet.Flight{Sent: w.Now.Add(-FenceLasts + ms), Tries: 1}
	if turn(); w.State.Intents["c2"].Boot == "" {
		t.Error("it has ended, and the earlier level's off may act yet")
	}
	w.Rounds["c2"] = before
	if p := turn(); len(p.Orders) != 1 || p.Orders[0].Level != 0 || p.Orders[0].Key != "fence/c2/b/2" {
		t.Fatalf("ordered: %+v", p.Orders)
	}
	heard(3)
	w.Flights["fence/c2/b/1"] = fleet.Flight{Sent: w.Now.Add(-FenceLasts), Tries: 1}
	if turn(); w.State.Intents["c2"].Boot != "" {
		t.Error("nothing of it can act any more, and it is open")
	}
}
