package lease

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"mainstay/fleet"
)

var room = fleet.Presets()["room"]

const ms = time.Millisecond

func at(d time.Duration) fleet.Moment { return fleet.Moment(time.Hour).Add(d) }

func stint(n uint64) fleet.Stint { return fleet.Stint{Host: "c1", Boot: "b1", N: n} }

// TestHolderAgreesWithADumbTwin compares the lease's end with what anybody would
// compute from the whole list of acknowledgements.
func TestHolderAgreesWithADumbTwin(t *testing.T) {
	for seed := range uint64(300) {
		dice := rand.New(rand.NewPCG(seed, 1))
		ears := []string{"a", "b", "c", "d", "e", "f", "g"}[:3+2*dice.IntN(3)]
		h := NewHolder(stint(1), ears, room.Lease)
		newest := map[string]fleet.Moment{}
		now, over := time.Duration(0), false
		var end fleet.Moment
		for range 200 {
			now += time.Duration(dice.IntN(60)) * ms
			ear := ears[dice.IntN(len(ears))]
			sent := at(now - time.Duration(dice.IntN(400))*ms)
			h.Ack(ear, sent, at(now))

			over = over || end != 0 && !at(now).Before(end)
			if !over {
				newest[ear] = max(newest[ear], sent)
				var times []fleet.Moment
				for _, e := range ears {
					if newest[e] != 0 {
						times = append(times, newest[e])
					}
				}
				slices.Sort(times)
				if k := len(times) - fleet.Majority(len(ears)); k >= 0 && at(now).Before(times[k].Add(room.Lease)) {
					end = max(end, times[k].Add(room.Lease))
				}
			}
			if h.End() != end || h.Alive(at(now)) != (!over && end != 0) || h.Over(at(now)) != over {
				t.Fatalf("seed %d: end %v, want %v; alive %v over %v, want over %v", seed, h.End(), end, h.Alive(at(now)), h.Over(at(now)), over)
			}
		}
	}
}

// TestNoMajorityOfPromisesBesideALiveLease is the rule that everything rests on:
// ears of any speed, messages of any order and loss, and never a round that is
// over while the holder's own clock says that its lease lives.
func TestNoMajorityOfPromisesBesideALiveLease(t *testing.T) {
	over := 0
	for seed := range uint64(400) {
		dice := rand.New(rand.NewPCG(seed, 2))
		names := []string{"a", "b", "c", "d", "e"}[:3+2*dice.IntN(2)]
		// Clocks run up to 4 per cent fast or slow, and show what they please.
		clock := func(of int, true time.Duration) fleet.Moment {
			rate := 960 + rand.New(rand.NewPCG(seed, uint64(100+of))).Int64N(81)
			return fleet.Moment(int64(of)*int64(time.Hour) + int64(time.Minute) + int64(true)/1000*rate)
		}
		holder, leader := len(names), len(names)+1
		h := NewHolder(stint(1), names, room.Lease)
		ears := map[string]*Ear{}
		for i, name := range names {
			ears[name] = NewEar(name, room, []Row{}, clock(i, 0))
		}
		var round fleet.Round
		cut := map[string]time.Duration{}
		for now := time.Duration(0); now < 4*time.Second; now += 10 * ms {
			for i, name := range names {
				if dice.IntN(100) == 0 {
					cut[name] = now + time.Duration(dice.IntN(900))*ms
				}
				if dice.IntN(400) == 0 { // the ear reboots and forgets
					ears[name] = NewEar(name, room, nil, clock(i, now))
				}
				if now%(50*ms) == 0 && now > cut[name] && !h.Over(clock(holder, now)) {
					if ack, _ := ears[name].Beat(Beat{Stint: stint(1), Sent: clock(holder, now), Late: fleet.GuardLate}, clock(i, now)); ack && dice.IntN(4) > 0 {
						h.Ack(name, clock(holder, now), clock(holder, now))
					}
				}
				if round.Number > 0 && round.Promised[name] == 0 {
					if ok, _ := ears[name].Ask(stint(1), false, clock(i, now)); ok {
						round.Promised[name] = clock(leader, now)
					}
				}
			}
			if round.Number == 0 || Stale(round, room, clock(leader, now)) {
				round = fleet.Round{Stint: stint(1), Number: round.Number + 1, Asked: clock(leader, now), Promised: map[string]fleet.Moment{}}
			}
			if Over(round, names, room, fleet.GuardLate, clock(leader, now)) {
				over++
				if h.Alive(clock(holder, now)) {
					t.Fatalf("seed %d: %v: the stint is over for the leader, and its lease lives", seed, now)
				}
				break
			}
		}
	}
	if over < 50 {
		t.Errorf("only %d stints ended: this test looks at nothing", over)
	}
}

func TestEar(t *testing.T) {
	w := room.Silence(fleet.GuardLate)
	beat := func(n uint64, sent time.Duration) Beat {
		return Beat{Stint: stint(n), Sent: at(sent), Late: fleet.GuardLate}
	}
	e := NewEar("", room, []Row{}, at(0))
	check := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	ack := func(b Beat, now time.Duration) bool { ok, _ := e.Beat(b, at(now)); return ok }
	ask := func(n uint64, evict bool, now time.Duration) bool {
		ok, _ := e.Ask(stint(n), evict, at(now))
		return ok
	}

	check("the first beat", ack(beat(1, 0), 0), true)
	check("an older beat of the same stint", ack(beat(1, -10*ms), 5*ms), false)
	check("a promise before the silence is long enough", ask(1, false, w-ms), false)
	check("a promise after it", ask(1, false, w), true)
	check("a beat inside the promise", ack(beat(1, w+ms), w+ms), false)
	check("a later stint inside the promise", ack(beat(2, w+2*ms), w+2*ms), true)
	check("a beat of the former stint", ack(beat(1, w+3*ms), w+3*ms), false)
	check("the former stint is over by the later one's word", ask(1, false, w+4*ms), true)
	check("an eviction needs no silence", ask(2, true, w+5*ms), true)
	check("a beat after the promise has run out", ack(beat(2, w+5*ms+room.Promise()), w+5*ms+room.Promise()), true)

	// A kill forgets nothing, a boot everything.
	e = NewEar("", room, e.Rows(), at(w+6*ms+room.Promise()))
	check("the silence goes on over a kill", ask(2, false, 2*w+4*ms+room.Promise()), false)
	check("and is long enough then", ask(2, false, 2*w+5*ms+room.Promise()), true)
	e = NewEar("", room, nil, at(0))
	check("a beat just after a boot", ack(beat(3, 0), 0), false)
	check("a question just after a boot", ask(3, false, room.Promise()-ms), false)
	check("a beat later", ack(beat(3, room.Promise()), room.Promise()), true)
}

func TestAWholeBootsSilence(t *testing.T) {
	e := NewEar("", room, []Row{}, at(0))
	w := room.Silence(fleet.GuardLate)
	any := fleet.Stint{Host: "c1", Boot: "b1", N: AnyStint}
	e.Beat(Beat{Stint: stint(1), Sent: at(0), Late: fleet.GuardLate}, at(0))
	e.Ask(stint(1), true, at(0))
	e.Beat(Beat{Stint: stint(1), Sent: at(ms), Late: fleet.GuardLate}, at(ms)) // heard, not acknowledged
	others(e, 0, w+ms)
	if ok, _ := e.Ask(any, false, at(w)); ok {
		t.Error("a host that is heard is called silent because nobody answers it")
	}
	if ok, why := e.Ask(any, false, at(w+ms)); !ok {
		t.Error(why)
	}
	if ok, _ := e.Beat(Beat{Stint: stint(2), Sent: at(w + 2*ms)}, at(w+2*ms)); !ok {
		t.Error("the answer about a whole boot binds like a promise")
	}
}

// others lets the ear hear another host at every beat.
func others(e *Ear, from, to time.Duration) {
	for ; from < to; from += room.Beat {
		e.Beat(Beat{Stint: fleet.Stint{Host: "c2", Boot: "b2", N: 1}, Sent: at(from)}, at(from))
	}
}

func TestEarReturnsFromAPause(t *testing.T) {
	e := NewEar("", room, []Row{}, at(0))
	e.Beat(Beat{Stint: stint(1), Sent: at(0), Late: fleet.GuardLate}, at(0))
	e.Return(at(time.Second))
	for _, n := range []uint64{1, AnyStint} {
		if ok, _ := e.Ask(stint(n), false, at(time.Second)); ok {
			t.Errorf("asked about stint %d: what was not heard while the ear was away counts as silence", n)
		}
	}
}

// HOLES 52: an ear that hears nobody is cut off itself, and once it hears somebody again
// it has to listen for W before its word on a boot counts.
func TestADeafEarCallsNobodySilent(t *testing.T) {
	const long = 10 * time.Second
	w := room.Silence(fleet.GuardLate)
	for _, c := range []struct {
		name  string
		hears func(e *Ear)
		want  bool
	}{
		{"hears the others all the time", func(e *Ear) { others(e, 0, long) }, true},
		{"hears nobody", func(*Ear) {}, false},
		{"hears only itself", func(e *Ear) {
			for d := time.Duration(0); d < long; d += room.Beat {
				e.Beat(Beat{Stint: fleet.Stint{Host: "me", Boot: "b", N: 1}, Sent: at(d)}, at(d))
			}
		}, false},
		{"heard nobody until a moment ago", func(e *Ear) { others(e, long-room.Beat, long) }, false},
		{"was cut off for three beats a moment ago", func(e *Ear) {
			others(e, 0, long-4*room.Beat)
			others(e, long-room.Beat, long)
		}, false},
		{"missed two beats of the others", func(e *Ear) {
			others(e, 0, long-2*room.Beat)
			others(e, long-room.Beat, long)
		}, true},
		{"hears another boot of it", func(e *Ear) {
			for d := time.Duration(0); d < long; d += room.Beat {
				e.Beat(Beat{Stint: fleet.Stint{Host: stint(1).Host, Boot: "later", N: 1}, Sent: at(d)}, at(d))
			}
		}, false},
		{"heard another boot of it long ago", func(e *Ear) {
			e.Beat(Beat{Stint: fleet.Stint{Host: stint(1).Host, Boot: "later", N: 1}, Sent: at(0)}, at(0))
			others(e, 0, long)
		}, true},
		{"hears the others again for as long as is needed", func(e *Ear) { others(e, long-w-room.Beat, long) }, true},
	} {
		for _, known := range []bool{true, false} {
			e := NewEar("me", room, []Row{}, at(0))
			if known {
				e.Beat(Beat{Stint: stint(1), Sent: at(0), Late: fleet.GuardLate}, at(0))
			}
			c.hears(e)
			if ok, why := e.Ask(stint(AnyStint), false, at(long)); ok != c.want {
				t.Errorf("an ear that %s (it knows the boot: %v): %v (%s)", c.name, known, ok, why)
			}
			if ok, _ := e.Ask(stint(1), false, at(long)); !ok {
				t.Errorf("an ear that %s: a promise, which binds it alone, waits for it", c.name)
			}
		}
	}
}

// TestSilent: an ear vouches only for the silence that it cannot have missed.
func TestSilent(t *testing.T) {
	const long = 20 * time.Second
	for _, c := range []struct {
		name  string
		rows  []Row
		hears func(e *Ear)
		want  time.Duration
	}{
		{"heard it long ago", []Row{{Stint: stint(1), Heard: at(2 * time.Second)}}, func(e *Ear) { others(e, 0, long) }, 18 * time.Second},
		{"never heard it", []Row{}, func(e *Ear) { others(e, 0, long) }, long},
		{"heard it again", []Row{}, func(e *Ear) {
			others(e, 0, 9*time.Second)
			e.Beat(Beat{Stint: stint(1), Sent: at(1)}, at(9*time.Second))
			others(e, 9*time.Second, long)
		}, 11 * time.Second},
		{"was away", []Row{}, func(e *Ear) {
			others(e, 0, 5*time.Second)
			e.Return(at(15 * time.Second))
			others(e, 15*time.Second, long)
		}, 5 * time.Second},
		{"hears nobody", []Row{}, func(*Ear) {}, 0},
		{"has just booted", nil, func(e *Ear) { others(e, 0, 100*ms) }, 0},
	} {
		e, now := NewEar("me", room, c.rows, at(0)), at(long)
		c.hears(e)
		if c.rows == nil {
			now = at(100 * ms)
		}
		if got := e.Silent(stint(AnyStint), now); got != c.want {
			t.Errorf("an ear that %s vouches for %v, want %v", c.name, got, c.want)
		}
	}
}

func TestCoarseGuardIsWaitedFor(t *testing.T) {
	e := NewEar("", room, []Row{}, at(0))
	e.Beat(Beat{Stint: stint(1), Sent: at(0), Late: fleet.CoarseLate}, at(0))
	e.Beat(Beat{Stint: stint(1), Sent: at(50 * ms), Late: fleet.GuardLate}, at(50*ms))
	if ok, _ := e.Ask(stint(1), false, at(time.Second)); ok {
		t.Error("the largest lateness stated since the last promise is not waited for")
	}
	if ok, why := e.Ask(stint(1), false, at(50*ms+room.Silence(fleet.CoarseLate))); !ok {
		t.Error(why)
	}
}

func TestBootsOfOneHostAreBounded(t *testing.T) {
	e := NewEar("", room, []Row{}, at(0))
	for i := range 10 {
		e.Beat(Beat{Stint: fleet.Stint{Host: "c1", Boot: fmt.Sprint(i), N: 1}, Sent: at(0)}, at(time.Duration(i)*ms))
	}
	if rows := e.Boots("c1"); len(rows) != bootsKept || rows[0].Stint.Boot != "9" {
		t.Errorf("kept %d boots, the newest is %s", len(rows), rows[0].Stint.Boot)
	}
}

func TestOver(t *testing.T) {
	ears := []string{"a", "b", "c"}
	promised := func(late ...time.Duration) map[string]fleet.Moment {
		m := map[string]fleet.Moment{}
		for i, d := range late {
			m[ears[i]] = at(d)
		}
		return m
	}
	w := room.Silence(fleet.GuardLate)
	for _, c := range []struct {
		name     string
		promised map[string]fleet.Moment
		evict    bool
		late     time.Duration
		now      time.Duration
		want     bool
	}{
		{"one of three", promised(0), false, fleet.GuardLate, ms, false},
		{"two of three", promised(0, room.Lease), false, fleet.GuardLate, room.Lease, true},
		{"two, one of them after L", promised(0, room.Lease+1), false, fleet.GuardLate, room.Lease + ms, false},
		{"a stranger does not count", map[string]fleet.Moment{"a": at(0), "x": at(0)}, false, fleet.GuardLate, ms, false},
		{"an eviction before W", promised(0, 10*ms), true, fleet.GuardLate, w + 9*ms, false},
		{"an eviction after W", promised(0, 10*ms), true, fleet.GuardLate, w + 10*ms, true},
		{"an eviction of a coarse guard", promised(0, 10*ms), true, fleet.CoarseLate, 10 * time.Second, false},
	} {
		r := fleet.Round{Stint: stint(1), Asked: at(0), Evict: c.evict, Promised: c.promised}
		if got := Over(r, ears, room, c.late, at(c.now)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestLeadAndStart(t *testing.T) {
	if got := LeadUntil(at(0), room); got != at(360*ms) {
		t.Errorf("a lead of room lasts until %v", got.Sub(at(0)))
	}
	// A follower that just answered votes no sooner than E - 2t, by a clock that
	// may be 4 per cent fast while the leader's is 4 per cent slow.
	for _, name := range fleet.Sorted(fleet.Presets()) {
		p := fleet.Presets()[name]
		if float64(p.LeadLease())/0.96 > float64(p.Election-2*p.Heartbeat)/1.04 {
			t.Errorf("%s: the lead outlives a vote", name)
		}
	}
	if MayStart(at(0), room, true) != at(0) || MayStart(at(0), room, false) != at(room.Election) {
		t.Error("a member that lived waits E, one of a new site nothing")
	}
	if TooLate(at(1), at(0)) || !TooLate(at(0), at(0)) {
		t.Error("a renewal is too late from the moment at which the lease ended")
	}
}

// HOLES 25: whoever speaks beside another boot of the same host proves nothing.
func TestRival(t *testing.T) {
	e := NewEar("", room, []Row{}, at(0))
	beat := func(boot string, d time.Duration) {
		e.Beat(Beat{Stint: fleet.Stint{Host: "c1", Boot: boot, N: 1}, Sent: at(d)}, at(d))
	}
	beat("a", 0)
	beat("b", 10*ms)
	for d, want := range map[time.Duration]string{10 * ms: "a", 900 * ms: "a", time.Second: ""} {
		if newest, rival := e.Newest("c1", at(d)); newest.Stint.Boot != "b" || rival != want {
			t.Errorf("%v after the last beat of a: the newest is %s, its rival %q, want %q", d, newest.Stint.Boot, rival, want)
		}
	}
	if newest, rival := e.Newest("c9", at(0)); newest != (Row{}) || rival != "" {
		t.Errorf("of a host never heard: %+v, %q", newest, rival)
	}
}

// TestJitterChangesNoPromise: an ear has heard a host over a link that was steady, that
// jittered or that lost most beats. Each time it promises at W after the newest beat, not
// a nanosecond before and none later: nothing that is learnt of a link goes into W.
func TestJitterChangesNoPromise(t *testing.T) {
	want := room.Silence(fleet.GuardLate)
	for name, next := range map[string]func(*rand.Rand) time.Duration{
		"steady":    func(*rand.Rand) time.Duration { return room.Beat },
		"quick":     func(*rand.Rand) time.Duration { return room.Beat / 10 },
		"jittering": func(d *rand.Rand) time.Duration { return time.Duration(d.Int64N(int64(6 * room.Beat))) },
		"losing":    func(d *rand.Rand) time.Duration { return room.Beat * time.Duration(1+d.IntN(40)) },
	} {
		dice := rand.New(rand.NewPCG(29, 0))
		ear, now := NewEar("", room, []Row{}, at(0)), time.Duration(0)
		for range 500 {
			now += next(dice)
			ear.Beat(Beat{Stint: stint(1), Sent: at(now), Late: fleet.GuardLate}, at(now))
		}
		others(ear, now, now+want)
		for _, n := range []uint64{1, AnyStint} {
			asked := stint(n)
			if yes, _ := ear.Ask(asked, false, at(now+want-1)); yes {
				t.Errorf("%s: asked about stint %d it promises before W", name, n)
			}
		}
		for _, n := range []uint64{AnyStint, 1} {
			if yes, why := ear.Ask(stint(n), false, at(now+want)); !yes {
				t.Errorf("%s: asked about stint %d it does not promise at W: %s", name, n, why)
			}
		}
	}
}

// TestHostsInOrder: whom an ear knows it names in order, each once, in whatever order they were first heard of.
func TestHostsInOrder(t *testing.T) {
	e := NewEar("c1", fleet.Presets()["room"], []Row{{Stint: fleet.Stint{Host: "m", Boot: "b"}}, {Stint: fleet.Stint{Host: "d", Boot: "b"}}}, 1)
	for i, host := range []string{"z", "a", "m", "c", "a"} {
		e.Beat(Beat{Stint: fleet.Stint{Host: host, Boot: fmt.Sprint("b", i), N: 1}, Sent: 1}, 2)
	}
	e.Ask(fleet.Stint{Host: "k", Boot: "b", N: 1}, false, 3)
	want := []string{"a", "c", "d", "k", "m", "z"}
	if got := e.Hosts(); !slices.Equal(got, want) {
		t.Errorf("hosts %v, want %v", got, want)
	}
	var hosts []string
	for _, r := range e.Rows() {
		hosts = append(hosts, r.Stint.Host)
	}
	if got := slices.Compact(hosts); !slices.Equal(got, want) {
		t.Errorf("rows of %v, want %v", got, want)
	}
}
