package node

import (
	"context"

	"mainstay/fleet"
	"mainstay/openstack"
)

// checkCloud tells what would keep this host from looking at the site's cloud and acting on
// it, which whoever leads does. That Keystone or Nova does not answer now says nothing
// against the file.
func checkCloud(ctx context.Context, spec fleet.Spec) (out fleet.Faults) {
	client, err := openstack.Open(spec.OpenStack)
	if err != nil {
		return fleet.Faults{{Path: "openstack", Rule: "openstack", Problem: err.Error(), Want: "an entry with auth_url, username, password, project_name, the domains and region_name, in a file for root alone on each voter"}}
	}
	defer client.Close()
	var computes []string
	for _, h := range spec.Hosts {
		if h.HasRole("compute") {
			computes = append(computes, h.Name)
		}
	}
	for _, problem := range client.Examine(ctx, computes) {
		out = append(out, fleet.Fault{Path: "openstack", Rule: "openstack", Problem: problem, Warning: true})
	}
	return out
}
