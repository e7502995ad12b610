package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// session is a client that keeps one connection through the virtual address and
// asks on it again and again.
type session struct {
	cancel context.CancelFunc
	done   chan struct{}

	// Read when done is closed.
	asked  int
	closed int // how often the server said, with an answer, that it was the connection's last
	err    error
}

func (s *lightSite) session(t *testing.T) *session {
	t.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	k := &session{cancel: cancel, done: make(chan struct{})}
	at := fmt.Sprintf("%s:5000", s.lab.Virtual()["internal"])
	go func() {
		defer close(k.done)
		for last := true; last && ctx.Err() == nil; {
			conn, err := s.lab.Dial(ctx, Client, "tcp", at)
			if err == nil {
				last, err = k.ask(ctx, conn)
				conn.Close()
			}
			if ctx.Err() == nil {
				k.err = err
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-k.done })
	return k
}

// ask asks until ctx ends or the server says that an answer is the last.
func (k *session) ask(ctx context.Context, conn net.Conn) (last bool, err error) {
	in := bufio.NewReader(conn)
	for tick := time.Tick(50 * time.Millisecond); ; {
		// Longer than any retransmission: what is lost is sent again by TCP.
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return false, err
		}
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: site\r\n\r\n"); err != nil {
			return false, err
		}
		answer, err := http.ReadResponse(in, nil)
		if err != nil {
			return false, err
		}
		_, err = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if err != nil {
			return false, err
		}
		k.asked++
		if answer.Close {
			k.closed++
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-tick:
		}
	}
}

// unbroken ends the session and fails if a request got no answer. A server that is
// reloaded may end a connection with an answer that says so, if that is allowed.
func (k *session) unbroken(t *testing.T, reloaded bool) {
	t.Helper()
	k.cancel()
	<-k.done
	if k.err != nil || k.asked < 2 || k.closed > 0 && !reloaded {
		t.Errorf("after %d requests, with %d connections that were ended by an answer: %v", k.asked, k.closed, k.err)
	}
	t.Logf("%d requests, %d connections ended by an answer", k.asked, k.closed)
}

// patient watches as Watch does, but gives each try the time that TCP needs to send
// a lost packet again: on a busy machine only then is a failure one.
func (s *site) patient(t *testing.T) *Log {
	t.Helper()
	log, err := s.lab.Watch(s.ctx, Probe{URL: s.url, Every: ProbeEvery, Patience: 10 * time.Second, Expect: 200}, s.binary)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// unfailing ends a watch and fails if any try failed.
func (s *site) unfailing(t *testing.T, log *Log) {
	t.Helper()
	s.served(t, log)
	for _, try := range log.Tries() {
		if !try.OK {
			t.Errorf("at %s: %s", try.Begun.Format(time.TimeOnly), try.Why)
		}
	}
	t.Logf("%d tries", len(log.Tries()))
}

// unmoved fails if anything changed hands since.
func (s *site) unmoved(t *testing.T, before api.Status) {
	t.Helper()
	now := s.status(t)
	for _, h := range before.Holdings {
		if got := find(now, h.Thing); got.Host != h.Host || got.Generation != h.Generation {
			t.Errorf("%s was on %s (%d), and is on %s (%d): %s", h.Thing, h.Host, h.Generation, got.Host, got.Generation, got.Why)
		}
	}
}

// upgraded replaces the program on one host after another, agent and store, under
// load. The lead is handed over when the leader's store stops.
func (s *lightSite) upgraded(t *testing.T) {
	binary, err := os.ReadFile(s.next)
	if err != nil {
		t.Fatal(err)
	}
	before := s.status(t)
	// A program that does not run takes nothing over.
	s.put(t, before.Leader, "/usr/bin/mainstay", []byte("#!/bin/sh\nexit 1\n"))
	s.run(t, before.Leader, "systemctl", "reload", "mainstay")
	s.told(t, before.Leader, "this process goes on")

	log, session := s.patient(t), s.session(t)
	for _, m := range s.lab.Hosts {
		s.put(t, m.Name, "/usr/bin/mainstay", binary)
		s.run(t, m.Name, "systemctl", "reload", "mainstay")
		s.await(t, m.Name+" with the new program", func(st api.Status) bool {
			for _, h := range st.Hosts {
				if h.Name == m.Name && h.Version != "two" {
					return false
				}
			}
			return s.settled(st)
		})
		if !s.votes(t, m.Name) {
			continue
		}
		leader := s.status(t).Leader
		s.run(t, m.Name, "systemctl", "restart", "mainstay-quorum")
		s.await(t, "the store of "+m.Name+" to be back", func(st api.Status) bool {
			return s.settled(st) && (leader != m.Name || st.Leader != m.Name)
		})
		out := s.run(t, m.Name, "journalctl", "-u", "mainstay-quorum", "--no-pager")
		if strings.Contains(out, "without having handed the lead over") {
			t.Errorf("%s stopped its store without having handed the lead over:\n%s", m.Name, out)
		}
		s.log(t, m.Name, "goes on with the stint")
	}
	session.unbroken(t, false)
	s.unfailing(t, log)
	s.unmoved(t, before)
	s.once(t)
	s.binary, s.config.Binary = s.next, s.next
	// systemd knows the process that took over as the unit's own.
	s.run(t, "c2", "systemctl", "kill", "-s", "KILL", "mainstay")
	err = until(s.ctx, siteBound, func() error {
		out, err := s.lab.Run(s.ctx, "c2", "systemctl", "show", "-P", "MainPID", "-P", "NRestarts", "mainstay")
		if pid, restarts, _ := strings.Cut(strings.TrimSpace(out), "\n"); err == nil && (pid == "0" || restarts == "0") {
			err = fmt.Errorf("process %s after %s restarts", pid, restarts)
		}
		return err
	})
	if err != nil {
		t.Errorf("the agent that had taken over was killed, and is not back: %v", err)
	}
	s.awaitFrom(t, "c2", "calm, by its own word", s.settled)
}

func (s *lightSite) votes(t *testing.T, host string) bool {
	t.Helper()
	for _, h := range s.status(t).Hosts {
		if h.Name == host {
			return h.Voter
		}
	}
	return false
}

func (s *lightSite) put(t *testing.T, host, path string, data []byte) {
	t.Helper()
	mode := os.FileMode(0o644)
	if strings.HasPrefix(path, "/usr/bin/") {
		mode = 0o755
	}
	if err := s.lab.CopyIn(host, path, data, mode); err != nil {
		t.Fatal(err)
	}
	s.run(t, host, "sync")
}

// told waits until the agent's log says something.
func (s *lightSite) told(t *testing.T, host, words string) {
	t.Helper()
	err := until(s.ctx, siteBound, func() error {
		out, err := s.lab.Run(s.ctx, host, "journalctl", "-u", "mainstay", "--no-pager")
		if err == nil && !strings.Contains(out, words) {
			err = errors.New("not yet")
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s never said %q: %v", host, words, err)
	}
}

// log shows the lines of the agent's log with these words.
func (s *lightSite) log(t *testing.T, host, words string) {
	t.Helper()
	for line := range strings.Lines(s.run(t, host, "journalctl", "-u", "mainstay", "--no-pager")) {
		if strings.Contains(line, words) {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// applied gives the site new files: refused ones, one that a host misses and gets
// when it returns, one that leaves a service out, and one that takes it in again.
func (s *lightSite) applied(t *testing.T) {
	before := s.status(t)
	present := s.lab.SiteFile(s.config)
	sums := s.sums(t)
	apply := func(host, text string) (string, error) {
		s.put(t, host, "/root/new.yaml", []byte(text))
		return s.lab.Run(s.ctx, host, "mainstay", "apply", "/root/new.yaml", "--yes")
	}
	const lone = `  lone:
    kind: systemd
    mode: active/passive
    why: the unit is on one host only, on the other it must be missed
    units: [lone.service]
    hosts: [c1, c2]
`
	s.put(t, "c1", "/etc/systemd/system/lone.service", []byte("[Service]\nExecStart=/bin/sleep infinity\n"))
	s.run(t, "c1", "systemctl", "daemon-reload")
	for _, c := range []struct{ text, says, and string }{
		{strings.Replace(present, "mode: act\n", "mode: act\nmoode: act\nbrake: 1\n", 1), "moode", "brake"}, // all in one run
		{strings.Replace(present, "site: lab-", "site: other-", 1), "this is site", ""},
		{strings.Replace(strings.Replace(present, "voter: false", "voter: true", 1), "  c3:\n", "  c3:\n    voter: false\n", 1), "mainstay voters replace", ""},
		{strings.Replace(present, "timing: wide", "timing: room", 1), "every agent stopped", ""},
		{strings.Replace(present, "services:\n", "services:\n"+lone, 1), "c2 refuses it", "lone"},
	} {
		if out, err := apply("c2", c.text); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.and) {
			t.Errorf("no word of %q and %q: %v\n%s", c.says, c.and, err, out)
		}
	}
	if now := s.sums(t); now != sums {
		t.Errorf("refused files changed something:\n%s\n%s", sums, now)
	}

	log := s.patient(t)
	s.deed(t)(s.lab.PowerOff(s.ctx, "c4"))
	// A request that is on its way to c4 when that loses power is lost with it: the
	// session begins when nothing is sent there any more.
	s.awaitFrom(t, s.other("c4"), "c4 out of the rotation", func(st api.Status) bool {
		return slices.ContainsFunc(st.Hosts, func(h api.HostStatus) bool {
			return h.Name == "c4" && h.Condition != fleet.Healthy && h.Condition != fleet.Degraded
		})
	})
	session := s.session(t)
	web := strings.Index(memberServices, "  web:")
	solo := strings.Index(memberServices, "  solo:")
	twin := strings.Replace(strings.Replace(memberServices[web:solo], "  web:", "  twin:", 1), "port: 5000", "port: 5005", 1)
	second := memberServices[:solo] + twin + memberServices[solo:]
	s.config.Services = second
	out, err := apply("c2", s.lab.SiteFile(s.config))
	if err != nil || !strings.Contains(out, "service twin is new") || !strings.Contains(out, "c4") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
	s.await(t, "the new service behind HAProxy", func(st api.Status) bool {
		for _, v := range st.Services {
			if v.Name == "twin" {
				return s.without("c4")(st)
			}
		}
		return false
	})
	s.answers(t, 5005)
	s.deed(t)(s.lab.Start(s.ctx, "c4"))
	s.await(t, "c4 back, with the new file", func(st api.Status) bool {
		for _, h := range st.Hosts {
			if h.Site != "" {
				return false
			}
		}
		return s.settled(st)
	})
	if all := strings.Fields(s.sums(t)); len(all) != 4 || all[0] != all[3] || all[0] == strings.Fields(sums)[0] {
		t.Errorf("the files at the end: %v", all)
	}

	// Left out, a service runs on and is free of its bar; taken in again it is adopted.
	holder := s.holding(t, "service/solo").Host
	pid := s.run(t, holder, "systemctl", "show", "-P", "MainPID", "solo.service")
	s.config.Services = second[:strings.Index(second, "  solo:")]
	if out, err := apply("c1", s.lab.SiteFile(s.config)); err != nil || !strings.Contains(out, "service solo goes") {
		t.Fatalf("%v\n%s", err, out)
	}
	err = until(s.ctx, siteBound, func() error {
		for _, host := range []string{"c1", "c2", "c3"} {
			dir, err := s.lab.HostPath(host)
			if err != nil {
				return err
			}
			left, err := filepath.Glob(dir + "/etc/systemd/system/solo.service.d/*mainstay*")
			if err != nil {
				return err
			}
			if len(left) > 0 {
				return fmt.Errorf("%s still has %v", host, left)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	s.config.Services = memberServices
	if out, err := apply("c1", s.lab.SiteFile(s.config)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.await(t, "solo adopted", func(st api.Status) bool {
		return s.settled(st) && find(st, "service/solo").Works && len(st.Services) == 3
	})
	if now := s.run(t, holder, "systemctl", "show", "-P", "MainPID", "solo.service"); now != pid {
		t.Errorf("solo was restarted on %s: %s, then %s", holder, pid, now)
	}
	session.unbroken(t, true)
	s.unfailing(t, log)
	for _, thing := range []string{"address/internal", "address/public"} {
		if was, is := find(before, thing), find(s.status(t), thing); was.Host != "c4" && (is.Host != was.Host || is.Generation != was.Generation) {
			t.Errorf("%s moved: %+v, then %+v", thing, was, is)
		}
	}
	s.once(t)
}

// answers waits until the site answers a client at a port of the address.
func (s *site) answers(t *testing.T, port int) {
	t.Helper()
	err := until(s.ctx, siteBound, func() error {
		conn, err := s.lab.Dial(s.ctx, Client, "tcp", fmt.Sprintf("%s:%d", s.lab.Virtual()["internal"], port))
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		return nil
	})
	if err != nil {
		t.Errorf("port %d: %v", port, err)
	}
}

// sums are the versions of all hosts' site files, in the order of their names.
func (s *lightSite) sums(t *testing.T) string {
	t.Helper()
	var out []string
	for _, m := range s.lab.Hosts {
		out = append(out, strings.Fields(s.run(t, m.Name, "sha256sum", "/etc/mainstay/site.yaml"))[0])
	}
	return strings.Join(out, " ")
}

// removed takes a host out of the site: what it holds moves away first.
func (s *lightSite) removed(t *testing.T, host string) {
	log := s.watch(t)
	s.run(t, "c1", "mainstay", "move", "public", host, "--wait", "3m")
	s.config.Hosts = []string{"c1", "c2", "c3"}
	s.put(t, "c1", "/root/new.yaml", []byte(s.lab.SiteFile(s.config)))
	if out, err := s.lab.Run(s.ctx, "c1", "mainstay", "apply", "/root/new.yaml", "--yes"); err == nil || !strings.Contains(err.Error(), "mainstay maintenance "+host+" on") {
		t.Errorf("%s was taken out with what it holds: %v\n%s", host, err, out)
	}
	s.run(t, "c1", "mainstay", "maintenance", host, "on")
	s.await(t, "nothing on "+host, func(st api.Status) bool {
		for _, h := range st.Holdings {
			if h.Host == host || !h.Works {
				return false
			}
		}
		return true
	})
	t.Log(s.run(t, "c1", "mainstay", "apply", "/root/new.yaml", "--yes"))
	s.await(t, "the site without "+host, func(st api.Status) bool { return len(st.Hosts) == 3 && s.settled(st) })
	// Its certificate is good for nothing any more.
	if out, err := s.lab.Run(s.ctx, host, "mainstay", "join", "--renew", s.at("c1"), "--host", host); err == nil {
		t.Errorf("%s has left, and may renew its certificate: %s", host, out)
	}
	s.served(t, log)
	s.once(t)
}
