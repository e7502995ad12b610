package plan

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// TestRestoredStore: the record is older than what the hosts do and know. Nothing
// is held twice, no generation is given again, and nothing moves without need.
func TestRestoredStore(t *testing.T) {
	const address, service = "address/internal", "service/s"
	report := func(w *fleet.World, host string, change func(*fleet.Report)) {
		r := w.Reports[host]
		change(&r)
		w.Reports[host] = r
	}
	// forgot is what Restore makes of a holding.
	forgot := func(w *fleet.World, thing string) {
		h := w.State.Holdings[thing]
		w.State.Holdings[thing] = fleet.Holding{Thing: thing, Generation: h.Generation}
	}
	speak := func(w *fleet.World, host string, generation uint64) {
		report(w, host, func(r *fleet.Report) {
			r.Addresses = map[string]fleet.AddressState{"internal": {Generation: generation, Phase: fleet.Speaking}}
		})
	}
	quiet := func(w *fleet.World, host string) { report(w, host, func(r *fleet.Report) { r.Addresses = nil }) }
	for _, c := range []struct {
		name   string
		change func(*fleet.World)
		want   []string
	}{
		{"who speaks for an address stays", func(w *fleet.World) {
			forgot(w, address)
			quiet(w, "c1")
			speak(w, "c2", 9)
		}, []string{"holding/address/internal=c2#10"}},
		{"also under the very generation of the backup", func(w *fleet.World) {
			forgot(w, address)
			quiet(w, "c1")
			speak(w, "c3", 1)
		}, []string{"holding/address/internal=c3#2"}},
		{"and without any record at all", func(w *fleet.World) {
			delete(w.State.Holdings, address)
			quiet(w, "c1")
			speak(w, "c3", 9)
		}, []string{"holding/address/internal=c3#10"}},
		{"but is admitted first", func(w *fleet.World) {
			forgot(w, address)
			quiet(w, "c1")
			reboot(*w, "c2", "later")
			speak(w, "c2", 9)
			delete(w.State.Holdings, service)
			w.Spec.Services = nil
		}, []string{"member/c2", "proof/c2", "address/internal waits"}},
		{"nobody speaks, and all have said so: above what they know", func(w *fleet.World) {
			forgot(w, address)
			quiet(w, "c1")
			report(w, "c2", func(r *fleet.Report) {
				r.Addresses = map[string]fleet.AddressState{"internal": {Generation: 9}}
			})
			report(w, "c3", func(r *fleet.Report) { r.GivenUp = map[string]uint64{address: 11} })
		}, []string{"holding/address/internal=c1#12"}},
		{"one is heard and has not said", func(w *fleet.World) {
			forgot(w, address)
			quiet(w, "c1")
			h := w.Heard["c3"]
			h.Stint.N++
			w.Heard["c3"] = h
		}, []string{"address/internal waits"}},
		{"one is heard and has not said, and nothing is recorded", func(w *fleet.World) {
			delete(w.State.Holdings, address)
			quiet(w, "c1")
			h := w.Heard["c3"]
			h.Stint.N++
			w.Heard["c3"] = h
		}, []string{"address/internal waits"}},
		{"one is silent and not proved dead", func(w *fleet.World) {
			forgot(w, address)
			quiet(w, "c1")
			delete(w.Heard, "c3")
			delete(w.Reports, "c3")
		}, []string{"host/c3 waits", "address/internal waits"}},
		{"one is dead by an oath", func(w *fleet.World) {
			forgot(w, address)
			quiet(w, "c1")
			delete(w.Heard, "c3")
			delete(w.Reports, "c3")
			w.State.Proofs["c3"] = fleet.Proof{Host: "c3", Boot: "b", Kind: "oath"}
		}, []string{"holding/address/internal=c1#2"}},
		{"the record names one, another speaks under a newer right", func(w *fleet.World) {
			quiet(w, "c1")
			speak(w, "c3", 9)
		}, []string{"holding/address/internal=c3#10"}},
		{"the record's holder knows a newer generation itself", func(w *fleet.World) { speak(w, "c1", 9) }, []string{"holding/address/internal=c1#10"}},
		{"another speaks under an older right", func(w *fleet.World) {
			h := w.State.Holdings[address]
			h.Generation = 10
			w.State.Holdings[address] = h
			speak(w, "c1", 10)
			speak(w, "c3", 9)
		}, []string{"c3: release address/internal"}},
		{"a service that runs is adopted", func(w *fleet.World) { forgot(w, service) }, []string{"holding/service/s=c2#5"}},
		{"the record names one host, another runs it under a newer right", func(w *fleet.World) {
			h := w.State.Holdings[service]
			h.Host = "c1"
			w.State.Holdings[service] = h
			report(w, "c2", func(r *fleet.Report) {
				r.Services["s"] = fleet.ServiceState{Phase: fleet.Running, Ready: true, Generation: 9}
			})
		}, []string{"holding/service/s=c2#10"}},
		{"a service that runs nowhere: above what the hosts know", func(w *fleet.World) {
			forgot(w, service)
			for _, host := range []string{"c1", "c2", "c3"} {
				report(w, host, func(r *fleet.Report) { r.Services["s"] = fleet.ServiceState{Phase: fleet.Stopped, Generation: 7} })
			}
		}, []string{"holding/service/s=c2#8"}},
		{"its holder refuses lower ones than it has seen", func(w *fleet.World) {
			report(w, "c2", func(r *fleet.Report) { r.Services["s"] = fleet.ServiceState{Phase: fleet.Stopped, Generation: 9} })
		}, []string{"holding/service/s=c2#10"}},
		{"a service waits for the word of each host", func(w *fleet.World) {
			forgot(w, service)
			report(w, "c2", func(r *fleet.Report) { r.Services["s"] = fleet.ServiceState{Phase: fleet.Stopped} })
			delete(w.Heard, "c3")
			delete(w.Reports, "c3")
		}, []string{"host/c3 waits", "service/s waits"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := small()
			c.change(&w)
			_, p := Turn(w)
			if diff := cmp.Diff(c.want, brief(p)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLearning: a leader that has just begun, and has no report yet of a host that
// it hears, leaves every HAProxy as it is; not for long, and not for a host that is
// silent.
func TestLearning(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*fleet.World)
		want   bool
	}{
		{"all have reported", func(*fleet.World) {}, true},
		{"one has not", func(w *fleet.World) { delete(w.Reports, "c3") }, false},
		{"one has not for long", func(w *fleet.World) { delete(w.Reports, "c3"); w.Since = w.Now.Add(-time.Minute) }, true},
		{"one is silent", func(w *fleet.World) { lapse(*w, "c3"); delete(w.Reports, "c3") }, true},
	} {
		w := small()
		w.Since = w.Now.Add(-100 * ms)
		w.Spec.Services = append(w.Spec.Services, fleet.Service{Name: "web", Mode: fleet.ActiveActive, Roles: []string{"controller"}, Listen: fleet.Listen{Port: 80}})
		for _, r := range w.Reports {
			r.Services["haproxy"] = fleet.ServiceState{Phase: fleet.Running, Ready: true}
			r.Services["web"] = fleet.ServiceState{Phase: fleet.Running, Ready: true}
		}
		c.change(&w)
		_, p := Turn(w)
		routed := false
		for _, o := range p.Orders {
			routed = routed || o.Verb == fleet.VerbRoute
		}
		if routed != c.want {
			t.Errorf("%s: routed: %v", c.name, routed)
		}
	}
}
