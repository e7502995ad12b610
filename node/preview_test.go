package node

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/openstack/falsecloud"
	"mainstay/plan"
)

// survey asks the played OpenStack for its room.
func (f *field) survey(hosts ...string) fleet.Survey {
	f.t.Helper()
	s, err := f.cloud.Survey(f.t.Context(), f.w.Now, hosts)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// judged is the World as a turn sees it.
func (f *field) judged() fleet.World {
	f.hear()
	w, _ := plan.Turn(f.w)
	return w
}

// capacityWait is what the newest plan tells a person of the room.
func (f *field) capacityWait() string {
	for _, x := range f.plan.Waits {
		if x.About == "capacity" {
			return x.For
		}
	}
	return ""
}

// TestNoCapacityIsTold (E11): that a compute's servers would find no place stands among the waits
// before it is lost, and no more when a compute has come that takes them.
func TestNoCapacityIsTold(t *testing.T) {
	f := newField(t, 3, 0)
	for i := range 3 {
		host := fmt.Sprintf("n%04d", i+1)
		for k := range 20 { // of 64 that have room
			f.nova.AddServer(falsecloud.Server{Name: fmt.Sprintf("vm%d-%d", i+1, k), Host: host})
		}
	}
	f.look(nil, nil)
	f.w.Capacity = plan.Bear(f.judged(), f.survey())
	f.turn()
	// 44 places are left on each.
	if got := f.capacityWait(); got != "" || f.w.Capacity.Zones["nova"].K != 2 {
		t.Fatalf("told %q, %+v", got, f.w.Capacity)
	}
	big := f.nova.AddServer(falsecloud.Server{Name: "big", Host: "n0003", RAM: 44 * 512})
	f.look(nil, nil)
	f.w.Capacity = plan.Bear(f.judged(), f.survey())
	f.turn()
	// It fills n0003, and those that are older go first, to both others.
	if got := f.capacityWait(); !strings.Contains(got, "n0003") || !strings.Contains(got, "big: no compute takes it: memory on 2") {
		t.Fatalf("no place for big: told %q, %+v", got, f.w.Capacity)
	}
	if !f.nova.Delete(big) {
		t.Fatal("no server big")
	}
	f.look(nil, nil)
	f.w.Capacity = plan.Bear(f.judged(), f.survey())
	f.turn()
	if got := f.capacityWait(); got != "" {
		t.Errorf("it fits again, and told is %q", got)
	}
}

// TestPreviewComesTrue: where a preview says that the servers of a dead compute go is where
// they are when it has died, those that cost a try among them; what it says has no place has none.
func TestPreviewComesTrue(t *testing.T) {
	f := newField(t, 6, 4)
	f.nova.Shape("n0004", falsecloud.Shape{VCPUs: 1000, Disk: 1000, Traits: []string{"CUSTOM_SSD"}})
	add := func(s falsecloud.Server) string {
		s.Host = "n0001"
		return f.nova.AddServer(s)
	}
	ssd := add(falsecloud.Server{Name: "ssd", Extra: map[string]string{"trait:CUSTOM_SSD": "required"}})
	wide := add(falsecloud.Server{Name: "wide", RAM: 512, VCPUs: 2000})
	left := add(falsecloud.Server{Name: "left", Metadata: map[string]string{"HA_Enabled": "False"}})
	f.nova.AddGroup("anti-affinity", add(falsecloud.Server{Name: "anti1"}), add(falsecloud.Server{Name: "anti2"}))
	f.look(nil, nil)
	before := f.nova.Calls()
	p := plan.Foresee(f.judged(), f.survey("n0001"), []string{"n0001"})
	calls := 0
	for kind, n := range f.nova.Calls() {
		calls += n - before[kind]
	}
	if p.Unfit != 1 || p.Left != 1 || len(p.Held) > 0 || calls != p.Requests || calls != 5 {
		t.Fatalf("%d requests (%d told); %+v", calls, p.Requests, p)
	}
	f.lost["n0001"] = true
	f.nova.Kill("n0001")
	began := f.w.Now
	f.until("all servers elsewhere that have a place", 10*time.Minute, func() bool {
		ended := 0
		for _, e := range f.w.State.Evacuations {
			if e.Ended != "" {
				ended++
			}
		}
		return ended == len(p.Fates)-2
	})
	took := f.w.Now.Sub(began)
	f.look([]string{"n0001"}, fleet.Sorted(f.w.State.Evacuations))
	same := 0
	for _, x := range p.Fates {
		s := f.w.Cloud.Servers[x.Server]
		switch {
		case x.Server == wide && (x.State != fleet.FateUnfit || s.Host != "n0001" || s.State != fleet.ServerError):
			t.Errorf("wide: %+v, and is %+v", x, s)
		case x.Server == left && (x.State != fleet.FateLeft || s.Host != "n0001"):
			t.Errorf("left: %+v, and is %+v", x, s)
		case x.Server == ssd && (s.Host != "n0004" || x.To != "n0004"):
			t.Errorf("ssd: %+v, and is on %s", x, s.Host)
		case x.To != "" && x.To == s.Host:
			same++
		}
	}
	moved := len(p.Fates) - 2
	t.Logf("%d of %d servers are where the preview said; the last one after %v, foreseen %v to %v", same, moved, took, p.Last.Least, p.Last.Most)
	if same < moved-2 { // a try ends at another moment than foreseen, and two change places
		t.Errorf("only %d of %d servers are where the preview said: %+v", same, moved, p.Fates)
	}
}

// TestPreviewAtScale: a look at all losses of a large cloud takes few requests.
func TestPreviewAtScale(t *testing.T) {
	computes, servers := *scaleComputes, 20
	f := newField(t, computes, servers)
	f.turn()
	before := f.nova.Calls()
	begin, cpu := time.Now(), used(t)
	s := f.survey()
	asked, askedCPU := time.Since(begin), used(t)-cpu
	requests := 0
	for kind, n := range f.nova.Calls() {
		requests += n - before[kind]
	}
	w := f.judged()
	cpu = used(t)
	c := plan.Bear(w, s)
	bearCPU := used(t) - cpu
	// Hypervisors and servers by pages; groups, aggregates and candidates by one.
	if most := 3 + (computes+999)/1000 + (computes*servers+499)/500; requests > most || requests != s.Requests || len(s.Servers) != computes*servers {
		t.Errorf("%d requests, at most %d were expected, %d were told; %d servers", requests, most, s.Requests, len(s.Servers))
	}
	if len(c.Short) > 0 || c.Hosts != computes || c.Zones["nova"].K < 1 {
		t.Errorf("%+v", c)
	}
	one := f.survey("n0001")
	cpu = used(t)
	p := plan.Foresee(w, one, []string{"n0001"})
	oneCPU := used(t) - cpu
	if one.Requests > 6 || p.Unfit > 0 || len(p.Fates) != servers {
		t.Errorf("one host: %d requests, %+v", one.Requests, p)
	}
	var rack []string
	for i := range max(4, computes/25) {
		rack = append(rack, fmt.Sprintf("n%04d", i+1))
	}
	cpu = used(t)
	p = plan.Foresee(w, s, rack)
	if len(p.Fates) != len(rack)*servers || p.Unfit > 0 || !slices.IsSorted(p.Hosts) {
		t.Errorf("a rack: %d servers, %d without a place", len(p.Fates), p.Unfit)
	}
	t.Logf("%d computes, %d servers: %d requests, %v (client and played cloud %v of CPU); all losses %v of CPU, %d can be lost at once; one host: %d requests, %v; a rack of %d: %v, last server after %v to %v",
		computes, len(s.Servers), requests, asked.Round(time.Millisecond), askedCPU.Round(time.Millisecond), bearCPU.Round(time.Millisecond), c.Zones["nova"].K, one.Requests, oneCPU.Round(time.Millisecond),
		len(rack), (used(t) - cpu).Round(time.Millisecond), p.Last.Least, p.Last.Most)
}

// used is the CPU time of this process.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
