package fleet

// Key is one key of a site's file: what may stand there, told to an operator. NAME in a
// path stands for a name of the site's own.
type Key struct {
	Path    string `json:"path"` // "services/NAME/check/every"
	Doc     string `json:"doc"`
	Default string `json:"default,omitempty"` // what holds where the file says nothing
}

// Keys is the reference of the site's file: all keys that Read knows, in the order of
// Template. A service's defaults are those of a service that the catalogue does not have.
func Keys() []Key {
	return []Key{
		{"site", "the site's name: letters, digits, - and _", ""},
		{"networks/NAME/cidr", "the network's addresses, such as 10.0.0.0/24; hosts beat over each network that they share", ""},
		{"hosts/NAME/roles", "words by which services find their hosts: controller, compute, network, storage, arbiter; NAME may be a pattern, c[1-3] or n[001-200]", ""},
		{"hosts/NAME/voter", "whether it carries a member of the store and an ear; 3, 5 or 7 hosts do, or 2 that can fence each other", "true for controllers and arbiters"},
		{"hosts/NAME/addresses", "the host's own address on each network; one counts up through a pattern, a list names each", ""},
		{"hosts/NAME/fence", "the devices that prove the host off: {driver: NAME, ...}, or a list of levels; mainstay explain DRIVER has the parameters, {name} is the host's name", "none: only its return, its watchdog or an oath frees what it ran alone"},
		{"hosts/NAME/watchdog/device", "the host's own watchdog, /dev/watchdog: its silence becomes a proof; hardware with nowayout, never on a machine that can be paused", "none"},
		{"hosts/NAME/watchdog/timeout", "after how long without a kick it resets the host, in whole seconds", "10s"},
		{"hosts/NAME/watchdog/softdog", "allow the kernel's own timer, and a device that can be stopped", "false"},
		{"addresses/NAME/address", "a virtual address, 10.0.0.100/24; {address: ...} may be left out where nothing else is said", ""},
		{"addresses/NAME/network", "the network on which it lives", "the one that contains it"},
		{"addresses/NAME/prefer", "hosts, best first", "whoever carries least"},
		{"addresses/NAME/with", "services that must be ready where it lives, such as [haproxy]", ""},
		{"services/NAME/kind", "how a copy is started, stopped and asked; mainstay explain KIND has its params", "the catalogue's"},
		{"services/NAME/mode", "active/active (each home runs a copy) or active/passive (exactly one)", "the catalogue's"},
		{"services/NAME/why", "why this mode, in one sentence", "as the site's file says"},
		{"services/NAME/units", "kinds that run systemd units: names to look for, the first that exists on a host is taken", ""},
		{"services/NAME/start", "kind exec: the command, as a list of words; no shell", ""},
		{"services/NAME/stop", "kind exec: the same", ""},
		{"services/NAME/status", "kind exec: the same; exits 0 when running, 3 when stopped", ""},
		{"services/NAME/roles", "it may live on hosts with one of these roles", ""},
		{"services/NAME/hosts", "it may live on these hosts; wins over roles", ""},
		{"services/NAME/prefer", "active/passive: hosts, best first", ""},
		{"services/NAME/after", "services that must be ready before it is started", ""},
		{"services/NAME/with", "address/NAME or service/NAME with which it must share its host", ""},
		{"services/NAME/check/kind", "how a copy is asked whether it serves: a probe, such as tcp or http", "none: the unit's state, and what the kind asks"},
		{"services/NAME/check/port", "the copy's own port, on the host", ""},
		{"services/NAME/check/path", "http: what is asked for", "/"},
		{"services/NAME/check/expect", "http: the status codes that are right", "any below 500"},
		{"services/NAME/check/every", "how often it is asked", "1s"},
		{"services/NAME/check/deadline", "how long an answer is awaited; a late one is unknown, not failed", "1s"},
		{"services/NAME/listen/port", "the port on which HAProxy takes its clients", "none: it is not behind HAProxy"},
		{"services/NAME/listen/backend", "the port of the copies", "the same as port"},
		{"services/NAME/listen/protocol", "http or tcp", "tcp"},
		{"services/NAME/listen/addresses", "the site's addresses on which HAProxy takes them", ""},
		{"services/NAME/listen/local", "true: HAProxy takes them on 127.0.0.1 too", "false"},
		{"services/NAME/listen/tls", "true: with the site's certificate", "false"},
		{"services/NAME/listen/writer", "true: one copy at a time, the others stand by in order; for databases", "false"},
		{"services/NAME/listen/writers", "further ports by name, {nova: 3307}, each with a writer of its own: give each group of databases one, and the copies share the writes", ""},
		{"services/NAME/listen/network", "the network over which HAProxy reaches the copies", "that of the first address"},
		{"services/NAME/restarts/count", "so many restarts within that span, then on_failure", "3"},
		{"services/NAME/restarts/within", "the span", "10m0s"},
		{"services/NAME/on_failure", "what follows when restarting did not help: block (active/active: its copy is left down and told until the first failure is that long ago; active/passive: a person decides); active/passive also move, or fence (its host is proved off first)", "move for active/passive, else block"},
		{"services/NAME/params", "parameters of its kind, {NAME: VALUE}", ""},
		{"timing/preset", "rack (quiet network, disks that fsync within 20 ms), room or wide (slow disks, voters some kilometres apart); timing: PRESET is short for it", "room"},
		{"timing/beat", "the interval of heartbeats of hosts that can hold something exclusive", "the preset's"},
		{"timing/lease", "how long such a host may speak on without acknowledgements", "the preset's"},
		{"timing/slow_beat", "the interval of all others", "the preset's"},
		{"timing/slow_lease", "their lease", "the preset's"},
		{"timing/heartbeat", "the store's own heartbeat", "the preset's"},
		{"timing/election", "after such a silence the store elects another leader", "the preset's"},
		{"mode", "act, or shadow: decides, says what it would do, and does nothing", "act"},
		{"brakes/share", "per cent of the hosts that may be fenced at once", "40"},
		{"brakes/count", "the number of hosts that may be", "5"},
		{"brakes/roles/NAME/share", "the same of the hosts of one role", "no further bound"},
		{"brakes/roles/NAME/count", "the same of the hosts of one role", "no further bound"},
		{"brakes/zones/NAME/share", "the same of the computes of one availability zone of Nova's", "no further bound"},
		{"brakes/zones/NAME/count", "the same of the computes of one availability zone of Nova's", "no further bound"},
		{"tls/certificate", "certificate, chain and key in one PEM file, on each host that runs haproxy; a renewed one is taken within a minute", ""},
		{"alarms", "webhook URLs to which waits, and hosts that are not well, are posted as JSON", ""},
		{"operators/revoked", "names of operators (mainstay token --operator NAME) whose certificates every host refuses, whenever they were made", "none"},
		{"openstack/cloud", "the entry of clouds.yaml by which Mainstay reaches the site's own cloud, as a user with the role admin; with it the servers of a compute that is proved dead are evacuated", "none: no server is looked at or moved"},
		{"openstack/config", "that file, on each voter (whoever leads uses it), for root alone; a secure.yaml beside it is read too", "/etc/mainstay/clouds.yaml"},
		{"openstack/leave", "projects, by name or id, whose servers are left to their owner: Octavia heals its amphorae itself", "none"},
		{"openstack/migration", "the network over which computes send each other guests (nova.conf: live_migration_inbound_addr): while it is lost nothing is live-migrated", "management, where there is one of that name"},
		{"openstack/lost", "by network, {storage: evacuate}, what follows for a compute that has lost it for 10 s and lives: alarm; disable (it gets no new servers until the network has been back for a minute); drain (after 30 s its servers are live-migrated to others as well; one that cannot be stays and is told); evacuate (after 30 s it is fenced as well, and its servers are evacuated: right for storage). Nothing but the alarm where brakes/share or brakes/count of the hosts have lost it", "disable"},
		{"openstack/reserved", "computes that are kept empty and disabled, [n040, n041], until the servers of a lost one fit on no other of its zone: then the next of them joins the lost one's aggregates and is enabled. It is given back by itself once that one is back and nothing is on it", "none"},
		{"openstack/ready", "networks of servers' addresses, [203.0.113.0/24], such as the floating ones, that every voter reaches and may ask a server whether it is ready (its owner's HA_Ready: tcp:PORT or http:PORT/PATH); none of the site's own. Elsewhere nobody is asked, and a server is ready as soon as it is active", "none"},
	}
}
