package fleet

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// What a server's owner says of its recovery, in metadata beside Masakari's HA_Enabled. Nova
// shows them to the administrator, and each counts among the servers of its own project only:
// nobody holds up another's.
const (
	// MetaPriority is a whole number; the higher one goes first, 0 where nothing is said.
	MetaPriority = "HA_Priority"
	// MetaGroup is the restart group that the server belongs to.
	MetaGroup = "HA_Group"
	// MetaAfter names restart groups, separated by commas, that must be ready first.
	MetaAfter = "HA_After"
	// MetaReady is the question by which it is seen that the server is ready: tcp:PORT,
	// http:PORT/PATH, or agent, its guest agent.
	MetaReady = "HA_Ready"
	// MetaAlive is the question by which it is seen that a running server is alive: agent, or agent:DURATION
	// for how long its guest agent must be silent before Nova reboots it.
	MetaAlive = "HA_Alive"
)

// CheckAgent is the kind of the question to a guest agent: the compute on which the server is asks it.
const CheckAgent = "agent"

// Gate is the question of MetaReady: those that come after the server's group wait until it is answered.
type Gate struct {
	Server string `json:"server"`
	Check  Check  `json:"check"`
	// Addresses are the server's own in the networks of OpenStack.Ready; one of them must answer. Of CheckAgent none.
	Addresses []netip.Addr `json:"addresses"`
}

// RestartGroup is the record of a restart group that is waited for: since when is for every leader
// the same. It is there only while somebody waits for it.
type RestartGroup struct {
	Project string    `json:"project,omitempty"`
	Name    string    `json:"name"`
	Since   time.Time `json:"since"`
	// Ready are the evacuations (Evacuation.Key) of its servers whose gate has been answered since.
	Ready []string `json:"ready,omitempty"`
	// Late: it was not ready in time, and those after it go on without it.
	Late bool `json:"late,omitempty"`
}

// Key names the group among those of all projects.
func (g RestartGroup) Key() string { return g.Project + "/" + g.Name }

// Reserve is the record that a compute which is kept empty was taken into use: first it is
// written down, then the compute joins the aggregates of the one that is lost, then it is
// enabled; and all of it backwards when it is given back.
type Reserve struct {
	Host string `json:"host"`
	// For is the compute whose servers did not fit elsewhere, Boot the one that is dead.
	For  string `json:"for"`
	Boot string `json:"boot"`
	// Added are the ids of the aggregates that it joins for this, and leaves again.
	Added []string  `json:"added,omitempty"`
	Since time.Time `json:"since"`
	// Back is since when it is being given back; zero while it is in use.
	Back time.Time `json:"back,omitzero"`
}

// Aggregate is Nova's: a set of computes, by which the scheduler chooses. One with a zone
// makes the availability zone of its hosts.
type Aggregate struct {
	ID    string   `json:"id"`
	Name  string   `json:"name"`
	Zone  string   `json:"zone,omitempty"`
	Hosts []string `json:"hosts,omitempty"`
	// Says is what somebody has said of it.
	Says map[string]string `json:"says,omitempty"`
}

// Has says whether a host is in the aggregate.
func (a Aggregate) Has(host string) bool { return slices.Contains(a.Hosts, host) }

// LockReason is how the reason of each lock begins that Mainstay sets on a server.
const LockReason = "mainstay: "

// Ours says whether it is Mainstay that has locked the server.
func (s Server) Ours() bool { return s.Locked && strings.HasPrefix(s.LockedFor, LockReason) }

// What is known of the lock of a server on its way (Evacuation.Lock).
const (
	LockAsked = "asked" // Nova was, or will be, asked for it
	LockSeen  = "seen"  // it was seen, and no other request for it can come
)

// The steps of VerbCloud by which servers are kept from being disturbed, and reserves used.
const (
	CloudLock   = "lock"   // a server that nobody has locked
	CloudUnlock = "unlock" // one that is locked with LockReason, and no other
	CloudJoin   = "join"   // put the compute into the aggregate Order.With
	CloudPart   = "leave"  // and take it out
)
