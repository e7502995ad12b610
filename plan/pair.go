package plan

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"mainstay/fleet"
)

// Two voters and no third (docs/DESIGN.md section 3, "Two servers alone"). As long as both
// are well the leader keeps an agreement on both stores (pair); when they lose sight of
// each other there is no leader, and each host asks PairView what it may do.

// pairRest is how long who is first stays so, before load moves it.
const pairRest = time.Minute

// pairHour is how long a host tries to fence its partner by itself.
const pairHour = time.Hour

// pair keeps the agreement of a site of two voters: which boots are joint, and which of
// them is first. Each step waits until both have applied the one before, so of two that
// lose sight of each other one at most takes itself for the first.
func (d *decision) pair() {
	hosts, ok := d.w.Spec.Pair()
	if !ok {
		return
	}
	p, boots, confirmed := d.w.State.Pair, map[string]string{}, true
	if d.w.Spec.Alone != "" {
		if len(p.Boots) > 0 { // or who joins again in the same boot would go by it
			d.record(fleet.Put("pair", fleet.Pair{N: p.N + 1, At: d.w.Wall}, "what the two had agreed on is void: "+d.w.Spec.Alone+" has no vote"))
		}
		return
	}
	for _, host := range hosts {
		r, spoken := d.current(host)
		if !spoken || r.Leaving || r.GoesDown || d.unwell(host) != "" {
			return // nothing is agreed on with one who is not well
		}
		if r.Pair == 0 && len(p.Boots) > 0 && d.w.Wall.Sub(p.At) > leaderPause {
			d.record(fleet.Put("pair", fleet.Pair{N: p.N + 1, At: d.w.Wall}, "what the two had agreed on is void: "+host+" goes by it no more"))
			return
		}
		boots[host] = r.Boot
		confirmed = confirmed && r.Pair == p.N
	}
	heavier := p.First // it stays where it is while both hold as much
	switch a, b := d.load[hosts[0]], d.load[hosts[1]]; {
	case b > a:
		heavier = hosts[1]
	case a > b || heavier == "":
		heavier = hosts[0]
	}
	next := fleet.Pair{N: p.N + 1, Boots: boots, At: d.w.Wall}
	switch rested := d.w.Wall.Sub(p.At); {
	case !maps.Equal(p.Boots, boots):
		d.record(fleet.Put("pair", next, fmt.Sprintf("%s and %s are joint: each may fence the other when they lose sight of each other", hosts[0], hosts[1])))
	case !confirmed:
	case p.First == "":
		next.First = heavier
		d.record(fleet.Put("pair", next, fmt.Sprintf("%s is first: it holds more, or as much and its name is the earlier", heavier)))
	case p.First != heavier && rested < pairRest:
		d.wake(pairRest - rested)
	case p.First != heavier:
		d.record(fleet.Put("pair", next, fmt.Sprintf("%s is first no longer: %s holds more", p.First, heavier)))
	}
}

// PairView is what one host of a pair knows by itself when it has no lease.
type PairView struct {
	Self, Partner, Boot string
	// Pair is the newest agreement that this host has applied.
	Pair fleet.Pair
	// Alone: this boot went on alone before, and its partner's present boot is not agreed
	// on yet.
	Alone bool
	// Left: this boot gave up its vote, or was about to, and has not joined again.
	Left bool
	// Led: this process has had a lease, and Lost is since how long it has none.
	Led  bool
	Lost time.Duration
	// Blind: it hears nothing at all on any network. It is probably the one that is cut off.
	Blind bool
	// Mute: its partner was heard after this lease had ended, and hears others: it lives, and
	// what this host sends does not arrive.
	Mute bool
	// Heard is the partner's boot that was heard last, Hears whether that was a moment ago.
	Heard string
	Hears bool
	// Silence is W.
	Silence time.Duration
	// Spared is why a person wants the partner not to be fenced; "" if nobody does.
	Spared string
}

// PairSpared says why a person wants a host of a pair not to be fenced, by the wishes that
// are recorded; "" if nobody does.
func PairSpared(s fleet.State, host string) string {
	for _, id := range fleet.Sorted(s.Wishes) {
		switch w := s.Wishes[id]; {
		case id == "disarm":
			return "fencing to be armed again (mainstay disarm off)"
		case w.Verb == "maintenance" && w.Host == host:
			return "the end of the maintenance of " + host
		}
	}
	return ""
}

// PairStep is what follows.
type PairStep struct {
	// Fence says that an off may be sent now, of Target, the partner's boot, and for how
	// long yet.
	Fence  bool
	Target string
	Left   time.Duration
	// Wait is until when to look again otherwise; zero: nothing follows from waiting.
	Wait time.Duration
	Why  string
}

// place is the place of this host in the order in which the two fence, counted from 0. The
// two may have applied agreements that follow each other: then one of these names nobody,
// and for those as for equal ones the places are two different ones.
func (v PairView) place() int {
	switch {
	case !fleet.Armed(fleet.GuardPairFirst), v.Alone, v.Pair.First == v.Self:
		return 0
	case v.Pair.First == v.Partner:
		return 1
	case v.Self < v.Partner:
		return 2
	}
	return 3
}

// Right says why this host may not fence its partner, whatever happens; "" if it may.
func (v PairView) Right() string {
	switch {
	case !fleet.Armed(fleet.GuardPairRight):
		return ""
	case !v.Led:
		return "this agent began without a lease, and does not know since when its partner is lost"
	case v.Left:
		return fmt.Sprintf("%s has given up its vote", v.Self)
	case v.Alone:
		return ""
	case v.Pair.Boots[v.Self] != v.Boot:
		return fmt.Sprintf("%s has booted since it was joint with %s", v.Self, v.Partner)
	}
	return ""
}

// Step says what a host without a lease does about its partner. Its times come again and
// again, at the same distance, for an hour.
func (v PairView) Step() PairStep {
	if why := v.Right(); why != "" {
		return PairStep{Why: why}
	}
	const round = 4 * fleet.PairApart
	step := PairStep{Target: v.Heard}
	if step.Target == "" {
		step.Target = v.Pair.Boots[v.Partner]
	}
	begin := max(v.Silence, fleet.PairPause) + time.Duration(v.place())*fleet.PairApart
	switch {
	case !fleet.Armed(fleet.GuardPairFirst):
	case v.Blind:
		begin += round
		step.Why = "this host hears nothing on any network: its partner goes first"
	case v.Mute:
		begin += round
		step.Why = fmt.Sprintf("%s lives and hears others, and not this host: it goes first", v.Partner)
	case v.Hears && v.Heard != v.Pair.Boots[v.Partner] && !v.Alone:
		begin += round
		step.Why = fmt.Sprintf("%s has just booted as %s, and may join", v.Partner, v.Heard)
	}
	past := v.Lost - begin
	switch at := past % round; {
	case v.Spared != "":
		step.Why = v.Spared
	case step.Target == "":
		step.Why = "to know which boot of " + v.Partner + " is meant"
	case past >= pairHour:
		step.Why = fmt.Sprintf("a person: %v of tries proved nothing", pairHour)
	case past < 0:
		step.Wait = -past
	case at >= fleet.PairSend:
		step.Wait = round - at
	default:
		step.Fence, step.Left = true, fleet.PairSend-at
		step.Why = fmt.Sprintf("no lease for %v, and it is the time of %s", v.Lost.Round(time.Millisecond), v.Self)
	}
	if step.Why == "" {
		step.Why = fmt.Sprintf("its time to fence %s comes in %v", v.Partner, step.Wait.Round(time.Second))
	}
	return step
}

// MayGoAlone says why a host may not go on alone under a proof; "" if it may. The proof
// dies with the boot that got it: the partner may have been turned on since, or sworn off
// and gone on.
func (v PairView) MayGoAlone(p fleet.Proof) string {
	switch {
	case !fleet.Armed(fleet.GuardPairAlone):
		return ""
	case v.Right() != "":
		return v.Right()
	case p.Host != v.Partner || p.Boot == "" || p.Kind != "fence":
		return fmt.Sprintf("there is no proof that a boot of %s is dead", v.Partner)
	case v.Heard != "" && v.Heard != p.Boot:
		return fmt.Sprintf("boot %s of %s has spoken since, and the proof is of %s", v.Heard, v.Partner, p.Boot)
	}
	return ""
}

// MayTakeWord says why a host may not go on alone by the word of its partner, which gives
// up its vote in the boot that it names; "" if it may. No proof is needed for the store
// alone: a partner that is joint has no commit that this host lacks, and can make none
// without it. What else that boot has stays its own.
func (v PairView) MayTakeWord(boot string) string {
	switch {
	case !fleet.Armed(fleet.GuardPairAlone):
		return ""
	case v.Left:
		return fmt.Sprintf("%s has given up its own vote", v.Self)
	case v.Pair.Boots[v.Self] != v.Boot:
		return fmt.Sprintf("%s has booted since it was joint with %s", v.Self, v.Partner)
	case boot == "" || v.Pair.Boots[v.Partner] != boot:
		return fmt.Sprintf("%s is not joint with boot %q of %s", v.Self, boot, v.Partner)
	}
	return ""
}

// PairEar says whether a partner that has been heard for so long may count as an ear: just
// booted it acknowledges nobody, and who has gone on alone would lose its lease by it.
func PairEar(heard time.Duration, t fleet.Timing) bool { return heard >= t.Promise()*11/10 }

// PairStays is how long after a new process of a host that was about to leave has begun
// nothing can come any more of its giving up its vote.
const PairStays = 15 * time.Second

// PairReturn is what a host that booted does after its partner's word.
type PairReturn string

// What follows from a partner's word.
const (
	PairWaits  PairReturn = ""       // serve nothing yet
	PairJoins  PairReturn = "joins"  // put the own store aside and learn from the partner
	PairGoesOn PairReturn = "goeson" // the own store, which went on alone before, goes on
)

// PairReturns says what a host does that has booted since it was joint, or went on alone
// in an earlier boot (stale), on its partner's word; nil: there is none.
func PairReturns(boot string, stale bool, word *fleet.PairWord) (PairReturn, string) {
	switch {
	case word == nil && !fleet.Armed(fleet.GuardPairAlone) && stale:
		return PairGoesOn, ""
	case word == nil:
		return PairWaits, "the word of its partner, or a person's"
	case word.Alone && (word.Without != boot || word.Left):
		return PairJoins, strings.TrimSuffix(fmt.Sprintf("%s went on alone without boot %s", word.Host, word.Without), " without boot ")
	case word.Alone:
		return PairWaits, fmt.Sprintf("a boot: %s has proved this one dead", word.Host)
	case stale && word.Stale:
		return PairWaits, fmt.Sprintf("a person: %s and this host have each gone on alone, and both have booted since", word.Host)
	case stale:
		return PairGoesOn, fmt.Sprintf("%s has not gone on alone", word.Host)
	}
	return PairWaits, fmt.Sprintf("%s to join", word.Host)
}
