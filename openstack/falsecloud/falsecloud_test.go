package falsecloud_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/openstack"
	"mainstay/openstack/falsecloud"
)

// stage is a cloud, its clock and its client.
type stage struct {
	*testing.T
	cloud  *falsecloud.Cloud
	clock  *falsecloud.Clock
	client *openstack.Client
}

func play(t *testing.T, cfg falsecloud.Config) *stage {
	t.Helper()
	clock := falsecloud.NewClock()
	cfg.Now = clock.Now
	f := falsecloud.New(cfg)
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	t.Cleanup(f.Close)
	name := filepath.Join(t.TempDir(), "clouds.yaml")
	text := fmt.Sprintf("clouds: {x: {auth: {auth_url: '%s/identity/v3', username: admin, password: secret, project_name: admin, user_domain_id: default, project_domain_id: default}}}\n", s.URL)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := openstack.Open(fleet.OpenStack{Cloud: "x", Config: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &stage{t, f, clock, c}
}

func (s *stage) computes(names ...string) {
	for _, n := range names {
		s.cloud.AddCompute(n, "", 16384)
	}
}

func (s *stage) server(host string) string {
	return s.cloud.AddServer(falsecloud.Server{Name: "s", Host: host})
}

func (s *stage) do(step, thing, with string) error {
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	return s.client.Do(ctx, fleet.Order{Step: step, Thing: thing, With: with}, yes)
}

func (s *stage) must(step, thing, with string) {
	s.Helper()
	if err := s.do(step, thing, with); err != nil {
		s.Fatal(err)
	}
}

func (s *stage) evacuate(id, with string) {
	s.Helper()
	s.must(fleet.CloudEvacuate, "server/"+id, with)
}

// lose takes a host's power, and forces it down.
func (s *stage) lose(host string) {
	s.Helper()
	s.cloud.Kill(host)
	s.must(fleet.CloudForceDown, "compute/"+host, "")
}

func (s *stage) pass(d time.Duration) { s.clock.Advance(d) }

func (s *stage) see(id string) fleet.Server {
	s.Helper()
	c, err := s.client.Look(s.Context(), 1, nil, []string{id})
	if err != nil {
		s.Fatal(err)
	}
	return c.Servers[id]
}

// is holds a server to "HOST state/task migration", of which parts may be left out from the end.
func (s *stage) is(id, want string) {
	s.Helper()
	v := s.see(id)
	if got := fmt.Sprintf("%s %s/%s %s", v.Host, v.State, v.Task, v.Migration.Status); !strings.HasPrefix(got+" ", want+" ") {
		s.Errorf("%s, want %s; %+v", got, want, v)
	}
}

// runs holds a server to where it runs in truth.
func (s *stage) runs(id string, want ...string) {
	s.Helper()
	if got := s.cloud.Runs()[id]; strings.Join(got, ",") != strings.Join(want, ",") {
		s.Errorf("it runs on %v, want %v", got, want)
	}
}

func (s *stage) sound() {
	s.Helper()
	if found := s.cloud.Audit(); len(found) > 0 {
		s.Errorf("the audit: %v", found)
	}
}

func yes() error { return nil }

// TestMeasured plays each row of what was measured.
func TestMeasured(t *testing.T) {
	for _, row := range []struct {
		name string
		play func(*stage)
	}{
		{"killed less than service_down_time ago it is still in use", func(s *stage) {
			id := s.server("n1")
			s.cloud.Kill("n1")
			s.pass(50 * time.Second)
			if err := s.do(fleet.CloudEvacuate, "server/"+id, ""); openstack.OutcomeOf(err) != fleet.Refused || !strings.Contains(err.Error(), "still in use") {
				s.Error(err)
			}
			s.pass(20 * time.Second) // now Nova takes it for down by itself
			s.evacuate(id, "")
			s.is(id, "n1 active/rebuilding accepted")
			s.pass(time.Second)
			s.is(id, "n1 active/rebuilding pre-migrating")
		}},
		{"one is done in three seconds", func(s *stage) {
			id := s.server("n1")
			s.lose("n1")
			s.runs(id)
			s.evacuate(id, "")
			s.pass(2900 * time.Millisecond)
			s.is(id, "n1 active/rebuilding pre-migrating")
			s.pass(200 * time.Millisecond)
			s.is(id, "n2 active/ done")
			s.runs(id, "n2")
			s.sound()
		}},
		{"forty all go to the emptiest, one by one, and look as if nothing went on", func(s *stage) {
			s.cloud.AddCompute("n4", "", 65536)
			var ids []string
			for range 40 {
				ids = append(ids, s.server("n1"))
			}
			s.lose("n1")
			for _, id := range ids {
				s.evacuate(id, "")
			}
			s.pass(10 * time.Second)
			s.is(ids[0], "n4 active/ done")
			s.is(ids[39], "n1 active/ accepted")
			s.pass(100 * time.Second)
			for _, id := range ids {
				s.is(id, "n4 active/ done")
			}
			s.sound()
		}},
		{"a second one to the same host: in error there, although it runs", func(s *stage) {
			id := s.server("n1")
			s.lose("n1")
			s.evacuate(id, "n2")
			s.evacuate(id, "n2")
			s.pass(10 * time.Second)
			s.is(id, "n2 error/ failed")
			s.runs(id, "n2")
			if v := s.see(id); !strings.Contains(v.Fault, "already exists") {
				s.Error(v.Fault)
			}
			if len(s.cloud.Audit()) == 0 {
				s.Error("the audit finds nothing")
			}
			// And the next one ends the other way: rebuilding for ever.
			id = s.server("n1")
			s.evacuate(id, "n2")
			s.pass(time.Second)
			s.evacuate(id, "n2")
			s.pass(20 * time.Minute)
			s.is(id, "n2 error/rebuild_block_device_mapping failed")
			// Nova's record is set right without touching the guest.
			s.must(fleet.CloudReset, "server/"+id, fleet.ServerActive)
			s.is(id, "n2 active/ failed")
			s.runs(id, "n2")
		}},
		{"a second one to another host: both claim it, and it is spoilt", func(s *stage) {
			id := s.server("n1")
			s.lose("n1")
			s.evacuate(id, "n2")
			s.evacuate(id, "n3")
			s.pass(10 * time.Second)
			s.is(id, "n2 error/rebuild_block_device_mapping failed")
			s.runs(id, "n2")
		}},
		{"no valid host: in error on the dead host, and then it may be asked again", func(s *stage) {
			id := s.cloud.AddServer(falsecloud.Server{Name: "big", Host: "n1", RAM: 16000})
			s.server("n2")
			s.server("n3")
			s.lose("n1")
			s.evacuate(id, "")
			s.pass(time.Second)
			s.is(id, "n1 error/ error")
			s.computes("n4")
			s.evacuate(id, "")
			s.pass(3 * time.Second)
			s.is(id, "n4 active/ done")
			s.sound()
		}},
		{"the destination dies in the middle: no time-out; forced down, it is asked again and works", func(s *stage) {
			id := s.server("n1")
			s.lose("n1")
			s.evacuate(id, "n2")
			s.pass(time.Second)
			s.cloud.Kill("n2")
			s.pass(time.Hour)
			s.is(id, "n1 active/rebuilding pre-migrating")
			s.must(fleet.CloudForceDown, "compute/n2", "")
			s.evacuate(id, "")
			s.pass(4 * time.Second)
			s.is(id, "n3 active/ done")
			s.sound()
			// Its queue is durable: back again, and still forced down, it does the old order.
			s.cloud.Start("n2")
			s.pass(time.Minute)
			s.is(id, "n3 error/rebuilding done")
			s.runs(id, "n3")
		}},
		{"with its queue deleted before it returns, nothing happens", func(s *stage) {
			id := s.server("n1")
			s.lose("n1")
			s.cloud.Kill("n2") // dead, and Nova does not know yet
			s.evacuate(id, "n2")
			s.pass(time.Minute)
			s.must(fleet.CloudForceDown, "compute/n2", "")
			s.evacuate(id, "n3")
			s.pass(4 * time.Second)
			if n := s.cloud.DropQueue("n2"); n != 1 {
				s.Errorf("%d messages were in it", n)
			}
			s.cloud.Start("n2")
			s.pass(time.Minute)
			s.sound()
		}},
		{"a second one while the first one's message lies with a dead host: Nova writes the end into the first one's record", func(s *stage) {
			id := s.server("n1")
			s.lose("n1")
			s.cloud.Kill("n2")
			s.evacuate(id, "n2")
			s.is(id, "n1 active/rebuilding accepted")
			s.pass(time.Minute)
			s.must(fleet.CloudForceDown, "compute/n2", "")
			s.evacuate(id, "n3")
			s.is(id, "n1 active/rebuilding accepted")
			s.pass(time.Second)
			s.is(id, "n1 active/rebuilding accepted") // begun, by the first one's record
			s.pass(3 * time.Second)
			s.is(id, "n3 active/ done")
			if m := s.see(id).Migration; m.ID != 2 || m.From != "n1" || m.To != "n3" {
				s.Errorf("%+v", m)
			}
			s.sound()
			// The second one's own record is there for ever, and takes the end of the third.
			s.cloud.AddCompute("n4", "", 65536)
			s.pass(24 * time.Hour)
			s.lose("n3")
			s.evacuate(id, "n4")
			s.is(id, "n3 active/rebuilding accepted")
			s.pass(4 * time.Second)
			s.is(id, "n4 active/ done")
			if m := s.see(id).Migration; m.ID != 3 || m.From != "n3" || m.To != "n4" {
				s.Errorf("%+v", m)
			}
			s.sound()
		}},
		{"a controller dies with the message: pre-migrating for ever", func(s *stage) {
			id := s.server("n1")
			s.lose("n1")
			s.cloud.Lose(1)
			s.evacuate(id, "")
			s.pass(time.Hour)
			s.is(id, "n1 active/rebuilding pre-migrating")
			s.evacuate(id, "")
			s.pass(4 * time.Second)
			s.is(id, "n2 active/ done")
			s.sound()
		}},
		{"the source returns: down while forced down, its records completed, and then lifted", func(s *stage) {
			id := s.server("n1")
			s.lose("n1")
			s.evacuate(id, "n2")
			s.pass(4 * time.Second)
			if err := s.do(fleet.CloudLift, "compute/n1", ""); openstack.OutcomeOf(err) != fleet.Refused {
				s.Errorf("lifted before it was back: %v", err)
			}
			s.cloud.Start("n1")
			s.pass(11 * time.Second)
			s.is(id, "n2 active/ completed")
			if c, _ := s.client.Look(s.Context(), 1, nil, nil); c.Computes["n1"].Up {
				s.Error("up while forced down")
			}
			s.must(fleet.CloudLift, "compute/n1", "")
			if c, _ := s.client.Look(s.Context(), 1, nil, nil); !c.Computes["n1"].Up {
				s.Error("not up when lifted")
			}
			s.sound()
		}},
		{"the source of a live migration dies: on which side the guest runs Nova does not say, and the target looks", func(s *stage) {
			early, late := s.server("n1"), s.server("n1")
			s.must(fleet.CloudMigrate, "server/"+late, "n2")
			s.pass(1500 * time.Millisecond)
			s.must(fleet.CloudMigrate, "server/"+early, "n2")
			s.pass(1600 * time.Millisecond) // the one has gone on there, the other has not
			s.lose("n1")
			for _, id := range []string{early, late} {
				if v := s.see(id); v.Host != "n1" || v.Task != fleet.TaskMigrating || v.Live.Status != "running" || v.Live.To != "n2" {
					s.Errorf("%+v", v)
				}
				s.evacuate(id, "n2")
			}
			s.pass(10 * time.Second)
			s.is(early, "n2 active/ done")
			s.is(late, "n1 error/ failed")
			s.runs(late, "n2")
			if v := s.see(late); !strings.Contains(v.Fault, "already exists") {
				s.Errorf("%+v", v)
			}
			s.cloud.Destroy(late, "n2")
			s.evacuate(late, "n2")
			s.pass(4 * time.Second)
			s.sound()
		}},
		{"the target of a live migration dies before or after its guest goes on there", func(s *stage) {
			early, late := s.server("n1"), s.server("n1")
			s.must(fleet.CloudMigrate, "server/"+late, "n2")
			s.pass(1500 * time.Millisecond)
			s.must(fleet.CloudMigrate, "server/"+early, "n2")
			s.pass(1600 * time.Millisecond)
			s.cloud.Kill("n2")
			s.pass(10 * time.Second)
			s.is(early, "n1 active/")
			s.runs(early, "n1")
			if v := s.see(late); v.Host != "n1" || v.Task != fleet.TaskMigrating || v.Live.Status != "completed" {
				s.Errorf("%+v", v)
			}
			s.runs(late)
			s.must(fleet.CloudReset, "server/"+late, fleet.ServerError)
			s.must(fleet.CloudStart, "server/"+late, "")
			s.pass(4 * time.Second)
			s.sound()
		}},
		{"a stopped server stays stopped", func(s *stage) {
			id := s.cloud.AddServer(falsecloud.Server{Name: "s", Host: "n1", State: "stopped"})
			s.lose("n1")
			s.evacuate(id, "")
			s.pass(4 * time.Second)
			s.is(id, "n2 stopped/ done")
			s.sound()
		}},
		{"who is forced down and lives runs its guests twice: an assertion is no proof", func(s *stage) {
			id := s.server("n1")
			s.cloud.Silence("n1")
			s.must(fleet.CloudForceDown, "compute/n1", "")
			s.evacuate(id, "n2")
			s.pass(4 * time.Second)
			s.runs(id, "n1", "n2")
			if found := s.cloud.Audit(); len(found) != 2 {
				s.Error(found)
			}
		}},
		{"in a cell that is away nothing is known of a host", func(s *stage) {
			s.server("n1")
			s.cloud.LoseCell(true, "n1")
			c, err := s.client.Look(s.Context(), 1, []string{"n1", "n2"}, nil)
			if err == nil || !strings.Contains(c.Away, "does not reach its cell") || len(c.Computes) != 2 || len(c.Looked) != 1 {
				s.Errorf("%v: %+v", err, c)
			}
		}},
		{"a host that returns without its servers having been moved has them, not running", func(s *stage) {
			id := s.server("n1")
			s.lose("n1")
			s.cloud.Start("n1")
			s.pass(11 * time.Second)
			s.must(fleet.CloudLift, "compute/n1", "")
			s.is(id, "n1 active/")
			s.runs(id)
			s.must(fleet.CloudStart, "server/"+id, "")
			s.pass(2 * time.Second)
			s.runs(id, "n1")
			s.sound()
		}},
		{"a guest that crashes: Nova believes that it runs, and has it stopped after 15 s", func(s *stage) {
			id := s.server("n1")
			s.cloud.Crash(id)
			s.pass(5 * time.Second)
			s.is(id, "n1 active/")
			s.must(fleet.CloudStart, "server/"+id, "") // Nova says that it runs: nothing to be done
			s.runs(id)
			s.must(fleet.CloudReboot, "server/"+id, "")
			s.pass(2 * time.Second)
			s.is(id, "n1 active/")
			s.runs(id, "n1")
			s.pass(20 * time.Second)
			s.is(id, "n1 active/") // it runs again: nothing is stopped
			s.cloud.Crash(id)
			s.pass(16 * time.Second)
			s.is(id, "n1 stopped/")
			s.must(fleet.CloudReboot, "server/"+id, "")
			s.pass(2 * time.Second)
			s.is(id, "n1 active/")
			s.sound()
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := play(t, falsecloud.Config{})
			s.T = t
			s.computes("n1", "n2", "n3")
			row.play(s)
		})
	}
}

// TestMicroversions: what a client that speaks another one would meet.
func TestMicroversions(t *testing.T) {
	s := play(t, falsecloud.Config{Newest: 100})
	s.computes("n1")
	a := s.cloud.AddServer(falsecloud.Server{Name: "a", Host: "n1", Zone: "nova"})
	b := s.server("n1")
	c, err := s.client.Look(t.Context(), 1, []string{"n1"}, nil)
	if err != nil || c.Servers[a].Zone != "nova" || c.Servers[b].Zone != "" {
		t.Errorf("%v: %+v", err, c.Servers)
	}
	s = play(t, falsecloud.Config{Newest: 93})
	s.computes("n1")
	b = s.server("n1")
	if c, err := s.client.Look(t.Context(), 1, []string{"n1"}, nil); err != nil || c.Servers[b].Zone != "nova" {
		t.Errorf("%v: an older Nova tells the zone of the host: %+v", err, c.Servers)
	}
}

// TestScale: 1,000 computes with 20,000 servers, a tenth of them with -short, lose a rack of
// 40, and a look stays a handful of requests and one for each host.
func TestScale(t *testing.T) {
	each := 20
	if testing.Short() {
		each = 2
	}
	s := play(t, falsecloud.Config{Page: 1000})
	var hosts []string
	for i := range 1000 {
		hosts = append(hosts, fmt.Sprintf("n%04d", i))
		s.computes(hosts[i])
		for range each {
			s.server(hosts[i])
		}
	}
	rack := hosts[:40]
	s.pass(time.Hour)
	for _, h := range rack {
		s.lose(h)
	}
	look := func(hosts, further []string) (fleet.Cloud, map[string]int) {
		before, begun := s.cloud.Calls(), time.Now()
		c, err := s.client.Look(t.Context(), 1, hosts, further)
		if err != nil {
			t.Fatal(err)
		}
		calls := s.cloud.Calls()
		for k := range calls {
			calls[k] -= before[k]
			if calls[k] == 0 {
				delete(calls, k)
			}
		}
		t.Logf("%d hosts, %d further servers: %v in %v", len(hosts), len(further), calls, time.Since(begun).Round(time.Millisecond))
		return c, calls
	}
	c, calls := look(rack, nil)
	if len(c.Computes) != 1000 || len(c.Servers) != 40*each || calls["GET os-services"] != 1 || calls["GET os-hypervisors/detail"] != 1 || calls["GET servers/detail"] != 40 || calls["GET os-migrations"] != 2 {
		t.Fatalf("%d computes, %d servers, %v", len(c.Computes), len(c.Servers), calls)
	}
	ids := fleet.Sorted(c.Servers)
	for i, id := range ids { // each to a host of its own: the plan spreads them
		s.evacuate(id, hosts[40+i])
	}
	s.pass(time.Minute)
	c, calls = look(nil, ids)
	if len(c.Servers) != 40*each || calls["GET servers/detail"] != 1 || calls["GET servers/{id}"] != 0 || calls["GET os-migrations"] > 3 {
		t.Fatalf("%d servers, %v", len(c.Servers), calls)
	}
	for _, id := range ids {
		if v := c.Servers[id]; v.Migration.Status != "done" || v.Host == v.Migration.From {
			t.Fatalf("%+v", v)
		}
	}
	s.sound()
	s.pass(24 * time.Hour)
	if _, calls = look(nil, nil); calls["GET os-migrations"] != 1 {
		t.Error(calls)
	}
}

// TestOldAndUnended: an evacuation that ends long after younger ones were read is seen to end.
func TestOldAndUnended(t *testing.T) {
	s := play(t, falsecloud.Config{Work: 2 * time.Hour})
	s.computes("n1", "n2", "n3")
	a, b := s.server("n1"), s.server("n1")
	s.lose("n1")
	s.evacuate(a, "n2")
	s.pass(time.Minute)
	s.is(a, "n1 active/rebuilding pre-migrating")
	s.pass(time.Hour)
	s.evacuate(b, "n3")
	s.pass(time.Minute)
	s.is(b, "n1 active/rebuilding pre-migrating")
	s.pass(time.Hour)
	s.is(a, "n2 active/ done")
}

// TestPages: all pages of each list are read, whatever the library reads.
func TestPages(t *testing.T) {
	s := play(t, falsecloud.Config{Page: 3})
	s.computes("n1", "n2", "n3", "n4", "n5", "n6", "n7")
	var ids []string
	for range 10 {
		ids = append(ids, s.server("n1"))
	}
	s.lose("n1")
	for i, id := range ids {
		s.evacuate(id, fmt.Sprintf("n%d", 2+i%6))
	}
	s.pass(time.Second)
	c, err := s.client.Look(t.Context(), 1, []string{"n1"}, nil)
	if err != nil || len(c.Servers) != 10 || c.Computes["n7"].FreeRAM == 0 {
		t.Fatalf("%v: %d servers, %+v", err, len(c.Servers), c.Computes)
	}
	for _, id := range ids {
		if c.Servers[id].Migration.ID == 0 {
			t.Errorf("the evacuation of %s is on a page that was not read", id)
		}
	}
}
