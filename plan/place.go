package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// services starts, adopts, restarts, stops and moves services.
func (d *decision) services() {
	for _, v := range d.w.Spec.Services {
		if v.Mode == fleet.Promoted {
			d.mirrors(v)
		}
		if v.Mode.Exclusive() {
			d.passive(v)
		}
		switch {
		case v.Mode == fleet.ActivePassive:
		case v.Kind == "galera":
			d.clustered(v)
		case v.Kind == "rabbitmq":
			d.rabbit(v)
		default:
			for _, host := range d.homes[v.Name] {
				d.active(v, host)
			}
		}
	}
}

// active keeps one copy of an active/active service running. It needs no admission:
// a bar is for what only one host may have, and others may wait for this very copy
// (after a loss of power of all, Galera goes on only with every member).
func (d *decision) active(v fleet.Service, host string) { d.run(v, host, fleet.VerbStart) }

// run is active with the verb by which the copy is started; it says whether it is being
// started by such an order.
func (d *decision) run(v fleet.Service, host string, start fleet.Verb) bool {
	x := d.see(host)
	s, told := x.report.Services[v.Name]
	if !told || !x.current || !x.reaches || x.maintenance || x.down || s.Phase == fleet.Running && !s.Stuck {
		return false
	}
	if _, joined := d.w.State.Members[host]; !joined {
		return false
	}
	about := v.Name + "@" + host
	switch {
	case s.Phase == fleet.Absent:
		d.wait(about, "what it is made of: "+s.Why, "apt-get install on "+host+", or take the service out of the site's file")
	case s.Phase == fleet.Unknown:
		d.wait(about, "an answer about its state: "+s.Why, "systemctl status on "+host)
	case s.Stuck && s.Role == fleet.RolePromoted && d.w.State.Holdings[v.Thing()].Host == host: // its holder's affair: keep
	case s.Stuck && s.Phase == fleet.Running: // not while it is being stopped already
		if d.budget(v, s, about) {
			d.order(d.to(fleet.Order{Key: fmt.Sprintf("restart/%s/%s/%d", v.Name, host, s.Restarts), Verb: fleet.VerbRestart,
				Thing: v.Thing(), With: d.donor(v, host), Why: "it is hung: " + s.Why}, host))
		}
	case s.Phase == fleet.Stopped || s.Phase == fleet.Failed:
		if dep := d.lacks(v, host); dep != "" {
			d.wait(about, dep, "")
			return false
		}
		if why := d.licensed(host); v.Kind == "compute" && why != "" {
			d.wait(about, why, "mainstay status")
			return false
		}
		if d.budget(v, s, about) {
			o := d.to(fleet.Order{Key: fmt.Sprintf("%s/%s/%s/%d", start, v.Name, host, s.Restarts), Verb: start,
				Thing: v.Thing(), With: d.donor(v, host), Why: "it should run on every " + strings.Join(v.Roles, ", ") + " and is " + s.Phase}, host)
			flight, flying := d.w.Flights[o.Key]
			d.order(o)
			return !flying || flight.Effect == nil || d.rest(o) <= 0
		}
	}
	return false
}

// blame is why a copy does not serve, in its own words if it has any.
func blame(s fleet.ServiceState) string { return cmp.Or(s.Why, "it gave no reason") }

// budget says whether the service may be restarted once more.
func (d *decision) budget(v fleet.Service, s fleet.ServiceState, about string) bool {
	if v.Restarts.Count > 0 && s.Restarts >= v.Restarts.Count {
		_, host, one := strings.Cut(about, "@")
		if !one {
			host = "its hosts"
		}
		d.wait(about, fmt.Sprintf("a person: restarted %d times within %v and failed again (%s); tried again when the first of these is that long ago", s.Restarts, v.Restarts.Within, blame(s)),
			lookAt(&v, host)+"; to try at once, start it there")
		return false
	}
	return true
}

// lacks says which of the services that must be ready first is not: one that is
// reached through HAProxy may be ready anywhere, one that lives on every host
// and is reached directly must be ready on this one.
func (d *decision) lacks(v fleet.Service, host string) string {
	for _, name := range v.After {
		dep, ok := d.service(name)
		if !ok {
			continue
		}
		homes := d.homes[dep.Name]
		if dep.Mode == fleet.ActiveActive && dep.Listen.Port == 0 && slices.Contains(homes, host) {
			homes = []string{host}
		}
		ready := false
		for _, home := range homes {
			r, ok := d.current(home)
			ready = ready || ok && r.Services[name].Ready
		}
		if !ready {
			return fmt.Sprintf("%s to be ready (%s)", name, d.w.Reports[host].Services[name].Why)
		}
	}
	return ""
}

// VerbInventory asks a host to report what runs there in the order's epoch: to
// accept the order is to know the epoch, and every report names it.
const VerbInventory fleet.Verb = "inventory"

// passive keeps exactly one copy of an active/passive service running, or exactly one of
// a service in mode promoted promoted.
func (d *decision) passive(v fleet.Service) {
	thing := v.Thing()
	h := d.w.State.Holdings[thing]
	held := h.Host != ""
	if held && h.Blocked != "" && !d.unblock(v, h) {
		d.wait(thing, "a person: "+h.Blocked, fmt.Sprintf("mainstay move %s HOST", v.Name))
		return
	}
	if !held {
		h.Thing = thing
		d.placeFirst(v, h)
		return
	}
	// A copy without the record is the danger itself: it is stopped, wherever.
	for _, host := range d.homes[v.Name] {
		r, ok := d.current(host)
		s := Exclusive(v, r.Services[v.Name])
		if !ok || host == h.Host || !d.reaches(host) || !alive(s) {
			continue
		}
		if s.Generation > h.Generation && s.Phase == fleet.Running {
			// The record is the older one, of a restored store.
			if why, no := d.blocked[host]; no {
				d.wait(thing, "the host that runs it under a newer right than the record's to be fit: "+why, "mainstay status")
				return
			}
			d.put(v, h, host, fmt.Sprintf("it runs there under generation %d: the record, of a restored store, was older", s.Generation))
			return
		}
		d.wait(thing, fmt.Sprintf("%s to %s its copy: the record says %s", host, gives(v), h.Host), "")
		d.order(d.to(fleet.Order{Key: fmt.Sprintf("%s/%s/%s/%d", gives(v), v.Name, host, h.Generation), Verb: gives(v), Thing: thing,
			Generation: s.Generation, Why: fmt.Sprintf("it runs on %s too, where the record does not put it", host)}, host))
		return
	}
	if why, free := d.word(h); free {
		d.give(v, h, why)
		return
	}
	if why, dead := d.provedDead(h); dead {
		d.give(v, h, why)
		return
	}
	if !fleet.Armed(fleet.GuardHandover) && d.w.Verdicts[h.Host].Condition == fleet.Lapsed {
		d.give(v, h, "its lease lapsed")
		return
	}
	d.keep(v, h)
}

// unblock says whether a person's wish to move a blocked service may be followed:
// elsewhere at once, on the same host when its failed starts have aged.
func (d *decision) unblock(v fleet.Service, h fleet.Holding) bool {
	wish, wished := d.moveWish(h.Thing)
	r, ok := d.current(h.Host)
	if !wished || !ok || wish.To == h.Host && v.Restarts.Count > 0 && r.Services[v.Name].Restarts >= v.Restarts.Count {
		return false
	}
	if wish.To != h.Host && d.cannotRun(v, wish.To) != "" {
		return false // it would be blocked again at once, and so on
	}
	h.Blocked = ""
	d.record(fleet.Put("holding/"+h.Thing, h, fmt.Sprintf("%s is blocked no more: %s wishes it on %s", h.Thing, wish.By, wish.To)))
	return true
}

// alive says whether a copy runs or may run.
func alive(s fleet.ServiceState) bool {
	switch s.Phase {
	case fleet.Running, fleet.Starting, fleet.Stopping:
		return true
	}
	return false
}

// placeFirst takes in what nobody holds: the one running copy is adopted; if
// there is none, the best host gets it once every home has said so.
func (d *decision) placeFirst(v fleet.Service, h fleet.Holding) {
	thing := v.Thing()
	var running, silent []string
	for _, host := range d.homes[v.Name] {
		r, ok := d.current(host)
		s, told := r.Services[v.Name]
		s = Exclusive(v, s)
		fresh := r.Epoch >= d.w.Epoch || !fleet.Armed(fleet.GuardInventory)
		if ok && !fresh && d.reaches(host) {
			// An agent learns of a new epoch by its orders, and this one need not have
			// any other.
			d.order(d.to(fleet.Order{Key: fmt.Sprintf("inventory/%s/%d", host, d.w.Epoch), Verb: VerbInventory,
				Why: "nobody holds " + thing + ": what runs there must be known in this epoch"}, host))
		}
		switch {
		case ok && told && fresh && alive(s):
			running = append(running, host)
		case ok && told && fresh && s.Phase != fleet.Unknown:
		case d.deadNow(host):
		default:
			silent = append(silent, host)
		}
	}
	switch {
	case len(running) > 1:
		d.wait(thing, fmt.Sprintf("a person: it %s on %s, and no record says where it belongs", is(v), strings.Join(running, " and ")),
			fmt.Sprintf("%s it by hand where it does not belong; nothing is done meanwhile", gives(v)))
	case len(silent) > 0 && fleet.Armed(fleet.GuardInventory): // of one that runs as well: the other copy would be stopped by guess
		d.wait(thing, "word from "+strings.Join(silent, ", ")+" that it does not run there, or a proof that they are off",
			"mainstay recover oath HOST, once you have seen that the host is off")
	case len(running) == 1 && d.blocked[running[0]] == "":
		d.put(v, h, running[0], "it was found running there and is adopted")
	case len(running) == 1:
		d.wait(thing, "the host on which it was found to be fit: "+d.blocked[running[0]], "mainstay status")
	case len(d.gathering(v)) > 0:
		d.wait(thing, "the copies on "+strings.Join(d.gathering(v), ", ")+" to start, which may have a better score", "")
	default:
		d.give(v, h, "nobody holds it and it "+is(v)+" nowhere")
	}
}

// deadNow says whether the newest boot that we know of a host is proved dead.
func (d *decision) deadNow(host string) bool {
	return d.w.Verdicts[host].Condition == fleet.Dead
}

// give records an active/passive service for the best host that may run it.
func (d *decision) give(v fleet.Service, old fleet.Holding, why string) {
	fit, reasons := d.fit(v)
	if len(fit) == 0 {
		d.wait(v.Thing(), "a host that may run it: "+join(reasons), cmp.Or(d.remedy(v), "mainstay status"))
		return
	}
	if wish, ok := d.moveWish(v.Thing()); ok && slices.Contains(fit, wish.To) {
		fit = []string{wish.To}
	}
	d.put(v, old, d.choose(v, fit), why)
}

func (d *decision) put(v fleet.Service, old fleet.Holding, to, why string) {
	s := d.w.Heard[to].Stint
	from := old.Holder()
	if old.Host == to && old.Boot == s.Boot {
		from = old.From // where it came from, and what that rests on, is as before
	}
	d.load[to]++
	d.overtake(v, to)
	generation := d.next(old)
	d.record(fleet.Put("holding/"+v.Thing(), fleet.Holding{
		Thing: v.Thing(), Host: to, Boot: s.Boot, Stint: s.N, Generation: generation,
		From: from, Why: why, At: d.w.Wall, Watchdog: d.surety(to),
	}, fmt.Sprintf("%s goes to %s: %s", v.Thing(), to, why)))
	if !fleet.Armed(fleet.GuardRecordFirst) {
		d.startPassive(v, fleet.Holding{Host: to, Generation: generation}, why)
	}
}

// surety is the time-out of a host's watchdog, by its present report.
func (d *decision) surety(host string) time.Duration {
	r, ok := d.current(host)
	if !ok {
		return 0
	}
	return r.Watchdog
}

// fit lists the hosts that may run an active/passive service now.
func (d *decision) fit(v fleet.Service) (fit, reasons []string) {
	for _, host := range d.homes[v.Name] {
		if why := d.cannotRun(v, host); why != "" {
			reasons = append(reasons, why)
			continue
		}
		fit = append(fit, host)
	}
	return fit, reasons
}

func (d *decision) cannotRun(v fleet.Service, host string) string {
	if why, no := d.blocked[host]; no {
		return why
	}
	r, _ := d.current(host)
	s, told := r.Services[v.Name]
	switch why := d.unpromotable(v, host); {
	case !told:
		return host + " has not reported on it"
	case why != "":
		return why
	case s.Phase == fleet.Absent:
		return "it is not installed on " + host
	case v.Restarts.Count > 0 && s.Restarts >= v.Restarts.Count && !alive(Exclusive(v, s)):
		return fmt.Sprintf("it was started %d times within %v on %s and failed again (%s)", s.Restarts, v.Restarts.Within, host, blame(s))
	}
	for _, with := range v.With {
		if h, held := d.w.State.Holdings[with]; !held || h.Host != host {
			return fmt.Sprintf("%s is not on %s", with, host)
		}
	}
	if why := d.baseless(v, host); why != "" {
		return why
	}
	if dep := d.lacks(v, host); dep != "" {
		return fmt.Sprintf("%s waits for %s", host, dep)
	}
	return ""
}

// keep sees that the recorded holder runs the service, and moves it by the
// holder's word where that is better.
func (d *decision) keep(v fleet.Service, h fleet.Holding) {
	thing := v.Thing()
	r, ok := d.current(h.Host)
	if !ok || r.Boot != h.Boot || !d.reaches(h.Host) {
		d.wait(thing, fmt.Sprintf("proof that boot %s of %s is off, or its return: a lapsed lease alone never frees a service", h.Boot, h.Host),
			fmt.Sprintf("mainstay recover oath %s, once you have seen that it is off", h.Host))
		return
	}
	s := Exclusive(v, r.Services[v.Name])
	if r.Stint != h.Stint && d.blocked[h.Host] == "" {
		// The same boot in a later stint: it runs on, and the record follows it.
		d.put(v, h, h.Host, fmt.Sprintf("%s has begun stint %d and the service is %s there", h.Host, r.Stint, s.Phase))
		return
	}
	if s.Generation > h.Generation && d.blocked[h.Host] == "" {
		d.put(v, h, h.Host, fmt.Sprintf("%s knows generation %d: the record, of a restored store, was older", h.Host, s.Generation))
		return
	}
	if d.stand(v, h, r) {
		return
	}
	if why := d.armed(h, d.shouldMove(v, h)); why != "" {
		if alive(s) && d.onTop(v, h.Host) {
			return
		}
		d.order(d.to(fleet.Order{Key: fmt.Sprintf("%s/%s/%s/%d", gives(v), v.Name, h.Host, h.Generation), Verb: gives(v), Thing: thing,
			Generation: h.Generation, Why: why}, h.Host))
		return
	}
	switch {
	case s.Stuck && s.Phase == fleet.Running && s.Generation == h.Generation:
		if d.onTop(v, h.Host) || d.exhausted(v, h, s) {
			return
		}
		d.order(d.to(fleet.Order{Key: fmt.Sprintf("restart/%s/%s/%d", v.Name, h.Host, s.Restarts), Verb: fleet.VerbRestart, Thing: thing,
			Generation: h.Generation, Why: "it is hung: " + s.Why}, h.Host))
	case s.Phase == fleet.Running && s.Generation == h.Generation, s.Phase == fleet.Starting, s.Phase == fleet.Stopping:
	case s.Phase == fleet.Unknown:
		d.wait(thing, "an answer about its state: "+s.Why, "systemctl status on "+h.Host)
	case d.w.Heard[h.Host].Stint.N != h.Stint && !d.maintenance(h.Host):
		// It has begun a stint that the record does not name yet, and cannot take it
		// now: an order that it gets later would be under a record of the past.
	default:
		// What runs already under an earlier generation is only told its new one.
		if d.exhausted(v, h, s) {
			return
		}
		if why := d.baseless(v, h.Host); why != "" && s.Phase != fleet.Running {
			d.wait(thing, "what it stands on: "+why, "")
			return
		}
		if why := d.unpromotable(v, h.Host); why != "" && s.Phase != fleet.Running {
			d.wait(thing, "its copy to be fit: "+why, "")
			return
		}
		if s.Phase != fleet.Running && !d.offStill(v, h) {
			return
		}
		d.startPassive(v, h, h.Why)
	}
}

func (d *decision) startPassive(v fleet.Service, h fleet.Holding, why string) {
	s := d.w.Reports[h.Host].Services[v.Name]
	d.order(d.to(fleet.Order{Key: fmt.Sprintf("%s/%s/%s/%d/%d", takes(v), v.Name, h.Host, h.Generation, s.Restarts), Verb: takes(v),
		Thing: v.Thing(), Generation: h.Generation, Watchdog: h.Watchdog, Why: why}, h.Host))
}

// offStill asks once more, right before a start that relies on a fence, whether
// the fenced host is off: a power policy or a person may have turned it on.
func (d *decision) offStill(v fleet.Service, h fleet.Holding) bool {
	p, ok := d.w.State.Proofs[h.From.Host]
	if !ok || p.Kind != "fence" || p.Boot != h.From.Boot || p.Confirmed >= h.Generation || !fleet.Armed(fleet.GuardProof) {
		return true
	}
	if r, ok := d.current(h.From.Host); ok && r.Boot != p.Boot && d.reaches(h.From.Host) {
		// It is on, in a later boot that speaks: the one that was fenced is dead for
		// certain, and this one says itself what runs there.
		if s := Exclusive(v, r.Services[v.Name]); !alive(s) && s.Phase != fleet.Unknown {
			return true
		}
	}
	o := fleet.Order{Key: fmt.Sprintf("confirm/%s/%s/%d", v.Name, h.From.Host, h.Generation), Verb: fleet.VerbConfirm,
		To: d.w.Leader, Thing: v.Thing(), Generation: h.Generation, Target: h.From, Level: p.Level,
		Why: fmt.Sprintf("the start on %s relies on %s being off", h.Host, h.From.Host)}
	if f := d.w.Flights[o.Key]; f.Effect != nil && f.Effect.Outcome == fleet.Done && d.w.Now.Sub(f.Arrived) <= restMin {
		p.Confirmed = h.Generation
		d.record(fleet.Put("proof/"+p.Host, p, fmt.Sprintf("%s is off, asked again before %s starts", p.Host, v.Thing())))
		return false
	}
	d.order(o) // an answer that is older than that is asked for anew
	d.wait(v.Thing(), "the BMC of "+h.From.Host+" to say once more that it is off", "mainstay recover oath "+h.From.Host)
	return false
}

// exhausted says whether restarting has not helped, and does what the service
// wants then.
func (d *decision) exhausted(v fleet.Service, h fleet.Holding, s fleet.ServiceState) bool {
	if v.Restarts.Count == 0 || s.Restarts < v.Restarts.Count {
		return false
	}
	why := fmt.Sprintf("started %d times within %v on %s and failed again (%s)", s.Restarts, v.Restarts.Within, h.Host, blame(s))
	switch v.OnFailure {
	case fleet.FailBlock:
		h.Blocked = why
		d.record(fleet.Put("holding/"+h.Thing, h, h.Thing+" is blocked: "+why))
	case fleet.FailFence:
		d.wait(h.Thing, "the fence of "+h.Host+": "+why, "")
	default:
		d.order(d.to(fleet.Order{Key: fmt.Sprintf("%s/%s/%s/%d", gives(v), v.Name, h.Host, h.Generation), Verb: gives(v), Thing: h.Thing,
			Generation: h.Generation, Why: why}, h.Host))
	}
	return true
}

// shouldMove says why a service should leave a sound holder; "" if it should not.
func (d *decision) shouldMove(v fleet.Service, h fleet.Holding) string {
	for _, with := range v.With {
		if why := d.undermined(v, with); why != "" {
			return why
		}
		if other, held := d.w.State.Holdings[with]; held && other.Host != h.Host && d.inEffect(other) {
			return fmt.Sprintf("it wants to be with %s, which is on %s", with, other.Host)
		}
	}
	wish, wished := d.moveWish(v.Thing())
	fit, _ := d.fit(v)
	others := slices.ContainsFunc(fit, func(host string) bool { return host != h.Host })
	switch {
	case wished && wish.To != h.Host && slices.Contains(fit, wish.To):
		return fmt.Sprintf("%s wishes it on %s", wish.By, wish.To)
	case wished && wish.To != h.Host:
		d.unmet(h.Thing, wish, "run", d.cannotRun(v, wish.To))
	}
	if others {
		return d.departs(h.Host)
	}
	return ""
}
