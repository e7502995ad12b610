package lease

import (
	"time"

	"mainstay/fleet"
)

// Paths knows, by network, when the newest beat was sent whose acknowledgement came
// back over that network: so far it surely carried both ways. It is what a host
// itself knows of a network that is cut one way, or for the leader alone, who
// hears everybody else's beats and nobody tells it of its own.
type Paths struct {
	acked  map[string]fleet.Moment
	newest fleet.Moment // over any
}

// Acked notes an acknowledgement that came back over a network.
func (p *Paths) Acked(network string, sent fleet.Moment) {
	if p.acked == nil {
		p.acked = map[string]fleet.Moment{}
	}
	p.acked[network], p.newest = max(p.acked[network], sent), max(p.newest, sent)
}

// Broken says whether beats over a network come back no more, while those over
// another one do: none of the beats of the last limit was acknowledged over it. A
// network over which none ever was is not judged: perhaps no other voter is on it.
//
// Send times are compared and not arrivals: a host that was stopped for a while has
// sent nothing on any network meanwhile, and blames none for it.
func (p *Paths) Broken(network string, limit time.Duration) bool {
	acked, known := p.acked[network]
	return known && p.newest.Sub(acked) > limit
}
