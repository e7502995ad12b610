package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mainstay/api"
)

// waivedMember: a member has commits that no other has, and loses its power. It is sworn
// off, and a person lets the others go on without what it has. When it comes back they are
// past it, so that Galera itself would take it back with what it alone has, and without
// what they wrote meanwhile under the same numbers. It gets all data anew instead.
func (g *galeraSite) waivedMember(t *testing.T) {
	g.w.await(t, 50)
	victim := g.other(g.status(t).Leader)
	var rest []string
	for _, m := range g.data {
		if m.Name != victim {
			rest = append(rest, m.Name)
		}
	}
	down := func(host string) {
		g.run(t, host, "mainstay", "maintenance", host, "on", "--why", "a test")
		g.run(t, host, "systemctl", "stop", "mariadb")
	}
	// A folder that is in the tree below these hosts' overlay cannot be renamed, and a real
	// host's can.
	down(victim)
	g.run(t, victim, "sh", "-c", "cp -a /var/lib/mysql /var/lib/mysql.own && rm -r /var/lib/mysql && mv /var/lib/mysql.own /var/lib/mysql && sync")
	g.run(t, victim, "mainstay", "maintenance", victim, "off")
	g.await(t, "everything in service", g.settled)

	down(rest[0])
	kept := g.w.copy()
	down(rest[1])
	g.w.await(t, 200)
	at := g.committed(t, victim)
	g.cut(t, victim)
	all := g.w.copy()
	for _, host := range rest {
		g.run(t, rest[0], "mainstay", "maintenance", host, "off")
	}
	waits := func(about, help string) func(api.Status) bool {
		return func(st api.Status) bool {
			for _, w := range st.Waits {
				if w.About == about && strings.Contains(w.For+" "+w.Help, help) {
					return true
				}
			}
			return false
		}
	}
	g.awaitFrom(t, rest[0], "the wait to name the silent member and the oath", waits("service/mariadb", "mainstay recover oath "+victim))
	err := until(g.ctx, siteBound, func() error { // refused while it was heard a moment ago
		_, err := g.lab.Run(g.ctx, rest[0], "mainstay", "recover", "oath", victim, "--i-have-seen-that-it-is-off", "its cord is in my hand")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	g.awaitFrom(t, rest[0], "the wait for a word about its data", waits("service/mariadb", "mainstay recover service mariadb --without "+victim))
	g.wait(5 * time.Second) // that it is off is not enough
	if now := g.w.acked(); now != len(all) {
		t.Errorf("%d commits since, though nobody gave up what %s has", now-len(all), victim)
	}
	begun := time.Now()
	g.run(t, rest[0], "mainstay", "recover", "service", "mariadb", "--without", victim, "--its-data-may-be-lost", "a test")
	first := g.w.after(t, len(all))
	t.Logf("first write %.1f s after the word", first.Sub(begun).Seconds())
	from := g.committed(t, rest...)
	for g.committed(t, rest...) < at+100 {
		g.w.await(t, 50)
	}
	t.Logf("%s stood at %d; the others began at %d at most and stand at %d", victim, at, from, g.committed(t, rest...))
	if from >= at {
		t.Errorf("%s was not ahead: it stood at %d and they at %d", victim, at, from)
	}
	g.awaitFrom(t, rest[0], "the status to tell what "+victim+" will get", waits("mariadb@"+victim, "a whole copy"))
	g.deed(t)(g.lab.Start(g.ctx, victim))
	g.await(t, "everything in service", g.settled)
	out := g.run(t, rest[0], "mainstay", "events", "-n", "200")
	for _, want := range []string{"renounce", victim + " has all data of mariadb again, from the others; what it had is in /var/lib/mysql.without-"} {
		if !strings.Contains(out, want) {
			t.Errorf("no event tells %q:\n%s", want, out)
		}
	}
	t.Log(strings.TrimSpace(g.run(t, victim, "sh", "-c", "du -sh /var/lib/mysql.without-* /var/lib/mysql; cat /var/lib/mainstay/saved/mariadb.renounced.json; journalctl -u mariadb -b | grep -iE 'state transfer required|IST|SST' | head -5")))

	g.w.await(t, 50)
	g.w.stop()
	want := g.w.copy()
	sums := map[string]string{}
	for _, m := range g.data {
		have := map[[2]int]bool{}
		for line := range strings.Lines(g.run(t, m.Name, "mariadb", "-N", "-e", "SET SESSION wsrep_sync_wait=1; SELECT writer, n FROM proof.acked")) {
			var x [2]int
			if _, err := fmt.Sscan(line, &x[0], &x[1]); err != nil {
				t.Fatalf("%s: %q: %v", m.Name, line, err)
			}
			have[x] = true
		}
		sums[m.Name] = strings.TrimSpace(g.run(t, m.Name, "mariadb", "-N", "-e", "CHECKSUM TABLE proof.acked"))
		lost, givenUp, there := 0, 0, 0
		for x := range want {
			_, old := kept[x]
			_, before := all[x]
			switch given := before && !old; { // acknowledged when only the victim may have had it
			case given && have[x]:
				there++
			case given:
				givenUp++
			case !have[x]:
				lost++
			}
		}
		t.Logf("%s: %d rows, checksum %s; %d acknowledged commits went with the data that were given up, %d of that time are here; of %d others %d are missing",
			m.Name, len(have), sums[m.Name], givenUp, there, len(want)-givenUp-there, lost)
		if lost > 0 {
			t.Errorf("%s lacks %d commits that nobody gave up", m.Name, lost)
		}
		if sums[m.Name] != sums[g.data[0].Name] {
			t.Errorf("%s and %s differ", m.Name, g.data[0].Name)
		}
		if givenUp == 0 {
			t.Errorf("%s alone had nothing: the test shows nothing", victim)
		}
	}
	g.run(t, victim, "sh", "-c", "rm -r /var/lib/mysql.without-*")
	g.run(t, rest[0], "mariadb", "-e", "TRUNCATE proof.acked")
	g.write()
	g.w.await(t, 50)
}

// committed is the newest change that one of the members which answer has applied.
func (g *galeraSite) committed(t *testing.T, hosts ...string) (most int64) {
	t.Helper()
	for _, host := range hosts {
		out, err := g.lab.Run(g.ctx, host, "mariadb", "-N", "-e", "SHOW STATUS LIKE 'wsrep_last_committed'")
		if err != nil {
			continue // it has not joined yet
		}
		var n int64
		if _, err := fmt.Sscan(strings.TrimPrefix(strings.TrimSpace(out), "wsrep_last_committed"), &n); err != nil {
			t.Fatalf("%s: %q: %v", host, out, err)
		}
		most = max(most, n)
	}
	if most == 0 {
		t.Fatalf("none of %v says where it stands", hosts)
	}
	return most
}
