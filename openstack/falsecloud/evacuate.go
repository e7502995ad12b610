package falsecloud

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// What was measured on Zed, each line with the place where it is played:
//
//	the source is up, or silent for less than service_down_time     400, still in use        evacuate
//	forced down                                                     down at once, 200        update (api.go)
//	a second evacuation                                             200, and spoilt          begin, finish
//	while many wait for one host                                    active, no task, old host  conduct
//	many at once                                                    all to the emptiest host, one by one   choose, work
//	no valid host                                                   200, then error with a fault  conduct
//	a destination that does not exist                               404                      evacuate
//	of a server that moved already                                  400, still in use        evacuate
//	the destination dies in the middle                              rebuilding for ever      Kill
//	a second one while the first one's message lies with a dead host    the first one's record gets its end, its own stays accepted  conduct
//	a controller dies with the message                              pre-migrating for ever   conduct
//	the dead destination returns                                    it does the old message, the sound server is in error  begin
//	the source returns                                              its records done become completed; before that it is not lifted  began
//	a server is deleted                                             its records are gone, for lists and for the lift  listMigrations, update (api.go)

// migration is Nova's record of one evacuation, or of one live migration.
type migration struct {
	id               int
	uuid, sort       string
	server           *server
	status, from, to string
	created, updated time.Time // updated is zero until the first change: no filter by time finds it
}

func (c *Cloud) mark(m *migration, status string) { m.status, m.updated = status, c.now }

// message asks a compute to rebuild a server.
type message struct {
	*migration
	left  string // where the server was: the record may be another request's
	was   string // the server's state before
	stop  bool   // leave it stopped, as from 2.95 on
	clash bool   // two hosts work at the same server
}

// reports says whether the host's nova-compute tells Nova that it lives.
func (h *compute) reports() bool { return h.powered && h.heard && h.ready }

// up is what Nova takes it for.
func (c *Cloud) up(h *compute) bool {
	return !h.forced && (h.reports() || c.now.Sub(h.last) < c.cfg.DownAfter)
}

// refusal is an answer of 4xx.
type refusal struct {
	status int
	words  string
}

// evacuate is Nova's API: it checks the server's state and not its task, writes the record,
// and answers before anybody has looked for a host.
func (c *Cloud) evacuate(s *server, host string, stop bool) *refusal {
	source := c.computes[s.Host]
	switch {
	case host != "" && c.computes[host] == nil:
		return &refusal{404, fmt.Sprintf("Compute host %s not found.", host)}
	case host == s.Host:
		return &refusal{400, "The target host can't be the same one."}
	case !slices.Contains([]string{"active", "stopped", "error"}, s.State):
		return &refusal{409, fmt.Sprintf("Cannot 'evacuate' instance %s while it is in vm_state %s", s.id, s.State)}
	case source != nil && c.up(source):
		return &refusal{400, fmt.Sprintf("Compute service of %s is still in use.", s.Host)}
	}
	s.task, s.updated = "rebuilding", c.now
	m := &migration{id: len(c.migrations) + 1, uuid: c.id(), sort: "evacuation", server: s, status: "accepted", from: s.Host, to: host, created: c.now}
	c.migrations = append(c.migrations, m)
	msg := &message{migration: m, left: s.Host, was: s.State, stop: stop}
	c.after(c.cfg.Schedule, func() { c.conduct(msg, host) })
	return nil
}

// conduct finds a host and sends it the message.
func (c *Cloud) conduct(msg *message, host string) {
	s := msg.server
	// The conductor takes the oldest record of the server that nobody has begun with.
	for _, m := range c.migrations {
		if m.server == s && m.sort == "evacuation" && m.status == "accepted" {
			msg.migration = m
			break
		}
	}
	if c.losing > 0 {
		c.losing--
		c.mark(msg.migration, "pre-migrating")
		return
	}
	h := c.choose(s, msg.left, host)
	if h == nil {
		s.State, s.task, s.updated = "error", "", c.now
		s.fault = "No valid host was found. There are not enough hosts available."
		c.mark(msg.migration, "error")
		return
	}
	if h.busy != nil || len(h.queue) > 0 {
		s.task, s.updated = "", c.now // it waits, and looks as if nothing went on
	}
	h.queue = append(h.queue, msg)
	c.work(h)
}

// choose is the scheduler: the emptiest host that is enabled and, as far as Nova knows, up. What
// is on its way there is counted for whether it fits (Placement), and not for how empty a host
// is: many at once all go to one.
func (c *Cloud) choose(s *server, from, host string) *compute {
	var best *compute
	for _, h := range c.computes {
		switch {
		case host != "" && h.name != host, h.name == from, h.disabled, h.lost, !c.up(h), s.Zone != "" && s.Zone != h.zone, !c.takes(h, s):
		case best == nil, cmp.Or(cmp.Compare(h.ram-h.used, best.ram-best.used), cmp.Compare(best.name, h.name)) > 0:
			best = h
		}
	}
	return best
}

// work takes the next message, if the host can.
func (c *Cloud) work(h *compute) {
	if !h.reports() || h.busy != nil || len(h.queue) == 0 {
		return
	}
	msg := h.queue[0]
	h.queue = h.queue[1:]
	if !c.begin(h, msg) {
		c.work(h)
		return
	}
	h.busy = msg
	life := h.life
	c.after(c.cfg.Work, func() {
		if h.life != life || h.busy != msg {
			return
		}
		h.busy = nil
		c.finish(h, msg)
		c.work(h)
	})
}

// begin is a compute's claim. It returns false where the message comes to an end by it.
func (c *Cloud) begin(h *compute, msg *message) bool {
	s := msg.server
	s.updated = c.now
	msg.to = h.name
	switch {
	case s.deleted:
		c.mark(msg.migration, "failed")
		return false
	case s.Host == h.name:
		// The second of two for the same host, when the first is done.
		c.spoilt++
		c.mark(msg.migration, "failed")
		s.State, s.task = "error", ""
		s.fault = fmt.Sprintf("Instance %s already exists.", s.id)
		if c.spoilt%2 == 0 {
			s.task, s.fault = "rebuild_block_device_mapping", ""
		}
		return false
	case s.Host != msg.left:
		// It was evacuated elsewhere meanwhile, and runs well: its record is spoilt.
		c.mark(msg.migration, "failed")
		s.State, s.task = "error", "rebuilding"
		return false
	case h.guests[s.id]:
		// A live migration left it here when its source died.
		c.mark(msg.migration, "failed")
		s.State, s.task, s.fault = "error", "", fmt.Sprintf("Instance %s already exists.", s.id)
		return false
	case h.capacity("MEMORY_MB")-h.used < s.RAM:
		c.mark(msg.migration, "failed") // the claim fails, and the server is left as it was
		s.task = ""
		return false
	}
	for _, other := range c.computes {
		if other.busy != nil && other.busy.server == s {
			other.busy.clash, msg.clash = true, true
		}
	}
	s.task = "rebuilding"
	c.mark(msg.migration, "pre-migrating")
	return true
}

// finish ends a rebuild.
func (c *Cloud) finish(h *compute, msg *message) {
	s := msg.server
	s.updated = c.now
	if msg.clash {
		// Two hosts have claimed it: the first one runs it, the other trips over its task.
		s.State, s.task = "error", "rebuild_block_device_mapping"
		if s.Host == msg.left {
			c.place(s, h.name)
			c.run(s, h)
			c.mark(msg.migration, "accepted")
			return
		}
		c.mark(msg.migration, "failed")
		return
	}
	c.mark(msg.migration, "done")
	c.carries(s, c.computes[msg.left], h)
	c.place(s, h.name)
	s.task, s.fault, s.State = "", "", "active"
	if msg.was == "stopped" || msg.stop {
		s.State = "stopped"
		return
	}
	c.run(s, h)
}

// began is the start of a nova-compute: it destroys what was evacuated from there, completes
// the records of it, and then takes what waits in its queue.
func (c *Cloud) began(h *compute) {
	h.ready = true
	c.resets(h)
	c.settle(h)
	for _, m := range c.migrations {
		if m.sort == "evacuation" && m.from == h.name && m.status == "done" {
			delete(h.guests, m.server.id)
			delete(h.disks, m.server.id)
			c.mark(m, "completed")
		}
	}
	c.work(h)
}
