package node

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mainstay/agent"
	"mainstay/fence/falsebmc"
	"mainstay/fleet"
	"mainstay/leader"
	"mainstay/plan"
	"mainstay/store"
)

// socket is the power of a host.
type socket struct{ on atomic.Bool }

func (s *socket) State(context.Context) (bool, error) { return s.on.Load(), nil }
func (s *socket) Off(context.Context) error           { s.on.Store(false); return nil }
func (s *socket) On(context.Context) error            { s.on.Store(true); return nil }

// TestFencesAreExamined: a BMC that is well goes bad, and is mended. Within the hour in which it went
// bad the voter's report says why, and the plan waits for a person; within a minute of the mend both are gone. A
// device that goes bad while another is examined each minute is found within that minute.
func TestFencesAreExamined(t *testing.T) {
	const uuid = "4c4c4544-0042-3510-8054-b7c04f4a3734"
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	faults := map[string]*falsebmc.Faults{}
	power := map[string]*socket{}
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Brakes: fleet.Brakes{Share: 40, Count: 3},
		Networks: []fleet.Network{{Name: "management", CIDR: netip.MustParsePrefix("10.0.0.0/24")}}}
	for i, host := range []string{"c1", "c2", "c3"} {
		faults[host], power[host] = &falsebmc.Faults{}, &socket{}
		power[host].on.Store(true)
		bmc := falsebmc.New(falsebmc.Config{UUID: uuid, User: "mainstay", Password: "right", Power: power[host], Faults: faults[host]})
		s := httptest.NewServer(bmc) // outside the bubble: its time is the real one, and its answers come at once
		t.Cleanup(func() { bmc.Close(); s.Close() })
		spec.Hosts = append(spec.Hosts, fleet.Host{Name: host, Voter: true, Roles: []string{"controller"},
			Addresses: map[string]netip.Addr{"management": netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})},
			Fence:     []fleet.Level{{{Driver: "redfish", Params: map[string]string{"url": s.URL, "insecure": "true", "user": "mainstay", "password_file": secret}}}}})
	}
	run := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		now := func() fleet.Moment { return fleet.Moment(time.Hour + time.Since(begun)) }
		a, err := agent.New(agent.Config{Host: "c1", Boot: "b1", Spec: spec, Run: run, Log: slog.New(slog.DiscardHandler), Now: now, Wall: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		n := &node{host: "c1", spec: spec, agent: a, store: &store.Client{}, desk: leader.NewDesk(now)}
		for _, h := range spec.Hosts {
			n.desk.Put(fleet.Report{Host: h.Name, Boot: "b1", Seq: 1, UUID: uuid})
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() { defer close(over); n.examineFences(ctx) }()

		// found is what c1 says of the others' switches, and what the plan of a leader makes of it.
		found := func(host string) (why string, waits bool) {
			synctest.Wait()
			r := a.Farewell()
			r.Leaving = false
			w := fleet.World{Spec: spec, Leader: "c1", Epoch: 1, Now: now(), Wall: time.Now(), Since: 1, Reports: map[string]fleet.Report{"c1": r},
				Heard: map[string]fleet.Heard{}, State: fleet.State{Members: map[string]fleet.Member{}}}
			for _, h := range spec.Hosts {
				w.State.Members[h.Name] = fleet.Member{Host: h.Name, Admitted: "b1"}
				w.Heard[h.Name] = fleet.Heard{Stint: fleet.Stint{Host: h.Name, Boot: "b1", N: r.Stint}, Last: now(), Leased: true, Nets: map[string]fleet.Moment{"management": now()}}
			}
			_, p := plan.Turn(w)
			return r.Fences[host], slices.ContainsFunc(p.Waits, func(x fleet.Wait) bool {
				return x.About == "fence/"+host && strings.Contains(x.For, "would prove nothing") && x.Help == "mainstay fence test "+host
			})
		}
		well := func(when string, hosts ...string) {
			t.Helper()
			for _, host := range hosts {
				if why, waits := found(host); why != "" || waits {
					t.Errorf("%s: %s is well, and c1 says %q; a wait: %v", when, host, why, waits)
				}
			}
		}
		bad := func(when, host, word string) {
			t.Helper()
			if why, waits := found(host); !strings.Contains(why, word) || !waits {
				t.Errorf("%s: c1 says %q of %s; a wait: %v", when, why, host, waits)
			}
		}
		time.Sleep(2 * time.Minute)
		well("at first", "c1", "c2", "c3")
		faults["c2"].Set(falsebmc.Fault{Locked: true})
		time.Sleep(examineEvery)
		bad("an hour later", "c2", "password")
		well("an hour later", "c1", "c3")
		faults["c3"].Set(falsebmc.Fault{UUID: "4c4c4544-0042-3510-8054-b7c04f4a3799"})
		time.Sleep(examineAgain)
		bad("a minute later", "c3", "machine")
		bad("a minute later", "c2", "password")
		faults["c2"].Set(falsebmc.Fault{})
		time.Sleep(examineAgain)
		well("a minute after c2's was mended", "c2")
		bad("a minute after c2's was mended", "c3", "machine")
		faults["c3"].Set(falsebmc.Fault{})
		time.Sleep(examineAgain)
		well("a minute after the last was mended", "c1", "c2", "c3")
		faults["c2"].Set(falsebmc.Fault{Locked: true})
		time.Sleep(examineAgain)
		well("a minute later, with an hour to the next question", "c2")
		time.Sleep(examineEvery)
		bad("an hour later", "c2", "password")
		cancel()
		<-over
	})
	for host, s := range power {
		if !s.on.Load() {
			t.Errorf("%s was switched off", host)
		}
	}
}
