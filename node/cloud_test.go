package node

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"mainstay/fleet"
	"mainstay/openstack/falsecloud"
	"mainstay/plan"
)

// TestCheckCloud: a voter is told, long before it leads, what keeps it from the cloud.
func TestCheckCloud(t *testing.T) {
	f := falsecloud.New(falsecloud.Config{Newest: 100})
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

// TestAskGates: a server is ready when one of its addresses answers as it should.
func TestAskGates(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(s.Close)
	at, err := netip.ParseAddrPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nobody := netip.MustParseAddr("127.9.9.9") // the server listens on 127.0.0.1 alone
	gate := func(server, text string, to ...netip.Addr) fleet.Gate {
		check, err := plan.Gate(text)
		if err != nil {
			t.Fatal(err)
		}
		return fleet.Gate{Server: server, Check: check, Addresses: to}
	}
	port := strconv.Itoa(int(at.Port()))
	got := (&cloud{}).Ask(t.Context(), []fleet.Gate{
		gate("well", "http:"+port+"/healthz", at.Addr()), gate("second", "tcp:"+port, nobody, at.Addr()),
		gate("unwell", "http:"+port+"/", at.Addr()), gate("nowhere", "tcp:"+port, nobody),
	})
	for server, want := range map[string]string{"well": "", "second": "", "unwell": "503", "nowhere": "refused"} {
		if why, asked := got[server]; !asked || want == "" && why != "" || !strings.Contains(why, want) {
			t.Errorf("%s: %q, %v; want %q", server, why, asked, want)
		}
	}
	if got := (&cloud{}).Ask(t.Context(), nil); got != nil {
		t.Errorf("nobody was to be asked: %v", got)
	}
}
