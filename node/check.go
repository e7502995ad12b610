package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mainstay/fence"
	"mainstay/fleet"
	"mainstay/service"
	"mainstay/trust"
)

// Check returns all that is wrong with a site's file and, unless host is "", with this
// host's part of the site, each with the line of the file that it is about: what the
// file says wrongly, what the fence drivers and the kinds of service refuse, a
// certificate that is not good, own addresses, HAProxy and units that do not exist. It
// changes nothing. host is which of the site's hosts this is, as long as no certificate
// says it.
func Check(ctx context.Context, c Config, file string, text []byte, host string) (fleet.Spec, fleet.Faults) {
	spec, faults := fleet.Read(file, text, service.Catalogue())
	var more fleet.Faults
	for _, h := range spec.Hosts {
		more = append(more, checkFence(h)...)
	}
	system := service.NewSystemd("")
	defer system.Close()
	for _, v := range spec.Services {
		s, err := service.Open(v, service.Env{Systemd: system})
		if err != nil {
			more = append(more, fleet.Fault{Path: "services/" + v.Name, Rule: "service", Problem: err.Error()})
			continue
		}
		_ = s.Close() // nothing was changed through it
	}
	var own fleet.Faults
	if host != "" {
		var about fleet.Faults
		about, own = checkHere(ctx, c, spec, host, system)
		more = append(more, about...)
	}
	faults = append(faults, more.Locate(file, text)...)
	faults.Sort()
	return spec, append(faults, own...)
}

// checkFence tells every parameter of a host's fence that its driver refuses, on
// the parameter's own line.
func checkFence(h fleet.Host) (out fleet.Faults) {
	for _, level := range h.Fence {
		for _, f := range level {
			out = append(out, checkDevice(strings.TrimSuffix("hosts/"+h.Name+"/fence/"+f.At, "/"), f)...)
		}
	}
	return out
}

func checkDevice(path string, f fleet.Fence) (out fleet.Faults) {
	warnings, err := fence.Check(f)
	for _, w := range warnings {
		out = append(out, fleet.Fault{Path: path, Rule: "fence", Problem: w, Warning: true})
	}
	for _, err := range apart(err) {
		fault := fleet.Fault{Path: path, Rule: "fence", Problem: err.Error()}
		if p, ok := errors.AsType[*fence.ParamError](err); ok {
			fault.Path, fault.Problem = path+"/"+p.Param, p.Text
		}
		out = append(out, fault)
	}
	return out
}

// apart returns the errors that errors.Join put together.
func apart(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, apart(e)...)
	}
	return out
}

// checkHere tells what this host lacks to run its part of the site: about lines of
// the site's file, and about files of its own.
func checkHere(ctx context.Context, c Config, spec fleet.Spec, host string, system *service.Systemd) (about, own fleet.Faults) {
	files := trust.Files{Dir: c.tls()}
	id, err := files.Load()
	_, expired := errors.AsType[*trust.ExpiredError](err)
	joined := err == nil || expired
	if _, none := os.Stat(filepath.Join(c.tls(), trust.CAFile)); errors.Is(none, fs.ErrNotExist) {
		// The file is checked before the site begins, so this is how it starts.
		own = append(own, fleet.Fault{Rule: "certificate", Value: host, Warning: true, Problem: "is who this host is taken for: it has no certificate yet, so it has not joined",
			Want: "mainstay init (on the first voter) or mainstay join makes one; --host NAME says who it will be"})
	} else if err != nil {
		own = append(own, fleet.Fault{Rule: "certificate", Problem: err.Error(), Want: "mainstay init (on the first voter) or mainstay join makes one"})
	}
	if joined {
		host = id.Name
	}
	me, ok := spec.Host(host)
	switch {
	case !ok && joined:
		return fleet.Faults{{Path: "hosts", Rule: "certificate", Value: host, Problem: "is whom this host's certificate names, and the site does not know it"}}, own
	case !ok:
		return fleet.Faults{{Path: "hosts", Rule: "certificate", Value: host, Warning: true, Problem: "is the name of no host of this site, so nothing of this host was checked",
			Want: "--host NAME, the host that this one will be"}}, own
	}
	for _, network := range fleet.Sorted(me.Addresses) {
		if _, err := interfaceOf(me.Addresses[network]); err != nil {
			want := "the address that this host has on network " + network
			if mine := here(spec, network); mine != "" {
				want = mine
			}
			about = append(about, fleet.Fault{Path: "hosts/" + me.Name, Rule: "interface", Value: me.Addresses[network].String(),
				Problem: "is on no interface of this host", Want: want})
		}
	}
	if _, err := exec.LookPath("haproxy"); err != nil && runsHAProxy(spec, me.Name) {
		about = append(about, fleet.Fault{Path: "services/haproxy", Rule: "program", Problem: "haproxy is not installed on this host", Want: "apt-get install haproxy (or dnf, zypper)"})
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, v := range spec.Services {
		if !slices.Contains(spec.Homes(v), me.Name) {
			continue
		}
		s, err := service.Open(v, service.Env{Systemd: system})
		if err != nil {
			continue // told already
		}
		state, err := s.State(ctx)
		_ = s.Close() // nothing was changed through it
		switch {
		case err != nil:
			// No answer in time says nothing against the file.
			about = append(about, fleet.Fault{Path: "services/" + v.Name, Rule: "unit", Problem: "nobody knows its state on this host: " + err.Error(),
				Warning: errors.Is(err, service.ErrUnknown) || errors.Is(err, context.DeadlineExceeded)})
		case state.Phase == fleet.Absent:
			about = append(about, fleet.Fault{Path: "services/" + v.Name, Rule: "unit", Problem: fmt.Sprintf("none of its units %v exists on this host", v.Units),
				Want: "its package installed, a unit that exists, or " + v.Name + " without this host"})
		}
	}
	return about, own
}

// here names what this host has on a network.
func here(spec fleet.Spec, network string) string {
	all, err := ownAddresses()
	if err != nil {
		return ""
	}
	var mine []string
	for _, n := range spec.Networks {
		for addr, name := range all {
			if n.Name == network && n.CIDR.Contains(addr) {
				mine = append(mine, fmt.Sprintf("%s (%s)", addr, name))
			}
		}
	}
	slices.Sort(mine)
	return strings.Join(mine, ", ")
}
