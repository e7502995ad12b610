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
	"io/fs"
	"log/slog"
	"net"
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

var usual = dirs{config: "/etc/mainstay", state: "/var/lib/mainstay", run: "/run/mainstay"}

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
	if err := root.ExecuteContext(ctx); err != nil {
		return a.explain(err)
	}
	return 0
}

// explain prints an error once, with what to do, and chooses the exit code.
func (a *app) explain(err error) int {
	code, help := 1, ""
	var e *exit
	var refusal *api.Refusal
	var dial *net.OpError
	switch {
	case errors.As(err, &e):
		if code = e.code; e.err == nil {
			return code
		}
	case errors.As(err, &refusal):
		help = refusal.Help
	case errors.As(err, &dial) && dial.Op == "dial" && dial.Addr != nil && dial.Addr.String() == a.dirs.socket():
		switch {
		case errors.Is(err, fs.ErrPermission):
			err, help = fmt.Errorf("%s is for root alone", a.dirs.socket()), "sudo, or --server HOST --cert FOLDER with an operator's certificate"
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
			err, help = noAgent(a.dirs.socket()), "systemctl status mainstay"
		}
	case errors.As(err, &dial) && dial.Op == "remote error": // a TLS alert
		help = "the host refuses this certificate: is it of that site, and not revoked in the site's file (operators)?"
	case errors.Is(err, context.DeadlineExceeded):
		code = exitUnknown
		if a.server == "" {
			help = "systemctl status mainstay, journalctl -u mainstay: this host's agent did not answer in time"
		}
	case strings.HasPrefix(err.Error(), "unknown command"): // of mainstay itself
		err = usage("mainstay", err)
		code = exitUsage
	}
	fmt.Fprintf(a.err, "mainstay: %v\n", err)
	if help != "" {
		fmt.Fprintf(a.err, "try: %s\n", help)
	}
	return code
}

func noAgent(socket string) error {
	return fmt.Errorf("no agent answers on this host (%s)", socket)
}

// usage is a command line that cannot be meant.
func usage(command string, err error) error {
	return &exit{exitUsage, fmt.Errorf("%w\nSee %s --help", err, command)}
}

// strict lets every command below refuse what it does not know: cobra itself shows the
// help of a group and calls that a success.
func strict(cmd *cobra.Command) {
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, list []string) error {
			if err := args(cmd, list); err != nil {
				return usage(cmd.CommandPath(), err)
			}
			return nil
		}
	}
	if cmd.HasSubCommands() && cmd.HasParent() {
		cmd.Args, cmd.SuggestionsMinimumDistance = cobra.ArbitraryArgs, 2
		cmd.RunE = func(cmd *cobra.Command, list []string) error {
			if len(list) == 0 {
				return cmd.Help()
			}
			err := fmt.Errorf("unknown command %q for %q", list[0], cmd.CommandPath())
			if near := cmd.SuggestionsFor(list[0]); len(near) > 0 {
				err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
			}
			return usage(cmd.CommandPath(), err)
		}
	}
	for _, c := range cmd.Commands() {
		strict(c)
	}
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
	f.StringVar(&a.dirs.config, "config-dir", usual.config, "where the site's file and certificates are")
	f.StringVar(&a.dirs.state, "state-dir", usual.state, "where that is kept which must survive a boot")
	f.StringVar(&a.dirs.run, "run-dir", usual.run, "where that is which must not: sockets, locks, leases")
	f.StringVar(&a.server, "server", "", "speak to this host (name:7401) instead of this host's own socket")
	f.StringVar(&a.cert, "cert", "", "folder with an operator's certificate, for --server")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd.CommandPath(), err) })
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch a.output {
		case "", "json", "yaml":
			return nil
		}
		return &exit{exitUsage, fmt.Errorf("-o %s: want json or yaml", a.output)}
	}
	root.AddCommand(
		a.initCommand(), a.joinCommand(), a.tokenCommand(), a.runCommand(), a.quorumCommand(),
		a.checkCommand(), a.explainCommand(), a.applyCommand(), a.statusCommand(), a.eventsCommand(), a.whyCommand(), a.replayCommand(), a.previewCommand(),
		a.moveCommand(), a.restartCommand(), a.stopCommand(), a.maintenanceCommand(), a.disarmCommand(), a.fenceCommand(), a.votersCommand(), a.recoverCommand(), a.backupCommand(), a.restoreCommand(),
		a.reportCommand(), a.labCommand(), a.demoCommand(), a.versionCommand(), a.fencePeerCommand(),
	)
	root.InitDefaultCompletionCmd("") // here, so that it is held to the same rules
	strict(root)
	a.completions(root)
	return root
}

// client returns a client of the API, of this host unless --server says else.
func (a *app) client() (*api.Client, error) {
	if a.server == "" {
		if _, err := os.Stat(a.dirs.socket()); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: is mainstay.service running? systemctl status mainstay", noAgent(a.dirs.socket()))
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
	for _, name := range []string{trust.CAFile, trust.CertFile, trust.KeyFile} {
		if _, err := os.Stat(filepath.Join(a.cert, name)); err != nil {
			return nil, fmt.Errorf("--cert %s: no operator's certificate is there: %w; on a voter, mainstay token --operator NAME --to FOLDER makes one", a.cert, err)
		}
	}
	if _, err := files.Load(); err != nil {
		return nil, fmt.Errorf("--cert %s: %w", a.cert, err)
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

// done says that a deed is done: value for programs, the sentence for people.
func (a *app) done(value any, format string, args ...any) error {
	return a.print(value, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, format+"\n", args...)
		return err
	})
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
