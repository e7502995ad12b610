package falsecloud

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// show is a server as the API tells it.
func (c *Cloud) show(s *server, version int) object {
	status := map[string]string{"active": "ACTIVE", "stopped": "SHUTOFF", "error": "ERROR", "deleted": "DELETED"}[s.State]
	switch {
	case status == "":
		status = strings.ToUpper(s.State)
	case strings.HasPrefix(s.task, "rebuild"):
		status = "REBUILD"
	}
	var task any
	if s.task != "" {
		task = s.task
	}
	image := any(object{"id": cmp.Or(s.image, original)})
	if s.Volume {
		image = ""
	}
	power, zone := 0, ""
	if h := c.computes[s.Host]; h != nil {
		zone = h.zone
		if h.guests[s.id] || s.believed {
			power = 1
		}
	}
	extra := s.Extra
	if extra == nil {
		extra = map[string]string{}
	}
	o := object{
		"id": s.id, "name": s.Name, "tenant_id": s.Project, "user_id": "u", "status": status, "created": s.created.UTC().Format(time.RFC3339), "updated": s.updated.UTC().Format(time.RFC3339),
		"OS-EXT-SRV-ATTR:host": s.Host, "OS-EXT-STS:vm_state": s.State, "OS-EXT-STS:task_state": task, "OS-EXT-STS:power_state": power,
		"OS-EXT-AZ:availability_zone": zone, "locked": s.Locked, "image": image, "metadata": s.Metadata, "tags": s.Tags, "config_drive": "",
		"flavor": object{"ram": s.RAM, "vcpus": max(1, s.VCPUs), "disk": s.Disk, "ephemeral": 0, "swap": 0, "original_name": "m", "extra_specs": extra},
	}
	if s.fault != "" && status == "ERROR" {
		o["fault"] = object{"code": 500, "created": s.updated.UTC().Format(time.RFC3339), "message": s.fault}
	}
	if s.Metadata == nil {
		o["metadata"] = object{}
	}
	if s.Tags == nil {
		o["tags"] = []string{}
	}
	if version >= 73 {
		o["locked_reason"] = nil
		if s.Locked && s.LockedFor != "" {
			o["locked_reason"] = s.LockedFor
		}
	}
	var own []object
	for _, a := range s.Addresses {
		own = append(own, object{"version": 4, "addr": a, "OS-EXT-IPS:type": "floating", "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01"})
	}
	o["addresses"] = object{}
	if own != nil {
		o["addresses"] = object{"net": own}
	}
	if version >= 96 {
		o["pinned_availability_zone"] = nil
		if s.Zone != "" {
			o["pinned_availability_zone"] = s.Zone
		}
	}
	return o
}

func (c *Cloud) listServers(w http.ResponseWriter, r *request) {
	var list []*server
	host, since := r.FormValue("host"), time.Time{}
	if q := r.FormValue("changes-since"); q != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, q); err != nil {
			complain(w, 400, "badRequest", "Invalid input for query parameters changes-since.")
			return
		}
	}
	switch {
	case r.FormValue("all_tenants") == "": // the user's own project has none
	case host != "":
		if h := c.computes[host]; h != nil && !h.lost {
			for _, s := range h.servers {
				list = append(list, s)
			}
		}
	default:
		for _, s := range c.order {
			if !s.updated.Before(since) && (!s.deleted || !since.IsZero()) {
				list = append(list, s)
			}
		}
	}
	slices.SortFunc(list, func(a, b *server) int { return strings.Compare(b.id, a.id) }) // ids count up
	list, more := paged(c, r, list, func(s *server) string { return s.id })
	out := make([]object, 0, len(list))
	for _, s := range list {
		out = append(out, c.show(s, r.version))
	}
	linked(w, r, "servers", out, more)
}

// find is the server of the request, or nil when that was answered.
func (c *Cloud) find(w http.ResponseWriter, r *request) *server {
	s := c.servers[r.PathValue("id")]
	if s == nil || s.deleted {
		complain(w, 404, "itemNotFound", fmt.Sprintf("Instance %s could not be found.", r.PathValue("id")))
		return nil
	}
	return s
}

func (c *Cloud) showServer(w http.ResponseWriter, r *request) {
	if s := c.find(w, r); s != nil {
		answer(w, 200, object{"server": c.show(s, r.version)})
	}
}

func (c *Cloud) act(w http.ResponseWriter, r *request) {
	s := c.find(w, r)
	if s == nil {
		return
	}
	var ask map[string]json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil || len(ask) != 1 {
		complain(w, 400, "badRequest", "There is no such action")
		return
	}
	for action, how := range ask {
		if refused := c.action(r, s, action, how); refused != nil {
			sort := map[int]string{400: "badRequest", 404: "itemNotFound", 409: "conflictingRequest"}[refused.status]
			complain(w, refused.status, sort, refused.words)
			return
		}
		if action == "evacuate" {
			w.WriteHeader(200) // and nothing else
			return
		}
		w.WriteHeader(202)
	}
}

func (c *Cloud) action(r *request, s *server, action string, how json.RawMessage) *refusal {
	can := func(states ...string) *refusal {
		if !slices.Contains(states, s.State) {
			return &refusal{409, fmt.Sprintf("Cannot '%s' instance %s while it is in vm_state %s", action, s.id, s.State)}
		}
		if s.task != "" {
			return &refusal{409, fmt.Sprintf("Cannot '%s' instance %s while it is in task_state %s", action, s.id, s.task)}
		}
		if h := c.computes[s.Host]; h == nil || !c.up(h) {
			return &refusal{409, "Service is unavailable at this time."}
		}
		return nil
	}
	// then has the host bring the server to a state, a second from now.
	then := func(task, state string) {
		s.task, s.updated = task, c.now
		s.launch++
		launch, h := s.launch, c.computes[s.Host]
		c.after(time.Second, func() {
			if s.launch != launch || !h.reports() || s.deleted {
				return
			}
			s.task, s.State, s.fault, s.believed, s.updated = "", state, "", false, c.now
			if state == "active" {
				c.run(s, h)
			} else {
				delete(h.guests, s.id)
			}
		})
	}
	switch action {
	case "evacuate":
		var ask map[string]any
		if err := json.Unmarshal(how, &ask); err != nil {
			return &refusal{400, "Invalid input for field/attribute evacuate."}
		}
		for key := range ask {
			known := key == "host" || key == "adminPass" || key == "onSharedStorage" && r.version < 14 || key == "force" && r.version >= 29 && r.version < 68
			if !known {
				return &refusal{400, fmt.Sprintf("Invalid input for field/attribute evacuate. Additional properties are not allowed ('%s' was unexpected)", key)}
			}
		}
		host, _ := ask["host"].(string)
		return c.evacuate(s, host, r.version >= 95)
	case "os-migrateLive":
		var ask struct {
			Host  *string
			Block string `json:"block_migration"`
		}
		d := json.NewDecoder(bytes.NewReader(how))
		d.DisallowUnknownFields()
		if err := d.Decode(&ask); err != nil || ask.Block != "auto" || !bytes.Contains(how, []byte(`"host"`)) {
			return &refusal{400, "Invalid input for field/attribute os-migrateLive."}
		}
		host := ""
		if ask.Host != nil {
			host = *ask.Host
		}
		return c.migrate(s, host)
	case "os-start":
		if no := can("stopped"); no != nil {
			return no
		}
		then("powering-on", "active")
	case "os-stop":
		if no := can("active", "rescued", "error"); no != nil {
			return no
		}
		then("powering-off", "stopped")
	case "reboot":
		if no := can("active", "stopped", "paused", "suspended", "error"); no != nil {
			return no
		}
		then("reboot_started_hard", "active")
	case "createImage":
		return c.snapshot(s, how)
	case "rebuild":
		return c.rebuild(s, how)
	case "lock":
		// An administrator's request passes any lock, and a second lock changes the reason (of a
		// server of the administrator's own project it changes nothing).
		var ask *struct {
			Reason string `json:"locked_reason"`
		}
		if err := json.Unmarshal(how, &ask); err != nil || ask != nil && r.version < 73 || ask != nil && ask.Reason == "" {
			return &refusal{400, "Invalid input for field/attribute lock."}
		}
		s.Locked, s.updated = true, c.now
		if ask != nil {
			s.LockedFor = ask.Reason
		}
	case "unlock":
		if string(how) != "null" {
			return &refusal{400, "Invalid input for field/attribute unlock."}
		}
		s.Locked, s.LockedFor, s.updated = false, "", c.now
	case "os-resetState":
		var ask struct{ State string }
		if err := json.Unmarshal(how, &ask); err != nil || ask.State != "active" && ask.State != "error" {
			return &refusal{400, "Invalid input for field/attribute state."}
		}
		s.State, s.task, s.updated = ask.State, "", c.now
	default:
		return &refusal{400, "There is no such action: " + action}
	}
	return nil
}
