package plan

import (
	"fmt"

	"mainstay/fleet"
)

// drags lets a member lag that holds the whole cluster up: it is out of the rotation by
// its own word, but the writers would go on waiting for it. One at a time, and only while
// two others are ready, for the one that writes must have a stand-in with all of its data;
// else a person decides.
func (d *decision) drags(v fleet.Service, ms []member) {
	for i := range ms {
		m := &ms[i]
		if !m.primary() || !m.s.Replica.Drags || m.s.Replica.Part != fleet.PartSynced || m.fixed {
			continue
		}
		others, behind := 0, ""
		for k := range ms {
			o := &ms[k]
			switch {
			case k == i:
			case o.primary() && o.s.Ready && o.s.Replica.Part == fleet.PartSynced:
				others++
			case o.primary() && o.s.Replica.Part != fleet.PartSynced:
				behind = o.host
			}
		}
		const help = `, to go on without waiting for it: mariadb -e "SET GLOBAL wsrep_desync=ON" there, and OFF when it is well`
		switch about := v.Name + "@" + m.host; {
		case d.disarmed:
			d.wait(about, "Mainstay to be armed again, to let it lag: it "+m.s.Why, "mainstay disarm off")
		case others < 2 || behind != "":
			d.wait(about, "it to keep up, or a person: it "+m.s.Why, fmt.Sprintf("only %d others are ready%s", others, help))
		default:
			d.order(d.to(fleet.Order{Key: fmt.Sprintf("lag/%s/%s", v.Name, m.host), Verb: fleet.VerbTend, Step: fleet.StepLag, Thing: v.Thing(), Why: "it " + m.s.Why}, m.host))
			return
		}
	}
}
