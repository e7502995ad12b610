package node

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/openstack/falsecloud"
	"mainstay/plan"
)

var scaleComputes = flag.Int("scale", 100, "computes of TestRackDies and TestManyVanish, twenty servers on each: make scale")

// field is a site of three controllers and many computes over a played OpenStack, in time
// that the test moves: what the leader knows is filled in, what it decides is real, and so is
// what OpenStack is asked, over HTTP.
type field struct {
	t     *testing.T
	w     fleet.World
	cloud *cloud
	nova  *falsecloud.Cloud
	clock *falsecloud.Clock
	lost  map[string]bool // their power

	due    []landing
	looked fleet.Moment
	plan   fleet.Plan
	turns  []time.Duration // what each took, of one core
	offs   []string
}

// landing is an effect that arrives later.
type landing struct {
	at     fleet.Moment
	effect fleet.Effect
}

const (
	fieldStep   = 100 * time.Millisecond  // between two turns while something goes on
	fieldFence  = 1200 * time.Millisecond // a BMC that says off twice, a second apart
	fieldAnswer = 100 * time.Millisecond  // of Nova
)

func newField(t *testing.T, computes, servers int) *field {
	t.Helper()
	clock := falsecloud.NewClock()
	nova := falsecloud.New(falsecloud.Config{Now: clock.Now})
	s := httptest.NewServer(nova)
	t.Cleanup(s.Close)
	t.Cleanup(nova.Close)
	file := filepath.Join(t.TempDir(), "clouds.yaml")
	text := fmt.Sprintf("clouds: {here: {auth: {auth_url: '%s/identity/v3', username: admin, password: secret, project_name: admin, user_domain_id: default, project_domain_id: default}}}\n", s.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f := &field{t: t, nova: nova, clock: clock, lost: map[string]bool{}}
	f.w = fleet.World{
		Now: fleet.Moment(time.Hour), Wall: clock.Now(), Leader: "c1", Epoch: 1, Since: fleet.Moment(time.Minute),
		Reports: map[string]fleet.Report{}, Told: map[string]fleet.Moment{}, Heard: map[string]fleet.Heard{}, Rounds: map[string]fleet.Round{}, Flights: map[string]fleet.Flight{},
		State: fleet.State{Epoch: 1, Leader: "c1", Members: map[string]fleet.Member{}, Holdings: map[string]fleet.Holding{}},
	}
	f.w.Spec = fleet.Spec{
		Site: "scale", Timing: fleet.Presets()["room"], Mode: "act", Brakes: fleet.Brakes{Share: 40, Count: 50},
		Networks:  []fleet.Network{{Name: "management"}, {Name: "storage"}},
		OpenStack: fleet.OpenStack{Cloud: "here", Config: file},
	}
	add := func(name, role string, voter bool) {
		h := fleet.Host{Name: name, Roles: []string{role}, Voter: voter, Addresses: map[string]netip.Addr{}, Fence: []fleet.Level{{{Driver: "redfish"}}}}
		i := len(f.w.Spec.Hosts)
		for k, n := range f.w.Spec.Networks {
			h.Addresses[n.Name] = netip.AddrFrom4([4]byte{10, byte(k), byte(i >> 8), byte(i)})
		}
		f.w.Spec.Hosts = append(f.w.Spec.Hosts, h)
		f.w.State.Members[name] = fleet.Member{Host: name, Admitted: "b"}
		f.w.Reports[name] = fleet.Report{Host: name, Boot: "b", Stint: 1, Epoch: 1, Leased: true}
		if role == "compute" {
			f.w.State.Holdings[plan.Compute(name)] = fleet.Holding{Thing: plan.Compute(name), Host: name, Boot: "b", Generation: 1, Why: "as ever"}
		}
	}
	for i := range 3 {
		add(fmt.Sprintf("c%d", i+1), "controller", true)
	}
	for i := range computes {
		name := fmt.Sprintf("n%04d", i+1)
		add(name, "compute", false)
		nova.AddCompute(name, "nova", 64*512)
		for k := range servers {
			nova.AddServer(falsecloud.Server{Name: fmt.Sprintf("vm%d-%d", i+1, k), Host: name})
		}
	}
	f.cloud = &cloud{cfg: f.w.Spec.OpenStack}
	f.hear()
	f.look(nil, nil)
	return f
}

// hear lets every host that has power beat.
func (f *field) hear() {
	for i := range f.w.Spec.Hosts {
		name := f.w.Spec.Hosts[i].Name
		if f.lost[name] {
			continue
		}
		f.w.Heard[name] = fleet.Heard{Stint: fleet.Stint{Host: name, Boot: "b", N: 1}, Last: f.w.Now, Leased: true,
			Nets: map[string]fleet.Moment{"management": f.w.Now, "storage": f.w.Now}}
		f.w.Told[name] = f.w.Now
	}
}

// look asks OpenStack as leader's gaze does. What that takes in truth passes here too.
func (f *field) look(hosts, servers []string) {
	f.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	seen, err := f.cloud.Look(ctx, f.w.Now, hosts, servers)
	if err != nil {
		f.t.Fatal(err)
	}
	f.w.Cloud = seen.Follows(f.w.Cloud)
	f.looked = f.w.Now
	f.pass(time.Since(began))
}

func (f *field) pass(d time.Duration) {
	f.clock.Advance(d)
	f.w.Now, f.w.Wall = f.w.Now.Add(d), f.w.Wall.Add(d)
}

// turn is one turn of the leader's, and what follows from it.
func (f *field) turn() {
	f.t.Helper()
	f.pass(fieldStep)
	f.hear()
	waiting := f.due[:0]
	for _, l := range f.due {
		if l.at.After(f.w.Now) {
			waiting = append(waiting, l)
			continue
		}
		x := f.w.Flights[l.effect.Key]
		x.Effect, x.Arrived = &l.effect, f.w.Now
		f.w.Flights[l.effect.Key] = x
	}
	f.due = waiting
	maps.DeleteFunc(f.w.Flights, func(_ string, x fleet.Flight) bool { return x.Effect != nil && f.w.Now.Sub(x.Arrived) > time.Minute })
	var open []string
	for _, id := range fleet.Sorted(f.w.State.Evacuations) {
		if f.w.State.Evacuations[id].Ended == "" {
			open = append(open, id)
		}
	}
	if f.w.Now.Sub(f.looked) >= time.Second && len(f.plan.Looks)+len(open) > 0 {
		f.look(f.plan.Looks, open)
	}
	began := time.Now()
	_, p := plan.Turn(f.w)
	f.turns = append(f.turns, time.Since(began))
	f.plan = p
	var err error
	if f.w.State, err = f.w.State.Apply(p.Records...); err != nil {
		f.t.Fatal(err)
	}
	for _, ask := range p.Asks {
		ask.Promised, ask.Silent = map[string]fleet.Moment{}, map[string]time.Duration{}
		for _, ear := range f.w.Spec.Voters() {
			ask.Promised[ear], ask.Silent[ear] = f.w.Now, f.w.Now.Sub(f.w.Heard[ask.Stint.Host].Last)
		}
		ask.Over = f.lost[ask.Stint.Host]
		f.w.Rounds[ask.Stint.Host] = ask
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	lands := func(after time.Duration, e fleet.Effect) {
		mu.Lock()
		defer mu.Unlock()
		f.due = append(f.due, landing{f.w.Now.Add(after), e})
	}
	for _, o := range p.Orders {
		x := f.w.Flights[o.Key]
		f.w.Flights[o.Key] = fleet.Flight{Order: o, Sent: f.w.Now, Tries: x.Tries + 1}
		switch o.Verb {
		case fleet.VerbFence:
			host := o.Target.Host
			f.offs = append(f.offs, host)
			if !f.lost[host] {
				f.t.Fatalf("%s is switched off, and lives", host)
			}
			lands(fieldFence, fleet.Effect{Key: o.Key, From: "c1", Outcome: fleet.Done, Wall: f.w.Wall,
				Proof: &fleet.Proof{Host: host, Boot: "b", Kind: "fence", Evidence: "off twice", By: "c1", At: f.w.Wall}})
		case fleet.VerbCloud:
			all.Go(func() {
				outcome, why := f.cloud.do(f.t.Context(), o, func() error { return nil })
				lands(fieldAnswer, fleet.Effect{Key: o.Key, From: "c1", Outcome: outcome, Why: why, Wall: f.w.Wall})
			})
		default:
			lands(fieldAnswer, fleet.Effect{Key: o.Key, From: "c1", Outcome: fleet.Done, Wall: f.w.Wall})
		}
	}
	all.Wait()
}

func (f *field) until(what string, bound time.Duration, is func() bool) time.Duration {
	f.t.Helper()
	begin := f.w.Now
	for !is() {
		f.turn()
		if f.w.Now.Sub(begin) > bound {
			f.t.Fatalf("%s: not after %v of the site's time; %d waits, the first: %+v", what, bound, len(f.plan.Waits), f.plan.Waits[:min(3, len(f.plan.Waits))])
		}
	}
	return f.w.Now.Sub(begin)
}

// TestRackDies: forty computes of a thousand lose power at once. Each is fenced, each of
// their servers is evacuated once and runs elsewhere.
func TestRackDies(t *testing.T) {
	computes, servers := *scaleComputes, 20
	rack := max(4, computes/25)
	f := newField(t, computes, servers)
	for range 20 {
		f.turn() // as every day
	}
	daily := worst(f.turns)
	f.turns = nil
	before := f.nova.Calls()
	for i := range rack {
		name := fmt.Sprintf("n%04d", i+1)
		f.lost[name] = true
		f.nova.Kill(name)
	}
	began := f.w.Now
	since := func() time.Duration { return f.w.Now.Sub(began).Round(100 * time.Millisecond) }
	f.until("the first evacuation", time.Minute, func() bool { return f.nova.Evacuations() > 0 })
	first := since()
	f.until("all servers elsewhere", time.Hour, func() bool {
		ended := 0
		for _, e := range f.w.State.Evacuations {
			if e.Ended != "" {
				ended++
			}
		}
		return ended == rack*servers
	})
	last := since()
	f.until("no right of a dead boot left", time.Minute, func() bool {
		for i := range rack {
			if f.w.State.Holdings[plan.Compute(fmt.Sprintf("n%04d", i+1))].Host != "" {
				return false
			}
		}
		return true
	})
	if slices.Sort(f.offs); len(slices.Compact(f.offs)) != rack {
		t.Errorf("fenced: %v", f.offs)
	}
	if n := f.nova.Evacuations(); n != rack*servers {
		t.Errorf("%d evacuations of %d servers", n, rack*servers)
	}
	if wrong := f.nova.Audit(); len(wrong) > 0 {
		t.Errorf("%d servers are not as they should be: %v", len(wrong), wrong[:min(5, len(wrong))])
	}
	calls, sorts := 0, f.nova.Calls()
	for kind := range sorts {
		sorts[kind] -= before[kind]
		calls += sorts[kind]
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%d computes, %d servers, %d computes die: first evacuation accepted after %v, last server elsewhere after %v of the site's time", computes, computes*servers, rack, first, last)
	t.Logf("%d turns, median %v, worst %v of one core (a day's worst: %v); %d requests, %.1f a second: %v", len(f.turns), median(f.turns), worst(f.turns), daily, calls, float64(calls)/last.Seconds(), sorts)
}

// TestManyVanish: two thirds of all computes fall silent at once, as when a switch fails.
// Nobody is fenced, OpenStack is told nothing, and a person is told why.
func TestManyVanish(t *testing.T) {
	computes := 3 * *scaleComputes
	f := newField(t, computes, 0)
	f.turn()
	f.turns = nil
	for i := range computes * 2 / 3 {
		f.lost[fmt.Sprintf("n%04d", i+1)] = true
	}
	begin := f.w.Now
	for f.w.Now.Sub(begin) < 20*time.Second {
		f.turn()
		for _, o := range f.plan.Orders {
			if o.Verb == fleet.VerbFence || o.Verb == fleet.VerbCloud {
				t.Fatalf("ordered: %+v", o)
			}
		}
	}
	if len(f.w.State.Intents) > 0 || len(f.w.State.Proofs) > 0 {
		t.Errorf("intents %v, proofs %v", f.w.State.Intents, f.w.State.Proofs)
	}
	braked := 0
	for _, x := range f.plan.Waits {
		if x.About == "brake" {
			braked++
		}
	}
	if braked != 1 || len(f.plan.Waits) > 1 {
		t.Errorf("the brake is told %d times of %d waits, %+v", braked, len(f.plan.Waits), f.plan.Waits[:min(3, len(f.plan.Waits))])
	}
	t.Logf("%d of %d computes vanish: %d waits, %d turns, median %v, worst %v of one core", computes*2/3, computes, len(f.plan.Waits), len(f.turns), median(f.turns), worst(f.turns))
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2].Round(time.Microsecond)
}

func worst(d []time.Duration) time.Duration { return slices.Max(d).Round(time.Microsecond) }
