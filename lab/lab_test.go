package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"mainstay/fence/falsebmc"
)

// TestMain lets the test binary be what Up starts: the process of the BMCs; and
// what testCrash kills: a process that brings a lab up, or takes it down.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "lab" {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
		defer stop()
		var err error
		switch os.Args[2] {
		case "bmc":
			err = BMCDaemon(ctx, os.Args[3])
		case "up":
			_, err = Up(ctx, small(os.Args[3]), func(s string) { fmt.Println(s) })
		case "down":
			err = Down(ctx, os.Args[3])
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	switch {
	case os.Getpid() == 1:
		machineInit()
	case os.Getenv(machineTalks) != "":
		machineTalk()
	case os.Getenv(machineServes) != "":
		machineServe()
	default:
		os.Exit(m.Run())
	}
}

// small is a lab of two hosts.
func small(name string) Config {
	return Config{Name: name, Hosts: []Host{{Name: "c1"}, {Name: "c2"}}, Disk: 1 << 30}
}

// up brings a new lab up for a test, and takes it down at its end. One of this name
// that a killed run has left goes first: Up would go on with its disks. A run that
// still has it is waited for.
func up(t *testing.T, cfg Config) *Lab {
	t.Helper()
	if err := os.MkdirAll(StateDir, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := hold(t.Context(), filepath.Join(StateDir, ".test-"+cfg.Name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(unlock)
	down := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := Down(ctx, cfg.Name); err != nil {
			t.Error(err)
		}
	}
	down()
	t.Cleanup(down)
	l, err := Up(t.Context(), cfg, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestLab shares one lab among all that does not need its own.
func TestLab(t *testing.T) {
	layer := t.TempDir()
	if err := os.MkdirAll(filepath.Join(layer, "opt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(layer, "opt/layer"), []byte("from the layer"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := small("labtest")
	cfg.Layers = []string{layer}
	cfg.Files = map[string]File{
		"/etc/mainstay/site.yaml": {Data: []byte("site: lab\n"), Mode: 0o600, Owner: "nobody:nogroup"},
		"/opt/link":               {Link: "layer"},
	}
	cfg.Hosts[1].Files = map[string]File{"/etc/mainstay/site.yaml": {Data: []byte("site: c2\n")}}
	l := up(t, cfg)

	t.Run("Boot", func(t *testing.T) { testBoot(t, l) })
	t.Run("Cut", func(t *testing.T) { testCut(t, l) })
	t.Run("Hang", func(t *testing.T) { testHang(t, l) })
	t.Run("PowerCutLosesWhatWasNotFsynced", func(t *testing.T) { testPowerCut(t, l) })
	t.Run("Disk", func(t *testing.T) { testDisk(t, l) })
	t.Run("BMC", func(t *testing.T) { testBMC(t, l) })
	t.Run("EndedByItself", func(t *testing.T) { testEnded(t, l) })
	t.Run("Play", func(t *testing.T) { testPlay(t, l) })
	t.Run("UpAgain", func(t *testing.T) {
		kill(t, l, "c2")
		again, err := Up(t.Context(), Config{Name: l.Name}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if st := status(t, again, "c2"); st.State != "running" {
			t.Errorf("after a second Up c2 is %s", st.State)
		}
		if _, err := Up(t.Context(), Config{Name: l.Name, Hosts: []Host{{Name: "x1"}}}, nil); err == nil {
			t.Error("Up with other hosts is no error")
		}
	})
	// Last: a second lab beside this one, whose maker is killed again and again.
	t.Run("Crash", func(t *testing.T) { testCrash(t, l) })
}

func run1(t *testing.T, l *Lab, host string, argv ...string) string {
	t.Helper()
	out, err := l.Run(t.Context(), host, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func status(t *testing.T, l *Lab, host string) HostStatus {
	t.Helper()
	st, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range st.Hosts {
		if h.Name == host {
			return h
		}
	}
	t.Fatalf("no %s in %+v", host, st)
	return HostStatus{}
}

func kill(t *testing.T, l *Lab, host string) {
	t.Helper()
	d, err := l.Kill(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("killed %s in %s", host, d.Took)
}

func start(t *testing.T, l *Lab, host string) {
	t.Helper()
	began := time.Now()
	if _, err := l.Start(t.Context(), host); err != nil {
		t.Fatal(err)
	}
	if state, err := l.Booted(t.Context(), host); err != nil || state != "running" {
		text, _ := l.Console(host, 50)
		t.Fatalf("%s is %q: %v\n%s", host, state, err, text)
	}
	t.Logf("%s booted in %s", host, time.Since(began))
}

func testBoot(t *testing.T, l *Lab) {
	c1, c2 := status(t, l, "c1"), status(t, l, "c2")
	for _, h := range []HostStatus{c1, c2} {
		t.Logf("%s: %d processes, %d MB", h.Name, h.Processes, h.Memory>>20)
		if h.State != "running" || h.Power != PowerOn || h.Leader == 0 {
			t.Errorf("%s: %+v", h.Name, h)
		}
		if got := run1(t, l, h.Name, "cat", "/run/host/container-uuid"); got != h.UUID {
			t.Errorf("%s sees UUID %s, not %s", h.Name, got, h.UUID)
		}
		if got := run1(t, l, h.Name, "hostname"); got != h.Name {
			t.Errorf("%s is called %s", h.Name, got)
		}
	}
	mine, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	if b := strings.TrimSpace(string(mine)); c1.Boot == c2.Boot || c1.Boot == b || c2.Boot == b {
		t.Errorf("boots are not each its own: machine %s, c1 %s, c2 %s", b, c1.Boot, c2.Boot)
	}
	if got := run1(t, l, "c1", "stat", "-c", "%U:%G %a", "/etc/mainstay/site.yaml"); got != "nobody:nogroup 600" {
		t.Errorf("the file belongs to %s", got)
	}
	if got := run1(t, l, "c2", "cat", "/etc/mainstay/site.yaml"); got != "site: c2" {
		t.Errorf("c2's own file says %q", got)
	}
	if got := run1(t, l, "c1", "cat", "/opt/link"); got != "from the layer" {
		t.Errorf("through the link: %q", got)
	}
	run1(t, l, "c1", "busctl", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.DBus.Peer", "Ping")
	// What the kernel guard of an address needs.
	run1(t, l, "c1", "nft", `add table inet x; add set inet x held { type ipv4_addr; flags timeout; }
		add element inet x held { 10.0.0.1 timeout 1s }
		add chain inet x in { type filter hook input priority 0; ct state established accept; }
		add table arp x; add chain arp x out { type filter hook output priority 0; }
		delete table inet x; delete table arp x`)

	for _, host := range []string{"c1", "c2"} {
		for _, a := range []netip.Addr{
			c1.Addresses["management"].V4.Addr(), c1.Addresses["storage"].V6.Addr(),
			c2.Addresses["management"].V6.Addr(), c2.Addresses["tenant"].V4.Addr(),
			l.Client.Addresses["management"].V4.Addr(), l.Networks[0].V6.Addr(), c1.BMC.Address, c2.BMC.Address,
		} {
			run1(t, l, host, "ping", "-n", "-c1", "-W5", a.String())
		}
	}
	for _, a := range []netip.Addr{c1.Addresses["management"].V4.Addr(), c2.Addresses["management"].V6.Addr()} {
		if !refuses(t, l, a) {
			t.Errorf("the client does not reach %s", a)
		}
	}
	if err := l.CopyIn("c1", "/run/deep/file", []byte("x"), 0o640); err != nil {
		t.Error(err)
	}
	dir, err := l.HostPath("c1")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "run/deep/file")); err != nil || string(data) != "x" {
		t.Errorf("from outside: %q, %v", data, err)
	}
	var out bytes.Buffer
	err = l.Exec(t.Context(), "c1", []string{"sh", "-c", "cat; exit 7"}, strings.NewReader("through"), &out, nil)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 7 || out.String() != "through" {
		t.Errorf("exec: %q, %v", out.String(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if err := l.Exec(ctx, "c1", []string{"sleep", "1000"}, nil, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("exec that was cancelled: %v", err)
	}
	err = waitFor(t.Context(), patience, "the cancelled program to end", func() (bool, error) {
		_, err := l.Run(t.Context(), "c1", "pgrep", "-x", "sleep")
		return err != nil, nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := l.Run(t.Context(), "c9", "true"); err == nil || !strings.Contains(err.Error(), "c1, c2 and client") {
		t.Errorf("an unknown host: %v", err)
	}
}

// refuses says whether a host answers the client, by refusing a connection.
func refuses(t *testing.T, l *Lab, a netip.Addr) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	conn, err := l.Dial(ctx, Client, "tcp", netip.AddrPortFrom(a, 9).String())
	if err == nil {
		conn.Close()
		t.Fatalf("something listens at %s port 9", a)
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// A voice sends and hears broadcasts on one network; they need no ARP, which a
// one-way cut would disturb too.
type voice struct {
	t    *testing.T
	conn *net.UDPConn
	to   *net.UDPAddr
}

func newVoice(t *testing.T, l *Lab, host string) *voice {
	v := &voice{t: t, to: &net.UDPAddr{IP: net.IPv4(10, byte(l.Block), 0, 255), Port: 9}}
	err := inNetns(l.netns(host), func() error {
		c, err := net.ListenUDP("udp4", v.to)
		v.conn = c
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := v.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.conn.Close() })
	return v
}

func (v *voice) say(word string) {
	v.t.Helper()
	if _, err := v.conn.WriteToUDP([]byte(word), v.to); err != nil {
		v.t.Fatal(err)
	}
}

// until returns what is heard until all of last, which must come, were heard.
func (v *voice) until(last []string) []string {
	v.t.Helper()
	var out []string
	b := make([]byte, 100)
	v.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for len(last) > 0 {
		n, _, err := v.conn.ReadFromUDP(b)
		if err != nil {
			v.t.Fatalf("never heard %q, only %q: %v", last, out, err)
		}
		word := string(b[:n])
		out = append(out, word)
		last = slices.DeleteFunc(last, func(w string) bool { return w == word })
	}
	return out
}

func testCut(t *testing.T, l *Lab) {
	voices := map[string]*voice{}
	for _, host := range []string{"c1", "c2", Client} {
		voices[host] = newVoice(t, l, host)
	}
	const all = "c1>c2 c1>client c2>c1 c2>client client>c1 client>c2"
	for i, c := range []struct {
		cut  Cut
		left string // who still hears whom
	}{
		{Cut{}, all},
		{Cut{Direction: Out}, "c2>c1 c2>client client>c1 client>c2"},
		{Cut{Direction: In}, "c1>c2 c1>client c2>client client>c2"},
		{Cut{Direction: Both}, "c2>client client>c2"},
		{Cut{Direction: Both, Peer: "c2"}, "c1>client c2>client client>c1 client>c2"},
		{Cut{Direction: Out, Peer: "c2"}, "c1>client c2>c1 c2>client client>c1 client>c2"},
		{Cut{Direction: In, Peer: "c2"}, "c1>c2 c1>client c2>client client>c1 client>c2"},
	} {
		if c.cut.Direction != "" {
			c.cut.Host, c.cut.Network = "c1", "management"
			if _, err := l.Cut(t.Context(), c.cut); err != nil {
				t.Fatal(err)
			}
		}
		// Everybody says a word; whether it was heard shows once each one's last
		// word, said after the healing, has come through behind it.
		word := func(who string) string { return fmt.Sprintf("%s %d", who, i) }
		for who, v := range voices {
			v.say(word(who))
		}
		if _, err := l.Heal(t.Context(), "c1", "management"); err != nil {
			t.Fatal(err)
		}
		for who, v := range voices {
			v.say(word("last of " + who))
		}
		var left []string
		for listener, v := range voices {
			var last []string
			for who := range voices {
				if who != listener {
					last = append(last, word("last of "+who))
				}
			}
			heard := v.until(last)
			for who := range voices {
				if who != listener && slices.Contains(heard, word(who)) {
					left = append(left, who+">"+listener)
				}
			}
		}
		slices.Sort(left)
		if got := strings.Join(left, " "); got != c.left {
			t.Errorf("%+v:\n got %s\nwant %s", c.cut, got, c.left)
		}
	}

	// A cut lasts over a power cut; other networks are not concerned.
	if _, err := l.Cut(t.Context(), Cut{Host: "c2", Network: "storage", Direction: Link}); err != nil {
		t.Fatal(err)
	}
	kill(t, l, "c2")
	start(t, l, "c2")
	if got := run1(t, l, "c2", "cat", "/sys/class/net/storage/carrier"); got != "0" {
		t.Errorf("the pulled cable has carrier %s", got)
	}
	if got := run1(t, l, "c2", "cat", "/sys/class/net/tenant/carrier"); got != "1" {
		t.Errorf("another cable has carrier %s", got)
	}
	if _, err := l.Heal(t.Context(), "c2", All); err != nil {
		t.Fatal(err)
	}
	if cuts, err := l.Cuts(); err != nil || len(cuts) > 0 {
		t.Errorf("after healing: %v, %v", cuts, err)
	}
	if got := run1(t, l, "c2", "cat", "/sys/class/net/storage/carrier"); got != "1" {
		t.Errorf("the cable is in again, but carrier %s", got)
	}
	if _, err := l.Cut(t.Context(), Cut{Host: "c1", Network: "nowhere"}); err == nil {
		t.Error("cut of an unknown network is no error")
	}
}

func testHang(t *testing.T, l *Lab) {
	run1(t, l, "c1", "systemd-run", "--unit=worker", "sh", "-c", "sleep 1000 & sleep 1000 & wait")
	defer l.Run(context.Background(), "c1", "systemctl", "stop", "worker")
	states := func(list []int) string {
		var out []byte
		for _, pid := range list {
			s, err := stat(pid)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, map[bool]byte{true: 'T', false: '-'}[s.state == 'T'])
		}
		return string(out)
	}
	var workers []int
	err := waitFor(t.Context(), patience, "three processes", func() (done bool, err error) {
		workers, err = l.UnitPIDs("c1", "worker")
		return len(workers) == 3, err
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := l.Processes("c1", All)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ hang, workers string }{
		{"worker#1", "-T-"},
		{"worker.service#0", "T--"},
		{"worker", "TTT"},
		{fmt.Sprintf("pid:%d", workers[2]), "--T"},
		{All, "TTT"},
	} {
		if _, err := l.Hang(t.Context(), "c1", c.hang); err != nil {
			t.Fatal(err)
		}
		if got := states(workers); got != c.workers {
			t.Errorf("after hang %s: %s, want %s", c.hang, got, c.workers)
		}
		if c.hang == All {
			if got, want := states(all), strings.Repeat("T", len(all)); got != want {
				t.Errorf("the whole host: %s", got)
			}
			if st := status(t, l, "c1"); st.State != "hung" {
				t.Errorf("the status of a hung host is %s", st.State)
			}
		}
		if _, err := l.Resume(t.Context(), "c1", c.hang); err != nil {
			t.Fatal(err)
		}
		if got := states(workers); got != "---" {
			t.Errorf("after resume %s: %s", c.hang, got)
		}
	}
	for _, bad := range []string{"nothing", "worker#3", "pid:1", "pid:x"} {
		if _, err := l.Hang(t.Context(), "c1", bad); err == nil {
			t.Errorf("hang %s is no error", bad)
		}
	}
}

func testPowerCut(t *testing.T, l *Lab) {
	before := status(t, l, "c1")
	// Old files first, which are on the disk, so that what is lost is the writing
	// alone; then the same with and without fsync.
	run1(t, l, "c1", "sh", "-c", `cd /var/lib; for f in kept lost; do echo old >$f; done; sync
		echo new >kept; sync kept; echo new >lost`)
	if got := run1(t, l, "c1", "cat", "/var/lib/lost"); got != "new" {
		t.Fatalf("before the cut: %q", got)
	}
	kill(t, l, "c1")
	if on, err := l.Powered("c1"); err != nil || on {
		t.Errorf("after a power cut it is on: %v, %v", on, err)
	}
	if refuses(t, l, before.Addresses["management"].V4.Addr()) {
		t.Error("a host without power answers")
	}
	if text, err := l.Console("c1", 5); err != nil || !strings.Contains(text, "systemd") {
		t.Errorf("console of a dead host: %q, %v", text, err)
	}
	start(t, l, "c1")
	if got := run1(t, l, "c1", "cat", "/var/lib/kept"); got != "new" {
		t.Errorf("what was fsynced is %q", got)
	}
	if got := run1(t, l, "c1", "cat", "/var/lib/lost"); got == "new" {
		t.Error("what was not fsynced survived")
	}
	after := status(t, l, "c1")
	if after.Boot == before.Boot || after.UUID != before.UUID {
		t.Errorf("boot %s -> %s, UUID %s -> %s", before.Boot, after.Boot, before.UUID, after.UUID)
	}
	if _, err := l.Start(t.Context(), "c1"); err != nil {
		t.Error(err)
	}
	if again := status(t, l, "c1"); again.Boot != after.Boot {
		t.Error("starting a running host restarted it")
	}
}

func testDisk(t *testing.T, l *Lab) {
	if _, err := l.Hang(t.Context(), "c1", Disk); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := l.Run(t.Context(), "c1", "sh", "-c", "echo x >/var/lib/slow && sync /var/lib/slow")
		written <- err
	}()
	waiting := func() (bool, error) {
		all, err := l.Processes("c1", All)
		for _, pid := range all {
			if s, err := stat(pid); err == nil && s.state == 'D' {
				return true, nil
			}
		}
		return false, err
	}
	if err := waitFor(t.Context(), patience, "a writer that waits", waiting); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Resume(t.Context(), "c1", Disk); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}

	if _, err := l.FailDisk(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if out, err := l.Run(t.Context(), "c1", "sh", "-c", "echo x >/var/lib/never"); err == nil || !strings.Contains(err.Error(), "Input/output error") {
		t.Errorf("a write to the failed disk: %q, %v", out, err)
	}
	if st := status(t, l, "c1"); st.Processes == 0 || st.State == "off" {
		t.Errorf("with a failed disk the host is %s", st.State)
	}
	kill(t, l, "c1")
	start(t, l, "c1")

	// A host can lose its power also while its disk hangs.
	if _, err := l.Hang(t.Context(), "c1", Disk); err != nil {
		t.Fatal(err)
	}
	go l.Run(t.Context(), "c1", "touch", "/var/lib/waits")
	if err := waitFor(t.Context(), patience, "a writer that waits", waiting); err != nil {
		t.Fatal(err)
	}
	kill(t, l, "c1")
	start(t, l, "c1")
}

func testBMC(t *testing.T, l *Lab) {
	c1 := status(t, l, "c1")
	pem, err := os.ReadFile(l.Path("bmc.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{
		// From c2, as its agent would ask.
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return l.Dial(ctx, "c2", network, address)
		},
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		DisableKeepAlives: true,
	}}
	ask := func(ctx context.Context, method, path, body string) (map[string]any, error) {
		req, err := http.NewRequestWithContext(ctx, method, c1.BMC.URL()+path, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.SetBasicAuth(c1.BMC.User, c1.BMC.Password)
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode >= 300 {
			err = fmt.Errorf("%s: %s", resp.Status, data)
		}
		var out map[string]any
		if err == nil && len(data) > 0 {
			err = json.Unmarshal(data, &out)
		}
		return out, err
	}
	const system = "/redfish/v1/Systems/1"
	expect := func(power string) {
		t.Helper()
		got, err := ask(t.Context(), "GET", system, "")
		if err != nil {
			t.Fatal(err)
		}
		if got["PowerState"] != power || !strings.EqualFold(fmt.Sprint(got["UUID"]), c1.UUID) {
			t.Fatalf("the BMC says %v of %v, want %s of %s", got["PowerState"], got["UUID"], power, c1.UUID)
		}
	}
	reset := func(kind string) {
		t.Helper()
		if _, err := ask(t.Context(), "POST", system+"/Actions/ComputerSystem.Reset", `{"ResetType":"`+kind+`"}`); err != nil {
			t.Fatal(err)
		}
	}
	expect("On")
	reset("ForceOff")
	expect("Off")
	if st := status(t, l, "c1"); st.State != "off" || st.Power != PowerOff {
		t.Errorf("the lab says %s, %s", st.Power, st.State)
	}
	reset("On")
	expect("On")
	if _, err := l.Booted(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.BMCFault(t.Context(), "c1", falsebmc.Fault{Lies: true}); err != nil {
		t.Fatal(err)
	}
	expect("Off")
	if _, err := l.BMCFault(t.Context(), "c1", falsebmc.Fault{}); err != nil {
		t.Fatal(err)
	}

	kill(t, l, "c1")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if got, err := ask(ctx, "GET", system, ""); err == nil {
		t.Errorf("the BMC of a host without power says %v", got)
	}
	if _, err := l.PowerOff(t.Context(), "c1"); err != nil {
		t.Error(err)
	}
	if st := status(t, l, "c1"); st.Power != PowerCut {
		t.Errorf("switched off after a power cut: %s, want still %s", st.Power, PowerCut)
	}
	start(t, l, "c1")
	expect("On")
}

func testEnded(t *testing.T, l *Lab) {
	run1(t, l, "c1", "sh", "-c", "echo new >/var/lib/orderly")
	// The answer may be lost with the host.
	l.Run(t.Context(), "c1", "systemctl", "poweroff")
	err := waitFor(t.Context(), time.Minute, "c1 to be off", func() (bool, error) {
		p, err := l.power("c1")
		_, there := os.Stat(l.netns("c1"))
		return p.State == PowerOff && there != nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	start(t, l, "c1")
	if got := run1(t, l, "c1", "cat", "/var/lib/orderly"); got != "new" {
		t.Errorf("after an orderly end: %q", got)
	}
}

func testPlay(t *testing.T, l *Lab) {
	var out bytes.Buffer
	play := func(verb string, args ...string) any {
		t.Helper()
		got, err := l.Play(t.Context(), verb, args, Terminal{Out: &out})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	play("exec", "c1", "--", "echo", "a", "--", "b")
	if out.String() != "a -- b\n" {
		t.Errorf("exec said %q", out.String())
	}
	play("cut", "c1", "tenant", "in")
	if diff := cmp.Diff([]Cut{{Host: "c1", Network: "tenant", Direction: In}}, play("status").(Status).Cuts); diff != "" {
		t.Error(diff)
	}
	play("heal", "c1")
	play("hang", "c1", "dbus")
	play("resume", "c1", "dbus")
	play("poweroff", "c1")
	play("start", "c1")
	deeds, err := l.Deeds()
	if err != nil {
		t.Fatal(err)
	}
	var verbs []string
	for _, d := range deeds[len(deeds)-6:] {
		verbs = append(verbs, d.Verb+" "+d.Host)
	}
	want := []string{"cut c1", "heal c1", "hang c1", "resume c1", "poweroff c1", "start c1"}
	if diff := cmp.Diff(want, verbs); diff != "" {
		t.Error(diff)
	}
	for _, bad := range [][]string{{"jump"}, {"kill"}, {"kill", "c1", "c2"}, {"kill", "c9"}, {"cut", "c1", "all", "up"}} {
		if got, err := l.Play(t.Context(), bad[0], bad[1:], Terminal{}); err == nil {
			t.Errorf("%q is no error but %v", bad, got)
		}
	}
}

// testCrash kills a process that brings a lab up or takes it down, at several
// points, and then finds nothing left after Down; the lab beside it is not touched.
func testCrash(t *testing.T, beside *Lab) {
	const name = "labcrash"
	if err := Down(t.Context(), name); err != nil { // a killed run's
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{Name: name}
	exists := func(path ...string) func() bool {
		return func() bool { _, err := os.Lstat(filepath.Join(path...)); return err == nil }
	}
	for _, point := range []struct {
		name    string
		reached func() bool
	}{
		{"record written", exists(l.Path("lab.json"))},
		{"client made", exists(l.netns(Client))},
		{"BMCs started", exists(l.Path("bmc.json"))},
		{"disk being made", exists(l.Path("hosts/c1/disk.img.part"))},
		{"disk mounted", func() bool { return isMount(l.Path("hosts/c2/root")) }},
		{"host made", exists(l.netns("c1"))},
		{"host boots", exists(l.Path("hosts/c2/console.log"))},
		{"up", func() bool { return false }},
		{"half down", nil},
	} {
		t.Run(point.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			defer Down(context.WithoutCancel(ctx), name)
			verb := "up"
			if point.reached == nil {
				if _, err := Up(ctx, small(name), nil); err != nil {
					t.Fatal(err)
				}
				verb = "down"
				gone := exists(l.netns("c1"))
				point.reached = func() bool { return !gone() }
			}
			child := exec.CommandContext(ctx, exe, "lab", verb, name)
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for s := bufio.NewScanner(out); s.Scan(); {
				}
			}()
			for !point.reached() {
				select {
				case <-ended:
				case <-time.After(time.Millisecond):
					continue
				}
				break
			}
			child.Process.Kill()
			<-ended
			child.Wait()
			was, err := Open(name)
			if err != nil {
				t.Fatal(err)
			}
			bmc, err := was.bmcProcess()
			if err != nil {
				t.Fatal(err)
			}
			if err := Down(ctx, name); err != nil {
				t.Fatal(err)
			}
			if bmc != nil {
				if !bmc.ended(0) {
					t.Error("the BMCs' process lives on")
				}
				bmc.close()
			}
			left, err := was.Leftovers()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(l.Path()); err == nil {
				left = append(left, l.Path())
			}
			if len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
	for _, h := range []string{"c1", "c2"} {
		if st := status(t, beside, h); st.State != "running" {
			t.Errorf("%s of the lab beside is %s", h, st.State)
		}
	}
}

// TestReusedNumber: a record names a process that has ended, and its number now
// belongs to another.
func TestReusedNumber(t *testing.T) {
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	s, err := stat(other.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{Name: "labreused"}
	if err := os.MkdirAll(l.Path(), 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(l.Path())
	for _, c := range []struct {
		start uint64
		found bool
	}{{s.start, true}, {s.start - 1, false}} {
		if err := writeJSON(l.Path("bmc.json"), daemon{other.Process.Pid, c.start}); err != nil {
			t.Fatal(err)
		}
		p, err := l.bmcProcess()
		if err != nil || (p != nil) != c.found {
			t.Errorf("start %d of %d: found %v, %v", c.start, s.start, p, err)
		}
		if p != nil {
			p.close()
		}
	}
	if err := l.stopBMC(t.Context()); err != nil {
		t.Error(err)
	}
	if s, err := stat(other.Process.Pid); err != nil || s.state == 'Z' {
		t.Errorf("the other process was killed: %c, %v", s.state, err)
	}
}
