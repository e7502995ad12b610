package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// TestSnapshots gives a compute of a real OpenStack guests whose disks are on its own, and lets it lose its
// power twice: once it comes back in time, and they go on with all that was written; once it does not, and
// they are restored elsewhere with what their newest snapshots have, and without what was written since. What
// stands on each disk is written and read past Nova and Mainstay. While the second snapshot
// is waited for, computes are silent on every network and write to storage that all share; and at the end
// what was evacuated for it goes back to where it was.
func TestSnapshots(t *testing.T) {
	if !playsOpenStack(t, "an hour", "lab-snapshots") {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Minute)
	defer cancel()
	o := &disks{openStackSite: newOpenStack(ctx, t, "openstack: {cloud: lab}\n")}
	if *openStackName != "" { // who plays on it next finds r1 as it was made
		t.Cleanup(func() {
			o.ctx = context.WithoutCancel(ctx) // it has ended when this runs
			o.instancesIn(t, "r1", Shared+"/instances")
		})
	}
	t.Run("everything under Mainstay is ready", o.ready)
	t.Run("the cloud is furnished", o.furnished)
	t.Run("a compute with disks of its own", o.localised)
	if *openStackName == "" {
		t.Run("every compute takes a server", o.warm)
	}
	t.Run("servers", o.inhabited)
	if t.Failed() {
		return
	}
	for _, step := range []struct {
		name string
		play func(*testing.T)
	}{
		{"the policy begins, and each server has a snapshot", o.pictured},
		{"the compute is back in time, with all that was written", o.backInTime},
		{"silent, and writes to storage: left to a person, and a dead one is fenced at once", o.silentAndLeft},
		{"silent, and writes to storage: fenced after a minute", o.silentAndFenced},
		{"two are silent and write to storage: it is the network", o.silentTogether},
		{"a newer snapshot, and the older one is deleted", o.picturedAgain},
		{"the compute does not come back, and its servers are restored", o.restored},
		{"what was evacuated goes back", o.goesBack},
	} {
		if !t.Run(step.name, step.play) {
			return
		}
	}
}

// disks is a site of which one compute, r1, has its servers' disks on its own.
type disks struct {
	*openStackSite
	all    string // the site's services, with the shared directory on each compute
	owner  *OpenStack
	tenant *OpenStack
	// The servers on r1: another project's, that runs; one that is stopped; and one whose owner
	// wants no snapshots of it.
	runs, stopped, unsaved string
	newest                 map[string]picture
	// Marks up to written stand on the disks, and those up to saved were there when the newest snapshots were made.
	written, saved int
}

// policy is what the site's file says of the cloud, but for what follows for who is silent and writes to storage.
const policy = "openstack: {cloud: lab, local_disks: {hosts: [r1], wait: 3m}, snapshots: {every: 15m, keep: 1}, storage_heartbeat: " + Shared + "/instances, lost: {all: %s}, rebalance: returned}\n"

func (s *disks) localised(t *testing.T) {
	s.instancesIn(t, "r1", localInstances)
	// Each compute needs the shared directory for its heartbeat, the fake ones too.
	from, err := s.lab.HostPath("r1")
	if err != nil {
		t.Fatal(err)
	}
	unit, err := os.ReadFile(from + "/etc/systemd/system/" + SharedUnit)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range s.cloud.release.with(RoleFake) {
		if err := s.lab.CopyIn(host, "/etc/systemd/system/"+SharedUnit, unit, 0o644); err != nil {
			t.Fatal(err)
		}
		s.run(t, host, "systemctl", "daemon-reload")
		s.run(t, host, "sync")
	}
	c := s.config("openstack: {cloud: lab}\n")
	s.all = strings.Replace(c.Services, "hosts: [c1, c2, c3, r1, r2]", "hosts: [c1, c2, c3, n1, n2, "+spareHost+", r1, r2]", 1)
	if s.all == c.Services {
		t.Fatal("the services do not name the hosts that share a directory as they did")
	}
	c.Services = s.all
	s.apply(t, c)
	s.awaitFrom(t, "c1", "all to be well", s.calm)
}

// instancesIn gives a real compute, on which no server is, another directory for its instances.
func (s *openStackSite) instancesIn(t *testing.T, host, dir string) {
	t.Helper()
	const name = "/etc/nova/nova-compute.conf"
	on, err := s.lab.HostPath(host)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(on + name)
	if err != nil {
		t.Fatal(err)
	}
	after := regexp.MustCompile(`(?m)^instances_path = .*$`).ReplaceAll(before, []byte("instances_path = "+dir))
	if string(after) == string(before) {
		return
	}
	if err := s.lab.CopyIn(host, name, after, 0o644); err != nil {
		t.Fatal(err)
	}
	s.run(t, host, "install", "-d", "-o", "nova", "-g", "nova", dir)
	s.run(t, host, "sync")
	s.run(t, host, "systemctl", "restart", "nova-compute")
}

// named creates a server, and waits until it is active.
func (o *OpenStack) named(ctx context.Context, t *testing.T, name, zone string) string {
	t.Helper()
	id, err := o.Create(ctx, name, zone, false)
	if err == nil {
		_, err = o.Active(ctx, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (s *disks) inhabited(t *testing.T) {
	var err error
	if s.tenant, s.owner, err = s.cloud.Tenant(s.ctx, "tenant"); err != nil {
		t.Fatal(err)
	}
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.awaitEnabled(t, "r1")
	s.runs = s.tenant.named(s.ctx, t, "runs", "real:r1")
	s.stopped = s.cloud.named(s.ctx, t, "stopped", "real:r1")
	s.unsaved = s.cloud.named(s.ctx, t, "unsaved", "real:r1")
	s.cloud.named(s.ctx, t, "shared", "real:r2")
	for _, host := range []string{"n1", "n2"} {
		s.create(t, "fake:"+host, 2, false)
	}
	if err := s.cloud.Ask(s.ctx, "compute", "POST", "/servers/"+s.unsaved+"/metadata", map[string]any{"metadata": map[string]string{fleet.MetaSnapshot: "False"}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.cloud.Ask(s.ctx, "compute", "POST", "/servers/"+s.stopped+"/action", map[string]any{"os-stop": nil}, nil); err != nil {
		t.Fatal(err)
	}
	err = waitFor(s.ctx, siteBound, "a server to be stopped", func() (bool, error) {
		v := s.server(t, s.stopped)
		return v.State == "stopped" && v.Task == "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.written = 1
	for _, id := range []string{s.runs, s.stopped, s.unsaved} {
		s.mark(t, "r1", id, 1)
	}
	s.exactly(t)
}

// mark writes to a server's disk, as its guest would: through its QEMU where it runs.
func (s *disks) mark(t *testing.T, host, id string, n int) {
	t.Helper()
	v := s.server(t, id)
	write := fmt.Sprintf("write -P %d %dM 512", n, n)
	if v.State == "stopped" {
		s.run(t, host, "qemu-io", "-f", "qcow2", "-c", write, "-c", "flush", localInstances+"/"+id+"/disk")
	} else {
		for _, c := range []string{write, "flush"} {
			s.run(t, host, "virsh", "qemu-monitor-command", id, "--hmp", `qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "`+c+`"`)
		}
	}
	s.run(t, host, "sync")
	if have := s.marks(t, host, localInstances, id); !slices.Contains(have, n) {
		t.Fatalf("mark %d is not on the disk of %s, but %v", n, v.Name, have)
	}
	t.Logf("%s: mark %d is on the disk of %s", time.Now().UTC().Format(time.TimeOnly), n, v.Name)
}

// marks are those that stand on a server's disk.
func (s *disks) marks(t *testing.T, host, dir, id string) (have []int) {
	t.Helper()
	for n := 1; n <= 3; n++ {
		out, err := s.lab.Run(s.ctx, host, "qemu-io", "-U", "-r", "-f", "qcow2", "-c", fmt.Sprintf("read -P %d %dM 512", n, n), dir+"/"+id+"/disk")
		switch {
		case strings.Contains(out, "Pattern verification failed"):
		case err != nil:
			t.Fatalf("the disk of %s on %s: %v: %s", id, host, err, out)
		default:
			have = append(have, n)
		}
	}
	return have
}

// marked fails unless all marks up to the last one stand on a server's disk, and none after it.
func (s *disks) marked(t *testing.T, host, dir, id string, last int) {
	t.Helper()
	if have := s.marks(t, host, dir, id); len(have) != last || last > 0 && have[last-1] != last {
		t.Errorf("on the disk of %s on %s are the marks %v, and the last should be %d", id, host, have, last)
	}
}

// writes puts the next mark on the disks that are saved.
func (s *disks) writes(t *testing.T) {
	t.Helper()
	s.written++
	for _, id := range []string{s.runs, s.stopped} {
		s.mark(t, "r1", id, s.written)
	}
}

// picture is a snapshot in Glance's words.
type picture struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Status     string    `json:"status"`
	Owner      string    `json:"owner"`
	Visibility string    `json:"visibility"`
	Format     string    `json:"disk_format"`
	Size       int64     `json:"size"`
	Made       time.Time `json:"created_at"`
	Server     string    `json:"mainstay_server"`
}

// pictures are those that Mainstay made, the newest of each server first.
func (s *disks) pictures() (map[string][]picture, error) {
	var answer struct {
		Images []picture `json:"images"`
	}
	err := s.cloud.Ask(s.ctx, "image", "GET", "/images?mainstay=snapshot&limit=100&sort=created_at:desc", nil, &answer)
	out := map[string][]picture{}
	for _, p := range answer.Images {
		out[p.Server] = append(out[p.Server], p)
	}
	return out, err
}

func (s *disks) pictured(t *testing.T) {
	old, err := s.pictures()
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	s.saved = s.written
	s.asks(t, fleet.LossDisable)
	err = waitFor(s.ctx, siteBound, "a snapshot of each server whose disk is on r1", func() (bool, error) {
		all, err := s.pictures()
		s.newest = map[string]picture{}
		for _, id := range []string{s.runs, s.stopped} {
			if p := all[id]; err == nil && len(p) > 0 && p[0].Status == "active" {
				s.newest[id] = p[0]
			}
		}
		return len(s.newest) == 2, nil
	})
	s.stages(t, begun, "r1")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("each has one %v after the site's file said so", time.Since(begun).Round(time.Second))
	all, err := s.pictures()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(old)+2 || len(all[s.runs]) != 1 || len(all[s.stopped]) != 1 {
		t.Errorf("there are more than one of each: %+v", all)
	}
	for _, p := range s.newest {
		t.Logf("%s is %s, %s, %d bytes, of %s, %s", p.Name, p.Status, p.Format, p.Size, p.Made.Format(time.TimeOnly), p.Visibility)
	}
	// It is Mainstay's own project's, and the owner of the server may see it.
	var seen picture
	if err := s.owner.Ask(s.ctx, "image", "GET", "/images/"+s.newest[s.runs].ID, nil, &seen); err != nil || seen.Owner != s.newest[s.stopped].Owner {
		t.Errorf("by the owner's eyes the snapshot is %+v: %v", seen, err)
	}
	if err := s.owner.Ask(s.ctx, "image", "DELETE", "/images/"+s.newest[s.runs].ID, nil, nil); err == nil {
		t.Error("the owner of a server may delete its snapshot")
	}
	s.aged(t)
	told := s.fates(t)
	for id, want := range map[string]string{s.runs: fleet.FateMoves, s.stopped: fleet.FateMoves, s.unsaved: fleet.FateLeft} {
		f := told[id]
		if f.State != want || want == fleet.FateMoves && (f.To != "r2" || f.Snapshot.Sub(s.newest[id].Made).Abs() > time.Second) {
			t.Errorf("the preview says of %s: %+v", f.Name, f)
		}
	}
}

// asks gives the site the policy, with what follows for who is silent and writes to storage.
func (s *disks) asks(t *testing.T, l fleet.Loss) {
	t.Helper()
	c := s.config(fmt.Sprintf(policy, l))
	c.Services = s.all
	s.apply(t, c)
}

// aged waits until status, metrics and command line tell how old the newest snapshots are.
func (s *disks) aged(t *testing.T) {
	t.Helper()
	s.awaitFrom(t, "c1", "the snapshots to be counted", func(st api.Status) bool {
		x := st.Snapshots
		return x.Servers == 2 && x.Without == 0 && x.Late == 0 && len(x.Oldest) == 2 && !slices.ContainsFunc(x.Oldest, func(p fleet.Picture) bool {
			return p.Newest.Sub(s.newest[p.Server].Made).Abs() > time.Second || p.Due.Sub(p.Newest) != 15*time.Minute
		})
	})
	lead := s.status(t).Leader
	oldest := time.Now()
	for _, p := range s.newest {
		if p.Made.Before(oldest) {
			oldest = p.Made
		}
	}
	for line := range strings.Lines(s.run(t, lead, "curl", "-s", "--unix-socket", "/run/mainstay/api.sock", "http://here/metrics")) {
		f := strings.Fields(line)
		if len(f) != 2 || !strings.HasPrefix(line, "mainstay_snapshots_") {
			continue
		}
		t.Log(strings.TrimSpace(line))
		var value float64
		if _, err := fmt.Sscan(f[1], &value); err != nil {
			t.Error(err)
		}
		if is := time.Since(oldest).Seconds(); f[0] == "mainstay_snapshots_oldest_seconds" && (value > is || value < is-30) || f[0] == "mainstay_snapshots_late_servers" && value != 0 {
			t.Errorf("%s is %v, and the oldest was made %.0f s ago", f[0], value, is)
		}
	}
	_, text, found := strings.Cut(s.run(t, lead, "mainstay", "status"), "\nSNAPSHOTS")
	if t.Logf("mainstay status: SNAPSHOTS%s", text); !found || !strings.Contains(text, "runs") || !strings.Contains(text, "stopped") {
		t.Error("mainstay status does not tell of them")
	}
}

// fates are what a preview says of each server on r1 if it died now.
func (s *disks) fates(t *testing.T) map[string]fleet.Fate {
	t.Helper()
	out := map[string]fleet.Fate{}
	for _, f := range s.previewed(t, "r1").Fates {
		out[f.Server] = f
		t.Logf("preview: %s %s %s (%v to %v): %s", f.Name, f.State, f.To, f.RTO.Least.Round(time.Second), f.RTO.Most.Round(time.Second), f.Why)
	}
	return out
}

// backInTime takes r1's power, and lets Mainstay turn it on again.
func (s *disks) backInTime(t *testing.T) {
	s.writes(t)
	before, err := s.cloud.Ticking(s.ctx, s.runs)
	if err != nil {
		t.Fatal(err)
	}
	deed, err := s.lab.PowerOff(s.ctx, "r1")
	if err != nil {
		t.Fatal(err)
	}
	s.awaitFrom(t, "c1", "it to be waited for", func(st api.Status) bool {
		return slices.ContainsFunc(st.Waits, func(w fleet.Wait) bool {
			told := w.About == "compute/r1" && strings.Contains(w.For, "the disks of its servers are on it")
			if told {
				t.Logf("%v after the power loss %s waits for %s", time.Since(deed.At).Round(100*time.Millisecond), w.About, w.For)
			}
			return told
		})
	})
	s.resumed(t, deed.At, s.runs, before)
	s.awaitEnabled(t, "r1")
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	t.Logf("r1 takes servers again, and all is well, %v after the power loss", time.Since(deed.At).Round(time.Second))
	s.stages(t, deed.At, "r1")
	s.exactly(t)
	if asked := s.askedFor(deed.At); len(asked) > 0 {
		t.Errorf("it came back in time: %v", asked)
	}
	s.marked(t, "r1", localInstances, s.runs, s.written)
	s.marked(t, "r1", localInstances, s.stopped, s.written)
	s.marked(t, "r1", localInstances, s.unsaved, 1)
	if v := s.server(t, s.stopped); v.State != "stopped" || v.Host != "r1" {
		t.Errorf("what was stopped is %s on %s", v.State, v.Host)
	}
}

// resumed waits until another boot of a guest ticks.
func (s *disks) resumed(t *testing.T, since time.Time, id string, before Tick) {
	t.Helper()
	err := waitFor(s.ctx, siteBound, "another boot of the guest to tick", func() (bool, error) {
		ticks, _ := s.cloud.Ticks(id)
		return len(ticks) > 0 && ticks[len(ticks)-1].Boot != before.Boot, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the guest ticks %v after the power loss", time.Since(since).Round(100*time.Millisecond))
}

// isolates cuts a compute off from everybody but the host that has the storage.
func (s *disks) isolates(t *testing.T, host string) time.Time {
	t.Helper()
	for _, m := range s.lab.Hosts {
		if m.Name != host && m.Name != storageHost {
			s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: host, Network: "storage", Peer: m.Name}))
		}
	}
	s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: host, Network: "tenant"}))
	deed, err := s.lab.Cut(s.ctx, Cut{Host: host, Network: "management"})
	if err != nil {
		t.Fatal(err)
	}
	return deed.At
}

func (s *disks) rejoins(t *testing.T, host string) time.Time {
	t.Helper()
	deed, err := s.lab.Heal(s.ctx, host, All)
	if err != nil {
		t.Fatal(err)
	}
	return deed.At
}

// lives waits until a person is told that a compute is silent and writes to storage.
func (s *disks) lives(t *testing.T, host string, since time.Time) {
	t.Helper()
	s.awaitFrom(t, "c1", host+" to be known to write to storage", func(st api.Status) bool {
		return slices.ContainsFunc(st.Waits, func(w fleet.Wait) bool {
			told := w.About == "compute/"+host && strings.Contains(w.For, "writes to storage")
			if told {
				t.Logf("%v after the cut %s waits for %s", time.Since(since).Round(100*time.Millisecond), w.About, w.For)
			}
			return told
		})
	})
}

// fencedSince says when history first says that a host will be fenced; zero: it does not.
func (s *openStackSite) fencedSince(host string, since time.Time) time.Time {
	for _, e := range s.lab.events(s.ctx) {
		if e.At.After(since) && strings.HasPrefix(e.Text, host+" will be fenced") {
			return e.At
		}
	}
	return time.Time{}
}

// silentAndLeft cuts r2 off from everybody but its storage, and takes n1's power meanwhile.
func (s *disks) silentAndLeft(t *testing.T) {
	s.awaitFrom(t, "c1", "all to write to storage", s.calm)
	guest := s.on(t, "r2")
	before, err := s.cloud.Ticking(s.ctx, guest.ID)
	if err != nil {
		t.Fatal(err)
	}
	cut := s.isolates(t, "r2")
	s.lives(t, "r2", cut)
	var ids []string
	for _, v := range s.servers(t, "n1") {
		ids = append(ids, v.ID)
	}
	deed, err := s.lab.PowerOff(s.ctx, "n1")
	if err != nil {
		t.Fatal(err)
	}
	e := s.happens(t, "c1", deed.At, func(e fleet.Event) bool { return strings.HasPrefix(e.Text, "n1 will be fenced") })
	t.Logf("n1, which is dead, is to be fenced %v after its power loss", e.At.Sub(deed.At).Round(100*time.Millisecond))
	err = waitFor(s.ctx, siteBound, "the servers of n1 to be on n2", func() (bool, error) { return s.arrived(ids, "n2"), nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("its %d servers are on n2 %v after its power loss", len(ids), time.Since(deed.At).Round(100*time.Millisecond))
	err = waitFor(s.ctx, siteBound, "r2 to be disabled, and 90 s to pass", func() (bool, error) {
		_, on, reason, err := s.enabled("r2")
		if err == nil && !on && time.Since(cut) > 90*time.Second {
			t.Logf("r2 is disabled: %s", reason)
			return true, nil
		}
		return false, nil
	})
	s.stages(t, cut, "r2")
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.cloud.Ticking(s.ctx, guest.ID)
	if err != nil || after.Boot != before.Boot {
		t.Errorf("the guest on r2: boot %s after %s: %v", after.Boot, before.Boot, err)
	}
	t.Logf("%v after the cut its guest ticks on: %d, and %d before", time.Since(cut).Round(time.Second), after.N, before.N)
	healed := s.rejoins(t, "r2")
	s.awaitEnabled(t, "r2")
	s.awaitEnabled(t, "n1")
	t.Logf("r2 takes servers again %v after its networks are back", time.Since(healed).Round(time.Second))
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.exactly(t)
	s.spared(t, cut, "n1")
}

// spared fails if anybody was fenced since but those hosts.
func (s *disks) spared(t *testing.T, since time.Time, but ...string) {
	t.Helper()
	for _, m := range s.lab.Hosts {
		if at := s.fencedSince(m.Name, since); !at.IsZero() && !slices.Contains(but, m.Name) {
			t.Errorf("%s was fenced", m.Name)
		}
	}
}

// silentAndFenced cuts n2 off so, where the site's file says that it is fenced.
func (s *disks) silentAndFenced(t *testing.T) {
	s.asks(t, fleet.LossEvacuate)
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	var ids []string
	for _, v := range s.servers(t, "n2") {
		ids = append(ids, v.ID)
	}
	cut := s.isolates(t, "n2")
	s.lives(t, "n2", cut)
	e := s.happens(t, "c1", cut, func(e fleet.Event) bool { return strings.HasPrefix(e.Text, "n2 will be fenced") })
	if t.Logf("n2 is to be fenced %v after the cut: %s", e.At.Sub(cut).Round(100*time.Millisecond), e.Text); e.At.Sub(cut) < time.Minute {
		t.Error("it lived, and was given less than a minute")
	}
	s.happens(t, "c1", cut, func(e fleet.Event) bool { return strings.HasPrefix(e.Text, "n2 is off") })
	s.rejoins(t, "n2")
	err := waitFor(s.ctx, siteBound, "the servers of n2 to be on n1", func() (bool, error) { return s.arrived(ids, "n1"), nil })
	s.stages(t, cut, "n2")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("its %d servers are on n1 %v after the cut", len(ids), time.Since(cut).Round(100*time.Millisecond))
	s.awaitEnabled(t, "n2")
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.exactly(t)
	s.spared(t, cut, "n2")
}

// silentTogether cuts two off so within a moment.
func (s *disks) silentTogether(t *testing.T) {
	cut := s.isolates(t, "n2")
	s.isolates(t, "r2")
	s.lives(t, "r2", cut)
	s.lives(t, "n2", cut)
	err := waitFor(s.ctx, siteBound, "90 s to pass", func() (bool, error) {
		select {
		case <-s.ctx.Done():
		case <-time.After(time.Second):
		}
		return time.Since(cut) > 90*time.Second, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range s.status(t).Waits {
		t.Logf("%s waits for %s", w.About, w.For)
	}
	s.rejoins(t, "n2")
	s.rejoins(t, "r2")
	s.awaitEnabled(t, "n2")
	s.awaitEnabled(t, "r2")
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.exactly(t)
	s.spared(t, cut)
}

// picturedAgain waits for the next snapshots, and for the first ones to be deleted.
func (s *disks) picturedAgain(t *testing.T) {
	first := s.newest
	s.saved = s.written
	err := waitFor(s.ctx, 25*time.Minute, "a newer snapshot of each, alone", func() (bool, error) {
		select {
		case <-s.ctx.Done():
		case <-time.After(time.Second):
		}
		all, err := s.pictures()
		now := map[string]picture{}
		for id := range first {
			if p := all[id]; err == nil && len(p) == 1 && p[0].Status == "active" && p[0].ID != first[id].ID {
				now[id] = p[0]
			}
		}
		s.newest = now
		return len(now) == len(first), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, p := range s.newest {
		t.Logf("of %s there is one of %s, %v after the first, and the first is gone", s.server(t, id).Name, p.Made.Format(time.TimeOnly), p.Made.Sub(first[id].Made).Round(time.Second))
		if after := p.Made.Sub(first[id].Made); after < 15*time.Minute || after > 20*time.Minute {
			t.Errorf("it was made %v after the first", after)
		}
	}
	all, err := s.pictures()
	if err != nil || len(all[s.unsaved]) > 0 {
		t.Errorf("whose owner wants none has %+v: %v", all[s.unsaved], err)
	}
	s.aged(t)
}

// restored takes r1's power and its networks, so that it is turned on and not heard of.
func (s *disks) restored(t *testing.T) {
	s.writes(t)
	before, err := s.cloud.Ticking(s.ctx, s.runs)
	if err != nil {
		t.Fatal(err)
	}
	told := s.fates(t)
	s.run(t, s.status(t).Leader, "mainstay", "status")
	deed, err := s.lab.PowerOff(s.ctx, "r1")
	if err != nil {
		t.Fatal(err)
	}
	s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: "r1", Network: All}))
	err = waitFor(s.ctx, 2*siteBound, "the servers with a snapshot to be on r2, and as they were", func() (bool, error) {
		all, err := s.cloud.Servers(s.ctx)
		there := 0
		for _, v := range all {
			if v.Host == "r2" && v.Task == "" && (v.ID == s.runs && v.State == "active" || v.ID == s.stopped && v.State == "stopped") {
				there++
			}
		}
		return err == nil && there == 2 && slices.ContainsFunc(s.lab.events(s.ctx), func(e fleet.Event) bool {
			return e.At.After(deed.At) && strings.HasPrefix(e.Text, "runs, evacuated from r1: on r2")
		}) && slices.ContainsFunc(s.lab.events(s.ctx), func(e fleet.Event) bool {
			return e.At.After(deed.At) && strings.HasPrefix(e.Text, "stopped, evacuated from r1: on r2")
		}), nil
	})
	took := time.Since(deed.At)
	s.stages(t, deed.At, "r1")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("both are on r2, restored, %v after the power loss", took.Round(100*time.Millisecond))
	s.resumed(t, deed.At, s.runs, before)
	for id, state := range map[string]string{s.runs: fleet.FateMoves, s.stopped: fleet.FateMoves, s.unsaved: fleet.FateLeft} {
		f, v := told[id], s.server(t, id)
		if f.State != state || state == fleet.FateMoves && f.To != v.Host || state == fleet.FateLeft && v.Host != "r1" {
			t.Errorf("the preview said of %s: %s to %q (%s), and it is on %s", f.Name, f.State, f.To, f.Why, v.Host)
		}
		if state == fleet.FateMoves {
			t.Logf("%s has what it had %v before the loss; the preview said %v to %v, and %s", v.Name, deed.At.Sub(s.newest[id].Made).Round(time.Second), f.RTO.Least.Round(time.Second), f.RTO.Most.Round(time.Second), f.Why)
			s.marked(t, "r2", Shared+"/instances", id, s.saved)
			t.Logf("why:\n%s", s.run(t, s.status(t).Leader, "mainstay", "why", "server/"+id))
		}
	}
	st, err := s.lab.SiteStatus(s.ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range st.Waits {
		t.Logf("%s waits for %s", w.About, w.For)
	}
	// Its owner can use what it was restored from.
	if err := s.owner.Ask(s.ctx, "compute", "POST", "/servers/"+s.runs+"/action", map[string]any{"reboot": map[string]string{"type": "HARD"}}, nil); err != nil {
		t.Error(err)
	}
	if _, err := s.cloud.Active(s.ctx, s.runs); err != nil {
		t.Fatal(err)
	}
	healed := s.rejoins(t, "r1")
	s.awaitEnabled(t, "r1")
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	t.Logf("r1 is back, and all is well, %v after its networks are", time.Since(healed).Round(time.Second))
	s.exactly(t)
	s.marked(t, "r1", localInstances, s.unsaved, 1)
	on, err := s.lab.HostPath("r1")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{s.runs, s.stopped} {
		if _, err := os.Stat(filepath.Join(on, localInstances, id)); err == nil || !os.IsNotExist(err) {
			t.Errorf("what %s had on r1 is there still: %v", id, err)
		}
	}
	s.spared(t, deed.At, "r1")
}

// goesBack waits until the servers of n2 are there again, live: ten minutes after its return.
func (s *disks) goesBack(t *testing.T) {
	before, err := s.cloud.Guests(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var begun time.Time
	for _, e := range s.lab.events(s.ctx) {
		if strings.Contains(e.Text, " may go back from ") {
			t.Logf("%s: %s", e.At.UTC().Format(time.TimeOnly), e.Text)
			if begun.IsZero() {
				begun = e.At
			}
		}
	}
	err = waitFor(s.ctx, 25*time.Minute, "servers to be on n2 again", func() (bool, error) {
		select {
		case <-s.ctx.Done():
		case <-time.After(time.Second):
		}
		all, err := s.cloud.Servers(s.ctx)
		back := slices.DeleteFunc(all, func(v Server) bool { return v.Host != "n2" || v.State != "active" || v.Task != "" })
		return err == nil && len(back) == 2, nil
	})
	s.stages(t, begun, "n2")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("they are back %v after the first might be", time.Since(begun.Add(10*time.Minute)).Round(time.Second))
	for _, v := range s.servers(t, "n2") {
		if !slices.ContainsFunc(before, func(g Guest) bool { return g.Server == v.ID && g.Host == "n1" }) {
			t.Errorf("%s was not on n1", v.Name)
		}
		if how, err := s.migrations(v.ID); err != nil || len(how) != 1 || how[0] != "completed" {
			t.Errorf("%s was live-migrated: %v (%v)", v.Name, how, err)
		}
	}
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.exactly(t)
}
