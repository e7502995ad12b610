package sim

import (
	"math"
	"slices"
	"strings"

	"mainstay/fleet"
)

// branch is one course of the database's history. A cluster that is begun without what
// one of its members has goes on from an earlier change: the next ones have the same
// numbers as those that the member has, and are others.
type branch struct {
	of   *branch // nil: it is the first
	from int64   // the newest change that it has of that one
}

// leads says whether whoever has the changes up to seqno of b has none that is not in to.
func (b *branch) leads(seqno int64, to *branch) bool {
	most := int64(math.MaxInt64)
	for ; to != nil; to = to.of {
		if to == b {
			return seqno <= most
		}
		most = min(most, to.from)
	}
	return false
}

// astray says whether a member has data that are not in the history which goes on.
func (c *cluster) astray(m *copyOf) bool {
	return m.history != "" && (m.history != c.history || !m.branch.leads(m.seqno, c.line))
}

// word says whether a person gave up what only a member has.
func (c *cluster) word(m *copyOf) bool {
	_, given := c.site.quorum.newest().Wishes["without-db-"+m.u.host.name]
	return given
}

// judge sees that a primary component begins with all that is to be kept, and notes that
// the history goes on with it.
func (c *cluster) judge(p *component) {
	w, kept, words := c.site.watch, "", false
	newest := p.members[0]
	for _, m := range p.members {
		if m.seqno > newest.seqno {
			newest = m
		}
	}
	p.branch = newest.branch
	others := true // all others were given up
	for _, m := range c.copies {
		in := slices.Contains(p.members, m)
		switch {
		case in && !m.branch.leads(m.seqno, p.branch):
			w.fail("one history", "%s go on together, and change %d on %s is of another branch", p, m.seqno, m.u.host.name)
		case in:
		case c.word(m):
			words = true
		case m.history != "" && m.history != p.history:
			w.fail("one history", "%s begin, and nobody gave up what %s has of another history", p, m.u.host.name)
		case m.history != "":
			if others = others && c.astray(m); !c.astray(m) && m.seqno > p.seqno {
				kept = m.u.host.name
			}
		}
	}
	switch {
	case p.history == "":
		w.fail("nothing is lost", "a member without data begins: %s", p)
	case c.astray(newest) && !(words && others):
		w.fail("one history", "%s begin from change %d of a branch that was given up", p, p.seqno)
	case p.seqno < c.acked && !words:
		w.fail("nothing is lost", "change %d was acknowledged, and %s go on from %d", c.acked, p, p.seqno)
	case p.seqno < c.acked && kept != "":
		w.fail("nothing is lost", "change %d was acknowledged, %s go on from %d, and nobody gave up what %s has", c.acked, p, p.seqno, kept)
	case p.seqno < c.acked:
		c.site.tell("%d changes are lost on a person's word", c.acked-p.seqno)
		c.acked = p.seqno
	}
	if words {
		p.branch = &branch{of: p.branch, from: p.seqno}
	}
	c.line, c.history = p.branch, p.history
	for _, m := range p.members {
		m.branch = p.branch
	}
}

// meets sees that nobody gets into a component with changes that are not in its history.
// One of another history altogether gets all data anew, whatever it has.
func (c *cluster) meets(m *copyOf, p *component) {
	if m.history == p.history && !m.branch.leads(m.seqno, p.branch) {
		c.site.watch.fail("one history", "%s joins %s and keeps change %d of a branch that was given up", m.u.host.name, p, m.seqno)
	}
}

// renounce throws the member's data away, once under each mark.
func (m *copyOf) renounce(mark string, done func(err string)) {
	s := m.u.host.site
	if m.u.alive() {
		done("it runs")
		return
	}
	life := m.u.life
	s.after(s.between(5*millisecond, 500*millisecond), func() {
		if m.u.life != life || !m.u.host.on {
			return
		}
		if !slices.Contains(m.renounced, mark) {
			m.renounced = append(m.renounced, mark)
			s.cluster.lets(m)
			m.history, m.seqno, m.view, m.seen, m.known = "", 0, "", nil, false
		}
		m.u.notice()
		done("")
	})
}

// lets sees that what a member throws away is nothing that was acknowledged and is kept
// nowhere else.
func (c *cluster) lets(m *copyOf) {
	if m.history == "" || c.astray(m) || m.seqno < c.acked {
		return
	}
	for _, o := range c.copies {
		if o != m && o.history != "" && !c.astray(o) && o.seqno >= c.acked {
			return
		}
	}
	c.site.watch.fail("nothing is lost", "change %d was acknowledged, and %s throws it away, which has it alone", c.acked, m.u.host.name)
}

// founded makes a member's data those of a cluster of its own.
func (m *copyOf) founded() {
	m.history, m.branch, m.known = "of "+m.u.host.name, &branch{}, false
}

// without is a person's word that a cluster may go on without what only one member has.
func (s *Site) without(h *host) {
	s.wish(fleet.Put("wish/without-db-"+h.name, fleet.Wish{ID: "without-db-" + h.name, Verb: "without", Thing: "service/db", Host: h.name, By: "root", Why: "its disks are broken", At: h.wall()},
		"root gives up what only "+h.name+" has of db"))
}

// renouncedAs is what the member says of the marks under which it gave up data.
func (m *copyOf) renouncedAs() string { return strings.Join(m.renounced, ",") }
