package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// How the client of a story or a benchmark asks, unless told else: a try begins
// every 20 ms, each has 100 ms of its own, and they overlap, because a SYN that
// is lost is sent again only after a second.
const (
	ProbeEvery    = 20 * time.Millisecond
	ProbePatience = 100 * time.Millisecond
)

// Probe is a client that asks a URL again and again, each time on a connection of
// its own, and writes down what came of every try.
type Probe struct {
	URL             string
	Address         netip.AddrPort // connect here; the zero value: what URL names
	Every, Patience time.Duration
	Body            string // POST it as JSON; empty: GET
	Expect          int    // the status that is a success
}

// Try is one try of a Probe.
type Try struct {
	Begun time.Time     `json:"begun"`
	Took  time.Duration `json:"took"`
	OK    bool          `json:"ok"`
	Why   string        `json:"why,omitempty"` // of a failure
	By    string        `json:"by,omitempty"`  // the answer's header "Mainstay-Host", or "Server-Host", if any
}

// Run tries until ctx ends and writes each Try as a line of JSON, in the order in
// which they end.
func (p Probe) Run(ctx context.Context, out io.Writer) error {
	dialer := net.Dialer{}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if p.Address.IsValid() {
				addr = p.Address.String()
			}
			return dialer.DialContext(ctx, network, addr)
		},
	}}
	var mu sync.Mutex
	w := bufio.NewWriter(out)
	enc := json.NewEncoder(w)
	var wait sync.WaitGroup
	ticker := time.NewTicker(p.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			wait.Wait()
			return w.Flush()
		case <-ticker.C:
		}
		wait.Go(func() {
			t := p.try(ctx, &client)
			if ctx.Err() != nil && !t.OK {
				return // cut short by the end, not by a fault
			}
			mu.Lock()
			defer mu.Unlock()
			if enc.Encode(t) == nil {
				_ = w.Flush() // a reader that is gone ends ctx
			}
		})
	}
}

func (p Probe) try(ctx context.Context, client *http.Client) Try {
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	t := Try{Begun: time.Now()}
	method, body := http.MethodGet, io.Reader(nil)
	if p.Body != "" {
		method, body = http.MethodPost, strings.NewReader(p.Body)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.URL, body)
	if err == nil {
		req.Header.Set("Content-Type", "application/json")
		var resp *http.Response
		if resp, err = client.Do(req); err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode != p.Expect {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
		}
	}
	t.Took = time.Since(t.Begun)
	t.OK = err == nil
	if err != nil {
		t.Why = err.Error()
	}
	return t
}

// Watch runs a Probe on the lab's client, in a process of its own, and collects
// its tries until the returned function is called.
func (l *Lab) Watch(ctx context.Context, p Probe, binary string) (*Log, error) {
	argv := []string{binary, "lab", "probe", p.URL, "--every", p.Every.String(), "--patience", p.Patience.String(), "--expect", fmt.Sprint(p.Expect)}
	if p.Body != "" {
		argv = append(argv, "--body", p.Body)
	}
	if p.Address.IsValid() {
		argv = append(argv, "--address", p.Address.String())
	}
	ctx, cancel := context.WithCancel(ctx)
	log := &Log{cancel: cancel, done: make(chan struct{})}
	pipe, out := io.Pipe()
	var errs strings.Builder
	go func() {
		err := l.Exec(ctx, Client, argv, nil, out, &errs)
		switch {
		case ctx.Err() != nil:
			err = nil // it was told to stop
		case err != nil:
			err = fmt.Errorf("the client's probe of %s: %w: %s", p.URL, err, errs.String())
		}
		out.CloseWithError(err)
	}()
	go log.read(pipe)
	return log, nil
}

// Log is what a Probe has seen so far.
type Log struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	tries []Try
	err   error
}

func (g *Log) read(r io.Reader) {
	defer close(g.done)
	d := json.NewDecoder(r)
	for {
		var t Try
		err := d.Decode(&t)
		g.mu.Lock()
		if err != nil {
			if err != io.EOF {
				g.err = err
			}
			g.mu.Unlock()
			return
		}
		g.tries = append(g.tries, t)
		g.mu.Unlock()
	}
}

// Stop ends the probe and returns all tries.
func (g *Log) Stop() ([]Try, error) {
	g.cancel()
	<-g.done
	return g.Tries(), g.err
}

// Tries returns a copy of what was seen so far.
func (g *Log) Tries() []Try {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]Try(nil), g.tries...)
}

// Gap is the longest time, between from and to, during which no try ended well:
// from the end of one success to the end of the next.
func Gap(tries []Try, from, to time.Time) (gap time.Duration, begun, ended time.Time) {
	var ends []time.Time
	for _, t := range tries {
		if end := t.Begun.Add(t.Took); t.OK {
			ends = append(ends, end)
		}
	}
	last := from
	for _, end := range ends { // in the order of their ends
		if end.Before(from) {
			last = end
			continue
		}
		if last.After(to) {
			break
		}
		if d := end.Sub(last); d > gap {
			gap, begun, ended = d, last, end
		}
		last = end
	}
	if last.Before(to) && to.Sub(last) > gap {
		gap, begun, ended = to.Sub(last), last, time.Time{}
	}
	return gap, begun, ended
}

// Slots is the share of slots of the given width between from and to in which at
// least one try ended well.
func Slots(tries []Try, from, to time.Time, width time.Duration) (good, all int) {
	all = int(to.Sub(from) / width)
	if all <= 0 {
		return 0, 0
	}
	hit := make([]bool, all)
	for _, t := range tries {
		if i := int(t.Begun.Add(t.Took).Sub(from) / width); t.OK && i >= 0 && i < all && !t.Begun.Add(t.Took).Before(from) {
			hit[i] = true
		}
	}
	for _, h := range hit {
		if h {
			good++
		}
	}
	return good, all
}
