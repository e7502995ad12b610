package sim

import (
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// Guests' own agents, and guests that hang: one whose owner asks for HA_Alive, or whose HA_Ready is its agent, has an
// agent. The questions to it are not played one by one: what its host says of it follows from when it fell silent.

// pulse is what is true of a guest's agent.
type pulse struct {
	has   bool
	stuck bool // the guest hangs, its process runs
	mute  bool // its agent alone does
	since at   // since when either; woke is when that ended last
	woke  at
	// quiet is, by host, the silence that the host tells of.
	quiet map[*host]time.Time
}

const (
	agentBoots  = 5 * second  // until a guest's agent answers
	agentSteady = 60 * second // agent's heartSteady
	agentEvery  = 10 * second // and heartEvery
)

// asks gives those guests an agent whose owners have a use for it.
func (n *nova) asks() {
	for _, g := range n.guests {
		g.pulse.has = g.Metadata[fleet.MetaAlive] != "" || g.Metadata[fleet.MetaReady] == fleet.CheckAgent
		g.pulse.quiet = map[*host]time.Time{}
	}
}

// hangs is a guest that hangs, or its agent alone. One that has answered for a minute is called silent after two questions.
func (n *nova) hangs(g *guest, alone bool) {
	h, s, p := n.site.names[g.Host], n.site, &g.pulse
	if !p.has || !g.runs[h] || p.stuck || p.mute {
		return
	}
	p.stuck, p.mute, p.since = !alone, alone, s.elapsed()
	if s.now-g.since < agentBoots+agentSteady {
		return
	}
	launch, began := g.launch, p.since
	first := s.between(100*millisecond, agentEvery)
	s.after(first, func() {
		since := h.wall()
		s.after(agentEvery+s.between(5*second, 6*second), func() {
			if g.launch == launch && p.since == began && (p.stuck || p.mute) && g.runs[h] && h.on {
				p.quiet[h] = since
				n.notice(h)
			}
		})
	})
}

// wakes is one that goes on by itself; its host finds that with its next question.
func (n *nova) wakes(g *guest) {
	p := &g.pulse
	if !p.stuck && !p.mute {
		return
	}
	p.stuck, p.mute, p.woke = false, false, n.site.elapsed()
	launch := g.launch
	n.site.after(n.site.between(100*millisecond, agentEvery), func() {
		if g.launch == launch && !p.stuck && !p.mute {
			clear(p.quiet)
			n.notice(n.site.names[g.Host])
		}
	})
}

// beats says what a host says of one guest's agent.
func (n *nova) beats(g *guest, h *host, out *fleet.Guests) {
	p := &g.pulse
	if !p.has {
		return
	}
	if !g.runs[h] {
		delete(p.quiet, h)
		return
	}
	since, silent := p.quiet[h]
	switch {
	case silent:
		if out.Silent == nil {
			out.Silent = map[string]time.Time{}
		}
		out.Silent[g.ID] = since
	case n.site.now-g.since >= agentBoots && (!p.stuck && !p.mute || n.site.elapsed()-p.since < agentEvery):
		out.Answering = append(out.Answering, g.ID)
		if g.Metadata[fleet.MetaReady] == fleet.CheckAgent {
			g.answered = true
		}
	}
}

// mayReset: a running guest is rebooted only if it hangs, or did until a moment before its leader could know, alone on
// its host, and as its owner wants.
func (n *nova) mayReset(g *guest, h *host, given at) {
	s, p := n.site, &g.pulse
	fail := func(format string, args ...any) {
		s.watch.fail("no guest is rebooted but one that hangs", format, args...)
	}
	if !g.runs[h] || g.since > given {
		return // it was started anew meanwhile
	}
	given += s.elapsed() - s.now // what was skipped counts
	if !p.stuck && !p.mute && given-p.woke > 2*agentEvery {
		fail("%s runs well on %s", g.ID, g.Host)
	}
	if p.mute && n.answers(g) && strings.HasPrefix(g.Metadata[fleet.MetaReady], "tcp:") && g.Metadata[fleet.MetaReady] != "tcp:none" && given-p.since > agentEvery {
		fail("%s answers its clients on %s", g.ID, g.Host)
	}
	if span, _ := plan.Alive(g.Metadata[fleet.MetaAlive]); span == 0 || given-p.since < at(span) {
		fail("%s has been silent for %v, and its owner says %q", g.ID, time.Duration(given-p.since), g.Metadata[fleet.MetaAlive])
	}
	if g.locked || strings.EqualFold(g.Metadata["HA_Enabled"], "false") {
		fail("%s is locked, or its owner wants none of it", g.ID)
	}
	for _, x := range n.guests {
		if _, told := x.pulse.quiet[h]; x != g && told && x.runs[h] && given-x.pulse.since > 3*agentEvery && time.Duration(x.pulse.since-p.since).Abs() < 290*time.Second {
			fail("%s and %s fell silent at once on %s", g.ID, x.ID, g.Host)
		}
	}
}

// shakes is a person who reboots what hangs and Mainstay leaves to him.
func (n *nova) shakes() {
	for _, g := range n.guests {
		h, r := n.site.names[g.Host], n.site.quorum.newest().Revivals[g.ID]
		if (g.pulse.stuck || g.pulse.mute) && (r.Server == "" || r.Ended != "") && g.Task == "" && g.runs[h] && n.working(h) {
			n.site.tell("a person reboots %s", g.ID)
			n.run(g, h, true)
			n.notice(h)
		}
	}
}

// revived: who is started anew hangs no more.
func (p *pulse) revived() {
	p.stuck, p.mute = false, false
	clear(p.quiet)
}

// setPulse: guest SERVER hang | mute | wake
func setPulse(n *nova, g *guest, word string) bool {
	if !slices.Contains([]string{"hang", "mute", "wake"}, word) {
		return false
	}
	if word == "wake" {
		n.wakes(g)
	} else {
		n.hangs(g, word == "mute")
	}
	return true
}
