package fleet

import "time"

// Masakari is what is kept for clients of Masakari's API. No decision may rest on any of it, so
// it is no part of State: it stands in the quorum's store beside it.
type Masakari struct {
	Segments      map[string]Segment      `json:"segments,omitempty"`      // by UUID
	Notifications map[string]Notification `json:"notifications,omitempty"` // by UUID
}

// Segment is a name that somebody gave to some of the site's computes. It steers nothing: where
// a server may go is told by the availability zone of its host.
type Segment struct {
	UUID        string `json:"uuid"`
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Method      string `json:"method"`  // of recovery, in Masakari's words
	Service     string `json:"service"` // the sort of service, "COMPUTE"
	// Hosts are its members, by name, each in one segment only.
	Hosts   map[string]SegmentHost `json:"hosts,omitempty"`
	Created time.Time              `json:"created,omitzero"`
	Updated time.Time              `json:"updated,omitzero"`
}

// SegmentHost is what was said of a host when it was put into a segment.
type SegmentHost struct {
	Type    string    `json:"type,omitempty"`
	Control string    `json:"control,omitempty"` // "control_attributes"
	Created time.Time `json:"created,omitzero"`
	Updated time.Time `json:"updated,omitzero"`
}

// Notification is what somebody said of a host, a server or a process: testimony, and never
// proof of anything. Its status tells what Mainstay itself found and did about that since.
type Notification struct {
	UUID    string            `json:"uuid"`
	Type    string            `json:"type"` // NoticeHost, NoticeServer or NoticeProcess
	Host    string            `json:"host"`
	Payload map[string]string `json:"payload"`
	By      string            `json:"by"`
	// Generated is when its sender says it was, At when it came.
	Generated time.Time `json:"generated"`
	At        time.Time `json:"at"`
	// Boot is the one that had the right to run servers on the host when it came; "": none had.
	Boot   string `json:"boot,omitempty"`
	Status string `json:"status"`
	Why    string `json:"why,omitempty"`
	// Updated is when the status or why changed last.
	Updated time.Time `json:"updated,omitzero"`
	// Moves are the evacuations from that boot, as they stood when its status was settled.
	Moves []Evacuation `json:"moves,omitempty"`
}

// The types of a notification, in Masakari's words.
const (
	NoticeHost    = "COMPUTE_HOST"
	NoticeServer  = "VM"
	NoticeProcess = "PROCESS"
)

// The statuses of a notification, in Masakari's words.
const (
	NoticeNew      = "new"      // nothing has been found or done about it yet
	NoticeRunning  = "running"  // Mainstay is at it
	NoticeError    = "error"    // a try came to nothing, and others follow
	NoticeFailed   = "failed"   // nothing came of it in the time that it is kept for
	NoticeIgnored  = "ignored"  // there is nothing to be done, by Mainstay's own eyes
	NoticeFinished = "finished" // what there was to be done is done
)

// Open says whether its status may still change.
func (n Notification) Open() bool {
	return n.Status == NoticeNew || n.Status == NoticeRunning || n.Status == NoticeError
}
