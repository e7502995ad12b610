package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mainstay/api"
	"mainstay/fleet"
)

const marker = "hunter2"

func (b *backend) World(context.Context) (api.WorldView, error) {
	return api.WorldView{World: fleet.World{Spec: fleet.Spec{Alarms: []string{"https://hooks.example.org/" + marker}}}}, nil
}

func (b *backend) Events(_ context.Context, after string, _ int) ([]fleet.Event, error) {
	var out []fleet.Event
	for _, e := range b.events {
		if e.ID > after {
			out = append(out, e)
		}
	}
	return out, nil
}

func (b *backend) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "mainstay_leader 1") })
}

// laidOut lays out what a host's report is gathered from, with a secret in each place, and
// programs that print a journal.
func laidOut(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range map[string]string{
		"site.yaml":           "site: x\nalarms: [https://hooks.example.org/T0/hunter2, 'https://ann:hunter2@h']\n",
		"haproxy.cfg":         "global\n# --- haproxy.d/a.cfg\nuserlist u\n  user admin insecure-password hunter2\n  hunter2\n",
		"worlds/1.w1.json":    `{"world":{"spec":{"alarms":["https://hooks.example.org/hunter2"]}}}`,
		"tls/host.key":        "hunter2",
		"programs/journalctl": "#!/bin/sh\necho \"the journal of $9: Post https://h/hunter2: refused, password=hunter2\"\n",
		"programs/systemctl":  "#!/bin/sh\necho 'mainstay.service: failed --token=hunter2'\nexit 3\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(dir, "programs")+":/usr/bin:/bin")
	return dir
}

// unpack reads a report.
func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimPrefix(h.Name, "mainstay-report/")] = string(text)
	}
}

// TestReportTellsNoSecret: none of the secrets that lie where a report is gathered comes
// out, in none of its files; and it has what explains a site.
func TestReportTellsNoSecret(t *testing.T) {
	dir := laidOut(t)
	b := &backend{status: sane(), events: []fleet.Event{{ID: "1", Text: "Post https://h/hunter2 refused"}}}
	b.status.View = "token: hunter2"
	run := serve(t, b)
	path := filepath.Join(t.TempDir(), "r.tar.gz")
	code, _, errOut := run("report", path, "--config-dir", dir, "--state-dir", dir)
	got := unpack(t, path)
	for name, text := range got {
		if strings.Contains(text, marker) {
			t.Errorf("%s: %s", name, text)
		}
	}
	for name, word := range map[string]string{
		"status.json": `"site":"x"`, "world.json": "hooks.example.org/...", "events.json": "refused", "metrics.txt": "mainstay_leader 1",
		"site.yaml": "site: x", "haproxy.cfg": "haproxy.d/a.cfg", "worlds/1.w1.json": "world", "units.txt": "mainstay.service: failed",
		"journal/mainstay.service.txt": "the journal of", "journal/mainstay-quorum.service.txt": "the journal of", "version.txt": Version,
	} {
		if !strings.Contains(got[name], word) {
			t.Errorf("%s lacks %q: %q", name, word, got[name])
		}
	}
	if code != 0 {
		t.Errorf("exit %d: %s", code, errOut)
	}
}

// TestReportWithoutAgent: the host's own files and journals are there although nobody
// answers, and the exit code says that the rest is not.
func TestReportWithoutAgent(t *testing.T) {
	dir := laidOut(t)
	path := filepath.Join(t.TempDir(), "r.tar.gz")
	var out, errOut bytes.Buffer
	if err := os.WriteFile(filepath.Join(dir, "programs", "systemctl"), []byte("#!/bin/sh\necho not booted with systemd >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	code := Main([]string{"report", path, "--run-dir", dir, "--config-dir", dir, "--state-dir", dir}, strings.NewReader(""), &out, &errOut)
	got := unpack(t, path)
	for _, name := range []string{"site.yaml", "haproxy.cfg", "journal/mainstay.service.txt", "worlds/1.w1.json"} {
		if got[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
	if code != 1 || !strings.Contains(errOut.String(), "lacks the status") || !strings.Contains(got["missing.txt"], "status.json: ") ||
		!strings.Contains(got["missing.txt"], "units.txt: systemctl: exit status 1: not booted with systemd") {
		t.Errorf("exit %d: %s\n%s", code, errOut.String(), got["missing.txt"])
	}
}
