package openstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/services"

	"mainstay/fleet"
)

// patience is how long Nova's answer to a change of a service is awaited before it is asked
// whether the change was made. To disable a compute it first writes that down and then calls
// the compute, which may be the dead one: that takes a minute (rpc_response_timeout).
const patience = 3 * time.Second

// longest is the length of a reason that Nova takes.
const longest = 255

// Do carries out one step of fleet.VerbCloud, within ctx, once still has said that it may: it
// is asked when all is ready for the request, which a login may have held up. What is not
// answered within 15 s of that is given up. Each step may be asked for twice, but for evacuate, snapshot
// and reboot: Nova takes a second request for the same server, and spoils what the first
// one did, or reboots it once more; so who asks again must have seen what became of the first. Errors are *Error.
func (c *Client) Do(ctx context.Context, o fleet.Order, still func() error) error {
	sort, name, _ := strings.Cut(o.Thing, "/")
	doing := strings.TrimSpace(o.Step + " " + name)
	if name == "" || strings.ContainsAny(name, "/?#") {
		return &Error{fleet.Refused, doing, fmt.Sprintf("%q is neither compute/HOST nor server/ID nor image/ID", o.Thing)}
	}
	var deed func(context.Context, *gophercloud.ServiceClient) error
	service := func(want change) {
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error {
			return c.change(ctx, nova, name, want)
		}
	}
	switch sort + " " + o.Step {
	case "compute " + fleet.CloudDisable:
		reason := o.Why
		if reason == "" {
			reason = "Mainstay"
		}
		service(change{"status": "disabled", "disabled_reason": cut(reason, longest)})
	case "compute " + fleet.CloudEnable:
		service(change{"status": "enabled"})
	case "compute " + fleet.CloudForceDown:
		service(change{"forced_down": true})
	case "compute " + fleet.CloudLift:
		service(change{"forced_down": false})
	case "server " + fleet.CloudEvacuate:
		if o.With != "" {
			doing += " to " + o.With
		}
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error {
			if o.Mark == fleet.MarkStopped && c.speaks(stopping) {
				nova = at(nova, stopping)
			}
			return evacuate(ctx, nova, name, o.With)
		}
	case "server " + fleet.CloudSnapshot:
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error {
			return snapshot(ctx, nova, name, o.Mark)
		}
	case "server " + fleet.CloudRebuild:
		doing += " from image " + o.With
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error {
			return c.restore(ctx, nova, name, o.With)
		}
	case "image " + fleet.CloudPrune:
		deed = func(ctx context.Context, _ *gophercloud.ServiceClient) error { return c.prune(ctx, name) }
	case "server " + fleet.CloudMigrate:
		if o.With != "" {
			doing += " to " + o.With
		}
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error {
			return liveMigrate(ctx, nova, name, o.With)
		}
	case "compute " + fleet.CloudJoin, "compute " + fleet.CloudPart:
		if _, err := strconv.Atoi(o.With); err != nil {
			return &Error{fleet.Refused, doing, fmt.Sprintf("an aggregate is named by its id, a number, not by %q", o.With)}
		}
		doing += " aggregate " + o.With
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error {
			return belong(ctx, nova, o.With, name, o.Step == fleet.CloudJoin)
		}
	case "server " + fleet.CloudLock:
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error {
			return lock(ctx, nova, name, cut(cmp.Or(o.Why, fleet.LockReason), longest))
		}
	case "server " + fleet.CloudUnlock:
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error { return unlock(ctx, nova, name) }
	case "server " + fleet.CloudStart:
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error { return start(ctx, nova, name) }
	case "server " + fleet.CloudReboot:
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error {
			return reboot(ctx, nova, name, o.With)
		}
	case "server " + fleet.CloudStop:
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error { return stop(ctx, nova, name) }
	case "server " + fleet.CloudReset:
		if o.With != fleet.ServerActive && o.With != fleet.ServerError {
			return &Error{fleet.Refused, doing, fmt.Sprintf("a server is reset to %s or %s, not to %q", fleet.ServerActive, fleet.ServerError, o.With)}
		}
		doing += " to " + o.With
		deed = func(ctx context.Context, nova *gophercloud.ServiceClient) error {
			return act(ctx, nova, name, map[string]any{"os-resetState": map[string]any{"state": o.With}})
		}
	default:
		return &Error{fleet.Refused, doing, fmt.Sprintf("no such step of %q", o.Thing)}
	}
	nova, err := c.connect(ctx)
	if err != nil {
		return failed(doing, &unasked{err})
	}
	if err := still(); err != nil {
		return &Error{fleet.Refused, doing, err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	if err := deed(ctx, nova); err != nil {
		c.forget(err)
		return failed(doing, err)
	}
	return nil
}

// cut is text, at most n bytes of it, and no half characters.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "")
}

// change is what shall be different about a service. gophercloud's own drops what is false,
// so that a forced-down service could never be lifted.
type change map[string]any

// ToServiceUpdateMap makes it the body of a request.
func (w change) ToServiceUpdateMap() (map[string]any, error) { return w, nil }

// made says whether s is as wanted.
func (w change) made(s service) bool {
	if down, ok := w["forced_down"]; ok && down != s.Forced {
		return false
	}
	state, ok := w["status"]
	return !ok || state == s.Status
}

// change changes the service of host. Without an answer in time it looks whether it was done.
func (c *Client) change(ctx context.Context, nova *gophercloud.ServiceClient, host string, want change) error {
	id := c.known(host)
	for range 2 {
		if id == "" {
			s, err := c.service(ctx, nova, host)
			if err != nil {
				return &unasked{err}
			}
			id = s.ID
		}
		ask, cancel := context.WithTimeout(ctx, patience)
		err := services.Update(ask, nova, id, want).Err
		cancel()
		if err == nil {
			return nil
		}
		switch outcome(plain(err)) {
		case fleet.NoWord:
			if s, look := c.service(ctx, nova, host); look == nil && want.made(s) {
				return nil
			}
			return err
		case fleet.Refused:
			if status(plain(err)) != http.StatusNotFound {
				return err
			}
			c.know(host, "") // the service was deleted, and perhaps made anew
			id = ""
			continue
		}
		return err
	}
	return errors.New("the service's id is none to Nova, right after it gave it")
}

// service asks for the service of one host.
func (c *Client) service(ctx context.Context, nova *gophercloud.ServiceClient, host string) (service, error) {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	found, err := serviceList(ctx, nova, host)
	switch {
	case err != nil:
		return service{}, err
	case len(found) == 0:
		return service{}, &answer{http.StatusNotFound, "Nova knows no " + binary + " on " + host}
	case found[0].ID == "":
		return service{}, errors.New("its cell is beyond Nova's reach")
	}
	c.know(host, found[0].ID)
	return found[0], nil
}

// act posts an action. gophercloud's own evacuation sends a key that Nova has not taken since
// 2.14, and calls the empty answer that Nova gives since then an error.
func act(ctx context.Context, nova *gophercloud.ServiceClient, id string, action map[string]any) error {
	_, err := nova.Post(ctx, nova.ServiceURL("servers", id, "action"), action, nil, &gophercloud.RequestOpts{OkCodes: []int{200, 202}}) //nolint:bodyclose // gophercloud does
	return err
}

// evacuate asks Nova to build the server anew elsewhere, with its disk if that is shared.
// The scheduler has its say about host too: a host that has no room ends in an error of the
// server, not in one of this request.
func evacuate(ctx context.Context, nova *gophercloud.ServiceClient, id, host string) error {
	how := map[string]any{}
	if host != "" {
		how["host"] = host
	}
	return act(ctx, nova, id, map[string]any{"evacuate": how})
}

// liveMigrate asks Nova to bring a running server to host, or to where the scheduler chooses,
// without its noticing. Nova itself finds out whether its disk is shared. Since 2.34 Nova
// answers before it looks for a host: that there is none shows in the migration's record. A
// second one of the same server is refused while the first goes on.
func liveMigrate(ctx context.Context, nova *gophercloud.ServiceClient, id, host string) error {
	var to any
	if host != "" {
		to = host
	}
	return act(ctx, nova, id, map[string]any{"os-migrateLive": map[string]any{"host": to, "block_migration": "auto"}})
}

// start makes a server run that does not: one that is stopped is started, any other one
// rebooted from outside, which also mends one that is in error.
func start(ctx context.Context, nova *gophercloud.ServiceClient, id string) error {
	s, err := state(ctx, nova, id)
	switch {
	case err != nil:
		return &unasked{err}
	case s.State == fleet.ServerActive && s.Task == "" && s.Power == servers.RUNNING:
		return nil
	case s.State == fleet.ServerStopped:
		err = act(ctx, nova, id, map[string]any{"os-start": nil})
	default:
		err = act(ctx, nova, id, map[string]any{"reboot": map[string]any{"type": "HARD"}})
	}
	if status(plain(err)) == http.StatusConflict {
		// Another one was faster, or its task is on its way.
		if s, look := state(ctx, nova, id); look == nil && s.State == fleet.ServerActive && s.Task == "" {
			return nil
		}
	}
	return err
}

// reboot makes a server run whose guest has ended: start believes Nova, which says for up to
// ten minutes (sync_power_state_interval) that such a one is running. Nova has stopped it by itself if
// its nova-compute was told by libvirt. Where only is named, a server that runs is meant: one that has been stopped
// meanwhile, or locked by its owner, is left alone; one that an earlier try broke is not.
func reboot(ctx context.Context, nova *gophercloud.ServiceClient, id, only string) error {
	s, err := state(ctx, nova, id)
	switch {
	case err != nil:
		return &unasked{err}
	case s.Task != "":
		return &answer{http.StatusConflict, "Nova is about something else with it: " + s.Task}
	case only != "" && s.State != only && s.State != fleet.ServerError:
		return &answer{http.StatusConflict, "Nova says that it is " + s.State}
	case only != "" && s.Locked && !strings.HasPrefix(s.Reason, fleet.LockReason):
		return &answer{http.StatusConflict, "its owner has locked it"}
	case s.State == fleet.ServerStopped:
		return act(ctx, nova, id, map[string]any{"os-start": nil})
	}
	return act(ctx, nova, id, map[string]any{"reboot": map[string]any{"type": "HARD"}})
}

// stop stops a server.
func stop(ctx context.Context, nova *gophercloud.ServiceClient, id string) error {
	err := act(ctx, nova, id, map[string]any{"os-stop": nil})
	if status(plain(err)) == http.StatusConflict {
		if s, look := state(ctx, nova, id); look == nil && s.State == fleet.ServerStopped && s.Task == "" {
			return nil
		}
	}
	return err
}

// lock locks a server that nobody has locked. Nova would take a second lock of another project's
// server, and it would make the first one, perhaps its owner's, ours. (An owner's second lock
// changes nothing.)
func lock(ctx context.Context, nova *gophercloud.ServiceClient, id, reason string) error {
	s, err := state(ctx, nova, id)
	switch {
	case err != nil:
		return &unasked{err}
	case s.Locked:
		return nil
	}
	return act(ctx, nova, id, map[string]any{"lock": map[string]any{"locked_reason": reason}})
}

// unlock takes Mainstay's own lock from a server, and no other.
func unlock(ctx context.Context, nova *gophercloud.ServiceClient, id string) error {
	s, err := state(ctx, nova, id)
	switch {
	case err != nil:
		return &unasked{err}
	case !s.Locked || !strings.HasPrefix(s.Reason, fleet.LockReason):
		return nil
	}
	return act(ctx, nova, id, map[string]any{"unlock": nil})
}

// belong puts a host into an aggregate, or takes it out. Nova writes that down, and then tells
// Placement: when that fails it says that all has failed, and 409 or 404 to each later request for what is
// done. So an error is asked whether it was one; the next look shows the same.
func belong(ctx context.Context, nova *gophercloud.ServiceClient, aggregate, host string, in bool) error {
	step := "add_host"
	if !in {
		step = "remove_host"
	}
	ask, cancel := context.WithTimeout(ctx, patience)
	_, err := nova.Post(ask, nova.ServiceURL("os-aggregates", aggregate, "action"), map[string]any{step: map[string]any{"host": host}}, nil, &gophercloud.RequestOpts{OkCodes: []int{200}}) //nolint:bodyclose // gophercloud does
	cancel()
	if err == nil {
		return nil
	}
	var said struct {
		Aggregate struct{ Hosts []string }
	}
	look, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, failed := nova.Get(look, nova.ServiceURL("os-aggregates", aggregate), &said, nil) //nolint:bodyclose // gophercloud does
	if failed == nil && slices.Contains(said.Aggregate.Hosts, host) == in {
		return nil
	}
	return err
}

// condition is what a server is at.
type condition struct {
	State  string `json:"OS-EXT-STS:vm_state"`
	Task   string `json:"OS-EXT-STS:task_state"`
	Power  int    `json:"OS-EXT-STS:power_state"`
	Locked bool   `json:"locked"`
	Reason string `json:"locked_reason"`
	Image  any    `json:"image"`
}

func state(ctx context.Context, nova *gophercloud.ServiceClient, id string) (condition, error) {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	var s condition
	err := servers.Get(ctx, nova, id).ExtractInto(&s)
	return s, err
}
