package sim

import (
	"fmt"
	"time"

	"mainstay/fleet"
)

// dumpSays is how often a crash kernel speaks, as fence_kdump_send does.
const dumpSays = 10 * second

// heardDump is what a voter has heard of a host's crash kernel.
type heardDump struct {
	since time.Time
	last  fleet.Moment
}

// panics ends a host's kernel. Its crash kernel speaks after some time, every ten seconds until
// the dump is written, and then the machine reboots. It has power all the while.
func (h *host) panics(after, lasts at) {
	if !h.on {
		return
	}
	s := h.site
	h.powerOff()
	h.posting, h.bmc.power, h.second.power = true, true, true
	boots := h.boots
	goesOn := func() bool { return h.posting && h.boots == boots }
	var speak func()
	speak = func() {
		if !goesOn() {
			return
		}
		h.dumping = true
		for _, v := range s.hosts {
			for net, n := range s.nets {
				if v.voter && v.on && s.cut[h.index][v.index]&(1<<net) == 0 && h.links[net] && v.links[net] {
					v.agentProcess.in(s.between(n.low, n.top), func() { v.agent.hearsDump(h) })
				}
			}
		}
		s.after(dumpSays, speak)
	}
	s.after(after, speak)
	s.after(after+lasts, func() {
		if !goesOn() {
			return
		}
		h.dumping = false
		s.tell("the dump of %s is written", h.name)
		s.after(h.bootTime(), func() {
			if goesOn() {
				h.powerOn()
			}
		})
	})
}

func (a *agent) hearsDump(h *host) {
	if a == nil || a.spec.Hosts[h.index].Kdump == 0 {
		return
	}
	d, known := a.dumped[h.name]
	if now := a.host.clock(); !known || now.Sub(d.last) >= time.Duration(3*dumpSays) {
		d.since = a.host.wall()
		a.host.site.tell("%s hears the crash kernel of %s", a.host.name, h.name)
	}
	d.last = a.host.clock()
	if a.dumped == nil {
		a.dumped = map[string]heardDump{}
	}
	a.dumped[h.name] = d
}

// dumps is what a voter says of crash kernels, by package agent's rule.
func (a *agent) dumps() (out map[string]time.Time) {
	for host, d := range a.dumped { // in whatever order: a map is filled
		if a.host.clock().Sub(d.last) >= time.Duration(3*dumpSays) {
			continue
		}
		if a.ear != nil {
			if rows := a.ear.Boots(host); len(rows) > 0 && rows[0].Heard.After(d.last) {
				continue
			}
		}
		if out == nil {
			out = map[string]time.Time{}
		}
		out[host] = d.since
	}
	return out
}

// dumpCut is told when a power switch takes a machine's power.
func (w *watch) dumpCut(h *host) {
	if h.dumping && w.site.spec.Hosts[h.index].Kdump > 0 {
		w.fail("no dump is cut short", "%s", fmt.Sprintf("%s is switched off while its crash kernel writes a dump, and has said so", h.name))
	}
}
