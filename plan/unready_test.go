package plan

import (
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestUnready: a service that does not serve though all its copies run is told of,
// with each copy's own words and where to look; one that starts, or lacks a copy for a
// moment, is not.
func TestUnready(t *testing.T) {
	const soon, long = 5 * time.Second, 2 * time.Minute
	db := fleet.Service{Name: "db", Mode: fleet.ActiveActive, Roles: []string{"controller"}, Units: []string{"mariadb.service"}}
	say := func(w fleet.World, host, service string, s fleet.ServiceState, unready time.Duration) {
		r := w.Reports[host]
		r.Wall = w.Wall.Add(3 * time.Hour) // a clock of its own
		if unready > 0 {
			s.Unready = r.Wall.Add(-unready)
		}
		r.Services[service] = s
		w.Reports[host] = r
	}
	ready := fleet.ServiceState{Phase: fleet.Running, Ready: true}
	deaf := fleet.ServiceState{Phase: fleet.Running, Why: "waits for its peers"}
	all := func(w *fleet.World, s fleet.ServiceState, unready time.Duration) {
		for _, host := range []string{"c1", "c2", "c3"} {
			say(*w, host, "db", s, unready)
		}
	}
	for _, c := range []struct {
		name   string
		change func(*fleet.World)
		about  string
		words  []string
	}{
		{"all ready", func(w *fleet.World) { all(w, ready, 0) }, "", nil},
		{"none for a moment", func(w *fleet.World) { all(w, deaf, soon) }, "", nil},
		{"none for long", func(w *fleet.World) { all(w, deaf, long) }, "service/db",
			[]string{"a copy that is ready", "c1 says running, but not ready (waits for its peers)", "c3 says"}},
		{"all hang", func(w *fleet.World) { all(w, fleet.ServiceState{Phase: fleet.Running, Hung: true}, long) }, "service/db", []string{"c1 says hung"}},
		{"all start for long", func(w *fleet.World) { all(w, fleet.ServiceState{Phase: fleet.Starting}, long) }, "service/db", []string{"c2 says starting"}},
		{"one has only just ceased to be", func(w *fleet.World) { all(w, deaf, long); say(*w, "c2", "db", deaf, soon) }, "", nil},
		{"an agent has only just begun and knows nothing yet", func(w *fleet.World) {
			all(w, deaf, long)
			delete(w.Reports["c2"].Services, "db")
		}, "", nil},
		{"the only ready one is in maintenance", func(w *fleet.World) {
			all(w, deaf, long)
			say(*w, "c2", "db", ready, 0)
			w.State.Wishes["maintenance-c2"] = fleet.Wish{ID: "maintenance-c2", Verb: "maintenance", Host: "c2"}
		}, "db@c1", nil},
		{"a person has taken them all out of service", func(w *fleet.World) {
			all(w, deaf, long)
			for _, host := range []string{"c1", "c2", "c3"} {
				w.State.Wishes["maintenance-"+host] = fleet.Wish{ID: "maintenance-" + host, Verb: "maintenance", Host: host}
			}
		}, "", nil},
		{"one of three for a moment", func(w *fleet.World) { all(w, ready, 0); say(*w, "c2", "db", deaf, 30*time.Second) }, "", nil},
		{"one of three for long", func(w *fleet.World) { all(w, ready, 0); say(*w, "c2", "db", deaf, long) }, "db@c2", []string{"it to be ready again: c2 says"}},
		{"a passive one", func(w *fleet.World) {
			all(w, ready, 0)
			say(*w, "c2", "s", fleet.ServiceState{Phase: fleet.Running, Generation: 4, Why: "answers nothing"}, long)
		}, "service/s", []string{"its copy to be ready: c2 says running, but not ready (answers nothing)"}},
		{"a passive one that has only just come there", func(w *fleet.World) {
			all(w, ready, 0)
			say(*w, "c2", "s", fleet.ServiceState{Phase: fleet.Running, Generation: 4}, long)
			h := w.State.Holdings["service/s"]
			h.At = w.Wall.Add(-soon)
			w.State.Holdings["service/s"] = h
		}, "", nil},
	} {
		w := small()
		w.Spec.Services = append(w.Spec.Services, db)
		c.change(&w)
		_, p := Turn(w)
		var got []fleet.Wait
		for _, x := range p.Waits {
			if strings.Contains(x.About, "db") || x.About == "service/s" {
				got = append(got, x)
			}
		}
		if c.about == "" {
			if len(got) > 0 {
				t.Errorf("%s: %+v", c.name, got)
			}
			continue
		}
		if len(got) == 0 || got[0].About != c.about || got[0].Help == "" {
			t.Errorf("%s: %+v, want a wait about %s with help", c.name, got, c.about)
			continue
		}
		for _, word := range c.words {
			if !strings.Contains(got[0].For, word) {
				t.Errorf("%s: %q lacks %q", c.name, got[0].For, word)
			}
		}
	}
}

// TestFollows: a copy that fails and starts again and again has not been ready since
// the first time.
func TestFollows(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	var s fleet.ServiceState
	for i, step := range []struct {
		now  fleet.ServiceState
		want time.Time
	}{
		{fleet.ServiceState{Phase: fleet.Starting}, at(0)},
		{fleet.ServiceState{Phase: fleet.Failed}, at(0)},
		{fleet.ServiceState{Phase: fleet.Running, Ready: true}, time.Time{}},
		{fleet.ServiceState{Phase: fleet.Running, Hung: true}, at(3)},
		{fleet.ServiceState{Phase: fleet.Starting}, at(3)},
	} {
		if s = step.now.Follows(s, at(i)); !s.Unready.Equal(step.want) {
			t.Errorf("step %d: not ready since %v, want %v", i, s.Unready, step.want)
		}
	}
}

// A service that serves nowhere in a large site is told of in a few lines.
func TestUnreadyIsShort(t *testing.T) {
	w := large(1000, 0)
	for i := range w.Spec.Hosts {
		name := w.Spec.Hosts[i].Name
		w.Spec.Hosts[i].Roles = append(w.Spec.Hosts[i].Roles, "all")
		w.State.Members[name] = fleet.Member{Host: name, Admitted: "b"}
		r := w.Reports[name]
		r.Wall, r.Services = w.Wall, map[string]fleet.ServiceState{"x": {Phase: fleet.Running, Unready: w.Wall.Add(-time.Hour)}}
		w.Reports[name] = r
	}
	w.Spec.Services = []fleet.Service{{Name: "x", Mode: fleet.ActiveActive, Roles: []string{"all"}}}
	_, p := Turn(w)
	for _, x := range p.Waits {
		if x.About == "service/x" && strings.Contains(x.For, "more") {
			if len(x.For) > 600 {
				t.Errorf("%d letters: %s", len(x.For), x.For)
			}
			return
		}
	}
	t.Errorf("nothing is told of it in %d waits", len(p.Waits))
}
