package store

import (
	"context"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"
)

// mindStreams does what etcd means to do and does not: give up a stream on which nothing is
// heard for 5 s, and dial anew. In 3.7.3 that deadline is in the Dial of its
// NewTimeoutTransport, and net/http prefers the DialContext that stands beside it. What a
// cut left half dead then lives until TCP's next try, which comes as late as the cut was
// long, at most 2 minutes: after a cut of 14 s a voter was in touch with all hosts for 12 s
// before its store heard the leader. etcd has no setting for it and no hook, so what this
// process dialed is looked up and given the kernel's keepalive.
func mindStreams(ctx context.Context, e *embed.Etcd) {
	for sleep(ctx, asked) == nil {
		peers := map[netip.AddrPort]bool{}
		for _, v := range e.Server.Cluster().Members() {
			for _, p := range v.PeerURLs {
				if u, err := url.Parse(p); err == nil {
					if a, err := netip.ParseAddrPort(u.Host); err == nil {
						peers[a] = true
					}
				}
			}
		}
		mind(peers)
	}
}

// mind looks once at what this process dialed at peers.
func mind(peers map[netip.AddrPort]bool) {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, f := range open {
		// One that is closed and used anew meanwhile is asked too: no harm.
		if fd, err := strconv.Atoi(f.Name()); err == nil && peers[dialed(fd)] {
			keepAlive(fd)
			unanswered(fd)
		}
	}
}

// dialed is to where a socket is connected; zero if it is no connected socket of TCP's.
func dialed(fd int) netip.AddrPort {
	switch a, _ := unix.Getpeername(fd); a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

const (
	asked   = 2 * time.Second // of silence, and the other side's kernel is asked
	givenUp = 5 * time.Second // and then this is over, as etcd means it
)

// keepAlive has the kernel ask after 2 s of silence, and end the connection after 5. A
// stream is never silent for so long (etcd writes each 1.7 s), and a voter that only hangs
// keeps it. Nothing is asked while something of our own waits for its acknowledgement.
func keepAlive(fd int) {
	const idle = int(asked / time.Second)
	if now, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE); err != nil || now == idle {
		return // it is closed, or has it
	}
	// It may be closed by now. What was not set is set at the next look: idle comes last.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, int((givenUp-asked)/time.Second))
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle)
}

// unanswered ends, after 5 s, a connection on which something of our own waits for its
// acknowledgement: a request for a stream that the cut caught on its way. It does so only
// while the other side's kernel says nothing at all. One whose disk is slow acknowledges
// every question whether there is room again, so that no snapshot ends by this.
func unanswered(fd int) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return // it is closed
	}
	after := time.Duration(0) // the kernel's own: a quarter of an hour
	if info.Unacked > 0 && time.Duration(info.Last_ack_recv)*time.Millisecond > asked {
		after = givenUp
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds())) // it may be closed by now
}
