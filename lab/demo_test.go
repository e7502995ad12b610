package lab

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/api"
	"mainstay/fleet"
)

// at is a moment of a made-up history, in milliseconds after the fault.
func at(ms int64) time.Time { return time.UnixMilli(1_000_000 + ms) }

func event(ms int64, kind, about, text string) fleet.Event {
	return fleet.Event{At: at(ms), Kind: kind, About: about, Text: text}
}

// TestTimeline: every step of a fault is an event of the sort that its name says,
// none is older than the fault, and what moved is what the victim held.
func TestTimeline(t *testing.T) {
	lost := []fleet.Event{
		event(-50, "verdict", "host/c1", "c1 is suspect: before the fault"),
		event(120, "observation", "host/c1", "c2 hears nothing of it"),
		event(150, "verdict", "host/c1", "c1 is suspect: three beats missed on every network"),
		event(255, "leader", "leader", "c2 leads in epoch 8"),
		event(330, "verdict", "host/c1", "c1 is lapsed: c2, c3 promised"),
		event(331, "record", "address/public", "address/public goes to c3"),
		event(332, "order", "address/public", "c1 shall release address/public: the record says c3"),
		event(333, "order", "address/public", "c3 shall claim address/public: c1 is lapsed"),
		event(334, "effect", "address/public", "c3: claim address/public: unknown"),
		event(340, "effect", "address/public", "c3: claim address/public: done"),
		event(900, "verdict", "host/c1", "c1 is dead: its BMC said off twice"),
	}
	hung := []fleet.Event{
		event(100, "order", "route/c1", "c1: routing table 1"),
		event(110, "observation", "route/c1", "c1: its HAProxy follows routing table 1"),
		event(700, "observation", "keystone@c3", "c3 says of its keystone: hung: no answer"),
		event(701, "order", "route/c2", "c2: routing table 2"),
		event(702, "order", "route/c1", "c1: routing table 2"),
		event(703, "observation", "route/c2", "c2: its HAProxy follows routing table 2"),
		event(710, "observation", "route/c1", "c1: its HAProxy follows routing table 2"),
	}
	for name, x := range map[string]struct {
		got  []Step
		want string
	}{
		"an address":        {lossSteps(lost, at(0), "c1", "address/public"), "seen +150, new leader +255, judged +330, decided +331, ordered +333, taken over +340"},
		"the lead alone":    {lossSteps(lost, at(0), "c1", "leader"), "seen +150, new leader +255, taken over +255, judged +330"},
		"another thing":     {lossSteps(lost, at(0), "c1", "address/internal"), "seen +150, new leader +255, judged +330"},
		"a hung service":    {hangSteps(hung, at(0), "keystone", "c3", "c1"), "seen +700, judged +700, decided +702, taken over +710"},
		"another that hung": {hangSteps(hung, at(0), "keystone", "c2", "c1"), ""},
	} {
		if got := brief(x.got, at(0)); got != x.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, x.want)
		}
	}
	status := api.Status{Holdings: []api.HoldingStatus{
		{Thing: "address/internal", Host: "c1"}, {Thing: "address/public", Host: "c2"}, {Thing: "service/solo", Host: "c2"},
		{Thing: "address/internal6", Host: "c1"}, {Thing: "service/other", Host: "c3"},
	}}
	for host, want := range map[string]string{"c1": "address/internal", "c2": "address/public", "c3": "service/other", "c4": "leader"} {
		if got := followed(status, host); got != want {
			t.Errorf("the loss of %s is told by %s, want %s", host, got, want)
		}
	}
}

// TestAnswered: the end of the client's gap is in the timeline, also when no try of
// it failed and when it still asks.
func TestAnswered(t *testing.T) {
	try := func(ms int64, ok bool) Try { return Try{Begun: at(ms), Took: 5 * time.Millisecond, OK: ok} }
	for name, x := range map[string]struct {
		tries []Try
		want  int64 // ms after the fault; 0: not answered
	}{
		"a gap":           {[]Try{try(-20, true), try(0, false), try(20, false), try(400, true), try(420, true), try(600, false), try(640, true)}, 405},
		"here and there":  {[]Try{try(-20, true), try(0, true), try(20, false), try(40, true), try(60, false), try(80, true), try(160, true)}, 85},
		"no failure":      {[]Try{try(-20, true), try(10, true), try(80, true)}, 15},
		"not yet":         {[]Try{try(-20, true), try(0, false), try(20, false), try(200, false)}, 0},
		"nothing is said": {nil, 0},
	} {
		s, ok := answered(x.tries, at(0), ProbePatience)
		if ok != (x.want != 0) || ok && !s.At.Equal(at(x.want)) {
			t.Errorf("%s: %v %v, want +%d ms", name, s, ok, x.want)
		}
	}
}

// TestInterrupted: the real program, told to stop in the middle, takes its lab away
// and does not end as if all were well. With -faults it is stopped once more in the
// midst of the first fault.
func TestInterrupted(t *testing.T) {
	if testing.Short() {
		t.Skip("boots three hosts")
	}
	binary := build(t.Context(), t, "one")
	t.Run("before there is a lab", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), binary, "demo", "--name", "demonone", "--suite", "no-such-suite", "--keep").CombinedOutput()
		if err == nil || strings.Contains(string(out), "still there") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("while it is built", func(t *testing.T) { interrupt(t, binary, "begins the site") })
	if *faults {
		t.Run("in the midst of a fault", func(t *testing.T) { interrupt(t, binary, "== the host that holds the internal address loses power") })
	}
}

// interrupt starts a demo and sends it SIGINT as soon as it says some words.
func interrupt(t *testing.T, binary, words string) {
	const name = "demointr"
	if err := Down(t.Context(), name); err != nil { // of a run that was killed
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Down(context.WithoutCancel(t.Context()), name); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*siteBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "demo", "--name", name)
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var l *Lab
	var said strings.Builder
	for in := bufio.NewScanner(errs); in.Scan(); {
		said.WriteString(in.Text() + "\n")
		if l != nil || !strings.Contains(in.Text(), words) {
			continue
		}
		if l, err = Open(name); err != nil {
			t.Error(err)
		}
		if err := cmd.Process.Signal(unix.SIGINT); err != nil {
			t.Error(err)
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(said.String(), "interrupted") {
		t.Errorf("it ends with %v\n%s", err, said.String())
	}
	if l == nil {
		t.Fatalf("it never said %q:\n%s", words, said.String())
	}
	if left, err := l.Leftovers(); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(StateDir, name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lab's folder: %v", err)
	}
}
