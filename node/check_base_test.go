package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckWithoutItsBase: what a resource agent misses on a host may lie on what the
// service stands on, which works elsewhere. Only where that works here it is wrong: else
// no passive host would take a site's file with a database on a mirrored disk.
func TestCheckWithoutItsBase(t *testing.T) {
	dir := t.TempDir()
	text := []byte(fmt.Sprintf(`site: test
networks: {a: {cidr: 10.9.0.0/24}}
hosts: {"c[1-3]": {roles: [controller], addresses: {a: 10.9.0.1}}}
services:
  fs: {kind: ocf, mode: active/passive, why: a test, roles: [controller], params: {agent: "heartbeat:Dummy", state: %[1]s/base}}
  db: {kind: ocf, mode: active/passive, why: a test, roles: [controller], with: [service/fs], params: {agent: "heartbeat:Dummy", state: %[1]s/missing/state}}
`, dir))
	look := func() string {
		_, faults := Check(t.Context(), Config{Config: t.TempDir()}, "site.yaml", text, "c1")
		for _, line := range strings.Split(faults.Error(), "\n") {
			if strings.Contains(line, "services/db/params") {
				return line
			}
		}
		return ""
	}
	if line := look(); !strings.Contains(line, "warning:") || !strings.Contains(line, "while service/fs, on which it stands, does not work here") {
		t.Errorf("while it is elsewhere: %q", line)
	}
	if err := os.WriteFile(filepath.Join(dir, "base"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if line := look(); !strings.Contains(line, "error:") || !strings.Contains(line, "will not do on this host") {
		t.Errorf("where it works: %q", line)
	}
}
