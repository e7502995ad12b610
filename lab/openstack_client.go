package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// cloudClient speaks to the cloud's APIs through its internal address, as one of its users,
// in one of its projects. It tries nothing twice: what a client meets shall be seen.
type cloudClient struct {
	address                 netip.Addr
	user, project, password string

	mu    sync.Mutex
	token string
	until time.Time // by the machine's clock
}

// cloudAPIs are the ports and paths of the services.
var cloudAPIs = map[string]string{
	"identity": ":5000/v3", "compute": ":8774/v2.1", "network": ":9696/v2.0", "image": ":9292/v2", "placement": ":8778",
	"instance-ha": ":15868/v1", "masakari": ":15869/v1", // Mainstay's, and one of Debian's beside it
}

// APIError is an answer that is no success.
type APIError struct {
	Method, URL string
	Code        int
	Text        string
}

func (e *APIError) Error() string {
	return fmt.Sprintf("%s %s: %d: %.300s", e.Method, e.URL, e.Code, e.Text)
}

// Ask puts one question to a service of the cloud: "compute", "network", "image",
// "identity", "placement". in is sent as JSON, or as it is if it is an io.Reader; the
// answer is read into out, if that is not nil. Within a minute at most.
func (o *OpenStack) Ask(ctx context.Context, service, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	token, err := o.client.login(ctx)
	if err != nil {
		return err
	}
	_, err = o.client.call(ctx, service, method, path, token, in, out)
	return err
}

func (c *cloudClient) login(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.until) {
		return c.token, nil
	}
	token, err := c.scoped(ctx, c.project)
	if err != nil {
		return "", err
	}
	c.token, c.until = token, time.Now().Add(30*time.Minute)
	return c.token, nil
}

// scoped logs the user in to a project, by its name.
func (c *cloudClient) scoped(ctx context.Context, project string) (string, error) {
	domain := map[string]string{"id": "default"}
	header, err := c.call(ctx, "identity", "POST", "/auth/tokens", "", map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": c.user, "domain": domain, "password": c.password}}},
		"scope": map[string]any{"project": map[string]any{"name": project, "domain": domain}},
	}}, nil)
	if err != nil {
		return "", fmt.Errorf("log in to the project %s: %w", project, err)
	}
	return header.Get("X-Subject-Token"), nil
}

func (c *cloudClient) call(ctx context.Context, service, method, path, token string, in, out any) (http.Header, error) {
	var body io.Reader
	kind := "application/json"
	switch v := in.(type) {
	case nil:
	case io.Reader:
		body, kind = v, "application/octet-stream"
	default:
		text, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	url := "http://" + c.address.String() + cloudAPIs[service] + path
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("X-OpenStack-Nova-API-Version", "2.93") // Zed's newest
	if service == "instance-ha" {
		req.Header.Set("OpenStack-API-Version", "instance-ha 1.3")
	}
	if token != "" {
		req.Header.Set("X-Auth-Token", token)
	}
	// A connection of its own: one that is kept would tell of the past.
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, url, err)
	}
	if resp.StatusCode >= 300 {
		return nil, &APIError{Method: method, URL: url, Code: resp.StatusCode, Text: string(text)}
	}
	if out != nil && len(text) > 0 {
		if err := json.Unmarshal(text, out); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, url, err)
		}
	}
	return resp.Header, nil
}

// Tenant is a project beside the administrator's, seen by the administrator in it and by one of
// its own users, who may do nothing anywhere else. What is there already is taken as it is.
func (o *OpenStack) Tenant(ctx context.Context, project string) (admin, owner *OpenStack, err error) {
	find := func(kind, name string, made map[string]any) (string, error) {
		var have map[string]json.RawMessage // beside the list are links
		if err := o.Ask(ctx, "identity", "GET", "/"+kind+"s?name="+name, nil, &have); err != nil {
			return "", err
		}
		var list []named
		if err := json.Unmarshal(have[kind+"s"], &list); err != nil {
			return "", err
		}
		if id := idOf(list, name); id != "" || made == nil {
			return id, nil
		}
		var answer map[string]named
		err := o.Ask(ctx, "identity", "POST", "/"+kind+"s", map[string]any{kind: made}, &answer)
		return fmt.Sprint(answer[kind].ID), err
	}
	of := func(user, password string) *OpenStack {
		return &OpenStack{Lab: o.Lab, CloudConfig: o.CloudConfig, release: o.release, seed: o.seed, guest: o.guest,
			client: cloudClient{address: o.client.address, user: user, project: project, password: password}}
	}
	id, err := find("project", project, map[string]any{"name": project, "domain_id": "default"})
	if err != nil {
		return nil, nil, fmt.Errorf("make the project %s: %w", project, err)
	}
	const password = "of a lab's tenant" // in a cloud that nobody else reaches
	for user, role := range map[string]string{o.client.user: "admin", project: "member"} {
		who, err := find("user", user, map[string]any{"name": user, "domain_id": "default", "password": password})
		if err != nil {
			return nil, nil, fmt.Errorf("make the user %s: %w", user, err)
		}
		what, err := find("role", role, nil)
		if err == nil {
			err = o.Ask(ctx, "identity", "PUT", "/projects/"+id+"/users/"+who+"/roles/"+what, nil, nil)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("let %s into the project %s: %w", user, project, err)
		}
	}
	return of(o.client.user, o.client.password), of(project, password), nil
}

// ComputeService is one nova-compute in Nova's words.
type ComputeService struct {
	ID     string `json:"id"`
	Binary string `json:"binary"`
	Host   string `json:"host"`
	State  string `json:"state"`  // up, down
	Status string `json:"status"` // enabled, disabled
	Forced bool   `json:"forced_down"`
	Reason string `json:"disabled_reason"`
}

// ComputeServices asks Nova for all its services.
func (o *OpenStack) ComputeServices(ctx context.Context) ([]ComputeService, error) {
	var answer struct {
		Services []ComputeService `json:"services"`
	}
	err := o.Ask(ctx, "compute", "GET", "/os-services", nil, &answer)
	return answer.Services, err
}

// Server is one server in Nova's words.
type Server struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
	Host   string `json:"OS-EXT-SRV-ATTR:host"`
	State  string `json:"OS-EXT-STS:vm_state"`
	Task   string `json:"OS-EXT-STS:task_state"`
	Power  int    `json:"OS-EXT-STS:power_state"` // 1 running, 4 shut down, 0 unknown
	Fault  struct {
		Message string `json:"message"`
	} `json:"fault"`
}

// Servers asks Nova for all servers, with where each one is.
func (o *OpenStack) Servers(ctx context.Context) ([]Server, error) {
	var answer struct {
		Servers []Server `json:"servers"`
	}
	err := o.Ask(ctx, "compute", "GET", "/servers/detail?all_tenants=1&limit=2000", nil, &answer)
	return answer.Servers, err
}

// Create asks Nova for a server on a host, or on any of a zone: "fake", "real",
// "real:r1". With a port it gets one on the lab's network. It returns as soon as Nova has
// accepted; Active waits.
func (o *OpenStack) Create(ctx context.Context, name, zone string, port bool) (id string, err error) {
	var networks any = "none"
	if port {
		networks = []any{map[string]string{"uuid": o.guest["lab"]}}
	}
	return o.boot(ctx, map[string]any{"name": name, "imageRef": o.guest["guest"], "availability_zone": zone, "networks": networks})
}

// CreateSpeaking asks Nova for a server whose guest has an agent, with what its owner says of it in its metadata.
func (o *OpenStack) CreateSpeaking(ctx context.Context, name, zone string, metadata map[string]string) (id string, err error) {
	return o.boot(ctx, map[string]any{"name": name, "imageRef": o.guest["agent"], "availability_zone": zone, "networks": "none", "metadata": metadata})
}

func (o *OpenStack) boot(ctx context.Context, server map[string]any) (id string, err error) {
	server["flavorRef"] = o.guest["tiny"]
	var answer struct {
		Server Server `json:"server"`
	}
	err = o.Ask(ctx, "compute", "POST", "/servers", map[string]any{"server": server}, &answer)
	return answer.Server.ID, err
}

// Active waits until all the servers run and nothing is going on with them, by Nova's
// word. One in error ends the wait.
func (o *OpenStack) Active(ctx context.Context, ids ...string) ([]Server, error) {
	var out []Server
	err := waitFor(ctx, siteBound, "servers to be active", func() (bool, error) {
		all, _ := o.Servers(ctx) // the cloud may be busy with a fault
		out = out[:0]
		for _, s := range all {
			for _, id := range ids {
				if s.ID != id {
					continue
				}
				if s.State == "error" {
					return false, fmt.Errorf("server %s (%s) on %s is in error: %s", s.ID, s.Name, s.Host, s.Fault.Message)
				}
				if s.State == "active" && s.Task == "" {
					out = append(out, s)
				}
			}
		}
		return len(out) == len(ids), nil
	})
	return out, err
}

// Delete asks Nova to delete servers and waits until they are gone.
func (o *OpenStack) Delete(ctx context.Context, ids ...string) error {
	for _, id := range ids {
		if err := o.Ask(ctx, "compute", "DELETE", "/servers/"+id, nil, nil); err != nil {
			return err
		}
	}
	return waitFor(ctx, siteBound, "servers to be gone", func() (bool, error) {
		all, err := o.Servers(ctx)
		return err == nil && !slices.ContainsFunc(all, func(s Server) bool { return slices.Contains(ids, s.ID) }), nil
	})
}

// ForceDown asserts to Nova that a host's nova-compute is dead, or takes that back. Nova
// checks nothing.
func (o *OpenStack) ForceDown(ctx context.Context, host string, down bool) error {
	all, err := o.ComputeServices(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.Host == host && c.Binary == "nova-compute" {
			return o.Ask(ctx, "compute", "PUT", "/os-services/"+c.ID, map[string]any{"forced_down": down}, nil)
		}
	}
	return fmt.Errorf("force down %s: Nova knows no nova-compute there", host)
}

// Evacuate asks Nova to rebuild a server of a dead host elsewhere: on that host, or where
// its scheduler chooses if to is "". It returns when Nova has accepted, which says nothing.
func (o *OpenStack) Evacuate(ctx context.Context, id, to string) error {
	where := map[string]any{}
	if to != "" {
		where["host"] = to
	}
	return o.Ask(ctx, "compute", "POST", "/servers/"+id+"/action", map[string]any{"evacuate": where}, nil)
}

// GuestKernel is where the tiny guest's kernel lies; "make lab-watchdog" and "make
// lab-openstack" fetch it.
const GuestKernel = CacheDir + "/kernel/vmlinuz"

// Furnish gives a new cloud what a server needs: a flavour, the tiny guest's image, a
// network, and a zone for each sort of compute. What is there already is taken as it is.
// It waits for every compute to have reported itself.
func (o *OpenStack) Furnish(ctx context.Context, progress func(string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	if err := o.furnishCompute(ctx, progress); err != nil {
		return fmt.Errorf("furnish the cloud: %w", err)
	}
	if err := o.furnishImages(ctx, progress); err != nil {
		return fmt.Errorf("furnish the cloud with images: %w", err)
	}
	if err := o.furnishNetwork(ctx, progress); err != nil {
		return fmt.Errorf("furnish the cloud with a network: %w", err)
	}
	return nil
}

type named struct {
	ID   any    `json:"id"`
	Name string `json:"name"`
}

func idOf(list []named, name string) string {
	for _, n := range list {
		if n.Name == name {
			return fmt.Sprint(n.ID)
		}
	}
	return ""
}

func (o *OpenStack) furnishImages(ctx context.Context, progress func(string)) error {
	var have struct {
		Images []named `json:"images"`
	}
	if err := o.Ask(ctx, "image", "GET", "/images?status=active", nil, &have); err != nil {
		return err
	}
	put := func(name, format, container, file string, more map[string]any) error {
		if o.guest[name] = idOf(have.Images, name); o.guest[name] != "" {
			return nil
		}
		image := map[string]any{"name": name, "disk_format": format, "container_format": container, "visibility": "public"}
		for k, v := range more {
			image[k] = v
		}
		var made named
		if err := o.Ask(ctx, "image", "POST", "/images", image, &made); err != nil {
			return err
		}
		o.guest[name] = fmt.Sprint(made.ID)
		var data io.Reader = bytes.NewReader(make([]byte, 1<<20))
		if file != "" {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			data = bytes.NewReader(text)
		}
		progress("uploading the image " + name)
		return o.Ask(ctx, "image", "PUT", "/images/"+o.guest[name]+"/file", data, nil)
	}
	if err := put("kernel", "aki", "aki", GuestKernel, nil); err != nil {
		return err
	}
	if err := put("initrd", "ari", "ari", filepath.Join(o.seed, guestPart, "initrd.gz"), nil); err != nil {
		return err
	}
	guest := map[string]any{"kernel_id": o.guest["kernel"], "ramdisk_id": o.guest["initrd"], "os_command_line": "console=ttyS0 root=/dev/ram0 quiet"}
	if err := put("guest", "raw", "bare", "", guest); err != nil || len(o.release.with(RoleReal)) == 0 {
		return err
	}
	if err := put("speaking", "ari", "ari", filepath.Join(o.seed, guestPart, "agent.gz"), nil); err != nil {
		return err
	}
	guest["ramdisk_id"], guest["hw_qemu_guest_agent"] = o.guest["speaking"], "yes"
	return put("agent", "raw", "bare", "", guest)
}

func (o *OpenStack) furnishNetwork(ctx context.Context, progress func(string)) error {
	var have struct {
		Networks []named `json:"networks"`
	}
	if err := o.Ask(ctx, "network", "GET", "/networks", nil, &have); err != nil {
		return err
	}
	if o.guest["lab"] = idOf(have.Networks, "lab"); o.guest["lab"] != "" {
		return nil
	}
	progress("making the network lab")
	var made struct {
		Network named `json:"network"`
	}
	if err := o.Ask(ctx, "network", "POST", "/networks", map[string]any{"network": map[string]any{"name": "lab"}}, &made); err != nil {
		return err
	}
	o.guest["lab"] = fmt.Sprint(made.Network.ID)
	return o.Ask(ctx, "network", "POST", "/subnets", map[string]any{"subnet": map[string]any{
		"network_id": o.guest["lab"], "name": "lab", "ip_version": 4, "cidr": "192.168.0.0/22", "enable_dhcp": false}}, nil)
}

func (o *OpenStack) furnishCompute(ctx context.Context, progress func(string)) error {
	var have struct {
		Flavours []named `json:"flavors"`
	}
	if err := o.Ask(ctx, "compute", "GET", "/flavors", nil, &have); err != nil {
		return err
	}
	if o.guest["tiny"] = idOf(have.Flavours, "tiny"); o.guest["tiny"] == "" {
		var made struct {
			Flavour named `json:"flavor"`
		}
		if err := o.Ask(ctx, "compute", "POST", "/flavors", map[string]any{"flavor": map[string]any{"name": "tiny", "ram": 128, "vcpus": 1, "disk": 1}}, &made); err != nil {
			return err
		}
		o.guest["tiny"] = fmt.Sprint(made.Flavour.ID)
	}
	var zones struct {
		Aggregates []struct {
			named
			Hosts []string `json:"hosts"`
		} `json:"aggregates"`
	}
	if err := o.Ask(ctx, "compute", "GET", "/os-aggregates", nil, &zones); err != nil {
		return err
	}
	for _, zone := range []string{RoleFake, RoleReal} {
		if len(o.release.with(zone)) == 0 {
			continue
		}
		id, hosts := "", map[string]bool{}
		for _, a := range zones.Aggregates {
			if a.Name != zone {
				continue
			}
			id = fmt.Sprint(a.ID)
			for _, h := range a.Hosts {
				hosts[h] = true
			}
		}
		if id == "" {
			var made struct {
				Aggregate named `json:"aggregate"`
			}
			if err := o.Ask(ctx, "compute", "POST", "/os-aggregates", map[string]any{"aggregate": map[string]any{"name": zone, "availability_zone": zone}}, &made); err != nil {
				return err
			}
			id = fmt.Sprint(made.Aggregate.ID)
		}
		for _, host := range o.Computes() {
			if !slices.Contains(o.zoned(zone), host) || hosts[host] {
				continue
			}
			progress("waiting for " + host + " to be known to Nova, for its zone " + zone)
			err := until(ctx, siteBound, func() error {
				err := o.Ask(ctx, "compute", "POST", "/os-aggregates/"+id+"/action", map[string]any{"add_host": map[string]any{"host": host}}, nil)
				// What is answered as a failure may have been done, and is refused the next time.
				if refused := (*APIError)(nil); errors.As(err, &refused) && refused.Code == http.StatusConflict && strings.Contains(refused.Text, "already has host") {
					return nil
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	// Nova tells Placement of a host's zone once, and says nothing if Placement did not know
	// the host yet: no server would ever find room on it. It refuses while a host has not been
	// discovered, which it is every 20 s.
	return until(ctx, siteBound, func() error {
		if out, err := o.Run(ctx, o.Controllers[0].Name, "nova-manage", "placement", "sync_aggregates"); err != nil {
			return fmt.Errorf("tell Placement of the zones: %w: %s", err, out)
		}
		return nil
	})
}
