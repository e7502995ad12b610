package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"mainstay/agent"
	"mainstay/fleet"
	"mainstay/openstack"
	"mainstay/probe"
	"mainstay/probe/guests"
)

// hypervisor is a compute's libvirt, and its guests' agents.
type hypervisor struct {
	*guests.Libvirt
	*guests.Agents
}

// Close ends the connections of both.
func (h hypervisor) Close() {
	h.Libvirt.Close()
	h.Agents.Close()
}

// hypervisorOf is how a compute's agent asks after its guests, and where their disks are.
func hypervisorOf(spec fleet.Spec, me fleet.Host) (agent.Hypervisor, string) {
	if spec.OpenStack.Cloud == "" || !me.HasRole("compute") {
		return nil, ""
	}
	for _, v := range spec.Services {
		if path := v.Params["instances"]; v.Kind == "compute" && path != "" {
			return hypervisor{guests.Open(), guests.OpenAgents()}, path
		}
	}
	return hypervisor{guests.Open(), guests.OpenAgents()}, "/var/lib/nova/instances"
}

// checkCloud tells what would keep this host from looking at the site's cloud and acting on
// it, which whoever leads does. That Keystone or Nova does not answer now says nothing
// against the file.
func checkCloud(ctx context.Context, spec fleet.Spec) (out fleet.Faults) {
	client, err := openstack.Open(spec.OpenStack)
	if err != nil {
		return fleet.Faults{{Path: "openstack", Rule: "openstack", Problem: err.Error(), Want: "an entry with auth_url, username, password, project_name, the domains and region_name, in a file for root alone on each voter"}}
	}
	defer client.Close()
	var computes []string
	for _, h := range spec.Hosts {
		if h.HasRole("compute") {
			computes = append(computes, h.Name)
		}
	}
	for _, problem := range client.Examine(ctx, computes) {
		out = append(out, fleet.Fault{Path: "openstack", Rule: "openstack", Problem: problem, Warning: true})
	}
	return out
}

// cloud is the site's OpenStack as this host reaches it while it leads. It is opened when
// it is first needed, and again until that succeeds: that its file is not there yet is a
// state to plan with, as Nova's own silence is.
type cloud struct {
	cfg    fleet.OpenStack
	mu     sync.Mutex
	client *openstack.Client
}

func (c *cloud) open() (*openstack.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil {
		client, err := openstack.Open(c.cfg)
		if err != nil {
			return nil, err
		}
		c.client = client
	}
	return c.client, nil
}

// Look asks what the leader's plan needs to know.
func (c *cloud) Look(ctx context.Context, began fleet.Moment, hosts, servers []string) (fleet.Cloud, error) {
	client, err := c.open()
	if err != nil {
		return fleet.Cloud{Away: err.Error()}, err
	}
	return client.Look(ctx, began, hosts, servers)
}

// Survey asks how much room the computes have.
func (c *cloud) Survey(ctx context.Context, began fleet.Moment, hosts []string) (fleet.Survey, error) {
	client, err := c.open()
	if err != nil {
		return fleet.Survey{}, err
	}
	return client.Survey(ctx, began, hosts)
}

// Stock lists all servers, and all snapshots of them.
func (c *cloud) Stock(ctx context.Context, at time.Time) (fleet.Stock, error) {
	client, err := c.open()
	if err != nil {
		return fleet.Stock{}, err
	}
	return client.Stock(ctx, at)
}

// Ask asks the servers whose gates these are, all at once, each at its addresses in their
// order until one answers as it should.
func (c *cloud) Ask(ctx context.Context, gates []fleet.Gate) map[string]string {
	if len(gates) == 0 {
		return nil
	}
	said := make([]string, len(gates))
	width := make(chan struct{}, 32)
	var all sync.WaitGroup
	for i, g := range gates {
		all.Go(func() {
			width <- struct{}{}
			defer func() { <-width }()
			for _, to := range g.Addresses {
				r, err := probe.Probe(ctx, to, g.Check)
				switch {
				case err != nil:
					said[i] = err.Error()
				case r.OK:
					said[i] = ""
					return
				default:
					said[i] = r.Why
				}
			}
		})
	}
	all.Wait()
	out := make(map[string]string, len(gates))
	for i, g := range gates {
		out[g.Server] = said[i]
	}
	return out
}

// do carries out an order, and says what became of it.
func (c *cloud) do(ctx context.Context, o fleet.Order, still func() error) (fleet.Outcome, string) {
	client, err := c.open()
	if err != nil {
		return fleet.Broken, err.Error() // nothing was asked
	}
	if err := client.Do(ctx, o, still); err != nil {
		why := err.Error()
		if e, ok := errors.AsType[*openstack.Error](err); ok {
			why = e.Why // history names the deed itself
		}
		return openstack.OutcomeOf(err), why
	}
	return fleet.Done, ""
}
