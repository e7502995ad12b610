package plan

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// computed is a site of three controllers and three computes, n1 of which is proved dead
// and forced down: Nova has one server on it, vm, and all was looked at a moment ago.
func computed() fleet.World {
	w := large(6, 0)
	w.Spec.Timing, w.Spec.Brakes = room, fleet.Brakes{Share: 40, Count: 2}
	w.Spec.Addresses, w.Spec.Services = nil, nil
	w.Spec.OpenStack.Cloud = "lab"
	w.State.Holdings, w.State.Evacuations = map[string]fleet.Holding{}, map[string]fleet.Evacuation{}
	w.State.Proofs, w.State.Intents, w.State.Wishes = map[string]fleet.Proof{}, map[string]fleet.Intent{}, map[string]fleet.Wish{}
	w.Since = w.Now.Add(-10 * time.Minute)
	w.Cloud = fleet.Cloud{At: w.Now.Add(-100 * ms), Computes: map[string]fleet.Compute{}, Servers: map[string]fleet.Server{}, Looked: map[string]fleet.Moment{"n1": w.Now.Add(-100 * ms)}}
	names := []string{"c1", "c2", "c3", "n1", "n2", "n3"}
	for i := range w.Spec.Hosts {
		was, now := w.Spec.Hosts[i].Name, names[i]
		w.Spec.Hosts[i].Name = now
		w.Spec.Hosts[i].Fence = []fleet.Level{{{Driver: "redfish"}}}
		h, r, m := w.Heard[was], w.Reports[was], w.State.Members[was]
		delete(w.Heard, was)
		delete(w.Reports, was)
		delete(w.State.Members, was)
		h.Stint.Host, r.Host, m.Host = now, now, now
		r.Addresses, r.Services = nil, nil
		w.Heard[now], w.Reports[now], w.State.Members[now] = h, r, m
		if now[0] != 'n' {
			w.Spec.Hosts[i].Roles, w.Spec.Hosts[i].Voter = []string{"controller"}, true
			continue
		}
		w.Spec.Hosts[i].Roles, w.Spec.Hosts[i].Voter = []string{"compute"}, false
		w.State.Holdings[Compute(now)] = fleet.Holding{Thing: Compute(now), Host: now, Boot: "b", Generation: 1, Why: "as ever"}
		w.Cloud.Computes[now] = fleet.Compute{ID: now, Up: true, Zone: "nova", FreeRAM: 4096}
	}
	w.Leader = "c1"
	silent(w, "n1", time.Minute)
	w.State.Proofs["n1"] = fleet.Proof{Host: "n1", Boot: "b", Kind: "fence", Evidence: "off twice"}
	m := w.State.Members["n1"]
	m.Barred = "fenced"
	w.State.Members["n1"] = m
	w.Cloud.Computes["n1"] = fleet.Compute{ID: "n1", Forced: true, Disabled: true, Reason: "mainstay: off", Zone: "nova"}
	w.Cloud.Servers["vm"] = fleet.Server{ID: "vm", Name: "vm", Host: "n1", State: fleet.ServerActive, RAM: 512}
	return w
}

// evacuating is a try of the server under way, asked for by this leader two seconds ago.
func evacuating(w fleet.World, change func(*fleet.Evacuation)) fleet.Evacuation {
	e := fleet.Evacuation{Server: "vm", Name: "vm", From: "n1", Boot: "b", Was: fleet.ServerActive, Try: 1, To: "n2", Epoch: w.Epoch, At: w.Wall.Add(-2 * time.Second)}
	if change != nil {
		change(&e)
	}
	w.State.Evacuations["vm"] = e
	return e
}

// answered is what came of the request.
func answered(w fleet.World, e fleet.Evacuation, o fleet.Outcome) {
	w.Flights[e.Key()] = fleet.Flight{Sent: w.Now.Add(-2 * time.Second), Tries: 1, Arrived: w.Now.Add(-time.Second), Effect: &fleet.Effect{Outcome: o, Why: "so it was"}}
}

func TestEvacuate(t *testing.T) {
	server := func(w fleet.World, change func(*fleet.Server)) {
		s := w.Cloud.Servers["vm"]
		change(&s)
		w.Cloud.Servers["vm"] = s
	}
	compute := func(w fleet.World, host string, change func(*fleet.Compute)) {
		c := w.Cloud.Computes[host]
		change(&c)
		w.Cloud.Computes[host] = c
	}
	goes := func(id int, status, to string) func(*fleet.Server) {
		return func(s *fleet.Server) {
			s.Task, s.Migration = "rebuilding", fleet.Migration{ID: id, Status: status, From: "n1", To: to}
		}
	}
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   []string
	}{
		{"proved dead, and Nova does not know", func(w *fleet.World) {
			compute(*w, "n1", func(c *fleet.Compute) { c.Forced, c.Disabled, c.Up = false, false, true })
		}, []string{"c1: force-down compute/n1", "compute/n1 waits"}},
		{"forced down: new servers are kept from it beside the first step", func(w *fleet.World) {
			compute(*w, "n1", func(c *fleet.Compute) { c.Disabled = false })
		}, []string{"c1: disable compute/n1", "compute/n1 waits", "evacuation/vm try 1 to n2"}},
		{"Nova was told, and has not been looked at since", func(w *fleet.World) {
			compute(*w, "n1", func(c *fleet.Compute) { c.Forced = false })
			w.Flights["force-down/n1/b"] = fleet.Flight{Arrived: w.Now, Effect: &fleet.Effect{Outcome: fleet.Done}}
		}, []string{"compute/n1 waits"}},
		{"nobody has looked yet", func(w *fleet.World) { w.Cloud = fleet.Cloud{} }, []string{"compute/n1 waits"}},
		{"its servers were not listed since it was forced down", func(w *fleet.World) { w.Cloud.Looked["n1"] = w.Cloud.At.Add(-ms) }, []string{"compute/n1 waits"}},
		{"first it is recorded", nil, []string{"evacuation/vm try 1 to n2", "compute/n1 waits"}},
		{"then Nova is asked", func(w *fleet.World) { evacuating(*w, nil) }, []string{"c1: evacuate server/vm to n2", "compute/n1 waits"}},
		{"but not twice while it is on its way", func(w *fleet.World) {
			e := evacuating(*w, nil)
			w.Flights[e.Key()] = fleet.Flight{Sent: w.Now.Add(-40 * time.Second), Tries: 1}
		}, []string{"compute/n1 waits"}},
		{"nor when the answer is lost and it was accepted", func(w *fleet.World) {
			answered(*w, evacuating(*w, nil), fleet.NoWord)
			server(*w, goes(7, "pre-migrating", "n2"))
		}, []string{"compute/n1 waits"}},
		{"nor when the answer is lost and there is no trace of it yet", func(w *fleet.World) {
			answered(*w, evacuating(*w, nil), fleet.NoWord)
		}, []string{"compute/n1 waits"}},
		{"there is none when nothing of it can act any more: it was lost", func(w *fleet.World) {
			e := evacuating(*w, nil)
			w.Flights[e.Key()] = fleet.Flight{Sent: w.Now.Add(-cloudLasts - time.Second), Tries: 1, Arrived: w.Now.Add(-50 * time.Second), Effect: &fleet.Effect{Outcome: fleet.NoWord}}
			e.At = w.Wall.Add(-cloudLasts - 2*time.Second)
			w.State.Evacuations["vm"] = e
		}, []string{"evacuation/vm try 2 to n3", "compute/n1 waits"}},
		{"a flight is not remembered for ever: the record says that it was asked for", func(w *fleet.World) {
			e := evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-42 * time.Second) })
			w.Flights[e.Key()] = fleet.Flight{Sent: w.Now.Add(-41 * time.Second), Tries: 1, Arrived: w.Now.Add(-31 * time.Second), Effect: &fleet.Effect{Outcome: fleet.NoWord}}
		}, []string{"evacuation/vm try 1 to n2", "compute/n1 waits"}},
		{"and then nobody asks again because the flight is gone", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.Doubt, e.At = true, w.Wall.Add(-70*time.Second) })
		}, []string{"compute/n1 waits"}},
		{"a former leader's try may be on its way yet", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.Epoch-- })
			w.Since = w.Now.Add(-30 * time.Second)
		}, []string{"compute/n1 waits"}},
		{"and later is not", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.Epoch, e.At = e.Epoch-1, w.Wall.Add(-cloudLasts-2*time.Second) })
			w.Since = w.Now.Add(-cloudLasts - time.Second)
		}, []string{"evacuation/vm try 2 to n3", "compute/n1 waits"}},
		{"a former leader's try that was accepted goes on", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.Epoch-- })
			server(*w, goes(7, "accepted", ""))
		}, []string{"compute/n1 waits"}},
		{"refused: the next target", func(w *fleet.World) {
			e := evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-5 * time.Second) })
			answered(*w, e, fleet.Refused)
		}, []string{"evacuation/vm try 2 to n3", "compute/n1 waits"}},
		{"refused a moment ago: a pause", func(w *fleet.World) { answered(*w, evacuating(*w, nil), fleet.Refused) }, []string{"compute/n1 waits", "server/vm waits"}},
		{"every target was tried: Nova's scheduler chooses", func(w *fleet.World) {
			e := evacuating(*w, func(e *fleet.Evacuation) { e.Tried, e.At = []string{"n3"}, w.Wall.Add(-5*time.Second) })
			answered(*w, e, fleet.Refused)
		}, []string{"evacuation/vm try 2 to ", "compute/n1 waits"}},
		{"active with no task on the dead host is not done", func(w *fleet.World) {
			answered(*w, evacuating(*w, nil), fleet.Done)
			server(*w, func(s *fleet.Server) { s.Migration = fleet.Migration{ID: 7, Status: "accepted", From: "n1", To: "n2"} })
		}, []string{"compute/n1 waits"}},
		{"done, and not on the new host yet, however long ago: it is not asked for twice", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-time.Hour) })
			server(*w, goes(7, "done", "n2"))
		}, []string{"compute/n1 waits"}},
		{"done, and on the new host", func(w *fleet.World) {
			evacuating(*w, nil)
			server(*w, func(s *fleet.Server) {
				s.Host, s.Migration = "n2", fleet.Migration{ID: 7, Status: "done", From: "n1", To: "n2"}
			})
		}, []string{"evacuation/vm try 1 to n2: on n2", "compute/n1 waits"}},
		{"it is settled: the host is free of its servers", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.Ended = "on n2" })
			server(*w, func(s *fleet.Server) { s.Host = "n2" })
		}, []string{"holding/compute/n1=#2"}},
		{"done, and it was stopped before", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.Was = fleet.ServerStopped })
			server(*w, func(s *fleet.Server) {
				s.Host, s.Migration = "n2", fleet.Migration{ID: 7, Status: "done", From: "n1", To: "n2"}
			})
		}, []string{"c1: stop server/vm", "compute/n1 waits"}},
		{"done, and Nova calls it broken", func(w *fleet.World) {
			evacuating(*w, nil)
			server(*w, func(s *fleet.Server) {
				s.Host, s.State, s.Migration = "n2", fleet.ServerError, fleet.Migration{ID: 7, Status: "done", From: "n1", To: "n2"}
			})
		}, []string{"compute/n1 waits", "server/vm waits"}},
		{"no valid host", func(w *fleet.World) {
			e := evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-5 * time.Second) })
			answered(*w, e, fleet.Done)
			server(*w, func(s *fleet.Server) {
				s.State, s.Fault, s.Migration = fleet.ServerError, "No valid host was found.", fleet.Migration{ID: 7, Status: "error", From: "n1"}
			})
		}, []string{"evacuation/vm try 2 to n3", "compute/n1 waits"}},
		{"its target is silent, and not proved dead", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-5 * time.Minute) })
			server(*w, goes(7, "pre-migrating", "n2"))
			compute(*w, "n2", func(c *fleet.Compute) { c.Up = false })
		}, []string{"compute/n1 waits"}},
		{"its target died and is forced down", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-5 * time.Second) })
			server(*w, goes(7, "pre-migrating", "n2"))
			compute(*w, "n2", func(c *fleet.Compute) { c.Up, c.Forced = false, true })
		}, []string{"evacuation/vm try 2 to n3", "compute/n1 waits"}},
		{"a target that was named has not taken it, is heard and is at work with none: its message was lost", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-unscheduled - time.Second) })
			server(*w, goes(7, "accepted", "n2"))
		}, []string{"evacuation/vm try 2 to n3", "compute/n1 waits"}},
		{"it may yet come", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-unscheduled + time.Second) })
			server(*w, goes(7, "accepted", "n2"))
		}, []string{"compute/n1 waits"}},
		{"its target is at work with another", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-unscheduled - time.Second) })
			server(*w, goes(7, "accepted", "n2"))
			w.Cloud.Servers["other"] = fleet.Server{ID: "other", Host: "n4", Migration: fleet.Migration{ID: 9, Status: "pre-migrating", From: "n4", To: "n2"}}
		}, []string{"compute/n1 waits"}},
		{"the other waits for it as well", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-unscheduled - time.Second) })
			server(*w, goes(7, "accepted", "n2"))
			w.Cloud.Servers["other"] = fleet.Server{ID: "other", Host: "n4", Migration: fleet.Migration{ID: 9, Status: "accepted", From: "n4", To: "n2"}}
		}, []string{"evacuation/vm try 2 to n3", "compute/n1 waits"}},
		{"the other is at work with it by a record that Nova does not show as such: a later try", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-unscheduled - time.Second) })
			server(*w, goes(7, "accepted", "n2"))
			w.State.Evacuations["other"] = fleet.Evacuation{Server: "other", From: "n4", Boot: "b", To: "n2", Try: 2, Epoch: w.Epoch, At: w.Wall}
			w.Cloud.Servers["other"] = fleet.Server{ID: "other", Host: "n4", Migration: fleet.Migration{ID: 9, Status: "accepted", From: "n4", To: "n2"}}
		}, []string{"compute/n1 waits"}},
		{"it is a later try: the work on it stands in the record of the first", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.Try, e.At = 2, w.Wall.Add(-unscheduled-time.Second) })
			server(*w, goes(7, "accepted", "n2"))
		}, []string{"compute/n1 waits"}},
		{"nor is it known of one that Nova's scheduler was left to place", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.Try, e.To, e.At = 3, "", w.Wall.Add(-unscheduled-time.Second) })
			server(*w, goes(7, "accepted", ""))
		}, []string{"compute/n1 waits"}},
		{"so it seemed before Nova fell silent", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-unscheduled - time.Second) })
			server(*w, goes(7, "accepted", "n2"))
			w.Cloud.Away = "no answer"
		}, []string{"compute/n1 waits"}},
		{"Nova does not hear its target", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-unscheduled - time.Second) })
			server(*w, goes(7, "accepted", "n2"))
			compute(*w, "n2", func(c *fleet.Compute) { c.Up = false })
		}, []string{"compute/n1 waits"}},
		{"its target has taken it", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-unscheduled - time.Second) })
			server(*w, goes(7, "pre-migrating", "n2"))
		}, []string{"compute/n1 waits"}},
		{"its message was lost between two of Nova's processes", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.At = w.Wall.Add(-unscheduled - time.Second) })
			server(*w, goes(7, "pre-migrating", ""))
		}, []string{"evacuation/vm try 2 to n3", "compute/n1 waits"}},
		{"three that were left to Nova's scheduler came to nothing: they do not wait for each other", func(w *fleet.World) {
			for _, host := range []string{"n2", "n3"} {
				compute(*w, host, func(c *fleet.Compute) { c.FreeRAM = 0 })
			}
			for _, id := range []string{"vm", "a", "b"} {
				at := w.Wall.Add(-unscheduled - time.Second)
				if id != "vm" {
					at = w.Wall
				}
				w.State.Evacuations[id] = fleet.Evacuation{Server: id, From: "n1", Boot: "b", Was: fleet.ServerActive, Try: 1, Epoch: w.Epoch, At: at}
				w.Cloud.Servers[id] = fleet.Server{ID: id, Host: "n1", State: fleet.ServerActive, RAM: 512, Task: "rebuilding", Migration: fleet.Migration{ID: 7, Status: "pre-migrating", From: "n1"}}
			}
		}, []string{"evacuation/vm try 2 to ", "compute/n1 waits"}},
		{"somebody else moved it", func(w *fleet.World) {
			evacuating(*w, nil)
			server(*w, func(s *fleet.Server) { s.Host = "n3" })
		}, []string{"evacuation/vm try 1 to n2: moved to n3 by somebody else", "compute/n1 waits"}},
		{"its owner deleted it", func(w *fleet.World) {
			evacuating(*w, nil)
			w.Cloud.Servers["vm"] = fleet.Server{ID: "vm", State: fleet.ServerDeleted}
		}, []string{"evacuation/vm try 1 to n2: deleted by its owner", "compute/n1 waits"}},
		{"it is left to its owner: the host is free", func(w *fleet.World) {
			server(*w, func(s *fleet.Server) { s.Project = "octavia" })
			w.Spec.OpenStack.Leave = []string{"octavia"}
		}, []string{"holding/compute/n1=#2"}},
		{"its owner wants no such thing", func(w *fleet.World) {
			server(*w, func(s *fleet.Server) { s.Metadata = map[string]string{"HA_Enabled": "False"} })
		}, []string{"holding/compute/n1=#2"}},
		{"the target is barred, disabled, full, of another zone or not Mainstay's", func(w *fleet.World) {
			compute(*w, "n2", func(c *fleet.Compute) { c.Zone = "other" })
			compute(*w, "n3", func(c *fleet.Compute) { c.FreeRAM = 100 })
			w.Cloud.Computes["x"] = fleet.Compute{Up: true, Zone: "nova", FreeRAM: 9999}
		}, []string{"evacuation/vm try 1 to ", "compute/n1 waits"}},
		{"all targets are busy: it waits for its turn", func(w *fleet.World) {
			compute(*w, "n3", func(c *fleet.Compute) { c.Disabled = true })
			w.State.Evacuations = map[string]fleet.Evacuation{}
			for _, id := range []string{"a", "b", "c"} {
				w.State.Evacuations[id] = fleet.Evacuation{Server: id, From: "n1", Boot: "b", Try: 1, To: "n2", Epoch: w.Epoch, At: w.Wall}
				w.Cloud.Servers[id] = fleet.Server{ID: id, Host: "n1", State: fleet.ServerActive, Task: "rebuilding", Migration: fleet.Migration{ID: 3, Status: "accepted", To: "n2"}}
			}
		}, []string{"compute/n1 waits"}},
		{"pinned to a target that has its hands full: it waits for its turn", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.Pinned, e.Try, e.At = "n2", 1, w.Wall.Add(-time.Hour) })
			server(*w, func(s *fleet.Server) { s.Migration = fleet.Migration{ID: 7, Status: "error", From: "n1", To: "n2"} })
			for _, id := range []string{"a", "b", "c"} {
				w.State.Evacuations[id] = fleet.Evacuation{Server: id, From: "n1", Boot: "b", Try: 1, To: "n2", Epoch: w.Epoch, At: w.Wall}
				w.Cloud.Servers[id] = fleet.Server{ID: id, Host: "n1", State: fleet.ServerActive, Task: "rebuilding", Migration: fleet.Migration{ID: 3, Status: "accepted", To: "n2"}}
			}
		}, []string{"compute/n1 waits"}},
		{"its target died with nothing on it, was given up and is back: what it was sent is thrown away", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.ToBoot, e.At = "a", w.Wall.Add(-time.Minute) })
			server(*w, goes(7, "accepted", "n2"))
			w.Spec.Services = []fleet.Service{{Name: "rabbitmq", Kind: "rabbitmq", Mode: fleet.ActiveActive}}
		}, []string{"evacuation/vm try 2 to n3", "compute/n1 waits"}},
		{"its target was given up, and has the same boot again: it is at work on it", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.ToBoot, e.At = "b", w.Wall.Add(-time.Minute) })
			server(*w, goes(7, "accepted", "n2"))
			w.Spec.Services = []fleet.Service{{Name: "rabbitmq", Kind: "rabbitmq", Mode: fleet.ActiveActive}}
			h := w.State.Holdings["compute/n2"]
			h.At = w.Wall.Add(-time.Second)
			w.State.Holdings["compute/n2"] = h
		}, []string{"compute/n1 waits"}},
		{"three that the scheduler refused do not keep each other waiting for a turn", func(w *fleet.World) {
			delete(w.Cloud.Servers, "vm")
			for _, host := range []string{"n2", "n3"} {
				compute(*w, host, func(c *fleet.Compute) { c.FreeRAM = -100 })
			}
			for _, id := range []string{"a", "b", "c"} {
				w.State.Evacuations[id] = fleet.Evacuation{Server: id, From: "n1", Boot: "b", Try: 3, After: 2, Epoch: w.Epoch, At: w.Wall.Add(-time.Hour)}
				w.Cloud.Servers[id] = fleet.Server{ID: id, Host: "n1", State: fleet.ServerError, RAM: 512, Migration: fleet.Migration{ID: 3, Status: "error", From: "n1"}}
			}
		}, []string{"compute/n1 waits", "evacuation/a try 4 to ", "evacuation/b try 4 to ", "evacuation/c try 4 to "}},
		{"its host reboots by itself, and nothing was moved: it goes on there", func(w *fleet.World) {
			reboot(*w, "n1", "x")
			w.Heard["n1"] = fleet.Heard{Stint: w.Heard["n1"].Stint, Last: w.Now, Nets: w.Heard["n2"].Nets, Leased: true}
			w.State.Members["n1"] = fleet.Member{Host: "n1", Admitted: "x"}
		}, []string{"holding/compute/n1=n1#2"}},
		{"its host is back while it is on its way: not before all is settled", func(w *fleet.World) {
			evacuating(*w, nil)
			server(*w, goes(7, "accepted", "n2"))
			reboot(*w, "n1", "x")
			w.Heard["n1"] = fleet.Heard{Stint: w.Heard["n1"].Stint, Last: w.Now, Nets: w.Heard["n2"].Nets, Leased: true}
			w.State.Proofs["n1"] = fleet.Proof{Host: "n1", Boot: "b", Kind: "reboot"}
		}, []string{"compute/n1 waits", "host/n1 waits"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := computed()
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			got := evacuations(p)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// evacuations is what a plan does about servers, in a few words, sorted.
func evacuations(p fleet.Plan) (out []string) {
	for _, line := range brief(p) {
		if strings.HasPrefix(line, "holding/") || strings.HasPrefix(line, "compute/") || strings.HasPrefix(line, "server/") {
			out = append(out, line)
		}
	}
	for _, x := range p.Waits {
		if x.About == "host/n1" && strings.Contains(x.For, "being evacuated") {
			out = append(out, "host/n1 waits")
		}
	}
	for _, r := range p.Records {
		var e fleet.Evacuation
		if id, ok := strings.CutPrefix(r.Key, "evacuation/"); ok && json.Unmarshal(r.Value, &e) == nil {
			line := "evacuation/" + id + " try " + string(rune('0'+e.Try)) + " to " + e.To
			if e.Ended != "" {
				line += ": " + e.Ended
			}
			out = append(out, line)
		}
	}
	for _, o := range p.Orders {
		if o.Verb == fleet.VerbCloud {
			line := o.To + ": " + o.Step + " " + o.Thing
			if o.With != "" {
				line += " to " + o.With
			}
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}
