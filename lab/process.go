package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process that cannot be mistaken for a later one of its number.
type process struct {
	pid int
	fd  int // a pidfd
}

// openProcess returns nil when there is none of that number.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH || err == unix.EINVAL { // EINVAL: the number is now a thread's
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return &process{pid, fd}, nil
}

func (p *process) close() { unix.Close(p.fd) }

// signal sends a signal; that the process is gone is no error.
func (p *process) signal(sig unix.Signal) error {
	if err := unix.PidfdSendSignal(p.fd, sig, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("signal %d to process %d: %w", sig, p.pid, err)
	}
	return nil
}

// ended says whether it has ended, waiting for that up to timeout.
func (p *process) ended(timeout time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	until := time.Now().Add(timeout)
	for {
		n, err := unix.Poll(fds, int(max(0, time.Until(until).Milliseconds())))
		if err == unix.EINTR {
			continue
		}
		return n > 0
	}
}

// pids lists all processes of the machine.
func pids() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out, nil
}

// inode identifies a namespace; 0: there is none.
func inode(name string) uint64 {
	var st unix.Stat_t
	if unix.Stat(name, &st) != nil {
		return 0
	}
	return st.Ino
}

// processes lists the processes of a host (the client too), or with "" of the
// whole lab: those in its network namespace and those in its cgroup, but never
// our own, whose threads visit these namespaces. Processes inside a host that
// have a further network namespace are in its cgroup.
func (l *Lab) processes(host string) ([]int, error) {
	spaces := map[uint64]bool{}
	for _, m := range append(slices.Clone(l.Hosts), l.Client) {
		if host == "" || host == m.Name {
			if ino := inode(l.netns(m.Name)); ino != 0 {
				spaces[ino] = true
			}
		}
	}
	found := map[int]bool{}
	for _, dir := range l.cgroups(host) {
		data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, f := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil {
				found[pid] = true
			}
		}
	}
	all, err := pids()
	if err != nil {
		return nil, err
	}
	for _, pid := range all {
		if ino := inode(fmt.Sprintf("/proc/%d/ns/net", pid)); ino != 0 && spaces[ino] {
			found[pid] = true
		}
	}
	delete(found, os.Getpid())
	var out []int
	for _, pid := range all {
		if found[pid] && !zombie(pid) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// zombie says whether a process has ended and only waits to be noticed.
func zombie(pid int) bool {
	s, err := stat(pid)
	return err != nil || s.state == 'Z' || s.state == 'X'
}

// procStat is what we need of /proc/PID/stat.
type procStat struct {
	state byte
	start uint64 // clock ticks since the machine's boot
}

func stat(pid int) (procStat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	// The name, in brackets, may contain anything.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return procStat{}, fmt.Errorf("/proc/%d/stat: %q", pid, data)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return procStat{fields[0][0], start}, err
}

// signalEach sends a signal to those processes that list names, but for those in
// done, and adds them to it. It returns those that it reached, to be closed.
//
// A process is looked at a second time once its pidfd is open: a number that was
// given to another process in between is then not in the list any more, or it is
// a process of the list with a right of its own.
func signalEach(sig unix.Signal, done map[int]bool, list func() ([]int, error)) ([]*process, error) {
	first, err := list()
	if err != nil {
		return nil, err
	}
	var held, reached []*process
	defer func() {
		for _, p := range held {
			if !slices.Contains(reached, p) {
				p.close()
			}
		}
	}()
	for _, pid := range first {
		if done[pid] {
			continue
		}
		p, err := openProcess(pid)
		if err != nil {
			return nil, err
		}
		if p != nil {
			held = append(held, p)
		}
	}
	if len(held) == 0 {
		return nil, nil
	}
	second, err := list()
	if err != nil {
		return nil, err
	}
	for _, p := range held {
		if !slices.Contains(second, p.pid) {
			continue
		}
		if err := p.signal(sig); err != nil {
			return reached, err
		}
		done[p.pid] = true
		reached = append(reached, p)
	}
	return reached, nil
}

// remains lists the processes of a host, or with "" of the whole lab, and those that are
// about to become one: whoever was killed while it started a host has left a shell behind
// that is in none of its namespaces yet, and goes on to be nspawn.
func (l *Lab) remains(host string) ([]int, error) {
	out, err := l.processes(host)
	if err != nil {
		return nil, err
	}
	all, err := pids()
	if err != nil {
		return nil, err
	}
	for _, m := range l.Hosts {
		if host != "" && host != m.Name {
			continue
		}
		for _, pid := range all {
			if !slices.Contains(out, pid) && starts(pid, l.hostPath(m, "root")) {
				out = append(out, pid)
			}
		}
	}
	return out, nil
}

// starts says whether a process is nspawn with that root, or about to become it.
func starts(pid int, root string) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && slices.Contains(strings.Split(string(data), "\x00"), "--directory="+root)
}

// killAll kills all processes of a host until there are none.
func (l *Lab) killAll(ctx context.Context, host string) error {
	return waitFor(ctx, 20*time.Second, "the processes of "+host+" to end", func() (bool, error) {
		none := true
		killed, err := signalEach(unix.SIGKILL, map[int]bool{}, func() ([]int, error) {
			list, err := l.remains(host)
			none = len(list) == 0
			return list, err
		})
		for _, p := range killed {
			p.ended(2 * time.Second)
			p.close()
		}
		return none, err
	})
}

// leader returns the first process of a host's systemd, or nil when it has none.
// It is the process in the host's network namespace that is number 1 in its own.
func (l *Lab) leader(host string) (*process, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.leaders[host]; p != nil {
		if !p.ended(0) {
			return p, nil
		}
		p.close()
		delete(l.leaders, host)
	}
	space := inode(l.netns(host))
	if space == 0 {
		return nil, nil
	}
	all, err := pids()
	if err != nil {
		return nil, err
	}
	for _, pid := range all {
		if inode(fmt.Sprintf("/proc/%d/ns/net", pid)) != space || !firstOfNamespace(pid) {
			continue
		}
		p, err := openProcess(pid)
		if err != nil {
			return nil, err
		}
		if p == nil {
			continue
		}
		if inode(fmt.Sprintf("/proc/%d/ns/net", pid)) != space || p.ended(0) {
			p.close()
			continue
		}
		if l.leaders == nil {
			l.leaders = map[string]*process{}
		}
		l.leaders[host] = p
		return p, nil
	}
	return nil, nil
}

// forgetLeaders closes what leader keeps open.
func (l *Lab) forgetLeaders() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for host, p := range l.leaders {
		p.close()
		delete(l.leaders, host)
	}
}

// firstOfNamespace says whether a process is number 1 in a process namespace
// directly below ours, and has become the host's init: before that it is still
// nspawn and sees the machine's own files.
func firstOfNamespace(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || filepath.Base(exe) == "systemd-nspawn" {
		return false
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(rest)
			return len(f) == 2 && f[1] == "1"
		}
	}
	return false
}

// members lists the processes of a running host as its own systemd sees them:
// those in the leader's process namespace, the oldest first.
func (l *Lab) members(host string) ([]int, error) {
	p, err := l.leader(host)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, fmt.Errorf("%s is not running", host)
	}
	space := inode(fmt.Sprintf("/proc/%d/ns/pid", p.pid))
	all, err := pids()
	if err != nil {
		return nil, err
	}
	starts := map[int]uint64{}
	var out []int
	for _, pid := range all {
		if inode(fmt.Sprintf("/proc/%d/ns/pid", pid)) != space {
			continue
		}
		if s, err := stat(pid); err == nil && s.state != 'Z' {
			starts[pid] = s.start
			out = append(out, pid)
		}
	}
	slices.SortStableFunc(out, func(a, b int) int { return int(int64(starts[a]) - int64(starts[b])) })
	return out, nil
}

// UnitPIDs lists the processes of a unit on a host, the oldest (mostly the main
// one) first, as numbers of this machine. It looks at cgroups from outside and
// needs no answer from the host, so it works while the host hangs.
func (l *Lab) UnitPIDs(host, unit string) ([]int, error) {
	if !strings.Contains(unit, ".") {
		unit += ".service"
	}
	all, err := l.members(host)
	if err != nil {
		return nil, fmt.Errorf("find the processes of %s: %w", unit, err)
	}
	return slices.DeleteFunc(all, func(pid int) bool {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			return true
		}
		for line := range strings.Lines(string(data)) {
			// HIERARCHY:CONTROLLERS:PATH, one line or several: which, differs between
			// machines, but systemd always names a directory after the unit.
			f := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(f) == 3 && slices.Contains(strings.Split(f[2], "/"), unit) {
				return false
			}
		}
		return true
	}), nil
}

// cgroupRoots are the mount points of the machine's cgroup hierarchies.
func cgroupRoots() []string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		before, after, _ := strings.Cut(line, " - ")
		f, kind, _ := strings.Cut(after, " ")
		if mount := strings.Fields(before); f == "cgroup2" || f == "cgroup" && strings.Contains(kind, "name=systemd") {
			if len(mount) > 4 && mount[3] == "/" {
				out = append(out, mount[4])
			}
		}
	}
	return out
}

// cgroups lists the cgroups of a host that exist, or with "" of the lab, inner
// ones before outer ones.
func (l *Lab) cgroups(host string) []string {
	var out []string
	for _, root := range cgroupRoots() {
		_ = filepath.WalkDir(filepath.Join(root, "mainstay-lab-"+l.Name, host), func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out = append(out, name)
			}
			return nil
		})
	}
	slices.Reverse(out)
	return out
}

// makeCgroups makes the host's cgroups: one in each hierarchy that systemd could
// use. A hierarchy that is read-only is left alone.
func (l *Lab) makeCgroups(host string) []string {
	var out []string
	for _, root := range cgroupRoots() {
		dir := filepath.Join(root, "mainstay-lab-"+l.Name, host)
		if os.MkdirAll(dir, 0o755) == nil {
			out = append(out, dir)
		}
	}
	return out
}

func (l *Lab) removeCgroups(ctx context.Context) error { return l.removeHostCgroups(ctx, "") }

// removeHostCgroups removes a host's cgroups, or with "" the lab's. A cgroup
// stays busy for a moment after its last process, and what a boot that was
// interrupted had just begun may enter one late: it is ended as all before it was.
func (l *Lab) removeHostCgroups(ctx context.Context, host string) error {
	var last error
	err := waitFor(ctx, patience, "the cgroups to be empty", func() (bool, error) {
		last = nil
		for _, dir := range l.cgroups(host) {
			if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
				last = fmt.Errorf("remove %s: %w", dir, err)
			}
		}
		if last == nil {
			return true, nil
		}
		late, err := signalEach(unix.SIGKILL, map[int]bool{}, func() ([]int, error) { return l.processes(host) })
		for _, p := range late {
			p.close()
		}
		return false, err
	})
	return errors.Join(err, last)
}

// waitFor calls done until it is true: at once, then at growing intervals from
// 1 to 50 ms.
func waitFor(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// hold takes an exclusive lock on a file, which the kernel frees with the
// process. It looks every few milliseconds: deeds are short.
func hold(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = waitFor(ctx, 24*time.Hour, "the lock "+name, func() (bool, error) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == unix.EWOULDBLOCK || err == unix.EINTR {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
