package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A host's disk is an ext4 on a sparse file. It holds the upper directory of an
// overlay over the base tree, so everything that the host writes is on it.
//
//	hosts/c1/disk.img   the disk
//	hosts/c1/disk       its file system (upper/, work/)
//	hosts/c1/root       the overlay, the host's /

const (
	// ext4Shutdown is EXT4_IOC_SHUTDOWN; with noLogFlush the journal in memory is
	// thrown away, as at a power cut.
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
	freezeDisk   = 0xc0045877 // FIFREEZE
	thawDisk     = 0xc0045878 // FITHAW
	// Without noauto_da_alloc ext4 flushes a file that is renamed over another:
	// kind to programs that forget fsync, and here they shall be found.
	ext4Options = "noauto_da_alloc"
)

// makeDisk makes the host's disk, once, and puts files on it. Until the end it
// has another name: a disk that exists is whole.
func (l *Lab) makeDisk(ctx context.Context, m Machine, files map[string]File) error {
	unlock, err := l.holdHost(ctx, m.Name)
	if err != nil {
		return err
	}
	defer unlock()
	image := l.hostPath(m, "disk.img")
	if _, err := os.Stat(image); err == nil {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("make the disk of %s: %w", m.Name, err) }
	part := image + ".part"
	if err := l.unmountDisk(ctx, m); err != nil { // a half-made one, after a crash
		return fail(err)
	}
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fail(err)
	}
	err = f.Truncate(l.Disk)
	f.Close()
	if err != nil {
		return fail(err)
	}
	if out, err := command(ctx, "mkfs.ext4", "-q", "-F", "-L", m.Name, "-E", "nodiscard", part).CombinedOutput(); err != nil {
		return fail(fmt.Errorf("mkfs.ext4: %w: %s", cause(ctx, err), strings.TrimSpace(string(out))))
	}
	if err := l.mountDisk(m, part); err != nil {
		return fail(err)
	}
	if err := install(l.hostPath(m, "root"), l.ownFiles(m)); err != nil {
		return fail(err)
	}
	if err := install(l.hostPath(m, "root"), files); err != nil {
		return fail(err)
	}
	if err := l.unmountDisk(ctx, m); err != nil {
		return fail(err)
	}
	return os.Rename(part, image)
}

// mountDisk mounts the image's ext4 and the overlay on it. The ext4's journal is
// replayed by this, after a power cut.
func (l *Lab) mountDisk(m Machine, image string) error {
	disk, root := l.hostPath(m, "disk"), l.hostPath(m, "root")
	for _, dir := range []string{disk, root} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if !isMount(disk) {
		if err := mountLoop(image, disk); err != nil {
			return err
		}
	}
	if isMount(root) {
		return nil
	}
	upper, work := filepath.Join(disk, "upper"), filepath.Join(disk, "work")
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	lower := slices.Clone(m.Layers)
	slices.Reverse(lower) // overlay wants the topmost first
	lower = append(lower, l.Base)
	for _, dir := range lower {
		if strings.ContainsAny(dir, ":,\\") {
			return fmt.Errorf("layer %q: a colon, comma or backslash in its path cannot be mounted", dir)
		}
		if !isDir(dir) {
			return fmt.Errorf("layer %s is no directory", dir)
		}
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount the overlay %s (%s): %w", root, options, err)
	}
	return nil
}

// mountLoop mounts the ext4 in image on dir. The loop device clears itself when
// the file system is gone: neither a crash of ours nor a forgotten step can
// leave one behind.
func mountLoop(image, dir string) error {
	backing, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("no loop devices on this machine: %w", err)
	}
	defer control.Close()
	for range 64 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return fmt.Errorf("ask for a free loop device: %w", err)
		}
		name := fmt.Sprintf("/dev/loop%d", n)
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			// In a container nobody makes the node of a new device.
			if err := unix.Mknod(name, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(n)))); err != nil && err != unix.EEXIST {
				return fmt.Errorf("make the node %s: %w", name, err)
			}
		}
		loop, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		cfg := unix.LoopConfig{Fd: uint32(backing.Fd())}
		// Direct I/O keeps each block in memory once, not twice.
		cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
		copy(cfg.Info.File_name[:], image)
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &cfg)
		if errors.Is(err, unix.EINVAL) { // the file system below cannot do direct I/O
			cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
			err = unix.IoctlLoopConfigure(int(loop.Fd()), &cfg)
		}
		if errors.Is(err, unix.EBUSY) { // another lab was quicker
			loop.Close()
			continue
		}
		if err == nil {
			err = unix.Mount(name, dir, "ext4", unix.MS_NOATIME, ext4Options)
		}
		loop.Close()
		if err != nil {
			return fmt.Errorf("mount %s (%s) on %s: %w", image, name, dir, err)
		}
		return nil
	}
	return errors.New("no free loop device after 64 attempts")
}

// Disk is what Hang stops to let a host's writes wait.
const Disk = "disk"

// freeze makes all writes to a host's disk wait, or lets them go on.
func (l *Lab) freeze(m Machine, stop bool) error {
	f, err := os.Open(l.hostPath(m, "disk"))
	if err != nil {
		return err
	}
	defer f.Close()
	if !isMount(f.Name()) {
		return errors.New("the host is not running")
	}
	if stop {
		// EBUSY: it is so already.
		if err := unix.IoctlSetInt(int(f.Fd()), freezeDisk, 0); err != nil && err != unix.EBUSY {
			return fmt.Errorf("freeze the disk: %w", err)
		}
		return nil
	}
	return thaw(f)
}

// thaw lets writes go on; EINVAL says that they were not waiting.
func thaw(f *os.File) error {
	if err := unix.IoctlSetInt(int(f.Fd()), thawDisk, 0); err != nil && err != unix.EINVAL {
		return fmt.Errorf("thaw the disk: %w", err)
	}
	return nil
}

// cutDisk makes the host's file system forget what it has not yet written. What
// waits for a hung disk gets an error now: it could not be killed otherwise.
func (l *Lab) cutDisk(m Machine) error {
	disk := l.hostPath(m, "disk")
	if !isMount(disk) {
		return nil
	}
	f, err := os.Open(disk)
	if err != nil {
		return fmt.Errorf("cut the power of %s's disk: %w", m.Name, err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, noLogFlush); err != nil {
		return fmt.Errorf("cut the power of %s's disk: EXT4_IOC_SHUTDOWN: %w", m.Name, err)
	}
	return thaw(f)
}

// unmountDisk unmounts what mountDisk mounted and waits until the kernel has let
// go of the disk: mounted again before that, it would still be the cut one.
func (l *Lab) unmountDisk(ctx context.Context, m Machine) error {
	if isMount(l.hostPath(m, "disk")) {
		// A hung disk would outlive its mount.
		if err := l.freeze(m, false); err != nil {
			return err
		}
	}
	for _, dir := range []string{l.hostPath(m, "root"), l.hostPath(m, "disk")} {
		if err := unmount(ctx, dir); err != nil {
			return err
		}
	}
	return waitFor(ctx, 20*time.Second, "the loop device of "+m.Name+" to be let go", func() (bool, error) {
		left, err := loopsBelow(l.hostPath(m))
		return len(left) == 0, err
	})
}

// unmount unmounts dir, which need not be mounted. Processes that were killed
// may need a moment to let go.
func unmount(ctx context.Context, dir string) error {
	err := waitFor(ctx, 10*time.Second, "nobody to use "+dir, func() (bool, error) {
		if !isMount(dir) {
			return true, nil
		}
		switch err := unix.Unmount(dir, 0); err {
		case nil:
			return !isMount(dir), nil // another may lie below
		case unix.EBUSY:
			return false, nil
		default:
			return false, err
		}
	})
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// unmountAll unmounts everything below the lab's directory, the latest first,
// and the directory's own mount on itself last: without it the kernel states the
// files of loop devices by another path.
func (l *Lab) unmountAll(ctx context.Context) error {
	mounts, err := mountsBelow(l.Path())
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(mounts) {
		if dir == l.Path() {
			continue
		}
		if err := unmount(ctx, dir); err != nil {
			return err
		}
	}
	err = waitFor(ctx, patience, "the loop devices to be let go", func() (bool, error) {
		left, err := loopsBelow(l.Path())
		return len(left) == 0, err
	})
	if err != nil {
		return err
	}
	for isMount(l.Path()) {
		// Detached, because our own lock is below it.
		if err := unix.Unmount(l.Path(), unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", l.Path(), err)
		}
	}
	return nil
}

// mountsBelow lists the mount points at and below dir, in the order of mounting.
func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20) // overlays with many layers make long lines
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			out = append(out, fields[4])
		}
	}
	return out, s.Err()
}

func isMount(dir string) bool {
	mounts, err := mountsBelow(dir)
	return err == nil && slices.Contains(mounts, dir)
}

// loopsBelow lists the loop devices whose file lies below dir.
func loopsBelow(dir string) ([]string, error) {
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		file, err := os.ReadFile(name)
		if err != nil {
			continue // cleared meanwhile
		}
		if strings.HasPrefix(string(file), dir+"/") {
			out = append(out, strings.Split(name, "/")[3])
		}
	}
	return out, nil
}

// ownFiles are what the lab itself puts on each disk.
func (l *Lab) ownFiles(m Machine) map[string]File {
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, h := range append(slices.Clone(l.Hosts), l.Client) {
		fmt.Fprintf(&hosts, "%s %s\n", h.Addresses["management"].V4.Addr(), h.Name)
	}
	for _, h := range l.Hosts {
		fmt.Fprintf(&hosts, "%s bmc-%s\n", h.BMC.Address, h.Name)
	}
	files := map[string]File{
		"/etc/hostname":    {Data: []byte(m.Name + "\n")},
		"/etc/hosts":       {Data: []byte(hosts.String())},
		"/etc/resolv.conf": {},
		"/etc/machine-id":  {Data: []byte(strings.ReplaceAll(m.UUID, "-", "") + "\n"), Mode: 0o444},
		// The console is a file of the lab: the journal's end is there also when the
		// host has lost what was on its disk.
		"/etc/systemd/journald.conf.d/lab.conf": {Data: []byte(
			"[Journal]\nStorage=persistent\nSystemMaxUse=64M\nRateLimitBurst=0\nForwardToConsole=yes\nMaxLevelConsole=info\n")},
	}
	for _, unit := range []string{
		"console-getty.service", "getty@.service", "getty.target", "systemd-udevd.service", "systemd-networkd.service",
		"systemd-resolved.service", "systemd-timesyncd.service", "systemd-logind.service",
		"apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer", "e2scrub_all.timer",
		"sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount",
		"systemd-sysctl.service", "systemd-modules-load.service",
	} {
		files["/etc/systemd/system/"+unit] = File{Link: "/dev/null"}
	}
	return files
}

// install writes files into the tree at root, replacing what is there.
// Directories that are missing are made, those of the tree keep their owners.
func install(dir string, files map[string]File) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, f := range files {
		if !path.IsAbs(name) || path.Clean(name) != name {
			return fmt.Errorf("put %q on the host: it is no clean absolute path", name)
		}
		if err := installOne(root, name[1:], f); err != nil {
			return fmt.Errorf("put %s on the host: %w", name, err)
		}
	}
	return nil
}

func installOne(root *os.Root, name string, f File) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	tmp := name + ".lab-new"
	if err := root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if f.Link != "" {
		if err := root.Symlink(f.Link, tmp); err != nil {
			return err
		}
		return root.Rename(tmp, name)
	}
	if f.Mode == 0 {
		f.Mode = 0o644
	}
	uid, gid, err := lookUp(root, f.Owner)
	if err != nil {
		return err
	}
	w, err := root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(f.Data)
	err = errors.Join(err, w.Chown(uid, gid), w.Chmod(f.Mode), w.Close())
	if err != nil {
		return err
	}
	return root.Rename(tmp, name)
}

// lookUp finds "user[:group]" in the passwd and group files of a tree.
func lookUp(root *os.Root, owner string) (uid, gid int, err error) {
	if owner == "" {
		return 0, 0, nil
	}
	user, group, named := strings.Cut(owner, ":")
	entry, err := lookUpLine(root, "etc/passwd", user)
	if err != nil {
		return 0, 0, err
	}
	uid, gid = entry[0], entry[1]
	if named {
		if entry, err = lookUpLine(root, "etc/group", group); err != nil {
			return 0, 0, err
		}
		gid = entry[0]
	}
	return uid, gid, nil
}

// lookUpLine returns the third and fourth field of name's line, as numbers.
func lookUpLine(root *os.Root, file, name string) ([2]int, error) {
	f, err := root.Open(file)
	if err != nil {
		return [2]int{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return [2]int{}, err
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(line, ":")
		if len(fields) < 4 || fields[0] != name {
			continue
		}
		var out [2]int
		for i := range out {
			out[i], _ = strconv.Atoi(fields[2+i]) // a group's fourth field is its members
		}
		return out, nil
	}
	return [2]int{}, fmt.Errorf("no %q in /%s of the host", name, file)
}
