package agent

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/probe/heartbeat"
)

// TestName: a slow beat names the report that its host would make at that very moment and no other
// (HOLES 109); who may hold something exclusive names none, and says all of it each second.
func TestName(t *testing.T) {
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}, {Name: "n1", Roles: []string{"compute"}}}}
	now := fleet.Moment(time.Hour)
	open := func(host string) *Agent {
		a, err := New(Config{
			Host: host, Boot: "b", Spec: spec, Run: t.TempDir(), Log: slog.New(slog.DiscardHandler),
			Now: func() fleet.Moment { return now }, Wall: time.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := open("n1")
	names := func(when string, want uint64) {
		t.Helper()
		now = now.Add(time.Second)
		b := heartbeat.Beat{Sent: now}
		if a.name(&b); b.News != want || (b.News != 0) != !b.Wall.IsZero() {
			t.Errorf("%s: the beat names %d, want %d (%v)", when, b.News, want, b.Wall)
		}
	}
	say := func(r fleet.Report) uint64 {
		r.Seq = a.number(now)
		r.News = r.Seq
		a.said, a.saidAt = r, now
		return r.News
	}
	names("nothing said yet", 0)
	first := say(a.testimony(now))
	if got := a.owed(true, now); !slices.Equal(got, []string{"c1"}) {
		t.Errorf("a new report is owed to %v", got)
	}
	if got := a.owed(false, now); len(got) != 0 {
		t.Errorf("owed again at once to %v", got)
	}
	names("said", first)
	if n := a.number(0); n <= uint64(now) {
		t.Errorf("a report after that beat would have the number %d, and be taken for an older one than %d", n, now)
	}
	a.hand.Dropped(a.hand.Stint().N)
	a.acked("c1", a.hand.Stint(), now, now)
	names("its lease lives, and it has not said so yet", 0)
	second := say(a.testimony(now))
	names("said", second)
	now = now.Add(2 * spec.Timing.SlowLease)
	names("its lease has ended, which nobody has noticed yet", 0)
	a.hand.Tick(now)
	names("its stint has ended, which it has not said yet", 0)
	say(a.testimony(now))
	a.services["nova-compute"] = fleet.ServiceState{Phase: fleet.Running}
	names("a service changed, which it has not said yet", 0)
	third := say(a.testimony(now))
	names("said", third)
	a.Farewell()
	names("it has said farewell, and what it said before holds no more", 0)

	a = open("c1")
	say(a.testimony(now))
	names("a voter", 0)
	if got := a.owed(false, now); !slices.Equal(got, []string{"c1"}) {
		t.Errorf("a voter owes its report to %v", got)
	}
}
