package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"mainstay/fleet"
	"mainstay/probe/guests"
)

// Guests' own agents are asked beside the hypervisor, in a loop of their own: one that hangs holds up its
// question, and nothing else. What is said of them is what plan/silent.go goes by.
const (
	heartEvery = 10 * time.Second
	// heartMissed is how many questions in a row must have come to nothing, and heartSteady for how long an agent must
	// have answered, before its silence is told: one that is just booting, or restarted for ever, is not missed.
	heartMissed = 2
	heartSteady = time.Minute
	// heartGap: between two questions that are further apart, or between which a clock jumped, nothing is known.
	heartGap  = 2 * time.Minute
	heartJump = 5 * time.Second
)

// heart is what is remembered of one guest's agent.
type heart struct {
	life        int32
	first, last fleet.Moment // answers on its present channel; zero: none yet
	missed      int          // questions since then
	since       time.Time    // the first of these
	asked       fleet.Moment // the newest one, and what the clock said
	wall        time.Time
}

// hearts are those of all guests that run here.
type hearts map[string]*heart

// keep forgets those of guests that have ended or were started anew. What one that is paused owes is not counted.
func (h hearts) keep(machines map[string]guests.Machine) {
	for id, x := range h {
		m, there := machines[id]
		switch {
		case !there || m.State != guests.Runs || m.Life != x.life:
			delete(h, id)
		case !m.Awake:
			x.missed = 0
		}
	}
}

// hear takes in what came of the questions to guests of these lives, which were all asked by now.
func (h hearts) hear(lives map[string]int32, words map[string]guests.Word, now fleet.Moment, wall time.Time) {
	for id, word := range words {
		x := h[id]
		if x == nil || x.life != lives[id] {
			x = &heart{life: lives[id]}
			h[id] = x
		}
		gap, passed := now.Sub(x.asked), wall.Sub(x.wall)
		switch {
		case word == guests.None:
			delete(h, id)
			continue
		case word == guests.Answers:
			if x.first == 0 {
				x.first = now
			}
			x.last, x.missed = now, 0
		case x.missed == 0, gap > heartGap, (gap - passed).Abs() > heartJump:
			x.missed, x.since = 1, wall.Round(0)
		default:
			x.missed++
		}
		x.asked, x.wall = now, wall
	}
}

// word is what is said of them.
func (h hearts) word(g fleet.Guests) fleet.Guests {
	g.Answering, g.Silent = nil, nil
	for _, id := range slices.Sorted(maps.Keys(h)) {
		switch x := h[id]; {
		case x.first == 0:
		case x.missed < heartMissed:
			g.Answering = append(g.Answering, id)
		case x.last.Sub(x.first) >= heartSteady:
			if g.Silent == nil {
				g.Silent = map[string]time.Time{}
			}
			g.Silent[id] = x.since
		}
	}
	return g
}

// askHearts keeps what this host says of its guests' agents.
func (a *Agent) askHearts(ctx context.Context) {
	a.mu.Lock()
	a.hearts = hearts{}
	a.mu.Unlock()
	for {
		a.mu.Lock()
		lives := maps.Clone(a.awake)
		a.mu.Unlock()
		// What libvirt does not answer is unknown, and says nothing of any guest; that it does not is told by watchGuests.
		words, _ := a.cfg.Hypervisor.Ask(ctx, slices.Sorted(maps.Keys(lives)))
		if ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		for id, life := range lives {
			if now, still := a.awake[id]; !still || now != life {
				delete(words, id) // it is of a guest that has ended, or was paused, meanwhile
			}
		}
		a.hearts.hear(lives, words, a.cfg.Now(), a.cfg.Wall())
		now := a.hearts.word(a.guests)
		news := !now.Equal(a.guests)
		a.guests = now
		a.mu.Unlock()
		if news {
			a.poke(a.tell)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(heartEvery):
		}
	}
}
