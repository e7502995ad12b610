package heartbeat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// Config says who speaks, on which networks, and who is told what is heard.
type Config struct {
	Site string // its name; datagrams of other sites are refused
	Host string // this host's name, at most 64 bytes
	Boot string // this boot, at most 64 bytes
	// Networks gives, by network, this host's own address to send from and listen
	// on. The address need not be up yet. Port 0 takes any free one.
	Networks map[string]netip.AddrPort
	Keys     Keys
	// Peers are the hosts that may be heard; on a voter, itself among them if its
	// own beats reach its own ear through this Conn.
	Peers []string
	// Hear is given every message that is authentic and fresh. Calls never
	// overlap. It must return quickly, may call Send and Reply, and must not call
	// Drain, SetPeers or Close.
	Hear func(Datagram)
	// Conflict, when set, is told at most once in ten seconds for each host that
	// two machines speak under its name. The same limits apply as to Hear.
	Conflict func(Conflict)
	// Now reads the host's clock; nil means CLOCK_BOOTTIME.
	Now func() fleet.Moment
}

// Datagram is a message that arrived.
type Datagram struct {
	Message Message
	Host    string // the sender, authenticated
	Network string // on which it arrived, and for which it was sealed
	From    netip.AddrPort
	At      fleet.Moment // when it was taken from its socket; never early
}

// Conflict says that two machines live under one name.
type Conflict struct {
	Host    string
	Network string
	From    netip.AddrPort // of the datagram that showed it
	Other   netip.AddrPort // of the other sender, when known
	Why     string
}

// Stats counts what became of datagrams since Open.
type Stats struct {
	Heard    uint64 `json:"heard"`    // delivered to Hear
	Spared   uint64 `json:"spared"`   // of these, beats that want no acknowledgement
	Form     uint64 `json:"form"`     // not ours, or cut short
	Version  uint64 `json:"version"`  // of another version
	Site     uint64 `json:"site"`     // of another site
	Unknown  uint64 `json:"unknown"`  // from a host that is not among the peers
	Sealed   uint64 `json:"sealed"`   // the seal is wrong, or its key is not held
	Network  uint64 `json:"network"`  // sealed for another network
	Unproven uint64 `json:"unproven"` // no good token; answered with one
	Replayed uint64 `json:"replayed"` // seen before
	Disputed uint64 `json:"disputed"` // two senders under one name
	Read     uint64 `json:"read"`     // errors of the socket when reading
}

// Conn sends and hears heartbeat datagrams on a host's networks. Its methods may
// be called from any goroutine.
type Conn struct {
	cfg     Config
	sockets map[string]*socket
	readers sync.WaitGroup

	hearing sync.Mutex // held while Hear or Conflict runs

	mu      sync.Mutex // guards all below
	sealer  *sealer
	peers   map[string]*peer
	alarmed map[string]fleet.Moment
	stats   Stats
}

// Open opens a socket on every network and begins to listen. An address that is
// in use means that another Mainstay runs here, and is an error.
func Open(cfg Config) (*Conn, error) {
	c, err := newConn(cfg)
	if err != nil {
		return nil, fmt.Errorf("open heartbeats: %w", err)
	}
	for _, network := range fleet.Sorted(cfg.Networks) {
		s, err := openSocket(network, cfg.Networks[network])
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("listen for heartbeats on %s (%s): %w", network, cfg.Networks[network], err)
		}
		c.sockets[network] = s
	}
	for _, s := range c.sockets {
		c.readers.Go(func() {
			s.read(func(b []byte, from netip.AddrPort, at fleet.Moment) { c.handle(s, b, from, at) }, c.cfg.Now, c.readError)
		})
	}
	return c, nil
}

// newConn is a Conn without its sockets.
func newConn(cfg Config) (*Conn, error) {
	switch {
	case cfg.Host == "" || len(cfg.Host) > maxName:
		return nil, fmt.Errorf("host name %q: want 1 to %d bytes", cfg.Host, maxName)
	case cfg.Boot == "" || len(cfg.Boot) > maxName:
		return nil, fmt.Errorf("boot id %q: want 1 to %d bytes", cfg.Boot, maxName)
	case cfg.Keys == nil || cfg.Hear == nil:
		return nil, errors.New("keys and a hearer are needed")
	}
	for _, network := range fleet.Sorted(cfg.Networks) {
		if network == "" || len(network) > maxName {
			return nil, fmt.Errorf("network name %q: want 1 to %d bytes", network, maxName)
		}
	}
	if cfg.Now == nil {
		cfg.Now = boottime
	}
	c := &Conn{
		cfg:     cfg,
		sockets: map[string]*socket{},
		sealer:  newSealer(cfg.Site, cfg.Host, cfg.Keys),
		peers:   map[string]*peer{},
		alarmed: map[string]fleet.Moment{},
	}
	c.SetPeers(cfg.Peers)
	return c, nil
}

// boottime reads CLOCK_BOOTTIME, which counts suspend and never steps.
func boottime() fleet.Moment {
	var t unix.Timespec
	// Raw, as it never waits: of other calls Go's scheduler is told, and wakes its watcher.
	if _, _, err := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&t)), 0); err != 0 { // exists since Linux 2.6.39
		panic("heartbeat: CLOCK_BOOTTIME: " + err.Error())
	}
	return fleet.Moment(t.Nano())
}

// Close closes the sockets and waits until no Hear runs. It may be called twice.
func (c *Conn) Close() error {
	var errs []error
	for _, network := range fleet.Sorted(c.sockets) {
		if err := c.sockets[network].udp.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("close heartbeats on %s: %w", network, err))
		}
	}
	c.readers.Wait()
	return errors.Join(errs...)
}

// Addr is the local address on a network; the zero value when there is none.
func (c *Conn) Addr(network string) netip.AddrPort {
	if s := c.sockets[network]; s != nil {
		return s.local
	}
	return netip.AddrPort{}
}

// Stats returns the counts so far.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// SetPeers replaces the hosts that may be heard. What is known of those that
// stay is kept.
func (c *Conn) SetPeers(hosts []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range hosts {
		if c.peers[h] == nil {
			c.peers[h] = newPeer(h)
		}
	}
	stay := make(map[string]bool, len(hosts))
	for _, h := range hosts {
		stay[h] = true
	}
	maps.DeleteFunc(c.peers, func(h string, _ *peer) bool { return !stay[h] })
}

// SetKeys replaces the keys at once. No session ends: a rotation loses no beat
// if every host holds the new key before the first one seals with it.
func (c *Conn) SetKeys(keys Keys) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sealer.rekey(keys)
}

// Reply sends m to where d came from.
func (c *Conn) Reply(d Datagram, m Message) error { return c.Send(d.Host, d.Network, d.From, m) }

// ReplyTogether is Reply from within Hear, and only from there. It is sent with all others to what one read of
// the socket brought, by one system call, when the last of that has been heard; nothing more is waited for. What the
// kernel does not take is lost, and nobody is told.
func (c *Conn) ReplyTogether(d Datagram, m Message) error {
	s := c.sockets[d.Network]
	if s == nil {
		return fmt.Errorf("reply %s to %s over %s: this host has no such network", m.kind(), d.Host, d.Network)
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	c.mu.Lock()
	b, err := c.seal(s.room(), d.Host, d.Network, m, d.At)
	c.mu.Unlock()
	if err == nil {
		err = s.reply(b, d.From)
	}
	if err != nil {
		return fmt.Errorf("reply %s to %s over %s (%s): %w", m.kind(), d.Host, d.Network, d.From, err)
	}
	return nil
}

// Send seals m for the host named to, and sends it to addr over a network. It
// never blocks: what the kernel cannot take at once is lost, and an error. A nil
// error means sent, not arrived. The first Beat or Ask to an ear that has not
// yet given a token is not believed there and fetches one; send it again.
func (c *Conn) Send(to, network string, addr netip.AddrPort, m Message) error {
	if err := c.send(to, network, addr, m); err != nil {
		return fmt.Errorf("send %s to %s over %s (%s): %w", m.kind(), to, network, addr, err)
	}
	return nil
}

func (c *Conn) send(to, network string, addr netip.AddrPort, m Message) error {
	s := c.sockets[network]
	if s == nil {
		return errors.New("this host has no such network")
	}
	if b, ok := m.(Beat); ok && (b.Stint.Host != c.cfg.Host || b.Stint.Boot != c.cfg.Boot) {
		return fmt.Errorf("the beat is of %s, boot %s, not of this host and boot", b.Stint.Host, b.Stint.Boot)
	}
	var at fleet.Moment // each look at the clock is a system call
	if m.kind() == kindAck {
		at = c.cfg.Now()
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	c.mu.Lock()
	out, err := c.seal(s.out[:0], to, network, m, at)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return s.write(out, addr)
}

// seal adds what the courier itself needs: the key to use, and the token, of an Ack that of the moment at.
func (c *Conn) seal(dst []byte, to, network string, m Message, at fleet.Moment) ([]byte, error) {
	p := c.peers[to]
	if p == nil {
		return nil, errors.New("the host is not among the peers")
	}
	token, keyID := p.token, c.sealer.keys.Current()
	switch m.(type) {
	case Ack:
		token = 0
		if p.current != nil {
			token = p.newest(p.current.id, at)
		}
		keyID = c.answerKey(p, m)
	case Answer:
		keyID = c.answerKey(p, m)
	}
	return c.sealer.seal(dst, to, network, keyID, token, m)
}

// answerKey is the id of the key that the asking side has just used, as long as
// it is held here: in the middle of a rotation the other may lack our newest.
func (c *Conn) answerKey(p *peer, m Message) uint32 {
	if p.keyID != 0 {
		aead, err := c.sealer.lane(m.kind().owner(c.cfg.Host, p.name)).cipher(c.sealer.keys, p.keyID)
		if aead != nil && err == nil {
			return p.keyID
		}
	}
	return c.sealer.keys.Current()
}

// Drain reads what waits in every socket and returns once all that had arrived
// before the returned Moment has been given to Hear. Whoever judges silence
// (an ear before a promise, a judge after its own pause) drains first: a process
// that was late would otherwise take its own deafness for the others' silence.
// The caller must hold no lock that Hear takes.
func (c *Conn) Drain(ctx context.Context) (fleet.Moment, error) {
	at := c.cfg.Now()
	var waits []chan struct{}
	for _, s := range c.sockets {
		done, err := s.drain()
		if err != nil {
			return 0, fmt.Errorf("drain heartbeats on %s: %w", s.network, err)
		}
		waits = append(waits, done)
	}
	for _, done := range waits {
		select {
		case <-done:
		case <-ctx.Done():
			return 0, fmt.Errorf("drain heartbeats: %w", context.Cause(ctx))
		}
	}
	for _, s := range c.sockets {
		if s.ended() {
			return 0, fmt.Errorf("drain heartbeats on %s: %w", s.network, net.ErrClosed)
		}
	}
	return at, nil
}

func (c *Conn) readError() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Read++
}

// handle judges one datagram, and delivers or answers it.
func (c *Conn) handle(s *socket, b []byte, from netip.AddrPort, at fleet.Moment) {
	c.mu.Lock()
	r := c.judge(s.network, b, from, at)
	c.mu.Unlock()
	if r.hello.to != 0 {
		s.sending.Lock()
		c.mu.Lock()
		out, err := c.sealer.seal(s.out[:0], r.from, s.network, r.keyID, r.token, r.hello)
		c.mu.Unlock()
		if err == nil {
			_ = s.write(out, from) // a lost hello is asked for again by the next beat
		}
		s.sending.Unlock()
	}
	if r.message == nil && r.conflict.Why == "" {
		return
	}
	c.hearing.Lock()
	defer c.hearing.Unlock()
	if r.conflict.Why != "" && c.cfg.Conflict != nil {
		c.cfg.Conflict(r.conflict)
	}
	if r.message != nil {
		c.cfg.Hear(Datagram{Message: r.message, Host: r.from, Network: s.network, From: from, At: at})
	}
}

// ruling is what follows from a datagram.
type ruling struct {
	from     string
	message  Message // to deliver
	conflict Conflict
	hello    hello // to answer with, when its kind is set
	keyID    uint32
	token    uint64
}

func (c *Conn) judge(network string, b []byte, from netip.AddrPort, at fleet.Moment) (r ruling) {
	h, err := parseHead(b)
	switch {
	case errors.Is(err, errVersion):
		c.stats.Version++
		return r
	case err != nil:
		c.stats.Form++
		return r
	case h.site != c.sealer.site:
		c.stats.Site++
		return r
	}
	p := c.peers[string(h.sender)]
	if p == nil {
		c.stats.Unknown++
		return r
	}
	plain, err := c.sealer.open(b, h, p)
	if err != nil {
		c.stats.Sealed++
		return r
	}
	known := names{sender: p.name, self: c.cfg.Host, boot: p.boot, network: network}
	if h.kind == kindAck {
		known.boot = c.cfg.Boot
	}
	in, err := parseBody(h.kind, plain, known)
	if err != nil {
		c.stats.Form++
		return r
	}
	if in.network != network {
		c.stats.Network++
		return r
	}
	r.from = p.name
	switch m := in.message.(type) {
	case Beat, Ask:
		a := arrival{
			network: network, session: h.session, counter: h.counter, token: in.token, from: from, at: at,
			tag: binary.BigEndian.Uint32(b[len(b)-tagSize:]),
		}
		answer := kindBeatHello
		if h.kind == kindAsk {
			a.lane, answer = 1, kindAskHello
		}
		rival, _ := p.other(h.session)
		verdict, why := p.admit(a)
		if why != "" {
			r.conflict = c.conflict(p.name, network, from, rival, at, why)
		}
		switch verdict {
		case unproven:
			c.stats.Unproven++
			r.hello = hello{to: answer, session: h.session, counter: h.counter}
			r.keyID, r.token = h.keyID, p.newest(h.session, at)
			return r
		case replayed:
			c.stats.Replayed++
			return r
		case disputed:
			c.stats.Disputed++
			return r
		}
		p.keyID = h.keyID
		if beat, ok := m.(Beat); ok {
			p.boot = beat.Stint.Boot
			if beat.Spared {
				c.stats.Spared++
			}
		}
	case Ack:
		switch {
		case m.Stint.Boot != c.cfg.Boot, m.Sent <= p.acked[network]:
			c.stats.Replayed++
			return r
		case m.Sent > at:
			c.stats.Disputed++
			r.conflict = c.conflict(c.cfg.Host, network, from, netip.AddrPort{}, at,
				p.name+" acknowledges a beat from later than this host's clock: another machine beats under this name")
			return r
		}
		p.acked[network] = m.Sent
		if in.token != 0 {
			p.token = in.token
		}
	case hello:
		lane := 0
		if m.to == kindAskHello {
			lane = 1
		}
		if m.session != c.sealer.session {
			c.stats.Replayed++
			return r
		}
		if p.helloed != m.session {
			p.helloed, p.hello = m.session, [2]uint32{}
		}
		if m.counter <= p.hello[lane] {
			c.stats.Replayed++
			return r
		}
		p.hello[lane], p.token = m.counter, in.token
		return r
	}
	c.stats.Heard++
	r.message = in.message
	return r
}

// other is where the other live session of the peer last sent from.
func (p *peer) other(id uint64) (netip.AddrPort, bool) {
	for _, s := range [...]*session{p.current, p.rival} {
		if s != nil && s.id != id {
			return s.from, true
		}
	}
	return netip.AddrPort{}, false
}

func (c *Conn) conflict(host, network string, from, other netip.AddrPort, at fleet.Moment, why string) Conflict {
	if last, ok := c.alarmed[host]; ok && at.Sub(last) < quarrel {
		return Conflict{}
	}
	c.alarmed[host] = at
	return Conflict{Host: host, Network: network, From: from, Other: other, Why: why}
}
