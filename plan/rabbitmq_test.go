package plan

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// rabbits is a site at rest whose three hosts run one RabbitMQ cluster.
func rabbits() fleet.World {
	w := small()
	w.Told = map[string]fleet.Moment{}
	w.Spec.Services = []fleet.Service{{Name: "rabbitmq", Kind: "rabbitmq", Mode: fleet.ActiveActive, Units: []string{"rabbitmq-server.service"},
		Roles: []string{"controller"}, Restarts: fleet.Restarts{Count: 5, Within: 10 * time.Minute}}}
	delete(w.State.Holdings, "service/s")
	for i := 1; i <= 3; i++ {
		rabbitIs(w, i, fleet.Running, "123", "123", time.Hour)
	}
	return w
}

// rabbitIs says what node N says: its members and those that it sees running, by number,
// and for how long it has.
func rabbitIs(w fleet.World, n int, phase, members, running string, age time.Duration) {
	names := func(numbers string) string {
		var out []string
		for _, c := range numbers {
			out = append(out, fmt.Sprintf("rabbit@c%c", c))
		}
		return strings.Join(out, " ")
	}
	host := fmt.Sprintf("c%d", n)
	r := w.Reports[host]
	r.Wall = w.Wall
	r.Services = map[string]fleet.ServiceState{"rabbitmq": {Phase: phase, Ready: phase == fleet.Running, Peers: fleet.Peers{
		Self: fmt.Sprintf("rabbit@c%d", n), Members: names(members), Running: names(running), Since: w.Wall.Add(-age),
	}}}
	w.Reports[host] = r
	w.Told[host] = w.Now
}

func rabbitAnd(w fleet.World, host string, change func(*fleet.ServiceState)) {
	s := w.Reports[host].Services["rabbitmq"]
	change(&s)
	w.Reports[host].Services["rabbitmq"] = s
}

// tends writes the orders of a plan to RabbitMQ, and "wait HOST" for what waits.
func tends(p fleet.Plan) []string {
	var out []string
	for _, o := range p.Orders {
		if o.Thing == "service/rabbitmq" {
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s: %s %s %s", o.To, o.Verb, o.Step, strings.TrimPrefix(o.With, "rabbit@"))))
		}
	}
	for _, r := range p.Records {
		if r.Value == nil {
			out = append(out, "-"+r.Key)
		}
	}
	for _, x := range p.Waits {
		word := "wait " + strings.TrimPrefix(x.About, "rabbitmq@")
		if strings.Contains(x.For, "is not known") {
			word += " not known"
		}
		out = append(out, word)
	}
	return out
}

func TestRabbit(t *testing.T) {
	const long, short = time.Hour, time.Second
	restarts := func(n int) func(*fleet.ServiceState) { return func(s *fleet.ServiceState) { s.Restarts = n } }
	reset := func(host string) func(fleet.World) {
		return func(w fleet.World) {
			w.State.Wishes["reset-rabbitmq"] = fleet.Wish{ID: "reset-rabbitmq", Verb: "reset", Thing: "service/rabbitmq", Host: host, By: "ann", At: w.Wall}
		}
	}
	for _, c := range []struct {
		name   string
		change func(fleet.World)
		want   []string
	}{
		{"at rest", func(fleet.World) {}, nil},
		{"a node is dead with its host", func(w fleet.World) {
			delete(w.Reports, "c3")
			rabbitIs(w, 1, fleet.Running, "123", "12", long)
			rabbitIs(w, 2, fleet.Running, "123", "12", long)
		}, nil},
		{"a stopped node is started", func(w fleet.World) { rabbitIs(w, 3, fleet.Stopped, "123", "123", short) }, []string{"c3: start"}},
		{"all are stopped: they start together", func(w fleet.World) {
			for i := 1; i <= 3; i++ {
				rabbitIs(w, i, fleet.Stopped, "123", "123", short)
			}
		}, []string{"c1: start", "c2: start", "c3: start"}},
		{"a hung node is restarted", func(w fleet.World) {
			rabbitAnd(w, "c2", func(s *fleet.ServiceState) { s.Stuck = true })
			rabbitAnd(w, "c3", func(s *fleet.ServiceState) { s.Stuck = true })
		}, []string{"c2: restart", "wait c2"}},

		// Formed and grown, one at a time.
		{"three of their own: the first one founds", func(w fleet.World) {
			for i := 1; i <= 3; i++ {
				rabbitIs(w, i, fleet.Running, fmt.Sprint(i), fmt.Sprint(i), long)
			}
		}, []string{"c2: tend join c1", "wait c2"}},
		{"one joins, the next waits", func(w fleet.World) {
			for i := 1; i <= 3; i++ {
				rabbitIs(w, i, fleet.Running, fmt.Sprint(i), fmt.Sprint(i), long)
			}
			w.Flights["x"] = fleet.Flight{Order: fleet.Order{Key: "x", Verb: fleet.VerbTend, Step: fleet.StepJoin, To: "c2", Thing: "service/rabbitmq"}, Sent: w.Now.Add(-time.Minute)}
		}, []string{"wait c2"}},
		{"the larger one is joined, whoever is first", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "1", "1", long)
			rabbitIs(w, 2, fleet.Running, "23", "23", long)
			rabbitIs(w, 3, fleet.Running, "23", "23", long)
		}, []string{"c1: tend join c2", "wait c1"}},
		{"two clusters: a person", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "14", "14", long)
			rabbitIs(w, 2, fleet.Running, "23", "23", long)
			rabbitIs(w, 3, fleet.Running, "23", "23", long)
		}, []string{"wait c1"}},
		{"a node of another cluster that runs is a person's", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "12", "12", long)
			rabbitIs(w, 2, fleet.Running, "12", "12", long)
			rabbitIs(w, 3, fleet.Running, "123", "3", long)
		}, []string{"wait c3"}},
		{"in maintenance nothing is done to it", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "12", "12", long)
			rabbitIs(w, 2, fleet.Running, "12", "12", long)
			rabbitIs(w, 3, fleet.Running, "3", "3", long)
			w.State.Wishes["maintenance-c3"] = fleet.Wish{ID: "maintenance-c3", Verb: "maintenance", Host: "c3"}
		}, nil},
		{"in maintenance it is not restarted", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "12", long)
			rabbitIs(w, 2, fleet.Running, "123", "12", long)
			rabbitIs(w, 3, fleet.Running, "123", "3", 2*apartFor)
			rabbitAnd(w, "c3", func(s *fleet.ServiceState) { s.Stuck = true })
			w.State.Wishes["maintenance-c3"] = fleet.Wish{ID: "maintenance-c3", Verb: "maintenance", Host: "c3"}
		}, nil},
		{"in maintenance it is not the one to go first", func(w fleet.World) {
			for i := 1; i <= 3; i++ {
				rabbitIs(w, i, fleet.Starting, "123", "123", 2*waitFor)
			}
			w.State.Wishes["maintenance-c1"] = fleet.Wish{ID: "maintenance-c1", Verb: "maintenance", Host: "c1"}
		}, []string{"c2: tend force-start", "wait c2"}},
		{"disarmed: nothing is moved about", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "12", "12", long)
			rabbitIs(w, 2, fleet.Running, "12", "12", long)
			rabbitIs(w, 3, fleet.Running, "3", "3", long)
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, nil},

		// The ladder for one node.
		{"cut off a moment ago: wait", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "12", short)
			rabbitIs(w, 2, fleet.Running, "123", "12", short)
			rabbitIs(w, 3, fleet.Running, "123", "3", short)
		}, []string{"wait c3"}},
		{"it is back this moment, and the others do not know it yet", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "12", long)
			rabbitIs(w, 2, fleet.Running, "123", "12", long)
			rabbitIs(w, 3, fleet.Running, "123", "123", short)
		}, []string{"wait c3"}},
		{"those that lead have only now found each other", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "1", long)
			rabbitIs(w, 2, fleet.Running, "123", "23", short)
			rabbitIs(w, 3, fleet.Running, "123", "23", short)
		}, []string{"wait c1"}},
		{"it is cut off from us too: what it said before leads nobody", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "12", 2*apartFor)
			rabbitIs(w, 2, fleet.Running, "123", "12", 2*apartFor)
			silent(w, "c3", time.Second)
		}, nil},
		{"its host beats, and its agent has said nothing for long", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "1", 2*apartFor)
			rabbitIs(w, 2, fleet.Running, "123", "23", long)
			rabbitIs(w, 3, fleet.Running, "123", "23", long)
			w.Told["c2"], w.Told["c3"] = w.Now.Add(-2*staleAfter), w.Now.Add(-2*staleAfter)
		}, nil},
		{"outside for long: restart", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "12", long)
			rabbitIs(w, 2, fleet.Running, "123", "12", long)
			rabbitIs(w, 3, fleet.Running, "123", "3", 2*apartFor)
		}, []string{"c3: restart", "wait c3"}},
		{"its start does not end: restart", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "12", long)
			rabbitIs(w, 2, fleet.Running, "123", "12", long)
			rabbitIs(w, 3, fleet.Starting, "123", "123", 2*apartFor)
		}, []string{"c3: restart", "wait c3"}},
		{"restarted in vain: wait once more", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "12", long)
			rabbitIs(w, 2, fleet.Running, "123", "12", long)
			rabbitIs(w, 3, fleet.Starting, "123", "123", 2*apartFor)
			rabbitAnd(w, "c3", restarts(restartsMost))
		}, []string{"wait c3"}},
		{"in vain for long: replace", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "12", long)
			rabbitIs(w, 2, fleet.Running, "123", "12", long)
			rabbitIs(w, 3, fleet.Starting, "123", "123", 2*replaceFor)
			rabbitAnd(w, "c3", restarts(restartsMost))
		}, []string{"c3: tend replace c1", "wait c3"}},
		{"it fails again and again: replace", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "12", long)
			rabbitIs(w, 2, fleet.Running, "123", "12", long)
			rabbitIs(w, 3, fleet.Failed, "123", "123", 2*replaceFor)
			rabbitAnd(w, "c3", restarts(5))
		}, []string{"c3: tend replace c1", "wait c3"}},
		{"the only other one has gone: no majority, so nothing is forgotten", func(w fleet.World) {
			delete(w.Reports, "c2")
			rabbitIs(w, 1, fleet.Running, "123", "1", long)
			rabbitIs(w, 3, fleet.Starting, "123", "123", 2*replaceFor)
			rabbitAnd(w, "c3", restarts(restartsMost))
		}, []string{"wait c3"}},
		{"of two, none is a majority that could do without the other", func(w fleet.World) {
			delete(w.Reports, "c3")
			rabbitIs(w, 1, fleet.Running, "12", "1", long)
			rabbitIs(w, 2, fleet.Starting, "12", "12", 2*replaceFor)
			rabbitAnd(w, "c2", restarts(restartsMost))
		}, []string{"wait c2"}},
		{"a partition that goes on on both sides: the smaller is restarted", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "1", long)
			rabbitIs(w, 2, fleet.Running, "123", "23", long)
			rabbitIs(w, 3, fleet.Running, "123", "23", long)
		}, []string{"c1: restart", "wait c1"}},
		{"forgotten: it begins anew", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "12", "12", long)
			rabbitIs(w, 2, fleet.Running, "12", "12", long)
			rabbitIs(w, 3, fleet.Starting, "123", "123", 2*settleFor)
		}, []string{"c3: tend reset", "wait c3"}},
		{"forgotten a moment ago: they may only not agree yet", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "12", "12", long)
			rabbitIs(w, 2, fleet.Running, "12", "12", long)
			rabbitIs(w, 3, fleet.Starting, "123", "123", short)
		}, nil},
		{"a new machine under an old name: replace", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "12", long)
			rabbitIs(w, 2, fleet.Running, "123", "12", long)
			rabbitIs(w, 3, fleet.Running, "3", "3", long)
		}, []string{"c3: tend replace c1", "wait c3"}},
		{"the same, but the others are no majority", func(w fleet.World) {
			delete(w.Reports, "c2")
			rabbitIs(w, 1, fleet.Running, "123", "1", long)
			rabbitIs(w, 3, fleet.Running, "3", "3", long)
		}, nil},

		// After a loss of power of all.
		{"all wait for each other: they may", func(w fleet.World) {
			for i := 1; i <= 3; i++ {
				rabbitIs(w, i, fleet.Starting, "123", "123", short)
			}
		}, []string{"wait c1"}},
		{"one does not come back: the first of those that saw each other last", func(w fleet.World) {
			delete(w.Reports, "c3")
			rabbitIs(w, 1, fleet.Starting, "123", "123", 2*waitFor)
			rabbitIs(w, 2, fleet.Starting, "123", "123", 2*waitFor)
		}, []string{"c1: tend force-start", "wait c1"}},
		{"not one that another outlived", func(w fleet.World) {
			delete(w.Reports, "c3")
			rabbitIs(w, 1, fleet.Starting, "123", "123", 2*waitFor)
			rabbitIs(w, 2, fleet.Starting, "123", "23", 2*waitFor)
		}, []string{"c2: tend force-start", "wait c2"}},
		{"each says that the other outlived it: a person", func(w fleet.World) {
			delete(w.Reports, "c3")
			rabbitIs(w, 1, fleet.Starting, "123", "13", 2*waitFor)
			rabbitIs(w, 2, fleet.Starting, "123", "23", 2*waitFor)
		}, []string{"wait c1"}},
		{"a minority never goes first", func(w fleet.World) {
			delete(w.Reports, "c3")
			delete(w.Reports, "c2")
			rabbitIs(w, 1, fleet.Starting, "123", "123", 2*waitFor)
		}, []string{"wait c1"}},
		{"one of two neither", func(w fleet.World) {
			delete(w.Reports, "c3")
			delete(w.Reports, "c2")
			rabbitIs(w, 1, fleet.Starting, "12", "12", 2*waitFor)
		}, []string{"wait c1"}},
		{"whom it saw last is not known: none goes first", func(w fleet.World) {
			delete(w.Reports, "c3")
			rabbitIs(w, 1, fleet.Starting, "123", "123", 2*waitFor)
			rabbitIs(w, 2, fleet.Starting, "123", "", 2*waitFor)
		}, []string{"wait c1 not known"}},
		{"one runs: nobody is forced", func(w fleet.World) {
			delete(w.Reports, "c3")
			rabbitIs(w, 1, fleet.Starting, "123", "123", 2*waitFor)
			rabbitIs(w, 2, fleet.Running, "123", "2", 2*waitFor)
		}, []string{"c1: restart", "wait c1"}},

		// Nobody goes on.
		{"two have paused and one waits for them: one is restarted", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "", 2*apartFor)
			rabbitIs(w, 2, fleet.Starting, "123", "123", 2*apartFor)
			rabbitIs(w, 3, fleet.Running, "123", "", 2*apartFor)
		}, []string{"c1: restart", "wait c1"}},
		{"they paused a moment ago", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "", short)
			rabbitIs(w, 3, fleet.Running, "123", "", short)
			delete(w.Reports, "c2")
		}, []string{"wait c1", "wait c3"}},
		{"one has paused alone: its majority is away", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "", 2*apartFor)
			delete(w.Reports, "c2")
			delete(w.Reports, "c3")
		}, nil},
		{"paused, and restarted in vain: a person", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "", 2*apartFor)
			rabbitAnd(w, "c1", restarts(restartsMost))
			rabbitIs(w, 3, fleet.Running, "123", "", short)
			delete(w.Reports, "c2")
		}, []string{"wait c1", "wait c3"}},
		{"what it said grows old between two reports", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Running, "123", "12", long)
			rabbitIs(w, 2, fleet.Running, "123", "12", long)
			rabbitIs(w, 3, fleet.Running, "123", "3", apartFor-500*time.Millisecond)
			w.Told["c3"] = w.Now.Add(-600 * time.Millisecond)
		}, []string{"c3: restart", "wait c3"}},

		{"one runs: nobody is forced, though the others wait for it in vain", func(w fleet.World) {
			rabbitIs(w, 1, fleet.Starting, "123", "123", 2*waitFor)
			rabbitIs(w, 2, fleet.Running, "123", "2", 2*waitFor)
			rabbitIs(w, 3, fleet.Starting, "123", "123", 2*waitFor)
			rabbitAnd(w, "c1", restarts(restartsMost))
			rabbitAnd(w, "c3", restarts(restartsMost))
		}, []string{"wait c1", "wait c3"}},
		{"they do not agree who is a member: a person", func(w fleet.World) {
			delete(w.Reports, "c3")
			rabbitIs(w, 1, fleet.Starting, "123", "123", 2*waitFor)
			rabbitIs(w, 2, fleet.Starting, "12", "12", 2*waitFor)
		}, []string{"wait c1"}},

		// A person's word.
		{"reset of all", reset(""), []string{"c1: tend reset", "c2: tend reset", "c3: tend reset", "wait service/rabbitmq"}},
		{"reset of all, one is away", func(w fleet.World) { reset("")(w); delete(w.Reports, "c3") },
			[]string{"wait service/rabbitmq"}},
		{"reset of all, done", func(w fleet.World) {
			reset("")(w)
			for i := 1; i <= 3; i++ {
				key := fmt.Sprintf("reset/rabbitmq/c%d/reset-rabbitmq-%d", i, w.Wall.UnixMilli())
				w.Flights[key] = fleet.Flight{Order: fleet.Order{Key: key}, Effect: &fleet.Effect{Outcome: fleet.Done}, Arrived: w.Now}
			}
		}, []string{"-wish/reset-rabbitmq"}},
		{"reset of all, done but for one that is away", func(w fleet.World) {
			reset("")(w)
			delete(w.Reports, "c3")
			for i := 1; i <= 2; i++ {
				key := fmt.Sprintf("reset/rabbitmq/c%d/reset-rabbitmq-%d", i, w.Wall.UnixMilli())
				w.Flights[key] = fleet.Flight{Order: fleet.Order{Key: key}, Effect: &fleet.Effect{Outcome: fleet.Done}, Arrived: w.Now}
			}
		}, []string{"wait service/rabbitmq"}},
		{"reset of one", reset("c2"), []string{"c2: tend abandon c1", "wait service/rabbitmq"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := rabbits()
			c.change(w)
			_, p := Turn(w)
			if diff := cmp.Diff(c.want, tends(p)); diff != "" {
				t.Errorf("wanted, and got:\n%s\n%+v", diff, p.Waits)
			}
		})
	}
}
