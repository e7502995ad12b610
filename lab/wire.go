package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Wire watches who speaks for some addresses: it sits on each network's bridge,
// asks for every address many times a second, as a neighbour would (ARP, or
// neighbour discovery), and writes down each answer and each announcement with
// the moment at which the kernel took it from the cable. What a Cut takes away it
// does not see either: nobody on that network does.
type Wire struct {
	taps []*tap
	stop chan struct{}
	wait sync.WaitGroup

	mu     sync.Mutex
	claims []Claim
	lost   error
}

// Claim is one frame in which a host spoke for an address.
type Claim struct {
	At      time.Time  `json:"at"`
	Address netip.Addr `json:"address"`
	MAC     string     `json:"mac"`
	Host    string     `json:"host"` // whose MAC that is; the MAC itself if it is nobody's
	// Asked tells an answer to a question of the Wire's from everything else.
	Asked bool `json:"asked"`
}

// WireEvery is how often a Wire asks for each address.
const WireEvery = 20 * time.Millisecond

// tap is a pair of packet sockets on one bridge.
type tap struct {
	arp, nd *os.File
	index   int
	mac     net.HardwareAddr
	own     Network
	addrs   []netip.Addr
	hosts   map[string]string // by MAC
}

// Wire begins to watch these addresses, each on the network that it lies in.
func (l *Lab) Wire(addrs ...netip.Addr) (*Wire, error) {
	w := &Wire{stop: make(chan struct{})}
	for _, n := range l.Networks {
		var here []netip.Addr
		for _, a := range addrs {
			if n.V4.Contains(a) || n.V6.Contains(a) {
				here = append(here, a)
			}
		}
		if len(here) == 0 {
			continue
		}
		t, err := openTap(n, here)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("watch the wire of %s: %w", n.Name, err), w.Close())
		}
		w.taps = append(w.taps, t)
		for _, m := range append(slices.Clone(l.Hosts), l.Client) {
			if a, on := m.Addresses[n.Name]; on {
				t.hosts[cardOf(a).String()] = m.Name
			}
		}
	}
	for _, t := range w.taps {
		w.wait.Go(func() { w.hear(t, t.arp, t.readARP) })
		w.wait.Go(func() { w.hear(t, t.nd, t.readND) })
		w.wait.Go(func() { w.ask(t) })
	}
	return w, nil
}

func openTap(n Network, addrs []netip.Addr) (*tap, error) {
	link, err := net.InterfaceByName(n.Bridge)
	if err != nil {
		return nil, err
	}
	t := &tap{index: link.Index, mac: link.HardwareAddr, own: n, addrs: addrs, hosts: map[string]string{}}
	if t.arp, err = packetSocket(link.Index, unix.ETH_P_ARP, nil); err != nil {
		return nil, err
	}
	t.nd, err = packetSocket(link.Index, unix.ETH_P_IPV6, []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 40, Size: 1}, // type
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: neighbourAdvert, SkipTrue: 1},
		bpf.RetConstant{Val: 256},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, errors.Join(err, t.arp.Close())
	}
	return t, nil
}

const (
	neighbourSolicit = 135
	neighbourAdvert  = 136
)

// packetSocket hears the frames of one protocol on one link, without their
// Ethernet headers.
func packetSocket(index int, protocol uint16, filter []bpf.Instruction) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0) // deaf until bound
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "packet")
	if len(filter) > 0 {
		raw, aerr := bpf.Assemble(filter)
		if aerr != nil {
			return nil, errors.Join(aerr, f.Close())
		}
		program := make([]unix.SockFilter, len(raw))
		for i, r := range raw {
			program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
		}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	}
	err = errors.Join(err,
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol<<8 | protocol>>8, Ifindex: index}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up packet socket: %w", err), f.Close())
	}
	return f, nil
}

// hear reads one socket until it is closed.
func (w *Wire) hear(t *tap, f *os.File, read func(frame []byte) (addr netip.Addr, mac net.HardwareAddr, asked bool)) {
	conn, err := f.SyscallConn()
	if err != nil {
		w.fail(err)
		return
	}
	buf, oob := make([]byte, 256), make([]byte, 128)
	for {
		var n, oobn int
		var inner error
		err := conn.Read(func(fd uintptr) bool {
			var from unix.Sockaddr
			n, oobn, _, from, inner = unix.Recvmsg(int(fd), buf, oob, 0)
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
				n = 0 // our own question
			}
			return !errors.Is(inner, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		if inner != nil {
			w.fail(inner)
			continue
		}
		addr, mac, asked := read(buf[:n])
		if !slices.Contains(t.addrs, addr) {
			continue
		}
		c := Claim{At: stamp(oob[:oobn]), Address: addr, MAC: mac.String(), Host: mac.String(), Asked: asked}
		if host, known := t.hosts[c.MAC]; known {
			c.Host = host
		}
		w.mu.Lock()
		w.claims = append(w.claims, c)
		w.mu.Unlock()
	}
}

func (w *Wire) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = errors.Join(w.lost, fmt.Errorf("watch the wire: %w", err))
}

// stamp is the moment at which the kernel got a frame.
func stamp(oob []byte) time.Time {
	list, err := unix.ParseSocketControlMessage(oob)
	for _, c := range list {
		if err == nil && c.Header.Level == unix.SOL_SOCKET && c.Header.Type == unix.SO_TIMESTAMPNS && len(c.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(c.Data)), int64(binary.NativeEndian.Uint64(c.Data[8:])))
		}
	}
	return time.Now()
}

// readARP finds who claims what in an ARP frame: its sender, whatever it asks.
func (t *tap) readARP(b []byte) (netip.Addr, net.HardwareAddr, bool) {
	if len(b) < 28 || binary.BigEndian.Uint16(b[2:]) != unix.ETH_P_IP {
		return netip.Addr{}, nil, false
	}
	to, _ := netip.AddrFromSlice(b[24:28])
	from, _ := netip.AddrFromSlice(b[14:18])
	return from, net.HardwareAddr(slices.Clone(b[8:14])), binary.BigEndian.Uint16(b[6:]) == 2 && to == t.own.V4.Addr()
}

// readND finds who claims what in a neighbour advertisement.
func (t *tap) readND(b []byte) (netip.Addr, net.HardwareAddr, bool) {
	if len(b) < 64 {
		return netip.Addr{}, nil, false
	}
	target := netip.AddrFrom16([16]byte(b[48:64]))
	for o := b[64:]; len(o) >= 8; {
		length := int(o[1]) * 8
		if length == 0 || length > len(o) {
			break
		}
		if o[0] == 2 {
			return target, net.HardwareAddr(slices.Clone(o[2:8])), b[44]&0x40 != 0
		}
		o = o[length:]
	}
	return netip.Addr{}, nil, false // who it is stands in the Ethernet header only
}

// ask puts the questions until the Wire is closed.
func (w *Wire) ask(t *tap) {
	ticker := time.NewTicker(WireEvery)
	defer ticker.Stop()
	for {
		for _, a := range t.addrs {
			var err error
			if a.Is4() {
				err = t.send(t.arp, t.whoHas(a), unix.ETH_P_ARP, [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
			} else {
				g := group(a)
				err = t.send(t.nd, t.solicit(a, g), unix.ETH_P_IPV6, [8]byte{0x33, 0x33, g[12], g[13], g[14], g[15]})
			}
			if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
				select {
				case <-w.stop:
				default:
					w.fail(err)
				}
				return
			}
		}
		select {
		case <-w.stop:
			return
		case <-ticker.C:
		}
	}
}

func (t *tap) send(f *os.File, frame []byte, protocol uint16, to [8]byte) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = conn.Control(func(fd uintptr) {
		inner = unix.Sendto(int(fd), frame, 0, &unix.SockaddrLinklayer{Protocol: protocol<<8 | protocol>>8, Ifindex: t.index, Halen: 6, Addr: to})
	})
	return errors.Join(err, inner)
}

func (t *tap) whoHas(a netip.Addr) []byte {
	b := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, t.mac...)
	b = append(b, t.own.V4.Addr().AsSlice()...)
	return append(append(b, 0, 0, 0, 0, 0, 0), a.AsSlice()...)
}

// group is the multicast group that the holder of an address listens to.
func group(a netip.Addr) [16]byte {
	g := netip.MustParseAddr("ff02::1:ff00:0").As16()
	b := a.As16()
	copy(g[13:], b[13:])
	return g
}

func (t *tap) solicit(a netip.Addr, to [16]byte) []byte {
	body := append([]byte{neighbourSolicit, 0, 0, 0, 0, 0, 0, 0}, a.AsSlice()...)
	body = append(append(body, 1, 1), t.mac...)
	b := make([]byte, 40, 72)
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	b[6], b[7] = unix.IPPROTO_ICMPV6, 255
	copy(b[8:], t.own.V6.Addr().AsSlice())
	copy(b[24:], to[:])
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6
	for _, part := range [][]byte{b[8:40], body} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(body[2:], ^uint16(sum))
	return append(b, body...)
}

// Close ends the watch. It says what could not be watched, if anything.
func (w *Wire) Close() error {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	for _, t := range w.taps {
		t.arp.Close()
		t.nd.Close()
	}
	w.wait.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// Claims returns what was seen since a moment, in the order of time.
func (w *Wire) Claims(since time.Time) []Claim {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []Claim
	for _, c := range w.claims {
		if !c.At.Before(since) {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b Claim) int { return a.At.Compare(b.At) })
	return out
}

// Tenure is an unbroken time in which one host spoke for an address.
type Tenure struct {
	Address    netip.Addr `json:"address"`
	Host       string     `json:"host"`
	From, Till time.Time
	Claims     int `json:"claims"`
}

// wireSilence is the silence that ends a Tenure: a few questions unanswered. It is
// shorter than any way of an address to another host and back.
const wireSilence = 5 * WireEvery

// Tenures joins claims, in the order of time, to the times in which a host spoke
// for an address; they come in the order in which they began.
func Tenures(claims []Claim) []Tenure {
	type who struct {
		address netip.Addr
		host    string
	}
	newest := map[who]int{}
	var out []Tenure
	for _, c := range claims {
		k := who{c.Address, c.Host}
		if i, ok := newest[k]; ok && c.At.Sub(out[i].Till) <= wireSilence {
			out[i].Till = c.At
			out[i].Claims++
			continue
		}
		newest[k] = len(out)
		out = append(out, Tenure{c.Address, c.Host, c.At, c.At, 1})
	}
	return out
}

// Overlap is a time in which two hosts spoke for one address.
type Overlap struct {
	Address netip.Addr
	Hosts   [2]string // the first had it before
	From    time.Time
	Lasted  time.Duration
}

// Overlaps finds every time in which two hosts spoke for one address.
func Overlaps(claims []Claim) []Overlap {
	var out []Overlap
	all := Tenures(claims)
	for i, a := range all {
		for _, b := range all[i+1:] {
			if b.Address != a.Address || b.Host == a.Host || b.From.After(a.Till) {
				continue
			}
			till := a.Till
			if b.Till.Before(till) {
				till = b.Till
			}
			out = append(out, Overlap{a.Address, [2]string{a.Host, b.Host}, b.From, till.Sub(b.From)})
		}
	}
	return out
}
