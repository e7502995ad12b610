package service

import (
	"os"
	"strings"
	"testing"

	"mainstay/fleet"
)

// TestOperating: the operator's page names every kind and parameter, and its examples
// of a site's file are ones.
func TestOperating(t *testing.T) {
	page, err := os.ReadFile("../docs/OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, about, ok := strings.Cut(string(page), "## The site's file\n")
	if !ok {
		t.Fatal("no section on the site's file")
	}
	for _, k := range Kinds() {
		if !strings.Contains(about, "`"+k.Name+"`") {
			t.Errorf("the kind %s is not named", k.Name)
		}
		for _, p := range k.Params {
			if !strings.Contains(about, "`"+p.Name+"`") {
				t.Errorf("the parameter %s of %s is not named", p.Name, k.Name)
			}
		}
	}
	for _, section := range []string{"The site's file", "OpenStack's own services"} {
		_, about, _ := strings.Cut(string(page), "## "+section+"\n")
		var example strings.Builder
		for line := range strings.Lines(about) {
			text, code := strings.CutPrefix(line, "    ")
			if example.Len() > 0 && !code {
				break
			}
			if example.Len() > 0 || strings.HasPrefix(text, "site:") { // commands come before it
				example.WriteString(text)
			}
		}
		if _, faults := fleet.Read("OPERATING.md", []byte(example.String()), Catalogue()); example.Len() == 0 || len(faults.Errors()) > 0 {
			t.Errorf("%s: %v in:\n%s", section, faults.Errors(), example.String())
		}
	}
}

// TestOperatingDRBD: what the page gives for a database and a RabbitMQ on a mirrored disk is
// part of a site's file, and its agents know the parameters, as far as they are here.
func TestOperatingDRBD(t *testing.T) {
	page, err := os.ReadFile("../docs/OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, about, _ := strings.Cut(string(page), "## DRBD\n")
	about, _, _ = strings.Cut(about, "\n## ")
	example := "site: test\nnetworks: {management: {cidr: 10.0.0.0/24}}\nhosts: {\"c[1-3]\": {roles: [controller], addresses: {management: 10.0.0.11}}}\n"
	inside := false
	for line := range strings.Lines(about) {
		text, code := strings.CutPrefix(line, "    ")
		if inside = code && (inside || strings.HasPrefix(text, "addresses:") || strings.HasPrefix(text, "  mq:")); inside {
			example += text
		}
	}
	spec, faults := fleet.Read("OPERATING.md", []byte(example), Catalogue())
	if len(faults.Errors()) > 0 || len(spec.Services) != 4 {
		t.Fatalf("%v in:\n%s", faults.Errors(), example)
	}
	for _, v := range spec.Services {
		if _, err := Open(v, Env{}); err != nil {
			t.Error(err)
		}
	}
}
