package node

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"mainstay/agent"
	"mainstay/api"
	"mainstay/fleet"
	"mainstay/plan"
)

// Part implements api.Backend.
func (n *node) Part(ctx context.Context, r api.PartRequest) error {
	err := n.agent.Part(ctx, r.Resource, r.Peer)
	if errors.Is(err, agent.ErrNoRight) {
		n.log.Warn("DRBD is refused: it is promoted by hand, and nobody gave this host the right", "resource", r.Resource, "peer", r.Peer, "error", err)
		return api.Refuse(http.StatusConflict, "mainstay status says what the service waits for; mainstay move SERVICE "+n.host+" brings it here", "%v", err)
	}
	if err != nil {
		n.log.Warn("DRBD's writes go on waiting", "resource", r.Resource, "peer", r.Peer, "error", err)
		return err
	}
	n.log.Info("DRBD writes on without its peer, whose copy is recorded as behind", "resource", r.Resource, "peer", r.Peer)
	return nil
}

// checkCopy completes a person's word that a copy may be promoted though it is behind.
func (n *node) checkCopy(w *fleet.Wish) error {
	v, ok := n.spec.Service(strings.TrimPrefix(w.Thing, "service/"))
	switch {
	case !ok:
		return api.Refuse(http.StatusNotFound, "mainstay status", "the site has no service %q", w.Thing)
	case v.Mode != fleet.Promoted:
		return api.Refuse(http.StatusConflict, "", "%s is %s: only a copy that others mirror can be behind", v.Name, v.Mode)
	case !slices.Contains(n.spec.Homes(v), w.Host):
		return api.Refuse(http.StatusNotFound, "", "%s has no copy on %q; it has on %s", v.Name, w.Host, strings.Join(n.spec.Homes(v), ", "))
	}
	state := n.store.State()
	if _, behind := state.Lags[fleet.LagKey(v.Name, w.Host)]; !behind {
		return api.Refuse(http.StatusConflict, "mainstay status", "the copy of %s on %s is not behind: nothing need be lost", v.Name, w.Host)
	}
	h := state.Holdings[v.Thing()]
	reports, told := n.desk.Reports(), n.desk.Told()
	if s := reports[h.Host].Services[v.Name]; told[h.Host] != 0 && n.now().Sub(told[h.Host]) < servesFor && s.Phase == fleet.Running && s.Role != fleet.RoleUnpromoted {
		return api.Refuse(http.StatusConflict, "", "%s works on %s: nothing waits for the copy on %s", v.Name, h.Host, w.Host)
	}
	w.Thing, w.ID = v.Thing(), plan.WishCopy+"-"+v.Name+"-"+w.Host
	return nil
}
