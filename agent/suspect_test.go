package agent

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/probe/heartbeat"
)

// TestSenses: what an ear tells the leader of hosts that beat, and when it finds one silent: on one network, and on all.
func TestSenses(t *testing.T) {
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{
		{Name: "c1", Voter: true}, {Name: "n1", Roles: []string{"compute"}}, {Name: "n2", Roles: []string{"compute"}}}}
	now := fleet.Moment(time.Hour)
	a, err := New(Config{
		Host: "c1", Boot: "b", Spec: spec, Run: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Now: func() fleet.Moment { return now }, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	beat := func(host string, networks ...string) {
		for _, network := range networks {
			b := heartbeat.Beat{Stint: fleet.Stint{Host: host, Boot: "b", N: 1}, Sent: now, Leased: true}
			a.heardBeat(b, network, now)
			a.earBeat(b, now)
		}
	}
	news := func() bool {
		select {
		case <-a.news:
			return true
		default:
			return false
		}
	}
	second := func(n1 ...string) (told bool) {
		now = now.Add(time.Second)
		beat("n1", n1...)
		beat("n2", "storage", "tenant")
		told = news()
		a.suspect(now)
		return told || news()
	}
	both := []string{"storage", "tenant"}
	if !second(both...) {
		t.Error("who is heard for the first time is news")
	}
	kept := a.Heard()["n1"]
	if kept.Nets["storage"] != now || kept.Nets["tenant"] != now || kept.Again["storage"] != now || kept.Again["tenant"] != now || !kept.Leased {
		t.Errorf("heard a moment ago: %+v", kept)
	}
	began := now
	for range 3 {
		if second(both...) {
			t.Error("a beat like any other is no news")
		}
		if due := slices.Min(a.dues); !now.Before(due) {
			t.Errorf("who is heard everywhere is looked at again at %d, in the next tick: now is %d", due, now)
		}
	}
	if kept.Nets["storage"] != began {
		t.Error("what a World says of a host changed with the next beat")
	}
	if h := a.Heard()["n1"]; h.Again != nil || h.Nets["tenant"] != now {
		t.Errorf("heard for long: %+v", h)
	}
	for i, want := range []bool{false, false, true} {
		if got := second("storage"); got != want {
			t.Errorf("silent on one network for %d s: news %v, want %v", i+1, got, want)
		}
	}
	if len(a.suspects) > 0 {
		t.Errorf("suspects %v: it is heard", a.suspects)
	}
	if !second(both...) || a.Heard()["n1"].Again["tenant"] != now || len(a.Heard()["n1"].Again) != 1 {
		t.Errorf("heard there again: %+v", a.Heard()["n1"])
	}
	for i, want := range []bool{false, false, true} {
		if got := second(); got != want || (len(a.suspects) > 0) != want {
			t.Errorf("silent for %d s: news %v, suspects %v", i+1, got, a.suspects)
		}
	}
	if !slices.Equal(a.suspects, []string{"n1"}) {
		t.Errorf("suspects %v, want n1", a.suspects)
	}
	if !second(both...) || len(a.suspects) > 0 {
		t.Errorf("suspects %v: it is heard again", a.suspects)
	}
}
