package plan

import (
	"fmt"
	"maps"
	"time"

	"mainstay/fleet"
)

// A host whose kernel crashed may write a dump of it, from a crash kernel that
// speaks to the voters (probe/kdump). To switch it off then would cost whoever looks
// for the cause the only thing that shows it. Its word is a proof as well: the kernel that ran the
// host's services is gone, whatever the crash kernel does for the next minutes. So what it ran goes
// elsewhere at once, and nobody touches its power; it reboots by itself.
//
// The word comes late: a crash kernel boots first. A host of which the site's file says that it
// dumps is not switched off before that time is over; that is what the dump costs
// whenever such a host just loses its power. The word itself has no seal. It is believed only
// beside what would get the host fenced, a majority of ears that hear nothing of it.

// dumps keeps a host from being fenced while its crash kernel may speak, and records the proof
// when it does; true if nothing more is to be done about it now.
func (d *decision) dumps(host *fleet.Host, boot string) bool {
	if host.Kdump == 0 || d.w.Verdicts[host.Name].Condition != fleet.Lapsed {
		return false
	}
	if by, since := d.dumping(host.Name); by != "" {
		if !d.silentNow(host.Name, boot) {
			return true // the ears said so long ago, and are asked again
		}
		p := fleet.Proof{Host: host.Name, Boot: boot, Kind: "kdump", By: d.w.Leader, At: d.w.Wall,
			Evidence: fmt.Sprintf("its crash kernel writes a dump, by its word to %s since %s", by, since.UTC().Format(time.TimeOnly))}
		d.record(fleet.Put("proof/"+host.Name, p, fmt.Sprintf("the kernel of boot %s of %s has crashed: %s", boot, host.Name, p.Evidence)))
		d.w.State.Proofs = maps.Clone(d.w.State.Proofs)
		if d.w.State.Proofs == nil {
			d.w.State.Proofs = map[string]fleet.Proof{}
		}
		d.w.State.Proofs[host.Name] = p
		m := d.w.State.Members[host.Name]
		m.Barred = "its kernel crashed"
		d.member(m, host.Name+" is barred")
		return true
	}
	last := d.w.Since // what was before, this leader does not know
	if h := d.w.Heard[host.Name]; h.Stint.Boot == boot && h.Last.After(last) {
		last = h.Last
	}
	if left := host.Kdump - d.w.Now.Sub(last); left > 0 {
		d.wait("host/"+host.Name, fmt.Sprintf("its crash kernel to speak, or %v to pass: it is not switched off while it may be about to write a dump", host.Kdump),
			fmt.Sprintf("mainstay recover oath %s, once you have seen that it is off", host.Name))
		d.wake(left)
		return true
	}
	return false
}

// dumpWord is how old a voter's report may be in which it says that it hears a crash kernel: it
// tells all of it each second, and one that fell silent may have heard that of a boot long gone.
const dumpWord = 3 * time.Second

// dumping is a voter that hears a host's crash kernel now, and since when.
func (d *decision) dumping(host string) (by string, since time.Time) {
	for _, voter := range d.w.Spec.Voters() {
		if r, current := d.current(voter); current && d.w.Now.Sub(d.w.Told[voter]) <= dumpWord {
			if at, yes := r.Dumps[host]; yes {
				return voter, at
			}
		}
	}
	return "", time.Time{}
}
