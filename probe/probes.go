package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"mainstay/fleet"
)

// Row is one kind of check.
type Row struct {
	Name  string // as in a service's check: {kind: NAME}
	About string // one sentence
	// Ask puts the question on a fresh connection, whose deadline is set, and
	// returns nil if the answer is as check expects. An error that is not the
	// connection's own means a bad answer.
	Ask func(conn net.Conn, check fleet.Check) error
}

// Probes is the table of all checks.
func Probes() []Row {
	return []Row{
		{"tcp", "a connection is accepted; the kernel does that for a stopped process too, so it sees no hang", askTCP},
		{"http", "GET of a path answers an expected status", askHTTP},
		{"memcached", "the version command is answered", askMemcached},
	}
}

// Kind is what came of a probe.
type Kind string

// The kinds.
const (
	Answered Kind = "answered" // as expected
	Refused  Kind = "refused"  // nobody listens
	Timeout  Kind = "timeout"  // nothing is known
	Bad      Kind = "bad"      // an answer, but not as expected
)

// Result is one answer, or its absence.
type Result struct {
	OK      bool          `json:"ok"` // Kind is Answered
	Kind    Kind          `json:"kind"`
	Latency time.Duration `json:"latency"` // from the first packet to the verdict
	// Why names the target and what was found; empty when OK.
	Why string `json:"why,omitempty"`
}

// DefaultDeadline holds for a check that names none.
const DefaultDeadline = time.Second

// Probe carries out check once against check.Port of target, within
// check.Deadline and ctx. An error means that the check itself is none (an
// unknown kind, no port); it says nothing about the service.
func Probe(ctx context.Context, target netip.Addr, check fleet.Check) (Result, error) {
	rows := Probes()
	i := slices.IndexFunc(rows, func(r Row) bool { return r.Name == check.Kind })
	if i < 0 {
		var names []string
		for _, r := range rows {
			names = append(names, r.Name)
		}
		return Result{}, fmt.Errorf("check %q: no such kind; there are: %s", check.Kind, strings.Join(names, ", "))
	}
	if check.Port < 1 || check.Port > 65535 || !target.IsValid() {
		return Result{}, fmt.Errorf("check %s: %v port %d is no place to ask", check.Kind, target, check.Port)
	}
	if check.Deadline <= 0 {
		check.Deadline = DefaultDeadline
	}
	to := netip.AddrPortFrom(target, uint16(check.Port))
	ctx, cancel := context.WithTimeout(ctx, check.Deadline)
	defer cancel()
	start := time.Now()
	err := ask(ctx, to, rows[i].Ask, check)
	result := Result{Kind: kind(ctx, err), Latency: time.Since(start)}
	switch result.Kind {
	case Answered:
		result.OK = true
	case Timeout:
		why := err.Error() // given up by the caller, or no way there
		if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
			why = "not within " + check.Deadline.String()
		}
		result.Why = fmt.Sprintf("%s %s%s: no answer: %s", check.Kind, to, check.Path, why)
	default:
		result.Why = fmt.Sprintf("%s %s%s: %v", check.Kind, to, check.Path, err)
	}
	return result, nil
}

// ask opens a connection that dies with ctx, and puts the question on it.
func ask(ctx context.Context, to netip.AddrPort, question func(net.Conn, fleet.Check) error, check fleet.Check) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	return question(conn, check)
}

func kind(ctx context.Context, err error) Kind {
	var n net.Error
	switch {
	case err == nil:
		return Answered
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case ctx.Err() != nil, errors.As(err, &n) && n.Timeout():
		return Timeout
	// The way there is broken; of the service nothing is known.
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return Timeout
	}
	return Bad
}

func askTCP(net.Conn, fleet.Check) error { return nil }

// most bounds what is read of an answer.
const most = 64 << 10

func askHTTP(conn net.Conn, check fleet.Check) error {
	path := check.Path
	if path == "" {
		path = "/"
	}
	// The connection carries the deadline.
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+conn.RemoteAddr().String()+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", "mainstay-probe")
	r.Close = true
	if err := r.Write(conn); err != nil {
		return err
	}
	limited := &io.LimitedReader{R: conn, N: most}
	a, err := http.ReadResponse(bufio.NewReader(limited), r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	switch {
	case len(check.Expect) > 0 && !slices.Contains(check.Expect, a.StatusCode):
		return fmt.Errorf("it answers %s, expected is %v", a.Status, check.Expect)
	case len(check.Expect) == 0 && a.StatusCode >= 500:
		return fmt.Errorf("it answers %s", a.Status)
	}
	// A service that hangs between head and body has not answered.
	if _, err = io.Copy(io.Discard, a.Body); limited.N == 0 {
		return nil // a long answer is an answer
	}
	return err
}

func askMemcached(conn net.Conn, _ fleet.Check) error {
	if _, err := io.WriteString(conn, "version\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 256)).ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "VERSION ") {
		return fmt.Errorf("it answers %q to version", strings.TrimSpace(line))
	}
	return nil
}
