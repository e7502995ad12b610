package fleet

import "time"

// Report is one agent's testimony about its own host. An agent sends it to
// every voter, whole, whenever it changes and once a second besides, so that a
// new leader starts with a full World. A host that beats slowly names it in its beats
// instead of saying all of it again (News).
type Report struct {
	Host  string `json:"host"`
	Boot  string `json:"boot"`
	Stint uint64 `json:"stint"`
	Seq   uint64 `json:"seq"` // counts up within one boot
	// News is the number under which beats name what this report says: the Seq of the first
	// that said it, so no two processes of one boot share it. Zero: no beat names it.
	News    uint64 `json:"news,omitempty"`
	Epoch   uint64 `json:"epoch"` // the highest the agent has seen; an inventory counts only in its own epoch
	Version string `json:"version"`
	// Leased says whether the host's lease was alive when it spoke. No right is
	// given to a host without acknowledgements (HOLES 26).
	Leased bool `json:"leased"`
	// Late is g: the lateness of the guard that the host has at present.
	Late time.Duration `json:"late"`
	UUID string        `json:"uuid,omitempty"` // of the machine, as its firmware states it
	// Addresses and Services are keyed by the thing's short name.
	Addresses map[string]AddressState `json:"addresses,omitempty"`
	Services  map[string]ServiceState `json:"services,omitempty"`
	// Links says for each network whether its interface has a carrier and the
	// host's own address, and whether beats over it are acknowledged as those over
	// the others are.
	Links map[string]bool `json:"links,omitempty"`
	// Unanswered says of each network that has a carrier and no acknowledgements what still
	// comes in over it: one of the words below, or "" while that is not known yet.
	Unanswered map[string]string `json:"unanswered,omitempty"`
	// Neighbours is, by network on which no voter lives, what this host says of the others there.
	Neighbours map[string]Neighbourhood `json:"neighbours,omitempty"`
	// GivenUp is, by thing, the highest generation that this stint gave back:
	// the holder's word.
	GivenUp map[string]uint64 `json:"given_up,omitempty"`
	// Severed is, by address, the generation at whose move this host ended its
	// own half-dead TCP to the address.
	Severed map[string]uint64 `json:"severed,omitempty"`
	// Leaving is the last word of an agent that was asked to stop. If its host stays
	// up, what runs there runs on, and nobody watches it.
	Leaving bool `json:"leaving,omitempty"`
	// Fences says, by host, why its fence would prove nothing if this voter used it
	// now: what the examination of an hour ago or less found.
	Fences map[string]string `json:"fences,omitempty"`
	// Refused says why this host's HAProxy goes on with an older configuration than the
	// site's file asks for.
	Refused string `json:"refused,omitempty"`
	// Unrenewed says why this host's certificate ends within three weeks: without one it
	// is out of the site.
	Unrenewed string `json:"unrenewed,omitempty"`
	// Store is what is wrong with this voter's member of the store.
	Store StoreState `json:"store,omitzero"`
	// GoesDown says that the host shuts down or reboots in good order: it takes
	// nothing new, and what it holds shall go elsewhere first.
	GoesDown bool `json:"goes_down,omitempty"`
	// Watchdog is the time-out of the host's watchdog as read back from the device;
	// zero: none is armed.
	Watchdog time.Duration `json:"watchdog,omitempty"`
	// Parted are the open questions of this host's kernel, by SERVICE@HOST: may its promoted
	// copy be written on, though the copy on that host stays behind? Each has a mark of its own.
	Parted map[string]string `json:"parted,omitempty"`
	// Pair is the number of the agreement that this host of a pair goes by.
	Pair uint64 `json:"pair,omitempty"`
	// Guests are the machines of a compute.
	Guests Guests `json:"guests,omitzero"`
	// Dumps are, by host, since when this voter has heard that its crash kernel writes a dump.
	Dumps map[string]time.Time `json:"dumps,omitempty"`
	// Storage is what a compute says of storage heartbeats.
	Storage StorageWord `json:"storage,omitzero"`
	// Routes is the revision of the routing table that HAProxy has been told.
	Routes uint64    `json:"routes,omitempty"`
	Wall   time.Time `json:"wall"`
}

// AddressState is what a host says of one virtual address.
type AddressState struct {
	Generation uint64 `json:"generation"`
	// Phase is "speaking" when the host answers for it, "shut" while the guard
	// is still closed, "foreign" when it was found without our guard.
	Phase string `json:"phase"`
	Why   string `json:"why,omitempty"`
	// Contested names the machine that answers for it as well, by its MAC, and by its name
	// if it is a host of the site; empty: nobody does, or not any more.
	Contested string `json:"contested,omitempty"`
}

// Phases of an address.
const (
	Speaking = "speaking"
	Shut     = "shut"
	Foreign  = "foreign"
)

// ServiceState is what a host says of its copy of a service.
type ServiceState struct {
	// Phase is one of the phases below.
	Phase string `json:"phase"`
	// Ready says whether its check answers; for a galera member, whether it is
	// synced and in the primary component.
	Ready bool `json:"ready"`
	// Hung is set only when a probe is past its deadline AND no request has
	// finished AND the unit used no CPU: one sign alone is a busy service.
	Hung bool `json:"hung,omitempty"`
	// Stuck is set when it has been hung for longer than a busy spell can
	// explain: it is then killed and started anew.
	Stuck      bool   `json:"stuck,omitempty"`
	Generation uint64 `json:"generation,omitempty"` // of the holding it runs under
	Restarts   int    `json:"restarts,omitempty"`   // within the service's window
	Why        string `json:"why,omitempty"`
	Peers      Peers  `json:"peers,omitzero"` // of a kind that forms a cluster of its own
	// Unready is since when it has not been ready, by its own host's clock, which is
	// Report.Wall too; zero while it is.
	Unready time.Time `json:"unready,omitzero"`
	// Role and Score are of a copy in mode promoted: "promoted" unless it surely is not,
	// and how well it could be, in its agent's words; below 1 it could not.
	Role  string `json:"role,omitempty"`
	Score int    `json:"score,omitempty"`
	// Replica is where its data stand, if it shares a history with other copies.
	Replica Replica `json:"replica,omitzero"`
	Mirror  Mirror  `json:"mirror,omitzero"` // of one whose data the kernel mirrors
}

// Follows returns s as it follows another state of the same copy at now: one that was
// not ready then, and is not yet, has been so since the same time, whatever it went
// through meanwhile.
func (s ServiceState) Follows(before ServiceState, now time.Time) ServiceState {
	switch {
	case s.Ready:
		s.Unready = time.Time{}
	case before.Unready.IsZero():
		s.Unready = now.Round(0) // as it travels
	default:
		s.Unready = before.Unready
	}
	return s
}

// The roles of a copy in mode promoted.
const (
	RolePromoted   = "promoted"
	RoleUnpromoted = "unpromoted"
)

// Replica is where one copy stands in a history that several share: a member of a
// Galera cluster, by its own files and its server's words.
type Replica struct {
	UUID string `json:"uuid,omitempty"` // of the history; empty: not known, or Empty
	// Seqno is the newest change that is on its disk, when Known: its storage engine was
	// asked while the server was down, and it has been down since.
	Seqno int64 `json:"seqno,omitempty"`
	Known bool  `json:"known,omitempty"`
	Empty bool  `json:"empty,omitempty"` // it has no data of any cluster
	// View names the primary component that it last saw, Seen who was in it (ids,
	// separated by commas) and Me which of them it was. With these it may go on by
	// itself when all of them are back; without, it can only join others.
	View string `json:"view,omitempty"`
	Seen string `json:"seen,omitempty"`
	Me   string `json:"me,omitempty"`
	// Saved is when the newest backup was taken on this host; zero: none was.
	Saved time.Time `json:"saved,omitzero"`
	Name  string    `json:"name,omitempty"` // what the cluster calls it, while its server runs
	// Drags: it is too slow, and all the others wait for it again and again.
	Drags bool   `json:"drags,omitempty"`
	Part  string `json:"part,omitempty"` // one of the parts below; empty: the server does not say
	// Renounced are the marks (LeftOut) under which it gave up its data, separated by
	// commas, and Aside is where what it gave up last is kept; empty: it was overwritten.
	Renounced string `json:"renounced,omitempty"`
	Aside     string `json:"aside,omitempty"`
}

// Parts that a running member plays.
const (
	PartSynced  = "synced"  // in the primary component, with all of its data
	PartDonor   = "donor"   // in it, and gives its data to another, or was told to lag
	PartJoined  = "joined"  // in it, and catches up
	PartJoining = "joining" // in it, and gets its data from another
	PartApart   = "apart"   // in no primary component: it takes no writes
)

// Phases of a service's copy.
const (
	Absent   = "absent"   // no such unit on this host
	Stopped  = "stopped"  // surely not running
	Starting = "starting" // between order and readiness
	Running  = "running"
	Stopping = "stopping"
	Failed   = "failed"  // the unit failed; surely not running
	Unknown  = "unknown" // could not be asked; never taken for stopped
)

// Heard is what the leader's own ear knows of a host.
type Heard struct {
	Stint Stint `json:"stint"`
	// Last is when a beat last arrived, Nets the same for each network, both by
	// the ear's own clock.
	Last Moment            `json:"last"`
	Nets map[string]Moment `json:"nets,omitempty"`
	// Again says of a network over which it is heard again after a gap since when; a network
	// over which it has been heard for long is not in it.
	Again map[string]Moment `json:"again,omitempty"`
	// Late is the largest g stated since the last promise round.
	Late time.Duration `json:"late"`
	// Leased is the host's own word, in its newest beat, that it is acknowledged.
	Leased bool `json:"leased"`
	// Rival is another boot of the same host that was heard within the last
	// lease: a clone or a returned snapshot. Neither is given anything.
	Rival string `json:"rival,omitempty"`
}

// Round is a question that the leader put to all ears: will you acknowledge
// this stint no more?
type Round struct {
	Stint  Stint  `json:"stint"`
	Number uint64 `json:"number"`
	Asked  Moment `json:"asked"` // by the leader's clock
	// Evict asks the ears to promise at once although the host still beats; the
	// leader then waits W from the last promise itself.
	Evict bool `json:"evict,omitempty"`
	// Promised is when the answer of each ear arrived, by the leader's clock.
	Promised map[string]Moment `json:"promised,omitempty"`
	// Silent is, by ear, for how long it had heard nothing of the boot when it answered,
	// by its own clock: of a question about a whole boot.
	Silent map[string]time.Duration `json:"silent,omitempty"`
	// Over is set once the answers proved that the stint has ended: it stays so.
	Over bool `json:"over,omitempty"`
}

// Condition is what we hold true of a host.
type Condition string

// The conditions of a host.
const (
	Healthy  Condition = "healthy"
	Degraded Condition = "degraded" // heard, but not over every network
	Suspect  Condition = "suspect"  // three beats missed; reversible
	Lapsed   Condition = "lapsed"   // its stint is over: it may not speak for an address
	Dead     Condition = "dead"     // its boot is proved dead
	Unheard  Condition = "unheard"  // nothing heard of it since this leader began
	Offline  Condition = "offline"  // silent after its farewell, and holds nothing
)

// What comes in over a network on which no voter answers a host.
const (
	HearsNothing = "nothing"
	HearsOthers  = "others" // something, and no voter's beats
	HearsBeats   = "beats"  // a voter's beats
)

// Verdict is what judge holds true, and on whose word.
type Verdict struct {
	Host      string    `json:"host"`
	Condition Condition `json:"condition"`
	Stint     Stint     `json:"stint"`
	// Silent lists the networks over which the host is not heard.
	Silent    []string `json:"silent,omitempty"`
	Witnesses []string `json:"witnesses,omitempty"`
	Why       string   `json:"why"`
}

// Verb names what an order asks for.
type Verb string

// All verbs.
const (
	VerbClaim   Verb = "claim"   // speak for an address
	VerbRelease Verb = "release" // give an address back
	VerbSever   Verb = "sever"   // end this host's own TCP to a moved address
	VerbStart   Verb = "start"
	VerbStop    Verb = "stop"
	VerbRestart Verb = "restart"
	VerbTend    Verb = "tend"    // take a step that the service's kind knows (Order.Step)
	VerbPromote Verb = "promote" // a copy in mode promoted
	VerbDemote  Verb = "demote"
	VerbFence   Verb = "fence"    // power a host off and prove it
	VerbConfirm Verb = "confirm"  // ask once more whether a fenced host is off
	VerbPowerOn Verb = "power-on" // after what was taken from it has arrived
	VerbRoute   Verb = "route"    // tell HAProxy which servers take traffic
	VerbRead    Verb = "read"     // another compute's storage heartbeat, for a while, and report whether it goes on
)

// Order is one idempotent instruction to one host. The agent refuses a lower
// epoch, another boot or stint, and a generation it has given up.
type Order struct {
	Key        string   `json:"key"` // the same deed always has the same key
	Try        int      `json:"try"` // a copy of one try, over another network, is the same deed
	Verb       Verb     `json:"verb"`
	To         string   `json:"to"`
	Boot       string   `json:"boot,omitempty"`
	Stint      uint64   `json:"stint,omitempty"`
	Epoch      uint64   `json:"epoch"`
	Thing      string   `json:"thing,omitempty"`
	Generation uint64   `json:"generation,omitempty"`
	Target     Stint    `json:"target,omitzero"` // of fence, confirm, power-on
	Level      int      `json:"level,omitempty"` // of the host's fence, counted from 0
	Routes     Routes   `json:"routes,omitzero"` // of route
	Step       string   `json:"step,omitempty"`  // of tend: one of the steps in peers.go; of cloud: one in cloud.go
	With       string   `json:"with,omitempty"`  // of tend: the cluster's name of the node that the step needs, or the mark of renounce; of a database's start: of the one that gives its data; of go-on and even: the other host; of evacuate: where to, "" leaves it to Nova; of join and leave: the aggregate's id; of purge: the queue
	Mark       string   `json:"mark,omitempty"`  // of go-on: of the question that it answers; of snapshot: the snapshot's; of evacuate: MarkStopped, or none
	Why        string   `json:"why"`
	Because    []string `json:"because,omitempty"` // ids of the events behind it
	// Watchdog is the surety under which something is given: a host whose watchdog is
	// not armed, or waits longer, refuses.
	Watchdog time.Duration `json:"watchdog,omitempty"`
}

// Routes is the routing table: for each service behind HAProxy, each host's
// server and what it may take.
type Routes struct {
	Revision uint64                      `json:"revision"`
	Servers  map[string]map[string]Route `json:"servers,omitempty"` // service -> host
}

// Route is the state of one server in the rotation.
type Route string

// The routes.
const (
	RouteReady  Route = "ready"  // takes traffic
	RouteBackup Route = "backup" // a writer's stand-in: no traffic until chosen
	RouteDrain  Route = "drain"  // finishes what it has, takes nothing new
	RouteOut    Route = "out"    // out of rotation, its sessions left alone (suspect, hung)
	RouteDead   Route = "dead"   // out, and its sessions shut at once
)

// Outcome is what became of an order.
type Outcome string

// The outcomes. A time-out is unknown, and unknown is never proof.
const (
	Done    Outcome = "done"
	Refused Outcome = "refused"
	Broken  Outcome = "failed"
	NoWord  Outcome = "unknown"
)

// Effect is an agent's answer to an order.
type Effect struct {
	Key     string    `json:"key"`
	From    string    `json:"from"`
	Outcome Outcome   `json:"outcome"`
	Why     string    `json:"why,omitempty"`
	Proof   *Proof    `json:"proof,omitempty"` // of fence and confirm
	Wall    time.Time `json:"wall"`
}

// Flight is an order on its way: sent, and perhaps answered.
type Flight struct {
	Order   Order   `json:"order"`
	Sent    Moment  `json:"sent"`
	Tries   int     `json:"tries"`
	Effect  *Effect `json:"effect,omitempty"`
	Arrived Moment  `json:"arrived,omitempty"`
}

// Wait says what cannot happen yet, what it waits for, and the command by which
// a person may help.
type Wait struct {
	About string `json:"about"`
	For   string `json:"for"`
	Help  string `json:"help,omitempty"`
}

// World is all that a decision may rest on.
type World struct {
	Spec     Spec               `json:"spec"`
	Now      Moment             `json:"now"` // of the leader's host
	Wall     time.Time          `json:"wall"`
	Leader   string             `json:"leader"`
	Epoch    uint64             `json:"epoch"`
	Since    Moment             `json:"since"` // when this leader raised its epoch
	State    State              `json:"state"`
	Reports  map[string]Report  `json:"reports,omitempty"`
	Told     map[string]Moment  `json:"told,omitempty"` // when each report arrived
	Heard    map[string]Heard   `json:"heard,omitempty"`
	Rounds   map[string]Round   `json:"rounds,omitempty"`
	Flights  map[string]Flight  `json:"flights,omitempty"`
	Verdicts map[string]Verdict `json:"verdicts,omitempty"`
	Cloud    Cloud              `json:"cloud,omitzero"`
	Capacity Capacity           `json:"capacity,omitzero"`
	Tally    Tally              `json:"tally,omitzero"`
}

// Plan is a decision: what to write down, what may be ordered now, what waits.
type Plan struct {
	// Records are committed in one transaction under the epoch before anything
	// that rests on them is ordered.
	Records []Record `json:"records,omitempty"`
	// Asks are questions to put to every ear, each until answered or stale.
	Asks []Round `json:"asks,omitempty"`
	// Looks are the hosts whose servers a decision needs to know: OpenStack is asked for
	// them until no plan names them.
	Looks []string `json:"looks,omitempty"`
	// Servers are those, by id, about which a decision needs Nova's word, wherever they are.
	Servers []string `json:"servers,omitempty"`
	// Later are servers like these that can wait for the next look that is made anyway.
	Later []string `json:"later,omitempty"`
	// Gates are the questions to servers that others wait for; asked with each look.
	Gates  []Gate  `json:"gates,omitempty"`
	Orders []Order `json:"orders,omitempty"`
	Waits  []Wait  `json:"waits,omitempty"`
	// Stock asks for a new Stock soon: what the Tally says is about to be true no more.
	Stock bool `json:"stock,omitempty"`
	// Wake is the latest Moment at which to decide again although nothing
	// changed; zero means none.
	Wake Moment `json:"wake,omitempty"`
}

// Event is one line of history.
type Event struct {
	ID    string    `json:"id"` // sorts by time: epoch.sequence
	At    time.Time `json:"at"`
	Epoch uint64    `json:"epoch"`
	Kind  string    `json:"kind"` // "verdict", "record", "order", "effect", "wait", "wish", "leader"
	About string    `json:"about"`
	Text  string    `json:"text"`
	By    string    `json:"by"` // the leader's host, or the person
	// Because are the ids of the events that led here; World is the id of the
	// kept World, when the event is a decision.
	Because []string `json:"because,omitempty"`
	World   string   `json:"world,omitempty"`
	// Proof: it tells of a proof of death, and outlives the others.
	Proof bool `json:"proof,omitempty"`
}
