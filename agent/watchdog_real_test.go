package agent

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fence"
	"mainstay/fleet"
	"mainstay/vip"
)

// kernel is a directory with a kernel and its modules; make lab-watchdog fills it.
var kernel = flag.String("kernel", "", "a directory with vmlinuz, watchdog.ko and softdog.ko: play the watchdog's contract on real machines")

// modules are what softdog needs, in the order in which they are loaded.
var modules = []string{"watchdog.ko", "softdog.ko"}

// realTimeout is what the softdog of these machines is told.
const realTimeout = 5 * time.Second

// TestMain is this test, or the only process of a machine that was booted for it.
func TestMain(m *testing.M) {
	switch play := os.Getenv("mainstay_play"); {
	case os.Getpid() == 1:
		first(play)
	case play != "":
		plays[play](newMachine())
	default:
		os.Exit(m.Run())
	}
}

// plays are what an agent does on a machine of its own, with a real softdog, a real hand
// and guardLife; the ears are played. A play that ends ends its machine.
var plays = map[string]func(*machine){
	// A lease with a service, then no lease and nothing, then a successor, then an
	// orderly stop: for three time-outs each the machine lives.
	"lives": func(m *machine) {
		m.hold()
		m.during(3*realTimeout, "a lease and a service", m.a.lease)
		m.a.mu.Lock()
		m.a.hand.Stopped("service/s", 1)
		m.a.services["s"] = fleet.ServiceState{Phase: fleet.Stopped}
		m.a.mu.Unlock()
		m.during(3*realTimeout, "no lease and nothing", func() {})
		m.end()
		m.a.CloseWatchdog(false)
		m.start()
		m.during(3*realTimeout, "a successor", func() {})
		m.end()
		m.a.CloseWatchdog(true)
		m.during(3*realTimeout, "stopped in good order", func() {})
		m.say("alive")
	},
	"is cut off": func(m *machine) {
		m.hold()
		m.during(2*realTimeout, "a lease and a service", m.a.lease)
		m.say("cut off")
		m.during(10*realTimeout, "no lease", func() {})
		m.say("alive")
	},
	"hangs": func(m *machine) {
		m.hold()
		m.during(2*realTimeout, "a lease and a service", m.a.lease)
		m.a.mu.Lock() // for ever
		m.say("cut off")
		m.during(10*realTimeout, "hung", func() {})
		m.say("alive")
	},
	"is killed": func(m *machine) {
		m.hold()
		m.during(2*realTimeout, "a lease and a service", m.a.lease)
		m.say("cut off")
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	},
	// The look saw the lease alive, and the kick comes most of a time-out later.
	"is frozen before a kick": func(m *machine) {
		m.hold()
		m.during(2*realTimeout, "a lease and a service", m.a.lease)
		m.freeze <- realTimeout * 7 / 10
		m.during(time.Second, "a lease and a service", m.a.lease) // the look is in it
		m.say("cut off")
		m.during(10*realTimeout, "no lease", func() {})
		m.say("alive")
	},
}

// machine is the machine that a play is played on.
type machine struct {
	a      *Agent
	freeze chan time.Duration
	stop   func()
}

func newMachine() *machine {
	t := &playing{}
	m := &machine{freeze: make(chan time.Duration, 1)}
	m.a = watchdogAgent(t, vip.Now, slog.New(slog.NewTextHandler(os.Stdout, nil)), func(keep bool) (Watchdog, error) {
		w, err := fence.OpenWatchdog(fleet.Watchdog{Device: "/dev/watchdog", Timeout: realTimeout, Softdog: true}, keep)
		if err != nil {
			return nil, err
		}
		return frozen{w, m.freeze}, nil
	})
	m.start()
	return m
}

func (m *machine) start() {
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() { m.a.guardLife(ctx, fleet.Watchdog{Timeout: realTimeout}) })
	m.stop = func() { cancel(); wait.Wait() }
}

func (m *machine) end() { m.stop() }

func (m *machine) say(what string) { fmt.Println("play:", what) }

// hold gives the service, once the watchdog is armed that stands surety for it.
func (m *machine) hold() {
	why := ""
	for begun := vip.Now(); vip.Now().Sub(begun) < 30*time.Second; time.Sleep(50 * time.Millisecond) {
		m.a.lease()
		refusal := m.a.hold(realTimeout)
		if refusal == nil {
			return
		}
		why = refusal.Why
	}
	m.say(why)
	os.Exit(1)
}

func (m *machine) during(d time.Duration, what string, beat func()) {
	m.say(what)
	for begun := vip.Now(); vip.Now().Sub(begun) < d; time.Sleep(50 * time.Millisecond) {
		beat()
	}
}

// frozen is a watchdog whose next kick can be held up.
type frozen struct {
	Watchdog
	freeze chan time.Duration
}

func (f frozen) Kick() error {
	select {
	case d := <-f.freeze:
		time.Sleep(d)
	default:
	}
	return f.Watchdog.Kick()
}

// playing is the testing.TB of a play.
type playing struct{ testing.TB }

func (*playing) Helper()           {}
func (*playing) TempDir() string   { return "/run" }
func (*playing) Fatal(args ...any) { fmt.Println(args...); os.Exit(1) }

// first is the first process of such a machine: it loads softdog, lets the play be played
// by another process, and ends the machine when nothing has.
func first(play string) {
	fail := func(doing string, err error) {
		if err != nil {
			fmt.Println("boot:", doing, err)
		}
	}
	for dir, kind := range map[string]string{"/dev": "devtmpfs", "/sys": "sysfs", "/proc": "proc", "/run": "tmpfs"} {
		fail("mount "+dir, os.MkdirAll(dir, 0o755))
		fail("mount "+dir, unix.Mount(kind, dir, kind, 0, ""))
	}
	for _, name := range modules {
		module, err := os.Open("/" + name)
		if fail("open "+name, err); err == nil {
			fail("load "+name, unix.FinitModule(int(module.Fd()), "", 0))
		}
	}
	cmd := exec.Command("/init")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	fail("play "+play, cmd.Run())
	if strings.Contains(play, "lives") {
		fail("power off", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
	}
	time.Sleep(10 * realTimeout) // its watchdog ends this, or the contract is broken
	fmt.Println("play: alive")
	fail("power off", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

// TestRealWatchdog plays the host's side of the contract on machines of QEMU, with the
// kernel's softdog: those that must live live, and those that must die do so within what
// the contract counts with.
func TestRealWatchdog(t *testing.T) {
	if *kernel == "" {
		return // it boots machines: make lab-watchdog
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, archive(t), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		play        string
		least, most time.Duration // from the cut to the reset; zero: it lives
	}{
		{"lives", 0, 0},
		{"is cut off", realTimeout - time.Second, realTimeout},
		{"hangs", realTimeout - time.Second, realTimeout},
		{"is killed", realTimeout - time.Second, realTimeout},
		{"is frozen before a kick", realTimeout, 2 * realTimeout},
	} {
		t.Run(strings.ReplaceAll(c.play, " ", "-"), func(t *testing.T) {
			t.Parallel()
			cut, reset, alive := run(t, image, c.play)
			if c.most == 0 {
				if !alive {
					t.Error("the machine did not live to the end")
				}
				return
			}
			if alive || cut.IsZero() || reset.IsZero() {
				t.Fatalf("cut off %v, reset %v, alive %v", !cut.IsZero(), !reset.IsZero(), alive)
			}
			// The lease ends after the cut, and an emulated machine is late.
			late := room.Lease + 2*time.Second
			t.Logf("reset %v after the cut (%v to %v)", reset.Sub(cut).Round(10*time.Millisecond), c.least, c.most+late)
			if d := reset.Sub(cut); d < c.least || d > c.most+late {
				t.Errorf("reset %v after the cut", d)
			}
		})
	}
}

var room = fleet.Presets()["room"]

// run boots a machine and returns when its play was cut off and when softdog reset it.
func run(t *testing.T, image, play string) (cut, reset time.Time, alive bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "256", "-no-reboot", "-nographic", "-nodefaults", "-serial", "stdio",
		"-kernel", filepath.Join(*kernel, "vmlinuz"), "-initrd", image,
		"-append", fmt.Sprintf("console=ttyS0 no_timer_check panic=-1 quiet loglevel=4 \"mainstay_play=%s\"", play))
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("boot a machine: %v", err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		t.Log(line)
		switch {
		case strings.Contains(line, "play: cut off"):
			cut = time.Now()
		case strings.Contains(line, "softdog: Initiating system reboot"):
			reset = time.Now()
		case strings.Contains(line, "play: alive"):
			alive = true
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the machine: %v", err)
	}
	return cut, reset, alive
}

// archive is the image that the machine boots from: this test's program as /init, and
// softdog (cpio, format newc: Documentation/driver-api/early-userspace/buffer-format.rst).
func archive(t *testing.T) []byte {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			t.Fatal("a machine without libraries cannot run this program: CGO_ENABLED=0 go test, as make lab-watchdog does")
		}
	}
	var b bytes.Buffer
	add := func(name string, mode uint32, from string, device uint32) {
		var content []byte
		if from != "" {
			if content, err = os.ReadFile(from); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, mode, 0, 0, 1, 0, len(content), 0, 0, device>>8, device&255, len(name)+1, 0)
		b.WriteString(name)
		b.WriteByte(0)
		pad(&b)
		b.Write(content)
		pad(&b)
	}
	add("dev", unix.S_IFDIR|0o755, "", 0)
	add("dev/console", unix.S_IFCHR|0o600, "", 5<<8|1)
	add("run", unix.S_IFDIR|0o755, "", 0)
	add("init", unix.S_IFREG|0o755, self, 0)
	for _, name := range modules {
		add(name, unix.S_IFREG|0o644, filepath.Join(*kernel, name), 0)
	}
	add("TRAILER!!!", 0, "", 0)
	return b.Bytes()
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
