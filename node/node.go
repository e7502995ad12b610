// Package node is one running Mainstay: it wires the store's client, the agent,
// the leader and the API of one host together, starts them in order and stops
// them in the reverse order. Production, tests and the lab start the very same
// thing.
package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/agent"
	"mainstay/api"
	"mainstay/balance"
	"mainstay/fleet"
	"mainstay/leader"
	"mainstay/service"
	"mainstay/store"
	"mainstay/trust"
	"mainstay/vip"
)

// Config says where a node finds its things.
type Config struct {
	Config  string // /etc/mainstay
	State   string // /var/lib/mainstay
	Run     string // /run/mainstay
	Version string
	// Units is where Mainstay's own systemd units belong; "" where systemd runs none.
	Units string
	Log   *slog.Logger
	// Ready is called once the node serves; Alive again and again while its loops
	// make progress.
	Ready func()
	Alive func()
	// Reload asks for a new process in this one's place, and Successor tells the
	// supervisor which one that is, just before this one ends.
	Reload    <-chan os.Signal
	Successor func(pid int)
}

// Paths below the folders.
func (c Config) siteFile() string { return filepath.Join(c.Config, "site.yaml") }
func (c Config) tls() string      { return filepath.Join(c.Config, "tls") }

// worlds is made by the first start of this host's agent.
func (c Config) worlds() string { return filepath.Join(c.State, "worlds") }

// Socket is where root reaches the API.
func (c Config) Socket() string { return filepath.Join(c.Run, "api.sock") }

// node is what Run builds up.
type node struct {
	cfg     Config
	log     *slog.Logger
	host    string
	boot    string
	spec    fleet.Spec
	files   *trust.Files
	keys    trust.BeatKeys
	store   *store.Client // nil where this host is no voter
	quorum  *quorum
	desk    *leader.Desk
	leader  *leader.Leader
	agent   *agent.Agent
	worlds  *worlds
	peers   *peers
	system  *service.Systemd
	haproxy *balance.HAProxy
	pair    *pair // nil where the site is no pair, or this host not of it
	// complaint is what was last said of HAProxy's configuration.
	complaint atomic.Pointer[string]

	text     []byte // the site's file as this process has read it
	sum      string // and its version
	versions versions
	// succeeded says that another process goes on in this one's place.
	succeeded atomic.Bool
	// bye says that the voters shall hear a farewell; down is when this host was first
	// known to be shutting down, 0 if it is not.
	bye      atomic.Bool
	down     atomic.Int64
	applying atomic.Int32 // operators' questions about a new file that are being answered
	// unrenewed says why this host's certificate will end; "" if it will not.
	unrenewed atomic.Pointer[string]
	renewed   chan struct{} // a new file was taken: a new process shall read it
	taking    sync.Mutex    // one new file at a time
	offered   uint64        // the highest epoch in which a file was taken; guarded by taking
}

// ReadSite reads and checks a site's file; every mistake is in the error.
func ReadSite(path string) (fleet.Spec, fleet.Faults, error) {
	spec, faults, _, err := readSite(path)
	return spec, faults, err
}

func readSite(path string) (fleet.Spec, fleet.Faults, []byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return fleet.Spec{}, nil, nil, fmt.Errorf("read the site's file: %w", err)
	}
	spec, faults := fleet.Read(path, text, service.Catalogue())
	if wrong := faults.Errors(); len(wrong) > 0 {
		return spec, faults, text, wrong
	}
	return spec, faults, text, nil
}

// Run runs this host's node until ctx ends. A second process waits for the first
// to end: two agents on one host would break every promise.
func Run(ctx context.Context, cfg Config) error {
	if err := os.MkdirAll(cfg.Run, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", cfg.Run, err)
	}
	n, err := prepare(ctx, cfg)
	if err != nil {
		return err
	}
	units := func() {
		bounded, cancel := context.WithTimeout(ctx, readyBound/2)
		defer cancel()
		followUnits(bounded, cfg)
	}
	if succeeds() {
		units() // the former process still does its duties
	} else {
		go units() // a start hurries: a lease may be running out
	}
	if err := prepared(); err != nil {
		return err
	}
	unlock, err := lock(ctx, filepath.Join(cfg.Run, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	limitThreads(n.spec)
	if me, _ := n.spec.Host(n.host); !me.Voter {
		beSmall()
	}
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	go n.awaitSuccessor(ctx, leave)
	return n.run(ctx)
}

// limitThreads obeys threads, unless an operator said otherwise.
func limitThreads(s fleet.Spec) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(threads(s))
	}
}

// beSmall lets the garbage of a host without a vote grow to half of what it needs, where
// Go's rule is as much again and 4 MB at least: there are thousands of such hosts, and
// they make little. A voter's leader makes much, and its beats must not wait for it.
func beSmall() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	time.AfterFunc(time.Minute, debug.FreeOSMemory) // what only the start needed
}

// threads is how many threads may run Go's code at once, in the agent and in the store.
// With more than one, each message that arrives wakes another that finds nothing to do:
// a third of what an agent takes at rest, a fifth of what a store does. A large site's
// leader thinks longer than its beats can wait. What it costs the store: while its disk
// syncs, its messages wait for some 2 ms, until Go sees that the thread is blocked.
func threads(s fleet.Spec) int {
	const large = 100 // hosts
	if len(s.Hosts) < large {
		return 1
	}
	return min(4, runtime.NumCPU())
}

// lock waits until this process is the only one.
func lock(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock %s: %w", path, err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("take the lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// admits says why the site's file refuses somebody whose certificate is good.
func admits(spec fleet.Spec, id trust.Identity) error {
	_, known := spec.Host(id.Name)
	switch {
	case id.Kind == trust.KindHost && !known:
		return fmt.Errorf("%s is no host of this site any more", id.Name)
	case id.Kind == trust.KindOperator && slices.Contains(spec.Operators.Revoked, id.Name):
		return errors.New("the site's file revokes the certificates of this operator")
	}
	return nil
}

// prepare reads everything that may be wrong, before anything is touched.
func prepare(ctx context.Context, cfg Config) (*node, error) {
	n := &node{cfg: cfg, log: cfg.Log, desk: leader.NewDesk(vip.Now)}
	var errs []error
	n.renewed = make(chan struct{}, 1)
	n.versions.sums, n.versions.refused = map[string]string{}, map[string]string{}
	spec, faults, text, err := readSite(cfg.siteFile())
	errs = append(errs, err)
	n.text, n.sum = text, sumOf(text)
	for _, w := range faults.Warnings() {
		n.log.Warn("site file", "warning", w.Error())
	}
	n.spec = spec
	n.files = &trust.Files{Dir: cfg.tls(), Allow: func(id trust.Identity) error { return admits(spec, id) }}
	id, err := n.files.Load()
	errs = append(errs, err)
	n.host = id.Name
	n.keys, err = trust.LoadBeatKeys(cfg.tls())
	errs = append(errs, err)
	n.boot, err = bootID()
	errs = append(errs, err)
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if _, ok := spec.Host(n.host); !ok && len(errs) == 0 {
		errs = append(errs, fleet.Faults{stranger(n.host)})
	}
	if _, err := os.Stat(cfg.worlds()); errors.Is(err, fs.ErrNotExist) && len(errs) == 0 {
		// Nothing leans on a host that never ran. One that did goes on whatever was
		// damaged meanwhile, and says so (tellFaults).
		_, faults := Check(ctx, cfg, cfg.siteFile(), text, "")
		if err := concerning(spec, n.host, faults).Err(); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, n.refuse(ctx, errs)
	}
	if n.spec, err = cfg.goesAlone(spec, n.host, n.boot); err != nil {
		return nil, err
	}
	n.worlds, err = newWorlds(cfg.worlds(), n.log)
	return n, err
}

// refuse is why this host does not start and, with it, all else that mainstay check
// would name here: whoever mends it needs one run.
func (n *node) refuse(ctx context.Context, why []error) error {
	if n.text == nil {
		return errors.Join(why...)
	}
	host := n.host
	if host == "" {
		host, _ = os.Hostname() // as mainstay check takes it
	}
	spec, faults := Check(ctx, n.cfg, n.cfg.siteFile(), n.text, host)
	faults = concerning(spec, host, faults)
	all := []error{faults.Err()}
	for _, err := range why {
		_, file := errors.AsType[fleet.Faults](err)
		told := file && len(faults) > 0 || slices.ContainsFunc(faults, func(f fleet.Fault) bool { return f.Problem == err.Error() })
		if !told {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// concerning leaves, of what is wrong, what keeps that host from its duties: without a
// vote it asks no power switch, and need not have the passwords.
func concerning(spec fleet.Spec, host string, faults fleet.Faults) fleet.Faults {
	me, ok := spec.Host(host)
	return slices.DeleteFunc(faults.Errors(), func(f fleet.Fault) bool { return f.Rule == "fence" && ok && !me.Voter })
}

func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read this boot's id: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// machineUUID is how a BMC knows this machine; "" if nobody says. In a container
// the firmware's would be that of the machine around it, so the container's own
// goes first.
func machineUUID() string {
	for _, path := range []string{"/run/host/container-uuid", "/sys/class/dmi/id/product_uuid"} {
		if raw, err := os.ReadFile(path); err == nil {
			return strings.TrimSpace(string(raw))
		}
	}
	return ""
}

func (n *node) run(asked context.Context) error {
	// Who asks this process to end may have to wait until its host has handed over.
	ctx, cancel := context.WithCancel(context.WithoutCancel(asked))
	atOnce := context.AfterFunc(asked, cancel)
	var wait sync.WaitGroup
	defer func() { cancel(); n.part(&wait) }()
	n.system = service.NewSystemd("")
	defer n.system.Close()
	n.peers = newPeers(n.spec, n.host, n.files, n.sum)
	defer n.peers.close()

	me, _ := n.spec.Host(n.host)
	if me.Voter {
		if err := n.openStore(ctx); err != nil {
			return err
		}
		defer n.closeStore()
	}
	var balancer agent.Balancer
	if runsHAProxy(n.spec, n.host) {
		n.haproxy = balance.New(balance.Config{Dir: n.cfg.Config, Run: n.cfg.Run, Host: n.host, Reload: func(ctx context.Context) error {
			return n.system.ReloadUnit(ctx, service.HAProxyUnit)
		}})
		if _, err := os.Stat(filepath.Join(n.cfg.Config, "haproxy.cfg")); err == nil {
			// HAProxy's own check takes longer than a lease may last.
			wait.Go(func() { n.configureHAProxy(ctx) })
		} else {
			n.configureHAProxy(ctx)
		}
		balancer = n.haproxy
		again := time.NewTicker(haproxyAgain)
		defer again.Stop()
		wait.Go(func() { n.keepHAProxy(ctx, again.C) })
	}
	addrs, err := openAddresses(n.spec, n.host)
	if err != nil {
		return err
	}
	defer addrs.set.Close()
	var clouds leader.Clouds
	var inCloud func(context.Context, fleet.Order, func() error) (fleet.Outcome, string)
	var ha *instanceHA
	if me.Voter && n.spec.OpenStack.Cloud != "" {
		c := &cloud{cfg: n.spec.OpenStack}
		clouds, inCloud, ha = c, c.do, &instanceHA{node: n, cloud: c}
	}
	hypervisor, disks := hypervisorOf(n.spec, me)
	n.agent, err = agent.New(agent.Config{
		Host: n.host, Boot: n.boot, UUID: machineUUID(), Version: n.cfg.Version, Spec: n.spec, Run: n.cfg.Run, Keys: n.keys,
		Addresses: addrs, Balancer: balancer, Env: n.env(),
		Fence: n.fence, Cloud: inCloud, Hypervisor: hypervisor, Disks: disks, Storage: storageOf(n.spec, me, n.boot), Tell: func(r fleet.Report, voters []string) { n.desk.Put(r); n.peers.tell(r, voters) }, Named: n.desk.Named,
		Ask: func(ctx context.Context, host, network string) error {
			return n.peers.over(host, network).Neighbour(ctx)
		},
		Unrenewed: func() string {
			if said := n.unrenewed.Load(); said != nil {
				return *said
			}
			return ""
		},
		Watchdog: watchdogOf(me, n.spec.Mode), Now: vip.Now, Wall: time.Now, Log: n.log,
	})
	if err != nil {
		return err
	}
	if me.Voter {
		if n.pair, err = n.openPair(addrs); err != nil {
			return err
		}
		if n.pair != nil {
			wait.Go(func() { n.pair.tend(ctx) })
		}
		n.leader = leader.New(leader.Config{
			Host: n.host, Spec: func() fleet.Spec { return n.spec }, Quorum: n.quorum, Eyes: n.agent, Desk: n.desk, Send: n.send,
			Clouds: clouds, Keep: n.worlds.keep, Now: vip.Now, Wall: time.Now, Log: n.log,
		})
		wait.Go(func() { n.worlds.run(ctx.Done()) })
		wait.Go(func() { n.leader.Run(ctx) })
		wait.Go(func() { n.watchStore(ctx) })
		wait.Go(func() { n.keepVoters(ctx) })
		wait.Go(func() { n.keepSite(ctx) })
		wait.Go(func() { n.alarms(ctx) })
		wait.Go(func() { n.examineFences(ctx) })
	}
	if ha != nil {
		wait.Go(func() { ha.serve(ctx) })
		wait.Go(func() { ha.settle(ctx) })
	}
	stop, err := n.serve()
	if err != nil {
		return err
	}
	defer stop()
	wait.Go(func() { n.peers.run(ctx) })
	wait.Go(func() { n.renew(ctx) })
	if n.cfg.Alive != nil {
		every := time.NewTicker(time.Second)
		defer every.Stop()
		wait.Go(func() { beAlive(ctx, every.C, n.agent.Ticking, n.cfg.Alive) })
	}
	wait.Go(func() { n.forgetServices(ctx) })
	wait.Go(func() { n.tellFaults(ctx) })
	if n.cfg.Ready != nil {
		n.cfg.Ready()
	}
	wait.Go(func() { n.system.BeforeShutdown(ctx, n.depart, n.stay) })
	if atOnce() { // nobody has asked so far
		leaving := make(chan struct{})
		stop := context.AfterFunc(asked, func() {
			defer close(leaving)
			defer cancel()
			n.leave(ctx)
		})
		defer func() {
			if !stop() {
				<-leaving
			}
		}()
	}
	err = n.agent.Run(ctx)
	n.agent.CloseWatchdog(n.bye.Load())
	if n.bye.Load() {
		bye, done := context.WithTimeout(context.Background(), farewellBound)
		defer done()
		n.peers.last(bye, n.agent.Farewell())
	}
	return err
}

// tellFaults logs what mainstay check would find, beside the running agent: a
// package that was removed is no reason to let addresses fall.
func (n *node) tellFaults(ctx context.Context) {
	text, err := os.ReadFile(n.cfg.siteFile())
	if err != nil {
		n.log.Error("check", "error", err)
		return
	}
	_, faults := Check(ctx, n.cfg, n.cfg.siteFile(), text, n.host)
	if ctx.Err() != nil {
		return
	}
	for _, f := range faults.Errors() {
		n.log.Error("check", "error", f.Error(), "help", "mainstay check")
	}
}

// beAlive tells the supervisor that the loops make progress: a beat loop that
// stopped ticking is a hung agent, and systemd then kills and restarts it.
func beAlive(ctx context.Context, tick <-chan time.Time, ticking func() bool, alive func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
			if ticking() {
				alive()
			}
		}
	}
}

// configureHAProxy puts the site's file into HAProxy's words. A configuration that
// HAProxy refuses leaves the old one in force: an address must not fall for it.
func (n *node) configureHAProxy(ctx context.Context) {
	err := n.haproxy.Configure(ctx, n.spec)
	if ctx.Err() != nil {
		return
	}
	said := ""
	if err != nil {
		said = err.Error()
	}
	if last := n.complaint.Swap(&said); said != "" && (last == nil || *last != said) {
		n.log.Error("configure HAProxy", "error", err, "help", "mainstay check")
	}
}

// haproxyAgain is how soon a renewed certificate is taken, and what was refused tried again.
const haproxyAgain = 30 * time.Second

// keepHAProxy configures HAProxy anew when its certificate was renewed: nobody has to
// tell us; and when the last configuration is not in force: what was wrong may have been
// mended.
func (n *node) keepHAProxy(ctx context.Context, tick <-chan time.Time) {
	look := func() [sha256.Size]byte {
		text, _ := os.ReadFile(n.spec.TLS.Certificate) // one that cannot be read is refused, and told
		return sha256.Sum256(text)
	}
	for last := look(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		if now := look(); now != last || n.haproxy.Refused() != "" {
			last = now
			n.configureHAProxy(ctx)
		}
	}
}

func runsHAProxy(spec fleet.Spec, host string) bool {
	v, ok := spec.Service("haproxy")
	if !ok {
		return false
	}
	for _, home := range spec.Homes(v) {
		if home == host {
			return true
		}
	}
	return false
}

// freebind lets a socket be bound to an address that is not there yet.
func freebind(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
	return errors.Join(err, set)
}

// serve opens the API: mutual TLS on this host's own addresses, and a socket for
// root.
func (n *node) serve() (stop func(), err error) {
	handler := api.Handler(n, n.log)
	secure := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug)}
	local := &http.Server{Handler: api.Named(handler), ReadHeaderTimeout: 10 * time.Second, ConnContext: api.UnixContext}
	stop = func() { secure.Close(); local.Close() }
	me, _ := n.spec.Host(n.host)
	// An own address that is not up yet is no reason to be deaf when it comes.
	lc := net.ListenConfig{Control: freebind}
	secure.TLSConfig = n.files.Server()
	for network, own := range me.Addresses {
		l, err := lc.Listen(context.Background(), "tcp", netip.AddrPortFrom(own, api.Port).String())
		if err != nil {
			stop()
			return nil, fmt.Errorf("serve the API on %s (%s): %w", network, own, err)
		}
		go func() { _ = secure.ServeTLS(l, "", "") }()
	}
	path := n.cfg.Socket()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		stop()
		return nil, fmt.Errorf("serve the API: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("serve the API: %w", err)
	}
	go func() { _ = local.Serve(l) }()
	return stop, nil
}
