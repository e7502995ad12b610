package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/service"
)

// faultsEvery is how often the clients ask: often enough to see, rare enough to leave
// a small machine to its hosts.
const faultsEvery = 50 * time.Millisecond

var faults = flag.Bool("faults", false, "play the long list of faults as well: make lab-faults")

// TestFaults plays every fault that Mainstay is there for, one after another. Two
// labs serve all steps: four light hosts for what happens to hosts and networks,
// three with a cloud for what happens to services. Each step waits for what must
// become true, never for a time, and logs what the client outside measured;
// meanwhile a Wire watches that no two hosts ever speak for one address.
func TestFaults(t *testing.T) {
	if !*faults {
		t.Log("not played: it takes half an hour; make lab-faults")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
	defer cancel()
	t.Run("hosts", func(t *testing.T) { hostFaults(ctx, t) })
	t.Run("cloud", func(t *testing.T) { cloudFaults(ctx, t) })
}

// hostFaults plays what happens to hosts and their networks.
func hostFaults(ctx context.Context, t *testing.T) {
	cfg, c := light(t, "faults")
	f := &faulted{site: deploySite(ctx, t, cfg, c)}
	f.log = f.watchURL(t, fmt.Sprintf("http://%s:5000/", f.lab.Virtual()["internal"]))
	f.six = f.watchURL(t, fmt.Sprintf("http://[%s]:5000/", f.lab.Virtual()["internal6"]))
	f.await(t, "everything in service", f.settled)

	f.step(t, "a leader is stopped whole and goes on after ten seconds", f.stoppedLeader)
	f.step(t, "the leader's disk is slow", f.slowDisk)
	f.step(t, "the leader's disk hangs while there is nothing to decide", f.hungDiskAtRest)
	f.step(t, "the leader's disk hangs", f.hungDisk)
	f.step(t, "the leader's agent hangs", f.hungLeader)
	f.step(t, "a store that follows dies on the addresses' holder", f.deadStore)
	f.step(t, "the quorum is lost and all agents run", f.lostQuorum)
	f.step(t, "a stranger answers for an address", f.stranger)
	f.step(t, "an agent that hangs for good is ended by its watchdog", f.ended)
	f.step(t, "F6 an agent hangs and what it guarded runs on", f.hungAgent)
	f.step(t, "V1 a split heals", f.splitHeals)
	f.step(t, "V2 a cable is plugged in again", f.cable)
	f.step(t, "V2 what an address served is gone", f.servedIsGone)
	f.step(t, "V3 established TCP ends when its address moves", f.established)
	f.step(t, "S1 a hung service", f.hungWeb)
	f.step(t, "S3 a killed service", f.killedWeb)
	f.step(t, "a service that will not start any more goes elsewhere", f.failingStarts)
	f.step(t, "IPv6 and TLS fail over alike", f.secure)
	for _, m := range f.lab.Hosts {
		for _, network := range []string{All, "management", "tenant"} {
			for _, way := range []Direction{In, Out, Both} {
				f.step(t, fmt.Sprintf("cut %s %s %s", m.Name, network, way), func(t *testing.T) { f.cutOff(t, m.Name, network, way) })
			}
		}
	}
}

// faulted is a site to which faults happen, and who watches it.
type faulted struct {
	*site
	log    *Log // what the client sees through the internal address
	six    *Log // the same through its IPv6 twin; nil: not watched
	tokens *Log // tokens of Keystone; nil without a cloud
}

// step plays one fault and what follows from it, until all is well again.
func (f *faulted) step(t *testing.T, name string, play func(*testing.T)) {
	t.Run(name, func(t *testing.T) {
		begun := time.Now()
		defer f.mend(t)
		play(t)
		f.await(t, "all to be well again", f.settled)
		f.answered(t, f.log, 10)
		ended := time.Now()
		for what, log := range map[string]*Log{"": f.log, " over IPv6": f.six, " (tokens)": f.tokens} {
			if log == nil {
				continue
			}
			gap, from, _ := Gap(log.Tries(), begun, ended)
			failed := 0
			for _, try := range log.Tries() {
				if !try.OK && try.Begun.After(begun) {
					failed++
				}
			}
			t.Logf("the client's longest time without an answer%s: %v, %v after the step began; %d tries failed", what,
				gap.Round(time.Millisecond), from.Sub(begun).Round(time.Millisecond), failed)
		}
		f.alone(t, begun)
	})
}

// mend undoes what a step that failed has left, so that the next one can be played.
func (f *faulted) mend(t *testing.T) {
	if !t.Failed() {
		return
	}
	for _, m := range f.lab.Hosts {
		_, healed := f.lab.Heal(f.ctx, m.Name, All)
		_, started := f.lab.Start(f.ctx, m.Name)
		_, thawed := f.lab.Resume(f.ctx, m.Name, Disk)
		_, resumed := f.lab.Resume(f.ctx, m.Name, All)
		t.Logf("mending %s: %v", m.Name, errors.Join(healed, started, thawed, resumed))
	}
	f.await(t, "all to be well again", f.settled)
}

// answered waits until the newest n tries of a client all ended well.
func (f *faulted) answered(t *testing.T, log *Log, n int) {
	t.Helper()
	from := time.Now()
	err := until(f.ctx, siteBound, func() error {
		good := 0
		for _, try := range slices.Backward(log.Tries()) {
			switch {
			case good == n:
				return nil
			case try.Begun.Before(from):
				return fmt.Errorf("%d good answers so far", good)
			case !try.OK:
				return errors.New(try.Why)
			}
			good++
		}
		return errors.New("no answers so far")
	})
	if err != nil {
		t.Fatalf("the client is not served: %v", err)
	}
}

func (s *site) watchURL(t *testing.T, url string) *Log {
	t.Helper()
	return s.watchProbe(t, Probe{URL: url, Every: faultsEvery, Patience: 5 * faultsEvery, Expect: 200})
}

func (s *site) watchProbe(t *testing.T, p Probe) *Log {
	t.Helper()
	log, err := s.lab.Watch(s.ctx, p, s.binary)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := log.Stop(); err != nil {
			t.Error(err)
		}
	})
	return log
}

// unwatched is where a lab of these stories says that systemd does not watch its agents.
const unwatched = "/etc/systemd/system/mainstay.service.d/faults.conf"

// light is a lab of four hosts without a cloud, of which three vote: a small web server behind HAProxy,
// in clear and with TLS, and a service of which there may be only one.
func light(t *testing.T, name string) (Config, SiteConfig) {
	t.Helper()
	const secureUnit = "bench-secure.service"
	certificate, err := siteCertificate()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
			Name: name, Disk: 2 << 30,
			Hosts: []Host{{Name: "c1"}, {Name: "c2"}, {Name: "c3"}, {Name: "c4"}},
			Files: map[string]File{
				"/etc/systemd/system/" + benchUnit:  {Data: []byte(benchWebUnit)},
				benchConfig:                         {Data: []byte(benchWeb)},
				"/etc/systemd/system/" + secureUnit: {Data: []byte(strings.ReplaceAll(benchWebUnit, "web.cfg", "secure.cfg"))},
				"/etc/mainstay-bench/secure.cfg":    {Data: []byte(strings.ReplaceAll(benchWeb, "5001", "5002"))},
				"/etc/mainstay/site.pem":            {Data: certificate, Mode: 0o600},
				"/etc/systemd/system/lone.service":  {Data: []byte("[Service]\nExecStartPre=/bin/sh -c '! test -e /run/lone-breaks'\nExecStart=/bin/sleep infinity\n")},
				// Otherwise systemd would end an agent that is stopped for ten seconds, and most
				// stories are about what it does when it goes on.
				unwatched: {Data: []byte("[Service]\nWatchdogSec=0\n")},
			},
		}, SiteConfig{
			// Four hosts on a small machine are late now and then; what is played here is
			// the order of things, and that is the same with any timing.
			Timing: "wide",
			Services: strings.Replace(benchServices, "addresses: [internal]", "addresses: [internal, internal6, public]", 1) + `  secure:
    kind: systemd
    mode: active/active
    why: each copy answers by itself
    units: [` + secureUnit + `]
    roles: [controller]
    check: {kind: http, port: 5002, path: /}
    listen: {port: 5443, backend: 5002, protocol: http, addresses: [internal, internal6], tls: true}
  lone:
    kind: systemd
    mode: active/passive
    why: there may be only one
    units: [lone.service]
    roles: [controller]
`,
			Extra: "tls: {certificate: /etc/mainstay/site.pem}\n",
		}
}

// siteCertificate makes a site's own certificate with its key, as HAProxy wants them.
func siteCertificate() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: InternalName}, DNSNames: []string{InternalName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...), nil
}

// addressNames are the things that the lab's virtual addresses are.
func (s *site) things() []string {
	var out []string
	for name := range s.lab.Virtual() {
		out = append(out, "address/"+name)
	}
	slices.Sort(out)
	return out
}

// gather moves every address to one host.
func (s *site) gather(t *testing.T, host string) {
	t.Helper()
	for _, thing := range s.things() {
		if s.holding(t, thing).Host != host {
			s.run(t, s.other(), "mainstay", "move", strings.TrimPrefix(thing, "address/"), host, "--wait", "2m")
		}
	}
	s.await(t, "calm after the moves", s.settled)
}

// generations are those of all holdings, by thing.
func generations(st api.Status) map[string]string {
	out := map[string]string{}
	for _, h := range st.Holdings {
		out[h.Thing] = fmt.Sprintf("%s, generation %d", h.Host, h.Generation)
	}
	return out
}

// away waits until those things work on other hosts, as one that is well says.
func (s *site) away(t *testing.T, by, from string, things ...string) api.Status {
	t.Helper()
	var last api.Status
	s.awaitFrom(t, by, strings.Join(things, ", ")+" to work on another host than "+from, func(st api.Status) bool {
		last = st
		for _, thing := range things {
			if h := find(st, thing); h.Host == from || !h.Works {
				return false
			}
		}
		return st.Leader != ""
	})
	return last
}

// lasts lets a fault last.
func (s *site) lasts(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
}

// stoppedLeader: the leader's agent and store are stopped in the middle of a move;
// meanwhile another host loses power and its addresses move; then the old leader
// goes on, and nothing of what it had in mind is carried out.
func (f *faulted) stoppedLeader(t *testing.T) {
	// It has not the one copy of what needs a proof: with two hosts lost the brake
	// would rightly keep that from going elsewhere.
	if f.holding(t, "service/lone").Host == f.plain(t) {
		f.run(t, f.other(), "mainstay", "move", "service/lone", f.other(f.status(t).Leader, f.plain(t)), "--wait", "2m")
	}
	// The holder does not vote, or with the leader the majority would be gone.
	holder := f.plain(t)
	f.gather(t, holder)
	f.stopLeader(t, 10*time.Second, func(by string) {
		lost := time.Now()
		f.deed(t)(f.lab.PowerOff(f.ctx, holder))
		f.away(t, by, holder, f.things()...)
		t.Logf("%s lost power; all its addresses worked elsewhere after %v, as the status says", holder, time.Since(lost).Round(time.Millisecond))
	})
	f.deed(t)(f.lab.Start(f.ctx, holder))
}

// stopLeader stops the leader's agent and store for a while in which something else
// may happen, and lets them go on.
func (f *faulted) stopLeader(t *testing.T, lasts time.Duration, meanwhile func(by string)) {
	t.Helper()
	st := f.status(t)
	another := func() string {
		return st.Hosts[slices.IndexFunc(st.Hosts, func(h api.HostStatus) bool { return h.Voter && h.Name != st.Leader })].Name
	}
	// A leader that holds what needs a proof would rightly be switched off.
	if slices.ContainsFunc(st.Holdings, func(h api.HoldingStatus) bool { return strings.HasPrefix(h.Thing, "service/") && h.Host == st.Leader }) {
		f.run(t, st.Leader, "mainstay", "voters", "lead", another())
		was := st.Leader
		f.await(t, "another to lead", func(now api.Status) bool {
			st = now
			return now.Leader != "" && now.Leader != was
		})
	}
	old, epoch, by := st.Leader, st.Epoch, another()
	stopped := time.Now()
	for _, unit := range []string{service.AgentUnit, service.QuorumUnit} {
		f.deed(t)(f.lab.Hang(f.ctx, old, unit))
	}
	f.awaitFrom(t, by, "another leader", func(st api.Status) bool { return st.Leader != "" && st.Epoch > epoch })
	t.Logf("%s leads no more; another led after %v", old, time.Since(stopped).Round(time.Millisecond))
	meanwhile(by)
	f.lasts(time.Until(stopped.Add(lasts)))
	before := generations(f.working(t, by, "address/"))
	woken := time.Now()
	for _, unit := range []string{service.QuorumUnit, service.AgentUnit} {
		f.deed(t)(f.lab.Resume(f.ctx, old, unit))
	}
	f.awaitFrom(t, by, old+" to be healthy again", func(st api.Status) bool {
		for _, h := range st.Hosts {
			if h.Name == old {
				return h.Condition == fleet.Healthy
			}
		}
		return false
	})
	f.lasts(2 * time.Second)
	f.same(t, before, f.working(t, by, "address/"), "the old leader goes on")
	f.noOldOrders(t, by, epoch, woken)
}

// plain is the host that does not vote.
func (f *faulted) plain(t *testing.T) string {
	t.Helper()
	for _, h := range f.status(t).Hosts {
		if !h.Voter {
			return h.Name
		}
	}
	t.Fatal("all hosts vote")
	return ""
}

// working is the newest status in which every holding of a kind works.
func (s *site) working(t *testing.T, by, kind string) api.Status {
	t.Helper()
	var last api.Status
	s.awaitFrom(t, by, "every "+kind+" to work", func(st api.Status) bool {
		last = st
		for _, h := range st.Holdings {
			if strings.HasPrefix(h.Thing, kind) && !h.Works {
				return false
			}
		}
		return st.Leader != ""
	})
	return last
}

// noOldOrders fails if history tells of anything under an epoch that had ended.
func (s *site) noOldOrders(t *testing.T, by string, epoch uint64, since time.Time) {
	t.Helper()
	c, err := s.lab.APIClient(by)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	events, err := c.Events(s.ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Epoch <= epoch && e.At.After(since) {
			t.Errorf("epoch %d had ended, and yet: %s %s %s: %s", epoch, e.At.Format("15:04:05.000"), e.Kind, e.About, e.Text)
		}
	}
}

// quorumProcess is the store's process on a host, as a number of this machine.
func (s *site) quorumProcess(t *testing.T, host string) int {
	t.Helper()
	pids, err := s.lab.UnitPIDs(host, service.QuorumUnit)
	if err != nil || len(pids) == 0 {
		t.Fatalf("%s: no process of %s: %v", host, service.QuorumUnit, err)
	}
	return pids[0]
}

// slowDisk: each fsync of the leader's store takes two seconds.
func (f *faulted) slowDisk(t *testing.T) {
	old := f.status(t).Leader
	f.gather(t, old)
	before := generations(f.status(t))
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	var said strings.Builder
	slow := exec.CommandContext(ctx, "strace", "-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:delay_exit=2000000",
		"-o", "/dev/null", "-p", fmt.Sprint(f.quorumProcess(t, old)))
	slow.Stderr = &said
	slow.Cancel = func() error { return slow.Process.Signal(os.Interrupt) } // so that it lets go of its victim
	if err := slow.Start(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	f.awaitFrom(t, f.other(old), "another to lead", func(st api.Status) bool { return st.Leader != "" && st.Leader != old })
	t.Logf("another led after %v", time.Since(begun).Round(time.Millisecond))
	f.lasts(3 * time.Second)
	f.same(t, before, f.working(t, f.other(old), "address/"), "a slow disk costs no address")
	cancel()
	if err := slow.Wait(); err != nil && ctx.Err() == nil {
		t.Fatalf("strace: %v: %s", err, said.String())
	}
}

// same fails if an address has moved.
func (s *site) same(t *testing.T, before map[string]string, now api.Status, why string) {
	t.Helper()
	after := generations(now)
	for _, thing := range slices.Sorted(maps.Keys(before)) {
		if before[thing] != after[thing] {
			t.Errorf("%s: %s was on %s and is on %s: %s", why, thing, before[thing], after[thing], find(now, thing).Why)
		}
	}
}

// hungDisk: nothing that the leader's host writes reaches its disk any more. As long
// as there is nothing to decide that is no matter; then an address's holder dies.
func (f *faulted) hungDisk(t *testing.T) {
	holder := f.plain(t)
	f.gather(t, holder)
	old := f.status(t).Leader
	f.deed(t)(f.lab.Hang(f.ctx, old, Disk))
	begun := time.Now()
	f.deed(t)(f.lab.PowerOff(f.ctx, holder))
	f.away(t, f.other(old, holder), holder, f.things()...)
	t.Logf("all addresses worked elsewhere after %v, as the status says; %s led before, %s leads", time.Since(begun).Round(time.Millisecond), old, f.leader(t, f.other(old, holder)))
	f.deed(t)(f.lab.Resume(f.ctx, old, Disk))
	f.deed(t)(f.lab.Start(f.ctx, holder))
}

// hungDiskAtRest: the leader notices by itself, and no address moves for it.
func (f *faulted) hungDiskAtRest(t *testing.T) {
	old := f.status(t).Leader
	before := generations(f.status(t))
	f.deed(t)(f.lab.Hang(f.ctx, old, Disk))
	begun := time.Now()
	f.awaitFrom(t, f.other(old), "another to lead", func(st api.Status) bool { return st.Leader != "" && st.Leader != old })
	t.Logf("another led after %v", time.Since(begun).Round(time.Millisecond))
	f.same(t, before, f.working(t, f.other(old), "address/"), "a disk that hangs costs no address")
	f.deed(t)(f.lab.Resume(f.ctx, old, Disk))
}

func (s *site) leader(t *testing.T, by string) string {
	t.Helper()
	st, err := s.lab.SiteStatus(s.ctx, by)
	if err != nil {
		t.Fatal(err)
	}
	return st.Leader
}

// hungLeader: the leader's agent is stopped, while its store is sound: another
// leads, and what it held moves.
func (f *faulted) hungLeader(t *testing.T) {
	st := f.status(t)
	old, epoch := st.Leader, st.Epoch
	f.gather(t, old)
	begun := time.Now()
	f.deed(t)(f.lab.Hang(f.ctx, old, service.AgentUnit))
	by := f.other(old)
	f.away(t, by, old, f.things()...)
	t.Logf("all addresses worked elsewhere after %v, as the status says", time.Since(begun).Round(time.Millisecond))
	woken := time.Now()
	f.silentOn(t, old, begun)
	if on, err := f.lab.Powered(old); err == nil && on { // it is not, if it held what needs a proof
		f.deed(t)(f.lab.Resume(f.ctx, old, service.AgentUnit))
	}
	f.noOldOrders(t, by, epoch, woken)
}

// ended: an agent hangs and nobody lets it go on. Its addresses work elsewhere; systemd,
// with the unit's own WatchdogSec, ends it and starts it anew; and its host is well again.
func (f *faulted) ended(t *testing.T) {
	victim := f.other(f.holding(t, "service/lone").Host) // else it would be switched off before
	moves := func(from, to string) {                     // in force from the agent's next start
		f.run(t, victim, "sh", "-c", "mv "+from+" "+to+" && systemctl daemon-reload && systemctl restart mainstay")
		f.await(t, "calm", f.settled)
	}
	moves(unwatched, "/root/faults.conf")
	f.gather(t, victim)
	show := func(what string) string {
		return strings.TrimSpace(f.run(t, victim, "systemctl", "show", "-P", what, service.AgentUnit))
	}
	if every := show("WatchdogUSec"); every == "0" || every == "infinity" {
		t.Fatalf("systemd does not watch the agent: %s", every)
	}
	before, by := show("NRestarts"), f.other(victim)
	begun := time.Now()
	f.deed(t)(f.lab.Hang(f.ctx, victim, service.AgentUnit))
	f.away(t, by, victim, f.things()...)
	f.answered(t, f.log, 10)
	t.Logf("all addresses worked elsewhere and the client was served after %v; %s restarts", time.Since(begun).Round(time.Millisecond), show("NRestarts"))
	err := until(f.ctx, siteBound, func() error {
		if now := show("NRestarts"); now == before {
			return fmt.Errorf("%s restarts, as before", now)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("nobody ended the agent: %v", err)
	}
	t.Logf("ended and started anew %v after it hung", time.Since(begun).Round(time.Millisecond))
	f.awaitFrom(t, by, victim+" to be healthy", func(st api.Status) bool {
		return slices.ContainsFunc(st.Hosts, func(h api.HostStatus) bool { return h.Name == victim && h.Condition == fleet.Healthy })
	})
	t.Logf("%s is healthy after %v", victim, time.Since(begun).Round(time.Millisecond))
	moves("/root/faults.conf", unwatched)
}

// silentOn is silent for a host that may have been switched off since.
func (f *faulted) silentOn(t *testing.T, host string, since time.Time) {
	t.Helper()
	deeds, err := f.lab.Deeds()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(deeds, func(d Deed) bool { return d.Verb == "poweroff" && d.Host == host && d.At.After(since) }) {
		f.silent(t, host)
	}
}

// hungAgent: F6. The agent that guards the one copy hangs; the copy runs on; a
// second one starts only after the first's host was proved off.
func (f *faulted) hungAgent(t *testing.T) {
	h := f.holding(t, "service/lone")
	begun := time.Now()
	f.deed(t)(f.lab.Hang(f.ctx, h.Host, service.AgentUnit))
	f.away(t, f.other(h.Host), h.Host, "service/lone")
	now := f.find1(t, f.other(h.Host), "service/lone")
	deeds, err := f.lab.Deeds()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(deeds, func(d Deed) bool { return d.Verb == "poweroff" && d.Host == h.Host && d.At.After(begun) })
	if i < 0 {
		t.Fatalf("lone runs on %s, but %s, where it ran, was never switched off", now.Host, h.Host)
	}
	started := f.run(t, now.Host, "systemctl", "show", "lone.service", "--property=ActiveEnterTimestamp", "--value", "--timestamp=us+utc")
	at, err := time.Parse("Mon 2006-01-02 15:04:05.000000 MST", strings.TrimSpace(started))
	if err != nil {
		t.Fatal(err)
	}
	off := deeds[i].At.Add(deeds[i].Took)
	if at.Before(off) {
		t.Errorf("lone started on %s at %s, and %s was off at %s only", now.Host, at, h.Host, off)
	}
	t.Logf("%s was off after %v, lone started on %s after %v", h.Host, off.Sub(begun).Round(time.Millisecond), now.Host, at.Sub(begun).Round(time.Millisecond))
}

// failingStarts: the one copy ends and does not start again, however often it is tried.
// Its host is well and gives it up by its own word.
func (f *faulted) failingStarts(t *testing.T) {
	h := f.holding(t, "service/lone")
	begun := time.Now()
	f.run(t, h.Host, "touch", "/run/lone-breaks")
	f.run(t, h.Host, "systemctl", "kill", "-s", "KILL", "lone.service")
	f.away(t, f.other(h.Host), h.Host, "service/lone")
	t.Logf("lone went elsewhere after %v", time.Since(begun).Round(time.Millisecond))
	deeds, err := f.lab.Deeds()
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(deeds, func(d Deed) bool { return d.Verb == "poweroff" && d.At.After(begun) }) {
		t.Errorf("a host was switched off for a service that it could stop: %v", deeds)
	}
	f.run(t, h.Host, "rm", "/run/lone-breaks")
}

func (f *faulted) find1(t *testing.T, by, thing string) api.HoldingStatus {
	t.Helper()
	st, err := f.lab.SiteStatus(f.ctx, by)
	if err != nil {
		t.Fatal(err)
	}
	return find(st, thing)
}

// splitHeals: V1. The holder is cut off and healed, and then the next one: after
// each, exactly one host speaks for each address, and is heard.
func (f *faulted) splitHeals(t *testing.T) {
	for range 2 {
		holder := f.holding(t, "address/internal").Host
		f.cutOff(t, holder, All, Both)
		f.await(t, "the split to be healed", f.settled)
		f.answered(t, f.log, 10)
	}
}

// cable: V2. A cable is pulled and plugged in again, three times in a row.
func (f *faulted) cable(t *testing.T) {
	holder := f.holding(t, "address/internal").Host
	for range 3 {
		f.deed(t)(f.lab.Cut(f.ctx, Cut{Host: holder, Network: "management", Direction: Link}))
		f.lasts(700 * time.Millisecond)
		f.deed(t)(f.lab.Heal(f.ctx, holder, "management"))
		f.lasts(300 * time.Millisecond)
	}
}

// servedIsGone: V2. The address leaves a host on which HAProxy is gone for good.
func (f *faulted) servedIsGone(t *testing.T) {
	h := f.holding(t, "address/internal")
	f.run(t, h.Host, "sh", "-c", "mkdir -p /run/systemd/system/"+service.HAProxyUnit+".d && printf '[Service]\\nExecStartPre=/bin/false\\n' >/run/systemd/system/"+
		service.HAProxyUnit+".d/broken.conf && systemctl daemon-reload && systemctl kill -s KILL "+service.HAProxyUnit)
	f.away(t, f.other(h.Host), h.Host, f.things()...)
	f.run(t, h.Host, "sh", "-c", "rm -r /run/systemd/system/"+service.HAProxyUnit+".d && systemctl daemon-reload")
}

// established: V3. TCP that was established through the address before its holder
// died ends when the address moves, also where nothing is sent any more.
func (f *faulted) established(t *testing.T) {
	h := f.holding(t, "address/internal")
	third := f.other(h.Host)
	to := netip.AddrPortFrom(f.lab.Virtual()["internal"], 5000).String()
	conn, err := f.lab.Dial(f.ctx, third, "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web\r\n"); err != nil { // and then waits
		t.Fatal(err)
	}
	begun := time.Now()
	f.deed(t)(f.lab.PowerOff(f.ctx, h.Host))
	if err := conn.SetReadDeadline(time.Now().Add(siteBound)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(make([]byte, 1))
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection of %s to the dead holder did not end: %d bytes, %v", third, n, err)
	}
	t.Logf("%s's idle connection to the dead holder ended after %v: %v", third, time.Since(begun).Round(time.Millisecond), err)
	f.away(t, third, h.Host, f.things()...)
	f.deed(t)(f.lab.Start(f.ctx, h.Host))
}

// hungWeb: S1. A hung copy leaves the rotation, and is killed and started anew.
func (f *faulted) hungWeb(t *testing.T) {
	host := f.other(f.holding(t, "address/internal").Host)
	begun := time.Now()
	f.deed(t)(f.lab.Hang(f.ctx, host, benchUnit))
	f.awaitFrom(t, host, "the hung copy to be out of rotation", func(st api.Status) bool { return !copyOf(st, "web", host).Ready })
	t.Logf("out of rotation after %v, as the status says", time.Since(begun).Round(time.Millisecond))
	f.awaitFrom(t, host, "it to be started anew", func(st api.Status) bool { return copyOf(st, "web", host).Ready })
	t.Logf("started anew after %v", time.Since(begun).Round(time.Millisecond))
}

func copyOf(st api.Status, name, host string) fleet.ServiceState {
	for _, v := range st.Services {
		if v.Name == name {
			return v.Copies[host]
		}
	}
	return fleet.ServiceState{}
}

// killedWeb: S3. A killed copy is back, and nobody notices.
func (f *faulted) killedWeb(t *testing.T) {
	host := f.holding(t, "address/internal").Host
	f.run(t, host, "systemctl", "kill", "-s", "KILL", benchUnit)
}

// secure: the holder dies; the client comes by HTTPS through the address, over IPv4
// and over IPv6, and finds the site's own certificate each time.
func (f *faulted) secure(t *testing.T) {
	raw := f.run(t, f.lab.Hosts[0].Name, "cat", "/etc/mainstay/site.pem")
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(raw)) {
		t.Fatal("the site's certificate is none")
	}
	ask := func(name string) error {
		to := netip.AddrPortFrom(f.lab.Virtual()[name], 5443).String()
		client := http.Client{Timeout: time.Second, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				return f.lab.Dial(ctx, Client, "tcp", to)
			},
		}}
		resp, err := client.Get("https://" + InternalName + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
	f.gather(t, f.other(f.status(t).Leader))
	h := f.holding(t, "address/internal6")
	for round := range 2 {
		for _, name := range []string{"internal", "internal6"} {
			if err := until(f.ctx, siteBound, func() error { return ask(name) }); err != nil {
				t.Fatalf("HTTPS through %s: %v", name, err)
			}
		}
		if round == 0 {
			f.deed(t)(f.lab.PowerOff(f.ctx, h.Host))
		}
	}
	f.away(t, f.other(h.Host), h.Host, f.things()...)
	f.answered(t, f.six, 10)
	f.deed(t)(f.lab.Start(f.ctx, h.Host))
}

// cutOff: a host that holds every address is cut off. What it can no longer serve
// goes elsewhere, and back in touch nothing moves again.
func (f *faulted) cutOff(t *testing.T, victim, network string, way Direction) {
	f.gather(t, victim)
	by := f.other(victim)
	var lost []string
	for _, thing := range f.things() {
		where := "management"
		if thing == "address/public" {
			where = "tenant"
		}
		if network == All || network == where {
			lost = append(lost, thing)
		}
	}
	for _, h := range f.status(t).Holdings {
		if network == All && strings.HasPrefix(h.Thing, "service/") && h.Host == victim {
			lost = append(lost, h.Thing) // after proof: then the host was switched off
		}
	}
	begun := time.Now()
	f.deed(t)(f.lab.Cut(f.ctx, Cut{Host: victim, Network: network, Direction: way}))
	f.away(t, by, victim, lost...)
	f.answered(t, f.log, 10)
	t.Logf("%s worked elsewhere after %v", strings.Join(lost, ", "), time.Since(begun).Round(time.Millisecond))
	if network == All {
		f.silentOn(t, victim, begun)
	}
	st := f.working(t, by, "")
	f.deed(t)(f.lab.Heal(f.ctx, victim, All))
	f.await(t, "the heal", f.settled)
	f.same(t, generations(st), f.status(t), "healing moves nothing")
}
