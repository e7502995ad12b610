package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// LocalDisks says of which computes the servers' disks are on the host's own disks: they are
// lost with it, or come back with it. A server that boots from a volume has no such disk.
type LocalDisks struct {
	// Hosts are these computes; where none is named, those with one of Roles.
	Hosts []string `json:"hosts,omitempty"`
	Roles []string `json:"roles,omitempty"`
	// Wait is how long a lost one is given to come back, with the newest data of its servers,
	// before they are restored elsewhere from snapshots.
	Wait time.Duration `json:"wait,omitempty"`
}

// Snapshots is the policy by which images of such disks are put into Glance.
type Snapshots struct {
	Every  time.Duration `json:"every,omitempty"`   // of each server; zero: none is made
	Keep   int           `json:"keep,omitempty"`    // so many of each server
	AtOnce int           `json:"at_once,omitempty"` // in the whole site; on one host never two
}

// Local says whether the disks of a host's servers are on it alone.
func (s *Spec) Local(host string) bool {
	l := s.OpenStack.LocalDisks
	if len(l.Hosts) > 0 {
		return slices.Contains(l.Hosts, host)
	}
	h, known := s.Host(host)
	return known && len(l.Roles) > 0 && h.HasRole(l.Roles...)
}

// What an owner says of the disk of his server, in its metadata.
const (
	// MetaSnapshot is false where none shall be made of it, or how often: not more often than
	// the site's file says.
	MetaSnapshot = "HA_Snapshot"
	// MetaRebuild is true where the server may begin anew from its own image, if its disk is
	// lost with its host and there is no snapshot of it.
	MetaRebuild = "HA_Rebuild"
)

// Image is one of Glance's that Mainstay made: a snapshot of a server's disk.
type Image struct {
	ID     string `json:"id"`
	Server string `json:"server"`
	Status string `json:"status"`
	// Mark names the request that it was made by (Snapshot.Mark), Made is when Glance began
	// it: what it holds is that old, or a little younger.
	Mark string    `json:"mark"`
	Made time.Time `json:"made"`
	Size int64     `json:"size,omitempty"` // bytes
}

// ImageActive is the status of an image that is whole. One whose upload ended with its
// nova-compute stays queued or saving for ever.
const ImageActive = "active"

// Images are those of one server, as of when Glance was asked.
type Images struct {
	At   Moment  `json:"at"`
	List []Image `json:"list,omitempty"`
}

// Newest is the newest that is whole; ok is false where there is none.
func (i Images) Newest() (newest Image, ok bool) {
	for _, x := range i.List {
		if x.Status == ImageActive && (!ok || x.Made.After(newest.Made)) {
			newest, ok = x, true
		}
	}
	return newest, ok
}

// Snapshot is the record of one that is made, written before Nova is asked, so that whoever
// leads next asks for no second one; and, over, that it is known before the next Tally.
type Snapshot struct {
	Server string    `json:"server"`
	Name   string    `json:"name,omitempty"`
	Host   string    `json:"host"`
	Epoch  uint64    `json:"epoch"` // of the leader that made the record
	At     time.Time `json:"at"`
	// Ended is how it ended; "" while it goes on. Failed counts those that came to nothing in a row.
	Ended  string    `json:"ended,omitempty"`
	Over   time.Time `json:"over,omitzero"`
	Failed int       `json:"failed,omitempty"`
}

// Mark names the request: the image that comes of it bears the mark, so that it is found
// though the answer was lost.
func (s Snapshot) Mark() string { return s.At.UTC().Format("20060102T150405Z") }

// Key names the order: no two requests share it.
func (s Snapshot) Key() string { return fmt.Sprintf("snapshot/%s/%s", s.Server, s.Mark()) }

// ImageName is the name of the image that a request makes. What a snapshot's properties say
// is inherited by whatever its server's owner makes of the server that was restored from it; its name is not.
func ImageName(server, mark string) string { return "mainstay-" + server + "-" + mark }

// Stock is what OpenStack says of all servers with local disks, and of all images that
// Mainstay made: an observation that is made from time to time.
type Stock struct {
	At      time.Time          `json:"at"` // when it began, by the leader's clock
	Servers []Server           `json:"servers"`
	Images  map[string][]Image `json:"images"` // by server
	// Used are the images, by id, that any server has as its own: it is built anew from that.
	Used map[string]bool `json:"used"`
}

// Tally is what a Stock comes to by the site's policy: what is due, and what is too much.
type Tally struct {
	At time.Time `json:"at,omitzero"` // of the Stock
	// Servers counts those of which snapshots are made, Without those of them that have none
	// that is whole, Late those whose newest was older than twice its interval then.
	Servers int `json:"servers,omitempty"`
	Without int `json:"without,omitempty"`
	Late    int `json:"late,omitempty"`
	// Oldest are these servers, whose newest snapshot is oldest first: not more than TallyShown.
	Oldest []Picture `json:"oldest,omitempty"`
	// Last is when the newest of all was begun, Prune are images that are not needed any more.
	Last  time.Time `json:"last,omitzero"`
	Prune []Image   `json:"prune,omitempty"`
	// Gone are servers, with images among Prune, that are in no list of Nova's.
	Gone []string `json:"gone,omitempty"`
	// Away is why the newest list, after At, could not be made.
	Away string `json:"away,omitempty"`
}

// Overdue counts the servers whose newest snapshot is older than twice its interval by a later
// time, with those of them that are among the Oldest: none is made while nobody lists them.
func (t *Tally) Overdue(at time.Time) (n int, shown []Picture) {
	for _, p := range t.Oldest {
		if p.Overdue(at) {
			shown = append(shown, p)
		}
	}
	return max(t.Late, len(shown)), shown
}

// TallyShown bounds what a Tally lists: a World is kept often.
const TallyShown = 200

// Picture is the newest snapshot of one server.
type Picture struct {
	Server string `json:"server"`
	Name   string `json:"name,omitempty"`
	Host   string `json:"host"`
	// Newest is when it was made; zero: there is none. Due is when the next one is due, and Late
	// when this is older than twice the interval.
	Newest time.Time `json:"newest,omitzero"`
	Due    time.Time `json:"due"`
	Late   time.Time `json:"late_from,omitzero"`
}

// Overdue says whether it is older than twice the interval by a time.
func (p Picture) Overdue(at time.Time) bool { return !p.Late.IsZero() && at.After(p.Late) }

// Restore is what an evacuation does beside: the server's disk was lost with its host, so where it
// arrives it is rebuilt from its newest snapshot.
type Restore struct {
	Image string    `json:"image,omitempty"` // its id; "": nothing is restored
	Made  time.Time `json:"made,omitzero"`
	// Dead is when the host that had the disk was proved dead: what was written from Made to then is lost.
	Dead time.Time `json:"dead,omitzero"`
	// Owed: what it is evacuated from had not been restored either, so its disk there is of no worth.
	Owed bool `json:"owed,omitempty"`
	// Here: no other compute could take it, so it is restored where it is, once that is on again.
	Here bool `json:"here,omitempty"`
	// Try counts the requests; Epoch and At are of the newest record of one.
	Try   int       `json:"try,omitempty"`
	Epoch uint64    `json:"epoch,omitempty"`
	At    time.Time `json:"at,omitzero"`
}

// Lost says how much is lost where a server has what its snapshot has; "" where nothing was restored, or it
// is not known.
func (r Restore) Lost() string {
	if r.Image == "" || !r.Dead.After(r.Made) {
		return ""
	}
	return fmt.Sprintf("what it wrote in the %v before its host's death is lost", r.Dead.Sub(r.Made).Truncate(time.Second))
}

// RestoreKey names the order of the newest request to rebuild.
func (e Evacuation) RestoreKey() string {
	return fmt.Sprintf("restore/%s/%s/%d/%d", e.Server, e.Boot, e.Try, e.Restore.Try)
}

// Stopped is the mark of its request to Nova: what waits for its disk shall not run before it has it.
func (e Evacuation) Stopped() string {
	if e.Restore.Image == "" {
		return ""
	}
	return MarkStopped
}

// Return is the record that a lost compute is waited for, because the disks of its servers are on it.
type Return struct {
	Host  string    `json:"host"`
	Boot  string    `json:"boot"` // that is dead
	Since time.Time `json:"since"`
}

// The steps of VerbCloud about snapshots.
const (
	// CloudSnapshot has Nova make an image of a server's disk; Order.Mark is the snapshot's.
	CloudSnapshot = "snapshot"
	// CloudPrune deletes an image (Order.Thing: "image/ID"), if Mainstay made it.
	CloudPrune = "prune"
	// CloudRebuild builds a server anew, on its host, from the image Order.With: its disk is overwritten.
	CloudRebuild = "rebuild"
)

// MarkStopped, as the Mark of an evacuation, leaves the server stopped where Nova can
// (from 2.95 on): what it would start has not its data yet.
const MarkStopped = "stopped"

// TaskSnapshots says whether Nova is at a server's snapshot.
func (s Server) TaskSnapshots() bool { return strings.HasPrefix(s.Task, "image_") }
