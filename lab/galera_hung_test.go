package lab

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

const (
	stopServer = "systemctl kill -s STOP mariadb"
	// stopBeginner stops the server that begins the cluster as soon as it is one.
	stopBeginner = `for n in $(seq 1500); do if pgrep -f '^/usr/sbin/mariadbd.*[w]srep-new-cluster' >/dev/null; then ` + stopServer + `; echo stopped; exit 0; fi; sleep 0.04; done`
)

// hung: a server stops answering while no member is primary, in each way that it may come to
// that, or beside others that are. Its host is well, so it is killed, says by its storage engine where its data
// stand, and the cluster comes back without a hand.
func (g *galeraSite) hung(t *testing.T) {
	g.w.await(t, 50)
	victim := g.data[g.dice.IntN(len(g.data))].Name
	var others []string
	for _, m := range g.data {
		if m.Name != victim {
			others = append(others, m.Name)
		}
	}
	t.Run("it was left in no primary component, and hangs", func(t *testing.T) {
		leader := g.status(t).Leader
		g.run(t, leader, "mainstay", "disarm", "on", "--why", "the victim shall be seen apart")
		g.hangs(t, victim, func() {
			for _, host := range others {
				g.run(t, host, "sh", "-c", loseView+"true")
			}
			g.awaitFrom(t, leader, victim+" in no primary component", func(st api.Status) bool {
				i := slices.IndexFunc(st.Services, func(v api.ServiceStatus) bool { return v.Name == "mariadb" })
				return i >= 0 && st.Services[i].Copies[victim].Replica.Part == fleet.PartApart
			})
			g.run(t, victim, "sh", "-c", stopServer)
			g.run(t, leader, "mainstay", "disarm", "off")
		})
	})
	t.Run("it hangs, and then the others die", func(t *testing.T) {
		g.hangs(t, victim, func() {
			g.run(t, victim, "sh", "-c", stopServer)
			for _, host := range others {
				g.run(t, host, "sh", "-c", loseView+"true")
			}
		})
	})
	t.Run("it hangs, and the others serve", func(t *testing.T) {
		g.hangs(t, victim, func() { g.run(t, victim, "sh", "-c", stopServer) })
	})
	t.Run("all lose power, and the one that begins hangs", func(t *testing.T) {
		var back []powerOn
		for _, m := range g.data {
			back = append(back, powerOn{host: m.Name})
		}
		g.hangs(t, "", func() {
			for _, m := range g.data {
				g.cut(t, m.Name)
			}
			g.giveBack(t, back, func(string) {})
			ctx, cancel := context.WithCancel(g.ctx)
			defer cancel()
			var wait sync.WaitGroup
			var mu sync.Mutex
			who := ""
			for _, m := range g.data {
				wait.Go(func() {
					out, _ := g.lab.Run(ctx, m.Name, "sh", "-c", stopBeginner)
					if strings.Contains(out, "stopped") {
						mu.Lock()
						who = m.Name
						mu.Unlock()
						cancel() // the others look in vain
					}
				})
			}
			wait.Wait()
			if who == "" {
				t.Fatal("nobody was seen to begin the cluster")
			}
			t.Logf("%s began, and was stopped", who)
		})
	})
}

// hangs plays how a member comes to hang and tells when the next write was acknowledged,
// which nobody's hand has helped to.
func (g *galeraSite) hangs(t *testing.T, victim string, f func()) {
	t.Helper()
	g.await(t, "everything in service", g.settled)
	g.w.await(t, 50)
	f()
	begun, acked := time.Now(), g.w.acked()
	first := g.w.after(t, acked)
	t.Logf("%s hung: the next write was acknowledged %.1f s after that", victim, first.Sub(begun).Seconds())
	g.await(t, "everything in service", g.settled)
	g.intact(t)
	out, killed := g.run(t, g.data[0].Name, "mainstay", "events", "-n", "150"), false
	for line := range strings.Lines(out) {
		if g.told[line] || !strings.Contains(line, "kill service/mariadb") && !strings.Contains(line, "begins mariadb") {
			continue
		}
		g.told[line] = true
		killed = killed || strings.Contains(line, victim+" shall kill service/mariadb")
		t.Log(strings.TrimSpace(line))
	}
	if !killed {
		t.Errorf("no event tells that the server of %s was killed:\n%s", victim, out)
	}
}
