package agent

import "mainstay/fleet"

// Lease says until when this host's lease lives, and whether it does.
func (a *Agent) Lease() (end fleet.Moment, alive bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hand.End(), a.hand.Leased(a.cfg.Now())
}

// Newest returns the boot of a host that this ear heard last, when that was, and since when
// it has; "" if it never did.
func (a *Agent) Newest(host string) (boot string, at, since fleet.Moment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ear == nil {
		return "", 0, 0
	}
	row, _ := a.ear.Newest(host, a.cfg.Now())
	return row.Stint.Boot, row.Heard, row.First
}

// Agreed takes the number of the agreement of a pair that this host goes by from now on:
// its report says so.
func (a *Agent) Agreed(n uint64) {
	a.mu.Lock()
	news := a.agreed != n
	a.agreed = n
	a.mu.Unlock()
	if news {
		a.poke(a.tell)
	}
}

// Blind has the beats say whether this host receives nothing at all on any network.
func (a *Agent) Blind(is bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.blind = is
}

// SaysBlind is what a host's newest beat said of that.
func (a *Agent) SaysBlind(host string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.senses[host]
	return s != nil && s.blind
}
