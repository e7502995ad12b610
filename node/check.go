package node

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"mainstay/fleet"
	"mainstay/service"
	"mainstay/trust"
)

// CheckHost says what this host lacks to run its part of the site: a good
// certificate, its own addresses, HAProxy, and the units of its services. It
// changes nothing.
func CheckHost(ctx context.Context, c Config, spec fleet.Spec) []string {
	files := trust.Files{Dir: c.tls()}
	id, err := files.Load()
	if err != nil {
		return []string{err.Error() + "; mainstay init (on the first voter) or mainstay join makes one"}
	}
	me, ok := spec.Host(id.Name)
	if !ok {
		return []string{fmt.Sprintf("its certificate says %s, which the site's file does not name", id.Name)}
	}
	var out []string
	for _, network := range fleet.Sorted(me.Addresses) {
		if _, err := interfaceOf(me.Addresses[network]); err != nil {
			out = append(out, fmt.Sprintf("network %s: %v", network, err))
		}
	}
	if runsHAProxy(spec, me.Name) {
		if _, err := exec.LookPath("haproxy"); err != nil {
			out = append(out, "no haproxy here: apt-get install haproxy (or dnf, zypper)")
		}
	}
	system := service.NewSystemd("")
	defer system.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, v := range spec.Services {
		if !slices.Contains(spec.Homes(v), me.Name) {
			continue
		}
		s, err := service.Open(v, service.Env{Systemd: system})
		if err != nil {
			continue // told among the file's mistakes
		}
		state, err := s.State(ctx)
		switch {
		case err != nil:
			out = append(out, fmt.Sprintf("service %s: %v", v.Name, err))
		case state.Phase == fleet.Absent:
			out = append(out, fmt.Sprintf("service %s: none of its units exists here (%v): install it, or leave %s out for this host", v.Name, v.Units, v.Name))
		}
		_ = s.Close() // nothing was changed through it
	}
	return out
}
