package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// OpenStack says how this site's cloud is reached. Where the file says nothing of it,
// no server is ever looked at or moved.
type OpenStack struct {
	// Cloud is the entry of clouds.yaml; its credentials never leave the host.
	Cloud string `json:"cloud,omitempty"`
	// Config is the path of clouds.yaml.
	Config string `json:"config,omitempty"`
	// Leave names projects, by id or name, whose servers are left to their owner: Octavia
	// heals its amphorae itself, and destroys load balancers if they are evacuated (E5).
	Leave []string `json:"leave,omitempty"`
	// Lost says, by network, what follows for a compute that is cut off from it and lives:
	// LossDisable where nothing is said.
	Lost map[string]Loss `json:"lost,omitempty"`
	// Migration is the network over which computes send each other their guests: where that
	// is lost, nothing can be live-migrated.
	Migration string `json:"migration,omitempty"`
	// Reserved are the computes that are kept empty, and disabled, until the servers of a
	// lost one fit nowhere else.
	Reserved []string `json:"reserved,omitempty"`
	// Rebalance says whether what was taken from a lost compute goes back to it.
	Rebalance Rebalance `json:"rebalance,omitempty"`
	// Ready are the networks of servers' addresses that voters reach and may ask whether a
	// server is ready. An owner chooses the addresses of his networks: asked anywhere, voters
	// would call the site's own services on his word.
	Ready []netip.Prefix `json:"ready,omitempty"`
	// LocalDisks and Snapshots are about servers whose disks are on their host alone.
	LocalDisks LocalDisks `json:"local_disks,omitzero"`
	Snapshots  Snapshots  `json:"snapshots,omitzero"`
	// Storage is a directory on storage that all computes share; "" where there is none: each keeps its
	// storage heartbeat there.
	Storage string `json:"storage_heartbeat,omitempty"`
}

// Loss is what follows when a compute has lost a network, each with those before it.
type Loss string

// What may follow.
const (
	LossAlarm    Loss = "alarm"    // it is told
	LossDisable  Loss = "disable"  // it gets no new servers until the network is back
	LossDrain    Loss = "drain"    // its servers are live-migrated to others
	LossEvacuate Loss = "evacuate" // it is fenced, and its servers are evacuated
)

// Losses are the words for it, the least first.
func Losses() []Loss { return []Loss{LossAlarm, LossDisable, LossDrain, LossEvacuate} }

// Below says whether this is less than that.
func (l Loss) Below(o Loss) bool { return slices.Index(Losses(), l) < slices.Index(Losses(), o) }

// OnLoss is what follows for a compute that has lost a network, or EveryNetwork.
func (o OpenStack) OnLoss(network string) Loss {
	if network == EveryNetwork && o.Storage != "" {
		return cmp.Or(o.Lost[network], LossEvacuate)
	}
	return cmp.Or(o.Lost[network], LossDisable)
}

// Cutoff is the record of the networks that a compute lost, while it was heard over others; or of
// EveryNetwork, while it went on to write to storage.
type Cutoff struct {
	Host     string          `json:"host"`
	Networks map[string]Lost `json:"networks"`
}

// Lost is one of them.
type Lost struct {
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
	// Back is since when it is there again; zero while it is not.
	Back time.Time `json:"back,omitzero"`
	// Before are, of all networks at once, earlier beginnings: it was back in between, for too short a time to
	// count; or it fell silent long before that was written down.
	Before []time.Time `json:"before,omitempty"`
}

// Cloud is what OpenStack says of the site's computes, and of the servers on those that a
// decision is about: an observation like any other, which may be old or absent. That Nova,
// Placement or Keystone is slow or away is a state to plan with, not an error.
type Cloud struct {
	// At is when the newest look began that was answered, by the leader's clock; zero: none was.
	At Moment `json:"at,omitempty"`
	// Away is why the newest look came to nothing; "" if it was answered.
	Away string `json:"away,omitempty"`
	// Computes are the services nova-compute, by Nova's name of their host.
	Computes map[string]Compute `json:"computes,omitempty"`
	// Servers are, by id, those on the hosts of Looked, and those of State.Evacuations and
	// State.Departures.
	Servers map[string]Server `json:"servers,omitempty"`
	// Looked is, by host, when the newest look began that read all servers on it. A host
	// that was not looked at is not a host without servers.
	Looked map[string]Moment `json:"looked,omitempty"`
	// Aggregates are all of Nova's, by id, where the site has computes in reserve.
	Aggregates map[string]Aggregate `json:"aggregates,omitempty"`
	// Gates is what came of the gates that the newest look asked, by server: "" if the
	// answer was as it should be, else why not.
	Gates map[string]string `json:"gates,omitempty"`
	// Images are the snapshots of those of Servers that have, or had, their disk on their
	// host; Glance is why the newest question for them came to nothing, "" if it did not. Nothing else of a look
	// depends on them.
	Images map[string]Images `json:"images,omitempty"`
	Glance string            `json:"glance,omitempty"`
}

// Follows returns c as it follows an earlier look: what c has no answer to stays as it was
// then, each with its own time. Where all was answered, nothing of the earlier one stays.
func (c Cloud) Follows(before Cloud) Cloud {
	if c.Glance != "" || c.Away != "" {
		images := maps.Clone(before.Images)
		for _, id := range Sorted(c.Images) {
			if images == nil {
				images = map[string]Images{}
			}
			images[id] = c.Images[id]
		}
		c.Images = images
	}
	if c.Away == "" {
		return c
	}
	if c.At == 0 {
		c.At, c.Computes, c.Aggregates = before.At, before.Computes, before.Aggregates
	}
	looked, servers := maps.Clone(before.Looked), map[string]Server{}
	if looked == nil {
		looked = map[string]Moment{}
	}
	for _, h := range Sorted(c.Looked) {
		looked[h] = c.Looked[h]
	}
	for _, id := range Sorted(before.Servers) {
		if _, again := c.Looked[before.Servers[id].Host]; !again { // else it is not on it any more
			servers[id] = before.Servers[id]
		}
	}
	for _, id := range Sorted(c.Servers) {
		servers[id] = c.Servers[id]
	}
	c.Looked, c.Servers = looked, servers
	return c
}

// Compute is one nova-compute, as Nova sees it.
type Compute struct {
	ID string `json:"id"` // of the service
	Up bool   `json:"up,omitempty"`
	// Forced: somebody asserted that it is down. Nova checks nothing then, and evacuates.
	Forced   bool   `json:"forced,omitempty"`
	Disabled bool   `json:"disabled,omitempty"` // gets no new servers
	Reason   string `json:"reason,omitempty"`   // why it is disabled, in the words of who did it
	Zone     string `json:"zone,omitempty"`     // its availability zone
	// Servers is how many are on it, and FreeRAM what is left of its memory, MiB, by Nova's
	// count, which knows nothing of overcommitment: it can be below zero, and Nova still place.
	Servers int `json:"servers,omitempty"`
	FreeRAM int `json:"free_ram,omitempty"`
}

// Server is one virtual machine, in Nova's words.
type Server struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// Project is its id, or the name by which OpenStack.Leave has it.
	Project string `json:"project,omitempty"`
	Host    string `json:"host,omitempty"` // where Nova has it; during an evacuation still the dead one
	// State is Nova's vm_state, Task its task_state: "" when nothing is going on, by its own
	// word. That alone says nothing of an evacuation: in a bulk of them servers
	// stood at active with no task for tens of seconds, on the dead host.
	State  string `json:"state"`
	Task   string `json:"task,omitempty"`
	Fault  string `json:"fault,omitempty"`
	Locked bool   `json:"locked,omitempty"`
	// LockedFor is the reason that was given with the lock.
	LockedFor string `json:"locked_for,omitempty"`
	// Zone is the availability zone that its owner asked for, "" any. Releases before 2024.2
	// do not say: the one of its host then stands here.
	Zone   string `json:"zone,omitempty"`
	RAM    int    `json:"ram,omitempty"` // MiB
	VCPUs  int    `json:"vcpus,omitempty"`
	Volume bool   `json:"volume,omitempty"` // it boots from a volume
	// Image is the id of the one that it is built anew from; "" where it boots from a volume.
	Image   string `json:"image,omitempty"`
	Created string `json:"created,omitempty"`
	// Metadata and Tags are the owner's, HA_Enabled among them.
	Metadata map[string]string `json:"metadata,omitempty"`
	Tags     []string          `json:"tags,omitempty"`
	// Addresses are its own, those from outside (floating) first: of one with a gate only.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Migration is the newest of its evacuations that Nova has on record.
	Migration Migration `json:"migration,omitzero"`
	// Live is the newest of its live migrations of the last day. It is asked for where a
	// decision needs it: of servers that are on their way, that Nova calls migrating or in error.
	Live Migration `json:"live,omitzero"`
}

// States of a server that a decision tells apart; there are others.
const (
	ServerActive  = "active"
	ServerStopped = "stopped"
	ServerError   = "error"
	ServerPaused  = "paused"
	// ServerDeleted: it was asked for by its id, and Nova has no such server.
	ServerDeleted = "deleted"
)

// TaskMigrating is a server's task from the answer to a live migration to its end: Nova
// refuses a second one meanwhile.
const TaskMigrating = "migrating"

// Migration is Nova's record of one evacuation, or of one live migration. That of an
// evacuation Nova makes before it answers the request, so it tells whether a request whose
// answer was lost had been accepted; that of a live migration a moment later.
type Migration struct {
	ID     int    `json:"id"` // counts up through one cell of the cloud: compare those of one server only
	Status string `json:"status"`
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"` // "" before the scheduler has chosen
}

// Ended says whether the evacuation is over, and whether it came to anything.
func (m Migration) Ended() (ended, well bool) {
	switch m.Status {
	case "done", "completed", "finished", "confirmed":
		return true, true
	case "error", "failed", "cancelled":
		return true, false
	}
	return false, false
}

// Evacuation is the record of one server's way from a host that is proved dead: written
// before Nova is asked, so that whoever leads next asks nobody twice. Nova does not refuse
// a second evacuation of the same server, and spoils it.
type Evacuation struct {
	Server string `json:"server"`
	Name   string `json:"name,omitempty"`
	From   string `json:"from"`
	Boot   string `json:"boot"` // of From, that is proved dead
	// Was is the server's state before: one that was stopped stays so.
	Was string `json:"was"`
	// Try counts the requests, To is where the newest one asked Nova to put it ("": where
	// its scheduler chooses), and After is the newest migration that the server had before
	// it: a later one is this try's.
	Try    int       `json:"try,omitempty"`
	To     string    `json:"to,omitempty"`
	ToBoot string    `json:"to_boot,omitempty"` // of To, when it was named
	After  int       `json:"after,omitempty"`
	Epoch  uint64    `json:"epoch,omitempty"` // of the leader that made this try
	At     time.Time `json:"at,omitzero"`
	// Doubt: it was asked for by its epoch's leader, and Nova shows no trace of it.
	Doubt bool `json:"doubt,omitempty"`
	// Tried are the hosts where it failed; Path tells what became of the tries before, and
	// Ended how it ended; "" while it goes on.
	Tried []string `json:"tried,omitempty"`
	Path  []string `json:"path,omitempty"`
	Ended string   `json:"ended,omitempty"`
	// Over is when it ended.
	Over time.Time `json:"over,omitzero"`
	// Pinned is the only compute on which it may be built anew while that one lives: a live
	// migration to it was on its way when From died, and its guest may run there. Nova's compute
	// service there looks, and refuses then.
	Pinned string `json:"pinned,omitempty"`
	// Lock says what is known of the lock that Mainstay puts on it while it moves; "" once
	// that is gone, or none was put there.
	Lock string `json:"lock,omitempty"`
	// Project and Group are those of its restart group, and Gate its question, if it has one.
	Project string `json:"project,omitempty"`
	Group   string `json:"group,omitempty"`
	Gate    *Gate  `json:"gate,omitempty"`
	// Restore is what its disk is restored from, if that was lost with From.
	Restore Restore `json:"restore,omitzero"`
}

// Key names the order of the newest try: no two tries share it.
func (e Evacuation) Key() string { return fmt.Sprintf("evacuate/%s/%s/%d", e.Server, e.Boot, e.Try) }

// VerbCloud asks a host that has the credentials to do one thing in OpenStack
// (Order.Step), about a compute or a server (Order.Thing: "compute/HOST", "server/ID").
const VerbCloud Verb = "cloud"

// The steps of VerbCloud.
const (
	CloudDisable   = "disable"    // give the compute no new servers
	CloudEnable    = "enable"     // and do again
	CloudForceDown = "force-down" // assert that the compute is dead: right after the proof
	CloudLift      = "lift"       // take that back
	CloudEvacuate  = "evacuate"   // to Order.With, or where the scheduler chooses
	// CloudMigrate live-migrates a server to Order.With, or where the scheduler chooses.
	CloudMigrate = "live-migrate"
	CloudStart   = "start"  // a server that is stopped or in error after its host came back
	CloudStop    = "stop"   // one that shall not run
	CloudReboot  = "reboot" // a server whose guest has crashed, from outside; one that Nova has stopped since is started, unless Order.With names the only state in which it may be rebooted
	// CloudReset has Nova write down that the server is in the state Order.With, active or
	// error, and that nothing is going on with it: what ends an evacuation that was spoilt.
	// It touches no guest.
	CloudReset = "reset"
)
