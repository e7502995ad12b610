package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// The copies of a service in mode promoted may hold one disk between them, to which the
// promoted one writes (DRBD). What it acknowledges is on every copy, until it loses one and
// goes on: from then on that copy lacks what others have been told is safe, and must not be
// promoted when the writer is proved dead. So the writer's kernel stops its writes and asks:
//
//	its host's report   may I go on without the copy on c2? (Report.Parted)
//	the record          the copy on c2 is behind (State.Lags), in the store first
//	the order           go on (VerbGoOn)
//
// The record is taken back only by the leader, after the writer's kernel was asked, under
// the record, whether that copy has caught up (VerbEven): a report could be older than the
// record is. Until then only a person's word lets it be promoted: what it lacks is lost.

// The verbs of a mirrored copy; Order.With names the other host.
const (
	// VerbGoOn gives a promoted copy leave to go on without the other, which is recorded.
	VerbGoOn fleet.Verb = "go-on"
	// VerbEven asks whether the other copy has all data of this one; nothing but yes is done.
	VerbEven fleet.Verb = "even"
)

// WishCopy is the verb of the wish by which a person lets a copy that is behind be promoted.
const WishCopy = "copy"

// mirrors answers what the promoted copy's kernel asks, and records which copies are behind.
func (d *decision) mirrors(v fleet.Service) {
	d.split(v)
	h := d.w.State.Holdings[v.Thing()]
	r, current := d.current(h.Host)
	_, free := d.word(h)
	speaks := h.Host != "" && current && r.Boot == h.Boot && d.reaches(h.Host) && !free
	for _, host := range d.homes[v.Name] {
		key := fleet.LagKey(v.Name, host)
		lag, behind := d.w.State.Lags[key]
		mark, asks := r.Parted[key]
		switch asks = asks && speaks; {
		case host == h.Host || !asks && !behind:
			continue
		case asks && lag.Mark != mark:
			lag = fleet.Lag{Mark: mark, From: h.Host, At: d.w.Wall}
			d.lag(key, &lag, fmt.Sprintf("the copy of %s on %s is behind from now on: %s lost it and goes on", v.Thing(), host, h.Host))
			if !fleet.Armed(fleet.GuardRecordFirst) {
				d.goOn(v, h, host, mark)
			}
		case asks:
			d.goOn(v, h, host, mark)
		case d.even(v, h, host, lag):
			continue
		}
		d.wait(key, fmt.Sprintf("its copy to catch up: %s has written without it since %s", lag.From, lag.At.UTC().Format(time.RFC3339)), "look at the link between their disks and at drbdadm status there")
	}
}

func (d *decision) goOn(v fleet.Service, h fleet.Holding, host, mark string) {
	d.order(d.to(fleet.Order{Key: fmt.Sprintf("go-on/%s/%s/%s", v.Name, host, mark), Verb: VerbGoOn, Thing: v.Thing(), Generation: h.Generation,
		With: host, Mark: mark, Why: fmt.Sprintf("the record says that the copy on %s is behind", host)}, h.Host))
}

// even takes a lag back if the holder's kernel, asked under its record, says that the copy
// has caught up; it asks when a report makes that likely.
func (d *decision) even(v fleet.Service, h fleet.Holding, host string, lag fleet.Lag) bool {
	r, _ := d.current(h.Host)
	if !d.works(h) || !slices.Contains(strings.Fields(r.Services[v.Name].Mirror.Even), host) {
		return false
	}
	o := fleet.Order{Key: fmt.Sprintf("even/%s/%s/%d/%s", v.Name, host, h.Generation, lag.Mark), Verb: VerbEven, Thing: v.Thing(), Generation: h.Generation,
		With: host, Why: fmt.Sprintf("%s reports that the copy on %s has caught up", h.Host, host)}
	if f := d.w.Flights[o.Key]; f.Effect != nil && f.Effect.Outcome == fleet.Done && d.w.Now.Sub(f.Arrived) <= restMin {
		d.lag(fleet.LagKey(v.Name, host), nil, fmt.Sprintf("the copy of %s on %s has caught up with %s", v.Thing(), host, h.Host))
		return true
	}
	d.order(d.to(o, h.Host))
	return false
}

// lag records that a copy is behind, or with nil that it is not, for this turn's later
// thoughts too.
func (d *decision) lag(key string, lag *fleet.Lag, text string) {
	d.w.State.Lags = maps.Clone(d.w.State.Lags)
	if lag == nil {
		d.record(fleet.Remove("lag/"+key, text))
		delete(d.w.State.Lags, key)
		return
	}
	d.record(fleet.Put("lag/"+key, *lag, text))
	if d.w.State.Lags == nil {
		d.w.State.Lags = map[string]fleet.Lag{}
	}
	d.w.State.Lags[key] = *lag
}

// behind says why a host's copy must not be promoted for what it lacks; "" if it may.
func (d *decision) behind(v fleet.Service, host string) string {
	lag, behind := d.w.State.Lags[fleet.LagKey(v.Name, host)]
	if !fleet.Armed(fleet.GuardBehind) {
		return ""
	}
	if !behind {
		if other := d.forked(v, host); other != "" {
			return fmt.Sprintf("its copies on %s and %s have both changed while they were apart", host, other)
		}
		return ""
	}
	if _, sworn := d.w.State.Wishes[copyID(v, host)]; sworn && !d.works(d.w.State.Holdings[v.Thing()]) && !d.newer(v) {
		return ""
	}
	return fmt.Sprintf("its copy on %s is behind: %s has written without it since %s", host, lag.From, lag.At.UTC().Format(time.RFC3339))
}

// newer says whether a copy that is not behind could be promoted.
func (d *decision) newer(v fleet.Service) bool {
	return slices.ContainsFunc(d.homes[v.Name], func(host string) bool {
		_, behind := d.w.State.Lags[fleet.LagKey(v.Name, host)]
		return !behind && d.cannotRun(v, host) == ""
	})
}

// works says whether a holding is in effect on a host that is there: of one that is lost
// the newest report is that of the moment before.
func (d *decision) works(h fleet.Holding) bool { return d.inEffect(h) && d.reaches(h.Host) }

func copyID(v fleet.Service, host string) string { return WishCopy + "-" + v.Name + "-" + host }

// remedy is the command by which a person lets a copy that is behind be promoted; "" where
// that would not help.
func (d *decision) remedy(v fleet.Service) string {
	for _, host := range d.homes[v.Name] {
		if _, behind := d.w.State.Lags[fleet.LagKey(v.Name, host)]; behind && d.blocked[host] == "" {
			return fmt.Sprintf("bring back the host that has written last; only if its data are lost: mainstay recover copy %s %s", v.Name, host)
		}
	}
	return ""
}

// overtake is what follows when a copy is given the role that was behind, by a person's
// word: its data are the service's from now on, and the others' are not.
func (d *decision) overtake(v fleet.Service, to string) {
	key := fleet.LagKey(v.Name, to)
	if _, behind := d.w.State.Lags[key]; !behind || v.Mode != fleet.Promoted {
		return
	}
	for _, host := range d.homes[v.Name] {
		if host != to {
			d.lag(fleet.LagKey(v.Name, host), &fleet.Lag{Mark: "word", From: to, At: d.w.Wall}, fmt.Sprintf("the copy of %s on %s counts no more: that on %s is promoted although it was behind", v.Thing(), host, to))
		}
	}
	d.lag(key, nil, fmt.Sprintf("the copy of %s on %s counts, although it was behind", v.Thing(), to))
	if id := copyID(v, to); d.w.State.Wishes[id].Verb == WishCopy {
		d.record(fleet.Remove("wish/"+id, fmt.Sprintf("%s goes on with the copy on %s as %s wished", v.Thing(), to, d.w.State.Wishes[id].By)))
	}
}

// needless takes back a person's word that a copy may be promoted which is behind, once
// the service works: on another day it would cost data.
func (d *decision) needless(id string, wish fleet.Wish) {
	if h, held := d.w.State.Holdings[wish.Thing]; held && d.works(h) {
		d.record(fleet.Remove("wish/"+id, fmt.Sprintf("%s works on %s: nothing need be lost", wish.Thing, h.Host)))
	}
}

// forked names a host whose copy and this one's have each been written without the other;
// "" if there is none, or the record says which of them counts.
func (d *decision) forked(v fleet.Service, host string) string {
	r, ok := d.current(host)
	mine := r.Services[v.Name].Mirror
	if !ok || mine.Fork == "" {
		return ""
	}
	for _, other := range d.homes[v.Name] {
		x, ok := d.current(other)
		its := x.Services[v.Name].Mirror
		if _, behind := d.w.State.Lags[fleet.LagKey(v.Name, other)]; other != host && ok && !behind && its.Fork != "" && its.Data != mine.Data && (its.Apart || mine.Apart) {
			return other
		}
	}
	return ""
}

// split tells of copies that have each been written without the other (split brain).
// Nothing throws the changes of one away but a person.
func (d *decision) split(v fleet.Service) {
	homes := d.homes[v.Name]
	for i, a := range homes {
		for _, b := range homes[i+1:] {
			ra, spokenA := d.current(a)
			rb, spokenB := d.current(b)
			x, y := ra.Services[v.Name].Mirror, rb.Services[v.Name].Mirror
			if !spokenA || !spokenB || x.Fork == "" || y.Fork == "" || x.Data == y.Data || !x.Apart && !y.Apart {
				continue
			}
			d.wait("split/"+v.Name, fmt.Sprintf("a person: the copies on %s and %s have both changed while they were apart, and one side's changes must be given up", a, b),
				"where the changes shall be lost, and it is not promoted: drbdadm disconnect RESOURCE; drbdadm connect --discard-my-data RESOURCE; on the other: drbdadm connect RESOURCE")
		}
	}
}
