package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// ocfServices are two of Debian's resource agents, unmodified: one that runs on one host,
// and one that is promoted on one.
const ocfServices = `  haproxy: {}
  solo:
    kind: ocf
    mode: active/passive
    why: there may be only one
    roles: [controller]
    restarts: {count: 3, within: 1m}
    params: {agent: "heartbeat:Dummy"}
  duo:
    kind: ocf
    mode: promoted
    why: a copy on every host, and one of them is promoted
    roles: [controller]
    restarts: {count: 3, within: 1m}
    params: {agent: "ocf:pacemaker:Stateful"}
`

// The files by which these agents know what they are, on each host.
const (
	soloState = "/run/resource-agents/Dummy-solo.state"
	duoState  = "/run/Stateful-duo.state"
)

// ocfFiles are this machine's resource agents, for hosts whose base has none.
func ocfFiles(t *testing.T) map[string]File {
	t.Helper()
	out := map[string]File{}
	paths, _ := filepath.Glob("/usr/lib/ocf/lib/heartbeat/ocf-*")
	for _, path := range append(paths, "/usr/lib/ocf/resource.d/heartbeat/Dummy", "/usr/lib/ocf/resource.d/pacemaker/Stateful") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("apt-get install resource-agents pacemaker-resource-agents: %v", err)
		}
		out[path] = File{Data: text, Mode: 0o755}
	}
	return out
}

// TestOCF lives with resource agents on three real hosts: a role moves by word, by
// proof, after a failure and at a shutdown, and is never on two hosts.
func TestOCF(t *testing.T) {
	if !*faults {
		t.Log("not played: it takes five minutes; make lab-ocf")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	s := &roles{site: deploySite(ctx, t, Config{Name: "ocf", Disk: 2 << 30, Files: ocfFiles(t)}, SiteConfig{Timing: "wide", Services: ocfServices})}
	s.copies = &copies{lab: s.lab, marks: map[string]mark{"solo": {file: soloState}, "duo": {file: duoState, says: "Promoted"}}}
	s.copies.watch(ctx, t)
	s.await(t, "everything in service, with roles", s.settledRoles)

	t.Run("status says the role and the score", s.shown)
	t.Run("a role moves by its holder's word", s.moved)
	t.Run("the copy that is promoted ends", s.ended)
	t.Run("its agent is killed", s.killed)
	t.Run("its host loses power", s.lost)
	t.Run("its host is cut off", s.cutOff)
	t.Run("its host shuts down", s.shutDown)
	t.Run("all lose power at once", s.allLost)
}

// roles is a site with services of resource agents, and who watches from outside.
type roles struct {
	*site
	copies *copies
}

func (s *roles) at(service string) []string { return s.copies.at(service) }

// mark is how a copy of an exclusive service can be seen from outside, without asking
// Mainstay: a file in the memory of its host, and what must stand there; empty: anything.
type mark struct{ file, says string }

// copies watches from outside where exclusive services are.
type copies struct {
	lab   *Lab
	marks map[string]mark // by service

	mu   sync.Mutex
	two  []string            // moments at which something was on two hosts
	seen map[string]struct{} // "duo c1": it was there once
}

// at lists on which hosts that have power a service is.
func (c *copies) at(service string) (out []string) {
	for _, m := range c.lab.Hosts {
		root, err := c.lab.HostPath(m.Name)
		if err != nil {
			continue // it has no power
		}
		text, err := os.ReadFile(root + c.marks[service].file)
		if says := c.marks[service].says; err != nil || says != "" && strings.TrimSpace(string(text)) != says {
			continue
		}
		if on, err := c.lab.Powered(m.Name); err == nil && on {
			out = append(out, m.Name)
		}
	}
	return out
}

// watch looks until the test's end, which fails if anything was on two hosts.
func (c *copies) watch(ctx context.Context, t *testing.T) {
	ctx, cancel := context.WithCancel(ctx)
	done, looks := make(chan struct{}), 0
	c.seen = map[string]struct{}{}
	go func() {
		defer close(done)
		for tick := time.Tick(20 * time.Millisecond); ; looks++ {
			select {
			case <-ctx.Done():
				return
			case <-tick:
			}
			for _, service := range fleet.Sorted(c.marks) {
				hosts := c.at(service)
				c.mu.Lock()
				if len(hosts) > 1 {
					c.two = append(c.two, fmt.Sprintf("%s: %s on %s", time.Now().Format("15:04:05.000"), service, strings.Join(hosts, " and ")))
				}
				for _, h := range hosts {
					c.seen[service+" "+h] = struct{}{}
				}
				c.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		t.Logf("looked %d times; seen: %s", looks, strings.Join(fleet.Sorted(c.seen), ", "))
		c.once(t)
	})
}

// once fails if since it was last asked anything was on two hosts, but for those that were
// found on these two.
func (c *copies) once(t *testing.T, found ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.two = slices.DeleteFunc(c.two, func(moment string) bool {
		return slices.ContainsFunc(found, func(f string) bool { return strings.HasSuffix(moment, ": "+f) })
	})
	if len(c.two) > 0 {
		t.Errorf("on two hosts, %d times: %s", len(c.two), strings.Join(c.two[:min(5, len(c.two))], "; "))
	}
	c.two = nil
}

// settledRoles says whether all is in order, and the agents' own files say so too.
func (s *roles) settledRoles(st api.Status) bool {
	for _, service := range []string{"solo", "duo"} {
		if at := s.at(service); len(at) != 1 || at[0] != find(st, "service/"+service).Host {
			return false
		}
	}
	for _, v := range st.Services {
		for host, c := range v.Copies {
			if on, err := s.lab.Powered(host); v.Name == "duo" && (err != nil || on && (c.Phase != fleet.Running || !c.Ready)) {
				return false
			}
		}
	}
	return s.settled(st)
}

// elsewhere waits until what a host held is on another.
func (s *roles) elsewhere(t *testing.T, from string, services ...string) time.Duration {
	t.Helper()
	begun := time.Now()
	s.awaitFrom(t, s.other(from), strings.Join(services, " and ")+" on another host than "+from, func(st api.Status) bool {
		return !slices.ContainsFunc(services, func(service string) bool {
			h, at := find(st, "service/"+service), s.at(service)
			return !h.Works || h.Host == from || !slices.Contains(at, h.Host)
		})
	})
	return time.Since(begun).Round(10 * time.Millisecond)
}

// bring moves both services to one host.
func (s *roles) bring(t *testing.T, host string) {
	t.Helper()
	for _, service := range []string{"solo", "duo"} {
		s.run(t, s.other(""), "mainstay", "move", service, host, "--wait", "2m")
	}
}

func (s *roles) shown(t *testing.T) {
	host := s.at("duo")[0]
	if text := s.run(t, s.other(""), "mainstay", "status"); !strings.Contains(text, host+" running (promoted)") {
		t.Errorf("status does not say that duo is promoted on %s:\n%s", host, text)
	}
	for _, v := range s.status(t).Services {
		for name, c := range v.Copies {
			if want := map[bool]int{true: 10, false: 5}[name == host]; v.Name == "duo" && c.Score != want {
				t.Errorf("the score on %s is %d, and the agent said %d", name, c.Score, want)
			}
		}
	}
	if out := s.run(t, host, "sh", "-c", "OCF_RESOURCE_INSTANCE=duo MAINSTAY_OCF_REBOOT=/run/mainstay/ocf/attributes /run/mainstay/ocf/crm_master -G -Q"); strings.TrimSpace(out) != "10" {
		t.Errorf("crm_master says %q", out)
	}
}

func (s *roles) moved(t *testing.T) {
	for _, m := range s.lab.Hosts {
		s.bring(t, m.Name)
		s.await(t, "all in order on "+m.Name, func(st api.Status) bool {
			return s.settledRoles(st) && slices.Equal(s.at("duo"), []string{m.Name}) && slices.Equal(s.at("solo"), []string{m.Name})
		})
	}
}

func (s *roles) ended(t *testing.T) {
	host := s.at("duo")[0]
	before := s.holding(t, "service/duo").Generation
	s.run(t, host, "rm", duoState, soloState)
	s.await(t, "both at work again", s.settledRoles)
	if now := s.holding(t, "service/duo"); now.Host != host || now.Generation != before {
		t.Errorf("one failure made it change hands: %+v", now)
	}
}

func (s *roles) killed(t *testing.T) {
	host := s.at("duo")[0]
	before := s.holding(t, "service/duo").Generation
	s.run(t, host, "systemctl", "kill", "--signal=KILL", "--kill-who=main", "mainstay")
	s.await(t, "all in order", s.settledRoles)
	if now := s.holding(t, "service/duo"); now.Host != host {
		t.Errorf("an agent that was killed cost its host the role (generation %d): %+v", before, now)
	}
}

func (s *roles) lost(t *testing.T) {
	host := s.at("duo")[0]
	s.bring(t, host)
	s.deed(t)(s.lab.PowerOff(s.ctx, host))
	t.Logf("both elsewhere after %v", s.elsewhere(t, host, "duo", "solo"))
	s.await(t, host+" back, its copy running and unpromoted", s.settledRoles)
	if events := s.run(t, s.other(""), "mainstay", "events", "-n", "0"); !strings.Contains(events, host+" is off") {
		t.Errorf("no event tells of the proof that %s is off:\n%s", host, events)
	}
}

func (s *roles) cutOff(t *testing.T) {
	host := s.at("duo")[0]
	s.bring(t, host)
	s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: host, Network: All, Direction: Both}))
	t.Logf("both elsewhere after %v", s.elsewhere(t, host, "duo", "solo"))
	s.deed(t)(s.lab.Heal(s.ctx, host, All))
	s.await(t, "all in order", s.settledRoles)
}

func (s *roles) shutDown(t *testing.T) {
	host := s.at("duo")[0]
	s.bring(t, host)
	fences := strings.Count(s.run(t, s.other(host), "mainstay", "events", "-n", "0"), "will be fenced")
	s.run(t, host, "systemctl", "--no-block", "poweroff")
	t.Logf("both elsewhere after %v", s.elsewhere(t, host, "duo", "solo"))
	if now := strings.Count(s.run(t, s.other(host), "mainstay", "events", "-n", "0"), "will be fenced"); now != fences {
		t.Errorf("a shutdown in good order was fenced")
	}
	if err := until(s.ctx, time.Minute, func() error {
		if on, err := s.lab.Powered(host); err != nil || on {
			return fmt.Errorf("%s is still on (%w)", host, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.deed(t)(s.lab.Start(s.ctx, host))
	s.await(t, "all in order", s.settledRoles)
}

func (s *roles) allLost(t *testing.T) {
	for _, m := range s.lab.Hosts {
		s.deed(t)(s.lab.Kill(s.ctx, m.Name))
	}
	for _, m := range s.lab.Hosts {
		s.deed(t)(s.lab.Start(s.ctx, m.Name))
	}
	s.await(t, "all in order", s.settledRoles)
}
