package service

import (
	"time"

	"mainstay/fleet"
)

// openStack are the catalogue's rows of OpenStack's own services, Keystone apart.
//
// The APIs are asked by plain TCP: Debian's, and most others, are one uwsgi process that
// takes one request at a time, so a question of its own would stand in line behind a slow
// request, and a sound server would leave the rotation in the midst of it. The workers
// listen nowhere; their unit's state is all that can be seen from outside.
func openStack() []fleet.Service {
	const (
		second = time.Second
		minute = time.Minute
	)
	public := []string{"internal", "public"}
	row := func(name, why string, units []string, role string, after ...string) fleet.Service {
		return fleet.Service{
			Name: name, Kind: "systemd", Mode: fleet.ActiveActive, Why: why, Units: units,
			Roles: []string{role}, After: after,
			Check: fleet.Check{Every: second, Deadline: second},
			// Each of them ends by itself while something that it needs is away, and its unit
			// starts it again: only what falls over for minutes is blocked.
			Restarts:  fleet.Restarts{Count: 20, Within: 5 * minute},
			OnFailure: fleet.FailBlock,
		}
	}
	api := func(s fleet.Service, port int) fleet.Service {
		s.Check = fleet.Check{Kind: "tcp", Port: port, Every: second, Deadline: second}
		s.Listen = fleet.Listen{Port: port, Backend: port, Protocol: "http", Addresses: public}
		return s
	}
	const controller, compute = "controller", "compute"
	metadata := api(row("nova-metadata",
		"Stateless: it answers from MariaDB and from Neutron what a server asks of itself; any copy may.",
		[]string{
			"nova-api-metadata.service",           // Debian, Ubuntu
			"openstack-nova-metadata-api.service", // RDO
		}, controller, "haproxy", "mariadb", "rabbitmq", "keystone"), 8775)
	metadata.Listen.Addresses = []string{"internal"} // Neutron's metadata agents alone ask it

	nova := row("nova-compute",
		"Each host has its own: it carries out what Nova asks of this host's hypervisor; servers run on while it is away.",
		[]string{
			"nova-compute.service",           // Debian, Ubuntu
			"openstack-nova-compute.service", // RDO
		}, compute, "libvirtd", "neutron-linuxbridge-agent", "rabbitmq", "nova-conductor", "placement")
	nova.Kind = "compute"

	return []fleet.Service{
		api(row("placement",
			"Stateless: claims are kept apart by MariaDB itself, by the generation of each provider, so any copy may answer any request.",
			[]string{
				"placement-api.service", // Debian: uwsgi
				"httpd.service",         // RDO: under Apache, together with what else Apache serves
				"apache2.service",       // Ubuntu: the same
			}, controller, "haproxy", "mariadb", "keystone"), 8778),
		api(row("glance",
			"Stateless where the images lie on storage that all copies share (Ceph, Swift, a mount); with a store of its own on each host "+
				"an image is found on one of them alone, and the service belongs on one host until that is mended.",
			[]string{
				"glance-api.service",           // Debian, Ubuntu
				"openstack-glance-api.service", // RDO
			}, controller, "haproxy", "mariadb", "keystone"), 9292),
		api(row("nova-api",
			"Stateless: requests end in MariaDB and RabbitMQ; any copy may answer any request.",
			[]string{
				"nova-api.service",           // Debian, Ubuntu
				"openstack-nova-api.service", // RDO
			}, controller, "haproxy", "mariadb", "rabbitmq", "keystone"), 8774),
		metadata,
		row("nova-scheduler",
			"Workers of one queue: each request is taken by one of them, and Placement's claims keep two that choose the same host apart.",
			[]string{
				"nova-scheduler.service",           // Debian, Ubuntu
				"openstack-nova-scheduler.service", // RDO
			}, controller, "haproxy", "mariadb", "rabbitmq", "keystone", "placement"), // it ends at a 401 of Placement
		row("nova-conductor",
			"Workers of one queue: each order is taken by one of them, and what it was at when it died stays as it is until somebody asks again.",
			[]string{
				"nova-conductor.service",           // Debian, Ubuntu
				"openstack-nova-conductor.service", // RDO
			}, controller, "haproxy", "mariadb", "rabbitmq", "keystone"),
		api(row("neutron-api",
			"Stateless: requests end in MariaDB and RabbitMQ; any copy may answer any request.",
			[]string{
				"neutron-api.service",    // Debian: uwsgi
				"neutron-server.service", // Ubuntu, RDO: API and RPC in one
			}, controller, "haproxy", "mariadb", "rabbitmq", "keystone"), 9696),
		row("neutron-rpc",
			"Workers of one queue: each word of an agent is taken by one of them and ends in MariaDB.",
			[]string{
				"neutron-rpc-server.service", // Debian; where neutron-server does both, leave this service out of the site's file
			}, controller, "haproxy", "mariadb", "rabbitmq", "keystone"),
		row("neutron-periodic",
			"Each copy looks for agents that are gone and gives what they had to others; the first one's change is in MariaDB when the next one looks.",
			[]string{
				"neutron-periodic-workers.service", // Debian from 13 on, of an init script: neutron-rpc-server does not do this
			}, controller, "haproxy", "mariadb", "rabbitmq", "keystone"),
		row("neutron-linuxbridge-agent",
			"Each host has its own: it plugs the ports of this host's servers, and traffic flows on while it is away.",
			[]string{
				"neutron-linuxbridge-agent.service", // Debian, Ubuntu, RDO; up to 2024.2: Neutron has none any more, though Debian 13 still has the unit
			}, compute, "rabbitmq", "neutron-rpc"),
		row("libvirtd",
			"Each host has its own: it starts, stops and watches this host's guests, which run on while it is away.",
			[]string{
				"libvirtd.service",  // Debian, Ubuntu
				"virtqemud.service", // RDO, CentOS: one daemon for each driver
			}, compute),
		nova,
	}
}
