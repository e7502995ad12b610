package openstack_test

import (
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"mainstay/fleet"
	"mainstay/openstack/falsecloud"
)

// TestSurvey: what the room is, what servers need, and how few requests tell it.
func TestSurvey(t *testing.T) {
	f, _, client := serve(t, falsecloud.Config{Page: 40})
	for i := range 100 {
		host := fmt.Sprintf("n%03d", i)
		f.AddCompute(host, "", 8192)
		if i > 2 {
			f.AddServer(falsecloud.Server{Name: "s", Host: host, RAM: 1024, VCPUs: 2})
		}
	}
	f.Shape("n000", falsecloud.Shape{VCPUs: 8, Disk: 100, Ratio: map[string]float64{"VCPU": 4, "MEMORY_MB": 1.5}, Reserved: map[string]int{"MEMORY_MB": 512}, Traits: []string{"CUSTOM_SSD"}, Devices: map[string]int{"CUSTOM_PCI_GPU": 2}})
	gpu := f.AddServer(falsecloud.Server{Name: "gpu", Host: "n000", RAM: 2048, VCPUs: 4, Disk: 20, Extra: map[string]string{
		"pci_passthrough:alias": "gpu:1", "hw:numa_nodes": "1", "trait:CUSTOM_SSD": "required", "trait:CUSTOM_OLD": "forbidden", "aggregate_instance_extra_specs:ssd": "true", "resources:CUSTOM_X": "0", "quota:cpu_shares": "2",
	}})
	vol := f.AddServer(falsecloud.Server{Name: "vol", Host: "n000", RAM: 512, VCPUs: 1, Volume: true})
	f.AddServer(falsecloud.Server{Name: "full", Host: "n001", RAM: 8192, VCPUs: 1})
	away := f.AddServer(falsecloud.Server{Name: "away", Host: "n002", RAM: 512, VCPUs: 1})
	f.AddGroup("anti-affinity", gpu, away)
	f.AddGroup("soft-anti-affinity", gpu, vol)
	f.AddAggregate(falsecloud.Aggregate{Name: "fast", Hosts: []string{"n000"}, Metadata: map[string]string{"ssd": "true"}})

	s, err := client.Survey(t.Context(), 7, nil)
	if err != nil || s.Away != "" || s.At != 7 || !s.Whole || len(s.Servers) != 101 || len(s.Rooms) != 100 {
		t.Fatalf("%v, %q, %d servers, %d rooms", err, s.Away, len(s.Servers), len(s.Rooms))
	}
	left := s.Rooms["n000"].Left
	if want := map[string]int{"VCPU": 8*4 - 5, "MEMORY_MB": (8192-512)*3/2 - 2560, "DISK_GB": 80, "CUSTOM_PCI_GPU": 1}; !maps.Equal(left, want) {
		t.Errorf("left on n000: %v, want %v", left, want)
	}
	if r := s.Rooms["n000"]; !r.Traits["CUSTOM_SSD"] || r.Whole["VCPU"] != 8 {
		t.Errorf("%+v", r)
	}
	if left := s.Rooms["n001"].Left["MEMORY_MB"]; left != 0 {
		t.Errorf("the full one has %d MiB left", left)
	}
	want := fleet.Need{Resources: map[string]int{"VCPU": 4, "MEMORY_MB": 2048, "DISK_GB": 20, "CUSTOM_PCI_GPU": 1}, Required: []string{"CUSTOM_SSD"}, Forbidden: []string{"CUSTOM_OLD"},
		Aggregate: map[string]string{"ssd": "true"}, PCI: "gpu:1", NUMA: "hw:numa_nodes=1"}
	if !reflect.DeepEqual(s.Needs[gpu], want) {
		t.Errorf("needs %+v\nwant  %+v", s.Needs[gpu], want)
	}
	if n := s.Needs[vol].Resources; n["DISK_GB"] != 0 || n["MEMORY_MB"] != 512 {
		t.Errorf("of one with a volume: %v", n)
	}
	if len(s.Groups) != 1 || s.Groups[0].Policy != fleet.AntiAffinity || len(s.Groups[0].Members) != 2 || len(s.Aggregates) != 1 {
		t.Errorf("groups %+v, aggregates %+v", s.Groups, s.Aggregates)
	}
	// Three pages of hypervisors and of servers, and one each of aggregates, groups, images, candidates
	// and the devices of an alias.
	if calls := f.Calls(); s.Requests != 11 || calls["GET allocation_candidates"] != 1 || calls["GET servers/detail"] != 3 || calls["GET allocations/ID"] != 1 {
		t.Errorf("%d requests: %v", s.Requests, calls)
	}

	one, err := client.Survey(t.Context(), 8, []string{"n000"})
	if err != nil || one.Whole || len(one.Servers) != 3 || one.Servers[away].Host != "n002" || len(one.Needs) != 2 {
		t.Errorf("of one host: %v, %d servers, %d needs: %+v", err, len(one.Servers), len(one.Needs), one.Servers[away])
	}

	f.Break(falsecloud.Fault{Path: "/placement/", Status: 503})
	s, err = client.Survey(t.Context(), 9, nil)
	if err != nil || !strings.Contains(s.Away, "503") || s.Rooms["n002"].Left["MEMORY_MB"] != 8192-512 || len(s.Rooms["n002"].Traits) > 0 {
		t.Errorf("Placement is away: %v, %q, %+v", err, s.Away, s.Rooms["n002"])
	}
}
