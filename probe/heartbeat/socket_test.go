package heartbeat

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

var (
	loop4 = netip.MustParseAddrPort("127.0.0.1:0")
	loop6 = netip.MustParseAddrPort("[::1]:0")
)

func open(t testing.TB, host string, keys Keys, hear func(*Conn, Datagram)) *Conn {
	t.Helper()
	ready := make(chan struct{})
	var c *Conn
	c, err := Open(Config{
		Site: "beijing", Host: host, Boot: "b1", Keys: keys, Peers: everyone,
		Networks: map[string]netip.AddrPort{net1: loop4, net2: loop6},
		Hear: func(d Datagram) {
			<-ready
			hear(c, d)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	close(ready)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func beatNow(c *Conn) Beat {
	return Beat{Stint: fleet.Stint{Host: c.cfg.Host, Boot: c.cfg.Boot, N: 1}, Sent: boottime(), Lease: 300 * time.Millisecond}
}

func TestBeatsAndAcksOverBothFamilies(t *testing.T) {
	type ack struct {
		Datagram
		m Ack
	}
	acks := make(chan ack, 100)
	ear := open(t, "c1", voterKeys(), func(c *Conn, d Datagram) {
		b := d.Message.(Beat)
		if d.At < b.Sent {
			t.Errorf("received at %d, before it was sent at %d", d.At, b.Sent)
		}
		if err := c.Reply(d, Ack{Stint: b.Stint, Sent: b.Sent}); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	host := open(t, "n1", hostKeys("n1"), func(_ *Conn, d Datagram) { acks <- ack{d, d.Message.(Ack)} })
	for _, network := range []string{net1, net2} {
		deadline := time.After(patience)
		for heard := false; !heard; {
			b := beatNow(host)
			if err := host.Send("c1", network, ear.Addr(network), b); err != nil {
				t.Fatal(err)
			}
			select {
			case a := <-acks:
				if a.Host != "c1" || a.Network != network || a.From != ear.Addr(network) || a.m.Stint != b.Stint || a.m.Sent > b.Sent {
					t.Errorf("%s: beat %+v, ack %+v", network, b, a)
				}
				heard = true
			case <-time.After(20 * time.Millisecond): // the next beat, as an agent would
			case <-deadline:
				t.Fatalf("%s: no ack; ear %+v, host %+v", network, ear.Stats(), host.Stats())
			}
		}
	}
}

// TestRepliesTogether: each beat of many that wait in a socket is acknowledged to the host that sent it, though there be more
// replies than one call sends, and though some cannot be sent.
func TestRepliesTogether(t *testing.T) {
	const hosts, beats = 3, 2*batchSize/3 + 1
	var hang sync.Mutex
	ear := open(t, "c1", voterKeys(), func(c *Conn, d Datagram) {
		hang.Lock()
		defer hang.Unlock()
		beat := d.Message.(Beat)
		lost := d
		lost.From = netip.AddrPortFrom(d.From.Addr(), 0) // the kernel sends nothing there
		wrong := d
		wrong.From = netip.MustParseAddrPort("[::1]:1")
		if c.Addr(d.Network).Addr().Is6() {
			wrong.From = netip.MustParseAddrPort("127.0.0.1:1")
		}
		if err := c.ReplyTogether(wrong, Ack{Stint: beat.Stint}); err == nil {
			t.Error("a reply to an address of another family is none")
		}
		for _, to := range []Datagram{lost, d} {
			if err := c.ReplyTogether(to, Ack{Stint: beat.Stint, Sent: beat.Sent}); err != nil {
				t.Error(err)
			}
		}
	})
	unknown := Datagram{Host: "c1", Network: "tenant"}
	if err := ear.ReplyTogether(unknown, Ack{}); err == nil {
		t.Error("replied over a network that the host has not")
	}
	type ack struct {
		host, network string
		sent          fleet.Moment
	}
	acks := make(chan ack, 1000)
	var conns []*Conn
	for _, name := range []string{"n1", "c2", "c3"} {
		conns = append(conns, open(t, name, voterKeys(), func(_ *Conn, d Datagram) {
			m := d.Message.(Ack)
			if m.Stint.Host != name {
				t.Errorf("%s got an acknowledgement of %s", name, m.Stint.Host)
			}
			acks <- ack{name, d.Network, m.Sent}
		}))
	}
	for _, network := range []string{net1, net2} {
		for _, c := range append([]*Conn{nil}, conns...) { // fetch the tokens
			for _, host := range conns {
				if c == nil {
					if err := host.Send("c1", network, ear.Addr(network), beatNow(host)); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, d := range []*Conn{ear, c} {
				if d == nil {
					continue
				}
				if _, err := d.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		want := map[ack]bool{}
		hang.Lock()
		for range beats {
			for _, host := range conns {
				b := beatNow(host)
				want[ack{host.cfg.Host, network, b.Sent}] = true
				if err := host.Send("c1", network, ear.Addr(network), b); err != nil {
					t.Fatal(err)
				}
			}
		}
		hang.Unlock()
		if len(want) != hosts*beats {
			t.Fatalf("%d beats were to be sent, %d were", hosts*beats, len(want))
		}
		for deadline := time.After(patience); len(want) > 0; {
			select {
			case a := <-acks:
				delete(want, a)
			case <-deadline:
				t.Fatalf("%s: %d of %d acknowledgements did not come: %+v", network, len(want), hosts*beats, ear.Stats())
			}
		}
	}
}

// While the ear's process hangs, beats wait in its socket. Drain must have
// delivered every one of them when it returns.
func TestDrainDeliversWhatWaited(t *testing.T) {
	var heard atomic.Int64
	var hang sync.Mutex
	ear := open(t, "c1", voterKeys(), func(*Conn, Datagram) {
		hang.Lock()
		defer hang.Unlock()
		heard.Add(1)
	})
	host := open(t, "n1", hostKeys("n1"), func(*Conn, Datagram) {})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	send := func(n int) {
		t.Helper()
		for i := range n {
			network := []string{net1, net2}[i%2]
			if err := host.Send("c1", network, ear.Addr(network), beatNow(host)); err != nil {
				t.Fatal(err)
			}
		}
	}
	drain := func(c *Conn) {
		t.Helper()
		before := boottime()
		at, err := c.Drain(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if at < before || at > boottime() {
			t.Errorf("drained as of %d, asked at %d", at, before)
		}
	}
	send(1)
	drain(ear)  // the hello has been sent
	drain(host) // and has arrived
	const beats = 5 * batchSize
	for round := range 20 {
		hang.Lock()
		send(beats)
		drained := make(chan error)
		go func() { _, err := ear.Drain(ctx); drained <- err }()
		select {
		case err := <-drained:
			t.Fatalf("drained while the beats still waited (%v)", err)
		default:
		}
		hang.Unlock()
		if err := <-drained; err != nil {
			t.Fatal(err)
		}
		if got, want := heard.Load(), int64((round+1)*beats); got != want {
			t.Fatalf("round %d: drained with %d of %d delivered: %+v", round, got, want, ear.Stats())
		}
	}
}

func TestDrainHasADeadlineAndEndsWithTheConn(t *testing.T) {
	hang := make(chan struct{})
	entered := make(chan struct{}, 1)
	ear := open(t, "c1", voterKeys(), func(*Conn, Datagram) {
		entered <- struct{}{}
		<-hang
	})
	host := open(t, "n1", hostKeys("n1"), func(*Conn, Datagram) {})
	for heard := false; !heard; {
		if err := host.Send("c1", net1, ear.Addr(net1), beatNow(host)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-entered:
			heard = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := ear.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain of a hung hearer: %v", err)
	}
	close(hang)
	ear.Close()
	if _, err := ear.Drain(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("drain of a closed Conn: %v", err)
	}
	if err := ear.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestSendErrorsNameWhatAndWhere(t *testing.T) {
	host := open(t, "n1", hostKeys("n1"), func(*Conn, Datagram) {})
	for name, send := range map[string]func() error{
		"no such network":      func() error { return host.Send("c1", "tenant", loop4, beatNow(host)) },
		"not among the peers":  func() error { return host.Send("c9", net1, loop4, beatNow(host)) },
		"wrong family":         func() error { return host.Send("c1", net1, loop6, beatNow(host)) },
		"no address":           func() error { return host.Send("c1", net1, netip.AddrPort{}, beatNow(host)) },
		"key that is not held": func() error { return host.Send("c1", net1, loop4, Ask{}) },
	} {
		if err := send(); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	if _, err := Open(Config{Site: "beijing", Host: "c2", Boot: "b", Keys: voterKeys(), Hear: func(Datagram) {},
		Networks: map[string]netip.AddrPort{net1: host.Addr(net1)}}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("an address in use: %v", err)
	}
	// An address that is not on any interface can be listened on all the same.
	early, err := Open(Config{Site: "beijing", Host: "c2", Boot: "b", Keys: voterKeys(), Hear: func(Datagram) {},
		Networks: map[string]netip.AddrPort{net1: netip.MustParseAddrPort("192.0.2.7:0")}})
	if err != nil {
		t.Fatalf("an address that is not up yet: %v", err)
	}
	early.Close()
}

// What no heartbeat is must not stop the reader.
func TestNoiseOnTheSocket(t *testing.T) {
	heard := make(chan Datagram, 100)
	ear := open(t, "c1", voterKeys(), func(_ *Conn, d Datagram) { heard <- d })
	host := open(t, "n1", hostKeys("n1"), func(*Conn, Datagram) {})
	noise, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(ear.Addr(net1)))
	if err != nil {
		t.Fatal(err)
	}
	defer noise.Close()
	for _, size := range []int{0, 1, headSize, maxSize, maxSize + 1, 60000} {
		if _, err := noise.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ear.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ear.Stats().Form; got != 6 {
		t.Errorf("%d of 6 noises were counted", got)
	}
	deadline := time.After(patience)
	for done := false; !done; {
		if err := host.Send("c1", net1, ear.Addr(net1), beatNow(host)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-heard:
			done = true
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatal("not heard after the noise")
		}
	}
}

// Encode, seal, check and decode one beat, without the kernel.
func BenchmarkSealOpen(b *testing.B) {
	now := fleet.Moment(time.Hour)
	process := func(host string) *Conn {
		c, err := newConn(Config{Site: "beijing", Host: host, Boot: "0f8fad5b-d9cb-469f-a165-70867728950e", Keys: voterKeys(),
			Peers: everyone, Hear: func(Datagram) {}, Now: func() fleet.Moment { return now }})
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	ear, host := process("c1"), process("n1")
	from := netip.MustParseAddrPort("10.0.0.1:7400")
	host.peers["c1"].token = ear.peers["n1"].newest(host.sealer.session, now)
	beat := Beat{Stint: fleet.Stint{Host: "n1", Boot: host.cfg.Boot, N: 1}, Lease: 300 * time.Millisecond}
	buf := make([]byte, 0, maxSize)
	b.ReportAllocs()
	start := cpu(b)
	for b.Loop() {
		now++
		beat.Sent = now
		out, err := host.seal(buf, "c1", net1, beat, now)
		if err != nil {
			b.Fatal(err)
		}
		if r := ear.judge(net1, out, from, now); r.message == nil {
			b.Fatalf("refused: %+v", ear.Stats())
		}
	}
	b.ReportMetric(float64(cpu(b)-start)/float64(b.N), "cpu-ns/op")
}

// Beats from one Conn to another and their acks back, over loopback sockets; a
// window of them is under way. cpu-ns/op is what both ends and the kernel used
// for a beat and its ack.
func BenchmarkLoopback(b *testing.B) {
	const window = 64
	free := make(chan struct{}, window)
	ear := open(b, "c1", voterKeys(), func(c *Conn, d Datagram) {
		beat := d.Message.(Beat)
		if err := c.ReplyTogether(d, Ack{Stint: beat.Stint, Sent: beat.Sent}); err != nil {
			b.Error(err)
		}
	})
	host := open(b, "n1", hostKeys("n1"), func(*Conn, Datagram) { free <- struct{}{} })
	to := ear.Addr(net1)
	for _, c := range []*Conn{ear, host, ear, host} { // fetch the token
		if err := host.Send("c1", net1, to, beatNow(host)); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Drain(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	for len(free) > 0 {
		<-free
	}
	for range window {
		free <- struct{}{}
	}
	b.ReportAllocs()
	start := cpu(b)
	lost := 0
	for b.Loop() {
		select {
		case <-free:
		case <-time.After(time.Second):
			lost++
		}
		if err := host.Send("c1", net1, to, beatNow(host)); err != nil {
			b.Fatal(err)
		}
	}
	used := cpu(b) - start
	b.ReportMetric(float64(used)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "datagrams/s")
	b.ReportMetric(100*float64(used)/float64(b.Elapsed()), "%core")
	b.ReportMetric(float64(lost), "lost")
}

func cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
