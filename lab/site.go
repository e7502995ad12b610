package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"mainstay/api"
)

// SiteConfig says how Mainstay shall run on a lab's hosts.
type SiteConfig struct {
	Binary string // this program's path on this machine; empty: the running one
	Timing string // a preset, or a whole value as in a site's file; empty: rack
	Mode   string // act or shadow; empty: act
	// Services is the site file's section; empty: haproxy alone.
	Services string
	// Extra is appended to the site's file.
	Extra string
	// Hosts are the names of those that belong to the site; empty: all. With an even
	// number of controllers and arbiters the last controller does not vote.
	Hosts []string
	// Computes are the names of those among them that are no controllers: they do not
	// vote, and nothing exclusive can live there.
	Computes []string
	// Apart is a network on which no voter has an address, only computes; empty: none.
	Apart string
	// Pair lets two controllers vote, and nobody else.
	Pair bool
	// Arbiters are the names of those that vote and run nothing but garbd.
	Arbiters []string
	// Addresses and Brakes are the site file's sections; empty: every Virtual address, and
	// at most one host fenced at a time.
	Addresses, Brakes string
	// Later names hosts that stand in the site's file and do not join yet.
	Later []string
}

// hosts are the machines of the site.
func (c SiteConfig) hosts(l *Lab) []Machine {
	var out []Machine
	for _, m := range l.Hosts {
		if len(c.Hosts) == 0 || slices.Contains(c.Hosts, m.Name) {
			out = append(out, m)
		}
	}
	return out
}

// CloudServices is the SiteConfig.Services of a lab that carries Seed's cloud.
const CloudServices = `  haproxy: {}
  memcached: {}
  mariadb: {listen: {network: management}}
  keystone: {}
  keystone-flush: {}
`

// Virtual returns the lab's virtual addresses by name: internal on the
// management network, public on the tenant network, internal6 in IPv6.
func (l *Lab) Virtual() map[string]netip.Addr {
	return map[string]netip.Addr{
		"internal":  l.address(0, 100).V4.Addr(),
		"public":    l.address(2, 100).V4.Addr(),
		"internal6": l.address(0, 100).V6.Addr(),
	}
}

// SiteFile writes the site's file of a lab.
func (l *Lab) SiteFile(c SiteConfig) string {
	if c.Timing == "" {
		c.Timing = "rack"
	}
	if c.Mode == "" {
		c.Mode = "act"
	}
	if c.Services == "" {
		c.Services = "  haproxy: {}\n"
	}
	if v := l.Virtual(); c.Addresses == "" {
		c.Addresses = fmt.Sprintf("  internal: {address: %s, with: [haproxy]}\n  public: {address: %s, with: [haproxy]}\n  internal6: {address: \"%s\", with: [haproxy]}\n",
			v["internal"], v["public"], v["internal6"])
	}
	if c.Brakes == "" {
		c.Brakes = "{share: 40, count: 1}"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "site: lab-%s\nnetworks:\n", l.Name)
	for _, n := range l.Networks {
		if n.Name != oob {
			fmt.Fprintf(&b, "  %s: {cidr: %s}\n", n.Name, n.V4.Masked())
		}
	}
	fmt.Fprintf(&b, "  management6: {cidr: \"%s\"}\nhosts:\n", l.Networks[0].V6.Masked())
	hosts := c.hosts(l)
	controllers := len(hosts) - len(c.Computes) - len(c.Arbiters)
	nth := 0
	for _, m := range hosts {
		switch {
		case slices.Contains(c.Computes, m.Name):
			fmt.Fprintf(&b, "  %s:\n    roles: [compute]\n", m.Name)
		case slices.Contains(c.Arbiters, m.Name):
			fmt.Fprintf(&b, "  %s:\n    roles: [arbiter]\n", m.Name)
		default:
			fmt.Fprintf(&b, "  %s:\n    roles: [controller]\n", m.Name)
			if nth++; nth == controllers && (nth+len(c.Arbiters))%2 == 0 && !c.Pair {
				fmt.Fprintf(&b, "    voter: false\n")
			}
		}
		fmt.Fprintf(&b, "    addresses: {")
		for _, n := range l.Networks {
			if n.Name != oob && (n.Name != c.Apart || slices.Contains(c.Computes, m.Name)) {
				fmt.Fprintf(&b, "%s: %s, ", n.Name, m.Addresses[n.Name].V4.Addr())
			}
		}
		fmt.Fprintf(&b, "management6: \"%s\"}\n", m.Addresses[l.Networks[0].Name].V6.Addr())
		fmt.Fprintf(&b, "    fence: {driver: redfish, url: \"%s\", user: %s, password_file: /etc/mainstay/bmc/%s, ca_file: /etc/mainstay/bmc/ca.pem}\n",
			m.BMC.URL(), m.BMC.User, m.Name)
	}
	fmt.Fprintf(&b, "addresses:\n%sservices:\n%stiming: %s\nmode: %s\nbrakes: %s\n%s", c.Addresses, c.Services, c.Timing, c.Mode, c.Brakes, c.Extra)
	return b.String()
}

// Deploy installs this program on every host of the lab and makes them one site:
// the first host begins it, the others join, each as an operator would do it. It
// returns when all have joined and a leader decides.
func (l *Lab) Deploy(ctx context.Context, c SiteConfig, progress func(string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	hosts := c.hosts(l)
	first := hosts[0]
	for _, m := range hosts {
		if err := l.InstallSite(m.Name, c); err != nil {
			return fmt.Errorf("deploy on %s: %w", m.Name, err)
		}
	}
	if err := l.Install(first.Name, map[string]File{"/etc/mainstay/site.yaml": {Data: []byte(l.SiteFile(c))}}); err != nil {
		return fmt.Errorf("deploy on %s: %w", first.Name, err)
	}
	progress(first.Name + " begins the site")
	for _, argv := range [][]string{
		{"mainstay", "check", "--file", "/etc/mainstay/site.yaml"},
		{"mainstay", "init", "--host", first.Name},
		{"systemctl", "enable", "--now", "mainstay"},
	} {
		if out, err := l.Run(ctx, first.Name, argv...); err != nil {
			return fmt.Errorf("deploy on %s: %w\n%s", first.Name, err, out)
		}
	}
	joined := slices.DeleteFunc(slices.Clone(hosts), func(m Machine) bool { return slices.Contains(c.Later, m.Name) })
	for _, m := range joined[1:] {
		progress(m.Name + " joins")
		if err := l.joinSite(ctx, first, m); err != nil {
			return fmt.Errorf("deploy on %s: %w", m.Name, err)
		}
	}
	for _, m := range joined {
		// What was never synced would not be there after a power cut.
		if _, err := l.Run(ctx, m.Name, "sync"); err != nil {
			return fmt.Errorf("deploy on %s: %w", m.Name, err)
		}
	}
	return l.Await(ctx, first.Name, "a leader and all hosts healthy", func(s api.Status) bool {
		if s.Leader == "" || len(s.Hosts) != len(hosts) {
			return false
		}
		for _, h := range s.Hosts {
			later := slices.Contains(c.Later, h.Name)
			if !later && h.Condition != "healthy" || !later && h.Voter && h.Store != "votes" {
				return false
			}
		}
		return true
	})
}

// InstallSite puts on a host what every host of the site has before it joins: the
// program, and what the BMCs are asked with.
func (l *Lab) InstallSite(host string, c SiteConfig) error {
	if c.Binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		c.Binary = exe
	}
	binary, err := os.ReadFile(c.Binary)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(l.Path("bmc.crt"))
	if err != nil {
		return fmt.Errorf("the BMCs' certificate: %w", err)
	}
	files := map[string]File{
		"/usr/bin/mainstay":        {Data: binary, Mode: 0o755},
		"/etc/mainstay/bmc/ca.pem": {Data: ca},
	}
	for _, other := range l.Hosts {
		files["/etc/mainstay/bmc/"+other.Name] = File{Data: []byte(other.BMC.Password), Mode: 0o600}
	}
	return l.Install(host, files)
}

// joinSite makes one host join with a fresh token, as soon as the site can give one.
func (l *Lab) joinSite(ctx context.Context, first, m Machine) error {
	var token string
	err := until(ctx, time.Minute, func() error {
		out, err := l.Run(ctx, first.Name, "mainstay", "token")
		token = strings.TrimSpace(out)
		return err
	})
	if err != nil {
		return fmt.Errorf("make a token: %w", err)
	}
	address := first.Addresses["management"].V4.Addr().String()
	var out bytes.Buffer
	if err := l.Exec(ctx, m.Name, []string{"mainstay", "join", address, "--host", m.Name}, strings.NewReader(token), &out, &out); err != nil {
		return fmt.Errorf("%w\n%s", err, out.String())
	}
	if text, err := l.Run(ctx, m.Name, "systemctl", "enable", "--now", "mainstay"); err != nil {
		return fmt.Errorf("%w\n%s", err, text)
	}
	return nil
}

// until tries f again and again until it succeeds, ctx ends or the bound is over.
func until(ctx context.Context, bound time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("gave up after %v", bound))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// SiteStatus asks the Mainstay on a host what is true.
func (l *Lab) SiteStatus(ctx context.Context, host string) (api.Status, error) {
	var s api.Status
	c, err := l.APIClient(host)
	if err != nil {
		return s, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return c.Status(ctx)
}

// APIClient reaches the API of a host by its own socket, as root there would.
func (l *Lab) APIClient(host string) (*api.Client, error) {
	root, err := l.HostPath(host)
	if err != nil {
		return nil, err
	}
	return api.NewUnix(root + "/run/mainstay/api.sock"), nil
}

// siteBound is how long the lab waits for a site to settle on a busy machine.
const siteBound = 8 * time.Minute

// Await waits until the status that a host gives satisfies want.
func (l *Lab) Await(ctx context.Context, host, what string, want func(api.Status) bool) error {
	var last api.Status
	err := until(ctx, siteBound, func() error {
		s, err := l.SiteStatus(ctx, host)
		if err != nil {
			return err
		}
		last = s
		if !want(s) {
			return errors.New("not yet")
		}
		return nil
	})
	if err == nil {
		return nil
	}
	asked := [][]string{{"mainstay", "status"}}
	for _, h := range last.Holdings {
		if !h.Works {
			asked = append(asked, []string{"mainstay", "why", h.Thing})
		}
	}
	text := ""
	for _, argv := range asked {
		out, err := l.Run(ctx, host, argv...)
		text += fmt.Sprintf("\n%s:\n%s", strings.Join(argv, " "), out)
		if err != nil {
			text += err.Error()
		}
	}
	return fmt.Errorf("waiting on %s for %s: %w%s", host, what, err, text)
}
