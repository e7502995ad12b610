package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// surveyed is the site of computed with n1 alive and its server vm on it, and a survey of it:
// n1 to n3 have 4 GiB, 16 vcpus and 100 GB left each.
func surveyed() (fleet.World, fleet.Survey) {
	w := computed()
	now := w.Now
	w.Heard["n1"] = fleet.Heard{Stint: fleet.Stint{Host: "n1", Boot: "b", N: w.Heard["n2"].Stint.N}, Last: now, Leased: true, Nets: w.Heard["n2"].Nets}
	delete(w.State.Proofs, "n1")
	m := w.State.Members["n1"]
	m.Barred = ""
	w.State.Members["n1"] = m
	w.Cloud.Computes["n1"] = fleet.Compute{ID: "n1", Up: true, Zone: "nova", FreeRAM: 4096}
	vm := w.Cloud.Servers["vm"]
	w.Cloud.Servers, w.Cloud.Looked = nil, nil
	w.Verdicts = nil
	w, _ = Turn(w)
	s := fleet.Survey{Whole: true, Rooms: map[string]fleet.Room{}, Servers: map[string]fleet.Server{"vm": vm}, Needs: map[string]fleet.Need{"vm": needs(512, 1)}}
	for _, h := range []string{"n1", "n2", "n3"} {
		s.Rooms[h] = fleet.Room{Left: map[string]int{fleet.ClassMemory: 4096, fleet.ClassVCPU: 16, fleet.ClassDisk: 100}, Whole: map[string]int{fleet.ClassVCPU: 8}, Traits: map[string]bool{}}
	}
	return w, s
}

func needs(ram, vcpus int) fleet.Need {
	return fleet.Need{Resources: map[string]int{fleet.ClassMemory: ram, fleet.ClassVCPU: vcpus, fleet.ClassDisk: 1}}
}

// also puts a further server on n1.
func also(s *fleet.Survey, id string, n fleet.Need, change func(*fleet.Server)) {
	v := fleet.Server{ID: id, Name: id, Host: "n1", State: fleet.ServerActive, RAM: n.Resources[fleet.ClassMemory], Created: id}
	if change != nil {
		change(&v)
	}
	s.Servers[id], s.Needs[id] = v, n
}

// told is a preview of n1's death in a few words: "vm n2 moves 1; ...".
func told(p fleet.Preview) string {
	var out []string
	for _, f := range p.Fates {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %d", f.Server, f.To, f.State, f.Tries)))
	}
	return strings.Join(out, "; ")
}

func TestForesee(t *testing.T) {
	room := func(s *fleet.Survey, class string, left int, hosts ...string) {
		for _, h := range hosts {
			s.Rooms[h].Left[class] = left
		}
	}
	// reserve keeps n3 in reserve, and leaves n2 so much memory.
	reserve := func(w *fleet.World, zone string, left int) {
		w.Spec.OpenStack.Reserved = []string{"n3"}
		w.Cloud.Computes["n3"] = fleet.Compute{ID: "n3", Up: true, Disabled: true, Reason: disabledBy + "it is kept in reserve", Zone: zone, FreeRAM: 4096}
		c := w.Cloud.Computes["n2"]
		c.FreeRAM = left
		w.Cloud.Computes["n2"] = c
	}
	for _, c := range []struct {
		name   string
		change func(*fleet.World, *fleet.Survey)
		want   string
		why    string // of the last server
	}{
		{"all is well", func(*fleet.World, *fleet.Survey) {}, "vm n2 moves 1", ""},
		{"a reserve is left alone while another has room", func(w *fleet.World, _ *fleet.Survey) { reserve(w, "nova", 4096) }, "vm n2 moves 1", ""},
		{"a reserve, for what fits nowhere else", func(w *fleet.World, s *fleet.Survey) {
			reserve(w, "nova", 100)
			also(s, "zz", needs(512, 1), nil)
		}, "vm n3 moves 1; zz n3 moves 1", ""},
		{"a reserve without the memory, by Nova's count", func(w *fleet.World, s *fleet.Survey) {
			reserve(w, "nova", 100)
			c := w.Cloud.Computes["n3"]
			c.FreeRAM = 256
			w.Cloud.Computes["n3"] = c
			room(s, fleet.ClassMemory, 256, "n2")
		}, "vm  does not fit 1", "no compute takes it: disabled on 1, memory on 1"},
		{"a reserve of another zone", func(w *fleet.World, s *fleet.Survey) {
			reserve(w, "other", 100)
			room(s, fleet.ClassMemory, 256, "n2")
		}, "vm  does not fit 1", "no compute takes it: disabled on 1, memory on 1"},
		{"a reserve that is down", func(w *fleet.World, s *fleet.Survey) {
			reserve(w, "nova", 100)
			room(s, fleet.ClassMemory, 256, "n2")
			c := w.Cloud.Computes["n3"]
			c.Up = false
			w.Cloud.Computes["n3"] = c
		}, "vm  does not fit 1", "no compute takes it: down on 1, memory on 1"},
		{"a reserve that has no room either", func(w *fleet.World, s *fleet.Survey) {
			reserve(w, "nova", 100)
			room(s, fleet.ClassMemory, 256, "n2", "n3")
		}, "vm  does not fit 2", "no compute takes it: memory on 2"},
		{"where more memory is left", func(w *fleet.World, _ *fleet.Survey) {
			c := w.Cloud.Computes["n3"]
			c.FreeRAM = 8192
			w.Cloud.Computes["n3"] = c
		}, "vm n3 moves 1", ""},
		{"two are spread", func(_ *fleet.World, s *fleet.Survey) { also(s, "zz", needs(512, 1), nil) }, "vm n2 moves 1; zz n3 moves 1", ""},
		{"no memory by Placement, which counts what is reserved", func(_ *fleet.World, s *fleet.Survey) { room(s, fleet.ClassMemory, 256, "n2", "n3") }, "vm  does not fit 3", "no compute takes it: memory on 2"},
		{"memory by Placement, which is overcommitted", func(w *fleet.World, _ *fleet.Survey) {
			for _, h := range []string{"n2", "n3"} {
				c := w.Cloud.Computes[h]
				c.FreeRAM = -1000
				w.Cloud.Computes[h] = c
			}
		}, "vm n2 moves 1", ""},
		{"one is full, and the other is not: it costs a try", func(_ *fleet.World, s *fleet.Survey) { room(s, fleet.ClassVCPU, 0, "n2") }, "vm n3 moves 2", ""},
		{"what goes there takes room", func(_ *fleet.World, s *fleet.Survey) {
			room(s, fleet.ClassVCPU, 1, "n2", "n3")
			also(s, "zy", needs(512, 1), nil)
			also(s, "zz", needs(512, 1), nil)
		}, "vm n2 moves 1; zy n3 moves 1; zz  does not fit 3", "no compute takes it: vcpus on 2"},
		{"larger than the machine, whatever is left", func(_ *fleet.World, s *fleet.Survey) { s.Needs["vm"] = needs(512, 9) }, "vm  does not fit 3", "no compute takes it: vcpus on 2"},
		{"what has no memory left is not among Placement's candidates", func(_ *fleet.World, s *fleet.Survey) {
			s.Rooms["n2"], s.Rooms["n3"] = fleet.Room{}, fleet.Room{}
		}, "vm  does not fit 3", "no compute takes it: memory on 2"},
		{"no disk", func(_ *fleet.World, s *fleet.Survey) { room(s, fleet.ClassDisk, 0, "n2", "n3") }, "vm  does not fit 3", "no compute takes it: local disk on 2"},
		{"no compute has a disk of its own", func(_ *fleet.World, s *fleet.Survey) {
			for h := range s.Rooms {
				delete(s.Rooms[h].Left, fleet.ClassDisk)
			}
		}, "vm n2 moves 1", ""},
		{"a trait", func(_ *fleet.World, s *fleet.Survey) {
			n := needs(512, 1)
			n.Required = []string{"CUSTOM_SSD"}
			s.Needs["vm"] = n
			s.Rooms["n3"].Traits["CUSTOM_SSD"] = true
		}, "vm n3 moves 2", ""},
		{"a trait that nobody else has", func(_ *fleet.World, s *fleet.Survey) {
			n := needs(512, 1)
			n.Required = []string{"CUSTOM_SSD"}
			s.Needs["vm"] = n
		}, "vm  does not fit 3", "no compute takes it: trait CUSTOM_SSD on 2"},
		{"a trait that it must not have", func(_ *fleet.World, s *fleet.Survey) {
			n := needs(512, 1)
			n.Forbidden = []string{"CUSTOM_OLD"}
			s.Needs["vm"] = n
			s.Rooms["n2"].Traits["CUSTOM_OLD"] = true
		}, "vm n3 moves 2", ""},
		{"an aggregate", func(_ *fleet.World, s *fleet.Survey) {
			n := needs(512, 1)
			n.Aggregate = map[string]string{"ssd": "true"}
			s.Needs["vm"] = n
			s.Aggregates = []fleet.Aggregate{{Name: "fast", Hosts: []string{"n1", "n3"}, Says: map[string]string{"ssd": "true"}}}
		}, "vm n3 moves 2", ""},
		{"hosts kept for others", func(_ *fleet.World, s *fleet.Survey) {
			s.Aggregates = []fleet.Aggregate{{Name: "theirs", Hosts: []string{"n2", "n3"}, Says: map[string]string{"filter_tenant_id": "p2"}}}
		}, "vm  does not fit 3", "no compute takes it: an aggregate kept for other projects on 2"},
		{"another zone, which its owner asked for", func(w *fleet.World, s *fleet.Survey) {
			for _, h := range []string{"n2", "n3"} {
				c := w.Cloud.Computes[h]
				c.Zone = "west"
				w.Cloud.Computes[h] = c
			}
			v := s.Servers["vm"]
			v.Zone = "nova"
			s.Servers["vm"] = v
		}, "vm  does not fit 0", "no compute takes it: zone nova on 2"}, // Nova is not even asked
		{"another zone, and its owner does not mind: Nova chooses", func(w *fleet.World, _ *fleet.Survey) {
			for _, h := range []string{"n2", "n3"} {
				c := w.Cloud.Computes[h]
				c.Zone = "west"
				w.Cloud.Computes[h] = c
			}
		}, "vm n2 moves 1", ""},
		{"anti-affinity", func(_ *fleet.World, s *fleet.Survey) {
			also(s, "zz", needs(512, 1), func(v *fleet.Server) { v.Host = "n2" })
			s.Groups = []fleet.Group{{Policy: fleet.AntiAffinity, Most: 1, Members: []string{"vm", "zz", "unknown"}}}
		}, "vm n3 moves 2", ""},
		{"anti-affinity of two that move at once", func(_ *fleet.World, s *fleet.Survey) {
			for _, id := range []string{"zy", "zz"} {
				also(s, id, needs(512, 1), nil)
			}
			s.Groups = []fleet.Group{{Policy: fleet.AntiAffinity, Most: 1, Members: []string{"vm", "zy", "zz"}}}
		}, "vm n2 moves 1; zy n3 moves 1; zz  does not fit 3", "no compute takes it: anti-affinity on 2"},
		{"affinity: the only host that has one is the dead one", func(_ *fleet.World, s *fleet.Survey) {
			s.Groups = []fleet.Group{{Policy: fleet.Affinity, Members: []string{"vm"}}}
		}, "vm  does not fit 3", "no compute takes it: affinity on 2"},
		{"PCI devices that Placement counts", func(_ *fleet.World, s *fleet.Survey) {
			n := needs(512, 1)
			n.PCI, n.Resources["CUSTOM_PCI_A"] = "a:1", 1
			s.Needs["vm"] = n
			s.Rooms["n3"].Left["CUSTOM_PCI_A"] = 1
		}, "vm n3 moves 2", ""},
		{"and that are all taken", func(_ *fleet.World, s *fleet.Survey) {
			n := needs(512, 1)
			n.PCI, n.Resources["CUSTOM_PCI_A"] = "a:1", 1
			s.Needs["vm"] = n
		}, "vm  does not fit 3", "no compute takes it: PCI device a:1 (CUSTOM_PCI_A) on 2"},
		{"PCI devices that nobody counts", func(_ *fleet.World, s *fleet.Survey) {
			n := needs(512, 1)
			n.PCI = "a:1"
			s.Needs["vm"] = n
		}, "vm n2 unsure 1", "it has room as far as Placement counts; whether there is a PCI device a:1 (Placement does not count them here: report_in_placement in nova.conf) only the compute itself knows"},
		{"NUMA", func(_ *fleet.World, s *fleet.Survey) {
			n := needs(512, 1)
			n.NUMA = "hw:numa_nodes=1"
			s.Needs["vm"] = n
		}, "vm n2 unsure 1", "it has room as far as Placement counts; whether there is room in one NUMA cell (hw:numa_nodes=1) only the compute itself knows"},
		{"dedicated processors", func(_ *fleet.World, s *fleet.Survey) {
			s.Needs["vm"] = fleet.Need{Resources: map[string]int{fleet.ClassMemory: 512, fleet.ClassPCPU: 4}}
		}, "vm  does not fit 3", "no compute takes it: dedicated cpus (NUMA) on 2"},
		{"its owner says no", func(_ *fleet.World, s *fleet.Survey) {
			v := s.Servers["vm"]
			v.Metadata = map[string]string{"HA_Enabled": "False"}
			s.Servers["vm"] = v
		}, "vm  left 0", "its owner says HA_Enabled: false"},
		{"its project is left", func(w *fleet.World, s *fleet.Survey) {
			w.Spec.OpenStack.Leave = []string{"octavia"}
			v := s.Servers["vm"]
			v.Project = "octavia"
			s.Servers["vm"] = v
		}, "vm  left 0", "its project is left to its owner"},
		{"a compute that is disabled, and one that lost a network", func(w *fleet.World, _ *fleet.Survey) {
			c := w.Cloud.Computes["n2"]
			c.Disabled = true
			w.Cloud.Computes["n2"] = c
			w.State.Cutoffs = map[string]fleet.Cutoff{"n3": {Host: "n3", Networks: map[string]fleet.Lost{"storage": {}}}}
		}, "vm n3 moves 1", ""}, // Nova's scheduler puts it there all the same
		{"Placement is away: Nova's own count", func(_ *fleet.World, s *fleet.Survey) {
			s.Away = "no answer"
			for h := range s.Rooms {
				clear(s.Rooms[h].Left)
				s.Rooms[h].Left[fleet.ClassMemory] = 4096
			}
		}, "vm n2 moves 1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s := surveyed()
			c.change(&w, &s)
			p := Foresee(w, s, []string{"n1"})
			last := p.Fates[len(p.Fates)-1]
			if got := told(p); got != c.want || last.Why != c.why {
				t.Errorf("%s, why %q\nwant %s, why %q", got, last.Why, c.want, c.why)
			}
			if again := Foresee(w, s, []string{"n1"}); !reflect.DeepEqual(p, again) {
				t.Errorf("asked again: %+v, then %+v", p, again)
			}
			if (s.Away != "") != strings.Contains(strings.Join(p.Notes, " "), "Placement did not answer") {
				t.Errorf("notes: %v", p.Notes)
			}
		})
	}
}

// TestForeseeAsDecided: where a preview says that a server goes is where the decision on the
// day of the fault sends it.
func TestForeseeAsDecided(t *testing.T) {
	for _, room := range []map[string]int{{"n2": 4096, "n3": 4096}, {"n2": 1024, "n3": 2048}, {"n2": 100, "n3": 600}, {"n2": 100, "n3": 100}} {
		alive, s := surveyed()
		dead := computed()
		for _, h := range fleet.Sorted(room) {
			for _, w := range []fleet.World{alive, dead} {
				c := w.Cloud.Computes[h]
				c.FreeRAM = room[h]
				w.Cloud.Computes[h] = c
			}
		}
		e, ok := recorded[fleet.Evacuation](t, dead, "evacuation/vm")
		p := Foresee(alive, s, []string{"n1"})
		if !ok || e.To != p.Fates[0].To && (e.To != "" || p.Fates[0].To == "") {
			t.Errorf("%v: decided %q (%v), foreseen %+v", room, e.To, ok, p.Fates)
		}
	}
}

// recorded is what the decision about a World puts at a key.
func recorded[T any](t *testing.T, w fleet.World, key string) (v T, ok bool) {
	t.Helper()
	w, p := Turn(w)
	state, err := w.State.Apply(p.Records...)
	if err != nil {
		t.Fatal(err)
	}
	if e, there := state.Evacuations[strings.TrimPrefix(key, "evacuation/")]; there {
		return any(e).(T), true
	}
	return v, false
}

// TestForeseenTimes: the times are those of the site's timing, of a BMC and of targets that
// work one after another; a refused try costs its pause.
func TestForeseenTimes(t *testing.T) {
	w, s := surveyed()
	p := Foresee(w, s, []string{"n1"})
	// 1.5 s of silence, 1 s of proof, 0.5 s, 3.5 s; 2.54 s, 30 s, 2.5 s, 4.1 s.
	want := fleet.Span{Least: 6500 * time.Millisecond, Most: 39140 * time.Millisecond}
	if p.First != want || p.Last != want || p.Fates[0].RTO != want {
		t.Errorf("%v %v %v, want %v", p.First, p.Last, p.Fates[0].RTO, want)
	}
	s.Rooms["n2"].Left[fleet.ClassVCPU] = 0
	// The second try follows four seconds after the first.
	if late := Foresee(w, s, []string{"n1"}); late.First.Least != want.Least+4*time.Second || late.First.Most != want.Most+4*time.Second {
		t.Errorf("after a refusal: %v", late.First)
	}
	w, s = surveyed()
	for i := range 7 {
		also(&s, fmt.Sprintf("x%d", i), needs(512, 1), nil)
	}
	// Four on each target: three at a time, a second or 4.1 s each.
	if p := Foresee(w, s, []string{"n1"}); p.Last.Least < want.Least+3*time.Second || p.Last.Most != want.Most+3*4100*time.Millisecond {
		t.Errorf("eight: the last after %v", p.Last)
	}
}

// TestForeseenRestores: what is restored from a snapshot waits for its host first and is built twice; what begins
// anew from its image is built once.
func TestForeseenRestores(t *testing.T) {
	w, s := surveyed()
	base := Foresee(w, s, []string{"n1"}).Fates[0].RTO
	w.Spec.OpenStack.LocalDisks = fleet.LocalDisks{Hosts: []string{"n1"}, Wait: 10 * time.Minute}
	vm := s.Servers["vm"]
	vm.Metadata = map[string]string{fleet.MetaRebuild: "True"}
	s.Servers["vm"] = vm
	base.Least, base.Most = base.Least+10*time.Minute, base.Most+10*time.Minute
	p := Foresee(w, s, []string{"n1"})
	if got := p.Fates[0].RTO; got != base || len(p.Notes) > 0 {
		t.Errorf("without a snapshot: %v, want %v, %q", got, base, p.Notes)
	}
	s.Images = map[string][]fleet.Image{"vm": {{ID: "i", Server: "vm", Status: fleet.ImageActive, Made: w.Wall.Add(-time.Hour)}}}
	base.Least, base.Most = base.Least+previewRebuild, base.Most+previewRebuildMost
	p = Foresee(w, s, []string{"n1"})
	if got := p.Fates[0].RTO; got != base || len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "1 of them are restored from snapshots") {
		t.Errorf("with one: %v, want %v, %q", got, base, p.Notes)
	}
}

// TestForeseenGroups: what comes after a group goes when that is there and its gate is answered, or was waited for
// for ten minutes.
func TestForeseenGroups(t *testing.T) {
	const alone, most = 3500 * time.Millisecond, 4100 * time.Millisecond
	for _, c := range []struct {
		name   string
		owners []string                          // as owned reads them
		after  map[string]fleet.Span             // than one that waits for nobody
		change func(*fleet.World, *fleet.Survey) // what else is so
	}{
		{"nobody waits", []string{"a a", "b a Group=db"}, map[string]fleet.Span{"a": {}, "b": {}}, nil},
		{"one after a group", []string{"app a After=db", "db a Group=db"}, map[string]fleet.Span{"db": {}, "app": {Least: alone, Most: most}}, nil},
		{"groups after groups", []string{"web a After=app", "app a Group=app After=db", "db a Group=db"},
			map[string]fleet.Span{"db": {}, "app": {Least: alone, Most: most}, "web": {Least: 2 * alone, Most: 2 * most}}, nil},
		{"another project's", []string{"app a After=db", "db b Group=db"}, map[string]fleet.Span{"db": {}, "app": {}}, nil},
		{"a gate", []string{"app a After=db", "db a Group=db Ready=tcp:80"}, map[string]fleet.Span{"db": {}, "app": {Least: alone, Most: groupLasts}}, nil},
		{"a gate after a gate", []string{"web a After=app", "app a Group=app After=db Ready=tcp:80", "db a Group=db Ready=agent"},
			map[string]fleet.Span{"db": {}, "app": {Least: alone, Most: groupLasts}, "web": {Least: 2 * alone, Most: 2 * groupLasts}}, nil},
		{"a gate of a stopped one is not asked", []string{"app a After=db", "db a Group=db Ready=tcp:80"}, map[string]fleet.Span{"db": {}, "app": {Least: alone, Most: most}},
			func(_ *fleet.World, s *fleet.Survey) {
				v := s.Servers["db"]
				v.State = fleet.ServerStopped
				s.Servers["db"] = v
			}},
		{"one of the group fits nowhere", []string{"app a After=db", "db a Group=db"}, map[string]fleet.Span{"app": {Least: groupLasts, Most: groupLasts}},
			func(_ *fleet.World, s *fleet.Survey) { s.Needs["db"] = needs(512, 64) }},
		{"one of the group is left to its owner", []string{"app a After=db", "db a Group=db Enabled=false"}, map[string]fleet.Span{"app": {}}, nil},
		{"a circle", []string{"x a Group=x After=y", "y a Group=y After=x"}, map[string]fleet.Span{"x": {}, "y": {}}, nil},
		{"and who comes after it", []string{"x a Group=x After=y", "y a Group=y After=x", "z a After=x"}, map[string]fleet.Span{"x": {}, "y": {}, "z": {Least: alone, Most: most}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s := surveyed()
			w.Spec.OpenStack.Ready = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
			base := Foresee(w, s, []string{"n1"}).First
			delete(s.Servers, "vm")
			for _, text := range c.owners {
				words := strings.Fields(text)
				also(&s, words[0], needs(64, 1), func(v *fleet.Server) {
					v.Project, v.Metadata = words[1], map[string]string{}
					v.Addresses = []netip.Addr{netip.MustParseAddr("203.0.113.7")}
					for _, word := range words[2:] {
						key, value, _ := strings.Cut(word, "=")
						v.Metadata["HA_"+key] = value
					}
				})
			}
			// Several on one target take longer, which is not asked here: each has one of its own.
			for i := range len(c.owners) {
				host := fmt.Sprintf("n9%d", i)
				w.Cloud.Computes[host] = fleet.Compute{ID: host, Up: true, Zone: "nova", FreeRAM: 4096}
				s.Rooms[host] = s.Rooms["n2"]
			}
			if c.change != nil {
				c.change(&w, &s)
			}
			p := Foresee(w, s, []string{"n1"})
			got := map[string]fleet.Span{}
			for _, f := range p.Fates {
				if f.State == fleet.FateMoves {
					got[f.Server] = fleet.Span{Least: f.RTO.Least - base.Least, Most: f.RTO.Most - base.Most}
				}
			}
			if !reflect.DeepEqual(got, c.after) {
				t.Errorf("%v, want %v", got, c.after)
			}
		})
	}
}

// TestHeld: what would keep everything from being done is said.
func TestHeld(t *testing.T) {
	w, s := surveyed()
	if p := Foresee(w, s, []string{"n1"}); len(p.Held) > 0 {
		t.Errorf("nothing holds: %v", p.Held)
	}
	w.Spec.Hosts[3].Fence = nil
	w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm"}
	p := Foresee(w, s, []string{"n1", "n2", "n3"})
	all := strings.Join(p.Held, "\n")
	for _, want := range []string{"fencing is disarmed", "the brake: 3 lost at once is more than 2", "n1 has no fence"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in %s", want, all)
		}
	}
	w.Spec.Brakes = fleet.Brakes{Share: 100, Count: 9, Zones: map[string]fleet.Brake{"nova": {Count: 2}}}
	if held := strings.Join(Foresee(w, s, []string{"n1", "n2", "n3"}).Held, "\n"); !strings.Contains(held, "the brake: 3 lost at once is more than 2 of 3 hosts of zone nova, and none of them is fenced") {
		t.Error(held)
	}
	if p.Unfit != 1 || !strings.Contains(p.Fates[0].Why, "no other compute") {
		t.Errorf("all computes lost: %+v", p.Fates)
	}
	delete(w.State.Holdings, Compute("n2"))
	if p := Foresee(w, s, []string{"n2"}); !strings.Contains(strings.Join(p.Held, " "), "has the right") {
		t.Errorf("nobody's compute: %v", p.Held)
	}
}

func TestBear(t *testing.T) {
	w, s := surveyed()
	also(&s, "zz", needs(2048, 2), func(v *fleet.Server) { v.Host = "n2" })
	c := Bear(w, s)
	if len(c.Short) > 0 || c.Hosts != 3 || c.Servers != 2 || c.Zones["nova"] != (fleet.Bearing{Hosts: 3, K: 2, Worst: "n2"}) {
		t.Errorf("room for all: %+v", c)
	}
	for _, h := range []string{"n1", "n3"} {
		s.Rooms[h].Left[fleet.ClassMemory] = 1024
	}
	c = Bear(w, s)
	if x := c.Short["n2"]; len(c.Short) != 1 || x.Servers != 1 || x.First != "zz" || x.Why != "no compute takes it: memory on 2" || c.Zones["nova"].K != 0 {
		t.Errorf("no room for one: %+v", c)
	}
	// A person is told, and no more when it fits.
	w.Capacity = c
	about := func(w fleet.World) string {
		_, p := Turn(w)
		for _, x := range p.Waits {
			if x.About == "capacity" {
				return x.For + " | " + x.Help
			}
		}
		return ""
	}
	if got := about(w); !strings.Contains(got, "if n2 died, one of its servers would find no place (zz: no compute takes it: memory on 2)") || !strings.Contains(got, "mainstay preview 'host n2 dies'") {
		t.Errorf("told: %q", got)
	}
	w.Capacity = fleet.Capacity{At: w.Wall, Hosts: 3}
	if got := about(w); got != "" {
		t.Errorf("told although it fits: %q", got)
	}
	// What a rule keeps where it is does not lessen how many can be lost.
	w, s = surveyed()
	s.Groups = []fleet.Group{{Policy: fleet.Affinity, Members: []string{"vm"}}}
	if c := Bear(w, s); len(c.Short) != 1 || c.Zones["nova"].K != 2 {
		t.Errorf("affinity: %+v", c)
	}
}

// TestFailedKeepsNoPlace: servers whose newest try has failed wait for their pause, and keep
// no others from the way.
func TestFailedKeepsNoPlace(t *testing.T) {
	w := computed()
	for i := range evacuateAtOnce {
		id := fmt.Sprintf("f%02d", i)
		w.Cloud.Servers[id] = fleet.Server{ID: id, Host: "n1", State: fleet.ServerError, RAM: 1 << 20, Fault: "No valid host was found.", Migration: fleet.Migration{ID: i + 1, Status: "error", From: "n1"}}
		w.State.Evacuations[id] = fleet.Evacuation{Server: id, From: "n1", Boot: "b", Was: fleet.ServerActive, Try: 6, Epoch: w.Epoch, At: w.Wall.Add(-3 * time.Second)}
	}
	if e, ok := recorded[fleet.Evacuation](t, w, "evacuation/vm"); !ok || e.To != "n2" {
		t.Errorf("vm: %+v %v", e, ok)
	}
}

// TestThirdTryIsNovas: two that were named have failed for a rule that is not seen from here.
func TestThirdTryIsNovas(t *testing.T) {
	w := computed()
	for i := range 5 {
		host := fmt.Sprintf("m%d", i)
		w.Spec.Hosts = append(w.Spec.Hosts, w.Spec.Hosts[4])
		w.Spec.Hosts[len(w.Spec.Hosts)-1].Name = host
		w.Heard[host], w.Reports[host], w.State.Members[host] = w.Heard["n2"], w.Reports["n2"], w.State.Members["n2"]
		w.State.Holdings[Compute(host)] = fleet.Holding{Thing: Compute(host), Host: host, Boot: "b", Generation: 1}
		w.Cloud.Computes[host] = w.Cloud.Computes["n2"]
	}
	d := newDecision(w)
	clear(d.blocked)
	m := d.newMove()
	var got []string
	e := fleet.Evacuation{Server: "vm", From: "n1"}
	for e.Try = range 6 {
		to, _ := m.target(e, w.Cloud.Servers["vm"])
		got = append(got, to)
		if to != "" {
			e.Tried = append(slices.Clone(e.Tried), to)
		}
	}
	if want := "m0 m1  m2 m3 "; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", strings.Join(got, " "), want)
	}
}

func TestQuestion(t *testing.T) {
	for ask, want := range map[string]string{
		"host n017 dies": "n017", "hosts n001,n002 die": "n001 n002", "hosts n001, n002 die": "n001 n002", "hosts n[01-03] die": "n01 n02 n03", "": "",
	} {
		got, err := Question([]string{ask})
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %v, %v", ask, got, err)
		}
	}
	if got, err := Question([]string{"host", "n1", "dies"}); err != nil || len(got) != 1 {
		t.Errorf("without quotes: %v %v", got, err)
	}
	for ask, want := range map[string]string{"n017": "ask 'host n017 dies'", "host n017 leaves": "ask 'host", "host dies": "ask 'host", "hosts n[3-1] die": "counts downwards"} {
		if _, err := Question([]string{ask}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", ask, err)
		}
	}
}
