package store

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"mainstay/fleet"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// mirror is this client's copy of the state. A watch on the own member keeps it
// fresh; our own writes are put in as soon as they are known to be done. So the
// two may arrive in either order, and for each key the higher revision wins.
type mirror struct {
	mu      sync.Mutex
	cluster uint64
	seen    int64            // all changes up to this revision are in
	revs    map[string]int64 // by record key: writes of our own newer than seen
	state   fleet.State
	ready   chan struct{}      // closed when the first whole state is in
	renewed context.CancelFunc // ends the watch of a former cluster
	ears    map[chan struct{}]struct{}
}

// change is one record as etcd wrote it at rev.
type change struct {
	key   string
	value json.RawMessage // nil: removed
	rev   int64
}

// reset forgets everything if the member belongs to another cluster than
// before: it was restored from a backup, and its revisions mean nothing here.
func (m *mirror) reset(cluster uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ready == nil {
		m.ready, m.ears, m.revs = make(chan struct{}), map[chan struct{}]struct{}{}, map[string]int64{}
	}
	if m.cluster == 0 || cluster == 0 || m.cluster == cluster {
		return
	}
	m.cluster, m.seen, m.state = 0, 0, fleet.State{}
	clear(m.revs)
	if m.renewed != nil {
		m.renewed()
	}
	m.signal()
}

// load takes a whole reading of the state, and returns what it says. A reading
// older than what is known already changes nothing.
func (m *mirror) load(cluster uint64, rev int64, kvs []*mvccpb.KeyValue, log *slog.Logger) fleet.State {
	records := make([]fleet.Record, len(kvs))
	for i, kv := range kvs {
		records[i] = fleet.Record{Key: strings.TrimPrefix(string(kv.Key), statePrefix), Value: kv.Value}
	}
	state := apply(fleet.State{}, records, log)

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cluster != 0 && m.cluster != cluster || m.seen > rev {
		return state
	}
	for _, r := range m.revs { // a write of ours that this reading does not know yet
		if r > rev {
			return state
		}
	}
	m.cluster, m.seen, m.state = cluster, rev, state
	clear(m.revs)
	select {
	case <-m.ready:
	default:
		close(m.ready)
	}
	m.signal()
	return state
}

// watched takes changes from the watch, which brings all of them up to rev.
func (m *mirror) watched(rev int64, changes []change, log *slog.Logger) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(changes, log)
	m.seen = max(m.seen, rev)
	maps.DeleteFunc(m.revs, func(_ string, r int64) bool { return r <= m.seen })
}

// wrote takes our own records, written at rev.
func (m *mirror) wrote(rev int64, records []fleet.Record, log *slog.Logger) {
	var changes []change
	seen := map[string]bool{}
	for _, r := range slices.Backward(records) { // the last one for a key counts
		if !seen[r.Key] {
			seen[r.Key] = true
			changes = append(changes, change{key: r.Key, value: r.Value, rev: rev})
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cluster == 0 {
		return // nothing was read yet; what will be read has these in it
	}
	m.put(changes, log)
}

// put applies what is news. It is called with the lock held.
func (m *mirror) put(changes []change, log *slog.Logger) {
	var records []fleet.Record
	for _, c := range changes {
		if c.rev <= m.revs[c.key] || c.rev <= m.seen {
			continue
		}
		m.revs[c.key] = c.rev
		records = append(records, fleet.Record{Key: c.key, Value: c.value})
	}
	if len(records) == 0 {
		return
	}
	m.state = apply(m.state, records, log)
	m.signal()
}

// apply applies what it can. A record that this version cannot read was written
// by a newer one during an upgrade: it is told and left out.
func apply(s fleet.State, records []fleet.Record, log *slog.Logger) fleet.State {
	if out, err := s.Apply(records...); err == nil {
		return out
	}
	for _, r := range records {
		out, err := s.Apply(r)
		if err != nil {
			log.Warn("a record in the store is unreadable to this version and is left out", "err", err)
			continue
		}
		s = out
	}
	return s
}

// signal is called with the lock held.
func (m *mirror) signal() {
	for ear := range m.ears {
		select {
		case ear <- struct{}{}:
		default:
		}
	}
}

// State is the newest known state. Its maps must not be changed. Between the
// member's death and its return it stands still.
func (c *Client) State() fleet.State {
	c.mirror.mu.Lock()
	defer c.mirror.mu.Unlock()
	return c.mirror.state
}

// Ready waits until State holds what the store remembers. A member without a
// quorum answers with what it has.
func (c *Client) Ready(ctx context.Context) error {
	select {
	case <-c.mirror.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Watch signals that State has changed since the last signal was read. It
// begins with one signal and ends with ctx or Close, when it is closed.
func (c *Client) Watch(ctx context.Context) <-chan struct{} {
	in, out := make(chan struct{}, 1), make(chan struct{})
	in <- struct{}{}
	c.mirror.mu.Lock()
	c.mirror.ears[in] = struct{}{}
	c.mirror.mu.Unlock()
	c.wg.Go(func() {
		defer close(out)
		defer func() {
			c.mirror.mu.Lock()
			delete(c.mirror.ears, in)
			c.mirror.mu.Unlock()
		}()
		var send chan struct{}
		for {
			select {
			case <-in:
				send = out
			case send <- struct{}{}:
				send = nil
			case <-ctx.Done():
				return
			case <-c.ctx.Done():
				return
			}
		}
	})
	return out
}

// follow keeps the mirror: one whole reading, then a watch from there on. The
// etcd client takes the watch up again by itself when the member returns.
func (c *Client) follow() {
	whole := true // a whole reading is needed
	for c.ctx.Err() == nil {
		if whole && c.read() != nil {
			_ = sleep(c.ctx, 100*time.Millisecond)
			continue
		}
		whole = c.watch()
		_ = sleep(c.ctx, 100*time.Millisecond)
	}
}

// read asks the own member alone: a state may be shown without a quorum.
func (c *Client) read() error {
	ctx, cancel := context.WithTimeout(c.ctx, opDeadline)
	defer cancel()
	all, err := c.kv.Get(ctx, statePrefix, clientv3.WithPrefix(), clientv3.WithSerializable())
	if err != nil {
		return err
	}
	c.mirror.load(all.Header.ClusterId, all.Header.Revision, all.Kvs, c.cfg.Log)
	return nil
}

// watch follows the changes until the watch ends. It says whether a whole
// reading is needed then: etcd forgets changes after an hour.
func (c *Client) watch() (whole bool) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	m := &c.mirror
	m.mu.Lock()
	cluster, from := m.cluster, m.seen+1
	m.renewed = cancel
	m.mu.Unlock()
	if cluster == 0 {
		return true
	}
	for r := range c.kv.Watch(ctx, statePrefix, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if r.Err() != nil {
			return r.CompactRevision != 0
		}
		if r.Header.ClusterId != cluster {
			m.reset(r.Header.ClusterId)
			return true
		}
		changes := make([]change, 0, len(r.Events))
		for _, e := range r.Events {
			ch := change{key: strings.TrimPrefix(string(e.Kv.Key), statePrefix), rev: e.Kv.ModRevision}
			if e.Type == clientv3.EventTypePut {
				ch.value = e.Kv.Value
			}
			changes = append(changes, ch)
		}
		if n := len(r.Events); n > 0 && !r.IsProgressNotify() {
			m.watched(r.Events[n-1].Kv.ModRevision, changes, c.cfg.Log)
		}
	}
	return false
}
