package agent

import (
	"encoding/json"
	"log/slog"
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
			said := h.word(fleet.Guests{Running: 1}, now)
			want := map[string]time.Time{}
			if c.since >= 0 {
				want["vm"] = at[c.since]
			}
			if slices.Contains(said.Answering, "vm") != c.answering || !maps.Equal(said.Silent, want) || said.Running != 1 {
				t.Errorf("%+v, want answering %v, silent %v", said, c.answering, want)
			}
		})
	}
	h := hearts{"vm": {First: 1, Last: fleet.Moment(time.Hour), Missed: 1, Since: time.Unix(5, 0), Asked: fleet.Moment(time.Hour), Wall: time.Unix(1000, 0)}}
	h.hear(map[string]int32{"vm": 0}, map[string]guests.Word{"vm": m}, fleet.Moment(time.Hour).Add(heartEvery), time.Unix(5000, 0))
	if said := h.word(fleet.Guests{}, fleet.Moment(time.Hour)); len(said.Silent) > 0 {
		t.Errorf("a clock that jumped: %+v", said)
	}
	h.keep(map[string]guests.Machine{"vm": {State: guests.Ended}})
	if len(h) > 0 {
		t.Error("one that has ended is remembered")
	}
}

// TestHeartsOutliveTheirAgent: that a guest answered, and since when it is silent, is not forgotten with the process that
// asked; and no guest is called silent, nor answering, before the next one has asked it itself.
func TestHeartsOutliveTheirAgent(t *testing.T) {
	const a, m, n = guests.Answers, guests.Silent, guests.None
	steady := []guests.Word{a, a, a, a, a, a, a}
	hung := append(slices.Clone(steady), m, m, m)
	const first = 7 // the question with which that silence began
	begins := len(hung)
	for _, c := range []struct {
		name          string
		before, after []guests.Word
		away          time.Duration // beside the pause between two questions
		jump          time.Duration // of the clock, meanwhile
		change        func(h *keptHearts, m *guests.Machine)
		hidden        bool // before the first question of the next process
		answering     bool
		since         int // -1: no silence is told
	}{
		{"it goes on to be silent", hung, []guests.Word{m}, 0, 0, nil, true, false, first},
		{"it answers again", hung, []guests.Word{a}, 0, 0, nil, true, true, -1},
		{"it was stopped meanwhile", hung, []guests.Word{n}, 0, 0, nil, true, false, -1},
		{"nobody has asked yet", hung, nil, 0, 0, nil, true, false, -1},
		{"it was started anew meanwhile", hung, []guests.Word{m, m}, 0, 0, func(_ *keptHearts, m *guests.Machine) { m.Life++ }, false, false, -1},
		{"it is paused: what it owes is not counted", hung, nil, 0, 0, func(_ *keptHearts, m *guests.Machine) { m.Awake = false }, false, true, -1},
		{"the agent was away for long: another silence", hung, []guests.Word{m, m}, heartGap, 0, nil, false, false, begins},
		{"of which one question is none", hung, []guests.Word{m}, heartGap, 0, nil, false, true, -1},
		{"the clock was set: another silence", hung, []guests.Word{m, m}, 0, time.Hour, nil, true, false, begins},
		{"it hangs after the agent has begun", steady, []guests.Word{m, m}, 0, 0, nil, false, false, first},
		{"or as it does", append(slices.Clone(steady), m), []guests.Word{m}, 0, 0, nil, false, false, first},
		{"it had not answered for long enough", []guests.Word{a, a}, []guests.Word{m, m}, 0, 0, nil, false, false, -1},
		{"all is well, and it is not asked yet", steady, nil, 0, 0, nil, false, false, -1},
		{"all is well", steady, []guests.Word{a}, 0, 0, nil, false, true, -1},
		{"that was another boot's guest", hung, []guests.Word{m, m}, 0, 0, func(h *keptHearts, _ *guests.Machine) { h.Boot = "another" }, false, false, -1},
		{"an older agent left nothing", hung, []guests.Word{m, m}, 0, 0, func(h *keptHearts, _ *guests.Machine) { h.Hearts = nil }, false, false, -1},
		{"what it left is broken", hung, []guests.Word{m, m}, 0, 0, func(h *keptHearts, _ *guests.Machine) { h.Hearts["vm"] = nil }, false, false, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, now, wall := hearts{}, fleet.Moment(time.Hour), time.Unix(1000, 0)
			machine := guests.Machine{State: guests.Runs, Life: 3, Awake: true}
			var at []time.Time
			ask := func(words []guests.Word) {
				for _, word := range words {
					now, wall = now.Add(heartEvery), wall.Add(heartEvery)
					at = append(at, wall)
					h.keep(map[string]guests.Machine{"vm": machine})
					h.hear(map[string]int32{"vm": machine.Life}, map[string]guests.Word{"vm": word}, now, wall)
				}
			}
			ask(c.before)
			kept := keptHearts{"b", h}
			if c.change != nil {
				c.change(&kept, &machine)
			}
			raw, err := json.Marshal(kept)
			if err != nil {
				t.Fatal(err)
			}
			now, wall = now.Add(c.away), wall.Add(c.away+c.jump)
			h = recalled(raw, "b", now.Add(1))
			h.keep(map[string]guests.Machine{"vm": machine})
			if said := h.word(fleet.Guests{Asked: true}, now.Add(1)); said.Asked == c.hidden || len(said.Silent) > 0 || len(said.Answering) > 0 && machine.Awake {
				t.Errorf("at first: %+v, want hidden %v", said, c.hidden)
			}
			ask(c.after)
			said, want := h.word(fleet.Guests{Asked: true}, now), map[string]time.Time{}
			if c.since >= 0 {
				want["vm"] = at[c.since]
			}
			if slices.Contains(said.Answering, "vm") != c.answering || !maps.EqualFunc(said.Silent, want, time.Time.Equal) || said.Asked == (c.hidden && len(c.after) == 0) {
				t.Errorf("%+v, want answering %v, silent %v", said, c.answering, want)
			}
		})
	}
	if h := recalled([]byte("{"), "b", 1); h == nil || len(h) > 0 {
		t.Errorf("what cannot be read: %v", h)
	}
	h := hearts{"vm": {First: 1, Last: fleet.Moment(time.Hour), Missed: 5, Asked: fleet.Moment(time.Hour), doubt: true}}
	if said := h.word(fleet.Guests{Asked: true}, fleet.Moment(time.Hour).Add(heartGap)); said.Asked {
		t.Errorf("nobody could ask it yet: %+v", said)
	}
	if said := h.word(fleet.Guests{Asked: true}, fleet.Moment(time.Hour).Add(heartGap+1)); !said.Asked || len(said.Silent) > 0 || len(h) > 0 {
		t.Errorf("nobody could ask it for long: %+v", said)
	}
}

// TestAgentRecallsHearts: an agent begins with what the one before it left, and with nothing where that left nothing.
func TestAgentRecallsHearts(t *testing.T) {
	spec := fleet.Spec{Site: "test", Timing: fleet.Presets()["room"], Hosts: []fleet.Host{{Name: "c1", Voter: true}}}
	run := t.TempDir()
	for _, want := range []int{0, 1} {
		a, err := New(Config{
			Host: "c1", Boot: "b", Spec: spec, Run: run, Addresses: &failing{}, Log: slog.New(slog.DiscardHandler),
			Now: func() fleet.Moment { return fleet.Moment(time.Hour) }, Wall: time.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		if a.hearts == nil || len(a.hearts) != want {
			t.Errorf("%v, want %d", a.hearts, want)
		}
		if err := a.keepHearts([]byte(`{"Boot": "b", "Hearts": {"vm": {"Life": 3}}}`)); err != nil {
			t.Fatal(err)
		}
	}
}
