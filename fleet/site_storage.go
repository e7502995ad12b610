package fleet

import (
	"path"
	"slices"
)

// storage checks what is said of the storage heartbeat.
func (c *checker) storage(o OpenStack, computes int) {
	const at = "openstack/storage_heartbeat"
	if o.Storage == "" {
		return
	}
	if !path.IsAbs(o.Storage) || path.Clean(o.Storage) == "/" {
		c.fault(at, "openstack", o.Storage, "is not the path of a directory that computes share", "a path such as /var/lib/nova/instances")
	}
	if computes == 1 {
		c.fault(at, "openstack", o.Storage, "has nobody to read it: there is one compute", "nothing, as long as there is no other")
	}
	if slices.ContainsFunc(c.s.Networks, func(n Network) bool { return n.Name == EveryNetwork }) {
		c.fault(at, "openstack", o.Storage, "makes "+EveryNetwork+" stand for every network in openstack/lost, and there is a network of that name", "another name for the network")
	}
}

// everyNetwork checks what follows for a compute that is silent on every network and writes to storage.
func (c *checker) everyNetwork(at string, l Loss) {
	const want = "disable (it is left on, for a person) or evacuate (after a minute it is fenced)"
	switch l {
	case LossDisable, LossEvacuate:
	case LossDrain:
		c.fault(at, "openstack", string(l), "cannot follow: no network is left over which guests could be sent", want)
	default:
		c.fault(at, "openstack", string(l), "is not what may follow for a compute that is silent on every network", want)
	}
}
