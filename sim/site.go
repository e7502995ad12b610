package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"mainstay/fleet"
)

// Shape says what site a script is played on.
type Shape struct {
	Timing   string // "rack", "room", "wide" or "slow"
	Voters   int    // c1, c2 ...: controllers
	Hosts    int    // n1, n2 ...: computes
	Networks int    // management, storage, tenant
	// Found lists services as they are found at the beginning, "cinder@c2"; what
	// is not listed runs nowhere.
	Found []string
	// OnFailure and Restarts are those of the active/passive services.
	OnFailure fleet.OnFailure
	Restarts  int
	// Levels is how many power switches every host has, one level each: 1 or 2; 0 is 1.
	Levels int
	// Arbiter makes the last voter one: it runs nothing.
	Arbiter bool
	// Kdump is how long every host's crash kernel may take to speak; 0: they have none.
	Kdump time.Duration
	// Watchdog is the time-out of every host's watchdog; 0: there are none.
	Watchdog time.Duration
	// Clocks is by how many parts in a million the hosts' clocks run fast or slow
	// at most; the arithmetic allows 100,000 between any two.
	Clocks int64
	// Promoted adds a service of which a copy runs on every controller and one is promoted;
	// cinder stands on it.
	Promoted bool
	// Mirror makes the copies of that service one disk, which the promoted one writes.
	Mirror bool
	// Copies is on how many controllers there is one, from c1 on; 0: on all. DRBD 8.4 has two.
	Copies int
	// Cluster gives the controllers a database whose members share one history.
	Cluster bool
	// Brokers gives them a RabbitMQ.
	Brokers bool
	// Servers is how many servers the computes run; 0: there is no OpenStack.
	Servers int
	// Room is how many servers a compute has room for; 0: as many as nobody needs.
	Room int
	// Lost is what follows for a compute that lost a network.
	Lost map[string]fleet.Loss
	// Meta is what the owners of servers say, in words SERVER.KEY=VALUE without the HA_ of
	// the key: s3.Group=db.
	Meta []string
	// Reserved are computes kept in reserve; they have no servers, and all others are in an aggregate.
	Reserved []string
	// Rebalance lets servers go back to computes that returned.
	Rebalance bool
	// Local has the servers' disks on their hosts, with a snapshot every so often and so long a
	// wait for a lost host: EVERY/WAIT; "": they are on shared storage.
	Local string
	// Heartbeat is the network over which the computes reach the storage that they share and beat to, or
	// "san" where it has a way of its own; "": they do not.
	Heartbeat string
	// Apart is a network on which no voter lives; empty: they are on all.
	Apart string
}

// timings are the sets of fleet.Presets and a slow one, in which a second holds
// fewer beats: the arithmetic is the same at every scale.
func timings() map[string]fleet.Timing {
	all := fleet.Presets()
	slow := all["wide"]
	slow.Beat, slow.Lease = 500*time.Millisecond, 3500*time.Millisecond
	slow.Heartbeat, slow.Election = 250*time.Millisecond, 2500*time.Millisecond
	slow.SlowBeat, slow.SlowLease = 2*time.Second, 10*time.Second
	all["slow"] = slow
	return all
}

var networkNames = []string{"management", "storage", "tenant"}

// build makes the site's file of a shape.
func (sh Shape) build() fleet.Spec {
	spec := fleet.Spec{Site: "sim", Timing: timings()[sh.Timing], Mode: "act", Brakes: fleet.Brakes{Share: 40, Count: 3}}
	for i := range sh.Networks {
		spec.Networks = append(spec.Networks, fleet.Network{Name: networkNames[i], CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24)})
	}
	host := func(name, role string, n byte, voter bool) {
		h := fleet.Host{Name: name, Roles: []string{role}, Voter: voter, Addresses: map[string]netip.Addr{}, Fence: []fleet.Level{{{Driver: "redfish"}}}, Kdump: sh.Kdump}
		if sh.Levels > 1 {
			h.Fence = append(h.Fence, fleet.Level{{Driver: "ipmi"}})
		}
		for i := range sh.Networks {
			if voter && networkNames[i] == sh.Apart {
				continue
			}
			h.Addresses[networkNames[i]] = netip.AddrFrom4([4]byte{10, 0, byte(i), n})
		}
		spec.Hosts = append(spec.Hosts, h)
	}
	for i := range sh.Voters {
		role := "controller"
		if sh.Arbiter && i == sh.Voters-1 {
			role = "arbiter"
		}
		host(fmt.Sprintf("c%d", i+1), role, byte(i+1), true)
	}
	for i := range sh.Hosts {
		host(fmt.Sprintf("n%d", i+1), "compute", byte(i+101), false)
	}
	spec.Addresses = []fleet.Address{
		{Name: "internal", Addr: netip.MustParseAddr("10.0.0.200"), Network: "management", Prefer: []string{"c1"}},
		{Name: "public", Addr: netip.MustParseAddr("10.0.1.200"), Network: "storage", With: []string{"keystone"}},
	}
	onFailure := sh.OnFailure
	if onFailure == "" {
		onFailure = fleet.FailMove
	}
	restarts := fleet.Restarts{Count: sh.Restarts, Within: time.Minute}
	if sh.Restarts == 0 {
		restarts.Count = 3
	}
	spec.Services = []fleet.Service{
		{Name: "cinder", Kind: "systemd", Mode: fleet.ActivePassive, Units: []string{"cinder-volume"}, Roles: []string{"controller"}, Prefer: []string{"c2"},
			Restarts: restarts, OnFailure: onFailure},
		{Name: "haproxy", Kind: "systemd", Mode: fleet.ActiveActive, Units: []string{"haproxy"}, Roles: []string{"controller"}},
		{Name: "keystone", Kind: "systemd", Mode: fleet.ActiveActive, Units: []string{"keystone"}, Roles: []string{"controller"},
			Listen: fleet.Listen{Port: 5000, Backend: 5001, Addresses: []string{"public"}}},
	}
	if sh.Promoted {
		spec.Services[0].With = []string{"service/drbd"}
		spec.Services = slices.Insert(spec.Services, 1, fleet.Service{Name: "drbd", Kind: "ocf", Mode: fleet.Promoted, Roles: []string{"controller"}, Restarts: restarts, OnFailure: onFailure})
	}
	for i := range sh.Copies {
		spec.Services[1].Hosts = append(spec.Services[1].Hosts, fmt.Sprintf("c%d", i+1))
	}
	if sh.Cluster {
		spec.Services = append(spec.Services, fleet.Service{Name: "db", Kind: "galera", Mode: fleet.ActiveActive, Units: []string{"mariadb"}, Roles: []string{"controller"},
			Restarts: fleet.Restarts{Count: 60, Within: 10 * time.Minute}})
	}
	if sh.Brokers {
		spec.Services = append(spec.Services, fleet.Service{Name: "mq", Kind: "rabbitmq", Mode: fleet.ActiveActive, Units: []string{"rabbitmq-server"}, Roles: []string{"controller"},
			Restarts: fleet.Restarts{Count: 60, Within: time.Minute}})
	}
	if sh.Servers > 0 {
		spec.OpenStack.Cloud, spec.OpenStack.Lost, spec.OpenStack.Reserved = "sim", sh.Lost, sh.Reserved
		if sh.Rebalance {
			spec.OpenStack.Rebalance = fleet.RebalanceReturned
		}
		if sh.Heartbeat != "" {
			spec.OpenStack.Storage = "/shared"
		}
		if sh.Local != "" {
			every, wait, _ := sh.local()
			spec.OpenStack.LocalDisks = fleet.LocalDisks{Roles: []string{"compute"}, Wait: wait}
			spec.OpenStack.Snapshots = fleet.Snapshots{Every: every, Keep: 2, AtOnce: 2}
		}
		spec.OpenStack.Ready = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		spec.Services = append(spec.Services, fleet.Service{Name: "nova-compute", Kind: "compute", Mode: fleet.ActiveActive, Units: []string{"nova-compute"}, Roles: []string{"compute"},
			Restarts: fleet.Restarts{Count: 60, Within: 10 * time.Minute}})
	}
	if sh.Hosts >= 2 {
		spec.Services = append(spec.Services, fleet.Service{Name: "manila", Kind: "systemd", Mode: fleet.ActivePassive, Units: []string{"manila-share"},
			Hosts: []string{"n1", "n2"}, Restarts: restarts, OnFailure: onFailure})
	}
	return spec
}

// network is one of the site's, with its weather.
type network struct {
	name     string
	low, top at // the delay of a packet
	loss     int
	double   int
	late     int // all three: of a thousand packets
	lateBy   at
}

// calm is how a network is when nothing is wrong.
func (n *network) calm() { n.loss, n.double, n.late = 0, 0, 0 }

// Site is one virtual site.
type Site struct {
	now     at
	skipped at
	queue   queue
	dice    *rand.Rand
	shape   Shape
	spec    fleet.Spec
	timing  fleet.Timing
	hosts   []*host
	names   map[string]*host
	nets    []*network
	// cut[from][to] has a bit set for each network on which no packet gets from
	// one to the other.
	cut     [][]uint8
	quorum  *quorum
	watch   *watch
	told    []string
	count   count
	busy    at // until when something is known to be going on
	skips   bool
	deaf    map[string]bool // HOST/ADDRESS: a claim fails
	foreign map[string]bool // HOST/ADDRESS: another program has it there
	cluster *cluster        // nil: the site has none
	brokers *brokers        // nil: the site has none
	mirror  *mirror         // nil: the site has none
	nova    *nova           // nil: the site has no OpenStack
	shared  map[string]heartbeat
}

// count counts what came up.
type count struct {
	faults map[string]int
	guards map[fleet.Guard]int
	turns  int
	events int
}

func (s *Site) guard(g fleet.Guard) { s.count.guards[g]++ }

// elapsed is the time that people see: what was played and what was skipped.
func (s *Site) elapsed() at { return s.now + s.skipped }

// tell adds a line to the log.
func (s *Site) tell(format string, args ...any) {
	// Whatever is worth a line may have an echo: silence is told of after three beats,
	// and its last consequence follows W after that.
	s.stir(500*time.Millisecond + s.timing.Lease*5/4)
	if s.nova != nil {
		s.stir(3*s.timing.SlowBeat + 500*time.Millisecond)
	}
	e := s.elapsed()
	s.told = append(s.told, fmt.Sprintf("%4d.%03d  %s", e/second, e%second/millisecond, fmt.Sprintf(format, args...)))
}

// stir notes that something goes on, so that the next while is not skipped.
func (s *Site) stir(d time.Duration) { s.busy = max(s.busy, s.now+at(d)) }

func (s *Site) between(low, top at) at {
	if top <= low {
		return low
	}
	return low + at(s.dice.Int64N(int64(top-low)))
}

// chance is true n times in a thousand.
func (s *Site) chance(n int) bool { return n > 0 && s.dice.IntN(1000) < n }

// newSite builds a site with every host off.
func newSite(shape Shape, seed uint64) *Site {
	s := &Site{
		dice: rand.New(rand.NewPCG(seed, 0x6d61696e73746179)), shape: shape, spec: shape.build(), names: map[string]*host{}, deaf: map[string]bool{}, foreign: map[string]bool{}, shared: map[string]heartbeat{},
		count: count{faults: map[string]int{}, guards: map[fleet.Guard]int{}},
	}
	s.timing = s.spec.Timing
	for range s.spec.Networks {
		n := &network{name: networkNames[len(s.nets)], low: 80 * microsecond, top: 600 * microsecond}
		s.nets = append(s.nets, n)
	}
	s.quorum = newQuorum(s)
	s.watch = newWatch(s)
	for i, spec := range s.spec.Hosts {
		h := &host{site: s, name: spec.Name, index: i, voter: spec.Voter, role: spec.Roles[0]}
		h.uuid = fmt.Sprintf("00000000-0000-4000-8000-%012d", i+1)
		h.watchdog = watchdog{host: h, timeout: shape.Watchdog}
		h.bmc = bmc{host: h, uuid: h.uuid, power: true}
		h.second = h.bmc
		if shape.Clocks > 0 {
			h.drift = s.dice.Int64N(2*shape.Clocks+1) - shape.Clocks
		}
		h.agentProcess = process{host: h, name: "agent"}
		h.quorumProcess = process{host: h, name: "quorum"}
		h.links = make([]bool, len(s.nets))
		for k := range h.links {
			h.links[k] = !h.voter || s.nets[k].name != shape.Apart
		}
		s.hosts = append(s.hosts, h)
		s.names[h.name] = h
		s.cut = append(s.cut, make([]uint8, len(s.spec.Hosts)))
	}
	for _, h := range s.hosts {
		h.init()
	}
	if shape.Cluster {
		s.clustered()
	}
	if shape.Brokers {
		s.brokered()
	}
	if shape.Mirror {
		s.mirrored()
	}
	if shape.Servers > 0 {
		s.hosted(shape)
	}
	return s
}

// open says whether a packet gets from one host to another on a network.
func (s *Site) open(from, to *host, net int) bool {
	return s.cut[from.index][to.index]&(1<<net) == 0 && from.links[net] && to.links[net] && from.on && to.on
}

// packet draws a packet's fate: how long it takes, and whether it arrives.
func (s *Site) packet(from, to *host, net int) (at, bool) {
	if !s.open(from, to, net) {
		return 0, false
	}
	n := s.nets[net]
	if n.loss > 0 && s.chance(n.loss) {
		return 0, false
	}
	d := s.between(n.low, n.top)
	if n.late > 0 && s.chance(n.late) {
		d += s.between(0, n.lateBy)
	}
	return d, true
}

// stream carries one request over a connection: it is tried again while the way
// is shut, as TCP does, also after the sender has lost interest; it arrives once
// or never.
func (s *Site) stream(from, to *host, net int, patience at, deliver func()) {
	life, boot := to.agentProcess.life, to.boot
	wait := 200 * millisecond
	end := s.now + patience
	var try func()
	try = func() {
		if !to.on || to.boot != boot || to.agentProcess.life != life {
			return // the connection was reset
		}
		d, ok := s.packet(from, to, net)
		_, back := s.packet(to, from, net)
		if ok && back {
			to.agentProcess.in(d, deliver)
			return
		}
		if s.now+wait > end {
			return
		}
		s.after(wait, try)
		wait *= 2
	}
	try()
}
