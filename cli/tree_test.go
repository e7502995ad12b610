package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mainstay/api"
	"mainstay/fence"
	"mainstay/fleet"
	"mainstay/lab"
	"mainstay/service"
)

// tree calls f for each command below root.
func tree(cmd *cobra.Command, f func(*cobra.Command)) {
	for _, c := range cmd.Commands() {
		f(c)
		tree(c, f)
	}
}

// TestEveryCommand: each has a line, an example that can be typed as it stands, and
// refuses what it does not know with exit code 2.
func TestEveryCommand(t *testing.T) {
	h := newHost(t)
	root := (&app{}).root()
	tree(root, func(cmd *cobra.Command) {
		path := strings.Fields(cmd.CommandPath())[1:]
		if path[0] == "completion" && len(path) > 1 {
			return // cobra's own, with examples of its own in the text
		}
		name := strings.Join(path, " ")
		if cmd.Short == "" || cmd.Example == "" && path[0] != "completion" {
			t.Errorf("%s: no line of help, or no example", name)
		}
		for line := range strings.Lines(cmd.Example) {
			if err := typed(line); err != nil {
				t.Errorf("%s: its example %q: %v", name, strings.TrimSpace(line), err)
			}
		}
		h.want(exitUsage, []string{"See mainstay " + name + " --help"}, append(slices.Clone(path), "--no-such-flag")...)
		if cmd.HasSubCommands() {
			h.want(exitUsage, []string{`unknown command "nosuch"`, "See mainstay " + name + " --help"}, append(slices.Clone(path), "nosuch")...)
			h.want(0, []string{"Available Commands"}, path...)
		}
	})
	h.want(exitUsage, []string{"See mainstay --help"}, "nosuch")
	h.want(exitUsage, []string{"did you mean lead?"}, "voters", "laed")
	h.want(exitUsage, []string{"accepts 2 arg(s)"}, "move", "internal")
	h.want(exitUsage, []string{"want json or yaml"}, "version", "-o", "xml")
	h.want(exitUsage, []string{"invalid argument"}, "events", "-n", "x")
	h.want(exitUsage, []string{"--hosts 0"}, "lab", "up", "--hosts", "0")
}

// typed says why a line of an example could not be typed; nil where it can, or where it
// is no command of ours.
func typed(line string) error {
	line, _, _ = strings.Cut(line, " # ")
	for part := range strings.SplitSeq(line, "&&") {
		part, _, _ = strings.Cut(part, "|")
		part, _, _ = strings.Cut(part, " < ")
		words := strings.Fields(part)
		if len(words) > 0 && words[0] == "sudo" {
			words = words[1:]
		}
		if len(words) == 0 || words[0] != "mainstay" {
			continue
		}
		cmd, rest, err := (&app{}).root().Find(words[1:])
		if err != nil {
			return err
		}
		var flags []string // quoted words of a sentence are no arguments of their own
		for _, w := range rest {
			if w == "--" {
				break
			}
			if strings.HasPrefix(w, "-") {
				flags = append(flags, w)
			}
		}
		cmd.Flags().AddFlagSet(cmd.InheritedFlags())
		for _, f := range flags {
			name, _, _ := strings.Cut(strings.TrimLeft(f, "-"), "=")
			known := false
			cmd.Flags().VisitAll(func(x *pflag.Flag) { known = known || x.Name == name || x.Shorthand == name })
			if !known {
				return fmt.Errorf("%s has no flag %s", cmd.CommandPath(), f)
			}
		}
		if cmd.HasSubCommands() {
			return fmt.Errorf("%s alone does nothing", cmd.CommandPath())
		}
	}
	return nil
}

// serve is an agent that says yes to everything and has seen a small site.
func (h *host) serve() {
	h.t.Helper()
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/wishes", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	mux.HandleFunc("DELETE /v1/wishes/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /v1/backup", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "all of it") })
	mux.HandleFunc("POST /v1/tokens", answer(map[string]string{"token": "mainstay1"}))
	mux.HandleFunc("POST /v1/operators", answer(struct{}{}))
	mux.HandleFunc("POST /v1/voters", answer(api.VoterAnswer{Text: "it leads"}))
	mux.HandleFunc("POST /v1/part", answer(struct{}{}))
	mux.HandleFunc("POST /v1/fences", answer([]api.FenceExam{}))
	mux.HandleFunc("GET /v1/status", answer(api.Status{
		Hosts:    []api.HostStatus{{Name: "c1", Voter: true}, {Name: "n1"}},
		Holdings: []api.HoldingStatus{{Thing: "address/internal", Host: "c1", Works: true}},
		Services: []api.ServiceStatus{{Name: "keystone"}},
	}))
	h.listen(mux)
}

// listen is an agent that answers as it is told.
func (h *host) listen(answers http.Handler) {
	h.t.Helper()
	if err := os.MkdirAll(h.path("run"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	l, err := net.Listen("unix", h.path("run", "api.sock"))
	if err != nil {
		h.t.Fatal(err)
	}
	s := &http.Server{Handler: answers}
	go func() { _ = s.Serve(l) }()
	h.t.Cleanup(func() { s.Close() })
}

// TestEveryDeedAnswers: each deed says what it did, to people in words and to programs
// as JSON and YAML.
func TestEveryDeedAnswers(t *testing.T) {
	h := newHost(t)
	h.serve()
	deeds := [][]string{
		{"maintenance", "c1", "on", "--why", "disks"}, {"maintenance", "c1", "off"}, {"disarm", "on"}, {"disarm", "off"},
		{"recover", "oath", "c1", "--i-have-seen-that-it-is-off", "cord in my hand"}, {"backup", h.path("backup")}, {"token"},
		{"restart", "keystone", "--cancel"}, {"recover", "service", "keystone", "--without", "c1", "--its-data-may-be-lost", "burnt"},
		{"recover", "service", "keystone", "--without", "c1", "--cancel"}, {"recover", "rabbitmq", "c1", "--messages-may-be-lost", "replies only"},
		{"recover", "copy", "disk", "c1", "--newer-data-may-be-lost", "the other burnt"}, {"recover", "copy", "disk", "c1", "--cancel"},
		{"voters", "lead", "c1"}, {"move", "internal", "c1"}, {"fence", "test"}, {"version"},
		{"init", "--site", "beijing"}, {"init", "--host", "c1"}, {"token", "--operator", "ann", "--to", h.path("ann")},
	}
	for _, deed := range deeds {
		t.Run(strings.Join(deed[:min(2, len(deed))], " "), func(t *testing.T) {
			for _, output := range []string{"", "json", "yaml"} {
				if deed[0] == "init" { // each time from nothing
					for _, dir := range []string{"etc/tls", "state"} {
						if err := os.RemoveAll(h.path(dir)); err != nil {
							t.Fatal(err)
						}
					}
					if deed[1] == "--site" {
						if err := os.RemoveAll(h.path("etc")); err != nil {
							t.Fatal(err)
						}
					}
				}
				args := deed
				if output != "" {
					args = append(slices.Clone(deed), "-o", output)
				}
				out := h.want(0, nil, args...)
				var v any
				var err error
				switch output {
				case "":
					if strings.TrimSpace(out) == "" {
						err = errors.New("nothing is said")
					}
				case "json":
					err = json.Unmarshal([]byte(out), &v)
				case "yaml":
					if err = yaml.Unmarshal([]byte(out), &v); err == nil {
						if _, text := v.(string); text || v == nil {
							err = errors.New("a text, and no value")
						}
					}
				}
				if err != nil {
					t.Errorf("-o %q: %v in %q", output, err, out)
				}
			}
		})
	}
}

// TestComplete: <TAB> offers what the site has, from its agent or, without one, from
// its file; and no files where none belongs.
func TestComplete(t *testing.T) {
	running, stopped := newHost(t), newHost(t)
	running.serve()
	stopped.write(site+"addresses: {public: 10.9.0.99}\n", "etc", "site.yaml")
	for _, c := range []struct {
		h    *host
		line string
		want string
	}{
		{running, "maintenance ", "c1 n1"},
		{running, "maintenance c1 ", "on off"},
		{running, "disarm ", "on off"},
		{running, "move ", "internal"},
		{running, "move internal ", "c1 n1"},
		{running, "voters replace ", "c1"},
		{running, "voters replace c1 ", "c1"},
		{running, "why ", "host/c1 host/n1 address/internal service/keystone"},
		{running, "status -o ", "json yaml"},
		{running, "check --host ", "c1 n1"},
		{running, "lab up --suite ", strings.Join(lab.Suites(), " ")},
		{running, "lab up --timing ", strings.Join(fleet.Sorted(fleet.Presets()), " ")},
		{stopped, "move ", "public"},
		{stopped, "recover oath ", "c1 c2 c3"},
	} {
		words := strings.Split(c.line, " ")
		// The folders stand first: what follows __complete is the line as it is typed.
		args := append([]string{"__complete", "--config-dir", c.h.path("etc"), "--run-dir", c.h.path("run")}, words...)
		var out, errs strings.Builder
		Main(args, strings.NewReader(""), &out, &errs)
		var got []string
		directive := ""
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, ":") {
				directive = line
				continue
			}
			word, _, _ := strings.Cut(line, "\t")
			got = append(got, word)
		}
		if strings.Join(got, " ") != c.want || directive != ":4" {
			t.Errorf("mainstay %s<TAB>: %q %s, not %q\n%s", c.line, got, directive, c.want, errs.String())
		}
	}
}

// TestNoAgent: who cannot reach the agent is told why, and what to do.
func TestNoAgent(t *testing.T) {
	h := newHost(t)
	h.want(1, []string{"no agent answers on this host", "systemctl status mainstay"}, "status")
	h.write("", "run", "x") // the folder
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.path("run", "api.sock")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil { // as an agent that was killed leaves it
		t.Fatal(err)
	}
	_, _, errs := h.run("status")
	if strings.Contains(errs, "http://") || !strings.Contains(errs, "no agent answers on this host") || !strings.Contains(errs, "try: systemctl status mainstay") {
		t.Error(errs)
	}
	h.want(1, []string{"no operator's certificate is there", "mainstay token --operator"}, "--server", "c1", "--cert", h.dir, "status")
	h.want(exitUsage, []string{"--server needs --cert"}, "--server", "c1", "status")
}

// TestExplain: each word that is offered is explained, and all that the tables know of a
// kind or a driver is told.
func TestExplain(t *testing.T) {
	h := newHost(t)
	for _, word := range allOf().words(t.Context()) {
		h.want(0, []string{word}, "explain", word)
	}
	for _, k := range service.Kinds() {
		for _, p := range k.Params {
			h.want(0, []string{k.Doc, p.Name, p.Doc, p.Default}, "explain", k.Name)
		}
	}
	for _, d := range fence.Drivers() {
		for _, p := range d.Params {
			h.want(0, []string{d.About, p.Name, p.Doc, p.Default}, "explain", d.Name)
		}
	}
	var r reference
	if err := json.Unmarshal([]byte(h.want(0, nil, "explain", "-o", "json")), &r); err != nil || len(r.Keys) != len(fleet.Keys()) || len(r.Services) != len(service.Catalogue()) {
		t.Errorf("%v: %d keys, %d services", err, len(r.Keys), len(r.Services))
	}
	h.want(0, []string{"services/NAME/on_failure"}, "explain", "on_failure")
	h.want(exitUsage, []string{`nothing is called "nosuch"`}, "explain", "nosuch")
	// Programs of others say themselves what they are.
	h.want(0, []string{"heartbeat:Dummy", "state", "op_monitor"}, "explain", "heartbeat:Dummy")
	h.want(0, []string{"fence_apc_snmp", "community_file or community_env", "plug"}, "explain", "fence_apc_snmp")
	h.want(1, []string{"heartbeat:NoSuch", "no such file"}, "explain", "heartbeat:NoSuch")
}

// TestInitRefuses: what could not become a site is refused before anything is written.
func TestInitRefuses(t *testing.T) {
	h := newHost(t)
	for want, args := range map[string][]string{
		`--site "my site"`:      {"--site", "my site"},
		`--site "a: {b"`:        {"--site", "a: {b"},
		"--network 10.0.0.0/30": {"--network", "10.0.0.0/30"},
		"--network 127.0.0.0/8": {"--network", "127.0.0.0/8"},
		"--network home":        {"--network", "home"},
	} {
		h.want(exitUsage, []string{want, "want"}, append([]string{"init"}, args...)...)
	}
	if _, err := os.Stat(h.path("etc", "site.yaml")); err == nil {
		t.Error("a site's file was written")
	}
	h.want(0, nil, "init", "--network", "10.0.0.0/29")
}

// TestExecEnds: the exit code of "lab exec" is the program's own.
func TestExecEnds(t *testing.T) {
	for script, want := range map[string]int{"exit 7": 7, "kill -TERM $$": 143} {
		var e *exit
		err := ended(fmt.Errorf("run sh on c1: %w", exec.CommandContext(t.Context(), "sh", "-c", script).Run()))
		if !errors.As(err, &e) || e.code != want || e.err != nil {
			t.Errorf("%s: %v", script, err)
		}
	}
	if err := ended(lab.ErrNoLab); !errors.Is(err, lab.ErrNoLab) {
		t.Errorf("a lab that is not there: %v", err)
	}
}
