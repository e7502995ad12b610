package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// A compute that is cut off from one network lives, and its servers may or may not: without
// the storage network they hang at their next write, without the tenants' one they run and
// serve nobody, without the management they do not even notice. So what follows is the
// site's to say, network by network (openstack/lost). Nothing follows at once: a switch that
// is restarted must not empty a rack, and one that lost many at a time is not mended by
// moving their servers to others behind it.
const (
	// lostDisables is how long a compute has been cut off before it gets no new servers,
	// lostActs before its servers are taken from it, and lostCalm how long the network must
	// have been back before all is as it was.
	lostDisables = 10 * time.Second
	lostActs     = 30 * time.Second
	lostCalm     = time.Minute
)

// cutoffs keeps, for each compute that can be judged, the record of the networks that it
// lost: since when is for every leader the same.
func (d *decision) cutoffs(host *fleet.Host) {
	v, r := d.w.Verdicts[host.Name], d.w.State.Cutoffs[host.Name]
	_, current := d.current(host.Name)
	if d.silentEverywhere(host.Name) || d.flaps(host.Name) {
		return
	}
	if !current || v.Condition != fleet.Healthy && v.Condition != fleet.Degraded {
		return // it is lost as a whole, or has not said how it is
	}
	if fresh := leaderPause + 3*d.w.Spec.Timing.SlowBeat - d.w.Now.Sub(d.w.Since); fresh > 0 {
		d.wake(fresh) // a new leader may not know yet what it does not hear
		return
	}
	if len(r.Networks) == 0 && len(v.Silent) == 0 && !d.unlinked(host.Name) {
		return // as thousands are, turn after turn
	}
	licensed := d.w.State.Holdings[Compute(host.Name)].Boot == v.Stint.Boot
	next := fleet.Cutoff{Host: host.Name, Networks: map[string]fleet.Lost{}}
	all, silent := r.Networks[fleet.EveryNetwork]
	returns := silent && (all.Back.IsZero() || d.w.Wall.Sub(all.Back) < 3*d.w.Spec.Timing.SlowBeat)
	var text []string
	names := make([]string, 0, len(d.w.Spec.Networks)+1)
	for i := range d.w.Spec.Networks {
		names = append(names, d.w.Spec.Networks[i].Name)
	}
	if _, known := r.Networks[fleet.EveryNetwork]; known && !slices.Contains(names, fleet.EveryNetwork) {
		names = append(names, fleet.EveryNetwork)
	}
	for _, name := range names {
		was, known := r.Networks[name]
		why := ""
		if _, on := host.Addresses[name]; on {
			why = d.cut(host.Name, name)
		}
		switch {
		case why != "" && !known && (!licensed || returns):
			// A boot is heard over one network a moment before it is over the next.
			if returns {
				d.wake(3 * d.w.Spec.Timing.SlowBeat)
			}
		case why != "" && !known:
			next.Networks[name] = fleet.Lost{Since: d.w.Wall, Why: why}
			text = append(text, why)
		case why != "" && !was.Back.IsZero():
			was.Back = time.Time{}
			next.Networks[name] = was
			text = append(text, "again "+why)
		case why == "" && known && was.Back.IsZero():
			was.Back = d.w.Wall
			next.Networks[name] = was
			text = append(text, fmt.Sprintf("%s has %s back", host.Name, d.nameOf(name)))
		case why == "" && known && d.w.Wall.Sub(was.Back) >= lostCalm:
			text = append(text, fmt.Sprintf("%s has had %s back for %v", host.Name, d.nameOf(name), lostCalm))
		case known:
			next.Networks[name] = was
			if !was.Back.IsZero() {
				d.wake(lostCalm - d.w.Wall.Sub(was.Back))
			}
		}
	}
	switch {
	case len(text) == 0:
	case len(next.Networks) == 0:
		d.record(fleet.Remove("cutoff/"+host.Name, strings.Join(text, "; ")))
	default:
		d.record(fleet.Put("cutoff/"+host.Name, next, strings.Join(text, "; ")))
	}
}

// unlinked says whether a host reports any network without a link, or without an answer.
func (d *decision) unlinked(host string) bool {
	links := d.see(host).report.Links
	for i := range d.w.Spec.Networks {
		if up, known := links[d.w.Spec.Networks[i].Name]; known && !up {
			return true
		}
	}
	return false
}

// lost lists the networks whose loss asks for at least so much, for long enough; with
// those that are back, but not for long enough, if settling.
func (d *decision) lost(host string, least fleet.Loss, after time.Duration, settling bool) (out []string) {
	r := d.w.State.Cutoffs[host]
	for _, name := range fleet.Sorted(r.Networks) {
		l := r.Networks[name]
		if d.w.Spec.OpenStack.OnLoss(name).Below(least) || !l.Back.IsZero() && !settling {
			continue
		}
		if left := after - d.w.Wall.Sub(l.Since); left > 0 {
			d.wake(left)
			continue
		}
		out = append(out, name)
	}
	return out
}

// many says why nothing is done about a network that a host lost: so many lost it that it is the
// network's own fault, and those who would take the servers are as likely behind it.
func (d *decision) many(host, network string) string {
	if d.every(network) {
		return d.manySilent(host)
	}
	var lost []string
	on, well := 0, false
	for i := range d.w.Spec.Hosts {
		h := &d.w.Spec.Hosts[i]
		if _, there := h.Addresses[network]; !there {
			continue
		}
		on++
		_, cut := d.w.State.Cutoffs[h.Name].Networks[network]
		switch {
		case cut:
			lost = append(lost, h.Name)
		case h.HasRole("compute") && d.blocked[h.Name] == "":
			well = true
		}
	}
	switch b := d.w.Spec.Brakes; {
	case !fleet.Armed(fleet.GuardBrake):
		return ""
	case len(lost) > b.Count || len(lost)*100 > b.Share*on:
		return fmt.Sprintf("%d of %d hosts have lost %s (%s), which is the network's own fault until shown otherwise", len(lost), on, network, few(lost))
	case !well:
		return "no other compute has " + network
	}
	return ""
}

// few names some of many.
func few(names []string) string {
	if len(names) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:5], ", "), len(names)-5)
	}
	return strings.Join(names, ", ")
}

// cutOff sees to a compute whose boot lives, and that lost a network; true if it must stay
// disabled.
func (d *decision) cutOff(h fleet.Holding) bool {
	r := d.w.State.Cutoffs[h.Host]
	for _, name := range fleet.Sorted(r.Networks) {
		l, then := r.Networks[name], d.w.Spec.OpenStack.OnLoss(name)
		if !l.Back.IsZero() || d.w.Wall.Sub(l.Since) < lostDisables || d.cut(h.Host, name) == "" {
			continue
		}
		what := fmt.Sprintf("%s to be back: %s", d.nameOf(name), l.Why)
		if why := d.many(h.Host, name); why != "" && then != fleet.LossAlarm {
			what += "; nothing else is done about it: " + why
		}
		d.wait(h.Thing, what, "look at its cables and its switch; openstack/lost in the site's file says what follows: "+string(then))
	}
	var bad []string
	for _, name := range d.lost(h.Host, fleet.LossDisable, lostDisables, true) {
		if r.Networks[name].Back.IsZero() && d.many(h.Host, name) != "" {
			continue
		}
		bad = append(bad, name)
	}
	if len(bad) == 0 {
		return false
	}
	c, known := d.w.Cloud.Computes[h.Host]
	anew := slices.DeleteFunc(slices.Clone(bad), func(n string) bool {
		// Until then a minute at most passes, and whoever is evacuated is forced down first.
		alone := d.every(n) && (!d.answers(h.Host) || d.w.Spec.OpenStack.OnLoss(n) != fleet.LossDisable)
		return alone || !r.Networks[n].Back.IsZero() || d.cut(h.Host, n) == ""
	})
	if known && !c.Disabled && !c.Forced && len(anew) > 0 {
		since := r.Networks[anew[0]].Since.UTC().Format(time.RFC3339)
		d.cloud(fleet.CloudDisable, h.Thing, cloudKey(fleet.CloudDisable, h)+"/"+since, disabledBy+"it is cut off from "+d.nameOf(anew...))
	}
	return true
}

// forsaken says why a compute that lives is fenced all the same: its servers have lost a
// network without which they are as good as dead, and others could run them. That it is
// not heard there is the word of one, the leader's host, or of its neighbours; so the compute must
// say itself that nobody answers it there.
func (d *decision) forsaken(h fleet.Holding) string {
	if d.w.Cloud.Computes[h.Host].Servers == 0 {
		return ""
	}
	for _, name := range d.lost(h.Host, fleet.LossEvacuate, lostActs, false) {
		up, known := d.w.Reports[h.Host].Links[name]
		own := known && !up && !d.blameless(h.Host, name)
		if slices.Contains(d.w.Verdicts[h.Host].Silent, name) && d.w.Reports[h.Host].Neighbours[name].Alone {
			own = true // its neighbours miss it, and it hears none of them
		}
		if own && d.many(h.Host, name) == "" {
			return fmt.Sprintf("%s, and its servers need %s", d.w.State.Cutoffs[h.Host].Networks[name].Why, name)
		}
	}
	return ""
}

// unserved says which network a compute must have back before it may run servers.
func (d *decision) unserved(host string) string {
	if names := d.lost(host, fleet.LossEvacuate, 0, false); len(names) > 0 {
		return d.nameOf(names...)
	}
	return ""
}
