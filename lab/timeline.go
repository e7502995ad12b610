package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
)

// Step is one line of a fault's timeline: what, when, and which record says so.
type Step struct {
	Name   string    `json:"name"`
	At     time.Time `json:"at"`
	Source string    `json:"source"`
}

// brief tells steps by their distance from a moment.
func brief(steps []Step, from time.Time) string {
	var out []string
	for _, s := range steps {
		out = append(out, fmt.Sprintf("%s %+d", s.Name, s.At.Sub(from).Milliseconds()))
	}
	return strings.Join(out, ", ")
}

// timeline finds, in the recorded events, how a thing went to another host after
// something befell its holder; see lossSteps.
func (l *Lab) timeline(ctx context.Context, since time.Time, victim, thing string) []Step {
	return lossSteps(l.events(ctx), since, victim, thing)
}

// lossSteps are the events by which a host's loss was seen and judged, and a thing
// that it held was given to another and taken over. What is lost with a host that
// holds nothing is the lead at most: the thing "leader".
func lossSteps(events []fleet.Event, since time.Time, victim, thing string) []Step {
	tale := tale{since: since}
	for _, e := range events {
		switch {
		case e.Kind == "leader":
			tale.add("new leader", e)
			if thing == "leader" {
				tale.add("taken over", e)
			}
		case e.About == "host/"+victim:
			if e.Kind == "verdict" {
				tale.add("seen", e)
			}
			if e.Kind == "verdict" && (strings.Contains(e.Text, " is "+string(fleet.Lapsed)) || strings.Contains(e.Text, " is "+string(fleet.Dead))) {
				tale.add("judged", e)
			}
		case e.About != thing:
		case e.Kind == "record":
			tale.add("decided", e)
		case e.Kind == "order" && (strings.Contains(e.Text, " shall claim ") || strings.Contains(e.Text, " shall start ")):
			tale.add("ordered", e)
		case e.Kind == "effect" && (strings.Contains(e.Text, ": claim ") || strings.Contains(e.Text, ": start ")) && strings.Contains(e.Text, ": "+string(fleet.Done)):
			tale.add("taken over", e)
		}
	}
	return tale.steps
}

// hangSteps are the events by which a copy of a service that hangs was judged so by
// its own host, and by which the HAProxy of another was told and has followed.
func hangSteps(events []fleet.Event, since time.Time, name, victim, by string) []Step {
	tale := tale{since: since}
	for _, e := range events {
		switch {
		case e.About == name+"@"+victim && strings.Contains(e.Text, ": hung"):
			// The agent beside it sees and judges at once: all three signs are its own.
			tale.add("seen", e)
			tale.add("judged", e)
		case e.About != "route/"+by || !tale.has("judged"):
		case e.Kind == "order":
			tale.add("decided", e)
		case e.Kind == "observation" && tale.has("decided"):
			tale.add("taken over", e)
		}
	}
	return tale.steps
}

// tale gathers the first event of each sort from a moment on.
type tale struct {
	since time.Time
	steps []Step
}

func (t *tale) has(name string) bool {
	return slices.ContainsFunc(t.steps, func(s Step) bool { return s.Name == name })
}

func (t *tale) add(name string, e fleet.Event) {
	if !e.At.Before(t.since) && !t.has(name) {
		t.steps = append(t.steps, Step{name, e.At, "event " + e.ID + ": " + e.Text})
	}
}

// events are those of the first host that tells them.
func (l *Lab) events(ctx context.Context) []fleet.Event {
	for _, m := range l.Hosts {
		if on, err := l.Powered(m.Name); err != nil || !on {
			continue
		}
		c, err := l.APIClient(m.Name)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		list, err := c.Events(ctx, "", 0)
		cancel()
		c.Close()
		if err == nil {
			return list
		}
	}
	return nil
}

// resumed are a client's steps at the end of its gap: the try that was answered
// first was begun, and answered.
func resumed(tries []Try, from, to time.Time) []Step {
	_, _, ended := Gap(tries, from, to)
	for _, t := range tries {
		if t.OK && !ended.IsZero() && t.Begun.Add(t.Took).Equal(ended) {
			return []Step{{"tried", t.Begun, "the client's own log"}, {"answered", ended, "the client's own log"}}
		}
	}
	return nil
}

// answered is the step at which the client was served again after a fault: the end
// of its longest gap, if that is longer than one try's patience; if tries failed here
// and there, the first answer to one begun after the last of them; if none failed, its
// first answer.
func answered(tries []Try, since time.Time, patience time.Duration) (Step, bool) {
	source := "the client's own log: no try failed"
	from, last := since, since
	for _, t := range tries {
		if t.Begun.Before(since) {
			continue
		}
		last = t.Begun.Add(t.Took)
		if !t.OK && t.Begun.After(from) {
			from, source = t.Begun, "the client's own log: every try was answered from then on"
		}
	}
	if gap, _, ended := Gap(tries, since, last); gap > patience {
		return Step{"answered", ended, fmt.Sprintf("the client's own log, after %v without an answer", gap.Round(time.Millisecond))}, !ended.IsZero()
	}
	for _, t := range tries {
		if t.OK && !t.Begun.Before(from) {
			return Step{"answered", t.Begun.Add(t.Took), source}, true
		}
	}
	return Step{}, false
}
