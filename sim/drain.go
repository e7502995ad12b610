package sim

import (
	"slices"
	"time"

	"mainstay/fleet"
)

// migrate is Nova's live migration, as its source has it: its record is made a moment after
// the answer, a second one is refused meanwhile, and the host is written down last.
func (n *nova) migrate(g *guest, to string) (fleet.Outcome, string) {
	s := n.site
	switch {
	case to != "" && n.nodes[s.names[to]] == nil:
		return fleet.Refused, "Compute host " + to + " could not be found."
	case g.State != fleet.ServerActive:
		return fleet.Refused, "Cannot 'os-migrateLive' while it is in vm_state " + g.State
	case g.Task != "":
		return fleet.Refused, "Cannot 'os-migrateLive' while it is in task_state " + g.Task
	}
	g.Task, g.before = fleet.TaskMigrating, len(g.lives)
	s.tell("Nova: live-migrate %s from %s", g.ID, g.Host)
	s.after(s.between(100*millisecond, 1500*millisecond), func() { n.send(g, to) })
	return fleet.Done, ""
}

// send finds a target, and has the source send its guest there.
func (n *nova) send(g *guest, to string) {
	s := n.site
	if g.Task != fleet.TaskMigrating {
		return // it is evacuated
	}
	if n.forget > 0 {
		n.forget--
		return
	}
	source := s.names[g.Host]
	n.lastID++
	m := &fleet.Migration{ID: n.lastID, Status: "accepted", From: g.Host}
	g.lives = append(g.lives, m)
	over := func(status string) {
		m.Status = status
		if g.Task == fleet.TaskMigrating {
			g.Task = ""
		}
		s.tell("Nova: the live migration of %s to %s is %s", g.ID, m.To, status)
	}
	h := n.best(g, to)
	if h == nil || !n.up(source) || !n.working(source) || !g.runs[source] {
		over("error")
		return
	}
	m.To, m.Status = h.name, "running"
	boot, other := source.boot, h.boot
	s.after(s.between(2*second, 8*second), func() {
		switch {
		case !source.on || source.boot != boot || g.Task != fleet.TaskMigrating || m.Status != "running":
			return // what the source was told dies with it
		case !h.on || h.boot != other || s.chance(n.breaks):
			over("failed")
			return
		}
		n.run(g, source, false)
		if g.disks != nil {
			g.disks[h] = g.disks[source] // what is on it goes along
		}
		n.run(g, h, true)
		s.tell("%s goes on at %s", g.ID, h.name)
		s.after(s.between(200*millisecond, 1500*millisecond), func() {
			switch {
			case !source.on || source.boot != boot || g.Task != fleet.TaskMigrating || !n.working(source):
			case n.working(h) && n.reached(h):
				g.Host = h.name
				over("completed")
			default:
				m.Status = "completed"
				s.tell("Nova: the live migration of %s is completed, and %s did not answer", g.ID, h.name)
			}
		})
	})
}

// resets is what a nova-compute does at its start with live migrations that it finds. Those
// whose guests have left it does not start anew: that of a file QEMU's lock prevents, that of RBD
// nothing does (docs/STATE.md).
func (n *nova) resets(h *host) map[*guest]bool {
	left := map[*guest]bool{}
	for _, g := range n.guests {
		for _, m := range g.lives {
			if m.From != h.name || g.Host != h.name {
				continue
			}
			if m.Status == "running" && g.Task == fleet.TaskMigrating {
				m.Status, g.Task = "error", ""
			}
			left[g] = len(g.runs) > 0 && !g.runs[h] // at its next start too
		}
	}
	return left
}

// moved says whether a server was evacuated from a host.
func (g *guest) moved(h *host) bool {
	return slices.ContainsFunc(g.migs, func(m *fleet.Migration) bool { return m.From == h.name })
}

// mends is a person who reads what Mainstay tells: a guest that runs where Nova does not
// have it is ended, or Nova's database corrected; a server that Nova calls broken or
// migrating, of which nothing is on its way, is called what it is; and a nova-compute is restarted that Mainstay
// restarts no more, or not while guests run there, and whose host Nova does not lift.
func (n *nova) mends() {
	for _, h := range n.site.hosts {
		x, a := n.nodes[h], n.site.quorum.newest().Ailments[h.name]
		_, told := a.Of["forced down"]
		if x != nil && x.forced && told && n.working(h) && n.unsettled(h.name) != nil &&
			(!a.Settled.IsZero() && h.wall().Sub(a.Settled) > time.Minute || slices.ContainsFunc(n.guests, func(g *guest) bool { return g.runs[h] })) {
			n.site.tell("a person restarts the nova-compute of %s", h.name)
			n.started(h)
		}
	}
	for _, g := range n.guests {
		home := n.site.names[g.Host]
		for _, h := range n.site.hosts {
			if !g.runs[h] || h == home {
				continue
			}
			if n.nodes[home].forced {
				n.site.tell("a person ends the guest of %s on %s", g.ID, h.name)
				n.run(g, h, false)
			} else if len(g.lives) > 0 && g.lives[len(g.lives)-1].Status != "running" {
				n.site.tell("a person corrects Nova: %s is on %s", g.ID, h.name)
				g.Host, g.Task, g.State = h.name, "", fleet.ServerActive
			}
		}
		quiet := len(g.lives) <= g.before || g.lives[len(g.lives)-1].Status != "running" && g.lives[len(g.lives)-1].Status != "completed"
		if g.Task == fleet.TaskMigrating && quiet && g.runs[home] && n.site.now-g.asked > 600*second {
			n.site.tell("a person resets %s", g.ID)
			g.Task = ""
		}
	}
}
