package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A machine of QEMU with a kernel of its own, for what namespaces cannot show: DRBD. Its
// disk is a copy of the labs' base tree; what is ours comes with its initial root at each
// boot. This test is its first process: it reaps what is left over, and its only other
// process carries out what is asked over the second serial line, one line for each
// question and each answer. No systemd runs there: TCG would take minutes over it.

// machineParts is a directory with a kernel of Debian's cloud images and drbd-utils, each
// unpacked: make lab-drbd fills it.
var machineParts = flag.String("drbd", "", "a directory with linux/ and drbd/: play DRBD on three machines of QEMU")

// machineModules are those of the kernel's that the machines need, in their order.
var machineModules = strings.Fields(`net/core/failover drivers/net/net_failover drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_legacy_dev
	drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci drivers/block/virtio_blk drivers/net/virtio_net lib/libcrc32c lib/lru_cache drivers/block/drbd/drbd
	net/netfilter/nfnetlink net/netfilter/nf_tables net/ipv4/inet_diag net/ipv4/tcp_diag`)

// machineServes marks the process of a machine that answers.
const machineServes = "machine_serves"

// machineInit is the first process: it makes the machine and then only reaps.
func machineInit() {
	fail := func(doing string, err error) {
		if err != nil {
			fmt.Println("machine:", doing, err)
		}
	}
	mount := func(what, kind, where string) {
		fail("mount "+where, errors.Join(os.MkdirAll(where, 0o755), unix.Mount(what, where, kind, 0, "")))
	}
	mount("devtmpfs", "devtmpfs", "/dev")
	mount("proc", "proc", "/proc")
	fail("name", unix.Sethostname([]byte(os.Getenv("machine"))))
	for _, path := range machineModules {
		f, err := os.Open("/modules/" + filepath.Base(path) + ".ko")
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
		}
		fail("load "+path, err)
	}
	for range 100 {
		if _, err := os.Stat("/dev/vdb"); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond) // devtmpfs follows the kernel a moment later
	}
	mount("/dev/vdb", "ext4", "/root")
	fail("add", filepath.WalkDir("/add", func(path string, d fs.DirEntry, err error) error {
		to := "/root" + strings.TrimPrefix(path, "/add")
		if err != nil || d.IsDir() {
			return errors.Join(err, os.MkdirAll(to, 0o755))
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_ = os.Remove(to) // it may be a link to something else
		return os.WriteFile(to, text, 0o755)
	}))
	for _, m := range [][2]string{{"devtmpfs", "dev"}, {"proc", "proc"}, {"sysfs", "sys"}, {"tmpfs", "run"}, {"tmpfs", "tmp"}} {
		mount(m[0], m[0], "/root/"+m[1])
	}
	fail("chroot", errors.Join(unix.Chroot("/root"), os.Chdir("/")))
	fail("PATH", os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))
	n := strings.TrimPrefix(os.Getenv("machine"), "d")
	out, err := exec.Command("sh", "-c", "mkdir -p /run/lock /run/mysqld && chown mysql /run/mysqld; ip link set lo up && ip addr add 10.9.0."+n+"/24 dev eth0 && ip link set eth0 up && { ! ip link show eth1 || { ip addr add 10.9.1."+n+"/24 dev eth1 && ip link set eth1 up; }; }").CombinedOutput()
	if err != nil {
		fail("network "+string(out), err)
	}
	me := exec.Command("/machine")
	me.Env, me.Stdout, me.Stderr = append(os.Environ(), machineServes+"=1"), os.Stdout, os.Stderr
	fail("serve", me.Start())
	for {
		var s unix.WaitStatus
		switch pid, err := unix.Wait4(-1, &s, 0, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil, pid == me.Process.Pid:
			fail("the process that serves ended", err)
			fail("power off", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
		}
	}
}

type machineAnswer struct{ Text, Error string }

// machineServe answers: each question is a command line of bash.
func machineServe() {
	line, err := os.OpenFile("/dev/ttyS1", os.O_RDWR, 0)
	if err != nil {
		fmt.Println("machine: open the line:", err)
		return
	}
	if t, err := unix.IoctlGetTermios(int(line.Fd()), unix.TCGETS); err == nil {
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		err = unix.IoctlSetTermios(int(line.Fd()), unix.TCSETS, t)
		if err != nil {
			fmt.Println("machine: raw:", err)
		}
	}
	fmt.Fprintln(line, "ready")
	in := bufio.NewScanner(line)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		cmd := exec.Command("bash", "-c", in.Text())
		cmd.WaitDelay = time.Second // for what it leaves behind, pipe in hand
		out, err := cmd.CombinedOutput()
		a := machineAnswer{Text: string(out)}
		if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
			a.Error = err.Error()
		}
		raw, _ := json.Marshal(a) // plain values always marshal
		fmt.Fprintln(line, string(raw))
	}
}

// machineRoot writes the initial root: this test as its first process, the modules, and
// under /add what the base tree lacks.
func machineRoot(t *testing.T, path string, files map[string]string) {
	t.Helper()
	var archive bytes.Buffer
	done, inode := map[string]bool{}, 0
	var add func(name string, mode os.FileMode, text []byte)
	add = func(name string, mode os.FileMode, text []byte) {
		if name = strings.TrimPrefix(name, "/"); done[name] || name == "." || name == "" {
			return
		}
		done[name] = true
		add(filepath.Dir(name), os.ModeDir|0o755, nil)
		kind := uint32(unix.S_IFREG)
		if mode.IsDir() {
			kind = unix.S_IFDIR
		}
		inode++
		// The "newc" format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
		fmt.Fprintf(&archive, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", inode, kind|uint32(mode.Perm()), 0, 0, 1, 0, len(text), 0, 0, 0, 0, len(name)+1, 0, name)
		archive.Write(make([]byte, (4-archive.Len()%4)%4))
		archive.Write(text)
		archive.Write(make([]byte, (4-archive.Len()%4)%4))
	}
	file := func(from, to string) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		add(to, 0o755, text)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file(self, "/init")
	file(self, "/add/machine")
	libraries, _ := exec.Command("ldd", self).Output() // one that is static has none
	for _, word := range strings.Fields(string(libraries)) {
		if strings.HasPrefix(word, "/") {
			file(word, word)
		}
	}
	modules, _ := filepath.Glob(filepath.Join(*machineParts, "linux/lib/modules/*/kernel"))
	for _, m := range machineModules {
		file(filepath.Join(modules[0], m+".ko"), "/modules/"+filepath.Base(m)+".ko")
	}
	for to, from := range files {
		file(from, filepath.Join("/add", to))
	}
	add("/root", os.ModeDir|0o755, nil)
	add("TRAILER!!!", 0, nil)
	if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// machineSpace is the network namespace in which the machines hear each other, by
// multicast over its loopback, and nobody else.
const machineSpace = "mainstay-machines"

func machineNetwork(t *testing.T) {
	t.Helper()
	_ = exec.Command("ip", "netns", "del", machineSpace).Run() // one that was left behind
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", machineSpace).Run() })
	for _, line := range []string{"netns add " + machineSpace, "-n " + machineSpace + " link set lo up multicast on", "-n " + machineSpace + " route add 230.0.0.0/8 dev lo"} {
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
}

// machine is one of them, seen from outside.
type machine struct {
	name, dir string
	mirrors   bool // it has a second network, to the other that mirrors
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *bufio.Scanner
	asked     time.Time
}

// machineTree is a disk with the labs' base tree, made once.
func machineTree(t *testing.T) string {
	t.Helper()
	base, err := Base(t.Context(), DefaultSuite, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(*machineParts, filepath.Base(base)+".img")
	if _, err := os.Stat(image); err == nil {
		return image
	}
	for _, argv := range [][]string{{"mke2fs", "-q", "-t", "ext4", "-d", base, image + ".new", "2G"}, {"mv", image + ".new", image}} {
		if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
		}
	}
	return image
}

// disks makes its disks: an empty one, and a copy of the base tree.
func (m *machine) disks(t *testing.T, tree string, size int64) {
	t.Helper()
	empty := filepath.Join(m.dir, m.name+".disk")
	err := errors.Join(os.WriteFile(empty, nil, 0o644), os.Truncate(empty, size))
	if err == nil {
		var out []byte
		if out, err = exec.Command("cp", "--sparse=always", tree, filepath.Join(m.dir, m.name+".root")).CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// copyDisks copies its disks from one folder to another.
func (m *machine) copyDisks(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, disk := range []string{m.name + ".disk", m.name + ".root"} {
		if out, err := exec.CommandContext(t.Context(), "cp", "--sparse=always", filepath.Join(from, disk), filepath.Join(to, disk)).CombinedOutput(); err != nil {
			t.Fatalf("copy %s: %v: %s", disk, err, out)
		}
	}
}

func (m *machine) boot(t *testing.T) {
	t.Helper()
	kernels, _ := filepath.Glob(filepath.Join(*machineParts, "linux/boot/vmlinuz-*"))
	n := strings.TrimPrefix(m.name, "d")
	drive := func(id string) []string {
		return []string{"-drive", "if=none,id=" + id + ",format=raw,file=" + filepath.Join(m.dir, m.name+"."+id), "-device", "virtio-blk-pci,drive=" + id}
	}
	args := []string{"-accel", "tcg", "-cpu", "max", "-m", "1024", "-no-reboot", "-display", "none", "-monitor", "none",
		"-kernel", kernels[0], "-initrd", filepath.Join(m.dir, "root"), "-append", "console=ttyS0 no_timer_check panic=-1 quiet machine=" + m.name,
		"-serial", "file:" + filepath.Join(m.dir, m.name+".console"), "-serial", "stdio",
		"-netdev", "socket,id=net,mcast=230.9.0.1:17880,localaddr=127.0.0.1", "-device", "virtio-net-pci,netdev=net,mac=52:54:00:00:00:0" + n}
	args = append(append(args, drive("disk")...), drive("root")...)
	if m.mirrors {
		ports := map[string]string{"1": "local.port=17881,remote.port=17882", "2": "local.port=17882,remote.port=17881"}
		args = append(args, "-netdev", "dgram,id=disks,local.type=inet,local.host=127.0.0.1,remote.type=inet,remote.host=127.0.0.1,"+ports[n], "-device", "virtio-net-pci,netdev=disks,mac=52:54:00:00:01:0"+n)
	}
	// Not for the test's context, which is over before a test that has failed asks what was wrong.
	m.cmd = exec.Command("ip", append([]string{"netns", "exec", machineSpace, "qemu-system-x86_64"}, args...)...)
	// A session of its own: the kernel shares its time out by sessions (autogroup), and each
	// service of a host in namespaces has one.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	var err error
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.out = bufio.NewScanner(out)
	m.out.Buffer(nil, 4<<20)
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.asked = time.Now()
}

// up waits until it answers.
func (m *machine) up(t *testing.T) {
	t.Helper()
	for m.out.Scan() {
		if strings.Contains(m.out.Text(), "ready") {
			t.Logf("%s is up after %v", m.name, time.Since(m.asked).Round(time.Second))
			return
		}
	}
	t.Fatalf("%s did not boot: %s", m.name, m.said())
}

func (m *machine) said() string {
	text, _ := os.ReadFile(filepath.Join(m.dir, m.name+".console"))
	return string(text[max(0, len(text)-3000):])
}

// stop stops the machine in the middle, or lets it go on.
func (m *machine) stop(t *testing.T, stop bool) {
	t.Helper()
	signal := map[bool]syscall.Signal{true: syscall.SIGSTOP, false: syscall.SIGCONT}[stop]
	if err := m.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// powerCut ends the machine as a power cut does: what its kernel had not written is lost.
func (m *machine) powerCut() { _ = m.cmd.Process.Kill(); _ = m.cmd.Wait() }

// ask lets it carry out a command line.
func (m *machine) ask(t *testing.T, question string) machineAnswer {
	t.Helper()
	begun := time.Now()
	var a machineAnswer
	if _, err := fmt.Fprintln(m.in, question); err != nil {
		t.Fatalf("%s: %s: %v: %s", m.name, question, err, m.said())
	}
	if !m.out.Scan() {
		t.Fatalf("%s: %s: no answer: %s", m.name, question, m.said())
	}
	if err := json.Unmarshal(m.out.Bytes(), &a); err != nil {
		t.Fatalf("%s: %s: %q: %v", m.name, question, m.out.Text(), err)
	}
	if took := time.Since(begun); testing.Verbose() && took > 10*time.Second {
		t.Logf("%s: %s took %v", m.name, question, took.Round(time.Second))
	}
	return a
}

// must asks, and what it asks for must be done.
func (m *machine) must(t *testing.T, question string) string {
	t.Helper()
	a := m.ask(t, question)
	if a.Error != "" {
		t.Fatalf("%s: %s: %s %s; its console: %s", m.name, question, a.Error, a.Text, m.said())
	}
	return strings.TrimSpace(a.Text)
}
