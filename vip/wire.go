package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// wire speaks ARP and neighbour discovery. Its sockets stay open: to open and
// close a packet socket for each announcement costs 26 ms instead of 0.04 ms.
//
// Packet sockets go past the guard. IPv6 advertisements are therefore sent from
// a raw ICMPv6 socket, which does not; ARP has no other way, which is why the
// sender looks at the clock just before, and why a holder defends its address.
type wire struct {
	packet *os.File // AF_PACKET: sends ARP and solicitations, hears ARP of managed senders
	icmp   *os.File // raw ICMPv6: sends and hears advertisements; nil if the host has no IPv6
}

// Of ARP (for Ethernet and IPv4) and of neighbour discovery.
const (
	arpRequest = 1
	arpLength  = 28
	arpSender  = 14 // offsets of the two addresses
	arpTarget  = 24

	ndSolicit = 135
	ndAdvert  = 136
)

// heard is one announcement, answer or request that names a managed address as its sender.
type heard struct {
	addr netip.Addr
	mac  net.HardwareAddr // empty if an advertisement did not tell
	link int
}

func openWire(ns int) (*wire, error) {
	w := &wire{}
	err := inside(ns, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		w.packet = os.NewFile(uintptr(fd), "packet")
		// Deaf until the filter stands, bound only then.
		if err := w.listen(nil); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: big16(unix.ETH_P_ARP)}); err != nil {
			return fmt.Errorf("bind packet socket: %w", err)
		}
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("open icmp6 socket: %w", err)
		}
		w.icmp = os.NewFile(uintptr(fd), "icmp6")
		filter := unix.ICMPv6Filter{}
		for i := range filter.Data {
			filter.Data[i] = ^uint32(0) // a set bit blocks
		}
		filter.Data[ndAdvert>>5] &^= 1 << (ndAdvert & 31)
		return errors.Join(
			os.NewSyscallError("filter icmp6", unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter)),
			os.NewSyscallError("set hop limit", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)),
			os.NewSyscallError("stop multicast loop", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0)),
			os.NewSyscallError("ask for interface", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)))
	})
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *wire) close() {
	if w.packet != nil {
		w.packet.Close()
	}
	if w.icmp != nil {
		w.icmp.Close()
	}
}

// inside runs f in the network namespace of the file descriptor, 0 being our own.
// The thread that has been there is never used again.
func inside(ns int, f func() error) error {
	if ns == 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// listen lets only ARP from these senders through to us, so that a busy network
// does not wake the agent.
func (w *wire) listen(addrs []netip.Addr) error {
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: arpSender, Size: 4}}
	for _, a := range addrs {
		if a.Is4() {
			b := a.As4()
			program = append(program,
				bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(b[:]), SkipTrue: 1},
				bpf.RetConstant{Val: arpLength})
		}
	}
	program = append(program, bpf.RetConstant{Val: 0})
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble the ARP filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	conn, err := w.packet.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = conn.Control(func(fd uintptr) {
		inner = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	})
	if err = errors.Join(err, inner); err != nil {
		return fmt.Errorf("filter ARP: %w", err)
	}
	return nil
}

// hearARP gives every packet that the filter lets through to f, until close.
func (w *wire) hearARP(f func(heard)) {
	buf := make([]byte, 128)
	receive(w.packet, func(fd int) error {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && n >= arpLength {
			if addr, ok := netip.AddrFromSlice(buf[arpSender : arpSender+4]); ok {
				f(heard{addr: addr, mac: net.HardwareAddr(append([]byte(nil), buf[8:14]...)), link: ll.Ifindex})
			}
		}
		return nil
	})
}

// hearNA gives every advertisement to f, until close.
func (w *wire) hearNA(f func(heard)) {
	if w.icmp == nil {
		return
	}
	buf, oob := make([]byte, 1500), make([]byte, 128)
	receive(w.icmp, func(fd int) error {
		n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, 0)
		if err != nil {
			return err
		}
		if n < 24 || buf[0] != ndAdvert {
			return nil
		}
		h := heard{addr: netip.AddrFrom16([16]byte(buf[8:24]))}
		for options := buf[24:n]; len(options) >= 8; {
			length := int(options[1]) * 8
			if length == 0 || length > len(options) {
				break
			}
			if options[0] == 2 { // target link-layer address
				h.mac = append(h.mac, options[2:8]...)
				break
			}
			options = options[length:]
		}
		if control, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
			for _, c := range control {
				if c.Header.Level == unix.IPPROTO_IPV6 && c.Header.Type == unix.IPV6_PKTINFO && len(c.Data) >= 20 {
					h.link = int(binary.NativeEndian.Uint32(c.Data[16:20]))
				}
			}
		}
		f(h)
		return nil
	})
}

// receive calls f whenever the socket can be read, until it is closed.
func receive(file *os.File, f func(fd int) error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return
	}
	for {
		err := conn.Read(func(fd uintptr) bool {
			err := f(int(fd))
			return !errors.Is(err, unix.EAGAIN) // ENETDOWN and the like: the socket lives on
		})
		if err != nil {
			return
		}
	}
}

// announce tells every neighbour on the link that addr is at mac: ARP as a
// *request*, because a kernel ignores a gratuitous reply for 1 s after it has
// last learnt (HOLES 38), or an unsolicited advertisement with override.
func (w *wire) announce(addr netip.Addr, link int, mac net.HardwareAddr) error {
	if addr.Is4() {
		return w.sendARP(addr, addr, link, mac)
	}
	if w.icmp == nil {
		return unix.EAFNOSUPPORT
	}
	target := addr.As16()
	msg := make([]byte, 0, 32)
	msg = append(msg, ndAdvert, 0, 0, 0, 0x20, 0, 0, 0) // the kernel sums; override
	msg = append(msg, target[:]...)
	msg = append(msg, 2, 1)
	msg = append(msg, mac...)
	control := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: target, Ifindex: uint32(link)})
	to := &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(link)}
	return send(w.icmp, func(fd int) error { return unix.Sendmsg(fd, msg, control, to, 0) })
}

// probe asks who has addr without claiming it: no neighbour learns anything from it.
func (w *wire) probe(addr netip.Addr, link int, mac net.HardwareAddr) error {
	if addr.Is4() {
		return w.sendARP(netip.IPv4Unspecified(), addr, link, mac)
	}
	target := addr.As16()
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(group[13:], target[13:])
	body := make([]byte, 24)
	body[0] = ndSolicit
	copy(body[8:], target[:])
	packet := make([]byte, 40, 64)
	packet[0] = 6 << 4
	binary.BigEndian.PutUint16(packet[4:], uint16(len(body)))
	packet[6], packet[7] = unix.IPPROTO_ICMPV6, 255
	copy(packet[24:], group[:]) // the sender stays ::
	binary.BigEndian.PutUint16(body[2:], checksum6(packet[8:40], body))
	packet = append(packet, body...)
	to := [8]byte{0x33, 0x33, group[12], group[13], group[14], group[15]}
	return send(w.packet, func(fd int) error {
		return unix.Sendto(fd, packet, 0, &unix.SockaddrLinklayer{Protocol: big16(unix.ETH_P_IPV6), Ifindex: link, Halen: 6, Addr: to})
	})
}

func (w *wire) sendARP(sender, target netip.Addr, link int, mac net.HardwareAddr) error {
	msg := make([]byte, 0, arpLength)
	msg = append(msg, 0, 1, 8, 0, 6, 4, 0, arpRequest)
	msg = append(msg, mac...)
	msg = append(msg, sender.AsSlice()...)
	msg = append(msg, 0, 0, 0, 0, 0, 0)
	msg = append(msg, target.AsSlice()...)
	to := [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	return send(w.packet, func(fd int) error {
		return unix.Sendto(fd, msg, 0, &unix.SockaddrLinklayer{Protocol: big16(unix.ETH_P_ARP), Ifindex: link, Halen: 6, Addr: to})
	})
}

func send(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	// One try: an announcement that does not fit is made again soon.
	err = conn.Write(func(fd uintptr) bool { inner = f(int(fd)); return true })
	return errors.Join(err, inner)
}

// checksum6 sums ICMPv6 with its pseudo header; addresses are source and destination.
func checksum6(addresses, body []byte) uint16 {
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6
	for _, b := range [][]byte{addresses, body} {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// big16 is htons.
func big16(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
