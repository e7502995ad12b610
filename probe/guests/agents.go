package guests

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// Word is what came of a question to a guest's agent. Of a guest without one nothing is known: libvirt did not
// answer, or somebody else speaks to its agent at the moment.
type Word string

// The words.
const (
	Answers Word = "answers"
	Silent  Word = "silent" // the guest holds its end of the channel open, and nothing came in Patience
	None    Word = "none"   // no channel, or nobody in the guest has it open: that agent was stopped, or never started
)

const (
	// Patience is how long libvirt waits for an agent. It asks it for a sign of life first, and waits for that
	// as long (qemuAgentGuestSync), so its own answer takes twice that at most.
	Patience = 5 * time.Second
	// together is how many agents are asked at once: libvirtd has 20 threads for all of its clients, of which
	// nova-compute is one, and a silent agent holds one up.
	together = 4
)

// TalkSockets are where libvirt listens for who may change things. It lets nobody else speak to guests' agents: a
// reader could hold them up (CVE-2019-3886).
var TalkSockets = []string{"/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"}

// channel is the name of the agent's channel, which Nova gives a guest whose image says hw_qemu_guest_agent.
const channel = "org.qemu.guest_agent.0"

// Agents asks guests' agents. Which guest has one, and holds its channel open, is read over the socket for readers:
// where nobody does, nothing else is opened. It is used by one goroutine.
type Agents struct {
	look, talk line
}

// OpenAgents prepares the questions. Without sockets it takes Sockets and TalkSockets; else the
// first is for readers and the second for who talks.
func OpenAgents(sockets ...string) *Agents {
	if len(sockets) == 2 {
		return &Agents{line{sockets: sockets[:1]}, line{sockets: sockets[1:]}}
	}
	return &Agents{line{sockets: Sockets}, line{sockets: TalkSockets}}
}

// Close ends the connections.
func (a *Agents) Close() {
	a.look.close()
	a.talk.close()
}

// Ask asks the agents of guests that run, each within twice Patience and a little, a few at once. An error is ErrNone, or
// ErrUnknown: libvirt did not answer, and what was learned before it fell silent is returned all the same.
func (a *Agents) Ask(ctx context.Context, ids []string) (map[string]Word, error) {
	out, open := map[string]Word{}, []string{}
	states, err := a.channels(ctx, ids)
	if err != nil {
		return out, err
	}
	for _, id := range ids {
		switch holds, known := states[id]; {
		case known && holds:
			open = append(open, id)
		case known:
			out[id] = None
		}
	}
	words, failed := make([]Word, len(open)), make([]error, len(open))
	width := make(chan struct{}, together)
	var all sync.WaitGroup
	var mute atomic.Bool // libvirt itself: the others would wait for nothing
	for i, id := range open {
		all.Go(func() {
			width <- struct{}{}
			defer func() { <-width }()
			if ctx.Err() == nil && !mute.Load() {
				words[i], failed[i] = a.ping(ctx, id)
				mute.Store(mute.Load() || failed[i] != nil)
			}
		})
	}
	all.Wait()
	err = cmp.Or(failed...)
	var doubted []string
	for i, id := range open {
		if words[i] != "" {
			out[id] = words[i]
		}
		if words[i] == Silent {
			doubted = append(doubted, id)
		}
	}
	if len(doubted) == 0 || err != nil {
		for _, id := range doubted {
			delete(out, id)
		}
		return out, err
	}
	// An agent that went while it was asked left its channel: it is none, not silent.
	states, err = a.channels(ctx, doubted)
	for _, id := range doubted {
		switch holds, known := states[id]; {
		case !known:
			delete(out, id)
		case !holds:
			out[id] = None
		}
	}
	return out, err
}

// channels says of each guest whether somebody in it holds the agent's channel open. One that has ended meanwhile is not in it.
func (a *Agents) channels(ctx context.Context, ids []string) (map[string]bool, error) {
	out := map[string]bool{}
	if len(ids) == 0 {
		return out, nil
	}
	err := a.look.within(ctx, Deadline, func(virt *libvirt.Libvirt) error {
		for _, id := range ids {
			text, err := virt.DomainGetXMLDesc(domain(id), 0)
			switch code, said := codeOf(err); {
			case err == nil:
				out[id] = holds(text)
			case !said:
				return err
			case code != libvirt.ErrNoDomain:
				return fmt.Errorf("describe %s: %w", id, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ping asks one agent whether it is there.
func (a *Agents) ping(ctx context.Context, id string) (word Word, err error) {
	err = a.talk.within(ctx, 2*Patience+2*time.Second, func(virt *libvirt.Libvirt) error {
		begun := time.Now()
		_, err := virt.QEMUDomainAgentCommand(domain(id), `{"execute":"guest-ping"}`, int32(Patience/time.Second), 0)
		switch code, said := codeOf(err); {
		case err == nil, code == libvirt.ErrAgentCommandFailed: // it was told so by the agent
			word = Answers
		case !said:
			return err
		case (code == libvirt.ErrAgentUnresponsive || code == libvirt.ErrAgentCommandTimeout) && time.Since(begun) > Patience-time.Second:
			// The same error that comes at once says that nobody was asked.
			word = Silent
		}
		return nil
	})
	return word, err
}

// codeOf is the number of libvirt's own error; said is false where libvirt said nothing.
func codeOf(err error) (code libvirt.ErrorNumber, said bool) {
	e, said := errors.AsType[libvirt.Error](err)
	return libvirt.ErrorNumber(e.Code), said
}

// domain names a guest by its id.
func domain(id string) libvirt.Domain {
	d := libvirt.Domain{Name: id}
	_, _ = hex.Decode(d.UUID[:], []byte(strings.ReplaceAll(id, "-", ""))) // it was written by name
	return d
}

// holds says whether a guest's description has the channel of an agent, open at the guest's end.
func holds(text string) bool {
	var d struct {
		Targets []struct {
			Name  string `xml:"name,attr"`
			State string `xml:"state,attr"`
		} `xml:"devices>channel>target"`
	}
	if xml.Unmarshal([]byte(text), &d) != nil {
		return false
	}
	for _, t := range d.Targets {
		if t.Name == channel && t.State == "connected" {
			return true
		}
	}
	return false
}

// line is a connection that several may use at once, and that is given up when something takes too long on it.
type line struct {
	sockets []string
	mu      sync.Mutex
	conn    net.Conn // nil: not connected
	virt    *libvirt.Libvirt
}

// within carries do out on the connection, made anew if there is none. Errors are ErrNone or ErrUnknown, but for an
// error of libvirt's own, after which the connection stays.
func (l *line) within(ctx context.Context, span time.Duration, do func(*libvirt.Libvirt) error) error {
	virt, err := l.open(ctx)
	switch {
	case errors.Is(err, ErrNone):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	got := make(chan error, 1)
	go func() { got <- do(virt) }()
	late := time.NewTimer(span)
	defer late.Stop()
	select {
	case err := <-got:
		if _, said := codeOf(err); err == nil || said {
			return err
		}
		l.drop(virt)
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	case <-ctx.Done():
	case <-late.C:
	}
	l.drop(virt)
	<-got //nolint:errcheck // too late to count; but who writes down what was learned has ended
	return fmt.Errorf("%w within %v", ErrUnknown, span)
}

func (l *line) open(ctx context.Context) (*libvirt.Libvirt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.virt != nil {
		return l.virt, nil
	}
	conn, err := reach(ctx, l.sockets)
	if err != nil {
		return nil, err
	}
	// One that takes the connection and says nothing would be waited for with the lock held.
	greeting, met := context.WithTimeout(ctx, Deadline)
	defer met()
	end := context.AfterFunc(greeting, func() { conn.Close() })
	virt := libvirt.NewWithDialer(dialers.NewAlreadyConnected(conn))
	if err := virt.Connect(); !end() || err != nil {
		conn.Close()
		return nil, cmp.Or(err, ErrUnknown)
	}
	l.conn, l.virt = conn, virt
	return virt, nil
}

func (l *line) close() { l.drop(nil) }

// drop ends the connection if it is that one, or whichever it is.
func (l *line) drop(virt *libvirt.Libvirt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil && (virt == nil || l.virt == virt) {
		l.conn.Close()
		l.conn, l.virt = nil, nil
	}
}
