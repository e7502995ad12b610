package plan

import (
	"fmt"
	"strings"

	"mainstay/fleet"
)

// VerbKill ends a member of a cluster that hangs, as a loss of power would. Its host
// carries it out only while its own probes say so.
//
// That costs no commit that was acknowledged: the storage engine had written its log
// before it said so, and what a process has handed to its kernel outlives the process
// (where innodb_flush_log_at_trx_commit is 0 a second of it is at stake at every crash,
// by the operator's choice). A disk that stands still keeps the process until it moves
// again, and no longer: then that end comes late, or never, and nobody goes on without
// the member's position meanwhile.
const VerbKill fleet.Verb = "kill"

// hangs says whether a member's own host, which is alive, has called it stuck: its probes
// past their deadline, and no CPU used, for longer than a busy spell or a slow disk explains.
func (m *member) hangs() bool {
	return m.heard && !m.mute && !m.old && m.s.Stuck && (m.s.Phase == fleet.Running || m.s.Phase == fleet.Starting)
}

// unhang finds among members of which none is primary by its own words one that hangs and
// may be killed, or says what that waits for. ms are those of which any has a voice.
//
// One that hangs may have the vote by which another serves. So each of the others must
// have said in this leader's epoch that it is in no primary component, hang as well, or be
// proved off; and one of them at least must have said so, for where all hang, what they
// stand on has stopped more likely than they, and would be no better for a restart of all.
func unhang(ms []*member) (kill *member, ask []string, why string) {
	spoke := false
	for _, m := range ms {
		switch {
		case m.hangs():
			if kill == nil {
				kill = m
			}
		case m.dead && !m.heard:
			continue
		case m.silent(), m.primary():
			return nil, nil, ""
		case m.s.Phase == fleet.Stopping:
			why = m.host + " to have stopped: one is ended at a time"
		default:
			spoke = true
		}
		if !m.fresh {
			ask = append(ask, m.host)
		}
	}
	switch {
	case kill == nil:
		return nil, nil, ""
	case why != "":
		return nil, nil, why
	case !spoke:
		return nil, nil, "one of its members to answer: all of them hang, and what they stand on may be the reason"
	case kill.fixed:
		return nil, nil, fmt.Sprintf("%s to be ended, which hangs: it is in maintenance or shuts down", kill.host)
	case len(ask) > 0:
		return nil, ask, strings.Join(ask, ", ") + " to say so in this leader's epoch"
	}
	return kill, nil, kill.host + " to be ended, which hangs: nobody is in a primary component by the word of the others"
}

// spare says whether the primary component lasts without a member that hangs: it has been
// left behind already, or those that say that they are primary are a majority without it.
func spare(hung *member, ms []*member) bool {
	primary, size, counted := 0, 0, false
	for _, m := range ms {
		if m == hung || !m.primary() {
			continue
		}
		if m.s.Replica.Seen == "" {
			return false
		}
		seen := strings.Split(m.s.Replica.Seen, ",")
		primary, size = primary+1, max(size, len(seen))
		for _, id := range seen {
			counted = counted || hung.s.Replica.Me == "" || id == hung.s.Replica.Me
		}
	}
	return primary > 0 && (!counted || 2*primary > size)
}

// killOne orders the end of a member that hangs, one at a time and within the brake of
// its restarts.
func (d *decision) killOne(v fleet.Service, m *member, ms []member) {
	about := v.Name + "@" + m.host
	for i := range ms {
		if ms[i].host != m.host && ms[i].heard && ms[i].s.Phase == fleet.Stopping {
			d.wait(about, ms[i].host+" to have stopped: one is ended at a time", "")
			return
		}
	}
	for _, key := range fleet.Sorted(d.w.Flights) {
		f := d.w.Flights[key]
		if f.Order.Verb != VerbKill || f.Order.Thing != v.Thing() || f.Order.To == m.host || f.Order.Boot != d.w.Heard[f.Order.To].Stint.Boot || d.offNow(f.Order.To) {
			continue
		}
		open := f.Effect == nil || f.Effect.Outcome == fleet.NoWord
		if open && d.w.Now.Sub(f.Sent) < restMax || !open && d.w.Now.Sub(f.Arrived) < restMin {
			d.wait(about, f.Order.To+" to have been ended: one is ended at a time", "")
			d.wake(restMin)
			return
		}
	}
	if d.budget(v, m.s, about) {
		d.order(d.to(fleet.Order{Key: fmt.Sprintf("kill/%s/%s/%d", v.Name, m.host, m.s.Restarts), Verb: VerbKill,
			Thing: v.Thing(), Why: "it is hung: " + m.s.Why}, m.host))
	}
}

// unhangOne ends a member that hangs beside a primary component.
func (d *decision) unhangOne(v fleet.Service, ms []member) {
	var all []*member
	for i := range ms {
		all = append(all, &ms[i])
	}
	for _, m := range all {
		switch {
		case !m.hangs() || m.s.Phase != fleet.Running || m.fixed:
		case !spare(m, all):
			d.wait(v.Name+"@"+m.host, "the others to be a majority without it: it hangs, and may still be counted", "mainstay status")
		case d.disarmed:
			d.wait(v.Name+"@"+m.host, "Mainstay to be armed again: it hangs, and would be ended", "mainstay disarm off")
		default:
			d.killOne(v, m, ms)
			return
		}
	}
}
