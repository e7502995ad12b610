package service

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mainstay/fleet"
)

// subject is a service of one kind that the contract can be tried on.
type subject struct {
	service fleet.Service
	env     Env
	// hang makes it answer nothing from now on.
	hang func()
	// end makes a running copy end by itself; nil where the kind's own tests do.
	end func()
}

// subjects has one entry for each row of the table.
var subjects = map[string]func(*testing.T) subject{
	"systemd":  func(t *testing.T) subject { return unitSubject(t, "systemd") },
	"compute":  func(t *testing.T) subject { return unitSubject(t, "compute") },
	"galera":   func(t *testing.T) subject { return unitSubject(t, "galera") },
	"garbd":    func(t *testing.T) subject { return unitSubject(t, "garbd") },
	"rabbitmq": func(t *testing.T) subject { return unitSubject(t, "rabbitmq") },
	"exec":     execSubject,
	"ocf":      ocfSubject,
}

func unitSubject(t *testing.T, kind string) subject {
	f := newFakeSystemd(t)
	f.add("thing.service", fakeUnit{})
	s := newSystemd(t, f)
	params := map[string]string{"start_timeout": "10s", "stop_timeout": "10s"}
	if kind == "rabbitmq" {
		params["data"] = t.TempDir()
	}
	if kind == "galera" {
		params["data"] = t.TempDir()
		params["address"] = filepath.Join(t.TempDir(), "none.sock")
	}
	x := subject{
		service: fleet.Service{Units: []string{"other.service", "thing.service"}, Params: params},
		env:     Env{Systemd: s, Units: f.Units, Held: filepath.Join(t.TempDir(), "held")},
		hang:    func() { f.freeze(); t.Cleanup(f.thaw) },
	}
	if kind == "systemd" {
		x.end = func() {
			f.change("thing.service", func(u *fakeUnit) { u.Active, u.Sub, u.Result, u.Processes = "failed", "failed", "exit-code", nil })
		}
	}
	return x
}

func newSystemd(t *testing.T, f *fakeSystemd) *Systemd {
	s := NewSystemd(f.Address)
	t.Cleanup(func() { s.Close() })
	return s
}

// daemonScript starts, stops and asks for a real process.
const daemonScript = `#!/bin/sh
cd "$(dirname "$0")" || exit 9
[ -e hang ] && exec sleep 1000
case $1 in
start) setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >pid ;;
stop) [ -e pid ] && kill "$(cat pid)"; rm -f pid ;;
status) [ -e pid ] && exit 0; echo it is stopped; exit 3 ;;
esac
`

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := writeProgram(path, text); err != nil {
		t.Fatal(err)
	}
	return path
}

// writeProgram writes a file that is to be run. Nothing is started meanwhile: a child of
// another test would have it open for writing, and whoever ran it be told "text file busy".
func writeProgram(path, text string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, []byte(text), 0o755)
}

func execSubject(t *testing.T) subject {
	path := script(t, daemonScript)
	pidFile := filepath.Join(filepath.Dir(path), "pid")
	t.Cleanup(func() {
		if raw, err := os.ReadFile(pidFile); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	return subject{
		service: fleet.Service{
			Start: []string{path, "start"}, Stop: []string{path, "stop"}, Status: []string{path, "status"},
			Params: map[string]string{"pid_file": pidFile, "status_timeout": "2s", "stop_timeout": "2s"},
		},
		env: Env{Held: filepath.Join(t.TempDir(), "held")},
		end: func() {
			if out, err := exec.Command(path, "stop").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		},
		hang: func() {
			if err := os.WriteFile(filepath.Join(filepath.Dir(path), "hang"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// TestKinds holds every row of the table to the promises of Copy.
func TestKinds(t *testing.T) {
	for _, k := range Kinds() {
		for _, mode := range []fleet.Mode{fleet.ActiveActive, fleet.ActivePassive} {
			t.Run(k.Name+"/"+strings.ReplaceAll(string(mode), "/", "-"), func(t *testing.T) {
				t.Parallel()
				make, ok := subjects[k.Name]
				if !ok {
					t.Fatalf("kind %s has no subject in this file: add one, so that its promises are tested", k.Name)
				}
				s := make(t)
				s.service.Name, s.service.Kind, s.service.Mode = "thing", k.Name, mode
				if k.Cluster && mode == fleet.ActivePassive {
					if _, err := Open(s.service, s.env); err == nil || !strings.Contains(err.Error(), "runs active/active") {
						t.Errorf("a member of a cluster on one host at a time: %v", err)
					}
					return
				}
				s.service.Restarts = fleet.Restarts{Count: 3, Within: time.Hour}
				contract(t, s)
			})
		}
		if k.Doc == "" || k.Open == nil {
			t.Errorf("kind %s: Doc and Open must be given", k.Name)
		}
		for _, p := range k.Params {
			if p.Doc == "" {
				t.Errorf("kind %s: parameter %s has no Doc", k.Name, p.Name)
			}
		}
	}
}

func contract(t *testing.T, s subject) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := Open(s.service, s.env)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	phase := func(want string) fleet.ServiceState {
		t.Helper()
		st, err := c.State(ctx)
		if err != nil || st.Phase != want {
			t.Fatalf("State = %+v, %v; want %s", st, err, want)
		}
		return st
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	held := filepath.Join(s.env.Held, "thing")
	isHeld := func() bool { _, err := os.Stat(held); return err == nil }
	// A member of a cluster carries the bar in every mode.
	exclusive := s.service.Mode == fleet.ActivePassive || s.service.Kind == "galera" || s.service.Kind == "compute"

	phase(fleet.Stopped)
	must("Prepare", c.Prepare(ctx))
	must("Prepare again", c.Prepare(ctx))
	phase(fleet.Stopped)
	if ready, why, err := c.Ready(ctx); ready || why == "" || err != nil {
		t.Errorf("Ready of a stopped copy = %v, %q, %v; want false with a reason", ready, why, err)
	}
	if pids, err := c.PIDs(ctx); len(pids) > 0 || err != nil {
		t.Errorf("PIDs of a stopped copy = %v, %v", pids, err)
	}
	must("Stop of a stopped copy", c.Stop(ctx))

	must("Start", c.Start(ctx))
	phase(fleet.Running)
	first, err := c.PIDs(ctx)
	if err != nil || len(first) == 0 || !slices.IsSorted(first) {
		t.Errorf("PIDs = %v, %v", first, err)
	}
	must("Start again", c.Start(ctx))
	if again, err := c.PIDs(ctx); err != nil || !slices.Equal(first, again) {
		t.Errorf("a second Start changed the processes: %v, then %v (%v)", first, again, err)
	}
	if isHeld() != exclusive {
		t.Errorf("%s exists: %v; want %v for %s", held, isHeld(), exclusive, s.service.Mode)
	}

	must("Restart", c.Restart(ctx))
	if st := phase(fleet.Running); st.Restarts != 1 {
		t.Errorf("Restarts = %d after one", st.Restarts)
	}
	if again, err := c.PIDs(ctx); err != nil || slices.Equal(first, again) {
		t.Errorf("Restart kept the processes: %v (%v)", again, err)
	}

	must("Stop", c.Stop(ctx))
	phase(fleet.Stopped)
	if isHeld() {
		t.Errorf("%s exists after Stop", held)
	}
	must("Stop again", c.Stop(ctx))
	must("Restart of a stopped copy", c.Restart(ctx))
	phase(fleet.Running)
	if s.end != nil {
		// The one copy that ends by itself and is started again has been restarted; what
		// was stopped has not.
		must("Stop", c.Stop(ctx))
		must("Start", c.Start(ctx))
		before := phase(fleet.Running).Restarts
		s.end()
		for phase := fleet.Running; phase == fleet.Running; {
			st, err := c.State(ctx)
			must("State", err)
			phase = st.Phase
		}
		must("Start of one that ended", c.Start(ctx))
		want := before
		if s.service.Mode.Exclusive() {
			want++
		}
		if st := phase(fleet.Running); before != 2 || st.Restarts != want {
			t.Errorf("Restarts = %d, and %d when it had ended and was started again; want 2 and %d", before, st.Restarts, want)
		}
	}
	must("Forget", c.Forget(ctx))
	must("Forget again", c.Forget(ctx))
	if st, err := c.State(ctx); err != nil || st.Phase != fleet.Running {
		t.Errorf("Forget touched the copy: %+v, %v", st, err)
	}

	ending, end := context.WithCancel(ctx)
	events := c.Events(ending)
	end()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		for range events {
		}
	}()
	select {
	case <-closed:
	case <-ctx.Done():
		t.Error("the channel of Events is not closed when its context has ended")
	}

	// A time-out is unknown, never stopped. What was seen just before may be told
	// for a moment more.
	s.hang()
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		st, err := c.State(short)
		if st.Phase == fleet.Running && err == nil && ctx.Err() == nil {
			continue
		}
		if st.Phase != fleet.Unknown || st.Why == "" || !errors.Is(err, ErrUnknown) {
			t.Errorf("State of one that does not answer = %+v, %v; want unknown, a reason and ErrUnknown", st, err)
		}
		break
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if err := c.Stop(short); !errors.Is(err, ErrUnknown) {
		t.Errorf("Stop of one that does not answer: %v; want ErrUnknown", err)
	}
	short, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if ready, _, err := c.Ready(short); ready || !errors.Is(err, ErrUnknown) {
		t.Errorf("Ready of one that does not answer = %v, %v; want false, ErrUnknown", ready, err)
	}
}

// TestOpenNamesAllMistakes: one run of "mainstay check" shows them all, and
// Open asks nobody for it.
func TestOpenNamesAllMistakes(t *testing.T) {
	nowhere := Env{Systemd: NewSystemd("unix:path=/nonexistent/bus")}
	for _, tc := range []struct {
		name    string
		service fleet.Service
		want    []string
	}{
		{"no such kind", fleet.Service{Name: "a", Kind: "upstart"}, []string{`no such kind: "upstart"`, "systemd, compute, exec, galera, garbd, rabbitmq, ocf"}},
		{"no roles", fleet.Service{Name: "a", Kind: "systemd", Mode: fleet.Promoted, Units: []string{"a.service"}}, []string{"mode: promoted needs kind ocf"}},
		{"ocf", fleet.Service{Name: "a", Kind: "ocf", Params: map[string]string{"agent": "Dummy", "op_start": "soon"}}, []string{`"Dummy" is not the name of a resource agent`, "heartbeat:IPaddr2", "op_start", `"soon" is not a duration`}},
		{"systemd", fleet.Service{Name: "A b", Kind: "systemd", Units: []string{"keystone"}, Params: map[string]string{"start_timeout": "soon", "pid_file": "x"}},
			[]string{`name "A b"`, `unknown "pid_file"`, "start_timeout", `"soon" is not a duration`, `"keystone" is not the name of a unit`}},
		{"no units", fleet.Service{Name: "a", Kind: "systemd"}, []string{"units: none given"}},
		{"exec", fleet.Service{Name: "a", Kind: "exec", Start: []string{"run.sh"}}, []string{`start: "run.sh": write the command's whole path`, "stop: none given", "status: none given"}},
		{"galera", fleet.Service{Name: "a", Kind: "galera", Units: []string{"m.service"}, Params: map[string]string{"donor_ready": "perhaps", "query_timeout": "-1s"}},
			[]string{"donor_ready", "perhaps", "query_timeout"}},
		{"rabbitmq", fleet.Service{Name: "a", Kind: "rabbitmq", Units: []string{"r.service"}, Params: map[string]string{"node": "rabbit", "address": "here", "user": "nova"}},
			[]string{`node: "rabbit"`, "rabbit@HOST", `address: "here"`, "password_file: none given for user nova"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Open(tc.service, nowhere)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not say %q:\n%v", w, err)
				}
			}
		})
	}
	c, err := Open(fleet.Service{Name: "a", Kind: "systemd", Units: []string{"a.service"}}, nowhere)
	if err != nil {
		t.Fatalf("Open asked somebody: %v", err)
	}
	if st, err := c.State(t.Context()); err == nil || st.Phase != fleet.Unknown {
		t.Errorf("State without a bus = %+v, %v; want unknown", st, err)
	}
}
