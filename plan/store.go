package plan

import (
	"fmt"
	"time"

	"mainstay/fleet"
)

// storeFor is how long a voter's member of the store may be missing until a person is
// told: a restart of its unit and an election take less.
const storeFor = 5 * time.Second

// learnFor is the same of a voter that learns: with what a store usually holds that takes
// seconds, and to give it its vote the length of a promise.
const learnFor = time.Minute

// stores tells of voters whose member of the store is missing, or has no vote yet, while the others go on:
// nothing that anybody holds suffers from it, until the next loss takes the quorum.
func (d *decision) stores() {
	for i := range d.w.Spec.Hosts {
		host := &d.w.Spec.Hosts[i]
		x := d.see(host.Name)
		s := x.report.Store
		// What was seen before this leader began may be how all stores were without one.
		if !host.Voter && host.Name != d.w.Spec.Alone || !x.current || !x.reaches || s.Phase == "" || d.departs(host.Name) != "" || d.w.Now.Sub(d.w.Since) < storeFor {
			continue
		}
		since, bound := x.report.Wall.Sub(s.Since), storeFor
		if s.Phase == fleet.StoreLearns {
			bound = learnFor
		}
		switch {
		case since < bound:
			d.wake(bound - since)
			continue
		case s.Phase == fleet.StoreLearns:
			d.wait("store/"+host.Name, fmt.Sprintf("its vote: its store learns since %s (%s); the quorum can bear one loss less", s.Since.UTC().Format(time.RFC3339), s.Why),
				fmt.Sprintf("on %s: journalctl -u mainstay | grep vote, which says why not yet; on %s: journalctl -n 50 -u mainstay-quorum", d.w.Leader, host.Name))
			continue
		}
		d.wait("store/"+host.Name, fmt.Sprintf("its store: it is %s (%s); the quorum can bear one loss less", s.Phase, s.Why), StoreHelp(host.Name, s.Phase))
	}
}

// StoreHelp is what a person does about a member of the store.
func StoreHelp(host, phase string) string {
	switch phase {
	case fleet.StoreFull:
		return `mainstay backup FILE; then begin all stores anew from it: docs/OPERATING.md, "Backup, restore, and a lost quorum"`
	case fleet.StoreCorrupt:
		return fmt.Sprintf("mainstay voters replace %s %s", host, host)
	}
	return fmt.Sprintf("on %s: systemctl status mainstay-quorum; journalctl -n 50 -u mainstay-quorum", host)
}
