package falsecloud

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

type object = map[string]any

func (c *Cloud) routes() {
	c.mux = http.NewServeMux()
	c.mux.HandleFunc("GET /identity/{$}", c.identity)
	c.mux.HandleFunc("GET /identity", c.identity)
	c.mux.HandleFunc("GET /identity/v3/{$}", c.identityVersion)
	c.mux.HandleFunc("GET /identity/v3", c.identityVersion)
	c.mux.HandleFunc("POST /identity/v3/auth/tokens", c.login)
	c.mux.HandleFunc("GET /identity/v3/auth/tokens", c.admin("tokens", c.showToken))
	c.mux.HandleFunc("GET /identity/v3/projects", c.admin("projects", c.listProjects))
	c.mux.HandleFunc("GET "+nova+"/{$}", c.versions)
	c.mux.HandleFunc("GET "+placement+"/allocation_candidates", c.admin("allocation_candidates", c.candidates))
	c.mux.HandleFunc("GET "+placement+"/allocations/{id}", c.admin("allocations/ID", c.allocations))
	c.mux.HandleFunc("GET /image/v2/images", c.admin("images", c.listImages))
	c.mux.HandleFunc("GET /image/v2/images/{id}", c.admin("images/ID", c.showImage))
	c.mux.HandleFunc("DELETE /image/v2/images/{id}", c.admin("images/ID", c.deleteImage))
	for path, f := range map[string]func(http.ResponseWriter, *request){
		"GET /os-services": c.listServices, "PUT /os-services/{id}": c.updateService,
		"GET /os-hypervisors/detail": c.listHypervisors,
		"GET /servers/detail":        c.listServers, "GET /servers/{id}": c.showServer,
		"POST /servers/{id}/action": c.act,
		"GET /os-migrations":        c.listMigrations,
		"GET /os-aggregates":        c.listAggregates, "GET /os-server-groups": c.listGroups,
		"GET /os-aggregates/{id}": c.showAggregate, "POST /os-aggregates/{id}/action": c.actOnAggregate,
	} {
		method, rest, _ := strings.Cut(path, " ")
		c.mux.HandleFunc(method+" "+nova+rest, c.admin(strings.TrimPrefix(rest, "/"), f))
	}
}

const nova = "/compute/v2.1"

// ServeHTTP answers one request, as the present faults have it.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		complain(w, 400, "badRequest", err.Error())
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if !c.misbehave(w, r, string(body)) {
		c.mux.ServeHTTP(w, r)
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // who left is not told
}

// complain answers as Nova does.
func complain(w http.ResponseWriter, status int, sort, words string) {
	answer(w, status, object{sort: object{"code": status, "message": words}})
}

func base(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

func (c *Cloud) identity(w http.ResponseWriter, r *http.Request) {
	answer(w, 300, object{"versions": object{"values": []object{keystone(r)}}})
}

func (c *Cloud) identityVersion(w http.ResponseWriter, r *http.Request) {
	answer(w, 200, object{"version": keystone(r)})
}

// keystone is the version of Keystone's API that is played.
func keystone(r *http.Request) object {
	return object{"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z", "links": []object{{"rel": "self", "href": base(r) + "/identity/v3/"}},
		"media-types": []object{{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}}}
}

func (c *Cloud) login(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Auth struct {
			Identity struct {
				Password struct {
					User struct{ Name, Password string }
				}
				Application struct{ Secret string } `json:"application_credential"`
			}
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		complain(w, 400, "error", err.Error())
		return
	}
	defer c.enter()()
	c.calls["POST tokens"]++
	user := ask.Auth.Identity.Password.User
	right := (user.Name == c.cfg.User || user.Name == "member") && user.Password == c.cfg.Password
	if s := ask.Auth.Identity.Application.Secret; s != "" && s == c.cfg.Password {
		user.Name, right = c.cfg.User, true
	}
	if !right {
		answer(w, 401, object{"error": object{"code": 401, "title": "Unauthorized", "message": "The request you have made requires authentication."}})
		return
	}
	token := rand.Text()
	c.tokens[token] = user.Name
	catalogue := []object{}
	add := func(kind, name, url string) {
		var endpoints []object
		for _, region := range c.cfg.Regions {
			for _, sort := range []string{"public", "internal", "admin"} {
				endpoints = append(endpoints, object{"interface": sort, "region": region, "region_id": region, "url": url})
			}
		}
		catalogue = append(catalogue, object{"type": kind, "name": name, "endpoints": endpoints})
	}
	add("compute", "nova", base(r)+nova)
	add("placement", "placement", base(r)+placement)
	add("image", "glance", base(r)+"/image")
	for _, kind := range slices.Sorted(maps.Keys(c.cfg.Endpoints)) {
		add(kind, kind, c.cfg.Endpoints[kind])
	}
	body := c.tokenOf(user.Name)
	body["catalog"] = catalogue
	w.Header().Set("X-Subject-Token", token)
	answer(w, 201, object{"token": body})
}

// tokenOf is what Keystone says of a user's token.
func (c *Cloud) tokenOf(user string) object {
	roles := []object{{"id": "b", "name": "member"}}
	if user == c.cfg.User {
		roles = append(roles, object{"id": "a", "name": "admin"})
	}
	domain := object{"id": "default", "name": "Default"}
	return object{"expires_at": "2099-01-01T00:00:00.000000Z", "issued_at": "2026-01-01T00:00:00.000000Z", "methods": []string{"password"}, "roles": roles, "is_domain": false,
		"user": object{"id": "u-" + user, "name": user, "domain": domain, "password_expires_at": nil}, "project": object{"id": "5c4ed01e00004000800000000000000a", "name": "admin", "domain": domain}}
}

// showToken says whose a token is, if it is anybody's.
func (c *Cloud) showToken(w http.ResponseWriter, r *request) {
	user, known := c.tokens[r.Header.Get("X-Subject-Token")]
	if !known {
		answer(w, 404, object{"error": object{"code": 404, "title": "Not Found", "message": "Could not find token: " + r.Header.Get("X-Subject-Token") + "."}})
		return
	}
	w.Header().Set("X-Subject-Token", r.Header.Get("X-Subject-Token"))
	answer(w, 200, object{"token": c.tokenOf(user)})
}

func (c *Cloud) listProjects(w http.ResponseWriter, r *request) {
	out := []object{}
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Projects)) {
		if q := r.FormValue("name"); q == "" || q == name {
			out = append(out, object{"id": c.cfg.Projects[name], "name": name, "domain_id": "default", "enabled": true})
		}
	}
	answer(w, 200, object{"projects": out})
}

func (c *Cloud) versions(w http.ResponseWriter, r *http.Request) {
	answer(w, 200, object{"version": object{"id": "v2.1", "status": "CURRENT", "min_version": "2.1", "version": fmt.Sprintf("2.%d", c.cfg.Newest)}})
}

// request is one to Nova, of a user whom Keystone knows.
type request struct {
	*http.Request
	version int
	after   func() // done when the cloud is unlocked again, before the answer
}

// admin lets in who shows a token, and the role admin; f runs with the cloud locked.
func (c *Cloud) admin(kind string, f func(http.ResponseWriter, *request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := &request{Request: r, version: 1}
		if v := r.Header.Get("X-OpenStack-Nova-API-Version"); v != "" {
			n, err := strconv.Atoi(strings.TrimPrefix(v, "2."))
			if err != nil || n > c.cfg.Newest {
				complain(w, 406, "computeFault", fmt.Sprintf("Version %s is not supported by the API. Minimum is 2.1 and maximum is 2.%d.", v, c.cfg.Newest))
				return
			}
			q.version = n
		}
		late := &held{ResponseWriter: w}
		func() {
			defer c.enter()()
			c.calls[r.Method+" "+kind]++
			switch user, ok := c.tokens[r.Header.Get("X-Auth-Token")]; {
			case !ok:
				answer(late, 401, object{"error": object{"code": 401, "title": "Unauthorized", "message": "The request you have made requires authentication."}})
			case user != c.cfg.User:
				complain(late, 403, "forbidden", "Policy doesn't allow os_compute_api:"+strings.ReplaceAll(kind, "/", ":")+" to be performed.")
			default:
				f(late, q)
			}
		}()
		if q.after != nil {
			q.after()
		}
		late.send()
	}
}

// held is an answer that is sent when the cloud is unlocked again.
type held struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (h *held) WriteHeader(status int)      { h.status = status }
func (h *held) Write(b []byte) (int, error) { return h.body.Write(b) }
func (h *held) send() {
	if h.status != 0 {
		h.ResponseWriter.WriteHeader(h.status)
	}
	_, _ = h.ResponseWriter.Write(h.body.Bytes())
}

func (c *Cloud) view(h *compute) object {
	if h.lost {
		return object{"binary": "nova-compute", "host": h.name, "status": "UNKNOWN"}
	}
	pick := func(b bool, yes, no string) string {
		if b {
			return yes
		}
		return no
	}
	var reason any
	if h.reason != "" {
		reason = h.reason
	}
	return object{"id": h.id, "binary": "nova-compute", "host": h.name, "zone": h.zone, "forced_down": h.forced,
		"state": pick(c.up(h), "up", "down"), "status": pick(h.disabled, "disabled", "enabled"), "disabled_reason": reason, "updated_at": stamp(c.now)}
}

// sorted is all computes by name.
func (c *Cloud) sorted() []*compute {
	var list []*compute
	for _, h := range c.computes {
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b *compute) int { return strings.Compare(a.name, b.name) })
	return list
}

func (c *Cloud) listServices(w http.ResponseWriter, r *request) {
	out := []object{}
	host, binary := r.FormValue("host"), r.FormValue("binary")
	for _, h := range c.sorted() {
		if (host == "" || host == h.name) && (binary == "" || binary == "nova-compute") {
			out = append(out, c.view(h))
		}
	}
	if host == "" && binary == "" {
		out = append(out, object{"id": "5c4ed01e-0000-4000-8000-000000000000", "binary": "nova-scheduler", "host": "c1", "zone": "internal", "state": "up", "status": "enabled", "forced_down": false})
	}
	answer(w, 200, object{"services": out})
}

func (c *Cloud) updateService(w http.ResponseWriter, r *request) {
	var ask struct {
		Status *string `json:"status"`
		Reason *string `json:"disabled_reason"`
		Forced *bool   `json:"forced_down"`
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&ask); err != nil {
		complain(w, 400, "badRequest", "Invalid input: "+err.Error())
		return
	}
	var h *compute
	for _, each := range c.computes {
		if each.id == r.PathValue("id") {
			h = each
		}
	}
	switch {
	case h == nil:
		complain(w, 404, "itemNotFound", fmt.Sprintf("Service %s could not be found.", r.PathValue("id")))
		return
	case ask.Status == nil && ask.Forced == nil:
		complain(w, 400, "badRequest", "No updates were requested. Fields 'status' or 'forced_down' should be specified.")
		return
	case ask.Reason != nil && (*ask.Reason == "" || len([]rune(*ask.Reason)) > 255):
		complain(w, 400, "badRequest", "Invalid input for field/attribute disabled_reason.")
		return
	}
	if ask.Forced != nil && !*ask.Forced {
		for _, m := range c.migrations {
			if m.from == h.name && m.status == "done" && !m.server.deleted {
				complain(w, 400, "badRequest", fmt.Sprintf("Unable to force up host %s as `done` evacuation migration records remain associated with the host. "+
					"Ensure the compute service has been restarted, allowing these records to move to `completed` before retrying this request.", h.name))
				return
			}
		}
	}
	if ask.Forced != nil {
		h.forced = *ask.Forced
	}
	if ask.Status != nil {
		h.disabled, h.reason = *ask.Status == "disabled", ""
		if ask.Reason != nil {
			h.reason = *ask.Reason
		}
		if c.up(h) && !h.reports() { // the change is made; now Nova calls the compute
			r.after = func() {
				select {
				case <-time.After(c.cfg.RPC):
				case <-r.Context().Done():
					panic(http.ErrAbortHandler)
				case <-c.life.Done():
				}
			}
		}
	}
	answer(w, 200, object{"service": c.view(h)})
}

func (c *Cloud) listHypervisors(w http.ResponseWriter, r *request) {
	list := slices.DeleteFunc(c.sorted(), func(h *compute) bool { return h.lost })
	list, more := paged(c, r, list, func(h *compute) string { return h.id })
	out := []object{}
	for _, h := range list {
		o := object{"id": h.id, "hypervisor_hostname": h.name + ".example", "hypervisor_type": "QEMU", "hypervisor_version": 7002000, "host_ip": "192.0.2.1",
			"state": c.view(h)["state"], "status": c.view(h)["status"], "service": object{"id": h.id, "host": h.name, "disabled_reason": nil}}
		if r.version < 88 {
			o["memory_mb"], o["memory_mb_used"], o["free_ram_mb"], o["running_vms"] = h.ram, h.used, h.ram-h.used, len(h.servers)
			o["vcpus"], o["local_gb"] = h.shape.VCPUs, h.shape.Disk
		}
		out = append(out, o)
	}
	linked(w, r, "hypervisors", out, more)
}

// paged cuts a list by limit and marker; more is the marker of the next page.
func paged[T any](c *Cloud, r *request, list []T, id func(T) string) ([]T, string) {
	limit := c.cfg.Page
	if n, err := strconv.Atoi(r.FormValue("limit")); err == nil && n < limit {
		limit = n
	}
	if marker := r.FormValue("marker"); marker != "" {
		list = list[slices.IndexFunc(list, func(x T) bool { return id(x) == marker })+1:]
	}
	if len(list) <= limit {
		return list, ""
	}
	return list[:limit], id(list[limit-1])
}

// linked answers with a page, and where the next one is.
func linked(w http.ResponseWriter, r *request, name string, list []object, more string) {
	out := object{name: list}
	if more != "" {
		q := r.URL.Query()
		q.Set("marker", more)
		out[name+"_links"] = []object{{"rel": "next", "href": base(r.Request) + r.URL.Path + "?" + q.Encode()}}
	}
	answer(w, 200, out)
}

func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000")
}

func (c *Cloud) listMigrations(w http.ResponseWriter, r *request) {
	since, _ := time.Parse(time.RFC3339, r.FormValue("changes-since"))
	var list []*migration
	for _, m := range slices.Backward(c.migrations) { // newest first
		switch q := r.FormValue; {
		case m.server.deleted, // its records go with it
			q("migration_type") != "" && q("migration_type") != m.sort,
			q("source_compute") != "" && q("source_compute") != m.from,
			q("instance_uuid") != "" && q("instance_uuid") != m.server.id,
			q("status") != "" && q("status") != m.status,
			!since.IsZero() && m.updated.Before(since): // and what was never updated is not found either
		default:
			list = append(list, m)
		}
	}
	list, more := paged(c, r, list, func(m *migration) string { return m.uuid })
	out := []object{}
	for _, m := range list {
		var to any
		if m.to != "" {
			to = m.to
		}
		out = append(out, object{"id": m.id, "uuid": m.uuid, "status": m.status, "migration_type": m.sort, "instance_uuid": m.server.id,
			"source_compute": m.from, "dest_compute": to, "created_at": stamp(m.created), "updated_at": stamp(m.updated)})
	}
	linked(w, r, "migrations", out, more)
}
