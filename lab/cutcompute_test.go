package lab

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// TestCutComputes takes networks from computes of a real OpenStack, one at a time, two and all together, both
// ways and one way, and holds what follows against what the site's file says: for management a
// pause of new servers, for the tenants' network the alarm alone, for storage, on which the guest's
// disk is, a fence and the evacuation. Nobody else is switched off.
func TestCutComputes(t *testing.T) {
	if !*openStackLab {
		t.Log("not played: it takes half an hour and 9 GB of memory; make lab-cut-computes")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	o := newOpenStack(ctx, t, "openstack: {cloud: lab, lost: {storage: evacuate, tenant: alarm, management: disable}}\n")
	if !o.inhabited(t) {
		return
	}
	for _, way := range []Direction{Both, In, Out} {
		if !t.Run("management of one and tenant of another, "+string(way), func(t *testing.T) { o.bears(t, way) }) {
			return
		}
	}
	for _, way := range []Direction{Both, In, Out} {
		if !t.Run("management and tenant together, "+string(way), func(t *testing.T) { o.bearsBoth(t, way) }) {
			return
		}
	}
	victim, to := "r1", "r2"
	for _, way := range []Direction{Both, In, Out} {
		if !t.Run("storage, "+string(way), func(t *testing.T) { o.forsakes(t, way, victim, to, "storage") }) {
			return
		}
		victim, to = to, victim
	}
	for _, way := range []Direction{Both, In, Out} {
		if !t.Run("all together, "+string(way), func(t *testing.T) { o.forsakes(t, way, victim, to, All) }) {
			return
		}
		victim, to = to, victim
	}
}

// enabled says whether Nova may give a compute servers, and why not.
func (s *openStackSite) enabled(host string) (up, enabled bool, reason string, err error) {
	all, err := s.cloud.ComputeServices(s.ctx)
	for _, c := range all {
		if c.Host == host && c.Binary == "nova-compute" {
			return c.State == "up", c.Status == "enabled", c.Reason, err
		}
	}
	return false, false, "", err
}

func (s *openStackSite) awaitEnabled(t *testing.T, host string) {
	t.Helper()
	err := waitFor(s.ctx, siteBound, host+" to take servers again", func() (bool, error) {
		up, on, _, err := s.enabled(host)
		return err == nil && up && on, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// unmanaged waits until a compute gets no new servers, for it is cut off from management.
func (s *openStackSite) unmanaged(t *testing.T, host string, since time.Time) {
	t.Helper()
	err := waitFor(s.ctx, siteBound, host+" to get no new servers", func() (bool, error) {
		_, on, reason, err := s.enabled(host)
		return err == nil && !on && strings.Contains(reason, "it is cut off from management"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s gets no new servers %v after the cut", host, time.Since(since).Round(100*time.Millisecond))
}

// bears cuts n1 off from management and n2 off from the tenants' network, longer than it
// takes until a compute would be fenced.
func (s *openStackSite) bears(t *testing.T, way Direction) {
	deed, err := s.lab.Cut(s.ctx, Cut{Host: "n1", Network: "management", Direction: way})
	if err != nil {
		t.Fatal(err)
	}
	s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: "n2", Network: "tenant", Direction: way}))
	s.unmanaged(t, "n1", deed.At)
	s.awaitFrom(t, "c1", "the alarm for n2", func(st api.Status) bool {
		for _, x := range st.Waits {
			if x.About == "compute/n2" && strings.Contains(x.For, "tenant to be back") {
				return true
			}
		}
		return false
	})
	if err := waitFor(s.ctx, siteBound, "45 s to pass", func() (bool, error) { return time.Since(deed.At) > 45*time.Second, nil }); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"n1", "n2"} {
		if on, err := s.lab.Powered(host); err != nil || !on {
			t.Errorf("%s was switched off: %v", host, err)
		}
	}
	if _, on, reason, err := s.enabled("n2"); err != nil || !on {
		t.Errorf("n2 is disabled (%s), and the file says alarm: %v", reason, err)
	}
	s.deed(t)(s.lab.Heal(s.ctx, "n1", "management"))
	s.deed(t)(s.lab.Heal(s.ctx, "n2", "tenant"))
	healed := time.Now()
	s.awaitEnabled(t, "n1")
	t.Logf("and does again %v after the network is back", time.Since(healed).Round(time.Second))
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.exactly(t)
}

// bearsBoth cuts n1 off from management and the tenants' network at once: it is heard over storage alone, and the
// graver of the two policies holds.
func (s *openStackSite) bearsBoth(t *testing.T, way Direction) {
	deed, err := s.lab.Cut(s.ctx, Cut{Host: "n1", Network: "management", Direction: way})
	if err != nil {
		t.Fatal(err)
	}
	s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: "n1", Network: "management6", Direction: way}))
	s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: "n1", Network: "tenant", Direction: way}))
	s.unmanaged(t, "n1", deed.At)
	s.awaitFrom(t, "c1", "both to be told", func(st api.Status) bool {
		told := map[string]bool{}
		for _, x := range st.Waits {
			for _, network := range []string{"management", "tenant"} {
				told[network] = told[network] || x.About == "compute/n1" && strings.Contains(x.For, network+" to be back")
			}
		}
		return told["management"] && told["tenant"]
	})
	if err := waitFor(s.ctx, siteBound, "45 s to pass", func() (bool, error) { return time.Since(deed.At) > 45*time.Second, nil }); err != nil {
		t.Fatal(err)
	}
	if on, err := s.lab.Powered("n1"); err != nil || !on {
		t.Errorf("n1 was switched off: %v", err)
	}
	s.deed(t)(s.lab.Heal(s.ctx, "n1", All))
	healed := time.Now()
	s.awaitEnabled(t, "n1")
	t.Logf("and does again %v after the networks are back", time.Since(healed).Round(time.Second))
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.exactly(t)
}

// forsakes cuts a compute with a guest off from the storage network, or from all: the guest is to run
// on another, and the compute to serve again once the network is back.
func (s *openStackSite) forsakes(t *testing.T, way Direction, victim, to, network string) {
	guest := s.on(t, victim)
	before, err := s.cloud.Ticking(s.ctx, guest.ID)
	if err != nil {
		t.Fatal(err)
	}
	deed, err := s.lab.Cut(s.ctx, Cut{Host: victim, Network: network, Direction: way})
	if err != nil {
		t.Fatal(err)
	}
	err = waitFor(s.ctx, siteBound, "the guest to be on "+to, func() (bool, error) {
		all, err := s.cloud.Servers(s.ctx)
		return err == nil && slices.ContainsFunc(all, func(v Server) bool {
			return v.ID == guest.ID && v.Host == to && v.State == "active" && v.Task == ""
		}), nil
	})
	s.stages(t, deed.At, victim)
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.cloud.Ticking(s.ctx, guest.ID)
	if err != nil {
		t.Fatal(err)
	}
	if after.Boot == before.Boot {
		t.Error("it is the boot of before")
	}
	t.Logf("the guest ticks on %s %v after the cut", to, time.Since(deed.At).Round(100*time.Millisecond))
	for _, host := range []string{"c1", "c2", "c3", "n1", "n2", to} {
		if on, err := s.lab.Powered(host); err != nil || !on {
			t.Errorf("%s was switched off: %v", host, err)
		}
	}
	s.awaitFrom(t, "c1", victim+" to be on again, and to wait for the network", func(st api.Status) bool {
		on, err := s.lab.Powered(victim)
		return err == nil && on && (network == All || slices.ContainsFunc(st.Waits, func(x fleet.Wait) bool {
			return x.About == "compute/"+victim && strings.Contains(x.For, network+" to be back")
		}))
	})
	if _, on, _, err := s.enabled(victim); err != nil || on {
		t.Errorf("%s may get servers, and has no storage: %v", victim, err)
	}
	s.deed(t)(s.lab.Heal(s.ctx, victim, network))
	s.awaitEnabled(t, victim)
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.exactly(t)
}
