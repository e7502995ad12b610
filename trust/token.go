package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// What may be wrong with a token. Errors that wrap these say what to do.
var (
	ErrTokenGarbled   = errors.New("not a whole join token")
	ErrTokenOtherSite = errors.New("the other side is not the site that made this token")
)

// tokenPrefix begins every token: one word without anything that a shell or a
// double click would stop at.
const tokenPrefix = "mainstay1"

const (
	secretSize = 16
	checkSize  = 4
)

var tokenEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Token is a join token as the joiner sees it.
type Token struct {
	pin    [32]byte
	secret [secretSize]byte
}

// Invite is what the site keeps of a token: nothing by which to join.
type Invite struct {
	Hash    string    `json:"hash"` // SHA-256 of the secret, in hexadecimal; also its key in the store
	Expires time.Time `json:"expires"`
}

// NewToken makes a one-time token that is good for ttl. The text is to be given
// to the operator and nowhere else; the Invite goes into the store.
func (c *CA) NewToken(now time.Time, ttl time.Duration) (text string, kept Invite) {
	t := Token{pin: c.Pin()}
	rand.Read(t.secret[:])
	return t.text(), Invite{Hash: t.Hash(), Expires: now.Add(ttl)}
}

func (t Token) text() string {
	b := append(t.pin[:], t.secret[:]...)
	b = append(b, check(b)...)
	return tokenPrefix + strings.ToLower(tokenEncoding.EncodeToString(b))
}

func check(b []byte) []byte {
	sum := sha256.Sum256(append([]byte(tokenPrefix), b...))
	return sum[:checkSize]
}

// ParseToken reads a pasted token; spaces and line breaks around and within it
// and capital letters do not matter. Anything else that is wrong with it is an
// ErrTokenGarbled.
func ParseToken(text string) (Token, error) {
	s := strings.ToLower(strings.Join(strings.Fields(text), ""))
	rest, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("%w: a token begins with %q", ErrTokenGarbled, tokenPrefix)
	}
	const size = 32 + secretSize + checkSize
	if want := tokenEncoding.EncodedLen(size); len(rest) != want {
		return Token{}, fmt.Errorf("%w: it has %d characters, not %d; paste it again", ErrTokenGarbled, len(s), len(tokenPrefix)+want)
	}
	var t Token
	b, err := tokenEncoding.DecodeString(strings.ToUpper(rest))
	if err == nil {
		copy(t.pin[:], b)
		copy(t.secret[:], b[32:])
	}
	// Compared whole, so that the unused bits of the last character count as well.
	if err != nil || subtle.ConstantTimeCompare([]byte(t.text()), []byte(s)) != 1 {
		return Token{}, fmt.Errorf("%w: a character was changed; paste it again", ErrTokenGarbled)
	}
	return t, nil
}

// String hides the secret.
func (t Token) String() string { return fmt.Sprintf("join token for CA %x...", t.pin[:4]) }

// GoString hides the secret.
func (t Token) GoString() string { return t.String() }

// Hash finds the token's Invite in the store.
func (t Token) Hash() string {
	sum := sha256.Sum256(t.secret[:])
	return hex.EncodeToString(sum[:])
}

// Secret is what the joiner sends, in hexadecimal, once Token.Client has shown
// that the other side is the site.
func (t Token) Secret() string { return hex.EncodeToString(t.secret[:]) }

// HashSecret is the key in the store of the Invite that a received secret
// belongs to; ErrTokenGarbled when it cannot be one.
func HashSecret(secret string) (string, error) {
	b, err := hex.DecodeString(secret)
	if err != nil || len(b) != secretSize {
		return "", ErrTokenGarbled
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// Client is the TLS configuration of a joiner, who has no certificate yet. The
// handshake fails with ErrTokenOtherSite unless the other side shows the CA that
// the token pins and, under it, a voter's certificate.
func (t Token) Client(now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The usual check wants roots known beforehand; VerifyConnection takes its
		// place and is stricter.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			for _, cert := range state.PeerCertificates {
				sum := sha256.Sum256(cert.Raw)
				if subtle.ConstantTimeCompare(sum[:], t.pin[:]) != 1 {
					continue
				}
				roots := x509.NewCertPool()
				roots.AddCert(cert)
				id, err := verify(state.PeerCertificates, roots, x509.ExtKeyUsageServerAuth, now())
				switch {
				case err != nil:
					return err
				case !id.Voter:
					return fmt.Errorf("%s is not a voter: join at a voter", id)
				}
				return nil
			}
			return fmt.Errorf("%w: its CA has another pin than the one that begins with %x", ErrTokenOtherSite, t.pin[:4])
		},
	}
}
