package lab

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

var (
	openStackLab  = flag.Bool("openstack", false, "bring up a whole OpenStack under Mainstay: make lab-openstack")
	openStackName = flag.String("openstack-lab", "", "play on the lab of that name, which is brought up if there is none, and leave it")
)

// TestOpenStack brings up three controllers with the services of Debian's Zed, two fake
// computes and two real ones, all under Mainstay, and shows what Nova sees of a loss.
func TestOpenStack(t *testing.T) {
	if !playsOpenStack(t, "a quarter of an hour", "lab-openstack") {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Minute)
	defer cancel()
	o := newOpenStack(ctx, t, "")
	t.Run("everything under Mainstay is ready", o.ready)
	t.Run("the cloud is furnished", o.furnished)
	t.Run("servers on fake computes", o.fakes)
	t.Run("guests that tick on real computes", o.ticks)
	t.Run("what Nova sees of a compute without power", o.powerOff)
	t.Run("a guest evacuated by hand runs on the other compute", o.evacuated)
	t.Run("a storage network that is cut stops no guest for good", o.storageCut)
	t.Run("the worst call while a controller dies", o.controllerDies)
	t.Run("each server runs exactly once", o.once)
}

// openStackSite is a site with an OpenStack.
type openStackSite struct {
	*site
	cloud *OpenStack
	begun time.Time
}

// playsOpenStack says whether a test of the OpenStack lab is to be played: it takes so long, and that
// target of make plays it.
func playsOpenStack(t *testing.T, long, target string) bool {
	t.Helper()
	if !*openStackLab {
		t.Logf("not played: it takes %s and 9 GB of memory; make %s", long, target)
		return false
	}
	if _, err := os.Stat(GuestKernel); err != nil {
		t.Fatalf("the guest's kernel: %v: make %s fetches it", err, target)
	}
	return true
}

// newOpenStack brings up the lab; extra is added to the site's file.
func newOpenStack(ctx context.Context, t *testing.T, extra string) *openStackSite {
	t.Helper()
	say := func(text string) { t.Log(time.Now().UTC().Format("15:04:05"), text) }
	name := *openStackName
	if name == "" {
		if name = "openstack"; *openStackSuite != DefaultSuite {
			name = *openStackSuite
		}
		down := func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
			defer cancel()
			if err := Down(ctx, name); err != nil {
				t.Error(err)
			}
		}
		down()
		t.Cleanup(down)
	}
	binary := build(ctx, t, "one")
	begun := time.Now()
	_, absent := Open(name)
	o, err := UpOpenStack(ctx, *openStackSuite, name, say)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("all hosts have booted after %v", time.Since(begun).Round(time.Second))
	s := &openStackSite{cloud: o, begun: begun, site: &site{ctx: ctx, lab: o.Lab, binary: binary, url: fmt.Sprintf("http://%s:5000/v3", o.Virtual()["internal"])}}
	c := s.config(extra)
	if absent == nil {
		s.renewed(t, c)
		return s
	}
	if err := o.StartOpenStack(ctx, c, say); err != nil {
		t.Fatal(err)
	}
	t.Logf("all hosts have joined after %v", time.Since(begun).Round(time.Second))
	return s
}

// config is the site with that at the end of its file.
func (s *openStackSite) config(extra string) SiteConfig {
	c := s.cloud.Site()
	c.Binary, c.Extra, c.Brakes = s.binary, extra, "{share: 40, count: 3}"
	return c
}

// apply gives the site another file.
func (s *openStackSite) apply(t *testing.T, c SiteConfig) {
	t.Helper()
	if err := s.lab.Install("c1", map[string]File{"/root/site.yaml": {Data: []byte(s.lab.SiteFile(c))}}); err != nil {
		t.Fatal(err)
	}
	s.run(t, "c1", "mainstay", "apply", "/root/site.yaml", "--yes")
}

// renewed gives a lab that stands already this program and this site's file, and takes
// away the servers of the run before.
func (s *openStackSite) renewed(t *testing.T, c SiteConfig) {
	t.Helper()
	mine, err := os.ReadFile(c.Binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range c.Hosts {
		dir, err := s.lab.HostPath(host)
		if err != nil {
			t.Fatal(err)
		}
		if theirs, err := os.ReadFile(dir + "/usr/bin/mainstay"); err == nil && bytes.Equal(mine, theirs) {
			continue
		}
		if err := s.lab.InstallSite(host, c); err != nil {
			t.Fatal(err)
		}
		s.run(t, host, "sync") // one that is fenced meanwhile would have no program any more
		s.run(t, host, "systemctl", "restart", "mainstay")
		s.awaitFrom(t, host, "all to be well with this program on "+host, s.calm)
	}
	s.apply(t, c)
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	all, err := s.cloud.Servers(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, v := range all {
		ids = append(ids, v.ID)
	}
	if err := s.cloud.Delete(s.ctx, ids...); err != nil {
		t.Fatal(err)
	}
}

// calm says whether all is in order but for power switches that a busy machine asked too early.
func (s *openStackSite) calm(st api.Status) bool {
	st.Waits = slices.DeleteFunc(slices.Clone(st.Waits), func(w fleet.Wait) bool { return strings.HasPrefix(w.About, "fence/") })
	return s.settled(st)
}

func (s *openStackSite) ready(t *testing.T) {
	s.awaitFrom(t, "c1", "all services to be ready on every host", s.calm)
	t.Logf("all services are ready on every host %v after the first step", time.Since(s.begun).Round(time.Second))
	st, err := s.lab.Status(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, h := range st.Hosts {
		t.Logf("%s: %d MB of memory, %d MB of disk", h.Name, h.Memory>>20, h.DiskUsed>>20)
		sum += h.Memory
	}
	t.Logf("together %d MB of memory", sum>>20)
}

func (s *openStackSite) furnished(t *testing.T) {
	if err := s.cloud.Furnish(s.ctx, func(text string) { t.Log(time.Now().UTC().Format("15:04:05"), text) }); err != nil {
		t.Fatal(err)
	}
	t.Logf("furnished %v after the first step", time.Since(s.begun).Round(time.Second))
	all, err := s.cloud.ComputeServices(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	up := map[string]int{}
	for _, c := range all {
		if c.State == "up" && c.Status == "enabled" && c.Host != spareHost {
			up[c.Binary]++
		}
	}
	controllers := len(s.cloud.release.with(RoleController))
	computes := len(s.cloud.zoned(RoleFake)) + len(s.cloud.zoned(RoleReal))
	if want := map[string]int{"nova-compute": computes, "nova-scheduler": controllers, "nova-conductor": controllers}; fmt.Sprint(up) != fmt.Sprint(want) {
		t.Errorf("up are %v, not %v: %+v", up, want, all)
	}
}

// create makes servers and waits until they are active and run where Nova says.
func (s *openStackSite) create(t *testing.T, zone string, n int, port bool) []Server {
	t.Helper()
	begun := time.Now()
	var ids []string
	for i := range n {
		id, err := s.cloud.Create(s.ctx, fmt.Sprintf("%s-%d", strings.ReplaceAll(zone, ":", "-"), i), zone, port)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	servers, err := s.cloud.Active(s.ctx, ids...)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d servers in zone %s (port: %v) are active after %v", n, zone, port, time.Since(begun).Round(100*time.Millisecond))
	s.exactly(t)
	return servers
}

// exactly fails unless, soon, each server runs exactly once, where Nova says.
func (s *openStackSite) exactly(t *testing.T) {
	t.Helper()
	var wrong []string
	err := waitFor(s.ctx, time.Minute, "each server to run exactly once", func() (bool, error) {
		var err error
		wrong, err = s.cloud.Once(s.ctx)
		return err == nil && len(wrong) == 0, nil
	})
	if err != nil {
		t.Fatalf("%v:\n%s", err, strings.Join(wrong, "\n"))
	}
}

func (s *openStackSite) fakes(t *testing.T) {
	s.create(t, "fake", 10, false)
	s.create(t, "fake", 2, true)
	guests, err := s.cloud.Guests(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]int{}
	for _, g := range guests {
		of[g.Host]++
	}
	t.Logf("guests by their hypervisors: %v", of)
	// A guest outlives its nova-compute, as a real one does.
	s.run(t, "n1", "systemctl", "restart", "nova-compute")
	s.awaitFrom(t, "c1", "n1's nova-compute to be back", s.calm)
	s.exactly(t)
}

func (s *openStackSite) ticks(t *testing.T) {
	for _, host := range []string{"r1", "r2"} {
		begun := time.Now()
		id := s.create(t, "real:"+host, 1, host == "r2")[0].ID
		tick, err := s.cloud.Ticking(s.ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: boot %s ticks (%d), %v after Nova was asked", host, tick.Boot, tick.N, time.Since(begun).Round(100*time.Millisecond))
		if list, err := s.cloud.Libvirt(s.ctx, host); err != nil || !slices.Equal(list, []string{id}) {
			t.Errorf("libvirt on %s has %v, %v, not %s", host, list, err, id)
		}
	}
}

// on is the first server on a host.
func (s *openStackSite) on(t *testing.T, host string) Server {
	t.Helper()
	all, err := s.cloud.Servers(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Host == host {
			return v
		}
	}
	t.Fatalf("no server on %s", host)
	return Server{}
}

// state waits until Nova says that of a host's nova-compute, and says after how long.
func (s *openStackSite) state(t *testing.T, host, want string, since time.Time) {
	t.Helper()
	err := waitFor(s.ctx, siteBound, "nova-compute on "+host+" to be "+want, func() (bool, error) {
		all, _ := s.cloud.ComputeServices(s.ctx) // the cloud may be busy with a fault
		return slices.ContainsFunc(all, func(c ComputeService) bool {
			return c.Host == host && c.Binary == "nova-compute" && c.State == want
		}), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Nova calls %s's nova-compute %s %v later", host, want, time.Since(since).Round(100*time.Millisecond))
}

func (s *openStackSite) powerOff(t *testing.T) {
	server := s.on(t, "r1")
	before, err := s.cloud.Ticking(s.ctx, server.ID)
	if err != nil {
		t.Fatal(err)
	}
	deed, err := s.lab.PowerOff(s.ctx, "r1")
	if err != nil {
		t.Fatal(err)
	}
	s.state(t, "r1", "down", deed.At)
	now := s.on(t, "r1")
	wrong, err := s.cloud.Once(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("then its server is %s/%s, power state %d; the audit says %q", now.State, now.Task, now.Power, wrong)
	if now.State != "active" || len(wrong) != 1 || !strings.Contains(wrong[0], "runs nowhere") {
		t.Errorf("Nova and the audit do not say what they should of a server whose host is dead")
	}
	s.awaitFrom(t, "c1", "Mainstay to miss the host", func(st api.Status) bool {
		return slices.ContainsFunc(st.Hosts, func(h api.HostStatus) bool { return h.Name == "r1" && h.Condition != fleet.Healthy })
	})
	st, err := s.lab.SiteStatus(s.ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range st.Hosts {
		if h.Name == "r1" {
			t.Logf("Mainstay calls r1 %s: %s", h.Condition, h.Why)
		}
	}
	for _, w := range st.Waits {
		t.Logf("Mainstay: %s waits for %s", w.About, w.For)
	}

	begun := time.Now()
	if _, err := s.lab.Start(s.ctx, "r1"); err != nil {
		t.Fatal(err)
	}
	s.state(t, "r1", "up", begun)
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	t.Logf("all is well %v after its start", time.Since(begun).Round(time.Second))
	// Nova starts nothing by itself on a host that has come back, and notices that it does
	// not run only at its next look.
	if err := s.cloud.Ask(s.ctx, "compute", "POST", "/servers/"+server.ID+"/action", map[string]any{"reboot": map[string]string{"type": "HARD"}}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.cloud.Active(s.ctx, server.ID); err != nil {
		t.Fatal(err)
	}
	after, err := s.cloud.Ticking(s.ctx, server.ID)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started again: boot %s after %s", after.Boot, before.Boot)
	if after.Boot == before.Boot {
		t.Error("it is the same boot")
	}
	s.exactly(t)
}

// evacuated does by hand, without a proof but the lab's own, what Mainstay shall do.
func (s *openStackSite) evacuated(t *testing.T) {
	server := s.on(t, "r1")
	before, err := s.cloud.Ticking(s.ctx, server.ID)
	if err != nil {
		t.Fatal(err)
	}
	deed, err := s.lab.PowerOff(s.ctx, "r1")
	if err != nil {
		t.Fatal(err)
	}
	since := func() time.Duration { return time.Since(deed.At).Round(100 * time.Millisecond) }
	if err := s.cloud.ForceDown(s.ctx, "r1", true); err != nil {
		t.Fatal(err)
	}
	down := since()
	if err := s.cloud.Evacuate(s.ctx, server.ID, ""); err != nil {
		t.Fatal(err)
	}
	accepted := since()
	err = waitFor(s.ctx, siteBound, "the server to be on r2", func() (bool, error) {
		all, err := s.cloud.Servers(s.ctx)
		return err == nil && slices.ContainsFunc(all, func(v Server) bool {
			return v.ID == server.ID && v.Host == "r2" && v.State == "active" && v.Task == ""
		}), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	active := since()
	after, err := s.cloud.Ticking(s.ctx, server.ID)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("after the power loss: forced down %v, evacuation accepted %v, active on r2 %v, its guest ticks %v (boot %s after %s)", down, accepted, active, since(), after.Boot, before.Boot)
	if after.Boot == before.Boot {
		t.Error("it is the same boot")
	}
	s.exactly(t)
	if _, err := s.lab.Start(s.ctx, "r1"); err != nil {
		t.Fatal(err)
	}
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	// Nova refuses until nova-compute there has read which of its servers are elsewhere now.
	lifted := time.Now()
	if err := until(s.ctx, siteBound, func() error { return s.cloud.ForceDown(s.ctx, "r1", false) }); err != nil {
		t.Fatal(err)
	}
	s.state(t, "r1", "up", lifted)
	s.exactly(t)
}

func (s *openStackSite) storageCut(t *testing.T) {
	server := s.on(t, "r2")
	before, err := s.cloud.Ticking(s.ctx, server.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.lab.Cut(s.ctx, Cut{Host: "r2", Network: "storage", Direction: Both}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	// That it is silent, and for how long, is what the cut must make true.
	quiet := waitFor(s.ctx, siteBound, "the guest on r2 to fall silent", func() (bool, error) {
		a, _ := s.cloud.Ticks(server.ID)
		select {
		case <-s.ctx.Done():
		case <-time.After(15 * time.Second):
		}
		b, _ := s.cloud.Ticks(server.ID)
		return len(a) == len(b), nil
	})
	if quiet != nil {
		t.Error(quiet)
	}
	if _, err := s.lab.Heal(s.ctx, "r2", "storage"); err != nil {
		t.Fatal(err)
	}
	t.Logf("it has said nothing for 15 s, %v after the cut", time.Since(begun).Round(time.Second))
	healed := time.Now()
	after, err := s.cloud.Ticking(s.ctx, server.ID)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v after the heal it ticks on: boot %s at %d, boot %s at %d before", time.Since(healed).Round(100*time.Millisecond), after.Boot, after.N, before.Boot, before.N)
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	s.exactly(t)
}

// calls asks Nova for its servers again and again until stop, and returns the slowest
// answer, and every call that failed.
func (s *openStackSite) calls() (stop func() (slowest time.Duration, count int, failed []string)) {
	ctx, cancel := context.WithCancel(s.ctx)
	var wg sync.WaitGroup
	var slowest time.Duration
	var count int
	var failed []string
	wg.Go(func() {
		for ctx.Err() == nil {
			begun := time.Now()
			_, err := s.cloud.Servers(ctx)
			if ctx.Err() != nil {
				return
			}
			count++
			if err != nil {
				failed = append(failed, fmt.Sprintf("after %v: %v", time.Since(begun).Round(100*time.Millisecond), err))
			} else {
				slowest = max(slowest, time.Since(begun))
			}
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	return func() (time.Duration, int, []string) {
		cancel()
		wg.Wait()
		return slowest, count, failed
	}
}

func (s *openStackSite) controllerDies(t *testing.T) {
	holder := s.holding(t, "address/internal").Host
	other := s.other(holder, "n1", "n2", "r1", "r2", storageHost)
	for _, victim := range []string{other, holder} {
		what := "a controller without the address"
		if victim == holder {
			what = "the controller with the address"
		}
		stop := s.calls()
		if _, err := s.lab.Kill(s.ctx, victim); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		from := s.other(victim, "n1", "n2", "r1", "r2", storageHost)
		s.awaitFrom(t, from, "the address to work on another host", func(st api.Status) bool {
			h := find(st, "address/internal")
			return h.Works && h.Host != victim
		})
		s.anew(t, what, victim, began)
		slowest, count, failed := stop()
		t.Logf("%s (%s) lost: of %d calls the slowest that was answered took %v; %d failed %q", what, victim, count, slowest.Round(100*time.Millisecond), len(failed), failed)
		if _, err := s.lab.Start(s.ctx, victim); err != nil {
			t.Fatal(err)
		}
		s.awaitFrom(t, from, "all to be well", s.calm)
		t.Logf("%s is back and all is well %v after it was lost", victim, time.Since(began).Round(time.Second))
		s.clear(t)
	}
}

// anew creates servers until one is active, as a person would who loses patience after half
// a minute: what was asked for while messages were lost may be answered and then stay in
// building for ever. Those are deleted.
func (s *openStackSite) anew(t *testing.T, what, victim string, began time.Time) {
	t.Helper()
	made, lost := false, 0
	for i := 0; !made && time.Since(began) < siteBound; i++ {
		asked := time.Now()
		id, err := s.cloud.Create(s.ctx, fmt.Sprintf("while-%s-is-dead-%d", victim, i), "fake", false)
		if err != nil {
			t.Logf("%s lost: a create fails %v after: %v", what, asked.Sub(began).Round(100*time.Millisecond), err)
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
		_, err = s.cloud.Active(ctx, id)
		cancel()
		if made = err == nil; !made {
			lost++
			t.Logf("%s lost: a server asked for %v after is not active %v later: %v", what, asked.Sub(began).Round(100*time.Millisecond), time.Since(asked).Round(time.Second), err)
		}
	}
	t.Logf("%s (%s) lost: the first server that was created anew is active %v after, %d others were asked for in vain", what, victim, time.Since(began).Round(100*time.Millisecond), lost)
	if !made {
		t.Error("no server could be created")
	}
}

// clear deletes what was asked for in vain.
func (s *openStackSite) clear(t *testing.T) {
	t.Helper()
	all, err := s.cloud.Servers(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.State == "active" && v.Task == "" || !strings.HasPrefix(v.Name, "while-") {
			continue
		}
		t.Logf("%s, asked for while a controller was dead, is %s/%s: deleted", v.Name, v.State, v.Task)
		if err := s.cloud.Delete(s.ctx, v.ID); err != nil {
			t.Error(err)
		}
	}
}

func (s *openStackSite) once(t *testing.T) { s.exactly(t) }

// TestOpenStackFiles: what the hosts are told listens on no address that moves, gives no
// compute a way to a database, and enables nothing at boot but the storage's door.
func TestOpenStackFiles(t *testing.T) {
	for suite, apis := range map[string]int{"bookworm": 3 * 4, "trixie": 4} {
		t.Run(suite, func(t *testing.T) { openStackFilesOf(t, openStackReleases[suite], apis) })
	}
}

func openStackFilesOf(t *testing.T, r openStackRelease, want int) {
	l := &Lab{Name: "x", Block: 9, Networks: []Network{{Name: "management"}, {Name: "storage"}, {Name: "tenant"}, {Name: oob}}}
	for i, name := range slices.Sorted(maps.Keys(r.roles)) {
		m := Machine{Name: name, UUID: newUUID(), Addresses: map[string]Address{}}
		for j, n := range l.Networks {
			m.Addresses[n.Name] = l.address(j, 11+i)
		}
		l.Hosts = append(l.Hosts, m)
	}
	c := l.Cloud(l.Virtual()["internal"], r.with(RoleController)...)
	storage := ""
	if len(r.with(RoleStorage)) > 0 {
		storage = "10.9.1.18"
	}
	apis := 0
	for _, m := range l.Hosts {
		own, role := m.Addresses["management"].V4.Addr().String(), r.roles[m.Name]
		for name, f := range r.files(c, openStackHost{Machine: m, Role: role}, storage) {
			text := string(f.Data)
			if strings.Contains(name, ".wants/") && role != RoleStorage {
				t.Errorf("%s enables %s", m.Name, name)
			}
			if strings.Contains(text, "--http-socket ") {
				apis++
				if !strings.Contains(text, "--http-socket "+own+":") {
					t.Errorf("%s: %s listens elsewhere:\n%s", m.Name, name, text)
				}
			}
			if (role == RoleFake || role == RoleReal) && name == "/etc/nova/nova.conf" && strings.Contains(text, "database]") {
				t.Errorf("%s: a compute is told of a database:\n%s", m.Name, text)
			}
			if strings.Contains(text, "%!") || strings.Contains(text, "password =") {
				t.Errorf("%s: %s is badly written, or secret:\n%s", m.Name, name, text)
			}
			if storage == "" && (strings.Contains(text, Shared) || strings.Contains(text, "linuxbridge_agent")) {
				t.Errorf("%s: %s tells of what this release has not:\n%s", m.Name, name, text)
			}
		}
	}
	if apis != want {
		t.Errorf("%d APIs, not %d", apis, want)
	}
}

// TestOnce: the audit tells what Nova and the hypervisors do not agree on.
func TestOnce(t *testing.T) {
	active := func(id, host string) Server { return Server{ID: id, Name: id, State: "active", Host: host} }
	for _, c := range []struct {
		name    string
		servers []Server
		guests  []Guest
		want    string
	}{
		{"as it should be", []Server{active("a", "n1"), {ID: "b", State: "stopped", Host: "n1"}}, []Guest{{Host: "n1", Server: "a", Running: true}, {Host: "n1", Server: "b"}}, ""},
		{"nowhere", []Server{active("a", "n1")}, nil, "runs nowhere"},
		{"twice", []Server{active("a", "n1")}, []Guest{{Host: "n1", Server: "a", Running: true}, {Host: "n2", Server: "a", Running: true}}, "runs on n1 and n2"},
		{"elsewhere", []Server{active("a", "n1")}, []Guest{{Host: "n2", Server: "a", Running: true}}, "runs on n2"},
		{"stopped and running", []Server{{ID: "a", State: "stopped", Host: "n1"}}, []Guest{{Host: "n1", Server: "a", Running: true}}, "runs on n1"},
		{"error", []Server{{ID: "a", State: "error", Host: "n1"}}, []Guest{{Host: "n1", Server: "a", Running: true}}, "no state to be in"},
		{"not done", []Server{{ID: "a", State: "active", Task: "rebuilding", Host: "n1"}}, []Guest{{Host: "n1", Server: "a", Running: true}}, "not done"},
		{"of nobody", nil, []Guest{{Host: "n1", Server: "a", Running: true}}, "no server of Nova's"},
	} {
		wrong := once(c.servers, c.guests)
		if c.want == "" && len(wrong) > 0 || c.want != "" && (len(wrong) != 1 || !strings.Contains(wrong[0], c.want)) {
			t.Errorf("%s: %q", c.name, wrong)
		}
	}
}
