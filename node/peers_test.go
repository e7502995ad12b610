package node

import (
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// TestPatience: what starts or ends a service may take long, and an order whose answer is
// not awaited is given again, and carried out twice.
func TestPatience(t *testing.T) {
	for _, verb := range []fleet.Verb{fleet.VerbStart, fleet.VerbStop, fleet.VerbRestart, plan.VerbJoin, plan.VerbPosition, plan.VerbBootstrap} {
		if got := patience(verb); got < 20*time.Minute {
			t.Errorf("%s is awaited for %v", verb, got)
		}
	}
}
