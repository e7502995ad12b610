package node

import (
	"context"
	"testing"
	"time"
)

// TestBeAlive: the supervisor is told of progress, and of nothing while the loop that
// beats stands still.
func TestBeAlive(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tick, ticking, over := make(chan time.Time), make(chan bool), make(chan struct{})
	told := 0
	go func() {
		defer close(over)
		beAlive(ctx, tick, func() bool { return <-ticking }, func() { told++ })
	}()
	for _, is := range []bool{true, false, false, true} {
		tick <- time.Time{}
		ticking <- is
	}
	cancel()
	<-over
	if told != 2 {
		t.Errorf("told %d times, and the loop made progress twice", told)
	}
}
