package service

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// fakeLogind is a logind of our own: it gives inhibitors, and shuts nothing down.
type fakeLogind struct {
	t    *testing.T
	conn *dbus.Conn

	mu        sync.Mutex
	preparing bool
	taken     chan lock
}

// lock is an inhibitor: held as long as a writing end of the pipe is open.
type lock struct{ r, w *os.File }

func newFakeLogind(t *testing.T, f *fakeSystemd) *fakeLogind {
	t.Helper()
	conn, err := dbus.Connect(f.Address)
	if err != nil {
		t.Fatal(err)
	}
	l := &fakeLogind{t: t, conn: conn, taken: make(chan lock, 8)}
	t.Cleanup(func() { conn.Close() })
	for _, err := range []error{conn.Export(l, logindPath, logindIface), conn.Export(fakeLogindProperties{l}, logindPath, propsIface)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if r, err := conn.RequestName(logindName, dbus.NameFlagReplaceExisting); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(r, err)
	}
	return l
}

// Inhibit is what logind's is: a pipe's end, which is the lock as long as it is open.
func (l *fakeLogind) Inhibit(what, _, _, mode string) (dbus.UnixFD, *dbus.Error) {
	if what != "shutdown" || mode != "delay" {
		l.t.Errorf("inhibits %s by %s", what, mode)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	fd := dbus.UnixFD(w.Fd())
	l.taken <- lock{r, w}
	return fd, nil
}

func (l *fakeLogind) prepare(on bool) {
	l.mu.Lock()
	l.preparing = on
	l.mu.Unlock()
	if err := l.conn.Emit(logindPath, logindIface+".PrepareForShutdown", on); err != nil {
		l.t.Error(err)
	}
}

type fakeLogindProperties struct{ l *fakeLogind }

func (p fakeLogindProperties) Get(string, string) (dbus.Variant, *dbus.Error) {
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	return dbus.MakeVariant(p.l.preparing), nil
}

// given waits for an inhibitor; released for its end.
func (l *fakeLogind) given() lock {
	l.t.Helper()
	select {
	case k := <-l.taken:
		l.t.Cleanup(func() { k.r.Close(); k.w.Close() })
		return k
	case <-time.After(patience):
		l.t.Fatal("no inhibitor was asked for")
	}
	return lock{}
}

func (l *fakeLogind) released(k lock) {
	l.t.Helper()
	k.w.Close() // what is open now is the one who was given it
	if err := k.r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		l.t.Fatal(err)
	}
	if n, err := k.r.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		l.t.Fatalf("the inhibitor is held: %v", err)
	}
}

func (l *fakeLogind) held(k lock) {
	l.t.Helper()
	k.w.Close()
	if err := k.r.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		l.t.Fatal(err)
	}
	if _, err := k.r.Read(make([]byte, 1)); !os.IsTimeout(err) {
		l.t.Fatalf("the inhibitor was given back: %v", err)
	}
}

// TestBeforeShutdown: a shutdown waits for what is to be done before it and no longer,
// one that is called off ends it, and a logind that comes later is found.
func TestBeforeShutdown(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	s := newSystemd(t, f)
	l := newFakeLogind(t, f)
	ctx, cancel := context.WithCancel(context.Background())
	began, ended, undone, finish := make(chan bool), make(chan error, 1), make(chan bool), make(chan bool)
	over := make(chan bool)
	go func() {
		defer close(over)
		s.BeforeShutdown(ctx, func(ctx context.Context) {
			began <- true
			select {
			case <-ctx.Done():
			case <-finish:
			}
			ended <- ctx.Err()
		}, func() { undone <- true })
	}()
	wait := func(c chan bool, what string) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(patience):
			t.Fatal(what)
		}
	}
	given := l.given()
	l.prepare(true)
	wait(began, "a shutdown begins, and nothing is done before it")
	l.held(given)
	l.prepare(false)
	if err := <-ended; err == nil {
		t.Error("the shutdown was called off, and its work went on")
	}
	wait(undone, "the shutdown was called off, and nothing was undone")
	l.released(given)
	given = l.given()
	l.prepare(true)
	wait(began, "a second shutdown begins, and nothing is done before it")
	finish <- true
	if err := <-ended; err != nil {
		t.Error(err)
	}
	l.released(given)
	l.conn.Close()
	newFakeLogind(t, f).given()
	cancel()
	wait(over, "it goes on without its context")
}
