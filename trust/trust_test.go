package trust

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is a wall clock that the test turns.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newCA(t *testing.T, site string) *CA {
	t.Helper()
	ca, err := NewCA(site, start)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// grant makes what a host would receive, and the key of its request.
func grant(t *testing.T, ca *CA, h HostSpec, now time.Time) (Grant, []byte) {
	t.Helper()
	csr, key, err := NewRequest(h.Name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.SignCSR(csr, h, now)
	if err != nil {
		t.Fatal(err)
	}
	g := Grant{CA: string(ca.PEM()), Certificate: string(cert), Beat: masters}
	if h.Voter {
		caKey, err := ca.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		g.CAKey = string(caKey)
	} else if g.Beat, err = masters.For(h.Name); err != nil {
		t.Fatal(err)
	}
	return g, key
}

var masters = NewBeatKeys()

func host(name string, voter bool) HostSpec {
	return HostSpec{Name: name, Voter: voter, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}
}

// joined is a host with its files in place.
func joined(t *testing.T, ca *CA, h HostSpec, c *clock) *Files {
	t.Helper()
	f := &Files{Dir: filepath.Join(t.TempDir(), "tls"), Now: c.now}
	if err := f.Install(grant(t, ca, h, c.t)); err != nil {
		t.Fatal(err)
	}
	return f
}

// person is an operator with a certificate.
func person(t *testing.T, ca *CA, name string, role Role, now time.Time) *tls.Config {
	t.Helper()
	csr, key, err := NewRequest(name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.SignOperator(csr, name, role, now, 365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "c1", Time: func() time.Time { return now }}
}

// meet lets a client and a server shake hands over loopback. It returns whom the
// server saw, and the error of either side.
func meet(t *testing.T, server, client *tls.Config) (seen Identity, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(20 * time.Second))
		conn := tls.Server(raw, server)
		if serverErr = conn.Handshake(); serverErr != nil {
			return
		}
		seen, serverErr = Peer(conn.ConnectionState())
		conn.Write([]byte{1}) // the client has finished TLS 1.3 before we judged it
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	conn := tls.Client(raw, client)
	if clientErr = conn.Handshake(); clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1))
	}
	raw.Close()
	<-done
	return seen, serverErr, clientErr
}

func TestPeersKnowEachOther(t *testing.T) {
	ca, c := newCA(t, "beijing"), &clock{start}
	c1, n1 := joined(t, ca, host("c1", true), c), joined(t, ca, host("n1", false), c)
	check := func(client *tls.Config, want Identity) {
		t.Helper()
		got, serverErr, clientErr := meet(t, c1.Server(), client)
		if serverErr != nil || clientErr != nil {
			t.Fatalf("server: %v, client: %v", serverErr, clientErr)
		}
		if got.Serial == "" {
			t.Error("no serial")
		}
		got.Serial = ""
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("seen (-want +got):\n%s", diff)
		}
	}
	check(n1.Client("c1"), Identity{Site: "beijing", Kind: KindHost, Name: "n1"})
	check(c1.Client(""), Identity{Site: "beijing", Kind: KindHost, Name: "c1", Voter: true})
	check(person(t, ca, "Ann O'Neil/ops 安", Operate, start), Identity{Site: "beijing", Kind: KindOperator, Name: "Ann O'Neil/ops 安", Role: Operate})
	check(person(t, ca, "c1", Read, start), Identity{Site: "beijing", Kind: KindOperator, Name: "c1", Role: Read})

	leaf := c1.pair.Leaf
	if leaf.VerifyHostname("10.0.0.1") != nil || leaf.VerifyHostname("fd00::1") != nil || leaf.VerifyHostname("c1") != nil || leaf.VerifyHostname(QuorumName) != nil {
		t.Errorf("c1's certificate lacks a name: %v %v", leaf.DNSNames, leaf.IPAddresses)
	}
	if n1.pair.Leaf.VerifyHostname(QuorumName) == nil {
		t.Error("a compute's certificate carries the quorum's name")
	}
}

func TestStrangersAreTurnedAway(t *testing.T) {
	ca, other, c := newCA(t, "beijing"), newCA(t, "beijing"), &clock{start}
	c1, n1 := joined(t, ca, host("c1", true), c), joined(t, ca, host("n1", false), c)
	foreign := joined(t, other, host("n1", false), c)
	operator := person(t, ca, "ann", Operate, start)

	_, serverErr, clientErr := meet(t, c1.Server(), &tls.Config{InsecureSkipVerify: true})
	if !errors.Is(serverErr, ErrNoCertificate) || clientErr != nil {
		t.Errorf("no certificate: %v, %v", serverErr, clientErr)
	}
	stranger := foreign.Client("c1")
	stranger.VerifyConnection = nil
	if _, serverErr, _ = meet(t, c1.Server(), stranger); serverErr == nil || !strings.Contains(serverErr.Error(), "n1") {
		t.Errorf("a host of another CA: %v", serverErr)
	}
	if _, _, clientErr = meet(t, foreign.Server(), n1.Client("n1")); clientErr == nil {
		t.Error("a server of another CA was believed")
	}
	if _, _, clientErr = meet(t, c1.Server(), n1.Client("c2")); clientErr == nil || !strings.Contains(clientErr.Error(), "c1 answers where c2 should") {
		t.Errorf("another host answers: %v", clientErr)
	}
	// An operator's certificate cannot serve.
	if _, _, clientErr = meet(t, &tls.Config{Certificates: operator.Certificates}, n1.Client("")); clientErr == nil {
		t.Error("an operator served")
	}
	// Two sites whose CAs stand in one file are still two sites.
	shanghai := newCA(t, "shanghai")
	far := joined(t, shanghai, host("n1", false), c)
	both := append(ca.PEM(), shanghai.PEM()...)
	if err := os.WriteFile(filepath.Join(c1.Dir, CAFile), both, 0o600); err != nil {
		t.Fatal(err)
	}
	guest := far.Client("c1")
	guest.VerifyConnection = nil
	if _, serverErr, _ = meet(t, c1.Server(), guest); serverErr == nil || !strings.Contains(serverErr.Error(), "n1 is of site shanghai") {
		t.Errorf("a host of another site: %v", serverErr)
	}
	c1.Allow = func(id Identity) error { return fmt.Errorf("removed on Monday") }
	if _, serverErr, _ = meet(t, c1.Server(), n1.Client("c1")); serverErr == nil || !strings.Contains(serverErr.Error(), "n1 is not admitted: removed on Monday") {
		t.Errorf("a removed host: %v", serverErr)
	}
}

func TestRoles(t *testing.T) {
	for _, test := range []struct {
		id            Identity
		read, operate bool
	}{
		{Identity{Kind: KindOperator, Role: Read}, true, false},
		{Identity{Kind: KindOperator, Role: Operate}, true, true},
		{Identity{Kind: KindHost, Name: "c1", Voter: true}, false, false},
		{Identity{}, false, false},
	} {
		if test.id.May(Read) != test.read || test.id.May(Operate) != test.operate {
			t.Errorf("%+v", test.id)
		}
	}
	ca := newCA(t, "beijing")
	for _, name := range []string{"", " ann", "a\nb"} {
		csr, _, err := NewRequest(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ca.SignOperator(csr, name, Read, start, time.Hour); err == nil {
			t.Errorf("an operator named %q was signed", name)
		}
	}
	csr, _, err := NewRequest("ann")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.SignOperator(csr, "ann", "root", start, time.Hour); err == nil {
		t.Error("role root was signed")
	}
}

func TestRequestsGetOnlyWhatTheSiteSays(t *testing.T) {
	ca := newCA(t, "beijing")
	csr, _, err := NewRequest("n1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.SignCSR(csr, host("c1", true), start); err == nil || !strings.Contains(err.Error(), `"n1"`) {
		t.Errorf("a request of n1 signed for c1: %v", err)
	}
	quorum, _, err := NewRequest(QuorumName)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.SignCSR(quorum, host(QuorumName, false), start); err == nil {
		t.Error("a compute took the quorum's name")
	}
	broken := bytes.Clone(csr)
	broken[len(broken)/2] ^= 1
	for _, bad := range [][]byte{nil, []byte("hello"), broken, ca.PEM()} {
		if _, err := ca.SignCSR(bad, host("n1", false), start); err == nil {
			t.Errorf("signed %.30q", bad)
		}
	}
}

func TestJoin(t *testing.T) {
	ca, c := newCA(t, "beijing"), &clock{start}
	c1 := joined(t, ca, host("c1", true), c)
	text, invite := ca.NewToken(start, time.Hour)
	if strings.ContainsFunc(text, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
		t.Errorf("token %s does not select with a double click", text)
	}
	token, err := ParseToken("  " + strings.ToUpper(text[:40]) + "\n" + text[40:] + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, serverErr, clientErr := meet(t, c1.Server(), token.Client(c.now)); clientErr != nil || !errors.Is(serverErr, ErrNoCertificate) {
		t.Fatalf("join: server %v, client %v", serverErr, clientErr)
	}
	if hash, err := HashSecret(token.Secret()); err != nil || hash != invite.Hash || hash != token.Hash() {
		t.Errorf("hash %s, %v, want %s", hash, err, invite.Hash)
	}

	// The joiner tells nothing to anybody but a voter of that site.
	other := joined(t, newCA(t, "beijing"), host("c1", true), c)
	if _, _, err := meet(t, other.Server(), token.Client(c.now)); !errors.Is(err, ErrTokenOtherSite) {
		t.Errorf("another site: %v", err)
	}
	// One who only shows the right CA beside a certificate of its own is found out.
	liar := other.Server()
	pair := *other.pair
	block := c1.pair.Certificate[1]
	pair.Certificate = [][]byte{pair.Certificate[0], block}
	liar.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }
	if _, _, err := meet(t, liar, token.Client(c.now)); err == nil {
		t.Error("a liar with a copy of the CA's certificate was believed")
	}
	n1 := joined(t, ca, host("n1", false), c)
	if _, _, err := meet(t, n1.Server(), token.Client(c.now)); err == nil || !strings.Contains(err.Error(), "not a voter") {
		t.Errorf("join at a compute: %v", err)
	}
}

func TestBadTokens(t *testing.T) {
	ca := newCA(t, "beijing")
	text, _ := ca.NewToken(start, time.Hour)
	token, err := ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := HashSecret("xyz"); !errors.Is(err, ErrTokenGarbled) {
		t.Errorf("a garbled secret: %v", err)
	}
	for i := range text {
		changed := []byte(text)
		changed[i] = 'a' + (changed[i]-'a'+1)%26
		if string(changed) == text {
			continue
		}
		if _, err := ParseToken(string(changed)); !errors.Is(err, ErrTokenGarbled) {
			t.Errorf("character %d changed: %v", i, err)
		}
	}
	for _, bad := range []string{"", "mainstay1", text[1:], text[:len(text)-1], text + "a", "mainstay1" + strings.Repeat("!", len(text)-9)} {
		if _, err := ParseToken(bad); !errors.Is(err, ErrTokenGarbled) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(format, token); strings.Contains(s, token.Secret()) || strings.Contains(s, fmt.Sprint(token.secret[:4])[1:10]) {
			t.Errorf("%s shows the secret: %s", format, s)
		}
	}
}

func TestRenewalNeedsNoRestart(t *testing.T) {
	ca, c := newCA(t, "beijing"), &clock{start}
	c1, n1 := joined(t, ca, host("c1", true), c), joined(t, ca, host("n1", false), c)
	server, client := c1.Server(), n1.Client("c1") // made once, as a running agent does
	before, serverErr, clientErr := meet(t, server, client)
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	due := func(f *Files, want bool) {
		t.Helper()
		if got, err := f.Due(); err != nil || got != want {
			t.Errorf("%v after the start: due %v, %v", c.t.Sub(start), got, err)
		}
	}
	due(n1, false)
	c.t = start.Add(HostLife - Renewal)
	due(n1, true)
	for _, f := range []*Files{c1, n1} {
		h := host(f.id.Name, f.id.Voter)
		if err := f.Install(grant(t, ca, h, c.t)); err != nil {
			t.Fatal(err)
		}
	}
	due(n1, false)
	c.t = start.Add(HostLife + 24*time.Hour) // the first ones are past
	after, serverErr, clientErr := meet(t, server, client)
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	if before.Serial == after.Serial {
		t.Error("the certificate of before was shown")
	}
}

func TestExpired(t *testing.T) {
	ca, c := newCA(t, "beijing"), &clock{start}
	c1, n1 := joined(t, ca, host("c1", true), c), joined(t, ca, host("n1", false), c)
	c.t = start.Add(HostLife - time.Hour)
	if err := c1.Install(grant(t, ca, host("c1", true), c.t)); err != nil {
		t.Fatal(err)
	}
	c.t = start.Add(HostLife + time.Hour)
	want := []string{filepath.Join(n1.Dir, "host.pem"), "n1", "2026-05-30 12:00 UTC", "mainstay token"}
	all := func(err error) {
		t.Helper()
		var expired *ExpiredError
		if !errors.As(err, &expired) {
			t.Errorf("not an ExpiredError: %v", err)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q lacks %q", err, w)
			}
		}
	}
	_, err := n1.Load()
	all(err)
	_, _, err = meet(t, c1.Server(), n1.Client("c1"))
	all(err)
	// Seen from the other side, the file is not known, but the host is.
	stale := n1.Client("c1")
	pair := n1.pair
	stale.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	want = []string{"n1", "2026-05-30 12:00 UTC", "mainstay check"}
	_, err, _ = meet(t, c1.Server(), stale)
	all(err)
	c.t = start.Add(2 * HostLife)
	if err := os.WriteFile(filepath.Join(c1.Dir, CAKeyFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want = []string{filepath.Join(c1.Dir, "host.pem"), "c1", "mainstay join --renew"}
	_, err = c1.Load()
	all(err)
	c.t = start.Add(-2 * time.Hour)
	if _, err, _ := meet(t, c1.Server(), stale); err == nil {
		t.Error("a server before its certificate's time served")
	}
}

// Power may fail between any two steps of an installation: what is on disk then
// must load, as the old pair or as the new one.
func TestInstallCutShort(t *testing.T) {
	ca, c := newCA(t, "beijing"), &clock{start}
	old, oldKey := grant(t, ca, host("c1", true), start)
	c.t = start.Add(HostLife - Renewal)
	renewed, newKey := grant(t, ca, host("c1", true), c.t)
	write := func(f *Files, name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(f.Dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	steps := []func(*Files){
		func(f *Files) { write(f, nextKey, newKey) },
		func(f *Files) { write(f, CertFile, []byte(renewed.Certificate)) },
	}
	for cutAt := range len(steps) + 1 {
		f := &Files{Dir: filepath.Join(t.TempDir(), "tls"), Now: c.now}
		if err := f.Install(old, oldKey); err != nil {
			t.Fatal(err)
		}
		for _, step := range steps[:cutAt] {
			step(f)
		}
		fresh := &Files{Dir: f.Dir, Now: c.now}
		if _, err := fresh.Load(); err != nil {
			t.Errorf("cut after %d steps: %v", cutAt, err)
			continue
		}
		if due, _ := fresh.Due(); due != (cutAt < 2) {
			t.Errorf("cut after %d steps: due %v", cutAt, due)
		}
		if err := f.Install(renewed, newKey); err != nil {
			t.Errorf("cut after %d steps, then again: %v", cutAt, err)
		}
	}
}

func TestBrokenFilesServeOn(t *testing.T) {
	ca, c := newCA(t, "beijing"), &clock{start}
	c1, n1 := joined(t, ca, host("c1", true), c), joined(t, ca, host("n1", false), c)
	server := c1.Server()
	if _, err := c1.Load(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c1.Dir, CertFile), []byte("oops"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c1.Load(); err == nil || !strings.Contains(err.Error(), filepath.Join(c1.Dir, CertFile)) {
		t.Errorf("a broken file: %v", err)
	}
	if _, serverErr, clientErr := meet(t, server, n1.Client("c1")); serverErr != nil || clientErr != nil {
		t.Errorf("the pair of before should serve on: %v, %v", serverErr, clientErr)
	}
	if _, err := (&Files{Dir: t.TempDir()}).Load(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "mainstay join") {
		t.Errorf("a host that has not joined: %v", err)
	}
}

func TestGrantsThatDoNotFitAreRefused(t *testing.T) {
	ca, c := newCA(t, "beijing"), &clock{start}
	for name, spoil := range map[string]func(*Grant, *[]byte){
		"no CA":             func(g *Grant, _ *[]byte) { g.CA = "" },
		"another CA":        func(g *Grant, _ *[]byte) { g.CA = string(newCA(t, "beijing").PEM()) },
		"another key":       func(_ *Grant, key *[]byte) { _, *key, _ = NewRequest("n1") },
		"beat keys of n2":   func(g *Grant, _ *[]byte) { g.Beat, _ = masters.For("n2") },
		"no beat keys":      func(g *Grant, _ *[]byte) { g.Beat = BeatKeys{} },
		"key of another CA": func(g *Grant, _ *[]byte) { k, _ := newCA(t, "x").KeyPEM(); g.CAKey = string(k) },
	} {
		g, key := grant(t, ca, host("n1", false), start)
		spoil(&g, &key)
		f := &Files{Dir: t.TempDir(), Now: c.now}
		if err := f.Install(g, key); err == nil {
			t.Errorf("%s: installed", name)
		}
		if entries, _ := os.ReadDir(f.Dir); len(entries) > 0 {
			t.Errorf("%s: wrote %v", name, entries)
		}
		if s := fmt.Sprintf("%v %+v %#v", g, g, g); strings.Contains(s, "PRIVATE") || strings.Contains(s, "CERT") {
			t.Errorf("%s: printing a grant shows it: %s", name, s)
		}
	}
}

func TestFilesArePrivate(t *testing.T) {
	ca := newCA(t, "beijing")
	f := joined(t, ca, host("c1", true), &clock{start})
	var names []string
	err := filepath.WalkDir(f.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		names = append(names, d.Name())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{BeatFile, CAKeyFile, CAFile, KeyFile, CertFile}, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	again, err := LoadCA(f.Dir)
	if err != nil || again.Pin() != ca.Pin() || again.Site() != "beijing" {
		t.Errorf("the CA, read back: %v", err)
	}
	dir := t.TempDir()
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	if again, err = LoadCA(dir); err != nil || again.Pin() != ca.Pin() {
		t.Errorf("the CA, saved and read back: %v", err)
	}
}

func TestBeatKeys(t *testing.T) {
	a, b := NewBeatKeys(), NewBeatKeys()
	seen := map[string]string{}
	for name, k := range map[string]BeatKeys{"a": a, "b": b} {
		for _, host := range []string{"", "n1", "n2", "voters"} {
			key, ok := k.Key(1, host)
			if !ok || len(key) != 32 {
				t.Fatalf("key of %q: %d bytes, %v", host, len(key), ok)
			}
			if other := seen[string(key)]; other != "" {
				t.Errorf("%s %q has the key of %s", name, host, other)
			}
			seen[string(key)] = name + " " + host
		}
	}
	n1, err := a.For("n1")
	if err != nil {
		t.Fatal(err)
	}
	want, _ := a.Key(1, "n1")
	if got, ok := n1.Key(1, "n1"); !ok || !bytes.Equal(got, want) {
		t.Error("a host and a voter differ on the host's key")
	}
	for _, host := range []string{"", "n2"} {
		if _, ok := n1.Key(1, host); ok {
			t.Errorf("n1 holds a key of %q", host)
		}
	}
	if _, err := n1.For("n2"); err == nil {
		t.Error("n1 derived a key")
	}
	if _, err := n1.Stage(); err == nil {
		t.Error("n1 staged a key")
	}
	staged, err := a.Stage()
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Secrets) != 1 || staged.Current() != 1 || staged.Turn().Current() != 2 {
		t.Errorf("staged %v, turned %v", staged, staged.Turn())
	}
	rotated := staged.Turn().Retire()
	if diff := cmp.Diff([]uint32{2}, slices.Sorted(maps.Keys(rotated.Secrets))); diff != "" {
		t.Errorf("retired (-want +got):\n%s", diff)
	}
	dir := t.TempDir()
	if err := rotated.Save(dir); err != nil {
		t.Fatal(err)
	}
	back, err := LoadBeatKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rotated, back); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if s := fmt.Sprintf("%v %+v %#v", a, a, &a); s != strings.Repeat("beat masters [1], sealing with 1 ", 3)[:len(s)] {
		t.Errorf("printed: %s", s)
	}
	for _, bad := range []string{"", "{", `{"sealing":1}`, `{"sealing":1,"secrets":{"1":"AAAA"}}`} {
		if err := os.WriteFile(filepath.Join(dir, BeatFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadBeatKeys(dir); err == nil || !strings.Contains(err.Error(), BeatFile) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
