package agent

import (
	"context"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// A host that shuts down or reboots in good order hands over first:
//
//	Depart   its report says so; a leader moves what it holds, as for a maintenance,
//	         and takes its servers out of rotation; it takes nothing new
//	LetGo    what is left it stops and gives back itself, so that others may have it
//	         by its word, and no proof is needed
//
// Then it ends, and Farewell is its last report. Both are bounded by their callers: no
// shutdown waits for a quorum that is lost.

const (
	// letGoAgain is how soon what could not be stopped is tried again.
	letGoAgain = 250 * time.Millisecond
	// departLook is how often a departing host looks whether it is free.
	departLook = 20 * time.Millisecond
	// departLeast is how long it goes on serving at least: the HAProxys of other hosts
	// are told in the same turn as its own, and here it cannot be seen when they are.
	departLeast = time.Second
)

// Depart tells the voters that this host is shutting down, and waits until it holds
// nothing, or ctx ends. It says whether the host is free.
func (a *Agent) Depart(ctx context.Context) bool {
	a.mu.Lock()
	a.hand.Depart(true)
	if a.departing == 0 {
		a.departing = a.cfg.Now()
	}
	a.mu.Unlock()
	a.poke(a.tell)
	return a.awaitFree(ctx, func() bool {
		return a.cfg.Now().Sub(a.departing) >= departLeast && (a.routes.Revision == 0 || a.applied == a.routes.Revision && plan.Drained(a.routes, a.cfg.Host))
	})
}

// Stay takes a Depart back: the shutdown was called off.
func (a *Agent) Stay() {
	a.mu.Lock()
	a.hand.Depart(false)
	a.departing = 0
	a.mu.Unlock()
	a.poke(a.tell)
}

// LetGo stops and gives back whatever this host still has, and waits until that is
// done, or ctx ends. It says whether the host is free.
func (a *Agent) LetGo(ctx context.Context) bool {
	return a.awaitFree(ctx, func() bool {
		deeds := a.hand.LetGo(a.spec, "this host is shutting down")
		if len(deeds) > 0 {
			a.cfg.Log.Info("what this host still has is stopped and given back", "things", len(deeds))
			if err := a.keep(); err != nil {
				a.cfg.Log.Error("keep what binds this host", "error", err)
			}
		}
		for _, d := range deeds {
			a.queue([]plan.Deed{d}, func(e fleet.Effect) {
				if e.Outcome == fleet.Done {
					return
				}
				a.cfg.Log.Warn("let go of what this host still has", "thing", d.Thing, "outcome", e.Outcome, "why", e.Why)
				time.AfterFunc(letGoAgain, func() {
					a.mu.Lock()
					defer a.mu.Unlock()
					a.hand.LetGoAgain(d.Thing)
				})
			})
		}
		return true
	})
}

// awaitFree waits until this host has nothing that only one may have, and also says
// so; also is called with the lock held.
func (a *Agent) awaitFree(ctx context.Context, also func() bool) bool {
	ticker := time.NewTicker(departLook)
	defer ticker.Stop()
	for {
		a.mu.Lock()
		free := also() && a.hand.Free()
		a.mu.Unlock()
		if free {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
}
