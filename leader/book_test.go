package leader

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
)

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
