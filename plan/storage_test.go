package plan

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// isolated is the site of lostStorage, with one more compute, whose computes beat to storage; n2 has been
// silent for so long by the ears of c1 and c3, and n1, n3 and n4 took the order to read so long ago.
func isolated(silence, asked time.Duration) fleet.World {
	w := lostStorage(0)
	plug(w, "n2")
	h := w.Spec.Hosts[5]
	h.Name = "n4"
	w.Spec.Hosts = append(w.Spec.Hosts, h)
	w.Spec.OpenStack.Storage = "/shared"
	hd, r := w.Heard["n3"], w.Reports["n3"]
	hd.Stint.Host, r.Host = "n4", "n4"
	w.Heard["n4"], w.Reports["n4"] = hd, r
	w.State.Members["n4"] = fleet.Member{Host: "n4", Admitted: "b"}
	w.State.Holdings[Compute("n4")] = fleet.Holding{Thing: Compute("n4"), Host: "n4", Boot: "b", Generation: 1, Why: "as ever"}
	w.Cloud.Computes["n4"] = w.Cloud.Computes["n3"]
	w.Told, w.State.Cutoffs = map[string]fleet.Moment{}, map[string]fleet.Cutoff{}
	for i := range w.Spec.Hosts {
		w.Told[w.Spec.Hosts[i].Name] = w.Now
	}
	muted(w, "n2", silence)
	if asked > 0 {
		for _, reader := range []string{"n1", "n3", "n4"} {
			answers(w, "n2", reader, asked, 1, fleet.Done)
		}
	}
	return w
}

// another adds a compute that is as n4.
func another(w *fleet.World, name string) {
	h, heard, r := w.Spec.Hosts[6], w.Heard["n4"], w.Reports["n4"]
	h.Name, heard.Stint.Host, r.Host = name, name, name
	w.Spec.Hosts = append(w.Spec.Hosts, h)
	w.Heard[name], w.Reports[name], w.Told[name] = heard, r, w.Now
	w.State.Members[name] = fleet.Member{Host: name, Admitted: "b"}
	w.State.Holdings[Compute(name)] = fleet.Holding{Thing: Compute(name), Host: name, Boot: "b", Generation: 1, Why: "as ever"}
	w.Cloud.Computes[name] = w.Cloud.Computes["n3"]
}

// muted has a compute heard by nobody for a while.
func muted(w fleet.World, host string, d time.Duration) {
	silent(w, host, d)
	h := w.Heard[host]
	h.Nets = map[string]fleet.Moment{"management": h.Last, "storage": h.Last}
	w.Heard[host] = h
	w.Told[host] = w.Now.Add(-d)
	w.Rounds[host] = fleet.Round{Stint: fleet.Stint{Host: host, Boot: "b", N: lease.AnyStint}, Number: 1, Asked: w.Now.Add(-10 * ms), Over: d >= 2500*ms,
		Promised: map[string]fleet.Moment{"c1": w.Now, "c3": w.Now}, Silent: map[string]time.Duration{"c1": d, "c3": d}}
}

// delay has a compute's newest beat be late, over every network.
func delay(w fleet.World, host string, d time.Duration) {
	h := w.Heard[host]
	h.Last = w.Now.Add(-d)
	w.Heard[host] = h
}

// answers is what came of the order to read.
func answers(w fleet.World, host, reader string, ago time.Duration, tries int, o fleet.Outcome) {
	d := newDecision(w)
	key := d.readOrder(w.State.Holdings[Compute(host)], reader).Key
	w.Flights[key] = fleet.Flight{Sent: w.Now.Add(-ago), Tries: tries, Arrived: w.Now.Add(-ago), Effect: &fleet.Effect{Outcome: o}}
}

// writes is the word of a reader.
func writes(w fleet.World, reader string, boots map[string]string) {
	r := w.Reports[reader]
	r.Storage.Writes = boots
	w.Reports[reader] = r
}

// writtenDown is since when it has been silent and written.
func writtenDown(w fleet.World, host string, d time.Duration) {
	w.State.Cutoffs[host] = fleet.Cutoff{Host: host, Networks: map[string]fleet.Lost{fleet.EveryNetwork: {Since: w.Wall.Add(-d), Why: host + " is silent and writes"}}}
}

// TestSecondOpinion: a compute that is silent on every network is held to live while others see that
// it writes to storage, for as long as the site's file says; and nothing else keeps it from being fenced.
func TestSecondOpinion(t *testing.T) {
	n2 := map[string]string{"n2": "b"}
	alive := func(w *fleet.World) { writes(*w, "n3", n2) }
	down := func(w *fleet.World) {
		c := w.Cloud.Computes["n2"]
		c.Up = false
		w.Cloud.Computes["n2"] = c
	}
	both := func(more ...func(w *fleet.World)) func(w *fleet.World) {
		return func(w *fleet.World) {
			alive(w)
			writtenDown(*w, "n2", 90*time.Second)
			for _, f := range more {
				f(w)
			}
		}
	}
	// switched has n3, n4 and n5 lose the same switch 0.7 beats after n2: they were asked, and took nothing; n6, n7
	// and n8 are there as well.
	switched := func(w *fleet.World) {
		w.Spec.Brakes = fleet.Brakes{Share: 50, Count: 5}
		for _, name := range []string{"n5", "n6", "n7", "n8"} {
			another(w, name)
		}
		age := w.Now.Sub(w.Heard["n2"].Last)
		for _, name := range []string{"n3", "n4", "n5"} {
			muted(*w, name, age-700*ms)
			delete(w.Rounds, name)
			d := newDecision(*w)
			w.Flights[d.readOrder(w.State.Holdings[Compute("n2")], name).Key] = fleet.Flight{Sent: w.Now.Add(1500*ms - age), Tries: 1}
			for _, reader := range []string{"n6", "n7", "n8"} {
				answers(*w, name, reader, 100*ms, 1, fleet.Done)
			}
		}
	}
	next := func(ago time.Duration) func(w *fleet.World) { // of those who are asked instead
		return func(w *fleet.World) {
			switched(w)
			for _, name := range []string{"n6", "n7", "n8"} {
				answers(*w, "n2", name, ago, 1, fleet.Done)
			}
		}
	}
	second := func(w *fleet.World) { // n4 is silent too
		muted(*w, "n4", time.Minute)
		writes(*w, "n1", map[string]string{"n4": "b"})
		writes(*w, "n3", map[string]string{"n2": "b", "n4": "b"})
		answers(*w, "n4", "n1", 10*time.Second, 2, fleet.Done)
		answers(*w, "n4", "n3", 10*time.Second, 2, fleet.Done)
	}
	for _, c := range []struct {
		name    string
		silence time.Duration
		asked   time.Duration
		change  func(w *fleet.World)
		want    string // what the plan does
	}{
		{"it has just been heard", 500 * ms, 0, nil, ""},
		{"a beat is late", 1400 * ms, 0, nil, ""},
		{"one is missing: the three after it in the site's file are asked", 1500 * ms, 0, nil, "ask n3, ask n4, ask n1"},
		{"so late that it would be fenced, and nobody was asked yet", 2600 * ms, 0, nil, "ask n3, ask n4, ask n1"},
		{"they were, a moment ago", 2600 * ms, 1400 * ms, nil, ""},
		{"long enough ago, and nobody sees it write", 3100 * ms, 1500 * ms, nil, "fence n2"},
		{"without such storage nobody waits", 2600 * ms, 0, func(w *fleet.World) { w.Spec.OpenStack.Storage = "" }, "fence n2"},
		{"in shadow nobody is asked, and nobody waits for an answer", 2600 * ms, 0, func(w *fleet.World) { w.Spec.Mode = "shadow" }, "fence n2"},
		{"one of them sees it write: it is written down", 3100 * ms, 1500 * ms, alive, "cutoff/n2"},
		{"the others may see it yet, so that each is named", 2600 * ms, 1400 * ms, alive, ""},
		{"it writes on", 9 * time.Second, 1500 * ms, func(w *fleet.World) { alive(w); writtenDown(*w, "n2", 6*time.Second) }, ""},
		{"it writes on: it is told, and Nova is not asked to call who is not reached", 13 * time.Second, 1500 * ms, func(w *fleet.World) { alive(w); writtenDown(*w, "n2", 10*time.Second) }, "wait n2"},
		{"and Nova calls it down", 59 * time.Second, 1500 * ms, func(w *fleet.World) { alive(w); writtenDown(*w, "n2", 55*time.Second); down(w) }, "wait n2"},
		{"of a former boot", 3100 * ms, 1500 * ms, func(w *fleet.World) { writes(*w, "n3", map[string]string{"n2": "a"}) }, "fence n2"},
		{"of another host", 3100 * ms, 1500 * ms, func(w *fleet.World) { writes(*w, "n3", map[string]string{"n1": "b"}) }, "fence n2"},
		{"by the word of one that has fallen silent", 3100 * ms, 1500 * ms, func(w *fleet.World) {
			alive(w)
			silent(*w, "n3", 3100*ms)
			answers(*w, "n3", "n1", 1500*ms, 1, fleet.Done)
			answers(*w, "n3", "n4", 1500*ms, 1, fleet.Done)
			w.Told["n3"] = w.Now.Add(-time.Minute)
		}, "fence n2"},
		{"by an old word", 3100 * ms, 1500 * ms, func(w *fleet.World) { alive(w); w.Told["n3"] = w.Now.Add(-3 * time.Second) }, "fence n2"},
		{"by the word of a former boot", 3100 * ms, 1500 * ms, func(w *fleet.World) {
			alive(w)
			r := w.Reports["n3"]
			r.Boot = "a"
			w.Reports["n3"] = r
			answers(*w, "n2", "n4", 1500*ms, 1, fleet.Done)
		}, "fence n2"},
		{"by the word of one that cannot write himself", 3100 * ms, 1500 * ms, func(w *fleet.World) {
			alive(w)
			r := w.Reports["n3"]
			r.Storage.Failed = "no answer"
			w.Reports["n3"] = r
		}, "fence n2, wait storage_heartbeat"},
		{"who cannot write himself is not asked", 1500 * ms, 0, func(w *fleet.World) {
			r := w.Reports["n1"]
			r.Storage.Failed = "no answer"
			w.Reports["n1"] = r
		}, "ask n3, ask n4, wait storage_heartbeat"},
		{"nobody can be asked: nobody is waited for", 2600 * ms, 0, func(w *fleet.World) {
			for _, host := range []string{"n1", "n3", "n4"} {
				r := w.Reports[host]
				r.Storage.Failed = "no answer"
				w.Reports[host] = r
			}
		}, "fence n2, wait storage_heartbeat"},
		{"one who was asked did not get it: the others count", 3100 * ms, 0, func(w *fleet.World) {
			answers(*w, "n2", "n1", 100*ms, 1, fleet.NoWord)
			answers(*w, "n2", "n3", 1500*ms, 1, fleet.Done)
			answers(*w, "n2", "n4", 1500*ms, 1, fleet.Done)
		}, "fence n2"},
		{"its answer is not awaited for ever", 3100 * ms, 1500 * ms, func(w *fleet.World) {
			for key, f := range w.Flights {
				if strings.HasSuffix(key, "n1") {
					f.Effect, f.Arrived = nil, 0
					w.Flights[key] = f
				}
			}
		}, "fence n2"},
		{"they are asked again while it lasts", 20 * time.Second, 2 * time.Second, nil, "fence n2, ask n3, ask n4, ask n1"},
		{"who beats late himself is not asked", 1500 * ms, 0, func(w *fleet.World) { delay(*w, "n3", 1250*ms) }, "ask n4, ask n1"},
		{"who is on his way is", 1500 * ms, 0, func(w *fleet.World) { delay(*w, "n3", 1240*ms) }, "ask n3, ask n4, ask n1"},
		{"all others are late: nobody is waited for", 2600 * ms, 0, func(w *fleet.World) {
			for _, host := range []string{"n1", "n3", "n4"} {
				delay(*w, host, 1300*ms)
			}
		}, "fence n2"},
		{"all who were asked lost the same switch: the next three are", 3100 * ms, 0, switched, "ask n6, ask n7, ask n8"},
		{"they may see it write yet", 3700 * ms, 0, next(1400 * ms), ""},
		{"they do", 3700 * ms, 0, func(w *fleet.World) { next(1500 * ms)(w); writes(*w, "n6", n2) }, "cutoff/n2"},
		{"they do not", 3700 * ms, 0, next(1500 * ms), "fence n2"},
		{"nor are the next three waited for without end", 4500 * ms, 0, next(100 * ms), "fence n2"},
		{"one of which nobody was asked for long: who is asked now is waited for", 10 * time.Second, 100 * ms, nil, ""},
		{"a new leader has asked nobody yet", time.Minute, 0, func(w *fleet.World) { w.Since = w.Now.Add(-1400 * ms) }, ""},
		{"nor one whose first seconds are over, where hosts beat slower", time.Minute, 0, func(w *fleet.World) {
			w.Spec.Timing.SlowBeat, w.Since = 3*time.Second, w.Now.Add(-3500*ms)
		}, ""},
		{"they were asked anew a moment ago: the first time was long ago", 20 * time.Second, 0, func(w *fleet.World) {
			for _, reader := range []string{"n1", "n3", "n4"} {
				answers(*w, "n2", reader, 100*ms, 2, fleet.Done)
			}
		}, "fence n2"},
		{"for a minute", 70 * time.Second, 1500 * ms, func(w *fleet.World) { alive(w); writtenDown(*w, "n2", isolatedActs) }, "fence n2, wait n2"},
		{"for less", 70 * time.Second, 1500 * ms, func(w *fleet.World) { alive(w); writtenDown(*w, "n2", isolatedActs-time.Second) }, "wait n2"},
		{"for longer, and the file says disable", 10 * time.Minute, 1500 * ms, both(func(w *fleet.World) {
			w.Spec.OpenStack.Lost = map[string]fleet.Loss{fleet.EveryNetwork: fleet.LossDisable}
		}), "wait n2"},
		{"and Nova calls it down: it gets no servers when it is back", 10 * time.Minute, 1500 * ms, both(down, func(w *fleet.World) {
			w.Spec.OpenStack.Lost = map[string]fleet.Loss{fleet.EveryNetwork: fleet.LossDisable}
		}), "disable n2, wait n2"},
		{"for longer, and it has a service besides: the others are to have that", 10 * time.Minute, 1500 * ms, both(func(w *fleet.World) {
			w.Spec.Services = []fleet.Service{{Name: "s", Kind: "systemd", Mode: fleet.ActivePassive, Hosts: []string{"n2", "n3"}}}
			w.State.Holdings["service/s"] = fleet.Holding{Thing: "service/s", Host: "n2", Boot: "b", Generation: 1}
			w.Spec.OpenStack.Lost = map[string]fleet.Loss{fleet.EveryNetwork: fleet.LossDisable}
		}), "fence n2, wait n2"},
		{"for longer, and no other could take its servers", 10 * time.Minute, 1500 * ms, both(func(w *fleet.World) {
			for _, host := range []string{"n1", "n3", "n4"} {
				m := w.State.Members[host]
				m.Barred = "fenced"
				w.State.Members[host] = m
			}
		}), "wait n2"},
		{"for longer, and another one as well: it is the network", 10 * time.Minute, 1500 * ms, both(second, func(w *fleet.World) { w.Spec.Brakes.Share = 100; writtenDown(*w, "n4", 31*time.Second) }), "ask n1, ask n3, wait n2, wait n4"},
		{"the other one is not written down yet", 70 * time.Second, 1500 * ms, func(w *fleet.World) {
			second(w)
			w.Spec.Brakes.Share = 100
			writtenDown(*w, "n2", isolatedActs)
		}, "cutoff/n4, ask n1, ask n3, wait n2"},
		{"the other one has been so for hours, and lost another thing", 10 * time.Minute, 1500 * ms, both(second, func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			writtenDown(*w, "n4", 3*time.Hour)
		}), "fence n2, fence n4, ask n1, ask n3, wait n2, wait n4"},
		{"the other one is heard again in this very moment: the network comes back, host by host", 10 * time.Minute, 1500 * ms, both(func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			writtenDown(*w, "n4", 80*time.Second)
		}), "cutoff/n4, wait n2"},
		{"it has been for a moment", 10 * time.Minute, 1500 * ms, both(func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			w.State.Cutoffs["n4"] = fleet.Cutoff{Host: "n4", Networks: map[string]fleet.Lost{fleet.EveryNetwork: {Since: w.Wall.Add(-80 * time.Second), Back: w.Wall.Add(-lostCalm + time.Second)}}}
		}), "wait n2"},
		{"and for so long that it counts no more", 10 * time.Minute, 1500 * ms, both(func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			w.State.Cutoffs["n4"] = fleet.Cutoff{Host: "n4", Networks: map[string]fleet.Lost{fleet.EveryNetwork: {Since: w.Wall.Add(-80 * time.Second), Back: w.Wall.Add(-lostCalm)}}}
		}), "no cutoff/n4, fence n2, wait n2"},
		{"it died since: it had lost its networks alive", 10 * time.Minute, 1500 * ms, both(func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			writtenDown(*w, "n4", 80*time.Second)
			w.State.Proofs = map[string]fleet.Proof{"n4": {Host: "n4", Boot: "b", Kind: "oath"}}
			delete(w.Heard, "n4")
		}), "force-down n4, wait n2, wait n4"},
		{"it is no compute any more", 10 * time.Minute, 1500 * ms, both(func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			writtenDown(*w, "n4", 80*time.Second)
			w.Spec.Hosts[6].Roles = nil
		}), "n4 may run servers, fence n2, wait n2"},
		{"it was heard again, and is silent once more: it fell silent with this one all the same", 10 * time.Minute, 1500 * ms, both(second, func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			w.State.Cutoffs["n4"] = fleet.Cutoff{Host: "n4", Networks: map[string]fleet.Lost{fleet.EveryNetwork: {Since: w.Wall.Add(-80 * time.Second), Back: w.Wall.Add(-10 * time.Second)}}}
		}), "cutoff/n4, ask n1, ask n3, wait n2"},
		{"and that is written down", 10 * time.Minute, 1500 * ms, both(second, func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			w.State.Cutoffs["n4"] = fleet.Cutoff{Host: "n4", Networks: map[string]fleet.Lost{fleet.EveryNetwork: {Since: w.Wall.Add(-5 * time.Second), Before: []time.Time{w.Wall.Add(-time.Hour), w.Wall.Add(-80 * time.Second), w.Wall.Add(-20 * time.Second)}}}}
		}), "ask n1, ask n3, wait n2"},
		{"both flap for hours, and never fell silent at once", 10 * time.Minute, 1500 * ms, both(second, func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			w.State.Cutoffs["n4"] = fleet.Cutoff{Host: "n4", Networks: map[string]fleet.Lost{fleet.EveryNetwork: {Since: w.Wall.Add(-time.Hour), Before: []time.Time{w.Wall.Add(-3 * time.Hour)}}}}
			w.State.Cutoffs["n2"] = fleet.Cutoff{Host: "n2", Networks: map[string]fleet.Lost{fleet.EveryNetwork: {Since: w.Wall.Add(-70 * time.Second), Before: []time.Time{w.Wall.Add(-2 * time.Hour)}}}}
		}), "fence n2, fence n4, ask n1, ask n3, wait n2, wait n4"},
		{"the other falls silent anew as this one's minute ends, and that is not written down yet", 10 * time.Minute, 1500 * ms, both(second, func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			writtenDown(*w, "n2", isolatedAtOnce)
			w.State.Cutoffs["n4"] = fleet.Cutoff{Host: "n4", Networks: map[string]fleet.Lost{fleet.EveryNetwork: {Since: w.Wall.Add(-time.Hour), Back: w.Wall.Add(-10 * time.Second)}}}
		}), "cutoff/n4, ask n1, ask n3, wait n2"},
		{"the other one is in maintenance", 10 * time.Minute, 1500 * ms, both(second, func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			writtenDown(*w, "n4", 80*time.Second)
			w.State.Wishes["maintenance-n4"] = fleet.Wish{ID: "maintenance-n4", Verb: "maintenance", Host: "n4"}
		}), "fence n2, ask n1, ask n3, wait n2, wait n4"},
		{"but it was put there since", 10 * time.Minute, 1500 * ms, both(second, func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			writtenDown(*w, "n4", 80*time.Second)
			w.State.Wishes["maintenance-n4"] = fleet.Wish{ID: "maintenance-n4", Verb: "maintenance", Host: "n4", At: w.Wall.Add(-79 * time.Second)}
		}), "ask n1, ask n3, wait n2, wait n4"},
		{"the other one is heard again, and late once more", 10 * time.Minute, 1500 * ms, both(func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			muted(*w, "n4", 2*time.Second)
			w.State.Cutoffs["n4"] = fleet.Cutoff{Host: "n4", Networks: map[string]fleet.Lost{fleet.EveryNetwork: {Since: w.Wall.Add(-80 * time.Second), Back: w.Wall.Add(-lostDisables)}}}
		}), "cutoff/n4, ask n1, ask n3, wait n2"},
		{"which was written down a moment ago", 10 * time.Minute, 1500 * ms, both(func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			muted(*w, "n4", 2*time.Second)
			w.State.Cutoffs["n4"] = fleet.Cutoff{Host: "n4", Networks: map[string]fleet.Lost{fleet.EveryNetwork: {Since: w.Wall.Add(-80 * time.Second), Back: w.Wall.Add(-lostDisables + time.Second)}}}
		}), "ask n1, ask n3, wait n2"},
		{"and gone for longer: an agent that a person stopped holds nobody for ever", 10 * time.Minute, 1500 * ms, both(func(w *fleet.World) {
			w.Spec.Brakes.Share = 100
			muted(*w, "n4", lostDisables+time.Second)
			r := w.Reports["n4"]
			r.Leaving = true
			w.Reports["n4"] = r
			w.State.Cutoffs["n4"] = fleet.Cutoff{Host: "n4", Networks: map[string]fleet.Lost{fleet.EveryNetwork: {Since: w.Wall.Add(-80 * time.Second), Back: w.Wall.Add(-lostCalm)}}}
		}), "fence n2, wait n2"},
		{"and of the other nothing is seen: it alone is fenced", time.Minute, 1500 * ms, func(w *fleet.World) {
			second(w)
			writtenDown(*w, "n2", 6*time.Second)
			writes(*w, "n1", nil)
			writes(*w, "n3", n2)
		}, "fence n4, ask n1, ask n3"},
		{"it writes no more: as any silent host", 10 * time.Minute, 1500 * ms, func(w *fleet.World) { writtenDown(*w, "n2", 6*time.Second) }, "fence n2"},
		{"it is heard again", 0, 0, func(w *fleet.World) { writtenDown(*w, "n2", 30*time.Second); delete(w.Rounds, "n2") }, "cutoff/n2"},
		{"it is heard again, and the word is not over yet", 0, 0, func(w *fleet.World) {
			alive(w)
			writtenDown(*w, "n2", 30*time.Second)
			delete(w.Rounds, "n2")
		}, "cutoff/n2"},
		{"over one network a moment before the next", 0, 0, func(w *fleet.World) {
			writtenDown(*w, "n2", 30*time.Second)
			delete(w.Rounds, "n2")
			unplug(*w, "n2")
			w.State.Cutoffs["n2"].Networks[fleet.EveryNetwork] = fleet.Lost{Since: w.Wall.Add(-time.Minute), Back: w.Wall.Add(-time.Second)}
		}, ""},
		{"and not over the next after that", 0, 0, func(w *fleet.World) {
			writtenDown(*w, "n2", 30*time.Second)
			delete(w.Rounds, "n2")
			unplug(*w, "n2")
			w.State.Cutoffs["n2"].Networks[fleet.EveryNetwork] = fleet.Lost{Since: w.Wall.Add(-time.Minute), Back: w.Wall.Add(-3 * time.Second)}
		}, "cutoff/n2"},
		{"it has been heard again for long", 0, 0, func(w *fleet.World) {
			writtenDown(*w, "n2", 30*time.Second)
			delete(w.Rounds, "n2")
			w.State.Cutoffs["n2"].Networks[fleet.EveryNetwork] = fleet.Lost{Since: w.Wall.Add(-time.Hour), Back: w.Wall.Add(-lostCalm)}
		}, "no cutoff/n2"},
		{"it is silent again before that: the minute begins anew", 20 * time.Second, 1500 * ms, func(w *fleet.World) {
			alive(w)
			writtenDown(*w, "n2", 30*time.Second)
			w.State.Cutoffs["n2"].Networks[fleet.EveryNetwork] = fleet.Lost{Since: w.Wall.Add(-time.Hour), Back: w.Wall.Add(-30 * time.Second)}
		}, "cutoff/n2"},
		{"its new minute is not over", 40 * time.Second, 1500 * ms, func(w *fleet.World) {
			alive(w)
			writtenDown(*w, "n2", 30*time.Second)
			w.State.Cutoffs["n2"].Networks[fleet.EveryNetwork] = fleet.Lost{Since: w.Wall.Add(-isolatedActs + time.Second), Before: []time.Time{w.Wall.Add(-time.Hour)}}
		}, "wait n2"},
		{"its agent was stopped by a person: nobody is asked", time.Minute, 0, func(w *fleet.World) {
			r := w.Reports["n2"]
			r.Leaving = true
			w.Reports["n2"] = r
		}, ""},
		{"it is proved dead: nobody is asked", time.Minute, 0, func(w *fleet.World) {
			w.State.Proofs = map[string]fleet.Proof{"n2": {Host: "n2", Boot: "b", Kind: "oath"}}
		}, "force-down n2, wait n2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := isolated(c.silence, c.asked)
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			if got := strings.Join(opinions(p), ", "); got != c.want {
				t.Errorf("got  %q\nwant %q\n%+v", got, c.want, p.Waits)
			}
		})
	}
}

// TestFellSilent: what is written down of a silence, and of those before it.
func TestFellSilent(t *testing.T) {
	w := isolated(4*time.Second, 1500*ms)
	many := make([]time.Time, 20)
	for i := range many {
		many[i] = w.Wall.Add(time.Duration(i-200) * time.Minute)
	}
	back, since := w.Wall.Add(-10*time.Second), w.Wall.Add(-time.Minute)
	for _, c := range []struct {
		name    string
		silence time.Duration
		was     *fleet.Lost
		before  []time.Time
	}{
		{"at once", 4 * time.Second, nil, nil},
		{"long after, for others were asked about first", 2 * time.Minute, nil, []time.Time{w.Wall.Add(-2 * time.Minute)}},
		{"anew", 4 * time.Second, &fleet.Lost{Since: since, Back: back}, []time.Time{since}},
		{"again and again", 4 * time.Second, &fleet.Lost{Since: since, Back: back, Before: many}, append(slices.Clone(many[20-isolatedBefore:]), since)},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := isolated(c.silence, 1500*ms)
			writes(w, "n1", map[string]string{"n2": "b"})
			if c.was != nil {
				w.State.Cutoffs["n2"] = fleet.Cutoff{Host: "n2", Networks: map[string]fleet.Lost{fleet.EveryNetwork: *c.was}}
			}
			_, p := Turn(w)
			for _, r := range p.Records {
				var got fleet.Cutoff
				if r.Key != "cutoff/n2" {
					continue
				}
				if err := json.Unmarshal(r.Value, &got); err != nil {
					t.Fatal(err)
				}
				l := got.Networks[fleet.EveryNetwork]
				if !l.Since.Equal(w.Wall) || !l.Back.IsZero() || !slices.EqualFunc(l.Before, c.before, time.Time.Equal) {
					t.Errorf("written down is %+v, and before should be %v", l, c.before)
				}
				return
			}
			t.Error("nothing is written down")
		})
	}
}

// TestWhyFencedThoughItWrites: it is told since when it has been silent, by a time that is the same in each turn: a
// fence that waits says why.
func TestWhyFencedThoughItWrites(t *testing.T) {
	w := isolated(10*time.Minute, 1500*ms)
	writes(w, "n1", map[string]string{"n2": "b"})
	writtenDown(w, "n2", 90*time.Second)
	_, p := Turn(w)
	for _, r := range p.Records {
		if strings.Contains(r.Text, "n2 will be fenced") {
			if !strings.Contains(r.Text, "written to storage since "+w.Wall.Add(-90*time.Second).UTC().Format(time.TimeOnly)) {
				t.Error(r.Text)
			}
			return
		}
	}
	t.Error("it is not fenced")
}

// opinions is what a plan does about computes that are silent.
func opinions(p fleet.Plan) []string {
	out := slices.DeleteFunc(losses(p), func(s string) bool { return s == "wait" })
	for _, o := range p.Orders {
		if o.Verb == fleet.VerbRead {
			out = append(out, "ask "+o.To)
		}
	}
	for _, x := range p.Waits {
		if kind, name, _ := strings.Cut(x.About, "/"); kind == "compute" {
			out = append(out, "wait "+name)
		} else if kind == "storage_heartbeat" {
			out = append(out, "wait "+kind)
		}
	}
	return out
}

// TestIntentIsTakenBack: what an intent was written down for is so no more when its host is seen to write before
// anything was ordered.
func TestIntentIsTakenBack(t *testing.T) {
	w := isolated(4*time.Second, 1500*ms)
	w.State.Intents = map[string]fleet.Intent{"n2": {Host: "n2", Boot: "b", Executor: "c1", Epoch: w.Epoch, Lasts: FenceLasts}}
	fences := func() (ordered, removed bool) {
		_, p := Turn(w)
		for _, r := range p.Records {
			removed = removed || r.Key == "intent/n2" && r.Value == nil
		}
		return slices.ContainsFunc(p.Orders, func(o fleet.Order) bool { return o.Verb == fleet.VerbFence }), removed
	}
	if ordered, removed := fences(); !ordered || removed {
		t.Errorf("nobody sees it write: ordered %v, removed %v", ordered, removed)
	}
	writes(w, "n3", map[string]string{"n2": "b"})
	if ordered, removed := fences(); ordered || !removed {
		t.Errorf("it writes: ordered %v, removed %v", ordered, removed)
	}
	writtenDown(w, "n2", isolatedActs)
	if ordered, removed := fences(); !ordered || removed {
		t.Errorf("it has written for a minute: ordered %v, removed %v", ordered, removed)
	}
}

// TestManySilent: when more are silent than may be fenced some are asked about, the brake says what is seen of them, and
// nobody is fenced because he was not asked about.
func TestManySilent(t *testing.T) {
	w := isolated(0, 0)
	var names []string
	for i := range 40 {
		name := "m" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		names = append(names, name)
		another(&w, name)
	}
	vanish := func(d time.Duration) (asked map[string]bool, fenced []string, p fleet.Plan) {
		for _, name := range names[:20] {
			muted(w, name, d)
		}
		muted(w, names[0], max(d, 2600*ms)) // it is the first to be called silent
		_, p = Turn(w)
		asked = map[string]bool{}
		for _, o := range p.Orders {
			if o.Verb == fleet.VerbRead {
				asked[o.Target.Host] = true
			}
		}
		for _, r := range p.Records {
			if kind, host, _ := strings.Cut(r.Key, "/"); kind == "intent" {
				fenced = append(fenced, host)
			}
		}
		return asked, fenced, p
	}
	asked, fenced, p := vanish(1600 * ms)
	if len(asked) != storageSample || len(fenced) > 0 {
		t.Errorf("asked about %d, fenced %v", len(asked), fenced)
	}
	muted(w, names[19], 1900*ms)
	if _, p := Turn(w); !slices.ContainsFunc(p.Orders, func(o fleet.Order) bool { return o.Verb == fleet.VerbRead && o.Target.Host == names[19] }) {
		t.Error("one that has been silent for longer than others is not asked about")
	}
	for _, d := range []time.Duration{1900 * ms, 2100 * ms} {
		// Each was asked about and nobody sees any write; two beats are missing of so many that the brake is about to hold.
		x := w
		x.Flights = map[string]fleet.Flight{}
		_, _, p := vanish(d)
		for _, o := range p.Orders {
			if o.Verb == fleet.VerbRead {
				x.Flights[o.Key] = fleet.Flight{Sent: w.Now.Add(-10 * time.Second), Tries: 2, Arrived: w.Now.Add(-10 * time.Second), Effect: &fleet.Effect{Outcome: fleet.Done}}
			}
		}
		_, p = Turn(x)
		if got := slices.ContainsFunc(p.Records, func(r fleet.Record) bool { return strings.HasPrefix(r.Key, "intent/") }); got != (d < 2*time.Second) {
			t.Errorf("silent for %v: fenced %v", d, got)
		}
	}
	vanish(1600 * ms)
	muted(w, names[10], 2600*ms)
	if _, p := Turn(w); slices.ContainsFunc(p.Records, func(r fleet.Record) bool { return strings.HasPrefix(r.Key, "intent/") }) {
		t.Errorf("one that was not asked about is fenced before the brake counts the others: %+v", p.Records)
	}
	asked, fenced, p = vanish(time.Minute)
	brake := func() string {
		i := slices.IndexFunc(p.Waits, func(x fleet.Wait) bool { return x.About == "brake" })
		if i < 0 {
			t.Fatalf("no brake holds: %+v", p.Waits[:min(3, len(p.Waits))])
		}
		return p.Waits[i].For
	}
	if said := brake(); len(asked) != storageSample || len(fenced) > 0 || strings.Contains(said, "the network and not the hosts") {
		t.Errorf("asked about %d, fenced %v: %s", len(asked), fenced, said)
	}
	for _, name := range names[:2] {
		for _, reader := range lease.StorageOthers(&w.Spec, name, 3, func(n string) bool { return !slices.Contains(names[:20], n) }) {
			answers(w, name, reader, time.Second*10, 2, fleet.Done)
		}
	}
	writes(w, "n1", map[string]string{names[0]: "b", names[1]: "b"})
	_, p = Turn(w)
	if said := brake(); !strings.Contains(said, "here it is the network and not the hosts: "+names[0]+", "+names[1]+" write to storage") {
		t.Error(said)
	}
}

// TestBadStorage: a heartbeat that is of no use is told before it is needed.
func TestBadStorage(t *testing.T) {
	for _, c := range []struct {
		name string
		word map[string]fleet.StorageWord
		want string
	}{
		{"all is well", nil, ""},
		{"one cannot write", map[string]fleet.StorageWord{"n1": {Failed: "permission denied"}}, "n1 to write to it: permission denied"},
		{"one does not see another that writes", map[string]fleet.StorageWord{"n1": {Unseen: []string{"n3"}}}, "n1 does not see n3"},
		{"one does not see another that cannot write", map[string]fleet.StorageWord{"n1": {Unseen: []string{"n3"}}, "n3": {Failed: "no answer"}}, "n3 to write to it: no answer"},
	} {
		w := isolated(0, 0)
		for host, word := range c.word {
			r := w.Reports[host]
			r.Storage = word
			w.Reports[host] = r
		}
		_, p := Turn(w)
		got := ""
		for _, x := range p.Waits {
			if x.About == "storage_heartbeat" {
				got = x.For
			}
		}
		if c.want == "" && got != "" || !strings.HasSuffix(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// TestTakenOverAndWrites: an intent that was taken over is not taken back for a heartbeat on storage while the
// former leader's off may act yet.
func TestTakenOverAndWrites(t *testing.T) {
	for _, since := range []time.Duration{5 * time.Second, FenceLasts} {
		w := isolated(4*time.Second, 1500*ms)
		w.State.Intents = map[string]fleet.Intent{"n2": {Host: "n2", Boot: "b", Executor: "c1", Epoch: w.Epoch, Lasts: FenceLasts, Loose: true}}
		w.Since = w.Now.Add(-since)
		writes(w, "n3", map[string]string{"n2": "b"})
		_, p := Turn(w)
		gone := false
		for _, r := range p.Records {
			gone = gone || r.Key == "intent/n2" && r.Value == nil
		}
		if gone != (since == FenceLasts) {
			t.Errorf("%v after it began: gone %v", since, gone)
		}
	}
}
