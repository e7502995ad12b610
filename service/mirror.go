package service

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"mainstay/fleet"
)

// Mirrored is a Copy whose data the kernel writes to other hosts as well. The kernel
// stops the writes of one that has lost another, and asks (mainstay fence-peer).
type Mirrored interface {
	// Resource is the kernel's name for it; "" if this copy mirrors nothing.
	Resource() string
	// Mirror is what the kernel says of it.
	Mirror(ctx context.Context) (fleet.Mirror, error)
	// GoOn lets writes go on that wait because another copy was lost. To be called only
	// when the record says that the lost one is behind.
	GoOn(ctx context.Context) error
}

// confKept is how long DRBD's configuration is not read anew for the names of the peers.
const confKept = time.Minute

// drbdLimit bounds each question to DRBD: its tools speak to the kernel alone.
const drbdLimit = 10 * time.Second

// Resource is the DRBD resource of a copy of ocf:linbit:drbd.
func (c *ocfCopy) Resource() string {
	if c.agent.provider != "linbit" || c.agent.kind != "drbd" {
		return ""
	}
	return c.plain["drbd_resource"]
}

// drbd runs one of DRBD's own tools.
func (c *ocfCopy) drbd(ctx context.Context, argv ...string) ([]byte, error) {
	if conf := c.plain["drbdconf"]; conf != "" && argv[0] == "drbdadm" {
		argv = slices.Insert(argv, 1, "-c", conf)
	}
	out, code, last, err := output(ctx, drbdLimit, argv)
	if err == nil && code != 0 {
		err = fmt.Errorf("exited with %d: %s", code, last)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return out, nil
}

// Mirror asks the kernel. What it says of a peer counts only if its words are known here.
func (c *ocfCopy) Mirror(ctx context.Context) (m fleet.Mirror, err error) {
	c.mu.Lock()
	conf, read := c.conf, c.confRead
	c.mu.Unlock()
	if time.Since(read) > confKept {
		fresh, err := c.drbdConf(ctx)
		switch {
		case err == nil:
			conf = fresh
			c.mu.Lock()
			c.conf, c.confRead = conf, time.Now()
			c.mu.Unlock()
		case read.IsZero():
			return m, err
		} // else it is as it was: what the kernel says must not be missed for that
	}
	events, err := c.drbd(ctx, "drbdsetup", "events2", "--now", c.Resource())
	if err != nil {
		return m, err
	}
	m, connected, err := readMirror(events, conf.peers)
	if err != nil || connected {
		return m, err
	}
	// What its data are matters only where two have none of each other's.
	gi, err := c.drbd(ctx, "drbdadm", "get-gi", c.Resource())
	if err != nil {
		return m, err
	}
	m.Data, m.Fork, err = readGeneration(gi)
	return m, err
}

// GoOn thaws the resource. It is no error if nothing waits any more.
func (c *ocfCopy) GoOn(ctx context.Context) error {
	if m, err := c.Mirror(ctx); err == nil && !m.Frozen {
		return nil
	}
	_, err := c.drbd(ctx, "drbdadm", "resume-io", c.Resource())
	return err
}

// readMirror reads what drbdsetup events2 --now says (drbdsetup(8), of DRBD 8.4.7 and
// later): lines of an event, an object and KEY:VALUE words. connected says that every
// connection stands.
func readMirror(events []byte, peers []string) (m fleet.Mirror, connected bool, err error) {
	good, ended := true, false // our own disks
	links, disks := map[string]string{}, map[string][]string{}
	for line := range strings.Lines(string(events)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "exists" {
			continue
		}
		says := map[string]string{}
		for _, w := range words[2:] {
			key, value, _ := strings.Cut(w, ":")
			says[key] = value
		}
		peer := says["conn-name"]
		if !slices.Contains(peers, peer) && len(peers) == 1 {
			peer = peers[0] // DRBD 8.4 has but one, and no name for it
		}
		switch words[1] {
		case "-":
			ended = true
		case "resource":
			m.Frozen = slices.Contains(strings.Split(says["suspended"], ","), "fencing")
		case "device":
			good = good && says["disk"] == "UpToDate"
			m.Filling = m.Filling || says["disk"] == "Inconsistent"
		case "connection":
			links[peer] = says["connection"]
			m.Apart = m.Apart || says["connection"] == "StandAlone"
		case "peer-device":
			disks[peer] = append(disks[peer], says["peer-disk"])
		}
	}
	if !ended {
		return fleet.Mirror{}, false, errors.New("drbdsetup events2 ended in the middle")
	}
	var even, lost []string
	for _, peer := range slices.Sorted(maps.Keys(links)) {
		up := func(disk string) bool { return disk == "UpToDate" }
		switch all := disks[peer]; {
		case links[peer] != "Connected":
			if slices.Contains(all, "DUnknown") {
				lost = append(lost, peer)
			}
		case good && len(all) > 0 && !slices.ContainsFunc(all, func(d string) bool { return !up(d) }):
			even = append(even, peer)
		}
	}
	m.Even, m.Lost = strings.Join(even, " "), strings.Join(lost, " ")
	return m, !slices.ContainsFunc(slices.Collect(maps.Values(links)), func(link string) bool { return link != "Connected" }), nil
}

// readGeneration reads the first volume's generation identifiers (drbdadm get-gi: the
// current one, then the bitmap's, which is not zero while the disk has been written
// without its peer). The lowest bit says who is primary.
func readGeneration(gi []byte) (data, fork string, err error) {
	words := strings.Split(strings.TrimSpace(string(gi)), ":")
	if len(words) < 2 {
		return "", "", fmt.Errorf("drbdadm get-gi says %q", gi)
	}
	var all [2]uint64
	for i := range all {
		if all[i], err = strconv.ParseUint(words[i], 16, 64); err != nil {
			return "", "", fmt.Errorf("drbdadm get-gi says %q: %w", gi, err)
		}
		all[i] &^= 1
	}
	if all[1] != 0 {
		fork = fmt.Sprintf("%016X", all[1])
	}
	return fmt.Sprintf("%016X", all[0]), fork, nil
}

// drbdConf is what DRBD's configuration says of a resource.
type drbdConf struct {
	peers   []string          // the other hosts
	options map[string]string // SECTION/NAME
}

func (c *ocfCopy) drbdConf(ctx context.Context) (drbdConf, error) {
	text, err := c.drbd(ctx, "drbdadm", "dump-xml")
	if err != nil {
		return drbdConf{}, err
	}
	me, err := os.Hostname()
	if err != nil {
		return drbdConf{}, fmt.Errorf("this host's name: %w", err)
	}
	return readDRBD(text, c.Resource(), me)
}

// readDRBD reads drbdadm dump-xml: what holds for all resources comes first, and what each
// says itself after it.
func readDRBD(text []byte, resource, me string) (conf drbdConf, err error) {
	conf.options = map[string]string{}
	section := ""
	attr := func(e xml.StartElement, name string) string {
		for _, a := range e.Attr {
			if a.Name.Local == name {
				return a.Value
			}
		}
		return ""
	}
	for d := xml.NewDecoder(bytes.NewReader(text)); ; {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return conf, nil
		}
		if err != nil {
			return conf, fmt.Errorf("read drbdadm dump-xml: %w", err)
		}
		e, begins := t.(xml.StartElement)
		if !begins {
			continue
		}
		switch e.Name.Local {
		case "resource":
			if attr(e, "name") != resource {
				if err := d.Skip(); err != nil {
					return conf, fmt.Errorf("read drbdadm dump-xml: %w", err)
				}
			}
		case "host":
			if name := attr(e, "name"); name != me && !slices.Contains(conf.peers, name) {
				conf.peers = append(conf.peers, name)
			}
		case "disable-ip-verification":
			conf.options["global/"+e.Name.Local] = "yes"
		case "section":
			section = attr(e, "name")
		case "option":
			conf.options[section+"/"+attr(e, "name")] = attr(e, "value")
		}
	}
}

// Examine holds DRBD's configuration against what a primary that loses its peer needs.
func (c *ocfCopy) Examine([]fleet.Host) (out []string) {
	if c.Resource() == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*drbdLimit)
	defer cancel()
	conf, err := c.drbdConf(ctx)
	if err != nil {
		return []string{"DRBD's configuration could not be asked for: " + err.Error()}
	}
	return conf.lacks(c.Resource())
}

// lacks says what of a resource's configuration would let acknowledged writes be lost.
func (conf drbdConf) lacks(resource string) (out []string) {
	say := func(format string, args ...any) {
		out = append(out, fmt.Sprintf("DRBD's resource %s: ", resource)+fmt.Sprintf(format, args...))
	}
	fencing := conf.options["disk/fencing"]
	if fencing == "" {
		fencing = conf.options["net/fencing"] // where DRBD 9 has it
	}
	if fencing != "resource-and-stonith" {
		say("fencing is %q; with anything but resource-and-stonith a primary that loses its peer goes on before it is recorded whose copy is behind", fencing)
	}
	if h := conf.options["handlers/fence-peer"]; !strings.Contains(h, "mainstay fence-peer") {
		say("its handler fence-peer is %q; it has to be \"/usr/bin/mainstay fence-peer\"", h)
	}
	if p := conf.options["net/protocol"]; p != "" && p != "C" {
		say("protocol %s acknowledges writes that its peer does not have yet; it has to be C", p)
	}
	for _, policy := range []string{"after-sb-0pri", "after-sb-1pri", "after-sb-2pri"} {
		if v := conf.options["net/"+policy]; v != "" && v != "disconnect" {
			say("%s %s throws away what was written on one side, and nobody is asked; leave it out (disconnect)", policy, v)
		}
	}
	if conf.options["global/disable-ip-verification"] == "" {
		say("without disable-ip-verification in DRBD's global section its commands, and so its handler, refuse to do anything on a host whose replication link is down")
	}
	if v := conf.options["net/allow-two-primaries"]; v != "" && v != "no" {
		say("allow-two-primaries lets both write at once; leave it out")
	}
	return out
}
