package vip

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

func TestClaimIsAnsweredAndReleaseIsSilent(t *testing.T) {
	hosts := newNetwork(t, 2)
	a, b := hosts[0], hosts[1]
	s := a.open(nil)
	keepAlive(t, s, long)
	claim(t, s, v4)
	claim(t, s, v6)
	if f, ok := b.askARP(hostB, v4, bound); !ok || !bytes.Equal(f.mac, a.mac()) {
		t.Fatalf("ARP for the claimed address: %v %+v", ok, f)
	}
	for _, addr := range []netip.Addr{v4, v6} {
		if !b.ping(addr, bound) {
			t.Fatalf("%s does not answer", addr)
		}
		if st := phase(t, s, addr); st.Phase != fleet.Speaking || st.Left <= 0 || st.Permanent {
			t.Fatalf("found %+v", st)
		}
	}
	if err := s.Drop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []netip.Addr{v4, v6} {
		if a.has(addr) {
			t.Fatalf("%s is still there", addr)
		}
		if err := s.Release(t.Context(), addr); err != nil {
			t.Fatalf("a second release: %v", err)
		}
		if st := phase(t, s, addr); st.Phase != fleet.Absent {
			t.Fatalf("found %+v", st)
		}
	}
}

// A managed address that somebody installed for good is foreign: silent, in ARP
// and in neighbour discovery, towards it and from it, and neither adopted nor removed.
func TestForeignAddressIsSilentAndNotAdopted(t *testing.T) {
	hosts := newNetwork(t, 2)
	a, b := hosts[0], hosts[1]
	for _, addr := range []netip.Addr{v4, v6} {
		a.install(addr, addr.BitLen())
	}
	for _, addr := range []netip.Addr{v4, v6} {
		if !b.ping(addr, bound) {
			t.Fatalf("%s does not answer before it is managed: the test would show nothing", addr)
		}
	}
	before, err := Look(t.Context(), Config{Netns: int(a.ns)}, site)
	if err != nil {
		t.Fatal(err)
	}
	if !b.ping(v4, bound) {
		t.Fatal("a mere look silenced it")
	}
	s := a.open(nil)
	for _, st := range before {
		now := phase(t, s, st.Addr)
		if diff := gocmp.Diff(st, now, gocmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("Look and Found differ: %s", diff)
		}
		if st.Addr == v4b {
			continue
		}
		if st.Phase != fleet.Foreign || !st.Permanent || !strings.Contains(st.Why, "permanent") {
			t.Errorf("found %+v", st)
		}
		if b.ping(st.Addr, 200*time.Millisecond) {
			t.Errorf("%s still answers", st.Addr)
		}
		if _, err := s.Claim(t.Context(), st.Addr, s.now().Add(long)); !errors.Is(err, ErrForeign) {
			t.Errorf("claimed: %v", err)
		}
		if err := s.Drop(t.Context()); err != nil {
			t.Errorf("a drop never ends beside a foreign address: %v", err)
		}
		if err := s.Release(t.Context(), st.Addr); !errors.Is(err, ErrForeign) {
			t.Errorf("released: %v", err)
		}
		if !a.has(st.Addr) {
			t.Errorf("%s was removed", st.Addr)
		}
	}
	// Without the neighbour's help either: ARP alone, and IP alone.
	if f, ok := b.askARP(hostB, v4, 200*time.Millisecond); ok {
		t.Errorf("it answers ARP: %+v", f)
	}
	for _, addr := range []netip.Addr{v4, v6} {
		b.pin(addr, a.mac())
		if b.ping(addr, 200*time.Millisecond) {
			t.Errorf("%s answers who knows its hardware address", addr)
		}
	}
	// Nor may anything leave from it.
	for _, addr := range []netip.Addr{v4, v6} {
		var conn net.Conn
		to := map[bool]string{true: "[10.77.0.2]:9", false: "[fd00:77::2]:9"}[addr.Is4()]
		a.do(func() {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: addr.AsSlice()}}
			conn, err = d.Dial("udp", to)
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, unix.EPERM) {
			t.Errorf("sent from %s: %v", addr, err)
		}
		conn.Close()
	}
}

// Each rule does its part alone: of all others there is none.
func TestEachRuleAlone(t *testing.T) {
	resolved := func(a, b *host) bool { return b.ping(v6, 200*time.Millisecond) }
	asked := func(a, b *host) bool { _, ok := b.askARP(hostB, v4, 200*time.Millisecond); return ok }
	pinned := func(addr netip.Addr) func(a, b *host) bool {
		return func(a, b *host) bool { b.pin(addr, a.mac()); return b.ping(addr, 200*time.Millisecond) }
	}
	cases := []struct {
		name    string
		answers func(a, b *host) bool
	}{
		{"input IPv4", pinned(v4)}, {"input IPv6", pinned(v6)}, {"input solicitation", resolved},
		{"output IPv4", pinned(v4)}, {"output IPv6", pinned(v6)}, {"output advertisement", resolved},
		{"input ARP", asked}, {"output ARP", asked},
	}
	if len(cases) != len(rules()) {
		t.Fatalf("%d cases for %d rules", len(cases), len(rules()))
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			hosts := newNetwork(t, 2)
			a, b := hosts[0], hosts[1]
			for _, addr := range []netip.Addr{v4, v6} {
				a.install(addr, addr.BitLen())
			}
			g := &guard{ns: int(a.ns), now: Now}
			defer g.close()
			addrs := []netip.Addr{v4, v6}
			if err := g.build(addrs, addrs, time.Hour); err != nil {
				t.Fatal(err)
			}
			a.nft(func(n *nftables.Conn) {
				for _, ch := range chains {
					n.FlushChain(ch)
				}
				n.AddRule(rules()[i])
			})
			eventually(t, "it answers while it speaks", func() bool { return c.answers(a, b) })
			a.nft(func(n *nftables.Conn) {
				for _, set := range speakingSets {
					n.FlushSet(set)
				}
			})
			b.forget()
			if c.answers(a, b) {
				t.Error("it answers")
			}
			a.nft(func(n *nftables.Conn) { n.FlushChain(rules()[i].Chain) })
			eventually(t, "it answers without the rule", func() bool { return c.answers(a, b) })
		})
	}
}

func TestWhatIsNotOursIsForeign(t *testing.T) {
	a := newNetwork(t, 1)[0]
	s := a.open(nil)
	for _, c := range []struct {
		name string
		addr netlink.Addr
		on   string
	}{
		{"in a larger prefix", netlink.Addr{IPNet: prefix(v4, 24), ValidLft: 1000}, "eth0"},
		{"on another interface", netlink.Addr{IPNet: prefix(v4, 32), ValidLft: 1000}, "lo"},
	} {
		l, err := a.rt.LinkByName(c.on)
		if err != nil {
			t.Fatal(err)
		}
		changes := s.Watch(t.Context())
		if err := a.rt.AddrAdd(l, &c.addr); err != nil {
			t.Fatal(err)
		}
		if got := change(t, changes, Intruded); got.Addr != v4 || got.Interface != c.on || got.Why == "" {
			t.Errorf("%s: %+v", c.name, got)
		}
		if st := phase(t, s, v4); st.Phase != fleet.Foreign || st.Permanent || st.Why == "" {
			t.Errorf("%s: found %+v", c.name, st)
		}
		if err := a.rt.AddrDel(l, &c.addr); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever flushes, deletes or changes our tables is noticed by the next renewal,
// which says so with its g and leaves the guard whole.
func TestBrokenGuardIsRebuilt(t *testing.T) {
	rule := func(c *nftables.Conn, ch *nftables.Chain) {
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil || len(rules) == 0 {
			t.Fatalf("read rules: %v", err)
		}
		if err := c.DelRule(rules[0]); err != nil {
			t.Fatal(err)
		}
	}
	for name, spoil := range map[string]func(*nftables.Conn){
		"flush ruleset":    func(c *nftables.Conn) { c.FlushRuleset() },
		"flush table":      func(c *nftables.Conn) { c.FlushTable(inetTable) },
		"delete arp table": func(c *nftables.Conn) { c.DelTable(arpTable) },
		"delete inet rule": func(c *nftables.Conn) { rule(c, inetInput) },
		"delete arp rule":  func(c *nftables.Conn) { rule(c, arpOutput) },
		"flush managed":    func(c *nftables.Conn) { c.FlushSet(managed4) },
		"another table of our name": func(c *nftables.Conn) {
			c.DelTable(inetTable)
			c.AddTable(inetTable)
			c.AddSet(&nftables.Set{Table: inetTable, ID: 9, Name: "managed4", KeyType: nftables.TypeEtherAddr}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			hosts := newNetwork(t, 2)
			a, b := hosts[0], hosts[1]
			s := a.open(nil)
			claim(t, s, v4)
			claim(t, s, v6)
			renewed(t, s, fleet.GuardLate)
			a.nft(spoil)
			renewed(t, s, fleet.CoarseLate)
			if st := phase(t, s, v4); st.Phase != fleet.Speaking {
				t.Errorf("found %+v after the rebuild", st)
			}
			renewed(t, s, fleet.GuardLate)
			for _, addr := range []netip.Addr{v4, v6} {
				if !b.ping(addr, bound) {
					t.Errorf("%s does not answer", addr)
				}
				if st := phase(t, s, addr); st.Phase != fleet.Speaking {
					t.Errorf("found %+v", st)
				}
			}
			// And it guards: what is managed and not claimed is silent.
			a.install(v4b, 32)
			b.pin(v4b, a.mac())
			if b.ping(v4b, 200*time.Millisecond) {
				t.Error("an address that is not claimed answers")
			}
			if f, ok := b.askARP(hostB, v4b, 200*time.Millisecond); ok {
				t.Errorf("an address that is not claimed answers ARP: %+v", f)
			}
		})
	}
}

// An element that somebody deletes is added again; the guard has stood all the time.
func TestElementIsRestored(t *testing.T) {
	hosts := newNetwork(t, 2)
	s := hosts[0].open(nil)
	claim(t, s, v4)
	claim(t, s, v6)
	hosts[0].nft(func(c *nftables.Conn) { c.FlushSet(arpSpeaking4) })
	renewed(t, s, fleet.GuardLate)
	if _, ok := hosts[1].askARP(hostB, v4, bound); !ok {
		t.Error("it does not answer")
	}
}

// What others do in their own tables is no reason to doubt ours.
func TestOthersTablesAreTheirs(t *testing.T) {
	a := newNetwork(t, 1)[0]
	s := a.open(nil)
	claim(t, s, v4)
	other := &nftables.Table{Name: "other", Family: nftables.TableFamilyINet}
	for range 3 {
		a.nft(func(c *nftables.Conn) { c.AddTable(other); c.DelTable(other) })
		renewed(t, s, fleet.GuardLate)
	}
}

// A change that came late is repeated; an agent frozen between the two has lost its
// lease, and is told so.
func TestFrozenBetweenTwoTries(t *testing.T) {
	now := fleet.Moment(time.Hour)
	until := now.Add(time.Second)
	s := &Set{now: func() fleet.Moment { return now }}
	looks := 0
	s.now = func() fleet.Moment {
		if looks++; looks == 3 { // before, after, and before the second try
			now = until
		}
		return now
	}
	err := s.timed(until, func([]netip.Addr, time.Duration) error {
		now = now.Add(2 * slack) // the kernel takes its time
		s.guard.sent = now
		return nil
	}, v4)
	if !errors.Is(err, ErrTooLate) {
		t.Errorf("frozen before the second try: %v", err)
	}
}

// With nothing held Renew still looks after the guard.
func TestRenewOfNothing(t *testing.T) {
	a := newNetwork(t, 1)[0]
	s := a.open(nil)
	renewed(t, s, fleet.GuardLate)
	a.nft(func(c *nftables.Conn) { c.FlushRuleset() })
	renewed(t, s, fleet.CoarseLate)
	renewed(t, s, fleet.GuardLate)
	// A guard found broken by something else is stated too, once.
	a.nft(func(c *nftables.Conn) { c.FlushRuleset() })
	claim(t, s, v4)
	renewed(t, s, fleet.CoarseLate)
	renewed(t, s, fleet.GuardLate)
}

// clock is a clock that jumps, as it does for an agent that was frozen, at one of
// the looks at it.
type clock struct {
	step   time.Duration // 0: beyond any lease
	looks  atomic.Int64
	jumpAt atomic.Int64 // never, if 0
	ahead  atomic.Int64
}

func (c *clock) now() fleet.Moment {
	// The Set's own goroutines look too: they would make the count a matter of luck.
	if !background() && c.looks.Add(1) == c.jumpAt.Load() {
		c.ahead.Add(int64(cmp.Or(c.step, 2*long)))
	}
	return Now().Add(time.Duration(c.ahead.Load()))
}

// background says whether one of the Set's own goroutines is running.
func background() bool {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "(*Set).start.func1") {
			return true
		}
		if !more {
			return false
		}
	}
}

// freezeAt lets the n-th look from now on be late.
func (c *clock) freezeAt(n int64) {
	c.looks.Store(0)
	c.jumpAt.Store(n)
}

// Wherever an agent is frozen in a renewal, the address is silent and gone after
// it, and the caller knows.
func TestRenewalFrozenOnItsWay(t *testing.T) {
	hosts := newNetwork(t, 2)
	a, b := hosts[0], hosts[1]
	for n := int64(1); ; n++ {
		c := &clock{}
		s, err := Open(Config{Netns: int(a.ns), Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Manage(site[:1]); err != nil {
			t.Fatal(err)
		}
		claim(t, s, v4)
		until := Now().Add(time.Duration(c.ahead.Load())).Add(long)
		before := c.ahead.Load()
		c.freezeAt(n)
		_, err = s.Renew(until)
		frozen := c.ahead.Load() > before
		if err == nil && frozen {
			t.Errorf("frozen at look %d: no error", n)
		}
		if err != nil {
			if !errors.Is(err, ErrTooLate) || !frozen {
				t.Fatalf("frozen at look %d: %v", n, err)
			}
			if f, ok := b.askARP(hostB, v4, 100*time.Millisecond); ok {
				t.Errorf("frozen at look %d: it speaks: %+v", n, f)
			}
			eventually(t, "the address is removed", func() bool { return !a.has(v4) })
		}
		if err := s.Drop(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if !frozen {
			if n < 4 {
				t.Errorf("only %d looks at the clock in a renewal", n-1)
			}
			return
		}
	}
}

// A renewal that was long on its way, but within the lease, does not lengthen it:
// the element's time counts from when it arrives.
func TestSlowRenewalDoesNotOutliveTheLease(t *testing.T) {
	a := newNetwork(t, 1)[0]
	for n := int64(1); ; n++ {
		c := &clock{step: long / 5}
		s := a.open(c.now)
		claim(t, s, v4)
		until := s.now().Add(long)
		before := c.ahead.Load()
		c.freezeAt(n)
		if _, err := s.Renew(until); err != nil {
			t.Fatalf("frozen at look %d: %v", n, err)
		}
		frozen := c.ahead.Load() > before
		if left, most := phase(t, s, v4).Left, until.Sub(s.guard.sent); left > most {
			t.Errorf("frozen at look %d: it may speak for %s, its lease lasts %s", n, left, most)
		}
		if err := s.Drop(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if !frozen {
			return
		}
	}
}

// What the keeper puts back too late, it removes again.
func TestKeeperFrozenOnItsWay(t *testing.T) {
	a := newNetwork(t, 1)[0]
	for n := int64(1); ; n++ {
		c := &clock{}
		s := a.open(c.now)
		claim(t, s, v4)
		if err := s.begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.freezeAt(n)
		err := s.reinstall(s.managed[v4])
		frozen := c.ahead.Load() > 0
		s.end()
		if frozen {
			eventually(t, "the address is removed", func() bool { return !a.has(v4) })
			if err == nil && s.managed[v4].held {
				t.Errorf("frozen at look %d: it is held", n)
			}
		} else if err != nil || !a.has(v4) {
			t.Fatalf("not frozen: %v", err)
		}
		s.Close()
		if !frozen {
			return
		}
	}
}

// The same for a claim.
func TestClaimFrozenOnItsWay(t *testing.T) {
	hosts := newNetwork(t, 2)
	a, b := hosts[0], hosts[1]
	for n := int64(1); ; n++ {
		c := &clock{}
		s, err := Open(Config{Netns: int(a.ns), Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Manage(site[:1]); err != nil {
			t.Fatal(err)
		}
		until := Now().Add(long)
		c.freezeAt(n)
		claimed, err := s.Claim(t.Context(), v4, until)
		frozen := c.ahead.Load() > 0
		switch {
		case err == nil && !claimed.At.Before(until):
			t.Errorf("frozen at look %d: claimed after its lease", n)
		case err != nil && (!frozen || !errors.Is(err, ErrTooLate)):
			t.Fatalf("frozen at look %d: %v", n, err)
		case err != nil:
			if f, ok := b.askARP(hostB, v4, 100*time.Millisecond); ok {
				t.Errorf("frozen at look %d: it speaks: %+v", n, f)
			}
			eventually(t, "the address is removed", func() bool { return !a.has(v4) })
		}
		if err := s.Drop(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if !frozen {
			if n < 6 {
				t.Errorf("only %d looks at the clock in a claim", n-1)
			}
			return
		}
	}
}

// A renewal that reaches the kernel after the element's time does not bring it
// back (HOLES 22), whatever the agent believes.
func TestElementThatTimedOutStaysShut(t *testing.T) {
	a := newNetwork(t, 1)[0]
	g := &guard{ns: int(a.ns), now: Now}
	defer g.close()
	both := []netip.Addr{v4, v6}
	if err := g.build(both, both, 20*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the elements time out", func() bool {
		speaking, err := g.speaking()
		if err != nil {
			t.Fatal(err)
		}
		return len(speaking) == 0
	})
	if err := g.renew(both, time.Minute); !errors.Is(err, unix.ENOENT) {
		t.Fatalf("renewed: %v", err)
	}
	// Nor if one of several is still alive.
	if err := g.open(both[:1], time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := g.renew(both, time.Minute); !errors.Is(err, unix.ENOENT) {
		t.Fatalf("renewed: %v", err)
	}
	speaking, err := g.speaking()
	if err != nil || len(speaking) != 1 || speaking[v4] == 0 {
		t.Fatalf("speaking: %v %v", speaking, err)
	}
	if err := g.renew(both[:1], time.Hour); err != nil {
		t.Fatal(err)
	}
	if speaking, err = g.speaking(); err != nil || speaking[v4] < 2*time.Minute {
		t.Fatalf("not renewed: %v %v", speaking, err)
	}
}

// An agent that restarts within its lease finds everything as it was: the
// address answers all the time and its connections live.
func TestRestartAdoptsWithoutAGap(t *testing.T) {
	hosts := newNetwork(t, 2)
	a, b := hosts[0], hosts[1]
	first := a.open(nil)
	claim(t, first, v4)
	claim(t, first, v6)
	talks := map[netip.Addr]func() bool{}
	for _, addr := range []netip.Addr{v4, v6} {
		near, far := a.connect(b, addr)
		talks[addr] = func() bool { return talk(near, far) && talk(far, near) }
	}
	until := Now().Add(long)
	if _, err := first.Renew(until); err != nil {
		t.Fatal(err)
	}
	first.Close()
	check := func(when string) {
		t.Helper()
		for addr, ok := range talks {
			if !ok() {
				t.Fatalf("%s: the connection to %s is dead", when, addr)
			}
		}
		if f, ok := b.askARP(hostB, v4, bound); !ok || !bytes.Equal(f.mac, a.mac()) {
			t.Fatalf("%s: ARP: %+v", when, f)
		}
	}
	check("no agent")
	second, err := Open(Config{Netns: int(a.ns)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Close)
	check("opened")
	if _, err := second.Renew(until); err != nil {
		t.Fatal(err)
	}
	check("renewed before it manages anything")
	if err := second.Manage(site); err != nil {
		t.Fatal(err)
	}
	check("managed")
	if st := phase(t, second, v4); st.Phase != fleet.Speaking {
		t.Fatalf("found %+v", st)
	}
	for _, addr := range []netip.Addr{v4, v6} {
		if c := claim(t, second, addr); !c.Adopted || c.Severed != 0 {
			t.Fatalf("not adopted: %+v", c)
		}
	}
	check("claimed")
	// What the first claimed can be given up by the third without a claim.
	second.Close()
	third := a.open(nil)
	if err := third.Drop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.has(v4) || a.has(v6) {
		t.Fatal("not dropped")
	}
	// A claim afterwards is a new one, and ends what is left of the old (HOLES 41).
	if c := claim(t, third, v4); c.Adopted || c.Severed != 1 {
		t.Fatalf("%+v", c)
	}
}

// What is left of a lease that has ended is no reason to believe that it lives.
func TestLeftoverIsNotAdopted(t *testing.T) {
	a := newNetwork(t, 1)[0]
	s := a.open(nil)
	claim(t, s, v4)
	s.mu.Lock()
	if err := s.guard.shut([]netip.Addr{v4}); err != nil {
		t.Fatal(err)
	}
	s.mu.Unlock()
	if st := phase(t, s, v4); st.Phase != fleet.Shut {
		t.Fatalf("found %+v", st)
	}
	if c := claim(t, s, v4); c.Adopted {
		t.Fatal("adopted")
	}
	if st := phase(t, s, v4); st.Phase != fleet.Speaking {
		t.Fatalf("found %+v", st)
	}
}

func TestProbe(t *testing.T) {
	hosts := newNetwork(t, 3)
	a, b, c := hosts[0], hosts[1], hosts[2]
	s := a.open(nil)
	ask := func(addr netip.Addr, wait time.Duration) []net.HardwareAddr {
		t.Helper()
		got, err := s.Probe(t.Context(), addr, wait)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, addr := range []netip.Addr{v4, v6} {
		if got := ask(addr, 200*time.Millisecond); len(got) != 0 {
			t.Errorf("%s: answered by %v", addr, got)
		}
	}
	keepAlive(t, s, long)
	for _, addr := range []netip.Addr{v4, v6} {
		claim(t, s, addr)
		if got := ask(addr, 200*time.Millisecond); len(got) != 0 {
			t.Errorf("%s, held by the host itself: answered by %v", addr, got)
		}
		for _, other := range []*host{b, c} {
			other.install(addr, addr.BitLen())
		}
		var got []net.HardwareAddr
		eventually(t, "both answer", func() bool { got = ask(addr, 100*time.Millisecond); return len(got) == 2 })
		slices.SortFunc(got, func(x, y net.HardwareAddr) int { return bytes.Compare(x, y) })
		want := []net.HardwareAddr{b.mac(), c.mac()}
		slices.SortFunc(want, func(x, y net.HardwareAddr) int { return bytes.Compare(x, y) })
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", addr, diff)
		}
	}
	if _, err := s.Probe(t.Context(), hostB, time.Second); !errors.Is(err, ErrUnmanaged) {
		t.Errorf("probed for an unmanaged address: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Probe(ctx, v4, bound); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A claim is announced by ARP in the form of a request, and again; and the
// neighbours switch at once, a host that manages the address itself included.
func TestAnnouncementsMoveTheNeighbours(t *testing.T) {
	hosts := newNetwork(t, 3)
	a, b, c := hosts[0], hosts[1], hosts[2]
	sa, sb := a.open(nil), b.open(nil)
	c.open(nil)
	stop := keepAlive(t, sa, long)
	keepAlive(t, sb, long)
	for _, addr := range []netip.Addr{v4, v6} {
		claim(t, sa, addr)
		if !c.ping(addr, bound) {
			t.Fatalf("%s does not answer", addr)
		}
		if got := c.neighbour(addr); !bytes.Equal(got, a.mac()) {
			t.Fatalf("%s is at %v", addr, got)
		}
	}
	stop()
	if err := sa.Drop(t.Context()); err != nil {
		t.Fatal(err)
	}
	ear := c.listen()
	for _, addr := range []netip.Addr{v4, v6} {
		claim(t, sb, addr)
		eventually(t, "the neighbour switches", func() bool { return bytes.Equal(c.neighbour(addr), b.mac()) })
	}
	for range 4 {
		f, ok := ear.next(bound)
		for ok && f.sender != v4 {
			f, ok = ear.next(bound)
		}
		if !ok || f.op != arpRequest || f.target != v4 || !bytes.Equal(f.mac, b.mac()) {
			t.Fatalf("announced as %+v, %v", f, ok)
		}
	}
}

// A holder whose address another host announces says at once that it is not so.
func TestHolderDefends(t *testing.T) {
	hosts := newNetwork(t, 3)
	a, b, c := hosts[0], hosts[1], hosts[2]
	s := a.open(nil)
	keepAlive(t, s, long)
	for _, addr := range []netip.Addr{v4, v6} {
		claim(t, s, addr)
		if !c.ping(addr, bound) {
			t.Fatalf("%s does not answer", addr)
		}
		s.mu.Lock() // it is long announced: only the defence is left
		s.managed[addr].tell = s.now().Add(time.Hour)
		s.mu.Unlock()
		changes := s.Watch(t.Context())
		w := b.wire()
		defer w.close()
		if addr.Is6() {
			b.install(addr, 128) // to send from it
		}
		if err := w.announce(addr, b.index(), b.mac()); err != nil {
			t.Fatal(err)
		}
		if got := change(t, changes, Contested); got.Addr != addr || !bytes.Equal(got.MAC, b.mac()) {
			t.Errorf("%+v", got)
		}
		eventually(t, "the neighbour is right again", func() bool { return bytes.Equal(c.neighbour(addr), a.mac()) })
	}
}

// A machine that was given a held address, and does no more than answer for it, is heard
// again and again, and known by its own address.
func TestQuietStranger(t *testing.T) {
	hosts := newNetwork(t, 2)
	a, b := hosts[0], hosts[1]
	b.install(v4, 32)
	s := a.open(nil)
	keepAlive(t, s, long)
	changes := s.Watch(t.Context())
	claim(t, s, v4)
	for range 2 {
		if got := change(t, changes, Contested); got.Addr != v4 || !bytes.Equal(got.MAC, b.mac()) {
			t.Fatalf("%+v", got)
		}
	}
	if !a.ping(hostB, bound) {
		t.Fatal("b does not answer at its own address")
	}
	if got, err := s.Neighbours(b.mac()); err != nil || !slices.Contains(got, hostB) {
		t.Errorf("at %v are %v: %v", b.mac(), got, err)
	}
}

func TestWatch(t *testing.T) {
	hosts := newNetwork(t, 2)
	a, b := hosts[0], hosts[1]
	s := a.open(nil)
	changes := s.Watch(t.Context())
	stop := keepAlive(t, s, long)
	for _, addr := range []netip.Addr{v4, v6} {
		claim(t, s, addr)
		a.remove(addr)
		if got := change(t, changes, Lost); got.Addr != addr || got.Interface != "eth0" {
			t.Errorf("%+v", got)
		}
		if got := change(t, changes, Restored); got.Addr != addr {
			t.Errorf("%+v", got)
		}
		if !a.has(addr) || !b.ping(addr, bound) {
			t.Errorf("%s does not answer", addr)
		}
	}
	eth, err := a.rt.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.rt.LinkSetDown(eth); err != nil { // takes the IPv6 addresses with it
		t.Fatal(err)
	}
	if got := change(t, changes, CarrierLost); got.Interface != "eth0" {
		t.Errorf("%+v", got)
	}
	if err := a.rt.LinkSetUp(eth); err != nil {
		t.Fatal(err)
	}
	if got := change(t, changes, CarrierBack); got.Interface != "eth0" {
		t.Errorf("%+v", got)
	}
	for _, addr := range []netip.Addr{v4, v6} {
		eventually(t, addr.String()+" is back", func() bool { return a.has(addr) })
	}
	if !b.ping(v4, bound) {
		t.Error("it does not answer")
	}
	// Nobody renews: the kernel removes it, and that is the end of the claim.
	stop()
	ctx, cancel := context.WithCancel(t.Context())
	changes = s.Watch(ctx)
	if _, err := s.Renew(s.now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if got := change(t, changes, Lost); !strings.Contains(got.Why, "lease") {
		t.Errorf("%+v", got)
	}
	eventually(t, "they are gone", func() bool { return !a.has(v4) && !a.has(v6) })
	cancel()
	for range changes { // is closed
	}
}

func TestManageRefuses(t *testing.T) {
	a := newNetwork(t, 1)[0]
	s := a.open(nil)
	claim(t, s, v4)
	for name, addrs := range map[string][]Managed{
		"nonsense":         {{netip.Addr{}, "eth0"}, {netip.MustParseAddr("127.0.0.1"), "eth0"}},
		"no interface":     {{v4, ""}},
		"twice":            {{v4, "eth0"}, {netip.MustParseAddr("::ffff:10.77.0.100"), "eth0"}},
		"held, left out":   {{v4b, "eth0"}},
		"held, moved away": {{v4, "eth1"}},
	} {
		if err := s.Manage(addrs); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := s.Claim(t.Context(), hostB, s.now().Add(long)); !errors.Is(err, ErrUnmanaged) {
		t.Errorf("claimed an unmanaged address: %v", err)
	}
	if err := s.Manage([]Managed{{v4, "eth0"}, {v4b, "nic9"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(t.Context(), v4b, s.now().Add(long)); err == nil || !strings.Contains(err.Error(), "nic9") {
		t.Errorf("claimed on an interface that does not exist: %v", err)
	}
	if st := phase(t, s, v4); st.Phase != fleet.Speaking {
		t.Errorf("found %+v", st)
	}
	if _, err := s.Claim(t.Context(), v4, s.now()); !errors.Is(err, ErrTooLate) {
		t.Errorf("claimed without a lease: %v", err)
	}
}

// Every connection to the address ends, in every family in which it can be
// spelled; listeners and other connections do not.
func TestSever(t *testing.T) {
	hosts := newNetwork(t, 2)
	a, b := hosts[0], hosts[1]
	s := b.open(nil)
	for _, addr := range []netip.Addr{v4, v6} {
		a.install(addr, addr.BitLen())
	}
	mapped := netip.MustParseAddr("::ffff:10.77.0.100")
	for _, addr := range []netip.Addr{v4, mapped, v6} {
		listener, theirs := b.listenTCP("10.77.0.2:0"), a.listenTCP("[::]:0")
		near, far := b.dial(theirs, addr)
		otherNear, otherFar := b.dial(theirs, hostA)
		// Addressed the other way round: the address is at the local end.
		back, front := a.dial(listener, hostB)
		for _, want := range []struct {
			local bool
			n     int
		}{{false, 1}, {false, 0}} {
			n, err := s.Sever(t.Context(), addr, want.local)
			if err != nil || n != want.n {
				t.Fatalf("severed %d of %s: %v, want %d", n, addr, err, want.n)
			}
		}
		near.SetReadDeadline(time.Now().Add(bound))
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("the connection to %s: %v", addr, err)
		}
		far.Close()
		if !talk(otherNear, otherFar) || !talk(back, front) {
			t.Error("another connection was ended")
		}
		// hostB is the local end of the two that are left.
		if n, err := s.Sever(t.Context(), hostB, true); addr.Is4() && (err != nil || n != 2) {
			t.Errorf("severed %d from %s: %v", n, hostB, err)
		}
		again, other := a.dial(listener, hostB)
		if !talk(again, other) {
			t.Error("the listener was ended")
		}
		s.Sever(t.Context(), hostB, true)
		listener.Close()
	}
}

// What the holder's own clients have opened since the claim is alive.
func TestSeverSparesWhatIsHeld(t *testing.T) {
	hosts := newNetwork(t, 2)
	a, b := hosts[0], hosts[1]
	s := a.open(nil)
	keepAlive(t, s, long)
	claim(t, s, v4)
	near, far := a.connect(b, v4)
	if n, err := s.Sever(t.Context(), v4, true); n != 0 || err != nil {
		t.Errorf("severed %d: %v", n, err)
	}
	if !talk(near, far) {
		t.Error("the connection is dead")
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	a := newNetwork(t, 1)[0]
	s, err := Open(Config{Netns: int(a.ns)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Manage(site); err != nil {
		t.Fatal(err)
	}
	changes := s.Watch(context.Background())
	claim(t, s, v4)
	done := make(chan struct{})
	go func() { s.Close(); close(done) }()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		t.Fatal("Close does not return: a goroutine goes on")
	}
	for range changes {
	}
	if !a.has(v4) {
		t.Error("Close removed the address")
	}
}

func TestLifetime(t *testing.T) {
	for _, c := range []struct {
		left, want time.Duration
	}{
		{time.Millisecond, time.Second},
		{300 * time.Millisecond, time.Second},
		{750 * time.Millisecond, time.Second},
		{751 * time.Millisecond, 2 * time.Second},
		{1500 * time.Millisecond, 2 * time.Second},
		{5 * time.Second, 6 * time.Second},
	} {
		got := lifetime(fleet.Moment(c.left), 0)
		if got != c.want {
			t.Errorf("lifetime for %s is %s, want %s", c.left, got, c.want)
		}
		// The kernel may be 0.98 s late with it.
		if late := got + 980*time.Millisecond - c.left; late > fleet.CoarseLate && c.left >= time.Millisecond {
			t.Errorf("lifetime for %s ends up to %s late", c.left, late)
		}
	}
}
