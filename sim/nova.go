package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"mainstay/fleet"
)

// nova is the cloud that the site's computes belong to, as Nova was measured to be (Zed),
// its mistakes included: it accepts a second evacuation of the same server and spoils it,
// tells nobody when a target dies in the middle, and keeps orders for a host
// that is dead until it comes back. Its database never fails; its API may be away, slow, or
// lose an answer after the deed.
type nova struct {
	site   *Site
	guests []*guest
	nodes  map[*host]*node
	lastID int // of a migration
	away   bool
	slow   bool
	lose   int // of a thousand answers
	forget int // so many evacuations lose their message between two of Nova's processes
	room   int // how many servers a compute has room for
	breaks int // of a thousand live migrations break in the middle
	calls  int // under way
	// set is the one aggregate, in which all computes are but those in reserve; servers from it
	// go to hosts in it. halved is how many changes of it will be answered as failed.
	set     map[*host]bool
	halved  int
	album   *album // nil: the servers' disks are on shared storage
	imageID int
}

// node is one nova-compute.
type node struct {
	seen             at // its last report
	forced, disabled bool
	reason           string
	queue            []*errandOf // durable: a host that is dead has it still
	busy             bool
	deaf             bool // it runs, and neither reports nor takes orders, until it is started anew
	downAt           at   // when it was forced down
}

// errandOf is an evacuation's message.
type errandOf struct {
	g   *guest
	mig *fleet.Migration
}

// guest is one server: what Nova says of it, and where it runs in truth.
type guest struct {
	fleet.Server
	was  string // its state as its owner wants it
	runs map[*host]bool
	migs []*fleet.Migration
	// lives are its live migrations, asked when the newest was asked for.
	lives  []*fleet.Migration
	asked  at
	before int  // how many live migrations it had when it was asked for last
	gate   at   // how long it runs before its gate answers
	shut   bool // it never answers
	since  at   // since when it has run where it runs
	// answered: its gate has been seen to answer since it was evacuated last.
	answered bool
	locked   bool // by its owner
	// lost are those whose message nobody has any more.
	lost map[*fleet.Migration]bool
	// crashed is, while it does not run because it crashed, on which host and since when.
	crashed map[*host]time.Time
	fell    bool // it has crashed before
	// launch counts what was done with it: what was due of an earlier time is void.
	launch int
	// cursed: so many starts of it fail.
	cursed int
	// disks is, by host, until when what it wrote is on its disk there; nil: shared storage. rebuilt are those
	// that have been restored since they were built.
	disks   map[*host]at
	rebuilt map[*host]bool
	halted  bool // its evacuation shall leave it stopped
	pulse   pulse
}

// novaDown is Nova's service_down_time, novaBeat its report_interval.
const (
	novaDown = 60 * second
	novaBeat = 10 * second
	// cloudGood is openstack.Good: an order that is older is not carried out.
	cloudGood = 10 * second
)

// hosted gives the site servers, spread over its computes.
func (s *Site) hosted(shape Shape) {
	n := &nova{site: s, nodes: map[*host]*node{}, room: cmp.Or(shape.Room, 64), set: map[*host]bool{}}
	s.nova = n
	var all, computes []*host
	for _, h := range s.hosts {
		if h.role == "compute" {
			all = append(all, h)
			n.nodes[h] = &node{seen: -novaDown}
			if !slices.Contains(shape.Reserved, h.name) {
				computes = append(computes, h)
				n.set[h] = len(shape.Reserved) > 0
			}
		}
	}
	for i := range shape.Servers {
		g := &guest{was: fleet.ServerActive, runs: map[*host]bool{}, crashed: map[*host]time.Time{}, lost: map[*fleet.Migration]bool{}}
		g.Server = fleet.Server{ID: fmt.Sprintf("s%d", i+1), Name: fmt.Sprintf("vm%d", i+1), Host: computes[i%len(computes)].name, RAM: 512, Created: fmt.Sprintf("2027-01-%02d", i+1)}
		if i%5 == 4 {
			g.was = fleet.ServerStopped
		}
		g.State = g.was
		n.guests = append(n.guests, g)
	}
	n.owners(shape.Meta)
	n.asks()
	n.pictured(shape)
	for _, h := range all {
		n.report(h)
	}
}

// report is a nova-compute's own heartbeat: through its broker on a controller.
func (n *nova) report(h *host) {
	if n.working(h) && n.reached(h) {
		n.nodes[h].seen = n.site.now
		n.work(h) // it may have been cut off from its broker
	}
	n.site.after(novaBeat, func() { n.report(h) })
}

// working says whether the nova-compute of a host does anything.
func (n *nova) working(h *host) bool {
	u := h.copy("nova-compute")
	return h.on && !h.suspended && u.phase == fleet.Running && !u.hung && !n.nodes[h].deaf
}

// reached says whether a host and some controller hear each other.
func (n *nova) reached(h *host) bool {
	for _, c := range n.site.hosts {
		if c.role != "controller" || !c.on {
			continue
		}
		for net := range n.site.nets {
			if c == h || n.site.open(h, c, net) && n.site.open(c, h, net) {
				return true
			}
		}
	}
	return false
}

func (n *nova) up(h *host) bool {
	return !n.nodes[h].forced && n.site.now-n.nodes[h].seen < novaDown
}

// run lets a guest run on a host, or no more. Two at once would write to one disk.
func (n *nova) run(g *guest, h *host, on bool) {
	if !on {
		n.halts(g, h)
		delete(g.runs, h)
		return
	}
	g.runs[h], g.since = true, n.site.now
	delete(g.crashed, h)
	g.launch++
	g.pulse.revived()
	if len(g.runs) > 1 {
		var where []string
		for _, x := range n.site.hosts {
			if g.runs[x] {
				where = append(where, x.name)
			}
		}
		n.site.watch.fail("one server", "%s runs on %s", g.ID, strings.Join(where, " and on "))
	}
}

// lost: a host without power runs nothing.
func (n *nova) lost(h *host) {
	for _, g := range n.guests {
		n.halts(g, h)
		delete(g.runs, h)
		delete(g.crashed, h)
	}
	if n.album != nil {
		n.album.lostAt[h] = n.site.elapsed()
		maps.DeleteFunc(n.album.uploads, func(_ *guest, on *host) bool { return on == h })
	}
	if x := n.nodes[h]; x != nil {
		x.busy = false
	}
}

// started is what a nova-compute does first: it removes what was evacuated from its host,
// starts again what Nova has there (resume_guests_state_on_host_boot), and takes up the
// orders that it finds in its queue.
func (n *nova) started(h *host) {
	n.nodes[h].deaf = false
	if n.site.brokers == nil { // somebody else's broker, which somebody else has emptied
		n.purge("compute." + h.name)
	}
	left := n.resets(h)
	n.settles(h)
	n.completes(h)
	for _, g := range n.guests {
		switch {
		case g.Host != h.name && g.moved(h):
			n.run(g, h, false)
		case g.Host != h.name, left[g]:
		case g.State == fleet.ServerActive && !g.runs[h] && g.was == fleet.ServerStopped:
			g.State = g.was // Nova has its power state beside, and calls stopped what is active without power
		case g.State == fleet.ServerActive && !g.runs[h]:
			n.run(g, h, true)
			if g.Task == rebooting {
				g.Task = ""
			}
		}
	}
	if n.reached(h) {
		n.nodes[h].seen = n.site.now
	}
	n.site.after(second, func() { n.work(h) })
}

// call carries a request to the API and its answer back: unknown if it takes longer than
// its caller waits.
func (n *nova) call(from *process, do func() (fleet.Outcome, string), answer func(fleet.Outcome, string)) {
	s := n.site
	there, back := s.between(5*millisecond, 200*millisecond), s.between(5*millisecond, 300*millisecond)
	if n.slow {
		there += s.between(second, 8*second)
	}
	life, mute := from.life, s.chance(n.lose)
	n.calls++
	over := func(after at, o fleet.Outcome, why string) {
		s.after(after, func() {
			n.calls--
			if from.life == life && from.alive {
				from.in(0, func() { answer(o, why) })
			}
		})
	}
	if n.away || !n.reached(from.host) {
		over(10*second, fleet.NoWord, "no answer within 10s")
		return
	}
	s.after(there, func() {
		o, why := do()
		if mute {
			over(max(10*second-there, 0), fleet.NoWord, "no answer within 10s")
			return
		}
		over(back, o, why)
	})
}

// look is what the API tells of the computes and of some servers.
func (n *nova) look(hosts []string, ids []string) fleet.Cloud {
	c := fleet.Cloud{Computes: map[string]fleet.Compute{}, Servers: map[string]fleet.Server{}, Looked: map[string]fleet.Moment{}}
	for _, h := range n.site.hosts {
		x := n.nodes[h]
		if x == nil {
			continue
		}
		v := fleet.Compute{ID: h.name, Up: n.up(h), Forced: x.forced, Disabled: x.disabled, Reason: x.reason, Zone: "nova", FreeRAM: n.room * 512}
		for _, g := range n.guests {
			if g.Host == h.name {
				v.Servers++
				v.FreeRAM -= g.RAM
			}
		}
		c.Computes[h.name] = v
	}
	if len(n.site.spec.OpenStack.Reserved) > 0 {
		c.Aggregates = map[string]fleet.Aggregate{"1": n.aggregate()}
	}
	for _, g := range n.guests {
		if slices.Contains(hosts, g.Host) || slices.Contains(ids, g.ID) {
			v := g.Server
			if len(g.migs) > 0 {
				v.Migration = *g.migs[len(g.migs)-1]
			}
			if len(g.lives) > 0 {
				v.Live = *g.lives[len(g.lives)-1]
			}
			c.Servers[g.ID] = v
		}
	}
	return c
}

// do carries out one step, which was ordered at given.
func (n *nova) do(o fleet.Order, given at) (fleet.Outcome, string) {
	kind, name, _ := strings.Cut(o.Thing, "/")
	if kind == "compute" {
		x := n.nodes[n.site.names[name]]
		switch o.Step {
		case fleet.CloudDisable:
			x.disabled, x.reason = true, o.Why
		case fleet.CloudEnable:
			n.enables(name)
			x.disabled, x.reason = false, ""
		case fleet.CloudForceDown:
			x.forced, x.downAt = true, n.site.now
		case fleet.CloudLift:
			if g := n.unsettled(name); g != nil {
				return fleet.Refused, "`done` evacuation migration records remain: " + g.ID
			}
			x.forced = false
		case fleet.CloudJoin, fleet.CloudPart:
			return n.belongs(n.site.names[name], o)
		default:
			return fleet.Broken, "no such step"
		}
		n.site.tell("Nova: %s %s", o.Step, name)
		return fleet.Done, ""
	}
	if kind == "image" {
		return n.prune(name)
	}
	i, _ := strconv.Atoi(strings.TrimPrefix(name, "s"))
	g := n.guests[i-1]
	switch o.Step {
	case fleet.CloudEvacuate:
		if g.halted = o.Mark == fleet.MarkStopped; g.halted && g.State == fleet.ServerActive {
			g.was = g.State // that it was shut down a moment before its host died nobody knows any more
		}
		return n.evacuate(g, o.With)
	case fleet.CloudSnapshot:
		return n.snapshot(g, o)
	case fleet.CloudRebuild:
		return n.restore(g, o)
	case fleet.CloudReboot:
		return n.reboot(g, o.With, given)
	case fleet.CloudMigrate:
		g.asked = n.site.now
		return n.migrate(g, o.With)
	case fleet.CloudStart:
		home := n.site.names[g.Host]
		if !n.working(home) {
			return fleet.Refused, "its compute is down"
		}
		g.State, g.Task, g.Fault = fleet.ServerActive, "", ""
		n.run(g, home, true)
		return fleet.Done, ""
	case fleet.CloudStop:
		for h := range g.runs {
			n.run(g, h, false)
		}
		g.State = fleet.ServerStopped
		return fleet.Done, ""
	case fleet.CloudReset:
		g.State, g.Task = o.With, ""
		n.site.tell("Nova: %s is %s again", g.ID, g.State)
		return fleet.Done, ""
	case fleet.CloudLock, fleet.CloudUnlock:
		return n.lock(g, o)
	}
	return fleet.Broken, "no such step"
}

func (n *nova) evacuate(g *guest, to string) (fleet.Outcome, string) {
	s := n.site
	from := s.names[g.Host]
	switch {
	case n.up(from):
		return fleet.Broken, "Compute service of " + g.Host + " is still in use."
	case to != "" && n.nodes[s.names[to]] == nil:
		return fleet.Broken, "Compute host " + to + " could not be found."
	}
	if g.runs[from] {
		s.watch.fail("no living server is evacuated", "%s is evacuated from %s, where it runs", g.ID, g.Host)
	}
	for _, m := range g.migs {
		if ended, _ := m.Ended(); !ended && !g.lost[m] && (m.To == "" || n.up(s.names[m.To])) {
			s.watch.fail("one evacuation", "%s is evacuated while migration %d of it is under way to %q", g.ID, m.ID, m.To)
		}
	}
	n.lastID++
	m := &fleet.Migration{ID: n.lastID, Status: "accepted", From: g.Host}
	g.migs = append(g.migs, m)
	g.Task, g.Fault = "rebuilding", ""
	s.tell("Nova: evacuate %s from %s", g.ID, g.Host)
	s.after(s.between(100*millisecond, 1500*millisecond), func() { n.schedule(g, m, to) })
	return fleet.Done, ""
}

// schedule chooses the target: the one that was asked for if it can, else the emptiest.
func (n *nova) schedule(g *guest, m *fleet.Migration, to string) {
	if n.forget > 0 {
		n.forget--
		m.Status, g.lost[m] = "pre-migrating", true
		return
	}
	best := n.best(g, to)
	if best == nil {
		g.State, g.Task, g.Fault, m.Status = fleet.ServerError, "", "No valid host was found.", "error"
		return
	}
	m.To, m.Status = best.name, "pre-migrating"
	n.nodes[best].queue = append(n.nodes[best].queue, &errandOf{g, m})
	n.work(best)
}

// best is the emptiest host that could take a server, or the one that was asked for if it can.
func (n *nova) best(g *guest, to string) *host {
	room, from := n.look(nil, nil).Computes, n.site.names[g.Host]
	var best *host
	for _, h := range n.site.hosts {
		x := n.nodes[h]
		if x == nil || !n.up(h) || x.disabled || h.name == g.Host || to != "" && h.name != to || room[h.name].FreeRAM < g.RAM || n.set[from] && !n.set[h] {
			continue
		}
		if best == nil || room[h.name].FreeRAM > room[best.name].FreeRAM {
			best = h
		}
	}
	return best
}

// work lets a nova-compute take its orders, one by one. What it has taken when it dies is
// nobody's any more.
func (n *nova) work(h *host) {
	x := n.nodes[h]
	if x.busy || len(x.queue) == 0 || !n.working(h) || !n.reached(h) {
		return
	}
	e := x.queue[0]
	x.queue = x.queue[1:]
	x.busy = true
	boot := h.boot
	if e.mig == nil {
		n.site.after(n.site.between(1500*millisecond, 4*second), func() { n.rebooted(e.g, h, boot) })
		return
	}
	n.site.after(n.site.between(1500*millisecond, 4*second), func() {
		if !h.on || h.boot != boot {
			e.g.lost[e.mig] = true
			return
		}
		x.busy = false
		n.rebuild(e, h)
		n.work(h)
	})
}

// rebuild is the end of an evacuation, or what an order of the past does to a server
// that has gone on without it.
func (n *nova) rebuild(e *errandOf, h *host) {
	g, s := e.g, n.site
	if g.Task != "rebuilding" || e.mig != g.migs[len(g.migs)-1] || e.mig.Status != "pre-migrating" {
		g.State, g.Task, e.mig.Status = fleet.ServerError, "", "failed"
		s.tell("Nova: %s carries out an order of the past, and %s is called broken", h.name, g.ID)
		return
	}
	if g.runs[h] {
		g.State, g.Task, g.Fault, e.mig.Status = fleet.ServerError, "", "Instance "+g.ID+" already exists.", "failed"
		s.tell("Nova: %s already exists on %s", g.ID, h.name)
		return
	}
	g.Host, g.State, g.Task, e.mig.Status, g.answered = h.name, g.was, "", "done", false
	for _, m := range g.migs { // its conductor takes the oldest record that nobody has ended
		if ended, _ := m.Ended(); !ended && m.From == e.mig.From {
			m.Status = "done"
		}
	}
	n.carries(g, h)
	s.tell("Nova: %s is on %s", g.ID, h.name)
	if g.halted {
		g.State = fleet.ServerStopped
	} else if g.was == fleet.ServerActive {
		n.run(g, h, true)
	}
}

// unsettled is a server for whose sake Nova does not lift a host: it took two tries from there, and a record of it is done
// and not completed. That Nova refuses before nova-compute has begun at all is not played: that passes by itself.
func (n *nova) unsettled(host string) *guest {
	for _, g := range n.guests {
		tries, done := 0, false
		for _, m := range g.migs {
			if m.From == host {
				tries++
				done = done || m.Status == "done"
			}
		}
		if tries > 1 && done {
			return g
		}
	}
	return nil
}

// completes is what a nova-compute does at its start with the evacuations from its host that are done: of each server it
// finds one record, the newest, and the next one at its next start.
func (n *nova) completes(h *host) {
	for _, g := range n.guests {
		for _, m := range slices.Backward(g.migs) {
			if m.From == h.name && m.Status == "done" {
				m.Status = "completed"
				break
			}
		}
	}
}

// rebooting is the task of a server that is started from outside.
const rebooting = "reboot_started_hard"

// reboot has a server's host start it, whether Nova calls it active, stopped or broken. A
// nova-compute that starts may have started it while the order was on its way. One that runs is rebooted only as it was
// asked for, active and not locked by its owner.
func (n *nova) reboot(g *guest, only string, given at) (fleet.Outcome, string) {
	h := n.site.names[g.Host]
	switch {
	case g.Task != "":
		return fleet.Broken, "Nova is about something else with it: " + g.Task
	case !n.up(h):
		return fleet.Broken, "Service is unavailable at this time."
	case only != "" && g.State != only && g.State != fleet.ServerError, only != "" && g.locked:
		return fleet.Broken, "it is " + g.State + ", or locked"
	case only != "":
		n.mayReset(g, h, given)
	case g.runs[h] && g.since <= given:
		n.site.watch.fail("no running server is rebooted", "%s runs on %s", g.ID, g.Host)
	}
	g.Task = rebooting
	n.site.tell("Nova: reboot %s on %s", g.ID, g.Host)
	n.nodes[h].queue = append(n.nodes[h].queue, &errandOf{g: g})
	n.work(h)
	return fleet.Done, ""
}

// rebooted is the end of a reboot; what was taken by a host that died is nobody's.
func (n *nova) rebooted(g *guest, h *host, boot string) {
	if !h.on || h.boot != boot {
		return
	}
	n.nodes[h].busy = false
	switch {
	case g.Task != rebooting || g.Host != h.name: // it was evacuated
	case g.cursed > 0:
		g.cursed--
		if g.runs[h] {
			n.run(g, h, false)
		}
		g.State, g.Task, g.Fault = fleet.ServerError, "", "internal error: process exited while connecting to monitor"
	default:
		g.State, g.Task, g.Fault = fleet.ServerActive, "", ""
		n.run(g, h, true)
		n.notice(h)
		n.site.tell("Nova: %s runs on %s", g.ID, h.name)
	}
	n.work(h)
}

// notice lets a host's agent look at its guests, as libvirt's event does.
func (n *nova) notice(h *host) {
	if h.agent != nil {
		a := h.agent
		h.agentProcess.in(n.site.between(5*millisecond, 50*millisecond), a.poke)
	}
}

// ends is a guest that ends by itself: it crashes, or its owner shuts it down from within. Its
// nova-compute has Nova write down, 15 s later, that it is stopped.
func (n *nova) ends(g *guest, crash bool) {
	h := n.site.names[g.Host]
	if !g.runs[h] {
		return // it does not run
	}
	n.halts(g, h)
	delete(g.runs, h)
	g.launch++
	launch := g.launch
	if crash {
		since := h.wall()
		n.site.after(n.site.between(second, 1200*millisecond), func() { // seen twice
			if g.launch == launch && h.on {
				g.crashed[h], g.fell = since, true
				n.notice(h)
			}
		})
	} else {
		g.was = fleet.ServerStopped
		n.notice(h)
	}
	n.site.after(15*second, func() {
		if g.launch == launch && n.working(h) && n.reached(h) && g.State == fleet.ServerActive && g.Task == "" && g.Host == h.name {
			g.State = fleet.ServerStopped
			n.site.tell("Nova: %s is stopped, for it does not run", g.ID)
		}
	})
}

// person starts what Nova has stopped because it crashed while nobody could ask: a person is told of those.
func (n *nova) person() {
	for _, g := range n.guests {
		// Its record ends when its host dies; but a person was told.
		r := n.site.quorum.newest().Revivals[g.ID]
		e, moves := n.site.quorum.newest().Evacuations[g.ID]
		h := n.site.names[g.Host]
		if g.fell && (r.Server == "" || r.Ended != "") && (!moves || e.Ended != "") && g.State == fleet.ServerStopped && g.was == fleet.ServerActive && g.Task == "" && n.working(h) && !g.runs[h] {
			n.site.tell("a person starts %s", g.ID)
			g.State = fleet.ServerActive
			n.run(g, h, true)
			n.notice(h)
		}
	}
}

// said is what a host's agent says of those that crashed; how many run nothing rests on.
func (n *nova) said(h *host) fleet.Guests {
	out := fleet.Guests{Asked: true, Listed: true}
	for _, g := range n.guests {
		if _, fell := g.crashed[h]; fell || g.runs[h] {
			out.Machines = append(out.Machines, g.ID)
		}
		if since, is := g.crashed[h]; is {
			if out.Crashed == nil {
				out.Crashed = map[string]time.Time{}
			}
			out.Crashed[g.ID] = since
		}
		n.beats(g, h, &out)
	}
	return out
}

// setGuest: guest SERVER crash | shutdown | curse N | task WORD | hang | mute | wake; the task "none" ends one
func setGuest(s *Site, args []string) error {
	if s.nova == nil || len(args) < 2 {
		return fmt.Errorf("guest SERVER crash, shutdown or curse N, of a site with servers")
	}
	i, err := strconv.Atoi(strings.TrimPrefix(args[0], "s"))
	if err != nil || i < 1 || i > len(s.nova.guests) {
		return fmt.Errorf("no such server: %s", args[0])
	}
	g := s.nova.guests[i-1]
	switch args[1] {
	case "crash", "shutdown":
		s.nova.ends(g, args[1] == "crash")
		return nil
	case "curse":
		if len(args) > 2 {
			g.cursed, err = strconv.Atoi(args[2])
			return err
		}
	}
	if setPulse(s.nova, g, args[1]) {
		return nil
	}
	if args[1] == "task" && len(args) > 2 {
		g.Task = strings.TrimPrefix(args[2], "none")
		return nil
	}
	return fmt.Errorf("guest SERVER crash, shutdown, curse N or task WORD")
}

// lacks says what is not as the servers' owners want it.
func (n *nova) lacks() string {
	for _, g := range n.guests {
		h := n.site.names[g.Host]
		switch {
		case g.State != g.was || g.Task != "" && !(g.TaskSnapshots() && !n.album.calm):
			return fmt.Sprintf("%s is %s %s on %s", g.ID, g.State, g.Task, g.Host)
		case g.was == fleet.ServerActive && (len(g.runs) != 1 || !g.runs[h]):
			return fmt.Sprintf("%s is active on %s, and runs on %d hosts", g.ID, g.Host, len(g.runs))
		case g.was == fleet.ServerStopped && len(g.runs) > 0:
			return g.ID + " runs, and was stopped"
		case (g.pulse.stuck || g.pulse.mute) && len(g.runs) > 0:
			return g.ID + " hangs"
		case g.Locked != g.locked:
			return fmt.Sprintf("%s is locked: %v", g.ID, g.Locked)
		}
	}
	for _, e := range n.site.quorum.newest().Evacuations { // in whatever order: any will do
		if e.Lock != "" {
			return "a lock of Mainstay's is on record"
		}
	}
	if len(n.site.quorum.newest().Ailments) > 0 {
		return "a compute ails, or did a moment ago"
	}
	for _, h := range n.site.hosts {
		if x := n.nodes[h]; x != nil && x.deaf {
			return "Nova hears nothing of " + h.name
		}
		if x := n.nodes[h]; x != nil && (x.forced || x.disabled != n.spare(h)) {
			return fmt.Sprintf("Nova has %s forced down: %v, disabled: %v", h.name, x.forced, x.disabled)
		}
	}
	return ""
}

// cloudOrder is what an agent does with an order to OpenStack: not one that has waited for
// too long.
func (a *agent) cloudOrder(d deed) {
	n, given := a.host.site.nova, a.host.site.now
	n.site.stir(4e9)
	if a.host.site.now-given > cloudGood {
		a.done(d, fleet.Refused, "the order is too old")
		return
	}
	n.call(&a.host.agentProcess, func() (fleet.Outcome, string) { return n.do(d.Order, given) }, func(o fleet.Outcome, why string) {
		if d.reply != nil {
			d.reply(fleet.Effect{Key: d.Order.Key, From: a.host.name, Outcome: o, Why: why, Wall: a.host.wall()})
		}
	})
}

// How often a leader looks at OpenStack: while something depends on it, and else.
const (
	cloudSoon = second
	cloudIdle = 10 * second
)

// watchCloud is the leader's eye on OpenStack, as package node has it: it looks when a plan
// needs to know, when something was done there, and once in a while.
func (l *leader) watchCloud(reign uint64, looked at) {
	h := l.agent.host
	n := h.site.nova
	if n == nil || l.reigns != reign || !l.on {
		return
	}
	ids := append(fleet.Sorted(h.member.state().Evacuations), l.plan.Servers...)
	later := slices.Clone(l.plan.Later)
	for _, id := range fleet.Sorted(h.member.state().Departures) {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	wait := cloudIdle
	if len(l.plan.Looks)+len(ids) > 0 || l.asking() {
		wait = cloudSoon
	}
	if h.site.now-looked < wait {
		h.agentProcess.in(cloudSoon/5, func() { l.watchCloud(reign, looked) })
		return
	}
	began, from := h.clock(), h.site.now
	hosts, gates := slices.Clone(l.plan.Looks), slices.Clone(l.plan.Gates)
	var seen fleet.Cloud
	n.call(&h.agentProcess, func() (fleet.Outcome, string) {
		seen = n.look(hosts, append(ids, later...))
		n.shelf(&seen, began)
		seen.Gates = n.ask(gates)
		return fleet.Done, ""
	}, func(o fleet.Outcome, why string) {
		if l.reigns != reign || !l.on {
			return
		}
		if o != fleet.Done {
			seen = fleet.Cloud{Away: cmp.Or(why, "no answer")}
		} else {
			seen.At = began
			for _, host := range hosts {
				seen.Looked[host] = began
			}
		}
		l.seen = seen.Follows(l.seen)
		l.news()
		l.watchCloud(reign, from)
	})
}

// asking says whether something was asked of OpenStack that is not seen yet.
func (l *leader) asking() bool {
	for _, f := range l.flights { // in whatever order: any will do
		if f.Order.Verb == fleet.VerbCloud && f.Order.Step != fleet.CloudSnapshot && f.Order.Step != fleet.CloudPrune {
			return true
		}
	}
	return false
}

// setNova: nova away | ok | slow | lose N | forget N | break N | end SERVER | deaf HOST | disable HOST | enable HOST | halve N | shut SERVER | open SERVER | lock SERVER
// | blind (Glance is away) | spoil N (snapshots fail)
func setNova(s *Site, args []string) error {
	if s.nova == nil {
		return fmt.Errorf("the site has no servers")
	}
	n, count := s.nova, 0
	switch {
	case len(args) == 2 && args[0] == "deaf":
		x := n.nodes[s.names[args[1]]]
		if x == nil {
			return fmt.Errorf("no compute: %s", args[1])
		}
		x.deaf = true
		return nil
	case len(args) == 2 && (args[0] == "disable" || args[0] == "enable"): // by a person
		x := n.nodes[s.names[args[1]]]
		if x == nil {
			return fmt.Errorf("no compute: %s", args[1])
		}
		x.disabled, x.reason = args[0] == "disable", ""
		return nil
	case len(args) == 2 && args[0] == "end":
		for _, g := range n.guests {
			if g.ID == args[1] {
				clear(g.runs)
			}
		}
		return nil
	}
	if done, err := n.owns(args); done {
		return err
	}
	if len(args) > 1 {
		var err error
		if count, err = strconv.Atoi(args[1]); err != nil {
			return err
		}
	}
	switch args[0] {
	case "ok":
		for _, x := range n.nodes { // in whatever order
			x.deaf = false
		}
		if n.album != nil {
			n.album.blind, n.album.failing = false, 0
		}
		n.away, n.slow, n.lose, n.forget, n.breaks, n.halved = false, false, 0, 0, 0, 0
	case "blind":
		n.album.blind = true
	case "spoil":
		n.album.failing = count
	case "away":
		n.away = true
	case "slow":
		n.slow = true
	case "lose":
		n.lose = count
	case "break":
		n.breaks = count
	case "forget":
		n.forget = count
	case "halve":
		n.halved = count
	default:
		return fmt.Errorf("no such Nova: %s", args[0])
	}
	return nil
}

// purge empties a host's queue.
func (n *nova) purge(queue string) {
	_, name, _ := strings.Cut(queue, ".")
	x := n.nodes[n.site.names[name]]
	for _, e := range x.queue {
		e.g.lost[e.mig] = true
	}
	x.queue = nil
}

// moving says whether servers are on their way, a network's return is waited for, or Nova and the leader are about to agree
// on something.
func (s *Site) moving() bool {
	n := s.nova
	if n == nil {
		return false
	}
	if len(s.quorum.newest().Cutoffs) > 0 || n.album != nil && !n.album.calm {
		return true
	}
	for _, r := range s.quorum.newest().Revivals { // in whatever order: any will do
		if r.Ended == "" {
			return true
		}
	}
	if len(s.quorum.newest().Ailments) > 0 {
		return true
	}
	for _, e := range s.quorum.newest().Evacuations { // in whatever order: any will do
		if e.Ended == "" || e.Lock != "" {
			return true
		}
	}
	for _, p := range s.quorum.newest().Departures { // the same
		if p.Ended == "" {
			return true
		}
	}
	for _, w := range s.quorum.newest().Wishes { // the same
		if w.Drain {
			return true
		}
	}
	if len(s.quorum.newest().Groups) > 0 {
		return true
	}
	for h, x := range n.nodes { // the same
		if x.busy || x.forced || x.disabled != n.spare(h) || x.deaf {
			return true
		}
	}
	return n.calls > 0
}
