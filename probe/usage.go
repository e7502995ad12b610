package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// UnitUsage returns the CPU time that the processes of a unit have used. group
// is the unit's control group as systemd names it in the property ControlGroup:
// "/system.slice/keystone.service".
//
// It takes the kernel's own account of the group where there is one (version 2,
// or cpuacct of version 1) and else adds up the group's processes. In that case
// the sum falls when a process ends that was not waited for by another of the
// group. An error means that the group is gone or cannot be read: unknown, not zero.
func UnitUsage(group string) (time.Duration, error) {
	used, err := unitUsage("/sys/fs/cgroup", group)
	if err != nil {
		return 0, fmt.Errorf("read the CPU time of %s: %w", group, err)
	}
	return used, nil
}

// unitUsage looks below root, which is version 2 itself, or holds the
// hierarchies of version 1 and, in the hybrid layout, version 2 as "unified".
func unitUsage(root, group string) (time.Duration, error) {
	if group == "" || group == "/" {
		return 0, errors.New("it has no control group: it does not run")
	}
	for _, tree := range []string{"", "unified"} {
		raw, err := os.ReadFile(filepath.Join(root, tree, group, "cpu.stat"))
		if err != nil {
			continue // not this layout
		}
		for line := range strings.Lines(string(raw)) {
			if text, ok := strings.CutPrefix(line, "usage_usec "); ok {
				n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
				return time.Duration(n) * time.Microsecond, err
			}
		}
	}
	for _, tree := range []string{"cpu,cpuacct", "cpuacct"} {
		raw, err := os.ReadFile(filepath.Join(root, tree, group, "cpuacct.usage"))
		if err != nil {
			continue // not this layout, or the unit is not accounted
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		return time.Duration(n), err
	}
	for _, tree := range []string{"", "unified", "systemd"} {
		pids, err := members(filepath.Join(root, tree, group))
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(pids) == 0 {
			continue
		}
		if err != nil {
			return 0, err
		}
		return ProcessUsage(pids)
	}
	return 0, errors.New("its control group holds no process")
}

// members returns the processes of a group and of all groups below it.
func members(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path != dir && errors.Is(err, fs.ErrNotExist) {
				return nil // a group below ended while we looked
			}
			return err
		}
		if d.Name() != "cgroup.procs" {
			return nil
		}
		raw, err := os.ReadFile(path)
		for text := range strings.FieldsSeq(string(raw)) {
			if pid, err := strconv.Atoi(text); err == nil {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// ProcessUsage returns the CPU time that the processes have used, together with
// children that they have waited for. Processes that are gone count nothing; it
// is an error if all are.
func ProcessUsage(pids []int) (time.Duration, error) {
	var sum time.Duration
	var last error
	alive := 0
	for _, pid := range pids {
		used, err := processUsage(pid)
		if err != nil {
			last = err
			continue
		}
		alive++
		sum += used
	}
	if alive == 0 {
		return 0, fmt.Errorf("none of %d processes can be read: %w", len(pids), last)
	}
	return sum, nil
}

// tick is the unit of /proc/PID/stat: USER_HZ is 100 on every Linux that we run on.
const tick = time.Second / 100

// processUsage reads the process's own clock, in nanoseconds; stat alone, in
// ticks of 10 ms, would call a process idle that just served a small request.
func processUsage(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything, so the fields are counted from
	// its end: utime is then the 12th, followed by stime, cutime, cstime.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 15 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var n [4]time.Duration
	for i := range n {
		v, err := strconv.ParseInt(fields[11+i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		n[i] = time.Duration(v) * tick
	}
	own := n[0] + n[1]
	// The kernel forms the clock of another process from its id: see CPUCLOCK_SCHED
	// in clock_getcpuclockid(3).
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err == nil {
		own = time.Duration(ts.Nano())
	}
	return own + n[2] + n[3], nil
}
