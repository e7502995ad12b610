// Package api is how everybody talks to Mainstay: operators, dashboards and the
// hosts among themselves. It is HTTP with JSON, over mutual TLS on port 7401 and
// over a Unix socket for root; the command line uses nothing else.
//
//	GET    /v1/status          what is true now; ?local: what the answering host alone knows
//	GET    /v1/events?after=ID history; Accept: text/event-stream follows it
//	GET    /v1/why/SUBJECT     from an event, a thing, a host or a service back to what was seen
//	GET    /v1/world           the newest World and Plan of the leader
//	GET    /v1/worlds/ID       a World that was kept for replay; ?local: on the answering host
//	GET    /v1/preview?host=n1 what would become of the servers of computes that died now
//	GET    /v1/capacity        which losses of computes can be borne
//	GET    /v1/site            the site's file as the answering host has it
//	GET    /metrics            for Prometheus
//
// Who may look may do these: each host, and operators with the role read. The rest is
// for root on a voter or a controller, and for operators with the role operate:
//
//	POST   /v1/wishes          maintenance, move, stop, restart, disarm, oath, without, copy
//	DELETE /v1/wishes/ID       take one back; of a move, ID may be move-THING
//	POST   /v1/site            a new site file for all hosts, or a preview of it
//	POST   /v1/voters          replace or remove a member of the store, or move the lead
//	POST   /v1/tokens          a token with which one host may join
//	POST   /v1/operators       tells history of a certificate that is made for an operator
//	POST   /v1/fences          asks the hosts' power switches how they are; switches nothing
//	GET    /v1/backup          all that the store remembers
//
// For root on the host itself alone, over its Unix socket:
//
//	POST   /v1/part            DRBD's question whether it may write on without its peer; no answer is none
//
// Hosts among themselves:
//
//	POST   /v1/host/report     a host's testimony about itself
//	POST   /v1/host/renew      a certificate for one that is still good
//	POST   /v1/host/order      a leader's order (voters only)
//	POST   /v1/host/site       the leader brings a host the site's file (voters only)
//	POST   /v1/join            a token for a certificate; the token is the caller's identity
//
// # The event stream
//
// Events come in the order of their ids, each at least once; a reader that
// reconnects sends the last id it has seen and misses nothing that history still
// holds. An event is told only after it was committed.
package api

import (
	"maps"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/trust"
)

// Port of the API.
const Port = 7401

// Status is what an operator wants to see first.
type Status struct {
	Site    string    `json:"site"`
	By      string    `json:"by"` // the host that answered
	Version string    `json:"version"`
	At      time.Time `json:"at"`
	// Leader is empty where none is known; Epoch is its epoch.
	Leader string `json:"leader"`
	Epoch  uint64 `json:"epoch"`
	Shadow bool   `json:"shadow,omitempty"`
	// View says whose eyes this is: "leader", or why it is only one host's own view.
	View     string          `json:"view"`
	Hosts    []HostStatus    `json:"hosts"`
	Holdings []HoldingStatus `json:"holdings"`
	Services []ServiceStatus `json:"services"`
	Waits    []fleet.Wait    `json:"waits,omitempty"`
	// Wishes are what people have asked for and nobody has taken back; a move that is
	// done is none any more.
	Wishes []fleet.Wish `json:"wishes,omitempty"`
	// Evacuations are the ways of servers from dead computes, those under way first.
	Evacuations []fleet.Evacuation `json:"evacuations,omitempty"`
	// Departures are those of servers that are live-migrated from computes that live.
	Departures []fleet.Departure `json:"departures,omitempty"`
	// Revivals are those of servers that crashed on computes that live.
	Revivals []fleet.Revival `json:"revivals,omitempty"`
	// Snapshots is how old those of the disks are that are on their hosts.
	Snapshots fleet.Tally `json:"snapshots,omitzero"`
	// Away is why OpenStack does not answer; "" if it does, or is not asked.
	Away string `json:"away,omitempty"`
	// Disarmed says who forbade all fencing and moving, and why; empty if nobody did.
	Disarmed string `json:"disarmed,omitempty"`
}

// HostStatus is one host.
type HostStatus struct {
	Name  string   `json:"name"`
	Roles []string `json:"roles"`
	Voter bool     `json:"voter"`
	// Store is its part in the store: "votes", "learns" (still catching up: it
	// counts for no majority), one of fleet's words for what is wrong with its member,
	// as StoreWhy explains, or nothing.
	Store     string          `json:"store,omitempty"`
	StoreWhy  string          `json:"store_why,omitempty"`
	Condition fleet.Condition `json:"condition"`
	Why       string          `json:"why"`
	Stint     fleet.Stint     `json:"stint"`
	Version   string          `json:"version,omitempty"`
	// Site says how its site file differs from the site's; empty if it does not.
	Site        string `json:"site,omitempty"`
	Barred      string `json:"barred,omitempty"`
	Maintenance string `json:"maintenance,omitempty"`
}

// HoldingStatus is one exclusive thing.
type HoldingStatus struct {
	Thing      string    `json:"thing"`
	Address    string    `json:"address,omitempty"`
	Host       string    `json:"host"`
	Generation uint64    `json:"generation"`
	Works      bool      `json:"works"` // the holder's own report shows it in effect
	Since      time.Time `json:"since"`
	Why        string    `json:"why"`
}

// ServiceStatus is one service and its copies by host.
type ServiceStatus struct {
	Name   string     `json:"name"`
	Mode   fleet.Mode `json:"mode"`
	Why    string     `json:"why"`
	Writer string     `json:"writer,omitempty"`
	// Writers are its further writers, by name.
	Writers map[string]string             `json:"writers,omitempty"`
	Copies  map[string]fleet.ServiceState `json:"copies"`
}

// ApplyRequest asks for a new site file.
type ApplyRequest struct {
	Text string `json:"text"`
	// Preview asks what it would change, and who would refuse it; nothing is changed.
	Preview bool   `json:"preview,omitempty"`
	By      string `json:"by,omitempty"`
}

// ApplyAnswer says what a new site file changes and where it has arrived.
type ApplyAnswer struct {
	Sum      string            `json:"sum"` // the file's version
	Changes  []string          `json:"changes"`
	Warnings []string          `json:"warnings,omitempty"`
	Hosts    map[string]string `json:"hosts"` // by host, what became of it there
}

// SiteOffer brings a host the site's file.
type SiteOffer struct {
	Text  string `json:"text"`
	By    string `json:"by"`
	Epoch uint64 `json:"epoch"`          // of the leader who brings it
	Only  string `json:"only,omitempty"` // "check": change nothing
}

// FenceRequest asks how the hosts' fences are.
type FenceRequest struct {
	Host  string `json:"host,omitempty"`  // empty: all hosts
	Local bool   `json:"local,omitempty"` // only as the voter sees them that is asked
}

// FenceExam is how one device of a host's fence answered one voter.
type FenceExam struct {
	By      string        `json:"by"` // the voter that asked
	Host    string        `json:"host,omitempty"`
	Level   int           `json:"level"` // counted from 1
	Device  string        `json:"device,omitempty"`
	Power   string        `json:"power,omitempty"`
	Machine string        `json:"machine,omitempty"` // whose machine it is
	Took    time.Duration `json:"took"`
	// Outcome and Error say why it would prove nothing; empty if it would.
	Outcome fleet.Outcome `json:"outcome,omitempty"`
	Error   string        `json:"error,omitempty"`
}

// PartRequest is the question of a host's kernel whether a resource may be written on,
// though the copy of its peer stays behind.
type PartRequest struct {
	Resource string `json:"resource"`
	Peer     string `json:"peer"`
}

// TokenRequest asks for a join token.
type TokenRequest struct {
	// Valid is how long it shall be good for; 0: a quarter of an hour.
	Valid time.Duration `json:"valid,omitempty"`
}

// OperatorRequest is what history is told of an operator's certificate.
type OperatorRequest struct {
	Name  string     `json:"name"`
	Role  trust.Role `json:"role"`
	Until time.Time  `json:"until"`
}

// JoinRequest asks for a certificate, with a one-time token's secret or, to
// renew, with the certificate that is still good.
type JoinRequest struct {
	Secret string `json:"secret,omitempty"`
	Host   string `json:"host"`
	CSR    string `json:"csr"` // PEM
}

// JoinAnswer is all that a new host needs.
type JoinAnswer struct {
	Grant trust.Grant `json:"grant"`
	Site  string      `json:"site"` // the site's file, as it stands
	// Cluster is, on a voter, the list of members to start its store with.
	Cluster string `json:"cluster,omitempty"`
}

// WorldView is a World and the Plan that it led to, as kept for replay.
type WorldView struct {
	ID    string      `json:"id,omitempty"`
	World fleet.World `json:"world"`
	Plan  fleet.Plan  `json:"plan"`
}

// Link is one step of the answer to "why": an event and what it rests on.
type Link struct {
	Depth int         `json:"depth"`
	Event fleet.Event `json:"event"`
}

// Problem is the body of every answer that is not 2xx.
type Problem struct {
	Error string `json:"error"`
	// Help is the command or the place to look, where there is one.
	Help string `json:"help,omitempty"`
}

// Why walks from a subject back to the observations behind it. subject is the id
// of an event, a thing ("address/internal"), a host ("host/c1" or "c1"), a service
// or one copy of it ("keystone", "keystone@c1"); of those the newest event about it
// is taken, and of a service the newest about it and about each of its copies, the
// newest first. events are in the order of their ids.
func Why(events []fleet.Event, subject string) []Link {
	byID := make(map[string]fleet.Event, len(events))
	newest := map[string]string{} // by what it is about
	name := strings.TrimPrefix(subject, "service/")
	for _, e := range events {
		byID[e.ID] = e
		of, _, copied := strings.Cut(e.About, "@")
		if e.ID == subject || e.About == subject || copied && of == name || slices.Contains([]string{"host/" + subject, "address/" + subject, "service/" + subject}, e.About) {
			newest[e.About] = e.ID
		}
	}
	starts := slices.Sorted(maps.Values(newest))
	slices.Reverse(starts)
	var out []Link
	seen := map[string]bool{}
	var walk func(id string, depth int)
	walk = func(id string, depth int) {
		e, ok := byID[id]
		if !ok || seen[id] || depth > 12 || len(out) >= 60 {
			return
		}
		seen[id] = true
		out = append(out, Link{Depth: depth, Event: e})
		for i := len(e.Because) - 1; i >= 0; i-- {
			walk(e.Because[i], depth+1)
		}
	}
	for _, start := range starts {
		walk(start, 0)
	}
	return out
}

// Ailing is one copy that should serve and does not.
type Ailing struct {
	Copy  string // "keystone@c1", as history and the command why call it
	State fleet.ServiceState
}

// Ailing lists the copies that should serve and do not: of an active/active service
// all, of an active/passive one its holder's, but none on a host that is in
// maintenance or gone.
func (s Status) Ailing() (out []Ailing) {
	spared, holders := map[string]bool{}, map[string]string{}
	for _, h := range s.Hosts {
		switch h.Condition {
		case fleet.Healthy, fleet.Degraded, fleet.Suspect:
			spared[h.Name] = h.Maintenance != ""
		default:
			spared[h.Name] = true
		}
	}
	for _, h := range s.Holdings {
		holders[h.Thing] = h.Host
	}
	for _, v := range s.Services {
		for _, host := range fleet.Sorted(v.Copies) {
			c := v.Copies[host]
			if c.Ready || spared[host] || v.Mode == fleet.ActivePassive && holders["service/"+v.Name] != host {
				continue
			}
			out = append(out, Ailing{Copy: v.Name + "@" + host, State: c})
		}
	}
	return out
}

// StatusOf puts a World into an operator's words. works says whether a holding
// is in effect by its holder's own report.
func StatusOf(w fleet.World, p fleet.Plan) Status {
	s := Status{Site: w.Spec.Site, At: w.Wall, Leader: w.State.Leader, Epoch: w.State.Epoch, Shadow: w.Spec.Mode == "shadow", Waits: p.Waits}
	for _, id := range fleet.Sorted(w.State.Wishes) {
		wish := w.State.Wishes[id]
		if wish.Verb == fleet.VerbDeed {
			continue // done already, and on its way into history
		}
		s.Wishes = append(s.Wishes, wish)
		if id == "disarm" {
			s.Disarmed = byWhom(wish)
		}
	}
	s.Away, s.Snapshots = w.Cloud.Away, w.Tally
	for _, over := range []bool{false, true} {
		for _, id := range fleet.Sorted(w.State.Evacuations) {
			if e := w.State.Evacuations[id]; (e.Ended != "") == over {
				s.Evacuations = append(s.Evacuations, e)
			}
		}
		for _, id := range fleet.Sorted(w.State.Departures) {
			if p := w.State.Departures[id]; (p.Ended != "") == over {
				s.Departures = append(s.Departures, p)
			}
		}
		for _, id := range fleet.Sorted(w.State.Revivals) {
			if r := w.State.Revivals[id]; (r.Ended != "") == over {
				s.Revivals = append(s.Revivals, r)
			}
		}
	}
	for _, h := range w.Spec.Hosts {
		v, m := w.Verdicts[h.Name], w.State.Members[h.Name]
		hs := HostStatus{
			Name: h.Name, Roles: h.Roles, Voter: h.Voter, Condition: v.Condition, Why: v.Why, Stint: v.Stint,
			Version: w.Reports[h.Name].Version, Barred: m.Barred,
		}
		if wish, ok := w.State.Wishes["maintenance-"+h.Name]; ok {
			hs.Maintenance = byWhom(wish)
		}
		if v.Condition == fleet.Healthy || v.Condition == fleet.Degraded { // else its word is an old one
			hs.Store, hs.StoreWhy = w.Reports[h.Name].Store.Phase, w.Reports[h.Name].Store.Why
		}
		s.Hosts = append(s.Hosts, hs)
	}
	for _, a := range w.Spec.Addresses {
		h := holdingStatus(w, a.Thing())
		h.Address = a.Addr.String()
		if h.Host != "" {
			got := w.Reports[h.Host].Addresses[a.Name]
			h.Works = got.Phase == fleet.Speaking && got.Generation == h.Generation
		}
		s.Holdings = append(s.Holdings, h)
	}
	for _, v := range w.Spec.Services {
		ss := ServiceStatus{Name: v.Name, Mode: v.Mode, Why: v.Why, Writer: w.State.Writers[v.Name], Copies: map[string]fleet.ServiceState{}}
		homes := w.Spec.Homes(v)
		for _, f := range v.Faces(homes) {
			if f.Writer == "" {
				continue
			}
			if ss.Writers == nil {
				ss.Writers = map[string]string{}
			}
			ss.Writers[f.Writer] = w.State.Writers[f.Name]
		}
		for _, host := range homes {
			c, ok := w.Reports[host].Services[v.Name]
			if !ok {
				c = fleet.ServiceState{Phase: fleet.Unknown, Why: "no report yet"}
			} else if cond := w.Verdicts[host].Condition; cond == fleet.Offline {
				c = fleet.ServiceState{Phase: fleet.Unknown, Why: "its host is offline: " + w.Verdicts[host].Why}
			} else if cond == fleet.Lapsed || cond == fleet.Dead || cond == fleet.Unheard {
				c = fleet.ServiceState{Phase: fleet.Unknown, Why: "its host is " + string(cond)}
			}
			ss.Copies[host] = c
		}
		s.Services = append(s.Services, ss)
		if v.Mode.Exclusive() {
			h := holdingStatus(w, v.Thing())
			if h.Host != "" {
				c := ss.Copies[h.Host]
				h.Works = c.Phase == fleet.Running && c.Generation == h.Generation && c.Role != fleet.RoleUnpromoted
			}
			s.Holdings = append(s.Holdings, h)
		}
	}
	return s
}

// byWhom says who wishes it, and why.
func byWhom(wish fleet.Wish) string {
	if wish.Why == "" {
		return wish.By
	}
	return wish.By + ": " + wish.Why
}

func holdingStatus(w fleet.World, thing string) HoldingStatus {
	h := w.State.Holdings[thing]
	return HoldingStatus{Thing: thing, Host: h.Host, Generation: h.Generation, Since: h.At, Why: h.Why}
}
