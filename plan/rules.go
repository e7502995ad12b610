package plan

import (
	"fmt"
	"slices"
	"strings"

	"mainstay/fleet"
)

// rules are those of Nova's scheduler that can be seen from outside, and what they make of a
// survey as servers are put somewhere: Placement's inventories and traits, zones, aggregates,
// server groups.
type rules struct {
	computes map[string]fleet.Compute
	s        *fleet.Survey
	hosts    []string
	groups   map[string][]*fleet.Group // by server
	wants    map[string][]want         // by server
	says     map[string][]*fleet.Aggregate
	shared   bool // no compute has disk of its own: it is shared, and there wherever a server goes

	gone  map[string]bool
	used  map[string]string         // reserves that are taken into use, with the zone that they join
	taken map[string]map[string]int // by host and class
	moved map[string]string         // by server
}

// want is so much of a resource class.
type want struct {
	class string
	n     int
}

func newRules(computes map[string]fleet.Compute, s *fleet.Survey) *rules {
	r := &rules{computes: computes, s: s, hosts: fleet.Sorted(computes), groups: map[string][]*fleet.Group{}, wants: map[string][]want{}, says: map[string][]*fleet.Aggregate{}, shared: true}
	for i := range s.Groups {
		for _, id := range s.Groups[i].Members {
			r.groups[id] = append(r.groups[id], &s.Groups[i])
		}
	}
	for i := range s.Aggregates {
		for _, host := range s.Aggregates[i].Hosts {
			r.says[host] = append(r.says[host], &s.Aggregates[i])
		}
	}
	for _, id := range fleet.Sorted(s.Servers) {
		need := s.Needs[id]
		for _, class := range fleet.Sorted(need.Resources) {
			r.wants[id] = append(r.wants[id], want{class, need.Resources[class]})
		}
	}
	for _, host := range fleet.Sorted(s.Rooms) {
		if _, has := s.Rooms[host].Left[fleet.ClassDisk]; has {
			r.shared = false
		}
	}
	return r.without(nil)
}

// without is the same with some hosts dead, and nothing moved yet.
func (r *rules) without(gone map[string]bool) *rules {
	x := *r
	x.gone, x.used, x.taken, x.moved = gone, map[string]string{}, map[string]map[string]int{}, map[string]string{}
	return &x
}

// refuses says by which rule Nova does not put a server on a host; "" if it does.
func (r *rules) refuses(host string, s *fleet.Server) string {
	c := r.computes[host]
	zone, used := r.used[host]
	if used {
		c.Disabled, c.Zone = false, zone
	}
	switch {
	case r.gone[host] || host == s.Host:
		return "lost"
	case !c.Up || c.Forced:
		return "down"
	case c.Disabled:
		return "disabled"
	case s.Zone != "" && s.Zone != c.Zone:
		return "zone " + s.Zone
	}
	room, need := r.s.Rooms[host], r.s.Needs[s.ID]
	if len(room.Left) == 0 {
		return lackOf(fleet.ClassMemory, "") // what has none left is not among Placement's candidates
	}
	for _, w := range r.wants[s.ID] {
		left, has := room.Left[w.class]
		whole, limited := room.Whole[w.class]
		switch {
		case !has && r.s.Away != "", !has && w.class == fleet.ClassDisk && r.shared:
		case left-r.taken[host][w.class] < w.n, limited && whole < w.n:
			return lackOf(w.class, need.PCI)
		}
	}
	if r.s.Away == "" {
		for _, trait := range need.Required {
			if !room.Traits[trait] {
				return "trait " + trait
			}
		}
		for _, trait := range need.Forbidden {
			if room.Traits[trait] {
				return "trait " + trait + ", which it must not have"
			}
		}
	}
	if why := r.foreign(host, s, need); why != "" {
		return why
	}
	for _, g := range r.groups[s.ID] {
		if why := r.grouped(g, host, s.ID); why != "" {
			return why
		}
	}
	return ""
}

// lackOf names a resource class of which too little is left.
func lackOf(class, pci string) string {
	switch class {
	case fleet.ClassMemory:
		return "memory"
	case fleet.ClassVCPU:
		return "vcpus"
	case fleet.ClassPCPU:
		return "dedicated cpus (NUMA)"
	case fleet.ClassDisk:
		return "local disk"
	}
	if pci != "" {
		return "PCI device " + pci + " (" + class + ")"
	}
	return class
}

// foreign says which aggregate's word keeps a server away: what its flavor asks of an
// aggregate, or a host that is for other projects alone.
func (r *rules) foreign(host string, s *fleet.Server, need fleet.Need) string {
	for _, key := range fleet.Sorted(need.Aggregate) {
		want := strings.Fields(strings.ReplaceAll(need.Aggregate[key], "<or>", " "))
		if !slices.ContainsFunc(r.says[host], func(a *fleet.Aggregate) bool { return slices.Contains(want, a.Says[key]) }) {
			return fmt.Sprintf("aggregate with %s=%s", key, strings.Join(want, " or "))
		}
	}
	kept, ours := false, false
	for _, a := range r.says[host] {
		for _, key := range fleet.Sorted(a.Says) {
			if strings.HasPrefix(key, "filter_tenant_id") {
				kept = true
				ours = ours || slices.Contains(strings.Split(a.Says[key], ","), s.Project)
			}
		}
	}
	if kept && !ours {
		return "an aggregate kept for other projects"
	}
	return ""
}

// grouped says whether a group keeps a server from a host. Nova counts a member where it has it
// on record: of an affinity group whose host is dead none can go anywhere, for the only
// host that has one is the dead one.
func (r *rules) grouped(g *fleet.Group, host, id string) string {
	here, elsewhere := 0, false
	for _, m := range g.Members {
		at, moved := r.moved[m]
		if !moved {
			v, known := r.s.Servers[m]
			if !known {
				continue
			}
			at = v.Host
		}
		switch {
		case at == host && m != id:
			here++
		case at != host && at != "":
			elsewhere = true
		}
	}
	switch {
	case g.Policy == fleet.AntiAffinity && here >= max(1, g.Most):
		return "anti-affinity"
	case g.Policy == fleet.Affinity && here == 0 && elsewhere:
		return "affinity"
	}
	return ""
}

// choose is where Nova's scheduler puts a server: where most memory is left; "": nowhere.
func (r *rules) choose(s *fleet.Server) (best string) {
	most := 0
	for _, host := range r.hosts {
		left, counted := r.s.Rooms[host].Left[fleet.ClassMemory]
		if !counted {
			left = r.computes[host].FreeRAM
		}
		left -= r.taken[host][fleet.ClassMemory]
		if (best == "" || left > most) && r.refuses(host, s) == "" {
			best, most = host, left
		}
	}
	return best
}

// take puts a server on a host.
func (r *rules) take(host string, s *fleet.Server) {
	on := r.taken[host]
	if on == nil {
		on = map[string]int{}
		r.taken[host] = on
	}
	for _, w := range r.wants[s.ID] {
		on[w.class] += w.n
	}
	r.moved[s.ID] = host
}

// lacks says why no compute takes a server, the commonest reason first.
func (r *rules) lacks(s *fleet.Server) string {
	by := map[string]int{}
	for _, host := range r.hosts {
		if why := r.refuses(host, s); why != "lost" {
			by[why]++
		}
	}
	if len(by) == 0 {
		return "there is no other compute"
	}
	reasons := fleet.Sorted(by)
	slices.SortStableFunc(reasons, func(a, b string) int { return by[b] - by[a] })
	for i, why := range reasons {
		reasons[i] = fmt.Sprintf("%s on %d", why, by[why])
	}
	return "no compute takes it: " + strings.Join(reasons, ", ")
}

// rigid says whether more room would not help a server: on no compute is that what it lacks.
func (r *rules) rigid(s *fleet.Server) bool {
	for _, host := range r.hosts {
		why := r.refuses(host, s)
		for _, w := range r.wants[s.ID] {
			if why == lackOf(w.class, r.s.Needs[s.ID].PCI) && r.s.Rooms[host].Left[w.class] > 0 {
				return false
			}
		}
	}
	return true
}

// unsure says what of a server's need no service of OpenStack tells.
func (r *rules) unsure(s *fleet.Server) string {
	need := r.s.Needs[s.ID]
	var what []string
	if need.PCI != "" && !slices.ContainsFunc(r.wants[s.ID], func(w want) bool { return strings.HasPrefix(w.class, "CUSTOM_") || w.class == "VGPU" }) {
		what = append(what, fmt.Sprintf("a PCI device %s (Placement does not count them here: report_in_placement in nova.conf)", need.PCI))
	}
	if need.NUMA != "" {
		what = append(what, "room in one NUMA cell ("+need.NUMA+")")
	}
	if len(what) == 0 {
		return ""
	}
	return "it has room as far as Placement counts; whether there is " + strings.Join(what, " and ") + " only the compute itself knows"
}
