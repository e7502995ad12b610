package fleet

import "time"

// Timing holds the durations that the safety arithmetic of docs/DESIGN.md
// section 3 is made of. They belong together: Validate refuses a set that
// breaks one of the inequalities.
type Timing struct {
	// Beat is h: the interval of heartbeats of hosts that can hold exclusive things.
	Beat time.Duration `json:"beat"`
	// Lease is L: how long after the send time of an acknowledged beat a lease lives.
	Lease time.Duration `json:"lease"`
	// SlowBeat and SlowLease are the same for hosts that hold nothing exclusive.
	SlowBeat  time.Duration `json:"slow_beat"`
	SlowLease time.Duration `json:"slow_lease"`
	// Heartbeat is t and Election is E: the store's raft timers.
	Heartbeat time.Duration `json:"heartbeat"`
	Election  time.Duration `json:"election"`
}

// The lateness g of the two guards that end an address without its agent, as
// measured: an nftables element times out at most 9 ms late; valid_lft alone
// lets an address speak up to 1.98 s, so it is counted as 2250 ms.
const (
	GuardLate    = 10 * time.Millisecond
	CoarseLate   = 2250 * time.Millisecond
	SilenceSlack = 10 * time.Millisecond
)

// Presets are the moods a site may choose; each has been measured as a set.
// "rack" wants a quiet network and disks whose fsync stays below 20 ms (p99),
// "room" is the default, "wide" suits slow disks or voters some kilometres apart.
func Presets() map[string]Timing {
	ms := time.Millisecond
	base := Timing{Beat: 50 * ms, Lease: 300 * ms, SlowBeat: time.Second, SlowLease: 5 * time.Second, Heartbeat: 50 * ms, Election: 500 * ms}
	rack, wide := base, base
	rack.Heartbeat, rack.Election = 20*ms, 200*ms
	wide.Beat, wide.Lease, wide.Heartbeat, wide.Election = 200*ms, 1500*ms, 100*ms, 1000*ms
	return map[string]Timing{"rack": rack, "room": base, "wide": wide}
}

// Silence is W: how long an ear must not have heard a stint, by its own clock,
// before it may promise to acknowledge it no more. late is g, the largest
// lateness that the host stated for its guard. The factor 1.1 covers clocks
// that run at different speeds.
func (t Timing) Silence(late time.Duration) time.Duration {
	return t.Lease*11/10 + late + SilenceSlack
}

// LeadLease is how long after the start of a confirmed read the leader may act.
func (t Timing) LeadLease() time.Duration { return (t.Election - 2*t.Heartbeat) * 9 / 10 }

// Promise is how long an ear keeps its word to acknowledge a stint no more, and
// also how long it acknowledges nothing at all after a boot: a round's promises
// are given within L of each other and must all still bind when W has passed
// since the last, as an eviction needs.
func (t Timing) Promise() time.Duration { return t.Silence(GuardLate) + t.Lease }

// Suspect is the silence after which a host's servers leave the rotation.
func (t Timing) Suspect() time.Duration { return 3 * t.Beat }
