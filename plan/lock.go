package plan

import (
	"fmt"
	"time"

	"mainstay/fleet"
)

// A server on its way is locked, so that none of its owner's users deletes, stops or
// rebuilds it in the middle; an administrator's requests, Mainstay's own among them, pass
// a lock. The lock is recorded with the try, before it is asked for, and bears a reason by
// which everybody sees whose it is: only that one is taken away again, and an owner's stays.
// It protects, and holds nothing up: it is asked for beside the evacuation, whose own task
// keeps users away while it lasts. (A lock first took 1 to 3 s of a real Nova's time for each.)

// lockTold is after how long a person is told that a lock is there yet.
const lockTold = 2 * time.Minute

func lockKey(step string, e fleet.Evacuation) string {
	return fmt.Sprintf("%s/%s/%s/%d", step, e.Server, e.Boot, e.Try)
}

// lock asks for the lock of a server whose evacuation is asked for, once, and never so late that the
// request could be carried out after its record is gone.
func (m *move) lock(e fleet.Evacuation, s fleet.Server) {
	d, key := m.decision, lockKey(fleet.CloudLock, e)
	if _, flying := d.w.Flights[key]; flying || e.Lock != fleet.LockAsked || s.Locked || d.w.Wall.Sub(e.At) > cloudLasts {
		return
	}
	d.order(fleet.Order{Key: key, Verb: fleet.VerbCloud, To: d.w.Leader, Thing: "server/" + e.Server, Step: fleet.CloudLock,
		Why: fleet.LockReason + "it is evacuated from " + e.From})
}

// unlock takes away each lock whose server has arrived, and its record once the lock is gone
// for good: a request for it that was not answered can be carried out later (cloudLasts).
func (m *move) unlock() {
	d := m.decision
	for _, id := range fleet.Sorted(d.w.State.Evacuations) {
		e := d.w.State.Evacuations[id]
		s, seen := d.w.Cloud.Servers[id]
		late := d.w.Wall.Sub(e.At)
		switch {
		case e.Ended == "":
		case e.Lock == "":
			// What was kept for its lock, or its group, when its host came back.
			if h := d.w.State.Holdings[Compute(e.From)]; h.Host == e.From && h.Boot != e.Boot {
				d.forgotten(e)
			}
		case !seen:
		case s.Ours():
			d.cloud(fleet.CloudUnlock, "server/"+id, lockKey(fleet.CloudUnlock, e), "it has arrived: "+e.Ended)
			if late > lockTold {
				d.wait("server/"+id, "the lock to be taken away that it had on its way", "openstack server unlock "+id)
			}
		case s.State == fleet.ServerDeleted || e.Lock == fleet.LockSeen || late > 2*cloudLasts:
			e.Lock = ""
			d.record(fleet.Put("evacuation/"+id, e, title(s)+" is locked by Mainstay no more"))
		default:
			d.wake(2*cloudLasts - late)
		}
	}
}
