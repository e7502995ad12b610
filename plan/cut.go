package plan

import (
	"fmt"
	"slices"
	"strings"

	"mainstay/fleet"
	"mainstay/judge"
)

// cut says why a host is taken to be cut off from a network; "" if it is not.
func (d *decision) cut(host, network string) string {
	if d.every(network) {
		return d.silentAndWrites(host)
	}
	if up, known := d.w.Reports[host].Links[network]; known && !up && !d.blameless(host, network) {
		return fmt.Sprintf("%s has no link on %s, or no answer comes back over it", host, network)
	}
	if slices.Contains(d.w.Verdicts[host].Silent, network) {
		if says := judge.Missing(&d.w, host, network); len(says) > 0 {
			return fmt.Sprintf("%s is not heard over %s by its neighbours %s", host, network, strings.Join(says, ", "))
		}
		return fmt.Sprintf("%s is not heard over %s", host, network)
	}
	return ""
}

// blameless says that a host is well linked with a network though no voter answers over
// it: every voter that could is itself worse off there. So it is where only two are, of
// which one has lost its cable; if neither is worse off the fault lies between them, or
// cannot be told. If the only other one says that it is answered, one of the two reports
// is about to change.
func (d *decision) blameless(host, network string) bool {
	mine, hears := d.end(host, network)
	if mine == endUnlinked || mine == endAnswered {
		return false
	}
	worse, others, answered := false, 0, false
	for i := range d.w.Spec.Hosts {
		o := &d.w.Spec.Hosts[i]
		if _, there := o.Addresses[network]; !there || !o.Voter || o.Name == host {
			continue
		}
		if c := d.w.Verdicts[o.Name].Condition; c != fleet.Healthy && c != fleet.Degraded {
			continue // it answers over no network
		}
		others++
		its, itHears := d.end(o.Name, network)
		if its == endAnswered {
			answered = true
			continue
		}
		// Who hears the other's beats, and is not heard by it, sends in vain.
		mute := its == endHears && mine == endHears && itHears == fleet.HearsBeats && hears == fleet.HearsOthers
		if its == endUnknown || mine == endUnknown || its >= mine && !mute {
			return false
		}
		worse = true
	}
	return worse && !answered || answered && others == 1
}

// How well a host is linked with a network, by its own report: the more the better.
const (
	endUnknown  = iota
	endUnlinked // no carrier
	endQuiet    // nothing comes in
	endHears    // something does
	endAnswered // a voter answers
)

func (d *decision) end(host, network string) (end int, hears string) {
	r := d.w.Reports[host]
	up, known := r.Links[network]
	hears, unanswered := r.Unanswered[network]
	switch {
	case !known, unanswered && hears == "":
		return endUnknown, ""
	case up:
		return endAnswered, ""
	case !unanswered:
		return endUnlinked, ""
	case hears == fleet.HearsNothing:
		return endQuiet, hears
	}
	return endHears, hears
}
