package node

import (
	"context"
	"fmt"

	"mainstay/fence"
	"mainstay/fleet"
)

// fence carries out the orders that concern another host's power.
func (n *node) fence(ctx context.Context, o fleet.Order) (*fleet.Proof, error) {
	victim, ok := n.spec.Host(o.Target.Host)
	if !ok {
		return nil, fmt.Errorf("the site's file has no host %s", o.Target.Host)
	}
	if o.Level >= len(victim.Fence) {
		return nil, fmt.Errorf("the site's file has no level %d of the fence of %s", o.Level+1, victim.Name)
	}
	d, err := fence.OpenLevel(victim.Fence[o.Level])
	if err != nil {
		return nil, fmt.Errorf("fence of %s: %w", victim.Name, err)
	}
	defer d.Close()
	state := n.store.State()
	target := fence.Target{
		Host: victim.Name, Boot: o.Target.Boot, UUID: state.Members[victim.Name].UUID, By: n.host,
		Beats: func() uint64 { return n.agent.Beats(victim.Name, o.Target.Boot) },
	}
	if me, _ := n.spec.Host(n.host); me.Voter {
		target.Others = func() map[string]uint64 { return n.agent.Others(victim.Name) }
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
	proof.Level = o.Level
	return &proof, nil
}
