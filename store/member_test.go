package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mainstay/fleet"
)

// memberMark makes this test binary run one member instead of the tests: only a
// process of its own can be killed, stopped or given a broken disk.
const memberMark = "MAINSTAY_STORE_TEST_MEMBER"

type memberConfig struct {
	Name, Dir, Run, Peer, Cluster, Site, CA, Cert, Key, Require string
	Timing                                                      fleet.Timing
}

func TestMain(m *testing.M) {
	raw := os.Getenv(memberMark)
	if raw == "" {
		os.Exit(m.Run())
	}
	var c memberConfig
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := RunQuorum(ctx, QuorumConfig{
		Name: c.Name, Dir: c.Dir, Run: c.Run, Peer: c.Peer, Cluster: c.Cluster, Site: c.Site,
		CA: c.CA, Cert: c.Cert, Key: c.Key, Require: c.Require, Timing: c.Timing,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

// child is a member in a process of its own.
type child struct {
	f   *flat
	cmd *exec.Cmd
	err lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// spawn starts the flat's member as a process.
func (f *flat) spawn() *child {
	t := f.h.t
	t.Helper()
	c := f.cfg
	raw, err := json.Marshal(memberConfig{
		Name: c.Name, Dir: c.Dir, Run: c.Run, Peer: c.Peer, Cluster: c.Cluster, Site: c.Site,
		CA: c.CA, Cert: c.Cert, Key: c.Key, Require: c.Require, Timing: c.Timing,
	})
	check(t, err)
	k := &child{f: f, cmd: exec.Command(os.Args[0])}
	k.cmd.Env = append(os.Environ(), memberMark+"="+string(raw))
	k.cmd.Stderr = &k.err
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(t, k.cmd.Start())
	t.Cleanup(k.kill)
	return k
}

func (k *child) kill() {
	_ = k.cmd.Process.Kill() // it may be gone
	_ = k.cmd.Wait()
}

// spawnAll starts all members as processes and dials them.
func (h *house) spawnAll() map[string]*child {
	out := map[string]*child{}
	for n, f := range h.rooms {
		out[n] = f.spawn()
		f.dial()
	}
	return out
}

// strace breaks the disk of a running process from here on. It returns when the
// tracer is at work, and mends it at the test's end.
func (k *child) strace(t testing.TB, inject string) {
	t.Helper()
	cmd := exec.Command("strace", "-f", "-qq", "-p", strconv.Itoa(k.cmd.Process.Pid), "-o", filepath.Join(k.f.h.dir, "strace.out"),
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:"+inject)
	var out lockedBuffer
	cmd.Stderr = &out
	check(t, cmd.Start())
	gone := make(chan struct{})
	go func() { _ = cmd.Wait(); close(gone) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-gone
	})
	end := time.Now().Add(patience)
	for {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", k.cmd.Process.Pid))
		if err != nil || strings.Contains(string(raw), fmt.Sprintf("TracerPid:\t%d\n", cmd.Process.Pid)) {
			return
		}
		select {
		case <-gone:
			t.Fatalf("strace ended: %s", out.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatal("strace does not attach")
		}
	}
}

// TestHungDiskAtRestLosesTheLead: the leader's own pulse finds the disk, though nobody
// has anything to write.
func TestHungDiskAtRestLosesTheLead(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	children := h.spawnAll()
	lead, _ := h.raise()
	var rest []string
	for n := range h.rooms {
		if n != lead.cfg.Name {
			rest = append(rest, n)
		}
	}
	children[lead.cfg.Name].strace(t, "delay_enter=5000000")
	h.raise(rest...)
	if _, leads := lead.client.Lead(); leads {
		t.Error("the host with the hung disk leads beside another")
	}
}

func TestSlowDiskLosesTheLead(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	children := h.spawnAll()
	lead, epoch := h.raise()
	name := lead.cfg.Name
	var rest []string
	for n := range h.rooms {
		if n != name {
			rest = append(rest, n)
		}
	}
	children[name].strace(t, "delay_enter=5000000")
	// A write makes the disk matter.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := lead.client.Commit(ctx, epoch, []fleet.Record{holding("address/a", name, 1)}, nil); err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrEpoch) {
		t.Fatal(err)
	}
	heir, next := h.raise(rest...)
	check(t, heir.client.Commit(context.Background(), next, []fleet.Record{holding("address/a", heir.cfg.Name, 2)}, nil))
	if _, leads := lead.client.Lead(); leads {
		t.Error("the host with the slow disk leads beside another")
	}
}

func TestBrokenDiskEndsTheProcess(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	children := h.spawnAll()
	lead, epoch := h.raise()
	name := lead.cfg.Name
	var rest []string
	for n := range h.rooms {
		if n != name {
			rest = append(rest, n)
		}
	}
	children[name].strace(t, "error=EIO")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	// The two others may have written it, and answered, before its own disk failed it.
	if err := lead.client.Commit(ctx, epoch, []fleet.Record{holding("address/a", name, 1)}, nil); err != nil {
		wantIs(t, err, ErrUnknown)
	}
	done := make(chan error, 1)
	go func() { done <- children[name].cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() == 0 {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("a process whose disk is broken lives on")
	}
	if log := children[name].err.String(); !strings.Contains(log, "the store ends itself") || !strings.Contains(log, "input/output error") {
		t.Errorf("it did not say why:\n%s", log)
	}
	h.raise(rest...)
	// The agent beside it lives on, and says what it knows.
	if got := lead.client.State().Epoch; got < epoch {
		t.Errorf("the agent forgot epoch %d, has %d", epoch, got)
	}
}
