package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"mainstay/fleet"
)

// A cluster that was begun without what one of its members has goes on under the same
// history's name, from an earlier change. The member may have changes that the others
// have not, under numbers that are the others' next ones. Galera refuses it only while its
// number is above theirs: later it would be sent what came since, lack what came in
// between, and count as synced, and what it has alone would be there on one member only.
//
// So a person's word outlives the beginning, as a mark in the record (LeftOut): the member
// gives its data up, once under each mark, before it joins; until then it goes on with
// nobody, and its data count for nothing. The mark goes when the member is synced again.

// renounced says whether a member has given its data up under a mark.
func renounced(r fleet.Replica, l fleet.LeftOut) bool {
	return slices.Contains(strings.Split(r.Renounced, ","), l.Mark())
}

// leftOut notes which members the record left out have their data still, for all that is
// known. If every other one was given up as well, what they have is all that there is, and
// a person has said so.
func (d *decision) leftOut(b fleet.Bootstrap, ms []member) {
	others := false
	for i := range ms {
		m := &ms[i]
		l, marked := b.Without[m.host]
		m.out = marked && (!m.heard || !renounced(m.s.Replica, l))
		// It has been off ever since, and can have got nothing.
		m.gone = m.out && m.dead && d.w.State.Proofs[m.host].Boot == l.Boot
		others = others || !m.out && !m.waived
	}
	for i := range ms {
		m := &ms[i]
		m.out, m.gone = m.out && others, m.gone && others
	}
}

// leaveOut is the record's marks when a host's member begins: those that stand, and one
// for each member whose data a person gave up, unless it is known to have nothing that
// the one who begins lacks.
func (d *decision) leaveOut(b fleet.Bootstrap, ms []member, begins string) map[string]fleet.LeftOut {
	marks := maps.Clone(b.Without)
	if marks == nil {
		marks = map[string]fleet.LeftOut{}
	}
	best := ms[slices.IndexFunc(ms, func(m member) bool { return m.host == begins })].s.Replica
	for _, m := range ms {
		x := m.s.Replica
		has := x.UUID == best.UUID && x.Seqno <= best.Seqno
		if !m.waived || m.out || m.heard && (x.Empty || x.Known && has) {
			continue
		}
		l := fleet.LeftOut{At: d.w.Wall}
		if m.dead {
			l.Boot = d.w.State.Proofs[m.host].Boot
		}
		marks[m.host] = l
	}
	delete(marks, begins)
	return marks
}

// letIn orders a member that is down to join; one that was left out has to give its data
// up first. It says whether that is being done.
func (d *decision) letIn(v fleet.Service, b fleet.Bootstrap, m member) bool {
	if !m.out || m.s.Phase == fleet.Absent {
		return d.run(v, m.host, VerbJoin)
	}
	if d.disarmed {
		d.wait(v.Name+"@"+m.host, "Mainstay to be armed again: its data are to be given up", "mainstay disarm off")
		return false
	}
	l := b.Without[m.host]
	o := d.to(fleet.Order{Key: fmt.Sprintf("renounce/%s/%s/%s", v.Name, m.host, l.Mark()), Verb: fleet.VerbTend, Thing: v.Thing(), Step: fleet.StepRenounce, With: l.Mark(),
		Why: "what it had was given up when " + v.Name + " began without it"}, m.host)
	flight, flying := d.w.Flights[o.Key]
	if flying && flight.Effect != nil && flight.Effect.Outcome == fleet.Broken {
		d.wait(v.Name+"@"+m.host, "its data to be given up, which failed: "+flight.Effect.Why, "journalctl -u mainstay on "+m.host)
	}
	d.order(o)
	return !flying || flight.Effect == nil || d.rest(o) <= 0
}

// lastIn puts those that need all data behind those that need a few changes.
func lastIn(hosts []string, ms []member) []member {
	var out, last []member
	for _, host := range hosts {
		m := ms[slices.IndexFunc(ms, func(m member) bool { return m.host == host })]
		if m.out {
			last = append(last, m)
			continue
		}
		out = append(out, m)
	}
	return append(out, last...)
}

// outsiders says what is awaited of the members that were left out, and ends one that
// somebody has started with the data that it had.
func (d *decision) outsiders(v fleet.Service, b fleet.Bootstrap, ms []member) {
	serves := slices.ContainsFunc(ms, func(m member) bool { return !m.out && m.primary() && m.s.Replica.Part == fleet.PartSynced })
	for _, m := range ms {
		l, marked := b.Without[m.host]
		if !marked {
			continue
		}
		about := v.Name + "@" + m.host
		if m.out && m.heard && m.s.Phase == fleet.Running && serves {
			d.wait(about, fmt.Sprintf("its end: somebody has started it with data that were given up when %s began without it", v.Name), "systemctl stop "+strings.Join(v.Units[:min(1, len(v.Units))], "")+" on "+m.host)
			if !d.disarmed && !m.fixed {
				d.order(d.to(fleet.Order{Key: fmt.Sprintf("stop/%s/%s/%s", v.Name, m.host, l.Mark()), Verb: fleet.VerbStop, Thing: v.Thing(),
					Why: "its data were given up when " + v.Name + " began without it"}, m.host))
			}
			continue
		}
		d.wait(about, fmt.Sprintf("a whole copy of the others' data: what it had was given up when %s began without it", v.Name), "")
	}
}

// letBack takes one mark away whose member has a whole copy again; text is "" if none has.
func letBack(v fleet.Service, b fleet.Bootstrap, ms []member) (left map[string]fleet.LeftOut, text string) {
	for _, m := range ms {
		l, marked := b.Without[m.host]
		if !marked || !m.primary() || m.s.Replica.Part != fleet.PartSynced || !renounced(m.s.Replica, l) {
			continue
		}
		left = maps.Clone(b.Without)
		delete(left, m.host)
		text = fmt.Sprintf("%s has all data of %s again, from the others; what it had is in %s", m.host, v.Name, m.s.Replica.Aside)
		if m.s.Replica.Aside == "" {
			text = fmt.Sprintf("%s has all data of %s again, from the others, in the place of what it had", m.host, v.Name)
		}
		return left, text
	}
	return nil, ""
}
