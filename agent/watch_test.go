package agent

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"mainstay/fleet"
)

// A service that answers at once is asked once in its interval, however often its
// watcher looks: an answer must not bring the next question.
func TestPulseKeepsItsInterval(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var asked atomic.Int64
	accepted := make(chan struct{}, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			accepted <- struct{}{}
			c.Close()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	var now atomic.Int64
	now.Store(1)
	a := &Agent{cfg: Config{Now: func() fleet.Moment { return fleet.Moment(now.Load()) }}}
	w := &watcher{service: fleet.Service{Name: "x"}, copy: stillCopy{}}
	p := &pulse{
		check:    fleet.Check{Kind: "tcp", Port: port, Every: time.Hour, Deadline: 5 * time.Second},
		target:   netip.MustParseAddr("127.0.0.1"),
		answered: make(chan struct{}, 1),
	}
	for interval := int64(1); interval <= 3; interval++ {
		p.beat(t.Context(), a, w)
		for _, c := range []chan struct{}{p.answered, accepted} {
			select {
			case <-c:
			case <-time.After(10 * time.Second):
				t.Fatal("no answer")
			}
		}
		for range 50 { // as each answer, event and order makes the watcher look
			p.beat(t.Context(), a, w)
		}
		if r, _, _ := p.beat(t.Context(), a, w); !r.OK {
			t.Fatalf("the answer was lost: %+v", r)
		}
		p.mu.Lock()
		running := p.running
		p.mu.Unlock()
		if got := asked.Load(); got != interval || running {
			t.Fatalf("asked %d times in %d intervals, and asking again: %v", got, interval, running)
		}
		now.Add(int64(time.Hour))
	}
}

// stillCopy is a copy whose processes cannot be told.
type stillCopy struct{}

func (stillCopy) Prepare(context.Context) error                     { return nil }
func (stillCopy) Forget(context.Context) error                      { return nil }
func (stillCopy) State(context.Context) (fleet.ServiceState, error) { return fleet.ServiceState{}, nil }
func (stillCopy) Start(context.Context) error                       { return nil }
func (stillCopy) Stop(context.Context) error                        { return nil }
func (stillCopy) Restart(context.Context) error                     { return nil }
func (stillCopy) Ready(context.Context) (bool, string, error)       { return true, "", nil }
func (stillCopy) PIDs(context.Context) ([]int, error)               { return nil, nil }
func (stillCopy) Events(context.Context) <-chan string              { return nil }
func (stillCopy) Close() error                                      { return nil }

// A report says since when a copy has not been ready, whatever it went through since.
func TestObserveTellsSinceWhen(t *testing.T) {
	now := time.Unix(100, 0)
	a := &Agent{cfg: Config{Now: func() fleet.Moment { return 1 }, Wall: func() time.Time { return now }}, services: map[string]fleet.ServiceState{}, tell: make(chan struct{}, 1)}
	w := &watcher{service: fleet.Service{Name: "x"}, copy: stillCopy{}} // in no phase, and so not ready
	for range 2 {
		w.observe(t.Context(), a, &pulse{})
		if got := a.services["x"].Unready; !got.Equal(time.Unix(100, 0)) {
			t.Errorf("not ready since %v", got)
		}
		now = now.Add(time.Minute)
	}
}
