package plan

import (
	"slices"
	"strings"
	"testing"

	"mainstay/fleet"
)

// TestStranded: a fenced compute whose servers have nowhere to go is turned on, and its next
// boot gets them; not while one of them could still go, or is on its way.
func TestStranded(t *testing.T) {
	compute := func(w fleet.World, host string, change func(*fleet.Compute)) {
		c := w.Cloud.Computes[host]
		change(&c)
		w.Cloud.Computes[host] = c
	}
	gone := func(w fleet.World) {
		for _, host := range []string{"n2", "n3"} {
			compute(w, host, func(c *fleet.Compute) { c.Disabled = true })
		}
	}
	// refused is a try that ended by Nova's own record.
	refused := func(w fleet.World, to string, change func(*fleet.Server)) {
		e := evacuating(w, func(e *fleet.Evacuation) { e.Try, e.To, e.After = 2, to, 6 })
		answered(w, e, fleet.Done)
		s := w.Cloud.Servers["vm"]
		s.State, s.Fault, s.Migration = fleet.ServerError, "No valid host was found.", fleet.Migration{ID: 7, Status: "error", From: "n1"}
		if change != nil {
			change(&s)
		}
		w.Cloud.Servers["vm"] = s
	}
	back := func(w fleet.World) {
		reboot(w, "n1", "x")
		w.Heard["n1"] = fleet.Heard{Stint: w.Heard["n1"].Stint, Last: w.Now, Nets: w.Heard["n2"].Nets, Leased: true}
		w.State.Proofs["n1"] = fleet.Proof{Host: "n1", Boot: "b", Kind: "reboot"}
		w.State.Members["n1"] = fleet.Member{Host: "n1", Admitted: "x"}
	}
	const on, asks, held = "power-on n1", "evacuation/vm try 1 to ", "held off"
	for _, c := range []struct {
		name   string
		change func(w fleet.World)
		want   []string
	}{
		{"another compute can take it", func(fleet.World) {}, []string{asks + "n2", held}},
		{"all others are disabled: Nova is not asked, and its host is turned on", gone, []string{on}},
		{"all others are down", func(w fleet.World) {
			for _, host := range []string{"n2", "n3"} {
				compute(w, host, func(c *fleet.Compute) { c.Up = false })
			}
		}, []string{on}},
		{"the others have died, and Nova believes in them", func(w fleet.World) {
			silent(w, "n2", 10*w.Spec.Timing.SlowBeat)
			silent(w, "n3", 10*w.Spec.Timing.SlowBeat)
		}, []string{on}},
		{"one that is not Mainstay's can take it", func(w fleet.World) {
			gone(w)
			w.Cloud.Computes["x9"] = fleet.Compute{ID: "x9", Up: true, Zone: "nova"}
		}, []string{asks, held}},
		{"but not in another zone than its owner wants", func(w fleet.World) {
			gone(w)
			w.Cloud.Computes["x9"] = fleet.Compute{ID: "x9", Up: true, Zone: "far"}
			s := w.Cloud.Servers["vm"]
			s.Zone = "nova"
			w.Cloud.Servers["vm"] = s
		}, []string{on}},
		{"Nova found no host", func(w fleet.World) { refused(w, "", nil) }, []string{on}},
		{"one host was refused, another can be asked", func(w fleet.World) { refused(w, "n2", nil) }, []string{held}},
		{"one host was refused, and no other is left", func(w fleet.World) { refused(w, "n2", nil); gone(w) }, []string{on}},
		{"a try is on its way", func(w fleet.World) {
			refused(w, "", func(s *fleet.Server) { s.Migration.Status, s.Task = "accepted", "rebuilding" })
		}, []string{held}},
		{"a try has left a task", func(w fleet.World) {
			refused(w, "", func(s *fleet.Server) { s.Task = "rebuilding" })
		}, []string{held}},
		{"a try was asked for, and Nova shows no trace of it yet", func(w fleet.World) {
			gone(w)
			answered(w, evacuating(w, nil), fleet.NoWord)
		}, []string{held}},
		{"the try that ended is not the newest one", func(w fleet.World) {
			refused(w, "", nil)
			gone(w)
			e := w.State.Evacuations["vm"]
			e.After = 7
			w.State.Evacuations["vm"] = e
			answered(w, e, fleet.NoWord)
		}, []string{held}},
		{"Nova does not answer", func(w fleet.World) { refused(w, "", nil) }, []string{held}},
		{"its servers were not listed since", func(w fleet.World) { gone(w); w.Cloud.Looked["n1"] = w.Cloud.At.Add(-ms) }, []string{held}},
		{"one of two can go", func(w fleet.World) {
			refused(w, "", nil)
			w.Cloud.Servers["vm2"] = fleet.Server{ID: "vm2", Name: "vm2", Host: "n1", State: fleet.ServerActive, RAM: 512}
		}, []string{"evacuation/vm2 try 1 to n2", held}},
		{"one of two is left to its owner", func(w fleet.World) {
			refused(w, "", nil)
			w.Cloud.Servers["vm2"] = fleet.Server{ID: "vm2", Name: "vm2", Host: "n1", State: fleet.ServerActive, RAM: 512, Metadata: map[string]string{"HA_Enabled": "false"}}
		}, []string{on}},
		{"its host is back: first it is called active again", func(w fleet.World) { refused(w, "", nil); back(w) }, []string{"c1: reset server/vm to active"}},
		{"it was, and Nova has not been looked at since", func(w fleet.World) {
			refused(w, "", nil)
			back(w)
			at := w.Now.Add(-2 * restMin)
			w.Flights["reset/vm/b/2"] = fleet.Flight{Arrived: at, Effect: &fleet.Effect{Outcome: fleet.Done}}
			w.Cloud.Looked["n1"] = at // by a look that began before; see below
		}, nil},
		{"and nobody tries to evacuate it beside", func(w fleet.World) {
			refused(w, "", nil)
			e := w.State.Evacuations["vm"]
			e.At = w.Wall.Add(-evacuatePause)
			w.State.Evacuations["vm"] = e
			back(w)
		}, []string{"c1: reset server/vm to active"}},
		{"then it is left to it", func(w fleet.World) {
			refused(w, "", func(s *fleet.Server) { s.State = fleet.ServerActive })
			back(w)
		}, []string{"evacuation/vm try 2 to : left to n1, which is on again: no other compute could take it"}},
		{"one that was broken before stays so", func(w fleet.World) {
			refused(w, "", nil)
			e := w.State.Evacuations["vm"]
			e.Was = fleet.ServerError
			w.State.Evacuations["vm"] = e
			back(w)
		}, []string{"evacuation/vm try 2 to : left to n1, which is on again: no other compute could take it"}},
		{"then its host may run it", func(w fleet.World) {
			refused(w, "", func(s *fleet.Server) { s.State = fleet.ServerActive })
			e := w.State.Evacuations["vm"]
			e.Ended = stayed + "n1"
			w.State.Evacuations["vm"] = e
			back(w)
		}, []string{"holding/compute/n1=n1#2"}},
		{"it is dead again: it is evacuated", func(w fleet.World) {
			refused(w, "", func(s *fleet.Server) { s.State = fleet.ServerActive })
			e := w.State.Evacuations["vm"]
			e.Ended = stayed + "n1"
			w.State.Evacuations["vm"] = e
		}, []string{asks + "n2", on}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := computed()
			c.change(w)
			switch c.name { // these change what is no map
			case "Nova does not answer":
				w.Cloud.Away = "no answer"
			case "it was, and Nova has not been looked at since":
				w.Cloud.At = w.Cloud.Looked["n1"]
			}
			_, p := Turn(w)
			got := slices.DeleteFunc(evacuations(p), func(line string) bool { return strings.HasSuffix(line, "waits") })
			for _, o := range p.Orders {
				if o.Verb == fleet.VerbPowerOn {
					got = append(got, "power-on "+o.Target.Host)
				}
			}
			for _, x := range p.Waits {
				if x.About == "host/n1" && strings.Contains(x.For, "before it is turned on again") {
					got = append(got, held)
				}
			}
			slices.Sort(c.want)
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}
