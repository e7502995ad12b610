package lab

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// Parts of an OpenStack's seed: each is a layer for the hosts of one role.
const (
	ControllerPart = "controller"
	ComputePart    = "compute"
	StoragePart    = "storage" // of the host that has what all share
	// guestPart is no layer: it holds the tiny guest's initial roots, without and with an agent.
	guestPart = "guest"
)

// ServicePasswordFile holds, on controllers, what OpenStack's services log in to each
// other, to MariaDB and to RabbitMQ with; readable by root alone. One password serves
// them all, as no real cloud should do it.
const ServicePasswordFile = "/etc/mainstay-lab/service.password"

// storageKey is the key with which hosts mount what they share.
const storageKey = "/etc/mainstay-lab/storage.key"

// guestModules are those of GuestKernel through which an agent speaks, in the order in which they are loaded.
var guestModules = []string{"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_console"}

// guestAgent reads what a tiny guest with an agent has beside busybox, by path. Its libraries are those of the base, whose QEMU has the same.
func guestAgent() (map[string]string, error) {
	out := map[string]string{}
	for _, name := range append([]string{"qemu-ga"}, guestModules...) {
		if name != "qemu-ga" {
			name += ".ko"
		}
		data, err := os.ReadFile(filepath.Join(filepath.Dir(GuestKernel), "guest", name))
		if err != nil {
			return nil, fmt.Errorf("the agent of the tiny guest: %w: make lab-openstack fetches it", err)
		}
		out["usr/local/lib/guest/"+name] = string(data)
	}
	return out, nil
}

// seed returns the layers over its base of a cloud that has just been
// installed: the seven databases with their tables, Keystone's users and endpoints, the cell,
// keys, passwords, and the parts of the services' configuration that hold them. A compute's
// layer has no way to a database. Built and found again as Seed is; it takes about two minutes.
func (r openStackRelease) seed(ctx context.Context, base string, progress func(string)) (dir string, err error) {
	if !isDir(base) {
		return "", fmt.Errorf("seed of an OpenStack: there is no base tree at %s", base)
	}
	agent, err := guestAgent()
	if err != nil {
		return "", err
	}
	s := seed{
		base: base,
		script: strings.NewReplacer("CONTROLLERS", strings.ReplaceAll(strings.Join(r.with(RoleController), " "), "c", ""),
			"MODULES", strings.Join(guestModules, " ")).Replace(openStackScript),
		env: []string{
			"SERVICE_PASSWORD=" + rand.Text(), "BROKER=" + brokerUser,
			"CONTROLLER=" + ControllerPart, "COMPUTE=" + ComputePart, "STORAGE=" + StoragePart, "GUEST=" + guestPart,
			"KEY=" + storageKey,
		},
		files: map[string]string{
			"etc/hosts": "127.0.0.1 localhost " + InternalName + " c1 c2 c3\n",
			"etc/mysql/mariadb.conf.d/70-mainstay-lab.cnf": galeraConfig(CloudConfig{}, CloudHost{}),
			// What an interrupted making leaves is thrown away: nothing needs to be synced.
			"etc/mysql/mariadb.conf.d/71-mainstay-lab.cnf": "[mysqld]\ninnodb_flush_log_at_trx_commit = 0\n",
			"etc/keystone/keystone.conf":                   keystoneConfig(CloudConfig{}),
			"etc/keystone/keystone-uwsgi.ini":              keystoneWSGI,
			"etc/nova/nova.conf":                           "[DEFAULT]\n",
			"etc/placement/placement.conf":                 "[DEFAULT]\n",
			"etc/glance/glance-api.conf":                   "[DEFAULT]\n",
			"etc/neutron/neutron.conf":                     neutronConfig(CloudConfig{}, CloudHost{}),
			"etc/neutron/plugins/ml2/ml2_conf.ini":         neutronML2(r.mechanisms),
			"usr/local/sbin/register":                      registerScript,
		},
	}
	maps.Copy(s.files, agent)
	t := tree{
		dir:  filepath.Join(CacheDir, filepath.Base(base)+"-seed-"+digest([]any{base, s.files, s.script, s.env[1:]})),
		what: "seed of an OpenStack",
		room: 2 << 30,
	}
	return t.dir, t.make(ctx, progress, s.build)
}

// brokerUser is whom OpenStack's services are to RabbitMQ.
const brokerUser = "openstack"

// registerScript tells Keystone of the services: one process of Python, because each of
// OpenStack's own commands needs two seconds to begin.
const registerScript = `
import json, os, urllib.request
password, service, root = os.environ["ADMIN_PASSWORD"], os.environ["SERVICE_PASSWORD"], "http://` + InternalName + `:5000/v3"
token = ""

def ask(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    req = urllib.request.Request(root + path, data=data, method=method, headers={"Content-Type": "application/json", "X-Auth-Token": token})
    with urllib.request.urlopen(req, timeout=60) as answer:
        text = answer.read()
        return answer.headers, json.loads(text) if text else {}

domain = {"id": "default"}
headers, _ = ask("POST", "/auth/tokens", {"auth": {
    "identity": {"methods": ["password"], "password": {"user": {"name": "admin", "domain": domain, "password": password}}},
    "scope": {"project": {"name": "admin", "domain": domain}}}})
token = headers["X-Subject-Token"]
project = ask("POST", "/projects", {"project": {"name": "service", "domain_id": "default"}})[1]["project"]["id"]
roles = {r["name"]: r["id"] for r in ask("GET", "/roles")[1]["roles"]}
if "service" not in roles:
    roles["service"] = ask("POST", "/roles", {"role": {"name": "service"}})[1]["role"]["id"]
for name, kind, path in [("placement", "placement", ":8778"), ("glance", "image", ":9292"), ("nova", "compute", ":8774/v2.1"), ("neutron", "network", ":9696")]:
    user = ask("POST", "/users", {"user": {"name": name, "domain_id": "default", "password": service}})[1]["user"]["id"]
    for role in ("admin", "service"):
        ask("PUT", "/projects/%s/users/%s/roles/%s" % (project, user, roles[role]))
    made = ask("POST", "/services", {"service": {"name": name, "type": kind}})[1]["service"]["id"]
    for interface in ("public", "internal", "admin"):
        ask("POST", "/endpoints", {"endpoint": {"service_id": made, "interface": interface, "region_id": "RegionOne", "url": "http://` + InternalName + `" + path}})
`

// openStackScript is to an OpenStack what seedScript is to a Keystone; both begin alike.
const openStackScript = seedBegins + `mkdir "$root/seed"

chroot "$root" /bin/sh -eu <<'INSIDE'
` + seedMariaDB + `echo "I: making the databases"
mariadb <<SQL
CREATE USER $MONITOR@'%' IDENTIFIED BY '$MONITOR_PASSWORD';
CREATE USER openstack@'%' IDENTIFIED BY '$SERVICE_PASSWORD';
CREATE DATABASE keystone CHARACTER SET utf8mb3;
CREATE DATABASE placement CHARACTER SET utf8mb3;
CREATE DATABASE glance CHARACTER SET utf8mb3;
CREATE DATABASE nova CHARACTER SET utf8mb3;
CREATE DATABASE nova_api CHARACTER SET utf8mb3;
CREATE DATABASE nova_cell0 CHARACTER SET utf8mb3;
CREATE DATABASE neutron CHARACTER SET utf8mb3;
GRANT ALL PRIVILEGES ON *.* TO openstack@'%';
SQL
# With time-outs: a statement that a dead MariaDB will never answer ends by itself.
db() { echo "mysql+pymysql://openstack:$SERVICE_PASSWORD@127.0.0.1:3306/$1?charset=utf8&connect_timeout=3&read_timeout=30&write_timeout=30"; }
# All nodes by name: no address is known when a seed is made.
brokers=rabbit://
for n in CONTROLLERS; do
	[ $n = 1 ] || brokers=$brokers,
	brokers=$brokers$BROKER:$SERVICE_PASSWORD@c$n:5672
done
brokers=$brokers/
# secrets PART DIRECTORY GROUP: what comes in on standard input, for those alone who need it.
secrets() {
	mkdir -p "/seed/$1$2" "$2"
	(umask 077; cat >"/seed/$1$2/secrets.conf")
	chgrp $3 "/seed/$1$2/secrets.conf"
	chmod 640 "/seed/$1$2/secrets.conf"
	[ $1 != $CONTROLLER ] || cp -p "/seed/$1$2/secrets.conf" "$2" # for the making, too
}
secrets $CONTROLLER /etc/keystone/keystone.conf.d keystone <<CONF
[database]
connection = $(db keystone)
CONF
secrets $CONTROLLER /etc/placement/placement.conf.d placement <<CONF
[placement_database]
connection = $(db placement)
[keystone_authtoken]
password = $SERVICE_PASSWORD
CONF
secrets $CONTROLLER /etc/glance/glance.conf.d glance <<CONF
[database]
connection = $(db glance)
[keystone_authtoken]
password = $SERVICE_PASSWORD
CONF
nova() { cat <<CONF
[DEFAULT]
transport_url = $brokers
[keystone_authtoken]
password = $SERVICE_PASSWORD
[placement]
password = $SERVICE_PASSWORD
[neutron]
password = $SERVICE_PASSWORD
[service_user]
password = $SERVICE_PASSWORD
CONF
}
{ nova; cat <<CONF; } | secrets $CONTROLLER /etc/nova/nova.conf.d nova
[api_database]
connection = $(db nova_api)
[database]
connection = $(db nova)
[neutron]
metadata_proxy_shared_secret = $SERVICE_PASSWORD
CONF
nova | secrets $COMPUTE /etc/nova/nova.conf.d nova
secrets $CONTROLLER /etc/neutron/neutron.conf.d neutron <<CONF
[DEFAULT]
transport_url = $brokers
[database]
connection = $(db neutron)
[keystone_authtoken]
password = $SERVICE_PASSWORD
[nova]
password = $SERVICE_PASSWORD
CONF
# neutron-rpc-server is told to read that directory in place of the other.
mkdir -p /seed/$CONTROLLER/etc/neutron/server.conf.d
ln -s ../neutron.conf.d/secrets.conf /seed/$CONTROLLER/etc/neutron/server.conf.d
secrets $COMPUTE /etc/neutron/neutron.conf.d neutron <<CONF
[DEFAULT]
transport_url = $brokers
CONF

mkdir -p /seed/$CONTROLLER/etc/mainstay-lab /seed/$CONTROLLER/etc/openstack /seed/$CONTROLLER/etc/mainstay \
	/seed/$COMPUTE/etc/mainstay-lab /seed/$STORAGE/root/.ssh /seed/$STORAGE/srv/shared
chmod 700 /seed/$STORAGE/root
(
	umask 077
	echo "$ADMIN_PASSWORD" >/seed/$CONTROLLER/etc/mainstay-lab/admin.password
	echo "$MONITOR_PASSWORD" >/seed/$CONTROLLER/etc/mainstay-lab/mariadb.password
	echo "$SERVICE_PASSWORD" >/seed/$CONTROLLER/etc/mainstay-lab/service.password
	cat >/seed/$CONTROLLER/etc/openstack/clouds.yaml <<CONF
clouds:
  lab:
    auth: {auth_url: "$ENDPOINT", username: admin, password: $ADMIN_PASSWORD, project_name: admin,
      user_domain_name: Default, project_domain_name: Default}
    region_name: RegionOne
    identity_api_version: 3
CONF
	cp /seed/$CONTROLLER/etc/openstack/clouds.yaml /seed/$CONTROLLER/etc/mainstay/clouds.yaml
	ssh-keygen -q -t ed25519 -N '' -C mainstay-lab -f /seed/$CONTROLLER$KEY
	cp /seed/$CONTROLLER$KEY /seed/$COMPUTE$KEY
	mv /seed/$CONTROLLER$KEY.pub /seed/$STORAGE/root/.ssh/authorized_keys
)
install -d -o nova -g nova /seed/$STORAGE/srv/shared/instances
install -d -o glance -g glance /seed/$STORAGE/srv/shared/glance

echo "I: making the tables of seven databases"
run() { user=$1; log=/tmp/$2.log; shift 2; runuser -u $user -- "$@" >>$log 2>&1 || { echo "$*:"; tail -n 5 $log; exit 1; }; }
(
	run nova nova nova-manage api_db sync
	run nova nova nova-manage cell_v2 map_cell0
	run nova nova nova-manage db sync
	run nova nova nova-manage cell_v2 create_cell --name cell1
) & nova=$!
run keystone keystone keystone-manage db_sync
run neutron neutron neutron-db-manage --config-file /etc/neutron/neutron.conf --config-file /etc/neutron/plugins/ml2/ml2_conf.ini upgrade heads
run glance glance glance-manage db_sync
run placement placement placement-manage db sync
wait $nova

echo "I: telling Keystone of users, services and endpoints"
keystone-manage fernet_setup --keystone-user keystone --keystone-group keystone
keystone-manage credential_setup --keystone-user keystone --keystone-group keystone
export OS_BOOTSTRAP_USERNAME=admin OS_BOOTSTRAP_PASSWORD="$ADMIN_PASSWORD" OS_BOOTSTRAP_PROJECT_NAME=admin \
	OS_BOOTSTRAP_ROLE_NAME=admin OS_BOOTSTRAP_SERVICE_NAME=keystone OS_BOOTSTRAP_REGION_ID=RegionOne \
	OS_BOOTSTRAP_ADMIN_URL="$ENDPOINT" OS_BOOTSTRAP_INTERNAL_URL="$ENDPOINT" OS_BOOTSTRAP_PUBLIC_URL="$ENDPOINT"
run keystone keystone keystone-manage bootstrap
uwsgi_python3 --http-socket 127.0.0.1:5000 --ini /etc/keystone/keystone-uwsgi.ini >/tmp/uwsgi.log 2>&1 & keystone=$!
for n in $(seq 300); do
	curl -sf -o /dev/null http://127.0.0.1:5000/v3 && break
	sleep 0.2
done
python3 /usr/local/sbin/register || { tail -n 5 /tmp/uwsgi.log; exit 1; }
kill $keystone
wait $keystone || true
cp -a --parents /etc/keystone/fernet-keys /etc/keystone/credential-keys /seed/$CONTROLLER

echo "I: making the tiny guest"
guest=/tmp/guest
mkdir -p $guest/bin $guest/dev $guest/proc $guest/sys /seed/$GUEST
cp /bin/busybox $guest/bin/busybox
mknod $guest/dev/console c 5 1
cat >$guest/init <<'GUEST'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
[ ! -f /agent ] || . /agent
boot=$(cat /proc/sys/kernel/random/boot_id)
n=0
while :; do
	n=$((n + 1))
	echo "guest $boot tick $n"
	sleep 1
done >/dev/ttyS0
GUEST
chmod 755 $guest/init
(cd $guest && find . | cpio --quiet -o -H newc | gzip -9) >/seed/$GUEST/initrd.gz
# The kernel takes one archive after another. What has no channel for an agent runs none.
agent=/tmp/agent
chmod 755 /usr/local/lib/guest/qemu-ga
mkdir -p $agent/run
for f in /usr/local/lib/guest/* $(ldd /usr/local/lib/guest/qemu-ga | grep -o '/[^ ]*'); do
	mkdir -p $agent${f%/*}
	cp -L $f $agent$f
done
cat >$agent/agent <<'AGENT'
mount -t sysfs sys /sys
if cat /sys/bus/pci/devices/*/device | grep -qx '0x10[04]3'; then
	for m in MODULES; do insmod /usr/local/lib/guest/$m.ko; done
	for p in /sys/class/virtio-ports/*; do
		[ "$(cat $p/name)" != org.qemu.guest_agent.0 ] || /usr/local/lib/guest/qemu-ga -p /dev/${p##*/} -t /run </dev/null >/dev/null 2>&1 &
	done
fi
AGENT
(cat /seed/$GUEST/initrd.gz; cd $agent && find . | cpio --quiet -o -H newc | gzip -9) >/seed/$GUEST/agent.gz
` + seedShutsDown + `INSIDE

mkdir -p "$LAYER"
cp -a "$root/seed/." "$LAYER"
cd "$root"
cp -a --parents var/lib/mysql "$LAYER/$CONTROLLER"
`
