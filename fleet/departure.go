package fleet

import (
	"cmp"
	"fmt"
	"time"
)

// Departure is the record of one server's way from a compute that lives, by live
// migration: written before Nova is asked, so that whoever leads next knows of it, also
// when the compute dies in the middle and nobody knows on which side the guest runs.
type Departure struct {
	Server string `json:"server"`
	Name   string `json:"name,omitempty"`
	From   string `json:"from"`
	Boot   string `json:"boot"` // of From
	Why    string `json:"why"`  // what it leaves for
	// Try, To, After, Epoch, At, Tried and Path are as those of an Evacuation; After counts
	// live migrations.
	Try   int       `json:"try,omitempty"`
	To    string    `json:"to,omitempty"`
	After int       `json:"after,omitempty"`
	Epoch uint64    `json:"epoch,omitempty"`
	At    time.Time `json:"at,omitzero"`
	Tried []string  `json:"tried,omitempty"`
	Path  []string  `json:"path,omitempty"`
	// Ended is how it ended; "" while it goes on. Stays: it came to nothing, and the server
	// stays where it is.
	Ended string `json:"ended,omitempty"`
	Stays bool   `json:"stays,omitempty"`
	// Back says that it goes back to where it was, and by itself: no drain has it go.
	Back bool `json:"back,omitempty"`
	// Strayed is since when Nova has called it over with the server on From.
	Strayed time.Time `json:"strayed,omitzero"`
	// Reset is when Nova was to be told that it is broken, for no hypervisor had its guest; Epoch is then
	// of the leader that recorded that.
	Reset time.Time `json:"reset,omitzero"`
}

// Key names the order of the newest try: no two tries share it.
func (p Departure) Key() string {
	return fmt.Sprintf("live-migrate/%s/%s/%d", p.Server, p.At.UTC().Format(time.RFC3339), p.Try)
}

// Title is what a person calls the server.
func (p Departure) Title() string { return cmp.Or(p.Name, p.Server) }

// MigrationNetwork is the network over which computes send each other guests; "" if nobody
// knows.
func (s *Spec) MigrationNetwork() string {
	if s.OpenStack.Migration != "" {
		return s.OpenStack.Migration
	}
	for i := range s.Networks {
		if s.Networks[i].Name == "management" {
			return "management"
		}
	}
	return ""
}
