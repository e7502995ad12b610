package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/judge"
)

// hung is crashed's site, where the guest agent of vm on n2 has been silent for so long, and its owner asks for HA_Alive.
func hung(age time.Duration) fleet.World {
	w, _ := crashed()
	quieted(&w, "n2", "vm", age)
	serverSays(&w, func(s *fleet.Server) { s.Metadata = map[string]string{fleet.MetaAlive: "agent"} })
	return w
}

// quieted has a guest's agent silent on a host.
func quieted(w *fleet.World, host, id string, age time.Duration) {
	r := w.Reports[host]
	r.Wall = w.Wall
	g := &r.Guests
	g.Asked, g.Crashed, g.Machines = true, nil, append(g.Machines, id)
	was := g.Silent
	g.Silent = map[string]time.Time{id: w.Wall.Add(-age)}
	for other, since := range was {
		g.Silent[other] = since
	}
	w.Reports[host] = r
}

func serverSays(w *fleet.World, change func(*fleet.Server)) {
	s := w.Cloud.Servers["vm"]
	change(&s)
	w.Cloud.Servers["vm"] = s
}

func guestsSay(w *fleet.World, change func(*fleet.Guests)) {
	r := w.Reports["n2"]
	change(&r.Guests)
	w.Reports["n2"] = r
}

// watched is the record of that silence, of so long ago, with a try if it has one.
func watched(w *fleet.World, ago time.Duration, change func(*fleet.Revival)) fleet.Revival {
	r := fleet.Revival{Server: "vm", Name: "vm", Host: "n2", Boot: "b", Silent: true, Crash: w.Reports["n2"].Guests.Silent["vm"], Crashes: []time.Time{w.Wall.Add(-ago)}, At: w.Wall.Add(-ago), Epoch: w.Epoch}
	if change != nil {
		change(&r)
	}
	w.State.Revivals["vm"] = r
	return r
}

// silentTried is one whose try was answered a second ago.
func silentTried(w *fleet.World, o fleet.Outcome, change func(*fleet.Revival)) {
	r := watched(w, 2*time.Second, func(r *fleet.Revival) {
		r.Try = 1
		if change != nil {
			change(r)
		}
	})
	w.Flights[r.Key()] = fleet.Flight{Sent: w.Now.Add(-1500 * ms), Tries: 1, Arrived: w.Now.Add(-time.Second), Effect: &fleet.Effect{Outcome: o, Why: "so it was"}}
}

func TestSilent(t *testing.T) {
	const m = time.Minute
	tcp := func(w *fleet.World, said string, asked bool) {
		w.Spec.OpenStack.Ready = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		serverSays(w, func(s *fleet.Server) {
			s.Metadata[fleet.MetaReady], s.Addresses = "tcp:22", []netip.Addr{netip.MustParseAddr("203.0.113.7")}
		})
		if asked {
			w.Cloud.Gates = map[string]string{"vm": said}
		}
	}
	for _, c := range []struct {
		name   string
		age    time.Duration
		change func(w *fleet.World)
		want   []string
		later  bool // Nova is asked with the next look only
	}{
		{"half a minute: it is watched", 30 * time.Second, nil, []string{"vm try 0 failed 0"}, false},
		{"less: not yet", 29 * time.Second, nil, nil, true},
		{"Nova has not been asked yet", m, func(w *fleet.World) { delete(w.Cloud.Servers, "vm") }, nil, true},
		{"its owner asks for nothing", m, func(w *fleet.World) { serverSays(w, func(s *fleet.Server) { s.Metadata = nil }) }, nil, true},
		{"nor for anything that can be read", m, func(w *fleet.World) {
			serverSays(w, func(s *fleet.Server) { s.Metadata[fleet.MetaAlive] = "agent:10s" })
		}, []string{"wait: its owner, whose word is taken for not said"}, true},
		{"its owner has more patience", 4 * m, func(w *fleet.World) {
			serverSays(w, func(s *fleet.Server) { s.Metadata[fleet.MetaAlive] = "agent:5m" })
		}, nil, true},
		{"libvirt does not answer: nothing is known", m, func(w *fleet.World) {
			guestsSay(w, func(g *fleet.Guests) { g.Unknown = "libvirt does not answer within 5s" })
		}, nil, false},
		{"its host is suspect", m, func(w *fleet.World) { silent(*w, "n2", 3500*ms) }, nil, false},
		{"Nova has a task on it, such as a snapshot", m, func(w *fleet.World) { serverSays(w, func(s *fleet.Server) { s.Task = "image_snapshot" }) }, nil, false},
		{"OpenStack is away", m, func(w *fleet.World) { w.Cloud.Away = "no answer" }, nil, false},
		{"it is live-migrated", m, func(w *fleet.World) {
			w.State.Departures = map[string]fleet.Departure{"vm": {Server: "vm", From: "n2", Boot: "b", To: "n3", Try: 1, Epoch: w.Epoch, At: w.Wall}}
		}, nil, false},
		{"paused", m, func(w *fleet.World) { serverSays(w, func(s *fleet.Server) { s.State = fleet.ServerPaused }) }, []string{"vm try 0 failed 0: Nova says that it is paused"}, false},
		{"locked by its owner", m, func(w *fleet.World) { serverSays(w, func(s *fleet.Server) { s.Locked = true }) }, []string{"vm try 0 failed 0: its owner has locked it"}, false},
		{"Nova has it elsewhere", m, func(w *fleet.World) { serverSays(w, func(s *fleet.Server) { s.Host = "n3" }) }, []string{"vm try 0 failed 0: Nova has it on n3"}, false},
		{"HA_Enabled: false", m, func(w *fleet.World) { serverSays(w, func(s *fleet.Server) { s.Metadata["HA_Enabled"] = "False" }) },
			[]string{"vm try 0 failed 0: its owner says HA_Enabled: false"}, false},
		{"another on its host fell silent at once", m, func(w *fleet.World) { quieted(w, "n2", "x", 2*m) }, []string{"wait on n2: a person"}, false},
		{"which both are too young to be told", 50 * time.Second, func(w *fleet.World) { quieted(w, "n2", "x", 30*time.Second) }, nil, false},
		{"another long ago", m, func(w *fleet.World) { quieted(w, "n2", "x", 7*m) }, []string{"vm try 0 failed 0"}, true},
		{"another was rebooted for it a moment ago", m, func(w *fleet.World) {
			w.State.Revivals["x"] = fleet.Revival{Server: "x", Host: "n2", Boot: "b", Silent: true, Try: 1, Crash: w.Wall.Add(-2 * m), Crashes: []time.Time{w.Wall.Add(-m)}, At: w.Wall.Add(-m), Ended: rebootedFor}
			guestsSay(w, func(g *fleet.Guests) { g.Answering = []string{"x"} })
		}, []string{"wait on n2: a person"}, false},
		{"one on another compute, more than the brake allows", m, func(w *fleet.World) { quieted(w, "n3", "x", m) }, []string{"wait on guests: a person"}, false},
		{"which this site's brake allows", m, func(w *fleet.World) {
			w.Spec.Brakes.Share = 90
			quieted(w, "n3", "x", m)
		}, []string{"vm try 0 failed 0"}, true},
		{"it was left as it is in this silence", m, func(w *fleet.World) {
			watched(w, m, func(r *fleet.Revival) { r.Ended, r.Crashes = "its owner has locked it", nil })
		}, nil, false},
		{"it was rebooted for it: not again", m, func(w *fleet.World) { watched(w, m, func(r *fleet.Revival) { r.Try, r.Ended = 1, rebootedFor }) }, nil, false},
		{"Nova was about something with it, and is no more", m, func(w *fleet.World) { watched(w, m, func(r *fleet.Revival) { r.Ended, r.Busy = "busy", true }) }, []string{"vm try 0 failed 0"}, false},

		{"watched for a while: the try", m, func(w *fleet.World) { watched(w, 30*time.Second, nil) }, []string{"vm try 1 failed 0"}, false},
		{"not watched for long enough", 5 * m, func(w *fleet.World) { watched(w, 29*time.Second, nil) }, nil, false},
		{"not silent for long enough", 59 * time.Second, func(w *fleet.World) { watched(w, 30*time.Second, nil) }, nil, false},
		{"Nova not asked since", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			w.Cloud.At = w.Now.Add(-time.Minute)
		}, nil, false},
		{"it answers again", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			guestsSay(w, func(g *fleet.Guests) { g.Silent, g.Answering = nil, []string{"vm"} })
		}, []string{"vm try 0 failed 0: it is silent no more"}, false},
		{"it answered, and is silent again", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			guestsSay(w, func(g *fleet.Guests) { g.Silent = map[string]time.Time{"vm": w.Wall.Add(-20 * time.Second)} })
		}, []string{"vm try 0 failed 0: it is silent no more"}, false},
		{"a task began", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			serverSays(w, func(s *fleet.Server) { s.Task = "image_pending_upload" })
		}, []string{"vm try 0 failed 0: Nova is about something else with it: image_pending_upload"}, false},
		{"its owner locked it meanwhile", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			serverSays(w, func(s *fleet.Server) { s.Locked = true })
		}, []string{"vm try 0 failed 0: its owner has locked it"}, false},
		{"others fell silent meanwhile", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			quieted(w, "n2", "x", 20*time.Second)
		}, []string{"vm try 0 failed 0: guests of n2 fell silent at once (vm, x), which is its host's fault or ours until shown otherwise", "wait on n2: a person"}, false},
		{"its HA_Ready is answered: it serves", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			tcp(w, "", true)
		}, []string{"vm try 0 failed 0: its HA_Ready (tcp:22) is answered: it serves"}, false},
		{"it has not been asked that yet", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			tcp(w, "", false)
		}, nil, false},
		{"nor does it answer that", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			tcp(w, "connection refused", true)
		}, []string{"vm try 1 failed 0"}, false},
		{"its host in maintenance", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			w.State.Wishes["maintenance-n2"] = fleet.Wish{ID: "maintenance-n2", Verb: "maintenance", Host: "n2"}
		}, []string{"wait: the maintenance of n2 to end, to reboot it", "disable compute/n2"}, false},
		{"disarmed", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, []string{"wait: Mainstay to be armed again, to reboot it"}, false},
		{"the fourth time within an hour", m, func(w *fleet.World) {
			watched(w, 30*time.Second, func(r *fleet.Revival) { r.Crashes = []time.Time{r.Crash, r.Crash, r.Crash, r.Crash} })
		}, []string{"wait: a person"}, false},
		{"its host died", m, func(w *fleet.World) {
			watched(w, 30*time.Second, nil)
			w.State.Evacuations["vm"] = fleet.Evacuation{Server: "vm", From: "n2", Boot: "b", Try: 1, To: "n3", Epoch: w.Epoch, At: w.Wall}
		}, []string{"vm try 0 failed 0: its host died, and it is evacuated", "evacuate server/vm"}, false},

		{"the try is recorded: Nova is asked, for one that is active alone", m, func(w *fleet.World) { watched(w, 2*time.Second, func(r *fleet.Revival) { r.Try = 1 }) }, []string{"reboot server/vm if active"}, false},
		{"recorded, and it answers again: Nova is not asked", m, func(w *fleet.World) {
			watched(w, 2*time.Second, func(r *fleet.Revival) { r.Try = 1 })
			guestsSay(w, func(g *fleet.Guests) { g.Silent = nil })
		}, []string{"vm try 1 failed 0: it is silent no more"}, false},
		{"recorded, and its owner locks it", m, func(w *fleet.World) {
			watched(w, 2*time.Second, func(r *fleet.Revival) { r.Try = 1 })
			serverSays(w, func(s *fleet.Server) { s.Locked = true })
		}, []string{"vm try 1 failed 0: its owner has locked it"}, false},
		{"a former leader's try may be on its way", m, func(w *fleet.World) {
			watched(w, 2*time.Second, func(r *fleet.Revival) { r.Try, r.Epoch = 1, w.Epoch-1 })
			w.Since = w.Now.Add(-30 * time.Second)
		}, nil, false},
		{"Nova is about a former leader's", m, func(w *fleet.World) {
			watched(w, 2*time.Second, func(r *fleet.Revival) { r.Try, r.Epoch = 1, w.Epoch-1 })
			serverSays(w, func(s *fleet.Server) { s.Task = "reboot_started_hard" })
		}, nil, false},
		{"or about one of which nobody remembers the answer", m, func(w *fleet.World) {
			watched(w, 2*time.Second, func(r *fleet.Revival) { r.Try, r.Doubt = 1, true })
			serverSays(w, func(s *fleet.Server) { s.Task = "reboot_started_hard" })
		}, nil, false},
		{"its answer is lost, and nobody asks again", m, func(w *fleet.World) { silentTried(w, fleet.NoWord, nil) }, nil, false},
		{"accepted: Nova is about it", m, func(w *fleet.World) {
			silentTried(w, fleet.Done, nil)
			serverSays(w, func(s *fleet.Server) { s.Task = "reboot_started_hard" })
		}, nil, false},
		{"done: it is another life", m, func(w *fleet.World) {
			silentTried(w, fleet.Done, nil)
			guestsSay(w, func(g *fleet.Guests) { g.Silent = nil })
		}, []string{"vm try 1 failed 0: it was rebooted"}, false},
		{"Nova has been about it for half a minute: that it was asked is recorded, for its answer is soon forgotten", 3 * m, func(w *fleet.World) {
			silentTried(w, fleet.Done, func(r *fleet.Revival) { r.At = w.Wall.Add(-40 * time.Second) })
			f := w.Flights[w.State.Revivals["vm"].Key()]
			f.Sent, f.Arrived = w.Now.Add(-40*time.Second), w.Now.Add(-39*time.Second)
			w.Flights[w.State.Revivals["vm"].Key()] = f
			serverSays(w, func(s *fleet.Server) { s.Task = "reboot_started_hard" })
		}, []string{"vm try 1 failed 0"}, false},
		{"done after more than a minute", 5 * m, func(w *fleet.World) {
			watched(w, 90*time.Second, func(r *fleet.Revival) { r.Try, r.Doubt = 1, true })
			guestsSay(w, func(g *fleet.Guests) { g.Silent = nil })
		}, []string{"vm try 1 failed 0: it was rebooted"}, false},
		{"Nova failed: again after a pause", m, func(w *fleet.World) {
			silentTried(w, fleet.Done, func(r *fleet.Revival) { r.At = w.Wall.Add(-5 * time.Second) })
			serverSays(w, func(s *fleet.Server) { s.State, s.Fault = fleet.ServerError, "no such disk" })
		}, []string{"vm try 2 failed 1"}, false},
		{"it refused, for its owner locked it: not again", m, func(w *fleet.World) {
			silentTried(w, fleet.Broken, func(r *fleet.Revival) { r.At = w.Wall.Add(-5 * time.Second) })
			serverSays(w, func(s *fleet.Server) { s.Locked = true })
		}, []string{"vm try 1 failed 1: its owner has locked it"}, false},
		{"three times: a person", m, func(w *fleet.World) {
			watched(w, 2*time.Second, func(r *fleet.Revival) { r.Try, r.Failed = 3, 3 })
		}, []string{"wait: a person"}, false},

		{"rebooted, and its agent does not come back: a person", m, func(w *fleet.World) {
			watched(w, silentBoot, func(r *fleet.Revival) { r.Try, r.Ended = 1, rebootedFor })
			guestsSay(w, func(g *fleet.Guests) { g.Silent = nil })
		}, []string{"wait: a person"}, false},
		{"it comes back", m, func(w *fleet.World) {
			watched(w, silentBoot, func(r *fleet.Revival) { r.Try, r.Ended = 1, rebootedFor })
			guestsSay(w, func(g *fleet.Guests) { g.Silent, g.Answering = nil, []string{"vm"} })
		}, nil, false},
		{"over, and it was not rebooted: forgotten", m, func(w *fleet.World) {
			watched(w, m, func(r *fleet.Revival) { r.Ended, r.Crashes = "it is silent no more", nil })
			guestsSay(w, func(g *fleet.Guests) { g.Silent, g.Answering = nil, []string{"vm"} })
		}, []string{"forget vm"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := hung(c.age)
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			got := revivals(p)
			for _, o := range p.Orders {
				if i := slices.Index(got, "reboot "+o.Thing); o.Step == fleet.CloudReboot && i >= 0 && o.With != "" {
					got[i] += " if " + o.With
				}
			}
			for _, x := range p.Waits {
				if strings.Contains(x.For, "silent at once") {
					what, _, _ := strings.Cut(x.For, ":")
					got = append(got, "wait on "+strings.TrimPrefix(x.About, "compute/")+": "+what)
				}
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if later := slices.Contains(p.Later, "vm") || slices.Contains(p.Later, "x"); later != c.later {
				t.Errorf("asked of Nova with the next look: %v, want %v", later, c.later)
			}
		})
	}
}

// manyQuiet adds computes to hung's site, each with so many guests whose agents have been silent for so long.
func manyQuiet(w *fleet.World, computes, each int, age func(host, guest int) time.Duration) {
	proto, heard, report := w.Spec.Hosts[len(w.Spec.Hosts)-1], w.Heard["n2"], w.Reports["n2"]
	for i := range computes {
		name := fmt.Sprintf("p%04d", i)
		h, hd, r := proto, heard, report
		h.Name, hd.Stint.Host, r.Host, r.Wall = name, name, name, w.Wall
		r.Guests.Silent = map[string]time.Time{}
		for j := range each {
			r.Guests.Silent[fmt.Sprintf("%s-%d", name, j)] = w.Wall.Add(-age(i, j))
		}
		w.Spec.Hosts = append(w.Spec.Hosts, h)
		w.Heard[name], w.Reports[name] = hd, r
		w.State.Members[name] = fleet.Member{Host: name, Admitted: "b"}
		w.State.Holdings[Compute(name)] = fleet.Holding{Thing: Compute(name), Host: name, Boot: "b", Generation: 1, Why: "as ever"}
		w.Cloud.Computes[name] = w.Cloud.Computes["n3"]
	}
}

// The storage of a whole site goes, and 20,000 guests fall silent: the leader must think as fast as ever, and say it once.
// The time is not measured: where each is compared with each this does not end.
func TestManyGuestsSilent(t *testing.T) {
	for _, c := range []struct {
		name           string
		computes, each int
		age            func(host, guest int) time.Duration
		want           string
	}{
		{"all at once", 1000, 20, func(int, int) time.Duration { return 2 * time.Minute }, "guests of 1001 of "},
		{"one after the other", 1000, 20, func(i, j int) time.Duration {
			return time.Duration(i*20+j) * time.Second / 10
		}, "guests of "},
		{"all of one compute", 1, 20000, func(int, int) time.Duration { return 2 * time.Minute }, "guests of p0000 fell silent at once (p0000-0, "},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := hung(2 * time.Minute)
			w.Spec.Brakes.Count, w.Spec.Brakes.Share = 2, 100
			manyQuiet(&w, c.computes, c.each, c.age)
			_, p := Turn(w)
			told := 0
			for _, x := range p.Waits {
				if strings.Contains(x.For, "silent at once") {
					told++
					if !strings.Contains(x.For, "a person: "+c.want) || len(x.For) > 400 {
						t.Errorf("it says %.400s", x.For)
					}
				}
			}
			if told != 1 {
				t.Errorf("%d lines tell of it", told)
			}
			d := newDecision(w)
			d.w.Verdicts = judge.Judge(w)
			d.silences(map[string]bool{})
			if n := len(d.lulled().all); n != c.computes*c.each+1 || d.lull.steps > 5*n {
				t.Errorf("%d steps for %d guests", d.lull.steps, n)
			}
		})
	}
}

// Who is silent for days, and whose owner asks for nothing, is a GET in no look; nor are more than a few in any.
func TestSilentAsks(t *testing.T) {
	for _, c := range []struct {
		name  string
		age   time.Duration // of the youngest; each other is as much older as sets it apart
		reign time.Duration // of the leader
		say   func(w *fleet.World, id string)
		want  int
	}{
		{"young", time.Second, time.Hour, nil, 2},
		{"old, and nobody knows what their owners want", 10 * time.Minute, time.Hour, nil, 0},
		{"nor does a new leader, who knows nothing: in turn", 10 * time.Minute, time.Minute, nil, 20},
		{"old, and their owners were seen not to ask for it", 10 * time.Minute, time.Hour, func(w *fleet.World, id string) { w.Cloud.Servers[id] = fleet.Server{ID: id, State: fleet.ServerActive} }, 0},
		{"old, and their owners have more patience: in turn", 10 * time.Minute, time.Hour, func(w *fleet.World, id string) {
			w.Cloud.Servers[id] = fleet.Server{ID: id, State: fleet.ServerActive, Metadata: map[string]string{fleet.MetaAlive: "agent:1000h"}}
		}, 20},
		{"no more with those", time.Second, time.Minute, func(w *fleet.World, id string) {
			if id > "p0200" {
				w.Cloud.Servers[id] = fleet.Server{ID: id, State: fleet.ServerActive, Metadata: map[string]string{fleet.MetaAlive: "agent:1000h"}}
			}
		}, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := hung(c.age)
			guestsSay(&w, func(g *fleet.Guests) { g.Silent = nil })
			manyQuiet(&w, 400, 1, func(i, _ int) time.Duration { return c.age + time.Duration(i)*6*time.Minute })
			if c.say != nil {
				for i := range 400 {
					c.say(&w, fmt.Sprintf("p%04d-0", i))
				}
			}
			w.Since = w.Now.Add(-c.reign)
			seen := map[string]bool{}
			for range 20 {
				_, p := Turn(w)
				if len(p.Later) != c.want || len(p.Servers) > 0 {
					t.Fatalf("Nova is asked about %d and %d, want %d", len(p.Later), len(p.Servers), c.want)
				}
				for _, id := range p.Later {
					seen[id] = true
				}
				w.Wall = w.Wall.Add(time.Minute) // its hosts' clocks stand still: nothing else changes
			}
			if all := len(seen); c.want == 20 && all < 199 {
				t.Errorf("only %d of them all were asked about", all)
			}
		})
	}
}

// A host is drained, and the guest agent of its server is silent: neither waits for the other. One that crashed is
// not live-migrated, for there is no guest to move.
func TestDrainOfSilent(t *testing.T) {
	const goes, passed = "vm try 1 to n1", "vm try 0 failed 0: " + goesFirst
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		drain  string   // what the drain records
		want   []string // and what becomes of the silence
	}{
		{"nobody has taken it up, and nobody does", nil, goes, nil},
		{"it was recorded: the drain is first", func(w *fleet.World) { watched(w, 3*time.Hour, nil) }, "", []string{passed}},
		{"which is done", func(w *fleet.World) {
			watched(w, time.Minute, func(r *fleet.Revival) { r.Ended, r.Busy = goesFirst, true })
		}, goes, nil},
		{"the fourth time within an hour: a person's until now", func(w *fleet.World) {
			watched(w, time.Minute, func(r *fleet.Revival) { r.Crashes = []time.Time{r.At, r.At, r.At, r.At} })
		}, "", []string{passed}},
		{"Nova failed three times", func(w *fleet.World) { watched(w, time.Minute, func(r *fleet.Revival) { r.Try, r.Failed = 3, 3 }) }, "", []string{"vm try 3 failed 3: " + goesFirst}},
		{"its libvirt does not answer", func(w *fleet.World) {
			watched(w, time.Minute, nil)
			guestsSay(w, func(g *fleet.Guests) { g.Unknown = "libvirt does not answer within 5s" })
		}, "", []string{passed}},
		{"a try is recorded, and Nova not asked yet", func(w *fleet.World) { watched(w, time.Second, func(r *fleet.Revival) { r.Try = 1 }) }, "", []string{"vm try 1 failed 0: " + goesFirst}},
		{"Nova was asked: what comes of that is waited for", func(w *fleet.World) {
			r := watched(w, 2*time.Second, func(r *fleet.Revival) { r.Try = 1 })
			w.Flights[r.Key()] = fleet.Flight{Sent: w.Now.Add(-time.Second), Tries: 1}
		}, "", nil},
		{"it refused", func(w *fleet.World) {
			silentTried(w, fleet.Refused, func(r *fleet.Revival) { r.At = w.Wall.Add(-5 * time.Second) })
		}, "", []string{"vm try 1 failed 0: " + goesFirst}},
		{"it crashed", func(w *fleet.World) {
			at := w.Wall.Add(-2 * time.Minute)
			guestsSay(w, func(g *fleet.Guests) { g.Silent, g.Crashed = nil, map[string]time.Time{"vm": at} })
			w.State.Revivals["vm"] = fleet.Revival{Server: "vm", Name: "vm", Host: "n2", Boot: "b", Crash: at, Crashes: []time.Time{at}, At: at}
		}, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := drainedWorld()
			w.State.Revivals = map[string]fleet.Revival{}
			quieted(&w, "n2", "vm", 3*time.Hour)
			serverSays(&w, func(s *fleet.Server) { s.Metadata = map[string]string{fleet.MetaAlive: "agent"} })
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			did, _, _ := strings.Cut(drains(p), ", ")
			if strings.HasPrefix(did, "wait") {
				did = ""
			}
			if got := revivals(p); did != c.drain || !slices.Equal(slices.DeleteFunc(got, func(x string) bool { return strings.HasPrefix(x, "wait") }), c.want) {
				t.Errorf("drain %q, want %q; silence %q, want %q", did, c.drain, got, c.want)
			}
		})
	}
}

func TestAlive(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, " ": 0, "agent": time.Minute, " agent ": time.Minute, "agent:1m": time.Minute, "agent:1h": time.Hour} {
		if got, err := Alive(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"true", "agent:", "agent:5", "agent:59s", "agent:-1h", "tcp:22", "Agent"} {
		if got, err := Alive(text); err == nil || got != 0 {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}
