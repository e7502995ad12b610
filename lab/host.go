package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds what normally takes milliseconds.
const patience = 20 * time.Second

// PowerState is where a host's power switch stands, and why.
type PowerState string

// Power states.
const (
	PowerOn  PowerState = "on"
	PowerOff PowerState = "off" // its BMC answers
	PowerCut PowerState = "cut" // its BMC is dead too
)

// power is kept in a host's power.json, written before the deed that it names.
// Whether the host runs is never read there, but from its processes.
type power struct {
	State PowerState `json:"state"`
}

// Deed is something that was done to a host. It fell between At and At plus Took.
type Deed struct {
	Verb  string        `json:"verb"`
	Host  string        `json:"host"`
	Args  []string      `json:"args,omitempty"`
	At    time.Time     `json:"at"`
	Took  time.Duration `json:"took"`
	Error string        `json:"error,omitempty"`
}

// do carries out a deed and writes it into the lab's history. f sets At anew when
// it had to wait before it could begin.
func (l *Lab) do(verb, host string, args []string, f func(d *Deed) error) (Deed, error) {
	d := Deed{Verb: verb, Host: host, Args: args, At: time.Now()}
	err := f(&d)
	d.Took = time.Since(d.At)
	if err != nil {
		err = fmt.Errorf("%s %s: %w", verb, host, err)
		d.Error = err.Error()
	}
	line, _ := json.Marshal(d)
	h, herr := os.OpenFile(l.Path("deeds.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if herr == nil {
		_, herr = h.Write(append(line, '\n'))
		herr = errors.Join(herr, h.Close())
	}
	return d, errors.Join(err, herr)
}

// Deeds returns all that was done to the lab's hosts, the earliest first,
// whichever process or BMC did it.
func (l *Lab) Deeds() ([]Deed, error) {
	data, err := os.ReadFile(l.Path("deeds.jsonl"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Deed
	for line := range bytes.Lines(data) {
		var d Deed
		if err := json.Unmarshal(line, &d); err != nil {
			return nil, fmt.Errorf("read the lab's history: %w", err)
		}
		out = append(out, d)
	}
	return out, nil
}

// hostPath returns the path of a file of a host's state directory.
func (l *Lab) hostPath(m Machine, elem ...string) string {
	return l.Path(append([]string{"hosts", m.Name}, elem...)...)
}

// holdHost makes sure that only one process at a time works at a host's power.
func (l *Lab) holdHost(ctx context.Context, host string) (unlock func(), err error) {
	m := Machine{Name: host}
	if err := os.MkdirAll(l.hostPath(m), 0o755); err != nil {
		return nil, err
	}
	return hold(ctx, l.hostPath(m, "lock"))
}

func (l *Lab) power(host string) (power, error) {
	p := power{State: PowerOff}
	return p, readJSON(l.hostPath(Machine{Name: host}, "power.json"), &p)
}

func (l *Lab) setPower(host string, s PowerState) error {
	return writeJSON(l.hostPath(Machine{Name: host}, "power.json"), power{s})
}

// Powered says whether a host is running, by looking at its processes.
func (l *Lab) Powered(host string) (bool, error) {
	if _, err := l.powered(host); err != nil {
		return false, err
	}
	procs, err := l.processes(host)
	return len(procs) > 0, err
}

// Start gives a host power, or gives it back after Kill, and returns when its
// systemd is being started; Booted waits for more. A host that runs is left
// alone.
func (l *Lab) Start(ctx context.Context, host string) (Deed, error) {
	return l.do("start", host, nil, func(d *Deed) error {
		m, err := l.powered(host)
		if err != nil {
			return err
		}
		unlock, err := l.holdHost(ctx, host)
		if err != nil {
			return err
		}
		defer unlock()
		now, err := Open(l.Name)
		if err != nil {
			return err
		}
		if now.Closing {
			return fmt.Errorf("lab %s is being taken down", l.Name)
		}
		if on, err := l.Powered(host); err != nil {
			return err
		} else if on {
			return nil
		}
		// Whatever ended it, begin from nothing: after a crash of ours, or after the
		// host shut itself down, parts of it are left.
		if err := l.demolish(ctx, m); err != nil {
			return err
		}
		if err := l.setPower(host, PowerOn); err != nil {
			return err
		}
		if err := l.bmcAddress(m, true); err != nil {
			return err
		}
		return l.boot(ctx, m)
	})
}

// boot mounts the disk, plugs the cables in and starts systemd.
func (l *Lab) boot(ctx context.Context, m Machine) error {
	if err := l.mountDisk(m, l.hostPath(m, "disk.img")); err != nil {
		return err
	}
	if err := l.makeNamespace(m); err != nil {
		return err
	}
	console, err := os.OpenFile(l.hostPath(m, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	// The shell puts itself into the host's cgroups; otherwise all hosts' systemd
	// would share one and see each other's services. setsid --fork: the host is
	// nobody's child and outlives us. nspawn is started inside the namespace: told
	// to enter it by itself, it would give the host the machine's /sys.
	script := `for d; do [ "$d" = -- ] && break; echo $$ >"$d/cgroup.procs" || exit; shift; done; shift; exec "$@"`
	args := append([]string{"--fork", "sh", "-c", script, "sh"}, l.makeCgroups(m.Name)...)
	args = append(args, "--", "nsenter", "--net="+l.netns(m.Name), "systemd-nspawn",
		"--quiet", "--boot", "--directory="+l.hostPath(m, "root"),
		"--machine="+l.Name+"-"+m.Name, "--hostname="+m.Name, "--uuid="+m.UUID,
		"--register=no", "--keep-unit", "--kill-signal=SIGRTMIN+3",
		"--capability=all", "--system-call-filter=@keyring @module bpf perf_event_open",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only")
	for _, d := range m.Devices {
		args = append(args, "--bind="+d)
	}
	cmd := command(ctx, "setsid", args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = console, console
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TERM=dumb",
		"SYSTEMD_NSPAWN_API_VFS_WRITABLE=1", // sysctls and /sys of its own network
		"UNIFIED_CGROUP_HIERARCHY=1",        // the same inside, whatever the machine has
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("start systemd-nspawn: %w", cause(ctx, err))
	}
	seen := false
	return waitFor(ctx, patience, "its first process (see "+console.Name()+")", func() (bool, error) {
		if p, err := l.leader(m.Name); p != nil || err != nil {
			return true, err
		}
		on, err := l.Powered(m.Name)
		if err == nil && seen && !on {
			said, _ := l.Console(m.Name, 5)
			err = fmt.Errorf("systemd-nspawn ended: %s", strings.TrimSpace(said))
		}
		seen = seen || on
		return false, err
	})
}

// Booted waits until systemd on a host has finished its boot and returns its
// state: running, or degraded if units failed. Only ctx bounds it.
func (l *Lab) Booted(ctx context.Context, host string) (state string, err error) {
	err = waitFor(ctx, 24*time.Hour, host+" to boot", func() (bool, error) {
		p, err := l.leader(host)
		if err != nil {
			return false, err
		}
		if p == nil {
			return false, fmt.Errorf("it is not running; see %s", l.hostPath(Machine{Name: host}, "console.log"))
		}
		// Before its socket is there, systemctl could only fail.
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/root/run/systemd/private", p.pid)); errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		out, err := l.Run(ctx, host, "systemctl", "is-system-running", "--wait")
		state = strings.TrimSpace(out)
		if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
			return false, err
		}
		return state == "running" || state == "degraded", nil
	})
	if err != nil {
		return state, fmt.Errorf("boot of %s: %w", host, err)
	}
	return state, nil
}

// Kill is a power cut: in this order the host falls silent, forgets what it had
// not fsynced, and ends; its BMC ends with it. Start brings the power back.
func (l *Lab) Kill(ctx context.Context, host string) (Deed, error) {
	return l.lose(ctx, "kill", host, PowerCut)
}

// PowerOff is what the host's BMC does when told ForceOff: the same as Kill, but
// the BMC stays and says that the host is off.
func (l *Lab) PowerOff(ctx context.Context, host string) (Deed, error) {
	return l.lose(ctx, "poweroff", host, PowerOff)
}

func (l *Lab) lose(ctx context.Context, verb, host string, s PowerState) (Deed, error) {
	return l.do(verb, host, nil, func(d *Deed) error {
		m, err := l.powered(host)
		if err != nil {
			return err
		}
		unlock, err := l.holdHost(ctx, host)
		if err != nil {
			return err
		}
		defer unlock()
		if p, err := l.power(host); err != nil {
			return err
		} else if p.State == PowerCut {
			s = PowerCut // no power cannot become less
		}
		if err := l.setPower(host, s); err != nil {
			return err
		}
		d.At = time.Now()
		return errors.Join(l.silence(m), l.bmcAddress(m, s != PowerCut), l.demolish(ctx, m))
	})
}

// demolish takes from a host, which may be the client, all that it has but its
// disk's image: cables, file system, processes, namespace, mounts. Only a host
// that had ended by itself keeps what it had not yet written.
func (l *Lab) demolish(ctx context.Context, m Machine) error {
	err := l.silence(m)
	p, perr := l.power(m.Name)
	procs, lerr := l.processes(m.Name)
	if p.State != PowerOn || len(procs) > 0 {
		err = errors.Join(err, l.cutDisk(m))
	}
	if err := errors.Join(err, perr, lerr, l.killAll(ctx, m.Name)); err != nil {
		return err
	}
	if err := l.removeNamespace(ctx, m.Name); err != nil {
		return err
	}
	if err := l.unmountDisk(ctx, m); err != nil {
		return err
	}
	return l.removeHostCgroups(ctx, m.Name)
}

// Renew puts a new machine in a host's place: under the same name, on the same
// cables and with the same BMC, but with an empty disk but for the files given. It
// returns when that has booted.
func (l *Lab) Renew(ctx context.Context, host string, files map[string]File) (Deed, error) {
	if _, err := l.Kill(ctx, host); err != nil {
		return Deed{}, err
	}
	return l.do("renew", host, nil, func(*Deed) error {
		m, err := l.powered(host)
		if err != nil {
			return err
		}
		if err := os.Remove(l.hostPath(m, "disk.img")); err != nil {
			return err
		}
		if err := l.makeDisk(ctx, m, files); err != nil {
			return err
		}
		if _, err := l.Start(ctx, host); err != nil {
			return err
		}
		_, err = l.Booted(ctx, host)
		return err
	})
}

// Hang stops processes with SIGSTOP, as a host or a service that hangs, or Disk:
// then every write and fsync of the host waits, until Resume. Otherwise what is
// All (the whole host; its kernel still answers ping, as a hung one's does), a
// unit, "UNIT#N" for the N-th process of it by age counted from 0, or "pid:A,B" as
// numbers of this machine. Processes that these start meanwhile are stopped too.
func (l *Lab) Hang(ctx context.Context, host, what string) (Deed, error) {
	return l.signalAll(ctx, "hang", host, what, unix.SIGSTOP)
}

// Resume lets what Hang stopped go on.
func (l *Lab) Resume(ctx context.Context, host, what string) (Deed, error) {
	return l.signalAll(ctx, "resume", host, what, unix.SIGCONT)
}

func (l *Lab) signalAll(ctx context.Context, verb, host, what string, sig unix.Signal) (Deed, error) {
	if what == "" {
		what = All
	}
	return l.do(verb, host, []string{what}, func(d *Deed) error {
		m, err := l.powered(host)
		if err != nil {
			return err
		}
		if what == Disk {
			return l.freeze(m, sig == unix.SIGSTOP)
		}
		done := map[int]bool{}
		return waitFor(ctx, patience, "all of "+what+" to take the signal", func() (bool, error) {
			reached, err := signalEach(sig, done, func() ([]int, error) { return l.Processes(host, what) })
			for _, p := range reached {
				p.close()
			}
			if err == nil && len(done) == 0 {
				err = fmt.Errorf("%s has no process", what)
			}
			if err != nil || len(reached) > 0 {
				return false, err // until a look finds no new one
			}
			for pid := range done {
				if s, err := stat(pid); err == nil && sig == unix.SIGSTOP && strings.IndexByte("TtZX", s.state) < 0 {
					return false, nil
				}
			}
			return true, nil
		})
	})
}

// FailDisk makes a running host's disk fail: each write, and each read of what is
// not in memory, is an error from now on, while the host runs on. Only a power
// cut or PowerOff, and Start, give it a sound disk again, without what had not
// been fsynced.
func (l *Lab) FailDisk(ctx context.Context, host string) (Deed, error) {
	return l.do("faildisk", host, nil, func(d *Deed) error {
		m, err := l.powered(host)
		if err != nil {
			return err
		}
		unlock, err := l.holdHost(ctx, host)
		if err != nil {
			return err
		}
		defer unlock()
		if !isMount(l.hostPath(m, "disk")) {
			return errors.New("the host is not running")
		}
		d.At = time.Now()
		return l.cutDisk(m)
	})
}

// watch notices that a host ended by itself, by systemctl poweroff for example,
// and takes the rest away: until then its addresses would go on answering.
func (l *Lab) watch(ctx context.Context, m Machine) {
	for tick := time.Tick(500 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		if p, err := l.power(m.Name); err != nil || p.State != PowerOn {
			continue
		}
		if leader, err := l.leader(m.Name); err != nil || leader != nil {
			continue
		}
		if err := l.tidy(ctx, m); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, err) // the lab's bmc.log; tried again
		}
	}
}

// tidy ends what is left of a host that should have power and has no process.
func (l *Lab) tidy(ctx context.Context, m Machine) error {
	unlock, err := l.holdHost(ctx, m.Name)
	if err != nil {
		return err
	}
	defer unlock()
	// Now that nobody else is at it: is it so still?
	p, err := l.power(m.Name)
	if err != nil || p.State != PowerOn {
		return err
	}
	if on, err := l.Powered(m.Name); err != nil || on {
		return err
	}
	_, err = l.do("ended", m.Name, nil, func(*Deed) error {
		return errors.Join(l.demolish(ctx, m), l.setPower(m.Name, PowerOff))
	})
	return err
}
