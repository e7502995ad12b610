package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mainstay/balance"
	"mainstay/fence"
	"mainstay/fleet"
	"mainstay/probe"
	"mainstay/service"
	"mainstay/trust"
)

// Check returns all that is wrong with a site's file and, unless host is "", with this
// host's part of the site, each with the line of the file that it is about: what the
// file says wrongly, what the fence drivers and the kinds of service refuse, a
// certificate that is not good, own addresses, HAProxy and what it refuses, units that do
// not exist. It changes nothing. host is which of the site's hosts this is, as long as no certificate
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
		if known := probes(); v.Check.Kind != "" && !slices.Contains(known, v.Check.Kind) {
			more = append(more, fleet.Fault{Path: "services/" + v.Name + "/check/kind", Rule: "probe", Value: v.Check.Kind, Problem: "is no probe", Want: "one of " + strings.Join(known, ", ")})
		}
		if v.Kind == "" {
			continue // told already
		}
		s, err := service.Open(v, service.Env{Systemd: system})
		if err != nil {
			more = append(more, checkService(v.Name, err)...)
			continue
		}
		_ = s.Close() // nothing was changed through it
	}
	var own fleet.Faults
	if host != "" {
		var about fleet.Faults
		about, own = checkHere(ctx, c, spec, host, len(faults.Errors())+len(more.Errors()) == 0, system)
		more = append(more, about...)
	}
	faults = append(faults, more.Locate(file, text)...)
	faults.Sort()
	return spec, append(faults, own...)
}

func probes() (names []string) {
	for _, p := range probe.Probes() {
		names = append(names, p.Name)
	}
	return names
}

// checkService tells every mistake in a service, one in a parameter on its own line.
func checkService(name string, err error) (out fleet.Faults) {
	all := apart(errors.Unwrap(err))
	if len(all) == 0 {
		all = []error{err}
	}
	for _, err := range all {
		fault := fleet.Fault{Path: "services/" + name, Rule: "service", Problem: err.Error()}
		if p, ok := errors.AsType[*service.ParamError](err); ok {
			fault.Path, fault.Problem = strings.TrimSuffix(fault.Path+"/params/"+p.Param, "/"), p.Text
		}
		out = append(out, fault)
	}
	return out
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
// the site's file, and about files of its own. sound says that nothing is wrong with the
// file itself.
func checkHere(ctx context.Context, c Config, spec fleet.Spec, host string, sound bool, system *service.Systemd) (about, own fleet.Faults) {
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
	if ends, known := files.Ends(); err == nil && known == nil && time.Until(ends) < soonExpired {
		own = append(own, fleet.Fault{Rule: "certificate", Value: filepath.Join(c.tls(), trust.CertFile), Warning: true, Problem: "expires on " + ends.UTC().Format(time.RFC3339) + "; the agent renews it 30 days before, so it was not running or could not",
			Want: "a running agent, or mainstay join --renew"})
	}
	me, ok := spec.Host(host)
	switch {
	case !ok && joined:
		return fleet.Faults{stranger(host)}, own
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
	if me.Watchdog.Device != "" {
		warning, err := fence.CheckWatchdog(me.Watchdog)
		if err != nil {
			about = append(about, fleet.Fault{Path: "hosts/" + me.Name + "/watchdog", Rule: "watchdog", Problem: err.Error()})
		}
		if warning != "" {
			about = append(about, fleet.Fault{Path: "hosts/" + me.Name + "/watchdog", Rule: "watchdog", Problem: warning, Warning: true})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if runsHAProxy(spec, me.Name) {
		more, mine := checkHAProxy(ctx, c, spec, me.Name, sound)
		about, own = append(about, more...), append(own, mine...)
	}
	if me.Voter && spec.OpenStack.Cloud != "" {
		about = append(about, checkCloud(ctx, spec)...)
	}
	if me.HasRole("compute") && spec.OpenStack.Storage != "" {
		about = append(about, checkStorage(ctx, spec, me)...)
	}
	for _, v := range spec.Services {
		if !slices.Contains(spec.Homes(v), me.Name) {
			continue
		}
		s, err := service.Open(v, service.Env{Systemd: system})
		if err != nil {
			continue // told already
		}
		state, err := s.State(ctx)
		if e, ok := s.(service.Examiner); ok && state.Phase != fleet.Absent {
			var homes []fleet.Host
			for _, name := range spec.Homes(v) {
				if h, ok := spec.Host(name); ok {
					homes = append(homes, h)
				}
			}
			for _, problem := range e.Examine(homes) {
				about = append(about, fleet.Fault{Path: "services/" + v.Name, Rule: "configuration", Problem: problem, Warning: true})
			}
		}
		if own, can := s.(service.Validator); can && err == nil && state.Phase != fleet.Absent {
			if err := own.Validate(ctx); err != nil {
				f := fleet.Fault{Path: "services/" + v.Name + "/params", Rule: "service", Problem: "will not do on this host: " + err.Error(), Warning: errors.Is(err, service.ErrUnknown)}
				if with := baseless(ctx, spec, v, system); with != "" {
					f.Problem, f.Warning = fmt.Sprintf("cannot be tried on this host while %s, on which it stands, does not work here: %v", with, err), true
				}
				about = append(about, f)
			}
		}
		_ = s.Close() // nothing was changed through it
		switch {
		case err != nil:
			// No answer in time says nothing against the file.
			about = append(about, fleet.Fault{Path: "services/" + v.Name, Rule: "unit", Problem: "nobody knows its state on this host: " + err.Error(),
				Warning: errors.Is(err, service.ErrUnknown) || errors.Is(err, context.DeadlineExceeded)})
		case state.Phase == fleet.Absent && len(v.Units) == 0:
			about = append(about, fleet.Fault{Path: "services/" + v.Name, Rule: "program", Problem: "cannot run on this host: " + state.Why, Want: "what it runs installed, or " + v.Name + " without this host"})
		case state.Phase == fleet.Absent:
			about = append(about, fleet.Fault{Path: "services/" + v.Name, Rule: "unit", Problem: fmt.Sprintf("none of its units %v exists on this host", v.Units),
				Want: "its package installed, a unit that exists, or " + v.Name + " without this host"})
		}
	}
	return about, own
}

// baseless names what a service stands on that does not work on this host; "" if all of it
// does. What the service's parameters name may lie on that: a database's folder on a file
// system that is mounted on the other host.
func baseless(ctx context.Context, spec fleet.Spec, v fleet.Service, system *service.Systemd) string {
	works := func(base fleet.Service) bool {
		c, err := service.Open(base, service.Env{Systemd: system})
		if err != nil {
			return false
		}
		defer c.Close() // nothing was changed through it
		s, err := c.State(ctx)
		return err == nil && s.Phase == fleet.Running && s.Role != fleet.RoleUnpromoted
	}
	for _, with := range v.With {
		name, is := strings.CutPrefix(with, "service/")
		if base, ok := spec.Service(name); is && ok && base.Mode.Exclusive() && !works(base) {
			return with
		}
	}
	return ""
}

// stranger is the fault that the site's file does not know who this host is.
func stranger(host string) fleet.Fault {
	return fleet.Fault{Path: "hosts", Rule: "certificate", Value: host, Problem: "is whom this host's certificate names, and the site does not know it"}
}

// checkHAProxy tells what this host's HAProxy lacks, and what it would refuse, which it
// is asked only about a file that is sound so far.
func checkHAProxy(ctx context.Context, c Config, spec fleet.Spec, host string, sound bool) (about, own fleet.Faults) {
	if slices.ContainsFunc(spec.Services, func(v fleet.Service) bool { return v.Listen.TLS }) && spec.TLS.Certificate != "" {
		if f := checkCertificate(spec.TLS.Certificate, time.Now()); f != nil {
			about = append(about, *f)
			// The rest of the configuration is judged without it.
			spec.Services = slices.Clone(spec.Services)
			for i := range spec.Services {
				spec.Services[i].Listen.TLS = false
			}
		}
	}
	if _, err := exec.LookPath("haproxy"); err != nil {
		return append(about, fleet.Fault{Path: "services/haproxy", Rule: "program", Problem: "haproxy is not installed on this host", Want: "apt-get install haproxy (or dnf, zypper)"}), nil
	}
	if !sound {
		return about, nil
	}
	err := balance.New(balance.Config{Dir: c.Config, Run: c.Run, Host: host}).Check(ctx, spec)
	if err == nil {
		return about, nil
	}
	f := fleet.Fault{Path: "services/haproxy", Rule: "haproxy", Problem: err.Error(), Warning: errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)}
	if r, ok := errors.AsType[*balance.Refusal](err); ok && r.Snippet != "" {
		f.Path, f.File = "", r.Snippet
		return about, fleet.Faults{f}
	}
	return append(about, f), nil
}

// soonExpired is when a certificate that still is good is worth a word.
const soonExpired = 21 * 24 * time.Hour

// checkCertificate says what is wrong with the file that HAProxy shows to clients;
// nil if nothing is.
func checkCertificate(file string, now time.Time) *fleet.Fault {
	f := &fleet.Fault{Path: "tls/certificate", Rule: "tls", Value: file, Want: "certificate, chain and key in one PEM file, on each host that runs haproxy"}
	text, err := os.ReadFile(file)
	if err != nil {
		f.Problem = "cannot be read: " + err.Error()
		return f
	}
	key := text
	if beside, err := os.ReadFile(file + ".key"); err == nil && !bytes.Contains(text, []byte("PRIVATE KEY-----")) {
		key = beside // HAProxy looks there too
	}
	pair, err := tls.X509KeyPair(text, key)
	if err != nil {
		f.Problem = "is no certificate with its key: " + err.Error()
		return f
	}
	until := pair.Leaf.NotAfter
	f.Want = "a renewed one; HAProxy takes it by itself within a minute"
	switch {
	case now.Before(pair.Leaf.NotBefore):
		f.Problem = "is good only from " + pair.Leaf.NotBefore.Format(time.RFC3339) + " on"
	case now.After(until):
		f.Problem = "expired on " + until.Format(time.RFC3339)
	case until.Sub(now) < soonExpired:
		f.Problem, f.Warning = "expires on "+until.Format(time.RFC3339), true
	default:
		return nil
	}
	return f
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
