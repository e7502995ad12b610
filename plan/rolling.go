package plan

import (
	"fmt"
	"slices"
	"strings"

	"mainstay/fleet"
)

// VerbUpgrade stops a copy, puts the newest packages of its unit in and starts it again. It
// is no sort of VerbRestart: an agent that does not know it has to refuse.
const VerbUpgrade fleet.Verb = "upgrade"

// rolling restarts an active/active service host by host, as a person wished: the next
// one only when all copies are ready, the one that takes the writes last, so that the
// writer moves once. What was done is kept in the wish, for whoever leads next.
func (d *decision) rolling() {
	for _, id := range fleet.Sorted(d.w.State.Wishes) {
		wish := d.w.State.Wishes[id]
		v, ok := d.service(strings.TrimPrefix(wish.Thing, "service/"))
		if wish.Verb != "restart" {
			continue
		}
		var left []string
		for _, host := range d.homes[v.Name] {
			if !slices.Contains(wish.Done, host) {
				left = append(left, host)
			}
		}
		if !ok || len(left) == 0 {
			d.record(fleet.Remove("wish/"+id, fmt.Sprintf("%s was %s on %s", v.Name, restarted(wish), strings.Join(wish.Done, ", "))))
			continue
		}
		writes := map[string]int{}
		for _, f := range v.Faces(d.homes[v.Name]) {
			writes[d.w.State.Writers[f.Name]]++
		}
		slices.SortStableFunc(left, func(a, b string) int { return writes[a] - writes[b] })
		d.rollOne(id, wish, v, left[0])
	}
}

// rollOne restarts the copy of one host. Meanwhile it is out of the rotation.
func (d *decision) rollOne(id string, wish fleet.Wish, v fleet.Service, host string) {
	about := v.Thing()
	o := fleet.Order{Key: fmt.Sprintf("roll/%s/%s/%s", v.Name, host, wish.At.UTC().Format("150405.000")), Verb: fleet.VerbRestart, Thing: about,
		Why: fmt.Sprintf("%s wishes %s restarted, one host after another", wish.By, v.Name)}
	o.With = d.donor(v, host)
	if wish.Upgrade {
		o.Verb, o.Why = VerbUpgrade, fmt.Sprintf("%s wishes %s upgraded, one host after another", wish.By, v.Name)
	}
	f, sent := d.w.Flights[o.Key]
	cancel := fmt.Sprintf("mainstay restart %s --cancel", v.Name)
	switch x := d.see(host); {
	case wish.Stuck != "":
		d.wait(about, "a person: the upgrade of its packages ended on "+wish.Stuck+". The hosts behind it are as they were", cancel+", when they are in order there; then again, from the first host on")
		return
	case !x.current || !x.reaches || x.maintenance || x.down:
		d.wait(about, fmt.Sprintf("%s to be there before its copy is restarted", host), cancel)
		return
	case sent && f.Effect != nil && f.Effect.Outcome == fleet.Done && x.report.Services[v.Name].Ready:
		wish.Done = append(slices.Clone(wish.Done), host)
		d.record(fleet.Put("wish/"+id, wish, fmt.Sprintf("%s is %s on %s", v.Name, restarted(wish), host)))
		return
	case sent && f.Effect != nil && f.Effect.Outcome == fleet.Done:
		d.rolls[v.Name] = host
		d.wait(about, fmt.Sprintf("%s on %s to be ready again after its restart (%s)", v.Name, host, x.report.Services[v.Name].Why), "")
		return
	case sent && f.Effect == nil: // given again, it would be carried out twice
		d.rolls[v.Name] = host
		d.wait(about, fmt.Sprintf("the restart on %s to end", host), "")
		return
	case sent && wish.Upgrade: // half a package is no case for another try
		wish.Stuck = fmt.Sprintf("%s: %s %s", host, f.Effect.Outcome, f.Effect.Why)
		d.record(fleet.Put("wish/"+id, wish, fmt.Sprintf("%s could not be upgraded on %s, and no further host is touched", v.Name, wish.Stuck)))
		return
	case sent:
		d.rolls[v.Name] = host
		d.wait(about, fmt.Sprintf("the restart on %s: %s %s", host, f.Effect.Outcome, f.Effect.Why), cancel)
		d.order(d.to(o, host))
		return
	}
	for _, home := range d.homes[v.Name] {
		if r, ok := d.current(home); !ok || !r.Services[v.Name].Ready {
			d.wait(about, fmt.Sprintf("every copy to be ready before that on %s is restarted: the one on %s is not (%s)", host, home, r.Services[v.Name].Why), cancel)
			return
		}
	}
	d.rolls[v.Name] = host
	d.order(d.to(o, host))
}

// restarted is what was done to a host's copy.
func restarted(wish fleet.Wish) string {
	if wish.Upgrade {
		return "upgraded and restarted"
	}
	return "restarted"
}
