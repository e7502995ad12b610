package lab

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mainstay/api"
)

var galeraNewer = flag.String("galera-newer", "", "folder with the folders good and broken, each a repository with a newer mariadb-server: make lab-galera-upgrade")

// upgraded puts a newer mariadb-server in on all members, one after another, while clients
// write; then one that cannot be put in, which stops at the first host.
func (g *galeraSite) upgraded(t *testing.T) {
	if *galeraNewer == "" {
		t.Log("not played: make lab-galera-upgrade")
		return
	}
	version := func() map[string]string {
		out := map[string]string{}
		for _, m := range g.lab.Hosts {
			out[m.Name] = strings.TrimSpace(g.run(t, m.Name, "dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Version}", "mariadb-server"))
		}
		return out
	}
	g.w.await(t, 50)
	g.repository(t, "good")
	before, were := g.pids(t), version()
	begun := time.Now()
	stall := g.w.stall(t, func() {
		t.Logf("%s", g.run(t, g.other(""), "mainstay", "restart", "mariadb", "--upgrade", "--wait", "15m"))
	})
	took := time.Since(begun)
	for host, pid := range g.pids(t) {
		if pid == before[host] {
			t.Errorf("mariadb on %s was not restarted", host)
		}
	}
	now := version()
	for host, v := range now {
		if !strings.HasPrefix(v, "ii ") || !strings.HasSuffix(v, "+lab1") {
			t.Errorf("mariadb-server on %s is %s", host, v)
		}
	}
	t.Logf("from %v to %v in %v; the longest time without a commit: %v", were, now, took.Round(time.Second), stall.Round(time.Millisecond))
	g.await(t, "everything in service", g.settled)

	g.repository(t, "broken")
	before = g.pids(t)
	out, err := g.lab.Run(g.ctx, g.other(""), "mainstay", "restart", "mariadb", "--upgrade", "--wait", "15m")
	if err == nil || !strings.Contains(err.Error(), "nothing goes on") {
		t.Errorf("a package that cannot be put in: %v %s", err, out)
	}
	t.Logf("%v", err)
	g.await(t, "a person to be asked for, and the member to be back", func(st api.Status) bool {
		told, ready := false, 0
		for _, w := range st.Waits {
			told = told || w.About == "service/mariadb" && strings.Contains(w.For, "the upgrade of its packages ended on")
		}
		for _, v := range st.Services {
			for _, c := range v.Copies {
				if v.Name == "mariadb" && c.Ready {
					ready++
				}
			}
		}
		return told && ready == len(g.data)
	})
	touched := 0
	for host, pid := range g.pids(t) {
		if pid != before[host] {
			touched++
		}
	}
	for host, v := range version() {
		if v != now[host] {
			t.Errorf("mariadb-server on %s is %s", host, v)
		}
	}
	if touched != 1 {
		t.Errorf("the servers of %d hosts were touched", touched)
	}
	g.run(t, g.other(""), "mainstay", "restart", "mariadb", "--cancel")
}

// repository lets apt on all hosts know one folder of packages, and no other.
func (g *galeraSite) repository(t *testing.T, name string) {
	t.Helper()
	files := map[string]File{"/etc/apt/sources.list.d/newer.list": {Data: []byte("deb [trusted=yes] file:/root/newer-" + name + " ./\n")}}
	all, err := filepath.Glob(filepath.Join(*galeraNewer, name, "*"))
	if err != nil || len(all) == 0 {
		t.Fatalf("%s: %v", *galeraNewer, err)
	}
	for _, path := range all {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Join("/root/newer-"+name, filepath.Base(path))] = File{Data: raw}
	}
	for _, m := range g.lab.Hosts {
		g.run(t, m.Name, "sh", "-c", "rm -f /etc/apt/sources.list.d/*; chmod 755 /root")
		if err := g.lab.Install(m.Name, files); err != nil {
			t.Fatal(err)
		}
	}
}
