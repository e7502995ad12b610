package plan

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
	"mainstay/lease"
)

// small is a site of three controllers at rest: an address on c1, a service on
// c2, nothing amiss. Each case changes one thing.
func small() fleet.World {
	w := large(4, 0)
	w.Spec.Hosts = w.Spec.Hosts[:3]
	w.Spec.Timing, w.Spec.Brakes = room, fleet.Brakes{Share: 40, Count: 1}
	w.Spec.Addresses = w.Spec.Addresses[:1]
	delete(w.State.Holdings, "address/public")
	delete(w.Reports["c1"].Addresses, "public")
	w.Spec.Services = []fleet.Service{{Name: "s", Mode: fleet.ActivePassive, Roles: []string{"controller"}, Restarts: fleet.Restarts{Count: 3}, OnFailure: fleet.FailMove}}
	w.State.Holdings["service/s"] = fleet.Holding{Thing: "service/s", Host: "c2", Boot: "b", Stint: 1, Generation: 4, Why: "as ever"}
	h := w.State.Holdings["address/internal"]
	h.Why = "as ever"
	w.State.Holdings["address/internal"] = h
	w.State.Proofs, w.State.Intents, w.State.Wishes = map[string]fleet.Proof{}, map[string]fleet.Intent{}, map[string]fleet.Wish{}
	w.Since = w.Now.Add(-time.Minute)
	for i := range w.Spec.Hosts {
		w.Spec.Hosts[i].Fence = []fleet.Level{{{Driver: "redfish"}}}
		w.Reports[w.Spec.Hosts[i].Name].Services["s"] = fleet.ServiceState{Phase: fleet.Stopped}
	}
	w.Reports["c2"].Services["s"] = fleet.ServiceState{Phase: fleet.Running, Ready: true, Generation: 4}
	return w
}

// silent lets a host fall silent for so long.
func silent(w fleet.World, host string, d time.Duration) {
	h := w.Heard[host]
	h.Last, h.Nets = w.Now.Add(-d), nil
	w.Heard[host] = h
}

// lapse ends a host's stint by promises.
func lapse(w fleet.World, host string) {
	silent(w, host, time.Second)
	w.Rounds[host] = fleet.Round{Stint: w.Heard[host].Stint, Number: 1, Over: true, Promised: map[string]fleet.Moment{"c1": w.Now, "c3": w.Now}}
}

// hush lets a host be heard by nobody at all.
func hush(w fleet.World, host string) {
	silent(w, host, time.Second)
	w.Rounds[host] = fleet.Round{Stint: fleet.Stint{Host: host, Boot: "b", N: lease.AnyStint}, Number: 1, Asked: w.Now.Add(-10 * ms), Over: true,
		Promised: map[string]fleet.Moment{"c1": w.Now, "c3": w.Now}}
}

// fencing is a fence of c2 under way by c1, with what came of it five seconds ago.
func fencing(w fleet.World, e *fleet.Effect) {
	hush(w, "c2")
	w.State.Members["c2"] = fleet.Member{Host: "c2", Admitted: "b", Barred: "fenced", Tried: fleet.Tries{Boot: "b", Count: 1}}
	w.State.Intents["c2"] = fleet.Intent{Host: "c2", Boot: "b", Device: "redfish", Executor: "c1", Epoch: w.Epoch, At: w.Wall, Lasts: FenceLasts}
	if e != nil {
		w.Flights["fence/c2/b/1"] = fleet.Flight{Sent: w.Now.Add(-6 * time.Second), Tries: 1, Effect: e, Arrived: w.Now.Add(-5 * time.Second)}
	}
}

// formers is a fence of c2 that a former leader began.
func formers(w *fleet.World) {
	fencing(*w, nil)
	in := w.State.Intents["c2"]
	in.Executor, in.Epoch = "c3", w.Epoch-1
	w.State.Intents["c2"] = in
	w.Since = w.Now.Add(-leaderPause)
}

// takenOver is one that c1, which leads now, goes on with.
func takenOver(w fleet.World) {
	in := w.State.Intents["c2"]
	in.Executor, in.Epoch, in.Loose = "c1", w.Epoch, true
	w.State.Intents["c2"] = in
}

// taken is a service that was taken from c2, which has a new boot now, and given to c3,
// where it is not seen working yet.
func taken(w fleet.World) {
	reboot(w, "c2", "x")
	w.State.Holdings["service/s"] = fleet.Holding{Thing: "service/s", Host: "c3", Boot: "b", Stint: 1, Generation: 5, From: fleet.Stint{Host: "c2", Boot: "b", N: 1}}
	w.Reports["c3"].Services["s"] = fleet.ServiceState{Phase: fleet.Starting, Generation: 5}
}

// reboot lets a host come back in another boot with nothing running.
func reboot(w fleet.World, host, boot string) {
	h, r := w.Heard[host], w.Reports[host]
	h.Stint = fleet.Stint{Host: host, Boot: boot, N: 1}
	r.Boot, r.Services, r.Addresses = boot, map[string]fleet.ServiceState{"s": {Phase: fleet.Stopped}}, nil
	w.Heard[host], w.Reports[host] = h, r
}

// brief writes a plan in a few words, one for each thing that it does.
func brief(p fleet.Plan) []string {
	var out []string
	for _, r := range p.Records {
		word := r.Key
		var h fleet.Holding
		if strings.HasPrefix(r.Key, "holding/") && json.Unmarshal(r.Value, &h) == nil {
			word += fmt.Sprintf("=%s#%d", h.Host, h.Generation)
		}
		if r.Value == nil {
			word = "-" + word
		}
		out = append(out, word)
	}
	for _, r := range p.Asks {
		n := fmt.Sprint(r.Stint.N)
		if r.Stint.N == lease.AnyStint {
			n = "any"
		}
		out = append(out, "ask "+r.Stint.Host+" "+n)
	}
	for _, o := range p.Orders {
		if o.Verb != fleet.VerbSever {
			out = append(out, fmt.Sprintf("%s: %s %s%s", o.To, o.Verb, o.Thing, o.Target.Host))
		}
	}
	for _, x := range p.Waits {
		out = append(out, x.About+" waits")
	}
	return out
}

func TestDecide(t *testing.T) {
	report := func(w fleet.World, host string, change func(*fleet.Report)) {
		r := w.Reports[host]
		change(&r)
		w.Reports[host] = r
	}
	for _, c := range []struct {
		name   string
		change func(*fleet.World)
		want   []string
	}{
		{"at rest", func(*fleet.World) {}, nil},
		{"the holder is silent for a moment", func(w *fleet.World) { silent(*w, "c1", 200*ms); w.Leader = "c3" }, nil},
		{"the holder is silent for W", func(w *fleet.World) { silent(*w, "c1", time.Second); w.Leader = "c3" }, []string{"ask c1 1"}},
		{"its stint is over", func(w *fleet.World) { lapse(*w, "c1"); w.Leader = "c3" }, []string{"holding/address/internal=c3#2"}},
		{"it has begun a later stint", func(w *fleet.World) {
			h := w.Heard["c1"]
			h.Stint.N = 2
			w.Heard["c1"] = h
		}, []string{"holding/address/internal=c3#2"}},
		{"the record is not yet in effect", func(w *fleet.World) {
			w.Reports["c1"].Addresses["internal"] = fleet.AddressState{}
		}, []string{"c1: claim address/internal"}},
		{"its network is cut: it shall hand over", func(w *fleet.World) {
			report(*w, "c1", func(r *fleet.Report) { r.Links = map[string]bool{w.Spec.Addresses[0].Network: false} })
		}, []string{"c1: release address/internal"}},
		{"but not when it has only just moved there: the network may be losing packets everywhere", func(w *fleet.World) {
			report(*w, "c1", func(r *fleet.Report) { r.Links = map[string]bool{w.Spec.Addresses[0].Network: false} })
			h := w.State.Holdings["address/internal"]
			h.At = w.Wall.Add(-time.Second)
			w.State.Holdings["address/internal"] = h
		}, nil},
		{"the holder's word", func(w *fleet.World) {
			report(*w, "c1", func(r *fleet.Report) { r.GivenUp = map[string]uint64{"address/internal": 1} })
		}, []string{"holding/address/internal=c3#2"}},
		{"a service that starts nowhere rests until its starts have aged", func(w *fleet.World) {
			for _, host := range []string{"c1", "c2", "c3"} {
				report(*w, host, func(r *fleet.Report) {
					r.Services["s"] = fleet.ServiceState{Phase: fleet.Failed, Restarts: w.Spec.Services[0].Restarts.Count}
					if host == "c2" {
						r.GivenUp = map[string]uint64{"service/s": w.State.Holdings["service/s"].Generation}
					}
				})
			}
		}, []string{"service/s waits"}},
		{"a lapsed lease frees no service", func(w *fleet.World) { hush(*w, "c2"); w.Leader = "c3" },
			[]string{"member/c2", "intent/c2", "service/s waits"}},
		{"a stint that is over may have a successor: the boot is asked about", func(w *fleet.World) { lapse(*w, "c2"); w.Leader = "c3" },
			[]string{"ask c2 any", "service/s waits"}},
		{"a whole boot's silence moves no address: it is no promise", func(w *fleet.World) { hush(*w, "c1"); w.Leader = "c3" },
			[]string{"ask c1 1"}},
		{"nobody is fenced in a leader's first seconds", func(w *fleet.World) { hush(*w, "c2"); w.Since = w.Now.Add(-time.Second) },
			[]string{"service/s waits", "host/c2 waits"}},
		{"an intent is followed by the order", func(w *fleet.World) { fencing(*w, nil) }, []string{"c1: fence c2", "service/s waits", "host/c2 waits"}},
		{"an answer that came while the leader was held up is the answer", func(w *fleet.World) {
			fencing(*w, &fleet.Effect{Outcome: fleet.Done, Proof: &fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Evidence: "off"}})
		}, []string{"proof/c2", "member/c2", "-intent/c2", "service/s waits"}},
		{"a refusal that came then ends the intent, and nothing is ordered under it", func(w *fleet.World) {
			fencing(*w, &fleet.Effect{Outcome: fleet.Refused, Why: "another machine"})
		}, []string{"-intent/c2", "service/s waits", "host/c2 waits"}},
		{"a fence whose end nobody knows is tried again", func(w *fleet.World) {
			fencing(*w, &fleet.Effect{Outcome: fleet.NoWord})
		}, []string{"c1: fence c2", "service/s waits", "host/c2 waits"}},
		{"one that said off, and then on, may act yet: its end is waited for", func(w *fleet.World) {
			fencing(*w, &fleet.Effect{Outcome: fleet.Broken})
		}, []string{"service/s waits", "host/c2 waits"}},
		{"and then it is over", func(w *fleet.World) {
			fencing(*w, &fleet.Effect{Outcome: fleet.Broken})
			f := w.Flights["fence/c2/b/1"]
			f.Sent = w.Now.Add(-FenceLasts)
			w.Flights["fence/c2/b/1"] = f
		}, []string{"-intent/c2", "service/s waits", "host/c2 waits"}},
		{"but only when the ears have said again that nobody hears it", func(w *fleet.World) {
			fencing(*w, &fleet.Effect{Outcome: fleet.NoWord})
			r := w.Rounds["c2"]
			r.Asked = w.Now.Add(-6 * time.Second)
			w.Rounds["c2"] = r
			silent(*w, "c2", 10*time.Second)
		}, []string{"ask c2 any", "service/s waits", "host/c2 waits"}},
		{"an intent under which nothing was ordered ends when the ears hear the host", func(w *fleet.World) {
			fencing(*w, nil)
			w.Rounds["c2"] = fleet.Round{Stint: fleet.Stint{Host: "c2", Boot: "b", N: lease.AnyStint}, Number: 2, Asked: w.Now.Add(-time.Second)}
		}, []string{"-intent/c2", "ask c2 any", "host/c2 waits"}},
		{"the fence that a former leader began goes on as this one's", func(w *fleet.World) { formers(w) },
			[]string{"member/c2", "intent/c2", "service/s waits"}},
		{"not in its first seconds", func(w *fleet.World) { formers(w); w.Since = w.Now.Add(-leaderPause + ms) },
			[]string{"service/s waits", "host/c2 waits"}},
		{"not of a host that is heard", func(w *fleet.World) { formers(w); silent(*w, "c2", 0) },
			[]string{"host/c2 waits"}},
		{"not before the ears have said so a moment ago", func(w *fleet.World) {
			formers(w)
			r := w.Rounds["c2"]
			r.Asked = w.Now.Add(-6 * time.Second)
			w.Rounds["c2"] = r
		}, []string{"ask c2 any", "host/c2 waits"}},
		{"not while fencing is disarmed", func(w *fleet.World) {
			formers(w)
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, []string{"service/s waits", "host/c2 waits"}},
		{"not of another boot", func(w *fleet.World) {
			formers(w)
			in := w.State.Intents["c2"]
			in.Boot = "a"
			w.State.Intents["c2"] = in
		}, []string{"service/s waits", "host/c2 waits"}},
		{"not once it has given its proof", func(w *fleet.World) {
			formers(w)
			in := w.State.Intents["c2"]
			in.Proved = true
			w.State.Intents["c2"] = in
		}, []string{"service/s waits", "host/c2 waits"}},
		{"taken over and not ordered yet it stays open though its host is heard again: the former one may act", func(w *fleet.World) {
			formers(w)
			takenOver(*w)
			w.Since = w.Now.Add(-FenceLasts + ms)
			silent(*w, "c2", 0)
		}, []string{"host/c2 waits"}},
		{"until that one can act no more", func(w *fleet.World) {
			formers(w)
			takenOver(*w)
			w.Since = w.Now.Add(-FenceLasts)
			silent(*w, "c2", 0)
		}, []string{"-intent/c2", "host/c2 waits"}},
		{"one that is refused stays open for what an earlier one may do", func(w *fleet.World) {
			formers(w)
			takenOver(*w)
			w.Flights["fence/c2/b/1"] = fleet.Flight{Sent: w.Now.Add(-6 * time.Second), Tries: 1, Effect: &fleet.Effect{Outcome: fleet.Refused, Why: "no"}, Arrived: w.Now.Add(-5 * time.Second)}
		}, []string{"service/s waits", "host/c2 waits"}},
		{"but not on a host that is heard again", func(w *fleet.World) {
			fencing(*w, &fleet.Effect{Outcome: fleet.NoWord})
			silent(*w, "c2", 0)
		}, []string{"host/c2 waits"}},
		{"a silence of long ago, broken since, does not keep an address waiting for the fence", func(w *fleet.World) {
			h := w.State.Holdings["address/internal"]
			h.Host = "c2"
			w.State.Holdings["address/internal"] = h
			w.Leader = "c3"
			w.Rounds["c2"] = fleet.Round{Stint: fleet.Stint{Host: "c2", Boot: "b", N: lease.AnyStint}, Number: 2, Over: true,
				Asked: w.Now.Add(-time.Minute), Promised: map[string]fleet.Moment{"c1": w.Now.Add(-time.Minute), "c3": w.Now.Add(-time.Minute)}}
			silent(*w, "c2", time.Second)
		}, []string{"ask c2 1", "c1: release address/internal", "c2: claim address/internal"}},
		{"a question about the boot is not taken back for one about its stint", func(w *fleet.World) {
			fencing(*w, nil)
			h := w.State.Holdings["address/internal"]
			h.Host = "c2"
			w.State.Holdings["address/internal"] = h
			w.Rounds["c2"] = fleet.Round{Stint: fleet.Stint{Host: "c2", Boot: "b", N: lease.AnyStint}, Number: 2, Asked: w.Now.Add(-10 * ms)}
		}, []string{"c1: release address/internal", "c2: claim address/internal", "host/c2 waits"}},
		{"nor the other way round", func(w *fleet.World) {
			fencing(*w, nil)
			h := w.State.Holdings["address/internal"]
			h.Host = "c2"
			w.State.Holdings["address/internal"] = h
			w.Rounds["c2"] = fleet.Round{Stint: h.Holder(), Number: 2, Asked: w.Now.Add(-10 * ms)}
		}, []string{"c1: release address/internal", "c2: claim address/internal", "host/c2 waits"}},
		{"nothing is started under a record that its holder's new stint has outdated", func(w *fleet.World) {
			h := w.Heard["c2"]
			h.Stint.N, h.Leased = 2, false
			w.Heard["c2"] = h
			w.Reports["c2"].Services["s"] = fleet.ServiceState{Phase: fleet.Stopped}
		}, nil},
		{"nobody is asked again about a host that has reported since, before its beats may have come", func(w *fleet.World) {
			hush(*w, "c2")
			w.Told = map[string]fleet.Moment{"c2": w.Now.Add(-5 * ms)}
		}, nil},
		{"one that is heard again is not ordered off once more, though no answer came", func(w *fleet.World) {
			heard := w.Heard["c2"]
			fencing(*w, nil)
			w.Heard["c2"] = heard
			w.Flights["fence/c2/b/1"] = fleet.Flight{Sent: w.Now.Add(-FenceLasts), Tries: 1}
		}, []string{"-intent/c2", "host/c2 waits"}},
		{"a later boot speaks while the fence of its former one is open: it is proof enough, and not switched off", func(w *fleet.World) {
			fencing(*w, &fleet.Effect{Outcome: fleet.NoWord, Why: "its answer was lost"})
			reboot(*w, "c2", "x")
			silent(*w, "c2", 0)
			delete(w.Rounds, "c2")
		}, []string{"proof/c2", "host/c2 waits", "service/s waits"}},
		{"nor is it once that is recorded", func(w *fleet.World) {
			fencing(*w, &fleet.Effect{Outcome: fleet.NoWord, Why: "its answer was lost"})
			reboot(*w, "c2", "x")
			silent(*w, "c2", 0)
			delete(w.Rounds, "c2")
			w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Kind: "reboot"}
			w.State.Holdings["service/s"] = fleet.Holding{Thing: "service/s", Host: "c3", Boot: "b", Stint: 1, Generation: 5, From: fleet.Stint{Host: "c2", Boot: "b", N: 1}}
			w.Reports["c3"].Services["s"] = fleet.ServiceState{Phase: fleet.Running, Ready: true, Generation: 5}
		}, []string{"host/c2 waits"}},
		{"two boots that speak at once prove nothing of each other, and the fence goes on", func(w *fleet.World) {
			fencing(*w, nil)
			reboot(*w, "c2", "x")
			silent(*w, "c2", 0)
			delete(w.Rounds, "c2")
			h := w.Heard["c2"]
			h.Rival = "b"
			w.Heard["c2"] = h
		}, []string{"c1: fence c2", "service/s waits", "host/c2 waits"}},
		{"nor is its intent ended while the first off may act", func(w *fleet.World) {
			heard := w.Heard["c2"]
			fencing(*w, nil)
			w.Heard["c2"] = heard
			w.Flights["fence/c2/b/1"] = fleet.Flight{Sent: w.Now.Add(-FenceLasts / 2), Tries: 1}
		}, []string{"host/c2 waits"}},
		{"one that is heard again before the order is not fenced", func(w *fleet.World) {
			fencing(*w, nil)
			silent(*w, "c2", 0)
		}, []string{"-intent/c2", "host/c2 waits"}},
		{"no power switch is touched in a turn that writes", func(w *fleet.World) {
			fencing(*w, nil)
			lapse(*w, "c1")
			w.Leader = "c3"
		}, []string{"holding/address/internal=c3#2", "service/s waits", "host/c2 waits"}},
		{"an answer from long ago is no answer right before the start", func(w *fleet.World) {
			lapse(*w, "c2")
			w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Evidence: "off"}
			w.State.Holdings["service/s"] = fleet.Holding{Thing: "service/s", Host: "c3", Boot: "b", Stint: 1, Generation: 5, Why: "off", From: fleet.Stint{Host: "c2", Boot: "b", N: 1}}
			w.Flights["confirm/s/c2/5"] = fleet.Flight{Sent: w.Now.Add(-6 * time.Second), Arrived: w.Now.Add(-5 * time.Second), Effect: &fleet.Effect{Outcome: fleet.Done}}
		}, []string{"c1: confirm service/sc2", "service/s waits"}},
		{"a host that has nothing and is silent for long is missed", func(w *fleet.World) { silent(*w, "c3", 11*time.Second) }, []string{"host/c3 waits"}},
		{"but not at once", func(w *fleet.World) { silent(*w, "c3", time.Second) }, nil},
		{"a fence that would prove nothing is said long before it is needed", func(w *fleet.World) {
			report(*w, "c3", func(r *fleet.Report) { r.Fences = map[string]string{"c2": "level 1, refused: wrong password"} })
		}, []string{"fence/c2 waits"}},
		{"a HAProxy goes on with an older configuration", func(w *fleet.World) {
			report(*w, "c3", func(r *fleet.Report) { r.Refused = "HAProxy refuses haproxy.d/own.cfg" })
		}, []string{"haproxy/c3 waits"}},
		{"an answer that a brake has outlasted is asked for again before anybody is barred", func(w *fleet.World) {
			hush(*w, "c2")
			w.Leader = "c3"
			silent(*w, "c2", 10*time.Second)
			r := w.Rounds["c2"]
			r.Asked = w.Now.Add(-3 * time.Second)
			w.Rounds["c2"] = r
		}, []string{"ask c2 any", "service/s waits"}},
		{"nobody is fenced for a boot when a later one has just reported: its beats follow", func(w *fleet.World) {
			hush(*w, "c2")
			w.Leader = "c3"
			report(*w, "c2", func(r *fleet.Report) { r.Boot = "x" })
			w.Told = map[string]fleet.Moment{"c2": w.Now.Add(-500 * ms)}
			r := w.Rounds["c2"]
			r.Asked = w.Now.Add(-400 * ms)
			w.Rounds["c2"] = r
		}, []string{"service/s waits"}},
		{"but when no beat has followed", func(w *fleet.World) {
			hush(*w, "c2")
			w.Leader = "c3"
			silent(*w, "c2", 10*time.Second)
			report(*w, "c2", func(r *fleet.Report) { r.Boot = "x" })
			w.Told = map[string]fleet.Moment{"c2": w.Now.Add(-5 * time.Second)}
		}, []string{"member/c2", "intent/c2", "service/s waits"}},
		{"nor whose agent somebody stopped", func(w *fleet.World) {
			hush(*w, "c2")
			w.Leader = "c3"
			report(*w, "c2", func(r *fleet.Report) { r.Leaving = true })
		}, []string{"member/c2", "service/s waits", "host/c2 waits"}},
		{"also when it said so while the intent was written down", func(w *fleet.World) {
			fencing(*w, nil)
			w.Leader = "c1"
			report(*w, "c2", func(r *fleet.Report) { r.Leaving = true })
		}, []string{"member/c2", "-intent/c2", "service/s waits"}},
		{"also by a leader who was not told so", func(w *fleet.World) {
			hush(*w, "c2")
			w.Leader = "c3"
			delete(w.Reports, "c2")
			w.State.Members["c2"] = fleet.Member{Host: "c2", Admitted: "b", Left: &fleet.Farewell{Boot: "b"}}
		}, []string{"service/s waits", "host/c2 waits"}},
		{"but one that has spoken since", func(w *fleet.World) {
			hush(*w, "c2")
			w.Leader = "c3"
			w.State.Members["c2"] = fleet.Member{Host: "c2", Admitted: "b", Left: &fleet.Farewell{Boot: "b"}}
		}, []string{"member/c2", "intent/c2", "service/s waits"}},
		{"but one that was stopped in an earlier boot", func(w *fleet.World) {
			hush(*w, "c2")
			w.Leader = "c3"
			report(*w, "c2", func(r *fleet.Report) { r.Leaving, r.Boot = true, "a" })
		}, []string{"member/c2", "intent/c2", "service/s waits"}},
		{"but one that went down with something in its hands", func(w *fleet.World) {
			hush(*w, "c2")
			w.Leader = "c3"
			report(*w, "c2", func(r *fleet.Report) { r.Leaving, r.GoesDown = true, true })
		}, []string{"member/c2", "intent/c2", "service/s waits"}},
		{"a host that shuts down hands over what it holds", func(w *fleet.World) {
			report(*w, "c1", func(r *fleet.Report) { r.GoesDown = true })
		}, []string{"c1: release address/internal"}},
		{"and what it runs alone", func(w *fleet.World) {
			report(*w, "c2", func(r *fleet.Report) { r.GoesDown = true })
		}, []string{"c2: stop service/s"}},
		{"but not in an earlier boot", func(w *fleet.World) {
			reboot(*w, "c3", "x")
			w.State.Members["c3"] = fleet.Member{Host: "c3", Admitted: "x"}
			report(*w, "c3", func(r *fleet.Report) { r.Boot, r.GoesDown = "b", true })
		}, nil},
		{"nothing goes to a host that shuts down", func(w *fleet.World) {
			lapse(*w, "c1")
			w.Leader = "c2"
			report(*w, "c3", func(r *fleet.Report) { r.GoesDown = true })
		}, []string{"holding/address/internal=c2#2"}},
		{"a farewell with empty hands is written down", func(w *fleet.World) {
			silent(*w, "c3", 200*ms)
			report(*w, "c3", func(r *fleet.Report) { r.Leaving, r.GoesDown = true, true })
		}, []string{"member/c3"}},
		{"not while it is heard", func(w *fleet.World) {
			report(*w, "c3", func(r *fleet.Report) { r.Leaving = true })
		}, nil},
		{"also of one whose agent was stopped beside what it runs", func(w *fleet.World) {
			silent(*w, "c2", 200*ms)
			report(*w, "c2", func(r *fleet.Report) { r.Leaving = true })
		}, []string{"member/c2"}},
		{"not of one that goes down with something in its hands", func(w *fleet.World) {
			silent(*w, "c2", 200*ms)
			report(*w, "c2", func(r *fleet.Report) { r.Leaving, r.GoesDown = true, true })
		}, []string{"c2: stop service/s"}},
		{"and forgotten when it is heard again", func(w *fleet.World) {
			w.State.Members["c3"] = fleet.Member{Host: "c3", Admitted: "b", Left: &fleet.Farewell{Boot: "b"}}
		}, []string{"member/c3"}},
		{"one that left is not counted as lost by the brake", func(w *fleet.World) {
			hush(*w, "c2")
			silent(*w, "c3", time.Second)
			report(*w, "c3", func(r *fleet.Report) { r.Leaving, r.GoesDown = true, true })
			w.State.Members["c3"] = fleet.Member{Host: "c3", Admitted: "b", Left: &fleet.Farewell{Boot: "b", Down: true}}
		}, []string{"member/c2", "intent/c2", "service/s waits"}},
		{"a new boot waits for what was taken from the former one to arrive", func(w *fleet.World) {
			taken(*w)
		}, []string{"host/c2 waits"}},
		{"but not for what was given back where it should have", func(w *fleet.World) {
			taken(*w)
			report(*w, "c3", func(r *fleet.Report) { r.GivenUp = map[string]uint64{"service/s": 5} })
		}, []string{"member/c2", "proof/c2", "holding/service/s=c1#6"}},
		{"nor when disarmed", func(w *fleet.World) {
			hush(*w, "c2")
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, []string{"service/s waits", "host/c2 waits"}},
		{"what should move stays while the site is disarmed, and says so", func(w *fleet.World) {
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
			w.State.Wishes["move-a"] = fleet.Wish{ID: "move-a", Verb: "move", Thing: "address/internal", To: "c3", By: "ann"}
			w.State.Wishes["maintenance-c2"] = fleet.Wish{ID: "maintenance-c2", Verb: "maintenance", Host: "c2"}
		}, []string{"address/internal waits", "service/s waits"}},
		{"what a person did is told by the leader, and forgotten", func(w *fleet.World) {
			w.State.Wishes["deed-1"] = fleet.Wish{ID: "deed-1", Verb: fleet.VerbDeed, By: "eve", Why: "makes a join token"}
		}, []string{"-wish/deed-1"}},
		{"disarmed and at rest", func(w *fleet.World) {
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
		}, nil},
		{"nor when many are lost", func(w *fleet.World) { hush(*w, "c2"); silent(*w, "c3", time.Second) }, []string{"service/s waits", "brake waits"}},
		{"nor the leader by itself", func(w *fleet.World) { hush(*w, "c2"); w.Leader = "c2" }, []string{"service/s waits", "host/c2 waits"}},
		{"a service asks about the boot, whatever its stint", func(w *fleet.World) {
			h := w.Heard["c2"]
			h.Stint.N = 2
			w.Heard["c2"] = h
			silent(*w, "c2", time.Second)
			w.Leader = "c3"
		}, []string{"ask c2 any"}},
		{"a proof frees it", func(w *fleet.World) {
			lapse(*w, "c2")
			w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Evidence: "off"}
		}, []string{"holding/service/s=c3#5"}},
		{"a proof of a boot that speaks is void", func(w *fleet.World) {
			w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Evidence: "off"}
		}, []string{"-proof/c2"}},
		{"a later boot proves the former dead", func(w *fleet.World) { reboot(*w, "c2", "x") }, []string{"member/c2", "proof/c2", "service/s waits"}},
		{"two that had each other's things do not wait for each other", func(w *fleet.World) {
			for _, host := range []string{"c1", "c2"} {
				reboot(*w, host, "x")
				w.State.Members[host] = fleet.Member{Host: host, Admitted: "b"}
			}
			a, s := w.State.Holdings["address/internal"], w.State.Holdings["service/s"]
			a.From, s.From = fleet.Stint{Host: "c2", Boot: "a", N: 1}, fleet.Stint{Host: "c1", Boot: "a", N: 1}
			w.State.Holdings["address/internal"], w.State.Holdings["service/s"] = a, s
		}, []string{"member/c1", "proof/c1", "member/c2", "proof/c2", "ask c1 1", "service/s waits"}},
		{"a boot two boots ago is dead as well", func(w *fleet.World) {
			reboot(*w, "c2", "y")
			w.State.Members["c2"] = fleet.Member{Host: "c2", Admitted: "x"}
			w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "w", Kind: "reboot", Evidence: "x spoke"}
		}, []string{"member/c2", "proof/c2", "holding/service/s=c3#5"}},
		{"a barred host whose fence came to nothing", func(w *fleet.World) {
			w.State.Members["c2"] = fleet.Member{Host: "c2", Admitted: "b", Barred: "fenced"}
		}, []string{"member/c2"}},
		{"the off is asked again right before the start", func(w *fleet.World) {
			lapse(*w, "c2")
			w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Evidence: "off"}
			w.State.Holdings["service/s"] = fleet.Holding{Thing: "service/s", Host: "c3", Boot: "b", Stint: 1, Generation: 5, Why: "off", From: fleet.Stint{Host: "c2", Boot: "b", N: 1}}
		}, []string{"c1: confirm service/sc2", "service/s waits"}},
		{"but not of a host that has come back", func(w *fleet.World) {
			reboot(*w, "c2", "x")
			w.State.Members["c2"] = fleet.Member{Host: "c2", Admitted: "b", Barred: "fenced"}
			w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Evidence: "off"}
			w.State.Holdings["service/s"] = fleet.Holding{Thing: "service/s", Host: "c3", Boot: "b", Stint: 1, Generation: 5, Why: "off", From: fleet.Stint{Host: "c2", Boot: "b", N: 1}}
		}, []string{"c3: start service/s", "host/c2 waits"}},
		{"a copy without the record is stopped", func(w *fleet.World) {
			w.Reports["c3"].Services["s"] = fleet.ServiceState{Phase: fleet.Running}
		}, []string{"c3: stop service/s", "service/s waits"}},
		{"nobody holds it, and a home has not spoken in this epoch", func(w *fleet.World) {
			delete(w.State.Holdings, "service/s")
			w.Reports["c2"].Services["s"] = fleet.ServiceState{Phase: fleet.Stopped}
			report(*w, "c3", func(r *fleet.Report) { r.Epoch = 0 })
		}, []string{"c3: inventory ", "service/s waits"}},
		{"nobody holds it, and it runs nowhere", func(w *fleet.World) {
			delete(w.State.Holdings, "service/s")
			w.Reports["c2"].Services["s"] = fleet.ServiceState{Phase: fleet.Stopped}
		}, []string{"holding/service/s=c2#1"}},
		{"it is found on one", func(w *fleet.World) {
			delete(w.State.Holdings, "service/s")
			w.Reports["c2"].Services["s"] = fleet.ServiceState{Phase: fleet.Running}
		}, []string{"holding/service/s=c2#1"}},
		{"it is found on two", func(w *fleet.World) {
			delete(w.State.Holdings, "service/s")
			w.Reports["c3"].Services["s"] = fleet.ServiceState{Phase: fleet.Running}
		}, []string{"service/s waits"}},
		{"another program has the address", func(w *fleet.World) {
			w.Reports["c3"].Addresses["internal"] = fleet.AddressState{Phase: fleet.Foreign, Why: "permanent"}
		}, []string{"address/internal waits"}},
		{"maintenance moves what the host has", func(w *fleet.World) {
			w.State.Wishes["maintenance-c1"] = fleet.Wish{ID: "maintenance-c1", Verb: "maintenance", Host: "c1"}
		}, []string{"c1: release address/internal"}},
		{"a wish to move", func(w *fleet.World) {
			w.State.Wishes["m"] = fleet.Wish{ID: "m", Verb: "move", Thing: "service/s", To: "c1", By: "root"}
		}, []string{"c2: stop service/s"}},
		{"a wish that has come true", func(w *fleet.World) {
			w.State.Wishes["m"] = fleet.Wish{ID: "m", Verb: "move", Thing: "service/s", To: "c2", By: "root"}
		}, []string{"-wish/m"}},
		{"a blocked service waits for a person", func(w *fleet.World) {
			h := w.State.Holdings["service/s"]
			h.Blocked = "it failed"
			w.State.Holdings["service/s"] = h
		}, []string{"service/s waits"}},
		{"who lets it go", func(w *fleet.World) {
			h := w.State.Holdings["service/s"]
			h.Blocked = "it failed"
			w.State.Holdings["service/s"] = h
			w.State.Wishes["m"] = fleet.Wish{ID: "m", Verb: "move", Thing: "service/s", To: "c3", By: "root"}
		}, []string{"holding/service/s=c2#4", "c2: stop service/s"}},
		{"but not for a host that cannot run it", func(w *fleet.World) {
			h := w.State.Holdings["service/s"]
			h.Blocked = "it failed"
			w.State.Holdings["service/s"] = h
			silent(*w, "c3", time.Second)
			w.State.Wishes["m"] = fleet.Wish{ID: "m", Verb: "move", Thing: "service/s", To: "c3", By: "root"}
		}, []string{"service/s waits"}},
		{"an oath about a host that speaks is refused", func(w *fleet.World) {
			w.State.Wishes["o"] = fleet.Wish{ID: "o", Verb: "oath", Host: "c2", Boot: "b", By: "root"}
		}, []string{"-wish/o"}},
		{"an oath about a silent one is a proof", func(w *fleet.World) {
			hush(*w, "c2")
			w.Leader = "c3"
			w.State.Members["c2"] = fleet.Member{Host: "c2", Admitted: "b", Barred: "fenced", Fenced: []time.Time{w.Wall, w.Wall, w.Wall}}
			w.State.Wishes["o"] = fleet.Wish{ID: "o", Verb: "oath", Host: "c2", Boot: "b", By: "root"}
		}, []string{"proof/c2", "-wish/o", "service/s waits", "host/c2 waits"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := small()
			c.change(&w)
			before, _ := json.Marshal(w)
			_, p := Turn(w)
			if diff := cmp.Diff(c.want, brief(p)); diff != "" {
				t.Errorf("%s\n%+v", diff, p)
			}
			if after, _ := json.Marshal(w); string(after) != string(before) {
				t.Error("the World was changed")
			}
			_, again := Turn(w)
			if diff := cmp.Diff(p, again); diff != "" {
				t.Errorf("decided otherwise the second time: %s", diff)
			}
			for _, r := range p.Records {
				if r.Text == "" {
					t.Errorf("%s has no reason", r.Key)
				}
			}
			for _, o := range p.Orders {
				if o.Why == "" || o.Epoch != w.Epoch {
					t.Errorf("%s: %+v", o.Key, o)
				}
			}
		})
	}
}

// TestFenceLevels: what the first level could not prove is tried with the next one at
// once, and with the first again after a rest; a proof names its level, and who asks
// again or turns the host on asks the same.
func TestFenceLevels(t *testing.T) {
	w := small()
	hush(w, "c2")
	w.Leader = "c3"
	for i := range w.Spec.Hosts {
		w.Spec.Hosts[i].Fence = []fleet.Level{{{Driver: "redfish"}}, {{Driver: "agent"}, {Driver: "agent"}}}
	}
	intent := func() (in fleet.Intent) {
		t.Helper()
		_, p := Turn(w)
		for _, r := range p.Records {
			if r.Key == "intent/c2" {
				if err := json.Unmarshal(r.Value, &in); err != nil {
					t.Fatal(err)
				}
			}
		}
		return in
	}
	if in := intent(); in.Level != 0 || in.Device != "redfish" {
		t.Errorf("the first try: %+v", in)
	}
	failed := func(tries int) {
		t.Helper()
		m := w.State.Members["c2"]
		m.Tried = fleet.Tries{Boot: "b", Count: tries}
		w.State.Members["c2"] = m
		w.Flights = map[string]fleet.Flight{fmt.Sprintf("fence/c2/b/%d", tries): {
			Sent: w.Now.Add(-time.Second), Arrived: w.Now, Tries: 1, Effect: &fleet.Effect{Outcome: fleet.Refused, Why: "no"}}}
	}
	failed(1)
	in := intent()
	if in.Level != 1 || in.Device != "agent and agent" {
		t.Errorf("the second try: %+v", in)
	}
	w.State.Intents["c2"] = fleet.Intent{Host: "c2", Boot: "b", Device: in.Device, Level: 1, Executor: "c3", Epoch: w.Epoch, At: w.Wall, Lasts: FenceLasts}
	w.Flights = nil
	if _, p := Turn(w); len(p.Orders) != 1 || p.Orders[0].Verb != fleet.VerbFence || p.Orders[0].Level != 1 {
		t.Errorf("its order: %+v", p.Orders)
	}
	delete(w.State.Intents, "c2")
	failed(2)
	if in := intent(); in.Host != "" {
		t.Errorf("the first level is tried again without a rest: %+v", in)
	}

	w = small()
	lapse(w, "c2")
	w.State.Proofs["c2"] = fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Evidence: "off", Level: 1}
	w.State.Holdings["service/s"] = fleet.Holding{Thing: "service/s", Host: "c3", Boot: "b", Stint: 1, Generation: 5, Why: "off", From: fleet.Stint{Host: "c2", Boot: "b", N: 1}}
	_, p := Turn(w)
	if len(p.Orders) != 1 || p.Orders[0].Verb != fleet.VerbConfirm || p.Orders[0].Level != 1 {
		t.Errorf("asked again: %+v", p.Orders)
	}
}

// TestNoSilenceIsAProof: a host without a fence runs the service and falls silent, for a
// moment, an hour, a year. However long, and whatever promised to hear it no more, its
// service is started nowhere else: only the contract of a watchdog could make a proof of
// silence, and there is none.
func TestNoSilenceIsAProof(t *testing.T) {
	for _, d := range []time.Duration{time.Second, time.Minute, time.Hour, 24 * 365 * time.Hour} {
		for _, quiet := range []func(fleet.World, string){func(fleet.World, string) {}, lapse, hush} {
			w := small()
			for i := range w.Spec.Hosts {
				w.Spec.Hosts[i].Fence = nil
			}
			w.Leader = "c3"
			quiet(w, "c2")
			w.Now, w.Wall = w.Now.Add(d), w.Wall.Add(d)
			for _, host := range []string{"c1", "c3"} {
				silent(w, host, 0)
				h := w.Heard[host]
				h.Nets = map[string]fleet.Moment{}
				for _, n := range w.Spec.Networks {
					h.Nets[n.Name] = w.Now
				}
				w.Heard[host] = h
			}
			w, p := Turn(w)
			for _, r := range p.Records {
				if strings.HasPrefix(r.Key, "holding/service/") || strings.HasPrefix(r.Key, "proof/") {
					t.Errorf("after %v of silence: %s: %s", d, r.Key, r.Text)
				}
			}
			for _, o := range p.Orders {
				if o.Thing == "service/s" {
					t.Errorf("after %v of silence: %s shall %s: %s", d, o.To, o.Verb, o.Why)
				}
			}
			if c := w.Verdicts["c2"].Condition; c == fleet.Dead || c == fleet.Healthy {
				t.Errorf("after %v of silence c2 is %s", d, c)
			}
		}
	}
}

// TestNextLevel: when nobody knows what came of a try, the next level follows at once, and
// the intent stays open until the earlier one can act no more, whatever the later proves.
func TestNextLevel(t *testing.T) {
	w := small()
	hush(w, "c2")
	w.Leader = "c3"
	for i := range w.Spec.Hosts {
		w.Spec.Hosts[i].Fence = []fleet.Level{{{Driver: "redfish"}}, {{Driver: "agent"}}}
	}
	w.State.Intents["c2"] = fleet.Intent{Host: "c2", Boot: "b", Device: "redfish", Executor: "c3", Epoch: w.Epoch, At: w.Wall, Lasts: FenceLasts}
	m := w.State.Members["c2"]
	m.Tried = fleet.Tries{Boot: "b", Count: 1}
	w.State.Members["c2"] = m
	turn := func(outcome fleet.Outcome, proof *fleet.Proof) {
		t.Helper()
		w.Flights = map[string]fleet.Flight{fmt.Sprintf("fence/c2/b/%d", w.State.Members["c2"].Tried.Count): {
			Sent: w.Now.Add(-10 * time.Second), Arrived: w.Now, Tries: 1, Effect: &fleet.Effect{Outcome: outcome, Proof: proof, Why: "silence"}}}
		_, p := Turn(w)
		var err error
		if w.State, err = w.State.Apply(p.Records...); err != nil {
			t.Fatal(err)
		}
	}
	turn(fleet.NoWord, nil)
	if now, n := w.State.Intents["c2"], w.State.Members["c2"].Tried.Count; now.Level != 1 || now.Device != "agent" || !now.Loose || n != 2 {
		t.Fatalf("%+v, ordered %d times", now, n)
	}
	proof := &fleet.Proof{Host: "c2", Boot: "b", Kind: "fence", Level: 1, Evidence: "off"}
	turn(fleet.Done, proof)
	if _, open := w.State.Intents["c2"]; !open || w.State.Proofs["c2"].Level != 1 {
		t.Fatalf("proved by level 1: open %v, %+v", open, w.State.Proofs["c2"])
	}
	w.Now, w.Wall = w.Now.Add(FenceLasts), w.Wall.Add(FenceLasts)
	w.Flights = map[string]fleet.Flight{"fence/c2/b/2": {Sent: w.Now.Add(-FenceLasts - 10*time.Second), Arrived: w.Now.Add(-FenceLasts), Tries: 1, Effect: &fleet.Effect{Outcome: fleet.Done, Proof: proof}}}
	_, p := Turn(w)
	var err error
	if w.State, err = w.State.Apply(p.Records...); err != nil {
		t.Fatal(err)
	}
	if _, open := w.State.Intents["c2"]; open {
		t.Error("nothing can act any more, and it is still open")
	}
}
