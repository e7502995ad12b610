// Package lab builds a small data centre on one machine and breaks it.
//
// A lab is a few hosts on which systemd runs (systemd-nspawn), each with a disk
// of its own, three networks and an out-of-band one, a BMC with a Redfish face,
// and one client beside them:
//
//	bridge of each network, .1, in the machine's own network namespace
//	  |- management 10.B.0.0/24 fd00:B:0::/64 --+-- c1 .11 --+-- c2 .12 --+-- client .200
//	  |- storage    10.B.1.0/24 fd00:B:1::/64 --+            |            |
//	  |- tenant     10.B.2.0/24 fd00:B:2::/64 --+            |            |
//	  |- oob        10.B.3.0/24 fd00:B:3::/64 --+------------+------------+-- BMC of c1 .111, of c2 .112
//
// What breaks, breaks as in life. A power cut silences the cables first, then
// takes the host's file system away under it (EXT4_IOC_SHUTDOWN, nothing
// flushed), then its processes and its network: what was not fsynced is gone
// when it boots again, and nothing of it answers. Its BMC dies with it; after
// PowerOff, which is what a BMC does, the BMC goes on answering. Cut drops the
// frames of one host on one network, one way or both. Hang stops processes.
//
// # Nothing stays behind
//
// A lab outlives the process that made it, so everything that it is made of can
// be found again without that process: its names, networks and disks follow
// from the record lab.json, which is on disk before the first of them is made;
// a loop device belongs to its mount and goes with it; and a process belongs to
// a host because it lives in that host's network namespace or cgroup, which is
// looked up anew, through a pidfd, before each signal. There is no list of
// process ids that could have been used again by others. So Down works after a
// crash at any point, also one of Down itself.
package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// DefaultName is the lab that is meant when none is named.
const DefaultName = "mainstay"

// StateDir holds a directory for each lab.
const StateDir = "/var/lib/mainstay-lab"

// Client is the name of the client host: a network namespace on the management
// network, without disk, systemd or power switch.
const Client = "client"

// firstBlock is the second octet of the first lab's addresses.
const firstBlock = 77

// Config says what Up shall build. The zero Config is the usual lab: c1, c2 and
// c3 of the default suite, without anything of Mainstay's.
type Config struct {
	Name  string // [a-z][a-z0-9]{0,11}; empty: DefaultName
	Suite string // of Base; empty: DefaultSuite
	Base  string // a base tree to use in place of Base(Suite)
	Hosts []Host // empty: c1, c2, c3
	Block int    // second octet of all addresses, 1 to 255; 0: one that is free
	Disk  int64  // bytes of each host's (sparse) disk; 0: 8 GiB
	// Layers and Files are for every host, those of a Host come after them.
	Layers []string
	Files  map[string]File
}

// Host is one machine of a Config.
type Host struct {
	Name string // [a-z][a-z0-9]{0,5}
	// Layers are directory trees over the base tree, later ones over earlier ones.
	Layers []string
	// Files are put on its disk before its first boot, by absolute path.
	Files map[string]File
	// Devices are nodes of the machine that it may use, such as /dev/net/tun.
	Devices []string
}

// File is something to be put on a host's disk.
type File struct {
	Data  []byte
	Mode  fs.FileMode // permissions; 0: 0644
	Owner string      // "user" or "user:group" as known on the host; empty: root
	Link  string      // makes a symbolic link to this; Data, Mode and Owner are not used
}

// Network is one of a lab's networks.
type Network struct {
	Name   string       `json:"name"` // also the interface's name on every host
	V4     netip.Prefix `json:"v4"`   // with the bridge's own address, .1
	V6     netip.Prefix `json:"v6"`
	Bridge string       `json:"bridge"`
}

// Machine is a host as it was built.
type Machine struct {
	Name      string             `json:"name"`
	UUID      string             `json:"uuid"` // on the host: /run/host/container-uuid
	Addresses map[string]Address `json:"addresses"`
	Layers    []string           `json:"layers,omitempty"`
	Devices   []string           `json:"devices,omitempty"`
	BMC       BMC                `json:"bmc,omitzero"`
}

// Address is where a host is on one network.
type Address struct {
	V4 netip.Prefix `json:"v4"`
	V6 netip.Prefix `json:"v6"`
}

// BMC is a host's false baseboard management controller.
type BMC struct {
	Address  netip.Addr `json:"address"` // on the network "oob"
	User     string     `json:"user"`
	Password string     `json:"password"`
}

// URL is its Redfish service. The certificate is signed by nobody, as on most
// real ones; the lab's copy of it is Lab.Path("bmc.crt").
func (b BMC) URL() string { return "https://" + b.Address.String() }

// Lab is a lab that has been built, or is being built. Its methods may be called
// from several goroutines and several processes: each host has a lock.
type Lab struct {
	Name     string    `json:"name"`
	Suite    string    `json:"suite"`
	Base     string    `json:"base"`
	Block    int       `json:"block"`
	Disk     int64     `json:"disk"`
	Networks []Network `json:"networks"`
	Hosts    []Machine `json:"hosts"`
	Client   Machine   `json:"client"`
	// Closing is set by Down before it begins: no host is started any more.
	Closing bool `json:"closing,omitempty"`

	mu      sync.Mutex
	leaders map[string]*process // the first process of each host, as last seen
}

// Path returns the path of a file of the lab's state directory.
func (l *Lab) Path(elem ...string) string {
	return filepath.Join(append([]string{StateDir, l.Name}, elem...)...)
}

var (
	labName  = regexp.MustCompile(`^[a-z][a-z0-9]{0,11}$`)
	hostName = regexp.MustCompile(`^[a-z][a-z0-9]{0,5}$`)
)

// ErrNoLab is returned by Open for a lab that does not exist.
var ErrNoLab = errors.New("there is no such lab")

// Open finds a lab that Up has built, or begun to build. It starts nothing.
func Open(name string) (*Lab, error) {
	if name == "" {
		name = DefaultName
	}
	if !labName.MatchString(name) {
		return nil, fmt.Errorf("lab %q: a name is 1 to 12 of a-z and 0-9 and begins with a letter", name)
	}
	l := &Lab{Name: name}
	data, err := os.ReadFile(l.Path("lab.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %s: %w", name, ErrNoLab)
	}
	if err == nil {
		err = json.Unmarshal(data, l)
	}
	if err != nil {
		return nil, fmt.Errorf("open lab %s: %w", name, err)
	}
	return l, nil
}

// Up builds the lab, or completes one that exists: it starts every host that
// has no power, and returns when systemd on each has finished its boot. Files
// are written only to a disk that was never booted. A lab that exists with other
// hosts is an error; one that Down was about to remove is removed first, and
// built anew. progress may be nil.
//
// When Up fails or ctx ends it leaves what there is; call Down.
func Up(ctx context.Context, cfg Config, progress func(string)) (*Lab, error) {
	if progress == nil {
		progress = func(string) {}
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("bring up a lab: this needs root")
	}
	if cfg.Name == "" {
		cfg.Name = DefaultName
	}
	l, err := Open(cfg.Name)
	if err == nil && l.Closing {
		progress("finishing a Down that was interrupted")
		if err := l.Down(ctx); err != nil {
			return nil, err
		}
		l, err = Open(cfg.Name)
	}
	switch {
	case errors.Is(err, ErrNoLab):
		l, err = found(ctx, cfg, progress)
	case err == nil:
		err = l.fits(cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("bring up lab %s: %w", cfg.Name, err)
	}
	if err := l.up(ctx, cfg, progress); err != nil {
		return l, fmt.Errorf("bring up lab %s: %w", cfg.Name, err)
	}
	return l, nil
}

// fits says whether an existing lab is what cfg asks for.
func (l *Lab) fits(cfg Config) error {
	if cfg.Suite != "" && cfg.Suite != l.Suite {
		return fmt.Errorf("it exists already, of suite %s and not %s: take it down first", l.Suite, cfg.Suite)
	}
	if len(cfg.Hosts) == 0 {
		return nil
	}
	var want []string
	for _, h := range cfg.Hosts {
		want = append(want, h.Name)
	}
	if have := l.names(); !slices.Equal(have, want) {
		return fmt.Errorf("it exists already, with hosts %s and not %s: take it down first",
			strings.Join(have, " "), strings.Join(want, " "))
	}
	return nil
}

func (l *Lab) names() []string {
	var out []string
	for _, m := range l.Hosts {
		out = append(out, m.Name)
	}
	return out
}

// found plans a new lab and writes its record, from which all else follows.
func found(ctx context.Context, cfg Config, progress func(string)) (*Lab, error) {
	if len(cfg.Hosts) == 0 {
		cfg.Hosts = []Host{{Name: "c1"}, {Name: "c2"}, {Name: "c3"}}
	}
	if cfg.Suite == "" {
		cfg.Suite = DefaultSuite
	}
	if cfg.Disk == 0 {
		cfg.Disk = 8 << 30
	}
	if len(cfg.Hosts) > 80 {
		return nil, fmt.Errorf("%d hosts: 80 are the most", len(cfg.Hosts))
	}
	seen := map[string]bool{Client: true, bmcHost: true}
	for _, h := range cfg.Hosts {
		if !hostName.MatchString(h.Name) || seen[h.Name] {
			return nil, fmt.Errorf("host %q: a name is 1 to 6 of a-z and 0-9, begins with a letter, is neither %s nor %s, and is used once", h.Name, Client, bmcHost)
		}
		seen[h.Name] = true
	}
	if cfg.Base == "" {
		base, err := Base(ctx, cfg.Suite, progress)
		if err != nil {
			return nil, err
		}
		cfg.Base = base
	}
	l := &Lab{Name: cfg.Name, Suite: cfg.Suite, Base: cfg.Base, Disk: cfg.Disk}

	// One at a time: two labs must not choose the same addresses.
	if err := os.MkdirAll(StateDir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := hold(ctx, filepath.Join(StateDir, ".lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if l.Block, err = freeBlock(cfg.Block); err != nil {
		return nil, err
	}
	for i, name := range []string{"management", "storage", "tenant", oob} {
		l.Networks = append(l.Networks, Network{
			Name:   name,
			V4:     netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(l.Block), byte(i), 1}), 24),
			V6:     netip.PrefixFrom(v6(l.Block, i, 1), 64),
			Bridge: l.link("", name),
		})
	}
	for i, h := range cfg.Hosts {
		password := make([]byte, 12)
		rand.Read(password)
		m := Machine{
			Name: h.Name, UUID: newUUID(), Addresses: map[string]Address{},
			Layers: slices.Concat(cfg.Layers, h.Layers), Devices: h.Devices,
			BMC: BMC{
				Address: netip.AddrFrom4([4]byte{10, byte(l.Block), 3, byte(111 + i)}),
				User:    "mainstay", Password: hex.EncodeToString(password),
			},
		}
		for j, n := range l.Networks {
			m.Addresses[n.Name] = l.address(j, 11+i)
		}
		l.Hosts = append(l.Hosts, m)
	}
	l.Client = Machine{Name: Client, Addresses: map[string]Address{"management": l.address(0, 200)}}
	if err := os.MkdirAll(l.Path(), 0o700); err != nil {
		return nil, err
	}
	return l, l.save()
}

func (l *Lab) address(network, n int) Address {
	return Address{
		V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(l.Block), byte(network), byte(n)}), 24),
		V6: netip.PrefixFrom(v6(l.Block, network, n), 64),
	}
}

// v6 is fd00:B:n::h, each number written as its decimal digits, so that it reads
// like the IPv4 address.
func v6(block, network, n int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd00:%d:%d::%d", block, network, n))
}

func newUUID() string {
	b := make([]byte, 16)
	rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (l *Lab) save() error { return writeJSON(l.Path("lab.json"), l) }

// writeJSON replaces a file whole or not at all.
func writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%d", name, os.Getpid())
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// readJSON reads a file of writeJSON into v, which stays as it is without one.
func readJSON(name string, v any) error {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

func (l *Lab) up(ctx context.Context, cfg Config, progress func(string)) error {
	unlock, err := hold(ctx, l.Path("lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if l.Closing {
		return errors.New("it is being taken down")
	}
	if err := l.prepareMachine(ctx); err != nil {
		return err
	}
	progress("laying the networks " + l.Networks[0].V4.Masked().String() + " and following")
	if err := l.layNetworks(ctx); err != nil {
		return err
	}
	if err := l.makeNamespace(l.Client); err != nil {
		return err
	}
	if err := l.startBMC(ctx); err != nil {
		return err
	}
	errs := make([]error, len(l.Hosts))
	var wg sync.WaitGroup
	for i, m := range l.Hosts {
		files := map[string]File{}
		for name, f := range cfg.Files {
			files[name] = f
		}
		for _, h := range cfg.Hosts {
			if h.Name != m.Name {
				continue
			}
			for name, f := range h.Files {
				files[name] = f
			}
		}
		wg.Go(func() {
			started := time.Now()
			if errs[i] = l.makeDisk(ctx, m, files); errs[i] != nil {
				return
			}
			if _, errs[i] = l.Start(ctx, m.Name); errs[i] != nil {
				return
			}
			var state string
			if state, errs[i] = l.Booted(ctx, m.Name); errs[i] == nil {
				progress(fmt.Sprintf("%s: systemd is %s after %.1f s", m.Name, state, time.Since(started).Seconds()))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Down takes the lab away with all that belongs to it, whatever state it is in,
// and says so if anything is left. A lab that does not exist is no error.
func Down(ctx context.Context, name string) error {
	l, err := Open(name)
	if errors.Is(err, ErrNoLab) {
		return forget(name)
	}
	if err != nil {
		return err
	}
	return l.Down(ctx)
}

// forget removes what Up had made before it wrote a record: a directory.
func forget(name string) error {
	if name == "" {
		name = DefaultName
	}
	dir := filepath.Join(StateDir, name)
	if mounts, err := mountsBelow(dir); err != nil || len(mounts) > 0 {
		return errors.Join(err, fmt.Errorf("take down lab %s: it has no record, but there are mounts: %v", name, mounts))
	}
	return os.RemoveAll(dir)
}

// Down takes the lab away with all that belongs to it, whatever state it is in,
// and says so if anything is left.
func (l *Lab) Down(ctx context.Context) error {
	if err := l.down(ctx); err != nil {
		return fmt.Errorf("take down lab %s: %w", l.Name, err)
	}
	return nil
}

func (l *Lab) down(ctx context.Context) error {
	// First the record: from now on nobody starts a host, not even the BMCs.
	l.Closing = true
	if err := l.save(); err != nil {
		return err
	}
	if err := l.stopBMC(ctx); err != nil {
		return err
	}
	unlock, err := hold(ctx, l.Path("lock"))
	if err != nil {
		return err
	}
	defer unlock()
	errs := make([]error, len(l.Hosts))
	var wg sync.WaitGroup
	for i, m := range l.Hosts {
		wg.Go(func() {
			unlock, err := l.holdHost(ctx, m.Name)
			if err != nil {
				errs[i] = err
				return
			}
			defer unlock()
			errs[i] = l.demolish(ctx, m)
		})
	}
	wg.Wait()
	errs = slices.Concat(errs, []error{
		l.demolish(ctx, l.Client),
		l.liftNetworks(ctx),
		l.unmountAll(ctx),
		l.removeCgroups(ctx),
		l.restoreMachine(ctx),
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if left, err := l.Leftovers(); err != nil || len(left) > 0 {
		return errors.Join(err, fmt.Errorf("left behind: %s", strings.Join(left, ", ")))
	}
	l.forgetLeaders()
	return os.RemoveAll(l.Path())
}

// Leftovers lists everything on the machine that belongs to the lab, but for
// its state directory: processes, mounts, loop devices, network namespaces,
// links, nftables tables and cgroups. It is empty after Down.
func (l *Lab) Leftovers() ([]string, error) {
	var out []string
	procs, err := l.remains("")
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		out = append(out, fmt.Sprintf("process %d", p))
	}
	if p, err := l.bmcProcess(); err != nil {
		return nil, err
	} else if p != nil {
		out = append(out, fmt.Sprintf("process %d (BMCs)", p.pid))
		p.close()
	}
	mounts, err := mountsBelow(l.Path())
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		out = append(out, "mount "+m)
	}
	loops, err := loopsBelow(l.Path())
	if err != nil {
		return nil, err
	}
	for _, d := range loops {
		out = append(out, "loop device "+d)
	}
	net, err := l.networkLeftovers()
	if err != nil {
		return nil, err
	}
	out = append(out, net...)
	for _, dir := range l.cgroups("") {
		out = append(out, "cgroup "+dir)
	}
	return out, nil
}

// List names the labs that exist on this machine.
func List() ([]string, error) {
	names, err := filepath.Glob(filepath.Join(StateDir, "*", "lab.json"))
	if err != nil {
		return nil, err
	}
	for i, n := range names {
		names[i] = filepath.Base(filepath.Dir(n))
	}
	return names, nil
}

// freeBlock returns a second octet that neither another lab nor an address of
// this machine uses; want is preferred, and must be free, when it is not 0.
func freeBlock(want int) (int, error) {
	used := map[int]string{}
	names, err := List()
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		l, err := Open(name)
		if err != nil {
			return 0, err
		}
		used[l.Block] = "lab " + name
	}
	local, err := localAddresses()
	if err != nil {
		return 0, err
	}
	for _, a := range local {
		if a.Is4() && a.As4()[0] == 10 {
			if b := int(a.As4()[1]); used[b] == "" {
				used[b] = "this machine's address " + a.String()
			}
		}
	}
	if want != 0 {
		if want < 1 || want > 255 {
			return 0, fmt.Errorf("address block %d: it is the second octet, 1 to 255", want)
		}
		if who := used[want]; who != "" {
			return 0, fmt.Errorf("address block 10.%d.0.0/16 is used by %s", want, who)
		}
		return want, nil
	}
	for b := firstBlock; b < 256; b++ {
		if used[b] == "" {
			return b, nil
		}
	}
	return 0, errors.New("no address block from 10.77.0.0/16 to 10.255.0.0/16 is free")
}

// machine finds a host, or the client, by name.
func (l *Lab) machine(name string) (Machine, error) {
	if name == Client {
		return l.Client, nil
	}
	for _, m := range l.Hosts {
		if m.Name == name {
			return m, nil
		}
	}
	return Machine{}, fmt.Errorf("lab %s has no host %q; it has %s and %s", l.Name, name, strings.Join(l.names(), ", "), Client)
}

// powered finds a host that has a power switch.
func (l *Lab) powered(name string) (Machine, error) {
	if name == Client {
		return Machine{}, fmt.Errorf("%s has no power switch: it is only a network namespace", Client)
	}
	return l.machine(name)
}
