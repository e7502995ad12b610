// Package balance drives HAProxy: it renders the configuration from the site's
// file, has HAProxy itself check it, reloads without losing a connection, and
// pushes which servers take traffic through the runtime socket.
//
// Traffic never runs through Mainstay's process: HAProxy is a unit of its own and
// goes on when the agent is away. Every controller runs one, bound to every
// address of the site whether it is there or not, so an address that moves finds
// one listening.
//
// What operators add in haproxy.d/*.cfg below the configuration folder is
// appended as it is, in the order of the names, and survives every rendering; a
// snippet that HAProxy refuses keeps the old configuration in force and is named.
package balance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	// called while none runs.
	Reload func(ctx context.Context) error
}

// HAProxy is this host's HAProxy. Its methods may be called from any goroutine.
type HAProxy struct {
	cfg Config

	mu     sync.Mutex
	spec   fleet.Spec
	pushed map[string]fleet.Route // server -> what it was told last
	since  string                 // the process that was told
}

// New returns the driver; nothing is touched yet.
func New(cfg Config) *HAProxy {
	if cfg.Binary == "" {
		cfg.Binary = "haproxy"
	}
	return &HAProxy{cfg: cfg, pushed: map[string]fleet.Route{}}
}

func (h *HAProxy) file() string      { return filepath.Join(h.cfg.Dir, "haproxy.cfg") }
func (h *HAProxy) socket() string    { return filepath.Join(h.cfg.Run, "haproxy.sock") }
func (h *HAProxy) stateFile() string { return filepath.Join(h.cfg.Run, "haproxy.state") }

// Configure renders and checks the configuration and, if it changed, puts it in
// place and reloads a running HAProxy. On an error the old one stays in force.
func (h *HAProxy) Configure(ctx context.Context, spec fleet.Spec) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	snippets, err := h.snippets()
	if err != nil {
		return err
	}
	text, err := Render(spec, h.cfg.Host, h.socket(), h.stateFile(), snippets)
	if err != nil {
		return err
	}
	h.spec = spec
	if old, err := os.ReadFile(h.file()); err == nil && bytes.Equal(old, text) {
		return nil
	}
	next := h.file() + ".new"
	if err := os.WriteFile(next, text, 0o640); err != nil {
		return fmt.Errorf("write HAProxy's configuration: %w", err)
	}
	defer os.Remove(next) // fails once it has been renamed
	if err := h.check(ctx, next); err != nil {
		return err
	}
	if err := os.Rename(next, h.file()); err != nil {
		return fmt.Errorf("put HAProxy's configuration in place: %w", err)
	}
	if _, err := h.command(ctx, "show version"); err != nil {
		return nil // none runs; it starts with the new one
	}
	if err := h.save(ctx); err != nil {
		return err
	}
	if err := h.cfg.Reload(ctx); err != nil {
		return fmt.Errorf("reload HAProxy: %w", err)
	}
	clear(h.pushed)
	return nil
}

// check lets HAProxy judge a configuration.
func (h *HAProxy) check(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, h.cfg.Binary, "-c", "-q", "-f", path).CombinedOutput()
	if err == nil {
		return nil
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("check HAProxy's configuration: no haproxy here: apt-get install haproxy: %w", err)
	}
	return fmt.Errorf("HAProxy refuses the new configuration, the old one stays in force (snippets are in %s): %w: %s",
		filepath.Join(h.cfg.Dir, "haproxy.d"), err, strings.TrimSpace(string(out)))
}

// save keeps the servers' states over a reload.
func (h *HAProxy) save(ctx context.Context) error {
	state, err := h.command(ctx, "show servers state")
	if err != nil {
		return fmt.Errorf("save the states of HAProxy's servers: %w", err)
	}
	if err := os.WriteFile(h.stateFile(), []byte(state), 0o600); err != nil {
		return fmt.Errorf("save the states of HAProxy's servers: %w", err)
	}
	return nil
}

// snippet is a piece of an operator's own configuration.
type snippet struct{ Name, Text string }

func (h *HAProxy) snippets() ([]snippet, error) {
	names, err := filepath.Glob(filepath.Join(h.cfg.Dir, "haproxy.d", "*.cfg"))
	if err != nil {
		return nil, fmt.Errorf("look for HAProxy snippets: %w", err)
	}
	slices.Sort(names)
	var out []snippet
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read HAProxy snippet: %w", err)
		}
		out = append(out, snippet{filepath.Base(name), strings.TrimRight(string(text), "\n")})
	}
	return out, nil
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
	Addr string
}

var configuration = template.Must(template.New("haproxy.cfg").Parse(`# Written by Mainstay from the site's file of {{.Site}}; do not edit.
# Your own sections: files named *.cfg in haproxy.d beside this one.
global
    stats socket {{.Socket}} mode 600 level admin expose-fd listeners
    server-state-file {{.State}}
    maxconn 20000
    # Where the system allows fewer files, fewer connections are better than none.
    no strict-limits
    log /dev/log local0 notice
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets

defaults
    log global
    option dontlognull
    option redispatch 1
    retries 3
    # A host that died without a word answers no SYN: the next one is tried soon.
    timeout connect 300ms
    timeout client 120s
    timeout server 120s
    timeout http-request 10s
    timeout queue 10s
    timeout check 1s
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
    http-request set-header X-Forwarded-Proto https if { ssl_fc }
    balance leastconn
{{- else if .Writer}}
    option tcplog
    # The first server in this order takes everything, the next one at once when it
    # is down. Mainstay drains those before the writer it has chosen.
    balance first
    timeout client 3h
    timeout server 3h
{{- else}}
    option tcplog
    balance leastconn
{{- end}}
    # By TCP only: a single worker answers an HTTP check after the request it is at,
    # and a sound server would be cut off in the middle of it. Layer 7 is probed by
    # each host's agent, which knows whether its service works or hangs.
    default-server check inter 1s fastinter 200ms downinter 500ms fall 2 rise 1{{if .Writer}} on-marked-down shutdown-sessions on-marked-up shutdown-backup-sessions{{end}}
{{- range .Servers}}
    server {{.Host}} {{.Addr}}
{{- end}}
{{end}}
{{- range .Snippets}}
# --- haproxy.d/{{.Name}} ---
{{.Text}}
{{end}}`))

// Render writes the configuration of one host. It is the same on every host but
// for the order of nothing: equal files everywhere make faults easy to compare.
func Render(spec fleet.Spec, host, socket, state string, snippets []snippet) ([]byte, error) {
	data := struct {
		Site, Socket, State string
		Sections            []section
		Snippets            []snippet
	}{Site: spec.Site, Socket: socket, State: state, Snippets: snippets}
	for _, v := range spec.Services {
		if v.Listen.Port == 0 {
			continue
		}
		s, err := sectionOf(spec, v)
		if err != nil {
			return nil, fmt.Errorf("HAProxy section %s: %w", v.Name, err)
		}
		data.Sections = append(data.Sections, s)
	}
	var b bytes.Buffer
	if err := configuration.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("render HAProxy's configuration: %w", err)
	}
	return b.Bytes(), nil
}

func sectionOf(spec fleet.Spec, v fleet.Service) (section, error) {
	s := section{Name: v.Name, Mode: v.Listen.Protocol, Writer: v.Listen.Writer}
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
		s.Binds = append(s.Binds, netip.AddrPortFrom(a.Addr, uint16(v.Listen.Port)).String()+" transparent"+end)
	}
	if v.Listen.Local {
		s.Binds = append(s.Binds, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(v.Listen.Port)).String())
	}
	if len(s.Binds) == 0 {
		return s, errors.New("it listens on no address of this site")
	}
	for _, name := range spec.Homes(v) {
		h, _ := spec.Host(name)
		addr, ok := h.Addresses[networkOf(spec, v)]
		if !ok {
			return s, fmt.Errorf("host %s has no address on %s", name, networkOf(spec, v))
		}
		port := v.Listen.Backend
		if port == 0 {
			port = v.Listen.Port
		}
		s.Servers = append(s.Servers, server{Host: name, Addr: netip.AddrPortFrom(addr, uint16(port)).String()})
	}
	return s, nil
}

// networkOf is the network over which HAProxy reaches a service's servers.
func networkOf(spec fleet.Spec, v fleet.Service) string {
	if v.Listen.Network != "" {
		return v.Listen.Network
	}
	for _, n := range spec.Networks {
		if n.Name == "management" {
			return n.Name
		}
	}
	if len(spec.Networks) > 0 {
		return spec.Networks[0].Name
	}
	return ""
}
