package service

import (
	"os"
	"strings"
	"testing"

	"mainstay/fleet"
)

// TestOperating: the operator's page names every kind and parameter, and its example
// of a site's file is one.
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
	var example strings.Builder
	for line := range strings.Lines(about) {
		if text, code := strings.CutPrefix(line, "    "); code && (example.Len() > 0 || strings.HasPrefix(text, "site:")) { // commands come before it
			example.WriteString(text)
		}
	}
	if _, faults := fleet.Read("OPERATING.md", []byte(example.String()), Catalogue()); len(faults.Errors()) > 0 {
		t.Errorf("%v in:\n%s", faults.Errors(), example.String())
	}
}
