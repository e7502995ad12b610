package openstack

import (
	"testing"
	"time"

	"mainstay/fleet"
)

// TestBorrowed: the end of a server's newest evacuation stands in an earlier one's record where Nova
// has written it there, and is believed of none that tells of another time or another place.
func TestBorrowed(t *testing.T) {
	begun := time.Date(2026, 11, 27, 17, 31, 4, 0, time.UTC)
	rec := func(id int, status, from, to string, made, changed time.Duration) evacuation {
		e := evacuation{Migration: fleet.Migration{ID: id, Status: status, From: from, To: to}, made: begun.Add(made)}
		if changed != 0 {
			e.changed = begun.Add(changed)
		}
		return e
	}
	newest := rec(83, "accepted", "n1", "n3", 0, 0)
	for _, row := range []struct {
		name, sort, host string
		read             [][]evacuation // one look after the other
		want, to         string
	}{
		{"nothing of it has happened", "", "n1", [][]evacuation{{newest}}, "accepted", "n3"},
		{"an earlier one got the end", "", "n3", [][]evacuation{{newest, rec(53, "done", "n1", "n3", -40*time.Second, 5*time.Second)}}, "done", "n3"},
		{"and the source has read it since", "", "n3", [][]evacuation{{newest, rec(53, "completed", "n1", "n3", -40*time.Second, time.Minute)}}, "completed", "n3"},
		{"where the scheduler chose", "", "n4", [][]evacuation{{rec(83, "accepted", "n1", "", 0, 0), rec(53, "done", "n1", "n4", -40*time.Second, 5*time.Second)}}, "done", "n4"},
		{"of an earlier time", "", "n3", [][]evacuation{{newest, rec(53, "done", "n1", "n3", -time.Hour, -time.Second)}}, "accepted", "n3"},
		{"it is not there yet", "", "n1", [][]evacuation{{newest, rec(53, "done", "n1", "n3", -40*time.Second, 5*time.Second)}}, "accepted", "n3"},
		{"of another place", "", "n4", [][]evacuation{{newest, rec(53, "done", "n1", "n3", -40*time.Second, 5*time.Second)}}, "accepted", "n3"},
		{"of a loss before: its source has come back since", "", "n1", [][]evacuation{{newest, rec(53, "completed", "n2", "n1", -time.Hour, 5*time.Second)}}, "accepted", "n3"},
		{"an earlier one failed", "", "n1", [][]evacuation{{newest, rec(53, "failed", "n1", "n3", -40*time.Second, 5*time.Second)}}, "accepted", "n3"},
		{"its own record tells", "", "n3", [][]evacuation{{rec(83, "failed", "n1", "n3", 0, 9*time.Second), rec(53, "done", "n1", "n3", -40*time.Second, 5*time.Second)}}, "failed", "n3"},
		{"seen before and after", "", "n3", [][]evacuation{{rec(53, "accepted", "n1", "n2", -40*time.Second, 0)}, {newest}, {rec(53, "done", "n1", "n3", -40*time.Second, 5*time.Second)}}, "done", "n3"},
		{"a live migration has a record of its own", "live-migration", "n3", [][]evacuation{{newest, rec(53, "completed", "n1", "n3", -40*time.Second, 5*time.Second)}}, "accepted", "n3"},
	} {
		sort := row.sort
		if sort == "" {
			sort = evacuations
		}
		h := newHistory(sort, 0)
		for _, read := range row.read {
			h.learn("a", read)
		}
		if m := h.of("a", row.host); m.Status != row.want || m.To != row.to || m.ID != 83 || m.From != "n1" {
			t.Errorf("%s: %+v", row.name, m)
		}
	}
	// Records are read as far back as one that may get the end.
	h := newHistory(evacuations, 0)
	h.learn("a", []evacuation{newest, rec(53, "accepted", "n1", "n2", -3*time.Hour, 0), rec(19, "done", "n4", "n1", -9*time.Hour, -8*time.Hour)})
	h.seen = begun
	for _, asked := range []map[string]fleet.Server{{"a": {}}, nil} {
		want := begun.Add(-slack)
		if asked != nil {
			want = want.Add(-3 * time.Hour)
		}
		if got := h.bound(asked, nil); !got.Equal(want) {
			t.Errorf("asked for %v it is read back to %v, not %v", asked, got, want)
		}
	}
}
