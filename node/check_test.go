package node

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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
		{line("haproxy:"), "haproxy is not installed"},
		{line("nothing:"), "state on this host"}, // this machine has no systemd
		{line("  c1:"), "10.9.0.1"},
		{line("  c1:"), "127.77.0.1"},
		{file, "voters"},
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

func certificate(t *testing.T, dir, host string, made time.Time) {
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
}
