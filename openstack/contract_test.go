package openstack_test

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	cloud "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"

	"mainstay/fleet"
	"mainstay/openstack"
	"mainstay/openstack/falsecloud"
)

// The same list of promises is walked on a real Nova with
//
//	go test ./openstack -count=1 -timeout 0 -v -run Contract -cloud NAME -config clouds.yaml -computes n1,n2 \
//	    -image ID -flavor ID -revive 'COMMAND with the host behind it'
//
// n1 and n2 must be the only enabled computes, of the fake driver: n1 is forced down while it
// lives, which with real guests would run them twice. COMMAND starts the host's nova-compute
// anew; without it n1 stays forced down at the end.
var (
	realCloud    = flag.String("cloud", "", "entry of clouds.yaml of a real OpenStack, whose computes are of the fake driver")
	realConfig   = flag.String("config", "", "its clouds.yaml")
	realComputes = flag.String("computes", "", "two of its computes, n1,n2")
	realImage    = flag.String("image", "", "id of an image")
	realFlavor   = flag.String("flavor", "", "id of a flavour")
	realSet      = flag.String("aggregate", "", "id of an aggregate without a zone that has none of the two")
	realRevive   = flag.String("revive", "", "command that restarts nova-compute on the host named behind it")
)

// subject is a cloud that is held to its promises.
type subject struct {
	client *openstack.Client
	a, b   string // two computes that are up, and the only ones that are enabled
	boot   func(t *testing.T, host string) (id string)
	remove func(t *testing.T, id string)
	revive func(t *testing.T, host string) // nil: cannot
	pass   func()                          // a moment of time
	// lock and unlock are what the server's owner does; nil: nobody can.
	lock   func(t *testing.T, id, reason string)
	unlock func(t *testing.T, id string)
	halve  func() // nil: no aggregate's change can be answered as failed
	// aggregate is the id of one without a zone that has neither host; "": there is none.
	aggregate string
	bound     int  // so many of them are long enough for anything
	zones     bool // the release says which zone a server's owner asked for
	// write and data are what is on a server's disk; nil: nobody can tell. other is an image
	// that somebody else made.
	write func(id string, data int)
	data  func(id string) int
	other string
}

func yes() error { return nil }

// patience is a generous bound for what should happen at once.
const patience = time.Minute

func (s *subject) look(t *testing.T, hosts []string, servers ...string) fleet.Cloud {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := s.client.Look(ctx, 1, hosts, servers)
	if err != nil {
		t.Fatalf("look: %v", err)
	}
	return c
}

func (s *subject) survey(t *testing.T, hosts ...string) fleet.Survey {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	v, err := s.client.Survey(ctx, 1, hosts)
	if err != nil {
		t.Fatalf("survey: %v", err)
	}
	return v
}

func (s *subject) do(t *testing.T, step, thing, with string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	why := "the contract's test"
	if step == fleet.CloudLock {
		why = fleet.LockReason + why
	}
	o := fleet.Order{Verb: fleet.VerbCloud, Step: step, Thing: thing, With: with, Why: why}
	if step == fleet.CloudSnapshot {
		o.With, o.Mark = "", with
	}
	return s.client.Do(ctx, o, yes)
}

// imaged waits for a snapshot.
func (s *subject) imaged(t *testing.T, id, mark string) (found fleet.Image) {
	t.Helper()
	for range s.bound {
		for _, i := range s.look(t, nil, id).Images[id].List {
			if i.Mark == mark && i.Status == fleet.ImageActive {
				return i
			}
		}
		s.pass()
	}
	t.Fatalf("the snapshot %s of %s is never whole: %+v", mark, id, s.look(t, nil, id).Images[id])
	return found
}

func (s *subject) must(t *testing.T, step, thing, with string) {
	t.Helper()
	if err := s.do(t, step, thing, with); err != nil {
		t.Fatal(err)
	}
}

// refuses asks for something that Nova refuses, in words that hold one of these.
func (s *subject) refuses(t *testing.T, step, thing, with string, words ...string) {
	t.Helper()
	err := s.do(t, step, thing, with)
	if openstack.OutcomeOf(err) != fleet.Refused || !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(err.Error(), w) }) {
		t.Fatalf("%s of %s: %v, outcome %s; want it refused with %q", step, thing, err, openstack.OutcomeOf(err), words)
	}
}

// until waits for a server to be as it shall.
func (s *subject) until(t *testing.T, id, what string, so func(fleet.Server) bool) fleet.Server {
	t.Helper()
	var v fleet.Server
	for range s.bound {
		if v = s.look(t, nil, id).Servers[id]; so(v) {
			return v
		}
		s.pass()
	}
	t.Fatalf("%s never was %s: %+v", id, what, v)
	return v
}

func at(host, state string) func(fleet.Server) bool {
	return func(v fleet.Server) bool { return v.Host == host && v.State == state && v.Task == "" }
}

// promises are walked in order, each on what the ones before left.
func (s *subject) promises(t *testing.T) {
	a, b := "compute/"+s.a, "compute/"+s.b
	id := s.boot(t, s.a)
	server := "server/" + id
	moved := func(v fleet.Server) bool {
		ended, _ := v.Migration.Ended()
		return at(s.b, fleet.ServerActive)(v) && ended
	}
	other, kept := s.boot(t, s.a), s.boot(t, s.a)
	var image fleet.Image
	for _, p := range []struct {
		name string
		keep func(t *testing.T)
	}{
		{"computes are told with id, zone and memory", func(t *testing.T) {
			c := s.look(t, nil)
			for _, h := range []string{s.a, s.b} {
				if v := c.Computes[h]; v.ID == "" || !v.Up || v.Forced || v.Disabled || v.Zone == "" || v.FreeRAM <= 0 {
					t.Errorf("%s: %+v", h, v)
				}
			}
		}},
		{"a host's servers are told with their owner, state and size", func(t *testing.T) {
			s.until(t, id, "active", at(s.a, fleet.ServerActive))
			s.until(t, other, "active", at(s.a, fleet.ServerActive))
			s.until(t, kept, "active", at(s.a, fleet.ServerActive))
			c := s.look(t, []string{s.a})
			if v := c.Servers[id]; v.Name == "" || v.RAM == 0 || v.VCPUs == 0 || v.Created == "" || v.Migration != (fleet.Migration{}) {
				t.Errorf("%+v", v)
			}
			if c.Looked[s.a] != 1 || len(c.Looked) != 1 {
				t.Errorf("looked at %v", c.Looked)
			}
		}},
		{"the room on a compute is told as Placement has it, and what servers need of it", func(t *testing.T) {
			before := s.survey(t)
			if before.Away != "" || !before.Whole {
				t.Fatalf("Placement: %q", before.Away)
			}
			for _, h := range []string{s.a, s.b} {
				r := before.Rooms[h]
				if r.Left[fleet.ClassMemory] <= 0 || r.Left[fleet.ClassVCPU] <= 0 || r.Whole[fleet.ClassVCPU] <= 0 || !r.Traits["COMPUTE_NODE"] {
					t.Errorf("%s: %+v", h, r)
				}
			}
			need := before.Needs[id].Resources
			if need[fleet.ClassMemory] == 0 || need[fleet.ClassVCPU] == 0 || before.Servers[id].Host != s.a {
				t.Errorf("%+v on %q", need, before.Servers[id].Host)
			}
			third := s.boot(t, s.b)
			s.until(t, third, "active", at(s.b, fleet.ServerActive))
			after := s.survey(t)
			for class, n := range after.Needs[third].Resources {
				if was, is := before.Rooms[s.b].Left[class], after.Rooms[s.b].Left[class]; was-is != n {
					t.Errorf("%s: %d were left, %d are, and the server needs %d", class, was, is, n)
				}
			}
			one := s.survey(t, s.b)
			if _, elsewhere := one.Servers[id]; one.Whole || elsewhere || one.Servers[third].Host != s.b || one.Requests >= after.Requests+2 {
				t.Errorf("of one host: %d servers, %d requests", len(one.Servers), one.Requests)
			}
			s.remove(t, third)
			s.until(t, third, "deleted", func(v fleet.Server) bool { return v.State == fleet.ServerDeleted })
		}},
		{"a server is locked with our reason, once or twice, and unlocked; another's lock stays", func(t *testing.T) {
			for range 2 {
				s.must(t, fleet.CloudLock, server, "")
				if v := s.look(t, nil, id).Servers[id]; !v.Locked || !v.Ours() || v.LockedFor != fleet.LockReason+"the contract's test" {
					t.Fatalf("%+v", v)
				}
			}
			if s.lock != nil {
				s.lock(t, id, "its owner's") // who owns a server that is locked changes nothing by that
				if v := s.look(t, nil, id).Servers[id]; !v.Ours() {
					t.Fatalf("ours is its owner's: %+v", v)
				}
				s.must(t, fleet.CloudUnlock, server, "")
				s.lock(t, id, "its owner's")
				s.must(t, fleet.CloudLock, server, "")
				s.must(t, fleet.CloudUnlock, server, "")
				if v := s.look(t, nil, id).Servers[id]; !v.Locked || v.Ours() {
					t.Fatalf("another's lock is gone, or ours: %+v", v)
				}
				s.refuses(t, fleet.CloudReboot, server, fleet.ServerActive, "its owner has locked it")
				s.unlock(t, id)
				s.must(t, fleet.CloudLock, server, "")
			}
			for range 2 {
				s.must(t, fleet.CloudUnlock, server, "")
				if v := s.look(t, nil, id).Servers[id]; v.Locked {
					t.Fatalf("%+v", v)
				}
			}
		}},
		{"a compute joins an aggregate and leaves it, once or twice, whatever was answered", func(t *testing.T) {
			if s.aggregate == "" {
				t.Log("not seen: no aggregate was named")
				return
			}
			for _, in := range []bool{true, false} {
				step := map[bool]string{true: fleet.CloudJoin, false: fleet.CloudPart}[in]
				if s.halve != nil {
					s.halve()
				}
				for range 2 {
					s.must(t, step, a, s.aggregate)
					if v, there := s.look(t, nil).Aggregates[s.aggregate]; !there || v.Name == "" || v.Has(s.a) != in {
						t.Fatalf("%s: %+v", step, v)
					}
				}
			}
			s.refuses(t, fleet.CloudJoin, "compute/nosuch", s.aggregate, "nosuch")
		}},
		{"a locked server is evacuated all the same", func(t *testing.T) { s.must(t, fleet.CloudLock, server, "") }},
		{"nobody is evacuated from a compute that is up", func(t *testing.T) {
			s.refuses(t, fleet.CloudEvacuate, server, "", "still in use")
			if v := s.look(t, nil, id).Servers[id]; v.Migration.ID != 0 || v.Task != "" {
				t.Errorf("refused, and yet on record: %+v", v)
			}
		}},
		{"a live migration to where nobody can be is refused, or accepted and over with an error on its record", func(t *testing.T) {
			s.refuses(t, fleet.CloudMigrate, server, "nosuch", "nosuch could not be found")
			s.must(t, fleet.CloudDisable, b, "")
			s.must(t, fleet.CloudMigrate, server, s.b)
			v := s.until(t, id, "refused", func(v fleet.Server) bool { return v.Live.ID > 0 && v.Task == "" && v.Live.Status == "error" })
			if v.Host != s.a || v.State != fleet.ServerActive || v.Live.From != s.a {
				t.Errorf("%+v", v)
			}
			s.must(t, fleet.CloudEnable, b, "")
		}},
		{"a server is live-migrated, one at a time, and is there when its record says completed", func(t *testing.T) {
			for _, way := range [][2]string{{s.a, s.b}, {s.b, s.a}} {
				before := s.look(t, nil, id).Servers[id].Live.ID
				s.must(t, fleet.CloudMigrate, server, way[1])
				s.refuses(t, fleet.CloudMigrate, server, way[1], "task_state migrating")
				v := s.until(t, id, "there", func(v fleet.Server) bool { return at(way[1], fleet.ServerActive)(v) && v.Live.Status == "completed" })
				if v.Live.ID <= before || v.Live.From != way[0] || v.Live.To != way[1] || v.Migration.ID != 0 {
					t.Errorf("%+v; it had %d before", v, before)
				}
			}
		}},
		{"a compute is disabled, with the reason, once or twice", func(t *testing.T) {
			for range 2 {
				s.must(t, fleet.CloudDisable, a, "")
			}
			if v := s.look(t, nil).Computes[s.a]; !v.Disabled || v.Reason != "the contract's test" || !v.Up {
				t.Errorf("%+v", v)
			}
		}},
		{"a compute is down as soon as it is forced down, once or twice", func(t *testing.T) {
			for range 2 {
				s.must(t, fleet.CloudForceDown, a, "")
				if v := s.look(t, nil).Computes[s.a]; v.Up || !v.Forced || !v.Disabled {
					t.Fatalf("%+v", v)
				}
			}
		}},
		{"a compute that Nova does not know is refused", func(t *testing.T) {
			s.refuses(t, fleet.CloudForceDown, "compute/nosuch", "", "knows no nova-compute on nosuch")
			s.refuses(t, fleet.CloudEvacuate, server, "nosuch", "nosuch not found")
			s.refuses(t, fleet.CloudEvacuate, server, s.a, "can't be the same")
		}},
		{"without a valid host it is accepted, and ends in an error with a fault, on the old host", func(t *testing.T) {
			s.must(t, fleet.CloudDisable, b, "")
			s.must(t, fleet.CloudEvacuate, server, "")
			v := s.until(t, id, "in error", func(v fleet.Server) bool { return v.State == fleet.ServerError })
			if ended, well := v.Migration.Ended(); v.Host != s.a || v.Task != "" || !strings.Contains(v.Fault, "No valid host") || !ended || well {
				t.Errorf("%+v", v)
			}
			s.must(t, fleet.CloudEnable, b, "")
			if v := s.look(t, nil).Computes[s.b]; v.Disabled || v.Reason != "" {
				t.Errorf("%+v", v)
			}
		}},
		{"from error it is evacuated; on record at once, and done when the record says so", func(t *testing.T) {
			before := s.look(t, nil, id).Servers[id].Migration.ID
			s.must(t, fleet.CloudEvacuate, server, s.b)
			if m := s.look(t, nil, id).Servers[id].Migration; m.ID <= before || m.From != s.a || m.To != s.b {
				t.Fatalf("its record: %+v; it had %d before", m, before)
			}
			// Nova writes the server's state first, and that its evacuation is done a moment later.
			v := s.until(t, id, "moved", moved)
			if _, well := v.Migration.Ended(); !well || v.Migration.Status != "done" || !v.Ours() {
				t.Errorf("%+v", v)
			}
			s.must(t, fleet.CloudUnlock, server, "")
		}},
		{"one that has moved is not moved again, for its new host is up", func(t *testing.T) {
			s.refuses(t, fleet.CloudEvacuate, server, "", s.b+" is still in use")
		}},
		{"a server is stopped and started, once or twice", func(t *testing.T) {
			s.must(t, fleet.CloudStop, server, "")
			s.until(t, id, "stopped", at(s.b, fleet.ServerStopped))
			s.must(t, fleet.CloudStop, server, "")
			s.must(t, fleet.CloudStart, server, "")
			s.until(t, id, "active", at(s.b, fleet.ServerActive))
			s.must(t, fleet.CloudStart, server, "")
		}},
		{"a server is rebooted from outside, and one that is stopped is started", func(t *testing.T) {
			s.must(t, fleet.CloudReboot, server, fleet.ServerActive)
			s.refuses(t, fleet.CloudReboot, server, "", "about something else")
			s.until(t, id, "active", at(s.b, fleet.ServerActive))
			s.must(t, fleet.CloudStop, server, "")
			s.until(t, id, "stopped", at(s.b, fleet.ServerStopped))
			s.refuses(t, fleet.CloudReboot, server, fleet.ServerActive, "Nova says that it is stopped")
			s.must(t, fleet.CloudReboot, server, "")
			s.until(t, id, "active", at(s.b, fleet.ServerActive))
		}},
		{"a snapshot is an image that bears its mark, and no second one is made meanwhile", func(t *testing.T) {
			one := fleet.Snapshot{Server: id, At: time.Date(2026, 11, 27, 13, 0, 0, 0, time.UTC)}
			if s.write != nil {
				s.write(id, 7)
			}
			s.must(t, fleet.CloudSnapshot, server, one.Mark())
			s.refuses(t, fleet.CloudSnapshot, server, "20261127T130001Z", "task_state image_")
			if v := s.look(t, nil, id); !v.Servers[id].TaskSnapshots() || len(v.Images[id].List) != 1 || v.Images[id].At != 1 || v.Images[id].List[0].Mark != one.Mark() || v.Images[id].List[0].Status == fleet.ImageActive {
				t.Errorf("just begun: %q, %+v", v.Servers[id].Task, v.Images[id])
			}
			image = s.imaged(t, id, one.Mark())
			if image.Server != id || image.Made.IsZero() {
				t.Errorf("%+v", image)
			}
			s.until(t, id, "active", at(s.b, fleet.ServerActive))
		}},
		{"all servers are listed with the snapshots of each, and what they are built from", func(t *testing.T) {
			v, err := s.client.Stock(t.Context(), time.Unix(1, 0))
			if err != nil || v.At != time.Unix(1, 0) {
				t.Fatal(err)
			}
			i := slices.IndexFunc(v.Servers, func(x fleet.Server) bool { return x.ID == id })
			if i < 0 || v.Servers[i].Image == "" || !v.Used[v.Servers[i].Image] || v.Used[image.ID] || len(v.Images[id]) != 1 || v.Images[id][0] != image {
				t.Errorf("%+v, want %+v", v.Images[id], image)
			}
		}},
		{"a server is built anew from its snapshot, on its host, and shows it as its image from the answer on", func(t *testing.T) {
			if s.write != nil {
				s.write(id, 8)
			}
			s.refuses(t, fleet.CloudRebuild, server, "00000000-0000-4000-8000-000000000000", "")
			s.must(t, fleet.CloudRebuild, server, image.ID)
			if v := s.look(t, nil, id).Servers[id]; v.Image != image.ID || v.Task == "" {
				t.Errorf("%+v", v)
			}
			s.must(t, fleet.CloudRebuild, server, image.ID) // it is under way: nobody is asked
			v := s.until(t, id, "active", at(s.b, fleet.ServerActive))
			s.must(t, fleet.CloudRebuild, server, image.ID)
			if w := s.look(t, nil, id).Servers[id]; w.Task != "" || v.Image != image.ID {
				t.Errorf("it is built once more: %+v", w)
			}
			if s.data != nil && s.data(id) != 7 {
				t.Errorf("its disk has %d", s.data(id))
			}
		}},
		{"one that is stopped is stopped when it is built anew", func(t *testing.T) {
			s.must(t, fleet.CloudStop, server, "")
			s.until(t, id, "stopped", at(s.b, fleet.ServerStopped))
			two := "20261127T140000Z"
			s.must(t, fleet.CloudSnapshot, server, two)
			image = s.imaged(t, id, two)
			s.until(t, id, "stopped", at(s.b, fleet.ServerStopped))
			s.must(t, fleet.CloudRebuild, server, image.ID)
			s.until(t, id, "stopped", at(s.b, fleet.ServerStopped))
			s.must(t, fleet.CloudStart, server, "")
			s.until(t, id, "active", at(s.b, fleet.ServerActive))
		}},
		{"a snapshot is deleted, once or twice, and no image of anybody else's", func(t *testing.T) {
			for range 2 {
				for _, i := range s.look(t, nil, id).Images[id].List {
					if i.ID != image.ID {
						s.must(t, fleet.CloudPrune, "image/"+i.ID, "")
					}
				}
			}
			if v := s.look(t, nil, id).Images[id].List; len(v) != 1 || v[0] != image {
				t.Errorf("left are %+v", v)
			}
			if s.other != "" {
				s.refuses(t, fleet.CloudPrune, "image/"+s.other, "", "none that Mainstay made")
			}
		}},
		{"a server is reset to what it is", func(t *testing.T) {
			s.must(t, fleet.CloudReset, server, fleet.ServerError)
			s.until(t, id, "in error", at(s.b, fleet.ServerError))
			s.must(t, fleet.CloudReset, server, fleet.ServerActive)
			s.until(t, id, "active", at(s.b, fleet.ServerActive))
		}},
		{"a server that is gone is told as deleted", func(t *testing.T) {
			s.remove(t, id)
			s.until(t, id, "deleted", func(v fleet.Server) bool { return v.State == fleet.ServerDeleted })
			// Its state is written first, and that there is none a moment later.
			s.refuses(t, fleet.CloudEvacuate, server, "", "could not be found", "in vm_state deleted")
		}},
		{"Nova takes a second evacuation of the same server, and spoils it", func(t *testing.T) {
			s.must(t, fleet.CloudEvacuate, "server/"+other, "")
			s.must(t, fleet.CloudEvacuate, "server/"+other, "")
			v := s.until(t, other, "spoilt", func(v fleet.Server) bool { return v.State == fleet.ServerError })
			t.Logf("%+v", v)
			s.remove(t, other)
		}},
		{"the host is not lifted while records of evacuations, of servers that there are, are done and not completed", func(t *testing.T) {
			s.must(t, fleet.CloudEvacuate, "server/"+kept, s.b)
			s.until(t, kept, "moved", moved)
			s.refuses(t, fleet.CloudLift, a, "", "Unable to force up")
		}},
		{"once its nova-compute began anew it is lifted and enabled, once or twice", func(t *testing.T) {
			if s.revive == nil {
				t.Log("not seen: no command was given that restarts nova-compute")
				return
			}
			s.revive(t, s.a)
			for range s.bound {
				if s.do(t, fleet.CloudLift, a, "") == nil {
					break
				}
				s.pass()
			}
			for range 2 {
				s.must(t, fleet.CloudLift, a, "")
				s.must(t, fleet.CloudEnable, a, "")
			}
			for range s.bound {
				if s.look(t, nil).Computes[s.a].Up {
					break
				}
				s.pass()
			}
			if v := s.look(t, nil).Computes[s.a]; !v.Up || v.Forced || v.Disabled {
				t.Errorf("%+v", v)
			}
			s.until(t, kept, "completed", func(v fleet.Server) bool { return at(s.b, fleet.ServerActive)(v) && v.Migration.Status == "completed" })
			s.remove(t, kept)
		}},
		{"nothing is wrong in the eyes of check", func(t *testing.T) {
			found := s.client.Examine(t.Context(), nil)
			lacks := slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, "which zone a server's owner asked for") })
			if len(found) > 1 || lacks == s.zones || lacks != (len(found) == 1) {
				t.Errorf("%q; the release tells zones: %v", found, s.zones)
			}
			found = s.client.Examine(t.Context(), []string{s.a, s.b, "nosuch"})
			if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, "nosuch") }) {
				t.Error(found)
			}
		}},
	} {
		if !t.Run(p.name, p.keep) {
			t.FailNow() // the next ones begin where this one should have ended
		}
	}
}

// TestContract holds the false cloud, of two releases, to its promises; and a real one.
func TestContract(t *testing.T) {
	for name, newest := range map[string]int{"Zed": 93, "2025.1": 100} {
		t.Run(name, func(t *testing.T) {
			f, clock, client := serve(t, falsecloud.Config{Newest: newest})
			f.AddCompute("n1", "", 8192)
			f.AddCompute("n2", "", 8192)
			s := subject{client: client, a: "n1", b: "n2", bound: 400, zones: newest >= 96,
				boot:   func(_ *testing.T, host string) string { return f.AddServer(falsecloud.Server{Name: "s", Host: host}) },
				remove: func(t *testing.T, id string) { remove(t, f, id) },
				revive: func(_ *testing.T, host string) { f.Kill(host); f.Start(host) },
				pass:   func() { clock.Advance(250 * time.Millisecond) },
				lock:   func(_ *testing.T, id, reason string) { f.Lock(id, reason) }, unlock: func(_ *testing.T, id string) { f.Unlock(id) },
				halve: func() { f.HalveAggregates(1) }, aggregate: f.AddAggregate(falsecloud.Aggregate{Name: "ssd"}),
				write: f.Write, data: f.Data, other: f.AddImage("their own", "p", map[string]string{"mainstay": "snapshot", "mainstay_server": "x", "mainstay_mark": "y"}),
			}
			s.promises(t)
		})
	}
	if *realCloud != "" {
		t.Run(*realCloud, func(t *testing.T) { realSubject(t).promises(t) })
	}
}

// remove deletes a server of the false cloud by its own API.
func remove(t *testing.T, f *falsecloud.Cloud, id string) {
	t.Helper()
	if !f.Delete(id) {
		t.Fatalf("no server %s", id)
	}
}

// realSubject is the cloud of the flags.
func realSubject(t *testing.T) *subject {
	t.Helper()
	client, err := openstack.Open(fleet.OpenStack{Cloud: *realCloud, Config: *realConfig, Reserved: []string{"n9"}, LocalDisks: fleet.LocalDisks{Roles: []string{"compute"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	a, b, _ := strings.Cut(*realComputes, ",")
	auth, endpoint, secure, err := clouds.Parse(clouds.WithLocations(*realConfig), clouds.WithCloudName(*realCloud))
	if err != nil {
		t.Fatal(err)
	}
	auth.AllowReauth = true
	provider, err := cloud.NewClient(auth.IdentityEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	provider.HTTPClient = http.Client{Transport: &http.Transport{TLSClientConfig: secure}, Timeout: patience}
	if err := cloud.Authenticate(t.Context(), provider, auth); err != nil {
		t.Fatal(err)
	}
	nova, err := cloud.NewComputeV2(provider, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ Version struct{ Version string } }
	if _, err := nova.Get(t.Context(), nova.Endpoint, &said, nil); err != nil {
		t.Fatal(err)
	}
	_, newest, _ := strings.Cut(said.Version.Version, ".")
	minor, err := strconv.Atoi(newest)
	if err != nil {
		t.Fatalf("Nova's newest microversion is %q", said.Version.Version)
	}
	nova.Microversion = "2.87"
	s := &subject{client: client, a: a, b: b, pass: func() { time.Sleep(time.Second) }, bound: 240, aggregate: *realSet, zones: minor >= 96}
	act := func(t *testing.T, id string, action map[string]any) {
		if _, err := nova.Post(t.Context(), nova.ServiceURL("servers", id, "action"), action, nil, &gophercloud.RequestOpts{OkCodes: []int{202}}); err != nil {
			t.Fatal(err)
		}
	}
	// The test's servers are of the project that it logs in to.
	s.lock = func(t *testing.T, id, reason string) {
		act(t, id, map[string]any{"lock": map[string]any{"locked_reason": reason}})
	}
	s.unlock = func(t *testing.T, id string) { act(t, id, map[string]any{"unlock": nil}) }
	s.boot = func(t *testing.T, host string) string {
		var made struct {
			Server struct{ ID string }
		}
		_, err := nova.Post(t.Context(), nova.ServiceURL("servers"), map[string]any{"server": map[string]any{
			"name": "mainstay-contract", "imageRef": *realImage, "flavorRef": *realFlavor, "networks": "none", "host": host,
		}}, &made, &gophercloud.RequestOpts{OkCodes: []int{202}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_, _ = nova.Delete(ctx, nova.ServiceURL("servers", made.Server.ID), nil) // it may be gone already
		})
		return made.Server.ID
	}
	s.remove = func(t *testing.T, id string) {
		if _, err := nova.Delete(t.Context(), nova.ServiceURL("servers", id), nil); err != nil {
			t.Fatal(err)
		}
	}
	if *realRevive != "" {
		s.revive = func(t *testing.T, host string) {
			if out, err := exec.CommandContext(t.Context(), "sh", "-c", *realRevive+" "+host).CombinedOutput(); err != nil {
				t.Fatalf("revive %s: %v: %s", host, err, out)
			}
		}
	}
	return s
}

// serve plays a cloud and opens it.
func serve(t *testing.T, cfg falsecloud.Config) (*falsecloud.Cloud, *falsecloud.Clock, *openstack.Client) {
	t.Helper()
	clock := falsecloud.NewClock()
	cfg.Now = clock.Now
	f := falsecloud.New(cfg)
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	t.Cleanup(f.Close) // first, or the server waits for what hangs
	return f, clock, open(t, s.URL+"/identity/v3", "admin", "secret")
}

// open makes a clouds.yaml and opens it.
func open(t *testing.T, keystone, user, password string) *openstack.Client {
	t.Helper()
	c, err := openstack.Open(fleet.OpenStack{Cloud: "here", Config: entry(t, keystone, user, password), Reserved: []string{"n9"}, LocalDisks: fleet.LocalDisks{Roles: []string{"compute"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// entry writes a clouds.yaml with the cloud "here".
func entry(t *testing.T, keystone, user, password string) string {
	t.Helper()
	return file(t, fmt.Sprintf("clouds:\n  here:\n    auth: {auth_url: %q, username: %q, password: %q, project_name: admin, user_domain_id: default, project_domain_id: default}\n    region_name: RegionOne\n", keystone, user, password))
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "clouds.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
