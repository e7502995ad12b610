package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// GaleraEVS are Galera's own timings for noticing a member that has fallen
// silent: suspected after 5 s of silence, expelled once all others agree, after
// 15 s in any case. They decide for how long writes stand still when a member
// dies without a word.
const GaleraEVS = "evs.keepalive_period=PT1S; evs.inactive_check_period=PT0.5S; evs.suspect_timeout=PT5S; " +
	"evs.inactive_timeout=PT15S; evs.install_timeout=PT7.5S"

// CloudConfig says on which hosts the cloud of a Seed lives.
type CloudConfig struct {
	// Controllers each carry a member of Galera, a memcached and a Keystone. The
	// first one founds the Galera cluster.
	Controllers []CloudHost
	// Internal is the address that InternalName stands for.
	Internal netip.Addr
	// EVS replaces GaleraEVS: provider options, separated by semicolons.
	EVS string
}

// CloudHost is one controller.
type CloudHost struct {
	Name    string
	Address netip.Addr // on the management network; IPv4
}

// CloudFiles returns, for each controller by name, the files that make it a part
// of the cloud, by absolute path; they are to be on its disk before its first
// boot. With the layer of Seed below them nothing else is needed: starting
// mariadb.service, memcached.service and keystone.service on each, in any order,
// gives one cloud, and starting them all again after a loss of power does too.
//
// InternalName is not among them: InstallCloud adds it to /etc/hosts.
//
// No unit is enabled at boot. All three are active/active, so nothing would be
// unsafe if systemd started them early; but who starts a thing should be the one
// who says when it is ready, in which order, and that a host under maintenance
// stays quiet, and that is Mainstay.
//
// Each service listens on the management address alone. The addresses that
// move, and 127.0.0.1:3306 where Keystone looks for its database, belong to
// HAProxy.
func CloudFiles(c CloudConfig) map[string]map[string]File {
	out := map[string]map[string]File{}
	for i, h := range c.Controllers {
		files := map[string]File{
			"/etc/mysql/mariadb.conf.d/70-mainstay-lab.cnf":            {Data: []byte(galeraConfig(c, h))},
			"/etc/systemd/system/mariadb.service.d/mainstay-lab.conf":  {Data: []byte(mariadbUnit)},
			"/etc/memcached.conf":                                      {Data: []byte(memcachedConfig(h))},
			"/etc/keystone/keystone.conf":                              {Data: []byte(keystoneConfig(c))},
			"/etc/keystone/keystone-uwsgi.ini":                         {Data: []byte(keystoneWSGI)},
			"/etc/systemd/system/keystone.service.d/mainstay-lab.conf": {Data: []byte(keystoneUnit(h))},
		}
		if i == 0 {
			files[firstStart] = File{Data: []byte("_WSREP_NEW_CLUSTER='--wsrep-new-cluster'\n")}
		}
		out[h.Name] = files
	}
	return out
}

// InstallCloud puts CloudFiles on running hosts and teaches every host of the lab
// InternalName. It starts nothing. On a cloud that has been started before it
// renews the configuration, and founds no second Galera cluster.
func (l *Lab) InstallCloud(ctx context.Context, c CloudConfig) error {
	for host, files := range CloudFiles(c) {
		dir, err := l.HostPath(host)
		if err != nil {
			return fmt.Errorf("install the cloud on %s: %w", host, err)
		}
		// Galera makes its cache at its first start.
		if _, err := os.Lstat(filepath.Join(dir, "var/lib/mysql/galera.cache")); err == nil {
			delete(files, firstStart)
		}
		if err := l.Install(host, files); err != nil {
			return fmt.Errorf("install the cloud on %s: %w", host, err)
		}
	}
	line := fmt.Sprintf("%s %s\n", c.Internal, InternalName)
	for _, m := range l.Hosts {
		fail := func(err error) error { return fmt.Errorf("teach %s the name %s: %w", m.Name, InternalName, err) }
		dir, err := l.HostPath(m.Name)
		if err != nil {
			return fail(err)
		}
		hosts, err := os.ReadFile(filepath.Join(dir, "etc/hosts"))
		if err != nil {
			return fail(err)
		}
		text := string(hosts)
		if !strings.Contains(text, line) {
			if err := l.Install(m.Name, map[string]File{"/etc/hosts": {Data: []byte(text + line)}}); err != nil {
				return fail(err)
			}
		}
		if _, err := l.Run(ctx, m.Name, "systemctl", "daemon-reload"); err != nil {
			return fail(err)
		}
		// A file that was never synced would not be there after a power cut.
		if _, err := l.Run(ctx, m.Name, "sync"); err != nil {
			return fail(err)
		}
	}
	return nil
}

// Cloud returns the configuration of a cloud on the named hosts of the lab, or on
// all of them, whose internal virtual address is internal.
func (l *Lab) Cloud(internal netip.Addr, hosts ...string) CloudConfig {
	c := CloudConfig{Internal: internal}
	for _, m := range l.Hosts {
		if len(hosts) == 0 || slices.Contains(hosts, m.Name) {
			c.Controllers = append(c.Controllers, CloudHost{Name: m.Name, Address: m.Addresses["management"].V4.Addr()})
		}
	}
	return c
}

// firstStart lies on the disk of one controller and makes its first mariadbd
// found the cluster.
const firstStart = "/var/lib/mainstay-lab/new-cluster"

// mariadbUnit: the file firstStart is moved away, and that is made durable,
// BEFORE mariadbd reads it. A host that loses power in the middle of its first
// start must never found a second cluster beside the living one.
//
// After a loss of power of all members none of them is told to found anything:
// pc.recovery has each wait for the others that it last saw. mariadbd gives up
// that wait after a while and the unit starts it again, for as long as it takes.
//
// SIGKILL is safe for InnoDB and Galera, and a mariadbd that hangs must be
// stoppable: Debian's unit would wait 15 minutes, and then not kill.
//
// Debian's five seconds before a restart stay: a server that is back within
// evs.suspect_timeout meets its group in the very change that leaves it out, and
// the writers wait for both (10.9 s once, with a restart after one second).
const mariadbUnit = `[Unit]
StartLimitIntervalSec=0
[Service]
ExecStartPre=+/bin/sh -c 'if [ -e ` + firstStart + ` ]; then cp ` + firstStart + ` /run/mainstay-new-cluster && rm ` + firstStart + ` && sync -f /var/lib/mainstay-lab; fi'
EnvironmentFile=-/run/mainstay-new-cluster
# Debian's check for crashed tables is for MyISAM, and each member would run it.
ExecStartPost=
ExecStartPost=+/bin/rm -f /run/mainstay-new-cluster
Restart=always
TimeoutStopSec=30s
SendSIGKILL=yes
`

// galeraConfig configures one member; without a host it configures the lone
// member in which a seed is made.
func galeraConfig(c CloudConfig, h CloudHost) string {
	if c.EVS == "" {
		c.EVS = GaleraEVS
	}
	var members []string
	for _, m := range c.Controllers {
		members = append(members, m.Address.String())
	}
	name, address := h.Name, "127.0.0.1"
	if h.Address.IsValid() {
		address = h.Address.String()
	}
	return fmt.Sprintf(`[mysqld]
bind-address = %[2]s
skip-name-resolve
performance_schema = off
max_connections = 300
innodb_buffer_pool_size = 64M
innodb_log_file_size = 16M
innodb_autoextend_increment = 8
# 1: what was acknowledged is on disk. All members may lose power at once, and
# then no other member has it; 0 or 2 would lose up to a second of it. Fernet
# tokens write nothing, so it costs next to nothing here.
innodb_flush_log_at_trx_commit = 1
innodb_autoinc_lock_mode = 2
binlog_format = row
expire_logs_days = 0

wsrep_on = ON
wsrep_provider = /usr/lib/galera/libgalera_smm.so
wsrep_cluster_name = mainstay-lab
wsrep_cluster_address = gcomm://%[3]s
wsrep_node_name = %[1]s
wsrep_node_address = %[2]s
wsrep_slave_threads = 2
# A member that was away for long is copied while the donor goes on serving. The
# user mysql logs in to its own server through the socket, without a password.
wsrep_sst_method = mariabackup
wsrep_sst_auth = mysql:
wsrep_provider_options = "gcache.size=32M; gcache.recover=yes; pc.recovery=true; gmcast.listen_addr=tcp://%[2]s:4567; ist.recv_addr=%[2]s:4568; %[4]s"
`, name, address, strings.Join(members, ","), c.EVS)
}

func memcachedConfig(h CloudHost) string {
	return fmt.Sprintf("-l %s\n-p 11211\n-U 0\n-u memcache\n-m 32\n-c 1024\n-t 1\n-P /run/memcached/memcached.pid\n", h.Address)
}

// keystoneConfig is the same on every host. The database's address is in
// keystone.conf.d, with its password, in the seed.
func keystoneConfig(c CloudConfig) string {
	var servers []string
	for _, h := range c.Controllers {
		servers = append(servers, fmt.Sprintf("%s:11211", h.Address))
	}
	return fmt.Sprintf(`[DEFAULT]
use_stderr = true
log_config_append =

# A memcached that has died costs each worker a quarter of a second, and then
# nothing for half a minute.
[cache]
enabled = %t
backend = oslo_cache.memcache_pool
memcache_servers = %s
memcache_socket_timeout = 0.25
memcache_dead_retry = 30

# HAProxy ends sessions at a move of the writer; SQLAlchemy then connects again.
# While there is no database a request fails after a few seconds: one that waited
# for ever would keep its thread, and GET /v3 would soon have none.
[database]
connection_recycle_time = 60
max_pool_size = 4
max_overflow = 4
max_retries = 2
retry_interval = 1

[token]
provider = fernet

# Checking a password is the dear part of a token: 4 of bcrypt's rounds (2^4), not
# Keystone's 12, so that a small machine can issue tokens while it is measured.
# Not for a real cloud.
[identity]
password_hash_algorithm = bcrypt
password_hash_rounds = 4
max_password_length = 72
`, len(servers) > 0, strings.Join(servers, ","))
}

// keystoneWSGI is Debian's file with fewer processes, and its log in the journal.
// Two processes, so that one that hangs or dies does not take the host's
// Keystone with it; two threads each, so that GET /v3 does not stand in line
// behind a token.
const keystoneWSGI = `[uwsgi]
plugins = python3
wsgi-file = /usr/bin/keystone-wsgi-public
name = keystone-api
uid = keystone
gid = keystone
chdir = /var/lib/keystone
master = true
# The application is loaded once, before the workers are forked (it opens no
# connection until its first request): half the memory, half the time to start, and
# a worker that was killed is back in 20 ms, not after 3 s of Python.
lazy-apps = false
need-app = true
no-orphans = true
die-on-term = true
thunder-lock = true
enable-threads = true
processes = 2
threads = 2
listen = 100
buffer-size = 65535
# uwsgi closes each connection after its answer; unless it says so, a client or
# HAProxy sends the next request into a closed one. And it reads a request's body
# itself: one that the application left unread would turn the close into a reset.
add-header = Connection: close
post-buffering = 65536
disable-logging = true
`

// keystoneUnit binds Keystone to the management address alone: Debian's script
// binds to all of them, where HAProxy needs the one that moves.
func keystoneUnit(h CloudHost) string {
	return fmt.Sprintf(`[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=
ExecStart=/usr/bin/uwsgi_python3 --http-socket %s:5000 --ini /etc/keystone/keystone-uwsgi.ini
Restart=always
RestartSec=1s
`, h.Address)
}
