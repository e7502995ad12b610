package fleet

import (
	"fmt"
	"slices"
	"time"
)

// Pair is what the two voters of a site without a third have agreed on, by commits that
// are on both, for the moment when they lose sight of each other (docs/DESIGN.md section
// 3, "Two servers alone"). Each keeps the newest that it has applied.
type Pair struct {
	// N counts the agreements: each change raises it.
	N uint64 `json:"n"`
	// Boots are the boots that were joint, by host. The right to fence the other is
	// theirs: a host that has booted since has none.
	Boots map[string]string `json:"boots,omitempty"`
	// First is the host that fences at once; the other gives it time. Empty: nobody is,
	// and both wait. From one host to the other it changes through nobody.
	First string    `json:"first,omitempty"`
	At    time.Time `json:"at,omitzero"`
}

// When the hosts of a pair fence each other, counted from the end of their lease: the first
// after PairPause (an agent that is started again is no loss), the other PairApart later.
// Within PairSend of its time a host may send an off; no driver lets that call take longer
// than 8 s, and the rest is more than the two can differ in when they lost sight of each other.
const (
	PairPause = 3 * time.Second
	PairApart = 15 * time.Second
	PairSend  = 4 * time.Second
)

// pairSums are Sums of a pair: whoever is left proves the other off and starts its store
// anew before it speaks for anything.
func (t Timing) pairSums() []Sum {
	const proof, anew, busy = 1200 * time.Millisecond, 3 * time.Second, 8 * time.Second
	first := t.Lease + max(PairPause, t.Silence(GuardLate)) + proof
	text := fmt.Sprintf("lease + %v + a proof + a store and an agent that start anew", PairPause)
	return []Sum{
		{Case: "of two servers the one dies that holds less", Formula: text, Median: first + anew, Worst: first + busy},
		{Case: "of two servers the one dies that holds more", Formula: fmt.Sprintf("the same + %v, for an off that it may have sent", PairApart), Median: first + PairApart + anew, Worst: first + PairApart + busy},
		{Case: "one of two servers shuts down", Formula: "R: it gives back what it holds, and then its vote", Median: turnMedian, Worst: turnWorst},
	}
}

// Pair returns the two voters of a site that has no third, in the order of their names;
// ok is false of any other site.
func (s Spec) Pair() (hosts [2]string, ok bool) {
	var all []string
	for i := range s.Hosts {
		if h := &s.Hosts[i]; h.Voter || h.Name == s.Alone {
			all = append(all, h.Name)
		}
	}
	if len(all) != 2 {
		return hosts, false
	}
	slices.Sort(all)
	return [2]string{all[0], all[1]}, true
}

// Partner is the other host of a pair; "" if host is of none.
func (s Spec) Partner(host string) string {
	switch hosts, ok := s.Pair(); {
	case ok && hosts[0] == host:
		return hosts[1]
	case ok && hosts[1] == host:
		return hosts[0]
	}
	return ""
}

// pair checks what two voters without a third need: each may have to prove the other off.
func (c *checker) pair(voters []Host) {
	const third = "; or a third voter: a controller, or a small host with roles: [arbiter]"
	for _, h := range voters {
		at := "hosts/" + h.Name
		if len(h.Fence) == 0 {
			c.fault(at, "voters", h.Name, "is one of two voters and has no fence: the other could never prove that it is off, and go on", "fence: {driver: redfish, ...}"+third)
		}
		if h.Watchdog.Device != "" {
			c.fault(at+"/watchdog", "voters", h.Watchdog.Device, "resets one of two voters when they lose sight of each other, and so it would the other: that is no proof in a pair", "no watchdog"+third)
		}
		if h.HasRole("arbiter") {
			c.fault(at+"/roles", "voters", "arbiter", "is the third vote of a pair, and there are two voters", "roles: [controller], or one more voter")
		}
	}
	c.warn("hosts", "voters", "", fmt.Sprintf("%s and %s vote without a third: that was seen in virtual time, and in a lab for a few dozen rounds only (docs/STATE.md of Mainstay)", voters[0].Name, voters[1].Name),
		"a third voter, a controller or a small host with roles: [arbiter]: the tried way")
	a, b := voters[0], voters[1]
	shared := 0
	for _, n := range Sorted(a.Addresses) {
		if _, ok := b.Addresses[n]; ok {
			shared++
		}
	}
	if shared < 2 {
		c.fault("hosts", "voters", "", fmt.Sprintf("the two voters (%s, %s) share %d network: its loss alone would switch one of them off", a.Name, b.Name, shared), "addresses of both on two networks at least"+third)
	}
	for _, h := range c.s.Hosts {
		if !h.Voter && c.s.CanHold(h) {
			c.fault("hosts/"+h.Name, "voters", h.Name, "may hold what only one host may have, and does not vote: of two voters only they may", "a third voter; or services and addresses that live on the two alone")
		}
	}
}

// Without returns the spec of a pair in which one goes on alone: the other has no vote and
// no ear until it has joined again.
func (s Spec) Without(partner string) Spec {
	s.Hosts = slices.Clone(s.Hosts)
	for i := range s.Hosts {
		if s.Hosts[i].Name == partner {
			s.Hosts[i].Voter = false
		}
	}
	s.Alone = partner
	return s
}

// PairWord is what one host of a pair tells the other, which has booted, about itself.
type PairWord struct {
	Host string `json:"host"`
	Boot string `json:"boot"`
	// Alone: it goes on alone, in its present boot, without the boot Without of the other.
	Alone   bool   `json:"alone,omitempty"`
	Without string `json:"without,omitempty"`
	// Left: that boot gave up its vote by its own word, and may join again without a boot.
	Left bool `json:"left,omitempty"`
	// Stale: it went on alone in an earlier boot, and waits for a word itself.
	Stale bool `json:"stale,omitempty"`
}
