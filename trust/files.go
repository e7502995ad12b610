package trust

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// The names of the files below Files.Dir, each with mode 0600.
const (
	CAFile    = "ca.pem"
	CAKeyFile = "ca.key" // voters only
	CertFile  = "host.pem"
	KeyFile   = "host.key"
	BeatFile  = "beat.json"
	// nextKey is where a new key waits until its certificate is in place.
	nextKey = "host.key.next"
)

// What mends an expired certificate: a voter has the CA's key, another host must be let
// in anew.
const (
	renewHint = `renew it with "mainstay join --renew"`
	againHint = `"mainstay token" on a voter, then "mainstay join VOTER" here`
)

// Files is a host's identity on disk, usually in /etc/mainstay/tls. Its methods
// may be called from any goroutine; changed files are read again by themselves.
type Files struct {
	Dir string
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
	// Allow, when set, has the last word on every peer whose certificate is good:
	// is it still a member, and is this its certificate? It must not block.
	Allow func(Identity) error

	mu     sync.Mutex
	loaded map[string]stamp
	pair   *tls.Certificate
	roots  *x509.CertPool
	id     Identity
}

// stamp tells whether a file has changed.
type stamp struct {
	changed time.Time
	size    int64
	file    os.FileInfo
}

// ExpiredError means that a certificate is out of date.
type ExpiredError struct {
	File    string // empty when it is the other side's
	Name    string // whose certificate
	Host    string // its name alone; empty if it is no host's
	Expired time.Time
	Votes   bool // the CA's key is beside the file
}

func (e *ExpiredError) Error() string {
	if e.File == "" {
		return fmt.Sprintf("the certificate of %s expired on %s: \"mainstay check\" there says how it gets a new one", e.Name, date(e.Expired))
	}
	hint := againHint
	if e.Votes {
		hint = renewHint
	}
	return fmt.Sprintf("%s: the certificate of %s expired on %s: %s", e.File, e.Name, date(e.Expired), hint)
}

// Grant is what a joiner receives: it holds secrets, and is sent only over a
// connection that Token.Client or Files.Client has checked.
type Grant struct {
	CA          string   `json:"ca"`          // PEM
	Certificate string   `json:"certificate"` // PEM
	Beat        BeatKeys `json:"beat"`
	CAKey       string   `json:"ca_key,omitempty"` // PEM; for voters only
}

// String hides the secrets.
func (g Grant) String() string { return "grant (secret)" }

// GoString hides the secrets.
func (g Grant) GoString() string { return g.String() }

func (f *Files) now() time.Time {
	if f.Now != nil {
		return f.Now()
	}
	return time.Now()
}

func (f *Files) path(name string) string { return filepath.Join(f.Dir, name) }

// Install writes what a joiner or a renewing host received, with the key of its
// request. It may be interrupted at any point: either the old pair or the new
// one is then in force. A grant that does not fit together is refused, and
// nothing is written.
func (f *Files) Install(g Grant, key []byte) error {
	if err := f.install(g, key); err != nil {
		return fmt.Errorf("install the host's certificate in %s: %w", f.Dir, err)
	}
	return nil
}

func (f *Files) install(g Grant, key []byte) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(g.CA)) {
		return errors.New("the grant holds no CA")
	}
	pair, err := tls.X509KeyPair([]byte(g.Certificate), key)
	if err != nil {
		return fmt.Errorf("the certificate granted is not for this key: %w", err)
	}
	id, err := verify([]*x509.Certificate{pair.Leaf}, roots, x509.ExtKeyUsageServerAuth, f.now())
	if err != nil {
		return err
	}
	if g.Beat.Host != "" && g.Beat.Host != id.Name {
		return fmt.Errorf("the beat keys granted are those of %s, not of %s", g.Beat.Host, id.Name)
	}
	if g.CAKey != "" {
		if _, err := ParseCA([]byte(g.CA), []byte(g.CAKey)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return err
	}
	if err := g.Beat.Save(f.Dir); err != nil {
		return err
	}
	if g.CAKey != "" {
		if err := writeFile(f.path(CAKeyFile), []byte(g.CAKey)); err != nil {
			return err
		}
	}
	if err := writeFile(f.path(nextKey), key); err != nil {
		return err
	}
	if err := writeFile(f.path(CAFile), []byte(g.CA)); err != nil {
		return err
	}
	// From here the new pair is in force.
	if err := writeFile(f.path(CertFile), []byte(g.Certificate)); err != nil {
		return err
	}
	return f.promote()
}

// promote puts the waiting key in its place, unless another process of this host
// that found it waiting has just done so.
func (f *Files) promote() error {
	if err := os.Rename(f.path(nextKey), f.path(KeyFile)); err != nil {
		if _, done := loadPair(f.path(CertFile), f.path(KeyFile)); done != nil {
			return err
		}
	}
	return syncDir(f.Dir)
}

// Load reads the files and checks them, and returns whose they are. An expired
// certificate is an ExpiredError that names file, date and remedy.
func (f *Files) Load() (Identity, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(); err != nil {
		return Identity{}, err
	}
	return f.id, f.expired()
}

func (f *Files) expired() error {
	if f.now().After(f.pair.Leaf.NotAfter) {
		_, err := os.Stat(f.path(CAKeyFile))
		e := &ExpiredError{File: f.path(CertFile), Name: f.id.String(), Expired: f.pair.Leaf.NotAfter, Votes: err == nil}
		if f.id.Kind == KindHost {
			e.Host = f.id.Name
		}
		return e
	}
	return nil
}

// Ends is when the certificate is good no more.
func (f *Files) Ends() (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(); err != nil {
		return time.Time{}, err
	}
	return f.pair.Leaf.NotAfter, nil
}

// Due says whether the certificate should be renewed: 30 days or less are left.
func (f *Files) Due() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(); err != nil {
		return false, err
	}
	return f.pair.Leaf.NotAfter.Sub(f.now()) <= Renewal, nil
}

// load reads what has changed since it last did. If what is on disk does not fit
// together it is an error, and what was loaded before stays.
func (f *Files) load() error {
	stamps := map[string]stamp{}
	same := f.pair != nil
	for _, name := range []string{CAFile, CertFile, KeyFile} {
		info, err := os.Stat(f.path(name))
		if err != nil && !(name == KeyFile && errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("load the host's certificate (has this host joined? \"mainstay join\"): %w", err)
		}
		if err == nil {
			stamps[name] = stamp{info.ModTime(), info.Size(), info}
		}
		old, now := f.loaded[name], stamps[name]
		same = same && old.file != nil && now.file != nil && os.SameFile(old.file, now.file) &&
			old.changed.Equal(now.changed) && old.size == now.size
	}
	if same {
		return nil
	}
	ca, err := os.ReadFile(f.path(CAFile))
	if err != nil {
		return fmt.Errorf("load the site's CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return fmt.Errorf("load the site's CA: %s holds no certificate", f.path(CAFile))
	}
	pair, err := f.loadPair()
	if err != nil {
		return fmt.Errorf("load the host's certificate: %w", err)
	}
	// The date is judged at each use, so that the error can say what to do.
	id, err := verify([]*x509.Certificate{pair.Leaf}, roots, x509.ExtKeyUsageClientAuth, pair.Leaf.NotAfter)
	if err != nil {
		return fmt.Errorf("load the host's certificate: %s: %w", f.path(CertFile), err)
	}
	// The CA is shown too: a joiner knows only its pin.
	for rest := ca; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		pair.Certificate = append(pair.Certificate, block.Bytes)
	}
	f.loaded, f.pair, f.roots, f.id = stamps, pair, roots, id
	return nil
}

// loadPair finishes an installation that was cut short between certificate and key.
func (f *Files) loadPair() (*tls.Certificate, error) {
	pair, err := loadPair(f.path(CertFile), f.path(KeyFile))
	if err == nil {
		return pair, nil
	}
	next, nextErr := loadPair(f.path(CertFile), f.path(nextKey))
	if nextErr != nil {
		return nil, err
	}
	if err := f.promote(); err != nil {
		return nil, err
	}
	return next, nil
}

func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	leaf, err := parseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	private, err := parseKey(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !private.PublicKey.Equal(pub) {
		return nil, fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: private, Leaf: leaf}, nil
}

// certificate is the pair in force. When the files are broken the pair loaded
// before serves on.
func (f *Files) certificate() (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(); err != nil && f.pair == nil {
		return nil, err
	}
	return f.pair, f.expired()
}

// check judges the other side.
func (f *Files) check(state tls.ConnectionState, usage x509.ExtKeyUsage) (Identity, error) {
	f.mu.Lock()
	err := f.load()
	roots, site := f.roots, f.id.Site
	f.mu.Unlock()
	if roots == nil {
		return Identity{}, err
	}
	id, err := verify(state.PeerCertificates, roots, usage, f.now())
	if err != nil {
		return Identity{}, err
	}
	if id.Site != site {
		return Identity{}, fmt.Errorf("%s is of site %s, not of %s", id, id.Site, site)
	}
	if f.Allow != nil {
		if err := f.Allow(id); err != nil {
			return Identity{}, fmt.Errorf("%s is not admitted: %w", id, err)
		}
	}
	return id, nil
}

// Server is the TLS configuration of the API. A client certificate is asked for
// and, if shown, must be good; none at all is let through, for a joiner has none:
// every handler but the joiner's must call Peer.
func (f *Files) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return f.certificate()
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return nil
			}
			_, err := f.check(state, x509.ExtKeyUsageClientAuth)
			return err
		},
	}
}

// Client is the TLS configuration for calls to a host. The other side must be
// that host, by its identity and not by the address dialled; host "" takes any
// host of the site.
func (f *Files) Client(host string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		ServerName: host,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return f.certificate()
		},
		// Roots given here would be those of today for good; VerifyConnection takes
		// the place of the usual check, reads them anew and is stricter.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := f.check(state, x509.ExtKeyUsageServerAuth)
			if err == nil && host != "" && id.Name != host { // a host: only their certificates may serve
				err = fmt.Errorf("%s answers where %s should", id, host)
			}
			return err
		},
	}
}

// verify checks that a chain leads to one of the roots, may be used so, and is
// in date, and returns the identity it names.
func verify(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, ErrNoCertificate
	}
	leaf := chain[0]
	options := x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
	if _, err := leaf.Verify(options); err != nil {
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired && now.After(leaf.NotAfter) {
			return Identity{}, &ExpiredError{Name: leaf.Subject.CommonName, Expired: leaf.NotAfter}
		}
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired && now.Before(leaf.NotBefore) {
			return Identity{}, fmt.Errorf("the certificate of %s begins on %s, and it is %s here: check both clocks",
				leaf.Subject.CommonName, date(leaf.NotBefore), date(now))
		}
		return Identity{}, fmt.Errorf("the certificate of %s: %w", leaf.Subject.CommonName, err)
	}
	return identity(leaf)
}

// writeFile replaces a file whole, with mode 0600, and survives a power cut.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it has its name
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// readJSON keeps what it could not read out of its errors.
func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if json.Unmarshal(data, into) != nil {
		return fmt.Errorf("%s: not readable as JSON", path)
	}
	return nil
}
