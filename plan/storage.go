package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// A compute that is silent on every network may be dead, or only cut off: by its switch, by our
// own ears' fault. Where computes share storage there is a second opinion: each keeps a
// heartbeat there (probe/storage), and others are asked to read that of one that falls silent. If it goes
// on, in the boot that fell silent, the host lives. It is then not fenced at once: the network may come back, and its
// guests may be served over networks of which the site's file knows nothing.
//
// It is never a proof, in neither direction. That no heartbeat is seen may be the storage's fault, or the
// reader's; such a host is treated as any silent one, and its servers go nowhere before a fence has
// proved it off. That one is seen delays a fence, by openstack/lost: for a minute where all says evacuate, which
// holds where nothing is said. For all that the site's file tells, who is silent on every network serves nobody.
// Proxmox and SBD reset a host that has lost its cluster's networks, whatever it writes; VMware, whose file
// (datastore heartbeat) this resembles, leaves it on unless told otherwise. Who serves guests over networks that
// are not in the site's file says disable.
//
// Two at once have lost something that they share, and a fence mends no switch: then it is the network, and a
// person is told. One that has been so for hours, or in maintenance, says nothing of one that becomes so now.
const (
	// storageAsks is how long a compute has been silent, in halves of a slow beat, before others are asked.
	storageAsks = 3
	// storageWaits is, in halves of a slow beat, how long those who were asked are waited for: who is not
	// heard writes four times in a beat, and they look as often, so this leaves the storage most of a beat for an answer.
	storageWaits = 3
	// storageLate is, in quarters of a slow beat, how long one who is asked to read may be silent himself: who has lost
	// the same switch a moment later counts as well for a beat and a half yet, and nothing he sees arrives.
	storageLate = 5
	// storageLast is, in halves of a slow beat, how long a host has been silent when those who are asked instead of such
	// readers are waited for no more: each of them may fall silent as well.
	storageLast = storageAsks + 2*storageWaits
	// storageAgain is how many beats later they are asked once more.
	storageAgain = 2
	// isolatedActs is how long one has been silent, and written to storage, before it is fenced.
	isolatedActs = time.Minute
	// isolatedAtOnce is how far apart two may have begun to be so and still have lost something that they share.
	isolatedAtOnce = time.Minute
	// isolatedBefore is how many earlier beginnings are remembered, and one.
	isolatedBefore = 7
	// storageSample is how many are asked about at least when more are silent than the brake lets anybody fence.
	storageSample = 5
)

// secondOpinion is what a turn looked up about computes that are silent.
type secondOpinion struct {
	// readers are, by host, who is asked to read its heartbeat in this turn.
	readers map[string][]string
	// unasked are silent, and beyond what the brake allows; many: so many have missed two beats that it will hold.
	unasked map[string]bool
	many    bool
	// writers are, by host, those who say that its boot writes. Nil: not looked up yet.
	writers map[string][]string
	// isolated are those of whom that is said and whom nobody hears, once looked up.
	isolated []string
	looked   bool
}

// every says whether a name among the networks stands for all of them.
func (d *decision) every(network string) bool {
	return network == fleet.EveryNetwork && d.w.Spec.OpenStack.Storage != ""
}

// nameOf names networks to a person.
func (d *decision) nameOf(networks ...string) string {
	out := slices.Clone(networks)
	for i := range out {
		if d.every(out[i]) {
			out[i] = "every network"
		}
	}
	return strings.Join(out, ", ")
}

// askStorage has others read the heartbeats of computes that have just fallen silent.
func (d *decision) askStorage() {
	if d.w.Spec.OpenStack.Storage == "" || d.w.Spec.Mode == "shadow" {
		return // a shadow orders nothing, and would wait for no answer
	}
	type quiet struct {
		h     fleet.Holding
		since time.Duration
	}
	var silent []quiet
	two := 0
	for i := range d.w.Spec.Hosts {
		host := d.w.Spec.Hosts[i].Name
		h, heard := d.w.State.Holdings[Compute(host)], d.w.Heard[host]
		if h.Host != host || heard.Stint.Boot != h.Boot && heard.Stint.Boot != "" || d.w.Verdicts[host].Condition == fleet.Dead || d.unwatched(host, h.Boot) {
			continue
		}
		since := d.w.Now.Sub(max(heard.Last, d.w.Since))
		if left := d.w.Spec.Timing.SlowBeat*storageAsks/2 - since; left > 0 {
			d.wake(left)
			continue
		}
		if since >= 2*d.w.Spec.Timing.SlowBeat {
			two++
		}
		silent = append(silent, quiet{h, since})
	}
	if len(silent) == 0 {
		return
	}
	d.second.readers, d.second.unasked, d.second.many = map[string][]string{}, map[string]bool{}, d.tooMany(two)
	if d.tooMany(len(silent)) {
		// Who has been silent for longest first: in a storm many are late, and few are lost.
		slices.SortStableFunc(silent, func(a, b quiet) int { return cmp.Compare(b.since, a.since) })
		most := storageSample
		for most < len(silent) && !d.tooMany(most+1) {
			most++
		}
		for _, q := range silent[min(len(silent), most):] {
			d.second.unasked[q.h.Host] = true
		}
		silent = silent[:min(len(silent), most)]
	}
	for _, q := range silent {
		h := q.h
		d.second.readers[h.Host] = lease.StorageOthers(&d.w.Spec, h.Host, lease.StorageReaders, d.asked)
		for _, reader := range d.second.readers[h.Host] {
			o := d.readOrder(h, reader)
			if f, given := d.w.Flights[o.Key]; given && f.Effect != nil && f.Effect.Outcome == fleet.Done {
				if left := storageAgain*d.w.Spec.Timing.SlowBeat - d.w.Now.Sub(f.Arrived); left > 0 {
					d.wake(left)
					continue
				}
			}
			d.order(o)
		}
	}
}

// tooMany says whether the site's brake holds for so many hosts.
func (d *decision) tooMany(n int) bool {
	return d.w.Spec.Brakes.Site().Exceeded(n, len(d.w.Spec.Hosts)) && fleet.Armed(fleet.GuardBrake)
}

// reads says whether a compute can be asked what it reads.
func (d *decision) reads(host string) bool {
	v := d.w.Verdicts[host].Condition
	r, current := d.current(host)
	return (v == fleet.Healthy || v == fleet.Degraded) && current && d.w.Heard[host].Rival == "" && r.Storage.Failed == "" && !r.Leaving
}

// asked says whether a compute is asked to read: the next one is in its stead while it is silent itself.
func (d *decision) asked(host string) bool { return d.reads(host) && d.late(host) > 0 }

// late is how long it will be until a reader counts as silent itself.
func (d *decision) late(reader string) time.Duration {
	return d.w.Spec.Timing.SlowBeat*storageLate/4 - d.w.Now.Sub(d.w.Heard[reader].Last)
}

// readOrder asks one of them. Each silence has orders of its own.
func (d *decision) readOrder(h fleet.Holding, reader string) fleet.Order {
	last := fleet.Moment(0)
	if heard := d.w.Heard[h.Host]; heard.Stint.Boot == h.Boot {
		last = heard.Last
	}
	return d.to(fleet.Order{
		Key: fmt.Sprintf("read/%s/%s/%d/%s", h.Host, h.Boot, last, reader), Verb: fleet.VerbRead, Thing: h.Thing,
		Target: fleet.Stint{Host: h.Host, Boot: h.Boot}, Why: h.Host + " is silent, and may write to storage",
	}, reader)
}

// unread says whether those who were asked about a host may yet see what its heartbeat does.
func (d *decision) unread(h fleet.Holding) bool {
	if d.w.Spec.OpenStack.Storage == "" || d.w.Spec.Mode == "shadow" {
		return false
	}
	if left := d.w.Spec.Timing.SlowBeat*storageAsks/2 - d.w.Now.Sub(max(d.w.Heard[h.Host].Last, d.w.Since)); left > 0 {
		d.wake(left)
		return true // nobody has been asked yet
	}
	if d.second.many || d.second.unasked[h.Host] {
		// More are silent than may be fenced; as soon as they count as lost, the brake says so.
		if !d.tooMany(len(d.lostOnes())) {
			return true
		}
	}
	waits := d.w.Spec.Timing.SlowBeat * storageWaits / 2
	if d.w.Now.Sub(max(d.w.Heard[h.Host].Last, d.w.Since)) >= d.w.Spec.Timing.SlowBeat*storageLast/2 && d.askedBefore(h, waits) {
		return false
	}
	for _, reader := range d.second.readers[h.Host] {
		f, flying := d.w.Flights[d.readOrder(h, reader).Key]
		left := waits
		switch {
		case !flying: // it is given in this turn
		case f.Tries > 1:
			continue // the first was long ago, or came to nothing
		case f.Effect == nil:
			left -= d.w.Now.Sub(f.Sent)
		case f.Effect.Outcome != fleet.Done:
			continue
		default:
			left -= d.w.Now.Sub(f.Arrived)
		}
		if left > 0 {
			d.wake(min(left, d.late(reader))) // then the next one is asked
			return true
		}
	}
	return false
}

// askedBefore says whether anybody was asked about a host, in this silence, at least so long ago.
func (d *decision) askedBefore(h fleet.Holding, ago time.Duration) bool {
	of := d.readOrder(h, "").Key
	for _, key := range fleet.Sorted(d.w.Flights) {
		f := d.w.Flights[key]
		if strings.HasPrefix(key, of) && (f.Tries > 1 || d.w.Now.Sub(f.Sent) >= ago) {
			return true
		}
	}
	return false
}

// writers are those computes that say that a boot writes to storage. The word of one is enough: it
// makes nobody dead, and it is the word of a host that is heard.
func (d *decision) writers(host, boot string) []string {
	if d.w.Spec.OpenStack.Storage == "" {
		return nil
	}
	if d.second.writers == nil {
		d.second.writers = map[string][]string{}
		for i := range d.w.Spec.Hosts {
			reader := d.w.Spec.Hosts[i].Name
			r, current := d.current(reader)
			if !current || len(r.Storage.Writes) == 0 || !d.reads(reader) || d.w.Now.Sub(d.w.Told[reader]) >= 3*d.w.Spec.Timing.SlowBeat {
				continue
			}
			for _, of := range fleet.Sorted(r.Storage.Writes) {
				key := of + "/" + r.Storage.Writes[of]
				d.second.writers[key] = append(d.second.writers[key], reader)
			}
		}
	}
	return d.second.writers[host+"/"+boot]
}

// silentAndWrites says of a compute that no ear hears that it writes to storage, and by whose word.
func (d *decision) silentAndWrites(host string) string {
	if d.w.Spec.OpenStack.Storage == "" {
		return "" // nobody could say so
	}
	h := d.w.State.Holdings[Compute(host)]
	if h.Host != host || d.w.Verdicts[host].Condition != fleet.Lapsed {
		return ""
	}
	if by := d.writers(host, h.Boot); len(by) > 0 {
		return fmt.Sprintf("%s is silent on every network and writes to storage, by the word of %s", host, few(by))
	}
	return ""
}

// silentEverywhere keeps the record of a compute that is silent and writes to storage: since when is for
// every leader the same. False if it is not.
func (d *decision) silentEverywhere(host string) bool {
	why := d.silentAndWrites(host)
	if why == "" || d.unread(d.w.State.Holdings[Compute(host)]) { // each that was asked is named
		return why != ""
	}
	r := d.w.State.Cutoffs[host]
	l, known := r.Networks[fleet.EveryNetwork]
	if known && l.Back.IsZero() {
		return true
	}
	next := fleet.Cutoff{Host: host, Networks: maps.Clone(r.Networks)}
	if next.Networks == nil {
		next.Networks = map[string]fleet.Lost{}
	}
	lost := fleet.Lost{Since: d.w.Wall, Why: why}
	if known {
		lost.Before = append(slices.Clone(l.Before[max(0, len(l.Before)-isolatedBefore):]), l.Since)
	} else if silent := d.w.Now.Sub(max(d.w.Heard[host].Last, d.w.Since)); silent > isolatedAtOnce {
		lost.Before = []time.Time{d.w.Wall.Add(-silent)} // others were asked about first
	}
	next.Networks[fleet.EveryNetwork] = lost
	d.record(fleet.Put("cutoff/"+host, next, why))
	return true
}

// heldToLive says whether a compute that nobody hears is not fenced yet, for it writes to storage or those who were asked
// may yet say so; if it is fenced though it writes, why.
func (d *decision) heldToLive(h fleet.Holding) (holds bool, why string) {
	if d.unread(h) {
		return true, ""
	}
	if d.silentAndWrites(h.Host) == "" {
		return false, ""
	}
	l, known := d.w.State.Cutoffs[h.Host].Networks[fleet.EveryNetwork]
	if !known || !l.Back.IsZero() || d.w.Spec.OpenStack.OnLoss(fleet.EveryNetwork).Below(fleet.LossEvacuate) || d.manySilent(h.Host) != "" {
		return true, ""
	}
	if left := isolatedActs - d.w.Wall.Sub(l.Since); left > 0 {
		d.wake(left)
		return true, ""
	}
	return false, fmt.Sprintf("it has been so and written to storage since %s UTC, and its servers serve nobody (openstack/lost/%s)", l.Since.UTC().Format(time.TimeOnly), fleet.EveryNetwork)
}

// writesOn says whether what an intent was written down for is so no more, because its host writes to storage.
func (d *decision) writesOn(in fleet.Intent) bool {
	h := d.w.State.Holdings[Compute(in.Host)]
	if h.Boot != in.Boot || d.silentAndWrites(in.Host) == "" {
		return false
	}
	_, why := d.needsFence(in.Host)
	return why == ""
}

// isolated are the computes that are silent and write to storage now.
func (d *decision) isolated() []string {
	for i := range d.w.Spec.Hosts {
		if name := d.w.Spec.Hosts[i].Name; !d.second.looked && d.silentAndWrites(name) != "" {
			d.second.isolated = append(d.second.isolated, name)
		}
	}
	d.second.looked = true
	return d.second.isolated
}

// fell is when a compute fell silent: in the present silence, and in those before it since it was well.
func (d *decision) fell(of string) (at []time.Time) {
	l, known := d.w.State.Cutoffs[of].Networks[fleet.EveryNetwork]
	if known {
		at = append(slices.Clone(l.Before), l.Since)
	}
	if !known || !l.Back.IsZero() && slices.Contains(d.isolated(), of) {
		at = append(at, d.w.Wall) // it is written down in this turn, or the next
	}
	return at
}

// isolatedWith are those that fell silent when this one did, and itself. One that is heard again counts until it has
// been for long: when a switch is back, its hosts are not all heard in the same moment, and whoever is the last of
// them would be fenced then, for its minute was over long ago (seen in the lab). So does one that died since: it wrote
// when it was silent, so it had lost its networks alive. What was in maintenance before that explains itself.
func (d *decision) isolatedWith(host string) (out []string) {
	mine, isolated := d.fell(host), d.isolated()
	for i := range d.w.Spec.Hosts {
		o := &d.w.Spec.Hosts[i]
		if o.Name == host {
			out = append(out, host)
			continue
		}
		l, known := d.w.State.Cutoffs[o.Name].Networks[fleet.EveryNetwork]
		lately := known && o.HasRole("compute") && (l.Back.IsZero() || d.w.Wall.Sub(l.Back) < lostCalm)
		if !lately && !slices.Contains(isolated, o.Name) {
			continue
		}
		if slices.ContainsFunc(d.fell(o.Name), func(x time.Time) bool {
			kept := d.maintenance(o.Name) && !d.w.State.Wishes["maintenance-"+o.Name].At.After(x)
			return !kept && slices.ContainsFunc(mine, func(y time.Time) bool { return x.Sub(y).Abs() <= isolatedAtOnce })
		}) {
			out = append(out, o.Name)
		}
	}
	return out
}

// flaps says whether a compute that was heard again is late once more, though not silent for so long that it would be
// written down as lost; and notes now and then that it has been back only since. Who is silent for longer has gone.
func (d *decision) flaps(host string) bool {
	r := d.w.State.Cutoffs[host]
	l, known := r.Networks[fleet.EveryNetwork]
	silence := d.w.Now.Sub(max(d.w.Heard[host].Last, d.w.Since))
	if !known || l.Back.IsZero() || silence < d.w.Spec.Timing.SlowBeat*storageAsks/2 || silence > lostDisables || d.w.Wall.Sub(l.Back) < lostDisables {
		return false
	}
	next := fleet.Cutoff{Host: host, Networks: maps.Clone(r.Networks)}
	l.Back = d.w.Wall
	next.Networks[fleet.EveryNetwork] = l
	d.record(fleet.Put("cutoff/"+host, next, host+" had "+d.nameOf(fleet.EveryNetwork)+" back, and is late again"))
	return true
}

// manySilent says why nothing is done about a compute that is silent and writes to storage.
func (d *decision) manySilent(host string) string {
	both := d.isolatedWith(host)
	if len(both) > 1 && fleet.Armed(fleet.GuardBrake) {
		why := few(both) + " fell silent at once and wrote to storage, so it is the network and not the hosts"
		back := time.Time{}
		for _, o := range both {
			if l := d.w.State.Cutoffs[o].Networks[fleet.EveryNetwork]; o != host && l.Back.IsZero() {
				return why
			} else if o != host && l.Back.After(back) {
				back = l.Back
			}
		}
		return fmt.Sprintf("%s; heard again: %s; %s has until %s UTC to be heard too", why, few(slices.DeleteFunc(both, func(o string) bool { return o == host })), host, back.Add(lostCalm).UTC().Format(time.TimeOnly))
	}
	for i := range d.w.Spec.Hosts {
		if h := &d.w.Spec.Hosts[i]; h.HasRole("compute") && d.blocked[h.Name] == "" {
			return ""
		}
	}
	return "no other compute could take its servers"
}

// itIsTheNetwork says what a brake's alarm adds where some of the lost hosts write to storage.
func (d *decision) itIsTheNetwork() string {
	if names := d.isolated(); len(names) > 0 {
		return fmt.Sprintf("; here it is the network and not the hosts: %s write to storage, by the word of other computes", few(names))
	}
	return ""
}

// badStorage tells a person of heartbeats that would be of no use.
func (d *decision) badStorage() {
	if d.w.Spec.OpenStack.Storage == "" {
		return
	}
	var mute, apart []string
	why := ""
	for i := range d.w.Spec.Hosts {
		host := &d.w.Spec.Hosts[i]
		r, current := d.current(host.Name)
		if v := d.w.Verdicts[host.Name].Condition; !host.HasRole("compute") || !current || v != fleet.Healthy && v != fleet.Degraded {
			continue
		}
		if r.Storage.Failed != "" {
			if mute = append(mute, host.Name); why == "" {
				why = r.Storage.Failed
			}
			continue
		}
		if unseen := slices.DeleteFunc(slices.Clone(r.Storage.Unseen), func(o string) bool { return !d.reads(o) }); len(unseen) > 0 {
			apart = append(apart, fmt.Sprintf("%s does not see %s", host.Name, strings.Join(unseen, ", ")))
		}
	}
	help := "df " + d.w.Spec.OpenStack.Storage + " there; mainstay check there"
	if len(mute) > 0 {
		d.wait("storage_heartbeat", fmt.Sprintf("%s to write to it: %s", few(mute), why), help)
	}
	if len(apart) > 0 {
		d.wait("storage_heartbeat", fmt.Sprintf("one storage under all computes: each writes its own, and %s", strings.Join(apart[:min(len(apart), 3)], "; ")), help)
	}
}
