package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"mainstay/fleet"
)

// leadKeeper asks the gate each t whether this host leads, and keeps the answer
// for as long as it is worth anything.
type leadKeeper struct {
	cfg     DialConfig
	cluster func(uint64) // told the cluster that the member belongs to

	mu     sync.Mutex
	lead   Lead
	told   uint64 // the term last told to the listeners; 0 is none
	newest uint64 // the newest ping whose answer was used
	lastID uint64
	sent   fleet.Moment // when the newest ping left
	leader string       // as the member last said
	conn   net.Conn
	open   map[uint64]chan reply   // questions other than pings
	pings  map[uint64]fleet.Moment // t0 by id
	ears   map[chan Lead]struct{}  // of Leads
	poke   chan struct{}           // ping at once
	next   *time.Timer             // when to ping
}

// pingsOpen bounds the pings without an answer.
const pingsOpen = 8

func (k *leadKeeper) begin(cfg DialConfig, cluster func(uint64)) {
	k.cfg, k.cluster = cfg, cluster
	k.open, k.pings = map[uint64]chan reply{}, map[uint64]fleet.Moment{}
	k.ears, k.poke = map[chan Lead]struct{}{}, make(chan struct{}, 1)
}

// Lead says whether this host may act as the leader at this moment. Ask right
// before each deed.
func (c *Client) Lead() (Lead, bool) {
	c.lead.mu.Lock()
	defer c.lead.mu.Unlock()
	return c.lead.lead, c.lead.lead.Holds(now())
}

// Leader is who leads, by the last word of the member on this host; empty if it
// knows of none.
func (c *Client) Leader() string {
	c.lead.mu.Lock()
	defer c.lead.mu.Unlock()
	return c.lead.leader
}

// Leads tells when the lead begins (a Lead with its term) and when it is lost
// (the zero Lead). A slow reader sees the newest only. It starts with the
// present one and ends with ctx or Close.
func (c *Client) Leads(ctx context.Context) <-chan Lead {
	k := &c.lead
	out, in := make(chan Lead), make(chan Lead, 1)
	k.mu.Lock()
	k.ears[in] = struct{}{}
	first := Lead{}
	if k.told != 0 {
		first = k.lead
	}
	in <- first
	k.mu.Unlock()
	c.wg.Go(func() {
		defer close(out)
		defer func() {
			k.mu.Lock()
			delete(k.ears, in)
			k.mu.Unlock()
		}()
		var newest Lead
		var send chan Lead // nil while the reader has seen the newest
		for {
			select {
			case newest = <-in:
				send = out
			case send <- newest:
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

// MoveLead hands the lead to the voter named to, or to any if to is empty. This
// host's own lead is dropped first: from the call on, Lead says no, whatever
// comes of it. ErrNotLeader if it did not lead.
func (c *Client) MoveLead(ctx context.Context, to string) error {
	if fleet.Armed(fleet.GuardTransfer) {
		c.lead.drop()
	}
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	r, err := c.lead.ask(ctx, ask{Do: "move", To: to})
	if err != nil {
		return fmt.Errorf("move the lead to %q: %w", to, err)
	}
	if r.NotLeader {
		return fmt.Errorf("%s: %w", r.Error, ErrNotLeader)
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return nil
}

// Hold drops the lead but asks the member to keep its term for at most d (5 s):
// for an agent that is about to restart. Call Close right after it. Nobody
// decides anything meanwhile; when that matters more than the term, use MoveLead.
func (c *Client) Hold(ctx context.Context, d time.Duration) error {
	c.lead.drop()
	r, err := c.lead.ask(ctx, ask{Do: "hold", For: d})
	if err != nil {
		return fmt.Errorf("hold the lead: %w", err)
	}
	if r.Error != "" {
		return errors.New("hold the lead: " + r.Error)
	}
	return nil
}

// Status asks the member on this host about itself and the others. It needs no
// quorum.
func (c *Client) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	r, err := c.lead.ask(ctx, ask{Do: "status"})
	if err != nil {
		return Status{}, fmt.Errorf("ask the store for its status: %w", err)
	}
	if r.Status == nil {
		return Status{}, fmt.Errorf("ask the store for its status: %s", r.Error)
	}
	return *r.Status, nil
}

// run keeps a connection to the gate and pings over it.
func (k *leadKeeper) run(ctx context.Context) {
	var d net.Dialer
	for ctx.Err() == nil {
		conn, err := d.DialContext(ctx, "unix", leadSocket(k.cfg.Run))
		if err != nil {
			k.expire()
			_ = sleep(ctx, k.cfg.Timing.Heartbeat)
			continue
		}
		k.session(ctx, conn)
	}
	k.drop()
}

func (k *leadKeeper) session(ctx context.Context, conn net.Conn) {
	gone := make(chan struct{})
	next := time.NewTimer(0)
	defer next.Stop()
	k.mu.Lock()
	k.conn, k.next = conn, next
	k.mu.Unlock()
	go func() {
		defer close(gone)
		in := bufio.NewScanner(conn)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			var r reply
			if json.Unmarshal(in.Bytes(), &r) != nil {
				return
			}
			k.heard(r)
		}
	}()
	defer func() {
		conn.Close()
		<-gone
		k.mu.Lock()
		defer k.mu.Unlock()
		k.conn = nil
		for id, c := range k.open {
			close(c)
			delete(k.open, id)
		}
		clear(k.pings)
		k.leader = ""
	}()
	for {
		k.ping()
		k.rest()
		select {
		case <-next.C:
			k.expire()
		case <-k.poke:
		case <-gone:
			k.expire()
			return
		case <-ctx.Done():
			return
		}
	}
}

// rest waits with the next ping: each t until there is an answer, and while nobody
// is known to lead. While we lead, every second t: each time the whole quorum is asked,
// and the lead lasts three times as long at least. While another leads, the member
// stirs us when that changes, and a ping now and then shows that we live. It is set anew
// at each answer, rather than looked at each t: that took a third of this client's CPU.
func (k *leadKeeper) rest() {
	k.mu.Lock()
	defer k.mu.Unlock()
	pause := k.cfg.Timing.Heartbeat
	switch {
	case k.newest != k.lastID || k.leader == "":
	case k.lead.Term != 0:
		pause = max(pause, 2*pause-now().Sub(k.sent))
	default:
		pause = max(pause, k.cfg.Timing.Election/4-now().Sub(k.sent))
	}
	k.next.Reset(pause)
}

// ping asks whether we lead. The clock is read before the question leaves.
func (k *leadKeeper) ping() {
	if k.cfg.Alive != nil && !k.cfg.Alive() {
		return
	}
	k.mu.Lock()
	if len(k.pings) >= pingsOpen {
		k.mu.Unlock()
		return
	}
	k.lastID++
	id, conn := k.lastID, k.conn
	k.sent = now()
	k.pings[id] = k.sent
	k.mu.Unlock()
	k.write(conn, ask{ID: id, Do: "ping"})
}

func (k *leadKeeper) write(conn net.Conn, a ask) {
	raw, err := json.Marshal(a)
	if err != nil {
		return
	}
	// A member that is stopped must not stop us; the reader notices the close.
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write(append(raw, '\n')); err != nil {
		conn.Close()
	}
}

// heard takes one line from the gate.
func (k *leadKeeper) heard(r reply) {
	if r.ID == 0 {
		select {
		case k.poke <- struct{}{}:
		default:
		}
		return
	}
	k.mu.Lock()
	if c, ok := k.open[r.ID]; ok {
		delete(k.open, r.ID)
		c <- r
		k.mu.Unlock()
		return
	}
	asked, ok := k.pings[r.ID]
	if !ok {
		k.mu.Unlock()
		return
	}
	delete(k.pings, r.ID)
	k.leader = r.Leader
	a := answered{asked: asked, id: r.ID, term: r.Term, lead: r.Lead && r.Error == ""}
	k.lead, k.newest = k.lead.follow(k.newest, a, k.cfg.Timing.LeadLease())
	if k.cfg.saw != nil {
		k.cfg.saw(k.lead, now())
	}
	k.tell()
	k.mu.Unlock()
	k.rest()
	if r.Cluster != 0 {
		k.cluster(r.Cluster)
	}
}

// drop gives the lead up by our own will. Answers to questions that were asked
// before are worth nothing any more.
func (k *leadKeeper) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lead, k.newest = Lead{}, k.lastID
	k.tell()
}

// expire notices that the lease has run out.
func (k *leadKeeper) expire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.lead.Holds(now()) {
		k.lead = Lead{}
	}
	k.tell()
}

// tell informs the listeners, if a lead began or was lost. It is called with
// the lock held.
func (k *leadKeeper) tell() {
	term := uint64(0)
	if k.lead.Holds(now()) {
		term = k.lead.Term
	}
	if term == k.told {
		return
	}
	k.told = term
	l := k.lead
	if term == 0 {
		l = Lead{}
	}
	for ear := range k.ears {
		select {
		case <-ear: // what it has not read yet is old
		default:
		}
		ear <- l
	}
}

// ask puts one question other than a ping.
func (k *leadKeeper) ask(ctx context.Context, a ask) (reply, error) {
	answer := make(chan reply, 1)
	k.mu.Lock()
	conn := k.conn
	if conn == nil {
		k.mu.Unlock()
		return reply{}, fmt.Errorf("no connection to %s", leadSocket(k.cfg.Run))
	}
	k.lastID++
	a.ID = k.lastID
	k.open[a.ID] = answer
	k.mu.Unlock()
	k.write(conn, a)
	select {
	case r, ok := <-answer:
		if !ok {
			return reply{}, errors.New("the store closed the connection")
		}
		return r, nil
	case <-ctx.Done():
		k.mu.Lock()
		delete(k.open, a.ID)
		k.mu.Unlock()
		return reply{}, ctx.Err()
	}
}
