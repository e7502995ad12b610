package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mainstay/fleet"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// ask and reply are the lines of JSON on lead.sock. A reply with ID 0 was not
// asked for: it says that something changed and that a ping is worth while.
type ask struct {
	ID  uint64        `json:"id"`
	Do  string        `json:"do"` // "ping", "move", "hold", "status"
	To  string        `json:"to,omitempty"`
	For time.Duration `json:"for,omitempty"`
}

type reply struct {
	ID      uint64 `json:"id"`
	Lead    bool   `json:"lead,omitempty"`
	Term    uint64 `json:"term,omitempty"`
	Leader  string `json:"leader,omitempty"`
	Cluster uint64 `json:"cluster,omitempty"`
	Error   string `json:"error,omitempty"`
	// NotLeader: the question was one for the leader.
	NotLeader bool    `json:"not_leader,omitempty"`
	Status    *Status `json:"status,omitempty"`
}

// Status is what the member on this host knows of itself and the others,
// without asking anyone: it is there when the quorum is not.
type Status struct {
	Name    string  `json:"name"`
	Waits   string  `json:"waits,omitempty"` // what it waits for before it serves
	Term    uint64  `json:"term"`
	Leader  string  `json:"leader"` // empty: none known
	Cluster uint64  `json:"cluster"`
	Voters  []Voter `json:"voters"`
	// Bytes is the size of the data on disk, of the 2 GiB that are allowed.
	Bytes  int64    `json:"bytes"`
	Alarms []string `json:"alarms,omitempty"` // its own: "NOSPACE", "CORRUPT"
	// Fsync is the 99th percentile of how long the disk took, from the start to a minute
	// ago or less: the upper edge of its bucket.
	Fsync time.Duration `json:"fsync"`
}

// Voter is a member of the store.
type Voter struct {
	Name string `json:"name"` // empty until a new voter has first started
	Peer string `json:"peer"`
	// Learner: it receives everything but has no vote yet.
	Learner bool `json:"learner,omitempty"`
}

// control serves lead.sock.
type control struct {
	m        *member
	l        net.Listener
	stop     context.CancelFunc
	ctx      context.Context
	wg       sync.WaitGroup
	sessions atomic.Uint64
}

// asksAtOnce bounds the questions of one session that are being answered.
const asksAtOnce = 16

func listen(run string, m *member) (*control, error) {
	if err := os.MkdirAll(run, 0o755); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	path := leadSocket(run)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove an old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("guard the agent's socket: %w", err)
	}
	c := &control{m: m, l: l}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.wg.Go(c.accept)
	return c, nil
}

func (c *control) close() {
	c.stop()
	c.l.Close()
	c.wg.Wait()
}

func (c *control) accept() {
	for {
		conn, err := c.l.Accept()
		if err != nil {
			if c.ctx.Err() != nil {
				return
			}
			_ = sleep(c.ctx, 10*time.Millisecond) // out of descriptors, most likely
			continue
		}
		c.wg.Go(func() { c.serve(conn, c.sessions.Add(1)) })
	}
}

func (c *control) serve(conn net.Conn, session uint64) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	defer cancel()

	var mu sync.Mutex
	out := json.NewEncoder(conn)
	send := func(r reply) {
		mu.Lock()
		defer mu.Unlock()
		// An agent that is stopped must not stop us.
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		if out.Encode(r) != nil {
			cancel()
		}
	}
	wg.Go(func() { c.stir(ctx, send) })
	slots := make(chan struct{}, asksAtOnce)
	in := bufio.NewScanner(conn)
	for in.Scan() {
		received := now()
		var a ask
		if err := json.Unmarshal(in.Bytes(), &a); err != nil {
			send(reply{Error: "unreadable question: " + err.Error()})
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-slots }()
			r := c.answer(ctx, session, a, received)
			r.ID = a.ID
			send(r)
		})
	}
}

// stir tells the agent of each change of leader, so that it need not wait for
// its next ping.
func (c *control) stir(ctx context.Context, send func(reply)) {
	e := c.m.etcd.Load()
	for e == nil {
		if sleep(ctx, c.m.cfg.Timing.Heartbeat) != nil {
			return
		}
		e = c.m.etcd.Load()
	}
	for {
		changed, first := e.Server.LeaderChangedNotify(), e.Server.FirstCommitInTermNotify()
		select {
		case <-changed:
		case <-first:
		case <-ctx.Done():
			return
		}
		send(reply{})
	}
}

func (c *control) answer(ctx context.Context, session uint64, a ask, received fleet.Moment) reply {
	e := c.m.etcd.Load()
	if a.Do == "status" {
		return reply{Status: c.m.status()}
	}
	if e == nil {
		why := ""
		if p := c.m.why.Load(); p != nil {
			why = *p
		}
		return reply{Error: "the store on " + c.m.cfg.Name + " " + why}
	}
	switch a.Do {
	case "ping":
		term, lead := c.m.gate.ping(ctx, session, received)
		return reply{Term: term, Lead: lead, Leader: nameOf(e, e.Server.Leader()), Cluster: uint64(e.Server.Cluster().ID())}
	case "hold":
		c.m.gate.hold(session, received, a.For)
		return reply{}
	case "move":
		mv := move{to: a.To, session: session, done: make(chan error, 1)}
		select {
		case c.m.asks <- mv:
		case <-ctx.Done():
			return reply{Error: "the store stops"}
		}
		select {
		case err := <-mv.done:
			if err != nil {
				return reply{Error: err.Error(), NotLeader: errors.Is(err, ErrNotLeader)}
			}
			return reply{}
		case <-ctx.Done():
			return reply{Error: "the store stops"}
		}
	}
	return reply{Error: fmt.Sprintf("no such question: %q", a.Do)}
}

func (m *member) status() *Status {
	s := &Status{Name: m.cfg.Name}
	if p := m.why.Load(); p != nil {
		s.Waits = *p
	}
	e := m.etcd.Load()
	if e == nil {
		return s
	}
	s.Term, s.Leader = e.Server.Term(), nameOf(e, e.Server.Leader())
	s.Cluster = uint64(e.Server.Cluster().ID())
	for _, v := range e.Server.Cluster().Members() {
		s.Voters = append(s.Voters, Voter{Name: v.Name, Peer: strings.Join(v.PeerURLs, ","), Learner: v.IsLearner})
	}
	if b := e.Server.Backend(); b != nil {
		s.Bytes = b.Size()
	}
	for _, a := range e.Server.Alarms() { // all members have those of all
		if a.MemberID == uint64(e.Server.MemberID()) {
			s.Alarms = append(s.Alarms, a.Alarm.String())
		}
	}
	s.Fsync = m.fsync.read()
	return s
}

// fsyncEvery is how often Fsync is read: all that etcd measures is gathered for it, which
// takes 3 ms of CPU.
const fsyncEvery = time.Minute

// fsync is what was read last, and when.
type fsync struct {
	mu  sync.Mutex
	p99 time.Duration
	at  fleet.Moment
}

func (f *fsync) read() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at := now(); f.at == 0 || at.Sub(f.at) >= fsyncEvery {
		f.p99, f.at = fsyncP99(), at
	}
	return f.p99
}

// fsyncP99 reads what etcd measures of its write-ahead log's disk.
func fsyncP99() time.Duration {
	all, err := prometheus.DefaultGatherer.Gather()
	if err != nil && all == nil {
		return 0
	}
	for _, f := range all {
		if f.GetName() == "etcd_disk_wal_fsync_duration_seconds" && len(f.GetMetric()) > 0 {
			return percentile(f.GetMetric()[0].GetHistogram(), 0.99)
		}
	}
	return 0
}

func percentile(h *dto.Histogram, q float64) time.Duration {
	want := q * float64(h.GetSampleCount())
	for _, b := range h.GetBucket() {
		if float64(b.GetCumulativeCount()) >= want {
			return time.Duration(b.GetUpperBound() * float64(time.Second))
		}
	}
	return 0
}
