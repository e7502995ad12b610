package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"mainstay/fleet"
)

// kennel is a false watchdog, and who hears what its agent logs.
type kennel struct {
	mu      sync.Mutex
	opened  int
	kept    bool // the newest opening was to keep its time-out
	kicks   int
	ill     error
	stopped bool
	news    chan struct{}
	logged  []string
}

func (k *kennel) change(f func()) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
	select {
	case k.news <- struct{}{}:
	default:
	}
	return k.ill
}

func (k *kennel) Timeout() time.Duration { return 10 * time.Second }
func (k *kennel) Kick() error            { return k.change(func() { k.kicks++ }) }
func (k *kennel) Close(stop bool) error  { return k.change(func() { k.stopped = stop }) }

func (k *kennel) open(keep bool) (Watchdog, error) {
	if err := k.change(func() { k.opened, k.kept = k.opened+1, keep }); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *kennel) Enabled(context.Context, slog.Level) bool { return true }
func (k *kennel) WithAttrs([]slog.Attr) slog.Handler       { return k }
func (k *kennel) WithGroup(string) slog.Handler            { return k }
func (k *kennel) Handle(_ context.Context, r slog.Record) error {
	_ = k.change(func() { k.logged = append(k.logged, r.Message) })
	return nil
}

// watchdogAgent is an agent of one of three voters, c1, whose ears the test plays, with a
// service that may live there.
func watchdogAgent(t testing.TB, now func() fleet.Moment, log *slog.Logger, open func(bool) (Watchdog, error)) *Agent {
	t.Helper()
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Services: []fleet.Service{{Name: "s", Mode: fleet.ActivePassive, Hosts: []string{"c1"}}}}
	for _, name := range []string{"c1", "c2", "c3"} {
		spec.Hosts = append(spec.Hosts, fleet.Host{Name: name, Voter: true})
	}
	a, err := New(Config{Host: "c1", Boot: "b", Spec: spec, Run: filepath.Join(t.TempDir(), "run"), Now: now, Wall: time.Now, Log: log, Watchdog: open})
	if err != nil {
		t.Fatal(err)
	}
	a.hand.Dropped(1)
	return a
}

// lease lets the other two ears acknowledge a beat of now.
func (a *Agent) lease() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.cfg.Now()
	for _, ear := range []string{"c2", "c3"} {
		a.acked(ear, a.hand.Stint(), now, now)
	}
}

// hold lets the agent follow a start.
func (a *Agent) hold(watchdog time.Duration) *fleet.Effect {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, refusal := a.hand.Order(fleet.Order{Key: "start", Verb: fleet.VerbStart, Boot: "b", Stint: a.hand.Stint().N, Epoch: 1, Thing: "service/s", Generation: 1, Watchdog: watchdog}, a.cfg.Now())
	if refusal == nil {
		a.services["s"] = fleet.ServiceState{Phase: fleet.Running, Generation: 1}
	}
	return refusal
}

// TestGuardLife: the watchdog is armed, reported and kicked, and not kicked while a
// service is here and no lease lives; one that fails stands surety for nothing.
func TestGuardLife(t *testing.T) {
	var clock sync.Mutex
	at := fleet.Moment(time.Hour)
	now := func() fleet.Moment {
		clock.Lock()
		defer clock.Unlock()
		return at
	}
	k := &kennel{news: make(chan struct{}, 1)}
	a := watchdogAgent(t, now, slog.New(k), k.open)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { defer close(over); a.guardLife(ctx, fleet.Watchdog{Timeout: 20 * time.Millisecond}) }()
	defer func() { cancel(); <-over }()
	wait := func(what string, is func() bool) {
		t.Helper()
		bound := time.After(30 * time.Second)
		for {
			k.mu.Lock()
			ok := is()
			k.mu.Unlock()
			if ok {
				return
			}
			select {
			case <-k.news:
			case <-bound:
				t.Fatal("waited in vain for: " + what)
			}
		}
	}
	seen := 0 // kicks
	more := func() bool { defer func() { seen = k.kicks }(); return k.kicks > seen }
	reported := func() time.Duration {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.testimony(now()).Watchdog
	}
	wait("a kick without a lease, with nothing", more)
	if k.kept || reported() != k.Timeout() {
		t.Errorf("armed to keep what rests on nothing (%v), and it reports %v", k.kept, reported())
	}
	a.lease()
	if refusal := a.hold(10 * time.Second); refusal != nil {
		t.Fatal(refusal.Why)
	}
	wait("a kick under a lease, with a service", more)
	clock.Lock()
	at = at.Add(time.Second)
	clock.Unlock()
	quiet := 0
	complaints := func() (n int) {
		for _, line := range k.logged {
			if line == "the watchdog of this host is not kicked" {
				n++
			}
		}
		return n
	}
	wait("the complaint that it is not kicked", func() bool { quiet = k.kicks; return complaints() == 1 })
	a.tick(time.Second, time.Second) // a new stint
	a.mu.Lock()
	a.hand.Dropped(2)
	a.mu.Unlock()
	k.mu.Lock()
	if k.kicks != quiet {
		t.Error("it was kicked without a lease, with a service")
	}
	k.mu.Unlock()
	a.lease()
	wait("a kick under the next lease", func() bool { return k.kicks > quiet })
	_ = k.change(func() { k.ill = errors.New("input/output error") })
	wait("the complaint that it fails", func() bool { return complaints() == 2 })
	if reported() != 0 {
		t.Error("one that cannot be kicked stands surety")
	}
}

// TestCloseWatchdog: it is disarmed only where nothing is left that it must end.
func TestCloseWatchdog(t *testing.T) {
	now := func() fleet.Moment { return fleet.Moment(time.Hour) }
	for _, c := range []struct{ held, stop, stopped bool }{{false, true, true}, {true, true, false}, {false, false, false}} {
		k := &kennel{news: make(chan struct{}, 1)}
		a := watchdogAgent(t, now, slog.New(slog.DiscardHandler), k.open)
		a.lease()
		if why := a.kick(false); why != "" {
			t.Fatal(why)
		}
		if c.held {
			if refusal := a.hold(0); refusal != nil {
				t.Fatal(refusal.Why)
			}
		}
		a.CloseWatchdog(c.stop)
		if k.stopped != c.stopped {
			t.Errorf("with a service %v, stopped in good order %v: disarmed %v", c.held, c.stop, k.stopped)
		}
		if a.CloseWatchdog(true); k.stopped != c.stopped {
			t.Error("it was let go of twice")
		}
	}
}
