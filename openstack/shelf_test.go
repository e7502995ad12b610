package openstack

import (
	"testing"
	"testing/synctest"

	"mainstay/fleet"
)

// TestShelf: the list of all snapshots is asked for once at a time, and again when the answer has come,
// whatever it was.
func TestShelf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{} // it has no Glance: the answer is an error, at once
		c.cfg.LocalDisks.Hosts = []string{"n1"}
		look := func() {
			c.seen(t.Context(), 1, &fleet.Cloud{Servers: map[string]fleet.Server{"vm": {ID: "vm"}}}, nil)
			synctest.Wait()
		}
		c.shelf.busy = true
		if look(); !c.shelf.at.IsZero() || c.shelf.away != "" {
			t.Errorf("it is asked for beside one that is on its way: %v, %q", c.shelf.at, c.shelf.away)
		}
		c.shelf.busy = false
		if look(); c.shelf.at.IsZero() || c.shelf.away == "" || c.shelf.busy {
			t.Errorf("it was not asked for, or can never be again: %v, %q, %v", c.shelf.at, c.shelf.away, c.shelf.busy)
		}
	})
}
