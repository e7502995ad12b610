package plan

import (
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestWriters says who takes the writes of each face of a database: each begins with
// another member, keeps it until it fails, goes then to the one behind it, and comes home
// when all have been well for a while.
func TestWriters(t *testing.T) {
	db := fleet.Service{Name: "db", Mode: fleet.ActiveActive, Roles: []string{"controller"},
		Listen: fleet.Listen{Port: 3306, Writer: true, Writers: map[string]int{"neutron": 3308, "nova": 3307}}}
	alone := db
	alone.Listen.Writers = nil
	at := func(w fleet.World, since time.Duration) { w.State.Spread["db"] = w.Wall.Add(-since) }
	write := func(w *fleet.World, main, neutron, nova string) {
		w.State.Writers = map[string]string{"db": main, "db-neutron": neutron, "db-nova": nova}
	}
	for _, c := range []struct {
		name string
		v    fleet.Service
		out  string // hosts whose copy is not ready
		set  func(w *fleet.World)
		want string // writers that are recorded
		row  string // the row of db-nova: c1 c2 c3
	}{
		{"a new site", db, "", func(*fleet.World) {}, "db=c1 db-neutron=c2 db-nova=c3", "backup backup ready"},
		{"the first that is ready", db, "c1 c2", func(*fleet.World) {}, "db=c3 db-neutron=c3 db-nova=c3", "out out ready"},
		{"at home", db, "", func(w *fleet.World) { write(w, "c1", "c2", "c3") }, "", "backup backup ready"},
		{"one fails: its writers go to the next, the others stay", db, "c3", func(w *fleet.World) { write(w, "c1", "c2", "c3") }, "db-nova=c1", "ready backup out"},
		{"the next behind the one that failed, not the first", db, "c1", func(w *fleet.World) { write(w, "c1", "c2", "c3") }, "db=c2", "out backup ready"},
		{"all are well again: watched", db, "", func(w *fleet.World) { write(w, "c2", "c2", "c3") }, "spread", "backup backup ready"},
		{"not for long enough", db, "", func(w *fleet.World) { write(w, "c2", "c2", "c3"); at(*w, homeAfter-time.Second) }, "", "backup backup ready"},
		{"long enough", db, "", func(w *fleet.World) { write(w, "c2", "c2", "c3"); at(*w, homeAfter) }, "db=c1", "backup backup ready"},
		{"one is not ready any more", db, "c2", func(w *fleet.World) { write(w, "c3", "c3", "c3"); at(*w, homeAfter) }, "-spread", "backup out ready"},
		{"home is where it is", db, "", func(w *fleet.World) { write(w, "c1", "c2", "c3"); at(*w, homeAfter) }, "-spread", "backup backup ready"},
		{"one writer alone stays where it is", alone, "", func(w *fleet.World) { w.State.Writers = map[string]string{"db": "c2"} }, "", ""},
		{"nobody is ready: any may be", db, "c1 c2 c3", func(w *fleet.World) { write(w, "c1", "c2", "c3") }, "", "backup backup ready"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := small()
			w.Spec.Services = append(w.Spec.Services, c.v)
			w.State.Spread = map[string]time.Time{}
			for _, host := range []string{"c1", "c2", "c3"} {
				w.Reports[host].Services["haproxy"] = fleet.ServiceState{Phase: fleet.Running, Ready: true}
				w.Reports[host].Services["db"] = fleet.ServiceState{Phase: fleet.Running, Ready: !strings.Contains(c.out, host)}
			}
			c.set(&w)
			_, p := Turn(w)
			var got []string
			for _, r := range p.Records {
				kind, name, _ := strings.Cut(r.Key, "/")
				switch {
				case kind == "writer":
					got = append(got, name+"="+strings.Trim(string(r.Value), `"`))
				case kind == "spread" && r.Value == nil:
					got = append(got, "-spread")
				case kind == "spread":
					got = append(got, "spread")
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("recorded %q, want %q", s, c.want)
			}
			row := ""
			for _, o := range p.Orders {
				if servers := o.Routes.Servers["db-nova"]; o.Verb == fleet.VerbRoute && len(servers) > 0 {
					row = strings.Join([]string{string(servers["c1"]), string(servers["c2"]), string(servers["c3"])}, " ")
				}
			}
			if row != c.row {
				t.Errorf("routes of db-nova %q, want %q", row, c.row)
			}
		})
	}
}

// TestRollingSpread restarts first where nobody writes, and last where most do.
func TestRollingSpread(t *testing.T) {
	w := small()
	w.Spec.Services = append(w.Spec.Services, fleet.Service{Name: "web", Mode: fleet.ActiveActive, Roles: []string{"controller"},
		Listen: fleet.Listen{Port: 1, Writer: true, Writers: map[string]int{"a": 2, "b": 3}}})
	w.State.Writers = map[string]string{"web": "c1", "web-a": "c3", "web-b": "c1"}
	for _, host := range []string{"c1", "c2", "c3"} {
		web(w, host, fleet.ServiceState{Phase: fleet.Running, Ready: true})
	}
	for _, c := range []struct {
		done []string
		want string
	}{{nil, "c2"}, {[]string{"c2"}, "c3"}, {[]string{"c2", "c3"}, "c1"}} {
		wishRestart(w, c.done...)
		_, p := Turn(w)
		got := ""
		for _, o := range p.Orders {
			if o.Verb == fleet.VerbRestart {
				got += o.To
			}
		}
		if got != c.want {
			t.Errorf("after %v: %q, want %q", c.done, got, c.want)
		}
	}
}
