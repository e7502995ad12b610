package vip

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// State is one managed address as it was found on this host.
type State struct {
	Managed
	// Phase is fleet.Absent, fleet.Speaking, fleet.Shut or fleet.Foreign.
	Phase string
	// Left is how long it may still speak if nobody renews it.
	Left time.Duration
	// Permanent says that only a person or its maker will remove it: the kernel will not.
	Permanent bool
	// Why explains a foreign address: where it is and what is odd about it.
	Why string
}

// Found returns each managed address as it is in the kernel now, ordered by
// address, whoever put it there. The guard is rebuilt first if it is missing.
func (s *Set) Found(ctx context.Context) ([]State, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("find addresses: %w", err)
	}
	s.mu.Lock()
	var managed []Managed
	for _, addr := range s.order {
		managed = append(managed, s.managed[addr].Managed)
	}
	err := s.stand()
	var speaking map[netip.Addr]time.Duration
	if err == nil {
		speaking, err = s.guard.speaking()
	}
	s.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("find addresses: %w", err)
	}
	return states(s.rt, managed, speaking)
}

// Neighbours returns the addresses that this host has lately found at a MAC, by the
// kernel's own table.
func (s *Set) Neighbours(mac net.HardwareAddr) ([]netip.Addr, error) {
	all, err := s.rt.NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	var out []netip.Addr
	for _, n := range all {
		if addr, ok := netip.AddrFromSlice(n.IP); ok && bytes.Equal(n.HardwareAddr, mac) {
			out = append(out, addr.Unmap())
		}
	}
	return out, nil
}

// Look is Found without a Set: it changes nothing, builds no guard and silences
// nothing. It is for the first look at a site that somebody else still manages.
func Look(ctx context.Context, c Config, addrs []Managed) ([]State, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("look for addresses: %w", err)
	}
	next, order, err := declared(addrs)
	if err != nil {
		return nil, fmt.Errorf("look for addresses: %w", err)
	}
	var managed []Managed
	for _, addr := range order {
		managed = append(managed, next[addr].Managed)
	}
	rt, err := netlink.NewHandleAt((&Set{ns: c.Netns}).handle(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("look for addresses: open rtnetlink: %w", err)
	}
	defer rt.Close()
	g := guard{ns: c.Netns, now: Now}
	defer g.close()
	speaking, err := g.speaking()
	if err != nil {
		return nil, fmt.Errorf("look for addresses: %w", err)
	}
	return states(rt, managed, speaking)
}

// stand makes sure that the guard stands. The caller holds mu.
func (s *Set) stand() error {
	if s.broken == nil {
		if s.guard.expect(s.guard.generation) == nil && s.guard.sound() == nil {
			return nil
		}
	}
	return s.mend()
}

func states(rt *netlink.Handle, managed []Managed, speaking map[netip.Addr]time.Duration) ([]State, error) {
	present, err := list(rt)
	if err != nil {
		return nil, err
	}
	var out []State
	for _, m := range managed {
		out = append(out, state(rt, m, present[m.Addr], speaking))
	}
	return out, nil
}

func state(rt *netlink.Handle, m Managed, present []netlink.Addr, speaking map[netip.Addr]time.Duration) State {
	st := State{Managed: m, Phase: fleet.Absent}
	index := 0
	if l, err := rt.LinkByName(m.Interface); err == nil {
		index = l.Attrs().Index
	}
	for _, p := range present {
		st.Permanent = st.Permanent || permanent(p)
		if why := foreign(p, index); why != "" {
			name := fmt.Sprint("interface ", p.LinkIndex)
			if l, err := rt.LinkByIndex(p.LinkIndex); err == nil {
				name = l.Attrs().Name
			}
			st.Phase, st.Why = fleet.Foreign, fmt.Sprintf("%s on %s: %s", p.IPNet, name, why)
			return st
		}
		st.Phase = fleet.Shut
		if left := speaking[m.Addr]; left > 0 {
			st.Phase, st.Left = fleet.Speaking, left
		}
	}
	return st
}

// foreign says why an address that is present cannot be ours; "" if it can. index
// is the interface that it belongs on.
func foreign(p netlink.Addr, index int) string {
	ones, bits := p.Mask.Size()
	switch {
	case permanent(p):
		return "it is permanent: the kernel would never end it"
	case ones != bits:
		return fmt.Sprintf("it is installed as /%d", ones)
	case p.LinkIndex != index:
		return "it is on another interface"
	}
	return ""
}

func permanent(p netlink.Addr) bool { return p.Flags&unix.IFA_F_PERMANENT != 0 }

// Carried says which addresses, this host's own or managed ones, are on an interface
// that is up and has a carrier. All are looked up in one listing: where Neutron's ports
// live a host has a thousand interfaces, and it is asked every second.
func (s *Set) Carried(addrs []netip.Addr) (map[netip.Addr]bool, error) {
	all, err := list(s.rt)
	if err != nil {
		return nil, err
	}
	out := map[netip.Addr]bool{}
	for _, addr := range addrs {
		for _, p := range all[addr] {
			l, err := s.rt.LinkByIndex(p.LinkIndex)
			if errors.As(err, &netlink.LinkNotFoundError{}) {
				continue // it went meanwhile, and its addresses with it
			}
			if err != nil {
				return nil, fmt.Errorf("look at interface %d: %w", p.LinkIndex, err)
			}
			const usable = unix.IFF_UP | unix.IFF_RUNNING
			out[addr] = out[addr] || l.Attrs().RawFlags&usable == usable
		}
	}
	return out, nil
}

// present returns where an address is on this host now.
func (s *Set) present(addr netip.Addr) ([]netlink.Addr, error) {
	all, err := list(s.rt)
	return all[addr], err
}

// list returns all addresses of the host.
func list(rt *netlink.Handle) (map[netip.Addr][]netlink.Addr, error) {
	var found []netlink.Addr
	var err error
	for range tries { // the list changed while it was read
		if found, err = rt.AddrList(nil, netlink.FAMILY_ALL); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := map[netip.Addr][]netlink.Addr{}
	for _, f := range found {
		if addr, ok := netip.AddrFromSlice(f.IP); ok {
			out[addr.Unmap()] = append(out[addr.Unmap()], f)
		}
	}
	for _, same := range out {
		slices.SortFunc(same, func(a, b netlink.Addr) int { return cmp.Compare(a.LinkIndex, b.LinkIndex) })
	}
	return out, nil
}

// Received counts the packets that have come in over the interfaces of these addresses:
// a host for which it stands still hears nobody at all.
func (s *Set) Received(addrs []netip.Addr) (packets uint64, err error) {
	all, err := list(s.rt)
	if err != nil {
		return 0, err
	}
	seen := map[int]bool{}
	for _, addr := range addrs {
		for _, p := range all[addr] {
			if seen[p.LinkIndex] {
				continue
			}
			seen[p.LinkIndex] = true
			l, err := s.rt.LinkByIndex(p.LinkIndex)
			if err != nil {
				return 0, fmt.Errorf("look at interface %d: %w", p.LinkIndex, err)
			}
			if st := l.Attrs().Statistics; st != nil {
				packets += st.RxPackets
			}
		}
	}
	return packets, nil
}

// Gateways returns the routers that this host's routes name: who is there answers.
func (s *Set) Gateways() ([]netip.Addr, error) {
	routes, err := s.rt.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	var out []netip.Addr
	for _, r := range routes {
		if gw, ok := netip.AddrFromSlice(r.Gw); ok && !slices.Contains(out, gw.Unmap()) {
			out = append(out, gw.Unmap())
		}
	}
	return out, nil
}
