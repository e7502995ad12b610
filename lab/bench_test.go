package lab

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
	"mainstay/service"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sampleReport is a run of few rounds, not summed up yet.
func sampleReport() BenchReport {
	rounds := func(victim, leader string, outages ...float64) []BenchRound {
		var out []BenchRound
		for i, o := range outages {
			out = append(out, BenchRound{Victim: victim, Leader: leader, Next: "c2", Outage: o, Failed: 20 + i, Load: 2, Token: 2 * o})
		}
		return out
	}
	return BenchReport{Request: "GET http://10.77.0.100:5000/v3", Every: 20, Waits: 100, Peers: []BenchPeer{
		{Name: keepalivedFast, Setting: "fast", Rounds: rounds("c1", "", 300, 420)},
		{Name: pacemaker, Setting: "slow", Rounds: rounds("c1", "", 8000, 9000, 8500)},
		{Name: mainstay, Setting: "preset rack", Rounds: append(rounds("c1", "c2", 400, 380), rounds("c1", "c1", 700, 600, 1200)...)},
	}}
}

// TestBenchReport: what is told of the rounds, and which target is missed.
func TestBenchReport(t *testing.T) {
	r := sampleReport()
	r.finish()
	var out bytes.Buffer
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "bench.txt")
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Error(diff)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again BenchReport
	if err := json.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, again); diff != "" {
		t.Error(diff)
	}
}

// TestBenchTargets: each target is missed by itself, and without its peer it is not
// spoken of.
func TestBenchTargets(t *testing.T) {
	for want, change := range map[string]func(r *BenchReport){
		"": func(r *BenchReport) { r.Peers[2].Rounds = r.Peers[2].Rounds[:4] },
		"median, holder is not the leader: 461 ms, above 460 ms": func(r *BenchReport) {
			r.Peers[2].Rounds = r.Peers[2].Rounds[:4]
			r.Peers[2].Rounds[0].Outage, r.Peers[2].Rounds[1].Outage = 461, 461
		},
		"median, holder is the leader: 661 ms, above 660 ms": func(r *BenchReport) {
			r.Peers[2].Rounds = r.Peers[2].Rounds[:4]
			r.Peers[2].Rounds[2].Outage, r.Peers[2].Rounds[3].Outage = 661, 661
		},
		"worst: 1200 ms, above 1000 ms": func(r *BenchReport) { r.Peers[2].Rounds[2].Outage = 600 },
		"median, against Pacemaker's: 500 ms, above 400 ms": func(r *BenchReport) {
			r.Peers[2].Rounds = r.Peers[2].Rounds[:4]
			for i := range r.Peers[1].Rounds {
				r.Peers[1].Rounds[i].Outage = 4000
			}
		},
	} {
		r := sampleReport()
		change(&r)
		r.finish()
		if got := strings.Join(r.Missed, "; "); got != want {
			t.Errorf("missed %q, not %q", got, want)
		}
	}
	alone := BenchReport{Peers: sampleReport().Peers[2:]}
	alone.finish()
	if got := strings.Join(alone.Missed, "; "); got != "worst: 1200 ms, above 1000 ms" {
		t.Error(got)
	}
}

// TestBenchConfig: what cannot be measured is refused before anything is touched.
func TestBenchConfig(t *testing.T) {
	three := &Lab{Name: "x", Block: 77, Networks: []Network{{}, {}, {}}, Hosts: []Machine{{Name: "c1"}, {Name: "c2"}, {Name: "c3"}}}
	for want, cfg := range map[string]BenchConfig{
		"three hosts":              {Lab: &Lab{Hosts: three.Hosts[:2]}},
		`"corosync" is not one of`: {Lab: three, Peers: []string{"corosync"}},
	} {
		if _, err := BenchFailover(t.Context(), cfg, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	b, err := newBench(BenchConfig{Lab: three}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"keepalived-1s", "keepalived-0.1s", "pacemaker", "mainstay"}, b.cfg.Peers); diff != "" {
		t.Error(diff)
	}
}

// TestBenchSite: the site's file of a bench without a cloud is right.
func TestBenchSite(t *testing.T) {
	text := "site: x\nnetworks:\n  management: {cidr: 10.0.0.0/24}\nhosts:\n  c[1-3]: {roles: [controller]}\n" +
		"addresses:\n  internal: {address: 10.0.0.100, with: [haproxy]}\nservices:\n" + benchServices
	_, faults := fleet.Read("site.yaml", []byte(text), service.Catalogue())
	for _, f := range faults {
		if strings.HasPrefix(f.Path, "services/") {
			t.Error(f)
		}
	}
}
