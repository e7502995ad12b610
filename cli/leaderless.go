package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/plan"
)

// writeLeaderless says what holds while nobody leads, whose stores are missed, as far as
// the host that answered sees, and what helps. Where somebody leads, the waits name that.
func writeLeaderless(out io.Writer, s api.Status) {
	full := slices.ContainsFunc(s.Hosts, func(h api.HostStatus) bool { return h.Store == fleet.StoreFull })
	title := "NO LEADER"
	switch {
	case s.View == "leader" || s.Leader != "" && !full:
		return
	case full:
		title = "THE STORE IS FULL"
	}
	var voters, missed []string
	heard, votes := 0, false
	for _, h := range s.Hosts {
		if !h.Voter {
			continue
		}
		voters = append(voters, h.Name)
		votes = votes || h.Name == s.By
		var why string
		help := plan.StoreHelp(h.Name, h.Store)
		switch {
		case h.Condition != fleet.Healthy && h.Condition != fleet.Degraded:
			why, help = fmt.Sprintf("the host is %s: %s", h.Condition, h.Why), "look at its power and its networks"
		case h.Store != "" && h.Store != "votes" && h.Store != "learns" && h.Store != fleet.StoreAlone:
			why = fmt.Sprintf("its store is %s: %s", h.Store, h.StoreWhy)
			heard++
		default:
			heard++
			continue
		}
		missed = append(missed, fmt.Sprintf("  %s  %s\n      help: %s", h.Name, why, help))
	}
	fmt.Fprintf(out, "\n%s: nothing is decided, so nothing moves, nothing is started and nobody is fenced. What runs runs on.\n", title)
	if !votes {
		fmt.Fprintf(out, "  %s does not vote, and knows no more\n      help: mainstay status on one of %s\n", s.By, strings.Join(voters, ", "))
		return
	}
	most := fleet.Majority(len(voters))
	fmt.Fprintf(out, "  An address stays where it is while the agents of %d of the %d voters acknowledge its host, which needs no store: ", most, len(voters))
	if heard >= most {
		fmt.Fprintf(out, "%s hears %d.\n", s.By, heard)
	} else {
		fmt.Fprintf(out, "%s hears only %d, so on a host that sees no more it is silent.\n", s.By, heard)
	}
	for _, m := range missed {
		fmt.Fprintln(out, m)
	}
	if len(missed) == 0 {
		fmt.Fprintf(out, "  %s knows of no store that is missing: an election is over within a few seconds; else do the voters reach each other at port 7402?\n", s.By)
		return
	}
	fmt.Fprintf(out, "  When %d of the %d stores serve again, somebody leads. If that cannot be: \"Backup, restore, and a lost quorum\" in docs/OPERATING.md\n", most, len(voters))
}
