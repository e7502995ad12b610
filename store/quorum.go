package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mainstay/fleet"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/features"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// QuorumConfig describes one member of the store.
type QuorumConfig struct {
	// Name is the host's name; it must be the same for the life of the data.
	Name string
	// Dir holds the data, on a disk of its own if possible. It is made with mode
	// 0700: the site's CA key lies in it.
	Dir string
	// Run is where the two sockets appear: /run/mainstay.
	Run string
	// Peer is the URL at which the other voters reach this one,
	// "https://10.0.0.1:7402"; Listen is where it listens, if elsewhere. Both
	// must give an IP address. Traffic to the others leaves from Peer's address.
	Peer, Listen string
	// Cluster is "name=peerURL,..." of all first voters, or what AddVoter
	// answered. It is read only while Dir is empty.
	Cluster string
	// Join: this is a new member of a cluster that lives already.
	Join bool
	// Site names the cluster: members of different sites refuse each other.
	Site string
	// CA, Cert and Key are PEM files, read again at each handshake. The
	// certificate must be good for client and server use and name Peer's address.
	CA, Cert, Key string
	// Require is a DNS name that every peer's certificate must carry, so that
	// not every host with a certificate of the site may speak raft. Empty: any.
	Require string
	Timing  fleet.Timing
	Log     *slog.Logger
	// Ready, if set, is called once, when the member serves.
	Ready func()

	started func(*member) // for tests of this package
}

// InitialCluster writes the Cluster of a QuorumConfig: peer URLs by name.
func InitialCluster(peers map[string]string) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		out = append(out, name+"="+peers[name])
	}
	return strings.Join(out, ",")
}

// member is one running member.
type member struct {
	cfg  QuorumConfig
	gate *gate
	ctl  *control
	etcd atomic.Pointer[embed.Etcd] // nil while it waits to be started
	why  atomic.Pointer[string]     // what it waits for before it serves
	asks chan move

	fsync fsync
}

// move is a request to hand the lead over.
type move struct {
	to      string // a voter's name; empty: whoever is next
	session uint64
	done    chan error
}

// RunQuorum runs this host's member until ctx ends, and then hands the lead over
// and stops. It returns nil only then; ErrRemoved when the cluster no longer
// wants this member. A disk that fails does not return: etcd ends the process
// with status 1 and a message.
func RunQuorum(ctx context.Context, cfg QuorumConfig) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make the store's directory: %w", err)
	}
	unlock, err := lockDir(cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	ec, err := cfg.etcd()
	if err != nil {
		return fmt.Errorf("configure the store: %w", err)
	}
	m := &member{cfg: cfg, asks: make(chan move)}
	if m.ctl, err = listen(cfg.Run, m); err != nil {
		return err
	}
	defer m.ctl.close()

	if hasData(cfg.Dir) && fleet.Armed(fleet.GuardRestartWait) {
		// The member may have confirmed a leader's read just before it went
		// down, and has forgotten so: it must not vote inside that lease.
		m.say("waits one election time-out before it may vote")
		if err := sleep(ctx, cfg.Timing.Election); err != nil {
			return nil
		}
	}
	m.say("joins the other voters")
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return fmt.Errorf("start the store in %s: %w", cfg.Dir, err)
	}
	if err := os.Chmod(quorumSocket(cfg.Run), 0o600); err != nil {
		stop(e)
		return fmt.Errorf("guard the store's socket: %w", err)
	}
	m.gate = newGate(e.Server, cfg.Timing, now())
	m.etcd.Store(e)
	if cfg.started != nil {
		cfg.started(m)
	}
	minding, done := context.WithCancel(ctx)
	go mindStreams(minding, e)
	err = m.run(ctx, e)
	done()
	stop(e)
	return err
}

func (m *member) say(why string) { m.why.Store(&why) }

// run steers the member's lead until it ends. All hand-overs happen here, one
// at a time.
func (m *member) run(ctx context.Context, e *embed.Etcd) error {
	look := time.NewTimer(0)
	defer look.Stop()
	ready := e.Server.ReadyNotify()
	var tries int
	for {
		select {
		case <-ctx.Done():
			m.leave(e)
			return nil
		case <-ready:
			ready = nil
			m.say("")
			if m.cfg.Ready != nil {
				m.cfg.Ready()
			}
		case err := <-e.Err():
			return m.ended(e, err)
		case <-e.Server.StopNotify():
			return m.ended(e, errors.New("stopped by itself"))
		case ask := <-m.asks:
			ask.done <- m.move(ctx, e, ask)
			look.Reset(m.cfg.Timing.Heartbeat) // it may have failed
		case <-look.C:
			if !m.gate.settle() {
				tries = 0
				// One that follows sees in good time that it leads: an agent is missed
				// after E at the soonest.
				look.Reset(m.cfg.Timing.Election / 4)
				continue
			}
			at := now()
			why, again := m.gate.must(at)
			look.Reset(min(max(again, m.cfg.Timing.Heartbeat), m.cfg.Timing.Election))
			if why == "" {
				continue
			}
			to, ok := next(voters(e), e.Server.MemberID(), tries)
			if !ok {
				continue // nobody else could lead
			}
			tries++
			m.gate.orphaned(at)
			m.cfg.Log.Warn("hands the lead over", "to", nameOf(e, to), "why", why)
			if err := m.gate.handOver(ctx, to, 0); err != nil {
				m.cfg.Log.Warn("could not hand the lead over and tries again", "to", nameOf(e, to), "err", err)
			}
		}
	}
}

// leave hands the lead over before the member stops; the others would need an
// election otherwise.
func (m *member) leave(e *embed.Etcd) {
	if !m.gate.settle() || len(voters(e)) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*m.cfg.Timing.Election)
	defer cancel()
	_, err := m.gate.quiet(ctx, 0)
	if err == nil {
		err = e.Server.TryTransferLeadershipOnShutdown()
	}
	if err != nil && m.gate.settle() {
		m.cfg.Log.Warn("stops without having handed the lead over; the others elect", "err", err)
	}
}

func (m *member) move(ctx context.Context, e *embed.Etcd, ask move) error {
	if !m.gate.settle() {
		return fmt.Errorf("move the lead from %s: %w", m.cfg.Name, ErrNotLeader)
	}
	to, ok := next(voters(e), e.Server.MemberID(), 0)
	if ask.to != "" {
		to, ok = 0, false
		for _, v := range e.Server.Cluster().Members() {
			if v.Name == ask.to && !v.IsLearner {
				to, ok = v.ID, true
			}
		}
	}
	if !ok {
		return fmt.Errorf("move the lead to %q: no such voter", ask.to)
	}
	if to == e.Server.MemberID() {
		return nil
	}
	if err := m.gate.handOver(ctx, to, ask.session); err != nil {
		return fmt.Errorf("move the lead to %s: %w", nameOf(e, to), err)
	}
	return nil
}

// ended says why the server ended by itself. One that was away when it was
// removed hears so from the others before it reads it in its own data, if it
// ever does, and etcd passes that on to its log only.
func (m *member) ended(e *embed.Etcd, err error) error {
	if told := reason(e.GetLogger()); told != nil {
		err = told
	}
	if e.Server.IsIDRemoved(uint64(e.Server.MemberID())) || strings.Contains(err.Error(), "permanently removed from the cluster") {
		return fmt.Errorf("%s: %w; to take it back: wipe %s and join anew", m.cfg.Name, ErrRemoved, m.cfg.Dir)
	}
	return fmt.Errorf("the store on %s: %w", m.cfg.Name, err)
}

// stop ends raft first, then the clients' connections: etcd's own way out waits
// seconds for their open watches.
func stop(e *embed.Etcd) {
	hush(e.GetLogger())
	e.Server.HardStop()
	if reg := e.Config().ServiceRegister; reg != nil {
		reg(nil)
	}
	e.Close()
}

// closer is a ServiceRegister that keeps each gRPC server of the clients, and
// stops them all when it is called without one.
func closer() func(*grpc.Server) {
	var mu sync.Mutex
	var all []*grpc.Server
	return func(s *grpc.Server) {
		mu.Lock()
		defer mu.Unlock()
		if s != nil {
			all = append(all, s)
			return
		}
		for _, s := range all {
			s.Stop()
		}
	}
}

func voters(e *embed.Etcd) []types.ID {
	var out []types.ID
	for _, v := range e.Server.Cluster().Members() {
		if !v.IsLearner {
			out = append(out, v.ID)
		}
	}
	return out
}

// nameOf is a member's name, or its number before it has told its name.
func nameOf(e *embed.Etcd, id types.ID) string {
	if v := e.Server.Cluster().Member(id); v != nil && v.Name != "" {
		return v.Name
	}
	if id == 0 {
		return ""
	}
	return id.String()
}

// etcd writes the embedded server's configuration.
func (c QuorumConfig) etcd() (*embed.Config, error) {
	peer, err := peerURL(c.Peer)
	if err != nil {
		return nil, err
	}
	bind := peer
	if c.Listen != "" {
		if bind, err = peerURL(c.Listen); err != nil {
			return nil, err
		}
	}
	ec := embed.NewConfig()
	ec.Name, ec.Dir = c.Name, filepath.Join(c.Dir, "etcd")
	ec.ListenPeerUrls, ec.AdvertisePeerUrls = []url.URL{*bind}, []url.URL{*peer}
	client := url.URL{Scheme: "unix", Path: quorumSocket(c.Run)}
	ec.ListenClientUrls, ec.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	ec.InitialCluster, ec.InitialClusterToken = c.Cluster, c.Site
	ec.ClusterState = embed.ClusterStateFlagNew
	if c.Join {
		ec.ClusterState = embed.ClusterStateFlagExisting
	}
	ec.PeerTLSInfo.TrustedCAFile, ec.PeerTLSInfo.CertFile, ec.PeerTLSInfo.KeyFile = c.CA, c.Cert, c.Key
	ec.PeerTLSInfo.ClientCertAuth = true
	// A host has several addresses, and need not call from the one that its
	// certificate names. Require says who may speak.
	ec.PeerTLSInfo.SkipClientSANVerify = true
	if c.Require != "" {
		ec.PeerTLSInfo.AllowedHostnames = []string{c.Require}
	}
	ec.TlsMinVersion = "TLS1.3"
	ec.TickMs, ec.ElectionMs = uint(c.Timing.Heartbeat.Milliseconds()), uint(c.Timing.Election.Milliseconds())
	ec.PreVote, ec.InitialElectionTickAdvance = true, false
	ec.AutoCompactionMode, ec.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	ec.QuotaBackendBytes = 2 << 30
	// What is not yet in the backend is in the log. etcd's own 100 ms wake every
	// member ten times a second for nothing.
	ec.BackendBatchInterval = time.Second
	ec.MaxTxnOps, ec.MaxRequestBytes = maxOps, maxBytes+(1<<20)
	ec.EnableGRPCGateway = false
	ec.ServiceRegister = closer()
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(c.Log))
	gates := features.NewDefaultServerFeatureGate(c.Name, nil)
	if g, ok := gates.(featuregate.MutableFeatureGate); ok {
		if err := g.Set(string(features.SetMemberLocalAddr) + "=true"); err != nil {
			return nil, err
		}
	}
	ec.ServerFeatureGate = gates
	return ec, nil
}

func peerURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("peer URL: %w", err)
	}
	if u.Scheme != "https" || u.Port() == "" {
		return nil, fmt.Errorf("peer URL %q: want https://ADDRESS:PORT", s)
	}
	return u, nil
}

// Exists says whether a member has lived in dir: it must not be started there anew.
func Exists(dir string) bool { return hasData(dir) }

// hasData says whether a member has lived in dir.
func hasData(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "etcd", "member"))
	return err == nil
}

// lockDir makes sure that one process alone uses dir.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the store's directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("the store in %s is in use by another process", dir)
		}
		return nil, fmt.Errorf("lock the store in %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

var _ raft = (*etcdserver.EtcdServer)(nil)
