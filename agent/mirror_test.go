package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// diskCopy is a copy whose kernel says what it is told to.
type diskCopy struct {
	stillCopy
	says fleet.Mirror
	went int
	slow func() // what happens while it goes on
}

func (*diskCopy) Resource() string                               { return "r0" }
func (c *diskCopy) Mirror(context.Context) (fleet.Mirror, error) { return c.says, nil }
func (c *diskCopy) GoOn(context.Context) error {
	c.went++
	if c.slow != nil {
		c.slow()
	}
	return nil
}

// diskAgent has a mirrored service that it may have promoted.
func diskAgent(t *testing.T) (*Agent, *diskCopy, *fleet.Moment) {
	t.Helper()
	now := fleet.Moment(time.Hour)
	v := fleet.Service{Name: "disk", Mode: fleet.Promoted, Hosts: []string{"c1", "c2"}}
	c := &diskCopy{}
	a := &Agent{
		cfg:  Config{Host: "c1", Boot: "b", Run: t.TempDir(), Now: func() fleet.Moment { return now }, Log: slog.New(slog.NewTextHandler(io.Discard, nil))},
		spec: fleet.Spec{Services: []fleet.Service{v}}, tell: make(chan struct{}, 1),
		watchers: map[string]*watcher{"disk": {service: v, copy: c}}, services: map[string]fleet.ServiceState{},
	}
	a.hand, _ = plan.NewHand("c1", "b", plan.Memory{Boot: "b", Stint: 1, End: now.Add(time.Second), Running: map[string]uint64{"service/disk": 4}}, nil, fleet.Presets()["wide"], now)
	return a, c, &now
}

func goOn(mark string) fleet.Order {
	return fleet.Order{Verb: plan.VerbGoOn, Thing: "service/disk", With: "c2", Mark: mark}
}

// TestPart: leave comes with the order that names the question, and from nothing else.
func TestPart(t *testing.T) {
	a, c, _ := diskAgent(t)
	answer := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() { answer <- a.Part(ctx, "r0", "c2.example.org") }()
	<-a.tell
	a.mu.Lock()
	mark := a.parted()["disk@c2"]
	a.mu.Unlock()
	for _, wrong := range []fleet.Order{goOn(""), goOn("b/1"), {Verb: plan.VerbGoOn, Thing: "service/disk", With: "c3", Mark: mark}, {Verb: plan.VerbGoOn, Thing: "service/x", With: "c2", Mark: mark}} {
		if err := a.mirror(ctx, wrong); err == nil {
			t.Errorf("%+v is carried out", wrong)
		}
	}
	if err := a.mirror(ctx, fleet.Order{Verb: plan.VerbEven, Thing: "service/disk", With: "c2"}); err == nil {
		t.Error("even while it asks")
	}
	select {
	case err := <-answer:
		t.Fatalf("an answer before there was one: %v", err)
	default:
	}
	if err := a.mirror(ctx, goOn(mark)); err != nil {
		t.Error(err)
	}
	if err := <-answer; err != nil {
		t.Error(err)
	}
	if a.parted() != nil || c.went != 0 {
		t.Errorf("it goes on asking: %v, or was thawed beside its handler: %d", a.parted(), c.went)
	}
	if err := a.mirror(ctx, goOn(mark)); err == nil {
		t.Error("a copy of the order answers what is not asked any more")
	}
}

// TestPartWithoutAnAnswer: no answer is none, and the question stays open; the order that
// comes later thaws the kernel, whose handler has given up.
func TestPartWithoutAnAnswer(t *testing.T) {
	a, c, _ := diskAgent(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Part(ctx, "r0", "c2"); !errors.Is(err, context.Canceled) {
		t.Fatalf("leave without an answer: %v", err)
	}
	mark := a.parted()["disk@c2"]
	if mark == "" {
		t.Fatal("nothing is asked any more")
	}
	c.slow = func() {
		c.says.Even = "c2"
		a.mu.Lock()
		a.mirrored(a.watchers["disk"].service, fleet.ServiceState{Phase: fleet.Running, Mirror: c.says}, a.cfg.Now().Add(time.Second))
		a.mu.Unlock()
		if err := a.mirror(t.Context(), fleet.Order{Verb: plan.VerbEven, Thing: "service/disk", With: "c2"}); err == nil {
			t.Error("even while its kernel is being thawed, which may come late")
		}
	}
	if err := a.mirror(t.Context(), goOn(mark)); err != nil || c.went != 1 || a.parted() != nil {
		t.Errorf("%v, thawed %d times, asks %v", err, c.went, a.parted())
	}
	for _, q := range [][2]string{{"r0", "c9"}, {"r1", "c2"}, {"", "c2"}, {"r0", "c1"}} {
		if err := a.Part(t.Context(), q[0], q[1]); err == nil {
			t.Errorf("leave for %v", q)
		}
	}
}

// TestPartWithoutARight: who has no right is refused for good where the copy is surely not
// promoted. One that is promoted, or may be, is told to ask again: the right may come, and
// then its kernel is answered.
func TestPartWithoutARight(t *testing.T) {
	a, _, _ := diskAgent(t)
	a.hand.Stopped("service/disk", 4)
	for _, c := range []struct {
		is   fleet.ServiceState
		last bool
	}{
		{fleet.ServiceState{}, false}, // not asked yet
		{fleet.ServiceState{Phase: fleet.Unknown, Role: fleet.RoleUnpromoted}, false},
		{fleet.ServiceState{Phase: fleet.Running, Role: fleet.RolePromoted}, false},
		{fleet.ServiceState{Phase: fleet.Running, Role: fleet.RoleUnpromoted}, true},
	} {
		a.services["disk"] = c.is
		if err := a.Part(t.Context(), "r0", "c2"); err == nil || errors.Is(err, ErrNoRight) != c.last {
			t.Errorf("%+v: %v", c.is, err)
		}
	}
	if a.parted() != nil {
		t.Error("who has no right asks")
	}
}

// TestFrozen: writes that wait without anybody asking are asked for; a peer that is back
// ends the question, but not by what the kernel said before it.
func TestFrozen(t *testing.T) {
	a, _, now := diskAgent(t)
	v := a.watchers["disk"].service
	see := func(m fleet.Mirror, begun fleet.Moment) {
		a.mirrored(v, fleet.ServiceState{Phase: fleet.Running, Mirror: m}, begun)
	}
	frozen := fleet.Mirror{Frozen: true, Lost: "c2"}
	see(frozen, *now)
	*now = now.Add(handlerDue - time.Second)
	see(frozen, *now)
	if a.parted() != nil {
		t.Error("it asks beside the handler, which may still come")
	}
	*now = now.Add(time.Second)
	see(frozen, *now)
	if a.parted()["disk@c2"] == "" {
		t.Fatal("nobody asks, and its writes wait for ever")
	}
	see(fleet.Mirror{Even: "c2"}, now.Add(-time.Second))
	if a.parted() == nil {
		t.Error("an answer from before the question ends it")
	}
	*now = now.Add(time.Second)
	see(fleet.Mirror{Even: "c2"}, *now)
	if a.parted() != nil {
		t.Error("its peer is back, and it asks still")
	}
	see(frozen, *now)
	*now = now.Add(handlerDue)
	see(frozen, *now)
	a.hand.Stopped("service/disk", 4)
	see(frozen, *now)
	if a.parted() != nil {
		t.Error("it asks for a role that it has not any more")
	}
}
