package lab

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Status is how a lab is at one moment.
type Status struct {
	Name     string       `json:"name"`
	Dir      string       `json:"dir"`
	Suite    string       `json:"suite"`
	Closing  bool         `json:"closing,omitempty"` // Down has begun
	BMC      bool         `json:"bmc"`               // the process that plays the BMCs runs
	Networks []Network    `json:"networks"`
	Cuts     []Cut        `json:"cuts,omitempty"`
	Hosts    []HostStatus `json:"hosts"`
}

// HostStatus is how a host is at one moment.
type HostStatus struct {
	Machine
	Power PowerState `json:"power"` // where the switch stands
	// State is systemd's word for it (starting, running, degraded ...), "hung" when
	// it does not answer, or "off" when no process of the host lives.
	State     string `json:"state"`
	Boot      string `json:"boot,omitempty"` // the host's boot_id
	Leader    int    `json:"leader,omitempty"`
	Processes int    `json:"processes"`
	Memory    int64  `json:"memory"` // bytes, shared pages counted by share
	DiskUsed  int64  `json:"disk_used"`
}

// answerTime is how long a host may take to say how it is before it counts as hung.
const answerTime = 2 * time.Second

// Status looks at the lab and asks its hosts.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	out := Status{Name: l.Name, Dir: l.Path(), Suite: l.Suite, Closing: l.Closing, Networks: l.Networks}
	p, err := l.bmcProcess()
	if err != nil {
		return out, err
	}
	if p != nil {
		out.BMC = true
		p.close()
	}
	if out.Cuts, err = l.Cuts(); err != nil {
		return out, err
	}
	for _, m := range l.Hosts {
		h, err := l.hostStatus(ctx, m)
		if err != nil {
			return out, fmt.Errorf("status of %s: %w", m.Name, err)
		}
		out.Hosts = append(out.Hosts, h)
	}
	return out, nil
}

func (l *Lab) hostStatus(ctx context.Context, m Machine) (HostStatus, error) {
	h := HostStatus{Machine: m, State: "off"}
	p, err := l.power(m.Name)
	if err != nil {
		return h, err
	}
	h.Power = p.State
	var st unix.Stat_t
	if unix.Stat(l.hostPath(m, "disk.img"), &st) == nil {
		h.DiskUsed = st.Blocks * 512
	}
	all, err := l.processes(m.Name)
	if err != nil || len(all) == 0 {
		return h, err
	}
	h.Processes = len(all)
	for _, pid := range all {
		h.Memory += proportional(pid)
	}
	leader, err := l.leader(m.Name)
	if err != nil {
		return h, err
	}
	if leader == nil {
		h.State = "starting"
		return h, nil
	}
	h.Leader = leader.pid
	if s, err := stat(leader.pid); err == nil && s.state == 'T' {
		h.State = "hung"
		return h, nil
	}
	limited, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	said, err := l.Run(limited, m.Name, "sh", "-c", "cat /proc/sys/kernel/random/boot_id; systemctl is-system-running")
	boot, state, _ := strings.Cut(strings.TrimSpace(said), "\n")
	h.Boot, h.State = boot, state
	if state == "" { // err may be no more than systemctl's exit code
		h.State = "hung"
		if err != nil && limited.Err() == nil {
			h.State = "starting"
		}
	}
	return h, ctx.Err()
}

// proportional returns a process's memory, where each shared page counts by the
// number of those that share it; 0 for one that has just ended.
func proportional(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}
