// Package fleet holds the nouns of Mainstay: what an operator describes (Spec),
// what hosts testify (Report, Heard), what the quorum remembers (State), what
// is held true (Verdict), what shall be done (Plan, Order), what came of it
// (Effect) and what is told afterwards (Event).
//
// Everything here is a plain value: it can be printed, saved as JSON, compared
// and replayed. Nothing here does I/O, reads a clock, starts a goroutine, takes
// a lock, throws dice or depends on the order of a map; house_test.go enforces
// it for this package and for lease, judge and plan, which stand on it.
//
//	Observation -> Verdict -> Plan{Records, Orders, Waits} -> Order -> Effect -> Event
//
// Times are of two sorts and are never mixed. A Moment is a reading of one
// host's own CLOCK_BOOTTIME and is compared only with others of the same host:
// every safety rule is arithmetic on these. A time.Time is the wall clock, for
// people, in events and evidence; no rule depends on it.
package fleet
