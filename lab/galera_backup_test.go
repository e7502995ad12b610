package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// restored saves the database while it is written to, drops a table, and puts the data
// back on all members.
func (g *galeraSite) restored(t *testing.T) {
	g.w.await(t, 50)
	writer := g.writer(t)
	if out, err := g.lab.Run(g.ctx, writer, "mainstay", "backup", "--database", "mariadb", "/root/saved"); err == nil || !strings.Contains(err.Error(), "clients write to "+writer) {
		t.Errorf("saved on the writer: %v %s", err, out)
	}
	host := g.other(writer)
	before := g.w.copy()
	begun := time.Now()
	stall := g.w.stall(t, func() {
		t.Log(strings.TrimSpace(g.run(t, host, "mainstay", "backup", "--database", "mariadb", "/root/saved")))
	})
	t.Logf("the backup took %.0f s; no commit for %v at most", time.Since(begun).Seconds(), stall.Round(time.Millisecond))
	g.await(t, "everything in service", g.settled)
	if out, err := g.lab.Run(g.ctx, host, "mainstay", "restore", "--database", "mariadb", "/root/saved", "--what-was-written-since-may-be-lost", "a test"); err == nil || !strings.Contains(err.Error(), "mainstay stop mariadb") {
		t.Errorf("restored while it runs: %v %s", err, out)
	}
	g.w.stop()
	g.run(t, writer, "mariadb", "-e", "DROP TABLE proof.acked")
	history := g.run(t, writer, "mariadb", "-N", "-e", "SHOW STATUS LIKE 'wsrep_cluster_state_uuid'")

	t.Log(strings.TrimSpace(g.run(t, host, "mainstay", "stop", "mariadb", "--why", "a table is gone")))
	g.wait(5 * time.Second) // nobody brings it back meanwhile
	for name, c := range g.copies(t) {
		if c.Phase != fleet.Stopped && c.Phase != fleet.Failed {
			t.Errorf("mariadb on %s is %s though it is kept down", name, c.Phase)
		}
	}
	for _, m := range g.lab.Hosts {
		// A folder that is in the tree below these hosts' overlay cannot be renamed, and a
		// real host's can.
		g.run(t, m.Name, "sh", "-c", "cp -a /var/lib/mysql /var/lib/mysql.own && rm -r /var/lib/mysql && mv /var/lib/mysql.own /var/lib/mysql")
	}
	begun = time.Now()
	for _, m := range g.lab.Hosts {
		argv := []string{"mainstay", "restore", "--database", "mariadb", "--what-was-written-since-may-be-lost", "a table is gone"}
		if m.Name == host {
			argv = append(argv, "/root/saved")
		} else {
			argv = append(argv, "--renounce")
		}
		t.Logf("%s: %s", m.Name, strings.TrimSpace(g.run(t, m.Name, argv...)))
	}
	g.run(t, host, "mainstay", "stop", "mariadb", "--cancel")
	g.await(t, "everything in service", g.settled)
	t.Logf("put back on all members, and in service, after %.0f s", time.Since(begun).Seconds())

	if now := g.run(t, writer, "mariadb", "-N", "-e", "SHOW STATUS LIKE 'wsrep_cluster_state_uuid'"); now == history {
		t.Errorf("it goes on with the old history %s", now)
	}
	for _, m := range g.lab.Hosts {
		out := g.run(t, m.Name, "mariadb", "-N", "-e", "SELECT writer, n FROM proof.acked")
		have := map[[2]int]bool{}
		for line := range strings.Lines(out) {
			var x [2]int
			if _, err := fmt.Sscan(line, &x[0], &x[1]); err != nil {
				t.Fatal(err)
			}
			have[x] = true
		}
		lost := 0
		for x := range before {
			if !have[x] {
				lost++
			}
		}
		t.Logf("%s: %d rows; of %d that were acknowledged before the backup began, %d are missing", m.Name, len(have), len(before), lost)
		if lost > 0 {
			t.Errorf("%s lacks %d rows that the backup must have", m.Name, lost)
		}
	}
	// What was written after the backup is lost, as was said: begin anew.
	g.run(t, writer, "mariadb", "-e", "TRUNCATE proof.acked")
	g.write()
	g.w.await(t, 50)
}

func (g *galeraSite) copies(t *testing.T) map[string]fleet.ServiceState {
	t.Helper()
	for _, v := range g.status(t).Services {
		if v.Name == "mariadb" {
			return v.Copies
		}
	}
	return map[string]fleet.ServiceState{"": {Phase: "nobody knows it"}}
}
