package lab

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// TestEvacuation lets computes of a real OpenStack lose their power, one that runs a guest
// and ones that Nova's fake driver plays, and lets Mainstay bring their servers elsewhere:
// in their owners' order, also when the controller that holds the address and leads dies at the same
// moment, and when the compute that takes them dies too and the reserve is needed. Where they
// go is what the preview said. An audit reads Nova and the hypervisors: at the end each server
// runs exactly once.
func TestEvacuation(t *testing.T) {
	if !playsOpenStack(t, "a quarter of an hour", "lab-evacuate") {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	o := newOpenStack(ctx, t, withReserve)
	if !o.inhabited(t) {
		return
	}
	for _, step := range []struct {
		name string
		play func(*testing.T)
	}{
		{"a compute with a guest loses power", func(t *testing.T) { o.evacuates(t, "r1", "r2", nil) }},
		{"a compute with several servers loses power", o.inOrder},
		{"the leader, which holds the address, loses power together with a compute", func(t *testing.T) { o.evacuates(t, "n2", "n1", o.leads) }},
		{"the compute that takes the servers dies too, and the reserve takes them", o.targetDies},
	} {
		if !t.Run(step.name, step.play) {
			return
		}
	}
}

// withReserve is what the site's file of an evacuation says of the cloud.
const withReserve = "openstack: {cloud: lab, reserved: [" + spareHost + "]}\n"

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
		for _, host := range s.cloud.zoned(zone) {
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

// leads is who leads now, and has the address by then.
func (s *openStackSite) leads(t *testing.T) string {
	t.Helper()
	lead := s.status(t).Leader
	if lead == "" {
		t.Fatal("nobody leads")
	}
	if s.holding(t, "address/internal").Host != lead {
		s.run(t, "c1", "mainstay", "move", "internal", lead, "--wait", "2m")
	}
	return lead
}

// previewed asks where the servers of a host would go if it died now.
func (s *openStackSite) previewed(t *testing.T, victim string) (p fleet.Preview) {
	t.Helper()
	out, err := s.lab.Run(s.ctx, s.status(t).Leader, "mainstay", "preview", "host "+victim+" dies", "-o", "json")
	if bad := json.Unmarshal([]byte(out), &p); bad != nil {
		t.Fatalf("preview: %v, %v: %s", err, bad, out)
	}
	t.Logf("preview: of %d servers of %s %d do not fit, of %d nobody can tell; held %q; the first %v to %v after the loss, the last %v to %v", len(p.Fates), victim, p.Unfit, p.Unsure,
		p.Held, p.First.Least.Round(time.Second), p.First.Most.Round(time.Second), p.Last.Least.Round(time.Second), p.Last.Most.Round(time.Second))
	return p
}

// servers are those on a host, by Nova's word.
func (s *openStackSite) servers(t *testing.T, host string) (on []Server) {
	t.Helper()
	all, err := s.cloud.Servers(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Host == host {
			on = append(on, v)
		}
	}
	if len(on) == 0 {
		t.Fatalf("no server on %s", host)
	}
	return on
}

// inOrder gives servers of n1 an order and a lock of their owner's, and looks whether both are kept.
func (s *openStackSite) inOrder(t *testing.T) {
	on := s.servers(t, "n1")
	words := []map[string]string{
		{fleet.MetaPriority: "-5"}, {fleet.MetaAfter: "app"}, {fleet.MetaGroup: "app", fleet.MetaAfter: "db"}, {fleet.MetaGroup: "db"}, {fleet.MetaPriority: "10"},
	}
	if len(on) < len(words) {
		t.Fatalf("%d servers on n1, not %d", len(on), len(words))
	}
	for i, w := range words {
		if err := s.cloud.Ask(s.ctx, "compute", "POST", "/servers/"+on[i].ID+"/metadata", map[string]any{"metadata": w}, nil); err != nil {
			t.Fatal(err)
		}
	}
	last, web, app, db, first := on[0], on[1], on[2], on[3], on[4]
	owner := "its owner's"
	if err := s.cloud.Ask(s.ctx, "compute", "POST", "/servers/"+db.ID+"/action", map[string]any{"lock": map[string]string{"locked_reason": owner}}, nil); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	s.evacuates(t, "n1", "n2", nil)
	asked, arrived := map[string]int{}, map[string]int{} // by server, the place of the event in history
	for i, e := range s.lab.events(s.ctx) {
		id := strings.TrimPrefix(e.About, "server/")
		switch _, known := asked[id]; {
		case e.At.Before(begun):
		case strings.Contains(e.Text, " is evacuated from n1 ") && !known:
			asked[id] = i + 1
		case strings.Contains(e.Text, ", evacuated from n1: on n2"):
			arrived[id] = i + 1
		}
	}
	for _, v := range on {
		if asked[v.ID] == 0 || arrived[v.ID] == 0 {
			t.Errorf("history does not tell of %s (%s): asked for %d, arrived %d", v.Name, v.ID, asked[v.ID], arrived[v.ID])
		}
		if asked[v.ID] < asked[first.ID] || asked[v.ID] > asked[last.ID] && v.ID != app.ID && v.ID != web.ID {
			t.Errorf("%s was asked for at %d, the one with the highest priority at %d, the one with the lowest at %d", v.Name, asked[v.ID], asked[first.ID], asked[last.ID])
		}
	}
	if asked[app.ID] < arrived[db.ID] || asked[web.ID] < arrived[app.ID] {
		t.Errorf("db arrived at %d, app was asked for at %d and arrived at %d, web was asked for at %d", arrived[db.ID], asked[app.ID], arrived[app.ID], asked[web.ID])
	}
	for _, v := range on {
		var said struct {
			Server struct {
				Locked bool   `json:"locked"`
				Reason string `json:"locked_reason"`
			} `json:"server"`
		}
		if err := s.cloud.Ask(s.ctx, "compute", "GET", "/servers/"+v.ID, nil, &said); err != nil {
			t.Fatal(err)
		}
		if said.Server.Locked != (v.ID == db.ID) || v.ID == db.ID && said.Server.Reason != owner {
			t.Errorf("%s is locked: %v (%q)", v.Name, said.Server.Locked, said.Server.Reason)
		}
	}
	for key := range map[string]bool{fleet.MetaPriority: true, fleet.MetaAfter: true, fleet.MetaGroup: true} {
		for _, v := range on {
			// It has none, or it is gone now.
			if err := s.cloud.Ask(s.ctx, "compute", "DELETE", "/servers/"+v.ID+"/metadata/"+key, nil, nil); err != nil && !strings.Contains(err.Error(), ": 404") {
				t.Fatal(err)
			}
		}
	}
	if err := s.cloud.Ask(s.ctx, "compute", "POST", "/servers/"+db.ID+"/action", map[string]any{"unlock": nil}, nil); err != nil {
		t.Fatal(err)
	}
}

// targetDies takes the power of a compute, and then of the only other one of its zone, as soon as
// Nova has accepted that a server goes there. The one in reserve must take them all; drained by
// hand once the others are back, it is given back.
func (s *openStackSite) targetDies(t *testing.T) {
	var ids []string
	for _, v := range s.servers(t, "n1") {
		ids = append(ids, v.ID)
	}
	deed, err := s.lab.PowerOff(s.ctx, "n1")
	if err != nil {
		t.Fatal(err)
	}
	s.happens(t, "c1", deed.At, func(e fleet.Event) bool {
		return strings.Contains(e.Text, ": evacuate server/") && strings.HasSuffix(e.Text, ": done")
	})
	if _, err := s.lab.PowerOff(s.ctx, "n2"); err != nil {
		t.Fatal(err)
	}
	t.Logf("n2, which takes them, lost its power %v after n1", time.Since(deed.At).Round(100*time.Millisecond))
	err = waitFor(s.ctx, siteBound, "all servers of n1 to be on "+spareHost, func() (bool, error) { return s.arrived(ids, spareHost), nil })
	took := time.Since(deed.At)
	s.stages(t, deed.At, "n1")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("all %d servers of n1 are active on %s, of the reserve, %v after the first power loss", len(ids), spareHost, took.Round(100*time.Millisecond))
	s.exactly(t)
	for _, host := range []string{"n1", "n2"} {
		s.awaitEnabled(t, host)
		t.Logf("%s takes servers again %v after the first power loss", host, time.Since(deed.At).Round(time.Second))
	}
	s.exactly(t)
	s.awaitFrom(t, "c1", "a person to be told that the reserve is in use", func(st api.Status) bool {
		return slices.ContainsFunc(st.Waits, func(w fleet.Wait) bool {
			return w.About == "compute/"+spareHost && strings.Contains(w.For, "it is of the reserve")
		})
	})
	emptied := time.Now()
	s.run(t, "c1", "mainstay", "maintenance", spareHost, "on", "--drain", "--wait", "8m", "--why", "the reserve is needed no more")
	t.Logf("its %d servers have left it %v after the wish", len(ids), time.Since(emptied).Round(100*time.Millisecond))
	s.run(t, "c1", "mainstay", "maintenance", spareHost, "off")
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	err = waitFor(s.ctx, siteBound, spareHost+" to be in reserve again", func() (bool, error) {
		_, on, _, err := s.enabled(spareHost)
		return err == nil && !on && slices.ContainsFunc(s.lab.events(s.ctx), func(e fleet.Event) bool {
			return e.At.After(emptied) && strings.Contains(e.Text, spareHost+" is in reserve again")
		}), nil
	})
	s.stages(t, emptied, spareHost)
	if err != nil {
		t.Fatal(err)
	}
	s.exactly(t)
}

// arrived says whether servers are elsewhere and whole, by Nova's word.
func (s *openStackSite) arrived(ids []string, to string) bool {
	all, err := s.cloud.Servers(s.ctx)
	return err == nil && !slices.ContainsFunc(all, func(v Server) bool {
		return slices.Contains(ids, v.ID) && (v.Host != to || v.State != "active" || v.Task != "")
	})
}

// happens returns the first event since then that is what is waited for, as soon as the host has it,
// or has had it already: a power-off may take longer than what it leads to.
func (s *openStackSite) happens(t *testing.T, host string, since time.Time, so func(fleet.Event) bool) fleet.Event {
	t.Helper()
	c, err := s.lab.APIClient(host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(s.ctx, siteBound)
	defer cancel()
	var found fleet.Event
	seen := errors.New("seen")
	after := ""
	for _, e := range s.lab.events(ctx) {
		if e.At.Before(since) {
			after = e.ID
		}
	}
	_, err = c.Follow(ctx, after, func(e fleet.Event) error {
		if e.At.Before(since) || !so(e) {
			return nil
		}
		found = e
		return seen
	})
	if !errors.Is(err, seen) {
		t.Fatalf("follow the events on %s: %v", host, err)
	}
	return found
}

// evacuates takes the power of a compute, and perhaps of another host at the same moment,
// and waits until its servers run elsewhere and the host is back in Nova's hands.
func (s *openStackSite) evacuates(t *testing.T, victim, to string, also func(*testing.T) string) {
	var ids []string
	for _, v := range s.servers(t, victim) {
		ids = append(ids, v.ID)
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
		second = also(t)
	}
	told := s.previewed(t, victim)
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
	err = waitFor(s.ctx, siteBound, "all servers of "+victim+" to be on "+to, func() (bool, error) { return s.arrived(ids, to), nil })
	s.stages(t, deed.At, victim)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("all %d servers of %s are active on %s %v after the power loss", len(ids), victim, to, time.Since(deed.At).Round(100*time.Millisecond))
	if len(told.Fates) != len(ids) {
		t.Errorf("the preview told of %d servers: %+v", len(told.Fates), told.Fates)
	}
	for _, f := range told.Fates {
		if f.State != fleet.FateMoves || f.To != to || !slices.Contains(ids, f.Server) {
			t.Errorf("the preview said of %s: %s to %q (%s)", f.Name, f.State, f.To, f.Why)
		}
	}
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
	s.awaitEnabled(t, victim)
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
