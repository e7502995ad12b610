package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"mainstay/fleet"
	"mainstay/service"
	"mainstay/store"
	"mainstay/trust"
)

// QuorumPort is where members of the store speak to each other.
const QuorumPort = 7402

// Cluster is what a member of the store starts with the first time: written by
// init and join, read while the member has no data yet.
type Cluster struct {
	Cluster string `json:"cluster"`
	Join    bool   `json:"join"` // a new member of a cluster that lives already
}

func (c Config) clusterFile() string { return filepath.Join(c.State, "cluster.json") }

// StoreDir is where the member keeps its data.
func (c Config) StoreDir() string { return filepath.Join(c.State, "store") }

// Save writes it for the member's first start, and returns when it is on the disk: a power
// cut in the next seconds, as of a pair that has just joined again, left an empty file.
func (k Cluster) Save(c Config) error {
	raw, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", c.State, err)
	}
	if err := replaceFile(c.clusterFile(), raw, 0o600); err != nil {
		return fmt.Errorf("write how the store starts: %w", err)
	}
	return nil
}

// PeerURL is where the other voters reach a host's member: on the network
// "management", or the first one by name.
func PeerURL(h fleet.Host) (string, error) {
	addr, ok := h.Addresses["management"]
	if !ok {
		for _, name := range fleet.Sorted(h.Addresses) {
			addr, ok = h.Addresses[name], true
			break
		}
	}
	if !ok {
		return "", fmt.Errorf("host %s has no address", h.Name)
	}
	return "https://" + netip.AddrPortFrom(addr, QuorumPort).String(), nil
}

// RunQuorum runs this host's member of the store until ctx ends.
func RunQuorum(ctx context.Context, c Config) error {
	spec, _, err := ReadSite(c.siteFile())
	if err != nil {
		return err
	}
	q, err := QuorumConfig(c)
	if err != nil {
		return err
	}
	limitThreads(spec)
	if partner := spec.Partner(q.Name); partner != "" {
		if err := c.beginPair(ctx, q, partner); err != nil {
			return err
		}
	}
	return store.RunQuorum(ctx, q)
}

// QuorumConfig describes this host's member of the store.
func QuorumConfig(c Config) (store.QuorumConfig, error) {
	spec, _, err := ReadSite(c.siteFile())
	files := &trust.Files{Dir: c.tls()}
	id, loadErr := files.Load()
	if err := errors.Join(err, loadErr); err != nil {
		return store.QuorumConfig{}, err
	}
	me, ok := spec.Host(id.Name)
	if !ok || !me.Voter {
		return store.QuorumConfig{}, fmt.Errorf("%s is no voter by %s: it has no store", id.Name, c.siteFile())
	}
	peer, err := PeerURL(me)
	if err != nil {
		return store.QuorumConfig{}, err
	}
	q := store.QuorumConfig{
		Name: id.Name, Dir: c.StoreDir(), Run: c.Run, Peer: peer, Site: spec.Site, Timing: spec.Timing, Log: c.Log,
		CA: filepath.Join(c.tls(), trust.CAFile), Cert: filepath.Join(c.tls(), trust.CertFile), Key: filepath.Join(c.tls(), trust.KeyFile),
		Require: trust.QuorumName,
	}
	raw, err := os.ReadFile(c.clusterFile())
	if err != nil {
		return q, fmt.Errorf("how shall the store of %s start? %w; mainstay init or mainstay join writes it", id.Name, err)
	}
	var k Cluster
	if err := json.Unmarshal(raw, &k); err != nil {
		return q, fmt.Errorf("read %s: %w", c.clusterFile(), err)
	}
	q.Cluster, q.Join = k.Cluster, k.Join
	return q, nil
}

// openStore sees that this host's member runs, in its own unit, and connects.
func (n *node) openStore(ctx context.Context) error {
	// Beside the rest: an agent that restarts must beat again within its lease.
	go func() {
		starting, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := n.system.Start(starting, service.QuorumUnit); err != nil && ctx.Err() == nil {
			// The agent does its other duties without a store, and systemd goes on
			// trying: an address must not fall for it.
			n.log.Error("start the store", "unit", service.QuorumUnit, "error", err)
		}
	}()
	c, err := store.Dial(ctx, store.DialConfig{Run: n.cfg.Run, Timing: n.spec.Timing, Log: n.log, Alive: n.leading})
	if err != nil {
		return err
	}
	n.store, n.quorum = c, newQuorum(ctx, c)
	return nil
}

// closeStore lets go of the store for a restart of this agent: the store keeps
// its term for as long as that should take.
func (n *node) closeStore() {
	defer n.store.Close()
	if n.down.Load() != 0 {
		return // nobody returns before the host has booted
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := n.store.Hold(ctx, 5*time.Second); err != nil {
		n.log.Info("the store does not wait for this agent's return", "error", err)
	}
}

// leading says whether the loop that decides makes progress.
func (n *node) leading() bool { return n.leader == nil || n.leader.Alive() }

// keepVoters lets new members of the store grow up, one at a time, and sees that
// every voter is a member of the site.
func (n *node) keepVoters(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var late lateVote
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !n.quorum.Holds(n.now()) {
			late = lateVote{}
			continue
		}
		// What is open is closed after a promise's length: a bound that is shorter would keep it open for ever.
		deed, cancel := context.WithTimeout(ctx, 5*time.Second+n.spec.Timing.Promise())
		learner, err := n.tendVoters(deed)
		if err != nil && ctx.Err() == nil {
			n.log.Log(ctx, slog.LevelDebug, "tend the voters", "error", err)
		}
		if late.news(learner, err, n.now()) && ctx.Err() == nil {
			n.log.Warn("a voter has no vote yet", "host", learner, "why", err)
		}
		cancel()
	}
}

// lateVote is what this leader knows of a voter that has no vote yet.
type lateVote struct {
	host  string
	since fleet.Moment
	told  string
}

// voteFor is how long a voter may learn until the log says why it still does.
const voteFor = 30 * time.Second

// news says whether a try to give the host that learns its vote failed long after the
// first one, and not for the reason that was told last.
func (l *lateVote) news(host string, err error, now fleet.Moment) bool {
	if host == "" && err != nil {
		return false // nobody could say who learns
	}
	if host != l.host {
		*l = lateVote{host: host, since: now}
	}
	if host == "" || err == nil || err.Error() == l.told || now.Sub(l.since) < voteFor {
		return false
	}
	l.told = err.Error()
	return true
}

// tendVoters gives the one that learns its vote if it may have it, and returns its name;
// store.ErrBehind until it has caught up.
func (n *node) tendVoters(ctx context.Context) (learner string, err error) {
	voters, err := n.store.Voters(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	state := n.store.State()
	for _, v := range voters {
		if v.Learner {
			learner = v.Name
			continue
		}
		names = append(names, v.Name)
		if _, joined := state.Members[v.Name]; !joined && v.Name != "" {
			record := fleet.Put("member/"+v.Name, fleet.Member{Host: v.Name}, v.Name+" is a member")
			if err := n.store.Wish(ctx, []fleet.Record{record}); err != nil && !errors.Is(err, store.ErrExists) {
				return learner, err
			}
		}
	}
	// The change before is closed first: until then the next is refused.
	open, err := n.store.Unsettled(ctx)
	if err != nil {
		return learner, err
	}
	if open != "" {
		// The ears follow the site's file, which named this voter before it joined:
		// what is open is the store's own change, and a promise's length closes it.
		select {
		case <-ctx.Done():
			return learner, ctx.Err()
		case <-time.After(n.spec.Timing.Promise()):
		}
		return learner, n.store.Settle(ctx, names)
	}
	if learner == "" {
		return "", nil
	}
	return learner, n.store.Promote(ctx, learner)
}

// memberships says, by host, what its part in the store is: "votes" or "learns".
func (n *node) memberships(ctx context.Context) map[string]string {
	if n.store.Leader() == "" {
		return nil // nobody could answer
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	voters, err := n.store.Voters(ctx)
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for _, v := range voters {
		out[v.Name] = "votes"
		if v.Learner {
			out[v.Name] = "learns"
		}
	}
	return out
}
