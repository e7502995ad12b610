package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// withBrokers gives the story of a seed a RabbitMQ, whose nodes crash, hang, fall out of
// their cluster and lose their host's power together, besides.
func withBrokers(seed uint64) Story {
	st := Draw(seed)
	st.Shape.Brokers = true
	dice := rand.New(rand.NewPCG(seed, 0x6d71))
	end := st.Commands[len(st.Commands)-1]
	for range 6 + dice.IntN(10) {
		t := 20*time.Second + time.Duration(dice.Int64N(int64(length-30*time.Second))).Truncate(time.Microsecond)
		group := 2000 + len(st.Commands)
		add := func(after time.Duration, line string) {
			words := strings.Fields(line)
			st.Commands = append(st.Commands, Command{At: t + after.Truncate(time.Microsecond), Verb: words[0], Args: words[1:], Group: group})
		}
		for _, i := range dice.Perm(3)[:1+dice.IntN(3)] {
			host := fmt.Sprintf("c%d", i+1)
			gap := time.Duration(dice.Int64N(int64(pick(dice, time.Millisecond, time.Second, 10*time.Second))))
			later := gap + time.Duration(dice.Int64N(int64(20*time.Second)))
			switch dice.IntN(5) {
			case 0:
				add(gap, "kill "+host)
				add(later, "start "+host)
			case 1:
				add(gap, "cut "+host+" all both")
				add(later, "heal "+host+" all")
			case 2:
				add(gap, "outside "+host)
			case 3:
				add(gap, "hang "+host+" mq")
			default:
				add(gap, "crash "+host+" mq")
			}
		}
	}
	slices.SortStableFunc(st.Commands, func(a, b Command) int { return int(a.At - b.At) })
	st.Commands = slices.DeleteFunc(st.Commands, func(c Command) bool { return c.Verb == "end" })
	end.At = max(end.At, st.Commands[len(st.Commands)-1].At+time.Second)
	st.Commands = append(st.Commands, end)
	return st
}

// TestBrokerSeeds: whatever happens to three nodes and their hosts, messages are taken in
// one place only, none is lost that was confirmed, one step is taken at a time, and healed
// the cluster is whole again without a person.
func TestBrokerSeeds(t *testing.T) {
	n := uint64(max(1, *seeds/6))
	if testing.Short() {
		n = 1
	}
	for seed := *first; seed < *first+n; seed++ {
		if r := Play(withBrokers(seed)); r.Violation != nil {
			t.Errorf("seed %d: %s: %s\n%s", seed, r.Violation.Audit, r.Violation.Text, strings.Join(r.Log[max(0, len(r.Log)-60):], "\n"))
			return
		}
	}
}
