package service

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestUnits has systemd itself judge the files, and looks at what the safety of
// an agent's restart rests on.
func TestUnits(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "etc/systemd/system")
	values := UnitValues{Binary: "/bin/true", HAProxy: "/bin/true"}
	changed, err := WriteUnits(dir, values)
	want := []string{"mainstay-haproxy.service", "mainstay-keystone-flush.service", "mainstay-quorum.service", "mainstay.service"}
	if err != nil || !slices.Equal(changed, want) {
		t.Fatalf("WriteUnits = %v, %v; want %v", changed, err, want)
	}
	if changed, err := WriteUnits(dir, values); err != nil || len(changed) > 0 {
		t.Errorf("WriteUnits again = %v, %v; want no change", changed, err)
	}
	for _, name := range want {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			if slices.Contains([]string{"PartOf", "BindsTo", "Requires", "Requisite", "Conflicts", "PropagatesStopTo", "Upholds"}, key) {
				t.Errorf("%s: %s=%s: no unit of ours may take another along", name, key, value)
			}
			if key == "RuntimeDirectory" && !strings.Contains(string(text), "\nRuntimeDirectoryPreserve=yes\n") {
				t.Errorf("%s: its stop would remove /run/mainstay with every stint and right in it", name)
			}
			if key == "WantedBy" && name != AgentUnit {
				t.Errorf("%s: only the agent starts at boot", name)
			}
		}
		for _, need := range map[string][]string{
			AgentUnit:   {"Type=notify", "WatchdogSec=", "Restart=always", "OOMScoreAdjust=-", "TimerSlackNSec=", "KillMode=process", "ExecStop=/bin/sh -c 'test -z \"$$MAINPID\" || { kill -TERM", "ExecStart=/bin/true run", "WantedBy=multi-user.target"},
			QuorumUnit:  {"ExecStart=/bin/true quorum", "IOWeight=", "LimitNOFILE=", "TimerSlackNSec=", "Restart=on-failure", "RestartSec="},
			HAProxyUnit: {"ExecStart=/bin/true -Ws -f /etc/mainstay/haproxy.cfg", "ExecReload=/bin/true -Ws -f /etc/mainstay/haproxy.cfg -c -q\nExecReload=/bin/kill -USR2 $MAINPID", "KillMode=mixed"},
		}[name] {
			if !strings.Contains(string(text), need) {
				t.Errorf("%s lacks %s", name, need)
			}
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", filepath.Join(dir, name)).CombinedOutput()
		if err != nil || strings.Contains(string(out), name+":") {
			t.Errorf("systemd does not like %s: %v\n%s", name, err, out)
		}
	}
}

func TestUnitsForNewerSystemd(t *testing.T) {
	old, err := Units(UnitValues{})
	if err != nil {
		t.Fatal(err)
	}
	newer, err := Units(UnitValues{Systemd: 257})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(slices.Sorted(maps.Keys(old)), slices.Sorted(maps.Keys(newer))) {
		t.Error("the set of units depends on the version")
	}
	if strings.Contains(old[QuorumUnit], "RestartSteps") || !strings.Contains(newer[QuorumUnit], "\nRestartSteps=5\n") {
		t.Error("RestartSteps is known since version 254")
	}
	if !strings.Contains(old[AgentUnit], "ExecStart=/usr/bin/mainstay run\n") {
		t.Error("the defaults are not those of production")
	}
}
