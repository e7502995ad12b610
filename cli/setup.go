package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/node"
	"mainstay/service"
	"mainstay/store"
	"mainstay/trust"
)

func (a *app) node() node.Config {
	units := ""
	if a.dirs == usual { // the units run with the usual folders
		units = "/etc/systemd/system"
	}
	return node.Config{Units: units, Config: a.dirs.config, State: a.dirs.state, Run: a.dirs.run, Version: Version, Log: a.logger()}
}

func (a *app) initCommand() *cobra.Command {
	var site, host, network string
	cmd := &cobra.Command{
		Use: "init", Short: "Begin a site on its first voter", Args: cobra.NoArgs,
		Long: `The first time, writes a commented site file for you to complete. Once that file
is there, checks it and makes this host the site's first voter: the site's CA,
this host's certificate, the beat keys and the systemd units. Nothing is started
and nothing on the host is changed besides; an existing identity is left alone.`,
		Example: "  mainstay init --site beijing --network 10.0.0.0/24\n  $EDITOR /etc/mainstay/site.yaml\n  mainstay init --host c1\n  systemctl enable --now mainstay",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(a.dirs.site()); errors.Is(err, os.ErrNotExist) {
				return a.writeTemplate(site, network)
			}
			return a.firstVoter(cmd.Context(), host)
		},
	}
	name, _ := os.Hostname()
	cmd.Flags().StringVar(&site, "site", "cloud", "the new site's name")
	cmd.Flags().StringVar(&network, "network", "10.0.0.0/24", "its management network")
	cmd.Flags().StringVar(&host, "host", name, "this host's name in the site's file")
	return cmd
}

func (a *app) writeTemplate(site, network string) error {
	p, err := netip.ParsePrefix(network)
	if err != nil || p.Addr().BitLen()-p.Bits() < 3 {
		return &exit{exitUsage, fmt.Errorf("--network %s: want a network with room for 3 hosts and an address, such as 10.0.0.0/24", network)}
	}
	text := []byte(fleet.Template(site, p.Masked(), service.Catalogue()))
	if _, faults := fleet.Read(a.dirs.site(), text, service.Catalogue()); len(faults.Errors()) > 0 {
		f := faults.Errors()[0]
		if f.Path == "site" || f.Rule == "syntax" {
			return &exit{exitUsage, fmt.Errorf("--site %q: want a short name: letters, digits, - and _", site)}
		}
		return &exit{exitUsage, fmt.Errorf("--network %s: %s; want %s", network, f.Problem, f.Want)}
	}
	if err := os.MkdirAll(a.dirs.config, 0o755); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := os.WriteFile(a.dirs.site(), text, 0o640); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return a.done(map[string]string{"file": a.dirs.site()}, "Wrote %s. Describe your site in it, then:\n  mainstay check\n  mainstay init --host NAME", a.dirs.site())
}

func (a *app) firstVoter(ctx context.Context, host string) error {
	spec, _, err := node.ReadSite(a.dirs.site())
	if err != nil {
		return err
	}
	h, ok := spec.Host(host)
	if !ok || !h.Voter {
		return &exit{exitUsage, fmt.Errorf("--host %s: not a voter of %s; its voters are %s", host, a.dirs.site(), strings.Join(spec.Voters(), ", "))}
	}
	files := trust.Files{Dir: a.dirs.tls()}
	if _, err := os.Stat(filepath.Join(a.dirs.tls(), trust.CAFile)); err == nil {
		return fmt.Errorf("%s holds a site's CA already: this host has been set up (mainstay status)", a.dirs.tls())
	}
	ca, err := trust.NewCA(spec.Site, time.Now())
	if err != nil {
		return err
	}
	csr, key, err := trust.NewRequest(host)
	if err != nil {
		return err
	}
	hs := trust.HostSpec{Name: host, Voter: true}
	for _, network := range fleet.Sorted(h.Addresses) {
		hs.Addresses = append(hs.Addresses, h.Addresses[network])
	}
	cert, err := ca.SignCSR(csr, hs, time.Now())
	if err != nil {
		return err
	}
	caKey, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	grant := trust.Grant{CA: string(ca.PEM()), Certificate: string(cert), CAKey: string(caKey), Beat: trust.NewBeatKeys()}
	if err := files.Install(grant, key); err != nil {
		return err
	}
	peer, err := node.PeerURL(h)
	if err != nil {
		return err
	}
	if err := (node.Cluster{Cluster: store.InitialCluster(map[string]string{host: peer})}).Save(a.node()); err != nil {
		return err
	}
	if err := node.WriteUnits(ctx, a.node()); err != nil {
		return err
	}
	syscall.Sync() // a power cut in the next seconds takes nothing of it away
	return a.done(map[string]string{"site": spec.Site, "host": host},
		"%s is the first voter of site %s. Now:\n  systemctl enable --now mainstay\n  mainstay token        # once for each further host, which runs: mainstay join %s TOKEN", host, spec.Site, host)
}

func (a *app) tokenCommand() *cobra.Command {
	var operator, role, dir string
	var valid time.Duration
	cmd := &cobra.Command{
		Use: "token", Short: "Make a one-time token by which a host joins, or an operator's certificate", Args: cobra.NoArgs,
		Long: `Prints a token that lets one host join once, within 15 minutes unless told else. With --operator, writes
a folder with a certificate by which that person reaches the API from elsewhere
(mainstay --server HOST --cert FOLDER); only on a voter. History tells of it. It is
good for a year, unless the site's file revokes it: operators: {revoked: [NAME]}.`,
		Example: "  mainstay token\n  mainstay token --operator ann --role operate --to ./ann",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if operator != "" {
				return a.operatorCertificate(cmd.Context(), operator, trust.Role(role), dir)
			}
			return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				var got map[string]string
				if err := c.Do(ctx, "POST", "/v1/tokens", api.TokenRequest{Valid: valid}, &got); err != nil {
					return err
				}
				return a.print(got, func(w io.Writer) error { _, err := fmt.Fprintln(w, got["token"]); return err })
			})
		},
	}
	cmd.Flags().DurationVar(&valid, "valid", 15*time.Minute, "how long a host may join with it, a day at most")
	cmd.Flags().StringVar(&operator, "operator", "", "a person's name")
	cmd.Flags().StringVar(&role, "role", string(trust.Read), "read or operate")
	cmd.Flags().StringVar(&dir, "to", "", "the folder to write (default: the person's name)")
	return cmd
}

func (a *app) operatorCertificate(ctx context.Context, person string, role trust.Role, dir string) error {
	if role != trust.Read && role != trust.Operate {
		return &exit{exitUsage, fmt.Errorf("--role %s: want %s or %s", role, trust.Read, trust.Operate)}
	}
	if dir == "" {
		dir = person
	}
	ca, err := trust.LoadCA(a.dirs.tls())
	if err != nil {
		return err
	}
	csr, key, err := trust.NewRequest(person)
	if err != nil {
		return err
	}
	const life = 365 * 24 * time.Hour
	now := time.Now()
	cert, err := ca.SignOperator(csr, person, role, now, life)
	if err != nil {
		return err
	}
	// Told before anybody has it.
	err = a.ask(ctx, func(ctx context.Context, c *api.Client) error {
		return c.Do(ctx, "POST", "/v1/operators", api.OperatorRequest{Name: person, Role: role, Until: now.Add(life)}, nil)
	})
	if refusal, ok := errors.AsType[*api.Refusal](err); ok && refusal.Code == http.StatusConflict {
		return err
	}
	if err != nil { // root must get in when no agent runs and no quorum is there
		fmt.Fprintf(a.err, "mainstay: warning: history may not tell of this certificate: %v\n", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	for name, text := range map[string][]byte{trust.CAFile: ca.PEM(), trust.CertFile: cert, trust.KeyFile: key} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return fmt.Errorf("token: %w", err)
		}
	}
	return a.done(map[string]string{"operator": person, "role": string(role), "folder": dir},
		"%s may %s for a year with: mainstay --server HOST --cert %s status", person, role, dir)
}

func (a *app) joinCommand() *cobra.Command {
	var host string
	var renew bool
	cmd := &cobra.Command{
		Use: "join VOTER [TOKEN]", Short: "Let this host join a site", Args: cobra.RangeArgs(0, 2),
		Long: `Asks a voter for this host's certificate and the site's file, with a one-time token
made there by "mainstay token". The token also tells this host whom to trust. It
is read from the standard input when left out, so that it need not be in your
shell's history. With --renew, asks for a new certificate with the present one; a
voter makes its own, also when the present one has expired.`,
		Example: "  mainstay join 10.0.0.11 < token\n  mainstay join 10.0.0.11 mainstay1...\n  mainstay join --renew 10.0.0.11",
		RunE: func(cmd *cobra.Command, args []string) error {
			if renew {
				return a.renewCertificate(cmd.Context(), args)
			}
			if len(args) == 0 {
				return usage(cmd.CommandPath(), errors.New("which voter? give its address"))
			}
			if len(args) == 2 {
				return a.join(cmd.Context(), args[0], host, args[1])
			}
			raw, err := io.ReadAll(io.LimitReader(a.in, 4096))
			if err != nil {
				return fmt.Errorf("read the token: %w", err)
			}
			return a.join(cmd.Context(), args[0], host, string(raw))
		},
	}
	name, _ := os.Hostname()
	cmd.Flags().StringVar(&host, "host", name, "this host's name in the site's file")
	cmd.Flags().BoolVar(&renew, "renew", false, "ask for a new certificate with the present one")
	return cmd
}

func withPort(host string) string {
	if _, err := netip.ParseAddrPort(host); err == nil || strings.Count(host, ":") == 1 {
		return host
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(addr, api.Port).String()
	}
	return fmt.Sprintf("%s:%d", host, api.Port)
}

func (a *app) join(ctx context.Context, voter, host, text string) error {
	token, err := trust.ParseToken(text)
	if err != nil {
		return err
	}
	if dir := a.node().StoreDir(); store.Exists(dir) {
		return fmt.Errorf("join: %s holds the store of a former voter: systemctl stop mainstay-quorum, move it away, and join again", dir)
	}
	csr, key, err := a.pendingRequest(host)
	if err != nil {
		return err
	}
	c := api.NewTLS(withPort(voter), token.Client(time.Now))
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var answer api.JoinAnswer
	if err := c.Do(ctx, "POST", "/v1/join", api.JoinRequest{Secret: token.Secret(), Host: host, CSR: string(csr)}, &answer); err != nil {
		return fmt.Errorf("join at %s: %w", voter, err)
	}
	files := trust.Files{Dir: a.dirs.tls()}
	if err := os.MkdirAll(a.dirs.config, 0o755); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if err := files.Install(answer.Grant, key); err != nil {
		return err
	}
	if err := os.WriteFile(a.dirs.site(), []byte(answer.Site), 0o640); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if answer.Cluster != "" {
		if err := (node.Cluster{Cluster: answer.Cluster, Join: true}).Save(a.node()); err != nil {
			return err
		}
	}
	if err := node.WriteUnits(ctx, a.node()); err != nil {
		return err
	}
	if err := os.Remove(a.pendingKey()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("join: %w", err)
	}
	syscall.Sync() // a power cut in the next seconds takes nothing of it away
	return a.done(map[string]string{"host": host}, "%s has joined. Now: systemctl enable --now mainstay", host)
}

// pendingKey is where the key of a join waits for its certificate: were the
// voter's answer lost, the same request may be made again with the same token.
func (a *app) pendingKey() string { return filepath.Join(a.dirs.state, "join.pem") }

func (a *app) pendingRequest(host string) (csr, key []byte, err error) {
	const mark = "-----BEGIN CERTIFICATE REQUEST-----"
	if raw, err := os.ReadFile(a.pendingKey()); err == nil {
		if i := strings.Index(string(raw), mark); i > 0 {
			return raw[i:], raw[:i], nil
		}
	}
	if csr, key, err = trust.NewRequest(host); err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(a.dirs.state, 0o700); err != nil {
		return nil, nil, fmt.Errorf("join: %w", err)
	}
	if err := os.WriteFile(a.pendingKey(), slices.Concat(key, csr), 0o600); err != nil {
		return nil, nil, fmt.Errorf("join: %w", err)
	}
	return csr, key, nil
}

func (a *app) renewCertificate(ctx context.Context, voter []string) error {
	const said = "%s has a new certificate; what runs takes it by itself"
	files := &trust.Files{Dir: a.dirs.tls()}
	if _, err := trust.LoadCA(a.dirs.tls()); err == nil {
		host, err := node.RenewSelf(a.node())
		if err != nil {
			return err
		}
		return a.done(map[string]string{"host": host}, said, host)
	}
	id, err := files.Load()
	if err != nil {
		return err
	}
	if len(voter) == 0 {
		return usage("mainstay join", errors.New("which voter? give its address: this host has not the CA's key"))
	}
	csr, key, err := trust.NewRequest(id.Name)
	if err != nil {
		return err
	}
	c := api.NewTLS(withPort(voter[0]), files.Client(""))
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var answer api.JoinAnswer
	if err := c.Do(ctx, "POST", "/v1/host/renew", api.JoinRequest{Host: id.Name, CSR: string(csr)}, &answer); err != nil {
		return err
	}
	if err := files.Install(answer.Grant, key); err != nil {
		return err
	}
	return a.done(map[string]string{"host": id.Name}, said, id.Name)
}

// favour asks the kernel to run this process before others. Where tasks are
// grouped by session (autogroup), the unit's Nice= counts only within the
// session, and the session's own niceness is set here.
func favour(log *slog.Logger) {
	const path = "/proc/self/autogroup"
	if err := os.WriteFile(path, []byte("-15"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Info("this process is not favoured over others", "file", path, "error", err)
	}
}

func (a *app) runCommand() *cobra.Command {
	return &cobra.Command{
		Use: "run", Short: "Run this host's agent (mainstay.service does)", Args: cobra.NoArgs, Example: "  systemctl start mainstay",
		RunE: func(cmd *cobra.Command, _ []string) error {
			favour(a.logger())
			c := a.node()
			if os.Getenv("NOTIFY_SOCKET") == "" {
				c.Units = "" // somebody tries a program out by hand: it is not the one to be started by systemd
			}
			// Outside systemd nobody listens, and that is no error.
			c.Ready = func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) }
			c.Alive = func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog) }
			c.Successor = func(pid int) { _, _ = daemon.SdNotify(false, fmt.Sprintf("MAINPID=%d", pid)) }
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			c.Reload = reload
			return node.Run(cmd.Context(), c)
		},
	}
}

func (a *app) quorumCommand() *cobra.Command {
	return &cobra.Command{
		Use: "quorum", Short: "Run this voter's store (mainstay-quorum.service does)", Args: cobra.NoArgs, Example: "  systemctl start mainstay-quorum",
		RunE: func(cmd *cobra.Command, _ []string) error {
			favour(a.logger())
			return node.RunQuorum(cmd.Context(), a.node())
		},
	}
}

// checked is what "mainstay check" found.
type checked struct {
	File   string       `json:"file"`
	Faults fleet.Faults `json:"faults"`
	Sums   []fleet.Sum  `json:"sums,omitempty"`
}

func (a *app) checkCommand() *cobra.Command {
	var file, host string
	cmd := &cobra.Command{
		Use: "check", Short: "Check the site's file and this host; change nothing", Args: cobra.NoArgs,
		Long: `Names every mistake in one run, each with file, line and what would be right, and
what this host lacks: programs, units, a certificate that is good. Then prints
how long an address would be silent after each sort of fault with this site's
timings. Exit code 3: something is wrong; warnings alone are no error.`,
		Example: "  mainstay check\n  mainstay check --host c1   # before it is c1\n  mainstay check --file ./new-site.yaml -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := os.ReadFile(cmp.Or(file, a.dirs.site()))
			switch {
			case err != nil && file == "":
				return fmt.Errorf("check: %w; mainstay init writes one to begin with", err)
			case err != nil:
				return fmt.Errorf("check: %w", err)
			case file == "":
				file = a.dirs.site()
			default:
				host = ""
			}
			c := checked{File: file}
			var spec fleet.Spec
			spec, c.Faults = node.Check(cmd.Context(), a.node(), file, text, host)
			wrong := len(c.Faults.Errors()) > 0
			if !wrong {
				c.Sums = spec.Sums()
			}
			if err := a.print(c, func(w io.Writer) error { return writeCheck(w, c) }); err != nil {
				return err
			}
			if wrong {
				return &exit{code: exitTrouble}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "check this file instead of the one in use, and not this host")
	name, _ := os.Hostname()
	cmd.Flags().StringVar(&host, "host", name, "who this host will be; once it has joined, its certificate says so")
	return cmd
}

// count says how many there are of a thing.
func count(n int, thing string) string {
	switch n {
	case 0:
		return "no " + thing + "s"
	case 1:
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func writeCheck(out io.Writer, c checked) error {
	for _, f := range c.Faults {
		fmt.Fprintln(out, f.Error())
	}
	if len(c.Sums) == 0 {
		fmt.Fprintf(out, "%s; nothing was changed.\n", count(len(c.Faults.Errors()), "mistake"))
		return nil
	}
	fmt.Fprintf(out, "%s: no mistakes, %s.\n\nHow long an address is silent with these timings (computed, not measured here):\n", c.File, count(len(c.Faults.Warnings()), "warning"))
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "CASE\tMEDIAN\tWORST\tFORMULA")
	for _, s := range c.Sums {
		fmt.Fprintf(w, "%s\t%v\t%v\t%s\n", s.Case, s.Median, s.Worst, s.Formula)
	}
	return w.Flush()
}

func (a *app) applyCommand() *cobra.Command {
	var yes, preview bool
	cmd := &cobra.Command{
		Use: "apply FILE", Short: "Give the whole site a new file", Args: cobra.ExactArgs(1),
		Long: `Checks a new site file, has every host that can be reached check it too, shows what
it changes, and asks you. Then the leader records it and brings it to every host; one
that is away gets it when it returns. If anybody refuses it, nothing is changed
anywhere. Agents go on with it in a new process: no address moves, no connection
breaks. A service that is left out runs on, but is Mainstay's no more.

The list of voters and the timings cannot be changed in this way.`,
		Example: "  mainstay check --file new.yaml && mainstay apply new.yaml\n  mainstay apply new.yaml --preview",
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("apply: %w", err)
			}
			ask := func(preview bool) (answer api.ApplyAnswer, err error) {
				err = a.askFor(cmd.Context(), applyLimit, func(ctx context.Context, c *api.Client) error {
					return c.Do(ctx, "POST", "/v1/site", api.ApplyRequest{Text: string(text), Preview: preview}, &answer)
				})
				return answer, err
			}
			if !yes || preview {
				answer, err := ask(true)
				if err != nil {
					return err
				}
				if preview {
					return a.print(answer, func(w io.Writer) error { return writeApply(w, answer) })
				}
				if err := writeApply(a.err, answer); err != nil {
					return err
				}
				word := ""
				if err := a.swearing(&word, "Apply it? (yes)"); err != nil {
					return err
				}
				if word != "yes" && word != "y" {
					return &exit{exitUsage, errors.New("nothing was changed")}
				}
			}
			answer, err := ask(false)
			if err != nil {
				return err
			}
			return a.print(answer, func(w io.Writer) error { return writeApply(w, answer) })
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&preview, "preview", false, "only show what it would change")
	return cmd
}

// applyLimit bounds an apply: every host checks the file, then takes it.
const applyLimit = 45 * time.Second

func writeApply(out io.Writer, a api.ApplyAnswer) error {
	for _, w := range a.Warnings {
		fmt.Fprintln(out, w)
	}
	for _, c := range a.Changes {
		fmt.Fprintln(out, c)
	}
	if len(a.Changes) == 0 {
		fmt.Fprintln(out, "It changes nothing but its own text.")
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "\nHOST\tFILE %s\n", a.Sum)
	for _, host := range fleet.Sorted(a.Hosts) {
		fmt.Fprintf(w, "%s\t%s\n", host, a.Hosts[host])
	}
	return w.Flush()
}
