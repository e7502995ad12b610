package leader

import (
	"context"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// How often all servers with local disks and their snapshots are listed: while something is
// being done about them, and else. What is due between two lists is known from the former.
const (
	stockSoon = time.Minute
	stockIdle = 10 * time.Minute
	// stockLasts bounds one list: 20,000 servers with three images each are eighty pages.
	stockLasts = 5 * time.Minute
)

// stocks takes stock, where the site's file wants snapshots, until ctx ends.
func (l *Leader) stocks(ctx context.Context) {
	for taken := (time.Time{}); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		var v view
		select {
		case v = <-l.last.get:
		case <-ctx.Done():
			return
		}
		wait := stockIdle
		if v.plan.Stock {
			wait = stockSoon
		}
		if v.thinks.Spec.OpenStack.Snapshots.Every == 0 || v.thinks.Cloud.At == 0 || time.Since(taken) < wait {
			continue
		}
		taken = time.Now()
		ask, cancel := context.WithTimeout(ctx, stockLasts)
		s, err := l.Clouds.Stock(ask, l.Wall())
		cancel()
		var t fleet.Tally
		if err == nil {
			t = plan.Take(v.thinks, s)
		} else {
			t.Away = err.Error()
			if ctx.Err() == nil {
				l.Log.Warn("list the servers with local disks, and their snapshots", "error", err)
			}
		}
		select {
		case l.tallies <- t:
		case <-ctx.Done():
			return
		}
	}
}

// unhurried says whether an order's effect can wait for the next look at OpenStack that is made anyway.
func unhurried(o fleet.Order) bool {
	return o.Step == fleet.CloudSnapshot || o.Step == fleet.CloudPrune
}
