package lab

import (
	"os"
	"strings"
	"testing"
	"time"

	"mainstay/service"
)

// TestAccounts looks at this process, which has worked until its account moved.
func TestAccounts(t *testing.T) {
	before, err := cpuTicks(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; {
		now, err := cpuTicks(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > before+2 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("this process has worked for a minute, and its account stands still")
		}
	}
	if rss, err := resident(os.Getpid()); err != nil || rss < 1<<20 || rss > 1<<40 {
		t.Errorf("%d bytes resident: %v", rss, err)
	}
	if _, err := cpuTicks(1 << 30); err == nil {
		t.Error("there is an account of a process that is not there")
	}
}

func TestLoadsPrint(t *testing.T) {
	var b strings.Builder
	ls := Loads{
		{Host: "c1", Unit: service.AgentUnit, CPU: 0.021, RSS: 40 << 20}, {Host: "c1", Unit: service.QuorumUnit, CPU: 0.03, RSS: 60 << 20},
		{Host: "n1", Unit: service.AgentUnit, CPU: 0.004, RSS: 30 << 20},
	}
	if err := ls.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2.1 %", "5.1 %", "100 MB", "0.4 %", "30 MB"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing:\n%s", want, b.String())
		}
	}
}
