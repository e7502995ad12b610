package cli

import (
	"context"
	"strings"
	"sync"
	"testing"

	"mainstay/api"
	"mainstay/fleet"
)

// draining answers with one status after the other, the last for ever.
type draining struct {
	backend
	mu    sync.Mutex
	shows []func(*api.Status)
}

func (b *draining) Status(context.Context, bool) (api.Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := sane()
	b.shows[0](&s)
	if len(b.shows) > 1 {
		b.shows = b.shows[1:]
	}
	return s, nil
}

// TestDrainIsAwaited: what a drain waits for is shown once each, and its end is an exit code.
func TestDrainIsAwaited(t *testing.T) {
	wished := func(s *api.Status) {
		s.Wishes = []fleet.Wish{{ID: "maintenance-n1", Verb: "maintenance", Host: "n1", Drain: true}}
	}
	waits := func(text string) func(*api.Status) {
		return func(s *api.Status) {
			wished(s)
			s.Waits = []fleet.Wait{{About: "compute/n2", For: "something else"}, {About: "compute/n1", For: text}}
		}
	}
	leaves := func(p fleet.Departure) func(*api.Status) {
		return func(s *api.Status) {
			waits("a person: of its servers 1 stay: vm")(s)
			p.Server, p.From = "vm", "n1"
			s.Departures = []fleet.Departure{p}
		}
	}
	const two, one = "its servers to leave it: 1 on their way, 1 yet to go", "its servers to leave it: 1 on their way, 0 yet to go"
	for _, c := range []struct {
		name  string
		wait  string
		shows []func(*api.Status)
		code  int
		says  []string
	}{
		{"to its end", "10m", []func(*api.Status){func(*api.Status) {}, waits(two), waits(two), waits(one), wished}, 0, []string{"n1 waits for " + two, "n1 waits for " + one, "nothing is left on n1"}},
		{"some stay", "10m", []func(*api.Status){waits(two), waits("a person: of its servers 1 stay: vm")}, exitTrouble, []string{"drain n1: a person: of its servers 1 stay: vm"}},
		{"what stays is told when nothing is on its way", "10m", []func(*api.Status){leaves(fleet.Departure{}), leaves(fleet.Departure{Ended: "failed", Stays: true})}, exitTrouble, []string{"drain n1: a person: of its servers 1 stay: vm"}},
		{"a broken one is not waited for", "10m", []func(*api.Status){func(s *api.Status) {
			leaves(fleet.Departure{})(s)
			s.Departures[0].Strayed = s.At.AddDate(1, 0, 0)
		}}, exitTrouble, []string{"drain n1: a person: of its servers 1 stay: vm"}},
		{"nobody leads", "300ms", []func(*api.Status){func(s *api.Status) { wished(s); s.Leader = "" }}, exitUnknown, []string{"not over yet; it goes on"}},
		{"not in time", "300ms", []func(*api.Status){waits(two)}, exitUnknown, []string{"not over yet; it goes on"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &draining{shows: c.shows}
			code, out, errOut := serveAny(t, b)("maintenance", "n1", "on", "--drain", "--wait", c.wait)
			if code != c.code {
				t.Errorf("exit code %d, not %d\n%s%s", code, c.code, out, errOut)
			}
			for _, text := range c.says {
				if n := strings.Count(out+errOut, text); n != 1 {
					t.Errorf("%q is said %d times:\n%s%s", text, n, out, errOut)
				}
			}
			if len(b.wishes) != 1 || !b.wishes[0].Drain || b.wishes[0].Host != "n1" {
				t.Errorf("wished: %+v", b.wishes)
			}
		})
	}
}

// TestMaintenanceRefuses says which words do not go together, and changes nothing.
func TestMaintenanceRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"n1", "off", "--drain"}, {"n1", "on", "--wait", "1m"}, {"n1", "off", "--wait", "1m"}, {"n1", "maybe"}, {"n1", "on", "--dry-run"}, {"n1", "off", "--drain", "--dry-run"},
	} {
		b := &backend{status: sane()}
		if code, out, errOut := serve(t, b)(append([]string{"maintenance"}, args...)...); code != exitUsage || errOut == "" || len(b.wishes)+len(b.undone) > 0 {
			t.Errorf("%v: exit code %d: %s%s", args, code, out, errOut)
		}
	}
}
