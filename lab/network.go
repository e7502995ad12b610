package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// oob is the out-of-band network, on which the BMCs are.
const oob = "oob"

// bmcHost is the name of the namespace in which the BMCs have their addresses.
const bmcHost = "bmc"

// Direction is which way of a host's traffic a Cut takes.
type Direction string

// Directions.
const (
	Both Direction = "both" // no frame comes or goes, the link stays up
	In   Direction = "in"   // nothing reaches the host
	Out  Direction = "out"  // nothing leaves the host
	Link Direction = "link" // the cable is pulled: the host sees its link go down
)

// All stands for every network of a lab.
const All = "all"

// Cut takes away frames of one host. It lasts over power cuts, until Heal.
type Cut struct {
	Host      string    `json:"host"`
	Network   string    `json:"network"`
	Direction Direction `json:"direction"`
	Peer      string    `json:"peer,omitempty"` // only frames from or to this host; empty: all
}

// link names a link in the machine's namespace: "ms77-c1-m" the end of c1's
// cable to the management network, "ms77-m" that network's bridge.
func (l *Lab) link(host, network string) string {
	if host != "" {
		host += "-"
	}
	return fmt.Sprintf("ms%d-%s%s", l.Block, host, network[:1])
}

func (l *Lab) netns(host string) string { return "/run/netns/" + l.Name + "-" + host }

func (l *Lab) table() string { return "mainstay_lab_" + l.Name }

// network finds a network by name, or all.
func (l *Lab) network(name string) ([]Network, error) {
	var names []string
	for _, n := range l.Networks {
		if n.Name == name {
			return []Network{n}, nil
		}
		names = append(names, n.Name)
	}
	if name == All || name == "" {
		return l.Networks, nil
	}
	return nil, fmt.Errorf("lab %s has no network %q; it has %s (and %q for all)", l.Name, name, strings.Join(names, ", "), All)
}

// layNetworks makes what is missing of bridges, rules and the BMCs' namespace.
func (l *Lab) layNetworks(ctx context.Context) error {
	for i, n := range l.Networks {
		mac := net.HardwareAddr{0x02, 0x6d, 0x73, byte(l.Block), byte(i), 1}
		off := false
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: n.Bridge, HardwareAddr: mac}, MulticastSnooping: &off}
		if err := netlink.LinkAdd(br); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make bridge %s: %w", n.Bridge, err)
		}
		link, err := netlink.LinkByName(n.Bridge)
		if err != nil {
			return fmt.Errorf("find bridge %s: %w", n.Bridge, err)
		}
		if err := addAddresses(nil, link, n.V4, n.V6); err != nil {
			return fmt.Errorf("address of bridge %s: %w", n.Bridge, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bridge %s up: %w", n.Bridge, err)
		}
	}
	if err := l.makeNamespace(Machine{Name: bmcHost, Addresses: map[string]Address{oob: l.address(3, 110)}}); err != nil {
		return err
	}
	for _, m := range l.Hosts {
		p, err := l.power(m.Name)
		if err != nil {
			return err
		}
		if err := l.bmcAddress(m, p.State != PowerCut); err != nil {
			return err
		}
	}
	return l.applyCuts(ctx)
}

// liftNetworks takes the networks away.
func (l *Lab) liftNetworks(ctx context.Context) error {
	var errs []error
	errs = append(errs, l.removeNamespace(ctx, bmcHost))
	for _, n := range l.Networks {
		errs = append(errs, deleteLink(n.Bridge))
	}
	// add first: to delete what does not exist would be an error.
	t := "table bridge " + l.table()
	errs = append(errs, nft(ctx, "add "+t+"\ndelete "+t+"\n"))
	return errors.Join(errs...)
}

func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// networkLeftovers lists namespaces, links and tables of the lab.
func (l *Lab) networkLeftovers() ([]string, error) {
	var out []string
	for _, m := range append(l.names(), Client, bmcHost) {
		if _, err := os.Lstat(l.netns(m)); err == nil {
			out = append(out, "network namespace "+l.netns(m))
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	prefix := fmt.Sprintf("ms%d-", l.Block)
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, prefix) {
			out = append(out, "link "+link.Attrs().Name)
		}
	}
	tables, err := command(context.Background(), "nft", "list", "tables", "bridge").Output()
	if err != nil {
		return nil, fmt.Errorf("list nftables: %w", err)
	}
	if slices.Contains(strings.Fields(string(tables)), l.table()) {
		out = append(out, "table bridge "+l.table())
	}
	return out, nil
}

// nft carries out a script as one transaction.
func nft(ctx context.Context, script string) error {
	cmd := command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", cause(ctx, err), strings.TrimSpace(string(out)))
	}
	return nil
}

// makeNamespace makes a host's network namespace, its cables and addresses, or
// what is missing of them.
func (l *Lab) makeNamespace(m Machine) error {
	name := l.netns(m.Name)
	if err := makeNetns(name); err != nil {
		return err
	}
	ns, err := os.Open(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	inside, err := netlinkAt(name)
	if err != nil {
		return err
	}
	defer inside.Close()
	lo, err := inside.LinkByName("lo")
	if err == nil {
		err = inside.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback of %s: %w", m.Name, err)
	}
	cuts, err := l.Cuts()
	if err != nil {
		return err
	}
	for _, n := range l.Networks {
		a, on := m.Addresses[n.Name]
		if !on {
			continue
		}
		outer := l.link(m.Name, n.Name)
		if _, err := inside.LinkByName(n.Name); err != nil {
			// A veth whose other end is missing was left by a crash between two labs of
			// this name.
			if err := deleteLink(outer); err != nil {
				return err
			}
			veth := &netlink.Veth{
				LinkAttrs:        netlink.LinkAttrs{Name: outer},
				PeerName:         n.Name,
				PeerNamespace:    netlink.NsFd(ns.Fd()),
				PeerHardwareAddr: cardOf(a),
			}
			if err := netlink.LinkAdd(veth); err != nil {
				return fmt.Errorf("make the cable %s: %w", outer, err)
			}
		}
		link, err := inside.LinkByName(n.Name)
		if err != nil {
			return fmt.Errorf("find %s on %s: %w", n.Name, m.Name, err)
		}
		if err := addAddresses(inside, link, a.V4, a.V6); err != nil {
			return fmt.Errorf("addresses of %s on %s: %w", n.Name, m.Name, err)
		}
		if err := inside.LinkSetUp(link); err != nil {
			return fmt.Errorf("%s on %s up: %w", n.Name, m.Name, err)
		}
		bridge, err := netlink.LinkByName(n.Bridge)
		if err != nil {
			return fmt.Errorf("find bridge %s: %w", n.Bridge, err)
		}
		cable, err := netlink.LinkByName(outer)
		if err == nil {
			err = netlink.LinkSetMaster(cable, bridge)
		}
		if err != nil {
			return fmt.Errorf("plug the cable %s into %s: %w", outer, n.Bridge, err)
		}
		if err := l.plug(m, n, cuts); err != nil {
			return err
		}
	}
	return nil
}

// cardOf is the hardware address with which somebody is on a network: the same
// after each boot, as a real card's.
func cardOf(a Address) net.HardwareAddr {
	v4 := a.V4.Addr().As4()
	return net.HardwareAddr{0x02, 0x6d, 0x73, v4[1], v4[2], v4[3]}
}

// makeNetns makes a named network namespace, as ip netns does.
func makeNetns(name string) error {
	if isMount(name) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", name, "", unix.MS_BIND, "")
	})
	if err != nil {
		return fmt.Errorf("make the network namespace %s: %w", name, err)
	}
	return nil
}

// removeNamespace removes a host's network namespace with all in it. The cables
// go first: the namespace itself ends only when the last process has left.
func (l *Lab) removeNamespace(ctx context.Context, host string) error {
	for _, n := range l.Networks {
		if err := deleteLink(l.link(host, n.Name)); err != nil {
			return err
		}
	}
	name := l.netns(host)
	if err := unmount(ctx, name); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// netlinkAt opens a netlink socket in a namespace.
func netlinkAt(name string) (*netlink.Handle, error) {
	var h *netlink.Handle
	err := inNetns(name, func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return h, err
}

// inNetns calls f on a thread in a network namespace. Sockets that f makes stay
// there.
func inNetns(name string, f func() error) error {
	return onThread(func() error {
		ns, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("enter the network namespace %s: %w", name, err)
		}
		err = unix.Setns(ns, unix.CLONE_NEWNET)
		unix.Close(ns)
		if err != nil {
			return fmt.Errorf("enter the network namespace %s: %w", name, err)
		}
		return f()
	})
}

// onThread calls f on a thread of its own, which ends afterwards, since it may
// have left our namespaces. It is never the process's first thread: by that
// one's namespace /proc says where the whole process is, and another lab
// process would take us for one of the host's.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return
		}
		defer runtime.UnlockOSThread()
		done <- onThread(f) // while we stay here, that is another thread
	}()
	return <-done
}

func addAddresses(h *netlink.Handle, link netlink.Link, prefixes ...netip.Prefix) error {
	for _, p := range prefixes {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // usable at once
		}
		replace := netlink.AddrReplace
		if h != nil {
			replace = h.AddrReplace
		}
		if err := replace(link, a); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

// bmcAddress gives a host's BMC its address, or takes it away: then its
// connections hang and new ones find nobody.
func (l *Lab) bmcAddress(m Machine, there bool) error {
	h, err := netlinkAt(l.netns(bmcHost))
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(oob)
	if err != nil {
		return fmt.Errorf("find the BMCs' interface: %w", err)
	}
	p := netip.PrefixFrom(m.BMC.Address, 24)
	if there {
		return addAddresses(h, link, p)
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := h.AddrDel(link, a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("take the address of %s's BMC: %w", m.Name, err)
	}
	return nil
}

// silence takes a host's cables down: from here on nothing comes from it.
func (l *Lab) silence(m Machine) error {
	for _, n := range l.Networks {
		link, err := netlink.LinkByName(l.link(m.Name, n.Name))
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err == nil {
			err = netlink.LinkSetDown(link)
		}
		if err != nil {
			return fmt.Errorf("pull the cable of %s to %s: %w", m.Name, n.Name, err)
		}
	}
	return nil
}

// Cuts lists the cuts that are in force.
func (l *Lab) Cuts() ([]Cut, error) {
	var out []Cut
	return out, readJSON(l.Path("cuts.json"), &out)
}

// Cut takes frames away as c says; its Network may be All. An earlier cut of that
// host from that peer on that network is replaced.
func (l *Lab) Cut(ctx context.Context, c Cut) (Deed, error) {
	if c.Direction == "" {
		c.Direction = Both
	}
	return l.do("cut", c.Host, []string{c.Network, string(c.Direction), c.Peer}, func(*Deed) error {
		switch c.Direction {
		case Both, In, Out, Link:
		default:
			return fmt.Errorf("direction %q is none of %s, %s, %s, %s", c.Direction, Both, In, Out, Link)
		}
		if c.Peer != "" {
			if _, err := l.machine(c.Peer); err != nil {
				return err
			}
			if c.Direction == Link {
				return errors.New("a pulled cable has no peer: use both, in or out")
			}
		}
		return l.changeCuts(ctx, c.Host, c.Network, func(cuts []Cut, network string) []Cut {
			cuts = slices.DeleteFunc(cuts, func(o Cut) bool {
				return o.Host == c.Host && o.Network == network && o.Peer == c.Peer
			})
			one := c
			one.Network = network
			return append(cuts, one)
		})
	})
}

// Heal ends every cut on one network, or All, that has to do with a host.
func (l *Lab) Heal(ctx context.Context, host, network string) (Deed, error) {
	return l.do("heal", host, []string{network}, func(*Deed) error {
		return l.changeCuts(ctx, host, network, func(cuts []Cut, network string) []Cut {
			return slices.DeleteFunc(cuts, func(o Cut) bool {
				return o.Network == network && (o.Host == host || o.Peer == host)
			})
		})
	})
}

// changeCuts changes the cuts on each of the networks on which host is, and
// carries out the whole.
func (l *Lab) changeCuts(ctx context.Context, host, network string, change func(cuts []Cut, network string) []Cut) error {
	m, err := l.machine(host)
	if err != nil {
		return err
	}
	networks, err := l.network(network)
	if err != nil {
		return err
	}
	networks = slices.DeleteFunc(slices.Clone(networks), func(n Network) bool {
		_, on := m.Addresses[n.Name]
		return !on
	})
	if len(networks) == 0 {
		return fmt.Errorf("%s is not on network %s", host, network)
	}
	unlock, err := hold(ctx, l.Path("cuts.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	cuts, err := l.Cuts()
	if err != nil {
		return err
	}
	for _, n := range networks {
		cuts = change(cuts, n.Name)
	}
	if err := writeJSON(l.Path("cuts.json"), cuts); err != nil {
		return err
	}
	if err := l.applyCuts(ctx); err != nil {
		return err
	}
	for _, n := range networks {
		if err := l.plug(m, n, cuts); err != nil {
			return err
		}
	}
	return nil
}

// plug sets the cable of a host that has power up, unless it is pulled.
func (l *Lab) plug(m Machine, n Network, cuts []Cut) error {
	cable, err := netlink.LinkByName(l.link(m.Name, n.Name))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		if slices.ContainsFunc(cuts, func(c Cut) bool {
			return c.Direction == Link && c.Host == m.Name && c.Network == n.Name
		}) {
			err = netlink.LinkSetDown(cable)
		} else {
			err = netlink.LinkSetUp(cable)
		}
	}
	if err != nil {
		return fmt.Errorf("cable of %s to %s: %w", m.Name, n.Name, err)
	}
	return nil
}

// applyCuts makes the rules say what cuts.json says, in one transaction. They
// sit on the bridges and name ports, so they hold for a host that boots again.
func (l *Lab) applyCuts(ctx context.Context) error {
	cuts, err := l.Cuts()
	if err != nil {
		return err
	}
	var mute, deaf, pairs []string
	for _, c := range cuts {
		port := l.link(c.Host, c.Network)
		out, in := c.Direction == Out || c.Direction == Both, c.Direction == In || c.Direction == Both
		switch {
		case c.Peer != "":
			peer := l.link(c.Peer, c.Network)
			if out {
				pairs = append(pairs, fmt.Sprintf("%q . %q", port, peer))
			}
			if in {
				pairs = append(pairs, fmt.Sprintf("%q . %q", peer, port))
			}
		default:
			if out {
				mute = append(mute, fmt.Sprintf("%q", port))
			}
			if in {
				deaf = append(deaf, fmt.Sprintf("%q", port))
			}
		}
	}
	set := func(name, kind string, elements []string) string {
		slices.Sort(elements)
		if elements = slices.Compact(elements); len(elements) == 0 {
			return fmt.Sprintf("set %s { type %s; }\n", name, kind)
		}
		return fmt.Sprintf("set %s { type %s; elements = { %s } }\n", name, kind, strings.Join(elements, ", "))
	}
	t := "table bridge " + l.table()
	return nft(ctx, "add "+t+"\ndelete "+t+"\n"+t+" {\n"+
		set("mute", "ifname", mute)+set("deaf", "ifname", deaf)+set("pairs", "ifname . ifname", pairs)+`
		chain from { type filter hook prerouting priority -300; iifname @mute drop; }
		chain between { type filter hook forward priority 0; iifname . oifname @pairs drop; }
		chain to { type filter hook postrouting priority 300; oifname @deaf drop; }
	}
	`)
}

// Dial connects to an address as if from a host or the client, from within this
// process. The address must be an IP address with a port.
func (l *Lab) Dial(ctx context.Context, host, network, address string) (net.Conn, error) {
	if _, err := l.machine(host); err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("connect from %s: %w", host, err)
	}
	var conn net.Conn
	err := inNetns(l.netns(host), func() (err error) {
		// A single address is dialled on the calling goroutine, so on this thread.
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// localAddresses lists the addresses of this machine.
func localAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out, nil
}

// settings of the machine that a lab needs.
var settings = map[string]string{
	// Each systemd takes many inotify instances; 128 are used up by the fourth.
	"/proc/sys/fs/inotify/max_user_instances": "8192",
	// Frames between hosts must not pass the machine's own firewall.
	"/proc/sys/net/bridge/bridge-nf-call-iptables":  "0",
	"/proc/sys/net/bridge/bridge-nf-call-ip6tables": "0",
	"/proc/sys/net/bridge/bridge-nf-call-arptables": "0",
}

// prepareMachine changes the machine's settings, having recorded what they were,
// and makes the state directory a mount that hands its unmounts on: a host that
// is starting has copies of all mounts, and would keep another's disk busy.
func (l *Lab) prepareMachine(ctx context.Context) error {
	unlock, err := hold(ctx, filepath.Join(StateDir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	was := map[string]string{}
	if err := readJSON(settingsFile, &was); err != nil {
		return err
	}
	want := map[string]string{}
	for name, value := range settings {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no such feature in this kernel
		} else if err != nil {
			return err
		}
		if have := strings.TrimSpace(string(data)); have != value {
			want[name] = value
			was[name] = have
		}
	}
	if err := writeJSON(settingsFile, was); err != nil {
		return err
	}
	for name, value := range want {
		if err := os.WriteFile(name, []byte(value), 0); err != nil {
			return fmt.Errorf("change a setting of this machine: %w", err)
		}
	}
	dir := l.Path()
	if !isMount(dir) {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to itself: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the mounts below %s: %w", dir, err)
	}
	return nil
}

// settingsFile keeps what the machine's settings were before the first lab.
var settingsFile = filepath.Join(StateDir, ".settings.json")

// restoreMachine puts the machine's settings back after the last lab.
func (l *Lab) restoreMachine(ctx context.Context) error {
	unlock, err := hold(ctx, filepath.Join(StateDir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	labs, err := List()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(labs, func(name string) bool { return name != l.Name }) {
		return nil
	}
	was := map[string]string{}
	if err := readJSON(settingsFile, &was); err != nil {
		return err
	}
	for name, value := range was {
		if err := os.WriteFile(name, []byte(value), 0); err != nil {
			return fmt.Errorf("put back a setting of this machine: %w", err)
		}
	}
	// And what a process that was killed while it wrote has left.
	names, err := filepath.Glob(settingsFile + "*")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
