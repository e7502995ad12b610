package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/agent"
	"mainstay/api"
	"mainstay/fleet"
	"mainstay/leader"
	"mainstay/lease"
	"mainstay/plan"
	"mainstay/probe/heartbeat"
	"mainstay/trust"
	"mainstay/vip"
)

var (
	crowdSize    = flag.Int("beats", 40, "computes of TestCrowd that beat to three voters: make beats")
	crowdFor     = flag.Duration("beats-for", 4*time.Second, "how long TestCrowd counts the voters' CPU")
	crowdPace    = flag.Int("beats-pace", 1, "TestCrowd beats that many times more slowly, and says what the true pace would take: for more computes than this machine can play")
	crowdProfile = flag.String("beats-profile", "", "TestCrowd writes a CPU profile of the voters there")
)

// The players of TestCrowd are processes of their own, so that only the voters' CPU is counted.
const (
	crowdPlays    = "MAINSTAY_CROWD"
	crowdNetworks = 4
	crowdPlayer   = 2000 // computes of one player: a process may not have many more sockets
)

// crowdCalls lets a player have some handshakes under way at once, and not all: a machine that
// begins thousands ends none.
var crowdCalls = make(chan struct{}, 8)

// crowdForgets is how many reports a voter forgets.
const crowdForgets = 200

// crowdReport is what a compute says of itself, as long as nothing changes.
func crowdReport(s *fleet.Spec, host string) fleet.Report {
	r := fleet.Report{Host: host, Boot: "b", Stint: 1, Epoch: 1, Version: "v", Leased: true, UUID: "0f8fad5b-d9cb-469f-a165-70867728950e", Links: map[string]bool{},
		Services: map[string]fleet.ServiceState{}, Seq: 1, News: 1}
	for _, n := range s.Networks {
		r.Links[n.Name] = true
	}
	for _, s := range []string{"libvirtd", "nova-compute", "neutron-agent"} {
		r.Services[s] = fleet.ServiceState{Phase: fleet.Running, Ready: true}
	}
	return r
}

// part is what a player is told.
type part struct {
	Spec     fleet.Spec
	Keys     trust.BeatKeys
	CA, Key  string
	From, To int // which of the site's hosts
	Pace     int
}

// crowd is a site of three voters and many computes, all on loopback addresses.
func crowd(computes int) fleet.Spec {
	s := fleet.Spec{Site: "crowd", Timing: fleet.Presets()["room"], Mode: "act", Brakes: fleet.Brakes{Share: 40, Count: 50}, OpenStack: fleet.OpenStack{Cloud: "here"}}
	for i := range crowdNetworks {
		s.Networks = append(s.Networks, fleet.Network{Name: []string{"management", "storage", "tenant", "migration"}[i]})
	}
	for i := range 3 + computes {
		h := fleet.Host{Name: fmt.Sprintf("n%05d", i-2), Roles: []string{"compute"}, Addresses: map[string]netip.Addr{}, Fence: []fleet.Level{{{Driver: "redfish"}}}}
		if i < 3 {
			h.Name, h.Roles, h.Voter = fmt.Sprintf("c%d", i+1), []string{"controller"}, true
		}
		for k, n := range s.Networks {
			h.Addresses[n.Name] = netip.AddrFrom4([4]byte{127, byte(64 + k), byte(i >> 8), byte(i)})
		}
		s.Hosts = append(s.Hosts, h)
	}
	return s
}

// noAddresses is a host with none but its own, all of them linked.
type noAddresses struct{ agent.Addresses }

func (noAddresses) Renew(fleet.Moment) (time.Duration, error)                      { return 0, nil }
func (noAddresses) Drop(context.Context) error                                     { return nil }
func (noAddresses) Foreign(context.Context) (map[netip.Addr]string, error)         { return nil, nil }
func (noAddresses) Received([]netip.Addr) (uint64, error)                          { return 0, nil }
func (noAddresses) Watch(context.Context) <-chan agent.Change                      { return nil }
func (noAddresses) Sever(context.Context, netip.Addr, bool) (int, error)           { return 0, nil }
func (noAddresses) Others(context.Context, netip.Addr) ([]net.HardwareAddr, error) { return nil, nil }
func (noAddresses) Carried(own []netip.Addr) (map[netip.Addr]bool, error) {
	up := map[netip.Addr]bool{}
	for _, a := range own {
		up[a] = true
	}
	return up, nil
}

// memory is a store that elects one host and counts what it is given.
type memory struct {
	leads bool
	lead  chan struct{}

	mu      sync.Mutex
	state   fleet.State
	commits int
	turns   int
	changed chan struct{}
}

func (m *memory) Holds(fleet.Moment) bool      { return m.leads }
func (m *memory) LeadChanged() <-chan struct{} { return m.lead }
func (m *memory) Changed() <-chan struct{}     { return m.changed }
func (m *memory) State() fleet.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turns++
	return m.state
}
func (m *memory) RaiseEpoch(context.Context, string) (fleet.State, uint64, error) {
	return m.State(), 1, nil
}
func (m *memory) Commit(_ context.Context, _ uint64, records []fleet.Record, events []fleet.Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var err error
	m.commits++
	m.state, err = m.state.Apply(records...)
	return err
}

func (m *memory) counts() (turns, commits int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.turns, m.commits
}

// desktop is the part of a voter's API that takes reports.
type desktop struct {
	api.Backend
	desk atomic.Pointer[leader.Desk]
	n    atomic.Int64
}

func (d *desktop) Report(_ context.Context, r fleet.Report, _ string) {
	d.n.Add(1)
	d.desk.Load().Put(r)
}
func (d *desktop) IsVoter(string) bool { return false }
func (d *desktop) MayAct(string) bool  { return false }

// certify makes a host's certificate.
func certify(ca *trust.CA, host string) (tls.Certificate, error) {
	csr, key, err := trust.NewRequest(host)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := ca.SignCSR(csr, trust.HostSpec{Name: host}, time.Now())
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// wide lets this process open as many sockets as it may.
func wide() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}

// TestCrowd plays the beats and the reports of many computes, on four networks and sealed with each one's
// own key, against the three voters' whole receiving side: ears, acknowledgements, desks,
// the API over TLS, and the leader's turns. Counted is the CPU of the voters alone; what the kernel does to
// bring an acknowledgement to its host on this machine is theirs, what it does to bring them a beat is not.
// While nothing changes hardly any report is told whole, and those are again which a voter forgot.
func TestCrowd(t *testing.T) {
	if spec := os.Getenv(crowdPlays); spec != "" {
		if err := play(spec); err != nil {
			t.Fatal(err)
		}
		return
	}
	if testing.Short() {
		t.Skip("40 computes beat for some seconds; make beats AGENTS=n plays more")
	}
	if err := wide(); err != nil {
		t.Fatal(err)
	}
	spec := crowd(*crowdSize)
	spec.Timing.SlowBeat *= time.Duration(*crowdPace) // nobody is silent for beating so slowly
	spec.Timing.SlowLease *= time.Duration(*crowdPace)
	ca, err := trust.NewCA("crowd", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	keys := trust.NewBeatKeys()
	state := fleet.State{Epoch: 1, Leader: "c1", Members: map[string]fleet.Member{}, Holdings: map[string]fleet.Holding{}}
	for _, h := range spec.Hosts {
		state.Members[h.Name] = fleet.Member{Host: h.Name, Admitted: "b"}
		if !h.Voter {
			state.Holdings[plan.Compute(h.Name)] = fleet.Holding{Thing: plan.Compute(h.Name), Host: h.Name, Boot: "b", Generation: 1, Why: "as ever"}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	defer func() { cancel(); wait.Wait() }()
	var desks []*desktop
	var stores []*memory
	var first *agent.Agent
	for i := range 3 {
		name := spec.Hosts[i].Name
		desk := leader.NewDesk(vip.Now)
		for _, h := range spec.Hosts[3:] { // as at rest: each was told once, and its connection closed again
			desk.Put(crowdReport(&spec, h.Name))
		}
		d := &desktop{}
		d.desk.Store(desk)
		desks = append(desks, d)
		a, err := agent.New(agent.Config{
			Host: name, Boot: "b", Version: "v", Spec: spec, Run: filepath.Join(t.TempDir(), "run"), Keys: keys, Addresses: noAddresses{},
			Tell: func(r fleet.Report, _ []string) {
				for _, other := range desks {
					other.desk.Load().Put(r)
				}
			},
			Named: func(host, boot string, news uint64, sent fleet.Moment, wall time.Time, at fleet.Moment) uint64 {
				return d.desk.Load().Named(host, boot, news, sent, wall, at)
			},
			Now: vip.Now, Wall: time.Now, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = a
		}
		store := &memory{leads: i == 0, lead: make(chan struct{}), changed: make(chan struct{}), state: state}
		stores = append(stores, store)
		l := leader.New(leader.Config{Host: name, Spec: func() fleet.Spec { return spec }, Quorum: store, Eyes: a, Desk: desk,
			Send: func(_ context.Context, o fleet.Order) fleet.Effect {
				return fleet.Effect{Key: o.Key, From: o.To, Outcome: fleet.Done}
			},
			Now: vip.Now, Wall: time.Now, Log: slog.New(slog.DiscardHandler)})
		wait.Go(func() {
			if err := a.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for !a.Ticking() { // who leads asks ears
			waitFor(t, time.Millisecond)
		}
		wait.Go(func() { l.Run(ctx) })
		cert, err := certify(ca, name)
		if err != nil {
			t.Fatal(err)
		}
		roots := &trust.Files{Dir: t.TempDir()}
		if err := os.WriteFile(filepath.Join(roots.Dir, trust.CAFile), ca.PEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: api.Handler(d, slog.New(slog.DiscardHandler)), ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
			TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2", "http/1.1"}}}
		ln, err := net.Listen("tcp", netip.AddrPortFrom(spec.Hosts[i].Addresses["management"], api.Port).String())
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = s.ServeTLS(ln, "", "") }()
		defer s.Close()
	}
	began := time.Now()
	players := (*crowdSize + crowdPlayer - 1) / crowdPlayer
	for i := range players {
		var told bytes.Buffer
		p := part{Spec: spec, Keys: keys, CA: string(ca.PEM()), Key: string(key), Pace: *crowdPace,
			From: 3 + i**crowdSize/players, To: 3 + (i+1)**crowdSize/players}
		if err := json.NewEncoder(&told).Encode(p); err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestCrowd$")
		c.Stdout, c.Stderr = os.Stderr, os.Stderr
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		c.Env = append(os.Environ(), crowdPlays+"=stdin")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(in, &told) }() // it stays open: its end ends the player
		defer func() { in.Close(); _ = c.Wait() }()
	}
	all := 3 + *crowdSize
	bound := time.Minute + time.Duration(*crowdSize)*300*time.Millisecond
	for heard := 0; heard < all; waitFor(t, 100*time.Millisecond) {
		if heard = len(first.Heard()); time.Since(began) > bound {
			t.Fatalf("after %v the leader hears %d of %d", bound, heard, all)
		}
	}
	waitFor(t, time.Duration(6**crowdPace)*time.Second) // they know that they are acknowledged
	if *crowdProfile != "" {
		f, err := os.Create(*crowdProfile)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			t.Fatal(err)
		}
		defer pprof.StopCPUProfile()
	}
	cpu, at := cpuUsed(t), time.Now()
	turns, commits := stores[0].counts()
	acked := first.Taken()
	reports := desks[1].n.Load()
	waitFor(t, *crowdFor)
	took := time.Since(at).Seconds()
	cpu = cpuUsed(t) - cpu
	moreTurns, moreCommits := stores[0].counts()
	heard := 0
	for host, h := range first.Heard() {
		if vip.Now().Sub(h.Last) < time.Duration(3**crowdPace)*time.Second || host == "c1" {
			heard++
		}
	}
	told := desks[1].n.Load() - reports
	stale := 0
	for _, at := range desks[1].desk.Load().Told() {
		if vip.Now().Sub(at) >= time.Duration(3**crowdPace)*time.Second {
			stale++
		}
	}
	more := first.Taken()
	beats := float64(more.Heard-acked.Heard) / took
	slow := float64(*crowdSize*crowdNetworks) / float64(*crowdPace) * took
	spared := float64(more.Spared-acked.Spared) / slow
	t.Logf("%d computes at 1/%d of their pace: %d of %d hosts heard; all three voters together take %.3f of one core; %.0f beats a second at each, %.0f %% of the computes' want no acknowledgement, %.0f reports a second at each, %.1f turns a second, %d commits",
		*crowdSize, *crowdPace, heard, all, cpu.Seconds()/took, beats, 100*spared, float64(told)/took, float64(moreTurns-turns)/took, moreCommits-commits)
	if heard < all || moreCommits > commits || beats*took < slow {
		t.Log("this machine was too busy for them: beats were missed, and what was counted is no rest")
	} else if most := float64(*crowdSize) * took / 4; float64(told) > most || stale > 0 {
		t.Errorf("a voter was told %d whole reports in %.0f s though nothing changed (%.0f at most), and %d of %d are old", told, took, most, stale, all)
	} else if spared < 0.5 {
		t.Errorf("of %.0f beats of computes at a voter %.0f %% want no acknowledgement; two thirds need none", slow, 100*spared)
	}
	atRest := cpu.Seconds() / took
	pprof.StopCPUProfile() // what follows is no rest
	cpu, at = cpuUsed(t), time.Now()
	forgets := leader.NewDesk(vip.Now)
	for host, r := range desks[2].desk.Load().Reports() {
		if i := slices.IndexFunc(spec.Hosts, func(h fleet.Host) bool { return h.Name == host }); i < 3 || i >= 3+crowdForgets {
			forgets.Put(r)
		}
	}
	desks[2].desk.Store(forgets)
	for forgot := time.Now(); len(desks[2].desk.Load().Reports()) < all; waitFor(t, 50*time.Millisecond) {
		if t.Context().Err() != nil || time.Since(forgot) > bound {
			t.Fatalf("a voter that forgot all reports has %d of %d after %v", len(desks[2].desk.Load().Reports()), all, time.Since(forgot))
		}
	}
	again := cpuUsed(t).Seconds() - cpu.Seconds() - atRest*time.Since(at).Seconds()
	t.Logf("a voter that forgot them was told again within %.1f s", time.Since(at).Seconds())
	if heard == all && moreCommits == commits && beats*took >= slow {
		t.Logf("at %.2f ms of its CPU for each report, connections begun anew", 1000*again/float64(min(*crowdSize, crowdForgets)))
	}
}

func waitFor(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// cpuUsed is the CPU that this process has used, user and system.
func cpuUsed(t *testing.T) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// play is a player: its hosts beat and report until its input ends.
func play(string) error {
	if err := wide(); err != nil {
		return err
	}
	var p part
	in := json.NewDecoder(os.Stdin)
	if err := in.Decode(&p); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	ca, err := trust.ParseCA([]byte(p.CA), []byte(p.Key))
	if err != nil {
		return err
	}
	var wait sync.WaitGroup
	for i := p.From; i < p.To; i++ {
		wait.Go(func() {
			if err := playHost(ctx, p, ca, i); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, p.Spec.Hosts[i].Name, err)
			}
		})
	}
	wait.Wait()
	return nil
}

func playHost(ctx context.Context, p part, ca *trust.CA, i int) error {
	me := p.Spec.Hosts[i]
	every := p.Spec.Timing.SlowBeat
	// Spread over the beat, as hosts that were started at different times are.
	select {
	case <-time.After(every * time.Duration(i-p.From) / time.Duration(p.To-p.From)):
	case <-ctx.Done():
		return nil
	}
	keys, err := p.Keys.For(me.Name)
	if err != nil {
		return err
	}
	nets := map[string]netip.AddrPort{}
	for name, a := range me.Addresses {
		nets[name] = netip.AddrPortFrom(a, agent.Port)
	}
	var ways []lease.Way
	for _, v := range p.Spec.Hosts[:3] {
		for _, n := range p.Spec.Networks {
			ways = append(ways, lease.Way{Ear: v.Name, Network: n.Name})
		}
	}
	telling, acks := lease.NewTelling(every), lease.NewAcks(ways)
	var mu sync.Mutex // guards both
	conn, err := heartbeat.Open(heartbeat.Config{Site: p.Spec.Site, Host: me.Name, Boot: "b", Networks: nets, Keys: keys, Peers: p.Spec.Voters(), Hear: func(d heartbeat.Datagram) {
		if ack, ok := d.Message.(heartbeat.Ack); ok {
			mu.Lock()
			defer mu.Unlock()
			telling.Acked(d.Host, ack.News, ack.Sent)
			acks.Acked(lease.Way{Ear: d.Host, Network: d.Network}, ack.Sent)
		}
	}})
	if err != nil {
		return err
	}
	defer conn.Close()
	cert, err := certify(ca, me.Name)
	if err != nil {
		return err
	}
	var boxes []chan fleet.Report // what is to be delivered delays no beat
	for _, v := range p.Spec.Hosts[:3] {
		c := api.NewTLS(netip.AddrPortFrom(v.Addresses["management"], api.Port).String(), &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true})
		defer c.Close()
		box := make(chan fleet.Report, 1)
		boxes = append(boxes, box)
		go func() {
			for {
				select {
				case r := <-box:
					crowdCalls <- struct{}{}
					once, cancel := context.WithTimeout(ctx, 30*time.Second)
					_ = c.Report(once, r, strings.Repeat("0", 64)) // one that is lost is due again
					cancel()
					<-crowdCalls
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	r := crowdReport(&p.Spec, me.Name)
	telling.News(r.News)
	for _, v := range p.Spec.Hosts[:3] {
		telling.Told(v.Name, vip.Now()) // the desks have it
		telling.Acked(v.Name, r.News, vip.Now())
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		now := vip.Now()
		b := heartbeat.Beat{Stint: fleet.Stint{Host: me.Name, Boot: "b", N: 1}, Sent: now, Late: fleet.GuardLate, Leased: true, Next: every, Lease: p.Spec.Timing.SlowLease,
			News: r.News, Wall: time.Now()}
		mu.Lock()
		wanted := acks.Wanted(now)
		mu.Unlock()
		for i, v := range p.Spec.Hosts[:3] {
			for k, n := range p.Spec.Networks {
				b.Spared = !wanted[i*len(p.Spec.Networks)+k]
				_ = conn.Send(v.Name, n.Name, netip.AddrPortFrom(v.Addresses[n.Name], agent.Port), b)
			}
		}
		r.Seq, r.Wall = uint64(now), time.Now()
		mu.Lock()
		for k, box := range boxes {
			if voter := p.Spec.Hosts[k].Name; telling.Due(voter, now) {
				telling.Told(voter, now)
				select {
				case box <- r:
				default: // one is on its way
				}
			}
		}
		mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
