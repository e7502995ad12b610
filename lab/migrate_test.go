package lab

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// TestMigrate drains computes of a real OpenStack for maintenance, one that runs a guest and
// one that Nova's fake driver plays: the guest goes on ticking on the other, with no boot
// between. Taken back, the compute gets new servers again; and a shutdown in between fences nobody.
func TestMigrate(t *testing.T) {
	if !playsOpenStack(t, "a quarter of an hour", "lab-migrate") {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Minute)
	defer cancel()
	o := newOpenStack(ctx, t, "openstack: {cloud: lab}\n")
	if !o.inhabited(t) {
		return
	}
	for _, way := range [][2]string{{"r1", "r2"}, {"r2", "r1"}, {"n1", "n2"}} {
		if !t.Run("maintenance of "+way[0]+" with drain", func(t *testing.T) { o.drains(t, way[0], way[1]) }) {
			return
		}
	}
	t.Run("the source's nova-compute is restarted in the midst", o.interrupted)
}

// migrations are Nova's records of a server's live migrations.
func (s *openStackSite) migrations(id string) (statuses []string, err error) {
	all, err := s.moves(id, "live-migration")
	for _, m := range all {
		statuses = append(statuses, m.Status)
	}
	return statuses, err
}

// novaMove is what Nova keeps of one move of a server, its times in UTC to the second.
type novaMove struct {
	ID      int    `json:"id"`
	Status  string `json:"status"`
	Type    string `json:"migration_type"`
	Created string `json:"created_at"`
	Updated string `json:"updated_at"`
}

// over says whether Nova had given a move up by then, before it did anything that lasts.
func (m novaMove) over(by string) bool {
	return slices.Contains([]string{"failed", "error"}, m.Status) && m.Updated != "" && m.Updated <= by
}

// moves are what Nova keeps of a server's moves of one sort, the oldest first.
func (s *openStackSite) moves(id, sort string) ([]novaMove, error) {
	var answer struct {
		Migrations []novaMove `json:"migrations"`
	}
	err := s.cloud.Ask(s.ctx, "compute", "GET", "/os-migrations?instance_uuid="+id, nil, &answer)
	slices.SortFunc(answer.Migrations, func(a, b novaMove) int { return a.ID - b.ID })
	return slices.DeleteFunc(answer.Migrations, func(m novaMove) bool { return m.Type != sort }), err
}

// runs are the hosts on which a server has a process, by no word but the hosts' own.
func (s *openStackSite) runs(t *testing.T, id string) (hosts []string) {
	t.Helper()
	guests, err := s.cloud.Guests(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range guests {
		if g.Server == id && g.Running {
			hosts = append(hosts, g.Host)
		}
	}
	return hosts
}

// interrupted kills nova-compute on r1 while libvirt sends a guest from there to r2, slowly.
// The next nova-compute calls that an error, with a target, whatever became of the guest: so
// Mainstay must not ask again, start the guest nowhere, and tell a person where it may be.
func (s *openStackSite) interrupted(t *testing.T) {
	all, err := s.cloud.Servers(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	before, earlier := map[string]int{}, map[string]int{} // its process, and how often it was live-migrated
	for _, v := range all {
		if v.Host != "r1" {
			continue
		}
		if before[v.ID], err = s.process("r1", v.ID); err != nil {
			t.Fatal(err)
		}
		records, err := s.migrations(v.ID)
		if err != nil {
			t.Fatal(err)
		}
		earlier[v.ID] = len(records)
		s.run(t, "r1", "virsh", "migrate-setspeed", v.ID, "1")
	}
	begun := time.Now()
	since := func() time.Duration { return time.Since(begun).Round(100 * time.Millisecond) }
	s.run(t, "c1", "mainstay", "maintenance", "r1", "on", "--drain", "--why", "a test")
	id := ""
	err = waitFor(s.ctx, siteBound, "libvirt to send a guest", func() (bool, error) {
		for _, id = range slices.Sorted(maps.Keys(before)) {
			now, err := s.migrations(id)
			job, _ := s.lab.Run(s.ctx, "r1", "virsh", "domjobinfo", id) // it has gone, or has no job
			if err == nil && len(now) > earlier[id] && now[len(now)-1] == "running" && strings.Contains(job, "Data remaining") {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v: Nova calls its live migration running, and libvirt sends", since())
	s.run(t, "r1", "systemctl", "kill", "-s", "KILL", "nova-compute")
	var now []string
	err = waitFor(s.ctx, siteBound, "Nova to end the live migration, and the guest to have one process", func() (bool, error) {
		now, err = s.migrations(id)
		return err == nil && now[len(now)-1] != "running" && len(s.runs(t, id)) == 1, nil
	})
	if err != nil {
		t.Error(err)
	}
	v := s.server(t, id)
	t.Logf("%v: Nova's records of its live migrations are %v, it has it on %s as %s/%s; it runs on %v", since(), now, v.Host, v.State, v.Task, s.runs(t, id))
	// The target has written the console's file anew, so that nobody reads the source's ticks.
	for _, host := range s.runs(t, id) {
		pid, err := s.process(host, id)
		state, _ := s.lab.Run(s.ctx, host, "virsh", "domstate", "--reason", id) // shown as it is
		t.Logf("%v: on %s it is %s (%v); process %d, on r1 it was %d", since(), host, strings.TrimSpace(state), err, pid, before[id])
		if host == "r1" && pid != before[id] {
			t.Error("it was started anew")
		}
	}
	s.awaitFrom(t, "c1", "a person to be told", func(st api.Status) bool {
		return slices.ContainsFunc(st.Waits, func(w fleet.Wait) bool {
			told := w.About == "compute/r1" && strings.Contains(w.For, "stay")
			if told {
				t.Logf("%v: %s waits for %s", since(), w.About, w.For)
			}
			return told
		})
	})
	// Nothing more may come of it while nobody helps: neither another try nor a second process.
	alone := time.Now()
	err = waitFor(s.ctx, siteBound, "a minute to pass", func() (bool, error) {
		if hosts := s.runs(t, id); len(hosts) != 1 {
			return false, fmt.Errorf("it runs on %v", hosts)
		}
		return time.Since(alone) > time.Minute, nil
	})
	if err != nil {
		t.Error(err)
	}
	if again, err := s.migrations(id); err != nil || len(again) != len(now) {
		t.Errorf("Nova was asked again: %v after %v (%v)", again, now, err)
	}
	v = s.server(t, id)
	t.Logf("%v: Nova has it on %s as %s/%s, power state %d; it runs on %v", since(), v.Host, v.State, v.Task, v.Power, s.runs(t, id))
	s.stages(t, begun, "r1")
	// What a person does: end what runs where Nova does not have it, and start it where it does.
	for _, host := range s.runs(t, id) {
		if host != v.Host {
			s.run(t, host, "virsh", "destroy", id)
		}
	}
	s.run(t, "c1", "mainstay", "maintenance", "r1", "off")
	if hosts := s.runs(t, id); len(hosts) == 0 {
		if err := s.cloud.Ask(s.ctx, "compute", "POST", "/servers/"+id+"/action", map[string]any{"reboot": map[string]string{"type": "HARD"}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.cloud.Active(s.ctx, id); err != nil {
		t.Fatal(err)
	}
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.exactly(t)
}

// server is one of Nova's.
func (s *openStackSite) server(t *testing.T, id string) Server {
	t.Helper()
	all, err := s.cloud.Servers(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(v Server) bool { return v.ID == id })
	if i < 0 {
		t.Fatalf("Nova knows no server %s", id)
	}
	return all[i]
}

// drains takes a compute out of service, and back into it.
func (s *openStackSite) drains(t *testing.T, host, to string) {
	all, err := s.cloud.Servers(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, v := range all {
		if v.Host == host && v.State == "active" {
			ids = append(ids, v.ID)
		}
	}
	if len(ids) == 0 {
		t.Fatalf("no server on %s", host)
	}
	real := strings.HasPrefix(host, "r")
	var before Tick
	if real {
		if before, err = s.cloud.Ticking(s.ctx, ids[0]); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t, "c1", "mainstay", "maintenance", host, "on", "--drain", "--dry-run")
	begun := time.Now()
	s.run(t, "c1", "mainstay", "maintenance", host, "on", "--drain", "--wait", "8m", "--why", "a test")
	took := time.Since(begun).Round(100 * time.Millisecond)
	s.stages(t, begun, host)
	if all, err = s.cloud.Servers(s.ctx); err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if slices.Contains(ids, v.ID) && (v.Host != to || v.State != "active" || v.Task != "") {
			t.Errorf("%s is %s %s on %s", v.Name, v.State, v.Task, v.Host)
		}
	}
	t.Logf("%d servers of %s are on %s %v after the wish", len(ids), host, to, took)
	if real {
		after, err := s.cloud.Ticking(s.ctx, ids[0])
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the guest's boot %s: tick %d before, %d after; boot %s", before.Boot, before.N, after.N, after.Boot)
		if after.Boot != before.Boot || after.N <= before.N {
			t.Errorf("it is another boot, or has lost ticks: %+v, then %+v", before, after)
		}
	}
	s.exactly(t)
	s.run(t, "c1", "mainstay", "maintenance", host, "off")
	s.awaitEnabled(t, host)
	s.awaitFrom(t, "c1", "all to be well", s.calm)
}
