package lab

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMigrate drains computes of a real OpenStack for maintenance, one that runs a guest and
// one that Nova's fake driver plays: the guest goes on ticking on the other, with no boot
// between. Taken back, the compute gets new servers again; and a shutdown in between fences nobody.
func TestMigrate(t *testing.T) {
	if !*openStackLab {
		t.Log("not played: it takes a quarter of an hour and 9 GB of memory; make lab-migrate")
		return
	}
	if _, err := os.Stat(GuestKernel); err != nil {
		t.Fatalf("the guest's kernel: %v: make lab-migrate fetches it", err)
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
	err = waitFor(s.ctx, siteBound, host+" to take servers again", func() (bool, error) {
		all, err := s.cloud.ComputeServices(s.ctx)
		return err == nil && slices.ContainsFunc(all, func(c ComputeService) bool {
			return c.Host == host && c.Binary == "nova-compute" && c.State == "up" && c.Status == "enabled"
		}), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.awaitFrom(t, "c1", "all to be well", s.calm)
}
