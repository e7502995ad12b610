package service

import (
	"time"

	"mainstay/fleet"
)

// Catalogue is what we know of each service, by name: what the site's file may
// leave out. Each call returns a fresh copy.
//
// Mode and Why are decisions: active/active wherever copies share nothing or
// have their own way of agreeing (the native way first), active/passive only
// where two at once do harm. Units are tried in order on each host, so a line
// holds the names of all distributions.
func Catalogue() map[string]fleet.Service {
	const (
		ms     = time.Millisecond
		second = time.Second
		minute = time.Minute
	)
	rows := []fleet.Service{
		{
			Name: "haproxy", Kind: "systemd", Mode: fleet.ActiveActive,
			Why: "Stateless: each controller runs its own, so an address finds one wherever it moves; " +
				"addresses name it under \"with\". Its copies agree on nothing but the routes that Mainstay tells them.",
			Units: []string{
				HAProxyUnit, // ours on every distribution: its own configuration and sockets, beside a haproxy.service of the site
			},
			Roles:     []string{"controller"},
			Check:     fleet.Check{Every: second, Deadline: second}, // the unit's state
			Restarts:  fleet.Restarts{Count: 10, Within: 5 * minute},
			OnFailure: fleet.FailBlock,
		},
		{
			Name: "keystone", Kind: "systemd", Mode: fleet.ActiveActive,
			Why: "Stateless: Fernet tokens are checked with keys that all copies share, everything else is in MariaDB; " +
				"any copy may answer any request.",
			Units: []string{
				"keystone.service",           // Debian: uwsgi
				"openstack-keystone.service", // RDO and openSUSE, where it runs by itself
				"httpd.service",              // RDO, CentOS: under Apache, together with what else Apache serves
				"apache2.service",            // Ubuntu, openSUSE: the same
			},
			Roles: []string{"controller"},
			After: []string{"haproxy", "mariadb"}, // it reaches its database through HAProxy on its own host
			// /v3 needs neither database nor cache. One single-threaded worker
			// answers it only after the request it is at, so a missed deadline
			// alone is no verdict (see fleet.ServiceState.Hung).
			Check:     fleet.Check{Kind: "http", Port: 5000, Path: "/v3", Expect: []int{200}, Every: 300 * ms, Deadline: 400 * ms},
			Listen:    fleet.Listen{Port: 5000, Backend: 5000, Protocol: "http", Addresses: []string{"internal", "public"}},
			Restarts:  fleet.Restarts{Count: 10, Within: 5 * minute},
			OnFailure: fleet.FailBlock,
		},
		{
			Name: "keystone-flush", Kind: "systemd", Mode: fleet.ActivePassive,
			Why: "A periodic job, not a service: two at once would delete the same rows on two Galera members, and one of " +
				"them fails at its commit. A crontab on one controller dies with it, one on all of them collides; active/active gains nothing.",
			Units: []string{
				"mainstay-keystone-flush.service", // ours on every distribution: keystone-manage trust_flush, hourly
			},
			Roles:     []string{"controller"},
			After:     []string{"haproxy", "mariadb"},
			Check:     fleet.Check{Every: 5 * second, Deadline: 5 * second}, // the unit's state: it listens nowhere
			Restarts:  fleet.Restarts{Count: 3, Within: 10 * minute},
			OnFailure: fleet.FailMove,
		},
		{
			Name: "mariadb", Kind: "galera", Mode: fleet.ActiveActive,
			Why: "Stateful, and Galera is its native way: every member has all data, commits by certification, heals and " +
				"re-joins by itself. Traffic goes to one member at a time, the others stand by in order: OpenStack's " +
				"SELECT ... FOR UPDATE takes no lock across members, so two writers end in deadlock errors.",
			Units: []string{
				"mariadb.service", // Debian, Ubuntu, RDO, CentOS, openSUSE
				"mysql.service",   // older packages and Galera builds of MySQL
				"mysqld.service",
			},
			Roles: []string{"controller"},
			// No probe by plain TCP: a connection without a handshake counts as an
			// error against the prober until the server blocks it. The kind asks by SQL.
			Check:  fleet.Check{Every: 500 * ms, Deadline: second},
			Listen: fleet.Listen{Port: 3306, Backend: 3306, Protocol: "tcp", Local: true, Writer: true},
			// A member that waits in vain for its peers ends after 30 s and must try
			// again for as long as it takes; only one that falls over at once is blocked.
			Restarts:  fleet.Restarts{Count: 60, Within: 10 * minute},
			OnFailure: fleet.FailBlock,
		},
		{
			Name: "garbd", Kind: "garbd", Mode: fleet.ActiveActive,
			Why: "Two members that lose sight of each other both stop, and so does one whose other dies without a word. " +
				"Galera's arbitrator is their third vote, on a host that has no data: it begins nothing and is never asked for a position.",
			Units: []string{
				"garb.service",  // Debian, Ubuntu: galera-arbitrator-4
				"garbd.service", // RDO, CentOS
			},
			Roles:     []string{"arbiter"},
			After:     []string{"mariadb"}, // it ends where it finds no primary member
			Check:     fleet.Check{Every: second, Deadline: second},
			Restarts:  fleet.Restarts{Count: 60, Within: 10 * minute},
			OnFailure: fleet.FailBlock,
		},
		{
			Name: "rabbitmq", Kind: "rabbitmq", Mode: fleet.ActiveActive,
			Why: "Stateful, and its own cluster is the native way: quorum queues keep each message on a majority and choose their " +
				"leaders by themselves, pause_minority keeps a cut-off node silent. Clients name all nodes and go to the next; an " +
				"address or HAProxy in front would only hide from them which one they lost.",
			Units: []string{
				"rabbitmq-server.service", // all distributions
			},
			Roles: []string{"controller"},
			Check: fleet.Check{Every: second, Deadline: second}, // the kind publishes and consumes
			// A node that cannot get back in is replaced after these.
			Restarts:  fleet.Restarts{Count: 5, Within: 10 * minute},
			OnFailure: fleet.FailBlock,
		},
		{
			Name: "memcached", Kind: "systemd", Mode: fleet.ActiveActive,
			Why: "A cache that may lose everything: clients name all copies, spread keys over them and leave out one that is " +
				"gone. No address and no HAProxy in front, or a moved client would read what another copy has kept too long.",
			Units: []string{
				"memcached.service", // all distributions
			},
			Roles:     []string{"controller"},
			Check:     fleet.Check{Kind: "memcached", Port: 11211, Every: second, Deadline: 500 * ms},
			Restarts:  fleet.Restarts{Count: 10, Within: 5 * minute},
			OnFailure: fleet.FailBlock,
		},
	}
	out := map[string]fleet.Service{}
	for _, r := range append(rows, openStack()...) {
		out[r.Name] = r
	}
	return out
}
