package lab

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"mainstay/api"
)

// spreadServices gives two groups of databases a writer of their own.
const spreadServices = "  haproxy: {}\n  mariadb: {listen: {network: management, writers: {neutron: 3308, nova: 3307}}}\n"

// deadlocks spreads the writers of two groups of databases over the members, and counts
// what clients of hot rows are answered: those of Nova and Neutron, who update the quotas
// of a few projects.
func (g *galeraSite) deadlocks(t *testing.T) {
	g.apply(t, spreadServices)
	g.await(t, "the writers to be spread", func(st api.Status) bool {
		_, writers := writersOf(st)
		return g.settled(st) && writers["neutron"] == "c2" && writers["nova"] == "c3"
	})
	g.run(t, g.lab.Hosts[0].Name, "mariadb", "-e", quotaTables("nova")+quotaTables("neutron"))
	member := func(n int) string {
		return g.lab.Hosts[n%len(g.lab.Hosts)].Addresses["management"].V4.Addr().String() + ":3306"
	}
	free := 0.0 // deadlocks per 10,000 of multi-writer
	for i, way := range []struct {
		name string
		to   func(client int, database string) string
	}{
		{"multi-writer, straight to the members, each client to the next member", func(n int, _ string) string { return member(n) }},
		{"one writer, by Mainstay", func(int, string) string { return "127.0.0.1:3306" }},
		{"one writer for each group of databases, by Mainstay", func(_ int, database string) string {
			return map[string]string{"nova": "127.0.0.1:3307", "neutron": "127.0.0.1:3308"}[database]
		}},
	} {
		done, deadlocks, others, took := g.quotas(t, way.to)
		t.Logf("%s: %d transactions in %.0f s, %d deadlocks: %.1f per 10,000 (%d other errors)", way.name, done, took.Seconds(), deadlocks, float64(deadlocks)*1e4/float64(done), others)
		each := float64(deadlocks) * 1e4 / float64(done)
		if i == 0 {
			free = each
		} else if each > free/10 {
			t.Errorf("%s: %.1f deadlocks per 10,000, more than a tenth of the %.1f without", way.name, each, free)
		}
	}
	g.spreadAgain(t)
	g.apply(t, galeraServices)
	g.await(t, "everything in service", g.settled)
}

// spreadAgain kills the server that takes Nova's writes: they go to the next member, and
// come home when all have been well for a while; nobody else's move.
func (g *galeraSite) spreadAgain(t *testing.T) {
	g.run(t, "c3", "systemctl", "kill", "-s", "KILL", "mariadb")
	g.awaitFrom(t, "c1", "Nova's writes on the next member", func(st api.Status) bool {
		main, writers := writersOf(st)
		return writers["nova"] != "c3" && writers["neutron"] == "c2" && main != ""
	})
	begun := time.Now()
	g.await(t, "the writers to be spread again", func(st api.Status) bool {
		_, writers := writersOf(st)
		return writers["nova"] == "c3" && writers["neutron"] == "c2"
	})
	t.Logf("Nova's writes came home after %v", time.Since(begun).Round(time.Second))
	out := g.run(t, "c1", "mainstay", "events", "-n", "200")
	for line := range strings.Lines(out) {
		if strings.Contains(line, "takes the writes") || strings.Contains(line, "spread again") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func writersOf(st api.Status) (string, map[string]string) {
	for _, v := range st.Services {
		if v.Name == "mariadb" {
			return v.Writer, v.Writers
		}
	}
	return "", nil
}

func quotaTables(database string) string {
	text := fmt.Sprintf("CREATE DATABASE IF NOT EXISTS %[1]s; GRANT ALL ON %[1]s.* TO proof@'%%'; DROP TABLE IF EXISTS %[1]s.quotas, %[1]s.reservations; "+
		"CREATE TABLE %[1]s.quotas (project INT, resource VARCHAR(20), in_use INT, PRIMARY KEY (project, resource)) ENGINE=InnoDB; "+
		"CREATE TABLE %[1]s.reservations (id INT AUTO_INCREMENT PRIMARY KEY, project INT, delta INT) ENGINE=InnoDB; ", database)
	for project := range quotaProjects {
		text += fmt.Sprintf("INSERT INTO %s.quotas VALUES (%[2]d, 'cores', 0), (%[2]d, 'instances', 0), (%[2]d, 'ram', 0); ", database, project)
	}
	return text
}

const (
	quotaProjects = 4
	quotaClients  = 8 // half of them Nova's, half Neutron's
	quotaEnough   = 5_000
)

// quotas lets all clients work until enough transactions were committed.
func (g *galeraSite) quotas(t *testing.T, to func(client int, database string) string) (done, deadlocks, others int, took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, 10*time.Minute)
	defer cancel()
	begun := time.Now()
	var mu sync.Mutex
	var wait sync.WaitGroup
	for n := range quotaClients {
		wait.Go(func() {
			database := []string{"nova", "neutron"}[n%2]
			db := openProof(g.lab, g.lab.Hosts[n%len(g.lab.Hosts)].Name, to(n, database))
			defer db.Close()
			for i := n; ; i++ {
				err := reserve(ctx, db, database, i%quotaProjects)
				var answer *mysql.MySQLError
				mu.Lock()
				switch {
				case err == nil:
					done++
				case errors.As(err, &answer) && answer.Number == 1213:
					deadlocks++
				default:
					others++
				}
				enough := done >= quotaEnough || ctx.Err() != nil
				mu.Unlock()
				if enough {
					return
				}
			}
		})
	}
	wait.Wait()
	if done < quotaEnough {
		t.Errorf("only %d transactions", done)
	}
	return done, deadlocks, others, time.Since(begun)
}

// reserve is one reservation, as OpenStack makes it: the rows are locked, changed, and the
// reservation is noted.
func reserve(ctx context.Context, db *sql.DB, database string, project int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // no matter once it is committed
	rows, err := tx.QueryContext(ctx, "SELECT resource, in_use FROM "+database+".quotas WHERE project = ? ORDER BY resource FOR UPDATE", project)
	if err != nil {
		return err
	}
	for rows.Next() {
		var resource string
		var used int
		if err := rows.Scan(&resource, &used); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE "+database+".quotas SET in_use = in_use + 1 WHERE project = ?", project); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO "+database+".reservations (project, delta) VALUES (?, 1)", project); err != nil {
		return err
	}
	return tx.Commit()
}
