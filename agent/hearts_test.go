package agent

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mainstay/fleet"
	"mainstay/probe/guests"
)

// playedHypervisor has guests whose agents answer, or take long to be called silent.
type playedHypervisor struct {
	mu    sync.Mutex
	words map[string]guests.Word
	takes time.Duration
	asked [][]string
}

func (p *playedHypervisor) Look(context.Context) (map[string]guests.Machine, error) { return nil, nil }
func (p *playedHypervisor) Changed() <-chan struct{}                                { return nil }

func (p *playedHypervisor) Ask(_ context.Context, ids []string) (map[string]guests.Word, error) {
	p.mu.Lock()
	takes, words := p.takes, maps.Clone(p.words)
	p.asked = append(p.asked, ids)
	p.mu.Unlock()
	time.Sleep(takes)
	maps.DeleteFunc(words, func(id string, _ guests.Word) bool { return !slices.Contains(ids, id) })
	return words, nil
}

// TestAskHearts: the guests that run are asked every ten seconds, without the agent's lock held; what comes of a guest
// that ended, was paused or was started anew while its agent was asked is not counted; and news is told.
func TestAskHearts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		p := &playedHypervisor{words: map[string]guests.Word{"a": guests.Answers, "b": guests.Answers}}
		a := &Agent{tell: make(chan struct{}, 1), awake: map[string]int32{"a": 1, "b": 1}, hearts: hearts{}}
		a.cfg.Run, a.cfg.Boot = t.TempDir(), "b"
		a.cfg.Hypervisor, a.cfg.Wall, a.cfg.Now = p, time.Now, func() fleet.Moment { return fleet.Moment(time.Hour).Add(time.Since(begun)) }
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go a.askHearts(ctx)
		said := func() (answering, silent []string) {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.guests.Answering, slices.Sorted(maps.Keys(a.guests.Silent))
		}
		time.Sleep(65 * time.Second)
		synctest.Wait()
		if answering, silent := said(); !slices.Equal(answering, []string{"a", "b"}) || len(silent) > 0 || len(a.tell) != 1 || len(p.asked) != 7 {
			t.Fatalf("answering %v, silent %v, told %d, asked %v", answering, silent, len(a.tell), p.asked)
		}
		<-a.tell
		p.mu.Lock()
		p.words, p.takes = map[string]guests.Word{"a": guests.Silent, "b": guests.Silent}, guests.Patience
		p.mu.Unlock()
		time.Sleep(10 * time.Second) // both are being asked
		a.mu.Lock()
		a.awake["b"] = 2 // it is started anew meanwhile
		a.hearts.keep(map[string]guests.Machine{"a": {State: guests.Runs, Life: 1, Awake: true}, "b": {State: guests.Runs, Life: 2, Awake: true}})
		a.mu.Unlock()
		time.Sleep(60 * time.Second)
		synctest.Wait()
		if answering, silent := said(); len(answering) > 0 || !slices.Equal(silent, []string{"a"}) || len(a.tell) != 1 {
			t.Errorf("answering %v, silent %v, told %d", answering, silent, len(a.tell))
		}
		// The next process says nothing of them before it has asked them, which it does as soon as it knows who runs.
		since := a.guests.Silent["a"]
		next := &Agent{tell: make(chan struct{}, 1)}
		next.cfg, next.machines = a.cfg, fleet.Guests{Asked: true}
		next.hearts = next.recallHearts()
		cancel()
		synctest.Wait()
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		go next.askHearts(ctx)
		look := func() fleet.Guests {
			next.mu.Lock()
			defer next.mu.Unlock()
			return next.guests
		}
		time.Sleep(guests.Patience + guestsSoon/2)
		synctest.Wait()
		if said := look(); said.Asked || len(said.Silent) > 0 {
			t.Errorf("not asked yet: %+v", said)
		}
		next.mu.Lock()
		next.awake = map[string]int32{"a": 1, "b": 2}
		next.mu.Unlock()
		time.Sleep(guests.Patience + guestsSoon)
		synctest.Wait()
		if said := look(); !said.Asked || len(said.Silent) != 1 || !said.Silent["a"].Equal(since) {
			t.Errorf("asked again: %+v, silent since %v", said, since)
		}
	})
}
