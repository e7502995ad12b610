package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// TestSite is the short lab run of "make test": a real Keystone on three hosts
// under Mainstay, and the faults that it is there for. One lab serves all steps,
// in their order; each waits for what must become true, never for a time.
func TestSite(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a cloud of three hosts")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	s := newSite(ctx, t)

	t.Run("a killed agent costs nothing", func(t *testing.T) {
		before := s.holding(t, "address/internal")
		log := s.patient(t)
		s.run(t, before.Host, "systemctl", "kill", "-s", "KILL", "mainstay.service")
		s.await(t, "the agent to be back", func(st api.Status) bool { return s.settled(st) })
		after := s.holding(t, "address/internal")
		if after.Generation == before.Generation {
			s.unfailing(t, log)
			return
		}
		// A machine that is busy may need longer than this site's lease of 300 ms for the
		// restart; then the address has moved, as it does when its host is lost. That nothing
		// is lost with a lease that lasts is in TestMembership.
		t.Logf("the restart took longer than the lease: %s moved from %s to %s", before.Thing, before.Host, after.Host)
		if gap := s.served(t, log); gap > promise {
			t.Errorf("the client was not served for %v", gap)
		}
	})

	t.Run("nobody is fenced because somebody stopped an agent", func(t *testing.T) {
		h := s.holding(t, "service/keystone-flush")
		s.run(t, h.Host, "systemctl", "stop", "mainstay")
		s.awaitFrom(t, s.other(h.Host), "somebody to start the agent", func(st api.Status) bool {
			for _, x := range st.Waits {
				if x.About == "host/"+h.Host && strings.Contains(x.For, "its agent to be started again") {
					return true
				}
			}
			return false
		})
		if on, err := s.lab.Powered(h.Host); err != nil || !on {
			t.Fatalf("%s was switched off: %v", h.Host, err)
		}
		s.run(t, h.Host, "systemctl", "start", "mainstay")
		s.await(t, "calm", s.settled)
		if now := s.holding(t, h.Thing); now.Host != h.Host {
			t.Errorf("%s went to %s", h.Thing, now.Host)
		}
	})

	t.Run("a planned move", func(t *testing.T) {
		h := s.holding(t, "address/internal")
		// Not where the one copy runs: the next step freezes this host, and it would be
		// switched off for that before it was looked at.
		to := s.other(h.Host, s.holding(t, "service/keystone-flush").Host)
		out := s.run(t, to, "mainstay", "move", "internal", to, "--wait", "2m")
		if got := s.holding(t, "address/internal"); got.Host != to {
			t.Fatalf("moved to %s, but it is on %s: %s", to, got.Host, out)
		}
		why := s.run(t, to, "mainstay", "why", "internal")
		if !strings.Contains(why, "wishes it on "+to) {
			t.Errorf("why does not lead back to the wish:\n%s", why)
		}
	})

	t.Run("a frozen agent loses its address to another", func(t *testing.T) {
		h := s.holding(t, "address/internal")
		s.deed(t)(s.lab.Hang(ctx, h.Host, "mainstay.service"))
		s.awaitFrom(t, s.other(h.Host), "the address on another host", func(st api.Status) bool {
			now := find(st, "address/internal")
			return now.Host != h.Host && now.Works
		})
		s.silent(t, h.Host)
		s.deed(t)(s.lab.Resume(ctx, h.Host, "mainstay.service"))
		s.await(t, "calm", s.settled)
	})

	t.Run("a leader that was stopped whole carries out nothing of its old epoch", func(t *testing.T) {
		(&faulted{site: s}).stopLeader(t, 3*time.Second, func(string) {})
		s.await(t, "calm", s.settled)
	})

	t.Run("a hung Keystone leaves the rotation and comes back", func(t *testing.T) {
		(&faulted{site: s, log: s.watch(t)}).hungKeystone(t, "keystone.service")
		s.await(t, "calm", s.settled)
	})

	t.Run("the holder loses power", func(t *testing.T) {
		h := s.holding(t, "address/internal")
		log := s.watch(t)
		s.deed(t)(s.lab.PowerOff(ctx, h.Host))
		s.awaitFrom(t, s.other(h.Host), "the address on another host", func(st api.Status) bool {
			now := find(st, "address/internal")
			return now.Host != h.Host && now.Works
		})
		s.served(t, log)
		s.deed(t)(s.lab.Start(ctx, h.Host))
		s.await(t, h.Host+" back in service", s.settled)
	})

	t.Run("an active/passive service waits for proof, and gets it", func(t *testing.T) {
		h := s.holding(t, "service/keystone-flush")
		s.deed(t)(s.lab.Cut(ctx, Cut{Host: h.Host, Network: All, Direction: Both}))
		s.awaitFrom(t, s.other(h.Host), "the service on another host, after its host was proved off", func(st api.Status) bool {
			now := find(st, "service/keystone-flush")
			return now.Host != h.Host && now.Works
		})
		out := s.run(t, s.other(h.Host), "mainstay", "events", "-n", "0")
		if !strings.Contains(out, h.Host+" is off") {
			t.Errorf("no event tells of the proof that %s is off:\n%s", h.Host, out)
		}
		s.deed(t)(s.lab.Heal(ctx, h.Host, All))
		s.await(t, h.Host+" turned on again and admitted", s.settled)
	})

	t.Run("all lose power at once and come back without a hand", func(t *testing.T) {
		for _, m := range s.lab.Hosts {
			s.deed(t)(s.lab.Kill(ctx, m.Name))
		}
		for _, m := range s.lab.Hosts {
			s.deed(t)(s.lab.Start(ctx, m.Name))
		}
		s.await(t, "everything in service", s.settled)
		s.served(t, s.watch(t))
	})

	t.Run("check names what this host lacks", func(t *testing.T) {
		host := s.lab.Hosts[0].Name
		out, err := s.lab.Run(ctx, host, "sh", "-c", `cp -r /etc/mainstay /tmp/wrong && cd /tmp/wrong || exit
			sed -i 's/^services:/&\n  nothing: {kind: systemd, mode: active\/active, why: a test, units: [no-such.service], roles: [controller]}/' site.yaml
			mainstay check --config-dir /tmp/wrong; one=$?
			rm tls/host.pem; mainstay check --config-dir /tmp/wrong
			echo "exits $one $?"; rm -r /tmp/wrong`)
		if err != nil {
			t.Fatal(err, out)
		}
		for _, want := range []string{"site.yaml:", "no-such.service", "host.pem", "exits 3 3"} {
			if !strings.Contains(out, want) {
				t.Errorf("check does not say %q:\n%s", want, out)
			}
		}
	})

	t.Run("every kept World is decided again alike", func(t *testing.T) {
		leader := s.status(t).Leader
		dir, err := s.lab.HostPath(leader)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := filepath.Glob(dir + "/var/lib/mainstay/worlds/*.json")
		if err != nil || len(kept) == 0 {
			t.Fatalf("no kept Worlds on %s: %v", leader, err)
		}
		for _, path := range kept[max(0, len(kept)-20):] {
			s.run(t, leader, "mainstay", "replay", strings.TrimPrefix(path, dir))
		}
	})

	t.Run("a demo without takeover breaks its promise", func(t *testing.T) {
		d := Demo{Lab: s.lab, Binary: s.binary, sabotage: func(ctx context.Context, victim string) error {
			// The stores first: with no leader left, nobody fences a host because its agent
			// has gone.
			for _, unit := range []string{"mainstay-quorum", "mainstay"} {
				for _, m := range s.lab.Hosts {
					if m.Name == victim {
						continue
					}
					if out, err := s.lab.Run(ctx, m.Name, "systemctl", "stop", unit); err != nil {
						return fmt.Errorf("%w: %s", err, out)
					}
				}
			}
			return nil
		}}
		r, err := d.Run(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Broken) == 0 {
			t.Errorf("nobody was left to take the address over, and the demo was content: %+v", r)
		}
	})
}

// site is a lab under Mainstay.
type site struct {
	ctx    context.Context
	lab    *Lab
	binary string
	url    string // what a client asks for
	wire   *Wire  // of all its addresses
}

// build makes a program of a given version. Without takes guards away from it: at most one.
func build(ctx context.Context, t *testing.T, version string, without ...fleet.Guard) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "mainstay")
	args, set := []string{"build", "-trimpath", "-buildvcs=false"}, "-s -w -X mainstay/cli.Version="+version
	for _, g := range without {
		args, set = append(args, "-tags=mutate"), set+" -X mainstay/fleet.disarmed="+string(g)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-ldflags", set, "-o", binary, "./cmd/mainstay")...)
	cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// newSite is a lab with a cloud under Mainstay.
func newSite(ctx context.Context, t *testing.T) *site {
	t.Helper()
	base, err := Base(ctx, DefaultSuite, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	layer, err := Seed(ctx, base, DefaultSuite, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	return deploySite(ctx, t, Config{Name: "testsite", Layers: []string{layer}}, SiteConfig{Services: CloudServices})
}

// deploySite builds a lab and makes a site of it.
func deploySite(ctx context.Context, t *testing.T, cfg Config, c SiteConfig) *site {
	t.Helper()
	binary := build(ctx, t, "one")
	l := up(t, cfg)
	if strings.Contains(c.Services, "mariadb") {
		members := slices.DeleteFunc(l.names(), func(name string) bool { return slices.Contains(c.Arbiters, name) })
		if err := l.InstallCloud(ctx, l.Cloud(l.Virtual()["internal"], members...)); err != nil {
			t.Fatal(err)
		}
	}
	c.Binary = binary
	if err := l.Deploy(ctx, c, func(text string) { t.Log(text) }); err != nil {
		t.Fatal(err)
	}
	wire, err := l.Wire(slices.Collect(maps.Values(l.Virtual()))...)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{ctx: ctx, lab: l, wire: wire, binary: binary, url: fmt.Sprintf("http://%s:5000/v3", l.Virtual()["internal"])}
	t.Cleanup(func() {
		if err := s.wire.Close(); err != nil {
			t.Error(err)
		}
		s.alone(t, time.Time{})
	})
	s.await(t, "everything in service", s.settled)
	return s
}

// wireBound is for how long two hosts may speak for one address: not at all, by the
// arithmetic of docs/DESIGN.md section 3. What remains is how late the kernel's
// guard may be.
const wireBound = fleet.GuardLate

// alone fails if since then two hosts have spoken for one address.
func (s *site) alone(t *testing.T, since time.Time) {
	t.Helper()
	s.aloneBut(t, since, wireBound)
}

// aloneBut is alone with a bound of its own: for a host whose guard somebody took away.
func (s *site) aloneBut(t *testing.T, since time.Time, bound time.Duration) {
	t.Helper()
	for _, o := range Overlaps(s.wire.Claims(since)) {
		if slices.Contains(o.Hosts[:], Client) {
			continue // a step makes it the stranger whom no guard of ours binds
		}
		if o.Lasted > bound {
			t.Errorf("%s and %s both spoke for %s, for %v from %s on", o.Hosts[0], o.Hosts[1], o.Address, o.Lasted, o.From.Format("15:04:05.000"))
		} else {
			t.Logf("%s spoke once more for %s than its right, %v after %s began", o.Hosts[0], o.Address, o.Lasted, o.Hosts[1])
		}
	}
}

// settled says whether all is in order.
func (s *site) settled(st api.Status) bool { return s.without()(st) }

// without says whether all is in order but for some hosts, which are away: that a person
// is told of their silence after a while is in order too.
func (s *site) without(away ...string) func(api.Status) bool {
	return func(st api.Status) bool {
		if st.Leader == "" {
			return false
		}
		for _, w := range st.Waits {
			if !slices.Contains(away, strings.TrimPrefix(w.About, "host/")) {
				return false
			}
		}
		for _, h := range st.Hosts {
			if !slices.Contains(away, h.Name) && (h.Condition != fleet.Healthy || h.Voter && h.Store != "votes") {
				return false
			}
		}
		for _, h := range st.Holdings {
			if !h.Works {
				return false
			}
		}
		for _, v := range st.Services {
			for host, c := range v.Copies {
				if v.Mode == fleet.ActiveActive && !c.Ready && !slices.Contains(away, host) {
					return false
				}
			}
		}
		return true
	}
}

func find(st api.Status, thing string) api.HoldingStatus {
	for _, h := range st.Holdings {
		if h.Thing == thing {
			return h
		}
	}
	return api.HoldingStatus{}
}

// other names a host that is none of the given ones and has power.
func (s *site) other(hosts ...string) string {
	for _, m := range s.lab.Hosts {
		if on, err := s.lab.Powered(m.Name); !slices.Contains(hosts, m.Name) && err == nil && on {
			return m.Name
		}
	}
	return ""
}

func (s *site) status(t *testing.T) api.Status {
	t.Helper()
	st, err := s.lab.SiteStatus(s.ctx, s.other(""))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func (s *site) holding(t *testing.T, thing string) api.HoldingStatus {
	t.Helper()
	h := find(s.status(t), thing)
	if h.Host == "" {
		t.Fatalf("nobody holds %s", thing)
	}
	return h
}

func (s *site) await(t *testing.T, what string, want func(api.Status) bool) {
	t.Helper()
	s.awaitFrom(t, s.other(""), what, want)
}

func (s *site) awaitFrom(t *testing.T, host, what string, want func(api.Status) bool) {
	t.Helper()
	if err := s.lab.Await(s.ctx, host, what, want); err != nil {
		for _, m := range s.lab.Hosts {
			if text, err := s.lab.Run(s.ctx, m.Name, "journalctl", "-u", "mainstay", "-n", "12", "--no-pager", "-o", "cat"); err == nil {
				t.Logf("%s:\n%s", m.Name, text)
			}
		}
		t.Fatal(err)
	}
}

func (s *site) run(t *testing.T, host string, argv ...string) string {
	t.Helper()
	out, err := s.lab.Run(s.ctx, host, argv...)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", host, strings.Join(argv, " "), err, out)
	}
	return out
}

func (s *site) deed(t *testing.T) func(Deed, error) {
	return func(_ Deed, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s *site) watch(t *testing.T) *Log {
	t.Helper()
	log, err := s.lab.Watch(s.ctx, Probe{URL: s.url, Every: ProbeEvery, Patience: ProbePatience, Expect: 200}, s.binary)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// served waits until the client outside is answered again, and reports its gap.
func (s *site) served(t *testing.T, log *Log) time.Duration {
	t.Helper()
	err := until(s.ctx, siteBound, func() error {
		tries := log.Tries()
		if len(tries) < 10 {
			return fmt.Errorf("only %d tries so far", len(tries))
		}
		for _, try := range tries[len(tries)-10:] {
			if !try.OK {
				return fmt.Errorf("not served: %s", try.Why)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	tries, err := log.Stop()
	if err != nil {
		t.Error(err)
	}
	if len(tries) == 0 {
		return 0
	}
	gap, _, _ := Gap(tries, tries[0].Begun, tries[len(tries)-1].Begun)
	t.Logf("the client's longest time without an answer: %v", gap)
	return gap
}

// silent fails if a host whose agent is frozen still has an open guard for the
// internal address: the kernel must have shut it by itself.
func (s *site) silent(t *testing.T, host string) {
	t.Helper()
	out := s.run(t, host, "nft", "-j", "list", "table", "inet", "mainstay")
	var list struct {
		Nftables []struct {
			Set struct {
				Name  string `json:"name"`
				Elems []any  `json:"elem"`
			} `json:"set"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("read nft's list: %v\n%s", err, out)
	}
	seen := false
	for _, x := range list.Nftables {
		if !strings.HasPrefix(x.Set.Name, "speaking") {
			continue
		}
		seen = true
		if len(x.Set.Elems) > 0 {
			t.Errorf("%s: a frozen agent's guard is still open: %v", host, x.Set.Elems)
		}
	}
	if !seen {
		t.Errorf("%s: no set of speaking addresses in the guard:\n%s", host, out)
	}
}

// offs counts how often a host was switched off by its BMC.
func (s *site) offs(t *testing.T, host string) (n int) {
	t.Helper()
	deeds, err := s.lab.Deeds()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deeds {
		if d.Verb == "poweroff" && d.Host == host {
			n++
		}
	}
	return n
}
