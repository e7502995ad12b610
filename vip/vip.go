// Package vip lets this host speak for virtual addresses, and lets the kernel
// itself end that when the agent no longer can.
//
// An address is spoken for under a lease. What a dead, frozen or cut off agent
// cannot do, the kernel does at the lease's end, by two means of its own:
//
//   - The guard: nftables drops what comes to, or goes out from, a *managed*
//     address, in IP and in ARP, unless the address is an element of the set of
//     those that are *speaking*. The elements time out by themselves, on the
//     millisecond (fleet.GuardLate). So every host may carry the same rules, and
//     the element is the lease.
//   - The lifetime: the address is installed for whole seconds (valid_lft) and
//     vanishes by itself. This is coarse (fleet.CoarseLate), and is what remains
//     if somebody flushes the rule set and the agent dies before it has noticed.
//
// A Set is what one agent knows of its host's addresses:
//
//	set.Manage(...)                every address of the site; all are shut
//	set.Claim(ctx, addr, until)    open the guard, add the address, announce it
//	late, err := set.Renew(until)  with every majority of acknowledgements
//	set.Release(ctx, addr)         shut the guard, remove the address
//
// Close leaves guard, elements and addresses as they are: an agent that restarts
// within its lease opens a new Set, claims what it held, and nothing is silent
// for a moment.
//
// Every deed reads the clock again after it, since an agent can be stopped
// between a look at the clock and the system call that follows from it
// (HOLES 22); what came too late is undone.
package vip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

var (
	// ErrTooLate says that the lease had ended before the deed was done. The deed
	// has been undone: the guard is shut.
	ErrTooLate = errors.New("the lease ended first")
	// ErrForeign says that somebody else put the address on this host: it is
	// permanent, or in a larger prefix, or on another interface. It is neither
	// adopted nor removed (HOLES 43).
	ErrForeign = errors.New("not put there by mainstay")
	// ErrUnmanaged says that Manage has not named the address.
	ErrUnmanaged = errors.New("not a managed address")
	// ErrUnguarded says that the guard does not stand and cannot be rebuilt.
	// Nothing is claimed without it: the leader counts on fleet.GuardLate.
	ErrUnguarded = errors.New("the kernel guard does not stand")
)

// Config says where a Set works.
type Config struct {
	// Netns is a file descriptor of the network namespace, which must stay open as
	// long as the Set; 0 is the process's own.
	Netns int
	// Now replaces the clock, for tests; nil is Now of this package.
	Now func() fleet.Moment
}

// Managed is a virtual address of the site and the interface that it lives on here.
type Managed struct {
	Addr      netip.Addr
	Interface string
}

// Set holds the virtual addresses of one host. Its methods may be called from
// any goroutine; Renew never waits for the others.
type Set struct {
	now   func() fleet.Moment
	rt    *netlink.Handle
	wire  *wire
	flows *flows
	ns    int

	// deed serializes what changes addresses, and is held over rtnetlink, whose
	// lock in the kernel others may hold for long.
	deed chan struct{}

	// mu is held over nftables and never over rtnetlink, so that a renewal waits
	// for no interface.
	mu      sync.Mutex
	guard   guard
	managed map[netip.Addr]*address
	order   []netip.Addr // its keys; nil before the first Manage, which leaves the guard's own list alone
	links   map[int]link
	mended  bool         // the guard was found broken and no Renew has said so yet
	broken  error        // why the guard could not be rebuilt; nil: it stands
	retry   fleet.Moment // no rebuilding before
	probes  map[*probe]struct{}
	watches map[*watch]struct{}

	keep     chan struct{} // wakes the keeper
	announce chan struct{} // wakes the announcer
	closing  chan struct{}
	closed   sync.Once
	running  sync.WaitGroup
}

// address is what the Set knows of one managed address; under Set.mu.
type address struct {
	Managed
	held      bool         // claimed, and the guard opened
	until     fleet.Moment // the end of its lease
	installed bool         // the address was added, and is not known to be lost
	remove    bool         // its lease ended: the keeper removes it
	untold    bool         // it was found that its lease had ended, and Renew has not said so yet
	lasts     fleet.Moment // when the kernel may remove it at the earliest (valid_lft)
	link      int          // index of the interface at the claim
	retry     fleet.Moment // the keeper failed with it: not again before
	told      int          // announcements made since the claim or the last change of the link
	tell      fleet.Moment // when the next is due
	defended  fleet.Moment
}

type link struct {
	name    string
	mac     net.HardwareAddr
	up      bool // administratively
	carrier bool
}

const (
	// slack is taken off every timeout at first: a renewal may be this long on its
	// way before the element outlives the lease.
	slack = 2 * time.Millisecond
	// tries bounds how often anything is repeated at once.
	tries = 5
	// retryAfter spaces attempts to rebuild a guard that cannot be rebuilt.
	retryAfter = time.Second
)

// Open opens the sockets and builds the guard, or takes over the one it finds
// with everything that speaks under it. A guard that cannot be built is no error
// here: Renew says so, with the reason, as long as that lasts.
func Open(c Config) (*Set, error) {
	s := &Set{
		now: c.Now, ns: c.Netns,
		deed:    make(chan struct{}, 1),
		managed: map[netip.Addr]*address{}, links: map[int]link{},
		probes: map[*probe]struct{}{}, watches: map[*watch]struct{}{},
		keep: make(chan struct{}, 1), announce: make(chan struct{}, 1), closing: make(chan struct{}),
	}
	if s.now == nil {
		s.now = Now
	}
	s.guard = guard{ns: s.ns, now: s.now}
	if err := s.open(); err != nil {
		s.Close()
		return nil, fmt.Errorf("open virtual addresses: %w", err)
	}
	return s, nil
}

func (s *Set) open() (err error) {
	if s.rt, err = netlink.NewHandleAt(s.handle(), unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	if s.flows, err = openFlows(s.ns); err != nil {
		return err
	}
	if s.wire, err = openWire(s.ns); err != nil {
		return err
	}
	s.mu.Lock()
	if err := s.guard.build(nil, nil, 0); err != nil {
		s.unguarded(err)
	}
	s.mu.Unlock()
	events, err := s.subscribe()
	if err != nil {
		return err
	}
	s.start(func() { s.follow(events) })
	s.start(func() { s.wire.hearARP(s.hear) })
	s.start(func() { s.wire.hearNA(s.hear) })
	s.start(s.keeper)
	s.start(s.announcer)
	return nil
}

func (s *Set) start(f func()) {
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		f()
	}()
}

// handle is the namespace as the netlink library wants it.
func (s *Set) handle() netns.NsHandle {
	if s.ns == 0 {
		return netns.None()
	}
	return netns.NsHandle(s.ns)
}

// Close ends the Set's goroutines and sockets. Addresses and guard are left to
// the kernel, which ends them with their lease; to give them up use Drop. No
// other method may be called afterwards or be under way.
func (s *Set) Close() { s.closed.Do(s.close) }

func (s *Set) close() {
	close(s.closing)
	if s.wire != nil {
		s.wire.close()
	}
	s.running.Wait()
	s.guard.close()
	if s.flows != nil {
		s.flows.close()
	}
	if s.rt != nil {
		s.rt.Close()
	}
}

// Manage declares which addresses are the site's, in place of those declared
// before. From then on each of them is silent on this host unless it is claimed;
// one that already speaks under the guard goes on until its time is out. It is an
// error to leave out an address that this Set holds, or to move it to another
// interface; then nothing changes.
//
// An address that somebody else put on this host (see ErrForeign) falls silent
// too. To look before that, use Look.
func (s *Set) Manage(addrs []Managed) error {
	next, order, err := declared(addrs)
	if err != nil {
		return fmt.Errorf("manage addresses: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, a := range s.managed {
		if !a.held {
			continue
		}
		if n, ok := next[addr]; !ok || n.Interface != a.Interface {
			return fmt.Errorf("manage addresses: %s is held on %s: release it first", addr, a.Interface)
		}
		next[addr] = a
	}
	if err := s.wire.listen(order); err != nil {
		return fmt.Errorf("manage addresses: %w", err)
	}
	s.managed, s.order = next, order
	if s.broken == nil {
		if s.guard.manage(order) == nil && s.guard.sound() == nil {
			return nil
		}
	}
	if err := s.mend(); err != nil {
		return fmt.Errorf("manage addresses: %w", err)
	}
	return nil
}

// declared checks a declaration and returns it by address, and in order.
func declared(addrs []Managed) (map[netip.Addr]*address, []netip.Addr, error) {
	next := map[netip.Addr]*address{}
	var wrong []error
	for _, m := range addrs {
		m.Addr = m.Addr.Unmap()
		switch {
		case !m.Addr.IsValid() || m.Addr.IsUnspecified() || m.Addr.IsMulticast() || m.Addr.IsLoopback() || m.Addr.Zone() != "":
			wrong = append(wrong, fmt.Errorf("%s cannot be a virtual address", m.Addr))
		case m.Interface == "":
			wrong = append(wrong, fmt.Errorf("%s has no interface", m.Addr))
		case next[m.Addr] != nil:
			wrong = append(wrong, fmt.Errorf("%s is named twice", m.Addr))
		default:
			next[m.Addr] = &address{Managed: m}
		}
	}
	order := make([]netip.Addr, 0, len(next))
	for addr := range next {
		order = append(order, addr)
	}
	slices.SortFunc(order, netip.Addr.Compare)
	return next, order, errors.Join(wrong...)
}

// mend rebuilds the guard after it was found broken, with what is managed and
// what may speak at this moment. The caller holds mu.
func (s *Set) mend() error {
	s.mended = true
	if now := s.now(); s.broken != nil && now.Before(s.retry) {
		return s.broken
	}
	for range tries {
		now := s.now()
		managed := s.order
		// Each address gets its own rest; they differ only around a claim, and then
		// the shorter is renewed within a beat.
		speaking, left := s.speakers(now)
		if err := s.guard.build(managed, speaking, left); err != nil {
			s.unguarded(err)
			return s.broken
		}
		if s.now().Sub(now) <= slack || len(speaking) == 0 {
			s.broken = nil
			return nil
		}
	}
	s.broken = nil
	return nil
}

// unguarded notes that the guard does not stand.
func (s *Set) unguarded(err error) {
	s.broken = fmt.Errorf("%w: %w", ErrUnguarded, err)
	s.mended = true
	s.retry = s.now().Add(retryAfter)
}

// speakers returns the addresses that may still speak, and for how long the one
// may that may shortest.
func (s *Set) speakers(now fleet.Moment) ([]netip.Addr, time.Duration) {
	var out []netip.Addr
	var left time.Duration
	for addr, a := range s.managed {
		if rest := timeout(a.until, now, slack); a.held && rest > 0 {
			if out = append(out, addr); left == 0 || rest < left {
				left = rest
			}
		}
	}
	return out, left
}

// timeout is what an element may be given at now for a lease until then, with a
// margin for its way to the kernel: whole milliseconds, as the kernel counts; 0 if
// nothing is left.
func timeout(until, now fleet.Moment, margin time.Duration) time.Duration {
	return max(0, (until.Sub(now) - margin).Truncate(time.Millisecond))
}
