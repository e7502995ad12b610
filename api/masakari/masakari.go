// Package masakari serves Masakari's API, v1 up to microversion 1.3, from what Mainstay itself
// knows and does, so that a cloud's clients (openstack segment ..., openstack notification ...)
// and notifiers (masakari-monitors) go on to work when Mainstay has taken Masakari's place.
//
//	GET    /, /v1/                                  the versions; for everybody
//	GET    /v1/segments, /v1/segments/ID            groups of computes: names, which steer nothing
//	POST, PUT, DELETE                               likewise
//	GET    /v1/segments/ID/hosts, .../hosts/ID      their computes, by the site's file
//	POST, PUT, DELETE                               likewise; on_maintenance is mainstay maintenance
//	GET    /v1/notifications, /v1/notifications/ID  what was said, and what Mainstay did about it
//	POST   /v1/notifications                        testimony
//	GET    /v1/notifications/ID/vmoves, .../ID      evacuations
//
// What agrees with the site's file succeeds, the second time too, for tools put segments and
// hosts in place by this API; what contradicts it is refused with the reason. A notification is
// testimony and no proof: nothing is decided upon it, and its status follows what Mainstay
// decides without it (plan.Notified).
//
// Callers are known by a token of Keystone's, with the role admin as Masakari's own policy has
// it. Tokens are kept and logged nowhere.
package masakari

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/openstack"
)

// Port is Masakari's own.
const Port = 15868

// The microversions that are spoken, as the second number of 1.x. As in Masakari they gate what
// a request may say (1.2: enabled) and what is costly to answer (1.1: the recovery's details),
// and nothing else: the SDK of OpenStack asks for vmoves, which came with 1.3, by 1.0.
const newest = 3

// Backend is what is served: one running Mainstay.
type Backend interface {
	// Caller asks Keystone whose a token is; openstack.ErrToken says nobody's.
	Caller(ctx context.Context, token string) (openstack.Caller, error)
	// Spec is the site's file, State what the quorum remembers.
	Spec() fleet.Spec
	State() fleet.State
	// Kept is what is kept for this API, Keep changes it: change is called with what is kept,
	// again if somebody else changed it meanwhile; its error is returned and nothing kept.
	Kept(ctx context.Context) (fleet.Masakari, error)
	Keep(ctx context.Context, change func(*fleet.Masakari) error) error
	// Wish, Unwish and Events are those of api.Backend, Tell puts what somebody did into history.
	Wish(ctx context.Context, w fleet.Wish) error
	Unwish(ctx context.Context, id, by string) error
	Tell(ctx context.Context, by, about, what string) error
	Events(ctx context.Context, after string, limit int) ([]fleet.Event, error)
}

type server struct {
	Backend
	log *slog.Logger
	now func() time.Time
}

// request is one of a caller who may ask.
type request struct {
	*http.Request
	minor int // microversion 1.minor
	by    string
}

// object is a JSON object.
type object = map[string]any

// deed carries out a request and returns the answer's body; nil: it has none.
type deed func(r *request) (any, error)

// Name is the Server that answers, by which `mainstay check` tells it from Masakari's own.
const Name = "mainstay"

// Handler serves b.
func Handler(b Backend, log *slog.Logger, now func() time.Time) http.Handler {
	s := &server{Backend: b, log: log, now: now}
	mux := http.NewServeMux()
	for pattern, f := range map[string]struct {
		status int
		do     deed
	}{
		"GET /v1/segments":                           {200, s.listSegments},
		"POST /v1/segments":                          {201, s.createSegment},
		"GET /v1/segments/{segment}":                 {200, s.showSegment},
		"PUT /v1/segments/{segment}":                 {200, s.updateSegment},
		"DELETE /v1/segments/{segment}":              {204, s.deleteSegment},
		"GET /v1/segments/{segment}/hosts":           {200, s.listHosts},
		"POST /v1/segments/{segment}/hosts":          {201, s.createHost},
		"GET /v1/segments/{segment}/hosts/{host}":    {200, s.showHost},
		"PUT /v1/segments/{segment}/hosts/{host}":    {200, s.updateHost},
		"DELETE /v1/segments/{segment}/hosts/{host}": {204, s.deleteHost},
		"GET /v1/notifications":                      {200, s.listNotifications},
		"POST /v1/notifications":                     {202, s.createNotification},
		"GET /v1/notifications/{id}":                 {200, s.showNotification},
		"GET /v1/notifications/{id}/vmoves":          {200, s.listMoves},
		"GET /v1/notifications/{id}/vmoves/{move}":   {200, s.showMove},
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, f.status, f.do) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", Name)
		switch r.URL.Path {
		case "", "/":
			send(w, 200, object{"versions": []object{version(r)}})
			return
		case "/v1", "/v1/":
			v := version(r)
			v["media-types"] = []object{{"base": "application/json", "type": "application/vnd.openstack.masakari+json;version=1"}}
			send(w, 200, object{"version": v})
			return
		}
		r = withoutProject(r)
		if _, pattern := mux.Handler(r); pattern == "" {
			complain(w, &fault{404, "The resource could not be found."})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// version is what is served, for whoever looks for it.
func version(r *http.Request) object {
	scheme := "http"
	if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		scheme = "https"
	}
	return object{"id": "v1.0", "status": "CURRENT", "version": fmt.Sprintf("1.%d", newest), "min_version": "1.0", "updated": "2016-07-01T11:33:21Z",
		"links": []object{{"rel": "self", "href": scheme + "://" + r.Host + "/v1/"}, {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"}}}
}

// project is a project's id, which may stand in an endpoint's path, as in ".../v1/%(project_id)s".
var project = regexp.MustCompile("^[0-9a-f-]+$")

func withoutProject(r *http.Request) *http.Request {
	rest, found := strings.CutPrefix(r.URL.Path, "/v1/")
	id, path, more := strings.Cut(rest, "/")
	if !found || !more || !project.MatchString(id) {
		return r
	}
	r = r.Clone(r.Context())
	r.URL.Path, r.URL.RawPath = "/v1/"+path, ""
	return r
}

// fault is an answer that is no success, with its reason for the caller.
type fault struct {
	status int
	words  string
}

func (f *fault) Error() string { return f.words }

func refuse(status int, format string, args ...any) error {
	return &fault{status, fmt.Sprintf(format, args...)}
}

// faults are the names that Masakari gives them.
var faults = map[int]string{
	400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound", 409: "conflictingRequest", 413: "overLimit", 503: "serviceUnavailable",
}

const versionHeader = "OpenStack-API-Version"

// serve finds out who asks and in which microversion, and answers.
func (s *server) serve(w http.ResponseWriter, r *http.Request, status int, do deed) {
	q := &request{Request: r}
	w.Header().Add("Vary", versionHeader)
	body, err := func() (any, error) {
		caller, err := s.admit(r)
		if err != nil {
			return nil, err
		}
		q.by = strings.Trim(strconv.Quote(caller.User), `"`) + " by Masakari's API" // history is read on terminals
		if q.minor, err = microversion(r.Header); err != nil {
			return nil, err
		}
		w.Header().Set(versionHeader, fmt.Sprintf("instance-ha 1.%d", q.minor))
		r.Body = http.MaxBytesReader(w, r.Body, 114688) // Masakari's own bound
		return do(q)
	}()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if body == nil {
		w.WriteHeader(status)
		return
	}
	send(w, status, body)
}

// admit lets in who shows a token with the role admin.
func (s *server) admit(r *http.Request) (openstack.Caller, error) {
	token := r.Header.Get("X-Auth-Token")
	if token == "" {
		return openstack.Caller{}, openstack.ErrToken
	}
	caller, err := s.Caller(r.Context(), token)
	if errors.Is(err, openstack.ErrToken) {
		return caller, err
	}
	if err != nil {
		s.log.Warn("Masakari's API: nobody can be let in", "error", err)
		return caller, refuse(503, "The Keystone service is temporarily unavailable.")
	}
	if !slices.ContainsFunc(caller.Roles, func(role string) bool { return strings.EqualFold(role, "admin") }) {
		return caller, refuse(403, "Policy doesn't allow os_masakari_api to be performed: it needs the role admin.")
	}
	return caller, nil
}

// fail answers with an error.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, openstack.ErrToken) {
		w.Header().Set("WWW-Authenticate", "Keystone")
		send(w, 401, object{"error": object{"code": 401, "title": "Unauthorized", "message": "The request you have made requires authentication."}})
		return
	}
	f, known := errors.AsType[*fault](err)
	refusal, refused := errors.AsType[*api.Refusal](err)
	switch {
	case known:
	case refused: // what a person would be told who asked for the same
		f = &fault{refusal.Code, refusal.Error()}
		if refusal.Help != "" {
			f.words += " (" + refusal.Help + ")"
		}
	default:
		if r.Context().Err() == nil {
			s.log.Warn("Masakari's API: request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		}
		f = &fault{503, err.Error()} // the store, which has no leader at present
	}
	complain(w, f)
}

func complain(w http.ResponseWriter, f *fault) {
	name := faults[f.status]
	if name == "" {
		name = "masakariFault"
	}
	if f.status == 503 {
		w.Header().Set("Retry-After", "5")
	}
	send(w, f.status, object{name: object{"code": f.status, "message": f.words}})
}

func send(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // who left is not told
}

// microversion is the one that is asked for: "OpenStack-API-Version: instance-ha 1.2", of
// several services perhaps.
func microversion(h http.Header) (int, error) {
	for _, line := range h.Values(versionHeader) {
		for part := range strings.SplitSeq(line, ",") {
			words := strings.Fields(part)
			if len(words) != 2 || !strings.EqualFold(words[0], "instance-ha") {
				continue
			}
			if words[1] == "latest" {
				return newest, nil
			}
			major, minor, _ := strings.Cut(words[1], ".")
			n, err := strconv.Atoi(minor)
			if _, no := strconv.Atoi(major); err != nil || no != nil || n < 0 {
				return 0, refuse(400, "API Version String %s is of invalid format. Must be of format MajorNum.MinorNum.", words[1])
			}
			if major != "1" || n > newest {
				return 0, refuse(406, "Version %s is not supported by the API. Minimum is 1.0 and maximum is 1.%d.", words[1], newest)
			}
			return n, nil
		}
	}
	return 0, nil
}

// read takes the one object of that name from the body, with no other keys than those given.
func (r *request) read(name string, keys ...string) (object, error) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, refuse(413, "Request is too large.")
	}
	var all map[string]object
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, refuse(400, "Malformed request body: %v", err)
	}
	o, has := all[name]
	if !has || len(all) != 1 || o == nil {
		return nil, refuse(400, "Invalid input for field/attribute %s. It must be the one object of the body.", name)
	}
	for _, key := range fleet.Sorted(o) {
		if !slices.Contains(keys, key) {
			return nil, refuse(400, "Invalid input for field/attribute %s. Additional properties are not allowed ('%s' was unexpected)", name, key)
		}
	}
	return o, nil
}

// text is a string of an object; had says whether it is there. One that is null is as none.
func text(o object, key string, most int) (s string, had bool, err error) {
	v, had := o[key]
	if !had || v == nil {
		return "", false, nil
	}
	s, ok := v.(string)
	if !ok || most > 0 && len([]rune(s)) > most {
		return "", true, refuse(400, "Invalid input for field/attribute %s. Value: %.300v. It is no string of at most %d characters.", key, v, most)
	}
	return s, true, nil
}

// name is a text that must be there, and begin and end with a character that can be seen.
func name(o object, key string) (string, error) {
	s, had, err := text(o, key, 255)
	if err == nil && (!had || s == "" || s != strings.TrimSpace(s)) {
		err = refuse(400, "Invalid input for field/attribute %s. Value: %q. It must have 1 to 255 characters, and no space at its ends.", key, s)
	}
	return s, err
}

// truth is a boolean of an object, in one of the ways in which Masakari takes it.
func truth(o object, key string) (b, had bool, err error) {
	switch v := o[key].(type) {
	case nil:
		return false, false, nil
	case bool:
		return v, true, nil
	case string:
		if b, err := truthOf(v); err == nil {
			return b, true, nil
		}
	}
	return false, true, refuse(400, "Invalid input for field/attribute %s. Value: %.300v. It is no boolean.", key, o[key])
}

func truthOf(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "1", "on", "yes", "t", "y":
		return true, nil
	case "false", "0", "off", "no", "f", "n":
		return false, nil
	}
	return false, refuse(400, "Unrecognized value '%.300s', acceptable values are: true, false", s)
}
