package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// inNamespace runs the calling test again, alone, in a child of this test binary
// with a network namespace of its own, and says whether this is that child. The
// namespace ends with the child.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "MAINSTAY_STORE_TEST_IN"
	if os.Getenv(mark) == t.Name() {
		for _, args := range [][]string{
			{"ip", "link", "set", "lo", "up"},
			{"ip", "address", "add", "10.77.0.1/32", "dev", "lo"},
			{"ip", "address", "add", "10.77.0.2/32", "dev", "lo"},
			{"ip", "address", "add", "10.77.0.3/32", "dev", "lo"},
		} {
			run(t, args...)
		}
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("in its own network namespace: %v", err)
	}
	return false
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// spread is a cluster with an address for each member, of the test's namespace.
func spread(t *testing.T, timing fleet.Timing) *house {
	t.Helper()
	h := newHouse(t, timing)
	peers := map[string]string{}
	for i := 1; i <= 3; i++ {
		peers[fmt.Sprintf("c%d", i)] = fmt.Sprintf("https://10.77.0.%d:7402", i)
	}
	for n, peer := range peers {
		h.add(n, peer, InitialCluster(peers), false)
	}
	return h
}

// isolate drops what address sends ("out"), what it is sent ("in"), or both.
func isolate(t *testing.T, address, way string) {
	t.Helper()
	rules := "table inet cut { chain wall { type filter hook input priority 0; "
	if way != "in" {
		rules += "ip saddr " + address + " ip daddr != " + address + " drop; "
	}
	if way != "out" {
		rules += "ip daddr " + address + " ip saddr != " + address + " drop; "
	}
	run(t, "nft", rules+"}; }")
}

func heal(t *testing.T) { t.Helper(); run(t, "nft", "delete", "table", "inet", "cut") }

// reign is a time during which one host could have acted as the leader.
type reign struct {
	host     string
	term     uint64
	from, to fleet.Moment
}

// diary notes every answer that a host's client used.
type diary struct {
	mu  sync.Mutex
	all map[string][]entry
}

type entry struct {
	lead Lead
	at   fleet.Moment
}

func (d *diary) of(host string) func(Lead, fleet.Moment) {
	return func(l Lead, at fleet.Moment) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.all[host] = append(d.all[host], entry{l, at})
	}
}

// reigns joins the answers: each lead lasts from when it was heard until it ran
// out, or until the client heard that it was over.
func (d *diary) reigns() []reign {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []reign
	for _, host := range fleet.Sorted(d.all) {
		var r reign
		for _, e := range d.all[host] {
			if r.host != "" && (e.lead.Term != r.term || e.at > r.to) {
				if e.lead.Term != r.term {
					r.to = min(r.to, e.at)
				}
				out, r = append(out, r), reign{}
			}
			if e.lead.Term != 0 {
				if r.host == "" {
					r = reign{host: host, term: e.lead.Term, from: e.at}
				}
				r.to = e.lead.Until
			}
		}
		if r.host != "" {
			out = append(out, r)
		}
	}
	// An answer that was heard after its lease had run out gave nothing.
	out = slices.DeleteFunc(out, func(r reign) bool { return r.to <= r.from })
	slices.SortFunc(out, func(a, b reign) int { return int(a.from - b.from) })
	return out
}

// TestNoTwoLeads cuts the leader off again and again, whole and one way, and
// looks at every moment at which any host could have acted.
func TestNoTwoLeads(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const cuts = 20
	h := spread(t, fleet.Presets()["rack"])
	d := &diary{all: map[string][]entry{}}
	for n, f := range h.rooms {
		f.saw = d.of(n)
	}
	h.up()
	ctx, stop := context.WithTimeout(context.Background(), 4*time.Minute)
	defer stop()
	var took []time.Duration
	for i := range cuts {
		old := h.leader()
		var rest []string
		for n := range h.rooms {
			if n != old.cfg.Name {
				rest = append(rest, n)
			}
		}
		address := "10.77.0." + old.cfg.Name[1:]
		began := now()
		isolate(t, address, []string{"both", "out", "in"}[i%3])
		h.leader(rest...)
		took = append(took, now().Sub(began))
		heal(t)
		if _, err := old.client.kv.Get(ctx, epochKey); err != nil { // it is back
			t.Fatalf("after cut %d %s does not come back: %v", i, old.cfg.Name, err)
		}
	}
	all := d.reigns()
	var last reign
	var gaps []time.Duration
	hands := 0
	for _, r := range all {
		if last.host != "" && r.host != last.host {
			hands++
			gap := r.from.Sub(last.to)
			gaps = append(gaps, gap)
			if gap <= 0 {
				t.Errorf("%s leads in term %d while %s could still act in term %d, for %s", r.host, r.term, last.host, last.term, -gap)
			}
		}
		if last.host == "" || r.to > last.to {
			last = r
		}
	}
	if hands < cuts {
		t.Errorf("%d cuts, but the lead changed hands %d times only", cuts, hands)
	}
	slices.Sort(gaps)
	slices.Sort(took)
	t.Logf("%d changes of hands; nobody leads for: least %s, median %s, most %s; cut to new lead: median %s, worst %s",
		hands, gaps[0], gaps[len(gaps)/2], gaps[len(gaps)-1], took[len(took)/2], took[len(took)-1])
}

// deafen makes a listener alone unreachable for what others dialed: what runs over those
// connections gets lost without a word, and new ones are refused. What it dialed itself lives.
func deafen(t *testing.T, address string) {
	t.Helper()
	run(t, "nft", "table inet cut { chain wall { type filter hook input priority 0; "+
		"ip daddr "+address+" tcp dport 7402 tcp flags & (syn | ack) == syn reject with tcp reset; "+
		"ip daddr "+address+" tcp dport 7402 drop; ip saddr "+address+" tcp sport 7402 drop; }; }")
}

// TestWishAfterACut: after a cut a member may hear the leader again over the connections
// that it dialed, while what it says still goes into one that the leader has given up.
func TestWishAfterACut(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := spread(t, room())
	h.up()
	lead := h.leader()
	f := h.other(lead.cfg.Name)
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	if _, err := f.client.kv.Get(ctx, epochKey); err != nil { // all connections stand
		t.Fatal(err)
	}

	deafen(t, "10.77.0."+f.cfg.Name[1:])
	run(t, "ss", "-K", "dst", "10.77.0."+f.cfg.Name[1:], "dport", "=", "7402") // etcd would after 5 s
	done := make(chan error, 1)
	go func() {
		done <- f.client.Wish(ctx, []fleet.Record{fleet.Put("wish/1", fleet.Wish{ID: "1", Verb: "disarm"}, "")})
	}()
	check(t, sleep(ctx, h.timing.Election)) // the wish is on its way
	heal(t)
	check(t, <-done)
	lead.until("the wish", func(s fleet.State) bool { return s.Wishes["1"].Verb == "disarm" })
}

// TestCutStreamsAreGivenUp: what a cut left half dead would otherwise live, and stay dumb,
// for as long again as the cut was.
func TestCutStreamsAreGivenUp(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := spread(t, room())
	h.up()
	f := h.other(h.leader().cfg.Name)
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	if _, err := f.client.kv.Get(ctx, epochKey); err != nil { // all connections stand
		t.Fatal(err)
	}
	address := "10.77.0." + f.cfg.Name[1:]
	isolate(t, address, "both")
	for {
		// Both those that it dialed, and those by which the others hear it.
		out, err := exec.Command("ss", "-Htn", "state", "established", "dport", "=", "7402", "and", "(", "src", address, "or", "dst", address, ")").Output()
		check(t, err)
		if len(out) == 0 {
			break
		}
		if sleep(ctx, h.timing.Heartbeat) != nil {
			t.Fatalf("still there:\n%s", out)
		}
	}
	heal(t)
	if _, err := f.client.kv.Get(ctx, epochKey); err != nil {
		t.Fatalf("%s does not come back: %v", f.cfg.Name, err)
	}
}

// TestCutRequestsAreGivenUp: likewise what was said in the cut and waits for its
// acknowledgement, and not what waits for room on the other side.
func TestCutRequestsAreGivenUp(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	dial := func(from, to string) (*net.TCPConn, net.Conn) {
		l, err := net.Listen("tcp", to+":7402")
		check(t, err)
		defer l.Close()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, KeepAlive: -1}
		c, err := d.DialContext(ctx, "tcp", l.Addr().String())
		check(t, err)
		other, err := l.Accept()
		check(t, err)
		t.Cleanup(func() { c.Close(); other.Close() })
		return c.(*net.TCPConn), other
	}
	cut, _ := dial("10.77.0.1", "10.77.0.2")
	full, other := dial("10.77.0.1", "10.77.0.3")
	peers := map[netip.AddrPort]bool{netip.MustParseAddrPort("10.77.0.2:7402"): true, netip.MustParseAddrPort("10.77.0.3:7402"): true}
	const size = 64 << 20 // more than two kernels hold
	written := make(chan error, 1)
	go func() {
		_, err := full.Write(make([]byte, size))
		written <- err
	}()
	isolate(t, "10.77.0.2", "both")
	_, err := cut.Write([]byte("GET /raft/stream/message"))
	check(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := cut.Read(make([]byte, 1))
		ended <- err
	}()
	for over := false; !over; {
		mind(peers)
		select {
		case err := <-ended:
			if !errors.Is(err, unix.ETIMEDOUT) {
				t.Fatalf("not by its kernel: %v", err)
			}
			over = true
		case err := <-written:
			t.Fatalf("nobody read, and it ended: %v", err)
		case <-time.After(asked):
			check(t, ctx.Err())
		}
	}
	// The other one has waited for as long, and goes on.
	n, err := io.Copy(io.Discard, io.LimitReader(other, size))
	check(t, err)
	check(t, <-written)
	if n != size {
		t.Errorf("%d of %d bytes", n, size)
	}
}
