//go:build mutate

package store

import (
	"os"

	"mainstay/fleet"
)

// With the tag "mutate" the guard named in DISARM is taken away, and a test
// must fail:
//
//	DISARM=orphan go test -tags mutate ./store
func init() { fleet.Disarmed = fleet.Guard(os.Getenv("DISARM")) }
