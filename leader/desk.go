package leader

import (
	"reflect"
	"sync"
	"time"

	"mainstay/fleet"
)

// Desk holds the newest report of every host. Each voter has one and receives
// every report, so that whoever is elected starts with a full World.
type Desk struct {
	mu      sync.Mutex
	now     func() fleet.Moment
	reports map[string]*told
	changed chan struct{}
}

// told is a report, and when it arrived or was last named.
type told struct {
	report fleet.Report
	at     fleet.Moment
}

// NewDesk returns an empty desk; now reads this host's clock.
func NewDesk(now func() fleet.Moment) *Desk {
	return &Desk{now: now, reports: map[string]*told{}, changed: make(chan struct{}, 1)}
}

// Put takes a report unless a newer one of the same boot is there. It says
// whether anything but its number and its time is new.
func (d *Desk) Put(r fleet.Report) bool {
	d.mu.Lock()
	t := d.reports[r.Host]
	known := t != nil
	if !known {
		t = &told{}
		d.reports[r.Host] = t
	}
	old := t.report
	if known && old.Boot == r.Boot && r.Seq <= old.Seq {
		d.mu.Unlock()
		return false
	}
	t.report, t.at = r, d.now()
	d.mu.Unlock()
	old.Seq, old.News, old.Wall = r.Seq, r.News, r.Wall
	if known && reflect.DeepEqual(old, r) {
		return false
	}
	select {
	case d.changed <- struct{}{}:
	default:
	}
	return true
}

// Named takes a beat of a host that was sent at sent, by its own clocks also at wall, and
// arrived at at. If it names the report that is here, that is as if the same had been said
// again at that moment, and else nothing: what a beat names and nobody has brought yet is not known. It
// returns the number of the report of that boot that is here; 0: none.
func (d *Desk) Named(host, boot string, news uint64, sent fleet.Moment, wall time.Time, at fleet.Moment) (has uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.reports[host]
	if t == nil || t.report.Boot != boot {
		return 0
	}
	if news != 0 && news == t.report.News && uint64(sent) > t.report.Seq {
		t.report.Seq, t.report.Wall, t.at = uint64(sent), wall, max(t.at, at)
	}
	return t.report.News
}

// Reports returns the newest of each host.
func (d *Desk) Reports() map[string]fleet.Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[string]fleet.Report, len(d.reports))
	for host, t := range d.reports {
		out[host] = t.report
	}
	return out
}

// Told returns when the newest report of each host arrived, or was last named by a beat.
func (d *Desk) Told() map[string]fleet.Moment {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[string]fleet.Moment, len(d.reports))
	for host, t := range d.reports {
		out[host] = t.at
	}
	return out
}

// Changed yields after a report that said something new.
func (d *Desk) Changed() <-chan struct{} { return d.changed }
