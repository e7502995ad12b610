package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"mainstay/fleet"
)

// patience bounds every wait for something that must happen.
const patience = 60 * time.Second

// room is the timing that the tests run at.
func room() fleet.Timing { return fleet.Presets()["room"] }

// pki is the site's CA.
type pki struct {
	dir, ca string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

func newPKI(t testing.TB, dir string) *pki {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	p := &pki{dir: dir, ca: filepath.Join(dir, "ca.pem"), key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test site"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, p.cert, p.cert, &key.PublicKey, key)
	check(t, err)
	writePEM(t, p.ca, "CERTIFICATE", der)
	return p
}

// issue writes a certificate for the loopback addresses and the names.
func (p *pki) issue(t testing.TB, file string, names ...string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	host := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "host"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:    names,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 77, 0, 1), net.IPv4(10, 77, 0, 2), net.IPv4(10, 77, 0, 3)},
	}
	der, err := x509.CreateCertificate(rand.Reader, host, p.cert, &key.PublicKey, p.key)
	check(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	certFile, keyFile = filepath.Join(p.dir, file+".pem"), filepath.Join(p.dir, file+".key")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", raw)
	return certFile, keyFile
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	check(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// house is a cluster of members in this process.
type house struct {
	t       testing.TB
	dir     string
	pki     *pki
	timing  fleet.Timing
	cluster string
	rooms   map[string]*flat
}

// flat is one host of it: its member, while it runs, and its agent's client.
type flat struct {
	h      *house
	cfg    QuorumConfig
	client *Client
	alive  func() bool
	saw    func(Lead, fleet.Moment)

	stop context.CancelFunc
	done chan error
	m    *member
}

func newHouse(t testing.TB, timing fleet.Timing, names ...string) *house {
	t.Helper()
	// Not t.TempDir: a Unix socket's path must stay below 108 bytes.
	dir, err := os.MkdirTemp("", "q")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &house{t: t, dir: dir, pki: newPKI(t, dir), timing: timing, rooms: map[string]*flat{}}
	peers := map[string]string{}
	for _, n := range names {
		peers[n] = "https://" + freePort(t)
	}
	h.cluster = InitialCluster(peers)
	for _, n := range names {
		h.add(n, peers[n], h.cluster, false)
	}
	t.Cleanup(func() {
		for _, f := range h.rooms {
			f.hangUp()
		}
		var wg sync.WaitGroup
		for _, f := range h.rooms {
			wg.Go(f.kill)
		}
		wg.Wait()
	})
	return h
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}

func (h *house) add(name, peer, cluster string, join bool) *flat {
	cert, key := h.pki.issue(h.t, name, "voter.test")
	f := &flat{h: h, cfg: QuorumConfig{
		Name: name, Dir: filepath.Join(h.dir, name, "store"), Run: filepath.Join(h.dir, name, "run"),
		Peer: peer, Cluster: cluster, Join: join, Site: "test",
		CA: h.pki.ca, Cert: cert, Key: key, Require: "voter.test",
		Timing: h.timing, Log: slog.New(slog.DiscardHandler),
	}}
	if testing.Verbose() {
		f.cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})).With("host", name)
	}
	h.rooms[name] = f
	return f
}

// start starts the member and waits until it is a running server.
func (f *flat) start() {
	f.h.t.Helper()
	started := make(chan *member, 1)
	cfg := f.cfg
	cfg.started = func(m *member) { started <- m }
	ctx, stop := context.WithCancel(context.Background())
	f.stop, f.done = stop, make(chan error, 1)
	go func() { f.done <- RunQuorum(ctx, cfg) }()
	select {
	case f.m = <-started:
	case err := <-f.done:
		f.h.t.Fatalf("start %s: %v", f.cfg.Name, err)
	case <-time.After(patience):
		f.h.t.Fatalf("start %s: still not there", f.cfg.Name)
	}
}

// kill ends the member as SIGKILL would, as far as the others can see.
func (f *flat) kill() {
	if f.m == nil {
		return
	}
	f.m.etcd.Load().Server.HardStop()
	f.stop()
	select {
	case <-f.done:
	case <-time.After(patience):
		f.h.t.Errorf("kill %s: it does not end", f.cfg.Name)
	}
	f.m = nil
}

// ends waits for a member that ends by itself.
func (f *flat) ends() error {
	f.h.t.Helper()
	select {
	case err := <-f.done:
		f.m = nil
		return err
	case <-time.After(patience):
		f.h.t.Fatalf("%s does not end", f.cfg.Name)
		return nil
	}
}

// dial starts the agent's client.
func (f *flat) dial() *Client {
	f.h.t.Helper()
	c, err := Dial(context.Background(), DialConfig{Run: f.cfg.Run, Timing: f.cfg.Timing, Alive: f.alive, Log: f.cfg.Log, saw: f.saw})
	check(f.h.t, err)
	f.client = c
	return c
}

func (f *flat) hangUp() {
	if f.client != nil {
		check(f.h.t, f.client.Close())
		f.client = nil
	}
}

// up starts all members and clients.
func (h *house) up() {
	h.t.Helper()
	var wg sync.WaitGroup
	for _, n := range fleet.Sorted(h.rooms) {
		if h.rooms[n].m == nil {
			wg.Go(h.rooms[n].start)
		}
	}
	wg.Wait()
	for _, n := range fleet.Sorted(h.rooms) {
		if h.rooms[n].client == nil {
			h.rooms[n].dial()
		}
	}
}

// leader waits until one of the given hosts (all, if none) holds the lead.
func (h *house) leader(among ...string) *flat {
	h.t.Helper()
	if len(among) == 0 {
		among = fleet.Sorted(h.rooms)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	won := make(chan *flat, len(among))
	for _, n := range among {
		f := h.rooms[n]
		if f.client == nil {
			continue
		}
		go func() {
			for l := range f.client.Leads(ctx) {
				if l.Term != 0 {
					won <- f
					return
				}
			}
		}()
	}
	select {
	case f := <-won:
		return f
	case <-ctx.Done():
		h.t.Fatalf("no leader among %v", among)
		return nil
	}
}

// raise makes the leader raise its epoch; if the lead moves meanwhile, the next.
func (h *house) raise(among ...string) (*flat, uint64) {
	h.t.Helper()
	end := time.Now().Add(patience)
	for {
		f := h.leader(among...)
		_, epoch, err := f.client.RaiseEpoch(context.Background(), f.cfg.Name)
		if err == nil {
			return f, epoch
		}
		if time.Now().After(end) {
			h.t.Fatalf("raise the epoch: %v", err)
		}
	}
}

// commit repeats a commit whose outcome is unknown, as a leader may.
func (f *flat) commit(epoch uint64, records []fleet.Record, events ...fleet.Event) {
	f.h.t.Helper()
	check(f.h.t, insist(func() error { return f.client.Commit(context.Background(), epoch, records, events) }))
}

// insist repeats what timed out: this machine may be busy with other things.
func insist(deed func() error) error {
	end := time.Now().Add(patience)
	for {
		err := deed()
		late := errors.Is(err, ErrUnknown) || errors.Is(err, context.DeadlineExceeded)
		if !late || time.Now().After(end) {
			return err
		}
	}
}

// moveTo moves the lead to a host, in several tries if need be.
func (h *house) moveTo(name string) {
	h.t.Helper()
	end := time.Now().Add(patience)
	for {
		f := h.leader()
		if f.cfg.Name == name {
			return
		}
		err := f.client.MoveLead(context.Background(), name)
		if time.Now().After(end) {
			h.t.Fatalf("the lead does not move to %s: %v", name, err)
		}
	}
}

func (h *house) other(not ...string) *flat {
	for _, n := range fleet.Sorted(h.rooms) {
		found := false
		for _, x := range not {
			found = found || x == n
		}
		if !found {
			return h.rooms[n]
		}
	}
	return nil
}

// until waits for the client's state to satisfy ok.
func (f *flat) until(what string, ok func(fleet.State) bool) {
	f.h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range f.client.Watch(ctx) {
		if ok(f.client.State()) {
			return
		}
	}
	f.h.t.Fatalf("%s never saw %s; state %+v", f.cfg.Name, what, f.client.State())
}

func holding(thing, host string, generation uint64) fleet.Record {
	return fleet.Put("holding/"+thing, fleet.Holding{Thing: thing, Host: host, Generation: generation}, "")
}

func event(epoch uint64, n int) fleet.Event {
	return fleet.Event{ID: fmt.Sprintf("%08d.%08d", epoch, n), Epoch: epoch, Kind: "record", Text: "test"}
}

func wantIs(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
