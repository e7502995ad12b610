package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var (
	rabbitLab   = flag.Bool("rabbitmq", false, "play the faults of a RabbitMQ cluster: make lab-rabbitmq")
	rabbitSuite = flag.String("rabbitmq-suite", DefaultSuite, "with the RabbitMQ of this Debian")
)

// rabbitServices run RabbitMQ, and nothing that would hide what becomes of it.
const rabbitServices = `  haproxy: {}
  memcached: {}
  rabbitmq: {params: {user: mainstay, password_file: /etc/mainstay/rabbitmq.password}, listen: {port: 5673, backend: 5672, protocol: tcp, addresses: [internal]}}
`

// rabbitTestFiles are rabbitFiles, and what the clients here need.
func rabbitTestFiles(password string) map[string]File {
	files := rabbitFiles(password, "nova")
	files["/etc/memcached.conf"] = File{Data: []byte("-l 0.0.0.0\n-p 11211\n-U 0\n-u memcache\n-m 32\n-t 1\n-P /run/memcached/memcached.pid\n")}
	files["/usr/local/bin/rabbitmq-bare"] = File{Data: []byte(bareRabbit), Mode: 0o755}
	files["/usr/local/bin/cache-client"] = File{Data: []byte(cacheClient), Mode: 0o755}
	return files
}

// TestRabbitMQ lets a RabbitMQ cluster form itself and then plays what befalls it, on
// Debian's own server. All the while three clients publish to a quorum queue, and note
// what was confirmed; a fourth consumes. At the end of each step all that was confirmed
// must have been delivered.
func TestRabbitMQ(t *testing.T) {
	if !*rabbitLab {
		t.Log("not played: it takes twenty minutes; make lab-rabbitmq")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Minute)
	defer cancel()
	password := rand.Text()
	s := deploySite(ctx, t, Config{Name: "rabbit", Suite: *rabbitSuite, Hosts: []Host{{Name: "c1"}, {Name: "c2"}, {Name: "c3"}}, Disk: 3 << 30, Files: rabbitTestFiles(password)},
		SiteConfig{Services: rabbitServices, Timing: "wide"})
	r := &rabbitSite{site: s, password: password}

	t.Run("three nodes form one cluster, with the policy", r.formed)
	t.Run("check tells what would let it come apart", r.checked)
	r.begin(t)
	r.step(t, "node killed", rabbitLoss, r.killed)
	r.step(t, "node hung", rabbitLoss, r.hung)
	r.step(t, "host cut off", rabbitLoss, r.cut)
	r.step(t, "R2 cut off again while it recovers", 0, r.cutTwice)
	r.step(t, "host loses power", rabbitLoss, r.poweredOff)
	r.step(t, "all lose power at once", 0, r.allOff)
	r.step(t, "R5 all lose power and one does not come back", 0, r.oneAway)
	r.step(t, "a node loses its data", rabbitLoss, r.emptied)
	r.end(t)
	t.Run("a person resets all", r.reset)
	t.Run("a memcached that is gone stalls nobody", r.cache)
}

type rabbitSite struct {
	*site
	password string
	traffic  *rabbitTraffic
}

// byAddress is the client that knows the site's address only, and HAProxy behind it.
const byAddress = "internal"

func (r *rabbitSite) address(host string) string {
	if host == byAddress {
		return net.JoinHostPort(r.lab.Virtual()[byAddress].String(), "5673")
	}
	for _, m := range r.lab.Hosts {
		if m.Name == host {
			return net.JoinHostPort(m.Addresses["management"].V4.Addr().String(), "5672")
		}
	}
	return ""
}

// whole waits until all hosts say that their nodes are ready, and each node that it sees all.
func (r *rabbitSite) whole(t *testing.T) {
	t.Helper()
	r.await(t, "all to be well", r.settled)
	err := until(r.ctx, siteBound, func() error {
		for _, m := range r.lab.Hosts {
			dir, err := r.lab.HostPath(m.Name)
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(dir + "/var/lib/rabbitmq/mnesia/rabbit@" + m.Name + "/nodes_running_at_shutdown")
			if err != nil {
				return err
			}
			if n := strings.Count(string(raw), "rabbit@"); n != len(r.lab.Hosts) {
				return fmt.Errorf("%s sees %d nodes running: %s", m.Name, n, raw)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rabbitSite) formed(t *testing.T) {
	begun := time.Now()
	r.whole(t)
	t.Logf("one cluster %v after all nodes ran", time.Since(begun).Round(time.Second))
	out := r.run(t, "c3", "rabbitmqctl", "-q", "--formatter", "json", "cluster_status")
	for _, want := range []string{`"rabbit@c1"`, `"rabbit@c2"`, `"partitions":{}`} {
		if !strings.Contains(out, want) {
			t.Errorf("cluster_status does not say %s:\n%s", want, out)
		}
	}
	want := 1
	if strings.HasPrefix(r.run(t, "c2", "rabbitmqctl", "-q", "version"), "4.") {
		want = 0 // it mirrors no queues
	}
	if out := r.run(t, "c2", "rabbitmqctl", "-q", "list_policies"); strings.Count(out, "mainstay-mirror") != want {
		t.Errorf("not %d policies for mirrored queues:\n%s", want, out)
	}
}

func (r *rabbitSite) checked(t *testing.T) {
	out, err := r.lab.Run(r.ctx, "c2", "sh", "-c", `cp /etc/rabbitmq/rabbitmq.conf /tmp/good && echo 'cluster_partition_handling = ignore' >>/etc/rabbitmq/rabbitmq.conf
		mainstay check; cp /tmp/good /etc/rabbitmq/rabbitmq.conf`)
	if err != nil || !strings.Contains(out, "cluster_partition_handling is ignore") {
		t.Errorf("check: %v\n%s", err, out)
	}
}

// step plays a fault, until all is well again and what was confirmed is delivered. promised
// is for how long all clients may have nothing confirmed; 0: nothing is promised.
func (r *rabbitSite) step(t *testing.T, name string, promised time.Duration, play func(*testing.T) time.Time) {
	t.Run(name, func(t *testing.T) {
		defer func() { // or the next step says nothing
			for _, m := range r.lab.Hosts {
				_, healed := r.lab.Heal(r.ctx, m.Name, All)
				_, started := r.lab.Start(r.ctx, m.Name)
				if err := errors.Join(healed, started); err != nil {
					t.Error(err)
				}
			}
		}()
		from := play(t)
		r.whole(t)
		t.Logf("whole again %v after the fault", time.Since(from).Round(100*time.Millisecond))
		r.traffic.delivered(t)
		to := time.Now()
		r.traffic.gaps(t, from, to)
		if promised > 0 {
			r.within(t, "longest time without a confirm", r.traffic.longest("", from, to), 0, promised)
		}
	})
}

func (r *rabbitSite) killed(t *testing.T) time.Time { return r.kill(t, "c1") }

func (r *rabbitSite) kill(t *testing.T, host string) time.Time {
	t.Helper()
	at := time.Now()
	r.run(t, host, "systemctl", "kill", "-s", "KILL", "rabbitmq-server.service")
	r.unseen(t, r.other(host), host)
	r.traffic.flows(t, at, r.names()...)
	return at
}

func (r *rabbitSite) hung(t *testing.T) time.Time {
	at := time.Now()
	r.deed(t)(r.lab.Hang(r.ctx, "c2", "rabbitmq-server.service"))
	// It goes on by nobody's hand but Mainstay's, which ends it.
	err := until(r.ctx, siteBound, func() error {
		out, err := r.lab.Run(r.ctx, "c1", "mainstay", "events", "-n", "100")
		if err == nil && !strings.Contains(out, "it is hung") {
			err = errors.New("nobody has called it hung")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func (r *rabbitSite) cut(t *testing.T) time.Time { return r.cutOff(t, "c3") }

// cutOff cuts a host off until the others have gone on without it, and heals the cut.
func (r *rabbitSite) cutOff(t *testing.T, host string) time.Time {
	t.Helper()
	at := time.Now()
	r.deed(t)(r.lab.Cut(r.ctx, Cut{Host: host, Network: All, Direction: Both}))
	r.unseen(t, r.other(host), host)
	r.paused(t, host)
	r.traffic.flows(t, at, r.but(host)...)
	r.deed(t)(r.lab.Heal(r.ctx, host, All))
	return at
}

// unseen waits until a node no longer counts another as running.
func (r *rabbitSite) unseen(t *testing.T, host, other string) {
	t.Helper()
	err := until(r.ctx, siteBound, func() error {
		if r.sees(t, host, other) {
			return fmt.Errorf("%s still sees %s running", host, other)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// paused waits until a node that was cut off has noticed it. One that was just being taken
// in again writes down no more whom it sees.
func (r *rabbitSite) paused(t *testing.T, host string) {
	t.Helper()
	err := until(r.ctx, siteBound, func() error {
		out, err := r.lab.Run(r.ctx, host, "rabbitmqctl", "eval", "rabbit:is_running().")
		if err == nil && strings.TrimSpace(out) != "false" && r.sees(t, host, r.other(host)) {
			err = fmt.Errorf("%s runs on as if it saw %s: %s", host, r.other(host), out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rabbitSite) cutTwice(t *testing.T) time.Time {
	at := r.cut(t)
	back := time.Now()
	err := until(r.ctx, siteBound, func() error { // the moment at which it is being taken in again
		if !r.sees(t, "c3", "c1") {
			return errors.New("c3 is not yet back")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("cut again %v after the first cut was healed", time.Since(back).Round(100*time.Millisecond))
	r.cutOff(t, "c3")
	return at
}

// sees says whether a node counts another as running.
func (r *rabbitSite) sees(t *testing.T, host, other string) bool {
	t.Helper()
	dir, err := r.lab.HostPath(host)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(dir + "/var/lib/rabbitmq/mnesia/rabbit@" + host + "/nodes_running_at_shutdown")
	return err == nil && strings.Contains(string(raw), "rabbit@"+other)
}

func (r *rabbitSite) poweredOff(t *testing.T) time.Time { return r.powerOff(t, "c1") }

func (r *rabbitSite) powerOff(t *testing.T, host string) time.Time {
	t.Helper()
	at := time.Now()
	r.deed(t)(r.lab.Kill(r.ctx, host))
	r.traffic.flows(t, at, r.but(host)...)
	r.deed(t)(r.lab.Start(r.ctx, host))
	return at
}

func (r *rabbitSite) allOff(t *testing.T) time.Time {
	for _, m := range r.lab.Hosts {
		r.deed(t)(r.lab.Kill(r.ctx, m.Name))
	}
	at := time.Now()
	for _, m := range r.lab.Hosts {
		r.deed(t)(r.lab.Start(r.ctx, m.Name))
	}
	last := time.Now()
	r.traffic.flows(t, at, "c1", "c2", "c3")
	r.within(t, "service back after the last host's start", r.traffic.first(last), 0, rabbitOutage)
	return at
}

func (r *rabbitSite) oneAway(t *testing.T) time.Time {
	for _, m := range r.lab.Hosts {
		r.deed(t)(r.lab.Kill(r.ctx, m.Name))
	}
	at := time.Now()
	r.deed(t)(r.lab.Start(r.ctx, "c1"))
	r.deed(t)(r.lab.Start(r.ctx, "c2"))
	last := time.Now()
	r.traffic.flows(t, at, "c1", "c2")
	r.within(t, "service back after the last host's start, one of three away", r.traffic.first(last), rabbitWaits, rabbitOutage)
	r.deed(t)(r.lab.Start(r.ctx, "c3"))
	return at
}

func (r *rabbitSite) emptied(t *testing.T) time.Time {
	at := time.Now()
	// Mainstay starts it again, perhaps while its data are being removed: then it is
	// stopped once more.
	r.run(t, "c3", "sh", "-c", "systemctl kill -s KILL rabbitmq-server; rm -rf /var/lib/rabbitmq/mnesia/rabbit@c3; systemctl kill -s KILL rabbitmq-server; rm -rf /var/lib/rabbitmq/mnesia/rabbit@c3")
	err := until(r.ctx, siteBound, func() error {
		out, err := r.lab.Run(r.ctx, "c1", "mainstay", "events", "-n", "100")
		if err == nil && !strings.Contains(out, "it has lost its data") {
			err = errors.New("nobody has noticed that c3 lost its data")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func (r *rabbitSite) reset(t *testing.T) {
	begun := time.Now()
	r.run(t, "c2", "mainstay", "recover", "rabbitmq", "--all", "--messages-may-be-lost", "a test")
	err := until(r.ctx, siteBound, func() error {
		out, err := r.lab.Run(r.ctx, "c2", "mainstay", "events", "-n", "100")
		if err == nil && !strings.Contains(out, "service/rabbitmq is reset as") {
			err = errors.New("it is not yet reset")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r.whole(t)
	t.Logf("an empty cluster %v after the word", time.Since(begun).Round(time.Second))
	if out := r.run(t, "c1", "rabbitmqctl", "-q", "list_queues", "name"); strings.Contains(out, rabbitQueue) {
		t.Errorf("the queue is still there:\n%s", out)
	}
}

const (
	rabbitQueue    = "orders"
	rabbitEvery    = 50 * time.Millisecond
	rabbitPatience = 2 * time.Second // of a client for one answer
)

// rabbitTraffic is what the clients outside do and see.
type rabbitTraffic struct {
	r      *rabbitSite
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu        sync.Mutex
	confirmed map[string]time.Time
	got       map[string]bool
	times     map[string][]time.Time // of confirms, by the host that the client prefers
}

func (r *rabbitSite) begin(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(r.ctx)
	w := &rabbitTraffic{r: r, cancel: cancel, confirmed: map[string]time.Time{}, got: map[string]bool{}, times: map[string][]time.Time{}}
	r.traffic = w
	for i := range r.lab.Hosts {
		hosts := append(slices.Clone(r.names()[i:]), r.names()[:i]...)
		w.wait.Go(func() { w.publish(ctx, hosts) })
		if i == 1 {
			w.wait.Go(func() { w.consume(ctx, hosts) })
		}
	}
	w.wait.Go(func() { w.publish(ctx, []string{byAddress}) })
	t.Cleanup(func() { cancel(); w.wait.Wait() })
	w.flows(t, time.Now(), r.names()...)
}

func (r *rabbitSite) end(t *testing.T) {
	r.traffic.cancel()
	r.traffic.wait.Wait()
	r.traffic.mu.Lock()
	defer r.traffic.mu.Unlock()
	t.Logf("%d messages confirmed in all, every one of them delivered", len(r.traffic.confirmed))
}

func (r *rabbitSite) names() []string {
	var out []string
	for _, m := range r.lab.Hosts {
		out = append(out, m.Name)
	}
	return out
}

// but are all hosts except one.
func (r *rabbitSite) but(host string) []string {
	return slices.DeleteFunc(r.names(), func(name string) bool { return name == host })
}

// open connects to the first of the hosts that answers, as a client with a list of all does.
func (w *rabbitTraffic) open(ctx context.Context, hosts []string) (*amqp.Connection, *amqp.Channel, net.Conn) {
	for ; ctx.Err() == nil; time.Sleep(rabbitEvery) {
		for _, host := range hosts {
			var raw net.Conn
			end := time.AfterFunc(rabbitPatience, func() {
				if raw != nil {
					raw.Close()
				}
			})
			conn, err := amqp.DialConfig("amqp://nova:"+w.r.password+"@"+w.r.address(host)+"/", amqp.Config{
				Heartbeat: rabbitPatience,
				Dial: func(network, addr string) (net.Conn, error) {
					c, err := net.DialTimeout(network, addr, rabbitPatience/2)
					if err == nil {
						err = c.SetDeadline(time.Now().Add(rabbitPatience))
						raw = c
					}
					return c, err
				},
			})
			if err != nil {
				end.Stop()
				continue
			}
			ch, err := conn.Channel()
			if err == nil {
				_, err = ch.QueueDeclare(rabbitQueue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
			}
			end.Stop()
			if err == nil {
				return conn, ch, raw
			}
			raw.Close()
		}
	}
	return nil, nil, nil
}

func (w *rabbitTraffic) publish(ctx context.Context, hosts []string) {
	for n := 0; ctx.Err() == nil; {
		conn, ch, raw := w.open(ctx, hosts)
		if conn == nil {
			return
		}
		err := ch.Confirm(false)
		for err == nil && ctx.Err() == nil {
			n++
			id := fmt.Sprintf("%s-%d", hosts[0], n)
			asking, cancel := context.WithTimeout(ctx, rabbitPatience)
			var c *amqp.DeferredConfirmation
			if c, err = ch.PublishWithDeferredConfirmWithContext(asking, "", rabbitQueue, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(id)}); err == nil {
				var ok bool
				switch ok, err = c.WaitContext(asking); {
				case err == nil && ok:
					w.mu.Lock()
					w.confirmed[id] = time.Now()
					w.times[hosts[0]] = append(w.times[hosts[0]], time.Now())
					w.mu.Unlock()
				case err == nil:
					// As oslo.messaging does it takes another channel: one of 3.10 that was opened while
					// a queue's leader hung refuses all until that node is back.
					err = errors.New("refused")
				}
			}
			cancel()
			time.Sleep(rabbitEvery)
		}
		raw.Close()
		_ = conn.Close()
	}
}

func (w *rabbitTraffic) consume(ctx context.Context, hosts []string) {
	for ctx.Err() == nil {
		conn, ch, raw := w.open(ctx, hosts)
		if conn == nil {
			return
		}
		all, err := ch.Consume(rabbitQueue, "", false, false, false, false, nil)
		for err == nil {
			var d amqp.Delivery
			ok := false
			select {
			case d, ok = <-all:
			case <-ctx.Done():
			}
			if !ok {
				break
			}
			w.mu.Lock()
			w.got[string(d.Body)] = true
			w.mu.Unlock()
			err = d.Ack(false)
		}
		raw.Close()
		_ = conn.Close()
	}
}

// flows waits until each of the clients that prefer those hosts has had a message
// confirmed after from.
func (w *rabbitTraffic) flows(t *testing.T, from time.Time, hosts ...string) {
	t.Helper()
	err := until(w.r.ctx, siteBound, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, host := range hosts {
			// Ten in a row: the first may have been on its way already.
			if all := w.times[host]; len(all) < 10 || !all[len(all)-10].After(from.Add(time.Second)) {
				return fmt.Errorf("nothing is confirmed to the client of %s", host)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// first is how long after from the first message was confirmed to anybody.
func (w *rabbitTraffic) first(from time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	best := time.Duration(-1)
	for _, all := range w.times {
		for _, at := range all {
			if d := at.Sub(from); d > 0 && (best < 0 || d < best) {
				best = d
			}
		}
	}
	return best
}

// longest is for how long a client had nothing confirmed, or with "" all of them together.
func (w *rabbitTraffic) longest(host string, from, to time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Clone(w.times[host])
	if host == "" {
		for _, name := range w.r.names() {
			all = append(all, w.times[name]...)
		}
		slices.SortFunc(all, time.Time.Compare)
	}
	last, most := from, time.Duration(0)
	for _, at := range all {
		if at.Before(from) || at.After(to) {
			continue
		}
		most, last = max(most, at.Sub(last)), at
	}
	return max(most, to.Sub(last)).Round(100 * time.Millisecond)
}

// gaps logs for how long each client had nothing confirmed.
func (w *rabbitTraffic) gaps(t *testing.T, from, to time.Time) {
	t.Helper()
	text := ""
	for _, host := range w.r.names() {
		text += fmt.Sprintf(", of %s's client %v", host, w.longest(host, from, to))
	}
	all, through := w.longest("", from, to), w.longest(byAddress, from, to)
	w.mu.Lock()
	defer w.mu.Unlock()
	t.Logf("longest time without a confirm: %v of all%s, through HAProxy %v; %d confirmed so far", all, text, through, len(w.confirmed))
}

// delivered waits until all that was confirmed so far has come to the consumer.
func (w *rabbitTraffic) delivered(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	var want []string
	for id := range w.confirmed {
		want = append(want, id)
	}
	w.mu.Unlock()
	var lost []string
	err := until(w.r.ctx, 2*time.Minute, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		lost = slices.DeleteFunc(slices.Clone(want), func(id string) bool { return w.got[id] })
		if len(lost) > 0 {
			return fmt.Errorf("%d of %d", len(lost), len(want))
		}
		return nil
	})
	if err != nil {
		slices.Sort(lost)
		t.Fatalf("confirmed and not delivered: %v: %v", err, lost[:min(len(lost), 20)])
	}
}

// cacheClient is a service's threads on oslo.cache, as Keystone and Nova use it: it prints
// the calls, those that took longer than half the socket's time-out, and those that failed.
const cacheClient = `#!/usr/bin/python3
import sys, threading, time
from oslo_config import cfg
from oslo_cache import core
backend, timeout, retry, threads, last = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
conf = cfg.ConfigOpts(); core.configure(conf); conf([])
for k, v in dict(enabled=True, backend=backend, memcache_servers=sys.argv[6:],
                 memcache_socket_timeout=timeout, memcache_dead_retry=retry).items():
    conf.set_override(k, v, 'cache')
region = core.create_region(); core.configure_cache_region(conf, region)
end, lock, took, failed = time.time() + last, threading.Lock(), [], 0
def work(n):
    global failed
    i = 0
    while time.time() < end:
        i += 1
        t, ok = time.time(), True
        try:
            region.set('k%d-%d' % (n, i % 300), i); region.get('k%d-%d' % (n, i * 7 % 300))
        except Exception:
            ok = False
        with lock:
            took.append(time.time() - t)
            failed += not ok
        time.sleep(0.01)
all = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
[t.start() for t in all]; [t.join() for t in all]
print(len(took), sum(1 for t in took if t > timeout / 2), failed, '%.3f' % max(took))
`

// cache takes a memcached away in three ways, while the threads of a service use all three.
// Each thread may wait for it once in each dead_retry, and no longer than its own time-out;
// nothing fails, so nobody needs another list of servers. What waits with all three there
// waits for the machine, and twice as much is allowed beside.
func (r *rabbitSite) cache(t *testing.T) {
	const threads, lasts = 4, "10"
	var servers []string
	for _, host := range r.names() {
		servers = append(servers, strings.TrimSuffix(r.address(host), "5672")+"11211")
	}
	nothing := func() (Deed, error) { return Deed{}, nil }
	killed := func() (Deed, error) {
		_, err := r.lab.Run(r.ctx, "c3", "systemctl", "kill", "-s", "KILL", "memcached.service")
		return Deed{}, err
	}
	hung := func() (Deed, error) { return r.lab.Hang(r.ctx, "c3", "memcached.service") }
	goesOn := func() (Deed, error) { return r.lab.Resume(r.ctx, "c3", "memcached.service") }
	cut := func() (Deed, error) { return r.lab.Cut(r.ctx, Cut{Host: "c3", Network: All, Direction: Both}) }
	healed := func() (Deed, error) { return r.lab.Heal(r.ctx, "c3", All) }
	// Keystone and Nova pool their connections; others have one for each thread.
	const pooled, each = "oslo_cache.memcache_pool", "dogpile.cache.memcached"
	usual, busy := 0, 0
	for _, fault := range []struct {
		name, backend, timeout, retry string
		play, mend                    func() (Deed, error)
	}{
		{"there", pooled, "0.25", "30", nothing, nothing},
		{"killed", pooled, "0.25", "30", killed, nothing},
		{"hung", pooled, "0.25", "30", hung, goesOn},
		{"its host cut off", pooled, "0.25", "30", cut, healed},
		{"hung", each, "0.25", "30", hung, goesOn},
		{"its host cut off", each, "0.25", "30", cut, healed},
		{"its host cut off, as oslo.cache is shipped", pooled, "1.0", "300", cut, healed},
	} {
		var out string
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			out, err = r.lab.Run(r.ctx, "c1", append([]string{"cache-client", fault.backend, fault.timeout, fault.retry, fmt.Sprint(threads), lasts}, servers...)...)
		}()
		r.lasts(3 * time.Second) // it is at work by then; if not, there is less to see
		r.deed(t)(fault.play())
		<-done
		r.deed(t)(fault.mend())
		var calls, slow, failed int
		var worst float64
		if _, e := fmt.Sscan(out, &calls, &slow, &failed, &worst); err != nil || e != nil {
			t.Fatalf("%v, %v\n%s", err, e, out)
		}
		t.Logf("memcached %s, %s, time-out %s s: %d calls, %d of them waited for it, the longest %.3f s, %d failed", fault.name, fault.backend, fault.timeout, calls, slow, worst, failed)
		if usual == 0 {
			usual, busy = calls, slow
		}
		if failed > 0 || slow > 2*threads+2*busy || calls*10 < usual {
			t.Errorf("memcached %s: %d of %d calls failed, %d waited; with all there %d of %d", fault.name, failed, calls, slow, busy, usual)
		}
		r.await(t, "all to be well", r.settled)
	}
}
