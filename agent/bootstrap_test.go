package agent

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// memberCopy is a member of a cluster that looks around when it is told to begin.
type memberCopy struct {
	stillCopy
	begins   func()
	starting chan struct{} // closed when a start waits for its peers
	kills    func()
	pid      int
}

func (m memberCopy) Replica(string) fleet.Replica         { return fleet.Replica{} }
func (m memberCopy) Join(context.Context, string) error   { return nil }
func (m memberCopy) Rejoin(context.Context, string) error { return nil }
func (m memberCopy) Position(context.Context) error       { return nil }
func (m memberCopy) Bootstrap(context.Context) error      { m.begins(); return nil }
func (m memberCopy) Kill(context.Context) error           { m.kills(); return nil }
func (m memberCopy) PIDs(context.Context) ([]int, error)  { return []int{m.pid}, nil }
func (m memberCopy) Start(ctx context.Context) error {
	close(m.starting)
	<-ctx.Done()
	return ctx.Err()
}

func bootstrapAgent(t *testing.T, run string) *Agent {
	t.Helper()
	now := fleet.Moment(time.Hour)
	a, err := New(Config{
		Host: "c1", Boot: "b", Run: run, Log: slog.New(slog.DiscardHandler), Now: func() fleet.Moment { return now }, Wall: time.Now,
		Spec: fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	a.hand.Ack("c1", a.hand.Stint(), now-1, now)
	return a
}

// TestBootstrapOnce: the right to begin a cluster is given up, where a new process of the
// agent finds it, before the cluster is begun, and together with the word that it is being
// begun; neither a copy of the order nor a new process begins a second one.
func TestBootstrapOnce(t *testing.T) {
	run := t.TempDir()
	a := bootstrapAgent(t, run)
	begun := 0
	o := fleet.Order{Verb: plan.VerbBootstrap, Thing: "bootstrap/db", Generation: 4, Boot: "b", Stint: a.hand.Stint().N}
	a.services["db"] = fleet.ServiceState{Phase: fleet.Stopped, Replica: fleet.Replica{Known: true}}
	w := &watcher{service: fleet.Service{Name: "db"}, look: make(chan struct{}, 1), copy: memberCopy{begins: func() {
		begun++
		a.mu.Lock()
		defer a.mu.Unlock()
		r := a.testimony(a.cfg.Now())
		if s := r.Services["db"]; r.GivenUp[o.Thing] != 4 || s.Phase != fleet.Starting || s.Replica.Known {
			t.Errorf("while it begins: given up %d, %+v", r.GivenUp[o.Thing], s)
		}
		if m, err := a.recall(); err != nil || m.GivenUp[o.Thing] != 4 {
			t.Errorf("a new process would not know: %+v, %v", m.GivenUp, err)
		}
	}}}
	if err := w.operate(t.Context(), a, o); err != nil || begun != 1 {
		t.Fatalf("begun %d times: %v", begun, err)
	}
	if err := w.operate(t.Context(), a, o); err == nil || !strings.Contains(err.Error(), "given up") || begun != 1 {
		t.Errorf("the order came again: begun %d times, %v", begun, err)
	}
	again := bootstrapAgent(t, run)
	o.Stint = again.hand.Stint().N
	if err := w.operate(t.Context(), again, o); err == nil || begun != 1 {
		t.Errorf("to a new process: begun %d times, %v", begun, err)
	}
}

// TestPositionEndsTheWaitForAStart: a member may wait in its start for peers that never
// come, and the order that ends it must not wait for that.
func TestPositionEndsTheWaitForAStart(t *testing.T) {
	a := bootstrapAgent(t, t.TempDir())
	m := memberCopy{starting: make(chan struct{})}
	w := &watcher{service: fleet.Service{Name: "db"}, look: make(chan struct{}, 1), copy: m}
	started := make(chan error, 1)
	go func() { started <- w.operate(t.Context(), a, fleet.Order{Verb: fleet.VerbStart, Thing: "service/db"}) }()
	<-m.starting
	done := make(chan error, 1)
	go func() { done <- w.operate(t.Context(), a, fleet.Order{Verb: plan.VerbPosition, Thing: "bootstrap/db"}) }()
	for _, c := range []chan error{started, done} {
		select {
		case err := <-c:
			if c == done && err != nil {
				t.Errorf("Position: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the order waits for the start")
		}
	}
}

// TestStopKeepsTheCount: the word that a copy is stopped, because it failed too often, says
// how often that was. Without it this host looked as fit as any and got the service back
// by the next commit, six times in 44 ms (seen on hosts).
func TestStopKeepsTheCount(t *testing.T) {
	a := bootstrapAgent(t, t.TempDir())
	a.services["solo"] = fleet.ServiceState{Phase: fleet.Failed, Restarts: 2}
	w := &watcher{service: fleet.Service{Name: "solo", Mode: fleet.ActivePassive}, look: make(chan struct{}, 1), copy: stillCopy{}}
	o := fleet.Order{Verb: fleet.VerbStop, Thing: "service/solo", Generation: 4, Boot: "b", Stint: a.hand.Stint().N, Why: "it failed"}
	if err := w.operate(t.Context(), a, o); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.testimony(a.cfg.Now())
	if s := r.Services["solo"]; r.GivenUp[o.Thing] != 4 || s.Phase != fleet.Stopped || s.Restarts != 2 {
		t.Errorf("given up %d, %+v", r.GivenUp[o.Thing], s)
	}
}
