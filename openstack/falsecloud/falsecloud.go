// Package falsecloud plays a whole OpenStack in memory: a Keystone and a Nova with its
// scheduler, its computes and their guests, behind the real API, fast at 1,000 computes and
// 20,000 servers. It exists to be lost: computes die, controllers lose messages, answers
// vanish after the deed.
//
//	POST /identity/v3/auth/tokens                     log in
//	GET  /identity/v3/auth/tokens                     whose a token is
//	GET  /identity/v3/projects                        find a project by name
//	GET  /compute/v2.1/                               the versions
//	GET  /compute/v2.1/os-services                    computes, each as Nova sees it
//	PUT  /compute/v2.1/os-services/ID                 disable, enable, force down, lift
//	GET  /compute/v2.1/os-hypervisors/detail          their memory
//	GET  /compute/v2.1/servers/detail, servers/ID     servers
//	POST /compute/v2.1/servers/ID/action              evacuate, live-migrate, start, stop, reboot, reset, createImage, rebuild
//	GET  /image/v2/images, /image/v2/images/ID        images
//	DELETE /image/v2/images/ID                        one of them
//	GET  /compute/v2.1/os-migrations                  the record of evacuations and live migrations
//	GET  /compute/v2.1/os-aggregates, os-server-groups
//	GET  /placement/allocation_candidates             the room on all computes
//	GET  /placement/allocations/ID                    what a server was given
//	GET  /compute/v2.1/os-aggregates/ID               one of them
//	POST /compute/v2.1/os-aggregates/ID/action        add a host, take one out
//
// There are two truths in it, as there are outside: what Nova has on record, which the API
// tells, and what runs where, which Runs and Audit tell. It behaves as a real Nova (Zed) was
// measured to (see evacuate.go), not as one would wish: it takes a second evacuation and
// spoils the server, says active and no task while nothing has been done, never times out,
// and lets a dead host's queue wait for its return. contract_test.go of the package above
// holds it and real ones to one list of promises, so that it does not lie.
//
// Time is its caller's: with a Clock that a test moves nothing has to be waited for.
package falsecloud

import (
	"container/heap"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config describes a cloud. The zero value is one of Zed.
type Config struct {
	// Now is the clock of everything but the network; nil: the real one.
	Now func() time.Time
	// User and Password log in with the role admin; "admin" and "secret" if empty. The user
	// "member" has the same password and no role admin.
	User, Password string
	// Newest is the newest microversion, the second number of 2.x; 93 (Zed) if 0.
	Newest int
	// Projects are Keystone's, name to id.
	Projects map[string]string
	// Endpoints are further ones of the catalogue, type to URL.
	Endpoints map[string]string
	// Regions each have an endpoint of Nova; RegionOne if nil.
	Regions []string
	// DownAfter is Nova's service_down_time, 60 s if 0. Schedule, 0.5 s if 0, is from an
	// evacuation's answer to its message to a compute; Work, 2.5 s if 0, is what a compute
	// takes for each, one after another; Boot, 10 s if 0, is from power to a nova-compute
	// that works. RPC, a minute if 0, is how long Nova calls a compute that is silent.
	DownAfter, Schedule, Work, Boot, RPC time.Duration
	// Page is Nova's max_limit; 1000 if 0.
	Page int
}

// Clock is a clock that is moved by hand.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock starts a clock at a fixed time.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)} }

// Now reads the clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock on. What is due by then happens, in order, at the next call of
// the cloud's.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Server describes a server that is to exist.
type Server struct {
	Name, Project string
	Host          string
	State         string            // "active" if empty
	Zone          string            // that its owner asked for
	RAM, VCPUs    int               // 512 MiB and 1 if 0
	Disk          int               // GiB of its flavor, 1 if 0
	Extra         map[string]string // extra specs of its flavor
	Volume        bool
	Locked        bool
	LockedFor     string
	Metadata      map[string]string
	Addresses     []string // floating
	Tags          []string
}

// server is one server, as Nova has it on record.
type server struct {
	Server
	id               string
	task, fault      string
	created, updated time.Time
	deleted          bool
	believed         bool   // to run, though its guest has crashed
	launch           int    // counts up: a later event of an earlier launch is void
	image            string // that it was built from last; "" the original one
}

// compute is one compute host, and what runs on it in truth.
type compute struct {
	name, zone, id, reason string
	ram, used              int
	shape                  Shape
	disabled, forced       bool
	lost                   bool // its cell is away

	powered, heard, ready bool
	last                  time.Time // when its nova-compute last reported
	life                  int       // counts up with each loss of power
	queue                 []*message
	busy                  *message
	local                 bool               // its servers' disks are on it alone
	disks                 map[string]int     // what is on these
	servers               map[string]*server // on record
	guests                map[string]bool    // in truth
}

// Cloud is an http.Handler. Close it to end requests that hang.
type Cloud struct {
	cfg  Config
	mux  *http.ServeMux
	life context.Context
	end  context.CancelFunc

	mu         sync.Mutex
	now        time.Time // of what happens at present
	due        schedule
	computes   map[string]*compute
	servers    map[string]*server
	halved     int       // so many changes of aggregates are made, and answered as failed
	order      []*server // as they were made
	migrations []*migration
	groups     []*group
	aggregates []Aggregate
	tokens     map[string]string // token -> user
	faults     []*Fault
	calls      map[string]int
	count      int // of all that has an id
	losing     int
	images     []*image
	shared     map[string]int // what is on the disks that all computes share
	failing    int
	spoilt     int
	doubles    []string
}

// New returns an empty cloud.
func New(cfg Config) *Cloud {
	or := func(d *time.Duration, std time.Duration) {
		if *d == 0 {
			*d = std
		}
	}
	or(&cfg.DownAfter, time.Minute)
	or(&cfg.Schedule, 500*time.Millisecond)
	or(&cfg.Work, 2500*time.Millisecond)
	or(&cfg.Boot, 10*time.Second)
	or(&cfg.RPC, time.Minute)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.User == "" {
		cfg.User, cfg.Password = "admin", "secret"
	}
	if cfg.Newest == 0 {
		cfg.Newest = 93
	}
	if cfg.Regions == nil {
		cfg.Regions = []string{"RegionOne"}
	}
	if cfg.Page == 0 {
		cfg.Page = 1000
	}
	c := &Cloud{cfg: cfg, computes: map[string]*compute{}, servers: map[string]*server{}, tokens: map[string]string{}, calls: map[string]int{}, shared: map[string]int{}}
	c.images = []*image{{id: original, name: "cirros", owner: "public", status: "active"}}
	c.life, c.end = context.WithCancel(context.Background())
	c.routes()
	return c
}

// Close ends requests that hang.
func (c *Cloud) Close() { c.end() }

// event is something that will happen.
type event struct {
	at time.Time
	n  int
	do func()
}

type schedule []event

func (s schedule) Len() int { return len(s) }
func (s schedule) Less(i, j int) bool {
	return s[i].at.Before(s[j].at) || s[i].at.Equal(s[j].at) && s[i].n < s[j].n
}
func (s schedule) Swap(i, j int) { s[i], s[j] = s[j], s[i] }

// Push is heap.Interface's.
func (s *schedule) Push(x any) { *s = append(*s, x.(event)) }

// Pop is heap.Interface's.
func (s *schedule) Pop() any {
	old := *s
	e := old[len(old)-1]
	*s = old[:len(old)-1]
	return e
}

// after has f happen d from now.
func (c *Cloud) after(d time.Duration, f func()) {
	c.count++
	heap.Push(&c.due, event{c.now.Add(d), c.count, f})
}

// enter takes the lock and lets everything happen that is due.
func (c *Cloud) enter() (leave func()) {
	c.mu.Lock()
	now := c.cfg.Now()
	for len(c.due) > 0 && !c.due[0].at.After(now) {
		e := heap.Pop(&c.due).(event)
		c.now = e.at
		e.do()
	}
	c.now = now
	return c.mu.Unlock
}

func (c *Cloud) id() string {
	c.count++
	return fmt.Sprintf("%08x-0000-4000-8000-%012x", c.count, c.count)
}

// AddProject makes a project in Keystone.
func (c *Cloud) AddProject(name, id string) {
	defer c.enter()()
	c.cfg.Projects = maps.Clone(c.cfg.Projects)
	if c.cfg.Projects == nil {
		c.cfg.Projects = map[string]string{}
	}
	c.cfg.Projects[name] = id
}

// AddCompute adds a host with so much memory (MiB) in a zone ("" is Nova's "nova").
func (c *Cloud) AddCompute(name, zone string, ram int) {
	defer c.enter()()
	if zone == "" {
		zone = "nova"
	}
	c.computes[name] = &compute{name: name, zone: zone, id: c.id(), ram: ram, shape: roomy, powered: true, heard: true, ready: true,
		servers: map[string]*server{}, guests: map[string]bool{}, disks: map[string]int{}}
}

// AddServer adds a server on its host, which runs it if it is active and the host has power,
// and returns its id.
func (c *Cloud) AddServer(want Server) string {
	defer c.enter()()
	return c.add(want).id
}

func (c *Cloud) add(want Server) *server {
	if want.State == "" {
		want.State = "active"
	}
	if want.RAM == 0 {
		want.RAM, want.VCPUs = 512, 1
	}
	if want.Disk == 0 {
		want.Disk = 1
	}
	s := &server{Server: want, id: c.id(), created: c.now, updated: c.now}
	c.servers[s.id] = s
	c.order = append(c.order, s)
	s.Host = ""
	c.place(s, want.Host)
	if h := c.computes[s.Host]; s.State == "active" && h.powered {
		h.guests[s.id] = true
	}
	return s
}

// Delete deletes a server as its owner would, and says whether there was one.
func (c *Cloud) Delete(id string) bool {
	defer c.enter()()
	s := c.servers[id]
	if s == nil || s.deleted {
		return false
	}
	for _, h := range c.computes {
		delete(h.guests, s.id)
	}
	c.place(s, "")
	s.deleted, s.State, s.task, s.updated = true, "deleted", "", c.now
	return true
}

// Lock locks a server as its owner would, for a reason of theirs: one that is locked stays as
// it is.
func (c *Cloud) Lock(id, reason string) {
	defer c.enter()()
	if s := c.servers[id]; !s.Locked {
		s.Locked, s.LockedFor = true, reason
	}
}

// Unlock takes a lock away, as its owner would.
func (c *Cloud) Unlock(id string) {
	defer c.enter()()
	c.servers[id].Locked, c.servers[id].LockedFor = false, ""
}

// place moves a server's record to a host.
func (c *Cloud) place(s *server, host string) {
	if h := c.computes[s.Host]; h != nil {
		delete(h.servers, s.id)
		h.used -= s.RAM
	}
	s.Host = host
	if h := c.computes[host]; h != nil {
		h.servers[s.id] = s
		h.used += s.RAM
	}
}

// run has a host run a server in truth, and notes if another one does too.
func (c *Cloud) run(s *server, h *compute) {
	for _, other := range c.computes {
		if other != h && other.guests[s.id] {
			c.doubles = append(c.doubles, fmt.Sprintf("%s ran on %s and %s at once", s.Name, other.name, h.name))
		}
	}
	h.guests[s.id] = true
}

// Kill takes a host's power away. Its guests are gone, and nobody is told: Nova finds out by
// its silence.
func (c *Cloud) Kill(host string) {
	defer c.enter()()
	h := c.computes[host]
	if h.reports() {
		h.last = c.now
	}
	h.powered, h.ready = false, false
	h.life++
	h.guests = map[string]bool{}
	if h.busy != nil { // the queue is durable, and the message not yet done with
		h.queue, h.busy = append([]*message{h.busy}, h.queue...), nil
	}
}

// Start gives a host power. Ten seconds later its nova-compute does what waits in its queue,
// even while it is forced down.
func (c *Cloud) Start(host string) {
	defer c.enter()()
	h := c.computes[host]
	h.powered, h.heard, h.ready = true, true, false
	life := h.life
	c.after(c.cfg.Boot, func() {
		if h.life == life && h.powered {
			c.began(h)
		}
	})
}

// Crash ends the process of a server's guest. Nova's record of its power stays as it was until
// its nova-compute, told by libvirt, has it stopped 15 s later.
func (c *Cloud) Crash(id string) {
	defer c.enter()()
	s := c.servers[id]
	h := c.computes[s.Host]
	delete(h.guests, id)
	s.believed = true
	s.launch++
	launch := s.launch
	c.after(15*time.Second, func() {
		if s.launch == launch && h.reports() && s.State == "active" && s.task == "" {
			s.State, s.believed, s.updated = "stopped", false, c.now
		}
	})
}

// Silence cuts a host off: its guests run on, and Nova hears nothing of it.
func (c *Cloud) Silence(host string) {
	defer c.enter()()
	h := c.computes[host]
	if h.reports() {
		h.last = c.now
	}
	h.heard = false
}

// Hear ends Silence.
func (c *Cloud) Hear(host string) {
	defer c.enter()()
	h := c.computes[host]
	h.heard = true
	c.work(h)
}

// LoseCell takes the cell of some hosts out of Nova's reach, or brings it back.
func (c *Cloud) LoseCell(lost bool, hosts ...string) {
	defer c.enter()()
	for _, host := range hosts {
		c.computes[host].lost = lost
	}
}

// DropQueue deletes the queue of a host, as rabbitmqctl does, and says how many messages were in it.
func (c *Cloud) DropQueue(host string) int {
	defer c.enter()()
	h := c.computes[host]
	n := len(h.queue)
	h.queue = nil
	return n
}

// Lose has a controller die with the messages of the next n evacuations: accepted, and
// never carried out.
func (c *Cloud) Lose(n int) {
	defer c.enter()()
	c.losing = n
}

// ExpireTokens makes all tokens worthless.
func (c *Cloud) ExpireTokens() {
	defer c.enter()()
	clear(c.tokens)
}

// Rename has a user log in with another password from now on.
func (c *Cloud) Rename(password string) {
	defer c.enter()()
	c.cfg.Password = password
}

// Runs says on which hosts each server runs in truth, sorted; a server that runs nowhere has
// an empty list.
func (c *Cloud) Runs() map[string][]string {
	defer c.enter()()
	out := map[string][]string{}
	for id, s := range c.servers {
		if !s.deleted {
			out[id] = []string{}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.computes)) {
		for id := range c.computes[name].guests {
			out[id] = append(out[id], name)
		}
	}
	return out
}

// Destroy ends a server's guest on a host behind Nova's back, as virsh does.
func (c *Cloud) Destroy(id, host string) {
	defer c.enter()()
	delete(c.computes[host].guests, id)
}

// Audit says what is wrong in truth, or on record: a server that ran twice at once, one that
// is active and does not run exactly once where Nova has it, one that is stopped and runs, and
// one that is in neither state. Nothing said: every server is as it should be.
func (c *Cloud) Audit() []string {
	runs := c.Runs()
	defer c.enter()()
	found := slices.Clone(c.doubles)
	for _, s := range c.order {
		on := strings.Join(runs[s.id], " and ")
		if on == "" {
			on = "nowhere"
		}
		switch {
		case s.deleted:
		case s.State == "active" && s.task == "" && on == s.Host, s.State == "stopped" && s.task == "" && on == "nowhere":
		default:
			found = append(found, fmt.Sprintf("%s is %s/%s on %s by Nova's record, and runs %s", s.Name, s.State, s.task, s.Host, on))
		}
	}
	return found
}

// Calls says how many requests came, by method and kind: "GET servers/detail".
func (c *Cloud) Calls() map[string]int {
	defer c.enter()()
	return maps.Clone(c.calls)
}

// Evacuations is how many of them Nova has taken, of all servers.
func (c *Cloud) Evacuations() int {
	defer c.enter()()
	n := 0
	for _, m := range c.migrations {
		if m.sort == "evacuation" {
			n++
		}
	}
	return n
}
