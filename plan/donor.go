package plan

import (
	"slices"

	"mainstay/fleet"
)

// donor is the member, by its cluster's name for it, that is to give its data to the one on
// a host that starts and joins others; "" lets Galera choose. Whoever gives its data leaves
// the rotation meanwhile, and Galera may take the very one that takes the writes: they would
// move, and every client would reconnect, because another member came back. So it is one
// that is ready and takes no writes, or the fewest of those of several faces.
func (d *decision) donor(v fleet.Service, to string) string {
	if v.Kind != "galera" {
		return ""
	}
	homes := d.homes[v.Name]
	ready := func(host string) bool { return d.route(v, host) == fleet.RouteReady }
	writes := map[string]int{}
	for _, f := range v.Faces(homes) {
		now := d.w.State.Writers[f.Name]
		if !ready(now) { // it is given to another in this turn: to the one behind it
			now = f.Next(now, ready)
		}
		writes[now]++
	}
	best, name := "", ""
	at := slices.Index(homes, to)
	for k := 1; k < len(homes); k++ { // those behind it first, so that not all take the same
		host := homes[(at+k)%len(homes)]
		r, _ := d.current(host)
		x := r.Services[v.Name].Replica
		if !ready(host) || x.Part != fleet.PartSynced || x.Name == "" {
			continue
		}
		if best == "" || writes[host] < writes[best] {
			best, name = host, x.Name
		}
	}
	return name
}
