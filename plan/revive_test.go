package plan

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// crashed is a site of three computes that are well, on one of which, n2, the guest of vm has
// crashed: Nova says that it is active, and was looked at a moment ago.
func crashed() (w fleet.World, crash time.Time) {
	w = computed()
	delete(w.State.Holdings, Compute("n1")) // the dead one is nobody's affair here
	crash = w.Wall.Add(-3 * time.Second)
	r := w.Reports["n2"]
	r.Guests = fleet.Guests{Asked: true, Running: 3, Crashed: map[string]time.Time{"vm": crash}}
	w.Reports["n2"] = r
	w.Cloud.Servers["vm"] = fleet.Server{ID: "vm", Name: "vm", Host: "n2", State: fleet.ServerActive}
	w.State.Revivals = map[string]fleet.Revival{}
	return w, crash
}

// revivals is what a plan does about crashed servers, in a few words, sorted.
func revivals(p fleet.Plan) (out []string) {
	for _, r := range p.Records {
		var v fleet.Revival
		if id, ok := strings.CutPrefix(r.Key, "revival/"); ok && r.Value == nil {
			out = append(out, "forget "+id)
		} else if ok && json.Unmarshal(r.Value, &v) == nil {
			out = append(out, strings.TrimSuffix(fmt.Sprintf("%s try %d failed %d: %s", id, v.Try, v.Failed, v.Ended), ": "))
		}
		if strings.HasPrefix(r.Key, "evacuation/") {
			out = append(out, r.Key)
		}
	}
	for _, o := range p.Orders {
		if o.Verb == fleet.VerbCloud {
			out = append(out, o.Step+" "+o.Thing)
		}
	}
	for _, x := range p.Waits {
		if strings.HasPrefix(x.About, "server/") {
			what, _, _ := strings.Cut(x.For, ":")
			out = append(out, "wait: "+what)
		}
	}
	slices.Sort(out)
	return out
}

func TestRevive(t *testing.T) {
	var crash time.Time
	server := func(w *fleet.World, change func(*fleet.Server)) {
		s := w.Cloud.Servers["vm"]
		change(&s)
		w.Cloud.Servers["vm"] = s
	}
	// recorded is a revival whose newest try, if any, was recorded two seconds ago.
	recorded := func(w *fleet.World, change func(*fleet.Revival)) fleet.Revival {
		r := fleet.Revival{Server: "vm", Name: "vm", Host: "n2", Boot: "b", Crash: crash, Crashes: []time.Time{crash}, At: w.Wall.Add(-2 * time.Second), Epoch: w.Epoch}
		if change != nil {
			change(&r)
		}
		w.State.Revivals["vm"] = r
		return r
	}
	starts := func(w *fleet.World) {
		w.Spec.Services = []fleet.Service{{Name: "nova-compute", Kind: "compute", Mode: fleet.ActiveActive, Roles: []string{"compute"}}}
		r := w.Reports["n2"]
		r.Services = map[string]fleet.ServiceState{"nova-compute": {Phase: fleet.Starting}}
		w.Reports["n2"] = r
	}
	tried := func(w *fleet.World, o fleet.Outcome, change func(*fleet.Revival)) {
		r := recorded(w, func(r *fleet.Revival) {
			r.Try = 1
			if change != nil {
				change(r)
			}
		})
		w.Flights[r.Key()] = fleet.Flight{Sent: w.Now.Add(-1500 * ms), Tries: 1, Arrived: w.Now.Add(-time.Second), Effect: &fleet.Effect{Outcome: o, Why: "so it was"}}
	}
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   []string
	}{
		{"Nova calls it active: it is recorded", nil, []string{"vm try 0 failed 0"}},
		{"it is live-migrated", func(w *fleet.World) {
			w.State.Departures = map[string]fleet.Departure{"vm": {Server: "vm", From: "n2", Boot: "b", To: "n3", Try: 1, Epoch: w.Epoch, At: w.Wall}}
		}, nil},
		{"Nova has not been asked yet", func(w *fleet.World) { delete(w.Cloud.Servers, "vm") }, nil},
		{"Nova has a task on it", func(w *fleet.World) { server(w, func(s *fleet.Server) { s.Task = "migrating" }) }, nil},
		{"Nova calls it stopped: left, and told", func(w *fleet.World) { server(w, func(s *fleet.Server) { s.State = fleet.ServerStopped }) },
			[]string{"vm try 0 failed 0: Nova says that it is stopped"}},
		{"Nova has it elsewhere", func(w *fleet.World) { server(w, func(s *fleet.Server) { s.Host = "n3" }) }, []string{"vm try 0 failed 0: Nova has it on n3"}},
		{"its project is left to its owner", func(w *fleet.World) {
			server(w, func(s *fleet.Server) { s.Project = "octavia" })
			w.Spec.OpenStack.Leave = []string{"octavia"}
		}, []string{"vm try 0 failed 0: its project is left to its owner"}},
		{"its owner wants no such thing", func(w *fleet.World) {
			server(w, func(s *fleet.Server) { s.Metadata = map[string]string{"HA_Enabled": "false"} })
		}, []string{"vm try 0 failed 0: its owner says HA_Enabled: false"}},
		{"it is on its way from a dead host", func(w *fleet.World) {
			w.State.Evacuations["vm"] = fleet.Evacuation{Server: "vm", From: "n1", Boot: "b", Try: 1, To: "n2", Epoch: w.Epoch, At: w.Wall}
			server(w, func(s *fleet.Server) {
				s.Host, s.Migration = "n1", fleet.Migration{ID: 1, Status: "accepted", From: "n1", To: "n2"}
			})
		}, nil},
		{"its host is suspect", func(w *fleet.World) { silent(*w, "n2", 3500*ms) }, nil},
		{"its hypervisor does not answer any more: nothing is known", func(w *fleet.World) {
			r := w.Reports["n2"]
			r.Guests.Unknown = "libvirt does not answer within 5s"
			w.Reports["n2"] = r
		}, nil},
		{"recorded, and Nova asked since: the try", func(w *fleet.World) { recorded(w, nil) }, []string{"vm try 1 failed 0"}},
		{"recorded, and Nova not asked since", func(w *fleet.World) { recorded(w, func(r *fleet.Revival) { r.At = w.Wall }) }, nil},
		{"Nova stopped it meanwhile, by itself", func(w *fleet.World) {
			recorded(w, nil)
			server(w, func(s *fleet.Server) { s.State = fleet.ServerStopped })
		}, []string{"vm try 1 failed 0"}},
		{"Nova is about something else with it now", func(w *fleet.World) {
			recorded(w, nil)
			server(w, func(s *fleet.Server) { s.Task = "powering-off" })
		}, []string{"vm try 0 failed 0: Nova is about something else with it: powering-off"}},
		{"it runs again", func(w *fleet.World) {
			recorded(w, nil)
			r := w.Reports["n2"]
			r.Guests.Crashed = nil
			w.Reports["n2"] = r
		}, []string{"vm try 0 failed 0: it runs again on n2"}},
		{"its nova-compute is down", func(w *fleet.World) {
			recorded(w, nil)
			c := w.Cloud.Computes["n2"]
			c.Up = false
			w.Cloud.Computes["n2"] = c
		}, []string{"wait: the nova-compute of n2 to be up, to start it again"}},
		{"a person has disarmed", func(w *fleet.World) {
			recorded(w, nil)
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, []string{"wait: Mainstay to be armed again, to start it again"}},
		{"three are on their way on that host", func(w *fleet.World) {
			recorded(w, nil)
			for _, id := range []string{"a", "b", "c"} {
				w.State.Revivals[id] = fleet.Revival{Server: id, Host: "n2", Boot: "b", Try: 1, Epoch: w.Epoch, At: w.Wall}
			}
		}, nil},
		{"it crashed a fourth time within the hour", func(w *fleet.World) {
			recorded(w, func(r *fleet.Revival) { r.Crashes = []time.Time{crash, crash, crash, crash} })
		}, []string{"wait: a person"}},
		{"the first of four was more than an hour ago", func(w *fleet.World) {
			recorded(w, func(r *fleet.Revival) { r.Crashes = []time.Time{crash.Add(-time.Hour), crash, crash, crash} })
		}, []string{"vm try 1 failed 0"}},
		{"its nova-compute starts, and may start it by itself: not recorded", func(w *fleet.World) {
			recorded(w, nil)
			starts(w)
		}, []string{"wait: the nova-compute of n2 to be up, to start it again"}},
		{"nor asked for", func(w *fleet.World) {
			recorded(w, func(r *fleet.Revival) { r.Try = 1 })
			starts(w)
		}, []string{"wait: the nova-compute of n2 to be up, to start it again"}},
		{"the try is recorded: Nova is asked", func(w *fleet.World) { recorded(w, func(r *fleet.Revival) { r.Try = 1 }) }, []string{"reboot server/vm"}},
		{"a former leader's try may be on its way", func(w *fleet.World) {
			recorded(w, func(r *fleet.Revival) { r.Try, r.Epoch = 1, w.Epoch-1 })
			w.Since = w.Now.Add(-30 * time.Second)
		}, nil},
		{"and later is not", func(w *fleet.World) {
			recorded(w, func(r *fleet.Revival) { r.Try, r.Epoch, r.At = 1, w.Epoch-1, w.Wall.Add(-cloudLasts-2*time.Second) })
			w.Since = w.Now.Add(-cloudLasts - time.Second)
		}, []string{"vm try 2 failed 0"}},
		{"its answer is lost, and nobody asks again", func(w *fleet.World) { tried(w, fleet.NoWord, nil) }, nil},
		{"accepted: Nova is about it", func(w *fleet.World) {
			tried(w, fleet.Done, nil)
			server(w, func(s *fleet.Server) { s.Task = "reboot_started_hard" })
		}, nil},
		{"accepted, and not looked at since: what the host says is of before", func(w *fleet.World) {
			tried(w, fleet.Done, nil)
			w.Cloud.At = w.Now.Add(-1200 * ms)
			r := w.Reports["n2"]
			r.Guests.Crashed = nil
			w.Reports["n2"] = r
		}, nil},
		{"Nova failed to start it: again after a pause", func(w *fleet.World) {
			tried(w, fleet.Done, func(r *fleet.Revival) { r.At = w.Wall.Add(-5 * time.Second) })
			server(w, func(s *fleet.Server) { s.State, s.Fault = fleet.ServerError, "no such disk" })
		}, []string{"vm try 2 failed 1"}},
		{"three times: a person", func(w *fleet.World) {
			tried(w, fleet.Done, func(r *fleet.Revival) { r.Failed = 2 })
			server(w, func(s *fleet.Server) { s.State = fleet.ServerError })
		}, []string{"vm try 1 failed 3"}},
		{"who is told", func(w *fleet.World) { recorded(w, func(r *fleet.Revival) { r.Try, r.Failed = 3, 3 }) }, []string{"wait: a person"}},
		{"its host died, and no request is on its way", func(w *fleet.World) {
			recorded(w, nil)
			w.State.Evacuations["vm"] = fleet.Evacuation{Server: "vm", From: "n2", Boot: "b", Try: 1, To: "n3", Epoch: w.Epoch, At: w.Wall}
		}, []string{"vm try 0 failed 0: its host died, and it is evacuated", "evacuate server/vm"}},
		{"what is over is forgotten after an hour", func(w *fleet.World) {
			recorded(w, func(r *fleet.Revival) {
				r.Ended, r.Crashes, r.At = "it runs again on n2", []time.Time{crash.Add(-time.Hour)}, w.Wall.Add(-time.Hour)
			})
			r := w.Reports["n2"]
			r.Guests.Crashed = nil
			w.Reports["n2"] = r
		}, []string{"forget vm"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, at := crashed()
			crash = at
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			slices.Sort(c.want)
			if got := revivals(p); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestOneDeedAtATime: a server that Nova was asked to reboot is evacuated only once that is answered,
// and one that a later boot of its host runs not at all.
func TestOneDeedAtATime(t *testing.T) {
	r := fleet.Revival{Server: "vm", Host: "n1", Boot: "b", Try: 1, At: time.Unix(0, 0)}
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   bool
	}{
		{"nothing else", func(*fleet.World) {}, true},
		{"on its way", func(w *fleet.World) { w.Flights[r.Key()] = fleet.Flight{Sent: w.Now.Add(-5 * time.Second)} }, false},
		{"on its way for too long", func(w *fleet.World) { w.Flights[r.Key()] = fleet.Flight{Sent: w.Now.Add(-askLasts)} }, true},
		{"answered", func(w *fleet.World) {
			w.Flights[r.Key()] = fleet.Flight{Sent: w.Now.Add(-5 * time.Second), Arrived: w.Now, Effect: &fleet.Effect{Outcome: fleet.NoWord}}
		}, true},
		{"a former leader's", func(w *fleet.World) {
			x := r
			x.Epoch = w.Epoch - 1
			w.State.Revivals["vm"], w.Since = x, w.Now.Add(-10*time.Second)
		}, false},
		{"a later boot runs it", func(w *fleet.World) {
			evacuating(*w, func(e *fleet.Evacuation) { e.Server = "other" })
			w.State.Evacuations = map[string]fleet.Evacuation{"other": {Server: "other", From: "n1", Boot: "b", Ended: "on n2"}}
			reboot(*w, "n1", "x")
			x := w.Reports["n1"]
			x.Guests = fleet.Guests{Asked: true, Brought: []string{"vm"}}
			w.Reports["n1"] = x
		}, false},
		{"the dead boot ran it, as it had said", func(w *fleet.World) {
			w.Heard["n1"] = fleet.Heard{Stint: fleet.Stint{Host: "n1", Boot: "b"}, Last: w.Now.Add(-time.Minute)}
			w.Reports["n1"] = fleet.Report{Host: "n1", Boot: "b", Guests: fleet.Guests{Asked: true, Running: 1, Brought: []string{"vm"}}}
		}, true},
		{"a later boot ran it, and is dead too", func(w *fleet.World) {
			w.Heard["n1"] = fleet.Heard{Stint: fleet.Stint{Host: "n1", Boot: "x"}, Last: w.Now.Add(-time.Minute)}
			w.Reports["n1"] = fleet.Report{Host: "n1", Boot: "x", Guests: fleet.Guests{Asked: true, Running: 1, Brought: []string{"vm"}}}
			m := w.State.Members["n1"]
			m.Admitted = "x"
			w.State.Members["n1"] = m
			p := w.State.Proofs["n1"]
			p.Boot = "x"
			w.State.Proofs["n1"] = p
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := computed()
			r.Epoch = w.Epoch
			w.State.Revivals = map[string]fleet.Revival{"vm": r}
			c.change(&w)
			_, p := Turn(w)
			if got := slices.Contains(revivals(p), "evacuation/vm"); got != c.want {
				t.Errorf("evacuated: %v, want %v: %q", got, c.want, revivals(p))
			}
		})
	}
}

// ailments is what a plan does about a compute that ails, in a few words.
func ailments(p fleet.Plan) (out []string) {
	for _, r := range p.Records {
		if strings.HasPrefix(r.Key, "ailment/") {
			out = append(out, r.Text)
		}
	}
	for _, o := range p.Orders {
		if o.Verb == fleet.VerbCloud || o.Verb == fleet.VerbRestart || o.Verb == fleet.VerbFence {
			out = append(out, strings.TrimSpace(string(o.Verb)+" "+o.Step)+" "+o.Thing)
		}
	}
	for _, x := range p.Waits {
		if strings.HasPrefix(x.About, "compute/n2") {
			out = append(out, "wait: "+x.For)
		}
	}
	slices.Sort(out)
	return out
}

func TestAiling(t *testing.T) {
	told := func(w *fleet.World, change func(*fleet.Report)) {
		r := w.Reports["n2"]
		change(&r)
		w.Reports["n2"] = r
	}
	ill := func(w *fleet.World, what, why string, ago time.Duration) {
		w.State.Ailments["n2"] = fleet.Ailment{Host: "n2", Of: map[string]fleet.Lost{what: {Since: w.Wall.Add(-ago), Why: why}}}
	}
	deaf := func(w *fleet.World) {
		c := w.Cloud.Computes["n2"]
		c.Up = false
		w.Cloud.Computes["n2"] = c
	}
	const mute, hidden = "libvirt does not answer within 5s", "Nova hears nothing of nova-compute, which runs"
	closed := "; it gets no new servers, and what runs on it runs on"
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   []string
	}{
		{"all is well", func(*fleet.World) {}, nil},
		{"libvirt does not answer", func(w *fleet.World) { told(w, func(r *fleet.Report) { r.Guests.Unknown = mute }) }, []string{mute}},
		{"for a moment: nothing yet", func(w *fleet.World) {
			told(w, func(r *fleet.Report) { r.Guests.Unknown = mute })
			ill(w, "libvirt", mute, 9*time.Second)
		}, nil},
		{"for a while: no new servers, and no fence", func(w *fleet.World) {
			told(w, func(r *fleet.Report) { r.Guests.Unknown = mute })
			ill(w, "libvirt", mute, 11*time.Second)
		}, []string{"cloud disable compute/n2", "wait: its host to be whole again: " + mute + closed}},
		{"it answers again", func(w *fleet.World) { ill(w, "libvirt", mute, time.Minute) },
			[]string{"libvirt of n2 works again", "cloud disable compute/n2", "wait: its host to be whole again: " + mute + closed}},
		{"the disks are read-only", func(w *fleet.World) { told(w, func(r *fleet.Report) { r.Guests.Disks = "/x is read-only" }) }, []string{"/x is read-only"}},
		{"Nova hears nothing of nova-compute", deaf, []string{hidden}},
		{"it is restarted", func(w *fleet.World) {
			deaf(w)
			ill(w, "Nova", hidden, 21*time.Second)
		}, []string{"nova-compute of n2 is restarted: Nova hears nothing of it", "wait: its host to be whole again: " + hidden + closed}},
		{"as recorded", func(w *fleet.World) {
			deaf(w)
			ill(w, "Nova", hidden, 21*time.Second)
			a := w.State.Ailments["n2"]
			a.Restarted = []time.Time{w.Wall.Add(-time.Second)}
			w.State.Ailments["n2"] = a
		}, []string{"restart service/nova-compute", "wait: its host to be whole again: " + hidden + closed}},
		{"while it starts anew it is not called well", func(w *fleet.World) {
			deaf(w)
			ill(w, "Nova", hidden, 21*time.Second)
			a := w.State.Ailments["n2"]
			a.Restarted = []time.Time{w.Wall.Add(-time.Second)}
			w.State.Ailments["n2"] = a
			told(w, func(r *fleet.Report) { r.Services["nova-compute"] = fleet.ServiceState{Phase: fleet.Starting} })
		}, []string{"restart service/nova-compute", "wait: its host to be whole again: " + hidden + closed}},
		{"nor when that takes long", func(w *fleet.World) {
			deaf(w)
			ill(w, "Nova", hidden, 3*time.Minute)
			a := w.State.Ailments["n2"]
			a.Restarted = []time.Time{w.Wall.Add(-90 * time.Second)}
			w.State.Ailments["n2"] = a
			told(w, func(r *fleet.Report) {
				r.Services["nova-compute"] = fleet.ServiceState{Phase: fleet.Starting, Unready: r.Wall.Add(-2 * time.Minute)}
			})
		}, []string{"nova-compute: n2 says starting", "wait: its host to be whole again: " + hidden + closed}},
		{"Nova hears it again: one that was disabled for another reason need not wait", func(w *fleet.World) {
			l := fleet.Lost{Since: w.Wall.Add(-time.Minute), Why: hidden, Back: w.Wall.Add(-time.Second)}
			w.State.Ailments["n2"] = fleet.Ailment{Host: "n2", Of: map[string]fleet.Lost{"Nova": l}}
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true, Disabled: true, Reason: disabledBy + "off", Zone: "nova"}
		}, []string{"cloud enable compute/n2"}},
		{"though that is not known while its host has just been heard again", func(w *fleet.World) {
			l := fleet.Lost{Since: w.Wall.Add(-time.Minute), Why: hidden, Back: w.Wall.Add(-time.Second)}
			w.State.Ailments["n2"] = fleet.Ailment{Host: "n2", Of: map[string]fleet.Lost{"Nova": l}}
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true, Disabled: true, Reason: disabledBy + "off", Zone: "nova"}
			w.Since = w.Now - 1
		}, []string{"cloud enable compute/n2"}},
		{"but not more often than its service allows", func(w *fleet.World) {
			deaf(w)
			ill(w, "Nova", hidden, 10*time.Minute)
			a := w.State.Ailments["n2"]
			for _, minutes := range []int{9, 6, 3} {
				a.Restarted = append(a.Restarted, w.Wall.Add(-time.Duration(minutes)*time.Minute))
			}
			w.State.Ailments["n2"] = a
		}, []string{"wait: its host to be whole again: " + hidden + closed}},
		{"nor while a server is live-migrated from it", func(w *fleet.World) {
			deaf(w)
			ill(w, "Nova", hidden, 21*time.Second)
			w.State.Departures = map[string]fleet.Departure{"vm7": {Server: "vm7", From: "n2", Boot: "b", To: "n3", Try: 1, Epoch: w.Epoch, At: w.Wall}}
		}, []string{"wait: its host to be whole again: " + hidden + closed}},
		{"it is forced down: Nova was told so", func(w *fleet.World) {
			deaf(w)
			c := w.Cloud.Computes["n2"]
			c.Forced = true
			w.Cloud.Computes["n2"] = c
			w.State.Holdings[Compute("n2")] = fleet.Holding{Thing: Compute("n2"), Host: "n2", Boot: "b", Generation: 1, From: fleet.Stint{Host: "n9"}}
		}, nil},
		{"all computes ail so: it is not their fault", func(w *fleet.World) {
			deaf(w)
			ill(w, "Nova", hidden, time.Minute)
			w.State.Ailments["n3"] = fleet.Ailment{Host: "n3", Of: map[string]fleet.Lost{"Nova": {Since: w.Wall.Add(-time.Minute), Why: hidden}}}
			c := w.Cloud.Computes["n3"]
			c.Up = false
			w.Cloud.Computes["n3"] = c
		}, []string{"wait: its host to be whole again: " + hidden + "; nothing is done about it: 2 of 3 computes ail so (n2, n3), which is no fault of theirs until shown otherwise"}},
		{"the agent of its network failed as often as it may", func(w *fleet.World) {
			told(w, func(r *fleet.Report) {
				r.Services["agent"] = fleet.ServiceState{Phase: fleet.Failed, Restarts: 3, Why: "exit 1", Unready: r.Wall.Add(-time.Second)}
			})
			w.Spec.Services = append(w.Spec.Services, fleet.Service{Name: "agent", Mode: fleet.ActiveActive, Roles: []string{"compute"}, Hosts: []string{"n2"}, Restarts: fleet.Restarts{Count: 3, Within: 10 * time.Minute}})
			w.Spec.Services[0].After = []string{"agent"}
		}, []string{"agent failed again after 3 restarts (exit 1)"}},
		{"it is in maintenance", func(w *fleet.World) {
			told(w, func(r *fleet.Report) { r.Guests.Unknown = mute })
			w.State.Wishes["maintenance-n2"] = fleet.Wish{ID: "maintenance-n2", Verb: "maintenance", Host: "n2"}
		}, []string{"cloud disable compute/n2"}}, // by the maintenance itself
		{"healed: it is enabled a minute later", func(w *fleet.World) {
			l := fleet.Lost{Since: w.Wall.Add(-time.Hour), Why: mute, Back: w.Wall.Add(-lostCalm)}
			w.State.Ailments["n2"] = fleet.Ailment{Host: "n2", Of: map[string]fleet.Lost{"libvirt": l}}
		}, []string{"libvirt of n2 works for 1m0s now"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := computed()
			delete(w.State.Holdings, Compute("n1"))
			w.State.Ailments = map[string]fleet.Ailment{}
			w.Spec.Services = []fleet.Service{{Name: "nova-compute", Kind: "compute", Mode: fleet.ActiveActive, Roles: []string{"compute"}, Restarts: fleet.Restarts{Count: 3, Within: 10 * time.Minute}}}
			for _, host := range []string{"n2", "n3"} {
				r := w.Reports[host]
				r.Services = map[string]fleet.ServiceState{"nova-compute": {Phase: fleet.Running, Ready: true}}
				r.Guests.Asked = true
				w.Reports[host] = r
				w.State.Holdings[Compute(host)] = fleet.Holding{Thing: Compute(host), Host: host, Boot: "b", Generation: 1, At: w.Wall.Add(-time.Hour)}
			}
			c.change(&w)
			_, p := Turn(w)
			got := ailments(p)
			got = slices.DeleteFunc(got, func(s string) bool { return strings.Contains(s, "compute/n3") || strings.Contains(s, "of n3") })
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestBrings: a compute that Mainstay disabled gets new servers only when it runs nothing that Nova has
// elsewhere.
func TestBrings(t *testing.T) {
	for _, c := range []struct {
		name string
		word *fleet.Server
		ails time.Duration // it does, so that it gets no new servers anyway, and came back then
		want string        // of the plan: "" enables
	}{
		{"it is Nova's here", &fleet.Server{ID: "vm", Host: "n2", State: fleet.ServerActive}, 0, ""},
		{"Nova has not listed it here, and has not been asked for it", &fleet.Server{}, 0, "nothing"},
		{"Nova has it elsewhere", &fleet.Server{ID: "vm", Host: "n3", State: fleet.ServerActive}, 0, "virsh destroy vm on n2"},
		{"Nova knows it no more", &fleet.Server{ID: "vm", State: fleet.ServerDeleted}, 0, "virsh destroy vm on n2"},
		{"Nova has not said", nil, 0, "nothing"},
		{"Nova has it elsewhere, and the compute ails: the former is asked later", &fleet.Server{ID: "vm", Host: "n3", State: fleet.ServerActive}, -broughtTold - 1, "df and mount on n2"},
		{"the same, and it has just come back", &fleet.Server{ID: "vm", Host: "n3", State: fleet.ServerActive}, -broughtTold, "df and mount on n2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := computed()
			delete(w.State.Holdings, Compute("n1"))
			delete(w.Cloud.Servers, "vm")
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true, Disabled: true, Reason: disabledBy + "off", Zone: "nova"}
			r := w.Reports["n2"]
			r.Guests = fleet.Guests{Asked: true, Running: 1, Brought: []string{"vm"}}
			if c.ails != 0 {
				r.Guests.Disks = "/x is read-only"
				h := w.State.Holdings[Compute("n2")]
				h.At = w.Wall.Add(c.ails)
				w.State.Holdings[Compute("n2")] = h
				w.State.Ailments = map[string]fleet.Ailment{"n2": {Host: "n2", Of: map[string]fleet.Lost{ailsDisks: {Since: w.Wall.Add(-time.Hour), Why: r.Guests.Disks}}}}
			}
			w.Reports["n2"] = r
			if c.word != nil {
				w.Cloud.Looked["n2"] = w.Cloud.At
			}
			if c.word != nil && c.word.ID != "" {
				w.Cloud.Servers["vm"] = *c.word
			}
			_, p := Turn(w)
			asked := c.ails >= -broughtTold
			if slices.Contains(p.Looks, "n2") != asked {
				t.Errorf("looks at %v", p.Looks)
			}
			enabled := slices.ContainsFunc(p.Orders, func(o fleet.Order) bool { return o.Step == fleet.CloudEnable })
			help, waits := "", ""
			for _, x := range p.Waits {
				if x.About == Compute("n2") {
					help, waits = x.Help, x.For
				}
			}
			if enabled != (c.want == "") || c.want != "nothing" && help != c.want || slices.Contains(p.Servers, "vm") != (asked && c.word != nil && c.word.Host != "n2") || strings.Contains(waits, "1 of the machines that it runs to end") != (asked && c.word != nil && c.word.ID != "" && c.want != "") {
				t.Errorf("enabled %v, help %q, asks for %v, waits for %s", enabled, help, p.Servers, waits)
			}
		})
	}
}
