package agent

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// crowded is a host on whose network others answer for an address.
type crowded struct {
	Addresses
	now     *atomic.Int64
	answers func() []net.HardwareAddr
	claimed int
}

func (c *crowded) Others(context.Context, netip.Addr) ([]net.HardwareAddr, error) {
	c.now.Add(int64(10 * time.Millisecond))
	return c.answers(), nil
}

func (c *crowded) Neighbours(mac net.HardwareAddr) ([]netip.Addr, error) {
	if mac[5] == 2 {
		return []netip.Addr{netip.MustParseAddr("10.0.0.12")}, nil
	}
	return nil, nil
}

func (c *crowded) Claim(context.Context, netip.Addr, fleet.Moment) (time.Duration, error) {
	c.claimed++
	return fleet.GuardLate, nil
}

func (c *crowded) Drop(context.Context) error { return nil }

// TestClaimAgainstAStranger: somebody else answers for an address that this host shall
// claim. It asks again for as long as a host of the site could have it by right, claims it
// then, and says who that is for as long as it is heard.
func TestClaimAgainstAStranger(t *testing.T) {
	const thing, generation = "address/internal", 3
	addr := netip.MustParseAddr("10.0.0.200")
	spec := fleet.Spec{
		Site: "test", Timing: fleet.Presets()["room"], Addresses: []fleet.Address{{Name: "internal", Addr: addr}},
		Hosts: []fleet.Host{{Name: "c1", Voter: true}, {Name: "c2", Addresses: map[string]netip.Addr{"management": netip.MustParseAddr("10.0.0.12")}}},
	}
	spec.Timing.Lease = time.Minute // it lives on meanwhile
	stranger, c2 := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	for _, c := range []struct {
		name    string
		mac     net.HardwareAddr
		lasts   time.Duration // for how long it answers
		outcome fleet.Outcome
		who     string // afterwards
	}{
		{"a stranger that stays", stranger, time.Hour, fleet.NoWord, "an unknown machine (MAC 02:00:00:00:00:01)"},
		{"a host of the site that stays", c2, time.Hour, fleet.NoWord, "c2 (MAC 02:00:00:00:00:02)"},
		{"one that goes soon", stranger, time.Second, fleet.Done, "an unknown machine (MAC 02:00:00:00:00:01)"},
		{"one that spoke once", stranger, contestSure / 2, fleet.Done, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var now atomic.Int64
			now.Store(int64(time.Hour))
			asked := fleet.Moment(now.Load())
			x := &crowded{now: &now}
			x.answers = func() []net.HardwareAddr {
				if fleet.Moment(now.Load()).Sub(asked) > c.lasts {
					return nil
				}
				return []net.HardwareAddr{c.mac}
			}
			a, err := New(Config{
				Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Addresses: x, Log: slog.New(slog.DiscardHandler),
				Now: func() fleet.Moment { return fleet.Moment(now.Load()) }, Wall: time.Now,
			})
			if err != nil {
				t.Fatal(err)
			}
			first, _ := a.next()
			a.do(t.Context(), first) // the drop that an agent begins with
			a.hand.Ack("c1", a.hand.Stint(), asked-1, asked)
			deeds, refused := a.hand.Order(fleet.Order{Key: "claim", Verb: fleet.VerbClaim, Thing: thing, Generation: generation, Boot: "b", Stint: a.hand.Stint().N}, asked)
			if refused != nil {
				t.Fatal(refused.Why)
			}
			effects := make(chan fleet.Effect, 1)
			a.do(t.Context(), deed{Deed: deeds[0], reply: func(e fleet.Effect) { effects <- e }})
			d, ok := a.next()
			for end := time.Now().Add(20 * time.Second); !ok; d, ok = a.next() {
				if time.Now().After(end) {
					t.Fatal("it is never claimed")
				}
				time.Sleep(time.Millisecond)
			}
			if waited := fleet.Moment(now.Load()).Sub(asked); waited < min(c.lasts, claimDelay) || waited > claimDelay+time.Second {
				t.Errorf("it waited for %v", waited)
			}
			a.do(t.Context(), d)
			e := <-effects
			if d.Do != plan.DoClaim || x.claimed != 1 || e.Outcome != c.outcome || (e.Outcome == fleet.NoWord) != strings.Contains(e.Why, c.mac.String()) {
				t.Errorf("%s, claimed %d times: %s (%s), want %s", d.Do, x.claimed, e.Outcome, e.Why, c.outcome)
			}
			state := func() fleet.AddressState {
				a.mu.Lock()
				defer a.mu.Unlock()
				return a.testimony(fleet.Moment(now.Load())).Addresses["internal"]
			}
			if s := state(); s.Phase != fleet.Speaking || s.Contested != c.who {
				t.Errorf("it says %+v, want contested by %q", s, c.who)
			}
			now.Add(int64(contestOver / 2))
			a.contend(addr, c.mac)
			now.Add(int64(contestOver))
			if s := state(); c.outcome == fleet.NoWord && s.Contested != c.who {
				t.Errorf("heard again, it says %+v", s)
			}
			now.Add(1)
			if s := state(); s.Contested != "" {
				t.Errorf("after long quiet it says %+v", s)
			}
		})
	}
}

// shifting is a host whose network has news.
type shifting struct {
	Addresses
	changes chan Change
}

func (s *shifting) Watch(context.Context) <-chan Change { return s.changes }

func (s *shifting) Foreign(context.Context) (map[netip.Addr]string, error) { return nil, nil }

func (s *shifting) Carried([]netip.Addr) (map[netip.Addr]bool, error) { return nil, nil }
func (s *shifting) Received([]netip.Addr) (uint64, error)             { return 0, nil }

func (s *shifting) Neighbours(net.HardwareAddr) ([]netip.Addr, error) { return nil, nil }

// TestStrangerSpeaks: what the holder hears of another machine is in its report when it
// is heard again, and of two the first is named.
func TestStrangerSpeaks(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.200")
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}}, Addresses: []fleet.Address{{Name: "internal", Addr: addr}}}
	var now atomic.Int64
	now.Store(int64(time.Hour))
	s := &shifting{changes: make(chan Change)}
	a, err := New(Config{
		Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Addresses: s, Log: slog.New(slog.DiscardHandler),
		Now: func() fleet.Moment { return fleet.Moment(now.Load()) }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { defer close(over); a.guardLoss(ctx) }()
	defer func() { cancel(); <-over }()
	says := func() string {
		s.changes <- Change{What: "something else"} // the one before has been taken
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.contested("internal", fleet.Moment(now.Load()))
	}
	one, two := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 3}
	for _, c := range []struct {
		after time.Duration
		mac   net.HardwareAddr
		want  string
	}{
		{0, one, ""},
		{time.Second, two, ""},
		{time.Second, one, "an unknown machine (MAC 02:00:00:00:00:01)"},
		{time.Second, two, "an unknown machine (MAC 02:00:00:00:00:01)"},
		{contestOver + time.Second, nil, ""},
		{time.Second, nil, "an unknown machine that tells no MAC"},
	} {
		now.Add(int64(c.after))
		s.changes <- Change{What: "contested", Contested: addr, MAC: c.mac}
		if got := says(); got != c.want {
			t.Errorf("%v later, %v: %q, want %q", c.after, c.mac, got, c.want)
		}
	}
}
