package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mainstay/fleet"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// History is bounded: the newest eventsKept events stay, and up to eventsSlack
// more until the next pruning. Of the older ones the newest proofsKept that tell of
// proofs of death stay as well: the state keeps one proof of each host, and why somebody
// was switched off last month is asked after thousands of other events.
const (
	eventsKept  = 10_000
	eventsSlack = 256
	proofsKept  = 1_000
)

// pruning counts the events written since the last pruning.
type pruning struct {
	mu sync.Mutex
	n  int
}

// tell turns events into operations.
func tell(events []fleet.Event) ([]clientv3.Op, error) {
	var ops []clientv3.Op
	seen := map[string]bool{}
	for _, e := range events {
		if e.ID == "" || seen[e.ID] || strings.ContainsAny(e.ID, "/\x00\n") {
			return nil, fmt.Errorf("event %q: an id must be there, once, and without a slash", e.ID)
		}
		seen[e.ID] = true
		raw, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("event %s: %w", e.ID, err)
		}
		ops = append(ops, clientv3.OpPut(eventPrefix+e.ID, string(raw)))
	}
	return ops, nil
}

// Events returns at most limit events whose ids come after the given one, the
// oldest first. Without after it returns the newest ones. It reads the own
// member alone, so it answers without a quorum too, and may then be behind.
func (c *Client) Events(ctx context.Context, after string, limit int) ([]fleet.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	events, _, err := c.events(ctx, after, limit)
	return events, err
}

func (c *Client) events(ctx context.Context, after string, limit int) ([]fleet.Event, int64, error) {
	from, order := eventPrefix, clientv3.SortDescend
	if after != "" {
		from, order = eventPrefix+after+"\x00", clientv3.SortAscend
	}
	got, err := c.kv.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(eventPrefix)),
		clientv3.WithSort(clientv3.SortByKey, order), clientv3.WithLimit(int64(limit)), clientv3.WithSerializable())
	if err != nil {
		return nil, 0, fmt.Errorf("read the events after %q: %w", after, err)
	}
	out := make([]fleet.Event, len(got.Kvs))
	for i, kv := range got.Kvs {
		at := i
		if after == "" {
			at = len(got.Kvs) - 1 - i
		}
		if err := json.Unmarshal(kv.Value, &out[at]); err != nil {
			return nil, 0, fmt.Errorf("read event %s: %w", kv.Key, err)
		}
	}
	return out, got.Header.Revision, nil
}

// WatchEvents brings every event whose id comes after the given one, old ones
// first, then new ones as they happen; without after, new ones only. It ends
// with ctx or Close, when it is closed. A reader that lags misses nothing that
// history still holds.
func (c *Client) WatchEvents(ctx context.Context, after string) <-chan fleet.Event {
	out := make(chan fleet.Event)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancel)
	c.wg.Go(func() {
		defer close(out)
		defer stop()
		defer cancel()
		fresh := after == ""
		for ctx.Err() == nil {
			var rev int64
			var err error
			after, rev, err = c.replay(ctx, after, fresh, out)
			if err == nil {
				fresh = false
				after = c.tail(ctx, after, rev+1, out)
			}
			_ = sleep(ctx, 100*time.Millisecond)
		}
	})
	return out
}

// replay sends what history holds after the id, and returns the last id sent
// and the revision up to which that was all. With fresh it sends nothing.
func (c *Client) replay(ctx context.Context, after string, fresh bool, out chan<- fleet.Event) (string, int64, error) {
	const page = 500
	for {
		limit := page
		if fresh {
			limit = 1
		} else if after == "" {
			after = " " // sorts before any id: history was empty when we began
		}
		events, rev, err := c.events(ctx, after, limit)
		if err != nil {
			return after, 0, err
		}
		for _, e := range events {
			after = e.ID
			if fresh {
				break
			}
			if !give(ctx, out, e) {
				return after, 0, ctx.Err()
			}
		}
		if fresh || len(events) < page {
			return after, rev, nil
		}
	}
}

// tail sends events as they are written, until the watch ends.
func (c *Client) tail(ctx context.Context, after string, from int64, out chan<- fleet.Event) string {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for r := range c.kv.Watch(ctx, eventPrefix, clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithFilterDelete()) {
		if r.Err() != nil {
			return after
		}
		for _, w := range r.Events {
			var e fleet.Event
			if json.Unmarshal(w.Kv.Value, &e) != nil || e.ID <= after {
				continue
			}
			if !give(ctx, out, e) {
				return after
			}
			after = e.ID
		}
	}
	return after
}

func give(ctx context.Context, out chan<- fleet.Event, e fleet.Event) bool {
	select {
	case out <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// wrote counts events, and wakes the pruning now and then.
func (c *Client) wrote(n int) {
	c.pruned.mu.Lock()
	defer c.pruned.mu.Unlock()
	if c.pruned.n += n; c.pruned.n < eventsSlack {
		return
	}
	c.pruned.n = 0
	select {
	case c.prune <- struct{}{}:
	default:
	}
}

func (c *Client) pruneLoop() {
	for {
		select {
		case <-c.prune:
		case <-c.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(c.ctx, opDeadline)
		if err := c.pruneTo(ctx, eventsKept, proofsKept); err != nil && c.ctx.Err() == nil {
			c.cfg.Log.Warn("old events stay until the next pruning", "err", err)
		}
		cancel()
	}
}

// pruneTo removes the oldest events, so that keep remain, and of those before them the
// newest that tell of proofs. Nobody's epoch is needed: whoever does it, the same ones go.
func (c *Client) pruneTo(ctx context.Context, keep, proofs int) error {
	count, err := c.kv.Get(ctx, eventPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithSerializable())
	if err != nil {
		return fmt.Errorf("count the events: %w", err)
	}
	if count.Count <= int64(keep) {
		return nil
	}
	old, err := c.kv.Get(ctx, eventPrefix, clientv3.WithPrefix(),
		clientv3.WithLimit(count.Count-int64(keep)), clientv3.WithRev(count.Header.Revision), clientv3.WithSerializable())
	if err != nil {
		return fmt.Errorf("find the old events: %w", err)
	}
	var gone []clientv3.Op
	begin, end := "", "" // of the run of keys that goes: the events are read from the newest to the oldest
	cut := func() {
		if end != "" {
			gone = append(gone, clientv3.OpDelete(begin, clientv3.WithRange(end)))
		}
		end = ""
	}
	for _, kv := range slices.Backward(old.Kvs) {
		var e fleet.Event
		if proofs > 0 && json.Unmarshal(kv.Value, &e) == nil && e.Proof {
			proofs--
			cut()
			continue
		}
		if begin = string(kv.Key); end == "" {
			end = begin + "\x00"
		}
	}
	cut()
	if len(gone) == 0 {
		return nil
	}
	if _, err := c.kv.Txn(ctx).Then(gone...).Commit(); err != nil {
		return fmt.Errorf("remove the old events: %w", err)
	}
	return nil
}
