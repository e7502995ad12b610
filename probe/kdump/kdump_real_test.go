package kdump

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// crash is a directory with a kernel and its modules; make lab-kdump fills it.
var crash = flag.String("crash", "", "a directory with vmlinuz and a virtio network card's modules: crash a real kernel")

// The libraries of Debian's fence_kdump_send, and what a card of QEMU's needs, in the order in which it is loaded.
var (
	libraries = []string{"/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"}
	modules   = []string{"virtio_ring.ko", "virtio.ko", "virtio_pci_modern_dev.ko", "virtio_pci_legacy_dev.ko", "virtio_pci.ko", "failover.ko", "net_failover.ko", "virtio_net.ko"}
)

// TestMain is this test, or the first process of a machine that was booted for it.
func TestMain(m *testing.M) {
	if os.Getpid() != 1 {
		os.Exit(m.Run())
	}
	if err := first(); err != nil {
		fmt.Println("play: failed:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// first boots a machine. As kdump-tools does it loads the crash kernel into the memory that was
// kept for it, and then the kernel panics; in the crash kernel, which has the dead one's memory as
// /proc/vmcore, it brings the network up and runs fence_kdump_send.
func first() error {
	for dir, kind := range map[string]string{"/dev": "devtmpfs", "/sys": "sysfs", "/proc": "proc"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(kind, dir, kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	for _, name := range modules {
		if err := load(name); err != nil {
			return err
		}
	}
	if err := address("eth0", "10.0.2.15"); err != nil { // QEMU's own network: 10.0.2.2 is its host
		return err
	}
	dump, err := os.Stat("/proc/vmcore")
	if err != nil {
		return panics()
	}
	fmt.Printf("play: writes a dump of %d MB\n", dump.Size()>>20)
	cmd := exec.Command(sender, "-p", os.Getenv("mainstay_port"), "-i", "1", "-c", "10", "-f", "ipv4", "10.0.2.2")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	return cmd.Run()
}

func load(name string) error {
	module, err := os.Open("/" + name)
	if err != nil {
		return err
	}
	defer module.Close()
	if err := unix.FinitModule(int(module.Fd()), "", 0); err != nil {
		return fmt.Errorf("load %s: %w", name, err)
	}
	return nil
}

// address gives a card an address and turns it on (netdevice(7)).
func address(card, ip string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(card)
	if err != nil {
		return err
	}
	if err := r.SetInet4Addr(netip.MustParseAddr(ip).AsSlice()); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, r); err != nil {
		return fmt.Errorf("give %s %s: %w", card, ip, err)
	}
	r.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("turn %s on: %w", card, err)
	}
	return nil
}

// panics loads the crash kernel and ends this one.
func panics() error {
	kernel, err := os.Open("/vmlinuz")
	if err != nil {
		return err
	}
	image, err := os.Open("/image")
	if err != nil {
		return err
	}
	line := "console=ttyS0 no_timer_check quiet loglevel=4 irqpoll nr_cpus=1 reset_devices mainstay_port=" + os.Getenv("mainstay_port")
	if err := unix.KexecFileLoad(int(kernel.Fd()), int(image.Fd()), line, unix.KEXEC_FILE_ON_CRASH); err != nil {
		return fmt.Errorf("load the crash kernel: %w", err)
	}
	fmt.Println("play: crashes")
	return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
}

// TestRealCrash crashes the kernel of a machine of QEMU: a voter outside hears nothing of it before, and
// is told by the crash kernel while the dump is there to be written.
func TestRealCrash(t *testing.T) {
	if *crash == "" {
		return // it boots a machine: make lab-kdump
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(free.LocalAddr().String())
	free.Close()
	heard := make(chan netip.Addr)
	listening := make(chan error, 1)
	go func() {
		listening <- Listen(ctx, at.String(), func(a netip.Addr) {
			select {
			case heard <- a:
			case <-ctx.Done():
			}
		})
	}()

	inner := filepath.Join(t.TempDir(), "inner")
	files := map[string]string{"init": self(t), strings.TrimPrefix(sender, "/"): sender}
	for _, l := range libraries {
		files[strings.TrimPrefix(l, "/")] = l
	}
	for _, m := range modules {
		files[m] = filepath.Join(*crash, m)
	}
	archive(t, inner, files)
	files["image"], files["vmlinuz"] = inner, filepath.Join(*crash, "vmlinuz")
	outer := filepath.Join(t.TempDir(), "outer")
	archive(t, outer, files)

	// A kernel that chooses its own place at random may leave none for the crash kernel, on so small a machine.
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-no-reboot", "-nographic", "-nodefaults", "-serial", "stdio",
		"-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=",
		"-kernel", filepath.Join(*crash, "vmlinuz"), "-initrd", outer,
		"-append", fmt.Sprintf("console=ttyS0 no_timer_check quiet loglevel=4 nokaslr crashkernel=384M mainstay_port=%d", at.Port()))
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("boot a machine: %v", err)
	}
	said := make(chan string)
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			said <- strings.TrimSpace(lines.Text())
		}
	}()
	var crashed, dumping time.Time
	words := 0
	for lines := said; lines != nil; {
		select {
		case line, ok := <-lines:
			switch {
			case !ok:
				lines = nil
			case strings.Contains(line, "play: crashes"):
				crashed = time.Now()
			case strings.Contains(line, "play: writes a dump"):
				dumping = time.Now()
			case strings.Contains(line, "play: failed"):
				t.Error(line)
			}
			t.Log(line)
		case from := <-heard:
			if words++; dumping.IsZero() {
				t.Errorf("%v is said to dump before it does", from)
			} else if words == 1 {
				t.Logf("the first word came %v after the crash", time.Since(crashed).Round(100*time.Millisecond))
			}
		case err := <-listening:
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the machine: %v", err)
	}
	if crashed.IsZero() || dumping.IsZero() || words == 0 {
		t.Errorf("crashed %v, dumped %v, heard %d times", !crashed.IsZero(), !dumping.IsZero(), words)
	}
}

func self(t *testing.T) string {
	t.Helper()
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// archive writes the image that a machine boots from (cpio, by Debian's own program).
func archive(t *testing.T, to string, files map[string]string) {
	t.Helper()
	tree := t.TempDir()
	for _, dir := range []string{"dev", "sys", "proc"} {
		if err := os.Mkdir(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, from := range files {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		name = filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var problems bytes.Buffer
	cmd := exec.Command("sh", "-c", "cd "+strconv.Quote(tree)+" && find . | cpio --quiet -o -H newc > "+strconv.Quote(to))
	cmd.Stderr = &problems
	if err := cmd.Run(); err != nil {
		t.Fatalf("make an image: %v: %s", err, &problems)
	}
}
