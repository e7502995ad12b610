package leader

import (
	"context"
	"reflect"
	"slices"
	"time"

	"mainstay/fleet"
)

// Clouds is what the leader needs of OpenStack.
type Clouds interface {
	// Look asks for all computes, all servers on the hosts, and further servers by id.
	// began is by the leader's clock, and is the time of what it returns.
	Look(ctx context.Context, began fleet.Moment, hosts, servers []string) (fleet.Cloud, error)
	// Survey asks how much room there is, and for the servers on the hosts, or for all.
	Survey(ctx context.Context, began fleet.Moment, hosts []string) (fleet.Survey, error)
	// Ask puts the gates' questions, and says of each server's "" or why it is not ready.
	Ask(ctx context.Context, gates []fleet.Gate) map[string]string
	// Stock asks for all servers, and for all images that Mainstay made of them. at is its time.
	Stock(ctx context.Context, at time.Time) (fleet.Stock, error)
}

// How often OpenStack is looked at: while a decision depends on it, and else; and how long
// one look may take.
const (
	gazeSoon  = time.Second
	gazeIdle  = 10 * time.Second
	gazeLasts = 20 * time.Second
)

// gaze is what the present plan needs to know of OpenStack.
type gaze struct {
	hosts, servers []string
	later          []string // servers that no look is made for, but that are looked at in it
	gates          []fleet.Gate
	soon           bool
	// deeds counts what has been done there: each is looked at.
	deeds int
}

// watchCloud looks at OpenStack apart from the turn, which waits for nobody, until ctx
// ends: soon when a plan needs to know something new or something was done, and once in a
// while. An answer that does not come is an observation too.
func (l *Leader) watchCloud(ctx context.Context) {
	var want gaze
	due := time.NewTimer(0)
	defer due.Stop()
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case next := <-l.gazes:
			wait := gazeIdle
			switch {
			case next.deeds != want.deeds, !slices.Equal(next.hosts, want.hosts), !slices.Equal(next.servers, want.servers), len(next.gates) > len(want.gates):
				wait = 0
			case next.soon:
				wait = gazeSoon
			}
			want = next
			due.Reset(max(0, wait-time.Since(looked)))
			continue
		case <-due.C:
		}
		looked = time.Now()
		began := l.Now()
		look, cancel := context.WithTimeout(ctx, gazeLasts)
		asked := make(chan map[string]string, 1)
		go func() { asked <- l.Clouds.Ask(look, want.gates) }()
		seen, err := l.Clouds.Look(look, began, want.hosts, slices.Compact(slices.Sorted(slices.Values(slices.Concat(want.servers, want.later)))))
		seen.Gates = <-asked
		cancel()
		if err != nil && seen.Away == "" {
			seen.Away = err.Error()
		}
		select {
		case <-ctx.Done():
			return
		case l.seen <- seen:
		}
		wait := gazeIdle
		if want.soon {
			wait = gazeSoon
		}
		due.Reset(max(0, wait-time.Since(looked)))
	}
}

// want tells watchCloud what this plan needs to know.
func (l *Leader) want(w fleet.World, p fleet.Plan) {
	if l.Clouds == nil {
		return
	}
	next := gaze{hosts: slices.Clone(p.Looks), gates: p.Gates, deeds: l.deeds, later: p.Later}
	for _, id := range fleet.Sorted(w.State.Evacuations) {
		if e := w.State.Evacuations[id]; e.Ended == "" || e.Lock != "" {
			next.servers = append(next.servers, id)
		}
	}
	for _, id := range fleet.Sorted(w.State.Departures) {
		if w.State.Departures[id].Ended == "" {
			next.servers = append(next.servers, id)
		}
	}
	next.servers = slices.Compact(slices.Sorted(slices.Values(append(next.servers, p.Servers...))))
	next.soon = len(next.hosts)+len(next.servers) > 0
	next.soon = len(next.hosts)+len(next.servers)+len(next.gates) > 0
	for _, f := range l.flights { // in whatever order: any will do
		next.soon = next.soon || f.Order.Verb == fleet.VerbCloud && !unhurried(f.Order)
	}
	if reflect.DeepEqual(next, l.wanted) {
		return
	}
	l.wanted = next
	select {
	case <-l.gazes: // an older one that was not taken yet
	default:
	}
	l.gazes <- next
}

// looked takes in what was seen: what was not answered stays as it was.
func (l *Leader) looked(seen fleet.Cloud) { l.cloud = seen.Follows(l.cloud) }
