// Package falsebmc plays the BMC of one host: enough of Redfish to power it off
// and on, over a Power that the lab or a test provides, and every way in which a
// real BMC has been seen to mislead its caller (see Fault), switchable while it
// runs.
//
//	GET    /redfish/v1                            the root: where the systems are
//	POST   /redfish/v1/SessionService/Sessions    log in: X-Auth-Token, Location
//	DELETE /redfish/v1/SessionService/Sessions/N  log out
//	GET    /redfish/v1/Systems                    one member
//	GET    /redfish/v1/Systems/1                  PowerState, UUID, the reset's target
//	POST   /redfish/v1/Systems/1/Actions/ComputerSystem.Reset   ForceOff or On
//
// It is strict where real ones are strict, so that a careless client is found
// here and not at night: it refuses ForceRestart (a restart proves nothing), it
// answers 409 to a ForceOff of a host that is off, and it keeps only a handful
// of sessions, so that whoever forgets to log out is soon locked out.
package falsebmc

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

// Power is the switch that the BMC works. Its calls return when the deed is
// done. They may be called by several goroutines; the BMC takes care that Off
// and On never overlap.
type Power interface {
	// State says whether the host has power.
	State(ctx context.Context) (on bool, err error)
	// Off takes the power away at once, without asking the host.
	Off(ctx context.Context) error
	// On gives power.
	On(ctx context.Context) error
}

// Config describes one BMC.
type Config struct {
	UUID     string // of the host, as its firmware states it
	User     string
	Password string
	Power    Power
	Faults   *Faults // nil: an honest BMC for ever
}

// BMC is an http.Handler. Close it to end hanging requests and late deeds.
type BMC struct {
	cfg   Config
	mux   *http.ServeMux
	life  context.Context
	end   context.CancelFunc
	late  sync.WaitGroup
	power sync.Mutex // held while the power changes

	mu       sync.Mutex
	sessions map[string]string // token -> path of the session
	logins   int
}

// maxSessions is as few as small BMCs have.
const maxSessions = 4

// New returns a BMC for cfg.
func New(cfg Config) *BMC {
	if cfg.Faults == nil {
		cfg.Faults = &Faults{}
	}
	b := &BMC{cfg: cfg, mux: http.NewServeMux(), sessions: map[string]string{}}
	b.life, b.end = context.WithCancel(context.Background())
	b.mux.HandleFunc("GET /redfish/v1", b.root)
	b.mux.HandleFunc("GET /redfish/v1/{$}", b.root)
	b.mux.HandleFunc("POST "+sessionsPath, b.login)
	b.mux.HandleFunc("DELETE "+sessionsPath+"/{id}", b.guarded(b.logout))
	b.mux.HandleFunc("GET /redfish/v1/Systems", b.guarded(b.systems))
	b.mux.HandleFunc("GET "+systemPath, b.guarded(b.system))
	b.mux.HandleFunc("POST "+resetPath, b.guarded(b.reset))
	return b
}

const (
	sessionsPath = "/redfish/v1/SessionService/Sessions"
	systemPath   = "/redfish/v1/Systems/1"
	resetPath    = systemPath + "/Actions/ComputerSystem.Reset"
)

// Close ends requests that hang and deeds that are still to come, and waits for
// those under way.
func (b *BMC) Close() {
	b.end()
	b.late.Wait()
}

// ServeHTTP answers one request, as the present fault has it.
func (b *BMC) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The body is read whole first: only then does net/http notice, while we
	// hang, that the client has left.
	var body strings.Builder
	if _, err := copyBody(&body, w, r); err != nil {
		complain(w, http.StatusBadRequest, "MalformedJSON", err.Error())
		return
	}
	r.Body = readCloser{strings.NewReader(body.String())}

	fault := b.cfg.Faults.Get()
	if fault.Hang {
		select {
		case <-r.Context().Done():
		case <-b.life.Done():
		}
		panic(http.ErrAbortHandler)
	}
	if fault.Slow > 0 {
		select {
		case <-time.After(fault.Slow):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		case <-b.life.Done():
			panic(http.ErrAbortHandler)
		}
	}
	w.Header().Set("OData-Version", "4.0")
	b.mux.ServeHTTP(w, r)
}

func (b *BMC) root(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{
		"@odata.id": "/redfish/v1", "Id": "RootService", "Name": "false BMC", "RedfishVersion": "1.6.0",
		"Systems":        link("/redfish/v1/Systems"),
		"SessionService": link("/redfish/v1/SessionService"),
		"Links":          map[string]any{"Sessions": link(sessionsPath)},
	})
}

func (b *BMC) systems(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{
		"@odata.id": "/redfish/v1/Systems", "Members@odata.count": 1, "Members": []any{link(systemPath)},
	})
}

func (b *BMC) system(w http.ResponseWriter, r *http.Request) {
	fault := b.cfg.Faults.Get()
	state := "Off"
	if !fault.Lies {
		on, err := b.cfg.Power.State(r.Context())
		if err != nil {
			complain(w, http.StatusInternalServerError, "InternalError", err.Error())
			return
		}
		if on {
			state = "On"
		}
	}
	uuid := b.cfg.UUID
	if fault.UUID != "" {
		uuid = fault.UUID
	}
	answer(w, http.StatusOK, map[string]any{
		"@odata.id": systemPath, "Id": "1", "Name": "System", "UUID": uuid, "PowerState": state,
		"Actions": map[string]any{"#ComputerSystem.Reset": map[string]any{
			"target": resetPath, "ResetType@Redfish.AllowableValues": []string{"On", "ForceOff"},
		}},
	})
}

func (b *BMC) reset(w http.ResponseWriter, r *http.Request) {
	var ask struct{ ResetType string }
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		complain(w, http.StatusBadRequest, "MalformedJSON", err.Error())
		return
	}
	var want bool
	switch ask.ResetType {
	case "On":
		want = true
	case "ForceOff":
	default:
		complain(w, http.StatusBadRequest, "ActionParameterNotSupported",
			fmt.Sprintf("ResetType %q is not offered: On and ForceOff are", ask.ResetType))
		return
	}

	fault := b.cfg.Faults.Get()
	switch {
	case fault.Lies:
		w.WriteHeader(http.StatusNoContent)
		return
	case fault.Late > 0 && !want:
		b.late.Go(func() {
			select {
			case <-time.After(fault.Late):
				_, _ = b.turn(false) // nobody is left to be told of an error
			case <-b.life.Done():
			}
		})
		w.WriteHeader(http.StatusNoContent)
		return
	}

	changed, err := b.turn(want)
	if fault.Lost {
		panic(http.ErrAbortHandler)
	}
	switch {
	case err != nil:
		complain(w, http.StatusInternalServerError, "InternalError", err.Error())
	case !changed:
		complain(w, http.StatusConflict, "NoOperation", "the host is in that state already")
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// turn brings the power to want and says whether that was a change. It rests on
// the BMC's life and not on the request's: a deed once begun does not stop
// because the client left.
func (b *BMC) turn(want bool) (changed bool, err error) {
	b.power.Lock()
	defer b.power.Unlock()
	on, err := b.cfg.Power.State(b.life)
	if err != nil || on == want {
		return false, err
	}
	if want {
		return true, b.cfg.Power.On(b.life)
	}
	return true, b.cfg.Power.Off(b.life)
}

// guarded lets only those in who show a session's token or the password.
func (b *BMC) guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		user, password, basic := r.BasicAuth()
		token := r.Header.Get("X-Auth-Token")
		b.mu.Lock()
		_, session := b.sessions[token]
		b.mu.Unlock()
		if b.cfg.Faults.Get().Locked || !session && !(basic && b.right(user, password)) {
			w.Header().Set("WWW-Authenticate", `Basic realm="BMC"`)
			complain(w, http.StatusUnauthorized, "NoValidSession", "log in first")
			return
		}
		next(w, r)
	}
}

func (b *BMC) right(user, password string) bool {
	u := subtle.ConstantTimeCompare([]byte(user), []byte(b.cfg.User))
	p := subtle.ConstantTimeCompare([]byte(password), []byte(b.cfg.Password))
	return u&p == 1
}

func (b *BMC) login(w http.ResponseWriter, r *http.Request) {
	var who struct{ UserName, Password string }
	if err := json.NewDecoder(r.Body).Decode(&who); err != nil {
		complain(w, http.StatusBadRequest, "MalformedJSON", err.Error())
		return
	}
	if b.cfg.Faults.Get().Locked || !b.right(who.UserName, who.Password) {
		complain(w, http.StatusUnauthorized, "ResourceAtUriUnauthorized", "wrong user or password")
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.sessions) >= maxSessions {
		complain(w, http.StatusServiceUnavailable, "SessionLimitExceeded", "too many sessions: log out of one first")
		return
	}
	b.logins++
	token, at := rand.Text(), fmt.Sprintf("%s/%d", sessionsPath, b.logins)
	b.sessions[token] = at
	w.Header().Set("X-Auth-Token", token)
	w.Header().Set("Location", at)
	answer(w, http.StatusCreated, map[string]any{"@odata.id": at, "Id": path.Base(at), "UserName": who.UserName})
}

func (b *BMC) logout(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for token, at := range b.sessions {
		if at == r.URL.Path {
			delete(b.sessions, token)
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	complain(w, http.StatusNotFound, "ResourceMissingAtURI", "no such session")
}
