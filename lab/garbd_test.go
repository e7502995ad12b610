package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// TestGarbd plays a database of two members whose third vote is Galera's arbitrator, on the
// host that is the arbiter of the store as well.
func TestGarbd(t *testing.T) {
	if *galeraGarbd == "" {
		t.Log("not played: make lab-garbd")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	base, err := Base(ctx, DefaultSuite, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	layer, err := Seed(ctx, base, DefaultSuite, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	const timers = "evs.inactive_timeout=PT6S; evs.install_timeout=PT3S; evs.suspect_timeout=PT2S; evs.keepalive_period=PT0.5S; evs.join_retrans_period=PT0.5S"
	config := SiteConfig{Timing: "room", Arbiters: []string{"a1"},
		Services: "  haproxy: {}\n  mariadb: {listen: {network: management}}\n  garbd: {}\n"}
	// The arbiter has 10.B.0.13: it is the third host, and the block is asked for.
	const block = 91
	member := func(n int) string { return fmt.Sprintf("10.%d.0.%d", block, n) }
	hosts := []Host{{Name: "c1", Layers: []string{layer}}, {Name: "c2", Layers: []string{layer}}, {Name: "a1", Layers: []string{*galeraGarbd}, Files: map[string]File{
		"/etc/default/garb": {Data: fmt.Appendf(nil, "GALERA_NODES=\"%s:4567 %s:4567\"\nGALERA_GROUP=\"mainstay-lab\"\nGALERA_OPTIONS=\"gmcast.listen_addr=tcp://%s:4567; %s\"\n",
			member(11), member(12), member(13), timers)},
	}}}
	g := &galeraSite{site: deploySite(ctx, t, Config{Name: "garbd", Hosts: hosts, Block: block}, config), config: config}
	g.dice = rand.New(rand.NewPCG(*galeraSeed, 0))
	g.data = g.lab.Hosts[:2]
	g.begin(t)
	g.step(t, "the two members and the arbitrator are one group", func(t *testing.T) { g.size(t, 3) })
	g.step(t, "the writer loses power, and the other goes on with the arbitrator", func(t *testing.T) {
		old := g.writer(t)
		stall := g.w.stall(t, func() {
			g.cut(t, old)
			g.awaitFrom(t, g.other(old, "a1"), "another writer", func(st api.Status) bool { return written(st) != "" && written(st) != old })
		})
		t.Logf("no commit for %v", stall.Round(time.Millisecond))
		g.deed(t)(g.lab.Start(g.ctx, old))
	})
	for _, how := range []string{"the arbitrator runs on", "all three lose power"} {
		g.step(t, "full outage of the two members; "+how, func(t *testing.T) {
			g.w.await(t, 50)
			names := []string{"c1", "c2"}
			if how == "all three lose power" {
				names = append(names, "a1")
			}
			for _, name := range names {
				g.cut(t, name)
			}
			acked := g.w.acked()
			for _, name := range names {
				g.deed(t)(g.lab.Start(g.ctx, name))
			}
			last := time.Now()
			t.Logf("first write %.1f s after the last host had power", g.w.after(t, acked).Sub(last).Seconds())
			out := g.run(t, "a1", "mainstay", "events", "-n", "100")
			if strings.Contains(out, "position/mariadb/a1") || strings.Contains(out, "a1 begins") {
				t.Errorf("the arbitrator was asked where its data stand:\n%s", out)
			}
		})
	}
	g.step(t, "the arbitrator is killed, the two go on, and it is started again", func(t *testing.T) {
		pid := func() (string, error) {
			out, err := g.lab.Run(g.ctx, "a1", "systemctl", "show", "garb", "--property=MainPID", "--value")
			return strings.TrimSpace(out), err
		}
		was, err := pid()
		if err != nil {
			t.Fatal(err)
		}
		stall := g.w.stall(t, func() {
			g.run(t, "a1", "systemctl", "kill", "-s", "KILL", "garb")
			err := until(g.ctx, siteBound, func() error {
				now, err := pid()
				if err == nil && (now == was || now == "0") {
					err = fmt.Errorf("its process is %s", now)
				}
				return err
			})
			if err != nil {
				t.Fatal("the arbitrator was not started again:", err)
			}
		})
		t.Logf("no commit for %v", stall.Round(time.Millisecond))
		g.size(t, 3)
	})
}

// size waits until the group has so many members.
func (g *galeraSite) size(t *testing.T, n int) {
	t.Helper()
	err := until(g.ctx, siteBound, func() error {
		for _, m := range g.data {
			out, err := g.lab.Run(g.ctx, m.Name, "mariadb", "-N", "-e", "SHOW STATUS LIKE 'wsrep_cluster_size'")
			if err != nil {
				return err
			}
			if f := strings.Fields(out); len(f) != 2 || f[1] != fmt.Sprint(n) {
				return fmt.Errorf("%s: %q, want %d", m.Name, out, n)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// written is the host that takes the writes.
func written(st api.Status) string {
	for _, v := range st.Services {
		if v.Name == "mariadb" && v.Mode == fleet.ActiveActive {
			return v.Writer
		}
	}
	return ""
}
