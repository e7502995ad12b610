package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// Disks that are on their hosts, Nova's snapshots of them and Glance, as openstack/falsecloud
// plays them, in virtual time; and the audits of it. What is on a disk is a time: until then the
// server's guests have written, and all of it is there. What is restored is of an earlier one.

// album is Glance, and the local disks.
type album struct {
	every, wait at
	images      []*picture
	blind       bool // Glance does not answer
	failing     int  // so many snapshots fail on their way
	// uploads are the snapshots under way at the computes, lostAt when a host lost its power last.
	uploads map[*guest]*host
	lostAt  map[*host]at
	// calm: everything has healed and every server has its snapshots; from then on none is made.
	calm bool
}

// picture is one image.
type picture struct {
	fleet.Image
	data at
}

// pictured gives a site local disks.
func (n *nova) pictured(s Shape) {
	if s.Local == "" {
		return
	}
	every, wait, _ := s.local()
	n.album = &album{every: at(every), wait: at(wait), uploads: map[*guest]*host{}, lostAt: map[*host]at{}}
	for _, g := range n.guests {
		g.Image, g.Created, g.disks = "first-day", n.site.hosts[0].wall().Format(time.RFC3339), map[*host]at{n.site.names[g.Host]: 0}
	}
}

// local reads what the story says of local disks: EVERY/WAIT.
func (sh Shape) local() (every, wait time.Duration, err error) {
	a, b, _ := strings.Cut(sh.Local, "/")
	if every, err = time.ParseDuration(a); err == nil {
		wait, err = time.ParseDuration(b)
	}
	return every, wait, err
}

// disk is until when what is written is on a guest's disk on a host.
func (n *nova) disk(g *guest, h *host) at {
	if g.runs[h] {
		return n.site.elapsed()
	}
	return g.disks[h]
}

// halts: a guest runs no more, and what it wrote until now is on its disk.
func (n *nova) halts(g *guest, h *host) {
	if g.disks != nil && g.runs[h] {
		g.disks[h] = n.site.elapsed()
	}
}

// newest is the newest whole image of a server.
func (n *nova) newest(id string) (best *picture) {
	for _, p := range n.album.images {
		if p.Server == id && p.Status == fleet.ImageActive {
			best = p // they are in order
		}
	}
	return best
}

// shelf is what Glance tells of some servers.
func (n *nova) shelf(c *fleet.Cloud, began fleet.Moment) {
	if n.album == nil {
		return
	}
	if n.album.blind {
		c.Glance = "no answer from Glance"
		return
	}
	c.Images = map[string]fleet.Images{}
	for id := range c.Servers {
		c.Images[id] = fleet.Images{At: began, List: n.list(id)}
	}
}

func (n *nova) list(id string) (out []fleet.Image) {
	for _, p := range slices.Backward(n.album.images) {
		if p.Server == id {
			out = append(out, p.Image)
		}
	}
	return out
}

// How often a leader takes stock here, where intervals are short.
const (
	stockSoon = 5 * second
	stockIdle = 20 * second
)

// watchStock is the leader's list of all of them, as package leader makes it.
func (l *leader) watchStock(reign uint64, taken at) {
	h := l.agent.host
	n := h.site.nova
	if n == nil || n.album == nil || l.reigns != reign || !l.on {
		return
	}
	wait := stockIdle
	if l.plan.Stock {
		wait = stockSoon
	}
	if n.album.calm && (len(h.member.state().Snapshots) > 0 || l.tally.Servers > 0) { // nobody is due any more
		l.tally = fleet.Tally{At: h.wall()}
		l.news()
	}
	if h.site.now-taken < wait || l.seen.At == 0 || n.album.calm {
		h.agentProcess.in(second, func() { l.watchStock(reign, taken) })
		return
	}
	from, stock := h.site.now, fleet.Stock{At: h.wall()}
	n.call(&h.agentProcess, func() (fleet.Outcome, string) {
		if n.album.blind {
			return fleet.Broken, "no answer from Glance"
		}
		stock.Images, stock.Used = map[string][]fleet.Image{}, map[string]bool{}
		for _, g := range n.guests {
			stock.Servers = append(stock.Servers, g.Server)
			stock.Used[g.Image] = true
			stock.Images[g.ID] = n.list(g.ID)
		}
		return fleet.Done, ""
	}, func(o fleet.Outcome, why string) {
		if l.reigns != reign || !l.on {
			return
		}
		l.tally.Away = why
		if o == fleet.Done {
			l.tally = plan.Take(l.look(h.clock()), stock)
			l.news()
		}
		l.watchStock(reign, from)
	})
}

// snapshot is Nova's, of a server.
func (n *nova) snapshot(g *guest, o fleet.Order) (fleet.Outcome, string) {
	h := n.site.names[g.Host]
	switch {
	case n.album.blind:
		return fleet.NoWord, "500 Internal Server Error"
	case !slices.Contains([]string{fleet.ServerActive, fleet.ServerStopped}, g.State):
		return fleet.Refused, "Cannot 'createImage' while it is in vm_state " + g.State
	case g.Task != "":
		return fleet.Refused, "Cannot 'createImage' while it is in task_state " + g.Task
	}
	n.imageID++
	p := &picture{Image: fleet.Image{ID: fmt.Sprintf("i%d", n.imageID), Server: g.ID, Status: "queued", Mark: o.Mark, Made: h.wall()}}
	n.album.images = append(n.album.images, p)
	g.Task = "image_snapshot_pending"
	n.site.tell("Nova: snapshot %s of %s on %s", p.ID, g.ID, g.Host)
	boot := h.boot
	// A nova-compute that hangs, or is started anew, finds it later; what it had begun is over with it.
	mine := func() bool { return h.on && h.boot == boot && g.Host == h.name && g.TaskSnapshots() }
	n.later(n.site.between(100*millisecond, 1500*millisecond), h, mine, func() {
		n.uploads(g, h)
		p.data, g.Task = n.disk(g, h), "image_snapshot"
		n.later(n.site.between(2*second, 12*second), h, mine, func() {
			delete(n.album.uploads, g)
			switch {
			case n.album.failing > 0 || n.album.blind:
				n.album.failing = max(0, n.album.failing-1)
				n.album.images = slices.DeleteFunc(n.album.images, func(x *picture) bool { return x == p })
				g.Task = ""
				n.site.tell("Nova: snapshot %s of %s fails", p.ID, g.ID)
			default:
				p.Status, g.Task = fleet.ImageActive, ""
			}
		})
	})
	return fleet.Done, ""
}

// later has a nova-compute do something, once it works, if it is to be done yet.
func (n *nova) later(after at, h *host, yet func() bool, do func()) {
	n.site.after(after, func() {
		switch {
		case !yet():
		case !n.working(h):
			n.later(2*second, h, yet, do)
		default:
			do()
		}
	})
}

// uploads: not more at once than the site's file says, and on one host never two.
func (n *nova) uploads(g *guest, h *host) {
	n.album.uploads[g] = h
	on := 0
	for _, other := range n.album.uploads { // in whatever order: they are counted
		if other == h {
			on++
		}
	}
	if most := n.site.spec.OpenStack.Snapshots.AtOnce; on > 1 || len(n.album.uploads) > most {
		n.site.watch.fail("no stampede", "%d snapshots are made at once, %d of them on %s", len(n.album.uploads), on, h.name)
	}
}

// restore is Nova's rebuild of a server from another image.
func (n *nova) restore(g *guest, o fleet.Order) (fleet.Outcome, string) {
	h := n.site.names[g.Host]
	i := slices.IndexFunc(n.album.images, func(p *picture) bool { return p.ID == o.With && p.Status == fleet.ImageActive })
	switch {
	case g.Image == o.With && g.State != fleet.ServerError:
		return fleet.Done, ""
	case n.album.blind:
		return fleet.Broken, "no answer from Glance"
	case i < 0:
		return fleet.Refused, "Cannot find image for rebuild"
	case g.Task != "":
		return fleet.Refused, "Cannot 'rebuild' while it is in task_state " + g.Task
	}
	p := n.album.images[i]
	if n.disk(g, h) > p.data && g.rebuilt[h] {
		n.site.watch.fail("no newer data is overwritten", "%s on %s is rebuilt from %s of %v, and has what was written until %v", g.ID, h.name, p.ID, time.Duration(p.data), time.Duration(n.disk(g, h)))
	}
	was := g.State
	g.Image, g.Task, g.Fault = p.ID, "rebuilding", ""
	n.run(g, h, false)
	n.site.tell("Nova: rebuild %s on %s from %s", g.ID, g.Host, p.ID)
	boot := h.boot
	n.later(n.site.between(1500*millisecond, 6*second), h, func() bool { return h.on && h.boot == boot && g.Host == h.name && g.Task == "rebuilding" }, func() {
		g.disks[h], g.Task, g.State = p.data, "", fleet.ServerActive
		if g.rebuilt == nil {
			g.rebuilt = map[*host]bool{}
		}
		g.rebuilt[h] = true
		n.site.tell("Nova: %s is rebuilt on %s", g.ID, h.name)
		if was == fleet.ServerStopped {
			g.State = was
			return
		}
		n.run(g, h, true)
	})
	return fleet.Done, ""
}

// prune is Glance's deletion of an image.
func (n *nova) prune(id string) (fleet.Outcome, string) {
	i := slices.IndexFunc(n.album.images, func(p *picture) bool { return p.ID == id })
	if n.album.blind {
		return fleet.NoWord, "no answer from Glance"
	}
	if i < 0 {
		return fleet.Done, ""
	}
	p := n.album.images[i]
	if p == n.newest(p.Server) || slices.ContainsFunc(n.guests, func(g *guest) bool { return g.Image == id }) {
		n.site.watch.fail("pruned right", "%s of %s is deleted, which is its newest, or what a server is built from", id, p.Server)
	}
	for _, e := range n.site.quorum.newest().Evacuations { // in whatever order: any will do
		if e.Ended == "" && e.Restore.Image == id {
			n.site.watch.fail("pruned right", "%s is deleted, and %s is restored from it", id, e.Server)
		}
	}
	n.album.images = slices.Delete(n.album.images, i, i+1)
	n.site.tell("Glance: %s of %s is deleted", id, p.Server)
	return fleet.Done, ""
}

// carries is what an evacuation does to a local disk: it is built from the server's image.
func (n *nova) carries(g *guest, to *host) {
	if g.disks == nil {
		return
	}
	g.disks[to] = 0
	delete(g.rebuilt, to)
	for _, p := range n.album.images {
		if p.ID == g.Image {
			g.disks[to] = p.data
		}
	}
}

// settles is what a nova-compute does at its start with what it was about when it ended.
func (n *nova) settles(h *host) {
	if n.album == nil {
		return
	}
	for _, g := range n.guests {
		switch {
		case g.moved(h) && g.Host != h.name:
			delete(g.disks, h) // it destroys what was evacuated, with its disk
		case g.Host != h.name:
		case g.TaskSnapshots():
			g.Task = ""
			delete(n.album.uploads, g)
		case g.Task == "rebuilding":
			g.State, g.Task = fleet.ServerError, ""
		}
	}
}

// leaves: a server leaves its disk only when its host has had its time to come back, and for its
// newest snapshot; without one only if its owner says so. A restore ends with that data on its disk.
func (n *nova) gives(id string, before, after fleet.State) {
	e, was := after.Evacuations[id], before.Evacuations[id]
	i := slices.IndexFunc(n.guests, func(g *guest) bool { return g.ID == e.Server })
	if n.album == nil || i < 0 {
		return
	}
	g, from, newest := n.guests[i], n.site.names[e.From], n.newest(e.Server)
	fail := func(format string, args ...any) { n.site.watch.fail("no data is given up", format, args...) }
	switch {
	case e.Try == 1 && e.Ended == "" && was.Key() != e.Key():
		up := from.on && from.boot != e.Boot && n.working(from)
		switch {
		case n.site.elapsed()-n.album.lostAt[from] < n.album.wait:
			fail("%s is evacuated from %s, which lost its power %v ago", g.ID, e.From, time.Duration(n.site.elapsed()-n.album.lostAt[from]))
		case up:
			fail("%s is evacuated from %s, which is back", g.ID, e.From)
		case newest == nil && !strings.EqualFold(g.Metadata[fleet.MetaRebuild], "true"):
			fail("%s is evacuated, and has no snapshot", g.ID)
		case newest != nil && e.Restore.Image != newest.ID:
			fail("%s is to be restored from %q, and its newest snapshot is %s", g.ID, e.Restore.Image, newest.ID)
		}
	case e.Ended != "" && was.Ended == "" && strings.HasPrefix(e.Ended, "on ") && newest != nil:
		if h := n.site.names[g.Host]; g.disks[h] < newest.data {
			fail("%s ended on %s with what was written until %v, and its newest snapshot has that until %v", g.ID, g.Host, time.Duration(g.disks[h]), time.Duration(newest.data))
		}
	}
}

// albumLacks says what is not well with the snapshots, once all has healed.
func (n *nova) albumLacks() string {
	if n.album == nil {
		return ""
	}
	if n.album.calm {
		if len(n.site.quorum.newest().Snapshots)+len(n.site.quorum.newest().Returns) > 0 {
			return "a snapshot is being made, or a host waited for"
		}
		return ""
	}
	keep := n.site.spec.OpenStack.Snapshots.Keep
	for _, g := range n.guests {
		whole := 0
		for _, p := range n.album.images {
			if p.Server == g.ID && p.Status == fleet.ImageActive {
				whole++
			}
		}
		if never := strings.EqualFold(g.Metadata[fleet.MetaSnapshot], "false"); never && whole > keep || !never && (whole == 0 || whole > keep+1) {
			return fmt.Sprintf("%s has %d snapshots", g.ID, whole)
		}
	}
	n.album.calm = true
	return "snapshots are made no more"
}
