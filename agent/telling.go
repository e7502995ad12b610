package agent

import (
	"context"
	"reflect"
	"time"

	"mainstay/fleet"
	"mainstay/probe/heartbeat"
)

// report tells every voter what this host is like, whenever that changed and
// once a second besides; if it beats slowly, only those then who do not have it.
func (a *Agent) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.tell:
		}
		now := a.cfg.Now()
		a.mu.Lock()
		if a.learning != 0 && now.Before(a.learning) && !a.knows() {
			a.mu.Unlock()
			continue
		}
		a.learning = 0
		r := a.testimony(now)
		fresh := !a.saysAgain(r)
		if !fresh && now.Sub(a.saidAt) < a.retold() {
			a.mu.Unlock()
			continue
		}
		r.Seq, r.News, r.Wall = a.number(now), a.said.News, a.cfg.Wall()
		if fresh {
			r.News = r.Seq
		}
		a.said, a.saidAt = r, now
		to := a.owed(fresh, now)
		a.mu.Unlock()
		if len(to) > 0 {
			a.cfg.Tell(r, to)
		}
	}
}

// saysAgain says whether a testimony is what this host has said last. The caller holds the lock.
func (a *Agent) saysAgain(r fleet.Report) bool {
	r.Seq, r.News, r.Wall = a.said.Seq, a.said.News, a.said.Wall
	return reflect.DeepEqual(a.said, r)
}

// retold is after how long a host looks who is owed its report though it says nothing new. A
// slow beat comes about once a second, and no look may miss its beat by a hair.
func (a *Agent) retold() time.Duration {
	if a.telling != nil {
		return time.Second * 9 / 10
	}
	return time.Second
}

// owed lists the voters that must be told the whole. The caller holds the lock.
func (a *Agent) owed(fresh bool, now fleet.Moment) []string {
	voters := a.spec.Voters()
	if a.telling == nil {
		return voters
	}
	if fresh {
		a.telling.News(a.said.News)
	}
	var out []string
	for _, v := range voters {
		if a.telling.Due(v, now) {
			a.telling.Told(v, now)
			out = append(out, v)
		}
	}
	return out
}

// name puts into a beat the number of this host's report, if a report made at this moment would say
// what that says: a beat must not keep alive what is true no more, though the next report be
// late (HOLES 109). No later report may have a lower number than the beat. The caller holds the lock.
func (a *Agent) name(b *heartbeat.Beat) {
	if a.telling == nil || a.said.News == 0 || !a.saysAgain(a.testimony(b.Sent)) {
		return
	}
	b.News, b.Wall = a.said.News, a.cfg.Wall()
	a.seq = max(a.seq, uint64(b.Sent))
}
