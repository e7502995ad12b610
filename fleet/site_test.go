package fleet

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata anew; read the diff before you keep it")

// sample stands for the catalogue of package service, so that a row there may
// change without a golden file here.
func sample() map[string]Service {
	controllers := []string{"controller"}
	return map[string]Service{
		"keystone": {
			Kind: "systemd", Mode: ActiveActive, Why: "it is stateless", Units: []string{"keystone.service"}, Roles: controllers,
			After: []string{"mariadb", "memcached"}, Check: Check{Kind: "http", Port: 5000, Path: "/v3", Deadline: 2 * time.Second},
			Listen: Listen{Port: 5000, Protocol: "http", Addresses: []string{"internal", "public"}}, OnFailure: FailBlock,
		},
		"mariadb": {
			Kind: "galera", Mode: ActiveActive, Why: "Galera keeps the copies equal", Units: []string{"mariadb.service"}, Roles: controllers,
			Listen: Listen{Port: 3306, Writer: true, Addresses: []string{"internal"}}, OnFailure: FailBlock,
		},
		"memcached": {Kind: "systemd", Mode: ActiveActive, Why: "a cache", Roles: controllers, OnFailure: FailBlock},
		"haproxy":   {Kind: "systemd", Mode: ActiveActive, Why: "one on each", Roles: controllers, OnFailure: FailBlock},
		"scheduler": {Kind: "systemd", Mode: ActivePassive, Why: "it has no lock", Roles: controllers, OnFailure: FailMove},
	}
}

// golden compares with testdata/NAME, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; go test ./fleet -update writes it", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", file, diff)
	}
}

// TestRead plays each file of testdata/site and compares all that is said of it.
func TestRead(t *testing.T) {
	files, err := filepath.Glob("testdata/site/*.yaml")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, faults := Read(filepath.Base(file), text, sample())
			if strings.HasPrefix(name, "sound") {
				if err := faults.Err(); err != nil {
					t.Error(err)
				}
			} else if len(faults) == 0 {
				t.Error("no fault was found")
			}
			golden(t, "site/"+name+".want", faults.Error()+"\n")
		})
	}
}

// TestReadFills says what the file leaves out and Read completes.
func TestReadFills(t *testing.T) {
	text, err := os.ReadFile("testdata/site/sound-long.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, faults := Read("site.yaml", text, sample())
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	var hosts []string
	for _, h := range s.Hosts {
		hosts = append(hosts, h.Name)
	}
	if diff := cmp.Diff([]string{"a1", "c1", "c2", "n008", "n009", "n010", "n011"}, hosts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a1", "c1", "c2"}, s.Voters()); diff != "" {
		t.Error("controllers and arbiters vote:", diff)
	}
	c2, _ := s.Host("c2")
	if got := c2.Addresses["management"]; got != netip.MustParseAddr("10.0.0.35") {
		t.Error("a list names each host's address:", got)
	}
	if got := c2.Addresses["storage"]; got != netip.MustParseAddr("10.0.1.12") {
		t.Error("one address counts up:", got)
	}
	if got := c2.Fence[0][0].Params["url"]; got != "https://bmc-c2" {
		t.Error("{name} is the host's name:", got)
	}
	want := Timing{Beat: 50 * time.Millisecond, Lease: 250 * time.Millisecond, SlowBeat: time.Second, SlowLease: 5 * time.Second, Heartbeat: 20 * time.Millisecond, Election: 200 * time.Millisecond}
	if s.Timing != want {
		t.Errorf("the preset comes first wherever it stands: %+v", s.Timing)
	}
	if a, _ := s.Address("public"); a.Network != "public" || !slices.Equal(a.With, []string{"haproxy"}) {
		t.Errorf("the network is found by what contains the address: %+v", a)
	}
	k, _ := s.Service("keystone")
	if k.Restarts.Count != 0 || k.Check.Port != 5000 || k.Check.Deadline != 3*time.Second || k.Check.Every != time.Second || !k.Listen.TLS || k.Listen.Backend != 5000 || k.Listen.Network != "management" {
		t.Errorf("what is written replaces what the catalogue says, and no more: %+v", k)
	}
	m, _ := s.Service("mariadb")
	if m.Restarts != (Restarts{3, 10 * time.Minute}) || m.Listen.Protocol != "tcp" {
		t.Errorf("what nobody says has a default: %+v", m)
	}
	app, _ := s.Service("app")
	if app.Params["level"] != "3" || app.OnFailure != FailFence {
		t.Errorf("a service of the site's own: %+v", app)
	}
}

// TestReadLeavesCatalogue: the catalogue belongs to the caller.
func TestReadLeavesCatalogue(t *testing.T) {
	c := sample()
	s, _ := Read("f", []byte("services: {keystone: {after: [x], params: {a: b}}, mariadb: }"), c)
	for i := range s.Services {
		v := &s.Services[i]
		for _, list := range [][]string{v.Roles, v.Units, v.Listen.Addresses} {
			for j := range list {
				list[j] = "changed"
			}
		}
	}
	if diff := cmp.Diff(sample(), c); diff != "" {
		t.Error(diff)
	}
}

// TestReadIsEqual: equal sites, written in another order, are equal values.
func TestReadIsEqual(t *testing.T) {
	a, fa := Read("a", []byte("site: x\nnetworks: {b: {cidr: 10.1.0.0/24}, a: {cidr: 10.0.0.0/24}}\nhosts:\n  c[1-3]: {roles: [controller], addresses: {a: 10.0.0.1, b: 10.1.0.1}}\n"), nil)
	b, fb := Read("b", []byte("hosts:\n  c3: {roles: [controller], addresses: {b: 10.1.0.3, a: 10.0.0.3}}\n  c[1-2]: {addresses: {a: 10.0.0.1, b: 10.1.0.1}, roles: [controller]}\nnetworks: {a: {cidr: 10.0.0.0/24}, b: {cidr: 10.1.0.0/24}}\nsite: x\n"), nil)
	if len(fa)+len(fb) > 0 {
		t.Fatal(fa, fb)
	}
	if diff := cmp.Diff(a, b, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// TestLocate gives lines to faults that other packages found.
func TestLocate(t *testing.T) {
	text := "site: x\nhosts:\n  c[1-3]:\n    fence: {driver: redfish,\n      url: x}\nservices:\n  - memcached\n  - keystone\n"
	faults := Faults{
		{Path: "services/keystone/units", Problem: "does not exist"},
		{Path: "hosts/c2/fence/url", Problem: "is no URL"},
		{Path: "tls/certificate", Problem: "is missing"},
	}.Locate("site.yaml", []byte(text))
	want := "site.yaml:1:1: error: tls/certificate: is missing\n" +
		"site.yaml:5:12: error: hosts/c2/fence/url: is no URL\n" +
		"site.yaml:8:5: error: services/keystone/units: does not exist"
	if diff := cmp.Diff(want, faults.Error()); diff != "" {
		t.Error(diff)
	}
}

// TestSecretsAreNotTold: a fault never repeats what may be a password.
func TestSecretsAreNotTold(t *testing.T) {
	_, faults := Read("f", []byte(`hosts: {c1: {fence: {driver: x, password: "hunter2{nmae}", password: "hunter2", token: [hunter2]}}}
alarms: ["hunter2", "https://ann:hunter2@hooks.example.org/x"]
services: {a: {params: {password: hunter2, password: hunter2, token: [hunter2]}}}
`), nil)
	if len(faults) < 5 || strings.Contains(faults.Error(), "hunter2") {
		t.Error(faults)
	}
	if !strings.Contains(faults.Error(), "alarms/1: names a user or a password") {
		t.Errorf("a webhook with a password in it is taken: %v", faults)
	}
}

func TestBounds(t *testing.T) {
	for text, want := range map[string]string{
		strings.Repeat("#\n", maxBytes):                 "bytes",
		"a: " + strings.Repeat("x", maxLine):            "too long",
		"a: " + strings.Repeat("[", maxDepth+1):         "too deeply",
		"hosts: {\"a[1-9000]\": {}, \"b[1-9000]\": {}}": "makes more than 10000 hosts",
		"\xff\xfe": "not UTF-8",
	} {
		if _, faults := Read("f", []byte(text), nil); !strings.Contains(faults.Error(), want) {
			t.Errorf("nothing says %q: %.500s", want, faults.Error())
		}
	}
}

// TestValidate: a Spec that no file made is held to the same rules.
func TestValidate(t *testing.T) {
	s := Spec{Hosts: []Host{{Name: "a b"}}, Services: []Service{{Name: "x"}}}
	got := s.Validate().Error()
	for _, want := range []string{`"a b" is not a host's name`, "services/x/kind: is missing", "services/x/mode: is missing", "site: is missing", "mode: is missing", "timing/beat"} {
		if !strings.Contains(got, want) {
			t.Errorf("nothing says %q: %s", want, got)
		}
	}
}

func TestTemplate(t *testing.T) {
	for _, cidr := range []string{"10.0.0.0/24", "192.168.7.8/29", "fd00:1::/64"} {
		text := Template("beijing", netip.MustParsePrefix(cidr), sample())
		s, faults := Read("site.yaml", []byte(text), sample())
		if len(faults) > 0 {
			t.Errorf("%s: %v", cidr, faults)
		}
		if len(s.Services) != 4 || len(s.Hosts) != 3 {
			t.Errorf("%s: %d services, %d hosts", cidr, len(s.Services), len(s.Hosts))
		}
		if cidr == "10.0.0.0/24" {
			golden(t, "template.yaml", text)
		}
	}
	if _, faults := Read("site.yaml", []byte(Template("x", netip.MustParsePrefix("10.0.0.0/24"), nil)), nil); len(faults) > 0 {
		t.Error("without a catalogue:", faults)
	}
}

// TestTemplateComments: each example that the template holds as a comment must
// itself be right.
func TestTemplateComments(t *testing.T) {
	text := Template("beijing", netip.MustParsePrefix("10.0.0.0/24"), sample())
	for _, line := range []string{"  # storage:", "    # fence:", "  # n[001-100]:", "  # a1:", "# tls:", "# alarms:", "# operators:", "# openstack:", "#   app:"} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("%q is not in the template", line)
		}
		plain := strings.Replace(line, "# ", "", 1)
		out := strings.Replace(text, "\n"+line, "\n"+plain, 1)
		if line == "#   app:" { // stands above its section, as an explanation
			i := strings.Index(text, line)
			j := i + strings.Index(text[i:], "\n")
			out = strings.Replace(text, "services:\n", "services:\n"+text[i+2:j]+"\n", 1)
		}
		_, faults := Read("site.yaml", []byte(out), sample())
		for _, f := range faults.Errors() {
			if line == "  # a1:" && f.Rule == "voters" {
				continue // three controllers and an arbiter are four: the template says which for
			}
			t.Errorf("%s: %v", line, f)
		}
	}
}

// TestSums pins the sums of docs/DESIGN.md section 3, which are rounded to 5 ms.
func TestSums(t *testing.T) {
	type pair struct{ median, worst int }
	for preset, want := range map[string][]pair{
		"rack": {{335, 390}, {345, 450}, {50, 90}, {0, 0}, {10, 40}},
		"room": {{335, 390}, {690, 970}, {50, 90}, {0, 0}, {10, 40}},
	} {
		sums := Spec{Timing: Presets()[preset]}.Sums()
		for i, w := range want {
			near := func(got time.Duration, want int) bool {
				return (got - time.Duration(want)*time.Millisecond).Abs() <= 5*time.Millisecond
			}
			if s := sums[i]; !near(s.Median, w.median) || !near(s.Worst, w.worst) {
				t.Errorf("%s: %s: %v, worst %v, not %d, %d", preset, s.Case, s.Median, s.Worst, w.median, w.worst)
			}
		}
		if !strings.Contains(sums[3].Case, "245ms") {
			t.Error(sums[3].Case)
		}
	}
}

// TestPresets: each preset keeps every inequality, and its sums are ordered.
func TestPresets(t *testing.T) {
	for name, timing := range Presets() {
		c := checker{s: Spec{Timing: timing}}
		c.timing()
		if len(c.faults) > 0 {
			t.Errorf("%s: %v", name, c.faults)
		}
		for _, s := range (Spec{Timing: timing}).Sums() {
			if s.Median > s.Worst || s.Formula == "" {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if timing.LeadLease() <= 2*timing.Heartbeat || timing.Suspect() >= timing.Lease {
			t.Errorf("%s: what the checked inequalities imply does not hold", name)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"addresses", "fence", "roles", "voter"}
	for word, want := range map[string]string{"rolse": "roles", "Fence": "fence", "adresses": "addresses", "colour": "", "": ""} {
		if got := nearest(word, known); got != want {
			t.Errorf("%q: %q, not %q", word, got, want)
		}
	}
}

// FuzzRead: no input makes Read panic, and what it says is in order.
func FuzzRead(f *testing.F) {
	files, _ := filepath.Glob("testdata/site/*.yaml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("? a\n: b\n? [x]\n: y\nhosts: {? {a: b} : c}\n!!x : !!y z\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, faults := Read("f", text, sample())
		again, twice := Read("f", text, sample())
		if faults.Error() != twice.Error() || len(again.Hosts) != len(s.Hosts) {
			t.Fatal("a second reading says something else")
		}
		lines := strings.Count(string(text), "\n") + strings.Count(string(text), "\r") + 1
		last := 0
		for _, f := range faults {
			if f.Line < 1 || f.Column < 1 || f.Line > lines || f.Line < last || f.Problem == "" || f.Rule == "" {
				t.Fatalf("%#v in %d lines, behind line %d", f, lines, last)
			}
			last = f.Line
		}
		if _, pair := s.Pair(); faults.Err() == nil && len(s.Voters()) < 3 && !pair {
			t.Fatalf("voters %v without an error", s.Voters())
		}
	})
}
