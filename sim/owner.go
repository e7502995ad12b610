package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"mainstay/fleet"
)

// What owners say of their servers, and what the site keeps in reserve, as Nova has it; and
// the audits of it, which know the owners' words and nothing of how they are followed.

// owners writes what owners say into their servers' metadata. Of a server with a gate it
// answers three seconds after it runs.
func (n *nova) owners(words []string) {
	for i, g := range n.guests {
		for _, w := range words {
			server, said, _ := strings.Cut(w, ".")
			key, value, _ := strings.Cut(said, "=")
			if server != g.ID {
				continue
			}
			switch {
			case key == "Project":
				g.Project = value
				continue
			case key == "RAM":
				g.RAM, _ = strconv.Atoi(value) // MiB
				continue
			case key == "locked":
				g.Locked, g.locked, g.LockedFor = true, true, value
				continue
			case g.Metadata == nil:
				g.Metadata = map[string]string{}
			}
			g.Metadata["HA_"+key] = value
			if "HA_"+key == fleet.MetaReady {
				g.gate = 3 * second
				g.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})}
			}
		}
	}
}

// owns does what a story says of one server; done is false if it is not of one.
func (n *nova) owns(args []string) (done bool, err error) {
	if len(args) < 2 || !slices.Contains([]string{"shut", "open", "lock", "moved"}, args[0]) {
		return false, nil
	}
	i := slices.IndexFunc(n.guests, func(g *guest) bool { return g.ID == args[1] })
	if i < 0 {
		return true, fmt.Errorf("no server %s", args[1])
	}
	switch g := n.guests[i]; args[0] {
	case "lock": // its owner's request changes nothing on a server that is locked
		if !g.Locked {
			g.Locked, g.locked, g.LockedFor = true, true, "hands off"
		}
	case "moved": // a person migrates it live
		from, to := n.site.names[g.Host], n.site.names[args[len(args)-1]]
		if to == nil || !g.runs[from] || g.Task != "" || !n.working(to) {
			return true, fmt.Errorf("%s cannot be moved from %s to %s", g.ID, g.Host, args[len(args)-1])
		}
		delete(g.runs, from)
		g.Host, g.runs[to] = to.name, true
	default:
		g.shut = args[0] == "shut"
	}
	return true, nil
}

// emptyReserves has a person move away what is on computes of the reserve, to where it fits,
// once what moved it there is over.
func (n *nova) emptyReserves() {
	for _, g := range n.guests {
		from := n.site.names[g.Host]
		if !slices.Contains(n.site.spec.OpenStack.Reserved, g.Host) || g.Task != "" || g.Locked != g.locked || g.State != g.was || !n.up(from) || !n.working(from) {
			continue
		}
		room := n.look(nil, nil).Computes
		for _, h := range n.site.hosts {
			if n.nodes[h] == nil || slices.Contains(n.site.spec.OpenStack.Reserved, h.name) || !n.up(h) || !n.working(h) || n.nodes[h].disabled || room[h.name].FreeRAM < g.RAM {
				continue
			}
			n.site.tell("a person moves %s from %s to %s", g.ID, g.Host, h.name)
			if g.runs[from] {
				delete(g.runs, from)
				g.runs[h] = true
			}
			g.Host = h.name
			break
		}
	}
}

// answers says whether a guest's gate does.
func (n *nova) answers(g *guest) bool {
	return len(g.runs) == 1 && !g.shut && !g.pulse.stuck && n.site.now >= g.since+g.gate
}

// ask puts the gates' questions.
func (n *nova) ask(gates []fleet.Gate) map[string]string {
	out := map[string]string{}
	for _, gate := range gates {
		i := slices.IndexFunc(n.guests, func(g *guest) bool { return g.ID == gate.Server })
		out[gate.Server] = fmt.Sprintf("%s %v:%d: connection refused", gate.Check.Kind, gate.Addresses, gate.Check.Port)
		if g := n.guests[i]; n.answers(g) {
			out[gate.Server], g.answered = "", true
		}
	}
	return out
}

// lock is Nova's, as the client asks for it: not over another's.
func (n *nova) lock(g *guest, o fleet.Order) (fleet.Outcome, string) {
	switch {
	case o.Step == fleet.CloudLock && !g.Locked:
		g.Locked, g.LockedFor = true, o.Why
	case o.Step == fleet.CloudUnlock && g.Ours():
		g.Locked, g.LockedFor = false, ""
	}
	n.site.tell("Nova: %s %s", o.Step, g.ID)
	return fleet.Done, ""
}

func (n *nova) aggregate() fleet.Aggregate {
	a := fleet.Aggregate{ID: "1", Name: "ssd"}
	for _, h := range n.site.hosts {
		if n.set[h] {
			a.Hosts = append(a.Hosts, h.name)
		}
	}
	return a
}

// belongs puts a host into the aggregate, or takes it out.
func (n *nova) belongs(h *host, o fleet.Order) (fleet.Outcome, string) {
	in := o.Step == fleet.CloudJoin
	if n.set[h] == in {
		return fleet.Done, "" // the client asks what is
	}
	n.set[h] = in
	n.site.tell("Nova: %s %s aggregate %s", o.Step, h.name, o.With)
	if n.halved > 0 {
		n.halved--
		return fleet.Broken, "Failed to synchronize the placement aggregates."
	}
	return fleet.Done, ""
}

// spare says whether the site keeps a host empty at present.
func (n *nova) spare(h *host) bool {
	_, used := n.site.quorum.newest().Reserves[h.name]
	return slices.Contains(n.site.spec.OpenStack.Reserved, h.name) && !used
}

// enables: a compute of the reserve is enabled only under the record that it is in use.
func (n *nova) enables(host string) {
	if r, used := n.site.quorum.newest().Reserves[host]; slices.Contains(n.site.spec.OpenStack.Reserved, host) && (!used || !n.set[n.site.names[host]]) {
		n.site.watch.fail("reserve by record", "%s is enabled, and no record says that it is in use, or it is not in its aggregate: %+v", host, r)
	}
}

// after says whether a server's owner has it come after a group, but for groups that come after its own as well.
func (n *nova) after(g *guest, group string) bool {
	says := func(x *guest, key string) []string {
		return strings.FieldsFunc(x.Metadata[key], func(r rune) bool { return r == ',' || r == ' ' })
	}
	if !slices.Contains(says(g, fleet.MetaAfter), group) {
		return false
	}
	reached := map[string]bool{group: true}
	for range n.guests {
		for _, x := range n.guests {
			if own := x.Metadata[fleet.MetaGroup]; x.Project == g.Project && reached[own] {
				for _, next := range says(x, fleet.MetaAfter) {
					reached[next] = true
				}
			}
		}
	}
	return !reached[g.Metadata[fleet.MetaGroup]] || g.Metadata[fleet.MetaGroup] == ""
}

// orderGrace is how old the news that a compute is down may be when a leader decides.
const orderGrace = 15 * second

// goes: a server is asked for only when each group that it comes after is there and its
// gates have answered, or its time is over by the record.
func (n *nova) goes(id string, before, state fleet.State) {
	e, was := state.Evacuations[id], before.Evacuations[id]
	if e.Try != 1 || e.Ended != "" || was.Key() == e.Key() {
		return
	}
	i := slices.IndexFunc(n.guests, func(g *guest) bool { return g.ID == e.Server })
	g := n.guests[i]
	for _, x := range n.guests {
		group := x.Metadata[fleet.MetaGroup]
		if x == g || group == "" || x.Project != g.Project || !n.after(g, group) || strings.EqualFold(x.Metadata["HA_Enabled"], "false") {
			continue
		}
		if state.Groups[fleet.RestartGroup{Project: x.Project, Name: group}.Key()].Late {
			continue
		}
		h := n.site.names[x.Host]
		// One that was rebooted before anything was moved starts again what is on it.
		down := n.nodes[h].forced && n.site.now-n.nodes[h].downAt > orderGrace && state.Holdings["compute/"+h.name].Boot != h.boot
		moved, known := state.Evacuations[x.ID]
		switch {
		case down:
			n.site.watch.fail("order", "%s is asked for, and %s of group %s, which it comes after, is on %s yet", g.ID, x.ID, group, x.Host)
		case known && moved.Gate != nil && !x.answered && len(x.runs) == 1:
			n.site.watch.fail("order", "%s is asked for, and %s of group %s, which it comes after, is not ready", g.ID, x.ID, group)
		}
	}
}
