package service

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// drbdParts is a directory with a kernel of Debian's cloud images and drbd-utils, each
// unpacked: make lab-drbd fills it.
var drbdParts = flag.String("drbd", "", "a directory with linux/ and drbd/: play DRBD on two real machines")

// The machines' resource: a mirrored disk of a few MiB between two of QEMU's.
const drbdConfText = `global { usage-count no; disable-ip-verification; }
common {
  net { protocol C; ping-int 3; connect-int 3; timeout 60; ping-timeout 50; }
  disk { fencing resource-and-stonith; }
  handlers { fence-peer "/usr/bin/mainstay fence-peer"; }
}
resource r0 {
  device /dev/drbd0; disk /dev/vda; meta-disk internal;
  on d1 { address 10.9.0.1:7788; }
  on d2 { address 10.9.0.2:7788; }
}
`

// drbdTools are what the agents of drbd-utils and resource-agents call.
var drbdTools = strings.Fields(`bash sh timeout grep mount which sed date sleep printf awk uname tr cat mkdir kill cut id sort rm mountpoint ls dirname
	head fsck fsck.ext4 fuser hostname chmod basename dmesg mv umount touch seq readlink mktemp wc tail stat ps expr env blockdev ip mkfs.ext4 dd sync true`)

// drbdModules are those of the kernel's that the machines need, in their order.
var drbdModules = strings.Fields(`net/core/failover drivers/net/net_failover drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_legacy_dev
	drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci drivers/block/virtio_blk drivers/net/virtio_net lib/libcrc32c lib/lru_cache drivers/block/drbd/drbd`)

// drbdCopies are the services of such a machine: the mirrored disk, and what is mounted
// on it.
func drbdCopies() (map[string]Copy, error) {
	out := map[string]Copy{}
	for _, s := range []fleet.Service{
		{Name: "disk", Mode: fleet.Promoted, Params: map[string]string{"agent": "ocf:linbit:drbd", "drbd_resource": "r0", "ignore_missing_notifications": "true", "op_promote": "40s", "op_demote": "40s"}},
		{Name: "fs", Mode: fleet.ActivePassive, Params: map[string]string{"agent": "heartbeat:Filesystem", "device": "/dev/drbd0", "directory": "/mnt", "fstype": "ext4"}},
	} {
		s.Kind, s.Restarts = "ocf", fleet.Restarts{Count: 3, Within: time.Hour}
		c, err := Open(s, Env{})
		if err == nil {
			err = c.Prepare(context.Background())
		}
		if err != nil {
			return nil, err
		}
		out[s.Name] = c
	}
	return out, nil
}

// drbdMachine is the first process of such a machine: it carries out what is asked over
// the second serial line, one line for each question and each answer.
func drbdMachine() {
	fail := func(doing string, err error) {
		if err != nil {
			fmt.Println("machine:", doing, err)
		}
	}
	for _, m := range [][2]string{{"/dev", "devtmpfs"}, {"/proc", "proc"}, {"/sys", "sysfs"}, {"/run", "tmpfs"}, {"/tmp", "tmpfs"}} {
		fail("mount "+m[0], errors.Join(os.MkdirAll(m[0], 0o755), unix.Mount(m[1], m[0], m[1], 0, "")))
	}
	name := os.Getenv("machine")
	fail("name", unix.Sethostname([]byte(name)))
	for _, path := range drbdModules {
		f, err := os.Open("/modules/" + filepath.Base(path) + ".ko")
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
		}
		fail("load "+path, err)
	}
	fail("PATH", os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))
	out, err := exec.Command("sh", "-c", "ip link set lo up && ip addr add 10.9.0."+strings.TrimPrefix(name, "d")+"/24 dev eth0 && ip link set eth0 up").CombinedOutput()
	fail("network "+string(out), err)
	line, err := os.OpenFile("/dev/ttyS1", os.O_RDWR, 0)
	fail("open the line", err)
	if t, err := unix.IoctlGetTermios(int(line.Fd()), unix.TCGETS); err == nil {
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		fail("raw", unix.IoctlSetTermios(int(line.Fd()), unix.TCSETS, t))
	}
	copies, err := drbdCopies()
	fail("copies", err)
	agent := newDRBDAgent()
	fmt.Fprintln(line, "ready")
	for in := bufio.NewScanner(line); in.Scan(); {
		answer, err := drbdDo(copies, agent, in.Text())
		a := drbdAnswer{Text: answer}
		if err != nil {
			a.Error, a.Unknown = err.Error(), errors.Is(err, ErrUnknown)
		}
		raw, _ := json.Marshal(a) // plain values always marshal
		fmt.Fprintln(line, string(raw))
	}
	fail("power off", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

type drbdAnswer struct {
	Text, Error string
	Unknown     bool
}

// drbdDo is one question: "sh COMMAND", or what one copy shall do.
func drbdDo(copies map[string]Copy, agent *drbdAgent, line string) (string, error) {
	ctx := context.Background()
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "sh":
		out, err := exec.Command("bash", "-c", rest).CombinedOutput()
		return string(out), err
	case "asked":
		select {
		case q := <-agent.asked:
			return q, nil
		case <-time.After(time.Minute):
			return "", errors.New("nobody asks")
		}
	case "answer":
		code, err := strconv.Atoi(rest)
		agent.answers <- code
		return "", err
	case "leave":
		agent.leave.Store(true)
		return "", nil
	}
	c, ok := copies[rest]
	if !ok {
		return "", fmt.Errorf("no copy %q", rest)
	}
	switch word {
	case "start":
		return "", c.Start(ctx)
	case "stop":
		return "", c.Stop(ctx)
	case "promote":
		return "", c.(Promoter).Promote(ctx)
	case "demote":
		return "", c.(Promoter).Demote(ctx)
	case "validate":
		return "", c.(Validator).Validate(ctx)
	case "mirror":
		m, err := c.(Mirrored).Mirror(ctx)
		raw, _ := json.Marshal(m) // plain values always marshal
		return string(raw), err
	case "go-on":
		return "", c.(Mirrored).GoOn(ctx)
	case "examine":
		return strings.Join(c.(Examiner).Examine(nil), "; "), nil
	case "state":
		st, err := c.State(ctx)
		raw, _ := json.Marshal(st) // plain values always marshal
		return string(raw), err
	}
	return "", fmt.Errorf("no such question: %q", word)
}

// drbdAgent stands in for the agent on such a machine: whoever asks it waits for the answer
// that the test gives, or has leave once the test has said so for all that follow.
type drbdAgent struct {
	asked   chan string
	answers chan int
	leave   atomic.Bool
}

func newDRBDAgent() *drbdAgent {
	a := &drbdAgent{asked: make(chan string), answers: make(chan int)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/part", func(w http.ResponseWriter, r *http.Request) {
		if a.leave.Load() {
			w.WriteHeader(http.StatusOK)
			return
		}
		text, _ := io.ReadAll(r.Body) // what is missing of it the test will miss
		a.asked <- string(text)
		w.WriteHeader(<-a.answers)
		_, _ = io.WriteString(w, `{"error":"as the test says"}`)
	})
	_ = os.MkdirAll("/run/mainstay", 0o755)
	l, err := net.Listen("unix", "/run/mainstay/api.sock")
	if err != nil {
		fmt.Println("machine: listen:", err)
		return a
	}
	go func() { _ = http.Serve(l, mux) }()
	return a
}

// drbdRoot writes the initial root of such a machine: this test as its first process,
// this machine's own tools, the agents, the modules.
func drbdRoot(t *testing.T, path, mainstay string) {
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
	program := func(from, to string) {
		t.Helper()
		file(from, to)
		libraries, _ := exec.Command("ldd", from).Output() // a script has none
		for _, word := range strings.Fields(string(libraries)) {
			if strings.HasPrefix(word, "/") {
				file(word, word)
			}
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program(self, "/init")
	for _, name := range drbdTools {
		from, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		program(from, "/usr/bin/"+name)
		add("/bin/"+name, 0o755, []byte("#!/usr/bin/bash\nexec /usr/bin/"+name+" \"$@\"\n"))
	}
	for _, name := range []string{"drbdadm", "drbdsetup", "drbdmeta"} {
		program(filepath.Join(*drbdParts, "drbd/sbin", name), "/usr/sbin/"+name)
	}
	for _, name := range []string{"drbdadm-84", "drbdsetup-84"} {
		program(filepath.Join(*drbdParts, "drbd/lib/drbd", name), "/lib/drbd/"+name)
	}
	add("/sbin/drbdadm", 0o755, []byte("#!/usr/bin/bash\nexec /usr/sbin/drbdadm \"$@\"\n")) // where the kernel calls it
	for _, name := range []string{"modprobe", "udevadm", "logger"} {                        // the modules are there, udev and a log are not
		add("/usr/sbin/"+name, 0o755, []byte("#!/usr/bin/bash\nexit 0\n"))
	}
	shell, _ := filepath.Glob("/usr/lib/ocf/lib/heartbeat/ocf-*")
	for _, from := range append(shell, "/usr/lib/ocf/resource.d/heartbeat/Filesystem") {
		file(from, from)
	}
	for _, name := range []string{"drbd", "drbd.shellfuncs.sh"} {
		file(filepath.Join(*drbdParts, "drbd/usr/lib/ocf/resource.d/linbit", name), "/usr/lib/ocf/resource.d/linbit/"+name)
	}
	modules, _ := filepath.Glob(filepath.Join(*drbdParts, "linux/lib/modules/*/kernel"))
	for _, m := range drbdModules {
		file(filepath.Join(modules[0], m+".ko"), "/modules/"+filepath.Base(m)+".ko")
	}
	file(mainstay, "/usr/bin/mainstay")
	add("/etc/drbd.conf", 0o644, []byte(drbdConfText))
	add("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n10.9.0.1 d1\n10.9.0.2 d2\n"))
	add("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/bash\n"))
	add("/etc/mtab", 0o644, nil)
	for _, dir := range []string{"/mnt", "/root", "/var/lib/drbd", "/var/lock", "/var/run", "/var/lib/heartbeat", "/var/lib/mainstay"} {
		add(dir, os.ModeDir|0o755, nil)
	}
	add("TRAILER!!!", 0, nil)
	if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// drbdHost is one of the two machines, seen from outside.
type drbdHost struct {
	name, dir string
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *bufio.Scanner
}

func (h *drbdHost) boot(t *testing.T) {
	t.Helper()
	kernels, _ := filepath.Glob(filepath.Join(*drbdParts, "linux/boot/vmlinuz-*"))
	n := strings.TrimPrefix(h.name, "d")
	ports := map[string]string{"1": "local.port=17881,remote.port=17882", "2": "local.port=17882,remote.port=17881"}
	h.cmd = exec.CommandContext(t.Context(), "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "512", "-no-reboot", "-display", "none", "-monitor", "none",
		"-kernel", kernels[0], "-initrd", filepath.Join(h.dir, "root"), "-append", "console=ttyS0 no_timer_check panic=-1 quiet machine="+h.name,
		"-serial", "file:"+filepath.Join(h.dir, h.name+".console"), "-serial", "stdio",
		"-drive", "if=none,id=disk,format=raw,file="+filepath.Join(h.dir, h.name+".disk"), "-device", "virtio-blk-pci,drive=disk",
		"-netdev", "dgram,id=net,local.type=inet,local.host=127.0.0.1,remote.type=inet,remote.host=127.0.0.1,"+ports[n], "-device", "virtio-net-pci,netdev=net,mac=52:54:00:00:00:0"+n)
	in, err := h.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.in, h.out = in, bufio.NewScanner(out)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for h.out.Scan() {
		if strings.Contains(h.out.Text(), "ready") {
			return
		}
	}
	t.Fatalf("%s did not boot: %s", h.name, h.said())
}

func (h *drbdHost) said() string {
	text, _ := os.ReadFile(filepath.Join(h.dir, h.name+".console"))
	return string(text[max(0, len(text)-3000):])
}

// powerCut ends the machine as a power cut does.
func (h *drbdHost) powerCut() { _ = h.cmd.Process.Kill(); _ = h.cmd.Wait() }

// ask puts one question.
func (h *drbdHost) ask(t *testing.T, question string) drbdAnswer {
	t.Helper()
	begun := time.Now()
	var a drbdAnswer
	if _, err := fmt.Fprintln(h.in, question); err != nil {
		t.Fatalf("%s: %s: %v: %s", h.name, question, err, h.said())
	}
	if !h.out.Scan() {
		t.Fatalf("%s: %s: no answer: %s", h.name, question, h.said())
	}
	if err := json.Unmarshal(h.out.Bytes(), &a); err != nil {
		t.Fatalf("%s: %s: %q: %v", h.name, question, h.out.Text(), err)
	}
	t.Logf("%s: %s: %s%s (%v)", h.name, question, strings.TrimSpace(a.Text), a.Error, time.Since(begun).Round(10*time.Millisecond))
	return a
}

// must asks, and what it asks for must be done.
func (h *drbdHost) must(t *testing.T, question string) string {
	t.Helper()
	a := h.ask(t, question)
	if a.Error != "" {
		t.Fatalf("%s: %s: %s %s; its console: %s", h.name, question, a.Error, a.Text, h.said())
	}
	return strings.TrimSpace(a.Text)
}

func (h *drbdHost) state(t *testing.T, of string) (st fleet.ServiceState) {
	t.Helper()
	if err := json.Unmarshal([]byte(h.must(t, "state "+of)), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// awaitState asks until the copy is as it should be.
func (h *drbdHost) awaitState(t *testing.T, what string, want func(fleet.ServiceState) bool) {
	t.Helper()
	for begun := time.Now(); ; {
		st := h.state(t, "disk")
		if want(st) {
			return
		}
		if time.Since(begun) > 5*time.Minute {
			t.Fatalf("%s: %s: it is %+v", h.name, what, st)
		}
	}
}

// drbdProgram builds this program, whose command is DRBD's handler.
func drbdProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(*drbdParts, "mainstay") // not linked anew where nothing has changed
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, "./cmd/mainstay")
	cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return program
}

// mirror is what its kernel says, by Mirrored.
func (h *drbdHost) mirror(t *testing.T) (m fleet.Mirror) {
	t.Helper()
	if err := json.Unmarshal([]byte(h.must(t, "mirror disk")), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// awaitMirror asks until its kernel says so.
func (h *drbdHost) awaitMirror(t *testing.T, what string, want func(fleet.Mirror) bool) (m fleet.Mirror) {
	t.Helper()
	for begun := time.Now(); time.Since(begun) < 2*time.Minute; {
		if m = h.mirror(t); want(m) {
			return m
		}
	}
	t.Fatalf("%s: %s: it is %+v", h.name, what, m)
	return m
}

// TestDRBD boots two real machines with a real DRBD between them.
func TestDRBD(t *testing.T) {
	if *drbdParts == "" {
		t.Log("not played: it boots two machines of QEMU; make lab-drbd")
		return
	}
	dir := t.TempDir()
	drbdRoot(t, filepath.Join(dir, "root"), drbdProgram(t))
	d1, d2 := &drbdHost{name: "d1", dir: dir}, &drbdHost{name: "d2", dir: dir}
	for _, h := range []*drbdHost{d1, d2} {
		if err := errors.Join(os.WriteFile(filepath.Join(dir, h.name+".disk"), nil, 0o644), os.Truncate(filepath.Join(dir, h.name+".disk"), 32<<20)); err != nil {
			t.Fatal(err)
		}
		h.boot(t)
		t.Cleanup(h.powerCut)
		h.must(t, "sh head -1 /proc/drbd; drbdadm create-md --force r0")
		h.must(t, "validate disk")
		if st := h.state(t, "disk"); st.Phase != fleet.Stopped || st.Role != fleet.RoleUnpromoted {
			t.Fatalf("before its start it is %+v", st)
		}
	}
	for _, h := range []*drbdHost{d1, d2} {
		h.must(t, "start disk")
	}
	// What a person does once: two new disks are alike.
	d1.must(t, "sh for i in $(seq 100); do grep -q cs:Connected /proc/drbd && break; sleep 0.3; done; drbdadm new-current-uuid --clear-bitmap r0/0; drbdsetup events2 --now r0")
	if lacks := d1.must(t, "examine disk"); lacks != "" {
		t.Errorf("the configuration of the manual lacks %s", lacks)
	}
	if !t.Run("the handler", func(t *testing.T) { drbdHandler(t, d1, d2) }) {
		return // what follows begins with two copies that are alike
	}
	t.Run("the agent", func(t *testing.T) { drbdDriven(t, d1, d2) })
}

// drbdHandler plays what a real kernel makes of the handler's answers: a primary that loses
// its peer writes nothing until there is leave, and with no leave for ever; a split is told,
// and ends as the manual says.
func drbdHandler(t *testing.T, d1, d2 *drbdHost) {
	even := func(m fleet.Mirror) bool { return m.Even == "d2" && !m.Frozen && !m.Apart }
	d1.awaitMirror(t, "even", even)
	d1.must(t, "sh drbdadm primary r0; (while :; do n=$((n+1)); dd if=/dev/zero of=/dev/drbd0 bs=4096 count=1 oflag=dsync status=none && echo $n >/run/acked.new && mv /run/acked.new /run/acked; done >/dev/null 2>&1 </dev/null & echo $! >/run/load)")
	acked := func() string { return d1.must(t, "sh cat /run/acked 2>/dev/null || echo 0") }
	rests := func() {
		t.Helper()
		first := d1.must(t, "sh sleep 1; cat /run/acked; drbdsetup events2 --now r0 | head -n 1")
		if then := d1.must(t, "sh sleep 5; cat /run/acked; drbdsetup events2 --now r0 | head -n 1"); then != first {
			t.Errorf("it writes: %q, then %q", first, then)
		}
	}
	goes := func() {
		t.Helper()
		first := acked()
		for begun := time.Now(); acked() == first; {
			if time.Since(begun) > time.Minute {
				t.Fatalf("it does not go on: %+v; %s", d1.mirror(t), d1.said())
			}
		}
	}
	// The kernel's own words about the handler come a moment after the answer.
	handler := func(words string) {
		t.Helper()
		d1.must(t, "sh for i in $(seq 50); do dmesg | grep fence-peer | tail -n 2 | grep '"+words+"' && exit 0; sleep 0.2; done; dmesg | tail -n 20; exit 1")
	}
	goes()

	d2.must(t, "sh ip link set eth0 down")
	if q := d1.must(t, "asked"); q != `{"resource":"r0","peer":"d2"}` {
		t.Errorf("it asks %s", q)
	}
	if m := d1.mirror(t); !m.Frozen || m.Lost != "d2" || m.Even != "" || m.Fork == "" && m.Data == "" {
		t.Errorf("while it asks it is %+v", m)
	}
	rests()
	d1.must(t, "answer 200")
	handler("exit code 4 ")
	goes()
	if m := d1.mirror(t); m.Frozen || m.Even != "" || m.Fork == "" {
		t.Errorf("with leave it is %+v", m)
	}
	d2.must(t, "sh ip link set eth0 up")
	d1.awaitMirror(t, "even again", even)

	d1.must(t, "sh ip link set eth0 down") // its own this time, with which DRBD's commands lose its address
	d1.must(t, "asked")
	d1.must(t, "answer 409")
	handler("exit code 1 ")
	rests()
	if m := d1.mirror(t); !m.Frozen {
		t.Errorf("without leave it is %+v", m)
	}
	d1.must(t, "go-on disk") // as the agent does, under the record
	goes()
	d2.must(t, "sh ip link set eth0 down")
	d1.must(t, "sh ip link set eth0 up")

	// The other is promoted by hand, with leave that no leader would give, and written.
	d2.must(t, "sh (drbdadm primary r0 >/run/primary 2>&1; dd if=/dev/zero of=/dev/drbd0 bs=4096 count=1 oflag=dsync status=none; echo done >>/run/primary) >/dev/null 2>&1 </dev/null &")
	d2.must(t, "asked")
	d2.must(t, "answer 200")
	d2.must(t, "sh for i in $(seq 60); do grep -q done /run/primary && exit 0; sleep 0.5; done; cat /run/primary; exit 1")
	d2.must(t, "sh drbdadm secondary r0; ip link set eth0 up")
	apart := func(m fleet.Mirror) bool { return m.Apart && m.Fork != "" }
	x, y := d1.awaitMirror(t, "apart", apart), d2.awaitMirror(t, "known to have changed", func(m fleet.Mirror) bool { return m.Fork != "" })
	if x.Data == y.Data {
		t.Errorf("both have changed: %+v and %+v", x, y)
	}
	d2.must(t, "sh drbdadm disconnect r0; drbdadm connect --discard-my-data r0")
	d1.must(t, "sh drbdadm connect r0")
	d1.awaitMirror(t, "even after the split", even)

	// One that is stopped in good order while the other is primary says itself that its data
	// are old: nothing is asked, no record tells of it, and DRBD does not promote it.
	d2.must(t, "sh drbdadm down r0")
	goes()
	if m := d1.mirror(t); m.Frozen || m.Even != "" || m.Lost != "" {
		t.Errorf("its peer was stopped, and it is %+v", m)
	}
	d2.must(t, "sh ip link set eth0 down; drbdadm up r0")
	if a := d2.ask(t, "sh drbdadm primary r0"); a.Error == "" {
		t.Error("a copy was promoted that was stopped while the other was written")
	}
	d2.must(t, "sh ip link set eth0 up")
	d1.awaitMirror(t, "even after its stop", even)
	d1.must(t, "sh kill $(cat /run/load); for i in $(seq 50); do drbdadm secondary r0 && exit 0; sleep 0.2; done; exit 1")
}

// drbdDriven drives it by its own agent, with a file system on it. Who is promoted is
// decided by the test: what is seen here is that the agent tells its state, its role and its
// score rightly, that what is written and acknowledged is where it is promoted next, and that
// no word is given that is not true.
func drbdDriven(t *testing.T, d1, d2 *drbdHost) {
	even := func(st fleet.ServiceState) bool { return st.Phase == fleet.Running && st.Score >= 10000 }
	d1.awaitState(t, "up to date, with its peer", even)
	d2.awaitState(t, "up to date, with its peer", even)

	d1.must(t, "promote disk")
	if st := d1.state(t, "disk"); st.Role != fleet.RolePromoted {
		t.Errorf("promoted, it is %+v", st)
	}
	if a := d2.ask(t, "promote disk"); a.Error == "" {
		t.Fatal("DRBD has two primaries")
	}
	if st := d2.state(t, "disk"); st.Role != fleet.RoleUnpromoted {
		t.Errorf("one that was refused is %+v", st)
	}
	d1.must(t, "sh mkfs.ext4 -q /dev/drbd0")
	d1.must(t, "start fs")
	var written []string
	write := func(h *drbdHost) {
		t.Helper()
		for range 5 {
			line := fmt.Sprintf("line %d by %s", len(written), h.name)
			h.must(t, "sh echo "+line+" | dd of=/mnt/log oflag=append conv=notrunc,fsync status=none")
			written = append(written, line)
		}
	}
	read := func(h *drbdHost) {
		t.Helper()
		if got := strings.Split(h.must(t, "sh cat /mnt/log"), "\n"); strings.Join(got, "\n") != strings.Join(written, "\n") {
			t.Errorf("%s has %q, and acknowledged were %q", h.name, got, written)
		}
	}
	write(d1)
	if a := d1.ask(t, "demote disk"); a.Error == "" {
		t.Fatal("the word was given that a mounted disk is demoted")
	}
	if st := d1.state(t, "disk"); st.Role != fleet.RolePromoted {
		t.Errorf("one that could not be demoted is %+v", st)
	}
	d1.must(t, "stop fs")
	d1.must(t, "demote disk")
	d2.must(t, "promote disk")
	d2.must(t, "start fs")
	read(d2)
	write(d2)

	d2.powerCut()
	d1.awaitState(t, "alone", func(st fleet.ServiceState) bool {
		return st.Phase == fleet.Running && st.Role == fleet.RoleUnpromoted && st.Score > 0
	})
	d1.must(t, "leave")
	d1.must(t, "promote disk") // the proof is there, and its kernel asks
	d1.must(t, "start fs")
	read(d1)
	write(d1)
	d2.boot(t)
	if st := d2.state(t, "disk"); st.Phase != fleet.Stopped {
		t.Errorf("after a boot it is %+v, and nobody started it", st)
	}
	d2.must(t, "start disk")
	d2.awaitState(t, "up to date again", even)
	d1.must(t, "stop fs")
	d1.must(t, "stop disk") // promoted: it is demoted first
	d2.must(t, "leave")     // with both unpromoted, neither knows of the other's stop that its data will be old
	d2.must(t, "promote disk")
	d2.must(t, "start fs")
	read(d2)
}
