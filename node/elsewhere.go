package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// A host without a store answers its operator all the same: it asks the voters. What is
// only read is asked of all of them, each a little later, until one answers; a deed is
// sent once, to one that has just answered.

// voters are this host's connections to every other voter, first those over the first
// network of each.
func (n *node) voters() []*api.Client {
	var lists [][]*api.Client
	most := 0
	for _, v := range n.spec.Voters() {
		if v != n.host {
			lists = append(lists, n.peers.of(v))
			most = max(most, len(lists[len(lists)-1]))
		}
	}
	var out []*api.Client
	for i := range most {
		for _, l := range lists {
			if i < len(l) {
				out = append(out, l[i])
			}
		}
	}
	return out
}

// askVoters asks the voters what is safe to ask twice. Where one of them refused, that
// is the error: the others were only not reached.
func askVoters[T any](ctx context.Context, n *node, ask func(context.Context, *api.Client) (T, error)) (T, error) {
	v, err := race(ctx, n.voters(), ask)
	var refusal *api.Refusal
	if errors.As(err, &refusal) {
		return v, refusal
	}
	if err != nil {
		return v, api.Refuse(http.StatusServiceUnavailable, "mainstay status --local; look at the networks between this host and "+strings.Join(n.spec.Voters(), ", "),
			"%s has no store of its own, and no voter answers it: %v", n.host, err)
	}
	return v, nil
}

// aVoter returns a connection to a voter that answers: to one that knows a leader, or
// else to one that is cut off like many, and may be behind.
func (n *node) aVoter(ctx context.Context) (*api.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	led, done := context.WithTimeout(ctx, 3*time.Second)
	defer done()
	c, err := askVoters(led, n, func(ctx context.Context, c *api.Client) (*api.Client, error) {
		_, err := ledStatus(ctx, c)
		return c, err
	})
	if err == nil {
		return c, nil
	}
	return askVoters(ctx, n, func(ctx context.Context, c *api.Client) (*api.Client, error) {
		_, err := c.LocalStatus(ctx)
		return c, err
	})
}

// ledStatus is the leader's view as a voter passes it on.
func ledStatus(ctx context.Context, c *api.Client) (api.Status, error) {
	s, err := c.Status(ctx)
	if err == nil && s.View != leaderView {
		err = fmt.Errorf("%s knows no leader", s.By)
	}
	return s, err
}

// passOn brings a person's deed to a voter.
func (n *node) passOn(ctx context.Context, method, path string, question, answer any) error {
	if !n.MayAct(n.host) {
		return api.Refuse(http.StatusForbidden, fmt.Sprintf("do it on %s, or with an operator's certificate: mainstay --server %s --cert FOLDER", strings.Join(n.spec.Voters(), ", "), n.spec.Voters()[0]),
			"%s is neither a voter nor a controller: it may look, and change nothing", n.host)
	}
	c, err := n.aVoter(ctx)
	if err != nil {
		return err
	}
	return c.Do(ctx, method, path, question, answer)
}

// MayAct implements api.Backend. Root on a controller holds the cloud's own secrets and
// has nothing to gain; a compute runs other people's machines, and whoever breaks out of
// one must not be able to swear that a controller is off.
func (n *node) MayAct(host string) bool {
	h, ok := n.spec.Host(host)
	return ok && (h.Voter || h.HasRole("controller"))
}

// statusElsewhere is the leader's view, or else a voter's own: this host by itself knows
// nothing of the others.
func (n *node) statusElsewhere(ctx context.Context) (api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	leaders, done := context.WithTimeout(ctx, 2*time.Second)
	defer done()
	s, err := askVoters(leaders, n, ledStatus)
	if err == nil {
		return s, nil
	}
	return askVoters(ctx, n, func(ctx context.Context, c *api.Client) (api.Status, error) { return c.LocalStatus(ctx) })
}

// askLeader is the leader's view, from the leader itself: no voter asks others in turn.
func (n *node) askLeader(ctx context.Context) (api.Status, error) {
	return race(ctx, n.voters(), func(ctx context.Context, c *api.Client) (api.Status, error) {
		s, err := c.LocalStatus(ctx)
		if err == nil && s.View != leaderView {
			err = fmt.Errorf("%s does not lead", s.By)
		}
		return s, err
	})
}

// keptElsewhere asks every other voter at once for a World: it is kept where its leader
// was. That nobody keeps it is said only when all have answered.
func (n *node) keptElsewhere(ctx context.Context, id string) (api.WorldView, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	type answer struct {
		voter string
		view  api.WorldView
		err   error
	}
	answers := make(chan answer, len(n.spec.Hosts))
	asked := 0
	for _, voter := range n.spec.Voters() {
		if voter == n.host {
			continue
		}
		asked++
		go func() {
			a := answer{voter: voter}
			a.view, a.err = race(ctx, n.peers.of(voter), func(ctx context.Context, c *api.Client) (v api.WorldView, err error) {
				return v, c.Do(ctx, "GET", "/v1/worlds/"+url.PathEscape(id)+"?local", nil, &v)
			})
			answers <- a
		}()
	}
	var silent []string
	for range asked {
		a := <-answers
		if a.err == nil {
			return a.view, nil
		}
		if !notKept(a.err) {
			silent = append(silent, fmt.Sprintf("%s (%v)", a.voter, a.err))
		}
	}
	if len(silent) > 0 {
		slices.Sort(silent)
		return api.WorldView{}, api.Refuse(http.StatusServiceUnavailable, "the same again when they answer",
			"World %s is kept on none of the voters that answered; no word of %s", id, strings.Join(silent, "; "))
	}
	return api.WorldView{}, api.Refuse(http.StatusNotFound, "a copy of it, if you have one: mainstay replay FILE",
		"World %s is kept on no voter: each keeps the newest %d of its own lead", id, worldsKept)
}

// followElsewhere follows history as voters tell it, going on with another when one ends.
func (n *node) followElsewhere(ctx context.Context, after string) <-chan fleet.Event {
	out := make(chan fleet.Event)
	go func() {
		defer close(out)
		for ctx.Err() == nil {
			if c, err := n.aVoter(ctx); err == nil {
				after, _ = c.Follow(ctx, after, func(e fleet.Event) error {
					select {
					case out <- e:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	return out
}

// IsVoter implements api.Backend.
func (n *node) IsVoter(host string) bool { return slices.Contains(n.spec.Voters(), host) }
