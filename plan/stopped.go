package plan

import (
	"fmt"
	"strings"
	"time"

	"mainstay/fleet"
)

// keepDown ends all members of a cluster, as a person wished, and lets none of them begin
// or join until the wish is taken back: its data are being restored.
func (d *decision) keepDown(v fleet.Service, wish fleet.Wish, ms []member) {
	var left []string
	for i := range ms {
		m := &ms[i]
		if m.down() && !m.silent() || m.heard && m.s.Phase == fleet.Absent || m.dead {
			continue
		}
		left = append(left, m.host)
		if !m.heard {
			continue
		}
		o := fleet.Order{Verb: fleet.VerbStop, Thing: v.Thing(), Why: fmt.Sprintf("%s wishes %s stopped", wish.By, v.Name)}
		if m.s.Phase == fleet.Starting {
			// It may wait for its peers for long, and hears no polite word.
			o.Verb, o.Thing = VerbPosition, "bootstrap/"+v.Name
		}
		o.Key = fmt.Sprintf("stop/%s/%s/%s/%s", o.Verb, v.Name, m.host, wish.At.UTC().Format("150405.000"))
		d.order(d.to(o, m.host))
	}
	help := fmt.Sprintf("mainstay stop %s --cancel", v.Name)
	if len(left) > 0 {
		d.wait(v.Thing(), fmt.Sprintf("%s to stop: %s wishes it", strings.Join(left, ", "), wish.By), help)
		return
	}
	d.wait(v.Thing(), fmt.Sprintf("a person: it is kept down, as %s wishes (%s)", wish.By, wish.Why), help+", when its data are as they should be")
}

// backups tells a person that the newest backup of a database is too old, as far as the
// members that are heard know.
func (d *decision) backups(v fleet.Service, ms []member) {
	within, err := time.ParseDuration(v.Params["backup_within"])
	if err != nil || within <= 0 {
		return
	}
	var newest time.Time
	for i := range ms {
		if at := ms[i].s.Replica.Saved; ms[i].heard && at.After(newest) {
			newest = at
		}
	}
	left := within - d.w.Wall.Sub(newest)
	if left > 0 {
		d.wake(left)
		return
	}
	said := "none was ever taken"
	if !newest.IsZero() {
		said = "the newest is of " + newest.UTC().Format(time.RFC3339)
	}
	d.wait("backup/"+v.Name, fmt.Sprintf("a person: no backup of it for %v (%s)", within, said), fmt.Sprintf("mainstay backup --database %s FOLDER, on a host to which nobody writes", v.Name))
}
