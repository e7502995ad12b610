package fleet

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// The shortest interval that a site may ask for: each snapshot writes a whole disk into Glance.
const snapshotsLeast = 15 * time.Minute

// localDisks reads openstack/local_disks.
func (r *reader) localDisks(f field) LocalDisks {
	l := LocalDisks{Wait: 10 * time.Minute}
	r.record(f, "{roles: [compute], wait: 10m}", []column{
		{"roles", r.list(&l.Roles, "a list of roles")},
		{"hosts", r.list(&l.Hosts, "a list of hosts")},
		{"wait", r.span(&l.Wait)},
	})
	return l
}

// snapshots reads openstack/snapshots.
func (r *reader) snapshots(f field) Snapshots {
	s := Snapshots{Keep: 3, AtOnce: 2}
	r.record(f, "{every: 6h, keep: 3, at_once: 2}", []column{
		{"every", r.span(&s.Every)},
		{"keep", r.number(&s.Keep, "a number of snapshots")},
		{"at_once", r.number(&s.AtOnce, "a number of snapshots")},
	})
	return s
}

// localDisks checks what is said of disks that are on their hosts.
func (c *checker) localDisks(o OpenStack) {
	l, s := o.LocalDisks, o.Snapshots
	for i, name := range l.Hosts {
		at := fmt.Sprintf("openstack/local_disks/hosts/%d", i)
		switch h, known := c.s.Host(name); {
		case !known || !h.HasRole("compute"):
			c.fault(at, "openstack", name, "is not a compute", "a host with the role compute")
		case slices.Contains(l.Hosts[:i], name):
			c.fault(at, "duplicate", name, "stands here a second time", "each host once")
		}
	}
	for i, role := range l.Roles {
		if !slices.ContainsFunc(c.s.Hosts, func(h Host) bool { return h.HasRole(role) && h.HasRole("compute") }) {
			c.fault(fmt.Sprintf("openstack/local_disks/roles/%d", i), "openstack", role, "is the role of no compute", "compute, or a further role that some computes have")
		}
	}
	some := len(l.Hosts)+len(l.Roles) > 0
	switch {
	case !some && l.Wait != 0:
		c.fault("openstack/local_disks", "openstack", "", "names no compute", "{roles: [compute]}, or hosts: [n001]")
	case some && l.Wait < time.Minute:
		c.fault("openstack/local_disks/wait", "openstack", l.Wait.String(), "is shorter than a machine takes to boot, so the newest data of its servers would be given up each time", "2m or more")
	}
	if s == (Snapshots{}) {
		if some {
			c.warn("openstack/local_disks", "openstack", "", "makes servers depend on one host's disks, and no snapshots are made: lost with a host's disks is all that was on them", "snapshots: {every: 6h}")
		}
		return
	}
	if !some {
		c.fault("openstack/snapshots", "openstack", "", "has no server to be made of: no compute has local disks", "local_disks: {roles: [compute]} beside it")
	}
	if s.Every < snapshotsLeast {
		c.fault("openstack/snapshots/every", "openstack", s.Every.String(), "is no interval: each snapshot writes a whole disk into Glance", snapshotsLeast.String()+" or more, such as 6h")
	}
	if s.Keep < 1 {
		c.fault("openstack/snapshots/keep", "openstack", strconv.Itoa(s.Keep), "keeps none to restore from", "1 or more")
	}
	if s.AtOnce < 1 {
		c.fault("openstack/snapshots/at_once", "openstack", strconv.Itoa(s.AtOnce), "lets none be made", "1 or more")
	}
}
