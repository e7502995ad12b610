package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/service"
	"mainstay/store"
)

// successorMark makes this test binary what succeed starts.
const successorMark = "MAINSTAY_TEST_SUCCESSOR"

func TestMain(m *testing.M) {
	switch os.Getenv(successorMark) {
	case "ready":
		if err := prepared(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		time.Sleep(time.Minute) // until it is killed
	case "broken":
		os.Exit(7)
	case "hangs":
		time.Sleep(time.Minute)
	default:
		os.Exit(m.Run())
	}
}

// TestSucceed: only a successor that has said that it is ready takes over; of any
// other nothing is left.
func TestSucceed(t *testing.T) {
	t.Run("ready", func(t *testing.T) {
		t.Setenv(successorMark, "ready")
		pid, err := succeed(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p, err := os.FindProcess(pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(); err != nil {
			t.Errorf("the successor does not run: %v", err)
		}
		_, _ = p.Wait()
	})
	t.Run("broken", func(t *testing.T) {
		t.Setenv(successorMark, "broken")
		if _, err := succeed(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 7") {
			t.Errorf("a program that ends at once took over: %v", err)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		t.Setenv(successorMark, "hangs")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := succeed(ctx); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("a program that never gets ready took over: %v", err)
		}
	})
}

// TestPart: who is succeeded waits for nothing that runs beside the agent, for a lease is running out.
func TestPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n node
		var wait sync.WaitGroup
		wait.Go(func() { time.Sleep(time.Second) })
		begun := time.Now()
		n.succeeded.Store(true)
		n.part(&wait)
		if took := time.Since(begun); took != 0 {
			t.Errorf("another process had to wait for %v", took)
		}
		n.succeeded.Store(false)
		n.part(&wait)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("a process that nobody succeeds ended after %v, before what it had started", took)
		}
	})
}

// TestOfferTooLate: a process in whose place another goes on takes no file any more, whatever it was
// still checking: the other may have a newer one.
func TestOfferTooLate(t *testing.T) {
	dir := t.TempDir()
	text := fleet.Template("beijing", netip.MustParsePrefix("10.0.0.0/24"), service.Catalogue())
	n := &node{cfg: Config{Config: dir, Run: dir}, host: read(t, text).Hosts[0].Name}
	if err := os.WriteFile(n.cfg.siteFile(), []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	n.succeeded.Store(true)
	if err := n.OfferSite(t.Context(), api.SiteOffer{Text: text + "\n"}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("it was taken: %v", err)
	}
	if now, err := os.ReadFile(n.cfg.siteFile()); err != nil || string(now) != text {
		t.Errorf("it is in place: %v", err)
	}
}

func read(t *testing.T, text string) fleet.Spec {
	t.Helper()
	spec, faults := fleet.Read("site.yaml", []byte(text), service.Catalogue())
	if wrong := faults.Errors(); len(wrong) > 0 {
		t.Fatal(wrong)
	}
	return spec
}

// TestChanges: a preview names what comes, what goes, and what is changed how.
func TestChanges(t *testing.T) {
	before := read(t, fleet.Template("beijing", netip.MustParsePrefix("10.0.0.0/24"), service.Catalogue()))
	if got := changes(before, before); got != nil {
		t.Errorf("no change, and yet: %q", got)
	}
	after := before
	after.Mode = "shadow"
	after.Hosts = append([]fleet.Host{}, before.Hosts...)
	gone := after.Hosts[len(after.Hosts)-1].Name
	after.Hosts[len(after.Hosts)-1].Name = "new"
	after.Services = append([]fleet.Service{}, before.Services...)
	after.Services[0].Restarts.Count = 42
	was := before.Services[0]
	want := []string{
		"host " + gone + " goes", "host new is new",
		fmt.Sprintf(`service %s: restarts is {"count":42,"within":%d}, was {"count":%d,"within":%d}`, was.Name, was.Restarts.Within, was.Restarts.Count, was.Restarts.Within),
		`site: mode is "shadow", was "` + before.Mode + `"`,
	}
	if before.Hosts[len(before.Hosts)-1].Voter {
		want = append(want, fmt.Sprintf("site: voters is %s, was %s", text(after.Voters()), text(before.Voters())))
	}
	if diff := cmp.Diff(want, changes(before, after)); diff != "" {
		t.Error(diff)
	}
}

// TestUnsafe: a site that acts does not go back to shadow while it has addresses: they
// would be nobody's, with the guard shut for whoever else takes them.
func TestUnsafe(t *testing.T) {
	now := read(t, fleet.Template("beijing", netip.MustParsePrefix("10.0.0.0/24"), service.Catalogue()))
	now.Mode = "act"
	shadow := now
	shadow.Mode = "shadow"
	thing := now.Addresses[0].Thing()
	held := fleet.State{Holdings: map[string]fleet.Holding{thing: {Thing: thing, Host: "c1"}}}
	if out := unsafe(now, shadow, held, nil); len(out) != 1 || !strings.Contains(out[0], thing+", which c1 has") {
		t.Errorf("to shadow with %s held: %q", thing, out)
	}
	for name, out := range map[string][]string{
		"nobody holds it": unsafe(now, shadow, fleet.State{}, nil),
		"from shadow":     unsafe(shadow, now, held, nil),
		"nothing changes": unsafe(now, now, held, nil),
	} {
		if len(out) > 0 {
			t.Errorf("%s: %q", name, out)
		}
	}
	armed := now
	armed.Hosts = append([]fleet.Host{}, now.Hosts...)
	armed.Hosts[0].Watchdog = fleet.Watchdog{Device: "/dev/watchdog", Timeout: fleet.WatchdogTimeout}
	kicks := map[string]fleet.Report{armed.Hosts[0].Name: {Watchdog: fleet.WatchdogTimeout}}
	if out := unsafe(armed, now, fleet.State{}, kicks); len(out) != 1 || !strings.Contains(out[0], "/dev/watchdog of "+armed.Hosts[0].Name) {
		t.Errorf("an armed watchdog is taken out of the file: %q", out)
	}
	stopped := map[string]fleet.Report{armed.Hosts[0].Name: {Watchdog: fleet.WatchdogTimeout, Leaving: true}}
	if out := unsafe(armed, now, fleet.State{}, stopped); len(out) > 0 {
		t.Errorf("its agent was stopped in good order: %q", out)
	}
	if out := unsafe(armed, now, fleet.State{}, nil); len(out) > 0 {
		t.Errorf("one that is not armed: %q", out)
	}
	bare := shadow
	bare.Addresses = nil
	if out := unsafe(now, bare, held, nil); len(out) > 0 {
		t.Errorf("without addresses: %q", out)
	}
}

// TestForgotten: a bar goes with the service, with its kind, its mode and its home, or
// nothing would start it after the next boot.
func TestForgotten(t *testing.T) {
	spec := func(v ...fleet.Service) fleet.Spec { return fleet.Spec{Services: v} }
	was := fleet.Service{Name: "mariadb", Kind: "galera", Mode: fleet.ActiveActive, Hosts: []string{"c1", "c2"}}
	kind, mode, home := was, was, was
	kind.Kind, mode.Mode, home.Hosts = "systemd", fleet.ActivePassive, []string{"c2"}
	for name, c := range map[string]struct {
		now  fleet.Spec
		host string
		want bool
	}{
		"as before": {spec(was), "c1", false}, "left out": {spec(), "c1", true}, "another kind": {spec(kind), "c1", true}, "another mode": {spec(mode), "c1", true},
		"no home any more": {spec(home), "c1", true}, "never was one": {spec(), "c9", false},
	} {
		if got := forgotten(spec(was), c.now, was, c.host); got != c.want {
			t.Errorf("%s: forgotten is %v", name, got)
		}
	}
}

// TestWishesInShadow: what would come true on the day when the site begins to act is not
// taken; what a person may take back then is.
func TestWishesInShadow(t *testing.T) {
	n := &node{spec: fleet.Spec{Mode: "shadow", Hosts: []fleet.Host{{Name: "c1"}}}, store: &store.Client{}}
	for _, verb := range []string{"move", "oath", "reset", "without", "stop", "restart"} {
		var refusal *api.Refusal
		if err := n.Wish(t.Context(), fleet.Wish{Verb: verb, Host: "c1"}); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "shadow") {
			t.Errorf("a wish for %s: %v", verb, err)
		}
	}
}

// TestShadowArmsNoWatchdog: it would reset a host for what others run there.
func TestShadowArmsNoWatchdog(t *testing.T) {
	h := fleet.Host{Watchdog: fleet.Watchdog{Device: "/dev/watchdog"}}
	if watchdogOf(h, "shadow") != nil || watchdogOf(h, "act") == nil || watchdogOf(fleet.Host{}, "act") != nil {
		t.Error("a watchdog is armed where the site acts and its file names one, and nowhere else")
	}
}

// TestWishID: a wish to move is found by the name that a person gave the thing.
func TestWishID(t *testing.T) {
	wishes := map[string]fleet.Wish{moveID("address/internal"): {}, moveID("service/flush"): {}, "disarm": {}}
	for given, want := range map[string]string{
		"move-internal": "move-address-internal", "move-address/internal": "move-address-internal", "move-flush": "move-service-flush",
		"move-address-internal": "move-address-internal", "disarm": "disarm",
	} {
		if got, ok := wishID(wishes, given); !ok || got != want {
			t.Errorf("%s: %s, %v; want %s", given, got, ok, want)
		}
	}
	if got, ok := wishID(wishes, "move-public"); ok {
		t.Errorf("nobody wishes it, and yet: %s", got)
	}
}

// TestClusterIsReplacedWhole: what a reader, or a power cut, finds is the one or the other.
func TestClusterIsReplacedWhole(t *testing.T) {
	c := Config{State: t.TempDir()}
	if err := (Cluster{Cluster: "c1=https://10.0.0.1:7402"}).Save(c); err != nil {
		t.Fatal(err)
	}
	former := c.clusterFile() + ".former" // the same file under another name: it must not be written to
	if err := os.Link(c.clusterFile(), former); err != nil {
		t.Fatal(err)
	}
	if err := (Cluster{Cluster: "c1=https://10.0.0.1:7402,c2=https://10.0.0.2:7402", Join: true}).Save(c); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{former: false, c.clusterFile(): true} {
		var k Cluster
		raw, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(raw, &k)
		}
		if err != nil || k.Join != want {
			t.Errorf("%s: %+v, %v", path, k, err)
		}
	}
}
