package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestGoAlone: of two members one dies, and the other goes on from its own data under a
// proof, with every commit and every holder. The dead one's data elect nobody when they
// are started again; put aside, its host learns and votes again.
func TestGoAlone(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2")
	h.up()
	lead, epoch := h.raise()
	other := h.other(lead.cfg.Name)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	lead.commit(epoch, []fleet.Record{
		holding("address/a", lead.cfg.Name, 5),
		fleet.Put("member/"+lead.cfg.Name, fleet.Member{Host: lead.cfg.Name, Admitted: "b1"}, ""),
	})
	other.until("the holding", func(s fleet.State) bool { return s.Holdings["address/a"].Generation == 5 })
	lead.hangUp()
	lead.kill()

	p := fleet.Proof{Host: lead.cfg.Name, Boot: "b1", Kind: "fence", Evidence: "off twice", At: time.Now()}
	if err := GoAlone(ctx, other.cfg, p.Host, &p); err == nil {
		t.Fatal("a running member was made the only one")
	}
	other.kill()
	// Cut short, it may be repeated.
	for range 2 {
		check(t, GoAlone(ctx, other.cfg, p.Host, &p))
	}
	other.start()
	other.until("the proof", func(s fleet.State) bool { return s.Proofs[p.Host].Boot == "b1" })
	got := other.client.State()
	if got.Epoch < epoch+EpochLeap {
		t.Errorf("epoch %d after %d", got.Epoch, epoch)
	}
	if x := got.Holdings["address/a"]; x.Host != p.Host || x.Generation != 5 {
		t.Errorf("the holding: %+v", x)
	}
	if m := got.Members[p.Host]; m.Barred == "" || len(m.Fenced) != 1 || m.Admitted != "b1" {
		t.Errorf("the member: %+v", m)
	}
	_, next := h.raise(other.cfg.Name)
	other.commit(next, []fleet.Record{holding("address/a", other.cfg.Name, 6)})

	// What the dead one has is refused.
	lead.start()
	if err := lead.ends(); err == nil {
		t.Error("it ended in good order")
	}
	kept, err := PutAside(lead.cfg.Dir)
	check(t, err)
	if _, err := os.Stat(filepath.Join(kept, "member", "wal")); err != nil {
		t.Errorf("the former data: %v", err)
	}
	cluster, err := calm(ctx, func() (string, error) { return other.client.AddVoter(ctx, p.Host, lead.cfg.Peer) })
	check(t, err)
	lead.cfg.Cluster, lead.cfg.Join = cluster, true
	lead.start()
	for {
		err := other.client.Promote(ctx, p.Host)
		if err == nil {
			break
		}
		check(t, ctx.Err())
	}
	check(t, other.client.Settle(ctx, []string{"c1", "c2"}))
	lead.dial()
	lead.until("what was committed without it", func(s fleet.State) bool { return s.Holdings["address/a"].Generation == 6 })
	// Each commit needs both again.
	lead.hangUp()
	lead.kill()
	short, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	if err := other.client.Commit(short, next, []fleet.Record{holding("address/a", other.cfg.Name, 7)}, nil); err == nil {
		t.Error("one of two committed alone")
	}
}

// TestGoAloneByWord: the partner has given up its vote by its word and lives. Nothing is
// proved, and what is recorded as its own stays so; its store, which still runs, ends.
func TestGoAloneByWord(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2")
	h.up()
	lead, epoch := h.raise()
	other := h.other(lead.cfg.Name)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	gone := lead.cfg.Name
	lead.commit(epoch, []fleet.Record{holding("service/a", gone, 5), fleet.Put("member/"+gone, fleet.Member{Host: gone, Admitted: "b1"}, "")})
	other.until("the holding", func(s fleet.State) bool { return s.Holdings["service/a"].Generation == 5 })
	other.kill()
	for range 2 { // cut short, it may be repeated
		check(t, GoAlone(ctx, other.cfg, gone, nil))
	}
	other.start()
	other.until("a new epoch", func(s fleet.State) bool { return s.Epoch >= epoch+EpochLeap })
	got := other.client.State()
	if m := got.Members[gone]; len(got.Proofs) > 0 || m.Barred != "" || len(m.Fenced) > 0 || m.Admitted != "b1" {
		t.Errorf("of a host that lives: %+v, proofs %+v", m, got.Proofs)
	}
	if x := got.Holdings["service/a"]; x.Host != gone || x.Generation != 5 {
		t.Errorf("the holding: %+v", x)
	}
	_, next := h.raise(other.cfg.Name)
	other.commit(next, []fleet.Record{holding("service/a", other.cfg.Name, 6)})
	if err := lead.ends(); !errors.Is(err, ErrRemoved) {
		t.Errorf("the store of the one that left ends: %v", err)
	}
}

// TestAsides: of the stores that were put aside the newest stay, and what a person's
// recovery kept stays for ever.
func TestAsides(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"older-20260101T000000Z", "older-20260102T000000Z", "older-20260103T000000Z", "lost-20250101T000000Z"} {
		check(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	check(t, os.MkdirAll(filepath.Join(dir, "etcd", "member", "wal"), 0o700))
	check(t, os.WriteFile(filepath.Join(dir, "etcd", "member", "wal", "0.wal"), nil, 0o600))
	kept, err := PutAside(dir)
	check(t, err)
	var left []string
	entries, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range entries {
		if e.IsDir() {
			left = append(left, e.Name())
		}
	}
	if want := []string{"lost-20250101T000000Z", "older-20260102T000000Z", "older-20260103T000000Z", filepath.Base(kept)}; !slices.Equal(left, want) {
		t.Errorf("%q, want %q", left, want)
	}
}
