package lab

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
)

// silent takes networks away from a server, in one direction or both, and leaves the way
// to the BMCs. It says whether the fault is one by which the partner must go on alone:
// only when no network is left does a lease end.
//
//   - management alone carries the store. Nobody decides until it is back, or until a person
//     ends one of the two, or shuts it down, which gives up its vote by its word alone; nobody
//     is fenced, and what runs and speaks goes on.
//   - The others alone carry beats that management carries too. The two stay joint; what
//     cannot be served there moves by its holder's word.
//   - All, one by one: who is deaf knows that it is the one (docs/DESIGN.md section 3, P3),
//     and so does who is mute, for it hears its partner.
func (s *twoSite) silent(t *testing.T, dice *rand.Rand, victim string) (alone bool) {
	t.Helper()
	partner := map[string]string{"c1": "c2", "c2": "c1"}[victim]
	direction := []Direction{In, Out, Both, Link}[dice.IntN(4)]
	cut := func(networks ...string) {
		for _, n := range networks {
			s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: victim, Network: n, Direction: direction}))
		}
	}
	offs := s.offs(t, "c1") + s.offs(t, "c2")
	before, solo := generations(s.status(t)), s.holding(t, "service/solo").Host
	begun := time.Now()
	switch what := pickOne(dice, "management", "others", "each"); what {
	case "each":
		networks := []string{"management", "storage", "tenant"}
		dice.Shuffle(len(networks), func(i, k int) { networks[i], networks[k] = networks[k], networks[i] })
		for _, n := range networks {
			cut(n)
			s.lasts(time.Duration(dice.IntN(3000)) * time.Millisecond)
		}
		t.Logf("%s of %s were cut one by one, %s", strings.Join(networks, ", "), victim, direction)
		return true
	case "others":
		cut("storage", "tenant")
		now := s.away(t, partner, victim, "address/public")
		t.Logf("all networks of %s but management were cut, %s: public works on its partner after %v", victim, direction, time.Since(begun).Round(100*time.Millisecond))
		delete(before, "address/public")
		s.same(t, before, now, "what management serves stays")
	case "management":
		cut(what)
		s.awaitFrom(t, partner, "it to say that nobody decides", func(st api.Status) bool { return st.Leader == "" })
		s.lasts(30 * time.Second) // longer than either would wait for its time to fence
		if out, err := s.lab.Run(s.ctx, solo, "systemctl", "is-active", "solo.service"); err != nil {
			t.Errorf("the service runs no more on %s: %s", solo, out)
		}
		from := time.Now()
		s.lasts(time.Second)
		spoken := map[string]bool{}
		for _, c := range s.wire.Claims(from) {
			spoken[c.Address.String()] = true
		}
		t.Logf("management of %s was cut, %s: for 30 s nobody decided, and spoken are %v", victim, direction, slices.Sorted(maps.Keys(spoken)))
		switch dice.IntN(3) {
		case 0:
			t.Logf("%s is powered off by a person", victim)
			s.deed(t)(s.lab.PowerOff(s.ctx, victim))
			return true
		case 1: // nothing can be committed: its word is enough
			t.Logf("%s shuts down in good order", victim)
			s.run(t, victim, "systemctl", "--no-block", "poweroff")
			s.awaitFrom(t, partner, "its partner to go on alone", func(st api.Status) bool { return st.Leader == partner })
			s.shut(t, victim, offs)
			return true
		}
		s.deed(t)(s.lab.Heal(s.ctx, victim, All))
		s.await(t, "the heal", s.settled)
		if direction != Link {
			if s.same(t, before, s.status(t), "healing moves nothing"); t.Failed() {
				t.Log(s.run(t, partner, "mainstay", "events", "-n", "60"))
			}
		}
	}
	if now := s.offs(t, "c1") + s.offs(t, "c2"); now != offs {
		t.Errorf("a network was left between them, and %d were switched off", now-offs)
	}
	return false
}
