package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// How long certificates live, and how long before its end one is renewed.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	HostLife = 90 * 24 * time.Hour
	Renewal  = 30 * 24 * time.Hour
	// early is how far in the past a certificate begins: a joining host's clock
	// may be behind.
	early = time.Hour
)

// CA is a site's certificate authority.
type CA struct {
	site string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes the authority of a new site, good for ten years.
func NewCA(site string, now time.Time) (*CA, error) {
	if site == "" {
		return nil, errors.New("make a CA: the site has no name")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the CA of site %s: %w", site, err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Mainstay CA of " + site, Organization: []string{site}},
		NotBefore:             now.Add(-early),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the CA of site %s: %w", site, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the CA of site %s: %w", site, err)
	}
	return &CA{site: site, cert: cert, key: key}, nil
}

// LoadCA reads ca.pem and ca.key from a folder. Only voters have the key.
func LoadCA(dir string) (*CA, error) {
	cert, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, fmt.Errorf("load the site's CA: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, fmt.Errorf("load the site's CA (its key is on voters only): %w", err)
	}
	return ParseCA(cert, key)
}

// ParseCA reads an authority from the PEM of its certificate and of its key.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	cert, err := parseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("read the site's CA: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read the key of the site's CA: %w", err)
	}
	if !cert.IsCA || len(cert.Subject.Organization) != 1 {
		return nil, errors.New("read the site's CA: not the certificate of a Mainstay CA")
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("read the site's CA: the key is not that of the certificate")
	}
	return &CA{site: cert.Subject.Organization[0], cert: cert, key: key}, nil
}

// Save writes ca.pem and ca.key into a folder.
func (c *CA) Save(dir string) error {
	key, err := c.KeyPEM()
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, CAKeyFile), key); err != nil {
		return fmt.Errorf("save the site's CA: %w", err)
	}
	if err := writeFile(filepath.Join(dir, CAFile), c.PEM()); err != nil {
		return fmt.Errorf("save the site's CA: %w", err)
	}
	return nil
}

// Site is the name of the site.
func (c *CA) Site() string { return c.site }

// PEM is the authority's certificate.
func (c *CA) PEM() []byte { return certificatePEM(c.cert.Raw) }

// KeyPEM is the authority's key: a secret, for a joining voter only.
func (c *CA) KeyPEM() ([]byte, error) { return keyPEM(c.key) }

// Pin is the SHA-256 of the authority's certificate.
func (c *CA) Pin() [32]byte { return sha256.Sum256(c.cert.Raw) }

// HostSpec is what a host's certificate shall say, by the site's file.
type HostSpec struct {
	Name      string
	Addresses []netip.Addr
	// Voter certificates also carry QuorumName, which the store asks of its peers.
	Voter bool
}

// SignCSR makes the certificate (PEM, 90 days) of a joining or renewing host.
// The request must be signed by its own key and name the same host; all else in
// it is ignored in favour of h.
func (c *CA) SignCSR(csrPEM []byte, h HostSpec, now time.Time) ([]byte, error) {
	pub, cn, err := requestKey(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of host %s: %w", h.Name, err)
	}
	if cn != h.Name {
		return nil, fmt.Errorf("sign the certificate of host %s: the request is for %q", h.Name, cn)
	}
	id := Identity{Site: c.site, Kind: KindHost, Name: h.Name, Voter: h.Voter}
	template, err := c.template(id, now, HostLife)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of host %s: %w", h.Name, err)
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames = []string{h.Name}
	if h.Voter {
		template.DNSNames = append(template.DNSNames, QuorumName)
	}
	for _, a := range h.Addresses {
		template.IPAddresses = append(template.IPAddresses, net.IP(a.AsSlice()))
	}
	return c.sign(template, pub)
}

// SignOperator makes the certificate (PEM) of a person. The request must carry
// the person's name.
func (c *CA) SignOperator(csrPEM []byte, person string, role Role, now time.Time, life time.Duration) ([]byte, error) {
	pub, cn, err := requestKey(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of operator %s: %w", person, err)
	}
	if cn != person {
		return nil, fmt.Errorf("sign the certificate of operator %s: the request is for %q", person, cn)
	}
	template, err := c.template(Identity{Site: c.site, Kind: KindOperator, Name: person, Role: role}, now, life)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of operator %s: %w", person, err)
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return c.sign(template, pub)
}

func (c *CA) template(id Identity, now time.Time, life time.Duration) (*x509.Certificate, error) {
	uri, err := id.uri()
	if err != nil {
		return nil, err
	}
	if now.After(c.cert.NotAfter) {
		return nil, fmt.Errorf("the site's CA expired on %s", date(c.cert.NotAfter))
	}
	// A person's common name is set apart, so that no check of common names can
	// take a person for a host.
	cn := id.Name
	if id.Kind == KindOperator {
		cn = "operator " + id.Name
	}
	t := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: cn, Organization: []string{c.site}, OrganizationalUnit: []string{string(id.Kind)}},
		NotBefore:             now.Add(-early),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	t.URIs = append(t.URIs, uri)
	if t.NotAfter.After(c.cert.NotAfter) {
		t.NotAfter = c.cert.NotAfter
	}
	return t, nil
}

func (c *CA) sign(template *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, pub, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return certificatePEM(der), nil
}

// QuorumName is a DNS name that only voters' certificates carry. The store's
// peer port is opened to it alone (etcd: AllowedHostnames), since the CA also
// vouches for computes and for operators who may only read.
const QuorumName = "quorum.mainstay"

// NewRequest makes a key (PEM, to be kept secret) and a signing request (PEM)
// for a host or a person.
func NewRequest(name string) (csr, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate request for %s: %w", name, err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, k)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate request for %s: %w", name, err)
	}
	if key, err = keyPEM(k); err != nil {
		return nil, nil, fmt.Errorf("make a certificate request for %s: %w", name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), key, nil
}

// requestKey checks a request and returns its key and the name it is for.
func requestKey(csrPEM []byte) (crypto.PublicKey, string, error) {
	block, _ := pem.Decode(csrPEM)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, "", errors.New("not a PEM certificate request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, "", fmt.Errorf("read the request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, "", fmt.Errorf("the request is not signed by its own key: %w", err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, "", errors.New("the request's key is not ECDSA P-256")
	}
	return pub, csr.Subject.CommonName, nil
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] = b[0]&0x7f | 0x40 // positive, and always as long
	return new(big.Int).SetBytes(b[:])
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// parseKey keeps what it could not read out of its errors.
func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("not a PEM private key (PKCS 8)")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("not a private key in PKCS 8")
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("not an ECDSA P-256 key")
	}
	return ec, nil
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
