package vip

import (
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

// Claimed says how a claim went.
type Claimed struct {
	// At is when the address was first announced.
	At fleet.Moment
	// Adopted says that it spoke already, under our guard: nothing was interrupted.
	Adopted bool
	// Severed counts the TCP connections of an earlier time that were ended before
	// the address spoke (HOLES 41); Unsevered is why some may be left.
	Severed   int
	Unsevered error
	// Unannounced is why the first announcement could not be sent; it is repeated.
	Unannounced error
}

// Claim lets this host speak for addr until the lease ends, unless renewed. An
// address that is held already is claimed anew without a gap.
//
// The guard is opened before the address is added, not after: an agent that is
// frozen just before it opens the guard, and again just after, then has opened it
// for an address that is not there. Whatever is left of an earlier lease is
// removed first.
//
// Errors: ErrTooLate if the lease ended meanwhile, ErrForeign, ErrUnmanaged,
// ErrUnguarded, those of the kernel. After an error the address is silent. A call
// into rtnetlink that is under way is not cut short by ctx.
func (s *Set) Claim(ctx context.Context, addr netip.Addr, until fleet.Moment) (c Claimed, err error) {
	addr = addr.Unmap()
	defer func() {
		if err != nil {
			err = fmt.Errorf("claim %s: %w", addr, err)
		}
	}()
	if err := s.begin(ctx); err != nil {
		return c, err
	}
	defer s.end()
	s.mu.Lock()
	a := s.managed[addr]
	s.mu.Unlock()
	if a == nil {
		return c, ErrUnmanaged
	}
	link, err := s.rt.LinkByName(a.Interface)
	if err != nil {
		return c, fmt.Errorf("find interface %s: %w", a.Interface, err)
	}
	index := link.Attrs().Index
	if link.Attrs().Flags&net.FlagUp == 0 {
		return c, fmt.Errorf("interface %s is down", a.Interface)
	}
	present, err := s.present(addr)
	if err != nil {
		return c, err
	}
	for _, p := range present {
		if why := foreign(p, index); why != "" {
			return c, fmt.Errorf("%w: %s", ErrForeign, why)
		}
	}
	if c.Adopted, err = s.adopt(a, len(present) > 0, until); err != nil {
		return c, err
	}
	if !c.Adopted {
		if err := s.uninstall(present); err != nil {
			return c, err
		}
		c.Severed, c.Unsevered = s.flows.sever(ctx, addr, true)
		if err := s.grant(a, until); err != nil {
			return c, err
		}
	}
	if err := s.install(a, index, until); err != nil {
		s.revoke(a)
		return c, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.At = s.now()
	if !a.held || !c.At.Before(a.until) { // a renewal may have found it too late before us
		s.lapse([]*address{a})
		return c, ErrTooLate
	}
	a.told = 0
	s.links[index] = linkOf(link)
	c.Unannounced = s.tell(a, c.At)
	poke(s.announce)
	return c, nil
}

// adopt renews the element of an address that is present, if it is still alive.
func (s *Set) adopt(a *address, present bool, until fleet.Moment) (bool, error) {
	if !present {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return false, nil
	}
	switch err := s.timed(until, s.guard.renew, a.Addr); {
	case errors.Is(err, ErrTooLate):
		s.lapse([]*address{a})
		return false, err
	case err != nil && !errors.Is(err, errLate):
		return false, nil // its time was out, or the guard is gone: then as any other
	}
	a.held, a.until, a.remove, a.untold = true, until, false, false
	return true, nil
}

// grant opens the guard.
func (s *Set) grant(a *address, until fleet.Moment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		if err := s.mend(); err != nil {
			return err
		}
	}
	err := s.timed(until, s.guard.open, a.Addr)
	if err != nil && s.guard.sound() != nil {
		if err := s.mend(); err != nil {
			return err
		}
		err = s.timed(until, s.guard.open, a.Addr)
	}
	if err != nil {
		s.lapse([]*address{a})
		return err
	}
	a.held, a.until, a.remove, a.untold, a.installed, a.lasts = true, until, false, false, false, 0
	return nil
}

// timed changes elements with the timeout that is left at that moment. It looks
// at the clock again as soon as the kernel has done it: the elements live on by as
// much as the change was late. A margin is taken off for that; if it was not
// enough the change is repeated with a larger one, since a busy host is late again.
func (s *Set) timed(until fleet.Moment, change func([]netip.Addr, time.Duration) error, addrs ...netip.Addr) error {
	margin := slack
	for range tries {
		before := s.now()
		left := timeout(until, before, margin)
		switch {
		case left == 0 && (margin == slack || !before.Before(until)):
			return ErrTooLate
		case left == 0: // less is left than the margin takes: what was set first stands
			return errLate
		}
		if err := change(addrs, left); err != nil {
			return err
		}
		if !s.now().Before(until) {
			return ErrTooLate
		}
		late := s.guard.sent.Sub(before)
		if late <= margin {
			return nil
		}
		margin = 2 * max(margin, late)
	}
	return errLate
}

// errLate says that the host was too busy for a change to be on time.
var errLate = errors.New("this host is too busy to renew its guard in time")

// revoke takes back what grant gave.
func (s *Set) revoke(a *address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lapse([]*address{a})
}

// lapse ends the leases of addresses: shut at once, removed by the keeper. If the
// guard cannot be told, the element ends by itself. The caller holds mu.
func (s *Set) lapse(as []*address) {
	var addrs []netip.Addr
	for _, a := range as {
		a.held, a.remove = false, true
		addrs = append(addrs, a.Addr)
	}
	if s.broken == nil && len(addrs) > 0 {
		if s.guard.shut(addrs) != nil && s.mend() == nil {
			_ = s.guard.shut(addrs) // it was tried twice; the elements time out by themselves
		}
	}
	poke(s.keep)
}

// Renew moves the end of every held address's lease to until, in one
// transaction, and checks that the guard stands: with nothing held it does only that.
//
// It returns g, how late the kernel may end the addresses of this host from now
// on if the agent does not: fleet.GuardLate, or fleet.CoarseLate if the guard was
// found missing (then it has been rebuilt, and the next call says GuardLate
// again) or does not stand. g holds with and without an error.
//
// Errors: ErrTooLate names the addresses whose lease had ended: these are shut
// and being removed, the rest is renewed. ErrUnguarded says why the guard cannot
// be rebuilt: only the lifetime of the addresses ends them now.
func (s *Set) Renew(until fleet.Moment) (late time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var held, over []*address
	for _, a := range s.managed {
		switch {
		case a.untold: // somebody found its lease over first
			a.untold = false
			over = append(over, a)
		case !a.held:
		case now.Before(a.until) && now.Before(until):
			held = append(held, a)
		default:
			over = append(over, a)
		}
	}
	busy := false
	switch err := s.renew(held, until); {
	case errors.Is(err, ErrTooLate):
		held, over = nil, append(over, held...)
	case errors.Is(err, errLate):
		busy = true
	}
	for _, a := range held {
		if a.until = until; until.After(a.lasts) || !a.installed {
			poke(s.keep)
		}
	}
	if len(over) > 0 {
		s.lapse(over)
		err = ErrTooLate
		for _, a := range over {
			err = fmt.Errorf("%s: %w", a.Addr, err)
		}
	}
	if late = fleet.GuardLate; s.mended || busy {
		late = fleet.CoarseLate
	}
	if s.mended = s.broken != nil; s.mended {
		err = errors.Join(err, s.broken)
	}
	if err != nil {
		err = fmt.Errorf("renew addresses: %w", err)
	}
	return late, err
}

// renew renews the elements, or rebuilds the guard with them. The caller holds mu.
func (s *Set) renew(held []*address, until fleet.Moment) error {
	var addrs []netip.Addr
	for _, a := range held {
		addrs = append(addrs, a.Addr)
	}
	if s.broken == nil {
		var err error
		if len(held) == 0 {
			err = s.guard.expect(s.guard.generation)
		} else {
			err = s.timed(until, s.guard.renew, addrs...)
		}
		stands := s.guard.sound() == nil
		if stands && errors.Is(err, unix.ENOENT) && !s.over(held) {
			// The kernel ended an element early, by some ms, or somebody deleted it.
			err = s.timed(until, s.guard.open, addrs...)
		}
		if stands && (err == nil || errors.Is(err, errLate) || errors.Is(err, ErrTooLate)) {
			return err
		}
	}
	if s.over(held) {
		return ErrTooLate
	}
	for _, a := range held {
		a.until = until
	}
	if s.mend() == nil && len(held) > 0 && !s.now().Before(until) {
		return ErrTooLate
	}
	return nil
}

// over says whether a lease has ended. What is missing from the guard because its
// time was out is not opened again.
func (s *Set) over(held []*address) bool {
	now := s.now()
	return slices.ContainsFunc(held, func(a *address) bool { return !now.Before(a.until) })
}

// Release shuts the guard for addr, then removes it. To release what is not held
// is no error. An address that somebody else put here is left, silent, and the
// error is ErrForeign.
func (s *Set) Release(ctx context.Context, addr netip.Addr) error {
	addr = addr.Unmap()
	s.mu.Lock()
	a := s.managed[addr]
	s.mu.Unlock()
	err := ErrUnmanaged
	if a != nil {
		err = s.release(ctx, []*address{a})
	}
	if err != nil {
		return fmt.Errorf("release %s: %w", addr, err)
	}
	return nil
}

// Drop releases every managed address, also those that an earlier Set claimed. What
// another program has put there is not ours to remove, and the guard is shut for it:
// that is no error here, or a host would never be done with its drop.
func (s *Set) Drop(ctx context.Context) error {
	var all []*address
	s.mu.Lock()
	for _, a := range s.managed {
		all = append(all, a)
	}
	s.mu.Unlock()
	if err := s.release(ctx, all); err != nil && !onlyForeign(err) {
		return fmt.Errorf("drop all addresses: %w", err)
	}
	return nil
}

// onlyForeign says whether every one of the errors that were joined is ErrForeign.
func onlyForeign(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(joined.Unwrap(), func(e error) bool { return !onlyForeign(e) })
	}
	return errors.Is(err, ErrForeign)
}

func (s *Set) release(ctx context.Context, as []*address) error {
	// The guard does not wait for its turn: silence comes first.
	s.mu.Lock()
	s.lapse(as)
	s.mu.Unlock()
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	s.mu.Lock()
	s.lapse(as) // whatever a claim has done meanwhile
	s.mu.Unlock()
	var errs []error
	for _, a := range as {
		errs = append(errs, s.clear(a))
	}
	return errors.Join(errs...)
}

// clear removes an address whose lease has ended. The caller holds the deed.
func (s *Set) clear(a *address) error {
	present, err := s.present(a.Addr)
	if err != nil {
		return err
	}
	index := 0
	if l, err := s.rt.LinkByName(a.Interface); err == nil {
		index = l.Attrs().Index
	}
	var errs []error
	for _, p := range present {
		if why := foreign(p, index); why != "" {
			errs = append(errs, fmt.Errorf("%s: %w: %s", a.Addr, ErrForeign, why))
			continue
		}
		errs = append(errs, s.uninstall([]netlink.Addr{p}))
	}
	err = errors.Join(errs...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !a.held {
		a.installed, a.remove = false, err != nil && !errors.Is(err, ErrForeign)
	}
	return err
}

// begin waits for its turn to change addresses, and end passes it on.
func (s *Set) begin(ctx context.Context) error {
	select {
	case s.deed <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return net.ErrClosed
	}
}

func (s *Set) end() { <-s.deed }

// install adds the address, or renews its lifetime. The caller holds the deed.
func (s *Set) install(a *address, index int, until fleet.Moment) error {
	now := s.now()
	if !now.Before(until) {
		return ErrTooLate
	}
	whole := lifetime(until, now)
	ip := &netlink.Addr{
		IPNet:     &net.IPNet{IP: a.Addr.AsSlice(), Mask: net.CIDRMask(a.Addr.BitLen(), a.Addr.BitLen())},
		ValidLft:  int(whole / time.Second),
		Flags:     unix.IFA_F_NOPREFIXROUTE,
		LinkIndex: index,
	}
	if a.Addr.Is6() {
		ip.Flags |= unix.IFA_F_NODAD // two hosts that do it for one address both lose (HOLES 39)
	}
	if err := s.rt.AddrReplace(nil, ip); err != nil {
		return fmt.Errorf("add to %s: %w", a.Interface, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.installed, a.link, a.lasts = true, index, now.Add(whole-lifetimeEarly)
	return nil
}

const (
	// lifetimeMargin is what a lifetime is longer than the lease at least: an
	// address must not vanish while it may speak. With the rounding up to whole
	// seconds and the kernel's lateness of up to 0.98 s it is gone at most 2.23 s
	// after the lease, which is fleet.CoarseLate.
	lifetimeMargin = 250 * time.Millisecond
	// lifetimeEarly is how much too early the kernel may remove an address (its
	// fuzz is 20 ms).
	lifetimeEarly = 50 * time.Millisecond
)

// lifetime is the valid_lft to set at now for a lease until then.
func lifetime(until, now fleet.Moment) time.Duration {
	return (until.Sub(now) + lifetimeMargin + time.Second - 1).Truncate(time.Second)
}

func (s *Set) uninstall(addrs []netlink.Addr) error {
	for _, p := range addrs {
		if err := s.rt.AddrDel(nil, &p); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove %s: %w", p.IPNet, err)
		}
	}
	return nil
}
