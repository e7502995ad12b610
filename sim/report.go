package sim

import (
	"maps"
	"time"

	"mainstay/fleet"
)

// report tells every voter what this host is like, when that changed and once a
// second besides; if it beats slowly, only those then who do not have it.
func (a *agent) report() {
	a.telling = false
	for _, u := range a.host.copies {
		a.services[u.service.Name] = u.state().Follows(a.services[u.service.Name], a.host.wall())
	}
	now := a.host.clock()
	r := a.testimony(now)
	fresh := !a.everTold || !same(&a.said, &r)
	if fresh {
		a.content++
		a.draft = fleet.Report{} // whoever it is told to keeps its maps
	} else if now.Sub(a.saidAt) < time.Second {
		return
	} else {
		r.Addresses, r.Services, r.Links, r.Severed = a.said.Addresses, a.said.Services, a.said.Links, a.said.Severed
	}
	a.everTold = true
	a.seq = max(a.seq+1, uint64(now)) // it rises also over restarts within one boot
	r.Seq, r.News, r.Wall = a.seq, a.said.News, a.host.wall()
	if fresh {
		r.News = r.Seq
		if a.owes != nil {
			a.owes.News(r.News)
		}
	}
	a.said, a.saidAt, a.sayLed = r, now, r.Leased
	t := &told{r, a.content<<32 | uint64(a.host.agentProcess.life)}
	for _, v := range a.voters {
		if v == a.host {
			a.desk.put(t, a)
			continue
		}
		due := a.owes == nil || a.owes.Due(v.name, now)
		if due && a.owes != nil {
			a.owes.Told(v.name, now)
		}
		a.post(v, t, due)
	}
}

// name puts into a beat the number of this host's report, if one made now would say the same.
func (a *agent) name(b *beat, now fleet.Moment) {
	if a.owes == nil || !a.everTold {
		return
	}
	if r := a.testimony(now); !same(&a.said, &r) {
		return
	}
	b.news, b.wall = a.said.News, a.host.wall()
	a.seq = max(a.seq, uint64(b.sent))
}

// post sends a report, over the next network if the first is shut. One that is not due goes
// nowhere: dice are cast for it all the same, so that what else befalls a site does not hang on it.
func (a *agent) post(v *host, t *told, due bool) {
	s := a.host.site
	for net := range s.nets {
		d, ok := s.packet(a.host, v, net)
		if _, back := s.packet(v, a.host, net); !ok || !back {
			continue
		}
		if due {
			v.agentProcess.in(d+at(net)*60*millisecond, func() { v.agent.desk.put(t, v.agent) })
		}
		return
	}
}

// same says whether two reports say the same, apart from their numbers and time.
func same(a, b *fleet.Report) bool {
	return a.Host == b.Host && a.Boot == b.Boot && a.Stint == b.Stint && a.Epoch == b.Epoch && a.Version == b.Version && a.Leased == b.Leased &&
		a.Late == b.Late && a.UUID == b.UUID && a.Routes == b.Routes && a.Leaving == b.Leaving && a.GoesDown == b.GoesDown && a.Watchdog == b.Watchdog && a.Store == b.Store && a.Pair == b.Pair &&
		maps.Equal(a.Addresses, b.Addresses) && maps.Equal(a.Services, b.Services) && maps.Equal(a.Links, b.Links) && maps.Equal(a.Unanswered, b.Unanswered) &&
		maps.EqualFunc(a.Neighbours, b.Neighbours, fleet.Neighbourhood.Equal) &&
		maps.Equal(a.GivenUp, b.GivenUp) && maps.Equal(a.Severed, b.Severed) && maps.Equal(a.Fences, b.Fences) && maps.Equal(a.Parted, b.Parted) && a.Refused == b.Refused && a.Unrenewed == b.Unrenewed && a.Guests.Equal(b.Guests) && a.Storage.Equal(b.Storage) &&
		maps.EqualFunc(a.Dumps, b.Dumps, time.Time.Equal)
}

// told is a report and a number that changes with what it says.
type told struct {
	report  fleet.Report
	content uint64
}

// desk is leader.Desk.
type desk struct {
	reports map[string]fleet.Report
	content map[string]uint64
	told    map[string]fleet.Moment
}

func (d *desk) put(t *told, a *agent) {
	host := t.report.Host
	old, known := d.reports[host]
	if known && old.Boot == t.report.Boot && t.report.Seq <= old.Seq {
		return
	}
	changed := !known || old.Boot != t.report.Boot || d.content[host] != t.content
	d.reports[host], d.content[host], d.told[host] = t.report, t.content, a.host.clock()
	a.host.site.watch.told(a.host, &t.report)
	if changed {
		a.leader.news()
	}
}

// named takes what a beat says of its host's report, as leader.Desk does.
func (d *desk) named(host string, b *beat, at fleet.Moment) (has uint64) {
	r, known := d.reports[host]
	if !known || r.Boot != b.stint.Boot {
		return 0
	}
	if b.news == r.News && uint64(b.sent) > r.Seq {
		r.Seq, r.Wall = uint64(b.sent), b.wall
		d.reports[host], d.told[host] = r, at
	}
	return r.News
}
