package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"mainstay/fleet"
)

// width is how many requests of one look are on their way at a time. Nova's API has a
// handful of workers for all of its users.
const width = 4

// page is the size of a page that is asked for; Nova gives at most its own max_limit.
const page = 1000

// few is up to how many servers are asked for one by one. More of them are found in one
// list of what changed of late.
const few = 8

// room is what a hypervisor says of itself.
type room struct{ servers, freeRAM int }

// Look asks Nova for all computes, for all servers on each of hosts, for the further
// servers wherever they are, and for the newest evacuation of each of those servers. began is
// when the caller began, and becomes Cloud.At and Cloud.Looked of what was answered.
//
// What was answered is returned even with an error, which says what was not: the computes
// are all there or At is zero, a host's servers are all there or the host is not in Looked.
// A server that no longer exists has the state fleet.ServerDeleted. No more than four
// requests are on their way at a time: two for all computes, one for the aggregates where the site has reserves, one for each of hosts, one for
// the evacuations; and one for what has moved elsewhere.
func (c *Client) Look(ctx context.Context, began fleet.Moment, hosts, further []string) (fleet.Cloud, error) {
	var out fleet.Cloud
	nova, err := c.connect(ctx)
	if err != nil {
		return fleet.Cloud{Away: err.Error()}, err
	}
	l := look{c: c, nova: nova, servers: map[string]fleet.Server{}, width: make(chan struct{}, width)}

	var computes, rooms, aggregates error
	var found map[string]fleet.Compute
	var lost map[string]bool
	hosts, further = unique(hosts), unique(further)
	seen := make([]map[string]fleet.Server, len(hosts))
	failures := make([]error, len(hosts))
	l.begin(func() { found, lost, computes = l.computes(ctx) })
	l.begin(func() { rooms = l.rooms(ctx) })
	if len(c.cfg.Reserved) > 0 {
		l.begin(func() { out.Aggregates, aggregates = l.aggregates(ctx) })
	}
	for i, h := range hosts {
		l.begin(func() { seen[i], failures[i] = l.on(ctx, h) })
	}
	l.wait.Wait()

	var errs []error
	if computes == nil {
		out.At, out.Computes = began, found
		c.fill(found)
	}
	errs = append(errs, computes, rooms, aggregates)
	for i, h := range hosts {
		if failures[i] == nil && computes != nil && len(seen[i]) == 0 {
			// It could be in a cell that does not answer: that shows among the computes only.
			failures[i] = fmt.Errorf("list the servers on %s: there are none, or Nova's cell of it is away", h)
		}
		if lost[h] {
			failures[i] = fmt.Errorf("list the servers on %s: Nova does not reach its cell", h)
		}
		errs = append(errs, failures[i])
		if failures[i] != nil {
			continue
		}
		for id, s := range seen[i] {
			l.servers[id] = s
		}
	}
	// Those who look at no server ask for no record of live migrations: there are many.
	migrated := error(nil)
	if len(hosts)+len(further) > 0 {
		migrated = c.live.read(ctx, nova, l.servers, further)
	}
	// Servers first, then what became of their evacuations: a look never shows an older
	// record beside a newer server.
	if err := errors.Join(c.history.read(ctx, nova, l.servers, further), migrated); err != nil {
		errs = append(errs, err)
		l.servers = nil // without the record nobody knows whether one is on its way
	} else {
		out.Looked = map[string]fleet.Moment{}
		for i, h := range hosts {
			if failures[i] == nil {
				out.Looked[h] = began
			}
		}
		errs = append(errs, l.seek(ctx, further))
		left, unknown := c.ownersOf(ctx, nova, owners(maps.Values(l.servers)))
		if unknown != nil {
			l.servers, out.Looked = nil, nil // nobody knows whose servers those are
		}
		errs = append(errs, unknown)
		out.Servers = l.servers
		for id, s := range out.Servers {
			s.Migration, s.Live = c.history.of(id, s.Host), c.live.of(id, s.Host)
			if name, ok := left[s.Project]; ok {
				s.Project = name
			}
			out.Servers[id] = s
		}
		c.seen(ctx, began, &out, further)
	}
	if err := errors.Join(errs...); err != nil {
		out.Away = err.Error()
		return out, err
	}
	return out, nil
}

// owners are the projects of servers.
func owners(servers iter.Seq[fleet.Server]) iter.Seq[string] {
	return func(yield func(string) bool) {
		for s := range servers {
			if !yield(s.Project) {
				return
			}
		}
	}
}

// look is one look on its way.
type look struct {
	c       *Client
	nova    *gophercloud.ServiceClient
	servers map[string]fleet.Server
	wait    sync.WaitGroup
	width   chan struct{}
}

// begin runs f when its turn has come.
func (l *look) begin(f func()) {
	l.wait.Go(func() {
		l.width <- struct{}{}
		defer func() { <-l.width }()
		f()
	})
}

// list reads a list of Nova's page by page, each page's name being key; f says whether it needs
// more. gophercloud's own paging reads one page of migrations and says nothing of the others,
// follows links in which a Nova behind a proxy names itself wrongly, and decodes each page four times.
func list[T any](ctx context.Context, nova *gophercloud.ServiceClient, path, key string, q url.Values, marker func(T) string, f func([]T) (more bool, err error)) error {
	for {
		var said map[string]json.RawMessage
		if _, err := nova.Get(ctx, nova.ServiceURL(path)+"?"+q.Encode(), &said, nil); err != nil { //nolint:bodyclose // gophercloud does
			return err
		}
		var part []T
		if err := json.Unmarshal(said[key], &part); err != nil {
			return fmt.Errorf("the answer is no list of %s: %w", key, err)
		}
		var next []gophercloud.Link
		if links := said[key+"_links"]; links != nil {
			if err := json.Unmarshal(links, &next); err != nil {
				return fmt.Errorf("the answer is no list of %s: %w", key, err)
			}
		}
		more, err := f(part)
		if err != nil || !more || len(part) == 0 || len(next) == 0 {
			return err
		}
		q.Set("marker", marker(part[len(part)-1]))
	}
}

// computes lists the services nova-compute, and which hosts are in a cell that Nova does
// not reach: it knows nothing of their servers then, and lists none.
func (l *look) computes(ctx context.Context) (map[string]fleet.Compute, map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	found, lost := map[string]fleet.Compute{}, map[string]bool{}
	list, err := serviceList(ctx, l.nova, "")
	if err != nil {
		l.c.forget(err)
		return nil, nil, fmt.Errorf("list the computes: %w", plain(err))
	}
	for _, s := range list {
		if s.Status == "UNKNOWN" {
			lost[s.Host] = true
			continue
		}
		l.c.know(s.Host, s.ID)
		found[s.Host] = fleet.Compute{ID: s.ID, Up: s.State == "up", Forced: s.Forced, Disabled: s.Status == "disabled", Reason: s.Reason, Zone: s.Zone}
	}
	return found, lost, nil
}

// binary is Nova's name of what runs on a compute.
const binary = "nova-compute"

// service is what is read of a service.
type service struct {
	ID     string `json:"id"`
	Host   string `json:"host"`
	State  string `json:"state"`
	Status string `json:"status"`
	Reason string `json:"disabled_reason"`
	Zone   string `json:"zone"`
	Forced bool   `json:"forced_down"`
}

// serviceList is the services of all computes, or of those of one host. gophercloud's own list
// calls the whole answer broken when one of them is in a cell that Nova does not reach: such a
// one has no id.
func serviceList(ctx context.Context, nova *gophercloud.ServiceClient, host string) ([]service, error) {
	q := url.Values{"binary": {binary}}
	if host != "" {
		q.Set("host", host)
	}
	var out []service
	err := list(ctx, nova, "os-services", "services", q, nil, func(all []service) (bool, error) {
		out = all // they are all on one page
		return false, nil
	})
	return out, err
}

// rooms lists the hypervisors. A host with several (bare metal) has the room of all.
func (l *look) rooms(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	found := map[string]room{}
	err := list(ctx, l.nova, "os-hypervisors/detail", "hypervisors", url.Values{"limit": {strconv.Itoa(page)}}, func(h hypervisor) string { return h.ID }, func(part []hypervisor) (bool, error) {
		for _, h := range part {
			r := found[h.Service.Host]
			r.servers += h.Servers
			r.freeRAM += h.FreeRAM
			found[h.Service.Host] = r
		}
		return true, nil
	})
	if err != nil {
		l.c.forget(err)
		return fmt.Errorf("list the hypervisors: %w", plain(err))
	}
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.c.rooms = found
	return nil
}

// hypervisor is what is read of one.
type hypervisor struct {
	ID      string `json:"id"`
	Servers int    `json:"running_vms"`
	FreeRAM int    `json:"free_ram_mb"`
	Service struct {
		Host string `json:"host"`
	} `json:"service"`
}

// fill adds to the computes what room they have, as the newest answer had it: that list is
// Nova's slowest, and that a compute is down must not wait for it.
func (c *Client) fill(computes map[string]fleet.Compute) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for host, at := range computes {
		at.Servers, at.FreeRAM = c.rooms[host].servers, c.rooms[host].freeRAM
		computes[host] = at
	}
}

// server is what is read of a server.
type server struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Project  string            `json:"tenant_id"`
	Status   string            `json:"status"`
	Host     string            `json:"OS-EXT-SRV-ATTR:host"`
	State    string            `json:"OS-EXT-STS:vm_state"`
	Task     string            `json:"OS-EXT-STS:task_state"`
	Zone     string            `json:"OS-EXT-AZ:availability_zone"`
	Pinned   *string           `json:"pinned_availability_zone"`
	Locked   bool              `json:"locked"`
	Reason   string            `json:"locked_reason"`
	Created  string            `json:"created"`
	Image    any               `json:"image"` // "": it boots from a volume
	Metadata map[string]string `json:"metadata"`
	Tags     []string          `json:"tags"`
	Flavor   struct {
		RAM       int               `json:"ram"`
		VCPUs     int               `json:"vcpus"`
		Disk      int               `json:"disk"`
		Ephemeral int               `json:"ephemeral"`
		Swap      int               `json:"swap"`
		Extra     map[string]string `json:"extra_specs"`
	} `json:"flavor"`
	Fault struct {
		Message string `json:"message"`
	} `json:"fault"`
	Addresses map[string][]struct {
		Addr string `json:"addr"`
		Type string `json:"OS-EXT-IPS:type"`
	} `json:"addresses"`
}

// own lists its addresses, the floating ones first.
func (s server) own() (out []netip.Addr) {
	for _, floating := range []bool{true, false} {
		for _, network := range fleet.Sorted(s.Addresses) {
			for _, a := range s.Addresses[network] {
				if addr, err := netip.ParseAddr(a.Addr); err == nil && (a.Type == "floating") == floating {
					out = append(out, addr)
				}
			}
		}
	}
	return out
}

// words is s as the carriers have it. full says that the answer tells which zone the owner
// asked for; else the zone of its host stands for it, which is the narrower promise.
func (s server) words(full bool) (fleet.Server, error) {
	if s.State == "" || s.Status == "UNKNOWN" {
		return fleet.Server{}, fmt.Errorf("read server %s: Nova does not reach its cell, or hides its state from this user", s.ID)
	}
	image, none := s.Image.(string)
	out := fleet.Server{
		ID: s.ID, Name: s.Name, Project: s.Project, Host: s.Host, State: s.State, Task: s.Task, Fault: s.Fault.Message, Locked: s.Locked, LockedFor: s.Reason,
		Zone: s.Zone, RAM: s.Flavor.RAM, VCPUs: s.Flavor.VCPUs, Volume: none && image == "", Image: imageID(s.Image), Created: s.Created, Metadata: s.Metadata, Tags: s.Tags,
	}
	if out.Metadata[fleet.MetaReady] != "" {
		out.Addresses = s.own()
	}
	if full {
		out.Zone = ""
		if s.Pinned != nil {
			out.Zone = *s.Pinned
		}
	}
	return out, nil
}

// speaker is the client that asks for servers, and whether it is told their pinned zone.
func (l *look) speaker() (*gophercloud.ServiceClient, bool) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	if l.c.newest >= pinned {
		return at(l.nova, pinned), true
	}
	return l.nova, false
}

// on lists all servers on a host.
func (l *look) on(ctx context.Context, host string) (map[string]fleet.Server, error) {
	return l.list(ctx, "list the servers on "+host, url.Values{"host": {host}})
}

// list lists servers. One that cannot be read is an error where a whole host is asked for, and
// else not listed.
func (l *look) list(ctx context.Context, doing string, q url.Values) (map[string]fleet.Server, error) {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	nova, full := l.speaker()
	out := map[string]fleet.Server{}
	q.Set("all_tenants", "true")
	q.Set("limit", strconv.Itoa(page))
	err := list(ctx, nova, "servers/detail", "servers", q, func(s server) string { return s.ID }, func(part []server) (bool, error) {
		for _, s := range part {
			words, err := s.words(full)
			if err != nil && q.Has("host") {
				return false, err
			}
			if err == nil {
				out[s.ID] = words
			}
		}
		return true, nil
	})
	if err != nil {
		l.c.forget(err)
		return nil, fmt.Errorf("%s: %w", doing, plain(err))
	}
	return out, nil
}

// seek finds those of the further servers that are on none of the hosts looked at: in one list
// of what changed since the oldest of their evacuations, if there are many of them.
func (l *look) seek(ctx context.Context, further []string) error {
	missing := l.missing(further)
	if len(missing) > few {
		if since := l.c.history.oldest(missing); !since.IsZero() {
			changed, err := l.list(ctx, "list the servers that moved", url.Values{"changes-since": {since.UTC().Format(time.RFC3339)}})
			if err != nil {
				return err
			}
			for _, id := range missing {
				if s, ok := changed[id]; ok {
					l.servers[id] = s
				}
			}
			missing = l.missing(further)
		}
	}
	errs := make([]error, len(missing))
	found := make([]fleet.Server, len(missing))
	for i, id := range missing {
		l.begin(func() { found[i], errs[i] = l.one(ctx, id) })
	}
	l.wait.Wait()
	for i, id := range missing {
		if errs[i] == nil {
			l.servers[id] = found[i]
		}
	}
	return errors.Join(errs...)
}

func (l *look) missing(further []string) (out []string) {
	for _, id := range further {
		if _, ok := l.servers[id]; !ok {
			out = append(out, id)
		}
	}
	return out
}

// one asks for one server.
func (l *look) one(ctx context.Context, id string) (fleet.Server, error) {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	nova, full := l.speaker()
	var s server
	err := servers.Get(ctx, nova, id).ExtractInto(&s)
	if err != nil {
		l.c.forget(err)
		if err = plain(err); status(err) == http.StatusNotFound {
			return fleet.Server{ID: id, State: fleet.ServerDeleted}, nil
		}
		return fleet.Server{}, fmt.Errorf("read server %s: %w", id, err)
	}
	return s.words(full)
}

// history is Nova's record of one sort of migration, newest of each server. It is read newest first,
// and no further back than may have changed since the last time, nor than age before the newest. Nova's own filter for that,
// changes-since, leaves out what was never changed after it was made: an evacuation that
// was accepted and then lost, of all things.
type history struct {
	sort   string        // Nova's migration_type
	age    time.Duration // how far back the first reading goes; 0: to the beginning
	door   chan struct{} // one reader at a time; a mutex that a context can leave
	mu     sync.Mutex
	newest map[string]evacuation
	// borrowed are the records of each server before its newest one that Nova may write the newest
	// one's end into, the oldest first: Nova's conductor takes the first of that server's which is
	// "accepted", and that is the one of an earlier request whose message lies with a dead host. The
	// newest one's own then stays "accepted" for ever (seen on Zed; the same in 2025.1's source).
	borrowed map[string][]evacuation
	seen     time.Time // when the newest record was made, by Nova's clocks; all older ones are read
}

func newHistory(sort string, age time.Duration) history {
	return history{sort: sort, age: age, door: make(chan struct{}, 1), newest: map[string]evacuation{}, borrowed: map[string][]evacuation{}}
}

type evacuation struct {
	fleet.Migration
	made, changed time.Time // changed is zero while it is as it was made
}

// evacuations is Nova's migration_type of them.
const evacuations = "evacuation"

// accepted is what a record is from the request until a host takes it.
const accepted = "accepted"

// slack is how far the clocks of the controllers that make the records may be apart.
const slack = 10 * time.Minute

// read brings the record up to date for these servers.
func (h *history) read(ctx context.Context, nova *gophercloud.ServiceClient, servers map[string]fleet.Server, further []string) error {
	select {
	case h.door <- struct{}{}:
		defer func() { <-h.door }()
	case <-ctx.Done():
		return fmt.Errorf("list the %ss: %w", h.sort, ctx.Err())
	}
	until := h.bound(servers, further)
	found, made := map[string][]evacuation{}, time.Time{}
	err := records(ctx, nova, h.sort, func(part []record) (bool, error) {
		old := false
		for _, r := range part {
			t, err := moment(r.Created)
			if err != nil {
				return false, fmt.Errorf("record %d was made at %q", r.ID, r.Created)
			}
			changed, _ := moment(r.Updated) // null before the first change
			e := evacuation{fleet.Migration{ID: r.ID, Status: r.Status, From: r.From, To: r.To}, t, changed}
			found[r.Server] = append(found[r.Server], e)
			if t.After(made) {
				made = t
			}
			old = t.Before(until) || h.age > 0 && t.Before(made.Add(-h.age))
		}
		return !old, nil
	})
	if err != nil {
		return fmt.Errorf("list the %ss: %w", h.sort, plain(err))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, read := range found {
		h.learn(id, read)
	}
	if made.After(h.seen) {
		h.seen = made
	}
	return nil
}

// moment reads one of Nova's points in time, to the second.
func moment(text string) (time.Time, error) {
	return time.Parse("2006-01-02T15:04:05", text[:min(19, len(text))])
}

// learn takes what was read of a server's records. The caller holds the lock.
func (h *history) learn(id string, read []evacuation) {
	known := map[int]evacuation{}
	for _, e := range append(h.borrowed[id], h.newest[id]) {
		known[e.ID] = e
	}
	for _, e := range read {
		known[e.ID] = e
	}
	delete(known, 0)
	all := slices.SortedFunc(maps.Values(known), func(a, b evacuation) int { return a.ID - b.ID })
	newest := all[len(all)-1]
	h.newest[id] = newest
	delete(h.borrowed, id)
	for _, e := range all[:len(all)-1] {
		if h.sort == evacuations && newest.Status == accepted && (e.Status == accepted || !e.changed.Before(newest.made)) {
			h.borrowed[id] = append(h.borrowed[id], e)
		}
	}
}

// bound is how far back to read: to what was read, and to the oldest evacuation that these
// servers have under way.
func (h *history) bound(servers map[string]fleet.Server, further []string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	until := h.seen
	ask := func(id string) {
		for _, e := range append(h.borrowed[id], h.newest[id]) {
			if ended, _ := e.Ended(); !ended && e.ID != 0 && e.made.Before(until) {
				until = e.made
			}
		}
	}
	for id := range servers {
		ask(id)
	}
	for _, id := range further {
		ask(id)
	}
	if until.IsZero() {
		return until
	}
	return until.Add(-slack)
}

// of is the newest record of a server that is on that host, with the end that Nova has written into
// another: the server left and is where that one says, changed since the newest was made. That it
// failed is not taken from another: two clocks that differ would have it asked for again too early.
func (h *history) of(server, host string) fleet.Migration {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.newest[server].Migration
	for _, e := range h.borrowed[server] {
		if _, well := e.Ended(); well && e.To == host && host != m.From {
			m.Status, m.To = e.Status, e.To
		}
	}
	return m
}

// oldest is when the oldest of these servers' newest evacuations was made, less the slack;
// zero if one has none.
func (h *history) oldest(servers []string) (t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range servers {
		if e, ok := h.newest[id]; ok && (t.IsZero() || e.made.Before(t)) {
			t = e.made
		}
	}
	if t.IsZero() {
		return t
	}
	return t.Add(-slack)
}

// record is what is read of a migration.
type record struct {
	ID      int    `json:"id"`
	UUID    string `json:"uuid"`
	Status  string `json:"status"`
	Server  string `json:"instance_uuid"`
	From    string `json:"source_compute"`
	To      string `json:"dest_compute"`
	Created string `json:"created_at"`
	Updated string `json:"updated_at"`
}

// records lists migrations of one sort, newest first.
func records(ctx context.Context, nova *gophercloud.ServiceClient, sort string, f func([]record) (more bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	q := url.Values{"migration_type": {sort}, "limit": {strconv.Itoa(page)}}
	return list(ctx, nova, "os-migrations", "migrations", q, func(r record) string { return r.UUID }, f)
}

// aggregate is what is read of one.
type aggregate struct {
	ID    int      `json:"id"`
	Name  string   `json:"name"`
	Zone  string   `json:"availability_zone"`
	Hosts []string `json:"hosts"`
}

// aggregates lists all of them; they come on one page.
func (l *look) aggregates(ctx context.Context) (map[string]fleet.Aggregate, error) {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	found := map[string]fleet.Aggregate{}
	err := list(ctx, l.nova, "os-aggregates", "aggregates", url.Values{}, nil, func(all []aggregate) (bool, error) {
		for _, a := range all {
			id := strconv.Itoa(a.ID)
			found[id] = fleet.Aggregate{ID: id, Name: a.Name, Zone: a.Zone, Hosts: unique(a.Hosts)}
		}
		return false, nil
	})
	if err != nil {
		l.c.forget(err)
		return nil, fmt.Errorf("list the aggregates: %w", plain(err))
	}
	return found, nil
}
