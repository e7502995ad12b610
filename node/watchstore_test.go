package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/store"
)

// TestStoreState: what a member of the store says of itself, or that it says nothing, in
// the words of a report.
func TestStoreState(t *testing.T) {
	for _, c := range []struct {
		st    store.Status
		err   error
		phase string
		words string
	}{
		{store.Status{Leader: "c1"}, nil, "", ""},
		{store.Status{}, errors.New("no connection to /run/mainstay/lead.sock"), fleet.StoreDown, "no connection"},
		{store.Status{Waits: "joins the other voters"}, nil, fleet.StoreDown, "it joins the other voters"},
		{store.Status{}, nil, fleet.StoreAlone, "no leader"},
		{store.Status{Name: "c2", Leader: "c1", Voters: []store.Voter{{Name: "c1"}, {Name: "c2", Learner: true}}}, nil, fleet.StoreLearns, "c1 gives it its vote"},
		{store.Status{Name: "c1", Leader: "c1", Voters: []store.Voter{{Name: "c1"}, {Name: "c2", Learner: true}}}, nil, "", ""},
		{store.Status{Leader: "c1", Alarms: []string{"NOSPACE"}}, nil, fleet.StoreFull, "NOSPACE"},
		{store.Status{Leader: "c1", Alarms: []string{"NOSPACE", "CORRUPT"}}, nil, fleet.StoreCorrupt, "CORRUPT"},
	} {
		if got := storeState(c.st, c.err); got.Phase != c.phase || !strings.Contains(got.Why, c.words) || (got.Why == "") != (c.phase == "") {
			t.Errorf("%+v, %v: %+v, want %q with %q", c.st, c.err, got, c.phase, c.words)
		}
	}
}

// TestLateVote: why a voter has no vote yet is told when it has lasted, each reason once.
func TestLateVote(t *testing.T) {
	var l lateVote
	behind, open := errors.New("it is behind"), errors.New("the former change is open")
	for i, c := range []struct {
		host string
		err  error
		at   time.Duration
		want bool
	}{
		{"c2", behind, time.Second, false},
		{"", open, 20 * time.Second, false}, // nobody could say who learns
		{"c2", behind, 30 * time.Second, false},
		{"c2", behind, 31 * time.Second, true},
		{"c2", behind, 32 * time.Second, false},
		{"c2", open, 33 * time.Second, true},
		{"c2", nil, 34 * time.Second, false},
		{"", nil, 35 * time.Second, false},
		{"c2", behind, 36 * time.Second, false}, // again
		{"c3", behind, 90 * time.Second, false}, // another
		{"c3", behind, 2 * time.Minute, true},
	} {
		if got := l.news(c.host, c.err, fleet.Moment(0).Add(c.at)); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}
