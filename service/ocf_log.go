package service

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// An agent is to say why it failed on its standard error (ocf_exit_reason). Many say it
// in the system's log alone (ocf_log), where nobody looks first, and end with a bare 1:
// Debian's rabbitmq-server among them. So each run is given a file for what it logs, as
// resource-agents offer it (HA_DEBUGLOG), besides the system's log.

// agentLog is that file. It is read once and taken away.
type agentLog struct{ path string }

// openAgentLog makes one in the directory of the shims. An agent that gets none says less.
func openAgentLog(dir string) agentLog {
	f, err := os.CreateTemp(dir, "log.*")
	if err != nil {
		return agentLog{}
	}
	_ = f.Close()
	return agentLog{f.Name()}
}

func (l agentLog) env() []string {
	if l.path == "" {
		return nil
	}
	return []string{"HA_DEBUGLOG=" + l.path}
}

// agentLine is one of ocf-shellfuncs and of ocf.py: the agent, a tab, a date, and
var agentLine = regexp.MustCompile(`^[^\t]+:\t.*?\b(CRIT|CRITICAL|ERROR|WARN|WARNING|INFO): (.+)$`)

// close says what the log tells of a failure: its last error with the line before that,
// which is often what the agent's own command said. last is its last line of any level.
func (l agentLog) close(hide func(string) string) (failure, last string) {
	if l.path == "" {
		return "", ""
	}
	raw, _ := os.ReadFile(l.path)
	_ = os.Remove(l.path)
	for line := range strings.Lines(string(raw[:min(len(raw), spoken)])) {
		m := agentLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		said := shortened(hide(strings.TrimSpace(m[2])))
		if m[1] == "ERROR" || strings.HasPrefix(m[1], "CRIT") {
			failure = said
			if last != "" && last != said {
				failure = fmt.Sprintf("%s (before that: %s)", said, last)
			}
		}
		last = said
	}
	return failure, last
}

// shortened cuts what is too long for a status. Secrets are hidden before.
func shortened(text string) string {
	const most = 300
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
