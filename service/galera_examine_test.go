package service

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mainstay/fleet"
)

// TestGaleraExamine: what of a server's option files would cost data, or keep the cluster
// from coming back, is named with what would be right; a sound file is not complained of.
func TestGaleraExamine(t *testing.T) {
	tools := t.TempDir()
	for _, name := range []string{"mariadb-backup", "socat", "rsync"} {
		if err := writeProgram(filepath.Join(tools, name), "#!/bin/sh\n"); err != nil {
			t.Fatal(err)
		}
	}
	lib := filepath.Join(tools, "libgalera_smm.so")
	if err := os.WriteFile(lib, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	sound := map[string]string{
		"wsrep-on": "ON", "wsrep_provider": lib, "innodb_flush_log_at_trx_commit": "1", "innodb_autoinc_lock_mode": "2", "binlog_format": "row",
		"wsrep_cluster_address": "gcomm://10.0.0.11,10.0.0.12:4567,c3.cloud.example?pc.wait_prim=yes", "wsrep_sst_method": "mariabackup", "wsrep_sst_auth": "mysql:geheim",
		"wsrep_provider_options": "gcache.size=32M; pc.recovery=true; evs.suspect_timeout=PT5S",
	}
	homes := []fleet.Host{
		{Name: "c1", Addresses: map[string]netip.Addr{"management": netip.MustParseAddr("10.0.0.11")}},
		{Name: "c2", Addresses: map[string]netip.Addr{"management": netip.MustParseAddr("10.0.0.12")}},
		{Name: "c3", Addresses: map[string]netip.Addr{"management": netip.MustParseAddr("10.0.0.13")}},
	}
	for _, tc := range []struct {
		name, option, value string
		suspect             string
		lacking             string // a program that is not installed
		want                []string
	}{
		{name: "sound"},
		{name: "no member", option: "wsrep-on", value: "OFF", want: []string{"wsrep_on is OFF"}},
		{name: "what was acknowledged may be lost", option: "innodb_flush_log_at_trx_commit", value: "2", want: []string{"trx_commit is 2: when all members lose power at once, up to the last second"}},
		{name: "no recovery", option: "wsrep_provider_options", value: "pc.recovery=no", want: []string{"pc.recovery is no"}},
		{name: "split brain", option: "wsrep_provider_options", value: "pc.ignore_sb = true", want: []string{"pc.ignore_sb is true"}},
		{name: "impatient, and told otherwise", option: "wsrep_provider_options", value: "evs.suspect_timeout=PT0.3S"},
		{name: "impatient", option: "wsrep_provider_options", value: "evs.suspect_timeout=PT0.3S", suspect: "0s", want: []string{"evs.suspect_timeout is PT0.3S"}},
		{name: "no row format", option: "binlog_format", value: "", want: []string{"binlog_format is MIXED"}},
		{name: "auto increment", option: "innodb_autoinc_lock_mode", value: "", want: []string{"innodb_autoinc_lock_mode is 1"}},
		{name: "no library", option: "wsrep_provider", value: "/nowhere/lib.so", want: []string{"/nowhere/lib.so"}},
		{name: "a donor that blocks", option: "wsrep_sst_method", value: "rsync", want: []string{"takes no writes while it sends"}},
		{name: "no way to send a copy", lacking: "mariadb-backup", want: []string{"mariadb-backup is not installed"}},
		{name: "no login", option: "wsrep_sst_auth", value: "", want: []string{"wsrep_sst_auth is not set"}},
		{name: "its own cluster", option: "wsrep_cluster_address", value: "gcomm://", want: []string{"begins a cluster of its own; want gcomm:// and the addresses of c1, c2, c3"}},
		{name: "one is left out", option: "wsrep_cluster_address", value: "gcomm://10.0.0.11,c2", want: []string{"does not name c3"}},
		{name: "a stranger", option: "wsrep_cluster_address", value: "gcomm://c1,c2,c3,10.0.0.14:4567", want: []string{"names 10.0.0.14, on which the site's file puts no member"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var text strings.Builder
			for _, name := range fleet.Sorted(sound) {
				value := sound[name]
				if name == tc.option {
					value = tc.value
				}
				if value != "" {
					text.WriteString("echo '--" + name + "=" + value + "'\n")
				}
			}
			dir := t.TempDir()
			for _, name := range []string{"mariadb-backup", "socat", "rsync"} {
				if name != tc.lacking {
					if err := os.Symlink(filepath.Join(tools, name), filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := writeProgram(filepath.Join(dir, defaultsProgram), "#!/bin/sh\n[ \"$1\" = --mysqld ] || exit 1\necho --skip-name-resolve\n"+text.String()); err != nil {
				t.Fatal(err)
			}
			params := map[string]string{}
			if tc.suspect != "" {
				params["suspect_timeout"] = tc.suspect
			}
			c, err := Open(fleet.Service{Name: "mariadb", Kind: "galera", Mode: fleet.ActiveActive, Units: []string{"mariadb.service"}, Params: params}, Env{Systemd: NewSystemd("")})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			t.Setenv("PATH", dir)
			got := c.(Examiner).Examine(homes)
			if len(got) != len(tc.want) {
				t.Fatalf("%q; want %q", got, tc.want)
			}
			for i, want := range tc.want {
				if !strings.Contains(got[i], want) || strings.Contains(got[i], "geheim") {
					t.Errorf("does not say %q: %s", want, got[i])
				}
			}
		})
	}
	t.Run("it cannot be read", func(t *testing.T) {
		c := &galeraCopy{}
		t.Setenv("PATH", t.TempDir())
		if got := c.Examine(homes); len(got) != 1 || !strings.Contains(got[0], "cannot be read") {
			t.Errorf("%q", got)
		}
	})
}
