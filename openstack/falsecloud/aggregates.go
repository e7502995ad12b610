package falsecloud

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

// HalveAggregates has the next n changes of aggregates made and answered as failed: Nova
// writes its own record, and then cannot tell Placement.
func (c *Cloud) HalveAggregates(n int) {
	defer c.enter()()
	c.halved = n
}

func (c *Cloud) join(a *Aggregate, host string) {
	a.Hosts = append(a.Hosts, host)
	if h := c.computes[host]; h != nil && a.zone() != "" {
		h.zone = a.zone()
	}
}

// zone is the availability zone that it makes of its hosts; "": none.
func (a *Aggregate) zone() string { return a.Metadata["availability_zone"] }

func (c *Cloud) shown(i int) object {
	a := c.aggregates[i]
	metadata := a.Metadata
	if metadata == nil {
		metadata = map[string]string{}
	}
	return object{"id": i + 1, "name": a.Name, "hosts": append([]string{}, a.Hosts...), "metadata": metadata, "availability_zone": metadata["availability_zone"]}
}

// aggregate is the one of the request, or nil when that was answered.
func (c *Cloud) aggregate(w http.ResponseWriter, r *request) (at int, a *Aggregate) {
	if n, err := strconv.Atoi(r.PathValue("id")); err == nil && n > 0 && n <= len(c.aggregates) {
		return n - 1, &c.aggregates[n-1]
	}
	complain(w, 404, "itemNotFound", fmt.Sprintf("Aggregate %s could not be found.", r.PathValue("id")))
	return 0, nil
}

func (c *Cloud) showAggregate(w http.ResponseWriter, r *request) {
	if at, a := c.aggregate(w, r); a != nil {
		answer(w, 200, object{"aggregate": c.shown(at)})
	}
}

func (c *Cloud) actOnAggregate(w http.ResponseWriter, r *request) {
	at, a := c.aggregate(w, r)
	if a == nil {
		return
	}
	var ask map[string]struct{ Host string }
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil || len(ask) != 1 {
		complain(w, 400, "badRequest", "Invalid input for an aggregate's action.")
		return
	}
	for step, with := range ask {
		h := c.computes[with.Host]
		switch {
		case h == nil:
			complain(w, 404, "itemNotFound", fmt.Sprintf("Compute host %s could not be found.", with.Host))
			return
		case step == "add_host" && slices.Contains(a.Hosts, h.name):
			complain(w, 409, "conflictingRequest", fmt.Sprintf("Cannot add host %s in aggregate %d: host exists", h.name, at+1))
			return
		case step == "add_host" && a.zone() != "" && slices.ContainsFunc(c.aggregates, func(o Aggregate) bool {
			return o.zone() != "" && o.zone() != a.zone() && slices.Contains(o.Hosts, h.name)
		}):
			complain(w, 409, "conflictingRequest", fmt.Sprintf("Cannot perform action 'add_host_to_aggregate' on aggregate %d. Reason: Host %s already in availability zone.", at+1, h.name))
			return
		case step == "add_host":
			c.join(a, h.name)
		case step == "remove_host" && !slices.Contains(a.Hosts, h.name):
			complain(w, 404, "itemNotFound", fmt.Sprintf("Aggregate %d has no host %s.", at+1, h.name))
			return
		case step == "remove_host":
			a.Hosts = slices.DeleteFunc(a.Hosts, func(name string) bool { return name == h.name })
			if a.zone() != "" {
				h.zone = "nova"
			}
		default:
			complain(w, 400, "badRequest", "Invalid input for an aggregate's action.")
			return
		}
	}
	if c.halved > 0 {
		c.halved--
		complain(w, 409, "conflictingRequest", "Failed to synchronize the placement aggregates.")
		return
	}
	answer(w, 200, object{"aggregate": c.shown(at)})
}
