package fleet

import "testing"

// TestEveryNetwork: what follows for a compute that is silent on every network and writes to storage, and that without
// such storage the word is a network's name as any other.
func TestEveryNetwork(t *testing.T) {
	read := func(more string) Spec {
		s, faults := Read("site.yaml", []byte("site: x\nnetworks: {management: {cidr: 10.0.0.0/24}, storage: {cidr: 10.0.1.0/24}}\nhosts:\n"+
			"  c[1-3]: {roles: [controller], addresses: {management: 10.0.0.11}}\n  n[1-2]: {roles: [compute], addresses: {management: 10.0.0.101, storage: 10.0.1.101}}\n"+
			"services: {}\nopenstack: {cloud: here, "+more+"}\n"), nil)
		for _, f := range faults {
			if f.Rule == "openstack" {
				t.Errorf("%s: %v", more, f)
			}
		}
		return s
	}
	const path = "/var/lib/nova/instances"
	for more, want := range map[string]Loss{
		"storage_heartbeat: " + path: LossEvacuate,
		"storage_heartbeat: " + path + ", lost: {storage: evacuate, all: disable}":     LossDisable,
		"storage_heartbeat: " + path + ", lost: {management: alarm, storage: disable}": LossEvacuate,
		"lost: {storage: evacuate}": LossDisable, // nobody asks
	} {
		s := read(more)
		if got := s.OpenStack.OnLoss(EveryNetwork); got != want {
			t.Errorf("%s: %s follows, not %s", more, got, want)
		}
		if got := s.OpenStack.Storage; got != "" && got != path {
			t.Errorf("%s: %q", more, got)
		}
	}
	if got := read("storage_heartbeat: " + path).OpenStack.OnLoss("storage"); got != LossDisable {
		t.Errorf("one network alone: %s", got)
	}
}
