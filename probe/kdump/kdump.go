// Package kdump hears the word of a host whose kernel has crashed and that now writes a dump
// of it: fence_kdump_send, of Debian's fence-agents, which kdump-tools' or dracut's crash kernel
// runs with the voters' addresses. It sends one datagram every ten seconds until the
// dump is written and the machine reboots.
//
// The message is two words in the sender's byte order, a magic number and a version, and
// nothing else: the address that it comes from is all that tells hosts apart, and nothing proves
// that address. So it is believed only of hosts of which the site's file says that they dump, and
// only beside the word of a majority of ears that hear nothing else of them.
package kdump

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// Port is fence_kdump's own.
const Port = 7410

const (
	magic   = 0x1B302A40
	version = 1
)

// Listen tells where each message comes from until ctx ends. On is what it listens on, such as
// ":7410" for all addresses of this host.
func Listen(ctx context.Context, on string, heard func(netip.Addr)) error {
	packets, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", on)
	if err != nil {
		return fmt.Errorf("listen for crash kernels: %w", err)
	}
	conn := packets.(*net.UDPConn)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	buf := make([]byte, 64)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("listen for crash kernels on %s: %w", on, err)
		case Is(buf[:n]):
			heard(from.Addr().Unmap())
		}
	}
}

// Is says whether a datagram is such a message, of a machine of either byte order.
func Is(b []byte) bool {
	if len(b) != 8 {
		return false
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if order.Uint32(b) == magic && order.Uint32(b[4:]) == version {
			return true
		}
	}
	return false
}
