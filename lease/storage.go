package lease

import (
	"slices"
	"time"

	"mainstay/fleet"
)

// A storage heartbeat is one file for each compute on storage that they share, in which that compute counts up. It is
// read only of those who are asked about, because no voter hears them: thousands that read
// thousands of files each second would be a load for nothing. The count is the writer's own and says nothing of
// time: a reader judges by its own clock since when it has not changed.
//
// It is a sign of life and no more. That it has stopped, or that nobody could read it, proves
// nothing of its host.

// How often a compute writes its heartbeat, and others look at it, in parts of a slow beat (hundredths).
const (
	storageCalm   = 1000 // while voters hear it: for those who look whether all write to the same storage
	storageUrgent = 25   // while most voters do not acknowledge it
	storageReads  = 25   // by who is asked
	storagePeeks  = 3000 // by who looks whether all write to the same storage
)

// StorageReaders is how many are asked to read one host's heartbeat, and how many others each looks
// at from time to time.
const StorageReaders = 3

func hundredths(n int64, of time.Duration) time.Duration {
	return time.Duration(n * of.Nanoseconds() / 100)
}

// StorageEvery is how often a host writes its heartbeat, whose newest beat that a majority acknowledged is so old.
// Who is not acknowledged knows that others may be about to ask whether it lives: only then it writes often.
func StorageEvery(unheard, slowBeat time.Duration) time.Duration {
	if unheard >= slowBeat*5/4 {
		return hundredths(storageUrgent, slowBeat)
	}
	return hundredths(storageCalm, slowBeat)
}

// StorageOthers lists the next n computes after a host in the site's file that are able, from the
// last on to the first: so all are looked at by as many.
func StorageOthers(spec *fleet.Spec, host string, n int, able func(name string) bool) (out []string) {
	hosts := spec.Hosts
	at := slices.IndexFunc(hosts, func(h fleet.Host) bool { return h.Name == host })
	for i := 1; i < len(hosts) && len(out) < n; i++ {
		if o := &hosts[(at+i)%len(hosts)]; o.Name != host && o.HasRole("compute") && able(o.Name) {
			out = append(out, o.Name)
		}
	}
	return out
}

// Readings is what one compute has read of others' storage heartbeats. It is driven by its caller and not safe
// for concurrent use.
type Readings struct {
	beat  time.Duration // the slow beat
	peers []string      // looked at from time to time
	of    map[string]*reading
}

// reading is of one host.
type reading struct {
	boot  string // that was asked about; "": it is only looked at from time to time
	until fleet.Moment
	due   fleet.Moment
	seen  bool
	was   string // the boot in the file
	count uint64
	moved fleet.Moment // when it was last seen to have counted up
	since fleet.Moment // from when on it should have
}

// NewReadings begins with nothing read.
func NewReadings(spec *fleet.Spec, host string, now fleet.Moment) *Readings {
	r := &Readings{beat: spec.Timing.SlowBeat, of: map[string]*reading{}}
	r.peers = StorageOthers(spec, host, StorageReaders, func(string) bool { return true })
	r.Return(now)
	return r
}

// Beat is the measure of all its times.
func (r *Readings) Beat() time.Duration { return r.beat }

// Return tells that this process, or its storage, was away until now: what it did not see
// meanwhile is no fault of the others.
func (r *Readings) Return(now fleet.Moment) {
	for _, host := range r.peers {
		if x := r.of[host]; x == nil || x.boot == "" {
			r.of[host] = &reading{due: now.Add(r.beat), since: now}
		}
	}
}

// Ask has a host's heartbeat of one boot read for five beats.
func (r *Readings) Ask(host, boot string, now fleet.Moment) {
	x := r.of[host]
	if x == nil || x.boot != boot || !now.Before(x.until) {
		// What it wrote before nobody asked says nothing of now.
		x = &reading{boot: boot, due: now}
		r.of[host] = x
	}
	x.until = now.Add(5 * r.beat)
}

// Due lists whose file is to be read now, and takes them as being read.
func (r *Readings) Due(now fleet.Moment) (out []string) {
	for _, host := range fleet.Sorted(r.of) {
		x := r.of[host]
		if x.boot != "" && !now.Before(x.until) {
			if delete(r.of, host); !slices.Contains(r.peers, host) {
				continue
			}
			x = &reading{due: now, since: now}
			r.of[host] = x
		}
		if now.Before(x.due) {
			continue
		}
		every := hundredths(storagePeeks, r.beat)
		if x.boot != "" {
			every = hundredths(storageReads, r.beat)
		}
		x.due = now.Add(every)
		out = append(out, host)
	}
	return out
}

// Saw takes what stood in a host's file; now is when it had been read.
func (r *Readings) Saw(host, boot string, count uint64, now fleet.Moment) {
	x := r.of[host]
	if x == nil || x.boot != "" && boot != x.boot {
		return // of another life: an older one left it, or a later one is not who was asked about
	}
	if x.seen && (boot != x.was || count > x.count) {
		x.moved = now
	}
	// One that has fallen was put back from a copy: it counts from there.
	x.seen, x.was, x.count = true, boot, count
}

// Writes is, by host, the boot that was asked about and was seen to write within the last
// three beats.
func (r *Readings) Writes(now fleet.Moment) (out map[string]string) {
	for _, host := range fleet.Sorted(r.of) {
		x := r.of[host]
		if x.boot == "" || x.moved == 0 || now.Sub(x.moved) >= 3*r.beat || !now.Before(x.until) {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[host] = x.boot
	}
	return out
}

// Unseen lists those looked at from time to time whose count has not changed from one look to
// the next but one.
func (r *Readings) Unseen(now fleet.Moment) (out []string) {
	for _, host := range r.peers {
		if x := r.of[host]; x.boot == "" && now.Sub(max(x.moved, x.since)) >= hundredths(storagePeeks, r.beat)*5/2 {
			out = append(out, host)
		}
	}
	return out
}
