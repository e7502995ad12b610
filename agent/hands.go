package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"mainstay/fence"
	"mainstay/fleet"
	"mainstay/plan"
	"mainstay/service"
)

// carryOut owns this host's addresses: one goroutine, so that deeds happen in
// the order in which they were decided.
func (a *Agent) carryOut(ctx context.Context) {
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case d := <-a.powers:
				go a.perform(ctx, d)
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.work:
		}
		for d, ok := a.next(); ok && ctx.Err() == nil; d, ok = a.next() {
			a.do(ctx, d)
		}
	}
}

func (a *Agent) do(ctx context.Context, d deed) {
	switch d.Do {
	case plan.DoRenew:
		a.renew()
	case plan.DoDrop:
		a.drop(ctx, d)
	case plan.DoClaim:
		a.claim(ctx, d)
	case plan.DoRelease:
		err := a.cfg.Addresses.Release(ctx, a.addr(d.Thing))
		if err == nil {
			a.mu.Lock()
			delete(a.speaking, nameOf(d.Thing))
			a.hand.Released(d.Thing, d.Generation)
			err = a.keep()
			a.mu.Unlock()
		}
		a.done(d, err)
	case plan.DoPerform:
		go a.perform(ctx, d)
	}
}

// drop removes every address, and tries until it has: before that this host does
// not beat, so nobody takes its new stint for the word that they are gone.
func (a *Agent) drop(ctx context.Context, d deed) {
	a.cfg.Log.Warn("a new stint begins with nothing", "stint", a.stint().N, "why", d.Why)
	for {
		err := a.cfg.Addresses.Drop(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		a.cfg.Log.Error("drop every address; until that is done this host is silent", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(dropAgain):
		}
	}
	a.mu.Lock()
	a.hand.Dropped(d.Generation)
	a.mu.Unlock()
	a.poke(a.tell)
}

// dropAgain is how soon a drop that failed is tried again.
const dropAgain = 100 * time.Millisecond

func (a *Agent) stint() fleet.Stint {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hand.Stint()
}

func (a *Agent) addr(thing string) netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	v, _ := a.spec.Address(nameOf(thing))
	return v.Addr
}

// renew keeps the guards open as long as the lease now says.
func (a *Agent) renew() {
	a.mu.Lock()
	until := a.hand.End()
	held := len(a.speaking)
	a.mu.Unlock()
	if held == 0 {
		return
	}
	late, err := a.cfg.Addresses.Renew(until)
	if err != nil {
		a.cfg.Log.Error("renew addresses", "error", err)
	}
	a.mu.Lock()
	a.hand.Kept(until) // these hands move; what they could not do, they say themselves
	if a.late != late {
		a.poke(a.tell)
	}
	a.late = late
	a.mu.Unlock()
}

// forced marks a claim that is carried out without asking once more who else answers
// for the address.
const forced = "nobody else answers any more, or somebody does all the time"

// claimDelay bounds how long a claim waits for another who answers for the
// address: by then the kernel has ended whoever held it under a lease.
const claimDelay = fleet.CoarseLate

func (a *Agent) claim(ctx context.Context, d deed) {
	addr := a.addr(d.Thing)
	if !addr.IsValid() {
		a.forget(ctx, d, addr, fmt.Errorf("the site's file has no %s", d.Thing))
		return
	}
	if d.Why == resumed || d.Why == forced {
		a.claimNow(ctx, d, addr)
		return
	}
	asked := a.cfg.Now()
	if others, err := a.cfg.Addresses.Others(ctx, addr); err == nil && len(others) > 0 {
		go a.claimLater(ctx, d, addr, others, asked)
		return
	}
	a.claimNow(ctx, d, addr)
}

// claimLater asks again until nobody else answers for the address or the time
// is up, and then claims it all the same: the site needs it, and whoever speaks
// without a right is named to a person (contend).
func (a *Agent) claimLater(ctx context.Context, d deed, addr netip.Addr, others []net.HardwareAddr, asked fleet.Moment) {
	late := true
	for a.cfg.Now().Sub(asked) < claimDelay {
		for _, mac := range others {
			a.contend(addr, mac)
		}
		again, err := a.cfg.Addresses.Others(ctx, addr)
		if err != nil || len(again) == 0 || ctx.Err() != nil {
			late = false
			break
		}
		others = again
	}
	a.mu.Lock()
	held := a.hand.Memory().Held[d.Thing] == d.Generation
	a.mu.Unlock()
	if !held {
		a.done(d, errors.New("the lease ended while somebody else answered for the address"))
		return
	}
	if late {
		d.reply(fleet.Effect{Key: d.Order.Key, From: a.cfg.Host, Outcome: fleet.NoWord, Wall: a.cfg.Wall(),
			Why: fmt.Sprintf("claimed although %v answered for %s for %v", others, addr, claimDelay)})
		d.reply = nil
	}
	d.Why = forced
	a.mu.Lock()
	a.line(d)
	a.mu.Unlock()
}

func (a *Agent) claimNow(ctx context.Context, d deed, addr netip.Addr) {
	a.mu.Lock()
	until := a.hand.End()
	alive := a.hand.Leased(a.cfg.Now()) && a.hand.Memory().Held[d.Thing] == d.Generation
	a.mu.Unlock()
	if !alive {
		a.done(d, errors.New("the lease ended before the address was claimed"))
		return
	}
	late, err := a.cfg.Addresses.Claim(ctx, addr, until)
	if err != nil {
		a.forget(ctx, d, addr, err)
		return
	}
	a.mu.Lock()
	a.late = late
	if a.hand.Held(d.Thing) == d.Generation { // else its stint ended meanwhile, and the drop waits behind this claim
		a.speaking[nameOf(d.Thing)] = d.Generation
		a.hand.Kept(until)
	}
	a.mu.Unlock()
	a.done(d, nil)
}

// forget gives up a generation whose claim failed, so that another host may
// have it. A host that spoke for the address before, because the claim was ordered
// once more, speaks on until its guard ends: then it is released first, and where that
// fails too no word is given. What another program has put there is silent by our guard,
// though it cannot be removed.
func (a *Agent) forget(ctx context.Context, d deed, addr netip.Addr, err error) {
	a.mu.Lock()
	spoke := a.speaking[nameOf(d.Thing)] != 0
	a.mu.Unlock()
	if spoke && addr.IsValid() {
		if stuck := a.cfg.Addresses.Release(ctx, addr); stuck != nil {
			foreign, unknown := a.cfg.Addresses.Foreign(ctx)
			if unknown != nil || foreign[addr] == "" {
				a.done(d, errors.Join(err, stuck))
				return
			}
		}
	}
	a.mu.Lock()
	a.hand.Lost(d.Thing)
	delete(a.speaking, nameOf(d.Thing))
	if kept := a.keep(); kept != nil {
		err = errors.Join(err, kept)
	}
	a.mu.Unlock()
	a.done(d, err)
}

// done reports a deed's end to whoever waits for it, and to the voters.
func (a *Agent) done(d deed, err error) {
	a.poke(a.tell)
	if d.reply == nil {
		if err != nil {
			a.cfg.Log.Error("carry out", "do", d.Do, "thing", d.Thing, "error", err)
		}
		return
	}
	e := fleet.Effect{Key: d.Order.Key, From: a.cfg.Host, Outcome: fleet.Done, Wall: a.cfg.Wall()}
	if err != nil {
		e.Outcome, e.Why = outcome(err), err.Error()
	}
	d.reply(e)
}

// outcome keeps apart what surely failed from what nobody knows.
func outcome(err error) fleet.Outcome {
	var f *fence.Error
	switch {
	case errors.As(err, &f):
		return f.Outcome
	case errors.Is(err, service.ErrUnknown), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fleet.NoWord
	}
	return fleet.Broken
}

// perform carries out what needs no lease arithmetic.
func (a *Agent) perform(ctx context.Context, d deed) {
	o := d.Order
	switch o.Verb {
	case fleet.VerbSever:
		addr := a.addr(o.Thing)
		a.mu.Lock()
		mine := a.speaking[nameOf(o.Thing)] != 0
		a.mu.Unlock()
		_, err := a.cfg.Addresses.Sever(ctx, addr, !mine)
		if err == nil {
			a.mu.Lock()
			a.severed[nameOf(o.Thing)] = max(a.severed[nameOf(o.Thing)], o.Generation)
			err = a.keepSevered()
			a.mu.Unlock()
		}
		a.done(d, err)
	case fleet.VerbRoute:
		a.mu.Lock()
		a.routes = o.Routes
		a.reroute()
		a.mu.Unlock()
		a.done(d, nil)
	case fleet.VerbStart, fleet.VerbStop, fleet.VerbRestart, fleet.VerbTend, fleet.VerbPromote, fleet.VerbDemote, plan.VerbJoin, plan.VerbPosition, plan.VerbBootstrap, plan.VerbUpgrade:
		a.mu.Lock()
		w := a.watchers[nameOf(o.Thing)]
		a.mu.Unlock()
		if w == nil {
			a.done(d, fmt.Errorf("%s is not a service of this host", o.Thing))
			return
		}
		a.done(d, w.operate(ctx, a, o))
	case plan.VerbKill:
		a.done(d, a.kill(ctx, o))
	case plan.VerbGoOn, plan.VerbEven:
		a.done(d, a.mirror(ctx, o))
	case fleet.VerbRead:
		a.done(d, a.asksToRead(o))
	case plan.VerbInventory:
		a.done(d, nil) // to have taken the order is all: every report names the epoch
	case fleet.VerbFence, fleet.VerbConfirm, fleet.VerbPowerOn:
		proof, err := a.cfg.Fence(ctx, o, func() error { return a.still(d, fence.Latest) })
		e := fleet.Effect{Key: o.Key, From: a.cfg.Host, Outcome: fleet.Done, Proof: proof, Wall: a.cfg.Wall()}
		if err != nil {
			e.Outcome, e.Why = outcome(err), err.Error()
		}
		if d.reply != nil {
			d.reply(e)
		}
	case fleet.VerbCloud:
		e := fleet.Effect{Key: o.Key, From: a.cfg.Host, Outcome: fleet.Broken, Why: "this host does not know the cloud", Wall: a.cfg.Wall()}
		if a.cfg.Cloud != nil {
			e.Outcome, e.Why = a.cfg.Cloud(ctx, o, func() error { return a.still(d, cloudGood) })
		}
		if d.reply != nil {
			d.reply(e)
		}
	default:
		a.done(d, fmt.Errorf("this version (%s) knows no verb %q", a.cfg.Version, o.Verb))
	}
}

// cloudGood is how long an order to OpenStack is good for. What is asked later could come
// beside what the next leader asks, and Nova refuses no second one.
const cloudGood = 10 * time.Second

// still says why an order to a power switch, or to OpenStack, must not be carried out any
// more: a newer epoch has begun, or it is so old that whoever leads now no longer counts
// with it.
func (a *Agent) still(d deed, good time.Duration) error {
	now := a.cfg.Now()
	a.mu.Lock()
	why := a.hand.Refuses(d.Order, now)
	a.mu.Unlock()
	if age := now.Sub(d.at); age > good {
		why = fmt.Sprintf("it was given %v ago, and is good for %v", age.Round(time.Second), good)
	}
	if why != "" {
		return errors.New(why)
	}
	return nil
}

// reroute tells HAProxy the newest table as this ear sees it. The caller holds
// the lock.
func (a *Agent) reroute() {
	if a.cfg.Balancer == nil || a.routes.Revision == 0 {
		return
	}
	table := plan.Overlay(a.routes, a.suspects)
	select {
	case <-a.routed:
	default:
	}
	a.routed <- table // the place is free: all who send here hold the lock
}

// balance is the one goroutine that tells HAProxy its servers. It does so again
// every second, which is one question as long as nothing changed: a HAProxy that
// was restarted in the meantime is told everything.
func (a *Agent) balance(ctx context.Context) {
	var table fleet.Routes
	complaint := ""
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case table = <-a.routed:
		case <-again.C:
		}
		if table.Revision == 0 {
			continue
		}
		if err := a.cfg.Balancer.Apply(ctx, table); err != nil {
			if ctx.Err() == nil && err.Error() != complaint {
				complaint = err.Error()
				a.cfg.Log.Warn("tell HAProxy its servers", "error", err)
			}
			continue
		}
		complaint = ""
		a.mu.Lock()
		told := a.applied == table.Revision
		a.applied = table.Revision
		a.mu.Unlock()
		if !told {
			a.poke(a.tell)
		}
	}
}

// guardLoss sees what others do to addresses and interfaces.
func (a *Agent) guardLoss(ctx context.Context) {
	changes := a.cfg.Addresses.Watch(ctx)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		a.look(ctx)
		select {
		case <-ctx.Done():
			return
		case what, ok := <-changes:
			if !ok {
				changes = nil
				continue
			}
			if what.Contested.IsValid() {
				a.contend(what.Contested, what.MAC)
				continue
			}
			a.cfg.Log.Warn("an address or its interface changed", "what", what.What)
		case <-ticker.C:
		}
	}
}

// look asks what cannot be subscribed to: addresses that stand here without our
// guard, and whether each network's own address is up.
func (a *Agent) look(ctx context.Context) {
	found, err := a.cfg.Addresses.Foreign(ctx)
	if err != nil {
		a.cfg.Log.Warn("look for addresses without our guard", "error", err)
	}
	links := a.linksOf()
	a.mu.Lock()
	a.foreign = map[string]string{}
	for _, v := range a.spec.Addresses {
		if why, ok := found[v.Addr]; ok {
			a.foreign[v.Name] = why
		}
	}
	a.links = links
	a.mu.Unlock()
	a.poke(a.tell)
}

// linksOf says for each network whether this host's own address is on an
// interface that has a carrier.
func (a *Agent) linksOf() map[string]bool {
	me, _ := a.cfg.Spec.Host(a.cfg.Host)
	carried, err := a.cfg.Addresses.Carried(slices.Collect(maps.Values(me.Addresses)))
	out := map[string]bool{}
	if err != nil {
		return out // not known is not down
	}
	for network, own := range me.Addresses {
		out[network] = carried[own]
	}
	return out
}
