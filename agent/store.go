package agent

import "mainstay/fleet"

// Store takes what is wrong with this voter's member of the store; its Since is set here.
func (a *Agent) Store(s fleet.StoreState) {
	a.mu.Lock()
	before := a.store
	a.store = s.Follows(before, a.cfg.Wall())
	news := a.store != before
	a.mu.Unlock()
	if news {
		a.poke(a.tell)
	}
}
