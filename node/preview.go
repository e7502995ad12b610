package node

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/leader"
)

// Preview implements api.Backend.
func (n *node) Preview(ctx context.Context, hosts []string, local bool) (fleet.Preview, error) {
	if len(hosts) == 0 {
		return fleet.Preview{}, api.Refuse(http.StatusBadRequest, "mainstay preview --help", "no host was named")
	}
	for _, name := range hosts {
		switch h, ok := n.spec.Host(name); {
		case !ok:
			return fleet.Preview{}, n.noHost(name)
		case !h.HasRole("compute"):
			return fleet.Preview{}, api.Refuse(http.StatusConflict, "mainstay check tells what such a loss costs", "%s is no compute: no server runs there", name)
		}
	}
	return foresee(ctx, n, "/v1/preview?"+url.Values{"host": hosts}.Encode()+"&local", local, func() (fleet.Preview, error) { return n.leader.Preview(ctx, hosts) })
}

// Capacity implements api.Backend.
func (n *node) Capacity(ctx context.Context, local bool) (fleet.Capacity, error) {
	return foresee(ctx, n, "/v1/capacity?local", local, func() (fleet.Capacity, error) { return n.leader.Bear(ctx) })
}

// foresee asks this host's leader, or the host that leads. That one is asked once, and not
// over each network: it would ask OpenStack as often.
func foresee[T any](ctx context.Context, n *node, path string, local bool, ask func() (T, error)) (T, error) {
	var out T
	if n.spec.OpenStack.Cloud == "" {
		return out, api.Refuse(http.StatusConflict, "mainstay explain openstack", "the site's file names no OpenStack: no server is looked at")
	}
	if n.leader != nil {
		v, err := ask()
		switch {
		case errors.Is(err, leader.ErrAway):
			return out, api.Refuse(http.StatusServiceUnavailable, "mainstay check; openstack compute service list", "%v", err)
		case !errors.Is(err, leader.ErrIdle):
			return v, err
		}
	}
	if local {
		return out, api.Refuse(http.StatusServiceUnavailable, "mainstay status", "%s does not lead", n.host)
	}
	c, err := n.toLeader(ctx)
	if err != nil {
		return out, err
	}
	return out, c.Do(ctx, "GET", path, nil, &out)
}

// toLeader returns a connection to the host that leads.
func (n *node) toLeader(ctx context.Context) (*api.Client, error) {
	name := ""
	if n.store != nil {
		name = n.store.Leader()
	} else if s, err := askVoters(ctx, n, ledStatus); err == nil {
		name = s.Leader
	}
	if name == "" || name == n.host {
		return nil, api.Refuse(http.StatusServiceUnavailable, "mainstay status", "nobody leads at present")
	}
	return race(ctx, n.peers.of(name), func(ctx context.Context, c *api.Client) (*api.Client, error) {
		_, err := c.LocalStatus(ctx)
		return c, err
	})
}
