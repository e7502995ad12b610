package lab

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var openStackSuite = flag.String("openstack-suite", DefaultSuite, "the Debian release of the OpenStack: make lab-contract SUITE=trixie")

// TestContract holds a real Nova to the list of promises that the openstack package rests on, on
// Debian 12 (Zed) or on Debian 13 (2025.1). Mainstay starts the services and is told of no cloud,
// so nothing but the test acts on Nova; in the last step it is, and a compute loses its power.
func TestContract(t *testing.T) {
	if !playsOpenStack(t, "ten minutes", "lab-contract") {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Minute)
	defer cancel()
	o := newOpenStack(ctx, t, "")
	for _, step := range []struct {
		name string
		play func(*testing.T)
	}{
		{"everything under Mainstay is ready", o.ready},
		{"the cloud is furnished", o.furnished},
		{"every compute takes a server", o.warm},
		{"Nova keeps its promises", o.promises},
		{"check finds nothing in this Nova that is in the way", o.checked},
		{"a compute loses its power", o.lostCompute},
	} {
		if !t.Run(step.name, step.play) {
			return
		}
	}
}

// api is the newest microversion of this Nova.
func (s *openStackSite) api(t *testing.T) string {
	t.Helper()
	var said struct {
		Version struct{ Version string }
	}
	if err := s.cloud.Ask(s.ctx, "compute", "GET", "/", nil, &said); err != nil {
		t.Fatal(err)
	}
	return said.Version.Version
}

// promises runs the contract of the openstack package on this cloud. Its catalogue names the
// cloud by a name that the hosts alone know, so the test sees a /etc/hosts of its own.
func (s *openStackSite) promises(t *testing.T) {
	for _, p := range []string{"nova-common", "python3-oslo.messaging", "rabbitmq-server", "placement-api", "keystone"} {
		t.Log(p, strings.TrimSpace(s.run(t, "c1", "dpkg-query", "-W", "-f", "${Version}", p)))
	}
	t.Log("Nova's newest microversion is", s.api(t))
	// n1 and n2 must be the only ones that take servers.
	for _, host := range slices.Concat(s.cloud.zoned(RoleReal), s.cloud.spare()) {
		s.enable(t, host, false)
		defer s.enable(t, host, true)
	}
	dir := t.TempDir()
	test := filepath.Join(dir, "openstack.test")
	if out, err := exec.CommandContext(s.ctx, "go", "test", "-c", "-o", test, "../openstack").CombinedOutput(); err != nil {
		t.Fatalf("build the contract's test: %v\n%s", err, out)
	}
	dirOf, err := s.lab.HostPath("c1")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dirOf, CloudsFile)
	put := func(name, text string, mode os.FileMode) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	hosts := put("hosts", fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", s.cloud.Internal, InternalName), 0o644)
	revive := put("revive", fmt.Sprintf("#!/bin/sh\nexec %s lab --name %s exec \"$1\" -- systemctl restart nova-compute\n", s.binary, s.lab.Name), 0o755)
	begun := time.Now()
	cmd := exec.CommandContext(s.ctx, "unshare", "--mount", "--propagation", "slave", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts,
		test, "-test.v", "-test.run", "^TestContract$/^lab$", "-test.timeout", "20m", "-cloud", "lab", "-config", config, "-computes", "n1,n2",
		"-image", s.cloud.guest["guest"], "-flavor", s.cloud.guest["tiny"], "-aggregate", s.aggregate(t), "-revive", revive)
	cmd.Dir, cmd.Env = "../openstack", append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	t.Logf("after %v\n%s", time.Since(begun).Round(time.Second), out)
	if err != nil || !strings.Contains(string(out), "--- PASS: TestContract/lab ") {
		t.Fatalf("the contract: %v", err)
	}
}

// enable lets Nova give a compute servers, or not.
func (s *openStackSite) enable(t *testing.T, host string, on bool) {
	t.Helper()
	all, err := s.cloud.ComputeServices(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	status := map[bool]string{true: "enabled", false: "disabled"}[on]
	for _, c := range all {
		if c.Host == host && c.Binary == "nova-compute" {
			if err := s.cloud.Ask(s.ctx, "compute", http.MethodPut, "/os-services/"+c.ID, map[string]string{"status": status}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// aggregate is one without a zone and without hosts.
func (s *openStackSite) aggregate(t *testing.T) string {
	t.Helper()
	var all struct {
		Aggregates []named
	}
	if err := s.cloud.Ask(s.ctx, "compute", "GET", "/os-aggregates", nil, &all); err != nil {
		t.Fatal(err)
	}
	if id := idOf(all.Aggregates, "ssd"); id != "" {
		return id
	}
	var made struct{ Aggregate named }
	if err := s.cloud.Ask(s.ctx, "compute", "POST", "/os-aggregates", map[string]any{"aggregate": map[string]any{"name": "ssd"}}, &made); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(made.Aggregate.ID)
}

// checked tells the site of its cloud and asks what would be in the way.
func (s *openStackSite) checked(t *testing.T) {
	c := s.cloud.Site()
	c.Binary, c.Extra, c.Brakes = s.binary, "openstack: {cloud: lab}\n", "{share: 40, count: 3}"
	if err := s.lab.Install("c1", map[string]File{"/root/site.yaml": {Data: []byte(s.lab.SiteFile(c))}}); err != nil {
		t.Fatal(err)
	}
	s.run(t, "c1", "mainstay", "apply", "--yes", "/root/site.yaml")
	s.awaitFrom(t, "c1", "all to be well", s.calm)
	out, err := s.lab.Run(s.ctx, "c1", "mainstay", "check") // of the host: a file alone is asked for no cloud
	t.Logf("mainstay check: %v\n%s", err, out)
	if err != nil {
		t.Fatal(err)
	}
	lacks := strings.Contains(out, "which zone")
	if _, minor, _ := strings.Cut(s.api(t), "."); lacks != (len(minor) < 3 && minor < "96") {
		t.Errorf("it says that Nova does not tell zones: %v", lacks)
	}
}

// lostCompute: Mainstay evacuates what ran on n1, running and stopped, and gives the host back.
func (s *openStackSite) lostCompute(t *testing.T) {
	all, err := s.cloud.Servers(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(v Server) bool { return v.Host == "n1" }) {
		s.create(t, "fake:n1", 4, false)
	}
	s.evacuates(t, "n1", "n2", nil)
}
