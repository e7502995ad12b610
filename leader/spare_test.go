package leader

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mainstay/fleet"
)

// clouds is an OpenStack of one compute, with a server that has no other place while full is set.
type clouds struct {
	full, away atomic.Bool
	more       atomic.Bool // a compute more
	surveys    atomic.Int32
	stocks     atomic.Int32
}

func (c *clouds) Look(_ context.Context, began fleet.Moment, _, _ []string) (fleet.Cloud, error) {
	seen := map[string]fleet.Compute{"n1": {ID: "n1", Up: true, Zone: "nova", FreeRAM: 4096}}
	if c.more.Load() {
		seen["n2"] = seen["n1"]
	}
	return fleet.Cloud{At: began, Computes: seen}, nil
}

// Ask asks no server anything.
func (c *clouds) Ask(context.Context, []fleet.Gate) map[string]string { return nil }

func (c *clouds) Stock(_ context.Context, at time.Time) (fleet.Stock, error) {
	c.stocks.Add(1)
	if c.away.Load() {
		return fleet.Stock{}, errors.New("list all servers: no answer")
	}
	return fleet.Stock{At: at, Servers: []fleet.Server{{ID: "vm", Host: "n1", Image: "i", State: fleet.ServerActive, Created: at.Format(time.RFC3339)}}}, nil
}

func (c *clouds) Survey(_ context.Context, began fleet.Moment, _ []string) (fleet.Survey, error) {
	c.surveys.Add(1)
	if c.away.Load() {
		return fleet.Survey{}, errors.New("no answer")
	}
	s := fleet.Survey{At: began, Whole: true, Servers: map[string]fleet.Server{}, Rooms: map[string]fleet.Room{}}
	if c.full.Load() {
		s.Servers["vm"] = fleet.Server{ID: "vm", Host: "n1", State: fleet.ServerActive, RAM: 512}
	}
	return s, nil
}

// TestNightly: which losses can be borne is looked at soon after the lead began and each
// night, and each hour while one cannot; one look alone alarms nobody, one that comes to
// nothing changes nothing.
func TestNightly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		begun := time.Now() // midnight, UTC
		now := func() fleet.Moment { return fleet.Moment(time.Hour + time.Since(begun)) }
		spec := fleet.Spec{Site: "test", Mode: "act", Timing: fleet.Presets()["rack"], Networks: []fleet.Network{{Name: "a"}}, OpenStack: fleet.OpenStack{Cloud: "here"},
			Hosts: []fleet.Host{{Name: "c1", Voter: true, Roles: []string{"controller"}, Addresses: map[string]netip.Addr{"a": netip.MustParseAddr("10.0.0.1")}},
				{Name: "n1", Roles: []string{"compute"}, Addresses: map[string]netip.Addr{"a": netip.MustParseAddr("10.0.0.2")}}}}
		c := &clouds{}
		l := New(Config{
			Host: "c1", Spec: func() fleet.Spec { return spec }, Quorum: &quorum{state: fleet.State{Epoch: 1}}, Eyes: &eyes{}, Desk: NewDesk(now), Clouds: c,
			Send: func(context.Context, fleet.Order) fleet.Effect { return fleet.Effect{Outcome: fleet.Done} },
			Now:  now, Wall: func() time.Time { return time.Now().UTC() }, Log: slog.New(slog.DiscardHandler),
		})
		go l.Run(ctx)
		look := func(after time.Duration, surveys int32, short int, told bool) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			w, p, ok := l.Look(ctx)
			waits := false
			for _, x := range p.Waits {
				waits = waits || x.About == "capacity"
			}
			if !ok || c.surveys.Load() != surveys || len(w.Capacity.Short) != short || waits != told {
				t.Errorf("%v after the beginning: %v, %d surveys, %d short, told %v; want %d, %d, %v", time.Since(begun), ok, c.surveys.Load(), len(w.Capacity.Short), waits, surveys, short, told)
			}
		}
		look(59*time.Second, 0, 0, false)
		look(3*time.Second, 1, 0, false)
		c.full.Store(true)
		look(2*time.Hour+58*time.Minute, 1, 0, false)
		look(time.Minute+30*time.Second, 2, 0, false) // three o'clock: it may have been for a moment
		look(time.Minute, 3, 1, true)
		look(61*time.Minute, 4, 1, true)
		c.more.Store(true) // no right to run servers is there yet: it takes none
		look(2*time.Minute, 5, 1, true)
		c.away.Store(true)
		look(time.Hour, 6, 1, true)
		c.away.Store(false)
		c.full.Store(false)
		look(time.Hour, 7, 0, false)
		c.full.Store(true)
		if v, err := l.Bear(ctx); err != nil || len(v.Short) != 1 {
			t.Errorf("asked: %+v, %v", v, err)
		}
		look(2*time.Second, 8, 1, true)
		c.away.Store(true)
		if _, err := l.Preview(ctx, []string{"n1"}); !errors.Is(err, ErrAway) {
			t.Errorf("OpenStack is away: %v", err)
		}
		cancel()
		synctest.Wait()
	})
	for now, want := range map[string]time.Duration{"2026-11-27T02:59:00Z": time.Minute, "2026-11-27T03:00:00Z": 24 * time.Hour, "2026-11-30T23:00:00Z": 4 * time.Hour} {
		at, err := time.Parse(time.RFC3339, now)
		if got := untilNight(at); err != nil || got != want {
			t.Errorf("at %s the next night's look is in %v, want %v", now, got, want)
		}
	}
}
