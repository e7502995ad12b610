package leader

import (
	"testing"

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
