package heartbeat

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"mainstay/fleet"
)

const (
	// tokenStep is how long a token is the newest; it is good for one step more.
	tokenStep = 10 * time.Second
	// quarrel is how long one of two senders must be silent before the other is
	// believed again.
	quarrel = 10 * time.Second
	// windowSize is how far, in counters, a datagram may be overtaken on its
	// network and still count.
	windowSize = 32
	// remembered is how many left sessions of a host are known by name, to tell
	// a second sender from a restart.
	remembered = 8
)

// peer is what a Conn knows of another host (or of its own, when it is its own ear).
type peer struct {
	name string

	// What it must show before its Beats and Asks are believed.
	secret cipher.Block // makes tokens; this process's own, never sent
	block  [16]byte     // scratch
	minted [2]struct {  // the newest tokens: each datagram shows one, and each answer brings one
		number, step uint32
		token        uint64
	}
	accepted uint32 // how many sessions have been accepted
	current  *session
	rival    *session // not nil: two senders live under this name
	left     []uint64 // sessions that were followed by another, newest last

	// What it wants to be shown, and the newest of our datagrams that it has
	// answered with a hello, for each lane; in the session helloed.
	token   uint64
	hello   [2]uint32
	helloed uint64

	acked map[string]fleet.Moment // by network: Sent of the newest Ack delivered
	keyID uint32                  // of its newest datagram: it surely holds this key
	boot  string
	lanes [kindEnd]*lane // by kind, those with which its datagrams are opened; once used
}

// session is one run of a peer's process.
type session struct {
	id     uint64
	number uint32 // accepted, before this one was
	from   netip.AddrPort
	last   fleet.Moment
	on     []sights
}

// sights are what was seen on one network, for each lane.
type sights struct {
	network string
	lanes   *[2]window
}

// lanes are those of a network. There are few, and a walk through them is cheaper than a look-up.
func (s *session) lanes(network string) *[2]window {
	for i := range s.on {
		if s.on[i].network == network {
			return s.on[i].lanes
		}
	}
	s.on = append(s.on, sights{network, new([2]window)})
	return s.on[len(s.on)-1].lanes
}

func newPeer(name string) *peer {
	var key [32]byte
	rand.Read(key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil { // 32 bytes are always right
		panic(err)
	}
	return &peer{name: name, secret: block, acked: map[string]fleet.Moment{}}
}

func step(at fleet.Moment) uint32 { return uint32(at / fleet.Moment(tokenStep)) }

// mint makes the token that the session numbered so must show during one step of
// the clock: a block cipher over unique input, so nobody can make one without
// the secret, and nothing needs to be stored for those who only knock.
func (p *peer) mint(number, step uint32) uint64 {
	m := &p.minted[step%2]
	if m.number == number && m.step == step && m.token != 0 {
		return m.token
	}
	b := &p.block
	*b = [16]byte{}
	binary.BigEndian.PutUint32(b[:], number)
	binary.BigEndian.PutUint32(b[4:], step)
	p.secret.Encrypt(b[:], b[:])
	m.number, m.step, m.token = number, step, binary.BigEndian.Uint64(b[:])
	return m.token
}

// newest is the token that a session of p should show at a moment: that of the
// accepted session, or the one by which an unknown session may prove itself.
func (p *peer) newest(id uint64, at fleet.Moment) uint64 {
	number := p.accepted
	if s := p.session(id); s != nil {
		number = s.number
	}
	return p.mint(number, step(at))
}

func (p *peer) session(id uint64) *session {
	for _, s := range [...]*session{p.current, p.rival} {
		if s != nil && s.id == id {
			return s
		}
	}
	return nil
}

// arrival is a Beat or Ask that has been opened.
type arrival struct {
	network string
	lane    int // 0: beats, 1: asks
	session uint64
	counter uint32
	tag     uint32 // the beginning of the seal, to tell a copy from another datagram
	token   uint64
	from    netip.AddrPort
	at      fleet.Moment
}

// freshness is what became of an arrival.
type freshness int

const (
	fresh    freshness = iota
	unproven           // answer it with a token
	replayed           // seen before, or overtaken too far
	disputed           // two senders: believed when one has been silent
)

// admit decides whether an arrival is fresh. The second result, when not empty,
// says why two senders must be alive.
func (p *peer) admit(a arrival) (freshness, string) {
	s := p.session(a.session)
	number := p.accepted
	if s != nil {
		number = s.number
	}
	now := step(a.at)
	if a.token != p.mint(number, now) && (now == 0 || a.token != p.mint(number, now-1)) {
		return unproven, ""
	}
	var conflict string
	if s == nil {
		s = &session{id: a.session, number: number}
		conflict = p.accept(s)
	}
	switch s.lanes(a.network)[a.lane].see(a.counter, a.tag) {
	case seenOther:
		return replayed, "one counter was used for two datagrams: this machine's memory has been cloned"
	case seenSame:
		return replayed, ""
	}
	s.from, s.last = a.from, a.at
	if p.rival == nil {
		return fresh, ""
	}
	other := p.current
	if other == s {
		other = p.rival
	}
	if a.at.Sub(other.last) < quarrel {
		return disputed, conflict
	}
	p.current, p.rival = s, nil
	p.leave(other)
	return fresh, ""
}

// accept makes a proven session the current one.
func (p *peer) accept(s *session) (conflict string) {
	p.accepted++
	if p.rival != nil {
		p.leave(p.rival)
		p.rival = p.current
		p.current = s
		return "a further process joined two that already live under this name"
	}
	old := p.current
	p.current = s
	if old == nil {
		return ""
	}
	if slices.Contains(p.left, s.id) {
		p.rival = old
		return "a process that another had followed speaks again"
	}
	p.leave(old)
	return ""
}

func (p *peer) leave(s *session) {
	p.left = append(p.left, s.id)
	if len(p.left) > remembered {
		p.left = slices.Delete(p.left, 0, 1)
	}
}

// window knows which counters have been seen.
type window struct {
	newest uint32
	seen   [windowSize]struct{ counter, tag uint32 }
}

type sight int

const (
	notSeen sight = iota
	seenSame
	seenOther
)

// see notes a counter; counters begin at 1. A counter so old that the window has
// moved past it counts as seen.
func (w *window) see(counter, tag uint32) sight {
	slot := &w.seen[counter%windowSize]
	switch {
	case counter == 0 || uint64(counter)+windowSize <= uint64(w.newest):
		return seenSame
	case slot.counter == counter && slot.tag == tag:
		return seenSame
	case slot.counter == counter:
		return seenOther
	}
	slot.counter, slot.tag = counter, tag
	w.newest = max(w.newest, counter)
	return notSeen
}
