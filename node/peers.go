package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/plan"
	"mainstay/trust"
	"mainstay/vip"
)

// peers are this host's connections to the others: one for each network that
// both share, so that no single network's silence silences an order.
type peers struct {
	spec  fleet.Spec
	host  string
	files *trust.Files
	site  string                       // the sum of this host's site file, told with each report
	boxes map[string]chan fleet.Report // by voter: the report that is to be delivered there

	mu      sync.Mutex
	clients map[string][]*api.Client // by host, in the order of its networks' names
	streets map[string]*api.Client   // by NETWORK/HOST: over that network alone
}

func newPeers(spec fleet.Spec, host string, files *trust.Files, site string) *peers {
	p := &peers{spec: spec, host: host, files: files, site: site, boxes: map[string]chan fleet.Report{}, clients: map[string][]*api.Client{}, streets: map[string]*api.Client{}}
	for _, voter := range spec.Voters() {
		if voter != host {
			p.boxes[voter] = make(chan fleet.Report, 1)
		}
	}
	return p
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.clients {
		for _, c := range list {
			c.Close()
		}
	}
	for _, c := range p.streets {
		c.Close()
	}
}

// of returns the clients that reach a host.
func (p *peers) of(host string) []*api.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	if list, ok := p.clients[host]; ok {
		return list
	}
	me, _ := p.spec.Host(p.host)
	other, _ := p.spec.Host(host)
	var list []*api.Client
	for _, network := range fleet.Sorted(other.Addresses) {
		if _, shared := me.Addresses[network]; shared {
			list = append(list, api.NewTLS(netip.AddrPortFrom(other.Addresses[network], api.Port).String(), p.files.Client(host)))
		}
	}
	p.clients[host] = list
	return list
}

// hedge is after how long without an answer the same is tried over the next
// network; what is sent twice is one deed.
const hedge = 60 * time.Millisecond

// race asks over one network after the other, each a little later, until one
// answers; ask must be safe to repeat.
func race[T any](ctx context.Context, clients []*api.Client, ask func(context.Context, *api.Client) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if len(clients) == 0 {
		return none, errors.New("no network is shared with it")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, len(clients))
	started, failed := 0, 0
	var errs []error
	start := func() {
		c := clients[started]
		started++
		go func() {
			v, err := ask(ctx, c)
			results <- result{v, err}
		}()
	}
	start()
	timer := time.NewTimer(hedge)
	defer timer.Stop()
	for {
		select {
		case r := <-results:
			if r.err == nil {
				return r.value, nil
			}
			errs = append(errs, r.err)
			if failed++; failed == len(clients) {
				return none, errors.Join(errs...)
			}
			if started < len(clients) {
				start()
			}
		case <-timer.C:
			if started < len(clients) {
				start()
				timer.Reset(hedge)
			}
		case <-ctx.Done():
			return none, errors.Join(append(errs, ctx.Err())...)
		}
	}
}

// send carries a leader's order to its host.
func (n *node) send(ctx context.Context, o fleet.Order) fleet.Effect {
	ctx, cancel := context.WithTimeout(ctx, patience(o.Verb))
	defer cancel()
	if o.To == n.host {
		return n.agent.Order(ctx, o)
	}
	e, err := race(ctx, n.peers.of(o.To), func(ctx context.Context, c *api.Client) (fleet.Effect, error) {
		var e fleet.Effect
		return e, c.Do(ctx, "POST", "/v1/host/order", o, &e)
	})
	if err != nil {
		return fleet.Effect{Key: o.Key, From: o.To, Outcome: fleet.NoWord, Why: fmt.Sprintf("%s %s at %s: %v", o.Verb, o.Thing, o.To, err), Wall: time.Now()}
	}
	return e
}

// patience is how long the effect of an order is waited for.
func patience(v fleet.Verb) time.Duration {
	switch v {
	case fleet.VerbStart, fleet.VerbStop, fleet.VerbRestart, fleet.VerbPromote, fleet.VerbDemote, fleet.VerbTend, plan.VerbJoin, plan.VerbPosition, plan.VerbBootstrap, plan.VerbKill:
		return 25 * time.Minute
	case plan.VerbUpgrade: // what service.Upgrader may take, and a stop and a start
		return 90 * time.Minute
	case fleet.VerbFence, fleet.VerbConfirm, fleet.VerbPowerOn:
		return 2 * time.Minute
	case fleet.VerbClaim:
		return 5 * time.Second
	case fleet.VerbCloud:
		return 40 * time.Second
	}
	return 2 * time.Second
}

// tell hands a report to the loops that deliver it to these voters; a newer one takes its
// place. Its calls must not overlap.
func (p *peers) tell(r fleet.Report, voters []string) {
	for _, voter := range voters {
		box := p.boxes[voter]
		if box == nil {
			continue // this host itself
		}
		select {
		case <-box:
		default:
		}
		box <- r // the place is free: nobody else fills it
	}
}

// run delivers reports to every other voter: each has a loop of its own, so that
// a dead one delays nobody.
func (p *peers) run(ctx context.Context) {
	var wait sync.WaitGroup
	defer wait.Wait()
	for voter, box := range p.boxes {
		wait.Go(func() { p.deliver(ctx, voter, box) })
	}
}

// lastAgain is how soon a last report that was not taken is sent again: no other one
// follows it.
const lastAgain = 100 * time.Millisecond

// last brings a last report to every other voter, and returns when each has it or ctx
// ends.
func (p *peers) last(ctx context.Context, r fleet.Report) {
	var wait sync.WaitGroup
	defer wait.Wait()
	for _, voter := range p.spec.Voters() {
		if voter == p.host {
			continue
		}
		wait.Go(func() {
			for {
				if p.report(ctx, voter, r) == nil {
					return
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(lastAgain):
				}
			}
		})
	}
}

// report brings a report to a voter, over whichever network is the first to answer.
func (p *peers) report(ctx context.Context, voter string, r fleet.Report) error {
	_, err := race(ctx, p.of(voter), func(ctx context.Context, c *api.Client) (struct{}, error) {
		return struct{}{}, c.Report(ctx, r, p.site)
	})
	return err
}

func (p *peers) deliver(ctx context.Context, voter string, box chan fleet.Report) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-box:
			// A report that does not arrive is followed by the next one within two
			// seconds; nobody waits for this one.
			once, cancel := context.WithTimeout(ctx, time.Second)
			_ = p.report(once, voter, r)
			cancel()
		}
	}
}

func (n *node) now() fleet.Moment { return vip.Now() }
