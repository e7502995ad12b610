package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// recoveryMore is how much longer than MariaDB itself a recovery by Mainstay may take.
const recoveryMore = 5 * time.Second

// powerOn is one host's power coming back, so long after the one before it.
type powerOn struct {
	host  string
	after time.Duration
}

// recovery is how long the same outage took until the first write, from when the last
// host had power: by Mainstay, and by MariaDB itself.
type recovery struct{ took, own time.Duration }

// giveBack gives all hosts their power, and returns when the last one had it.
func (g *galeraSite) giveBack(t *testing.T, back []powerOn, on func(host string)) (last time.Time) {
	t.Helper()
	for _, p := range back {
		g.wait(p.after)
		g.deed(t)(g.lab.Start(g.ctx, p.host))
		last = time.Now()
		on(p.host)
	}
	return last
}

// own is how long MariaDB itself needs on the very same disks, from when the last host
// has power until it acknowledges a write. Copies of the disks boot without Mainstay, in
// the same order and with the same pauses; on each, galera_recovery says where its data
// stand as soon as it can be run at all; when all have, the newest begins, and is
// written to through its own socket. That is what MariaDB's manual tells a person to do
// after a loss of all members, done by one who knows at once, thinks for no time and asks
// nobody. (Left to itself, pc.recovery waits for a group that an unsynced file names: after
// most of these cuts it never comes true.)
func (g *galeraSite) own(t *testing.T, back []powerOn) time.Duration {
	t.Helper()
	for _, m := range g.lab.Hosts {
		image := g.lab.hostPath(m, "disk.img")
		if out, err := exec.CommandContext(g.ctx, "cp", "--sparse=always", image, image+".kept").CombinedOutput(); err != nil {
			t.Fatalf("keep the disk of %s: %v: %s", m.Name, err, out)
		}
		if err := g.leaveAlone(m); err != nil {
			t.Fatalf("take Mainstay from the copy of %s: %v", m.Name, err)
		}
	}
	var wait sync.WaitGroup
	var mu sync.Mutex
	stands := map[string]int64{}
	last := g.giveBack(t, back, func(host string) {
		wait.Go(func() {
			at, err := g.position(host)
			mu.Lock()
			defer mu.Unlock()
			if stands[host] = at; err != nil {
				t.Errorf("where the data of %s stand: %v", host, err)
			}
		})
	})
	wait.Wait()
	newest := slices.MaxFunc(g.lab.names(), func(a, b string) int { return int(stands[a] - stands[b]) })
	var out string
	err := until(g.ctx, siteBound, func() (err error) {
		out, err = g.lab.Run(g.ctx, newest, "sh", "-c", `sed -i 's/^safe_to_bootstrap:.*/safe_to_bootstrap: 1/' /var/lib/mysql/grastate.dat
			galera_new_cluster && until mariadb -e 'INSERT INTO proof.acked VALUES (-1, 0)'; do sleep 0.02; done`)
		return err
	})
	took := time.Since(last)
	if err != nil {
		t.Fatalf("begin on %s: %v: %s", newest, err, out)
	}
	for _, m := range g.lab.Hosts {
		g.cut(t, m.Name)
		image := g.lab.hostPath(m, "disk.img")
		if err := os.Rename(image+".kept", image); err != nil {
			t.Fatal(err)
		}
	}
	return took
}

// position asks InnoDB on a host that boots where its data stand.
func (g *galeraSite) position(host string) (at int64, err error) {
	return at, until(g.ctx, siteBound, func() error {
		out, err := g.lab.Run(g.ctx, host, "galera_recovery")
		if err != nil {
			return err
		}
		_, number, ok := strings.Cut(strings.TrimSpace(out[strings.LastIndex(out, "=")+1:]), ":")
		if !ok {
			return fmt.Errorf("%q names no position", out)
		}
		number, _, _ = strings.Cut(number, ",")
		at, err = strconv.ParseInt(number, 10, 64)
		return err
	})
}

// leaveAlone changes the disk of a host without power so that nothing of Mainstay's
// starts on it, or bars anything.
func (g *galeraSite) leaveAlone(m Machine) error {
	ctx, cancel := context.WithTimeout(g.ctx, time.Minute)
	defer cancel()
	unlock, err := g.lab.holdHost(ctx, m.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := g.lab.mountDisk(m, g.lab.hostPath(m, "disk.img")); err != nil {
		return err
	}
	files := map[string]File{"/etc/systemd/system/mariadb.service.d/50-mainstay.conf": {}}
	for _, unit := range []string{"mainstay", "mainstay-quorum", "mainstay-haproxy"} {
		files[filepath.Join("/etc/systemd/system", unit+".service")] = File{Link: "/dev/null"}
	}
	if err := install(g.lab.hostPath(m, "root"), files); err != nil {
		return err
	}
	return g.lab.unmountDisk(ctx, m)
}

// tellRecoveries logs all rounds.
func (g *galeraSite) tellRecoveries(t *testing.T) {
	if len(g.recoveries) == 0 {
		return
	}
	var took, own, more []time.Duration
	for _, r := range g.recoveries {
		took, own, more = append(took, r.took), append(own, r.own), append(more, r.took-r.own)
	}
	t.Logf("%d power cuts, first write after the last host had power: by Mainstay %s; by MariaDB itself %s; the difference %s", len(took), spread(took), spread(own), spread(more))
}

// spread says the median and the worst of some durations, and each.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	sorted := slices.Sorted(slices.Values(all))
	var each []string
	for _, d := range all {
		each = append(each, fmt.Sprintf("%.1f", d.Seconds()))
	}
	return fmt.Sprintf("median %.2f s, worst %.2f s (%s)", sorted[len(sorted)/2].Seconds(), sorted[len(sorted)-1].Seconds(), strings.Join(each, " "))
}
