package lab

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"mainstay/api"
	"mainstay/fleet"
)

var (
	galeraRounds = flag.Int("galera", 0, "cut the power of a whole Galera cluster under load so many times: make lab-galera")
	galeraSeed   = flag.Uint64("galera-seed", uint64(time.Now().UnixNano()), "what throws the dice of -galera")
)

// TestGalera plays what happened to other people's Galera clusters (INCIDENTS, G lines)
// on a real one, whose disks lose at a power cut what was not fsynced. A client writes
// all the time, through HAProxy as OpenStack does, and notes each commit that was
// acknowledged; not one may be missing afterwards, on any member.
func TestGalera(t *testing.T) {
	if *galeraRounds == 0 {
		t.Log("not played: make lab-galera")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Hour)
	defer cancel()
	base, err := Base(ctx, DefaultSuite, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	layer, err := Seed(ctx, base, DefaultSuite, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	g := &galeraSite{site: deploySite(ctx, t, Config{Name: "galera", Layers: []string{layer}},
		SiteConfig{Timing: "room", Services: "  haproxy: {}\n  mariadb: {listen: {network: management}}\n"})}
	t.Logf("the dice of this run: -galera-seed %d", *galeraSeed)
	g.dice = rand.New(rand.NewPCG(*galeraSeed, 0))
	g.begin(t)

	for n := range *galeraRounds {
		g.step(t, fmt.Sprintf("power cut of all, round %d", n+1), g.powerCut)
	}
	g.step(t, "G1 G2b all crash and no view is left", g.allCrash)
	g.step(t, "G2 a member without data says that it is safe to bootstrap", g.emptyMember)
	g.step(t, "G3 a member that does not answer may be primary", g.silentMember)
	g.step(t, "S3 the writer is killed", func(t *testing.T) { g.writerDies(t, "KILL") })
	g.step(t, "the writer hangs", func(t *testing.T) { g.writerDies(t, "STOP") })
	g.step(t, "a rolling restart", g.rolling)
	g.step(t, "a member whose disk is full leaves the rotation", g.fullDisk)
}

// galeraSite is a site with a Galera cluster and a client that writes to it.
type galeraSite struct {
	*site
	dice *rand.Rand
	w    *writers
}

// step plays one thing and then sees that all is in order and nothing is lost.
func (g *galeraSite) step(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		f(t)
		g.await(t, "everything in service", g.settled)
		g.intact(t)
	})
	if t.Failed() {
		for _, m := range g.lab.Hosts {
			for _, unit := range []string{"mainstay", "mariadb"} {
				if text, err := g.lab.Run(g.ctx, m.Name, "journalctl", "-u", unit, "-n", "120", "--no-pager"); err == nil {
					t.Logf("%s on %s:\n%s", unit, m.Name, text)
				}
			}
		}
		if out, err := g.lab.Run(g.ctx, g.other(""), "mainstay", "events", "-n", "60"); err == nil {
			t.Log(out)
		}
		t.FailNow()
	}
}

// begin makes the table and lets the client write.
func (g *galeraSite) begin(t *testing.T) {
	t.Helper()
	g.run(t, g.lab.Hosts[0].Name, "mariadb", "-e", `CREATE DATABASE proof; CREATE TABLE proof.acked (writer INT, n INT, PRIMARY KEY (writer, n)) ENGINE=InnoDB;
		CREATE USER proof@'%' IDENTIFIED BY 'proof'; GRANT ALL ON proof.* TO proof@'%'`)
	g.w = newWriters(g.ctx, g.lab)
	t.Cleanup(g.w.stop)
	g.w.await(t, 50)
}

// powerCut takes the power from all, in any order and with any pause between two, and
// gives it back likewise.
func (g *galeraSite) powerCut(t *testing.T) {
	g.w.await(t, 20+g.dice.IntN(200))
	names := g.lab.names()
	pause := func(longest time.Duration) {
		// Mostly at once, at times so long that the rest forms a new group meanwhile.
		g.wait(time.Duration(float64(longest) * g.dice.Float64() * g.dice.Float64()))
	}
	var said []string
	begun := time.Now()
	for i, k := range g.dice.Perm(len(names)) {
		if i > 0 {
			pause(12 * time.Second)
		}
		said = append(said, fmt.Sprintf("%s at %v", names[k], time.Since(begun).Round(time.Millisecond)))
		g.cut(t, names[k])
	}
	acked := g.w.acked()
	pause(5 * time.Second)
	said = append(said, "then on:")
	begun = time.Now()
	for i, k := range g.dice.Perm(len(names)) {
		if i > 0 {
			pause(20 * time.Second)
		}
		said = append(said, fmt.Sprintf("%s at %v", names[k], time.Since(begun).Round(time.Millisecond)))
		g.deed(t)(g.lab.Start(g.ctx, names[k]))
	}
	last := time.Now()
	at := g.w.after(t, acked)
	t.Logf("%s", strings.Join(said, ", "))
	g.tellRecovery(t, last, at)
}

// cut takes a host's power. Where another lab runs on the same machine, the kernel may
// let go of the disk late; the host is silent and its disk has lost what it had to lose
// all the same.
func (g *galeraSite) cut(t *testing.T, host string) {
	t.Helper()
	err := until(g.ctx, 5*time.Minute, func() error {
		_, err := g.lab.Kill(g.ctx, host)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tellRecovery logs what the time to the first write was made of.
func (g *galeraSite) tellRecovery(t *testing.T, last, first time.Time) {
	t.Helper()
	t.Logf("first write %.1f s after the last host had power (%d acknowledged so far)", first.Sub(last).Seconds(), g.w.acked())
	for _, m := range g.lab.Hosts {
		out := g.run(t, m.Name, "systemctl", "show", "mainstay", "mariadb", "--property=InactiveExitTimestamp,ActiveEnterTimestamp", "--timestamp=unix")
		var at []string
		for line := range strings.Lines(out) {
			_, value, _ := strings.Cut(strings.TrimSpace(line), "=@")
			var sec int64
			if _, err := fmt.Sscan(value, &sec); err == nil {
				at = append(at, fmt.Sprint(sec-last.Unix()))
			}
		}
		t.Logf("%s: mainstay, mariadb: begun and active, in seconds after that: %s", m.Name, strings.Join(at, " "))
	}
	out := g.run(t, g.other(""), "mainstay", "events", "-n", "60")
	for line := range strings.Lines(out) {
		if strings.Contains(line, "mariadb") && !strings.Contains(line, "route/") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// all does the same on every host at once.
func (g *galeraSite) all(t *testing.T, script string) {
	t.Helper()
	var wait sync.WaitGroup
	for _, m := range g.lab.Hosts {
		wait.Go(func() {
			if out, err := g.lab.Run(g.ctx, m.Name, "sh", "-c", script); err != nil {
				t.Errorf("%s: %v: %s", m.Name, err, out)
			}
		})
	}
	wait.Wait()
}

const loseView = "systemctl kill -s KILL mariadb; rm -f /var/lib/mysql/gvwstate.dat; "

// allCrash: G1, G2b. All servers die at once and none knows any more who was there:
// grastate.dat says -1 everywhere, and nobody but Mainstay begins the cluster.
func (g *galeraSite) allCrash(t *testing.T) {
	g.w.await(t, 50)
	stall := g.w.stall(t, func() { g.all(t, loseView+"grep seqno /var/lib/mysql/grastate.dat") })
	t.Logf("all servers died: no commit for %v", stall.Round(time.Millisecond))
	g.events(t, "begins mariadb: its data are the newest")
}

// emptyMember: G2. The member that would be asked first has no data, and its own file
// says that a cluster may be begun from it.
func (g *galeraSite) emptyMember(t *testing.T) {
	g.w.await(t, 50)
	victim := g.lab.Hosts[0].Name
	empty := `[ $(hostname) != ` + victim + ` ] || printf '# GALERA saved state\nversion: 2.1\nuuid:    00000000-0000-0000-0000-000000000000\nseqno:   -1\nsafe_to_bootstrap: 1\n' >/var/lib/mysql/grastate.dat`
	stall := g.w.stall(t, func() { g.all(t, loseView+empty) })
	t.Logf("no commit for %v", stall.Round(time.Millisecond))
	out := g.events(t, victim+" has no data")
	if strings.Contains(out, victim+" begins mariadb: its data are the newest") && strings.LastIndex(out, victim+" begins mariadb") > strings.LastIndex(out, victim+" has no data") {
		t.Errorf("the empty member began the cluster:\n%s", out)
	}
}

// silentMember: G3. One member is cut off from everybody but its own clients, and the two
// others die: it may be primary for all that they can know. Nobody begins a second
// cluster; when it is back, or is proved off and a person says so, they go on.
func (g *galeraSite) silentMember(t *testing.T) {
	g.w.await(t, 50)
	leader := g.status(t).Leader
	victim := g.other(leader)
	g.run(t, leader, "mainstay", "disarm", "on", "--why", "the victim shall stay silent")
	g.deed(t)(g.lab.Cut(g.ctx, Cut{Host: victim, Network: All, Direction: Both}))
	for _, m := range g.lab.Hosts {
		if m.Name != victim {
			g.run(t, m.Name, "sh", "-c", loseView+"true")
		}
	}
	named := func(st api.Status) bool {
		for _, w := range st.Waits {
			if w.About == "service/mariadb" && strings.Contains(w.For, victim) && strings.Contains(w.Help, victim) {
				return true
			}
		}
		return false
	}
	g.awaitFrom(t, leader, "the wait to name the silent member", named)
	g.run(t, leader, "mainstay", "disarm", "off")
	g.wait(20 * time.Second)
	st, err := g.lab.SiteStatus(g.ctx, leader)
	if err != nil || !named(st) {
		t.Errorf("it is not waited for %s any more: %v %+v", victim, err, st.Waits)
	}
	for _, v := range st.Services {
		for host, c := range v.Copies {
			if v.Name == "mariadb" && host != victim && (c.Ready || c.Replica.Part != "" && c.Replica.Part != fleet.PartApart) {
				t.Errorf("a cluster was begun on %s beside %s, which may be primary: %+v", host, victim, c)
			}
		}
	}
	t.Logf("what a person reads: %+v", st.Waits)
	g.deed(t)(g.lab.Heal(g.ctx, victim, All))
	if on, err := g.lab.Powered(victim); err == nil && !on {
		g.deed(t)(g.lab.Start(g.ctx, victim))
	}
	first := g.w.after(t, g.w.acked())
	t.Logf("first write at %v", first.Format("15:04:05.000"))
}

// fullDisk: the writer's disk is full; another takes the writes.
func (g *galeraSite) fullDisk(t *testing.T) {
	old := g.writer(t)
	g.run(t, old, "sh", "-c", "fallocate -l $(($(df --output=avail -B1 /var/lib/mysql | tail -1) - 33554432)) /var/lib/mysql-full")
	g.awaitFrom(t, g.other(old), "another writer", func(st api.Status) bool {
		i := slices.IndexFunc(st.Services, func(v api.ServiceStatus) bool { return v.Name == "mariadb" })
		return i >= 0 && st.Services[i].Writer != old && strings.Contains(st.Services[i].Copies[old].Why, "its disk is full")
	})
	g.w.after(t, g.w.acked())
	g.run(t, old, "rm", "/var/lib/mysql-full")
}

// writerDies logs for how long nobody can write when the writer is killed or stopped.
func (g *galeraSite) writerDies(t *testing.T, signal string) {
	old := g.writer(t)
	stall := g.w.stall(t, func() {
		g.run(t, old, "systemctl", "kill", "-s", signal, "mariadb")
		g.awaitFrom(t, g.other(old), "another writer", func(st api.Status) bool {
			i := slices.IndexFunc(st.Services, func(v api.ServiceStatus) bool { return v.Name == "mariadb" })
			return i >= 0 && st.Services[i].Writer != "" && st.Services[i].Writer != old
		})
	})
	t.Logf("no commit for %v", stall.Round(time.Millisecond))
	if signal == "STOP" {
		g.run(t, old, "systemctl", "kill", "-s", "CONT", "mariadb")
	}
}

// rolling restarts all members while the client writes.
func (g *galeraSite) rolling(t *testing.T) {
	before := g.pids(t)
	stall := g.w.stall(t, func() {
		out := g.run(t, g.other(""), "mainstay", "restart", "mariadb", "--wait", "8m")
		t.Logf("%s", out)
	})
	for host, pid := range g.pids(t) {
		if pid == before[host] {
			t.Errorf("mariadb on %s was not restarted", host)
		}
	}
	t.Logf("the longest time without a commit: %v", stall.Round(time.Millisecond))
}

func (g *galeraSite) pids(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, m := range g.lab.Hosts {
		out[m.Name] = strings.TrimSpace(g.run(t, m.Name, "systemctl", "show", "mariadb", "--property=MainPID", "--value"))
	}
	return out
}

// wait lets time pass that is a part of the story.
func (g *galeraSite) wait(d time.Duration) {
	select {
	case <-g.ctx.Done():
	case <-time.After(d):
	}
}

// events returns the newest events, which must tell of something.
func (g *galeraSite) events(t *testing.T, want string) string {
	t.Helper()
	out := g.run(t, g.other(""), "mainstay", "events", "-n", "100")
	if !strings.Contains(out, want) {
		t.Errorf("no event tells %q:\n%s", want, out)
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "begins mariadb") {
			t.Log(strings.TrimSpace(line))
		}
	}
	return out
}

// intact sees that each member has each commit that was acknowledged.
func (g *galeraSite) intact(t *testing.T) {
	t.Helper()
	want := g.w.copy()
	for _, m := range g.lab.Hosts {
		out := g.run(t, m.Name, "mariadb", "-N", "-e", "SET SESSION wsrep_sync_wait=1; SELECT writer, n FROM proof.acked")
		have := map[[2]int]bool{}
		for line := range strings.Lines(out) {
			var x [2]int
			if _, err := fmt.Sscan(line, &x[0], &x[1]); err != nil {
				t.Fatalf("%s: %q: %v", m.Name, line, err)
			}
			have[x] = true
		}
		lost := 0
		for x := range want {
			if !have[x] {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("%s has lost %d of %d acknowledged commits", m.Name, lost, len(want))
		}
		t.Logf("%s: %d rows, %d acknowledged, %d of these missing", m.Name, len(have), len(want), lost)
	}
}

// writers write one row after another, through the HAProxy of one host or another, and
// remember which commits were acknowledged.
type writers struct {
	lab  *Lab
	stop func()

	mu     sync.Mutex
	rows   map[[2]int]bool
	latest time.Time
	gap    time.Duration // the longest time without one since gapless
	more   chan struct{} // closed at the next commit
	why    error
}

const nWriters = 3

func newWriters(ctx context.Context, l *Lab) *writers {
	ctx, cancel := context.WithCancel(ctx)
	w := &writers{lab: l, rows: map[[2]int]bool{}, more: make(chan struct{})}
	var wait sync.WaitGroup
	for i := range nWriters {
		wait.Go(func() { w.write(ctx, i) })
	}
	w.stop = func() { cancel(); wait.Wait() }
	return w
}

func (w *writers) write(ctx context.Context, writer int) {
	var db *sql.DB
	names := w.lab.names()
	for n := 0; ctx.Err() == nil; n++ {
		if db == nil {
			db = w.open(names[(writer+n)%len(names)])
		}
		one, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err := db.ExecContext(one, "INSERT INTO proof.acked VALUES (?, ?)", writer, n)
		cancel()
		w.mu.Lock()
		if w.why = err; err == nil {
			w.rows[[2]int{writer, n}] = true
			now := time.Now()
			w.gap, w.latest = max(w.gap, now.Sub(w.latest)), now
			close(w.more)
			w.more = make(chan struct{})
		}
		w.mu.Unlock()
		pause := 20 * time.Millisecond
		if err != nil { // it may have been done, or not: this row is never written again
			_ = db.Close() // it is broken anyhow
			db, pause = nil, 100*time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	if db != nil {
		_ = db.Close()
	}
}

// open makes a client on a host, who knows of the database what OpenStack does there.
func (w *writers) open(host string) *sql.DB {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.Net, cfg.Addr = "proof", "proof", "tcp", "127.0.0.1:3306"
	cfg.InterpolateParams = true
	cfg.Logger = &mysql.NopLogger{}
	cfg.DialFunc = func(context.Context, string, string) (c net.Conn, err error) {
		err = inNetns(w.lab.netns(host), func() (err error) {
			c, err = net.DialTimeout("tcp4", "127.0.0.1:3306", time.Second)
			return err
		})
		return c, err
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		panic(err) // a mistake in this file
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	return db
}

func (w *writers) acked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.rows)
}

// stall is the longest time without a commit while f was played and until they go on.
func (w *writers) stall(t *testing.T, f func()) time.Duration {
	t.Helper()
	w.mu.Lock()
	w.gap = 0
	w.mu.Unlock()
	f()
	w.await(t, 50)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gap
}

func (w *writers) copy() map[[2]int]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.rows)
}

// await waits for so many more commits.
func (w *writers) await(t *testing.T, more int) {
	t.Helper()
	for want := w.acked() + more; w.acked() < want; {
		w.after(t, w.acked())
	}
}

// after waits until more commits than so many were acknowledged, and returns when.
func (w *writers) after(t *testing.T, so int) time.Time {
	t.Helper()
	for limit := time.After(siteBound); ; {
		w.mu.Lock()
		n, at, more, why := len(w.rows), w.latest, w.more, w.why
		w.mu.Unlock()
		if n > so {
			return at
		}
		select {
		case <-more:
		case <-limit:
			t.Fatal(errors.Join(fmt.Errorf("no write for %v", siteBound), why))
		}
	}
}
