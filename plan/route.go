package plan

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"mainstay/fleet"
)

// refusals names each host whose HAProxy goes on with an older configuration: what
// is new in the site's file, or in a snippet, is not in force there; and each whose
// certificate is not renewed.
func (d *decision) refusals() {
	for i := range d.w.Spec.Hosts {
		host := d.w.Spec.Hosts[i].Name
		if r, ok := d.current(host); ok && r.Refused != "" {
			d.wait("haproxy/"+host, "a person: it goes on with an older configuration ("+r.Refused+")", "mainstay check, on "+host)
		}
		if r, ok := d.current(host); ok && r.Unrenewed != "" {
			d.wait("certificate/"+host, "a new certificate of this host: "+r.Unrenewed, "mainstay join --renew VOTER, on "+host)
		}
	}
}

// routes tells every HAProxy which servers take traffic. What an agent's own ear
// has missed three beats of it takes out by itself, sooner and only for itself
// (Overlay); this is the picture of the whole.
func (d *decision) routes() {
	if d.learning() {
		d.wake(resend)
		return
	}
	table := fleet.Routes{Servers: map[string]map[string]fleet.Route{}}
	var said []byte // the table in words, for its revision
	for _, v := range d.w.Spec.Services {
		homes := d.homes[v.Name]
		faces := v.Faces(homes)
		if len(faces) == 0 {
			continue
		}
		routes := make(map[string]fleet.Route, len(homes))
		for _, host := range homes {
			routes[host] = d.route(v, host)
		}
		home := d.home(v, faces, routes)
		keepLast(homes, routes)
		for _, f := range faces {
			servers := routes
			if v.Listen.Writer {
				servers = maps.Clone(routes)
				d.writer(f, servers, home)
			}
			table.Servers[f.Name] = servers
			said = append(append(said, f.Name...), 0, 0)
			for _, host := range homes {
				said = append(append(append(append(said, host...), 0), servers[host]...), 0)
			}
		}
	}
	if len(table.Servers) == 0 {
		return
	}
	sum := fnv.New64a()
	sum.Write(said)
	table.Revision = sum.Sum64()>>11 | 1 // fits a JSON number exactly, never zero
	for i := range d.w.Spec.Hosts {
		host := d.w.Spec.Hosts[i].Name
		r, ok := d.current(host)
		if _, balances := r.Services["haproxy"]; !ok || !balances || !d.reaches(host) || r.Routes == table.Revision {
			continue
		}
		d.order(d.to(fleet.Order{Key: fmt.Sprintf("route/%s/%d", host, table.Revision), Verb: fleet.VerbRoute, Routes: table,
			Why: "a server's state changed"}, host))
	}
}

// learns bounds how long a new leader leaves every HAProxy as it is because a host
// that is heard has not reported to it yet: one whose own agent has just gone on in
// a new process knows nobody, and would take sound servers out for a moment.
const learns = 3 * time.Second

func (d *decision) learning() bool {
	if left := learns - d.w.Now.Sub(d.w.Since); left <= 0 {
		return false
	}
	for i := range d.w.Spec.Hosts {
		name := d.w.Spec.Hosts[i].Name
		_, joined := d.w.State.Members[name]
		if _, ok := d.current(name); joined && !ok && d.reaches(name) {
			return true
		}
	}
	return false
}

func (d *decision) route(v fleet.Service, host string) fleet.Route {
	r, ok := d.current(host)
	s := r.Services[v.Name]
	switch d.w.Verdicts[host].Condition {
	case fleet.Lapsed, fleet.Dead:
		return fleet.RouteDead
	case fleet.Suspect:
		return fleet.RouteOut
	case fleet.Offline:
		if left := d.w.State.Members[host].Left; left != nil && left.Down {
			return fleet.RouteDead
		}
		return fleet.RouteOut
	case fleet.Unheard:
		if !ok {
			return fleet.RouteOut
		}
	}
	switch {
	case !ok:
		return fleet.RouteOut
	case d.departs(host) != "" || s.Phase == fleet.Stopping || d.rolls[v.Name] == host:
		return fleet.RouteDrain
	case s.Hung || !s.Ready || d.beyond(host, d.w.Spec.ServerNetwork(v)):
		return fleet.RouteOut
	}
	return fleet.RouteReady
}

// beyond says whether a host cannot be reached over a network, though it may be
// well: its own agent finds its services in order all the same.
func (d *decision) beyond(host, network string) bool {
	if _, ok := d.current(host); ok {
		return d.cut(host, network) != ""
	}
	return slices.Contains(d.w.Verdicts[host].Silent, network)
}

// keepLast puts every server that may still answer back into the rotation if
// otherwise none were left: a doubtful answer beats a certain refusal.
func keepLast(homes []string, servers map[string]fleet.Route) {
	for _, host := range homes {
		if servers[host] == fleet.RouteReady {
			return
		}
	}
	for _, host := range homes {
		if servers[host] != fleet.RouteDead {
			servers[host] = fleet.RouteReady
		}
	}
}

// writer chooses the one server of a face that takes the writes; it stays until it fails,
// because every change of writer costs its clients a reconnect, or until the writers of
// the service go home. The next one is that to which HAProxy has gone by itself.
func (d *decision) writer(f fleet.Face, servers map[string]fleet.Route, home bool) {
	ready := func(host string) bool { return servers[host] == fleet.RouteReady }
	now, why := d.w.State.Writers[f.Name], ""
	switch {
	case home && now != f.Order[0]:
		now, why = f.Order[0], ": all copies have been ready for "+homeAfter.String()
	case !ready(now):
		now = f.Next(now, ready)
	}
	if now == "" {
		return
	}
	if now != d.w.State.Writers[f.Name] {
		d.record(fleet.Put("writer/"+f.Name, now, fmt.Sprintf("%s takes the writes of %s%s", now, f.Name, why)))
	}
	for _, host := range f.Order {
		if host != now && ready(host) {
			servers[host] = fleet.RouteBackup
		}
	}
}

// homeAfter is how long all copies of a service must have been ready before writers that
// have gathered on some of them are spread again: one that comes and goes shall not take
// its clients with it each time.
const homeAfter = time.Minute

// home says whether the writers of a service are to be where they are spread to. A
// service that has one alone leaves it where it is.
func (d *decision) home(v fleet.Service, faces []fleet.Face, routes map[string]fleet.Route) bool {
	if len(faces) < 2 {
		return false
	}
	whole, away := true, false
	for _, f := range faces {
		now := d.w.State.Writers[f.Name]
		away = away || now != "" && now != f.Order[0]
	}
	for _, host := range d.homes[v.Name] {
		whole = whole && routes[host] == fleet.RouteReady
	}
	since, watched := d.w.State.Spread[v.Name]
	switch left := homeAfter - d.w.Wall.Sub(since); {
	case !whole || !away:
		if watched {
			d.record(fleet.Remove("spread/"+v.Name, ""))
		}
	case !watched:
		d.record(fleet.Put("spread/"+v.Name, d.w.Wall, fmt.Sprintf("all copies of %s are ready: if they still are in %v, its writers are spread again", v.Name, homeAfter)))
	case left > 0:
		d.wake(left)
	default:
		return true
	}
	return false
}

// Drained says whether a host's servers take no new traffic by a routing table, or
// nobody else's could.
func Drained(routes fleet.Routes, host string) bool {
	for _, service := range fleet.Sorted(routes.Servers) {
		servers, others := routes.Servers[service], false
		for _, name := range fleet.Sorted(servers) {
			others = others || name != host && (servers[name] == fleet.RouteReady || servers[name] == fleet.RouteBackup)
		}
		if mine := servers[host]; others && (mine == fleet.RouteReady || mine == fleet.RouteBackup) {
			return false
		}
	}
	return true
}

// Overlay takes hosts that this agent's own ear suspects out of a routing table,
// without asking anybody, and never the last one.
func Overlay(routes fleet.Routes, suspect []string) fleet.Routes {
	out := fleet.Routes{Revision: routes.Revision, Servers: map[string]map[string]fleet.Route{}}
	for _, service := range fleet.Sorted(routes.Servers) {
		servers := map[string]fleet.Route{}
		left := 0
		for _, host := range fleet.Sorted(routes.Servers[service]) {
			route := routes.Servers[service][host]
			if slices.Contains(suspect, host) && (route == fleet.RouteReady || route == fleet.RouteBackup) {
				route = fleet.RouteOut
			}
			if route == fleet.RouteReady || route == fleet.RouteBackup {
				left++
			}
			servers[host] = route
		}
		if left == 0 {
			servers = routes.Servers[service]
		}
		out.Servers[service] = servers
	}
	return out
}
