package fence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// maxDeadline is the longest that a driver may let one call take: Prove's order
// is on its way after three calls at most, and that must be well before Longest.
const maxDeadline = 8 * time.Second

// Apart is the least time between the two answers "off" that make a proof.
const Apart = time.Second

// again is the pause between two questions while an order takes effect.
const again = 200 * time.Millisecond

// companyLasts is how long the next beat of each other host is waited for: three of the slowest that
// a site may have, after which it counts as silent.
const companyLasts = 4 * time.Second

// settle is how long, in deadlines of one call, an acknowledged order may take
// until the device says off.
const settle = 2

// Target is the boot of a host that shall be proved dead.
type Target struct {
	Host string
	Boot string
	// UUID is the machine's, as the host reported it while healthy.
	UUID string
	// By is the host that asks, for the proof's By.
	By string
	// Beats returns a number that changes with every beat of that boot which
	// arrives here: a device that says off of a host that still beats is lying.
	// Nil means that nobody listens here (the leader then watches alone).
	Beats func() uint64
	// Others returns, by each other host that is heard well at this moment, a number
	// that changes with every beat of it. A device that knows no machine is believed
	// only as long as none of them falls silent in place of the one we mean; nil means
	// that nobody listens here, and then such a device proves nothing.
	Others func() map[string]uint64
	// Fallen names the other hosts that are silent and were not before the one we mean
	// was: an earlier try may have switched one of them off in its place. A device that
	// knows no machine is then not used. Nil means that there are none.
	Fallen func() []string
	// Still is asked right before each off is sent: an error says why the order holds
	// no more, and then nothing is sent. A process that was frozen meanwhile would find
	// a healthy host. Nil means that it always holds.
	Still func() error
}

// Longest bounds Prove with any driver: the intent that is recorded before a
// fence lasts at least so long, and whoever leads next waits it out.
const Longest = 30 * time.Second

// Latest is how long after its order an off may be sent at the latest, on a clock that
// counts suspend: after three calls, and well before Longest.
const Latest = 3 * maxDeadline

// Lasts bounds Prove with this driver: after that no call of it is under way.
// It is known before the deed and never more than Longest. (What a device has
// accepted and carries out later still, nothing can bound; that is why a host is
// barred until its new boot is admitted.)
func Lasts(d Driver) time.Duration {
	// identity, off, off once more, settling, the last question of settling,
	// identity and state again, and the others' next beats
	return min((6+settle)*d.Deadline()+Apart+2*again+companyLasts, Longest)
}

// Prove powers the host off and proves that boot dead, by rule 7 of
// docs/DESIGN.md section 3. It blocks until it knows, at most Lasts(d).
//
// A nil error is the only proof. Otherwise OutcomeOf tells whether the device
// refused, nothing was done, or nobody knows; the host may be off in each case.
func Prove(ctx context.Context, d Driver, want Target) (fleet.Proof, error) {
	ctx, cancel := context.WithTimeout(ctx, Lasts(d))
	defer cancel()
	fail := func(err error) (fleet.Proof, error) {
		return fleet.Proof{}, fmt.Errorf("prove %s off: %w", want.Host, err)
	}

	err := same(ctx, d, want)
	blind := errors.Is(err, ErrNoIdentity)
	if blind && want.Others == nil {
		return fail(&Error{fleet.Refused, d.Device(), "watch the other hosts", fmt.Errorf("%w, and %s hears no other host: a voter must fence with it", ErrNoIdentity, want.By)})
	}
	if err != nil && !blind {
		return fail(err)
	}
	var well map[string]uint64
	if blind {
		if fallen := want.fallen(); len(fallen) > 0 {
			return fail(&Error{fleet.Broken, d.Device(), "watch the other hosts", fmt.Errorf("%w, and fell silent since %s did: %s. Is one of them the machine on that plug?",
				ErrNoIdentity, want.Host, strings.Join(fallen, ", "))})
		}
		well = want.Others()
	}
	if err := order(ctx, d, want); err != nil {
		return fail(err)
	}
	ordered := time.Now()
	if err := until(ctx, d); err != nil {
		return fail(err)
	}
	first := time.Now()
	before := want.beats()
	var since map[string]uint64
	if blind {
		// Until then what was sent before the off has arrived. From then on whoever beats has power.
		if err := pause(ctx, d, again); err != nil {
			return fail(err)
		}
		since = want.Others()
	}
	if err := pause(ctx, d, Apart); err != nil {
		return fail(err)
	}
	asked := time.Now()
	state, err := d.State(ctx)
	if err != nil {
		return fail(err)
	}
	if state != Off {
		return fail(&Error{fleet.Broken, d.Device(), "ask a second time", fmt.Errorf("it said off, and %s later %q", asked.Sub(first), state)})
	}
	// The machine is compared again: a cable may have been swapped meanwhile,
	// and the two answers would then be of two machines.
	machine := "UUID " + want.UUID
	if err := same(ctx, d, want); err != nil && !(blind && errors.Is(err, ErrNoIdentity)) {
		return fail(err)
	}
	if blind {
		if err := company(ctx, d, well, since, want.Others); err != nil {
			return fail(err)
		}
		machine = "which knows no machine while no other host fell silent (" + strings.Join(fleet.Sorted(well), ", ") + ")"
	}
	if want.beats() != before {
		return fail(voice(d))
	}
	return fleet.Proof{
		Host: want.Host, Boot: want.Boot, Kind: "fence", By: want.By, At: time.Now(),
		Evidence: fmt.Sprintf("%s, %s, was ordered off at %s and said off at %s and again at %s",
			d.Device(), machine, stamp(ordered), stamp(first), stamp(asked)),
	}, nil
}

// Confirm asks once more whether the host of a proof is off, and whether the
// device is still the same machine's. It returns the proof with the new answer
// in its evidence; an error means that nothing may rest on the proof now.
func Confirm(ctx context.Context, d Driver, want Target, proof fleet.Proof) (fleet.Proof, error) {
	fail := func(err error) (fleet.Proof, error) {
		return fleet.Proof{}, fmt.Errorf("confirm %s off: %w", want.Host, err)
	}
	if proof.Kind != "fence" || proof.Host != want.Host || proof.Boot != want.Boot {
		return fail(&Error{fleet.Refused, d.Device(), "read the proof", fmt.Errorf("it is of kind %q and about boot %s of %s, not a fence of boot %s",
			proof.Kind, proof.Boot, proof.Host, want.Boot)})
	}
	ctx, cancel := context.WithTimeout(ctx, 2*d.Deadline())
	defer cancel()
	before := want.beats()
	if err := same(ctx, d, want); err != nil && !errors.Is(err, ErrNoIdentity) {
		return fail(err)
	}
	switch state, err := d.State(ctx); {
	case err != nil:
		return fail(err)
	case state != Off:
		return fail(&Error{fleet.Broken, d.Device(), "ask once more", fmt.Errorf("it says %q: somebody or something turned the host on again", state)})
	}
	if want.beats() != before {
		return fail(voice(d))
	}
	const mark = ", and when asked once more at "
	proof.Evidence, _, _ = strings.Cut(proof.Evidence, mark)
	proof.Evidence += mark + stamp(time.Now())
	return proof, nil
}

// PowerOn orders the host's power on, after comparing the machine: turning on a
// stranger could bring back one that was proved off. An answer that was lost is
// asked for once more.
func PowerOn(ctx context.Context, d Driver, want Target) error {
	fail := func(err error) error { return fmt.Errorf("power %s on: %w", want.Host, err) }
	ctx, cancel := context.WithTimeout(ctx, 3*d.Deadline())
	defer cancel()
	if err := same(ctx, d, want); err != nil && !errors.Is(err, ErrNoIdentity) {
		return fail(err)
	}
	err := d.On(ctx)
	if OutcomeOf(err) == fleet.NoWord && ctx.Err() == nil {
		err = d.On(ctx)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// order sends the off, and once more if the answer to the first was lost: the
// device must acknowledge one, else what it says afterwards is not an answer to
// our order.
func order(ctx context.Context, d Driver, want Target) error {
	if void := want.still(ctx); void != nil {
		return &Error{fleet.Refused, d.Device(), "order it off", void}
	}
	err := d.Off(ctx)
	if OutcomeOf(err) == fleet.NoWord && want.still(ctx) == nil {
		err = d.Off(ctx)
	}
	return err
}

func (t Target) still(ctx context.Context) error {
	if ctx.Err() != nil || t.Still == nil {
		return ctx.Err()
	}
	return t.Still()
}

// until asks until the device says off. A lost answer, a state in between and
// "on" mean asking again, while there is time; a refusal ends it.
func until(ctx context.Context, d Driver) error {
	span := settle * d.Deadline()
	for end := time.Now().Add(span); ; {
		state, err := d.State(ctx)
		switch {
		case err == nil && state == Off:
			return nil
		case OutcomeOf(err) == fleet.Refused:
			return err
		case err == nil:
			// It acknowledged and may yet obey, so this is not a failure.
			err = &Error{fleet.NoWord, d.Device(), "wait for off", fmt.Errorf("%s after it acknowledged the order it still says %q", span, state)}
		}
		if time.Now().After(end) || pause(ctx, d, again) != nil {
			return err
		}
	}
}

// same compares the device's machine with the one we mean. Its error ErrNoIdentity is
// for its caller to judge.
func same(ctx context.Context, d Driver, want Target) error {
	const doing = "compare the UUID"
	text, err := d.Identity(ctx)
	if err != nil && (text == "" || !errors.Is(err, ErrNoIdentity)) {
		return err
	}
	mine, ok := parseUUID(want.UUID)
	if !ok {
		return &Error{fleet.Refused, d.Device(), doing, fmt.Errorf("%w: %s never reported a usable UUID (%q)", ErrIdentity, want.Host, want.UUID)}
	}
	theirs, ok := parseUUID(text)
	switch {
	case !ok:
		return &Error{fleet.Refused, d.Device(), doing, fmt.Errorf("%w: the device states no usable UUID (%q)", ErrIdentity, text)}
	case !slices.Contains([][16]byte{mine, swapped(mine), reversed(mine), reversed(swapped(mine))}, theirs):
		return &Error{fleet.Refused, d.Device(), doing, fmt.Errorf("%w: the device holds machine %s, and %s is machine %s: is its cable in another chassis?",
			ErrIdentity, text, want.Host, want.UUID)}
	}
	return err
}

// company waits until each host that was heard well before the order has beaten since the device said
// off: a device that switched off another machine than we mean has silenced one of them. That a beat
// has come since the order is not enough, for it may have been sent before the off took effect.
func company(ctx context.Context, d Driver, well, since map[string]uint64, others func() map[string]uint64) error {
	ctx, cancel := context.WithTimeout(ctx, companyLasts)
	defer cancel()
	for {
		now, missing := others(), ""
		for _, host := range fleet.Sorted(well) {
			n, heard := now[host]
			if !heard || ctx.Err() != nil && n == since[host] {
				return &Error{fleet.NoWord, d.Device(), "watch the other hosts",
					fmt.Errorf("%s was heard well before the order and has fallen silent since: is it the machine on that plug?", host)}
			}
			if n == since[host] {
				missing = host
			}
		}
		if missing == "" {
			return nil
		}
		_ = pause(ctx, d, again) // cut short, it is looked at once more
	}
}

// voice is the error for a host that beats after its device said off. It is not
// a refusal: a single beat may have been long on its way.
func voice(d Driver) error {
	return &Error{fleet.NoWord, d.Device(), "listen to the host",
		errors.New("the device says off, but the host still beats: it is another host's device, or it lies")}
}

func (t Target) fallen() []string {
	if t.Fallen == nil {
		return nil
	}
	return t.Fallen()
}

func (t Target) beats() uint64 {
	if t.Beats == nil {
		return 0
	}
	return t.Beats()
}

// pause waits for at least span; cut short, it says that nothing is known.
func pause(ctx context.Context, d Driver, span time.Duration) error {
	t := time.NewTimer(span)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return &Error{fleet.NoWord, d.Device(), "wait", ctx.Err()}
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
