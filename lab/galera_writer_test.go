package lab

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/api"
)

// galeraSuspect is the suspect_timeout that Mainstay sets where the site's file says
// nothing: for so long, at the least, Galera itself lets writers wait for a member that
// is silent.
const galeraSuspect = 2 * time.Second

// writerLost kills (KILL) or stops (STOP) the writer's server again and again, while
// clients write. Galera has formed a group without it when a survivor tells of a quorum;
// what the clients wait beyond that, Mainstay and HAProxy have added.
//
// bound is the project's own: no commit for so much longer than suspect_timeout, in the
// median of the rounds.
func (g *galeraSite) writerLost(t *testing.T, signal string, bound time.Duration) {
	var stalls, groups, added []time.Duration
	load := 0.0
	for range *galeraRounds {
		load = max(load, machineLoad(t))
		g.size(t, len(g.data)) // one that goes on believes for a moment that it never was out of the group
		g.await(t, "everything in service", g.settled)
		g.w.await(t, 50)
		old := g.writer(t)
		var begun time.Time
		stall, end := g.w.stalled(t, func() {
			begun = time.Now()
			g.run(t, old, "systemctl", "kill", "-s", signal, "mariadb")
			g.awaitFrom(t, g.other(old), "another writer", func(st api.Status) bool {
				i := slices.IndexFunc(st.Services, func(v api.ServiceStatus) bool { return v.Name == "mariadb" })
				return i >= 0 && st.Services[i].Writer != "" && st.Services[i].Writer != old
			})
		})
		group := g.quorum(t, begun, old)
		if signal == "STOP" {
			g.run(t, old, "systemctl", "kill", "-s", "CONT", "mariadb")
		}
		stalls, groups, added = append(stalls, stall), append(groups, group.Sub(begun)), append(added, end.Sub(group))
		t.Logf("%s stopped at %s: no commit for %v; a new group %v and the next commit %v after that, with %s", old, begun.Format("15:04:05.000"),
			stall.Round(time.Millisecond), group.Sub(begun).Round(time.Millisecond), end.Sub(begun).Round(time.Millisecond), g.writer(t))
		if stall > 2*(galeraSuspect+bound) {
			g.tellGroup(t, begun)
		}
	}
	t.Logf("%d rounds, the machine's load up to %.1f, suspect_timeout %v: no commit for %s; Galera's own new group after %s; added to that %s", len(stalls), load, galeraSuspect, spread(stalls), spread(groups), spread(added))
	if worst := slices.Max(added); worst > bound {
		t.Errorf("%v passed from Galera's new group to the next commit: more than %v", worst, bound)
	}
	switch median := slices.Sorted(slices.Values(stalls))[len(stalls)/2]; {
	case load > moderate:
		t.Logf("not held against suspect_timeout and %v: the load was above %.0f", bound, moderate)
	case median > galeraSuspect+bound:
		t.Errorf("no commit for %v in the median: more than suspect_timeout (%v) and %v", median, galeraSuspect, bound)
	}
}

// tellGroup logs what each member itself said of the group since then.
func (g *galeraSite) tellGroup(t *testing.T, since time.Time) {
	t.Helper()
	for _, m := range g.lab.Hosts {
		out := g.run(t, m.Name, "journalctl", "-u", "mariadb", "-o", "short-precise", "--no-pager", "--since", fmt.Sprintf("@%d", since.Unix()-1))
		t.Logf("%s on the group, which took so long:\n%s", m.Name, out)
	}
}

// quorum is when a survivor first told of a quorum since then.
func (g *galeraSite) quorum(t *testing.T, since time.Time, lost string) time.Time {
	t.Helper()
	var first time.Time
	for _, m := range g.lab.Hosts {
		if m.Name == lost {
			continue
		}
		out := g.run(t, m.Name, "journalctl", "-u", "mariadb", "-o", "short-unix", "--no-pager", "--since", fmt.Sprintf("@%d", since.Unix()))
		for line := range strings.Lines(out) {
			at, _, _ := strings.Cut(line, " ")
			seconds, err := strconv.ParseFloat(at, 64)
			if when := time.UnixMicro(int64(seconds * 1e6)); err == nil && strings.Contains(line, "Quorum results") && when.After(since) {
				if first.IsZero() || when.Before(first) {
					first = when
				}
				break
			}
		}
	}
	if first.IsZero() {
		t.Fatalf("nobody tells of a quorum since %v", since)
	}
	return first
}

// evictions counts how often a group of sound members falls apart because one of them was
// busy, at several suspect_timeouts, Galera's own 5 s among them: hogs burn all the CPU
// on every host, and big writes keep the disks and the group busy.
func (g *galeraSite) evictions(t *testing.T) {
	const each, hogs = 40 * time.Second, 4
	const most = 2 * moderate // of other people's load: the hogs add a dozen
	load := machineLoad(t)
	g.run(t, g.lab.Hosts[0].Name, "mariadb", "-e", "CREATE TABLE IF NOT EXISTS proof.bulk (n INT AUTO_INCREMENT PRIMARY KEY, x LONGBLOB) ENGINE=InnoDB")
	for _, suspect := range []string{"1s", "2s", "3s", "5s"} {
		g.apply(t, fmt.Sprintf("  haproxy: {}\n  mariadb: {listen: {network: management}, params: {suspect_timeout: %s}}\n", suspect))
		g.await(t, "everything in service", g.settled)
		g.awaitTimer(t, suspect)
		for _, m := range g.lab.Hosts {
			for n := range hogs {
				g.run(t, m.Name, "systemd-run", "--quiet", fmt.Sprintf("--unit=hog%d", n), "sh", "-c", "while :; do :; done")
			}
		}
		ctx, cancel := context.WithCancel(g.ctx)
		var wait sync.WaitGroup
		for range 3 {
			wait.Go(func() { g.bulk(ctx) })
		}
		begun := time.Now()
		commits := g.w.acked()
		g.wait(each)
		cancel()
		wait.Wait()
		views, suspected := 0, 0
		for _, m := range g.lab.Hosts {
			g.run(t, m.Name, "sh", "-c", "systemctl stop 'hog*'")
			out := g.run(t, m.Name, "journalctl", "-u", "mariadb", "--no-pager", "--since", fmt.Sprintf("@%d", begun.Unix()))
			views += strings.Count(out, "Quorum results")
			suspected += strings.Count(out, "suspecting node")
		}
		switch {
		case suspect == "1s": // below what Mainstay sets; 2s is that, and Galera's own is 5s
		case load > most:
			t.Logf("the load was %.1f before the hogs, above %.0f: that nobody is suspected is not asked for", load, most)
		case suspected > 0:
			t.Errorf("%d members were suspected at suspect_timeout %s, the load being %.1f before the hogs", suspected, suspect, load)
		}
		t.Logf("load %.1f, suspect_timeout %s, %d hogs on each of three hosts, big writes, %v: %d members suspected, %d new groups told of, %d commits of the small writers", load, suspect, hogs, each, suspected, views, g.w.acked()-commits)
		g.run(t, g.lab.Hosts[0].Name, "sh", "-c", "until mariadb -e 'TRUNCATE proof.bulk'; do sleep 0.1; done")
	}
	g.apply(t, galeraServices)
}

// awaitTimer waits until all members have been told a suspect_timeout.
func (g *galeraSite) awaitTimer(t *testing.T, suspect string) {
	t.Helper()
	d, err := time.ParseDuration(suspect)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range g.lab.Hosts {
		err := until(g.ctx, siteBound, func() error {
			out, err := g.lab.Run(g.ctx, m.Name, "mariadb", "-N", "-e", "SELECT @@wsrep_provider_options")
			if want := fmt.Sprintf("evs.suspect_timeout = PT%gS", d.Seconds()); err == nil && !strings.Contains(out, want) {
				err = fmt.Errorf("%s has not been told %s: %s", m.Name, want, out)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// bulk writes big rows through HAProxy until ctx ends.
func (g *galeraSite) bulk(ctx context.Context) {
	var db *sql.DB
	for ctx.Err() == nil {
		if db == nil {
			db = g.w.open(g.lab.Hosts[0].Name)
		}
		one, cancel := context.WithTimeout(ctx, 20*time.Second)
		_, err := db.ExecContext(one, "INSERT INTO proof.bulk (x) VALUES (REPEAT('mainstay', 60000))")
		cancel()
		if err != nil {
			_ = db.Close() // it is broken anyhow
			db = nil
			g.wait(100 * time.Millisecond)
		}
	}
	if db != nil {
		_ = db.Close()
	}
}

// apply gives the site a file with other services.
func (g *galeraSite) apply(t *testing.T, services string) {
	t.Helper()
	c := g.config
	c.Services = services
	host := g.other("")
	if err := g.lab.Install(host, map[string]File{"/root/new.yaml": {Data: []byte(g.lab.SiteFile(c))}}); err != nil {
		t.Fatal(err)
	}
	g.run(t, host, "mainstay", "apply", "/root/new.yaml", "--yes")
	g.config = c
}
