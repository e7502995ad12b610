package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/probe"
	"mainstay/service"
)

// ownCopy asks by itself, and has a process that never does anything.
type ownCopy struct {
	stillCopy
	pid    int
	answer error
	steps  []string
	waits  chan struct{} // closed when a start waits
}

func (c *ownCopy) PIDs(context.Context) ([]int, error) { return []int{c.pid}, nil }
func (c *ownCopy) Probe(context.Context) error         { return c.answer }
func (c *ownCopy) Start(ctx context.Context) error {
	close(c.waits)
	<-ctx.Done()
	return ctx.Err()
}
func (c *ownCopy) Tend(_ context.Context, step, with, _ string) error {
	c.steps = append(c.steps, step+" "+with)
	return nil
}

// TestOwnQuestion: a copy that asks by itself is hung when its question is not answered
// and it does nothing, stuck a little later, and neither when it answers badly.
func TestOwnQuestion(t *testing.T) {
	idle := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := idle.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = idle.Process.Kill(); _ = idle.Wait() }()
	var now fleet.Moment = 1
	a := &Agent{cfg: Config{Now: func() fleet.Moment { return now }}}
	c := &ownCopy{pid: idle.Process.Pid}
	w := &watcher{service: fleet.Service{Name: "x", Check: fleet.Check{Every: time.Second, Deadline: time.Second}}, copy: c}
	p := newPulse(w.service, a)
	p.own = c
	beat := func() (probe.Result, string, bool) {
		now = now.Add(time.Second)
		p.beat(t.Context(), a, w)
		select {
		case <-p.answered:
		case <-time.After(10 * time.Second):
			t.Fatal("no answer")
		}
		return p.beat(t.Context(), a, w)
	}
	if r, hung, _ := beat(); !r.OK || hung != "" {
		t.Fatalf("an answer: %+v, %q", r, hung)
	}
	c.answer = errors.New("low on memory")
	for range 8 {
		if r, hung, stuck := beat(); r.OK || r.Kind != probe.Bad || hung != "" || stuck {
			t.Fatalf("a bad answer: %+v, %q, %v", r, hung, stuck)
		}
	}
	c.answer = fmt.Errorf("nothing came back: %w", service.ErrUnknown)
	var hungAt, stuckAt fleet.Moment
	for begun := now; stuckAt == 0 && now.Sub(begun) < time.Minute; {
		r, hung, stuck := beat()
		if r.Kind != probe.Timeout {
			t.Fatalf("no answer: %+v", r)
		}
		if hung != "" && hungAt == 0 {
			hungAt = now
		}
		if stuck {
			stuckAt = now
		}
	}
	if hungAt == 0 || stuckAt.Sub(hungAt) != ownStuckAfter {
		t.Errorf("hung at %v, stuck at %v; want %v between", hungAt, stuckAt, ownStuckAfter)
	}
}

// TestTend: an order's step reaches the copy, and one that knows no steps says so.
func TestTend(t *testing.T) {
	a, err := New(Config{
		Host: "c1", Boot: "b", Spec: fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}}},
		Run: t.TempDir(), Log: slog.New(slog.DiscardHandler), Now: func() fleet.Moment { return fleet.Moment(time.Hour) }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &ownCopy{}
	o := fleet.Order{Verb: fleet.VerbTend, Step: fleet.StepJoin, With: "rabbit@c1", Thing: "service/x"}
	w := &watcher{service: fleet.Service{Name: "x", Kind: "rabbitmq", Mode: fleet.ActiveActive}, copy: c, look: make(chan struct{}, 1)}
	if err := w.operate(t.Context(), a, o); err != nil || len(c.steps) != 1 || c.steps[0] != "join rabbit@c1" {
		t.Errorf("%v, %v", c.steps, err)
	}
	// A node may wait in its start for others that never come; a step must not wait for that.
	c.waits = make(chan struct{})
	w.copy = c
	started, done := make(chan error, 1), make(chan error, 1)
	go func() { started <- w.operate(t.Context(), a, fleet.Order{Verb: fleet.VerbStart, Thing: "service/x"}) }()
	<-c.waits
	o.Step = fleet.StepForceStart
	go func() { done <- w.operate(t.Context(), a, o) }()
	for _, e := range []chan error{started, done} {
		select {
		case err := <-e:
			if e == done && err != nil {
				t.Errorf("the step: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the step waits for the start")
		}
	}
	w.copy = stillCopy{}
	if err := w.operate(t.Context(), a, o); err == nil {
		t.Error("a copy that knows no steps has taken one")
	}
}
