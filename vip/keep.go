package vip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"mainstay/fleet"
)

// poke wakes a goroutine that is not awake yet.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// keepAgain is how long the keeper waits after a failure.
const keepAgain = 250 * time.Millisecond

// keeper does for Renew what needs rtnetlink, and so may have to wait: it renews
// lifetimes before they end, puts a held address back that somebody removed, and
// removes those whose lease has ended.
func (s *Set) keeper() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.closing:
			return
		case <-s.keep:
		case <-timer.C:
		}
		if !s.tend() {
			timer.Reset(keepAgain)
		}
	}
}

// tend does what is to be done and says whether all of it succeeded.
func (s *Set) tend() bool {
	if s.begin(context.Background()) != nil {
		return true // closing
	}
	defer s.end()
	now := s.now()
	well := true
	var remove, install []*address
	s.mu.Lock()
	for _, a := range s.managed {
		switch {
		case now.Before(a.retry):
			well = false
		case a.remove:
			remove = append(remove, a)
		case a.held && now.Before(a.until) && (!a.installed || a.until.After(a.lasts)):
			install = append(install, a)
		}
	}
	s.mu.Unlock()
	for _, a := range remove {
		if err := s.clear(a); err != nil && !errors.Is(err, ErrForeign) {
			well = s.again(a)
		}
	}
	for _, a := range install {
		if s.reinstall(a) != nil {
			well = s.again(a)
		}
	}
	return well
}

func (s *Set) again(a *address) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.retry = s.now().Add(keepAgain)
	return false
}

// reinstall renews the lifetime of a held address, or puts it back. The kernel
// creates what is not there, so the lease is looked at again afterwards.
func (s *Set) reinstall(a *address) error {
	s.mu.Lock()
	was, until, index := a.installed, a.until, a.link
	s.mu.Unlock()
	if !was { // perhaps the interface has been made anew
		link, err := s.rt.LinkByName(a.Interface)
		if err != nil {
			return fmt.Errorf("find interface %s: %w", a.Interface, err)
		}
		index = link.Attrs().Index
	}
	if err := s.install(a, index, until); err != nil {
		return err
	}
	s.mu.Lock()
	now := s.now()
	over := !a.held || !now.Before(a.until)
	if over {
		a.untold = a.untold || a.held
		s.lapse([]*address{a})
	} else if !was {
		s.tellSoon(a)
		s.report(Change{Kind: Restored, Addr: a.Addr, Interface: a.Interface, Why: "the lease still runs"})
	}
	s.mu.Unlock()
	if over {
		return s.clear(a)
	}
	return nil
}

// pauses lie between one announcement and the next; the last is repeated. So
// they are made 0, 50, 200 ms and 1 s after the claim, and then every 10 s.
var pauses = []time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 800 * time.Millisecond, 10 * time.Second}

// announcer announces every held address when it is due.
func (s *Set) announcer() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.closing:
			return
		case <-s.announce:
		case <-timer.C:
		}
		next := pauses[len(pauses)-1]
		s.mu.Lock()
		now := s.now()
		for _, a := range s.managed {
			if !a.held || !a.installed || !now.Before(a.until) {
				continue
			}
			if !now.Before(a.tell) {
				_ = s.tell(a, now) // what failed is sent again the next time
			}
			next = min(next, a.tell.Sub(now))
		}
		s.mu.Unlock()
		timer.Reset(next)
	}
}

// tell announces an address once. The caller holds mu, and has just seen that the
// lease runs.
func (s *Set) tell(a *address, now fleet.Moment) error {
	settled := a.told >= len(pauses)-1
	a.tell = now.Add(pauses[min(a.told, len(pauses)-1)])
	a.told++
	err := s.wire.announce(a.Addr, a.link, s.links[a.link].mac)
	if settled && a.Addr.Is4() {
		// A machine that somebody gave the address answers the neighbours' questions and
		// not our announcements, so nobody here would hear of it. Not so in IPv6: its own
		// duplicate detection asks us, and an answer to this goes to all and moves them.
		err = errors.Join(err, s.wire.probe(a.Addr, a.link, s.links[a.link].mac))
	}
	if err != nil {
		return fmt.Errorf("announce on %s: %w", a.Interface, err)
	}
	return nil
}

// tellSoon starts the announcements of an address again. The caller holds mu.
func (s *Set) tellSoon(a *address) {
	a.told, a.tell = 0, 0
	poke(s.announce)
}

// defendEvery keeps two hosts that both believe they hold an address from filling
// the network with their quarrel.
const defendEvery = 100 * time.Millisecond

// hear is told whenever a managed address is named as the sender of ARP or of an
// advertisement. If we hold it and another host spoke, the neighbours now believe
// that host: we say at once that it is not so. (This is what undoes an
// announcement that a frozen agent sent too late.)
func (s *Set) hear(h heard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		if len(h.mac) > 0 && bytes.Equal(l.mac, h.mac) {
			return // it was us
		}
	}
	for p := range s.probes {
		if p.addr == h.addr && p.link == h.link && !slices.ContainsFunc(p.answers, func(m net.HardwareAddr) bool { return bytes.Equal(m, h.mac) }) {
			p.answers = append(p.answers, h.mac)
		}
	}
	a := s.managed[h.addr]
	if now := s.now(); a != nil && a.held && a.link == h.link && now.Before(a.until) {
		s.report(Change{Kind: Contested, Addr: a.Addr, Interface: a.Interface, MAC: h.mac, Why: "another host speaks for it"})
		if now.Sub(a.defended) >= defendEvery {
			a.defended = now
			s.tellSoon(a)
		}
	}
}

// probe is a question on its way; answers are under Set.mu.
type probe struct {
	addr    netip.Addr
	link    int
	answers []net.HardwareAddr
}

// Probe asks the network who has a managed address, without claiming it, and
// returns the hardware addresses of all that answered, or spoke for it unasked,
// within wait; none is good news. An IPv6 answer without a hardware address
// counts as an empty one. This host's own answers are left out.
func (s *Set) Probe(ctx context.Context, addr netip.Addr, wait time.Duration) ([]net.HardwareAddr, error) {
	answers, err := s.probe(ctx, addr.Unmap(), wait)
	if err != nil {
		return nil, fmt.Errorf("probe for %s: %w", addr, err)
	}
	return answers, nil
}

func (s *Set) probe(ctx context.Context, addr netip.Addr, wait time.Duration) ([]net.HardwareAddr, error) {
	s.mu.Lock()
	a := s.managed[addr]
	s.mu.Unlock()
	if a == nil {
		return nil, ErrUnmanaged
	}
	l, err := s.rt.LinkByName(a.Interface)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", a.Interface, err)
	}
	p := &probe{addr: addr, link: l.Attrs().Index}
	s.mu.Lock()
	s.links[p.link] = linkOf(l)
	s.probes[p] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.probes, p)
		s.mu.Unlock()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for range 2 { // one may be lost
		if err := s.wire.probe(addr, p.link, l.Attrs().HardwareAddr); err != nil {
			return nil, fmt.Errorf("send on %s: %w", a.Interface, err)
		}
		timer.Reset(wait / 2)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.closing:
			return nil, net.ErrClosed
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.answers, nil
}
