package agent

import (
	"context"
	"fmt"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// Storage is where this compute keeps its storage heartbeat, and finds those of others.
type Storage interface {
	// Write writes this host's count, and returns when it is on the storage. It may never return.
	Write(count uint64) error
	// Read returns the boot and the count that a host wrote. It may never return.
	Read(host string) (boot string, count uint64, err error)
}

// storageWithin is how long a write may take before it is told.
const storageWithin = 10 * time.Second

// beatToStorage keeps this host's storage heartbeat, and reads those that it was asked to, until ctx ends.
func (a *Agent) beatToStorage(ctx context.Context) {
	w := storageBeat{to: a.cfg.Storage, now: a.cfg.Now, readings: a.readings, reading: map[string]chan read{}, ended: func() { a.poke(a.toRead) }}
	ticker := time.NewTicker(a.cfg.Spec.Timing.SlowBeat / 4)
	defer ticker.Stop()
	for {
		a.mu.Lock()
		now := a.cfg.Now()
		said := w.step(now, now.Sub(a.hand.End().Add(-a.length)))
		news := !said.Equal(a.storage)
		a.storage = said
		a.mu.Unlock()
		if news {
			a.poke(a.tell)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.toRead:
		case <-ticker.C:
		}
	}
}

// asksToRead takes the order to read another's.
func (a *Agent) asksToRead(o fleet.Order) error {
	if a.cfg.Storage == nil {
		return fmt.Errorf("read the storage heartbeat of %s: this host has no such storage", o.Target.Host)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.readings.Ask(o.Target.Host, o.Target.Boot, a.cfg.Now())
	a.poke(a.toRead)
	return nil
}

// storageBeat is what is remembered from one step to the next. Its storage may hang: each
// question is put apart, and of one kind only one is ever under way.
type storageBeat struct {
	to       Storage
	now      func() fleet.Moment
	readings *lease.Readings
	count    uint64
	began    fleet.Moment // when the newest write began; 0: none has
	writing  chan error
	failed   string
	reading  map[string]chan read
	ended    func() // a question has been answered
	stepped  fleet.Moment
}

type read struct {
	began fleet.Moment
	boot  string
	count uint64
	err   error
}

// step begins what is due, takes in what has ended, and says what is to be told. unheard is for how long
// no majority of voters has acknowledged this host.
func (w *storageBeat) step(now fleet.Moment, unheard time.Duration) fleet.StorageWord {
	if w.stepped != 0 && now.Sub(w.stepped) >= storageWithin {
		w.readings.Return(now) // this process stood still
	}
	w.stepped = now
	w.write(now, unheard)
	w.read(now)
	said := fleet.StorageWord{Failed: w.failed, Writes: w.readings.Writes(now)}
	if w.failed != "" {
		w.readings.Return(now) // what it does not see is its own fault
	}
	said.Unseen = w.readings.Unseen(now)
	return said
}

func (w *storageBeat) write(now fleet.Moment, unheard time.Duration) {
	if w.writing != nil {
		select {
		case err := <-w.writing:
			w.writing, w.failed = nil, ""
			if err != nil {
				w.failed = cutText(err)
			}
		default:
			if now.Sub(w.began) >= storageWithin {
				w.failed = fmt.Sprintf("write the storage heartbeat: no answer for more than %v", storageWithin)
			}
			return
		}
	}
	if w.began != 0 && now.Sub(w.began) < lease.StorageEvery(unheard, w.readings.Beat()) {
		return
	}
	w.began, w.writing = now, make(chan error, 1)
	// It rises also over restarts of the agent within one boot.
	w.count = max(w.count+1, uint64(now))
	go func(done chan error, count uint64) { done <- w.to.Write(count) }(w.writing, w.count)
}

func (w *storageBeat) read(now fleet.Moment) {
	for _, host := range fleet.Sorted(w.reading) {
		select {
		case r := <-w.reading[host]:
			delete(w.reading, host)
			if r.err == nil { // else nothing is known
				w.readings.Saw(host, r.boot, r.count, r.began)
			}
		default:
		}
	}
	for _, host := range w.readings.Due(now) {
		if w.reading[host] != nil {
			continue // the former question has no answer yet
		}
		asked := make(chan read, 1)
		w.reading[host] = asked
		go func() {
			r := read{began: w.now()}
			r.boot, r.count, r.err = w.to.Read(host)
			asked <- r
			w.ended()
		}()
	}
}
