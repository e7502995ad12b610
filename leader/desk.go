package leader

import (
	"maps"
	"reflect"
	"sync"

	"mainstay/fleet"
)

// Desk holds the newest report of every host. Each voter has one and receives
// every report, so that whoever is elected starts with a full World.
type Desk struct {
	mu      sync.Mutex
	now     func() fleet.Moment
	reports map[string]fleet.Report
	told    map[string]fleet.Moment // when each of them arrived
	changed chan struct{}
}

// NewDesk returns an empty desk; now reads this host's clock.
func NewDesk(now func() fleet.Moment) *Desk {
	return &Desk{now: now, reports: map[string]fleet.Report{}, told: map[string]fleet.Moment{}, changed: make(chan struct{}, 1)}
}

// Put takes a report unless a newer one of the same boot is there. It says
// whether anything but its number and its time is new.
func (d *Desk) Put(r fleet.Report) bool {
	d.mu.Lock()
	old, known := d.reports[r.Host]
	if known && old.Boot == r.Boot && r.Seq <= old.Seq {
		d.mu.Unlock()
		return false
	}
	d.reports[r.Host], d.told[r.Host] = r, d.now()
	d.mu.Unlock()
	old.Seq, old.Wall = r.Seq, r.Wall
	if known && reflect.DeepEqual(old, r) {
		return false
	}
	select {
	case d.changed <- struct{}{}:
	default:
	}
	return true
}

// Reports returns the newest of each host.
func (d *Desk) Reports() map[string]fleet.Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.reports)
}

// Told returns when the newest report of each host arrived.
func (d *Desk) Told() map[string]fleet.Moment {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.told)
}

// Changed yields after a report that said something new.
func (d *Desk) Changed() <-chan struct{} { return d.changed }
