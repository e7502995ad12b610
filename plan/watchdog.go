package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// A watchdog is the one proof that needs nobody's answer (DESIGN section 3, rule 7). Its
// contract has two sides, and both are here:
//
//	Hand.MayKick   the host kicks only under a lease, or while no service is or may be
//	               its own; so it dies when it is cut off or hangs with one
//	contracts      a boot that a majority of ears has not heard for so long that its host
//	               must have died by then is dead, or has nothing any more
//
// What binds them is the holding's Watchdog: the time-out that the holder itself reported
// while it was armed. The host takes a start under it only if its device keeps it, and
// from then on does not stop the device before it has nothing, so the record holds
// whatever report a later leader has, or has not.

// Kicks is how many times within its time-out a watchdog is kicked.
const Kicks = 10

// MayKick says whether a host may kick its watchdog now, or why not. services is what it
// finds its copies to be.
func (h *Hand) MayKick(now fleet.Moment, spec *fleet.Spec, services map[string]fleet.ServiceState) (ok bool, why string) {
	if h.Leased(now) || !fleet.Armed(fleet.GuardWatchdog) {
		return true, ""
	}
	if what := h.Bound(spec, services); what != "" {
		return false, "no majority of ears acknowledges this host, and " + what
	}
	return true, ""
}

// Bound says what of its own keeps a host from stopping its watchdog; "" if nothing does.
func (h *Hand) Bound(spec *fleet.Spec, services map[string]fleet.ServiceState) string {
	if running := fleet.Sorted(h.memory.Running); len(running) > 0 {
		return fmt.Sprintf("%s was given to it and is not surely stopped", strings.Join(running, ", "))
	}
	for i := range spec.Services {
		v := &spec.Services[i]
		if !v.Mode.Exclusive() {
			continue
		}
		s, told := services[v.Name]
		s = Exclusive(*v, s)
		switch {
		case told && alive(s):
			return fmt.Sprintf("%s is %s", v.Thing(), s.Phase)
		case told && s.Phase == fleet.Unknown && h.memory.Seen[v.Thing()] > 0:
			return fmt.Sprintf("nobody knows whether %s runs (%s)", v.Thing(), s.Why)
		}
	}
	return ""
}

// Arm notes the time-out of this host's watchdog, as read back from the device; zero: it
// is not armed.
func (h *Hand) Arm(timeout time.Duration) { h.watchdog = timeout }

// surety says why a host cannot give what an order rests on.
func (h *Hand) surety(o fleet.Order) string {
	if o.Watchdog > 0 && (h.watchdog == 0 || h.watchdog > o.Watchdog) {
		return fmt.Sprintf("it rests on a watchdog of %v, and this host's is %v", o.Watchdog, h.watchdog)
	}
	return ""
}

// contract returns the boot of a host whose watchdog stands surety for what it holds, and
// the silence after which that boot is dead; "" if none does.
func (d *decision) contract(host *fleet.Host) (boot string, outlived time.Duration) {
	var wd time.Duration
	for _, thing := range d.on[host.Name] {
		h := d.w.State.Holdings[thing]
		if h.Watchdog == 0 {
			continue
		}
		if _, dead := d.provedDead(h); !dead {
			boot, wd = h.Boot, max(wd, h.Watchdog)
		}
	}
	if boot == "" {
		return "", 0
	}
	_, length := d.w.Spec.Beats(*host)
	return boot, fleet.Outlived(length, wd)
}

// contracts proves dead what has outlived the contract of its watchdog. It needs no order
// and harms nobody, so no brake holds it: were we the ones who are cut off, no majority
// of ears would say that it heard nothing.
func (d *decision) contracts() {
	for i := range d.w.Spec.Hosts {
		host := &d.w.Spec.Hosts[i]
		if s := d.see(host.Name); host.Watchdog.Device != "" && s.speaks && s.report.Watchdog == 0 && !s.report.Leaving {
			d.wait("watchdog/"+host.Name, "its watchdog to be armed: the site's file names one, and it reports none", "mainstay check on "+host.Name)
		}
		if len(d.on[host.Name]) == 0 {
			continue
		}
		boot, outlived := d.contract(host)
		heard := d.w.Heard[host.Name]
		if boot == "" || heard.Stint.Boot != boot && heard.Stint.Boot != "" && d.reaches(host.Name) {
			continue // a later boot speaks
		}
		switch d.w.Verdicts[host.Name].Condition {
		case fleet.Healthy, fleet.Degraded:
			continue
		}
		last := d.w.Since // what was before, this leader does not know
		if heard.Stint.Boot == boot {
			last = heard.Last
		}
		if left := outlived - d.w.Now.Sub(last); left > 0 {
			d.wait("host/"+host.Name, fmt.Sprintf("its watchdog to have reset it, as a silence of %v proves", outlived), "")
			d.wake(left)
			continue
		}
		d.outlived(host.Name, boot, outlived)
	}
}

// outlived records the proof if a majority of ears has heard nothing of a boot for long
// enough, and asks them otherwise.
func (d *decision) outlived(host, boot string, outlived time.Duration) {
	round, t := d.w.Rounds[host], d.w.Spec.Timing
	if d.w.Verdicts[host].Condition == fleet.Lapsed {
		if ears, ok := d.vouched(round, boot, outlived); ok {
			p := fleet.Proof{Host: host, Boot: boot, Kind: "watchdog", By: d.w.Leader, At: d.w.Wall,
				Evidence: fmt.Sprintf("%s have heard nothing of it for %v, by when its watchdog has reset it", strings.Join(ears, ", "), outlived)}
			d.record(fleet.Put("proof/"+host, p, fmt.Sprintf("boot %s of %s is dead by the contract of its watchdog: %s", boot, host, p.Evidence)))
			d.w.State.Proofs = maps.Clone(d.w.State.Proofs)
			if d.w.State.Proofs == nil {
				d.w.State.Proofs = map[string]fleet.Proof{}
			}
			d.w.State.Proofs[host] = p // nothing else need prove it in this turn
			m := d.w.State.Members[host]
			m.Barred = "reset by its watchdog"
			d.member(m, host+" is barred")
			return
		}
	}
	if left := t.Lease - d.w.Now.Sub(round.Asked); left > 0 && round.Stint.Boot == boot {
		d.wake(left) // an ear may have begun to listen later than this one
		return
	}
	if !slices.ContainsFunc(d.plan.Asks, func(r fleet.Round) bool { return r.Stint.Host == host }) {
		d.plan.Asks = append(d.plan.Asks, fleet.Round{Stint: fleet.Stint{Host: host, Boot: boot, N: lease.AnyStint}, Number: round.Number + 1, Asked: d.w.Now})
	}
	d.wake(t.Lease)
}

// stand keeps the record of an active/passive service's surety as its holder reports it.
// One report that shows both, the copy alive and the watchdog armed, is enough: a host
// that has a copy does not stop its watchdog. Before a start the record is renewed, so
// that no order of before binds its holder to less; but only when none is on its way
// (HOLES 70): of a former leader none is, once the host knows of this epoch.
func (d *decision) stand(v fleet.Service, h fleet.Holding, r *fleet.Report) bool {
	if r.Watchdog == h.Watchdog || r.Stint != h.Stint {
		return false
	}
	s := Exclusive(v, r.Services[v.Name])
	switch {
	case r.Watchdog == 0 || alive(s) && s.Generation == h.Generation:
		h.Watchdog = r.Watchdog
		text := fmt.Sprintf("the watchdog of %s stands surety for %s: it resets that host after %v", h.Host, h.Thing, r.Watchdog)
		if r.Watchdog == 0 {
			text = fmt.Sprintf("no watchdog stands surety for %s on %s any more", h.Thing, h.Host)
		}
		d.record(fleet.Put("holding/"+h.Thing, h, text))
		return true
	case !alive(s) && s.Phase != fleet.Unknown && d.blocked[h.Host] == "" && r.Epoch == d.w.Epoch && !d.starting(v, h):
		d.put(v, h, h.Host, fmt.Sprintf("the watchdog of %s was armed or stopped", h.Host))
		return true
	}
	return false
}

// starting says whether an order of this leader to start what is held, under this very
// record, may still be carried out.
func (d *decision) starting(v fleet.Service, h fleet.Holding) bool {
	for _, key := range fleet.Sorted(d.w.Flights) {
		f := d.w.Flights[key]
		if o := f.Order; f.Effect == nil && o.Verb == takes(v) && o.Thing == h.Thing && o.To == h.Host && o.Generation == h.Generation {
			return true
		}
	}
	return false
}
