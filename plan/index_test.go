package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// TestIndexOfHoldings: who holds what, each in order, however holdings of several hosts stand between each other.
func TestIndexOfHoldings(t *testing.T) {
	w := fleet.World{State: fleet.State{Holdings: map[string]fleet.Holding{
		"address/a": {Host: "n2"}, "address/b": {Host: "n1"}, "compute/n3": {Host: "n3"}, "service/c": {Host: "n2"}, "service/d": {Host: "n1"},
		"service/e": {Host: "n2"}, "service/nobody": {},
	}}}
	x := newIndex(&w)
	if diff := cmp.Diff(fleet.Sorted(w.State.Holdings), x.things); diff != "" {
		t.Error("things:", diff)
	}
	if diff := cmp.Diff([]string{"n1", "n2", "n3"}, x.holders); diff != "" {
		t.Error("holders:", diff)
	}
	want := map[string][]string{"n1": {"address/b", "service/d"}, "n2": {"address/a", "service/c", "service/e"}, "n3": {"compute/n3"}}
	if diff := cmp.Diff(want, x.on); diff != "" {
		t.Error("on:", diff)
	}
}
