package openstack_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/openstack"
	"mainstay/openstack/falsecloud"
)

// dead plays a cloud whose n1 lost its power, is forced down, and had one server.
func dead(t *testing.T, cfg falsecloud.Config) (f *falsecloud.Cloud, clock *falsecloud.Clock, c *openstack.Client, id string) {
	t.Helper()
	f, clock, c = serve(t, cfg)
	for _, h := range []string{"n1", "n2", "n3"} {
		f.AddCompute(h, "", 8192)
	}
	id = f.AddServer(falsecloud.Server{Name: "s", Host: "n1"})
	f.Kill("n1")
	do(t, c, fleet.CloudForceDown, "compute/n1", "")
	return f, clock, c, id
}

func do(t *testing.T, c *openstack.Client, step, thing, with string) {
	t.Helper()
	if err := try(t, c, patience, step, thing, with); err != nil {
		t.Fatal(err)
	}
}

func try(t *testing.T, c *openstack.Client, within time.Duration, step, thing, with string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return c.Do(ctx, fleet.Order{Verb: fleet.VerbCloud, Step: step, Thing: thing, With: with, Why: "a test"}, yes)
}

func look(t *testing.T, c *openstack.Client, hosts []string, servers ...string) fleet.Cloud {
	t.Helper()
	out, err := c.Look(t.Context(), 7, hosts, servers)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestOutcomes plays each way in which a deed can go, and asks what the client makes of it,
// and whether the deed was done.
func TestOutcomes(t *testing.T) {
	action, services := "/action", "/os-services"
	for _, c := range []struct {
		name  string
		fault falsecloud.Fault
		step  string // evacuate if empty
		want  fleet.Outcome
		words string
		taken int // evacuations
	}{
		{name: "all is well", want: fleet.Done, taken: 1},
		{name: "the answer is lost after the deed", fault: falsecloud.Fault{Path: action, Lost: true}, want: fleet.NoWord, taken: 1},
		{name: "it never answers", fault: falsecloud.Fault{Path: action, Hang: true}, want: fleet.NoWord, words: "no answer in time"},
		{name: "a proxy's 502 after the deed", fault: falsecloud.Fault{Path: action, Status: 502}, want: fleet.NoWord, words: "502 Bad Gateway"},
		{name: "a proxy's 503", fault: falsecloud.Fault{Path: action, Status: 503}, want: fleet.NoWord, words: "503"},
		{name: "a proxy's 504", fault: falsecloud.Fault{Path: action, Status: 504}, want: fleet.NoWord, words: "504"},
		{name: "Nova's 500", fault: falsecloud.Fault{Path: action, Status: 500}, want: fleet.NoWord, words: "500"},
		{name: "a limit of requests", fault: falsecloud.Fault{Path: action, Status: 429}, want: fleet.Broken, words: "429"},
		{name: "forbidden", fault: falsecloud.Fault{Path: action, Status: 403}, want: fleet.Refused, words: "403"},
		{name: "Keystone is away", fault: falsecloud.Fault{Path: "/identity", Status: 503}, want: fleet.Broken, words: "log in to Keystone: 503"},
		{name: "Keystone hangs", fault: falsecloud.Fault{Path: "/identity", Hang: true}, want: fleet.Broken, words: "no answer in time"},
		{name: "Nova's versions are away", fault: falsecloud.Fault{Path: "/compute/v2.1/", Method: "GET", Status: 503}, want: fleet.Broken, words: "ask Nova for its versions: 503"},
		{name: "force-down: its answer is lost, and it is seen to be done", step: fleet.CloudForceDown, fault: falsecloud.Fault{Method: "PUT", Lost: true}, want: fleet.Done},
		{name: "force-down: a proxy answers, and it is not done", step: fleet.CloudForceDown, fault: falsecloud.Fault{Method: "PUT", Status: 502}, want: fleet.NoWord, words: "502"},
		{name: "force-down: the services are not told", step: fleet.CloudForceDown, fault: falsecloud.Fault{Path: services, Method: "GET", Status: 502}, want: fleet.Broken, words: "502"},
		{name: "an unknown step", step: "explode", want: fleet.Refused, words: "no such step"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, _, before, id := dead(t, falsecloud.Config{})
			before.Close()
			client := open(t, address(t, f), "admin", "secret") // not logged in yet
			if !strings.Contains(c.fault.Path, "/identity") && c.fault.Method != "GET" {
				look(t, client, nil) // the fault is to meet the deed, not what comes before it
			}
			f.Break(c.fault)
			step, thing := c.step, "server/"+id
			if step == "" {
				step = fleet.CloudEvacuate
			} else {
				thing = "compute/n2"
			}
			within := patience
			if c.fault.Hang {
				within = 300 * time.Millisecond
			}
			err := try(t, client, within, step, thing, "")
			if got := openstack.OutcomeOf(err); got != c.want || c.words != "" && !strings.Contains(err.Error(), c.words) {
				t.Errorf("%s: %v; want %s with %q", got, err, c.want, c.words)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "<html>")) {
				t.Errorf("it tells %q", err)
			}
			if n := f.Evacuations(); n != c.taken {
				t.Errorf("Nova took %d evacuations, want %d", n, c.taken)
			}
		})
	}
}

// address serves f a second time.
func address(t *testing.T, f *falsecloud.Cloud) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	t.Cleanup(f.Close)
	return s.URL + "/identity/v3"
}

// TestStill: it is asked when all is ready, and its no is the last word.
func TestStill(t *testing.T) {
	f, _, before, id := dead(t, falsecloud.Config{})
	before.Close()
	c, asked := open(t, address(t, f), "admin", "secret"), false
	err := c.Do(t.Context(), fleet.Order{Verb: fleet.VerbCloud, Step: fleet.CloudEvacuate, Thing: "server/" + id}, func() error {
		asked = f.Calls()["POST tokens"] == 2
		return errors.New("a newer epoch has begun")
	})
	if !asked || openstack.OutcomeOf(err) != fleet.Refused || !strings.Contains(err.Error(), "newer epoch") || f.Evacuations() != 0 {
		t.Errorf("asked after the login: %v; %v; %d evacuations", asked, err, f.Evacuations())
	}
}

// TestNobodyThere: without a connection there was no request.
func TestNobodyThere(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	c := open(t, s.URL+"/v3", "admin", "secret")
	err := try(t, c, patience, fleet.CloudEvacuate, "server/x", "")
	if openstack.OutcomeOf(err) != fleet.Broken || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
	out, err := c.Look(t.Context(), 7, []string{"n1"}, nil)
	if err == nil || out.Away == "" || out.At != 0 || out.Looked != nil {
		t.Errorf("%v: %+v", err, out)
	}
}

// TestLostAnswer: what was accepted shows on record, though nobody touched the record since.
func TestLostAnswer(t *testing.T) {
	f, clock, c, id := dead(t, falsecloud.Config{})
	look(t, c, []string{"n1"}) // it has read the record once
	clock.Advance(time.Hour)
	f.Break(falsecloud.Fault{Path: "/action", Lost: true, Times: 1})
	if err := try(t, c, patience, fleet.CloudEvacuate, "server/"+id, ""); openstack.OutcomeOf(err) != fleet.NoWord {
		t.Fatal(err)
	}
	if m := look(t, c, []string{"n1"}).Servers[id].Migration; m.ID == 0 || m.Status != "accepted" || m.From != "n1" {
		t.Errorf("%+v", m)
	}
}

// TestTokens: tokens end, and nobody notices; a new password in clouds.yaml is taken.
func TestTokens(t *testing.T) {
	f, clock, c, id := dead(t, falsecloud.Config{})
	f.ExpireTokens()
	do(t, c, fleet.CloudEvacuate, "server/"+id, "")
	if n := f.Evacuations(); n != 1 {
		t.Errorf("one request with a token that had ended made %d evacuations", n)
	}
	clock.Advance(time.Minute)

	// Many at once share one new token.
	f.ExpireTokens()
	before := f.Calls()["POST tokens"]
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if _, err := c.Look(t.Context(), 7, []string{"n1", "n2"}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if n := f.Calls()["POST tokens"] - before; n > 8 {
		t.Errorf("%d logins", n)
	}

	f.ExpireTokens()
	f.Break(falsecloud.Fault{Path: "/identity", Status: 503})
	err := try(t, c, patience, fleet.CloudStop, "server/"+id, "")
	if openstack.OutcomeOf(err) != fleet.Broken || !strings.Contains(err.Error(), "no new token from Keystone: 503") {
		t.Error(err)
	}
	f.Mend()
	look(t, c, nil)
}

func TestNewPassword(t *testing.T) {
	clock := falsecloud.NewClock()
	f := falsecloud.New(falsecloud.Config{Now: clock.Now})
	f.AddCompute("n1", "", 8192)
	at := address(t, f)
	name := entry(t, at, "admin", "secret")
	c, err := openstack.Open(fleet.OpenStack{Cloud: "here", Config: name})
	if err != nil {
		t.Fatal(err)
	}
	look(t, c, nil)
	f.Rename("changed")
	f.ExpireTokens()
	if _, err := c.Look(t.Context(), 7, nil, nil); err == nil || !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), "secret") {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(name)
	if err := os.WriteFile(name, []byte(strings.ReplaceAll(string(text), "secret", "changed")), 0o600); err != nil {
		t.Fatal(err)
	}
	look(t, c, nil)
}

// TestDisableTheDead: Nova calls the compute when it disables it, and waits for one that is
// dead. The change is made all the same, and is seen.
func TestDisableTheDead(t *testing.T) {
	t.Parallel()
	f, _, c := serve(t, falsecloud.Config{RPC: time.Hour})
	f.AddCompute("n1", "", 8192)
	f.Kill("n1")
	do(t, c, fleet.CloudDisable, "compute/n1", "")
	if v := look(t, c, nil).Computes["n1"]; !v.Up || !v.Disabled {
		t.Errorf("%+v", v)
	}
	// Forced down first, it is not called.
	f.AddCompute("n2", "", 8192)
	f.Kill("n2")
	do(t, c, fleet.CloudForceDown, "compute/n2", "")
	do(t, c, fleet.CloudDisable, "compute/n2", "")
}

// TestPartly: what was answered is told, and what was not is not made up.
func TestPartly(t *testing.T) {
	for _, c := range []struct {
		name, path             string
		computes, looked, room bool
	}{
		{"services", "/os-services", false, true, true},
		{"hypervisors", "/os-hypervisors", true, true, false},
		{"servers", "/servers/detail", true, false, true},
		{"evacuations", "/os-migrations", true, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, _, client, id := dead(t, falsecloud.Config{})
			if _, err := client.Look(t.Context(), 1, nil, nil); err != nil {
				t.Fatal(err)
			}
			f.Break(falsecloud.Fault{Path: c.path, Status: 503})
			out, err := client.Look(t.Context(), 7, []string{"n1"}, nil)
			if err == nil || !strings.Contains(out.Away, "503") {
				t.Fatalf("%v: %+v", err, out)
			}
			if got := out.At == 7 && len(out.Computes) == 3; got != c.computes {
				t.Errorf("computes: %v", got)
			}
			if out.Computes != nil && out.Computes["n2"].FreeRAM != 8192 {
				t.Error("the room of a compute is forgotten while Nova does not tell it")
			}
			_, got := out.Looked["n1"]
			if _, there := out.Servers[id]; got != c.looked || there != c.looked {
				t.Errorf("looked: %v, %v", got, out.Servers)
			}
		})
	}
}

// TestHang: one request that hangs does not hold up what the others answered, and the look
// ends by its context.
func TestHang(t *testing.T) {
	t.Parallel()
	f, _, client, id := dead(t, falsecloud.Config{})
	look(t, client, nil)
	f.Break(falsecloud.Fault{Path: "/os-hypervisors", Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	out, err := client.Look(ctx, 7, []string{"n1"}, nil)
	if err == nil || len(out.Computes) != 3 {
		t.Errorf("%v: %+v, %s", err, out, id)
	}
}

// TestWho: who is not let in, and how `mainstay check` says it.
func TestWho(t *testing.T) {
	f := falsecloud.New(falsecloud.Config{Newest: 100})
	f.AddCompute("n1", "", 8192)
	at := address(t, f)
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	for _, c := range []struct{ name, keystone, user, password, want string }{
		{"wrong password", at, "admin", "swordfish", "401 Unauthorized: The request you have made requires authentication.; user, password and project of cloud \"here\""},
		{"no admin", at, "member", "secret", "needs the role admin"},
		{"no Keystone", away.URL + "/v3", "admin", "secret", "refused"},
		{"found by its root", strings.TrimSuffix(at, "/v3"), "admin", "secret", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := strings.Join(open(t, c.keystone, c.user, c.password).Examine(t.Context(), nil), "; ")
			if !strings.Contains(found, c.want) || (c.want == "") != (found == "") || strings.Contains(found, "swordfish") {
				t.Errorf("%q; want %q", found, c.want)
			}
		})
	}
	for _, c := range []struct {
		name, want string
		cfg        falsecloud.Config
	}{
		{"too old", "it speaks 2.1 to 2.79; 2.87 is needed", falsecloud.Config{Newest: 79}},
		{"another region", "no public endpoint of type compute in region RegionOne", falsecloud.Config{Regions: []string{"North"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, client := serve(t, c.cfg)
			if found := client.Examine(t.Context(), nil); len(found) != 1 || !strings.Contains(found[0], c.want) {
				t.Errorf("%q; want %q", found, c.want)
			}
		})
	}
	t.Run("several regions, none named", func(t *testing.T) {
		f := falsecloud.New(falsecloud.Config{Regions: []string{"North", "South"}})
		name := entry(t, address(t, f), "admin", "secret")
		text, _ := os.ReadFile(name)
		name = file(t, strings.Replace(string(text), "region_name: RegionOne", "verify: true", 1))
		c, err := openstack.Open(fleet.OpenStack{Cloud: "here", Config: name})
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("OS_REGION_NAME", "North") // a person's shell; the agent has none
		if found := c.Examine(t.Context(), nil); len(found) != 1 || !strings.Contains(found[0], "regions North, South; name the site's as region_name") {
			t.Error(found)
		}
	})
	t.Run("both lists of computes", func(t *testing.T) {
		client := open(t, at, "admin", "secret")
		found := strings.Join(client.Examine(t.Context(), []string{"n2"}), "\n")
		if !strings.Contains(found, "Nova knows no nova-compute of n2") || !strings.Contains(found, "the site's file has not: n1") {
			t.Error(found)
		}
	})
	t.Run("a file for everybody", func(t *testing.T) {
		name := entry(t, at, "admin", "secret")
		if err := os.Chmod(name, 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := openstack.Open(fleet.OpenStack{Cloud: "here", Config: name})
		if err != nil {
			t.Fatal(err)
		}
		if found := c.Examine(t.Context(), nil); len(found) != 1 || !strings.Contains(found[0], "chmod 600") {
			t.Error(found)
		}
	})
}

// TestLeave: a project that is left to its owner is known by its name or by its id.
func TestLeave(t *testing.T) {
	const octavia = "0123456789abcdef0123456789abcdef"
	f := falsecloud.New(falsecloud.Config{Newest: 100, Projects: map[string]string{"octavia": octavia}})
	f.AddCompute("n1", "", 8192)
	id := f.AddServer(falsecloud.Server{Name: "amphora", Host: "n1", Project: octavia})
	name := entry(t, address(t, f), "admin", "secret")
	for _, c := range []struct {
		leave         []string
		project, said string
	}{
		{[]string{"octavia"}, "octavia", ""},
		{[]string{octavia}, octavia, ""},
		{[]string{"nosuch"}, octavia, `there is no project "nosuch"`},
	} {
		client, err := openstack.Open(fleet.OpenStack{Cloud: "here", Config: name, Leave: c.leave})
		if err != nil {
			t.Fatal(err)
		}
		if got := look(t, client, []string{"n1"}).Servers[id].Project; got != c.project {
			t.Errorf("left %v: project %q", c.leave, got)
		}
		if found := strings.Join(client.Examine(t.Context(), nil), "; "); !strings.Contains(found, c.said) || (c.said == "") != (found == "") {
			t.Errorf("left %v: %q", c.leave, found)
		}
	}
	client, err := openstack.Open(fleet.OpenStack{Cloud: "here", Config: name, Leave: []string{"octavia"}})
	if err != nil {
		t.Fatal(err)
	}
	f.Break(falsecloud.Fault{Path: "/projects", Status: 503})
	if out, err := client.Look(t.Context(), 7, []string{"n1"}, nil); err == nil || out.Servers != nil {
		t.Errorf("looked without knowing whose servers are left: %v, %+v", err, out)
	}
}

// TestLeftLater: Octavia's project is made with Octavia, long after the login; its first server is left all the same, in
// a look, in a survey for a preview, and in the list for snapshots. Whose a server is that nobody has seen must be known.
func TestLeftLater(t *testing.T) {
	const octavia = "0123456789abcdef0123456789abcdef"
	f := falsecloud.New(falsecloud.Config{Newest: 100})
	f.AddCompute("n1", "", 8192)
	f.AddServer(falsecloud.Server{Name: "vm", Host: "n1", Project: "p"})
	name := entry(t, address(t, f), "admin", "secret")
	open := func() *openstack.Client {
		client, err := openstack.Open(fleet.OpenStack{Cloud: "here", Config: name, Leave: []string{"octavia"}})
		if err != nil {
			t.Fatal(err)
		}
		look(t, client, []string{"n1"})
		return client
	}
	looks, surveys, lists := open(), open(), open()
	f.AddProject("octavia", octavia)
	id := f.AddServer(falsecloud.Server{Name: "amphora", Host: "n1", Project: octavia})
	f.Break(falsecloud.Fault{Path: "/projects", Status: 503, Times: 1})
	if out, err := looks.Look(t.Context(), 7, []string{"n1"}, nil); err == nil || out.Servers != nil || len(out.Looked) > 0 {
		t.Errorf("looked without knowing whose the new server is: %v, %+v", err, out)
	}
	if got := look(t, looks, []string{"n1"}).Servers[id].Project; got != "octavia" {
		t.Errorf("a look: project %q", got)
	}
	survey, err := surveys.Survey(t.Context(), 7, []string{"n1"})
	if got := survey.Servers[id].Project; err != nil || got != "octavia" {
		t.Errorf("a survey: project %q, %v", got, err)
	}
	stock, err := lists.Stock(t.Context(), time.Now())
	if err != nil || !slices.ContainsFunc(stock.Servers, func(s fleet.Server) bool { return s.ID == id && s.Project == "octavia" }) {
		t.Errorf("a list: %+v, %v", stock.Servers, err)
	}
}

// TestOpen: what is wrong with a clouds.yaml is said without what stands in it.
func TestOpen(t *testing.T) {
	good := "clouds:\n  here:\n    auth: {auth_url: 'http://127.0.0.1:5000/v3', username: u, password: swordfish, project_name: p, user_domain_id: default, project_domain_id: default}\n"
	for _, c := range []struct{ name, text, want string }{
		{"good", good, ""},
		{"no such cloud", strings.Replace(good, "here:", "there:", 1), `cloud "here" not found`},
		{"no YAML", "clouds: [swordfish", "yaml"},
		{"another type", "clouds:\n  here:\n    auth: swordfish\n", "yaml"},
		{"no address", strings.Replace(good, "http://127.0.0.1:5000/v3", "keystone", 1), "no address of a Keystone"},
		{"a password in the address", strings.Replace(good, "http://", "http://u:swordfish@", 1), "holds a user"},
		{"no password", strings.Replace(good, "password: swordfish, ", "", 1), "neither a password"},
		{"a token", strings.Replace(good, "password: swordfish", "token: swordfish", 1), "cannot be renewed"},
		{"no such CA", good + "    cacert: /nonexistent/ca.pem\n", "/nonexistent/ca.pem"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := openstack.Open(fleet.OpenStack{Cloud: "here", Config: file(t, c.text)})
			got := fmt.Sprint(err)
			if (c.want == "") != (err == nil) || !strings.Contains(got, c.want) && err != nil || strings.Contains(got, "swordfish") {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
	_, err := openstack.Open(fleet.OpenStack{Cloud: "here", Config: filepath.Join(t.TempDir(), "none.yaml")})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
}

// TestTLS: the CA of clouds.yaml is the one that counts.
func TestTLS(t *testing.T) {
	f := falsecloud.New(falsecloud.Config{})
	s := httptest.NewTLSServer(f)
	t.Cleanup(s.Close)
	name := entry(t, s.URL+"/identity/v3", "admin", "secret")
	c, err := openstack.Open(fleet.OpenStack{Cloud: "here", Config: name})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Look(t.Context(), 1, nil, nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
	text, _ := os.ReadFile(name)
	c, err = openstack.Open(fleet.OpenStack{Cloud: "here", Config: file(t, string(text)+"    verify: false\n")})
	if err != nil {
		t.Fatal(err)
	}
	look(t, c, nil)
}
