package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"mainstay/fleet"
)

// The exit codes of a status command, as the Linux Standard Base has them. All
// others leave open whether something runs.
const (
	lsbRunning = 0
	lsbStopped = 3
)

// execCopy is the kind "exec": a copy driven by three commands.
type execCopy struct {
	name                string
	start, stop, status []string
	startTime, stopTime time.Duration
	statusTime          time.Duration
	pidFile             string
	bar                 bar

	mu       sync.Mutex
	restarts restarts
	fails    bool // as that of unitCopy
	wanted   bool // it ran here or was started here, and was not stopped since
}

func openExec(s fleet.Service, env Env) (Copy, error) {
	p := &params{kind: s.Kind, given: s.Params}
	c := &execCopy{
		name: s.Name, start: s.Start, stop: s.Stop, status: s.Status,
		startTime: p.duration("start_timeout"), stopTime: p.duration("stop_timeout"), statusTime: p.duration("status_timeout"),
		pidFile: p.text("pid_file"), bar: barOf(s, env), restarts: restarts{within: s.Restarts.Within}, fails: s.Mode.Exclusive(),
	}
	for _, f := range []struct {
		field string
		argv  []string
	}{{"start", s.Start}, {"stop", s.Stop}, {"status", s.Status}} {
		switch {
		case len(f.argv) == 0:
			p.wrongs = append(p.wrongs, fmt.Errorf("%s: none given; kind exec needs start, stop and status", f.field))
		case !strings.HasPrefix(f.argv[0], "/"):
			p.wrongs = append(p.wrongs, fmt.Errorf("%s: %q: write the command's whole path", f.field, f.argv[0]))
		}
	}
	return c, errors.Join(p.wrongs...)
}

// Prepare does nothing: no one but Mainstay starts such a service. A command
// may heed the bar itself; its file is Env.Held/NAME.
func (c *execCopy) Prepare(context.Context) error { return nil }

// Forget takes the bar's file away.
func (c *execCopy) Forget(context.Context) error { return c.bar.drop() }

// State asks the status command.
func (c *execCopy) State(ctx context.Context) (fleet.ServiceState, error) {
	c.mu.Lock()
	st := fleet.ServiceState{Phase: fleet.Unknown, Restarts: c.restarts.count()}
	c.mu.Unlock()
	if _, err := os.Stat(c.status[0]); errors.Is(err, fs.ErrNotExist) {
		st.Phase, st.Why = fleet.Absent, "no "+c.status[0]+" here"
		return st, nil
	}
	code, text, err := run(ctx, c.statusTime, c.status, false)
	if err != nil {
		st.Why = "status: " + err.Error()
		return st, fmt.Errorf("status of %s: %w", c.name, err)
	}
	switch code {
	case lsbRunning:
		st.Phase = fleet.Running
		c.want(true)
	case lsbStopped:
		st.Phase = fleet.Stopped
	default:
		st.Why = strings.TrimSuffix(fmt.Sprintf("%s exited with %d, neither running (0) nor stopped (3): %s", c.status[0], code, text), ": ")
	}
	return st, nil
}

// Start runs the start command, unless the status says that it runs.
func (c *execCopy) Start(ctx context.Context) error {
	if err := c.bar.lift(); err != nil {
		return err
	}
	st, err := c.State(ctx)
	if err != nil {
		return fmt.Errorf("start %s: not tried, its state is not known: %w", c.name, err)
	}
	if st.Phase == fleet.Running {
		return nil
	}
	if st.Phase != fleet.Stopped {
		return fmt.Errorf("start %s: not tried, it is %s: %s", c.name, st.Phase, st.Why)
	}
	if c.want(true) && c.fails {
		c.mu.Lock()
		c.restarts.add(1) // it ended by itself, or its last start failed
		c.mu.Unlock()
	}
	return c.act(ctx, "start", c.start, c.startTime, fleet.Running)
}

// want notes whether the copy is to run on, and says whether it was.
func (c *execCopy) want(on bool) (was bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, c.wanted = c.wanted, on
	return was
}

// Stop runs the stop command, unless the status says that it is stopped.
func (c *execCopy) Stop(ctx context.Context) error {
	defer c.want(false) // whoever looks meanwhile may still see it run
	barred := c.bar.drop()
	if st, err := c.State(ctx); err == nil && (st.Phase == fleet.Stopped || st.Phase == fleet.Absent) {
		return barred
	}
	return errors.Join(barred, c.act(ctx, "stop", c.stop, c.stopTime, fleet.Stopped))
}

// Restart is a stop and a start.
func (c *execCopy) Restart(ctx context.Context) error {
	c.mu.Lock()
	c.restarts.add(1)
	c.mu.Unlock()
	if err := c.Stop(ctx); err != nil {
		return err
	}
	return c.Start(ctx)
}

// act runs a command and believes only the status that follows it.
func (c *execCopy) act(ctx context.Context, what string, argv []string, limit time.Duration, want string) error {
	code, text, err := run(ctx, limit, argv, true)
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, c.name, err)
	}
	st, err := c.State(ctx)
	if err != nil {
		return unknown("%s %s: done, but its state is not known: %w", what, c.name, err)
	}
	if st.Phase == want {
		return nil
	}
	if code != 0 {
		return fmt.Errorf("%s %s: %s exited with %d; it is %s; look: journalctl -u mainstay -n 50", what, c.name, argv[0], code, st.Phase)
	}
	return fmt.Errorf("%s %s: %s exited with 0, but status says %s %s", what, c.name, argv[0], st.Phase, text)
}

// Ready is the status command's word.
func (c *execCopy) Ready(ctx context.Context) (bool, string, error) {
	st, err := c.State(ctx)
	if err != nil {
		return false, "", err
	}
	if st.Phase == fleet.Running {
		return true, "", nil
	}
	return false, strings.TrimSuffix(st.Phase+": "+st.Why, ": "), nil
}

// PIDs reads the pid file, if the service names one.
func (c *execCopy) PIDs(context.Context) ([]int, error) {
	if c.pidFile == "" {
		return nil, nil
	}
	return pidFrom(c.name, c.pidFile)
}

// pidFrom reads the main process's id from a file.
func pidFrom(service, file string) ([]int, error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("processes of %s: %w", service, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("processes of %s: %s: %w", service, file, err)
	}
	if syscall.Kill(pid, 0) == syscall.ESRCH {
		return nil, nil // a file left behind
	}
	return []int{pid}, nil
}

// Events has none to tell: such a service is asked for its state regularly.
func (c *execCopy) Events(ctx context.Context) <-chan string {
	out := make(chan string)
	context.AfterFunc(ctx, func() { close(out) })
	return out
}

// Close has nothing to let go of.
func (c *execCopy) Close() error { return nil }

// run runs a command without a shell, in a process group of its own, and
// returns its exit code and last line. At the deadline the whole group is
// killed and the error is ErrUnknown: it may have done its work.
//
// A command that leaves a daemon behind hands down its output. Such a command
// writes to our own standard error, the journal, and not into a pipe: reading
// would last as long as the daemon, and a closed pipe would kill it.
func run(ctx context.Context, limit time.Duration, argv []string, daemon bool) (code int, last string, err error) {
	if daemon {
		code, err = carry(ctx, limit, argv, os.Stderr, os.Stderr, demote)
		return code, "", err
	}
	var out tail
	code, err = carry(ctx, limit, argv, &out, &out, nil)
	return code, out.last(), err
}

// output is run for a command that prints an answer; last is the last line of its
// complaints.
func output(ctx context.Context, limit time.Duration, argv []string) (out []byte, code int, last string, err error) {
	var text bytes.Buffer
	var errs tail
	code, err = carry(ctx, limit, argv, &text, &errs, nil)
	return text.Bytes(), code, errs.last(), err
}

func carry(ctx context.Context, limit time.Duration, argv []string, out, errs io.Writer, begun func(pid int)) (code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for one in the group that left it, pipe in hand
	cmd.Stdout, cmd.Stderr = out, errs
	if err = cmd.Start(); err == nil {
		if begun != nil {
			begun(cmd.Process.Pid)
		}
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return -1, unknown("%s did not end in time and was killed: %w", argv[0], context.Cause(ctx))
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return cmd.ProcessState.ExitCode(), nil
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	case exit != nil: // ended by a signal
		return -1, unknown("%s: %w", argv[0], err)
	default: // not even begun
		return -1, fmt.Errorf("%s: %w", argv[0], err)
	}
}

// demote takes from a service what only the agent is to have: its priority and
// its safety from the kernel's out-of-memory killer. Both are refinements, so a
// failure changes nothing else.
func demote(pid int) {
	_ = syscall.Setpriority(syscall.PRIO_PGRP, pid, 0)
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("0"), 0)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - 1024; over > 0 {
		t.buf = t.buf[over:]
	}
	return len(p), nil
}

func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(t.buf), []byte("\n"))
	return string(bytes.TrimSpace(lines[len(lines)-1]))
}
