package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mainstay/fleet"

	"github.com/google/go-cmp/cmp"
)

func TestCommitIsSeenByAll(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	h.up()
	lead, epoch := h.raise()
	ctx := context.Background()

	rec := holding("address/internal", "c1", 7)
	lead.commit(epoch, []fleet.Record{holding("address/internal", "c9", 6), rec}, event(epoch, 1))
	if got := lead.client.State().Holdings["address/internal"]; got.Generation != 7 {
		t.Fatalf("the committer's own state shows %+v right after the commit", got)
	}
	for _, f := range h.rooms {
		f.until("the holding", func(s fleet.State) bool {
			return s.Holdings["address/internal"].Generation == 7 && s.Epoch == epoch && s.Leader == lead.cfg.Name
		})
	}
	lead.commit(epoch, []fleet.Record{fleet.Remove("holding/address/internal", "")})
	for _, f := range h.rooms {
		f.until("its removal", func(s fleet.State) bool { return len(s.Holdings) == 0 })
	}

	for name, bad := range map[string][]fleet.Record{
		"the epoch":          {fleet.Put("epoch", fleet.EpochValue{Epoch: 99}, "")},
		"an unknown kind":    {{Key: "nonsense/x", Value: []byte("1")}},
		"an unreadable one":  {{Key: "member/x", Value: []byte("{")}},
		"too large a one":    {fleet.Put("wish/x", fleet.Wish{Why: strings.Repeat("x", maxBytes)}, "")},
		"good and then bad":  {holding("address/a", "c1", 1), {Key: "nonsense/x"}},
		"an id with a slash": nil,
	} {
		var events []fleet.Event
		if bad == nil {
			events = []fleet.Event{{ID: "a/b"}}
		}
		err := lead.client.Commit(ctx, epoch, bad, events)
		if err == nil || errors.Is(err, ErrUnknown) || errors.Is(err, ErrEpoch) {
			t.Errorf("commit of %s: got %v, want a plain refusal", name, err)
		}
	}
	if n := len(lead.client.State().Holdings); n != 0 {
		t.Errorf("a refused commit left %d holdings", n)
	}
}

func TestSupersededEpochWritesNothing(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	h.up()
	old, before := h.raise()
	ctx := context.Background()

	heir := h.other(old.cfg.Name)
	state, epoch, err := heir.client.RaiseEpoch(ctx, heir.cfg.Name)
	check(t, err)
	if epoch != before+1 || state.Epoch != epoch || state.Leader != heir.cfg.Name {
		t.Fatalf("raised %d to %d, state says %d of %s", before, epoch, state.Epoch, state.Leader)
	}
	wantIs(t, old.client.Commit(ctx, before, []fleet.Record{holding("address/a", "old", 1)}, []fleet.Event{event(before, 1)}), ErrEpoch)
	wantIs(t, old.client.Commit(ctx, epoch, []fleet.Record{holding("address/a", "old", 1)}, nil), ErrEpoch)
	wantIs(t, old.client.Commit(ctx, 0, nil, nil), ErrEpoch)
	heir.commit(epoch, []fleet.Record{holding("address/b", "new", 1)})
	heir.until("b", func(s fleet.State) bool { return s.Holdings["address/b"].Host == "new" })
	if _, ok := heir.client.State().Holdings["address/a"]; ok {
		t.Error("the superseded leader's record was written")
	}
	if es, err := heir.client.Events(ctx, "", 10); err != nil || len(es) != 0 {
		t.Errorf("the superseded leader's event was written: %v %v", es, err)
	}
}

func TestUnknownIsNotRefused(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	h.up()
	lead, epoch := h.raise()
	for n, f := range h.rooms {
		if n != lead.cfg.Name {
			f.kill()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	err := lead.client.Commit(ctx, epoch, []fleet.Record{holding("address/a", "c1", 1)}, nil)
	wantIs(t, err, ErrUnknown)
	if errors.Is(err, ErrEpoch) {
		t.Errorf("%v is both unknown and refused", err)
	}
	// A state is shown without a quorum, also to one who comes anew.
	lead.hangUp()
	bound, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	check(t, lead.dial().Ready(bound))
	if s := lead.client.State(); s.Epoch != epoch {
		t.Errorf("without a quorum the state's epoch is %d, want %d", s.Epoch, epoch)
	}
	st, err := lead.client.Status(bound)
	for err != nil && bound.Err() == nil { // its way to the store's own words may come up after the one to the state
		select {
		case <-time.After(10 * time.Millisecond):
		case <-bound.Done():
		}
		st, err = lead.client.Status(bound)
	}
	check(t, err)
	if len(st.Voters) != 3 || st.Name != lead.cfg.Name {
		t.Errorf("status without a quorum: %+v", st)
	}
}

func TestElectionAfterTheLeadersDeath(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	h.up()
	old, epoch := h.raise()
	old.commit(epoch, []fleet.Record{holding("address/a", "c1", 1)})
	name := old.cfg.Name
	old.kill()
	var rest []string
	for n := range h.rooms {
		if n != name {
			rest = append(rest, n)
		}
	}
	heir, next := h.raise(rest...)
	if next <= epoch {
		t.Errorf("epoch %d after %d", next, epoch)
	}
	if s := heir.client.State(); s.Holdings["address/a"].Generation != 1 {
		t.Errorf("the heir's state lacks what was committed: %+v", s)
	}
	heir.commit(next, []fleet.Record{holding("address/a", "c2", 2)})

	// The mirror of the dead member's agent stands, and goes on when it returns.
	if g := old.client.State().Holdings["address/a"].Generation; g != 1 {
		t.Errorf("the mirror lost what it had: generation %d", g)
	}
	if _, leads := old.client.Lead(); leads {
		old.client.lead.expire()
		l, leads := old.client.Lead()
		if leads && now().Sub(l.Until) > 0 {
			t.Error("leads beyond its lease")
		}
	}
	old.start()
	old.until("the heir's holding", func(s fleet.State) bool { return s.Holdings["address/a"].Generation == 2 })
}

func TestRestartWait(t *testing.T) {
	timing := room()
	timing.Election = 5 * time.Second // long enough to look at it in the middle
	h := newHouse(t, timing, "c1")
	f := h.rooms["c1"]
	began := now()
	f.start()
	if took := now().Sub(began); took >= timing.Election {
		t.Logf("the first start took %s; a slow machine?", took)
	}
	f.dial()
	h.raise()
	f.kill()

	began = now()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	started, done := make(chan fleet.Moment, 1), make(chan error, 1)
	cfg := f.cfg
	cfg.started = func(*member) { started <- now() }
	go func() { done <- RunQuorum(ctx, cfg) }()
	bound, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for { // while it waits it says so
		st, err := f.client.Status(bound)
		if err == nil && strings.Contains(st.Waits, "before it may vote") {
			break
		}
		check(t, bound.Err())
	}
	select {
	case at := <-started:
		if at.Sub(began) < timing.Election {
			t.Errorf("a restarted member began after %s, before the election time-out of %s", at.Sub(began), timing.Election)
		}
	case <-bound.Done():
		t.Fatal("it never started")
	}
	stop()
	check(t, <-done)
}

func TestOrphanHandsOver(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	var hung atomic.Pointer[string]
	for _, f := range h.rooms {
		f.alive = func() bool { p := hung.Load(); return p == nil || *p != f.cfg.Name }
	}
	h.up()
	first, _ := h.raise()
	name := first.cfg.Name
	hung.Store(&name)
	var rest []string
	for n := range h.rooms {
		if n != name {
			rest = append(rest, n)
		}
	}
	second := h.leader(rest...)
	// Give it the lead again: it must not keep it.
	_ = second.client.MoveLead(context.Background(), name) // a failed try leaves the lead somewhere else as well
	third := h.leader(rest...)
	if third.cfg.Name == name {
		t.Fatal("an orphan leads")
	}
	if _, leads := first.client.Lead(); leads {
		t.Error("a hung agent leads")
	}
	hung.Store(nil)
	h.moveTo(name)
}

func TestMoveLead(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	h.up()
	from, _ := h.raise()
	to := h.other(from.cfg.Name)
	ctx := context.Background()
	wantIs(t, to.client.MoveLead(ctx, from.cfg.Name), ErrNotLeader)
	if err := from.client.MoveLead(ctx, "nobody"); err == nil {
		t.Error("the lead moved to nobody")
	}
	h.leader(from.cfg.Name) // dropped for the attempt, and found again
	h.moveTo(to.cfg.Name)
	if _, leads := from.client.Lead(); leads {
		t.Error("leads after moving the lead away")
	}
	// A member that is stopped in order hands its lead over by itself.
	to.stop()
	if err := to.ends(); err != nil {
		t.Errorf("stopped in order: %v", err)
	}
	var rest []string
	for n := range h.rooms {
		if n != to.cfg.Name {
			rest = append(rest, n)
		}
	}
	h.leader(rest...)
}

func TestAgentsRestartKeepsTheTerm(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	h.up()
	lead, _ := h.raise()
	before, _ := lead.client.Lead()
	ctx := context.Background()
	check(t, lead.client.Hold(ctx, 5*time.Second))
	if _, leads := lead.client.Lead(); leads {
		t.Error("leads after giving the lead up")
	}
	lead.hangUp()
	check(t, sleep(ctx, 2*h.timing.Election)) // an agent that takes longer than an orphan may
	lead.dial()
	h.leader(lead.cfg.Name)
	if after, _ := lead.client.Lead(); after.Term != before.Term {
		t.Errorf("term %d became %d", before.Term, after.Term)
	}
}

func TestWish(t *testing.T) {
	h := newHouse(t, room(), "c1")
	h.up()
	f, epoch := h.raise()
	ctx := context.Background()
	check(t, f.client.Wish(ctx, []fleet.Record{
		fleet.Put("wish/1", fleet.Wish{ID: "1", Verb: "maintenance"}, ""),
		fleet.Put("member/n1", fleet.Member{Host: "n1"}, ""),
	}))
	f.commit(epoch, []fleet.Record{fleet.Put("member/n1", fleet.Member{Host: "n1", Barred: "fenced"}, "")})
	wantIs(t, f.client.Wish(ctx, []fleet.Record{fleet.Put("member/n1", fleet.Member{Host: "n1"}, "")}), ErrExists)
	for _, r := range []fleet.Record{holding("address/a", "c1", 1), fleet.Remove("member/n1", ""), fleet.Put("proof/n1", fleet.Proof{}, "")} {
		if err := f.client.Wish(ctx, []fleet.Record{r}); err == nil {
			t.Errorf("%s was written without an epoch", r.Key)
		}
	}
	check(t, f.client.Wish(ctx, []fleet.Record{fleet.Remove("wish/1", "")}))
	s := f.client.State()
	if len(s.Wishes) != 0 || s.Members["n1"].Barred != "fenced" {
		t.Errorf("state %+v", s)
	}
}

func TestTokenWorksOnce(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	h.up()
	f, _ := h.raise()
	ctx := context.Background()
	check(t, f.client.PutToken(ctx, "h1", time.Now().Add(time.Hour)))
	wantIs(t, f.client.PutToken(ctx, "h1", time.Now().Add(time.Hour)), ErrChanged)

	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		at := h.rooms[fmt.Sprintf("c%d", i%3+1)].client
		wg.Go(func() {
			host := fmt.Sprintf("n%d", i)
			err := insist(func() error {
				return at.UseToken(ctx, "h1", host, fleet.Put("member/"+host, fleet.Member{Host: host}, ""))
			})
			switch {
			case err == nil:
				won.Add(1)
				if err := insist(func() error { return at.UseToken(ctx, "h1", host) }); err != nil {
					t.Errorf("the same host asks again: %v", err)
				}
			case !errors.Is(err, ErrToken):
				t.Errorf("used by %s: %v", host, err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("a token served %d hosts", won.Load())
	}
	state, _, err := f.client.RaiseEpoch(ctx, f.cfg.Name)
	check(t, err)
	if len(state.Members) != 1 {
		t.Errorf("%d members came of one token", len(state.Members))
	}
	wantIs(t, f.client.UseToken(ctx, "never", "n1"), ErrToken)
	check(t, f.client.PutToken(ctx, "h2", time.Now().Add(-time.Second)))
	wantIs(t, f.client.UseToken(ctx, "h2", "n1"), ErrToken)
}

func TestPrivate(t *testing.T) {
	h := newHouse(t, room(), "c1")
	h.up()
	f, _ := h.raise()
	ctx := context.Background()
	v, rev, err := f.client.Private(ctx, "ca.key")
	if err != nil || v != nil || rev != 0 {
		t.Fatalf("before: %q %d %v", v, rev, err)
	}
	check(t, f.client.PutPrivate(ctx, "ca.key", []byte("one"), 0))
	wantIs(t, f.client.PutPrivate(ctx, "ca.key", []byte("two"), 0), ErrChanged)
	v, rev, err = f.client.Private(ctx, "ca.key")
	check(t, err)
	if string(v) != "one" {
		t.Errorf("read %q", v)
	}
	check(t, f.client.PutPrivate(ctx, "ca.key", []byte("two"), rev))
	for _, key := range []string{"", "voters", "token/x"} {
		if f.client.PutPrivate(ctx, key, nil, 0) == nil {
			t.Errorf("key %q was written", key)
		}
	}
}

func TestEvents(t *testing.T) {
	h := newHouse(t, room(), "c1")
	h.up()
	f, epoch := h.raise()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fresh := f.client.WatchEvents(ctx, "")
	commit := func(from, to int) {
		var es []fleet.Event
		for i := from; i < to; i++ {
			es = append(es, event(epoch, i))
		}
		f.commit(epoch, nil, es...)
	}
	commit(0, 600)
	all := f.client.WatchEvents(ctx, event(epoch, 0).ID)
	commit(600, 700)
	for i := 1; i < 700; i++ {
		if e := <-all; e.ID != event(epoch, i).ID {
			t.Fatalf("event %d is %s", i, e.ID)
		}
	}
	// The watch of new ones may have begun anywhere, but has no gap.
	last := (<-fresh).ID
	for last != event(epoch, 699).ID {
		e, ok := <-fresh
		if !ok || e.ID <= last {
			t.Fatalf("after %s came %q", last, e.ID)
		}
		last = e.ID
	}
	newest, err := f.client.Events(ctx, "", 3)
	check(t, err)
	if diff := cmp.Diff([]fleet.Event{event(epoch, 697), event(epoch, 698), event(epoch, 699)}, newest); diff != "" {
		t.Error(diff)
	}
	page, err := f.client.Events(ctx, event(epoch, 10).ID, 2)
	check(t, err)
	if diff := cmp.Diff([]fleet.Event{event(epoch, 11), event(epoch, 12)}, page); diff != "" {
		t.Error(diff)
	}
	check(t, f.client.pruneTo(ctx, 50, 3))
	left, err := f.client.Events(ctx, " ", 1000)
	check(t, err)
	if len(left) != 50 || left[0].ID != event(epoch, 650).ID {
		t.Errorf("%d events left, the first is %s", len(left), left[0].ID)
	}
}

// TestProofsOutliveHistory: a proof's event stays with its evidence when thousands of others
// have gone, and the number of those is bounded too.
func TestProofsOutliveHistory(t *testing.T) {
	h := newHouse(t, room(), "c1")
	h.up()
	f, epoch := h.raise()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	proof := func(i int) fleet.Event {
		e := event(epoch, i)
		e.Proof, e.Text = true, "c2 is off: the BMC at 10.0.0.12 said so twice"
		return e
	}
	told := map[int]bool{0: true, 7: true, 8: true, 300: true, 599: true} // the first and the last, and two in a row
	var all []fleet.Event
	for i := range 600 {
		if told[i] {
			all = append(all, proof(i))
		} else {
			all = append(all, event(epoch, i))
		}
	}
	f.commit(epoch, nil, all...)
	for _, x := range []struct {
		keep, proofs int
		want         []int // of the older ones
	}{{100, 1000, []int{0, 7, 8, 300}}, {100, 1000, []int{0, 7, 8, 300}}, {50, 3, []int{7, 8, 300}}, {50, 2, []int{8, 300}}, {50, 0, nil}} {
		check(t, f.client.pruneTo(ctx, x.keep, x.proofs))
		want := slices.Clone(all[len(all)-x.keep:])
		for _, i := range slices.Backward(x.want) {
			want = slices.Insert(want, 0, proof(i))
		}
		left, err := f.client.Events(ctx, " ", 1000)
		check(t, err)
		if diff := cmp.Diff(want, left); diff != "" {
			t.Fatalf("%d, and %d proofs: %s", x.keep, x.proofs, diff)
		}
	}
}

func TestReplaceVoter(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	h.up()
	lead, epoch := h.raise()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	lead.commit(epoch, []fleet.Record{holding("address/a", "c1", 1)})
	dead := h.other(lead.cfg.Name)
	dead.hangUp()
	dead.kill()

	peer := "https://" + freePort(t)
	cluster, err := calm(ctx, func() (string, error) { return lead.client.ReplaceVoter(ctx, dead.cfg.Name, "c4", peer) })
	check(t, err)
	again, err := lead.client.ReplaceVoter(ctx, dead.cfg.Name, "c4", peer)
	check(t, err)
	if again != cluster || !strings.Contains(cluster, "c4="+peer) || strings.Contains(cluster, dead.cfg.Name+"=") {
		t.Errorf("cluster %q, then %q", cluster, again)
	}
	// A newcomer whose machine breaks before its first start has no name to be removed by.
	check(t, lead.client.RemoveLearner(ctx, "https://"+freePort(t)))
	check(t, lead.client.RemoveLearner(ctx, lead.cfg.Peer)) // has a name and a vote
	voters, err := lead.client.Voters(ctx)
	check(t, err)
	if len(voters) != 3 || !slices.ContainsFunc(voters, func(v Voter) bool { return v.Learner && v.Name == "" && v.Peer == peer }) {
		t.Errorf("voters %+v", voters)
	}
	check(t, lead.client.RemoveLearner(ctx, peer))
	if voters, err = lead.client.Voters(ctx); err != nil || len(voters) != 2 {
		t.Errorf("voters %+v, %v", voters, err)
	}
	peer = "https://" + freePort(t) // it comes back elsewhere; etcd's number for one at the same place would be the same within a second
	cluster, err = calm(ctx, func() (string, error) { return lead.client.ReplaceVoter(ctx, dead.cfg.Name, "c4", peer) })
	check(t, err)
	delete(h.rooms, dead.cfg.Name)
	c4 := h.add("c4", peer, cluster, true)
	c4.start()

	// One learner at a time, and etcd is not asked for a second.
	_, err = lead.client.AddVoter(ctx, "c5", "https://"+freePort(t))
	wantIs(t, err, ErrUnsettled)

	// The removal is open: the newcomer gets no vote yet.
	what, err := lead.client.Unsettled(ctx)
	check(t, err)
	if !strings.Contains(what, dead.cfg.Name) {
		t.Errorf("open change %q", what)
	}
	for { // until it has told its name
		err = lead.client.Promote(ctx, "c4")
		if errors.Is(err, ErrUnsettled) {
			break
		}
		if err == nil || ctx.Err() != nil {
			t.Fatalf("promoted before the removal was settled: %v", err)
		}
	}
	_, err = lead.client.AddVoter(ctx, "c5", "https://"+freePort(t))
	wantIs(t, err, ErrUnsettled)
	two := []string{lead.cfg.Name, h.other(lead.cfg.Name, "c4").cfg.Name}
	wantIs(t, lead.client.Settle(ctx, append(two, dead.cfg.Name)), ErrChanged)
	wantIs(t, lead.client.RemoveVoter(ctx, two[1]), ErrUnsettled)
	check(t, lead.client.Settle(ctx, two))
	for {
		err := lead.client.Promote(ctx, "c4")
		if err == nil {
			break
		}
		wantIs(t, err, ErrBehind)
	}
	check(t, lead.client.Settle(ctx, append(two, "c4")))
	if what, err := lead.client.Unsettled(ctx); err != nil || what != "" {
		t.Errorf("still open: %q %v", what, err)
	}
	// Begun anew with nothing it would have forgotten its votes.
	_, err = lead.client.AddVoter(ctx, "c4", peer)
	wantIs(t, err, ErrExists)
	if voters, err = lead.client.Voters(ctx); err != nil || len(voters) != 3 {
		t.Errorf("voters %+v, %v", voters, err)
	}
	c4.dial()
	c4.until("what was committed before it came", func(s fleet.State) bool { return s.Holdings["address/a"].Generation == 1 })

	// A live voter that is removed ends by itself and says why.
	other := h.rooms[two[1]]
	_, err = calm(ctx, func() (string, error) { return "", lead.client.RemoveVoter(ctx, other.cfg.Name) })
	check(t, err)
	wantIs(t, other.ends(), ErrRemoved)

	// One that was away when it was removed hears of it from the others only.
	dead.start()
	wantIs(t, dead.ends(), ErrRemoved)
}

// calm asks again while etcd finds that its members have not been in touch for
// long enough, as an operator's command does.
func calm(ctx context.Context, ask func() (string, error)) (string, error) {
	for {
		answer, err := ask()
		if !errors.Is(err, ErrUnhealthy) || sleep(ctx, 100*time.Millisecond) != nil {
			return answer, err
		}
	}
}

func TestBackupAndRestore(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	h.up()
	lead, epoch := h.raise()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var es []fleet.Event
	for i := range 1500 { // more than a page
		es = append(es, event(epoch, i))
	}
	lead.commit(epoch, []fleet.Record{holding("address/a", "c1", 5)}, es...)
	check(t, lead.client.PutPrivate(ctx, "ca.key", []byte{0, 1, 2}, 0))
	check(t, lead.client.PutToken(ctx, "h1", time.Now().Add(time.Hour)))
	want := lead.client.State()
	var file bytes.Buffer
	head, err := lead.client.Backup(ctx, &file, "test", "v1")
	check(t, err)
	if head.Epoch != epoch || head.Keys < 1503 || head.Version != "v1" {
		t.Errorf("header %+v", head)
	}
	for _, f := range h.rooms {
		f.hangUp()
		f.kill()
	}

	cfg := h.rooms["c1"].cfg
	if _, err := Restore(ctx, cfg, bytes.NewReader(file.Bytes()), "ann (root)"); err == nil {
		t.Fatal("restored over data")
	}
	for _, f := range h.rooms {
		check(t, os.RemoveAll(f.cfg.Dir))
	}
	damaged := bytes.Clone(file.Bytes())
	damaged[len(damaged)-20] ^= 1
	for name, bad := range map[string][]byte{"a damaged": damaged, "a short": file.Bytes()[:file.Len()-100], "no": []byte("hello\n"), "an empty": nil} {
		if _, err := Restore(ctx, cfg, bytes.NewReader(bad), "ann (root)"); err == nil {
			t.Errorf("restored from %s backup", name)
		}
	}
	foreign := cfg
	foreign.Site = "other"
	if _, err := Restore(ctx, foreign, bytes.NewReader(file.Bytes()), "ann (root)"); err == nil {
		t.Error("restored another site's backup")
	}
	if _, err := Restore(ctx, cfg, bytes.NewReader(file.Bytes()), "ann (root)"); err != nil {
		t.Fatal(err)
	}
	one := h.rooms["c1"]
	one.start()
	check(t, one.dial().Ready(ctx))
	got := one.client.State()
	if got.Epoch != epoch+EpochLeap || got.Leader != "" {
		t.Errorf("epoch %d of %q after %d", got.Epoch, got.Leader, epoch)
	}
	got.Epoch, got.Leader = want.Epoch, want.Leader
	// Who held what at the time of the backup need not hold it now.
	if h := got.Holdings["address/a"]; h.Host != "" || h.Boot != "" || h.Generation != 5 || h.Why == "" {
		t.Errorf("the restored holding: %+v", h)
	}
	got.Holdings = want.Holdings
	if len(got.Wishes) != 1 {
		t.Errorf("wishes after it: %+v", got.Wishes)
	}
	for _, w := range got.Wishes {
		if w.Verb != fleet.VerbDeed || w.By != "ann (root)" || !strings.Contains(w.Why, "restored") {
			t.Errorf("history will not tell who restored it: %+v", w)
		}
	}
	got.Wishes = want.Wishes
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if k, _, err := one.client.Private(ctx, "ca.key"); err != nil || !bytes.Equal(k, []byte{0, 1, 2}) {
		t.Errorf("CA key %v %v", k, err)
	}
	wantIs(t, one.client.UseToken(ctx, "h1", "n1"), ErrToken)
	if es, err := one.client.Events(ctx, " ", 5000); err != nil || len(es) != 1500 {
		t.Errorf("%d events, %v", len(es), err)
	}

	// It grows to what it was.
	h.leader("c1")
	for i, n := range []string{"c2", "c3"} {
		f := h.rooms[n]
		cluster, err := calm(ctx, func() (string, error) { return one.client.AddVoter(ctx, n, f.cfg.Peer) })
		check(t, err)
		f.cfg.Cluster, f.cfg.Join = cluster, true
		f.start()
		for {
			err := one.client.Promote(ctx, n)
			if err == nil {
				break
			}
			check(t, ctx.Err())
		}
		check(t, one.client.Settle(ctx, []string{"c1", "c2", "c3"}[:i+2]))
	}
	h.up()
	_, next := h.raise()
	if next <= epoch+EpochLeap {
		t.Errorf("epoch %d", next)
	}
}

func TestRecover(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	h.up()
	lead, epoch := h.raise()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	member := func(host string) fleet.Record {
		return fleet.Put("member/"+host, fleet.Member{Host: host, Admitted: "boot-" + host}, "")
	}
	lead.commit(epoch, []fleet.Record{holding("address/a", "c1", 5), member("c1"), member("c2"), member("c3")})
	last := h.other(lead.cfg.Name)
	last.until("the holding", func(s fleet.State) bool { return s.Holdings["address/a"].Generation == 5 })

	oath := fleet.Wish{By: "ann", Why: "burnt", At: time.Now()}
	if _, _, err := Recover(ctx, last.cfg, nil, oath); err == nil {
		t.Fatal("recovered a running member")
	}
	for _, f := range h.rooms {
		f.kill()
		if f != last {
			f.hangUp()
		}
	}
	_, kept, err := Recover(ctx, last.cfg, []string{lead.cfg.Name, "stranger"}, oath)
	check(t, err)
	if _, err := os.Stat(filepath.Join(kept, "member", "wal")); err != nil {
		t.Errorf("the former data: %v", err)
	}
	left, err := os.ReadDir(last.cfg.Dir)
	check(t, err)
	if len(left) != 3 { // etcd, lock, lost-...
		t.Errorf("left behind: %v", left)
	}
	last.start()
	// The agent lived through it. Its mirror follows the new cluster, although
	// that one's revisions are lower.
	last.until("the new cluster", func(s fleet.State) bool { return s.Epoch >= epoch+EpochLeap })
	got := last.client.State()
	if h := got.Holdings["address/a"]; h.Host != "" || h.Generation != 5 {
		t.Errorf("the holding after it: %+v", h)
	}
	if p := got.Proofs[lead.cfg.Name]; len(got.Proofs) != 1 || p.Boot != "boot-"+lead.cfg.Name || p.Kind != "oath" || p.By != "ann" {
		t.Errorf("proofs: %+v", got.Proofs)
	}
	_, next := h.raise(last.cfg.Name)
	last.commit(next, []fleet.Record{holding("address/a", "c1", 6)})
}

func TestStrangersAreRefused(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	// c3's certificate is of the site, but of a host that is no voter.
	cfg := &h.rooms["c3"].cfg
	cfg.Cert, cfg.Key = h.pki.issue(t, "plain", "compute.test")
	cfg.Require = "" // or it would refuse the others, whose fault it is not
	h.up()
	f := h.leader()
	if f.cfg.Name == "c3" {
		t.Fatal("a stranger leads")
	}
	st, err := h.rooms["c3"].client.Status(context.Background())
	check(t, err)
	if st.Leader != "" || st.Waits == "" {
		t.Errorf("a stranger serves: %+v", st)
	}
}

func TestOneProcessForOneStore(t *testing.T) {
	h := newHouse(t, room(), "c1")
	h.up()
	if err := RunQuorum(context.Background(), h.rooms["c1"].cfg); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second process: %v", err)
	}
}
