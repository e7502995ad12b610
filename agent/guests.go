package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
	"mainstay/probe/guests"
)

// Hypervisor tells which machines are on this host.
type Hypervisor interface {
	// Look says how each is; its errors are guests.ErrNone, and ErrUnknown when it did not
	// answer in time.
	Look(ctx context.Context) (map[string]guests.Machine, error)
	// Ask asks the guest agents of some, beside it; whose word is not known is not in the answer.
	Ask(ctx context.Context, ids []string) (map[string]guests.Word, error)
	// Changed yields when it is worth looking at once.
	Changed() <-chan struct{}
}

// How often the hypervisor is asked: while all is as it should be, and while something is to
// be seen twice; how long the disks' directory may take; how often without an answer is told.
const (
	guestsEvery = 5 * time.Second
	guestsSoon  = time.Second
	disksWithin = 10 * time.Second
	mutesTold   = 2
	// settled is how long nova-compute must have worked until who begins to run is nothing that the boot brought along.
	settled = time.Minute
)

// watchGuests keeps what this host says of its machines.
func (a *Agent) watchGuests(ctx context.Context) {
	w := guestWatch{disks: a.cfg.Disks, wall: a.cfg.Wall}
	for {
		states, err := a.cfg.Hypervisor.Look(ctx)
		if ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		worked := false
		for _, v := range a.spec.Services {
			worked = worked || v.Kind == "compute" && a.services[v.Name].Ready
		}
		now := w.see(states, err, worked)
		if err == nil {
			a.awake = map[string]int32{}
			for id, m := range states {
				if m.State == guests.Runs && m.Awake {
					a.awake[id] = m.Life
				}
			}
			a.hearts.keep(states)
		}
		a.machines = now
		now = a.hearts.word(now, a.cfg.Now())
		news := !now.Equal(a.guests)
		a.guests = now
		a.mu.Unlock()
		if news {
			a.poke(a.tell)
		}
		wait := guestsEvery
		if w.soon() {
			wait = guestsSoon
		}
		select {
		case <-ctx.Done():
			return
		case <-a.cfg.Hypervisor.Changed():
		case <-time.After(wait):
		}
	}
}

// guestWatch is what is remembered from one look to the next.
type guestWatch struct {
	disks   string
	wall    func() time.Time
	said    fleet.Guests
	once    map[string]time.Time // crashed, and seen so once
	mute    int                  // how often in a row there was no answer
	working time.Time            // since when nova-compute works; zero: it does not, or is settled
	settled bool
	asked   chan string // the question about the disks that is under way
	since   time.Time
}

// soon says whether something waits for a second look.
func (w *guestWatch) soon() bool { return len(w.once) > 0 || w.mute > 0 && w.mute < mutesTold }

// see takes one look in, and returns what is to be said.
func (w *guestWatch) see(states map[string]guests.Machine, err error, worked bool) fleet.Guests {
	next := w.said
	now := w.wall().Round(0)
	switch {
	case errors.Is(err, guests.ErrNone) && !next.Asked:
		return next // a hypervisor of another sort
	case err != nil:
		if w.mute++; w.mute >= mutesTold {
			next.Unknown = cutText(err)
			if w.said.Unknown != "" {
				next.Unknown = w.said.Unknown // the first words: a report changes only when something does
			}
		}
	default:
		w.mute, next.Unknown, next.Asked, next.Running = 0, "", true, 0
		crashed, once, brought := map[string]time.Time{}, map[string]time.Time{}, []string{}
		for id, m := range states {
			switch m.State {
			case guests.Runs:
				next.Running++
				brought = append(brought, id)
			case guests.Crashed:
				first, seen := w.once[id]
				told, known := w.said.Crashed[id]
				switch {
				case known:
					crashed[id] = told
				case seen:
					crashed[id] = first
				default:
					once[id] = now
				}
			}
		}
		next.Crashed, w.once, next.Brought = nil, once, nil
		next.Listed, next.Machines = true, slices.Sorted(maps.Keys(states))
		if len(crashed) > 0 {
			next.Crashed = crashed
		}
		slices.Sort(brought)
		if w.settled { // what nova-compute did not end by now nobody will, until a person does
			brought = slices.DeleteFunc(brought, func(id string) bool { return !slices.Contains(w.said.Brought, id) })
		}
		if len(brought) > 0 {
			next.Brought = brought
		}
	}
	switch {
	case w.settled:
	case !worked:
		w.working = time.Time{}
	case w.working.IsZero():
		w.working = now
	case now.Sub(w.working) >= settled:
		w.settled = true
	}
	next.Disks = w.lookAtDisks(next.Disks, now)
	w.said = next
	w.said.Crashed = maps.Clone(next.Crashed)
	return next
}

// lookAtDisks asks the kernel about the disks' directory. A mount that hangs holds up whoever
// asks, so it is asked apart, and only one question is ever under way.
func (w *guestWatch) lookAtDisks(before string, now time.Time) string {
	if w.disks == "" {
		return ""
	}
	if w.asked == nil {
		w.asked, w.since = make(chan string, 1), now
		go func(asked chan string, path string) { asked <- diskState(path) }(w.asked, w.disks)
	}
	select {
	case said := <-w.asked:
		w.asked = nil
		return said
	default:
	}
	if now.Sub(w.since) >= disksWithin {
		return w.disks + " does not answer"
	}
	return before
}

// diskState says what is wrong with a directory. Nothing is written there: it may be shared with
// other hosts, and root may be nobody on it.
func diskState(path string) string {
	var st unix.Statfs_t
	switch err := unix.Statfs(path, &st); {
	case errors.Is(err, unix.ENOENT):
		return "" // no nova-compute has made it yet
	case err != nil:
		return fmt.Sprintf("%s: %v", path, err)
	case st.Flags&unix.ST_RDONLY != 0:
		return path + " is read-only"
	}
	return ""
}

// cutText is what an error says, on one line.
func cutText(err error) string {
	text := err.Error()
	return text[:min(len(text), 200)]
}
