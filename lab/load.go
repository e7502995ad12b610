package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"mainstay/service"
)

// UnitLoad is what one of Mainstay's units took on a host over some time.
type UnitLoad struct {
	Host string  `json:"host"`
	Unit string  `json:"unit"`
	CPU  float64 `json:"cpu"`    // of one core, 0.05 is 5 %
	RSS  int64   `json:"rss"`    // resident bytes, the most that was seen
	For  float64 `json:"over_s"` // seconds
}

// Loads are all that Load measured.
type Loads []UnitLoad

// Load watches what Mainstay's own units take on every host for a while, by the
// kernel's accounts of their processes. The hosts share their network stack with
// this machine: a packet's way to its receiver is counted with its sender.
func (l *Lab) Load(ctx context.Context, d time.Duration) (Loads, error) {
	type account struct {
		unit  UnitLoad
		pid   int
		ticks uint64
		began time.Time
	}
	var all []*account
	for _, m := range l.Hosts {
		for _, unit := range []string{service.AgentUnit, service.QuorumUnit} {
			pids, err := l.UnitPIDs(m.Name, unit)
			if err != nil {
				return nil, fmt.Errorf("load of %s: %w", m.Name, err)
			}
			if len(pids) == 0 {
				continue // a host that does not vote has no store
			}
			a := &account{unit: UnitLoad{Host: m.Name, Unit: unit}, pid: pids[0], began: time.Now()}
			if a.ticks, err = cpuTicks(a.pid); err != nil {
				return nil, fmt.Errorf("load of %s on %s: %w", unit, m.Name, err)
			}
			all = append(all, a)
		}
	}
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); {
		for _, a := range all {
			rss, err := resident(a.pid)
			if err != nil {
				return nil, fmt.Errorf("load of %s on %s: %w", a.unit.Unit, a.unit.Host, err)
			}
			a.unit.RSS = max(a.unit.RSS, rss)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-look.C:
		}
	}
	var out Loads
	for _, a := range all {
		now, err := cpuTicks(a.pid)
		if err != nil {
			return nil, fmt.Errorf("load of %s on %s: %w", a.unit.Unit, a.unit.Host, err)
		}
		a.unit.For = time.Since(a.began).Seconds()
		a.unit.CPU = float64(now-a.ticks) / userHz / a.unit.For
		out = append(out, a.unit)
	}
	return out, nil
}

// userHz is the unit of /proc/PID/stat on every Linux (sysconf(_SC_CLK_TCK)).
const userHz = 100

// cpuTicks is what a process has used of all cores so far, in the kernel and out
// of it.
func cpuTicks(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	var user, system uint64
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, data)
	}
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, fmt.Errorf("/proc/%d/stat: %q: %w", pid, data, err)
	}
	return user + system, nil
}

// resident is a process's resident memory in bytes.
func resident(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
		return 0, fmt.Errorf("/proc/%d/statm: %q: %w", pid, data, err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// Print writes the loads as a table, a host on a line.
func (ls Loads) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tAGENT\t\tSTORE\t\tBOTH\t")
	hosts := map[string]map[string]UnitLoad{}
	var order []string
	for _, u := range ls {
		if hosts[u.Host] == nil {
			hosts[u.Host] = map[string]UnitLoad{}
			order = append(order, u.Host)
		}
		hosts[u.Host][u.Unit] = u
	}
	tell := func(u UnitLoad) string { return fmt.Sprintf("%.1f %%\t%d MB", 100*u.CPU, u.RSS>>20) }
	for _, h := range order {
		a, q := hosts[h][service.AgentUnit], hosts[h][service.QuorumUnit]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", h, tell(a), tell(q), tell(UnitLoad{CPU: a.CPU + q.CPU, RSS: a.RSS + q.RSS}))
	}
	return w.Flush()
}
