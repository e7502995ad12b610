package leader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mainstay/fleet"
	"mainstay/plan"
)

// Which losses of computes can be borne is looked at soon after this host has begun to lead,
// each night, and each hour while one cannot: then a person is at it.
const (
	spareSoon  = time.Minute
	spareHour  = 3 // o'clock, by the leader's clock
	spareAgain = time.Hour
	// spareLasts bounds one look: 20,000 servers are forty pages, of which each may take a
	// busy Nova seconds.
	spareLasts = 5 * time.Minute
)

// ErrAway says that OpenStack did not answer what a preview needs to know.
var ErrAway = errors.New("OpenStack does not answer")

// ErrIdle says that this host does not lead, or that the site has no OpenStack.
var ErrIdle = errors.New("there is no leader here, or no OpenStack")

// nightly looks at what losses can be borne, until ctx ends.
func (l *Leader) nightly(ctx context.Context) {
	told := false
	for wait := spareSoon; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		c, err := l.bear(ctx)
		if err == nil && len(c.Short) > 0 && !told {
			// A host that was not well for a moment would wake somebody: it is looked at once more.
			told, wait = true, spareSoon
			continue
		}
		if err == nil {
			told = len(c.Short) > 0
			l.tell(ctx, c)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.Log.Warn("look which losses of computes can be borne", "error", err)
			wait = spareAgain
		default:
			wait = untilNight(l.Wall())
			if len(c.Short) > 0 || c.Away != "" {
				wait = min(wait, spareAgain)
			}
		}
	}
}

// untilNight is how long it is until the next night's look.
func untilNight(now time.Time) time.Duration {
	next := time.Date(now.Year(), now.Month(), now.Day(), spareHour, 0, 0, 0, now.Location())
	if !next.After(now) {
		next = time.Date(now.Year(), now.Month(), now.Day()+1, spareHour, 0, 0, 0, now.Location())
	}
	return next.Sub(now)
}

// Bear looks which losses of computes can be borne at present, and lets the leader know.
func (l *Leader) Bear(ctx context.Context) (fleet.Capacity, error) {
	c, err := l.bear(ctx)
	if err == nil {
		l.tell(ctx, c)
	}
	return c, err
}

// tell lets the leader know what can be borne: what it tells people rests on the newest look
// at which Placement answered.
func (l *Leader) tell(ctx context.Context, c fleet.Capacity) {
	if c.Away != "" {
		return
	}
	select {
	case l.spares <- c:
	case <-ctx.Done():
	}
}

func (l *Leader) bear(ctx context.Context) (fleet.Capacity, error) {
	ctx, cancel := context.WithTimeout(ctx, spareLasts)
	defer cancel()
	w, s, err := l.survey(ctx, nil)
	if err != nil {
		return fleet.Capacity{}, err
	}
	return plan.Bear(w, s), nil
}

// Preview says what would become of the servers of some computes, if they died now.
func (l *Leader) Preview(ctx context.Context, hosts []string) (fleet.Preview, error) {
	w, s, err := l.survey(ctx, hosts)
	if err != nil {
		return fleet.Preview{}, err
	}
	return plan.Foresee(w, s, hosts), nil
}

// survey asks OpenStack, and returns what this leader thinks at the end of it.
func (l *Leader) survey(ctx context.Context, hosts []string) (fleet.World, fleet.Survey, error) {
	if l.Clouds == nil {
		return fleet.World{}, fleet.Survey{}, ErrIdle
	}
	select { // one at a time: each is heavy for Nova
	case l.surveys <- struct{}{}:
		defer func() { <-l.surveys }()
	case <-ctx.Done():
		return fleet.World{}, fleet.Survey{}, ctx.Err()
	}
	s, err := l.Clouds.Survey(ctx, l.Now(), hosts)
	if err != nil {
		return fleet.World{}, fleet.Survey{}, fmt.Errorf("%w: %w", ErrAway, err)
	}
	select {
	case v := <-l.last.get:
		switch {
		case v.thinks.Epoch == 0:
			return fleet.World{}, fleet.Survey{}, ErrIdle
		case v.thinks.Cloud.At == 0:
			return fleet.World{}, fleet.Survey{}, fmt.Errorf("%w: Nova has not told its computes yet", ErrAway)
		}
		return v.thinks, s, nil
	case <-ctx.Done():
		return fleet.World{}, fleet.Survey{}, ctx.Err()
	}
}
