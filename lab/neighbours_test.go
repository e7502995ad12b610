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

// neighbours is a site of three voters and four computes, which alone are on the tenants' network.
type neighbours struct{ *site }

// TestNeighbours takes from computes a network on which no voter lives: what their neighbours
// there find is told as the stories e-neighbours-*, h99 and h100 tell it, and of nobody else.
func TestNeighbours(t *testing.T) {
	if !*faults {
		t.Log("not played: it boots seven hosts; make lab-neighbours")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	binary := build(ctx, t, "one")
	computes := []string{"n1", "n2", "n3", "n4"}
	hosts := []Host{{Name: "c1"}, {Name: "c2"}, {Name: "c3"}}
	for _, n := range computes {
		hosts = append(hosts, Host{Name: n})
	}
	l := up(t, Config{Name: "neigh", Hosts: hosts, Disk: 1 << 30})
	c := SiteConfig{
		Binary: binary, Timing: "wide", Computes: computes, Apart: "tenant",
		Addresses: fmt.Sprintf("  internal: {address: %s, with: [haproxy]}\n", l.Virtual()["internal"]),
	}
	if err := l.Deploy(ctx, c, func(text string) { t.Log(text) }); err != nil {
		t.Fatal(err)
	}
	s := &neighbours{&site{ctx: ctx, lab: l, binary: binary}}
	s.await(t, "everybody well", s.missed())

	for _, way := range []Direction{Both, In, Out} {
		t.Run("one is cut off, "+string(way), func(t *testing.T) { s.cut(t, way, "n1") })
	}
	t.Run("one neighbour is wrong", s.wrong)
	told := s.told(t, "n1") + s.told(t, "n4")
	t.Run("two are cut off, and miss everybody", func(t *testing.T) { s.cut(t, Both, "n2", "n3") })
	if now := s.told(t, "n1") + s.told(t, "n4"); now != told {
		t.Error("history tells that one was missed who is well")
	}
}

// told is how often history says that a compute was missed.
func (s *neighbours) told(t *testing.T, host string) int {
	t.Helper()
	return strings.Count(s.run(t, "c1", "mainstay", "events", "-n", "0"), host+" is degraded: not heard over tenant by its neighbours")
}

// missed is the look of a site in which all are well but these computes, which their neighbours
// on the tenants' network miss.
func (s *neighbours) missed(hosts ...string) func(api.Status) bool {
	return func(st api.Status) bool { return s.amiss(st, hosts) == "" }
}

// amiss says what in a status is otherwise; "" if nothing is.
func (s *neighbours) amiss(st api.Status, missed []string) string {
	if st.Leader == "" || len(st.Hosts) != len(s.lab.Hosts) {
		return "nobody leads"
	}
	for _, h := range st.Hosts {
		said := h.Condition == fleet.Degraded && strings.Contains(h.Why, "not heard over tenant by its neighbours ")
		if want := slices.Contains(missed, h.Name); want != said || !want && h.Condition != fleet.Healthy {
			return fmt.Sprintf("%s is %s: %s", h.Name, h.Condition, h.Why)
		}
	}
	return ""
}

// cut takes the tenants' network from computes: they are told of, on the word of two neighbours
// at least, and nobody else is; given back, all are well.
func (s *neighbours) cut(t *testing.T, way Direction, victims ...string) {
	var at time.Time
	for _, v := range victims {
		deed, err := s.lab.Cut(s.ctx, Cut{Host: v, Network: "tenant", Direction: way})
		if err != nil {
			t.Fatal(err)
		}
		at = deed.At
	}
	s.await(t, strings.Join(victims, " and ")+" missed", s.missed(victims...))
	t.Logf("told %.1f s after the cut", time.Since(at).Seconds())
	for _, h := range s.status(t).Hosts {
		_, names, _ := strings.Cut(h.Why, "by its neighbours ")
		if !slices.Contains(victims, h.Name) {
			continue
		}
		t.Logf("%s is %s: %s", h.Name, h.Condition, h.Why)
		says := strings.Split(names, ", ")
		// Of two that were cut off at different moments one may have missed the other before.
		if says = slices.DeleteFunc(says, func(n string) bool { return slices.Contains(victims, n) }); len(says) < 2 {
			t.Errorf("%s is missed on the word of %s", h.Name, names)
		}
	}
	s.steady(t, victims...)
	for _, v := range victims {
		deed, err := s.lab.Heal(s.ctx, v, "tenant")
		if err != nil {
			t.Fatal(err)
		}
		at = deed.At
	}
	s.await(t, "everybody well", s.missed())
	t.Logf("well again %.1f s after the heal", time.Since(at).Seconds())
}

// wrong breaks the way between two neighbours alone: each misses the other, and nobody is told of.
func (s *neighbours) wrong(t *testing.T) {
	s.deed(t)(s.lab.Cut(s.ctx, Cut{Host: "n3", Network: "tenant", Direction: Both, Peer: "n4"}))
	s.steady(t)
	s.deed(t)(s.lab.Heal(s.ctx, "n3", "tenant"))
}

// steady looks for longer than a neighbour needs to be missed, and sees that nobody else is told of.
func (s *neighbours) steady(t *testing.T, missed ...string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && s.ctx.Err() == nil; {
		if why := s.amiss(s.status(t), missed); why != "" {
			t.Fatalf("%s missed, and %s", strings.Join(missed, " and "), why)
		}
	}
}

func (s *neighbours) status(t *testing.T) api.Status {
	t.Helper()
	st, err := s.lab.SiteStatus(s.ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	return st
}
