package heartbeat

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// socket is one network's UDP socket with its reader. It calls recvmmsg itself
// rather than through x/net: the reader has to know when the socket was empty,
// which x/net hides, and needs no allocation for an address.
type socket struct {
	network string
	udp     *net.UDPConn
	raw     syscall.RawConn
	local   netip.AddrPort

	sending sync.Mutex // guards all that begins with out, and replies
	out     []byte
	outLen  int
	outTo   unix.RawSockaddrInet6 // large enough for either family
	outSize uintptr
	outErr  error
	outFunc func(fd uintptr) bool

	replies   *batch // to what the present read brought; made for the first one, as most hosts never reply
	waiting   int    // how many of them
	replyFunc func(fd uintptr) bool

	mu     sync.Mutex
	asking []chan struct{} // callers of drain whom no read has served yet
	closed bool
	wanted chan struct{} // ends a pause of the reader: somebody asks, or closes the socket
}

// batchSize is how many datagrams one system call may bring.
const batchSize = 32

// pause is how long the reader of a busy socket rests, so that it need not be woken for each
// datagram: busy is how many one brings within twice that time, and the beats of two thousand hosts on one
// network are. A beat waits for its acknowledgement that much longer at most, a small part of any lease.
const (
	pause = 2 * time.Millisecond
	busy  = 4
)

// receiveBuffer holds what arrives while the process is late: a second of the
// beats of a thousand hosts.
const receiveBuffer = 4 << 20

func openSocket(network string, local netip.AddrPort) (*socket, error) {
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	if !local.IsValid() || local.Addr().Zone() != "" {
		return nil, errors.New("not an address that can be listened on (link-local ones cannot)")
	}
	family := "udp4"
	if local.Addr().Is6() {
		family = "udp6"
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) { err = prepare(int(fd), local.Addr().Is6()) }); e != nil {
			return e
		}
		return err
	}}
	pc, err := config.ListenPacket(context.Background(), family, local.String())
	if err != nil {
		return nil, err
	}
	s := &socket{network: network, udp: pc.(*net.UDPConn), out: make([]byte, 0, maxSize), wanted: make(chan struct{}, 1)}
	s.outFunc, s.replyFunc = s.sendto, s.sendmmsg
	s.local = s.udp.LocalAddr().(*net.UDPAddr).AddrPort()
	s.local = netip.AddrPortFrom(s.local.Addr().Unmap(), s.local.Port())
	if s.raw, err = s.udp.SyscallConn(); err != nil {
		s.udp.Close()
		return nil, err
	}
	return s, nil
}

// prepare sets the options of a socket before it is bound.
func prepare(fd int, six bool) error {
	// An address that is not up yet must not keep the agent from starting.
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
		return os.NewSyscallError("setsockopt IP_FREEBIND", err)
	}
	// A wish only: without CAP_NET_ADMIN the kernel caps it.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	// Class selector 6, network control: beats go before bulk in a full queue.
	const cs6 = 0xc0
	if six {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, cs6)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, cs6)
	}
	return nil
}

// write sends b at once or not at all. The caller holds sending.
func (s *socket) write(b []byte, to netip.AddrPort) error {
	size, err := s.address(&s.outTo, to)
	if err != nil {
		return err
	}
	s.out, s.outLen, s.outSize = b[:0], len(b), uintptr(size)
	if err := s.raw.Write(s.outFunc); err != nil {
		return err
	}
	return s.outErr
}

// address writes down an address as the kernel wants it.
func (s *socket) address(sa *unix.RawSockaddrInet6, to netip.AddrPort) (size uint32, err error) {
	addr := to.Addr().Unmap()
	if !to.IsValid() || addr.Is4() != s.local.Addr().Is4() || addr.Zone() != "" {
		return 0, errors.New("not an address of this network's family")
	}
	*sa = unix.RawSockaddrInet6{}
	if addr.Is4() {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		four.Family, four.Addr = unix.AF_INET, addr.As4()
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&four.Port))[:], to.Port())
		return unix.SizeofSockaddrInet4, nil
	}
	sa.Family, sa.Addr = unix.AF_INET6, addr.As16()
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], to.Port())
	return unix.SizeofSockaddrInet6, nil
}

// room is where the next reply is to be sealed. The caller holds sending.
func (s *socket) room() []byte {
	switch {
	case s.replies == nil:
		s.replies = newBatch()
	case s.waiting == batchSize:
		s.flush()
	}
	return s.replies.buffers[s.waiting][:0]
}

// reply puts b, which is in room, behind the replies that wait. The caller holds sending.
func (s *socket) reply(b []byte, to netip.AddrPort) error {
	size, err := s.address(&s.replies.from[s.waiting], to)
	if err != nil {
		return err
	}
	s.replies.vectors[s.waiting].SetLen(len(b))
	s.replies.messages[s.waiting].head.Namelen = size
	s.waiting++
	return nil
}

// flush sends the replies that wait. The caller holds sending.
func (s *socket) flush() {
	if s.waiting > 0 {
		_ = s.raw.Write(s.replyFunc) // of a closed socket nothing is sent
		s.waiting = 0
	}
}

// sendmmsg calls the kernel as sendto does. It ends at the first datagram that it cannot send, which is lost;
// the others are not.
func (s *socket) sendmmsg(fd uintptr) bool {
	for i := 0; i < s.waiting; {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&s.replies.messages[i])), uintptr(s.waiting-i), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			i += int(n)
		case unix.EINTR:
		default:
			i++
		}
	}
	return true
}

// sendto calls the kernel without a word to Go's scheduler, as receive does: neither
// call ever waits, and each word would wake the scheduler's own watcher at every beat.
func (s *socket) sendto(fd uintptr) bool {
	for {
		_, _, e := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.out))), uintptr(s.outLen),
			unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&s.outTo)), s.outSize)
		switch e {
		case 0:
			s.outErr = nil
		case unix.EINTR:
			continue
		default:
			s.outErr = os.NewSyscallError("sendto", e)
		}
		return true
	}
}

// message is struct mmsghdr.
type message struct {
	head unix.Msghdr
	size uint32
}

// batch is the memory of one reader, or of the replies to what it reads.
type batch struct {
	messages [batchSize]message
	vectors  [batchSize]unix.Iovec
	from     [batchSize]unix.RawSockaddrInet6 // of replies: where they go
	buffers  [batchSize][maxSize]byte
}

func newBatch() *batch {
	b := &batch{}
	for i := range b.messages {
		b.vectors[i].Base = &b.buffers[i][0]
		b.vectors[i].SetLen(maxSize)
		h := &b.messages[i].head
		h.Iov = &b.vectors[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.from[i]))
	}
	return b
}

// receive takes up to batchSize waiting datagrams; EAGAIN means there were none.
func (b *batch) receive(fd uintptr) (int, error) {
	for i := range b.messages {
		b.messages[i].head.Namelen = unix.SizeofSockaddrInet6
	}
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.messages[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
			continue
		}
		return 0, e
	}
}

// get returns the i-th datagram and its sender; one too long to be ours is empty.
func (b *batch) get(i int) ([]byte, netip.AddrPort) {
	var from netip.AddrPort
	sa := &b.from[i]
	switch sa.Family {
	case unix.AF_INET:
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		from = netip.AddrPortFrom(netip.AddrFrom4(four.Addr), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&four.Port))[:]))
	case unix.AF_INET6:
		from = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:]))
	}
	size := int(b.messages[i].size)
	if size > maxSize || b.messages[i].head.Flags&unix.MSG_TRUNC != 0 {
		size = 0
	}
	return b.buffers[i][:size], from
}

// read gives every datagram to handle until the socket is closed.
func (s *socket) read(handle func([]byte, netip.AddrPort, fleet.Moment), now func() fleet.Moment, failed func()) {
	b := newBatch()
	var serving []chan struct{} // who asked before the read that is under way
	defer func() {
		s.mu.Lock()
		s.closed = true
		serving = append(serving, s.asking...)
		s.asking = nil
		s.mu.Unlock()
		for _, done := range serving {
			close(done)
		}
	}()
	var since fleet.Moment
	brought, rest := 0, false // brought since then; rest: that is busy
	timer := time.NewTimer(0)
	defer timer.Stop()
	pump := func(fd uintptr) bool {
		failures := 0
		for {
			s.mu.Lock()
			serving = append(serving, s.asking...)
			s.asking = nil
			s.mu.Unlock()
			n, err := b.receive(fd)
			if n > 0 {
				at := now()
				if at.Sub(since) > 2*pause {
					since, brought = at, 0
				}
				brought += n
				for i := range n {
					datagram, from := b.get(i)
					handle(datagram, from, at)
				}
				s.sending.Lock()
				s.flush()
				s.sending.Unlock()
			}
			if n == batchSize {
				continue
			}
			if err != nil && !errors.Is(err, unix.EAGAIN) {
				// An ICMP error, told once, or ENOMEM, for a while: not an empty socket.
				failed()
				if failures++; failures < 8 {
					continue
				}
				return false
			}
			// Fewer than were wanted: the socket was empty at that moment.
			for _, done := range serving {
				close(done)
			}
			serving = serving[:0]
			rest = brought >= busy
			return rest
		}
	}
	for {
		err := s.raw.Read(pump)
		if err == nil && rest {
			since, brought, rest = now(), 0, false
			timer.Reset(pause)
			select {
			case <-timer.C:
			case <-s.wanted:
			}
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		// Woken by drain; the read that follows serves it.
		if s.udp.SetReadDeadline(time.Time{}) != nil {
			return
		}
	}
}

// drain asks the reader to empty the socket; the channel is closed when it has.
func (s *socket) drain() (chan struct{}, error) {
	done := make(chan struct{})
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, net.ErrClosed
	}
	s.asking = append(s.asking, done)
	s.mu.Unlock()
	s.stir()
	return done, s.udp.SetReadDeadline(time.Unix(1, 0))
}

// stir ends a pause of the reader.
func (s *socket) stir() {
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

func (s *socket) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
