package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// CacheDir holds the trees that are built once: base trees, seeds, and
// packages that an interrupted build had already fetched. Every lab's hosts are
// overlays of them and nothing ever writes into them again. Removing a tree
// that no lab uses is safe: the next Base or Seed builds it anew.
const CacheDir = "/var/cache/mainstay-lab"

// Suites are the Debian releases whose base tree is known to work.
func Suites() []string { return []string{"bookworm", "trixie"} }

// DefaultSuite is what an empty suite means.
const DefaultSuite = "bookworm"

// Packages returns the Debian packages that the hosts of a lab have, each
// followed in the tree by what it depends on; recommended ones are left out.
func Packages() []string {
	return []string{
		// the machine
		"systemd", "systemd-sysv", "dbus", "iproute2", "nftables", "procps", "netbase", "ca-certificates",
		"iputils-ping", "iputils-arping", "kmod",
		// the cloud
		"mariadb-server", "galera-4", "mariadb-backup", "socat", "rsync",
		"memcached", "rabbitmq-server", "haproxy", "keystone", "python3-pymysql", "python3-memcache",
		// the peers that the bench compares with
		"keepalived", "pacemaker", "pacemaker-cli-utils", "corosync", "resource-agents",
		// for looking around, and for breaking things
		"curl", "jq", "less", "strace", "tcpdump",
	}
}

// Prerequisites returns the Debian packages that the machine itself needs to
// build trees and to run a lab.
func Prerequisites() []string {
	return []string{
		"mmdebstrap",             // the base tree
		"debian-archive-keyring", // the keys that its packages are signed with
		"systemd-container",      // systemd-nspawn: a host
		"iproute2", "nftables",   // networks between hosts
		"e2fsprogs",      // a host's disk
		"util-linux",     // nsenter, losetup, mount
		"iputils-arping", // looking at addresses from outside
	}
}

// InstallPrerequisites installs those of Prerequisites that the machine lacks,
// and says which. It waits up to five minutes for another apt to finish.
func InstallPrerequisites(ctx context.Context, progress func(string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	missing, err := missingPackages(ctx, Prerequisites())
	if err != nil || len(missing) == 0 {
		return err
	}
	what := "install " + strings.Join(missing, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: needs root: run as root, or: sudo apt-get install %s", what, strings.Join(missing, " "))
	}
	progress("installing the Debian packages that a lab needs on this machine: " + strings.Join(missing, " "))
	apt := func(args ...string) error {
		cmd := command(ctx, "apt-get", append([]string{"-qq", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		var tail lastLines
		cmd.Stdout, cmd.Stderr = &tail, &tail
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: apt-get %s: %w: %s", what, args[0], cause(ctx, err), tail.String())
		}
		return nil
	}
	install := append([]string{"install", "-y", "--no-install-recommends"}, missing...)
	if apt(install...) == nil {
		return nil
	}
	// Lists that are absent or older than the mirror are the usual cause.
	if err := apt("update"); err != nil {
		return err
	}
	return apt(install...)
}

// missingPackages returns those names that dpkg does not hold as installed.
func missingPackages(ctx context.Context, names []string) ([]string, error) {
	cmd := command(ctx, "dpkg-query", append([]string{"-W", "-f", "${Package} ${db:Status-Status}\n"}, names...)...)
	out, err := cmd.Output() // exits 1 when one of the names is unknown, and lists the others
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		return nil, fmt.Errorf("ask dpkg which packages are installed: %w (a lab needs Debian)", cause(ctx, err))
	}
	have := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if name, status, _ := strings.Cut(strings.TrimSpace(line), " "); status == "installed" {
			have[name] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return have[n] }), nil
}

// Base returns the directory of the suite's base tree: a Debian with every
// package of Packages and no service enabled, from which each host of a lab is
// an overlay. It is built at the first call (about three minutes, 0.8 GB) and
// found again at later ones; its name carries a hash of all that went into it.
//
// Two builds at the same time wait for each other. One that was interrupted
// starts over with the packages that it had fetched. progress is told each step
// and why it is taken; it may be nil. The mirror is the one in the machine's own
// /etc/apt/sources.list or sources.list.d.
func Base(ctx context.Context, suite string, progress func(string)) (dir string, err error) {
	if suite == "" {
		suite = DefaultSuite
	}
	if !slices.Contains(Suites(), suite) {
		return "", fmt.Errorf("base tree: suite %q is not one of %s", suite, strings.Join(Suites(), ", "))
	}
	r := newRecipe(suite)
	t := tree{
		dir:  filepath.Join(CacheDir, suite+"-"+digest(r)),
		what: "base tree of Debian " + suite,
		room: 4 << 30,
	}
	return t.dir, t.make(ctx, progress, r.build)
}

// recipe is everything that decides what a base tree contains, but for the
// mirror and the day. It is data so that its digest changes with it.
type recipe struct {
	Suite    string
	Packages []string
	DpkgOpts []string
	AptOpts  []string
	Masked   []string
	Emptied  []string
	Files    map[string]string
}

func newRecipe(suite string) recipe {
	return recipe{
		Suite:    suite,
		Packages: Packages(),
		DpkgOpts: []string{
			"force-unsafe-io", // an interrupted tree is thrown away: nothing needs to be synced
			"path-exclude=/usr/share/doc/*",
			"path-exclude=/usr/share/info/*",
			"path-exclude=/usr/share/lintian/*",
			"path-exclude=/usr/share/locale/*",
			"path-exclude=/usr/share/man/*",
		},
		AptOpts: []string{
			`APT::Install-Recommends "false"`,
			`Acquire::Languages "none"`,
			`Acquire::Retries "3"`,
		},
		Masked: []string{
			// No terminals, seats, devices: a host is a container.
			"console-getty.service", "container-getty@.service", "getty@.service", "getty.target", "serial-getty@.service",
			"systemd-logind.service", "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udev-settle.service",
			"systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
			"dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount",
			"sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount",
			// These would write to the kernel of the machine, which is not the host's own.
			"systemd-sysctl.service", "systemd-modules-load.service", "systemd-binfmt.service",
			"proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount", "systemd-random-seed.service",
			"systemd-pstore.service", "modprobe@.service", "systemd-timesyncd.service", "systemd-hwdb-update.service",
			// The lab lays the networks and writes /etc/hosts.
			"networking.service", "systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service",
			"systemd-resolved.service",
			// A measurement is disturbed by whatever runs by the clock.
			"apt-daily.timer", "apt-daily-upgrade.timer", "apt-daily.service", "apt-daily-upgrade.service",
			"dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "logrotate.timer",
			"man-db.timer", "systemd-tmpfiles-clean.timer",
		},
		Emptied: []string{
			"var/lib/mysql",                // the seed brings its own
			"etc/keystone/fernet-keys",     // keys are made with the seed, never shared through the base
			"etc/keystone/credential-keys", //
			"var/lib/apt/lists", "var/cache/apt/archives", "var/log", "tmp", "run", "boot",
		},
		Files: map[string]string{
			// Empty, not absent: absent would be a first boot, which enables everything.
			"etc/machine-id":  "",
			"etc/resolv.conf": "",
			"etc/hosts":       "127.0.0.1 localhost\n::1 localhost\n",
			"etc/systemd/system-preset/00-mainstay-lab.preset": "disable *\n",
			"etc/systemd/journald.conf.d/mainstay-lab.conf":    "[Journal]\nStorage=persistent\nSystemMaxUse=64M\nForwardToWall=no\n",
			"etc/systemd/system.conf.d/mainstay-lab.conf":      "[Manager]\nShowStatus=no\nDefaultTimeoutStopSec=30s\n",
			"etc/default/locale":                               "LANG=C.UTF-8\n",
		},
	}
}

// build makes the tree in dir. Packages that an interrupted build left in pool
// are not fetched again.
func (r recipe) build(ctx context.Context, dir, pool string, progress func(string)) error {
	mirrors, err := mirrors("/etc/apt", r.Suite)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return fmt.Errorf("mmdebstrap is not installed: apt-get install mmdebstrap")
	}
	proxies, err := aptProxies(ctx)
	if err != nil {
		return err
	}
	// Mirrors and proxies may carry passwords: they travel in files, not in arguments.
	apt, list := dir+".apt.conf", dir+".sources.list"
	defer os.Remove(apt)
	if err := os.WriteFile(apt, []byte(strings.Join(append(slices.Clone(r.AptOpts), proxies...), ";\n")+";\n"), 0o600); err != nil {
		return err
	}
	defer os.Remove(list)
	if err := os.WriteFile(list, []byte(strings.Join(mirrors, "\n")+"\n"), 0o600); err != nil {
		return err
	}

	args := []string{
		"--mode=root", "--variant=minbase", "--format=directory",
		"--include=" + strings.Join(r.Packages, ","), "--aptopt=" + apt,
	}
	for _, o := range r.DpkgOpts {
		args = append(args, "--dpkgopt="+o)
	}
	if debs, _ := filepath.Glob(filepath.Join(pool, "*.deb")); len(debs) > 0 {
		progress(fmt.Sprintf("using again %d packages that an interrupted build had fetched", len(debs)))
		args = append(args, "--skip=download/empty", "--setup-hook=mkdir -p \"$1\"/var/cache/apt/archives/",
			"--setup-hook=sync-in "+pool+" /var/cache/apt/archives/")
	}
	args = append(args, r.Suite, dir, list)
	progress(fmt.Sprintf("installing Debian %s and %d packages, with all that they need, from %s (about three minutes, only once)",
		r.Suite, len(r.Packages), strings.Join(hostsOf(mirrors), ", ")))

	cmd := contained(ctx, "mmdebstrap", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
	tail := lastLines{each: func(line string) {
		if step, ok := strings.CutPrefix(line, "I: "); ok {
			progress(step)
		}
	}}
	cmd.Stdout, cmd.Stderr = &tail, &tail
	if err := run(cmd); err != nil {
		return fmt.Errorf("mmdebstrap: %w: %s", cause(ctx, err), tail.String())
	}
	progress("disabling every service and masking what a container must not run")
	return r.finish(dir)
}

// finish turns an installed Debian into a host that starts nothing by itself.
func (r recipe) finish(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range r.Emptied {
		if err := empty(root, name); err != nil {
			return fmt.Errorf("empty %s: %w", name, err)
		}
	}
	// Services are enabled by links in NAME.wants; those of dbus and sockets that
	// systemd itself needs lie in /usr/lib and stay.
	for _, pattern := range []string{"etc/systemd/system/*.wants/*", "etc/systemd/system/*.requires/*", "etc/rc?.d/S*"} {
		names, err := fs.Glob(root.FS(), pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := root.Remove(name); err != nil {
				return err
			}
		}
	}
	for _, unit := range r.Masked {
		name := "etc/systemd/system/" + unit
		if err := root.RemoveAll(name); err != nil {
			return err
		}
		if err := root.Symlink("/dev/null", name); err != nil {
			return err
		}
	}
	for name, data := range r.Files {
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := root.RemoveAll(name); err != nil { // resolv.conf may be a link
			return err
		}
		if err := root.WriteFile(name, []byte(data), 0o644); err != nil {
			return err
		}
	}
	for _, name := range []string{"etc/hostname", "etc/apt/apt.conf.d/99mmdebstrap", "etc/apt/sources.list", "var/lib/dbus/machine-id"} {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	return root.MkdirAll("var/log/journal", 0o755)
}

// empty removes what is in a directory of root but keeps the directories that a
// package owns there: some services do not start without their log directory.
func empty(root *os.Root, name string) error {
	keepDirs := name == "var/log"
	return fs.WalkDir(root.FS(), name, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case path == name, keepDirs && d.IsDir():
			return nil
		case d.IsDir():
			if err := root.RemoveAll(path); err != nil {
				return err
			}
			return fs.SkipDir
		}
		return root.Remove(path)
	})
}

// A tree is a directory of the cache that either exists whole or not at all.
type tree struct {
	dir  string
	what string // for people
	room uint64 // bytes that a build needs free
}

// make returns when the tree exists. It calls build, when it does not, with a
// directory beside the tree and renames that at the end; so a tree under its
// own name is always complete. A lock makes a second caller wait for the first.
func (t tree) make(ctx context.Context, progress func(string), build func(ctx context.Context, dir, pool string, progress func(string)) error) (err error) {
	if isDir(t.dir) {
		return nil
	}
	if progress == nil {
		progress = func(string) {}
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("build the %s in %s: %w", t.what, t.dir, err)
		}
	}()
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("needs root, this is uid %d: run with sudo", uid)
	}
	if err := os.MkdirAll(filepath.Dir(t.dir), 0o755); err != nil {
		return err
	}
	waiting := time.AfterFunc(time.Second, func() { progress("waiting for another build of the " + t.what) })
	unlock, err := hold(ctx, t.dir+".lock")
	waiting.Stop()
	if err != nil {
		return err
	}
	defer unlock()
	if isDir(t.dir) {
		return nil
	}
	part, pool := t.dir+".part", t.dir+".pool"
	if isDir(part) {
		progress("clearing away an interrupted build in " + part)
		if err := salvage(part, pool); err != nil {
			return err
		}
		if err := removeTree(part); err != nil {
			return err
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(t.dir), &st); err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < t.room {
		return fmt.Errorf("needs %d MB free, there are %d MB", t.room>>20, free>>20)
	}
	start := time.Now()
	progress(fmt.Sprintf("building the %s in %s", t.what, t.dir))
	if err := build(ctx, part, pool, progress); err != nil {
		return err // the rest stays in .part: the next attempt takes from it what it can
	}
	if err := os.Rename(part, t.dir); err != nil {
		return err
	}
	if err := os.RemoveAll(pool); err != nil {
		return err
	}
	progress(fmt.Sprintf("built the %s in %s", t.what, time.Since(start).Round(time.Second)))
	return nil
}

// salvage moves the packages that a dead build had fetched into pool. apt
// leaves a package in archives only once it is whole and its hash was right.
func salvage(part, pool string) error {
	debs, err := filepath.Glob(filepath.Join(part, "var/cache/apt/archives/*.deb"))
	if err != nil || len(debs) == 0 {
		return err
	}
	if err := os.MkdirAll(pool, 0o755); err != nil {
		return err
	}
	for _, deb := range debs {
		if err := os.Rename(deb, filepath.Join(pool, filepath.Base(deb))); err != nil {
			return err
		}
	}
	return nil
}

// removeTree removes a directory tree of the cache. It refuses while anything is
// mounted below it: the removal would reach into the machine's own /dev.
func removeTree(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("remove %s: %s is still mounted: umount it first", dir, strings.Join(mounts, " and "))
	}
	return os.RemoveAll(dir)
}

// mirrors returns the one-line sources from which the machine (its apt
// configuration is in etc) gets its own Debian, with suite in place of the
// machine's release. Other archives, such as a vendor's, are left out.
func mirrors(etc, suite string) ([]string, error) {
	sources, err := aptSources(etc)
	if err != nil {
		return nil, fmt.Errorf("read the machine's mirrors: %w", err)
	}
	var out []string
	for _, s := range sources {
		if !slices.Contains(s.components, "main") {
			continue
		}
		for _, have := range s.suites {
			release, part, _ := strings.Cut(have, "-")
			if !slices.Contains(releases, release) {
				continue
			}
			name := suite
			switch part {
			case "":
			case "updates", "security":
				name += "-" + part
			default:
				continue // backports and the like would change what a host is
			}
			signed := ""
			if s.signedBy != "" {
				signed = "[signed-by=" + s.signedBy + "] "
			}
			for _, uri := range s.uris {
				line := fmt.Sprintf("deb %s%s %s main", signed, uri, name)
				if !slices.Contains(out, line) {
					out = append(out, line)
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no Debian mirror in %[1]s/sources.list or %[1]s/sources.list.d: a line such as "+
			`"deb http://MIRROR/debian bookworm main" would be right`, etc)
	}
	return out, nil
}

// releases are the names under which a Debian archive may be configured here.
var releases = []string{"stable", "oldstable", "testing", "bullseye", "bookworm", "trixie", "forky"}

// source is one entry of apt's configuration.
type source struct {
	uris, suites, components []string
	signedBy                 string // a file, or empty
}

// aptSources reads sources.list and sources.list.d below etc, in both of apt's
// formats.
func aptSources(etc string) ([]source, error) {
	names := []string{filepath.Join(etc, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(etc, "sources.list.d", pattern))
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
	}
	var out []source
	for _, name := range names {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		if strings.HasSuffix(name, ".sources") {
			out = append(out, parseDeb822(string(data))...)
		} else {
			out = append(out, parseOneLine(string(data))...)
		}
	}
	return out, nil
}

// parseOneLine reads "deb [option=value ...] uri suite component ..." lines.
func parseOneLine(text string) []source {
	var out []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		var s source
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			var options string
			options, rest, _ = strings.Cut(rest[1:], "]")
			for _, o := range strings.Fields(options) {
				if key, value, _ := strings.Cut(o, "="); key == "signed-by" {
					s.signedBy = value
				}
			}
		}
		f := strings.Fields(rest)
		if len(f) < 3 {
			continue
		}
		s.uris, s.suites, s.components = f[:1], f[1:2], f[2:]
		out = append(out, s)
	}
	return out
}

// parseDeb822 reads stanzas of "Key: value" lines. A key given as the text
// of a Signed-By (an embedded key) is left to the machine's trusted ones.
func parseDeb822(text string) []source {
	var out []source
	for stanza := range strings.SplitSeq(text, "\n\n") {
		fields := map[string]string{}
		key := ""
		for line := range strings.Lines(stanza) {
			switch {
			case strings.HasPrefix(line, "#"):
			case strings.HasPrefix(line, " "), strings.HasPrefix(line, "\t"):
				fields[key] += " " + strings.TrimSpace(line)
			default:
				var value string
				key, value, _ = strings.Cut(line, ":")
				key = strings.ToLower(strings.TrimSpace(key))
				fields[key] = strings.TrimSpace(value)
			}
		}
		if !slices.Contains(strings.Fields(fields["types"]), "deb") || strings.EqualFold(fields["enabled"], "no") {
			continue
		}
		s := source{
			uris:       strings.Fields(fields["uris"]),
			suites:     strings.Fields(fields["suites"]),
			components: strings.Fields(fields["components"]),
		}
		if strings.HasPrefix(fields["signed-by"], "/") {
			s.signedBy = fields["signed-by"]
		}
		out = append(out, s)
	}
	return out
}

// hostsOf returns the hosts of one-line sources, for people to read. Anything
// before an @ is a password.
func hostsOf(lines []string) []string {
	var out []string
	for _, line := range lines {
		_, rest, _ := strings.Cut(line, "://")
		name, _, _ := strings.Cut(rest, "/")
		name = name[strings.LastIndex(name, "@")+1:]
		if name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// aptProxies returns the machine's own proxy settings as lines of apt.conf.
func aptProxies(ctx context.Context) ([]string, error) {
	var out []string
	for _, scheme := range []string{"http", "https"} {
		text, err := command(ctx, "apt-config", "dump", "--format", "%F \"%v\"%n", "Acquire::"+scheme+"::Proxy").Output()
		if err != nil {
			return nil, fmt.Errorf("ask apt for its %s proxy: %w", scheme, cause(ctx, err))
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); !strings.HasSuffix(line, `""`) && line != "" {
				out = append(out, line)
			}
		}
	}
	return out, nil
}

// digest names a recipe.
func digest(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // only plain data is ever given
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:12]
}

func isDir(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.IsDir()
}

// command is exec.CommandContext for programs of the system: they find the
// administrator's programs also where a plain user's PATH does not have them.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if !strings.Contains(name, "/") {
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if _, err := exec.LookPath(name); err == nil {
				break
			}
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				name = filepath.Join(dir, name)
			}
		}
	}
	return exec.CommandContext(ctx, name, args...)
}

// contained is a command that takes everything it started, and everything it
// mounted, along when it ends or when we do: it is the first process of its own
// namespace of processes, and its mounts are its own. Start it with run. It lets go of
// the labs that it finds mounted: its copies would keep their disks from being the cut
// ones when their hosts lose power, for as long as it runs.
func contained(ctx context.Context, name string, args ...string) *exec.Cmd {
	const free = `for lab in ` + StateDir + `/*; do umount -R -l "$lab" 2>/dev/null || :; done; exec "$@"`
	cmd := command(ctx, "sh", append([]string{"-c", free, "sh", command(ctx, name).Path}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS, // also makes its mounts private
		Pdeathsig:    syscall.SIGKILL,
	}
	return cmd
}

// run runs a contained command. Its thread stays ours, because the kernel
// sends Pdeathsig when the thread that started the process ends, not the process.
func run(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// cause prefers the reason for which we ended a command over "signal: killed".
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// lastLines keeps the end of a command's output for its error message, and
// hands each line on.
type lastLines struct {
	each  func(line string)
	rest  []byte
	lines []string
}

// Write implements io.Writer.
func (l *lastLines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexAny(l.rest, "\n\r")
		if i < 0 {
			return len(p), nil
		}
		line := strings.TrimSpace(string(l.rest[:i]))
		l.rest = l.rest[i+1:]
		if line == "" {
			continue
		}
		if l.each != nil {
			l.each(line)
		}
		l.lines = append(l.lines, line)
		if n := len(l.lines); n > 12 {
			l.lines = l.lines[n-12:]
		}
	}
}

// String returns the kept lines in one.
func (l *lastLines) String() string {
	return strings.Join(append(slices.Clone(l.lines), strings.TrimSpace(string(l.rest))), "; ")
}
