package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// host is a machine's folders, for one command after another.
type host struct {
	t   *testing.T
	dir string
}

func newHost(t *testing.T) *host {
	dir, err := os.MkdirTemp("", "cli") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &host{t: t, dir: dir}
}

func (h *host) path(name ...string) string {
	return filepath.Join(append([]string{h.dir}, name...)...)
}

// run runs a command line as a shell would.
func (h *host) run(args ...string) (code int, out, errs string) {
	h.t.Helper()
	var o, e bytes.Buffer
	dirs := []string{"--config-dir", h.path("etc"), "--state-dir", h.path("state"), "--run-dir", h.path("run")}
	code = Main(append(args, dirs...), strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

// want runs a command line and compares its exit code; every part must be said.
func (h *host) want(code int, parts []string, args ...string) string {
	h.t.Helper()
	got, out, errs := h.run(args...)
	for _, p := range parts {
		if !strings.Contains(out+errs, p) {
			h.t.Errorf("mainstay %s: %q is not in\n%s%s", strings.Join(args, " "), p, out, errs)
		}
	}
	if got != code {
		h.t.Errorf("mainstay %s: exit code %d, not %d:\n%s%s", strings.Join(args, " "), got, code, out, errs)
	}
	return out
}

func (h *host) write(text string, name ...string) string {
	h.t.Helper()
	path := h.path(name...)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// site has no service, so that nothing of this machine is asked for.
const site = `site: test
networks: {management: {cidr: 10.9.0.0/24}}
hosts: {"c[1-3]": {roles: [controller], addresses: {management: 10.9.0.1}}}
`

// TestCheckCounts: what check says at its end, and where a file is missing.
func TestCheckCounts(t *testing.T) {
	h := newHost(t)
	bad := h.write(site+"colour: blue\n", "bad.yaml")
	good := h.write(site, "good.yaml")
	h.want(exitTrouble, []string{"1 mistake; nothing was changed"}, "check", "-f", bad)
	h.want(0, []string{"no mistakes, no warnings.", "FORMULA"}, "check", "-f", good)
	h.want(1, []string{"mainstay init writes one"}, "check")
	_, _, errs := h.run("check", "-f", h.path("none.yaml"))
	if strings.Contains(errs, "mainstay init") || !strings.Contains(errs, "none.yaml") {
		t.Errorf("who names a file is told %q", errs)
	}
}

// TestCheckBeforeInit: the order of README: check, then init --host.
func TestCheckBeforeInit(t *testing.T) {
	h := newHost(t)
	h.write(site, "etc", "site.yaml")
	h.want(0, []string{`"elsewhere" is the name of no host`, "FORMULA"}, "check", "--host", "elsewhere")
	h.want(exitTrouble, []string{`"c2" is who this host is taken for`, `"10.9.0.2" is on no interface`, "1 mistake;"}, "check", "--host", "c2")
}
