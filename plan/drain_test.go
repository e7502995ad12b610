package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// drainedWorld is the site of lostStorage with n2 in maintenance with drain, disabled in Nova and
// looked at: it has one server, vm, which runs.
func drainedWorld() fleet.World {
	w := lostStorage(0)
	plug(w, "n2")
	w.State.Departures = map[string]fleet.Departure{}
	w.State.Wishes["maintenance-n2"] = fleet.Wish{ID: "maintenance-n2", Verb: "maintenance", Host: "n2", By: "ann", At: w.Wall.Add(-time.Minute), Drain: true}
	w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true, Disabled: true, Reason: disabledBy + "maintenance by ann", Zone: "nova", FreeRAM: 4096, Servers: 1}
	w.Cloud.Looked = map[string]fleet.Moment{"n2": w.Cloud.At}
	w.Cloud.Servers = map[string]fleet.Server{"vm": {ID: "vm", Name: "vm", Host: "n2", State: fleet.ServerActive, RAM: 512}}
	return w
}

// departing is a try of the server under way, asked for by this leader so long ago.
func departing(w fleet.World, ago time.Duration, change func(*fleet.Departure)) fleet.Departure {
	p := fleet.Departure{Server: "vm", Name: "vm", From: "n2", Boot: "b", Why: "maintenance by ann", Try: 1, To: "n1", Epoch: w.Epoch, At: w.Wall.Add(-ago)}
	if change != nil {
		change(&p)
	}
	w.State.Departures["vm"] = p
	return p
}

// falls is a compute that was proved dead, and whose servers have all gone: forced down, and not back.
func falls(w fleet.World, host string) {
	w.Cloud.Computes[host] = fleet.Compute{ID: host, Forced: true, Disabled: true, Zone: "nova"}
	delete(w.State.Holdings, Compute(host))
	w.State.Members[host] = fleet.Member{Host: host, Admitted: "b", Barred: "fenced"}
	w.State.Proofs[host] = fleet.Proof{Host: host, Boot: "b", Kind: "fence", Evidence: "off"}
	silent(w, host, time.Hour)
}

// said is when a host's report arrived, or a beat named it.
func said(w *fleet.World, host string, ago time.Duration) {
	w.Told = maps.Clone(w.Told)
	if w.Told == nil {
		w.Told = map[string]fleet.Moment{}
	}
	w.Told[host] = w.Now.Add(-ago)
}

func TestDrain(t *testing.T) {
	server := func(w *fleet.World, change func(*fleet.Server)) {
		s := w.Cloud.Servers["vm"]
		change(&s)
		w.Cloud.Servers["vm"] = s
	}
	live := func(id int, status, to, task string) func(*fleet.Server) {
		return func(s *fleet.Server) {
			s.Task, s.Live = task, fleet.Migration{ID: id, Status: status, From: "n2", To: to}
		}
	}
	lists := func(w *fleet.World, hosts ...string) { // by their own hypervisors there is no machine there
		for _, host := range hosts {
			r := w.Reports[host]
			r.Guests = fleet.Guests{Asked: true, Listed: true}
			w.Reports[host] = r
			said(w, host, 0)
		}
	}
	mute := func(w *fleet.World, host string) { // its libvirt does not answer
		r := w.Reports[host]
		r.Guests = fleet.Guests{Asked: true, Unknown: "no answer"}
		w.Reports[host] = r
	}
	holds := func(w *fleet.World, host string) {
		lists(w, host)
		r := w.Reports[host]
		r.Guests.Machines = []string{"vm"}
		w.Reports[host] = r
	}
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   string
	}{
		{"first it is recorded", nil, "vm try 1 to n1, wait compute/n2"},
		{"it has crashed, and is started again first", func(w *fleet.World) {
			w.State.Revivals = map[string]fleet.Revival{"vm": {Server: "vm", Host: "n2", Boot: "b", Try: 1, At: w.Wall, Crash: w.Wall}}
		}, "wait compute/n2"},
		{"maintenance without drain moves nothing", func(w *fleet.World) {
			x := w.State.Wishes["maintenance-n2"]
			x.Drain = false
			w.State.Wishes["maintenance-n2"] = x
		}, ""},
		{"and keeps new servers from it", func(w *fleet.World) {
			x := w.State.Wishes["maintenance-n2"]
			x.Drain = false
			w.State.Wishes["maintenance-n2"] = x
			c := w.Cloud.Computes["n2"]
			c.Disabled, c.Reason = false, ""
			w.Cloud.Computes["n2"] = c
		}, "disable compute/n2"},
		{"but Nova is not asked to call one whom nobody reaches", func(w *fleet.World) {
			c := w.Cloud.Computes["n2"]
			c.Disabled, c.Reason = false, ""
			w.Cloud.Computes["n2"] = c
			silent(*w, "n2", 20*time.Second)
		}, "wait compute/n2"},
		{"one that is heard on some of its networks is reached", func(w *fleet.World) {
			c := w.Cloud.Computes["n2"]
			c.Disabled, c.Reason = false, ""
			w.Cloud.Computes["n2"] = c
			h := w.Heard["n2"]
			h.Nets = maps.Clone(h.Nets)
			for _, network := range fleet.Sorted(h.Nets)[1:] {
				h.Nets[network] = w.Now.Add(-20 * time.Second)
			}
			w.Heard["n2"] = h
		}, "cutoff, disable compute/n2, wait compute/n2"},
		{"before Nova itself calls it down", func(w *fleet.World) {
			c := w.Cloud.Computes["n2"]
			c.Disabled, c.Up, c.Reason = false, false, ""
			w.Cloud.Computes["n2"] = c
			silent(*w, "n2", 20*time.Second)
		}, "disable compute/n2, wait compute/n2"},
		{"the maintenance is over: it is enabled", func(w *fleet.World) { delete(w.State.Wishes, "maintenance-n2") }, "enable compute/n2"},
		{"it could get new servers yet", func(w *fleet.World) {
			c := w.Cloud.Computes["n2"]
			c.Disabled, c.Reason = false, ""
			w.Cloud.Computes["n2"] = c
		}, "disable compute/n2, wait compute/n2"},
		{"Nova takes it for down", func(w *fleet.World) {
			c := w.Cloud.Computes["n2"]
			c.Up = false
			w.Cloud.Computes["n2"] = c
		}, "wait compute/n2"},
		{"the network is lost over which guests are sent", func(w *fleet.World) {
			w.Spec.OpenStack.Migration = "storage"
			unplug(*w, "n2")
		}, "cutoff, wait compute/n2"},
		{"then Nova is asked", func(w *fleet.World) { departing(*w, time.Second, nil) }, "live-migrate server/vm to n1, wait compute/n2"},
		{"but not twice", func(w *fleet.World) {
			p := departing(*w, 5*time.Second, nil)
			w.Flights[p.Key()] = fleet.Flight{Sent: w.Now.Add(-4 * time.Second), Arrived: w.Now.Add(-2 * time.Second), Effect: &fleet.Effect{Outcome: fleet.NoWord}}
		}, "wait compute/n2"},
		{"nor late", func(w *fleet.World) { departing(*w, 40*time.Second, nil) }, "wait compute/n2"},
		{"nor by another leader", func(w *fleet.World) {
			departing(*w, time.Second, func(p *fleet.Departure) { p.Epoch-- })
		}, "wait compute/n2"},
		{"nobody knows of it for so long that nothing of it can act", func(w *fleet.World) { departing(*w, cloudLasts+time.Second, nil) }, "vm try 2 to n3, wait compute/n2"},
		{"refused: the next target", func(w *fleet.World) {
			p := departing(*w, 6*time.Second, nil)
			w.Flights[p.Key()] = fleet.Flight{Sent: w.Now.Add(-4 * time.Second), Arrived: w.Now.Add(-2 * time.Second), Effect: &fleet.Effect{Outcome: fleet.Refused, Why: "no"}}
		}, "vm try 2 to n3, wait compute/n2"},
		{"it is on its way", func(w *fleet.World) {
			departing(*w, 6*time.Second, nil)
			server(w, live(7, "running", "n1", fleet.TaskMigrating))
		}, "wait compute/n2"},
		{"of an earlier one the record says nothing", func(w *fleet.World) {
			departing(*w, 6*time.Second, func(p *fleet.Departure) { p.After = 7 })
			server(w, live(7, "error", "n1", fleet.TaskMigrating))
		}, "wait compute/n2"},
		{"it is there", func(w *fleet.World) {
			departing(*w, 6*time.Second, nil)
			server(w, live(7, "completed", "n1", ""))
			server(w, func(s *fleet.Server) { s.Host = "n1" })
		}, "vm: on n1, wait compute/n2"},
		{"it broke: the next target", func(w *fleet.World) {
			departing(*w, 6*time.Second, nil)
			server(w, live(7, "failed", "n1", ""))
		}, "vm try 2 to n3, wait compute/n2"},
		{"it ended in error, and its guest may be at the target: no other try", func(w *fleet.World) {
			departing(*w, 6*time.Second, nil)
			server(w, live(7, "error", "n1", ""))
		}, "vm strayed, wait compute/n2"},
		{"by its own hypervisor's word it is on the source: it stays", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
			lists(w, "n1")
			holds(w, "n2")
		}, "vm stays, wait compute/n2"},
		{"nobody says where it is: a person", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
			mute(w, "n2")
		}, "wait compute/n2, wait server/vm"},
		{"nor for days: it is followed all the same, for its source may die", func(w *fleet.World) {
			departing(*w, 80*time.Hour, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-80 * time.Hour) })
			server(w, live(7, "error", "n1", ""))
			mute(w, "n2")
		}, "wait compute/n2, wait server/vm"},
		{"nobody asks its hypervisor: it stays", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
		}, "vm stays, wait compute/n2"},
		{"both have it: a person", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
			holds(w, "n1")
			holds(w, "n2")
		}, "wait compute/n2, wait server/vm"},
		{"Nova's record of it is gone, the departure's is not", func(w *fleet.World) {
			departing(*w, time.Hour, func(p *fleet.Departure) { p.Strayed, p.Epoch = w.Wall.Add(-absentFor), w.Epoch-1 })
			mute(w, "n2")
		}, "wait compute/n2, wait server/vm"},
		{"what Nova has is of an earlier one, which ended well", func(w *fleet.World) {
			departing(*w, time.Hour, func(p *fleet.Departure) { p.Strayed, p.Epoch, p.After = w.Wall.Add(-absentFor), w.Epoch-1, 7 })
			server(w, live(7, "completed", "n1", ""))
			mute(w, "n2")
		}, "wait compute/n2, wait server/vm"},
		{"somebody else forced the target down, and it lives and has it: a person", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
			w.Cloud.Computes["n1"] = fleet.Compute{ID: "n1", Forced: true, Zone: "nova"}
			lists(w, "n2")
			holds(w, "n1")
		}, "wait compute/n2, wait server/vm"},
		{"the target is nobody's at present, but lives, and has it: a person", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
			falls(*w, "n1")
			delete(w.State.Proofs, "n1")
			silent(*w, "n1", 0)
			lists(w, "n2")
			holds(w, "n1")
		}, "wait compute/n2, wait server/vm"},
		{"a person had it active again: the next try begins as none that strayed", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-50 * time.Second) })
			server(w, live(7, "failed", "n1", ""))
		}, "vm try 2 to n3, wait compute/n2"},
		{"its owner has stopped it, and it is not at the target: over", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
			server(w, func(s *fleet.Server) { s.State = fleet.ServerStopped })
			lists(w, "n1")
		}, "vm: it was stopped on n2, wait compute/n2"},
		{"its owner has stopped it, and it may be at the target: a person", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
			server(w, func(s *fleet.Server) { s.State = fleet.ServerStopped })
		}, "wait compute/n2, wait server/vm"},
		{"the target died, and the source does not say: a person", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			mute(w, "n2")
			server(w, live(7, "error", "n1", ""))
			falls(*w, "n1")
		}, "wait compute/n2, wait server/vm"},
		{"the source has none, and the target does: a person", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
			lists(w, "n2")
			holds(w, "n1")
		}, "wait compute/n2, wait server/vm"},
		{"it died with the target, and the source has none: first that is recorded", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
			falls(*w, "n1")
			lists(w, "n2")
		}, "vm called broken, wait compute/n2"},
		{"or with a former boot of it", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
			lists(w, "n1", "n2")
		}, "vm called broken, wait compute/n2"},
		{"then it is called so", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed, p.Reset = w.Wall.Add(-absentFor), w.Wall })
			server(w, live(7, "error", "n1", ""))
			lists(w, "n1", "n2")
		}, "reset server/vm to error, wait compute/n2"},
		{"but not by another leader: the former one may have had it started since", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) {
				p.Strayed, p.Reset, p.Epoch = w.Wall.Add(-absentFor), w.Wall.Add(-time.Second), w.Epoch-1
			})
			server(w, live(7, "error", "n1", ""))
			lists(w, "n1", "n2")
		}, "wait compute/n2"},
		{"which records it anew when nothing came of that", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) {
				p.Strayed, p.Reset, p.Epoch = w.Wall.Add(-5*time.Minute), w.Wall.Add(-cloudLasts-time.Second), w.Epoch-1
			})
			server(w, live(7, "error", "n1", ""))
			lists(w, "n1", "n2")
		}, "vm called broken, wait compute/n2"},
		{"once", func(w *fleet.World) {
			p := departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed, p.Reset = w.Wall.Add(-absentFor), w.Wall.Add(-5*time.Second) })
			server(w, live(7, "error", "n1", ""))
			lists(w, "n1", "n2")
			w.Flights[strayKey(fleet.CloudReset, p)] = fleet.Flight{Sent: w.Now.Add(-4 * time.Second), Arrived: w.Now.Add(-3 * time.Second), Effect: &fleet.Effect{Outcome: fleet.Done}}
		}, "wait compute/n2"},
		{"and started", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed, p.Reset = w.Wall.Add(-absentFor), w.Wall.Add(-time.Second) })
			server(w, live(7, "error", "n1", ""))
			server(w, func(s *fleet.Server) { s.State = fleet.ServerError })
			lists(w, "n1", "n2")
		}, "start server/vm, wait compute/n2"},
		{"its guest is there in a moment, and it must not be called broken once more, by whoever leads", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) {
				p.Strayed, p.Reset = w.Wall.Add(-5*time.Minute), w.Wall.Add(-askWithin-time.Second)
			})
			server(w, live(7, "error", "n1", ""))
			lists(w, "n1", "n2")
		}, "wait compute/n2"},
		{"nor is it over while what was asked may be carried out yet", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) {
				p.Strayed, p.Reset = w.Wall.Add(-5*time.Minute), w.Wall.Add(-cloudLasts)
			})
			server(w, live(7, "error", "n1", ""))
			lists(w, "n1")
			holds(w, "n2")
		}, "wait compute/n2"},
		{"a person is told of one that does not come", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) {
				p.Strayed, p.Reset = w.Wall.Add(-5*time.Minute), w.Wall.Add(-absentFor-time.Second)
			})
			server(w, live(7, "error", "n1", ""))
			lists(w, "n1", "n2")
		}, "wait compute/n2, wait server/vm"},
		{"then it is", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) {
				p.Strayed, p.Reset = w.Wall.Add(-5*time.Minute), w.Wall.Add(-cloudLasts-time.Second)
			})
			server(w, live(7, "error", "n1", ""))
			lists(w, "n1")
			holds(w, "n2")
		}, "vm stays, wait compute/n2"},
		{"nothing came of it: once more", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) {
				p.Strayed, p.Reset = w.Wall.Add(-5*time.Minute), w.Wall.Add(-cloudLasts-time.Second)
			})
			server(w, live(7, "error", "n1", ""))
			lists(w, "n1", "n2")
		}, "vm called broken, wait compute/n2"},
		{"it was carried out late, and its guest runs: it is called active", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) {
				p.Strayed, p.Reset = w.Wall.Add(-5*time.Minute), w.Wall.Add(-time.Minute)
			})
			server(w, live(7, "error", "n1", ""))
			server(w, func(s *fleet.Server) { s.State = fleet.ServerError })
			lists(w, "n1")
			holds(w, "n2")
		}, "reset server/vm to active, wait compute/n2"},
		{"it strayed, and holds up no other that may go", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "error", "n1", ""))
			mute(w, "n2")
			s := w.Cloud.Servers["vm"]
			s.ID, s.Name, s.Live = "wm", "wm", fleet.Migration{}
			w.Cloud.Servers["wm"] = s
		}, "vm try 1 to n1, wait compute/n2, wait server/vm"},
		{"nor for another reason, later", func(w *fleet.World) { server(w, live(7, "error", "n1", "")) }, "wait compute/n2"},
		{"it broke three times: it stays", func(w *fleet.World) {
			departing(*w, 6*time.Second, func(p *fleet.Departure) { p.Try = drainTries })
			server(w, live(7, "failed", "n1", ""))
		}, "vm stays, wait compute/n2"},
		{"it stays, and is not tried again", func(w *fleet.World) {
			departing(*w, time.Hour, func(p *fleet.Departure) { p.Ended, p.Stays = "failed", true })
		}, "wait compute/n2"},
		{"the drain is taken back before it was asked for", func(w *fleet.World) {
			departing(*w, time.Second, nil)
			delete(w.State.Wishes, "maintenance-n2")
		}, "enable compute/n2, vm stays"},
		{"the drain is taken back while it is on its way: it arrives", func(w *fleet.World) {
			departing(*w, time.Second, nil)
			delete(w.State.Wishes, "maintenance-n2")
			server(w, live(7, "running", "n1", fleet.TaskMigrating))
		}, "enable compute/n2"},
		{"disarmed", func(w *fleet.World) { w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"} }, "wait compute/n2"},
		{"servers of a dead host are on their way: they come first", func(w *fleet.World) {
			w.State.Evacuations["x"] = fleet.Evacuation{Server: "x", From: "n9", Boot: "b", Try: 1, Epoch: w.Epoch, At: w.Wall}
		}, "wait compute/n2"},
		{"one is on its way from there already", func(w *fleet.World) {
			departing(*w, 6*time.Second, nil)
			server(w, live(7, "running", "n1", fleet.TaskMigrating))
			w.Cloud.Servers["wm"] = fleet.Server{ID: "wm", Host: "n2", State: fleet.ServerActive}
		}, "wait compute/n2"},
		{"what is stopped stays, and nothing else is there: the host is free", func(w *fleet.World) {
			server(w, func(s *fleet.Server) { s.State = fleet.ServerStopped })
		}, "holding"},
		{"what Nova calls broken stays, and is told", func(w *fleet.World) {
			server(w, func(s *fleet.Server) { s.State = fleet.ServerError })
		}, "wait compute/n2"},
		{"completed, and on the source still: noted", func(w *fleet.World) {
			departing(*w, time.Minute, nil)
			server(w, live(7, "completed", "n1", fleet.TaskMigrating))
		}, "vm strayed, wait compute/n2"},
		{"for long, and the target lives: a person", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-strayFor) })
			server(w, live(7, "completed", "n1", fleet.TaskMigrating))
		}, "wait compute/n2, wait server/vm"},
		{"for long, and the target is proved dead: it is started anew", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-strayFor) })
			server(w, live(7, "completed", "n1", fleet.TaskMigrating))
			falls(*w, "n1")
		}, "reset server/vm to error, wait compute/n2"},
		{"for long, and neither has it: it is started anew", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "completed", "n1", fleet.TaskMigrating))
			lists(w, "n1", "n2")
		}, "reset server/vm to error, wait compute/n2"},
		{"neither has it, by words that may be too old: a person", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(1 - absentFor) })
			server(w, live(7, "completed", "n1", fleet.TaskMigrating))
			lists(w, "n1", "n2")
		}, "wait compute/n2, wait server/vm"},
		{"the target has none, and the source does not say: it may be there", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "completed", "n1", fleet.TaskMigrating))
			lists(w, "n1")
		}, "wait compute/n2, wait server/vm"},
		{"the source has none, and the target does not say", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor) })
			server(w, live(7, "completed", "n1", fleet.TaskMigrating))
			lists(w, "n2")
		}, "wait compute/n2, wait server/vm"},
		{"neither has it, and what one said is of before that", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-absentFor - time.Second) })
			server(w, live(7, "completed", "n1", fleet.TaskMigrating))
			lists(w, "n1", "n2")
			said(w, "n1", 2*time.Second)
		}, "wait compute/n2, wait server/vm"},
		{"but not at once: a look may have been older than the record", func(w *fleet.World) {
			departing(*w, time.Minute, func(p *fleet.Departure) { p.Strayed = w.Wall.Add(-time.Second) })
			server(w, live(7, "completed", "n1", fleet.TaskMigrating))
			falls(*w, "n1")
		}, "wait compute/n2"},
		{"its host is rebooted, and the try came to nothing: there is no second one", func(w *fleet.World) {
			departing(*w, time.Minute, nil)
			server(w, live(7, "failed", "n1", ""))
			reboot(*w, "n2", "x")
			w.State.Members["n2"] = fleet.Member{Host: "n2", Admitted: "x"}
			w.State.Proofs["n2"] = fleet.Proof{Host: "n2", Boot: "b", Kind: "reboot"}
		}, "force-down compute/n2, wait compute/n2"},
		{"its host is rebooted meanwhile: it is not given back what may run elsewhere", func(w *fleet.World) {
			departing(*w, time.Minute, nil)
			delete(w.State.Wishes, "maintenance-n2")
			server(w, live(7, "running", "n1", fleet.TaskMigrating))
			reboot(*w, "n2", "x")
			w.State.Members["n2"] = fleet.Member{Host: "n2", Admitted: "x"}
			w.State.Proofs["n2"] = fleet.Proof{Host: "n2", Boot: "b", Kind: "reboot"}
		}, "force-down compute/n2, wait compute/n2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := drainedWorld()
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			if got := drains(p); got != c.want {
				t.Errorf("got  %q\nwant %q\n%v", got, c.want, p.Waits)
			}
		})
	}
}

// drains is what a plan does about n2 and its server, in a few words, sorted.
func drains(p fleet.Plan) string {
	var out []string
	for _, r := range p.Records {
		var x fleet.Departure
		switch {
		case strings.HasPrefix(r.Key, "cutoff/"), strings.HasPrefix(r.Key, "holding/"):
			kind, _, _ := strings.Cut(r.Key, "/")
			out = append(out, kind)
		case strings.HasPrefix(r.Key, "departure/") && r.Value != nil && json.Unmarshal(r.Value, &x) == nil:
			switch {
			case x.Stays:
				out = append(out, "vm stays")
			case x.Ended != "":
				out = append(out, "vm: "+x.Ended)
			case !x.Reset.IsZero():
				out = append(out, "vm called broken")
			case !x.Strayed.IsZero():
				out = append(out, "vm strayed")
			default:
				out = append(out, "vm try "+string(rune('0'+x.Try))+" to "+x.To)
			}
		}
	}
	for _, o := range p.Orders {
		if o.Verb == fleet.VerbCloud {
			line := o.Step + " " + o.Thing
			if o.With != "" {
				line += " to " + o.With
			}
			out = append(out, line)
		}
	}
	for _, x := range p.Waits {
		if x.About == "compute/n2" || strings.HasPrefix(x.About, "server/") {
			out = append(out, "wait "+x.About)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// TestStray: where the guest of a dead source's server may run.
func TestStray(t *testing.T) {
	for _, c := range []struct {
		name        string
		status, to  string
		task, state string
		evacuated   int
		want        string
	}{
		{"the guest was not let go yet", "preparing", "n2", fleet.TaskMigrating, fleet.ServerActive, 0, ""},
		{"no target was found", "accepted", "", fleet.TaskMigrating, fleet.ServerActive, 0, ""},
		{"it was on its way", "running", "n2", fleet.TaskMigrating, fleet.ServerActive, 0, "n2"},
		{"it has arrived, and Nova has not", "completed", "n2", fleet.TaskMigrating, fleet.ServerActive, 0, "n2"},
		{"it left long ago, and came back", "completed", "n2", "", fleet.ServerActive, 0, ""},
		{"it never left", "failed", "n2", "", fleet.ServerActive, 0, ""},
		{"a nova-compute that was started again ended it", "error", "n2", "", fleet.ServerActive, 0, "n2"},
		{"no valid host", "error", "", "", fleet.ServerActive, 0, ""},
		{"it has been evacuated since", "running", "n2", fleet.TaskMigrating, fleet.ServerActive, 9, ""},
	} {
		s := fleet.Server{Host: "n1", State: c.state, Task: c.task, Live: fleet.Migration{ID: 7, Status: c.status, From: "n1", To: c.to}, Migration: fleet.Migration{ID: c.evacuated}}
		if got := stray(s); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestPinned: whose guest may run on one compute is built anew on no other one, and its host
// gets it back no more.
func TestPinned(t *testing.T) {
	lists := func(dead time.Duration, listed bool, machines ...string) func(w *fleet.World) {
		return func(w *fleet.World) {
			p := w.State.Proofs["n1"]
			p.At = w.Wall.Add(-dead)
			w.State.Proofs["n1"] = p
			r := w.Reports["n3"]
			r.Guests = fleet.Guests{Asked: true, Listed: listed, Machines: machines}
			w.Reports["n3"] = r
			said(w, "n3", 0)
		}
	}
	later := func(w *fleet.World) { // a later boot was admitted, and died too
		w.State.Proofs["n1"] = fleet.Proof{Host: "n1", Boot: "later", Kind: "fence", Evidence: "off twice", At: w.Wall.Add(-time.Hour)}
		w.State.Members["n1"] = fleet.Member{Admitted: "later", Barred: "fenced"}
	}
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   []string
	}{
		{"on the target alone", nil, []string{"compute/n1 waits", "evacuation/vm try 1 to n3"}},
		{"the target is silent: nowhere", func(w *fleet.World) {
			x := w.Cloud.Computes["n3"]
			x.Up = false
			w.Cloud.Computes["n3"] = x
		}, []string{"compute/n1 waits", "server/vm waits"}},
		{"the target is dead too: elsewhere", func(w *fleet.World) {
			falls(*w, "n3")
		}, []string{"compute/n1 waits", "evacuation/vm try 1 to n2"}},
		{"the target says that it has no such machine: elsewhere", lists(30*time.Second, true), []string{"compute/n1 waits", "evacuation/vm try 1 to n2"}},
		{"but it may have been asked before the source died", lists(30*time.Second-1, true), []string{"compute/n1 waits", "evacuation/vm try 1 to n3"}},
		{"what it says is of before its source died, though its beats come", func(w *fleet.World) {
			lists(time.Hour, true)(w)
			said(w, "n3", time.Hour)
		}, []string{"compute/n1 waits", "evacuation/vm try 1 to n3"}},
		{"and as late as must be", func(w *fleet.World) {
			lists(time.Hour, true)(w)
			said(w, "n3", time.Hour-absentFor)
		}, []string{"compute/n1 waits", "evacuation/vm try 1 to n2"}},
		{"it has it", lists(time.Hour, true, "vm"), []string{"compute/n1 waits", "evacuation/vm try 1 to n3"}},
		{"it does not tell what it has", lists(time.Hour, false), []string{"compute/n1 waits", "evacuation/vm try 1 to n3"}},
		{"its hypervisor answers no more", func(w *fleet.World) {
			lists(time.Hour, true)(w)
			r := w.Reports["n3"]
			r.Guests.Unknown = "libvirt does not answer"
			w.Reports["n3"] = r
		}, []string{"compute/n1 waits", "evacuation/vm try 1 to n3"}},
		{"it is heard no more", func(w *fleet.World) {
			lists(time.Hour, true)(w)
			silent(*w, "n3", 10*time.Second)
		}, []string{"compute/n1 waits", "evacuation/vm try 1 to n3"}},
		{"nor when its source's proof is of another boot, but since its own last try", func(w *fleet.World) {
			lists(time.Hour, true)(w)
			e := evacuating(*w, func(e *fleet.Evacuation) { e.To, e.Pinned, e.At = "n3", "n3", w.Wall.Add(-5*time.Second) })
			answered(*w, e, fleet.Refused)
			later(w)
		}, []string{"compute/n1 waits", "evacuation/vm try 2 to n3"}},
		{"nor while nobody knows since when its source is dead", func(w *fleet.World) {
			lists(time.Hour, true)(w)
			later(w)
		}, []string{"compute/n1 waits", "evacuation/vm try 1 to n3"}},
		{"it is there: a person is told, and nobody else is asked", func(w *fleet.World) {
			e := evacuating(*w, func(e *fleet.Evacuation) { e.To, e.Pinned, e.At = "n3", "n3", w.Wall.Add(-5*time.Second) })
			answered(*w, e, fleet.Done)
			s := w.Cloud.Servers["vm"]
			s.State, s.Task, s.Fault, s.Migration = fleet.ServerError, "", "Instance vm already exists.", fleet.Migration{ID: 8, Status: "failed", From: "n1", To: "n3"}
			w.Cloud.Servers["vm"] = s
		}, []string{"compute/n1 waits", "evacuation/vm try 2 to n3", "server/vm waits"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := computed()
			s := w.Cloud.Servers["vm"]
			s.Task, s.Live = fleet.TaskMigrating, fleet.Migration{ID: 7, Status: "running", From: "n1", To: "n3"}
			w.Cloud.Servers["vm"] = s
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			if got := evacuations(p); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestAstray: a dead host whose server may run elsewhere is not turned on to take it back,
// though no other compute could.
func TestAstray(t *testing.T) {
	for _, c := range []struct {
		to           string
		listed, back bool
	}{{to: "", back: true}, {to: "n3"}, {to: "n3", listed: true}} {
		w := computed()
		to, back := c.to, c.back
		if c.listed { // which it says of a time that is not known to be after the source's death: that record is of an earlier one
			r := w.Reports["n3"]
			r.Guests = fleet.Guests{Asked: true, Listed: true}
			w.Reports["n3"] = r
			w.State.Evacuations["vm"] = fleet.Evacuation{Server: "vm", From: "n1", Boot: "earlier", Ended: "on n1", At: w.Wall.Add(-time.Hour)}
			w.State.Proofs["n1"] = fleet.Proof{Host: "n1", Boot: "b", Kind: "fence", Evidence: "off twice", At: w.Wall}
		}
		for _, host := range []string{"n2", "n3"} {
			w.Cloud.Computes[host] = fleet.Compute{ID: host, Zone: "nova"}
		}
		s := w.Cloud.Servers["vm"]
		s.Live = fleet.Migration{ID: 7, Status: "running", From: "n1", To: to}
		w.Cloud.Servers["vm"] = s
		_, p := Turn(w)
		if got := slices.ContainsFunc(p.Waits, func(x fleet.Wait) bool { return strings.Contains(x.For, "for itself to be back") }); got != back {
			t.Errorf("sent to %q: %v", to, p.Waits)
		}
	}
}

// TestPushed: a compute is drained for a lost network only by its own word, and where the file says so.
func TestPushed(t *testing.T) {
	for _, c := range []struct {
		then fleet.Loss
		mute bool
		want bool
	}{{fleet.LossDrain, true, true}, {fleet.LossDrain, false, false}, {fleet.LossDisable, true, false}, {fleet.LossEvacuate, true, false}} {
		w := lostStorage(40 * time.Second)
		w.Spec.OpenStack.Lost = map[string]fleet.Loss{"storage": c.then}
		w.Reports["n2"].Links["storage"] = !c.mute
		if _, p := Turn(w); slices.Contains(p.Looks, "n2") != c.want {
			t.Errorf("%s, its own word %v: looks at %v", c.then, c.mute, p.Looks)
		}
	}
}

// toldOf lets hosts say which machines they have, at this moment.
func toldOf(w *fleet.World, machines map[string][]string) {
	for _, host := range fleet.Sorted(machines) {
		r := w.Reports[host]
		r.Guests = fleet.Guests{Asked: true, Listed: true, Machines: machines[host]}
		w.Reports[host] = r
		said(w, host, 0)
	}
}

// TestStrayIsNotForgotten: where the guest of a broken live migration may run nothing is called empty; and when
// the source was started anew with it, and the target has it not, its record ends.
func TestStrayIsNotForgotten(t *testing.T) {
	stray := func(change func(*fleet.Departure)) fleet.World {
		w := drainedWorld()
		delete(w.State.Wishes, "maintenance-n2")
		departing(w, time.Hour, change)
		s := w.Cloud.Servers["vm"]
		s.Live = fleet.Migration{ID: 7, Status: "error", From: "n2", To: "n1"}
		w.Cloud.Servers["vm"] = s
		return w
	}
	w := stray(func(p *fleet.Departure) { p.Strayed = p.At })
	w.State.Wishes["maintenance-n1"] = fleet.Wish{ID: "maintenance-n1", Verb: "maintenance", Host: "n1", By: "ann", At: w.Wall.Add(-time.Minute), Drain: true}
	w.Cloud.Computes["n1"] = fleet.Compute{ID: "n1", Up: true, Disabled: true, Reason: disabledBy + "maintenance by ann", Zone: "nova"}
	w.Cloud.Looked["n1"] = w.Cloud.At
	toldOf(&w, map[string][]string{"n2": nil, "n1": {"vm"}})
	_, p := Turn(w)
	for _, r := range p.Records {
		if r.Key == "holding/compute/n1" {
			t.Errorf("its target is called empty, and says that it has it: %s", r.Text)
		}
	}

	w = stray(func(p *fleet.Departure) { p.Boot, p.Strayed = "a", p.At })
	toldOf(&w, map[string][]string{"n1": nil, "n2": {"vm"}})
	_, p = Turn(w)
	next, err := w.State.Apply(p.Records...)
	if err != nil {
		t.Fatal(err)
	}
	if d, open := next.Departures["vm"]; open && d.Ended == "" {
		t.Errorf("open for ever: %+v; waits %+v", d, p.Waits)
	}
}

// TestCalledBrokenOnce: who records that a server is to be called broken asks for it, and whoever leads next does not.
func TestCalledBrokenOnce(t *testing.T) {
	w := drainedWorld()
	departing(w, time.Minute, func(p *fleet.Departure) { p.Strayed, p.Epoch = w.Wall.Add(-time.Minute), w.Epoch-1 })
	s := w.Cloud.Servers["vm"]
	s.Live = fleet.Migration{ID: 7, Status: "error", From: "n2", To: "n1"}
	w.Cloud.Servers["vm"] = s
	for _, host := range []string{"n1", "n2"} {
		r := w.Reports[host]
		r.Guests = fleet.Guests{Asked: true, Listed: true}
		w.Reports[host] = r
		said(&w, host, 0)
	}
	_, p := Turn(w)
	var err error
	if w.State, err = w.State.Apply(p.Records...); err != nil || w.State.Departures["vm"].Reset.IsZero() {
		t.Fatalf("%v: %+v", err, w.State.Departures)
	}
	for _, by := range []uint64{0, 1} {
		w := w
		w.Epoch += by
		_, p := Turn(w)
		if asked := slices.ContainsFunc(p.Orders, func(o fleet.Order) bool { return o.Step == fleet.CloudReset }); asked != (by == 0) {
			t.Errorf("%d leaders later it is asked for: %v", by, asked)
		}
	}
}

// TestRetryIsCounted: a next try takes the former one off its target's count, if that was counted: one that strayed, and that
// a person has called active again, was not.
func TestRetryIsCounted(t *testing.T) {
	for _, c := range []struct {
		name    string
		strayed bool
		others  int // on their way to n1 as well
		want    bool
	}{
		{"two others and the former try are: there is room for one more", false, perTarget - 1, true},
		{"three others are", false, perTarget, false},
		{"three others are, and the former one is none of them", true, perTarget, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := drainedWorld()
			server := func(id, from string, live fleet.Migration, task string) {
				w.Cloud.Servers[id] = fleet.Server{ID: id, Name: id, Host: from, State: fleet.ServerActive, Task: task, RAM: 1, Live: live}
			}
			for i := range c.others {
				id := fmt.Sprintf("a%d", i)
				w.State.Departures[id] = fleet.Departure{Server: id, From: "n3", Boot: "b", To: "n1", Try: 1, Epoch: w.Epoch, At: w.Wall.Add(-time.Minute)}
				server(id, "n3", fleet.Migration{ID: i + 1, Status: "running", From: "n3", To: "n1"}, fleet.TaskMigrating)
			}
			departing(w, time.Minute, func(p *fleet.Departure) {
				if c.strayed {
					p.Strayed = w.Wall.Add(-30 * time.Second)
				}
			})
			server("vm", "n2", fleet.Migration{ID: 7, Status: "failed", From: "n2", To: "n1"}, "")
			w.State.Departures["wm"] = fleet.Departure{Server: "wm", Name: "wm", From: "n2", Boot: "b", Why: "maintenance by ann", Try: 1, To: "n3", Epoch: w.Epoch, At: w.Wall.Add(-time.Minute)}
			server("wm", "n2", fleet.Migration{ID: 8, Status: "failed", From: "n2", To: "n3"}, "")
			_, p := Turn(w)
			s, err := w.State.Apply(p.Records...)
			if err != nil {
				t.Fatal(err)
			}
			if x := s.Departures["vm"]; x.Try != 2 || x.To != "n3" {
				t.Errorf("vm: try %d to %s", x.Try, x.To)
			}
			if x := s.Departures["wm"]; (x.Try == 2 && x.To == "n1") != c.want {
				t.Errorf("wm: try %d to %s", x.Try, x.To)
			}
		})
	}
}

// TestLiftRefused: a compute that Nova does not take for up again is told, with what helps.
func TestLiftRefused(t *testing.T) {
	w := drainedWorld()
	delete(w.State.Wishes, "maintenance-n2")
	c := w.Cloud.Computes["n2"]
	c.Forced, c.Reason = true, disabledBy+"its BMC said off twice"
	w.Cloud.Computes["n2"] = c
	key := cloudKey(fleet.CloudLift, w.State.Holdings[Compute("n2")])
	for _, x := range []struct {
		effect *fleet.Effect
		told   bool
	}{
		{nil, false},
		{&fleet.Effect{Outcome: fleet.Done}, false},
		{&fleet.Effect{Outcome: fleet.Refused, Why: "`done` evacuation migration records remain"}, true},
	} {
		w.Flights[key] = fleet.Flight{Sent: w.Now.Add(-time.Minute), Arrived: w.Now.Add(-time.Minute), Tries: 1, Effect: x.effect}
		_, p := Turn(w)
		told := false
		for _, wait := range p.Waits {
			told = told || wait.About == "compute/n2" && strings.Contains(wait.For, "remain") && strings.Contains(wait.Help, "restart nova-compute on n2")
		}
		if told != x.told {
			t.Errorf("%+v: told %v: %+v", x.effect, told, p.Waits)
		}
	}
}

// TestSettles: a nova-compute is restarted once for a boot that Nova refuses to lift, where nothing runs, and nobody else for it.
func TestSettles(t *testing.T) {
	const refusal = "`done` evacuation migration records remain"
	told := func(w *fleet.World, change func(*fleet.Report)) {
		r := w.Reports["n2"]
		change(&r)
		w.Reports["n2"] = r
	}
	record := func(w *fleet.World, change func(*fleet.Ailment)) {
		a := fleet.Ailment{Host: "n2", Of: map[string]fleet.Lost{ailsForced: {Since: w.Wall.Add(-time.Minute), Why: notLifted + refusal}}}
		if change != nil {
			change(&a)
		}
		w.State.Ailments["n2"] = a
	}
	answered := func(w *fleet.World, ago time.Duration, outcome fleet.Outcome) {
		key := (&decision{w: *w}).liftKey(w.State.Holdings[Compute("n2")])
		w.Flights[key] = fleet.Flight{Sent: w.Now.Add(-ago), Arrived: w.Now.Add(-ago), Tries: 9, Effect: &fleet.Effect{Outcome: outcome, Why: refusal}}
	}
	settled := func(ago time.Duration) func(*fleet.World) {
		return func(w *fleet.World) {
			record(w, func(a *fleet.Ailment) { a.Settled = w.Wall.Add(-ago) })
		}
	}
	const (
		wait     = "wait: Nova to take it for up again: " + refusal
		begun    = notLifted + refusal
		restarts = "nova-compute of n2 is restarted, once: " + begun
	)
	since := func(w *fleet.World, ago time.Duration) string {
		return "; its nova-compute was restarted for that at " + w.Wall.Add(-ago).UTC().Format(time.TimeOnly) + " UTC"
	}
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   func(w *fleet.World) []string
	}{
		{"refused: it is written down", nil, func(*fleet.World) []string { return []string{begun, wait} }},
		{"not of a boot that has just got the right: its nova-compute begins yet", func(w *fleet.World) {
			h := w.State.Holdings[Compute("n2")]
			h.At = w.Wall.Add(-hungFor)
			w.State.Holdings[Compute("n2")] = h
		}, func(*fleet.World) []string { return []string{wait} }},
		{"nor while that does not work", func(w *fleet.World) {
			told(w, func(r *fleet.Report) { r.Services["nova-compute"] = fleet.ServiceState{Phase: fleet.Starting} })
		}, func(*fleet.World) []string { return []string{wait} }},
		{"no answer is no refusal", func(w *fleet.World) { answered(w, time.Second, fleet.NoWord) }, func(*fleet.World) []string { return []string{wait} }},
		{"refused again: it is restarted", func(w *fleet.World) { record(w, nil) }, func(*fleet.World) []string { return []string{restarts, wait} }},
		{"its answer is of before", func(w *fleet.World) {
			record(w, nil)
			answered(w, 50*time.Second, fleet.Refused)
		}, func(*fleet.World) []string { return []string{"cloud lift compute/n2", wait} }},
		{"no answer settles nothing", func(w *fleet.World) {
			record(w, nil)
			answered(w, time.Second, fleet.NoWord)
		}, func(*fleet.World) []string { return []string{wait} }},
		{"another leader has not asked yet", func(w *fleet.World) {
			record(w, nil)
			clear(w.Flights)
		}, func(*fleet.World) []string { return []string{"cloud lift compute/n2", wait} }},
		{"it is not working at this moment", func(w *fleet.World) {
			record(w, nil)
			told(w, func(r *fleet.Report) { r.Services["nova-compute"] = fleet.ServiceState{Phase: fleet.Starting} })
		}, func(*fleet.World) []string { return []string{wait} }},
		{"a guest runs there", func(w *fleet.World) {
			record(w, nil)
			told(w, func(r *fleet.Report) { r.Guests.Running = 1 })
		}, func(*fleet.World) []string { return []string{wait} }},
		{"its hypervisor does not answer", func(w *fleet.World) {
			record(w, func(a *fleet.Ailment) { a.Of[ailsLibvirt] = fleet.Lost{Since: w.Wall, Why: "no answer"} })
			told(w, func(r *fleet.Report) { r.Guests.Unknown = "no answer" })
		}, func(*fleet.World) []string { return []string{wait} }},
		{"it has none that can be asked, and Nova has no server there", func(w *fleet.World) {
			record(w, nil)
			told(w, func(r *fleet.Report) { r.Guests = fleet.Guests{} })
		}, func(*fleet.World) []string { return []string{restarts, wait} }},
		{"it has none that can be asked, and Nova has one there", func(w *fleet.World) {
			record(w, nil)
			told(w, func(r *fleet.Report) { r.Guests = fleet.Guests{} })
			x := w.Cloud.Computes["n2"]
			x.Servers = 1
			w.Cloud.Computes["n2"] = x
		}, func(*fleet.World) []string { return []string{wait} }},
		{"a live migration from it is not over", func(w *fleet.World) {
			record(w, nil)
			w.State.Departures = map[string]fleet.Departure{"vm7": {Server: "vm7", From: "n2", Boot: "b", To: "n3", Try: 1, Epoch: w.Epoch, At: w.Wall}}
		}, func(*fleet.World) []string { return []string{wait} }},
		{"disarmed", func(w *fleet.World) {
			record(w, nil)
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, func(*fleet.World) []string { return []string{wait} }},
		{"what it needs is not there", func(w *fleet.World) {
			record(w, nil)
			w.Spec.Services[0].After = []string{"agent"}
			w.Spec.Services = append(w.Spec.Services, fleet.Service{Name: "agent", Mode: fleet.ActiveActive, Roles: []string{"compute"}, Hosts: []string{"n2"}})
			told(w, func(r *fleet.Report) {
				r.Services["agent"] = fleet.ServiceState{Phase: fleet.Starting, Unready: r.Wall}
			})
		}, func(*fleet.World) []string { return []string{wait} }},
		{"recorded: it is ordered", settled(time.Second), func(w *fleet.World) []string {
			return []string{"cloud lift compute/n2", "restart service/nova-compute", wait + since(w, time.Second)}
		}},
		{"and not again once it was answered", func(w *fleet.World) {
			settled(10 * time.Second)(w)
			key := "restart/nova-compute/n2/forced/" + strconv.FormatInt(w.State.Ailments["n2"].Settled.Unix(), 10)
			w.Flights[key] = fleet.Flight{Sent: w.Now.Add(-5 * time.Second), Arrived: w.Now.Add(-4 * time.Second), Effect: &fleet.Effect{Outcome: fleet.Done}}
		}, func(w *fleet.World) []string {
			return []string{"cloud lift compute/n2", wait + since(w, 10*time.Second)}
		}},
		{"nor much later", settled(restMax), func(w *fleet.World) []string {
			return []string{"cloud lift compute/n2", wait + since(w, restMax)}
		}},
		{"refused again after that: a person", func(w *fleet.World) {
			settled(10 * time.Minute)(w)
			record(w, func(a *fleet.Ailment) {
				a.Settled, a.Of[ailsForced] = w.Wall.Add(-10*time.Minute), fleet.Lost{Since: w.Wall.Add(-time.Hour), Why: notLifted + refusal}
			})
			answered(w, time.Second, fleet.Refused)
		}, func(w *fleet.World) []string { return []string{wait + since(w, 10*time.Minute)} }},
		{"that of an earlier boot is not counted", func(w *fleet.World) {
			record(w, func(a *fleet.Ailment) { a.Settled = w.Wall.Add(-3 * time.Hour) })
		}, func(*fleet.World) []string { return []string{restarts, wait} }},
		{"it is lifted", func(w *fleet.World) {
			settled(10 * time.Second)(w)
			x := w.Cloud.Computes["n2"]
			x.Forced, x.Up = false, true
			w.Cloud.Computes["n2"] = x
		}, func(*fleet.World) []string {
			return []string{"Nova has lifted n2, which works again", "cloud enable compute/n2"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := drainedWorld()
			delete(w.State.Wishes, "maintenance-n2")
			w.State.Ailments = map[string]fleet.Ailment{}
			w.Spec.Services = []fleet.Service{{Name: "nova-compute", Kind: "compute", Mode: fleet.ActiveActive, Roles: []string{"compute"}, Hosts: []string{"n2"}, Restarts: fleet.Restarts{Count: 3, Within: 10 * time.Minute}}}
			w.State.Holdings[Compute("n2")] = fleet.Holding{Thing: Compute("n2"), Host: "n2", Boot: "b", Generation: 3, At: w.Wall.Add(-2 * time.Hour)}
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Forced: true, Disabled: true, Reason: disabledBy + "its BMC said off twice", Zone: "nova"}
			w.Cloud.Servers = map[string]fleet.Server{}
			told(&w, func(r *fleet.Report) {
				r.Services = map[string]fleet.ServiceState{"nova-compute": {Phase: fleet.Running, Ready: true}}
				r.Guests = fleet.Guests{Asked: true, Listed: true}
			})
			answered(&w, time.Second, fleet.Refused)
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			want := c.want(&w)
			slices.Sort(want)
			got := slices.DeleteFunc(ailments(p), func(s string) bool { return strings.Contains(s, "no answer") })
			if !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

// TestSourceOfStrayDies: the departure knows where the guest may run when Nova's record is gone, and a server that its
// owner leaves where it is keeps its host from starting it beside that guest.
func TestSourceOfStrayDies(t *testing.T) {
	for _, c := range []struct {
		name     string
		there    bool // its target does not say that it has no such machine
		metadata map[string]string
		want     []string
	}{
		{"it is asked for on its target alone", true, nil, []string{"compute/n1 waits", "evacuation/vm try 1 to n3"}},
		{"anywhere, once that has it not", false, nil, []string{"compute/n1 waits", "evacuation/vm try 1 to n2"}},
		{"left to its owner, and not forgotten", true, map[string]string{"HA_Enabled": "False"}, []string{"compute/n1 waits", "server/vm waits"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := computed()
			ago := w.Wall.Add(-30 * time.Hour)
			w.State.Departures = map[string]fleet.Departure{"vm": {Server: "vm", From: "n1", Boot: "b", Why: "maintenance by ann", Try: 1, To: "n3", Epoch: w.Epoch - 1, At: ago, Strayed: ago}}
			p := w.State.Proofs["n1"]
			p.At = w.Wall.Add(-time.Hour)
			w.State.Proofs["n1"] = p
			if !c.there {
				toldOf(&w, map[string][]string{"n3": nil})
			}
			s := w.Cloud.Servers["vm"]
			s.Metadata = c.metadata
			w.Cloud.Servers["vm"] = s
			_, plan := Turn(w)
			if got := evacuations(plan); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}
