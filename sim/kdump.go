package sim

import (
	"fmt"

	"mainstay/lease"
)

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
		s.after(at(lease.DumpSays), speak)
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
	if a.dumped.Heard(h.name, a.host.clock(), a.host.wall(), a.ear) {
		a.host.site.tell("%s hears the crash kernel of %s", a.host.name, h.name)
	}
}

// dumpCut is told when a power switch takes a machine's power.
func (w *watch) dumpCut(h *host) {
	if h.dumping && w.site.spec.Hosts[h.index].Kdump > 0 {
		w.fail("no dump is cut short", "%s", fmt.Sprintf("%s is switched off while its crash kernel writes a dump, and has said so", h.name))
	}
}
