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

// packages returns what the hosts of an OpenStack lab have beside Packages.
func (r openStackRelease) packages() []string {
	return slices.Concat([]string{
		"placement-api", "glance-api",
		"nova-api", "nova-scheduler", "nova-conductor", "nova-compute", "nova-compute-qemu", "qemu-system-x86",
		"neutron-api", "neutron-rpc-server",
	}, r.more, []string{
		"python3-openstackclient", "python3-osc-placement", "python3-openstacksdk",
		"bridge-utils", "ebtables", "ipset", "iptables", "conntrack",
		// instances on storage that all real computes share
		"sshfs", "openssh-server", "openssh-client",
		// the tiny guest
		"busybox-static", "cpio",
	})
}

// base is Base with the packages of an OpenStack: a tree of its own (about four minutes,
// 2 GB), so that the other labs stay as small as they are.
func (r openStackRelease) base(ctx context.Context, progress func(string)) (dir string, err error) {
	how := newRecipe(r.suite)
	how.Packages = append(how.Packages, r.packages()...)
	t := tree{
		dir:  filepath.Join(CacheDir, "openstack-"+digest(how)),
		what: "base tree of Debian " + r.suite + "'s OpenStack",
		room: 6 << 30,
	}
	return t.dir, t.make(ctx, progress, how.build)
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
	release openStackRelease
	client  cloudClient
	seed    string
	guest   map[string]string // ids in Glance, Nova and Neutron by name, after Furnish
}

// UpOpenStack builds a lab with an OpenStack on hosts that have no service started yet;
// StartOpenStack gives it to Mainstay. suite is a Debian release, DefaultSuite if it is empty.
func UpOpenStack(ctx context.Context, suite, name string, progress func(string)) (*OpenStack, error) {
	r, err := openStackOf(suite)
	if err != nil {
		return nil, err
	}
	base, err := r.base(ctx, progress)
	if err != nil {
		return nil, err
	}
	seed, err := r.seed(ctx, base, progress)
	if err != nil {
		return nil, err
	}
	cfg := Config{Name: name, Suite: r.suite, Base: base}
	for _, host := range slices.Sorted(maps.Keys(r.roles)) {
		h := Host{Name: host}
		switch r.roles[host] {
		case RoleController:
			h.Layers, h.Devices = []string{filepath.Join(seed, ControllerPart)}, []string{"/dev/fuse"}
		case RoleStorage:
			h.Layers = []string{filepath.Join(seed, StoragePart)}
		case RoleArbiter:
		default:
			h.Layers, h.Devices = []string{filepath.Join(seed, ComputePart)}, []string{"/dev/fuse", "/dev/net/tun"}
		}
		cfg.Hosts = append(cfg.Hosts, h)
	}
	l, err := Up(ctx, cfg, progress)
	if err != nil {
		return nil, err
	}
	// One that stands already has the passwords of the seed that it was made from.
	for _, m := range l.Hosts {
		if r.roles[m.Name] == RoleController {
			seed = filepath.Dir(m.Layers[0])
		}
	}
	return l.openStack(r, seed)
}

// openStack is the handle of a lab that UpOpenStack has built over that seed.
func (l *Lab) openStack(r openStackRelease, seed string) (*OpenStack, error) {
	password, err := os.ReadFile(filepath.Join(seed, ControllerPart, AdminPasswordFile))
	if err != nil {
		return nil, fmt.Errorf("the administrator of lab %s: %w", l.Name, err)
	}
	internal := l.Virtual()["internal"]
	return &OpenStack{
		Lab: l, CloudConfig: l.Cloud(internal, r.with(RoleController)...), release: r, seed: seed, guest: map[string]string{},
		client: cloudClient{address: internal, user: "admin", project: "admin", password: strings.TrimSpace(string(password))},
	}, nil
}

// Site is the site that StartOpenStack makes of the lab.
func (o *OpenStack) Site() SiteConfig {
	c := SiteConfig{Services: o.release.services, Timing: "wide"}
	for _, m := range o.Hosts {
		switch o.release.roles[m.Name] {
		case RoleStorage:
			continue
		case RoleFake, RoleReal:
			c.Computes = append(c.Computes, m.Name)
		case RoleArbiter:
			c.Arbiters = append(c.Arbiters, m.Name)
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
	shared := len(o.release.with(RoleStorage)) > 0
	storage := ""
	if shared {
		m, err := o.machine(storageHost)
		if err != nil {
			return err
		}
		storage = m.Addresses["storage"].V4.Addr().String()
	}
	for _, m := range o.Hosts {
		h := openStackHost{Machine: m, Role: o.release.roles[m.Name]}
		files := o.release.files(o.CloudConfig, h, storage)
		if h.Role == RoleController {
			maps.Copy(files, rabbitFiles(strings.TrimSpace(string(secret)), brokerUser))
		}
		if h.Role == RoleArbiter { // it votes, and may lead: it must get into the cloud
			clouds, err := os.ReadFile(filepath.Join(o.seed, ControllerPart, cloudsFile))
			if err != nil {
				return fmt.Errorf("install OpenStack on %s: %w", m.Name, err)
			}
			files[cloudsFile] = File{Data: clouds, Mode: 0o600}
		}
		if err := o.Install(m.Name, files); err != nil {
			return fmt.Errorf("install OpenStack on %s: %w", m.Name, err)
		}
	}
	if err := o.InstallCloud(ctx, o.CloudConfig); err != nil {
		return err
	}
	if shared {
		if out, err := o.Run(ctx, storageHost, "systemctl", "start", "ssh"); err != nil {
			return fmt.Errorf("begin to share the storage: %w: %s", err, out)
		}
	}
	return o.Deploy(ctx, c, progress)
}

// Computes are the names of the hosts that run servers.
func (o *OpenStack) Computes() []string { return o.Site().Computes }
