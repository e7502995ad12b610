package lease

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"

	"mainstay/fleet"
)

// Watching is how many neighbours hear each host on a network on which no voter lives.
const Watching = 3

// Unvoted lists the networks of a host on which no voter has an address: nobody who is asked
// by a leader hears it there.
func Unvoted(spec *fleet.Spec, host string) []string {
	me, _ := spec.Host(host)
	return slices.DeleteFunc(fleet.Sorted(me.Addresses), func(network string) bool {
		return slices.ContainsFunc(spec.Hosts, func(h fleet.Host) bool {
			_, there := h.Addresses[network]
			return h.Voter && there
		})
	})
}

// Watchers returns those who hear a host on a network: of all others there the Watching with the
// highest hashes of both names (rendezvous hashing), so that everybody finds the same ones by the
// site's file alone, and a host that comes or goes changes only its own.
func Watchers(spec *fleet.Spec, host, network string) []string {
	type rival struct {
		name string
		hash uint64
	}
	var best []rival
	for i := range spec.Hosts {
		o := &spec.Hosts[i]
		if _, there := o.Addresses[network]; !there || o.Name == host {
			continue
		}
		f := fnv.New64a()
		for _, part := range [...]string{network, host, o.Name} {
			_, _ = f.Write([]byte(part)) // it takes everything
			_, _ = f.Write([]byte{0})
		}
		best = append(best, rival{o.Name, mix(f.Sum64())})
		slices.SortFunc(best, func(a, b rival) int { return cmp.Or(cmp.Compare(b.hash, a.hash), cmp.Compare(a.name, b.name)) })
		best = best[:min(len(best), Watching)]
	}
	names := make([]string, len(best))
	for i := range best {
		names[i] = best[i].name
	}
	slices.Sort(names)
	return names
}

// mix spreads the last bytes of what was hashed over all bits, which FNV does not: names that
// differ in their last digit alone would have neighbours in a row.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// Neighbours is what a host knows of the others on networks on which no voter lives. It asks its
// watchers there once in a slow beat, and is asked by those whom it watches.
type Neighbours struct {
	limit time.Duration
	nets  map[string]*street
}

// street is one such network.
type street struct {
	of       []string
	began    fleet.Moment
	answered map[string]fleet.Moment // when a watcher last answered this host
	asked    map[string]fleet.Moment // when another last asked this host
}

// NewNeighbours begins with nobody heard.
func NewNeighbours(spec *fleet.Spec, host string, now fleet.Moment) *Neighbours {
	n := &Neighbours{limit: 3 * spec.Timing.SlowBeat, nets: map[string]*street{}}
	for _, network := range Unvoted(spec, host) {
		n.nets[network] = &street{of: Watchers(spec, host, network), began: now, answered: map[string]fleet.Moment{}, asked: map[string]fleet.Moment{}}
	}
	return n
}

// Networks lists the networks on which there are neighbours to be asked.
func (n *Neighbours) Networks() []string { return fleet.Sorted(n.nets) }

// Of lists whom this host asks on a network.
func (n *Neighbours) Of(network string) []string { return n.nets[network].of }

// Answered notes that a watcher has answered this host over a network, so that it carries both
// ways between the two.
func (n *Neighbours) Answered(network, host string, now fleet.Moment) {
	n.nets[network].answered[host] = now
}

// Asked notes that another host has asked this one over a network.
func (n *Neighbours) Asked(network, host string, now fleet.Moment) {
	if s := n.nets[network]; s != nil {
		s.asked[host] = now
	}
}

// Return tells that this host's own process was away until now: what it has not heard meanwhile
// is no fault of the others.
func (n *Neighbours) Return(now fleet.Moment) {
	for _, network := range n.Networks() {
		s := n.nets[network]
		s.began = now
		for _, heard := range []map[string]fleet.Moment{s.answered, s.asked} {
			for _, host := range fleet.Sorted(heard) {
				heard[host] = now
			}
		}
	}
}

// others is when anybody but one host was last heard there. Who falls silent together with all others is
// not missed: it is this host that is cut off, which it only knows when the last of them is overdue.
func (s *street) others(but string) (newest fleet.Moment) {
	for _, heard := range []map[string]fleet.Moment{s.answered, s.asked} {
		for _, host := range fleet.Sorted(heard) {
			if host != but {
				newest = max(newest, heard[host])
			}
		}
	}
	return newest
}

// Word is what this host says of its neighbours; nil where it has none to speak of.
func (n *Neighbours) Word(now fleet.Moment) map[string]fleet.Neighbourhood {
	var out map[string]fleet.Neighbourhood
	for _, network := range n.Networks() {
		s := n.nets[network]
		if len(s.of) == 0 {
			continue
		}
		w := fleet.Neighbourhood{Of: s.of}
		for _, host := range s.of {
			if now.Sub(max(s.answered[host], s.began)) >= n.limit {
				w.Unanswered = append(w.Unanswered, host)
			}
		}
		for _, host := range fleet.Sorted(s.asked) {
			switch {
			case now.Sub(s.asked[host]) < n.limit:
				w.Heard = append(w.Heard, host)
			case s.others(host).Sub(s.asked[host]) >= n.limit/2:
				w.Missed = append(w.Missed, host)
			}
		}
		w.Alone = len(w.Heard) == 0 && len(w.Unanswered) == len(s.of)
		if out == nil {
			out = make(map[string]fleet.Neighbourhood, len(n.nets))
		}
		out[network] = w
	}
	return out
}
