package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
	"mainstay/trust"
)

// Backend is what the API serves: one running Mainstay. An error that a caller
// should see with another status than 500 is a *Refusal.
type Backend interface {
	Status(ctx context.Context, local bool) (Status, error)
	World(ctx context.Context) (WorldView, error)
	// Preview says what would become of the servers of computes if these died, Capacity
	// which losses can be borne. local: by the answering host alone, which must lead.
	Preview(ctx context.Context, hosts []string, local bool) (fleet.Preview, error)
	Capacity(ctx context.Context, local bool) (fleet.Capacity, error)
	// KeptWorld finds a World wherever it is kept, or here alone if local.
	KeptWorld(ctx context.Context, id string, local bool) (WorldView, error)
	Events(ctx context.Context, after string, limit int) ([]fleet.Event, error)
	Follow(ctx context.Context, after string) (<-chan fleet.Event, error)
	// Wish records what a person wants; Unwish takes it back.
	Wish(ctx context.Context, w fleet.Wish) error
	Unwish(ctx context.Context, id, by string) error
	// Apply checks a new site file on every host and brings it to all of them;
	// OfferSite takes it on this one.
	Apply(ctx context.Context, r ApplyRequest) (ApplyAnswer, error)
	OfferSite(ctx context.Context, o SiteOffer) error
	SiteFile(ctx context.Context) ([]byte, error)
	Token(ctx context.Context, by string, valid time.Duration) (string, error)
	// Operator tells history that a certificate is made for an operator.
	Operator(ctx context.Context, by string, r OperatorRequest) error
	Join(ctx context.Context, r JoinRequest) (JoinAnswer, error)
	Renew(ctx context.Context, host string, r JoinRequest) (JoinAnswer, error)
	// Voters replaces or removes a member of the store, or moves the lead.
	Voters(ctx context.Context, deed VoterDeed) (VoterAnswer, error)
	Backup(ctx context.Context, w http.ResponseWriter) error
	// Fences examines power switches without switching anything.
	Fences(ctx context.Context, r FenceRequest) ([]FenceExam, error)
	// Report takes a host's testimony; site is the version of its site file.
	Report(ctx context.Context, r fleet.Report, site string)
	Order(ctx context.Context, o fleet.Order) fleet.Effect
	// Neighbour is told that another host asks this one, at one of its own addresses.
	Neighbour(host string, local netip.Addr)
	// Part answers this host's kernel: nil is leave to write on without its peer.
	Part(ctx context.Context, r PartRequest) error
	// Pair answers the other voter of a site of two.
	Pair(ctx context.Context, host string, q PairAsk) (PairAnswer, error)
	// IsVoter says whether a host may give orders, MayAct whether root on it may do what
	// an operator may: another host may only look.
	IsVoter(host string) bool
	MayAct(host string) bool
	Metrics() http.Handler
}

// VoterDeed changes the list of voters by one.
type VoterDeed struct {
	Do   string `json:"do"` // "remove", "replace", "lead" (move the lead to Host)
	Host string `json:"host"`
	Dead string `json:"dead,omitempty"` // of replace
	By   string `json:"by"`
}

// VoterAnswer tells what was done. Token is, after "replace", what the new voter
// joins with.
type VoterAnswer struct {
	Text  string `json:"text"`
	Token string `json:"token,omitempty"`
}

// PairAsk is what one voter of a site of two asks of the other.
type PairAsk struct {
	Do string `json:"do"`
	// Boot is the asking host's.
	Boot string `json:"boot"`
}

// What one of a pair may ask of the other.
const (
	PairTell  = "tell"  // its word about itself
	PairPlace = "place" // a place in its store, as a learner
	PairLeave = "leave" // to go on alone, for the asking host leaves in good order
	PairQuit  = "quit"  // to do so by that word alone: what both must commit could not be had in time
)

// PairAnswer is the other's word, and after PairPlace what the new member starts with.
type PairAnswer struct {
	Word    fleet.PairWord `json:"word"`
	Cluster string         `json:"cluster,omitempty"`
}

// Refusal is an error that the caller caused or must act on.
type Refusal struct {
	Code int
	Problem
}

func (r *Refusal) Error() string { return r.Problem.Error }

// Refuse makes a Refusal.
func Refuse(code int, help, format string, args ...any) error {
	return &Refusal{Code: code, Problem: Problem{Error: fmt.Sprintf(format, args...), Help: help}}
}

// Person is who calls: a host, an operator with a certificate, or root on this
// host.
type Person struct {
	Name string
	Host bool
	Role trust.Role // of operators
}

type personKey struct{}

// Handler serves b. Callers over TLS are known by their certificates; a
// connection over the Unix socket is root's, see ServeUnix.
func Handler(b Backend, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	read := func(pattern string, f func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, guard(log, func(p Person) bool { return p.Host || p.Role != "" }, f))
	}
	// A host without a store passes what its operator wants on to a voter, and a voter to
	// the one that leads.
	act := func(p Person) bool { return p.Role == trust.Operate || p.Host && b.MayAct(p.Name) }
	operate := func(pattern string, f func(w http.ResponseWriter, r *http.Request, who string) error) {
		mux.HandleFunc(pattern, guard(log, act, func(w http.ResponseWriter, r *http.Request) error {
			p, _ := r.Context().Value(personKey{}).(Person)
			if !p.Host {
				return f(w, r, p.Name)
			}
			who := "root"
			if name := r.Header.Get(personHeader); name != "" && len(name) < 64 {
				who = name
			}
			return f(w, r, who+" on "+p.Name)
		}))
	}
	host := func(pattern string, f func(http.ResponseWriter, *http.Request, Person) error) {
		mux.HandleFunc(pattern, guard(log, func(p Person) bool { return p.Host }, func(w http.ResponseWriter, r *http.Request) error {
			p, _ := r.Context().Value(personKey{}).(Person)
			return f(w, r, p)
		}))
	}
	read("GET /v1/status", func(w http.ResponseWriter, r *http.Request) error {
		s, err := b.Status(r.Context(), r.URL.Query().Has("local"))
		return answer(w, s, err)
	})
	read("GET /v1/world", func(w http.ResponseWriter, r *http.Request) error {
		v, err := b.World(r.Context())
		return answer(w, v, err)
	})
	read("GET /v1/preview", func(w http.ResponseWriter, r *http.Request) error {
		v, err := b.Preview(r.Context(), r.URL.Query()["host"], r.URL.Query().Has("local"))
		return answer(w, v, err)
	})
	read("GET /v1/capacity", func(w http.ResponseWriter, r *http.Request) error {
		v, err := b.Capacity(r.Context(), r.URL.Query().Has("local"))
		return answer(w, v, err)
	})
	read("GET /v1/worlds/{id}", func(w http.ResponseWriter, r *http.Request) error {
		v, err := b.KeptWorld(r.Context(), r.PathValue("id"), r.URL.Query().Has("local"))
		return answer(w, v, err)
	})
	read("GET /v1/events", func(w http.ResponseWriter, r *http.Request) error { return events(w, r, b) })
	read("GET /v1/why/{subject...}", func(w http.ResponseWriter, r *http.Request) error {
		all, err := b.Events(r.Context(), "", 0)
		if err != nil {
			return err
		}
		links := Why(all, r.PathValue("subject"))
		if len(links) == 0 {
			return Refuse(http.StatusNotFound, "mainstay events; mainstay status", "nothing is told of %q", r.PathValue("subject"))
		}
		return answer(w, links, nil)
	})
	read("GET /v1/site", func(w http.ResponseWriter, r *http.Request) error {
		text, err := b.SiteFile(r.Context())
		if err != nil {
			return err
		}
		// Who may only look is not told the tokens of the webhooks.
		if p, _ := r.Context().Value(personKey{}).(Person); p.Role == trust.Read {
			text = Redact(text)
		}
		w.Header().Set("Content-Type", "application/yaml")
		_, err = w.Write(text)
		return err
	})
	read("GET /metrics", func(w http.ResponseWriter, r *http.Request) error { b.Metrics().ServeHTTP(w, r); return nil })
	operate("POST /v1/wishes", func(w http.ResponseWriter, r *http.Request, who string) error {
		var wish fleet.Wish
		if err := decode(r, &wish); err != nil {
			return err
		}
		wish.By, wish.At = who, time.Now()
		return answer(w, wish, b.Wish(r.Context(), wish))
	})
	operate("DELETE /v1/wishes/{id}", func(w http.ResponseWriter, r *http.Request, who string) error {
		return answer(w, struct{}{}, b.Unwish(r.Context(), r.PathValue("id"), who))
	})
	operate("POST /v1/tokens", func(w http.ResponseWriter, r *http.Request, who string) error {
		var t TokenRequest
		if err := decode(r, &t); err != nil {
			return err
		}
		token, err := b.Token(r.Context(), who, t.Valid)
		return answer(w, map[string]string{"token": token}, err)
	})
	operate("POST /v1/operators", func(w http.ResponseWriter, r *http.Request, who string) error {
		var o OperatorRequest
		if err := decode(r, &o); err != nil {
			return err
		}
		return answer(w, struct{}{}, b.Operator(r.Context(), who, o))
	})
	operate("POST /v1/fences", func(w http.ResponseWriter, r *http.Request, _ string) error {
		var ask FenceRequest
		if err := decode(r, &ask); err != nil {
			return err
		}
		found, err := b.Fences(r.Context(), ask)
		return answer(w, found, err)
	})
	operate("POST /v1/part", func(w http.ResponseWriter, r *http.Request, _ string) error {
		if r.TLS != nil {
			return Refuse(http.StatusForbidden, "", "only the host itself asks for its kernel")
		}
		var q PartRequest
		if err := decode(r, &q); err != nil {
			return err
		}
		return answer(w, struct{}{}, b.Part(r.Context(), q))
	})
	operate("POST /v1/voters", func(w http.ResponseWriter, r *http.Request, who string) error {
		var d VoterDeed
		if err := decode(r, &d); err != nil {
			return err
		}
		d.By = behalf(r, d.By, who)
		a, err := b.Voters(r.Context(), d)
		return answer(w, a, err)
	})
	operate("POST /v1/site", func(w http.ResponseWriter, r *http.Request, who string) error {
		var q ApplyRequest
		if err := decode(r, &q); err != nil {
			return err
		}
		q.By = behalf(r, q.By, who)
		a, err := b.Apply(r.Context(), q)
		return answer(w, a, err)
	})
	host("POST /v1/host/site", func(w http.ResponseWriter, r *http.Request, p Person) error {
		if !b.IsVoter(p.Name) {
			return Refuse(http.StatusForbidden, "", "%s is no voter and brings no site file", p.Name)
		}
		var o SiteOffer
		if err := decode(r, &o); err != nil {
			return err
		}
		return answer(w, struct{}{}, b.OfferSite(r.Context(), o))
	})
	operate("GET /v1/backup", func(w http.ResponseWriter, r *http.Request, _ string) error {
		w.Header().Set("Content-Type", "application/octet-stream")
		return b.Backup(r.Context(), w)
	})
	host("POST /v1/host/report", func(w http.ResponseWriter, r *http.Request, p Person) error {
		var report fleet.Report
		if err := decode(r, &report); err != nil {
			return err
		}
		if report.Host != p.Name {
			return Refuse(http.StatusForbidden, "", "%s may not report for %s", p.Name, report.Host)
		}
		b.Report(r.Context(), report, r.URL.Query().Get("site"))
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	host("POST /v1/host/order", func(w http.ResponseWriter, r *http.Request, p Person) error {
		if !b.IsVoter(p.Name) {
			return Refuse(http.StatusForbidden, "", "%s is no voter and gives no orders", p.Name)
		}
		var o fleet.Order
		if err := decode(r, &o); err != nil {
			return err
		}
		return answer(w, b.Order(r.Context(), o), nil)
	})
	host("POST /v1/host/neighbour", func(w http.ResponseWriter, r *http.Request, p Person) error {
		at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		if !ok {
			return Refuse(http.StatusForbidden, "", "only another host asks over a network")
		}
		b.Neighbour(p.Name, at.AddrPort().Addr().Unmap())
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	host("POST /v1/host/pair", func(w http.ResponseWriter, r *http.Request, p Person) error {
		var q PairAsk
		if err := decode(r, &q); err != nil {
			return err
		}
		a, err := b.Pair(r.Context(), p.Name, q)
		return answer(w, a, err)
	})
	host("POST /v1/host/renew", func(w http.ResponseWriter, r *http.Request, p Person) error {
		var j JoinRequest
		if err := decode(r, &j); err != nil {
			return err
		}
		a, err := b.Renew(r.Context(), p.Name, j)
		return answer(w, a, err)
	})
	// The token is the caller's identity here; no certificate is asked for.
	mux.HandleFunc("POST /v1/join", guard(log, func(Person) bool { return true }, func(w http.ResponseWriter, r *http.Request) error {
		var j JoinRequest
		if err := decode(r, &j); err != nil {
			return err
		}
		a, err := b.Join(r.Context(), j)
		return answer(w, a, err)
	}))
	return mux
}

// behalf is whose deed it is: of what a host passes on, the person whom it names.
func behalf(r *http.Request, named, who string) string {
	if p, _ := r.Context().Value(personKey{}).(Person); p.Host && named != "" {
		return named
	}
	return who
}

// guard finds out who calls, refuses who may not, and turns errors into answers.
func guard(log *slog.Logger, may func(Person) bool, f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p, ok := r.Context().Value(personKey{}).(Person)
		if !ok && r.TLS != nil {
			if id, err := trust.Peer(*r.TLS); err == nil {
				p = Person{Name: id.Name, Host: id.Kind == trust.KindHost, Role: id.Role}
			}
		}
		err := Refuse(http.StatusForbidden, "root on a voter or a controller may do everything; remote operators need a certificate with the role operate",
			"%s may not %s %s", orNobody(p.Name), r.Method, r.URL.Path)
		if may(p) {
			err = f(w, r.WithContext(context.WithValue(r.Context(), personKey{}, p)))
		}
		if err == nil {
			return
		}
		var refusal *Refusal
		if !errors.As(err, &refusal) {
			refusal = &Refusal{Code: http.StatusInternalServerError, Problem: Problem{Error: err.Error()}}
			if errors.Is(err, context.DeadlineExceeded) {
				refusal.Code = http.StatusGatewayTimeout
			}
		}
		if r.Context().Err() == nil && refusal.Code >= 500 {
			log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "by", p.Name, "error", err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(refusal.Code)
		_ = json.NewEncoder(w).Encode(refusal.Problem) // the caller may be gone
	}
}

func orNobody(name string) string {
	if name == "" {
		return "a caller without a certificate"
	}
	return name
}

func answer(w http.ResponseWriter, v any, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the caller may be gone
	return nil
}

const maxBody = 8 << 20

func body(r *http.Request) ([]byte, error) {
	var buf strings.Builder
	n, err := copyBounded(&buf, r)
	if err != nil {
		return nil, Refuse(http.StatusBadRequest, "", "read the request: %v (%d bytes came)", err, n)
	}
	return []byte(buf.String()), nil
}

func decode(r *http.Request, v any) error {
	text, err := body(r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return Refuse(http.StatusBadRequest, "", "%s %s: %v", r.Method, r.URL.Path, err)
	}
	return nil
}

// events answers with history, or follows it as server-sent events.
func events(w http.ResponseWriter, r *http.Request, b Backend) error {
	q := r.URL.Query()
	after := q.Get("after")
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		after = id
	}
	limit := 0
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return Refuse(http.StatusBadRequest, "", "limit %q: want a number from 1 on", s)
		}
		limit = n
	}
	if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		list, err := b.Events(r.Context(), after, limit)
		if list == nil {
			list = []fleet.Event{}
		}
		return answer(w, list, err)
	}
	stream, err := b.Follow(r.Context(), after)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	alive := time.NewTicker(15 * time.Second)
	defer alive.Stop()
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-alive.C:
			fmt.Fprint(w, ": alive\n\n")
		case e, ok := <-stream:
			if !ok {
				return nil
			}
			raw, err := json.Marshal(e)
			if err != nil {
				return fmt.Errorf("event %s: %w", e.ID, err)
			}
			fmt.Fprintf(w, "id: %s\nevent: %s\ndata: %s\n\n", e.ID, e.Kind, raw)
		}
		if err := flush.Flush(); err != nil {
			return nil // the reader is gone
		}
	}
}

// UnixContext names who is behind a connection to the Unix socket: the kernel
// says which user it is. Only root gets in, by the socket's mode; the name of
// the person behind sudo is taken from the header that the command line sends.
func UnixContext(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	uid := -1
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = int(cred.Uid)
		}
	})
	if uid != 0 {
		return ctx
	}
	return context.WithValue(ctx, personKey{}, Person{Name: "root", Role: trust.Operate})
}

// Named lets root say which person acts, as sudo knows it.
func Named(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := r.Context().Value(personKey{}).(Person); ok && p.Name == "root" {
			if name := r.Header.Get(personHeader); name != "" && len(name) < 64 {
				p.Name = name + " (root)"
				r = r.WithContext(context.WithValue(r.Context(), personKey{}, p))
			}
		}
		next.ServeHTTP(w, r)
	})
}

const personHeader = "Mainstay-Person"
