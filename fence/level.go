package fence

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"mainstay/fleet"
)

// OpenLevel returns one driver for all devices of a level: the host is off when every
// one of them says so, as with both plugs of a host that has two feeds. Its error joins
// those of its devices.
func OpenLevel(l fleet.Level) (Driver, error) {
	var all together
	var errs []error
	for _, f := range l {
		d, err := Open(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, d)
	}
	if err := errors.Join(errs...); err != nil {
		all.Close()
		return nil, err
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return all, nil
}

// together asks all its devices at once.
type together []Driver

func (t together) Device() string {
	var names []string
	for _, d := range t {
		names = append(names, d.Device())
	}
	return strings.Join(names, " and ")
}

func (t together) Deadline() (longest time.Duration) {
	for _, d := range t {
		longest = max(longest, d.Deadline())
	}
	return longest
}

func (t together) Warnings() (out []string) {
	for _, d := range t {
		out = append(out, d.Warnings()...)
	}
	return out
}

func (t together) Close() {
	for _, d := range t {
		d.Close()
	}
}

// each asks all devices at once and joins their errors under one outcome. What one of
// them may have done, nobody knows of the level; a question that is refused by one is
// refused, an order only if no other device may have followed it.
func (t together) each(order bool, ask func(i int, d Driver) error) error {
	errs := make([]error, len(t))
	var wait sync.WaitGroup
	for i, d := range t {
		wait.Go(func() { errs[i] = ask(i, d) })
	}
	wait.Wait()
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	met := map[fleet.Outcome]bool{}
	for _, e := range errs {
		met[OutcomeOf(e)] = true
	}
	outcome := fleet.Broken
	switch {
	case order && (met[fleet.NoWord] || met[fleet.Done]):
		outcome = fleet.NoWord
	case met[fleet.Refused]:
		outcome = fleet.Refused
	case met[fleet.NoWord]:
		outcome = fleet.NoWord
	}
	return &Error{Outcome: outcome, Device: t.Device(), Doing: "ask all of them", Err: err}
}

// Identity is that of the devices which know a machine, if they agree. With one that
// knows none the error is ErrNoIdentity, and what the others know is returned with it.
func (t together) Identity(ctx context.Context) (string, error) {
	ids, mute := make([]string, len(t)), false
	var mu sync.Mutex
	err := t.each(false, func(i int, d Driver) (err error) {
		ids[i], err = d.Identity(ctx)
		if errors.Is(err, ErrNoIdentity) {
			mu.Lock()
			defer mu.Unlock()
			mute = true
			return nil
		}
		return err
	})
	if err != nil {
		return "", err
	}
	known := ""
	for _, id := range ids {
		if known != "" && id != "" && !strings.EqualFold(known, id) {
			return "", &Error{fleet.Refused, t.Device(), "compare the UUID", ErrIdentity}
		}
		known = max(known, id)
	}
	if mute {
		err = &Error{fleet.Refused, t.Device(), "ask for its UUID", ErrNoIdentity}
	}
	return known, err
}

// State is Off only when every device says so, and On when one does.
func (t together) State(ctx context.Context) (Power, error) {
	states := make([]Power, len(t))
	err := t.each(false, func(i int, d Driver) (err error) {
		states[i], err = d.State(ctx)
		return err
	})
	out := Off
	for _, s := range states {
		if s == On {
			return On, nil
		}
		if s != Off {
			out = Unknown
		}
	}
	return out, err
}

func (t together) Off(ctx context.Context) error {
	return t.each(true, func(_ int, d Driver) error { return d.Off(ctx) })
}

func (t together) On(ctx context.Context) error {
	return t.each(true, func(_ int, d Driver) error { return d.On(ctx) })
}
