package node

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mainstay/openstack/falsecloud"
)

// TestCheckCloud: a voter is told, long before it leads, what keeps it from the cloud.
func TestCheckCloud(t *testing.T) {
	f := falsecloud.New(falsecloud.Config{})
	for _, h := range []string{"n1", "n2", "n3"} {
		f.AddCompute(h, "", 8192)
	}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	t.Cleanup(f.Close)
	name := filepath.Join(t.TempDir(), "clouds.yaml")
	look := func(computes, host string) string {
		text := fmt.Sprintf("site: x\nnetworks: {management: {cidr: 10.0.0.0/24}}\nhosts:\n  c[1-3]: {roles: [controller], addresses: {management: 10.0.0.11}}\n"+
			"  %s: {roles: [compute], addresses: {management: 10.0.0.101}}\nservices: {}\nopenstack: {cloud: here, config: %s}\n", computes, name)
		var lines []string
		_, faults := Check(t.Context(), Config{Config: t.TempDir(), Run: t.TempDir()}, "site.yaml", []byte(text), host)
		for _, f := range faults {
			if f.Rule == "openstack" {
				lines = append(lines, f.Error())
			}
		}
		return strings.Join(lines, "\n")
	}
	if got := look("n[1-3]", "c1"); !strings.Contains(got, "site.yaml:7:1: error: openstack: read cloud \"here\"") || !strings.Contains(got, "no such file") {
		t.Errorf("without a clouds.yaml: %s", got)
	}
	if got := look("n[1-3]", "n1"); got != "" {
		t.Errorf("a compute has no clouds.yaml and needs none: %s", got)
	}
	write := func(password string) {
		text := fmt.Sprintf("clouds: {here: {auth: {auth_url: '%s/identity/v3', username: admin, password: %s, project_name: admin, user_domain_id: default, project_domain_id: default}}}\n", s.URL, password)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("secret")
	if got := look("n[1-3]", "c1"); got != "" {
		t.Errorf("all is well: %s", got)
	}
	if got := look("n[1-4]", "c1"); !strings.Contains(got, "warning: openstack: Nova knows no nova-compute of n4") {
		t.Errorf("an unknown compute: %s", got)
	}
	write("swordfish")
	if got := look("n[1-3]", "c1"); !strings.Contains(got, "warning: openstack: log in to Keystone: 401") || strings.Contains(got, "swordfish") {
		t.Errorf("a wrong password: %s", got)
	}
}
