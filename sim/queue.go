package sim

import "mainstay/fleet"

// at is a point of true virtual time, in nanoseconds. No host knows it.
type at int64

const (
	microsecond at = 1e3
	millisecond at = 1e6
	second      at = 1e9
)

// kind says what an event does; the frequent ones have a kind of their own, so
// that they need no closure.
type kind uint8

const (
	callEvent kind = iota
	tickEvent
	beatEvent
	ackEvent
	raftEvent
	raftTickEvent
)

// event is one thing that will happen. One that belongs to a process waits while
// the process is frozen and is forgotten when it has ended.
type event struct {
	kind kind
	net  uint8
	live uint32 // the process's life that it was meant for
	proc *process
	call func()
	from *host
	beat *beat
	raft *message
}

// process is a program on a host: it can be killed, and it can be frozen.
type process struct {
	host    *host
	name    string
	life    uint32 // counts its starts and ends
	alive   bool
	frozen  bool
	backlog []*event
}

// backlogMost is how many datagrams wait in the sockets of a frozen process; the
// kernel drops what comes after.
const backlogMost = 512

func (p *process) stopped() bool { return p.frozen || p.host.suspended }

// slot is an event's place in the queue.
type slot struct {
	at    at
	order uint64 // of two events at one moment the one that was made first is first
	event *event
}

func (a slot) before(b slot) bool { return a.at < b.at || a.at == b.at && a.order < b.order }

// queue is a heap of what will happen.
type queue struct {
	slots []slot
	order uint64
	free  []*event
}

func (q *queue) make() *event {
	if n := len(q.free); n > 0 {
		e := q.free[n-1]
		q.free = q.free[:n-1]
		return e
	}
	return &event{}
}

func (q *queue) recycle(e *event) {
	*e = event{}
	q.free = append(q.free, e)
}

func (q *queue) push(when at, e *event) {
	q.order++
	x := slot{when, q.order, e}
	q.slots = append(q.slots, x)
	s, i := q.slots, len(q.slots)-1
	for i > 0 {
		up := (i - 1) / 4
		if !x.before(s[up]) {
			break
		}
		s[i] = s[up]
		i = up
	}
	s[i] = x
}

func (q *queue) pop() (at, *event) {
	top := q.slots[0]
	n := len(q.slots) - 1
	last := q.slots[n]
	q.slots[n] = slot{}
	q.slots = q.slots[:n]
	if n == 0 {
		return top.at, top.event
	}
	s, i := q.slots, 0
	for child := 1; child < n; child = 4*i + 1 {
		least := child
		for c := child + 1; c < min(child+4, n); c++ {
			if s[c].before(s[least]) {
				least = c
			}
		}
		if !s[least].before(last) {
			break
		}
		s[i] = s[least]
		i = least
	}
	s[i] = last
	return top.at, top.event
}

// after calls f in true time d from now, whoever lives or dies.
func (s *Site) after(d at, f func()) {
	e := s.queue.make()
	e.kind, e.call = callEvent, f
	s.queue.push(s.now+max(d, 0), e)
}

// in calls f as the process, d from now by true time: not while it is frozen,
// and not if it has ended by then.
func (p *process) in(d at, f func()) {
	s := p.host.site
	e := s.queue.make()
	e.kind, e.call, e.proc, e.live = callEvent, f, p, p.life
	s.queue.push(s.now+max(d, 0), e)
}

// on calls f as the process when its host's clock shows m or later.
func (p *process) on(m fleet.Moment, f func()) {
	p.in(p.host.when(m)-p.host.site.now, f)
}

// freeze stops a process as SIGSTOP does.
func (p *process) freeze() { p.frozen = true }

// thaw lets it go on: what waited is done in its order, a little apart.
func (p *process) thaw() {
	p.frozen = false
	p.release()
}

func (p *process) release() {
	if p.stopped() {
		return
	}
	s := p.host.site
	waiting := p.backlog
	p.backlog = nil
	for i, e := range waiting {
		s.queue.push(s.now+at(i+1)*microsecond, e)
	}
}

// start begins a new life, end ends it and forgets what was waiting.
func (p *process) start() {
	p.life++
	p.alive, p.frozen = true, false
}

func (p *process) end() {
	p.life++
	p.alive, p.frozen = false, false
	for _, e := range p.backlog {
		p.host.site.queue.recycle(e)
	}
	p.backlog = nil
}

// step lets the next event happen.
func (s *Site) step() {
	when, e := s.queue.pop()
	s.now = when
	if p := e.proc; p != nil {
		if e.live != p.life || !p.alive {
			s.queue.recycle(e)
			return
		}
		if p.stopped() {
			datagram := e.kind == beatEvent || e.kind == ackEvent || e.kind == raftEvent
			if datagram && len(p.backlog) >= backlogMost {
				s.queue.recycle(e)
				return
			}
			p.backlog = append(p.backlog, e)
			return
		}
	}
	switch e.kind {
	case callEvent:
		e.call()
	case tickEvent:
		e.proc.host.agent.tick()
	case beatEvent:
		e.proc.host.agent.hearBeat(e.from, int(e.net), e.beat)
	case ackEvent:
		e.proc.host.agent.hearAck(e.from, int(e.net), e.beat)
	case raftEvent:
		e.proc.host.member.step(e.raft)
	case raftTickEvent:
		e.proc.host.member.tick()
	}
	s.queue.recycle(e)
}
