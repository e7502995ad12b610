package agent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"mainstay/probe/guests"
)

// TestGuestsAreSeenTwice: one look is not enough to call a guest crashed, nor one question
// without an answer to call libvirt unknown; what was known then stays.
func TestGuestsAreSeenTwice(t *testing.T) {
	now := time.Unix(1000, 0)
	w := guestWatch{wall: func() time.Time { return now }}
	is := func(what string, ok bool) {
		t.Helper()
		if !ok {
			t.Errorf("%s: %+v", what, w.said)
		}
	}
	look := func(all map[string]guests.State, err error, worked bool) {
		now = now.Add(time.Second)
		states := map[string]guests.Machine{}
		for id, s := range all {
			states[id] = guests.Machine{State: s}
		}
		w.see(states, err, worked)
	}
	look(nil, guests.ErrNone, false)
	is("no libvirt: nothing is said", !w.said.Asked && w.said.Unknown == "")
	well := map[string]guests.State{"a": guests.Runs, "b": guests.Runs, "c": guests.Ended}
	look(well, nil, false)
	is("two run, and are what it brought", w.said.Running == 2 && len(w.said.Brought) == 2 && len(w.said.Crashed) == 0)
	is("all three are there", w.said.Listed && slices.Equal(w.said.Machines, []string{"a", "b", "c"}))
	one := map[string]guests.State{"a": guests.Crashed, "b": guests.Runs}
	look(one, nil, false)
	is("crashed, seen once", len(w.said.Crashed) == 0 && w.soon())
	first := now
	look(one, nil, false)
	is("seen twice, since the first", w.said.Crashed["a"].Equal(first) && !w.soon())
	unknown := fmt.Errorf("%w within 5s", guests.ErrUnknown)
	look(nil, unknown, false)
	is("no answer once", w.said.Unknown == "" && w.soon())
	look(nil, unknown, false)
	is("no answer twice, and what was known stays", w.said.Unknown != "" && w.said.Crashed["a"].Equal(first) && w.said.Running == 1)
	look(one, nil, false)
	is("it answers: the same crash", w.said.Unknown == "" && w.said.Crashed["a"].Equal(first))
	look(well, nil, true)
	is("it runs again", len(w.said.Crashed) == 0 && len(w.said.Brought) == 2)
	look(one, nil, true)
	look(one, nil, true)
	is("another crash has another name", w.said.Crashed["a"].After(first))
	now = now.Add(settled)
	look(well, nil, true)
	look(well, nil, true)
	is("nova-compute has worked for a minute: what it left of what the boot brought is told on", w.said.Running == 2 && slices.Equal(w.said.Brought, []string{"a", "b"}))
	look(map[string]guests.State{"a": guests.Ended, "b": guests.Runs, "c": guests.Runs}, nil, true)
	is("one has ended, and who began after that minute was not brought", w.said.Running == 2 && slices.Equal(w.said.Brought, []string{"b"}))
	look(well, nil, false)
	is("nor is who was started anew, whatever nova-compute does", w.said.Running == 2 && slices.Equal(w.said.Brought, []string{"b"}))
	look(map[string]guests.State{"a": guests.Runs, "c": guests.Runs}, nil, true)
	is("nothing is left of it", w.said.Running == 2 && len(w.said.Brought) == 0)
	look(nil, guests.ErrNone, true)
	look(nil, guests.ErrNone, true)
	is("its socket is gone: unknown", w.said.Unknown != "")
}

// TestDisks: a directory that is there is well, one that is not is nobody's yet, and one that does not
// answer is told, and asked once.
func TestDisks(t *testing.T) {
	if said := diskState(t.TempDir()); said != "" {
		t.Error(said)
	}
	if said := diskState("/nowhere/instances"); said != "" {
		t.Error(said)
	}
	if said := diskState("/proc/version/x"); said == "" {
		t.Error("no directory, and nothing is said")
	}
	now := time.Unix(1000, 0)
	w := guestWatch{disks: "/x", wall: func() time.Time { return now }, asked: make(chan string, 1), since: now}
	if said := w.lookAtDisks("", now.Add(disksWithin-time.Second)); said != "" {
		t.Error(said)
	}
	if said := w.lookAtDisks("", now.Add(disksWithin)); said != "/x does not answer" {
		t.Error(said)
	}
	w.asked <- "/x is read-only"
	if said := w.lookAtDisks("/x does not answer", now.Add(time.Minute)); said != "/x is read-only" || w.asked != nil {
		t.Error(said)
	}
}
