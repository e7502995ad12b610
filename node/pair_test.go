package node

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/store"
)

func pairConfig(t *testing.T) Config {
	t.Helper()
	return Config{State: t.TempDir(), Run: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
}

func pairSpec() fleet.Spec {
	return fleet.Spec{Hosts: []fleet.Host{{Name: "c1", Voter: true}, {Name: "c2", Voter: true}, {Name: "n1"}}}
}

// TestGoesAlone: the partner has no vote for that boot of this host alone which may go on
// without it, and not before its store is the only member.
func TestGoesAlone(t *testing.T) {
	c := pairConfig(t)
	for _, x := range []struct {
		name string
		disk any
		want string
	}{
		{"nothing is written down", nil, ""},
		{"an earlier boot went on alone", pairDisk{Boot: "b0", Without: "x"}, ""},
		{"its store has not begun anew", pairDisk{Boot: "b1", Without: "x", Proof: &fleet.Proof{}}, ""},
		{"nor has it by its partner's word", pairDisk{Boot: "b1", Without: "x", Left: true, Anew: true}, ""},
		{"it goes on alone", pairDisk{Boot: "b1", Without: "x"}, "c2"},
	} {
		if err := keepFile(c.pairDisk(), x.disk); err != nil {
			t.Fatal(err)
		}
		s, err := c.goesAlone(pairSpec(), "c1", "b1")
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Voters()) != map[bool]int{true: 1, false: 2}[x.want != ""] || s.Alone != x.want || s.Partner("c1") != "c2" {
			t.Errorf("%s: voters %v, alone %q", x.name, s.Voters(), s.Alone)
		}
	}
	if err := os.WriteFile(c.pairDisk(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.goesAlone(pairSpec(), "c1", "b1"); err == nil {
		t.Error("a file that cannot be read is taken for none")
	}
	if s, err := c.goesAlone(fleet.Spec{Hosts: []fleet.Host{{Name: "c1", Voter: true}, {Name: "c2", Voter: true}, {Name: "c3", Voter: true}}}, "c1", "b1"); err != nil || len(s.Voters()) != 3 {
		t.Errorf("of three: %v %v", s.Voters(), err)
	}
}

// TestBeginPair: a store that went on alone in an earlier boot waits for a word.
func TestBeginPair(t *testing.T) {
	c := pairConfig(t)
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.beginPair(t.Context(), store.QuorumConfig{}, "c2"); err != nil {
		t.Error(err)
	}
	if err := keepFile(c.pairDisk(), pairDisk{Boot: "earlier", Without: "x"}); err != nil {
		t.Fatal(err)
	}
	begun := make(chan error, 1)
	go func() { begun <- c.beginPair(t.Context(), store.QuorumConfig{}, "c2") }()
	select {
	case err := <-begun:
		t.Fatalf("it began in a boot that may not: %v", err)
	case <-time.After(3 * pairLook):
	}
	if err := keepFile(c.pairDisk(), pairDisk{Boot: boot, Without: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := <-begun; err != nil {
		t.Error(err)
	}
	// With a proof, or a word, it must become the only member first, and there are no data here.
	for _, disk := range []pairDisk{{Boot: boot, Without: "x", Left: true, Anew: true}, {Boot: boot, Without: "x", Proof: &fleet.Proof{Host: "c2"}}} {
		if err := keepFile(c.pairDisk(), disk); err != nil {
			t.Fatal(err)
		}
		if err := c.beginPair(t.Context(), store.QuorumConfig{Dir: filepath.Join(c.State, "store")}, "c2"); err == nil {
			t.Errorf("it began with what it had not taken: %+v", disk)
		}
	}
	var disk pairDisk
	if ok, err := readFile(c.pairDisk(), &disk); err != nil || !ok || disk.Proof == nil {
		t.Errorf("the proof is gone: %+v %v", disk, err)
	}
}

// TestPairWord: a host says that it goes on alone only when it does, and to its partner only.
func TestPairWord(t *testing.T) {
	n := &node{cfg: pairConfig(t), host: "c1", boot: "b1", spec: pairSpec(), log: slog.New(slog.DiscardHandler)}
	p, err := n.openPair(nil)
	if err != nil || p == nil {
		t.Fatalf("%v %v", p, err)
	}
	n.pair = p
	for _, x := range []struct {
		name  string
		disk  *pairDisk
		alone string // of the site's file as read
		want  fleet.PairWord
	}{
		{"joint", nil, "", fleet.PairWord{}},
		{"about to go on alone", &pairDisk{Boot: "b1", Without: "x", Proof: &fleet.Proof{}}, "", fleet.PairWord{}},
		{"about to, by its partner's word", &pairDisk{Boot: "b1", Without: "x", Left: true, Anew: true}, "", fleet.PairWord{}},
		{"alone, and its agent does not know yet", &pairDisk{Boot: "b1", Without: "x"}, "", fleet.PairWord{}},
		{"alone", &pairDisk{Boot: "b1", Without: "x"}, "c2", fleet.PairWord{Alone: true, Without: "x"}},
		{"alone by its partner's word", &pairDisk{Boot: "b1", Without: "x", Left: true}, "c2", fleet.PairWord{Alone: true, Without: "x", Left: true}},
		{"it was alone before it booted", &pairDisk{Boot: "b0", Without: "x"}, "", fleet.PairWord{Stale: true}},
	} {
		p.disk, n.spec.Alone = x.disk, x.alone
		a, err := n.Pair(context.Background(), "c2", api.PairAsk{Do: api.PairTell})
		x.want.Host, x.want.Boot = "c1", "b1"
		if err != nil || a.Word != x.want {
			t.Errorf("%s: %+v, %v", x.name, a.Word, err)
		}
	}
	var refused *api.Refusal
	if _, err := n.Pair(context.Background(), "n1", api.PairAsk{Do: api.PairPlace}); !errors.As(err, &refused) || refused.Code != http.StatusForbidden {
		t.Errorf("a host that is not the partner was given a place: %v", err)
	}
}

// TestTakesWord: a host goes on alone by the word of a boot with which it is joint, of no
// other, and not while it leaves itself; what it writes down has its store begin anew.
func TestTakesWord(t *testing.T) {
	joint := fleet.Pair{N: 7, Boots: map[string]string{"c1": "b1", "c2": "d1"}}
	for _, x := range []struct {
		name    string
		boot    string
		run     pairRun
		leaves  bool
		refused bool
	}{
		{"joint with it", "d1", pairRun{Pair: joint}, false, false},
		{"in shadow mode", "d1", pairRun{Pair: joint}, false, true},
		{"another boot of it", "d2", pairRun{Pair: joint}, false, true},
		{"this host has booted since", "d1", pairRun{Pair: fleet.Pair{N: 7, Boots: map[string]string{"c1": "b0", "c2": "d1"}}}, false, true},
		{"this host has given up its vote", "d1", pairRun{Pair: joint, Left: true}, false, true},
		{"this host leaves too", "d1", pairRun{Pair: joint}, true, true},
	} {
		n := &node{cfg: pairConfig(t), host: "c1", boot: "b1", spec: pairSpec(), log: slog.New(slog.DiscardHandler)}
		p, err := n.openPair(nil)
		if err != nil {
			t.Fatal(err)
		}
		n.pair, p.run = p, x.run
		if x.name == "in shadow mode" {
			n.spec.Mode = "shadow"
		}
		n.bye.Store(x.leaves)
		a, err := n.Pair(context.Background(), "c2", api.PairAsk{Do: api.PairQuit, Boot: x.boot})
		var disk pairDisk
		ok, readErr := readFile(n.cfg.pairDisk(), &disk)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if (err != nil) != x.refused || ok == x.refused || a.Word.Alone {
			t.Errorf("%s: %+v %v, on the disk %+v", x.name, a.Word, err, disk)
		}
		if !x.refused && disk != (pairDisk{Boot: "b1", Without: "d1", Left: true, Anew: true}) {
			t.Errorf("%s: on the disk %+v", x.name, disk)
		}
	}
	// Nobody waits for the answer any more: its host may have changed its mind.
	n := &node{cfg: pairConfig(t), host: "c1", boot: "b1", spec: pairSpec(), log: slog.New(slog.DiscardHandler)}
	p, err := n.openPair(nil)
	if err != nil {
		t.Fatal(err)
	}
	n.pair, p.run = p, pairRun{Pair: joint}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := n.Pair(gone, "c2", api.PairAsk{Do: api.PairQuit, Boot: "d1"}); err == nil || p.disk != nil {
		t.Errorf("a word that nobody stands by was taken: %v", err)
	}
}
