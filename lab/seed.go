package lab

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// InternalName is the name of the cloud's internal virtual address: Keystone's
// endpoints in the seed name it, so /etc/hosts on each host must know it.
const InternalName = "internal.lab"

// Files of a seed, which every host of the cloud has.
const (
	// AdminPasswordFile holds the password of Keystone's user admin (project
	// admin, domain Default), readable by root alone.
	AdminPasswordFile = "/etc/mainstay-lab/admin.password"
	// MonitorPasswordFile holds the password of MariaDB's user MonitorUser.
	MonitorPasswordFile = "/etc/mainstay-lab/mariadb.password"
	// CloudsFile is OpenStack's own list of clouds; it names one, "lab".
	CloudsFile = "/etc/openstack/clouds.yaml"
)

// MonitorUser may log in to each MariaDB from any host and read SHOW STATUS,
// nothing else.
const MonitorUser = "mainstay"

// Seed returns a layer over base with a cloud that has just been installed: a
// datadir with Keystone's database, its users and endpoints, Keystone's keys,
// and the passwords. Laid over the base of three hosts it makes three members of
// one Galera cluster that need no copy of each other: the same data, the same
// place in history (grastate.dat). It is built at the first call (half a
// minute) and found again at later ones, as Base does it. Each build makes its
// own passwords and keys.
func Seed(ctx context.Context, base, suite string, progress func(string)) (layer string, err error) {
	if suite == "" {
		suite = DefaultSuite
	}
	if !isDir(base) {
		return "", fmt.Errorf("seed of Debian %s: there is no base tree at %s", suite, base)
	}
	s := seed{
		base:   base,
		script: seedScript,
		files: map[string]string{
			"etc/mysql/mariadb.conf.d/70-mainstay-lab.cnf": galeraConfig(CloudConfig{}, CloudHost{}),
			"etc/keystone/keystone.conf":                   keystoneConfig(CloudConfig{}),
		},
	}
	t := tree{
		dir:  filepath.Join(CacheDir, filepath.Base(base)+"-seed-"+digest([]any{base, s.files, seedScript})),
		what: "seed of a cloud on Debian " + suite,
		room: 1 << 30,
	}
	return t.dir, t.make(ctx, progress, s.build)
}

type seed struct {
	base   string
	files  map[string]string // for the making only, by path
	script string
	env    []string
}

func (s seed) build(ctx context.Context, dir, _ string, progress func(string)) error {
	scratch := dir + ".scratch"
	if err := removeTree(scratch); err != nil { // of an interrupted build
		return err
	}
	defer removeTree(scratch)
	for name, data := range s.files {
		name = filepath.Join(scratch, "files", name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			return err
		}
	}
	cmd := contained(ctx, "/bin/sh", "-eu", "-s")
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET // no port is taken, nobody is reached
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(s.script)
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
		"BASE=" + s.base, "SCRATCH=" + scratch, "LAYER=" + dir,
		"ENDPOINT=http://" + InternalName + ":5000/v3", "MONITOR=" + MonitorUser,
		// Passwords travel in the environment and standard input, never as arguments.
		"ADMIN_PASSWORD=" + rand.Text(), "KEYSTONE_PASSWORD=" + rand.Text(), "MONITOR_PASSWORD=" + rand.Text(),
	}
	cmd.Env = append(cmd.Env, s.env...)
	tail := lastLines{each: func(line string) {
		if step, ok := strings.CutPrefix(line, "I: "); ok {
			progress(step)
		}
	}}
	cmd.Stdout, cmd.Stderr = &tail, &tail
	if err := run(cmd); err != nil {
		return fmt.Errorf("%w: %s", cause(ctx, err), tail.String())
	}
	return nil
}

// seedScript runs as the first process of its own namespaces, so whatever it
// starts or mounts ends with it.
const seedScript = seedBegins + `# The rest happens inside. The quoted end mark keeps this shell from touching it.
chroot "$root" /bin/sh -eu <<'INSIDE'
` + seedMariaDB + `echo "I: making Keystone's database, keys, administrator and endpoints"
mariadb <<SQL
CREATE DATABASE keystone CHARACTER SET utf8mb3;
CREATE USER keystone@'%' IDENTIFIED BY '$KEYSTONE_PASSWORD';
GRANT ALL PRIVILEGES ON keystone.* TO keystone@'%';
CREATE USER $MONITOR@'%' IDENTIFIED BY '$MONITOR_PASSWORD';
SQL
install -d /etc/keystone/keystone.conf.d /etc/mainstay-lab /etc/openstack
umask 077
cat >/etc/keystone/keystone.conf.d/database.conf <<CONF
# With time-outs: a statement that a dead MariaDB will never answer ends by itself.
[database]
connection = mysql+pymysql://keystone:$KEYSTONE_PASSWORD@127.0.0.1:3306/keystone?charset=utf8&connect_timeout=3&read_timeout=10&write_timeout=10
CONF
chgrp keystone /etc/keystone/keystone.conf.d/database.conf
chmod 640 /etc/keystone/keystone.conf.d/database.conf
echo "$ADMIN_PASSWORD" >/etc/mainstay-lab/admin.password
echo "$MONITOR_PASSWORD" >/etc/mainstay-lab/mariadb.password
cat >/etc/openstack/clouds.yaml <<CONF
clouds:
  lab:
    auth: {auth_url: "$ENDPOINT", username: admin, password: $ADMIN_PASSWORD, project_name: admin,
      user_domain_name: Default, project_domain_name: Default}
    region_name: RegionOne
    identity_api_version: 3
CONF
umask 022
manage() { runuser -u keystone -- keystone-manage "$@" >/tmp/manage.log 2>&1 || { tail -n 5 /tmp/manage.log; exit 1; }; }
manage db_sync
keystone-manage fernet_setup --keystone-user keystone --keystone-group keystone
keystone-manage credential_setup --keystone-user keystone --keystone-group keystone
export OS_BOOTSTRAP_USERNAME=admin OS_BOOTSTRAP_PASSWORD="$ADMIN_PASSWORD" OS_BOOTSTRAP_PROJECT_NAME=admin \
	OS_BOOTSTRAP_ROLE_NAME=admin OS_BOOTSTRAP_SERVICE_NAME=keystone OS_BOOTSTRAP_REGION_ID=RegionOne \
	OS_BOOTSTRAP_ADMIN_URL="$ENDPOINT" OS_BOOTSTRAP_INTERNAL_URL="$ENDPOINT" OS_BOOTSTRAP_PUBLIC_URL="$ENDPOINT"
manage bootstrap

` + seedShutsDown + `INSIDE

mkdir -p "$LAYER"
cd "$root"
cp -a --parents var/lib/mysql etc/mainstay-lab etc/openstack etc/keystone/fernet-keys etc/keystone/credential-keys \
	etc/keystone/keystone.conf.d "$LAYER"
`

// What all seeds have in common: a tree to work in, a lone MariaDB inside it, and its end.
const (
	seedBegins = `
root=$SCRATCH/root
mkdir -p "$SCRATCH/upper" "$SCRATCH/work" "$root"
mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$SCRATCH/upper,workdir=$SCRATCH/work" "$root"
mount -t proc proc "$root/proc"
for d in run tmp dev; do mount -t tmpfs -o mode=1777 tmpfs "$root/$d"; done
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
ln -s /proc/self/fd "$root/dev/fd"
mkdir -m 1777 "$root/dev/shm"
ip link set lo up
cp -r "$SCRATCH/files/." "$root" # into directories that exist: they keep their owners

`
	seedMariaDB = `echo "I: making an empty MariaDB"
install -d -o mysql -g mysql /run/mysqld
mariadb-install-db --user=mysql --auth-root-authentication-method=socket --skip-test-db >/tmp/install.log 2>&1 ||
	{ cat /tmp/install.log; exit 1; }
mariadbd --user=mysql --wsrep-new-cluster 2>/tmp/mariadbd.log &
pid=$!
mariadb-admin --wait=60 --silent ping || { grep -i error /tmp/mariadbd.log; exit 1; }

`
	seedShutsDown = `echo "I: shutting MariaDB down cleanly, so that its place in history is on disk"
mariadb-admin shutdown
wait $pid
cd /var/lib/mysql
grep -q '^seqno: *[0-9]' grastate.dat || { echo "MariaDB left no position:"; cat grastate.dat; exit 1; }
# What belongs to one member only.
rm -f galera.cache gvwstate.dat *.pid ib_buffer_pool ddl_recovery-backup.log
`
)
