package node

import (
	"context"
	"time"

	"mainstay/agent"
	"mainstay/fleet"
	"mainstay/lease"
	"mainstay/probe/storage"
)

// storageOf is where a compute keeps its storage heartbeat; nil where the site's file names none.
func storageOf(spec fleet.Spec, me fleet.Host, boot string) agent.Storage {
	if spec.OpenStack.Storage == "" || !me.HasRole("compute") {
		return nil
	}
	return storage.Open(spec.OpenStack.Storage, spec.Site, me.Name, boot)
}

// storageAnswers is how long mainstay check waits for the storage.
const storageAnswers = 5 * time.Second

// checkStorage tells why this compute's storage heartbeat would be of no use.
func checkStorage(ctx context.Context, spec fleet.Spec, me fleet.Host) (out fleet.Faults) {
	d := storage.Open(spec.OpenStack.Storage, spec.Site, me.Name, "check")
	others := lease.StorageOthers(&spec, me.Name, lease.StorageReaders, func(string) bool { return true })
	said := make(chan []string, 1)
	go func() { said <- d.Examine(others) }()
	late := time.NewTimer(storageAnswers)
	defer late.Stop()
	var problems []string
	select {
	case problems = <-said:
	case <-ctx.Done():
		problems = []string{"does not answer on this host"}
	case <-late.C:
		problems = []string{"does not answer on this host within " + storageAnswers.String()}
	}
	for _, problem := range problems {
		out = append(out, fleet.Fault{Path: "openstack/storage_heartbeat", Rule: "storage", Value: spec.OpenStack.Storage, Problem: problem, Warning: true,
			Want: "one directory on storage that all computes have mounted, in which root may write"})
	}
	return out
}
