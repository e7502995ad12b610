package node

import (
	"context"

	"mainstay/fleet"
	"mainstay/store"
)

// quorum gives the leader what it needs of the store.
type quorum struct {
	*store.Client
	lead    chan struct{}
	changed <-chan struct{}
}

func newQuorum(ctx context.Context, c *store.Client) *quorum {
	q := &quorum{Client: c, lead: make(chan struct{}, 1), changed: c.Watch(ctx)}
	go func() {
		for range c.Leads(ctx) {
			select {
			case q.lead <- struct{}{}:
			default:
			}
		}
	}()
	return q
}

func (q *quorum) Holds(now fleet.Moment) bool {
	l, ok := q.Lead()
	return ok && l.Holds(now)
}

func (q *quorum) LeadChanged() <-chan struct{} { return q.lead }
func (q *quorum) Changed() <-chan struct{}     { return q.changed }
