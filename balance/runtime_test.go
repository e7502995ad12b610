package balance

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// TestCommands: what each route means in HAProxy's words.
func TestCommands(t *testing.T) {
	for _, c := range []struct {
		states string
		writer bool
		want   string // state of c1, c2, c3; "!" ends the sessions there
	}{
		{"ready ready ready", false, "ready ready ready"},
		{"ready out drain", false, "ready drain drain"},
		{"ready dead ready", false, "ready maint! ready"},
		// A writer: those before it must not be found first, those after it stand by.
		{"ready backup backup", true, "ready ready! ready!"},
		{"backup ready backup", true, "drain! ready ready!"},
		{"backup backup ready", true, "drain! drain! ready"},
		{"dead ready backup", true, "maint! ready ready!"},
		// Another was chosen because this one hangs: what waits there for ever is ended.
		{"out ready backup", true, "drain! ready ready!"},
		{"backup ready out", true, "drain! ready drain!"},
		// Nobody leads, and this host's own ear took the writer out: the stand-in behind it
		// takes over, and what it is given is not taken away again.
		{"out backup backup", true, "drain ready ready!"},
		{"backup backup out", true, "ready ready! drain"},
		{"out out backup", true, "drain drain ready"},
		{"backup out backup", true, "drain! drain ready"},
	} {
		var got [3]string
		for _, w := range commands(fleet.Face{Name: "db", Order: []string{"c1", "c2", "c3"}}, c.writer, routes("db", c.states).Servers["db"]) {
			if w.shut {
				w.state += "!"
			}
			got[w.server[len(w.server)-1]-'1'] = w.state
		}
		if diff := cmp.Diff(c.want, strings.Join(got[:], " ")); diff != "" {
			t.Errorf("%s: %s", c.states, diff)
		}
	}
}

// TestCommandsInOrder: a further writer's servers stand in an order of their own.
func TestCommandsInOrder(t *testing.T) {
	for _, c := range []struct{ states, want string }{
		{"backup backup ready", "ready! ready! ready"}, // c3 is the first
		{"ready backup backup", "ready ready! drain!"},
		{"backup ready backup", "drain! ready drain!"},
		{"ready backup out", "ready ready! drain!"},
		{"backup backup out", "ready ready! drain"},
	} {
		var got [3]string
		for _, w := range commands(fleet.Face{Name: "db-nova", Order: []string{"c3", "c1", "c2"}}, true, routes("db", c.states).Servers["db"]) {
			if w.shut {
				w.state += "!"
			}
			got[w.server[len(w.server)-1]-'1'] = w.state
		}
		if diff := cmp.Diff(c.want, strings.Join(got[:], " ")); diff != "" {
			t.Errorf("%s: %s", c.states, diff)
		}
	}
}

// TestAnswers: each complaint is told of the server that it is about.
func TestAnswers(t *testing.T) {
	s := startSite(t)
	r := routes("web", "ready ready ready")
	r.Servers["web"]["c9"] = fleet.RouteOut
	r.Servers["web"]["c2"] = fleet.RouteOut
	r.Servers["unknown"] = map[string]fleet.Route{"c1": fleet.RouteOut} // not a service of this site: none of ours
	err := s.Apply(t.Context(), r)
	if err == nil || err.Error() != "set HAProxy's server web/c9 to drain: No such server." {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]string{"web/c1": "ready", "web/c2": "out", "web/c3": "ready"}, s.told); diff != "" {
		t.Error(diff)
	}
	if got := s.statesOf("web"); got != "ready drain ready" {
		t.Error(got)
	}
}

// statesOf asks HAProxy how it holds c1, c2 and c3.
func (s *site) statesOf(service string) string {
	s.t.Helper()
	text, err := s.ask(s.t.Context(), s.socket(), "show servers state "+service)
	s.must(err)
	var out []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 || f[0] == "#" {
			continue
		}
		out = append(out, map[string]string{"0": ready, "1": maint, "8": drain}[f[6]])
	}
	return strings.Join(out, " ")
}

// client is one that keeps its connection: a raw one, so that a request that
// was sent and never answered cannot hide behind a second try.
type client struct {
	addr string
	c    net.Conn
	r    *bufio.Reader
}

func (k *client) close() {
	if k.c != nil {
		k.c.Close()
		k.c = nil
	}
}

// get sends one request and returns the first word of the answer.
func (k *client) get(path string) (string, error) {
	if k.c == nil {
		c, err := net.Dial("tcp", k.addr)
		if err != nil {
			return "", fmt.Errorf("connect: %w", err)
		}
		k.c, k.r = c, bufio.NewReader(c)
	}
	if _, err := fmt.Fprintf(k.c, "GET %s HTTP/1.1\r\nHost: site\r\n\r\n", path); err != nil {
		return "", fmt.Errorf("send: %w", err)
	}
	resp, err := http.ReadResponse(k.r, nil)
	if err != nil {
		return "", fmt.Errorf("no answer: %w", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("half an answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	if resp.Close {
		k.close()
	}
	word, _, _ := strings.Cut(string(body), " ")
	return word, nil
}

func (s *site) client(service string) *client {
	_, addr, _ := strings.Cut(s.at(service, ""), "//")
	k := &client{addr: addr}
	s.t.Cleanup(k.close)
	return k
}

// spread says which hosts answer requests on the address internal.
func (s *site) spread(keep *client) string {
	s.t.Helper()
	seen := map[string]bool{}
	for range 12 {
		k := keep
		if k == nil {
			k = s.client("web")
		}
		by, err := k.get("/")
		s.must(err)
		seen[by] = true
		if keep == nil {
			k.close()
		}
	}
	return strings.Join(fleet.Sorted(seen), " ")
}

// TestApply: who is ready takes requests, whoever is drained or out finishes what
// it has, who is dead loses it at once.
func TestApply(t *testing.T) {
	s := startSite(t)
	apply := func(states string) { t.Helper(); s.must(s.Apply(t.Context(), routes("web", states))) }
	apply("ready ready ready")
	if got := s.spread(nil); got != "c1 c2 c3" {
		t.Errorf("ready: %s", got)
	}
	for _, route := range []string{"drain", "out"} {
		apply(route + " dead dead")
		s.must(s.Apply(t.Context(), routes("web", "ready dead dead")))
		slow := s.slow("c1")
		keep := s.client("web")
		if by, err := keep.get("/"); err != nil || by != "c1" {
			t.Fatal(by, err)
		}
		apply(route + " ready ready")
		if got := s.spread(nil) + "; " + s.spread(keep); got != "c2 c3; c2 c3" {
			t.Errorf("%s: %s", route, got)
		}
		close(s.hosts["c1"].gate)
		if err := <-slow; err != nil {
			t.Errorf("%s: a slow request on c1: %v", route, err)
		}
		s.hosts["c1"].gate = make(chan struct{})
		apply("ready ready ready")
		if got := s.spread(nil); got != "c1 c2 c3" {
			t.Errorf("back from %s: %s", route, got)
		}
	}
	apply("ready dead dead")
	slow := s.slow("c1")
	apply("dead ready ready")
	if err := <-slow; err == nil {
		t.Error("a request on a dead server was answered")
	}
	if got := s.spread(nil); got != "c2 c3" {
		t.Errorf("dead: %s", got)
	}
	apply("ready ready ready")
	if got := s.spread(nil); got != "c1 c2 c3" {
		t.Errorf("back from dead: %s", got)
	}
}

// slow begins a request that the host answers only when its gate is closed, and
// returns once the host has it.
func (s *site) slow(host string) <-chan error {
	s.t.Helper()
	h := s.hosts[host]
	before := h.waiting.Load()
	out := make(chan error, 1)
	k := s.client("web")
	go func() {
		by, err := k.get("/slow")
		if err == nil && by != host {
			err = errors.New("answered by " + by)
		}
		out <- err
	}()
	s.until("the request to reach "+host, func() error {
		if h.waiting.Load() == before {
			return errors.New("it has not")
		}
		return nil
	})
	return out
}

// TestNeverNone: while a client asks on and on, the one server that takes traffic
// is changed again and again, and no request fails.
func TestNeverNone(t *testing.T) {
	s := startSite(t)
	load := s.load(false)
	for range 10 {
		for _, states := range []string{"ready out dead", "dead ready out", "out dead ready", "ready dead dead", "out ready out"} {
			s.must(s.Apply(t.Context(), routes("web", strings.ReplaceAll(states, "dead", "drain"))))
			load.some()
		}
	}
	if n, lost := load.stop(); lost != nil {
		t.Errorf("of %d requests: %v", n, lost)
	}
}

// TestWriter: one server takes the writes, wherever it stands in the order, and
// nobody goes on writing to a stand-in.
func TestWriter(t *testing.T) {
	s := startSite(t)
	apply := func(states string) { t.Helper(); s.must(s.Apply(t.Context(), routes("db", states))) }
	at := func(want string) *session {
		t.Helper()
		var first *session
		for range 4 {
			d, err := s.dial()
			if err != nil || d.name != want {
				t.Fatalf("writes go to %q, not to %s: %v", d.name, want, err)
			}
			first = d
		}
		return first
	}
	apply("backup ready backup")
	two := at("c2")
	// The ear of this host misses beats of c2; nobody has decided anything yet.
	apply("backup out backup")
	one := at("c3")
	if err := two.works(); err != nil {
		t.Errorf("a session on a suspect server: %v", err)
	}
	// It was no more than that: the writer is c2 again, and c2 alone.
	apply("backup ready backup")
	at("c2")
	if one.works() == nil {
		t.Error("two writers: a session on the stand-in c3 goes on")
	}
	if err := two.works(); err != nil {
		t.Errorf("a session on the writer: %v", err)
	}
	apply("backup dead ready")
	three := at("c3")
	if two.works() == nil {
		t.Error("a session on a dead server goes on")
	}
	apply("backup backup ready")
	at("c3")
	if err := three.works(); err != nil {
		t.Errorf("a session on the writer: %v", err)
	}
	apply("ready backup out")
	at("c1")
	if three.works() == nil {
		t.Error("a session on a server that hangs goes on, although another takes the writes")
	}
}

// TestRefuses: while nobody has said anything yet, whoever refuses a connection
// costs no request, and a stand-in takes a writer's place.
func TestRefuses(t *testing.T) {
	s := startSite(t)
	r := routes("db", "ready backup backup")
	r.Servers["web"] = routes("web", "ready ready ready").Servers["web"]
	s.must(s.Apply(t.Context(), r))
	s.hosts["c1"].db.Close()
	s.hosts["c1"].web.Close()
	for range 5 {
		if d, err := s.dial(); err != nil || d.name != "c2" {
			t.Fatal(d, err)
		}
	}
	if got := s.spread(nil); got != "c2 c3" {
		t.Error(got)
	}
}

// TestOverloaded: servers that take no connection at present stay in the rotation;
// it is not for HAProxy to take out the last.
func TestOverloaded(t *testing.T) {
	s := startSite(t)
	s.must(s.Apply(t.Context(), routes("web", "ready ready ready")))
	web, _ := s.spec.Service("web")
	for _, h := range s.hosts {
		h.web.Close()
	}
	k := s.client("web")
	if _, err := k.get("/"); err == nil {
		t.Error("somebody answers")
	}
	if got := s.statesOf("web"); got != "ready ready ready" {
		t.Error(got)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", s.spec.Hosts[1].Addresses["management"], web.Listen.Backend))
	s.must(err)
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "c2") }))
	s.until("the one that is back to be found", func() error {
		_, err := s.client("web").get("/")
		return err
	})
}

// TestRestart: a HAProxy that was started anew begins with the states that it had,
// and is told everything again.
func TestRestart(t *testing.T) {
	s := startSite(t)
	r := routes("web", "out ready dead")
	r.Servers["db"] = routes("db", "backup ready backup").Servers["db"]
	s.must(s.Apply(t.Context(), r))
	states := func() string { return s.statesOf("web") + "; " + s.statesOf("db") }
	const want = "drain ready maint; drain ready ready"
	if got := states(); got != want {
		t.Fatal(got)
	}
	s.stop(syscall.SIGKILL)
	if err := s.Apply(t.Context(), r); err == nil {
		t.Error("nobody was there to be told")
	}
	s.until("the workers to go", func() error { // they notice that their master is gone
		if _, err := net.Dial("unix", s.socket()); err == nil {
			return errors.New("one still answers")
		}
		return nil
	})
	s.start()
	if got := states(); got != want {
		t.Errorf("started with %s", got)
	}
	s.stop(syscall.SIGTERM)
	s.must(os.Remove(s.states()))
	s.start()
	if got := states(); got != "ready ready ready; ready ready ready" {
		t.Errorf("started without memory with %s", got)
	}
	s.must(s.Apply(t.Context(), r))
	if got := states(); got != want {
		t.Errorf("told %s", got)
	}
}

// load is clients that ask without pause, over a new connection each time or over
// one that they keep.
type load struct {
	n    atomic.Int64
	end  atomic.Bool
	wait sync.WaitGroup
	mu   sync.Mutex
	lost error
	s    *site
}

func (s *site) load(keep bool) *load {
	l := &load{s: s}
	for range 4 {
		l.wait.Go(func() {
			k := s.client("web")
			for !l.end.Load() {
				if _, err := k.get("/"); err != nil {
					l.mu.Lock()
					l.lost = errors.Join(l.lost, err)
					l.mu.Unlock()
					k.close()
				}
				if !keep {
					k.close()
				}
				l.n.Add(1)
			}
		})
	}
	l.some()
	return l
}

// some waits for a few more requests.
func (l *load) some() {
	l.s.t.Helper()
	from := l.n.Load()
	l.s.until("requests to be answered", func() error {
		if l.n.Load() < from+20 {
			return errors.New("too few")
		}
		return nil
	})
}

func (l *load) stop() (int64, error) {
	l.end.Store(true)
	l.wait.Wait()
	return l.n.Load(), l.lost
}

// TestReload: a reload under load loses no request, and the servers' states
// survive it.
func TestReload(t *testing.T) {
	for name, keep := range map[string]bool{"new connections": false, "kept connections": true} {
		t.Run(name, func(t *testing.T) {
			s := startSite(t)
			s.must(s.Apply(t.Context(), routes("web", "ready dead dead")))
			slow := s.slow("c1")
			s.must(s.Apply(t.Context(), routes("web", "ready out ready")))
			load := s.load(keep)
			for i := range 3 {
				before := s.process
				s.spec.Site = fmt.Sprintf("renamed %d", i)
				s.must(s.Configure(t.Context(), s.spec))
				if s.process == before {
					t.Error("it is the same process")
				}
				if got := s.statesOf("web"); got != "ready drain ready" {
					t.Errorf("after the reload: %s", got)
				}
				load.some()
			}
			before := s.process
			s.must(s.Configure(t.Context(), s.spec))
			if s.process != before {
				t.Error("reloaded although nothing changed")
			}
			served := s.hosts["c2"].served.Load()
			close(s.hosts["c1"].gate)
			if err := <-slow; err != nil {
				t.Errorf("a slow request over three reloads: %v", err)
			}
			n, lost := load.stop()
			if lost != nil {
				t.Errorf("of %d requests: %v", n, lost)
			}
			t.Logf("%d requests", n)
			if now := s.hosts["c2"].served.Load(); now != served || served != 0 {
				t.Errorf("c2 is out and served %d requests", now)
			}
		})
	}
}

// TestReloadFromFile: the worker after a reload does not wait to be told again.
func TestReloadFromFile(t *testing.T) {
	s := startSite(t)
	s.must(s.Apply(t.Context(), routes("web", "ready out ready")))
	_, err := s.ask(t.Context(), s.socket(), "set server web/c1 state maint") // an operator, by hand
	s.must(err)
	s.HAProxy = New(s.cfg) // an agent that was restarted knows no table yet
	s.spec.Site = "renamed"
	s.must(s.Configure(t.Context(), s.spec))
	if got := s.statesOf("web"); got != "maint drain ready" {
		t.Error(got)
	}
}

// TestFormerWorker: a reload leaves a worker behind for each connection that
// lasts; who dies then, dies for that one too.
func TestFormerWorker(t *testing.T) {
	s := startSite(t)
	r := func(states string) fleet.Routes { return routes("db", states) }
	s.must(s.Apply(t.Context(), r("ready backup backup")))
	d, err := s.dial()
	s.must(err)
	s.spec.Site = "renamed"
	s.must(s.Configure(t.Context(), s.spec))
	s.must(d.works())
	s.must(s.Apply(t.Context(), r("out backup backup")))
	s.must(d.works())
	s.must(s.Apply(t.Context(), r("dead ready backup")))
	if d.works() == nil {
		t.Error("a session on a dead server goes on in the former worker")
	}
}

// TestReloadFails: a configuration that HAProxy finds right and yet cannot take
// leaves the old one in force, also for the next start.
func TestReloadFails(t *testing.T) {
	s := startSite(t)
	old, err := os.ReadFile(s.file())
	s.must(err)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	defer taken.Close()
	dir := filepath.Join(s.cfg.Dir, "haproxy.d")
	s.must(os.Mkdir(dir, 0o755))
	s.must(os.WriteFile(filepath.Join(dir, "a.cfg"), []byte("listen a\n    bind "+taken.Addr().String()+"\n"), 0o644))
	ctx, cancel := context.WithCancel(t.Context())
	reload := s.cfg.Reload
	s.cfg.Reload = func(ctx context.Context) error {
		err := reload(ctx)
		go s.await("cannot bind", cancel)
		return err
	}
	if err := s.Configure(ctx, s.spec); err == nil || !strings.Contains(err.Error(), "has not taken the new configuration") {
		t.Error(err)
	}
	if now, err := os.ReadFile(s.file()); err != nil || string(now) != string(old) {
		t.Errorf("the old configuration is gone: %v", err)
	}
	if got := s.spread(nil); got != "c1 c2 c3" {
		t.Error(got)
	}
}

// await calls then once HAProxy has said something.
func (s *site) await(text string, then func()) {
	s.until("HAProxy to say "+text, func() error {
		if !strings.Contains(s.said.String(), text) {
			return errors.New("it has not")
		}
		return nil
	})
	then()
}

// TestFinished: the answers of this host's own server are counted, those of others
// are not.
func TestFinished(t *testing.T) {
	s := startSite(t)
	k := s.client("web")
	for _, step := range []struct {
		states string
		want   uint64
	}{{"dead ready dead", 3}, {"ready dead dead", 3}, {"dead ready dead", 6}} {
		s.must(s.Apply(t.Context(), routes("web", step.states)))
		for range 3 {
			_, err := k.get("/")
			s.must(err)
		}
		if n, ok := s.Finished(t.Context(), "web"); n != step.want || !ok {
			t.Errorf("%s: %d %v, not %d", step.states, n, ok, step.want)
		}
	}
	for _, none := range []string{"db", "unknown"} {
		if n, ok := s.Finished(t.Context(), none); ok {
			t.Errorf("%s: %d", none, n)
		}
	}
}

// TestRenewedCertificate: a certificate that was renewed under its own name is shown
// after the next Configure, though no line of the configuration names another.
func TestRenewedCertificate(t *testing.T) {
	s := startSite(t)
	shown := func() string {
		url := strings.TrimPrefix(s.at("secure", ""), "https://")
		c, err := tls.Dial("tcp", url, &tls.Config{InsecureSkipVerify: true})
		s.must(err)
		defer c.Close()
		return string(c.ConnectionState().PeerCertificates[0].Raw)
	}
	before := shown()
	a, _ := s.spec.Address("internal")
	certificate(t, s.spec.TLS.Certificate, a.Addr)
	s.must(s.Configure(t.Context(), s.spec))
	if shown() == before {
		t.Error("HAProxy goes on with the old certificate")
	}
}

// TestBinds: TLS ends at HAProxy; an address is bound in IPv4 and IPv6, also one
// that is on another host at present.
func TestBinds(t *testing.T) {
	s := startSite(t)
	web := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	v, _ := s.spec.Service("web")
	for url, want := range map[string]string{
		s.at("web", "/"):    "http",
		s.at("secure", "/"): "https",
		"http://" + netip.AddrPortFrom(netip.IPv6Loopback(), uint16(v.Listen.Port)).String() + "/": "http",
	} {
		resp, err := web.Get(url)
		s.must(err)
		body, err := io.ReadAll(resp.Body)
		s.must(err)
		resp.Body.Close()
		if _, proto, _ := strings.Cut(string(body), " "); proto != want {
			t.Errorf("%s: the server was told %q", url, body)
		}
	}
	tables := ""
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(name)
		s.must(err)
		tables += string(text)
	}
	for _, addr := range []string{"4D7100CB", "B80D0120000000000000000077000000"} { // 203.0.113.77, 2001:db8::77
		if want := fmt.Sprintf("%s:%04X ", addr, v.Listen.Port); !strings.Contains(tables, want) {
			t.Errorf("nobody listens on %s", want)
		}
	}
}

// TestNothingBehind: a site may have nothing behind HAProxy yet; addresses that want
// its company need one that runs all the same.
func TestNothingBehind(t *testing.T) {
	s := newSite(t)
	s.spec.Services = nil
	s.must(s.Configure(t.Context(), s.spec))
	s.start()
	s.stop(syscall.SIGTERM)
}

// TestBusy: what does not answer is given up within a bound, and with ctx.
func TestBusy(t *testing.T) {
	s := newSite(t)
	l, err := net.Listen("unix", s.socket())
	s.must(err)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			cancel()
			_, _ = l.Accept() // until the test ends
		}
	}()
	if err := s.Apply(ctx, routes("web", "ready ready ready")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// BenchmarkApply stands in the path of every failover: one dead host's servers in
// twenty services, another's in the rotation again.
func BenchmarkApply(b *testing.B) {
	s := startSite(b)
	web, _ := s.spec.Service("web")
	for i := range 18 {
		v := web
		v.Name, v.Listen.Port = fmt.Sprintf("web%d", i), freePort(b)
		s.spec.Services = append(s.spec.Services, v)
	}
	s.must(s.Configure(b.Context(), s.spec))
	table := func(web, db string) fleet.Routes {
		r := routes("db", db)
		for _, v := range s.spec.Services {
			if v.Name != "db" {
				r.Servers[v.Name] = routes(v.Name, web).Servers[v.Name]
			}
		}
		return r
	}
	tables := []fleet.Routes{table("dead ready ready", "dead ready backup"), table("ready ready ready", "backup ready backup")}
	for n := 0; b.Loop(); n++ {
		s.must(s.Apply(b.Context(), tables[n%2]))
	}
}

// BenchmarkApplyNothing is what watching for a restarted HAProxy costs.
func BenchmarkApplyNothing(b *testing.B) {
	s := startSite(b)
	r := routes("web", "ready ready ready")
	for b.Loop() {
		s.must(s.Apply(b.Context(), r))
	}
}
