package lab

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/api"
)

// cloudFaults plays what happens to services, on a real Keystone and MariaDB.
func cloudFaults(ctx context.Context, t *testing.T) {
	f := &faulted{site: newSite(ctx, t)}
	f.log = f.watchURL(t, fmt.Sprintf("http://%s:5000/v3", f.lab.Virtual()["internal"]))
	f.tokens = f.watchTokens(t)
	f.await(t, "everything in service", f.settled)

	f.step(t, "Keystone hangs", func(t *testing.T) { f.hungKeystone(t, "keystone.service") })
	f.step(t, "one worker of Keystone hangs", func(t *testing.T) { f.hungKeystone(t, "keystone.service#1") })
	f.step(t, "S1 Keystone hangs for good", f.stuckKeystone)
	f.step(t, "every Keystone hangs", f.everyKeystone)
	f.step(t, "a slow request is not cut", f.slowRequest)
	f.step(t, "the path to the writing MariaDB is dropped", func(t *testing.T) { f.lostPath(t, f.writer(t)) })
	f.step(t, "the path to every MariaDB is dropped", func(t *testing.T) { f.lostPath(t, f.lab.names()...) })
	f.step(t, "S3 mysqld is killed on the writer", f.killedWriter)
	f.step(t, "mysqld hangs on the writer", f.hungWriter)
	for _, network := range []string{All, "management"} {
		f.step(t, "the writer's host is cut off: "+network, func(t *testing.T) { f.cutOff(t, f.writer(t), network, Both) })
	}
}

// tokenEvery is a rate that a small machine can carry.
const tokenEvery = 500 * time.Millisecond

func (s *site) watchTokens(t *testing.T) *Log {
	t.Helper()
	body, err := s.lab.tokenRequest()
	if err != nil {
		t.Fatal(err)
	}
	return s.watchProbe(t, Probe{URL: fmt.Sprintf("http://%s:5000/v3/auth/tokens", s.lab.Virtual()["internal"]),
		Every: tokenEvery, Patience: 10 * tokenEvery, Body: body, Expect: http.StatusCreated})
}

// rotation is what the HAProxy of one host thinks of a service's servers: "UP",
// "DRAIN", "MAINT" and the like, by host.
func (s *site) rotation(host, name string) (map[string]string, error) {
	dir, err := s.lab.HostPath(host)
	if err != nil {
		return nil, err
	}
	c, err := net.DialTimeout("unix", dir+"/run/mainstay/haproxy.sock", time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c, "show stat "+name+" 4 -1\n"); err != nil { // 4: servers
		return nil, err
	}
	rows, err := csv.NewReader(c).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fmt.Errorf("read HAProxy's table of %s: %d rows, %w", name, len(rows), err)
	}
	out := map[string]string{}
	server, status := slices.Index(rows[0], "svname"), slices.Index(rows[0], "status")
	for _, row := range rows[1:] {
		out[row[server]] = row[status]
	}
	return out, nil
}

// takes says whether a server in that state takes new requests.
func takes(status string) bool {
	return strings.HasPrefix(status, "UP") || strings.HasPrefix(status, "no check")
}

// outOfRotation waits until the HAProxy that serves the client has taken a host's
// server out, and returns when.
func (s *site) outOfRotation(t *testing.T, by, name, host string) time.Time {
	t.Helper()
	return s.rotates(t, by, name+" of "+host+" to be out of rotation", name, func(r map[string]string) bool { return r[host] != "" && !takes(r[host]) })
}

func (s *site) inRotation(t *testing.T, by, name, host string) time.Time {
	t.Helper()
	return s.rotates(t, by, name+" of "+host+" to be in rotation", name, func(r map[string]string) bool { return takes(r[host]) })
}

func (s *site) rotates(t *testing.T, by, what, name string, want func(map[string]string) bool) time.Time {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, siteBound)
	defer cancel()
	for {
		r, err := s.rotation(by, name)
		if err == nil && want(r) {
			return time.Now()
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting at %s for %s: %v %v", by, what, r, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// hungKeystone: all or one of a Keystone's processes are stopped, and go on before
// Mainstay would have killed them.
func (f *faulted) hungKeystone(t *testing.T, what string) {
	by := f.holding(t, "address/internal").Host
	victim := f.other(by)
	begun := time.Now()
	f.deed(t)(f.lab.Hang(f.ctx, victim, what))
	if what == "keystone.service" {
		out := f.outOfRotation(t, by, "keystone", victim)
		t.Logf("out of rotation %v after it was stopped", out.Sub(begun).Round(time.Millisecond))
		failed := 0
		var last time.Time
		for _, try := range f.log.Tries() {
			if !try.OK && try.Begun.After(begun) {
				failed, last = failed+1, try.Begun
			}
		}
		if failed > 0 {
			t.Logf("%d of the client's tries failed, the last begun %v after it was stopped", failed, last.Sub(begun).Round(time.Millisecond))
		}
		f.answered(t, f.log, 10)
	} else {
		f.lasts(5 * time.Second)
		r, err := f.rotation(by, "keystone")
		t.Logf("after 5 s: %v %v", r, err)
		f.answered(t, f.log, 10)
	}
	back := time.Now()
	f.deed(t)(f.lab.Resume(f.ctx, victim, what))
	in := f.inRotation(t, by, "keystone", victim)
	t.Logf("in rotation %v after it went on", in.Sub(back).Round(time.Millisecond))
	if c := copyOf(f.status(t), "keystone", victim); c.Restarts > 0 {
		t.Errorf("it was started anew, although it would have gone on: %+v", c)
	}
}

// stuckKeystone: S1. A Keystone that hangs for longer than any busy spell is killed
// and started anew.
func (f *faulted) stuckKeystone(t *testing.T) {
	by := f.holding(t, "address/internal").Host
	victim := f.other(by)
	begun := time.Now()
	f.deed(t)(f.lab.Hang(f.ctx, victim, "keystone.service"))
	out := f.outOfRotation(t, by, "keystone", victim)
	in := f.inRotation(t, by, "keystone", victim)
	t.Logf("out of rotation after %v, killed, started anew and back after %v", out.Sub(begun).Round(time.Millisecond), in.Sub(begun).Round(time.Millisecond))
}

// everyKeystone: all hang; none of them is taken out then, because a doubtful answer
// beats a certain refusal.
func (f *faulted) everyKeystone(t *testing.T) {
	by := f.holding(t, "address/internal").Host
	for _, m := range f.lab.Hosts {
		f.deed(t)(f.lab.Hang(f.ctx, m.Name, "keystone.service"))
	}
	f.awaitFrom(t, by, "all Keystones to be seen hung", func(st api.Status) bool {
		for _, m := range f.lab.Hosts {
			if copyOf(st, "keystone", m.Name).Ready {
				return false
			}
		}
		return true
	})
	r, err := f.rotation(by, "keystone")
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, status := range r {
		if takes(status) {
			left++
		}
	}
	t.Logf("while all of them hung: %v", r)
	if left == 0 {
		t.Errorf("not one Keystone was left in rotation: %v", r)
	}
	for _, m := range f.lab.Hosts {
		f.deed(t)(f.lab.Resume(f.ctx, m.Name, "keystone.service"))
	}
}

// slowRequest: checking a password that was hashed with very many rounds takes a
// Keystone seconds of CPU: it is busy, not hung. And a request that waits for a lock
// of the database uses none, so its Keystone looks hung and leaves the rotation for
// a while. Neither sort of request is cut.
func (f *faulted) slowRequest(t *testing.T) {
	url := fmt.Sprintf("http://%s:5000/v3/", f.lab.Virtual()["internal"])
	admin, err := f.lab.tokenRequest()
	if err != nil {
		t.Fatal(err)
	}
	code, header, err := post(f.ctx, url+"auth/tokens", "", admin)
	if err != nil || code != http.StatusCreated {
		t.Fatalf("a token for the administrator: %d %v", code, err)
	}
	name := fmt.Sprintf("slow%d", time.Now().UnixNano())
	code, _, err = post(f.ctx, url+"users", header.Get("X-Subject-Token"), fmt.Sprintf(`{"user": {"name": %q, "password": "slow", "domain_id": "default"}}`, name))
	if err != nil || code != http.StatusCreated {
		t.Fatalf("make a user: %d %v", code, err)
	}
	writer := f.writer(t)
	f.run(t, writer, "sh", "-c", `hash=$(python3 -c 'import bcrypt; print(bcrypt.hashpw(b"slow", bcrypt.gensalt(13)).decode())') &&
		mariadb keystone -e "UPDATE password SET password_hash = '$hash' WHERE local_user_id = (SELECT id FROM local_user WHERE name = '`+name+`')"`)
	body := fmt.Sprintf(`{"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": %q, "domain": {"id": "default"}, "password": "slow"}}}}}`, name)
	before := f.restarts(t)
	f.all(t, "busy with the CPU", url+"auth/tokens", body)
	lock := make(chan error, 1)
	go func() {
		_, err := f.lab.Run(f.ctx, writer, "mariadb", "keystone", "-e", "LOCK TABLES local_user WRITE; SELECT SLEEP(6)")
		lock <- err
	}()
	f.all(t, "waiting for a lock", url+"auth/tokens", admin)
	if err := <-lock; err != nil {
		t.Error(err)
	}
	if after := f.restarts(t); after != before {
		t.Errorf("a Keystone was started anew for being slow: %s, before %s", after, before)
	}
}

// all asks as often at once as all Keystones together have threads; each must succeed.
func (f *faulted) all(t *testing.T, what, url, body string) {
	t.Helper()
	var wait sync.WaitGroup
	var mu sync.Mutex
	var longest time.Duration
	for range 4 * len(f.lab.Hosts) {
		wait.Go(func() {
			begun := time.Now()
			code, _, err := post(f.ctx, url, "", body)
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, time.Since(begun))
			if err != nil || code != http.StatusCreated {
				t.Errorf("%s: a request was cut after %v: %d %v", what, time.Since(begun).Round(time.Millisecond), code, err)
			}
		})
	}
	wait.Wait()
	t.Logf("%s: %d requests at once, the slowest took %v", what, 4*len(f.lab.Hosts), longest.Round(time.Millisecond))
}

// restarts tells how often each Keystone was started, by its main process.
func (f *faulted) restarts(t *testing.T) string {
	t.Helper()
	var out []string
	for _, m := range f.lab.Hosts {
		out = append(out, m.Name+":"+strings.TrimSpace(f.run(t, m.Name, "systemctl", "show", "keystone", "--property=MainPID", "--value")))
	}
	return strings.Join(out, " ")
}

func post(ctx context.Context, url, token, body string) (int, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Auth-Token", token)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header, err
}

// lostPath: what a host sends to the MariaDB of some is dropped. The client is served
// meanwhile.
func (f *faulted) lostPath(t *testing.T, to ...string) {
	by := f.holding(t, "address/internal").Host
	victim := f.other(by, f.writer(t))
	if victim == "" {
		victim = f.other(f.writer(t))
	}
	begun := time.Now()
	for _, host := range to {
		address := f.lab.Hosts[slices.Index(f.lab.names(), host)].Addresses["management"].V4.Addr()
		f.run(t, victim, "nft", fmt.Sprintf("add table ip faults; add chain ip faults out { type filter hook output priority 0; }; add rule ip faults out ip daddr %s tcp dport 3306 drop", address))
	}
	f.lasts(15 * time.Second)
	r, err := f.rotation(by, "keystone")
	t.Logf("after 15 s: %v %v; %s's Keystone: %+v", r, err, victim, copyOf(f.status(t), "keystone", victim))
	failed, all := 0, 0
	for _, try := range f.tokens.Tries() {
		if try.Begun.After(begun) {
			all++
			if !try.OK {
				failed++
			}
		}
	}
	t.Logf("%d of %d tokens failed meanwhile", failed, all)
	f.answered(t, f.log, 10)
	f.run(t, victim, "nft", "delete table ip faults")
	f.inRotation(t, by, "keystone", victim)
}

// writer is the host whose MariaDB takes the writes.
func (s *site) writer(t *testing.T) string {
	t.Helper()
	for _, v := range s.status(t).Services {
		if v.Name == "mariadb" {
			return v.Writer
		}
	}
	return ""
}

func (f *faulted) killedWriter(t *testing.T) {
	f.writerFails(t, func(host string) Deed {
		d, err := f.lab.do("exec", host, nil, func(*Deed) error {
			_, err := f.lab.Run(f.ctx, host, "systemctl", "kill", "-s", "KILL", "mariadb.service")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

func (f *faulted) hungWriter(t *testing.T) {
	f.writerFails(t, func(host string) Deed {
		d, err := f.lab.Hang(f.ctx, host, "mariadb.service")
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

// writerFails logs for how long tokens fail, and what of it is Galera's own: the
// time until the others have formed a group without the lost member.
func (f *faulted) writerFails(t *testing.T, fail func(host string) Deed) {
	old := f.writer(t)
	by := f.other(old)
	conf := strings.TrimSpace(f.run(t, by, "mariadb", "-N", "-e", "SHOW STATUS LIKE 'wsrep_cluster_conf_id'"))
	d := fail(old)
	f.awaitFrom(t, by, "another writer", func(st api.Status) bool {
		i := slices.IndexFunc(st.Services, func(v api.ServiceStatus) bool { return v.Name == "mariadb" })
		return i >= 0 && st.Services[i].Writer != "" && st.Services[i].Writer != old
	})
	t.Logf("another writer after %v, as the status says", time.Since(d.At).Round(time.Millisecond))
	f.answered(t, f.tokens, 3)
	gap, from, till := Gap(f.tokens.Tries(), d.At, time.Now())
	t.Logf("tokens: %v without a new one, from %v to %v after the fault", gap.Round(time.Millisecond), from.Sub(d.At).Round(time.Millisecond), till.Sub(d.At).Round(time.Millisecond))
	// Not before Galera has seen it too: its own time is to be told.
	err := until(f.ctx, siteBound, func() error {
		out, err := f.lab.Run(f.ctx, by, "mariadb", "-N", "-e", "SHOW STATUS LIKE 'wsrep_cluster_conf_id'; SHOW STATUS LIKE 'wsrep_cluster_status'")
		if err == nil && (strings.Contains(out, conf) || !strings.Contains(out, "Primary")) {
			err = errors.New("no new group so far")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f.logGalera(t, by, d.At)
	if _, err := f.lab.Resume(f.ctx, old, "mariadb.service"); err != nil {
		t.Logf("nothing to resume: %v", err) // it was killed and started anew
	}
}

// logGalera logs when a member saw that another was gone, and when the group was
// primary again, by its own journal.
func (f *faulted) logGalera(t *testing.T, host string, since time.Time) {
	t.Helper()
	out := f.run(t, host, "journalctl", "-u", "mariadb", "--no-pager", "-o", "short-unix", "--since", "@"+fmt.Sprint(since.Unix()))
	told := map[string]bool{}
	for line := range strings.Lines(out) {
		var at float64
		if _, err := fmt.Sscan(line, &at); err != nil || at < float64(since.UnixMicro())/1e6 {
			continue
		}
		for _, word := range []string{"suspecting", "reconnecting", "connection to peer", "turning message relay", "declaring node", "forgetting", "view(view_id(PRIM", "New COMPONENT: primary = yes", "New cluster view"} {
			if strings.Contains(line, word) && !told[word] {
				told[word] = true
				t.Logf("Galera on %s, %.3f s after the fault: %s", host, at-float64(since.UnixMicro())/1e6, word)
			}
		}
	}
}
