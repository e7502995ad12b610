package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// length is how long a seed's story lasts before everything heals.
const length = 10 * time.Minute

// Draw makes the story of a seed: a site and at least twenty faults over ten
// minutes, in bursts, so that they meet each other.
func Draw(seed uint64) Story {
	d := drawer{dice: rand.New(rand.NewPCG(seed, 0x7365656473)), off: map[string]bool{}}
	st := &d.story
	st.Title = fmt.Sprintf("Seed %d", seed)
	st.Seed, st.Skips, st.Heals = seed, true, true
	sh := &st.Shape
	// A second of the fast ones costs ten times as much, and holds ten times as much.
	switch n := d.dice.IntN(32); {
	case n < 18:
		sh.Timing = "slow"
	case n < 29:
		sh.Timing = "wide"
	case n < 31:
		sh.Timing = "room"
	default:
		sh.Timing = "rack"
	}
	sh.Voters = pick(d.dice, 3, 3, 3, 3, 3, 3, 5, 5, 5, 7)
	sh.Hosts = 10 - sh.Voters + d.dice.IntN(2)
	sh.Networks = pick(d.dice, 2, 2, 3)
	sh.Clocks = pick(d.dice, int64(0), 100, 20000, 45000)
	sh.OnFailure = pick(d.dice, fleet.FailMove, fleet.FailMove, fleet.FailMove, fleet.FailBlock, fleet.FailFence)
	sh.Restarts = 2 + d.dice.IntN(3)
	if d.dice.IntN(3) == 0 {
		sh.Found = append(sh.Found, fmt.Sprintf("cinder@c%d", 1+d.dice.IntN(3)))
	}
	if d.dice.IntN(3) == 0 {
		sh.Found = append(sh.Found, fmt.Sprintf("manila@n%d", 1+d.dice.IntN(2)))
	}
	if sh.Promoted = seed%3 == 0; sh.Promoted && d.dice.IntN(3) == 0 {
		sh.Found = append(sh.Found, fmt.Sprintf("drbd@c%d", 1+d.dice.IntN(3)))
	}
	if seed%5 == 1 {
		sh.Levels = 2
	}
	if sh.Mirror = seed%6 == 3; sh.Mirror && seed%18 == 9 {
		sh.Copies = 2 // as DRBD 8.4 has it
	}
	if d.dice.IntN(8) == 0 {
		st.Coarse = append(st.Coarse, fmt.Sprintf("c%d", 1+d.dice.IntN(3)))
	}
	d.lease = timings()[sh.Timing].Lease
	for i := range sh.Voters {
		d.voters = append(d.voters, fmt.Sprintf("c%d", i+1))
	}
	d.hosts = append(d.hosts, d.voters...)
	for i := range sh.Hosts {
		d.hosts = append(d.hosts, fmt.Sprintf("n%d", i+1))
	}
	d.nets = append(d.nets, networkNames[:sh.Networks]...)
	// The first burst may meet the site while it is being set up.
	bursts := 4 + d.dice.IntN(3)
	for b := range bursts {
		span := length / time.Duration(bursts)
		t := time.Duration(b)*span + d.between(0, span/2)
		if b == 0 && d.dice.IntN(4) > 0 {
			t = 20 * time.Second
		}
		for range (20+bursts-1)/bursts + d.dice.IntN(3) {
			d.fault(t)
			t += pick(d.dice, 0, d.between(0, d.lease/4), d.between(0, d.lease), d.between(0, 4*d.lease), d.between(0, 4*time.Second))
		}
	}
	if d.dice.IntN(4) == 0 { // the last throws: seeds of before mean what they meant
		d.watchdogs()
	}
	if sh.Mirror {
		d.mirrors()
	}
	if sh.Copies > 0 {
		d.twoCopies()
	}
	for len(st.Commands) < 20 { // whoever may not be paused has lost those
		d.group++
		h, t := d.victim(), d.between(20*time.Second, length*9/10)
		d.add(t, "killagent "+h)
		d.add(t+d.between(0, 4*time.Second), "startagent "+h)
	}
	slices.SortStableFunc(st.Commands, func(a, b Command) int { return int(a.At - b.At) })
	st.Commands = append(st.Commands, Command{At: max(length, st.Commands[len(st.Commands)-1].At+time.Second), Verb: "end"})
	return *st
}

// watchdogs gives every host one. A machine that can be paused must not have one
// (rule 7), so nobody is suspended.
func (d *drawer) watchdogs() {
	st := &d.story
	st.Shape.Watchdog = pick(d.dice, 5*time.Second, 5*time.Second, 10*time.Second)
	st.Commands = slices.DeleteFunc(st.Commands, func(c Command) bool { return c.Verb == "suspend" || c.Verb == "wake" })
	for range 2 + d.dice.IntN(3) {
		// An agent that is frozen before a kick, and its host cut off meanwhile, for long
		// enough to outlive the contract or not.
		d.group++
		h, t := d.victim(), d.between(20*time.Second, length*9/10)
		d.add(t, fmt.Sprintf("freezekick %s %s", h, d.between(0, st.Shape.Watchdog)))
		d.add(t+d.between(0, st.Shape.Watchdog/5), fmt.Sprintf("cut %s all both", h))
		d.add(t+st.Shape.Watchdog+d.between(0, 25*time.Second), "heal "+h)
		if d.dice.IntN(2) == 0 {
			d.add(t, fmt.Sprintf("bmc %s dead", h))
			d.add(t+st.Shape.Watchdog+d.between(20*time.Second, 40*time.Second), fmt.Sprintf("bmc %s ok", h))
		}
	}
}

// mirrors parts copies of the mirrored disk, and takes the power of one of them while they
// are apart or when they may just have met again.
func (d *drawer) mirrors() {
	for range 3 + d.dice.IntN(3) {
		d.group++
		h, v := pick(d.dice, d.voters[:3]...), pick(d.dice, d.voters[:3]...)
		t := d.between(20*time.Second, length*9/10)
		heal := t + d.between(0, 20*time.Second)
		line := fmt.Sprintf("cut %s %s both", h, networkNames[mirrorNet])
		if h != v {
			line += " " + v
		}
		d.add(t, line)
		d.add(heal, "heal "+h)
		lost := t + d.between(0, 25*time.Second)
		d.add(lost, "poweroff "+v)
		d.add(lost+d.between(5*time.Second, 30*time.Second), "start "+v)
	}
}

// twoCopies lets what was drawn for a copy on another host happen to one of the two.
func (d *drawer) twoCopies() {
	st := &d.story
	for i, found := range st.Shape.Found {
		st.Shape.Found[i] = strings.Replace(found, "drbd@c3", "drbd@c1", 1)
	}
	for _, c := range st.Commands {
		if !slices.Contains(c.Args, "drbd") && !slices.Contains(c.Args, "service/drbd") {
			continue
		}
		for i, host := range c.Args {
			if n := slices.Index(d.voters, host); n >= 0 {
				c.Args[i] = d.voters[n%2]
			}
		}
	}
}

type drawer struct {
	dice   *rand.Rand
	story  Story
	lease  time.Duration
	hosts  []string
	voters []string
	nets   []string
	group  int
	off    map[string]bool
	added  int
}

func pick[T any](dice *rand.Rand, from ...T) T { return from[dice.IntN(len(from))] }

func (d *drawer) between(low, top time.Duration) time.Duration {
	if top <= low {
		return low
	}
	return low + time.Duration(d.dice.Int64N(int64(top-low))).Truncate(time.Microsecond)
}

func (d *drawer) add(t time.Duration, line string) {
	words := strings.Fields(line)
	d.story.Commands = append(d.story.Commands, Command{At: t.Truncate(time.Microsecond), Verb: words[0], Args: words[1:], Group: d.group})
}

// lasts draws how long a fault lasts: shorter than a lease, about one, or long.
func (d *drawer) lasts() time.Duration {
	return pick(d.dice, d.between(0, d.lease), d.between(d.lease/2, 2*d.lease), d.between(d.lease, 6*d.lease), d.between(2*time.Second, 15*time.Second))
}

// victim prefers those who hold something.
func (d *drawer) victim() string {
	if d.dice.IntN(3) > 0 {
		return d.hosts[d.dice.IntN(3)] // c1 to c3 hold the most
	}
	return pick(d.dice, d.hosts...)
}

func (d *drawer) service() (host, name string) {
	switch d.dice.IntN(4) {
	case 0:
		return fmt.Sprintf("n%d", 1+d.dice.IntN(2)), "manila"
	case 1:
		if d.story.Shape.Promoted {
			return pick(d.dice, d.voters...), "drbd"
		}
		return pick(d.dice, d.voters...), "keystone"
	}
	return pick(d.dice, d.voters...), "cinder"
}

// fault adds one fault and its end.
func (d *drawer) fault(t time.Duration) {
	d.group++
	h, v := d.victim(), pick(d.dice, d.voters...)
	end := t + d.lasts()
	both := func(begin, finish string) {
		d.add(t, begin)
		d.add(end, finish)
	}
	switch d.dice.IntN(37) {
	case 0, 1, 2:
		d.add(t, "poweroff "+h)
		d.add(end+d.between(0, 20*time.Second), "start "+h)
	case 3, 4:
		d.add(t, "kill "+h)
		if d.dice.IntN(3) == 0 {
			d.add(t+d.between(time.Second, 8*time.Second), "oath "+h)
		}
		d.add(end+d.between(0, 20*time.Second), "start "+h)
	case 5:
		d.add(t, "poweroff "+h)
		d.add(t+d.between(0, d.lease/4), "start "+h+" quick")
	case 6, 7, 8:
		both("hang "+h+" agent", "resume "+h+" agent")
	case 9:
		if d.dice.IntN(3) == 0 {
			both("hang "+h+" addresses", "resume "+h+" addresses")
			return
		}
		both("hang "+v+" quorum", "resume "+v+" quorum")
	case 10:
		both("hang "+h+" all", "resume "+h+" all")
	case 11:
		both("hang "+v+" disk", "resume "+v+" disk")
	case 12:
		both("suspend "+h, "wake "+h)
	case 13:
		both("killagent "+h, "startagent "+h)
	case 14:
		both("killquorum "+v, "startquorum "+v)
	case 15, 16, 17, 18, 19:
		net := pick(d.dice, append([]string{"all", "all"}, d.nets...)...)
		way := pick(d.dice, "both", "both", "in", "out", "link")
		line := fmt.Sprintf("cut %s %s %s", h, net, way)
		if way != "link" && d.dice.IntN(3) == 0 {
			if peer := pick(d.dice, d.voters...); peer != h {
				line += " " + peer
			}
		}
		both(line, "heal "+h)
	case 20, 21:
		net := pick(d.dice, append([]string{"all"}, d.nets...)...)
		kind := pick(d.dice, "loss 100", "loss 500", "double 300", "late 100", "late 500")
		both(fmt.Sprintf("weather %s %s", net, kind), fmt.Sprintf("weather %s calm", net))
	case 22:
		host, name := d.service()
		d.add(t, fmt.Sprintf("crash %s %s", host, name))
	case 23:
		host, name := d.service()
		if d.dice.IntN(2) == 0 {
			d.add(t, fmt.Sprintf("failstarts %s %s %d", host, name, 1+d.dice.IntN(5)))
		} else {
			d.add(t, fmt.Sprintf("%s %s %s", pick(d.dice, "slowstarts", "deafstops"), host, name))
		}
		d.add(t, fmt.Sprintf("crash %s %s", host, name))
	case 24:
		host, name := d.service()
		both(fmt.Sprintf("hang %s %s", host, name), fmt.Sprintf("resume %s %s", host, name))
	case 25:
		// A fence that meets a bad device: the host is lost as well.
		d.add(t, fmt.Sprintf("bmc %s %s", h, pick(d.dice, "dead", "lose", "slow", "swapped", "again")))
		d.add(t, fmt.Sprintf("cut %s all both", h))
		d.add(end, "heal "+h)
		d.add(end+d.between(0, 20*time.Second), fmt.Sprintf("bmc %s ok", h))
	case 26:
		d.add(t, "flush "+h)
		if d.dice.IntN(2) == 0 {
			both("hang "+h+" agent", "resume "+h+" agent")
		}
	case 27:
		d.add(t, fmt.Sprintf("freezenext %s %s", h, d.lasts()))
	case 28:
		a := pick(d.dice, "internal", "public")
		both(fmt.Sprintf("deaf %s %s on", h, a), fmt.Sprintf("deaf %s %s off", h, a))
	case 29:
		a := pick(d.dice, "internal", "public")
		both(fmt.Sprintf("foreign %s %s on", h, a), fmt.Sprintf("foreign %s %s off", h, a))
	case 30:
		thing := pick(d.dice, "address/internal", "address/public", "service/cinder")
		if thing == "service/cinder" && d.story.Shape.Promoted {
			thing = "service/drbd" // what it stands on
		}
		d.add(t, fmt.Sprintf("move %s %s", thing, v))
	case 31:
		both(fmt.Sprintf("maintenance %s on", h), fmt.Sprintf("maintenance %s off", h))
	case 32:
		if d.dice.IntN(3) == 0 {
			both("disarm on", "disarm off")
		} else {
			d.add(t, "transfer")
		}
	case 33:
		if d.added < 2 {
			d.added++
			d.add(t, fmt.Sprintf("voters add n%d", 1+d.added))
			return
		}
		d.add(t, "transfer "+v)
	case 34, 35:
		d.add(t, "shutdown "+h)
		d.add(end+d.between(0, 30*time.Second), "start "+h)
	case 36:
		both("stopagent "+h, "startagent "+h)
	}
}

// Shrink drops from a failing story whatever it fails without, and returns what
// is left.
func Shrink(st Story) Story {
	fails := func(x Story) bool {
		r := Play(x)
		return r.Violation != nil
	}
	for again := true; again; {
		again = false
		groups := map[int]bool{}
		for _, c := range st.Commands {
			groups[c.Group] = true
		}
		var order []int
		for g := range groups {
			order = append(order, g)
		}
		slices.Sort(order)
		for _, g := range order {
			x := st
			x.Commands = slices.DeleteFunc(slices.Clone(st.Commands), func(c Command) bool { return c.Group == g && c.Verb != "end" })
			if len(x.Commands) < len(st.Commands) && fails(x) {
				st, again = x, true
			}
		}
	}
	for i := 0; i < len(st.Commands)-1; {
		x := st
		x.Commands = slices.Delete(slices.Clone(st.Commands), i, i+1)
		if fails(x) {
			st = x
		} else {
			i++
		}
	}
	return st
}
