package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
	"mainstay/service"
)

// The kernel of a promoted copy that has lost its peer stops all writes and asks, through
// mainstay fence-peer, whether it may go on. The question goes into the report, and stands
// there until the leader's order answers it, the kernel says that the peer is back, or the
// copy is promoted no more. Nobody else answers it: without a record nothing goes on.

// question is one that is open: with whom else waits for its answer.
type question struct {
	mark    string
	service string
	host    string        // whose copy would stay behind
	asked   fleet.Moment  // by the kernel, or seen to be needed
	waiting int           // callers of Part
	going   bool          // its answer is being carried out here
	done    chan struct{} // closed when it is open no more
	leave   bool          // what the answer was; guarded by the agent's lock
}

// handlerDue is how long writes may wait without a question before the agent asks by
// itself: DRBD calls its handler only once, and that may have given up.
const handlerDue = 15 * time.Second

// ErrNoRight is Part's answer where this host holds no right to have the copy promoted, and
// it is not: somebody promotes it by hand while its peer is away. DRBD need not wait for it:
// whoever is given the right has it before the copy is promoted (the order comes first).
var ErrNoRight = errors.New("this host holds no right to have it promoted")

// Part asks on behalf of the kernel whether the promoted copy of a mirrored resource may be
// written although its peer stays behind. nil is leave, given under the record; any other
// answer is none, and writes have to go on waiting. peer is whom the kernel names.
func (a *Agent) Part(ctx context.Context, resource, peer string) error {
	a.mu.Lock()
	q, err := a.part(resource, peer)
	if err != nil {
		a.mu.Unlock()
		return fmt.Errorf("may %s be written without %s: %w", resource, peer, err)
	}
	q.waiting++
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		q.waiting--
		a.mu.Unlock()
	}()
	select {
	case <-q.done:
		a.mu.Lock()
		defer a.mu.Unlock()
		if q.leave {
			return nil
		}
		return fmt.Errorf("may %s be written without %s: nobody asks that any more", resource, peer)
	case <-ctx.Done():
		return fmt.Errorf("may %s be written without %s: no leader has recorded that its copy is behind: %w", resource, peer, context.Cause(ctx))
	}
}

// part finds or opens the question. The caller holds the lock.
func (a *Agent) part(resource, peer string) (*question, error) {
	for _, name := range fleet.Sorted(a.watchers) {
		w := a.watchers[name]
		m, ok := w.copy.(service.Mirrored)
		if !ok || resource == "" || m.Resource() != resource {
			continue
		}
		host := a.home(w.service, peer)
		switch {
		case host == "":
			return nil, fmt.Errorf("%q is none of the hosts of %s (%s): DRBD has to know them by the same names", peer, w.service.Thing(), strings.Join(a.spec.Homes(w.service), ", "))
		case a.hand.Memory().Running[w.service.Thing()] == 0:
			if s := a.services[name]; s.Phase == fleet.Running && s.Role == fleet.RoleUnpromoted {
				return nil, fmt.Errorf("%s: %w", w.service.Thing(), ErrNoRight)
			}
			// One that is promoted, or may be, waits: what was found so is taken into the record.
			return nil, fmt.Errorf("this host has no right yet to have %s promoted", w.service.Thing())
		}
		return a.open(name, host), nil
	}
	return nil, fmt.Errorf("no service of this host is the resource %q", resource)
}

// home is which of a service's other hosts a peer is, by its name with or without a domain.
func (a *Agent) home(v fleet.Service, peer string) string {
	short, _, _ := strings.Cut(peer, ".")
	for _, host := range a.spec.Homes(v) {
		if host != a.cfg.Host && (host == peer || host == short) {
			return host
		}
	}
	return ""
}

// open asks, unless that is being asked already. The caller holds the lock.
func (a *Agent) open(service, host string) *question {
	key := fleet.LagKey(service, host)
	if q := a.questions[key]; q != nil {
		return q
	}
	now := a.cfg.Now()
	q := &question{mark: fmt.Sprintf("%s/%d", a.cfg.Boot, now), service: service, host: host, asked: now, done: make(chan struct{})}
	if a.questions == nil {
		a.questions = map[string]*question{}
	}
	a.questions[key] = q
	a.poke(a.tell)
	return q
}

// parted is what the report says of them. The caller holds the lock.
func (a *Agent) parted() map[string]string {
	if len(a.questions) == 0 {
		return nil
	}
	out := map[string]string{}
	for key, q := range a.questions {
		out[key] = q.mark
	}
	return out
}

// mirrored takes what a copy's kernel said when it was asked after begun: a question about
// a peer that is back is none any more, nor one of a copy that has not the role; and one
// whose writes have waited for long enough is asked here. The caller holds the lock.
func (a *Agent) mirrored(v fleet.Service, s fleet.ServiceState, begun fleet.Moment) {
	given := a.hand.Memory().Running[v.Thing()] > 0
	for _, host := range a.spec.Homes(v) {
		key := fleet.LagKey(v.Name, host)
		q := a.questions[key]
		if q != nil && !q.going && (!given || q.asked.Before(begun) && slices.ContainsFunc(strings.Fields(s.Mirror.Even), func(peer string) bool { return a.home(v, peer) == host })) {
			a.shut(q, false)
		}
	}
	switch now := a.cfg.Now(); {
	case !s.Mirror.Frozen || !given:
		delete(a.frozen, v.Name)
	case a.frozen[v.Name] == 0:
		if a.frozen == nil {
			a.frozen = map[string]fleet.Moment{}
		}
		a.frozen[v.Name] = now
	case now.Sub(a.frozen[v.Name]) >= handlerDue:
		for _, peer := range strings.Fields(s.Mirror.Lost) {
			if host := a.home(v, peer); host != "" {
				a.open(v.Name, host)
			}
		}
	}
}

// mirror carries out an order about a mirrored copy.
func (a *Agent) mirror(ctx context.Context, o fleet.Order) error {
	name := nameOf(o.Thing)
	key := fleet.LagKey(name, o.With)
	a.mu.Lock()
	w, q := a.watchers[name], a.questions[key]
	a.mu.Unlock()
	if w == nil {
		return fmt.Errorf("%s is not a service of this host", o.Thing)
	}
	m, ok := w.copy.(service.Mirrored)
	if !ok || m.Resource() == "" {
		return fmt.Errorf("%s %s: its copies mirror nothing", o.Verb, o.Thing)
	}
	if o.Verb == plan.VerbEven {
		return a.isEven(ctx, m, w.service, o.With)
	}
	if q == nil || o.Mark == "" || q.mark != o.Mark {
		return fmt.Errorf("go on with %s without %s: that is not asked any more", o.Thing, o.With)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if q.waiting == 0 { // else the kernel's own handler brings it the answer
		// Open meanwhile, so that nobody is told that the other copy is even: a deed that is
		// slow would thaw what was frozen anew since.
		q.going = true
		a.mu.Unlock()
		err := m.GoOn(ctx)
		a.mu.Lock()
		q.going = false
		if err != nil {
			return fmt.Errorf("go on with %s without %s: %w", o.Thing, o.With, err)
		}
	}
	a.shut(q, true)
	return nil
}

// shut ends a question. The caller holds the lock.
func (a *Agent) shut(q *question, leave bool) {
	if key := fleet.LagKey(q.service, q.host); a.questions[key] == q {
		delete(a.questions, key)
		q.leave = leave
		close(q.done)
		a.poke(a.tell)
	}
}

// isEven says whether a host's copy has all data of this one, by what its kernel says now.
func (a *Agent) isEven(ctx context.Context, m service.Mirrored, v fleet.Service, host string) error {
	is, err := m.Mirror(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.questions[fleet.LagKey(v.Name, host)] != nil {
		return fmt.Errorf("its kernel asks to go on without %s", host)
	}
	if !slices.ContainsFunc(strings.Fields(is.Even), func(peer string) bool { return a.home(v, peer) == host }) {
		return fmt.Errorf("the copy on %s has not caught up", host)
	}
	return nil
}
