package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
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
	Life        int32
	First, Last fleet.Moment // answers on its present channel; zero: none yet
	Missed      int          // questions since then
	Since       time.Time    // the first of these
	Asked       fleet.Moment // the newest one, and what the clock said
	Wall        time.Time
	// doubt: a former process asked it, and this one has not yet.
	doubt bool
}

// keptHearts is what the next process finds in /run.
type keptHearts struct {
	Boot   string
	Hearts hearts
}

// hearts are those of all guests that run here.
type hearts map[string]*heart

// keep forgets those of guests that have ended or were started anew. What one that is paused owes is not counted.
func (h hearts) keep(machines map[string]guests.Machine) {
	for id, x := range h {
		m, there := machines[id]
		switch {
		case !there || m.State != guests.Runs || m.Life != x.Life:
			delete(h, id)
		case !m.Awake:
			x.Missed, x.doubt = 0, false
		}
	}
}

// hear takes in what came of the questions to guests of these lives, which were all asked by now.
func (h hearts) hear(lives map[string]int32, words map[string]guests.Word, now fleet.Moment, wall time.Time) {
	for id, word := range words {
		x := h[id]
		if x == nil || x.Life != lives[id] {
			x = &heart{Life: lives[id]}
			h[id] = x
		}
		gap, passed := now.Sub(x.Asked), wall.Sub(x.Wall)
		switch {
		case word == guests.None:
			delete(h, id)
			continue
		case word == guests.Answers:
			if x.First == 0 {
				x.First = now
			}
			x.Last, x.Missed = now, 0
		case x.Missed == 0, gap > heartGap, (gap - passed).Abs() > heartJump:
			x.Missed, x.Since = 1, wall.Round(0)
		default:
			x.Missed++
		}
		x.Asked, x.Wall, x.doubt = now, wall, false
	}
}

// recalled is what a former process of this boot left, which may be nothing: then no guest has answered yet. That a
// guest answered in this life of it outlives the process that asked, or one that hangs meanwhile would be forgotten; but what
// was missed too long ago begins anew, as it does for who goes on.
func recalled(raw []byte, bootID string, now fleet.Moment) hearts {
	var kept keptHearts
	if json.Unmarshal(raw, &kept) != nil || kept.Boot != bootID || kept.Hearts == nil {
		return hearts{}
	}
	for id, x := range kept.Hearts {
		if x == nil {
			delete(kept.Hearts, id)
			continue
		}
		x.doubt = true
		if now.Sub(x.Asked) > heartGap {
			x.Missed = 0
		}
	}
	return kept.Hearts
}

// doubted says whether one that was silent for a former process was not asked again: it may have gone on meanwhile, and
// may not. Whom nobody could ask for long is forgotten.
func (h hearts) doubted(now fleet.Moment) bool {
	found := false
	for id, x := range h {
		switch {
		case !x.doubt || x.Missed < heartMissed:
		case now.Sub(x.Asked) > heartGap:
			delete(h, id)
		default:
			found = true
		}
	}
	return found
}

// word is what is said of them. While there is doubt nothing is said of any guest, as by one who has just begun: that a
// silent one is silent no more would be news.
func (h hearts) word(g fleet.Guests, now fleet.Moment) fleet.Guests {
	g.Answering, g.Silent = nil, nil
	if h.doubted(now) {
		g.Asked = false
		return g
	}
	for _, id := range slices.Sorted(maps.Keys(h)) {
		switch x := h[id]; {
		case x.First == 0 || x.doubt:
		case x.Missed < heartMissed:
			g.Answering = append(g.Answering, id)
		case x.Last.Sub(x.First) >= heartSteady:
			if g.Silent == nil {
				g.Silent = map[string]time.Time{}
			}
			g.Silent[id] = x.Since
		}
	}
	return g
}

// askHearts keeps what this host says of its guests' agents.
func (a *Agent) askHearts(ctx context.Context) {
	var kept []byte
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
		now := a.hearts.word(a.machines, a.cfg.Now())
		news := !now.Equal(a.guests)
		a.guests = now
		wait := heartEvery
		if a.hearts.doubted(a.cfg.Now()) {
			wait = guestsSoon
		}
		raw, err := json.Marshal(keptHearts{a.cfg.Boot, a.hearts})
		a.mu.Unlock()
		if news {
			a.poke(a.tell)
		}
		if !bytes.Equal(raw, kept) {
			kept = raw
			if err := errors.Join(err, a.keepHearts(raw)); err != nil {
				a.cfg.Log.Error("keep what guests' agents said", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (a *Agent) heartsPath() string { return filepath.Join(a.cfg.Run, "hearts.json") }

// recallHearts reads what a former process left of this host's guests; what cannot be read is nothing.
func (a *Agent) recallHearts() hearts {
	raw, err := os.ReadFile(a.heartsPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.cfg.Log.Error("read what guests' agents said", "error", err)
	}
	return recalled(raw, a.cfg.Boot, a.cfg.Now())
}

// keepHearts writes it to /run, whole or not at all.
func (a *Agent) keepHearts(raw []byte) error {
	if err := os.WriteFile(a.heartsPath()+".new", raw, 0o600); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := os.Rename(a.heartsPath()+".new", a.heartsPath()); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
