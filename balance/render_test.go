package balance

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is a small site, as its file would give it.
func sample() fleet.Spec {
	spec := fleet.Spec{
		Site: "beijing", TLS: fleet.TLS{Certificate: "/etc/mainstay/site.pem"},
		Networks: []fleet.Network{{Name: "management"}, {Name: "storage"}},
		Addresses: []fleet.Address{
			{Name: "internal", Addr: netip.MustParseAddr("10.0.0.100")},
			{Name: "internal6", Addr: netip.MustParseAddr("fd00:1::100")},
			{Name: "public", Addr: netip.MustParseAddr("203.0.113.10")},
		},
		Services: []fleet.Service{
			{Name: "haproxy", Roles: []string{"controller"}},
			{Name: "horizon", Roles: []string{"controller"}, Listen: fleet.Listen{Port: 443, Backend: 80, Protocol: "http", TLS: true, Addresses: []string{"public"}}},
			{Name: "keystone", Roles: []string{"controller"}, Listen: fleet.Listen{Port: 5000, Protocol: "http", Addresses: []string{"internal", "internal6", "elsewhere"}}},
			{Name: "mariadb", Roles: []string{"controller"}, Listen: fleet.Listen{Port: 3306, Protocol: "tcp", Local: true, Writer: true, Network: "storage", Writers: map[string]int{"nova": 3307}}},
			{Name: "novnc", Hosts: []string{"c2", "c1"}, Listen: fleet.Listen{Port: 6080, Addresses: []string{"internal"}}},
		},
	}
	for i, name := range []string{"c1", "c2", "c3"} {
		spec.Hosts = append(spec.Hosts, fleet.Host{Name: name, Roles: []string{"controller"}, Addresses: map[string]netip.Addr{
			"management": netip.AddrFrom4([4]byte{10, 0, 0, byte(11 + i)}), "storage": netip.AddrFrom4([4]byte{10, 0, 1, byte(11 + i)}),
		}})
	}
	return spec
}

func TestRender(t *testing.T) {
	h := New(Config{Dir: "/etc/mainstay", Run: "/run/mainstay"})
	got, digest, err := h.render(sample(), []snippet{{"10-own.cfg", "listen own\n    bind 10.0.0.100:9999 transparent"}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(got), "description "+digest+"\n") {
		t.Errorf("%q is not in the text", digest)
	}
	golden := filepath.Join("testdata", "haproxy.cfg")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

// TestRenderRefuses: what cannot be rendered is named, not left out.
func TestRenderRefuses(t *testing.T) {
	for want, change := range map[string]func(*fleet.Spec){
		"names no certificate":              func(s *fleet.Spec) { s.TLS.Certificate = "" },
		"listens on no address":             func(s *fleet.Spec) { s.Addresses = s.Addresses[:2] },
		"host c2 has no address on storage": func(s *fleet.Spec) { delete(s.Hosts[1].Addresses, "storage") },
	} {
		spec := sample()
		change(&spec)
		if _, _, err := New(Config{}).render(spec, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

// TestSnippets: an operator's own sections survive each rendering, and a bad one
// leaves everything as it was.
func TestSnippets(t *testing.T) {
	s := newSite(t)
	dir := filepath.Join(s.cfg.Dir, "haproxy.d")
	s.must(os.Mkdir(dir, 0o755))
	own := func(name, text string) { s.must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)) }
	own("20-own.cfg", "# ours\nbackend own\n    balance source\n")
	own("10-first.cfg", "userlist people\n")
	own("README", "not a configuration")
	s.must(s.Configure(t.Context(), s.spec))
	s.spec.Site = "renamed"
	s.must(s.Configure(t.Context(), s.spec))
	good, err := os.ReadFile(s.file())
	s.must(err)
	for _, want := range []string{"file of renamed;", "# --- haproxy.d/10-first.cfg\nuserlist people\n\n# --- haproxy.d/20-own.cfg\n# ours\nbackend own\n    balance source\n"} {
		if !strings.Contains(string(good), want) {
			t.Errorf("%q is not in\n%s", want, good)
		}
	}
	for _, bad := range []struct{ name, text, want string }{
		{"30-bad.cfg", "listen x\n    bind 127.0.0.1:1\n    nonsense here\n", "[haproxy.d/30-bad.cfg:3]"},
		{"15-bad.cfg", "listen x\n    nonsense here\n", "15-bad.cfg"},
		{"30-bad.cfg", "backend web\n", "30-bad.cfg"},                       // the name is taken
		{"30-bad.cfg", "frontend x\n    default_backend y\n", "30-bad.cfg"}, // found after the last line, so none is named
		{"30-bad.cfg", "\n# no section\n    timeout client 1h\n", ":3: it must begin with a section"},
	} {
		own(bad.name, bad.text)
		err := s.Configure(t.Context(), s.spec)
		if err == nil || !strings.Contains(err.Error(), bad.want) || !strings.Contains(err.Error(), filepath.Join(dir, bad.name)) ||
			!strings.Contains(err.Error(), "old") {
			t.Errorf("%q: %v", bad.text, err)
		}
		if why := s.Refused(); !strings.Contains(why, filepath.Join(dir, bad.name)) || strings.Contains(why, "nonsense") {
			t.Errorf("%q: told of it is %q", bad.text, why)
		}
		now, err := os.ReadFile(s.file())
		s.must(err)
		if string(now) != string(good) {
			t.Errorf("%q: the old configuration is gone", bad.text)
		}
		s.must(os.Remove(filepath.Join(dir, bad.name)))
	}
	if s.must(s.Configure(t.Context(), s.spec)); s.Refused() != "" {
		t.Errorf("what is mended is still told: %q", s.Refused())
	}
	left, err := filepath.Glob(s.file() + ".*")
	if s.must(err); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestCheck: a dry run says what Configure would, blames the same, and leaves nothing.
func TestCheck(t *testing.T) {
	s := newSite(t)
	drafts := t.TempDir()
	t.Setenv("TMPDIR", drafts)
	s.must(os.Remove(s.file()))
	s.must(s.Check(t.Context(), s.spec))
	s.must(os.Mkdir(filepath.Join(s.cfg.Dir, "haproxy.d"), 0o755))
	own := filepath.Join(s.cfg.Dir, "haproxy.d", "a.cfg")
	s.must(os.WriteFile(own, []byte("listen x\n    bind 127.0.0.1:1\n    nonsense here\n"), 0o644))
	refusal, ok := errors.AsType[*Refusal](s.Check(t.Context(), s.spec))
	if !ok || refusal.Snippet != own || !strings.Contains(refusal.Said, "[haproxy.d/a.cfg:3]") {
		t.Errorf("%+v", refusal)
	}
	s.must(os.Remove(own))
	s.spec.TLS.Certificate = "/nowhere.pem"
	refusal, ok = errors.AsType[*Refusal](s.Check(t.Context(), s.spec))
	if !ok || refusal.Snippet != "" || !strings.Contains(refusal.Said, s.file()) || strings.Contains(refusal.Said, drafts) {
		t.Errorf("%+v", refusal)
	}
	left, err := os.ReadDir(drafts)
	if _, written := os.Stat(s.file()); err != nil || len(left) > 0 || !errors.Is(written, os.ErrNotExist) {
		t.Errorf("left behind: %v %v, %v", left, err, written)
	}
}

// TestBadSite: when the site's file is to blame, no snippet is.
func TestBadSite(t *testing.T) {
	s := newSite(t)
	s.must(os.Mkdir(filepath.Join(s.cfg.Dir, "haproxy.d"), 0o755))
	s.must(os.WriteFile(filepath.Join(s.cfg.Dir, "haproxy.d", "a.cfg"), []byte("backend own\n"), 0o644))
	s.spec.TLS.Certificate = "/nowhere.pem"
	if err := s.Configure(t.Context(), s.spec); err == nil || !strings.Contains(err.Error(), "because of the site's file") || !strings.Contains(err.Error(), "/nowhere.pem") {
		t.Error(err)
	}
}

func TestNoHAProxy(t *testing.T) {
	h := New(Config{Dir: t.TempDir(), Run: t.TempDir(), Binary: "no-such-haproxy"})
	if err := h.Configure(t.Context(), sample()); err == nil || !strings.Contains(err.Error(), "apt-get install haproxy") {
		t.Error(err)
	}
	if _, err := os.Stat(h.file()); !errors.Is(err, os.ErrNotExist) {
		t.Error("a configuration that nobody checked is in place")
	}
}
