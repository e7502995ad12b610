package service

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestCatalogue: every row is whole and agrees with the others.
func TestCatalogue(t *testing.T) {
	all := Catalogue()
	own, err := Units(UnitValues{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"keystone", "memcached", "mariadb", "rabbitmq", "haproxy", "keystone-flush"} {
		if _, ok := all[want]; !ok {
			t.Errorf("no row %s", want)
		}
	}
	passive := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		t.Run(name, func(t *testing.T) {
			if s.Name != name {
				t.Errorf("Name = %q", s.Name)
			}
			c, err := Open(s, Env{Systemd: NewSystemd("")})
			if err != nil {
				t.Error(err)
			} else if err := c.Close(); err != nil {
				t.Error(err)
			}
			switch s.Mode {
			case fleet.ActiveActive:
				if s.OnFailure == fleet.FailMove {
					t.Error("a copy that runs everywhere cannot move")
				}
			case fleet.ActivePassive:
				passive++
				if !strings.Contains(s.Why, "active/active") {
					t.Error("Why does not say why not active/active")
				}
			default:
				t.Errorf("Mode = %q", s.Mode)
			}
			if len(s.Why) < 40 || !strings.HasSuffix(s.Why, ".") {
				t.Errorf("Why is no sentence for an operator: %q", s.Why)
			}
			if len(s.Roles) == 0 || len(s.Hosts) > 0 {
				t.Error("a row names roles, and no hosts")
			}
			if s.Restarts.Count < 1 || s.Restarts.Within < time.Minute {
				t.Errorf("Restarts = %+v", s.Restarts)
			}
			if !slices.Contains([]fleet.OnFailure{fleet.FailMove, fleet.FailFence, fleet.FailBlock}, s.OnFailure) {
				t.Errorf("OnFailure = %q", s.OnFailure)
			}
			for _, u := range s.Units {
				if strings.HasPrefix(u, "mainstay") && own[u] == "" {
					t.Errorf("unit %s is not among ours", u)
				}
			}
			if s.Check.Every <= 0 || s.Check.Deadline <= 0 {
				t.Errorf("Check = %+v: both times must be given", s.Check)
			}
			if (s.Check.Kind == "") != (s.Check.Port == 0) || (s.Check.Kind == "http") != strings.HasPrefix(s.Check.Path, "/") {
				t.Errorf("Check = %+v: kind, port and path do not go together", s.Check)
			}
			if !slices.Contains([]string{"", "tcp", "http", "memcached"}, s.Check.Kind) {
				t.Errorf("Check.Kind = %q", s.Check.Kind)
			}
			if l := s.Listen; l.Port != 0 {
				if l.Backend == 0 || (l.Protocol != "http" && l.Protocol != "tcp") || (len(l.Addresses) == 0 && !l.Local) {
					t.Errorf("Listen = %+v", l)
				}
				if s.Check.Port != 0 && s.Check.Port != l.Backend {
					t.Errorf("checked at %d, served at %d", s.Check.Port, l.Backend)
				}
				if s.Mode != fleet.ActiveActive {
					t.Error("HAProxy spreads over copies; an active/passive service has one")
				}
			}
			for _, a := range s.After {
				if _, ok := all[a]; !ok {
					t.Errorf("After names %s, which is no row", a)
				}
				if reaches(all, a, name, len(all)) {
					t.Errorf("After %s leads back to %s", a, name)
				}
			}
		})
	}
	if passive == 0 {
		t.Error("no active/passive row")
	}
	ports := map[int]string{}
	for name, s := range all {
		if p := s.Listen.Port; p != 0 {
			if other, taken := ports[p]; taken {
				t.Errorf("%s and %s both listen at %d", name, other, p)
			}
			ports[p] = name
		}
	}
}

func reaches(all map[string]fleet.Service, from, to string, depth int) bool {
	return from == to || depth > 0 && slices.ContainsFunc(all[from].After, func(a string) bool { return reaches(all, a, to, depth-1) })
}

func TestCatalogueIsFresh(t *testing.T) {
	Catalogue()["keystone"].Units[0] = "changed.service"
	if Catalogue()["keystone"].Units[0] != "keystone.service" {
		t.Error("one caller's change is seen by the next")
	}
}
