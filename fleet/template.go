package fleet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Template returns the commented site file from which an operator starts: three
// controllers on one network, the addresses counted from that network's own, and
// the catalogue's services, each with its mode and why. It reads without faults.
// management must be masked and have room for 5 addresses (a /29 or a /125).
func Template(site string, management netip.Prefix, catalogue map[string]Service) string {
	first, virtual := 11, 100
	if size := management.Addr().BitLen() - management.Bits(); size < 7 {
		first, virtual = 1, 5
	}
	base := management.Masked().Addr()
	nth := func(n int) netip.Addr {
		a := base
		for range n {
			a = a.Next()
		}
		return a
	}
	var run, rest strings.Builder
	for _, name := range Sorted(catalogue) {
		v := catalogue[name]
		if v.Mode == ActiveActive && slices.Contains(v.Roles, "controller") { // this site has no others
			fmt.Fprintf(&run, "%s  %s: {}\n", comment(string(v.Mode)+": "+v.Why), name)
		} else {
			fmt.Fprintf(&rest, "%s  # %s: {}\n", comment(string(v.Mode)+": "+v.Why), name)
		}
	}
	services := run.String() + rest.String()
	if run.Len() == 0 {
		services = "  {}\n" + rest.String()
	}
	internal := fmt.Sprintf("%s/%d", nth(virtual), management.Bits())
	if _, ok := catalogue["haproxy"]; ok {
		internal = fmt.Sprintf("{address: %s, with: [haproxy]}", nth(virtual))
	}
	return strings.NewReplacer(
		"SITE", site,
		"CIDR", management.Masked().String(),
		"FIRST", nth(first).String(),
		"INTERNAL", internal,
		"SERVICES\n", services,
	).Replace(template)
}

// comment breaks a text into lines of a comment.
func comment(text string) string {
	var b strings.Builder
	width := 0
	for _, word := range strings.Fields(text) {
		if width == 0 || width+1+len(word) > 78 {
			if width > 0 {
				b.WriteByte('\n')
			}
			b.WriteString("  #")
			width = 3
		}
		b.WriteString(" " + word)
		width += 1 + len(word)
	}
	return b.String() + "\n"
}

const template = `# The site's file. "mainstay check" reads it and names every mistake at once,
# each with its line and what would be right; it changes nothing.

site: SITE

# Hosts send heartbeats over every network that they share.
networks:
  management: {cidr: CIDR}
  # storage: {cidr: 10.0.1.0/24}

# c[1-3] stands for c1, c2, c3; n[001-100] keeps its zeros. One address counts
# up through a pattern; a list names each host's own.
# Controllers and arbiters vote (3, 5 or 7 of them, or 2 with fences); "voter" says otherwise.
# An arbiter votes, and runs no services but garbd: the third vote of a pair.
# A fence proves a host off. Without one, an active/passive service of a lost
# host waits for the host's return or for a person's oath. {name} is the host's
# name; passwords belong in a file that root alone may read.
hosts:
  c[1-3]:
    roles: [controller]
    addresses: {management: FIRST}
    # fence: {driver: redfish, url: "https://bmc-{name}", user: mainstay, password_file: /etc/mainstay/bmc-password}
    # Others, and several of them one after another: "Power switches" in docs/OPERATING.md.
  # n[001-100]: {roles: [compute], addresses: {management: 10.0.0.101}}
  # a1: {roles: [arbiter], addresses: {management: 10.0.0.14}}

# Virtual addresses: at every moment at most one host speaks for each.
addresses:
  internal: INTERNAL
  # public: {address: 203.0.113.10/24, prefer: [c2], with: [haproxy]}

# What Mainstay keeps running. A name takes everything from the catalogue; what
# stands behind it replaces that. A service of your own says kind, mode, units
# and roles:
#   app: {kind: systemd, mode: active/passive, why: "it writes to local files", units: [app.service], roles: [controller]}
services:
SERVICES

# rack: quiet network, disks that fsync within 20 ms. room: the default.
# wide: slow disks, or voters some kilometres apart. Single values can be
# adjusted, {preset: room, lease: 400ms}; "mainstay check" prints what follows.
timing: room

# shadow decides and says "would have", but carries out nothing: for the first
# day on a running site.
mode: act

# Many hosts lost at once are our own blindness until shown otherwise: no more
# than this share (per cent) and this number of hosts are fenced at once.
brakes: {share: 40, count: 5}

# tls: {certificate: /etc/mainstay/tls/site.pem} # certificate and key, for HAProxy
# alarms: ["https://alarms.example.org/mainstay"]
# operators: {revoked: [ann]} # whose certificates are refused from now on
# openstack: {cloud: SITE, leave: [octavia]} # an entry of /etc/mainstay/clouds.yaml: evacuates the servers of dead computes
`
