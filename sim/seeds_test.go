package sim

import (
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/fleet"
)

var (
	seeds = flag.Int("seeds", 60, "how many seeds to play")
	first = flag.Uint64("seed", 1, "the first seed")
	until = flag.Duration("for", 0, "begin no further seed after so long; 0: play them all")
)

// sum is what came of many seeds.
type sum struct {
	mu              sync.Mutex
	began           time.Time
	next, failed    uint64
	played          int
	virtual, awake  time.Duration
	turns, events   int
	faults          map[string]int
	guards          map[fleet.Guard]int
	commands, least int
	most            Most
	digest          uint64
}

// TestSeeds plays stories drawn from seeds: whatever happens, no audit may find
// anything, and once all has healed the site must be what it should be.
//
//	go test ./sim -run Seeds -seeds 1000 -seed 1
func TestSeeds(t *testing.T) {
	// Little lives for long here: collect seldom.
	defer debug.SetGCPercent(debug.SetGCPercent(1600))
	began := time.Now()
	s := sum{began: began, next: *first, faults: map[string]int{}, guards: map[fleet.Guard]int{}, least: 1 << 30}
	var wait sync.WaitGroup
	for range min(*seeds, runtime.GOMAXPROCS(0)) {
		wait.Go(func() { s.work(t, *first+uint64(*seeds)) })
	}
	wait.Wait()
	spent := time.Since(began)
	t.Logf("%d seeds in %v, %.1f a second; %v virtual, of which %v was not quiet and was played: %d events, %d turns, %d commands, %d in a seed at least",
		s.played, spent.Round(time.Millisecond), float64(s.played)/spent.Seconds(), s.virtual.Round(time.Second), s.awake.Round(time.Second), s.events, s.turns, s.commands, s.least)
	t.Logf("digest of their logs: %016x", s.digest)
	t.Logf("at most: %d turns and %d transactions within a second, %d of %d changes of hands beyond what faults explain", s.most.Turns, s.most.Writes, s.most.Hands, handsMost)
	for _, k := range fleet.Sorted(s.faults) {
		t.Logf("fault %-18s %d", k, s.faults[k])
	}
	for _, g := range fleet.Guards() {
		t.Logf("guard %-18s %d", g, s.guards[g])
	}
	if s.failed != 0 {
		small := Shrink(Draw(s.failed))
		r := Play(small)
		log := r.Log[max(0, len(r.Log)-80):]
		t.Fatalf("seed %d: %s: %s\nrun it again: go test ./sim -run Seeds -seeds 1 -seed %d\nshrunk to this story:\n\n%s%s",
			s.failed, r.Violation.Audit, r.Violation.Text, s.failed, small.Write(), strings.Join(log, "\n"))
	}
	if s.least < 20 {
		t.Errorf("a seed had %d faults only", s.least)
	}
	if s.played < enough {
		t.Logf("what never came up is no failure in fewer than %d seeds", enough)
		return
	}
	for _, g := range fleet.Guards() {
		// TestTwoSeeds counts those of a pair; three proved fences of one host within ten minutes are rare.
		if s.guards[g] == 0 && !strings.HasPrefix(string(g), "pair-") && g != fleet.GuardLoop {
			t.Errorf("in %d seeds the guard %s never came up", s.played, g)
		}
	}
	for _, k := range due() {
		if s.faults[k] == 0 {
			t.Errorf("in %d seeds the fault %s never came up", s.played, k)
		}
	}
}

// enough seeds bring up everything that is rare; it is what "make seeds" plays.
const enough = 2000

// due lists every fault that seeds must bring up: each verb, and each kind of those
// that have kinds. A clone speaks in stories only, and so does a BMC that lies: no rule
// survives both its lie and a host that nobody hears.
func due() []string {
	kinds := map[string][]string{
		"hang":    {"agent", "quorum", "disk", "addresses", "all", "service"},
		"cut":     {"both", "in", "out", "link"},
		"weather": {"calm", "loss", "double", "late"},
		"bmc":     {"ok", "dead", "lose", "slow", "swapped", "again"},
		"expect":  {}, "clone": {},
		"score": {}, "accept": {}, "discard": {}, // of stories
		// Of a cluster of its own, which has seeds of its own.
		"outside": {}, "empty": {}, "loseview": {}, "without": {},
		"storage": {}, // of TestStorageSeeds
	}
	var out []string
	for _, verb := range fleet.Sorted(verbs) {
		all, split := kinds[verb]
		for _, kind := range all {
			out = append(out, verb+" "+kind)
		}
		if !split {
			out = append(out, verb)
		}
	}
	return out
}

// digest is a number that changes with every line of a log. The sum of those of many
// seeds tells whether two versions of the code do the same.
func digest(r Result) uint64 {
	h := fnv.New64a()
	for _, line := range r.Log {
		_, _ = io.WriteString(h, line+"\n")
	}
	fmt.Fprint(h, r.Virtual, r.Played, r.Turns)
	return h.Sum64()
}

func (s *sum) work(t *testing.T, end uint64) {
	for {
		s.mu.Lock()
		seed := s.next
		if seed >= end || s.failed != 0 || *until > 0 && time.Since(s.began) > *until {
			s.mu.Unlock()
			return
		}
		s.next++
		s.mu.Unlock()
		st := Draw(seed)
		r := Play(st)
		s.mu.Lock()
		if s.played++; s.played%500 == 0 {
			t.Logf("%d seeds played", s.played)
		}
		s.virtual, s.awake = s.virtual+r.Virtual, s.awake+r.Played
		s.turns, s.events, s.commands = s.turns+r.Turns, s.events+r.Events, s.commands+len(st.Commands)
		faults := map[int]bool{}
		for _, c := range st.Commands {
			faults[c.Group] = true
		}
		s.least = min(s.least, len(faults)-1)
		s.most = Most{max(s.most.Turns, r.Most.Turns), max(s.most.Writes, r.Most.Writes), max(s.most.Hands, r.Most.Hands)}
		for k, n := range r.Faults {
			s.faults[k] += n
		}
		for k, n := range r.Guards {
			s.guards[k] += n
		}
		s.digest += digest(r)
		if r.Violation != nil && (s.failed == 0 || seed < s.failed) {
			s.failed = seed
		}
		s.mu.Unlock()
	}
}
