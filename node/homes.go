package node

import (
	"fmt"
	"slices"
	"strings"

	"mainstay/fleet"
)

// deserts says which members of a database a new file would forget that may still be
// primary, or may have the last commits: the leader waits for each home of the file, and
// for nobody else, before it lets a cluster begin that has lost all its members. told says
// whether a host's report is of this moment.
//
// A home may go while another is primary and it has said itself that it is down, or is
// proved off: then it is in no other primary component, and the others have gone past it.
// While none is primary it goes only when it is proved off and a person has given up what
// only it has; which is when the leader waits for it no more either.
func deserts(now, spec fleet.Spec, state fleet.State, reports map[string]fleet.Report, told func(string) bool) (out []string) {
	for _, v := range now.Services {
		next, stays := spec.Service(v.Name)
		if v.Kind != "galera" || now.Mode == "shadow" {
			continue
		}
		var homes []string
		if stays && next.Kind == v.Kind {
			homes = spec.Homes(next)
		}
		lives := slices.ContainsFunc(now.Homes(v), func(host string) bool {
			c := reports[host].Services[v.Name]
			return told(host) && c.Phase == fleet.Running && c.Replica.Part != "" && c.Replica.Part != fleet.PartApart
		})
		for _, host := range now.Homes(v) {
			if slices.Contains(homes, host) {
				continue
			}
			p, proved := state.Proofs[host]
			proved = proved && p.Kind != "watchdog" && p.Boot == state.Members[host].Admitted && !told(host)
			_, waived := state.Wishes["without-"+v.Name+"-"+host]
			phase := reports[host].Services[v.Name].Phase
			down := told(host) && (phase == fleet.Stopped || phase == fleet.Failed || phase == fleet.Absent)
			_, joined := state.Members[host]
			switch {
			case proved && waived, lives && (proved || down), !joined && (lives || waived): // of a host that never joined there is no proof
			case !lives && !joined:
				out = append(out, fmt.Sprintf("services/%s: no member of it is primary, and %s, which would go, has never joined the site, so nothing is known of it: once you have seen that nothing of %[1]s runs there, mainstay recover service %[1]s --without %[2]s", v.Name, host))
			case !lives:
				out = append(out, fmt.Sprintf("services/%s: no member of it is primary, and %s, which would go, may have the newest data or be primary unseen: bring it back first (mainstay status says what it waits for); or mainstay recover oath %[2]s, once you have seen that it is off, and mainstay recover service %[1]s --without %[2]s",
					v.Name, host))
			case len(homes) == 0: // it runs on as it is, and others are primary
			default:
				out = append(out, fmt.Sprintf("services/%s: %s would go, and has not said that its member is down: mainstay maintenance %[2]s on, and there systemctl stop %[3]s; or mainstay recover oath %[2]s, once you have seen that it is off",
					v.Name, host, strings.Join(v.Units[:min(1, len(v.Units))], "")))
			}
		}
	}
	return out
}
