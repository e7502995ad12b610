package agent

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
	"mainstay/probe/storage"
)

func sharing() *fleet.Spec {
	s := &fleet.Spec{Site: "lab", Timing: fleet.Presets()["room"]}
	for _, name := range []string{"n1", "n2", "n3"} {
		s.Hosts = append(s.Hosts, fleet.Host{Name: name, Roles: []string{"compute"}})
	}
	return s
}

// hanging is a storage that does not answer while it hangs.
type hanging struct {
	Storage
	mu     sync.Mutex
	hangs  chan struct{}
	writes int
}

func (s *hanging) hang(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on {
		s.hangs = make(chan struct{})
		return
	}
	close(s.hangs)
	s.hangs = nil
}

func (s *hanging) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *hanging) wait() {
	s.mu.Lock()
	hangs := s.hangs
	s.writes++
	s.mu.Unlock()
	if hangs != nil {
		<-hangs
	}
}

func (s *hanging) Write(count uint64) error { s.wait(); return s.Storage.Write(count) }

func (s *hanging) Read(host string) (string, uint64, error) { s.wait(); return s.Storage.Read(host) }

// beats is a compute's loop without its clock.
type beats struct {
	storageBeat
	clock fleet.Moment
	said  fleet.StorageWord
}

func newBeats(spec *fleet.Spec, host string, to Storage) *beats {
	b := &beats{clock: fleet.Moment(time.Hour)}
	b.storageBeat = storageBeat{to: to, now: func() fleet.Moment { return b.clock }, readings: lease.NewReadings(spec, host, b.clock), reading: map[string]chan read{}, ended: func() {}}
	return b
}

// pass lets time go by, in steps after each of which what was asked has been answered, unless the storage hangs.
func (b *beats) pass(d, unheard time.Duration, answered func() bool) {
	for range d / (250 * time.Millisecond) {
		b.clock = b.clock.Add(250 * time.Millisecond)
		b.said = b.step(b.clock, unheard)
		for until := time.Now().Add(5 * time.Second); answered() && (len(b.writing) == 0 && b.writing != nil || b.unanswered() > 0) && time.Now().Before(until); {
			time.Sleep(100 * time.Microsecond)
		}
	}
	b.said = b.step(b.clock, unheard)
}

func (b *beats) unanswered() (n int) {
	for _, asked := range b.reading {
		if len(asked) == 0 {
			n++
		}
	}
	return n
}

func always() bool { return true }

// TestStorageBeats: one compute sees in a real directory that another, which it was asked about, writes; and that
// it does no more.
func TestStorageBeats(t *testing.T) {
	dir, spec := t.TempDir(), sharing()
	n1 := newBeats(spec, "n1", storage.Open(dir, "lab", "n1", "boot-1"))
	n2 := newBeats(spec, "n2", storage.Open(dir, "lab", "n2", "boot-2"))
	both := func(d, unheard time.Duration) {
		for range d / (250 * time.Millisecond) {
			n2.pass(250*time.Millisecond, unheard, always)
			n1.pass(250*time.Millisecond, 0, always)
		}
	}
	both(5*time.Second, 0)
	if n1.said.Failed != "" || len(n1.said.Writes) > 0 {
		t.Errorf("nobody was asked about: %+v", n1.said)
	}
	n1.readings.Ask("n2", "boot-2", n1.clock)
	both(1500*time.Millisecond, 2*time.Second)
	if want := map[string]string{"n2": "boot-2"}; !maps.Equal(n1.said.Writes, want) {
		t.Errorf("n2 is not acknowledged, and writes: %+v", n1.said)
	}
	for range 4 { // it has died
		n1.readings.Ask("n2", "boot-2", n1.clock)
		n1.pass(time.Second, 0, always)
	}
	if len(n1.said.Writes) > 0 {
		t.Errorf("n2 has not written for 4 s: %+v", n1.said)
	}
	// Its next boot writes, and nobody asked about that one.
	n2 = newBeats(spec, "n2", storage.Open(dir, "lab", "n2", "boot-3"))
	n1.readings.Ask("n2", "boot-2", n1.clock)
	both(3*time.Second, 2*time.Second)
	if len(n1.said.Writes) > 0 {
		t.Errorf("another boot of n2 writes: %+v", n1.said)
	}
}

// TestStorageCalm: who is heard writes once in ten beats, and who is not four times in one.
func TestStorageCalm(t *testing.T) {
	s := &hanging{Storage: storage.Open(t.TempDir(), "lab", "n1", "b")}
	spec := sharing()
	spec.Hosts = spec.Hosts[:1] // nobody is read
	b := newBeats(spec, "n1", s)
	b.pass(30*time.Second, 0, always)
	if n := s.asked(); n != 3 {
		t.Errorf("%d writes in 30 s", n)
	}
	b.pass(10*time.Second, 2*time.Second, always)
	if n := s.asked() - 3; n < 39 || n > 41 {
		t.Errorf("%d writes in 10 s without an acknowledgement", n)
	}
}

// TestStorageHangs: a storage that does not answer is told, delays nobody and says nothing of others;
// what hung may be carried out late, and the count rises all the same.
func TestStorageHangs(t *testing.T) {
	dir, spec := t.TempDir(), sharing()
	s := &hanging{Storage: storage.Open(dir, "lab", "n1", "boot-1")}
	n1 := newBeats(spec, "n1", s)
	n1.pass(time.Second, 0, always)
	s.hang(true)
	n1.readings.Ask("n2", "boot-2", n1.clock)
	before := s.asked()
	n1.pass(100*time.Second, 2*time.Second, func() bool { return false })
	if !strings.Contains(n1.said.Failed, "no answer for more than 10s") || len(n1.said.Writes) > 0 || len(n1.said.Unseen) > 0 {
		t.Errorf("it hangs: %+v", n1.said)
	}
	for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); time.Sleep(time.Millisecond) {
		if n := s.asked() - before; n > 3 { // one write, and one question about each of the others
			t.Fatalf("%d questions are under way", n)
		}
	}
	s.hang(false)
	n1.pass(time.Second, 0, always)
	if n1.said.Failed != "" {
		t.Errorf("it answers again: %+v", n1.said)
	}
	n1.pass(10*time.Second, 0, always)
	_, count, err := s.Read("n1")
	if err != nil || count != n1.count {
		t.Errorf("it wrote %d, and %d stands there: %v", n1.count, count, err)
	}
	again := newBeats(spec, "n1", s) // another process of this boot
	again.clock = n1.clock.Add(time.Millisecond)
	again.pass(250*time.Millisecond, 0, always)
	if _, next, err := s.Read("n1"); err != nil || next <= count {
		t.Errorf("a later process wrote %d after %d: %v", next, count, err)
	}
}

// TestStorageUnseen: two computes that write to directories of their own each say that they do not see the other.
func TestStorageUnseen(t *testing.T) {
	spec := sharing()
	spec.Hosts = spec.Hosts[:2]
	shared, other := t.TempDir(), t.TempDir()
	n1, n2 := newBeats(spec, "n1", storage.Open(shared, "lab", "n1", "b1")), newBeats(spec, "n2", storage.Open(other, "lab", "n2", "b2"))
	for range 80 {
		n1.pass(time.Second, 0, always)
		n2.pass(time.Second, 0, always)
	}
	if len(n1.said.Unseen) != 1 || len(n2.said.Unseen) != 1 {
		t.Errorf("%+v, %+v", n1.said, n2.said)
	}
	n2.to = storage.Open(shared, "lab", "n2", "b2")
	for range 61 {
		n1.pass(time.Second, 0, always)
		n2.pass(time.Second, 0, always)
	}
	if len(n1.said.Unseen)+len(n2.said.Unseen) > 0 {
		t.Errorf("they share one now: %+v, %+v", n1.said, n2.said)
	}
}

// TestReadOrder: an order to read is taken by who has such storage, and told in the report what came of it.
func TestReadOrder(t *testing.T) {
	spec := sharing()
	spec.Hosts = append(spec.Hosts, fleet.Host{Name: "c1", Voter: true, Roles: []string{"controller"}, Addresses: map[string]netip.Addr{}})
	a, err := New(Config{Host: "n1", Boot: "boot-1", Spec: *spec, Run: t.TempDir(), Now: func() fleet.Moment { return fleet.Moment(time.Hour) }, Wall: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	o := fleet.Order{Verb: fleet.VerbRead, Target: fleet.Stint{Host: "n2", Boot: "boot-2"}}
	if err := a.asksToRead(o); err == nil {
		t.Error("it has no such storage")
	}
	a.cfg.Storage = &hanging{Storage: storage.Open(t.TempDir(), "lab", "n1", "boot-1")}
	if err := a.asksToRead(o); err != nil {
		t.Error(err)
	}
	if due := a.readings.Due(fleet.Moment(time.Hour)); len(due) != 1 || due[0] != "n2" {
		t.Errorf("it reads %v", due)
	}
	a.storage = fleet.StorageWord{Writes: map[string]string{"n2": "boot-2"}}
	if r := a.testimony(fleet.Moment(time.Hour)); !r.Storage.Equal(a.storage) {
		t.Errorf("%+v", r.Storage)
	}
	if (fleet.StorageWord{Failed: "x"}).Equal(fleet.StorageWord{}) {
		t.Error(errors.New("a word of trouble equals none"))
	}
}
