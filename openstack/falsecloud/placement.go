package falsecloud

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Placement, as far as a preview asks it, and what Nova's scheduler makes of it: the room on
// the computes by resource class, traits, aggregates, server groups.

const placement = "/placement"

// Shape is what a compute has beside its memory, and how Placement counts it.
type Shape struct {
	VCPUs, Disk int // of the machine; GiB
	// Ratio and Reserved are by resource class: VCPU, MEMORY_MB, DISK_GB. No ratio is 1.
	Ratio    map[string]float64
	Reserved map[string]int
	Traits   []string
	Devices  map[string]int // by resource class, each in a provider of its own
}

// roomy is a compute of which only the memory is ever short.
var roomy = Shape{VCPUs: 1000, Disk: 100_000}

// Aggregate is one host aggregate.
type Aggregate struct {
	Name     string
	Hosts    []string
	Metadata map[string]string
}

// group is one server group.
type group struct {
	id, policy string
	members    []string
}

// Shape gives a compute another shape than one of which only the memory is ever short.
func (c *Cloud) Shape(host string, s Shape) {
	defer c.enter()()
	c.computes[host].shape = s
}

// AddAggregate adds a host aggregate, and returns its id.
func (c *Cloud) AddAggregate(a Aggregate) string {
	defer c.enter()()
	c.aggregates = append(c.aggregates, a)
	return strconv.Itoa(len(c.aggregates))
}

// AddGroup puts servers, by id, into a server group of a policy: affinity, anti-affinity, or a soft one.
func (c *Cloud) AddGroup(policy string, members ...string) {
	defer c.enter()()
	c.groups = append(c.groups, &group{id: c.id(), policy: policy, members: members})
}

// capacity is what Placement gives out of a class on a compute.
func (h *compute) capacity(class string) int {
	total := map[string]int{"VCPU": h.shape.VCPUs, "MEMORY_MB": h.ram, "DISK_GB": h.shape.Disk}[class]
	total -= h.shape.Reserved[class]
	if ratio := h.shape.Ratio[class]; ratio != 0 {
		return int(float64(total) * ratio)
	}
	return total
}

// asks is what a server is given, by resource class. The class of a PCI device is its alias's
// name here.
func (s *server) asks() map[string]int {
	out := map[string]int{"VCPU": max(1, s.VCPUs), "MEMORY_MB": s.RAM, "DISK_GB": s.Disk}
	if s.Volume {
		delete(out, "DISK_GB")
	}
	if alias, n, ok := strings.Cut(s.Extra["pci_passthrough:alias"], ":"); ok {
		out["CUSTOM_PCI_"+strings.ToUpper(alias)], _ = strconv.Atoi(n)
	}
	return out
}

// used is what is given out on a compute, and what is on its way there.
func (h *compute) given() map[string]int {
	out := map[string]int{}
	add := func(s *server) {
		for class, n := range s.asks() {
			out[class] += n
		}
	}
	for _, s := range h.servers {
		add(s)
	}
	for _, msg := range h.queue {
		add(msg.server)
	}
	if h.busy != nil {
		add(h.busy.server)
	}
	return out
}

// takes is the rest of the scheduler: Placement, traits and server groups.
func (c *Cloud) takes(h *compute, s *server) bool {
	given := h.given()
	for class, n := range s.asks() {
		has := h.capacity(class)
		if strings.HasPrefix(class, "CUSTOM_") {
			has = h.shape.Devices[class]
		}
		if has-given[class] < n {
			return false
		}
	}
	if s.VCPUs > h.shape.VCPUs {
		return false // no server is larger than the machine
	}
	for key, value := range s.Extra {
		if trait, ok := strings.CutPrefix(key, "trait:"); ok && value == "required" && !slices.Contains(h.shape.Traits, trait) {
			return false
		}
	}
	for _, g := range c.groups {
		if !slices.Contains(g.members, s.id) {
			continue
		}
		here := 0
		for _, id := range g.members {
			if m := c.servers[id]; m != nil && !m.deleted && m != s && (m.Host == h.name || h.expects(m)) {
				here++
			}
		}
		if g.policy == "anti-affinity" && here > 0 || g.policy == "affinity" && here == 0 {
			return false
		}
	}
	return true
}

// expects says whether a server is on its way to a compute.
func (h *compute) expects(s *server) bool {
	return h.busy != nil && h.busy.server == s || slices.ContainsFunc(h.queue, func(m *message) bool { return m.server == s })
}

func (c *Cloud) candidates(w http.ResponseWriter, r *request) {
	class, amount, ok := strings.Cut(r.FormValue("resources"), ":")
	n, err := strconv.Atoi(amount)
	if !ok || err != nil || n < 1 {
		complain(w, 400, "errors", "Badly formed resources parameter. Expected resources query string parameter in form: ?resources=VCPU:2,MEMORY_MB:1024.")
		return
	}
	if v := strings.TrimPrefix(r.Header.Get("OpenStack-API-Version"), "placement "); v < "1.29" {
		complain(w, 404, "errors", "The resource could not be found.") // one without trees is not played
		return
	}
	requests, summaries := []object{}, object{}
	for _, h := range c.sorted() {
		given := h.given()
		if h.lost || h.capacity(class)-given[class] < n {
			continue
		}
		requests = append(requests, object{"allocations": object{h.id: object{"resources": object{class: n}}}, "mappings": object{"": []string{h.id}}})
		traits := append([]string{"COMPUTE_NODE"}, h.shape.Traits...)
		if h.disabled {
			traits = append(traits, "COMPUTE_STATUS_DISABLED")
		}
		resources := object{}
		for _, class := range []string{"VCPU", "MEMORY_MB", "DISK_GB"} {
			resources[class] = object{"capacity": h.capacity(class), "used": given[class]}
		}
		summaries[h.id] = object{"parent_provider_uuid": nil, "root_provider_uuid": h.id, "resources": resources, "traits": traits}
		for i, class := range slices.Sorted(maps.Keys(h.shape.Devices)) {
			summaries[fmt.Sprintf("%s%02d", h.id[:len(h.id)-2], i)+"-device"] = object{"parent_provider_uuid": h.id, "root_provider_uuid": h.id, "traits": []string{},
				"resources": object{class: object{"capacity": h.shape.Devices[class], "used": given[class]}}}
		}
	}
	answer(w, 200, object{"allocation_requests": requests, "provider_summaries": summaries})
}

func (c *Cloud) allocations(w http.ResponseWriter, r *request) {
	out := object{}
	if s := c.servers[r.PathValue("id")]; s != nil && !s.deleted && s.Host != "" {
		out[c.computes[s.Host].id] = object{"generation": 1, "resources": s.asks()}
	}
	answer(w, 200, object{"allocations": out, "project_id": "p", "user_id": "u"})
}

func (c *Cloud) listAggregates(w http.ResponseWriter, _ *request) {
	out := []object{}
	for i := range c.aggregates {
		out = append(out, c.shown(i))
	}
	answer(w, 200, object{"aggregates": out})
}

// listGroups counts its pages by an offset, as Nova does, and says of none that there is a next one.
func (c *Cloud) listGroups(w http.ResponseWriter, r *request) {
	list := c.groups
	if r.FormValue("all_projects") == "" {
		list = nil // the user's own project has none
	}
	offset, _ := strconv.Atoi(r.FormValue("offset"))
	list = list[min(offset, len(list)):]
	limit := c.cfg.Page
	if n, err := strconv.Atoi(r.FormValue("limit")); err == nil && n < limit {
		limit = n
	}
	out := []object{}
	for _, g := range list[:min(limit, len(list))] {
		members := []string{}
		for _, id := range g.members {
			if m := c.servers[id]; m != nil && !m.deleted {
				members = append(members, id)
			}
		}
		out = append(out, object{"id": g.id, "name": "g", "policy": g.policy, "rules": object{}, "members": members, "project_id": "p", "user_id": "u"})
	}
	answer(w, 200, object{"server_groups": out})
}
