package fleet

import "time"

// StoreState is what is wrong with a voter's member of the store, or what it lacks, as its
// own host's agent finds it; zero: nothing is.
type StoreState struct {
	Phase string `json:"phase"` // one of those below
	Why   string `json:"why"`
	// Since is by its own host's clock, which is Report.Wall too.
	Since time.Time `json:"since"`
}

// What can be wrong with a member of the store, and what it can lack.
const (
	StoreDown    = "down"    // it does not answer its agent, or does not serve yet
	StoreAlone   = "alone"   // it serves nobody: it knows of no leader
	StoreFull    = "full"    // it takes no more data, and so nothing can be decided
	StoreCorrupt = "corrupt" // its data differ from those of the others
	StoreLearns  = "learns"  // it serves, and has no vote yet
)

// Follows returns s as it follows another state of the same member at now: what has
// been wrong in one way has been so since the same time.
func (s StoreState) Follows(before StoreState, now time.Time) StoreState {
	s.Since = now.Round(0) // as it travels
	switch s.Phase {
	case "":
		return StoreState{}
	case before.Phase:
		s.Since = before.Since
	}
	return s
}
