package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// A compute can ail while its guests run well: its nova-compute, or what that needs on its
// host, does not come up or hangs; libvirt does not answer; the directory of the disks is
// read-only or does not answer. It gets no new servers then, a person is told, and it is
// never fenced for it: that would end every guest on it for the sake of those that are
// not there yet. A time-out is unknown, and unknown closes a compute, but proves nothing.
//
// That nova-compute hangs its unit does not show, and a process that waits for its broker in vain
// looks like one that is idle. So it is judged by what it delivers: Nova hears nothing of it
// while its host is well. It is restarted for that, as often as its service allows, and not
// disabled: Nova gives it nothing while it calls it down, and at once when it hears it again. A
// dead controller takes the brokers of many computes with it, and a minute more without them
// may be a minute without the only target there is.
//
// One that came back from the dead may be refused by Nova: "forced down" is not taken back while an
// evacuation from it stands as done and not completed. Its nova-compute completes one record of each server
// when it starts, and a server that took two tries has two (seen). So it is restarted for that too, once,
// and only where nothing runs that could notice.
const (
	// ailsFor is how long something must be wrong before the compute gets no new servers,
	// hungFor how long Nova must have had nova-compute for down before it is restarted, and
	// hungPause how long the next restart waits: what it starts with takes its time.
	ailsFor   = 10 * time.Second
	hungFor   = 20 * time.Second
	hungPause = 2 * time.Minute
	// broughtTold is how long a boot that may run servers is asked about what it brought along, whatever else ails it.
	broughtTold = 10 * time.Minute
)

// ailing keeps the record of what ails a compute whose boot lives, and sees to it; true if the
// compute must stay disabled.
func (d *decision) ailing(host *fleet.Host, h fleet.Holding) bool {
	was, now := d.w.State.Ailments[host.Name], d.ails(host, h)
	if now == nil {
		return slices.ContainsFunc(fleet.Sorted(was.Of), closes)
	}
	next := fleet.Ailment{Host: host.Name, Of: map[string]fleet.Lost{}, Settled: was.Settled}
	for _, at := range was.Restarted {
		if d.w.Wall.Sub(at) < crashSpan {
			next.Restarted = append(next.Restarted, at)
		}
	}
	var text []string
	for _, what := range fleet.Sorted(now) {
		l, known := was.Of[what]
		switch {
		case !known:
			l = fleet.Lost{Since: d.w.Wall, Why: now[what]}
			text = append(text, now[what])
		case !l.Back.IsZero():
			l.Back = time.Time{}
			text = append(text, "again "+now[what])
		}
		next.Of[what] = l
	}
	for _, what := range fleet.Sorted(was.Of) {
		l := was.Of[what]
		switch _, still := now[what]; {
		case still:
		case l.Back.IsZero():
			l.Back = d.w.Wall
			next.Of[what] = l
			text = append(text, works(what, host.Name)+" again")
		case d.w.Wall.Sub(l.Back) < lostCalm:
			next.Of[what] = l
			d.wake(lostCalm - d.w.Wall.Sub(l.Back))
		default:
			text = append(text, fmt.Sprintf("%s for %v now", works(what, host.Name), lostCalm))
		}
	}
	if restarts, ok := d.restartsCompute(host.Name, next); ok {
		next.Restarted = append(next.Restarted, d.w.Wall)
		text = append(text, restarts)
	}
	if settles, ok := d.settles(h, next); ok {
		next.Settled = d.w.Wall
		text = append(text, settles)
	}
	switch {
	case len(text) == 0:
	case len(next.Of) == 0:
		d.record(fleet.Remove("ailment/"+host.Name, strings.Join(text, "; ")))
	default:
		d.record(fleet.Put("ailment/"+host.Name, next, strings.Join(text, "; ")))
	}
	return d.closed(h, was)
}

// ails says what ails a compute now; nil if that cannot be judged.
func (d *decision) ails(host *fleet.Host, h fleet.Holding) map[string]string {
	r, current := d.current(host.Name)
	v := d.w.Verdicts[host.Name]
	if !current || r.Boot != h.Boot || v.Condition != fleet.Healthy && v.Condition != fleet.Degraded || d.w.Now.Sub(d.w.Since) < leaderPause || d.departs(host.Name) != "" {
		return nil
	}
	out := map[string]string{}
	if why := d.unlifted(h); why != "" {
		out[ailsForced] = why
	}
	if r.Guests.Unknown != "" {
		out[ailsLibvirt] = r.Guests.Unknown
	}
	if r.Guests.Disks != "" {
		out[ailsDisks] = r.Guests.Disks
	}
	for _, s := range d.local(host.Name) {
		state := r.Services[s.Name]
		why, since := d.unreadyCopy(s, host.Name)
		if s.Kind == "compute" {
			since = min(since, d.w.Wall.Sub(h.At)) // before that it was not allowed to run
		}
		switch spent := s.Restarts.Count > 0 && state.Restarts >= s.Restarts.Count; {
		case why == "":
		case spent:
			out[s.Name] = fmt.Sprintf("%s failed again after %d restarts (%s)", s.Name, state.Restarts, blame(state))
		case since >= copyUnreadyFor:
			out[s.Name] = s.Name + ": " + why
		}
		_, told := out[s.Name]
		_, before := d.w.State.Ailments[host.Name].Of[ailsNova] // while it starts anew it is not called heard
		if (!told || before) && s.Kind == "compute" && d.unreported(host.Name, state) {
			out[ailsNova] = "Nova hears nothing of " + s.Name + ", which runs"
		}
	}
	return out
}

// What can ail a compute beside its services.
const (
	ailsLibvirt = "libvirt"
	ailsDisks   = "disks"
	ailsNova    = "Nova"        // it hears nothing of nova-compute
	ailsForced  = "forced down" // Nova does not take that back
)

// closes says whether what ails a compute keeps new servers from it: what Nova itself calls down gets none.
func closes(what string) bool { return what != ailsNova && what != ailsForced }

// works says that what ailed is whole.
func works(what, host string) string {
	switch what {
	case ailsNova:
		return "Nova hears " + host
	case ailsForced:
		return "Nova has lifted " + host + ", which works"
	}
	return what + " of " + host + " works"
}

// local lists the nova-compute of a host, and what must be ready before it on the same host:
// the agent of its network, libvirt, its mounts.
func (d *decision) local(host string) (out []*fleet.Service) {
	for i := range d.w.Spec.Services {
		if v := &d.w.Spec.Services[i]; v.Kind == "compute" && slices.Contains(d.homes[v.Name], host) {
			out = append(out, v)
		}
	}
	for i := 0; i < len(out); i++ {
		for _, name := range out[i].After {
			for k := range d.w.Spec.Services {
				v := &d.w.Spec.Services[k]
				if v.Name == name && v.Mode == fleet.ActiveActive && v.Listen.Port == 0 && slices.Contains(d.homes[name], host) && !slices.Contains(out, v) {
					out = append(out, v)
				}
			}
		}
	}
	return out
}

// unreported says whether Nova has not heard a nova-compute for so long that it calls it down,
// though it runs on a host that lacks nothing.
func (d *decision) unreported(host string, s fleet.ServiceState) bool {
	c, known := d.w.Cloud.Computes[host]
	fresh := d.w.Wall.Sub(d.w.State.Holdings[Compute(host)].At) < copyUnreadyFor // it may not have reported since it began
	l, told := d.w.State.Ailments[host].Of[ailsNova]
	runs := s.Phase == fleet.Running || told && l.Back.IsZero() // a restart for that is no cure yet
	return known && !fresh && !c.Up && !c.Forced && runs && d.w.Verdicts[host].Condition == fleet.Healthy && len(d.w.State.Cutoffs[host].Networks) == 0 &&
		d.w.Cloud.Away == "" && d.w.Cloud.At != 0 && d.w.Now.Sub(d.w.Cloud.At) < restMax
}

// common says why nothing is done about what ails a compute: it ails so many that it is no fault of theirs.
func (d *decision) common(what string) string {
	var ill []string
	for _, host := range fleet.Sorted(d.w.State.Ailments) {
		if l, is := d.w.State.Ailments[host].Of[what]; is && l.Back.IsZero() {
			ill = append(ill, host)
		}
	}
	computes := 0
	for i := range d.w.Spec.Hosts {
		if d.w.Spec.Hosts[i].HasRole("compute") {
			computes++
		}
	}
	if b := d.w.Spec.Brakes; fleet.Armed(fleet.GuardBrake) && len(ill) > 1 && (len(ill) > b.Count || len(ill)*100 > b.Share*computes) {
		return fmt.Sprintf("%d of %d computes ail so (%s), which is no fault of theirs until shown otherwise", len(ill), computes, few(ill))
	}
	return ""
}

// restartsCompute says whether a nova-compute of which Nova hears nothing shall be restarted
// now, and why; what was recorded is ordered.
func (d *decision) restartsCompute(host string, a fleet.Ailment) (string, bool) {
	for _, v := range d.local(host) {
		l, is := a.Of[ailsNova]
		s := d.w.Reports[host].Services[v.Name]
		if v.Kind != "compute" || !is || !l.Back.IsZero() || !d.unreported(host, s) || d.common(ailsNova) != "" || d.disarmed || d.lacks(*v, host) != "" {
			continue
		}
		if d.sends(host) {
			continue // a nova-compute that starts may start what has just gone on elsewhere [H97]
		}
		n := len(a.Restarted)
		if n > 0 && n == len(d.w.State.Ailments[host].Restarted) {
			o := d.to(fleet.Order{Key: fmt.Sprintf("restart/%s/%s/unheard/%d", v.Name, host, a.Restarted[n-1].Unix()), Verb: fleet.VerbRestart, Thing: v.Thing(),
				Why: "Nova hears nothing of it, and its host is well"}, host)
			if f, flying := d.w.Flights[o.Key]; (!flying || f.Effect == nil) && d.w.Wall.Sub(a.Restarted[n-1]) < restMax {
				d.order(o)
			}
		}
		recent := 0
		for _, at := range a.Restarted {
			if v.Restarts.Within == 0 || d.w.Wall.Sub(at) < v.Restarts.Within {
				recent++
			}
		}
		wait := hungFor - d.w.Wall.Sub(l.Since)
		if n > 0 {
			wait = max(wait, hungPause-d.w.Wall.Sub(a.Restarted[n-1]))
		}
		switch {
		case v.Restarts.Count > 0 && recent >= v.Restarts.Count:
		case wait > 0:
			d.wake(wait)
		default:
			return fmt.Sprintf("%s of %s is restarted: Nova hears nothing of it", v.Name, host), true
		}
	}
	return "", false
}

const notLifted = "Nova does not lift it: "

// liftKey names the order to lift a boot's compute; once its nova-compute was restarted for that, it is another
// question, which need not wait as long as one that was answered often.
func (d *decision) liftKey(h fleet.Holding) string {
	key := cloudKey(fleet.CloudLift, h)
	if d.settled(h) {
		key += "/" + d.w.State.Ailments[h.Host].Settled.UTC().Format(time.RFC3339)
	}
	return key
}

// unlifted says that Nova refuses to lift a compute whose nova-compute works; "" if it does not. What is recorded holds
// until it is lifted: a new leader has not asked yet.
func (d *decision) unlifted(h fleet.Holding) string {
	l, known := d.w.State.Ailments[h.Host].Of[ailsForced]
	switch {
	case !d.w.Cloud.Computes[h.Host].Forced:
		return ""
	case known && l.Back.IsZero():
		return l.Why
	case !d.unsettled(h, h.At):
		return ""
	}
	return notLifted + d.w.Flights[d.liftKey(h)].Effect.Why
}

// unsettled says whether Nova refused to lift a compute so long after a time that a nova-compute which works has settled
// what it could: each one is refused while its own still begins.
func (d *decision) unsettled(h fleet.Holding, since time.Time) bool {
	f := d.w.Flights[d.liftKey(h)]
	return f.Effect != nil && f.Effect.Outcome == fleet.Refused && !d.startsCompute(h.Host) && d.w.Wall.Add(-d.w.Now.Sub(f.Arrived)).Sub(since) >= hungFor
}

// settles says whether a nova-compute shall be restarted now, for Nova refused again to lift its host,
// and why; what was recorded is ordered. Once for each boot: what that does not settle a person must.
func (d *decision) settles(h fleet.Holding, a fleet.Ailment) (string, bool) {
	l, is := a.Of[ailsForced]
	for _, v := range d.local(h.Host) {
		if v.Kind != "compute" || !is || !l.Back.IsZero() || d.disarmed || d.lacks(*v, h.Host) != "" || d.sends(h.Host) || !d.vacant(h.Host) {
			continue
		}
		if d.settled(h) {
			o := d.to(fleet.Order{Key: fmt.Sprintf("restart/%s/%s/forced/%d", v.Name, h.Host, a.Settled.Unix()), Verb: fleet.VerbRestart, Thing: v.Thing(),
				Why: "Nova does not lift its host before it has begun once more"}, h.Host)
			if f, flying := d.w.Flights[o.Key]; (!flying || f.Effect == nil) && d.w.Wall.Sub(a.Settled) < restMax {
				d.order(o)
			}
			continue
		}
		if d.unsettled(h, l.Since) {
			return fmt.Sprintf("%s of %s is restarted, once: %s", v.Name, h.Host, l.Why), true
		}
	}
	return "", false
}

// settled says whether this boot's nova-compute was restarted because Nova would not lift its host.
func (d *decision) settled(h fleet.Holding) bool {
	at := d.w.State.Ailments[h.Host].Settled
	return !at.IsZero() && !at.Before(h.At)
}

// vacant says whether no guest runs on a living compute, by its hypervisor's word or, where that cannot be
// asked at all, by Nova's.
func (d *decision) vacant(host string) bool {
	g, _, ok := d.living(host)
	return ok && g.Running == 0 || !g.Asked && d.w.Cloud.Computes[host].Servers == 0
}

// closed keeps new servers from a compute that ails; true if it must stay so.
func (d *decision) closed(h fleet.Holding, a fleet.Ailment) bool {
	var bad, anew []string
	since := time.Time{}
	for _, what := range fleet.Sorted(a.Of) {
		l := a.Of[what]
		if left := ailsFor - d.w.Wall.Sub(l.Since); left > 0 {
			d.wake(left)
			continue
		}
		if what == ailsForced {
			continue // enable tells of it
		}
		many := d.common(what)
		if l.Back.IsZero() {
			text, help := l.Why+"; it gets no new servers, and what runs on it runs on", "mainstay why "+what+"; systemctl status on "+h.Host
			switch what {
			case ailsDisks:
				help = "df and mount on " + h.Host
			case ailsNova:
				help = "openstack compute service list --host " + h.Host + "; its log on " + h.Host
			}
			if many != "" {
				text = l.Why + "; nothing is done about it: " + many
			}
			d.wait(h.Thing, "its host to be whole again: "+text, help)
		}
		if many != "" || !closes(what) {
			continue
		}
		bad = append(bad, what)
		if l.Back.IsZero() {
			anew = append(anew, l.Why)
			if since.IsZero() || l.Since.Before(since) {
				since = l.Since
			}
		}
	}
	if c, known := d.w.Cloud.Computes[h.Host]; known && !c.Disabled && !c.Forced && len(anew) > 0 {
		d.cloud(fleet.CloudDisable, h.Thing, cloudKey(fleet.CloudDisable, h)+"/"+since.UTC().Format(time.RFC3339), disabledBy+strings.Join(anew, "; "))
	}
	return len(bad) > 0
}

// brings says whether a compute that Mainstay keeps disabled still runs machines that Nova has
// elsewhere, or knows no more. Its own nova-compute removes those that were evacuated when it
// starts; what is there after that a person must end, for it may write to another's disk.
// Of a compute that is closed for something else Nova is not asked for long of all that runs there.
func (d *decision) brings(h fleet.Holding, closed bool) bool {
	if len(d.see(h.Host).report.Guests.Brought) == 0 {
		return false
	}
	c := d.w.Cloud.Computes[h.Host]
	g, _, ok := d.living(h.Host)
	if !ok || closed && d.w.Wall.Sub(h.At) > broughtTold || !c.Disabled || !strings.HasPrefix(c.Reason, disabledBy) {
		return false
	}
	// One list of what Nova has there, and then a word for each that is not on it: a hundred guests are a hundred requests.
	if !slices.Contains(d.plan.Looks, h.Host) {
		d.plan.Looks = append(d.plan.Looks, h.Host)
	}
	if d.w.Cloud.Looked[h.Host] == 0 {
		return true // Nova has not said yet
	}
	var stale []string
	said := true
	for _, id := range g.Brought {
		s, seen := d.w.Cloud.Servers[id]
		if seen && s.Host == h.Host && s.State != fleet.ServerDeleted {
			continue
		}
		d.plan.Servers = append(d.plan.Servers, id)
		if said = said && seen; seen {
			stale = append(stale, id)
		}
	}
	if !said {
		return true
	}
	if len(stale) == 0 {
		return false
	}
	d.wait(h.Thing, fmt.Sprintf("%d of the machines that it runs to end: Nova has them elsewhere, or knows no more of them (%s); its nova-compute removes the former when it starts", len(stale), few(stale)),
		"virsh destroy "+stale[0]+" on "+h.Host)
	return true
}
