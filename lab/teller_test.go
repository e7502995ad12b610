package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fence/falsebmc"
	"mainstay/fleet"
	"mainstay/service"
	"mainstay/sim"
)

// teller plays one story on real hosts: its commands in their order, with at least its
// pauses.
type teller struct {
	*site
	copies *copies
	units  map[string]string // what carries each service that a story names
	things map[string]string // where this site calls a thing otherwise

	since time.Time
	after string // the newest event before
	// held is who had each thing when the story began, with its generation.
	held map[string]string
	own  []time.Time     // moments at which the story itself took power away
	mute map[string]bool // hosts whose agent does not answer, by the story
	late time.Duration   // how much longer than its right a host may speak, by the story
	idle net.Conn        // an idle connection to the address whose TCP a story looks at
	from string          // who had that address then

	// story ends with the story, and so do its power policies.
	story    context.Context
	end      context.CancelFunc
	policies sync.WaitGroup
}

// storyBound is how long is waited for what a story expects.
const storyBound = 3 * time.Minute

// bmcFaults are the words for a BMC that misbehaves.
var bmcFaults = map[string]falsebmc.Fault{
	"ok": {}, "again": {}, "dead": {Hang: true}, "lies": {Lies: true}, "slow": {Late: 4 * time.Second}, "shut": {Locked: true},
	"swapped": {UUID: "11111111-0000-4000-8000-000000000000"},
}

// speakable says why the lab cannot do or see what a line of a story says.
func speakable(c sim.Command) error {
	known := func(word string, words ...string) error {
		if !slices.Contains(words, word) {
			return fmt.Errorf("the lab does not know %q", word)
		}
		return nil
	}
	switch c.Verb {
	case "end", "poweroff", "kill", "start", "shutdown", "stopagent", "startagent", "killagent", "killquorum", "startquorum", "cut", "heal", "crash",
		"flush", "move", "transfer", "maintenance", "disarm", "oath", "foreign":
		return nil
	case "failstarts":
		return known(c.Args[1], "cinder", "manila")
	case "hang", "resume":
		return known(arg(c.Args, 1), "agent", "quorum", "all", "disk", "keystone", "drbd")
	case "bmc":
		return known(c.Args[1], slices.Collect(maps.Keys(bmcFaults))...)
	case "expect":
		switch what, _, thing := strings.Cut(c.Args[0], "/"); {
		case thing:
			return known(what, "address", "service")
		case what == "log" || what == "nolog":
			// What a seed's log calls a host's boot, a real one does not.
			if strings.Contains(strings.Join(c.Args, " "), "boot c") {
				return errors.New("its boots have other names")
			}
			return nil
		}
		return known(c.Args[0], "well", "leader", "wait", "proof", "on", "off", "severed")
	}
	return errors.New("the lab does not know that word")
}

// begin notes how things are before the first deed.
func (p *teller) begin() {
	if p.end != nil {
		return
	}
	p.story, p.end = context.WithCancel(p.ctx)
	p.since, p.mute, p.late = time.Now(), map[string]bool{}, wireBound
	events, _ := p.told("")
	if len(events) > 0 {
		p.after = events[len(events)-1].ID
	}
}

// tell plays a staged story: before is where things are when it begins, sure is what
// must be so at its end.
func (p *teller) tell(t *testing.T, st sim.Story, before, sure map[string]string) {
	commands, now := st.Commands, st.From
	if p.story == nil {
		for len(commands) > 0 && commands[0].At < st.From { // how it came to be so is not part of it
			commands = commands[1:]
		}
		p.arrange(t, before)
		p.begin()
	}
	s, _, err := p.ask()
	if err != nil {
		t.Fatal(err)
	}
	p.held = generations(s)
	defer func() {
		p.aloneBut(t, p.since, p.late)
		p.copies.once(t, foundOnTwo(st)...)
	}()
	for _, c := range commands {
		awaited := c.Verb == "end" || c.Verb == "expect" && c.Args[0] == "well" // and no time need pass before
		if c.At > now && !awaited {
			p.lasts(c.At - now)
		}
		if now = c.At; c.Verb != "expect" {
			p.deed(t, c)
			continue
		}
		t.Log(c)
		bound := storyBound
		if c.Args[0] == "nolog" { // what was said stays said
			bound /= 10
		}
		if err := until(p.ctx, bound, func() error { return p.see(c.Args) }); err != nil {
			t.Fatalf("%s: %v", c, err)
		}
	}
	p.answers(t, 5000)
	for _, fact := range fleet.Sorted(sure) {
		if err := until(p.ctx, storyBound, func() error { return p.so(fact, sure[fact]) }); err != nil {
			t.Errorf("at the end of the story %s is %s: %v", fact, sure[fact], err)
		}
	}
	t.Logf("at its end: %v", sure)
}

// foundOnTwo are the services that a story finds on two hosts, as "service/cinder on c1 and c3".
func foundOnTwo(st sim.Story) (out []string) {
	at := map[string][]string{}
	for _, f := range st.Shape.Found {
		name, host, _ := strings.Cut(f, "@")
		at[name] = append(at[name], host)
	}
	for name, hosts := range at {
		if len(hosts) == 2 {
			out = append(out, fmt.Sprintf("service/%s on %s and %s", name, hosts[0], hosts[1]))
		}
	}
	return out
}

// arrange brings everything to where a story has it when it begins.
func (p *teller) arrange(t *testing.T, before map[string]string) {
	t.Helper()
	p.settle(t)
	for _, thing := range fleet.Sorted(before) {
		host := before[thing]
		if !strings.Contains(thing, "/") || strings.HasPrefix(thing, "fenced/") || host == "nowhere" {
			continue
		}
		err := until(p.ctx, storyBound, func() error { // what is unknown is asked for again
			s, by, err := p.ask()
			if err != nil {
				return err
			}
			if now := find(s, p.thing(thing)).Host; now == "" || now == host {
				return nil
			}
			_, err = p.lab.Run(p.ctx, by, "mainstay", "move", strings.TrimPrefix(p.thing(thing), "address/"), host, "--wait", "30s")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if lead := before["leader"]; lead != "" {
		if err := p.lead(lead); err != nil {
			t.Fatal(err)
		}
	}
	p.settle(t)
}

// settle waits until all is in order and nothing of a former story is left.
func (p *teller) settle(t *testing.T) {
	t.Helper()
	if err := until(p.ctx, storyBound, func() error { return p.see([]string{"well"}) }); err != nil {
		t.Fatal(err)
	}
}

// leave mends what a story has left broken.
func (p *teller) leave(t *testing.T) {
	if p.story == nil {
		return
	}
	p.end()
	p.policies.Wait()
	if p.idle != nil {
		p.idle.Close()
	}
	if t.Failed() {
		for _, e := range p.events() {
			t.Logf("%s %s", e.At.Format("15:04:05.000"), e.Text)
		}
	}
	for _, m := range p.lab.Hosts {
		_, healed := p.lab.Heal(p.ctx, m.Name, All)
		_, honest := p.lab.BMCFault(p.ctx, m.Name, falsebmc.Fault{})
		_, started := p.lab.Start(p.ctx, m.Name)
		var woken error
		if p.mute[m.Name] && p.do(sim.Command{Verb: "resume", Args: []string{m.Name, "all"}}) != nil { // it was stopped, not hung
			woken = p.do(sim.Command{Verb: "startagent", Args: []string{m.Name}})
		}
		if err := errors.Join(healed, honest, started, woken); err != nil {
			t.Errorf("mending %s: %v", m.Name, err)
		}
	}
}

// ask finds the leader's view, and a host that gives it.
func (p *teller) ask() (api.Status, string, error) {
	err := errors.New("nobody answers")
	for _, m := range p.lab.Hosts {
		if _, off := p.lab.HostPath(m.Name); off != nil || p.mute[m.Name] {
			continue
		}
		s, e := p.lab.SiteStatus(p.ctx, m.Name)
		if e == nil && s.View == "leader" {
			return s, m.Name, nil
		}
		if err = e; e == nil {
			err = fmt.Errorf("%s has only %s", m.Name, s.View)
		}
	}
	return api.Status{}, "", err
}

// told are the events after one, by the leader's view.
func (p *teller) told(after string) ([]fleet.Event, error) {
	_, by, err := p.ask()
	if err != nil {
		return nil, err
	}
	c, err := p.lab.APIClient(by)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	return c.Events(ctx, after, 0)
}

// events are those since the story began.
func (p *teller) events() []fleet.Event {
	list, _ := p.told(p.after) // nobody leads: nothing is told
	return list
}

// fences is whom the site has decided to fence since the story began.
func (p *teller) fences() map[string]int {
	out := map[string]int{}
	for _, e := range p.events() {
		if host, _, yes := strings.Cut(e.Text, " will be fenced"); yes {
			out[host]++
		}
	}
	return out
}

// switchedOff is how often a BMC has taken a host's power since the story began.
func (p *teller) switchedOff(host string) (int, error) {
	deeds, err := p.lab.Deeds()
	n := 0
	for _, d := range deeds {
		if d.Verb == "poweroff" && (host == "" || d.Host == host) && d.At.After(p.since) &&
			!slices.ContainsFunc(p.own, func(at time.Time) bool { return at.Equal(d.At) }) {
			n++
		}
	}
	return n, err
}

// thing is what this site calls a thing of the story.
func (p *teller) thing(name string) string {
	if other := p.things[name]; other != "" {
		return other
	}
	return name
}

// where lists who has a thing, as is seen from outside: who answers for an address on the
// wire, where the marks of a service are.
func (p *teller) where(thing string) []string {
	if name, is := strings.CutPrefix(thing, "address/"); is {
		var out []string
		for _, c := range p.wire.Claims(time.Now().Add(-10 * WireEvery)) {
			if c.Asked && c.Address == p.lab.Virtual()[name] && !slices.Contains(out, c.Host) {
				out = append(out, c.Host)
			}
		}
		return out
	}
	return p.copies.at(p.thing(thing))
}

// so says whether one fact of a story's end is true.
func (p *teller) so(fact, what string) error {
	if host, is := strings.CutPrefix(fact, "fenced/"); is {
		n, err := p.switchedOff(host)
		if err == nil && (n > 0) != (what == "yes") {
			err = fmt.Errorf("a BMC has switched it off %d times", n)
		}
		return err
	}
	have := p.where(fact)
	slices.Sort(have)
	if now := strings.Join(have, " "); now != what && (now != "" || what != "nowhere") {
		return fmt.Errorf("it is on %q", now)
	}
	return nil
}

// see says what of an expectation is not so.
func (p *teller) see(args []string) error {
	words := strings.Join(args[1:], " ")
	switch what := args[0]; {
	case strings.Contains(what, "/"):
		have := p.where(what)
		switch {
		case args[1] == "nowhere" && len(have) == 0, args[1] == "on" && slices.Equal(have, args[2:]),
			args[1] == "not" && len(have) == 1 && have[0] != args[2]:
			return nil
		}
		return fmt.Errorf("it is on %q", strings.Join(have, " "))
	case what == "on", what == "off":
		on, err := p.lab.Powered(args[1])
		if err == nil && on != (what == "on") {
			err = errors.New("it is not")
		}
		return err
	case what == "severed":
		return p.severed(args[1])
	case what == "nolog" && strings.HasSuffix(words, "falls silent"):
		now := map[string]string{}
		s, _, unled := p.ask()
		if unled == nil {
			now = generations(s)
		}
		for thing, was := range p.held {
			holder, _, _ := strings.Cut(was, ",")
			if !strings.HasPrefix(thing, "address/") || args[1] != "falls" && args[1] != holder {
				continue
			}
			if unled == nil && now[thing] != was { // it would have a new one, even if it came back
				return fmt.Errorf("%s was on %s and is on %s", thing, was, now[thing])
			}
			if have := p.where(thing); !slices.Equal(have, []string{holder}) {
				return fmt.Errorf("%s was on %s; on the wire it is on %q", thing, was, strings.Join(have, " "))
			}
		}
		return nil
	case strings.HasSuffix(words, "is switched off"):
		host, _, _ := strings.Cut(words, " ")
		if host == "is" {
			host = ""
		}
		n, err := p.switchedOff(host)
		if err == nil && (n > 0) != (what == "log") {
			err = fmt.Errorf("a BMC has switched it off %d times", n)
		}
		return err
	case what == "log", what == "nolog", what == "proof":
		if what == "proof" {
			words = args[1] + " is off: "
		}
		list, err := p.told(p.after)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(e fleet.Event) bool { return strings.Contains(e.Text, words) })
		if i >= 0 && what == "nolog" {
			return fmt.Errorf("it was said: %s", list[i].Text)
		}
		if i < 0 && what != "nolog" {
			return errors.New("nobody said so")
		}
		return nil
	}
	s, _, err := p.ask()
	if err != nil {
		return err
	}
	ok := false
	switch {
	case args[0] == "well":
		ok = p.settled(s) && len(s.Wishes) == 0
	case args[0] == "leader" && args[1] == "not":
		ok = s.Leader != args[2]
	case args[0] == "leader":
		ok = s.Leader == args[1]
	case args[0] == "wait":
		ok = slices.ContainsFunc(s.Waits, func(w fleet.Wait) bool {
			return strings.Contains(w.About+" waits for "+w.For+" ("+w.Help+")", words)
		})
	}
	if !ok {
		return fmt.Errorf("%s leads; %+v; holdings %v; waits %v; wishes %v", s.Leader, s.Hosts, generations(s), s.Waits, s.Wishes)
	}
	return nil
}

// severed opens an idle connection to an address, and once that is elsewhere says
// whether the connection still stands.
func (p *teller) severed(name string) error {
	holder := strings.Join(p.where("address/"+name), " ")
	if p.idle != nil && holder != p.from {
		if err := p.idle.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			return err
		}
		if _, err := p.idle.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("a connection to %s, which had the address, still stands", p.from)
		}
		p.idle.Close()
		p.idle = nil
	}
	if p.idle != nil {
		return nil
	}
	if holder == "" {
		return errors.New("nobody has it")
	}
	ctx, cancel := context.WithTimeout(p.ctx, time.Second)
	defer cancel()
	conn, err := p.lab.Dial(ctx, p.other(holder, p.from), "tcp", netip.AddrPortFrom(p.lab.Virtual()[name], 5000).String())
	if err != nil {
		return err
	}
	p.idle, p.from = conn, holder
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web\r\n") // and then waits
	return err
}

// lead hands the lead over, as a person does.
func (p *teller) lead(host string) error {
	return until(p.ctx, storyBound, func() error {
		s, by, err := p.ask()
		if err != nil || s.Leader == host {
			return err
		}
		if _, err = p.lab.Run(p.ctx, by, "mainstay", "voters", "lead", host); err == nil {
			err = errors.New("it does not lead yet")
		}
		return err
	})
}

// wish is a person's, told to whoever leads.
func (p *teller) wish(argv ...string) error {
	return until(p.ctx, storyBound, func() error {
		_, by, err := p.ask()
		if err != nil {
			return err
		}
		_, err = p.lab.Run(p.ctx, by, append([]string{"mainstay"}, argv...)...)
		return err
	})
}

// unitOf names the units of this machine's words.
func (p *teller) unitsOf(word string) []string {
	switch word {
	case "", "agent":
		return []string{service.AgentUnit}
	case "quorum":
		return []string{service.QuorumUnit}
	case "all":
		return []string{service.AgentUnit, service.QuorumUnit}
	case "disk":
		return []string{Disk}
	}
	return []string{p.units[word]}
}

// deed does to real hosts what one line of a story says.
func (p *teller) deed(t *testing.T, c sim.Command) {
	t.Helper()
	t.Log(c)
	if err := p.do(c); err != nil {
		t.Fatalf("%s: %v", c, err)
	}
}

func (p *teller) do(c sim.Command) error {
	host := arg(c.Args, 0)
	only := func(_ Deed, err error) error { return err }
	runs := func(argv ...string) error {
		_, err := p.lab.Run(p.ctx, host, argv...)
		return err
	}
	switch c.Verb {
	case "end":
		return nil
	case "poweroff":
		d, err := p.lab.PowerOff(p.ctx, host)
		p.own = append(p.own, d.At)
		return err
	case "kill":
		return only(p.lab.Kill(p.ctx, host))
	case "start":
		p.mute[host] = false
		return only(p.lab.Start(p.ctx, host)) // one that Mainstay has turned on is left alone
	case "shutdown":
		return p.shutDown(host)
	case "stopagent":
		p.mute[host] = true
		err := runs("systemctl", "stop", service.AgentUnit)
		if err == nil {
			return nil
		}
		// Of one that is cut off that takes its seconds, and it may be fenced meanwhile.
		return until(p.ctx, storyBound/10, func() error {
			if on, e := p.lab.Powered(host); e != nil || on {
				return errors.Join(err, e)
			}
			return nil
		})
	case "startagent":
		p.mute[host] = false
		return runs("systemctl", "start", service.AgentUnit)
	case "killagent":
		return runs("systemctl", "kill", "-s", "KILL", service.AgentUnit)
	case "killquorum":
		return runs("systemctl", "kill", "-s", "KILL", service.QuorumUnit)
	case "startquorum":
		return runs("systemctl", "start", service.QuorumUnit)
	case "crash":
		if c.Args[1] == "drbd" { // a resource agent's, and no unit
			return runs("rm", p.copies.marks["service/drbd"].file)
		}
		return runs("systemctl", "kill", "-s", "KILL", p.units[c.Args[1]])
	case "failstarts":
		return p.lab.CopyIn(host, "/run/"+c.Args[1]+".fails", []byte(c.Args[2]+"\n"), 0o644)
	case "hang", "resume":
		if c.Args[1] == "drbd" {
			return p.breaks(host)
		}
		signal := p.lab.Hang
		if c.Verb == "resume" {
			signal = p.lab.Resume
		}
		for _, what := range p.unitsOf(arg(c.Args, 1)) {
			if what == service.AgentUnit {
				p.mute[host] = c.Verb == "hang"
			}
			if on, err := p.lab.Powered(host); err != nil || !on {
				return err // it was switched off meanwhile, as in the story
			}
			if _, err := signal(p.ctx, host, what); err != nil {
				return err
			}
		}
		return nil
	case "cut":
		return only(p.lab.Cut(p.ctx, Cut{Host: host, Network: arg(c.Args, 1), Direction: Direction(arg(c.Args, 2)), Peer: arg(c.Args, 3)}))
	case "heal":
		return p.heal(host, arg(c.Args, 1))
	case "flush":
		p.late = fleet.Presets()[storyTiming].Lease + fleet.CoarseLate
		return runs("nft", "flush", "ruleset")
	case "foreign":
		verb := map[string]string{"on": "add", "off": "del"}[c.Args[2]]
		return runs("ip", "address", verb, p.lab.Virtual()[c.Args[1]].String()+"/32", "dev", "management")
	case "bmc":
		if c.Args[1] == "again" {
			p.policies.Go(func() { p.again(host) })
		}
		return only(p.lab.BMCFault(p.ctx, host, bmcFaults[c.Args[1]]))
	case "transfer":
		return p.lead(host)
	case "move":
		return until(p.ctx, storyBound, func() error { // that it is there is another line
			_, by, err := p.ask()
			if err != nil {
				return err
			}
			client, err := p.lab.APIClient(by)
			if err != nil {
				return err
			}
			defer client.Close()
			return client.Do(p.ctx, "POST", "/v1/wishes", fleet.Wish{Verb: "move", Thing: strings.TrimPrefix(p.thing(host), "address/"), To: c.Args[1]}, nil)
		})
	case "maintenance":
		return p.wish("maintenance", host, c.Args[1])
	case "disarm":
		return p.wish("disarm", host)
	case "oath": // refused while it was heard a moment ago
		return p.wish("recover", "oath", host, "--i-have-seen-that-it-is-off", "as the story says")
	}
	return errors.New("the lab does not know that word")
}

// shutDown is systemctl poweroff on a host with a logind, as nearly every host has one.
func (p *teller) shutDown(host string) error {
	for _, argv := range [][]string{{"unmask", "systemd-logind.service"}, {"start", "systemd-logind.service"}} {
		if _, err := p.lab.Run(p.ctx, host, append([]string{"systemctl"}, argv...)...); err != nil {
			return err
		}
	}
	err := until(p.ctx, storyBound, func() error {
		out, err := p.lab.Run(p.ctx, host, "systemd-inhibit", "--list")
		if err == nil && !strings.Contains(out, "Mainstay") {
			err = fmt.Errorf("no inhibitor of Mainstay in: %s", out)
		}
		return err
	})
	if err != nil {
		return err
	}
	_, err = p.lab.Run(p.ctx, host, "systemctl", "--no-block", "poweroff")
	return err
}

// breaks lets the copy of a resource agent answer with an error until it is stopped: it
// has no process that could hang.
func (p *teller) breaks(host string) error {
	state := p.copies.marks["service/drbd"].file
	if err := p.lab.CopyIn(host, state+".rc", []byte("1\n"), 0o644); err != nil {
		return err
	}
	p.policies.Go(func() {
		_ = until(p.story, storyBound, func() error { // what is not mended is not well at the end
			_, err := p.lab.Run(p.story, host, "sh", "-c", "test ! -e "+state+" && rm "+state+".rc")
			return err
		})
	})
	return nil
}

// again is a power policy that turns a host on as soon as its BMC has turned it off.
func (p *teller) again(host string) {
	err := until(p.story, storyBound, func() error {
		n, err := p.switchedOff(host)
		if err == nil && n == 0 {
			err = errors.New("it is on")
		}
		return err
	})
	if err == nil { // else nobody has switched it off
		_, _ = p.lab.Start(p.story, host) // what does not come back is not well at the end
	}
}

// heal opens every way to and from a host, also those that a cut of another host has
// shut, as in a story.
func (p *teller) heal(host, network string) error {
	if network == "" {
		network = All
	}
	if host == All {
		var errs []error
		for _, m := range p.lab.Hosts {
			_, err := p.lab.Heal(p.ctx, m.Name, network)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	cuts, err := p.lab.Cuts()
	if err != nil {
		return err
	}
	for _, c := range cuts {
		if c.Host == host || c.Peer != "" || c.Direction == Link || network != All && c.Network != network {
			continue
		}
		err := p.lab.changeCuts(p.ctx, c.Host, c.Network, func(cuts []Cut, network string) []Cut {
			cuts = slices.DeleteFunc(cuts, func(o Cut) bool { return o == c })
			for _, m := range p.lab.Hosts {
				if m.Name != host && m.Name != c.Host {
					one := c
					one.Peer = m.Name
					cuts = append(cuts, one)
				}
			}
			return cuts
		})
		if err != nil {
			return err
		}
	}
	_, err = p.lab.Heal(p.ctx, host, network)
	return err
}

// stories plays some stories of scenarios/ on a site that is not theirs: of where things
// are at the end only what never moved can be judged.
func (s *lightSite) stories(t *testing.T, names ...string) {
	var err error
	if s.wire, err = s.lab.Wire(s.lab.Virtual()["internal"], s.lab.Virtual()["public"]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.wire.Close(); err != nil {
			t.Error(err)
		}
	}()
	seen := &copies{lab: s.lab, marks: map[string]mark{"service/solo": {file: "/run/solo/copy"}}}
	seen.watch(s.ctx, t)
	all := scenarios(t)
	for _, name := range names {
		st := staged(all[name])
		before, sure := told(sim.Play(all[name]).Log, all[name].From), ending(all[name])
		maps.DeleteFunc(sure, func(fact, what string) bool {
			host, fence := strings.CutPrefix(fact, "fenced/")
			return fence && host[0] != 'c' || !fence && (before[fact] != what || fact == "service/manila")
		})
		t.Run(name, func(t *testing.T) {
			p := &teller{site: s.site, copies: seen, units: map[string]string{"keystone": benchUnit, "cinder": "solo.service"},
				things: map[string]string{"service/cinder": "service/solo"}}
			defer p.leave(t)
			p.tell(t, st, before, sure)
		})
	}
}
