package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// displacedWorld is a site at rest with vm on n2, where it was brought when n1 was lost; n1 has been
// back for eleven minutes.
func displacedWorld() fleet.World {
	w := drainedWorld()
	delete(w.State.Wishes, "maintenance-n2")
	w.Spec.OpenStack.Rebalance = fleet.RebalanceReturned
	c := w.Cloud.Computes["n2"]
	c.Disabled, c.Reason = false, ""
	w.Cloud.Computes["n2"] = c
	w.State.Displaced = map[string]fleet.Displaced{"vm": {Server: "vm", Name: "vm", From: "n1", On: "n2", At: w.Wall.Add(-11 * time.Minute)}}
	return w
}

func TestRebalance(t *testing.T) {
	server := func(w *fleet.World, change func(*fleet.Server)) {
		s := w.Cloud.Servers["vm"]
		change(&s)
		w.Cloud.Servers["vm"] = s
	}
	compute := func(w *fleet.World, host string, change func(*fleet.Compute)) {
		c := w.Cloud.Computes[host]
		change(&c)
		w.Cloud.Computes[host] = c
	}
	back := func(w *fleet.World, ago time.Duration, change func(*fleet.Departure)) fleet.Departure {
		delete(w.State.Displaced, "vm")
		return departing(*w, ago, func(p *fleet.Departure) {
			p.Back, p.Why = true, backTo("n1")
			if change != nil {
				change(p)
			}
		})
	}
	const goes = "vm to n1, not displaced any more"
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   string
	}{
		{"it goes back", nil, goes},
		{"not so soon", func(w *fleet.World) {
			x := w.State.Displaced["vm"]
			x.At = w.Wall.Add(-rebalanceAfter + ms)
			w.State.Displaced["vm"] = x
		}, ""},
		{"nor after a day", func(w *fleet.World) {
			x := w.State.Displaced["vm"]
			x.At = w.Wall.Add(-rebalanceWithin)
			w.State.Displaced["vm"] = x
		}, "not displaced any more"},
		{"the site's file does not say so any more", func(w *fleet.World) { w.Spec.OpenStack.Rebalance = "" }, "not displaced any more"},
		{"Nova was not asked about it yet", func(w *fleet.World) { delete(w.Cloud.Servers, "vm") }, ""},
		{"Nova is away", func(w *fleet.World) { w.Cloud.Away = "no answer" }, ""},
		{"disarmed", func(w *fleet.World) { w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"} }, ""},
		{"somebody has moved it", func(w *fleet.World) { server(w, func(s *fleet.Server) { s.Host = "n3" }) }, "not displaced any more"},
		{"it is there", func(w *fleet.World) { server(w, func(s *fleet.Server) { s.Host = "n1" }) }, "not displaced any more"},
		{"deleted", func(w *fleet.World) { server(w, func(s *fleet.Server) { s.State = fleet.ServerDeleted }) }, "not displaced any more"},
		{"its owner has locked it", func(w *fleet.World) { server(w, func(s *fleet.Server) { s.Locked = true }) }, "not displaced any more"},
		{"its owner said that it is not to be touched", func(w *fleet.World) {
			server(w, func(s *fleet.Server) { s.Metadata = map[string]string{"HA_Enabled": "False"} })
		}, "not displaced any more"},
		{"it is stopped, and may be started yet", func(w *fleet.World) { server(w, func(s *fleet.Server) { s.State = fleet.ServerStopped }) }, ""},
		{"its owner does something with it", func(w *fleet.World) { server(w, func(s *fleet.Server) { s.Task = "rebooting" }) }, ""},
		{"its guest may be elsewhere", func(w *fleet.World) {
			server(w, func(s *fleet.Server) { s.Live = fleet.Migration{ID: 7, Status: "error", From: "n2", To: "n3"} })
		}, ""},
		{"it does not fit there now", func(w *fleet.World) { compute(w, "n1", func(c *fleet.Compute) { c.FreeRAM = 511 }) }, ""},
		{"the host that is back is disabled", func(w *fleet.World) { compute(w, "n1", func(c *fleet.Compute) { c.Disabled = true }) }, ""},
		{"its nova-compute is not heard", func(w *fleet.World) { compute(w, "n2", func(c *fleet.Compute) { c.Up = false }) }, ""},
		{"a network is cut off there", func(w *fleet.World) {
			w.State.Cutoffs = map[string]fleet.Cutoff{"n1": {Host: "n1", Networks: map[string]fleet.Lost{"tenant": {Since: w.Wall}}}}
		}, ""},
		{"or where it is", func(w *fleet.World) {
			w.State.Cutoffs = map[string]fleet.Cutoff{"n2": {Host: "n2", Networks: map[string]fleet.Lost{"tenant": {Since: w.Wall}}}}
		}, ""},
		{"a host is being fenced", func(w *fleet.World) {
			w.State.Intents = map[string]fleet.Intent{"c3": {Host: "c3", Boot: "b", Executor: w.Leader, Epoch: w.Epoch, At: w.Wall, Lasts: FenceLasts}}
			w.Flights["fence/c3/b/0"] = fleet.Flight{Sent: w.Now, Tries: 1}
		}, ""},
		{"a drain of before is not forgotten yet", func(w *fleet.World) {
			departing(*w, time.Hour, func(p *fleet.Departure) { p.Ended, p.Stays, p.From = "failed", true, "n2" })
		}, "departure forgotten"},
		{"another is on its way", func(w *fleet.World) {
			w.State.Departures["other"] = fleet.Departure{Server: "other", From: "n3", Boot: "b", To: "n2", Try: 1, Epoch: w.Epoch, At: w.Wall}
			w.Cloud.Servers["other"] = fleet.Server{ID: "other", Host: "n3", State: fleet.ServerActive, Task: fleet.TaskMigrating}
		}, ""},
		{"a server of a dead host is on its way", func(w *fleet.World) {
			w.State.Evacuations = map[string]fleet.Evacuation{"other": {Server: "other", From: "n4", Boot: "b", To: "n3", Try: 1, Epoch: w.Epoch, At: w.Wall}}
		}, ""},
		{"it is on its way itself", func(w *fleet.World) {
			w.State.Evacuations = map[string]fleet.Evacuation{"vm": {Server: "vm", From: "n3", Boot: "b", To: "n2", Ended: "on n2", Lock: fleet.LockSeen, Epoch: w.Epoch, At: w.Wall}}
		}, ""},
		{"somebody is drained", func(w *fleet.World) {
			w.State.Wishes["maintenance-n3"] = fleet.Wish{ID: "maintenance-n3", Verb: "maintenance", Host: "n3", By: "ann", At: w.Wall, Drain: true}
		}, ""},
		{"a host is lost", func(w *fleet.World) {
			silent(*w, "c3", time.Minute)
			w.Rounds = map[string]fleet.Round{"c3": {Stint: fleet.Stint{Host: "c3", Boot: w.Heard["c3"].Stint.Boot, N: lease.AnyStint}, Number: 1, Asked: w.Now.Add(-10 * ms), Over: true,
				Promised: map[string]fleet.Moment{"c1": w.Now, "c2": w.Now}}}
		}, ""},
		{"Nova is asked once it is recorded", func(w *fleet.World) { back(w, time.Second, nil) }, "live-migrate server/vm to n1"},
		{"not once something else has come", func(w *fleet.World) {
			back(w, time.Second, nil)
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, "vm displaced from n1 to n2, vm stays"},
		{"nor when the site's file says so no more", func(w *fleet.World) {
			back(w, time.Second, nil)
			w.Spec.OpenStack.Rebalance = fleet.RebalanceNever
		}, "vm displaced from n1 to n2, vm stays"},
		{"it has crashed, and is started again", func(w *fleet.World) {
			at := w.Wall.Add(-10 * time.Second)
			w.State.Revivals = map[string]fleet.Revival{"vm": {Server: "vm", Host: "n2", Boot: "b", Crash: at, Crashes: []time.Time{at}, At: at}}
		}, ""},
		{"nobody knows where another's live migration left its guest", func(w *fleet.World) {
			w.State.Departures["other"] = fleet.Departure{Server: "other", From: "n3", Boot: "b", To: "n2", Try: 1, Epoch: w.Epoch, At: w.Wall.Add(-time.Hour), Strayed: w.Wall.Add(-time.Hour)}
		}, ""},
		{"a dead host has servers yet", func(w *fleet.World) {
			w.State.Members["n3"] = fleet.Member{Host: "n3", Admitted: "b", Barred: "fenced"}
			w.State.Proofs["n3"] = fleet.Proof{Host: "n3", Boot: "b", Kind: "fence", Evidence: "off"}
			silent(*w, "n3", time.Hour)
		}, ""},
		{"one that was emptied long ago waits for nothing", func(w *fleet.World) {
			falls(*w, "n3")
			w.State.Proofs["n3"] = fleet.Proof{Host: "n3", Boot: "b", Kind: "fence", Evidence: "off"}
			silent(*w, "n3", time.Hour)
		}, goes},
		{"the try of a dead host's server failed, and it waits for the next", func(w *fleet.World) {
			w.State.Evacuations = map[string]fleet.Evacuation{"other": {Server: "other", From: "n4", Boot: "b", To: "n3", Try: 1, Epoch: w.Epoch, At: w.Wall}}
			w.Cloud.Servers["other"] = fleet.Server{ID: "other", Host: "n4", State: fleet.ServerError, Migration: fleet.Migration{ID: 7, Status: "failed", From: "n4", To: "n3"}}
		}, ""},
		{"its drain is over, and its host in maintenance yet: the time does not run", func(w *fleet.World) {
			delete(w.State.Displaced, "vm")
			w.State.Wishes["maintenance-n2"] = fleet.Wish{ID: "maintenance-n2", Verb: "maintenance", Host: "n2", By: "ann", At: w.Wall}
			departing(*w, time.Hour, func(p *fleet.Departure) { p.Ended = "on n1" })
		}, ""},
		{"where its second host never came back it is forgotten after a day all the same", func(w *fleet.World) {
			x := w.State.Displaced["vm"]
			x.At = w.Wall.Add(-rebalanceWithin)
			w.State.Displaced["vm"] = x
			w.State.Evacuations = map[string]fleet.Evacuation{"vm": {Server: "vm", From: "n3", Boot: "b", To: "n2", Ended: "on n2", Lock: fleet.LockSeen, Epoch: w.Epoch, At: w.Wall}}
		}, "not displaced any more"},
		{"it broke: it is not tried again", func(w *fleet.World) {
			back(w, time.Minute, nil)
			server(w, func(s *fleet.Server) { s.Live = fleet.Migration{ID: 7, Status: "failed", From: "n2", To: "n1"} })
		}, "vm stays"},
		{"it has arrived: it is not displaced anew", func(w *fleet.World) {
			back(w, time.Minute, func(p *fleet.Departure) { p.Ended = "on n1" })
		}, "departure forgotten"},
		{"a drain that is over displaces", func(w *fleet.World) {
			delete(w.State.Displaced, "vm")
			departing(*w, time.Hour, func(p *fleet.Departure) { p.Ended = "on n1" })
		}, "vm displaced from n2 to n1, departure forgotten"},
		{"but not what stayed", func(w *fleet.World) {
			delete(w.State.Displaced, "vm")
			departing(*w, time.Hour, func(p *fleet.Departure) { p.Ended, p.Stays = "failed", true })
		}, "departure forgotten"},
		{"nor where the site's file does not say so", func(w *fleet.World) {
			delete(w.State.Displaced, "vm")
			departing(*w, time.Hour, func(p *fleet.Departure) { p.Ended = "on n1" })
			w.Spec.OpenStack.Rebalance = ""
		}, "departure forgotten"},
		{"what was displaced before goes to where it was first", func(w *fleet.World) {
			x := w.State.Displaced["vm"]
			x.From, x.On = "n4", "n2"
			w.State.Displaced["vm"] = x
			departing(*w, time.Hour, func(p *fleet.Departure) { p.Ended = "on n1" })
		}, "vm displaced from n4 to n1, departure forgotten"},
		{"or is there", func(w *fleet.World) {
			departing(*w, time.Hour, func(p *fleet.Departure) { p.Ended = "on n1" })
		}, "not displaced any more, departure forgotten"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := displacedWorld()
			if c.change != nil {
				c.change(&w)
			}
			w, p := Turn(w)
			var got []string
			for _, r := range p.Records {
				switch {
				case r.Key == "displaced/vm" && r.Value == nil:
					got = append(got, "not displaced any more")
				case r.Key == "departure/vm" && r.Value == nil:
					got = append(got, "departure forgotten")
				case r.Key == "displaced/vm", r.Key == "departure/vm":
					s, err := w.State.Apply(r)
					if err != nil {
						t.Fatal(err)
					}
					x, dep := s.Displaced["vm"], s.Departures["vm"]
					switch {
					case r.Key == "displaced/vm":
						if !x.At.Equal(w.Wall) {
							t.Errorf("displaced since %v", x.At)
						}
						got = append(got, fmt.Sprintf("vm displaced from %s to %s", x.From, x.On))
					case dep.Stays:
						got = append(got, "vm stays")
					default:
						if !dep.Back {
							t.Errorf("%+v", dep)
						}
						got = append(got, "vm to "+dep.To)
					}
				}
			}
			for _, o := range p.Orders {
				if o.Step == fleet.CloudMigrate {
					got = append(got, o.Step+" "+o.Thing+" to "+o.With)
				}
			}
			if s := strings.Join(got, ", "); s != c.want {
				t.Errorf("got %q, want %q\n%+v", s, c.want, p)
			}
		})
	}
}

// TestLostAgain: what a compute was given back and loses again within a day goes back after twice the time, and at last not
// at all; the next turn is by whoever leads then, so only records are gone by.
func TestLostAgain(t *testing.T) {
	apply := func(w *fleet.World) {
		t.Helper()
		_, p := Turn(*w)
		var err error
		if w.State, err = w.State.Apply(p.Records...); err != nil {
			t.Fatal(err)
		}
	}
	pass := func(w *fleet.World, d time.Duration) { w.Wall = w.Wall.Add(d) }
	// goes lets vm go back to n1, from where it is taken again after that.
	goes := func(w *fleet.World, after time.Duration) {
		t.Helper()
		apply(w)
		if p := w.State.Departures["vm"]; !p.Back || p.To != "n1" {
			t.Fatalf("it does not go back: %+v, %+v", w.State.Departures, w.State.Displaced)
		}
		w.State.Departures = map[string]fleet.Departure{}
		pass(w, after)
		w.State.Evacuations = map[string]fleet.Evacuation{"vm": {Server: "vm", Name: "vm", From: "n1", Boot: "a", Ended: "on n2"}}
		h := w.State.Holdings[Compute("n1")]
		delete(w.State.Holdings, Compute("n1"))
		apply(w)
		w.State.Holdings[Compute("n1")] = h
		if len(w.State.Displaced) != 1 {
			t.Fatalf("not displaced: %+v", w.State.Displaced)
		}
	}
	waits := func(w *fleet.World, want time.Duration) {
		t.Helper()
		pass(w, want-time.Second)
		apply(w)
		if len(w.State.Departures) > 0 {
			t.Fatalf("it goes back before %v: %+v", want, w.State.Displaced)
		}
		pass(w, time.Second)
	}
	w := displacedWorld()
	for want := 2 * rebalanceAfter; want < rebalanceWithin; want *= 2 {
		goes(&w, time.Hour)
		waits(&w, want)
	}
	goes(&w, time.Hour)
	if x := w.State.Displaced["vm"]; x.Wait != rebalanceWithin {
		t.Errorf("after so many times: %+v", x)
	}
	for range 25 {
		pass(&w, time.Hour)
		apply(&w)
		if len(w.State.Departures) > 0 {
			t.Fatal("it goes back for ever")
		}
	}
	if len(w.State.Displaced)+len(w.State.Regained) > 0 {
		t.Errorf("a day later: %+v, %+v", w.State.Displaced, w.State.Regained)
	}

	// A day of quiet, and it is as if it had never been.
	w = displacedWorld()
	goes(&w, rebalanceWithin)
	waits(&w, rebalanceAfter)
	goes(&w, time.Hour)

	// Of many that go back at once the record is written once, and it is not lowered by one that waited for less.
	w = displacedWorld()
	w.State.Regained = map[string]fleet.Regained{"n1": {Host: "n1", Wait: 4 * rebalanceAfter, At: w.Wall.Add(-time.Minute)}}
	apply(&w)
	if x := w.State.Regained["n1"]; x.Wait != 4*rebalanceAfter || !x.At.Equal(w.Wall.Add(-time.Minute)) {
		t.Errorf("%+v", x)
	}
	w = displacedWorld()
	w.State.Regained = map[string]fleet.Regained{"n1": {Host: "n1", Wait: 4 * rebalanceAfter, At: w.Wall.Add(-time.Hour)}}
	apply(&w)
	if x := w.State.Regained["n1"]; x.Wait != 4*rebalanceAfter || !x.At.Equal(w.Wall) {
		t.Errorf("%+v", x)
	}
	// Another compute's is another's.
	w = displacedWorld()
	w.State.Regained = map[string]fleet.Regained{"n3": {Host: "n3", Wait: 4 * rebalanceAfter, At: w.Wall}}
	goes(&w, time.Hour)
	waits(&w, 2*rebalanceAfter)
}

// TestDisplacedTakeTurns: of more than Nova is asked about at a time all come up.
func TestDisplacedTakeTurns(t *testing.T) {
	w := displacedWorld()
	const all = 3*rebalanceAsks + 7
	for i := range all {
		id := fmt.Sprintf("s%03d", i)
		w.State.Displaced[id] = fleet.Displaced{Server: id, From: "n1", On: "n2", At: w.Wall.Add(-time.Hour)}
	}
	asked := map[string]bool{}
	for range 2 * all / rebalanceAsks {
		_, p := Turn(w)
		if n := len(p.Later); n != rebalanceAsks {
			t.Fatalf("%d are asked about", n)
		}
		for _, id := range p.Later {
			asked[id] = true
		}
		w.Wall = w.Wall.Add(time.Minute)
	}
	if missing := slices.DeleteFunc(fleet.Sorted(w.State.Displaced), func(id string) bool { return asked[id] }); len(missing) > 0 {
		t.Errorf("never asked about: %v", missing)
	}
}

// TestReturnDisplaces: the host is back, and its servers may follow.
func TestReturnDisplaces(t *testing.T) {
	w := displacedWorld()
	delete(w.State.Displaced, "vm")
	w.State.Evacuations = map[string]fleet.Evacuation{
		"vm":    {Server: "vm", Name: "vm", From: "n1", Boot: "a", Ended: "on n2"},
		"other": {Server: "other", From: "n1", Boot: "a", Ended: deleted},
	}
	delete(w.State.Holdings, Compute("n1"))
	w, p := Turn(w)
	var err error
	if w.State, err = w.State.Apply(p.Records...); err != nil {
		t.Fatal(err)
	}
	if x := w.State.Displaced; len(x) != 1 || x["vm"].From != "n1" || x["vm"].On != "n2" || len(w.State.Evacuations) != 0 {
		t.Errorf("%+v, %+v", x, w.State.Evacuations)
	}
}

// TestReserveIsEmptied: for a reserve that is emptied by itself nobody is called, and for one that is not somebody is.
func TestReserveIsEmptied(t *testing.T) {
	for _, policy := range fleet.Rebalances() {
		w := displacedWorld()
		w.Spec.OpenStack.Reserved, w.Spec.OpenStack.Rebalance = []string{"n2"}, policy
		w.State.Reserves = map[string]fleet.Reserve{"n2": {Host: "n2", For: "n1", Boot: "a", Since: w.Wall.Add(-time.Hour)}}
		if policy == fleet.RebalanceNever {
			delete(w.State.Displaced, "vm")
		}
		_, p := Turn(w)
		told := slices.ContainsFunc(p.Waits, func(x fleet.Wait) bool { return x.About == "compute/n2" && strings.Contains(x.For, "a person") })
		if told != (policy == fleet.RebalanceNever) {
			t.Errorf("%s: told %v: %+v", policy, told, p.Waits)
		}
	}
}
