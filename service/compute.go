package service

import (
	"errors"
	"path/filepath"

	"mainstay/fleet"
)

// openCompute makes a copy of the kind "compute": nova-compute. It is a unit that runs on
// every compute, and carries the bar all the same: of a host that was lost the servers are
// evacuated, and a nova-compute that a boot brings up meanwhile finds the orders of before in
// its queue and carries them out, which spoils servers that run well elsewhere. So
// on each boot it is started by Mainstay, once what the former boot left is settled.
func openCompute(s fleet.Service, env Env) (Copy, error) {
	c, p := newUnit(s, env)
	c.bar = bar{name: s.Name, held: filepath.Join(env.Held, s.Name), why: "It takes orders for servers only once those of the boot before are settled"}
	return c, errors.Join(p.wrongs...)
}
