package leader

import (
	"testing"
	"time"

	"mainstay/fleet"
)

// Reports overtake each other on their ways over several networks; the newest one
// of a boot counts, and only what is new starts a turn.
func TestDesk(t *testing.T) {
	now := fleet.Moment(0)
	d := NewDesk(func() fleet.Moment { now++; return now })
	r := fleet.Report{Host: "c1", Boot: "a", Seq: 5, Leased: true}
	if !d.Put(r) {
		t.Error("the first report is news")
	}
	late := r
	late.Seq, late.Leased = 4, false
	if d.Put(late) || !d.Reports()["c1"].Leased {
		t.Error("an overtaken report took the newer one's place")
	}
	same := r
	same.Seq = 6
	if d.Put(same) {
		t.Error("the same again is no news")
	}
	if told := d.Told()["c1"]; told != 2 {
		t.Errorf("the newest report came at 2, not at %d", told)
	}
	reboot := fleet.Report{Host: "c1", Boot: "b", Seq: 1}
	if !d.Put(reboot) || d.Reports()["c1"].Boot != "b" {
		t.Error("a new boot counts from the beginning")
	}
	select {
	case <-d.Changed():
	default:
		t.Error("nobody was told")
	}
}

// TestNamed: a beat is worth as much as a report for the very report that it names, and nothing for
// any other; no beat and no report that was sent before counts after it.
func TestNamed(t *testing.T) {
	now := fleet.Moment(100)
	d := NewDesk(func() fleet.Moment { return now })
	wall := time.Unix(1_800_000_000, 0)
	r := fleet.Report{Host: "n1", Boot: "a", Seq: 50, News: 50, Leased: true, Wall: wall}
	if has := d.Named("n1", "a", 50, 60, wall, 99); has != 0 || d.Told()["n1"] != 0 {
		t.Errorf("a beat that came before any report made one: %d", has)
	}
	d.Put(r)
	named := func(what, boot string, news uint64, sent, at, told fleet.Moment, has uint64) {
		t.Helper()
		if got := d.Named("n1", boot, news, sent, wall.Add(time.Duration(sent)), at); got != has {
			t.Errorf("%s: it has %d, want %d", what, got, has)
		}
		if got := d.Told()["n1"]; got != told {
			t.Errorf("%s: told at %d, want %d", what, got, told)
		}
	}
	named("its own report", "a", 50, 60, 110, 110, 50)
	if got := d.Reports()["n1"]; got.Seq != 60 || !got.Wall.Equal(wall.Add(60)) || got.News != 50 {
		t.Errorf("what was named is not as new as the beat: %+v", got)
	}
	named("the same over another network", "a", 50, 60, 120, 110, 50)
	named("an older beat that was long on its way", "a", 50, 55, 130, 110, 50)
	named("a report that did not come", "a", 70, 70, 140, 110, 50)
	named("no report", "a", 0, 75, 140, 110, 50)
	named("another boot's", "b", 50, 80, 150, 110, 0)
	late := r
	late.Seq, late.News, late.Leased = 58, 58, false
	if d.Put(late) {
		t.Error("a report from before the newest beat took the place of what that named")
	}
	now = 160
	if same := (fleet.Report{Host: "n1", Boot: "a", Seq: 90, News: 90, Leased: true, Wall: wall}); d.Put(same) {
		t.Error("a new process that says the same is no news")
	}
	named("the former process's report, late", "a", 50, 85, 170, 160, 90)
	d.Put(fleet.Report{Host: "n1", Boot: "b", Seq: 5, News: 5})
	named("the former boot's", "a", 90, 95, 180, 160, 0)
}
