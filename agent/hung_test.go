package agent

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
	"mainstay/service"
)

// TestKill: an order to kill a member is carried out while its own host calls it stuck, at
// no other time, and beside the very start that hangs.
func TestKill(t *testing.T) {
	a := bootstrapAgent(t, t.TempDir())
	killed := 0
	begins, ended := make(chan struct{}), make(chan struct{})
	m := memberCopy{kills: func() { killed++; close(ended) }, begins: func() { close(begins); <-ended }}
	w := &watcher{service: fleet.Service{Name: "db"}, look: make(chan struct{}, 1), copy: m}
	a.watchers["db"] = w
	o := fleet.Order{Verb: plan.VerbKill, Thing: "service/db", Boot: "b", Stint: a.hand.Stint().N}
	for _, s := range []fleet.ServiceState{{Phase: fleet.Running, Ready: true}, {Phase: fleet.Running, Hung: true}, {Phase: fleet.Stopped}} {
		a.services["db"] = s
		if err := a.kill(t.Context(), o); err == nil || !strings.Contains(err.Error(), "hangs no more") || killed > 0 {
			t.Fatalf("%+v: killed %d times, %v", s, killed, err)
		}
	}
	begun := make(chan error, 1)
	go func() {
		begun <- w.operate(t.Context(), a, fleet.Order{Verb: plan.VerbBootstrap, Thing: "bootstrap/db", Generation: 4, Boot: "b", Stint: o.Stint})
	}()
	<-begins
	a.mu.Lock()
	a.services["db"] = fleet.ServiceState{Phase: fleet.Starting, Hung: true, Stuck: true}
	a.mu.Unlock()
	late := o
	late.Boot = "earlier"
	if err := a.kill(t.Context(), late); err == nil || killed > 0 {
		t.Fatalf("an order to an earlier boot: killed %d times, %v", killed, err)
	}
	if err := a.kill(t.Context(), o); err != nil || killed != 1 {
		t.Fatalf("killed %d times, %v", killed, err)
	}
	select {
	case <-begun:
	case <-time.After(10 * time.Second):
		t.Fatal("the start goes on")
	}
}

func sleeper(t *testing.T) int {
	t.Helper()
	idle := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := idle.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = idle.Process.Kill(); _ = idle.Wait() })
	return idle.Process.Pid
}

// TestStandstill: one that begins a cluster and uses no CPU for long is stuck; one that
// waits for its peers is not.
func TestStandstill(t *testing.T) {
	now := fleet.Moment(time.Hour)
	a := &Agent{cfg: Config{Now: func() fleet.Moment { return now }}}
	w := &watcher{service: fleet.Service{Name: "db"}, copy: memberCopy{pid: sleeper(t)}, begins: true}
	look := func() fleet.ServiceState {
		s := fleet.ServiceState{Phase: fleet.Starting}
		w.standstill(t.Context(), a, &s)
		return s
	}
	begun, first := now, ""
	for ; now.Sub(begun) < standsAfter; now = now.Add(500 * time.Millisecond) {
		if s := look(); s.Stuck {
			t.Fatalf("stuck after %v: %s", now.Sub(begun), s.Why)
		}
	}
	for range 3 {
		s := look()
		if !s.Stuck || first != "" && s.Why != first {
			t.Errorf("after %v: %+v", now.Sub(begun), s)
		}
		first, now = s.Why, now.Add(time.Second)
	}
	w.begins = false
	for range 100 {
		if s := look(); s.Stuck {
			t.Fatal("one that begins nothing is called stuck")
		}
		now = now.Add(time.Second)
	}
}

// TestMemberHangsBeforeItWasAsked: systemd says of a member that its start has ended, so one
// that an agent finds hung when it is started hangs, though it was never seen to answer.
func TestMemberHangsBeforeItWasAsked(t *testing.T) {
	now := fleet.Moment(time.Hour)
	a := &Agent{cfg: Config{Now: func() fleet.Moment { return now }}}
	c := &ownCopy{pid: sleeper(t), answer: fmt.Errorf("no answer: %w", service.ErrUnknown)}
	w := &watcher{service: fleet.Service{Name: "x", Check: fleet.Check{Every: time.Second, Deadline: time.Second}}, copy: c}
	p := newPulse(w.service, a)
	p.own, p.member = c, true
	p.reset()
	var hungAt, stuckAt fleet.Moment
	for begun := now; stuckAt == 0 && now.Sub(begun) < time.Minute; now = now.Add(time.Second) {
		p.beat(t.Context(), a, w)
		select {
		case <-p.answered:
		case <-time.After(10 * time.Second):
			t.Fatal("no answer")
		}
		_, hung, stuck := p.beat(t.Context(), a, w)
		if hung != "" && hungAt == 0 {
			hungAt = now
		}
		if stuck {
			stuckAt = now
		}
	}
	if hungAt == 0 || stuckAt.Sub(hungAt) != stuckAfter {
		t.Errorf("hung at %v, stuck at %v; want %v between", hungAt, stuckAt, stuckAfter)
	}
}
