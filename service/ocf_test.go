package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestMain lets the test's own binary answer to the names of the shims, as Mainstay's does,
// and be the first process of a machine that was booted for it.
func TestMain(m *testing.M) {
	if code, is := Shim(os.Args, os.Stdout, os.Stderr); is {
		os.Exit(code)
	}
	if os.Getpid() == 1 {
		drbdMachine()
	}
	os.Exit(m.Run())
}

// daemonAgent is a resource agent that runs a real process.
const daemonAgent = `#!/bin/sh
dir=$OCF_RESKEY_dir
[ -e "$dir/hang" ] && [ "$1" != meta-data ] && exec sleep 1000
env | grep -E '^(OCF_|HA_)' | sort >"$dir/env.$1" 2>/dev/null
[ -e "$dir/code.$1" ] && { echo "ocf-exit-reason:told to fail" >&2; echo "one line more" >&2; exit "$(cat "$dir/code.$1")"; }
case $1 in
meta-data) cat <<END
<?xml version="1.0"?>
<resource-agent name="daemon"><parameters>
<parameter name="dir" required="1"><shortdesc lang="en">where it keeps
its files</shortdesc><content type="string"/></parameter>
<parameter name="pid"><shortdesc>pid file</shortdesc><content type="string"/></parameter>
<parameter name="count"><shortdesc>a number</shortdesc><content type="integer" default="1"/></parameter>
<parameter name="check_passwd"><shortdesc>a password</shortdesc><content type="string"/></parameter>
</parameters><actions>
<action name="start" timeout="20s"/><action name="stop" timeout="2s"/><action name="monitor" timeout="2s"/><action name="monitor" timeout="1min" depth="10"/>
</actions></resource-agent>
END
;;
start) setsid sleep 1000 </dev/null & echo $! >"$OCF_RESKEY_pid" ;;
stop) [ -e "$OCF_RESKEY_pid" ] && kill "$(cat "$OCF_RESKEY_pid")"; rm -f "$OCF_RESKEY_pid" ;;
monitor) [ -e "$OCF_RESKEY_pid" ] || exit 7 ;;
*) exit 3 ;;
esac
`

// ocfEnv is a host's agents for a test, with a directory for what they keep.
func ocfEnv(t *testing.T, agents map[string]string) Env {
	t.Helper()
	dir := t.TempDir()
	env := Env{OCF: filepath.Join(dir, "root"), OCFTemp: filepath.Join(dir, "tmp"), Shims: filepath.Join(dir, "shims"), Kept: filepath.Join(dir, "kept"), Held: filepath.Join(dir, "held")}
	for name, text := range agents {
		path := filepath.Join(env.OCF, "resource.d", "test", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), writeProgram(path, text)); err != nil {
			t.Fatal(err)
		}
	}
	return env
}

func ocfSubject(t *testing.T) subject {
	env := ocfEnv(t, map[string]string{"daemon": daemonAgent})
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "pid")
	t.Cleanup(func() {
		if raw, err := os.ReadFile(pidFile); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	return subject{
		service: fleet.Service{Params: map[string]string{"agent": "ocf:test:daemon", "dir": dir, "pid": pidFile, "op_monitor": "2s"}},
		env:     env,
		hang: func() {
			if err := os.WriteFile(filepath.Join(dir, "hang"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// openOCFSubject opens the daemon's copy and says where it keeps its files.
func openOCFSubject(t *testing.T, mode fleet.Mode, params map[string]string) (Copy, string) {
	t.Helper()
	s := ocfSubject(t)
	for k, v := range params {
		s.service.Params[k] = v
	}
	s.service.Name, s.service.Kind, s.service.Mode = "thing", "ocf", mode
	s.service.Restarts = fleet.Restarts{Count: 3, Within: time.Hour}
	c, err := Open(s.service, s.env)
	if err != nil {
		t.Fatal(err)
	}
	return c, s.service.Params["dir"]
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOCFCodes: what each return code of monitor means, with the agent's own reason.
func TestOCFCodes(t *testing.T) {
	t.Parallel()
	c, dir := openOCFSubject(t, fleet.ActivePassive, nil)
	for code, want := range map[int]fleet.ServiceState{
		0: {Phase: fleet.Running}, 8: {Phase: fleet.Running}, 190: {Phase: fleet.Running, Why: "told to fail"},
		1: {Phase: fleet.Running, Stuck: true}, 9: {Phase: fleet.Running, Stuck: true}, 42: {Phase: fleet.Running, Stuck: true},
		5: {Phase: fleet.Absent}, 2: {Phase: fleet.Unknown}, 3: {Phase: fleet.Unknown}, 4: {Phase: fleet.Unknown}, 6: {Phase: fleet.Unknown},
	} {
		put(t, filepath.Join(dir, "code.monitor"), strconv.Itoa(code))
		st, err := c.State(t.Context())
		if err != nil || st.Phase != want.Phase || st.Stuck != want.Stuck || st.Role != "" {
			t.Errorf("code %d: %+v, %v; want %+v", code, st, err, want)
		}
		if code != 0 && code != 8 && !strings.Contains(st.Why, "told to fail") {
			t.Errorf("code %d: Why = %q, without the agent's reason", code, st.Why)
		}
		if ready, _, err := c.Ready(t.Context()); err != nil || ready != (want.Phase == fleet.Running && !want.Stuck) {
			t.Errorf("code %d: Ready = %v, %v", code, ready, err)
		}
	}
}

// TestOCFFailures: a start, a stop and a copy that ended by itself are told apart, and
// what fails again and again is counted.
func TestOCFFailures(t *testing.T) {
	t.Parallel()
	c, dir := openOCFSubject(t, fleet.ActivePassive, nil)
	ctx := t.Context()
	put(t, filepath.Join(dir, "code.start"), "1")
	for n := range 3 {
		if err := c.Start(ctx); err == nil || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "told to fail") {
			t.Fatalf("a start that fails: %v", err)
		}
		if st, err := c.State(ctx); err != nil || st.Phase != fleet.Failed || st.Restarts != n {
			t.Fatalf("after %d starts: %+v, %v", n+1, st, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "code.start")); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "code.stop"), "1")
	if err := c.Stop(ctx); err == nil || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "told to fail") {
		t.Fatalf("a stop that fails gave its word: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "code.stop")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err = errors.Join(err, syscall.Kill(pid, syscall.SIGKILL), os.Remove(filepath.Join(dir, "pid"))); err != nil {
		t.Fatal(err)
	}
	if st, err := c.State(ctx); err != nil || st.Phase != fleet.Failed || !strings.Contains(st.Why, "runs no more") {
		t.Errorf("one that ended by itself: %+v, %v", st, err)
	}
	if err := c.Stop(ctx); err != nil {
		t.Errorf("stop of one that ended by itself: %v", err)
	}
	if st, err := c.State(ctx); err != nil || st.Phase != fleet.Stopped {
		t.Errorf("after its stop: %+v, %v", st, err)
	}
}

// TestOCFDeadline: an agent's whole process group ends at its deadline, its own
// advice unless the site's file gives one, and the outcome is unknown.
func TestOCFDeadline(t *testing.T) {
	t.Parallel()
	c, _ := openOCFSubject(t, fleet.ActivePassive, map[string]string{"op_start": "300ms"})
	o := c.(*ocfCopy)
	for action, want := range map[string]time.Duration{"start": 300 * time.Millisecond, "stop": 2 * time.Second, "monitor": 2 * time.Second, "promote": 20 * time.Second} {
		if got := o.limit(action); got != want {
			t.Errorf("%s may take %v, want %v", action, got, want)
		}
	}
	child := filepath.Join(t.TempDir(), "child")
	env := ocfEnv(t, map[string]string{"slow": `#!/bin/sh
[ $1 = meta-data ] && echo '<resource-agent><actions><action name="start"/><action name="stop"/><action name="monitor"/></actions></resource-agent>' && exit 0
[ $1 = monitor ] && exit 7
sleep 1000 & echo $! >` + child + `; wait
`})
	slow, err := Open(fleet.Service{Name: "thing", Kind: "ocf", Params: map[string]string{"agent": "test:slow", "op_start": "500ms"}}, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := slow.Start(t.Context()); !errors.Is(err, ErrUnknown) {
		t.Errorf("a start past its deadline: %v; want ErrUnknown", err)
	}
	raw, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C { // killed, and reaped by whoever inherits it
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || bytes.Contains(stat, []byte(") Z ")) {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("a child of it lives on")
		}
	}
}

// TestOCFEnvironment: what the API and Pacemaker promise an agent.
func TestOCFEnvironment(t *testing.T) {
	t.Parallel()
	c, dir := openOCFSubject(t, fleet.ActiveActive, map[string]string{"count": "7"})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer c.Stop(context.Background())
	raw, err := os.ReadFile(filepath.Join(dir, "env.start"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"OCF_ROOT=/", "OCF_RA_VERSION_MAJOR=1", "OCF_RA_VERSION_MINOR=1", "OCF_RESOURCE_INSTANCE=thing", "OCF_RESOURCE_TYPE=daemon", "OCF_RESOURCE_PROVIDER=test",
		"OCF_RESKEY_count=7", "OCF_RESKEY_CRM_meta_timeout=20000", "OCF_RESKEY_CRM_meta_interval=0", "OCF_RESKEY_CRM_meta_name=start", "OCF_RESKEY_CRM_meta_clone_max=2", "HA_RSCTMP=/", "HA_SBIN_DIR=/"} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("the agent's start is not told %s:\n%s", want, raw)
		}
	}
	if strings.Contains(string(raw), "OCF_RESKEY_agent") {
		t.Error("the agent is told our own parameters")
	}
	if _, err := c.State(t.Context()); err != nil {
		t.Fatal(err)
	}
	if raw, _ = os.ReadFile(filepath.Join(dir, "env.monitor")); !strings.Contains(string(raw), "CRM_meta_interval=1000") {
		t.Errorf("a monitor of what should run has no interval:\n%s", raw)
	}
}

// TestOCFParams: the agent's metadata is what its parameters are held against.
func TestOCFParams(t *testing.T) {
	env := ocfEnv(t, map[string]string{"daemon": daemonAgent, "broken": "#!/bin/sh\nexit 1\n"})
	password := filepath.Join(t.TempDir(), "password")
	put(t, password, "hunter2\n")
	for name, tc := range map[string]struct {
		mode   fleet.Mode
		params map[string]string
		want   []string
	}{
		"unknown and missing": {params: map[string]string{"agent": "test:daemon", "dri": "/x"}, want: []string{"dri", "ocf:test:daemon has no such parameter; it knows check_passwd_file, count, dir, pid", "dir is missing: where it keeps its files"}},
		"a secret":            {params: map[string]string{"agent": "test:daemon", "dir": "/x", "check_passwd": "hunter2"}, want: []string{"check_passwd_file"}},
		"not promotable":      {mode: fleet.Promoted, params: map[string]string{"agent": "test:daemon", "dir": "/x"}, want: []string{"cannot be promoted"}},
		"broken":              {params: map[string]string{"agent": "test:broken"}, want: []string{"meta-data returned 1"}},
		"elsewhere":           {params: map[string]string{"agent": "test:elsewhere", "x": "y"}},
		"good":                {params: map[string]string{"agent": "ocf:test:daemon", "dir": "/x", "check_passwd_file": password}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Open(fleet.Service{Name: "a", Kind: "ocf", Mode: tc.mode, Params: tc.params}, env)
			if (err != nil) != (len(tc.want) > 0) {
				t.Fatalf("Open: %v", err)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%q is not in, or a secret is in:\n%v", w, err)
				}
			}
			if name == "elsewhere" {
				if st, err := c.State(t.Context()); err != nil || st.Phase != fleet.Absent || !strings.Contains(st.Why, "resource-agents") {
					t.Errorf("State = %+v, %v", st, err)
				}
			}
			if name == "good" {
				env, hidden, err := c.(*ocfCopy).environment("start", time.Second, 0)
				if all := strings.Join(env, "\n"); err != nil || !strings.Contains(all, "OCF_RESKEY_check_passwd=hunter2") || strings.Contains(all, "check_passwd_file") || len(hidden) != 1 {
					t.Errorf("the secret does not reach the agent: %v, %v", hidden, err)
				}
			}
		})
	}
}

// debianOCF is where Debian's packages put agents.
const debianOCF = "/usr/lib/ocf"

func debian(t *testing.T, agent string) {
	t.Helper()
	provider, kind, _ := strings.Cut(agent, ":")
	if _, err := os.Stat(filepath.Join(debianOCF, "resource.d", provider, kind)); err != nil {
		t.Fatalf("no agent %s here: apt-get install resource-agents pacemaker-resource-agents (%v)", agent, err)
	}
}

// TestDebianAgents asks every agent that is installed for its metadata, and sees that
// none has a parameter that is ours.
func TestDebianAgents(t *testing.T) {
	t.Parallel()
	debian(t, "heartbeat:Dummy")
	agents, _ := filepath.Glob(debianOCF + "/resource.d/*/*")
	env := ocfEnv(t, nil).filled()
	env.OCF = debianOCF
	n, timed := 0, 0
	for _, path := range agents {
		if info, err := os.Stat(path); err != nil || info.Mode()&0o111 == 0 {
			continue
		}
		c := &ocfCopy{name: "thing", env: env, agent: ocfAgent{filepath.Base(filepath.Dir(path)), filepath.Base(path), path}}
		m, err := c.describe(t.Context())
		if err != nil {
			t.Logf("%s: %v", c.agent, err)
			continue
		}
		n++
		for _, p := range ocfParams {
			if _, collides := m.param(p.Name); collides {
				t.Errorf("%s has a parameter %s, which is ours", c.agent, p.Name)
			}
		}
		if m.timeout("start") > 0 && m.timeout("monitor") > 0 {
			timed++
		} else {
			t.Logf("%s advises no time-outs", c.agent)
		}
	}
	t.Logf("%d of %d agents describe themselves, %d with time-outs", n, len(agents), timed)
	if n < 100 {
		t.Errorf("only %d of %d agents describe themselves", n, len(agents))
	}
}

// openDebian opens a copy of one of Debian's agents.
func openDebian(t *testing.T, agent string, mode fleet.Mode, params map[string]string) Copy {
	t.Helper()
	debian(t, agent)
	env := ocfEnv(t, nil)
	env.OCF = debianOCF
	given := map[string]string{"agent": agent}
	for k, v := range params {
		given[k] = v
	}
	c, err := Open(fleet.Service{Name: "thing", Kind: "ocf", Mode: mode, Params: given, Restarts: fleet.Restarts{Count: 3, Within: time.Hour}}, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// life takes a copy from stopped to running, kills it, and back to stopped.
func life(t *testing.T, c Copy, runs func() bool) {
	t.Helper()
	ctx := t.Context()
	if err := c.(Validator).Validate(ctx); err != nil {
		t.Errorf("validate-all: %v", err)
	}
	state(t, c, fleet.Stopped)
	for range 2 {
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	state(t, c, fleet.Running)
	if ready, why, err := c.Ready(ctx); !ready || err != nil || !runs() {
		t.Errorf("Ready = %v, %q, %v; it runs: %v", ready, why, err, runs())
	}
	if err := c.Restart(ctx); err != nil || !runs() {
		t.Errorf("Restart: %v; it runs: %v", err, runs())
	}
	for range 2 {
		if err := c.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	state(t, c, fleet.Stopped)
	if runs() {
		t.Error("it runs after Stop")
	}
}

func TestDebianDummy(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state")
	c := openDebian(t, "heartbeat:Dummy", fleet.ActivePassive, map[string]string{"state": file, "fake": "x"})
	exists := func() bool { _, err := os.Stat(file); return err == nil }
	life(t, c, exists)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if st := state(t, c, fleet.Failed); !strings.Contains(st.Why, "No process state file found") {
		t.Errorf("the agent's own reason is lost: %q", st.Why)
	}
}

// TestDebianFilesystem mounts a file system of a file, busy at its stop.
func TestDebianFilesystem(t *testing.T) {
	debian(t, "heartbeat:Filesystem")
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"truncate -s 16M " + image, "mkfs.ext4 -q " + image} {
		if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	out, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup, as root: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", device).Run() })
	c := openDebian(t, "heartbeat:Filesystem", fleet.ActivePassive, map[string]string{"device": device, "directory": at, "fstype": "ext4"})
	t.Cleanup(func() { _ = exec.Command("umount", "-q", at).Run() })
	life(t, c, func() bool { return exec.Command("mountpoint", "-q", at).Run() == nil })
}

// TestDebianIPaddr2 brings an address up in a network namespace of its own.
func TestDebianIPaddr2(t *testing.T) {
	debian(t, "heartbeat:IPaddr2")
	if os.Getenv("MAINSTAY_OCF_NETNS") == "" {
		cmd := exec.Command("unshare", "--net", os.Args[0], "-test.run", "^TestDebianIPaddr2$", "-test.v")
		cmd.Env = append(os.Environ(), "MAINSTAY_OCF_NETNS=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	for _, line := range []string{"ip link set lo up", "ip link add v0 type veth peer name v1", "ip link set v0 up", "ip link set v1 up", "ip addr add 192.0.2.1/24 dev v0"} {
		if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	c := openDebian(t, "heartbeat:IPaddr2", fleet.ActivePassive, map[string]string{"ip": "192.0.2.77", "cidr_netmask": "24", "nic": "v0"})
	life(t, c, func() bool {
		out, err := exec.Command("ip", "-o", "addr", "show", "dev", "v0").Output()
		return err == nil && bytes.Contains(out, []byte("192.0.2.77/24"))
	})
}

// TestDebianStateful promotes and demotes a copy, whose agent tells its score by a shim.
func TestDebianStateful(t *testing.T) {
	t.Parallel()
	for _, agent := range []string{"heartbeat:Stateful", "pacemaker:Stateful"} {
		t.Run(agent, func(t *testing.T) {
			t.Parallel()
			c := openDebian(t, agent, fleet.Promoted, map[string]string{"state": filepath.Join(t.TempDir(), "state")})
			p, ctx := c.(Promoter), t.Context()
			is := func(phase, role string, score int) {
				t.Helper()
				if st := state(t, c, phase); st.Role != role || st.Score != score {
					t.Errorf("it is %s with score %d; want %s, %d", st.Role, st.Score, role, score)
				}
			}
			must := func(what string, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			is(fleet.Stopped, fleet.RoleUnpromoted, 0)
			if err := p.Promote(ctx); err == nil {
				t.Error("what does not run was promoted")
			}
			must("Demote of a stopped copy", p.Demote(ctx))
			must("Start", c.Start(ctx))
			is(fleet.Running, fleet.RoleUnpromoted, 5)
			must("Demote of one that is not promoted", p.Demote(ctx))
			must("Promote", p.Promote(ctx))
			is(fleet.Running, fleet.RolePromoted, 10)
			must("Promote again", p.Promote(ctx))
			must("Start of a promoted copy", c.Start(ctx))
			is(fleet.Running, fleet.RolePromoted, 10)
			must("Demote", p.Demote(ctx))
			is(fleet.Running, fleet.RoleUnpromoted, 5)
			must("Promote", p.Promote(ctx))
			must("Restart", c.Restart(ctx))
			is(fleet.Running, fleet.RoleUnpromoted, 5)
			must("Promote", p.Promote(ctx))
			must("Stop of a promoted copy", c.Stop(ctx))
			is(fleet.Stopped, fleet.RoleUnpromoted, 0)
		})
	}
}

// TestShims: what agents of Debian call, as they call it.
func TestShims(t *testing.T) {
	dir := t.TempDir()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if err := linkShims(filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	call := func(line string) (string, int) {
		words := strings.Fields(strings.ReplaceAll(line, "HOST", host))
		cmd := exec.Command(filepath.Join(dir, "bin", words[0]), words[1:]...)
		cmd.Env = []string{"OCF_RESOURCE_INSTANCE=db", shimRun + "=" + filepath.Join(dir, "reboot"), shimKept + "=" + filepath.Join(dir, "forever")}
		out, err := cmd.Output()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out)), cmd.ProcessState.ExitCode()
	}
	for _, tc := range []struct {
		line, out string
		code      int
	}{
		{"crm_master -G -Q", "", crmNoSuch},
		{"crm_master -Q -l reboot -v 10000", "", 0},
		{"crm_attribute -p -G", "scope=status  name=master-db value=10000", 0},
		{"crm_attribute --promotion -v -INFINITY", "", 0},
		{"crm_master -N HOST -l reboot -G --quiet", "-1000000", 0},
		{"crm_master -l reboot -v better", "", crmUsage},
		{"crm_master -l reboot -D", "", 0},
		{"crm_master -D", "", 0},
		{"crm_master -G", "", crmNoSuch},
		{"crm_attribute -N HOST -l forever --name rmq -v rabbit@c1", "", 0},
		{"crm_attribute -N HOST -l forever --query --name rmq -q", "rabbit@c1", 0},
		{"crm_attribute -N HOST -l reboot --name rmq --quiet", "", crmNoSuch},
		{"crm_attribute -N elsewhere -l reboot --name rmq --quiet", "", crmNoSuch},
		{"crm_attribute --type crm_config --name x -s y --query -q", "", crmError},
		{"crm_attribute -t nodes --node HOST -n ../../x -v 1", "", crmUsage},
		{"attrd_updater -n status -v normal -d 5s", "", 0},
		{"attrd_updater --query -n status -N HOST", fmt.Sprintf("name=%q host=%q value=%q", "status", host, "normal"), 0},
		{"attrd_updater -S state -D -n status", "", 0},
		{"crm_attribute --wish", "", crmUsage},
	} {
		if out, code := call(tc.line); out != tc.out || code != tc.code {
			t.Errorf("%s: %q, %d; want %q, %d", tc.line, out, code, tc.out, tc.code)
		}
	}
	a := attributes{Env{Shims: dir, Kept: filepath.Join(dir, "forever")}, "db"}
	if _, code := call("crm_master -v 7"); code != 0 || (attributes{Env{Shims: filepath.Join(dir, "x")}, "db"}).score() != 0 {
		t.Error("a score from nowhere")
	}
	if err := os.Rename(filepath.Join(dir, "reboot"), filepath.Join(dir, "attributes")); err != nil || a.score() != 7 {
		t.Errorf("score = %d, %v; want 7", a.score(), err)
	}
	looker := ocfCopy{env: Env{Shims: dir, Kept: a.env.Kept, OCFTemp: filepath.Join(dir, "tmp")}, name: "db"}
	if err := looker.LookOn(t.Context()); err != nil || a.score() != 7 {
		t.Errorf("in shadow mode a look costs the agent what it remembers: %d, %v", a.score(), err)
	}
	if err := a.forget(); err != nil || a.score() != 0 {
		t.Errorf("forgotten: score = %d, %v", a.score(), err)
	}
}
