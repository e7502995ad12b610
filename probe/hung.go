package probe

import (
	"fmt"
	"time"

	"mainstay/fleet"
)

// Sample is what is known of one copy of a service at one moment.
type Sample struct {
	At fleet.Moment
	// Overdue is when the deadline of the oldest probe that was never answered
	// passed; zero as soon as a later one is answered. A refusal or a bad answer
	// is an answer in this sense: whoever says so does not hang.
	Overdue fleet.Moment
	// Finished counts the requests that the copy has finished, its own answered
	// probes among them.
	Finished uint64
	// CPU is what the unit's processes have used since its start (UnitUsage).
	CPU time.Duration
}

const (
	// Still is how long nothing must move. Shorter, and the pauses of a healthy
	// service (a query, a fork) look like a hang.
	Still = 400 * time.Millisecond
	// Idle, in parts of a thousand of one core, is what a unit uses whose workers
	// all hang: its master still wakes now and then to look after them.
	Idle = 10
)

// Hung says whether a copy hangs, and why or why not, from two samples of it
// that are at least Still apart. All three signs are needed: a probe past its
// deadline, no request finished, and no CPU used. One alone is a busy service,
// and taking it out would put its load on the next.
func Hung(prev, next Sample) (bool, string) {
	span := next.At.Sub(prev.At)
	used := next.CPU - prev.CPU
	switch {
	case next.Overdue == 0:
		return false, "its probes are answered"
	case span < Still:
		return false, fmt.Sprintf("a probe is past its deadline, but it was watched for %s only, and it takes %s to tell", span, Still)
	case next.Finished < prev.Finished, used < 0:
		return false, "a probe is past its deadline, but its counters began anew: it was restarted, or processes of it ended"
	case next.Finished > prev.Finished:
		return false, fmt.Sprintf("a probe is past its deadline, but %d requests finished within %s: busy", next.Finished-prev.Finished, span)
	case used > span*Idle/1000:
		return false, fmt.Sprintf("a probe is past its deadline, but it used %s of CPU within %s: busy", used, span)
	}
	return true, fmt.Sprintf("its probe is past its deadline for %s, no request finished, and it used %s of CPU within %s",
		next.At.Sub(next.Overdue), used, span)
}
