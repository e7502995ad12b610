package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// TestArbiter lives with two servers and an arbiter: each server is lost in every way
// and comes back, the arbiter is, and then both the arbiter and a server, when nothing
// may be decided. A client asks all the while, and a witness hears of the one service.
func TestArbiter(t *testing.T) {
	if !*faults {
		t.Log("not played: it takes ten minutes; make lab-arbiter")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	s := newArbiterSite(ctx, t)

	for _, victim := range []string{"c1", "c2"} {
		s.step(t, victim+" loses power", func(t *testing.T) {
			s.serverLost(t, victim, func() { s.deed(t)(s.lab.PowerOff(ctx, victim)) })
		})
		s.step(t, victim+" hangs", func(t *testing.T) {
			s.serverLost(t, victim, func() { s.deed(t)(s.lab.Hang(ctx, victim, All)) })
		})
		s.step(t, victim+" is cut off", func(t *testing.T) {
			s.serverLost(t, victim, func() {
				s.deed(t)(s.lab.Cut(ctx, Cut{Host: victim, Network: All, Direction: Both}))
			})
		})
	}
	s.step(t, "the servers lose sight of each other", s.sightLost)
	s.step(t, "the arbiter loses power", func(t *testing.T) {
		s.arbiterLost(t, func() { s.deed(t)(s.lab.PowerOff(ctx, "a1")) }, func() { s.deed(t)(s.lab.Start(ctx, "a1")) })
	})
	s.step(t, "the arbiter hangs", func(t *testing.T) {
		s.arbiterLost(t, func() { s.deed(t)(s.lab.Hang(ctx, "a1", All)) }, func() { s.deed(t)(s.lab.Resume(ctx, "a1", All)) })
	})
	s.step(t, "the arbiter is cut off", func(t *testing.T) {
		s.arbiterLost(t, func() { s.deed(t)(s.lab.Cut(ctx, Cut{Host: "a1", Network: All, Direction: Both})) },
			func() { s.deed(t)(s.lab.Heal(ctx, "a1", All)) })
	})
	s.step(t, "the arbiter loses power, and then the server that serves", s.bothLost)
	s.light.once(t)
}

// arbiterSite is two servers c1 and c2, and the arbiter a1.
type arbiterSite struct {
	*faulted
	light *lightSite // the same site, with the witness of its one service
}

func newArbiterSite(ctx context.Context, t *testing.T) *arbiterSite {
	t.Helper()
	light := deployServers(ctx, t, "arbiter", SiteConfig{Timing: "wide", Arbiters: []string{"a1"}})
	s := &arbiterSite{faulted: &faulted{site: light.site}, light: light}
	s.await(t, "everything in service", s.settled)
	s.log = s.watchURL(t, fmt.Sprintf("http://%s:5000/", s.lab.Virtual()["internal"]))
	s.light.generations(t)
	return s
}

// bring moves all that is exclusive to one server.
func (s *arbiterSite) bring(t *testing.T, host string) {
	t.Helper()
	s.gather(t, host)
	if s.holding(t, "service/solo").Host != host {
		s.run(t, "a1", "mainstay", "move", "solo", host, "--wait", "2m")
	}
	s.await(t, "calm on "+host, s.settled)
}

// serverLost: the server that has everything is lost, and the other goes on with the
// arbiter: with the addresses at once, with the service after a proof. The lost one is
// turned on again by the other, and shoots nobody.
func (s *arbiterSite) serverLost(t *testing.T, victim string, lose func()) {
	other := map[string]string{"c1": "c2", "c2": "c1"}[victim]
	s.bring(t, victim)
	before := s.offs(t, other)
	begun := time.Now()
	lose()
	s.away(t, "a1", victim, s.things()...)
	t.Logf("the addresses worked elsewhere after %v, as the status says", time.Since(begun).Round(time.Millisecond))
	s.away(t, "a1", victim, "service/solo")
	t.Logf("the service worked elsewhere after %v", time.Since(begun).Round(time.Millisecond))
	if events := s.run(t, "a1", "mainstay", "events", "-n", "0"); !strings.Contains(events, victim+" is off") {
		t.Errorf("no event tells of the proof that %s is off:\n%s", victim, events)
	}
	s.deed(t)(s.lab.Heal(s.ctx, victim, All))
	s.deed(t)(s.lab.Start(s.ctx, victim)) // after three fences within an hour it stays off for a person
	s.await(t, victim+" back", s.settled)
	for _, thing := range append(s.things(), "service/solo") {
		if h := s.find1(t, "a1", thing); h.Host != other {
			t.Errorf("%s went to %s when %s returned", thing, h.Host, victim)
		}
	}
	if now := s.offs(t, other); now != before {
		t.Errorf("%s was switched off %d times", other, now-before)
	}
}

// sightLost: each server has a majority with the arbiter, so each keeps what it has.
func (s *arbiterSite) sightLost(t *testing.T) {
	s.bring(t, "c1")
	before, offs := generations(s.status(t)), s.offs(t, "c1")+s.offs(t, "c2")
	s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: "c1", Network: All, Direction: Both, Peer: "c2"}))
	// Longer than a lease, an election, and the first seconds in which nobody is fenced.
	s.lasts(15 * time.Second)
	s.same(t, before, s.working(t, "a1", ""), "who hears the arbiter keeps what it has")
	s.deed(t)(s.lab.Heal(s.ctx, "c1", All))
	s.await(t, "the heal", s.settled)
	s.same(t, before, s.status(t), "healing moves nothing")
	if now := s.offs(t, "c1") + s.offs(t, "c2"); now != offs {
		t.Errorf("%d hosts were switched off that the arbiter heard", now-offs)
	}
}

// arbiterLost: without the arbiter the two are a majority. Nothing moves by itself, and
// what a person wishes does.
func (s *arbiterSite) arbiterLost(t *testing.T, lose, back func()) {
	s.bring(t, "c1")
	before, offs := generations(s.status(t)), s.offs(t, "a1")
	lose()
	s.awaitFrom(t, "c1", "the arbiter missed", func(st api.Status) bool {
		return st.Leader != "" && st.Leader != "a1" && slices.ContainsFunc(st.Hosts, func(h api.HostStatus) bool { return h.Name == "a1" && h.Condition != fleet.Healthy })
	})
	s.same(t, before, s.working(t, "c1", ""), "the arbiter's loss costs nothing")
	s.run(t, "c1", "mainstay", "move", "solo", "c2", "--wait", "2m")
	back()
	s.await(t, "the arbiter back", s.settled)
	if now := s.offs(t, "a1"); now > offs+1 { // the fault itself may have been one
		t.Errorf("the arbiter, which has nothing, was switched off %d times", now-offs)
	}
}

// bothLost: one of three is no majority. It serves nothing and starts nothing, whatever
// it has seen, and says what would help; with the arbiter it goes on, with the service
// only on a person's word, for the lost one's BMC is dead.
func (s *arbiterSite) bothLost(t *testing.T) {
	s.bring(t, "c1")
	s.deed(t)(s.lab.Kill(s.ctx, "a1"))
	s.awaitFrom(t, "c1", "the arbiter missed", func(st api.Status) bool {
		return st.Leader != "" && slices.ContainsFunc(st.Hosts, func(h api.HostStatus) bool { return h.Name == "a1" && h.Condition != fleet.Healthy })
	})
	s.deed(t)(s.lab.Kill(s.ctx, "c1"))
	s.awaitFrom(t, "c2", "no leader", func(st api.Status) bool { return st.Leader == "" })
	from := time.Now()
	s.lasts(15 * time.Second)
	for _, c := range s.wire.Claims(from) {
		t.Errorf("%s spoke for %s, and one of three voters is no majority", c.Host, c.Address)
		break
	}
	if out, err := s.lab.Run(s.ctx, "c2", "systemctl", "is-active", "solo.service"); err == nil {
		t.Errorf("one of three voters started the service: %s", out)
	}
	if out, _ := s.lab.Run(s.ctx, "c2", "mainstay", "status"); !strings.Contains(out, "NO LEADER") {
		t.Errorf("the status does not say that nobody decides:\n%s", out)
	}
	begun := time.Now()
	s.deed(t)(s.lab.Start(s.ctx, "a1"))
	s.away(t, "c2", "c1", s.things()...)
	t.Logf("the addresses worked %v after the arbiter had power again", time.Since(begun).Round(time.Millisecond))
	s.awaitFrom(t, "c2", "the wait for a proof, with its command", func(st api.Status) bool {
		return slices.ContainsFunc(st.Waits, func(w fleet.Wait) bool {
			return w.About == "service/solo" && strings.Contains(w.Help, "mainstay recover oath c1")
		})
	})
	s.run(t, "c2", "mainstay", "recover", "oath", "c1", "--i-have-seen-that-it-is-off", "its cord is in my hand")
	s.away(t, "c2", "c1", "service/solo")
	s.deed(t)(s.lab.Start(s.ctx, "c1"))
	s.await(t, "c1 back", s.settled)
}
