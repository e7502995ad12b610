// Package leader is the turn: where this host is elected, it looks at the World,
// thinks (plan.Turn), writes down what was decided under its epoch, and only
// then sends orders. Elsewhere it waits.
//
//	lead held? -> raise the epoch -> read everything -> turn, turn, turn ... -> lead lost
//
// A turn starts the moment something changed: a report, a beat that came or
// failed to come, an ear's answer, an effect, a record. It takes no locks and
// waits for one thing only, the commit. The lead is checked again immediately
// before every commit and every order; whoever lost it drops all it had in mind,
// because the next leader decides afresh from the same facts.
package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
	"mainstay/plan"
)

// Quorum is what the leader needs of the store.
type Quorum interface {
	// Holds says whether this host may act as leader at now.
	Holds(now fleet.Moment) bool
	// LeadChanged yields whenever Holds may have changed from false to true.
	LeadChanged() <-chan struct{}
	// RaiseEpoch makes a new epoch and returns all that is remembered.
	RaiseEpoch(ctx context.Context, host string) (fleet.State, uint64, error)
	// Commit writes records and events in one transaction under the epoch.
	Commit(ctx context.Context, epoch uint64, records []fleet.Record, events []fleet.Event) error
	// State is the present mirror; Changed yields when others changed it.
	State() fleet.State
	Changed() <-chan struct{}
}

// Answer is an ear's answer to a round.
type Answer struct {
	Ear      string
	Stint    fleet.Stint
	Round    uint64
	Promised bool
	Why      string
	Arrived  fleet.Moment
	// Silent is for how long the ear had heard nothing of the stint's boot.
	Silent time.Duration
}

// Eyes is what the leader needs of its own host's ear.
type Eyes interface {
	// Heard is what this host's ear knows of every host.
	Heard() map[string]fleet.Heard
	// Ask puts a question to every ear, this host's own included, and repeats it
	// to those that have not promised until the round is stale.
	Ask(epoch uint64, round fleet.Round)
	// Answers yields what the ears say.
	Answers() <-chan Answer
	// Changed yields when a host was heard anew, fell silent for three beats, or
	// changed its boot, stint or word.
	Changed() <-chan struct{}
}

// Send carries an order to its host and returns the effect. It ends with ctx; an
// order without an answer has the outcome fleet.NoWord.
type Send func(ctx context.Context, o fleet.Order) fleet.Effect

// Config wires a leader.
type Config struct {
	Host   string
	Spec   func() fleet.Spec
	Quorum Quorum
	Eyes   Eyes
	Desk   *Desk
	Send   Send
	Clouds Clouds // nil where the site has no OpenStack
	// Keep stores a World that led to something and returns its id.
	Keep func(fleet.World, fleet.Plan) string
	Now  func() fleet.Moment
	Wall func() time.Time
	Log  *slog.Logger
}

// Leader runs the turn of one host.
type Leader struct {
	Config
	effects chan fleet.Effect
	book    book
	epoch   uint64
	since   fleet.Moment
	rounds  map[string]fleet.Round
	flights map[string]fleet.Flight
	shadow  shadow
	// cloud is what OpenStack was like at the newest look; gazes and seen are the way to
	// watchCloud and back; wanted and deeds are what it was told last.
	cloud  fleet.Cloud
	gazes  chan gaze
	seen   chan fleet.Cloud
	wanted gaze
	deeds  int
	// capacity is what the newest look at it found; spares is the way to it.
	capacity fleet.Capacity
	spares   chan fleet.Capacity
	// tally is what the newest list of servers with local disks came to; tallies is the way to it.
	tally   fleet.Tally
	tallies chan fleet.Tally
	surveys chan struct{} // held by whoever asks OpenStack for its room
	last    last
	// held is since when events wait to be written; 0: none do.
	held fleet.Moment
	// busy is when the present turn began; zero while the loop waits for news.
	busy atomic.Int64
}

// Alive says whether the loop makes progress: a turn that has been going on for
// longer than an election hangs, and its store should hand the lead over.
func (l *Leader) Alive() bool {
	began := fleet.Moment(l.busy.Load())
	return began == 0 || l.Now().Sub(began) < l.Spec().Timing.Election
}

// last is what a caller may look at from outside: the newest World and Plan.
type last struct {
	put chan view
	get chan view
}

type view struct {
	world fleet.World
	plan  fleet.Plan
	// thinks is the World that was decided on: in shadow mode what would stand in the store.
	thinks fleet.World
}

// New returns a leader; nothing runs before Run.
func New(c Config) *Leader {
	return &Leader{Config: c, effects: make(chan fleet.Effect, 64), spares: make(chan fleet.Capacity), tallies: make(chan fleet.Tally), surveys: make(chan struct{}, 1), last: last{put: make(chan view), get: make(chan view)}}
}

// Run leads whenever this host is elected, until ctx ends.
func (l *Leader) Run(ctx context.Context) {
	go l.last.serve(ctx)
	for {
		if !l.Quorum.Holds(l.Now()) {
			select {
			case <-ctx.Done():
				return
			case <-l.Quorum.LeadChanged():
			}
			continue
		}
		began := l.Now()
		ended := l.reign(ctx)
		if ctx.Err() != nil {
			return
		}
		l.Log.Info("no longer leading", "epoch", l.epoch, "why", ended)
		l.last.set(ctx, view{})
		// A store that elects this host but takes nothing, a full one, would be asked
		// as fast as it can refuse.
		if election := l.Spec().Timing.Election; l.Now().Sub(began) < election {
			select {
			case <-ctx.Done():
				return
			case <-l.Quorum.LeadChanged():
			case <-time.After(election):
			}
		}
	}
}

var errLead = errors.New("the lead is not confirmed any more")

// reign is one epoch, from raising it to losing the lead.
func (l *Leader) reign(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // orders on their way are given up: the next leader decides afresh
	l.since = l.Now()
	_, epoch, err := l.Quorum.RaiseEpoch(ctx, l.Host)
	if err != nil {
		return fmt.Errorf("raise the epoch: %w", err)
	}
	l.epoch, l.rounds, l.flights, l.shadow = epoch, map[string]fleet.Round{}, map[string]fleet.Flight{}, shadow{}
	if l.cloud, l.wanted = (fleet.Cloud{}), (gaze{}); l.Clouds != nil {
		l.gazes, l.seen = make(chan gaze, 1), make(chan fleet.Cloud)
		go l.watchCloud(ctx)
		l.capacity = fleet.Capacity{}
		go l.nightly(ctx)
		l.tally = fleet.Tally{}
		go l.stocks(ctx)
	}
	l.book = newBook(l.Host, epoch, l.Wall)
	l.book.note("leader", "leader", fmt.Sprintf("%s leads in epoch %d", l.Host, epoch))
	l.Log.Info("leading", "epoch", epoch)
	for {
		l.busy.Store(int64(l.Now()))
		wake, err := l.turn(ctx)
		l.busy.Store(0)
		if err != nil {
			return err
		}
		timer := time.NewTimer(wake)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-l.Eyes.Changed():
		case <-l.Desk.Changed():
		case <-l.Quorum.Changed():
		case a := <-l.Eyes.Answers():
			l.answered(a)
		case e := <-l.effects:
			l.landed(e)
		case c := <-l.seen:
			l.looked(c)
		case c := <-l.spares:
			l.capacity = c
		case t := <-l.tallies:
			if l.tally.Away = t.Away; t.Away == "" { // else what was known stands
				l.tally = t
			}
		case <-timer.C:
		}
		timer.Stop()
		l.drain()
	}
}

// drain takes in whatever else has arrived, so that one turn sees it all.
func (l *Leader) drain() {
	for {
		select {
		case a := <-l.Eyes.Answers():
			l.answered(a)
		case e := <-l.effects:
			l.landed(e)
		default:
			return
		}
	}
}

// restless bounds the time between two turns.
const restless = time.Second

// turn looks, thinks and acts once. It returns how long to wait for news.
func (l *Leader) turn(ctx context.Context) (time.Duration, error) {
	now := l.Now()
	if !l.Quorum.Holds(now) {
		return 0, errLead
	}
	w := l.world(now)
	w, p := plan.Turn(w)
	l.book.verdicts(w.Verdicts)
	l.book.wishes(w.State.Wishes)
	l.book.waits(p.Waits, now)
	l.book.copies(w.Reports)
	l.want(w, p)
	if w.Spec.Mode == "shadow" {
		return l.pretend(ctx, w, p)
	}
	var id string
	if len(p.Records)+len(p.Orders)+len(p.Asks) > 0 && l.Keep != nil {
		id = l.Keep(w, p)
	}
	if len(p.Records) > 0 {
		for _, r := range p.Records {
			l.book.record(r, id)
		}
		if err := l.commit(ctx, p.Records); err != nil {
			return 0, err
		}
	}
	for _, r := range p.Asks {
		l.ask(r)
	}
	for _, o := range p.Orders {
		if err := l.dispatch(ctx, o, id); err != nil {
			return 0, err
		}
	}
	l.last.set(ctx, view{w, p, w})
	if len(p.Records) > 0 {
		return 0, nil // the World has changed: what rests on the records comes now
	}
	return l.flush(ctx, w, l.rest(p, now))
}

// ask puts a question to every ear.
func (l *Leader) ask(r fleet.Round) {
	l.rounds[r.Stint.Host] = r
	l.book.once(fmt.Sprintf("round/%s/%d", r.Stint.Host, r.Stint.N), "order", "host/"+r.Stint.Host, "every ear is "+lease.Question(r.Stint))
	l.Eyes.Ask(l.epoch, r)
}

// shadow is what stood in the store when this leader last looked, and what would stand
// there had it written down what it decided.
type shadow struct{ found, would fleet.State }

// pretendRest is how long a shadow waits for news after it would have written something.
const pretendRest = 10 * time.Millisecond

// pretend is the rest of a turn in shadow mode: nothing is recorded and nobody is told to
// do anything, and the next turn decides as if it had been, or every plan would end with the
// first host that is not admitted. The ears are asked, for their answers touch no host
// that is heard.
func (l *Leader) pretend(ctx context.Context, w fleet.World, p fleet.Plan) (time.Duration, error) {
	// That history tells what a person did is no deed of ours: it is told here, too.
	if told := slices.DeleteFunc(slices.Clone(p.Records), func(r fleet.Record) bool { return !strings.HasPrefix(r.Key, fleet.DeedKey) }); len(told) > 0 {
		l.last.set(ctx, view{w, p, w})
		return 0, l.commit(ctx, told)
	}
	// Only to be told what runs where, which touches nothing, is really asked.
	asks := slices.DeleteFunc(slices.Clone(p.Orders), func(o fleet.Order) bool { return o.Verb != plan.VerbInventory })
	p.Orders = slices.DeleteFunc(slices.Clone(p.Orders), func(o fleet.Order) bool { return o.Verb == plan.VerbInventory })
	var id string
	if said := l.book.shadow(p); len(said) > 0 && l.Keep != nil {
		id = l.Keep(w, p)
		for _, e := range said {
			l.book.pending[e].World = id
		}
	}
	would, err := w.State.Apply(p.Records...)
	if err != nil {
		return 0, err
	}
	l.shadow.would = would
	for _, r := range p.Asks {
		if r.Evict {
			l.rounds[r.Stint.Host] = r // the lease of a host that is well is not ended for practice
			continue
		}
		l.ask(r)
	}
	for _, o := range p.Orders {
		l.fly(o)
	}
	for _, o := range asks {
		if err := l.dispatch(ctx, o, id); err != nil {
			return 0, err
		}
	}
	rest := l.rest(p, w.Now)
	if len(p.Records) > 0 {
		rest = pretendRest
	}
	thinks := w
	w.State = l.shadow.found // what people are shown is what stands
	l.last.set(ctx, view{w, p, thinks})
	return l.flush(ctx, w, rest)
}

// state is what a decision rests on: what is recorded, or would be in shadow mode. The
// latter is forgotten as soon as anybody changes what is recorded.
func (l *Leader) state(mode string) fleet.State {
	found := l.Quorum.State()
	if mode != "shadow" {
		l.shadow = shadow{}
		return found
	}
	if !reflect.DeepEqual(found, l.shadow.found) {
		l.shadow = shadow{found: found, would: found}
	}
	return l.shadow.would
}

func (l *Leader) rest(p fleet.Plan, now fleet.Moment) time.Duration {
	if p.Wake == 0 {
		return restless
	}
	return min(restless, max(0, p.Wake.Sub(now)))
}

// commit writes records, and the events that have gathered, if this host leads.
func (l *Leader) commit(ctx context.Context, records []fleet.Record) error {
	if !l.Quorum.Holds(l.Now()) {
		return errLead
	}
	// A slow disk is the store's to judge; the loop that waits for it does not hang.
	l.busy.Store(0)
	l.held = 0
	err := l.Quorum.Commit(ctx, l.epoch, records, l.book.take())
	l.busy.Store(int64(l.Now()))
	if err != nil {
		return fmt.Errorf("commit in epoch %d: %w", l.epoch, err)
	}
	return nil
}

// flush writes events that no record carried along. While a decision about a host's
// life is about to fall they wait a little: a write takes as long as a disk takes,
// and the loop hears nothing meanwhile. It returns how long to wait for news.
func (l *Leader) flush(ctx context.Context, w fleet.World, rest time.Duration) (time.Duration, error) {
	if len(l.book.pending) == 0 {
		return rest, nil
	}
	if l.held == 0 {
		l.held = w.Now
	}
	w.Rounds, w.Flights = l.rounds, l.flights // with those of this turn
	t := w.Spec.Timing
	if left := t.Silence(fleet.GuardLate) + t.Lease - w.Now.Sub(l.held); left > 0 && plan.Urgent(w) {
		return min(rest, left), nil
	}
	return rest, l.commit(ctx, nil)
}

// world gathers all that a decision may rest on.
func (l *Leader) world(now fleet.Moment) fleet.World {
	flights := make(map[string]fleet.Flight, len(l.flights))
	for key, f := range l.flights {
		if f.Effect != nil && now.Sub(f.Arrived) > time.Minute {
			delete(l.flights, key)
			continue
		}
		flights[key] = f
	}
	rounds := make(map[string]fleet.Round, len(l.rounds))
	for host, r := range l.rounds {
		rounds[host] = r
	}
	spec := l.Spec()
	return fleet.World{
		Spec: spec, Now: now, Wall: l.Wall(), Leader: l.Host, Epoch: l.epoch, Since: l.since,
		State: l.state(spec.Mode), Reports: l.Desk.Reports(), Told: l.Desk.Told(), Heard: l.Eyes.Heard(), Rounds: rounds, Flights: flights, Cloud: l.cloud, Capacity: l.capacity, Tally: l.tally,
	}
}

// answered counts an ear's promise.
func (l *Leader) answered(a Answer) {
	r, ok := l.rounds[a.Stint.Host]
	if !ok || r.Number != a.Round || r.Stint != a.Stint || !a.Promised || r.Over {
		return
	}
	spec := l.Spec()
	promised := make(map[string]fleet.Moment, len(r.Promised)+1)
	for ear, at := range r.Promised {
		promised[ear] = at
	}
	if _, known := promised[a.Ear]; !known {
		promised[a.Ear] = a.Arrived
		l.book.once(fmt.Sprintf("round/%s/%d/%s", a.Stint.Host, a.Stint.N, a.Ear), "observation", "host/"+a.Stint.Host, fmt.Sprintf("%s %s: %s", a.Ear, lease.Answer(a.Stint), a.Why))
	}
	r.Promised = promised
	if a.Stint.N == lease.AnyStint {
		silent := maps.Clone(r.Silent)
		if silent == nil {
			silent = map[string]time.Duration{}
		}
		silent[a.Ear] = a.Silent
		r.Silent = silent
	}
	r.Over = lease.Over(r, spec.Voters(), spec.Timing, l.Eyes.Heard()[a.Stint.Host].Late, l.Now())
	l.rounds[a.Stint.Host] = r
}

// dispatch sends an order and remembers that it is on its way.
func (l *Leader) dispatch(ctx context.Context, o fleet.Order, world string) error {
	if !l.Quorum.Holds(l.Now()) {
		return errLead
	}
	o = l.fly(o)
	l.book.order(o, world)
	go func() {
		e := l.Send(ctx, o)
		e.Key = o.Key
		select {
		case l.effects <- e:
		case <-ctx.Done():
		}
	}()
	return nil
}

// fly remembers that an order is on its way, and returns it with the number of its try.
func (l *Leader) fly(o fleet.Order) fleet.Order {
	f := l.flights[o.Key]
	o.Try = f.Tries + 1
	l.flights[o.Key] = fleet.Flight{Order: o, Sent: l.Now(), Tries: o.Try}
	return o
}

// landed notes what became of an order.
func (l *Leader) landed(e fleet.Effect) {
	f, ok := l.flights[e.Key]
	if !ok || f.Effect != nil {
		return
	}
	f.Effect, f.Arrived = &e, l.Now()
	l.flights[e.Key] = f
	if f.Order.Verb == fleet.VerbCloud && !unhurried(f.Order) {
		l.deeds++
	}
	l.book.effect(f.Order, e)
}

// Look returns the newest World and Plan of this leader; ok is false where this
// host does not lead.
func (l *Leader) Look(ctx context.Context) (w fleet.World, p fleet.Plan, ok bool) {
	select {
	case v := <-l.last.get:
		return v.world, v.plan, v.world.Epoch != 0
	case <-ctx.Done():
		return fleet.World{}, fleet.Plan{}, false
	}
}

func (s last) serve(ctx context.Context) {
	var v view
	for {
		select {
		case v = <-s.put:
		case s.get <- v:
		case <-ctx.Done():
			return
		}
	}
}

func (s last) set(ctx context.Context, v view) {
	select {
	case s.put <- v:
	case <-ctx.Done():
	}
}

// book writes history: what is new, why, and what it rests on.
type book struct {
	host    string
	epoch   uint64
	wall    func() time.Time
	n       uint64
	pending []fleet.Event
	// newest is, by subject, the id of the last event told of it; it is what the
	// next one about it rests on.
	newest map[string]string
	told   map[string]string
	// waiting is since when each subject has been waiting.
	waiting map[string]fleet.Moment
	// judged is what was told last of each host's verdict.
	judged map[string]string
	// seen is each host's report that was looked at last, and how its
	// copies of services were by it.
	seen      map[string]said
	condition map[string]condition
	// routed is the routing table that each host's HAProxy followed by its last report.
	routed map[string]uint64
}

// said names what a host has said: of one boot a number stands for the same words, whenever
// they are said again.
type said struct {
	boot      string
	news, seq uint64
}

// condition is what history tells of a copy of a service.
type condition struct {
	phase       string
	ready, hung bool
}

func newBook(host string, epoch uint64, wall func() time.Time) book {
	return book{host: host, epoch: epoch, wall: wall, newest: map[string]string{}, told: map[string]string{}, judged: map[string]string{}, seen: map[string]said{}, condition: map[string]condition{}, routed: map[string]uint64{}}
}

// note adds an event and makes it the newest of its subject.
func (b *book) note(kind, about, text string, because ...string) *fleet.Event {
	b.n++
	if id := b.newest[about]; id != "" && !slices.Contains(because, id) {
		because = append(because, id)
	}
	e := fleet.Event{
		ID: fmt.Sprintf("%08d.%08d", b.epoch, b.n), At: b.wall(), Epoch: b.epoch, Kind: kind, About: about, Text: text, By: b.host, Because: because,
	}
	b.newest[about] = e.ID
	b.pending = append(b.pending, e)
	return &b.pending[len(b.pending)-1]
}

func (b *book) take() []fleet.Event {
	out := b.pending
	b.pending = nil
	return out
}

// once notes only what was not said of the subject before.
func (b *book) once(topic, kind, about, text string) {
	if b.told[topic] == text {
		return
	}
	b.told[topic] = text
	b.note(kind, about, text)
}

func (b *book) verdicts(vs map[string]fleet.Verdict) {
	var anew []string // of thousands hardly one, so these alone are put in order
	for host, v := range vs {
		said := string(v.Condition)
		for _, n := range v.Silent {
			said += " " + n
		}
		if b.judged[host] != said {
			b.judged[host], anew = said, append(anew, host)
		}
	}
	slices.Sort(anew)
	for _, host := range anew {
		v := vs[host]
		b.note("verdict", "host/"+host, fmt.Sprintf("%s is %s: %s", host, v.Condition, v.Why))
		// Of a host that this leader alone does not hear the ears are asked again and
		// again; history tells it once for each condition.
		maps.DeleteFunc(b.told, func(topic, _ string) bool { return strings.HasPrefix(topic, "round/"+host+"/") })
	}
}

// copies tells how the copies of services change, as their hosts report it, and which
// routing table a host's HAProxy has begun to follow. How they
// were when this leader began is told only of those that hang or have failed: after
// an election all of them would be news.
func (b *book) copies(reports map[string]fleet.Report) {
	var anew []string
	for host, r := range reports {
		now, before := said{r.Boot, r.News, r.Seq}, b.seen[host]
		if now.seq == before.seq || now.news != 0 && now.news == before.news && now.boot == before.boot {
			continue
		}
		b.seen[host], anew = now, append(anew, host)
	}
	slices.Sort(anew)
	for _, host := range anew {
		r := reports[host]
		if before, known := b.routed[host]; known && before != r.Routes {
			b.note("observation", "route/"+host, fmt.Sprintf("%s: its HAProxy follows routing table %x", host, r.Routes))
		}
		b.routed[host] = r.Routes
		for _, name := range fleet.Sorted(r.Services) {
			s := r.Services[name]
			about := name + "@" + host
			before, known := b.condition[about]
			now := condition{s.Phase, s.Ready, s.Hung}
			b.condition[about] = now
			if now == before || !known && !s.Hung && s.Phase != fleet.Failed {
				continue
			}
			said := s.Phase
			switch {
			case s.Hung:
				said = "hung"
			case s.Phase == fleet.Running && s.Ready:
				said = "ready"
			case s.Phase == fleet.Running:
				said = "running, but not ready"
			}
			if s.Why != "" {
				said += ": " + s.Why
			}
			b.note("observation", about, fmt.Sprintf("%s says of its %s: %s", host, name, said))
		}
	}
}

// lasting is how long a wait must stand before history tells of it: most end by
// themselves within a turn or two.
const lasting = 2 * time.Second

func (b *book) waits(ws []fleet.Wait, now fleet.Moment) {
	open := map[string]fleet.Moment{}
	for _, w := range ws {
		since, known := b.waiting[w.About]
		if !known {
			since = now
		}
		open[w.About] = since
		// Told once: what it waits for in detail may change each second, and the
		// present words are in the status.
		if now.Sub(since) >= lasting && b.told["wait/"+w.About] == "" {
			b.once("wait/"+w.About, "wait", w.About, fmt.Sprintf("%s waits for %s", w.About, w.For))
		}
	}
	for _, about := range fleet.Sorted(b.waiting) {
		if _, still := open[about]; !still && b.told["wait/"+about] != "" {
			delete(b.told, "wait/"+about)
			b.note("wait", about, about+" waits no more")
		}
	}
	b.waiting = open
}

// wishes tells what people ask for or have done, each once by each leader, in their
// names: what is decided about the same thing afterwards rests on it.
func (b *book) wishes(ws map[string]fleet.Wish) {
	for _, id := range fleet.Sorted(ws) {
		w := ws[id]
		about := w.Thing
		if about == "" && w.Host != "" {
			about = "host/" + w.Host
		}
		if about == "" {
			about = "site"
		}
		text := fmt.Sprintf("%s wishes: %s", w.By, w.Verb)
		if w.Verb == fleet.VerbDeed {
			text = w.By + " " + w.Why
		} else {
			if about != "site" {
				text += " " + about
			}
			if w.To != "" {
				text += " to " + w.To
			}
			if w.Why != "" {
				text += " (" + w.Why + ")"
			}
		}
		if topic := fmt.Sprintf("wish/%s/%d", id, w.At.UnixNano()); b.told[topic] == "" {
			b.told[topic] = "told"
			b.note("wish", about, text).By = w.By
		}
	}
}

// shadow tells what would have been done, and returns where in pending it is told.
func (b *book) shadow(p fleet.Plan) []int {
	began := len(b.pending)
	for _, r := range p.Records {
		if r.Text != "" {
			_, name := cut(r.Key)
			about := name
			if hostly(r.Key) {
				about = "host/" + name
			}
			b.once("shadow/"+r.Key, "shadow", about, "would have recorded: "+r.Text)
		}
	}
	for _, o := range p.Orders {
		about := subject(o)
		b.once("shadow/"+o.Key, "shadow", about, fmt.Sprintf("would have ordered %s to %s %s: %s", o.To, o.Verb, about, o.Why))
	}
	said := make([]int, 0, len(b.pending)-began)
	for i := began; i < len(b.pending); i++ {
		said = append(said, i)
	}
	return said
}

// subject is what history tells of an order as about.
func subject(o fleet.Order) string {
	switch {
	case o.Verb == fleet.VerbRoute:
		return "route/" + o.To
	case o.Thing == "" || o.Target.Host != "":
		return "host/" + o.Target.Host
	}
	return o.Thing
}

// hostly says whether a record is one about a host.
func hostly(key string) bool {
	kind, _ := cut(key)
	return kind == "member" || kind == "proof" || kind == "intent"
}

// record tells what was decided; it rests on what was last told of the thing and
// of the host that it leaves.
func (b *book) record(r fleet.Record, world string) {
	if strings.HasPrefix(r.Key, fleet.DeedKey) {
		return // told, in the person's name
	}
	about, because := r.Key, slices.Clone(r.Because)
	kind, name := cut(r.Key)
	if kind == "holding" {
		about = name
		var h fleet.Holding
		if json.Unmarshal(r.Value, &h) == nil && h.From.Host != "" {
			if id := b.newest["host/"+h.From.Host]; id != "" {
				because = append(because, id)
			}
		}
	}
	if kind == "lag" {
		about = name // SERVICE@HOST, as of any other copy
	}
	if kind == "evacuation" {
		about = "server/" + name
		var e fleet.Evacuation
		if json.Unmarshal(r.Value, &e) == nil && e.From != "" && b.newest["host/"+e.From] != "" {
			because = append(because, b.newest["host/"+e.From])
		}
	}
	if kind == "departure" || kind == "revival" {
		about = "server/" + name // asked why, it is the server that a person means
	}
	if hostly(r.Key) {
		about = "host/" + name
	}
	e := b.note("record", about, r.Text, because...)
	e.World, e.Proof = world, kind == "proof"
}

func (b *book) order(o fleet.Order, world string) {
	if o.Verb == fleet.VerbRoute {
		b.once("route/"+o.To, "order", "route/"+o.To, fmt.Sprintf("%s: routing table %x", o.To, o.Routes.Revision))
		return
	}
	about := subject(o)
	topic := "order/" + o.Key
	if b.told[topic] != "" {
		return // sent again
	}
	b.told[topic] = "sent"
	if o.Verb == fleet.VerbSever {
		// One for each host, and none leads to what follows: why a thing is where it is
		// would be lost behind them.
		defer func(before string) { b.newest[about] = before }(b.newest[about])
	}
	b.note("order", about, fmt.Sprintf("%s shall %s %s: %s", o.To, deedOf(o), about, o.Why), o.Because...).World = world
}

// deedOf names what an order asks for, as history tells it.
func deedOf(o fleet.Order) string {
	if o.Verb == fleet.VerbTend || o.Verb == fleet.VerbCloud {
		return o.Step
	}
	return string(o.Verb)
}

func (b *book) effect(o fleet.Order, e fleet.Effect) {
	if (o.Verb == fleet.VerbRoute || o.Verb == fleet.VerbSever) && e.Outcome == fleet.Done {
		return
	}
	about := subject(o)
	text := fmt.Sprintf("%s: %s %s: %s", e.From, deedOf(o), about, e.Outcome)
	if e.Why != "" {
		text += " (" + e.Why + ")"
	}
	b.once("effect/"+o.Key, "effect", about, text)
}

func cut(key string) (kind, name string) {
	for i := range key {
		if key[i] == '/' {
			return key[:i], key[i+1:]
		}
	}
	return key, ""
}
