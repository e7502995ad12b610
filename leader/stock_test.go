package leader

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mainstay/fleet"
)

// TestStocks: a list that could not be made changes nothing of what the last one came to, and
// a person is told of it, and why, once that is old.
func TestStocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		begun := time.Now()
		now := func() fleet.Moment { return fleet.Moment(time.Hour + time.Since(begun)) }
		spec := fleet.Spec{Site: "test", Mode: "act", Timing: fleet.Presets()["rack"], Networks: []fleet.Network{{Name: "a"}},
			OpenStack: fleet.OpenStack{Cloud: "here", LocalDisks: fleet.LocalDisks{Hosts: []string{"n1"}, Wait: time.Minute}, Snapshots: fleet.Snapshots{Every: 6 * time.Hour, Keep: 2, AtOnce: 1}},
			Hosts: []fleet.Host{{Name: "c1", Voter: true, Roles: []string{"controller"}, Addresses: map[string]netip.Addr{"a": netip.MustParseAddr("10.0.0.1")}},
				{Name: "n1", Roles: []string{"compute"}, Addresses: map[string]netip.Addr{"a": netip.MustParseAddr("10.0.0.2")}}}}
		c := &clouds{}
		l := New(Config{
			Host: "c1", Spec: func() fleet.Spec { return spec }, Quorum: &quorum{state: fleet.State{Epoch: 1}}, Eyes: &eyes{}, Desk: NewDesk(now), Clouds: c,
			Send: func(context.Context, fleet.Order) fleet.Effect { return fleet.Effect{Outcome: fleet.Done} },
			Now:  now, Wall: func() time.Time { return time.Now().UTC() }, Log: slog.New(slog.DiscardHandler),
		})
		go l.Run(ctx)
		look := func(after time.Duration, servers int, away, told string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			w, p, ok := l.Look(ctx)
			waits := ""
			for _, x := range p.Waits {
				if x.About == "snapshots" {
					waits = x.For
				}
			}
			if !ok || w.Tally.Servers != servers || w.Tally.Away != away || (told == "") != (waits == "") || !strings.Contains(waits, told) {
				t.Errorf("%v after the beginning: %v, %d servers, away %q, told %q; want %d, %q, %q", time.Since(begun), ok, w.Tally.Servers, w.Tally.Away, waits, servers, away, told)
			}
		}
		c.away.Store(true)
		look(5*time.Minute, 0, "list all servers: no answer", "")
		look(26*time.Minute, 0, "list all servers: no answer", "no answer")
		c.away.Store(false)
		look(10*time.Minute+2*time.Second, 1, "", "")
		c.away.Store(true)
		look(11*time.Minute, 1, "list all servers: no answer", "")
		look(30*time.Minute, 1, "list all servers: no answer", "no answer")
		cancel()
		synctest.Wait()
	})
}
