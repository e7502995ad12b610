package plan

import (
	"fmt"
	"slices"

	"mainstay/fleet"
)

// A wish to move stands until it has come true, however long its host is away, and status
// says what it waits for and how to take it back. It is given up, and history says why, when
// it cannot come true any more, and when a person swears that its host is off: nobody knows
// then when that one will be back, and a machine that comes home from repair must not take an
// address away from its clients on a word that all have forgotten. A host that was fenced is
// turned on again within minutes, so for that one the wish stands.

// vain says why a wish to move is not waited for any more; "" if it still is.
func (d *decision) vain(wish fleet.Wish) string {
	if x := d.failed[wish.Thing+"@"+wish.To]; x.times > 0 {
		return x.why // tried again and again it would cost an outage each time
	}
	if why := d.misplaced(wish.Thing, wish.To); why != "" {
		return why
	}
	if p := d.w.State.Proofs[wish.To]; p.Kind == "oath" && d.deadNow(wish.To) {
		return p.Evidence + ". When it is back, wish it again"
	}
	return d.follows(d.w.State.Holdings[wish.Thing], wish.To)
}

// misplaced says why the site's file lets nobody have a thing on a host; "" if it may be there.
func (d *decision) misplaced(thing, to string) string {
	i := slices.IndexFunc(d.w.Spec.Hosts, func(h fleet.Host) bool { return h.Name == to })
	if i < 0 {
		return "the site has no host " + to + " any more"
	}
	kind, name := split(thing)
	if a, ok := d.w.Spec.Address(name); ok && kind == "address" {
		if !d.mayCarry(&a, &d.w.Spec.Hosts[i]) {
			return to + " may not carry it any more"
		}
		return ""
	}
	switch v, ok := d.service(name); {
	case !ok || kind != "service":
		return "the site has no " + thing + " any more"
	case !v.Mode.Exclusive():
		return fmt.Sprintf("it is %s now, and runs on every one of its hosts", v.Mode)
	case !slices.Contains(d.homes[name], to):
		return "it may not live on " + to + " any more"
	}
	return ""
}

// unmet says that a thing is not where a person wishes it, because of why.
func (d *decision) unmet(thing string, wish fleet.Wish, does, why string) {
	_, name := split(thing)
	d.wait(thing, fmt.Sprintf("%s to be able to %s it: %s", wish.To, does, why), fmt.Sprintf("mainstay move %s --cancel", name))
}
