package fleet

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// State is what the quorum remembers. It is changed only by Records, each of
// which names one key; the store keeps the same keys below its own prefix.
type State struct {
	Epoch    uint64             `json:"epoch"`
	Leader   string             `json:"leader"`
	Spec     json.RawMessage    `json:"-"`
	Members  map[string]Member  `json:"members,omitempty"`
	Holdings map[string]Holding `json:"holdings,omitempty"`
	Proofs   map[string]Proof   `json:"proofs,omitempty"`  // by host
	Intents  map[string]Intent  `json:"intents,omitempty"` // by host
	Wishes   map[string]Wish    `json:"wishes,omitempty"`  // by id
	// Writers is, by face of a service, the host whose copy takes all writes. It is a
	// preference, not a right: two writers for a moment cost only retries.
	Writers map[string]string `json:"writers,omitempty"`
	// Spread is, by service, since when all its copies have been ready while one of its
	// writers is elsewhere than where they are spread to.
	Spread map[string]time.Time `json:"spread,omitempty"`
	// Bootstraps are, by service, who may begin a cluster that has lost all members.
	Bootstraps map[string]Bootstrap `json:"bootstraps,omitempty"`
	// Lags are, by SERVICE@HOST, the copies that lack what another was given leave to write
	// without them.
	Lags map[string]Lag `json:"lags,omitempty"`
	// Evacuations are, by server, those under way, and those of hosts that are not back yet.
	Evacuations map[string]Evacuation `json:"evacuations,omitempty"`
	// Departures are, by server, those that leave a compute that lives, or did or could not.
	Departures map[string]Departure `json:"departures,omitempty"`
	// Cutoffs are, by host, the networks that computes lost.
	Cutoffs map[string]Cutoff `json:"cutoffs,omitempty"`
	// Revivals are, by server, those of crashed servers, kept for an hour after the crash.
	Revivals map[string]Revival `json:"revivals,omitempty"`
	// Ailments are, by host, what is wrong with computes that live.
	Ailments map[string]Ailment `json:"ailments,omitempty"`
	// Groups are, by PROJECT/NAME, the restart groups that are waited for, and Reserves, by
	// host, the computes of the reserve that are in use.
	Groups   map[string]RestartGroup `json:"groups,omitempty"`
	Reserves map[string]Reserve      `json:"reserves,omitempty"`
	// Snapshots are, by server, those that are made; Returns, by host, the computes that are
	// waited for because the disks of their servers are on them.
	Snapshots map[string]Snapshot `json:"snapshots,omitempty"`
	Returns   map[string]Return   `json:"returns,omitempty"`
	// Displaced are, by server, those that were taken from a compute which is back.
	Displaced map[string]Displaced `json:"displaced,omitempty"`
	// Regained are, by host, computes to which such servers went back within the last day.
	Regained map[string]Regained `json:"regained,omitempty"`
	// Pair is what the voters of a site of two have agreed on.
	Pair Pair `json:"pair,omitzero"`
}

// Bootstrap is the recorded right of one boot of one host to begin a cluster whose
// members are all down, as its first one. It is good for one try: the host gives the
// generation up before it starts. Without a host nobody has it.
type Bootstrap struct {
	Service    string `json:"service"`
	Generation uint64 `json:"generation"`
	Host       string `json:"host,omitempty"`
	Boot       string `json:"boot,omitempty"`
	Why        string `json:"why,omitempty"`
	// Since is when all members that can go on by themselves were there.
	Since time.Time `json:"since,omitzero"`
	At    time.Time `json:"at,omitzero"`
	// Without are the hosts whose members' data were given up when the cluster was begun.
	// It outlives the beginning: each stays here until it has a whole copy of the others'.
	Without map[string]LeftOut `json:"without,omitempty"`
}

// LeftOut is that a cluster was begun without what one of its members has: from then on
// the member's data are a branch of the history that is given up.
type LeftOut struct {
	At time.Time `json:"at"` // by the leader's clock; it names the word under which the data go
	// Boot of its host that was proved off then; empty: the host was heard.
	Boot string `json:"boot,omitempty"`
}

// Mark is the name under which the data are given up, once.
func (l LeftOut) Mark() string { return l.At.UTC().Format(time.RFC3339Nano) }

// Member is a host that has joined. Only its admitted boot may be given rights.
type Member struct {
	Host     string `json:"host"`
	Admitted string `json:"admitted,omitempty"` // boot; empty: none
	// Barred is why no boot is admitted at present; empty: it may be.
	Barred string `json:"barred,omitempty"`
	UUID   string `json:"uuid,omitempty"` // as the host reported it while healthy
	// Fenced is when a boot of it was proved off by a fence within the last hour: a loop ends
	// after three.
	Fenced []time.Time `json:"fenced,omitempty"`
	// Tried is how often the fence of one boot was tried.
	Tried  Tries  `json:"tried,omitzero"`
	Serial string `json:"serial,omitempty"` // of its certificate
	// Left is the farewell of its last boot, until that is heard again or another is
	// admitted.
	Left *Farewell `json:"left,omitempty"`
}

// Tries counts the tries to fence one boot, proved or not: each has a number of its own, and
// takes the next level. With another boot they begin anew.
type Tries struct {
	Boot  string `json:"boot"`
	Count int    `json:"count"`
}

// Of is how often that boot was tried.
func (t Tries) Of(boot string) int {
	if t.Boot != boot {
		return 0
	}
	return t.Count
}

// Farewell is how a host went silent in good order.
type Farewell struct {
	Boot string `json:"boot"`
	// Down: the host shut down; otherwise only its agent was stopped.
	Down bool      `json:"down,omitempty"`
	At   time.Time `json:"at"`
}

// Holding is the recorded right to an exclusive thing. Each change of hands
// raises Generation.
type Holding struct {
	Thing      string `json:"thing"`
	Host       string `json:"host"`
	Boot       string `json:"boot"`
	Stint      uint64 `json:"stint"`
	Generation uint64 `json:"generation"`
	// From is the stint that held it before, Why the evidence that it had ended.
	From Stint     `json:"from,omitzero"`
	Why  string    `json:"why"`
	At   time.Time `json:"at"`
	// Unguarded: found or made permanent; only the holder's word or a proof frees it.
	Unguarded bool `json:"unguarded,omitempty"`
	// Blocked: OnFailure said block; a person must release it.
	Blocked string `json:"blocked,omitempty"`
	// Watchdog is the time-out of the holder's watchdog, by its own report: it stands
	// surety for this holding. Zero: none does, and no silence proves anything.
	Watchdog time.Duration `json:"watchdog,omitempty"`
}

// Holder is the stint that holds it.
func (h Holding) Holder() Stint { return Stint{Host: h.Host, Boot: h.Boot, N: h.Stint} }

// Proof says that one boot of a host is dead, with the evidence.
type Proof struct {
	Host string `json:"host"`
	Boot string `json:"boot"`
	// Kind is "fence" (the BMC said off twice), "reboot" (a later boot of the
	// same host spoke), "watchdog", "kdump" (its crash kernel spoke) or "oath" (a person).
	Kind      string    `json:"kind"`
	Evidence  string    `json:"evidence"`
	Level     int       `json:"level,omitempty"` // of the host's fence that proved, counted from 0
	By        string    `json:"by"`
	At        time.Time `json:"at"`
	Confirmed uint64    `json:"confirmed,omitempty"` // the highest generation for which off was asked again
}

// Intent is an open decision to fence: whoever leads next goes on with it, or waits it out.
type Intent struct {
	Host     string    `json:"host"`
	Boot     string    `json:"boot"`
	Device   string    `json:"device"`
	Level    int       `json:"level,omitempty"` // of the host's fence, counted from 0
	Executor string    `json:"executor"`
	Epoch    uint64    `json:"epoch"`
	At       time.Time `json:"at"`
	// Lasts bounds the deed; a new leader counts it from its own start.
	Lasts time.Duration `json:"lasts"`
	// Loose says that nobody knows what came of an earlier try, by another level or by a former
	// leader: it may act as long as this one, and so long the intent is open, whatever this one proves.
	Loose bool `json:"loose,omitempty"`
	// Proved says that this try has given its proof, and the intent is open for an earlier one.
	Proved bool `json:"proved,omitempty"`
}

// Wish is what a person asked for.
type Wish struct {
	ID    string    `json:"id"`
	Verb  string    `json:"verb"` // "maintenance", "move", "oath", "reset", "without", "copy", "stop", "restart", "disarm", or "deed"
	Host  string    `json:"host,omitempty"`
	Thing string    `json:"thing,omitempty"`
	To    string    `json:"to,omitempty"`
	Boot  string    `json:"boot,omitempty"`
	Why   string    `json:"why,omitempty"`
	By    string    `json:"by"`
	At    time.Time `json:"at"`
	Done  []string  `json:"done,omitempty"` // of restart: the hosts that are over
	// Upgrade, of restart: with the newest packages. Stuck says on which host they could not
	// be put in, and why: nothing goes on then.
	Upgrade bool   `json:"upgrade,omitempty"`
	Stuck   string `json:"stuck,omitempty"`
	// Drain, of maintenance: the servers of a compute are live-migrated to others.
	Drain bool `json:"drain,omitempty"`
}

// Deed returns the record of something that a person does beside the plan (a new site
// file, a token, a change of the voters), by their name: about is what it concerns, what
// is told of it ("makes a join token"). It is a wish that nobody need fulfil: the leader
// tells it in history and takes it away, for only a leader writes history.
func Deed(by, about, what string, at time.Time) Record {
	key := fmt.Sprintf("%s%d", DeedKey, at.UnixNano())
	w := Wish{ID: strings.TrimPrefix(key, "wish/"), Verb: VerbDeed, Thing: about, Why: what, By: by, At: at}
	return Put(key, w, by+" "+what)
}

// VerbDeed is the verb of the wish that Deed makes, and DeedKey how its key begins.
const (
	VerbDeed = "deed"
	DeedKey  = "wish/deed-"
)

// Record is one change of State: Value replaces what is at Key; no Value
// removes it. Keys are "epoch", "spec", "member/HOST", "holding/KIND/NAME",
// "proof/HOST", "intent/HOST", "wish/ID", "writer/FACE", "spread/SERVICE", "bootstrap/SERVICE",
// "lag/SERVICE@HOST", "evacuation/SERVER", "departure/SERVER", "cutoff/HOST", "revival/SERVER",
// "ailment/HOST", "group/PROJECT/NAME", "reserve/HOST", "snapshot/SERVER", "return/HOST", "regained/HOST" and "pair".
type Record struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value,omitempty"`
	// Text says what the record means, for the event that tells it.
	Text    string   `json:"text,omitempty"`
	Because []string `json:"because,omitempty"`
}

// Put returns the record that sets key to value.
func Put(key string, value any, text string) Record {
	raw, err := json.Marshal(value)
	if err != nil { // our own plain values always marshal
		panic(fmt.Sprintf("fleet: record %s: %v", key, err))
	}
	return Record{Key: key, Value: raw, Text: text}
}

// Remove returns the record that removes key.
func Remove(key, text string) Record { return Record{Key: key, Text: text} }

// EpochValue is what stands at "epoch".
type EpochValue struct {
	Epoch  uint64 `json:"epoch"`
	Leader string `json:"leader"`
}

// Apply returns the state with the records applied; s is left as it was. An
// unknown key or an unreadable value is an error that names the key, and then
// nothing is applied.
func (s State) Apply(records ...Record) (State, error) {
	out := s.Clone()
	for _, r := range records {
		if err := out.apply(r); err != nil {
			return s, fmt.Errorf("apply record %s: %w", r.Key, err)
		}
	}
	return out, nil
}

// Clone returns a copy that shares no map with s.
func (s State) Clone() State {
	s.Members = maps.Clone(s.Members)
	s.Holdings = maps.Clone(s.Holdings)
	s.Proofs = maps.Clone(s.Proofs)
	s.Intents = maps.Clone(s.Intents)
	s.Wishes = maps.Clone(s.Wishes)
	s.Writers = maps.Clone(s.Writers)
	s.Spread = maps.Clone(s.Spread)
	s.Bootstraps = maps.Clone(s.Bootstraps)
	s.Lags = maps.Clone(s.Lags)
	s.Evacuations = maps.Clone(s.Evacuations)
	s.Departures = maps.Clone(s.Departures)
	s.Cutoffs = maps.Clone(s.Cutoffs)
	s.Revivals = maps.Clone(s.Revivals)
	s.Ailments = maps.Clone(s.Ailments)
	s.Groups = maps.Clone(s.Groups)
	s.Reserves = maps.Clone(s.Reserves)
	s.Snapshots = maps.Clone(s.Snapshots)
	s.Returns = maps.Clone(s.Returns)
	s.Displaced = maps.Clone(s.Displaced)
	s.Regained = maps.Clone(s.Regained)
	return s
}

func (s *State) apply(r Record) error {
	kind, name, _ := strings.Cut(r.Key, "/")
	switch kind {
	case "epoch":
		var v EpochValue
		if err := json.Unmarshal(r.Value, &v); err != nil {
			return err
		}
		s.Epoch, s.Leader = v.Epoch, v.Leader
		return nil
	case "spec":
		s.Spec = slices.Clone(r.Value)
		return nil
	case "pair":
		s.Pair = Pair{}
		if r.Value == nil {
			return nil
		}
		return json.Unmarshal(r.Value, &s.Pair)
	case "member":
		return set(&s.Members, name, r.Value)
	case "holding":
		return set(&s.Holdings, name, r.Value)
	case "proof":
		return set(&s.Proofs, name, r.Value)
	case "intent":
		return set(&s.Intents, name, r.Value)
	case "wish":
		return set(&s.Wishes, name, r.Value)
	case "writer":
		return set(&s.Writers, name, r.Value)
	case "spread":
		return set(&s.Spread, name, r.Value)
	case "bootstrap":
		return set(&s.Bootstraps, name, r.Value)
	case "lag":
		return set(&s.Lags, name, r.Value)
	case "evacuation":
		return set(&s.Evacuations, name, r.Value)
	case "departure":
		return set(&s.Departures, name, r.Value)
	case "cutoff":
		return set(&s.Cutoffs, name, r.Value)
	case "revival":
		return set(&s.Revivals, name, r.Value)
	case "ailment":
		return set(&s.Ailments, name, r.Value)
	case "group":
		return set(&s.Groups, name, r.Value)
	case "reserve":
		return set(&s.Reserves, name, r.Value)
	case "snapshot":
		return set(&s.Snapshots, name, r.Value)
	case "return":
		return set(&s.Returns, name, r.Value)
	case "displaced":
		return set(&s.Displaced, name, r.Value)
	case "regained":
		return set(&s.Regained, name, r.Value)
	}
	return fmt.Errorf("no such kind of record: %q", kind)
}

func set[T any](m *map[string]T, name string, raw json.RawMessage) error {
	if raw == nil {
		delete(*m, name)
		return nil
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	if *m == nil {
		*m = map[string]T{}
	}
	(*m)[name] = v
	return nil
}

// Sorted yields a map's keys in order: below the water line every walk over a
// map goes through it, so that equal Worlds give equal Plans.
func Sorted[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	keys := slices.AppendSeq(make([]string, 0, len(m)), maps.Keys(m))
	slices.Sort(keys)
	return keys
}
