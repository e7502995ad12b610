package fleet

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Guests is what a compute's agent says of the machines on it, by the word of its own
// hypervisor (libvirt), whose name of a machine is Nova's id of the server.
type Guests struct {
	// Asked: the hypervisor has answered at least once; else nothing is known here.
	Asked bool `json:"asked,omitempty"`
	// Unknown says why it does not answer any more; what else stands here is then of before.
	Unknown string `json:"unknown,omitempty"`
	// Running is how many run.
	Running int `json:"running,omitempty"`
	// Crashed are, by server, those that ended without having been told to: their process
	// died, or their kernel panicked. Each was found so twice; the time is this host's when it
	// first was, and names the crash.
	Crashed map[string]time.Time `json:"crashed,omitempty"`
	// Brought are the servers that run here and began to before this host's nova-compute had worked for a minute
	// since the agent's start: what a boot brings along. One that nova-compute did not end then stays among them.
	Brought []string `json:"brought,omitempty"`
	// Machines are all that the hypervisor has, by server, in whatever state; Listed says
	// that they are told, for who is not among them is not here.
	Machines []string `json:"machines,omitempty"`
	Listed   bool     `json:"listed,omitempty"`
	// Answering are the servers whose guest agent (qemu-ga) answers the hypervisor. Silent are, since when by
	// this host's clock, those whose agent had answered for a while in this life of the guest, and does not any
	// more though the guest runs and holds its channel open; the time names the silence. Who is in neither has no
	// agent, or nothing is known of it.
	Answering []string             `json:"answering,omitempty"`
	Silent    map[string]time.Time `json:"silent,omitempty"`
	// Disks says what is wrong with the directory in which Nova keeps the guests' disks.
	Disks string `json:"disks,omitempty"`
}

// Equal says whether both say the same.
func (g Guests) Equal(o Guests) bool {
	return g.Asked == o.Asked && g.Unknown == o.Unknown && g.Running == o.Running && g.Disks == o.Disks &&
		maps.EqualFunc(g.Crashed, o.Crashed, time.Time.Equal) && slices.Equal(g.Brought, o.Brought) &&
		g.Listed == o.Listed && slices.Equal(g.Machines, o.Machines) && slices.Equal(g.Answering, o.Answering) && maps.EqualFunc(g.Silent, o.Silent, time.Time.Equal)
}

// Revival is the record of one crashed server's way back on its own host, or of one whose guest
// agent fell silent, written before Nova is asked, so that whoever leads next asks nobody twice.
type Revival struct {
	Server string `json:"server"`
	Name   string `json:"name,omitempty"`
	Host   string `json:"host"`
	Boot   string `json:"boot"` // of Host
	// Crash names the crash that this is about, Crashes are when those of the last hour were
	// taken up, this one too, and those of silences for which it was rebooted.
	Crash time.Time `json:"crash"`
	// Silent: it is no crash, but a silence of its guest agent (Guests.Silent), which Crash names.
	Silent  bool        `json:"silent,omitempty"`
	Crashes []time.Time `json:"crashes,omitempty"`
	// Try counts what was asked of Nova about this crash, At is when the newest was recorded
	// and Epoch of which leader; before the first, At is when the crash was.
	Try   int       `json:"try,omitempty"`
	Epoch uint64    `json:"epoch,omitempty"`
	At    time.Time `json:"at,omitzero"`
	// Doubt: it was asked for by its epoch's leader, and what came of it is not known.
	Doubt bool `json:"doubt,omitempty"`
	// Failed counts the tries that Nova said to have failed, Why is what it said of the last.
	Failed int    `json:"failed,omitempty"`
	Why    string `json:"why,omitempty"`
	// Ended is how it ended; "" while it goes on. Busy: because somebody else had Nova do
	// something with it, and what comes of that is to be seen.
	Ended string `json:"ended,omitempty"`
	Busy  bool   `json:"busy,omitempty"`
}

// Key names the order of the newest try: no two tries share it.
func (r Revival) Key() string {
	return fmt.Sprintf("reboot/%s/%d/%d", r.Server, r.Crash.UnixMilli(), r.Try)
}

// Ailment is the record of what is wrong with a compute that lives, and whose servers may
// run well all the same: it is fenced for none of this.
type Ailment struct {
	Host string `json:"host"`
	// Of is, by what ails it (a service's name, "libvirt", "disks"; "Nova" if it hears
	// nothing of the nova-compute, "forced down" if it does not take that back), since when and why.
	Of map[string]Lost `json:"of"`
	// Restarted is when its nova-compute was restarted because Nova heard nothing of it.
	Restarted []time.Time `json:"restarted,omitempty"`
	// Settled is when it was restarted because Nova would not lift its host.
	Settled time.Time `json:"settled,omitzero"`
}
