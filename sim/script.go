package sim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"mainstay/fleet"
)

// Story is what is done to a site, when, and what must come of it. It is written
// in scenarios/*.txt or drawn from a seed.
type Story struct {
	// Title is its first line, About what it teaches.
	Title string
	About []string
	Shape Shape
	// Seed throws the dice of this run: delays, losses, how late a kernel is.
	Seed     uint64
	Commands []Command
	// Guards are those whose removal must make the story fail.
	Guards []fleet.Guard
	// From is since when its log is shown.
	From time.Duration
	// Skips leaves out what is quiet; Heals ends with everything healed and a site
	// that must come back to what it should be.
	Skips, Heals bool
	// Coarse are the hosts without an nftables guard.
	Coarse []string
	// Golden is the log that must result.
	Golden []string
}

// Command is one line of a story: when, what, and to whom.
type Command struct {
	At   time.Duration
	Verb string
	Args []string
	// Group holds a fault and its end together when a failing run is shrunk.
	Group int
}

// String writes the command as a story has it.
func (c Command) String() string {
	return strings.TrimSpace(fmt.Sprintf("%-9s %s %s", c.At, c.Verb, strings.Join(c.Args, " ")))
}

// Result is what came of a script.
type Result struct {
	Violation *Violation
	// Log is what was told, one line for each thing that happened.
	Log []string
	// Faults and Guards count what came up.
	Faults map[string]int
	Guards map[fleet.Guard]int
	// Virtual is the time that passed for the site's people; Played is how much
	// of it was not skipped as quiet.
	Virtual, Played time.Duration
	Turns, Events   int
	Most            Most
}

// Play runs a story from the first boot to its end.
func Play(sc Story) Result {
	s := newSite(sc.Shape, sc.Seed)
	defer s.sit()()
	s.skips = sc.Skips
	state := fleet.State{Members: map[string]fleet.Member{}}
	for _, h := range s.hosts {
		state.Members[h.name] = fleet.Member{Host: h.name}
	}
	s.quorum.history[1] = state
	s.quorum.found()
	for _, h := range s.hosts {
		h.kernel.coarse = slices.Contains(sc.Coarse, h.name)
		h.powerOn()
	}
	for _, found := range sc.Shape.Found {
		name, host, _ := strings.Cut(found, "@")
		u := s.names[host].copy(name)
		s.watch.found[u] = true
		u.phase, u.promoted = fleet.Running, u.promotable()
		s.watch.runs(u, true)
	}
	for _, h := range s.hosts {
		for _, u := range h.copies {
			h.agent.observe(u)
		}
	}
	s.after(0, s.sweeps)
	for _, c := range sc.Commands {
		s.until(at(c.At))
		if s.watch.stop != nil {
			break
		}
		if err := s.do(c); err != nil {
			s.watch.fail("the story", "%s: %v", c, err)
		}
	}
	if sc.Heals && s.watch.stop == nil {
		s.recover()
	}
	r := Result{
		Violation: s.watch.stop, Faults: s.count.faults, Guards: s.count.guards, Turns: s.count.turns, Events: s.count.events,
		Virtual: time.Duration(s.elapsed()), Played: time.Duration(s.now),
	}
	r.Log, r.Most = s.told, s.watch.most
	return r
}

func (s *Site) sweeps() {
	s.watch.sweep()
	s.after(at(s.timing.Lease)/4, s.sweeps)
}

// until plays on to a point of elapsed time, and skips what is quiet.
func (s *Site) until(when at) {
	const margin = second
	look := s.now
	for s.watch.stop == nil && len(s.queue.slots) > 0 {
		next := s.queue.slots[0].at
		if next+s.skipped > when {
			break
		}
		if s.skips && s.now >= look {
			look = s.now + 200*millisecond
			if when-s.elapsed() > 2*margin && s.quiet() {
				s.skipped += when - s.elapsed() - margin
				s.stir(time.Duration(margin))
				continue
			}
		}
		if s.count.events++; s.count.events > 1<<24 {
			s.watch.fail("no circles", "%d events", s.count.events)
		}
		s.step()
	}
	if s.watch.stop == nil {
		s.now = max(s.now, when-s.skipped)
	}
}

// quiet says that nothing is going on and nothing is awaited: a fault may last, but
// everybody has done what can be done about it, and only a further event will change
// anything.
func (s *Site) quiet() bool {
	if s.now < s.busy {
		return false
	}
	if s.stormy() {
		return false
	}
	if len(s.quorum.newest().Intents) > 0 || s.quorum.changing || len(s.quorum.want) > 0 {
		return false
	}
	if s.joining() || s.moving() {
		return false
	}
	leading := false
	for _, h := range s.hosts {
		if h.bmc.stray > 0 || h.second.stray > 0 || h.posting || h.watchdog.overdue() || s.awaitsContract(h) {
			return false
		}
		if !h.on {
			continue
		}
		for _, u := range h.copies {
			if u.hung || u.working || u.phase == fleet.Starting || u.phase == fleet.Stopping {
				return false
			}
		}
		if h.agent == nil || h.suspended || h.agentProcess.frozen {
			continue
		}
		if l := &h.agent.leader; l.on {
			if leading || !l.rests() {
				return false
			}
			leading = true
		}
	}
	return leading
}

// recover heals everything and sees that the site comes back to what it should
// be within a bound, and stays so.
func (s *Site) recover() {
	s.tell("everything heals")
	for _, h := range s.hosts {
		s.healHost(h, "all")
		s.wake(h)
		h.agentProcess.thaw()
		h.quorumProcess.thaw()
		if h.member != nil {
			h.member.slow = 0
			h.member.hangDisk(false)
		}
		h.bmc = bmc{host: h, uuid: h.uuid, power: h.on, stray: h.bmc.stray, done: h.bmc.done, lost: h.bmc.lost}
		h.quickBoot, h.watchdog.freezeFor = false, 0
		h.disk = disk{since: s.now}
		for _, u := range h.copies {
			u.failStarts, u.slowStarts, u.deafStops = 0, false, false
			u.resume()
		}
		h.startAgent()
		if h.agent != nil {
			h.agent.jammed = false
			h.agent.work()
		}
		s.startQuorum(h)
	}
	if s.nova != nil {
		_ = setNova(s, []string{"ok"})
	}
	clear(s.deaf)
	clear(s.foreign)
	for _, n := range s.nets {
		n.calm()
	}
	for _, id := range fleet.Sorted(s.quorum.newest().Wishes) {
		s.wish(fleet.Remove("wish/"+id, "the person takes the wish back"))
	}
	bound := 240 * second
	if s.nova != nil {
		bound = 900 * second                    // nobody knows sooner that an evacuation is lost (plan's evacuateLasts)
		if len(s.spec.OpenStack.Reserved) > 0 { // and such a site has groups
			bound += 1800 * second
		}
		if s.spec.OpenStack.Rebalance == fleet.RebalanceReturned {
			bound += 1800 * second // of which the first ten minutes are waited, and once more after what comes between
		}
	}
	end := s.elapsed() + bound
	good := 0
	var why string
	for s.elapsed() < end && s.watch.stop == nil {
		s.until(s.elapsed() + 500*millisecond)
		if s.watch.stop != nil {
			return
		}
		for _, h := range s.hosts { // a person turns on what is still off
			if !h.on && !h.posting && h.bmc.stray == 0 && h.second.stray == 0 && s.elapsed() > end-bound+20*second {
				h.powerOn()
			}
		}
		if s.nova != nil {
			s.nova.emptyReserves()
		}
		s.unblock()
		if s.nova != nil && s.elapsed() > end-bound+60*second {
			s.nova.person()
			s.nova.shakes()
		}
		if s.nova != nil && s.elapsed() > end-bound+120*second {
			s.nova.mends()
		}
		if on, off := s.stuck(); on != nil && s.elapsed() > end-bound+60*second {
			s.sworn(on, off)
			s.after(10*second, off.powerOn)
		}
		if s.brokers != nil || s.paired() { // a word that came while nobody led is said once more
			for _, id := range fleet.Sorted(s.quorum.newest().Wishes) {
				if v := s.quorum.newest().Wishes[id].Verb; v == "maintenance" || s.paired() && v != "move" {
					s.wish(fleet.Remove("wish/"+id, "the person takes the wish back"))
				}
			}
		}
		if why = s.well(); why == "" {
			why = s.awaited()
		}
		if why != "" {
			good = 0
			continue
		}
		if good++; good == 6 {
			s.tell("everything is well")
			s.still()
			return
		}
	}
	s.watch.fail("recovery", "%v after everything has healed: %s", time.Duration(bound), why)
}

// awaited names what was begun and is not over: an order whose answer has not come yet,
// a change of the voters.
func (s *Site) awaited() string {
	if s.quorum.changing || len(s.quorum.want) > 0 {
		return "the voters are being changed"
	}
	if len(s.quorum.newest().Cutoffs) > 0 {
		return "a compute has a network back, and not for long enough"
	}
	if s.nova != nil {
		if why := s.nova.albumLacks(); why != "" {
			return why
		}
	}
	for _, id := range fleet.Sorted(s.quorum.newest().Displaced) {
		if x := s.quorum.newest().Displaced[id]; x.Wait <= 10*time.Minute && s.hosts[0].wall().Sub(x.At) < 20*time.Minute {
			return id + " may go back, from the tenth minute on, one after the other"
		}
	}
	for _, id := range fleet.Sorted(s.quorum.newest().Departures) {
		if p := s.quorum.newest().Departures[id]; p.Back || p.Ended == "" {
			return id + " goes back, or is on its way" // what was asked of Nova may be carried out yet
		}
	}
	for _, id := range fleet.Sorted(s.quorum.newest().Revivals) {
		if r := s.quorum.newest().Revivals[id]; r.Ended != "" && len(r.Crashes) == 0 {
			return "a person is told for a while of the crash of " + id
		}
	}
	for _, h := range s.hosts {
		if h.agent == nil || !h.agent.leader.on {
			continue
		}
		for _, key := range fleet.Sorted(h.agent.leader.flights) {
			if h.agent.leader.flights[key].Effect == nil {
				return "the answer to " + key + " is awaited"
			}
		}
	}
	return ""
}

// still sees that a site that is well stays as it is: two minutes in which nothing
// changes hands, nobody's state changes, and nothing is worth a line.
func (s *Site) still() {
	before, lines := s.quorum.newest(), len(s.told)
	s.skips = true
	s.until(s.elapsed() + 120*second)
	if s.watch.stop != nil {
		return
	}
	if len(s.told) > lines {
		s.watch.fail("rest", "everything was well, and then: %s", strings.TrimSpace(s.told[lines]))
	} else if after := s.quorum.newest(); !maps.Equal(before.Holdings, after.Holdings) || !maps.Equal(before.Proofs, after.Proofs) || len(after.Intents) > 0 {
		s.watch.fail("rest", "everything was well, and then the record changed")
	} else if why := s.well(); why != "" {
		s.watch.fail("rest", "everything was well, and then %s", why)
	}
}

// unblock is what a person does about what waits for a person.
func (s *Site) unblock() {
	state := s.quorum.newest()
	for _, thing := range fleet.Sorted(state.Holdings) {
		h := state.Holdings[thing]
		_, moving := state.Wishes["move-"+thing]
		if h.Blocked != "" && !moving {
			s.wish(fleet.Put("wish/move-"+thing, fleet.Wish{ID: "move-" + thing, Verb: "move", Thing: thing, To: h.Host, By: "root", At: s.hosts[0].wall()}, "root wishes "+thing+" on "+h.Host))
		}
	}
}

// do carries out one command.
func (s *Site) do(c Command) error {
	f, ok := verbs[c.Verb]
	if !ok {
		return fmt.Errorf("no such command")
	}
	if len(c.Args) < f.least {
		return fmt.Errorf("it takes %d words at least", f.least)
	}
	if c.Verb != "expect" {
		if c.Verb != "end" {
			s.tell("> %s %s", c.Verb, strings.Join(c.Args, " "))
		}
		s.count.faults[f.counts(c)]++
		s.watch.fault()
	}
	return f.do(s, c.Args)
}

// verb is one word of the scripts.
type verb struct {
	least int
	do    func(s *Site, args []string) error
}

func (v verb) counts(c Command) string {
	switch c.Verb {
	case "hang", "bmc", "weather":
		if len(c.Args) > 1 {
			arg := c.Args[1]
			if c.Verb != "weather" && arg != "agent" && arg != "quorum" && arg != "disk" && arg != "addresses" && arg != "all" && c.Verb == "hang" {
				arg = "service"
			}
			return c.Verb + " " + arg
		}
	case "cut":
		if len(c.Args) > 2 {
			return "cut " + c.Args[2]
		}
	}
	return c.Verb
}

var verbs map[string]verb

func init() {
	onHost := func(f func(s *Site, h *host, rest []string) error) func(*Site, []string) error {
		return func(s *Site, args []string) error {
			h := s.names[args[0]]
			if h == nil {
				return fmt.Errorf("no host %s", args[0])
			}
			return f(s, h, args[1:])
		}
	}
	verbs = map[string]verb{
		"end":      {0, func(*Site, []string) error { return nil }},
		"poweroff": {1, onHost(func(_ *Site, h *host, _ []string) error { h.powerOff(); return nil })},
		"kill": {1, onHost(func(_ *Site, h *host, _ []string) error {
			h.bmc.dead = true
			h.powerOff()
			return nil
		})},
		"panic": {3, onHost(func(_ *Site, h *host, rest []string) error {
			after, err := time.ParseDuration(rest[0])
			lasts, err2 := time.ParseDuration(rest[1])
			if err = errors.Join(err, err2); err == nil {
				h.panics(at(after), at(lasts))
			}
			return err
		})},
		"start": {1, onHost(func(s *Site, h *host, rest []string) error {
			h.bmc.dead = false
			if len(rest) > 0 && rest[0] == "quick" {
				h.quickBoot = true
			}
			s.after(h.bootTime(), h.powerOn)
			h.quickBoot = false
			return nil
		})},
		"shutdown": {1, onHost(func(s *Site, h *host, _ []string) error {
			h.shutDown()
			return nil
		})},
		"stopagent": {1, onHost(func(_ *Site, h *host, _ []string) error {
			h.stopAgent()
			return nil
		})},
		"hang":        {1, onHost(hang)},
		"resume":      {1, onHost(resume)},
		"suspend":     {1, onHost(func(_ *Site, h *host, _ []string) error { h.suspend(); return nil })},
		"wake":        {1, onHost(func(s *Site, h *host, _ []string) error { s.wake(h); return nil })},
		"clone":       {2, onHost(func(_ *Site, h *host, rest []string) error { return h.clone(rest[0]) })},
		"killagent":   {1, onHost(func(_ *Site, h *host, _ []string) error { h.killAgent(); return nil })},
		"startagent":  {1, onHost(func(_ *Site, h *host, _ []string) error { h.startAgent(); return nil })},
		"killquorum":  {1, onHost(func(_ *Site, h *host, _ []string) error { h.member.kill(); return nil })},
		"startquorum": {1, onHost(func(s *Site, h *host, _ []string) error { s.startQuorum(h); return nil })},
		"cut":         {3, onHost(cutHost)},
		"heal": {1, func(s *Site, args []string) error {
			if args[0] == "all" {
				for _, h := range s.hosts {
					s.healHost(h, "all")
				}
				return nil
			}
			h := s.names[args[0]]
			if h == nil {
				return fmt.Errorf("no host %s", args[0])
			}
			net := "all"
			if len(args) > 1 {
				net = args[1]
			}
			s.healHost(h, net)
			return nil
		}},
		"weather": {2, weather},
		"crash": {2, onHost(func(_ *Site, h *host, rest []string) error {
			return withUnit(h, rest[0], func(u *unit) { u.crash() })
		})},
		"failstarts": {3, onHost(func(_ *Site, h *host, rest []string) error {
			n, err := strconv.Atoi(rest[1])
			return errors.Join(err, withUnit(h, rest[0], func(u *unit) { u.failStarts = n }))
		})},
		"slowstarts": {2, onHost(func(_ *Site, h *host, rest []string) error {
			return withUnit(h, rest[0], func(u *unit) { u.slowStarts = true })
		})},
		"deafstops": {2, onHost(func(_ *Site, h *host, rest []string) error {
			return withUnit(h, rest[0], func(u *unit) { u.deafStops = true })
		})},
		"score": {3, onHost(func(_ *Site, h *host, rest []string) error {
			n, err := strconv.Atoi(rest[1])
			return errors.Join(err, withUnit(h, rest[0], func(u *unit) { u.score = n; u.notice() }))
		})},
		"bmc": {2, onHost(setBMC)},
		"flush": {1, onHost(func(s *Site, h *host, _ []string) error {
			// HOLES 23: until the next renewal only the coarse guard is left.
			s.watch.excuse(h, s.timing.Lease+fleet.CoarseLate)
			h.kernel.flush()
			return nil
		})},
		"freezekick": {2, onHost(func(_ *Site, h *host, rest []string) error {
			d, err := time.ParseDuration(rest[0])
			h.watchdog.freezeFor = at(d)
			return err
		})},
		"freezenext": {2, onHost(func(s *Site, h *host, rest []string) error {
			d, err := time.ParseDuration(rest[0])
			h.freezeFor = at(d)
			return err
		})},
		"deaf": {3, onHost(func(s *Site, h *host, rest []string) error { s.deaf[h.name+"/"+rest[0]] = rest[1] == "on"; return nil })},
		"foreign": {3, onHost(func(s *Site, h *host, rest []string) error {
			s.foreign[h.name+"/"+rest[0]] = rest[1] == "on"
			if h.agent != nil {
				h.agent.poke()
			}
			return nil
		})},
		"move": {2, func(s *Site, args []string) error {
			s.wish(fleet.Put("wish/move-"+args[0], fleet.Wish{ID: "move-" + args[0], Verb: "move", Thing: args[0], To: args[1], By: "root", At: s.hosts[0].wall()},
				"root wishes "+args[0]+" on "+args[1]))
			return nil
		}},
		"maintenance": {2, onHost(func(s *Site, h *host, rest []string) error {
			r := fleet.Remove("wish/maintenance-"+h.name, "root ends the maintenance of "+h.name)
			if rest[0] == "on" {
				r = fleet.Put("wish/maintenance-"+h.name, fleet.Wish{ID: "maintenance-" + h.name, Verb: "maintenance", Host: h.name, By: "root", At: h.wall(), Drain: len(rest) > 1 && rest[1] == "drain"}, "root takes "+h.name+" out of service")
			}
			s.wish(r)
			return nil
		})},
		"disarm": {1, func(s *Site, args []string) error {
			r := fleet.Remove("wish/disarm", "root arms again")
			if args[0] == "on" {
				r = fleet.Put("wish/disarm", fleet.Wish{ID: "disarm", Verb: "disarm", By: "root", At: s.hosts[0].wall()}, "root disarms")
			}
			s.wish(r)
			return nil
		}},
		"oath": {1, onHost(func(s *Site, h *host, rest []string) error {
			boot := h.boot
			if h.on && len(rest) == 0 {
				return nil // who has looked does not swear
			}
			if len(rest) > 0 {
				boot = rest[0]
			}
			s.wish(fleet.Put("wish/oath-"+h.name, fleet.Wish{ID: "oath-" + h.name, Verb: "oath", Host: h.name, Boot: boot, By: "root", Why: "seen with my own eyes", At: h.wall()},
				"root swears that "+h.name+" is off"))
			return nil
		})},
		"empty": {1, onHost(func(_ *Site, h *host, _ []string) error {
			return withUnit(h, "db", func(u *unit) { u.of.wiped() })
		})},
		"found": {1, onHost(func(_ *Site, h *host, _ []string) error {
			return withUnit(h, "db", func(u *unit) { u.of.founded() })
		})},
		"loseview": {1, onHost(func(_ *Site, h *host, _ []string) error {
			return withUnit(h, "db", func(u *unit) { u.of.view, u.of.seen = "", nil })
		})},
		"outside": {1, onHost(func(_ *Site, h *host, _ []string) error {
			return withUnit(h, "mq", func(u *unit) { u.node.apart() })
		})},
		"accept":  {1, onHost(func(s *Site, h *host, _ []string) error { s.accept(h); return nil })},
		"discard": {1, onHost(func(s *Site, h *host, _ []string) error { return s.discard(h) })},
		"without": {1, onHost(func(s *Site, h *host, _ []string) error { s.without(h); return nil })},
		"transfer": {0, func(s *Site, args []string) error {
			for _, v := range s.quorum.voters {
				if v.member.leads() && !v.quorumProcess.stopped() {
					to := v.member.heir()
					if len(args) > 0 && s.names[args[0]] != nil {
						to = uint64(s.names[args[0]].index + 1)
					}
					v.member.handOver(to)
				}
			}
			return nil
		}},
		"nova":    {1, setNova},
		"guest":   {2, setGuest},
		"storage": {2, onHost(setStorage)},
		"voters":  {2, setVoters},
		"expect":  {1, expect},
	}
}

func withUnit(h *host, service string, f func(*unit)) error {
	u := h.copy(service)
	if u == nil {
		return fmt.Errorf("no %s on %s", service, h.name)
	}
	f(u)
	return nil
}

func what(rest []string) string {
	if len(rest) == 0 {
		return "agent"
	}
	return rest[0]
}

func hang(_ *Site, h *host, rest []string) error {
	switch what(rest) {
	case "agent":
		h.agentProcess.freeze()
	case "quorum":
		h.quorumProcess.freeze()
	case "all":
		h.agentProcess.freeze()
		h.quorumProcess.freeze()
	case "addresses":
		if h.agent != nil {
			h.agent.jammed = true
		}
	case "disk":
		if h.member == nil {
			return errors.New("it has no store")
		}
		h.member.hangDisk(true)
	default:
		return withUnit(h, rest[0], func(u *unit) { u.hang() })
	}
	return nil
}

func resume(s *Site, h *host, rest []string) error {
	h.healed = s.now
	switch what(rest) {
	case "agent":
		h.agentProcess.thaw()
	case "quorum":
		h.quorumProcess.thaw()
	case "all":
		h.agentProcess.thaw()
		h.quorumProcess.thaw()
	case "addresses":
		if h.agent != nil {
			h.agent.jammed = false
			h.agent.work()
		}
	case "disk":
		h.member.slow = 0
		h.member.hangDisk(false)
	default:
		return withUnit(h, rest[0], func(u *unit) { u.resume() })
	}
	return nil
}

// wake ends a suspension: HOLES 24 allows it to speak L + g more.
// wake lets a suspended host go on. Its kernel's timers stood still with it, so it may
// speak for the rest of a lease before they end (docs/HOLES.md 24).
func (s *Site) wake(h *host) {
	if !h.suspended {
		return
	}
	late := fleet.GuardLate
	if h.kernel.coarse || h.kernel.flushed {
		late = fleet.CoarseLate
	}
	s.watch.excuse(h, s.timing.Lease+late+100*time.Millisecond)
	h.wake()
}

func (s *Site) startQuorum(h *host) {
	if h.member != nil && h.on && !h.quorumProcess.alive {
		h.quorumProcess.start()
		h.member.start()
	}
}

// mask is the networks that a word names.
func (s *Site) mask(word string) (uint8, error) {
	if word == "all" {
		return 1<<len(s.nets) - 1, nil
	}
	for i, n := range s.nets {
		if n.name == word {
			return 1 << i, nil
		}
	}
	return 0, fmt.Errorf("no network %s", word)
}

func cutHost(s *Site, h *host, rest []string) error {
	mask, err := s.mask(rest[0])
	if err != nil {
		return err
	}
	peers := s.hosts
	if len(rest) > 2 {
		p := s.names[rest[2]]
		if p == nil {
			return fmt.Errorf("no host %s", rest[2])
		}
		peers = []*host{p}
	}
	if rest[1] == "link" {
		for i := range s.nets {
			if mask&(1<<i) != 0 {
				h.links[i] = false
			}
		}
		if h.agent != nil {
			h.agent.poke()
		}
		return nil
	}
	for _, p := range peers {
		if p == h {
			continue
		}
		if rest[1] == "both" || rest[1] == "out" {
			s.cut[h.index][p.index] |= mask
		}
		if rest[1] == "both" || rest[1] == "in" {
			s.cut[p.index][h.index] |= mask
		}
	}
	return nil
}

func (s *Site) healHost(h *host, net string) {
	mask, _ := s.mask(net)
	h.healed = s.now
	for _, p := range s.hosts {
		s.cut[h.index][p.index] &^= mask
		s.cut[p.index][h.index] &^= mask
	}
	for i := range h.links {
		if mask&(1<<i) != 0 {
			h.links[i] = !h.voter || s.nets[i].name != s.shape.Apart
		}
	}
	if h.agent != nil {
		h.agent.poke()
	}
}

// weather NETWORK calm | loss N | double N | late N: of a thousand packets.
func weather(s *Site, args []string) error {
	mask, err := s.mask(args[0])
	if err != nil {
		return err
	}
	n := 0
	if len(args) > 2 {
		if n, err = strconv.Atoi(args[2]); err != nil {
			return err
		}
	}
	for i, net := range s.nets {
		if mask&(1<<i) == 0 {
			continue
		}
		switch args[1] {
		case "calm":
			net.calm()
		case "loss":
			net.loss = n
		case "double":
			net.double = n
		case "late":
			net.late, net.lateBy = n, at(2*s.timing.Lease)
		default:
			return fmt.Errorf("no weather %s", args[1])
		}
	}
	return nil
}

func setBMC(s *Site, h *host, rest []string) error {
	b := &h.bmc
	switch rest[0] {
	case "ok":
		*b = bmc{host: h, uuid: h.uuid, power: h.on, stray: b.stray, done: b.done, lost: b.lost}
	case "dead":
		b.dead = true
	case "lose":
		b.lose = 600
	case "slow":
		b.slow = 4 * second
	case "lies":
		b.lies = true
	case "swapped":
		b.uuid = "11111111-0000-4000-8000-000000000000"
	case "again":
		b.again = true
	case "late":
		b.late = true
	case "shut":
		b.shut = true
	case "wrong":
		if len(rest) < 2 || s.names[rest[1]] == nil {
			return errors.New("on whose host does it act?")
		}
		b.wrong = s.names[rest[1]]
	default:
		return fmt.Errorf("no such BMC: %s", rest[0])
	}
	return nil
}

// wish writes what a person asks for through any member that answers.
func (s *Site) wish(r fleet.Record) {
	for _, v := range s.quorum.voters {
		if v.on && v.member.node != nil && v.agent != nil && !v.quorumProcess.stopped() && !v.agentProcess.stopped() && v.member.look().Lead != 0 {
			v.member.propose(&write{free: true, records: []fleet.Record{r}}, opDeadline, func(bool, bool) {})
			return
		}
	}
}

// expect checks what must be now.
func expect(s *Site, args []string) error {
	text := strings.Join(args, " ")
	wrong := func(format string, more ...any) error {
		s.watch.fail("expect", "%s: %s", text, fmt.Sprintf(format, more...))
		return nil
	}
	state := s.quorum.newest()
	var leads []string
	var waits []fleet.Wait
	for _, v := range s.quorum.voters {
		if v.on && v.agent != nil && v.agent.leader.on && v.agent.leader.holds() {
			leads = append(leads, v.name)
			waits = v.agent.leader.plan.Waits
		}
	}
	switch args[0] {
	case "well":
		if why := s.well(); why != "" {
			return wrong("%s", why)
		}
	case "leader":
		have := strings.Join(leads, " ")
		if args[1] == "not" && slices.Contains(leads, args[2]) || args[1] != "not" && have != args[1] {
			return wrong("%q leads", have)
		}
	case "wait":
		for _, x := range waits {
			if strings.Contains(x.About+" waits for "+x.For+" ("+x.Help+")", strings.Join(args[1:], " ")) {
				return nil
			}
		}
		return wrong("the waits are %v", waits)
	case "primary":
		if have := s.cluster.primaryOn(); have != strings.Join(args[1:], ", ") {
			return wrong("it is primary on %s", have)
		}
	case "mq":
		if have := s.brokers.taken; have != strings.Join(args[1:], ", ") {
			return wrong("messages are taken on %q", have)
		}
	case "severed":
		a, ok := s.spec.Address(args[1])
		if why := s.severed(a); !ok || why != "" {
			return wrong("%s", why)
		}
	case "off", "on":
		if h := s.names[args[1]]; h == nil || h.on != (args[0] == "on") {
			return wrong("it is not")
		}
	case "behind", "even":
		if _, behind := state.Lags[args[1]]; behind != (args[0] == "behind") {
			return wrong("the record says otherwise: %v", state.Lags)
		}
	case "proof":
		if p, ok := state.Proofs[args[1]]; !ok || len(args) > 2 && p.Kind != args[2] {
			return wrong("the proof is %q", p.Kind)
		}
	case "log":
		for _, line := range s.told {
			if strings.Contains(line, strings.Join(args[1:], " ")) {
				return nil
			}
		}
		return wrong("nobody said so")
	case "nolog":
		for _, line := range s.told {
			if strings.Contains(line, strings.Join(args[1:], " ")) {
				return wrong("it was said: %s", line)
			}
		}
	default:
		var where []string
		kind, name, _ := strings.Cut(args[0], "/")
		if kind == "address" {
			for i, a := range s.spec.Addresses {
				if a.Name == name {
					for _, h := range s.watch.speakers[i] {
						where = append(where, h.name)
					}
				}
			}
		} else {
			for _, u := range s.watch.running[args[0]] {
				where = append(where, u.host.name)
			}
		}
		have := strings.Join(where, " ")
		switch {
		case len(args) > 1 && args[1] == "nowhere" && have == "", len(args) > 2 && args[1] == "on" && have == strings.Join(args[2:], " "),
			len(args) > 2 && args[1] == "not" && have != "" && !slices.Contains(where, args[2]):
			return nil
		}
		return wrong("it is on %q", have)
	}
	return nil
}
