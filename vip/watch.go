package vip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// Kind says what changed.
type Kind string

// The kinds of change.
const (
	Lost        Kind = "lost"         // a held address is gone from its interface
	Restored    Kind = "restored"     // a lost address is back: the Set put it there again
	Intruded    Kind = "intruded"     // somebody else put a managed address on this host
	Duplicate   Kind = "duplicate"    // the kernel found a managed IPv6 address in use elsewhere (dadfailed)
	Contested   Kind = "contested"    // another host speaks for an address held here
	CarrierLost Kind = "carrier-lost" // an interface of managed addresses has no link any more
	CarrierBack Kind = "carrier-back"
)

// Change is something that happened to a managed address or its interface without
// our doing.
type Change struct {
	At        fleet.Moment
	Kind      Kind
	Addr      netip.Addr // zero for a carrier
	Interface string
	MAC       net.HardwareAddr // of contested: the other host
	Why       string
}

type watch struct {
	pending []Change
	wake    chan struct{}
}

// Watch returns a channel of changes from now on; it is closed when ctx ends or
// the Set is closed. A slow reader misses nothing of importance: of changes alike
// in kind, address and interface that it has not read yet it gets the latest.
func (s *Set) Watch(ctx context.Context) <-chan Change {
	w := &watch{wake: make(chan struct{}, 1)}
	out := make(chan Change)
	s.mu.Lock()
	s.watches[w] = struct{}{}
	s.mu.Unlock()
	s.start(func() {
		defer close(out)
		defer func() {
			s.mu.Lock()
			delete(s.watches, w)
			s.mu.Unlock()
		}()
		for {
			s.mu.Lock()
			var next *Change
			if len(w.pending) > 0 {
				next = &w.pending[0]
				w.pending = w.pending[1:]
			}
			s.mu.Unlock()
			if next == nil {
				select {
				case <-w.wake:
				case <-ctx.Done():
					return
				case <-s.closing:
					return
				}
				continue
			}
			select {
			case out <- *next:
			case <-ctx.Done():
				return
			case <-s.closing:
				return
			}
		}
	})
	return out
}

// report tells all watches. The caller holds mu.
func (s *Set) report(c Change) {
	c.At = s.now()
	for w := range s.watches {
		known := false
		for i, p := range w.pending {
			if p.Kind == c.Kind && p.Addr == c.Addr && p.Interface == c.Interface {
				w.pending[i], known = c, true
			}
		}
		if !known {
			w.pending = append(w.pending, c)
		}
		poke(w.wake)
	}
}

// events are the kernel's own reports of addresses and links.
type events struct {
	addrs chan netlink.AddrUpdate
	links chan netlink.LinkUpdate
	done  chan struct{}
}

// eventBuffer holds the kernel's reports while we are late, in bytes: enough for
// thousands of links that change at once.
const eventBuffer = 4 << 20

// subscribe asks for the reports, and only then reads how things are.
func (s *Set) subscribe() (*events, error) {
	e := &events{addrs: make(chan netlink.AddrUpdate), links: make(chan netlink.LinkUpdate), done: make(chan struct{})}
	ns := s.handle()
	err := netlink.AddrSubscribeWithOptions(e.addrs, e.done, netlink.AddrSubscribeOptions{
		Namespace: &ns, ErrorCallback: func(error) {}, ReceiveBufferSize: eventBuffer, ReceiveBufferForceSize: true})
	if err != nil {
		return nil, fmt.Errorf("watch addresses: %w", err)
	}
	err = netlink.LinkSubscribeWithOptions(e.links, e.done, netlink.LinkSubscribeOptions{
		Namespace: &ns, ErrorCallback: func(error) {}, ReceiveBufferSize: eventBuffer, ReceiveBufferForceSize: true})
	if err != nil {
		close(e.links)
		e.close()
		return nil, fmt.Errorf("watch links: %w", err)
	}
	if err := s.resync(); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// close ends the reports; the library's goroutines end when nobody is left to read.
func (e *events) close() {
	close(e.done)
	for range e.addrs {
	}
	for range e.links {
	}
}

// resync reads how links and addresses are, and reports what was missed.
func (s *Set) resync() error {
	var found []netlink.Link
	var err error
	for range tries { // the list changed while it was read
		if found, err = s.rt.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	gone := map[int]bool{}
	s.mu.Lock()
	for index := range s.links {
		gone[index] = true
	}
	s.mu.Unlock()
	for _, l := range found {
		delete(gone, l.Attrs().Index)
		s.linkChanged(l.Attrs().Index, linkOf(l))
	}
	for index := range gone {
		s.linkGone(index)
	}
	var held []netip.Addr
	s.mu.Lock()
	for addr, a := range s.managed {
		if a.held && a.installed {
			held = append(held, addr)
		}
	}
	s.mu.Unlock()
	for _, addr := range held {
		s.missing(addr)
	}
	return nil
}

// follow takes the kernel's reports in until the Set is closed.
func (s *Set) follow(e *events) {
	again := func() bool { // a report was lost (ENOBUFS): subscribe anew
		e.close()
		for {
			var err error
			if e, err = s.subscribe(); err == nil {
				return true
			}
			select {
			case <-s.closing:
				return false
			case <-time.After(keepAgain):
			}
		}
	}
	for {
		select {
		case <-s.closing:
			e.close()
			return
		case u, ok := <-e.addrs:
			if !ok {
				if !again() {
					return
				}
				continue
			}
			s.addrChanged(u)
		case u, ok := <-e.links:
			if !ok {
				if !again() {
					return
				}
				continue
			}
			switch {
			case u.Family == unix.AF_BRIDGE: // of a port of a bridge; the link itself lives on
			case u.Header.Type == unix.RTM_DELLINK:
				s.linkGone(int(u.Index))
			default:
				s.linkChanged(int(u.Index), linkOf(u.Link))
			}
		}
	}
}

func (s *Set) addrChanged(u netlink.AddrUpdate) {
	addr, ok := netip.AddrFromSlice(u.LinkAddress.IP)
	if !ok {
		return
	}
	addr = addr.Unmap()
	s.mu.Lock()
	a := s.managed[addr]
	s.mu.Unlock()
	if a == nil {
		return
	}
	if !u.NewAddr {
		s.missing(addr)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.Flags&unix.IFA_F_DADFAILED != 0 {
		s.report(Change{Kind: Duplicate, Addr: addr, Interface: s.links[u.LinkIndex].name, Why: "duplicate address detection failed"})
	}
	found := netlink.Addr{IPNet: &u.LinkAddress, Flags: u.Flags, LinkIndex: u.LinkIndex}
	index := u.LinkIndex
	if s.links[index].name != a.Interface {
		index = 0
	}
	if why := foreign(found, index); why != "" {
		s.report(Change{Kind: Intruded, Addr: addr, Interface: s.links[u.LinkIndex].name, Why: why})
	}
}

// missing looks whether a held address is still there, since a report of its
// removal may be older than the last claim.
func (s *Set) missing(addr netip.Addr) {
	s.mu.Lock()
	a := s.managed[addr]
	if a == nil || !a.held || !a.installed {
		s.mu.Unlock()
		return
	}
	index := a.link
	s.mu.Unlock()
	present, err := s.present(addr)
	// Reports of links and of addresses come apart: ask how the link is now.
	var l link
	if found, err := s.rt.LinkByIndex(index); err == nil {
		l = linkOf(found)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a = s.managed[addr]; err != nil || a == nil || !a.held || !a.installed {
		return
	}
	for _, p := range present {
		if foreign(p, a.link) == "" {
			return
		}
	}
	a.installed = false
	c := Change{Kind: Lost, Addr: addr, Interface: a.Interface, Why: "somebody removed it"}
	switch {
	case !s.now().Before(a.until):
		c.Why = "its lease ran out"
		a.untold = true
		s.lapse([]*address{a})
	case l.name == "":
		c.Why = "the interface is gone"
	case !l.up:
		c.Why = "the interface was taken down"
	}
	s.report(c)
	poke(s.keep)
}

func linkOf(l netlink.Link) link {
	a := l.Attrs()
	return link{name: a.Name, mac: a.HardwareAddr, up: a.Flags&net.FlagUp != 0, carrier: a.RawFlags&unix.IFF_LOWER_UP != 0}
}

func (s *Set) linkChanged(index int, l link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.links[index]
	s.links[index] = l
	lives := false
	for _, a := range s.managed {
		lives = lives || a.Interface == l.name
		// Behind another port or card the neighbours must learn anew.
		if a.held && a.link == index && known && (l.carrier && !old.carrier || !bytes.Equal(l.mac, old.mac)) {
			s.tellSoon(a)
		}
		if a.held && !a.installed && a.Interface == l.name && l.up {
			poke(s.keep)
		}
	}
	if lives && (known && l.carrier != old.carrier || !known && s.order != nil) {
		s.carrier(l.name, l.carrier)
	}
}

func (s *Set) linkGone(index int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.links[index]
	delete(s.links, index)
	if !known {
		return
	}
	for _, a := range s.managed {
		if a.Interface == old.name {
			s.carrier(old.name, false)
			return
		}
	}
}

// carrier reports the state of a link. The caller holds mu.
func (s *Set) carrier(name string, up bool) {
	c := Change{Kind: CarrierLost, Interface: name, Why: "the link is down"}
	if up {
		c.Kind, c.Why = CarrierBack, "the link is up"
	}
	s.report(c)
}
