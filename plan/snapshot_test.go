package plan

import (
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// pictured is a site whose computes live and have local disks, with one server on each of n1 and n2, both
// due, and a Tally that says so.
func picturesque() fleet.World {
	w := computed()
	live(w)
	w.Spec.OpenStack.LocalDisks = fleet.LocalDisks{Roles: []string{"compute"}, Wait: 10 * time.Minute}
	w.Spec.OpenStack.Snapshots = fleet.Snapshots{Every: 6 * time.Hour, Keep: 2, AtOnce: 2}
	w.State.Snapshots = map[string]fleet.Snapshot{}
	w.Cloud.Servers, w.Cloud.Images = map[string]fleet.Server{}, map[string]fleet.Images{}
	w.Tally = fleet.Tally{At: w.Wall.Add(-20 * time.Second), Servers: 2}
	for id, host := range map[string]string{"a": "n1", "b": "n2"} {
		w.Cloud.Servers[id] = fleet.Server{ID: id, Name: id, Host: host, Image: "first", State: fleet.ServerActive, Created: "2020-01-01T00:00:00Z"}
		w.Cloud.Images[id] = fleet.Images{At: w.Cloud.At}
	}
	for _, id := range []string{"a", "b"} {
		w.Tally.Oldest = append(w.Tally.Oldest, fleet.Picture{Server: id, Name: id, Host: w.Cloud.Servers[id].Host, Due: w.Wall.Add(-time.Hour)})
	}
	return w
}

// live brings n1 of computed back to life.
func live(w fleet.World) {
	w.Heard["n1"] = fleet.Heard{Stint: w.Heard["n1"].Stint, Last: w.Now, Nets: w.Heard["n2"].Nets, Leased: true}
	delete(w.State.Proofs, "n1")
	m := w.State.Members["n1"]
	m.Barred = ""
	w.State.Members["n1"] = m
	w.Cloud.Computes["n1"] = fleet.Compute{ID: "n1", Up: true, Zone: "nova", FreeRAM: 4096}
}

// did is what a plan does about snapshots, in short words.
func did(p fleet.Plan) (out []string) {
	for _, r := range p.Records {
		if strings.HasPrefix(r.Key, "snapshot/") {
			word := r.Key
			switch {
			case r.Value == nil:
				word += " forgotten"
			case strings.Contains(string(r.Value), `"ended"`):
				word += " ended"
			}
			out = append(out, word)
		}
	}
	for _, o := range p.Orders {
		if o.Step == fleet.CloudSnapshot || o.Step == fleet.CloudPrune {
			out = append(out, o.Step+" "+o.Thing)
		}
	}
	for _, x := range p.Waits {
		if x.About == "snapshots" || strings.HasPrefix(x.About, "server/") {
			out = append(out, "told: "+x.About)
		}
	}
	return out
}

// TestSnapshots: which server has one made when, recorded first, and what becomes of it.
func TestSnapshots(t *testing.T) {
	server := func(w fleet.World, change func(*fleet.Server)) {
		s := w.Cloud.Servers["a"]
		change(&s)
		w.Cloud.Servers["a"] = s
	}
	making := func(w fleet.World, age time.Duration, change func(*fleet.Snapshot)) fleet.Snapshot {
		x := fleet.Snapshot{Server: "a", Name: "a", Host: "n1", Epoch: w.Epoch, At: w.Wall.Add(-age)}
		if change != nil {
			change(&x)
		}
		w.State.Snapshots["a"] = x
		return x
	}
	image := func(w fleet.World, x fleet.Snapshot, status string) {
		w.Cloud.Images["a"] = fleet.Images{At: w.Cloud.At, List: []fleet.Image{{ID: "i", Server: "a", Status: status, Mark: x.Mark(), Made: x.At}}}
	}
	effect := func(w fleet.World, x fleet.Snapshot, o fleet.Outcome) {
		w.Flights[x.Key()] = fleet.Flight{Sent: w.Now.Add(-2 * time.Second), Tries: 1, Arrived: w.Now.Add(-time.Second), Effect: &fleet.Effect{Outcome: o, Why: "so it was"}}
	}
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   []string
	}{
		{"the one that has waited longest is recorded first", nil, []string{"snapshot/a"}},
		{"then Nova is asked, and the next one waits for the pace", func(w *fleet.World) { making(*w, 0, nil) }, []string{"snapshot server/a"}},
		{"after it the next one, on another host", func(w *fleet.World) {
			x := making(*w, 2*time.Minute, nil)
			effect(*w, x, fleet.Done)
			server(*w, func(s *fleet.Server) { s.Task = "image_uploading" })
		}, []string{"snapshot/b"}},
		{"but none beside it on the same host", func(w *fleet.World) {
			x := making(*w, 2*time.Minute, nil)
			effect(*w, x, fleet.Done)
			server(*w, func(s *fleet.Server) { s.Task = "image_uploading" })
			w.Tally.Oldest[1].Host = "n1"
			b := w.Cloud.Servers["b"]
			b.Host = "n1"
			w.Cloud.Servers["b"] = b
		}, nil},
		{"nor more than the site's file says", func(w *fleet.World) {
			w.Spec.OpenStack.Snapshots.AtOnce = 1
			x := making(*w, 2*time.Minute, nil)
			effect(*w, x, fleet.Done)
			server(*w, func(s *fleet.Server) { s.Task = "image_uploading" })
		}, nil},
		{"nobody is due", func(w *fleet.World) {
			for i := range w.Tally.Oldest {
				w.Tally.Oldest[i].Due = w.Wall.Add(time.Minute)
			}
		}, nil},
		{"one was begun a moment ago, by the newest image", func(w *fleet.World) { w.Tally.Last = w.Wall.Add(-10 * time.Second) }, nil},
		{"Nova is about it: the next one", func(w *fleet.World) { server(*w, func(s *fleet.Server) { s.Task = "rebooting" }) }, []string{"snapshot/b"}},
		{"its owner wants none", func(w *fleet.World) {
			server(*w, func(s *fleet.Server) { s.Metadata = map[string]string{fleet.MetaSnapshot: "False"} })
		}, []string{"snapshot/b"}},
		{"it boots from a volume since", func(w *fleet.World) { server(*w, func(s *fleet.Server) { s.Volume = true }) }, []string{"snapshot/b"}},
		{"it has moved", func(w *fleet.World) { server(*w, func(s *fleet.Server) { s.Host = "n3" }) }, []string{"snapshot/b"}},
		{"it has a newer one than the Tally knows", func(w *fleet.World) {
			image(*w, fleet.Snapshot{At: w.Wall.Add(-time.Minute)}, fleet.ImageActive)
		}, []string{"snapshot/b"}},
		{"its host is in maintenance", func(w *fleet.World) {
			w.State.Wishes["maintenance-n1"] = fleet.Wish{ID: "maintenance-n1", Verb: "maintenance", Host: "n1", By: "ann", At: w.Wall}
		}, []string{"snapshot/b"}},
		{"its host ails", func(w *fleet.World) {
			w.State.Ailments = map[string]fleet.Ailment{"n1": {Host: "n1", Of: map[string]fleet.Lost{"libvirt": {Since: w.Wall}}}}
		}, []string{"snapshot/b"}},
		{"Nova does not hear its host", func(w *fleet.World) {
			v := w.Cloud.Computes["n1"]
			v.Up = false
			w.Cloud.Computes["n1"] = v
		}, []string{"snapshot/b"}},
		{"it is live-migrated", func(w *fleet.World) {
			w.State.Departures = map[string]fleet.Departure{"a": {Server: "a", From: "n1", Boot: "b", To: "n2", Try: 1, Epoch: w.Epoch, At: w.Wall}}
		}, []string{"snapshot/b"}},
		{"servers of a dead host are on their way", func(w *fleet.World) {
			w.State.Evacuations["x"] = fleet.Evacuation{Server: "x", From: "n3", Boot: "old", Try: 1, To: "n2", Epoch: w.Epoch, At: w.Wall}
		}, nil},
		{"it was to be restored, and nobody saw that it was: none is made of its first day", func(w *fleet.World) {
			w.State.Evacuations["a"] = fleet.Evacuation{Server: "a", From: "n3", Boot: "old", Ended: "moved to n1 by somebody else", Restore: fleet.Restore{Image: "i"}}
		}, []string{"snapshot/b"}},
		{"it was restored", func(w *fleet.World) {
			w.State.Evacuations["a"] = fleet.Evacuation{Server: "a", From: "n3", Boot: "old", Ended: "on n1", Restore: fleet.Restore{Image: "i"}}
		}, []string{"snapshot/a"}},
		{"Glance is away", func(w *fleet.World) { w.Cloud.Glance = "no answer" }, nil},
		{"nothing is done while it is disarmed", func(w *fleet.World) {
			w.State.Wishes["disarm"] = fleet.Wish{ID: "disarm", Verb: "disarm", By: "ann", At: w.Wall}
		}, nil},
		{"it is whole", func(w *fleet.World) { image(*w, making(*w, time.Minute, nil), fleet.ImageActive) }, []string{"snapshot/a ended", "snapshot/b"}},
		{"its answer was lost, and its image bears the mark", func(w *fleet.World) {
			x := making(*w, time.Minute, nil)
			effect(*w, x, fleet.NoWord)
			image(*w, x, "saving")
			server(*w, func(s *fleet.Server) { s.Task = "image_uploading" })
			w.Tally.Last = w.Wall
		}, nil},
		{"the answer was lost, and nothing is seen of it yet: it may come", func(w *fleet.World) {
			effect(*w, making(*w, time.Minute, nil), fleet.NoWord)
			w.Tally.Last = w.Wall
		}, nil},
		{"nothing of it can come any more", func(w *fleet.World) {
			making(*w, cloudLasts+time.Second, nil)
			w.Tally.Last = w.Wall
		}, []string{"snapshot/a ended"}},
		{"a former leader recorded it: nobody asks again", func(w *fleet.World) {
			making(*w, time.Second, func(x *fleet.Snapshot) { x.Epoch-- })
		}, nil},
		{"nor this one late", func(w *fleet.World) { making(*w, askWithin+time.Second, nil); w.Tally.Last = w.Wall }, nil},
		{"Nova said that it began, and is not at it, and there is no image", func(w *fleet.World) {
			effect(*w, making(*w, 30*time.Second, nil), fleet.Done)
			w.Tally.Last = w.Wall
		}, []string{"snapshot/a ended"}},
		{"Nova refused", func(w *fleet.World) {
			effect(*w, making(*w, 5*time.Second, nil), fleet.Refused)
		}, []string{"snapshot/a ended"}},
		{"it goes on for longer than the interval: a person is told", func(w *fleet.World) {
			making(*w, 7*time.Hour, nil)
			server(*w, func(s *fleet.Server) { s.Task = "image_uploading" })
			w.Tally.Last = w.Wall
		}, []string{"told: server/a"}},
		{"what is over is remembered until a Tally knows of it", func(w *fleet.World) {
			making(*w, time.Minute, func(x *fleet.Snapshot) { x.Ended, x.Over = "made", w.Wall.Add(-10*time.Second) })
			w.Tally.Last = w.Wall
		}, nil},
		{"and no longer", func(w *fleet.World) {
			making(*w, 2*time.Minute, func(x *fleet.Snapshot) { x.Ended, x.Over = "made", w.Wall.Add(-time.Minute) })
			w.Tally.Last = w.Wall
		}, []string{"snapshot/a forgotten"}},
		{"what failed rests", func(w *fleet.World) {
			making(*w, 5*time.Minute, func(x *fleet.Snapshot) { x.Ended, x.Over, x.Failed = "no", w.Wall.Add(-4*time.Minute), 1 })
		}, []string{"snapshot/b"}},
		{"and is tried again", func(w *fleet.World) {
			making(*w, 9*time.Minute, func(x *fleet.Snapshot) { x.Ended, x.Over, x.Failed = "no", w.Wall.Add(-6*time.Minute), 1 })
		}, []string{"snapshot/a"}},
		{"some are late: a person is told", func(w *fleet.World) {
			w.Tally.Late, w.Tally.Oldest[0].Late, w.Tally.Last = 1, w.Wall.Add(-time.Hour), w.Wall
		}, []string{"told: snapshots"}},
		{"so it is of those that have become late since the list", func(w *fleet.World) {
			w.Tally.Oldest[0].Late, w.Tally.Last = w.Wall.Add(-time.Second), w.Wall
		}, []string{"told: snapshots"}},
		{"those that will be late only later are not told", func(w *fleet.World) {
			w.Tally.Oldest[0].Late, w.Tally.Last = w.Wall.Add(time.Second), w.Wall
		}, nil},
		{"the list is old: a person is told, with why", func(w *fleet.World) {
			w.Tally.At, w.Tally.Last, w.Tally.Away = w.Wall.Add(-tallyTold-time.Second), w.Wall, "list all servers: a cell is away"
		}, []string{"told: snapshots"}},
		{"but not of one that is not", func(w *fleet.World) {
			w.Tally.At, w.Tally.Last, w.Tally.Away = w.Wall.Add(-tallyTold+time.Second), w.Wall, "list all servers: a cell is away"
		}, nil},
		{"there is none since this leader leads", func(w *fleet.World) {
			w.Tally, w.Since = fleet.Tally{Away: "list all servers: a cell is away"}, w.Now.Add(-tallyTold-time.Second)
		}, []string{"told: snapshots"}},
		{"nor is there one of a leader that began a moment ago", func(w *fleet.World) {
			w.Tally, w.Since = fleet.Tally{Away: "list all servers: a cell is away"}, w.Now.Add(-time.Minute)
		}, nil},
		{"no snapshots are wanted any more: nothing is told", func(w *fleet.World) {
			w.Spec.OpenStack.Snapshots.Every = 0
			x := making(*w, time.Hour, nil)
			x.At = w.Wall
			w.State.Snapshots["a"] = x
			w.Tally, w.Since = fleet.Tally{}, w.Now.Add(-tallyTold-time.Second)
			effect(*w, x, fleet.NoWord)
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := picturesque()
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			if got := did(p); !slices.Equal(got, c.want) {
				t.Errorf("it does %q, want %q", got, c.want)
			}
			for _, x := range p.Waits {
				if x.About == "snapshots" && !strings.Contains(x.For, w.Tally.Away) {
					t.Errorf("it does not say why (%s): %s", w.Tally.Away, x.For)
				}
			}
		})
	}
}

// TestStockOfEnded: what came of a snapshot is asked for at once until a list knows of it, and no longer; with
// the next idle list its server would be told as due for ten minutes more.
func TestStockOfEnded(t *testing.T) {
	for _, c := range []struct {
		name   string
		over   time.Duration // before the list
		failed int
		want   bool
	}{
		{"made since the list", -time.Second, 0, true},
		{"failed since the list", -time.Second, 1, true},
		{"made by a former leader whose clock was ahead", -time.Hour, 0, false},
		{"made before it", time.Second, 0, false},
		{"failed before it", time.Second, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := picturesque()
			for i := range w.Tally.Oldest { // nobody else is due
				w.Tally.Oldest[i].Due = w.Wall.Add(time.Hour)
			}
			w.State.Snapshots["a"] = fleet.Snapshot{Server: "a", Host: "n1", Epoch: w.Epoch, At: w.Wall.Add(-time.Minute), Ended: "so", Over: w.Tally.At.Add(-c.over), Failed: c.failed}
			if _, p := Turn(w); p.Stock != c.want {
				t.Errorf("a list is asked for: %v, want %v", p.Stock, c.want)
			}
		})
	}
}

// TestTake: what is due, and what is not needed any more.
func TestTake(t *testing.T) {
	w := picturesque()
	hours := func(n int) time.Time { return w.Wall.Add(-time.Duration(n) * time.Hour) }
	w.State.Evacuations["e"] = fleet.Evacuation{Server: "e", From: "n3", Restore: fleet.Restore{Image: "e3"}}
	w.State.Snapshots["a"] = fleet.Snapshot{Server: "a", At: hours(2)}
	i := func(id, server, status string, age int) fleet.Image {
		return fleet.Image{ID: id, Server: server, Status: status, Mark: fleet.Snapshot{At: hours(age)}.Mark(), Made: hours(age)}
	}
	made := func(id string, change func(*fleet.Server)) fleet.Server {
		s := fleet.Server{ID: id, Host: "n1", Image: "first", State: fleet.ServerActive, Created: hours(20).Format(time.RFC3339)}
		if change != nil {
			change(&s)
		}
		return s
	}
	says := func(text string) func(*fleet.Server) {
		return func(s *fleet.Server) { s.Metadata = map[string]string{fleet.MetaSnapshot: text} }
	}
	w.Spec.OpenStack.Leave = []string{"octavia"}
	s := fleet.Stock{At: w.Wall, Used: map[string]bool{"u3": true}, Servers: []fleet.Server{
		made("a", nil), made("b", nil), made("e", nil), made("rare", says("24h")), made("often", says("1h")), made("never", says("false")), made("odd", says("weekly")), made("u", nil),
		made("volume", func(s *fleet.Server) { s.Volume, s.Image = true, "" }), made("far", func(s *fleet.Server) { s.Host = "c1" }),
		made("octavia", func(s *fleet.Server) { s.Project = "octavia" }), made("off", func(s *fleet.Server) { s.Metadata = map[string]string{"HA_Enabled": "False"} }), made("new", func(s *fleet.Server) { s.Created = hours(1).Format(time.RFC3339) }),
		made("broken", func(s *fleet.Server) { s.State = fleet.ServerError }),
	}, Images: map[string][]fleet.Image{
		"a":      {i("a1", "a", "queued", 2), i("a2", "a", fleet.ImageActive, 7), i("a3", "a", fleet.ImageActive, 13), i("a4", "a", fleet.ImageActive, 19), i("a5", "a", "saving", 30)},
		"b":      {i("b1", "b", fleet.ImageActive, 13)},
		"e":      {i("e1", "e", fleet.ImageActive, 1), i("e2", "e", fleet.ImageActive, 7), i("e3", "e", fleet.ImageActive, 13)},
		"u":      {i("u1", "u", fleet.ImageActive, 1), i("u2", "u", fleet.ImageActive, 7), i("u3", "u", fleet.ImageActive, 13)},
		"rare":   {i("r1", "rare", fleet.ImageActive, 7)},
		"often":  {i("o1", "often", fleet.ImageActive, 5)},
		"odd":    {i("d1", "odd", fleet.ImageActive, 5)},
		"gone":   {i("g1", "gone", fleet.ImageActive, 30)},
		"erring": {i("x1", "erring", fleet.ImageActive, 20)},
	}}
	w.State.Evacuations["kept"] = fleet.Evacuation{Server: "kept", From: "n3", Ended: "moved to n1 by somebody else", Restore: fleet.Restore{Image: "k9"}}
	s.Servers = append(s.Servers, made("kept", says("false")))
	s.Images["kept"] = []fleet.Image{i("k1", "kept", fleet.ImageActive, 1), i("k2", "kept", fleet.ImageActive, 7), i("k3", "kept", fleet.ImageActive, 13)}
	got := Take(w, s)
	var due, late, prune []string
	for _, p := range got.Oldest {
		due = append(due, p.Server)
		if p.Overdue(w.Wall) {
			late = append(late, p.Server)
		}
	}
	for _, p := range got.Prune {
		prune = append(prune, p.ID)
	}
	if want := []string{"b", "a", "new", "odd", "often", "e", "u", "rare"}; !slices.Equal(due, want) {
		t.Errorf("due are %q, want %q", due, want)
	}
	if want := []string{"b"}; !slices.Equal(late, want) || got.Late != 1 || got.Without != 1 || got.Servers != 8 {
		t.Errorf("late are %q, want %q; %d late, %d without, of %d", late, want, got.Late, got.Without, got.Servers)
	}
	if want := []string{"a4", "a5", "g1"}; !slices.Equal(prune, want) || !slices.Equal(got.Gone, []string{"gone"}) {
		t.Errorf("pruned are %q, want %q; gone are %q", prune, want, got.Gone)
	}
	if !got.Last.Equal(hours(1)) {
		t.Errorf("the newest is of %v", got.Last)
	}
}

// TestPrune: nothing is deleted that is in use, nor on an old list.
func TestPrune(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *fleet.World)
		want   []string
	}{
		{"two at a time", nil, []string{"prune image/p1", "prune image/p2"}},
		{"not on an old list", func(w *fleet.World) { w.Tally.At = w.Wall.Add(-2 * time.Minute) }, nil},
		{"not what is asked for already", func(w *fleet.World) {
			w.Flights["prune/p1"] = fleet.Flight{Sent: w.Now.Add(-time.Second), Tries: 1}
		}, []string{"prune image/p2"}},
		{"not what a server is restored from", func(w *fleet.World) {
			w.State.Evacuations["a"] = fleet.Evacuation{Server: "a", From: "n3", Boot: "old", Ended: "", Restore: fleet.Restore{Image: "p1"}}
		}, nil},
		{"nothing of one that was not restored", func(w *fleet.World) {
			w.State.Evacuations["a"] = fleet.Evacuation{Server: "a", From: "n3", Boot: "old", Ended: "moved to n1 by somebody else", Restore: fleet.Restore{Image: "p9"}}
		}, []string{"prune image/p3"}},
		{"but of one that was deleted", func(w *fleet.World) {
			w.State.Evacuations["a"] = fleet.Evacuation{Server: "a", From: "n3", Boot: "old", Ended: deleted, Restore: fleet.Restore{Image: "p9"}}
		}, []string{"prune image/p1", "prune image/p2"}},
		{"not what a server is built from", func(w *fleet.World) {
			s := w.Cloud.Servers["a"]
			s.Image = "p1"
			w.Cloud.Servers["a"] = s
		}, []string{"prune image/p2", "prune image/p3"}},
		{"not of one that is in no list: Nova must say that it is gone", func(w *fleet.World) { w.Tally.Gone = []string{"a"}; delete(w.Cloud.Servers, "a") }, []string{"prune image/p3"}},
		{"which it does", func(w *fleet.World) {
			w.Tally.Gone = []string{"a"}
			w.Cloud.Servers["a"] = fleet.Server{ID: "a", State: fleet.ServerDeleted}
		}, []string{"prune image/p1", "prune image/p2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := picturesque()
			w.Tally.Oldest = nil
			w.Tally.Prune = []fleet.Image{{ID: "p1", Server: "a"}, {ID: "p2", Server: "a"}, {ID: "p3", Server: "b"}}
			if c.change != nil {
				c.change(&w)
			}
			_, p := Turn(w)
			if got := did(p); !slices.Equal(got, c.want) {
				t.Errorf("it does %q, want %q", got, c.want)
			}
		})
	}
}
