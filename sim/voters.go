package sim

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"mainstay/fleet"
)

// setVoters: voters add|remove HOST. The store is asked to change; every agent
// takes the new list up when it hears of it, at a time of its own.
func setVoters(s *Site, args []string) error {
	h := s.names[args[1]]
	if h == nil {
		return fmt.Errorf("no host %s", args[1])
	}
	q := s.quorum
	q.want = append(q.want, want{host: h, add: args[0] == "add"})
	if len(q.want) == 1 {
		q.change()
	}
	return nil
}

// want is one change of the voters that a person asked for.
type want struct {
	host *host
	add  bool
}

// change carries out the next change of the voters, one at a time: the next only
// when every ear has confirmed the list and the length of a promise has passed.
func (q *quorum) change() {
	s := q.site
	if len(q.want) == 0 {
		return
	}
	if q.changing {
		if fleet.Armed(fleet.GuardOneVoter) {
			s.guard(fleet.GuardOneVoter)
		} else {
			s.after(100*millisecond, func() { q.changing, q.changed = false, s.now; q.change() })
		}
		return
	}
	x := q.want[0]
	q.want = q.want[1:]
	q.changing = true
	kind := raftpb.ConfChangeAddNode
	if !x.add {
		kind = raftpb.ConfChangeRemoveNode
	}
	id := uint64(x.host.index + 1)
	serial := uint64(len(q.changes) + 1)
	cc := &raftpb.ConfChange{Type: &kind, NodeId: &id, Id: &serial}
	_, data, err := raftpb.MarshalConfChange(cc)
	if err != nil {
		panic(err)
	}
	q.changes = append(q.changes, change{change: cc, data: data})
	n := len(q.changes) - 1
	// The store first: who proposed it may have lost the lead, and then it is asked for
	// again. The ears follow what is written there.
	var propose func()
	propose = func() {
		if q.changes[n].applied {
			q.list(x)
			return
		}
		for _, v := range q.voters {
			if v.on && v.member.leads() && !v.quorumProcess.stopped() {
				_ = v.member.touch().ProposeConfChange(cc)
				v.member.pump()
			}
		}
		s.after(at(s.timing.Election), propose)
	}
	propose()
}

// list makes a change of the store's voters known to every agent.
func (q *quorum) list(x want) {
	s := q.site
	var lead *host
	for _, v := range q.voters {
		if v.on && (lead == nil || v.member.leads()) {
			lead = v
		}
	}
	if lead == nil { // nobody is up who could tell
		s.after(second, func() { q.list(x) })
		return
	}
	if x.add {
		x.host.voter = true
		if x.host.member == nil {
			x.host.member = newMember(x.host)
			x.host.member.base(q.first)
		}
		if x.host.on {
			x.host.quorumProcess.start()
			x.host.member.start()
		}
	}
	for i := range s.spec.Hosts {
		if s.spec.Hosts[i].Name == x.host.name {
			s.spec.Hosts = slices.Clone(s.spec.Hosts)
			s.spec.Hosts[i].Voter = x.add
		}
	}
	spec := s.spec
	var last at
	for _, h := range s.hosts {
		d := s.between(200*millisecond, 2*second)
		last = max(last, d)
		s.after(d, func() { h.takeUp(lead, spec) })
	}
	if !fleet.Armed(fleet.GuardOneVoter) {
		return
	}
	var settle func()
	settle = func() {
		for _, h := range s.hosts {
			if h.on && h.agent != nil && !slices.Equal(h.agent.spec.Voters(), spec.Voters()) || !h.on && h.voter {
				s.after(second, settle)
				return
			}
		}
		s.after(at(s.timing.Promise())*11/10, func() {
			q.changing, q.changed = false, s.now
			q.change()
		})
	}
	s.after(last, settle)
}

// takeUp lets the agent follow a changed site's file, as soon as it can be told.
func (h *host) takeUp(from *host, spec fleet.Spec) {
	a := h.agent
	if a == nil {
		return
	}
	if h != from && !(h.site.open(from, h, 0) && h.site.open(h, from, 0)) {
		h.site.after(second, func() { h.takeUp(from, spec) })
		return
	}
	h.agentProcess.in(0, func() {
		if h.agent != a || len(spec.Voters()) < len(a.spec.Voters()) && spec.Revision < a.spec.Revision {
			return
		}
		a.follow(spec)
	})
}
