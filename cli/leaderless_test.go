package cli

import (
	"strings"
	"testing"

	"mainstay/api"
	"mainstay/fleet"
)

// trio is a site of three voters as c1 sees it while nobody leads.
func trio() api.Status {
	s := sane()
	s.Leader, s.By, s.View = "", "c1", "this host's own view"
	s.Hosts = nil
	for _, name := range []string{"c1", "c2", "c3"} {
		s.Hosts = append(s.Hosts, api.HostStatus{Name: name, Voter: true, Condition: fleet.Healthy, Why: "heard", Store: fleet.StoreAlone, StoreWhy: "it knows of no leader"})
	}
	return s
}

// TestLeaderless: without a leader the status says what holds meanwhile, whose stores are
// missed, and what to do on which host.
func TestLeaderless(t *testing.T) {
	down := func(h *api.HostStatus) { h.Store, h.StoreWhy = fleet.StoreDown, "no connection" }
	gone := func(h *api.HostStatus) {
		h.Store, h.StoreWhy, h.Condition, h.Why = "", "", fleet.Suspect, "three beats missed"
	}
	for _, c := range []struct {
		name      string
		change    func(*api.Status)
		says, not []string
	}{
		{"two stores are down", func(s *api.Status) { down(&s.Hosts[1]); down(&s.Hosts[2]) },
			[]string{
				"NO LEADER: nothing is decided", "agents of 2 of the 3 voters acknowledge its host, which needs no store: c1 hears 3.",
				"  c2  its store is down: no connection\n      help: on c2: systemctl status mainstay-quorum", "  c3  its store is down", "When 2 of the 3 stores serve again", "a lost quorum",
			}, []string{"VOTE", "  c1  its store", "ALONE"}},
		{"two hosts are gone", func(s *api.Status) { gone(&s.Hosts[1]); gone(&s.Hosts[2]) },
			[]string{"c1 hears only 1, so on a host that sees no more it is silent", "  c3  the host is suspect: three beats missed\n      help: look at its power"}, []string{"VOTE"}},
		{"nothing is known to be amiss", func(*api.Status) {}, []string{"c1 knows of no store that is missing", "port 7402"}, []string{"lost quorum"}},
		{"a host that does not vote", func(s *api.Status) {
			s.By = "c4"
			for i := range s.Hosts {
				gone(&s.Hosts[i])
			}
		}, []string{"c4 does not vote", "mainstay status on one of c1, c2, c3"}, []string{"look at its power"}},
		{"the store is full", func(s *api.Status) {
			s.Leader = "c1"
			s.Hosts[0].Store, s.Hosts[0].StoreWhy = fleet.StoreFull, "NOSPACE"
		},
			[]string{"THE STORE IS FULL: nothing is decided", "mainstay backup FILE"}, []string{"NO LEADER"}},
		{"somebody leads", func(s *api.Status) { s.Leader, s.View = "c2", "leader" }, nil, []string{"nothing is decided"}},
		{"its own view, and somebody leads", func(s *api.Status) { s.Leader = "c2" }, nil, []string{"nothing is decided"}},
	} {
		s := trio()
		c.change(&s)
		code, out, _ := serve(t, &backend{status: s})("status")
		if code != 3 {
			t.Errorf("%s: exit %d", c.name, code)
		}
		for _, want := range c.says {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no word of %q:\n%s", c.name, want, out)
			}
		}
		for _, word := range c.not {
			if strings.Contains(out, word) {
				t.Errorf("%s: it says %q:\n%s", c.name, word, out)
			}
		}
	}
}

// TestStatusOfADeadStore: a store that is missing while the others go on is in its host's
// line, and no longer sound.
func TestStatusOfADeadStore(t *testing.T) {
	s := trio()
	s.Leader, s.View = "c1", "leader"
	for i := range s.Hosts {
		s.Hosts[i].Store, s.Hosts[i].StoreWhy = "votes", ""
	}
	if code, out, _ := serve(t, &backend{status: s})("status"); code != 0 {
		t.Fatalf("all vote: exit %d\n%s", code, out)
	}
	s.Hosts[1].Store, s.Hosts[1].StoreWhy = fleet.StoreDown, "no connection"
	if code, out, _ := serve(t, &backend{status: s})("status"); code != 3 || !strings.Contains(out, "heard; ITS STORE IS DOWN: no connection") || strings.Contains(out, "VOTE") {
		t.Errorf("exit %d\n%s", code, out)
	}
	s.Hosts[1].Store, s.Hosts[1].StoreWhy = fleet.StoreLearns, "c1 gives it its vote"
	if code, out, _ := serve(t, &backend{status: s})("status"); code != 3 || !strings.Contains(out, "heard; IT DOES NOT VOTE YET") || strings.Contains(out, "ITS STORE IS") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}
