package agent

import (
	"maps"
	"slices"
	"testing"
	"time"

	"mainstay/fleet"
	"mainstay/probe/guests"
)

// TestHeart: a silence is told of an agent that has answered for a while in this life of its guest, and was
// asked twice in vain since; what is not known is no silence.
func TestHeart(t *testing.T) {
	const (
		a, m, n, u, w = guests.Answers, guests.Silent, guests.None, guests.Word(""), guests.Word("wait")
		paused, anew  = guests.Word("paused"), guests.Word("anew")
	)
	steady := []guests.Word{a, a, a, a, a, a, a}
	for _, c := range []struct {
		name      string
		words     []guests.Word
		answering bool
		since     int // the question with which the silence began; -1: none is told
	}{
		{"it answers", []guests.Word{a}, true, -1},
		{"it never did", []guests.Word{m, m, m, m, m, m, m, m}, false, -1},
		{"one question in vain", append(slices.Clone(steady), m), true, -1},
		{"two", append(slices.Clone(steady), m, m), false, 7},
		{"the time of the first stays", append(slices.Clone(steady), m, m, m, m), false, 7},
		{"it answers again", append(slices.Clone(steady), m, m, m, a), true, -1},
		{"another silence has another name", append(slices.Clone(steady), m, m, a, m, m), false, 10},
		{"it had answered for a few seconds only", []guests.Word{a, a, a, a, a, m, m, m, m}, false, -1},
		{"its channel was closed: stopped in good order", append(slices.Clone(steady), m, m, n), false, -1},
		{"and is opened by another agent, which has not answered yet", append(slices.Clone(steady), n, m, m, m), false, -1},
		{"nothing is known between", append(slices.Clone(steady), m, u, u, m), false, 7},
		{"for long: it begins anew", append(slices.Clone(steady), m, w, m), true, -1},
		{"paused between: it begins anew", append(slices.Clone(steady), m, m, paused, m), true, -1},
		{"started anew: it has not answered in this life", append(slices.Clone(steady), m, m, anew, m, m, m), false, -1},
		{"and is not called silent from then on", append(slices.Clone(steady), m, m, anew), false, -1},
		{"nothing is known now", append(slices.Clone(steady), m, m, u), false, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, now, wall := hearts{}, fleet.Moment(time.Hour), time.Unix(1000, 0)
			life, at := int32(3), []time.Time{}
			for _, word := range c.words {
				awake := true
				switch word {
				case w:
					now, wall = now.Add(heartGap), wall.Add(heartGap)
				case paused:
					awake = false
				case anew:
					life++
				}
				now, wall = now.Add(heartEvery), wall.Add(heartEvery)
				at = append(at, wall)
				h.keep(map[string]guests.Machine{"vm": {State: guests.Runs, Life: life, Awake: awake}})
				if word == a || word == m || word == n {
					h.hear(map[string]int32{"vm": life}, map[string]guests.Word{"vm": word}, now, wall)
				}
			}
			said := h.word(fleet.Guests{Running: 1})
			want := map[string]time.Time{}
			if c.since >= 0 {
				want["vm"] = at[c.since]
			}
			if slices.Contains(said.Answering, "vm") != c.answering || !maps.Equal(said.Silent, want) || said.Running != 1 {
				t.Errorf("%+v, want answering %v, silent %v", said, c.answering, want)
			}
		})
	}
	h := hearts{"vm": {first: 1, last: fleet.Moment(time.Hour), missed: 1, since: time.Unix(5, 0), asked: fleet.Moment(time.Hour), wall: time.Unix(1000, 0)}}
	h.hear(map[string]int32{"vm": 0}, map[string]guests.Word{"vm": m}, fleet.Moment(time.Hour).Add(heartEvery), time.Unix(5000, 0))
	if said := h.word(fleet.Guests{}); len(said.Silent) > 0 {
		t.Errorf("a clock that jumped: %+v", said)
	}
	h.keep(map[string]guests.Machine{"vm": {State: guests.Ended}})
	if len(h) > 0 {
		t.Error("one that has ended is remembered")
	}
}
