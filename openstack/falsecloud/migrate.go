package falsecloud

import (
	"fmt"
	"slices"
	"time"
)

// How Nova (Zed, by its source) live-migrates, each line with the place where it is played:
//
//	not active or paused, or with a task                      409                                        migrate
//	a target that does not exist                              400                                        migrate
//	accepted                                                  task migrating; its record a moment later  migrate, send
//	no valid host                                             its record ends in error, the server is as before  send
//	the guest goes on at the target                           Nova says running, and has it on the source  send
//	the source says that it is done                           host, then completed                       send
//	the target dies before its guest goes on there            failed, active on the source               send
//	the target's nova-compute does not answer at the end      completed, migrating, on the source        send
//	the source dies in the middle                             running and migrating for ever             send
//	the source returns                                        its record ends in error                   began
//	evacuated to the target, where the guest is               error, "already exists"                    begin

// switched is from the moment when a guest goes on at the target to Nova's new host.
const switched = 500 * time.Millisecond

// migrate is Nova's API for a live migration.
func (c *Cloud) migrate(s *server, host string) *refusal {
	switch {
	case host != "" && c.computes[host] == nil:
		return &refusal{400, fmt.Sprintf("Compute host %s could not be found.", host)}
	case !slices.Contains([]string{"active", "paused"}, s.State):
		return &refusal{409, fmt.Sprintf("Cannot 'os-migrateLive' instance %s while it is in vm_state %s", s.id, s.State)}
	case s.task != "":
		return &refusal{409, fmt.Sprintf("Cannot 'os-migrateLive' instance %s while it is in task_state %s", s.id, s.task)}
	}
	s.task, s.updated = "migrating", c.now
	c.after(c.cfg.Schedule, func() { c.send(s, host) })
	return nil
}

// send finds a host and has the source send its guest there.
func (c *Cloud) send(s *server, host string) {
	if c.losing > 0 {
		c.losing--
		return
	}
	source := c.computes[s.Host]
	m := &migration{id: len(c.migrations) + 1, uuid: c.id(), sort: "live-migration", server: s, status: "accepted", from: s.Host, created: c.now}
	c.migrations = append(c.migrations, m)
	over := func(status string) {
		c.mark(m, status)
		if s.task == "migrating" {
			s.task, s.updated = "", c.now
		}
	}
	h := c.choose(s, s.Host, host)
	if h == nil || !c.up(source) {
		over("error")
		return
	}
	m.to = h.name
	c.mark(m, "running")
	life, other := source.life, h.life
	c.after(c.cfg.Work, func() {
		if source.life != life || s.deleted || s.task != "migrating" {
			return
		}
		if h.life != other || !h.powered {
			over("failed")
			return
		}
		delete(source.guests, s.id)
		c.run(s, h)
		c.after(switched, func() {
			if source.life != life || s.task != "migrating" {
				return
			}
			if h.reports() {
				c.disk(s, h)[s.id] = c.disk(s, source)[s.id] // what is on it goes along
				c.place(s, h.name)
				over("completed")
				return
			}
			c.mark(m, "completed")
		})
	})
}

// resets is what a nova-compute does at its start with live migrations that it finds.
func (c *Cloud) resets(h *compute) {
	for _, m := range c.migrations {
		if m.sort == "live-migration" && m.from == h.name && m.status == "running" && m.server.Host == h.name && m.server.task == "migrating" {
			c.mark(m, "error")
			m.server.task = ""
		}
	}
}
