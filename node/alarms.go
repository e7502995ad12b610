package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"mainstay/fleet"
)

// alarms tells the site's webhooks what a person should know: each event that
// needs one is posted once, as JSON, by the host that leads. A webhook that does
// not answer is tried three times and then named in the log; nothing waits for it.
func (n *node) alarms(ctx context.Context) {
	if len(n.spec.Alarms) == 0 {
		return
	}
	client := &http.Client{Timeout: 5 * time.Second}
	for e := range n.store.WatchEvents(ctx, "") {
		if !alarming(e) || !n.quorum.Holds(n.now()) {
			continue
		}
		for _, url := range n.spec.Alarms {
			go func() {
				if err := postAlarm(ctx, client, url, n.spec.Site, e); err != nil && ctx.Err() == nil {
					n.log.Error("send an alarm", "event", e.ID, "error", err)
				}
			}()
		}
	}
}

// alarming says whether a person should know of an event at once: what waits for
// longer than a moment, and what is held true of a host that is not well.
func alarming(e fleet.Event) bool {
	switch e.Kind {
	case "alarm":
		return true
	case "wait":
		return !strings.HasSuffix(e.Text, "waits no more")
	case "verdict":
		return strings.Contains(e.Text, " is "+string(fleet.Lapsed)) || strings.Contains(e.Text, " is "+string(fleet.Dead))
	}
	return false
}

func postAlarm(ctx context.Context, client *http.Client, url, site string, e fleet.Event) error {
	body, err := json.Marshal(map[string]any{"site": site, "event": e})
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return fmt.Errorf("alarm to %s: %w", url, err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode/100 == 2 {
				return nil
			}
			err = fmt.Errorf("answered %s", resp.Status)
		}
		if try == 3 {
			return fmt.Errorf("alarm to %s: %w", url, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(try) * time.Second):
		}
	}
}
