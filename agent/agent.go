// Package agent is the eyes and hands on every host. It beats, keeps the lease
// that its beats earn, speaks for addresses as long as that lease lives, runs
// this host's copies of services, and tells every voter what it sees. On voters
// it is an ear besides.
//
// What to do is decided elsewhere: by plan.Hand (what may I do now?), by
// lease.Ear (what may I acknowledge?), both pure, and by the leader's orders.
// This package only carries out.
//
//	heartbeat.Conn --Hear--> Ear, Hand --deeds--> one goroutine that owns vip
//	orders ----------------> Hand ------deeds--> it, or one goroutine a service
//	systemd, probes -------> what each service is like
//	any change ------------> Report, to every voter
//
// A killed agent forgets nothing that binds it: the ear's table, the lease and
// the generations live in /run. A stopped one (SIGSTOP) harms nobody: the kernel
// itself shuts each address's guard when its lease ends.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mainstay/fleet"
	"mainstay/leader"
	"mainstay/lease"
	"mainstay/plan"
	"mainstay/probe/heartbeat"
	"mainstay/service"
)

// Port of the heartbeats.
const Port = 7400

// Addresses is what the agent needs of this host's virtual addresses.
type Addresses interface {
	// Claim speaks for an address until the given moment at most.
	Claim(ctx context.Context, addr netip.Addr, until fleet.Moment) (late time.Duration, err error)
	// Renew keeps every claimed address until the given moment.
	Renew(until fleet.Moment) (late time.Duration, err error)
	// Release stops speaking for one, Drop for all; both are idempotent.
	Release(ctx context.Context, addr netip.Addr) error
	Drop(ctx context.Context) error
	// Foreign says, by address, why it is on this host without our guard.
	Foreign(ctx context.Context) (map[netip.Addr]string, error)
	// Carried says which of this host's own addresses are on an interface that is up and
	// has a carrier.
	Carried(own []netip.Addr) (map[netip.Addr]bool, error)
	// Received counts the packets that have come in over their interfaces.
	Received(own []netip.Addr) (packets uint64, err error)
	// Others returns who else answers for an address right now.
	Others(ctx context.Context, addr netip.Addr) ([]net.HardwareAddr, error)
	// Sever ends this host's own TCP connections to an address; with local also
	// those from it.
	Sever(ctx context.Context, addr netip.Addr, local bool) (int, error)
	// Neighbours returns the addresses that were lately found at a MAC.
	Neighbours(mac net.HardwareAddr) ([]netip.Addr, error)
	// Watch yields each change to an address or its interface that was not ours; what
	// can be mended is mended below.
	Watch(ctx context.Context) <-chan Change
}

// Balancer tells this host's HAProxy which servers take traffic.
type Balancer interface {
	Apply(ctx context.Context, routes fleet.Routes) error
	// Finished counts the requests that this host's own server of a service has
	// answered so far; ok is false where it cannot be told.
	Finished(ctx context.Context, service string) (n uint64, ok bool)
	// Refused says why it goes on with an older configuration; "" if it does not. It
	// answers at once.
	Refused() string
}

// Fencer carries out fence, confirm and power-on orders. still says why an order that
// was accepted must not be carried out any more.
type Fencer func(ctx context.Context, o fleet.Order, still func() error) (*fleet.Proof, error)

// Config wires an agent.
type Config struct {
	Host, Boot, UUID, Version string
	Spec                      fleet.Spec
	Run                       string // /run/mainstay
	Keys                      heartbeat.Keys
	Addresses                 Addresses
	Balancer                  Balancer // nil where no HAProxy runs
	Env                       service.Env
	Fence                     Fencer
	// Cloud carries out an order to OpenStack, once still has said, right before the request,
	// that it may. Nil where this host does not know the cloud.
	Cloud func(ctx context.Context, o fleet.Order, still func() error) (fleet.Outcome, string)
	// Unrenewed says why this host's certificate ends soon; "" if it does not. It answers
	// at once; nil on a host that has none.
	Unrenewed func() string
	// Watchdog arms this host's watchdog; with keep a time-out that it has is never made
	// longer. Nil where the site's file names none.
	Watchdog func(keep bool) (Watchdog, error)
	// Ask asks another host over one network whether it hears this one; nil: it does. Nil in
	// place of the function asks nobody.
	Ask func(ctx context.Context, host, network string) error
	// Tell delivers a report to these voters; it must not block.
	Tell func(r fleet.Report, voters []string)
	// Named takes what a beat says of its host's report, as leader.Desk does; nil on hosts that
	// hear no beats.
	Named func(host, boot string, news uint64, sent fleet.Moment, wall time.Time, at fleet.Moment) (has uint64)
	// Hypervisor is a compute's, and Disks the directory of its guests' disks; nil elsewhere.
	Hypervisor Hypervisor
	Disks      string
	// Storage is a compute's, where the site's file names storage that they share; nil elsewhere.
	Storage Storage
	Now     func() fleet.Moment
	Wall    func() time.Time
	Log     *slog.Logger
}

// Agent is one host's agent. It implements leader.Eyes.
type Agent struct {
	cfg  Config
	conn *heartbeat.Conn

	work    chan struct{} // there are deeds
	powers  chan deed     // those to power switches, which wait for no address
	asks    chan ask
	answers chan leader.Answer
	news    chan struct{} // for the leader: hearing changed
	tell    chan struct{} // the report may have changed
	routed  chan fleet.Routes
	over    chan struct{} // closed when Run ends
	opened  chan struct{} // closed when Run has its socket

	beats  map[string]time.Duration // by host: how often it beats
	length time.Duration            // of this host's lease
	ears   []target                 // of every other voter: where it hears

	mu       sync.Mutex // guards all below
	spec     fleet.Spec
	hand     *plan.Hand
	deeds    []deed // not yet begun, in their order
	leaseRow *table
	ear      *lease.Ear // nil where this host is no voter
	earTable *table
	senses   map[string]*sense
	others   []*sense // those of other hosts
	// dues is, of each of them, the earliest moment at which a look could find it silent anywhere: thousands
	// of hosts are not looked at in every tick.
	dues     []fleet.Moment
	rounds   map[string]asking
	errands  map[string]*errand
	late     time.Duration
	seq      uint64
	said     fleet.Report
	saidAt   fleet.Moment
	telling  *lease.Telling    // of a host that beats slowly; nil on others, which say all of it each second
	acks     *lease.Acks       // of the same; others want each one
	speaking map[string]uint64 // address -> generation whose claim took effect
	severed  map[string]uint64
	foreign  map[string]string
	contests map[string]contest // by address
	fences   map[string]string  // host -> why its fence would prove nothing
	links    map[string]bool
	store    fleet.StoreState // what is wrong with this voter's member of the store
	paths    lease.Paths
	services map[string]fleet.ServiceState
	watchers map[string]*watcher
	watching bool // all watchers are there
	// learning is until when nothing is reported, unless all is known before: the
	// former process's word stands, and this one has nothing better yet.
	learning fleet.Moment
	routes   fleet.Routes // as last told by a leader
	applied  uint64       // revision that HAProxy has been told
	suspects []string
	ticked   fleet.Moment
	// departing is since when this host has been shutting down; zero: it is not. leaving
	// is set once the farewell was said.
	departing  fleet.Moment
	leaving    bool
	agreed     uint64              // of a pair: the number of the agreement that this host goes by
	blind      bool                // of a pair: this host receives nothing at all
	inbound    map[string]*inbound // by network without an answer
	armed      time.Duration       // of the watchdog; zero: it is not
	neighbours *lease.Neighbours   // on networks without a voter
	watchdog   Watchdog            // of guardLife alone; nil: not opened yet
	questions  map[string]*question
	frozen     map[string]fleet.Moment // by service: since when its writes wait
	guests     fleet.Guests
	machines   fleet.Guests     // the same, without their agents
	awake      map[string]int32 // by guest that runs here and is not paused: which run of it (guests.Machine.Life)
	hearts     hearts
	dumped     lease.Dumps
	readings   *lease.Readings // of storage heartbeats
	toRead     chan struct{}   // one is to be read, or has been
	storage    fleet.StorageWord
}

// resumed marks the claim of an address that a former process of this host spoke
// for under the same lease.
const resumed = "a former process of this host held it under the same lease"

// learnBound is how long a process that goes on with a stint may take to know of
// its services what the former one knew: a probe of a busy one takes its time.
const learnBound = startDeadline + time.Second

// deed is a plan.Deed with the one who waits for its effect, if anybody.
type deed struct {
	plan.Deed
	at    fleet.Moment // when it was queued
	reply func(fleet.Effect)
}

type ask struct {
	d heartbeat.Datagram
	m heartbeat.Ask
}

// asking is a question of this host's leader that is being repeated.
type asking struct {
	epoch    uint64
	round    fleet.Round
	promised map[string]bool
}

// target is where a voter hears on one of the networks that this host shares with it.
type target struct {
	host, network string
	addr          netip.AddrPort
}

// New prepares an agent: it takes up what a former process of this boot left in
// Run. Nothing is sent and nothing on the host is changed before Run.
func New(cfg Config) (*Agent, error) {
	a := &Agent{
		cfg: cfg, spec: cfg.Spec, late: fleet.GuardLate,
		work: make(chan struct{}, 1), powers: make(chan deed, 16), asks: make(chan ask, 64), answers: make(chan leader.Answer, 64),
		news: make(chan struct{}, 1), tell: make(chan struct{}, 1), routed: make(chan fleet.Routes, 1), over: make(chan struct{}), opened: make(chan struct{}),
		senses: map[string]*sense{}, rounds: map[string]asking{}, errands: map[string]*errand{}, speaking: map[string]uint64{}, severed: map[string]uint64{},
		services: map[string]fleet.ServiceState{}, watchers: map[string]*watcher{}, contests: map[string]contest{}, links: map[string]bool{}, beats: map[string]time.Duration{},
	}
	if err := os.MkdirAll(cfg.Run, 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", cfg.Run, err)
	}
	now := cfg.Now()
	a.hearts = a.recallHearts()
	memory, err := a.recall()
	if err != nil {
		return nil, err
	}
	leaseRow, rows, err := openTable(filepath.Join(cfg.Run, "lease"), cfg.Boot, 1)
	if err != nil {
		return nil, err
	}
	a.leaseRow = leaseRow
	if a.severed, err = a.recallSevered(); err != nil {
		return nil, err
	}
	memory.End = 0
	if len(rows) == 1 && rows[0].Stint.N == memory.Stint {
		memory.End = rows[0].Promised
	}
	for _, h := range cfg.Spec.Hosts {
		a.beats[h.Name], _ = cfg.Spec.Beats(h)
	}
	me, _ := cfg.Spec.Host(cfg.Host)
	for _, name := range cfg.Spec.Voters() {
		ear, _ := cfg.Spec.Host(name)
		for _, network := range fleet.Sorted(ear.Addresses) {
			if _, shared := me.Addresses[network]; shared && name != cfg.Host {
				a.ears = append(a.ears, target{name, network, netip.AddrPortFrom(ear.Addresses[network], Port)})
			}
		}
	}
	every, length := cfg.Spec.Beats(me)
	a.length = length
	if every >= cfg.Spec.Timing.SlowBeat {
		a.telling = lease.NewTelling(every)
		var ways []lease.Way
		for _, ear := range a.ears {
			ways = append(ways, lease.Way{Ear: ear.host, Network: ear.network})
		}
		a.acks = lease.NewAcks(ways)
	}
	timing := cfg.Spec.Timing
	timing.Lease = a.length
	hand, deeds := plan.NewHand(cfg.Host, cfg.Boot, memory, cfg.Spec.Voters(), timing, now)
	a.hand, a.neighbours = hand, lease.NewNeighbours(&cfg.Spec, cfg.Host, now)
	a.readings, a.toRead = lease.NewReadings(&cfg.Spec, cfg.Host, now), make(chan struct{}, 1)
	if len(deeds) == 0 {
		cfg.Log.Info("goes on with the stint of a former process", "stint", memory.Stint, "left", memory.End.Sub(now))
		a.learning = now.Add(learnBound)
		// The stint goes on: what it speaks for is taken up again, without a gap.
		for _, thing := range fleet.Sorted(memory.Held) {
			g := memory.Held[thing]
			a.speaking[nameOf(thing)] = g
			deeds = append(deeds, plan.Deed{Do: plan.DoClaim, Thing: thing, Generation: g, Why: resumed})
		}
	}
	a.queue(deeds, nil)
	if me.Voter {
		t, rows, err := openTable(filepath.Join(cfg.Run, "ears"), cfg.Boot, 4*max(64, 2*len(cfg.Spec.Hosts)))
		if err != nil {
			return nil, err
		}
		a.earTable, a.ear = t, lease.NewEar(cfg.Host, cfg.Spec.Timing, rows, now)
	}
	return a, a.keep()
}

func nameOf(thing string) string {
	_, name, _ := cutThing(thing)
	return name
}

func cutThing(thing string) (kind, name string, ok bool) {
	for i := range thing {
		if thing[i] == '/' {
			return thing[:i], thing[i+1:], true
		}
	}
	return "", thing, false
}

// Run keeps the agent going until ctx ends. Addresses, services and HAProxy are
// left as they are: the next process goes on with them, or the kernel ends what
// nobody renews.
func (a *Agent) Run(ctx context.Context) error {
	conn, err := a.listen()
	if err != nil {
		return err
	}
	a.conn = conn
	close(a.opened)
	defer conn.Close()
	var wait sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); close(a.over); wait.Wait() }()
	for _, loop := range []func(context.Context){a.carryOut, a.promise, a.report, a.balance, a.guardLoss, a.countInbound} {
		wait.Go(func() { loop(ctx) })
	}
	if me, _ := a.spec.Host(a.cfg.Host); a.cfg.Watchdog != nil {
		wait.Go(func() { a.guardLife(ctx, me.Watchdog) })
	}
	if me, _ := a.spec.Host(a.cfg.Host); me.Voter {
		wait.Go(func() { a.hearDumps(ctx) })
	}
	if a.cfg.Hypervisor != nil {
		wait.Go(func() { a.watchGuests(ctx) })
		wait.Go(func() { a.askHearts(ctx) })
	}
	if a.cfg.Storage != nil {
		wait.Go(func() { a.beatToStorage(ctx) })
	}
	a.askNeighbours(ctx, &wait)
	a.watchServices(ctx, &wait)
	return a.beat(ctx)
}

func (a *Agent) listen() (*heartbeat.Conn, error) {
	me, ok := a.spec.Host(a.cfg.Host)
	if !ok {
		return nil, fmt.Errorf("the site's file has no host %s", a.cfg.Host)
	}
	nets := map[string]netip.AddrPort{}
	for name, addr := range me.Addresses {
		nets[name] = netip.AddrPortFrom(addr, Port)
	}
	var peers []string
	for _, h := range a.spec.Hosts {
		if me.Voter || h.Voter {
			peers = append(peers, h.Name)
		}
	}
	return heartbeat.Open(heartbeat.Config{
		Site: a.spec.Site, Host: a.cfg.Host, Boot: a.cfg.Boot, Networks: nets, Keys: a.cfg.Keys, Peers: peers,
		Hear: a.hear, Now: a.cfg.Now,
		Conflict: func(c heartbeat.Conflict) {
			a.cfg.Log.Error("two machines live under one name", "host", c.Host, "network", c.Network, "from", c.From, "other", c.Other, "why", c.Why)
		},
	})
}

// beat is the loop that a host's life hangs on: at each interval it looks at the
// clock first, then beats.
func (a *Agent) beat(ctx context.Context) error {
	every, length := a.beats[a.cfg.Host], a.length
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		a.tick(every, length)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (a *Agent) tick(every, length time.Duration) {
	now := a.cfg.Now()
	a.mu.Lock()
	if gap := now.Sub(a.ticked); a.ticked != 0 && gap > 3*every {
		if a.ear != nil {
			a.ear.Return(now)
		}
		a.neighbours.Return(now)
		a.cfg.Log.Warn("this agent got no CPU in time: its own beats were late, and what it heard is judged anew", "late", gap-every)
	}
	a.ticked = now
	a.queue(a.hand.Tick(now), nil)
	b := heartbeat.Beat{Stint: a.hand.Stint(), Sent: now, Late: a.late, Leased: a.hand.Leased(now), Next: every, Lease: length, Blind: a.blind}
	// While what the former stint held is not yet gone, this one must not be heard of,
	// by this host's own ear neither.
	silent := a.hand.Silent()
	if a.ear != nil {
		if !silent {
			a.heardBeat(b, "", now)
			if a.earBeat(b, now) {
				a.acked(a.cfg.Host, b.Stint, b.Sent, now)
			}
		}
		a.suspect(now)
	}
	if a.due(now) {
		a.poke(a.tell)
	}
	var wanted []bool // of each copy an acknowledgement; nil: all
	if !silent {
		a.name(&b)
		if a.acks != nil {
			wanted = a.acks.Wanted(now)
		}
	}
	a.mu.Unlock()
	if silent {
		return
	}
	for i, ear := range a.ears {
		b.Spared = wanted != nil && !wanted[i]
		// A beat that the kernel cannot take is a lost beat, as on the wire;
		// what follows from losing them is the lease's business.
		_ = a.conn.Send(ear.host, ear.network, ear.addr, b)
	}
}

// hear takes one authentic message.
func (a *Agent) hear(d heartbeat.Datagram) {
	switch m := d.Message.(type) {
	case heartbeat.Beat:
		a.mu.Lock()
		if a.ear == nil {
			a.mu.Unlock()
			return
		}
		first := a.heardBeat(m, d.Network, d.At)
		ack := a.earBeat(m, d.At) && !m.Spared
		a.mu.Unlock()
		x := heartbeat.Ack{Stint: m.Stint, Sent: m.Sent}
		if m.News != 0 && a.cfg.Named != nil && (ack || first) {
			x.News = a.cfg.Named(d.Host, m.Stint.Boot, m.News, m.Sent, m.Wall, d.At)
		}
		if ack {
			_ = a.conn.ReplyTogether(d, x)
		}
	case heartbeat.Ack:
		now := a.cfg.Now()
		a.mu.Lock()
		if m.Stint.Boot == a.cfg.Boot {
			a.paths.Acked(d.Network, m.Sent)
			if a.telling != nil {
				a.telling.Acked(d.Host, m.News, m.Sent)
				a.acks.Acked(lease.Way{Ear: d.Host, Network: d.Network}, m.Sent)
			}
		}
		a.acked(d.Host, m.Stint, m.Sent, now)
		a.mu.Unlock()
	case heartbeat.Ask:
		select {
		case a.asks <- ask{d, m}:
		default: // the leader asks again in a moment
		}
	case heartbeat.Answer:
		a.mu.Lock()
		if r, ok := a.rounds[m.Stint.Host]; ok && r.epoch == m.Epoch && r.round.Number == m.Round && m.Promised {
			r.promised[d.Host] = true
		}
		a.mu.Unlock()
		a.answer(leader.Answer{Ear: d.Host, Stint: m.Stint, Round: m.Round, Promised: m.Promised, Why: m.Why, Arrived: d.At, Silent: m.Silent})
	}
}

func (a *Agent) answer(x leader.Answer) {
	select {
	case a.answers <- x:
	default: // nobody leads here, or it is flooded: asked again in a moment
	}
}

// acked lets the hand judge an acknowledgement. The caller holds the lock and
// read now before it used the acknowledgement.
func (a *Agent) acked(ear string, stint fleet.Stint, sent, now fleet.Moment) {
	was, end := a.hand.Leased(now), a.hand.End()
	a.queue(a.hand.Ack(ear, stint, sent, now), nil)
	if a.hand.End() != end {
		a.keepEnd()
	}
	if is := a.hand.Leased(now); is != was {
		a.poke(a.tell)
	}
}

// earBeat gives a beat to this host's ear; what the ear knows is in the mapped
// table before anybody is told. The caller holds the lock.
func (a *Agent) earBeat(b heartbeat.Beat, now fleet.Moment) bool {
	ack, _ := a.ear.Beat(lease.Beat{Stint: b.Stint, Sent: b.Sent, Late: b.Late}, now)
	if b.Spared {
		return ack // nobody is told, and the copy for which somebody is brings the same
	}
	if err := a.putRow(b.Stint); err != nil {
		a.cfg.Log.Error("keep what this ear heard", "error", err)
		return false // what cannot be remembered must not be said
	}
	return ack
}

func (a *Agent) putRow(s fleet.Stint) error {
	row, ok := a.ear.Row(s)
	if !ok {
		return nil
	}
	return a.earTable.put(row, func() []lease.Row { return a.ear.Boots(s.Host) })
}

// promise answers leaders' questions, one after another, each after everything
// that already waits in the sockets has been heard.
func (a *Agent) promise(ctx context.Context) {
	for {
		var q ask
		select {
		case <-ctx.Done():
			return
		case q = <-a.asks:
		}
		if _, err := a.conn.Drain(ctx); err != nil {
			continue // unheard is unanswered
		}
		x := a.earAsk(q.m.Stint, q.m.Evict)
		_ = a.conn.Reply(q.d, heartbeat.Answer{Epoch: q.m.Epoch, Round: q.m.Round, Stint: q.m.Stint, Promised: x.Promised, Why: x.Why, Silent: x.Silent})
	}
}

func (a *Agent) earAsk(stint fleet.Stint, evict bool) leader.Answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := leader.Answer{Ear: a.cfg.Host, Stint: stint}
	if a.ear == nil {
		x.Why = "this host is no voter"
		return x
	}
	now := a.cfg.Now()
	x.Promised, x.Why = a.ear.Ask(stint, evict, now)
	x.Silent, x.Arrived = a.ear.Silent(stint, now), now
	if err := a.putRow(stint); err != nil {
		x.Promised, x.Why = false, err.Error()
	}
	return x
}

// Ask implements leader.Eyes.
func (a *Agent) Ask(epoch uint64, round fleet.Round) {
	a.mu.Lock()
	a.rounds[round.Stint.Host] = asking{epoch: epoch, round: round, promised: map[string]bool{}}
	a.mu.Unlock()
	go a.repeat(epoch, round)
}

// repeat asks every ear that has not promised, until the round is stale.
func (a *Agent) repeat(epoch uint64, round fleet.Round) {
	const again = 10 * time.Millisecond
	m := heartbeat.Ask{Epoch: epoch, Round: round.Number, Stint: round.Stint, Evict: round.Evict}
	select {
	case <-a.opened: // a leader may decide before its host's agent runs
	case <-a.over:
		return
	}
	for {
		a.mu.Lock()
		r, spec := a.rounds[round.Stint.Host], a.spec
		promised := make(map[string]bool, len(r.promised))
		for k, v := range r.promised {
			promised[k] = v
		}
		a.mu.Unlock()
		now := a.cfg.Now()
		if r.epoch != epoch || r.round.Number != round.Number || lease.Stale(round, spec.Timing, now) || len(promised) == len(spec.Voters()) {
			return
		}
		for _, ear := range a.ears {
			if !promised[ear.host] {
				_ = a.conn.Send(ear.host, ear.network, ear.addr, m) // repeated below
			}
		}
		if me := a.cfg.Host; !promised[me] {
			if x := a.ownAnswer(round); x.Promised {
				a.mu.Lock()
				r.promised[me] = true
				a.mu.Unlock()
				a.answer(x)
			}
		}
		timer := time.NewTimer(again)
		<-timer.C
	}
}

func (a *Agent) ownAnswer(round fleet.Round) leader.Answer {
	ctx, cancel := context.WithTimeout(context.Background(), a.cfg.Spec.Timing.Lease)
	defer cancel()
	if _, err := a.conn.Drain(ctx); err != nil {
		return leader.Answer{Why: err.Error()}
	}
	x := a.earAsk(round.Stint, round.Evict)
	x.Round = round.Number
	return x
}

// Answers implements leader.Eyes.
func (a *Agent) Answers() <-chan leader.Answer { return a.answers }

// Changed implements leader.Eyes.
func (a *Agent) Changed() <-chan struct{} { return a.news }

// Heard implements leader.Eyes.
func (a *Agent) Heard() map[string]fleet.Heard {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ear == nil {
		return map[string]fleet.Heard{}
	}
	now, hosts := a.cfg.Now(), a.ear.Hosts()
	out := make(map[string]fleet.Heard, len(hosts))
	for _, host := range hosts {
		newest, rival := a.ear.Newest(host, now)
		if newest.Heard == 0 {
			continue // only asked about
		}
		h := fleet.Heard{Stint: newest.Stint, Last: newest.Heard, Late: newest.Late, Rival: rival}
		s := a.senses[host]
		if s == nil {
			h.Nets = map[string]fleet.Moment{}
		} else if h.Leased, h.Nets = s.leased, maps.Clone(s.nets); now.Sub(s.back) < a.quiet() {
			for network := range s.nets {
				if again := s.again[network]; now.Sub(again) < a.quiet() {
					if h.Again == nil {
						h.Again = map[string]fleet.Moment{}
					}
					h.Again[network] = again
				}
			}
		}
		out[host] = h
	}
	return out
}

// Ticking says whether the loop that the host's life hangs on makes progress.
func (a *Agent) Ticking() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg.Now().Sub(a.ticked) < 5*time.Second
}

// Epoch is the highest that this host has been told of.
func (a *Agent) Epoch() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hand.Memory().Epoch
}

// Beats counts up with every beat of a boot that this ear hears: a host that
// still beats is not off, whatever its BMC says.
func (a *Agent) Beats(host, boot string) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ear == nil {
		return 0
	}
	row, _ := a.ear.Row(fleet.Stint{Host: host, Boot: boot})
	return uint64(row.Heard)
}

func (a *Agent) poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// queue hands deeds to the goroutine that carries them out, in their order. The
// caller holds the lock.
func (a *Agent) queue(deeds []plan.Deed, reply func(fleet.Effect)) {
	for _, d := range deeds {
		if d.Do == plan.DoDrop {
			clear(a.speaking)
			if err := a.keep(); err != nil {
				a.cfg.Log.Error("keep what binds this host", "error", err)
			}
			a.poke(a.tell)
		}
		x := deed{Deed: d, at: a.cfg.Now()}
		if d.Order.Key != "" {
			x.reply = reply
		}
		if d.Apart() {
			a.powers <- x
			continue
		}
		a.line(x)
	}
}

// line puts a deed behind those that wait. It never blocks: whoever calls holds
// the lock, which the goroutine that carries deeds out needs to go on.
func (a *Agent) line(d deed) {
	if n := len(a.deeds); d.Do == plan.DoRenew && n > 0 && a.deeds[n-1].Do == plan.DoRenew {
		return // several renewals that queue up are one
	}
	a.deeds = append(a.deeds, d)
	a.poke(a.work)
}

// next takes the first deed that waits.
func (a *Agent) next() (d deed, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.deeds) == 0 {
		return d, false
	}
	d, a.deeds = a.deeds[0], a.deeds[1:]
	return d, true
}

// errand is an order that is being followed, or was a moment ago.
type errand struct {
	done   chan struct{} // closed when effect is there
	effect fleet.Effect
	ended  fleet.Moment
}

// errandsKept is how long the effect of an order answers further copies of it.
const errandsKept = time.Minute

// Order follows an order and returns its effect. It waits as long as the deed
// takes, at most until ctx ends. A copy of an order, come over another network,
// waits for the same effect.
func (a *Agent) Order(ctx context.Context, o fleet.Order) fleet.Effect {
	key := fmt.Sprintf("%d/%s/%d", o.Epoch, o.Key, o.Try)
	a.mu.Lock()
	e, copied := a.errands[key]
	if !copied {
		now := a.cfg.Now()
		for k, old := range a.errands {
			if old.ended != 0 && now.Sub(old.ended) > errandsKept {
				delete(a.errands, k)
			}
		}
		e = &errand{done: make(chan struct{})}
		a.errands[key] = e
	}
	a.mu.Unlock()
	if !copied {
		go func() {
			// The deed goes on although the one who asked has gone.
			effect := a.follow(o)
			a.mu.Lock()
			e.effect, e.ended = effect, a.cfg.Now()
			a.mu.Unlock()
			close(e.done)
		}()
	}
	select {
	case <-e.done:
		return e.effect
	case <-ctx.Done():
		return fleet.Effect{Key: o.Key, From: a.cfg.Host, Outcome: fleet.NoWord, Why: "it is still at it", Wall: a.cfg.Wall()}
	}
}

func (a *Agent) follow(o fleet.Order) fleet.Effect {
	done := make(chan fleet.Effect, 1)
	a.mu.Lock()
	deeds, refusal := a.hand.Order(o, a.cfg.Now())
	if refusal == nil {
		if err := a.keep(); err != nil {
			refusal = &fleet.Effect{Key: o.Key, From: a.cfg.Host, Outcome: fleet.Broken, Why: err.Error()}
			deeds = slices.DeleteFunc(deeds, func(d plan.Deed) bool { return d.Order.Key != "" })
		}
	}
	a.queue(deeds, func(e fleet.Effect) { done <- e })
	a.mu.Unlock()
	a.poke(a.tell) // the epoch may be a new one
	if refusal != nil {
		refusal.Wall = a.cfg.Wall()
		return *refusal
	}
	select {
	case e := <-done:
		return e
	case <-a.over:
		return fleet.Effect{Key: o.Key, From: a.cfg.Host, Outcome: fleet.NoWord, Why: "the agent ends", Wall: a.cfg.Wall()}
	}
}

// recall reads the memory that a former process of this boot left.
func (a *Agent) recall() (plan.Memory, error) {
	var m plan.Memory
	raw, err := os.ReadFile(filepath.Join(a.cfg.Run, "memory.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("read what a former process left: %w", err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return plan.Memory{}, fmt.Errorf("read what a former process left in %s: %w", filepath.Join(a.cfg.Run, "memory.json"), err)
	}
	if m.Boot != a.cfg.Boot {
		return plan.Memory{}, nil
	}
	return m, nil
}

// keep writes the memory to /run, whole or not at all. The caller holds the lock
// (or is alone).
func (a *Agent) keep() error {
	raw, err := json.Marshal(a.hand.Memory())
	if err != nil {
		return fmt.Errorf("keep memory: %w", err)
	}
	path := filepath.Join(a.cfg.Run, "memory.json")
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return fmt.Errorf("keep memory: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("keep memory: %w", err)
	}
	a.keepEnd()
	return nil
}

// keepEnd stores the lease's end where the next process finds it.
func (a *Agent) keepEnd() {
	s := a.hand.Stint()
	row := lease.Row{Stint: fleet.Stint{Host: "lease", Boot: a.cfg.Boot, N: s.N}, Promised: a.hand.End()}
	if err := a.leaseRow.put(row, func() []lease.Row { return nil }); err != nil {
		a.cfg.Log.Error("keep the lease's end", "error", err)
	}
}

// Farewell is this host's last report, for when Run is about to end or has ended because
// somebody stopped the agent: no later one takes it back.
func (a *Agent) Farewell() fleet.Report {
	now := a.cfg.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaving = true
	r := a.testimony(now)
	r.Seq, r.Wall = a.number(now), a.cfg.Wall()
	r.News = r.Seq
	return r
}

// due says whether a report is: the last one is a second old, or what changes by the
// mere passing of time has. All else that changes says so itself. The caller holds
// the lock.
func (a *Agent) due(now fleet.Moment) bool {
	if now.Sub(a.saidAt) >= a.retold() || a.said.Leased != a.hand.Leased(now) || a.said.Stint != a.hand.Stint().N {
		return true
	}
	for network, up := range a.linked() {
		if a.said.Links[network] != up {
			return true
		}
	}
	return !maps.Equal(a.said.Unanswered, a.unanswered(now)) || !maps.EqualFunc(a.said.Neighbours, a.neighbours.Word(now), fleet.Neighbourhood.Equal)
}

// number gives a report its number, which rises also over restarts of the agent
// within one boot. The caller holds the lock.
func (a *Agent) number(now fleet.Moment) uint64 {
	a.seq = max(a.seq+1, uint64(now))
	return a.seq
}

// knows says whether every service of this host has been asked how it is. The
// caller holds the lock.
func (a *Agent) knows() bool {
	for _, name := range fleet.Sorted(a.watchers) {
		if !a.watchers[name].known {
			return false
		}
	}
	return a.watching
}

// testimony is what this host says of itself. The caller holds the lock.
func (a *Agent) testimony(now fleet.Moment) fleet.Report {
	m := a.hand.Memory()
	r := fleet.Report{
		Host: a.cfg.Host, Boot: a.cfg.Boot, Stint: a.hand.Stint().N, Epoch: m.Epoch, Version: a.cfg.Version,
		Leased: a.hand.Leased(now), Late: a.late, UUID: a.cfg.UUID, GivenUp: m.GivenUp, Routes: a.applied, GoesDown: a.departing != 0, Leaving: a.leaving, Watchdog: a.armed, Store: a.store, Pair: a.agreed,
		Addresses: map[string]fleet.AddressState{}, Services: map[string]fleet.ServiceState{}, Links: a.linked(), Unanswered: a.unanswered(now), Neighbours: a.neighbours.Word(now), Severed: map[string]uint64{},
	}
	for _, addr := range a.spec.Addresses {
		g, held := m.Held[addr.Thing()]
		switch {
		case held && a.speaking[addr.Name] == g:
			r.Addresses[addr.Name] = fleet.AddressState{Generation: g, Phase: fleet.Speaking, Contested: a.contested(addr.Name, now)}
		case held:
			r.Addresses[addr.Name] = fleet.AddressState{Generation: g, Phase: fleet.Shut, Contested: a.contested(addr.Name, now)}
		case a.foreign[addr.Name] != "":
			r.Addresses[addr.Name] = fleet.AddressState{Phase: fleet.Foreign, Why: a.foreign[addr.Name]}
		case m.Seen[addr.Thing()] > 0:
			// It has nothing, and a lower generation than this it will refuse.
			r.Addresses[addr.Name] = fleet.AddressState{Generation: m.Seen[addr.Thing()]}
		}
	}
	for name, s := range a.services {
		if v, ok := a.spec.Service(name); ok && v.Mode.Exclusive() {
			s.Generation = m.Running["service/"+name]
			if p := plan.Exclusive(v, s).Phase; p == fleet.Stopped || p == fleet.Failed || p == fleet.Absent {
				s.Generation = m.Seen["service/"+name] // a lower one it will refuse
			}
		}
		r.Services[name] = s
	}
	for k, v := range a.severed {
		r.Severed[k] = v
	}
	r.Fences, r.Parted, r.Guests, r.Dumps = a.fences, a.parted(), a.guests, a.dumped.Word(now, a.ear)
	r.Storage = a.storage
	if a.cfg.Balancer != nil {
		r.Refused = a.cfg.Balancer.Refused()
	}
	if a.cfg.Unrenewed != nil {
		r.Unrenewed = a.cfg.Unrenewed()
	}
	return r
}
