package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"mainstay/fleet"
)

// The order in which servers leave dead hosts is their owners' to say, in metadata. Two
// things follow from that. A word of an owner's counts among the servers of its own project
// only, and projects take turns: nobody holds up, or overtakes, another's. And whatever
// is said, asked or broken delays, and never stops: a group that is waited for has a deadline,
// groups that wait for each other in a circle do not wait for each other at all, and what
// cannot be read is told and taken for not said.
//
// A group is waited for only as far as it was lost: its servers on hosts that live are
// taken for ready, as they have been.

// groupLasts is how long a group is waited for, from when nothing that it waits for itself
// holds it up: a database that replays its log takes minutes, an address that nobody
// answers on must not take longer.
const groupLasts = 10 * time.Minute

// gateAddresses is at how many of a server's addresses its gate is asked at most.
const gateAddresses = 3

// Gate reads the question by which a server is seen to be ready, fleet.MetaReady.
func Gate(text string) (fleet.Check, error) {
	kind, at, _ := strings.Cut(strings.TrimSpace(text), ":")
	port, path, hasPath := strings.Cut(at, "/")
	n, err := strconv.Atoi(port)
	switch {
	case strings.TrimSpace(text) == fleet.CheckAgent:
		return fleet.Check{Kind: fleet.CheckAgent}, nil
	case kind != "tcp" && kind != "http" || err != nil || n < 1 || n > 65535 || kind == "tcp" && hasPath || strings.ContainsAny(path, " \r\n"):
		return fleet.Check{}, fmt.Errorf("%q is no question: tcp:PORT, http:PORT/PATH or agent would be one", text)
	case kind == "http":
		return fleet.Check{Kind: kind, Port: n, Path: "/" + path, Expect: []int{200, 204}, Deadline: time.Second}, nil
	}
	return fleet.Check{Kind: kind, Port: n, Deadline: time.Second}, nil
}

// names reads the restart groups that stand in a server's metadata at a key. A name is
// part of a record's key.
func names(s fleet.Server, key string) (out []string, err error) {
	for name := range strings.SplitSeq(s.Metadata[key], ",") {
		name = strings.TrimSpace(name)
		switch {
		case name == "" && strings.TrimSpace(s.Metadata[key]) == "":
		case name == "" || len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "":
			err = fmt.Errorf("%q is no group's name: up to 63 letters, digits, and any of -_. would be one", name)
		case !slices.Contains(out, name):
			out = append(out, name)
		}
	}
	return out, err
}

// priority reads a server's; 0 where nothing is said, or nothing that can be read.
func priority(s fleet.Server) (int, error) {
	text := strings.TrimSpace(s.Metadata[fleet.MetaPriority])
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%q is no whole number, such as 10", text)
	}
	return n, nil
}

// misread says what of a server's metadata is taken for not said; "" if nothing.
func misread(s fleet.Server) string {
	var out []string
	add := func(key string, err error) {
		if err != nil {
			out = append(out, key+": "+err.Error())
		}
	}
	_, err := priority(s)
	add(fleet.MetaPriority, err)
	group, err := names(s, fleet.MetaGroup)
	if err == nil && len(group) > 1 {
		err = fmt.Errorf("%q are several groups, and a server is of one", s.Metadata[fleet.MetaGroup])
	}
	add(fleet.MetaGroup, err)
	_, err = names(s, fleet.MetaAfter)
	add(fleet.MetaAfter, err)
	if text := s.Metadata[fleet.MetaReady]; text != "" {
		_, err := Gate(text)
		add(fleet.MetaReady, err)
	}
	_, err = Alive(s.Metadata[fleet.MetaAlive])
	add(fleet.MetaAlive, err)
	_, _, err = wanted(&s)
	add(fleet.MetaSnapshot, err)
	return strings.Join(out, "; ")
}

// groupOf is the restart group of a server; "" if it is of none.
func groupOf(s fleet.Server) string {
	if all, err := names(s, fleet.MetaGroup); err == nil && len(all) == 1 {
		return all[0]
	}
	return ""
}

// gate is the question to a server, if its owner names one and it can be asked at an
// address that voters may call; its guest agent needs none.
func (d *decision) gate(s fleet.Server) (*fleet.Gate, string) {
	text := s.Metadata[fleet.MetaReady]
	check, err := Gate(text)
	if text == "" || err != nil {
		return nil, ""
	}
	g := fleet.Gate{Server: s.ID, Check: check}
	if check.Kind == fleet.CheckAgent {
		return &g, ""
	}
	for _, a := range s.Addresses {
		if len(g.Addresses) < gateAddresses && slices.ContainsFunc(d.w.Spec.OpenStack.Ready, func(p netip.Prefix) bool { return p.Contains(a) }) {
			g.Addresses = append(g.Addresses, a)
		}
	}
	if len(g.Addresses) == 0 {
		return nil, fmt.Sprintf("%s: %s is not asked, for none of its addresses is in a network of openstack/ready; it is ready as soon as it is active", fleet.MetaReady, text)
	}
	return &g, ""
}

// restart is what a turn knows of one restart group.
type restart struct {
	fleet.RestartGroup
	after   map[string]bool // the groups that it waits for, by key
	yet     []fleet.Server  // of it, on hosts that are lost: they have not been asked for
	missing []string        // why it is not ready
	gates   []fleet.Gate    // that nobody has seen answered
}

// ordering is one turn's thought about who waits for whom.
type ordering struct {
	groups map[string]*restart
	// unlisted are hosts that are lost, and of which Nova has not been asked since what is on them.
	unlisted []string
	held     map[string]bool // groups that somebody waits for
	knots    map[string]int  // groups that wait for each other have one number
}

// lostComputes are the hosts whose servers must go elsewhere, dead, and those that are
// likely to follow.
func (d *decision) lostComputes() (dead, silent []string) {
	for i := range d.w.Spec.Hosts {
		host := d.w.Spec.Hosts[i].Name
		h := d.w.State.Holdings[Compute(host)]
		if h.Host == "" {
			continue
		}
		_, fencing := d.w.State.Intents[host]
		switch _, proved := d.provedDead(h); {
		case proved:
			dead = append(dead, host)
		case fencing || d.w.Verdicts[host].Condition == fleet.Lapsed:
			silent = append(silent, host)
		}
	}
	return dead, silent
}

// newOrdering finds the groups of all servers that are lost, or on their way.
func (m *move) newOrdering() *ordering {
	d := m.decision
	o := &ordering{groups: map[string]*restart{}, held: map[string]bool{}}
	get := func(project, name string) *restart {
		g := fleet.RestartGroup{Project: project, Name: name}
		if o.groups[g.Key()] == nil {
			if r, ok := d.w.State.Groups[g.Key()]; ok {
				g = r
			}
			o.groups[g.Key()] = &restart{RestartGroup: g, after: map[string]bool{}}
		}
		return o.groups[g.Key()]
	}
	after := func(s fleet.Server) {
		if name := groupOf(s); name != "" {
			for _, first := range known(names(s, fleet.MetaAfter)) {
				get(s.Project, name).after[get(s.Project, first).Key()] = true
			}
		}
	}
	for _, id := range fleet.Sorted(d.w.State.Evacuations) {
		e := d.w.State.Evacuations[id]
		if e.Group == "" {
			continue
		}
		g := get(e.Project, e.Group)
		if s, seen := d.w.Cloud.Servers[id]; seen {
			after(s)
		}
		switch {
		case e.Ended == "":
			g.missing = append(g.missing, cmp.Or(e.Name, id)+" is on its way")
		case e.Gate != nil && !slices.Contains(g.Ready, e.Key()):
			g.gates = append(g.gates, *e.Gate)
			why, asked := d.gateWord(*e.Gate)
			if !asked {
				why = "not asked yet"
			}
			if why != "" {
				g.missing = append(g.missing, fmt.Sprintf("%s is there, and not ready: %s", cmp.Or(e.Name, id), why))
			}
		}
	}
	dead, silent := d.lostComputes()
	for _, host := range slices.Concat(dead, silent) {
		if d.w.Cloud.Looked[host] == 0 {
			o.unlisted = append(o.unlisted, host)
		}
		for _, s := range m.servers(host) {
			e, asked := d.w.State.Evacuations[s.ID]
			if d.leave(s) != "" || asked && e.From == host && e.Ended == "" {
				continue
			}
			after(s)
			if name := groupOf(s); name != "" {
				g := get(s.Project, name)
				g.yet = append(g.yet, s)
				g.missing = append(g.missing, title(s)+" is on "+host+" yet")
			}
		}
	}
	return o
}

// known is what could be read of a list.
func known(list []string, _ error) []string { return list }

// circle says whether a group, which comes after the other one, comes in the end after itself by way of it.
func (o *ordering) circle(key, by string) bool {
	if o.knots == nil {
		o.knots = map[string]int{}
		o.tie()
	}
	own, ok := o.knots[key]
	return ok && o.knots[by] == own
}

// tie numbers the strongly connected components of who comes after whom (Tarjan, 1972), in one walk over all: owners
// write as many names as they like, and a walk for each of them took seconds of a turn.
func (o *ordering) tie() {
	low, depth := map[string]int{}, 0
	var open []string
	var visit func(key string) int
	visit = func(key string) int {
		depth++
		own := depth
		low[key] = own
		open = append(open, key)
		if g := o.groups[key]; g != nil {
			for _, next := range fleet.Sorted(g.after) {
				switch _, tied := o.knots[next]; {
				case tied:
				case low[next] == 0:
					low[key] = min(low[key], visit(next))
				default:
					low[key] = min(low[key], low[next])
				}
			}
		}
		if least := low[key]; least < own {
			return least
		}
		for {
			last := open[len(open)-1]
			open = open[:len(open)-1]
			o.knots[last] = own
			if last == key {
				return own
			}
		}
	}
	for _, key := range fleet.Sorted(o.groups) {
		if low[key] == 0 {
			visit(key)
		}
	}
}

// holdsUp says which group a server waits for, and why that is not ready; "" if it may go.
// circles are the groups for which it does not wait, because they wait for its own.
func (o *ordering) holdsUp(s fleet.Server) (by *restart, why string, circles []string) {
	own := fleet.RestartGroup{Project: s.Project, Name: groupOf(s)}
	for _, name := range known(names(s, fleet.MetaAfter)) {
		g := o.groups[fleet.RestartGroup{Project: s.Project, Name: name}.Key()]
		switch {
		case own.Name != "" && o.circle(own.Key(), fleet.RestartGroup{Project: s.Project, Name: name}.Key()):
			circles = append(circles, name)
		case by != nil || g != nil && g.Late:
		case g != nil && len(g.missing) > 0:
			by, why = g, strings.Join(g.missing[:min(3, len(g.missing))], ", ")
			if more := len(g.missing) - 3; more > 0 {
				why += fmt.Sprintf(" and %d more", more)
			}
		case len(o.unlisted) > 0:
			if g == nil {
				g = &restart{RestartGroup: fleet.RestartGroup{Project: s.Project, Name: name}}
				o.groups[g.Key()] = g
			}
			by, why = g, "nobody has seen yet what is on "+few(o.unlisted)
		}
	}
	return by, why, circles
}

// waits says whether a server must wait for a group, and tells so. It is asked of each
// server that could go, in each turn.
func (m *move) waits(s fleet.Server) bool {
	d := m.decision
	about := "server/" + s.ID
	if what := misread(s); what != "" {
		d.wait(about, "its owner, whose word is taken for not said: "+what, "openstack server set --property ... "+s.ID)
	}
	if s.Metadata[fleet.MetaAfter] == "" {
		return false
	}
	if m.order == nil {
		m.order = m.newOrdering()
		_, silent := d.lostComputes()
		for _, host := range silent {
			if !slices.Contains(d.plan.Looks, host) {
				d.plan.Looks = append(d.plan.Looks, host)
			}
		}
	}
	by, why, circles := m.order.holdsUp(s)
	if len(circles) > 0 {
		d.wait(about, fmt.Sprintf("its owner: %s: group %s comes after %s itself, so neither waits for the other", fleet.MetaAfter, strings.Join(circles, ", "), groupOf(s)),
			"openstack server set --property ... "+s.ID)
	}
	if by == nil {
		return false
	}
	m.order.held[by.Key()] = true
	d.wait(about, fmt.Sprintf("group %s, which it comes after: %s", by.Name, why), "mainstay why "+about)
	return true
}

// groups keeps the record of the groups that somebody waits for, and asks their gates.
func (m *move) groups() {
	d := m.decision
	o := m.order
	if o == nil { // nobody waits, or none of the dead could be looked at
		o = &ordering{}
	}
	for _, key := range fleet.Sorted(o.held) {
		g := o.groups[key]
		r, recorded := d.w.State.Groups[key]
		// One that waits itself has its time before it.
		if slices.ContainsFunc(g.yet, func(s fleet.Server) bool { by, _, _ := o.holdsUp(s); return by != nil }) {
			continue
		}
		if !recorded {
			r = fleet.RestartGroup{Project: g.Project, Name: g.Name, Since: d.w.Wall}
			d.record(fleet.Put("group/"+key, r, fmt.Sprintf("group %s of project %s is waited for until it is ready, %v at most", g.Name, cmp.Or(g.Project, "-"), groupLasts)))
			continue
		}
		for _, gate := range g.gates {
			if gate.Check.Kind != fleet.CheckAgent { // that one its own compute asks
				d.plan.Gates = append(d.plan.Gates, gate)
			}
		}
		opened := d.answered(g, &r)
		left := groupLasts - d.w.Wall.Sub(r.Since)
		switch {
		case left <= 0:
			r.Late = true
			d.record(fleet.Put("group/"+key, r, fmt.Sprintf("group %s is not ready after %v, and those after it go on: %s", g.Name, groupLasts, strings.Join(g.missing, ", "))))
		case len(opened) > 0:
			d.record(fleet.Put("group/"+key, r, fmt.Sprintf("of group %s are ready: %s", g.Name, strings.Join(opened, ", "))))
			d.wake(left)
		default:
			d.wake(left)
		}
	}
	if len(d.w.State.Groups) == 0 || d.w.Cloud.At == 0 || d.w.Cloud.Away != "" {
		return
	}
	if dead, _ := d.lostComputes(); !m.listed(dead) {
		return
	}
	for _, key := range fleet.Sorted(d.w.State.Groups) {
		r := d.w.State.Groups[key]
		switch g := o.groups[key]; {
		case o.held[key]:
		case !m.comes(key):
			d.record(fleet.Remove("group/"+key, "nobody waits any more for group "+r.Name))
		case g != nil:
			if opened := d.answered(g, &r); len(opened) > 0 { // the last of them, so that nobody waits now
				d.record(fleet.Put("group/"+key, r, fmt.Sprintf("of group %s are ready: %s", r.Name, strings.Join(opened, ", "))))
			}
		}
	}
}

// gateWord says what came of a gate: by the newest look, or by the report of the compute on which the server is.
func (d *decision) gateWord(g fleet.Gate) (why string, asked bool) {
	if g.Check.Kind != fleet.CheckAgent {
		why, asked = d.w.Cloud.Gates[g.Server]
		return why, asked
	}
	host, _ := strings.CutPrefix(d.w.State.Evacuations[g.Server].Ended, "on ")
	if s, seen := d.w.Cloud.Servers[g.Server]; seen {
		host = s.Host
	}
	said, _, known := d.living(host)
	switch {
	case !known:
		return "nothing is known of its guest agent on " + host, false
	case slices.Contains(said.Answering, g.Server):
		return "", true
	}
	return "its guest agent does not answer on " + host, true
}

// answered adds to a group's record whose gates have been answered, and names them.
func (d *decision) answered(g *restart, r *fleet.RestartGroup) (opened []string) {
	for _, gate := range g.gates {
		if why, asked := d.gateWord(gate); asked && why == "" {
			e := d.w.State.Evacuations[gate.Server]
			r.Ready = append(slices.Clone(r.Ready), e.Key())
			opened = append(opened, cmp.Or(e.Name, gate.Server))
		}
	}
	return opened
}

// listed says whether it was seen what is on each of the hosts.
func (m *move) listed(hosts []string) bool {
	return !slices.ContainsFunc(hosts, func(host string) bool { return m.w.Cloud.Looked[host] == 0 })
}

// comes says whether a server that is lost, and has not arrived elsewhere, comes after a group: until then its
// record stays, or a group that was late would be waited for again.
func (m *move) comes(key string) bool {
	for _, id := range fleet.Sorted(m.w.Cloud.Servers) {
		s := m.w.Cloud.Servers[id]
		e, asked := m.w.State.Evacuations[id]
		h := m.w.State.Holdings[Compute(s.Host)]
		if _, dead := m.provedDead(h); h.Host == "" || !dead || asked && e.From == s.Host && e.Ended != "" || m.leave(s) != "" {
			continue
		}
		for _, name := range known(names(s, fleet.MetaAfter)) {
			if (fleet.RestartGroup{Project: s.Project, Name: name}).Key() == key {
				return true
			}
		}
	}
	return false
}

// ordered puts the servers that may go in their order: those whose owners asked for high
// availability in Masakari's words first, then each project's next in turn, its own by
// priority and then the oldest first.
func (m *move) ordered(ready []due) []due {
	rank := func(s fleet.Server) int {
		if strings.EqualFold(s.Metadata["HA_Enabled"], "true") {
			return 0
		}
		return 1
	}
	age := func(a, b fleet.Server) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
	}
	out := slices.Clone(ready)
	slices.SortStableFunc(out, func(a, b due) int {
		first, _ := priority(a.server)
		second, _ := priority(b.server)
		return cmp.Or(cmp.Compare(rank(a.server), rank(b.server)), cmp.Compare(second, first), age(a.server, b.server))
	})
	turn, turns := map[string]int{}, map[string]int{}
	for _, x := range out {
		turn[x.Server] = turns[x.server.Project]
		turns[x.server.Project]++
	}
	slices.SortStableFunc(out, func(a, b due) int {
		return cmp.Or(cmp.Compare(rank(a.server), rank(b.server)), cmp.Compare(turn[a.Server], turn[b.Server]), age(a.server, b.server))
	})
	return out
}

// told is what a server's owner said, in the record of its way.
func (m *move) told(e fleet.Evacuation, s fleet.Server) fleet.Evacuation {
	if e.Try > 0 {
		return e
	}
	e.Project, e.Group, e.Gate = "", groupOf(s), nil
	if e.Group == "" {
		return e
	}
	e.Project = s.Project
	gate, why := m.gate(s)
	if e.Was == fleet.ServerActive {
		e.Gate = gate
	}
	if why != "" {
		m.wait("server/"+s.ID, why, "mainstay explain openstack/ready")
	}
	return e
}

// forgetWays removes what was recorded of a host's evacuations once it is back, but for those
// whose lock is not known to be gone, and whose group is waited for.
func (d *decision) forgetWays(host string) {
	for _, id := range fleet.Sorted(d.w.State.Evacuations) {
		if e := d.w.State.Evacuations[id]; e.From == host {
			d.forgotten(e)
		}
	}
}

// forgotten removes the record of one, if nothing needs it any more.
func (d *decision) forgotten(e fleet.Evacuation) {
	_, wanted := d.w.State.Groups[fleet.RestartGroup{Project: e.Project, Name: e.Group}.Key()]
	if e.Ended != "" && e.Lock == "" && (e.Group == "" || !wanted) {
		d.displaced(e.Server, e.Name, e.From, e.Ended)
		d.record(fleet.Remove("evacuation/"+e.Server, "its host is back; history keeps the way it took"))
	}
}
