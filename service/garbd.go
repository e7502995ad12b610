package service

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"mainstay/fleet"
)

// garbdCopy is the kind "garbd": a systemd unit of Galera's arbitrator. It is a member
// that has a vote and no data: with it a cluster of two goes on when one of them is lost,
// as the arbiter among the hosts does for the store. It begins no cluster, and where data
// stand it is never asked; it joins as soon as a member is primary, again and again.
type garbdCopy struct {
	*unitCopy
	config string
	timers string
}

func openGarbd(s fleet.Service, env Env) (Copy, error) {
	u, p := newUnit(s, env)
	return &garbdCopy{unitCopy: u, config: p.text("config"), timers: galeraTimers(p)}, errors.Join(p.wrongs...)
}

// Examine compares its timers with those of the members: it cannot be told them while it
// runs, and at its own 5 s nobody could write for so long after a member's death.
func (c *garbdCopy) Examine([]fleet.Host) []string {
	raw, err := os.ReadFile(c.config)
	if err != nil {
		return []string{fmt.Sprintf("what it is started with cannot be read: %v", err)}
	}
	set := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(k, "#") {
			set[k] = strings.Trim(v, `"'`)
		}
	}
	var out []string
	for _, name := range []string{"GALERA_NODES", "GALERA_GROUP"} {
		if set[name] == "" {
			out = append(out, fmt.Sprintf("%s is not set in %s: it would find nobody; want the members' addresses, and their wsrep_cluster_name", name, c.config))
		}
	}
	have := map[string]bool{}
	for option := range strings.SplitSeq(set["GALERA_OPTIONS"], ";") {
		have[strings.ReplaceAll(option, " ", "")] = true
	}
	for option := range strings.SplitSeq(c.timers, "; ") {
		if option != "" && !have[option] {
			return append(out, fmt.Sprintf("GALERA_OPTIONS in %s lacks %s, and writers would wait longer for a member that is lost; want in it: %s", c.config, option, c.timers))
		}
	}
	return out
}
