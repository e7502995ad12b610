package fleet

import "time"

// Mirror is what the kernel says of a copy whose data it writes to others as well (DRBD):
// its peers, by their hosts' names. Lists are sorted, their names separated by spaces, so
// that a copy's state can be compared.
type Mirror struct {
	// Even are the peers that have all data of this copy, which is itself up to date, over a
	// connection that stands.
	Even string `json:"even,omitempty"`
	// Lost are those without a connection of whose data the kernel knows nothing.
	Lost string `json:"lost,omitempty"`
	// Frozen: its writes wait for leave to go on without a peer that was lost.
	Frozen bool `json:"frozen,omitempty"`
	// Apart: it waits for no connection any more (StandAlone): it was told so, or has refused
	// the other's data.
	Apart bool `json:"apart,omitempty"`
	// Filling: its own disk is being filled from another's, and holds nothing whole without it.
	Filling bool `json:"filling,omitempty"`
	// Data names what its data are, and Fork, if it was written without a peer, what they
	// were when that began.
	Data string `json:"data,omitempty"`
	Fork string `json:"fork,omitempty"`
}

// Lag says that one copy of a mirrored service is behind: another was written without it.
type Lag struct {
	// Mark is of the question that it answers, or "word" if it follows from a person's.
	Mark string    `json:"mark"`
	From string    `json:"from"` // the host whose copy was written
	At   time.Time `json:"at"`
}

// LagKey is under which name the lag of a service's copy on a host stands.
func LagKey(service, host string) string { return service + "@" + host }
