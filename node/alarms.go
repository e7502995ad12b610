package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	neturl "net/url"
	"strings"
	"sync"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// alarms tells the site's webhooks what a person should know: each event that
// needs one is posted once, as JSON, by the host that leads, and so is the event that
// ends it. What comes while a webhook is being told goes out together when it has
// answered: a switch that takes two thousand hosts along is two POSTs, and not two thousand.
// A webhook that does not answer is tried three times and then named in the
// log; nothing waits for it.
func (n *node) alarms(ctx context.Context) {
	if len(n.spec.Alarms) == 0 {
		return
	}
	client := &http.Client{Timeout: 5 * time.Second}
	open := raised{}
	var hooks []*webhook
	for _, url := range n.spec.Alarms {
		h := &webhook{wake: make(chan struct{}, 1), post: func(a alarm) {
			if err := postAlarm(ctx, client, url, a); err != nil && ctx.Err() == nil {
				n.log.Error("send an alarm", "event", a.Event.ID, "more", len(a.More), "error", err)
			}
		}}
		go h.run(ctx)
		hooks = append(hooks, h)
	}
	for e := range n.store.WatchEvents(ctx, "") {
		news, resolved := open.note(e)
		if !news || !n.quorum.Holds(n.now()) {
			continue
		}
		for _, h := range hooks {
			h.put(alarm{Site: n.spec.Site, alarmed: alarmed{e, resolved}})
		}
	}
}

// alarm is the body that a webhook gets. What is resolved is about the same thing, and
// of the same kind, as what raised it.
type alarm struct {
	Site string `json:"site"`
	alarmed
	// More are what came meanwhile, in their order.
	More []alarmed `json:"more,omitempty"`
}

type alarmed struct {
	Event    fleet.Event `json:"event"`
	Resolved bool        `json:"resolved"`
}

// webhook is one URL with what it has not been told yet.
type webhook struct {
	wake chan struct{}
	post func(alarm)
	mu   sync.Mutex
	next alarm // its site is empty: there is none
}

// put adds an alarm to the next one; it never blocks.
func (h *webhook) put(a alarm) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next.Site != "" {
		h.next.More = append(h.next.More, a.alarmed)
		return
	}
	h.next = a
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// run tells it, one POST after another, in the events' order.
func (h *webhook) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		h.mu.Lock()
		a := h.next
		h.next = alarm{}
		h.mu.Unlock()
		h.post(a)
	}
}

// raised are the hosts of which an alarm was told that is not resolved. Every voter
// keeps it, whoever leads, so that whoever does later knows.
type raised map[string]bool

// note says whether a person should know of an event at once: what waits for longer
// than a moment, what is held true of a host that is not well, and the end of either.
func (r raised) note(e fleet.Event) (news, resolved bool) {
	switch e.Kind {
	case "wait":
		return true, strings.HasSuffix(e.Text, "waits no more")
	case "verdict":
		is := func(c fleet.Condition) bool { return strings.Contains(e.Text, " is "+string(c)+":") }
		switch {
		case is(fleet.Lapsed), is(fleet.Dead):
			r[e.About] = true
			return true, false
		case r[e.About] && (is(fleet.Healthy) || is(fleet.Degraded)):
			delete(r, e.About)
			return true, true
		}
	}
	return false, false
}

func postAlarm(ctx context.Context, client *http.Client, url string, a alarm) error {
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil { // it would tell the URL, which may hold a token
			return fmt.Errorf("alarm to %s: it is not a URL that can be called", api.BareURL(url))
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		var told *neturl.Error
		if errors.As(err, &told) {
			err = told.Err
		}
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode/100 == 2 {
				return nil
			}
			err = fmt.Errorf("answered %s", resp.Status)
		}
		if try == 3 {
			return fmt.Errorf("alarm to %s: %w", api.BareURL(url), err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(try) * time.Second):
		}
	}
}
