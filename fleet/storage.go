package fleet

import (
	"maps"
	"slices"
)

// EveryNetwork stands among the networks that a compute lost for all of them at once: nobody hears
// it, and its storage heartbeat goes on.
const EveryNetwork = "all"

// StorageWord is what a compute says of the storage heartbeats: of its own, and of those of others
// that it read.
type StorageWord struct {
	// Failed says why its own is not written at present.
	Failed string `json:"failed,omitempty"`
	// Unseen are those of the computes whose heartbeat it looks at from time to time that it does
	// not see beat: they write elsewhere, or not at all.
	Unseen []string `json:"unseen,omitempty"`
	// Writes is, by host, the boot whose heartbeat it was asked to read, and has seen advance
	// since then and a moment ago. Who is not in it may write all the same.
	Writes map[string]string `json:"writes,omitempty"`
}

// Equal says whether both say the same.
func (s StorageWord) Equal(o StorageWord) bool {
	return s.Failed == o.Failed && slices.Equal(s.Unseen, o.Unseen) && maps.Equal(s.Writes, o.Writes)
}
