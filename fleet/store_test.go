package fleet

import (
	"testing"
	"time"
)

// TestStoreStateFollows: what is wrong in one way has been so since it began, whatever
// the words; what is well has no past.
func TestStoreStateFollows(t *testing.T) {
	at := time.Unix(1000, 0)
	down := StoreState{Phase: StoreDown, Why: "no connection"}.Follows(StoreState{}, at)
	if !down.Since.Equal(at) {
		t.Errorf("first seen: %+v", down)
	}
	if got := (StoreState{Phase: StoreDown, Why: "joins"}).Follows(down, at.Add(time.Minute)); !got.Since.Equal(at) || got.Why != "joins" {
		t.Errorf("still down: %+v", got)
	}
	if got := (StoreState{Phase: StoreAlone}).Follows(down, at.Add(time.Minute)); !got.Since.Equal(at.Add(time.Minute)) {
		t.Errorf("otherwise: %+v", got)
	}
	if got := (StoreState{}).Follows(down, at); got != (StoreState{}) {
		t.Errorf("well: %+v", got)
	}
}
