package service

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// fakeSystemd is a systemd of our own on a private bus: it keeps units, does
// jobs, heeds ConditionPathExists in drop-ins as of its last reload, and sends
// the signals.
type fakeSystemd struct {
	t       *testing.T
	dir     string // for the bus
	Units   string // for drop-ins
	Address string

	mu          sync.Mutex
	daemon      *exec.Cmd
	conn        *dbus.Conn
	units       map[string]*fakeUnit
	aliases     map[string]string
	loaded      map[string]string // text of drop-ins as of the last reload, by path
	jobs        uint32
	calls       []string      // methods of the manager, with their unit
	hung        chan struct{} // while not nil, methods that enqueue jobs wait for it
	arrived     chan string   // names each method that waits so
	environment []string      // of what is started; given holds what each start was given
	given       []string
	early       bool // results overtake the answers that name their jobs
}

type fakeUnit struct {
	Load, Active, Sub, Result, Status string
	Exit                              int32
	Restarts                          uint32
	Queued, Conditions                bool
	Processes                         []process
	// What the next jobs do: "" succeeds, "failed" fails, "never" does not end.
	OnStart, OnStop string
	OnKill          string    // "never": what is on its way down does not die, it waits for a disk
	Leaves          []process // processes that a stop leaves behind
	AtStop          func()
}

func newFakeSystemd(t *testing.T) *fakeSystemd {
	t.Helper()
	f := &fakeSystemd{
		t: t, dir: t.TempDir(), Units: t.TempDir(), arrived: make(chan string, 8),
		units: map[string]*fakeUnit{}, aliases: map[string]string{}, loaded: map[string]string{},
	}
	f.Address = "unix:path=" + filepath.Join(f.dir, "bus")
	config := fmt.Sprintf(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>%s</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
</policy></busconfig>`, f.Address)
	if err := os.WriteFile(filepath.Join(f.dir, "bus.conf"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	f.startBus()
	f.join()
	t.Cleanup(f.stopBus)
	return f
}

// startBus runs a bus daemon and returns when it listens.
func (f *fakeSystemd) startBus() {
	f.t.Helper()
	cmd := exec.Command("dbus-daemon", "--config-file="+filepath.Join(f.dir, "bus.conf"), "--nofork", "--print-address=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		f.t.Fatal(err)
	}
	f.daemon = cmd
}

// stopBus ends the daemon, as a crash of it would.
func (f *fakeSystemd) stopBus() {
	if f.daemon != nil {
		_ = f.daemon.Process.Signal(syscall.SIGKILL)
		_ = f.daemon.Wait()
		f.daemon = nil
	}
	_ = os.Remove(filepath.Join(f.dir, "bus"))
}

// freeze and thaw stop the bus daemon and let it go on.
func (f *fakeSystemd) freeze() { _ = f.daemon.Process.Signal(syscall.SIGSTOP) }

func (f *fakeSystemd) thaw() { _ = f.daemon.Process.Signal(syscall.SIGCONT) }

// join connects to the bus as org.freedesktop.systemd1.
func (f *fakeSystemd) join() {
	f.t.Helper()
	conn, err := dbus.Connect(f.Address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	for _, err := range []error{
		conn.Export(fakeManager{f}, managerPath, busName+".Manager"),
		conn.Export(fakeProperties{f}, managerPath, propsIface),
		conn.ExportSubtree(fakeProperties{f}, managerPath+"/unit", propsIface),
	} {
		if err != nil {
			f.t.Fatal(err)
		}
	}
	f.mu.Lock()
	f.conn = conn
	f.mu.Unlock()
	if r, err := conn.RequestName(busName, dbus.NameFlagAllowReplacement|dbus.NameFlagReplaceExisting); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		f.t.Fatal(r, err)
	}
}

// leave disconnects, as a re-exec does.
func (f *fakeSystemd) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conn.Close()
}

// add makes a unit; the zero fields are those of a stopped one.
func (f *fakeSystemd) add(name string, u fakeUnit) *fakeUnit {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range []struct{ field, value *string }{
		{&u.Load, new("loaded")}, {&u.Active, new("inactive")}, {&u.Sub, new("dead")}, {&u.Result, new("success")},
	} {
		if *d.field == "" {
			*d.field = *d.value
		}
	}
	f.units[name] = &u
	return &u
}

// change alters a unit and sends the signal.
func (f *fakeSystemd) change(name string, by func(*fakeUnit)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	by(f.units[name])
	f.emit(name)
}

func (f *fakeSystemd) emit(name string) {
	u := f.units[name]
	_ = f.conn.Emit(unitPath(name), propsIface+".PropertiesChanged", unitIface, map[string]dbus.Variant{
		"ActiveState": dbus.MakeVariant(u.Active), "SubState": dbus.MakeVariant(u.Sub),
	}, []string{})
}

func (f *fakeSystemd) called(prefix string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

func (f *fakeSystemd) resolve(name string) string {
	if to, ok := f.aliases[name]; ok {
		return to
	}
	return name
}

func (f *fakeSystemd) dropIns(name string) []string {
	out := []string{}
	for path := range f.loaded {
		if filepath.Base(filepath.Dir(path)) == name+".d" {
			out = append(out, path)
		}
	}
	return out
}

// barred says whether a condition of the unit is not met.
func (f *fakeSystemd) barred(name string) bool {
	for _, path := range f.dropIns(name) {
		for line := range strings.Lines(f.loaded[path]) {
			if file, ok := strings.CutPrefix(strings.TrimSpace(line), "ConditionPathExists="); ok {
				if _, err := os.Stat(file); err != nil {
					return true
				}
			}
		}
	}
	return false
}

// job does what systemd would: states, signals, result.
func (f *fakeSystemd) job(method, name string) (dbus.ObjectPath, *dbus.Error) {
	f.mu.Lock()
	hung := f.hung
	f.calls = append(f.calls, method+" "+name)
	f.mu.Unlock()
	if hung != nil {
		f.arrived <- method
		<-hung
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	name = f.resolve(name)
	u, ok := f.units[name]
	if !ok {
		return "", dbus.NewError(busName+".NoSuchUnit", []any{"Unit " + name + " not found."})
	}
	f.jobs++
	id, path := f.jobs, dbus.ObjectPath(fmt.Sprintf("%s/job/%d", managerPath, f.jobs))
	work := func() {
		result := "done"
		if method != "StopUnit" {
			f.given = append(f.given, strings.Join(f.environment, " "))
		}
		if method == "StopUnit" || method == "RestartUnit" {
			if u.AtStop != nil {
				u.AtStop()
			}
			u.Active, u.Sub = "deactivating", "stop-sigterm"
			f.emit(name)
			if u.OnStop == "never" {
				return
			}
			u.Active, u.Sub, u.Processes = "inactive", "dead", u.Leaves
			if u.OnStop == "failed" {
				u.Active, u.Sub, u.Result = "failed", "failed", "timeout"
			}
			f.emit(name)
		}
		if method == "StartUnit" || method == "RestartUnit" {
			switch {
			case u.Active == "active":
			case f.barred(name):
				u.Conditions = false
			case u.OnStart == "never":
				u.Active, u.Sub = "activating", "start"
				f.emit(name)
				return
			case u.OnStart == "failed":
				u.Active, u.Sub, u.Result, u.Exit = "failed", "failed", "exit-code", 1
				result = "failed"
				f.emit(name)
			default:
				u.Active, u.Sub, u.Result, u.Conditions = "active", "running", "success", true
				u.Processes = []process{{"/" + name, 1000 + id, "/usr/bin/daemon --password=secret"}}
				f.emit(name)
			}
		}
		_ = f.conn.Emit(managerPath, busName+".Manager.JobRemoved", id, path, name, result)
	}
	if f.early {
		work()
		return path, nil
	}
	go func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		work()
	}()
	return path, nil
}

type fakeManager struct{ f *fakeSystemd }

func (m fakeManager) Subscribe() *dbus.Error { return nil }

func (m fakeManager) StartUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.f.job("StartUnit", name)
}

func (m fakeManager) StopUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.f.job("StopUnit", name)
}

func (m fakeManager) RestartUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.f.job("RestartUnit", name)
}

func (m fakeManager) ReloadUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.f.job("ReloadUnit", name)
}

func (m fakeManager) ResetFailedUnit(name string) *dbus.Error {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	m.f.calls = append(m.f.calls, "ResetFailedUnit "+name)
	if u := m.f.units[name]; u.Active == "failed" {
		u.Active, u.Sub = "inactive", "dead"
	}
	return nil
}

func (m fakeManager) SetEnvironment(all []string) *dbus.Error {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	for _, x := range all {
		name, _, _ := strings.Cut(x, "=")
		m.f.environment = append(slices.DeleteFunc(m.f.environment, func(old string) bool { return strings.HasPrefix(old, name+"=") }), x)
	}
	return nil
}

func (m fakeManager) UnsetEnvironment(names []string) *dbus.Error {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	for _, name := range names {
		m.f.environment = slices.DeleteFunc(m.f.environment, func(old string) bool { return strings.HasPrefix(old, name+"=") })
	}
	return nil
}

// KillUnit ends what runs or starts, as SIGKILL does.
func (m fakeManager) KillUnit(name, _ string, _ int32) *dbus.Error {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	m.f.calls = append(m.f.calls, "KillUnit "+name)
	if u := m.f.units[name]; u.Active == "activating" || u.Active == "active" || u.Active == "deactivating" && u.OnKill != "never" {
		u.Active, u.Sub, u.Result, u.Processes = "failed", "failed", "signal", nil
		m.f.emit(name)
	}
	return nil
}

func (m fakeManager) EnableUnitFiles(names []string, runtime, force bool) (bool, [][]string, *dbus.Error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	m.f.calls = append(m.f.calls, "EnableUnitFiles "+strings.Join(names, " "))
	return true, nil, nil
}

func (m fakeManager) Reload() *dbus.Error {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	m.f.calls = append(m.f.calls, "Reload")
	clear(m.f.loaded)
	paths, _ := filepath.Glob(filepath.Join(m.f.Units, "*.d", "*.conf"))
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			return dbus.MakeFailedError(err)
		}
		m.f.loaded[p] = string(text)
	}
	_ = m.f.conn.Emit(managerPath, busName+".Manager.Reloading", false)
	return nil
}

func (m fakeManager) GetUnitProcesses(name string) ([]process, *dbus.Error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	u, ok := m.f.units[m.f.resolve(name)]
	if !ok {
		return nil, dbus.NewError(busName+".NoSuchUnit", []any{"Unit " + name + " not loaded."})
	}
	return u.Processes, nil
}

type fakeProperties struct{ f *fakeSystemd }

func (p fakeProperties) Get(msg dbus.Message, iface, name string) (dbus.Variant, *dbus.Error) {
	if name == "Environment" {
		p.f.mu.Lock()
		defer p.f.mu.Unlock()
		return dbus.MakeVariant(slices.Clone(p.f.environment)), nil
	}
	return dbus.MakeVariant("252.39-1~deb12u2"), nil
}

func (p fakeProperties) GetAll(msg dbus.Message, iface string) (map[string]dbus.Variant, *dbus.Error) {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	p.f.calls = append(p.f.calls, "GetAll "+iface)
	path := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	name := ""
	u := &fakeUnit{Load: "not-found", Active: "inactive", Sub: "dead"}
	for n, v := range p.f.units {
		if unitPath(n) == path {
			name, u = n, v
		}
	}
	for n, to := range p.f.aliases {
		if unitPath(n) == path {
			name, u = to, p.f.units[to]
		}
	}
	if iface == svcIface {
		return map[string]dbus.Variant{
			"Result": dbus.MakeVariant(u.Result), "StatusText": dbus.MakeVariant(u.Status),
			"ExecMainStatus": dbus.MakeVariant(u.Exit), "NRestarts": dbus.MakeVariant(u.Restarts),
		}, nil
	}
	job := struct {
		ID   uint32
		Path dbus.ObjectPath
	}{0, "/"}
	if u.Queued {
		job.ID = 7
	}
	return map[string]dbus.Variant{
		"Id": dbus.MakeVariant(name), "LoadState": dbus.MakeVariant(u.Load), "ActiveState": dbus.MakeVariant(u.Active),
		"SubState": dbus.MakeVariant(u.Sub), "ConditionResult": dbus.MakeVariant(u.Conditions),
		"NeedDaemonReload": dbus.MakeVariant(false), "DropInPaths": dbus.MakeVariant(p.f.dropIns(name)), "Job": dbus.MakeVariant(job),
	}, nil
}
