package lab

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Shared is where every host of an OpenStack lab finds what all share: images, and the
// disks of real guests.
const Shared = "/srv/shared"

// SharedUnit mounts Shared over the storage network.
const SharedUnit = "lab-shared.service"

// openStackHost is one host of an OpenStack, with all that its configuration needs.
type openStackHost struct {
	Machine
	Role string // RoleController ...
}

func (h openStackHost) on(network string) string { return h.Addresses[network].V4.Addr().String() }

// Roles of hosts in an OpenStack lab. A fake compute has Nova's own false hypervisor,
// a real one libvirt and QEMU without KVM.
const (
	RoleController = "controller"
	RoleFake       = "fake"
	RoleReal       = "real"
	RoleStorage    = "storage"
	RoleArbiter    = "arbiter" // votes, and has nothing of the cloud
)

// files makes a host a part of the cloud, as CloudFiles does; nothing secret is
// among them, that is in the seed. Each API is one process that listens on the management
// address alone: HAProxy needs the addresses that move, and memory is short.
func (r openStackRelease) files(c CloudConfig, h openStackHost, storage string) map[string]File {
	at := CloudHost{Name: h.Name, Address: h.Addresses["management"].V4.Addr()}
	files := map[string]File{}
	put := func(name, data string) { files[name] = File{Data: []byte(data)} }
	unit := func(name, text string) {
		put("/etc/systemd/system/"+name+".service.d/mainstay-lab.conf",
			"[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=3s\nTimeoutStartSec=300s\n"+text)
	}
	uwsgi := func(name, project, program string, port int, more string) {
		unit(name, fmt.Sprintf("ExecStart=\nExecStart=/usr/bin/uwsgi_python3 --http-socket %s:%d --ini /etc/%s/%s-lab.ini%s\n", at.Address, port, project, name, more))
		put(fmt.Sprintf("/etc/%s/%s-lab.ini", project, name), fmt.Sprintf(apiWSGI, program, name, project))
	}
	if h.Role == RoleStorage {
		put("/etc/ssh/sshd_config.d/mainstay-lab.conf", "ListenAddress "+h.on("storage")+"\nUseDNS no\n")
		files["/etc/systemd/system/multi-user.target.wants/ssh.service"] = File{Link: "/lib/systemd/system/ssh.service"}
		return files
	}
	if h.Role == RoleArbiter {
		return files
	}
	if h.Role != RoleFake && storage != "" {
		put("/etc/systemd/system/"+SharedUnit, fmt.Sprintf(sharedUnit, storage))
	}
	put("/etc/nova/nova.conf", novaConfig(c, h))
	put("/etc/neutron/neutron.conf", neutronConfig(c, at))
	if h.Role == RoleController {
		put("/etc/mysql/mariadb.conf.d/71-mainstay-lab.cnf", "[mysqld]\nmax_connections = 900\ninnodb_buffer_pool_size = 128M\n")
		put("/etc/neutron/plugins/ml2/ml2_conf.ini", neutronML2(r.mechanisms))
		put("/etc/placement/placement.conf", "[DEFAULT]\nuse_stderr = true\n[api]\nauth_strategy = keystone\n[placement_database]\n"+openStackDB+authToken(c, "placement"))
		images := "/var/lib/glance/images"
		if storage != "" {
			images = Shared + "/glance"
		}
		put("/etc/glance/glance-api.conf", glanceConfig(c, at, images))
		uwsgi("placement-api", "placement", "placement-api", 8778, "")
		uwsgi("nova-api", "nova", "nova-api-wsgi", 8774, "")
		uwsgi("nova-api-metadata", "nova", "nova-metadata-wsgi", 8775, "")
		uwsgi("neutron-api", "neutron", "neutron-api", 9696,
			` --pyargv "--config-file=/etc/neutron/neutron.conf --config-file=/etc/neutron/plugins/ml2/ml2_conf.ini"`)
		if slices.Contains(r.more, "neutron-periodic-workers") {
			// Debian has an init script alone, and systemd would call what it makes of that running for
			// ever. The script itself can be told to stay.
			unit("neutron-periodic-workers", "Type=simple\nRemainAfterExit=no\nKillMode=control-group\nUser=neutron\nExecStart=\nExecStart=/etc/init.d/neutron-periodic-workers systemd-start\nExecStop=\n")
		}
		for _, name := range []string{"glance-api", "nova-scheduler", "nova-conductor", "neutron-rpc-server"} {
			unit(name, "")
		}
		return files
	}
	// Debian 13's units want all that they may need, also where that is installed and nobody's
	// affair: here every host has every package.
	for _, name := range []string{"mariadb", "mysql", "keystone", "rabbitmq-server"} {
		files["/etc/systemd/system/"+name+".service"] = File{Link: "/dev/null"}
	}
	unit("nova-compute", "ExecStartPre=+/usr/bin/install -d -o nova -g nova "+guestsDir+"\n")
	if slices.Contains(r.more, "neutron-linuxbridge-agent") {
		unit("neutron-linuxbridge-agent", "")
		put("/etc/neutron/plugins/ml2/linuxbridge_agent.ini", fmt.Sprintf(linuxbridgeConfig, h.on("tenant")))
	}
	if h.Role == RoleFake {
		put("/etc/nova/nova-compute.conf", "[DEFAULT]\ncompute_driver = mainstay_lab.Driver\n")
		put("/usr/lib/python3/dist-packages/nova/virt/mainstay_lab.py", fakeDriver)
		return files
	}
	put("/etc/nova/nova-compute.conf", novaLibvirt+"live_migration_scheme = tcp\nlive_migration_inbound_addr = "+h.on("management")+"\n")
	put("/etc/libvirt/qemu.conf", qemuConfig)
	// Nova refuses to move servers between hosts whose libvirts say that they are the same one.
	put("/etc/libvirt/libvirtd.conf", "unix_sock_group = \"libvirt\"\nunix_sock_rw_perms = \"0770\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nauth_tcp = \"none\"\nhost_uuid = \""+h.UUID+"\"\n")
	// Guests are sent to each other over libvirt's port: with no password, on the lab's own network.
	put("/etc/systemd/system/libvirtd-tcp.socket.d/mainstay-lab.conf", "[Socket]\nListenStream=\nListenStream="+h.on("management")+":16509\nFreeBind=true\n")
	put("/etc/systemd/system/libvirtd.service.d/mainstay-lab-tcp.conf", "[Unit]\nWants=libvirtd-tcp.socket\n")
	// As shipped it ends by itself after two minutes without a client.
	put("/etc/default/libvirtd", "LIBVIRTD_ARGS=\"\"\n")
	files["/etc/systemd/system/systemd-machined.service"] = File{Link: "/dev/null"}
	return files
}

// sharedUnit: with -f and the question after it the unit is started once the mount is
// there. Without default_permissions everybody on the host may write, as root there. For
// ten minutes what meets a cut waits, as on NFS mounted hard: an error would be worse
// (virtlogd gives a guest's console up for good at the first one). libvirt 9 live-migrates no
// guest whose disk's file system it does not know to be shared, and of those in user space it
// knows only a few by name: so it is called one of them.
const sharedUnit = `[Unit]
Description=What all hosts of the cloud share, over the storage network
StartLimitIntervalSec=0
[Service]
ExecStartPre=-/bin/fusermount3 -uqz ` + Shared + `
ExecStartPre=/bin/mkdir -p ` + Shared + `
ExecStart=/usr/bin/sshfs -f -o allow_other,subtype=glusterfs,reconnect,dir_cache=no,attr_timeout=0,entry_timeout=0,IdentityFile=` + storageKey + `,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR,ConnectTimeout=3,ServerAliveInterval=30,ServerAliveCountMax=20 root@%s:` + Shared + ` ` + Shared + `
ExecStartPost=/bin/sh -c 'until mountpoint -q ` + Shared + `; do sleep 0.2; done'
ExecStopPost=-/bin/fusermount3 -uqz ` + Shared + `
Restart=always
RestartSec=1s
`

// apiWSGI is for a program, a name and a user: as keystoneWSGI, but with one process
// that loads the application by itself, as Debian's files have it.
const apiWSGI = `[uwsgi]
plugins = python3
wsgi-file = /usr/bin/%[1]s
name = %[2]s
uid = %[3]s
gid = %[3]s
chdir = /var/lib/%[3]s
paste-logger = true
master = true
lazy-apps = true
need-app = true
no-orphans = true
die-on-term = true
thunder-lock = true
enable-threads = true
processes = 1
threads = 1
listen = 100
buffer-size = 65535
add-header = Connection: close
post-buffering = 65536
disable-logging = true
`

// openStackDB is the same for every service. A worker waits for its database as long as
// it takes.
const openStackDB = "connection_recycle_time = 60\nmax_retries = -1\nmax_pool_size = 5\nmax_overflow = 10\n"

// auth is how a service logs in to Keystone; its password is in the seed.
func auth(user string) string {
	return "auth_type = password\nauth_url = http://" + InternalName + ":5000/v3\nusername = " + user +
		"\nproject_name = service\nuser_domain_name = Default\nproject_domain_name = Default\nregion_name = RegionOne\n"
}

func authToken(c CloudConfig, user string) string {
	var servers []string
	for _, h := range c.Controllers {
		servers = append(servers, h.Address.String()+":11211")
	}
	return "[keystone_authtoken]\nwww_authenticate_uri = http://" + InternalName + ":5000\nmemcached_servers = " + strings.Join(servers, ",") +
		"\nmemcache_pool_dead_retry = 30\nmemcache_pool_socket_timeout = 1\nservice_token_roles_required = true\nservice_token_roles = service\n" + auth(user)
}

// messaging is what docs/OPERATING.md advises.
const messaging = `[oslo_messaging_rabbit]
rabbit_quorum_queue = true
heartbeat_timeout_threshold = 20
heartbeat_rate = 3
kombu_reconnect_delay = 0.5
rabbit_interval_max = 5
[oslo_messaging_notifications]
driver = noop
`

func novaConfig(c CloudConfig, h openStackHost) string {
	text := fmt.Sprintf(`[DEFAULT]
host = %s
my_ip = %s
state_path = /var/lib/nova
# As shipped they are 10 and 60: how soon Nova sees by itself that a compute is gone.
report_interval = 5
service_down_time = 20
# A small machine that is busy plugs slowly.
vif_plugging_is_fatal = false
vif_plugging_timeout = 10
# The tiny guest knows no shutdown.
shutdown_timeout = 2
# docs/OPERATING.md asks for it: a compute that is turned on with its servers starts them.
resume_guests_state_on_host_boot = true
[oslo_concurrency]
lock_path = /var/lib/nova/tmp
[vnc]
enabled = false
[glance]
api_servers = http://%s:9292
[placement]
%s[neutron]
service_metadata_proxy = true
%s[service_user]
send_service_user_token = true
%s%s%s`, h.Name, h.on("management"), InternalName, auth("placement"), auth("neutron"), auth("nova"), authToken(c, "nova"), messaging)
	if h.Role == RoleController {
		text += "[api]\nauth_strategy = keystone\nmax_limit = 2000\n[conductor]\nworkers = 1\n[scheduler]\nworkers = 1\ndiscover_hosts_in_cells_interval = 20\n" +
			"[quota]\ndriver = nova.quota.NoopQuotaDriver\n[api_database]\n" + openStackDB + "[database]\n" + openStackDB
	}
	return text
}

// neutronConfig without a host is that in which a seed is made.
func neutronConfig(c CloudConfig, h CloudHost) string {
	return fmt.Sprintf(`[DEFAULT]
host = %s
core_plugin = ml2
service_plugins = router
auth_strategy = keystone
agent_down_time = 25
rpc_workers = 1
rpc_state_report_workers = 0
notify_nova_on_port_status_changes = true
notify_nova_on_port_data_changes = true
[experimental]
linuxbridge = true
[agent]
report_interval = 8
root_helper = sudo /usr/bin/neutron-rootwrap /etc/neutron/rootwrap.conf
[oslo_concurrency]
lock_path = /var/lib/neutron/tmp
[database]
%s[nova]
%s%s%s`, h.Name, openStackDB, auth("nova"), authToken(c, "neutron"), messaging)
}

func neutronML2(mechanisms string) string {
	return `[ml2]
type_drivers = flat,vxlan
tenant_network_types = vxlan
mechanism_drivers = ` + mechanisms + `
extension_drivers = port_security
[ml2_type_vxlan]
vni_ranges = 1:1000
`
}

const linuxbridgeConfig = `[vxlan]
enable_vxlan = true
local_ip = %s
l2_population = true
[securitygroup]
enable_security_group = false
firewall_driver = noop
`

func glanceConfig(c CloudConfig, h CloudHost, images string) string {
	return fmt.Sprintf(`[DEFAULT]
bind_host = %s
bind_port = 9292
workers = 1
enabled_backends = fs:file
use_stderr = true
[glance_store]
default_backend = fs
[fs]
filesystem_store_datadir = %[2]s
[os_glance_staging_store]
filesystem_store_datadir = /var/lib/glance/staging
[os_glance_tasks_store]
filesystem_store_datadir = /var/lib/glance/tasks
[paste_deploy]
flavor = keystone
[database]
%[3]s%[4]s`, h.Address, images, openStackDB, authToken(c, "glance"))
}

// novaLibvirt: the disks lie where every real compute sees them, so that a server can be
// evacuated with what it had written.
const novaLibvirt = `[DEFAULT]
compute_driver = libvirt.LibvirtDriver
instances_path = ` + Shared + `/instances
[libvirt]
virt_type = qemu
cpu_mode = none
images_type = qcow2
num_pcie_ports = 0
`

// qemuConfig: a host is a container, in which there is nothing to confine guests with.
const qemuConfig = `security_driver = "none"
namespaces = []
cgroup_controllers = []
user = "nova"
group = "nova"
dynamic_ownership = 0
remember_owner = 0
`

// guestsDir holds the fake hypervisor's memory of its guests: in /run, so that they
// outlive their nova-compute, as real guests do, and not their host.
const guestsDir = "/run/mainstay-lab"

// fakeDriver is Nova's fake hypervisor with such a memory, which can also be read by who
// asks what really runs where. Each start of a guest is a boot of its own.
const fakeDriver = `import io
import json
import os
import uuid

from nova.compute import power_state
from nova.image import glance
from nova.virt import fake

try:
    from nova.virt import node
except ImportError:
    node = None

PATH = "` + guestsDir + `/guests"


class Driver(fake.FakeDriver):
    # From 2023.1 on a nova-compute that begins anew wants to find who it is on its disk, and
    # Nova's fake driver leaves nothing there.
    def get_nodenames_by_uuid(self, refresh=False):
        return {node.get_local_node_uuid(): self.get_available_nodes()[0]}

    def get_available_resource(self, nodename):
        told = super().get_available_resource(nodename)
        if node:
            told["uuid"] = node.get_local_node_uuid()
        return told

    def init_host(self, host):
        super().init_host(host)
        self._boots = {}
        try:
            with open(PATH) as f:
                for guest, told in json.load(f).items():
                    self.instances[guest] = fake.FakeInstance(told["name"], told["state"], guest)
                    self._boots[guest] = told["boot"]
        except FileNotFoundError:
            pass

    def _tell(self):
        for guest in self.instances:
            self._boots.setdefault(guest, str(uuid.uuid4()))
        told = {guest: {"name": i.name, "state": i.state, "boot": self._boots[guest]} for guest, i in self.instances.items()}
        with open(PATH + ".new", "w") as f:
            json.dump(told, f)
        os.rename(PATH + ".new", PATH)

    def live_migration(self, context, instance, *args, **kwargs):
        # Nova's own leaves the guest on the source as well.
        self.instances.pop(instance.uuid, None)
        self._boots.pop(instance.uuid, None)
        self._tell()
        super().live_migration(context, instance, *args, **kwargs)

    def snapshot(self, context, instance, image_id, update_task_state):
        # A real one puts the disk into Glance; Nova's own leaves the image queued for ever.
        super().snapshot(context, instance, image_id, update_task_state)
        images = glance.API()
        known = images.get(context, image_id)
        images.update(context, image_id, {"name": known["name"], "disk_format": "raw", "container_format": "bare", "properties": {}},
                      io.BytesIO(bytes(512)), purge_props=False)

    def resume_state_on_host_boot(self, context, instance, *args, **kwargs):
        # A real one starts it from its disk; Nova's own does nothing.
        self.instances[instance.uuid] = fake.FakeInstance(instance.name, power_state.RUNNING, instance.uuid)
        self._tell()


def _telling(name, anew=False):
    real = getattr(fake.FakeDriver, name)

    def wrapper(self, *args, **kwargs):
        try:
            return real(self, *args, **kwargs)
        finally:
            self._boots = {guest: boot for guest, boot in self._boots.items() if guest in self.instances}
            self._tell()
    return wrapper


for name in ("spawn", "destroy", "power_on", "power_off", "reboot", "finish_migration", "finish_revert_migration",
             "post_live_migration_at_destination"):
    setattr(Driver, name, _telling(name))
`

// rabbitAdvanced is what docs/OPERATING.md advises: how soon nodes notice that another is
// silent, gone, or does not take a connection.
const rabbitAdvanced = `[
  {aten, [{poll_interval, 1000}]},
  {kernel, [
    {net_setuptime, 2},
    {inet_dist_listen_options, [{raw, 6, 18, <<3000:32/native>>}]},
    {inet_dist_connect_options, [{raw, 6, 18, <<3000:32/native>>}]}
  ]}
].
`

// rabbitFiles make a RabbitMQ of each host, as an operator would: one cookie, one
// configuration, and the users in a file that an empty node loads. No peer is named: who
// joins whom is Mainstay's affair. They are secret.
func rabbitFiles(password, client string) map[string]File {
	user := func(name string) map[string]any {
		salt := []byte("salt")
		sum := sha256.Sum256(append(slices.Clone(salt), password...))
		return map[string]any{"name": name, "tags": []string{}, "hashing_algorithm": "rabbit_password_hashing_sha256",
			"password_hash": base64.StdEncoding.EncodeToString(append(salt, sum[:]...))}
	}
	rights := func(name string) map[string]string {
		return map[string]string{"user": name, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
	}
	definitions, err := json.Marshal(map[string]any{
		"users": []any{user("mainstay"), user(client)}, "permissions": []any{rights("mainstay"), rights(client)}, "vhosts": []any{map[string]string{"name": "/"}},
	})
	if err != nil {
		panic(err) // plain data
	}
	return map[string]File{
		"/var/lib/rabbitmq/.erlang.cookie": {Data: []byte(password + "cookie"), Mode: 0o400, Owner: "rabbitmq:rabbitmq"},
		"/etc/rabbitmq/definitions.json":   {Data: definitions, Mode: 0o640, Owner: "root:rabbitmq"},
		"/etc/rabbitmq/rabbitmq.conf": {Data: []byte("load_definitions = /etc/rabbitmq/definitions.json\ncluster_partition_handling = pause_minority\n" +
			"net_ticktime = 6\n")},
		"/etc/rabbitmq/advanced.config": {Data: []byte(rabbitAdvanced)},
		// A small machine has no time for schedulers that wait actively.
		"/etc/rabbitmq/rabbitmq-env.conf": {Data: []byte("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=\"+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none\"\n")},
		"/etc/mainstay/rabbitmq.password": {Data: []byte(password + "\n"), Mode: 0o600},
	}
}
