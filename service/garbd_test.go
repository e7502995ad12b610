package service

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mainstay/fleet"
)

// TestGarbdExamine: an arbitrator that finds nobody, or is slower than the members, is named.
func TestGarbdExamine(t *testing.T) {
	t.Parallel()
	const nodes = "GALERA_NODES=\"10.0.0.11:4567 10.0.0.12:4567\"\nGALERA_GROUP=\"cloud\"\n"
	const timers = "evs.inactive_timeout=PT6S; evs.install_timeout=PT3S; evs.suspect_timeout=PT2S; evs.keepalive_period=PT0.5S; evs.join_retrans_period=PT0.5S"
	for _, tc := range []struct{ text, suspect, want string }{
		{nodes + "GALERA_OPTIONS=\"gmcast.listen_addr=tcp://10.0.0.13:4567; " + timers + "\"\n", "2s", ""},
		{nodes + "GALERA_OPTIONS=\"" + strings.ReplaceAll(timers, "; ", ";") + "\"\n", "2s", ""},
		{nodes, "0s", ""},
		{nodes + "# GALERA_OPTIONS=\"" + timers + "\"\n", "2s", "want in it: " + timers},
		{nodes + "GALERA_OPTIONS=\"" + timers + "\"\n", "3s", "lacks evs.inactive_timeout=PT9S"},
		{"# GALERA_NODES=\"\"\nGALERA_GROUP=\"cloud\"\n", "0s", "GALERA_NODES is not set"},
		{"", "2s", "cannot be read"},
	} {
		file := filepath.Join(t.TempDir(), "garb")
		if tc.text != "" {
			if err := os.WriteFile(file, []byte(tc.text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		c, err := Open(fleet.Service{Name: "garbd", Kind: "garbd", Mode: fleet.ActiveActive, Units: []string{"garb.service"},
			Params: map[string]string{"config": file, "suspect_timeout": tc.suspect}}, Env{Systemd: newSystemd(t, newFakeSystemd(t))})
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(c.(Examiner).Examine(nil), "; ")
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%q, %s: %q, want %q", tc.text, tc.suspect, got, tc.want)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
