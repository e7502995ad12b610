package fleet

import "slices"

// Neighbourhood is what a host says of the others on a network on which no voter lives.
type Neighbourhood struct {
	// Of are its watchers: the hosts that it asks there, and whose word on it counts.
	Of []string `json:"of"`
	// Unanswered are those of them who answer it no more, or never did.
	Unanswered []string `json:"unanswered,omitempty"`
	// Heard are the hosts that ask this one, Missed those that did and do no more.
	Heard  []string `json:"heard,omitempty"`
	Missed []string `json:"missed,omitempty"`
	// Alone: it hears nobody at all there.
	Alone bool `json:"alone,omitempty"`
}

// Equal says whether two say the same.
func (n Neighbourhood) Equal(o Neighbourhood) bool {
	return n.Alone == o.Alone && slices.Equal(n.Of, o.Of) && slices.Equal(n.Unanswered, o.Unanswered) && slices.Equal(n.Heard, o.Heard) && slices.Equal(n.Missed, o.Missed)
}
