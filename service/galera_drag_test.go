package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestDrag: only a member that keeps asking to be waited for, while writers do stand
// still, drags; it counts again when it has kept up for a while.
func TestDrag(t *testing.T) {
	t.Parallel()
	words := func(sent int, requested bool, paused time.Duration, queue int) map[string]string {
		return map[string]string{"wsrep_flow_control_sent": fmt.Sprint(sent), "wsrep_flow_control_requested": fmt.Sprint(requested),
			"wsrep_flow_control_paused_ns": fmt.Sprint(paused.Nanoseconds()), "wsrep_local_recv_queue": fmt.Sprint(queue)}
	}
	for _, tc := range []struct {
		name string
		each func(second int) map[string]string
		want func(second int) bool
	}{
		{"a quiet one", func(int) map[string]string { return words(7, false, time.Minute, 0) }, func(int) bool { return false }},
		{"it asks all the time", func(n int) map[string]string { return words(4*n, false, time.Duration(n)*500*time.Millisecond, 20) }, func(n int) bool { return n >= 10 }},
		{"it asked once, and is waited for ever since", func(n int) map[string]string { return words(1, true, time.Duration(n)*900*time.Millisecond, 40) }, func(n int) bool { return n >= 10 }},
		{"it asks, for moments", func(n int) map[string]string { return words(9*n, false, time.Duration(n)*50*time.Millisecond, 3) }, func(int) bool { return false }},
		{"another one asks", func(n int) map[string]string { return words(0, false, time.Duration(n)*900*time.Millisecond, 0) }, func(int) bool { return false }},
		{"for a few seconds", func(n int) map[string]string { return words(min(n, 4), false, time.Duration(min(n, 4))*time.Second, 0) }, func(int) bool { return false }},
		{"its server was started anew", func(n int) map[string]string {
			return words(4*(n%8), false, time.Duration(n%8)*500*time.Millisecond, 20)
		}, func(int) bool { return false }},
		{"it is well again after 20 s", func(n int) map[string]string {
			return words(4*min(n, 20), false, time.Duration(min(n, 20))*500*time.Millisecond, 0)
		},
			func(n int) bool { return n >= 10 && n < 25+30 }},
		{"its words lack the counters", func(int) map[string]string { return nil }, func(int) bool { return false }},
	} {
		var b drag
		for n := range 70 {
			b.look(time.Unix(int64(n), 0), tc.each(n), false)
			if b.on != tc.want(n) {
				t.Errorf("%s: after %d s it drags: %v", tc.name, n, b.on)
				break
			}
		}
	}
}

// TestGaleraDrags: a member that holds the others up is not ready, says so, is let lag by
// order, and takes that back when it has kept up.
func TestGaleraDrags(t *testing.T) {
	t.Parallel()
	_, c, _ := openGaleraTest(t, fakeUnit{Active: "active", Sub: "running"})
	c.timers = ""
	answer := map[string]string{"wsrep_on": "ON", "wsrep_cluster_status": "Primary", "wsrep_local_state": "4", "wsrep_ready": "ON", "wsrep_connected": "ON",
		"wsrep_flow_control_sent": "50", "wsrep_flow_control_requested": "true", "wsrep_flow_control_paused_ns": "9000000000", "wsrep_local_recv_queue": "40"}
	c.status = func(context.Context) (map[string]string, error) { return answer, nil }
	var told []string
	c.desync = func(_ context.Context, on string) error {
		told = append(told, on)
		answer["wsrep_desync"], answer["wsrep_local_state"] = on, map[string]string{"ON": "2", "OFF": "4"}[on]
		return nil
	}
	ask := func() (bool, string) {
		t.Helper()
		state(t, c, fleet.Running)
		ready, why, err := c.Ready(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return ready, why
	}
	ask()
	<-c.synced
	if ready, why := ask(); !ready {
		t.Fatalf("before it drags: %s", why)
	}
	c.drag = drag{seen: []dragged{{at: time.Now().Add(-dragSpan), asked: true, sent: 10, paused: 2 * time.Second}}}
	if ready, why := ask(); ready || !strings.Contains(why, "holds the whole cluster up: in 10 s it asked 40 times") || !c.Replica(fleet.Running).Drags {
		t.Fatalf("it drags: %v %q %+v", ready, why, c.Replica(fleet.Running))
	}
	if err := c.Tend(t.Context(), "join", "", ""); err == nil {
		t.Error("it knows a step of a broker")
	}
	for range 2 {
		if err := c.Tend(t.Context(), fleet.StepLag, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != 1 || told[0] != "ON" {
		t.Fatalf("told %q", told)
	}
	c.drag = drag{} // a new process of the agent
	if ready, why := ask(); ready || !strings.Contains(why, "is not waited for: 40 writes to apply") {
		t.Errorf("it lags: %v %q", ready, why)
	}
	answer["wsrep_flow_control_requested"], answer["wsrep_local_recv_queue"] = "false", "0"
	if ready, why := ask(); ready || len(told) != 1 {
		t.Errorf("it has only just caught up: %v %q, told %q", ready, why, told)
	}
	c.drag.quiet = time.Now().Add(-dragEase)
	if ready, _ := ask(); ready || len(told) != 2 || told[1] != "OFF" {
		t.Errorf("it has kept up: told %q", told)
	}
	if ready, why := ask(); !ready {
		t.Errorf("it is as before: %q", why)
	}
	// A backup tells it so too, and takes it back itself.
	answer["wsrep_desync"], answer["wsrep_local_state"] = "ON", "2"
	if ready, why := ask(); ready || !strings.Contains(why, "as a backup tells it") {
		t.Errorf("during a backup: %v %q", ready, why)
	}
	if err := c.Tend(t.Context(), fleet.StepLag, "", ""); err == nil {
		t.Error("it was let lag during a backup, and that would end the backup's own")
	}
	answer["wsrep_desync"], answer["wsrep_local_state"] = "OFF", "4"
	if err := c.Tend(t.Context(), fleet.StepLag, "", ""); err != nil {
		t.Fatal(err)
	}
	answer["wsrep_desync"], answer["wsrep_local_state"] = "OFF", "4" // its server was started anew
	c.Replica(fleet.Starting)
	ask()
	<-c.synced
	if ready, why := ask(); !ready {
		t.Errorf("after a restart: %q", why)
	}
	if _, err := os.Stat(c.lagging); err == nil {
		t.Error("what says that it lags outlived its server")
	}
	// A slow one does it late: what it was told is not forgotten, nor told again, or it would
	// have to be taken back twice.
	told = nil
	c.desync = func(_ context.Context, on string) error {
		told = append(told, on)
		return errors.New("no answer")
	}
	for range 2 {
		if err := c.Tend(t.Context(), fleet.StepLag, "", ""); err == nil {
			t.Error("it is said to lag")
		}
		ask()
	}
	answer["wsrep_desync"], answer["wsrep_local_state"] = "ON", "2"
	if ready, why := ask(); ready || !strings.Contains(why, "is not waited for") || len(told) != 1 {
		t.Errorf("it has done it late: %v %q, told %q", ready, why, told)
	}
}
