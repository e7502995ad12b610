package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestNovaContract walks the promises that hold the false cloud to (openstack's TestContract) on
// the real Nova of the lab. The site's file names no cloud meanwhile, so that Mainstay keeps its
// services up and touches none of its computes.
func TestNovaContract(t *testing.T) {
	if !*openStackLab {
		t.Log("not played: it takes a quarter of an hour and 9 GB of memory; make lab-contract")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Minute)
	defer cancel()
	o := newOpenStack(ctx, t, "")
	t.Run("everything under Mainstay is ready", o.ready)
	t.Run("the cloud is furnished", o.furnished)
	t.Run("every compute takes a server", o.warm)
	if t.Failed() {
		return
	}
	o.only(t, "n1", "n2")
	var set struct {
		Aggregate named `json:"aggregate"`
	}
	if err := o.cloud.Ask(ctx, "compute", "POST", "/os-aggregates", map[string]any{"aggregate": map[string]any{"name": "contract"}}, &set); err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprint(set.Aggregate.ID)
	t.Cleanup(func() {
		if err := o.cloud.Ask(context.WithoutCancel(ctx), "compute", "DELETE", "/os-aggregates/"+id, nil, nil); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	tests, hosts := filepath.Join(dir, "openstack.test"), filepath.Join(dir, "hosts")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", tests, "./openstack")
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	c1, err := o.lab.HostPath("c1")
	if err != nil {
		t.Fatal(err)
	}
	// Keystone's catalogue names the cloud by a name that only the lab's hosts know.
	if err := os.WriteFile(hosts, fmt.Appendf(nil, "127.0.0.1 localhost\n%s %s\n", o.cloud.Internal, InternalName), 0o644); err != nil {
		t.Fatal(err)
	}
	revive := fmt.Sprintf(`again() { %s lab --name %s exec "$1" -- systemctl restart nova-compute; }; again`, o.binary, o.lab.Name)
	cmd := exec.CommandContext(ctx, "unshare", "-m", "sh", "-c", `mount --bind "$1" /etc/hosts && shift && exec "$@"`, "sh", hosts, tests, "-test.v", "-test.run", "TestContract/lab",
		"-cloud", "lab", "-config", c1+"/etc/mainstay/clouds.yaml", "-computes", "n1,n2", "-image", o.cloud.guest["guest"], "-flavor", o.cloud.guest["tiny"], "-aggregate", id, "-revive", revive)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("the contract is not kept: %v", err)
	}
}

// only leaves no compute enabled but these, until the test is over.
func (s *openStackSite) only(t *testing.T, keep ...string) {
	t.Helper()
	all, err := s.cloud.ComputeServices(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Binary != "nova-compute" {
			continue
		}
		status := func(status string) error {
			return s.cloud.Ask(context.WithoutCancel(s.ctx), "compute", "PUT", "/os-services/"+c.ID, map[string]any{"status": status}, nil)
		}
		if slices.Contains(keep, c.Host) {
			if err := status("enabled"); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := status("disabled"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := status("enabled"); err != nil {
				t.Error(err)
			}
		})
	}
}
