package guests

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// played is a libvirt that knows some guests, each with what becomes of a question to its agent.
type played struct {
	mu    sync.Mutex
	of    map[string]play // by id
	pings int             // on their way at present
	most  int             // at once so far
	calls map[uint32]int  // by procedure, those of QEMU's own from 1000 on
}

// play is one guest.
type play struct {
	channel string              // the state of its channel; "" it has none
	then    string              // that from the question on; "" the same
	code    libvirt.ErrorNumber // of the answer; 0: it answers
	after   time.Duration       // until then
	never   bool                // no answer at all
	gone    bool                // no such domain
}

// The procedures of libvirt's protocol that Agents uses.
const (
	connectOpen, authList, getXML, agentCommand uint32 = 1, 66, 14, 3
	qemuProgram                                 uint32 = 0x20008087
)

func (p *played) listen(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p.calls = map[uint32]int{}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	return path
}

func (p *played) serve(conn net.Conn) {
	defer conn.Close()
	var writing sync.Mutex
	for {
		var head [7]uint32
		if binary.Read(conn, binary.BigEndian, &head) != nil {
			return
		}
		body := make([]byte, head[0]-28)
		if _, err := io.ReadFull(conn, body); err != nil {
			return
		}
		go func() {
			status, answer, none := p.answer(head[1], head[3], body)
			if none {
				return
			}
			var out bytes.Buffer
			_ = binary.Write(&out, binary.BigEndian, []uint32{uint32(28 + len(answer)), head[1], head[2], head[3], 1, head[5], status})
			out.Write(answer)
			writing.Lock()
			defer writing.Unlock()
			_, _ = conn.Write(out.Bytes())
		}()
	}
}

// answer is what it says to one call; the domain's name is its id here.
func (p *played) answer(program, call uint32, body []byte) (status uint32, answer []byte, none bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if program == qemuProgram {
		p.calls[1000+call]++
	} else {
		p.calls[call]++
	}
	switch {
	case program != qemuProgram && call == authList:
		return 0, words(uint32(1), uint32(0)), false
	case program != qemuProgram && call == connectOpen:
		return 0, nil, false
	}
	id := string(body[4 : 4+binary.BigEndian.Uint32(body)])
	g, known := p.of[id]
	switch {
	case !known || g.gone:
		return 1, failure(libvirt.ErrNoDomain), false
	case program != qemuProgram && call == getXML:
		text := "<domain><devices><channel type='unix'><target type='virtio' name='com.redhat.spice.0' state='connected'/></channel>"
		if g.channel != "" {
			text += fmt.Sprintf("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='%s'/></channel>", g.channel)
		}
		return 0, words(text + "</devices></domain>"), false
	case program == qemuProgram && call == agentCommand && bytes.Contains(body, []byte(`{"execute":"guest-ping"}`)):
		p.pings++
		p.most = max(p.most, p.pings)
		p.mu.Unlock()
		time.Sleep(g.after)
		p.mu.Lock()
		p.pings--
		if g.then != "" {
			g.channel = g.then
			p.of[id] = g
		}
		if g.code != 0 {
			return 1, failure(g.code), g.never
		}
		return 0, words(uint32(1), `{"return":{}}`), g.never
	}
	return 1, failure(libvirt.ErrNoSupport), false
}

// words encodes numbers and texts as XDR does.
func words(all ...any) []byte {
	var out bytes.Buffer
	for _, w := range all {
		if s, text := w.(string); text {
			_ = binary.Write(&out, binary.BigEndian, uint32(len(s)))
			out.WriteString(s + strings.Repeat("\x00", -len(s)&3))
			continue
		}
		_ = binary.Write(&out, binary.BigEndian, w)
	}
	return out.Bytes()
}

func failure(code libvirt.ErrorNumber) []byte {
	z := uint32(0)
	return words(uint32(code), uint32(10), uint32(1), "so it was", uint32(2), z, z, z, z, z, z, z)
}

func id(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", n) }

// TestAgents: only who holds its channel open and lets a whole patience pass is silent; whatever
// comes at once, or of libvirt itself, is not the guest's silence.
func TestAgents(t *testing.T) {
	t.Parallel()
	long := Patience + 100*time.Millisecond
	p := &played{of: map[string]play{
		id(1): {channel: "connected"},
		id(2): {channel: "connected", code: libvirt.ErrAgentUnresponsive, after: long},
		id(3): {channel: "disconnected", code: libvirt.ErrAgentUnresponsive},
		id(4): {},
		id(5): {channel: "connected", code: libvirt.ErrAgentUnresponsive},                                 // "not available due to an error", at once
		id(6): {channel: "connected", code: libvirt.ErrAgentCommandTimeout, after: long, then: "waiting"}, // it went while it was asked
		id(7): {gone: true},
		id(8): {channel: "connected", code: libvirt.ErrAgentUnsynced, after: long},    // it answers an older question
		id(9): {channel: "connected", code: libvirt.ErrOperationTimeout, after: long}, // somebody else speaks to it
		id(0): {channel: "connected", code: libvirt.ErrAgentCommandFailed},            // it refuses, and so is there
	}}
	path := p.listen(t)
	a := OpenAgents(path, path)
	defer a.Close()
	var ids []string
	for n := range 10 {
		ids = append(ids, id(n))
	}
	got, err := a.Ask(t.Context(), ids)
	want := map[string]Word{id(1): Answers, id(2): Silent, id(3): None, id(4): None, id(6): None, id(0): Answers}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v\nwant %v", got, err, want)
	}
}

// TestAgentsAFewAtOnce: of many that are silent a few are asked at once, however many there are.
func TestAgentsAFewAtOnce(t *testing.T) {
	t.Parallel()
	p := &played{of: map[string]play{}}
	var ids []string
	for n := range 3 * together {
		p.of[id(n)] = play{channel: "connected", after: 50 * time.Millisecond}
		ids = append(ids, id(n))
	}
	path := p.listen(t)
	a := OpenAgents(path, path)
	defer a.Close()
	if got, err := a.Ask(t.Context(), ids); err != nil || len(got) != len(ids) || p.most != together {
		t.Errorf("%d answers, %v, %d at once", len(got), err, p.most)
	}
}

// TestNobodyHasAnAgent: then the socket for who may change things is not even opened.
func TestNobodyHasAnAgent(t *testing.T) {
	t.Parallel()
	look, talk := &played{of: map[string]play{id(1): {}, id(2): {channel: "disconnected"}}}, &played{}
	a := OpenAgents(look.listen(t), talk.listen(t))
	defer a.Close()
	if got, err := a.Ask(t.Context(), []string{id(1), id(2)}); err != nil || len(got) != 2 || len(talk.calls) > 0 {
		t.Errorf("%v, %v, and over the other socket %v", got, err, talk.calls)
	}
}

// TestLibvirtIsSilent: a libvirt that answers nothing makes nobody silent, and the rest is not waited for.
func TestLibvirtIsSilent(t *testing.T) {
	t.Parallel()
	p := &played{of: map[string]play{}}
	var ids []string
	for n := range 3 * together {
		p.of[id(n)] = play{channel: "connected", never: true}
		ids = append(ids, id(n))
	}
	path := p.listen(t)
	a := OpenAgents(path, path)
	defer a.Close()
	begun := time.Now()
	got, err := a.Ask(t.Context(), ids)
	if took := time.Since(begun); !errors.Is(err, ErrUnknown) || len(got) > 0 || took > 4*Patience {
		t.Errorf("%v, %v after %v", got, err, took)
	}
	none := OpenAgents(path, filepath.Join(t.TempDir(), "none"))
	defer none.Close()
	if got, err := none.Ask(t.Context(), ids); !errors.Is(err, ErrNone) || len(got) > 0 {
		t.Errorf("without the second socket: %v, %v", got, err)
	}
	mute, err := net.Listen("unix", filepath.Join(t.TempDir(), "mute"))
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	hung := OpenAgents(mute.Addr().String(), path)
	defer hung.Close()
	if got, err := hung.Ask(t.Context(), ids); !errors.Is(err, ErrUnknown) || len(got) > 0 {
		t.Errorf("one that takes the connection and says nothing: %v, %v", got, err)
	}
}
