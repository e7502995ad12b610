package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"mainstay/agent"
	"mainstay/fleet"
	"mainstay/vip"
)

// addresses gives the agent what it needs of this host's virtual addresses.
type addresses struct {
	set *vip.Set
}

// openAddresses opens the guard and declares the site's addresses that may live
// on this host: those on a network of its own.
// In shadow mode nothing is declared: the guard would silence whoever speaks for
// them now.
func openAddresses(spec fleet.Spec, host string) (*addresses, error) {
	set, err := vip.Open(vip.Config{})
	if err != nil {
		return nil, fmt.Errorf("open the kernel guard of addresses: %w", err)
	}
	a := &addresses{set: set}
	if spec.Mode == "shadow" {
		return a, nil
	}
	if err := a.manage(spec, host); err != nil {
		set.Close()
		return nil, err
	}
	return a, nil
}

func (a *addresses) manage(spec fleet.Spec, host string) error {
	me, _ := spec.Host(host)
	var managed []vip.Managed
	for _, v := range spec.Addresses {
		own, ok := me.Addresses[v.Network]
		if !ok {
			continue
		}
		name, err := interfaceOf(own)
		if err != nil {
			return fmt.Errorf("address %s: %w", v.Name, err)
		}
		managed = append(managed, vip.Managed{Addr: v.Addr, Interface: name})
	}
	return a.set.Manage(managed)
}

// interfaceOf finds the interface that carries one of this host's own addresses.
func interfaceOf(own netip.Addr) (string, error) {
	all, err := ownAddresses()
	if err != nil {
		return "", err
	}
	if name, ok := all[own]; ok {
		return name, nil
	}
	return "", fmt.Errorf("no interface of this host has %s, its own address in the site's file", own)
}

// ownAddresses are the addresses of this host, each with its interface.
func ownAddresses() (map[netip.Addr]string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	out := map[netip.Addr]string{}
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", i.Name, err)
		}
		for _, x := range addrs {
			if p, err := netip.ParsePrefix(x.String()); err == nil {
				out[p.Addr().Unmap()] = i.Name
			}
		}
	}
	return out, nil
}

func (a *addresses) Claim(ctx context.Context, addr netip.Addr, until fleet.Moment) (time.Duration, error) {
	if _, err := a.set.Claim(ctx, addr, until); err != nil {
		return fleet.CoarseLate, err
	}
	return a.set.Renew(until)
}

func (a *addresses) Renew(until fleet.Moment) (time.Duration, error) { return a.set.Renew(until) }

func (a *addresses) Release(ctx context.Context, addr netip.Addr) error {
	return a.set.Release(ctx, addr)
}

func (a *addresses) Drop(ctx context.Context) error { return a.set.Drop(ctx) }

func (a *addresses) Foreign(ctx context.Context) (map[netip.Addr]string, error) {
	states, err := a.set.Found(ctx)
	if err != nil {
		return nil, err
	}
	out := map[netip.Addr]string{}
	for _, s := range states {
		if s.Phase == fleet.Foreign {
			out[s.Addr] = s.Why
		}
	}
	return out, nil
}

func (a *addresses) Carried(own []netip.Addr) (map[netip.Addr]bool, error) { return a.set.Carried(own) }
func (a *addresses) Received(own []netip.Addr) (uint64, error)             { return a.set.Received(own) }

// askOthers is how long another holder has to answer the duplicate probe before
// a claim; the leader has waited out every lease before.
const askOthers = 3 * time.Millisecond

func (a *addresses) Others(ctx context.Context, addr netip.Addr) ([]net.HardwareAddr, error) {
	return a.set.Probe(ctx, addr, askOthers)
}

func (a *addresses) Sever(ctx context.Context, addr netip.Addr, local bool) (int, error) {
	return a.set.Sever(ctx, addr, local)
}

func (a *addresses) Neighbours(mac net.HardwareAddr) ([]netip.Addr, error) {
	return a.set.Neighbours(mac)
}

func (a *addresses) Watch(ctx context.Context) <-chan agent.Change {
	out := make(chan agent.Change)
	changes := a.set.Watch(ctx)
	go func() {
		defer close(out)
		for c := range changes {
			told := agent.Change{What: fmt.Sprintf("%s %s %s: %s", c.Kind, c.Addr, c.Interface, c.Why)}
			if c.Kind == vip.Contested {
				told.Contested, told.MAC = c.Addr, c.MAC
			}
			select {
			case out <- told:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
