package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mainstay/fleet"
)

// Galera lets every writer wait (flow control) for a member that comes to have a few dozen
// changes to apply. A moment of that is how the group breathes; a member whose disk has
// become slow asks for it all the time, and the whole cloud is then as slow as that disk.
const (
	// dragSpan is over how long it is looked at how a member drags, and dragShare for how
	// much of it the writers must have stood still.
	dragSpan  = 10 * time.Second
	dragShare = dragSpan / 4
	// dragEase is for how long a member that dragged must have kept up until it counts
	// again: one that comes and goes would stall the writers each time.
	dragEase = 30 * time.Second
	// dragQueue is with how many changes to apply it has kept up.
	dragQueue = 16
	// lagWithin is how long the server may take to do what it was told about lagging.
	lagWithin = 10 * time.Minute
)

// drag is what a member's own counters say of how it holds the others up.
type drag struct {
	seen  []dragged
	on    bool      // it does, or did a moment ago
	said  string    // how, in words
	quiet time.Time // since when it has kept up; zero: it does not
}

// dragged is one look at the counters.
type dragged struct {
	at     time.Time
	asked  bool          // it asked the others to wait, since the look before or still
	sent   int64         // how often since its server started
	paused time.Duration // for how long they have waited since then, whoever asked
}

// look takes in the server's newest words. lags: it was told not to be waited for, and so
// does not ask. A version whose words lack these counters never drags.
func (b *drag) look(now time.Time, v map[string]string, lags bool) {
	sent, err := strconv.ParseInt(v["wsrep_flow_control_sent"], 10, 64)
	ns, err2 := strconv.ParseInt(v["wsrep_flow_control_paused_ns"], 10, 64)
	if errors.Join(err, err2) != nil {
		*b = drag{}
		return
	}
	next := dragged{at: now, sent: sent, paused: time.Duration(ns), asked: yes(v["wsrep_flow_control_requested"])}
	if n := len(b.seen); n > 0 {
		last := b.seen[n-1]
		if sent < last.sent || next.paused < last.paused { // it was started anew, or its counters were set back
			b.seen = nil
		} else {
			next.asked = next.asked || sent > last.sent
		}
	}
	b.seen = append(b.seen, next)
	for len(b.seen) > 2 && now.Sub(b.seen[1].at) >= dragSpan {
		b.seen = b.seen[1:]
	}
	first, asked := b.seen[0], 0
	for _, x := range b.seen {
		if x.asked {
			asked++
		}
	}
	if stood := next.paused - first.paused; now.Sub(first.at) >= dragSpan && stood >= dragShare && 2*asked > len(b.seen) {
		b.on, b.quiet = true, time.Time{}
		b.said = fmt.Sprintf("holds the whole cluster up: in %.0f s it asked %d times to be waited for, and the writers stood still for %.1f s of them",
			now.Sub(first.at).Seconds(), next.sent-first.sent, stood.Seconds())
	}
	queue, _ := strconv.Atoi(v["wsrep_local_recv_queue"])
	switch {
	case next.asked || queue > dragQueue:
		b.quiet = time.Time{}
	case b.quiet.IsZero():
		b.quiet = now
	case now.Sub(b.quiet) >= dragEase && !lags:
		b.on = false
	}
}

// eased says whether a member that lags has kept up for long enough to be waited for again.
func (b *drag) eased(now time.Time) bool {
	return !b.quiet.IsZero() && now.Sub(b.quiet) >= dragEase
}

// slows says why the member is not to be used because it holds the others up, or was let
// lag because it did; "" if neither. One that has kept up since is waited for again.
func (c *galeraCopy) slows(ctx context.Context, v map[string]string) string {
	const look = "; look: iostat -x 5, top"
	now := time.Now()
	lags := c.lags(v)
	c.mu.Lock()
	c.drag.look(now, v, lags)
	b := c.drag
	c.mu.Unlock()
	queue := orNone(v["wsrep_local_recv_queue"])
	switch {
	case lags && b.eased(now):
		err := c.desync(ctx, "OFF")
		if err == nil {
			err = os.Remove(c.lagging)
		}
		if err != nil {
			return fmt.Sprintf("has caught up, and could not be told to keep up again: %v; mariadb -e \"SET GLOBAL wsrep_desync=OFF\" does", err)
		}
		c.mu.Lock()
		c.drag = drag{}
		c.mu.Unlock()
		return "has caught up, and the cluster waits for it again"
	case lags:
		return fmt.Sprintf("was too slow and held the whole cluster up, so it is not waited for: %s writes to apply; waited for again when it has kept up for %v%s", queue, dragEase, look)
	case b.on:
		return b.said + look
	}
	return ""
}

// lags says whether the member lags because it dragged. The file outlives the agent, and
// not the server: another start of it undoes what it was told.
func (c *galeraCopy) lags(v map[string]string) bool {
	told := c.toldToLag()
	if strings.EqualFold(v["wsrep_desync"], "ON") {
		return told > 0
	}
	if told > lagWithin { // somebody has taken it back
		_ = os.Remove(c.lagging)
	}
	return false
}

// toldToLag is how long ago the member was told to lag; 0: it was not.
func (c *galeraCopy) toldToLag() time.Duration {
	st, err := os.Stat(c.lagging)
	if err != nil {
		return 0
	}
	return max(time.Since(st.ModTime()), 1)
}

// lag lets the member lag: the others do not wait for it any more.
func (c *galeraCopy) lag(ctx context.Context) error {
	fail := func(err error) error { return fmt.Errorf("let %s lag: %w", c.name, err) }
	v, err := c.status(ctx)
	switch {
	case err != nil:
		return fail(err)
	case c.lags(v):
		return nil
	case c.toldToLag() > 0: // told twice, it would have to be taken back twice
		return fail(fmt.Errorf("it was told so %v ago and has not done it yet", c.toldToLag().Round(time.Second)))
	case part(v) != fleet.PartSynced || strings.EqualFold(v["wsrep_desync"], "ON"):
		return fail(fmt.Errorf("it is not synced (%s), or somebody told it so", part(v)))
	}
	if err := os.MkdirAll(filepath.Dir(c.lagging), 0o755); err != nil {
		return fail(err)
	}
	// The file first: without it nobody would undo this.
	if err := os.WriteFile(c.lagging, []byte("told by Mainstay to lag (wsrep_desync), because it held the cluster up\n"), 0o644); err != nil {
		return fail(err)
	}
	if err := c.desync(ctx, "ON"); err != nil {
		return fail(unknown("it may still do it: %w", err))
	}
	return nil
}
