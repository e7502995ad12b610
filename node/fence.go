package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"mainstay/agent"
	"mainstay/api"
	"mainstay/fence"
	"mainstay/fleet"
)

// watchdogOf returns what arms a host's watchdog; nil if the site's file names none, or
// in shadow mode, which resets nobody for what others run there.
func watchdogOf(h fleet.Host, mode string) func(keep bool) (agent.Watchdog, error) {
	if h.Watchdog.Device == "" || mode == "shadow" {
		return nil
	}
	return func(keep bool) (agent.Watchdog, error) {
		w, err := fence.OpenWatchdog(h.Watchdog, keep)
		if err != nil {
			return nil, err
		}
		return w, nil
	}
}

// fence carries out the orders that concern another host's power.
func (n *node) fence(ctx context.Context, o fleet.Order, still func() error) (*fleet.Proof, error) {
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
		Still: func() error {
			// Who fences leads: a leader that was frozen on its way has lost the lead first.
			if epoch := n.store.State().Epoch; !n.quorum.Holds(n.now()) || epoch != o.Epoch {
				return fmt.Errorf("this host does not lead in epoch %d any more", o.Epoch)
			}
			if later := n.agent.Later(victim.Name, o.Target.Boot); later != "" {
				return fmt.Errorf("a later boot of %s speaks, %s: that is proof enough", victim.Name, later)
			}
			return still()
		},
	}
	if me, _ := n.spec.Host(n.host); me.Voter {
		target.Others = func() map[string]uint64 { return n.agent.Others(victim.Name) }
		target.Fallen = func() []string { return n.agent.Fallen(victim.Name, o.Target.Boot) }
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

// examineEvery is how often each voter asks every power switch how it is, and
// examineAgain how soon after one of them was not well.
const (
	examineEvery = time.Hour
	examineAgain = time.Minute
)

// examineWidth is how many hosts' switches are asked at a time.
const examineWidth = 8

// examineFences finds out, long before it matters, which fences would prove nothing: each
// hour, and each minute as long as one of them is not well.
func (n *node) examineFences(ctx context.Context) {
	// Voters ask in turn: a small BMC takes few logins at a time.
	wait := time.Minute + time.Duration(slices.Index(n.spec.Voters(), n.host))*examineEvery/8
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = examineEvery
		for _, x := range n.examine(ctx, n.spec.Hosts) {
			if x.Error != "" {
				wait = examineAgain
			}
		}
	}
}

// examine asks every device of these hosts, as this host would have to use it, and
// puts what it found in this host's report.
func (n *node) examine(ctx context.Context, hosts []fleet.Host) []api.FenceExam {
	found := make([][]api.FenceExam, len(hosts))
	var wait sync.WaitGroup
	width := make(chan struct{}, examineWidth)
	for i, h := range hosts {
		if len(h.Fence) == 0 {
			continue
		}
		wait.Go(func() {
			width <- struct{}{}
			defer func() { <-width }()
			for l, level := range h.Fence {
				for _, f := range level {
					x := n.examineDevice(ctx, h, f)
					x.By, x.Host, x.Level = n.host, h.Name, l+1
					found[i] = append(found[i], x)
				}
			}
		})
	}
	wait.Wait()
	if ctx.Err() == nil { // else what was not answered says nothing of the devices
		now := map[string]string{}
		for i, h := range hosts {
			now[h.Name] = ""
			for _, x := range found[i] {
				if x.Error != "" {
					now[h.Name] = fmt.Sprintf("level %d, %s: %s", x.Level, x.Outcome, x.Error)
				}
			}
		}
		n.agent.Fences(now)
	}
	return slices.Concat(found...)
}

func (n *node) examineDevice(ctx context.Context, h fleet.Host, f fleet.Fence) api.FenceExam {
	d, err := fence.Open(f)
	if err != nil {
		return api.FenceExam{Device: f.Driver, Outcome: fleet.Refused, Error: err.Error()}
	}
	defer d.Close()
	m := n.store.State().Members[h.Name]
	if m.Admitted == "" { // in shadow mode nobody is, and a question needs no right
		r := n.desk.Reports()[h.Name]
		m.Admitted, m.UUID = r.Boot, r.UUID
	}
	want := fence.Target{Host: h.Name, Boot: m.Admitted, UUID: m.UUID, By: n.host, Beats: func() uint64 { return n.agent.Beats(h.Name, m.Admitted) }}
	x := fence.Examine(ctx, d, want)
	out := api.FenceExam{Device: x.Device, Power: string(x.Power), Machine: x.Machine, Took: x.Took}
	if x.Err != nil {
		out.Outcome, out.Error = fence.OutcomeOf(x.Err), x.Err.Error()
	}
	return out
}

// Fences implements api.Backend.
func (n *node) Fences(ctx context.Context, r api.FenceRequest) ([]api.FenceExam, error) {
	if n.store == nil {
		var found []api.FenceExam
		return found, n.passOn(ctx, "POST", "/v1/fences", r, &found)
	}
	hosts := n.spec.Hosts
	if r.Host != "" {
		h, ok := n.spec.Host(r.Host)
		if !ok {
			return nil, n.noHost(r.Host)
		}
		hosts = []fleet.Host{h}
	}
	if r.Local {
		return n.examine(ctx, hosts), nil
	}
	voters := n.spec.Voters()
	found := make([][]api.FenceExam, len(voters))
	var wait sync.WaitGroup
	for i, v := range voters {
		wait.Go(func() {
			if v == n.host {
				found[i] = n.examine(ctx, hosts)
				return
			}
			// Over one network alone: an impatient second question would take a login more.
			x, err := race(ctx, n.peers.of(v)[:min(1, len(n.peers.of(v)))], func(ctx context.Context, c *api.Client) ([]api.FenceExam, error) {
				var x []api.FenceExam
				return x, c.Do(ctx, "POST", "/v1/fences", api.FenceRequest{Host: r.Host, Local: true}, &x)
			})
			if err != nil {
				x = []api.FenceExam{{By: v, Outcome: fleet.NoWord, Error: fmt.Sprintf("ask %s: %v", v, err)}}
			}
			found[i] = x
		})
	}
	wait.Wait()
	return slices.Concat(found...), nil
}
