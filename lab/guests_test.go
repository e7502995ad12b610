package lab

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// TestGuests lets guests of a real OpenStack crash and hang, and what a compute needs too: a guest whose
// QEMU is killed is started again on its host, and one that hangs, if its owner asks for that and it is
// alone; a libvirt that hangs, a nova-compute of which Nova hears nothing and a directory of disks that is
// read-only or hangs are told, and all but the second keep new servers away; and nobody is fenced for any of it. At last
// a compute dies: who comes after a group waits for its guest agent, and the compute, which starts machines of its own
// when it is back, gets no new servers while it runs them.
func TestGuests(t *testing.T) {
	if !playsOpenStack(t, "three quarters of an hour", "lab-guests") {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	o := newOpenStack(ctx, t, "openstack: {cloud: lab}\n")
	t.Run("everything under Mainstay is ready", o.ready)
	t.Run("the cloud is furnished", o.furnished)
	t.Run("every compute takes a server", o.warm)
	t.Run("guests that tick on real computes", o.ticks)
	if t.Failed() {
		return
	}
	for _, step := range []struct {
		name string
		play func(*testing.T)
	}{
		{"a guest's process is killed", o.guestCrashes},
		{"a guest's process is killed and libvirt with it", o.diesUnseen},
		{"a guest's agent hangs", o.agentHangs},
		{"a guest's kernel panics", o.guestPanics},
		{"the agents of two guests of a host hang at once", o.agentsHang},
		{"libvirt hangs", o.libvirtHangs},
		{"nova-compute hangs", o.novaComputeHangs},
		{"the disks' directory becomes read-only", o.disksReadOnly},
		{"the disks' directory hangs", o.disksHang},
		{"a compute dies, a group waits for a guest's agent, and the compute is back with machines of its own", o.waitsAndReturns},
	} {
		if !t.Run(step.name, step.play) {
			return
		}
	}
}

// process is that of a server's guest on a host.
func (s *openStackSite) process(host, id string) (int, error) {
	all, err := s.lab.processes(host)
	for _, pid := range all {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may have ended
		if args := strings.Split(string(line), "\x00"); strings.Contains(args[0], "qemu-system") && slices.Contains(args, id) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no QEMU of %s on %s: %w", id, host, err)
}

func (s *openStackSite) guestCrashes(t *testing.T) {
	v := s.on(t, "r1")
	before, err := s.cloud.Ticking(s.ctx, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := s.process("r1", v.ID)
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err = waitFor(s.ctx, siteBound, "another boot of the guest to tick", func() (bool, error) {
		ticks, _ := s.cloud.Ticks(v.ID) // the new boot writes the file anew
		return len(ticks) > 0 && ticks[len(ticks)-1].Boot != before.Boot, nil
	})
	took := time.Since(since)
	s.stages(t, since, "r1")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("another boot ticks %v after its process was killed", took.Round(100*time.Millisecond))
	s.unfenced(t, since)
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	if now := s.on(t, "r1"); now.ID != v.ID {
		t.Errorf("on r1 is %+v, not %s", now, v.ID)
	}
	s.exactly(t)
}

// tells waits until a person is told of a compute, with such a word.
func (s *openStackSite) tells(t *testing.T, host, word string, since time.Time) {
	t.Helper()
	s.awaitFrom(t, "c1", host+" to be told of", func(st api.Status) bool {
		return slices.ContainsFunc(st.Waits, func(w fleet.Wait) bool { return w.About == "compute/"+host && strings.Contains(w.For, word) })
	})
	t.Logf("told %v later", time.Since(since).Round(100*time.Millisecond))
}

// closes waits until a compute gets no new servers, with a reason that has such a word, and a
// person is told.
func (s *openStackSite) closes(t *testing.T, host, word string, since time.Time) {
	t.Helper()
	s.tells(t, host, word, since)
	reason := ""
	err := waitFor(s.ctx, siteBound, host+" to get no new servers", func() (bool, error) {
		_, on, why, err := s.enabled(host)
		reason = why
		return err == nil && !on, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("disabled %v later: %s", time.Since(since).Round(100*time.Millisecond), reason)
	if !strings.Contains(reason, word) {
		t.Errorf("the reason %q does not tell of %q", reason, word)
	}
}

func (s *openStackSite) libvirtHangs(t *testing.T) {
	v := s.on(t, "r1")
	deed, err := s.lab.Hang(s.ctx, "r1", "libvirtd.service#0")
	if err != nil {
		t.Fatal(err)
	}
	s.closes(t, "r1", "libvirt", deed.At)
	if _, err := s.cloud.Ticking(s.ctx, v.ID); err != nil {
		t.Errorf("the guest: %v", err)
	}
	back, err := s.lab.Resume(s.ctx, "r1", "libvirtd.service#0")
	if err != nil {
		t.Fatal(err)
	}
	s.awaitEnabled(t, "r1")
	t.Logf("it takes servers again %v after libvirt went on", time.Since(back.At).Round(100*time.Millisecond))
	s.stages(t, deed.At, "r1")
	s.unfenced(t, deed.At)
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.exactly(t)
}

func (s *openStackSite) novaComputeHangs(t *testing.T) {
	v := s.on(t, "r2")
	deed, err := s.lab.Hang(s.ctx, "r2", "nova-compute.service")
	if err != nil {
		t.Fatal(err)
	}
	s.tells(t, "r2", "nova-compute", deed.At)
	if _, err := s.cloud.Ticking(s.ctx, v.ID); err != nil {
		t.Errorf("the guest: %v", err)
	}
	s.awaitFrom(t, "c1", "Nova to hear it again", func(st api.Status) bool {
		return !slices.ContainsFunc(st.Waits, func(w fleet.Wait) bool { return w.About == "compute/r2" })
	})
	t.Logf("Nova hears it again %v after nova-compute hung", time.Since(deed.At).Round(100*time.Millisecond))
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.awaitEnabled(t, "r2")
	s.stages(t, deed.At, "r2")
	s.unfenced(t, deed.At)
	// Nova's own driver may have disabled it for a libvirt that it lost meanwhile ("AUTO"), until it is back.
	for _, e := range s.lab.events(s.ctx) {
		if e.At.After(deed.At) && strings.Contains(e.Text, " shall disable compute/r2: ") && strings.Contains(e.Text, "Nova hears nothing") {
			t.Errorf("r2 was disabled for what Nova does not hear, and gets nothing from it anyway: %s", e.Text)
		}
	}
	s.exactly(t)
}

// unfenced: nobody was fenced since.
func (s *openStackSite) unfenced(t *testing.T, since time.Time) {
	t.Helper()
	for _, e := range s.lab.events(s.ctx) {
		if e.At.After(since) && strings.Contains(e.Text, "will be fenced") {
			t.Error(e.Text)
		}
	}
}

// speaking creates a server on a host whose guest has an agent, and waits until that has answered for as long as it must
// for its silence to count.
func (s *openStackSite) speaking(t *testing.T, host, name string, metadata map[string]string) Server {
	t.Helper()
	id, err := s.cloud.CreateSpeaking(s.ctx, name, RoleReal+":"+host, metadata)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.cloud.Active(s.ctx, id); err != nil {
		t.Fatal(err)
	}
	s.answers(t, host, id, 90)
	return s.server(t, id)
}

// answers waits until a guest's agent answers, and has for so long by the guest's own seconds, of which its agent lacks some.
func (s *openStackSite) answers(t *testing.T, host, id string, seconds int) {
	t.Helper()
	begun, first := time.Now(), -1
	err := waitFor(s.ctx, siteBound, "the agent of "+id+" on "+host+" to answer for a while", func() (bool, error) {
		ticks, _ := s.cloud.Ticks(id) // it may have said nothing so far
		if first < 0 {
			if said, _ := s.toAgent(host, id, "guest-ping", ""); !strings.Contains(said, `"return"`) || len(ticks) == 0 {
				return false, nil
			}
			first = ticks[len(ticks)-1].N
			t.Logf("its agent answers %v later", time.Since(begun).Round(100*time.Millisecond))
		}
		return ticks[len(ticks)-1].N-first >= seconds, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// toAgent puts a question to a guest's agent, as a person would on its host.
func (s *openStackSite) toAgent(host, id, command, arguments string) (string, error) {
	return s.lab.Run(s.ctx, host, "virsh", "--connect", "qemu:///system", "qemu-agent-command", id, `{"execute":"`+command+`"`+arguments+`}`, "--timeout", "10")
}

// inGuest has a guest's agent start a shell with that script.
func (s *openStackSite) inGuest(t *testing.T, host, id, script string) {
	t.Helper()
	if out, err := s.toAgent(host, id, "guest-exec", `,"arguments":{"path":"/bin/sh","arg":["-c","`+script+`"]}`); err != nil {
		t.Fatalf("%s in %s: %v: %s", script, id, err, out)
	}
}

// rebooted is what history tells of reboots since then.
func (s *openStackSite) rebooted(since time.Time) (texts []string) {
	for _, e := range s.lab.events(s.ctx) {
		if e.At.After(since) && (strings.Contains(e.Text, " is rebooted on ") || strings.Contains(e.Text, " is started again on ")) {
			texts = append(texts, e.Text)
		}
	}
	return texts
}

// revived waits until another boot of a guest ticks on its host, and nobody else was rebooted or fenced since.
func (s *openStackSite) revived(t *testing.T, host string, v Server, before Tick, since time.Time) {
	t.Helper()
	err := waitFor(s.ctx, siteBound, "another boot of the guest to tick", func() (bool, error) {
		ticks, _ := s.cloud.Ticks(v.ID) // the new boot writes the file anew
		return len(ticks) > 0 && ticks[len(ticks)-1].Boot != before.Boot, nil
	})
	took := time.Since(since)
	s.stages(t, since, host)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("another boot ticks %v later", took.Round(100*time.Millisecond))
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	if now := s.server(t, v.ID); now.Host != host {
		t.Errorf("%s is on %s", v.Name, now.Host)
	}
	// A Nova that does not answer in time is asked again.
	if all := s.rebooted(since); len(all) == 0 || slices.ContainsFunc(all, func(text string) bool { return !strings.HasPrefix(text, v.Name+" ") }) {
		t.Errorf("reboots: %q", all)
	}
	s.unfenced(t, since)
	s.exactly(t)
}

// diesUnseen kills a guest's QEMU while libvirt is dead too: the next libvirt finds that it is gone.
func (s *openStackSite) diesUnseen(t *testing.T) {
	v := s.on(t, "r1")
	before, err := s.cloud.Ticking(s.ctx, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	libvirt, err := s.lab.Processes("r1", "libvirtd.service#0")
	if err != nil || len(libvirt) != 1 {
		t.Fatal(libvirt, err)
	}
	guest, err := s.process("r1", v.ID)
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	for _, pid := range []int{libvirt[0], guest} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	s.revived(t, "r1", v, before, since)
}

// agentHangs stops the agent of a guest that otherwise runs well; first of one whose owner asks for nothing.
func (s *openStackSite) agentHangs(t *testing.T) {
	v := s.speaking(t, "r1", "speaking", map[string]string{})
	before, err := s.cloud.Ticking(s.ctx, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	s.inGuest(t, "r1", v.ID, "kill -STOP $(pidof qemu-ga)")
	err = waitFor(s.ctx, siteBound, "2 minutes without an answer to pass", func() (bool, error) { return time.Since(since) > 2*time.Minute, nil })
	if err != nil {
		t.Fatal(err)
	}
	if all := s.rebooted(since); len(all) > 0 {
		t.Errorf("nobody asked for it: %q", all)
	}
	asked := time.Now()
	if err := s.cloud.Ask(s.ctx, "compute", "POST", "/servers/"+v.ID+"/metadata", map[string]any{"metadata": map[string]string{fleet.MetaAlive: fleet.CheckAgent}}, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("its owner asks for it %v later", time.Since(since).Round(100*time.Millisecond))
	s.revived(t, "r1", v, before, asked)
	s.answers(t, "r1", v.ID, 0)
	if err := s.cloud.Delete(s.ctx, v.ID); err != nil {
		t.Fatal(err)
	}
}

// guestPanics has a guest's kernel panic. Nova (Zed) gives no guest a panic device, so libvirt says that it runs.
func (s *openStackSite) guestPanics(t *testing.T) {
	v := s.speaking(t, "r2", "panics", map[string]string{fleet.MetaAlive: fleet.CheckAgent})
	before, err := s.cloud.Ticking(s.ctx, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	s.inGuest(t, "r2", v.ID, "echo c >/proc/sysrq-trigger")
	s.awaitFrom(t, "c1", "a person to see that it is watched", func(st api.Status) bool {
		return slices.ContainsFunc(s.lab.events(s.ctx), func(e fleet.Event) bool {
			return e.At.After(since) && strings.Contains(e.Text, "the guest agent of panics has been silent")
		})
	})
	if out := s.run(t, "r2", "virsh", "--connect", "qemu:///system", "domstate", "--reason", v.ID); !strings.Contains(out, "running") {
		t.Errorf("libvirt says of it: %s", out)
	}
	s.revived(t, "r2", v, before, since)
	s.answers(t, "r2", v.ID, 0)
	if err := s.cloud.Delete(s.ctx, v.ID); err != nil {
		t.Fatal(err)
	}
}

// agentsHang stops the agents of two guests of one host for a while.
func (s *openStackSite) agentsHang(t *testing.T) {
	var both []Server
	for _, name := range []string{"one", "two"} {
		both = append(both, s.speaking(t, "r1", name, map[string]string{fleet.MetaAlive: fleet.CheckAgent}))
	}
	boots := map[string]string{}
	for _, v := range both {
		tick, err := s.cloud.Ticking(s.ctx, v.ID)
		if err != nil {
			t.Fatal(err)
		}
		boots[v.ID] = tick.Boot
	}
	since := time.Now()
	for _, v := range both {
		s.inGuest(t, "r1", v.ID, "a=$(pidof qemu-ga); kill -STOP $a; sleep 150; kill -CONT $a")
	}
	s.tells(t, "r1", "fell silent at once", since)
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	t.Logf("both are heard again %v later", time.Since(since).Round(100*time.Millisecond))
	s.stages(t, since, "r1")
	for _, v := range both {
		if tick, err := s.cloud.Ticking(s.ctx, v.ID); err != nil || tick.Boot != boots[v.ID] {
			t.Errorf("%s: boot %s, and was %s: %v", v.Name, tick.Boot, boots[v.ID], err)
		}
	}
	if all := s.rebooted(since); len(all) > 0 {
		t.Error(all)
	}
	s.unfenced(t, since)
	if err := s.cloud.Delete(s.ctx, both[0].ID, both[1].ID); err != nil {
		t.Fatal(err)
	}
	s.exactly(t)
}

// disksReadOnly makes the disks' directory of r2 read-only to whoever opens something there, as a file system does that
// met an error; what is open stays so.
func (s *openStackSite) disksReadOnly(t *testing.T) {
	v := s.on(t, "r2")
	disks := Shared + "/instances"
	s.run(t, "r2", "mount", "--bind", disks, disks)
	since := time.Now()
	s.run(t, "r2", "mount", "-o", "remount,bind,ro", disks)
	s.closes(t, "r2", "read-only", since)
	if _, err := s.cloud.Ticking(s.ctx, v.ID); err != nil {
		t.Errorf("the guest: %v", err)
	}
	back := time.Now()
	s.run(t, "r2", "umount", disks)
	s.awaitEnabled(t, "r2")
	t.Logf("it takes servers again %v after the directory could be written", time.Since(back).Round(100*time.Millisecond))
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.stages(t, since, "r2")
	s.unfenced(t, since)
	s.exactly(t)
}

// disksHang stops what serves the disks' directory on r2: whoever asks for anything there waits.
func (s *openStackSite) disksHang(t *testing.T) {
	v := s.on(t, "r2")
	deed, err := s.lab.Hang(s.ctx, "r2", SharedUnit)
	if err != nil {
		t.Fatal(err)
	}
	s.closes(t, "r2", "does not answer", deed.At)
	back, err := s.lab.Resume(s.ctx, "r2", SharedUnit)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.cloud.Ticking(s.ctx, v.ID); err != nil {
		t.Errorf("the guest: %v", err)
	}
	s.awaitEnabled(t, "r2")
	t.Logf("it takes servers again %v after the directory answered", time.Since(back.At).Round(100*time.Millisecond))
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.stages(t, deed.At, "r2")
	s.unfenced(t, deed.At)
	s.exactly(t)
}

// staleDomain is a machine that Nova does not know; libvirt starts it with the host.
const staleDomain = `<domain type='qemu'><name>stale</name><uuid>%s</uuid><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices></domain>
`

// waitsAndReturns takes the power of r2, on which a server comes after another one's group, which is ready when its agent
// answers. When r2 is back libvirt starts there all that it had, and a machine that Nova never knew.
func (s *openStackSite) waitsAndReturns(t *testing.T) {
	after, err := s.cloud.CreateSpeaking(s.ctx, "after", RoleReal+":r2", map[string]string{fleet.MetaAfter: "db"})
	if err != nil {
		t.Fatal(err)
	}
	db := s.speaking(t, "r2", "db", map[string]string{fleet.MetaGroup: "db", fleet.MetaReady: fleet.CheckAgent})
	var ids []string
	for _, v := range s.servers(t, "r2") {
		ids = append(ids, v.ID)
	}
	stale := newUUID()
	if err := s.lab.Install("r2", map[string]File{"/root/stale.xml": {Data: fmt.Appendf(nil, staleDomain, stale)}}); err != nil {
		t.Fatal(err)
	}
	s.run(t, "r2", "sh", "-ec", "virsh define /root/stale.xml; for n in $(virsh list --all --uuid); do virsh autostart $n; done; sync")
	deed, err := s.lab.PowerOff(s.ctx, "r2")
	if err != nil {
		t.Fatal(err)
	}
	err = waitFor(s.ctx, siteBound, "all servers of r2 to be on r1", func() (bool, error) { return s.arrived(ids, "r1"), nil })
	if err != nil {
		s.stages(t, deed.At, "r2")
		t.Fatal(err)
	}
	t.Logf("all %d servers of r2 are active on r1 %v after the power loss", len(ids), time.Since(deed.At).Round(100*time.Millisecond))
	s.awaitFrom(t, "c1", "a person to be told of a machine that is no server", func(st api.Status) bool {
		return slices.ContainsFunc(st.Waits, func(w fleet.Wait) bool {
			return w.About == "compute/r2" && strings.Contains(w.For, "1 of the machines that it runs to end") && strings.Contains(w.For, stale)
		})
	})
	told := time.Now()
	t.Logf("told of it %v after the power loss", time.Since(deed.At).Round(time.Second))
	err = waitFor(s.ctx, siteBound, "3 minutes to pass", func() (bool, error) { return time.Since(told) > 3*time.Minute, nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, on, why, err := s.enabled("r2"); err != nil || on {
		t.Errorf("3 minutes later r2 gets new servers: %v, %s, %v", on, why, err)
	}
	s.run(t, "r2", "virsh", "destroy", stale)
	s.run(t, "r2", "virsh", "undefine", stale)
	ended := time.Now()
	s.awaitEnabled(t, "r2")
	t.Logf("it takes servers again %v after that ended", time.Since(ended).Round(100*time.Millisecond))
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.stages(t, deed.At, "r2")
	s.waited(t, db, after, deed.At)
	s.exactly(t)
}

// waited looks in history whether Nova was asked for a server only after another one's agent had answered elsewhere.
func (s *openStackSite) waited(t *testing.T, db Server, after string, since time.Time) {
	t.Helper()
	var arrived, ready, asked time.Duration
	for _, e := range s.lab.events(s.ctx) {
		switch at := e.At.Sub(since); {
		case at < 0:
		case e.About == "server/"+db.ID && strings.Contains(e.Text, "evacuated from r2: on r1"):
			arrived = at
		case strings.Contains(e.Text, "of group db are ready: db"):
			ready = at
		case e.About == "server/"+after && strings.Contains(e.Text, " is evacuated from r2 ") && asked == 0:
			asked = at
		}
	}
	t.Logf("db is active on r1 after %v, its agent answers there after %v, the server after it is asked for after %v", arrived, ready, asked)
	if arrived == 0 || ready < arrived || ready-asked > 10*time.Millisecond { // one turn records both
		t.Error("not in that order")
	}
}
