package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/trust"
)

// memberServices are the light site's: a web server that answers by itself on each
// host, and one active/passive service, of which the witness hears.
const (
	memberServices = benchServices + `  solo:
    kind: systemd
    mode: active/passive
    why: a witness outside hears who runs it, and two would be one too many
    units: [solo.service]
    hosts: [c1, c2, c3]
`
	soloUnit = `[Service]
Type=exec
RuntimeDirectory=solo
ExecStart=/bin/bash -c 'echo runs >/run/solo/copy; run="%%H $$$$ since $$EPOCHSECONDS"; while :; do echo "$$run" >/dev/udp/%s/%d; sleep 0.1; done'
Restart=always
`
	witnessPort = 9999
)

// TestMembership lets a site live: hosts and voters come and go, its store is saved,
// lost and brought back, each by an operator's one command. One lab serves all steps
// in their order. All the while a client is to be served, the witness hears of no
// exclusive service that ran twice, and no generation falls.
func TestMembership(t *testing.T) {
	if testing.Short() {
		t.Skip("boots four hosts")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	s := newLightSite(ctx, t, "member", "c4")

	t.Run("a host is added", func(t *testing.T) { s.added(t, "c4") })
	t.Run("an agent is killed and nobody notices", func(t *testing.T) { s.killed(t) })
	t.Run("people and their tools reach it from outside", func(t *testing.T) { s.reached(t) })
	t.Run("an operator's certificate is revoked", func(t *testing.T) { s.revoked(t) })
	t.Run("the program is replaced host by host", func(t *testing.T) { s.upgraded(t) })
	t.Run("the site gets a new file", func(t *testing.T) { s.applied(t) })
	t.Run("stories of scenarios, as sim plays them", func(t *testing.T) { s.stories(t, "s3-killed-service", "h09-frozen-store", "h02-isolated-holder") })
	t.Run("a host shuts down and hands over first", func(t *testing.T) { s.shutDown(t) })
	t.Run("a dead voter is replaced by a new machine", func(t *testing.T) { s.replaced(t, "c3") })
	t.Run("what a dead host ran starts elsewhere by an oath", func(t *testing.T) { s.sworn(t) })
	t.Run("a lost store is restored from a backup", func(t *testing.T) { s.restored(t) })
	t.Run("a quorum lost for ever is recovered", func(t *testing.T) { s.recovered(t) })
	t.Run("a host leaves", func(t *testing.T) { s.removed(t, "c4") })
}

// lightSite is a site without a cloud, with a witness and a record of generations.
type lightSite struct {
	*site
	config  SiteConfig
	witness *witness
	pager   *pager
	next    string // a program of another version
}

// newLightSite brings up four hosts and makes them a site; those named later stand
// in its file and do not belong to it yet.
func newLightSite(ctx context.Context, t *testing.T, name string, later ...string) *lightSite {
	t.Helper()
	binary := build(ctx, t, "one")
	l := up(t, Config{Name: name, Hosts: []Host{{Name: "c1"}, {Name: "c2"}, {Name: "c3"}, {Name: "c4"}}, Disk: 2 << 30})
	s := &lightSite{
		site: &site{ctx: ctx, lab: l, binary: binary, url: fmt.Sprintf("http://%s:5000/", l.Virtual()["internal"])},
		// A lease that a busy machine does not end by itself.
		config: SiteConfig{Binary: binary, Timing: "wide", Services: memberServices, Later: later}, next: build(ctx, t, "two"),
	}
	s.witness, s.pager = newWitness(t, l), newPager(t, l)
	s.config.Extra = fmt.Sprintf("alarms: [%q]\n", s.pager.url)
	for _, m := range l.Hosts {
		s.furnish(t, m.Name)
	}
	if err := l.Deploy(ctx, s.config, func(text string) { t.Log(text) }); err != nil {
		t.Fatal(err)
	}
	s.await(t, "the site in service", s.without(later...))
	s.generations(t)
	return s
}

// deployServers makes a site of two servers, c1 and c2, and of c's arbiters, with the
// witness of its one service, and hears on the wire who speaks for its addresses.
func deployServers(ctx context.Context, t *testing.T, name string, c SiteConfig) *lightSite {
	t.Helper()
	hosts := []Host{{Name: "c1"}, {Name: "c2"}}
	for _, a := range c.Arbiters {
		hosts = append(hosts, Host{Name: a})
	}
	c.Binary = build(ctx, t, "one")
	c.Services = strings.Replace(memberServices, "[c1, c2, c3]", "[c1, c2]", 1)
	l := up(t, Config{Name: name, Hosts: hosts, Disk: 2 << 30})
	s := &lightSite{site: &site{ctx: ctx, lab: l, binary: c.Binary}, witness: newWitness(t, l), config: c}
	for _, m := range l.Hosts {
		s.furnish(t, m.Name)
	}
	if err := l.Deploy(ctx, c, func(text string) { t.Log(text) }); err != nil {
		t.Fatal(err)
	}
	wire, err := l.Wire(slices.Collect(maps.Values(l.Virtual()))...)
	if err != nil {
		t.Fatal(err)
	}
	s.wire = wire
	t.Cleanup(func() {
		if err := wire.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// furnish puts on a host what it has of the services.
func (s *lightSite) furnish(t *testing.T, host string) {
	t.Helper()
	if err := s.lab.Install(host, s.furniture()); err != nil {
		t.Fatal(err)
	}
	if err := s.lab.InstallSite(host, s.config); err != nil {
		t.Fatal(err)
	}
	s.run(t, host, "systemctl", "daemon-reload")
}

func (s *lightSite) furniture() map[string]File {
	return map[string]File{
		"/etc/systemd/system/" + benchUnit: {Data: []byte(benchWebUnit)},
		benchConfig:                        {Data: []byte(benchWeb)},
		"/etc/systemd/system/solo.service": {Data: fmt.Appendf(nil, soloUnit, s.lab.Client.Addresses["management"].V4.Addr(), witnessPort)},
	}
}

// witness hears on the client's host who runs the active/passive service.
type witness struct {
	mu   sync.Mutex
	runs []string // "HOST PID since SECOND" (a new machine's PIDs begin anew), each where it was first heard
	err  error
}

func newWitness(t *testing.T, l *Lab) *witness {
	w := &witness{}
	var conn *net.UDPConn
	err := inNetns(l.netns(Client), func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: witnessPort})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 100)
		for {
			n, _, err := conn.ReadFromUDP(b)
			if err != nil {
				return
			}
			w.hear(strings.TrimSpace(string(b[:n])))
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return w
}

// hear notes a copy's word: one that speaks after another has begun was not stopped
// before that.
func (w *witness) hear(run string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.Index(w.runs, run)
	switch {
	case i < 0:
		w.runs = append(w.runs, run)
	case i < len(w.runs)-1 && w.err == nil:
		w.err = fmt.Errorf("%s still ran when %s had begun", run, strings.Join(w.runs[i+1:], ", "))
	}
}

// TestWitness: what would be two copies at once is noticed.
func TestWitness(t *testing.T) {
	w := &witness{}
	for _, run := range []string{"c1 5", "c1 5", "c2 7", "c2 7"} {
		w.hear(run)
	}
	if w.err != nil {
		t.Error(w.err)
	}
	if w.hear("c1 5"); w.err == nil {
		t.Error("a copy that outlived its successor's start was not noticed")
	}
}

// once fails if the service ever ran twice, and waits until it runs.
func (s *lightSite) once(t *testing.T) {
	t.Helper()
	s.witness.mu.Lock()
	defer s.witness.mu.Unlock()
	if s.witness.err != nil {
		t.Error(s.witness.err)
	}
	if len(s.witness.runs) == 0 {
		t.Error("the witness has heard nobody")
	}
	t.Logf("ran so far: %s", strings.Join(s.witness.runs, ", "))
}

// generations looks again and again, until the test's end, whether a generation in
// effect is lower than one that was before.
func (s *site) generations(t *testing.T) {
	ctx, cancel := context.WithCancel(s.ctx)
	highest := map[string]uint64{}
	epoch := uint64(0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.Tick(300 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick:
			}
			for _, m := range s.lab.Hosts {
				c, err := s.lab.APIClient(m.Name)
				if err != nil {
					continue
				}
				once, stop := context.WithTimeout(ctx, time.Second)
				st, err := c.LocalStatus(once)
				stop()
				c.Close()
				if err != nil || st.View != "leader" || st.Epoch < epoch {
					continue
				}
				epoch = st.Epoch
				for _, h := range st.Holdings {
					if h.Works && h.Generation < highest[h.Thing] {
						t.Errorf("%s works under generation %d, and did under %d before", h.Thing, h.Generation, highest[h.Thing])
					}
					if h.Works {
						highest[h.Thing] = max(h.Generation, highest[h.Thing])
					}
				}
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if len(highest) == 0 {
			t.Error("no leader's view was ever seen")
		}
		t.Logf("generations at the end: %v", highest)
	})
}

// join lets a host join with a token and start, and expects what mainstay join says.
func (s *lightSite) join(t *testing.T, host, token string, more ...string) (said string, err error) {
	t.Helper()
	var out bytes.Buffer
	argv := append([]string{"mainstay", "join", s.at("c1"), "--host", host}, more...)
	err = s.lab.Exec(s.ctx, host, argv, strings.NewReader(token), &out, &out)
	return out.String(), err
}

func (s *lightSite) at(host string) string {
	for _, m := range s.lab.Hosts {
		if m.Name == host {
			return m.Addresses["management"].V4.Addr().String()
		}
	}
	return ""
}

// refused expects a token not to be taken, with these words.
func (s *lightSite) refused(t *testing.T, host, token, words string, more ...string) {
	t.Helper()
	said, err := s.join(t, host, token, more...)
	if err == nil || !strings.Contains(said, words) {
		t.Errorf("join of %s: %v, and no word of %q in:\n%s", host, err, words, said)
	}
}

func (s *lightSite) token(t *testing.T, argv ...string) string {
	t.Helper()
	return strings.TrimSpace(s.run(t, "c1", append([]string{"mainstay", "token"}, argv...)...))
}

func (s *lightSite) added(t *testing.T, host string) {
	log := s.watch(t)
	dir, err := s.lab.HostPath("c1")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := trust.LoadCA(filepath.Join(dir, "etc/mainstay/tls"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := trust.NewCA("other", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	unknown, _ := ca.NewToken(time.Now(), time.Hour)
	foreign, _ := other.NewToken(time.Now(), time.Hour)
	good := s.token(t)
	s.refused(t, host, good[:len(good)-1], "paste it again")
	s.refused(t, host, foreign, "not the site that made this token")
	s.refused(t, host, unknown, "no such token")
	s.refused(t, host, s.token(t, "--valid", "10ms"), "expired")
	if said, err := s.join(t, host, good); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	s.refused(t, host, good, "used already", "--config-dir", "/tmp/again", "--state-dir", "/tmp/again")
	s.enable(t, host)
	s.await(t, host+" in service", s.settled)
	s.served(t, log)
	s.once(t)
}

func (s *lightSite) replaced(t *testing.T, host string) {
	log := s.watch(t)
	if out, err := s.lab.Run(s.ctx, "c1", "mainstay", "voters", "replace", host, host); err == nil || !strings.Contains(err.Error(), "it is not dead") {
		t.Errorf("a voter that lives may be replaced: %v\n%s", err, out)
	}
	if s.holding(t, "service/solo").Host == host { // else its fence comes in the midst of the new one's way in
		s.run(t, "c1", "mainstay", "move", "solo", "c2", "--wait", "2m")
	}
	s.deed(t)(s.lab.Renew(s.ctx, host, s.furniture()))
	s.furnish(t, host)
	// A machine with an empty disk must not take a place in which another has voted.
	s.refused(t, host, s.token(t), "mainstay voters replace "+host+" "+host)
	s.back(t, host)
	s.await(t, host+" in service", s.settled)
	s.served(t, log)
	s.once(t)
}

// back makes a renewed machine the voter that it replaces: one command there, one
// on the site.
func (s *lightSite) back(t *testing.T, host string) {
	t.Helper()
	var answer api.VoterAnswer
	var out string
	if err := until(s.ctx, siteBound, func() (err error) { // refused while the former was heard a moment ago
		out, err = s.lab.Run(s.ctx, "c1", "mainstay", "voters", "replace", host, host, "-o", "json")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Token == "" {
		t.Fatalf("no token in %s (%v)", out, err)
	}
	if said, err := s.join(t, host, answer.Token); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	s.enable(t, host)
}

// enable lets a host's agent run, also after a power cut: what systemd writes for
// that is not synced by itself.
func (s *lightSite) enable(t *testing.T, host string) {
	t.Helper()
	s.run(t, host, "systemctl", "enable", "--now", "mainstay")
	s.run(t, host, "sync")
}

// sworn cuts the power of the host that runs the service, BMC and all: no proof
// is possible, and only a person's word starts it elsewhere.
func (s *lightSite) sworn(t *testing.T) {
	h := s.holding(t, "service/solo")
	if h.Host == "c1" { // where the test's operator sits
		s.run(t, "c1", "mainstay", "move", "solo", "c2", "--wait", "2m")
		h = s.holding(t, "service/solo")
	}
	log := s.watch(t)
	s.deed(t)(s.lab.Kill(s.ctx, h.Host))
	s.awaitFrom(t, "c1", "the wait for a proof, with its command", func(st api.Status) bool {
		for _, w := range st.Waits {
			if w.About == h.Thing && strings.Contains(w.Help, "mainstay recover oath "+h.Host) {
				return true
			}
		}
		return false
	})
	if now := find(s.status(t), h.Thing); now.Host != h.Host {
		t.Errorf("%s went to %s without a proof", h.Thing, now.Host)
	}
	err := until(s.ctx, siteBound, func() error { // refused while it was heard a moment ago
		_, err := s.lab.Run(s.ctx, "c1", "mainstay", "recover", "oath", h.Host, "--i-have-seen-that-it-is-off", "its cord is in my hand")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.awaitFrom(t, "c1", "the service elsewhere", func(st api.Status) bool {
		now := find(st, h.Thing)
		return now.Host != h.Host && now.Works
	})
	s.served(t, log)
	s.deed(t)(s.lab.Start(s.ctx, h.Host))
	s.await(t, h.Host+" back in service", s.settled)
	s.once(t)
}

const saved = "/root/mainstay.backup"

// restored loses every store while the agents run on, and goes on from a backup
// that is older than what the hosts do.
func (s *lightSite) restored(t *testing.T) {
	s.run(t, "c1", "mainstay", "backup", saved)
	for _, name := range []string{"internal", "solo"} {
		h := find(s.status(t), "address/"+name)
		if name == "solo" {
			h = find(s.status(t), "service/"+name)
		}
		to := "c2"
		if h.Host == to {
			to = "c3"
		}
		s.run(t, "c1", "mainstay", "move", name, to, "--wait", "3m")
	}
	s.await(t, "calm", s.settled)
	before := map[string]api.HoldingStatus{}
	for _, h := range s.status(t).Holdings {
		before[h.Thing] = h
	}
	log := s.watch(t)
	voters := []string{"c1", "c2", "c3"}
	for _, host := range voters {
		s.run(t, host, "systemctl", "stop", "mainstay-quorum")
	}
	for _, host := range voters {
		s.run(t, host, "rm", "-r", "/var/lib/mainstay/store")
	}
	s.run(t, "c1", "mainstay", "restore", saved)
	s.run(t, "c1", "systemctl", "start", "mainstay-quorum")
	for _, host := range voters[1:] {
		var token string
		if err := until(s.ctx, siteBound, func() (err error) {
			token, err = s.lab.Run(s.ctx, "c1", "mainstay", "token")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if said, err := s.join(t, host, token); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		s.run(t, host, "systemctl", "start", "mainstay-quorum")
	}
	s.await(t, "calm", s.settled)
	gap := s.served(t, log)
	for _, h := range s.status(t).Holdings {
		was := before[h.Thing]
		if h.Host != was.Host || h.Generation <= was.Generation {
			t.Errorf("%s was on %s (%d), and is on %s (%d)", h.Thing, was.Host, was.Generation, h.Host, h.Generation)
		}
	}
	// No lease needs a store: the address stood all the time.
	if bound := 5 * time.Second; gap > bound {
		t.Errorf("the client was not served for %v", gap)
	}
	s.once(t)
}

// recovered loses two of three voters for ever.
func (s *lightSite) recovered(t *testing.T) {
	lost := []string{"c2", "c3"}
	for _, host := range lost {
		s.deed(t)(s.lab.Kill(s.ctx, host))
	}
	if out, err := s.lab.Run(s.ctx, "c1", "mainstay", "token"); err == nil {
		t.Errorf("one voter of three gave a token: %s", out)
	}
	s.run(t, "c1", "systemctl", "stop", "mainstay-quorum")
	if out, err := s.lab.Run(s.ctx, "c1", "mainstay", "recover", "quorum"); err == nil {
		t.Errorf("recovered without an oath: %s", out)
	}
	s.run(t, "c1", "mainstay", "recover", "quorum", "--the-others-are-gone", "c2 and c3 burnt")
	s.run(t, "c1", "systemctl", "start", "mainstay-quorum")
	s.awaitFrom(t, "c1", "c1 to lead alone", func(st api.Status) bool { return st.View == "leader" })
	for i, host := range lost {
		s.deed(t)(s.lab.Renew(s.ctx, host, s.furniture()))
		s.furnish(t, host)
		s.back(t, host)
		s.awaitFrom(t, "c1", host+" in service", s.without(lost[i+1:]...))
		s.served(t, s.watch(t))
	}
	s.await(t, "calm", s.settled)
	s.once(t)
}
