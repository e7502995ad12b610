package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// moderate is the load of this machine, over the last minute, up to which a time that
// Galera's own silence decides is held against a bound; beyond it members wait for a CPU.
const moderate = 8.0

// machineLoad is the load of this machine over the last minute.
func machineLoad(t *testing.T) float64 {
	t.Helper()
	load, err := loadAverage()
	if err != nil {
		t.Fatal(err)
	}
	return load
}

// checked: what of a member's option files would cost data is named by mainstay check, and
// those of this lab are not complained of.
func (g *galeraSite) checked(t *testing.T) {
	host, file := g.lab.Hosts[0].Name, "/etc/mysql/mariadb.conf.d/99-wrong.cnf"
	check := func() (out []string) {
		for line := range strings.Lines(g.run(t, host, "sh", "-c", "mainstay check 2>&1; true")) {
			if strings.Contains(line, "wsrep_") || strings.Contains(line, "innodb_") || strings.Contains(line, "its configuration") {
				out = append(out, strings.TrimSpace(line))
			}
		}
		return out
	}
	if out := check(); len(out) > 0 {
		t.Errorf("a sound member is complained of: %q", out)
	}
	g.run(t, host, "sh", "-c", "printf '[mysqld]\\ninnodb_flush_log_at_trx_commit = 2\\nwsrep_cluster_address = gcomm://"+g.lab.Hosts[0].Addresses["management"].V4.Addr().String()+"\\n' >"+file)
	out := strings.Join(check(), "\n")
	for _, want := range []string{"innodb_flush_log_at_trx_commit is 2", "does not name " + g.lab.Hosts[1].Name, "does not name " + g.lab.Hosts[2].Name} {
		if !strings.Contains(out, want) {
			t.Errorf("does not say %q:\n%s", want, out)
		}
	}
	t.Log(out)
	g.run(t, host, "rm", file)
}

// index is the place of each member in the group: of those that can, Galera asks the first.
func (g *galeraSite) index(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, m := range g.lab.Hosts {
		n, err := strconv.Atoi(strings.TrimSpace(g.run(t, m.Name, "mariadb", "-N", "-e", "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'wsrep_local_index'")))
		if err != nil {
			t.Fatal(err)
		}
		out[m.Name] = n
	}
	return out
}

// donated: a member without data is copied while clients write, from a member to which
// nobody writes: the writer stays. Galera itself would ask the first in the group, which
// the writer is here.
func (g *galeraSite) donated(t *testing.T) {
	var writer, victim, third string
	for try := 0; ; try++ {
		writer = g.writer(t)
		at := g.index(t)
		victim, third = g.other(writer), ""
		for _, m := range g.lab.Hosts {
			if m.Name != writer && at[m.Name] > at[writer] {
				third = m.Name
			}
		}
		if third != "" {
			victim = g.other(writer, third)
			t.Logf("%s writes, %s is to be copied; their places in the group: %v", writer, victim, at)
			break
		}
		if try == 3 {
			t.Fatalf("%s, the writer, is the last in the group: %v", writer, at)
		}
		g.run(t, writer, "mainstay", "maintenance", writer, "on", "--why", "another shall write")
		g.await(t, "another writer", func(st api.Status) bool { w, _ := writersOf(st); return w != "" && w != writer })
		g.run(t, writer, "mainstay", "maintenance", writer, "off")
		g.await(t, "everything in service", g.settled)
	}
	g.w.await(t, 50)
	g.run(t, third, "mainstay", "maintenance", victim, "on", "--why", "it loses its data")
	g.run(t, victim, "sh", "-c", "systemctl stop mariadb; printf '# GALERA saved state\nversion: 2.1\nuuid:    00000000-0000-0000-0000-000000000000\nseqno:   -1\nsafe_to_bootstrap: 0\n' >/var/lib/mysql/grastate.dat; rm -f /var/lib/mysql/galera.cache")
	begun := time.Now()
	moved := map[string]bool{}
	stall := g.w.stall(t, func() {
		g.run(t, third, "mainstay", "maintenance", victim, "off")
		g.awaitFrom(t, third, "the member to be copied", func(st api.Status) bool {
			w, _ := writersOf(st)
			moved[w] = true
			for _, v := range st.Services {
				if v.Name == "mariadb" {
					return v.Copies[victim].Ready
				}
			}
			return false
		})
	})
	took := time.Since(begun)
	chosen := ""
	for line := range strings.Lines(g.run(t, victim, "journalctl", "-u", "mariadb", "--no-pager", "-o", "cat", "--since", fmt.Sprintf("@%d", begun.Unix()))) {
		if strings.Contains(line, "requested state transfer") {
			chosen = strings.TrimSpace(line)
		}
	}
	t.Logf("copied after %v, no commit for %v at most: %s", took.Round(100*time.Millisecond), stall.Round(time.Millisecond), chosen)
	if !strings.Contains(chosen, "from '"+third+",'") || !strings.Contains(chosen[strings.Index(chosen, "Selected"):], "("+third+")") {
		t.Errorf("the donor is not %s: %s", third, chosen)
	}
	if len(moved) != 1 || !moved[writer] {
		t.Errorf("the writes moved from %s: %v", writer, moved)
	}
	if left := g.run(t, victim, "systemctl", "show-environment"); strings.Contains(left, "sst-donor") {
		t.Errorf("the donor is left in systemd's environment: %s", left)
	}
}

// dragged: the disk of a member to which nobody writes becomes slow. All writers wait for
// it, until it leaves the rotation and is let lag; it comes back when its disk is well.
func (g *galeraSite) dragged(t *testing.T) {
	const span = 8 * time.Second
	victim := g.other(g.writer(t))
	g.slowable(t, victim) // systemd restarts it, so Galera may choose the writer for its donor
	writer := g.writer(t)
	if victim == writer {
		t.Fatalf("the writes moved to %s, which was being restarted", victim)
	}
	rate := func() float64 {
		from := g.w.acked()
		g.wait(span)
		return float64(g.w.acked()-from) / span.Seconds()
	}
	paused := func() time.Duration {
		n, err := strconv.ParseInt(strings.TrimSpace(g.run(t, writer, "mariadb", "-N", "-e", "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'wsrep_flow_control_paused_ns'")), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(n)
	}
	g.w.await(t, 50)
	before := rate()
	g.run(t, victim, "touch", "/run/slow-disk")
	begun := time.Now()
	g.w.await(t, 10)
	from := paused()
	during := rate()
	stood := paused() - from
	copyOf := func(st api.Status) (s fleet.ServiceState) {
		for _, v := range st.Services {
			if v.Name == "mariadb" {
				s = v.Copies[victim]
			}
		}
		return s
	}
	g.awaitFrom(t, writer, "the slow member to be let lag", func(st api.Status) bool {
		s := copyOf(st)
		return !s.Ready && strings.Contains(s.Why, "is not waited for")
	})
	t.Logf("%s is not waited for after %v", victim, time.Since(begun).Round(100*time.Millisecond))
	g.events(t, victim+" says of its mariadb: running, but not ready: holds the whole cluster up")
	from = paused()
	after := rate()
	stoodAfter := paused() - from
	t.Logf("commits in a second: %.0f before, %.0f while it held them up (they stood still for %v of %v), %.0f since (%v)", before, during, stood.Round(time.Millisecond), span, after, stoodAfter.Round(time.Millisecond))
	if stoodAfter > span/10 {
		t.Errorf("the writers still stand still: %v of %v", stoodAfter, span)
	}
	if now := g.writer(t); now != writer {
		t.Errorf("the writes moved from %s to %s", writer, now)
	}
	g.run(t, victim, "rm", "/run/slow-disk")
	since := time.Now()
	g.awaitFrom(t, writer, "it to be waited for again", func(st api.Status) bool { return copyOf(st).Ready })
	t.Logf("ready again %v after its disk was well", time.Since(since).Round(100*time.Millisecond))
	out := g.run(t, victim, "mariadb", "-N", "-e", "SELECT @@wsrep_desync")
	if strings.TrimSpace(out) != "0" {
		t.Errorf("it is still told to lag: %s", out)
	}
}

// slowSync is a library that lets each fsync of the server take 400 ms while a file exists.
// (strace stops every thread at each system call: that is a slow CPU, and the group loses
// such a member. A disk that is frozen in bursts stops Galera's own thread too, which keeps
// what it receives in a mapped file.)
const slowSync = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static void wait_for_disk(void) { if (access("/run/slow-disk", F_OK) == 0) usleep(400000); }
int fsync(int fd) { wait_for_disk(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { wait_for_disk(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
`

// slowable restarts the server of a host so that the file can make its disk slow.
func (g *galeraSite) slowable(t *testing.T, host string) {
	t.Helper()
	dir := t.TempDir()
	source, library := filepath.Join(dir, "slow.c"), filepath.Join(dir, "slow.so")
	if err := os.WriteFile(source, []byte(slowSync), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(g.ctx, "gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	raw, err := os.ReadFile(library)
	if err != nil {
		t.Fatal(err)
	}
	err = g.lab.Install(host, map[string]File{
		"/usr/lib/slow.so": {Data: raw},
		"/etc/systemd/system/mariadb.service.d/slow.conf": {Data: []byte("[Service]\nEnvironment=LD_PRELOAD=/usr/lib/slow.so\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	g.run(t, host, "sh", "-c", "systemctl daemon-reload && systemctl restart mariadb")
	g.await(t, "everything in service", g.settled)
}
