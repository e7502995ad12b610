// Package guests asks this host's libvirt which machines are on it and how they are.
//
// One question tells all of them (the statistics of all domains, of which only the state is
// asked for, so that no guest's own monitor is spoken to and a hung one hangs nobody); events
// only say that it is worth asking again at once. Every question has a deadline. One that is not
// answered is ErrUnknown: libvirt hangs or is away, and that says nothing of the guests, which
// run without it.
//
// It speaks libvirt's own protocol over its read-only socket, by digitalocean's library, and so
// can change nothing. A domain's UUID is Nova's id of the server.
//
// Guests' own agents (qemu-ga) are asked apart (Agents), for libvirt waits for each, and lets only who could change
// things speak to them: with guest-ping, which does nothing in a guest, not even in one whose file systems are frozen.
// libvirt calls a guest "tainted" for it (custom-ga-command), which means nothing else.
package guests

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// State is how a machine is, as far as a decision tells it apart.
type State string

// The states.
const (
	Runs    State = "runs"    // it is there: also paused, or on its way down
	Ended   State = "ended"   // it was shut down, destroyed, saved or moved, or never started
	Crashed State = "crashed" // its process died without having been told to, or its kernel panicked
)

// Machine is one machine.
type Machine struct {
	State State
	// Life is libvirt's number of this run of it: with another one it was started anew.
	Life int32
	// Awake: it runs, and is neither paused nor on its way down. Who is not cannot answer.
	Awake bool
}

// Deadline is how long one question may take.
const Deadline = 5 * time.Second

var (
	// ErrNone: this host has no libvirt.
	ErrNone = errors.New("no libvirt has a socket here")
	// ErrUnknown: libvirt did not answer in time, or is away.
	ErrUnknown = errors.New("libvirt does not answer")
)

// Sockets are where libvirt listens for who only looks: the daemon for QEMU of its own, or the
// one for all. On a host with the former the latter is only a proxy to it.
var Sockets = []string{"/run/libvirt/virtqemud-sock-ro", "/run/libvirt/libvirt-sock-ro"}

// Libvirt is this host's. It is used by one goroutine.
type Libvirt struct {
	sockets []string
	changed chan struct{}
	mu      sync.Mutex
	conn    net.Conn // nil: not connected
	virt    *libvirt.Libvirt
	end     context.CancelFunc // of its events
}

// Open prepares the questions; nothing is connected before the first. Without sockets it takes
// Sockets.
func Open(sockets ...string) *Libvirt {
	if len(sockets) == 0 {
		sockets = Sockets
	}
	return &Libvirt{sockets: sockets, changed: make(chan struct{}, 1)}
}

// Changed yields when some machine started, ended or crashed, or the connection ended.
func (l *Libvirt) Changed() <-chan struct{} { return l.changed }

func (l *Libvirt) poke() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// Close ends the connection.
func (l *Libvirt) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		l.end()
		l.conn.Close()
		l.conn, l.virt = nil, nil
	}
}

// Look asks how every machine is, by id, within Deadline. Errors are ErrNone or ErrUnknown.
func (l *Libvirt) Look(ctx context.Context) (map[string]Machine, error) {
	type answer struct {
		states map[string]Machine
		err    error
	}
	got := make(chan answer, 1)
	go func() {
		states, err := l.ask(ctx)
		got <- answer{states, err}
	}()
	// The library knows no deadlines, and takes one on the connection for a passing fault: so
	// what takes too long loses its connection.
	late := time.NewTimer(Deadline)
	defer late.Stop()
	select {
	case a := <-got:
		if a.err != nil {
			l.Close()
		}
		return a.states, a.err
	case <-ctx.Done():
	case <-late.C:
	}
	l.Close()
	return nil, fmt.Errorf("%w within %v", ErrUnknown, Deadline)
}

func (l *Libvirt) ask(ctx context.Context) (map[string]Machine, error) {
	virt, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	all, err := virt.ConnectGetAllDomainStats(nil, uint32(libvirt.DomainStatsState), uint32(libvirt.ConnectGetAllDomainsStatsNowait))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	out := make(map[string]Machine, len(all))
	for _, d := range all {
		state, reason := int32(-1), int32(0)
		for _, p := range d.Params {
			n, _ := p.Value.I.(int32)
			switch p.Field {
			case "state.state":
				state = n
			case "state.reason":
				reason = n
			}
		}
		out[name(d.Dom.UUID)] = Machine{word(libvirt.DomainState(state), libvirt.DomainShutoffReason(reason)), d.Dom.ID, libvirt.DomainState(state) == libvirt.DomainRunning}
	}
	return out, nil
}

// name writes a UUID as Nova does.
func name(id libvirt.UUID) string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func word(state libvirt.DomainState, reason libvirt.DomainShutoffReason) State {
	switch {
	case state == libvirt.DomainCrashed, state == libvirt.DomainShutoff && reason == libvirt.DomainShutoffCrashed:
		return Crashed
	case state == libvirt.DomainShutoff:
		return Ended
	}
	return Runs
}

// connect returns the connection, made anew if there is none.
func (l *Libvirt) connect(ctx context.Context) (*libvirt.Libvirt, error) {
	l.mu.Lock()
	virt := l.virt
	l.mu.Unlock()
	if virt != nil {
		return virt, nil
	}
	conn, err := reach(ctx, l.sockets)
	if err != nil {
		return nil, err
	}
	events, end := context.WithCancel(ctx)
	l.mu.Lock()
	l.conn, l.end = conn, end // so that a hung beginning can be ended
	l.mu.Unlock()
	virt = libvirt.NewWithDialer(dialers.NewAlreadyConnected(conn))
	if err := virt.Connect(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	stream, err := virt.LifecycleEvents(events)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	go func() {
		for range stream {
			l.poke()
		}
		l.mu.Lock()
		if l.conn == conn {
			l.conn, l.virt = nil, nil
		}
		l.mu.Unlock()
		conn.Close()
		l.poke()
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != conn {
		return nil, ErrUnknown
	}
	l.virt = virt
	return virt, nil
}

// reach connects to the first of some sockets that is there.
func reach(ctx context.Context, sockets []string) (net.Conn, error) {
	for _, path := range sockets {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		d := net.Dialer{Timeout: Deadline}
		conn, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		return conn, nil
	}
	return nil, ErrNone
}
