package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// bound is the time-out of whatever a test waits for. It is far beyond what
// anything here takes: only a failure waits for it.
const bound = 20 * time.Second

var (
	v4    = netip.MustParseAddr("10.77.0.100")
	v4b   = netip.MustParseAddr("10.77.0.101")
	v6    = netip.MustParseAddr("fd00:77::100")
	site  = []Managed{{v4, "eth0"}, {v4b, "eth0"}, {v6, "eth0"}}
	hostA = netip.MustParseAddr("10.77.0.1")
	hostB = netip.MustParseAddr("10.77.0.2")
)

// host is a network namespace with one interface, eth0, on the test's switch.
type host struct {
	t  testing.TB
	ns netns.NsHandle
	rt *netlink.Handle
}

// do runs f in the host's network namespace.
func (h *host) do(f func()) {
	h.t.Helper()
	if err := inside(int(h.ns), func() error { f(); return nil }); err != nil {
		h.t.Fatal(err)
	}
}

func newHost(t testing.TB) *host {
	t.Helper()
	made := make(chan error, 1)
	h := &host{t: t}
	go func() { // the thread ends with the goroutine: it stays in the new namespace
		runtime.LockOSThread()
		var err error
		h.ns, err = netns.New()
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatalf("make a network namespace (the tests run as root): %v", err)
	}
	t.Cleanup(func() { h.ns.Close() }) // a namespace without a name ends with its last user
	var err error
	if h.rt, err = netlink.NewHandleAt(h.ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.rt.Close)
	h.up("lo")
	return h
}

func (h *host) up(name string) {
	h.t.Helper()
	l, err := h.rt.LinkByName(name)
	if err == nil {
		err = h.rt.LinkSetUp(l)
	}
	if err != nil {
		h.t.Fatalf("%s up: %v", name, err)
	}
}

// newNetwork makes hosts 10.77.0.1, .2 ... (fd00:77::1, ...) on one switch.
func newNetwork(t testing.TB, n int) []*host {
	t.Helper()
	hub := newHost(t)
	if err := hub.rt.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
		t.Fatal(err)
	}
	hub.up("br0")
	br, err := hub.rt.LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	var hosts []*host
	for i := range n {
		h := newHost(t)
		port := fmt.Sprint("port", i+1)
		err := hub.rt.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: br.Attrs().Index},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(h.ns),
		})
		if err != nil {
			t.Fatal(err)
		}
		hub.up(port)
		h.up("eth0")
		eth, err := h.rt.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []string{fmt.Sprintf("10.77.0.%d/24", i+1), fmt.Sprintf("fd00:77::%d/64", i+1)} {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(a, "::") {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := h.rt.AddrAdd(eth, addr); err != nil {
				t.Fatal(err)
			}
		}
		hosts = append(hosts, h)
	}
	t.Cleanup(func() {
		// Do not wait for the kernel to collect the namespaces: links go now.
		if l, err := hub.rt.LinkByName("br0"); err == nil {
			hub.rt.LinkDel(l)
		}
	})
	return hosts
}

// open opens a Set on the host which manages the test's addresses.
func (h *host) open(now func() fleet.Moment) *Set {
	h.t.Helper()
	s, err := Open(Config{Netns: int(h.ns), Now: now})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(s.Close)
	if err := s.Manage(site); err != nil {
		h.t.Fatal(err)
	}
	return s
}

// phase returns how Found sees the address.
func phase(t testing.TB, s *Set, addr netip.Addr) State {
	t.Helper()
	found, err := s.Found(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range found {
		if st.Addr == addr {
			return st
		}
	}
	t.Fatalf("%s was not looked for", addr)
	return State{}
}

// has says whether an address is installed on the host.
func (h *host) has(addr netip.Addr) bool {
	h.t.Helper()
	all, err := list(h.rt)
	if err != nil {
		h.t.Fatal(err)
	}
	return len(all[addr]) > 0
}

// keepAlive renews every 50 ms until the test ends or stop is called.
func keepAlive(t testing.TB, s *Set, lease time.Duration) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if _, err := s.Renew(s.now().Add(lease)); err != nil {
					t.Errorf("renew: %v", err)
				}
			}
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { close(done); wait.Wait() }) }
	t.Cleanup(stop)
	return stop
}

// long is a lease that outlives a test's steps on a busy machine.
const long = 5 * time.Second

func claim(t testing.TB, s *Set, addr netip.Addr) Claimed {
	t.Helper()
	c, err := s.Claim(t.Context(), addr, s.now().Add(long))
	if err != nil {
		t.Fatal(err)
	}
	if c.Unsevered != nil || c.Unannounced != nil {
		t.Fatalf("claim %s: %+v", addr, c)
	}
	return c
}

// ear hears every ARP packet and IPv6 advertisement that arrives at a host.
type ear struct {
	h    *host
	file *os.File
}

// frame is an ARP packet as heard.
type frame struct {
	at     fleet.Moment
	op     uint16
	mac    net.HardwareAddr
	sender netip.Addr
	target netip.Addr
}

func (h *host) listen() *ear {
	h.t.Helper()
	e := &ear{h: h}
	h.do(func() {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(big16(unix.ETH_P_ARP)))
		if err != nil {
			h.t.Error(err)
			return
		}
		e.file = os.NewFile(uintptr(fd), "ear")
	})
	if e.file == nil {
		h.t.FailNow()
	}
	h.t.Cleanup(func() { e.file.Close() })
	return e
}

// next returns the next ARP packet that arrives before the time-out.
func (e *ear) next(wait time.Duration) (f frame, ok bool) {
	e.h.t.Helper()
	e.file.SetReadDeadline(time.Now().Add(wait))
	conn, err := e.file.SyscallConn()
	if err != nil {
		e.h.t.Fatal(err)
	}
	buf := make([]byte, 128)
	n := 0
	err = conn.Read(func(fd uintptr) bool {
		var from unix.Sockaddr
		var err error
		n, from, err = unix.Recvfrom(int(fd), buf, 0)
		if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype == unix.PACKET_OUTGOING {
			return false
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return f, false
	}
	if err != nil || n < arpLength {
		e.h.t.Fatalf("hear ARP: %d bytes, %v", n, err)
	}
	f = frame{at: Now(), op: binary.BigEndian.Uint16(buf[6:]), mac: slices.Clone(buf[8:14])}
	f.sender, _ = netip.AddrFromSlice(buf[14:18])
	f.target, _ = netip.AddrFromSlice(buf[24:28])
	return f, true
}

// askARP asks who has addr, as a host that does not know would, and returns who
// answered within the time; the question is repeated every few ms.
func (h *host) askARP(from, addr netip.Addr, wait time.Duration) (frame, bool) {
	h.t.Helper()
	e := h.listen()
	defer e.file.Close()
	w, index := h.wire(), h.index()
	defer w.close()
	mac := h.mac()
	for end := time.Now().Add(wait); time.Now().Before(end); {
		if err := w.sendARP(from, addr, index, mac); err != nil {
			h.t.Fatal(err)
		}
		for {
			f, ok := e.next(5 * time.Millisecond)
			if !ok {
				break
			}
			if f.sender == addr && f.op == 2 {
				return f, true
			}
		}
	}
	return frame{}, false
}

func (h *host) wire() *wire {
	h.t.Helper()
	w, err := openWire(int(h.ns))
	if err != nil {
		h.t.Fatal(err)
	}
	return w
}

func (h *host) eth() netlink.Link {
	h.t.Helper()
	l, err := h.rt.LinkByName("eth0")
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

func (h *host) index() int { h.t.Helper(); return h.eth().Attrs().Index }

func (h *host) mac() net.HardwareAddr { h.t.Helper(); return h.eth().Attrs().HardwareAddr }

// neighbour returns the MAC that the host's neighbour table has for addr.
func (h *host) neighbour(addr netip.Addr) net.HardwareAddr {
	h.t.Helper()
	neighs, err := h.rt.NeighList(h.index(), netlink.FAMILY_ALL)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, n := range neighs {
		if a, ok := netip.AddrFromSlice(n.IP); ok && a.Unmap() == addr {
			return n.HardwareAddr
		}
	}
	return nil
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("in %s it did not happen that %s", bound, what)
		}
		poll()
	}
}

// poll spaces two looks at the kernel, which has no event for what is looked at.
func poll() { <-time.After(2 * time.Millisecond) }

// ping says whether one of several echoes is answered within the time.
func (h *host) ping(addr netip.Addr, wait time.Duration) bool {
	h.t.Helper()
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if addr.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	var conn net.Conn
	var err error
	h.do(func() { conn, err = net.Dial(network, addr.String()) })
	if err != nil {
		return false // no way there
	}
	defer conn.Close()
	echo := []byte{request, 0, 0, 0, 77, 77, 0, 1}
	if addr.Is4() { // for IPv6 the kernel sums
		binary.BigEndian.PutUint16(echo[2:], ^uint16(uint32(request)<<8+77<<8+77+1))
	}
	buf := make([]byte, 256)
	for end := time.Now().Add(wait); time.Now().Before(end); {
		conn.Write(echo) // an error is the guard's word or no neighbour: no answer
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		for {
			n, _, err := conn.(*net.IPConn).ReadFrom(buf) // without the IPv4 header
			if err != nil {
				break
			}
			if n >= 8 && buf[0] == reply && buf[4] == 77 {
				return true
			}
		}
	}
	return false
}

// prefix is addr as an interface carries it.
func prefix(addr netip.Addr, ones int) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(ones, addr.BitLen())}
}

// install puts an address on eth0 for good, as somebody else would.
func (h *host) install(addr netip.Addr, ones int) {
	h.t.Helper()
	a := &netlink.Addr{IPNet: prefix(addr, ones), LinkIndex: h.index()}
	if addr.Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := h.rt.AddrAdd(nil, a); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) remove(addr netip.Addr) {
	h.t.Helper()
	if err := h.rt.AddrDel(nil, &netlink.Addr{IPNet: prefix(addr, addr.BitLen()), LinkIndex: h.index()}); err != nil {
		h.t.Fatal(err)
	}
}

// pin fixes a neighbour entry, so that no ARP is needed to reach it.
func (h *host) pin(addr netip.Addr, mac net.HardwareAddr) {
	h.t.Helper()
	n := &netlink.Neigh{LinkIndex: h.index(), State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac}
	if err := h.rt.NeighSet(n); err != nil {
		h.t.Fatal(err)
	}
}

// forget empties the neighbour table.
func (h *host) forget() {
	h.t.Helper()
	neighs, err := h.rt.NeighList(h.index(), netlink.FAMILY_ALL)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, n := range neighs {
		if err := h.rt.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
			h.t.Fatalf("forget %s: %v", n.IP, err)
		}
	}
}

// nft changes the host's rule set as somebody else would.
func (h *host) nft(f func(*nftables.Conn)) {
	h.t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(h.ns)))
	if err != nil {
		h.t.Fatal(err)
	}
	f(c)
	if err := c.Flush(); err != nil {
		h.t.Fatal(err)
	}
}

// renewed renews and expects g.
func renewed(t testing.TB, s *Set, want time.Duration) {
	t.Helper()
	if late, err := s.Renew(s.now().Add(long)); err != nil || late != want {
		t.Fatalf("renewed with g = %s, %v; want %s", late, err, want)
	}
}

// listenTCP listens on the host.
func (h *host) listenTCP(at string) net.Listener {
	h.t.Helper()
	var l net.Listener
	var err error
	h.do(func() { l, err = net.Listen("tcp", at) })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	return l
}

// dial connects from the host to a listener on another, and returns both ends.
func (h *host) dial(l net.Listener, to netip.Addr) (near, far net.Conn) {
	h.t.Helper()
	port := l.Addr().(*net.TCPAddr).Port
	fd, err := 0, error(nil)
	// net.Dial would spell a mapped address as IPv4.
	h.do(func() {
		if to.Is4() {
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
				err = unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: to.As4()})
			}
		} else {
			if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
				err = unix.Connect(fd, &unix.SockaddrInet6{Port: port, Addr: to.As16()})
			}
		}
	})
	if err != nil {
		h.t.Fatalf("connect to %s: %v", to, err)
	}
	f := os.NewFile(uintptr(fd), "tcp")
	defer f.Close()
	if near, err = net.FileConn(f); err != nil {
		h.t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// connect opens a connection from another host to an address of this one.
func (h *host) connect(from *host, addr netip.Addr) (near, far net.Conn) {
	h.t.Helper()
	return from.dial(h.listenTCP("[::]:0"), addr)
}

// talk says whether one byte arrives.
func talk(from, to net.Conn) bool {
	to.SetReadDeadline(time.Now().Add(bound))
	if _, err := from.Write([]byte("x")); err != nil {
		return false
	}
	_, err := to.Read(make([]byte, 1))
	return err == nil
}

// change waits for a change of that kind.
func change(t testing.TB, c <-chan Change, kind Kind) Change {
	t.Helper()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	for {
		select {
		case got := <-c:
			if got.Kind == kind {
				return got
			}
			t.Logf("passed over: %+v", got)
		case <-timer.C:
			t.Fatalf("no change of kind %q in %s", kind, bound)
		}
	}
}
