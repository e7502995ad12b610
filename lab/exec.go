package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Processes lists what Hang would stop, as numbers of this machine, the oldest
// first: see Hang for what.
func (l *Lab) Processes(host, what string) ([]int, error) {
	if what == All {
		return l.members(host)
	}
	if list, ok := strings.CutPrefix(what, "pid:"); ok {
		all, err := l.members(host)
		if err != nil {
			return nil, err
		}
		var out []int
		for _, f := range strings.Split(list, ",") {
			pid, err := strconv.Atoi(f)
			if err != nil {
				return nil, fmt.Errorf("%q: %q is no process number", what, f)
			}
			if !slices.Contains(all, pid) {
				return nil, fmt.Errorf("process %d is not one of %s", pid, host)
			}
			out = append(out, pid)
		}
		return out, nil
	}
	unit, nth, one := strings.Cut(what, "#")
	out, err := l.UnitPIDs(host, unit)
	if err != nil || !one {
		return out, err
	}
	n, err := strconv.Atoi(nth)
	if err != nil || n < 0 || n >= len(out) {
		return nil, fmt.Errorf("%q: %s has processes #0 to #%d", what, unit, len(out)-1)
	}
	return out[n : n+1], nil
}

// Exec runs a program on a host, or on the client (where it sees the machine's
// files and the client's network). in, out and errs may be nil. A program that
// fails gives an error that is an *exec.ExitError; when ctx ends it is killed, unless a
// person at a terminal uses it.
func (l *Lab) Exec(ctx context.Context, host string, argv []string, in io.Reader, out, errs io.Writer) error {
	if len(argv) == 0 {
		return fmt.Errorf("run on %s: no program is given", host)
	}
	shell := terminal(in)
	if shell {
		ctx = context.WithoutCancel(ctx)
	}
	cmd, err := l.execCommand(ctx, host, argv)
	if err != nil {
		return fmt.Errorf("run %s on %s: %w", argv[0], host, err)
	}
	if shell {
		// Only the terminal's foreground group may read from it. Its Ctrl-C reaches the
		// program there, and is the program's own affair.
		cmd.SysProcAttr.Setpgid = false
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s on %s: %w", argv[0], host, cause(ctx, err))
	}
	return nil
}

// terminal says whether somebody types there.
func terminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// execCommand is the command that enters a host. Its own group: what it started
// on the host is ended with it.
func (l *Lab) execCommand(ctx context.Context, host string, argv []string) (*exec.Cmd, error) {
	if _, err := l.machine(host); err != nil {
		return nil, err
	}
	var cmd *exec.Cmd
	if host == Client {
		cmd = command(ctx, "nsenter", append([]string{"--net=" + l.netns(host), "--"}, argv...)...)
		cmd.Env = os.Environ()
	} else {
		p, err := l.leader(host)
		if err != nil {
			return nil, err
		}
		if p == nil {
			return nil, errors.New("the host is not running")
		}
		cmd = command(ctx, "nsenter", append([]string{"-t", strconv.Itoa(p.pid),
			"-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"}, argv...)...)
		cmd.Env = []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"HOME=/root", "USER=root", "LANG=C.UTF-8", "container=systemd-nspawn",
		}
		if term := os.Getenv("TERM"); term != "" {
			cmd.Env = append(cmd.Env, "TERM="+term)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd, nil
}

// Run runs a program on a host, or on the client, and returns its output. What
// it said on its standard error is part of the error.
func (l *Lab) Run(ctx context.Context, host string, argv ...string) (string, error) {
	var out, errs bytes.Buffer
	err := l.Exec(ctx, host, argv, nil, &out, &errs)
	if text := strings.TrimSpace(errs.String()); err != nil && text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return out.String(), err
}

// HostPath returns a directory through which the files of a running host can be
// read from outside, those in its memory (/run, /tmp) too, even while it hangs.
// It is valid for this boot of the host.
func (l *Lab) HostPath(host string) (string, error) {
	if _, err := l.powered(host); err != nil {
		return "", err
	}
	p, err := l.leader(host)
	if err != nil {
		return "", err
	}
	if p == nil {
		return "", fmt.Errorf("files of %s: the host is not running", host)
	}
	return fmt.Sprintf("/proc/%d/root", p.pid), nil
}

// CopyIn puts a file on a running host, whole or not at all, and makes the
// directories that it needs. An absolute symbolic link in the path is an error.
func (l *Lab) CopyIn(host, path string, data []byte, mode fs.FileMode) error {
	return l.Install(host, map[string]File{path: {Data: data, Mode: mode}})
}

// Install puts files on a running host, each whole or not at all.
func (l *Lab) Install(host string, files map[string]File) error {
	dir, err := l.HostPath(host)
	if err != nil {
		return err
	}
	return install(dir, files)
}

// Console returns the last n lines of a host's console: systemd's
// first messages and everything that its journal took. It is kept outside the host and so
// tells also of one that has lost its power or its disk.
func (l *Lab) Console(host string, n int) (string, error) {
	m, err := l.powered(host)
	if err != nil {
		return "", err
	}
	f, err := os.Open(l.hostPath(m, "console.log"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	const most = 4 << 20 // the end is what is asked for
	data, err := io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-most), most))
	if err != nil {
		return "", err
	}
	lines := strings.SplitAfter(strings.ReplaceAll(string(data), "\r", ""), "\n")
	return strings.Join(lines[max(0, len(lines)-n-1):], ""), nil
}
