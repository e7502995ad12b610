package node

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mainstay/balance"
	"mainstay/fleet"
	"mainstay/service"
	"mainstay/store"
	"mainstay/trust"
)

// TestCheckNamesAll: one run names everything that is wrong, each with the line
// that it is about, and touches nothing.
func TestCheckNamesAll(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no haproxy
	dir := t.TempDir()
	certificate(t, filepath.Join(dir, "tls"), "c1", time.Now().Add(-10*365*24*time.Hour))
	text := `site: test
networks:
  a: {cidr: 127.77.0.0/24}
  b: {cidr: 127.77.0.0/25}
  c: {cidr: 10.9.0.0/24}
hosts:
  c1:
    roles: [controller]
    voter: true
    addresses: {a: 127.77.0.1, c: 10.9.0.1}
    fence: {driver: redfish, url: "not a url", pasword_file: x}
  c2:
    roles: [controller]
    voter: true
    addresses: {a: 127.77.0.2, c: 10.9.0.2}
    fence: {driver: redfisch}
addresses:
  internal: 192.0.2.1
services:
  haproxy: {}
  nothing:
    kind: systemd
    mode: active/active
    why: a test
    units: [mainstay-no-such.service]
    roles: [controller]
  asked: {kind: systemd, mode: active/active, units: [a], roles: [controller], check: {kind: htpp, port: 80}}
  other: {kind: sistemd, mode: active/active, why: x, units: [a], roles: [controller]}
timing: {beat: 50ms, lease: 60ms}
colour: blue
`
	file := filepath.Join(dir, "site.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, faults := Check(t.Context(), Config{Config: dir}, file, []byte(text), "c1")
	all := faults.Errors().Error()
	t.Log("\n" + all)
	line := func(part string) string {
		for i, l := range strings.Split(text, "\n") {
			if strings.Contains(l, part) {
				return file + ":" + strconv.Itoa(i+1) + ":"
			}
		}
		t.Fatalf("the file has no %q", part)
		return ""
	}
	for _, want := range []struct{ at, says string }{
		{line("colour"), "colour"},
		{line("b: {cidr"), "overlap"},
		{line("internal:"), "192.0.2.1"},
		{line("timing:"), "lease"},
		{line("pasword_file"), "pasword_file"},
		{line("pasword_file"), "url"},
		{line("redfisch"), "redfisch"},
		{line("sistemd"), "sistemd"},
		{line("htpp"), "tcp, http, memcached"},
		{line("haproxy:"), "haproxy is not installed"},
		{line("nothing:"), "state on this host"}, // this machine has no systemd
		{line("  c1:"), "10.9.0.1"},
		{line("  c1:"), "127.77.0.1"},
		{filepath.Join(dir, "tls"), "expired"},
	} {
		found := false
		for l := range strings.Lines(all) {
			found = found || strings.Contains(l, want.at) && strings.Contains(l, want.says)
		}
		if !found {
			t.Errorf("no fault at %s says %q", want.at, want.says)
		}
	}
}

// TestCheckTellsOnce: one mistake is one line, however many hosts share it and whoever
// else would trip over it.
func TestCheckTellsOnce(t *testing.T) {
	_, faults := Check(t.Context(), Config{}, "site.yaml", []byte(`site: test
networks: {a: {cidr: 10.9.0.0/24}}
hosts: {"c[1-3]": {roles: [controller], addresses: {a: 10.9.0.1}, fence: {driver: redfish, url: "https://bmc-{name}", user: u, password: secret}}}
services:
  foo: {}
`), "")
	var lines []string
	for _, f := range faults.Errors() {
		lines = append(lines, strconv.Itoa(f.Line)+" "+f.Path)
		if f.Line == 3 && !strings.Contains(f.Problem, "(and 2 more of this pattern alike)") {
			t.Error(f)
		}
	}
	if got := strings.Join(lines, ", "); got != "3 hosts/c1/fence/password, 5 services/foo" {
		t.Errorf("told: %s\n%v", got, faults)
	}
}

// TestCheckBeforeInit: the file is checked before the host has a certificate, and what
// the host lacks is told then too, as the host that it will be.
func TestCheckBeforeInit(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no haproxy
	text := []byte(`site: test
networks: {a: {cidr: 10.9.0.0/24}}
hosts: {"c[1-3]": {roles: [controller], addresses: {a: 10.9.0.1}}}
services: {haproxy: {}}
`)
	look := func(host string) string {
		_, faults := Check(t.Context(), Config{Config: t.TempDir()}, "site.yaml", text, host)
		return faults.Error()
	}
	for _, want := range []string{
		`warning: "c2" is who this host is taken for`, "haproxy is not installed", `"10.9.0.2" is on no interface`, // c2's, and no other's
	} {
		if all := look("c2"); !strings.Contains(all, want) || strings.Contains(all, "error: load") {
			t.Errorf("%q is not in\n%s", want, all)
		}
	}
	if all := look("cloud-7"); strings.Contains(all, "error:") || !strings.Contains(all, `warning: hosts: "cloud-7" is the name of no host`) {
		t.Error(all)
	}
}

// served is a site of this machine alone, with HAProxy and TLS.
const served = `site: test
networks: {a: {cidr: 10.9.0.0/24}}
hosts: {"c[1-3]": {roles: [controller], addresses: {a: 10.9.0.1}}}
addresses: {internal: 10.9.0.100}
tls: {certificate: CERTIFICATE}
services:
  haproxy: {}
  web: {kind: systemd, mode: active/active, units: [web.service], roles: [controller], listen: {port: 8443, backend: 80, protocol: http, tls: true, addresses: [internal]}}
`

// TestCheckHAProxy: what HAProxy would refuse is known before it is asked in earnest.
func TestCheckHAProxy(t *testing.T) {
	dir := t.TempDir()
	pem := filepath.Join(dir, "site.pem")
	text := []byte(strings.ReplaceAll(served, "CERTIFICATE", pem))
	look := func() string {
		var lines []string
		_, faults := Check(t.Context(), Config{Config: dir, Run: dir}, "site.yaml", text, "c1")
		for _, f := range faults {
			if f.Rule == "tls" || f.Rule == "haproxy" {
				lines = append(lines, f.Error())
			}
		}
		return strings.Join(lines, "\n")
	}
	own := filepath.Join(dir, "haproxy.d", "own.cfg")
	if err := os.Mkdir(filepath.Dir(own), 0o755); err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	for _, c := range []struct {
		name, snippet string
		pem           []byte
		want          []string // each on a line of its own
	}{
		{"all is well", "", siteCertificate(t, -day, 90*day), nil},
		{"no certificate", "", nil, []string{`site.yaml:5:20: error: tls/certificate: "` + pem + `" cannot be read`}},
		{"no key", "", bytes.SplitAfter(siteCertificate(t, -day, 90*day), []byte("END CERTIFICATE-----\n"))[0], []string{"is no certificate with its key"}},
		{"expired", "", siteCertificate(t, -90*day, -day), []string{"error: tls/certificate: \"" + pem + "\" expired on"}},
		{"nearly", "", siteCertificate(t, -90*day, day), []string{"warning: tls/certificate: \"" + pem + "\" expires on"}},
		{"a bad snippet", "listen x\n    nonsense here\n", siteCertificate(t, -day, 90*day), []string{own + ": error: HAProxy refuses"}},
		{"both", "listen x\n    nonsense here\n", nil, []string{"cannot be read", own + ": error: HAProxy refuses"}},
		{"a snippet that takes a name", "listen web\n", siteCertificate(t, -day, 90*day), []string{own}},
	} {
		for name, text := range map[string][]byte{pem: c.pem, own: []byte(c.snippet)} {
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if len(text) > 0 {
				if err := os.WriteFile(name, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		all := look()
		for _, want := range c.want {
			if !strings.Contains(all, want) {
				t.Errorf("%s: %q is not in %q", c.name, want, all)
			}
		}
		if got := len(strings.FieldsFunc(all, func(r rune) bool { return r == '\n' })); got != len(c.want) {
			t.Errorf("%s: %d faults, not %d:\n%s", c.name, got, len(c.want), all)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "haproxy.cfg")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a check has put a configuration in place")
	}
}

// TestFirstStart: a host that never ran does not start on a file that no kind and no
// driver understands; one that ran before does, and only says so.
func TestFirstStart(t *testing.T) {
	dir := t.TempDir()
	certificate(t, filepath.Join(dir, "tls"), "c1", time.Now())
	c := Config{Config: dir, State: filepath.Join(dir, "state"), Run: dir, Log: slog.New(slog.DiscardHandler)}
	write := func(services string) {
		t.Helper()
		text := "site: test\nnetworks: {a: {cidr: 10.9.0.0/24}}\nhosts: {\"c[1-3]\": {roles: [controller], addresses: {a: 10.9.0.1}}}\n" + services
		if err := os.WriteFile(c.siteFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const wrong = "services: {other: {kind: sistemd, mode: active/active, units: [a], roles: [controller]}}\n"
	write(wrong)
	if _, err := prepare(t.Context(), c); err == nil || !strings.Contains(err.Error(), "site.yaml:4:") || !strings.Contains(err.Error(), "sistemd") {
		t.Errorf("started: %v", err)
	}
	write("")
	if _, err := prepare(t.Context(), c); err != nil {
		t.Error(err)
	}
	write(wrong)
	if _, err := prepare(t.Context(), c); err != nil {
		t.Errorf("a host that ran before: %v", err)
	}
	// Who has to mend it needs one run.
	t.Setenv("PATH", t.TempDir()) // no haproxy
	write("services: {haproxy: {}, other: {kind: sistemd, mode: active/active, units: [a], roles: [controller]}}\ncolour: blue\n")
	certificate(t, c.tls(), "c1", time.Now().Add(-10*365*24*time.Hour))
	_, err := prepare(t.Context(), c)
	for _, want := range []string{"colour", "sistemd", "haproxy is not installed", "10.9.0.1", "expired"} {
		if err == nil || strings.Count(err.Error(), want) != 1 {
			t.Errorf("%q is not told, or more than once:\n%v", want, err)
		}
	}
	// The passwords of power switches are for those who use them.
	text := `site: test
networks: {a: {cidr: 10.9.0.0/24}}
hosts:
  c[1-3]: {roles: [controller], addresses: {a: 10.9.0.1}, fence: {driver: ipmi, address: "bmc-{name}", user: u, password_file: /no/password}}
  n1: {roles: [compute], addresses: {a: 10.9.0.9}}
`
	for host, starts := range map[string]bool{"c1": false, "n1": true} {
		c := Config{Config: t.TempDir(), State: filepath.Join(t.TempDir(), "state"), Run: dir, Log: slog.New(slog.DiscardHandler)}
		certificate(t, c.tls(), host, time.Now())
		if err := os.WriteFile(c.siteFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := prepare(t.Context(), c); (err == nil) != starts {
			t.Errorf("%s without the BMCs' password: %v", host, err)
		}
	}
}

// TestKeepHAProxy: a certificate that was renewed reaches HAProxy, and what was refused
// is tried again until it is mended.
func TestKeepHAProxy(t *testing.T) {
	dir := t.TempDir()
	pem := filepath.Join(dir, "site.pem")
	write := func(text []byte) {
		if err := os.WriteFile(pem, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(siteCertificate(t, -time.Hour, time.Hour))
	spec, faults := fleet.Read("site.yaml", []byte(strings.ReplaceAll(served, "CERTIFICATE", pem)), service.Catalogue())
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	n := &node{spec: spec, log: slog.New(slog.DiscardHandler), haproxy: balance.New(balance.Config{Dir: dir, Run: dir, Host: "c1"})}
	n.configureHAProxy(t.Context())
	have := func() string {
		text, err := os.ReadFile(filepath.Join(dir, "haproxy.cfg"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	first := have()
	tick := make(chan time.Time)
	go n.keepHAProxy(t.Context(), tick)
	twice := func() { tick <- time.Time{}; tick <- time.Time{} } // the second is taken when the first was acted on
	twice()
	if have() != first {
		t.Error("changed, though nothing was")
	}
	write([]byte("half a file"))
	if twice(); have() != first || n.haproxy.Refused() == "" {
		t.Error("a certificate that is none was taken")
	}
	write(siteCertificate(t, -time.Hour, time.Hour))
	if twice(); have() == first || n.haproxy.Refused() != "" {
		t.Errorf("the renewed certificate is not in force: %s", n.haproxy.Refused())
	}
}

// siteCertificate is one that HAProxy shows, with its key.
func siteCertificate(t *testing.T, from, until time.Duration) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

// certificate makes a site of its own for a host, and returns that site's CA.
func certificate(t *testing.T, dir, host string, made time.Time) *trust.CA {
	t.Helper()
	ca, err := trust.NewCA("test", made)
	if err != nil {
		t.Fatal(err)
	}
	csr, key, err := trust.NewRequest(host)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.SignCSR(csr, trust.HostSpec{Name: host}, made)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := trust.NewBeatKeys().For(host)
	if err != nil {
		t.Fatal(err)
	}
	files := trust.Files{Dir: dir, Now: func() time.Time { return made }}
	if err := files.Install(trust.Grant{CA: string(ca.PEM()), Certificate: string(cert), Beat: keys}, key); err != nil {
		t.Fatal(err)
	}
	return ca
}

// TestRenewSelf: a voter that was off for longer than its certificate lasts has the CA's
// key, and perhaps nobody to ask. A host without the key must be let in anew.
func TestRenewSelf(t *testing.T) {
	made := time.Now().Add(-trust.HostLife - time.Hour)
	c := Config{Config: t.TempDir()}
	text := "site: test\nnetworks: {a: {cidr: 10.9.0.0/24}}\nhosts:\n  \"c[1-3]\": {roles: [controller], addresses: {a: 10.9.0.1}}\n  n1: {roles: [compute], addresses: {a: 10.9.0.9}}\n"
	if err := os.WriteFile(c.siteFile(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ca, err := trust.NewCA("test", made)
	if err != nil {
		t.Fatal(err)
	}
	for host, can := range map[string]bool{"c1": true, "n1": false} {
		if err := os.RemoveAll(c.tls()); err != nil {
			t.Fatal(err)
		}
		csr, key, err := trust.NewRequest(host)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ca.SignCSR(csr, trust.HostSpec{Name: host, Voter: can}, made)
		if err != nil {
			t.Fatal(err)
		}
		g := trust.Grant{CA: string(ca.PEM()), Certificate: string(cert), Beat: trust.NewBeatKeys()}
		if can {
			secret, err := ca.KeyPEM()
			if err != nil {
				t.Fatal(err)
			}
			g.CAKey = string(secret)
		}
		if err := (&trust.Files{Dir: c.tls(), Now: func() time.Time { return made }}).Install(g, key); err != nil {
			t.Fatal(err)
		}
		if _, err := (&trust.Files{Dir: c.tls()}).Load(); err == nil {
			t.Fatal("the certificate has not expired")
		}
		got, err := RenewSelf(c)
		if (err == nil) != can || can && got != host {
			t.Errorf("%s renews itself: %q, %v", host, got, err)
		}
		if _, err := (&trust.Files{Dir: c.tls()}).Load(); (err == nil) != can {
			t.Errorf("%s afterwards: %v", host, err)
		}
	}
}

// TestNeverStarted: a member that broke before its first start has no name; it is the
// host's that the file has there, or whoever's comes back elsewhere.
func TestNeverStarted(t *testing.T) {
	at := func(addr string) fleet.Host {
		return fleet.Host{Addresses: map[string]netip.Addr{"a": netip.MustParseAddr(addr)}}
	}
	c1, c3 := at("10.9.0.1"), at("10.9.0.3")
	c1.Name, c3.Name = "c1", "c3"
	s := fleet.Spec{Hosts: []fleet.Host{c1, c3}}
	peer := func(addr string) string { return "https://" + addr + ":" + strconv.Itoa(QuorumPort) }
	for _, c := range []struct {
		what, host, want string
		member           store.Voter
	}{
		{"its own", "c3", peer("10.9.0.3"), store.Voter{Peer: peer("10.9.0.3"), Learner: true}},
		{"another's", "c1", "", store.Voter{Peer: peer("10.9.0.3"), Learner: true}},
		{"nobody's any more", "c3", peer("10.9.0.7"), store.Voter{Peer: peer("10.9.0.7"), Learner: true}},
		{"one that started", "c3", "", store.Voter{Name: "c3", Peer: peer("10.9.0.3"), Learner: true}},
	} {
		if got := neverStarted(s, c.host, []store.Voter{{Name: "c1", Peer: peer("10.9.0.1")}, c.member}); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}
