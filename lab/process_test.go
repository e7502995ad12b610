package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// TestLateProcess: what a boot that was interrupted had begun may enter a host's cgroup after all of
// the host's processes were ended. It is ended too, or the lab could not be taken down.
func TestLateProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root")
	}
	l := &Lab{Name: "late"}
	dirs := l.makeCgroups("c1")
	if len(dirs) == 0 {
		t.Fatal("this machine has no cgroup that systemd could use")
	}
	late := exec.Command("sleep", "infinity")
	if err := late.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- late.Wait() }()
	t.Cleanup(func() { _ = late.Process.Kill() })
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(late.Process.Pid)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.removeHostCgroups(ctx, ""); err != nil {
		t.Fatal(err)
	}
	<-ended
	if left := l.cgroups(""); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
