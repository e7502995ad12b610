package cli

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/trust"
)

func (b *backend) Unwish(_ context.Context, id, _ string) error {
	b.undone = append(b.undone, id)
	return nil
}

func (b *backend) Wish(_ context.Context, w fleet.Wish) error {
	b.wishes = append(b.wishes, w)
	return nil
}

func (b *backend) Operator(_ context.Context, by string, r api.OperatorRequest) error {
	if r.Name == "eve" {
		return api.Refuse(http.StatusConflict, "", "the site's file revokes every certificate of eve")
	}
	b.told = append(b.told, fmt.Sprintf("%s: %s may %s", by, r.Name, r.Role))
	return nil
}

// TestOperatorIsTold: history hears of an operator's certificate before anybody has it;
// where no agent is, root gets it all the same, and a warning.
func TestOperatorIsTold(t *testing.T) {
	b := &backend{}
	run := serve(t, b)
	config, stopped := t.TempDir(), t.TempDir()
	keys := filepath.Join(config, "tls")
	if err := os.Mkdir(keys, 0o700); err != nil {
		t.Fatal(err)
	}
	ca, err := trust.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(keys); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		code int
		warn string
		more []string
	}{
		{"ann", 0, "", nil},
		{"eve", 1, "revokes every certificate of eve", nil},
		{"bob", 0, "warning: history may not tell of this certificate", []string{"--run-dir", stopped}},
	} {
		folder := filepath.Join(t.TempDir(), c.name)
		code, _, errOut := run(append([]string{"token", "--operator", c.name, "--role", "operate", "--to", folder, "--config-dir", config}, c.more...)...)
		if code != c.code || !strings.Contains(errOut, c.warn) || c.warn == "" && errOut != "" {
			t.Errorf("%s: exit %d, %q", c.name, code, errOut)
		}
		if _, err := os.Stat(filepath.Join(folder, trust.CertFile)); (err == nil) != (c.code == 0) {
			t.Errorf("%s: the certificate: %v", c.name, err)
		}
	}
	if len(b.told) != 1 || !strings.HasSuffix(b.told[0], ": ann may operate") {
		t.Errorf("told: %q", b.told)
	}
}

// TestMoveCancel: a wish to move is taken back by the very command that an unfinished
// move names.
func TestMoveCancel(t *testing.T) {
	b := &backend{status: api.Status{}}
	run := serve(t, b)
	code, _, errOut := run("move", "internal", "c2", "--wait", "1ms")
	if code != exitUnknown || !strings.Contains(errOut, "mainstay move internal --cancel") {
		t.Fatalf("a move that does not come true: exit %d, %s", code, errOut)
	}
	b.status.Wishes = []fleet.Wish{{Verb: "move", Thing: "address/internal", To: "c2"}}
	b.events = []fleet.Event{{ID: "1", At: time.Now().Add(time.Minute), Text: "address/internal cannot be moved to c2: ann swore that c2 is off"}}
	if code, _, errOut := run("move", "internal", "c2", "--wait", "100ms"); code != exitUnknown {
		t.Errorf("a move that is wished again: exit %d, %s", code, errOut)
	}
	b.status.Wishes = nil
	if code, _, errOut := run("move", "internal", "c2"); code != 1 || !strings.Contains(errOut, b.events[0].Text) {
		t.Errorf("a move that was given up: exit %d, %s", code, errOut)
	}
	b.events[0].At = time.Now().Add(-time.Minute)
	if code, _, errOut := run("move", "internal", "c2", "--wait", "100ms"); code != exitUnknown {
		t.Errorf("another's was given up a minute before: exit %d, %s", code, errOut)
	}
	if code, out, errOut := run("move", "internal", "--cancel"); code != 0 || len(b.undone) != 1 || b.undone[0] != "move-internal" {
		t.Errorf("exit %d, taken back %v: %s%s", code, b.undone, out, errOut)
	}
	for _, args := range [][]string{{"move", "internal"}, {"move", "internal", "c2", "--cancel"}} {
		if code, _, errOut := run(args...); code != exitUsage {
			t.Errorf("%v: exit %d, want %d: %s", args, code, exitUsage, errOut)
		}
	}
}
