package balance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mainstay/fleet"
)

// site is a HAProxy of this machine's own package, driven as in production, with
// small servers of ours behind it: on c1, c2 and c3, which are loopback addresses.
type site struct {
	*HAProxy
	t      testing.TB
	spec   fleet.Spec
	daemon *exec.Cmd
	ended  chan struct{} // closed when daemon ended
	said   *output
	hosts  map[string]*host
}

// host is one server machine: a web service that says its name, and a database
// that greets with it and then echoes lines.
type host struct {
	name   string
	served atomic.Int64
	web    *http.Server
	db     net.Listener
	// gate holds back the answers to /slow until it is closed.
	gate    chan struct{}
	waiting atomic.Int64
}

type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

const bound = 30 * time.Second

// newSite prepares everything but HAProxy itself, whose first configuration is in
// place afterwards.
func newSite(t testing.TB) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "balance") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{t: t, said: &output{}, hosts: map[string]*host{}}
	config, run := filepath.Join(dir, "etc"), filepath.Join(dir, "run")
	for _, d := range []string{config, run} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.HAProxy = New(Config{Dir: config, Run: run, Host: "c2", Reload: func(context.Context) error {
		return s.daemon.Process.Signal(syscall.SIGUSR2)
	}})
	port := freePort(t)
	local := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{127, 99, byte(port), n}) }
	pem := filepath.Join(dir, "site.pem")
	certificate(t, pem, local(100))
	s.spec = fleet.Spec{
		Site: "test", TLS: fleet.TLS{Certificate: pem},
		Networks: []fleet.Network{{Name: "management", CIDR: netip.PrefixFrom(local(0), 24)}},
		Addresses: []fleet.Address{
			{Name: "internal", Addr: local(100), Network: "management"},
			{Name: "internal6", Addr: netip.IPv6Loopback(), Network: "management"},
			// Documentation addresses, on no machine: an address that is elsewhere.
			{Name: "public", Addr: netip.MustParseAddr("203.0.113.77"), Network: "management"},
			{Name: "public6", Addr: netip.MustParseAddr("2001:db8::77"), Network: "management"},
		},
		Services: []fleet.Service{
			{Name: "db", Kind: "galera", Mode: fleet.ActiveActive, Roles: []string{"controller"},
				Listen: fleet.Listen{Port: freePort(t), Backend: freePort(t), Protocol: "tcp", Local: true, Writer: true}},
			{Name: "secure", Kind: "systemd", Mode: fleet.ActiveActive, Roles: []string{"controller"},
				Listen: fleet.Listen{Port: freePort(t), Backend: port, Protocol: "http", Addresses: []string{"internal"}, TLS: true}},
			{Name: "web", Kind: "systemd", Mode: fleet.ActiveActive, Roles: []string{"controller"},
				Listen: fleet.Listen{Port: freePort(t), Backend: port, Protocol: "http", Addresses: []string{"internal", "internal6", "public", "public6", "none"}}},
		},
	}
	for i, name := range []string{"c1", "c2", "c3"} {
		addr := local(byte(11 + i))
		s.spec.Hosts = append(s.spec.Hosts, fleet.Host{Name: name, Roles: []string{"controller"}, Addresses: map[string]netip.Addr{"management": addr}})
		s.hosts[name] = s.serve(name, addr)
	}
	s.must(s.Configure(t.Context(), s.spec))
	return s
}

// startSite is newSite with HAProxy running.
func startSite(t testing.TB) *site {
	t.Helper()
	s := newSite(t)
	s.start()
	t.Cleanup(func() { s.stop(syscall.SIGTERM) })
	return s
}

func (s *site) start() {
	s.t.Helper()
	s.daemon = exec.Command("haproxy", "-W", "-S", s.master(), "-f", s.file())
	s.daemon.Stdout, s.daemon.Stderr = s.said, s.said
	// A test that is killed leaves nothing behind: workers end with their master.
	s.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	s.must(s.daemon.Start())
	ended := make(chan struct{})
	s.ended = ended
	go func(c *exec.Cmd) { _ = c.Wait(); close(ended) }(s.daemon)
	s.until("HAProxy to answer", func() error {
		select {
		case <-ended:
			s.t.Fatalf("HAProxy ended: %s", s.said)
		default:
		}
		_, err := s.ask(s.t.Context(), s.socket(), "show info")
		_, wrong := s.ask(s.t.Context(), s.master(), "show proc")
		return errors.Join(err, wrong)
	})
}

func (s *site) stop(sig syscall.Signal) {
	_ = s.daemon.Process.Signal(sig)
	select {
	case <-s.ended:
	case <-time.After(bound):
		_ = s.daemon.Process.Kill()
		s.t.Errorf("HAProxy does not end; it said %s", s.said)
	}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%v\nHAProxy said: %s", err, s.said)
	}
}

// until tries again and again, within a bound that only a broken run reaches.
func (s *site) until(what string, f func() error) {
	s.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for over := time.After(bound); ; {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-over:
			s.t.Fatalf("waited for %s: %v\nHAProxy said: %s", what, err, s.said)
		}
	}
}

func (s *site) serve(name string, addr netip.Addr) *host {
	h := &host{name: name, gate: make(chan struct{})}
	web, _ := s.spec.Service("web")
	db, _ := s.spec.Service("db")
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.served.Add(1)
		fmt.Fprintf(w, "%s %s", name, r.Header.Get("X-Forwarded-Proto"))
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		h.waiting.Add(1)
		select {
		case <-h.gate:
			fmt.Fprint(w, name)
		case <-r.Context().Done():
			h.waiting.Add(-1)
		}
	})
	h.web = &http.Server{Handler: mux}
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, uint16(web.Listen.Backend)).String())
	s.must(err)
	go h.web.Serve(l)
	h.db, err = net.Listen("tcp", netip.AddrPortFrom(addr, uint16(db.Listen.Backend)).String())
	s.must(err)
	go func() {
		for {
			c, err := h.db.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, name)
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, lines.Text())
				}
			}()
		}
	}()
	s.t.Cleanup(func() { h.web.Close(); h.db.Close() })
	return h
}

// at is a URL of a service on the address internal.
func (s *site) at(service, path string) string {
	v, _ := s.spec.Service(service)
	a, _ := s.spec.Address("internal")
	scheme := "http"
	if v.Listen.TLS {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s%s", scheme, netip.AddrPortFrom(a.Addr, uint16(v.Listen.Port)), path)
}

// session is a connection to the database through HAProxy.
type session struct {
	net.Conn
	lines *bufio.Reader
	name  string // of the server at its other end
}

func (s *site) dial() (*session, error) {
	db, _ := s.spec.Service("db")
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", db.Listen.Port))
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() { c.Close() })
	d := &session{Conn: c, lines: bufio.NewReader(c)}
	_ = c.SetDeadline(time.Now().Add(bound))
	d.name, err = d.lines.ReadString('\n')
	d.name = strings.TrimSpace(d.name)
	return d, err
}

// works says whether the session still reaches its server.
func (d *session) works() error {
	if _, err := fmt.Fprintln(d, "hello"); err != nil {
		return err
	}
	line, err := d.lines.ReadString('\n')
	if err == nil && line != "hello\n" {
		err = errors.New("echo says " + line)
	}
	return err
}

// routes is a table for one service: "ready out dead" are c1, c2 and c3.
func routes(service, states string) fleet.Routes {
	servers := map[string]fleet.Route{}
	for i, r := range strings.Fields(states) {
		servers[fmt.Sprintf("c%d", i+1)] = fleet.Route(r)
	}
	return fleet.Routes{Revision: 1, Servers: map[string]map[string]fleet.Route{service: servers}}
}

// given are the ports that freePort has named: the kernel names one that was let go again.
var given sync.Map

func freePort(t testing.TB) int {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if _, twice := given.LoadOrStore(port, true); !twice {
			return port
		}
	}
}

// certificate writes a self-made certificate and its key into one file.
func certificate(t testing.TB, name string, addr netip.Addr) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "site"}, IPAddresses: []net.IP{addr.AsSlice()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...)
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
