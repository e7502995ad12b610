package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/service"
)

// TestStages lets the leader fall away in each stage of a compute's recovery, found in the
// recorded events as they come: by a loss of power, or stopped whole and continued when another
// leads, so that what it still had in hand is refused. Each server ends running exactly once, and
// Nova was asked for none of them twice.
func TestStages(t *testing.T) {
	if !playsOpenStack(t, "half an hour", "lab-stages") {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 75*time.Minute)
	defer cancel()
	o := newOpenStack(ctx, t, "openstack: {cloud: lab}\n")
	t.Run("everything under Mainstay is ready", o.ready)
	t.Run("the cloud is furnished", o.furnished)
	if *openStackName == "" {
		t.Run("every compute takes a server", o.warm)
	}
	t.Run("guests that tick on real computes", o.ticks)
	t.Run("servers on fake computes", func(t *testing.T) { o.create(t, "fake", 4, false) })
	if t.Failed() {
		return
	}
	for i, st := range []struct {
		name, zone string
		power      bool
		begun      func(e fleet.Event, victim string) bool
	}{
		{"the fence is ordered", RoleFake, true, func(e fleet.Event, victim string) bool { return strings.Contains(e.Text, " shall fence host/"+victim) }},
		{"the compute is proved off", RoleFake, false, func(e fleet.Event, victim string) bool { return strings.HasPrefix(e.Text, victim+" is off") }},
		{"it is forced down", RoleFake, false, func(e fleet.Event, victim string) bool {
			return strings.Contains(e.Text, ": force-down compute/"+victim+": done")
		}},
		{"the evacuation is recorded", RoleFake, false, func(e fleet.Event, victim string) bool {
			return strings.Contains(e.Text, " is evacuated from "+victim+" ")
		}},
		{"Nova is asked", RoleReal, false, func(e fleet.Event, _ string) bool { return strings.Contains(e.Text, " shall evacuate server/") }},
		{"Nova has accepted", RoleReal, true, func(e fleet.Event, _ string) bool {
			return strings.Contains(e.Text, ": evacuate server/") && strings.HasSuffix(e.Text, ": done")
		}},
	} {
		lead := fmt.Sprintf("c%d", 1+i%3)
		if !t.Run(st.name, func(t *testing.T) {
			victim := o.fullest(t, st.zone)
			o.leaderFalls(t, lead, victim, st.power, func(e fleet.Event) bool { return st.begun(e, victim) })
		}) {
			return
		}
	}
}

// fullest is the compute of a zone with the most servers: the stage before has moved them to the
// other one, or left them where the broker's loss had taken that one from Nova's sight.
func (s *openStackSite) fullest(t *testing.T, zone string) string {
	t.Helper()
	all, err := s.cloud.Servers(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	on := map[string]int{}
	for _, v := range all {
		on[v.Host]++
	}
	return slices.MaxFunc(s.cloud.zoned(zone), func(a, b string) int { return on[a] - on[b] })
}

// leaderFalls takes the power of a compute, and then the leader, in that stage.
func (s *openStackSite) leaderFalls(t *testing.T, lead, victim string, power bool, begun func(fleet.Event) bool) {
	if s.status(t).Leader != lead {
		s.run(t, "c1", "mainstay", "voters", "lead", lead)
		s.await(t, lead+" to lead", func(st api.Status) bool { return st.Leader == lead })
	}
	s.await(t, "all to be well", s.calm) // a new leader looks for a while
	epoch := s.status(t).Epoch
	var ids []string
	before := map[string]int{}
	for _, v := range s.servers(t, victim) {
		ids = append(ids, v.ID)
		records, err := s.moves(v.ID, "evacuation")
		if err != nil {
			t.Fatal(err)
		}
		before[v.ID] = len(records)
	}
	ticked := Tick{}
	if strings.HasPrefix(victim, "r") {
		var err error
		if ticked, err = s.cloud.Ticking(s.ctx, ids[0]); err != nil {
			t.Fatal(err)
		}
	}
	by := s.other(lead)
	// The stage may be there before all that the host had is taken away.
	asked := time.Now()
	off := make(chan error, 1)
	var deed Deed
	go func() {
		var err error
		deed, err = s.lab.PowerOff(s.ctx, victim)
		off <- err
	}()
	e := s.happens(t, by, asked, begun)
	if power {
		s.deed(t)(s.lab.PowerOff(s.ctx, lead))
	} else {
		for _, unit := range []string{service.AgentUnit, service.QuorumUnit} {
			s.deed(t)(s.lab.Hang(s.ctx, lead, unit))
		}
	}
	fallen := time.Now()
	if err := <-off; err != nil {
		t.Fatal(err)
	}
	since := func() time.Duration { return time.Since(deed.At).Round(time.Millisecond) }
	t.Logf("%8.3f s  %s; %s has fallen away %v after the power loss", e.At.Sub(deed.At).Seconds(), e.Text, lead, fallen.Sub(deed.At).Round(time.Millisecond))
	s.awaitFrom(t, by, "another leader", func(st api.Status) bool { return st.Leader != "" && st.Leader != lead && st.Epoch > epoch })
	t.Logf("another leads by %v", since())
	if !power {
		for _, unit := range []string{service.QuorumUnit, service.AgentUnit} {
			if on, err := s.lab.Powered(lead); err == nil && on {
				_, _ = s.lab.Resume(s.ctx, lead, unit) // it may have been switched off in this moment
			}
		}
		t.Logf("%s goes on by %v", lead, since())
	}
	err := waitFor(s.ctx, siteBound, "all servers of "+victim+" to be active where there is power", func() (bool, error) {
		on, err := s.lab.Powered(victim)
		all, failed := s.cloud.Servers(s.ctx)
		return failed == nil && !slices.ContainsFunc(all, func(v Server) bool {
			return slices.Contains(ids, v.ID) && (v.Host == victim && !on || v.State != "active" || v.Task != "")
		}), err
	})
	took := since()
	s.stages(t, deed.At, victim)
	if err != nil {
		t.Fatal(err)
	}
	where := map[string]int{}
	for _, id := range ids {
		where[s.server(t, id).Host]++
	}
	t.Logf("all %d servers of %s are active, on %v, %v after the power loss", len(ids), victim, where, took)
	if ticked.Boot != "" {
		after, err := s.cloud.Ticking(s.ctx, ids[0])
		if err != nil {
			t.Fatal(err)
		}
		if after.Boot == ticked.Boot {
			t.Error("it is the boot of before")
		}
	}
	if power {
		if _, err := s.lab.Start(s.ctx, lead); err != nil && !strings.Contains(err.Error(), "runs") {
			t.Fatal(err)
		}
	}
	s.turnedOn(t, by, victim, lead)
	s.awaitFrom(t, by, "all to be well", s.calm)
	s.awaitEnabled(t, victim)
	t.Logf("%s takes servers again, and all is well, %v after the power loss", victim, since())
	s.exactly(t)
	for _, id := range ids {
		records, err := s.moves(id, "evacuation")
		if err != nil {
			t.Fatal(err)
		}
		// None where the only other compute was down for Nova, whose broker died with the leader, and so
		// the host was turned on with what it had. More than one only where Nova itself gave the earlier up.
		now := records[before[id]:]
		for i := range len(now) - 1 {
			if t.Logf("Nova was asked to evacuate %s again: %+v", id, now); !now[i].over(now[i+1].Created) {
				t.Errorf("Nova was asked to evacuate %s while it was at it: %+v", id, now)
			}
		}
	}
	for _, host := range s.cloud.Computes() {
		if host != victim && slices.ContainsFunc(s.lab.events(s.ctx), func(e fleet.Event) bool {
			return e.At.After(deed.At) && strings.HasPrefix(e.Text, host+" will be fenced")
		}) {
			t.Errorf("%s was fenced too", host)
		}
	}
}

// turnedOn waits until hosts have power, and gives it to those that stay off because they were
// fenced so often within an hour, as a person would who knows why.
func (s *openStackSite) turnedOn(t *testing.T, by string, hosts ...string) {
	t.Helper()
	err := waitFor(s.ctx, siteBound, strings.Join(hosts, " and ")+" to have power", func() (bool, error) {
		st, err := s.lab.SiteStatus(s.ctx, by)
		if err != nil {
			return false, nil //nolint:nilerr // it is asked again
		}
		all := true
		for _, host := range hosts {
			on, err := s.lab.Powered(host)
			if err != nil || on {
				continue
			}
			all = false
			if slices.ContainsFunc(st.Waits, func(w fleet.Wait) bool { return w.About == "host/"+host && strings.Contains(w.For, "times within") }) {
				t.Logf("%s was fenced too often to be turned on: a person does", host)
				if _, err := s.lab.Start(s.ctx, host); err != nil {
					return false, err
				}
			}
		}
		return all, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
