package sim

import (
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// brokers is a RabbitMQ cluster, with pause_minority, and the client who publishes to a
// quorum queue all the time. A message is confirmed when a majority of the members has it
// on disk; a node that starts waits for every other that it saw running last.
type brokers struct {
	site      *Site
	nodes     []*broker
	confirmed int64  // the newest message that a client was told is safe
	taken     string // where messages are taken, as it was told last
}

// broker is one node. Nodes are named as their hosts.
type broker struct {
	u       *unit
	of      *brokers
	running []string      // whom it counts as running; empty: it has paused, or is not up
	silent  map[string]at // since when it has heard nothing of one of these
	outside bool          // its way back was cut off: it finds no other
	seesOld at            // since when it sees a majority again
	ready   at            // when its present start may find others
	forced  bool          // it waits for nobody

	// On disk.
	members []string
	seen    []string // whom it saw running last, itself included
	newest  int64
	empty   bool // it has no queue

	view  fleet.ServiceState
	since time.Time
}

const (
	brokerTick  = 200 * time.Millisecond
	unseen      = 6 * time.Second  // net_ticktime: a node that is silent is left behind after this
	findsBack   = 2 * time.Second  // a node that has paused, once it sees a majority again
	startLasts  = 45 * time.Second // how long an order to start is waited for
	breaksAfter = 600 * time.Millisecond
)

// brokered gives the site a RabbitMQ on its controllers.
func (s *Site) brokered() {
	c := &brokers{site: s}
	for _, h := range s.hosts {
		if u := h.copy("mq"); u != nil {
			u.node = &broker{u: u, of: c, silent: map[string]at{}}
			c.nodes = append(c.nodes, u.node)
		}
	}
	for _, b := range c.nodes {
		b.members, b.seen = c.names(), c.names()
	}
	s.brokers = c
	s.after(at(brokerTick), c.tick)
}

func (c *brokers) names() []string {
	var out []string
	for _, b := range c.nodes {
		out = append(out, b.name())
	}
	return out
}

func (b *broker) name() string { return b.u.host.name }

func (c *brokers) node(name string) *broker {
	i := slices.IndexFunc(c.nodes, func(b *broker) bool { return b.name() == name })
	return c.nodes[i]
}

// up says whether its process works.
func (b *broker) up() bool { return b.u.host.on && !b.u.hung && b.u.alive() }

func (c *brokers) open(a, b *broker) bool {
	return a == b || c.site.open(a.u.host, b.u.host, 0) && c.site.open(b.u.host, a.u.host, 0)
}

// others are the members but itself.
func (b *broker) others() []*broker {
	var out []*broker
	for _, name := range b.members {
		if name != b.name() {
			out = append(out, b.of.node(name))
		}
	}
	return out
}

// part says whether it takes part in its cluster.
func (b *broker) part() bool { return b.up() && b.u.phase == fleet.Running && len(b.running) > 0 }

func (c *brokers) tick() {
	for _, b := range c.nodes {
		if !b.up() {
			continue
		}
		switch b.u.phase {
		case fleet.Starting:
			b.rise()
		case fleet.Running:
			b.lose()
			b.find()
		}
	}
	c.publish()
	c.site.after(at(brokerTick), c.tick)
}

// lose leaves behind whom it hears no more, and pauses in a minority.
func (b *broker) lose() {
	s := b.of.site
	before := len(b.running)
	for _, o := range b.others() {
		if !slices.Contains(b.running, o.name()) {
			continue
		}
		gone := b.of.open(b, o) && (!o.part() && !o.u.hung || o.part() && !slices.Contains(o.running, b.name()))
		if o.part() && b.of.open(b, o) && !gone {
			delete(b.silent, o.name())
			continue
		}
		if _, known := b.silent[o.name()]; !known {
			b.silent[o.name()] = s.now
		}
		if gone || s.now-b.silent[o.name()] >= at(unseen) {
			b.running = slices.DeleteFunc(b.running, func(n string) bool { return n == o.name() })
			delete(b.silent, o.name())
		}
	}
	if len(b.running) == before {
		return
	}
	if len(b.running) < fleet.Majority(len(b.members)) {
		b.running, b.seesOld = nil, 0
	}
	b.sees()
}

// sees writes down whom it sees, and lets its agent know.
func (b *broker) sees() {
	if len(b.running) > 0 {
		b.seen = slices.Clone(b.running)
	}
	b.of.site.stir(10 * time.Second)
	b.u.notice()
}

// find takes others in, or brings it back itself after it has paused.
func (b *broker) find() {
	s := b.of.site
	if b.outside {
		return
	}
	if len(b.running) > 0 {
		for _, o := range b.others() {
			if o.part() && !o.outside && b.of.open(b, o) && slices.Contains(o.members, b.name()) && !slices.Contains(b.running, o.name()) {
				b.takes(o)
				o.takes(b)
				b.copies(o)
				b.sees()
				o.sees()
			}
		}
		return
	}
	within := []*broker{b}
	for _, o := range b.others() {
		if (o.part() || o.waits()) && b.of.open(b, o) && slices.Contains(o.members, b.name()) {
			within = append(within, o)
		}
	}
	switch enough := len(within) >= fleet.Majority(len(b.members)); {
	case !enough && b.seesOld != 0 && s.now-b.seesOld >= at(breaksAfter):
		// INCIDENTS R2: cut off on its way back it stays outside, pause_minority or not.
		b.outside = true
		s.tell("mq on %s will not find back by itself", b.name())
	case !enough:
		b.seesOld = 0
	case b.seesOld == 0:
		b.seesOld = s.now
		s.stir(10 * time.Second)
	case s.now-b.seesOld >= at(findsBack):
		if i := slices.IndexFunc(within, (*broker).part); i >= 0 {
			b.running, b.seesOld = []string{b.name()}, 0
			b.find()
		} else {
			b.together()
		}
	}
}

// waits says whether it is here and waits for others: on its way up, or paused.
func (b *broker) waits() bool {
	return b.up() && !b.outside && (b.u.phase == fleet.Starting && b.of.site.now >= b.ready || b.u.phase == fleet.Running && len(b.running) == 0)
}

// together lets all go on whom it saw last, if they are here and wait.
func (b *broker) together() {
	for _, name := range b.seen {
		if o := b.of.node(name); !o.waits() || !b.of.open(b, o) {
			return
		}
	}
	var all []*broker
	for _, name := range b.seen {
		o := b.of.node(name)
		o.goes()
		all = append(all, o)
	}
	b.of.begins(all...)
	b.find()
}

// goes lets it run, whoever else does.
func (b *broker) goes() {
	b.running, b.seesOld = []string{b.name()}, 0
	if b.u.phase == fleet.Starting {
		b.ended("", fleet.Running)
	}
}

// takes counts another in.
func (b *broker) takes(o *broker) {
	if !slices.Contains(b.running, o.name()) {
		b.running = append(b.running, o.name())
		slices.Sort(b.running)
	}
	delete(b.silent, o.name())
}

// copies lets two nodes that found each other have the same messages.
func (b *broker) copies(o *broker) {
	n := max(b.newest, o.newest)
	b.newest, o.newest = n, n
	b.empty, o.empty = b.empty && o.empty, b.empty && o.empty
}

// rise is a node on its way up: it joins one that runs, goes first if it was the last to
// go down, begins together with all whom it saw last, or waits.
func (b *broker) rise() {
	s := b.of.site
	if s.now < b.ready {
		return
	}
	for _, o := range b.others() {
		if !o.part() || o.outside || !b.of.open(b, o) {
			continue
		}
		if !slices.Contains(o.members, b.name()) { // it was forgotten
			b.ended("the others have forgotten it", fleet.Failed)
			return
		}
		b.running, b.members = []string{b.name()}, slices.Clone(o.members)
		b.ended("", fleet.Running)
		b.find()
		return
	}
	if b.forced {
		b.goes()
		b.of.begins(b)
		b.find()
		return
	}
	b.together()
}

// begins sees that those who begin a cluster anew know among them all that was confirmed,
// or see somebody who does.
func (c *brokers) begins(all ...*broker) {
	for _, b := range all {
		if b.empty || len(b.members) == 1 {
			return
		}
		for _, o := range append(b.others(), b) {
			if o.newest >= c.confirmed && o.up() && c.open(b, o) {
				return
			}
		}
	}
	c.site.watch.fail("nothing is lost", "message %d was confirmed, and mq on %s begins without it", c.confirmed, all[0].name())
}

// ended is the end of a start, or of a node.
func (b *broker) ended(err, phase string) {
	b.forced = false
	b.outside = false
	b.seesOld = 0
	clear(b.silent)
	if phase == fleet.Failed {
		b.u.begun = append(b.u.begun, b.of.site.elapsed())
	}
	b.u.set(phase)
	if b.u.working && b.u.answer != nil {
		b.u.answer(err)
	}
}

// apart lets it fall out of its cluster for good, though nothing is cut off.
func (b *broker) apart() {
	if b.part() {
		b.running, b.outside = nil, true
		b.sees()
	}
}

// gone is what the end of its process leaves.
func (b *broker) gone() {
	b.running, b.outside, b.forced, b.seesOld = nil, false, false, 0
	clear(b.silent)
	b.of.site.stir(unseen + time.Second)
}

// publish is a client's message, wherever a majority of the members can confirm it.
func (c *brokers) publish() {
	var taken []string
	for _, b := range c.nodes {
		if !b.part() || b.empty || b.newest < c.confirmed || slices.Contains(taken, b.name()) {
			continue
		}
		var with []*broker
		for _, o := range append(b.others(), b) {
			if o.part() && !o.empty && c.open(b, o) && (o == b || slices.Contains(b.running, o.name()) && slices.Contains(o.running, b.name())) {
				with = append(with, o)
			}
		}
		if len(with) < fleet.Majority(len(b.members)) {
			continue
		}
		if len(taken) > 0 {
			c.site.watch.fail("one cluster", "mq takes messages on %s and apart from it on %s", strings.Join(taken, ", "), b.name())
			return
		}
		c.confirmed++
		for _, o := range with {
			o.newest = c.confirmed
			taken = append(taken, o.name())
		}
	}
	slices.Sort(taken)
	if now := strings.Join(taken, ", "); now != c.taken {
		c.taken = now
		if now == "" {
			now = "nowhere"
		}
		c.site.tell("mq takes messages on %s", now)
	}
}

// operate carries out an order.
func (b *broker) operate(j job, done func(err string)) {
	u, s := b.u, b.of.site
	if j.verb == fleet.VerbTend {
		steps := 0
		for _, o := range b.of.nodes {
			if o.u.working && o.u.verb == fleet.VerbTend {
				steps++
			}
		}
		if steps > 1 {
			s.watch.fail("one step", "%d steps are taken at once", steps)
		}
	}
	switch {
	case j.verb == fleet.VerbStart:
		b.start()
	case j.verb == fleet.VerbRestart:
		u.begun = append(u.begun, s.elapsed())
		b.end()
		b.start()
	case j.verb == fleet.VerbTend && j.step == fleet.StepForceStart:
		b.end()
		b.forced = true
		b.start()
		b.forced = true
	case j.verb == fleet.VerbTend && j.step == fleet.StepPurge:
		s.nova.purge(j.with)
		done("")
		return
	case j.verb == fleet.VerbTend && j.step == fleet.StepReset:
		b.wipe()
		b.start()
	case j.verb == fleet.VerbTend && j.step == fleet.StepJoin:
		done(b.join(j.with))
		return
	case j.verb == fleet.VerbTend && (j.step == fleet.StepReplace || j.step == fleet.StepAbandon):
		o := b.of.node(j.with)
		b.end()
		if !o.part() || !b.of.open(b, o) {
			b.start()
			done(j.with + " does not answer")
			return
		}
		for _, x := range b.of.nodes {
			if x != b && slices.Contains(x.members, o.name()) {
				x.members = slices.DeleteFunc(slices.Clone(x.members), func(n string) bool { return n == b.name() })
				x.running = slices.DeleteFunc(slices.Clone(x.running), func(n string) bool { return n == b.name() })
				x.u.notice()
			}
		}
		b.wipe()
		b.start()
		life := u.life
		var join func()
		join = func() {
			switch {
			case u.life != life || !u.host.on:
			case u.phase == fleet.Running:
				done(b.join(j.with))
			default:
				s.after(500*millisecond, join)
			}
		}
		u.answer = func(err string) { // what ends well here is the start, not the order
			if err != "" {
				done(err)
			}
		}
		s.after(second, join)
		return
	default:
		done("no such deed for a node")
		return
	}
	if u.phase == fleet.Running {
		done("")
		return
	}
	life := u.life
	s.after(at(startLasts), func() {
		if u.life == life && u.phase == fleet.Starting {
			done("it is still on its way up")
		}
	})
}

func (b *broker) start() {
	if b.u.alive() {
		return
	}
	s := b.of.site
	b.gone()
	b.ready = s.now + s.between(2*second, 5*second)
	b.u.life++
	b.u.set(fleet.Starting)
	s.stir(startLasts)
}

// end kills its process.
func (b *broker) end() {
	if b.u.alive() {
		b.u.life++
		b.gone()
		b.u.set(fleet.Stopped)
	}
}

// wipe sets its data aside.
func (b *broker) wipe() {
	b.end()
	b.members, b.seen, b.newest, b.empty = []string{b.name()}, []string{b.name()}, 0, true
	for _, o := range b.of.nodes {
		if o.newest >= b.of.confirmed {
			return
		}
	}
	b.of.site.watch.fail("nothing is lost", "message %d was confirmed, and the last node that had it is reset", b.of.confirmed)
}

// join makes it a member of another's cluster.
func (b *broker) join(with string) string {
	o := b.of.node(with)
	switch {
	case !b.part():
		return "it does not run"
	case !o.part() || !b.of.open(b, o):
		return with + " does not answer"
	case !b.empty:
		return "its queue holds messages, which would be lost"
	}
	members := append(slices.Clone(o.members), b.name())
	slices.Sort(members)
	for _, x := range b.of.nodes {
		if x != b && slices.Contains(o.members, x.name()) {
			x.members = members
			x.u.notice()
		}
	}
	b.members, b.running = members, []string{b.name()}
	b.empty = o.empty
	b.find()
	return ""
}

// state is what the node says of itself.
func (b *broker) state(st fleet.ServiceState) fleet.ServiceState {
	st.Ready = b.part() && len(b.running) >= fleet.Majority(len(b.members))
	st.Peers = fleet.Peers{Self: b.name(), Members: strings.Join(b.members, " "), Running: strings.Join(b.seen, " ")}
	if b.u.phase == fleet.Running && !b.u.hung {
		st.Peers.Running = strings.Join(b.running, " ")
	}
	if now := (fleet.ServiceState{Phase: st.Phase, Ready: st.Ready, Peers: st.Peers}); now != b.view || b.since.IsZero() {
		b.view, b.since = now, b.u.host.wall()
	}
	st.Peers.Since = b.since
	return st
}

// lacks names what keeps the cluster from being whole.
func (c *brokers) lacks() string {
	for _, b := range c.nodes {
		if !slices.Equal(b.running, c.names()) || !slices.Equal(b.members, c.names()) {
			return "mq on " + b.name() + " sees " + strings.Join(b.running, ", ") + " of " + strings.Join(b.members, ", ")
		}
	}
	return ""
}

// deedOf names what an order asks for, as history tells it.
func deedOf(o fleet.Order) string {
	if o.Verb == fleet.VerbTend || o.Verb == fleet.VerbCloud {
		return o.Step
	}
	return string(o.Verb)
}
