package vip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Sever ends this host's TCP connections whose remote address is addr and, with
// local, also those whose own address it is. Their processes see ECONNABORTED at
// once. Without it, a connection that waits for an answer from an address which
// has moved waits for ever: nobody is left to send it a reset (HOLES 40).
// Listening sockets and those in TIME_WAIT are left alone. An address that this
// Set holds is not touched either, and n is 0: Claim severed it before it spoke,
// and what is there now is alive.
//
// It returns how many it ended. The error names the first that the kernel would
// not end; the others are ended all the same.
func (s *Set) Sever(ctx context.Context, addr netip.Addr, local bool) (n int, err error) {
	addr = addr.Unmap()
	s.mu.Lock()
	a := s.managed[addr]
	holds := a != nil && a.held
	s.mu.Unlock()
	if holds {
		return 0, nil
	}
	return s.flows.sever(ctx, addr, local)
}

// flows is the kernel's list of TCP connections of one network namespace.
type flows struct {
	mu sync.Mutex
	nl *netlink.Conn
}

func openFlows(ns int) (*flows, error) {
	nl, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: ns})
	if err != nil {
		return nil, fmt.Errorf("open socket diagnosis: %w", err)
	}
	return &flows{nl: nl}, nil
}

func (f *flows) close() { f.nl.Close() }

func (f *flows) sever(ctx context.Context, addr netip.Addr, local bool) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	families := []byte{unix.AF_INET6} // also holds IPv4 as ::ffff:a.b.c.d
	if addr.Is4() {
		families = append(families, unix.AF_INET)
	}
	var n int
	var failed error
	for _, family := range families {
		found, err := f.connections(family, addr, local)
		if err != nil {
			return n, fmt.Errorf("list TCP connections of %s: %w", addr, err)
		}
		for _, id := range found {
			if err := ctx.Err(); err != nil {
				return n, fmt.Errorf("end TCP connections of %s: %w", addr, err)
			}
			switch err := f.destroy(family, id); {
			case err == nil:
				n++
			case errors.Is(err, unix.ENOENT): // ended by itself meanwhile
			case failed == nil:
				failed = fmt.Errorf("end a TCP connection of %s: %w", addr, err)
			}
		}
	}
	return n, failed
}

// Of linux/inet_diag.h and linux/sock_diag.h.
const (
	sockDestroy = 21
	diagJump    = 1 // INET_DIAG_BC_JMP
	diagLocal   = 7 // INET_DIAG_BC_S_COND
	diagRemote  = 8 // INET_DIAG_BC_D_COND

	diagIDLength  = 48 // struct inet_diag_sockid
	diagMsgLength = 72 // struct inet_diag_msg
)

// severed are the TCP states that are ended: all in which a peer is, or is hoped
// to be, at the other end.
const severed = 1<<1 /* ESTABLISHED */ | 1<<2 /* SYN_SENT */ | 1<<3 /* SYN_RECV */ | 1<<4 /* FIN_WAIT1 */ |
	1<<5 /* FIN_WAIT2 */ | 1<<8 /* CLOSE_WAIT */ | 1<<9 /* LAST_ACK */ | 1<<11 /* CLOSING */ | 1<<12 /* NEW_SYN_RECV */

// connections returns the kernel's identity of each connection. The kernel does
// the choosing: a controller has tens of thousands of others.
func (f *flows) connections(family byte, addr netip.Addr, local bool) ([][]byte, error) {
	condition := diagCondition(diagRemote, addr)
	if local { // or: behind the first a jump over the second
		other := diagCondition(diagLocal, addr)
		condition = append(condition, diagJump, 4)
		condition = binary.NativeEndian.AppendUint16(condition, uint16(4+len(other)))
		condition = append(condition, other...)
	}
	body := diagRequest(family, severed, nil)
	body = binary.NativeEndian.AppendUint16(body, uint16(4+len(condition)))
	body = binary.NativeEndian.AppendUint16(body, 1) // INET_DIAG_REQ_BYTECODE
	body = append(body, condition...)
	msgs, err := f.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
		Data:   body,
	})
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, m := range msgs {
		if len(m.Data) >= diagMsgLength {
			out = append(out, m.Data[4:4+diagIDLength])
		}
	}
	return out, nil
}

func (f *flows) destroy(family byte, id []byte) error {
	_, err := f.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
		Data:   diagRequest(family, 0, id),
	})
	return err
}

// diagRequest is a struct inet_diag_req_v2.
func diagRequest(family byte, states uint32, id []byte) []byte {
	body := []byte{family, unix.IPPROTO_TCP, 0, 0}
	body = binary.NativeEndian.AppendUint32(body, states)
	return append(body, append(id[:len(id):len(id)], make([]byte, diagIDLength-len(id))...)...)
}

// diagCondition is one instruction for the kernel's filter: the address at that
// end is addr, on any port. If so the program goes on just behind it (at its end:
// accept), if not 4 bytes further (the length of a jump; behind the end: reject).
func diagCondition(end byte, addr netip.Addr) []byte {
	family := byte(unix.AF_INET6)
	if addr.Is4() {
		family = unix.AF_INET
	}
	length := 4 + 8 + addr.BitLen()/8
	program := []byte{end, byte(length)}
	program = binary.NativeEndian.AppendUint16(program, uint16(length+4))
	program = append(program, family, byte(addr.BitLen()), 0, 0, 255, 255, 255, 255)
	return append(program, addr.AsSlice()...)
}
