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
// was told last is sent, all of it in one line; a HAProxy that was started anew is
// told everything. Calling it again with the same table is cheap, and is how a
// restarted HAProxy is noticed.
func (h *HAProxy) Apply(ctx context.Context, routes fleet.Routes) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.routes = routes
	return h.tell(ctx)
}

// tell brings HAProxy to the state of the table. The caller holds the lock.
func (h *HAProxy) tell(ctx context.Context) error {
	news := h.news()
	whole := len(h.told) == 0
	process, err := h.send(ctx, news)
	if process == "" {
		return err // not reached: nothing is known to have been told
	}
	if process != h.process && !whole {
		// Another process than the one that was told the rest.
		clear(h.told)
		news = h.news()
		process, err = h.send(ctx, news)
	}
	h.process = process
	if len(news) == 0 || process == "" {
		return err
	}
	if failed := h.shutFormer(ctx, news); failed != nil {
		err = errors.Join(err, fmt.Errorf("end sessions in HAProxy's former workers: %w", failed))
		for _, w := range news {
			delete(h.told, w.server) // the next Apply tries again
		}
	}
	return errors.Join(err, h.save(ctx))
}

// news lists what the present table says anew. Servers that shall take traffic
// come first, so that there is no moment without one.
func (h *HAProxy) news() []word {
	var out []word
	for _, v := range h.spec.Services {
		for _, f := range v.Faces(h.spec.Homes(v)) {
			for _, w := range commands(f, v.Listen.Writer, h.routes.Servers[f.Name]) {
				if h.told[w.server] != w.why {
					out = append(out, w)
				}
			}
		}
	}
	slices.SortStableFunc(out, func(a, b word) int { return rank(a.state) - rank(b.state) })
	return out
}

// The states of a server in HAProxy's words.
const (
	ready = "ready"
	drain = "drain" // nothing new; sessions are left alone
	maint = "maint" // nothing at all
)

func rank(state string) int { return slices.Index([]string{ready, drain, maint}, state) }

// word is what one server is told.
type word struct {
	server string // "face/host"
	state  string
	shut   bool   // end its sessions at once
	why    string // what it rests on: told again when that changes
}

func (w word) commands() []string {
	out := []string{fmt.Sprintf("set server %s state %s", w.server, w.state)}
	if w.shut {
		out = append(out, "shutdown sessions server "+w.server)
	}
	return out
}

// commands turns the routes of a face into HAProxy's words; single: one of its servers at
// a time takes the writes.
func commands(f fleet.Face, single bool, servers map[string]fleet.Route) []word {
	writer, chosen := writerOf(f, servers)
	hosts := slices.Clone(f.Order)
	for _, host := range fleet.Sorted(servers) {
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host) // the table is of another file
		}
	}
	var out []word
	for i, host := range hosts {
		route, told := servers[host]
		if !told {
			continue
		}
		w := word{server: f.Name + "/" + host, state: ready, why: string(route)}
		switch route {
		case fleet.RouteBackup:
			if host == writer {
				break
			}
			// HAProxy takes the first server that may take traffic: those after the
			// writer stand by as they are, those before it must not be found first.
			// What still writes there is ended, or there would be two writers.
			w.shut, w.why = true, "stand-in of "+writer
			if i < slices.Index(f.Order, writer) {
				w.state = drain
			}
		case fleet.RouteDrain:
			w.state = drain
		case fleet.RouteOut:
			w.state = drain
			// Once a leader has chosen another writer, nothing may go on writing here, nor
			// wait for ever for a server that hangs. Suspicion alone ends no session: then
			// no other is chosen yet.
			if single && chosen {
				w.shut, w.why = true, "out, and "+writer+" takes the writes"
			}
		case fleet.RouteDead:
			w.state, w.shut = maint, true
		}
		out = append(out, w)
	}
	return out
}

// writerOf is the server that takes the writes, "" if none can. Where the chosen one was
// taken out before a leader chose another, the stand-in behind it takes over, as the
// leader will choose: the same on every host that sees the same.
func writerOf(f fleet.Face, servers map[string]fleet.Route) (writer string, chosen bool) {
	out := ""
	for _, host := range f.Order {
		switch servers[host] {
		case fleet.RouteReady:
			return host, true
		case fleet.RouteOut, fleet.RouteDead:
			out = host
		}
	}
	return f.Next(out, func(host string) bool { return servers[host] == fleet.RouteBackup }), false
}

// lineBound keeps a line well below what HAProxy reads at once (16 KB).
const lineBound = 8 << 10

// send tells the running process; process names it, and is empty if it was not
// reached or changed meanwhile.
func (h *HAProxy) send(ctx context.Context, news []word) (process string, err error) {
	var errs []error
	for first := true; first || len(news) > 0; first = false {
		var line strings.Builder
		n := 0
		for n < len(news) && line.Len() < lineBound {
			for _, c := range news[n].commands() {
				line.WriteString(c + ";")
			}
			n++
		}
		text, err := h.ask(ctx, h.socket(), line.String()+"show info")
		if err != nil {
			return "", errors.Join(append(errs, err)...)
		}
		for _, w := range news[:n] {
			delete(h.told, w.server)
			var wrong string
			for range w.commands() {
				var said string
				said, text = answer(text)
				wrong += said
			}
			if wrong != "" {
				errs = append(errs, fmt.Errorf("set HAProxy's server %s to %s: %s", w.server, w.state, wrong))
				continue
			}
			h.told[w.server] = w.why
		}
		news = news[n:]
		pid := field(text, "Pid") + " " + field(text, "Start_time_sec")
		if process != "" && pid != process {
			clear(h.told)
			return "", errors.New("tell HAProxy its servers: it was restarted meanwhile")
		}
		process = pid
	}
	return process, errors.Join(errs...)
}

// answer cuts the answer to one command off: nothing or a complaint, and an empty
// line.
func answer(text string) (said, rest string) {
	if rest, ok := strings.CutPrefix(text, "\n"); ok {
		return "", rest
	}
	said, rest, _ = strings.Cut(text, "\n\n")
	return strings.TrimSpace(said), rest
}

// shutFormer ends sessions in workers that a reload has left behind with
// connections that last: whoever is dead must be dead there too. Such a worker
// takes no word about servers any more, only about single sessions.
func (h *HAProxy) shutFormer(ctx context.Context, news []word) error {
	shut := map[string]bool{}
	for _, w := range news {
		if w.shut {
			shut[w.server] = true
		}
	}
	if len(shut) == 0 {
		return nil
	}
	text, err := h.ask(ctx, h.master(), "show proc")
	if err != nil {
		return err
	}
	_, former, _ := strings.Cut(text, "# old workers\n")
	former, _, _ = strings.Cut(former, "#")
	for row := range strings.Lines(former) {
		pid, _, _ := strings.Cut(row, " ")
		text, err := h.ask(ctx, h.master(), "@!"+pid+" show sess")
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			id, rest, _ := strings.Cut(line, ": ")
			var server [2]string
			for _, f := range strings.Fields(rest) {
				if v, ok := strings.CutPrefix(f, "be="); ok {
					server[0] = v
				} else if v, ok := strings.CutPrefix(f, "srv="); ok {
					server[1] = v
				}
			}
			if !shut[server[0]+"/"+server[1]] {
				continue
			}
			// If it has just ended by itself, the answer is a complaint, and no matter.
			if _, err := h.ask(ctx, h.master(), "@!"+pid+" shutdown session "+id); err != nil {
				return err
			}
		}
	}
	return nil
}

// Finished counts the answers that this host's own server of a service has given
// through this HAProxy since its last start or reload; ok is false where it cannot
// be told.
func (h *HAProxy) Finished(ctx context.Context, service string) (n uint64, ok bool) {
	const servers = "4 -1"
	text, err := h.ask(ctx, h.socket(), "show stat "+service+" "+servers)
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
			if strings.HasPrefix(column, "hrsp_") && row[i] != "" {
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

// askBound is far above what an answer takes, and below what anybody who waits for
// it could bear.
const askBound = 2 * time.Second

// ask puts one line to a socket of HAProxy's and returns the whole answer.
func (h *HAProxy) ask(ctx context.Context, socket, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return "", fmt.Errorf("ask HAProxy: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	_, err = io.WriteString(c, line+"\n")
	if err == nil {
		err = c.(*net.UnixConn).CloseWrite() // the master waits for it
	}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(c)
	}
	if ctx.Err() != nil {
		err = ctx.Err() // not that the connection was closed because of it
	}
	if err != nil {
		return "", fmt.Errorf("ask HAProxy %.60q: %w", line, err)
	}
	return string(text), nil
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
