package node

import (
	"strings"
	"testing"

	"mainstay/fleet"
)

// TestDeserts: no file makes the leader forget a member of a database that may be primary
// or may have the last commits.
func TestDeserts(t *testing.T) {
	file := func(homes ...string) fleet.Spec {
		return fleet.Spec{Mode: "act", Services: []fleet.Service{{Name: "mariadb", Kind: "galera", Units: []string{"mariadb.service"}, Hosts: homes}}}
	}
	all, two := file("c1", "c2", "c3"), file("c1", "c2")
	gone := fleet.Spec{Mode: "act"}
	roles := func(hosts ...string) fleet.Spec {
		s := fleet.Spec{Mode: "act", Services: []fleet.Service{{Name: "mariadb", Kind: "galera", Roles: []string{"controller"}}}}
		for _, h := range hosts {
			s.Hosts = append(s.Hosts, fleet.Host{Name: h, Roles: []string{"controller"}})
		}
		return s
	}
	shadow := all
	shadow.Mode = "shadow"
	synced := fleet.ServiceState{Phase: fleet.Running, Replica: fleet.Replica{Part: fleet.PartSynced}}
	apart := fleet.ServiceState{Phase: fleet.Running, Replica: fleet.Replica{Part: fleet.PartApart}}
	down := fleet.ServiceState{Phase: fleet.Stopped}
	for _, tc := range []struct {
		name       string
		now, next  fleet.Spec
		c1, c3     fleet.ServiceState
		silent     bool // c3 is not heard
		proof      string
		boot       string // of the proof; "": the newest
		word, away bool   // a person's word to go on without c3; c3 has never joined
		want       string // "": it may go
	}{
		{name: "nobody goes", now: all, next: all, c1: down, silent: true},
		{name: "a silent one, while none is primary", now: all, next: two, c1: down, c3: synced, silent: true, want: "no member of it is primary, and c3"},
		{name: "a host that leaves the file", now: roles("c1", "c2", "c3"), next: roles("c1", "c2"), c1: down, silent: true, want: "no member of it is primary, and c3"},
		{name: "one that is down, while none is primary: it may have the newest", now: all, next: two, c1: down, c3: down, want: "may have the newest data"},
		{name: "the others are apart", now: all, next: two, c1: apart, c3: down, want: "no member of it is primary"},
		{name: "the whole service, while none is primary", now: all, next: gone, c1: down, silent: true, want: "no member of it is primary, and c3"},
		{name: "another kind, while none is primary", now: all, next: fleet.Spec{Services: []fleet.Service{{Name: "mariadb", Kind: "systemd"}}}, c1: down, silent: true, want: "no member of it is primary"},
		{name: "the whole service, while it serves", now: all, next: gone, c1: synced, c3: synced},
		{name: "one that runs", now: all, next: two, c1: synced, c3: synced, want: "has not said that its member is down"},
		{name: "one that is silent", now: all, next: two, c1: synced, c3: down, silent: true, want: "recover oath c3"},
		{name: "one that is down", now: all, next: two, c1: synced, c3: down},
		{name: "one that is proved off, while others are primary", now: all, next: two, c1: synced, silent: true, proof: "oath"},
		{name: "one whose former boot is proved off", now: all, next: two, c1: synced, silent: true, proof: "oath", boot: "earlier", want: "recover oath c3"},
		{name: "one that its watchdog has reset, or not", now: all, next: two, c1: synced, silent: true, proof: "watchdog", want: "recover oath c3"},
		{name: "proved off, while none is primary", now: all, next: two, c1: down, silent: true, proof: "fence", want: "--without c3"},
		{name: "given up, but it may run", now: all, next: two, c1: down, silent: true, word: true, want: "no member of it is primary"},
		{name: "proved off and given up", now: all, next: two, c1: down, silent: true, proof: "fence", word: true},
		{name: "one that never joined", now: all, next: two, c1: synced, silent: true, away: true},
		{name: "one that never joined, while none is primary", now: all, next: two, c1: down, silent: true, away: true, want: "never joined"},
		{name: "the same, and a person knows it", now: all, next: two, c1: down, silent: true, away: true, word: true},
		{name: "in shadow nobody begins anything", now: shadow, next: two, c1: down, silent: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			says := func(s fleet.ServiceState) fleet.Report {
				return fleet.Report{Services: map[string]fleet.ServiceState{"mariadb": s}}
			}
			reports := map[string]fleet.Report{"c1": says(tc.c1), "c2": says(down), "c3": says(tc.c3)}
			state := fleet.State{Members: map[string]fleet.Member{"c1": {Admitted: "b"}, "c2": {Admitted: "b"}, "c3": {Admitted: "b"}},
				Proofs: map[string]fleet.Proof{}, Wishes: map[string]fleet.Wish{}}
			if tc.proof != "" {
				p := fleet.Proof{Kind: tc.proof, Boot: "b"}
				if tc.boot != "" {
					p.Boot = tc.boot
				}
				state.Proofs["c3"] = p
			}
			if tc.word {
				state.Wishes["without-mariadb-c3"] = fleet.Wish{}
			}
			if tc.away {
				delete(state.Members, "c3")
			}
			out := strings.Join(deserts(tc.now, tc.next, state, reports, func(host string) bool { return host != "c3" || !tc.silent }), "\n")
			if tc.want == "" && out != "" || !strings.Contains(out, tc.want) {
				t.Errorf("got %q, want %q", out, tc.want)
			}
		})
	}
}
