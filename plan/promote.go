package plan

import (
	"fmt"
	"slices"

	"mainstay/fleet"
)

// A service in mode promoted has a copy on every home, and one of them is promoted. The
// copies are started like those of an active/active service (active). The right to be
// promoted is a holding with the very rules of an active/passive service (passive): both
// are one code, which sees of a copy only what Exclusive leaves, and gives orders to
// promote and demote where it would give orders to start and stop.

// Exclusive is what a copy has of that which only one host may have: a copy in mode
// promoted "runs" while it is promoted, or may be, and is stopped else. Of an
// active/passive service it is the copy itself.
func Exclusive(v fleet.Service, s fleet.ServiceState) fleet.ServiceState {
	if v.Mode != fleet.Promoted || s.Phase == fleet.Unknown || alive(s) && s.Role != fleet.RoleUnpromoted {
		return s
	}
	s.Phase, s.Stuck = fleet.Stopped, false
	return s
}

// takes and gives are the orders by which a service's right is used and given back.
func takes(v fleet.Service) fleet.Verb {
	if v.Mode == fleet.Promoted {
		return fleet.VerbPromote
	}
	return fleet.VerbStart
}

func gives(v fleet.Service) fleet.Verb {
	if v.Mode == fleet.Promoted {
		return fleet.VerbDemote
	}
	return fleet.VerbStop
}

// is says what a copy does that only one may do.
func is(v fleet.Service) string {
	if v.Mode == fleet.Promoted {
		return "is promoted"
	}
	return "runs"
}

// unpromotable says why a host's copy cannot be promoted now; "" if it can. Which copy
// is good enough only its agent knows, and says by its score.
func (d *decision) unpromotable(v fleet.Service, host string) string {
	if v.Mode != fleet.Promoted {
		return ""
	}
	if why := d.behind(v, host); why != "" {
		return why
	}
	r, _ := d.current(host)
	switch s := r.Services[v.Name]; {
	case s.Phase != fleet.Running:
		return fmt.Sprintf("its copy on %s is %s", host, s.Phase)
	case s.Stuck || !s.Ready:
		return fmt.Sprintf("its copy on %s is not ready (%s)", host, s.Why)
	case s.Score < 1 && s.Role != fleet.RolePromoted:
		return fmt.Sprintf("its copy on %s does not want to be promoted (its score is %d)", host, s.Score)
	case s.Mirror.Filling && s.Role != fleet.RolePromoted: // DRBD would, as long as it is linked (seen): a loss of the link then ends every write
		return fmt.Sprintf("its copy on %s is still being filled from another", host)
	}
	return ""
}

// gathering names the homes whose copies are still to start. Before anything is promoted
// from nothing each must have had the chance to say its score: the one that starts first
// need not have the newest data.
func (d *decision) gathering(v fleet.Service) (out []string) {
	if v.Mode != fleet.Promoted {
		return nil
	}
	for _, host := range d.homes[v.Name] {
		r, ok := d.current(host)
		if s := r.Services[v.Name]; ok && (s.Phase == fleet.Stopped || s.Phase == fleet.Starting) && d.departs(host) == "" && !d.deadNow(host) {
			out = append(out, host)
		}
	}
	return out
}

// choose picks the host that a service's right is given to: of copies that could be
// promoted the one that says so the loudest, else as the operator prefers.
func (d *decision) choose(v fleet.Service, fit []string) string {
	hosts := d.best(fit, v.Prefer)
	if v.Mode == fleet.Promoted {
		slices.SortStableFunc(hosts, func(a, b string) int {
			return d.w.Reports[b].Services[v.Name].Score - d.w.Reports[a].Services[v.Name].Score
		})
	}
	return hosts[0]
}
