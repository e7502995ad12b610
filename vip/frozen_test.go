package vip

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// The lease and the beat of a holder, as in production; tests that must not depend
// on how busy the machine is take a longer lease.
const (
	lease = 300 * time.Millisecond
	beat  = 50 * time.Millisecond
)

// TestMain lets the test's own binary be the agent that is frozen.
func TestMain(m *testing.M) {
	if lease, err := time.ParseDuration(os.Getenv("VIP_HOLDER")); err == nil {
		if err := hold(lease); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// hold claims v4 and v6 in the namespace that it was started in and renews them.
// On its standard output it tells, a line each: "claimed"; after a renewal "renewed";
// once it was too late "too late"; any other error as "error". Before a renewal it
// writes into descriptor 3 until when, so that this is known as soon as it is frozen.
func hold(lease time.Duration) error {
	s, err := Open(Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Manage(site); err != nil {
		return err
	}
	for _, addr := range []netip.Addr{v4, v6} {
		if _, err := s.Claim(context.Background(), addr, Now().Add(long)); err != nil {
			return err
		}
	}
	fmt.Println("claimed")
	// No longer than the test lives.
	ends := os.NewFile(3, "until")
	for range time.Tick(beat) {
		if os.Getppid() == 1 {
			return errors.New("orphaned")
		}
		until := Now().Add(lease)
		if _, err := ends.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(until)), 0); err != nil {
			return err
		}
		if _, err := s.Renew(until); errors.Is(err, ErrTooLate) {
			fmt.Println("too late")
			return s.Drop(context.Background())
		} else if err != nil {
			return err
		}
		fmt.Println("renewed")
	}
	return nil
}

// holder is such a process.
type holder struct {
	t     testing.TB
	cmd   *exec.Cmd
	lines chan string
	ends  *os.File     // holds the end of the newest renewal that it may have made
	until fleet.Moment // that end, once it is frozen
}

func (h *host) holder(lease time.Duration) *holder {
	h.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "VIP_HOLDER="+lease.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	ends, err := os.Create(filepath.Join(h.t.TempDir(), "until"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { ends.Close() })
	cmd.ExtraFiles = []*os.File{ends}
	h.do(func() { err = cmd.Start() }) // a child is born into its thread's namespace
	if err != nil {
		h.t.Fatal(err)
	}
	o := &holder{t: h.t, cmd: cmd, ends: ends, lines: make(chan string, 10000)}
	go func() {
		defer close(o.lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			o.lines <- in.Text()
		}
	}()
	h.t.Cleanup(func() {
		cmd.Process.Kill() // ends a stopped process too
		for range o.lines {
		}
		cmd.Wait()
	})
	o.wait("claimed")
	o.wait("renewed")
	return o
}

// wait reads until the holder says what.
func (o *holder) wait(what string) {
	o.t.Helper()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-o.lines:
			switch {
			case ok && strings.HasPrefix(line, what):
				return
			case !ok || strings.HasPrefix(line, "error"):
				o.t.Fatalf("the holder said %q instead of %q", line, what)
			}
		case <-timer.C:
			_ = o.cmd.Process.Signal(unix.SIGQUIT) // it prints where it stands
			for range o.lines {
			}
			o.t.Fatalf("the holder did not say %q in %s", what, bound)
		}
	}
}

// freeze stops the holder, and knows then how long its lease runs at most.
func (o *holder) freeze() {
	o.t.Helper()
	if err := o.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		o.t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(o.cmd.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		o.t.Fatalf("stop the holder: %v, %v", status, err)
	}
	var until [8]byte
	if _, err := o.ends.ReadAt(until[:], 0); err != nil {
		o.t.Fatal(err)
	}
	o.until = fleet.Moment(binary.LittleEndian.Uint64(until[:]))
}

func (o *holder) thaw() {
	o.t.Helper()
	if err := o.cmd.Process.Signal(unix.SIGCONT); err != nil {
		o.t.Fatal(err)
	}
}

// silence asks for addr all the time until its lease is over and nobody answers
// any more, and returns when the last answer came.
func (h *host) silence(addr netip.Addr, until fleet.Moment) (last fleet.Moment) {
	h.t.Helper()
	e, w, index, mac := h.listen(), h.wire(), h.index(), h.mac()
	defer e.file.Close()
	defer w.close()
	end := Now().Add(bound)
	for unanswered := 0; unanswered < 200 || Now().Before(until); unanswered++ {
		if Now().After(end) {
			h.t.Fatalf("%s still answers after %s", addr, bound)
		}
		if err := w.sendARP(hostB, addr, index, mac); err != nil {
			h.t.Fatal(err)
		}
		for {
			f, ok := e.next(500 * time.Microsecond)
			if !ok {
				break
			}
			if f.sender == addr && f.op == 2 {
				last, unanswered = f.at, 0
			}
		}
	}
	return last
}

// A frozen agent's addresses fall silent by the guard alone: the test makes them
// permanent, so that no lifetime can have done it.
func TestFrozenHolderFallsSilent(t *testing.T) {
	hosts := newNetwork(t, 2)
	a, b := hosts[0], hosts[1]
	o := a.holder(long)
	for _, addr := range []netip.Addr{v4, v6} {
		if !b.ping(addr, bound) {
			t.Fatalf("%s does not answer", addr)
		}
	}
	o.freeze()
	for _, addr := range []netip.Addr{v4, v6} {
		p := &netlink.Addr{IPNet: prefix(addr, addr.BitLen()), LinkIndex: a.index(), Flags: unix.IFA_F_NODAD}
		if addr.Is4() {
			p.Flags = 0
		}
		if err := a.rt.AddrReplace(nil, p); err != nil {
			t.Fatal(err)
		}
	}
	last := b.silence(v4, o.until)
	t.Logf("silent %s after the lease", last.Sub(o.until))
	for _, addr := range []netip.Addr{v4, v6} {
		if !a.has(addr) {
			t.Fatalf("%s is gone: it was not the guard", addr)
		}
		b.pin(addr, a.mac())
		if b.ping(addr, 300*time.Millisecond) {
			t.Errorf("%s answers who knows where it is", addr)
		}
	}
	// Continued, the agent finds itself too late and never speaks again.
	o.thaw()
	o.wait("too late")
	if f, ok := b.askARP(hostB, v4, 200*time.Millisecond); ok {
		t.Errorf("the continued agent speaks: %+v", f)
	}
}

// If the rule set is flushed and the agent freezes within the same beat, the
// lifetime of the addresses ends them (HOLES 23).
func TestLifetimeEndsWhatTheGuardCannot(t *testing.T) {
	hosts := newNetwork(t, 2)
	a, b := hosts[0], hosts[1]
	o := a.holder(long)
	o.freeze()
	a.nft(func(c *nftables.Conn) { c.FlushRuleset() })
	last := b.silence(v4, o.until)
	t.Logf("silent %s after the lease", last.Sub(o.until))
	eventually(t, "the addresses are gone", func() bool { return !a.has(v4) && !a.has(v6) })
	o.thaw()
	o.wait("too late")
	if f, ok := b.askARP(hostB, v4, 200*time.Millisecond); ok {
		t.Errorf("the continued agent speaks: %+v", f)
	}
}

// BenchmarkSilence measures how long after the end of its lease a frozen holder's
// address still answers ARP: -bench Silence -benchtime 20x.
func BenchmarkSilence(b *testing.B) {
	var late []time.Duration
	for range b.N {
		hosts := newNetwork(b, 2)
		o := hosts[0].holder(lease)
		o.freeze()
		late = append(late, hosts[1].silence(v4, o.until).Sub(o.until))
	}
	slices.Sort(late)
	b.ReportMetric(float64(late[len(late)/2])/1e6, "median-ms")
	b.ReportMetric(float64(late[len(late)-1])/1e6, "worst-ms")
	b.Log(late)
}
