package service

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// TestGaleraKill: one that hangs is killed and started by nobody; one that answers is not,
// whatever it answers; one that the kernel holds is not called gone.
func TestGaleraKill(t *testing.T) {
	t.Parallel()
	mute := unknown("no answer")
	for _, tc := range []struct {
		name   string
		unit   fakeUnit
		answer error
		kills  int
		err    string
	}{
		{"it hangs", fakeUnit{Active: "active", Sub: "running"}, mute, 1, ""},
		{"it answers", fakeUnit{Active: "active", Sub: "running"}, nil, 0, "it answers"},
		{"it has too many clients", fakeUnit{Active: "active", Sub: "running"}, errors.New("Too many connections"), 0, "Too many connections"},
		{"its start hangs", fakeUnit{Active: "activating", Sub: "start"}, mute, 1, ""},
		{"it is down", fakeUnit{}, mute, 0, ""},
		{"it waits for a disk", fakeUnit{Active: "deactivating", Sub: "stop-sigterm", OnStop: "never", OnKill: "never"}, mute, 1, "not surely gone"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if tc.unit.OnKill != "" {
			tc.unit.AtStop = cancel // as if it had waited for long
		}
		f, c, _ := openGaleraTest(t, tc.unit)
		c.restarts.within = time.Hour
		c.status = func(context.Context) (map[string]string, error) { return nil, tc.answer }
		if err := c.bar.lift(); err != nil {
			t.Fatal(err)
		}
		err := c.Kill(ctx)
		cancel()
		if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) || f.called("KillUnit") != tc.kills {
			t.Errorf("%s: Kill = %v, KillUnit called %d times", tc.name, err, f.called("KillUnit"))
		}
		if tc.name == "it waits for a disk" && !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v is no unknown", tc.name, err)
		}
		_, lifted := os.Stat(c.bar.held)
		if st, _ := c.State(t.Context()); tc.kills > 0 && (lifted == nil || st.Restarts != 1 || tc.err == "" && st.Phase != fleet.Stopped && st.Phase != fleet.Failed) {
			t.Errorf("%s: the bar: %v, then %+v", tc.name, lifted, st)
		}
	}
}

// TestGaleraEndsByForce: a member in no primary component that does not end when it is
// told to is killed, and says where its data stand.
func TestGaleraEndsByForce(t *testing.T) {
	programs(t, map[string]string{recoverProgram: "echo --wsrep_start_position=" + historyA + ":7\n"})
	f, c, data := openGaleraTest(t, fakeUnit{Active: "active", Sub: "running", OnStop: "never"})
	if err := os.WriteFile(filepath.Join(data, "grastate.dat"), []byte("uuid:    "+historyA+"\nseqno:   -1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.status = func(context.Context) (map[string]string, error) {
		return map[string]string{"wsrep_cluster_status": "non-Primary"}, nil
	}
	c.polite = 100 * time.Millisecond
	if err := c.Position(t.Context()); err != nil || f.called("KillUnit") != 1 || c.Replica(fleet.Failed).Seqno != 7 {
		t.Errorf("Position = %v, KillUnit called %d times, %+v", err, f.called("KillUnit"), c.Replica(fleet.Failed))
	}
}

// TestGaleraQueueIsFull: a socket whose queue of calls is full belongs to a server that
// takes none. That is no answer.
func TestGaleraQueueIsFull(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("mariadb.service", fakeUnit{Active: "active", Sub: "running"})
	socket := filepath.Join(t.TempDir(), "m.sock")
	l, err := listenOne(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l()
	for range 100 {
		if x, err := net.Dial("unix", socket); err != nil {
			break
		} else {
			defer x.Close()
		}
	}
	c, err := Open(fleet.Service{Name: "mariadb", Kind: "galera", Units: []string{"mariadb.service"}, Params: map[string]string{"address": socket, "query_timeout": "1s"}}, galeraEnv(t, f))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(Prober).Probe(t.Context()); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "temporarily unavailable") {
		t.Errorf("Probe = %v; want ErrUnknown by EAGAIN", err)
	}
}

// listenOne listens with a queue of one, and accepts nobody.
func listenOne(socket string) (stop func(), err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}), unix.Listen(fd, 1)); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return func() { _ = unix.Close(fd) }, nil
}
