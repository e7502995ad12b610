package heartbeat

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Keys gives the keys that datagrams are sealed with; trust.BeatKeys is one. It
// is asked once for each key and must be safe for concurrent use.
type Keys interface {
	// Current is the id of the key that new datagrams are sealed with.
	Current() uint32
	// Key returns the 32 byte key of a host under a key id, and whether it is
	// held here. The host "" means the voters' common key.
	Key(id uint32, host string) ([]byte, bool)
}

// A datagram is a head in the clear, the sender's name, and a sealed body:
//
//	0  'm', version, kind, length of the sender's name
//	4  key id
//	8  site: the beginning of the SHA-256 of its name
//	16 nonce: session (8), counter (4)
//	28 the sender's name, the sealed body, 16 bytes of tag
//
// Head and name are authenticated with the body.
const (
	magic    = 'm'
	version  = 1
	headSize = 28
	tagSize  = 16
	// maxSize bounds every datagram: it fits into any path's MTU whole.
	maxSize = 1024
)

func siteTag(site string) uint64 {
	sum := sha256.Sum256([]byte("mainstay site " + site))
	return binary.BigEndian.Uint64(sum[:])
}

// head is the part in the clear, after its form was checked.
type head struct {
	kind    kind
	keyID   uint32
	site    uint64
	session uint64
	counter uint32
	sender  []byte // aliases the datagram
	size    int    // of head and name together
}

var (
	errForm    = errors.New("not a heartbeat datagram")
	errVersion = errors.New("another version of the protocol")
)

func parseHead(b []byte) (head, error) {
	if len(b) < headSize+1+tagSize || len(b) > maxSize || b[0] != magic {
		return head{}, errForm
	}
	if b[1] != version {
		return head{}, errVersion
	}
	h := head{
		kind:    kind(b[2]),
		size:    headSize + int(b[3]),
		keyID:   binary.BigEndian.Uint32(b[4:]),
		site:    binary.BigEndian.Uint64(b[8:]),
		session: binary.BigEndian.Uint64(b[16:]),
		counter: binary.BigEndian.Uint32(b[24:]),
	}
	if h.kind == 0 || h.kind >= kindEnd || b[3] == 0 || b[3] > maxName || len(b) < h.size+tagSize {
		return head{}, errForm
	}
	h.sender = b[headSize:h.size]
	return h, nil
}

// lane is the use of one owner's keys: a host's own, or (owner "") the voters'.
// The counter is the lane's, not the key's, so a rotation begins no new session.
type lane struct {
	owner   string
	counter uint32
	ciphers map[uint32]cipher.AEAD
	id      uint32      // of the one used last
	newest  cipher.AEAD // the same
}

// cipher returns the AEAD for a key id, or nil when that key is not held.
func (l *lane) cipher(keys Keys, id uint32) (cipher.AEAD, error) {
	if l.newest != nil && l.id == id {
		return l.newest, nil
	}
	if c := l.ciphers[id]; c != nil {
		l.id, l.newest = id, c
		return c, nil
	}
	key, ok := keys.Key(id, l.owner)
	if !ok {
		return nil, nil
	}
	block, err := aes.NewCipher(key)
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("beat key %d of %q: want 32 bytes, have %d", id, l.owner, len(key))
	}
	c, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	l.ciphers[id] = c
	return c, nil
}

// sealer seals what this process sends, and opens what it gets. It is guarded
// by its Conn's lock.
type sealer struct {
	host    string
	site    uint64
	keys    Keys
	session uint64
	lanes   map[string]*lane
	plain   []byte // scratch
}

func newSealer(site, host string, keys Keys) *sealer {
	return &sealer{host: host, site: siteTag(site), keys: keys, session: random(), lanes: map[string]*lane{}, plain: make([]byte, 0, maxSize)}
}

func random() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

func (s *sealer) lane(owner string) *lane {
	l := s.lanes[owner]
	if l == nil {
		l = &lane{owner: owner, ciphers: map[uint32]cipher.AEAD{}}
		s.lanes[owner] = l
	}
	return l
}

// rekey forgets every cipher; sessions and counters go on.
func (s *sealer) rekey(keys Keys) {
	s.keys = keys
	for _, l := range s.lanes {
		clear(l.ciphers)
		l.newest = nil
	}
}

// owner says whose key seals a datagram of this kind between two hosts.
func (k kind) owner(sender, receiver string) string {
	switch k {
	case kindBeat:
		return sender
	case kindAck, kindBeatHello:
		return receiver
	}
	return ""
}

var errNoKey = errors.New("no such beat key is held here")

// seal encodes m and seals it, for the host to, behind dst.
func (s *sealer) seal(dst []byte, to, network string, keyID uint32, token uint64, m Message) ([]byte, error) {
	l := s.lane(m.kind().owner(s.host, to))
	aead, err := l.cipher(s.keys, keyID)
	if err != nil {
		return nil, err
	}
	if aead == nil {
		return nil, fmt.Errorf("key %d: %w", keyID, errNoKey)
	}
	if s.plain, err = appendBody(s.plain[:0], network, token, m); err != nil {
		return nil, err
	}
	if l.counter == math.MaxUint32 {
		// A new session, so that no nonce is used twice: ears will ask for proof again.
		s.session = random()
		for _, other := range s.lanes {
			other.counter = 0
		}
	}
	l.counter++
	at := len(dst)
	dst = append(dst, magic, version, byte(m.kind()), byte(len(s.host)))
	dst = binary.BigEndian.AppendUint32(dst, keyID)
	dst = binary.BigEndian.AppendUint64(dst, s.site)
	dst = binary.BigEndian.AppendUint64(dst, s.session)
	dst = binary.BigEndian.AppendUint32(dst, l.counter)
	dst = append(dst, s.host...)
	head := dst[at:]
	return aead.Seal(dst, head[headSize-12:headSize], s.plain, head), nil
}

// open checks the seal of datagram b, whose head is h and whose sender was found
// to be the known host p. The plain body is valid until the next call.
func (s *sealer) open(b []byte, h head, p *peer) ([]byte, error) {
	l := &p.lanes[h.kind]
	if *l == nil {
		*l = s.lane(h.kind.owner(p.name, s.host))
	}
	aead, err := (*l).cipher(s.keys, h.keyID)
	if err != nil {
		return nil, err
	}
	if aead == nil {
		return nil, errNoKey
	}
	return aead.Open(s.plain[:0], b[headSize-12:headSize], b[h.size:], b[:h.size])
}
