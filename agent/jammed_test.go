package agent

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mainstay/fleet"
)

// jam is a host on which a renewal does not return before it is freed, as a call into
// a kernel that hangs.
type jam struct {
	Addresses
	inside, free chan struct{}
	dropped      atomic.Int32
}

func (j *jam) Others(context.Context, netip.Addr) ([]net.HardwareAddr, error) { return nil, nil }

func (j *jam) Claim(context.Context, netip.Addr, fleet.Moment) (time.Duration, error) {
	return fleet.GuardLate, nil
}

func (j *jam) Renew(fleet.Moment) (time.Duration, error) {
	select {
	case j.inside <- struct{}{}:
	default:
	}
	<-j.free
	return fleet.GuardLate, nil
}

func (j *jam) Drop(context.Context) error {
	j.dropped.Add(1)
	return nil
}

// TestJammedHands: the hands that keep the guards open hang in a system call, and the
// loop that beats does not (HOLES 28). The host ends its stint by itself and is silent,
// so that others take over, until what it spoke for is surely gone.
func TestJammedHands(t *testing.T) {
	address := fleet.Address{Name: "a", Addr: netip.MustParseAddr("192.0.2.1"), Network: "n"}
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}}, Addresses: []fleet.Address{address}}
	var now atomic.Int64
	now.Store(int64(time.Hour))
	j := &jam{inside: make(chan struct{}, 1), free: make(chan struct{})}
	a, err := New(Config{
		Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Addresses: j, Log: slog.New(slog.DiscardHandler),
		Now: func() fleet.Moment { return fleet.Moment(now.Load()) }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { defer close(over); a.carryOut(ctx) }()
	free := sync.OnceFunc(func() { close(j.free) })
	defer func() { cancel(); free(); <-over }()
	beat := func() {
		now.Add(int64(spec.Timing.Beat))
		a.tick(spec.Timing.Beat, spec.Timing.Lease)
	}
	wait := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	silent := func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.hand.Silent()
	}
	wait("it never began to beat", func() bool { return !silent() })
	now.Add(int64(spec.Timing.Promise())) // its ear has just booted
	for range 3 {
		beat()
	}
	stint := a.stint()
	if e := a.Order(ctx, fleet.Order{Key: "claim", Verb: fleet.VerbClaim, Boot: "b", Stint: stint.N, Epoch: 1, Thing: address.Thing(), Generation: 1}); e.Outcome != fleet.Done {
		t.Fatalf("claim: %s %s", e.Outcome, e.Why)
	}
	beat()
	<-j.inside // from here on nobody renews
	began, last := now.Load(), a.Beats("c1", "b")
	for a.stint() == stint {
		if time.Duration(now.Load()-began) > 2*spec.Timing.Lease {
			t.Fatal("its hands hang, and it goes on beating under the stint that speaks for the address")
		}
		last = a.Beats("c1", "b")
		beat()
	}
	if !silent() {
		t.Fatal("it beats under the next stint before what the former spoke for is gone")
	}
	for range 20 {
		beat()
	}
	if a.Beats("c1", "b") != last {
		t.Error("it was heard after its stint had ended, while its hands hung")
	}
	drops := j.dropped.Load()
	free()
	wait("it stays silent although all is gone", func() bool { return !silent() })
	if j.dropped.Load() == drops {
		t.Error("it beats again, and nothing was dropped")
	}
	beat()
	if a.Beats("c1", "b") == last {
		t.Error("it does not beat although all is gone")
	}
}
