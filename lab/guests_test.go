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

// TestGuests lets guests of a real OpenStack crash and what a compute needs hang: a guest whose
// QEMU is killed is started again on its host, a libvirt that hangs and a nova-compute of which
// Nova hears nothing are told and keep new servers away, and nobody is fenced for any of it.
func TestGuests(t *testing.T) {
	if !playsOpenStack(t, "a quarter of an hour", "lab-guests") {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Minute)
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
		{"libvirt hangs", o.libvirtHangs},
		{"nova-compute hangs", o.novaComputeHangs},
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
