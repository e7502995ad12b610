package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"mainstay/balance"
	"mainstay/fleet"
	"mainstay/service"
)

// BenchConfig says what BenchFailover shall compare.
type BenchConfig struct {
	// Lab has three hosts and nothing of Mainstay's on them yet, or a site that an
	// earlier BenchFailover has left there.
	Lab    *Lab
	Binary string // this program; empty: the running one
	// Peers are the names of BenchPeers to be measured, in this order; empty: all.
	Peers []string
	// Rounds is how often each peer's holder loses power, and Mainstay's twice that:
	// half of them with the lead first moved onto it. 0: 10.
	Rounds int
	// Cloud asks Keystone, on a lab with the layer of Seed and InstallCloud, and for
	// tokens beside; otherwise it is a page of a small web server.
	Cloud  bool
	Timing string // of Mainstay: a preset; empty: rack
	// TokenEvery is how often a token is asked for; 0: 500 ms.
	TokenEvery time.Duration
}

// BenchReport is all that was measured.
type BenchReport struct {
	At      time.Time   `json:"at"`
	Request string      `json:"request"`
	Every   float64     `json:"every_ms"`
	Waits   float64     `json:"patience_ms"`
	Peers   []BenchPeer `json:"peers"`
	// Missed are the targets that were not met, of those that can be told from the
	// peers that were measured.
	Missed []string `json:"missed,omitempty"`
}

// What Mainstay is held to: its medians against the fastest peer's and against
// Pacemaker's, and its worst outage, in milliseconds.
const (
	targetNotLeader = 100 // above keepalived-0.1s
	targetLeader    = 300 // above keepalived-0.1s
	targetWorst     = 1000
	targetPacemaker = 0.1 // of its median
)

// BenchPeer is what one way of moving the address achieved.
type BenchPeer struct {
	Name    string `json:"name"`
	Setting string `json:"setting"` // the timing that decides
	// Reference is the median of keepalived-0.1s in the same run, and Ratio this
	// peer's median divided by it; both are 0 if that was not measured.
	Reference float64      `json:"reference_ms,omitempty"`
	Ratio     float64      `json:"ratio,omitempty"`
	All       BenchValues  `json:"all"`
	Rounds    []BenchRound `json:"rounds"`
	// Halves are, of Mainstay, the rounds in which the holder was not the leader, and
	// those in which it was.
	Halves map[string]BenchValues `json:"halves,omitempty"`
}

// BenchValues sums up some rounds, in milliseconds.
type BenchValues struct {
	Values []float64 `json:"values_ms"` // in the order of the rounds
	Median float64   `json:"median_ms"`
	Worst  float64   `json:"worst_ms"`
}

// BenchRound is one power-off of the host that had the address.
type BenchRound struct {
	Victim string    `json:"victim"`
	Leader string    `json:"leader,omitempty"` // of Mainstay, just before
	At     time.Time `json:"at"`
	Next   string    `json:"next"` // who had the address afterwards
	// Outage is the longest time during which no try ended well.
	Outage float64 `json:"outage_ms"`
	// Failed are the tries that failed within FailedWithin after the power-off.
	Failed int `json:"failed"`
	// Why counts these by what the client said: a time-out is silence, a status or a
	// refused connection somebody's answer.
	Why map[string]int `json:"why,omitempty"`
	// Load is the machine's load average just before: of two cores, all that is above
	// 2 is somebody who waits.
	Load float64 `json:"load"`
	// Steps are how Mainstay went about it, and the client's first answer after it.
	Steps []Step `json:"steps,omitempty"`
	// Token is the longest time without a new token.
	Token float64 `json:"token_outage_ms,omitempty"`
}

// FailedWithin is the time after a power-off in which failed tries are counted:
// part of them are lost to a balancer that still passes requests on to the dead.
const FailedWithin = 5 * time.Second

// Halves of Mainstay's rounds.
const (
	HalfNotLeader = "holder is not the leader"
	HalfLeader    = "holder is the leader"
)

// peer is one way of moving an address.
type peer struct {
	name, setting string
	files         func(b *bench, m Machine) map[string]File
	units         []string // started in this order, stopped in the reverse one
	// ready says why the hosts are not all candidates for the address yet.
	ready func(ctx context.Context, b *bench) error
	// begin does what is to be done once, after the units were started.
	begin func(ctx context.Context, b *bench) error
}

// BenchPeers lists what BenchFailover knows to measure.
func BenchPeers() []string {
	var out []string
	for _, p := range peers("") {
		out = append(out, p.name)
	}
	return out
}

const (
	keepalivedFast = "keepalived-0.1s"
	pacemaker      = "pacemaker"
	mainstay       = "mainstay"
)

func peers(timing string) []peer {
	return []peer{
		keepalived("keepalived-1s", "1"), keepalived(keepalivedFast, "0.1"),
		{
			name: pacemaker, setting: "corosync token 3000 ms (default), no fencing", units: []string{"corosync", "pacemaker"},
			files: corosyncFiles, ready: pacemakerReady, begin: pacemakerBegin,
		},
		{name: mainstay, setting: "preset " + timing, ready: mainstayReady, begin: mainstayBegin},
	}
}

// bench is a run in progress.
type bench struct {
	*Lab
	cfg  BenchConfig
	say  func(string)
	site SiteConfig
	url  string
	vip  netip.Addr
	// always are the units that every peer finds running: the balancer and what is
	// behind it. Mainstay starts them itself.
	always []string
	log    *Log
	tokens *Log // nil without a cloud
}

// BenchFailover measures how long a client outside is not served when the host that
// holds the address loses power: with keepalived, with Pacemaker and with Mainstay,
// one after another on the same hosts, each moving the same address before the same
// HAProxy. A try begins every ProbeEvery and may take ProbePatience. It needs
// minutes for each peer; when ctx ends it stops, and leaves the lab as it is.
func BenchFailover(ctx context.Context, cfg BenchConfig, progress func(string)) (BenchReport, error) {
	var r BenchReport
	b, err := newBench(cfg, progress)
	if err != nil {
		return r, fmt.Errorf("bench failover: %w", err)
	}
	if err := b.prepare(ctx); err != nil {
		return r, fmt.Errorf("bench failover: prepare: %w", err)
	}
	r = BenchReport{At: time.Now(), Request: "GET " + b.url, Every: millis(ProbeEvery), Waits: millis(ProbePatience)}
	for _, p := range peers(b.cfg.Timing) {
		if !slices.Contains(b.cfg.Peers, p.name) {
			continue
		}
		got, err := b.peer(ctx, p)
		r.Peers = append(r.Peers, got)
		if err != nil {
			r.finish()
			return r, fmt.Errorf("bench failover: %s: %w", p.name, err)
		}
	}
	r.finish()
	return r, nil
}

func newBench(cfg BenchConfig, progress func(string)) (*bench, error) {
	if progress == nil {
		progress = func(string) {}
	}
	if cfg.Lab == nil || len(cfg.Lab.Hosts) < 3 {
		return nil, errors.New("it takes a lab of three hosts at least")
	}
	if cfg.Binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		cfg.Binary = exe
	}
	if cfg.Timing == "" {
		cfg.Timing = "rack"
	}
	if cfg.Rounds == 0 {
		cfg.Rounds = 10
	}
	if cfg.TokenEvery == 0 {
		cfg.TokenEvery = 500 * time.Millisecond
	}
	if len(cfg.Peers) == 0 {
		cfg.Peers = BenchPeers()
	}
	for _, name := range cfg.Peers {
		if !slices.Contains(BenchPeers(), name) {
			return nil, fmt.Errorf("%q is not one of the peers %s", name, strings.Join(BenchPeers(), ", "))
		}
	}
	b := &bench{cfg: cfg, Lab: cfg.Lab, say: progress, vip: cfg.Lab.Virtual()["internal"]}
	b.site = SiteConfig{Binary: cfg.Binary, Timing: cfg.Timing, Services: benchServices}
	b.url = fmt.Sprintf("http://%s:5000/", b.vip)
	b.always = []string{benchUnit, service.HAProxyUnit}
	if cfg.Cloud {
		b.site.Services, b.url = CloudServices, b.url+"v3"
		b.always = []string{service.HAProxyUnit, "memcached.service", "mariadb.service", "keystone.service"}
	}
	return b, nil
}

// The web server of a bench without a cloud: another HAProxy, which answers by
// itself.
const (
	benchUnit   = "bench-web.service"
	benchConfig = "/etc/mainstay-bench/web.cfg"
	benchWeb    = `defaults
    mode http
    timeout client 10s
listen web
    bind :5001
    http-request return status 200 content-type text/plain string "served\n"
`
	benchWebUnit = `[Service]
Type=notify
ExecStart=/usr/sbin/haproxy -Ws -f ` + benchConfig + `
Restart=always
`
	benchServices = `  haproxy: {}
  web:
    kind: systemd
    mode: active/active
    why: each copy answers by itself
    units: [` + benchUnit + `]
    roles: [controller]
    check: {kind: http, port: 5001, path: /}
    listen: {port: 5000, backend: 5001, protocol: http, addresses: [internal]}
`
)

// prepare puts on every host what all peers share: the web server, and HAProxy with
// the configuration that Mainstay gives it. Nobody tells the peers' HAProxy who is
// dead, so there it checks its servers, as any site's would.
func (b *bench) prepare(ctx context.Context) error {
	site := b.SiteFile(b.site)
	spec, faults := fleet.Read("site.yaml", []byte(site), service.Catalogue())
	if wrong := faults.Errors(); len(wrong) > 0 {
		return wrong
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Nothing runs here, and whether HAProxy accepts it is asked on the hosts.
	if err := balance.New(balance.Config{Dir: dir, Run: "/run/mainstay", Binary: "true"}).Configure(ctx, spec); err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(dir, "haproxy.cfg"))
	if err != nil {
		return err
	}
	var own []string
	for line := range strings.Lines(string(config)) {
		switch {
		case strings.HasPrefix(line, "    description "):
			line = "    description bench\n" // not Mainstay's own: it puts its own in place
		case strings.HasPrefix(line, "    server "):
			line = strings.TrimSuffix(line, "\n") + " check inter 1s fastinter 200ms downinter 500ms fall 2 rise 1\n"
		}
		own = append(own, line)
	}
	units, err := service.Units(service.UnitValues{})
	if err != nil {
		return err
	}
	return b.everywhere(func(m Machine) error {
		err := b.Install(m.Name, map[string]File{
			"/etc/mainstay/haproxy.cfg":                  {Data: []byte(strings.Join(own, "")), Mode: 0o640},
			"/etc/systemd/system/" + service.HAProxyUnit: {Data: []byte(units[service.HAProxyUnit])},
			"/etc/systemd/system/" + benchUnit:           {Data: []byte(benchWebUnit)},
			benchConfig:                                  {Data: []byte(benchWeb)},
		})
		if err != nil {
			return err
		}
		return b.sh(ctx, m.Name, "systemctl daemon-reload && sync")
	})
}

// everywhere does something on each host, one after another: the machine is small.
func (b *bench) everywhere(f func(m Machine) error) error {
	for _, m := range b.Hosts {
		if err := f(m); err != nil {
			return fmt.Errorf("on %s: %w", m.Name, err)
		}
	}
	return nil
}

func (b *bench) sh(ctx context.Context, host, script string) error {
	out, err := b.Run(ctx, host, "sh", "-c", script)
	if err != nil && strings.TrimSpace(out) != "" {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
	}
	return err
}

// peer measures one peer.
func (b *bench) peer(ctx context.Context, p peer) (out BenchPeer, err error) {
	out = BenchPeer{Name: p.name, Setting: p.setting}
	if p.name == mainstay {
		t := fleet.Presets()[b.cfg.Timing]
		out.Setting = fmt.Sprintf("preset %s: store's heartbeat %v, election %v; beat %v, lease %v", b.cfg.Timing, t.Heartbeat, t.Election, t.Beat, t.Lease)
	}
	b.say(p.name + ": starting")
	if err := b.silence(ctx); err != nil {
		return out, fmt.Errorf("stop the others: %w", err)
	}
	for _, m := range b.Hosts {
		if p.files != nil {
			if err := b.Install(m.Name, p.files(b, m)); err != nil {
				return out, err
			}
		}
		if err := b.join(ctx, p, m.Name); err != nil {
			return out, err
		}
	}
	if p.begin != nil {
		if err := p.begin(ctx, b); err != nil {
			return out, err
		}
	}
	rounds := b.cfg.Rounds
	if p.name == mainstay {
		rounds *= 2
	}
	for n := range rounds {
		r, err := b.round(ctx, p, n%2 == 1)
		if err != nil {
			return out, fmt.Errorf("round %d of %d: %w", n+1, rounds, err)
		}
		out.Rounds = append(out.Rounds, r)
		b.say(fmt.Sprintf("%s: %d of %d: %s lost power%s, %s answered after %.0f ms (%s)", p.name, n+1, rounds, r.Victim, led(r), r.Next, r.Outage, brief(r.Steps, r.At)))
	}
	return out, nil
}

func led(r BenchRound) string {
	switch r.Leader {
	case "":
		return ""
	case r.Victim:
		return " (the leader)"
	}
	return " (not the leader)"
}

// silence stops whatever could move the address, on every host, and takes the
// address away.
func (b *bench) silence(ctx context.Context) error {
	units := []string{service.AgentUnit, service.HAProxyUnit}
	for _, p := range peers(b.cfg.Timing) {
		for _, u := range slices.Backward(p.units) {
			units = append(units, u)
		}
	}
	// The stores first: with no leader left, nobody fences a host because its agent
	// has gone.
	if err := b.stop(ctx, service.QuorumUnit, ""); err != nil {
		return err
	}
	// Mainstay's guard outlives it, and would keep the next one's address silent; so do
	// its bars, and would keep the database down.
	return b.stop(ctx, strings.Join(units, " ")+" "+service.QuorumUnit, fmt.Sprintf(`nft flush ruleset
find /etc/systemd/system -name 50-mainstay.conf -delete && systemctl daemon-reload || exit
ip -o addr show to %s | while read -r _ dev _ addr _; do ip addr del $addr dev $dev || exit; done
sync || exit`, b.vip))
}

// stop stops units on every host, for the next boots too, and runs a script there.
func (b *bench) stop(ctx context.Context, units, script string) error {
	script = fmt.Sprintf(`for u in %s; do
	systemctl -q is-active $u && { systemctl stop $u || exit; }
	systemctl -q is-enabled $u 2>/dev/null && systemctl -q disable $u
done
`, units) + script + "\ntrue"
	return b.everywhere(func(m Machine) error { return b.sh(ctx, m.Name, script) })
}

// join starts on one host, which has just booted, what makes it a candidate.
func (b *bench) join(ctx context.Context, p peer, host string) error {
	units := p.units
	if p.name == mainstay {
		return nil // it starts everything by itself
	}
	units = append(slices.Clone(b.always), units...)
	if err := b.sh(ctx, host, "sync; systemctl start "+strings.Join(units, " ")); err != nil {
		return fmt.Errorf("start %s on %s: %w", strings.Join(units, " "), host, err)
	}
	return nil
}

// holders are the hosts that have the address on an interface.
func (b *bench) holders(ctx context.Context) ([]string, error) {
	var out []string
	for _, m := range b.Hosts {
		if on, err := b.Powered(m.Name); err != nil || !on {
			continue
		}
		text, err := b.Run(ctx, m.Name, "ip", "-o", "addr", "show", "to", b.vip.String())
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(text) != "" {
			out = append(out, m.Name)
		}
	}
	return out, nil
}

// How long things are waited for that take seconds on a busy machine.
const (
	benchSettle = 3 * time.Minute
	benchOutage = 90 * time.Second // the longest outage that is waited for
	benchRest   = 15 * time.Second // for a client to be served by a sound site
)

// settle waits until all hosts are candidates and one has the address, and returns
// which.
func (b *bench) settle(ctx context.Context, p peer) (holder string, err error) {
	err = until(ctx, benchSettle, func() error {
		if err := p.ready(ctx, b); err != nil {
			return err
		}
		have, err := b.holders(ctx)
		if err != nil {
			return err
		}
		if len(have) != 1 {
			return fmt.Errorf("%v have the address", have)
		}
		holder = have[0]
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("wait until all is well: %w", err)
	}
	return holder, nil
}

// watch begins to ask, as a client, and returns once it is served. Asked too much
// for its machine a service may never catch up with those who have given up waiting,
// so a client that is not served goes away for a while first.
func (b *bench) watch(ctx context.Context) (err error) {
	for range 5 {
		if b.log, err = b.Watch(ctx, Probe{URL: b.url, Every: ProbeEvery, Patience: ProbePatience, Expect: http.StatusOK}, b.cfg.Binary); err != nil {
			return err
		}
		if b.cfg.Cloud {
			if err := b.watchTokens(ctx); err != nil {
				return errors.Join(err, b.leave())
			}
		}
		if err = until(ctx, benchRest, b.served); err == nil {
			return nil
		}
		if err := b.leave(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(benchRest):
		}
	}
	return fmt.Errorf("all is well, but the client is not served; is the machine too busy? %w", err)
}

// leave ends the client.
func (b *bench) leave() (err error) {
	for _, log := range []**Log{&b.log, &b.tokens} {
		if *log != nil {
			_, stopped := (*log).Stop()
			*log, err = nil, errors.Join(err, stopped)
		}
	}
	return err
}

func (b *bench) served() error {
	return errors.Join(unserved(b.log, ProbeEvery), unserved(b.tokens, b.cfg.TokenEvery))
}

// unserved says why a probe's last tries are not what they should be: for longer
// than a few of them none ended well. Single tries fail on any busy machine.
func unserved(log *Log, every time.Duration) error {
	if log == nil {
		return nil
	}
	now := time.Now()
	if gap, _, _ := Gap(log.Tries(), now.Add(-20*every), now); gap > 10*every {
		return fmt.Errorf("the client was not served for %v a moment ago", gap.Round(time.Millisecond))
	}
	return nil
}

// round is one power-off and what it cost.
func (b *bench) round(ctx context.Context, p peer, leading bool) (r BenchRound, err error) {
	holder, err := b.settle(ctx, p)
	if err != nil {
		return r, err
	}
	r.Victim = holder
	if p.name == mainstay {
		if err := b.lead(ctx, holder, leading); err != nil {
			return r, err
		}
		again, err := b.settle(ctx, p)
		if err != nil {
			return r, err
		}
		if again != holder {
			return r, fmt.Errorf("the address went from %s to %s when the lead was moved", holder, again)
		}
	}
	if err := b.watch(ctx); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.leave()) }()
	if p.name == mainstay { // it may have moved again since
		s, err := b.siteStatus(ctx)
		if err != nil {
			return r, err
		}
		r.Leader = s.Leader
	}
	if r.Load, err = loadAverage(); err != nil {
		return r, err
	}
	deed, err := b.PowerOff(ctx, holder)
	if err != nil {
		return r, err
	}
	r.At = deed.At
	err = until(ctx, benchOutage, func() error {
		if time.Since(deed.At) < FailedWithin {
			return errors.New("not yet")
		}
		return unserved(b.log, ProbeEvery)
	})
	tries := b.log.Tries()
	if err != nil {
		return r, fmt.Errorf("%s lost power, and then: %w", holder, err)
	}
	gap, _, _ := Gap(tries, deed.At, time.Now())
	r.Outage, r.Why = millis(gap), map[string]int{}
	for _, t := range tries {
		if !t.OK && t.Begun.After(deed.At) && t.Begun.Before(deed.At.Add(FailedWithin)) {
			r.Failed++
			why := t.Why[strings.LastIndex(t.Why, ": ")+1:]
			r.Why[strings.TrimSpace(why)]++
		}
	}
	if p.name == mainstay {
		r.Steps = b.timeline(ctx, deed.At, holder, "address/internal")
	}
	r.Steps = append(r.Steps, resumed(tries, deed.At, time.Now())...)
	have, err := b.holders(ctx)
	if err != nil {
		return r, err
	}
	r.Next = strings.Join(have, "+")
	if b.tokens != nil {
		err := until(ctx, benchOutage, func() error { return unserved(b.tokens, b.cfg.TokenEvery) })
		if err != nil {
			return r, fmt.Errorf("tokens, after %s lost power: %w", holder, err)
		}
		gap, _, _ := Gap(b.tokens.Tries(), deed.At, time.Now())
		r.Token = millis(gap)
	}
	if err := b.leave(); err != nil {
		return r, err
	}
	if _, err := b.Start(ctx, holder); err != nil {
		return r, err
	}
	if _, err := b.Booted(ctx, holder); err != nil {
		return r, err
	}
	return r, b.join(ctx, p, holder)
}

// loadAverage is the machine's, over the last minute.
func loadAverage() (load float64, err error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(text), &load)
	}
	return load, err
}

// watchTokens asks for a token again and again.
func (b *bench) watchTokens(ctx context.Context) error {
	body, err := b.tokenRequest()
	if err != nil {
		return err
	}
	b.tokens, err = b.Watch(ctx, Probe{URL: b.url + "/auth/tokens", Every: b.cfg.TokenEvery, Patience: 10 * b.cfg.TokenEvery, Body: body, Expect: http.StatusCreated}, b.cfg.Binary)
	return err
}

// tokenRequest is what asks the Keystone of a seed for a token of its
// administrator.
func (l *Lab) tokenRequest() (string, error) {
	root, err := l.HostPath(l.Hosts[0].Name)
	if err != nil {
		return "", err
	}
	password, err := os.ReadFile(filepath.Join(root, AdminPasswordFile))
	if err != nil {
		return "", fmt.Errorf("read the cloud's password: %w", err)
	}
	return passwordRequest("admin", strings.TrimSpace(string(password)))
}

// passwordRequest asks for a token of a user, for the project admin.
func passwordRequest(user, password string) (string, error) {
	type object = map[string]any
	domain := object{"id": "default"}
	body, err := json.Marshal(object{"auth": object{
		"identity": object{"methods": []string{"password"}, "password": object{
			"user": object{"name": user, "domain": domain, "password": password}}},
		"scope": object{"project": object{"name": "admin", "domain": domain}},
	}})
	return string(body), err
}

// finish computes what is told of the rounds.
func (r *BenchReport) finish() {
	for i := range r.Peers {
		p := &r.Peers[i]
		var all []float64
		halves := map[string][]float64{}
		for _, round := range p.Rounds {
			all = append(all, round.Outage)
			switch round.Leader {
			case "":
			case round.Victim:
				halves[HalfLeader] = append(halves[HalfLeader], round.Outage)
			default:
				halves[HalfNotLeader] = append(halves[HalfNotLeader], round.Outage)
			}
		}
		p.All = sumUp(all)
		for name, values := range halves {
			if p.Halves == nil {
				p.Halves = map[string]BenchValues{}
			}
			p.Halves[name] = sumUp(values)
		}
	}
	ours, fast, old := r.peer(mainstay), r.peer(keepalivedFast), r.peer(pacemaker)
	for i := range r.Peers {
		if p := &r.Peers[i]; fast.All.Median > 0 {
			p.Reference, p.Ratio = fast.All.Median, p.All.Median/fast.All.Median
		}
	}
	if len(ours.Rounds) == 0 {
		return
	}
	miss := func(what string, value, most float64) {
		if value > most {
			r.Missed = append(r.Missed, fmt.Sprintf("%s: %.0f ms, above %.0f ms", what, value, most))
		}
	}
	if fast.All.Median > 0 {
		miss("median, "+HalfNotLeader, ours.Halves[HalfNotLeader].Median, fast.All.Median+targetNotLeader)
		miss("median, "+HalfLeader, ours.Halves[HalfLeader].Median, fast.All.Median+targetLeader)
	}
	miss("worst", ours.All.Worst, targetWorst)
	if old.All.Median > 0 {
		miss("median, against Pacemaker's", ours.All.Median, old.All.Median*targetPacemaker)
	}
}

// peer is what was measured of a peer; the zero value if nothing was.
func (r *BenchReport) peer(name string) BenchPeer {
	for _, p := range r.Peers {
		if p.Name == name {
			return p
		}
	}
	return BenchPeer{}
}

func sumUp(values []float64) BenchValues {
	v := BenchValues{Values: values}
	if len(values) == 0 {
		return v
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	v.Median, v.Worst = (sorted[(n-1)/2]+sorted[n/2])/2, sorted[n-1]
	return v
}

func millis(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond)) / float64(time.Millisecond)
}

// Print writes the report as a table.
func (r BenchReport) Print(out io.Writer) error {
	fmt.Fprintf(out, "The host that holds the address loses power; a client begins %s every %.0f ms, each try with %.0f ms.\n", r.Request, r.Every, r.Waits)
	fmt.Fprint(out, "Outage: the longest time in which no try ended well, in ms. Ratio: of the medians, to "+keepalivedFast+".\n\n")
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\tn\tmedian\tworst\tratio\ttries failed in 5 s\tload\ttoken: median\tworst\tall outages")
	for _, p := range r.Peers {
		row(w, p.Name, p.All, p.Reference, p.Rounds, func(BenchRound) bool { return true })
		if p.Halves == nil {
			continue
		}
		row(w, "  "+HalfNotLeader, p.Halves[HalfNotLeader], p.Reference, p.Rounds, func(r BenchRound) bool { return r.Leader != r.Victim })
		row(w, "  "+HalfLeader, p.Halves[HalfLeader], p.Reference, p.Rounds, func(r BenchRound) bool { return r.Leader == r.Victim })
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, p := range r.Peers {
		fmt.Fprintf(out, "%s: %s\n", p.Name, p.Setting)
	}
	for _, m := range r.Missed {
		fmt.Fprintln(out, "TARGET MISSED:", m)
	}
	return nil
}

func row(w io.Writer, name string, v BenchValues, reference float64, rounds []BenchRound, mine func(BenchRound) bool) {
	ratio := ""
	if reference > 0 {
		ratio = fmt.Sprintf("%.2f", v.Median/reference)
	}
	var failed, loads, tokens []float64
	for _, r := range rounds {
		if !mine(r) {
			continue
		}
		failed, loads = append(failed, float64(r.Failed)), append(loads, r.Load)
		if r.Token > 0 {
			tokens = append(tokens, r.Token)
		}
	}
	token := "\t"
	if t := sumUp(tokens); len(tokens) > 0 {
		token = fmt.Sprintf("%.0f\t%.0f", t.Median, t.Worst)
	}
	var all []string
	for _, x := range v.Values {
		all = append(all, fmt.Sprintf("%.0f", x))
	}
	fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%s\t%.0f\t%.1f\t%s\t%s\n", name, len(v.Values), v.Median, v.Worst, ratio, sumUp(failed).Median, sumUp(loads).Median, token, strings.Join(all, " "))
}

// running says why a host does not serve behind the balancer yet; all peers want it.
func (b *bench) running(ctx context.Context, host string) error {
	return b.sh(ctx, host, "systemctl is-active "+strings.Join(b.always, " "))
}
