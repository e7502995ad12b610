package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// How long a RabbitMQ node may be in trouble, by its own host's clock, until the next
// step is taken. A start takes 5 to 20 s, and pause_minority heals what it can within one.
const (
	// apartFor is for a node that is not in its cluster while a majority of it runs.
	apartFor = time.Minute
	// replaceFor is for the same node after it was restarted in vain: what keeps it out
	// may be a person's mistake that he is about to mend.
	replaceFor = 5 * time.Minute
	// waitFor is for a node that waits for one which went down after it: when all are on
	// their way up, they find each other sooner.
	waitFor = 40 * time.Second
	// restartsMost is how often such a node is restarted until it is replaced.
	restartsMost = 2
)

// staleAfter is how old a host's word may be; it says all of it once a second.
const staleAfter = 5 * time.Second

// node is one host's node of a RabbitMQ cluster.
type node struct {
	host             string
	s                fleet.ServiceState
	members, running []string
	age              time.Duration // of what it says
	well             bool          // it may be told something
}

// up says whether it runs and counts itself in.
func (n *node) up() bool {
	return n.s.Phase == fleet.Running && slices.Contains(n.running, n.s.Peers.Self)
}

// rabbit keeps the nodes of a RabbitMQ cluster running, and in one cluster. Whatever a
// node can do by itself it is left to do: its own pause_minority ends a partition, and a
// majority that comes back finds itself. The steps beyond that are taken one at a time,
// the mildest first:
//
//	wait -> restart -> force the start of one that waits for the lost ->
//	have the others forget one, reset it and join it again
//
// Resetting all of them loses every message, so only a person's word does it (wish
// "reset"). None is taken while it could cost what a majority has confirmed.
func (d *decision) rabbit(v fleet.Service) {
	nodes := d.rabbits(v)
	if wish, ok := d.resetWish(v); ok {
		d.resetRabbits(v, nodes, wish)
		return
	}
	for i := range nodes {
		n := &nodes[i]
		if n.s.Phase != fleet.Running && !d.tired(v, n) {
			d.active(v, n.host) // starts it, or says why not
		}
	}
	leads := leading(nodes)
	if d.disarmed || d.tending(v) {
		return
	}
	for _, step := range []func(fleet.Service, []node, *node) bool{d.rabbitStuck, d.rabbitForgotten, d.rabbitOutside, d.rabbitApart, d.rabbitPaused, d.rabbitWaits} {
		if step(v, nodes, leads) {
			return
		}
	}
	for i := range nodes { // what nothing above could help
		if n := &nodes[i]; n.s.Phase != fleet.Running && d.tired(v, n) {
			d.active(v, n.host)
		}
	}
}

// rabbits is what every host that can be asked says of its node.
func (d *decision) rabbits(v fleet.Service) []node {
	var out []node
	for _, host := range d.homes[v.Name] {
		x := d.see(host)
		s, told := x.report.Services[v.Name]
		_, joined := d.w.State.Members[host]
		// What a host said before it fell silent is what a cluster looked like once: a node
		// that was cut off would seem to see all, and the others not to see it.
		if !told || !x.current || !x.reaches || !joined || d.w.Verdicts[host].Condition == fleet.Suspect || d.w.Now.Sub(d.w.Told[host]) > staleAfter {
			continue
		}
		out = append(out, node{
			host: host, s: s, members: strings.Fields(s.Peers.Members), running: strings.Fields(s.Peers.Running),
			age: x.report.Wall.Sub(s.Peers.Since) + d.w.Now.Sub(d.w.Told[host]), well: !x.maintenance && !x.down,
		})
	}
	return out
}

// tired says whether a node has used up its restarts.
func (d *decision) tired(v fleet.Service, n *node) bool {
	return v.Restarts.Count > 0 && n.s.Restarts >= v.Restarts.Count
}

// leading is the node that speaks for the cluster: one that runs, where most nodes see each
// other, then of the larger cluster, then the first. nil: none runs.
func leading(nodes []node) *node {
	var best *node
	count := func(n *node) int {
		c := 0
		for i := range nodes {
			o := &nodes[i]
			mutual := slices.Contains(n.running, o.s.Peers.Self) && slices.Contains(o.running, n.s.Peers.Self)
			if o.up() && mutual && o.s.Peers.Members == n.s.Peers.Members {
				c++
			}
		}
		return c
	}
	for i := range nodes {
		n := &nodes[i]
		if !n.up() {
			continue
		}
		if best == nil || count(n) > count(best) || count(n) == count(best) && len(n.members) > len(best.members) {
			best = n
		}
	}
	return best
}

// tending says whether a step is being taken: there is one at a time.
func (d *decision) tending(v fleet.Service) bool {
	for _, key := range fleet.Sorted(d.w.Flights) {
		f := d.w.Flights[key]
		if f.Order.Thing != v.Thing() || f.Effect != nil || f.Order.Verb != fleet.VerbTend && f.Order.Verb != fleet.VerbRestart {
			continue
		}
		if d.see(f.Order.To).reaches {
			d.wait(v.Name+"@"+f.Order.To, fmt.Sprintf("the end of its %s: %s", strings.TrimSpace(string(f.Order.Verb)+" "+f.Order.Step), f.Order.Why), "journalctl -u mainstay on "+f.Order.To)
			return true
		}
	}
	return false
}

func (d *decision) tend(v fleet.Service, n *node, step, with, why string) {
	// The same step of the same trouble has the same key, a later one another.
	key := fmt.Sprintf("%s/%s/%s/%d", step, v.Name, n.host, n.s.Peers.Since.UnixMilli())
	d.wait(v.Name+"@"+n.host, why+" ("+step+")", "journalctl -u mainstay on "+n.host)
	d.order(d.to(fleet.Order{Key: key, Verb: fleet.VerbTend, Thing: v.Thing(), Step: step, With: with, Why: why}, n.host))
}

// again restarts a node once more, or says that a person is wanted.
func (d *decision) again(v fleet.Service, n *node, why string) {
	about := v.Name + "@" + n.host
	if !d.budget(v, n.s, about) {
		return
	}
	d.wait(about, why+" (restart)", "")
	d.order(d.to(fleet.Order{Key: fmt.Sprintf("restart/%s/%s/%d", v.Name, n.host, n.s.Restarts), Verb: fleet.VerbRestart, Thing: v.Thing(), Why: why}, n.host))
}

// rabbitStuck restarts a node that hangs.
func (d *decision) rabbitStuck(v fleet.Service, nodes []node, _ *node) bool {
	for i := range nodes {
		if n := &nodes[i]; n.well && n.s.Stuck && n.s.Phase == fleet.Running {
			d.again(v, n, "it is hung: "+n.s.Why)
			return true
		}
	}
	return false
}

// rabbitForgotten resets a node that the others have forgotten: it refuses to start
// for ever, and what was to be saved of it was seen to when it was forgotten.
func (d *decision) rabbitForgotten(v fleet.Service, nodes []node, leads *node) bool {
	if leads == nil {
		return false
	}
	for i := range nodes {
		n := &nodes[i]
		ours := len(n.members) > 1 && slices.Contains(n.members, leads.s.Peers.Self)
		if n.well && ours && !n.up() && !slices.Contains(leads.members, n.s.Peers.Self) && n.age >= settleFor {
			d.tend(v, n, fleet.StepReset, "", fmt.Sprintf("the cluster of %s (%s) has forgotten it", leads.host, leads.s.Peers.Members))
			return true
		}
	}
	return false
}

// settleFor is how long two nodes may differ about who is a member: they learn of a
// change one after the other.
const settleFor = 10 * time.Second

// rabbitOutside brings a node that is a cluster of its own into that of the others.
func (d *decision) rabbitOutside(v fleet.Service, nodes []node, leads *node) bool {
	if leads == nil {
		return false
	}
	for i := range nodes {
		n := &nodes[i]
		if n == leads || !n.well || !n.up() || slices.Contains(leads.running, n.s.Peers.Self) {
			continue
		}
		switch {
		case len(n.members) > 1 && !slices.Contains(leads.members, n.s.Peers.Self):
			d.wait(v.Name+"@"+n.host, fmt.Sprintf("a person: it is in a cluster of its own (%s), beside that of %s (%s)", n.s.Peers.Members, leads.host, leads.s.Peers.Members),
				"once you know which messages may go, on its host: rabbitmqctl stop_app; rabbitmqctl reset; rabbitmqctl start_app")
		case len(n.members) > 1: // one cluster in parts: rabbitApart
		case !slices.Contains(leads.members, n.s.Peers.Self):
			d.tend(v, n, fleet.StepJoin, leads.s.Peers.Self, "it is a cluster of its own, and shall be in that of "+leads.host)
			return true
		case d.sound(leads):
			d.tend(v, n, fleet.StepReplace, leads.s.Peers.Self, "it has lost its data, and the cluster of "+leads.host+" still counts on them")
			return true
		}
	}
	return false
}

// sound says whether a majority of a node's cluster runs, with it.
func (d *decision) sound(n *node) bool {
	return len(n.running) >= fleet.Majority(len(n.members))
}

// rabbitApart restarts a node that its cluster goes on without: a partition that does not
// heal by itself, or a start that does not end. When that does not help, the others
// forget it and it begins anew. The others must be a majority that could lose no more by it.
func (d *decision) rabbitApart(v fleet.Service, nodes []node, leads *node) bool {
	if leads == nil {
		return false
	}
	for i := range nodes {
		n := &nodes[i]
		known := slices.Contains(leads.members, n.s.Peers.Self) && len(n.members) > 1
		apart := !slices.Contains(leads.running, n.s.Peers.Self) || n.up() && !slices.Contains(n.running, leads.s.Peers.Self)
		if n == leads || !n.well || !known || !apart {
			continue
		}
		tired := d.tired(v, n)
		switch {
		case n.s.Phase == fleet.Running || n.s.Phase == fleet.Starting:
		case tired && rests(n.s):
		default:
			continue
		}
		about := v.Name + "@" + n.host
		what := fmt.Sprintf("%s and it do not see each other running", leads.host)
		// The leading node may have come this moment, and the other not know it yet.
		if left := max(apartFor-n.age, settleFor-leads.age); left > 0 && (!tired || leads.age < settleFor) {
			d.wait(about, what+"; it may find back by itself", "journalctl -u "+strings.Join(v.Units, " -u "))
			d.wake(left)
			continue
		}
		left := replaceFor - n.age
		switch {
		case n.s.Restarts < restartsMost:
			d.again(v, n, fmt.Sprintf("%s for more than %v", what, apartFor))
			return true
		case left > 0:
			d.wait(about, what+", and restarting did not help; if that lasts, it is replaced", "journalctl -u "+strings.Join(v.Units, " -u "))
			d.wake(left)
			continue
		case d.sound(leads) && !slices.Contains(leads.running, n.s.Peers.Self):
			d.tend(v, n, fleet.StepReplace, leads.s.Peers.Self, what+", and restarting did not help")
			return true
		}
		d.wait(about, "a person: "+what+", and restarting did not help; the rest is no majority that could do without it", "rabbitmqctl cluster_status on both")
	}
	return false
}

// rabbitPaused restarts a node that runs and does not count itself in, when a majority of
// its members is here and none of them goes on: the others may be waiting for it.
func (d *decision) rabbitPaused(v fleet.Service, nodes []node, leads *node) bool {
	if leads != nil {
		return false
	}
	for i := range nodes {
		n := &nodes[i]
		if !n.well || n.s.Phase != fleet.Running || n.s.Stuck || n.up() || len(n.members) < 2 {
			continue
		}
		here := 0
		for k := range nodes {
			o := &nodes[k]
			if slices.Contains(n.members, o.s.Peers.Self) && (o.s.Phase == fleet.Running || o.s.Phase == fleet.Starting) {
				here++
			}
		}
		if here < fleet.Majority(len(n.members)) {
			continue
		}
		const what = "it has paused, and a majority of its cluster is here"
		if left := apartFor - n.age; left > 0 {
			d.wait(v.Name+"@"+n.host, what+"; it may go on by itself", "journalctl -u "+strings.Join(v.Units, " -u "))
			d.wake(left)
			continue
		}
		if n.s.Restarts < restartsMost {
			d.again(v, n, fmt.Sprintf("%s, and it has not gone on for more than %v", what, apartFor))
			return true
		}
		d.wait(v.Name+"@"+n.host, "a person: "+what+", and restarting did not help", "rabbitmqctl cluster_status on all")
	}
	return false
}

// rests says whether a copy surely does not run.
func rests(s fleet.ServiceState) bool { return s.Phase == fleet.Stopped || s.Phase == fleet.Failed }

// rabbitWaits forces the start of one node when all wait for another that does not come
// back (R5: a node waited an hour). A cluster changes only by a majority (pause_minority),
// so among a majority of its members one is as new as any that is away: one that none of
// the others outlived.
func (d *decision) rabbitWaits(v fleet.Service, nodes []node, leads *node) bool {
	if leads != nil {
		return false
	}
	var present []*node
	for i := range nodes {
		if n := &nodes[i]; n.well && n.s.Phase == fleet.Starting && len(n.members) > 1 {
			present = append(present, n)
		}
	}
	if len(present) == 0 {
		return false
	}
	first := present[0]
	about := v.Name + "@" + first.host
	help := fmt.Sprintf("turn on the hosts that are away; if they never return, on the one that went down last: systemctl stop %[1]s; rabbitmqctl force_boot; systemctl start %[1]s",
		strings.Join(v.Units, " "))
	need := fleet.Majority(len(first.members))
	for _, n := range present {
		switch {
		case n.s.Peers.Members != first.s.Peers.Members:
			d.wait(about, fmt.Sprintf("a person: it counts %s as members, and %s counts %s", first.s.Peers.Members, n.host, n.s.Peers.Members), help)
			return false
		case n.s.Peers.Running == "":
			d.wait(about, fmt.Sprintf("the others: whom %s saw last is not known, so none may go first", n.host), help)
			return false
		}
	}
	if len(present) < need {
		d.wait(about, fmt.Sprintf("%d more of its cluster (%s): those that are here are no majority, and the others may know more", need-len(present), first.s.Peers.Members), help)
		return false
	}
	for _, n := range present {
		if left := waitFor - n.age; left > 0 {
			d.wait(about, fmt.Sprintf("the others of its cluster (%s)", first.s.Peers.Members), help)
			d.wake(left)
			return false
		}
	}
	for _, n := range present {
		outlived := slices.ContainsFunc(present, func(o *node) bool { return !slices.Contains(o.running, n.s.Peers.Self) })
		if !outlived {
			d.tend(v, n, fleet.StepForceStart, "", fmt.Sprintf("%d of %d members wait for the others, and none of them outlived it", len(present), len(first.members)))
			return true
		}
	}
	d.wait(about, "a person: each of them says that another outlived it", help)
	return false
}

// resetWish is a person's word that messages may be lost: those of one node, or all.
func (d *decision) resetWish(v fleet.Service) (fleet.Wish, bool) {
	for _, id := range fleet.Sorted(d.w.State.Wishes) {
		if w := d.w.State.Wishes[id]; w.Verb == "reset" && w.Thing == v.Thing() {
			return w, true
		}
	}
	return fleet.Wish{}, false
}

// resetRabbits follows it. While it stands nothing else is done about the cluster.
func (d *decision) resetRabbits(v fleet.Service, nodes []node, wish fleet.Wish) {
	leads := leading(slices.DeleteFunc(slices.Clone(nodes), func(n node) bool { return n.host == wish.Host }))
	missing, left := slices.Clone(d.homes[v.Name]), 0
	for i := range nodes {
		missing = slices.DeleteFunc(missing, func(host string) bool { return host == nodes[i].host })
	}
	undo := "mainstay recover rabbitmq --cancel --service " + v.Name
	if wish.Host == "" && len(missing) > 0 {
		d.wait(v.Thing(), "word from "+strings.Join(missing, ", ")+": one that is not reset would bring back the old cluster, so no other is reset before", undo)
		return
	}
	for i := range nodes {
		n := &nodes[i]
		if wish.Host != "" && wish.Host != n.host {
			continue
		}
		o := fleet.Order{Key: fmt.Sprintf("reset/%s/%s/%s-%d", v.Name, n.host, wish.ID, wish.At.UnixMilli()), Verb: fleet.VerbTend, Thing: v.Thing(), Step: fleet.StepReset,
			Why: fmt.Sprintf("%s wishes it: %s", wish.By, wish.Why)}
		if wish.Host != "" {
			if leads == nil {
				d.wait(v.Name+"@"+n.host, "another node that runs, to join it to", "mainstay recover rabbitmq --all --service "+v.Name)
				return
			}
			o.Step, o.With = fleet.StepAbandon, leads.s.Peers.Self
		}
		if f := d.w.Flights[o.Key]; f.Effect != nil && f.Effect.Outcome == fleet.Done {
			continue
		}
		left++
		d.order(d.to(o, n.host))
	}
	if left > 0 || wish.Host != "" && slices.Contains(missing, wish.Host) {
		d.wait(v.Thing(), fmt.Sprintf("the reset that %s wishes", wish.By), undo)
		return
	}
	d.record(fleet.Remove("wish/"+wish.ID, v.Thing()+" is reset as "+wish.By+" wished"))
}
