package judge

import (
	"slices"
	"time"

	"mainstay/fleet"
)

// Missing returns the neighbours by whose word a host is cut off from a network on which no voter
// lives; none if it is not. Each host has a few there, found by the site's file, that it asks again and again;
// most of those whose word counts must hear it no more, and two at least. The word of a neighbour that
// hears nobody there counts for nothing: it is cut off itself. So when a switch splits, whoever hears most of
// its own is not blamed by the others.
func Missing(w *fleet.World, host, network string) []string {
	r := w.Reports[host]
	if r.Boot != w.Heard[host].Stint.Boot {
		return nil
	}
	var missing []string
	able := 0
	for _, name := range r.Neighbours[network].Of {
		its := w.Reports[name]
		n, known := its.Neighbours[network]
		if h := w.Heard[name]; !known || n.Alone || its.Boot != h.Stint.Boot || w.Now.Sub(h.Last) >= unheardFor(w) {
			continue
		}
		switch {
		case slices.Contains(n.Missed, host):
			able++
			missing = append(missing, name)
		case slices.Contains(n.Heard, host):
			able++
		}
	}
	if len(missing) < max(2, able/2+1) {
		return nil
	}
	return missing
}

// unheardFor is how long a host may be silent before its last report says nothing of the others.
func unheardFor(w *fleet.World) time.Duration { return 3 * w.Spec.Timing.SlowBeat }

// complaints are the hosts of which a neighbour says that it hears them no more, with the
// networks: at rest there are none, and nobody's neighbours are looked at.
func complaints(w *fleet.World) map[string][]string {
	var out map[string][]string
	for i := range w.Spec.Hosts {
		its := w.Reports[w.Spec.Hosts[i].Name].Neighbours
		for _, network := range fleet.Sorted(its) {
			for _, host := range its[network].Missed {
				if out == nil {
					out = map[string][]string{}
				}
				if !slices.Contains(out[host], network) {
					out[host] = append(out[host], network)
				}
			}
		}
	}
	for _, host := range fleet.Sorted(out) {
		slices.Sort(out[host])
	}
	return out
}
