package lab

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// writeTree writes files below dir by relative path.
func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMirrors(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		suite string
		want  []string
	}{
		{
			name: "deb822, another vendor beside it",
			files: map[string]string{
				"sources.list.d/debian.sources": `Types: deb
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
 bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
`,
				"sources.list.d/vendor.list": "deb [signed-by=/v.gpg] https://vendor.example/apt nodistro main\n",
			},
			suite: "bookworm",
			want: []string{
				"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main",
				"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm-updates main",
				"deb http://mirror.example/debian-security bookworm-security main",
			},
		},
		{
			name: "one line each, another suite",
			files: map[string]string{"sources.list": `
# deb http://comment.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://user:secret@mirror.example/debian stable main non-free # why
deb-src http://mirror.example/debian stable main
deb http://mirror.example/debian-security stable-security main
`},
			suite: "trixie",
			want: []string{
				"deb [signed-by=/k.gpg] http://user:secret@mirror.example/debian trixie main",
				"deb http://mirror.example/debian-security trixie-security main",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			etc := t.TempDir()
			writeTree(t, etc, tt.files)
			got, err := mirrors(etc, tt.suite)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("mirrors (-want +got):\n%s", diff)
			}
			if hosts := strings.Join(hostsOf(got), " "); hosts != "mirror.example" {
				t.Errorf("hosts told to people: %q", hosts)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		etc := t.TempDir()
		writeTree(t, etc, map[string]string{"sources.list": "deb http://archive.example/ubuntu jammy main\n"})
		_, err := mirrors(etc, "bookworm")
		if err == nil || !strings.Contains(err.Error(), "no Debian mirror in "+etc) {
			t.Errorf("error = %v", err)
		}
	})
}

// TestTree: a build that fails leaves nothing under the tree's name and hands
// what it had fetched to the next one; two at a time build once.
func TestTree(t *testing.T) {
	tr := tree{dir: filepath.Join(t.TempDir(), "bookworm-x"), what: "thing", room: 1}
	var mu sync.Mutex
	var said []string
	progress := func(s string) { mu.Lock(); said = append(said, s); mu.Unlock() }
	wrong := errors.New("the mirror went away")
	err := tr.make(t.Context(), progress, func(_ context.Context, dir, pool string, _ func(string)) error {
		writeTree(t, dir, map[string]string{"var/cache/apt/archives/a.deb": "A", "half": ""})
		return wrong
	})
	if !errors.Is(err, wrong) || !strings.Contains(err.Error(), "build the thing in "+tr.dir) {
		t.Errorf("error = %v", err)
	}
	if isDir(tr.dir) {
		t.Fatal("a failed build has made the tree")
	}
	var builds atomic.Int32
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			err := tr.make(t.Context(), progress, func(_ context.Context, dir, pool string, _ func(string)) error {
				builds.Add(1)
				if isDir(dir) {
					t.Error("the failed build was not cleared away")
				}
				if data, err := os.ReadFile(filepath.Join(pool, "a.deb")); err != nil || string(data) != "A" {
					t.Errorf("fetched package: %q, %v", data, err)
				}
				writeTree(t, dir, map[string]string{"whole": ""})
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
	if _, err := os.Stat(filepath.Join(tr.dir, "whole")); err != nil {
		t.Error(err)
	}
	for _, rest := range []string{".part", ".pool"} {
		if isDir(tr.dir + rest) {
			t.Errorf("%s is left", rest)
		}
	}
	if !strings.Contains(strings.Join(said, "\n"), "clearing away an interrupted build") {
		t.Errorf("progress said only %q", said)
	}
}

func TestTreeWaits(t *testing.T) {
	tr := tree{dir: filepath.Join(t.TempDir(), "x"), what: "thing", room: 1}
	unlock, err := hold(t.Context(), tr.dir+".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancelCause(t.Context())
	told := make(chan string, 1)
	go func() { t.Log(<-told); cancel(errors.New("enough")) }()
	err = tr.make(ctx, func(s string) { told <- s }, nil)
	if err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("error = %v", err)
	}
}

func TestTreeNoRoom(t *testing.T) {
	tr := tree{dir: filepath.Join(t.TempDir(), "x"), what: "thing", room: 1 << 60}
	err := tr.make(t.Context(), func(string) {}, nil)
	if err == nil || !strings.Contains(err.Error(), "MB free") {
		t.Errorf("error = %v", err)
	}
}

// TestRemoveTreeMounted: whatever is mounted below must not be emptied.
func TestRemoveTreeMounted(t *testing.T) {
	dir := t.TempDir()
	inner := filepath.Join(dir, "tree/dev")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", inner, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(inner, 0)
	precious := filepath.Join(inner, "precious")
	if err := os.WriteFile(precious, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(filepath.Join(dir, "tree")); err == nil || !strings.Contains(err.Error(), inner) {
		t.Errorf("error = %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

// TestFinish: nothing starts by itself, nothing of the machine is left.
func TestFinish(t *testing.T) {
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{
		"var/lib/mysql/ibdata1":           "x",
		"var/log/apt/history.log":         "x",
		"etc/hostname":                    "builder",
		"etc/apt/sources.list":            "deb http://user:secret@mirror.example/debian bookworm main",
		"usr/lib/systemd/system/x.socket": "",
		"etc/systemd/system/multi-user.target.wants/mariadb.service": "",
		"etc/rc2.d/S01mariadb": "",
	})
	if err := os.Symlink("/run/elsewhere", filepath.Join(dir, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	r := newRecipe("bookworm")
	if err := r.finish(dir); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"var/lib/mysql/ibdata1", "var/log/apt/history.log", "etc/hostname", "etc/apt/sources.list",
		"etc/systemd/system/multi-user.target.wants/mariadb.service", "etc/rc2.d/S01mariadb"} {
		if _, err := os.Lstat(filepath.Join(dir, gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", gone, err)
		}
	}
	for _, kept := range []string{"var/log/apt", "var/log/journal", "usr/lib/systemd/system/x.socket"} {
		if _, err := os.Lstat(filepath.Join(dir, kept)); err != nil {
			t.Error(err)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "etc/systemd/system/systemd-sysctl.service")); to != "/dev/null" {
		t.Errorf("systemd-sysctl is not masked: %q, %v", to, err)
	}
	if st, err := os.Lstat(filepath.Join(dir, "etc/resolv.conf")); err != nil || !st.Mode().IsRegular() || st.Size() != 0 {
		t.Errorf("resolv.conf: %v, %v", st, err)
	}
}

// TestContained: what a contained command started and mounted ends with it.
func TestContained(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The child holds the pipe open for as long as it lives.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := contained(ctx, "sh", "-c", "mount -t tmpfs tmpfs "+dir+" && touch "+dir+"/inside && { setsid sleep 1000 & }")
	cmd.Stdout = w
	err = run(cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the child outlived the command: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "inside")); err == nil {
		t.Error("the mount is seen outside")
	}
}

// TestContainedKeepsNoLab: it holds no disk of a lab that lives meanwhile.
func TestContainedKeepsNoLab(t *testing.T) {
	lab := filepath.Join(StateDir, "kept-by-nobody")
	if err := os.MkdirAll(lab, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", lab, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(lab, unix.MNT_DETACH), os.Remove(lab)); err != nil {
			t.Error(err)
		}
	})
	var out bytes.Buffer
	cmd := contained(t.Context(), "cat", "/proc/self/mountinfo")
	cmd.Stdout = &out
	if err := run(cmd); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), lab) {
		t.Errorf("it sees a lab's mount:\n%s", &out)
	}
	if !isMount(lab) {
		t.Error("it took the lab's mount away outside as well")
	}
}

func TestMissingPackages(t *testing.T) {
	got, err := missingPackages(t.Context(), []string{"dpkg", "no-such-package-anywhere", "apt"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"no-such-package-anywhere"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDigest(t *testing.T) {
	a, b := newRecipe("bookworm"), newRecipe("bookworm")
	if digest(a) != digest(b) {
		t.Error("the same recipe has two names")
	}
	b.Masked = b.Masked[1:]
	if digest(a) == digest(b) {
		t.Error("another recipe has the same name")
	}
}

// TestBase builds the tree if there is none yet, and looks into it.
func TestBase(t *testing.T) {
	if _, err := Base(t.Context(), "sid", func(string) {}); err == nil || !strings.Contains(err.Error(), "bookworm, trixie") {
		t.Errorf("an unknown suite: %v", err)
	}
	dir, err := Base(t.Context(), "", func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"usr/sbin/mariadbd", "usr/bin/keystone-manage", "usr/sbin/haproxy", "usr/sbin/keepalived", "usr/sbin/pacemakerd"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	units := []string{"mariadb", "keystone", "memcached", "haproxy", "keepalived", "pacemaker", "corosync", "nftables"}
	out, _ := exec.Command("systemctl", append([]string{"--root=" + dir, "is-enabled"}, units...)...).Output() // exits 1 for disabled
	if got := strings.Fields(string(out)); len(got) != len(units) || strings.Count(string(out), "disabled") != len(units) {
		t.Errorf("%q are %q, want all disabled", units, got)
	}
}
