package node

import (
	"net/netip"

	"mainstay/api"
)

// over returns the client that reaches a host over one network and no other.
func (p *peers) over(host, network string) *api.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := network + "/" + host
	if p.streets[key] == nil {
		other, _ := p.spec.Host(host)
		p.streets[key] = api.NewTLS(netip.AddrPortFrom(other.Addresses[network], api.Port).String(), p.files.Client(host))
	}
	return p.streets[key]
}

// Neighbour implements api.Backend.
func (n *node) Neighbour(host string, local netip.Addr) {
	me, _ := n.spec.Host(n.host)
	for network, own := range me.Addresses {
		if own == local {
			n.agent.Asked(network, host)
		}
	}
}
