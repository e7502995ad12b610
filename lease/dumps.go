package lease

import (
	"time"

	"mainstay/fleet"
)

// DumpSays is how often a crash kernel speaks. dumpOver is how long after its last word its dump is
// over, bootsLeast the least time from a host's last beat to the first word of its crash kernel:
// none boots so soon, and what comes before is somebody who tries the program.
const (
	DumpSays   = 10 * time.Second
	dumpOver   = 3 * DumpSays
	bootsLeast = 3 * time.Second
)

// Dumps is what a voter has heard of hosts' crash kernels. The zero value is ready; it is not
// safe for concurrent use.
type Dumps struct{ heard map[string]dump }

type dump struct {
	since time.Time // by the voter's wall clock
	last  fleet.Moment
}

// Heard takes the word of a host's crash kernel; ear is this voter's own. True if it is the first of a dump.
func (d *Dumps) Heard(host string, now fleet.Moment, wall time.Time, ear *Ear) bool {
	if beat, any := lastBeat(ear, host); any && now.Sub(beat) < bootsLeast {
		return false
	}
	x, known := d.heard[host]
	first := !known || now.Sub(x.last) >= dumpOver
	if first {
		x.since = wall.Round(0)
	}
	x.last = now
	if d.heard == nil {
		d.heard = map[string]dump{}
	}
	d.heard[host] = x
	return first
}

// Word is what the voter says: by host, since when it dumps. What is over is left out, and a host that has been
// heard itself since.
func (d *Dumps) Word(now fleet.Moment, ear *Ear) (out map[string]time.Time) {
	for _, host := range fleet.Sorted(d.heard) {
		x := d.heard[host]
		if now.Sub(x.last) >= dumpOver {
			delete(d.heard, host)
			continue
		}
		if beat, any := lastBeat(ear, host); any && beat.After(x.last) {
			continue
		}
		if out == nil {
			out = map[string]time.Time{}
		}
		out[host] = x.since
	}
	return out
}

// lastBeat is when an ear heard any boot of a host last.
func lastBeat(ear *Ear, host string) (at fleet.Moment, any bool) {
	if ear == nil {
		return 0, false
	}
	rows := ear.Boots(host)
	if len(rows) == 0 {
		return 0, false
	}
	return rows[0].Heard, true
}
