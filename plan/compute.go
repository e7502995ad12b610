package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/judge"
)

// A compute's servers belong to the boot of the host that runs them. The right to run them
// is a holding, "compute/HOST", which no other host can get: it is given to an admitted
// boot, ends with a proof that this boot is dead, and by the rules of every holding
// (rounds, fences, brakes, bars) nothing of the host is touched before that. What is
// special about it is what follows from the proof: its servers go elsewhere (evacuate.go),
// and the host is turned on again, and its next boot given the right, only when none is left
// that could go (strand.go).

// Compute is the name under which the right to run a compute's servers is held.
func Compute(host string) string { return "compute/" + host }

// The words by which a compute is disabled in Nova: only what Mainstay disabled it enables.
const disabledBy = "mainstay: "

// computes keeps the right to run servers where it belongs, and what Nova believes of the
// computes in step with it.
func (d *decision) computes() {
	for _, thing := range d.things {
		if kind, name := split(thing); kind == "compute" {
			if host := d.host(name); host == nil || !host.HasRole("compute") || d.w.Spec.OpenStack.Cloud == "" {
				d.record(fleet.Remove("holding/"+thing, "the site's file does not give it to Mainstay any more"))
			}
		}
	}
	if d.w.Spec.OpenStack.Cloud == "" {
		return
	}
	m := d.newMove()
	for i := range d.w.Spec.Hosts {
		host := &d.w.Spec.Hosts[i]
		if !host.HasRole("compute") {
			continue
		}
		d.cutoffs(host)
		h := d.w.State.Holdings[Compute(host.Name)]
		if h.Host == "" {
			d.license(host.Name, h, "nobody has it, and this boot is admitted")
			continue
		}
		why, dead := d.provedDead(h)
		switch {
		case dead && d.w.Heard[host.Name].Stint.Boot != h.Boot && d.reaches(host.Name) && d.stranded(h) && len(d.keeps(h)) > 0:
			m.leaveBehind(h, why)
		case dead && !m.begun(h) && d.w.Heard[host.Name].Stint.Boot != h.Boot && d.reaches(host.Name):
			// It was rebooted, and nothing of it has been moved yet: nova-compute itself
			// starts again what it finds on its own disks.
			d.license(host.Name, h, why)
		case dead && d.w.Heard[host.Name].Stint.Boot != h.Boot && d.reaches(host.Name) && d.stranded(h):
			m.leaveBehind(h, why)
		case dead:
			m.recover(h, why)
		default:
			cut := d.cutOff(h)
			// Each of them sees to its own, whatever the others say.
			rests, ails := m.rests(h), d.ailing(host, h)
			cut = rests || ails || cut
			brings := d.brings(h, cut)
			cut = cut || brings
			if d.reserved(host.Name) {
				m.keep(h, cut)
			} else {
				d.enable(h, cut)
			}
		}
	}
	m.setOff()
	m.follow()
	m.returned()
	m.departures()
	m.rebalance()
	d.revive()
	m.snapshots()
	m.groups()
	m.unlock()
	d.reserves()
}

// license gives a boot the right to run servers.
func (d *decision) license(host string, old fleet.Holding, why string) {
	if reason, no := d.blocked[host]; no {
		if old.Host != "" { // it has servers that wait for it
			d.wait(Compute(host), "its host to be fit for its servers again: "+reason, "mainstay status")
		}
		return
	}
	if lost := d.unserved(host); lost != "" {
		d.wait(Compute(host), lost+" to be back, which its servers need", "look at its cables and its switch")
		return
	}
	if !d.purged(host, old) {
		return
	}
	boot := d.w.Heard[host].Stint.Boot
	d.record(fleet.Put("holding/"+Compute(host), fleet.Holding{
		Thing: Compute(host), Host: host, Boot: boot, Generation: old.Generation + 1, From: old.Holder(), Why: why, At: d.w.Wall,
	}, fmt.Sprintf("boot %s of %s may run servers: %s", boot, host, why)))
	d.forgetWays(host)
}

// purged says whether nothing waits in the broker for a host whose former boot was given
// up, or died while a server was on its way to it. Its queue is durable: an evacuation that was sent to it before it died is carried out
// when its nova-compute starts, and the server, which has gone on elsewhere since, is
// called broken (seen in two of two cases).
func (d *decision) purged(host string, old fleet.Holding) bool {
	if c := d.w.Cloud.Computes[host]; old.Generation == 0 || old.Host != "" && d.w.Cloud.At != 0 && !c.Forced && !d.expects(host) {
		return true // it is new, or was never given up
	}
	brokers := false
	for _, v := range d.w.Spec.Services {
		if v.Kind != "rabbitmq" {
			continue
		}
		brokers = true
		for _, home := range d.homes[v.Name] {
			r, ok := d.current(home)
			if !ok || !d.reaches(home) || !r.Services[v.Name].Ready {
				continue
			}
			o := d.to(fleet.Order{Key: fmt.Sprintf("purge/%s/%s/%s", host, d.w.Heard[host].Stint.Boot, home), Verb: fleet.VerbTend, Thing: v.Thing(), Step: fleet.StepPurge,
				With: "compute." + host, Why: "what was asked of " + host + " before it died must not be carried out now"}, home)
			if f := d.w.Flights[o.Key]; f.Effect != nil && f.Effect.Outcome == fleet.Done {
				return true
			}
			d.order(o)
			d.wait(Compute(host), "what was asked of it before it died to be thrown away", "rabbitmqctl purge_queue compute."+host)
			return false
		}
	}
	if brokers {
		d.wait(Compute(host), "RabbitMQ to serve: what was asked of it before it died must be thrown away first", "mainstay status")
	}
	return !brokers
}

// expects says whether a server is on its way to a host.
func (d *decision) expects(host string) bool {
	for _, id := range fleet.Sorted(d.w.State.Evacuations) {
		if e := d.w.State.Evacuations[id]; e.Ended == "" && cmp.Or(d.w.Cloud.Servers[id].Migration.To, e.To) == host {
			return true
		}
	}
	for _, id := range fleet.Sorted(d.w.State.Departures) {
		if p := d.w.State.Departures[id]; p.Ended == "" && p.To == host {
			return true
		}
	}
	return false
}

// rebooted says whether a target has got a later boot since a try, with an empty queue: what
// the former one had taken is nobody's any more. Without a broker of the site's own nobody knows what is
// in its queue.
func (d *decision) rebooted(target string, e fleet.Evacuation) bool {
	h := d.w.State.Holdings[Compute(target)]
	later := h.From.Boot != "" && h.From.Boot != h.Boot && h.At.After(e.At)
	if e.To == target && e.ToBoot != "" {
		// Its former boot may have been given up in between, for nothing was on it.
		later = h.Boot != e.ToBoot
	}
	return h.Host == target && later &&
		slices.ContainsFunc(d.w.Spec.Services, func(v fleet.Service) bool { return v.Kind == "rabbitmq" })
}

// licensed says why a host's nova-compute must not be started; "" if it may. One that
// comes up on a host whose servers are being moved would find orders of before in its
// queue, carry them out, and spoil servers that run well elsewhere.
func (d *decision) licensed(host string) string {
	if d.w.Spec.OpenStack.Cloud == "" {
		return ""
	}
	h := d.w.State.Holdings[Compute(host)]
	if h.Host == host && h.Boot == d.w.Heard[host].Stint.Boot {
		return ""
	}
	return "the right to run servers on this boot, once what the former one left is settled"
}

// leaving says what a later boot of a host must wait for: its servers are being evacuated.
// Their number is not said: it would be news each second.
func (d *decision) leaving(host, boot string) string {
	h := d.w.State.Holdings[Compute(host)]
	if h.Host == "" || h.Boot == boot || !d.begun(h) || d.stranded(h) {
		return ""
	}
	return "its servers, which are being evacuated,"
}

// begun says whether a server has been asked to leave the boot of a holding, and may not
// have stayed.
func (d *decision) begun(h fleet.Holding) bool {
	for _, id := range fleet.Sorted(d.w.State.Evacuations) {
		if e := d.w.State.Evacuations[id]; e.From == h.Host && e.Boot == h.Boot {
			return true
		}
	}
	for _, id := range fleet.Sorted(d.w.State.Departures) {
		// Its guest may run elsewhere: were its nova-compute to start it here, it would run twice.
		if p := d.w.State.Departures[id]; p.From == h.Host && p.Boot == h.Boot && p.Ended == "" {
			return true
		}
	}
	return false
}

// fatal is the silence after which a compute is fenced: two beats in a row are missing on
// every network, and the third is late. Ears that beat to a faster measure would call a
// compute silent between two of its beats.
func (d *decision) fatal() time.Duration { return d.w.Spec.Timing.SlowBeat * 5 / 2 }

// patience is the silence that a majority of ears must vouch for before a boot of a host
// is called silent at all: none but what each ear asks for by itself, unless the host
// beats slowly and has only servers to lose.
func (d *decision) patience(host string) time.Duration {
	on := d.on[host]
	if len(on) != 1 {
		return 0
	}
	if kind, _ := split(on[0]); kind != "compute" {
		return 0
	}
	return d.fatal()
}

// vouched says whether a majority of ears has heard nothing of a boot for so long.
func (d *decision) vouched(round fleet.Round, boot string, silence time.Duration) (ears []string, ok bool) {
	if !judge.Silent(round, boot) {
		return nil, false
	}
	for _, ear := range d.w.Spec.Voters() {
		if _, promised := round.Promised[ear]; promised && round.Silent[ear] >= silence {
			ears = append(ears, ear)
		}
	}
	return ears, len(ears) >= fleet.Majority(len(d.w.Spec.Voters()))
}

// cloudKey keeps apart what is asked of OpenStack for one boot of a host.
func cloudKey(step string, h fleet.Holding) string {
	return fmt.Sprintf("%s/%s/%s", step, h.Host, h.Boot)
}

// cloud orders one step in OpenStack.
func (d *decision) cloud(step, thing, key, why string) {
	d.ask(fleet.Order{Key: key, Thing: thing, Step: step, Why: why})
}

// ask orders it. The leader's own host takes it: it is the one that looks.
func (d *decision) ask(o fleet.Order) {
	if f := d.w.Flights[o.Key]; f.Effect != nil && f.Effect.Outcome == fleet.Done && !d.w.Cloud.At.After(f.Arrived) {
		return // it is done, and has not been looked at since
	}
	o.Verb, o.To = fleet.VerbCloud, d.w.Leader
	d.order(o)
}

// disable keeps Nova from giving a dead compute servers when it comes back, before it is
// settled. It follows the force-down: before that Nova calls the dead compute to tell it,
// and one of its workers, perhaps the only one, answers nobody for up to a minute (seen:
// the force-down behind it took 17 s).
func (d *decision) disable(h fleet.Holding, why string) {
	if c, known := d.w.Cloud.Computes[h.Host]; known && !c.Disabled {
		d.cloud(fleet.CloudDisable, h.Thing, cloudKey(fleet.CloudDisable, h), disabledBy+why)
	}
}

// answers says whether Nova may be told to give a compute no servers: for one that nobody reaches its API waits as for a
// dead one, unless Nova itself calls it down, and calls it not.
func (d *decision) answers(host string) bool {
	v := d.w.Verdicts[host].Condition
	return v == fleet.Healthy || v == fleet.Degraded || !d.w.Cloud.Computes[host].Up
}

// enable takes back what was said of a compute whose boot lives, as soon as its service
// works and it has the networks that its servers need; what a person disabled stays so.
func (d *decision) enable(h fleet.Holding, cut bool) {
	c, known := d.w.Cloud.Computes[h.Host]
	if !c.Forced && !c.Disabled {
		return
	}
	s := d.w.Verdicts[h.Host]
	// One that came back by itself may have been forced down and not disabled yet.
	ours := strings.HasPrefix(c.Reason, disabledBy) || !c.Disabled && h.From.Host == h.Host
	well := (s.Condition == fleet.Healthy || s.Condition == fleet.Degraded) && d.w.Heard[h.Host].Stint.Boot == h.Boot
	switch {
	case !known || !well || !ours:
	case c.Forced:
		l, told := d.w.State.Ailments[h.Host].Of[ailsForced]
		why := strings.TrimPrefix(l.Why, notLifted)
		if f := d.w.Flights[d.liftKey(h)]; f.Effect != nil && f.Effect.Outcome != fleet.Done {
			why, told = cmp.Or(why, f.Effect.Why), true
		}
		if d.settled(h) {
			why += "; its nova-compute was restarted for that at " + d.w.State.Ailments[h.Host].Settled.UTC().Format(time.TimeOnly) + " UTC"
		}
		if told {
			d.wait(h.Thing, "Nova to take it for up again: "+why, "if that stays: systemctl restart nova-compute on "+h.Host)
		}
		d.cloud(fleet.CloudLift, h.Thing, d.liftKey(h), "boot "+h.Boot+" of it lives, and may run servers")
	case c.Disabled && c.Up && !cut:
		d.cloud(fleet.CloudEnable, h.Thing, cloudKey(fleet.CloudEnable, h), cmp.Or(d.inUse(h.Host), "its service works again"))
	}
}

// emptied ends the right of a dead boot: none of its servers is left to be moved.
func (d *decision) emptied(h fleet.Holding, left []string) {
	text := fmt.Sprintf("nothing is left on %s that must be moved", h.Host)
	if len(left) > 0 {
		text += fmt.Sprintf("; left to their owners or to a person: %s", strings.Join(slices.Sorted(slices.Values(left)), ", "))
	}
	d.record(fleet.Put("holding/"+h.Thing, fleet.Holding{Thing: h.Thing, Generation: h.Generation + 1, Why: text, At: d.w.Wall}, text))
}
