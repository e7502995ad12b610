package fleet

import (
	"fmt"
	"time"
)

// Survey is what OpenStack says of the room on its computes, and of what the servers ask of
// them: an observation, as old as its time, that is made each night and when somebody asks.
type Survey struct {
	At Moment `json:"at"` // when it began, by the leader's clock
	// Whole: all servers were read; else those on the hosts that were asked about, and
	// further members of their groups.
	Whole bool `json:"whole,omitempty"`
	// Away is why Placement did not answer; "" if it did. What is left is then Nova's own
	// count, which knows of no overcommitment, reservation or trait.
	Away       string             `json:"away,omitempty"`
	Rooms      map[string]Room    `json:"rooms"`   // by host
	Servers    map[string]Server  `json:"servers"` // by id
	Needs      map[string]Need    `json:"needs"`   // by the server's id
	Groups     []Group            `json:"groups,omitempty"`
	Aggregates []Aggregate        `json:"aggregates,omitempty"`
	Images     map[string][]Image `json:"images,omitempty"` // by server: the snapshots of local disks
	Glance     string             `json:"glance,omitempty"` // why Glance did not answer, where it was asked
	Requests   int                `json:"requests"`         // how many it took
}

// The resource classes of Placement that every compute has.
const (
	ClassVCPU   = "VCPU"
	ClassPCPU   = "PCPU" // a processor for one server alone (hw:cpu_policy)
	ClassMemory = "MEMORY_MB"
	ClassDisk   = "DISK_GB"
)

// Room is what one compute has, by resource class: as Placement counts it, that is with
// what is reserved taken off and the allocation ratio put on, all providers of the host together.
type Room struct {
	// Left is what is not allocated yet; a class that the host does not have is not in it.
	Left map[string]int `json:"left"`
	// Whole is the most of it that one server may have: what the machine itself has
	// (Placement's max_unit).
	Whole  map[string]int  `json:"whole,omitempty"`
	Traits map[string]bool `json:"traits,omitempty"`
}

// Need is what a server asks of the compute that shall run it, by its flavor.
type Need struct {
	Resources map[string]int `json:"resources"` // by resource class
	Required  []string       `json:"required,omitempty"`
	Forbidden []string       `json:"forbidden,omitempty"` // traits
	// Aggregate is what one of the host's aggregates must say of itself.
	Aggregate map[string]string `json:"aggregate,omitempty"`
	// PCI is the alias of the devices that it is given; they are among Resources where
	// Placement counts them. NUMA is what it asks of the cells of a host's memory. Whether
	// a compute has these left, that compute alone knows otherwise.
	PCI  string `json:"pci,omitempty"`
	NUMA string `json:"numa,omitempty"`
}

// Group is a server group of Nova's with a hard policy.
type Group struct {
	ID      string   `json:"id"`
	Policy  string   `json:"policy"` // affinity or anti-affinity
	Most    int      `json:"most"`   // of anti-affinity: so many members on one host
	Members []string `json:"members"`
}

// The policies that Nova's scheduler keeps, whatever it costs; the soft ones only weigh.
const (
	Affinity     = "affinity"
	AntiAffinity = "anti-affinity"
)

// Span is how long something takes, at the least and at the most.
type Span struct {
	Least time.Duration `json:"least"`
	Most  time.Duration `json:"most"`
}

// Preview answers "what if these hosts died now?"
type Preview struct {
	Hosts []string  `json:"hosts"`
	At    time.Time `json:"at"`
	// Fates are the servers of those hosts in the order in which they would be seen to.
	Fates []Fate `json:"fates"`
	// Unfit, Unsure and Left count those of Fates that would not fit, of which nobody can
	// tell, and that are left to their owner or to a person.
	Unfit  int `json:"unfit"`
	Unsure int `json:"unsure"`
	Left   int `json:"left"`
	// Held is why nothing at all would be done before a person acts: a brake, no fence.
	Held []string `json:"held,omitempty"`
	// First and Last are from the loss of power to the first and to the last server that is
	// active elsewhere, in Nova's words; zero where none moves.
	First Span `json:"first,omitzero"`
	Last  Span `json:"last,omitzero"`
	// How tells how these times come about, Notes what a person should know besides.
	How      []string `json:"how,omitempty"`
	Notes    []string `json:"notes,omitempty"`
	Requests int      `json:"requests"` // to OpenStack
}

// Fate is what would become of one server.
type Fate struct {
	Server string `json:"server"`
	Name   string `json:"name,omitempty"`
	From   string `json:"from"`
	State  string `json:"state"` // one of the words below
	To     string `json:"to,omitempty"`
	// Tries is how many requests it takes: the earlier ones Nova's scheduler would refuse.
	Tries int `json:"tries,omitempty"`
	// Why is why it would not fit, would be left, or cannot be told.
	Why string `json:"why,omitempty"`
	// Snapshot is when that one was made from which its lost disk would be restored.
	Snapshot time.Time `json:"snapshot,omitzero"`
	RTO      Span      `json:"rto,omitzero"` // from the loss of power until it is active elsewhere
}

// What would become of a server.
const (
	FateMoves  = "moves"
	FateUnsure = "unsure" // it has a place by all that is known from outside
	FateUnfit  = "does not fit"
	FateLeft   = "left"
)

// Capacity is which losses of computes can be borne at present: N+k.
type Capacity struct {
	At      time.Time `json:"at,omitzero"`
	Hosts   int       `json:"hosts,omitempty"`
	Servers int       `json:"servers,omitempty"`
	// Short are, by host, the losses that would not fit: of one compute alone.
	Short map[string]Shortage `json:"short,omitempty"`
	// Zones says, by availability zone, how many of its computes can be lost at once.
	Zones    map[string]Bearing `json:"zones,omitempty"`
	Away     string             `json:"away,omitempty"` // why Placement did not answer
	Requests int                `json:"requests,omitempty"`
}

// Shortage is what is lacking when one compute is lost.
type Shortage struct {
	Servers int    `json:"servers"` // so many of its servers would not fit
	First   string `json:"first"`   // the first of them
	Why     string `json:"why"`     // it would not
}

// Bearing is how many of a zone's computes can be lost at once, those that carry most
// first: of K all servers have a place, of K+1 not; of one, whichever it is. Servers that a rule, and
// not want of room, keeps from every other compute are in Capacity.Short and not counted here. Who
// chooses several hosts out of spite may find K that do not fit.
type Bearing struct {
	Hosts int `json:"hosts"`
	K     int `json:"k"`
	// Worst is the host that carries most, in memory.
	Worst string `json:"worst,omitempty"`
}

// Names are the hosts that a name or a pattern such as n[001-040] stands for.
func Names(pattern string) ([]string, error) {
	names, err := expand(pattern)
	if err != nil {
		return nil, fmt.Errorf("%q %w; want a name such as n017, or a pattern such as n[001-040]", pattern, err)
	}
	return names, nil
}
