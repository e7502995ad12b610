package fleet

import "time"

// Moment is a reading, in nanoseconds, of one host's CLOCK_BOOTTIME, which
// counts suspend. Two Moments of different hosts, or of different boots, must
// not be compared. The zero Moment means "never".
type Moment int64

// Add returns m moved by d.
func (m Moment) Add(d time.Duration) Moment { return m + Moment(d) }

// Sub returns how long after o m is.
func (m Moment) Sub(o Moment) time.Duration { return time.Duration(m - o) }

// Before says whether m is earlier than o.
func (m Moment) Before(o Moment) bool { return m < o }

// After says whether m is later than o.
func (m Moment) After(o Moment) bool { return m > o }

// Stint is one unbroken run of a host's lease: it begins with nothing held and,
// once its lease has ended, never comes back. N counts up within one boot.
type Stint struct {
	Host string `json:"host"`
	Boot string `json:"boot"`
	N    uint64 `json:"n"`
}

// Succeeds says whether s is a later stint of the same boot of the same host:
// whoever says so has thereby ended every earlier stint itself.
func (s Stint) Succeeds(o Stint) bool {
	return s.Host == o.Host && s.Boot == o.Boot && s.N > o.N
}
