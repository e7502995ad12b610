package lab

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/service"
)

// What nobody misses at once, and a person must hear of before the next fault: a store
// that follows and dies, and a machine that has one of the site's addresses. And what is
// told while the quorum is lost.

// voter is a host that votes and does not lead.
func (s *site) voter(t *testing.T) string {
	t.Helper()
	st := s.status(t)
	i := slices.IndexFunc(st.Hosts, func(h api.HostStatus) bool { return h.Voter && h.Name != st.Leader })
	if i < 0 {
		t.Fatal("only the leader votes")
	}
	return st.Hosts[i].Name
}

// waitsFor says whether something waits with these words.
func waitsFor(st api.Status, about, words string) bool {
	return slices.ContainsFunc(st.Waits, func(x fleet.Wait) bool { return x.About == about && strings.Contains(x.For, words) })
}

// storeOf is a host's part in the store.
func storeOf(st api.Status, host string) string {
	for _, h := range st.Hosts {
		if h.Name == host {
			return h.Store
		}
	}
	return ""
}

// deadStore: the disk of a store that follows fails, on the host that has every address,
// and goes on failing. No address moves; the status says which store is missing, also
// there; mended, it votes again.
func (f *faulted) deadStore(t *testing.T) {
	host := f.voter(t)
	f.gather(t, host)
	before := generations(f.status(t))
	dropIn := "/run/systemd/system/" + service.QuorumUnit + ".d"
	f.run(t, host, "sh", "-c", "mkdir -p "+dropIn+" && printf '[Service]\\nExecStartPre=/bin/false\\n' >"+dropIn+"/broken.conf && systemctl daemon-reload")
	pid := f.quorumProcess(t, host)
	begun := time.Now()
	var said bytes.Buffer
	broken := exec.CommandContext(f.ctx, "strace", "-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO", "-o", "/dev/null", "-p", fmt.Sprint(pid))
	broken.Stderr = &said
	if err := broken.Run(); err != nil { // until its victim has ended
		t.Logf("strace: %v: %s", err, said.String())
	}
	t.Logf("the store on %s ended after %v", host, time.Since(begun).Round(time.Millisecond))
	f.awaitFrom(t, f.other(host), "somebody to be told of the store on "+host, func(st api.Status) bool {
		return waitsFor(st, "store/"+host, "its store: it is down") && storeOf(st, host) == fleet.StoreDown
	})
	t.Logf("told after %v", time.Since(begun).Round(time.Millisecond))
	if out, err := f.lab.Run(f.ctx, host, "mainstay", "status"); err == nil || !strings.Contains(out, "systemctl status mainstay-quorum") || strings.Contains(out, "NO LEADER") {
		t.Errorf("the status of %s itself: %v\n%s", host, err, out)
	}
	f.same(t, before, f.working(t, f.other(host), ""), "a dead store moves nothing")
	f.run(t, host, "sh", "-c", "rm -r "+dropIn+" && systemctl daemon-reload")
	f.await(t, "the store on "+host+" to vote again", f.settled)
	f.same(t, before, f.status(t), "nor does its return")
}

// lostQuorum: two of three stores are stopped while all agents run. Addresses stay, the
// client is served, and the status of the third voter names both and what to do.
func (f *faulted) lostQuorum(t *testing.T) {
	st := f.status(t)
	before, by := generations(st), f.voter(t)
	var stopped []string
	for _, h := range st.Hosts {
		if h.Voter && h.Name != by {
			stopped = append(stopped, h.Name)
			f.run(t, h.Name, "systemctl", "stop", service.QuorumUnit)
		}
	}
	begun := time.Now()
	var out string
	err := until(f.ctx, siteBound, func() error {
		out, _ = f.lab.Run(f.ctx, by, "mainstay", "status")
		for _, host := range stopped {
			for _, words := range []string{"NO LEADER", host + "  its store is down", "on " + host + ": systemctl status mainstay-quorum", by + " hears 3"} {
				if !strings.Contains(out, words) {
					return fmt.Errorf("no word of %q:\n%s", words, out)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("told after %v:\n%s", time.Since(begun).Round(time.Millisecond), out)
	f.answered(t, f.log, 50)
	for _, host := range stopped {
		f.run(t, host, "systemctl", "start", service.QuorumUnit)
	}
	f.await(t, "a leader", f.settled)
	f.same(t, before, f.status(t), "a lost quorum moves nothing")
}

// stranger: the machine outside is given an address of the site, and answers for it
// without a word. The holder is told of it, and again when it is gone.
func (f *faulted) stranger(t *testing.T) {
	h := f.holding(t, "address/internal")
	before := generations(f.status(t))
	address, mac := f.lab.Virtual()["internal"].String()+"/32", cardOf(f.lab.Client.Addresses["management"]).String()
	f.run(t, Client, "ip", "address", "add", address, "dev", "management")
	begun := time.Now()
	t.Cleanup(func() { _, _ = f.lab.Run(f.ctx, Client, "ip", "address", "del", address, "dev", "management") })
	f.awaitFrom(t, h.Host, "somebody to be told of the stranger", func(st api.Status) bool {
		return waitsFor(st, h.Thing, "an unknown machine (MAC "+mac+") answers for it too")
	})
	t.Logf("told after %v", time.Since(begun).Round(time.Millisecond))
	f.run(t, Client, "ip", "address", "del", address, "dev", "management")
	begun = time.Now()
	f.await(t, "the stranger to be forgotten", f.settled)
	t.Logf("forgotten after %v", time.Since(begun).Round(time.Millisecond))
	f.same(t, before, f.status(t), "a stranger moves nothing")
}
