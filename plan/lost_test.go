package plan

import (
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// lostStorage is the site of computed with all computes well, of which n2 has servers, and
// has been cut off from storage for d, by its own word and by the leader's ears.
func lostStorage(d time.Duration) fleet.World {
	w := computed()
	w.Spec.OpenStack.Lost = map[string]fleet.Loss{"storage": fleet.LossEvacuate}
	delete(w.State.Proofs, "n1")
	m := w.State.Members["n1"]
	m.Barred = ""
	w.State.Members["n1"] = m
	w.Heard["n1"] = w.Heard["n3"]
	h := w.Heard["n1"]
	h.Stint.Host = "n1"
	w.Heard["n1"] = h
	w.Cloud.Computes["n1"] = w.Cloud.Computes["n3"]
	w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true, Zone: "nova", FreeRAM: 4096, Servers: 2}
	unplug(w, "n2")
	w.State.Cutoffs = map[string]fleet.Cutoff{"n2": {Host: "n2", Networks: map[string]fleet.Lost{"storage": {Since: w.Wall.Add(-d), Why: "n2 has no link on storage"}}}}
	if d == 0 {
		w.State.Cutoffs = nil
	}
	return w
}

func unplug(w fleet.World, host string) {
	h, r := w.Heard[host], w.Reports[host]
	h.Nets = map[string]fleet.Moment{"management": w.Now, "storage": w.Now.Add(-time.Minute)}
	r.Links = map[string]bool{"management": true, "storage": false}
	w.Heard[host], w.Reports[host] = h, r
}

func plug(w fleet.World, host string) {
	h, r := w.Heard[host], w.Reports[host]
	h.Nets = map[string]fleet.Moment{"management": w.Now, "storage": w.Now}
	r.Links = map[string]bool{"management": true, "storage": true}
	w.Heard[host], w.Reports[host] = h, r
}

func TestLost(t *testing.T) {
	then := func(l fleet.Loss) func(*fleet.World) {
		return func(w *fleet.World) { w.Spec.OpenStack.Lost = map[string]fleet.Loss{"storage": l} }
	}
	for _, c := range []struct {
		name   string
		lost   time.Duration
		change func(w *fleet.World)
		want   string // what the plan does
	}{
		{"lost this moment: written down", 0, nil, "cutoff/n2"},
		{"by a leader that began just now: it may not hear yet", 0, func(w *fleet.World) { w.Since = w.Now.Add(-time.Second) }, ""},
		{"for a moment", 5 * time.Second, nil, ""},
		{"for a while", 12 * time.Second, nil, "disable n2, wait"},
		{"for a while, and a person has disabled it", 12 * time.Second, func(w *fleet.World) {
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true, Disabled: true, Reason: "ann: new fans", Servers: 2}
		}, "wait"},
		{"for long", 40 * time.Second, nil, "fence n2, disable n2, wait"},
		{"for long, and the file says alarm", 40 * time.Second, then(fleet.LossAlarm), "wait"},
		{"for long, and the file says disable", 40 * time.Second, then(fleet.LossDisable), "disable n2, wait"},
		{"for long, and the file says drain: nobody is fenced", 40 * time.Second, then(fleet.LossDrain), "disable n2, wait"},
		{"for long, and the file says nothing", 40 * time.Second, func(w *fleet.World) { w.Spec.OpenStack.Lost = nil }, "disable n2, wait"},
		{"for long, and it has no servers", 40 * time.Second, func(w *fleet.World) {
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true}
		}, "disable n2, wait"},
		{"for long, by the leader's word alone", 40 * time.Second, func(w *fleet.World) { w.Reports["n2"].Links["storage"] = true }, "disable n2, wait"},
		{"for long, by its own word alone", 40 * time.Second, func(w *fleet.World) { w.Heard["n2"].Nets["storage"] = w.Now }, "fence n2, disable n2, wait"},
		{"by more than the brake allows", 40 * time.Second, func(w *fleet.World) {
			for _, host := range []string{"n1", "n3"} {
				unplug(*w, host)
				w.State.Cutoffs[host] = fleet.Cutoff{Host: host, Networks: w.State.Cutoffs["n2"].Networks}
			}
		}, "wait, wait, wait"},
		{"and no other compute could take its servers", 40 * time.Second, func(w *fleet.World) {
			for _, host := range []string{"n1", "n3"} {
				m := w.State.Members[host]
				m.Barred = "fenced"
				w.State.Members[host] = m
			}
		}, "wait"},
		{"it is back", 40 * time.Second, func(w *fleet.World) { plug(*w, "n2") }, "cutoff/n2"},
		{"it is back, and not for long enough", 40 * time.Second, func(w *fleet.World) {
			plug(*w, "n2")
			w.State.Cutoffs["n2"].Networks["storage"] = fleet.Lost{Since: w.Wall.Add(-time.Hour), Back: w.Wall.Add(-50 * time.Second)}
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true, Disabled: true, Reason: disabledBy + "it is cut off from storage", Servers: 2}
		}, ""},
		{"it is lost again before that", 40 * time.Second, func(w *fleet.World) {
			w.State.Cutoffs["n2"].Networks["storage"] = fleet.Lost{Since: w.Wall.Add(-5 * time.Second), Back: w.Wall.Add(-time.Second)}
		}, "cutoff/n2"},
		{"it has been back for long enough", 40 * time.Second, func(w *fleet.World) {
			plug(*w, "n2")
			w.State.Cutoffs["n2"].Networks["storage"] = fleet.Lost{Since: w.Wall.Add(-time.Hour), Back: w.Wall.Add(-lostCalm)}
		}, "no cutoff/n2"},
		{"all is over", 0, func(w *fleet.World) {
			plug(*w, "n2")
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true, Disabled: true, Reason: disabledBy + "it is cut off from storage", Servers: 2}
		}, "enable n2"},
		{"a boot without the right to run servers does not get it before the network is back", 40 * time.Second, func(w *fleet.World) {
			w.State.Holdings[Compute("n2")] = fleet.Holding{Thing: Compute("n2"), Generation: 2}
		}, "wait"},
		{"and gets it as soon as it is", 40 * time.Second, func(w *fleet.World) {
			plug(*w, "n2")
			w.State.Cutoffs["n2"].Networks["storage"] = fleet.Lost{Since: w.Wall.Add(-time.Hour), Back: w.Wall.Add(-time.Second)}
			w.State.Holdings[Compute("n2")] = fleet.Holding{Thing: Compute("n2"), Generation: 2}
		}, "n2 may run servers"},
		{"a boot without that right is heard over one network before it is over the next", 0, func(w *fleet.World) {
			w.State.Holdings[Compute("n2")] = fleet.Holding{Thing: Compute("n2"), Generation: 2}
		}, "n2 may run servers"},
		{"a host that is silent everywhere is not judged network by network", 0, func(w *fleet.World) { silent(*w, "n2", time.Minute) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := lostStorage(c.lost)
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			if got := strings.Join(losses(p), ", "); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// losses is what a plan does about networks that computes lost.
func losses(p fleet.Plan) (out []string) {
	for _, r := range p.Records {
		kind, name, _ := strings.Cut(r.Key, "/")
		switch {
		case kind == "intent":
			out = append(out, "fence "+name)
		case kind == "holding":
			out = append(out, strings.TrimPrefix(name, "compute/")+" may run servers")
		case kind == "cutoff" && r.Value == nil:
			out = append(out, "no "+r.Key)
		case kind == "cutoff":
			out = append(out, r.Key)
		}
	}
	for _, o := range p.Orders {
		if o.Verb == fleet.VerbCloud {
			_, host, _ := strings.Cut(o.Thing, "/")
			out = append(out, o.Step+" "+host)
		}
	}
	for _, x := range p.Waits {
		if strings.Contains(x.For, "storage to be back") {
			out = append(out, "wait")
		}
	}
	return out
}

// TestProving: a host that beats slowly and was fenced while it was heard is neither
// living nor dead before its silence says the same as the proof, and a beat voids it.
func TestProving(t *testing.T) {
	proved := func(last time.Duration) fleet.World {
		w := lostStorage(40 * time.Second)
		m := w.State.Members["n2"]
		m.Barred, m.Tried = "fenced", fleet.Tries{Boot: "b", Count: 1}
		w.State.Members["n2"] = m
		p := fleet.Proof{Host: "n2", Boot: "b", Kind: "fence", Evidence: "off twice"}
		w.State.Proofs["n2"] = p
		w.Flights["fence/n2/b/1"] = fleet.Flight{Arrived: w.Now.Add(-time.Second), Effect: &fleet.Effect{Outcome: fleet.Done, Proof: &p},
			Order: fleet.Order{Verb: fleet.VerbFence, Target: fleet.Stint{Host: "n2", Boot: "b"}}}
		h := w.Heard["n2"]
		h.Last = w.Now.Add(-last)
		h.Nets = map[string]fleet.Moment{"management": h.Last, "storage": w.Now.Add(-time.Minute)}
		w.Heard["n2"] = h
		return w
	}
	records := func(w fleet.World) (out []string) {
		_, p := Turn(w)
		for _, r := range p.Records {
			out = append(out, r.Key)
		}
		for _, o := range p.Orders {
			out = append(out, string(o.Verb)+" "+o.Step)
		}
		slices.Sort(out)
		return out
	}
	if got := records(proved(1500 * time.Millisecond)); !slices.Equal(got, []string{"cloud disable"}) {
		t.Errorf("its last beat is older than the proof, and %q follow", got)
	}
	if got := records(proved(500 * time.Millisecond)); !slices.Contains(got, "proof/n2") {
		t.Errorf("it has beaten since, and the proof stands: %q", got)
	}
	if got := records(proved(10 * time.Second)); !slices.Contains(got, "cloud force-down") {
		t.Errorf("it has been silent since, and %q follow", got)
	}
}

// TestPassedBy: a compute at rest costs a turn no thought, and the least thing that is wrong with one of them is seen: by its
// own word or by what is heard of it, and what Nova says of it.
func TestPassedBy(t *testing.T) {
	for _, c := range []struct {
		name, record, order string
		change              func(w *fleet.World, host string)
	}{
		{name: "all is well", change: func(*fleet.World, string) {}},
		{name: "it has no link", record: "cutoff/n0004", change: func(w *fleet.World, host string) { w.Reports[host].Links["tenant"] = false }},
		{name: "it is not heard there", record: "cutoff/n0004", change: func(w *fleet.World, host string) { w.Heard[host].Nets["tenant"] = w.Now.Add(-time.Minute) }},
		{name: "it was cut off", record: "cutoff/n0004", change: func(w *fleet.World, host string) {
			w.State.Cutoffs = map[string]fleet.Cutoff{host: {Host: host, Networks: map[string]fleet.Lost{"tenant": {Since: w.Wall.Add(-time.Hour), Why: "cut"}}}}
		}},
		{name: "it is forced down", order: fleet.CloudLift, change: func(w *fleet.World, host string) {
			w.Cloud.Computes = map[string]fleet.Compute{host: {ID: host, Forced: true, Up: true}}
		}},
		{name: "it is disabled", order: fleet.CloudEnable, change: func(w *fleet.World, host string) {
			w.Cloud.Computes = map[string]fleet.Compute{host: {ID: host, Disabled: true, Reason: disabledBy + "it was dead", Up: true}}
		}},
		{name: "Nova has it as it is", change: func(w *fleet.World, host string) {
			w.Cloud.Computes = map[string]fleet.Compute{host: {ID: host, Up: true}}
		}},
	} {
		w := computes(6)
		w.Cloud.At = w.Now
		const host = "n0004"
		h := w.State.Holdings[Compute(host)]
		h.From = fleet.Stint{Host: host, Boot: "a"}
		w.State.Holdings[Compute(host)] = h
		c.change(&w, host)
		_, p := Turn(w)
		var records, orders []string
		for _, r := range p.Records {
			records = append(records, r.Key)
		}
		for _, o := range p.Orders {
			orders = append(orders, o.Step)
		}
		if got := strings.Join(records, " "); got != c.record {
			t.Errorf("%s: records %q, want %q", c.name, got, c.record)
		}
		if got := strings.Join(orders, " "); got != c.order {
			t.Errorf("%s: orders %q, want %q", c.name, got, c.order)
		}
	}
}
