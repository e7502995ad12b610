package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// A mirrored disk below the service in mode promoted, as DRBD keeps it: what the promoted
// copy writes is on every copy that it is connected with, and then acknowledged. When it
// loses one, its kernel stops all writes and has its host ask (fencing resource-and-stonith).
//
// Data are a point in a tree of histories: a line, and how many writes of it there are. A
// copy that goes on without another begins a new line, so two that have both done so are
// told from one that is only behind. DRBD 8.4 has two copies of a disk and no more. Where
// there is a third (DRBD 9), all that are connected with the writer begin the new line with
// it, before it writes (its message P_CURRENT_UUID): whoever is promoted when the writer
// dies at once is not apart from it.

// mirror is the disk of a site, on all its copies.
type mirror struct {
	site   *Site
	copies []*mirrorOf
	lines  []point // where each line began
	acked  point   // the newest write that was acknowledged
	sworn  map[string]bool
}

type point struct{ line, have int }

// mirrorOf is one copy.
type mirrorOf struct {
	u       *unit
	data    point
	forks   map[*mirrorOf]string // what its data were when a line began that another has not
	stale   bool                 // in the middle of a resync
	from    *mirrorOf
	until   at                 // of the resync
	joined  map[*mirrorOf]bool // the connections that stand
	without map[*mirrorOf]bool // those that it may write without
	frozen  bool
	waiting bool // it is to be promoted, which waits for leave too
	apart   bool
	asked   int
}

const (
	mirrorTick = 50 * millisecond
	// mirrorNet is the network over which the copies replicate.
	mirrorNet = 1
	// handlerBound is how long a promotion waits for leave.
	handlerBound = 40 * second
)

// mirrored makes the copies of drbd one disk.
func (s *Site) mirrored() {
	m := &mirror{site: s, lines: []point{{}}, sworn: map[string]bool{}}
	for _, h := range s.hosts {
		if u := h.copy("drbd"); u != nil {
			u.mirror = &mirrorOf{u: u, joined: map[*mirrorOf]bool{}, without: map[*mirrorOf]bool{}, forks: map[*mirrorOf]string{}}
			m.copies = append(m.copies, u.mirror)
		}
	}
	s.mirror = m
	s.after(mirrorTick, m.tick)
}

// holds says whether data have all that was written up to p.
func (m *mirror) holds(data, p point) bool {
	for {
		if data.line == p.line {
			return data.have >= p.have
		}
		if data.line == 0 {
			return false
		}
		data = m.lines[data.line]
	}
}

func (c *mirrorOf) up() bool {
	return c.u.host.on && !c.u.host.suspended && c.u.phase == fleet.Running
}

// tick lets copies find and lose each other, catch up, and take a write.
func (m *mirror) tick() {
	s := m.site
	for i, a := range m.copies {
		for _, b := range m.copies[i+1:] {
			up := a.up() && b.up() && s.open(a.u.host, b.u.host, mirrorNet) && s.open(b.u.host, a.u.host, mirrorNet)
			switch {
			case a.joined[b] && !up:
				m.part(a, b)
				m.part(b, a)
			case !a.joined[b] && up && !a.apart && !b.apart:
				m.meet(a, b)
			case a.joined[b] && a.data == b.data && !a.stale && !b.stale && (a.without[b] || b.without[a] || a.forks[b] != "" || b.forks[a] != ""):
				m.even(a, b)
			}
		}
	}
	for _, c := range m.copies {
		if c.from != nil && s.now >= c.until {
			c.data, c.forks = c.from.data, maps.Clone(c.from.forks)
			delete(c.forks, c)
			c.stale, c.from = false, nil
			c.u.notice()
		}
		c.thaw(m)
		m.asks(c)
		if c.u.promoted && c.up() && !c.frozen {
			c.data.have++
			m.acked = c.data
			for _, p := range m.copies {
				if p != c && c.joined[p] && p.from == nil && !p.stale {
					p.data = c.data
				}
			}
		}
	}
	s.after(mirrorTick, m.tick)
}

// part ends a connection as one side sees it.
func (m *mirror) part(c, p *mirrorOf) {
	delete(c.joined, p)
	if c.from == p {
		c.from = nil
	}
	c.thaw(m)
	c.u.notice()
	m.site.stir(time.Second)
}

// thaw stops the writes of a promoted copy that has lost another, or lets them go on.
func (c *mirrorOf) thaw(m *mirror) {
	c.frozen = (c.u.promoted || c.waiting) && len(c.lost(m)) > 0
}

// lost are those of whose data its kernel knows nothing.
func (c *mirrorOf) lost(m *mirror) (out []*mirrorOf) {
	for _, p := range m.copies {
		if p != c && !c.joined[p] && !c.without[p] {
			out = append(out, p)
		}
	}
	return out
}

// meet is the handshake of two copies.
func (m *mirror) meet(a, b *mirrorOf) {
	s := m.site
	older, younger := a, b
	switch {
	case a.stale && b.stale:
		return
	case a.stale, !b.stale && m.holds(b.data, a.data):
	case b.stale, m.holds(a.data, b.data):
		older, younger = b, a
	default:
		a.apart, b.apart = true, true
		s.tell("drbd: %s and %s find that both have changed, and go apart", a.u.host.name, b.u.host.name)
		a.u.notice()
		b.u.notice()
		return
	}
	if !older.stale && older.data != younger.data && older.u.promoted {
		older.apart = true // it takes no older data from anybody while it is in use
		return
	}
	a.joined[b], b.joined[a] = true, true
	if older.stale || older.data != younger.data {
		if older.from == nil {
			older.from, older.until, older.stale = younger, s.now+s.between(200*millisecond, second), true
		}
	}
	for _, c := range []*mirrorOf{a, b} {
		c.thaw(m)
		c.u.notice()
	}
	s.stir(2 * time.Second)
}

// even notes that two copies have the same data.
func (m *mirror) even(a, b *mirrorOf) {
	delete(a.without, b)
	delete(b.without, a)
	delete(a.forks, b)
	delete(b.forks, a)
	a.u.notice()
	b.u.notice()
	m.site.stir(2 * time.Second)
}

// asks keeps a host's questions as its kernel has them: one for each copy that was lost.
func (m *mirror) asks(c *mirrorOf) {
	a := c.u.host.agent
	if a == nil || c.u.host.agentProcess.stopped() || !c.frozen && len(a.parted) == 0 {
		return
	}
	lost := c.lost(m)
	for _, p := range m.copies {
		key := fleet.LagKey("drbd", p.u.host.name)
		want := c.frozen && c.up() && slices.Contains(lost, p)
		_, open := a.parted[key]
		switch {
		case want && !open && a.hand.Memory().Running["service/drbd"] > 0:
			c.asked++
			if a.parted == nil {
				a.parted = map[string]string{}
			}
			a.parted[key] = fmt.Sprintf("%s/%d", c.u.host.boot, c.asked)
			a.poke()
		case !want && open:
			delete(a.parted, key)
			a.poke()
		}
	}
}

// goOn gives a copy leave to write without another, if that is what it asks now.
func (m *mirror) goOn(c *mirrorOf, o fleet.Order) string {
	key := fleet.LagKey("drbd", o.With)
	a := c.u.host.agent
	if o.Mark == "" || a.parted[key] != o.Mark {
		return "it does not ask that any more"
	}
	delete(a.parted, key)
	without := m.copies[slices.IndexFunc(m.copies, func(p *mirrorOf) bool { return p.u.host.name == o.With })]
	c.without[without] = true
	m.lines = append(m.lines, c.data)
	was, begun := c.data.String(), point{len(m.lines) - 1, c.data.have}
	for _, p := range m.copies {
		if p == c || p != without && c.joined[p] && p.from == nil && !p.stale {
			p.data, p.forks[without] = begun, was
			p.u.notice()
		}
	}
	c.thaw(m)
	m.site.tell("drbd: %s goes on without %s", c.u.host.name, o.With)
	return ""
}

func (p point) String() string { return fmt.Sprintf("%d/%d", p.line, p.have) }

// isEven is a host's answer to whether another's copy has caught up with its own.
func (m *mirror) isEven(c *mirrorOf, host string) string {
	if a := c.u.host.agent; a.parted[fleet.LagKey("drbd", host)] == "" && slices.Contains(strings.Fields(c.state(m).Even), host) {
		return ""
	}
	return "not yet"
}

// promote waits until its kernel need not fear that another has newer data.
func (m *mirror) promote(c *mirrorOf, done func(err string)) {
	s, life, end := m.site, c.u.life, m.site.now+handlerBound
	c.waiting = true
	var look func()
	look = func() {
		c.thaw(m)
		switch {
		case c.u.life != life || !c.u.host.on:
			c.waiting = false
		case c.stale || c.u.phase != fleet.Running:
			c.waiting = false
			done("its data are no good")
		case !c.frozen:
			c.waiting = false
			done("")
		case s.now > end:
			c.waiting, c.frozen = false, false
			done("nobody gave it leave to be promoted without the others")
		default:
			s.after(mirrorTick, look)
		}
	}
	look()
}

// promoted: nothing that was acknowledged is missing on a copy that is promoted, but by a
// person's word.
func (m *mirror) promoted(c *mirrorOf) {
	host := c.u.host.name
	if !m.holds(c.data, m.acked) {
		if !m.sworn[host] {
			m.site.watch.fail("acknowledged writes", "service/drbd is promoted on %s, whose copy lacks what was acknowledged", host)
		}
		m.acked = c.data
	}
}

// off is the loss of the kernel with all that it knows; what is on the disk stays.
func (c *mirrorOf) off() { c.frozen, c.waiting, c.apart = false, false, false }

// state is what the kernel says.
func (c *mirrorOf) state(m *mirror) fleet.Mirror {
	var even, lost []string
	for _, p := range m.copies {
		if p != c && c.joined[p] && !c.stale && !p.stale {
			even = append(even, p.u.host.name)
		}
	}
	for _, p := range c.lost(m) {
		lost = append(lost, p.u.host.name)
	}
	fork := ""
	for _, p := range m.copies {
		fork = cmp.Or(fork, c.forks[p])
	}
	return fleet.Mirror{Even: strings.Join(even, " "), Lost: strings.Join(lost, " "), Frozen: c.frozen, Apart: c.apart, Data: fmt.Sprint(c.data.line), Fork: fork}
}

// accept is a person's word that a copy which is behind may be promoted.
func (s *Site) accept(h *host) {
	s.mirror.sworn[h.name] = true
	s.wish(fleet.Put("wish/copy-drbd-"+h.name, fleet.Wish{ID: "copy-drbd-" + h.name, Verb: "copy", Thing: "service/drbd", Host: h.name, By: "root", Why: "the other burnt", At: h.wall()},
		"root gives up what the copy of drbd on "+h.name+" lacks"))
}

// discard is what a person does about a split: this copy's changes are given up.
func (s *Site) discard(h *host) error {
	return withUnit(h, "drbd", func(u *unit) {
		u.mirror.stale = true
		clear(u.mirror.forks)
		for _, c := range s.mirror.copies {
			c.apart = false
		}
	})
}
