package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/lab"
)

// TestDemoEnds: a broken promise is an exit code of its own, and a demo that failed
// before there was a lab does not say that there is one.
func TestDemoEnds(t *testing.T) {
	var out, errs bytes.Buffer
	a := &app{out: &out, err: &errs}
	if err := a.tellDemo(lab.Result{}); err != nil || !strings.Contains(out.String(), "Every promise was kept.") {
		t.Errorf("a demo that kept its promises ends with %v and says %q", err, out.String())
	}
	var e *exit
	if err := a.tellDemo(lab.Result{Broken: []string{"it was silent"}}); !errors.As(err, &e) || e.code != exitTrouble {
		t.Errorf("a broken promise ends with %v", err)
	}
	if a.kept("nosuch", true); errs.Len() > 0 {
		t.Errorf("without a lab it says %q", errs.String())
	}
}

// TestLiveLine: hosts, all that is held, and the client's successes.
func TestLiveLine(t *testing.T) {
	got := liveLine(api.Status{
		Leader: "c2", Hosts: []api.HostStatus{{Name: "c1", Condition: fleet.Suspect}, {Name: "c2", Condition: fleet.Healthy}},
		Holdings: []api.HoldingStatus{{Thing: "address/internal", Host: "c1"}, {Thing: "service/keystone-flush", Host: "c2", Works: true}},
		Services: []api.ServiceStatus{{Name: "keystone", Copies: map[string]fleet.ServiceState{"c1": {}, "c2": {Ready: true}}}},
	})
	if want := "c1 suspect  c2* healthy  | internal@c1? keystone-flush@c2 | keystone 1/2"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	now := time.Unix(1000, 0)
	ended := func(ago time.Duration, ok bool) lab.Try { return lab.Try{Begun: now.Add(-ago), OK: ok} }
	for want, tries := range map[string][]lab.Try{
		"client: no try ended":    {ended(2*time.Second, true)},
		"client: all answered":    {ended(2*time.Second, false), ended(900*time.Millisecond, true), ended(0, true)},
		"client: 1 of 2 answered": {ended(900*time.Millisecond, true), ended(0, false)},
	} {
		if got := clientLine(tries, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
