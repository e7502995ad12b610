package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/trust"
)

// pager is a webhook on the client's host: it gathers the alarms that are posted.
type pager struct {
	url string

	mu     sync.Mutex
	alarms []alarm
}

type alarm struct {
	Site  string      `json:"site"`
	Event fleet.Event `json:"event"`
}

const pagerPort = 9998

func newPager(t *testing.T, l *Lab) *pager {
	t.Helper()
	at := netip.AddrPortFrom(l.Client.Addresses["management"].V4.Addr(), pagerPort)
	p := &pager{url: fmt.Sprintf("http://%s/alarm", at)}
	var ln net.Listener
	err := inNetns(l.netns(Client), func() (err error) {
		ln, err = net.Listen("tcp4", at.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var a struct {
			alarm
			More []alarm `json:"more"`
		}
		if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.alarms = append(p.alarms, a.alarm)
		for _, m := range a.More {
			p.alarms = append(p.alarms, alarm{a.Site, m.Event})
		}
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return p
}

// rung waits for an alarm about something that says certain words, and fails if the
// same event is posted twice.
func (s *lightSite) rung(t *testing.T, about, words string) {
	t.Helper()
	s.eventually(t, fmt.Sprintf("an alarm about %s: %s", about, words), func() error {
		s.pager.mu.Lock()
		defer s.pager.mu.Unlock()
		seen := map[string]bool{}
		found := false
		for _, a := range s.pager.alarms {
			if a.Site != "lab-"+s.lab.Name || a.Event.ID == "" || seen[a.Event.ID] {
				t.Errorf("not of this site, or posted twice: %+v", a)
			}
			seen[a.Event.ID] = true
			found = found || a.Event.About == about && strings.Contains(a.Event.Text, words)
		}
		if !found {
			return fmt.Errorf("not among %d alarms", len(s.pager.alarms))
		}
		return nil
	})
}

// person is a client outside with an operator's certificate.
func (s *lightSite) person(t *testing.T, name string, role trust.Role) *http.Client {
	t.Helper()
	s.run(t, "c1", "mainstay", "token", "--operator", name, "--role", string(role), "--to", "/root/"+name)
	dir, err := s.lab.HostPath("c1")
	if err != nil {
		t.Fatal(err)
	}
	files := trust.Files{Dir: dir + "/root/" + name}
	if _, err := files.Load(); err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{
		TLSClientConfig: files.Client(""), ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return s.lab.Dial(ctx, Client, network, address)
		},
	}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func (s *lightSite) get(t *testing.T, c *http.Client, host, path, accept string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, fmt.Sprintf("https://%s:%d%s", s.at(host), api.Port, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(resp.Body)
		t.Fatalf("GET %s of %s: %s %s %v", path, host, resp.Status, text, err)
	}
	return resp
}

// reached: what people and their tools see from outside. A certificate lets each do
// what its role says, under the person's name; Prometheus and a reader of the event
// stream get theirs; an alarm reaches the webhook once.
func (s *lightSite) reached(t *testing.T) {
	ann, bob := s.person(t, "ann", trust.Read), s.person(t, "bob", trust.Operate)

	before := s.holding(t, "address/public")
	// Only who leads has every host's report.
	metrics, err := io.ReadAll(s.get(t, ann, s.status(t).Leader, "/metrics", "text/plain").Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		fmt.Sprintf("mainstay_holding{host=%q,thing=%q} %d\n", before.Host, before.Thing, before.Generation),
		`mainstay_host_condition{condition="healthy",host="c4"} 1` + "\n", "mainstay_leader 1\n", "mainstay_lease_alive 1\n", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(string(metrics), line) {
			t.Errorf("/metrics lacks %q:\n%s", line, metrics)
		}
	}

	if out, err := s.lab.Run(s.ctx, "c1", "mainstay", "--server", s.at("c2"), "--cert", "/root/ann", "move", "public", "c1"); err == nil || !strings.Contains(err.Error(), "ann may not") {
		t.Errorf("who may read may move: %v\n%s", err, out)
	}
	to := s.voterBut(t, before.Host)
	stream := bufio.NewScanner(s.get(t, bob, "c2", "/v1/events", "text/event-stream").Body)
	s.run(t, "c1", "mainstay", "--server", s.at("c2"), "--cert", "/root/bob", "move", "public", to, "--wait", "2m")
	last, wished, moved := "", false, false
	for !moved && stream.Scan() { // ends with s.ctx at the latest
		id, isID := strings.CutPrefix(stream.Text(), "id: ")
		data, isData := strings.CutPrefix(stream.Text(), "data: ")
		var e fleet.Event
		switch {
		case isID && id <= last:
			t.Errorf("event %s comes after %s", id, last)
		case isID:
			last = id
		case isData:
			if err := json.Unmarshal([]byte(data), &e); err != nil || e.ID != last {
				t.Errorf("event %s: %v in %q", last, err, data)
			}
			wished = wished || strings.Contains(e.Text, "bob wishes it on "+to)
			moved = wished && e.Kind == "effect" && strings.Contains(e.Text, to+": claim address/public: done")
		}
	}
	if !moved {
		t.Errorf("the stream ends after %s (%v); it told of bob's wish: %t", last, stream.Err(), wished)
	}
	why := s.run(t, "c1", "mainstay", "why", "public")
	if !strings.Contains(why, "bob wishes it on "+to) {
		t.Errorf("why does not name who wished it:\n%s", why)
	}
	// What it says is decided again on any host, the leader or not.
	if _, rest, ok := strings.Cut(why, "mainstay replay "); ok {
		id, _, _ := strings.Cut(rest, ")")
		for _, m := range s.lab.Hosts {
			s.run(t, m.Name, "mainstay", "replay", id)
		}
	} else {
		t.Errorf("why names no World:\n%s", why)
	}
	// Whoever reads on from an id gets what came after it, and only that.
	var rest []fleet.Event
	if err := json.NewDecoder(s.get(t, ann, "c3", "/v1/events?after="+last, "application/json").Body).Decode(&rest); err != nil {
		t.Error(err)
	}
	for _, e := range rest {
		if e.ID <= last {
			t.Errorf("event %s is told again after %s", e.ID, last)
		}
	}

	h := s.holding(t, "service/solo")
	s.run(t, h.Host, "systemctl", "stop", "mainstay")
	s.rung(t, "host/"+h.Host, "its agent to be started again")
	s.run(t, h.Host, "systemctl", "start", "mainstay")
	s.await(t, "calm", s.settled)
}

// revoked: whom a new site file revokes is refused everywhere, and nobody else is. History
// tells who was given a certificate, and no new one is made under that name.
func (s *lightSite) revoked(t *testing.T) {
	if told := s.run(t, "c1", "mainstay", "events", "-n", "0"); !strings.Contains(told, "makes operator ann a certificate to read, good until ") {
		t.Errorf("history does not tell of ann's certificate:\n%s", told)
	}
	s.config.Extra += "operators: {revoked: [ann]}\n"
	s.put(t, "c1", "/root/new.yaml", []byte(s.lab.SiteFile(s.config)))
	s.run(t, "c1", "mainstay", "apply", "/root/new.yaml", "--yes")
	for _, m := range s.lab.Hosts {
		as := func(name string) (string, error) {
			return s.lab.Run(s.ctx, "c1", "mainstay", "--server", s.at(m.Name), "--cert", "/root/"+name, "status", "--local", "-o", "json")
		}
		s.eventually(t, m.Name+" to refuse ann", func() error {
			_, err := as("ann")
			if err != nil && strings.Contains(err.Error(), "refuses this certificate") {
				return nil
			}
			return errors.Join(errors.New("not refused"), err)
		})
		if out, err := as("bob"); err != nil && !strings.Contains(out, `"by"`) { // exit code 3: what it says is its own affair
			t.Errorf("%s refuses bob: %v", m.Name, err)
		}
	}
	if out, err := s.lab.Run(s.ctx, "c1", "mainstay", "token", "--operator", "ann", "--to", "/root/again"); err == nil || !strings.Contains(err.Error(), "revokes every certificate of ann") {
		t.Errorf("ann was given another one: %v\n%s", err, out)
	}
	s.await(t, "calm", s.settled)
}

// killed: the agent of the address's holder is killed. A client that asks all the
// while misses no answer: what the agent guards goes on without it until its lease
// ends, and it is back before.
func (s *lightSite) killed(t *testing.T) {
	before := s.status(t)
	host := find(before, "address/internal").Host
	log, session := s.patient(t), s.session(t)
	s.run(t, host, "systemctl", "kill", "-s", "KILL", "mainstay.service")
	s.told(t, host, "goes on with the stint")
	s.await(t, "calm", s.settled)
	s.eventually(t, "the client to have asked for longer than a lease and its round", func() error {
		if tries := log.Tries(); len(tries) == 0 || time.Since(tries[0].Begun) < 5*time.Second {
			return errors.New("not yet")
		}
		return nil
	})
	session.unbroken(t, false)
	s.unfailing(t, log)
	s.unmoved(t, before)
	s.once(t)
}
