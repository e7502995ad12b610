package lease

import (
	"time"

	"mainstay/fleet"
)

// telling is how long a whole report may be the newest that a voter was given, however well beats
// name it since: a belt, for what nobody thought of. A whole one costs each voter a millisecond, a
// connection begun anew: of 10,000 hosts every few minutes it was a fifteenth of a core. It is longer by up to as much again, so that those
// whom a voter asked for all at once, having forgotten them, do not come at once again and again.
const telling = 15 * time.Minute

// Telling is what a host that beats slowly knows of which voters have its newest report. Its beats
// name that report by a number, an acknowledgement says which one the voter has, and a whole one
// goes only to whom they do not match: who never got it, forgot it, cannot be heard over the
// beats' way, or is of a version that knows nothing of this. Thousands of hosts that say
// nothing new would cost the voters more than all their beats (HOLES 108).
type Telling struct {
	every  time.Duration
	number uint64
	whole  map[string]fleet.Moment // by voter: when it was last told the whole
	has    map[string]fleet.Moment // by voter: when the newest beat was sent by whose acknowledgement it has it
	lacks  map[string]fleet.Moment // by voter: the same, by whose acknowledgement it does not
}

// NewTelling begins with nobody told; every is the pace of the host's beats.
func NewTelling(every time.Duration) *Telling {
	t := &Telling{every: every}
	t.News(0)
	return t
}

// News begins a new report: nobody has it.
func (t *Telling) News(number uint64) {
	t.number, t.whole, t.has, t.lacks = number, map[string]fleet.Moment{}, map[string]fleet.Moment{}, map[string]fleet.Moment{}
}

// Acked notes that a voter has acknowledged the beat sent at sent and said which report it has.
func (t *Telling) Acked(voter string, number uint64, sent fleet.Moment) {
	says := t.lacks
	if number != 0 && number == t.number {
		says = t.has
	}
	says[voter] = max(says[voter], sent)
}

// Due says whether a voter must be told the whole: it has not been; the acknowledgements of the last beats
// did not bring its word that it has it; or it was told long ago. It is told no more often than once in a beat.
func (t *Telling) Due(voter string, now fleet.Moment) bool {
	whole, told := t.whole[voter]
	if !told || now.Sub(whole) >= telling+spread(whole) {
		return true
	}
	patience := t.every * 3 / 2
	if has := t.has[voter]; has != 0 && !t.lacks[voter].After(has) {
		patience += t.every // it had it, and one acknowledgement may be lost (Acks)
	}
	return now.Sub(whole) >= t.every*9/10 && now.Sub(t.has[voter]) > patience
}

// spread is below telling, and another for each moment: its bits are mixed as Fibonacci hashing does.
func spread(m fleet.Moment) time.Duration {
	const golden = 0x9e3779b97f4a7c15
	return time.Duration(uint64(m) * golden % uint64(telling))
}

// Told notes that a voter is being told the whole.
func (t *Telling) Told(voter string, now fleet.Moment) { t.whole[voter] = now }
