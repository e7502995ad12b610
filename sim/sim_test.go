package sim

import (
	"testing"
	"time"
)

func TestQuick(t *testing.T) {
	began := time.Now()
	r := play(script{shape: Shape{Timing: "room", Voters: 3, Hosts: 4, Networks: 2}, seed: 1, commands: []command{
		{at: 10 * second, verb: "expect", args: []string{"well"}},
		{at: 20 * second, verb: "poweroff", args: []string{"c1"}},
		{at: 30 * second, verb: "end"},
	}})
	for _, l := range r.Log {
		t.Log(l)
	}
	t.Log(r.Virtual, r.Played, r.Events, r.Turns, time.Since(began), r.Guards)
}
