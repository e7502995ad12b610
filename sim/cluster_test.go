package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// withCluster gives the story of a seed a database, whose members crash, hang, forget whom
// they last saw, and lose their host's power together, besides.
func withCluster(seed uint64) Story {
	st := Draw(seed)
	st.Shape.Cluster = true
	dice := rand.New(rand.NewPCG(seed, 0x6462))
	end := st.Commands[len(st.Commands)-1]
	for range 6 + dice.IntN(10) {
		t := 20*time.Second + time.Duration(dice.Int64N(int64(length-30*time.Second))).Truncate(time.Microsecond)
		group := 1000 + len(st.Commands)
		add := func(after time.Duration, line string) {
			words := strings.Fields(line)
			st.Commands = append(st.Commands, Command{At: t + after.Truncate(time.Microsecond), Verb: words[0], Args: words[1:], Group: group})
		}
		some := dice.Perm(3)[:1+dice.IntN(3)]
		for _, i := range some {
			host := fmt.Sprintf("c%d", i+1)
			gap := time.Duration(dice.Int64N(int64(pick(dice, time.Millisecond, time.Second, 10*time.Second))))
			switch dice.IntN(4) {
			case 0:
				add(gap, "kill "+host)
				add(gap+time.Duration(dice.Int64N(int64(20*time.Second))), "start "+host)
			case 1:
				add(gap, "crash "+host+" db")
			default:
				add(gap, "crash "+host+" db")
				add(gap, "loseview "+host)
			}
		}
	}
	// The last throws: seeds of before mean what they meant, but for those whose members
	// hang as well, half of all.
	for range dice.IntN(2) * (4 + dice.IntN(5)) {
		t := 20*time.Second + time.Duration(dice.Int64N(int64(length-80*time.Second))).Truncate(time.Microsecond)
		group := 1000 + len(st.Commands)
		hung := dice.Perm(3)[:pick(dice, 1, 1, 2, 3)]
		for _, i := range hung {
			host := fmt.Sprintf("c%d", i+1)
			gap := time.Duration(dice.Int64N(int64(pick(dice, 10*time.Millisecond, 3*time.Second, 20*time.Second)))).Truncate(time.Microsecond)
			st.Commands = append(st.Commands, Command{At: t + gap, Verb: "hang", Args: []string{host, "db"}, Group: group})
			if len(hung) > 1 || dice.IntN(3) == 0 { // where all hang a person waits
				back := time.Duration(dice.Int64N(int64(40 * time.Second))).Truncate(time.Microsecond)
				st.Commands = append(st.Commands, Command{At: t + gap + back, Verb: "resume", Args: []string{host, "db"}, Group: group})
			}
		}
		for _, i := range dice.Perm(3)[:dice.IntN(3)] { // not a few of the others die at about the same time
			gap := time.Duration(dice.Int64N(int64(12 * time.Second))).Truncate(time.Microsecond)
			st.Commands = append(st.Commands, Command{At: t + gap, Verb: "crash", Args: []string{fmt.Sprintf("c%d", i+1), "db"}, Group: group})
		}
	}
	if seed%4 == 2 {
		st.Commands = append(st.Commands, waived(seed)...)
	}
	slices.SortStableFunc(st.Commands, func(a, b Command) int { return int(a.At - b.At) })
	st.Commands = slices.DeleteFunc(st.Commands, func(c Command) bool { return c.Verb == "end" })
	end.At = max(end.At, st.Commands[len(st.Commands)-1].At+time.Second)
	st.Commands = append(st.Commands, end)
	return st
}

// waived lets the member with the last change lose its power and the others crash; a
// person swears it off and gives up what it has, early or late, twice as one would who saw
// nothing happen; it comes back while they begin, or when they are far ahead, and at times
// all crash once more before it has a copy of theirs.
func waived(seed uint64) (out []Command) {
	dice := rand.New(rand.NewPCG(seed, 0x776f7264))
	for n := range 1 + dice.IntN(3) {
		group := 2000 + n
		t := 25*time.Second + time.Duration(dice.Int64N(int64(length-3*time.Minute))).Truncate(time.Microsecond)
		add := func(after time.Duration, line string) {
			words := strings.Fields(line)
			out = append(out, Command{At: t + after.Truncate(time.Microsecond), Verb: words[0], Args: words[1:], Group: group})
		}
		within := func(most time.Duration) time.Duration { return time.Duration(dice.Int64N(int64(most))) }
		victim := pick(dice, "c1", "c1", "c2", "c3")
		fall := func(after time.Duration) {
			for _, host := range []string{"c1", "c2", "c3"} {
				if host != victim {
					add(after, "crash "+host+" db")
					add(after, "loseview "+host)
				}
			}
		}
		add(0, "kill "+victim)
		fall(0)
		word := within(20 * time.Second)
		for _, again := range []time.Duration{0, 5 * time.Second} {
			add(word+again, "oath "+victim)
			add(word+again+time.Second, "without "+victim)
		}
		back := word + within(pick(dice, 10*time.Second, time.Minute))
		add(back, "start "+victim)
		if dice.IntN(2) == 0 {
			fall(back + within(20*time.Second))
		}
	}
	return out
}

// TestClusterSeeds: whatever happens to three members and their hosts, there is one
// primary component at most, no change is lost that a client was told is safe, one member
// joins at a time, and healed the database comes back without a person. What was given up on
// a person's word is in nobody's data afterwards.
func TestClusterSeeds(t *testing.T) {
	n := uint64(max(1, *seeds/6))
	if testing.Short() {
		n = 1
	}
	killed := 0
	for seed := *first; seed < *first+n; seed++ {
		r := Play(withCluster(seed))
		if r.Violation != nil {
			t.Errorf("seed %d: %s: %s\n%s", seed, r.Violation.Audit, r.Violation.Text, strings.Join(r.Log[max(0, len(r.Log)-60):], "\n"))
			return
		}
		for _, line := range r.Log {
			if strings.Contains(line, "the member of db on ") {
				killed++
			}
		}
	}
	t.Logf("%d sites, on which a member that hung was killed %d times", n, killed)
	if n >= 50 && killed == 0 {
		t.Error("none was")
	}
}
