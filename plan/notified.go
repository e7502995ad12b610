package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// A notification decides nothing: Notified reads what the leader knows and has decided without
// it, and Decide never sees one. A host is fenced on the word of its ears alone: a notifier
// that is cut off from its peers calls them all dead.
const (
	// heardFor is how long after a notification came its host must be heard before the
	// notification is called wrong: a notifier may be faster than the ears.
	heardFor = 10 * time.Second
	// NoticeKept is for how long a notification is kept, and NoticesKept how many are.
	NoticeKept  = 24 * time.Hour
	NoticesKept = 500
)

// Notified returns a notification with the status that follows from what the leader knows now.
func Notified(n fleet.Notification, w fleet.World) fleet.Notification {
	if !n.Open() {
		return n
	}
	var status, why string
	switch {
	case n.Payload["event"] == "STARTED" && n.Type != fleet.NoticeServer:
		status, why = fleet.NoticeFinished, "it says that something works, and nothing waits for that word"
	case w.Spec.Mode == "shadow":
		status, why = fleet.NoticeIgnored, "the site is in shadow mode, in which nothing is carried out"
	case n.Type == fleet.NoticeHost:
		status, why = notifiedHost(n, w)
	case n.Type == fleet.NoticeServer:
		status, why = notifiedServer(n, w)
	default:
		status, why = notifiedProcess(n, w)
	}
	if n.Open() && w.Wall.Sub(n.At) > NoticeKept && status != fleet.NoticeFinished && status != fleet.NoticeIgnored {
		status, why = fleet.NoticeFailed, "nothing came of it in "+NoticeKept.String()+"; the last that was known: "+why
	}
	if status != n.Status || why != n.Why {
		n.Status, n.Why, n.Updated = status, why, w.Wall
	}
	if n.Type == fleet.NoticeHost && !n.Open() {
		n.Moves = Moves(n, w.State)
	}
	return n
}

// notifiedHost tells what became of the boot that had the right to run servers when the
// notification came.
func notifiedHost(n fleet.Notification, w fleet.World) (status, why string) {
	h, v := w.State.Holdings[Compute(n.Host)], w.Verdicts[n.Host]
	if n.Boot == "" {
		return fleet.NoticeIgnored, "no boot of " + n.Host + " had the right to run servers, so there was nothing to recover"
	}
	if h.Host == "" || h.Boot != n.Boot { // settled, or given to a later boot
		return fleet.NoticeFinished, cmp.Or(h.Why, "the site's file does not give it to Mainstay any more")
	}
	if p := w.State.Proofs[n.Host]; p.Boot == n.Boot {
		on, over := 0, 0
		for _, e := range Moves(n, w.State) {
			if over++; e.Ended == "" {
				on, over = on+1, over-1
			}
		}
		return fleet.NoticeRunning, fmt.Sprintf("it is proved dead (%s); %d of its servers are on their way, %d have arrived", p.Evidence, on, over)
	}
	if i, open := w.State.Intents[n.Host]; open && i.Boot == n.Boot {
		return fleet.NoticeRunning, "it is being fenced by " + i.Device
	}
	if _, wished := w.State.Wishes["maintenance-"+n.Host]; wished {
		return fleet.NoticeIgnored, n.Host + " is in maintenance"
	}
	lost := w.State.Cutoffs[n.Host].Networks
	for _, network := range fleet.Sorted(lost) {
		if w.Spec.OpenStack.OnLoss(network) == fleet.LossEvacuate {
			if network == fleet.EveryNetwork && w.Spec.OpenStack.Storage != "" {
				return fleet.NoticeRunning, lost[network].Why
			}
			return fleet.NoticeRunning, "it has lost the network " + network + ": " + lost[network].Why
		}
	}
	if heard := v.Condition == fleet.Healthy || v.Condition == fleet.Degraded; heard && v.Stint.Boot == n.Boot {
		if w.Wall.Sub(n.At) < heardFor {
			return fleet.NoticeNew, "its voters hear it, and go on to listen"
		}
		return fleet.NoticeIgnored, fmt.Sprintf("its voters have heard it for %v since this came: it is %s", heardFor, v.Condition)
	}
	if disarm, off := w.State.Wishes["disarm"]; off {
		return fleet.NoticeNew, "nothing is fenced or moved: disarmed by " + disarm.By
	}
	if count := w.State.Members[n.Host].Tried.Of(n.Boot); count > 0 {
		return fleet.NoticeError, fmt.Sprintf("it was fenced %d times, which proved nothing; nothing of it is moved without a proof, and the next try follows", count)
	}
	return fleet.NoticeNew, fmt.Sprintf("it is %s to its voters, and nothing of it is moved without a proof that it is off", v.Condition)
}

// notifiedServer tells what is known of a server: its evacuation, if it has one, or that it
// crashed, if its own host says so.
func notifiedServer(n fleet.Notification, w fleet.World) (status, why string) {
	r, crashed := w.State.Revivals[n.Payload["instance_uuid"]]
	switch e, moved := w.State.Evacuations[n.Payload["instance_uuid"]]; {
	case moved && e.Ended == "":
		return fleet.NoticeRunning, "it is being evacuated from " + e.From
	case moved && !e.At.Before(n.At):
		return fleet.NoticeFinished, "it was evacuated from " + e.From + ": " + e.Ended
	case crashed && r.Silent && r.Ended == "":
		return fleet.NoticeRunning, "its guest agent is silent on " + r.Host + ", and it is watched"
	case crashed && r.Silent && w.Wall.Sub(n.At) < crashSpan:
		return fleet.NoticeFinished, "its guest agent was silent on " + r.Host + ": " + r.Ended
	case crashed && r.Ended == "":
		return fleet.NoticeRunning, fmt.Sprintf("it crashed on %s, and is started again (try %d)", r.Host, r.Try)
	case crashed && w.Wall.Sub(n.At) < crashSpan:
		return fleet.NoticeFinished, "it crashed on " + r.Host + ": " + r.Ended
	case w.Wall.Sub(n.At) < heardFor:
		return fleet.NoticeNew, "its host has not said yet whether it crashed"
	}
	return fleet.NoticeIgnored, "by its host's own word it did not crash, and no guest is restarted on a notifier's word"
}

// notifiedProcess tells how the host's copy of a service is, by its agent's own probes.
func notifiedProcess(n fleet.Notification, w fleet.World) (status, why string) {
	name := n.Payload["process_name"]
	for _, v := range w.Spec.Services {
		if v.Name != name && !slices.Contains(v.Units, strings.TrimSuffix(name, ".service")+".service") || !slices.Contains(w.Spec.Homes(v), n.Host) {
			continue
		}
		c, told := w.Reports[n.Host].Services[v.Name]
		switch {
		case !told:
			return fleet.NoticeNew, "no report of " + v.Name + "@" + n.Host + " yet"
		case !c.Ready:
			return fleet.NoticeRunning, fmt.Sprintf("%s@%s is %s, and kept by its agent: %s", v.Name, n.Host, c.Phase, c.Why)
		case n.Status == fleet.NoticeRunning:
			return fleet.NoticeFinished, v.Name + "@" + n.Host + " serves again"
		case w.Wall.Sub(n.At) < heardFor:
			return fleet.NoticeNew, v.Name + "@" + n.Host + " serves, by its own probe"
		}
		return fleet.NoticeIgnored, v.Name + "@" + n.Host + " serves, by its own probe"
	}
	return fleet.NoticeIgnored, fmt.Sprintf("the site's file has no service %q on %s", name, n.Host)
}

// Moves are the evacuations that belong to a notification: those from its boot, as they are now,
// or as they were when its status was settled.
func Moves(n fleet.Notification, s fleet.State) (out []fleet.Evacuation) {
	if len(n.Moves) > 0 {
		return n.Moves
	}
	for _, id := range fleet.Sorted(s.Evacuations) {
		if e := s.Evacuations[id]; e.From == n.Host && e.Boot == n.Boot {
			out = append(out, e)
		}
	}
	return out
}

// Notices returns what is kept with the statuses that follow from the leader's World, without
// what is too old; changed says whether that is news.
func Notices(kept fleet.Masakari, w fleet.World) (out fleet.Masakari, changed bool) {
	out = kept
	out.Notifications = map[string]fleet.Notification{}
	for _, id := range fleet.Sorted(kept.Notifications) {
		n := kept.Notifications[id]
		if w.Wall.Sub(n.At) > NoticeKept && !n.Open() {
			changed = true
			continue
		}
		next := Notified(n, w)
		changed = changed || next.Status != n.Status || next.Why != n.Why
		out.Notifications[id] = next
	}
	return out, changed
}
