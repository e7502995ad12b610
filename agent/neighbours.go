package agent

import (
	"context"
	"sync"
	"time"
)

// askNeighbours asks this host's watchers, on each network on which no voter lives, once in a slow
// beat until ctx ends. Each is asked by a loop of its own: one that is silent delays nobody.
func (a *Agent) askNeighbours(ctx context.Context, wait *sync.WaitGroup) {
	if a.cfg.Ask == nil {
		return
	}
	for _, network := range a.neighbours.Networks() {
		for _, host := range a.neighbours.Of(network) {
			wait.Go(func() { a.askNeighbour(ctx, host, network) })
		}
	}
}

func (a *Agent) askNeighbour(ctx context.Context, host, network string) {
	every := a.cfg.Spec.Timing.SlowBeat
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, every*9/10)
		err := a.cfg.Ask(once, host, network)
		cancel()
		if err == nil {
			a.mu.Lock()
			a.neighbours.Answered(network, host, a.cfg.Now())
			a.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Asked notes that another host has asked this one over a network.
func (a *Agent) Asked(network, host string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.neighbours.Asked(network, host, a.cfg.Now())
}
