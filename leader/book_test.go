package leader

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

// TestWishes: history names who asked for what and who did what, once each, and goes on
// from there.
func TestWishes(t *testing.T) {
	b := newBook("c1", 7, func() time.Time { return time.Time{} })
	state := fleet.State{Wishes: map[string]fleet.Wish{
		"move-x": {ID: "move-x", Verb: "move", Thing: "address/x", To: "c2", By: "ann", At: time.Unix(1, 0)},
		"disarm": {ID: "disarm", Verb: "disarm", By: "bob", Why: "switch", At: time.Unix(1, 0)},
	}}
	state, err := state.Apply(fleet.Deed("eve (root)", "host/c3", "changes the voters: remove c3", time.Unix(2, 0)))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.wishes(state.Wishes)
	}
	b.record(fleet.Remove("wish/deed-2000000000", "history tells it"), "")
	b.record(fleet.Put("holding/address/x", fleet.Holding{}, "goes to c2"), "")
	var got []string
	all := b.take()
	for _, e := range all {
		got = append(got, e.About+" by "+e.By+": "+e.Text)
	}
	want := []string{
		"host/c3 by eve (root): eve (root) changes the voters: remove c3", "site by bob: bob wishes: disarm (switch)",
		"address/x by ann: ann wishes: move address/x to c2", "address/x by c1: goes to c2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff([]string{all[2].ID}, all[3].Because); diff != "" {
		t.Errorf("what a wish led to does not rest on it: %s", diff)
	}
}

// TestSeversHideNothing: what a move sets off on every host does not stand between the
// thing and why it is where it is.
func TestSeversHideNothing(t *testing.T) {
	b := newBook("c1", 7, func() time.Time { return time.Time{} })
	moved := b.note("record", "address/x", "goes to c2").ID
	for i := range 50 {
		o := fleet.Order{Key: fmt.Sprintf("sever/%d", i), Verb: fleet.VerbSever, To: "n", Thing: "address/x"}
		b.order(o, "")
		b.effect(o, fleet.Effect{Outcome: fleet.Done})
	}
	if next := b.note("wait", "address/x", "waits"); len(next.Because) != 1 || next.Because[0] != moved {
		t.Errorf("what follows rests on %v, want %s", next.Because, moved)
	}
	if n := len(b.take()); n != 52 {
		t.Errorf("%d events, want one for each order", n)
	}
}

// TestCopies: history tells when a copy hangs and when it is back, once each, and
// after an election only of those that are not well.
func TestCopies(t *testing.T) {
	b := newBook("c1", 7, func() time.Time { return time.Time{} })
	say := func(seq uint64, s fleet.ServiceState) []string {
		b.copies(map[string]fleet.Report{"c2": {Seq: seq, Services: map[string]fleet.ServiceState{"keystone": s}}})
		var out []string
		for _, e := range b.take() {
			out = append(out, e.About+" "+e.Text)
		}
		return out
	}
	well := fleet.ServiceState{Phase: fleet.Running, Ready: true}
	hung := fleet.ServiceState{Phase: fleet.Running, Hung: true, Why: "no CPU used"}
	for _, step := range []struct {
		seq  uint64
		now  fleet.ServiceState
		want []string
	}{
		{1, well, nil}, // as this leader found it
		{2, hung, []string{"keystone@c2 c2 says of its keystone: hung: no CPU used"}},
		{3, fleet.ServiceState{Phase: fleet.Running, Hung: true, Why: "other words"}, nil},
		{3, well, nil}, // the same report
		{4, well, []string{"keystone@c2 c2 says of its keystone: ready"}},
		{5, fleet.ServiceState{Phase: fleet.Failed, Why: "exit 1"}, []string{"keystone@c2 c2 says of its keystone: failed: exit 1"}},
	} {
		if diff := cmp.Diff(step.want, say(step.seq, step.now)); diff != "" {
			t.Errorf("report %d: %s", step.seq, diff)
		}
	}
	b = newBook("c1", 8, func() time.Time { return time.Time{} })
	if got := say(1, hung); len(got) != 1 {
		t.Errorf("a copy that hangs as this leader begins: %q", got)
	}
}

// TestFollowed: history tells when a HAProxy has begun to follow a routing table, and
// not again as long as it does.
func TestFollowed(t *testing.T) {
	b := newBook("c1", 7, func() time.Time { return time.Time{} })
	var got []string
	for i, table := range []uint64{0xa, 0xa, 0xb, 0xb} {
		b.copies(map[string]fleet.Report{"c2": {Seq: uint64(i + 1), Routes: table}})
		for _, e := range b.take() {
			got = append(got, e.About+" "+e.Text)
		}
	}
	if diff := cmp.Diff([]string{"route/c2 c2: its HAProxy follows routing table b"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestSaidAgain: a report that is named again, or told again, is no news; another of the same boot is, and so is one of
// another boot by the same number, or without one.
func TestSaidAgain(t *testing.T) {
	b := newBook("c1", 7, func() time.Time { return time.Time{} })
	for i, step := range []struct {
		boot      string
		news, seq uint64
		ready     bool
		told      bool
	}{
		{"a", 1, 1, true, false}, // how it was when this leader began
		{"a", 1, 2, true, false},
		{"a", 3, 3, false, true},
		{"a", 3, 4, false, false},
		{"b", 3, 5, true, true},
		{"b", 0, 6, false, true},
		{"b", 0, 7, true, true},
	} {
		b.copies(map[string]fleet.Report{"n1": {Boot: step.boot, News: step.news, Seq: step.seq, Services: map[string]fleet.ServiceState{"nova-compute": {Phase: fleet.Running, Ready: step.ready}}}})
		if told := len(b.take()) > 0; told != step.told {
			t.Errorf("step %d: told %v, want %v", i, told, step.told)
		}
	}
}

// TestVerdictsInOrder: a verdict is told when it is new, those of one turn by their hosts' names.
func TestVerdictsInOrder(t *testing.T) {
	b := newBook("c1", 7, func() time.Time { return time.Time{} })
	all := map[string]fleet.Verdict{}
	for i := range 20 {
		all[fmt.Sprintf("n%02d", i)] = fleet.Verdict{Condition: fleet.Healthy}
	}
	told := func(want ...string) {
		t.Helper()
		b.verdicts(all)
		var got []string
		for _, e := range b.take() {
			got = append(got, e.About)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	var everybody []string
	for _, host := range fleet.Sorted(all) {
		everybody = append(everybody, "host/"+host)
	}
	told(everybody...)
	told()
	all["n07"], all["n03"] = fleet.Verdict{Condition: fleet.Suspect}, fleet.Verdict{Condition: fleet.Healthy, Silent: []string{"storage"}}
	told("host/n03", "host/n07")
	told()
}
