package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
	"mainstay/probe"
	"mainstay/service"
)

// watcher looks after this host's copy of one service: it asks for its state
// whenever systemd says that something changed and at every interval besides,
// probes it at layer 7, and carries out orders, one at a time.
type watcher struct {
	service fleet.Service
	copy    service.Copy
	busy    sync.Mutex    // held while an order is carried out
	look    chan struct{} // look at once
	begins  bool          // it begins a cluster by an order; guarded by the agent's lock, as is doing
	still   *probe.Sample // since when it uses no CPU while it does; of the one goroutine that looks
	doing   string        // phase while an order is carried out; guarded by the agent's lock
	yield   func()        // ends the wait for a start that is under way, not the start; guarded so too
	known   bool          // its state and its check have been asked for; guarded so too
}

// stuckAfter is how long a copy may be hung before it is killed and restarted.
const stuckAfter = 10 * time.Second

// ownStuckAfter is the same for a kind that asks on a connection of its own: nobody's
// request stands in line before the question, and its peers wait for the one that hangs.
const ownStuckAfter = 3 * time.Second

// calmSample is how often a copy that answers is looked at closer, to have
// something to compare with when it does not.
const calmSample = time.Second

// stateDeadline bounds one question for a copy's state: during a daemon-reload
// systemd answers nobody for the better part of a second.
const stateDeadline = 3 * time.Second

// patience is how long a copy may take to say how it is: some kinds know better.
func patience(c service.Copy) time.Duration {
	if own, ok := c.(interface{ Patience() time.Duration }); ok {
		return own.Patience()
	}
	return stateDeadline
}

// startDeadline is how long a copy that has never answered may take to.
const startDeadline = 5 * time.Second

// watchServices starts a watcher for every service that may live here.
func (a *Agent) watchServices(ctx context.Context, wait *sync.WaitGroup) {
	for _, v := range a.spec.Services {
		mine := false
		for _, home := range a.spec.Homes(v) {
			mine = mine || home == a.cfg.Host
		}
		if !mine {
			continue
		}
		c, err := service.Open(v, a.cfg.Env)
		if err != nil {
			a.cfg.Log.Error("open service", "service", v.Name, "error", err)
			continue
		}
		w := &watcher{service: v, copy: c, look: make(chan struct{}, 1)}
		a.mu.Lock()
		a.watchers[v.Name] = w
		a.mu.Unlock()
		wait.Go(func() {
			defer c.Close()
			w.run(ctx, a)
		})
	}
	a.mu.Lock()
	a.watching = true
	a.mu.Unlock()
}

func (w *watcher) run(ctx context.Context, a *Agent) {
	prepare := w.copy.Prepare
	if a.spec.Mode == "shadow" {
		prepare = w.copy.Forget // nobody would lift a bar after the next boot
		if o, ok := w.copy.(service.Onlooker); ok {
			prepare = o.LookOn
		}
	}
	if err := prepare(ctx); err != nil && ctx.Err() == nil {
		a.cfg.Log.Error("prepare service", "service", w.service.Name, "error", err)
	}
	events := w.copy.Events(ctx)
	w.service.Check.Every = cmp.Or(w.service.Check.Every, time.Second) // only a Spec that no file was read for says nothing
	ticker := time.NewTicker(w.service.Check.Every)
	defer ticker.Stop()
	p := newPulse(w.service, a)
	if w.service.Check.Kind == "" {
		p.own, _ = w.copy.(service.Prober)
	}
	_, p.member = w.copy.(service.Member)
	p.reset()
	for {
		w.observe(ctx, a, p)
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				events = nil
			}
		case <-w.look:
		case <-ticker.C:
		case <-p.answered:
		}
	}
}

// observe asks once and tells the agent.
func (w *watcher) observe(ctx context.Context, a *Agent, p *pulse) {
	asking, cancel := context.WithTimeout(ctx, patience(w.copy))
	defer cancel()
	begun := a.cfg.Now()
	s, err := w.copy.State(asking)
	if err != nil {
		s.Phase, s.Why = fleet.Unknown, err.Error()
	}
	asked := true
	if s.Phase == fleet.Running {
		ready, why, err := w.copy.Ready(asking)
		if err != nil {
			ready, why = false, err.Error()
		}
		s.Ready = ready
		if why != "" {
			s.Why = why
		}
		if m, ok := w.copy.(service.Member); ok {
			s.Replica = m.Replica(s.Phase)
		}
		asked = w.check(ctx, a, p, &s)
	} else {
		p.reset()
		w.standstill(ctx, a, &s)
	}
	a.mu.Lock()
	if w.doing != "" && s.Phase != fleet.Running {
		s.Phase = w.doing
	}
	before := a.services[w.service.Name]
	s = s.Follows(before, a.cfg.Wall())
	a.services[w.service.Name] = s
	if m, ok := w.copy.(service.Mirrored); ok && m.Resource() != "" {
		a.mirrored(w.service, s, begun)
	}
	news := before != s || asked && !w.known
	w.known = w.known || asked
	a.mu.Unlock()
	if news {
		a.poke(a.tell)
	}
}

// check adds what the layer-7 probe and the copy's own signs of life say. It
// returns false as long as no probe has ended.
func (w *watcher) check(ctx context.Context, a *Agent, p *pulse, s *fleet.ServiceState) bool {
	if w.service.Check.Kind == "" && p.own == nil {
		return true
	}
	r, hung, stuck := p.beat(ctx, a, w)
	switch {
	case hung != "":
		s.Ready, s.Hung, s.Stuck, s.Why = false, true, stuck, hung
	case r.Kind == "":
		s.Ready = false
		if s.Why == "" {
			s.Why = "not probed yet"
		}
	case !r.OK && r.Kind != probe.Timeout:
		s.Ready, s.Why = false, r.Why
	case !r.OK && !p.everOK:
		// It has not answered since it was started: not ready, and not hung.
		s.Ready, s.Why = false, r.Why
	}
	return r.Kind != ""
}

// pulse is one running probe of a copy, and the signs by which a hung copy is
// told from a busy one.
type pulse struct {
	check    fleet.Check
	target   netip.Addr
	own      service.Prober // asks instead, where the check names no kind
	member   bool           // of a cluster: systemd calls it running only when its start has ended
	answered chan struct{}

	mu      sync.Mutex
	running bool
	asked   fleet.Moment // when the newest question was put
	result  probe.Result

	everOK  bool
	samples []probe.Sample
	overdue fleet.Moment // since when a probe is past its deadline; zero: the last was answered
	hung    fleet.Moment // since when the copy has been hung
	why     string
}

func newPulse(v fleet.Service, a *Agent) *pulse {
	me, _ := a.spec.Host(a.cfg.Host)
	target := netip.MustParseAddr("127.0.0.1")
	network := v.Listen.Network
	if network == "" && len(a.spec.Networks) > 0 {
		network = "management"
	}
	if own, ok := me.Addresses[network]; ok {
		target = own
	}
	return &pulse{check: v.Check, target: target, answered: make(chan struct{}, 1)}
}

func (p *pulse) reset() {
	p.mu.Lock()
	p.result = probe.Result{}
	p.mu.Unlock()
	p.everOK, p.samples, p.overdue, p.hung = p.member, nil, 0, 0
}

// beat starts a probe unless one is under way, and judges what is known so far.
func (p *pulse) beat(ctx context.Context, a *Agent, w *watcher) (r probe.Result, hung string, stuck bool) {
	now := a.cfg.Now()
	p.mu.Lock()
	r = p.result
	// An answer brings us here at once, but the next question has its time.
	if !p.running && (p.asked == 0 || now.Sub(p.asked) >= p.check.Every*9/10) {
		p.running, p.asked = true, now
		check := p.check
		if !p.everOK {
			// It is starting: question upon question would only queue up before it.
			check.Deadline = max(check.Deadline, startDeadline)
		}
		go p.run(ctx, check)
	}
	p.mu.Unlock()
	if r.OK {
		p.everOK = true
	}
	if r.Kind != probe.Timeout {
		p.overdue, p.hung = 0, 0
	} else if p.overdue == 0 {
		p.overdue = now
	}
	if n := len(p.samples); p.overdue == 0 && n > 0 && now.Sub(p.samples[n-1].At) < calmSample {
		return r, "", false
	}
	next := probe.Sample{At: now, Overdue: p.overdue}
	if !p.everOK || !p.sample(ctx, a, w, &next) {
		p.samples = nil // without all three signs nothing is said
		return r, "", false
	}
	// Samples are taken while all is well too, so that a hang shows as soon as the
	// probe is overdue: compared is the newest one that is old enough.
	p.samples = append(p.samples, next)
	for len(p.samples) > 2 && now.Sub(p.samples[1].At) >= probe.Still {
		p.samples = p.samples[1:]
	}
	if p.overdue == 0 || now.Sub(p.samples[0].At) < probe.Still {
		if p.hung != 0 {
			return r, p.why, now.Sub(p.hung) >= p.patience()
		}
		return r, "", false
	}
	is, why := probe.Hung(p.samples[0], next)
	if !is {
		p.hung = 0
		return r, "", false
	}
	if p.hung == 0 {
		p.hung, p.why = now, why // the first words: a report changes only when something does
	}
	return r, p.why, now.Sub(p.hung) >= p.patience()
}

// patience is how long the copy may be hung.
func (p *pulse) patience() time.Duration {
	if p.own != nil && !p.member {
		return ownStuckAfter
	}
	return stuckAfter
}

// sample adds how much the copy has worked so far; false if it cannot be told.
func (p *pulse) sample(ctx context.Context, a *Agent, w *watcher, s *probe.Sample) bool {
	pids, err := w.copy.PIDs(ctx)
	if err != nil || len(pids) == 0 {
		return false
	}
	if s.CPU, err = probe.ProcessUsage(pids); err != nil {
		return false
	}
	if a.cfg.Balancer == nil || w.service.Listen.Port == 0 {
		return true
	}
	if w.service.Listen.Protocol != "http" {
		return true // HAProxy counts no requests of others; the two other signs remain
	}
	finished, ok := a.cfg.Balancer.Finished(ctx, w.service.Name)
	s.Finished = finished
	return ok
}

func (p *pulse) run(ctx context.Context, check fleet.Check) {
	var r probe.Result
	if p.own != nil {
		r = askOwn(ctx, p.own, check.Deadline)
	} else if got, err := probe.Probe(ctx, p.target, check); err != nil {
		r = probe.Result{Kind: probe.Bad, Why: err.Error()}
	} else {
		r = got
	}
	p.mu.Lock()
	p.running, p.result = false, r
	p.mu.Unlock()
	select {
	case p.answered <- struct{}{}:
	default:
	}
}

// askOwn puts a kind's own question.
func askOwn(ctx context.Context, own service.Prober, deadline time.Duration) probe.Result {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(deadline, probe.DefaultDeadline))
	defer cancel()
	err := own.Probe(ctx)
	switch {
	case err == nil:
		return probe.Result{OK: true, Kind: probe.Answered}
	case errors.Is(err, service.ErrUnknown):
		return probe.Result{Kind: probe.Timeout, Why: err.Error()}
	}
	return probe.Result{Kind: probe.Bad, Why: err.Error()}
}

// copies is how every copy is at this moment, what is being done to it included. The
// caller holds the lock.
func (a *Agent) copies() map[string]fleet.ServiceState {
	out := make(map[string]fleet.ServiceState, len(a.services))
	for name, s := range a.services {
		if w := a.watchers[name]; w != nil && w.doing != "" {
			s.Phase = w.doing
		}
		out[name] = s
	}
	return out
}

// operate carries out one order on the copy.
func (w *watcher) operate(ctx context.Context, a *Agent, o fleet.Order) error {
	if o.Verb == plan.VerbPosition || o.Verb == fleet.VerbTend {
		// A member waits in its start for peers that may never come, and this order ends that.
		a.mu.Lock()
		if w.yield != nil {
			w.yield()
		}
		a.mu.Unlock()
	}
	w.busy.Lock()
	defer w.busy.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	phase := fleet.Starting
	if o.Verb == fleet.VerbStop || o.Verb == fleet.VerbDemote || o.Verb == plan.VerbPosition {
		phase = fleet.Stopping
	}
	a.mu.Lock()
	// What was done while this one waited may have given its generation up.
	why := a.hand.Refuses(o, a.cfg.Now())
	if why == "" {
		why = plan.Obstructed(&a.spec, o, a.copies())
	}
	if why == "" {
		w.doing = phase
		switch {
		case o.Verb == fleet.VerbStart || o.Verb == plan.VerbJoin:
			w.yield = cancel
		case o.Generation > 0 && (o.Verb == plan.VerbBootstrap || o.Verb == plan.VerbPosition):
			// Given up before the deed: were it repeated, by a copy of the order or by a new
			// process of the agent, a second cluster could begin beside the first. That it
			// is under way is told in the same breath.
			a.hand.Spent(o.Thing, o.Generation)
			s := a.services[w.service.Name]
			s.Phase, s.Replica = phase, fleet.Replica{}
			w.begins = o.Verb == plan.VerbBootstrap
			a.services[w.service.Name] = s
			if err := a.keep(); err != nil {
				why = err.Error()
			}
		}
	}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		w.doing, w.yield, w.begins = "", nil, false
		a.mu.Unlock()
		a.poke(w.look)
	}()
	if why != "" {
		return fmt.Errorf("%s %s: %s", o.Verb, w.service.Name, why)
	}
	p, can := w.copy.(service.Promoter)
	m, shares := w.copy.(service.Member)
	var err error
	switch {
	case o.Verb == fleet.VerbStart:
		return w.copy.Start(ctx)
	case o.Verb == plan.VerbUpgrade:
		u, ok := w.copy.(service.Upgrader)
		if !ok {
			return fmt.Errorf("upgrade %s: kind %s has no package", w.service.Name, w.service.Kind)
		}
		return u.Upgrade(ctx, o.With)
	case o.Verb == fleet.VerbRestart && shares:
		return m.Rejoin(ctx, o.With)
	case o.Verb == fleet.VerbRestart:
		return w.copy.Restart(ctx)
	case o.Verb == fleet.VerbTend:
		t, ok := w.copy.(service.Tender)
		if !ok {
			return fmt.Errorf("tend %s: kind %s knows no steps", w.service.Name, w.service.Kind)
		}
		return t.Tend(ctx, o.Step, o.With, o.Key)
	case o.Verb == fleet.VerbStop:
		err = w.copy.Stop(ctx)
	case o.Verb == plan.VerbJoin && shares:
		return m.Join(ctx, o.With)
	case o.Verb == plan.VerbPosition && shares:
		return m.Position(ctx)
	case o.Verb == plan.VerbBootstrap && shares:
		return m.Bootstrap(ctx)
	case o.Verb == fleet.VerbPromote && can:
		return p.Promote(ctx)
	case o.Verb == fleet.VerbDemote && can:
		err = p.Demote(ctx)
	default:
		return fmt.Errorf("%s %s: its kind %s knows nothing of that", o.Verb, w.service.Name, w.service.Kind)
	}
	if err != nil || !w.service.Mode.Exclusive() {
		return err
	}
	// Only now, when it surely runs no more, or is promoted no more, is the generation
	// given up.
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hand.Stopped(o.Thing, o.Generation)
	now := fleet.ServiceState{Phase: fleet.Stopped, Why: o.Why, Restarts: a.services[w.service.Name].Restarts}
	if o.Verb == fleet.VerbDemote {
		now = a.services[w.service.Name]
		now.Role = fleet.RoleUnpromoted
	}
	a.services[w.service.Name] = now.Follows(a.services[w.service.Name], a.cfg.Wall())
	if err := a.keep(); err != nil {
		return fmt.Errorf("%s %s: it is done, but this could not be kept: %w", o.Verb, w.service.Name, err)
	}
	return nil
}
