package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// cluster is a database whose members share one history, as Galera's do, and the client
// who writes to it all the time. What a member knows on disk outlives its host's power;
// its newest change may lack there.
type cluster struct {
	site    *Site
	copies  []*copyOf // in the order of their hosts
	views   int       // counts the primary components
	acked   int64     // the newest change that a client was told is safe
	primary []*component
	line    *branch // the history that goes on
	history string  // and its name
}

// copyOf is one member.
type copyOf struct {
	u       *unit
	of      *component // nil: in none
	begun   at         // when its present start began
	joining at         // until when it gets its data from another; 0: it does not
	told    uint64     // the epoch in which its present start was ordered, to join; 0: it was not
	killed  bool       // it was ended by force
	known   bool       // its storage engine was asked since it last ran

	// On disk.
	history string // "": it has no data
	branch  *branch
	seqno   int64
	view    string
	seen    []string
	// renounced are the marks under which it threw its data away.
	renounced []string
}

// component is a primary component: those that take writes together.
type component struct {
	members []*copyOf
	history string
	branch  *branch
	seqno   int64
}

const (
	clusterTick = 100 * time.Millisecond
	evicted     = 5 * time.Second  // a member that is silent is left behind after this
	givesUp     = 30 * time.Second // a start that finds no peers ends
)

// clustered gives the site a database on its controllers.
func (s *Site) clustered() {
	c := &cluster{site: s, line: &branch{}, history: "one"}
	for _, h := range s.hosts {
		if u := h.copy("db"); u != nil {
			u.of = &copyOf{u: u, history: c.history, branch: c.line}
			c.copies = append(c.copies, u.of)
		}
	}
	s.cluster = c
	s.after(at(clusterTick), c.tick)
}

// up says whether the member's process works.
func (m *copyOf) up() bool {
	return m.u.host.on && !m.u.hung && (m.u.phase == fleet.Running || m.u.phase == fleet.Starting)
}

// tick lets the members find each other, lose each other, and take a write.
func (c *cluster) tick() {
	s := c.site
	for _, p := range slices.Clone(c.primary) {
		c.shrink(p)
	}
	for _, m := range c.copies {
		if m.of == nil && m.up() {
			c.meet(m)
		}
		if m.of == nil && m.u.phase == fleet.Starting && m.up() && s.now-m.begun > at(givesUp) {
			m.u.life++
			m.u.set(fleet.Failed)
			m.u.begun = append(m.u.begun, s.elapsed())
			m.ended("it found no peers")
		}
		if m.joining != 0 && s.now >= m.joining {
			m.joining = 0
			if m.of != nil {
				m.seqno, m.history, m.branch = m.of.seqno, m.of.history, m.of.branch
				m.ready()
			}
		}
	}
	for _, p := range c.primary {
		c.write(p)
	}
	if len(c.primary) > 1 {
		s.watch.fail("one primary component", "%s and %s both take writes", c.primary[0], c.primary[1])
	}
	// Others were cut off, or were to go on with those that they last saw; and a leader
	// that has just begun may not know yet whom the one before it let join.
	joins := map[uint64]int{}
	for _, m := range c.copies {
		if m.joining != 0 && m.told != 0 && m.u.phase == fleet.Starting {
			if joins[m.told]++; joins[m.told] > 1 {
				s.watch.fail("one joiner", "%d members were told to join at once", joins[m.told])
			}
		}
	}
	s.after(at(clusterTick), c.tick)
}

func (p *component) String() string {
	var names []string
	for _, m := range p.members {
		names = append(names, m.u.host.name)
	}
	return strings.Join(names, ", ")
}

// write is one client's commit: on the disk of the first member when it is told, on
// that of the others a moment later.
func (c *cluster) write(p *component) {
	for _, m := range p.members {
		if m.up() && m.joining == 0 {
			m.seqno = max(m.seqno, p.seqno)
		}
	}
	for _, m := range p.members {
		if m.up() && m.joining == 0 && m.u.phase == fleet.Running && len(c.left(p)) == len(p.members) {
			p.seqno++
			m.seqno = p.seqno
			c.acked = p.seqno
			return
		}
	}
}

// left are the members of a component that still work and see the first of them.
func (c *cluster) left(p *component) []*copyOf {
	var out []*copyOf
	for _, m := range p.members {
		if m.up() && m.of == p && (len(out) == 0 || c.sees(out[0], m)) {
			out = append(out, m)
		}
	}
	return out
}

func (c *cluster) sees(a, b *copyOf) bool {
	return c.site.open(a.u.host, b.u.host, 0) && c.site.open(b.u.host, a.u.host, 0)
}

// shrink leaves behind whoever is gone; a majority of the component goes on.
func (c *cluster) shrink(p *component) {
	left := c.left(p)
	if len(left) == len(p.members) {
		return
	}
	if 2*len(left) > len(p.members) {
		for _, m := range p.members {
			if !slices.Contains(left, m) && m.of == p {
				m.of = nil
			}
		}
		p.members = left
		c.seen(p)
		return
	}
	for _, m := range p.members {
		if m.of == p {
			m.of = nil
			m.joining = 0
			m.u.notice()
		}
	}
	c.drop(p)
}

func (c *cluster) drop(p *component) {
	c.primary = slices.DeleteFunc(c.primary, func(x *component) bool { return x == p })
	c.site.tell("db is primary nowhere")
}

// seen writes down on each disk who is in the component.
func (c *cluster) seen(p *component) {
	c.views++
	var ids []string
	for _, m := range p.members {
		ids = append(ids, m.u.host.name)
	}
	for _, m := range p.members {
		m.view, m.seen = fmt.Sprint(c.views), ids
		m.u.notice()
	}
	c.site.tell("db is primary on %s", p)
}

// meet lets a member join a component that it sees, or go on with those that it last saw.
func (c *cluster) meet(m *copyOf) {
	s := c.site
	for _, p := range c.primary {
		if i := slices.IndexFunc(p.members, func(o *copyOf) bool { return o.joining == 0 && o.up() && c.sees(m, o) }); i >= 0 {
			c.meets(m, p)
			m.of, p.members = p, append(p.members, m)
			m.joining = s.now + s.between(500*millisecond, 3*second)
			c.seen(p)
			return
		}
	}
	if m.view == "" {
		return
	}
	var all []*copyOf
	for _, o := range c.copies {
		if o.of == nil && o.up() && o.view == m.view && (o == m || c.sees(m, o)) {
			all = append(all, o)
		}
	}
	if len(all) == len(m.seen) {
		c.begin(all)
	}
}

// begin makes a primary component of members; the newest data among them are its own.
func (c *cluster) begin(all []*copyOf) {
	p := &component{members: all, history: all[0].history}
	for _, m := range all {
		p.seqno = max(p.seqno, m.seqno)
	}
	c.judge(p)
	for _, m := range all {
		m.of, m.seqno, m.joining = p, p.seqno, 0
		m.ready()
	}
	c.primary = append(c.primary, p)
	c.seen(p)
}

// ready ends the member's start.
func (m *copyOf) ready() {
	if m.u.phase == fleet.Starting {
		m.u.set(fleet.Running)
		m.ended("")
		return
	}
	m.u.notice()
}

// ended tells whoever ordered what is under way.
func (m *copyOf) ended(err string) {
	if m.u.working && m.u.answer != nil {
		m.u.answer(err)
	}
}

// gone is what the end of a member's process leaves: it may have lost nothing that is on
// its disk, and knows whom it last saw unless it left in good order.
func (m *copyOf) gone() {
	m.joining, m.known, m.killed = 0, false, false
	if p := m.of; p != nil {
		m.of = nil
		m.u.host.site.after(at(evicted), func() { m.u.host.site.stir(time.Second) })
	}
}

// wiped loses all that is on the member's disk; what only it had is gone by that.
func (m *copyOf) wiped() {
	m.history, m.seqno = "", 0
	c := m.u.host.site.cluster
	most := int64(0)
	for _, o := range c.copies {
		most = max(most, o.seqno)
	}
	c.acked = min(c.acked, most)
}

// operate carries out an order on the member.
func (m *copyOf) operate(j job, done func(err string)) {
	u, s := m.u, m.u.host.site
	begin := func() {
		if u.phase == fleet.Running || u.phase == fleet.Starting {
			done("")
			return
		}
		m.known, m.begun, m.told = false, s.now, 0
		if j.verb == plan.VerbJoin {
			m.told = j.epoch
		}
		u.life++
		u.set(fleet.Starting)
		s.stir(givesUp)
	}
	switch j.verb {
	case fleet.VerbTend:
		m.renounce(j.with, done)
	case fleet.VerbStart:
		begin()
	case plan.VerbJoin:
		if !u.alive() {
			m.view, m.seen = "", nil
		}
		begin()
	case plan.VerbBootstrap:
		if u.alive() || !m.known {
			done("it must be down with its position known")
			return
		}
		m.view, m.seen = "", nil
		begin()
		life := u.life
		s.after(s.between(300*millisecond, 2*second), func() {
			if u.life == life && m.up() && m.of == nil {
				s.cluster.begin([]*copyOf{m})
			}
		})
	case plan.VerbPosition:
		if u.phase == fleet.Running && (u.hung || m.of != nil) {
			done("it runs and may be in the primary component")
			return
		}
		if u.alive() {
			u.life++
			m.gone()
			u.set(fleet.Stopped)
		}
		m.view, m.seen = "", nil
		life := u.life
		s.after(s.between(300*millisecond, 2*second), func() {
			if u.life == life && u.host.on {
				m.known = true
				u.notice()
				done("")
			}
		})
	default:
		done("no such deed for a member")
	}
}

// replica is what the member says of itself.
func (m *copyOf) replica() fleet.Replica {
	if m.history == "" {
		return fleet.Replica{Empty: true, View: m.view, Seen: strings.Join(m.seen, ","), Me: m.me(), Renounced: m.renouncedAs()}
	}
	r := fleet.Replica{UUID: m.history, View: m.view, Seen: strings.Join(m.seen, ","), Me: m.me(), Renounced: m.renouncedAs()}
	switch {
	case !m.u.alive() && m.known:
		r.Known, r.Seqno = true, m.seqno
	case m.u.phase != fleet.Running || m.u.hung:
	case m.of == nil:
		r.Part = fleet.PartApart
	case m.joining != 0:
		r.Part = fleet.PartJoining
	default:
		r.Part = fleet.PartSynced
	}
	return r
}

func (m *copyOf) me() string {
	if m.view == "" {
		return ""
	}
	return m.u.host.name
}

// primaryOn tells where the cluster takes writes.
func (c *cluster) primaryOn() string {
	var all []string
	for _, p := range c.primary {
		all = append(all, p.String())
	}
	if len(all) == 0 {
		return "nowhere"
	}
	return strings.Join(all, " and ")
}
