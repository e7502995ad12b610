package plan

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// lostDisk is computed with the server's disk on n1, which is waited for since so long.
func lostDisk(since time.Duration) fleet.World {
	w := computed()
	w.Spec.OpenStack.LocalDisks = fleet.LocalDisks{Hosts: []string{"n1", "n2", "n3"}, Wait: 10 * time.Minute}
	w.State.Returns = map[string]fleet.Return{"n1": {Host: "n1", Boot: "b", Since: w.Wall.Add(-since)}}
	w.State.Departures = map[string]fleet.Departure{}
	s := w.Cloud.Servers["vm"]
	s.Image = "first"
	w.Cloud.Servers["vm"] = s
	w.Cloud.Images = map[string]fleet.Images{"vm": {At: w.Cloud.At, List: []fleet.Image{
		{ID: "new", Server: "vm", Status: fleet.ImageActive, Made: w.Wall.Add(-time.Hour)}, {ID: "old", Server: "vm", Status: fleet.ImageActive, Made: w.Wall.Add(-7 * time.Hour)},
		{ID: "half", Server: "vm", Status: "saving", Made: w.Wall.Add(-time.Minute)},
	}}}
	return w
}

// deeds are what a plan does about the server and its host, in short words.
func deeds(p fleet.Plan) (out []string) {
	for _, r := range p.Records {
		var e fleet.Evacuation
		switch {
		case strings.HasPrefix(r.Key, "return/"):
			out = append(out, r.Key+map[bool]string{true: " forgotten"}[r.Value == nil])
		case r.Key == "evacuation/vm" && json.Unmarshal(r.Value, &e) == nil:
			word := "try to " + e.To
			if e.Restore.Image != "" {
				word += " for " + e.Restore.Image + " was " + e.Was + map[bool]string{true: " owed"}[e.Restore.Owed]
			}
			if e.Restore.Try > 0 {
				word = "restore " + e.Restore.Image
			}
			if e.Restore.Here && e.Restore.Try == 0 {
				word = "here"
			}
			if e.Ended != "" {
				word = "ended " + e.Ended
			}
			out = append(out, word)
		case r.Key == "departure/vm" && strings.Contains(string(r.Value), "started anew with it"):
			out = append(out, "departure over")
		case strings.HasPrefix(r.Key, "holding/compute/n1"):
			out = append(out, "n1 settled")
		}
	}
	for _, o := range p.Orders {
		switch {
		case o.Verb == fleet.VerbPowerOn:
			out = append(out, "on "+o.Target.Host)
		case strings.HasPrefix(o.Thing, "server/"):
			word := o.Step
			if o.With != "" {
				word += " " + o.With
			}
			if o.Mark != "" {
				word += " " + o.Mark
			}
			out = append(out, word)
		}
	}
	return out
}

// TestDisks: a host that has the disks of its servers is turned on first and waited for; then they
// are evacuated for their newest snapshots, and those that have none stay.
func TestDisks(t *testing.T) {
	back := func(w fleet.World) {
		reboot(w, "n1", "x")
		w.Heard["n1"] = fleet.Heard{Stint: w.Heard["n1"].Stint, Last: w.Now, Nets: w.Heard["n2"].Nets, Leased: true}
		w.State.Proofs["n1"] = fleet.Proof{Host: "n1", Boot: "b", Kind: "reboot"}
		w.State.Members["n1"] = fleet.Member{Host: "n1", Admitted: "x"}
	}
	says := func(w fleet.World, key, value string) {
		s := w.Cloud.Servers["vm"]
		s.Metadata = map[string]string{key: value}
		w.Cloud.Servers["vm"] = s
	}
	// n1 died while it was live-migrated to n3, which says this of its guests.
	astray := func(w fleet.World, g fleet.Guests) {
		s := w.Cloud.Servers["vm"]
		s.Task, s.Live = fleet.TaskMigrating, fleet.Migration{ID: 3, Status: "running", From: "n1", To: "n3"}
		w.Cloud.Servers["vm"] = s
		p := w.State.Proofs["n1"]
		p.At = w.Wall.Add(-absentFor - time.Second)
		w.State.Proofs["n1"] = p
		r := w.Reports["n3"]
		r.Guests = g
		w.Reports["n3"] = r
	}
	for _, c := range []struct {
		name   string
		since  time.Duration
		change func(w fleet.World)
		want   []string
	}{
		{"that it is waited for is recorded", 0, func(w fleet.World) { delete(w.State.Returns, "n1") }, []string{"return/n1", "on n1"}},
		{"and of a former boot counts for nothing", time.Hour, func(w fleet.World) {
			w.State.Returns["n1"] = fleet.Return{Host: "n1", Boot: "a", Since: w.Wall.Add(-time.Hour)}
		}, []string{"return/n1", "return/n1 forgotten", "on n1"}},
		{"not while it is kept off for something else", 0, func(w fleet.World) {
			delete(w.State.Returns, "n1")
			w.State.Holdings["service/s"] = fleet.Holding{Thing: "service/s", Host: "n1", Boot: "b", Generation: 1}
		}, nil},
		{"nor while it was fenced so often that it is not turned on", 0, func(w fleet.World) {
			delete(w.State.Returns, "n1")
			m := w.State.Members["n1"]
			m.Fenced = []time.Time{w.Wall.Add(-40 * time.Minute), w.Wall.Add(-25 * time.Minute), w.Wall.Add(-12 * time.Minute)}
			w.State.Members["n1"] = m
		}, nil},
		{"but once the first of these is long ago", 0, func(w fleet.World) {
			delete(w.State.Returns, "n1")
			m := w.State.Members["n1"]
			m.Fenced = []time.Time{w.Wall.Add(-61 * time.Minute), w.Wall.Add(-25 * time.Minute), w.Wall.Add(-12 * time.Minute)}
			w.State.Members["n1"] = m
		}, []string{"return/n1", "on n1"}},
		{"nor while it writes its dump", 0, func(w fleet.World) {
			delete(w.State.Returns, "n1")
			p := w.State.Proofs["n1"]
			p.Kind = "kdump"
			w.State.Proofs["n1"] = p
			c3 := w.Reports["c3"]
			c3.Dumps = map[string]time.Time{"n1": w.Wall.Add(-11 * time.Minute)}
			w.Reports["c3"] = c3
		}, nil},
		{"it is waited for", 9 * time.Minute, nil, []string{"on n1"}},
		{"its time is over: for the newest that is whole", 11 * time.Minute, nil, []string{"try to n2 for new was active"}},
		{"it is back, though not fit for servers yet", 11 * time.Minute, func(w fleet.World) {
			back(w)
			w.State.Members["n1"] = fleet.Member{Host: "n1", Admitted: "b", Barred: "fenced"}
		}, nil},
		{"it is back: its next boot has them", 9 * time.Minute, back, []string{"n1 settled"}},
		{"it is back, and Nova calls the server broken: nova-compute would not start it", 9 * time.Minute, func(w fleet.World) {
			back(w)
			s := w.Cloud.Servers["vm"]
			s.State = fleet.ServerError
			w.Cloud.Servers["vm"] = s
		}, []string{"reset active"}},
		{"but one that came from another host, and was not restored yet, must not be started", 9 * time.Minute, func(w fleet.World) {
			back(w)
			s := w.Cloud.Servers["vm"]
			s.State, s.Image, s.Migration = fleet.ServerError, "new", fleet.Migration{ID: 7, Status: "done", From: "n3", To: "n1"}
			w.Cloud.Servers["vm"] = s
			w.State.Evacuations["vm"] = fleet.Evacuation{Server: "vm", From: "n3", Boot: "a", Was: fleet.ServerActive, Try: 1, To: "n1", Epoch: w.Epoch, At: w.Wall.Add(-time.Hour), Restore: fleet.Restore{Image: "new", Try: 1, At: w.Wall, Epoch: w.Epoch}}
		}, []string{"n1 settled", "told server/vm"}},
		{"there is no snapshot: it stays", time.Hour, func(w fleet.World) { w.Cloud.Images["vm"] = fleet.Images{At: w.Cloud.At} }, []string{"on n1"}},
		{"there is none that is whole", time.Hour, func(w fleet.World) {
			w.Cloud.Images["vm"] = fleet.Images{At: w.Cloud.At, List: w.Cloud.Images["vm"].List[2:]}
		}, []string{"on n1"}},
		{"there is none, and its owner says that it may begin anew", time.Hour, func(w fleet.World) {
			w.Cloud.Images["vm"] = fleet.Images{At: w.Cloud.At}
			says(w, fleet.MetaRebuild, "True")
		}, []string{"try to n2"}},
		{"which waits for the host too", time.Minute, func(w fleet.World) {
			w.Cloud.Images["vm"] = fleet.Images{At: w.Cloud.At}
			says(w, fleet.MetaRebuild, "True")
		}, []string{"on n1"}},
		{"Glance has not answered: nobody knows", time.Hour, func(w fleet.World) { delete(w.Cloud.Images, "vm"); says(w, fleet.MetaRebuild, "True") }, []string{"on n1"}},
		{"one that was to be live-migrated from a former boot is on this one: that is over", 0, func(w fleet.World) {
			live(w)
			delete(w.State.Returns, "n1")
			w.State.Departures["vm"] = fleet.Departure{Server: "vm", From: "n1", Boot: "a", To: "n2", Try: 1, Epoch: w.Epoch, At: w.Wall.Add(-time.Hour)}
		}, []string{"departure over"}},
		{"it boots from a volume: at once", 0, func(w fleet.World) {
			s := w.Cloud.Servers["vm"]
			s.Volume = true
			w.Cloud.Servers["vm"] = s
		}, []string{"try to n2"}},
		{"its host's disks are shared: at once", 0, func(w fleet.World) { w.Spec.OpenStack.LocalDisks.Hosts[0] = "n9" }, []string{"try to n2"}},
		{"its guest may be at the target of a live migration: it is not known where its disk is", time.Hour, func(w fleet.World) { astray(w, fleet.Guests{}) }, []string{"told server/vm"}},
		{"the target has it: for a person", time.Hour, func(w fleet.World) {
			astray(w, fleet.Guests{Asked: true, Listed: true, Machines: []string{"vm"}})
		}, []string{"told server/vm"}},
		{"and no time runs meanwhile", 0, func(w fleet.World) {
			astray(w, fleet.Guests{})
			delete(w.State.Returns, "n1")
		}, []string{"told server/vm"}},
		{"the target has no such machine: its host is waited for as any other", 9 * time.Minute, func(w fleet.World) { astray(w, fleet.Guests{Asked: true, Listed: true}) }, []string{"on n1"}},
		{"and it is restored elsewhere after that", 11 * time.Minute, func(w fleet.World) { astray(w, fleet.Guests{Asked: true, Listed: true}) }, []string{"try to n2 for new was active"}},
		{"so it is when the target is dead too", 9 * time.Minute, func(w fleet.World) {
			astray(w, fleet.Guests{})
			falls(w, "n3")
		}, []string{"on n1", "on n3"}},
		{"it has left for another host, and has not its data yet: its old disk is kept", time.Hour, func(w fleet.World) {
			s := w.Cloud.Servers["vm"]
			s.ID, s.Name = "other", "other"
			w.Cloud.Servers["other"] = s
			w.Cloud.Images["other"] = fleet.Images{At: w.Cloud.At}
			s.ID, s.Host, s.Task, s.Migration = "vm", "n2", "rebuilding", fleet.Migration{ID: 7, Status: "done", From: "n1", To: "n2"}
			w.Cloud.Servers["vm"] = s
			w.State.Evacuations["vm"] = fleet.Evacuation{Server: "vm", From: "n1", Boot: "b", Was: fleet.ServerActive, Try: 1, To: "n2", Epoch: w.Epoch, At: w.Wall, Restore: fleet.Restore{Image: "new", Try: 1, At: w.Wall, Epoch: w.Epoch}}
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := lostDisk(c.since)
			for host := range w.Reports {
				said(&w, host, 0)
			}
			if c.change != nil {
				c.change(w)
			}
			_, p := Turn(w)
			got := deeds(p)
			for _, x := range p.Waits {
				if x.About == "server/vm" {
					got = append(got, "told server/vm")
				}
			}
			if c.since == 0 && len(got) > 0 && got[0] == "return/n1" { // its order may come with it or after it
				got = slices.DeleteFunc(got, func(s string) bool { return s == "on n1" })
				c.want = slices.DeleteFunc(c.want, func(s string) bool { return s == "on n1" })
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("it does %q, want %q; waits %+v", got, c.want, p.Waits)
			}
		})
	}
}

// TestRestore: a server that has arrived without its disk is rebuilt from its snapshot, once.
func TestRestore(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *fleet.World, e *fleet.Evacuation, s *fleet.Server)
		want   []string
	}{
		{"it has not arrived: asked for so that it stays stopped", func(w *fleet.World, e *fleet.Evacuation, s *fleet.Server) {
			s.Host, s.Migration, e.At = "n1", fleet.Migration{}, w.Wall
		}, []string{"evacuate n2 stopped"}},
		{"first it is recorded", nil, []string{"restore new"}},
		{"then Nova is asked", func(w *fleet.World, e *fleet.Evacuation, _ *fleet.Server) {
			e.Restore.Try, e.Restore.Epoch, e.Restore.At = 1, w.Epoch, w.Wall
		}, []string{"rebuild new"}},
		{"not late", func(w *fleet.World, e *fleet.Evacuation, _ *fleet.Server) {
			e.Restore.Try, e.Restore.Epoch, e.Restore.At = 1, w.Epoch, w.Wall.Add(-askWithin-time.Second)
		}, nil},
		{"nor by the next leader", func(w *fleet.World, e *fleet.Evacuation, _ *fleet.Server) {
			e.Restore.Try, e.Restore.Epoch, e.Restore.At = 1, w.Epoch-1, w.Wall
		}, nil},
		{"until nothing of it can come any more", func(w *fleet.World, e *fleet.Evacuation, _ *fleet.Server) {
			e.Restore.Try, e.Restore.Epoch, e.Restore.At = 1, w.Epoch-1, w.Wall.Add(-cloudLasts-time.Second)
		}, []string{"restore new"}},
		{"Nova shows it under way", func(w *fleet.World, e *fleet.Evacuation, s *fleet.Server) {
			e.Restore.Try, e.Restore.Epoch, e.Restore.At = 1, w.Epoch-1, w.Wall.Add(-time.Hour)
			s.Image, s.Task = "new", "rebuilding"
		}, nil},
		{"its new host is down: it is not asked", func(w *fleet.World, _ *fleet.Evacuation, s *fleet.Server) {
			v := w.Cloud.Computes["n2"]
			v.Up = false
			w.Cloud.Computes["n2"] = v
		}, nil},
		{"it has it: started", func(w *fleet.World, e *fleet.Evacuation, s *fleet.Server) {
			e.Restore.Try, e.Restore.Epoch, e.Restore.At = 1, w.Epoch, w.Wall
			s.Image, s.State = "new", fleet.ServerStopped
		}, []string{"start"}},
		{"it has it, and was stopped", func(_ *fleet.World, e *fleet.Evacuation, s *fleet.Server) {
			e.Was, s.Image, s.State = fleet.ServerStopped, "new", fleet.ServerStopped
		}, []string{"ended on n2"}},
		{"it was built from it before: nothing is overwritten", func(_ *fleet.World, _ *fleet.Evacuation, s *fleet.Server) {
			s.Image, s.State = "new", fleet.ServerActive
		}, []string{"ended on n2"}},
		{"the rebuild failed: again, after a pause", func(w *fleet.World, e *fleet.Evacuation, s *fleet.Server) {
			e.Restore.Try, e.Restore.Epoch, e.Restore.At = 1, w.Epoch, w.Wall.Add(-time.Minute)
			s.Image, s.State = "new", fleet.ServerError
		}, []string{"restore new"}},
		{"its image is gone: the next newest", func(w *fleet.World, e *fleet.Evacuation, s *fleet.Server) {
			e.Restore.Try, e.Restore.Epoch, e.Restore.At = 1, w.Epoch, w.Wall.Add(-time.Minute)
			w.Cloud.Images["vm"] = fleet.Images{At: w.Cloud.At, List: w.Cloud.Images["vm"].List[1:]}
			w.Flights[e.RestoreKey()] = fleet.Flight{Sent: w.Now.Add(-time.Minute), Tries: 1, Arrived: w.Now.Add(-time.Minute), Effect: &fleet.Effect{Outcome: fleet.Refused, Why: "Cannot find image for rebuild"}}
		}, []string{"restore old"}},
		{"its new host died too: what it was and is to be goes on", func(w *fleet.World, e *fleet.Evacuation, s *fleet.Server) {
			silent(*w, "n2", time.Minute)
			w.State.Proofs["n2"] = fleet.Proof{Host: "n2", Boot: "b", Kind: "fence", Evidence: "off twice"}
			w.State.Members["n2"] = fleet.Member{Host: "n2", Admitted: "b", Barred: "fenced"}
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Forced: true, Disabled: true, Reason: "mainstay: off", Zone: "nova"}
			w.Cloud.Looked["n2"] = w.Cloud.At
			w.State.Returns["n2"] = fleet.Return{Host: "n2", Boot: "b", Since: w.Wall.Add(-time.Hour)}
			s.State = fleet.ServerStopped
		}, []string{"try to n3 for new was active owed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := lostDisk(time.Hour)
			e := fleet.Evacuation{Server: "vm", Name: "vm", From: "n1", Boot: "b", Was: fleet.ServerActive, Try: 1, To: "n2", Epoch: w.Epoch, At: w.Wall.Add(-5 * time.Second), Restore: fleet.Restore{Image: "new", Made: w.Wall.Add(-time.Hour)}}
			s := w.Cloud.Servers["vm"]
			s.Host, s.State, s.Migration = "n2", fleet.ServerStopped, fleet.Migration{ID: 7, Status: "done", From: "n1", To: "n2"}
			if c.change != nil {
				c.change(&w, &e, &s)
			}
			w.State.Evacuations["vm"], w.Cloud.Servers["vm"] = e, s
			_, p := Turn(w)
			got := slices.DeleteFunc(deeds(p), func(s string) bool { return s == "n1 settled" || s == "on n1" || strings.HasPrefix(s, "return/") })
			if !slices.Equal(got, c.want) {
				t.Errorf("it does %q, want %q; waits %+v", got, c.want, p.Waits)
			}
		})
	}
}

// TestLostSince: history says how much is lost with a disk, by the proof that its host is dead, also where
// the next host dies before it has its data.
func TestLostSince(t *testing.T) {
	w := lostDisk(11 * time.Minute)
	proof := w.State.Proofs["n1"]
	proof.At = w.Wall.Add(-12*time.Minute - 300*time.Millisecond)
	w.State.Proofs["n1"] = proof
	decided := func(w fleet.World) (e fleet.Evacuation, text string) {
		t.Helper()
		_, p := Turn(w)
		for _, r := range p.Records {
			if r.Key == "evacuation/vm" {
				if err := json.Unmarshal(r.Value, &e); err != nil {
					t.Fatal(err)
				}
				text = r.Text
			}
		}
		if e.Server == "" {
			t.Fatalf("nothing is decided of the server: %+v", p)
		}
		return e, text
	}
	e, _ := decided(w)
	if !e.Restore.Dead.Equal(proof.At) {
		t.Errorf("its host was dead at %v, not %v", e.Restore.Dead, proof.At)
	}
	of := w.State.Proofs["n1"]
	of.Boot = "x" // it was proved dead once more, in a later boot
	w.State.Proofs["n1"] = of
	if e := newDecision(w).restored(fleet.Evacuation{Server: "vm", From: "n1", Boot: "b"}, w.Cloud.Servers["vm"]); e.Restore.Image != "new" || !e.Restore.Dead.IsZero() {
		t.Errorf("the proof is of another boot: %+v", e.Restore)
	}
	elder := lostDisk(11 * time.Minute)
	s := elder.Cloud.Servers["vm"]
	elder.State.Evacuations["vm"] = e
	s.Host, s.State, s.Migration = "n2", fleet.ServerStopped, fleet.Migration{ID: 7, Status: "done", From: "n1", To: "n2"}
	elder.Cloud.Servers["vm"] = s
	if _, text := decided(elder); !strings.HasSuffix(text, ": what it wrote in the 47m59s before its host's death is lost") {
		t.Errorf("history says %q", text)
	}
	silent(elder, "n2", time.Minute)
	elder.State.Proofs["n2"] = fleet.Proof{Host: "n2", Boot: "b", Kind: "fence", Evidence: "off twice", At: elder.Wall.Add(-time.Second)}
	elder.State.Members["n2"] = fleet.Member{Host: "n2", Admitted: "b", Barred: "fenced"}
	elder.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Forced: true, Disabled: true, Reason: "mainstay: off", Zone: "nova"}
	elder.Cloud.Looked["n2"] = elder.Cloud.At
	elder.State.Returns["n2"] = fleet.Return{Host: "n2", Boot: "b", Since: elder.Wall.Add(-time.Hour)}
	if e, _ := decided(elder); !e.Restore.Owed || !e.Restore.Dead.Equal(proof.At) {
		t.Errorf("its next host died too: %+v, and its data was lost with the first at %v", e.Restore, proof.At)
	}
	for _, r := range []fleet.Restore{{}, {Image: "new", Made: w.Wall}, {Made: w.Wall, Dead: w.Wall.Add(time.Hour)}, {Image: "new", Made: w.Wall, Dead: w.Wall.Add(-time.Hour)}} {
		if r.Lost() != "" {
			t.Errorf("of %+v it is said that %s", r, r.Lost())
		}
	}
}

// TestHome: a server whose try came to nothing keeps its disk when its host is back.
func TestHome(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w fleet.World, e *fleet.Evacuation, s *fleet.Server)
		want   []string
	}{
		{"its host is back: it stays, and is not called broken any more", nil, []string{"reset active"}},
		{"then its evacuation is over", func(_ fleet.World, _ *fleet.Evacuation, s *fleet.Server) { s.State = fleet.ServerActive }, []string{"ended its host is back, with its disk"}},
		{"its host is off yet", func(w fleet.World, _ *fleet.Evacuation, _ *fleet.Server) {
			w.Heard["n1"] = fleet.Heard{Stint: fleet.Stint{Host: "n1", Boot: "b"}}
		}, []string{"try to n3 for new was active"}},
		{"its next boot is not heard any more", func(w fleet.World, _ *fleet.Evacuation, _ *fleet.Server) {
			w.Heard["n1"] = fleet.Heard{Stint: w.Heard["n1"].Stint}
		}, []string{"try to n3 for new was active"}},
		{"its disk is shared", func(w fleet.World, _ *fleet.Evacuation, _ *fleet.Server) { w.Spec.OpenStack.LocalDisks.Hosts[0] = "n9" }, []string{"try to n3 for new was active"}},
		{"it was to be restored before it came here: its disk is worth nothing", func(_ fleet.World, e *fleet.Evacuation, _ *fleet.Server) { e.Restore.Owed = true }, []string{"try to n3 for new was active owed"}},
		{"the try may have taken it: a dead target has left it open", func(w fleet.World, _ *fleet.Evacuation, s *fleet.Server) {
			s.Migration = fleet.Migration{ID: 9, Status: "accepted", From: "n1", To: "n2"}
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Forced: true, Disabled: true, Zone: "nova"}
		}, []string{"try to n3 for new was active"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := lostDisk(time.Hour)
			reboot(w, "n1", "x")
			w.Heard["n1"] = fleet.Heard{Stint: w.Heard["n1"].Stint, Last: w.Now, Nets: w.Heard["n2"].Nets, Leased: true}
			w.State.Members["n1"] = fleet.Member{Host: "n1", Admitted: "x"}
			e := fleet.Evacuation{Server: "vm", From: "n1", Boot: "b", Was: fleet.ServerActive, Try: 1, To: "n2", After: 8, Epoch: w.Epoch, At: w.Wall.Add(-time.Minute), Restore: fleet.Restore{Image: "new", Made: w.Wall.Add(-time.Hour)}}
			s := w.Cloud.Servers["vm"]
			s.State, s.Migration = fleet.ServerError, fleet.Migration{ID: 9, Status: "error", From: "n1", To: "n2"}
			if c.change != nil {
				c.change(w, &e, &s)
			}
			w.State.Evacuations["vm"], w.Cloud.Servers["vm"] = e, s
			_, p := Turn(w)
			got := slices.DeleteFunc(deeds(p), func(s string) bool { return s == "on n1" || strings.HasPrefix(s, "return/") })
			if !slices.Equal(got, c.want) {
				t.Errorf("it does %q, want %q; waits %+v", got, c.want, p.Waits)
			}
		})
	}
}

// TestOwed: a server whose restore was cut short by the death of its next host, and that no other can take,
// is restored there once that is on again.
func TestOwed(t *testing.T) {
	here := func(e *fleet.Evacuation) { e.Restore.Here = true }
	lives := func(w fleet.World) { // its next boot has been given the right
		h := w.State.Holdings[Compute("n1")]
		h.From, h.Boot = h.Holder(), "x"
		w.State.Holdings[Compute("n1")] = h
		w.Cloud.Computes["n1"] = fleet.Compute{ID: "n1", Up: true, Zone: "nova", FreeRAM: 4096}
	}
	for _, c := range []struct {
		name   string
		change func(w fleet.World, e *fleet.Evacuation, s *fleet.Server)
		want   []string
	}{
		{"it is left open", nil, []string{"here"}},
		{"it must not run on that disk: it is called broken first", func(_ fleet.World, _ *fleet.Evacuation, s *fleet.Server) { s.State = fleet.ServerActive }, []string{"reset error"}},
		{"its host is given the right to run servers", func(_ fleet.World, e *fleet.Evacuation, _ *fleet.Server) { here(e) }, []string{"n1 settled"}},
		{"also when another could take it by then", func(w fleet.World, e *fleet.Evacuation, _ *fleet.Server) {
			here(e)
			e.To = "n3"
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true, Zone: "nova", FreeRAM: 4096}
		}, []string{"n1 settled"}},
		{"one that owes nothing has its disk", func(_ fleet.World, e *fleet.Evacuation, s *fleet.Server) {
			e.Restore.Owed = false
			s.State = fleet.ServerActive
		}, []string{"ended left to n1, which is on again: no other compute could take it"}},
		{"it is restored there", func(w fleet.World, e *fleet.Evacuation, _ *fleet.Server) { here(e); lives(w) }, []string{"restore new"}},
		{"it has its data", func(w fleet.World, e *fleet.Evacuation, s *fleet.Server) {
			here(e)
			lives(w)
			e.Restore.Try, e.Restore.Epoch, e.Restore.At = 1, w.Epoch, w.Wall
			s.Image, s.State = "new", fleet.ServerActive
		}, []string{"ended on n1"}},
		{"that boot died too: it goes elsewhere, where another can take it", func(w fleet.World, e *fleet.Evacuation, _ *fleet.Server) {
			here(e)
			e.Boot = "a"
			w.Heard["n1"] = fleet.Heard{Stint: fleet.Stint{Host: "n1", Boot: "b"}}
			w.State.Members["n1"] = fleet.Member{Host: "n1", Admitted: "b"}
			w.Cloud.Computes["n2"] = fleet.Compute{ID: "n2", Up: true, Zone: "nova", FreeRAM: 4096}
		}, []string{"try to n2 for new was active owed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := lostDisk(time.Hour)
			reboot(w, "n1", "x")
			w.Heard["n1"] = fleet.Heard{Stint: w.Heard["n1"].Stint, Last: w.Now, Nets: w.Heard["n2"].Nets, Leased: true}
			w.State.Members["n1"] = fleet.Member{Host: "n1", Admitted: "x"}
			for _, h := range []string{"n2", "n3"} {
				w.Cloud.Computes[h] = fleet.Compute{ID: h, Zone: "nova"}
			}
			e := fleet.Evacuation{Server: "vm", From: "n1", Boot: "b", Was: fleet.ServerActive, Try: 3, Tried: []string{"n2", "n3"}, After: 8, Epoch: w.Epoch, At: w.Wall.Add(-time.Minute),
				Restore: fleet.Restore{Image: "new", Made: w.Wall.Add(-time.Hour), Owed: true}}
			s := w.Cloud.Servers["vm"]
			s.State, s.Fault, s.Migration = fleet.ServerError, "No valid host", fleet.Migration{ID: 9, Status: "error", From: "n1"}
			if c.change != nil {
				c.change(w, &e, &s)
			}
			w.State.Evacuations["vm"], w.Cloud.Servers["vm"] = e, s
			_, p := Turn(w)
			got := slices.DeleteFunc(deeds(p), func(s string) bool { return s == "on n1" || strings.HasPrefix(s, "return/") })
			if !slices.Equal(got, c.want) {
				t.Errorf("it does %q, want %q; waits %+v", got, c.want, p.Waits)
			}
		})
	}
}
