package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fence/falsebmc"
	"mainstay/fleet"
)

// TestIncidents plays failures of other people's clouds (docs/INCIDENTS.md, the lines E) on a
// real Nova, which nothing else in the lab plays: what was stopped stays so, and what its owner
// wants left is left (E5, E12); a host that is paused for minutes and comes back while everything
// waits for a proof (E3); a host that is switched off on purpose (E6). TestEvacuation plays E2 and E11,
// TestMasakari E7, TestCutComputes E8, TestGuests E4, TestSite E1.
func TestIncidents(t *testing.T) {
	if !playsOpenStack(t, "half an hour", "lab-incidents") {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Minute)
	defer cancel()
	o := newOpenStack(ctx, t, "openstack: {cloud: lab, leave: [octavia]}\n")
	t.Run("everything under Mainstay is ready", o.ready)
	t.Run("the cloud is furnished", o.furnished)
	t.Run("every compute takes a server", o.warm)
	t.Run("servers on fake computes", func(t *testing.T) { o.create(t, "fake:n1", 4, false) })
	t.Run("an amphora, in the project of Octavia's own", o.amphora)
	if t.Failed() {
		return
	}
	for _, step := range []struct {
		name string
		play func(*testing.T)
	}{
		{"E3: a compute is paused, nobody proves anything, and it comes back", o.pausedAndBack},
		{"E5, E12: what was stopped stays stopped, what is to be left is left", o.leftAsTheyWere},
		{"E6: a compute is switched off on purpose", o.plannedOff},
	} {
		if !t.Run(step.name, step.play) {
			return
		}
	}
}

// askedFor is what history tells of evacuations since then.
func (s *openStackSite) askedFor(since time.Time) (texts []string) {
	for _, e := range s.lab.events(s.ctx) {
		if e.At.After(since) && strings.Contains(e.Text, " is evacuated from ") {
			texts = append(texts, e.Text)
		}
	}
	return texts
}

// paused is how long the host of cubecos PR #1274 was (E3).
const paused = 6 * time.Minute

// pausedAndBack stops a whole compute, whose BMC answers nobody, until Mainstay has tried to
// prove it off, and lets it go on.
func (s *openStackSite) pausedAndBack(t *testing.T) {
	on := s.servers(t, "n1")
	s.deed(t)(s.lab.BMCFault(s.ctx, "n1", falsebmc.Fault{Hang: true}))
	deed, err := s.lab.Hang(s.ctx, "n1", All)
	if err != nil {
		t.Fatal(err)
	}
	s.happens(t, "c1", deed.At, func(e fleet.Event) bool { return strings.HasPrefix(e.Text, "n1 will be fenced") })
	t.Logf("n1 is to be fenced %v after it was paused", time.Since(deed.At).Round(100*time.Millisecond))
	err = waitFor(s.ctx, paused+siteBound, "Nova to call n1 down too, and a person to be told, until it was paused for long", func() (bool, error) {
		up, _, _, err := s.enabled("n1")
		told := slices.ContainsFunc(s.status(t).Waits, func(w fleet.Wait) bool { return w.About == "host/n1" })
		return err == nil && !up && told && time.Since(deed.At) > paused, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if now := s.askedFor(deed.At); len(now) > 0 {
		t.Errorf("without a proof: %v", now)
	}
	s.deed(t)(s.lab.Resume(s.ctx, "n1", All))
	back := time.Now()
	t.Logf("it goes on after %v", time.Since(deed.At).Round(time.Second))
	s.awaitFrom(t, "c1", "n1 to be healthy", func(st api.Status) bool {
		return slices.ContainsFunc(st.Hosts, func(h api.HostStatus) bool { return h.Name == "n1" && h.Condition == fleet.Healthy })
	})
	s.deed(t)(s.lab.BMCFault(s.ctx, "n1", falsebmc.Fault{})) // from here on it could be switched off
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.awaitEnabled(t, "n1")
	t.Logf("it takes servers again %v after it went on", time.Since(back).Round(100*time.Millisecond))
	s.stages(t, deed.At, "n1")
	if now := s.askedFor(deed.At); len(now) > 0 {
		t.Errorf("it lived: %v", now)
	}
	if now := s.servers(t, "n1"); len(now) != len(on) {
		t.Errorf("on n1 are %d servers, and were %d", len(now), len(on))
	}
	s.exactly(t)
}

// amphora makes a server on n1 that belongs to a project of which the site's file says that its
// servers are left to their owner.
func (s *openStackSite) amphora(t *testing.T) {
	var project struct {
		Project named `json:"project"`
	}
	var users struct {
		Users []named `json:"users"`
	}
	var roles struct {
		Roles []named `json:"roles"`
	}
	for _, a := range []struct {
		method, path string
		in, out      any
	}{
		{"POST", "/projects", map[string]any{"project": map[string]any{"name": "octavia", "domain_id": "default"}}, &project},
		{"GET", "/users?name=admin", nil, &users},
		{"GET", "/roles?name=admin", nil, &roles},
	} {
		if err := s.cloud.Ask(s.ctx, "identity", a.method, a.path, a.in, a.out); err != nil {
			t.Fatal(err)
		}
	}
	assign := fmt.Sprintf("/projects/%v/users/%s/roles/%s", project.Project.ID, idOf(users.Users, "admin"), idOf(roles.Roles, "admin"))
	if err := s.cloud.Ask(s.ctx, "identity", "PUT", assign, nil, nil); err != nil {
		t.Fatal(err)
	}
	token, err := s.cloud.client.scoped(s.ctx, "octavia")
	if err != nil {
		t.Fatal(err)
	}
	var made struct {
		Server Server `json:"server"`
	}
	_, err = s.cloud.client.call(s.ctx, "compute", "POST", "/servers", token, map[string]any{"server": map[string]any{"name": "amphora", "imageRef": s.cloud.guest["guest"], "flavorRef": s.cloud.guest["tiny"],
		"availability_zone": "fake:n1", "networks": "none"}}, &made)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.cloud.Active(s.ctx, made.Server.ID); err != nil {
		t.Fatal(err)
	}
}

// leftAsTheyWere stops one of a compute's servers and has another one's owner want it left there, as the file
// wants the amphora left; then the compute loses its power.
func (s *openStackSite) leftAsTheyWere(t *testing.T) {
	on := s.servers(t, "n1")
	i := slices.IndexFunc(on, func(v Server) bool { return v.Name == "amphora" })
	if i < 0 {
		t.Fatal("the amphora is not on n1")
	}
	amphora := on[i]
	on = slices.Delete(on, i, i+1)
	stopped, left := on[0], on[1]
	if err := s.cloud.Ask(s.ctx, "compute", "POST", "/servers/"+stopped.ID+"/action", map[string]any{"os-stop": nil}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.cloud.Ask(s.ctx, "compute", "POST", "/servers/"+left.ID+"/metadata", map[string]any{"metadata": map[string]string{"HA_Enabled": "False"}}, nil); err != nil {
		t.Fatal(err)
	}
	err := waitFor(s.ctx, siteBound, "a server to be stopped", func() (bool, error) { return s.server(t, stopped.ID).State == "stopped", nil })
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, v := range on[2:] {
		ids = append(ids, v.ID)
	}
	deed, err := s.lab.PowerOff(s.ctx, "n1")
	if err != nil {
		t.Fatal(err)
	}
	err = waitFor(s.ctx, siteBound, "the others to be on n2", func() (bool, error) {
		v := s.server(t, stopped.ID)
		return s.arrived(ids, "n2") && v.Host == "n2" && v.Task == "", nil
	})
	s.stages(t, deed.At, "n1")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d servers and the stopped one are on n2 %v after the power loss", len(ids), time.Since(deed.At).Round(100*time.Millisecond))
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.awaitEnabled(t, "n1")
	if v := s.server(t, stopped.ID); v.State != "stopped" || v.Host != "n2" {
		t.Errorf("what was stopped is %s on %s", v.State, v.Host)
	}
	if at := s.runs(t, stopped.ID); len(at) > 0 {
		t.Errorf("what was stopped runs on %v", at)
	}
	for _, left := range []Server{left, amphora} {
		if v := s.server(t, left.ID); v.Host != "n1" {
			t.Errorf("%s, which is to be left to its owner, is on %s", left.Name, v.Host)
		}
		for _, text := range s.askedFor(deed.At) {
			if strings.HasPrefix(text, left.Name+" ") {
				t.Error(text)
			}
		}
	}
}

// plannedOff drains a compute, switches it off as a person does, and starts it again.
func (s *openStackSite) plannedOff(t *testing.T) {
	begun := time.Now()
	s.run(t, "c1", "mainstay", "maintenance", "n2", "on", "--drain", "--wait", "8m", "--why", "more memory")
	t.Logf("drained after %v", time.Since(begun).Round(100*time.Millisecond))
	_, _ = s.lab.Run(s.ctx, "n2", "systemctl", "poweroff") // it may end before it answers
	err := waitFor(s.ctx, siteBound, "n2 to be off", func() (bool, error) {
		on, err := s.lab.Powered("n2")
		return err == nil && !on, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	off := time.Now()
	s.awaitFrom(t, "c1", "n2 to be known to be off, and nobody to be woken", func(st api.Status) bool {
		up, _, _, err := s.enabled("n2")
		return err == nil && !up && !slices.ContainsFunc(st.Waits, func(w fleet.Wait) bool { return w.About == "host/n2" && strings.Contains(w.For, "a person") })
	})
	t.Logf("Nova calls it down %v after it went off", time.Since(off).Round(time.Second))
	s.deed(t)(s.lab.Start(s.ctx, "n2"))
	s.run(t, "c1", "mainstay", "maintenance", "n2", "off")
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.awaitEnabled(t, "n2")
	t.Logf("it takes servers again %v after its start", time.Since(off).Round(time.Second))
	s.unfenced(t, begun)
	if now := s.askedFor(begun); len(now) > 0 {
		t.Errorf("nothing had died: %v", now)
	}
	s.exactly(t)
}
