package balance

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"mainstay/fleet"
)

// Apply tells HAProxy which servers take traffic. Only what differs from what it
// was told last is sent; a HAProxy that was started anew is told everything.
func (h *HAProxy) Apply(ctx context.Context, routes fleet.Routes) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	info, err := h.command(ctx, "show info")
	if err != nil {
		return err
	}
	if process := field(info, "Pid"); process != h.since {
		h.since = process
		clear(h.pushed)
	}
	var errs []error
	for _, service := range fleet.Sorted(routes.Servers) {
		v, ok := h.spec.Service(service)
		if !ok || v.Listen.Port == 0 {
			continue
		}
		for _, order := range commands(v, routes.Servers[service]) {
			if h.pushed[order.server] == order.route {
				continue
			}
			if err := h.push(ctx, order); err != nil {
				errs = append(errs, err)
				continue
			}
			h.pushed[order.server] = order.route
		}
	}
	return errors.Join(errs...)
}

// push is one server's new state.
type push struct {
	server string // "service/host"
	route  fleet.Route
	state  string // in HAProxy's words
	shut   bool   // end its sessions at once
}

// commands turns a service's routes into HAProxy's words. Servers that shall take
// traffic come first, so that there is no moment with none.
func commands(v fleet.Service, servers map[string]fleet.Route) []push {
	writer := ""
	for _, host := range fleet.Sorted(servers) {
		if servers[host] == fleet.RouteReady && writer == "" {
			writer = host
		}
	}
	var out []push
	for _, host := range fleet.Sorted(servers) {
		route := servers[host]
		p := push{server: v.Name + "/" + host, route: route, state: "ready"}
		switch route {
		case fleet.RouteBackup:
			// HAProxy takes the first server that is up: those after the writer stand
			// by as they are, those before it must not be found first.
			if host < writer {
				p.state = "drain"
				p.route += "-before"
			}
		case fleet.RouteDrain, fleet.RouteOut:
			p.state = "drain" // sessions are left alone
		case fleet.RouteDead:
			p.state, p.shut = "maint", true
		}
		out = append(out, p)
	}
	slices.SortStableFunc(out, func(a, b push) int {
		return rank(a.state) - rank(b.state)
	})
	return out
}

func rank(state string) int { return slices.Index([]string{"ready", "drain", "maint"}, state) }

func (h *HAProxy) push(ctx context.Context, p push) error {
	answer, err := h.command(ctx, fmt.Sprintf("set server %s state %s", p.server, p.state))
	if err == nil && strings.TrimSpace(answer) != "" {
		err = errors.New(strings.TrimSpace(answer))
	}
	if err == nil && p.shut {
		_, err = h.command(ctx, "shutdown sessions server "+p.server)
	}
	if err != nil {
		return fmt.Errorf("set HAProxy's server %s to %s: %w", p.server, p.state, err)
	}
	return nil
}

// Finished counts the answers that this host's own server of a service has given
// through this HAProxy so far; ok is false where it cannot be told.
func (h *HAProxy) Finished(ctx context.Context, service string) (n uint64, ok bool) {
	text, err := h.command(ctx, "show stat "+service+" 4 -1")
	if err != nil {
		return 0, false
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(text, "# "))).ReadAll()
	if err != nil || len(rows) < 2 {
		return 0, false
	}
	name := slices.Index(rows[0], "svname")
	for _, row := range rows[1:] {
		if name < 0 || row[name] != h.cfg.Host {
			continue
		}
		for i, column := range rows[0] {
			if strings.HasPrefix(column, "hrsp_") && i < len(row) && row[i] != "" {
				x, err := strconv.ParseUint(row[i], 10, 64)
				if err != nil {
					return 0, false
				}
				n, ok = n+x, true
			}
		}
	}
	return n, ok
}

// command asks HAProxy's runtime socket one thing.
func (h *HAProxy) command(ctx context.Context, text string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", h.socket())
	if err != nil {
		return "", fmt.Errorf("ask HAProxy: %w", err)
	}
	defer c.Close()
	if at, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(at); err != nil {
			return "", fmt.Errorf("ask HAProxy: %w", err)
		}
	}
	if _, err := io.WriteString(c, text+"\n"); err != nil {
		return "", fmt.Errorf("ask HAProxy %q: %w", text, err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		return "", fmt.Errorf("ask HAProxy %q: %w", text, err)
	}
	return string(answer), nil
}

// field finds "Name: value" in an answer.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
