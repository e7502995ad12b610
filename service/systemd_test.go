package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// open makes a copy named "thing" of the fake's thing.service.
func open(t *testing.T, f *fakeSystemd, mode fleet.Mode) Copy {
	t.Helper()
	c, err := Open(fleet.Service{
		Name: "thing", Kind: "systemd", Mode: mode, Units: []string{"other.service", "thing.service"},
		Restarts: fleet.Restarts{Count: 3, Within: time.Hour},
	}, Env{Systemd: newSystemd(t, f), Units: f.Units, Held: filepath.Join(f.dir, "held")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func state(t *testing.T, c Copy, want string) fleet.ServiceState {
	t.Helper()
	st, err := c.State(t.Context())
	if err != nil || st.Phase != want {
		t.Fatalf("State = %+v, %v; want %s", st, err, want)
	}
	return st
}

// hear waits for a line that contains part.
func hear(t *testing.T, lines <-chan string, part string) {
	t.Helper()
	var heard []string
	end := time.After(patience)
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("the channel closed before %q; heard %q", part, heard)
			}
			heard = append(heard, line)
			if strings.Contains(line, part) {
				return
			}
		case <-end:
			t.Fatalf("never heard %q, only %q", part, heard)
		}
	}
}

func TestPhase(t *testing.T) {
	loaded := func(active, sub string) unit {
		return unit{ID: "x.service", Load: "loaded", Active: active, Sub: sub}
	}
	with := func(u unit, by func(*unit)) unit { by(&u); return u }
	for _, tc := range []struct {
		name string
		unit unit
		want string
		why  string
	}{
		{"runs", loaded("active", "running"), fleet.Running, ""},
		{"a oneshot that stays", loaded("active", "exited"), fleet.Running, ""},
		{"reloads", loaded("reloading", "reload"), fleet.Running, ""},
		{"starts", with(loaded("activating", "start"), func(u *unit) { u.Status = "IST 40 %" }), fleet.Starting, "IST 40 %"},
		{"between two tries", with(loaded("activating", "auto-restart"), func(u *unit) { u.Result, u.Exit = "exit-code", 3 }), fleet.Starting, "exit-code (status 3)"},
		{"between two tries, newer systemd", with(loaded("activating", "auto-restart-queued"), func(u *unit) { u.Result = "signal" }), fleet.Starting, "signal"},
		{"stops", loaded("deactivating", "stop-sigterm"), fleet.Stopping, "stop-sigterm"},
		{"stopped", loaded("inactive", "dead"), fleet.Stopped, ""},
		{"a start is queued", with(loaded("inactive", "dead"), func(u *unit) { u.Queued = true }), fleet.Starting, "list-jobs"},
		{"failed", with(loaded("failed", "failed"), func(u *unit) { u.Result = "timeout" }), fleet.Failed, "timeout; look: journalctl -u x.service"},
		{"failed, to be started again", with(loaded("failed", "failed"), func(u *unit) { u.Queued = true }), fleet.Starting, "queue"},
		{"not there", unit{ID: "x.service", Load: "not-found", Active: "inactive"}, fleet.Absent, ""},
		{"its file is gone, it runs", unit{ID: "x.service", Load: "not-found", Active: "active"}, fleet.Running, ""},
		{"masked", unit{ID: "x.service", Load: "masked", Active: "inactive"}, fleet.Absent, "systemctl unmask x.service"},
		{"masked, it runs", unit{ID: "x.service", Load: "masked", Active: "active"}, fleet.Running, ""},
		{"bad file", unit{ID: "x.service", Load: "bad-setting", Active: "inactive"}, fleet.Failed, "bad-setting"},
		{"maintenance", loaded("maintenance", "x"), fleet.Unknown, "maintenance"},
		{"no answer at all", unit{ID: "x.service"}, fleet.Unknown, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, why := phase(tc.unit)
			if got != tc.want || !strings.Contains(why, tc.why) {
				t.Errorf("phase = %s, %q; want %s, %q", got, why, tc.want, tc.why)
			}
		})
	}
}

func TestJobFails(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	u := f.add("thing.service", fakeUnit{OnStart: "failed"})
	c := open(t, f, fleet.ActiveActive)
	err := c.Start(t.Context())
	if err == nil || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "journalctl -u thing.service") {
		t.Fatalf("Start = %v; want a certain failure that says where to look", err)
	}
	if err := newSystemd(t, f).Start(t.Context(), "thing.service"); err == nil || !strings.Contains(err.Error(), `"failed"`) {
		t.Errorf("Systemd.Start = %v; want the job's result", err)
	}
	if st := state(t, c, fleet.Failed); !strings.Contains(st.Why, "exit-code (status 1)") {
		t.Errorf("Why = %q", st.Why)
	}
	f.mu.Lock()
	u.OnStart = ""
	f.mu.Unlock()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.called("ResetFailedUnit") != 1 {
		t.Error("systemd's own limit of starts was not cleared after a failure")
	}
}

func TestJobTimesOut(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("thing.service", fakeUnit{OnStart: "never", OnStop: "never"})
	c := open(t, f, fleet.ActiveActive)
	events := c.Events(t.Context())
	f.until(t, events, func() { f.change("thing.service", func(*fakeUnit) {}) })
	for _, tc := range []struct {
		deed  func(Copy, context.Context) error
		under string
		phase string
	}{{Copy.Start, "activating/start", fleet.Starting}, {Copy.Stop, "deactivating/stop", fleet.Stopping}} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- tc.deed(c, ctx) }()
		hear(t, events, tc.under)
		cancel()
		if err := <-done; !errors.Is(err, ErrUnknown) {
			t.Fatalf("a job that does not end: %v; want ErrUnknown", err)
		}
		state(t, c, tc.phase)
	}
}

func TestResultOvertakesAnswer(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("thing.service", fakeUnit{})
	f.mu.Lock()
	f.early = true
	f.mu.Unlock()
	c := open(t, f, fleet.ActiveActive)
	for range 20 {
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHungCallHoldsNobodyUp: each call keeps its own deadline.
func TestHungCallHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("thing.service", fakeUnit{Active: "active", Sub: "running"})
	f.add("second.service", fakeUnit{})
	hung := make(chan struct{})
	f.mu.Lock()
	f.hung = hung
	f.mu.Unlock()
	s := newSystemd(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- s.Start(ctx, "second.service") }()
	select {
	case <-f.arrived:
	case <-time.After(patience):
		t.Fatal("the call never arrived")
	}
	short, cancelShort := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancelShort()
	if err := s.Stop(short, "thing.service"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Stop = %v; want ErrUnknown", err)
	}
	if u, err := s.look(t.Context(), "thing.service"); err != nil || u.Active != "active" {
		t.Errorf("look = %+v, %v", u, err)
	}
	cancel()
	if err := <-first; !errors.Is(err, ErrUnknown) {
		t.Errorf("Start = %v; want ErrUnknown", err)
	}
	close(hung)
}

func TestEventsTellOfADeadUnit(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("thing.service", fakeUnit{Active: "active", Sub: "running"})
	f.add("unrelated.service", fakeUnit{})
	c := open(t, f, fleet.ActiveActive)
	events := c.Events(t.Context())
	f.until(t, events, func() { f.change("thing.service", func(u *fakeUnit) { u.Active, u.Sub = "active", "running" }) })
	f.change("unrelated.service", func(u *fakeUnit) { u.Active = "failed" })
	f.change("thing.service", func(u *fakeUnit) { u.Active, u.Sub, u.Result = "failed", "failed", "signal" })
	hear(t, events, "failed/failed")
	state(t, c, fleet.Failed)
}

// until repeats a deed until the first line comes: by then the subscription stands.
func (f *fakeSystemd) until(t *testing.T, events <-chan string, deed func()) {
	t.Helper()
	end := time.After(patience)
	for {
		deed()
		select {
		case <-events:
			return
		case <-time.After(20 * time.Millisecond):
		case <-end:
			t.Fatal("no event ever came")
		}
	}
}

func TestBusRestarts(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("thing.service", fakeUnit{OnStart: "never"})
	c := open(t, f, fleet.ActiveActive)
	events := c.Events(t.Context())
	started := make(chan error, 1)
	go func() { started <- c.Start(t.Context()) }()
	hear(t, events, "activating/start")
	f.stopBus()
	if err := <-started; !errors.Is(err, ErrUnknown) {
		t.Errorf("Start whose bus died = %v; want ErrUnknown", err)
	}
	hear(t, events, "connect") // lost, or not to be had
	if st, err := c.State(t.Context()); err == nil || st.Phase != fleet.Unknown {
		t.Errorf("State without a bus = %+v, %v; want unknown", st, err)
	}
	f.startBus()
	f.join()
	hear(t, events, "answers again")
	state(t, c, fleet.Starting)
	f.change("thing.service", func(u *fakeUnit) { u.Active, u.Sub = "active", "running" })
	hear(t, events, "active/running")
	state(t, c, fleet.Running)
}

func TestSystemdReexecutes(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("thing.service", fakeUnit{Active: "active", Sub: "running"})
	c := open(t, f, fleet.ActiveActive)
	events := c.Events(t.Context())
	f.until(t, events, func() { f.change("thing.service", func(*fakeUnit) {}) })
	f.leave()
	f.join()
	hear(t, events, "answers again")
	f.change("thing.service", func(u *fakeUnit) { u.Active, u.Sub = "failed", "failed" })
	hear(t, events, "failed/failed")
}

// TestBar: systemd itself starts an active/passive unit only while Mainstay
// says so, and the bar is down before the stop begins.
func TestBar(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	u := f.add("thing.service", fakeUnit{})
	c := open(t, f, fleet.ActivePassive)
	if st := state(t, c, fleet.Stopped); !strings.Contains(st.Why, "not barred") {
		t.Errorf("a unit without its bar is not reported: %q", st.Why)
	}
	if err := c.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := state(t, c, fleet.Stopped); st.Why != "" {
		t.Errorf("Why = %q", st.Why)
	}
	if err := c.Prepare(t.Context()); err != nil || f.called("Reload") != 1 {
		t.Errorf("Prepare again: %v, %d reloads; want one in all", err, f.called("Reload"))
	}
	text, err := os.ReadFile(filepath.Join(f.Units, "thing.service.d", "50-mainstay.conf"))
	held := filepath.Join(f.dir, "held", "thing")
	if err != nil || !strings.Contains(string(text), "\n[Unit]\nConditionPathExists="+held+"\n") {
		t.Fatalf("drop-in: %v\n%s", err, text)
	}

	s := newSystemd(t, f)
	if err := s.Start(t.Context(), "thing.service"); err != nil { // as a boot would
		t.Fatal(err)
	}
	state(t, c, fleet.Stopped)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	state(t, c, fleet.Running)

	seen := make(chan error, 1)
	f.mu.Lock()
	u.AtStop = func() { _, err := os.Stat(held); seen <- err }
	f.mu.Unlock()
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !os.IsNotExist(<-seen) {
		t.Error("the bar was still up when the stop began: systemd could have started it again")
	}
	if err := c.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(f.Units); len(left) > 0 {
		t.Errorf("Forget left %v", left)
	}
	if err := s.Start(t.Context(), "thing.service"); err != nil {
		t.Fatal(err)
	}
	state(t, c, fleet.Running)
}

// TestConditionRefusesStart: a job is "done", too, when a condition refused it.
func TestConditionRefusesStart(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("thing.service", fakeUnit{})
	dir := filepath.Join(f.Units, "thing.service.d")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "site.conf"), []byte("[Unit]\nConditionPathExists=/nonexistent\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	c := open(t, f, fleet.ActiveActive)
	if err := newSystemd(t, f).Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "condition") {
		t.Errorf("Start = %v; want an error that names the condition", err)
	}
}

// TestProcessesLeft: a stop that leaves a process behind gives no word.
func TestProcessesLeft(t *testing.T) {
	t.Parallel()
	for _, ends := range []string{"", "failed"} {
		f := newFakeSystemd(t)
		f.add("thing.service", fakeUnit{Active: "active", Sub: "running", OnStop: ends, Leaves: []process{{"/thing.service", 4242, "/usr/sbin/mariadbd --secret=x"}}})
		c := open(t, f, fleet.ActivePassive)
		err := c.Stop(t.Context())
		if err == nil || !strings.Contains(err.Error(), "4242 (mariadbd)") || strings.Contains(err.Error(), "secret") {
			t.Errorf("Stop = %v; want an error that names the process and none of its arguments", err)
		}
		state(t, c, fleet.Unknown)
		f.change("thing.service", func(u *fakeUnit) { u.Processes = nil })
		if st, err := c.State(t.Context()); err != nil || !down(st.Phase) {
			t.Errorf("State once it is gone = %+v, %v", st, err)
		}
	}
}

func TestUnitsNames(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	c := open(t, f, fleet.ActivePassive)
	if st := state(t, c, fleet.Absent); st.Why != "no unit here named other.service or thing.service" {
		t.Errorf("Why = %q", st.Why)
	}
	if err := c.Prepare(t.Context()); err != nil {
		t.Errorf("Prepare of an absent unit: %v", err)
	}
	if err := c.Start(t.Context()); err == nil || errors.Is(err, ErrUnknown) {
		t.Errorf("Start of an absent unit = %v; want a certain failure", err)
	}
	f.add("real.service", fakeUnit{})
	f.mu.Lock()
	f.aliases["thing.service"] = "real.service"
	f.mu.Unlock()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(f.Units, "real.service.d", "50-mainstay.conf")); err != nil {
		t.Errorf("the drop-in of an alias belongs to the unit itself: %v", err)
	}
	if err := c.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(f.Units); len(left) > 0 {
		t.Errorf("Forget left %v", left)
	}
}

// TestRunningIsNotAskedTwice: the agent asks often; systemd is asked again only
// after a change, and after one it is, by whichever name the unit is known.
func TestRunningIsNotAskedTwice(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("real.service", fakeUnit{Active: "active", Sub: "running"})
	f.mu.Lock()
	f.aliases["thing.service"] = "real.service"
	f.mu.Unlock()
	c := open(t, f, fleet.ActiveActive)
	events := c.Events(t.Context())
	state(t, c, fleet.Running)
	f.until(t, events, func() { f.change("real.service", func(*fakeUnit) {}) })
	state(t, c, fleet.Running)
	before := f.called("GetAll")
	for range 100 {
		state(t, c, fleet.Running)
	}
	if n := f.called("GetAll") - before; n > 10 {
		t.Errorf("systemd was asked %d times in 100", n)
	}
	f.change("real.service", func(u *fakeUnit) { u.Active, u.Sub = "failed", "failed" })
	hear(t, events, "failed/failed")
	before = f.called("GetAll " + unitIface)
	for range 10 {
		state(t, c, fleet.Failed)
	}
	if n := f.called("GetAll "+unitIface) - before; n < 10 {
		t.Errorf("10 times down, but systemd was asked only %d times: that it is down must never be an old answer", n)
	}
}

// TestAdoption: what runs is taken over without a job.
func TestAdoption(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("thing.service", fakeUnit{Active: "active", Sub: "running", Processes: []process{{"/thing.service", 77, "x"}}})
	c := open(t, f, fleet.ActivePassive)
	if err := errors.Join(c.Prepare(t.Context()), c.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	state(t, c, fleet.Running)
	for _, method := range []string{"StartUnit", "StopUnit", "RestartUnit"} {
		if n := f.called(method); n > 0 {
			t.Errorf("%s was called %d times", method, n)
		}
	}
	if _, err := os.Stat(filepath.Join(f.dir, "held", "thing")); err != nil {
		t.Errorf("Start of a running copy must lift its bar, or systemd could not restart it: %v", err)
	}
}

func TestRestartsAreCounted(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("thing.service", fakeUnit{Active: "active", Sub: "running", Restarts: 2})
	c := open(t, f, fleet.ActiveActive)
	events := c.Events(t.Context())
	f.until(t, events, func() { f.change("thing.service", func(*fakeUnit) {}) })
	for i, tc := range []struct {
		systemd uint32
		want    int
	}{{2, 2}, {2, 2}, {3, 3}, {0, 3}, {1, 4}} {
		sub := fmt.Sprintf("running-%d", i) // tells this change from those before
		f.change("thing.service", func(u *fakeUnit) { u.Restarts, u.Sub = tc.systemd, sub })
		hear(t, events, sub)
		if st := state(t, c, fleet.Running); st.Restarts != tc.want {
			t.Errorf("systemd counts %d: Restarts = %d, want %d", tc.systemd, st.Restarts, tc.want)
		}
	}
	r := restarts{within: time.Minute, at: []time.Time{time.Now().Add(-time.Hour)}}
	r.add(1)
	if n := r.count(); n != 1 {
		t.Errorf("%d restarts within the window, want 1", n)
	}
}

func TestVersionAndEnable(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	s := newSystemd(t, f)
	if v, err := s.Version(t.Context()); v != 252 || err != nil {
		t.Errorf("Version = %d, %v", v, err)
	}
	if err := s.Enable(t.Context(), AgentUnit); err != nil || f.called("EnableUnitFiles mainstay.service") != 1 || f.called("Reload") != 1 {
		t.Errorf("Enable = %v; calls %q", err, f.calls)
	}
}
