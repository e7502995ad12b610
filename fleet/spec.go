package fleet

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Spec is a site's file, read, completed from the catalogue and checked. Lists
// are sorted by name, so that equal files give equal values.
type Spec struct {
	Site      string    `json:"site"`
	Networks  []Network `json:"networks"`
	Hosts     []Host    `json:"hosts"`
	Addresses []Address `json:"addresses"`
	Services  []Service `json:"services"`
	Timing    Timing    `json:"timing"`
	Mode      string    `json:"mode"` // "act" or "shadow"
	TLS       TLS       `json:"tls,omitzero"`
	Alarms    []string  `json:"alarms,omitempty"` // webhook URLs
	Operators Operators `json:"operators,omitzero"`
	OpenStack OpenStack `json:"openstack,omitzero"`
	Brakes    Brakes    `json:"brakes"`
	Revision  uint64    `json:"revision"` // of this file in the store; 0 before it was recorded
	// Alone is the other voter of a pair, which has no vote at present because this host
	// goes on without it; "" otherwise. It stands in no file: see Without.
	Alone string `json:"alone,omitempty"`
}

// Network is one of the site's networks. Hosts beat on each network they share.
type Network struct {
	Name string       `json:"name"`
	CIDR netip.Prefix `json:"cidr"`
}

// Host is one machine.
type Host struct {
	Name  string   `json:"name"`
	Roles []string `json:"roles"`
	// Voter hosts carry a member of the store and an ear. An arbiter is a voter
	// with the role "arbiter" alone: it runs no services but other arbiters.
	Voter bool `json:"voter"`
	// Addresses maps a network's name to this host's own address on it.
	Addresses map[string]netip.Addr `json:"addresses"`
	Fence     []Level               `json:"fence,omitempty"`
	Watchdog  Watchdog              `json:"watchdog,omitzero"`
	// Kdump is how long after a crash its crash kernel may take until it says that it writes a
	// dump: so long it is not switched off. 0: it has none that would say so.
	Kdump time.Duration `json:"kdump,omitempty"`
}

// HasRole says whether the host has at least one of the roles.
func (h *Host) HasRole(roles ...string) bool {
	for _, want := range roles {
		for _, have := range h.Roles {
			if have == want {
				return true
			}
		}
	}
	return false
}

// Level is the devices that hold a host's power together: all must prove it off, as
// both plugs of a host with two feeds. A host's first level is tried first, and the
// next one when it proved nothing.
type Level []Fence

// Name is the level's drivers, for people.
func (l Level) Name() string {
	var names []string
	for _, f := range l {
		names = append(names, f.Driver)
	}
	return strings.Join(names, " and ")
}

// Fence is one device that holds a host's power. Parameters stay raw until the driver
// reads them; nobody else knows its fields.
type Fence struct {
	Driver string            `json:"driver,omitempty"`
	Params map[string]string `json:"params,omitempty"`
	// At is where it stands in the site's file, below "fence": "", "0" or "0/1".
	At string `json:"-"`
}

// Address is a virtual address: at every moment at most one host speaks for it.
type Address struct {
	Name    string     `json:"name"`
	Addr    netip.Addr `json:"addr"`
	Network string     `json:"network"`
	Prefer  []string   `json:"prefer,omitempty"` // hosts, best first
	// With names services that must be ready where the address lives.
	With []string `json:"with,omitempty"`
}

// Thing is the name under which the address is held.
func (a Address) Thing() string { return "address/" + a.Name }

// Mode says how many copies of a service run.
type Mode string

// The modes.
const (
	ActiveActive  Mode = "active/active"
	ActivePassive Mode = "active/passive"
	// Promoted: a copy runs on every home, and exactly one of them is promoted.
	Promoted Mode = "promoted"
)

// Exclusive says whether one host at a time has the right to something of a service in
// this mode: to run it, or to be promoted.
func (m Mode) Exclusive() bool { return m == ActivePassive || m == Promoted }

// OnFailure says what follows when restarting did not help.
type OnFailure string

// What may follow a failure.
const (
	FailMove  OnFailure = "move"
	FailFence OnFailure = "fence"
	FailBlock OnFailure = "block"
)

// Service is one service of the site: a row of the catalogue as the site's file
// adjusted it. Traits, not names, drive the plan.
type Service struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // a row of service.Kinds: "systemd", "compute", "exec", "galera", "garbd", "rabbitmq", "ocf"
	Mode Mode   `json:"mode"`
	Why  string `json:"why"` // why this mode, in one sentence for the operator
	// Units are the unit's names on the distributions we know; the first one
	// that exists on a host is taken.
	Units []string `json:"units,omitempty"`
	// Start, Stop and Status are argument vectors of kind "exec". Status exits 0
	// when running, 3 when stopped (as LSB and OCF users expect).
	Start  []string `json:"start,omitempty"`
	Stop   []string `json:"stop,omitempty"`
	Status []string `json:"status,omitempty"`
	// Roles and Hosts say where it may live; Hosts, when given, wins.
	Roles []string `json:"roles,omitempty"`
	Hosts []string `json:"hosts,omitempty"`
	// Prefer orders the hosts of an active/passive service, best first.
	Prefer []string `json:"prefer,omitempty"`
	// After names services that must be ready, here or anywhere, before this one
	// is started. It says nothing of stops: each service bears the loss of another.
	After []string `json:"after,omitempty"`
	// With names addresses ("address/x") or services ("service/y") that it must
	// share its host with.
	With  []string `json:"with,omitempty"`
	Check Check    `json:"check,omitzero"`
	// Listen puts the service behind HAProxy.
	Listen    Listen    `json:"listen,omitzero"`
	Restarts  Restarts  `json:"restarts"`
	OnFailure OnFailure `json:"on_failure"`
	// Params are read by the kind alone (galera: user, password_file ...).
	Params map[string]string `json:"params,omitempty"`
}

// Thing is the name under which an active/passive service is held, and of one in mode
// promoted the right to be.
func (s Service) Thing() string { return "service/" + s.Name }

// Restarts allows Count restarts Within a span before OnFailure follows.
type Restarts struct {
	Count  int           `json:"count"`
	Within time.Duration `json:"within"`
}

// Check is how a service is asked whether it serves: Every so often, and an answer
// is awaited until the Deadline; a site's file that says neither means 1 s.
type Check struct {
	Kind     string        `json:"kind,omitempty"` // "tcp", "http", "memcached", or "" for the unit's state and what its kind asks by itself
	Port     int           `json:"port,omitempty"`
	Path     string        `json:"path,omitempty"`   // http
	Expect   []int         `json:"expect,omitempty"` // http status codes; empty means any below 500
	Every    time.Duration `json:"every,omitempty"`
	Deadline time.Duration `json:"deadline,omitempty"`
}

// Listen is a service's face in HAProxy: bind on the named addresses (and, when
// Local, on 127.0.0.1) at Port, pass on to each host's own copy at Backend.
type Listen struct {
	Port      int      `json:"port,omitempty"`
	Backend   int      `json:"backend,omitempty"`
	Protocol  string   `json:"protocol,omitempty"` // "http" or "tcp"
	Addresses []string `json:"addresses,omitempty"`
	Local     bool     `json:"local,omitempty"`
	TLS       bool     `json:"tls,omitempty"`
	// Writer: one server at a time, the others as ordered backups (Galera).
	Writer bool `json:"writer,omitempty"`
	// Writers are further ports, by name, each with a writer of its own: the clients of
	// each keep to one server, and the servers share the work.
	Writers map[string]int `json:"writers,omitempty"`
	// Network is the one over which HAProxy reaches the servers.
	Network string `json:"network,omitempty"`
}

// TLS names the site's certificate (PEM, certificate and key in one file) that
// HAProxy presents.
type TLS struct {
	Certificate string `json:"certificate,omitempty"`
}

// Operators is what the site says of those who come with an operator's certificate.
type Operators struct {
	// Revoked are the names whose certificates are refused, whenever they were made.
	Revoked []string `json:"revoked,omitempty"`
}

// Brakes bound how much may be fenced at once: many lost at once is our own
// blindness until shown otherwise.
type Brakes struct {
	Share int `json:"share"` // per cent of the hosts
	Count int `json:"count"`
	// Roles and Zones bound it further, for the hosts of one role and for the computes of one of
	// Nova's availability zones, by its name.
	Roles map[string]Brake `json:"roles,omitempty"`
	Zones map[string]Brake `json:"zones,omitempty"`
}

// Brake bounds how many of some hosts may be fenced at once; 0 is no bound.
type Brake struct {
	Share int `json:"share,omitempty"` // per cent of them
	Count int `json:"count,omitempty"`
}

// Exceeded says whether so many of all are too many.
func (b Brake) Exceeded(lost, all int) bool {
	return b.Count > 0 && lost > b.Count || b.Share > 0 && lost*100 > b.Share*all
}

// String says what it allows.
func (b Brake) String() string {
	switch {
	case b.Count == 0:
		return fmt.Sprintf("%d%%", b.Share)
	case b.Share == 0:
		return strconv.Itoa(b.Count)
	}
	return fmt.Sprintf("%d, or %d%%,", b.Count, b.Share)
}

// Site is the bound for all hosts.
func (b Brakes) Site() Brake { return Brake{Share: b.Share, Count: b.Count} }

// Host returns the host of that name.
func (s Spec) Host(name string) (Host, bool) {
	for i := range s.Hosts {
		if s.Hosts[i].Name == name {
			return s.Hosts[i], true
		}
	}
	return Host{}, false
}

// Address returns the address of that name.
func (s Spec) Address(name string) (Address, bool) {
	for i := range s.Addresses {
		if s.Addresses[i].Name == name {
			return s.Addresses[i], true
		}
	}
	return Address{}, false
}

// Service returns the service of that name.
func (s Spec) Service(name string) (Service, bool) {
	for i := range s.Services {
		if s.Services[i].Name == name {
			return s.Services[i], true
		}
	}
	return Service{}, false
}

// Voters returns the names of the hosts that carry a store member and an ear.
func (s Spec) Voters() []string {
	var out []string
	for i := range s.Hosts {
		if s.Hosts[i].Voter {
			out = append(out, s.Hosts[i].Name)
		}
	}
	return out
}

// Homes returns the names of the hosts on which a service may live.
func (s Spec) Homes(v Service) []string {
	if len(v.Hosts) > 0 {
		return v.Hosts
	}
	var out []string
	for i := range s.Hosts {
		if h := &s.Hosts[i]; h.HasRole(v.Roles...) {
			out = append(out, h.Name)
		}
	}
	return out
}

// Majority is how many of n make a quorum.
func Majority(n int) int { return n/2 + 1 }

// ServerNetwork is the network over which HAProxy reaches a service's servers: the
// one that it names, else management, else the first.
func (s Spec) ServerNetwork(v Service) string {
	if v.Listen.Network != "" {
		return v.Listen.Network
	}
	for _, n := range s.Networks {
		if n.Name == "management" {
			return n.Name
		}
	}
	if len(s.Networks) > 0 {
		return s.Networks[0].Name
	}
	return ""
}
