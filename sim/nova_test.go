package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// withServers gives the story of a seed an OpenStack, whose computes are lost in every way
// while Nova is away, slow, forgetful, or does not say what it did.
func withServers(seed uint64) Story {
	st := Draw(seed)
	dice := rand.New(rand.NewPCG(seed, 0x6e6f7661))
	st.Shape.Servers = 4 + dice.IntN(9)
	st.Shape.Brokers = seed%3 == 2
	end := st.Commands[len(st.Commands)-1]
	span := func(low, top time.Duration) time.Duration {
		return low + time.Duration(dice.Int64N(int64(top-low))).Truncate(time.Microsecond)
	}
	for range 5 + dice.IntN(8) {
		t := span(20*time.Second, length-30*time.Second)
		group := 1000 + len(st.Commands)
		add := func(after time.Duration, line string) {
			words := strings.Fields(line)
			st.Commands = append(st.Commands, Command{At: t + after, Verb: words[0], Args: words[1:], Group: group})
		}
		for range 1 + dice.IntN(2) {
			h := fmt.Sprintf("n%d", 1+dice.IntN(st.Shape.Hosts))
			gap := span(0, pick(dice, time.Millisecond, time.Second, 15*time.Second))
			after := gap + span(0, pick(dice, 4*time.Second, time.Minute))
			switch dice.IntN(7) {
			case 0, 1, 2:
				add(gap, "poweroff "+h)
				add(after, "start "+h)
			case 3:
				add(gap, "kill "+h)
				add(gap+span(time.Second, 10*time.Second), "oath "+h)
				add(after+10*time.Second, "start "+h)
			case 4:
				add(gap, fmt.Sprintf("cut %s all both", h))
				add(after, "heal "+h)
			case 5:
				add(gap, fmt.Sprintf("hang %s agent", h))
				add(after, fmt.Sprintf("resume %s agent", h))
			case 6:
				add(gap, fmt.Sprintf("crash %s nova-compute", h))
			}
		}
		switch dice.IntN(8) {
		case 0, 1:
			add(span(0, 10*time.Second), pick(dice, "nova away", "nova slow"))
			add(span(10*time.Second, 40*time.Second), "nova ok")
		case 2, 3:
			add(0, fmt.Sprintf("nova lose %d", 100+dice.IntN(600)))
			add(span(10*time.Second, time.Minute), "nova ok")
		case 4:
			add(0, fmt.Sprintf("nova forget %d", 1+dice.IntN(3)))
		case 5:
			add(span(0, 8*time.Second), "transfer")
		case 6:
			c := fmt.Sprintf("c%d", 1+dice.IntN(3))
			add(span(0, 8*time.Second), "poweroff "+c)
			add(span(10*time.Second, 30*time.Second), "start "+c)
		}
	}
	if seed%2 == 0 { // with dice of their own: the others fall as they did before
		dice := rand.New(rand.NewPCG(seed, 0x6c6f7374))
		networks := []string{"management", "storage", "tenant"}[:st.Shape.Networks]
		st.Shape.Lost = map[string]fleet.Loss{}
		for _, network := range networks {
			st.Shape.Lost[network] = pick(dice, fleet.LossAlarm, fleet.LossDisable, fleet.LossEvacuate)
		}
		for range 3 + dice.IntN(6) {
			t := 20*time.Second + time.Duration(dice.Int64N(int64(length-80*time.Second))).Truncate(time.Microsecond)
			group := 2000 + len(st.Commands)
			network, way := networks[dice.IntN(len(networks))], pick(dice, "in", "out", "both")
			first := dice.IntN(st.Shape.Hosts)
			for i := range pick(dice, 1, 1, 1, st.Shape.Hosts) {
				h := fmt.Sprintf("n%d", 1+(first+i)%st.Shape.Hosts)
				back := t + time.Duration(dice.Int64N(int64(pick(dice, 20*time.Second, 80*time.Second))))
				st.Commands = append(st.Commands, Command{At: t, Verb: "cut", Args: []string{h, network, way}, Group: group},
					Command{At: back.Truncate(time.Microsecond), Verb: "heal", Args: []string{h}, Group: group})
			}
		}
	}
	if seed%5 == 3 {
		// Room for one or two more than there are: of a dead compute some have nowhere to go.
		st.Shape.Room = (st.Shape.Servers-1)/st.Shape.Hosts + 2
	}
	if seed%4 == 1 { // the same: guests crash, each twice at most, or are shut down, and a nova-compute hangs
		dice := rand.New(rand.NewPCG(seed, 0x67756573))
		for range 2 + dice.IntN(4) {
			t := 20*time.Second + time.Duration(dice.Int64N(int64(length-60*time.Second))).Truncate(time.Microsecond)
			group := 3000 + len(st.Commands)
			add := func(line string) {
				words := strings.Fields(line)
				st.Commands = append(st.Commands, Command{At: t, Verb: words[0], Args: words[1:], Group: group})
			}
			id := 1 + dice.IntN(st.Shape.Servers)
			switch dice.IntN(6) {
			case 0:
				add(fmt.Sprintf("nova deaf n%d", 1+dice.IntN(st.Shape.Hosts)))
			case 1:
				add(fmt.Sprintf("guest s%d shutdown", id))
			case 2:
				add(fmt.Sprintf("guest s%d curse 1", id))
				add(fmt.Sprintf("guest s%d crash", id))
			default:
				add(fmt.Sprintf("guest s%d crash", id))
			}
		}
	}
	if seed%3 != 2 {
		drained(&st, seed)
	}
	st.Shape.Rebalance = seed%6 == 4
	if seed%4 >= 2 && st.Shape.Room == 0 { // and these with theirs
		withOwners(&st, rand.New(rand.NewPCG(seed, 0x6f776e65)))
	}
	if seed%8 == 5 && len(st.Shape.Reserved) == 0 { // and these with theirs
		onTheirHosts(&st, rand.New(rand.NewPCG(seed, 0x6469736b)))
	}
	if seed%7 == 4 {
		withAgents(&st, rand.New(rand.NewPCG(seed, 0x716761)))
	}
	slices.SortStableFunc(st.Commands, func(a, b Command) int { return int(a.At - b.At) })
	st.Commands = slices.DeleteFunc(st.Commands, func(c Command) bool { return c.Verb == "end" })
	end.At = max(end.At, st.Commands[len(st.Commands)-1].At+time.Second)
	st.Commands = append(st.Commands, end)
	return st
}

// drained has computes of a story drained, by a person or for a lost network, with dice of its
// own; and source or target lost, restarted or cut off while a guest is on its way.
func drained(st *Story, seed uint64) {
	dice := rand.New(rand.NewPCG(seed, 0x647261696e))
	span := func(low, top time.Duration) time.Duration {
		return low + time.Duration(dice.Int64N(int64(top-low))).Truncate(time.Microsecond)
	}
	if st.Shape.Lost == nil {
		st.Shape.Lost = map[string]fleet.Loss{}
	}
	for _, network := range []string{"storage", "tenant"}[:st.Shape.Networks-1] {
		if dice.IntN(2) == 0 {
			st.Shape.Lost[network] = fleet.LossDrain
		}
	}
	for range 3 + dice.IntN(5) {
		t := span(20*time.Second, length-90*time.Second)
		group := 3000 + len(st.Commands)
		add := func(after time.Duration, line string) {
			words := strings.Fields(line)
			st.Commands = append(st.Commands, Command{At: t + after, Verb: words[0], Args: words[1:], Group: group})
		}
		i := dice.IntN(st.Shape.Hosts)
		h, other := fmt.Sprintf("n%d", 1+i), fmt.Sprintf("n%d", 1+(i+1+dice.IntN(max(1, st.Shape.Hosts-1)))%st.Shape.Hosts)
		begin := time.Duration(0)
		if dice.IntN(3) == 0 && st.Shape.Networks > 1 {
			begin = 30 * time.Second
			add(0, fmt.Sprintf("cut %s %s both", h, networkNames[1+dice.IntN(st.Shape.Networks-1)]))
			add(span(20*time.Second, 85*time.Second), "heal "+h)
		} else {
			add(0, fmt.Sprintf("maintenance %s on drain", h))
			add(span(5*time.Second, 85*time.Second), fmt.Sprintf("maintenance %s off", h))
		}
		for range 1 + dice.IntN(3) {
			lost := begin + span(0, 30*time.Second)
			switch dice.IntN(8) {
			case 0, 1:
				add(lost, "poweroff "+h)
				add(lost+span(0, 20*time.Second), pick(dice, "start "+h, fmt.Sprintf("start %s quick", h)))
			case 2, 3:
				add(lost, "poweroff "+other)
				add(lost+span(0, 20*time.Second), pick(dice, "start "+other, fmt.Sprintf("start %s quick", other)))
			case 4:
				add(lost, fmt.Sprintf("crash %s nova-compute", pick(dice, h, other)))
			case 5:
				add(lost, pick(dice, "transfer", fmt.Sprintf("nova forget %d", 1+dice.IntN(2))))
			case 6:
				add(lost, fmt.Sprintf("nova break %d", 200+dice.IntN(600)))
				add(lost+span(0, 30*time.Second), "nova ok")
			case 7:
				add(lost, fmt.Sprintf("nova lose %d", 200+dice.IntN(700)))
				add(lost+span(0, 30*time.Second), "nova ok")
			}
		}
	}
}

// onTheirHosts has the servers' disks on their hosts, of which snapshots are made, fail and are restored while
// hosts stay away for longer than they are waited for, and Glance is away.
func onTheirHosts(st *Story, dice *rand.Rand) {
	span := func(low, top time.Duration) time.Duration {
		return low + time.Duration(dice.Int64N(int64(top-low))).Truncate(time.Microsecond)
	}
	st.Shape.Local = pick(dice, "150s/60s", "3m/1m30s", "4m/60s")
	for i := range st.Shape.Servers {
		switch dice.IntN(8) {
		case 0:
			st.Shape.Meta = append(st.Shape.Meta, fmt.Sprintf("s%d.Snapshot=%s", i+1, pick(dice, "False", "100s", "1s", "often")))
		case 1:
			st.Shape.Meta = append(st.Shape.Meta, fmt.Sprintf("s%d.Rebuild=True", i+1))
		}
	}
	for range 3 + dice.IntN(4) {
		t := span(60*time.Second, length-90*time.Second)
		group := 5000 + len(st.Commands)
		add := func(after time.Duration, line string) {
			words := strings.Fields(line)
			st.Commands = append(st.Commands, Command{At: t + after, Verb: words[0], Args: words[1:], Group: group})
		}
		h := fmt.Sprintf("n%d", 1+dice.IntN(st.Shape.Hosts))
		switch dice.IntN(6) {
		case 0, 1, 2: // it does not boot again before its time is over
			add(0, "poweroff "+h)
			add(span(2500*time.Millisecond, 5*time.Second), fmt.Sprintf("bmc %s dead", h))
			back := span(20*time.Second, 4*time.Minute)
			add(back, fmt.Sprintf("bmc %s ok", h))
			add(back, "start "+h)
			if dice.IntN(2) == 0 {
				add(span(60*time.Second, 110*time.Second), pick(dice, "transfer", fmt.Sprintf("nova lose %d", 200+dice.IntN(700)), fmt.Sprintf("poweroff n%d", 1+dice.IntN(st.Shape.Hosts))))
				add(2*time.Minute, "nova ok")
			}
		case 3:
			add(0, "nova blind")
			add(span(10*time.Second, 100*time.Second), "nova ok")
		case 4:
			add(0, fmt.Sprintf("nova spoil %d", 1+dice.IntN(3)))
		case 5:
			add(0, pick(dice, "transfer", "poweroff "+h))
			add(span(time.Second, 20*time.Second), "start "+h)
		}
	}
}

// withOwners lets owners say in which order their servers are recovered, well or badly, and keeps the
// last compute in reserve; some servers are so large that two do not fit on one host.
func withOwners(st *Story, dice *rand.Rand) {
	groups, large := []string{"db", "app", "web"}, 0
	for i := range st.Shape.Servers {
		say := func(key, value string) {
			st.Shape.Meta = append(st.Shape.Meta, fmt.Sprintf("s%d.%s=%s", i+1, key, value))
		}
		say("Project", pick(dice, "a", "a", "b"))
		if dice.IntN(4) > 0 {
			k := dice.IntN(len(groups))
			say("Group", groups[k])
			switch {
			case dice.IntN(8) == 0:
				say("After", pick(dice, "web", "web,app", "db", "nosuch", "no!")) // perhaps in a circle
			case k > 0:
				say("After", groups[k-1])
			}
			if dice.IntN(2) == 0 {
				say("Ready", pick(dice, "tcp:5432", "http:8080/healthz", "tcp:none"))
			}
		}
		switch dice.IntN(5) {
		case 0:
			say("Priority", pick(dice, "7", "-1", "high"))
		case 1:
			if large++; large <= 2 { // more would fit nowhere when a host is lost
				say("RAM", "20000")
			}
		case 2:
			say("locked", "hands-off")
		}
	}
	st.Shape.Reserved = []string{fmt.Sprintf("n%d", st.Shape.Hosts)}
	add := func(line string) {
		words := strings.Fields(line)
		at := 20*time.Second + time.Duration(dice.Int64N(int64(length-50*time.Second))).Truncate(time.Microsecond)
		st.Commands = append(st.Commands, Command{At: at, Verb: words[0], Args: words[1:], Group: 3000 + len(st.Commands)})
	}
	for range 2 + dice.IntN(6) {
		add(fmt.Sprintf("nova halve %d", 1+dice.IntN(2)))
		add(fmt.Sprintf("nova %s s%d", pick(dice, "shut", "open", "lock"), 1+dice.IntN(st.Shape.Servers)))
		add(fmt.Sprintf("nova %s s%d", pick(dice, "shut", "open"), 1+dice.IntN(st.Shape.Servers)))
	}
}

var onlyDisks = flag.Bool("disks", false, "of TestServerSeeds, only the sites whose servers have their disks on their hosts")

// TestServerSeeds: whatever happens to computes, leaders and Nova, no server runs twice, none
// leaves a host that is on, none is evacuated while it is on its way, and healed each is
// as its owner wants it, asked for in the order that he named and locked by him alone, without a person.
func TestServerSeeds(t *testing.T) {
	n := uint64(max(1, *seeds/6))
	if testing.Short() {
		n = 1
	}
	for seed := *first; seed < *first+n; seed++ {
		if *onlyDisks && withServers(seed).Shape.Local == "" {
			continue
		}
		if r := Play(withServers(seed)); r.Violation != nil {
			small := Shrink(withServers(seed))
			r := Play(small)
			t.Errorf("seed %d: %s: %s\nshrunk to this story:\n\n%s%s", seed, r.Violation.Audit, r.Violation.Text, small.Write(), strings.Join(r.Log[max(0, len(r.Log)-100):], "\n"))
			return
		}
	}
}

// withAgents gives servers guest agents, by which some are seen to be alive and others to be ready; guests hang alone and
// together, go on by themselves, are locked, and are quiesced for a snapshot.
func withAgents(st *Story, dice *rand.Rand) {
	span := func(low, top time.Duration) time.Duration {
		return low + time.Duration(dice.Int64N(int64(top-low))).Truncate(time.Microsecond)
	}
	said := strings.Join(st.Shape.Meta, " ") + " "
	for i := range st.Shape.Servers {
		say := func(key, value string) {
			st.Shape.Meta = append(st.Shape.Meta, fmt.Sprintf("s%d.%s=%s", i+1, key, value))
		}
		if dice.IntN(4) > 0 {
			say("Alive", pick(dice, "agent", "agent", "agent:90s", "agents"))
		}
		if dice.IntN(2) == 0 && !strings.Contains(said, fmt.Sprintf("s%d.Ready=", i+1)) {
			say("Ready", pick(dice, "agent", "agent", "tcp:22"))
		}
	}
	for range 3 + dice.IntN(5) {
		t := span(90*time.Second, length-90*time.Second)
		group := 6000 + len(st.Commands)
		add := func(after time.Duration, line string) {
			words := strings.Fields(line)
			st.Commands = append(st.Commands, Command{At: t + after, Verb: words[0], Args: words[1:], Group: group})
		}
		i := dice.IntN(st.Shape.Servers)
		g := fmt.Sprintf("guest s%d ", 1+i)
		switch dice.IntN(8) {
		case 0, 1, 2:
			add(0, g+pick(dice, "hang", "hang", "mute"))
			switch dice.IntN(6) {
			case 0:
				add(span(0, 70*time.Second), fmt.Sprintf("poweroff n%d", 1+dice.IntN(st.Shape.Hosts)))
			case 1:
				add(span(30*time.Second, 65*time.Second), pick(dice, "transfer", fmt.Sprintf("nova lose %d", 300+dice.IntN(700)), "nova slow", g+"curse 1", fmt.Sprintf("crash n%d nova-compute", 1+dice.IntN(st.Shape.Hosts))))
				add(80*time.Second, "nova ok")
			case 2:
				add(span(30*time.Second, 65*time.Second), fmt.Sprintf("nova lock s%d", 1+i))
			case 3:
				add(span(30*time.Second, 65*time.Second), g+"crash")
			}
		case 3, 4: // it goes on by itself, at any time
			add(0, g+"hang")
			add(span(5*time.Second, 100*time.Second), g+"wake")
		case 5: // a snapshot quiesces it
			add(0, g+"task image_snapshot")
			add(0, g+"hang")
			end := span(20*time.Second, 3*time.Minute)
			add(end, g+"wake")
			add(end, g+"task none")
		case 6, 7: // several at once
			for range 2 + dice.IntN(3) {
				add(span(0, 8*time.Second), fmt.Sprintf("guest s%d hang", 1+dice.IntN(st.Shape.Servers)))
			}
		}
	}
}
