package masakari_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/api/masakari"
	"mainstay/fleet"
	"mainstay/openstack"
	"mainstay/openstack/falsecloud"
	"mainstay/plan"
)

// site is a running Mainstay as Masakari's API sees it, with a played Keystone.
type site struct {
	*openstack.Client
	keystone *falsecloud.Cloud
	at, auth string // of the API and of Keystone
	token    string // of its administrator

	mu     sync.Mutex
	world  fleet.World
	kept   fleet.Masakari
	events []fleet.Event
	log    bytes.Buffer
}

func (s *site) lock() func() { s.mu.Lock(); return s.mu.Unlock }

func (s *site) Spec() fleet.Spec   { defer s.lock()(); return s.world.Spec }
func (s *site) State() fleet.State { defer s.lock()(); return s.world.State.Clone() }

func (s *site) Kept(context.Context) (fleet.Masakari, error) { defer s.lock()(); return s.kept, nil }

func (s *site) Keep(_ context.Context, change func(*fleet.Masakari) error) error {
	// Its Backend's other methods may be asked for meanwhile.
	s.mu.Lock()
	raw, err := json.Marshal(s.kept)
	s.mu.Unlock()
	var next fleet.Masakari
	if err := json.Unmarshal(raw, &next); err != nil {
		return err
	}
	if err := change(&next); err != nil {
		return err
	}
	defer s.lock()()
	s.kept = next
	return err
}

func (s *site) Wish(_ context.Context, w fleet.Wish) error {
	defer s.lock()()
	s.world.State.Wishes = maps.Clone(s.world.State.Wishes)
	if s.world.State.Wishes == nil {
		s.world.State.Wishes = map[string]fleet.Wish{}
	}
	s.world.State.Wishes[w.Verb+"-"+w.Host] = w
	return nil
}

func (s *site) Unwish(_ context.Context, id, _ string) error {
	defer s.lock()()
	s.world.State.Wishes = maps.Clone(s.world.State.Wishes)
	delete(s.world.State.Wishes, id)
	return nil
}

func (s *site) Tell(_ context.Context, by, about, what string) error {
	defer s.lock()()
	s.tell(about, by+" "+what)
	return nil
}

func (s *site) tell(about, text string) {
	s.events = append(s.events, fleet.Event{ID: fmt.Sprintf("%08d", len(s.events)), At: s.world.Wall, About: about, Text: text})
}

func (s *site) Events(context.Context, string, int) ([]fleet.Event, error) {
	defer s.lock()()
	return s.events, nil
}

func (s *site) now() time.Time { defer s.lock()(); return s.world.Wall }

// Write takes the log.
func (s *site) Write(p []byte) (int, error) { defer s.lock()(); return s.log.Write(p) }

// change changes what Mainstay knows, and lets notifications follow it as the leader does.
func (s *site) change(f func(w *fleet.World)) {
	defer s.lock()()
	if f != nil {
		f(&s.world)
	}
	s.kept, _ = plan.Notices(s.kept, s.world)
}

// newSite has three computes that are well, and a controller.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{}
	h := httptest.NewUnstartedServer(nil)
	s.at = "http://" + h.Listener.Addr().String()
	s.keystone = falsecloud.New(falsecloud.Config{Endpoints: map[string]string{"instance-ha": s.at + "/v1"}})
	k := httptest.NewServer(s.keystone)
	t.Cleanup(k.Close)
	t.Cleanup(s.keystone.Close)
	s.auth = k.URL + "/identity/v3"
	file := filepath.Join(t.TempDir(), "clouds.yaml")
	text := fmt.Sprintf("clouds: {here: {auth: {auth_url: '%s', username: admin, password: secret, project_name: admin, user_domain_id: default, project_domain_id: default}}}\n", s.auth)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.Client, err = openstack.Open(fleet.OpenStack{Cloud: "here", Config: file}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.world = fleet.World{
		Wall: time.Now().UTC().Truncate(time.Microsecond), Verdicts: map[string]fleet.Verdict{}, Reports: map[string]fleet.Report{},
		Spec:  fleet.Spec{Site: "beijing", Mode: "act", Hosts: []fleet.Host{{Name: "c1", Roles: []string{"controller"}, Voter: true}}, Services: []fleet.Service{{Name: "nova-compute", Units: []string{"nova-compute.service"}, Roles: []string{"compute"}}}},
		State: fleet.State{Holdings: map[string]fleet.Holding{}, Proofs: map[string]fleet.Proof{}, Evacuations: map[string]fleet.Evacuation{}},
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		s.world.Spec.Hosts = append(s.world.Spec.Hosts, fleet.Host{Name: n, Roles: []string{"compute"}, Fence: []fleet.Level{{{Driver: "redfish"}}}})
		s.world.State.Holdings[plan.Compute(n)] = fleet.Holding{Thing: plan.Compute(n), Host: n, Boot: "b1", Generation: 1}
		s.world.Verdicts[n] = fleet.Verdict{Host: n, Condition: fleet.Healthy, Stint: fleet.Stint{Host: n, Boot: "b1", N: 1}}
		s.world.Reports[n] = fleet.Report{Services: map[string]fleet.ServiceState{"nova-compute": {Phase: fleet.Running, Ready: true}}}
	}
	h.Config.Handler = masakari.Handler(s, slog.New(slog.NewTextHandler(s, nil)), s.now)
	h.Start()
	t.Cleanup(h.Close)
	s.token = s.login(t, "admin")
	return s
}

func (s *site) login(t *testing.T, user string) string {
	t.Helper()
	body := `{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"` + user + `","password":"secret"}}}}}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.auth+"/auth/tokens", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("X-Subject-Token")
}

// reply is one answer.
type reply struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

// one is the object of that name, list the list.
func (r reply) one(name string) map[string]any { o, _ := r.body[name].(map[string]any); return o }
func (r reply) list(name string) (out []map[string]any) {
	l, _ := r.body[name].([]any)
	for _, v := range l {
		out = append(out, v.(map[string]any))
	}
	return out
}

// of is the column of a list.
func of(list []map[string]any, column string) string {
	var out []string
	for _, o := range list {
		out = append(out, fmt.Sprint(o[column]))
	}
	return strings.Join(out, " ")
}

// ask sends one request; how is "METHOD PATH", with " 1.x" behind it for a microversion.
func (s *site) ask(t *testing.T, how, body string) reply {
	t.Helper()
	words := strings.Fields(how)
	req, err := http.NewRequestWithContext(t.Context(), words[0], s.at+words[1], strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", s.token)
	if len(words) > 2 {
		req.Header.Set("OpenStack-API-Version", "compute 2.1, instance-ha "+words[2])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, header: resp.Header, text: string(text)}
	_ = json.Unmarshal(text, &r.body)
	return r
}

// wants asks, and fails unless the status is that and the text holds the words.
func (s *site) wants(t *testing.T, status int, words, how, body string) reply {
	t.Helper()
	r := s.ask(t, how, body)
	if r.status != status || !strings.Contains(r.text, words) {
		t.Errorf("%s %s: %d %s; want %d with %q", how, body, r.status, r.text, status, words)
	}
	return r
}

const (
	stopped = `{"notification":{"type":"COMPUTE_HOST","hostname":"n1","generated_time":"%s","payload":{"event":"STOPPED","host_status":"NORMAL","cluster_status":"OFFLINE"}}}`
	segment = `{"segment":{"name":"%s","recovery_method":"auto","service_type":"COMPUTE"}}`
	host    = `{"host":{"name":"%s","type":"COMPUTE","control_attributes":"SSH"}}`
)

// TestVersions: who looks for the API's version finds it, with no token.
func TestVersions(t *testing.T) {
	s := newSite(t)
	s.token = ""
	for _, at := range []string{"GET /", "GET /v1", "GET /v1/"} {
		r := s.wants(t, 200, `"version":"1.3"`, at, "")
		if !strings.Contains(r.text, s.at+"/v1/") || !strings.Contains(r.text, `"min_version":"1.0"`) {
			t.Error(r.text)
		}
	}
	s.token = s.login(t, "admin")
	if r := s.wants(t, 200, "", "GET /v1/", ""); r.header.Get("Server") != "mainstay" { // by which mainstay check knows it
		t.Errorf("it calls itself %q", r.header.Get("Server"))
	}
	if r := s.wants(t, 200, "", "GET /v1/segments", ""); r.header.Get("OpenStack-API-Version") != "instance-ha 1.0" {
		t.Error("1.0 where nothing is said:", r.header, r.text)
	}
	if r := s.wants(t, 200, `"enabled":true`, "GET /v1/segments latest", ""); r.header.Get("OpenStack-API-Version") != "instance-ha 1.3" || r.header.Get("Vary") != "OpenStack-API-Version" {
		t.Error(r.header)
	}
	s.wants(t, 406, "maximum is 1.3", "GET /v1/segments 1.4", "")
	s.wants(t, 406, "", "GET /v1/segments 2.0", "")
	s.wants(t, 400, "invalid format", "GET /v1/segments 1.x", "")
	s.wants(t, 400, "not allowed ('enabled'", "POST /v1/segments 1.1", `{"segment":{"name":"x","recovery_method":"auto","service_type":"COMPUTE","enabled":true}}`)
	s.wants(t, 404, "itemNotFound", "GET /v1/nothing", "")
	s.wants(t, 404, "itemNotFound", "PATCH /v1/segments", "")
	// older endpoints have the project's id in their path
	s.wants(t, 200, "beijing", "GET /v1/5c4ed01e00004000800000000000000a/segments", "")
}

// TestWhoMay: a token of Keystone's with the role admin, and nothing else; none is logged.
func TestWhoMay(t *testing.T) {
	s := newSite(t)
	admin := s.token
	s.token = ""
	if r := s.wants(t, 401, "requires authentication", "GET /v1/segments", ""); r.header.Get("WWW-Authenticate") != "Keystone" {
		t.Error(r.header)
	}
	s.token = "guessed"
	s.wants(t, 401, "requires authentication", "GET /v1/segments", "")
	member := s.login(t, "member")
	for how, body := range map[string]string{"GET /v1/segments": "", "GET /v1/notifications": "", "POST /v1/notifications": fmt.Sprintf(stopped, "2026-11-27T00:00:00"), "POST /v1/segments": fmt.Sprintf(segment, "x")} {
		s.token = member
		s.wants(t, 403, "role admin", how, body)
	}
	s.token = admin
	s.keystone.Break(falsecloud.Fault{Path: "/identity", Status: 503})
	if r := s.wants(t, 503, "serviceUnavailable", "GET /v1/segments", ""); r.header.Get("Retry-After") == "" {
		t.Error(r.header)
	}
	s.keystone.Mend()
	s.keystone.ExpireTokens()
	s.wants(t, 401, "", "GET /v1/segments", "")
	s.token = s.login(t, "admin")
	s.wants(t, 200, "", "GET /v1/segments", "")
	defer s.lock()()
	for _, secret := range []string{admin, member, "guessed", "secret"} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log has %q: %s", secret, s.log.String())
		}
	}
	if !strings.Contains(s.log.String(), "503") {
		t.Errorf("why nobody is let in is not logged: %s", s.log.String())
	}
}

// TestSegments: the site is a segment; others are names, which may be given twice.
func TestSegments(t *testing.T) {
	s := newSite(t)
	r := s.wants(t, 200, "", "GET /v1/segments 1.2", "")
	if g := r.list("segments"); len(g) != 1 || g[0]["name"] != "beijing" || g[0]["enabled"] != true || g[0]["recovery_method"] != "auto" {
		t.Fatal(r.text)
	}
	beijing := fmt.Sprint(r.list("segments")[0]["uuid"])
	if again := newSite(t).wants(t, 200, beijing, "GET /v1/segments/"+beijing, ""); again.one("segment")["uuid"] != beijing {
		t.Error("another voter has another name for the site")
	}
	made := s.wants(t, 201, `"name":"rack1"`, "POST /v1/segments", fmt.Sprintf(segment, "rack1")).one("segment")
	again := s.wants(t, 201, "", "POST /v1/segments", fmt.Sprintf(segment, "rack1")).one("segment")
	if made["uuid"] != again["uuid"] {
		t.Error("made twice:", made, again)
	}
	if r := s.wants(t, 201, beijing, "POST /v1/segments", fmt.Sprintf(segment, "beijing")); r.one("segment")["name"] != "beijing" {
		t.Error(r.text)
	}
	s.wants(t, 409, "already exists", "POST /v1/segments", `{"segment":{"name":"rack1","recovery_method":"rh_priority","service_type":"COMPUTE"}}`)
	s.wants(t, 409, "reserves no hosts", "POST /v1/segments", `{"segment":{"name":"rack2","recovery_method":"reserved_host","service_type":"COMPUTE"}}`)
	s.wants(t, 409, "mode is act", "POST /v1/segments 1.2", `{"segment":{"name":"rack2","recovery_method":"auto","service_type":"COMPUTE","enabled":"False"}}`)
	for _, bad := range []string{`{`, `{}`, `{"segment":{}}`, `{"segment":null}`, `{"segment":{"name":" x","recovery_method":"auto","service_type":"COMPUTE"}}`, `{"segment":{"name":"x","recovery_method":"luck","service_type":"COMPUTE"}}`,
		`{"segment":{"name":"x","recovery_method":"auto"}}`, `{"segment":{"name":7,"recovery_method":"auto","service_type":"C"}}`, `{"segment":{"name":"` + strings.Repeat("x", 256) + `","recovery_method":"auto","service_type":"C"}}`} {
		s.wants(t, 400, "badRequest", "POST /v1/segments", bad)
	}
	s.wants(t, 413, "overLimit", "POST /v1/segments", `{"segment":{"name":"`+strings.Repeat("x", 200_000)+`"}}`)
	path := "/v1/segments/" + fmt.Sprint(made["uuid"])
	if g := s.wants(t, 200, "", "PUT "+path, `{"segment":{"name":"row1","description":"by the window"}}`).one("segment"); g["name"] != "row1" || g["description"] != "by the window" || g["updated_at"] == nil {
		t.Error(g)
	}
	s.wants(t, 409, "already exists", "PUT "+path, `{"segment":{"name":"beijing"}}`)
	s.wants(t, 409, "mode is act", "PUT "+path+" 1.2", `{"segment":{"enabled":false}}`)
	s.wants(t, 200, "", "PUT "+path+" 1.2", `{"segment":{"enabled":true}}`)
	s.wants(t, 400, "", "PUT "+path, `{"segment":{}}`)
	s.wants(t, 409, "the site itself", "PUT /v1/segments/"+beijing, `{"segment":{"name":"shanghai"}}`)
	s.wants(t, 409, "the site itself", "DELETE /v1/segments/"+beijing, "")
	s.wants(t, 204, "", "DELETE "+path, "")
	s.wants(t, 404, "No failover segment", "GET "+path, "")
	s.wants(t, 404, "No failover segment", "DELETE "+path, "")
	s.change(func(w *fleet.World) { w.Spec.Mode = "shadow" })
	s.wants(t, 201, `"enabled":false`, "POST /v1/segments 1.2", `{"segment":{"name":"later","recovery_method":"auto","service_type":"COMPUTE","enabled":true}}`)
	s.wants(t, 409, "mode is shadow", "PUT /v1/segments/"+beijing+" 1.2", `{"segment":{"enabled":true}}`)
}

// TestHosts: each compute of the site's file is in one segment; on_maintenance is a wish.
func TestHosts(t *testing.T) {
	s := newSite(t)
	beijing := fmt.Sprint(s.ask(t, "GET /v1/segments", "").list("segments")[0]["uuid"])
	home := "/v1/segments/" + beijing + "/hosts"
	list := s.wants(t, 200, "", "GET "+home+"?sort_key=name&sort_dir=asc", "").list("hosts")
	if of(list, "name") != "n1 n2 n3" || list[0]["control_attributes"] != "redfish" || list[0]["on_maintenance"] != false || list[0]["failover_segment_id"] != beijing {
		t.Fatal(list)
	}
	rack := fmt.Sprint(s.ask(t, "POST /v1/segments", fmt.Sprintf(segment, "rack1")).one("segment")["uuid"])
	there := "/v1/segments/" + rack + "/hosts"
	made := s.wants(t, 201, `"type":"COMPUTE"`, "POST "+there, fmt.Sprintf(host, "n1")).one("host")
	if made["uuid"] != list[0]["uuid"] || made["control_attributes"] != "SSH" || made["failover_segment_id"] != rack {
		t.Error("a host has one UUID wherever it is:", made)
	}
	s.wants(t, 201, "", "POST "+there, fmt.Sprintf(host, "n1"))
	s.wants(t, 409, "already exists", "POST "+there, `{"host":{"name":"n1","type":"OTHER","control_attributes":"SSH"}}`)
	if got := of(s.ask(t, "GET "+home+"?sort_key=name&sort_dir=asc", "").list("hosts"), "name"); got != "n2 n3" {
		t.Error("in two segments:", got)
	}
	s.wants(t, 400, "Compute service with name c1 could not be found", "POST "+there, fmt.Sprintf(host, "c1"))
	s.wants(t, 400, "could not be found", "POST "+there, fmt.Sprintf(host, "n9"))
	s.wants(t, 400, "'control_attributes' is a required property", "POST "+there, `{"host":{"name":"n2","type":"COMPUTE"}}`)
	s.wants(t, 409, "openstack/reserved", "POST "+there, `{"host":{"name":"n2","type":"COMPUTE","control_attributes":"SSH","reserved":true}}`)
	s.wants(t, 404, "No failover segment", "POST /v1/segments/none/hosts", fmt.Sprintf(host, "n2"))

	other := fmt.Sprint(s.ask(t, "POST /v1/segments", fmt.Sprintf(segment, "rack2")).one("segment")["uuid"])
	s.wants(t, 201, other, "POST /v1/segments/"+other+"/hosts", fmt.Sprintf(host, "n1"))
	if got := s.ask(t, "GET "+there, ""); len(got.list("hosts")) != 0 {
		t.Error("moved, and in its former segment too:", got.text)
	}
	s.wants(t, 201, rack, "POST "+there, fmt.Sprintf(host, "n1"))
	s.wants(t, 204, "", "DELETE /v1/segments/"+other, "")

	n1 := there + "/" + fmt.Sprint(made["uuid"])
	s.wants(t, 404, "No host", "GET "+home+"/"+fmt.Sprint(made["uuid"]), "")
	s.wants(t, 200, `"on_maintenance":true`, "PUT "+n1, `{"host":{"on_maintenance":"True"}}`)
	if w := s.State().Wishes["maintenance-n1"]; w.Verb != "maintenance" || w.Host != "n1" || !strings.HasPrefix(w.By, "admin by Masakari") {
		t.Errorf("%+v", w)
	}
	s.wants(t, 200, `"on_maintenance":true`, "PUT "+n1, `{"host":{"on_maintenance":true}}`)
	if got := of(s.ask(t, "GET "+there+"?on_maintenance=true", "").list("hosts"), "name"); got != "n1" {
		t.Error(got)
	}
	if got := of(s.ask(t, "GET "+there+"?on_maintenance=no", "").list("hosts"), "name"); got != "" {
		t.Error(got)
	}
	s.wants(t, 400, "on_maintenance", "GET "+there+"?on_maintenance=perhaps", "")
	s.wants(t, 201, `"on_maintenance":true`, "POST "+there, `{"host":{"name":"n1","type":"COMPUTE","control_attributes":"SSH","on_maintenance":false}}`)
	s.wants(t, 200, `"on_maintenance":false`, "PUT "+n1, `{"host":{"on_maintenance":false}}`)
	if _, still := s.State().Wishes["maintenance-n1"]; still {
		t.Error("the wish stands")
	}
	s.wants(t, 200, `"control_attributes":"IPMI"`, "PUT "+n1, `{"host":{"control_attributes":"IPMI"}}`)
	s.wants(t, 409, "openstack/reserved", "PUT "+n1, `{"host":{"reserved":true}}`)
	s.wants(t, 200, `"reserved":false`, "PUT "+n1, `{"host":{"reserved":false,"name":"n1"}}`)
	s.change(func(w *fleet.World) { w.Spec.OpenStack.Reserved = []string{"n1"} })
	s.wants(t, 200, `"reserved":true`, "PUT "+n1, `{"host":{"reserved":true}}`)
	s.wants(t, 409, "openstack/reserved", "PUT "+n1, `{"host":{"reserved":false}}`)
	s.wants(t, 201, "", "POST /v1/segments", `{"segment":{"name":"spare","recovery_method":"reserved_host","service_type":"COMPUTE"}}`)
	s.wants(t, 409, "can't become n2", "PUT "+n1, `{"host":{"name":"n2"}}`)
	s.wants(t, 400, "no boolean", "PUT "+n1, `{"host":{"on_maintenance":"perhaps"}}`)
	s.wants(t, 409, "compute of the site's file", "DELETE "+n1, "")
	s.wants(t, 409, "n1 in it is a compute", "DELETE /v1/segments/"+rack, "")
	s.change(func(w *fleet.World) {
		w.Spec.Hosts = slices.DeleteFunc(slices.Clone(w.Spec.Hosts), func(h fleet.Host) bool { return h.Name == "n1" })
	})
	s.wants(t, 200, `"name":"n1"`, "GET "+n1, "")
	s.wants(t, 204, "", "DELETE "+n1, "")
	s.wants(t, 404, "No host", "GET "+n1, "")
	s.wants(t, 204, "", "DELETE /v1/segments/"+rack, "")
}

// say sends that n1 has stopped, and returns its path.
func (s *site) say(t *testing.T) string {
	t.Helper()
	r := s.wants(t, 202, `"status":"new"`, "POST /v1/notifications", fmt.Sprintf(stopped, s.now().Format("2006-01-02T15:04:05.000000")))
	return "/v1/notifications/" + fmt.Sprint(r.one("notification")["notification_uuid"])
}

// is wants a notification's status, and words in what Mainstay found.
func (s *site) is(t *testing.T, path, status, words string) reply {
	t.Helper()
	r := s.wants(t, 200, `"status":"`+status+`"`, "GET "+path+" 1.1", "")
	if !strings.Contains(r.text, words) {
		t.Errorf("%s\nwant %q", r.text, words)
	}
	return r
}

// TestTestimony: a notification changes nothing of what Mainstay knows or does, and its status
// is what Mainstay finds by itself.
func TestTestimony(t *testing.T) {
	for _, row := range []struct {
		name   string
		later  time.Duration
		change func(w *fleet.World)
		status string
		words  string
	}{
		{"nobody has looked yet", 0, nil, "new", "its voters hear it"},
		{"the host is heard", 11 * time.Second, nil, "ignored", "have heard it for 10s since"},
		{"the host is not heard, and nothing is proved", 11 * time.Second, func(w *fleet.World) { w.Verdicts["n1"] = fleet.Verdict{Condition: fleet.Lapsed} }, "new", "without a proof"},
		{"another boot of it is heard, which is not judged yet", 11 * time.Second, func(w *fleet.World) {
			w.Verdicts["n1"] = fleet.Verdict{Condition: fleet.Healthy, Stint: fleet.Stint{Boot: "b2"}}
		}, "new", ""},
		{"nothing is fenced", 11 * time.Second, func(w *fleet.World) {
			w.Verdicts["n1"] = fleet.Verdict{Condition: fleet.Lapsed}
			w.State.Wishes = map[string]fleet.Wish{"disarm": {Verb: "disarm", By: "ann"}}
		}, "new", "disarmed by ann"},
		{"it is being fenced", time.Second, func(w *fleet.World) {
			w.Verdicts["n1"] = fleet.Verdict{Condition: fleet.Lapsed}
			w.State.Intents = map[string]fleet.Intent{"n1": {Host: "n1", Boot: "b1", Device: "redfish"}}
		}, "running", "fenced by redfish"},
		{"its fence proved nothing", time.Minute, func(w *fleet.World) {
			w.Verdicts["n1"] = fleet.Verdict{Condition: fleet.Lapsed}
			w.State.Members = map[string]fleet.Member{"n1": {Tried: fleet.Tries{Boot: "b1", Count: 2}}}
		}, "error", "fenced 2 times"},
		{"it is proved dead", time.Second, func(w *fleet.World) {
			w.State.Proofs["n1"] = fleet.Proof{Host: "n1", Boot: "b1", Evidence: "off twice"}
			w.State.Evacuations["s1"] = fleet.Evacuation{Server: "s1", From: "n1", Boot: "b1"}
		}, "running", "off twice); 1 of its servers are on their way, 0 have arrived"},
		{"the proof is of an earlier boot", 11 * time.Second, func(w *fleet.World) { w.State.Proofs["n1"] = fleet.Proof{Host: "n1", Boot: "b0"} }, "ignored", ""},
		{"its servers have all left", time.Minute, func(w *fleet.World) {
			w.State.Holdings["compute/n1"] = fleet.Holding{Thing: "compute/n1", Generation: 2, Why: "nothing is left on n1"}
		}, "finished", "nothing is left on n1"},
		{"it was rebooted and has them", time.Minute, func(w *fleet.World) {
			w.State.Holdings["compute/n1"] = fleet.Holding{Thing: "compute/n1", Host: "n1", Boot: "b2", Generation: 2, Why: "a later boot"}
		}, "finished", "a later boot"},
		{"in shadow mode nothing is carried out", time.Second, func(w *fleet.World) { w.Spec.Mode = "shadow" }, "ignored", "shadow mode"},
		{"it comes into maintenance", time.Second, func(w *fleet.World) {
			w.State.Wishes = map[string]fleet.Wish{"maintenance-n1": {Verb: "maintenance", Host: "n1"}}
		}, "ignored", "maintenance"},
		{"it has lost a network for which the site's file says evacuate", 11 * time.Second, func(w *fleet.World) {
			w.Spec.OpenStack.Lost = map[string]fleet.Loss{"storage": fleet.LossEvacuate}
			w.State.Cutoffs = map[string]fleet.Cutoff{"n1": {Host: "n1", Networks: map[string]fleet.Lost{"storage": {Why: "no voter answers there"}}}}
		}, "running", "lost the network storage"},
		{"nothing comes of it for a day", 25 * time.Hour, func(w *fleet.World) { w.Verdicts["n1"] = fleet.Verdict{Condition: fleet.Lapsed} }, "failed", "24h"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newSite(t)
			before := s.world.State.Clone()
			path := s.say(t)
			if after := s.State(); fmt.Sprint(before) != fmt.Sprint(after) {
				t.Fatalf("a notification changed what the quorum remembers: %v, %v", before, after)
			}
			s.change(func(w *fleet.World) {
				w.Wall = w.Wall.Add(row.later)
				if row.change != nil {
					row.change(w)
				}
			})
			s.is(t, path, row.status, row.words)
		})
	}
}

// TestNotifications: what is taken, what is not, and for how long it is kept.
func TestNotifications(t *testing.T) {
	s := newSite(t)
	path := s.say(t)
	now := s.now().Format(time.RFC3339)
	s.wants(t, 409, "is duplicate", "POST /v1/notifications", fmt.Sprintf(stopped, now))
	s.change(func(w *fleet.World) { w.Wall = w.Wall.Add(4 * time.Minute) })
	s.say(t) // the same words, later, are another one
	post := func(status int, words, kind, host, payload string) reply {
		t.Helper()
		return s.wants(t, status, words, "POST /v1/notifications", fmt.Sprintf(`{"notification":{"type":"%s","hostname":"%s","generated_time":"%s","payload":%s}}`, kind, host, now, payload))
	}
	post(400, "Host with name n9 could not be found", "COMPUTE_HOST", "n9", `{"event":"STOPPED"}`)
	post(400, "could not be found", "COMPUTE_HOST", "c1", `{"event":"STOPPED"}`)
	post(400, "'event' is a required property", "COMPUTE_HOST", "n2", `{}`)
	post(400, "none of STARTED, STOPPED", "COMPUTE_HOST", "n2", `{"event":"EXPLODED"}`)
	post(400, "was unexpected", "COMPUTE_HOST", "n2", `{"event":"STOPPED","more":"x"}`)
	post(400, "no UUID", "VM", "n2", `{"event":"LIFECYCLE","instance_uuid":"x","vir_domain_event":"STOPPED_FAILED"}`)
	post(400, "'process_name' is a required", "PROCESS", "n2", `{"event":"STOPPED"}`)
	post(400, "none of COMPUTE_HOST, PROCESS, VM", "RACK", "n2", `{"event":"STOPPED"}`)
	post(400, "no object", "COMPUTE_HOST", "n2", `"STOPPED"`)
	s.wants(t, 400, "ISO 8601", "POST /v1/notifications", fmt.Sprintf(stopped, "yesterday"))
	const guest = "b9837317-a5b8-44f4-93b4-45500c562bb8"
	vm := "/v1/notifications/" + fmt.Sprint(post(202, "", "VM", "n2", `{"event":"LIFECYCLE","instance_uuid":"`+guest+`","vir_domain_event":"STOPPED_FAILED"}`).one("notification")["notification_uuid"])
	gone := "/v1/notifications/" + fmt.Sprint(post(202, "", "PROCESS", "n2", `{"event":"STOPPED","process_name":"nova-compute"}`).one("notification")["notification_uuid"])
	other := "/v1/notifications/" + fmt.Sprint(post(202, "", "PROCESS", "n2", `{"event":"STOPPED","process_name":"sshd"}`).one("notification")["notification_uuid"])
	back := "/v1/notifications/" + fmt.Sprint(post(202, "", "PROCESS", "n2", `{"event":"STARTED","process_name":"nova-compute"}`).one("notification")["notification_uuid"])
	well := func(ready bool) {
		s.change(func(w *fleet.World) {
			w.Reports["n2"] = fleet.Report{Services: map[string]fleet.ServiceState{"nova-compute": {Phase: fleet.Running, Ready: ready}}}
		})
	}
	well(false)
	s.is(t, gone, "running", "kept by its agent")
	s.is(t, other, "ignored", "no service")
	s.is(t, back, "finished", "")
	s.is(t, vm, "new", "has not said yet")
	s.change(func(w *fleet.World) {
		w.State.Revivals = map[string]fleet.Revival{guest: {Server: guest, Host: "n2", Try: 1}}
	})
	s.is(t, vm, "running", "it crashed on n2")
	s.change(func(w *fleet.World) { w.State.Revivals = nil; w.Wall = w.Wall.Add(11 * time.Second) })
	s.is(t, vm, "ignored", "no guest is restarted on a notifier's word")
	well(true)
	s.is(t, gone, "finished", "serves again")

	if got := s.wants(t, 200, "", "GET /v1/notifications?type=PROCESS&status=finished", ""); len(got.list("notifications")) != 2 {
		t.Error(got.text)
	}
	n2 := fmt.Sprint(s.ask(t, "GET "+gone, "").one("notification")["source_host_uuid"])
	if got := s.ask(t, "GET /v1/notifications?source_host_uuid="+n2, ""); len(got.list("notifications")) != 4 {
		t.Error(got.text)
	}
	if got := s.ask(t, "GET /v1/notifications?generated-since="+s.now().Add(-time.Minute).Format("2006-01-02T15:04:05"), ""); len(got.list("notifications")) != 1 {
		t.Error(got.text)
	}
	s.wants(t, 400, "generated-since", "GET /v1/notifications?generated-since=noon", "")
	s.wants(t, 404, "No notification", "GET /v1/notifications/"+n2, "")
	if r := s.ask(t, "GET "+gone, ""); strings.Contains(r.text, "recovery_workflow_details") {
		t.Error("1.0 has no details:", r.text)
	}
	s.change(func(w *fleet.World) {
		w.State.Wishes = map[string]fleet.Wish{"maintenance-n2": {Verb: "maintenance", Host: "n2"}}
	})
	post(409, "already under maintenance", "COMPUTE_HOST", "n2", `{"event":"STOPPED","host_status":"NORMAL"}`)
	s.change(func(w *fleet.World) { w.Wall = w.Wall.Add(25 * time.Hour) })
	s.change(nil)
	s.wants(t, 404, "", "GET "+path, "")
	// a storm is bounded
	s.mu.Lock()
	for i := range plan.NoticesKept - 1 {
		id := fmt.Sprintf("%036d", i)
		s.kept.Notifications[id] = fleet.Notification{UUID: id, Host: "n3", Type: fleet.NoticeHost, At: s.world.Wall}
	}
	s.mu.Unlock()
	for i := range 3 {
		s.change(func(w *fleet.World) { w.Wall = w.Wall.Add(time.Second) })
		s.wants(t, 202, "", "POST /v1/notifications", fmt.Sprintf(`{"notification":{"type":"PROCESS","hostname":"n1","generated_time":"%s","payload":{"event":"STOPPED","process_name":"p%d"}}}`, s.now().Format(time.RFC3339), i))
	}
	if n := len(s.kept.Notifications); n != plan.NoticesKept {
		t.Error(n)
	}
}

// TestPath: the way of a lost host's servers, while it is gone on and after the host is back.
func TestPath(t *testing.T) {
	s := newSite(t)
	path := s.say(t)
	s.wants(t, 200, `"vmoves":[]`, "GET "+path+"/vmoves", "")
	s.change(func(w *fleet.World) {
		w.State.Proofs["n1"] = fleet.Proof{Host: "n1", Boot: "b1", Evidence: "off twice"}
		w.State.Evacuations["s1"] = fleet.Evacuation{Server: "s1", Name: "web", From: "n1", Boot: "b1", To: "n2", Try: 1, At: w.Wall}
		w.State.Evacuations["s2"] = fleet.Evacuation{Server: "s2", Name: "db", From: "n1", Boot: "b1", Try: 2, At: w.Wall, Path: []string{"try 1, n2: refused"}}
		w.State.Evacuations["s3"] = fleet.Evacuation{Server: "s3", From: "n1", Boot: "b0", Ended: "on n3"} // an earlier one
		s.tell("host/n1", "n1 is proved dead")
		s.tell("server/s1", "web is evacuated from n1 to n2 (try 1)")
		s.tell("host/n3", "of another host")
	})
	r := s.is(t, path, "running", "web is evacuated from n1 to n2 (try 1)")
	if strings.Contains(r.text, "of another host") || !strings.Contains(r.text, "n1 is proved dead") || !strings.Contains(r.text, `"state":"RUNNING"`) {
		t.Error(r.text)
	}
	moves := s.wants(t, 200, "", "GET "+path+"/vmoves?sort_key=instance_name&sort_dir=asc 1.3", "").list("vmoves")
	if of(moves, "instance_name") != "db web" || of(moves, "status") != "ongoing ongoing" || moves[1]["dest_host"] != "n2" || moves[1]["source_host"] != "n1" || moves[0]["dest_host"] != nil || moves[0]["message"] != "try 1, n2: refused; try 2" {
		t.Fatal(moves)
	}
	s.change(func(w *fleet.World) {
		w.Wall = w.Wall.Add(5 * time.Second)
		for _, id := range []string{"s1", "s2"} {
			e := w.State.Evacuations[id]
			e.Ended, e.Over = map[string]string{"s1": "on n2", "s2": "deleted by its owner"}[id], w.Wall
			w.State.Evacuations[id] = e
		}
		w.State.Holdings["compute/n1"] = fleet.Holding{Thing: "compute/n1", Generation: 2, Why: "nothing is left on n1"}
	})
	s.is(t, path, "finished", "nothing is left")
	s.change(func(w *fleet.World) { clear(w.State.Evacuations) }) // it is back
	moves = s.wants(t, 200, "", "GET "+path+"/vmoves?sort_key=instance_name&sort_dir=asc 1.3", "").list("vmoves")
	if of(moves, "status") != "ignored succeeded" || moves[1]["end_time"] == nil || moves[1]["start_time"] == moves[1]["end_time"] {
		t.Fatal(moves)
	}
	if got := s.ask(t, "GET "+path+"/vmoves?status=succeeded 1.3", "").list("vmoves"); of(got, "instance_name") != "web" {
		t.Error(got)
	}
	s.wants(t, 200, `"instance_name":"web"`, "GET "+path+"/vmoves/"+fmt.Sprint(moves[1]["uuid"])+" latest", "")
	s.wants(t, 404, "", "GET "+path+"/vmoves/none latest", "")
	vm := s.wants(t, 202, "", "POST /v1/notifications", `{"notification":{"type":"PROCESS","hostname":"n2","generated_time":"2026-11-27","payload":{"event":"STOPPED","process_name":"x"}}}`)
	s.wants(t, 400, "without vmoves", "GET /v1/notifications/"+fmt.Sprint(vm.one("notification")["notification_uuid"])+"/vmoves 1.3", "")
}

// TestPages: limit, marker, order, and what is refused of them.
func TestPages(t *testing.T) {
	s := newSite(t)
	beijing := fmt.Sprint(s.ask(t, "GET /v1/segments", "").list("segments")[0]["uuid"])
	home := "GET /v1/segments/" + beijing + "/hosts?sort_key=name"
	first := s.ask(t, home+"&sort_dir=asc&limit=2", "").list("hosts")
	if of(first, "name") != "n1 n2" {
		t.Fatal(first)
	}
	for _, marker := range []string{fmt.Sprint(first[1]["uuid"]), fmt.Sprintf("%.0f", first[1]["id"])} {
		if got := of(s.ask(t, home+"&sort_dir=asc&limit=2&marker="+marker, "").list("hosts"), "name"); got != "n3" {
			t.Errorf("after %s: %q", marker, got)
		}
	}
	if got := of(s.ask(t, home, "").list("hosts"), "name"); got != "n3 n2 n1" {
		t.Error("the default is desc:", got)
	}
	if got := s.ask(t, home+"&type=NONE", ""); !strings.Contains(got.text, `"hosts":[]`) {
		t.Error(got.text)
	}
	s.wants(t, 400, "Marker none could not be found", home+"&marker=none", "")
	s.wants(t, 400, "limit", home+"&limit=-1", "")
	s.wants(t, 400, "limit", home+"&limit=many", "")
	s.wants(t, 400, "sort direction", home+"&sort_dir=up", "")
	s.wants(t, 400, "Sort key", "GET /v1/segments?sort_key=luck", "")
	for i := range 3 {
		s.change(func(w *fleet.World) { w.Wall = w.Wall.Add(time.Second) })
		s.ask(t, "POST /v1/segments", fmt.Sprintf(segment, fmt.Sprint("s", i)))
	}
	if got := of(s.ask(t, "GET /v1/segments", "").list("segments"), "name"); got != "s2 s1 s0 beijing" {
		t.Error("the newest first:", got)
	}
}
