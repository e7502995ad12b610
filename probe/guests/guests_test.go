package guests

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// TestSilentLibvirt: one that takes the connection and says nothing is unknown within the
// deadline, each time anew; one whose socket is not there is none.
func TestSilentLibvirt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sock")
	if _, err := Open(path).Look(t.Context()); !errors.Is(err, ErrNone) {
		t.Errorf("without a socket: %v", err)
	}
	silent, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	l := Open(path)
	defer l.Close()
	for range 2 {
		begun := time.Now()
		if _, err := l.Look(t.Context()); !errors.Is(err, ErrUnknown) || time.Since(begun) > 4*Deadline {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	}
	silent.Close() // and the socket's file goes with it
	if _, err := l.Look(t.Context()); !errors.Is(err, ErrNone) {
		t.Errorf("gone: %v", err)
	}
}

// TestWord: only a death that nobody asked for is a crash.
func TestWord(t *testing.T) {
	for _, c := range []struct {
		state  libvirt.DomainState
		reason libvirt.DomainShutoffReason
		want   State
	}{
		{libvirt.DomainRunning, 0, Runs}, {libvirt.DomainPaused, 0, Runs}, {libvirt.DomainShutdown, 0, Runs},
		{libvirt.DomainCrashed, 0, Crashed}, {libvirt.DomainShutoff, libvirt.DomainShutoffCrashed, Crashed},
		{libvirt.DomainShutoff, libvirt.DomainShutoffShutdown, Ended}, {libvirt.DomainShutoff, libvirt.DomainShutoffDestroyed, Ended},
		{libvirt.DomainShutoff, libvirt.DomainShutoffMigrated, Ended}, {libvirt.DomainShutoff, libvirt.DomainShutoffFailed, Ended},
		{libvirt.DomainShutoff, libvirt.DomainShutoffUnknown, Ended},
	} {
		if got := word(c.state, c.reason); got != c.want {
			t.Errorf("%v, %v: %s, want %s", c.state, c.reason, got, c.want)
		}
	}
	id := libvirt.UUID{0x0a, 0x1b, 0x2c, 0x3d, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff}
	if got := name(id); got != "0a1b2c3d-0405-0607-0809-0a0b0c0d0eff" {
		t.Error(got)
	}
}
