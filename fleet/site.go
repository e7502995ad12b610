package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Read makes a Spec of a site's file. It completes what the file leaves out
// (from the catalogue, by name, and from the presets), then checks the whole,
// and returns every fault at once, sorted by line, so that one run is enough.
// The Spec may be used only if faults.Err() is nil. file is only a name for the
// faults.
//
//	site: beijing
//	networks:
//	  management: {cidr: 10.0.0.0/24}
//	hosts:
//	  c[1-3]: {roles: [controller], addresses: {management: 10.0.0.11}, fence: {driver: redfish, url: "https://bmc-{name}"}}
//	addresses:
//	  internal: 10.0.0.100/24
//	services: [mariadb, memcached, keystone]
func Read(file string, text []byte, catalogue map[string]Service) (Spec, Faults) {
	r := newReader(file)
	var spec Spec
	if root, ok := r.parse(text); ok {
		r.index(root)
		spec = r.site(root, catalogue)
		for _, f := range spec.Validate() {
			if !r.told(f.Path) {
				r.faults = append(r.faults, f)
			}
		}
	}
	return spec, r.report()
}

// site reads the whole file.
func (r *reader) site(root field, catalogue map[string]Service) Spec {
	s := Spec{Mode: "act", Timing: Presets()["room"], Brakes: Brakes{Share: 40, Count: 5}}
	var addresses []written
	var services field
	r.record(root, "keys such as site, networks, hosts, addresses, services", []column{
		{"site", r.text(&s.Site, "the site's name")},
		{"networks", func(f field) { s.Networks = r.networks(f) }},
		{"hosts", func(f field) { s.Hosts = r.hosts(f) }},
		{"addresses", func(f field) { addresses = r.addresses(f) }},
		{"services", func(f field) { services = f }},
		{"timing", func(f field) { r.timing(&s.Timing, f) }},
		{"mode", r.text(&s.Mode, "act or shadow")},
		{"tls", func(f field) {
			r.record(f, "{certificate: /etc/mainstay/tls/site.pem}", []column{{"certificate", r.text(&s.TLS.Certificate, "the path of a PEM file")}})
		}},
		{"alarms", r.list(&s.Alarms, "a list of webhook URLs")},
		{"brakes", func(f field) {
			r.record(f, "{share: 40, count: 5}", []column{
				{"share", r.number(&s.Brakes.Share, "per cent of the hosts")},
				{"count", r.number(&s.Brakes.Count, "a number of hosts")},
				{"roles", func(f field) { s.Brakes.Roles = r.brakes(f, "ROLE") }},
				{"zones", func(f field) { s.Brakes.Zones = r.brakes(f, "ZONE") }},
			})
		}},
		{"operators", func(f field) {
			r.record(f, "{revoked: [ann]}", []column{{"revoked", r.list(&s.Operators.Revoked, "a list of operators' names")}})
		}},
		{"openstack", func(f field) {
			s.OpenStack.Config = "/etc/mainstay/clouds.yaml"
			r.record(f, "{cloud: NAME}", []column{
				{"cloud", r.text(&s.OpenStack.Cloud, "an entry of clouds.yaml")},
				{"config", r.text(&s.OpenStack.Config, "the path of a clouds.yaml")},
				{"leave", r.list(&s.OpenStack.Leave, "a list of projects, by name or id")},
				{"migration", r.text(&s.OpenStack.Migration, "a network of the site")},
				{"lost", func(f field) { s.OpenStack.Lost = r.losses(f) }},
				{"reserved", r.list(&s.OpenStack.Reserved, "a list of hosts, the computes kept in reserve")},
				{"rebalance", r.text((*string)(&s.OpenStack.Rebalance), "never or returned")},
				{"ready", func(f field) { s.OpenStack.Ready = r.prefixes(f) }},
				{"local_disks", func(f field) { s.OpenStack.LocalDisks = r.localDisks(f) }},
				{"snapshots", func(f field) { s.OpenStack.Snapshots = r.snapshots(f) }},
				{"storage_heartbeat", r.text(&s.OpenStack.Storage, "a directory on storage that all computes share")},
			})
		}},
	})
	s.Addresses = r.resolve(addresses, s.Networks)
	s.Services = r.services(services, s, catalogue) // last: they name what stands elsewhere
	byName(s.Networks, func(n Network) string { return n.Name })
	byName(s.Hosts, func(h Host) string { return h.Name })
	byName(s.Addresses, func(a Address) string { return a.Name })
	byName(s.Services, func(v Service) string { return v.Name })
	return s
}

func byName[T any](list []T, name func(T) string) {
	slices.SortStableFunc(list, func(a, b T) int { return strings.Compare(name(a), name(b)) })
}

// losses reads what follows the loss of each network.
func (r *reader) losses(f field) map[string]Loss {
	out := map[string]Loss{}
	for _, e := range r.entries(f, "{NETWORK: alarm, disable, drain or evacuate}") {
		text := ""
		r.text(&text, "alarm, disable, drain or evacuate")(e)
		out[e.name] = Loss(text)
	}
	return out
}

// brakes reads the brakes of some of the hosts.
func (r *reader) brakes(f field, of string) map[string]Brake {
	out := map[string]Brake{}
	for _, e := range r.entries(f, "{"+of+": {share: 40, count: 5}}") {
		var b Brake
		r.record(e, "{share: 40, count: 5}", []column{
			{"share", r.number(&b.Share, "per cent of its hosts")},
			{"count", r.number(&b.Count, "a number of hosts")},
		})
		out[e.name] = b
	}
	return out
}

// prefixes reads openstack/ready.
func (r *reader) prefixes(f field) (out []netip.Prefix) {
	const want = "a list of networks of servers' addresses, such as 203.0.113.0/24"
	elements, _ := r.elements(f, want)
	for _, e := range elements {
		text, _ := scalarText(e.node)
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || p != p.Masked() {
			r.bad(e, "openstack", "is no network", want)
			continue
		}
		out = append(out, p)
	}
	return out
}

func (r *reader) networks(f field) []Network {
	const want = "NAME: {cidr: 10.0.0.0/24}"
	var out []Network
	for _, e := range r.entries(f, want) {
		n := Network{Name: e.name}
		if s, ok := scalarText(e.node); ok {
			r.bad(e, "type", "is not a mapping", "{cidr: "+s+"}")
		} else {
			r.record(e, want, []column{{"cidr", func(f field) {
				s, ok := r.scalar(f, "10.0.0.0/24")
				if !ok {
					return
				}
				p, err := netip.ParsePrefix(s)
				if err != nil {
					r.bad(f, "network", "is not a network", "an address and a length: 10.0.0.0/24 or fd00:1::/64")
					return
				}
				n.CIDR = p
			}}})
		}
		out = append(out, n)
	}
	return out
}

func (r *reader) hosts(f field) []Host {
	const want = "NAME: {roles: [controller], addresses: {management: 10.0.0.11}}"
	var out []Host
	owner := map[string]string{} // host -> the key that gave it
	for _, e := range r.entries(f, want) {
		names, err := expand(e.name)
		if err != nil {
			r.bad(e, "host-name", err.Error(), "a name such as c1, or a pattern such as c[1-3] or n[001-200]")
			names = []string{e.name} // read on: what is in it may hold faults too
		}
		if len(out)+len(names) > maxHosts {
			r.bad(e, "host-name", fmt.Sprintf("makes more than %d hosts", maxHosts), "fewer")
			names = names[:1]
		}
		var roles []string
		var voter *bool
		var fence [][]device
		var watchdog Watchdog
		var kdump time.Duration
		own := map[string][]netip.Addr{}
		if s, ok := scalarText(e.node); ok {
			r.bad(e, "type", "is not a mapping", fmt.Sprintf("{roles: [%s]}", s))
		} else {
			r.record(e, want, []column{
				{"roles", r.list(&roles, "a list such as [controller]")},
				{"voter", func(f field) { voter = new(bool); r.flag(voter)(f) }},
				{"addresses", func(f field) { own = r.ownAddresses(f, len(names)) }},
				{"fence", func(f field) { fence = r.levels(f) }},
				{"watchdog", func(f field) { watchdog = r.watchdog(f) }},
				{"kdump", r.span(&kdump)},
			})
		}
		for i, name := range names {
			if key, dup := owner[name]; dup {
				r.badKey(e, "duplicate", fmt.Sprintf("names host %s, which %s names already", name, key), "each host once")
				continue
			}
			owner[name] = e.name
			h := Host{Name: name, Roles: slices.Clone(roles), Addresses: map[string]netip.Addr{}, Watchdog: watchdog, Kdump: kdump}
			h.Voter = h.HasRole("controller", "arbiter")
			if voter != nil {
				h.Voter = *voter
			}
			for _, network := range Sorted(own) {
				h.Addresses[network] = own[network][i]
			}
			for _, level := range fence {
				var l Level
				for _, d := range level {
					f := Fence{Driver: d.driver, Params: map[string]string{}, At: d.at}
					for _, p := range d.params {
						f.Params[p.name] = strings.ReplaceAll(p.value, "{name}", name)
					}
					l = append(l, f)
				}
				h.Fence = append(h.Fence, l)
			}
			out = append(out, h)
		}
	}
	return out
}

// ownAddresses reads the hosts' own addresses, n for each network: one address
// counts up through a pattern, a list names each.
func (r *reader) ownAddresses(f field, n int) map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for _, e := range r.entries(f, "{management: 10.0.0.11}") {
		elements, ok := r.elements(e, "an address, or a list of them")
		var list []netip.Addr
		for _, w := range elements {
			text, _ := scalarText(w.node)
			a, err := netip.ParseAddr(text)
			if err != nil || a.Zone() != "" {
				want := "an address such as 10.0.0.11 or fd00::11"
				if p, err := netip.ParsePrefix(text); err == nil {
					want = p.Addr().String() + "; the network knows its length"
				}
				r.bad(w, "host-address", "is not an address", want)
				ok = false
				continue
			}
			list = append(list, a.Unmap())
		}
		if !ok {
			r.unread[e.path] = true
			continue
		}
		if len(list) == 1 {
			for a := list[0].Next(); len(list) < n && a.IsValid(); a = a.Next() {
				list = append(list, a)
			}
		}
		if len(list) != n {
			r.bad(e, "host-address", fmt.Sprintf("gives %d addresses to %d hosts", len(list), n), fmt.Sprintf("a list of %d, or the first one to count up from", n))
			continue
		}
		out[e.name] = list
	}
	return out
}

// param is one parameter of a fence; its value may be secret and is never told.
type param struct{ name, value string }

// device is a fence of the file, before {name} is put in.
type device struct {
	driver string
	params []param
	at     string
}

// levels reads one device, or a list of levels, each one device or a list of those
// that must all prove.
func (r *reader) levels(f field) (out [][]device) {
	if _, list := f.node.(*ast.SequenceNode); !list {
		if driver, params := r.fence(f); driver != "" {
			out = append(out, []device{{driver: driver, params: params}})
		}
		return out
	}
	for _, l := range children(f) {
		devices := []field{l}
		if _, list := l.node.(*ast.SequenceNode); list {
			devices = children(l)
		}
		var level []device
		for _, e := range devices {
			if driver, params := r.fence(e); driver != "" {
				level = append(level, device{driver, params, strings.TrimPrefix(e.path, f.path+"/")})
			}
		}
		if len(level) > 0 {
			out = append(out, level)
		}
	}
	return out
}

func (r *reader) fence(f field) (driver string, out []param) {
	const want = "{driver: redfish, ...}"
	for _, e := range r.entries(f, want) {
		if e.name == "driver" {
			r.text(&driver, "a fence driver such as redfish")(e)
			continue
		}
		s, ok := scalarText(e.node)
		if !ok {
			r.badKey(e, "type", "is not a single value", "a text, a number, true or false")
			continue
		}
		if left := strings.ReplaceAll(s, "{name}", ""); placeholder(left) != "" {
			r.badKey(e, "placeholder", "holds "+placeholder(left)+", which stands for nothing", "{name}, the host's name")
		}
		out = append(out, param{e.name, s})
	}
	if driver == "" && f.node != nil && !r.told(f.path) {
		r.bad(f, "fence", "names no driver", want)
	}
	return driver, out
}

// placeholder returns the first {word} in s.
func placeholder(s string) string {
	for {
		_, rest, ok := strings.Cut(s, "{")
		if !ok {
			return ""
		}
		word, _, ok := strings.Cut(rest, "}")
		if ok && word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz_") == "" {
			return "{" + word + "}"
		}
		s = rest
	}
}

// written is a virtual address as the file gives it, with its length if any.
type written struct {
	Address
	at   field
	bits int // -1: none was written
}

func (r *reader) addresses(f field) []written {
	const want = "NAME: 10.0.0.100/24, or NAME: {address: 10.0.0.100, prefer: [c1]}"
	var out []written
	for _, e := range r.entries(f, want) {
		w := written{Address: Address{Name: e.name}, at: e, bits: -1}
		read := func(f field) {
			s, ok := r.scalar(f, "10.0.0.100/24")
			if !ok {
				return
			}
			w.at = f
			if p, err := netip.ParsePrefix(s); err == nil {
				w.Addr, w.bits = p.Addr(), p.Bits()
			} else if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
				w.Addr = a.Unmap()
			} else {
				r.bad(f, "address", "is not an address", "10.0.0.100/24 or fd00::100/64")
			}
		}
		if _, ok := pairs(e.node); ok {
			r.record(e, want, []column{
				{"address", read},
				{"network", r.text(&w.Network, "the name of a network")},
				{"prefer", r.list(&w.Prefer, "a list of hosts, best first")},
				{"with", r.list(&w.With, "a list of services")},
			})
		} else {
			read(e)
		}
		out = append(out, w)
	}
	return out
}

// resolve finds each address's network by what contains it, unless it is named.
func (r *reader) resolve(list []written, networks []Network) []Address {
	var out []Address
	for _, w := range list {
		for _, n := range networks {
			if w.Network == "" && w.Addr.IsValid() && n.CIDR.Contains(w.Addr) {
				w.Network = n.Name
			}
			if w.Network == n.Name && n.CIDR.Contains(w.Addr) && w.bits >= 0 && w.bits != n.CIDR.Bits() {
				r.bad(w.at, "address", fmt.Sprintf("has another length than its network %s, %s", n.Name, n.CIDR), fmt.Sprintf("%s/%d", w.Addr, n.CIDR.Bits()))
			}
		}
		out = append(out, w.Address)
	}
	return out
}

func (r *reader) timing(t *Timing, f field) {
	presets := Presets()
	want := "one of " + strings.Join(Sorted(presets), ", ") + ", or {preset: room, lease: 400ms}"
	preset := func(f field) {
		s, ok := r.scalar(f, want)
		if !ok {
			return
		}
		p, ok := presets[s]
		if !ok {
			right := want
			if n := nearest(s, Sorted(presets)); n != "" {
				right = n
			}
			r.bad(f, "timing", "is no preset", right)
			return
		}
		*t = p
	}
	if _, ok := scalarText(f.node); ok {
		preset(f)
		return
	}
	for _, e := range children(f) { // the preset first, wherever it stands: the fields adjust it
		if e.name == "preset" {
			preset(e)
			break
		}
	}
	r.record(f, want, []column{
		{"preset", func(field) {}},
		{"beat", r.span(&t.Beat)},
		{"lease", r.span(&t.Lease)},
		{"slow_beat", r.span(&t.SlowBeat)},
		{"slow_lease", r.span(&t.SlowLease)},
		{"heartbeat", r.span(&t.Heartbeat)},
		{"election", r.span(&t.Election)},
	})
}

// services reads the list of names, or the mapping of names to what differs
// from the catalogue. A name that the catalogue does not have needs a kind.
func (r *reader) services(f field, s Spec, catalogue map[string]Service) []Service {
	const want = "a list of names, or NAME: {what differs from the catalogue}"
	var entries []field
	if _, ok := f.node.(*ast.SequenceNode); ok {
		seen := map[string]place{}
		for _, e := range children(f) {
			name, ok := r.scalar(e, want)
			if !ok {
				continue
			}
			e.name, e.path, e.node = name, join(f.path, name), nil
			if first, dup := seen[name]; dup {
				r.badKey(e, "duplicate", fmt.Sprintf("stands here a second time; it is at line %d already", first.line), "each service once")
				continue
			}
			seen[name] = e.at
			entries = append(entries, e)
		}
	} else {
		entries = r.entries(f, want)
	}
	var out []Service
	for _, e := range entries {
		base, known := catalogue[e.name]
		v := cloneService(base)
		v.Name = e.name
		if v.Listen.Port != 0 && len(v.Listen.Addresses) > 0 {
			// The catalogue names the usual addresses; a site has some of them.
			have := slices.DeleteFunc(slices.Clone(v.Listen.Addresses), func(a string) bool { _, ok := s.Address(a); return !ok })
			if len(have) > 0 {
				v.Listen.Addresses = have
			}
		}
		if v.Restarts == (Restarts{}) {
			v.Restarts = Restarts{Count: 3, Within: 10 * time.Minute}
		}
		r.service(&v, e)
		v.Check.Every, v.Check.Deadline = cmp.Or(v.Check.Every, time.Second), cmp.Or(v.Check.Deadline, time.Second)
		if !known && v.Kind == "" && !r.told(e.path) {
			right := "kind, mode and units of a service of your own, or one of the catalogue: " + strings.Join(Sorted(catalogue), ", ")
			if n := nearest(e.name, Sorted(catalogue)); n != "" {
				right = n + ", or kind, mode and units of a service of your own"
			}
			r.badKey(e, "service", "is not in the catalogue and says no kind", right)
			r.unread[e.path] = true
		}
		complete(&v, s)
		out = append(out, v)
	}
	return out
}

// complete fills in what a service of the site's own may leave out.
func complete(v *Service, s Spec) {
	if v.Why == "" {
		v.Why = "as the site's file says"
	}
	if v.OnFailure == "" {
		v.OnFailure = FailBlock
		if v.Mode.Exclusive() {
			v.OnFailure = FailMove
		}
	}
	l := &v.Listen
	if l.Port == 0 {
		return
	}
	if l.Backend == 0 {
		l.Backend = l.Port
	}
	if l.Protocol == "" {
		l.Protocol = "tcp"
	}
	if l.Network == "" && len(l.Addresses) > 0 {
		if a, ok := s.Address(l.Addresses[0]); ok {
			l.Network = a.Network
		}
	}
	if l.Network == "" && len(s.Networks) == 1 {
		l.Network = s.Networks[0].Name
	}
}

func cloneService(v Service) Service {
	for _, list := range []*[]string{&v.Units, &v.Start, &v.Stop, &v.Status, &v.Roles, &v.Hosts, &v.Prefer, &v.After, &v.With, &v.Listen.Addresses} {
		*list = slices.Clone(*list)
	}
	v.Check.Expect = slices.Clone(v.Check.Expect)
	v.Params = maps.Clone(v.Params)
	v.Listen.Writers = maps.Clone(v.Listen.Writers)
	return v
}

// ports reads ports by name.
func (r *reader) ports(f field) map[string]int {
	out := map[string]int{}
	for _, e := range r.entries(f, "{NAME: PORT}") {
		port := 0
		r.number(&port, "a port")(e)
		out[e.name] = port
	}
	return out
}

func (r *reader) service(v *Service, f field) {
	names := "a list of names"
	r.record(f, "a mapping such as {restarts: {count: 3, within: 10m}}", []column{
		{"kind", r.text(&v.Kind, "a kind such as systemd")},
		{"mode", func(f field) { r.text((*string)(&v.Mode), "active/active, active/passive or promoted")(f) }},
		{"why", r.text(&v.Why, "one sentence")},
		{"units", r.list(&v.Units, "a list of systemd units")},
		{"start", r.list(&v.Start, "a command as a list of words")},
		{"stop", r.list(&v.Stop, "a command as a list of words")},
		{"status", r.list(&v.Status, "a command as a list of words")},
		{"roles", r.list(&v.Roles, "a list of roles")},
		{"hosts", r.list(&v.Hosts, "a list of hosts")},
		{"prefer", r.list(&v.Prefer, "a list of hosts, best first")},
		{"after", r.list(&v.After, names)},
		{"with", r.list(&v.With, "a list such as [address/internal]")},
		{"check", func(f field) {
			r.record(f, "{kind: http, port: 5000, path: /v3}", []column{
				{"kind", r.text(&v.Check.Kind, "a probe such as tcp or http")},
				{"port", r.number(&v.Check.Port, "a port")},
				{"path", r.text(&v.Check.Path, "a path such as /v3")},
				{"expect", r.numbers(&v.Check.Expect, "a list of HTTP status codes")},
				{"every", r.span(&v.Check.Every)},
				{"deadline", r.span(&v.Check.Deadline)},
			})
		}},
		{"listen", func(f field) {
			r.record(f, "{port: 5000, backend: 5000, protocol: http, addresses: [internal]}", []column{
				{"port", r.number(&v.Listen.Port, "a port")},
				{"backend", r.number(&v.Listen.Backend, "a port")},
				{"protocol", r.text(&v.Listen.Protocol, "http or tcp")},
				{"addresses", r.list(&v.Listen.Addresses, "a list of the site's addresses")},
				{"local", r.flag(&v.Listen.Local)},
				{"tls", r.flag(&v.Listen.TLS)},
				{"writer", r.flag(&v.Listen.Writer)},
				{"writers", func(f field) { v.Listen.Writers = r.ports(f) }},
				{"network", r.text(&v.Listen.Network, "the name of a network")},
			})
		}},
		{"restarts", func(f field) {
			r.record(f, "{count: 3, within: 10m}", []column{
				{"count", r.number(&v.Restarts.Count, "a number of restarts")},
				{"within", r.span(&v.Restarts.Within)},
			})
		}},
		{"on_failure", func(f field) { r.text((*string)(&v.OnFailure), "move, fence or block")(f) }},
		{"params", func(f field) {
			for _, e := range r.entries(f, "{NAME: VALUE}") {
				s, ok := scalarText(e.node)
				if !ok {
					r.badKey(e, "type", "is not a single value", "a text, a number, true or false")
					continue
				}
				if v.Params == nil {
					v.Params = map[string]string{}
				}
				v.Params[e.name] = s
			}
		}},
	})
}
