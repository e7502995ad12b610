package leader

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// TestShadowThinksOnAndTouchesNothing plays the first day on a running site: no host was
// ever admitted, one of them dies, and what would have been done is told, to the fence,
// while nothing is written down and nobody is told anything.
func TestShadowThinksOnAndTouchesNothing(t *testing.T) {
	timing := fleet.Presets()["rack"]
	now := fleet.Moment(time.Hour)
	spec := fleet.Spec{
		Site: "test", Mode: "shadow", Timing: timing, Brakes: fleet.Brakes{Count: 1, Share: 40},
		Networks:  []fleet.Network{{Name: "a", CIDR: netip.MustParsePrefix("10.0.0.0/24")}},
		Addresses: []fleet.Address{{Name: "x", Addr: netip.MustParseAddr("10.0.0.9"), Network: "a", Prefer: []string{"c2"}}},
		Services:  []fleet.Service{{Name: "s", Kind: "systemd", Mode: fleet.ActivePassive, Roles: []string{"controller"}}},
	}
	q := &quorum{state: fleet.State{Members: map[string]fleet.Member{}}}
	e := &eyes{heard: map[string]fleet.Heard{}}
	desk := NewDesk(func() fleet.Moment { return now })
	hosts := []string{"c1", "c2", "c3"}
	for i, name := range hosts {
		spec.Hosts = append(spec.Hosts, fleet.Host{Name: name, Voter: true, Roles: []string{"controller"},
			Addresses: map[string]netip.Addr{"a": netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}, Fence: []fleet.Level{{{Driver: "redfish"}}}})
		q.state.Members[name] = fleet.Member{Host: name}
	}
	seq := uint64(0)
	speak := func(names ...string) {
		for _, name := range names {
			seq++
			e.heard[name] = fleet.Heard{Stint: fleet.Stint{Host: name, Boot: "b", N: 1}, Last: now, Leased: true, Nets: map[string]fleet.Moment{"a": now}}
			phase := fleet.Stopped
			if name == "c2" {
				phase = fleet.Running
			}
			desk.Put(fleet.Report{Host: name, Boot: "b", Stint: 1, Seq: seq, Leased: true, Epoch: 1,
				Addresses: map[string]fleet.AddressState{}, Services: map[string]fleet.ServiceState{"s": {Phase: phase}}})
		}
	}
	var kept []fleet.World
	l := New(Config{
		Host: "c1", Spec: func() fleet.Spec { return spec }, Quorum: q, Eyes: e, Desk: desk,
		Send: func(_ context.Context, o fleet.Order) fleet.Effect {
			if o.Verb != plan.VerbInventory {
				t.Errorf("%s was told to %s %s", o.To, o.Verb, o.Thing)
			}
			return fleet.Effect{Key: o.Key, Outcome: fleet.Done}
		},
		Keep: func(w fleet.World, _ fleet.Plan) string { kept = append(kept, w); return "w" },
		Now:  func() fleet.Moment { return now }, Wall: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	l.epoch, l.since, l.rounds, l.flights, l.book = 1, now, map[string]fleet.Round{}, map[string]fleet.Flight{}, newBook("c1", 1, time.Now)
	go l.last.serve(t.Context())
	var said []string
	turn := func() {
		t.Helper()
		q.take = func(events []fleet.Event) {
			for _, event := range events {
				if event.Kind == "shadow" {
					said = append(said, event.About+" "+event.Text)
				}
				if event.Kind == "shadow" && event.World == "" {
					t.Errorf("no World is kept for %q", event.Text)
				}
			}
		}
		if _, err := l.turn(t.Context()); err != nil {
			t.Fatal(err)
		}
		for host, r := range l.rounds { // the other ears say what this one finds
			for _, ear := range []string{"c1", "c3"} {
				l.answered(Answer{Ear: ear, Stint: r.Stint, Round: r.Number, Promised: e.heard[host].Last != now, Arrived: now})
			}
		}
	}
	told := func(want string) bool {
		return slices.ContainsFunc(said, func(line string) bool { return strings.Contains(line, want) })
	}
	for range 400 {
		speak(hosts...)
		turn()
		now = now.Add(20 * time.Millisecond)
	}
	for _, want := range []string{"c2 admitted", "address/x goes to c2", "address/x would have ordered c2 to claim", "service/s goes to c2: it was found running there"} {
		if !told(want) {
			t.Errorf("nothing is told of %q in\n%s", want, strings.Join(said, "\n"))
		}
	}
	if told("c2 to fence") || told("fenced") {
		t.Errorf("a fence of nobody:\n%s", strings.Join(said, "\n"))
	}
	for range 400 {
		speak("c1", "c3")
		turn()
		now = now.Add(20 * time.Millisecond)
	}
	for _, want := range []string{"c2 will be fenced", "host/c2 would have ordered c1 to fence host/c2"} {
		if !told(want) {
			t.Errorf("nothing is told of %q in\n%s", want, strings.Join(said, "\n"))
		}
	}
	if q.records != 0 {
		t.Errorf("%d records were written", q.records)
	}
	if w, _, ok := l.Look(t.Context()); !ok || len(w.State.Holdings) != 0 {
		t.Errorf("people are shown holdings that nobody has: %v", w.State.Holdings)
	}
	for _, w := range kept {
		if w.Verdicts == nil {
			t.Fatal("a kept World without its verdicts")
		}
		w.Verdicts = nil
		if _, p := plan.Turn(w); len(p.Records)+len(p.Orders) == 0 {
			t.Errorf("a kept World leads to nothing")
		}
	}
	// What a person did beside the plan goes into history here, too.
	state, err := q.state.Apply(fleet.Deed("ann", "site", "makes a join token", time.Unix(1, 0)))
	if err != nil {
		t.Fatal(err)
	}
	q.state = state
	if turn(); q.records != 1 {
		t.Errorf("%d records were written of a person's deed, want its end", q.records)
	}
}
