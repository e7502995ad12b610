package lease

import (
	"testing"
	"time"

	"mainstay/fleet"
)

// TestPaths: a network is broken when beats over another come back and over it not;
// a pause of the host is nobody's fault, and what never carried is not judged.
func TestPaths(t *testing.T) {
	at := func(ms int) fleet.Moment { return fleet.Moment(time.Duration(ms) * time.Millisecond) }
	const limit = 300 * time.Millisecond
	var p Paths
	check := func(when string, network string, want bool) {
		t.Helper()
		if got := p.Broken(network, limit); got != want {
			t.Errorf("%s: %s broken: %v", when, network, got)
		}
	}
	check("before anything", "management", false)
	for ms := 1000; ms <= 2000; ms += 50 {
		p.Acked("management", at(ms))
		p.Acked("storage", at(ms))
	}
	check("all well", "management", false)
	for ms := 2050; ms <= 2300; ms += 50 {
		p.Acked("storage", at(ms))
	}
	check("six beats lost", "management", false)
	p.Acked("storage", at(2350))
	check("seven beats lost", "management", true)
	check("seven beats lost", "storage", false)
	check("never heard", "tenant", false)
	p.Acked("management", at(2350))
	check("healed", "management", false)
	p.Acked("storage", at(9000)) // nothing was sent between: the host was stopped
	p.Acked("management", at(9000))
	p.Acked("management", at(8950)) // late, over a slower path
	check("after a pause", "management", false)
	check("after a pause", "storage", false)
}
