package plan

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// Memory is what an agent must not forget while its host is up: it lives in
// /run, so that a restarted agent goes on and a rebooted host starts afresh.
type Memory struct {
	Boot  string       `json:"boot"`
	Stint uint64       `json:"stint"`
	End   fleet.Moment `json:"end"` // of the lease, as last renewed
	Epoch uint64       `json:"epoch"`
	// Seen and GivenUp are, by thing, the highest generation claimed and the
	// highest given back.
	Seen    map[string]uint64 `json:"seen,omitempty"`
	GivenUp map[string]uint64 `json:"given_up,omitempty"`
	// Refused is, by thing, the highest generation that a release forbade: it is
	// refused from the order on, but the word that it was given back (GivenUp) is
	// told only when the release has been carried out.
	Refused map[string]uint64 `json:"refused,omitempty"`
	// Held are the addresses that this stint speaks for, with their generation.
	Held map[string]uint64 `json:"held,omitempty"`
	// Running are the active/passive services that run under a recorded generation,
	// and those in mode promoted that are promoted under one; unlike addresses they
	// outlive a stint.
	Running map[string]uint64 `json:"running,omitempty"`
}

// Deed is one thing that the agent must now do with its own hands.
type Deed struct {
	Do    string `json:"do"` // one of the deeds below
	Thing string `json:"thing,omitempty"`
	// Generation under which it is done; of drop, the number of the new stint.
	Generation uint64       `json:"generation,omitempty"`
	Until      fleet.Moment `json:"until,omitempty"` // of claim and renew
	Why        string       `json:"why,omitempty"`
	Order      fleet.Order  `json:"order,omitzero"` // of perform
}

// Apart says whether a deed has nothing to do with this host's addresses and must not
// wait behind them: an order to a power switch that is carried out minutes later, when
// a loop that hung goes on, would find a healthy host.
func (d Deed) Apart() bool {
	switch d.Order.Verb {
	case fleet.VerbFence, fleet.VerbConfirm, fleet.VerbPowerOn, fleet.VerbCloud:
		return d.Do == DoPerform
	}
	return false
}

// The deeds.
const (
	DoClaim   = "claim"   // add the address, open its guard until Until
	DoRenew   = "renew"   // keep every held address's guard open until Until
	DoRelease = "release" // shut the guard, remove the address, then call Released
	DoDrop    = "drop"    // remove every address at once: the stint is over; then call Dropped
	DoPerform = "perform" // carry out an order that needs no lease arithmetic
)

// Hand decides an agent's next step. It is driven by its caller, who tells it
// what arrived and what time it is, and carries out the Deeds it returns, in
// their order.
type Hand struct {
	host   string
	timing fleet.Timing
	ears   []string
	holder *lease.Holder
	memory Memory
	// dropping: what the former stint spoke for is not known to be gone.
	dropping bool
	// kept is until when the kernel lets this host speak, as its own hands last said.
	kept fleet.Moment
	// departing: the host shuts down and takes nothing any more.
	departing bool
	watchdog  time.Duration // see Arm
	// lettingGo are the services that LetGo has begun to stop.
	lettingGo map[string]uint64
}

// claimLasts bounds the first claim of a host that spoke for nothing: asking who else
// answers, at most fleet.CoarseLate, and the deed.
const claimLasts = 5 * time.Second

// NewHand returns the hand of a host. memory is what a former process of this
// boot left behind, or nothing. Whether its stint goes on is decided by the
// clock: a lease that has ended meanwhile starts a new stint, and the returned
// Deeds say what must be dropped.
func NewHand(host, boot string, memory Memory, ears []string, timing fleet.Timing, now fleet.Moment) (*Hand, []Deed) {
	h := &Hand{host: host, timing: timing, ears: ears}
	if memory.Boot != boot {
		memory = Memory{Boot: boot}
	}
	h.memory = memory
	// An end further away than this lease is long is of a time when it was longer.
	// A release that was under way may or may not have happened, and its word is
	// still owed: a drop makes it true.
	sound := !memory.End.After(now.Add(timing.Lease))
	for _, thing := range fleet.Sorted(memory.Refused) {
		sound = sound && memory.Refused[thing] <= memory.GivenUp[thing]
	}
	if memory.Stint != 0 && now.Before(memory.End) && sound {
		h.holder = lease.Resume(h.Stint(), ears, timing.Lease, memory.End)
		h.kept = now.Add(claimLasts)
		return h, nil
	}
	return h, h.begin("the agent starts")
}

// Stint is the present stint.
func (h *Hand) Stint() fleet.Stint {
	return fleet.Stint{Host: h.host, Boot: h.memory.Boot, N: h.memory.Stint}
}

// Memory returns what must be kept in /run; it shares no map with the hand.
func (h *Hand) Memory() Memory {
	m := h.memory
	m.Seen, m.GivenUp, m.Held, m.Running, m.Refused = maps.Clone(m.Seen), maps.Clone(m.GivenUp), maps.Clone(m.Held), maps.Clone(m.Running), maps.Clone(m.Refused)
	m.End = h.holder.End()
	return m
}

// Held returns the generation under which this stint holds an address; 0 if it does not.
func (h *Hand) Held(thing string) uint64 { return h.memory.Held[thing] }

// Leased says whether the lease lives.
func (h *Hand) Leased(now fleet.Moment) bool { return h.holder.Alive(now) }

// End is when the lease ends unless renewed.
func (h *Hand) End() fleet.Moment { return h.holder.End() }

// SetEars changes the list of voters.
func (h *Hand) SetEars(ears []string) {
	h.ears = ears
	h.holder.SetEars(ears)
}

// begin starts a new stint with nothing.
func (h *Hand) begin(why string) []Deed {
	h.memory.Stint++
	h.memory.Held = nil
	h.holder = lease.NewHolder(h.Stint(), h.ears, h.timing.Lease)
	h.dropping = true
	return []Deed{{Do: DoDrop, Generation: h.memory.Stint, Why: why}}
}

// Silent says that the host must not beat yet. A beat of a new stint tells the
// whole site that the former one holds nothing any more, so it may leave only
// when the drop is done: the agent can be frozen between the two, and a coarse
// guard lets the address speak on for seconds.
func (h *Hand) Silent() bool { return h.dropping && fleet.Armed(fleet.GuardStint) }

// Dropped notes that the drop that began stint n is done.
func (h *Hand) Dropped(n uint64) {
	if n == h.memory.Stint {
		h.dropping = false
	}
}

// Tick must be called at each beat and whenever the lease's end may have
// passed: a lease that has ended ends its stint for good, and so does one whose
// addresses the host's own hands no longer keep (HOLES 28).
func (h *Hand) Tick(now fleet.Moment) []Deed {
	switch {
	case !fleet.Armed(fleet.GuardStint):
		return nil
	case h.holder.Over(now):
		return h.begin("no majority of ears acknowledged in time")
	case len(h.memory.Held) > 0 && !now.Before(h.kept):
		// The beats go on, but the hands that keep the guards open do not: the kernel
		// has shut them, and a lease that nobody speaks under must not be kept.
		return h.begin("its own addresses were not renewed in time")
	}
	return nil
}

// Kept notes that a claim or a renewal until then has been carried out.
func (h *Hand) Kept(until fleet.Moment) { h.kept = until }

// Ack takes an acknowledgement of a beat of the given stint. The clock was read
// before: an acknowledgement that comes after the end revives nothing.
func (h *Hand) Ack(ear string, stint fleet.Stint, sent, now fleet.Moment) []Deed {
	if deeds := h.Tick(now); deeds != nil {
		return deeds
	}
	if stint != h.Stint() || !h.holder.Ack(ear, sent, now) {
		return nil
	}
	if len(h.memory.Held) == 0 {
		return nil
	}
	return []Deed{{Do: DoRenew, Until: h.holder.End()}}
}

// Order decides whether to follow an order. A refusal is in the effect; no
// effect means that the deeds will bring one.
func (h *Hand) Order(o fleet.Order, now fleet.Moment) ([]Deed, *fleet.Effect) {
	deeds := h.Tick(now)
	if why := h.refuse(o, now); why != "" {
		return deeds, &fleet.Effect{Key: o.Key, From: h.host, Outcome: fleet.Refused, Why: why}
	}
	h.memory.Epoch = max(h.memory.Epoch, o.Epoch)
	switch o.Verb {
	case fleet.VerbClaim:
		if len(h.memory.Held) == 0 {
			h.kept = now.Add(claimLasts)
		}
		put(&h.memory.Seen, o.Thing, o.Generation)
		put(&h.memory.Held, o.Thing, o.Generation)
		return append(deeds, Deed{Do: DoClaim, Thing: o.Thing, Generation: o.Generation, Until: h.holder.End(), Order: o}), nil
	case fleet.VerbRelease:
		// Refused from now on, were the claim of the same generation still on its
		// way (HOLES 12). The word is given by Released, when it is true.
		put(&h.memory.Refused, o.Thing, max(o.Generation, h.memory.Refused[o.Thing]))
		delete(h.memory.Held, o.Thing)
		return append(deeds, Deed{Do: DoRelease, Thing: o.Thing, Generation: o.Generation, Order: o}), nil
	case fleet.VerbStart, fleet.VerbRestart, fleet.VerbPromote:
		if o.Generation > 0 {
			put(&h.memory.Seen, o.Thing, o.Generation)
			put(&h.memory.Running, o.Thing, o.Generation)
		}
	}
	return append(deeds, Deed{Do: DoPerform, Thing: o.Thing, Generation: o.Generation, Order: o}), nil
}

// Depart says that the host is shutting down, or no longer: meanwhile it refuses
// whatever would give it something.
func (h *Hand) Depart(on bool) { h.departing = on }

// LetGo is what a host does with what it still has when its shutdown waits no more:
// it stops what it runs alone and gives every address back, so that others may have
// them by its word. It is asked again until the host is Free: what others stand on is
// stopped only when they have stopped.
func (h *Hand) LetGo(spec fleet.Spec, why string) []Deed {
	var deeds []Deed
	for _, thing := range fleet.Sorted(h.memory.Held) {
		g := h.memory.Held[thing]
		put(&h.memory.Refused, thing, max(g, h.memory.Refused[thing]))
		deeds = append(deeds, Deed{Do: DoRelease, Thing: thing, Generation: g, Why: why})
	}
	h.memory.Held = nil
	for _, thing := range fleet.Sorted(h.memory.Running) {
		g := h.memory.Running[thing]
		if h.lettingGo[thing] == g || h.carries(spec, thing) {
			continue
		}
		put(&h.lettingGo, thing, g)
		deeds = append(deeds, Deed{Do: DoPerform, Thing: thing, Generation: g, Why: why, Order: fleet.Order{
			Key: fmt.Sprintf("let-go/%s/%d", thing, g), Verb: fleet.VerbStop, To: h.host, Boot: h.memory.Boot, Stint: h.memory.Stint,
			Epoch: h.memory.Epoch, Thing: thing, Generation: g, Why: why,
		}})
	}
	return deeds
}

// LetGoAgain lets LetGo try once more what came to nothing: it was refused for what stands
// on it and was not known to have stopped yet, say.
func (h *Hand) LetGoAgain(thing string) { delete(h.lettingGo, thing) }

// carries says whether a service that stands on thing still runs here.
func (h *Hand) carries(spec fleet.Spec, thing string) bool {
	for i := range spec.Services {
		if _, runs := h.memory.Running[spec.Services[i].Thing()]; runs && slices.Contains(spec.Services[i].With, thing) {
			return true
		}
	}
	return false
}

// Free says whether this host has nothing any more that only one may have, and all
// that it gave back is surely gone here.
func (h *Hand) Free() bool {
	for _, thing := range fleet.Sorted(h.memory.Refused) {
		if h.memory.Refused[thing] > h.memory.GivenUp[thing] {
			return false
		}
	}
	return len(h.memory.Held) == 0 && len(h.memory.Running) == 0 && !h.dropping
}

// Released notes that a release has been carried out: the address is surely
// silent here under that generation, and the word may be given.
func (h *Hand) Released(thing string, generation uint64) { h.giveUp(thing, generation) }

// Stopped notes that an active/passive service surely runs here no more, or that one
// in mode promoted surely is not promoted: only
// now is the generation given up, because that word frees it for others.
func (h *Hand) Stopped(thing string, generation uint64) {
	h.giveUp(thing, generation)
	delete(h.memory.Running, thing)
}

// Lost notes that an address is no longer on this host although nobody ordered
// it (removed by hand, link down): the generation is given up.
func (h *Hand) Lost(thing string) {
	if g, ok := h.memory.Held[thing]; ok {
		h.giveUp(thing, g)
		delete(h.memory.Held, thing)
	}
}

// Spent notes that a right to begin a cluster is used up, or given back unused.
func (h *Hand) Spent(thing string, generation uint64) { h.giveUp(thing, generation) }

func (h *Hand) giveUp(thing string, generation uint64) {
	put(&h.memory.GivenUp, thing, max(generation, h.memory.GivenUp[thing]))
}

// Refuses says why an order that was accepted must not be carried out after all;
// "" if it may. An agent that does one deed after another asks again right before
// a start: a stop that came first may have given the generation up meanwhile.
func (h *Hand) Refuses(o fleet.Order, now fleet.Moment) string { return h.refuse(o, now) }

// refuse says why an order must not be followed; "" if it may.
func (h *Hand) refuse(o fleet.Order, now fleet.Moment) string {
	if o.Epoch < h.memory.Epoch {
		return fmt.Sprintf("epoch %d is over, %d has begun", o.Epoch, h.memory.Epoch)
	}
	if o.Boot != "" && o.Boot != h.memory.Boot {
		return fmt.Sprintf("meant for boot %s, this is %s", o.Boot, h.memory.Boot)
	}
	takes := o.Verb == fleet.VerbClaim || o.Verb == VerbBootstrap || o.Generation > 0 && (o.Verb == fleet.VerbStart || o.Verb == fleet.VerbRestart || o.Verb == fleet.VerbPromote)
	if !takes {
		gives := o.Generation > 0 && (o.Verb == fleet.VerbRelease || o.Verb == fleet.VerbStop || o.Verb == fleet.VerbDemote)
		if g := h.memory.Seen[o.Thing]; gives && o.Generation < g {
			return fmt.Sprintf("generation %d of %s has been seen", g, o.Thing)
		}
		return ""
	}
	if h.departing {
		return "this host is shutting down"
	}
	if why := h.surety(o); why != "" {
		return why
	}
	if o.Stint != h.memory.Stint && fleet.Armed(fleet.GuardStint) {
		return fmt.Sprintf("meant for stint %d, this is %d", o.Stint, h.memory.Stint)
	}
	if !h.holder.Alive(now) && fleet.Armed(fleet.GuardStint) {
		return "no majority of ears acknowledges this host at present"
	}
	if g := max(h.memory.GivenUp[o.Thing], h.memory.Refused[o.Thing]); o.Generation <= g {
		return fmt.Sprintf("generation %d of %s was given up", g, o.Thing)
	}
	if g := h.memory.Seen[o.Thing]; o.Generation < g {
		return fmt.Sprintf("generation %d of %s has been seen", g, o.Thing)
	}
	return ""
}

func put(m *map[string]uint64, key string, value uint64) {
	if *m == nil {
		*m = map[string]uint64{}
	}
	(*m)[key] = value
}
