// Package cli is the command line: every command speaks to the API of a running
// Mainstay, or prepares the files that one starts with, and prints either for
// people or, with -o json or -o yaml, for programs. It decides nothing.
//
// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 what was asked about is not in
// order (status, check), 4 the outcome is unknown.
package cli

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/trust"
)

// Version is set when the binary is built.
var Version = "development"

// Exit codes beyond 0 and 1.
const (
	exitUsage   = 2
	exitTrouble = 3
	exitUnknown = 4
)

// exit is an error that carries its exit code.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// app is what all commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	output   string // "", "json", "yaml"
	dirs     dirs
	server   string
	cert     string
}

// dirs are where Mainstay lives on a host.
type dirs struct {
	config, state, run string
}

func (d dirs) site() string   { return filepath.Join(d.config, "site.yaml") }
func (d dirs) tls() string    { return filepath.Join(d.config, "tls") }
func (d dirs) socket() string { return filepath.Join(d.run, "api.sock") }

// Main runs the command line and returns its exit code.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{in: in, out: out, err: errOut}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	return a.explain(cmd, err)
}

// explain prints an error once, with what to do, and chooses the exit code.
func (a *app) explain(cmd *cobra.Command, err error) int {
	var e *exit
	var refusal *api.Refusal
	code := 1
	switch {
	case errors.As(err, &e):
		code = e.code
		if e.err == nil {
			return code
		}
	case errors.As(err, &refusal):
	case errors.Is(err, context.DeadlineExceeded):
		code = exitUnknown
	case strings.HasPrefix(err.Error(), "unknown command"), strings.HasPrefix(err.Error(), "unknown flag"),
		strings.HasPrefix(err.Error(), "unknown shorthand"), strings.Contains(err.Error(), "arg(s)"), strings.HasPrefix(err.Error(), "required flag"):
		code = exitUsage
		fmt.Fprintf(a.err, "mainstay: %v\nSee %s --help\n", err, cmd.CommandPath())
		return code
	}
	fmt.Fprintf(a.err, "mainstay: %v\n", err)
	if refusal != nil && refusal.Help != "" {
		fmt.Fprintf(a.err, "try: %s\n", refusal.Help)
	}
	return code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "mainstay",
		Short: "Keeps a private OpenStack cloud up, and brings it back",
		Long: `Mainstay keeps a private OpenStack cloud up: one binary on every host.
It places virtual addresses and services, proves dead hosts off before anything
is started twice, drives HAProxy, and can say of every deed why it was done.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	f := root.PersistentFlags()
	f.StringVarP(&a.output, "output", "o", "", "json or yaml instead of text for people")
	f.StringVar(&a.dirs.config, "config-dir", "/etc/mainstay", "where the site's file and certificates are")
	f.StringVar(&a.dirs.state, "state-dir", "/var/lib/mainstay", "what must survive a boot")
	f.StringVar(&a.dirs.run, "run-dir", "/run/mainstay", "what must not")
	f.StringVar(&a.server, "server", "", "speak to this host (name:7401) instead of this host's own socket")
	f.StringVar(&a.cert, "cert", "", "folder with an operator's certificate, for --server")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch a.output {
		case "", "json", "yaml":
			return nil
		}
		return &exit{exitUsage, fmt.Errorf("-o %s: want json or yaml", a.output)}
	}
	root.AddCommand(
		a.initCommand(), a.joinCommand(), a.tokenCommand(), a.runCommand(), a.quorumCommand(),
		a.checkCommand(), a.applyCommand(), a.statusCommand(), a.eventsCommand(), a.whyCommand(), a.replayCommand(),
		a.moveCommand(), a.maintenanceCommand(), a.disarmCommand(), a.fenceCommand(), a.votersCommand(), a.recoverCommand(), a.backupCommand(), a.restoreCommand(),
		a.reportCommand(), a.labCommand(), a.demoCommand(), a.versionCommand(),
	)
	return root
}

// client returns a client of the API, of this host unless --server says else.
func (a *app) client() (*api.Client, error) {
	if a.server == "" {
		if _, err := os.Stat(a.dirs.socket()); err != nil {
			return nil, fmt.Errorf("no agent answers on this host (%s): is mainstay.service running? systemctl status mainstay", a.dirs.socket())
		}
		return api.NewUnix(a.dirs.socket()), nil
	}
	cfg, err := a.clientTLS()
	if err != nil {
		return nil, err
	}
	host := a.server
	if !strings.Contains(host, ":") {
		host = fmt.Sprintf("%s:%d", host, api.Port)
	}
	return api.NewTLS(host, cfg), nil
}

func (a *app) clientTLS() (*tls.Config, error) {
	if a.cert == "" {
		return nil, &exit{exitUsage, errors.New("--server needs --cert: a folder that mainstay token --operator NAME has made")}
	}
	files := trust.Files{Dir: a.cert}
	if _, err := files.Load(); err != nil {
		return nil, err
	}
	return files.Client(""), nil
}

// limit bounds one question to the API.
const limit = 15 * time.Second

// ask runs f with a client and a deadline.
func (a *app) ask(ctx context.Context, f func(context.Context, *api.Client) error) error {
	return a.askFor(ctx, limit, f)
}

func (a *app) askFor(ctx context.Context, limit time.Duration, f func(context.Context, *api.Client) error) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx, c)
}

// print writes v for programs, or calls people to write it for people.
func (a *app) print(v any, people func(io.Writer) error) error {
	switch a.output {
	case "json":
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		raw, err := json.Marshal(v) // the API's own words, whatever the Go names are
		if err != nil {
			return err
		}
		text, err := yaml.JSONToYAML(raw)
		if err != nil {
			return err
		}
		_, err = a.out.Write(text)
		return err
	}
	return people(a.out)
}

func (a *app) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs, Example: "  mainstay version -o json",
		RunE: func(*cobra.Command, []string) error {
			return a.print(map[string]string{"version": Version}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, "mainstay", Version)
				return err
			})
		},
	}
}
