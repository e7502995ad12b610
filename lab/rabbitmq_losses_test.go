package lab

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	rabbitLosses  = flag.Int("rabbitmq-losses", 0, "lose the node that leads the queue in each way, so often: make lab-rabbitmq-losses ROUNDS=10")
	rabbitShipped = flag.Bool("rabbitmq-shipped", false, "the same with RabbitMQ's own time-outs, but for net_ticktime")
)

// TestRabbitLosses measures for how long a loss stands in a client's way, when the lost node
// is the one that led the queue: another has to be chosen.
func TestRabbitLosses(t *testing.T) {
	if *rabbitLosses == 0 {
		t.Log("not played: ten rounds take a quarter of an hour; make lab-rabbitmq-losses")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
	defer cancel()
	password := rand.Text()
	files := rabbitTestFiles(password)
	if *rabbitShipped {
		delete(files, "/etc/rabbitmq/advanced.config")
	}
	s := deploySite(ctx, t, Config{Name: "losses", Suite: *rabbitSuite, Hosts: []Host{{Name: "c1"}, {Name: "c2"}, {Name: "c3"}}, Disk: 3 << 30, Files: files},
		SiteConfig{Services: rabbitServices, Timing: "wide"})
	r := &rabbitSite{site: s, password: password}
	r.whole(t)
	r.begin(t)
	faults := []struct {
		name string
		play func(*testing.T, string) time.Time
	}{{"killed", r.kill}, {"hung", r.hang}, {"cut off", r.cutOff}, {"power lost", r.powerOff}}
	all, worst, whole := map[string][]time.Duration{}, map[string][]time.Duration{}, map[string][]time.Duration{}
	for range *rabbitLosses {
		for _, f := range faults {
			host := r.leads(t)
			from := f.play(t, host)
			r.whole(t)
			to := time.Now()
			r.traffic.delivered(t)
			one := time.Duration(0)
			for _, name := range r.names() {
				one = max(one, r.traffic.longest(name, from, to))
			}
			all[f.name] = append(all[f.name], r.traffic.longest("", from, to))
			worst[f.name] = append(worst[f.name], one)
			whole[f.name] = append(whole[f.name], to.Sub(from).Round(100*time.Millisecond))
			t.Logf("%s, %s, at %s: %v of all clients, %v of the worst, whole again after %v", f.name, host, from.Format("15:04:05"), last(all[f.name]), one, last(whole[f.name]))
			r.within(t, f.name+", longest time without a confirm", last(all[f.name]), 0, rabbitLoss)
		}
	}
	r.end(t)
	for _, f := range faults {
		t.Logf("%s: longest time without a confirm, median and worst: of all clients %s; of one %s; whole again after %s", f.name, spread(all[f.name]), spread(worst[f.name]), spread(whole[f.name]))
	}
}

func last(of []time.Duration) time.Duration { return of[len(of)-1] }

// leads is the host whose node leads the queue.
func (r *rabbitSite) leads(t *testing.T) string {
	t.Helper()
	var queues []struct{ Name, Leader string }
	err := until(r.ctx, siteBound, func() error {
		out, err := r.lab.Run(r.ctx, r.other(""), "rabbitmqctl", "-q", "--formatter", "json", "list_queues", "name", "leader")
		if err == nil {
			err = json.Unmarshal([]byte(out), &queues)
		}
		if err == nil && !slices.ContainsFunc(queues, func(q struct{ Name, Leader string }) bool { return q.Name == rabbitQueue && q.Leader != "" }) {
			err = fmt.Errorf("nobody leads: %s", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range queues {
		if q.Name == rabbitQueue {
			return strings.TrimPrefix(q.Leader, "rabbit@")
		}
	}
	return ""
}

// hang stops a node's process, until the others no longer count it.
func (r *rabbitSite) hang(t *testing.T, host string) time.Time {
	t.Helper()
	at := time.Now()
	r.deed(t)(r.lab.Hang(r.ctx, host, "rabbitmq-server.service"))
	r.unseen(t, r.other(host), host)
	r.traffic.flows(t, at, r.names()...)
	return at
}
