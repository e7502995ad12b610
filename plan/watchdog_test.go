package plan

import (
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

const dog = 10 * time.Second

// armed is small, with the service under the surety of c2's watchdog.
func armed() fleet.World {
	w := small()
	w.Leader, w.Told = "c3", map[string]fleet.Moment{}
	h := w.State.Holdings["service/s"]
	h.Watchdog = dog
	w.State.Holdings["service/s"] = h
	r := w.Reports["c2"]
	r.Watchdog = dog
	w.Reports["c2"] = r
	return w
}

// vouch lets c2 have been silent for so long, and c1 and c3 say so, each for its time.
func vouch(w fleet.World, age, c1, c3 time.Duration) {
	hush(w, "c2")
	silent(w, "c2", age)
	r := w.Rounds["c2"]
	r.Silent = map[string]time.Duration{"c1": c1, "c3": c3}
	w.Rounds["c2"] = r
}

func proofOf(p fleet.Plan, host string) (text string) {
	for _, r := range p.Records {
		if r.Key == "proof/"+host && r.Value != nil {
			text += r.Text
		}
	}
	return text
}

// TestOutlived: a silence is a proof only where a watchdog stands surety for what is held,
// for the boot that is held by, on the word of a majority of ears, and when it is long
// enough.
func TestOutlived(t *testing.T) {
	d := fleet.Outlived(room.Lease, dog)
	if want := 23330 * ms; d != want {
		t.Fatalf("1.1 x (300ms + 2 x 10s) + 1s is %v, not %v", d, want)
	}
	long := d + time.Second
	for _, c := range []struct {
		name   string
		change func(w fleet.World)
		want   bool
	}{
		{"a majority for long enough", func(w fleet.World) { vouch(w, long, d, long) }, true},
		{"one ear a moment too short", func(w fleet.World) { vouch(w, long, d-1, long) }, false},
		{"ears that do not say for how long", func(w fleet.World) { vouch(w, long, 0, 0) }, false},
		{"heard too lately by the leader itself", func(w fleet.World) { vouch(w, d-1, long, long) }, false},
		{"no surety in the record, whatever it reports", func(w fleet.World) {
			vouch(w, long, long, long)
			h := w.State.Holdings["service/s"]
			h.Watchdog = 0
			w.State.Holdings["service/s"] = h
		}, false},
		{"a surety of longer", func(w fleet.World) {
			vouch(w, long, long, long)
			h := w.State.Holdings["service/s"]
			h.Watchdog = dog + time.Second
			w.State.Holdings["service/s"] = h
		}, false},
		{"heard since the ears were asked", func(w fleet.World) {
			vouch(w, long, long, long)
			silent(w, "c2", 0)
		}, false},
		{"reported since the ears were asked", func(w fleet.World) {
			vouch(w, long, long, long)
			w.Told["c2"] = w.Now
		}, false},
		{"the answers are about an earlier boot", func(w fleet.World) {
			vouch(w, long, long, long)
			r := w.Rounds["c2"]
			r.Stint.Boot = "a"
			w.Rounds["c2"] = r
		}, false},
		{"a person's disarming, which stops no contract", func(w fleet.World) {
			vouch(w, long, long, long)
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, true},
	} {
		w := armed()
		c.change(w)
		w, p := Turn(w)
		if got := proofOf(p, "c2") != ""; got != c.want {
			t.Errorf("%s: proved %v, want %v; c2 is %s, the waits are %v", c.name, got, c.want, w.Verdicts["c2"].Condition, p.Waits)
		}
	}
}

// TestOutlivedFrees: the proof bars the host and frees what it held, in one turn, and no
// fence is begun.
func TestOutlivedFrees(t *testing.T) {
	w := armed()
	long := fleet.Outlived(room.Lease, dog) + time.Second
	vouch(w, long, long, long)
	_, p := Turn(w)
	var keys []string
	for _, r := range p.Records {
		keys = append(keys, r.Key)
	}
	if got := strings.Join(keys, " "); got != "proof/c2 member/c2 holding/service/s" {
		t.Errorf("recorded: %s", got)
	}
}

// TestUnarmed: who has a watchdog by the site's file and does not arm it is named.
func TestUnarmed(t *testing.T) {
	w := armed()
	for i := range w.Spec.Hosts {
		if name := w.Spec.Hosts[i].Name; name != "c1" {
			w.Spec.Hosts[i].Watchdog = fleet.Watchdog{Device: "/dev/watchdog", Timeout: dog}
		}
	}
	_, p := Turn(w)
	if got := strings.Join(brief(p), "; "); got != "watchdog/c3 waits" {
		t.Errorf("the plan is: %s", got)
	}
}

// TestSurety: the record follows what the holder reports of its watchdog, in place while
// the copy runs under it, under a new generation before a start.
func TestSurety(t *testing.T) {
	for _, c := range []struct {
		name       string
		reports    time.Duration
		phase      string
		generation uint64 // of the copy
		way        string // what may still be on its way to it
		want       string // surety and generation of the record; "": none is written
	}{
		{"as recorded", dog, fleet.Running, 4, "", ""},
		{"stopped", 0, fleet.Running, 4, "", "0s 4"},
		{"another time-out", 2 * dog, fleet.Running, 4, "", "20s 4"},
		{"another time-out, told another generation", 2 * dog, fleet.Running, 3, "", ""},
		{"another time-out, nothing runs", 2 * dog, fleet.Stopped, 4, "", "20s 5"},
		{"another time-out, nothing runs, and the start under the record is on its way", 2 * dog, fleet.Stopped, 4, "start", ""},
		{"another time-out, nothing runs, and what a former leader ordered may be on its way", 2 * dog, fleet.Stopped, 4, "epoch", ""},
		{"another time-out, nobody knows what runs", 2 * dog, fleet.Unknown, 4, "", ""},
	} {
		w := armed()
		r := w.Reports["c2"]
		r.Watchdog = c.reports
		switch c.way {
		case "start":
			o := fleet.Order{Key: "start/s/c2/4/0", Verb: fleet.VerbStart, To: "c2", Thing: "service/s", Generation: 4}
			w.Flights = map[string]fleet.Flight{o.Key: {Order: o, Sent: w.Now}}
		case "epoch":
			r.Epoch--
		}
		r.Services["s"] = fleet.ServiceState{Phase: c.phase, Ready: c.phase == fleet.Running, Generation: c.generation}
		w.Reports["c2"] = r
		_, p := Turn(w)
		got := ""
		for _, r := range p.Records {
			if r.Key == "holding/service/s" {
				s, err := w.State.Apply(r)
				if err != nil {
					t.Fatal(err)
				}
				h := s.Holdings["service/s"]
				got = strings.TrimSpace(h.Watchdog.String() + " " + string(rune('0'+h.Generation)))
			}
		}
		if got != c.want {
			t.Errorf("%s: the record becomes %q, want %q", c.name, got, c.want)
		}
	}
}

// TestStartUnderASurety: a host refuses what rests on a watchdog that it has not.
func TestStartUnderASurety(t *testing.T) {
	for _, c := range []struct {
		armed, order time.Duration
		refused      bool
	}{{0, 0, false}, {dog, 0, false}, {dog, dog, false}, {dog / 2, dog, false}, {0, dog, true}, {2 * dog, dog, true}} {
		h := leased(t)
		h.Arm(c.armed)
		o := fleet.Order{Key: "start", Verb: fleet.VerbStart, Boot: "b", Stint: 1, Epoch: 5, Thing: "service/s", Generation: 3, Watchdog: c.order}
		if got := refused(t, h, o, ms); got != c.refused {
			t.Errorf("armed with %v, ordered under %v: refused %v", c.armed, c.order, got)
		}
	}
}

// TestMayKick is the host's side of the contract.
func TestMayKick(t *testing.T) {
	spec := &fleet.Spec{Services: []fleet.Service{{Name: "s", Mode: fleet.ActivePassive}, {Name: "a", Mode: fleet.ActiveActive}}}
	start := fleet.Order{Key: "start", Verb: fleet.VerbStart, Boot: "b", Stint: 1, Epoch: 5, Thing: "service/s", Generation: 3}
	phase := func(p string) map[string]fleet.ServiceState {
		return map[string]fleet.ServiceState{"s": {Phase: p}, "a": {Phase: fleet.Running}}
	}
	for _, c := range []struct {
		name     string
		do       func(h *Hand)
		services map[string]fleet.ServiceState
		leased   bool
		want     bool
	}{
		{"a lease, and a service", func(h *Hand) { h.Order(start, at(ms)) }, phase(fleet.Running), true, true},
		{"no lease, and nothing", func(*Hand) {}, phase(fleet.Stopped), false, true},
		{"no lease, and nobody has looked yet", func(*Hand) {}, nil, false, true},
		{"no lease, and an address", func(h *Hand) { h.Order(claim(3), at(ms)) }, phase(fleet.Stopped), false, true},
		{"no lease, and a service", func(h *Hand) { h.Order(start, at(ms)) }, phase(fleet.Running), false, false},
		{"no lease, and a service that was given and is not seen", func(h *Hand) { h.Order(start, at(ms)) }, phase(fleet.Stopped), false, false},
		{"no lease, and a service that failed", func(h *Hand) { h.Order(start, at(ms)) }, phase(fleet.Failed), false, false},
		{"no lease, and a service that was surely stopped", func(h *Hand) {
			h.Order(start, at(ms))
			h.Stopped("service/s", 3)
		}, phase(fleet.Stopped), false, true},
		{"no lease, and nobody knows whether what was stopped runs", func(h *Hand) {
			h.Order(start, at(ms))
			h.Stopped("service/s", 3)
		}, phase(fleet.Unknown), false, false},
		{"no lease, and nobody knows of what was never given", func(*Hand) {}, phase(fleet.Unknown), false, true},
		{"no lease, and a copy that nobody gave it", func(*Hand) {}, phase(fleet.Running), false, false},
	} {
		h := leased(t)
		c.do(h)
		now := at(2 * ms)
		if !c.leased {
			now = at(room.Lease)
		}
		ok, why := h.MayKick(now, spec, c.services)
		if ok != c.want || ok != (why == "") {
			t.Errorf("%s: %v (%s), want %v", c.name, ok, why, c.want)
		}
	}
}
