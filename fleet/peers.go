package fleet

import "time"

// Peers is what a copy of a service that forms a cluster of its own says of that
// cluster, in the cluster's own names for its nodes (rabbit@c1). Lists are sorted, their
// names separated by spaces, so that a copy's state can be compared.
type Peers struct {
	Self string `json:"self,omitempty"`
	// Members are all whom this node counts as members, itself included.
	Members string `json:"members,omitempty"`
	// Running are those of them that it sees running. A node that is down, or on its way
	// up, names whom it saw running last, itself included: one that is not among them went
	// down before it did. Empty: not known.
	Running string `json:"running,omitempty"`
	// Since is when these, its phase or its readiness last changed, by its host's clock.
	Since time.Time `json:"since,omitzero"`
}

// The steps by which a node is brought back into its cluster, the mildest first.
const (
	// StepJoin takes a node that is a cluster of its own, and holds no message, into
	// the cluster of another.
	StepJoin = "join"
	// StepForceStart starts a node that waits for others which went down later, or may have.
	StepForceStart = "force-start"
	// StepReset sets the node's own data aside, where they are kept, and begins anew: a
	// node that the others have forgotten, or all by a person's word.
	StepReset = "reset"
	// StepReplace has another member forget this node, then resets it and joins it to
	// the others again. Refused if the others know of a queue that lives here alone.
	StepReplace = "replace"
	// StepAbandon is StepReplace by a person's word: such queues are lost.
	StepAbandon = "abandon"
	// StepPurge throws away what waits in the queue Order.With: orders of the past for a
	// host that comes back. A queue that there is not holds nothing.
	StepPurge = "purge"
	// StepRenounce gives up the data of a member without which its cluster was begun, once
	// under each mark, so that it gets all of them from the others when it joins.
	StepRenounce = "renounce"
)

// StepLag tells a member of a database that the others shall not wait for it: it holds
// them up. It takes that back itself once it has kept up for a while.
const StepLag = "lag"
