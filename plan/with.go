package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// An exclusive service may stand on another: a database on its file system, that on a
// promoted DRBD. It says so by naming it under "with". What stands on another starts
// where that works, and not before; it stops before that stops, is demoted or restarted.

// base returns the holding of an exclusive service that v names under "with", if it is
// one that is in the site's file.
func (d *decision) base(with string) (fleet.Service, fleet.Holding, bool) {
	kind, name := split(with)
	b, ok := d.service(name)
	return b, d.w.State.Holdings[with], ok && kind == "service" && b.Mode.Exclusive()
}

// baseless says why v cannot stand on what it names under "with" on a host; "" if it can.
func (d *decision) baseless(v fleet.Service, host string) string {
	for _, with := range v.With {
		b, h, ok := d.base(with)
		switch {
		case !ok:
		case h.Host != host:
			return fmt.Sprintf("%s is not on %s", with, host)
		case !d.inEffect(h):
			return fmt.Sprintf("%s does not work yet on %s", with, host)
		default:
			if why := cmp.Or(d.leaves(b, h), d.hesitates(v, b, host)); why != "" {
				return fmt.Sprintf("%s leaves %s: %s", with, host, why)
			}
		}
	}
	return ""
}

// turnBack is how long what was stopped for a move waits for a target that is out of breath,
// before it is started again where it was.
const turnBack = 10 * time.Second

// hesitates says why a base would leave a host but for a target that was heard a moment ago
// and may be given nothing just now: it missed three beats, or is in a stint that
// is not a second old. What has been stopped for the move is not started meanwhile, to be
// stopped once more: of a RabbitMQ on a mirrored disk each turn back cost minutes. (v is what was stopped.)
func (d *decision) hesitates(v, base fleet.Service, host string) string {
	t := d.w.Spec.Timing
	if wish, ok := d.moveWish(base.Thing()); ok && wish.To != host && d.w.Now.Sub(d.w.Heard[wish.To].Last) < 2*t.Lease {
		if why := d.unwell(wish.To); why != "" {
			since := d.w.Since
			stopped := gives(v)
			for _, key := range fleet.Sorted(d.w.Flights) {
				if f := d.w.Flights[key]; f.Order.Verb == stopped && f.Order.Thing == v.Thing() && f.Order.To == host && f.Arrived.After(since) {
					since = f.Arrived
				}
			}
			if left := turnBack - d.w.Now.Sub(since); left > 0 {
				d.wake(left)
				return fmt.Sprintf("%s wishes it on %s, and %s", wish.By, wish.To, why)
			}
		}
	}
	for _, with := range base.With {
		if b, h, ok := d.base(with); ok && h.Host == host {
			if why := d.hesitates(v, b, host); why != "" {
				return why
			}
		}
	}
	return ""
}

// undermined says why v shall stop where it runs, because what it stands on there shall
// end; "" if it stays.
func (d *decision) undermined(v fleet.Service, with string) string {
	b, h, ok := d.base(with)
	if !ok || h.Host == "" {
		return ""
	}
	r, current := d.current(h.Host)
	if !current || !alive(Exclusive(v, r.Services[v.Name])) {
		return ""
	}
	if why := d.leaves(b, h); why != "" {
		return fmt.Sprintf("it stands on %s, which shall end there: %s", with, why)
	}
	return ""
}

// follows says why a wish for what h is about cannot come true on a host: it stands on what
// is elsewhere, and goes where that goes. A wish that frees it from a block has done so.
func (d *decision) follows(h fleet.Holding, to string) string {
	kind, name := split(h.Thing)
	v, ok := d.service(name)
	if kind != "service" || !ok || h.Blocked != "" {
		return ""
	}
	for _, with := range v.With {
		if _, b, ok := d.base(with); ok && b.Host != "" && b.Host != to {
			return fmt.Sprintf("it stands on %s, which is on %s", with, b.Host)
		}
	}
	return ""
}

// leaves says why a service that works where it is held shall end there for a while or
// for good; "" if it stays.
func (d *decision) leaves(v fleet.Service, h fleet.Holding) string {
	r, ok := d.current(h.Host)
	if !ok || r.Boot != h.Boot {
		return ""
	}
	switch s := Exclusive(v, r.Services[v.Name]); {
	case s.Stuck:
		return "it is broken (" + s.Why + ")"
	case down(s.Phase) && v.Mode == fleet.Promoted:
		return "it is not promoted"
	case down(s.Phase):
		return "it is " + s.Phase
	}
	if d.disarmed { // then it stays, whatever it should
		return ""
	}
	return d.shouldMove(v, h)
}

func down(phase string) bool {
	return phase == fleet.Stopped || phase == fleet.Failed || phase == fleet.Absent
}

// onTop names what stands on a service on a host and has still to stop there. It is
// asked before the service ends, and says so to whoever waits.
func (d *decision) onTop(v fleet.Service, host string) bool {
	var out []string
	for i := range d.w.Spec.Services {
		top := &d.w.Spec.Services[i]
		if !top.Mode.Exclusive() || !slices.Contains(top.With, v.Thing()) {
			continue
		}
		r, ok := d.current(host)
		if s := Exclusive(*top, r.Services[top.Name]); ok && (alive(s) || s.Phase == fleet.Unknown) {
			out = append(out, top.Thing())
		}
	}
	if len(out) > 0 {
		d.wait(v.Thing(), strings.Join(out, ", ")+" to stop first: it stands on it", "")
	}
	return len(out) > 0
}

// Obstructed says which other copy of a host keeps an order from being carried out there
// now; "" if none does. services is how the copies are at this moment. What a leader knew
// may be over when its order arrives: a start that was long on its way comes beside the end
// of what it stands on.
func Obstructed(spec *fleet.Spec, o fleet.Order, services map[string]fleet.ServiceState) string {
	kind, name := split(o.Thing)
	v, ok := spec.Service(name)
	if o.Verb == VerbKill && !services[name].Stuck {
		return "it hangs no more"
	}
	if kind != "service" || !ok || !v.Mode.Exclusive() {
		return ""
	}
	switch o.Verb {
	case fleet.VerbStart, fleet.VerbPromote:
		if o.Verb != takes(v) {
			return "" // a copy in mode promoted is started everywhere, and stands on nothing until it is promoted
		}
		if alive(Exclusive(v, services[name])) {
			return "" // it stands there already
		}
		for _, with := range v.With {
			kind, base := split(with)
			b, ok := spec.Service(base)
			if kind == "service" && ok && b.Mode.Exclusive() && Exclusive(b, services[base]).Phase != fleet.Running {
				return fmt.Sprintf("it stands on %s, which does not work here", with)
			}
		}
	case fleet.VerbStop, fleet.VerbDemote, fleet.VerbRestart:
		for i := range spec.Services {
			top := &spec.Services[i]
			if s := services[top.Name]; top.Mode.Exclusive() && slices.Contains(top.With, o.Thing) && alive(Exclusive(*top, s)) {
				return fmt.Sprintf("%s stands on it and is %s here", top.Thing(), s.Phase)
			}
		}
	}
	return ""
}
