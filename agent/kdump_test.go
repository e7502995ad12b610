package agent

import (
	"net/netip"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// TestDumping: a crash kernel is known by its host's own address; its word is over half a minute after
// the last one, and as soon as the host itself is heard again.
func TestDumping(t *testing.T) {
	now, wall := fleet.Moment(time.Hour), time.Unix(1000, 0)
	a := &Agent{tell: make(chan struct{}, 1)}
	a.cfg.Now, a.cfg.Wall = func() fleet.Moment { return now }, func() time.Time { return wall }
	own := func(addr string) map[string]netip.Addr {
		return map[string]netip.Addr{"storage": netip.MustParseAddr(addr)}
	}
	a.spec.Hosts = []fleet.Host{{Name: "n1", Addresses: own("10.0.1.31")}, {Name: "n2", Addresses: own("10.0.1.32"), Kdump: time.Minute}}
	a.ear = lease.NewEar("c1", fleet.Presets()["room"], nil, 0)
	says := func(what string, want ...string) {
		t.Helper()
		got := a.dumped.Word(now, a.ear)
		if len(got) != len(want) {
			t.Errorf("%s: %v", what, got)
		}
		for _, host := range want {
			if _, is := got[host]; !is {
				t.Errorf("%s: %v", what, got)
			}
		}
	}
	a.dumps(netip.MustParseAddr("10.0.1.99"))
	a.dumps(netip.MustParseAddr("10.0.1.31"))
	says("a stranger, and a host that has no crash kernel")
	if !a.mayDump() {
		t.Error("nobody listens, and n2 may speak")
	}
	a.dumps(netip.MustParseAddr("10.0.1.32"))
	says("its own address", "n2")
	if len(a.tell) != 1 {
		t.Error("it is not told at once")
	}
	began := a.dumped.Word(now, a.ear)["n2"]
	now, wall = now.Add(20*time.Second), wall.Add(20*time.Second)
	a.dumps(netip.MustParseAddr("10.0.1.32"))
	now = now.Add(3*lease.DumpSays - 1)
	says("it goes on", "n2")
	if !a.dumped.Word(now, a.ear)["n2"].Equal(began) {
		t.Error("it begins anew with each word")
	}
	now++
	says("nothing more came")
	a.dumps(netip.MustParseAddr("10.0.1.32"))
	says("another dump", "n2")
	if a.dumped.Word(now, a.ear)["n2"].Equal(began) {
		t.Error("another dump began when the first did")
	}
	now++
	a.ear.Beat(lease.Beat{Stint: fleet.Stint{Host: "n2", Boot: "b", N: 1}, Sent: 1}, now)
	says("it is heard itself")
	now = now.Add(3*time.Second - 1)
	a.dumps(netip.MustParseAddr("10.0.1.32"))
	says("so soon after its beat that is no crash kernel")
	now++
	a.dumps(netip.MustParseAddr("10.0.1.32"))
	says("it may be one", "n2")
}
