package heartbeat

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// testKeys derive every key from a master; only, when set, leaves just that host's.
type testKeys struct {
	current uint32
	held    []uint32
	only    string
}

func (k testKeys) Current() uint32 { return k.current }

func (k testKeys) Key(id uint32, host string) ([]byte, bool) {
	if !slices.Contains(k.held, id) || k.only != "" && host != k.only {
		return nil, false
	}
	key, err := hkdf.Key(sha256.New, []byte{byte(id)}, nil, host, 32)
	return key, err == nil
}

func voterKeys() testKeys           { return testKeys{current: 1, held: []uint32{1}} }
func hostKeys(host string) testKeys { return testKeys{current: 1, held: []uint32{1}, only: host} }

// wire joins Conns without sockets, under a clock that the test turns.
type wire struct {
	t    *testing.T
	now  fleet.Moment
	ends map[string]*end
}

// end is one Conn on the wire.
type end struct {
	*Conn
	w         *wire
	heard     []Datagram
	conflicts []Conflict
}

const net1, net2 = "management", "storage"

func newWire(t *testing.T) *wire {
	return &wire{t: t, now: fleet.Moment(time.Hour), ends: map[string]*end{}}
}

var everyone = []string{"c1", "c2", "c3", "n1"}

// start starts a host's process, or starts it anew.
func (w *wire) start(host, boot string, keys Keys) *end {
	w.t.Helper()
	e := &end{w: w}
	c, err := newConn(Config{
		Site: "beijing", Host: host, Boot: boot, Keys: keys, Peers: everyone,
		Now:  func() fleet.Moment { return w.now },
		Hear: func(d Datagram) { e.heard = append(e.heard, d) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	e.Conn = c
	w.ends[host] = e
	return e
}

func source(host string) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, host[1]}), 7400)
}

// seal returns the datagram that e would send.
func (e *end) sealed(to, network string, m Message) []byte {
	e.w.t.Helper()
	b, err := e.seal(nil, to, network, m, e.w.now)
	if err != nil {
		e.w.t.Fatalf("seal %s for %s: %v", m.kind(), to, err)
	}
	return b
}

// get lets a datagram arrive; a hello goes back to whoever sent it, and the
// message, when there is one, is returned.
func (e *end) get(from *end, network string, b []byte) Message {
	e.w.t.Helper()
	e.w.now += fleet.Moment(time.Millisecond)
	r := e.judge(network, slices.Clone(b), source(from.cfg.Host), e.w.now)
	if r.conflict.Why != "" {
		e.conflicts = append(e.conflicts, r.conflict)
	}
	if r.hello.to != 0 {
		hello, err := e.sealer.seal(nil, r.from, network, r.keyID, r.token, r.hello)
		if err != nil {
			e.w.t.Fatal(err)
		}
		if m := from.get(e, network, hello); m != nil {
			e.w.t.Fatalf("a hello was delivered as %v", m)
		}
	}
	return r.message
}

func (e *end) beat() Beat {
	return Beat{
		Stint: fleet.Stint{Host: e.cfg.Host, Boot: e.cfg.Boot, N: 3}, Sent: e.w.now,
		Late: fleet.GuardLate, Leased: true, Next: 50 * time.Millisecond, Lease: 300 * time.Millisecond,
	}
}

// meet lets host fetch its token from ear and be heard there once.
func meet(host, ear *end) {
	host.w.t.Helper()
	name := ear.cfg.Host
	if m := ear.get(host, net1, host.sealed(name, net1, host.beat())); m != nil {
		host.w.t.Fatalf("a beat without a token was delivered: %v", m)
	}
	if m := ear.get(host, net1, host.sealed(name, net1, host.beat())); m == nil {
		host.w.t.Fatalf("the beat after the hello was not delivered: %+v", ear.Stats())
	}
}

func TestEveryKindKeepsItsFields(t *testing.T) {
	added := map[kind]int{kindBeat: 16, kindAck: 8, kindAnswer: 8} // bytes, since the first version
	stint := fleet.Stint{Host: "n1", Boot: "0f8fad5b-d9cb-469f-a165-70867728950e", N: 7}
	for _, want := range []Message{
		Beat{Stint: stint, Sent: 1 << 50, Late: 10 * time.Millisecond, Leased: true, Next: time.Second, Lease: 5 * time.Second},
		Beat{Stint: stint},
		Beat{Stint: stint, Blind: true},
		Beat{Stint: stint, Spared: true},
		Beat{Stint: stint, Leased: true, News: 1 << 60, Wall: time.Unix(1_800_000_000, 7)},
		Ack{Stint: stint, Sent: 99},
		Ack{Stint: stint, Sent: 99, News: 1 << 60},
		Ask{Epoch: 5, Round: math.MaxUint64, Stint: stint, Evict: true, Silence: 350 * time.Millisecond},
		Ask{Stint: stint},
		Answer{Epoch: 5, Round: 8, Stint: stint, Promised: true},
		Answer{Stint: stint, Why: "heard 20 ms ago"},
		Answer{Stint: stint, Promised: true, Silent: 12330 * time.Millisecond},
		hello{to: kindBeatHello, session: 1 << 63, counter: math.MaxUint32},
	} {
		b, err := appendBody(nil, net1, 42, want)
		if err != nil {
			t.Fatalf("%#v: %v", want, err)
		}
		known := names{sender: "n1", self: "n1"}
		later := append(slices.Clone(b), "a field of version 2"...)
		for _, in := range [][]byte{b, later} {
			got, err := parseBody(want.kind(), in, known)
			if err != nil {
				t.Fatalf("%#v: %v", want, err)
			}
			if diff := cmp.Diff(body{network: net1, token: 42, message: want}, got, cmp.AllowUnexported(body{}, hello{})); diff != "" {
				t.Errorf("%s (-sent +got):\n%s", want.kind(), diff)
			}
		}
		for n := range b {
			var earlier Message // its version ends here
			switch m := want.(type) {
			case Answer:
				m.Silent = 0 // and vouches for no silence
				earlier = m
			case Beat:
				m.News, m.Wall = 0, time.Time{}
				earlier = m
			case Ack:
				m.News = 0
				earlier = m
			}
			if earlier != nil && n == len(b)-added[want.kind()] {
				if got, err := parseBody(want.kind(), b[:n], known); err != nil || got.message != earlier {
					t.Errorf("the %s of an earlier version: %+v, %v", want.kind(), got, err)
				}
				continue
			}
			if got, err := parseBody(want.kind(), b[:n], known); err == nil {
				t.Errorf("%s cut to %d of %d bytes was taken for %+v", want.kind(), n, len(b), got)
			}
		}
	}
}

func TestLongNamesAreRefusedAndLongReasonsCut(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, m := range []Message{Beat{Stint: fleet.Stint{Boot: long}}, Ask{Stint: fleet.Stint{Host: long}}, Answer{Stint: fleet.Stint{Boot: long}}} {
		if _, err := appendBody(nil, net1, 0, m); err == nil {
			t.Errorf("%s with a name of 300 bytes was encoded", m.kind())
		}
	}
	b, err := appendBody(nil, net1, 0, Answer{Why: long})
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseBody(kindAnswer, b, names{})
	if err != nil || len(got.message.(Answer).Why) != maxWhy {
		t.Errorf("reason of 300 bytes: %v, %v", got, err)
	}
}

func TestFirstBeatFetchesATokenAndTheNextCounts(t *testing.T) {
	w := newWire(t)
	n1, c1 := w.start("n1", "b1", hostKeys("n1")), w.start("c1", "b1", voterKeys())
	meet(n1, c1)
	want := n1.beat()
	got := c1.get(n1, net2, n1.sealed("c1", net2, want))
	if diff := cmp.Diff(Message(want), got); diff != "" {
		t.Errorf("on a second network, no new token is needed (-sent +got):\n%s", diff)
	}
	ack := Ack{Stint: want.Stint, Sent: want.Sent}
	sealed := c1.sealed("n1", net1, ack)
	if diff := cmp.Diff(Message(ack), n1.get(c1, net1, sealed)); diff != "" {
		t.Errorf("ack (-sent +got):\n%s", diff)
	}
	if m := n1.get(c1, net1, sealed); m != nil {
		t.Errorf("the ack was delivered twice: %v", m)
	}
}

func TestVotersAskAndAnswer(t *testing.T) {
	w := newWire(t)
	c1, c2 := w.start("c1", "b1", voterKeys()), w.start("c2", "b1", voterKeys())
	ask := Ask{Epoch: 4, Round: 1, Stint: fleet.Stint{Host: "n1", Boot: "x", N: 1}, Evict: true, Silence: 350 * time.Millisecond}
	if m := c2.get(c1, net1, c1.sealed("c2", net1, ask)); m != nil {
		t.Fatalf("an ask without a token was delivered: %v", m)
	}
	recorded := c1.sealed("c2", net1, ask)
	if diff := cmp.Diff(Message(ask), c2.get(c1, net1, recorded)); diff != "" {
		t.Errorf("ask (-sent +got):\n%s", diff)
	}
	if m := c2.get(c1, net1, recorded); m != nil {
		t.Errorf("a recorded ask was delivered again: %v", m)
	}
	// A token got through asks serves for beats too, and the other way round.
	if m := c2.get(c1, net1, c1.sealed("c2", net1, c1.beat())); m == nil {
		t.Error("the beat of a host that had proved itself by an ask was refused")
	}
	answer := Answer{Epoch: 4, Round: 1, Stint: ask.Stint, Promised: true}
	if diff := cmp.Diff(Message(answer), c1.get(c2, net1, c2.sealed("c1", net1, answer))); diff != "" {
		t.Errorf("answer (-sent +got):\n%s", diff)
	}
}

func TestAHostCannotSpeakForOthers(t *testing.T) {
	w := newWire(t)
	n1, c1 := w.start("n1", "b1", hostKeys("n1")), w.start("c1", "b1", voterKeys())
	if _, err := n1.seal(nil, "c1", net1, Ask{}, w.now); err == nil {
		t.Error("a compute node could seal an ask")
	}
	// n1 does what it can: it seals under its own key and says it is c2.
	thief := w.start("c2", "b1", thiefKeys{hostKeys("n1"), "n1"})
	for _, m := range []Message{thief.beat(), Ask{}, Answer{}} {
		before := c1.Stats().Sealed
		if got := c1.get(thief, net1, thief.sealed("c1", net1, m)); got != nil || c1.Stats().Sealed != before+1 {
			t.Errorf("%s of c2 under n1's key: got %v, stats %+v", m.kind(), got, c1.Stats())
		}
	}
	// And it cannot acknowledge beats of another host.
	c3 := w.start("c3", "b1", hostKeys("c3"))
	if got := c3.get(thief, net1, thief.sealed("c3", net1, Ack{Stint: c3.beat().Stint, Sent: 1})); got != nil {
		t.Errorf("c3 took an ack under n1's key: %v", got)
	}
}

// thiefKeys pass one host's key off as anyone's.
type thiefKeys struct {
	testKeys
	own string
}

func (k thiefKeys) Key(id uint32, _ string) ([]byte, bool) { return k.testKeys.Key(id, k.own) }

func TestRefusals(t *testing.T) {
	w := newWire(t)
	n1, c1, c2 := w.start("n1", "b1", hostKeys("n1")), w.start("c1", "b1", voterKeys()), w.start("c2", "b1", voterKeys())
	meet(n1, c1)
	meet(n1, c2)
	good := func() []byte { return n1.sealed("c1", net1, n1.beat()) }
	change := func(at int, to byte) []byte {
		b := good()
		b[at] = to
		return b
	}
	for _, test := range []struct {
		name string
		b    []byte
		net  string
		want Stats
	}{
		{"empty", nil, net1, Stats{Form: 1}},
		{"noise", bytes.Repeat([]byte{'m'}, 20), net1, Stats{Form: 1}},
		{"another protocol", change(0, 'x'), net1, Stats{Form: 1}},
		{"a later version", change(1, 2), net1, Stats{Version: 1}},
		{"no such kind", change(2, byte(kindEnd)), net1, Stats{Form: 1}},
		{"kind changed on the way", change(2, byte(kindAck)), net1, Stats{Sealed: 1}},
		{"the length of the name changed", change(3, maxName), net1, Stats{Unknown: 1}},
		{"no name", change(3, 0), net1, Stats{Form: 1}},
		{"key that nobody has", change(7, 9), net1, Stats{Sealed: 1}},
		{"another site", change(8, 0), net1, Stats{Site: 1}},
		{"counter changed", change(27, 250), net1, Stats{Sealed: 1}},
		{"unknown host", change(29, '9'), net1, Stats{Unknown: 1}},
		{"another host", append(slices.Concat(good()[:28], []byte("c2")), good()[30:]...), net1, Stats{Sealed: 1}},
		{"body changed", change(40, 1), net1, Stats{Sealed: 1}},
		{"recorded on another network", good(), net2, Stats{Network: 1}},
		{"recorded before another ear", n1.sealed("c2", net1, n1.beat()), net1, Stats{Unproven: 1}},
	} {
		c1.stats = Stats{}
		if m := c1.get(n1, test.net, test.b); m != nil {
			t.Errorf("%s: delivered %v", test.name, m)
		}
		if diff := cmp.Diff(test.want, c1.Stats()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	c1.SetPeers([]string{"c1", "c2"})
	c1.stats = Stats{}
	if m := c1.get(n1, net1, good()); m != nil || c1.Stats().Unknown != 1 {
		t.Errorf("a host that was removed: delivered %v, %+v", m, c1.Stats())
	}
}

// A recording of everything that was ever heard, played to the ear in each
// situation in which it has forgotten something.
func TestRecordingsNeverCount(t *testing.T) {
	record := func(t *testing.T) (w *wire, n1, c1 *end, tape [][]byte) {
		w = newWire(t)
		n1, c1 = w.start("n1", "b1", hostKeys("n1")), w.start("c1", "b1", voterKeys())
		meet(n1, c1)
		for range 40 {
			tape = append(tape, n1.sealed("c1", net1, n1.beat()))
			if c1.get(n1, net1, tape[len(tape)-1]) == nil {
				t.Fatalf("beat refused: %+v", c1.Stats())
			}
		}
		return w, n1, c1, tape
	}
	play := func(t *testing.T, c1, as *end, tape [][]byte) {
		t.Helper()
		for i, b := range tape {
			if m := c1.get(as, net1, b); m != nil {
				t.Fatalf("datagram %d of the recording was believed: %v", i, m)
			}
		}
		if len(c1.conflicts) > 0 {
			t.Errorf("the recording was taken for a second sender: %v", c1.conflicts)
		}
	}
	t.Run("at once", func(t *testing.T) {
		_, n1, c1, tape := record(t)
		play(t, c1, n1, tape)
	})
	t.Run("after the ear restarted", func(t *testing.T) {
		w, n1, _, tape := record(t)
		c1 := w.start("c1", "b1", voterKeys())
		play(t, c1, n1, tape)
		if m := c1.get(n1, net1, n1.sealed("c1", net1, n1.beat())); m == nil {
			t.Error("the living host was not heard after it")
		}
		play(t, c1, n1, tape)
	})
	t.Run("after the host's agent restarted", func(t *testing.T) {
		w, _, c1, tape := record(t)
		n1 := w.start("n1", "b1", hostKeys("n1"))
		meet(n1, c1)
		play(t, c1, n1, tape)
		if m := c1.get(n1, net1, n1.sealed("c1", net1, n1.beat())); m == nil {
			t.Error("the living host was not heard after it")
		}
	})
	t.Run("of an earlier boot, while the later one fetches its token", func(t *testing.T) {
		w, _, c1, tape := record(t)
		n1 := w.start("n1", "b2", hostKeys("n1"))
		if m := c1.get(n1, net1, n1.sealed("c1", net1, n1.beat())); m != nil {
			t.Fatal("delivered without a token")
		}
		play(t, c1, n1, tape) // must not displace the token that b2 just got
		if m, ok := c1.get(n1, net1, n1.sealed("c1", net1, n1.beat())).(Beat); !ok || m.Stint.Boot != "b2" {
			t.Errorf("the new boot was not heard: %v", m)
		}
		play(t, c1, n1, tape)
	})
	t.Run("held back, never heard before", func(t *testing.T) {
		w, n1, c1, _ := record(t)
		held := n1.sealed("c1", net1, n1.beat())
		soon := n1.sealed("c1", net1, n1.beat())
		w.now = w.now.Add(tokenStep / 2)
		if c1.get(n1, net1, soon) == nil {
			t.Error("late by half a step, a beat must still count")
		}
		w.now = w.now.Add(2 * tokenStep)
		play(t, c1, n1, [][]byte{held})
	})
	t.Run("of hellos", func(t *testing.T) {
		w, n1, _, _ := record(t)
		c1 := w.start("c1", "b1", voterKeys())
		// The ear's answer to an older datagram arrives after the newer one's.
		b := n1.sealed("c1", net1, n1.beat())
		r := c1.judge(net1, b, source("n1"), w.now)
		old, err := c1.sealer.seal(nil, "n1", net1, 1, r.token+1, r.hello)
		if err != nil {
			t.Fatal(err)
		}
		if c1.get(n1, net1, n1.sealed("c1", net1, n1.beat())) != nil {
			t.Fatal("delivered without a token")
		}
		n1.get(c1, net1, old)
		if c1.get(n1, net1, n1.sealed("c1", net1, n1.beat())) == nil {
			t.Error("a recorded hello displaced the token")
		}
	})
}

func TestOvertakenDatagramsCountOnce(t *testing.T) {
	w := newWire(t)
	n1, c1 := w.start("n1", "b1", hostKeys("n1")), w.start("c1", "b1", voterKeys())
	meet(n1, c1)
	var sent [][]byte
	for range windowSize + 1 {
		sent = append(sent, n1.sealed("c1", net1, n1.beat()))
	}
	for i, b := range slices.Backward(sent) {
		if got := c1.get(n1, net1, b) != nil; got != (i > 0) {
			t.Errorf("datagram %d of %d in reverse: heard %v", i, len(sent), got)
		}
	}
	for i, b := range sent {
		if c1.get(n1, net1, b) != nil {
			t.Errorf("datagram %d heard twice", i)
		}
	}
}

func TestTokenIsRenewedByAcks(t *testing.T) {
	w := newWire(t)
	n1, c1 := w.start("n1", "b1", hostKeys("n1")), w.start("c1", "b1", voterKeys())
	meet(n1, c1)
	for i := range 30 { // two and a half minutes at one beat in 5 s
		w.now = w.now.Add(5 * time.Second)
		beat := n1.beat()
		if c1.get(n1, net1, n1.sealed("c1", net1, beat)) == nil {
			t.Fatalf("beat %d was not heard: %+v", i, c1.Stats())
		}
		n1.get(c1, net1, c1.sealed("n1", net1, Ack{Stint: beat.Stint, Sent: beat.Sent}))
	}
	w.now = w.now.Add(time.Hour) // cut off, and back
	if c1.get(n1, net1, n1.sealed("c1", net1, n1.beat())) != nil {
		t.Error("a token of an hour ago was good")
	}
	if c1.get(n1, net1, n1.sealed("c1", net1, n1.beat())) == nil {
		t.Error("not heard after an hour's cut")
	}
}

func TestNoNonceTwice(t *testing.T) {
	w := newWire(t)
	seen := map[string]bool{}
	note := func(e *end, to string, m Message) {
		t.Helper()
		b := e.sealed(to, net1, m)
		// The key is the owner's; two owners may share a nonce.
		use := fmt.Sprintf("%s %x", m.kind().owner(e.cfg.Host, to), b[16:28])
		if seen[use] {
			t.Fatalf("nonce used twice: %s", use)
		}
		seen[use] = true
	}
	for range 3 { // processes
		c1, c2 := w.start("c1", "b1", voterKeys()), w.start("c2", "b1", voterKeys())
		for round := range 100 {
			if round == 50 { // the counter runs out
				c1.sealer.lane("c1").counter = math.MaxUint32 - 10
			}
			for _, to := range []string{"c1", "c2", "c3"} {
				note(c1, to, c1.beat())
				note(c2, to, Ack{})
				note(c1, to, Ask{})
				note(c2, to, Answer{})
			}
		}
	}
}

func TestCounterRunsOut(t *testing.T) {
	w := newWire(t)
	n1, c1 := w.start("n1", "b1", hostKeys("n1")), w.start("c1", "b1", voterKeys())
	meet(n1, c1)
	n1.sealer.lane("n1").counter = math.MaxUint32 - 3
	lost := 0
	for range 10 {
		if c1.get(n1, net1, n1.sealed("c1", net1, n1.beat())) == nil {
			lost++
		}
	}
	if lost != 1 || len(c1.conflicts) > 0 {
		t.Errorf("lost %d beats, want the 1 that fetches a token; conflicts %v", lost, c1.conflicts)
	}
}

func TestRotation(t *testing.T) {
	w := newWire(t)
	n1, c1 := w.start("n1", "b1", hostKeys("n1")), w.start("c1", "b1", voterKeys())
	meet(n1, c1)
	exchange := func(step string) {
		t.Helper()
		beat := n1.beat()
		if c1.get(n1, net1, n1.sealed("c1", net1, beat)) == nil {
			t.Fatalf("%s: beat lost: %+v", step, c1.Stats())
		}
		if n1.get(c1, net1, c1.sealed("n1", net1, Ack{Stint: beat.Stint, Sent: beat.Sent})) == nil {
			t.Fatalf("%s: ack lost: %+v", step, n1.Stats())
		}
	}
	both := []uint32{1, 2}
	c1.SetKeys(testKeys{current: 1, held: both})
	exchange("the voter holds both")
	c1.SetKeys(testKeys{current: 2, held: both})
	exchange("the voter seals with the new one, which the host lacks: it answers under the old")
	n1.SetKeys(testKeys{current: 1, held: both, only: "n1"})
	exchange("both hold both")
	n1.SetKeys(testKeys{current: 2, held: both, only: "n1"})
	exchange("the host seals with the new one")
	c1.SetKeys(testKeys{current: 2, held: []uint32{2}})
	n1.SetKeys(testKeys{current: 2, held: []uint32{2}, only: "n1"})
	exchange("the old one is gone")
	n1.SetKeys(hostKeys("n1"))
	if c1.get(n1, net1, n1.sealed("c1", net1, n1.beat())) != nil || c1.Stats().Sealed != 1 {
		t.Errorf("a beat under the retired key was heard: %+v", c1.Stats())
	}
}

func TestTwoSendersUnderOneName(t *testing.T) {
	w := newWire(t)
	c1 := w.start("c1", "b1", voterKeys())
	one := w.start("n1", "b1", hostKeys("n1"))
	meet(one, c1)
	two := w.start("n1", "b2", hostKeys("n1"))
	meet(two, c1) // as after a reboot: no conflict yet
	if len(c1.conflicts) > 0 {
		t.Fatalf("a reboot was taken for a second sender: %v", c1.conflicts)
	}
	beat := func(e *end) bool { return c1.get(e, net1, e.sealed("c1", net1, e.beat())) != nil }
	beat(one) // fetches a token: the first machine is alive after all
	for i := range 100 {
		if beat(one) || beat(two) {
			t.Fatalf("round %d: one of two senders was believed", i)
		}
		w.now = w.now.Add(50 * time.Millisecond)
	}
	if len(c1.conflicts) != 1 {
		t.Fatalf("want one report, have %v", c1.conflicts)
	}
	if got := c1.conflicts[0]; got.Host != "n1" || got.Why == "" || !got.Other.IsValid() {
		t.Errorf("report: %+v", got)
	}
	// The false one is switched off; the ear hears the other again by itself.
	heard := fleet.Moment(0)
	silent := w.now
	for w.now.Sub(silent) < 3*quarrel && heard == 0 {
		if beat(two) {
			heard = w.now
		}
		w.now = w.now.Add(50 * time.Millisecond)
	}
	if heard == 0 || heard.Sub(silent) < quarrel/2 {
		t.Errorf("heard again %v after the other fell silent", heard.Sub(silent))
	}
}

func TestClonedMemoryIsReported(t *testing.T) {
	w := newWire(t)
	n1, c1 := w.start("n1", "b1", hostKeys("n1")), w.start("c1", "b1", voterKeys())
	meet(n1, c1)
	before := n1.sealer.lane("n1").counter
	first := n1.sealed("c1", net1, n1.beat())
	n1.sealer.lane("n1").counter = before // the clone goes on from the same memory
	w.now = w.now.Add(time.Millisecond)
	second := n1.sealed("c1", net1, n1.beat())
	if c1.get(n1, net1, first) == nil {
		t.Fatal("not heard")
	}
	if c1.get(n1, net1, first) != nil || len(c1.conflicts) != 0 {
		t.Errorf("a datagram doubled by the network: conflicts %v", c1.conflicts)
	}
	if c1.get(n1, net1, second) != nil || len(c1.conflicts) != 1 {
		t.Errorf("a clone's datagram: conflicts %v", c1.conflicts)
	}
}

func TestAcknowledgedFromTheFuture(t *testing.T) {
	w := newWire(t)
	n1, c1 := w.start("n1", "b1", hostKeys("n1")), w.start("c1", "b1", voterKeys())
	meet(n1, c1)
	ack := Ack{Stint: n1.beat().Stint, Sent: w.now.Add(time.Minute)}
	if n1.get(c1, net1, c1.sealed("n1", net1, ack)) != nil || len(n1.conflicts) != 1 {
		t.Errorf("conflicts: %v, stats %+v", n1.conflicts, n1.Stats())
	}
	other := Ack{Stint: fleet.Stint{Host: "n1", Boot: "b0", N: 3}, Sent: w.now}
	if m := n1.get(c1, net1, c1.sealed("n1", net1, other)); m != nil {
		t.Errorf("an ack of another boot was delivered: %v", m)
	}
}

func TestOnlyOnesOwnBeats(t *testing.T) {
	w := newWire(t)
	n1 := w.start("n1", "b1", hostKeys("n1"))
	n1.sockets[net1] = nil
	for _, stint := range []fleet.Stint{{Host: "c1", Boot: "b1"}, {Host: "n1", Boot: "b0"}} {
		if err := n1.Send("c1", net1, source("c1"), Beat{Stint: stint}); err == nil {
			t.Errorf("sent a beat of %+v", stint)
		}
	}
	delete(n1.sockets, net1)
}

func TestConfigErrorsNameWhatIsWrong(t *testing.T) {
	good := Config{Site: "s", Host: "c1", Boot: "b", Keys: voterKeys(), Hear: func(Datagram) {}}
	long := strings.Repeat("x", maxName+1)
	for want, change := range map[string]func(*Config){
		"host name":    func(c *Config) { c.Host = "" },
		"boot id":      func(c *Config) { c.Boot = long },
		"keys":         func(c *Config) { c.Keys = nil },
		"hearer":       func(c *Config) { c.Hear = nil },
		"network name": func(c *Config) { c.Networks = map[string]netip.AddrPort{long: netip.MustParseAddrPort("127.0.0.1:0")} },
		"management":   func(c *Config) { c.Networks = map[string]netip.AddrPort{net1: {}} },
	} {
		cfg := good
		change(&cfg)
		c, err := Open(cfg)
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, have %v", want, err)
		}
	}
}

// Whatever arrives, nothing panics, and nothing without its seal is delivered.
func FuzzJudge(f *testing.F) {
	w := &wire{now: fleet.Moment(time.Hour)}
	ear, err := newConn(Config{Site: "beijing", Host: "c1", Boot: "b1", Keys: voterKeys(), Peers: everyone, Hear: func(Datagram) {}})
	if err != nil {
		f.Fatal(err)
	}
	s := newSealer("beijing", "n1", voterKeys())
	for _, m := range []Message{Beat{Stint: fleet.Stint{Host: "n1", Boot: "b1"}}, Ack{}, Ask{}, Answer{Why: "no"}, hello{to: kindAskHello}} {
		b, err := s.seal(nil, "c1", net1, 1, 0, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		binary.BigEndian.PutUint32(b[4:], 2)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r := ear.judge(net1, b, source("n1"), w.now); r.message != nil {
			if _, proven := r.message.(Beat); proven {
				t.Errorf("delivered %v", r.message)
			}
		}
	})
}

// Whatever is inside a seal, decoding does not panic, and what is decoded
// encodes to the same bytes.
func FuzzParseBody(f *testing.F) {
	stint := fleet.Stint{Host: "n1", Boot: "b1", N: 1}
	for _, m := range []Message{Beat{Stint: stint, Leased: true}, Ack{Stint: stint}, Ask{Stint: stint, Evict: true}, Answer{Stint: stint, Why: "no"}, hello{to: kindBeatHello}} {
		b, err := appendBody(nil, net1, 7, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(m.kind()), b)
	}
	f.Fuzz(func(t *testing.T, k byte, b []byte) {
		got, err := parseBody(kind(k), b, names{sender: "n1", self: "n1"})
		if err != nil {
			return
		}
		again, err := appendBody(nil, got.network, got.token, got.message)
		if err != nil {
			return // longer than we would send; judged by the network's name or the ear
		}
		if back, err := parseBody(kind(k), again, names{sender: "n1", self: "n1"}); err != nil || back != cut(got) {
			t.Errorf("%+v became %+v, %v", got, back, err)
		}
	})
}

func cut(b body) body {
	if a, ok := b.message.(Answer); ok {
		a.Why = a.Why[:min(len(a.Why), maxWhy)]
		b.message = a
	}
	return b
}
