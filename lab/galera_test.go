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
	galeraGarbd  = flag.String("garbd", "", "where the package galera-arbitrator-4 was unpacked: make lab-garbd")
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
	config := SiteConfig{Timing: "room", Services: galeraServices}
	g := &galeraSite{site: deploySite(ctx, t, Config{Name: "galera", Layers: []string{layer}}, config), config: config, told: map[string]bool{}}
	g.data = g.lab.Hosts
	t.Logf("the dice of this run: -galera-seed %d", *galeraSeed)
	g.dice = rand.New(rand.NewPCG(*galeraSeed, 0))
	g.begin(t)

	for n := range *galeraRounds {
		g.step(t, fmt.Sprintf("power cut of all, round %d", n+1), g.powerCut)
	}
	g.tellRecoveries(t)
	g.step(t, "G1 G2b G6 all crash, no view is left and the journal is gone", g.allCrash)
	g.step(t, "G2 a member without data says that it is safe to bootstrap", g.emptyMember)
	g.step(t, "G3 a member that does not answer may be primary", g.silentMember)
	for n := range min(*galeraRounds, 3) {
		g.step(t, fmt.Sprintf("G3 a member is hung, round %d", n+1), g.hung)
	}
	g.step(t, "a waived member comes back when the others have gone past it", g.waivedMember)
	g.step(t, "S3 the writer is killed", func(t *testing.T) { g.writerLost(t, "KILL", time.Second) })
	g.step(t, "the writer hangs", func(t *testing.T) { g.writerLost(t, "STOP", 2*time.Second) })
	g.step(t, "check names what would cost data", g.checked)
	g.step(t, "a donor to which nobody writes", g.donated)
	g.step(t, "a slow member does not drag the others", g.dragged)
	g.step(t, "writers are spread, and deadlocks", g.deadlocks)
	g.step(t, "backup and restore", g.restored)
	g.step(t, "false evictions", g.evictions)
	g.step(t, "a rolling restart", g.rolling)
	g.step(t, "an upgrade host by host", g.upgraded)
	g.step(t, "a member whose disk is full leaves the rotation", g.fullDisk)
}

// galeraServices is the section of the site's file.
const galeraServices = "  haproxy: {}\n  mariadb: {listen: {network: management}}\n"

// galeraSite is a site with a Galera cluster and a client that writes to it.
type galeraSite struct {
	*site
	config     SiteConfig
	data       []Machine // those with a member
	dice       *rand.Rand
	w          *writers
	recoveries []recovery
	told       map[string]bool // events that were looked at
}

// step plays one thing and then sees that all is in order and nothing is lost.
func (g *galeraSite) step(t *testing.T, name string, f func(t *testing.T)) {
	sound := t.Run(name, func(t *testing.T) {
		f(t)
		g.await(t, "everything in service", g.settled)
		g.intact(t)
	})
	if !sound {
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
		g.await(t, "everything in service, or the next step says nothing", g.settled)
	}
}

// begin makes the table and lets the client write.
func (g *galeraSite) begin(t *testing.T) {
	t.Helper()
	g.run(t, g.lab.Hosts[0].Name, "mariadb", "-e", `CREATE DATABASE proof; CREATE TABLE proof.acked (writer INT, n INT, PRIMARY KEY (writer, n)) ENGINE=InnoDB;
		CREATE USER proof@'%' IDENTIFIED BY 'proof'; GRANT ALL ON proof.* TO proof@'%'`)
	g.write()
	t.Cleanup(func() { g.w.stop() })
	g.w.await(t, 50)
}

// write lets clients write, who remember nothing of what was written before.
func (g *galeraSite) write() {
	var from []string
	for _, m := range g.data {
		from = append(from, m.Name)
	}
	g.w = newWriters(g.ctx, g.lab, from)
}

// powerCut takes the power from all, in any order and with any pause between two, and
// gives it back likewise: to a copy of each disk first, without Mainstay, to learn what
// MariaDB itself needs, and then to the disks themselves.
func (g *galeraSite) powerCut(t *testing.T) {
	g.w.await(t, 20+g.dice.IntN(200))
	names := g.lab.names()
	var said []string
	begun := time.Now()
	for i, k := range g.dice.Perm(len(names)) {
		if i > 0 {
			g.wait(g.pause(12 * time.Second))
		}
		said = append(said, fmt.Sprintf("%s at %v", names[k], time.Since(begun).Round(time.Millisecond)))
		g.cut(t, names[k])
	}
	acked := g.w.acked()
	var back []powerOn
	for i, k := range g.dice.Perm(len(names)) {
		p := powerOn{host: names[k]}
		if i > 0 {
			p.after = g.pause(20 * time.Second)
		}
		back = append(back, p)
		said = append(said, fmt.Sprintf("%s on after %v", p.host, p.after.Round(time.Millisecond)))
	}
	t.Logf("%s", strings.Join(said, ", "))
	own := g.own(t, back)
	last := g.giveBack(t, back, func(string) {})
	first := g.w.after(t, acked)
	g.tellRecovery(t, last, first)
	took := first.Sub(last)
	g.recoveries = append(g.recoveries, recovery{took, own})
	t.Logf("first write %.1f s after the last host had power; MariaDB itself %.1f s; more by %.1f s", took.Seconds(), own.Seconds(), (took - own).Seconds())
	if took-own > recoveryMore {
		t.Errorf("the first write came %v later than MariaDB itself could have taken it: more than %v", (took - own).Round(time.Millisecond), recoveryMore)
	}
}

// pause draws how long nothing happens: mostly next to nothing, at times so long that
// the rest forms a new group meanwhile.
func (g *galeraSite) pause(longest time.Duration) time.Duration {
	return time.Duration(float64(longest) * g.dice.Float64() * g.dice.Float64())
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
	t.Logf("first write at %s (%d acknowledged so far)", first.Format("15:04:05.000"), g.w.acked())
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

// allCrash: G1, G2b, G6. All servers die at once and none knows any more who was there:
// grastate.dat says -1 everywhere, nobody but Mainstay begins the cluster, and what the
// servers have logged so far is gone.
func (g *galeraSite) allCrash(t *testing.T) {
	g.w.await(t, 50)
	for _, m := range g.lab.Hosts {
		g.run(t, m.Name, "journalctl", "-q", "--rotate")
		g.run(t, m.Name, "journalctl", "-q", "--vacuum-size=1")
		if out := g.run(t, m.Name, "sh", "-c", "journalctl -q -u mariadb --no-pager | grep -c 'ready for connections'; true"); strings.TrimSpace(out) != "0" {
			t.Errorf("the journal of %s still tells of the server's start: %s", m.Name, out)
		}
	}
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
// cluster; when it is back they go on (that it is proved off and a person says so is
// waivedMember's).
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
	for _, m := range g.data {
		var out string
		err := until(g.ctx, siteBound, func() (err error) { // one that is just back may not have caught up within the server's 15 s
			out, err = g.lab.Run(g.ctx, m.Name, "mariadb", "-N", "-e", "SET SESSION wsrep_sync_wait=1; SELECT writer, n FROM proof.acked")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
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
	from []string // the hosts by whose HAProxy they write
	stop func()

	mu     sync.Mutex
	rows   map[[2]int]bool
	latest time.Time
	gap    time.Duration // the longest time without one since stall began to count
	gapEnd time.Time     // when that ended
	more   chan struct{} // closed at the next commit
	why    error
}

const nWriters = 3

func newWriters(ctx context.Context, l *Lab, from []string) *writers {
	ctx, cancel := context.WithCancel(ctx)
	w := &writers{lab: l, from: from, rows: map[[2]int]bool{}, more: make(chan struct{})}
	var wait sync.WaitGroup
	for i := range nWriters {
		wait.Go(func() { w.write(ctx, i) })
	}
	w.stop = func() { cancel(); wait.Wait() }
	return w
}

func (w *writers) write(ctx context.Context, writer int) {
	var db *sql.DB
	for n := 0; ctx.Err() == nil; n++ {
		if db == nil {
			db = w.open(w.from[(writer+n)%len(w.from)])
		}
		one, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err := db.ExecContext(one, "INSERT INTO proof.acked VALUES (?, ?)", writer, n)
		cancel()
		w.mu.Lock()
		if w.why = err; err == nil {
			w.rows[[2]int{writer, n}] = true
			now := time.Now()
			if d := now.Sub(w.latest); d > w.gap {
				w.gap, w.gapEnd = d, now
			}
			w.latest = now
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
func (w *writers) open(host string) *sql.DB { return openProof(w.lab, host, "127.0.0.1:3306") }

// openProof makes a client on a host that connects to an address.
func openProof(l *Lab, host, address string) *sql.DB {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.Net, cfg.Addr = "proof", "proof", "tcp", address
	cfg.InterpolateParams = true
	cfg.Logger = &mysql.NopLogger{}
	cfg.DialFunc = func(context.Context, string, string) (c net.Conn, err error) {
		err = inNetns(l.netns(host), func() (err error) {
			c, err = net.DialTimeout("tcp4", address, time.Second)
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
	gap, _ := w.stalled(t, f)
	return gap
}

// stalled returns also when it ended.
func (w *writers) stalled(t *testing.T, f func()) (time.Duration, time.Time) {
	t.Helper()
	w.mu.Lock()
	w.gap = 0
	w.mu.Unlock()
	f()
	w.await(t, 50)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gap, w.gapEnd
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
