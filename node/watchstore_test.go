package node

import (
	"errors"
	"strings"
	"testing"

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
		{store.Status{Leader: "c1", Alarms: []string{"NOSPACE"}}, nil, fleet.StoreFull, "NOSPACE"},
		{store.Status{Leader: "c1", Alarms: []string{"NOSPACE", "CORRUPT"}}, nil, fleet.StoreCorrupt, "CORRUPT"},
	} {
		if got := storeState(c.st, c.err); got.Phase != c.phase || !strings.Contains(got.Why, c.words) || (got.Why == "") != (c.phase == "") {
			t.Errorf("%+v, %v: %+v, want %q with %q", c.st, c.err, got, c.phase, c.words)
		}
	}
}
