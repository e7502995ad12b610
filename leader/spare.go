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
// each night, and while one cannot each hour and whenever a compute has come or gone: then a person is at it.
const (
	spareSoon  = time.Minute
	spareHour  = 3 // o'clock, by the leader's clock
	spareAgain = time.Hour
	// spareLasts bounds one look: 20,000 servers are forty pages, of which each may take a
	// busy Nova seconds.
	spareLasts = 5 * time.Minute
	// spareTold bounds the wait for a leader's turn: it may lead no more.
	spareTold = 10 * time.Second
)

// ErrAway says that OpenStack did not answer what a preview needs to know.
var ErrAway = errors.New("OpenStack does not answer")

// ErrIdle says that this host does not lead, or that the site has no OpenStack.
var ErrIdle = errors.New("there is no leader here, or no OpenStack")

// nightly looks at what losses can be borne, until ctx ends. While servers are on their way
// it waits: what it would see is not what will be.
func (l *Leader) nightly(ctx context.Context) {
	told, twice := false, false
	for wait := spareSoon; ; {
		usable, _ := l.usable(ctx)
		var moving bool
		for until := time.Now().Add(wait); ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(min(spareSoon, max(0, time.Until(until)))):
			}
			var now string
			if now, moving = l.usable(ctx); time.Until(until) <= 0 || told && now != usable {
				break // or a compute has come or gone: what was told may be true no more
			}
		}
		if moving {
			wait = spareSoon
			continue
		}
		c, err := l.bear(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.Log.Warn("look which losses of computes can be borne", "error", err)
			wait = spareAgain
		case len(c.Short) > 0 && !told && !twice:
			// A host that was not well for a moment would wake somebody: it is looked at once more.
			twice, wait = true, spareSoon
		default:
			told, twice = len(c.Short) > 0, false
			l.tell(ctx, c)
			wait = untilNight(l.Wall())
			if told || c.Away != "" {
				wait = min(wait, spareAgain)
			}
		}
	}
}

// usable names the computes to which Nova gives servers, and says whether any are on their
// way from a dead one.
func (l *Leader) usable(ctx context.Context) (names string, moving bool) {
	var w fleet.World
	select {
	case v := <-l.last.get:
		w = v.thinks
	case <-ctx.Done():
	}
	for _, host := range fleet.Sorted(w.Cloud.Computes) {
		if c := w.Cloud.Computes[host]; c.Up && !c.Disabled && !c.Forced {
			names += " " + host
		}
	}
	for _, e := range w.State.Evacuations { // in whatever order: any will do
		moving = moving || e.Ended == ""
	}
	return names, moving
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
	ctx, cancel := context.WithTimeout(ctx, spareTold)
	defer cancel()
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
