package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Guest is a server as a hypervisor has it, whatever Nova believes.
type Guest struct {
	Host    string
	Server  string // Nova's id
	Running bool
	Boot    string // which boot of it, where the hypervisor is a fake one
}

// Guests asks every compute that has power what it really runs: a real one by its
// processes, so that a libvirt that hangs or forgets cannot mislead; a fake one by its
// hypervisor's own memory. Neither Nova nor Mainstay is asked.
func (o *OpenStack) Guests(ctx context.Context) ([]Guest, error) {
	var out []Guest
	for _, host := range o.Computes() {
		on, err := o.Powered(host)
		if err != nil {
			return nil, err
		}
		if !on {
			continue
		}
		list := o.processGuests
		if o.release.roles[host] == RoleFake {
			list = o.fakeGuests
		}
		guests, err := list(host)
		if err != nil {
			return nil, fmt.Errorf("guests of %s: %w", host, err)
		}
		out = append(out, guests...)
	}
	return out, ctx.Err()
}

func (o *OpenStack) fakeGuests(host string) ([]Guest, error) {
	dir, err := o.HostPath(host)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(dir + guestsDir + "/guests")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // none so far
	}
	var told map[string]struct {
		State int    `json:"state"`
		Boot  string `json:"boot"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &told)
	}
	var out []Guest
	for id, g := range told {
		out = append(out, Guest{Host: host, Server: id, Running: g.State == 1, Boot: g.Boot})
	}
	return out, err
}

func (o *OpenStack) processGuests(host string) ([]Guest, error) {
	all, err := o.processes(host)
	if err != nil {
		return nil, err
	}
	var out []Guest
	for _, pid := range all {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(line), "\x00")
		if i := slices.Index(args, "-uuid"); i > 0 && i+1 < len(args) && strings.HasPrefix(filepath.Base(args[0]), "qemu-system") {
			out = append(out, Guest{Host: host, Server: args[i+1], Running: true})
		}
	}
	return out, nil
}

// Libvirt asks a real compute's libvirt for the servers that it runs.
func (o *OpenStack) Libvirt(ctx context.Context, host string) ([]string, error) {
	out, err := o.Run(ctx, host, "virsh", "--connect", "qemu:///system", "list", "--uuid")
	return strings.Fields(out), err
}

// Tick is one word of the tiny guest: which boot of it speaks, and for how many seconds
// it has.
type Tick struct {
	Boot string
	N    int
}

// localInstances is where a real compute has its guests whose instances are its own affair.
const localInstances = "/var/lib/nova/instances"

// Ticks reads what a real server has said on its console, as it lies on the shared
// storage, or on the disk of its compute.
func (o *OpenStack) Ticks(server string) ([]Tick, error) {
	var raw []byte
	dir, err := o.HostPath(storageHost)
	if err == nil {
		raw, err = os.ReadFile(filepath.Join(dir, Shared, "instances", server, "console.log"))
	}
	for _, host := range o.release.with(RoleReal) {
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if on, failed := o.HostPath(host); failed == nil {
			raw, err = os.ReadFile(filepath.Join(on, localInstances, server, "console.log"))
		}
	}
	if err != nil {
		return nil, err
	}
	var out []Tick
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != "guest" || f[2] != "tick" {
			continue
		}
		if n, err := strconv.Atoi(f[3]); err == nil {
			out = append(out, Tick{Boot: f[1], N: n})
		}
	}
	return out, nil
}

// Ticking waits until a real server says something new, and returns it.
func (o *OpenStack) Ticking(ctx context.Context, server string) (Tick, error) {
	before, _ := o.Ticks(server) // there may be none yet
	var now Tick
	err := waitFor(ctx, siteBound, "the guest "+server+" to tick", func() (bool, error) {
		ticks, _ := o.Ticks(server) // there may be none yet
		if len(ticks) == 0 {
			return false, nil
		}
		now = ticks[len(ticks)-1]
		return len(before) == 0 || now != before[len(before)-1], nil
	})
	return now, err
}

// Once compares Nova with the hypervisors and says what is wrong: a server that should
// run and does not, one that runs twice or elsewhere than Nova says, a guest of nobody.
func (o *OpenStack) Once(ctx context.Context) (wrong []string, err error) {
	servers, err := o.Servers(ctx)
	if err != nil {
		return nil, err
	}
	guests, err := o.Guests(ctx)
	if err != nil {
		return nil, err
	}
	return once(servers, guests), nil
}

func once(servers []Server, guests []Guest) (wrong []string) {
	runs := map[string][]string{}
	for _, g := range guests {
		if g.Running {
			runs[g.Server] = append(runs[g.Server], g.Host)
		}
	}
	for _, s := range servers {
		hosts := runs[s.ID]
		delete(runs, s.ID)
		told := fmt.Sprintf("server %s (%s), %s/%s on %s by Nova's word,", s.Name, s.ID, s.State, s.Task, s.Host)
		switch {
		case s.State == "active" && len(hosts) == 0:
			wrong = append(wrong, told+" runs nowhere")
		case len(hosts) > 1:
			wrong = append(wrong, told+" runs on "+strings.Join(hosts, " and "))
		case s.State == "active" && hosts[0] != s.Host:
			wrong = append(wrong, told+" runs on "+hosts[0])
		case s.State != "active" && s.State != "stopped":
			wrong = append(wrong, told+" is in no state to be in")
		case s.State == "stopped" && len(hosts) > 0:
			wrong = append(wrong, told+" runs on "+hosts[0])
		case s.Task != "":
			wrong = append(wrong, told+" is not done")
		}
	}
	for id, hosts := range runs {
		wrong = append(wrong, fmt.Sprintf("guest %s on %s is no server of Nova's", id, strings.Join(hosts, " and ")))
	}
	slices.Sort(wrong)
	return wrong
}
