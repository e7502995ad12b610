package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Kind says whether an identity is a machine or a person.
type Kind string

// The kinds of identity.
const (
	KindHost     Kind = "host"
	KindOperator Kind = "operator"
)

// Role says what an operator may do.
type Role string

// The roles of operators; Operate includes Read.
const (
	Read    Role = "read"
	Operate Role = "operate"
)

// Identity is who is at the other end of a connection.
type Identity struct {
	Site   string `json:"site"`
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`            // of the host or the person
	Role   Role   `json:"role,omitempty"`  // of an operator
	Voter  bool   `json:"voter,omitempty"` // of a host
	Serial string `json:"serial"`          // of the certificate, in hexadecimal
}

// String is what a deed is signed with in the history: "c1", "operator ann".
func (i Identity) String() string {
	if i.Kind == KindOperator {
		return "operator " + i.Name
	}
	return i.Name
}

// May says whether the identity is an operator who may act in that role.
func (i Identity) May(role Role) bool {
	return i.Kind == KindOperator && (i.Role == role || i.Role == Operate)
}

// ErrNoCertificate means that the other side showed none.
var ErrNoCertificate = errors.New("no client certificate was shown")

// Peer returns who is at the other end. The connection must be one of
// Files.Server, Files.Client or Token.Client, which have checked the certificate.
func Peer(state tls.ConnectionState) (Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return Identity{}, ErrNoCertificate
	}
	return identity(state.PeerCertificates[0])
}

func (i Identity) uri() (*url.URL, error) {
	parts := []string{string(i.Kind), i.Name}
	switch {
	case i.Site == "" || i.Name == "" || i.Name != strings.TrimSpace(i.Name) || strings.ContainsFunc(i.Name, isControl):
		return nil, fmt.Errorf("%q of site %q: not a name", i.Name, i.Site)
	case i.Kind == KindHost && (i.Role != "" || i.Name == QuorumName || strings.ContainsAny(i.Name, "/ ")):
		return nil, fmt.Errorf("%q: not a host's name", i.Name)
	case i.Kind == KindOperator:
		if i.Role != Read && i.Role != Operate {
			return nil, fmt.Errorf("role %q: want %s or %s", i.Role, Read, Operate)
		}
		parts = []string{string(i.Kind), string(i.Role), i.Name}
	}
	path := ""
	for _, p := range parts {
		path += "/" + url.PathEscape(p)
	}
	// x509 wants a host that looks like one: the site's name goes first in the path.
	return url.Parse("mainstay:///" + url.PathEscape(i.Site) + path)
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// identity reads a certificate that a CA has vouched for.
func identity(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "mainstay" {
		return Identity{}, fmt.Errorf("certificate %q is not one of Mainstay's: it names no identity", cert.Subject.CommonName)
	}
	uri := cert.URIs[0]
	var parts []string
	for p := range strings.SplitSeq(strings.TrimPrefix(uri.EscapedPath(), "/"), "/") {
		plain, err := url.PathUnescape(p)
		if err != nil {
			return Identity{}, fmt.Errorf("certificate %q: identity %s: %w", cert.Subject.CommonName, uri, err)
		}
		parts = append(parts, plain)
	}
	out := Identity{Serial: fmt.Sprintf("%x", cert.SerialNumber)}
	switch {
	case len(parts) == 3 && Kind(parts[1]) == KindHost:
		out.Site, out.Kind, out.Name = parts[0], KindHost, parts[2]
		out.Voter = slices.Contains(cert.DNSNames, QuorumName)
	case len(parts) == 4 && Kind(parts[1]) == KindOperator:
		out.Site, out.Kind, out.Role, out.Name = parts[0], KindOperator, Role(parts[2]), parts[3]
	default:
		return Identity{}, fmt.Errorf("certificate %q: no such identity: %s", cert.Subject.CommonName, uri)
	}
	if _, err := out.uri(); err != nil {
		return Identity{}, fmt.Errorf("certificate %q: %w", cert.Subject.CommonName, err)
	}
	return out, nil
}
