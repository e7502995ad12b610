package falsebmc

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Fault is how a BMC misbehaves. The zero Fault is an honest BMC. Several may
// hold at once. As JSON, durations are written "300ms", "10s".
type Fault struct {
	// Lies: states PowerState Off whatever the truth is, and carries out nothing.
	Lies bool
	// Slow delays every answer (the deed, if any, is delayed with it).
	Slow time.Duration
	// Hang: takes the connection and the request, and never answers.
	Hang bool
	// Locked: takes no password and no session, as after a password change.
	Locked bool
	// Lost: carries out a reset, then closes the connection without an answer.
	Lost bool
	// Late: answers a ForceOff at once and carries it out so much later.
	Late time.Duration
	// UUID, when not empty, is stated in place of the host's own: the cable of
	// another chassis.
	UUID string
}

// faultJSON is Fault as it travels.
type faultJSON struct {
	Lies   bool   `json:"lies,omitempty"`
	Slow   string `json:"slow,omitempty"`
	Hang   bool   `json:"hang,omitempty"`
	Locked bool   `json:"locked,omitempty"`
	Lost   bool   `json:"lost,omitempty"`
	Late   string `json:"late,omitempty"`
	UUID   string `json:"uuid,omitempty"`
}

// MarshalJSON writes durations as "300ms".
func (f Fault) MarshalJSON() ([]byte, error) {
	out := faultJSON{Lies: f.Lies, Hang: f.Hang, Locked: f.Locked, Lost: f.Lost, UUID: f.UUID}
	if f.Slow > 0 {
		out.Slow = f.Slow.String()
	}
	if f.Late > 0 {
		out.Late = f.Late.String()
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes; a negative or unreadable
// duration is an error that names the field.
func (f *Fault) UnmarshalJSON(raw []byte) error {
	var in faultJSON
	if err := json.Unmarshal(raw, &in); err != nil {
		return err
	}
	*f = Fault{Lies: in.Lies, Hang: in.Hang, Locked: in.Locked, Lost: in.Lost, UUID: in.UUID}
	for _, d := range []struct {
		name, text string
		to         *time.Duration
	}{{"slow", in.Slow, &f.Slow}, {"late", in.Late, &f.Late}} {
		if d.text == "" {
			continue
		}
		v, err := time.ParseDuration(d.text)
		if err != nil || v < 0 {
			return fmt.Errorf("fault %s: %q is no duration such as 300ms", d.name, d.text)
		}
		*d.to = v
	}
	return nil
}

// Faults holds the present Fault of one BMC and may be switched at any time by
// any goroutine. The zero Faults is honest. It is also an http.Handler, its own
// admin endpoint, to be mounted where no host under test can reach it: GET
// answers the present Fault as JSON, PUT replaces it, DELETE makes it honest.
type Faults struct {
	mu  sync.Mutex
	now Fault
}

// Set replaces the present fault.
func (f *Faults) Set(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = fault
}

// Get returns the present fault.
func (f *Faults) Get() Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// ServeHTTP is the admin endpoint.
func (f *Faults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
	case http.MethodPut:
		var fault Fault
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&fault); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.Set(fault)
	case http.MethodDelete:
		f.Set(Fault{})
	default:
		w.Header().Set("Allow", "GET, PUT, DELETE")
		http.Error(w, "only GET, PUT and DELETE", http.StatusMethodNotAllowed)
		return
	}
	answer(w, http.StatusOK, f.Get())
}
