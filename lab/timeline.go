package lab

import (
	"context"
	"fmt"
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

// timeline finds, in the recorded events, how the internal address went to another
// host after something befell its holder.
func (l *Lab) timeline(ctx context.Context, since time.Time, victim string) []Step {
	var out []Step
	add := func(name string, e fleet.Event) {
		for _, s := range out {
			if s.Name == name {
				return
			}
		}
		out = append(out, Step{name, e.At, "event " + e.ID + ": " + e.Text})
	}
	for _, e := range l.events(ctx) {
		if e.At.Before(since) {
			continue
		}
		switch {
		case e.Kind == "leader":
			add("new leader", e)
		case e.About == "host/"+victim:
			add("seen", e)
			if e.Kind == "verdict" && strings.Contains(e.Text, "is lapsed") {
				add("judged", e)
			}
		case e.Kind == "record" && e.About == "address/internal":
			add("decided", e)
		case e.Kind == "order" && e.About == "address/internal" && strings.Contains(e.Text, "claim"):
			add("ordered", e)
		case e.Kind == "effect" && e.About == "address/internal" && strings.Contains(e.Text, "claim"):
			add("taken over", e)
		}
	}
	return out
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
