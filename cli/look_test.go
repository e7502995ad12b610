package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// backend is an agent of which the tests know what it answers.
type backend struct {
	api.Backend
	status api.Status
	events []fleet.Event
	wishes []fleet.Wish
	undone []string
}

func (b *backend) Status(context.Context, bool) (api.Status, error) { return b.status, nil }

// serve answers for a host's agent at the socket of a folder of its own, and returns how
// to call the command line there.
func serve(t *testing.T, b *backend) func(args ...string) (code int, out, errOut string) {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: api.Named(api.Handler(b, slog.New(slog.DiscardHandler))), ConnContext: api.UnixContext, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return func(args ...string) (int, string, string) {
		var out, errOut bytes.Buffer
		code := Main(append([]string{"--run-dir", dir, "--config-dir", dir, "--state-dir", dir}, args...), strings.NewReader(""), &out, &errOut)
		return code, out.String(), errOut.String()
	}
}

// sane is a site in which nothing wants a person.
func sane() api.Status {
	ready := fleet.ServiceState{Phase: fleet.Running, Ready: true}
	return api.Status{
		Site: "x", Leader: "c1", View: "leader",
		Hosts:    []api.HostStatus{{Name: "c1", Condition: fleet.Healthy}, {Name: "c2", Condition: fleet.Healthy}},
		Holdings: []api.HoldingStatus{{Thing: "service/flush", Host: "c1", Works: true}},
		Services: []api.ServiceStatus{
			{Name: "mariadb", Mode: fleet.ActiveActive, Copies: map[string]fleet.ServiceState{"c1": ready, "c2": ready}},
			{Name: "flush", Mode: fleet.ActivePassive, Copies: map[string]fleet.ServiceState{"c1": ready, "c2": {Phase: fleet.Stopped}}},
		},
	}
}

// TestStatusIsSound: the exit code is 0 only when nothing wants a person, and the text
// says in a copy's own words why it does not serve.
func TestStatusIsSound(t *testing.T) {
	deaf := fleet.ServiceState{Phase: fleet.Running, Why: "on the member with the highest position: pc.bootstrap"}
	for _, c := range []struct {
		name   string
		change func(*api.Status)
		code   int
		words  string
	}{
		{"sane", func(*api.Status) {}, 0, ""},
		{"running and not ready", func(s *api.Status) { s.Services[0].Copies["c2"] = deaf }, 3, "mariadb@c2  running (not ready)\n      " + deaf.Why},
		{"starting", func(s *api.Status) {
			s.Services[0].Copies["c1"] = fleet.ServiceState{Phase: fleet.Starting, Unready: time.Unix(0, 0)}
		}, 3, "mariadb@c1  starting, not ready since"},
		{"hung", func(s *api.Status) {
			s.Services[0].Copies["c1"] = fleet.ServiceState{Phase: fleet.Running, Hung: true}
		}, 3, "mariadb@c1  HUNG"},
		{"the one copy", func(s *api.Status) { s.Services[1].Copies["c1"] = deaf }, 3, "flush@c1"},
		{"disarmed", func(s *api.Status) { s.Disarmed = "ann: switch firmware" }, 3, "DISARMED by ann: switch firmware"},
		{"an open wish", func(s *api.Status) {
			s.Wishes = []fleet.Wish{{Verb: "move", Thing: "address/internal", To: "c2", By: "ann"}}
		}, 0, "move address/internal to c2 by ann"},
		{"in maintenance", func(s *api.Status) { s.Services[0].Copies["c2"] = deaf; s.Hosts[1].Maintenance = "ann" }, 0, ""},
	} {
		b := &backend{status: sane()}
		c.change(&b.status)
		code, out, errOut := serve(t, b)("status")
		if code != c.code || !strings.Contains(out, c.words) || strings.Contains(out, "NOT READY") != strings.Contains(c.words, "@") {
			t.Errorf("%s: exit %d, want %d with %q:\n%s%s", c.name, code, c.code, c.words, out, errOut)
		}
		var again api.Status
		if code, out, _ := serve(t, b)("status", "-o", "json"); code != c.code || json.Unmarshal([]byte(out), &again) != nil || len(again.Services) != 2 {
			t.Errorf("%s: -o json: exit %d: %s", c.name, code, out)
		}
	}
}
