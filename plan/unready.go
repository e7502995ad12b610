package plan

import (
	"fmt"
	"strings"
	"time"

	"mainstay/fleet"
)

// unreadyFor is how long no copy of a service may have been ready until a person is
// told, and copyUnreadyFor how long one copy alone: the others serve meanwhile, but a
// site that lacks one is a fault away from lacking all.
const (
	unreadyFor     = 10 * time.Second
	copyUnreadyFor = time.Minute
)

// unreadyNamed bounds how many copies a wait tells of: a service may live on hundreds.
const unreadyNamed = 7

// unready tells of services that do not serve though nothing can be ordered that would
// help: a copy that runs and is not ready, or takes very long to start, is left alone,
// for a restart would spoil what it is at. How long that has been so each host says by
// its own clock, so it is known however often the leader changes.
func (d *decision) unready() {
	for i := range d.w.Spec.Services {
		v := &d.w.Spec.Services[i]
		if _, told := d.waits[v.Thing()]; told {
			continue
		}
		if v.Mode == fleet.ActivePassive {
			d.unreadyAlone(v)
			continue
		}
		d.unreadyCopies(v)
	}
}

// unreadyAlone is about the one copy of an active/passive service.
func (d *decision) unreadyAlone(v *fleet.Service) {
	h := d.w.State.Holdings[v.Thing()]
	if x := d.see(h.Host); !x.current || !x.reaches || x.maintenance || d.w.Wall.Sub(h.At) < unreadyFor {
		return // of a silent host keep tells, and whoever has just got it was not ready before
	}
	for _, r := range d.plan.Records {
		if r.Key == "holding/"+h.Thing {
			return // it is on its way elsewhere
		}
	}
	if why, since := d.unreadyCopy(v, h.Host); why != "" && since >= unreadyFor {
		d.wait(v.Thing(), "its copy to be ready: "+why, lookAt(v, h.Host))
	}
}

// unreadyCopies is about the copies of an active/active service: all of them, or those
// that have long been missing.
func (d *decision) unreadyCopies(v *fleet.Service) {
	var hosts, missing, whys []string
	ready, soon := false, false
	for _, host := range d.homes[v.Name] {
		if _, joined := d.w.State.Members[host]; !joined {
			continue
		}
		why, since := d.unreadyCopy(v, host)
		switch {
		case why == "":
			ready = true
		case d.maintenance(host):
		case since < unreadyFor:
			soon = true
		default:
			hosts, whys = append(hosts, host), append(whys, why)
			if s := d.see(host); s.current && s.reaches && !s.down && since >= copyUnreadyFor {
				missing = append(missing, host)
			}
		}
	}
	if !ready {
		if !soon && len(hosts) > 0 {
			if more := len(hosts) - unreadyNamed; more > 0 {
				hosts, whys = hosts[:unreadyNamed], append(whys[:unreadyNamed], fmt.Sprintf("and so on for %d more", more))
			}
			d.wait(v.Thing(), "a copy that is ready: "+strings.Join(whys, "; "), lookAt(v, hosts...))
		}
		return
	}
	for _, host := range missing {
		about := v.Name + "@" + host
		if _, told := d.waits[about]; told {
			continue
		}
		why, _ := d.unreadyCopy(v, host)
		d.wait(about, "it to be ready again: "+why, lookAt(v, host))
	}
}

// unreadyCopy says how a host's copy is, and for how long it has not been ready; ""
// if it is.
func (d *decision) unreadyCopy(v *fleet.Service, host string) (why string, since time.Duration) {
	x := d.see(host)
	s, told := x.report.Services[v.Name]
	switch {
	case !x.current || !x.reaches:
		last := d.w.Since
		if h, heard := d.w.Heard[host]; heard {
			last = h.Last
		}
		return fmt.Sprintf("%s is %s", host, d.w.Verdicts[host].Condition), d.w.Now.Sub(last)
	case told && s.Ready:
		return "", 0
	case !told || s.Unready.IsZero():
		return host + " has not said yet how it is", 0
	}
	why = host + " says " + s.Phase
	switch {
	case s.Hung:
		why = host + " says hung"
	case s.Phase == fleet.Running:
		why += ", but not ready"
	}
	if s.Why != "" {
		why += " (" + s.Why + ")"
	}
	return why, x.report.Wall.Sub(s.Unready)
}

// lookAt is where a person finds out why a copy is not ready.
func lookAt(v *fleet.Service, hosts ...string) string {
	help := "mainstay why " + v.Name
	if len(v.Units) > 0 {
		help += fmt.Sprintf("; on %s: journalctl -n 50 -u %s", strings.Join(hosts, ", "), strings.Join(v.Units, " -u "))
	}
	return help
}
