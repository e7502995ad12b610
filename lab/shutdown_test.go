package lab

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// shutDown lets hosts shut down that hold the address and the active/passive service:
// the leader without a logind, so that systemd stops the agent and the services at
// once; and a follower with one, which waits until the host has handed over. What they
// held works elsewhere without a fence, sooner for the client than after a loss of
// power, and they are admitted when they return.
func (s *lightSite) shutDown(t *testing.T) {
	var orderly []time.Duration
	for _, logind := range []bool{false, true} {
		name := "without logind"
		if logind {
			name = "with logind"
		}
		leader := s.status(t).Leader
		host := leader
		if logind {
			host = s.voterBut(t, leader)
			s.run(t, host, "systemctl", "unmask", "systemd-logind.service")
			s.run(t, host, "systemctl", "start", "systemd-logind.service")
			s.eventually(t, "the agent to delay shutdowns", func() error {
				out, err := s.lab.Run(s.ctx, host, "systemd-inhibit", "--list")
				if err == nil && !strings.Contains(out, "Mainstay") {
					err = fmt.Errorf("no inhibitor of Mainstay in: %s", out)
				}
				return err
			})
		}
		s.gather(t, host)
		before := s.run(t, s.other(host), "mainstay", "events", "-n", "0")
		log := s.watch(t)
		s.run(t, host, "systemctl", "--no-block", "poweroff")
		s.awaitFrom(t, s.other(host), "what "+host+" held elsewhere, and its farewell", func(st api.Status) bool {
			address, solo := find(st, "address/internal"), find(st, "service/solo")
			away := slices.ContainsFunc(st.Hosts, func(h api.HostStatus) bool { return h.Name == host && h.Condition == fleet.Offline })
			return away && address.Works && address.Host != host && solo.Works && solo.Host != host
		})
		s.eventually(t, host+" to be off", func() error {
			on, err := s.lab.Powered(host)
			if err == nil && on {
				err = errors.New("it is on")
			}
			return err
		})
		gap := s.served(t, log)
		t.Logf("%s: the client's longest time without an answer was %v", name, gap)
		orderly = append(orderly, gap)
		after := s.run(t, s.other(host), "mainstay", "events", "-n", "0")
		for _, word := range []string{"will be fenced", "promised to acknowledge"} {
			if a, b := strings.Count(after, word), strings.Count(before, word); a != b {
				t.Errorf("%s: %d times %q in the events of a shutdown in good order", name, a-b, word)
			}
		}
		s.deed(t)(s.lab.Start(s.ctx, host))
		s.await(t, host+" back in service", s.without("c4"))
		s.once(t)
	}
	host := s.holding(t, "address/internal").Host
	log := s.watch(t)
	s.deed(t)(s.lab.PowerOff(s.ctx, host))
	s.awaitFrom(t, s.other(host), "the address on another host", func(st api.Status) bool {
		now := find(st, "address/internal")
		return now.Host != host && now.Works
	})
	lost := s.served(t, log)
	s.deed(t)(s.lab.Start(s.ctx, host))
	s.await(t, host+" back in service", s.without("c4"))
	for i, gap := range orderly {
		if gap >= lost {
			t.Errorf("shutdown %d in good order cost the client %v, a loss of power %v", i, gap, lost)
		}
	}
}

// gather brings the address and the service to one host.
func (s *lightSite) gather(t *testing.T, host string) {
	t.Helper()
	for _, thing := range []string{"internal", "solo"} {
		s.run(t, host, "mainstay", "move", thing, host, "--wait", "2m")
	}
	s.await(t, "calm", s.without("c4"))
}

// voterBut names a voter that is not the given one.
func (s *lightSite) voterBut(t *testing.T, host string) string {
	t.Helper()
	for _, h := range s.status(t).Hosts {
		if h.Voter && h.Name != host {
			return h.Name
		}
	}
	return ""
}

func (s *lightSite) eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	if err := until(s.ctx, siteBound, ask); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
