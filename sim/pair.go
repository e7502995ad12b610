package sim

import (
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"mainstay/fleet"
	"mainstay/plan"
)

// Two voters and no third, as package node plays them: each host keeps the agreement that
// it has applied, asks plan.PairView what it may do when it has no lease, fences, starts
// its store anew as the only member, and takes its partner in again.

// apart is what a host's disk says since it went on alone: which of its boots may, and
// which one of its partner's it is without.
type apart struct {
	boot, without string
	left          bool // by its own word
	// begins is what the store shall begin anew with; nil: it has.
	begins []fleet.Record
}

// pairRun is what /run says of a pair: a boot takes it away.
type pairRun struct {
	pair  fleet.Pair
	alone bool
	proof fleet.Proof
	// left: it has given up its vote, or was about to; after is the agreement after which
	// one counts again.
	left  bool
	after uint64
}

// pairing is the agent's part.
type pairing struct {
	led    bool         // this process has had a lease
	lost   fleet.Moment // when the last one ended
	trying bool
	// leaving: this process gives up its host's vote.
	leaving bool
	asked   at // when the partner was last asked for its word
	began   at
	grown   at // when the partner's membership was last proposed
}

// pairEvery is how often a host looks at its pair.
const pairEvery = 100 * millisecond

// paired says whether the site is one of two voters.
func (s *Site) paired() bool {
	_, ok := s.spec.Pair()
	return ok
}

// specOf is the site's file as a host reads it.
func (s *Site) specOf(h *host) fleet.Spec {
	if h.apart != nil && h.apart.boot == h.boot {
		return s.spec.Without(s.spec.Partner(h.name))
	}
	return s.spec
}

// stale: the host went on alone in an earlier boot, so its store must not start.
func (h *host) stale() bool { return h.apart != nil && h.apart.boot != h.boot }

func (h *host) partner() *host { return h.site.names[h.site.spec.Partner(h.name)] }

// startPair begins to look after the pair, where there is one.
func (a *agent) startPair() {
	if a.host.site.paired() && a.host.voter {
		a.pairing.began = a.host.site.now
		a.host.agentProcess.in(pairEvery, a.tendPair)
	}
}

// blind says whether nobody at all gets a packet to this host.
func (h *host) blind() bool {
	for net := range h.site.nets {
		for _, o := range h.site.hosts {
			if o != h && h.site.open(o, h, net) {
				return false
			}
		}
	}
	return true
}

func (a *agent) pairView(now fleet.Moment) plan.PairView {
	h := a.host
	p := h.partner()
	v := plan.PairView{
		Self: h.name, Partner: p.name, Boot: h.boot, Pair: h.run.pair, Alone: h.run.alone, Left: h.run.left, Led: a.pairing.led, Lost: now.Sub(a.pairing.lost),
		Blind: h.blind(), Spared: plan.PairSpared(h.member.state(), p.name), Silence: a.spec.Timing.Silence(fleet.GuardLate),
	}
	if newest, _ := a.ear.Newest(p.name, now); newest.Heard != 0 {
		v.Heard, v.Hears = newest.Stint.Boot, now.Sub(newest.Heard) < 3*p.every
		v.Mute = a.pairing.led && newest.Heard > a.pairing.lost && newest.Stint.Boot == h.run.pair.Boots[p.name] && !a.senses[p.index].blind
	}
	return v
}

// tendPair is one look.
func (a *agent) tendPair() {
	h := a.host
	s := h.site
	h.agentProcess.in(pairEvery, a.tendPair)
	now := h.clock()
	if h.member.node != nil && !h.run.left && h.member.state().Pair.N != h.run.pair.N && h.member.state().Pair.N > h.run.after {
		h.run.pair = h.member.state().Pair
		if h.run.pair.Boots[h.name] == h.boot && h.apart == nil {
			h.run.alone = false // the two are joint again
		}
		a.poke()
	}
	if a.hand.Leased(now) {
		a.pairing.led, a.pairing.lost = true, a.hand.End()
	}
	if h.apart == nil && h.member.node != nil && s.now-a.pairing.grown > 2*second {
		a.pairing.grown = s.now
		a.onlyMember()
	}
	switch {
	case h.run.alone && h.apart != nil:
		a.takeIn()
	case a.hand.Leased(now), a.pairing.trying:
	default:
		a.pairLost(now)
	}
	if a.pairing.leaving {
		return
	}
	if h.stale() || a.pairView(now).Right() != "" && (h.run.left || h.member.node == nil || h.member.look().Lead == 0) {
		if s.now-a.pairing.asked > 2*second {
			a.pairing.asked = s.now
			a.askPartner()
		}
	}
}

// onlyMember finds that the partner's vote was given up and this host has not written that
// down: what had begun goes on.
func (a *agent) onlyMember() {
	h := a.host
	votes := h.member.node.Status().Config.Voters.IDs()
	if _, mine := votes[h.member.id]; !mine || len(votes) != 1 || h.member.state().Pair.N == 0 {
		return
	}
	h.site.quorum.clusters++
	h.member.cluster = h.site.quorum.clusters
	h.apart = &apart{left: true}
	if h.run.pair.Boots[h.name] == h.boot {
		h.apart.boot, h.run.alone = h.boot, true
		a.follow(h.site.specOf(h))
	} else {
		h.member.kill() // as after a boot
	}
	h.site.tell("%s finds itself the only member: %s has given up its vote", h.name, h.partner().name)
}

// pairLost: this host has no lease, so its partner is dead, or hangs, or one of the two is
// cut off.
func (a *agent) pairLost(now fleet.Moment) {
	h := a.host
	v := a.pairView(now)
	if v.MayGoAlone(h.run.proof) == "" {
		if fleet.Armed(fleet.GuardPairAlone) || v.Step().Fence {
			a.goAlone(h.run.proof)
		}
		return
	}
	step := v.Step()
	if !step.Fence {
		switch {
		case v.Right() != "":
			h.site.guard(fleet.GuardPairRight)
		case step.Wait > 0:
			h.site.guard(fleet.GuardPairFirst)
		}
		return
	}
	a.pairing.trying = true
	h.site.guard(fleet.GuardPairAlone)
	h.site.tell("%s fences its partner: %s", h.name, step.Why)
	p := &prover{
		site: h.site, by: h, victim: h.partner(), uuid: h.member.state().Members[v.Partner].UUID, given: now,
		order: fleet.Order{Verb: fleet.VerbFence, To: h.name, Target: fleet.Stint{Host: v.Partner, Boot: step.Target}},
		may: func() bool {
			now := h.clock()
			again := a.pairView(now).Step()
			return h.agent == a && !a.hand.Leased(now) && again.Fence && again.Target == step.Target
		},
		done: func(proof *fleet.Proof, outcome fleet.Outcome, why string) {
			a.pairing.trying = false
			if proof == nil {
				h.site.tell("%s has not proved its partner off: %s %s", h.name, outcome, why)
				return
			}
			h.run.proof = *proof
		},
	}
	h.site.stir(fenceStir)
	p.same(func() { p.off(1) })
}

// goAlone writes down that this host goes on without its partner, and starts its store
// anew as the only member, from its own disk.
func (a *agent) goAlone(proof fleet.Proof) {
	h := a.host
	partner := h.partner()
	v := a.pairView(h.clock())
	dead := proof.Boot
	if dead == "" {
		dead = v.Step().Target // only without a guard
	}
	h.apart, h.run.alone, h.run.proof = &apart{boot: h.boot, without: dead}, true, fleet.Proof{}
	h.site.tell("%s goes on alone: boot %s of %s is proved dead", h.name, dead, partner.name)
	m := h.member.state().Members[partner.name]
	m.Barred, m.Fenced = "fenced by its partner", append(slices.Clone(m.Fenced), h.wall())
	records := []fleet.Record{
		fleet.Put("proof/"+partner.name, fleet.Proof{Host: partner.name, Boot: dead, Kind: "fence", Evidence: proof.Evidence, By: h.name, At: h.wall()}, ""),
		fleet.Put("member/"+partner.name, m, ""),
	}
	h.apart.begins = records
	h.restartAlone()
	a.follow(h.site.specOf(h))
	a.poke()
}

// restartAlone starts the store's process anew, which makes itself the only member first
// if it is to be.
func (h *host) restartAlone() {
	h.member.kill()
	h.quorumProcess.start()
	h.quorumProcess.in(h.site.between(200*millisecond, second), h.member.start)
}

// force makes a cluster of this member alone of what its disk has.
func (m *member) force(records []fleet.Record) {
	h, q := m.host, m.host.site.quorum
	last, err := m.disk.LastIndex()
	if err != nil {
		panic(err)
	}
	if uint64(len(q.history)) > last+1 {
		h.site.watch.fail("nothing is lost", "%s goes on alone with %d entries, and %d were committed", h.name, last, len(q.history)-1)
		return
	}
	for i := uint64(len(q.history)); i <= last; i++ {
		all, err := m.disk.Entries(i, i+1, 1<<30)
		if err != nil {
			panic(err)
		}
		q.at(i, all[0])
	}
	before := q.newest()
	w := &write{at: h.site.now, host: h.name, ok: true, known: true, records: append([]fleet.Record{
		fleet.Put("epoch", fleet.EpochValue{Epoch: before.Epoch + 1<<20, Leader: before.Leader}, ""),
	}, records...)}
	after, err := before.Apply(w.records...)
	if err != nil {
		panic(err)
	}
	q.history = append(q.history, after)
	q.site.watch.committed(before, after, w)
	hard, _, err := m.disk.InitialState()
	if err != nil {
		panic(err)
	}
	index, term := last+1, hard.GetTerm()
	q.clusters++
	m.cluster, m.lived = q.clusters, true
	m.disk = raft.NewMemoryStorage()
	snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: &raftpb.ConfState{Voters: []uint64{m.id}}}}
	if err := m.disk.ApplySnapshot(snap); err != nil {
		panic(err)
	}
	if err := m.disk.SetHardState(&raftpb.HardState{Term: &term, Commit: &index}); err != nil {
		panic(err)
	}
}

// askPartner asks the partner for its word, over any network, and follows it.
func (a *agent) askPartner() {
	h, p := a.host, a.host.partner()
	s := h.site
	net := s.reach(h, p)
	if net < 0 || !p.agentProcess.alive {
		if !fleet.Armed(fleet.GuardPairAlone) {
			a.pairReturns(nil, false)
		}
		return
	}
	stale := h.stale()
	p.agentProcess.in(s.between(s.nets[net].low, s.nets[net].top), func() {
		if p.agent == nil || !s.open(p, h, net) {
			return
		}
		word := p.agent.pairWord()
		place := false
		if does, _ := plan.PairReturns(h.boot, stale, &word); does == plan.PairJoins {
			place = p.agent.makePlace(h)
		}
		h.agentProcess.in(s.between(s.nets[net].low, s.nets[net].top), func() {
			if h.agent == a {
				a.pairReturns(&word, place)
			}
		})
	})
}

// pairWord is what this host says of itself.
func (a *agent) pairWord() fleet.PairWord {
	h := a.host
	w := fleet.PairWord{Host: h.name, Boot: h.boot, Stale: h.stale()}
	if h.apart != nil && !w.Stale {
		w.Alone, w.Without, w.Left = true, h.apart.without, h.apart.left
	}
	return w
}

// pairReturns follows the partner's word.
func (a *agent) pairReturns(word *fleet.PairWord, place bool) {
	h := a.host
	m := h.member
	if !h.stale() && (h.run.alone || m.node != nil && m.look().Lead != 0) {
		if h.run.left && word != nil && !word.Alone && !word.Stale && h.site.now-a.pairing.began > at(plan.PairStays) {
			h.run.left, h.run.after, h.run.pair = false, m.state().Pair.N, fleet.Pair{} // nothing came of it
			a.poke()
		}
		if !h.run.left || word == nil || !word.Alone {
			return // its store is of the partner's by now
		}
	}
	does, why := plan.PairReturns(h.boot, h.stale(), word)
	if does == plan.PairWaits && h.stale() {
		h.site.guard(fleet.GuardPairAlone)
	}
	switch does {
	case plan.PairGoesOn:
		h.site.tell("%s goes on with its store: %s", h.name, why)
		h.apart.boot, h.run.alone = h.boot, true
		h.restartAlone()
		a.follow(h.site.specOf(h))
	case plan.PairJoins:
		if !place || m.cluster == h.partner().member.cluster {
			return
		}
		h.site.tell("%s puts its store aside and learns from its partner: %s", h.name, why)
		m.kill()
		m.disk, m.lived, m.cluster, m.applied = raft.NewMemoryStorage(), false, h.partner().member.cluster, 0
		h.apart, h.run.left, h.run.after = nil, false, 0
		h.quorumProcess.start()
		m.start()
		a.follow(h.site.specOf(h))
	}
}

// makePlace makes the partner a learner of this host's store, and says whether it is one.
func (a *agent) makePlace(h *host) bool {
	m := a.host.member
	if m.node == nil || !m.leads() {
		return false
	}
	conf := m.node.Status().Config
	if _, learns := conf.Learners[h.member.id]; learns {
		if h.member.cluster != m.cluster {
			m.keepSnapshot(conf) // the log from its beginning is of members that are no more
		}
		return true
	}
	if _, votes := conf.Voters.IDs()[h.member.id]; votes {
		if h.member.cluster == m.cluster {
			return true
		}
		m.propose1(raftpb.ConfChangeRemoveNode, h.member.id) // an earlier boot's vote
		return false
	}
	m.propose1(raftpb.ConfChangeAddLearnerNode, h.member.id)
	return false
}

// takeIn gives a partner that has learned all its vote, and ends the time alone.
func (a *agent) takeIn() {
	h, p := a.host, a.host.partner()
	s, m := h.site, h.member
	if m.node == nil || p.member.cluster != m.cluster || s.now-a.pairing.grown < 500*millisecond {
		return
	}
	a.pairing.grown = s.now
	st := m.node.Status()
	if _, votes := st.Config.Voters.IDs()[p.member.id]; votes {
		// An ear that has just booted acknowledges nobody: this host would lose its lease.
		if newest, _ := a.ear.Newest(p.name, h.clock()); !plan.PairEar(h.clock().Sub(newest.First), a.spec.Timing) {
			return
		}
		s.tell("%s has its vote again", p.name)
		h.apart = nil
		a.follow(s.specOf(h))
		return
	}
	if _, learns := st.Config.Learners[p.member.id]; !learns || !m.leads() {
		return
	}
	pr := st.Progress[p.member.id]
	if pr.Match+4 >= st.Applied && pr.Match > 0 && pr.RecentActive {
		m.propose1(raftpb.ConfChangeAddNode, p.member.id)
		return
	}
	m.keepSnapshot(st.Config)
	m.touch().ReportSnapshot(p.member.id, raft.SnapshotFailure) // it may have been lost on its way
	m.pump()
}

// leavePair gives up this host's vote by its word, so that its partner goes on alone without
// a fence, and then ends; a partner that cannot be told in time fences it.
func (a *agent) leavePair(gone func()) {
	h := a.host
	if !h.site.paired() || !h.voter || h.apart != nil || h.run.pair.Boots[h.name] != h.boot {
		gone()
		return
	}
	a.pairing.leaving = true
	h.run.left, h.run.pair.Boots = true, nil // whatever comes of it, this boot fences nobody until it is joint again
	s, p := h.site, h.partner()
	vote, end := s.now+3*second, s.now+6*second
	var ask func()
	ask = func() {
		listens := p.agent != nil && !p.agentProcess.stopped() && p.agent.departing == 0 && !p.agent.pairing.leaving
		switch {
		case listens && s.open(h, p, 0) && s.open(p, h, 0) && p.agent.goesOnWithout(h):
		case listens && s.now >= vote && s.reach(h, p) >= 0 && p.agent.takesWord(h):
		case s.now >= end:
		default:
			h.agentProcess.in(pairEvery, ask)
			return
		}
		gone()
	}
	ask()
}

// reach is a network over which two hosts reach each other; -1: there is none.
func (s *Site) reach(h, p *host) int {
	return slices.IndexFunc(s.nets, func(n *network) bool {
		i := slices.Index(s.nets, n)
		return s.open(h, p, i) && s.open(p, h, i)
	})
}

// takesWord goes on alone without a partner that leaves, although no commit of both can be
// had, and says whether it does.
func (a *agent) takesWord(gone *host) bool {
	h := a.host
	if h.apart != nil || a.pairing.trying {
		return h.apart != nil && !h.stale()
	}
	v := plan.PairView{Self: h.name, Partner: gone.name, Boot: h.boot, Pair: h.run.pair, Left: h.run.left}
	if v.MayTakeWord(gone.boot) != "" {
		h.site.guard(fleet.GuardPairAlone)
		return false
	}
	h.apart, h.run.alone = &apart{boot: h.boot, without: gone.boot, left: true, begins: []fleet.Record{}}, true
	h.site.tell("%s goes on alone: %s gives up its vote, and no commit of both can be had", h.name, gone.name)
	h.restartAlone()
	a.follow(h.site.specOf(h))
	a.poke()
	return true
}

// goesOnWithout takes the vote of a partner that leaves, and says whether that is done.
func (a *agent) goesOnWithout(gone *host) bool {
	h := a.host
	m := h.member
	if m.node == nil || gone.member.node == nil {
		return false
	}
	if _, votes := m.node.Status().Config.Voters.IDs()[gone.member.id]; votes {
		for _, v := range []*member{m, gone.member} {
			if v.leads() && !v.host.quorumProcess.stopped() && h.site.now-a.pairing.grown > 500*millisecond {
				a.pairing.grown = h.site.now
				v.propose1(raftpb.ConfChangeRemoveNode, gone.member.id)
			}
		}
		return false
	}
	h.site.quorum.clusters++
	m.cluster = h.site.quorum.clusters
	h.apart, h.run.alone = &apart{boot: h.boot, without: gone.boot, left: true}, true
	h.site.tell("%s goes on alone: %s has given up its vote", h.name, gone.name)
	a.follow(h.site.specOf(h))
	a.poke()
	return true
}

// keepSnapshot replaces the log so far by what it comes to, with the members of now: who
// learns takes only a snapshot that names it.
func (m *member) keepSnapshot(c tracker.Config) {
	conf := &raftpb.ConfState{}
	for id := range c.Voters.IDs() {
		conf.Voters = append(conf.Voters, id)
	}
	for id := range c.Learners {
		conf.Learners = append(conf.Learners, id)
	}
	slices.Sort(conf.Voters)
	slices.Sort(conf.Learners)
	if _, err := m.disk.CreateSnapshot(m.applied, conf, nil); err == nil {
		_ = m.disk.Compact(m.applied)
	}
}

// propose1 proposes one change of the members.
func (m *member) propose1(kind raftpb.ConfChangeType, id uint64) {
	q := m.host.site.quorum
	serial := uint64(len(q.changes) + 1)
	cc := &raftpb.ConfChange{Type: &kind, NodeId: &id, Id: &serial}
	_, data, err := raftpb.MarshalConfChange(cc)
	if err != nil {
		panic(err)
	}
	q.changes = append(q.changes, change{change: cc, data: data})
	_ = m.touch().ProposeConfChange(cc)
	m.pump()
}

// oneLives: of a pair that fences each other one at least stays.
func (w *watch) oneLives(h *host) {
	p := h.partner()
	if p == nil {
		return
	}
	if w.shot == nil {
		w.shot = map[*host]bool{}
	}
	w.shot[h] = true
	if w.shot[p] && !p.on {
		w.fail("one lives", "%s and %s have switched each other off", p.name, h.name)
	}
}

// sworn is what a person does about a pair in which neither can go on: switch one off, and
// swear that it is on the other (recover quorum).
func (s *Site) sworn(on, off *host) {
	s.tell("a person switches %s off and swears it on %s", off.name, on.name)
	off.powerOff()
	boot := s.quorum.newest().Members[off.name].Admitted
	on.apart = &apart{boot: on.boot, without: "sworn off", begins: []fleet.Record{
		fleet.Put("proof/"+off.name, fleet.Proof{Host: off.name, Boot: boot, Kind: "oath", By: "root", At: on.wall(), Evidence: "sworn"}, ""),
	}}
	on.run.alone = true
	on.restartAlone()
	on.agent.follow(s.specOf(on))
}

// stuck returns the two of a pair if both are up and nobody can lead: the vote of one was
// given up, and the other lost its power before it heard so.
func (s *Site) stuck() (on, off *host) {
	hosts, ok := s.spec.Pair()
	if !ok {
		return nil, nil
	}
	a, b := s.names[hosts[0]], s.names[hosts[1]]
	switch {
	case a.agent == nil || b.agent == nil || a.apart != nil || b.apart != nil:
	case a.member.node != nil && a.member.look().Lead == 0 && b.member.node == nil:
		return a, b
	case b.member.node != nil && b.member.look().Lead == 0 && a.member.node == nil:
		return b, a
	}
	return nil, nil
}

// joining says whether two voters that are up are not joint: they will be.
func (s *Site) joining() bool {
	hosts, ok := s.spec.Pair()
	return ok && s.names[hosts[0]].on && s.names[hosts[1]].on && s.pairWell() != ""
}

// pairWell says what is not as it should be of a pair once nothing is wrong any more.
func (s *Site) pairWell() string {
	hosts, ok := s.spec.Pair()
	if !ok {
		return ""
	}
	p, boots, load := s.quorum.newest().Pair, map[string]string{}, map[string]int{}
	for _, name := range hosts {
		h := s.names[name]
		if h.apart != nil || h.run.alone {
			return name + " goes on alone"
		}
		if h.run.left || h.run.pair.N != p.N {
			return name + " does not go by the agreement"
		}
		boots[name] = h.boot
	}
	for _, x := range s.quorum.newest().Holdings {
		load[x.Host]++
	}
	switch {
	case !maps.Equal(boots, p.Boots):
		return fmt.Sprintf("%v are joint, and the agreement is of %v", boots, p.Boots)
	case p.First == "" || load[s.spec.Partner(p.First)] > load[p.First]:
		return fmt.Sprintf("%q is first", p.First)
	}
	return ""
}
