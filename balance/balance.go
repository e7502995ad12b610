// Package balance drives HAProxy: it renders the configuration from the site's
// file, has HAProxy itself check it, reloads without losing a connection, and
// pushes which servers take traffic through the runtime socket.
//
//	site's file + haproxy.d/*.cfg --Configure--> haproxy.cfg --haproxy -c--> reload
//	routing table ----------------Apply--------> runtime socket, in one line
//
// Traffic never runs through Mainstay's process: HAProxy is a unit of its own and
// goes on when the agent is away. Every controller runs one, bound to every
// address of the site whether it is there or not, so an address that moves finds
// one listening.
//
// What operators add in haproxy.d/*.cfg below the configuration's folder is
// appended as it is, in the order of the names, and survives every rendering; a
// snippet that HAProxy refuses leaves the old configuration in force and is named.
//
// HAProxy makes no checks of its own: who serves, who hangs and who must not be
// written to is decided outside, by the leader and, for hosts that fell silent a
// moment ago, by this host's own agent, and never is the last server taken out.
// HAProxy tries another server where one refuses a connection or is slow to take it.
package balance

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/template"
	"time"

	"mainstay/fleet"
)

// Config says where HAProxy's things are.
type Config struct {
	Dir    string // of the configuration: /etc/mainstay
	Run    string // of the sockets: /run/mainstay
	Host   string // this host's name
	Binary string // "" means haproxy from the path
	// Reload makes the running HAProxy take the new configuration; it is not
	// called while none runs. It need not wait until that has happened.
	Reload func(ctx context.Context) error
}

// HAProxy is this host's HAProxy. Its methods may be called from any goroutine.
type HAProxy struct {
	cfg Config

	configuring sync.Mutex // one Configure at a time; Apply never waits for it
	refused     atomic.Pointer[string]

	mu      sync.Mutex // guards all below, and is held while HAProxy is told
	spec    fleet.Spec
	routes  fleet.Routes
	told    map[string]string // what each server was told last
	process string            // the worker that was told
}

// New returns the driver; nothing is touched yet.
func New(cfg Config) *HAProxy {
	if cfg.Binary == "" {
		cfg.Binary = "haproxy"
	}
	return &HAProxy{cfg: cfg, told: map[string]string{}}
}

func (h *HAProxy) file() string   { return filepath.Join(h.cfg.Dir, "haproxy.cfg") }
func (h *HAProxy) socket() string { return filepath.Join(h.cfg.Run, "haproxy.sock") }
func (h *HAProxy) master() string { return filepath.Join(h.cfg.Run, "haproxy-master.sock") }
func (h *HAProxy) states() string { return filepath.Join(h.cfg.Run, "haproxy.state") }

// takeBound is how long a reloaded HAProxy may need until it serves with the new
// configuration: many certificates on a busy machine take seconds.
const takeBound = 20 * time.Second

// Configure renders and checks the configuration, puts it in place, and reloads a
// running HAProxy that has another one. On an error the old one stays in force,
// also for a HAProxy that is started later. Apply goes on meanwhile.
func (h *HAProxy) Configure(ctx context.Context, spec fleet.Spec) error {
	h.configuring.Lock()
	defer h.configuring.Unlock()
	inForce, err := h.configure(ctx, spec)
	why := ""
	switch r, refused := errors.AsType[*Refusal](err); {
	case inForce:
	case ctx.Err() != nil:
		return err // it was cut short, and says nothing
	case refused:
		why = r.brief()
	default:
		why = err.Error()
	}
	h.refused.Store(&why)
	return err
}

// Refused says why the newest configuration is not in force; "" if it is.
func (h *HAProxy) Refused() string {
	if why := h.refused.Load(); why != nil {
		return *why
	}
	return ""
}

func (h *HAProxy) configure(ctx context.Context, spec fleet.Spec) (inForce bool, err error) {
	h.mu.Lock()
	h.spec = spec // also when it is refused: what runs must still be told its servers
	h.mu.Unlock()
	text, digest, snippets, err := h.compose(spec)
	if err != nil {
		return false, fmt.Errorf("the old configuration stays in force: %w", err)
	}
	old, err := os.ReadFile(h.file())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("read HAProxy's present configuration: %w", err)
	}
	if !bytes.Equal(old, text) {
		if err := h.check(ctx, spec, snippets, text); err != nil {
			return false, fmt.Errorf("the old configuration stays in force: %w", err)
		}
		if err := put(h.file(), text, 0o640); err != nil {
			return false, fmt.Errorf("put HAProxy's configuration in place: %w", err)
		}
	}
	info, err := h.ask(ctx, h.socket(), "show info")
	if err != nil || field(info, "description") == digest {
		return true, nil // none runs, and it will start with this one; or it has it
	}
	if err := h.reload(ctx, digest); err != nil {
		if len(old) > 0 {
			err = errors.Join(err, put(h.file(), old, 0o640))
		}
		return false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.told)
	return true, h.tell(ctx)
}

// Check says whether HAProxy would take what Configure would give it, and changes
// nothing. A *Refusal in its error says whose fault it is.
func (h *HAProxy) Check(ctx context.Context, spec fleet.Spec) error {
	text, _, snippets, err := h.compose(spec)
	if err != nil {
		return err
	}
	return h.check(ctx, spec, snippets, text)
}

func (h *HAProxy) compose(spec fleet.Spec) (text []byte, digest string, snippets []snippet, err error) {
	if snippets, err = h.snippets(); err != nil {
		return nil, "", nil, err
	}
	text, digest, err = h.render(spec, snippets)
	return text, digest, snippets, err
}

// reload returns when the running HAProxy serves with the configuration of that
// digest.
func (h *HAProxy) reload(ctx context.Context, digest string) error {
	if err := h.save(ctx); err != nil {
		return err
	}
	if err := h.cfg.Reload(ctx); err != nil {
		return fmt.Errorf("reload HAProxy, the old configuration stays in force: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, takeBound)
	defer cancel()
	for {
		info, err := h.ask(ctx, h.socket(), "show info")
		if err == nil && field(info, "description") == digest {
			// The master is back a moment later than its worker.
			if _, err = h.ask(ctx, h.master(), "show proc"); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("reload HAProxy: it has not taken the new configuration within %v, and goes on with the old one: journalctl -u mainstay-haproxy says why (a port that somebody else has?)", takeBound))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// put replaces a file whole or not at all, also over a loss of power.
func put(name string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

// check lets HAProxy judge a configuration; a snippet that it refuses is named.
func (h *HAProxy) check(ctx context.Context, spec fleet.Spec, snippets []snippet, text []byte) error {
	said, err := h.judge(ctx, text)
	if err == nil {
		return nil
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("check HAProxy's configuration: there is no haproxy here: apt-get install haproxy: %w", err)
	}
	if !errors.As(err, new(*exec.ExitError)) {
		return fmt.Errorf("check HAProxy's configuration: %w", err)
	}
	// Whose fault is it? Not every complaint names a line, so ask without the
	// snippets, then with one after another.
	culprit := ""
	for n := range snippets {
		text, _, err := h.render(spec, snippets[:n])
		if err != nil {
			return err
		}
		if _, err := h.judge(ctx, text); errors.As(err, new(*exec.ExitError)) {
			break
		} else if err != nil {
			return fmt.Errorf("check HAProxy's configuration: %w", err)
		}
		culprit = filepath.Join(h.cfg.Dir, "haproxy.d", snippets[n].Name)
	}
	return &Refusal{Snippet: culprit, Said: said}
}

// Refusal is HAProxy's own no to a configuration.
type Refusal struct {
	Snippet string // the file to blame; "" for the site's
	Said    string
}

func (r *Refusal) Error() string { return r.brief() + ": " + r.Said }

// brief leaves out HAProxy's words: they may quote a line that holds a secret, and
// reports are kept and sent about.
func (r *Refusal) brief() string {
	return "HAProxy refuses the configuration because of " + cmp.Or(r.Snippet, "the site's file")
}

// judge asks HAProxy about a configuration that is not in force yet, and returns
// its complaints with the places where a person would look for them.
func (h *HAProxy) judge(ctx context.Context, text []byte) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, takeBound)
	defer cancel()
	// Not beside the one in force: who only checks writes nothing there.
	f, err := os.CreateTemp("", "mainstay-*.cfg")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, h.cfg.Binary, "-c", "-f", f.Name()).CombinedOutput()
	if ctx.Err() != nil {
		return "", ctx.Err() // a check that was cut short says nothing
	}
	var said []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "[NOTICE]") {
			said = append(said, h.place(strings.TrimSpace(line), f.Name(), text))
		}
	}
	return strings.Join(said, "; "), err
}

var placed = regexp.MustCompile(`\[[^\]\s]*:(\d+)\]`)

// place puts the line of a snippet in place of that of the whole file, and the file's
// own name in place of that of its draft.
func (h *HAProxy) place(said, name string, text []byte) string {
	said = placed.ReplaceAllStringFunc(said, func(at string) string {
		n, err := strconv.Atoi(placed.FindStringSubmatch(at)[1])
		lines := bytes.Split(text, []byte("\n"))
		if err != nil || !strings.HasPrefix(at, "["+name) || n > len(lines) {
			return at
		}
		for i := n - 1; i >= 0; i-- {
			if title, ok := bytes.CutPrefix(lines[i], []byte(snippetTitle)); ok {
				return fmt.Sprintf("[haproxy.d/%s:%d]", title, n-1-i)
			}
		}
		return at
	})
	return strings.ReplaceAll(said, name, h.file())
}

// save keeps the servers' states where the next process finds them, be it after a
// reload or after a crash.
func (h *HAProxy) save(ctx context.Context) error {
	state, err := h.ask(ctx, h.socket(), "show servers state")
	if err == nil {
		err = os.WriteFile(h.states()+".tmp", []byte(state), 0o600)
	}
	if err == nil {
		err = os.Rename(h.states()+".tmp", h.states())
	}
	if err != nil {
		return fmt.Errorf("save the states of HAProxy's servers: %w", err)
	}
	return nil
}

// snippet is a piece of an operator's own configuration.
type snippet struct{ Name, Text string }

// sectionWords begin a section of HAProxy's configuration.
var sectionWords = []string{"backend", "cache", "defaults", "fcgi-app", "frontend", "global", "http-errors", "listen",
	"log-forward", "mailers", "peers", "program", "resolvers", "ring", "userlist"}

func (h *HAProxy) snippets() ([]snippet, error) {
	names, err := filepath.Glob(filepath.Join(h.cfg.Dir, "haproxy.d", "*.cfg"))
	if err != nil {
		return nil, fmt.Errorf("look for HAProxy's snippets: %w", err)
	}
	slices.Sort(names)
	var out []snippet
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read HAProxy's snippet: %w", err)
		}
		if line, word := firstWord(string(text)); word != "" && !slices.Contains(sectionWords, word) {
			return nil, fmt.Errorf("HAProxy's snippet %s:%d: it must begin with a section (frontend, backend, listen ...), not with %q, "+
				"which would change a section of Mainstay's", name, line, word)
		}
		out = append(out, snippet{filepath.Base(name), strings.TrimRight(string(text), "\n")})
	}
	return out, nil
}

func firstWord(text string) (line int, word string) {
	for l := range strings.Lines(text) {
		line++
		if words := strings.Fields(l); len(words) > 0 && !strings.HasPrefix(words[0], "#") {
			return line, words[0]
		}
	}
	return line, ""
}

// section is one service behind HAProxy, ready to print.
type section struct {
	Name, Mode string
	Binds      []string
	Writer     bool
	Servers    []server
}

type server struct {
	Host string
	Addr netip.AddrPort
}

const snippetTitle = "# --- haproxy.d/"

var configuration = template.Must(template.New("haproxy.cfg").Parse(`# Written by Mainstay from the site's file of {{.Site}}; do not edit.
# Your own sections: files named *.cfg in haproxy.d beside this one.
#
# No server is checked from here. Checks know too little: an HTTP check waits behind
# a slow request, a TCP check fails where many wait in line, and either way sound
# servers would be taken out, and in the end the last; a database counts each
# connection that is closed before its greeting was answered, and locks this host
# out. The agents probe, each its own host, and tell through the socket. Until they
# do, a connection that is refused or not taken within 300 ms goes elsewhere.
global
    # By this Mainstay sees which configuration a running HAProxy has.
    description {{.Digest}}
    user haproxy
    group haproxy
    stats socket {{.Socket}} mode 600 level admin expose-fd listeners
    server-state-file {{.States}}
    # Where the machine allows less, HAProxy serves fewer, rather than nobody.
    no strict-limits
    maxconn 20000
    log /dev/log local0 notice
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets

defaults
    log global
    option dontlognull
    retries 3
    option redispatch 1
    timeout connect 300ms
    timeout client 120s
    timeout server 120s
    timeout http-request 10s
    timeout queue 10s
    load-server-state-from-file global
{{range .Sections}}
listen {{.Name}}
    mode {{.Mode}}
{{- range .Binds}}
    bind {{.}}
{{- end}}
{{- if eq .Mode "http"}}
    option httplog
    option forwardfor
    # A reload ends an idle connection only with its next answer, which says so: who
    # asks just then loses nothing.
    option idle-close-on-response
    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
{{- else}}
    option tcplog
{{- end}}
{{- if .Writer}}
    timeout client 3h
    timeout server 3h
    # The first server in this order that may take traffic takes all of it. Mainstay
    # drains those before the one that it has chosen; those after it stand by, and
    # take over at once when it refuses a connection.
    balance first
{{- else}}
    balance leastconn
{{- end}}
{{- range .Servers}}
    server {{.Host}} {{.Addr}}
{{- end}}
{{end}}
{{- range .Snippets}}
{{$.Title}}{{.Name}}
{{.Text}}
{{end}}`))

// render writes the configuration: the same on every host that has the same snippets
// and certificate, so that two files that differ show a fault. digest stands in it, and is what it is told by.
func (h *HAProxy) render(spec fleet.Spec, snippets []snippet) (text []byte, digest string, err error) {
	data := struct {
		Site, Digest, Socket, States, Title string
		Sections                            []section
		Snippets                            []snippet
	}{Site: spec.Site, Socket: h.socket(), States: h.states(), Title: snippetTitle, Snippets: snippets}
	for _, v := range spec.Services {
		for _, f := range v.Faces(spec.Homes(v)) {
			s, err := sectionOf(spec, v, f)
			if err != nil {
				return nil, "", fmt.Errorf("HAProxy's section %s: %w", f.Name, err)
			}
			data.Sections = append(data.Sections, s)
		}
	}
	sum := fnv.New64a()
	if cert, err := os.ReadFile(spec.TLS.Certificate); err == nil {
		// A renewed one under the same name is another configuration; where it cannot be
		// read, HAProxy says so.
		own := sha256.Sum256(cert)
		sum.Write(own[:])
	}
	var b bytes.Buffer
	if err := configuration.Execute(sum, data); err == nil {
		data.Digest = fmt.Sprintf("mainstay-%016x", sum.Sum64())
		err = configuration.Execute(&b, data)
		if err == nil {
			return b.Bytes(), data.Digest, nil
		}
	}
	return nil, "", fmt.Errorf("render HAProxy's configuration: %w", err)
}

func sectionOf(spec fleet.Spec, v fleet.Service, f fleet.Face) (section, error) {
	s := section{Name: f.Name, Mode: v.Listen.Protocol, Writer: v.Listen.Writer}
	if s.Mode == "" {
		s.Mode = "tcp"
	}
	end := ""
	if v.Listen.TLS {
		if spec.TLS.Certificate == "" {
			return s, errors.New("it wants TLS, but the site's file names no certificate (tls: {certificate: FILE})")
		}
		end = " ssl crt " + spec.TLS.Certificate
		if s.Mode == "http" {
			end += " alpn h2,http/1.1"
		}
	}
	for _, name := range v.Listen.Addresses {
		a, ok := spec.Address(name)
		if !ok {
			continue // a site need not have every address that the catalogue would use
		}
		// "transparent" binds an address that is elsewhere at present.
		s.Binds = append(s.Binds, netip.AddrPortFrom(a.Addr, uint16(f.Port)).String()+" transparent"+end)
	}
	if v.Listen.Local {
		s.Binds = append(s.Binds, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(f.Port)).String())
	}
	if len(s.Binds) == 0 {
		return s, errors.New("it listens on no address of this site")
	}
	port := v.Listen.Backend
	if port == 0 {
		port = v.Listen.Port
	}
	order := f.Order // "balance first" goes by it, and commands counts on it
	if !s.Writer {
		order = slices.Sorted(slices.Values(order))
	}
	for _, name := range order {
		h, _ := spec.Host(name)
		addr, ok := h.Addresses[spec.ServerNetwork(v)]
		if !ok {
			return s, fmt.Errorf("host %s has no address on %s", name, spec.ServerNetwork(v))
		}
		s.Servers = append(s.Servers, server{Host: name, Addr: netip.AddrPortFrom(addr, uint16(port))})
	}
	return s, nil
}
