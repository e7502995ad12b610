package agent

import (
	"context"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// Watchdog is this host's watchdog, armed.
type Watchdog interface {
	// Timeout is how long it waits for a kick, as read back from it.
	Timeout() time.Duration
	Kick() error
	// Close lets go of it; with stop it is disarmed, if it can be.
	Close(stop bool) error
}

// guardLife kicks this host's watchdog for as long as plan.Hand.MayKick allows that, and
// arms it first: whatever becomes of this process, a host that is cut off or hangs with a
// service dies. Between the look and the deed this goroutine may be frozen, and the kick
// is then one too many; the contract counts with that (HOLES 35).
func (a *Agent) guardLife(ctx context.Context, want fleet.Watchdog) {
	ticker := time.NewTicker(want.Timeout / plan.Kicks)
	defer ticker.Stop()
	complaint := ""
	complain := func(text string) {
		if text != complaint && text != "" {
			a.cfg.Log.Error("the watchdog of this host is not kicked", "why", text)
		}
		complaint = text
	}
	for {
		a.mu.Lock()
		ok, why := a.hand.MayKick(a.cfg.Now(), &a.spec, a.services)
		bound := a.hand.Bound(&a.spec, a.services) != ""
		a.mu.Unlock()
		if ok {
			why = a.kick(bound)
		}
		complain(why)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// kick kicks the watchdog, or arms it. One that cannot be kicked stands surety for nothing
// more. It returns what went wrong.
func (a *Agent) kick(bound bool) string {
	var err error
	if a.watchdog == nil {
		var w Watchdog
		if w, err = a.cfg.Watchdog(bound); err == nil {
			a.watchdog = w
			a.cfg.Log.Info("the watchdog of this host is armed", "resets it after", w.Timeout())
		}
	} else {
		err = a.watchdog.Kick()
	}
	var timeout time.Duration
	if err == nil {
		timeout = a.watchdog.Timeout()
	}
	a.mu.Lock()
	news := a.armed != timeout
	a.armed = timeout
	a.hand.Arm(timeout)
	a.mu.Unlock()
	if news {
		a.poke(a.tell)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// CloseWatchdog lets go of the watchdog after Run has ended. Where another process goes on
// at once it stays armed. Where this one was stopped in good order (stop) it is disarmed,
// unless a service is or may be here, which nobody would end then.
func (a *Agent) CloseWatchdog(stop bool) {
	if a.watchdog == nil {
		return
	}
	a.mu.Lock()
	bound := a.hand.Bound(&a.spec, a.services)
	a.mu.Unlock()
	if stop && bound != "" {
		a.cfg.Log.Error("the watchdog stays armed and resets this host, unless an agent is there again in time", "resets it after", a.watchdog.Timeout(), "why", bound)
	}
	if err := a.watchdog.Close(stop && bound == ""); err != nil {
		a.cfg.Log.Error("let go of the watchdog", "error", err)
	}
	a.watchdog = nil
}
