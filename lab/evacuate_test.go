package lab

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestEvacuation lets computes of a real OpenStack lose their power, one that runs a guest
// and ones that Nova's fake driver plays, and lets Mainstay bring their servers elsewhere:
// also when the controller that holds the address and leads dies at the same moment, and
// when a second compute dies while it takes them. An audit reads Nova and the hypervisors:
// at the end each server runs exactly once.
func TestEvacuation(t *testing.T) {
	if !*openStackLab {
		t.Log("not played: it takes a quarter of an hour and 9 GB of memory; make lab-evacuate")
		return
	}
	if _, err := os.Stat(GuestKernel); err != nil {
		t.Fatalf("the guest's kernel: %v: make lab-evacuate fetches it", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Minute)
	defer cancel()
	o := newOpenStack(ctx, t, "openstack: {cloud: lab}\n")
	if !o.inhabited(t) {
		return
	}
	for _, step := range []struct {
		name, victim, to string
		also             func() string
	}{
		{"a compute with a guest loses power", "r1", "r2", nil},
		{"a compute with several servers loses power", "n1", "n2", nil},
		{"the leader loses power together with a compute", "n2", "n1", o.leader},
	} {
		if !t.Run(step.name, func(t *testing.T) { o.evacuates(t, step.victim, step.to, step.also) }) {
			return
		}
	}
}

// inhabited brings the cloud up and fills it: a guest on each real compute, servers on the
// fake ones.
func (s *openStackSite) inhabited(t *testing.T) bool {
	t.Run("everything under Mainstay is ready", s.ready)
	t.Run("the cloud is furnished", s.furnished)
	t.Run("every compute takes a server", s.warm)
	t.Run("guests that tick on real computes", s.ticks)
	t.Run("servers on fake computes", s.fakes)
	return !t.Failed()
}

// warm waits until Nova finds room on each compute: for a while after their start Placement
// does not know all of what they are.
func (s *openStackSite) warm(t *testing.T) {
	for _, zone := range []string{RoleFake, RoleReal} {
		for _, host := range s.cloud.release.with(zone) {
			err := waitFor(s.ctx, siteBound, "a server to be made on "+host, func() (bool, error) {
				id, refused := s.cloud.Create(s.ctx, "warm-"+host, zone+":"+host, false)
				if refused != nil {
					t.Log(refused)
					return false, nil
				}
				_, failed := s.cloud.Active(s.ctx, id)
				return failed == nil, s.cloud.Delete(s.ctx, id)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// leader is who leads now.
func (s *openStackSite) leader() string {
	st, err := s.lab.SiteStatus(s.ctx, s.other("c1"))
	if err != nil {
		return ""
	}
	return st.Leader
}

// evacuates takes the power of a compute, and perhaps of another host at the same moment,
// and waits until its servers run elsewhere and the host is back in Nova's hands.
func (s *openStackSite) evacuates(t *testing.T, victim, to string, also func() string) {
	var ids []string
	all, err := s.cloud.Servers(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Host == victim {
			ids = append(ids, v.ID)
		}
	}
	if len(ids) == 0 {
		t.Fatalf("no server on %s", victim)
	}
	ticks := ""
	if strings.HasPrefix(victim, "r") {
		before, err := s.cloud.Ticking(s.ctx, ids[0])
		if err != nil {
			t.Fatal(err)
		}
		ticks = before.Boot
	}
	second := ""
	if also != nil {
		if second = also(); second == "" {
			t.Fatal("nobody leads")
		}
	}
	deed, err := s.lab.PowerOff(s.ctx, victim)
	if err != nil {
		t.Fatal(err)
	}
	if second != "" {
		if _, err := s.lab.PowerOff(s.ctx, second); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s, which led, lost its power %v after %s", second, time.Since(deed.At).Round(time.Millisecond), victim)
	}
	err = waitFor(s.ctx, siteBound, "all servers of "+victim+" to be on "+to, func() (bool, error) {
		all, err := s.cloud.Servers(s.ctx)
		return err == nil && !slices.ContainsFunc(all, func(v Server) bool {
			return slices.Contains(ids, v.ID) && (v.Host != to || v.State != "active" || v.Task != "")
		}), nil
	})
	s.stages(t, deed.At, victim)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("all %d servers of %s are active on %s %v after the power loss", len(ids), victim, to, time.Since(deed.At).Round(100*time.Millisecond))
	if ticks != "" {
		after, err := s.cloud.Ticking(s.ctx, ids[0])
		if err != nil {
			t.Fatal(err)
		}
		if after.Boot == ticks {
			t.Error("it is the boot of before")
		}
		t.Logf("the guest ticks there %v after the power loss", time.Since(deed.At).Round(100*time.Millisecond))
	}
	if second != "" {
		if _, err := s.lab.Start(s.ctx, second); err != nil && !strings.Contains(err.Error(), "runs") {
			t.Fatal(err)
		}
	}
	// Mainstay turns the compute on again; its nova-compute is started, lifted and enabled.
	s.awaitFrom(t, s.other(second), "all to be well", s.calm)
	err = waitFor(s.ctx, siteBound, victim+" to take servers again", func() (bool, error) {
		all, err := s.cloud.ComputeServices(s.ctx)
		return err == nil && slices.ContainsFunc(all, func(c ComputeService) bool {
			return c.Host == victim && c.Binary == "nova-compute" && c.State == "up" && c.Status == "enabled"
		}), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s takes servers again %v after the power loss", victim, time.Since(deed.At).Round(time.Second))
	s.exactly(t)
}

// stages logs the recorded events of an evacuation, each so long after the power loss.
func (s *openStackSite) stages(t *testing.T, since time.Time, victim string) {
	t.Helper()
	for _, e := range s.lab.events(s.ctx) {
		if e.At.Before(since) || e.Kind == "observation" || e.About != "host/"+victim && e.About != "compute/"+victim && !strings.HasPrefix(e.About, "server/") {
			continue
		}
		t.Logf("%8.3f s  %s", e.At.Sub(since).Seconds(), e.Text)
	}
}
