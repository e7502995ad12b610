package heartbeat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"mainstay/fleet"
)

// Message is a Beat, an Ack, an Ask or an Answer.
type Message interface{ kind() kind }

// Beat is a host's heartbeat.
type Beat struct {
	// Stint is the sender's; its Host is the name that the datagram was sealed under.
	Stint fleet.Stint
	// Sent is the sender's clock just before sending. It rises from beat to beat
	// within one boot and serves as the beat's number.
	Sent fleet.Moment
	// Late is g: how late the guard that the host has at present may be.
	Late time.Duration
	// Leased says whether the host itself sees its lease alive.
	Leased bool
	// Next is after how long the next beat will be sent.
	Next time.Duration
	// Lease is L of this host: how long after Sent an acknowledgement keeps its lease.
	Lease time.Duration
	// Blind: it receives nothing at all on any network. A host of a pair says so; one of an
	// earlier version does not.
	Blind bool
	// Spared: this copy needs no acknowledgement, though it counts as any other. An ear of an earlier
	// version sends one.
	Spared bool
	// News is the number of the report that the sender would make at this moment, zero if it names
	// none: who has that report (fleet.Report.News) takes it as made again at Sent, when the sender's
	// wall clock read Wall. A host of an earlier version names none.
	News uint64
	Wall time.Time
}

// Ack acknowledges one beat. The acknowledging ear is the datagram's Host.
type Ack struct {
	Stint fleet.Stint  // of the beat
	Sent  fleet.Moment // of the beat, by the clock of the host that sent it
	// News is the number of the report that the ear's host has of the beat's boot, zero if it has
	// none or the beat named none. An ear of an earlier version has none.
	News uint64
}

// Ask is the leader's question to an ear: will you acknowledge Stint no more?
// The leader is the datagram's Host.
type Ask struct {
	Epoch uint64
	Round uint64 // never used twice within an epoch; a repetition of the same question keeps it
	Stint fleet.Stint
	// Evict asks for the promise although the host still beats.
	Evict bool
	// Silence is W: how long the ear must not have heard the stint otherwise.
	Silence time.Duration
}

// Answer is an ear's answer to an Ask. The ear is the datagram's Host.
type Answer struct {
	Epoch    uint64 // of the Ask
	Round    uint64 // of the Ask
	Stint    fleet.Stint
	Promised bool
	Why      string // when not promised; at most 200 bytes are carried
	// Silent is for how long the ear has heard nothing of the stint's boot. An ear of
	// an earlier version does not say so, which is 0.
	Silent time.Duration
}

type kind uint8

const (
	kindBeat kind = 1 + iota
	kindAck
	kindAsk
	kindAnswer
	// A hello answers a Beat or an Ask that bore no good token, and brings one.
	kindBeatHello
	kindAskHello
	kindEnd
)

func (Beat) kind() kind    { return kindBeat }
func (Ack) kind() kind     { return kindAck }
func (Ask) kind() kind     { return kindAsk }
func (Answer) kind() kind  { return kindAnswer }
func (h hello) kind() kind { return h.to }

func (k kind) String() string {
	names := [kindEnd]string{"datagram", "beat", "ack", "ask", "answer", "hello", "hello"}
	return names[k%kindEnd]
}

// hello names the datagram that it answers by its sender's session and counter,
// so that a recorded one cannot displace a newer token.
type hello struct {
	to      kind
	session uint64
	counter uint32
}

// body is what is sealed: where it was sent, the token, and the message.
type body struct {
	network string
	token   uint64
	message Message
}

// The widths of the strings; a longer name is refused when sending.
const (
	maxName = 64
	maxWhy  = 200
)

var errBody = errors.New("malformed body")

const (
	flagLeased = 1 << iota
	flagEvict
	flagPromised
	flagBlind
	flagSpared
)

// appendBody encodes b behind dst. All integers are big-endian, strings have
// their length in one byte before them.
func appendBody(dst []byte, network string, token uint64, m Message) ([]byte, error) {
	dst = appendString(dst, network)
	dst = binary.BigEndian.AppendUint64(dst, token)
	names := [3]string{network}
	switch m := m.(type) {
	case Beat:
		names[1] = m.Stint.Boot
		dst = appendString(dst, m.Stint.Boot)
		dst = appendNumbers(dst, m.Stint.N, uint64(m.Sent), uint64(m.Late), uint64(m.Next), uint64(m.Lease))
		dst = append(dst, flag(m.Leased, flagLeased)|flag(m.Blind, flagBlind)|flag(m.Spared, flagSpared))
		var wall uint64
		if m.News != 0 {
			wall = uint64(m.Wall.UnixNano())
		}
		dst = appendNumbers(dst, m.News, wall)
	case Ack:
		names[1] = m.Stint.Boot
		dst = appendString(dst, m.Stint.Boot)
		dst = appendNumbers(dst, m.Stint.N, uint64(m.Sent), m.News)
	case Ask:
		names[1], names[2] = m.Stint.Host, m.Stint.Boot
		dst = appendNumbers(dst, m.Epoch, m.Round, uint64(m.Silence), m.Stint.N)
		dst = appendString(dst, m.Stint.Host)
		dst = appendString(dst, m.Stint.Boot)
		dst = append(dst, flag(m.Evict, flagEvict))
	case Answer:
		names[1], names[2] = m.Stint.Host, m.Stint.Boot
		dst = appendNumbers(dst, m.Epoch, m.Round, m.Stint.N)
		dst = appendString(dst, m.Stint.Host)
		dst = appendString(dst, m.Stint.Boot)
		dst = append(dst, flag(m.Promised, flagPromised))
		dst = appendString(dst, m.Why[:min(len(m.Why), maxWhy)])
		dst = appendNumbers(dst, uint64(m.Silent))
	case hello:
		dst = appendNumbers(dst, m.session, uint64(m.counter))
	default:
		return nil, fmt.Errorf("no such message: %T", m)
	}
	for _, n := range names {
		if len(n) > maxName {
			return nil, fmt.Errorf("name %.20q...: longer than %d bytes", n, maxName)
		}
	}
	return dst, nil
}

func appendString(dst []byte, s string) []byte {
	return append(append(dst, byte(len(s))), s...)
}

func appendNumbers(dst []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	return dst
}

func flag(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}

// names returns known strings for bytes, so that what is heard over and over
// needs no memory of its own.
type names struct {
	sender, self, boot, network string
}

func (n names) string(b []byte) string {
	// Written so that the compiler compares in place, without a copy.
	if string(b) == n.boot {
		return n.boot
	}
	if string(b) == n.network {
		return n.network
	}
	return string(b)
}

// parseBody decodes a body. Bytes behind the known fields belong to a later
// version and are ignored: hosts are upgraded one by one.
func parseBody(k kind, b []byte, known names) (body, error) {
	c := cursor{rest: b}
	out := body{network: known.string(c.bytes()), token: c.number()}
	switch k {
	case kindBeat:
		var m Beat
		m.Stint.Host, m.Stint.Boot, m.Stint.N = known.sender, known.string(c.bytes()), c.number()
		m.Sent = fleet.Moment(c.number())
		m.Late, m.Next, m.Lease = c.duration(), c.duration(), c.duration()
		flags := c.flags()
		m.Leased, m.Blind, m.Spared = flags&flagLeased != 0, flags&flagBlind != 0, flags&flagSpared != 0
		if len(c.rest) > 0 { // of a version that knows it
			m.News = c.number()
			if wall := int64(c.number()); m.News != 0 {
				m.Wall = time.Unix(0, wall)
			}
		}
		out.message = m
	case kindAck:
		var m Ack
		m.Stint.Host, m.Stint.Boot, m.Stint.N = known.self, known.string(c.bytes()), c.number()
		m.Sent = fleet.Moment(c.number())
		if len(c.rest) > 0 { // of a version that knows it
			m.News = c.number()
		}
		out.message = m
	case kindAsk:
		var m Ask
		m.Epoch, m.Round, m.Silence, m.Stint.N = c.number(), c.number(), c.duration(), c.number()
		m.Stint.Host, m.Stint.Boot = string(c.bytes()), string(c.bytes())
		m.Evict = c.flags()&flagEvict != 0
		out.message = m
	case kindAnswer:
		var m Answer
		m.Epoch, m.Round, m.Stint.N = c.number(), c.number(), c.number()
		m.Stint.Host, m.Stint.Boot = string(c.bytes()), string(c.bytes())
		m.Promised = c.flags()&flagPromised != 0
		m.Why = string(c.bytes())
		if len(c.rest) > 0 { // of a version that knows it
			m.Silent = c.duration()
		}
		out.message = m
	case kindBeatHello, kindAskHello:
		m := hello{to: k, session: c.number()}
		counter := c.number()
		if m.counter = uint32(counter); uint64(m.counter) != counter {
			return body{}, errBody
		}
		out.message = m
	default:
		return body{}, errBody
	}
	if c.bad {
		return body{}, errBody
	}
	return out, nil
}

// cursor reads a body; once something is missing or negative it is bad for good.
type cursor struct {
	rest []byte
	bad  bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || len(c.rest) < n {
		c.bad = true
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) number() uint64 {
	if b := c.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// duration refuses what is negative: no rule is prepared for it.
func (c *cursor) duration() time.Duration {
	d := time.Duration(c.number())
	c.bad = c.bad || d < 0
	return d
}

func (c *cursor) bytes() []byte {
	if n := c.take(1); n != nil {
		return c.take(int(n[0]))
	}
	return nil
}

func (c *cursor) flags() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}
