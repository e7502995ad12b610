package fleet

import "time"

// Rebalance says whether servers that Mainstay took from a compute go back once it has returned.
type Rebalance string

// The policies of openstack/rebalance.
const (
	RebalanceNever    Rebalance = "never"    // where nothing is said: a move is a risk
	RebalanceReturned Rebalance = "returned" // they are live-migrated back, one after the other
)

// Rebalances are the words for it.
func Rebalances() []Rebalance { return []Rebalance{RebalanceNever, RebalanceReturned} }

// Displaced is the record of a server that was taken from a compute which has returned since, and
// may be live-migrated back.
type Displaced struct {
	Server string    `json:"server"`
	Name   string    `json:"name,omitempty"`
	From   string    `json:"from"` // where it was
	On     string    `json:"on"`   // where it was brought
	At     time.Time `json:"at"`   // when From was back
	// Wait is how long From must have been back.
	Wait time.Duration `json:"wait,omitempty"`
}

// Regained is the record of a compute that was given back what had been taken from it: were that taken
// again within a day, it is waited for twice as long.
type Regained struct {
	Host string        `json:"host"`
	Wait time.Duration `json:"wait"` // how long it was waited for
	At   time.Time     `json:"at"`   // when one of its servers went back, to the hour
}
