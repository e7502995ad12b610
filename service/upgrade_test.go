package service

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mainstay/fleet"
)

const installed = `printf '%s\n' 'ii  galera-4 galera-4' 'ii  mariadb mariadb-server' 'ii  mariadb mariadb-backup' 'ii  mariadb libmariadb3:amd64' 'rc  mariadb mariadb-old' 'ii  nova nova-api'` + "\n"

// TestUpgrade: the packages are there before the copy is stopped; while they are put in it
// is barred, so that no maintainer script starts it; then it joins again. What apt refuses
// is told in its own words, and a copy that it never came to runs on.
func TestUpgrade(t *testing.T) {
	for _, tc := range []struct {
		name, apt string // what apt-get does, by its arguments
		owner     string
		stopped   bool
		phase     string
		err       string
	}{
		{"it is upgraded", "", "mariadb-server: /lib/systemd/system/mariadb.service", true, fleet.Running, ""},
		{"the lists cannot be had", `case "$*" in *update) echo E: no mirror; exit 100;; esac`, "mariadb-server: /lib/systemd/system/mariadb.service", false, fleet.Running, "E: no mirror"},
		{"the packages cannot be had", `case "$*" in *download-only*) echo E: hash sum; exit 100;; esac`, "mariadb-server: /lib/systemd/system/mariadb.service", false, fleet.Running, "E: hash sum"},
		{"a script fails", `case "$*" in *download-only*|*update) ;; *) echo E: dpkg returned an error code; exit 100;; esac`, "mariadb-server: /usr/lib/systemd/system/mariadb.service", true, fleet.Stopped, "E: dpkg returned"},
		{"no package has it", "", "diversion by x from: /lib/systemd/system/mariadb.service", false, fleet.Running, "no package has mariadb.service"},
		{"half installed", "", "mariadb-old: /lib/systemd/system/mariadb.service", false, fleet.Running, "dpkg --configure -a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, c, data := openGaleraTest(t, fakeUnit{Active: "active", Sub: "running"})
			calls := programs(t, map[string]string{
				"dpkg-query":  `case "$1" in -S) echo '` + tc.owner + `';; *) ` + installed + ";; esac\n",
				"apt-get":     "if [ -e " + c.bar.held + " ]; then echo barred no; else echo barred yes; fi >>" + filepath.Join(data, "bars") + "\n" + tc.apt + "\n",
				"systemd-run": `while [ "$1" != apt-get ]; do shift; done; exec "$@"` + "\n",
			})
			if err := c.bar.lift(); err != nil {
				t.Fatal(err)
			}
			err := c.Upgrade(t.Context(), "")
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("Upgrade: %v, want %q", err, tc.err)
			}
			if stopped := f.called("StopUnit") > 0; stopped != tc.stopped {
				t.Errorf("stopped: %v", stopped)
			}
			state(t, c, tc.phase)
			if tc.err != "" {
				return
			}
			bars, _ := os.ReadFile(filepath.Join(data, "bars"))
			if got := strings.Fields(strings.ReplaceAll(string(bars), "barred ", "")); strings.Join(got, " ") != "no no yes" {
				t.Errorf("barred at the update, the download and the install: %q", got)
			}
			const packages = "galera-4 libmariadb3:amd64 mariadb-backup mariadb-server"
			if text := calls(); strings.Count(text, "install --download-only "+packages+"\n") != 1 || strings.Count(text, "install "+packages+"\n") != 2 { // by systemd-run, and so by apt-get
				t.Errorf("called: %s", text)
			}
		})
	}
}
