package plan

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"mainstay/fleet"
)

// large is a World of many hosts and copies of services at rest: three voters,
// computes with the same services on each, and active/passive services between
// them.
func large(hosts, services int) fleet.World {
	w := fleet.World{
		Now: fleet.Moment(time.Hour), Wall: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), Leader: "c1", Epoch: 1,
		Reports: map[string]fleet.Report{}, Heard: map[string]fleet.Heard{}, Rounds: map[string]fleet.Round{}, Flights: map[string]fleet.Flight{},
		State: fleet.State{Epoch: 1, Members: map[string]fleet.Member{}, Holdings: map[string]fleet.Holding{}},
	}
	w.Spec.Timing = fleet.Presets()["room"]
	w.Spec.Brakes = fleet.Brakes{Share: 20, Count: 3}
	for _, n := range []string{"management", "storage"} {
		w.Spec.Networks = append(w.Spec.Networks, fleet.Network{Name: n})
	}
	for i := range hosts {
		h := fleet.Host{Name: fmt.Sprintf("n%04d", i), Roles: []string{"compute"}, Addresses: map[string]netip.Addr{}}
		if i < 3 {
			h.Name, h.Roles, h.Voter = fmt.Sprintf("c%d", i+1), []string{"controller"}, true
		}
		for k, n := range w.Spec.Networks {
			h.Addresses[n.Name] = netip.AddrFrom4([4]byte{10, byte(k), byte(i >> 8), byte(i)})
		}
		w.Spec.Hosts = append(w.Spec.Hosts, h)
		stint := fleet.Stint{Host: h.Name, Boot: "b", N: 1}
		w.State.Members[h.Name] = fleet.Member{Host: h.Name, Admitted: "b"}
		w.Heard[h.Name] = fleet.Heard{Stint: stint, Last: w.Now, Leased: true, Nets: map[string]fleet.Moment{"management": w.Now, "storage": w.Now}}
		w.Reports[h.Name] = fleet.Report{Host: h.Name, Boot: "b", Stint: 1, Epoch: 1, Leased: true,
			Addresses: map[string]fleet.AddressState{}, Services: map[string]fleet.ServiceState{}, Severed: map[string]uint64{}}
	}
	for i, name := range []string{"internal", "public"} {
		a := fleet.Address{Name: name, Network: "management", Addr: netip.AddrFrom4([4]byte{10, 0, 255, byte(i)})}
		w.Spec.Addresses = append(w.Spec.Addresses, a)
		w.State.Holdings[a.Thing()] = fleet.Holding{Thing: a.Thing(), Host: "c1", Boot: "b", Stint: 1, Generation: 1}
		w.Reports["c1"].Addresses[name] = fleet.AddressState{Generation: 1, Phase: fleet.Speaking}
	}
	add := func(v fleet.Service, homes []string) {
		v.Kind, v.Units = "systemd", []string{v.Name}
		w.Spec.Services = append(w.Spec.Services, v)
		for _, host := range homes {
			w.Reports[host].Services[v.Name] = fleet.ServiceState{Phase: fleet.Running, Ready: true}
		}
		if v.Mode == fleet.ActivePassive {
			for _, host := range homes[1:] {
				w.Reports[host].Services[v.Name] = fleet.ServiceState{Phase: fleet.Stopped}
			}
			w.State.Holdings[v.Thing()] = fleet.Holding{Thing: v.Thing(), Host: homes[0], Boot: "b", Stint: 1, Generation: 1}
			w.Reports[homes[0]].Services[v.Name] = fleet.ServiceState{Phase: fleet.Running, Ready: true, Generation: 1}
		}
	}
	var computes []string
	for _, h := range w.Spec.Hosts[3:] {
		computes = append(computes, h.Name)
	}
	each := services / hosts
	for i := range each - 1 {
		add(fleet.Service{Name: fmt.Sprintf("agent%d", i), Mode: fleet.ActiveActive, Roles: []string{"compute"}}, computes)
	}
	for i := range 6 {
		add(fleet.Service{Name: fmt.Sprintf("api%d", i), Mode: fleet.ActiveActive, Roles: []string{"controller"},
			Listen: fleet.Listen{Port: 5000 + i}}, []string{"c1", "c2", "c3"})
	}
	for i := range services / hosts * 50 {
		pair := []string{computes[i%len(computes)], computes[(i+1)%len(computes)]}
		add(fleet.Service{Name: fmt.Sprintf("pair%03d", i), Mode: fleet.ActivePassive, Hosts: pair}, pair)
	}
	return w
}

// TestTurnOfALargeSite sees that a large site at rest is at rest.
func TestTurnOfALargeSite(t *testing.T) {
	_, p := Turn(large(1000, 10000))
	if len(p.Records)+len(p.Orders)+len(p.Waits)+len(p.Asks) > 0 {
		t.Errorf("%d records, %d orders, %d asks, waits %v", len(p.Records), len(p.Orders), len(p.Asks), p.Waits)
	}
}

// BenchmarkTurn is one whole turn over a World of 1,000 hosts and 10,000 copies
// of services; "fallen" is the same with one host silent and its things to move.
func BenchmarkTurn(b *testing.B) {
	rest := large(1000, 10000)
	fallen := large(1000, 10000)
	h := fallen.Heard["n0003"]
	h.Last, h.Nets = fallen.Now.Add(-time.Minute), nil
	fallen.Heard["n0003"] = h
	for name, w := range map[string]fleet.World{"rest": rest, "fallen": fallen, "computes": computes(10000)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			began := cpu(b)
			for b.Loop() {
				Turn(w)
			}
			// On a busy machine the wall clock tells of others.
			b.ReportMetric(float64((cpu(b)-began).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// computes is a World at rest of three voters and that many computes of OpenStack on four networks, as `make
// beats` plays it.
func computes(n int) fleet.World {
	w := large(n+3, 0)
	w.Spec.Addresses, w.Spec.Services, w.Spec.OpenStack = nil, nil, fleet.OpenStack{Cloud: "here"}
	w.State.Holdings = map[string]fleet.Holding{}
	w.Told = map[string]fleet.Moment{}
	for _, network := range []string{"tenant", "migration"} {
		w.Spec.Networks = append(w.Spec.Networks, fleet.Network{Name: network})
	}
	for i := range w.Spec.Hosts {
		h := &w.Spec.Hosts[i]
		h.Fence = []fleet.Level{{{Driver: "redfish"}}}
		links := map[string]bool{}
		for k, network := range w.Spec.Networks {
			h.Addresses[network.Name] = netip.AddrFrom4([4]byte{10, byte(k), byte(i >> 8), byte(i)})
			w.Heard[h.Name].Nets[network.Name] = w.Now
			links[network.Name] = true
		}
		r := w.Reports[h.Name]
		r.Links, r.Addresses, r.Severed = links, nil, nil
		for _, service := range []string{"libvirtd", "nova-compute", "neutron-agent"} {
			r.Services[service] = fleet.ServiceState{Phase: fleet.Running, Ready: true}
		}
		w.Reports[h.Name], w.Told[h.Name] = r, w.Now
		if !h.Voter {
			w.State.Holdings[Compute(h.Name)] = fleet.Holding{Thing: Compute(h.Name), Host: h.Name, Boot: "b", Generation: 1, Why: "as ever"}
		}
	}
	return w
}

// TestTurnOfManyComputes sees that they are at rest, and that the World is what it says it is.
func TestTurnOfManyComputes(t *testing.T) {
	_, p := Turn(computes(100))
	if len(p.Records)+len(p.Orders)+len(p.Waits)+len(p.Asks) > 0 {
		t.Errorf("%d records, %d orders, %d asks, waits %v", len(p.Records), len(p.Orders), len(p.Asks), p.Waits)
	}
}
