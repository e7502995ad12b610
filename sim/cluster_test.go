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
	slices.SortStableFunc(st.Commands, func(a, b Command) int { return int(a.At - b.At) })
	st.Commands = slices.DeleteFunc(st.Commands, func(c Command) bool { return c.Verb == "end" })
	end.At = max(end.At, st.Commands[len(st.Commands)-1].At+time.Second)
	st.Commands = append(st.Commands, end)
	return st
}

// TestClusterSeeds: whatever happens to three members and their hosts, there is one
// primary component at most, no change is lost that a client was told is safe, one member
// joins at a time, and healed the database comes back without a person.
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
