package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mainstay/fleet"
	"mainstay/probe/storage"
)

// TestCheckStorage: a compute says what its storage heartbeat would be worth there, and a voter is not asked.
func TestCheckStorage(t *testing.T) {
	shared := t.TempDir()
	look := func(path, host string) string {
		text := fmt.Sprintf("site: x\nnetworks: {management: {cidr: 10.0.0.0/24}}\nhosts:\n  c[1-3]: {roles: [controller], addresses: {management: 10.0.0.11}}\n"+
			"  n[1-3]: {roles: [compute], addresses: {management: 10.0.0.101}}\nservices: {}\nopenstack: {cloud: here, storage_heartbeat: %s}\n", path)
		var lines []string
		_, faults := Check(t.Context(), Config{Config: t.TempDir(), Run: t.TempDir()}, "site.yaml", []byte(text), host)
		for _, f := range faults {
			if f.Rule == "storage" {
				lines = append(lines, f.Error())
			}
		}
		return strings.Join(lines, "\n")
	}
	if got := look(shared, "c1"); got != "" {
		t.Errorf("a controller has no such storage and needs none: %s", got)
	}
	if got := look(shared+"/none", "n1"); !strings.Contains(got, "site.yaml:7:31: warning: storage: openstack/storage_heartbeat") && !strings.Contains(got, "is not there on this host") {
		t.Errorf("not mounted: %s", got)
	}
	if got := look(shared, "n1"); strings.Contains(got, "cannot be written") || strings.Contains(got, "no other's") {
		t.Errorf("nobody has written yet: %s", got)
	}
	if err := storage.Open(shared, "x", "n1", "b").Write(1); err != nil {
		t.Fatal(err)
	}
	if got := look(shared, "n1"); !strings.Contains(got, "has this host's storage heartbeat and no other's") {
		t.Errorf("the others write elsewhere: %s", got)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := look(file, "n1"); !strings.Contains(got, "cannot be written by root on this host") {
		t.Errorf("no directory: %s", got)
	}
	spec := fleet.Spec{Site: "x", OpenStack: fleet.OpenStack{Storage: shared}}
	if storageOf(spec, fleet.Host{Name: "c1", Roles: []string{"controller"}}, "b") != nil || storageOf(spec, fleet.Host{Name: "n1", Roles: []string{"compute"}}, "b") == nil ||
		storageOf(fleet.Spec{}, fleet.Host{Name: "n1", Roles: []string{"compute"}}, "b") != nil {
		t.Error("computes of a site whose file names storage keep a heartbeat there, and nobody else")
	}
}
