package agent

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"time"

	"mainstay/fleet"
)

// Change is what others did to an address or its interface.
type Change struct {
	What string
	// Contested is the address for which another machine spoke, MAC that machine's, empty
	// if it did not tell; the zero address: it is another change.
	Contested netip.Addr
	MAC       net.HardwareAddr
}

// A host of ours that was frozen may speak once for what it held before. So only who goes
// on for contestSure is named, until it has been quiet for contestOver; a holder asks
// each second meanwhile.
const (
	contestSure = 500 * time.Millisecond
	contestOver = 10 * time.Second
)

// contest is a machine that speaks for an address of this host.
type contest struct {
	mac         net.HardwareAddr
	who         string
	since, last fleet.Moment
}

// contend notes that another machine spoke for an address. Of two that do, the first is named.
func (a *Agent) contend(addr netip.Addr, mac net.HardwareAddr) {
	i := slices.IndexFunc(a.cfg.Spec.Addresses, func(v fleet.Address) bool { return v.Addr == addr })
	if i < 0 {
		return
	}
	name, now := a.cfg.Spec.Addresses[i].Name, a.cfg.Now()
	a.mu.Lock()
	c, known := a.contests[name]
	a.mu.Unlock()
	switch {
	case !known || now.Sub(c.last) > contestOver:
		c = contest{mac: mac, who: a.whose(mac), since: now, last: now}
		a.cfg.Log.Warn("somebody else speaks for an address", "address", addr, "who", c.who)
	case bytes.Equal(c.mac, mac):
		c.last = now
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.contested(name, now)
	a.contests[name] = c
	if a.contested(name, now) != before {
		a.poke(a.tell)
	}
}

// whose says which machine a MAC is.
func (a *Agent) whose(mac net.HardwareAddr) string {
	if len(mac) == 0 {
		return "an unknown machine that tells no MAC"
	}
	found, err := a.cfg.Addresses.Neighbours(mac)
	for _, h := range a.cfg.Spec.Hosts {
		for _, own := range fleet.Sorted(h.Addresses) {
			if err == nil && slices.Contains(found, h.Addresses[own]) {
				return h.Name + " (MAC " + mac.String() + ")"
			}
		}
	}
	return "an unknown machine (MAC " + mac.String() + ")"
}

// contested names who answers for an address of this host as well; "" if nobody does.
// The caller holds the lock.
func (a *Agent) contested(name string, now fleet.Moment) string {
	c := a.contests[name]
	if c.last.Sub(c.since) < contestSure || now.Sub(c.last) > contestOver {
		return ""
	}
	return c.who
}
