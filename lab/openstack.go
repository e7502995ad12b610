package lab

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// OpenStackSuite is the Debian release whose OpenStack (Zed) the lab is known to bring up.
const OpenStackSuite = "bookworm"

// OpenStackPackages returns what the hosts of an OpenStack lab have beside Packages.
func OpenStackPackages() []string {
	return []string{
		"placement-api", "glance-api",
		"nova-api", "nova-scheduler", "nova-conductor", "nova-compute", "nova-compute-qemu", "qemu-system-x86",
		"neutron-api", "neutron-rpc-server", "neutron-linuxbridge-agent",
		"python3-openstackclient", "python3-osc-placement", "python3-openstacksdk",
		"bridge-utils", "ebtables", "ipset", "iptables", "conntrack",
		// instances on storage that all real computes share
		"sshfs", "openssh-server", "openssh-client",
		// the tiny guest
		"busybox-static", "cpio",
	}
}

// OpenStackBase is Base with the packages of an OpenStack: a tree of its own (about four
// minutes, 2 GB), so that the other labs stay as small as they are.
func OpenStackBase(ctx context.Context, progress func(string)) (dir string, err error) {
	r := newRecipe(OpenStackSuite)
	r.Packages = append(r.Packages, OpenStackPackages()...)
	t := tree{
		dir:  filepath.Join(CacheDir, "openstack-"+digest(r)),
		what: "base tree of Debian " + OpenStackSuite + "'s OpenStack",
		room: 6 << 30,
	}
	return t.dir, t.make(ctx, progress, r.build)
}

// OpenStackServices is the SiteConfig.Services of a lab with an OpenStack.
const OpenStackServices = CloudServices + `  rabbitmq: {params: {user: mainstay, password_file: /etc/mainstay/rabbitmq.password}}
  shared: {kind: systemd, mode: active/active, why: "each host has its own mount", units: [` + SharedUnit + `], hosts: [c1, c2, c3, r1, r2]}
  placement: {}
  glance: {after: [haproxy, mariadb, keystone, shared]}
  nova-api: {}
  nova-metadata: {}
  nova-scheduler: {}
  nova-conductor: {}
  neutron-api: {}
  neutron-rpc: {}
  neutron-linuxbridge-agent: {}
  libvirtd: {hosts: [r1, r2]}
  nova-compute: {after: [libvirtd, neutron-linuxbridge-agent, rabbitmq, nova-conductor, placement, shared], params: {instances: ` + Shared + `/instances}}
`

// openStackRoles are the hosts of an OpenStack lab: eight that make the cloud, and one
// beside the site that has what they share.
var openStackRoles = map[string]string{
	"c1": RoleController, "c2": RoleController, "c3": RoleController,
	"n1": RoleFake, "n2": RoleFake, spareHost: RoleFake, "r1": RoleReal, "r2": RoleReal,
	"s1": RoleStorage,
}

const (
	// storageHost is the host beside the site.
	storageHost = "s1"
	// spareHost is a compute in no zone: nothing goes to it unless a site's file keeps it in reserve.
	spareHost = "n3"
)

// OpenStack is a lab with an OpenStack under Mainstay, and a client of both. It asks Nova
// and the hypervisors by ways of its own, so that it can judge what Mainstay did.
type OpenStack struct {
	*Lab
	CloudConfig
	client cloudClient
	seed   string
	guest  map[string]string // ids in Glance, Nova and Neutron by name, after Furnish
}

// UpOpenStack builds a lab with an OpenStack on hosts that have no service started yet;
// StartOpenStack gives it to Mainstay.
func UpOpenStack(ctx context.Context, name string, progress func(string)) (*OpenStack, error) {
	base, err := OpenStackBase(ctx, progress)
	if err != nil {
		return nil, err
	}
	seed, err := OpenStackSeed(ctx, base, progress)
	if err != nil {
		return nil, err
	}
	cfg := Config{Name: name, Suite: OpenStackSuite, Base: base}
	for _, host := range slices.Sorted(maps.Keys(openStackRoles)) {
		h := Host{Name: host}
		switch openStackRoles[host] {
		case RoleController:
			h.Layers, h.Devices = []string{filepath.Join(seed, ControllerPart)}, []string{"/dev/fuse"}
		case RoleStorage:
			h.Layers = []string{filepath.Join(seed, StoragePart)}
		default:
			h.Layers, h.Devices = []string{filepath.Join(seed, ComputePart)}, []string{"/dev/fuse", "/dev/net/tun"}
		}
		cfg.Hosts = append(cfg.Hosts, h)
	}
	l, err := Up(ctx, cfg, progress)
	if err != nil {
		return nil, err
	}
	return l.OpenStack(seed)
}

// OpenStack is the handle of a lab that UpOpenStack has built over that seed.
func (l *Lab) OpenStack(seed string) (*OpenStack, error) {
	password, err := os.ReadFile(filepath.Join(seed, ControllerPart, AdminPasswordFile))
	if err != nil {
		return nil, fmt.Errorf("the administrator of lab %s: %w", l.Name, err)
	}
	internal := l.Virtual()["internal"]
	return &OpenStack{
		Lab: l, CloudConfig: l.Cloud(internal, "c1", "c2", "c3"), seed: seed, guest: map[string]string{},
		client: cloudClient{address: internal, password: strings.TrimSpace(string(password))},
	}, nil
}

// Site is the site that StartOpenStack makes of the lab.
func (o *OpenStack) Site() SiteConfig {
	c := SiteConfig{Services: OpenStackServices, Timing: "wide"}
	for _, m := range o.Hosts {
		switch openStackRoles[m.Name] {
		case RoleStorage:
			continue
		case RoleFake, RoleReal:
			c.Computes = append(c.Computes, m.Name)
		}
		c.Hosts = append(c.Hosts, m.Name)
	}
	return c
}

// StartOpenStack installs the cloud on the hosts and lets Mainstay start all of it. It
// returns when every host has joined and a leader decides; what it decides takes minutes.
func (o *OpenStack) StartOpenStack(ctx context.Context, c SiteConfig, progress func(string)) error {
	secret, err := os.ReadFile(filepath.Join(o.seed, ControllerPart, ServicePasswordFile))
	if err != nil {
		return fmt.Errorf("the services' password of lab %s: %w", o.Name, err)
	}
	storage, err := o.machine(storageHost)
	if err != nil {
		return err
	}
	for _, m := range o.Hosts {
		h := openStackHost{Machine: m, Role: openStackRoles[m.Name]}
		files := openStackFiles(o.CloudConfig, h, storage.Addresses["storage"].V4.Addr().String())
		if h.Role == RoleController {
			maps.Copy(files, rabbitFiles(strings.TrimSpace(string(secret)), brokerUser))
		}
		if err := o.Install(m.Name, files); err != nil {
			return fmt.Errorf("install OpenStack on %s: %w", m.Name, err)
		}
	}
	if err := o.InstallCloud(ctx, o.CloudConfig); err != nil {
		return err
	}
	if out, err := o.Run(ctx, storageHost, "systemctl", "start", "ssh"); err != nil {
		return fmt.Errorf("begin to share the storage: %w: %s", err, out)
	}
	return o.Deploy(ctx, c, progress)
}

// Computes are the names of the hosts that run servers.
func (o *OpenStack) Computes() []string { return o.Site().Computes }
