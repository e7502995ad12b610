package node

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mainstay/service"
)

// TestUnitsFollow: a new program finds the units of an old one, and leaves its own; where
// nobody has written any, it writes none.
func TestUnitsFollow(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none") // no systemd is told
	c := Config{Config: "/etc/mainstay", Units: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	followUnits(t.Context(), c)
	if left, err := os.ReadDir(c.Units); err != nil || len(left) > 0 {
		t.Errorf("units were written where there were none: %v %v", left, err)
	}
	old := filepath.Join(c.Units, service.AgentUnit)
	if err := os.WriteFile(old, []byte("[Service]\nExecStart=/usr/bin/mainstay run\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	followUnits(t.Context(), c)
	text, err := os.ReadFile(old)
	if err != nil || !strings.Contains(string(text), "WatchdogSec=") {
		t.Errorf("the old unit stands: %v %s", err, text)
	}
	if _, err := os.Stat(filepath.Join(c.Units, service.QuorumUnit)); err != nil {
		t.Error(err)
	}
}
