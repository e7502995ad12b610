package service

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

func openScript(t *testing.T, text string, params map[string]string) (Copy, string) {
	t.Helper()
	path := script(t, text)
	c, err := Open(fleet.Service{Name: "thing", Kind: "exec", Params: params,
		Start: []string{path, "start"}, Stop: []string{path, "stop"}, Status: []string{path, "status"}}, Env{})
	if err != nil {
		t.Fatal(err)
	}
	return c, filepath.Dir(path)
}

func TestExecStatusCodes(t *testing.T) {
	t.Parallel()
	for code := range 9 {
		c, _ := openScript(t, "#!/bin/sh\necho first\necho it says so\nexit "+strconv.Itoa(code)+"\n", nil)
		want := map[int]string{0: fleet.Running, 3: fleet.Stopped}[code]
		if want == "" {
			want = fleet.Unknown
		}
		st := state(t, c, want)
		if want == fleet.Unknown && !strings.Contains(st.Why, "exited with "+strconv.Itoa(code)) || strings.Contains(st.Why, "first") {
			t.Errorf("exit code %d: Why = %q", code, st.Why)
		}
	}
	c, dir := openScript(t, "", nil)
	if err := os.Remove(filepath.Join(dir, "script")); err != nil {
		t.Fatal(err)
	}
	state(t, c, fleet.Absent)
}

// TestExecDeadline: the command's whole group ends at its deadline, and what
// became of the deed is unknown.
func TestExecDeadline(t *testing.T) {
	t.Parallel()
	c, dir := openScript(t, `#!/bin/sh
cd "$(dirname "$0")"
[ "$1" = status ] && exit 3
sleep 1000 & echo $! >child.new; mv child.new child
wait
`, map[string]string{"start_timeout": "1s"})
	err := c.Start(t.Context())
	if !errors.Is(err, ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Start = %v; want ErrUnknown", err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(child, 0)
	if errors.Is(err, unix.ESRCH) {
		return // gone already
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience/time.Millisecond)); n != 1 {
		t.Fatalf("the command's child outlived its deadline (%v)", err)
	}
}

// TestExecBelievesOnlyStatus: a command's word for its own deed does not count.
func TestExecBelievesOnlyStatus(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, script string
		deed         func(Copy, context.Context) error
		want         string
	}{
		{"start lies", "[ $1 = status ] && exit 3; exit 0", Copy.Start, "status says stopped"},
		{"start fails", "[ $1 = status ] && exit 3; exit 5", Copy.Start, "exited with 5"},
		{"stop lies", "[ $1 = status ] && exit 0; exit 0", Copy.Stop, "status says running"},
		{"state not known", "[ $1 = status ] && exit 4; exit 0", Copy.Start, "not tried"},
	} {
		c, _ := openScript(t, "#!/bin/sh\n"+tc.script+"\n", nil)
		err := tc.deed(c, t.Context())
		if err == nil || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want a certain failure that says %q", tc.name, err, tc.want)
		}
	}
}

// TestExecNoShell: arguments arrive as written.
func TestExecNoShell(t *testing.T) {
	t.Parallel()
	path := script(t, "#!/bin/sh\n[ \"$1\" = '$(touch x); *' ] && exit 0; exit 3\n")
	argv := []string{path, "$(touch x); *"}
	c, err := Open(fleet.Service{Name: "thing", Kind: "exec", Start: argv, Stop: argv, Status: argv}, Env{})
	if err != nil {
		t.Fatal(err)
	}
	state(t, c, fleet.Running)
}

// TestExecDaemonKeepsOutput: a daemon that holds on to its starter's output
// neither delays the start nor dies of it.
func TestExecDaemonKeepsOutput(t *testing.T) {
	t.Parallel()
	c, dir := openScript(t, `#!/bin/sh
cd "$(dirname "$0")"
case $1 in
status) [ -e pid ] && exit 0; exit 3 ;;
start) sh -c 'echo $$ >pid.new; mv pid.new pid; read x <go; echo the daemon speaks; echo lives >done; exec sleep 1000' & while [ ! -e pid ]; do sleep 0.01; done ;;
esac
`, map[string]string{"pid_file": "/nonexistent", "start_timeout": "10s"})
	fifo := func(name string) *os.File {
		path := filepath.Join(dir, name)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	begin, done := fifo("go"), fifo("done")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGKILL)
	if _, err := begin.WriteString("x\n"); err != nil {
		t.Fatal(err)
	}
	if err := done.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	word := make([]byte, 16)
	if n, err := done.Read(word); err != nil || string(word[:n]) != "lives\n" {
		t.Errorf("the daemon died when it spoke: %q, %v", word[:n], err)
	}
	if pids, err := c.PIDs(t.Context()); pids != nil || err != nil {
		t.Errorf("PIDs without a pid file = %v, %v", pids, err)
	}
}
