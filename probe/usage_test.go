package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const group = "/system.slice/keystone.service"

// tree writes files below a new root and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestUnitUsageLayouts(t *testing.T) {
	const stat = "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n"
	procs := fmt.Sprintln(os.Getpid())
	tests := []struct {
		name  string
		files map[string]string
		want  time.Duration // -1: whatever this process has used
	}{
		{"version 2", map[string]string{group + "/cpu.stat": stat, group + "/cgroup.procs": procs}, 2500 * time.Millisecond},
		{"hybrid", map[string]string{"unified" + group + "/cpu.stat": stat, "systemd" + group + "/cgroup.procs": procs}, 2500 * time.Millisecond},
		{"version 1", map[string]string{"cpu,cpuacct" + group + "/cpuacct.usage": "1500000000\n", "systemd" + group + "/cgroup.procs": procs}, 1500 * time.Millisecond},
		{"version 1, apart", map[string]string{"cpuacct" + group + "/cpuacct.usage": "1500000000\n"}, 1500 * time.Millisecond},
		{"version 1, not accounted", map[string]string{"systemd" + group + "/cgroup.procs": procs}, -1},
		{"version 1, in a group below", map[string]string{"systemd" + group + "/cgroup.procs": "", "systemd" + group + "/workers/cgroup.procs": procs}, -1},
		{"version 2 without cpu.stat", map[string]string{group + "/cgroup.procs": procs}, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before, err := ProcessUsage([]int{os.Getpid()})
			if err != nil {
				t.Fatal(err)
			}
			got, err := unitUsage(tree(t, tt.files), group)
			if err != nil {
				t.Fatal(err)
			}
			after, err := ProcessUsage([]int{os.Getpid()})
			if err != nil {
				t.Fatal(err)
			}
			if tt.want >= 0 && got != tt.want || tt.want < 0 && (got < before || got > after) {
				t.Errorf("got %s; want %s, or between %s and %s if negative", got, tt.want, before, after)
			}
		})
	}
}

func TestUnitUsageUnknown(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no such group":    {"systemd/other/cgroup.procs": "1\n"},
		"no process in it": {"systemd" + group + "/cgroup.procs": ""},
		"garbage":          {group + "/cpu.stat": "usage_usec many\n"},
		"garbage, v1":      {"cpuacct" + group + "/cpuacct.usage": "many\n"},
		"only the dead":    {"systemd" + group + "/cgroup.procs": "999999999\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := unitUsage(tree(t, files), group); err == nil {
				t.Fatalf("got %s, want an error: unknown is not zero", got)
			}
		})
	}
	for _, none := range []string{"", "/"} { // as systemd says of a unit that does not run
		if got, err := UnitUsage(none); err == nil {
			t.Fatalf("group %q: got %s, want an error", none, got)
		}
	}
}

// TestProcessUsage: a spinning process uses CPU, a stopped one none at all.
func TestProcessUsage(t *testing.T) {
	c := child(t, "spin")
	pids := []int{c.cmd.Process.Pid}
	usage := func() time.Duration {
		t.Helper()
		used, err := ProcessUsage(pids)
		if err != nil {
			t.Fatal(err)
		}
		return used
	}
	rise := func(from time.Duration) {
		t.Helper()
		for end := time.Now().Add(patience); usage() < from+20*time.Millisecond; {
			if time.Now().After(end) {
				t.Fatalf("a spinning process stays at %s", usage())
			}
		}
	}
	rise(usage())
	c.stop(t)
	still := usage()
	// Our own work is the clock here: much CPU of ours, none of the child's.
	own, err := ProcessUsage([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	for {
		now, err := ProcessUsage([]int{os.Getpid()})
		if err != nil {
			t.Fatal(err)
		}
		if now > own+100*time.Millisecond {
			break
		}
	}
	if now := usage(); now != still {
		t.Fatalf("a stopped process went from %s to %s", still, now)
	}
	c.signal(t, syscall.SIGCONT)
	rise(still)

	// The dead count nothing, as long as one lives.
	pids = append(pids, 999999999)
	usage()
	if got, err := ProcessUsage([]int{999999999}); err == nil {
		t.Fatalf("nobody lives, and their use is %s", got)
	}
}

// TestProcessUsageIsFine: a small request costs less than one tick of
// /proc/PID/stat, and must be seen nevertheless.
func TestProcessUsageIsFine(t *testing.T) {
	first, err := ProcessUsage([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		now, err := ProcessUsage([]int{os.Getpid()})
		if err != nil {
			t.Fatal(err)
		}
		if now != first {
			if now-first < tick {
				return
			}
			first = now
		}
	}
	t.Fatal("it only moves in whole ticks")
}
