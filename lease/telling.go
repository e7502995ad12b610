package lease

import (
	"time"

	"mainstay/fleet"
)

// telling is how long a whole report may be the newest that a voter was given, however well beats
// name it since: a belt, for what nobody thought of.
const telling = 30 * time.Second

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
}

// NewTelling begins with nobody told; every is the pace of the host's beats.
func NewTelling(every time.Duration) *Telling { return &Telling{every: every} }

// News begins a new report: nobody has it.
func (t *Telling) News(number uint64) {
	t.number, t.whole, t.has = number, map[string]fleet.Moment{}, map[string]fleet.Moment{}
}

// Acked notes that a voter has acknowledged the beat sent at sent and said which report it has.
func (t *Telling) Acked(voter string, number uint64, sent fleet.Moment) {
	if number != 0 && number == t.number {
		t.has[voter] = max(t.has[voter], sent)
	}
}

// Due says whether a voter must be told the whole: it has not been, or none of the last beats
// brought its word that it has it; and once in a while besides. It is told no more often than once in a beat.
func (t *Telling) Due(voter string, now fleet.Moment) bool {
	whole, told := t.whole[voter]
	if !told || now.Sub(whole) >= telling {
		return true
	}
	return now.Sub(whole) >= t.every*9/10 && now.Sub(t.has[voter]) > t.every*3/2
}

// Told notes that a voter is being told the whole.
func (t *Telling) Told(voter string, now fleet.Moment) { t.whole[voter] = now }
