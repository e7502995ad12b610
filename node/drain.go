package node

import (
	"context"
	"fmt"

	"mainstay/fleet"
	"mainstay/openstack"
	"mainstay/plan"
)

// Drained is what a drain would do with one server of a compute.
type Drained struct {
	Server string `json:"server"`
	Name   string `json:"name"`
	State  string `json:"state"`
	// Stays says why it would stay; "" if it would be live-migrated.
	Stays string `json:"stays,omitempty"`
}

// PreviewDrain asks OpenStack, from this host, which servers a drain of a compute would
// move, and which would stay and why. Nothing is changed; whether a target takes a server only
// Nova's scheduler knows, when it is asked.
func PreviewDrain(ctx context.Context, spec fleet.Spec, host string) ([]Drained, error) {
	h, ok := spec.Host(host)
	switch {
	case !ok || !h.HasRole("compute"):
		return nil, fmt.Errorf("preview the drain of %s: it is no compute of this site", host)
	case spec.OpenStack.Cloud == "":
		return nil, fmt.Errorf("preview the drain of %s: the site's file says nothing of an OpenStack", host)
	}
	client, err := openstack.Open(spec.OpenStack)
	if err != nil {
		return nil, fmt.Errorf("preview the drain of %s: %w; it is asked for on a voter, where %s lies", host, err, spec.OpenStack.Config)
	}
	defer client.Close()
	seen, err := client.Look(ctx, 1, []string{host}, nil)
	if err != nil {
		return nil, fmt.Errorf("preview the drain of %s: %w", host, err)
	}
	var out []Drained
	for _, id := range fleet.Sorted(seen.Servers) {
		s := seen.Servers[id]
		if s.Host == host {
			out = append(out, Drained{Server: id, Name: s.Name, State: s.State, Stays: plan.Fixed(&spec, s)})
		}
	}
	return out, nil
}
