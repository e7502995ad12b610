package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// foreseer is an agent that knows what would become of servers.
type foreseer struct {
	backend
	asked    []string
	preview  fleet.Preview
	capacity fleet.Capacity
	err      error
}

func (f *foreseer) Preview(_ context.Context, hosts []string, _ bool) (fleet.Preview, error) {
	f.asked = hosts
	return f.preview, f.err
}

func (f *foreseer) Capacity(context.Context, bool) (fleet.Capacity, error) { return f.capacity, f.err }

func TestPreview(t *testing.T) {
	f := &foreseer{}
	run := serveAny(t, f)
	f.preview = fleet.Preview{Hosts: []string{"n017"}, Requests: 6, First: fleet.Span{Least: 6 * time.Second, Most: 40 * time.Second}, Last: fleet.Span{Least: 7 * time.Second, Most: 41 * time.Second},
		How: []string{"so"}, Fates: []fleet.Fate{{Server: "1", Name: "web", From: "n017", To: "n002", State: fleet.FateMoves, Tries: 1, RTO: fleet.Span{Least: 6 * time.Second, Most: 40 * time.Second}}}}
	code, out, _ := run("preview", "host n017 dies")
	if code != 0 || strings.Join(f.asked, " ") != "n017" || !strings.Contains(out, "all that are moved have a place") || !strings.Contains(out, "web") || !strings.Contains(out, "6s to 40s") {
		t.Errorf("%d %v\n%s", code, f.asked, out)
	}
	f.preview.Unfit = 1
	f.preview.Fates = append(f.preview.Fates, fleet.Fate{Server: "2", Name: "db", From: "n017", State: fleet.FateUnfit, Why: "no compute takes it: memory on 9"})
	code, out, _ = run("preview", "hosts", "n[017-018]", "die")
	if code != exitTrouble || strings.Join(f.asked, " ") != "n017 n018" || !strings.Contains(out, "1 WOULD NOT FIT") || !strings.Contains(out, "DOES NOT FIT: no compute takes it: memory on 9") {
		t.Errorf("%d %v\n%s", code, f.asked, out)
	}
	code, out, _ = run("preview", "host n017 dies", "-o", "json")
	var back fleet.Preview
	if err := json.Unmarshal([]byte(out), &back); err != nil || code != exitTrouble || len(back.Fates) != 2 || back.Last.Least != 7*time.Second {
		t.Errorf("%d %v %+v", code, err, back)
	}
	if code, _, errOut := run("preview", "n017"); code != exitUsage || !strings.Contains(errOut, "'host n017 dies'") {
		t.Errorf("%d %s", code, errOut)
	}
	f.capacity = fleet.Capacity{Hosts: 3, Zones: map[string]fleet.Bearing{"nova": {Hosts: 3, K: 1, Worst: "n1"}}}
	if code, out, _ := run("preview"); code != 0 || !strings.Contains(out, "The loss of any one compute would fit.") {
		t.Errorf("%d\n%s", code, out)
	}
	f.capacity.Short = map[string]fleet.Shortage{"n2": {Servers: 2, First: "db", Why: "no compute takes it: vcpus on 2"}}
	if code, out, _ := run("preview"); code != exitTrouble || !strings.Contains(out, "vcpus on 2") {
		t.Errorf("%d\n%s", code, out)
	}
	f.err = api.Refuse(503, "mainstay check", "OpenStack does not answer: so it is")
	if code, _, errOut := run("preview"); code != 1 || !strings.Contains(errOut, "OpenStack does not answer") || !strings.Contains(errOut, "try: mainstay check") {
		t.Errorf("%d %s", code, errOut)
	}
}
