package openstack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gophercloud/gophercloud/v2"

	"mainstay/fleet"
)

// placed is the microversion of Placement's API that is spoken, as the second number of
// 1.x (Rocky): the first whose candidates come with whole trees of providers.
const placed = 29

// surveyPage is how many servers a survey asks for at a time: 200 in detail took a real
// Nova 2.6 s.
const surveyPage = 500

// Survey asks how much room the computes have and what servers ask of them: all servers, or
// those on hosts if any are named. began is when the caller began, and becomes Survey.At.
//
// It takes few requests: Nova's hypervisors, aggregates and server groups, a page each for
// up to 1,000; the servers by 500; and one to Placement, for the candidates for a mebibyte
// of memory, whose summaries are the inventories (ratio and reservation counted in), usages and traits
// of all providers at once. A compute that is not among them has none left. Reading these one
// provider at a time would take four requests for each compute. One more is made for each
// alias of PCI devices that servers use, which Placement knows by another name, and where
// hosts are named one for each member of a group that is elsewhere.
//
// That Placement is away is no error: Survey.Away says so. Any other missing answer is one,
// and so is the end of ctx, by which the caller bounds the whole.
func (c *Client) Survey(ctx context.Context, began fleet.Moment, hosts []string) (fleet.Survey, error) {
	nova, err := c.connect(ctx)
	if err != nil {
		return fleet.Survey{}, err
	}
	c.mu.Lock()
	placement := c.placement
	c.mu.Unlock()
	v := survey{
		look: look{c: c, nova: nova, width: make(chan struct{}, width)}, hosts: unique(hosts), byID: map[string]string{},
		out: fleet.Survey{At: began, Whole: len(hosts) == 0, Rooms: map[string]fleet.Room{}, Servers: map[string]fleet.Server{}, Needs: map[string]fleet.Need{}},
	}
	var errs [4]error
	var away error
	v.begin(func() { errs[0] = v.hypervisors(ctx) })
	v.begin(func() { errs[1] = v.aggregates(ctx) })
	v.begin(func() { errs[2] = v.groups(ctx) })
	v.begin(func() { errs[3] = v.everybody(ctx) })
	v.wait.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return fleet.Survey{}, err
	}
	if away = v.candidates(ctx, placement); away == nil {
		away = v.devices(ctx, placement)
	}
	if away != nil {
		v.out.Away = away.Error()
		v.unplaced()
	}
	if c.local() {
		v.asked()
		if v.out.Images, away = c.pictures(ctx, ""); away != nil {
			v.out.Glance = away.Error()
		}
	}
	if len(hosts) > 0 {
		if err := v.companions(ctx); err != nil {
			return fleet.Survey{}, err
		}
	}
	left, err := c.ownersOf(ctx, nova, owners(maps.Values(v.out.Servers)))
	if err != nil {
		return fleet.Survey{}, err
	}
	for id, s := range v.out.Servers {
		if name, ok := left[s.Project]; ok {
			s.Project = name
			v.out.Servers[id] = s
		}
	}
	v.settle()
	return v.out, nil
}

// survey is one survey on its way.
type survey struct {
	look
	hosts []string
	mu    sync.Mutex
	out   fleet.Survey
	byID  map[string]string // the host of each hypervisor, whose id Placement's provider has too
	free  map[string]int    // MiB, by Nova's count
	specs map[string]spec
}

// spec is what is read of a server's flavor.
type spec struct {
	vcpus, ram, disk int // MiB, GiB
	extra            map[string]string
}

func (v *survey) asked() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out.Requests++
}

// listed reads a whole list of Nova's, page by page.
func listed[T any](ctx context.Context, v *survey, doing, path, key string, q url.Values, marker func(T) string, f func(T)) error {
	nova, _ := v.speaker()
	err := list(ctx, nova, path, key, q, marker, func(part []T) (bool, error) {
		v.asked()
		for _, x := range part {
			f(x)
		}
		return true, nil
	})
	if err != nil {
		v.c.forget(err)
		return fmt.Errorf("%s: %w", doing, plain(err))
	}
	return nil
}

// hypervisors reads what each machine has: the most that one server can be given, which
// nova-compute tells Placement too.
func (v *survey) hypervisors(ctx context.Context) error {
	type machine struct {
		hypervisor
		VCPUs  int `json:"vcpus"`
		Memory int `json:"memory_mb"`
		Disk   int `json:"local_gb"`
	}
	v.free = map[string]int{}
	// Not by speaker: from 2.88 on their sizes are not told.
	err := list(ctx, v.nova, "os-hypervisors/detail", "hypervisors", url.Values{"limit": {strconv.Itoa(page)}}, func(m machine) string { return m.ID }, func(part []machine) (bool, error) {
		v.asked()
		for _, m := range part {
			host := m.Service.Host
			room := fleet.Room{Left: map[string]int{}, Whole: map[string]int{}, Traits: map[string]bool{}}
			for class, n := range map[string]int{fleet.ClassVCPU: m.VCPUs, fleet.ClassPCPU: m.VCPUs, fleet.ClassMemory: m.Memory, fleet.ClassDisk: m.Disk} {
				if n > 0 {
					room.Whole[class] = n
				}
			}
			v.byID[m.ID], v.free[host] = host, v.free[host]+m.FreeRAM
			v.out.Rooms[host] = room
		}
		return true, nil
	})
	if err != nil {
		v.c.forget(err)
		return fmt.Errorf("list the hypervisors: %w", plain(err))
	}
	return nil
}

func (v *survey) aggregates(ctx context.Context) error {
	type aggregate struct {
		Name     string            `json:"name"`
		Hosts    []string          `json:"hosts"`
		Metadata map[string]string `json:"metadata"`
	}
	return listed(ctx, v, "list the aggregates", "os-aggregates", "aggregates", nil, nil, func(a aggregate) {
		v.out.Aggregates = append(v.out.Aggregates, fleet.Aggregate{Name: a.Name, Hosts: a.Hosts, Says: a.Metadata})
	})
}

// groups reads the server groups with a hard policy. Their pages are counted by an offset, and
// nothing says whether there is another.
func (v *survey) groups(ctx context.Context) error {
	type group struct {
		ID      string   `json:"id"`
		Policy  string   `json:"policy"`
		Members []string `json:"members"`
		Rules   struct {
			Most int `json:"max_server_per_host"`
		} `json:"rules"`
	}
	for offset := 0; ; {
		n := 0
		q := url.Values{"all_projects": {"true"}, "limit": {strconv.Itoa(page)}, "offset": {strconv.Itoa(offset)}}
		err := listed(ctx, v, "list the server groups", "os-server-groups", "server_groups", q, nil, func(g group) {
			n++
			if g.Policy != fleet.Affinity && g.Policy != fleet.AntiAffinity {
				return
			}
			v.out.Groups = append(v.out.Groups, fleet.Group{ID: g.ID, Policy: g.Policy, Most: max(1, g.Rules.Most), Members: g.Members})
		})
		if err != nil || n == 0 {
			return err
		}
		if offset += n; n < groupsLeast {
			return nil
		}
	}
}

// groupsLeast is the smallest max_limit of a Nova that is reckoned with: a page of fewer
// groups than that is the last.
const groupsLeast = 100

// everybody reads the servers.
func (v *survey) everybody(ctx context.Context) error {
	read := func(q url.Values) error {
		_, full := v.speaker()
		q.Set("all_tenants", "true")
		q.Set("limit", strconv.Itoa(surveyPage))
		return listed(ctx, v, "list the servers", "servers/detail", "servers", q, func(s server) string { return s.ID }, func(s server) {
			words, err := s.words(full)
			if err != nil || words.Host == "" {
				return // its cell is away, or it is nowhere
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			v.out.Servers[s.ID] = words
			v.specs[s.ID] = s.spec(words.Volume)
		})
	}
	v.specs = map[string]spec{}
	if len(v.hosts) == 0 {
		return read(url.Values{})
	}
	for _, host := range v.hosts {
		if err := read(url.Values{"host": {host}}); err != nil {
			return err
		}
	}
	return nil
}

// spec is what the flavor of a server asks for. One that boots from a volume has no root disk
// on its compute.
func (s server) spec(volume bool) spec {
	f := s.Flavor
	disk := f.Ephemeral + (f.Swap+1023)/1024
	if !volume {
		disk += f.Disk
	}
	return spec{vcpus: f.VCPUs, ram: f.RAM, disk: disk, extra: f.Extra}
}

// candidates asks Placement for the room of all computes at once.
func (v *survey) candidates(ctx context.Context, placement *gophercloud.ServiceClient) error {
	if placement == nil {
		return errors.New("the catalogue has no Placement")
	}
	var said struct {
		Summaries map[string]struct {
			Root      string `json:"root_provider_uuid"`
			Resources map[string]struct {
				Capacity int `json:"capacity"`
				Used     int `json:"used"`
			} `json:"resources"`
			Traits []string `json:"traits"`
		} `json:"provider_summaries"`
	}
	v.asked()
	if _, err := placement.Get(ctx, placement.ServiceURL("allocation_candidates")+"?resources="+fleet.ClassMemory+":1", &said, nil); err != nil { //nolint:bodyclose // gophercloud does
		v.c.forget(err)
		return fmt.Errorf("ask Placement for its candidates: %w", plain(err))
	}
	for _, p := range said.Summaries { // they are added up: in whatever order
		room, known := v.out.Rooms[v.byID[p.Root]]
		if !known {
			continue // storage that several share, or a compute of somebody else's
		}
		for class, has := range p.Resources {
			room.Left[class] += has.Capacity - has.Used
		}
		for _, t := range p.Traits {
			room.Traits[t] = true
		}
	}
	return nil
}

// unplaced is the room as Nova counts it.
func (v *survey) unplaced() {
	for host, room := range v.out.Rooms {
		clear(room.Left)
		clear(room.Traits)
		room.Left[fleet.ClassMemory] = v.free[host]
	}
}

// settle puts into words what each server needs, once it is known which classes there are.
func (v *survey) settle() {
	dedicated := slices.ContainsFunc(slices.Collect(maps.Values(v.out.Rooms)), func(r fleet.Room) bool { _, has := r.Left[fleet.ClassPCPU]; return has })
	for id, s := range v.specs {
		need := s.need(dedicated)
		for class, n := range v.out.Needs[id].Resources { // of its devices
			need.Resources[class] = n
		}
		v.out.Needs[id] = need
	}
}

// need is what a flavor asks for in Placement's words, as Nova's scheduler puts it.
// dedicated says whether computes tell processors for one server alone apart from others.
func (s spec) need(dedicated bool) fleet.Need {
	n := fleet.Need{Resources: map[string]int{fleet.ClassVCPU: s.vcpus, fleet.ClassMemory: s.ram, fleet.ClassDisk: s.disk}}
	if dedicated && s.extra["hw:cpu_policy"] == "dedicated" {
		delete(n.Resources, fleet.ClassVCPU)
		n.Resources[fleet.ClassPCPU] = s.vcpus
	}
	var numa []string
	for _, key := range fleet.Sorted(s.extra) {
		value := s.extra[key]
		kind, name, _ := strings.Cut(key, ":")
		switch amount, err := strconv.Atoi(value); {
		case kind == "resources" && err == nil:
			n.Resources[name] = amount // instead of what the flavor says
		case strings.HasPrefix(kind, "resources") && err == nil:
			n.Resources[name] += amount // of a group of its own
		case strings.HasPrefix(kind, "trait") && value == "required":
			n.Required = append(n.Required, name)
		case strings.HasPrefix(kind, "trait") && value == "forbidden":
			n.Forbidden = append(n.Forbidden, name)
		case kind == "aggregate_instance_extra_specs":
			if n.Aggregate == nil {
				n.Aggregate = map[string]string{}
			}
			n.Aggregate[name] = value
		case key == aliasKey:
			n.PCI = value
		case key == "hw:numa_nodes", key == "hw:mem_page_size" && value != "small", key == "hw:cpu_policy" && value != "shared":
			numa = append(numa, key+"="+value)
		}
	}
	for class, amount := range n.Resources {
		if amount == 0 {
			delete(n.Resources, class)
		}
	}
	n.NUMA = strings.Join(numa, ", ")
	return n
}

// aliasKey is the flavor's word for PCI devices.
const aliasKey = "pci_passthrough:alias"

// devices finds by which resource classes Placement counts the PCI devices of an alias: by
// what one server that has them was given.
func (v *survey) devices(ctx context.Context, placement *gophercloud.ServiceClient) error {
	by := map[string][]string{}
	for _, id := range fleet.Sorted(v.specs) {
		if alias := v.specs[id].extra[aliasKey]; alias != "" {
			by[alias] = append(by[alias], id)
		}
	}
	for _, alias := range fleet.Sorted(by) {
		var said struct {
			Allocations map[string]struct {
				Resources map[string]int `json:"resources"`
			} `json:"allocations"`
		}
		v.asked()
		if _, err := placement.Get(ctx, placement.ServiceURL("allocations", by[alias][0]), &said, nil); err != nil { //nolint:bodyclose // gophercloud does
			return fmt.Errorf("ask Placement what server %s was given: %w", by[alias][0], plain(err))
		}
		given := map[string]int{}
		for _, a := range said.Allocations {
			for class, n := range a.Resources {
				switch {
				case strings.HasPrefix(class, "CUSTOM_"), class == "PGPU", class == "VGPU":
					given[class] += n
				}
			}
		}
		for _, id := range by[alias] {
			v.out.Needs[id] = fleet.Need{Resources: given}
		}
	}
	return nil
}

// companions finds where the further members of the groups are, so that it is known which
// hosts they keep.
func (v *survey) companions(ctx context.Context) error {
	var missing []string
	for _, g := range v.out.Groups {
		if slices.ContainsFunc(g.Members, func(id string) bool { _, here := v.out.Servers[id]; return here }) {
			missing = append(missing, g.Members...)
		}
	}
	missing = slices.DeleteFunc(unique(missing), func(id string) bool { _, here := v.out.Servers[id]; return here })
	errs := make([]error, len(missing))
	found := make([]fleet.Server, len(missing))
	for i, id := range missing {
		v.begin(func() {
			v.asked()
			found[i], errs[i] = v.one(ctx, id)
		})
	}
	v.wait.Wait()
	for i, id := range missing {
		if errs[i] == nil && found[i].State != fleet.ServerDeleted {
			v.out.Servers[id] = found[i]
		}
	}
	return errors.Join(errs...)
}
