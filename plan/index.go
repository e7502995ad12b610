package plan

import (
	"slices"

	"mainstay/fleet"
)

// index is what a turn looks up many times, found once: a site has a thousand
// hosts, and a leader decides afresh whenever one of them has news.
type index struct {
	hosts map[string]*sight
	homes map[string][]string // by service
	spec  map[string]*fleet.Service
	// things are all holdings in order, on and from those of each host that holds
	// or held them, holders the hosts that hold any, in order.
	things   []string
	on, from map[string][]string
	holders  []string
	disarmed bool
	moves    map[string]fleet.Wish // by thing
}

// sight is what the World says of one host.
type sight struct {
	host   *fleet.Host // as the site's file has it; nil: not at all
	report fleet.Report
	// current: the report speaks for the boot that is heard now.
	current bool
	// reaches: it makes sense to send it anything.
	reaches     bool
	maintenance bool
	// speaks: its report is of the stint that is heard now.
	speaks bool
	// down: it says itself that it is shutting down.
	down bool
}

func newIndex(w *fleet.World) index {
	x := index{
		hosts: make(map[string]*sight, len(w.Spec.Hosts)), homes: make(map[string][]string, len(w.Spec.Services)), spec: make(map[string]*fleet.Service, len(w.Spec.Services)),
		things: fleet.Sorted(w.State.Holdings), on: make(map[string][]string, len(w.Spec.Hosts)), from: map[string][]string{}, moves: map[string]fleet.Wish{},
	}
	seen := make([]sight, len(w.Spec.Hosts))
	for i := range w.Spec.Hosts {
		name := w.Spec.Hosts[i].Name
		s := &seen[i]
		s.host = &w.Spec.Hosts[i]
		r, ok := w.Reports[name]
		heard := w.Heard[name].Stint
		s.report, s.current = r, ok && r.Boot != "" && r.Boot == heard.Boot
		s.down = s.current && r.GoesDown
		switch w.Verdicts[name].Condition {
		case fleet.Healthy, fleet.Degraded, fleet.Suspect:
			s.reaches = true
		}
		s.speaks = s.current && s.reaches && r.Stint == heard.N
		x.hosts[name] = s
	}
	for i := range w.Spec.Services {
		v := &w.Spec.Services[i]
		x.homes[v.Name], x.spec[v.Name] = w.Spec.Homes(*v), v
	}
	for i, thing := range x.things {
		h := w.State.Holdings[thing]
		if h.Host != "" { // a restored store does not know who holds it
			if on, more := x.on[h.Host]; more {
				x.on[h.Host] = append(on, thing)
			} else { // of thousands of computes each holds one thing
				x.on[h.Host], x.holders = x.things[i:i+1:i+1], append(x.holders, h.Host)
			}
		}
		if h.From.Host != "" {
			x.from[h.From.Host] = append(x.from[h.From.Host], thing)
		}
	}
	slices.Sort(x.holders)
	for _, id := range fleet.Sorted(w.State.Wishes) {
		wish := w.State.Wishes[id]
		switch {
		case id == "disarm":
			x.disarmed = true
		case wish.Verb == "maintenance" && x.hosts[wish.Host] != nil && id == "maintenance-"+wish.Host:
			x.hosts[wish.Host].maintenance = true
		case wish.Verb == "move":
			if _, ok := x.moves[wish.Thing]; !ok {
				x.moves[wish.Thing] = wish
			}
		}
	}
	return x
}

// see returns what is known of a host; one that the site's file does not name is
// not reached and has said nothing.
func (x *index) see(host string) *sight {
	if s, ok := x.hosts[host]; ok {
		return s
	}
	return &sight{}
}

// host is Spec.Host by the index; nil if there is none.
func (x *index) host(name string) *fleet.Host { return x.see(name).host }

// service returns the service of that name.
func (x *index) service(name string) (fleet.Service, bool) {
	if v, ok := x.spec[name]; ok {
		return *v, true
	}
	return fleet.Service{}, false
}

// mayCarry is Spec.MayCarry by the index.
func (x *index) mayCarry(a *fleet.Address, host *fleet.Host) bool {
	if _, ok := host.Addresses[a.Network]; !ok {
		return false
	}
	if len(a.With) == 0 {
		return host.HasRole("controller", "network")
	}
	for _, name := range a.With {
		if !slices.Contains(x.homes[name], host.Name) {
			return false
		}
	}
	return true
}
