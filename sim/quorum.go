package sim

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"mainstay/fleet"
	"mainstay/lease"
)

// message travels between members.
type message = raftpb.Message

// quorum is what all members agree on: what stands in the log, and what follows
// from it.
type quorum struct {
	site    *Site
	deeds   []*write
	history []fleet.State // by index of the log; the first two are empty
	voters  []*host
	first   []uint64
	changes []change
	// want is what a person asked to change about the voters.
	want     []want
	changing bool
	changed  at  // when the last change of the voters was over
	clusters int // counts the times that one of a pair went on alone
}

// change is one change of the voters, and how it looks in the log.
type change struct {
	change  *raftpb.ConfChange
	data    []byte
	applied bool // somewhere
}

// write is one transaction on its way through the log.
type write struct {
	at      at     // when it was wanted
	epoch   uint64 // that must stand; of a raise the one before
	raise   bool
	free    bool // of a person: no epoch is asked for
	host    string
	ears    []string // the voters by the list that its leader decided with
	records []fleet.Record
	ok      bool
	known   bool
}

func newQuorum(s *Site) *quorum { return &quorum{site: s, history: make([]fleet.State, 2)} }

// at computes the state after an entry, once for all members.
func (q *quorum) at(index uint64, e *raftpb.Entry) {
	if index < uint64(len(q.history)) {
		return
	}
	if index != uint64(len(q.history)) {
		panic("sim: an entry was applied out of its order")
	}
	state := q.history[index-1]
	if e.GetType() == raftpb.EntryNormal && len(e.Data) == 8 {
		w := q.deeds[binary.LittleEndian.Uint64(e.Data)]
		before := state
		switch {
		case w.raise:
			if w.ok = state.Epoch == w.epoch; w.ok {
				state, _ = state.Apply(fleet.Put("epoch", fleet.EpochValue{Epoch: w.epoch + 1, Leader: w.host}, ""))
			}
		case w.free || state.Epoch == w.epoch:
			w.ok = true
			state, _ = state.Apply(w.records...)
		}
		w.known = true
		q.history = append(q.history, state)
		if w.ok {
			q.site.watch.committed(before, state, w)
		}
		return
	}
	q.history = append(q.history, state)
}

// newest is the truth: the last state that any member has applied.
func (q *quorum) newest() fleet.State { return q.history[len(q.history)-1] }

// member is one host's member of the store: a raft node, its disk and its gate.
type member struct {
	host    *host
	id      uint64
	disk    *raft.MemoryStorage
	lived   bool // it has data
	cluster int  // members of different ones refuse each other
	node    *raft.RawNode
	applied uint64
	saving  bool
	stuck   func() // what a hung disk holds back
	slow    at     // how much longer each fsync takes
	hung    bool
	ticked  bool // a tick waits while the disk is written
	beats   uint64
	began   fleet.Moment
	reads   [readsMost]read // by the last digits of their number
	unread  int             // how many of them are open
	lastRead,
	turns uint64
	status  raft.BasicStatus // as raft last said; looked at anew once it was touched
	stale   bool
	waiting map[uint64]func(ok bool)

	// The gate, as in package store.
	granted fleet.Moment
	leaving bool
	term    uint64 // of the transfer
	heard   fleet.Moment
	strikes int
	left    fleet.Moment
	moving  bool
}

// readsMost is how many reads are awaited; one that is older was given up long ago.
const readsMost = 64

// read is a confirmed read on its way; one without done is over.
type read struct {
	id, index uint64
	done      func()
}

func newMember(h *host) *member {
	m := &member{host: h, id: uint64(h.index + 1), disk: raft.NewMemoryStorage()}
	h.site.quorum.voters = append(h.site.quorum.voters, h)
	return m
}

// found gives every first voter the same beginning.
func (q *quorum) found() {
	q.first = nil
	for _, h := range q.voters {
		q.first = append(q.first, h.member.id)
	}
	for _, h := range q.voters {
		h.member.base(q.first)
	}
}

func (m *member) base(voters []uint64) {
	one := uint64(1)
	snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &one, Term: &one, ConfState: &raftpb.ConfState{Voters: slices.Clone(voters)}}}
	if err := m.disk.ApplySnapshot(snap); err != nil {
		panic(err)
	}
	commit := uint64(1)
	if err := m.disk.SetHardState(&raftpb.HardState{Term: &one, Commit: &commit}); err != nil {
		panic(err)
	}
}

// start runs the member's process, after the wait that a restart owes.
func (m *member) start() {
	h := m.host
	if h.stale() {
		return
	}
	if h.apart != nil && h.apart.begins != nil {
		m.force(h.apart.begins)
		h.apart.begins = nil
	}
	now := h.clock()
	begin := lease.MayStart(now, h.site.timing, !m.lived)
	if begin.After(now) {
		h.site.guard(fleet.GuardRestartWait)
	}
	h.quorumProcess.on(begin, m.join)
}

func (m *member) join() {
	h := m.host
	t := h.site.timing
	c := &raft.Config{
		ID: m.id, ElectionTick: int(t.Election / t.Heartbeat), HeartbeatTick: 1, Storage: m.disk, MaxSizePerMsg: 1 << 20, MaxInflightMsgs: 256,
		CheckQuorum: true, PreVote: true, Logger: quiet{},
	}
	var err error
	m.node, err = raft.NewRawNode(c)
	m.stale = true
	if err != nil {
		panic(err)
	}
	m.lived = true
	first, _ := m.disk.FirstIndex()
	m.applied, m.saving, m.stuck, m.ticked = first-1, false, nil, false
	m.reads, m.unread, m.waiting = [readsMost]read{}, 0, map[uint64]func(bool){}
	m.granted, m.leaving, m.strikes, m.left, m.moving = 0, false, 0, 0, false
	m.heard, m.beats = h.clock(), 0
	m.began = h.clock().Add(-time.Duration(h.site.between(0, at(t.Heartbeat)))) // hosts tick each in its own time
	m.await()
	m.pump()
}

// powerCut loses what was not on the disk.
func (m *member) powerCut() { m.node, m.saving, m.stuck, m.hung, m.slow = nil, false, nil, false, 0 }

// kill ends the process alone; the disk keeps what it was given.
func (m *member) kill() {
	m.host.quorumProcess.end()
	m.node, m.saving, m.stuck = nil, false, nil
}

func (m *member) await() {
	h := m.host
	s := h.site
	m.beats++
	e := s.queue.make()
	e.kind, e.proc, e.live = raftTickEvent, &h.quorumProcess, h.quorumProcess.life
	s.queue.push(max(s.now, h.when(m.began.Add(time.Duration(m.beats)*s.timing.Heartbeat))), e)
}

// tick is one turn of the loop that also writes the disk: while it writes, one
// tick waits and the others are lost.
func (m *member) tick() {
	if behind := uint64(m.host.clock().Sub(m.began) / m.host.site.timing.Heartbeat); behind > m.beats {
		m.beats = behind
	}
	m.await()
	if m.saving {
		m.ticked = true
		return
	}
	m.touch().Tick()
	m.gate()
	m.pump()
}

func (m *member) step(x *message) {
	if m.node == nil {
		return
	}
	_ = m.touch().Step(x)
	m.pump()
}

// touch gives out the raft node to do something to it.
func (m *member) touch() *raft.RawNode {
	m.stale = true
	return m.node
}

// look is what raft says of itself.
func (m *member) look() *raft.BasicStatus {
	if m.stale {
		m.status, m.stale = m.node.BasicStatus(), false
	}
	return &m.status
}

func (m *member) leads() bool { return m.node != nil && m.look().Lead == m.id }

func (m *member) termNow() uint64 { return m.look().HardState.GetTerm() }

// pump does what raft wants done: send, write, apply.
func (m *member) pump() {
	for m.node != nil && !m.saving && m.node.HasReady() {
		rd := m.node.Ready()
		leads := m.look().RaftState == raft.StateLeader
		if leads {
			m.send(rd.Messages)
		}
		for _, r := range rd.ReadStates {
			id := binary.LittleEndian.Uint64(r.RequestCtx)
			if x := &m.reads[id%readsMost]; x.id == id {
				x.index = r.Index
			}
		}
		if !rd.MustSync {
			m.finish(&rd, leads)
			continue
		}
		m.save(rd, leads)
	}
	m.served()
}

// save writes the disk; what raft wants done follows when that has ended.
func (m *member) save(rd raft.Ready, leads bool) {
	m.saving = true
	s := m.host.site
	m.host.quorumProcess.in(s.between(200*microsecond, 3*millisecond)+m.slow, func() {
		if m.hung {
			m.stuck = func() { m.saved(&rd, leads) }
			return
		}
		m.saved(&rd, leads)
	})
}

func (m *member) saved(rd *raft.Ready, leads bool) {
	m.saving = false
	m.finish(rd, leads)
	if m.ticked {
		m.ticked = false
		m.touch().Tick()
		m.gate()
	}
	m.pump()
}

// disk hangs or heals the disk.
func (m *member) hangDisk(hung bool) {
	m.hung = hung
	if stuck := m.stuck; !hung && stuck != nil {
		m.stuck = nil
		m.host.quorumProcess.in(0, stuck)
	}
}

func (m *member) finish(rd *raft.Ready, leads bool) {
	if !raft.IsEmptyHardState(rd.HardState) {
		_ = m.disk.SetHardState(rd.HardState)
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		_ = m.disk.ApplySnapshot(rd.Snapshot)
		m.applied = rd.Snapshot.GetMetadata().GetIndex()
	}
	_ = m.disk.Append(rd.Entries)
	if !leads {
		m.send(rd.Messages)
	}
	for _, e := range rd.CommittedEntries {
		m.apply(e)
	}
	m.touch().Advance(*rd)
}

func (m *member) apply(e *raftpb.Entry) {
	q := m.host.site.quorum
	q.at(e.GetIndex(), e)
	m.applied = e.GetIndex()
	if e.GetType() == raftpb.EntryConfChange {
		for i, c := range q.changes {
			if bytes.Equal(c.data, e.Data) {
				q.changes[i].applied = true
				m.touch().ApplyConfChange(c.change)
				if m.host.site.paired() && c.change.GetType() == raftpb.ConfChangeRemoveNode && c.change.GetNodeId() == m.id {
					m.host.quorumProcess.in(0, m.kill) // a member that was removed ends
				}
				return
			}
		}
		panic("sim: an unknown change of the voters")
	}
	if len(e.Data) != 8 {
		return
	}
	id := binary.LittleEndian.Uint64(e.Data)
	if done := m.waiting[id]; done != nil {
		delete(m.waiting, id)
		ok := q.deeds[id].ok
		m.host.agentProcess.in(50*microsecond, func() { done(ok) })
	}
	if a := m.host.agent; a != nil && q.deeds[id].host != m.host.name {
		m.host.agentProcess.in(80*microsecond, func() { a.leader.news() })
	}
}

func (m *member) send(messages []*message) {
	h := m.host
	s := h.site
	for _, x := range messages {
		if x.GetTo() == m.id || x.GetTo() == 0 || x.GetTo() > uint64(len(s.hosts)) {
			continue
		}
		to := s.hosts[x.GetTo()-1]
		if to.member == nil || to.member.node == nil || to.member.cluster != m.cluster || !s.open(h, to, 0) {
			continue
		}
		n := s.nets[0]
		d := s.between(n.low, n.top)
		if n.loss > 0 && s.chance(n.loss) {
			d += 200 * millisecond // sent again
		}
		e := s.queue.make()
		e.kind, e.proc, e.live, e.raft = raftEvent, &to.quorumProcess, to.quorumProcess.life, x
		s.queue.push(s.now+d, e)
	}
}

// state is what this host's mirror shows.
func (m *member) state() fleet.State {
	return m.host.site.quorum.history[max(1, m.applied)]
}

// propose puts a transaction into the log. done hears whether it was carried
// out; known is false when nobody can tell.
func (m *member) propose(w *write, patience time.Duration, done func(ok, known bool)) {
	h := m.host
	s := h.site
	id := uint64(len(s.quorum.deeds))
	w.at = s.now
	s.quorum.deeds = append(s.quorum.deeds, w)
	answered, life := false, h.agentProcess.life
	answer := func(ok, known bool) {
		if !answered && h.agentProcess.life == life {
			answered = true
			done(ok, known)
		}
	}
	h.agentProcess.in(h.span(patience), func() { answer(false, false) })
	h.quorumProcess.in(30*microsecond, func() {
		if m.node == nil {
			return
		}
		m.waiting[id] = func(ok bool) { answer(ok, true) }
		if err := m.touch().Propose(binary.LittleEndian.AppendUint64(nil, id)); err != nil {
			delete(m.waiting, id)
		}
		m.pump()
	})
}

// read calls done when a read that began now is confirmed and applied.
func (m *member) read(done func()) {
	m.lastRead++
	id := m.lastRead
	x := &m.reads[id%readsMost]
	if x.done == nil {
		m.unread++
	}
	*x = read{id: id, done: done}
	m.touch().ReadIndex(binary.LittleEndian.AppendUint64(nil, id))
	m.pump()
}

// served ends the reads that are confirmed.
func (m *member) served() {
	left := m.unread
	for id := m.lastRead; left > 0 && id > 0 && id+readsMost > m.lastRead; id-- {
		x := &m.reads[id%readsMost]
		if x.id != id || x.done == nil {
			continue
		}
		left--
		if x.index != 0 && x.index <= m.applied {
			done := x.done
			x.done = nil
			m.unread--
			done()
		}
	}
}

// ping answers the agent: does it lead, and in which term?
func (m *member) ping(received fleet.Moment, answer func(term uint64, lead bool)) {
	if m.node == nil {
		return
	}
	m.heard, m.strikes = max(m.heard, received), 0
	turn, term := m.turns, m.termNow()
	grant := func() {
		if !m.leads() || m.termNow() != term || m.turns != turn || m.leaving {
			answer(term, false)
			return
		}
		m.granted = max(m.granted, lease.LeadUntil(received, m.host.site.timing))
		answer(term, true)
	}
	switch {
	case !m.leads():
		answer(term, false)
	case !fleet.Armed(fleet.GuardLeadRead):
		grant()
	default:
		m.read(grant)
	}
}

// gate hands the lead over when nobody asks for it any more.
func (m *member) gate() {
	if !m.leads() {
		m.leaving, m.moving = false, false
		return
	}
	if m.leaving && m.termNow() != m.term {
		m.leaving, m.moving = false, false
	}
	now := m.host.clock()
	t := m.host.site.timing
	must := m.leaving && !m.moving
	if fleet.Armed(fleet.GuardOrphan) && !must && !m.leaving {
		patience, since := t.Election, max(m.heard, m.began)
		if m.strikes > 0 {
			since = max(since, m.left)
			patience = t.Election << min(m.strikes-1, 4)
		}
		if now.Sub(since) > patience {
			m.host.site.guard(fleet.GuardOrphan)
			m.strikes++
			m.left = now
			must = true
		}
	}
	if must {
		m.handOver(m.heir())
	}
}

// heir is the next voter in the ring.
func (m *member) heir() uint64 {
	ids := m.node.Status().Config.Voters.IDs()
	var all []uint64
	for id := range ids {
		all = append(all, id)
	}
	slices.Sort(all)
	for k := range all {
		if all[k] == m.id {
			return all[(k+1+int(m.turns)%max(1, len(all)-1))%len(all)]
		}
	}
	return m.id
}

// handOver gives the lead to another, once nobody may act on it any more, and
// once a read has shown that it is still ours to give.
func (m *member) handOver(to uint64) {
	if to == m.id || to == 0 || m.moving {
		return
	}
	h := m.host
	m.leaving, m.moving, m.term = true, true, m.termNow()
	m.turns++
	end := m.granted
	if !fleet.Armed(fleet.GuardTransfer) {
		end = 0
	} else if end.After(h.clock()) {
		h.site.guard(fleet.GuardTransfer)
	}
	h.quorumProcess.on(max(end, h.clock()), func() {
		if !m.leads() || m.termNow() != m.term {
			return
		}
		until := h.clock().Add(h.site.timing.LeadLease())
		h.quorumProcess.on(h.clock().Add(2*h.site.timing.Election), func() { m.moving = false })
		m.read(func() {
			if m.leads() && m.termNow() == m.term && h.clock().Before(until) {
				m.touch().TransferLeader(to)
				m.pump()
			}
		})
	})
}

// lead is what the agent knows of its right to act.
type lead struct {
	until fleet.Moment
	held  bool
	asked uint64
	newer uint64
}

func (l *lead) holds(now fleet.Moment) bool { return l.held && now.Before(l.until) }

// pings asks this host's member each t.
func (a *agent) pings() {
	h := a.host
	m := h.member
	asked := h.clock()
	a.lead.asked++
	id := a.lead.asked
	h.quorumProcess.in(h.site.between(10*microsecond, 60*microsecond), func() {
		m.ping(h.clock(), func(_ uint64, lead bool) {
			h.agentProcess.in(20*microsecond, func() {
				if h.agent == a {
					a.pinged(id, asked, lead)
				}
			})
		})
	})
	h.agentProcess.on(asked.Add(a.spec.Timing.Heartbeat), a.pings)
}

func (a *agent) pinged(id uint64, asked fleet.Moment, led bool) {
	l := &a.lead
	if id <= l.newer {
		return
	}
	l.newer = id
	now := a.host.clock()
	was := l.holds(now)
	l.held = led
	if led {
		// The gate reads its clock later than the question was asked; the earlier
		// of the two moments counts.
		l.until = lease.LeadUntil(asked, a.spec.Timing)
	}
	if is := l.holds(now); is {
		a.host.site.watch.leads(a.host)
		if !was {
			a.leader.elected()
		}
	}
}
