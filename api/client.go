package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"mainstay/fleet"
)

func copyBounded(dst io.Writer, r *http.Request) (int64, error) {
	n, err := io.Copy(dst, io.LimitReader(r.Body, maxBody+1))
	if err == nil && n > maxBody {
		err = fmt.Errorf("larger than %d bytes", maxBody)
	}
	return n, err
}

// Client speaks to one Mainstay.
type Client struct {
	base string
	http *http.Client
}

// NewUnix returns a client over the Unix socket of this host, for root.
func NewUnix(socket string) *Client {
	return &Client{base: "http://mainstay", http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// idle is how long a connection is kept that nobody uses: it costs both ends a ping every two seconds, and the other
// end some fifty kilobytes; the idle ones of ten thousand hosts would cost a voter more than their beats.
const idle = 15 * time.Second

// NewTLS returns a client of a host ("c1:7401", "10.0.0.11:7401").
func NewTLS(hostport string, cfg *tls.Config) *Client {
	return &Client{base: "https://" + hostport, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: cfg, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 4, IdleConnTimeout: idle,
		DialContext: (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 5 * time.Second}).DialContext,
		// A peer that vanished without a word is noticed by HTTP/2 pings, not by
		// the fifteen minutes that TCP would take.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 2 * time.Second},
	}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Do sends body (JSON, or bytes as they are) and decodes the answer into out,
// which may be nil, a *[]byte or anything for JSON. An answer that is not 2xx is
// a *Refusal.
func (c *Client) Do(ctx context.Context, method, path string, body, out any) error {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, r)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	// What is passed on while a person's request is served is that person's.
	if p, ok := ctx.Value(personKey{}).(Person); ok && !p.Host {
		req.Header.Set(personHeader, p.Name)
	} else if name := os.Getenv("SUDO_USER"); name != "" {
		req.Header.Set(personHeader, name)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return problem(resp)
	}
	switch o := out.(type) {
	case nil:
		_, err = io.Copy(io.Discard, resp.Body)
	case *[]byte:
		*o, err = io.ReadAll(resp.Body)
	case io.Writer:
		_, err = io.Copy(o, resp.Body)
	default:
		err = json.NewDecoder(resp.Body).Decode(out)
	}
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return nil
}

func problem(resp *http.Response) error {
	r := &Refusal{Code: resp.StatusCode}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil || json.Unmarshal(text, &r.Problem) != nil || r.Problem.Error == "" {
		r.Problem = Problem{Error: resp.Status + " " + strings.TrimSpace(string(text))}
	}
	return r
}

// Status returns what is true now.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.Do(ctx, "GET", "/v1/status", nil, &s)
}

// LocalStatus returns what the answering host alone knows, asking no other.
func (c *Client) LocalStatus(ctx context.Context) (Status, error) {
	var s Status
	return s, c.Do(ctx, "GET", "/v1/status?local", nil, &s)
}

// Events returns history after an id; limit 0 is all that is kept.
func (c *Client) Events(ctx context.Context, after string, limit int) ([]fleet.Event, error) {
	q := url.Values{"after": {after}}
	if limit > 0 {
		q.Set("limit", fmt.Sprint(limit))
	}
	var out []fleet.Event
	return out, c.Do(ctx, "GET", "/v1/events?"+q.Encode(), nil, &out)
}

// Follow calls f for each event after an id until ctx ends, f returns an error,
// or the connection breaks; it returns the last id seen, from which to go on.
func (c *Client) Follow(ctx context.Context, after string, f func(fleet.Event) error) (last string, err error) {
	last = after
	req, err := http.NewRequestWithContext(ctx, "GET", c.base+"/v1/events?after="+url.QueryEscape(after), nil)
	if err != nil {
		return last, fmt.Errorf("follow events: %w", err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := c.http.Do(req)
	if err != nil {
		return last, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return last, problem(resp)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxBody)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e fleet.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return last, fmt.Errorf("follow events: %w", err)
		}
		last = e.ID
		if err := f(e); err != nil {
			return last, err
		}
	}
	if err := lines.Err(); err != nil {
		return last, err
	}
	return last, errors.New("the event stream ended")
}

// Order sends an order and returns its effect; without an answer, and after a
// time-out, the outcome is fleet.NoWord.
func (c *Client) Order(ctx context.Context, o fleet.Order) fleet.Effect {
	var e fleet.Effect
	if err := c.Do(ctx, "POST", "/v1/host/order", o, &e); err != nil {
		return fleet.Effect{Key: o.Key, From: o.To, Outcome: fleet.NoWord, Why: err.Error(), Wall: time.Now()}
	}
	return e
}

// Neighbour asks a host over the network to whose address this client goes whether it hears this
// one. An answer of any sort says so: one of an earlier version knows no such question.
func (c *Client) Neighbour(ctx context.Context) error {
	err := c.Do(ctx, "POST", "/v1/host/neighbour", nil, nil)
	if _, answered := errors.AsType[*Refusal](err); answered {
		return nil
	}
	return err
}

// Report delivers a host's testimony to a voter, with the version of its site file.
func (c *Client) Report(ctx context.Context, r fleet.Report, site string) error {
	return c.Do(ctx, "POST", "/v1/host/report?site="+url.QueryEscape(site), r, nil)
}
