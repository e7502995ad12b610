package fleet

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Ports that Mainstay itself uses on every host.
const (
	PortBeats  = 7400 // UDP: heartbeats and their acknowledgements
	PortAPI    = 7401 // TCP: agents, leader, operators
	PortQuorum = 7402 // TCP: the store's members among themselves
)

// lifetime is valid_lft, the second of the two guards that end an address
// without its agent. It is renewed with each beat.
const lifetime = time.Second

// Validate returns what is wrong with the site as a whole, whoever wrote it: a
// file, a test or the lab. The faults have paths, but no lines; Read adds them.
// It knows no driver, kind or probe: their own packages check what is theirs and
// use Locate.
func (s Spec) Validate() Faults {
	c := checker{s: s}
	c.site()
	c.networks()
	c.hosts()
	c.voters()
	c.addresses()
	c.services()
	c.cycles()
	c.exclusive()
	c.halves()
	c.timing()
	c.brakes()
	c.openstack()
	return c.faults
}

type checker struct {
	s      Spec
	faults Faults
}

func (c *checker) fault(path, rule, value, problem, want string) {
	c.faults = append(c.faults, Fault{Path: path, Rule: rule, Value: value, Problem: problem, Want: want})
}

func (c *checker) warn(path, rule, value, problem, want string) {
	c.faults = append(c.faults, Fault{Path: path, Rule: rule, Value: value, Problem: problem, Want: want, Warning: true})
}

// oneOf reports a word that is none of the known ones.
func (c *checker) oneOf(path, rule, word string, known ...string) {
	if slices.Contains(known, word) {
		return
	}
	right := strings.Join(known, " or ")
	if n := nearest(word, known); n != "" && word != "" {
		right = n
	}
	problem := "is not known here"
	if word == "" {
		problem = "is missing"
	}
	c.fault(path, rule, word, problem, right)
}

// port reports a number that is no port, or one of Mainstay's own.
func (c *checker) port(path string, port int) {
	switch {
	case port < 1 || port > 65535:
		c.fault(path, "port", strconv.Itoa(port), "is not a port", "1 to 65535")
	case port >= PortBeats && port <= PortQuorum:
		c.fault(path, "port", strconv.Itoa(port), "is one of Mainstay's own ports", fmt.Sprintf("any but %d to %d", PortBeats, PortQuorum))
	}
}

func (c *checker) site() {
	if !thingName(c.s.Site) {
		problem := "is not a name"
		if c.s.Site == "" {
			problem = "is missing"
		}
		c.fault("site", "site", c.s.Site, problem, "a short name: letters, digits, - and _")
	}
	c.oneOf("mode", "mode", c.s.Mode, "act", "shadow")
	if p := c.s.TLS.Certificate; p != "" && !path.IsAbs(p) {
		c.fault("tls/certificate", "tls", p, "is not an absolute path", "a path such as /etc/mainstay/tls/site.pem")
	}
	for i, name := range c.s.Operators.Revoked {
		at := fmt.Sprintf("operators/revoked/%d", i)
		switch _, host := c.s.Host(name); {
		case name == "":
			c.fault(at, "operators", "", "is not a name", "the NAME of mainstay token --operator NAME")
		case slices.Contains(c.s.Operators.Revoked[:i], name):
			c.fault(at, "duplicate", name, "stands here a second time", "each name once")
		case host:
			c.warn(at, "operators", name, "is a host, whose certificate is not an operator's", "an operator's name; the certificate of a host is refused once hosts leaves it out")
		}
	}
	for i, a := range c.s.Alarms {
		// The URL itself is not told: it may hold a token.
		switch u, err := url.Parse(a); {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			c.fault(fmt.Sprintf("alarms/%d", i), "alarms", "", "is not a URL that can be called", "https://HOST/PATH")
		case u.User != nil:
			c.fault(fmt.Sprintf("alarms/%d", i), "alarms", "", "names a user or a password, which proxies and logs show", "https://HOST/PATH, with the webhook's token in its path")
		}
	}
}

func (c *checker) openstack() {
	o := c.s.OpenStack
	if o.Cloud == "" && o.Config == "" && len(o.Leave)+len(o.Lost)+len(o.Reserved)+len(o.Ready)+len(o.LocalDisks.Hosts)+len(o.LocalDisks.Roles) == 0 && o.Rebalance == "" && o.Storage == "" && o.Snapshots == (Snapshots{}) {
		return
	}
	if o.Cloud == "" {
		c.fault("openstack/cloud", "openstack", "", "is missing", "the entry of clouds.yaml that reaches this site's cloud")
	}
	if !path.IsAbs(o.Config) {
		c.fault("openstack/config", "openstack", o.Config, "is not an absolute path", "a path such as /etc/mainstay/clouds.yaml")
	}
	for i, name := range o.Leave {
		at := fmt.Sprintf("openstack/leave/%d", i)
		switch {
		case name == "":
			c.fault(at, "openstack", "", "is not a project", "a project's name or id")
		case slices.Contains(o.Leave[:i], name):
			c.fault(at, "duplicate", name, "stands here a second time", "each project once")
		}
	}
	for _, name := range Sorted(o.Lost) {
		at := "openstack/lost/" + name
		if name == EveryNetwork && o.Storage != "" {
			c.everyNetwork(at, o.Lost[name])
			continue
		}
		if !slices.ContainsFunc(c.s.Networks, func(n Network) bool { return n.Name == name }) {
			want := "a name that stands under networks"
			if name == EveryNetwork {
				want += "; all together only with a storage_heartbeat beside it"
			}
			c.fault(at, "openstack", name, "is not a network", want)
		}
		if l := o.Lost[name]; !slices.Contains(Losses(), l) {
			c.fault(at, "openstack", string(l), "is not what may follow", "alarm, disable, drain or evacuate")
		} else if l == LossDrain && name == c.s.MigrationNetwork() {
			c.fault(at, "openstack", string(l), "cannot follow: guests are sent over this network, and it is the one that is lost", "disable or evacuate; or the network that nova.conf names in live_migration_inbound_addr as openstack/migration")
		}
	}
	if m := o.Migration; m != "" && !slices.ContainsFunc(c.s.Networks, func(n Network) bool { return n.Name == m }) {
		c.fault("openstack/migration", "openstack", m, "is not a network", "a name that stands under networks")
	}
	if r := o.Rebalance; r != "" && !slices.Contains(Rebalances(), r) {
		c.fault("openstack/rebalance", "openstack", string(r), "is not a policy", "never or returned")
	}
	computes := 0
	for i := range c.s.Hosts {
		if c.s.Hosts[i].HasRole("compute") {
			computes++
		}
	}
	for i, name := range o.Reserved {
		at := fmt.Sprintf("openstack/reserved/%d", i)
		switch h, known := c.s.Host(name); {
		case !known || !h.HasRole("compute"):
			c.fault(at, "openstack", name, "is not a compute", "a host with the role compute, which is kept empty")
		case slices.Contains(o.Reserved[:i], name):
			c.fault(at, "duplicate", name, "stands here a second time", "each host once")
		}
	}
	if n := len(o.Reserved); n > 0 && n >= computes {
		c.fault("openstack/reserved", "openstack", "", "keeps every compute in reserve", "fewer, so that some of them run servers")
	}
	for i, p := range o.Ready {
		for _, n := range c.s.Networks {
			if n.CIDR.Overlaps(p) {
				c.fault(fmt.Sprintf("openstack/ready/%d", i), "openstack", p.String(), "holds addresses of the site's network "+n.Name+", where an owner's word would have voters call the site's own services", "networks of servers alone, such as that of the floating addresses")
			}
		}
	}
	c.localDisks(o)
	c.storage(o, computes)
	if computes == 0 {
		c.warn("openstack", "openstack", "", "no host has the role compute, so there is nobody whose servers could be evacuated", "the computes under hosts, by the names that openstack compute service list shows")
	}
}

func (c *checker) networks() {
	if len(c.s.Networks) == 0 {
		c.fault("networks", "network", "", "no network is named", "management: {cidr: 10.0.0.0/24}")
	}
	for i, n := range c.s.Networks {
		at := "networks/" + n.Name
		if !thingName(n.Name) {
			c.fault(at, "network", n.Name, "is not a name", "letters, digits, - and _")
		}
		switch p := n.CIDR; {
		case !p.IsValid():
			c.fault(at+"/cidr", "network", "", "is missing", "a network such as 10.0.0.0/24")
			continue
		case p != p.Masked():
			c.fault(at+"/cidr", "network", p.String(), "has bits set behind its length", p.Masked().String())
		case p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast():
			c.fault(at+"/cidr", "network", p.String(), "is not a network that hosts share by routable addresses", "a network such as 10.0.0.0/24 or fd00:1::/64")
		}
		for _, o := range c.s.Networks[:i] {
			if o.CIDR.IsValid() && o.CIDR.Overlaps(n.CIDR) {
				c.fault(at+"/cidr", "network-overlap", n.CIDR.String(), fmt.Sprintf("overlaps network %s, %s", o.Name, o.CIDR), "networks that share no address")
			}
		}
	}
}

// network returns the network of that name; ok is false if there is none or if
// it is not known which addresses it has.
func (c *checker) network(name string) (Network, bool) {
	for _, n := range c.s.Networks {
		if n.Name == name {
			return n, n.CIDR.IsValid()
		}
	}
	return Network{}, false
}

func (c *checker) networkNames() []string {
	var out []string
	for _, n := range c.s.Networks {
		out = append(out, n.Name)
	}
	return out
}

// noNetwork reports a name that no network has.
func (c *checker) noNetwork(path, name string) bool {
	if slices.Contains(c.networkNames(), name) {
		return false
	}
	c.oneOf(path, "network", name, c.networkNames()...)
	return true
}

// usable says why an address of a network cannot be given to a host.
func usable(a netip.Addr, p netip.Prefix) string {
	if !a.Is4() || p.Bits() >= 31 {
		return ""
	}
	b, last := a.As4(), p.Masked().Addr().As4()
	if a == p.Masked().Addr() {
		return "is the network's own address"
	}
	for i := p.Bits(); i < 32; i++ {
		last[i/8] |= 1 << (7 - i%8)
	}
	if b == last {
		return "is the network's broadcast address"
	}
	return ""
}

func (c *checker) hosts() {
	owner := map[netip.Addr]string{}
	asked := []string{"controller", "arbiter", "compute", "network", "storage"}
	for _, v := range c.s.Services {
		asked = append(asked, v.Roles...)
	}
	for _, h := range c.s.Hosts {
		at := "hosts/" + h.Name
		c.watchdog(h)
		c.kdump(h)
		if !hostName(h.Name) {
			c.fault(at, "host-name", h.Name, "is not a host's name", "letters, digits, - and .")
		}
		if len(h.Roles) == 0 {
			c.fault(at+"/roles", "roles", "", "is missing", "roles: [controller], [compute] or [arbiter]")
		}
		for i, role := range h.Roles {
			if slices.Contains(h.Roles[:i], role) {
				c.fault(fmt.Sprintf("%s/roles/%d", at, i), "duplicate", role, "stands here a second time", "each role once")
			} else if !slices.Contains(asked, role) {
				right := "one of " + strings.Join(asked[:5], ", ") + ", or a role that a service asks for"
				if n := nearest(role, asked); n != "" {
					right = n
				}
				c.warn(fmt.Sprintf("%s/roles/%d", at, i), "roles", role, "is a role that no service asks for", right)
			}
		}
		if h.HasRole("arbiter") && len(h.Roles) > 1 {
			c.fault(at+"/roles", "roles", strings.Join(h.Roles, ", "), "mixes arbiter with other roles, but an arbiter runs no services", "roles: [arbiter] alone")
		}
		if h.HasRole("arbiter") && !h.Voter {
			c.fault(at+"/voter", "voter", "false", "makes an arbiter that does not vote and so does nothing", "leave voter out, or give the host another role")
		}
		if len(h.Addresses) == 0 {
			c.fault(at+"/addresses", "host-address", "", "is missing: the host has no address on any network", "addresses: {management: 10.0.0.11}")
		}
		for _, name := range Sorted(h.Addresses) {
			a, in := h.Addresses[name], at+"/addresses/"+name
			if c.noNetwork(in, name) {
				continue
			}
			n, ok := c.network(name)
			switch {
			case !ok:
			case !n.CIDR.Contains(a):
				c.fault(in, "host-address", a.String(), fmt.Sprintf("lies outside network %s", name), "an address in "+n.CIDR.String())
			case usable(a, n.CIDR) != "":
				c.fault(in, "host-address", a.String(), usable(a, n.CIDR), "another address in "+n.CIDR.String())
			case owner[a] != "":
				c.fault(in, "duplicate-address", a.String(), "belongs to host "+owner[a]+" already", "an address of its own")
			default:
				owner[a] = h.Name
			}
		}
	}
}

// voters checks that the quorum can survive the loss of a host, and that its
// members and every host's beats can reach each other.
func (c *checker) voters() {
	var voters []Host
	names, arbiters := c.s.Voters(), 0
	for _, h := range c.s.Hosts {
		if h.Voter {
			voters = append(voters, h)
		}
		if h.HasRole("arbiter") {
			arbiters++
		}
	}
	found := fmt.Sprintf("%d voters (%s)", len(names), strings.Join(names, ", "))
	switch n := len(names); {
	case n == 0:
		c.fault("hosts", "voters", "", "no host votes", "3, 5 or 7 voters, or 2 that can fence each other: hosts with the role controller or arbiter, or with voter: true")
		return
	case n == 1:
		c.fault("hosts", "voters", "", fmt.Sprintf("1 voter (%s): without it nothing is decided and every lease ends", names[0]), "3 voters, or 5 or 7")
	case n == 2:
		c.pair(voters)
	case n%2 == 0 && n < 7:
		c.fault("hosts", "voters", "", fmt.Sprintf("%s survive the loss of %d, no more than %d would", found, n-Majority(n), n-1),
			fmt.Sprintf("%d voters (voter: false on one of them) or %d (one more host with roles: [arbiter])", n-1, n+1))
	case n > 7:
		c.fault("hosts", "voters", "", fmt.Sprintf("%d voters: each write and each lease waits for %d of them", n, Majority(n)), "7, 5 or 3 voters: voter: false on the others")
	}
	if len(voters) > 0 && arbiters == len(voters) {
		c.warn("hosts", "voters", "", "every voter is an arbiter", "controllers that vote; an arbiter is the third vote of a pair")
	}
	if !slices.ContainsFunc(c.s.Networks, func(n Network) bool {
		return !slices.ContainsFunc(voters, func(h Host) bool { _, ok := h.Addresses[n.Name]; return !ok })
	}) && !slices.ContainsFunc(voters, func(h Host) bool { return len(h.Addresses) == 0 }) {
		c.fault("hosts", "voters", "", "there is no network on which all voters have an address", "one network for all of them: the store's members talk over it")
		return
	}
	for _, h := range c.s.Hosts {
		for _, v := range voters {
			shared := h.Name == v.Name || len(h.Addresses) == 0 || len(v.Addresses) == 0
			for _, n := range Sorted(h.Addresses) {
				if _, ok := v.Addresses[n]; ok || !slices.Contains(c.networkNames(), n) {
					shared = true
				}
			}
			if !shared {
				c.fault("hosts/"+h.Name+"/addresses", "host-address", "", fmt.Sprintf("leads to no network that voter %s is on, so no beat can reach it", v.Name),
					"an address on one of "+strings.Join(Sorted(v.Addresses), ", "))
				break
			}
		}
	}
}

// hostNamed reports the name of a host that the site does not have.
func (c *checker) hostNamed(path, name string) (Host, bool) {
	h, ok := c.s.Host(name)
	if !ok {
		right := "the name of one of the site's hosts"
		var all []string
		for _, h := range c.s.Hosts {
			all = append(all, h.Name)
		}
		if n := nearest(name, all); n != "" {
			right = n
		}
		c.fault(path, "host", name, "is not a host of this site", right)
	}
	return h, ok
}

// known reports a name that none of a list of things has.
func (c *checker) known(path, rule, name, what string, have []string) bool {
	if slices.Contains(have, name) {
		return true
	}
	right := "one of " + strings.Join(have, ", ")
	if len(have) == 0 {
		right = "nothing: the site has no " + what
	} else if n := nearest(name, have); n != "" {
		right = n
	}
	c.fault(path, rule, name, "is no "+what+" of this site", right)
	return false
}

func (c *checker) serviceNames() []string {
	var out []string
	for _, v := range c.s.Services {
		out = append(out, v.Name)
	}
	return out
}

func (c *checker) addressNames() []string {
	var out []string
	for _, a := range c.s.Addresses {
		out = append(out, a.Name)
	}
	return out
}

// unreadNetwork says whether some network's addresses are not known: then it
// cannot be said that an address lies in none.
func (c *checker) unreadNetwork() bool {
	return len(c.s.Networks) == 0 || slices.ContainsFunc(c.s.Networks, func(n Network) bool { return !n.CIDR.IsValid() })
}

func (c *checker) addresses() {
	owner := map[netip.Addr]string{}
	for _, h := range c.s.Hosts {
		for _, n := range Sorted(h.Addresses) {
			owner[h.Addresses[n]] = "host " + h.Name
		}
	}
	for _, a := range c.s.Addresses {
		at := "addresses/" + a.Name
		in := at + "/address" // in the short form this is the entry itself
		if !thingName(a.Name) {
			c.fault(at, "address", a.Name, "is not a name", "letters, digits, - and _")
		}
		if !a.Addr.IsValid() {
			c.fault(in, "address", "", "is missing", "10.0.0.100/24 or fd00::100/64")
			continue
		}
		if o, dup := owner[a.Addr]; dup {
			c.fault(in, "duplicate-address", a.Addr.String(), "belongs to "+o+" already", "an address that nothing else has: it moves between hosts")
		} else {
			owner[a.Addr] = "address " + a.Name
		}
		if a.Network == "" {
			if !c.unreadNetwork() {
				var all []string
				for _, n := range c.s.Networks {
					all = append(all, fmt.Sprintf("%s (%s)", n.CIDR, n.Name))
				}
				c.fault(in, "address", a.Addr.String(), "lies in none of the site's networks", "an address in "+strings.Join(all, " or ")+", or one more network")
			}
		} else if n, ok := c.network(a.Network); !ok {
			c.noNetwork(at+"/network", a.Network)
		} else if !n.CIDR.Contains(a.Addr) {
			c.fault(in, "address", a.Addr.String(), "lies outside network "+n.Name, "an address in "+n.CIDR.String())
		} else if why := usable(a.Addr, n.CIDR); why != "" {
			c.fault(in, "address", a.Addr.String(), why, "another address in "+n.CIDR.String())
		} else if len(c.s.Hosts) > 0 && !slices.ContainsFunc(c.s.Hosts, func(h Host) bool { _, ok := h.Addresses[n.Name]; return ok && !h.HasRole("arbiter") }) {
			c.fault(in, "address", a.Addr.String(), "can live nowhere: no host but arbiters has an address of its own on network "+n.Name, fmt.Sprintf("addresses: {%s: ...} on hosts that may hold it", n.Name))
		} else if len(c.s.Hosts) > 0 && c.company(a) && !slices.ContainsFunc(c.s.Hosts, func(h Host) bool { return c.s.MayCarry(a, h) }) {
			if len(a.With) > 0 {
				c.fault(at+"/with", "address", strings.Join(a.With, ", "), "may run on no host that has an address of its own on network "+n.Name, "services of hosts on that network")
			} else {
				c.fault(in, "address", a.Addr.String(), "can live nowhere: no controller or network node has an address of its own on network "+n.Name, fmt.Sprintf("addresses: {%s: ...} on controllers, or with: [SERVICE] to live where that may run", n.Name))
			}
		}
		for i, name := range a.Prefer {
			in := fmt.Sprintf("%s/prefer/%d", at, i)
			if h, ok := c.hostNamed(in, name); ok && a.Network != "" && c.company(a) && !c.s.MayCarry(a, h) {
				c.fault(in, "host", name, "cannot hold it: "+unfit(a, h), "a host that can")
			}
		}
		for i, name := range a.With {
			c.known(fmt.Sprintf("%s/with/%d", at, i), "with", name, "service", c.serviceNames())
		}
	}
}

// unfit says what a host lacks to carry an address.
func unfit(a Address, h Host) string {
	switch _, own := h.Addresses[a.Network]; {
	case !own:
		return "the host has no address of its own on network " + a.Network
	case len(a.With) == 0:
		return "an address that names nothing under with lives on controllers and network nodes"
	}
	return "the host may not run all of " + strings.Join(a.With, ", ")
}

// company says whether all that an address wants beside it is of this site, and
// every host says its roles: else where it may live is not known.
func (c *checker) company(a Address) bool {
	return !slices.ContainsFunc(a.With, func(name string) bool { return !slices.Contains(c.serviceNames(), name) }) &&
		!slices.ContainsFunc(c.s.Hosts, func(h Host) bool { return len(h.Roles) == 0 })
}

func (c *checker) services() {
	bound := map[string]string{} // "internal 5000" -> service
	for _, v := range c.s.Services {
		at := "services/" + v.Name
		if !thingName(v.Name) {
			c.fault(at, "service", v.Name, "is not a name", "letters, digits, - and _")
		}
		if v.Kind == "" {
			c.fault(at+"/kind", "service", "", "is missing", "a kind such as systemd")
		}
		c.oneOf(at+"/mode", "mode", string(v.Mode), string(ActiveActive), string(ActivePassive), string(Promoted))
		c.oneOf(at+"/on_failure", "on-failure", string(v.OnFailure), string(FailMove), string(FailFence), string(FailBlock))
		if v.Mode == ActiveActive && (v.OnFailure == FailMove || v.OnFailure == FailFence) {
			// Every home has its copy already: there is nowhere to move to, and a fence would
			// take the host's sound copies of everything else along.
			c.fault(at+"/on_failure", "on-failure", string(v.OnFailure), "is for active/passive services: of this one each home runs a copy of its own", "block: a copy that fails again and again is left down and told, the others serve")
		}
		if v.Restarts.Count < 0 {
			c.fault(at+"/restarts/count", "restarts", strconv.Itoa(v.Restarts.Count), "is less than none", "0 or more")
		}
		if v.Restarts.Count > 0 && v.Restarts.Within <= 0 {
			c.fault(at+"/restarts/within", "restarts", v.Restarts.Within.String(), "is no span in which to count restarts", "a duration such as 10m")
		}
		homes := c.homes(at, v)
		for i, name := range v.Prefer {
			in := fmt.Sprintf("%s/prefer/%d", at, i)
			if _, ok := c.hostNamed(in, name); ok && len(homes) > 0 && !slices.Contains(homes, name) {
				c.fault(in, "host", name, "is not a host on which the service may live", "one of "+some(homes))
			}
		}
		for i, name := range v.After {
			if name == v.Name {
				continue // told as a cycle
			}
			if slices.Contains(c.serviceNames(), name) {
				continue
			}
			right := fmt.Sprintf("list %s too, or say after: [] if it runs elsewhere", name)
			if n := nearest(name, c.serviceNames()); n != "" {
				right = n
			}
			c.fault(fmt.Sprintf("%s/after/%d", at, i), "after", name, "is no service of this site", right)
		}
		for i, name := range v.With {
			in := fmt.Sprintf("%s/with/%d", at, i)
			kind, short, _ := strings.Cut(name, "/")
			switch kind {
			case "address":
				c.known(in, "with", short, "address", c.addressNames())
			case "service":
				if !c.known(in, "with", short, "service", c.serviceNames()) {
					continue
				}
				if o, _ := c.s.Service(short); len(homes) > 0 && !slices.ContainsFunc(c.s.Homes(o), func(h string) bool { return slices.Contains(homes, h) }) && len(c.s.Homes(o)) > 0 {
					c.fault(in, "with", name, "may live on no host on which this service may live", "services that have a host in common")
				}
			default:
				c.fault(in, "with", name, "is neither an address nor a service", "address/NAME or service/NAME")
			}
		}
		if v.Check.Kind != "" && v.Check.Port == 0 {
			c.fault(at+"/check/port", "port", "", "is missing", "the port on which the service answers")
		} else if v.Check.Port != 0 {
			c.port(at+"/check/port", v.Check.Port)
		}
		if v.Check.Every < 0 || v.Check.Deadline < 0 {
			c.fault(at+"/check", "check", "", "has a duration below zero", "durations such as 1s")
		}
		c.listen(at+"/listen", v, homes, bound)
	}
}

// kindGarbd is the kind of services that may live on an arbiter: votes without data.
const kindGarbd = "garbd"

// halves warns of a database that stops as a whole when it loses half of its members.
func (c *checker) halves() {
	for _, v := range c.s.Services {
		homes := c.s.Homes(v)
		if v.Kind != "galera" || len(homes) == 0 || len(homes)%2 == 1 || slices.ContainsFunc(c.s.Services, func(o Service) bool { return o.Kind == kindGarbd && len(c.s.Homes(o))%2 == 1 }) {
			continue
		}
		c.warn("services/"+v.Name, "members", "", fmt.Sprintf("has %d members: when half of them are lost, or lose sight of the others, none goes on", len(homes)),
			"an odd number of them, or a vote without data besides: garbd, and a host with roles: [arbiter]")
	}
}

// some names the first of a list.
func some(list []string) string {
	if len(list) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:5], ", "), len(list)-5)
	}
	return strings.Join(list, ", ")
}

// homes returns where a service may live and reports if that is nowhere.
func (c *checker) homes(at string, v Service) []string {
	if len(c.s.Hosts) == 0 {
		return nil // told already
	}
	var homes []string
	if len(v.Hosts) > 0 {
		for i, name := range v.Hosts {
			in := fmt.Sprintf("%s/hosts/%d", at, i)
			h, ok := c.hostNamed(in, name)
			switch {
			case !ok:
			case h.HasRole("arbiter") && v.Kind != kindGarbd:
				c.fault(in, "roles", name, "is an arbiter, which runs no services", "another host")
			case slices.Contains(homes, name):
				c.fault(in, "duplicate", name, "stands here a second time", "each host once")
			default:
				homes = append(homes, name)
			}
		}
		return homes
	}
	for i, role := range v.Roles {
		if role == "arbiter" && v.Kind != kindGarbd {
			c.fault(fmt.Sprintf("%s/roles/%d", at, i), "roles", role, "runs no services", "another role")
			return nil
		}
	}
	homes = c.s.Homes(v)
	switch {
	case len(v.Roles) == 0:
		c.fault(at+"/roles", "roles", "", "is missing, and so is hosts: the service may live nowhere", "roles: [controller], or hosts: [c1, c2]")
	case slices.ContainsFunc(c.s.Hosts, func(h Host) bool { return len(h.Roles) == 0 }):
		// Told already; it may be the one.
	case len(homes) == 0:
		var have []string
		for _, h := range c.s.Hosts {
			for _, role := range h.Roles {
				if !slices.Contains(have, role) && role != "arbiter" {
					have = append(have, role)
				}
			}
		}
		right := "one of the roles that hosts have: " + strings.Join(have, ", ")
		if n := nearest(v.Roles[0], have); n != "" {
			right = n
		}
		c.fault(at+"/roles", "roles", strings.Join(v.Roles, ", "), "is a role that no host has", right)
	}
	return homes
}

func (c *checker) listen(at string, v Service, homes []string, bound map[string]string) {
	l := v.Listen
	if l.Port == 0 {
		if len(l.Addresses) > 0 || l.Backend != 0 || l.Local {
			c.fault(at+"/port", "port", "", "is missing", "the port that clients use")
		}
		return
	}
	c.port(at+"/port", l.Port)
	if l.Backend != l.Port {
		c.port(at+"/backend", l.Backend)
	}
	c.oneOf(at+"/protocol", "listen", l.Protocol, "http", "tcp")
	if len(l.Addresses) == 0 && !l.Local {
		c.fault(at+"/addresses", "listen", "", "is missing: nobody could reach it", "addresses: [NAME], or local: true")
	}
	if l.TLS && c.s.TLS.Certificate == "" {
		c.fault(at+"/tls", "tls", "true", "needs a certificate, and the site names none", "tls: {certificate: /etc/mainstay/tls/site.pem} at the top")
	}
	if l.Writer && l.Protocol == "http" {
		c.fault(at+"/writer", "listen", "true", "goes with protocol tcp alone: one server at a time is for databases", "protocol: tcp")
	}
	if len(l.Writers) > 0 && !l.Writer {
		c.fault(at+"/writers", "listen", "", "are further writers of a service that has no writer", "writer: true beside them")
	}
	ends := slices.Clone(l.Addresses)
	for i, name := range l.Addresses {
		if slices.Contains(l.Addresses[:i], name) {
			c.fault(fmt.Sprintf("%s/addresses/%d", at, i), "duplicate", name, "stands here a second time", "each address once")
			return
		}
		c.known(fmt.Sprintf("%s/addresses/%d", at, i), "listen", name, "address", c.addressNames())
	}
	if l.Local {
		ends = append(ends, "127.0.0.1")
	}
	for _, f := range v.Faces(homes) {
		in := at + "/port"
		if f.Writer != "" {
			in = at + "/writers/" + f.Writer
			c.port(in, f.Port)
			if !thingName(f.Writer) {
				c.fault(in, "name", f.Writer, "is not a name", "letters, digits, - and _")
			}
			if _, dup := c.s.Service(f.Name); dup {
				c.fault(in, "duplicate", f.Writer, fmt.Sprintf("would be called %s in HAProxy, as another service is", f.Name), "another name")
			}
		}
		for _, name := range ends {
			key := fmt.Sprintf("%s %d", name, f.Port)
			if o, dup := bound[key]; dup {
				c.fault(in, "port", strconv.Itoa(f.Port), fmt.Sprintf("is bound on %s by service %s already", name, o), "another port or address")
			} else {
				bound[key] = f.Name
			}
		}
	}
	if len(c.s.Networks) == 0 {
		return
	}
	if l.Network == "" {
		c.oneOf(at+"/network", "network", "", c.networkNames()...)
		return
	}
	if c.noNetwork(at+"/network", l.Network) {
		return
	}
	for _, name := range homes {
		if h, _ := c.s.Host(name); len(h.Addresses) > 0 {
			if _, ok := h.Addresses[l.Network]; !ok {
				c.fault(at+"/network", "network", l.Network, fmt.Sprintf("does not lead to host %s, on which the service may live", name), "a network on which all its hosts have addresses")
				return
			}
		}
	}
}

// cycles reports services that wait for each other, and things that each want
// to follow the other to its host.
func (c *checker) cycles() {
	after, with := map[string][]string{}, map[string][]string{}
	for _, v := range c.s.Services {
		after[v.Name] = v.After
		with[v.Thing()] = v.With
	}
	for _, a := range c.s.Addresses {
		for _, name := range a.With {
			with[a.Thing()] = append(with[a.Thing()], "service/"+name)
		}
	}
	for _, ring := range rings(after) {
		c.fault("services/"+ring[0]+"/after", "after", "", "waits for itself: "+strings.Join(ring, " after "), "an order in which something is first")
	}
	for _, ring := range rings(with) {
		kind, name, _ := strings.Cut(ring[0], "/")
		at := map[string]string{"address": "addresses/", "service": "services/"}[kind] + name + "/with"
		c.fault(at, "with", "", "follows itself: "+strings.Join(ring, " with "), "one that is placed first, and others with it")
	}
}

// rings returns the cycles of a graph, each once, from its first name in order
// of the alphabet and back to it.
func rings(edges map[string][]string) [][]string {
	var out [][]string
	var trail []string
	done := map[string]bool{}
	var walk func(string)
	walk = func(n string) {
		if i := slices.Index(trail, n); i >= 0 {
			out = append(out, append(slices.Clone(trail[i:]), n))
			return
		}
		if done[n] {
			return
		}
		trail = append(trail, n)
		for _, next := range edges[n] {
			walk(next)
		}
		trail = trail[:len(trail)-1]
		done[n] = true
	}
	for _, n := range Sorted(edges) {
		walk(n)
	}
	return out
}

// exclusive warns where the loss of a host could not be proved: an
// active/passive service is started elsewhere only on proof (docs/DESIGN.md
// section 3, rules 6 and 7).
func (c *checker) exclusive() {
	var single []string
	for _, v := range c.s.Services {
		if !v.Mode.Exclusive() {
			continue
		}
		var bare, mute []string // without a fence; and without a proof at all
		for _, name := range c.s.Homes(v) {
			switch h, ok := c.s.Host(name); {
			case !ok:
			case len(h.Fence) == 0:
				bare = append(bare, name)
				if h.Watchdog.Device == "" {
					mute = append(mute, name)
				}
			case h.Watchdog.Device != "": // it needs no answer of anybody's
			case len(h.Fence) == 1 && len(h.Fence[0]) == 1 && !slices.Contains(single, name):
				single = append(single, name)
			}
		}
		if len(bare) == 0 {
			continue
		}
		at := "services/" + v.Name
		if v.OnFailure == FailFence {
			c.fault(at+"/on_failure", "fence", string(FailFence), "asks for a fence, and these hosts have none: "+some(bare), "fence: {driver: ...} on them, or on_failure: move or block")
		}
		if len(mute) > 0 {
			c.warn(at, "fence", "", fmt.Sprintf("is %s and may live on hosts without a fence (%s): if one of them is lost, no proof is possible, and the service waits until the host returns or a person swears that it is off (rules 6 and 7)", v.Mode, some(mute)),
				"fence: {driver: redfish, ...} on these hosts, or mode: active/active if it can be")
		}
	}
	if len(single) > 0 {
		slices.Sort(single)
		c.warn("hosts/"+single[0]+"/fence", "one-bmc", "", fmt.Sprintf("is the only proof for active/passive services on %s: a BMC that loses power together with its host proves nothing, and the service waits for the host's return or a person's oath (HOLES 18)", some(single)),
			"a second level, fence: [{driver: redfish, ...}, {driver: agent, agent: fence_apc_snmp, ...}], a watchdog: {device: /dev/watchdog}, or BMCs with a power feed of their own; else know the oath: the wait names its command")
	}
}

// timing checks the inequalities on which docs/DESIGN.md section 3 rests. That
// suspicion (3 x beat) comes before the lease ends, that a beat may be lost, and
// that the leader's lease (0.9 x (election - 2 x heartbeat)) outlasts its renewal
// all follow from these.
func (c *checker) timing() {
	t := c.s.Timing
	each := []struct {
		key   string
		value time.Duration
	}{{"beat", t.Beat}, {"lease", t.Lease}, {"slow_beat", t.SlowBeat}, {"slow_lease", t.SlowLease}, {"heartbeat", t.Heartbeat}, {"election", t.Election}}
	for _, e := range each {
		if e.value <= 0 || e.value > time.Minute {
			c.fault("timing/"+e.key, "timing", e.value.String(), "is no time to build on", "more than 0 and at most 1m")
			return // sums of nonsense say nothing
		}
		if (e.key == "heartbeat" || e.key == "election") && e.value%time.Millisecond != 0 {
			c.fault("timing/"+e.key, "timing", e.value.String(), "is not in whole milliseconds, as the store counts", e.value.Round(time.Millisecond).String())
		}
	}
	// least reports that left must be at least factor x right.
	least := func(left string, l time.Duration, factor int, right string, r time.Duration, why string) {
		need := time.Duration(factor) * r
		if l >= need {
			return
		}
		times, product := "", ""
		if factor != 1 {
			times, product = fmt.Sprintf("%d x ", factor), fmt.Sprintf("%d x %v = ", factor, r)
		}
		c.fault("timing/"+left, "timing", "", fmt.Sprintf("breaks %s >= %s%s: %v < %s%v; %s", left, times, right, l, product, need, why),
			fmt.Sprintf("%s: %v or more, or %s: %v or less", left, need, right, (l/time.Duration(factor)).Truncate(time.Millisecond)))
	}
	least("lease", t.Lease, 4, "beat", t.Beat, "three lost beats must not cost a lease")
	least("slow_lease", t.SlowLease, 4, "slow_beat", t.SlowBeat, "three lost beats must not cost a lease")
	least("slow_beat", t.SlowBeat, 1, "beat", t.Beat, "hosts that hold nothing beat no faster")
	least("slow_lease", t.SlowLease, 1, "lease", t.Lease, "hosts that hold nothing are judged no sooner")
	least("election", t.Election, 5, "heartbeat", t.Heartbeat, "raft must not elect anew for a late heartbeat, and the leader's lease needs what is left")
	if t.Beat < 10*time.Millisecond {
		c.fault("timing/beat", "timing", t.Beat.String(), "breaks beat >= 10ms, the lateness of a busy machine", "50ms")
	}
	if t.Heartbeat < 10*time.Millisecond {
		c.fault("timing/heartbeat", "timing", t.Heartbeat.String(), "breaks heartbeat >= 10ms, the lateness of a busy machine", "20ms on a quiet rack, else 50ms")
	}
	if 4*t.Beat > lifetime {
		c.fault("timing/beat", "timing", t.Beat.String(), fmt.Sprintf("breaks 4 x beat <= %v, the life that the kernel gives an address at each beat: 4 x %v = %v", lifetime, t.Beat, 4*t.Beat), (lifetime/4).String()+" or less")
	}
}

func (c *checker) brakes() {
	b, n := c.s.Brakes, len(c.s.Hosts)
	switch {
	case b.Share < 1 || b.Share > 100:
		c.fault("brakes/share", "brakes", strconv.Itoa(b.Share), "is no share of the hosts", "a number from 1 to 100, per cent")
	case b.Share > 50:
		c.warn("brakes/share", "brakes", strconv.Itoa(b.Share), "allows to fence more than half of the hosts at once, though so many lost together are rather our own blindness", "50 or less")
	case n >= 3 && n*b.Share < 100: // fewer cannot be a site, and that is told already
		c.fault("brakes/share", "brakes", strconv.Itoa(b.Share), fmt.Sprintf("is less than one of %d hosts, so that none could ever be fenced", n), fmt.Sprintf("%d or more", (100+n-1)/n))
	}
	switch {
	case b.Count < 1:
		c.fault("brakes/count", "brakes", strconv.Itoa(b.Count), "would let no host ever be fenced", "1 or more; mode: shadow carries out nothing")
	case n > 0 && b.Count > max(n, 5):
		c.warn("brakes/count", "brakes", strconv.Itoa(b.Count), fmt.Sprintf("is no brake: the site has %d hosts", n), "fewer than the hosts that are ever lost at once")
	}
	for _, role := range Sorted(b.Roles) {
		of := 0
		for i := range c.s.Hosts {
			if c.s.Hosts[i].HasRole(role) {
				of++
			}
		}
		if of == 0 {
			c.fault("brakes/roles/"+role, "brakes", role, "is a role of no host", "a role that hosts have")
			continue
		}
		c.brake("brakes/roles/"+role, b.Roles[role], of)
	}
	if len(b.Zones) > 0 && c.s.OpenStack.Cloud == "" {
		c.fault("brakes/zones", "brakes", "", "needs an OpenStack whose zones these are", "openstack/cloud, or roles instead of zones")
	}
	for _, zone := range Sorted(b.Zones) {
		c.brake("brakes/zones/"+zone, b.Zones[zone], 0) // what is in a zone Nova says
	}
}

// brake checks the brake of some hosts; 0: nobody knows how many.
func (c *checker) brake(path string, b Brake, of int) {
	switch {
	case b.Share < 0 || b.Share > 100:
		c.fault(path+"/share", "brakes", strconv.Itoa(b.Share), "is no share of its hosts", "a number from 1 to 100, per cent")
	case b.Count < 0:
		c.fault(path+"/count", "brakes", strconv.Itoa(b.Count), "is no number of hosts", "1 or more")
	case b == Brake{}:
		c.fault(path, "brakes", "", "bounds nothing", "{share: 40, count: 5}, or one of them")
	case of > 0 && b.Share > 0 && of*b.Share < 100:
		c.fault(path+"/share", "brakes", strconv.Itoa(b.Share), fmt.Sprintf("is less than one of its %d hosts, so that none could ever be fenced", of), fmt.Sprintf("%d or more, or a count alone", (100+of-1)/of))
	}
}
