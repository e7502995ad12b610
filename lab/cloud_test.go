package lab

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// TestCloudFiles: what the three hosts are told agrees, and nothing of it
// listens on all addresses or founds a second cluster.
func TestCloudFiles(t *testing.T) {
	c := CloudConfig{EVS: "evs.suspect_timeout=PT1S"}
	for i, name := range []string{"c1", "c2", "c3"} {
		c.Controllers = append(c.Controllers, CloudHost{name, netip.AddrFrom4([4]byte{10, 9, 0, byte(11 + i)})})
	}
	founders := 0
	for host, files := range CloudFiles(c) {
		own := "10.9.0.1" + host[1:]
		if _, ok := files[firstStart]; ok {
			founders++
		}
		for name, want := range map[string][]string{
			"/etc/mysql/mariadb.conf.d/70-mainstay-lab.cnf": {
				"\nwsrep_cluster_address = gcomm://10.9.0.11,10.9.0.12,10.9.0.13\n", "\nbind-address = " + own + "\n",
				"\nwsrep_node_name = " + host + "\n", "tcp://" + own + ":4567", "evs.suspect_timeout=PT1S", "\ninnodb_flush_log_at_trx_commit = 1\n",
			},
			"/etc/memcached.conf":                                      {"-l " + own + "\n"},
			"/etc/keystone/keystone.conf":                              {"memcache_servers = 10.9.0.11:11211,10.9.0.12:11211,10.9.0.13:11211\n", "enabled = true"},
			"/etc/systemd/system/keystone.service.d/mainstay-lab.conf": {"--http-socket " + own + ":5000 "},
		} {
			for _, w := range want {
				if !strings.Contains("\n"+string(files[name].Data), w) {
					t.Errorf("%s: %s lacks %q:\n%s", host, name, w, files[name].Data)
				}
			}
		}
		for name := range files {
			if strings.Contains(name, ".wants/") {
				t.Errorf("%s enables %s", host, name)
			}
		}
	}
	if founders != 1 {
		t.Errorf("%d hosts would found a cluster", founders)
	}
	if text := galeraConfig(CloudConfig{}, CloudHost{}); !strings.Contains(text, GaleraEVS) {
		t.Error("without EVS the timings are not Galera's own")
	}
}

// cloud is the handle of TestCloud on a lab with a cloud.
type cloud struct {
	*Lab
	CloudConfig
	monitor string // password
	admin   string
}

// TestCloud: three hosts with nothing but base, seed and CloudFiles make one
// Galera cluster and one Keystone; after the power of all three was cut they do
// so again with nobody's hand, and what had been acknowledged is there; a member
// that lost its disk's content is copied from another.
func TestCloud(t *testing.T) {
	if testing.Short() {
		t.Skip("boots three hosts with a cloud: two minutes")
	}
	base, err := Base(t.Context(), "", func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	seed, err := Seed(t.Context(), base, "", func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	l := up(t, Config{Name: "labcloud", Layers: []string{seed}})
	c := cloud{Lab: l, CloudConfig: l.Cloud(l.Hosts[0].Addresses["management"].V4.Addr())}
	c.monitor, c.admin = readSecret(t, seed, MonitorPasswordFile), readSecret(t, seed, AdminPasswordFile)
	for _, h := range c.Controllers { // first, because InstallCloud syncs: power is going to be cut
		if err := l.CopyIn(h.Name, "/etc/haproxy/haproxy.cfg", c.haproxy(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.InstallCloud(t.Context(), c.CloudConfig); err != nil {
		t.Fatal(err)
	}

	c.start(t, "first start", "mariadb", "memcached", "keystone", "haproxy")
	c.wantAnswers(t)
	founder := c.Controllers[0].Name
	if out, err := l.Run(t.Context(), founder, "ls", firstStart, "/run/mainstay-new-cluster"); err == nil || out != "" {
		t.Errorf("%s could found a second cluster: %q", founder, out)
	}
	for _, h := range c.Controllers {
		out, _ := l.Run(t.Context(), h.Name, "systemctl", "is-enabled", "mariadb", "memcached", "keystone")
		if out != "disabled\ndisabled\ndisabled\n" {
			t.Errorf("%s: at boot the units are %q", h.Name, out)
		}
	}
	c.logMemory(t)

	// The answer below is the promise; nothing is synced after it.
	project := c.createProject(t)
	c.each(t, func(h CloudHost) error { _, err := l.Kill(t.Context(), h.Name); return err })
	c.each(t, func(h CloudHost) error {
		if _, err := l.Start(t.Context(), h.Name); err != nil {
			return err
		}
		_, err := l.Booted(t.Context(), h.Name)
		return err
	})
	// To install again must not make a founder out of a member.
	if err := l.InstallCloud(t.Context(), c.CloudConfig); err != nil {
		t.Fatal(err)
	}
	c.start(t, "all power cut", "mariadb", "memcached", "keystone", "haproxy")
	c.wantAnswers(t)
	c.wantProject(t, project)

	last := c.Controllers[2].Name
	if out, err := l.Run(t.Context(), last, "sh", "-c", "systemctl stop mariadb && find /var/lib/mysql -mindepth 1 -delete"); err != nil {
		t.Fatal(out, err)
	}
	c.start(t, "one datadir lost", "mariadb")
	c.wantAnswers(t)
	c.wantProject(t, project)
}

func readSecret(t *testing.T, seed, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(seed, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// haproxy stands in for Mainstay's: the way to the writer.
func (c cloud) haproxy() []byte {
	var b bytes.Buffer
	b.WriteString("defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n" +
		"listen db\n  bind 127.0.0.1:3306\n  option tcp-check\n")
	for i, h := range c.Controllers {
		fmt.Fprintf(&b, "  server %s %s:3306 check inter 500 on-marked-down shutdown-sessions", h.Name, h.Address)
		if i > 0 {
			b.WriteString(" backup")
		}
		b.WriteString("\n")
	}
	return b.Bytes()
}

func (c cloud) each(t *testing.T, f func(CloudHost) error) {
	t.Helper()
	errs := make([]error, len(c.Controllers))
	var wg sync.WaitGroup
	for i, h := range c.Controllers {
		wg.Go(func() { errs[i] = f(h) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// start starts the units on all hosts together and waits until all three are
// synced members of one primary component and Keystone answers everywhere.
func (c cloud) start(t *testing.T, what string, units ...string) {
	t.Helper()
	began := time.Now()
	c.each(t, func(h CloudHost) error {
		_, err := c.Run(t.Context(), h.Name, append([]string{"systemctl", "start", "--no-block"}, units...)...)
		return err
	})
	for _, part := range []struct {
		name string
		sees func(CloudHost) string
	}{{"Galera", c.member}, {"Keystone", c.keystone}} {
		state := map[string]string{}
		err := waitFor(t.Context(), 2*time.Minute, part.name, func() (bool, error) {
			all := true
			for _, h := range c.Controllers {
				state[h.Name] = part.sees(h)
				all = all && state[h.Name] == "ok"
			}
			return all, nil
		})
		if err != nil {
			for _, h := range c.Controllers {
				text, _ := c.Console(h.Name, 40)
				t.Logf("%s:\n%s", h.Name, text)
			}
			t.Fatalf("%s: %v: %v", what, err, state)
		}
		t.Logf("%s: %s is whole %.1f s after the start", what, part.name, time.Since(began).Seconds())
	}
}

// member says "ok" for a synced member of a primary component of all.
func (c cloud) member(h CloudHost) string {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.Net, cfg.Addr = MonitorUser, c.monitor, "tcp", h.Address.String()+":3306"
	cfg.Timeout, cfg.ReadTimeout, cfg.Logger = time.Second, time.Second, &mysql.NopLogger{}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return err.Error()
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	rows, err := db.Query("SHOW STATUS WHERE Variable_name IN ('wsrep_local_state_comment', 'wsrep_cluster_status', 'wsrep_cluster_size')")
	if err != nil {
		return err.Error()
	}
	defer rows.Close()
	got := map[string]string{}
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return err.Error()
		}
		got[name] = value
	}
	if got["wsrep_local_state_comment"] == "Synced" && got["wsrep_cluster_status"] == "Primary" &&
		got["wsrep_cluster_size"] == fmt.Sprint(len(c.Controllers)) {
		return "ok"
	}
	return fmt.Sprint(got, rows.Err())
}

// keystone says "ok" when GET /v3 gives 200.
func (c cloud) keystone(h CloudHost) string {
	code, _, err := c.call(h, "GET", "/v3", "", nil)
	if code == http.StatusOK {
		return "ok"
	}
	return fmt.Sprint(code, err)
}

// call asks one host's Keystone.
func (c cloud) call(h CloudHost, method, path, token string, body any) (code int, header http.Header, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+h.Address.String()+":5000"+path, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("X-Auth-Token", token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header, err
}

// token asks a host's Keystone for a token of the administrator. It tries for a
// minute: connections to a MariaDB that has died are found dead only when used.
func (c cloud) token(t *testing.T, h CloudHost) string {
	t.Helper()
	domain := map[string]string{"id": "default"}
	auth := map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": "admin", "domain": domain, "password": c.admin}}},
		"scope": map[string]any{"project": map[string]any{"name": "admin", "domain": domain}},
	}}
	var out, last string
	err := waitFor(t.Context(), time.Minute, "a token", func() (bool, error) {
		code, header, err := c.call(h, "POST", "/v3/auth/tokens", "", auth)
		out, last = header.Get("X-Subject-Token"), fmt.Sprint(code, err)
		return code == http.StatusCreated, nil
	})
	if err != nil {
		text, _ := c.Console(h.Name, 40)
		t.Fatalf("%s: %v: %s\n%s", h.Name, err, last, text)
	}
	return out
}

func (c cloud) wantAnswers(t *testing.T) {
	t.Helper()
	for _, h := range c.Controllers {
		for range 2 { // the second finds everything loaded
			began := time.Now()
			c.token(t, h)
			t.Logf("%s: a token in %d ms", h.Name, time.Since(began).Milliseconds())
		}
	}
}

// createProject makes a project through Keystone; its name says when.
func (c cloud) createProject(t *testing.T) (name string) {
	t.Helper()
	h := c.Controllers[1]
	name = "made-" + fmt.Sprint(time.Now().UnixNano())
	code, _, err := c.call(h, "POST", "/v3/projects", c.token(t, h), map[string]any{"project": map[string]any{"name": name}})
	if code != http.StatusCreated {
		t.Fatalf("create a project: %d, %v", code, err)
	}
	return name
}

// wantProject looks for the project in each member's own copy of the database.
func (c cloud) wantProject(t *testing.T, name string) {
	t.Helper()
	for _, h := range c.Controllers {
		out, err := c.Run(t.Context(), h.Name, "mariadb", "--batch", "--skip-column-names", "--execute",
			"SELECT COUNT(*) FROM keystone.project WHERE name = '"+name+"'")
		if strings.TrimSpace(out) != "1" {
			t.Errorf("%s has the project %s times, %v", h.Name, strings.TrimSpace(out), err)
		}
	}
}

func (c cloud) logMemory(t *testing.T) {
	st, err := c.Status(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, h := range st.Hosts {
		t.Logf("%s: %d MB of memory, %d MB of disk", h.Name, h.Memory>>20, h.DiskUsed>>20)
	}
}
