package node

import (
	"context"
	"fmt"

	"mainstay/fence"
	"mainstay/fleet"
)

// fence carries out the orders that concern another host's power.
func (n *node) fence(ctx context.Context, o fleet.Order, still func() error) (*fleet.Proof, error) {
	victim, ok := n.spec.Host(o.Target.Host)
	if !ok {
		return nil, fmt.Errorf("the site's file has no host %s", o.Target.Host)
	}
	d, err := fence.Open(victim.Fence)
	if err != nil {
		return nil, fmt.Errorf("fence of %s: %w", victim.Name, err)
	}
	defer d.Close()
	state := n.store.State()
	target := fence.Target{
		Host: victim.Name, Boot: o.Target.Boot, UUID: state.Members[victim.Name].UUID, By: n.host,
		Beats: func() uint64 { return n.agent.Beats(victim.Name, o.Target.Boot) },
		Still: func() error {
			// Who fences leads: a leader that was frozen on its way has lost the lead first.
			if epoch := n.store.State().Epoch; !n.quorum.Holds(n.now()) || epoch != o.Epoch {
				return fmt.Errorf("this host does not lead in epoch %d any more", o.Epoch)
			}
			return still()
		},
	}
	switch o.Verb {
	case fleet.VerbPowerOn:
		return nil, fence.PowerOn(ctx, d, target)
	case fleet.VerbConfirm:
		proof, err := fence.Confirm(ctx, d, target, state.Proofs[victim.Name])
		if err != nil {
			return nil, err
		}
		return &proof, nil
	}
	proof, err := fence.Prove(ctx, d, target)
	if err != nil {
		return nil, err
	}
	return &proof, nil
}
