// Package lease is the arithmetic by which at most one host speaks for an
// address, without asking any leader and without trusting any clock but one's
// own (docs/DESIGN.md section 3, rules 1 to 5).
//
//	holder                     ears (every voter)                 leader
//	  | -- beat(stint, sent) --> |                                   |
//	  | <---- ack(sent) -------- |                                   |
//	  |                          | <---- ask(stint): no more? ------ |
//	  |                          | ----- promise ------------------> |
//
// A Holder's lease ends L after the send time of the majority-th newest beat
// that was acknowledged. An Ear that has not acknowledged a stint for W by its
// own clock may promise to do so no more. A majority of promises shares an ear
// with every majority of acknowledgements, so "the stint is over" is then a
// fact, whoever leads and however old the news is. Nothing is compared across
// two clocks; W is 1.1 L + g + slack, so the clocks' rates may differ by 10 %.
//
// Holder, Ear and the functions on rounds are driven by their caller, who tells
// them what arrived and what time it is: the agent, the leader and the simulator
// run the very same code.
package lease

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"mainstay/fleet"
)

// Beat is the part of a heartbeat that the arithmetic needs.
type Beat struct {
	Stint fleet.Stint
	// Sent is the sender's clock when it sent this beat, and its sequence number.
	Sent fleet.Moment
	// Late is g, the lateness of the guard that the sender has at present.
	Late time.Duration
}

// Holder is a host's own view of its lease.
type Holder struct {
	length time.Duration
	stint  fleet.Stint
	ears   []string
	acked  []fleet.Moment // by ear: when the newest beat that it acknowledged was sent
	end    fleet.Moment
	over   bool
}

// NewHolder begins a stint with nothing acknowledged. ears are the names of all
// voters, length is L.
func NewHolder(stint fleet.Stint, ears []string, length time.Duration) *Holder {
	return &Holder{length: length, stint: stint, ears: slices.Clone(ears), acked: make([]fleet.Moment, len(ears))}
}

// Resume begins with a lease that a former process of this host left behind: it
// lives until end unless acknowledgements renew it.
func Resume(stint fleet.Stint, ears []string, length time.Duration, end fleet.Moment) *Holder {
	h := NewHolder(stint, ears, length)
	h.end = end
	return h
}

// Stint returns the stint that this lease belongs to.
func (h *Holder) Stint() fleet.Stint { return h.stint }

// End returns when the lease ends unless renewed; zero if it never lived.
func (h *Holder) End() fleet.Moment { return h.end }

// Alive says whether the lease lives at now. Having found it ended once, it
// stays ended for good.
func (h *Holder) Alive(now fleet.Moment) bool {
	if h.end != 0 && !now.Before(h.end) && fleet.Armed(fleet.GuardStint) {
		h.over = true
	}
	return !h.over && h.end != 0 && now.Before(h.end)
}

// Over says whether the lease lived and has ended.
func (h *Holder) Over(now fleet.Moment) bool {
	return h.end != 0 && !h.Alive(now)
}

// Ack takes an acknowledgement: ear has acknowledged the beat sent at sent. now
// must have been read before this call. It says whether the lease was renewed.
func (h *Holder) Ack(ear string, sent, now fleet.Moment) (renewed bool) {
	if h.Over(now) && fleet.Armed(fleet.GuardStint) {
		return false
	}
	i := slices.Index(h.ears, ear)
	if i < 0 || sent.After(now) || !sent.After(h.acked[i]) {
		return false
	}
	h.acked[i] = sent
	var few [8]fleet.Moment // more ears than that are allowed, and cost an allocation
	times := append(few[:0], h.acked...)
	slices.Sort(times)
	need := fleet.Majority(len(h.ears))
	if !fleet.Armed(fleet.GuardEars) {
		need = 1
	}
	newest := times[len(times)-need]
	if newest == 0 {
		return false
	}
	end := newest.Add(h.length)
	if !end.After(h.end) || !now.Before(end) {
		return false
	}
	h.end = end
	return true
}

// SetEars changes the list of voters. An acknowledgement of a removed ear no
// longer counts; the end that was reached stands.
func (h *Holder) SetEars(ears []string) {
	acked := make([]fleet.Moment, len(ears))
	for i, ear := range ears {
		if k := slices.Index(h.ears, ear); k >= 0 {
			acked[i] = h.acked[k]
		}
	}
	h.ears, h.acked = slices.Clone(ears), acked
}

// Hears says how many ears acknowledged a beat sent within the lease's length.
func (h *Holder) Hears(now fleet.Moment) int {
	n := 0
	for _, at := range h.acked {
		if at != 0 && now.Sub(at) < h.length {
			n++
		}
	}
	return n
}

// TooLate says whether a renewal that was computed for until and carried out by
// now may have re-created what the kernel had already ended (HOLES 22): the
// address must then be removed.
func TooLate(until, now fleet.Moment) bool {
	return fleet.Armed(fleet.GuardAfterCheck) && !now.Before(until)
}

// Row is what an ear knows of one boot of one host. Rows are kept in a mapped
// file, so that a killed agent forgets nothing.
type Row struct {
	Stint fleet.Stint  `json:"stint"`
	Sent  fleet.Moment `json:"sent"`  // of the newest beat, by the sender's clock
	First fleet.Moment `json:"first"` // when this boot was first heard
	Heard fleet.Moment `json:"heard"` // when a beat last arrived
	Acked fleet.Moment `json:"acked"` // when the newest acknowledged beat of this stint arrived
	// Late is the largest g stated since the last promise.
	Late time.Duration `json:"late"`
	// Promised is until when no stint up to PromisedN is acknowledged.
	Promised  fleet.Moment `json:"promised,omitempty"`
	PromisedN uint64       `json:"promised_n,omitempty"`
}

// bootsKept bounds the rows of one host. Two boots of one host beside each
// other are a clone or a false clock, and judge says so.
const bootsKept = 4

// Ear hears beats and acknowledges them by itself; no leader is needed.
type Ear struct {
	self   string
	timing fleet.Timing
	mute   fleet.Moment
	hosts  map[string][]Row
	names  []string // of hosts, in order: whoever looks at all looks often, and seldom is one new
	// others is when a beat of another host last arrived, and listens since when that
	// never took three beats: only then does a silence say anything of its host.
	others, listens fleet.Moment
}

// NewEar returns the ear of the host self. rows is the table that a former process of
// this boot left; nil means that there is none, and then nothing is acknowledged until
// now plus the length of a promise, because a promise may have been forgotten.
func NewEar(self string, timing fleet.Timing, rows []Row, now fleet.Moment) *Ear {
	e := &Ear{self: self, timing: timing, hosts: map[string][]Row{}, others: now, listens: now}
	for _, r := range rows {
		e.hosts[r.Stint.Host] = append(e.hosts[r.Stint.Host], r)
	}
	e.names = fleet.Sorted(e.hosts)
	if rows == nil && fleet.Armed(fleet.GuardEarWait) {
		e.mute = now.Add(timing.Promise())
	}
	return e
}

// Rows returns the whole table, for the file that outlives the process. It is
// never nil.
func (e *Ear) Rows() []Row {
	out := []Row{}
	for _, host := range e.names {
		out = append(out, e.hosts[host]...)
	}
	return out
}

// Boots returns what is known of a host, the most recently heard boot first.
func (e *Ear) Boots(host string) []Row {
	out := slices.Clone(e.hosts[host])
	slices.SortStableFunc(out, func(a, b Row) int { return cmp.Compare(b.Heard, a.Heard) })
	return out
}

// Newest returns the row of the boot of a host that was heard most recently, empty if
// none was, and its rival: another boot that was heard within the last two leases, at
// least a second. A host that really booted was silent for longer; a clone speaks
// beside its original, and neither may be taken for the proof of the other's death.
func (e *Ear) Newest(host string, now fleet.Moment) (newest Row, rival string) {
	var before Row
	for _, r := range e.hosts[host] {
		switch {
		case r.Heard > newest.Heard:
			newest, before = r, newest
		case r.Heard > before.Heard:
			before = r
		}
	}
	if before.Heard != 0 && now.Sub(before.Heard) < max(2*e.timing.Lease, time.Second) {
		rival = before.Stint.Boot
	}
	return newest, rival
}

// Row returns what is known of one boot of a host.
func (e *Ear) Row(s fleet.Stint) (Row, bool) {
	for _, r := range e.hosts[s.Host] {
		if r.Stint.Boot == s.Boot {
			return r, true
		}
	}
	return Row{}, false
}

// Return tells the ear that its own process was away until now: beats may have
// been lost meanwhile through no fault of their senders, so every silence is
// counted from here (HOLES 30).
func (e *Ear) Return(now fleet.Moment) {
	e.others, e.listens = now, now
	for _, host := range e.names {
		for i := range e.hosts[host] {
			if r := &e.hosts[host][i]; r.Acked != 0 {
				r.Acked = now
			}
		}
	}
}

// Hosts returns the names of all hosts heard or asked about so far, sorted.
func (e *Ear) Hosts() []string { return slices.Clone(e.names) }

// row returns the row of a boot, made if need be.
func (e *Ear) row(s fleet.Stint) *Row {
	rows, known := e.hosts[s.Host]
	if !known {
		at, _ := slices.BinarySearch(e.names, s.Host)
		e.names = slices.Insert(e.names, at, s.Host)
	}
	for i := range rows {
		if rows[i].Stint.Boot == s.Boot {
			return &rows[i]
		}
	}
	if len(rows) == bootsKept {
		oldest := 0
		for i := range rows {
			if max(rows[i].Heard, rows[i].Promised) < max(rows[oldest].Heard, rows[oldest].Promised) {
				oldest = i
			}
		}
		rows = slices.Delete(rows, oldest, oldest+1)
	}
	e.hosts[s.Host] = append(rows, Row{Stint: fleet.Stint{Host: s.Host, Boot: s.Boot}})
	return &e.hosts[s.Host][len(e.hosts[s.Host])-1]
}

// Beat takes a heartbeat and says whether to acknowledge it; if not, why.
func (e *Ear) Beat(b Beat, now fleet.Moment) (ack bool, why string) {
	if b.Stint.Host != e.self {
		if e.deaf(now) {
			e.listens = now
		}
		e.others = now
	}
	r := e.row(b.Stint)
	switch {
	case b.Stint.N < r.Stint.N:
		return false, fmt.Sprintf("%s has begun stint %d since", b.Stint.Host, r.Stint.N)
	case b.Stint.N == r.Stint.N && b.Sent.Before(r.Sent):
		return false, "an older beat than the newest one"
	case b.Stint.N > r.Stint.N:
		r.Stint.N, r.Acked = b.Stint.N, 0
	}
	if r.First == 0 {
		r.First = now
	}
	r.Sent, r.Heard, r.Late = b.Sent, now, max(r.Late, b.Late)
	switch {
	case now.Before(e.mute):
		return false, "this ear has just booted and may have forgotten a promise"
	case now.Before(r.Promised) && b.Stint.N <= r.PromisedN:
		return false, fmt.Sprintf("promised not to acknowledge stint %d of %s", r.PromisedN, b.Stint.Host)
	}
	r.Acked = now
	return true, ""
}

// AnyStint in place of a stint's number asks about the whole boot. The answer to
// that is no promise: it says only that nothing of the boot was heard for W. "Its
// stint is over" may be a sign of life (it has begun the next one); before a host
// is fenced, a majority must have heard nothing of it at all.
const AnyStint = ^uint64(0)

// Question and Answer say in words what a round asks of the ears, and what an ear
// that says yes has said.
func Question(s fleet.Stint) string {
	if s.N == AnyStint {
		return fmt.Sprintf("asked whether it hears anything of boot %s of %s", s.Boot, s.Host)
	}
	return fmt.Sprintf("asked to acknowledge stint %d of %s no more", s.N, s.Host)
}

// Answer is Question's counterpart.
func Answer(s fleet.Stint) string {
	if s.N == AnyStint {
		return fmt.Sprintf("hears nothing of boot %s of %s", s.Boot, s.Host)
	}
	return fmt.Sprintf("promised to acknowledge stint %d of %s no more", s.N, s.Host)
}

// Ask answers the leader's question: promise to acknowledge this stint no more?
// With evict the promise is given although the host was heard a moment ago; the
// leader then waits for W itself. A promise holds for Timing.Promise.
func (e *Ear) Ask(stint fleet.Stint, evict bool, now fleet.Moment) (promised bool, why string) {
	if now.Before(e.mute) {
		return false, "this ear has just booted and does not know what it acknowledged before"
	}
	if stint.N == AnyStint {
		return e.silent(stint, now)
	}
	r := e.row(stint)
	if r.Stint.N > stint.N {
		return true, fmt.Sprintf("%s has begun stint %d since", stint.Host, r.Stint.N)
	}
	if r.Acked != 0 && !evict {
		silent := now.Sub(r.Acked)
		if want := e.timing.Silence(r.Late); silent < want {
			return false, fmt.Sprintf("acknowledged %v ago, silence of %v is needed", silent.Round(time.Millisecond), want)
		}
		r.Late = 0
	}
	r.Promised = now.Add(e.timing.Promise())
	r.PromisedN = max(r.PromisedN, stint.N)
	return true, "silent long enough"
}

// Silent is for how long this ear has heard nothing of a boot, for certain: not counting
// what it cannot know because its own process began later or was away, or because it
// heard nobody at all. Whatever it has not heard it has not acknowledged either, so no
// beat of that boot that was sent within this span holds a lease by this ear.
func (e *Ear) Silent(stint fleet.Stint, now fleet.Moment) time.Duration {
	if now.Before(e.mute) || e.deaf(now) {
		return 0
	}
	r, _ := e.Row(stint)
	return max(0, min(now.Sub(r.Heard), now.Sub(e.listens)))
}

// deaf says that no other host at all has been heard for three beats.
func (e *Ear) deaf(now fleet.Moment) bool {
	return now.Sub(e.others) >= e.timing.Suspect()
}

// silent answers a question about a whole boot. What an ear that was cut off itself did
// not hear meanwhile is no sign of anybody's death (HOLES 52), and the silence of a boot
// is none of its host's while another boot of it is heard: whoever asks may not hear that
// one, and would switch off a host that is well (HOLES 55).
func (e *Ear) silent(stint fleet.Stint, now fleet.Moment) (bool, string) {
	r, _ := e.Row(stint)
	want := e.timing.Silence(r.Late)
	for _, other := range e.hosts[stint.Host] {
		if ago := now.Sub(other.Heard); other.Stint.Boot != stint.Boot && other.Heard != 0 && ago < e.timing.Silence(other.Late) {
			return false, fmt.Sprintf("boot %s of it was heard %v ago", other.Stint.Boot, ago.Round(time.Millisecond))
		}
	}
	heard, listened := now.Sub(r.Heard), now.Sub(e.listens)
	switch {
	case heard < want:
		return false, fmt.Sprintf("heard %v ago, silence of %v is needed", heard.Round(time.Millisecond), want)
	case e.deaf(now):
		return false, fmt.Sprintf("this ear has heard nobody else for %v either: it is itself cut off", now.Sub(e.others).Round(time.Millisecond))
	case listened < want:
		return false, fmt.Sprintf("this ear has been listening for %v only, silence of %v is needed", listened.Round(time.Millisecond), want)
	case r.Heard == 0:
		return true, "nothing heard of that boot"
	}
	return true, "nothing heard for long enough"
}

// Over says whether the answers to a round prove that its stint has ended: a
// majority of all ears promised within L of the question, and, if the host was
// still beating when it was evicted, W has passed since the last of those.
// late is the largest g that the host has stated.
func Over(r fleet.Round, ears []string, t fleet.Timing, late time.Duration, now fleet.Moment) bool {
	var times []fleet.Moment
	for _, ear := range ears {
		at, ok := r.Promised[ear]
		if ok && at.Sub(r.Asked) <= t.Lease {
			times = append(times, at)
		}
	}
	need := fleet.Majority(len(ears))
	if !fleet.Armed(fleet.GuardPromise) {
		need = 1
	}
	if len(times) < need {
		return false
	}
	if !r.Evict {
		return true
	}
	// The promise binds the ear for Timing.Promise = W + L from its giving, and
	// all were given within L of each other, so all still bind when W has passed.
	slices.Sort(times)
	return now.Sub(times[need-1]) >= t.Silence(late) && late <= fleet.GuardLate
}

// Stale says whether a round can no longer succeed and should be asked anew.
func Stale(r fleet.Round, t fleet.Timing, now fleet.Moment) bool {
	open := t.Lease
	if r.Evict {
		open = t.Promise()
	}
	return now.Sub(r.Asked) > open
}

// LeadUntil is until when a host may act as leader, having begun at t0 a read
// that was confirmed by a majority while it led in one and the same raft term.
// A follower that just answered cannot vote for another before E - 2t: one t
// for the tick that was already under way, one for a tick that a stalled disk
// had held back (HOLES 6); 0.9 covers the clocks' rates.
func LeadUntil(t0 fleet.Moment, t fleet.Timing) fleet.Moment {
	if !fleet.Armed(fleet.GuardLeadRead) {
		return t0.Add(100 * t.Election)
	}
	return t0.Add(t.LeadLease())
}

// MayStart is when a store member that is started at now may take part: having
// forgotten whom it last heard, it could otherwise help to elect a second
// leader inside the first one's lease (HOLES 5). A member of a site that never
// ran waits for nothing.
func MayStart(now fleet.Moment, t fleet.Timing, bootstrap bool) fleet.Moment {
	if bootstrap || !fleet.Armed(fleet.GuardRestartWait) {
		return now
	}
	return now.Add(t.Election)
}
