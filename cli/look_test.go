package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
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
	told   []string // of operators
}

func (b *backend) Status(context.Context, bool) (api.Status, error) { return b.status, nil }

// serveIn answers for a host's agent at the socket of a folder of its own.
func serveIn(t *testing.T, b api.Backend) (dir string) {
	t.Helper()
	dir = t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: api.Named(api.Handler(b, slog.New(slog.DiscardHandler))), ConnContext: api.UnixContext, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return dir
}

// serve does so too, and returns how to call the command line there.
func serve(t *testing.T, b *backend) func(args ...string) (code int, out, errOut string) {
	t.Helper()
	return serveAny(t, b)
}

// serveAny does so for any agent.
func serveAny(t *testing.T, b api.Backend) func(args ...string) (code int, out, errOut string) {
	t.Helper()
	dir := serveIn(t, b)
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

// TestStatusOfOneHost: one that cannot know who votes does not say that they do not.
func TestStatusOfOneHost(t *testing.T) {
	s := sane()
	for i := range s.Hosts {
		s.Hosts[i].Voter = true
	}
	if _, out, _ := serve(t, &backend{status: s})("status", "--local"); strings.Contains(out, "VOTE") {
		t.Errorf("without a store:\n%s", out)
	}
	s.Hosts[0].Store, s.Hosts[1].Store = "votes", "learns"
	if _, out, _ := serve(t, &backend{status: s})("status", "--local"); strings.Count(out, "DOES NOT VOTE YET") != 1 {
		t.Errorf("one learns:\n%s", out)
	}
}

// Follow tells what came after an id, and then what comes.
func (b *backend) Follow(ctx context.Context, after string) (<-chan fleet.Event, error) {
	c := make(chan fleet.Event, len(b.events))
	for _, e := range b.events {
		if after != "" && e.ID > after {
			c <- e
		}
	}
	go func() {
		<-ctx.Done()
		close(c)
	}()
	return c, nil
}

// lines hands over what is written line by line.
type lines struct{ c chan string }

func (l lines) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		l.c <- strings.TrimSpace(line)
	}
	return len(p), nil
}

// TestFollowBeginsWithTheNewest: events --follow -n shows the newest so many first, and
// loses none between these and what comes; each as programs want it.
func TestFollowBeginsWithTheNewest(t *testing.T) {
	b := &backend{}
	for i := range 5 {
		b.events = append(b.events, fleet.Event{ID: fmt.Sprint(i), Text: fmt.Sprintf("event %d", i)})
	}
	dir := serveIn(t, b)
	for output, want := range map[string][]string{"": {"event 3", "event 4"}, "json": {`"id":"3"`, `"id":"4"`}, "yaml": {"---"}} {
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
		out := lines{make(chan string, 100)}
		a := &app{in: strings.NewReader(""), out: out, err: io.Discard}
		root := a.root()
		root.SetArgs([]string{"--run-dir", dir, "events", "--follow", "-n", "2", "-o", output})
		ended := make(chan error, 1)
		go func() { ended <- root.ExecuteContext(ctx) }()
		for _, word := range want {
			select {
			case line := <-out.c:
				if !strings.Contains(line, word) {
					t.Errorf("-o %q: %q, want %q", output, line, word)
				}
			case err := <-ended:
				t.Fatalf("-o %q: it ended: %v", output, err)
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("-o %q: %v", output, err)
		}
	}
}

// TestWatchForPrograms: status --watch gives programs one value after the other, and
// nothing that clears a screen.
func TestWatchForPrograms(t *testing.T) {
	dir := serveIn(t, &backend{status: sane()})
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	out := lines{make(chan string, 100)}
	a := &app{in: strings.NewReader(""), out: out, err: io.Discard}
	root := a.root()
	root.SetArgs([]string{"--run-dir", dir, "status", "--watch", "-o", "json"})
	go func() { _ = root.ExecuteContext(ctx) }()
	select {
	case line := <-out.c:
		var s api.Status
		if err := json.Unmarshal([]byte(line), &s); err != nil || s.Site != "x" {
			t.Errorf("%v: %q", err, line)
		}
	case <-ctx.Done():
		t.Fatal("nothing was written")
	}
}

// TestReplayOfNothing: what holds no World is not decided again alike.
func TestReplayOfNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "world.json")
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	if code := Main([]string{"replay", path}, strings.NewReader(""), &out, &errOut); code != exitUsage || !strings.Contains(errOut.String(), "holds no World") {
		t.Errorf("exit %d: %s%s", code, &out, &errOut)
	}
}

// TestStatusTellsServers: a server that crashed stands beside those that move, with what it waits for; and
// of one that is restored from its snapshot, how much is lost.
func TestStatusTellsServers(t *testing.T) {
	s := sane()
	made := time.Date(2026, 11, 27, 20, 40, 0, 0, time.UTC)
	s.Evacuations = []fleet.Evacuation{{Server: "disk", Name: "vm8", From: "n1", To: "n2", Try: 1, Ended: "on n2", Restore: fleet.Restore{Image: "i", Made: made, Dead: made.Add(13 * time.Minute)}}}
	s.Revivals = []fleet.Revival{{Server: "id", Name: "vm7", Host: "n1", Try: 2, Why: "No valid host"}, {Server: "done", Host: "n2", Try: 1, Ended: "it runs again on n2"}}
	_, out, _ := serve(t, &backend{status: s})("status")
	for _, want := range []string{"vm7", "crashed: is started again; No valid host", "crashed: it runs again on n2",
		"on n2; from its snapshot of " + made.Local().Format(time.DateTime) + ", so what it wrote in the 13m0s before its host's death is lost"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}
