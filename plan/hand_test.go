package plan

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

var room = fleet.Presets()["room"]

const ms = time.Millisecond

func at(d time.Duration) fleet.Moment { return fleet.Moment(time.Hour).Add(d) }

// leased returns a hand in its first stint, dropped and acknowledged at at(0).
func leased(t *testing.T) *Hand {
	t.Helper()
	h, deeds := NewHand("c1", "b", Memory{}, []string{"c1", "c2", "c3"}, room, at(-ms))
	if diff := cmp.Diff([]Deed{{Do: DoDrop, Generation: 1, Why: "the agent starts"}}, deeds); diff != "" {
		t.Fatal(diff)
	}
	if !h.Silent() {
		t.Fatal("it beats before what a former stint may have held is gone")
	}
	h.Dropped(1)
	renew(h, 0)
	return h
}

func renew(h *Hand, d time.Duration) []Deed {
	h.Ack("c2", h.Stint(), at(d), at(d))
	return h.Ack("c3", h.Stint(), at(d), at(d))
}

func claim(generation uint64) fleet.Order {
	return fleet.Order{Key: "claim", Verb: fleet.VerbClaim, Boot: "b", Stint: 1, Epoch: 5, Thing: "address/a", Generation: generation}
}

func refused(t *testing.T, h *Hand, o fleet.Order, d time.Duration) bool {
	t.Helper()
	_, e := h.Order(o, at(d))
	if e != nil && (e.Outcome != fleet.Refused || e.Why == "") {
		t.Errorf("a refusal without a reason: %+v", e)
	}
	return e != nil
}

func TestWhatAHandRefuses(t *testing.T) {
	for name, change := range map[string]func(h *Hand, o *fleet.Order){
		"an older epoch":              func(_ *Hand, o *fleet.Order) { o.Epoch = 4 },
		"another boot":                func(_ *Hand, o *fleet.Order) { o.Boot = "x" },
		"another stint":               func(_ *Hand, o *fleet.Order) { o.Stint = 2 },
		"an older generation":         func(_ *Hand, o *fleet.Order) { o.Generation = 2 },
		"a generation lost":           func(h *Hand, _ *fleet.Order) { h.Lost("address/a") },
		"a generation being released": func(h *Hand, _ *fleet.Order) { h.Order(release(3), at(ms)) },
		"a start of a service stopped": func(h *Hand, o *fleet.Order) {
			h.Stopped("service/s", 3)
			o.Verb, o.Thing = fleet.VerbStart, "service/s"
		},
		"a promotion of what was demoted": func(h *Hand, o *fleet.Order) {
			h.Stopped("service/s", 3)
			o.Verb, o.Thing = fleet.VerbPromote, "service/s"
		},
		"a promotion in another stint": func(_ *Hand, o *fleet.Order) { o.Verb, o.Thing, o.Stint = fleet.VerbPromote, "service/s", 2 },
		"a demotion of a generation that has passed on": func(h *Hand, o *fleet.Order) {
			h.Order(fleet.Order{Verb: fleet.VerbPromote, Boot: "b", Stint: 1, Epoch: 5, Thing: "service/s", Generation: 4}, at(ms))
			o.Verb, o.Thing = fleet.VerbDemote, "service/s"
		},
		"a stop of a generation that has passed on": func(h *Hand, o *fleet.Order) {
			h.Order(fleet.Order{Verb: fleet.VerbStart, Boot: "b", Stint: 1, Epoch: 5, Thing: "service/s", Generation: 4}, at(ms))
			o.Verb, o.Thing = fleet.VerbStop, "service/s"
		},
		"a release of a generation that has passed on": func(h *Hand, o *fleet.Order) {
			h.Order(claim(4), at(ms))
			o.Verb = fleet.VerbRelease
		},
	} {
		h := leased(t)
		if refused(t, h, claim(3), 0) {
			t.Fatalf("%s: the first claim is refused", name)
		}
		o := claim(3)
		change(h, &o)
		if !refused(t, h, o, 2*ms) {
			t.Errorf("%s is followed", name)
		}
	}
	h := leased(t)
	if !refused(t, h, claim(3), room.Lease) {
		t.Error("a claim without a lease is followed")
	}
}

func release(generation uint64) fleet.Order {
	return fleet.Order{Key: "release", Verb: fleet.VerbRelease, Boot: "b", Epoch: 5, Thing: "address/a", Generation: generation}
}

// TestTheWordComesLast: what frees a thing for others is said only when it is true.
func TestTheWordComesLast(t *testing.T) {
	h := leased(t)
	h.Order(claim(3), at(0))
	h.Order(release(3), at(ms))
	if m := h.Memory(); m.GivenUp["address/a"] != 0 || m.Held["address/a"] != 0 {
		t.Errorf("released in words before the deed: %+v", m)
	}
	h.Released("address/a", 3)
	if h.Memory().GivenUp["address/a"] != 3 {
		t.Error("released, and no word")
	}
	h.Order(fleet.Order{Verb: fleet.VerbPromote, Boot: "b", Stint: 1, Epoch: 5, Thing: "service/p", Generation: 1}, at(ms))
	h.Order(fleet.Order{Verb: fleet.VerbDemote, Boot: "b", Stint: 1, Epoch: 5, Thing: "service/p", Generation: 1}, at(ms))
	if m := h.Memory(); m.Running["service/p"] != 1 || m.GivenUp["service/p"] != 0 {
		t.Errorf("demoted in words before the deed: %+v", m)
	}
	h.Stopped("service/p", 1)
	h.Order(fleet.Order{Verb: fleet.VerbStart, Boot: "b", Stint: 1, Epoch: 5, Thing: "service/s", Generation: 1}, at(ms))
	if m := h.Memory(); m.Running["service/s"] != 1 || m.GivenUp["service/s"] != 0 {
		t.Errorf("%+v", m)
	}
	h.Stopped("service/s", 1)
	if m := h.Memory(); m.Running["service/s"] != 0 || m.GivenUp["service/s"] != 1 {
		t.Errorf("%+v", m)
	}
}

func TestAnEndedLeaseEndsItsStint(t *testing.T) {
	h := leased(t)
	h.Order(claim(3), at(0))
	if got := renew(h, 50*ms); len(got) != 1 || got[0].Do != DoRenew || got[0].Until != at(50*ms+room.Lease) {
		t.Errorf("a renewal: %+v", got)
	}
	end := 50*ms + room.Lease
	if h.Tick(at(end-ms)) != nil {
		t.Error("it ends early")
	}
	deeds := h.Ack("c2", h.Stint(), at(end-ms), at(end))
	if len(deeds) != 1 || deeds[0].Do != DoDrop || h.Stint().N != 2 || len(h.Memory().Held) != 0 {
		t.Errorf("an acknowledgement after the end: %+v, %+v", deeds, h.Memory())
	}
	if !h.Silent() {
		t.Error("it beats in the new stint before the drop is done")
	}
	h.Dropped(1)
	if !h.Silent() {
		t.Error("the drop of another stint counts")
	}
	h.Dropped(2)
	if h.Silent() {
		t.Error("it stays silent")
	}
	// Acknowledgements of the former stint are nothing to the new one.
	h.Ack("c2", fleet.Stint{Host: "c1", Boot: "b", N: 1}, at(end), at(end))
	h.Ack("c3", fleet.Stint{Host: "c1", Boot: "b", N: 1}, at(end), at(end))
	if h.Leased(at(end)) {
		t.Error("the former stint's acknowledgements revive it")
	}
}

func TestARestartedAgentGoesOn(t *testing.T) {
	h := leased(t)
	h.Order(claim(3), at(0))
	m := h.Memory()
	again, deeds := NewHand("c1", "b", m, []string{"c1", "c2", "c3"}, room, at(room.Lease-ms))
	if len(deeds) != 0 || again.Stint() != h.Stint() || again.Memory().Held["address/a"] != 3 || again.Silent() {
		t.Errorf("within its lease: %+v, %+v", deeds, again.Memory())
	}
	short := room
	short.Lease = 100 * ms
	releasing := leased(t)
	releasing.Order(claim(3), at(0))
	releasing.Order(release(3), at(0))
	for name, start := range map[string]func() (*Hand, []Deed){
		"after its lease":        func() (*Hand, []Deed) { return NewHand("c1", "b", m, nil, room, at(room.Lease)) },
		"in another boot":        func() (*Hand, []Deed) { return NewHand("c1", "x", m, nil, room, at(ms)) },
		"with a shorter lease":   func() (*Hand, []Deed) { return NewHand("c1", "b", m, nil, short, at(ms)) },
		"in the midst of a word": func() (*Hand, []Deed) { return NewHand("c1", "b", releasing.Memory(), nil, room, at(ms)) },
	} {
		h, deeds := start()
		if len(deeds) != 1 || deeds[0].Do != DoDrop || len(h.Memory().Held) != 0 || !h.Silent() {
			t.Errorf("%s: %+v, %+v", name, deeds, h.Memory())
		}
	}
}

// TestMemoryIsACopy: what the agent writes to /run does not change under its pen.
func TestMemoryIsACopy(t *testing.T) {
	h := leased(t)
	h.Order(claim(3), at(0))
	m := h.Memory()
	h.Lost("address/a")
	if m.Held["address/a"] != 3 || m.GivenUp["address/a"] != 0 {
		t.Errorf("it changed: %+v", m)
	}
}

// HOLES 28: the beats go on and the hands that keep the guards open do not.
func TestAnAddressThatIsNotRenewedEndsTheStint(t *testing.T) {
	h := leased(t)
	if _, e := h.Order(claim(3), at(ms)); e != nil {
		t.Fatal(e.Why)
	}
	h.Kept(h.End())
	for d := 50 * ms; d < room.Lease; d += 50 * ms {
		if deeds := renew(h, d); len(deeds) != 1 || deeds[0].Do != DoRenew {
			t.Fatalf("at %v: %+v", d, deeds)
		}
	}
	deeds := h.Tick(at(room.Lease))
	if len(deeds) != 1 || deeds[0].Do != DoDrop || h.Stint().N != 2 || !h.Silent() {
		t.Errorf("the lease lives, nobody renews, and: %+v, stint %d", deeds, h.Stint().N)
	}
	h.Dropped(2)
	if h.Silent() {
		t.Error("it is silent although all is gone")
	}
}

// The first claim may ask for seconds who else answers; one that never comes to an
// end is not waited for.
func TestAFirstClaimHasItsTime(t *testing.T) {
	h := leased(t)
	h.Order(claim(3), at(ms))
	for d := 50 * ms; d < claimLasts; d += 50 * ms {
		renew(h, d)
		if deeds := h.Tick(at(d)); deeds != nil {
			t.Fatalf("at %v: %+v", d, deeds)
		}
	}
	renew(h, claimLasts)
	if deeds := h.Tick(at(claimLasts + ms)); len(deeds) != 1 || deeds[0].Do != DoDrop {
		t.Errorf("a claim that hangs is waited for for ever: %+v", deeds)
	}
}

// TestLetGoFromTheTop: what others stand on is stopped only when they have stopped.
func TestLetGoFromTheTop(t *testing.T) {
	spec := fleet.Spec{Services: []fleet.Service{{Name: "base"}, {Name: "top", With: []string{"service/base"}}}}
	h := leased(t)
	for _, name := range []string{"base", "top"} {
		h.Order(fleet.Order{Verb: fleet.VerbStart, Boot: "b", Stint: 1, Epoch: 5, Thing: "service/" + name, Generation: 2}, at(0))
	}
	for _, want := range []string{"service/top", "", "service/base", ""} {
		var got string
		for _, d := range h.LetGo(spec, "it shuts down") {
			got += d.Thing
		}
		if got != want {
			t.Errorf("it stops %q, want %q", got, want)
		}
		if got == "" && want == "" {
			h.Stopped("service/top", 2)
		}
	}
}

// TestDeparture: a host that shuts down takes nothing any more, and is free only when
// what it gave back is surely gone.
func TestDeparture(t *testing.T) {
	start := fleet.Order{Key: "start", Verb: fleet.VerbStart, Boot: "b", Stint: 1, Epoch: 5, Thing: "service/s", Generation: 7}
	h := leased(t)
	if refused(t, h, claim(3), ms) || refused(t, h, start, ms) {
		t.Fatal("nothing can be given to it")
	}
	h.Depart(true)
	if !refused(t, h, claim(4), ms) {
		t.Error("a host that shuts down takes an address")
	}
	start.Generation = 8
	if !refused(t, h, start, ms) {
		t.Error("a host that shuts down takes a service")
	}
	deeds := h.LetGo(fleet.Spec{}, "it shuts down")
	var did []string
	for _, d := range deeds {
		did = append(did, d.Do+" "+string(d.Order.Verb)+" "+d.Thing)
	}
	if diff := cmp.Diff([]string{"release  address/a", "perform stop service/s"}, did); diff != "" {
		t.Error(diff)
	}
	if refuse := h.Refuses(deeds[1].Order, at(ms)); refuse != "" {
		t.Errorf("its own stop is refused: %s", refuse)
	}
	if again := h.LetGo(fleet.Spec{}, "it shuts down"); len(again) > 0 {
		t.Errorf("what is being stopped is stopped once more: %v", again)
	}
	h.LetGoAgain("service/s")
	if again := h.LetGo(fleet.Spec{}, "it shuts down"); len(again) != 1 || again[0].Thing != "service/s" {
		t.Errorf("what could not be stopped is not tried again: %v", again)
	}
	if h.Free() {
		t.Error("it is free before anything is gone")
	}
	h.Released("address/a", 3)
	if h.Free() {
		t.Error("it is free before its service is stopped")
	}
	h.Stopped("service/s", 7)
	if m := h.Memory(); !h.Free() || m.GivenUp["address/a"] != 3 || m.GivenUp["service/s"] != 7 {
		t.Errorf("its word is %v, free %v", m.GivenUp, h.Free())
	}
	h.Depart(false)
	if refused(t, h, claim(4), ms) {
		t.Error("a shutdown that was called off keeps it from taking anything")
	}
}
