package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// openStackRelease is what of an OpenStack lab depends on the Debian release.
type openStackRelease struct {
	suite string
	// roles are the hosts, by name.
	roles map[string]string
	// services is the SiteConfig.Services of the site.
	services string
	// more are packages that the other release has not, or does without.
	more []string
	// mechanisms are Neutron's mechanism drivers.
	mechanisms string
}

// openStackReleases are those whose OpenStack is known to come up. Zed has servers with ports and
// real guests. The release in trixie (2025.1) has neither: its Neutron has lost the agent for
// Linux bridges, and not every kernel has Open vSwitch. So it is Nova alone, on one controller with two arbiters.
var openStackReleases = map[string]openStackRelease{
	"bookworm": {
		suite: "bookworm", services: openStackServices, more: []string{"neutron-linuxbridge-agent"}, mechanisms: "linuxbridge,l2population",
		roles: map[string]string{
			"c1": RoleController, "c2": RoleController, "c3": RoleController,
			"n1": RoleFake, "n2": RoleFake, spareHost: RoleFake, "r1": RoleReal, "r2": RoleReal,
			storageHost: RoleStorage,
		},
	},
	"trixie": {
		// Nova's fake driver imports fixtures, which no package asks for.
		suite: "trixie", services: novaServices, more: []string{"neutron-periodic-workers", "python3-fixtures"}, mechanisms: "openvswitch",
		roles: map[string]string{"c1": RoleController, "n1": RoleFake, "n2": RoleFake, "v1": RoleArbiter, "v2": RoleArbiter},
	},
}

// cloudsFile is where Mainstay finds its way into the cloud, on each voter.
const cloudsFile = "/etc/mainstay/clouds.yaml"

// openStackOf is the release of a suite; empty means DefaultSuite.
func openStackOf(suite string) (openStackRelease, error) {
	if suite == "" {
		suite = DefaultSuite
	}
	r, known := openStackReleases[suite]
	if !known {
		return r, fmt.Errorf("an OpenStack of Debian %q: known are %s", suite, strings.Join(slices.Sorted(maps.Keys(openStackReleases)), ", "))
	}
	return r, nil
}

// with are the hosts of one role.
func (r openStackRelease) with(role string) (hosts []string) {
	for _, name := range slices.Sorted(maps.Keys(r.roles)) {
		if r.roles[name] == role {
			hosts = append(hosts, name)
		}
	}
	return hosts
}

// zoned are the computes of one role that are in a zone: all but the spare one.
func (o *OpenStack) zoned(role string) []string {
	return slices.DeleteFunc(o.release.with(role), func(host string) bool { return host == spareHost })
}

// spare are the computes in no zone.
func (o *OpenStack) spare() []string {
	return slices.DeleteFunc(o.Computes(), func(host string) bool { return host != spareHost })
}

// openStackServices are those of a site with ports and real guests.
const openStackServices = CloudServices + `  rabbitmq: {params: {user: mainstay, password_file: /etc/mainstay/rabbitmq.password}}
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

// novaServices are those of a site whose servers have no ports and no disks.
const novaServices = CloudServices + `  rabbitmq: {params: {user: mainstay, password_file: /etc/mainstay/rabbitmq.password}}
  placement: {}
  glance: {}
  nova-api: {}
  nova-metadata: {}
  nova-scheduler: {}
  nova-conductor: {}
  neutron-api: {}
  neutron-rpc: {}
  neutron-periodic: {}
  nova-compute: {after: [rabbitmq, nova-conductor, placement]}
`
