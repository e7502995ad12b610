package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"mainstay/api"
	"mainstay/fence"
	"mainstay/fleet"
	"mainstay/plan"
	"mainstay/service"
	"mainstay/store"
)

// Two voters and no third (docs/DESIGN.md section 3, "Two servers alone"). What to do is
// plan.PairView's to say; here it is done:
//
//	joint     the agreement of both, as this host's store has applied it, is kept in /run
//	lost      no lease: fence the partner at its time, keep the proof in /run
//	alone     written to the disk, then the store starts anew as the only member, and a
//	          new agent process reads a site's file in which the partner has no vote
//	returned  a host that has booted asks its partner, and joins it or goes on
//
// The agent decides and the store's process obeys: it reads the same file on the disk.

// pairDisk is what this host's disk says since it goes on alone; it outlives boots.
type pairDisk struct {
	// Boot is the one boot of this host that may go on alone, Without the partner's that
	// it is without; Left, by that one's own word.
	Boot    string `json:"boot"`
	Without string `json:"without"`
	Left    bool   `json:"left,omitempty"`
	// Proof is there until the store's process has begun anew with it, Anew until it has
	// without one, by the partner's word.
	Proof *fleet.Proof `json:"proof,omitempty"`
	Anew  bool         `json:"anew,omitempty"`
}

// begins: the store's process has yet to begin anew as the only member.
func (d pairDisk) begins() bool { return d.Proof != nil || d.Anew }

// pairRun is what /run says of a pair: a boot takes it away.
type pairRun struct {
	Boot  string      `json:"boot"`
	Pair  fleet.Pair  `json:"pair"`
	Alone bool        `json:"alone,omitempty"` // this boot went on alone, and the two are not joint again
	Proof fleet.Proof `json:"proof,omitzero"`
	// Left: this boot gave up its vote, or was about to, and has not joined again; agreements
	// count after the number After.
	Left  bool   `json:"left,omitempty"`
	After uint64 `json:"after,omitempty"`
}

func (c Config) pairDisk() string { return filepath.Join(c.State, "pair.json") }
func (c Config) pairRun() string  { return filepath.Join(c.Run, "pair.json") }

// readFile reads what keepFile wrote; ok is false if there is nothing.
func readFile(path string, into any) (ok bool, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return true, nil
}

// keepFile writes v to the disk, whole or not at all, and returns when it is there; nil
// takes the file away.
func keepFile(path string, v any) error {
	if v == nil {
		err := os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err = errors.Join(err, syncFolder(path)); err != nil {
			return fmt.Errorf("keep %s: %w", path, err)
		}
		return nil
	}
	raw, err := json.Marshal(v)
	if err == nil {
		err = replaceFile(path, raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", path, err)
	}
	return nil
}

// goesAlone returns the site's file as a host reads it that goes on without its partner.
func (c Config) goesAlone(s fleet.Spec, host, boot string) (fleet.Spec, error) {
	partner := s.Partner(host)
	if partner == "" {
		return s, nil
	}
	var disk pairDisk
	ok, err := readFile(c.pairDisk(), &disk)
	if err != nil || !ok || disk.Boot != boot || disk.begins() {
		return s, err
	}
	return s.Without(partner), nil
}

// pairLook is how often a host looks at its pair; while the store's process may not start
// it looks as often whether it may.
const pairLook = 100 * time.Millisecond

// beginPair returns when this host's member of a pair's store may start: not in a boot
// that has not the right to go on alone, and first as the only member, if it is to be.
func (c Config) beginPair(ctx context.Context, q store.QuorumConfig, partner string) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	for said := false; ; {
		var disk pairDisk
		ok, err := readFile(c.pairDisk(), &disk)
		if err != nil || !ok {
			return err
		}
		if disk.Boot == boot {
			if !disk.begins() {
				return nil
			}
			if err := store.GoAlone(ctx, q, partner, disk.Proof); err != nil {
				return err
			}
			c.Log.Warn("this store goes on as the only member", "without", partner)
			disk.Proof, disk.Anew = nil, false
			return keepFile(c.pairDisk(), disk)
		}
		if !said {
			said = true
			c.Log.Warn("this host went on alone in an earlier boot: its store waits for the word of its partner, or a person's")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pairLook):
		}
	}
}

// pair looks after this host's side of a pair.
type pair struct {
	n       *node
	partner string
	addrs   *addresses
	began   fleet.Moment

	mu   sync.Mutex // guards all below
	run  pairRun
	disk *pairDisk // nil: there is none
	why  string    // what it waits for without a leader; "" for nothing
	// led: this process has had a lease, which ended, or will end, at lost.
	led    bool
	lost   fleet.Moment
	trying bool  // to fence, or to start the store anew
	failed error // what came of the last try to fence the partner
	// leaving: this process gives up its host's vote.
	leaving    bool
	unanswered bool // the partner did not answer when it was asked last
	// asking and asked are of the partner's word, counting and counted of who votes.
	asking, counting bool
	asked, counted   fleet.Moment
	// packets is how many had come in when last one did, at heard.
	packets uint64
	heard   fleet.Moment
}

// openPair takes up what a former process of this boot left; nil where the site is no pair.
func (n *node) openPair(addrs *addresses) (*pair, error) {
	partner := n.spec.Partner(n.host)
	if partner == "" {
		return nil, nil
	}
	p := &pair{n: n, partner: partner, addrs: addrs, began: n.now()}
	if ok, err := readFile(n.cfg.pairRun(), &p.run); err != nil {
		return nil, err
	} else if !ok || p.run.Boot != n.boot {
		p.run = pairRun{Boot: n.boot}
	}
	var disk pairDisk
	if ok, err := readFile(n.cfg.pairDisk(), &disk); err != nil {
		return nil, err
	} else if ok {
		p.disk = &disk
		p.run.Alone = p.run.Alone || disk.Boot == n.boot
	}
	return p, nil
}

// keep writes what binds this boot. The caller holds the lock.
func (p *pair) keep() error { return keepFile(p.n.cfg.pairRun(), p.run) }

func (p *pair) stale() bool { return p.disk != nil && p.disk.Boot != p.n.boot }

// tend looks after the pair until ctx ends.
func (p *pair) tend(ctx context.Context) {
	ticker := time.NewTicker(pairLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := p.look(ctx); err != nil && ctx.Err() == nil {
			p.n.log.Error("look after the pair", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

func (p *pair) look(ctx context.Context) error {
	n := p.n
	state, now := n.store.State(), n.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	// Without an epoch nothing was read yet.
	if state.Epoch != 0 && !p.run.Left && state.Pair.N != p.run.Pair.N && state.Pair.N > p.run.After {
		p.run.Pair = state.Pair
		if p.disk == nil && state.Pair.Boots[n.host] == n.boot {
			p.run.Alone = false // joint again
		}
		if err := p.keep(); err != nil {
			return err
		}
		n.log.Info("the pair has agreed", "n", state.Pair.N, "first", state.Pair.First)
	}
	n.agent.Agreed(p.run.Pair.N)
	end, leased := n.agent.Lease()
	if leased {
		p.led, p.lost = true, end
	}
	p.listen(now, leased)
	if n.spec.Mode == "shadow" {
		return nil
	}
	mine := p.disk != nil && !p.stale()
	v := p.view(state, now)
	n.agent.Blind(v.Blind)
	switch {
	case p.trying:
	case mine && p.disk.begins(): // a former process was about to
		p.restart(ctx)
	case mine && n.spec.Alone == "":
		p.reread() // it is written down, and this process has not read it
	case !mine && !leased && v.Right() == "":
		if err := p.alone(ctx, state, v); err != nil {
			return err
		}
	}
	if p.leaving {
		return nil
	}
	if !p.stale() && !p.trying && !p.counting && now.Sub(p.counted) > time.Second {
		p.counted, p.counting = now, true
		go func() {
			err := p.count(ctx)
			p.mu.Lock()
			p.counting = false
			p.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				n.log.Debug("see who votes", "error", err)
			}
		}()
	}
	lacks := p.stale() || v.Right() != "" && (p.run.Left || n.store.Leader() == "")
	if !lacks {
		if leased {
			p.why = ""
		}
		return nil
	}
	if !p.asking && now.Sub(p.asked) > 2*time.Second {
		p.asked, p.asking = now, true
		go func() {
			err := p.ask(ctx)
			p.mu.Lock()
			p.asking = false
			again := p.unanswered
			p.unanswered = err != nil
			p.mu.Unlock()
			if err != nil && !again && ctx.Err() == nil {
				n.log.Info("nothing comes of asking the partner, which is asked every 2 s", "error", err)
			}
		}()
	}
	return nil
}

// reread has a new process read the site's file.
func (p *pair) reread() {
	select {
	case p.n.renewed <- struct{}{}:
	default:
	}
}

// listen notes whether anything at all comes in, and while nobody acknowledges this host
// asks its routers for a sign.
func (p *pair) listen(now fleet.Moment, leased bool) {
	me, _ := p.n.spec.Host(p.n.host)
	var own []netip.Addr
	for _, network := range fleet.Sorted(me.Addresses) {
		own = append(own, me.Addresses[network])
	}
	packets, err := p.addrs.set.Received(own)
	if err != nil {
		p.n.log.Debug("count what comes in", "error", err)
		return
	}
	if packets != p.packets || p.heard == 0 || leased {
		p.packets, p.heard = packets, now
	}
	if !leased {
		if err := p.stir(); err != nil {
			p.n.log.Debug("ask the routers for a sign", "error", err)
		}
	}
}

// stir asks every router of this host for an echo; what counts is that something comes in.
func (p *pair) stir() error {
	gateways, err := p.addrs.set.Gateways()
	if err != nil || len(gateways) == 0 {
		return err
	}
	conn, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return fmt.Errorf("open a socket for echoes: %w", err)
	}
	defer conn.Close()
	text, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1}}).Marshal(nil)
	if err != nil {
		return err
	}
	for _, gw := range gateways {
		if gw.Is4() {
			_, _ = conn.WriteTo(text, &net.IPAddr{IP: gw.AsSlice()}) // a network that is down sends nothing
		}
	}
	return nil
}

// view is what this host knows. The caller holds the lock.
func (p *pair) view(state fleet.State, now fleet.Moment) plan.PairView {
	t := p.n.spec.Timing
	v := plan.PairView{
		Self: p.n.host, Partner: p.partner, Boot: p.n.boot, Pair: p.run.Pair, Alone: p.run.Alone, Left: p.run.Left, Led: p.led, Lost: now.Sub(p.lost),
		Blind: now.Sub(p.heard) >= t.Lease, Silence: t.Silence(fleet.GuardLate), Spared: plan.PairSpared(state, p.partner),
	}
	boot, at, _ := p.n.agent.Newest(p.partner)
	v.Heard, v.Hears = boot, at != 0 && now.Sub(at) < 3*t.Beat
	// Kept when it is heard no more: without our answers its beats are soon refused as stale.
	v.Mute = p.led && at > p.lost && boot == p.run.Pair.Boots[p.partner] && !p.n.agent.SaysBlind(p.partner)
	return v
}

// alone: this host has no lease. It fences its partner when its time comes, and goes on
// alone when it has the proof. The caller holds the lock.
func (p *pair) alone(ctx context.Context, state fleet.State, v plan.PairView) error {
	if v.MayGoAlone(p.run.Proof) == "" {
		return p.goAlone(ctx, p.run.Proof)
	}
	step := v.Step()
	p.why = fmt.Sprintf("proof that %s is off, or its return: %s", p.partner, step.Why)
	if p.failed != nil {
		p.why += "; the last try: " + strings.ReplaceAll(p.failed.Error(), "\n", "; ")
	}
	if !step.Fence {
		return nil
	}
	p.trying = true
	p.n.log.Warn("fences its partner", "partner", p.partner, "boot", step.Target, "why", step.Why)
	go func() {
		proof, err := p.fence(ctx, state, step.Target)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.trying, p.failed = false, err
		if err == nil {
			p.run.Proof = proof
			err = p.keep()
		}
		if err != nil {
			p.n.log.Error("fence the partner", "partner", p.partner, "error", err)
		}
	}()
	return nil
}

// fence proves the partner's boot dead, by one level of its fence after the other.
func (p *pair) fence(ctx context.Context, state fleet.State, boot string) (fleet.Proof, error) {
	n := p.n
	victim, _ := n.spec.Host(p.partner)
	target := fence.Target{
		Host: p.partner, Boot: boot, UUID: state.Members[p.partner].UUID, By: n.host,
		Beats: func() uint64 { return n.agent.Beats(p.partner, boot) },
		Still: func() error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if _, leased := n.agent.Lease(); leased {
				return fmt.Errorf("%s acknowledges this host again", p.partner)
			}
			if step := p.view(n.store.State(), n.now()).Step(); !step.Fence || step.Target != boot {
				return fmt.Errorf("its time is over: %s", step.Why)
			}
			return nil
		},
	}
	var errs []error
	for i, level := range victim.Fence {
		proof, err := func() (fleet.Proof, error) {
			d, err := fence.OpenLevel(level)
			if err != nil {
				return fleet.Proof{}, err
			}
			defer d.Close()
			return fence.Prove(ctx, d, target)
		}()
		if err == nil {
			proof.Level = i
			return proof, nil
		}
		errs = append(errs, err)
	}
	return fleet.Proof{}, errors.Join(errs...)
}

// goAlone writes down that this host goes on alone, and has its store start anew as the
// only member. The caller holds the lock.
func (p *pair) goAlone(ctx context.Context, proof fleet.Proof) error {
	n := p.n
	n.log.Warn("goes on alone", "without", p.partner, "proof", proof.Evidence)
	disk := pairDisk{Boot: n.boot, Without: proof.Boot, Proof: &proof}
	if err := keepFile(n.cfg.pairDisk(), disk); err != nil {
		return err
	}
	p.disk, p.run.Alone, p.run.Proof = &disk, true, fleet.Proof{}
	if err := p.keep(); err != nil {
		return err
	}
	p.restart(ctx)
	return nil
}

// pairStart bounds the start of a store that begins anew.
const pairStart = time.Minute

// restart has the store's unit start anew, again and again until it has taken what the
// disk says. The caller holds the lock.
func (p *pair) restart(ctx context.Context) {
	p.trying = true
	go func() {
		var err error
		for again := true; again && ctx.Err() == nil; again = err != nil {
			if err = p.restartOnce(ctx); err != nil {
				p.n.log.Error("start the store anew as the only member", "error", err)
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.trying = false
	}()
}

func (p *pair) restartOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pairStart)
	defer cancel()
	if err := p.n.system.Stop(ctx, service.QuorumUnit); err != nil {
		return err
	}
	if err := p.n.system.Start(ctx, service.QuorumUnit); err != nil {
		return err
	}
	for {
		var disk pairDisk
		ok, err := readFile(p.n.cfg.pairDisk(), &disk)
		if err != nil {
			return err
		}
		if ok && !disk.begins() {
			p.mu.Lock()
			p.disk = &disk
			p.mu.Unlock()
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pairLook):
		}
	}
}

// ask asks the partner for its word, and follows it.
func (p *pair) ask(ctx context.Context) error {
	n := p.n
	answer, err := p.say(ctx, api.PairAsk{Do: api.PairTell, Boot: n.boot})
	p.mu.Lock()
	stale, left := p.stale(), p.run.Left
	if err != nil {
		_, p.why = plan.PairReturns(n.boot, stale, nil)
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if !stale && n.store.Leader() != "" && !(left && answer.Word.Alone) {
		if left && n.now().Sub(p.began) > plan.PairStays && !answer.Word.Alone && !answer.Word.Stale {
			return p.stay() // nothing came of it
		}
		return nil // its store is of the partner's already
	}
	does, why := plan.PairReturns(n.boot, stale, &answer.Word)
	p.mu.Lock()
	p.why = why
	p.mu.Unlock()
	switch does {
	case plan.PairGoesOn:
		p.mu.Lock()
		defer p.mu.Unlock()
		disk := *p.disk
		disk.Boot = n.boot
		if err := keepFile(n.cfg.pairDisk(), disk); err != nil {
			return err
		}
		n.log.Info("goes on with its store", "why", why)
		p.disk, p.run.Alone = &disk, true
		return p.keep()
	case plan.PairJoins:
		return p.join(ctx, why)
	}
	return nil
}

// stay: this host was about to give up its vote and has not. The two agree anew.
func (p *pair) stay() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.run.Left, p.run.After, p.run.Pair = false, p.n.store.State().Pair.N, fleet.Pair{}
	return p.keep()
}

// join puts this host's store aside and starts it as a learner of the partner's.
func (p *pair) join(ctx context.Context, why string) error {
	n := p.n
	answer, err := p.say(ctx, api.PairAsk{Do: api.PairPlace, Boot: n.boot})
	if err != nil {
		return err
	}
	if answer.Cluster == "" {
		return fmt.Errorf("%s has made no place in its store", p.partner)
	}
	stopping, cancel := context.WithTimeout(ctx, pairStart)
	defer cancel()
	if err := n.system.Stop(stopping, service.QuorumUnit); err != nil {
		return err
	}
	if err := (Cluster{Cluster: answer.Cluster, Join: true}).Save(n.cfg); err != nil {
		return err
	}
	kept, err := store.PutAside(n.cfg.StoreDir())
	if err != nil {
		return err
	}
	n.log.Warn("its store is put aside, and learns from its partner", "kept", kept, "why", why)
	if err := keepFile(n.cfg.pairDisk(), nil); err != nil {
		return err
	}
	p.mu.Lock()
	was := p.disk
	p.disk, p.run.Alone, p.run.Pair.Boots, p.run.Left, p.run.After = nil, false, nil, false, 0
	err = p.keep()
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if err := n.system.Start(stopping, service.QuorumUnit); err != nil {
		return err
	}
	if was != nil && n.spec.Alone != "" {
		p.reread()
	}
	return nil
}

func (p *pair) say(ctx context.Context, q api.PairAsk) (api.PairAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, pairStart)
	defer cancel()
	return race(ctx, p.n.peers.of(p.partner), func(ctx context.Context, c *api.Client) (a api.PairAnswer, err error) {
		return a, c.Do(ctx, "POST", "/v1/host/pair", q, &a)
	})
}

// leave gives up this host's vote by its word, before it ends or shuts down, so that its
// partner goes on alone without a fence: by a commit of both, or, if that cannot be had in
// time, by the word alone. It returns when that has begun to, or ctx ends.
func (p *pair) leave(ctx context.Context) {
	p.mu.Lock()
	if p.disk != nil || p.run.Pair.Boots[p.n.host] != p.n.boot {
		p.mu.Unlock()
		return // the partner does not rely on it
	}
	p.leaving = true
	p.run.Left, p.run.Pair.Boots = true, nil // whatever comes of it, this boot fences nobody until it is joint again
	err := p.keep()
	p.mu.Unlock()
	if err != nil {
		p.n.log.Error("give up the right to fence", "error", err)
	}
	began := p.n.now()
	for ctx.Err() == nil {
		q := api.PairAsk{Do: api.PairLeave, Boot: p.n.boot}
		if p.n.now().Sub(began) > pairVoteBound {
			q.Do = api.PairQuit
		}
		answer, err := p.say(ctx, q)
		if err == nil && answer.Word.Alone {
			return
		}
		if err != nil {
			p.n.log.Info("the partner does not go on alone yet", "asked to", q.Do, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pairLook):
		}
	}
}

// word is what this host says of itself: that it goes on alone only when it does.
func (p *pair) word() fleet.PairWord {
	w := fleet.PairWord{Host: p.n.host, Boot: p.n.boot, Stale: p.stale()}
	if p.disk != nil && p.disk.Boot == p.n.boot && !p.disk.begins() && p.n.spec.Alone != "" {
		w.Alone, w.Without, w.Left = true, p.disk.Without, p.disk.Left
	}
	return w
}

// Pair implements api.Backend.
func (n *node) Pair(ctx context.Context, host string, q api.PairAsk) (api.PairAnswer, error) {
	p := n.pair
	if p == nil || host != p.partner {
		return api.PairAnswer{}, api.Refuse(http.StatusForbidden, "", "%s is not the partner of %s", host, n.host)
	}
	switch q.Do {
	case api.PairPlace:
		h, _ := n.spec.Host(host)
		peer, err := PeerURL(h)
		if err != nil {
			return api.PairAnswer{}, err
		}
		cluster, err := n.addVoter(ctx, host, peer)
		return api.PairAnswer{Word: p.speak(), Cluster: cluster}, err
	case api.PairLeave:
		if err := p.without(ctx, q.Boot); err != nil {
			return api.PairAnswer{}, err
		}
	case api.PairQuit:
		if err := p.takeWord(ctx, q.Boot); err != nil {
			return api.PairAnswer{}, err
		}
	}
	return api.PairAnswer{Word: p.speak()}, nil
}

func (p *pair) speak() fleet.PairWord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.word()
}

// without takes the vote of a partner that leaves in good order, and goes on alone.
func (p *pair) without(ctx context.Context, boot string) error {
	n := p.n
	p.mu.Lock()
	done := p.disk != nil
	p.mu.Unlock()
	if done {
		return nil
	}
	if n.departs() {
		return api.Refuse(http.StatusConflict, "", "%s is leaving too", n.host)
	}
	voters, err := n.store.Voters(ctx)
	if err != nil {
		return err
	}
	for _, v := range voters {
		if v.Name == p.partner {
			if err := n.store.RemoveVoter(ctx, v.Name); err != nil {
				return err
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	disk := pairDisk{Boot: n.boot, Without: boot, Left: true}
	if err := keepFile(n.cfg.pairDisk(), disk); err != nil {
		return err
	}
	n.log.Info("goes on alone: its partner has given up its vote", "partner", p.partner)
	p.disk, p.run.Alone = &disk, true
	if err := p.keep(); err != nil {
		return err
	}
	p.reread()
	return nil
}

// departs says whether this host is leaving itself.
func (n *node) departs() bool { return n.down.Load() != 0 || n.bye.Load() }

// takeWord goes on alone without a partner that leaves in good order although no commit of
// both can be had: the management network is lost, say, over which the stores speak.
func (p *pair) takeWord(ctx context.Context, boot string) error {
	n := p.n
	p.mu.Lock()
	defer p.mu.Unlock()
	v := plan.PairView{Self: n.host, Partner: p.partner, Boot: n.boot, Pair: p.run.Pair, Left: p.run.Left}
	switch why := v.MayTakeWord(boot); {
	case p.disk != nil: // it goes on alone, or is about to
		return nil
	case n.departs():
		return api.Refuse(http.StatusConflict, "", "%s is leaving too", n.host)
	case why != "":
		return api.Refuse(http.StatusConflict, "", "%s", why)
	case p.trying:
		return api.Refuse(http.StatusConflict, "", "%s fences its partner", n.host)
	case n.spec.Mode == "shadow": // it would be written down, and done much later
		return api.Refuse(http.StatusConflict, "", "%s is in shadow mode", n.host)
	case ctx.Err() != nil: // nobody waits for it any more
		return ctx.Err()
	}
	n.log.Warn("goes on alone: its partner gives up its vote, and no commit of both can be had", "partner", p.partner)
	disk := pairDisk{Boot: n.boot, Without: boot, Left: true, Anew: true}
	if err := keepFile(n.cfg.pairDisk(), disk); err != nil {
		return err
	}
	p.disk, p.run.Alone = &disk, true
	return p.keep() // the next look has the store begin anew
}

// count sees who votes by this host's own store. If the partner has its vote again the time
// alone ends, whoever leads: a new process reads the site's file in which both vote. If it
// has given its vote up and this host has not written that down, what had begun goes on.
func (p *pair) count(ctx context.Context) error {
	n := p.n
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	st, err := n.store.Status(ctx)
	if err != nil {
		return err
	}
	votes := func(host string) bool {
		return slices.ContainsFunc(st.Voters, func(v store.Voter) bool { return v.Name == host && !v.Learner })
	}
	_, at, since := n.agent.Newest(p.partner)
	ear := n.now().Sub(at) <= n.spec.Timing.Lease && plan.PairEar(at.Sub(since), n.spec.Timing)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.trying || p.stale():
	case p.disk != nil && n.spec.Alone != "" && votes(p.partner) && ear:
		if err := keepFile(n.cfg.pairDisk(), nil); err != nil {
			return err
		}
		n.log.Info("the partner has its vote again", "partner", p.partner)
		p.disk = nil
		p.reread()
	case p.disk == nil && p.run.Pair.N > 0 && votes(n.host) && len(st.Voters) == 1:
		disk := pairDisk{Left: true}
		if p.run.Pair.Boots[n.host] == n.boot {
			disk.Boot = n.boot
		}
		if err := keepFile(n.cfg.pairDisk(), disk); err != nil {
			return err
		}
		n.log.Warn("finds itself the only member of its store: its partner has given up its vote", "partner", p.partner)
		p.disk, p.run.Alone = &disk, p.run.Alone || disk.Boot == n.boot
		return p.keep()
	}
	return nil
}

// SwornAlone notes on this host's disk that a person has sworn its partner off: its
// present boot goes on alone. It does nothing where the site is no pair.
func SwornAlone(c Config, spec fleet.Spec, host, by string) error {
	if spec.Partner(host) == "" {
		return nil
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	return keepFile(c.pairDisk(), pairDisk{Boot: boot, Without: "sworn off by " + by})
}

// waits is what people are told of a host of a pair without a leader.
func (p *pair) waits() (fleet.Wait, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why == "" {
		return fleet.Wait{}, false
	}
	return fleet.Wait{About: "pair/" + p.partner, For: p.why,
		Help: fmt.Sprintf("once you have seen that %s is off: systemctl stop mainstay-quorum; mainstay recover quorum; systemctl start mainstay-quorum; systemctl reload mainstay", p.partner)}, true
}
