package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"mainstay/lab"
)

func (a *app) labCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "lab", Short: "A small data centre on this machine, to be broken",
		Long: `Real systemd hosts in namespaces, each with its own disk, three networks, a false
BMC and real services. Needs root. Everything it makes is gone after "lab down",
also after a crash.`,
		Example: "  mainstay lab up --cloud\n  mainstay lab poweroff c1\n  mainstay lab exec c2 -- mainstay status\n  mainstay lab down",
	}
	cmd.PersistentFlags().StringVar(&name, "name", lab.DefaultName, "the lab's name; several can stand side by side")
	cmd.AddCommand(a.labUpCommand(&name), a.labListCommand(), a.labBenchCommand(), a.labLoadCommand(&name), a.labBMCCommand(), a.labProbeCommand())
	for _, v := range lab.Verbs() {
		cmd.AddCommand(a.labVerbCommand(&name, v))
	}
	return cmd
}

func (a *app) progress(text string) { fmt.Fprintln(a.err, "lab:", text) }

func (a *app) labUpCommand(name *string) *cobra.Command {
	var cloud, bare, openstack bool
	var suite, timing, mode string
	var count, computes int
	cmd := &cobra.Command{
		Use: "up", Short: "Build a lab, with Mainstay on its hosts", Args: cobra.NoArgs,
		Example: "  mainstay lab up --cloud\n  mainstay lab up --name small --bare --hosts 2",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if count < 1 || computes < 0 {
				return usage(cmd.CommandPath(), fmt.Errorf("--hosts %d --computes %d: want one controller at least, three for a site", count, computes))
			}
			if openstack {
				for _, f := range []string{"cloud", "hosts", "computes", "timing", "mode"} {
					if cmd.Flags().Changed(f) {
						return usage(cmd.CommandPath(), fmt.Errorf("--openstack --%s: an OpenStack has its own hosts and timing; leave --%s out", f, f))
					}
				}
				return a.buildOpenStack(cmd.Context(), *name, suite, bare)
			}
			o := labOptions{name: *name, suite: suite, timing: timing, mode: mode, cloud: cloud, bare: bare}
			for i := range count {
				o.hosts = append(o.hosts, lab.Host{Name: fmt.Sprintf("c%d", i+1)})
			}
			for i := range computes {
				o.computes = append(o.computes, fmt.Sprintf("n%d", i+1))
				o.hosts = append(o.hosts, lab.Host{Name: fmt.Sprintf("n%d", i+1)})
			}
			if _, err := a.buildLab(cmd.Context(), o); err != nil {
				return err
			}
			var hosts []string
			for _, h := range o.hosts {
				hosts = append(hosts, h.Name)
			}
			return a.done(map[string]any{"name": *name, "hosts": hosts}, "Lab %s is up: %s. mainstay lab --name %s exec %s -- mainstay status", *name, strings.Join(hosts, " "), *name, hosts[0])
		},
	}
	cmd.Flags().BoolVar(&cloud, "cloud", false, "with MariaDB Galera, memcached and Keystone")
	cmd.Flags().BoolVar(&openstack, "openstack", false, "three controllers with Nova, Neutron and what they need, two fake computes and two real ones: 9 GB of memory; with --suite trixie one controller and two fake computes: 3 GB")
	cmd.Flags().BoolVar(&bare, "bare", false, "hosts alone, without Mainstay")
	cmd.Flags().IntVar(&count, "hosts", 3, "how many controllers")
	cmd.Flags().IntVar(&computes, "computes", 0, "how many computes besides, which hold nothing exclusive")
	cmd.Flags().StringVar(&suite, "suite", "", "Debian suite: bookworm or trixie")
	cmd.Flags().StringVar(&timing, "timing", "rack", "preset of timings: rack, room or wide")
	cmd.Flags().StringVar(&mode, "mode", "act", "act or shadow")
	return cmd
}

type labOptions struct {
	name, suite, timing, mode string
	hosts                     []lab.Host
	computes                  []string
	cloud, bare               bool
}

// buildLab brings a lab up, and on it what was asked for.
func (a *app) buildLab(ctx context.Context, o labOptions) (*lab.Lab, error) {
	if err := lab.InstallPrerequisites(ctx, a.progress); err != nil {
		return nil, err
	}
	cfg := lab.Config{Name: o.name, Suite: o.suite, Hosts: o.hosts}
	if o.cloud {
		base, err := lab.Base(ctx, suiteOr(o.suite), a.progress)
		if err != nil {
			return nil, err
		}
		layer, err := lab.Seed(ctx, base, suiteOr(o.suite), a.progress)
		if err != nil {
			return nil, err
		}
		cfg.Layers = []string{layer}
	}
	l, err := lab.Up(ctx, cfg, a.progress)
	if err != nil {
		return l, err
	}
	services := ""
	if o.cloud {
		if err := l.InstallCloud(ctx, l.Cloud(l.Virtual()["internal"])); err != nil {
			return l, err
		}
		services = lab.CloudServices
	}
	if o.bare {
		return l, nil
	}
	return l, l.Deploy(ctx, lab.SiteConfig{Timing: o.timing, Mode: o.mode, Services: services, Computes: o.computes}, a.progress)
}

// buildOpenStack brings up a lab with a whole OpenStack.
func (a *app) buildOpenStack(ctx context.Context, name, suite string, bare bool) error {
	if err := lab.InstallPrerequisites(ctx, a.progress); err != nil {
		return err
	}
	o, err := lab.UpOpenStack(ctx, suite, name, a.progress)
	if err != nil || bare {
		return err
	}
	if err := o.StartOpenStack(ctx, o.Site(), a.progress); err != nil {
		return err
	}
	return a.done(map[string]any{"name": name}, "Lab %s has begun to start an OpenStack, which takes minutes: mainstay lab --name %s exec c1 -- mainstay status", name, name)
}

func suiteOr(suite string) string {
	if suite == "" {
		return lab.DefaultSuite
	}
	return suite
}

func (a *app) labListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "The labs on this machine", Args: cobra.NoArgs, Example: "  mainstay lab list",
		RunE: func(*cobra.Command, []string) error {
			names, err := lab.List()
			if err != nil {
				return err
			}
			return a.print(names, func(w io.Writer) error {
				for _, n := range names {
					fmt.Fprintln(w, n)
				}
				return nil
			})
		},
	}
}

func (a *app) labLoadCommand(name *string) *cobra.Command {
	var d time.Duration
	cmd := &cobra.Command{
		Use: "load", Short: "Measure what Mainstay itself takes on each host", Args: cobra.NoArgs,
		Example: "  mainstay lab up --hosts 4 --timing room && mainstay lab load --for 10m",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			loads, err := l.Load(cmd.Context(), d)
			if err != nil {
				return err
			}
			return a.print(loads, loads.Print)
		},
	}
	cmd.Flags().DurationVar(&d, "for", time.Minute, "how long")
	return cmd
}

func (a *app) labBMCCommand() *cobra.Command {
	return &cobra.Command{
		Use: "bmc NAME", Short: "Play the BMCs of a lab (lab up starts it)", Args: cobra.ExactArgs(1), Hidden: true, Example: "  mainstay lab bmc mainstay",
		RunE: func(cmd *cobra.Command, args []string) error { return lab.BMCDaemon(cmd.Context(), args[0]) },
	}
}

func (a *app) labProbeCommand() *cobra.Command {
	var p lab.Probe
	var target string
	cmd := &cobra.Command{
		Use: "probe URL", Short: "Ask a URL every few milliseconds and write down each try", Args: cobra.ExactArgs(1), Hidden: true,
		Example: "  mainstay lab probe http://10.77.0.100:5000/v3 --every 20ms",
		RunE: func(cmd *cobra.Command, args []string) error {
			p.URL = args[0]
			if target != "" {
				addr, err := netip.ParseAddrPort(target)
				if err != nil {
					return &exit{exitUsage, err}
				}
				p.Address = addr
			}
			return p.Run(cmd.Context(), a.out)
		},
	}
	cmd.Flags().DurationVar(&p.Every, "every", lab.ProbeEvery, "a try begins so often")
	cmd.Flags().DurationVar(&p.Patience, "patience", lab.ProbePatience, "a try that takes longer has failed")
	cmd.Flags().StringVar(&p.Body, "body", "", "POST this instead of GET")
	cmd.Flags().IntVar(&p.Expect, "expect", 200, "the status that counts as a success")
	cmd.Flags().StringVar(&target, "address", "", "connect here instead of what the URL names")
	return cmd
}

func (a *app) labVerbCommand(name *string, v lab.Verb) *cobra.Command {
	return &cobra.Command{
		Use: strings.TrimSpace(v.Name + " " + v.Args), Short: v.Does, Example: "  mainstay lab " + v.Example,
		DisableFlagsInUseLine: true,
		FParseErrWhitelist:    cobra.FParseErrWhitelist{UnknownFlags: false},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			out, err := l.Play(cmd.Context(), v.Name, args, lab.Terminal{In: a.in, Out: a.out, Err: a.err})
			if v.Name == "exec" {
				return ended(err)
			}
			if err != nil {
				return err
			}
			if out == nil {
				return a.done(map[string]string{"name": *name, "done": v.Name}, "Lab %s: %s is done", *name, v.Name)
			}
			return a.print(out, func(w io.Writer) error {
				switch x := out.(type) {
				case string:
					_, err := fmt.Fprint(w, x)
					return err
				case lab.Status:
					return writeLab(w, x)
				case lab.Deed:
					_, err := fmt.Fprintf(w, "%s %s: done in %v\n", x.Verb, x.Host, x.Took)
					return err
				}
				_, err := fmt.Fprintf(w, "%+v\n", out)
				return err
			})
		},
	}
}

// ended gives a program's own exit code back, as a shell would; it has said why itself.
func ended(err error) error {
	e, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	if s, ok := e.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return &exit{code: 128 + int(s.Signal())}
	}
	return &exit{code: e.ExitCode()}
}

func writeLab(w io.Writer, s lab.Status) error {
	fmt.Fprintf(w, "Lab %s (%s) in %s\n", s.Name, s.Suite, s.Dir)
	for _, h := range s.Hosts {
		fmt.Fprintf(w, "  %-6s power %-4s %-10s %s  %d MB, %d processes\n", h.Name, h.Power, h.State, h.Addresses["management"].V4, h.Memory>>20, h.Processes)
	}
	for _, c := range s.Cuts {
		fmt.Fprintf(w, "  cut: %+v\n", c)
	}
	return nil
}

func (a *app) labBenchCommand() *cobra.Command {
	var c lab.BenchConfig
	var keep bool
	cmd := &cobra.Command{
		Use: "bench", Short: "Power off the address's holder again and again, beside keepalived and Pacemaker", Args: cobra.NoArgs,
		Long: `Measures, by a client outside, how long an address is silent when its holder loses
power: keepalived at 1 s and 0.1 s, Pacemaker without STONITH, and Mainstay, each on
the same hosts before the same HAProxy. Wants a quiet machine. Exit code 3: a target
was missed.`,
		Example: "  sudo mainstay lab bench --rounds 10 --cloud",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			const name = "bench"
			defer func() {
				if keep {
					a.progress("kept: mainstay lab --name " + name + " exec HOST -- mainstay events; then mainstay lab --name " + name + " down")
					return
				}
				clean, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 2*time.Minute)
				defer cancel()
				err = errors.Join(err, lab.Down(clean, name))
			}()
			if c.Lab, err = a.buildLab(cmd.Context(), labOptions{name: name, bare: true, cloud: c.Cloud}); err != nil {
				return err
			}
			if c.Binary, err = os.Executable(); err != nil {
				return err
			}
			r, err := lab.BenchFailover(cmd.Context(), c, a.progress)
			if len(r.Peers) > 0 { // also of one that failed late: its rounds took minutes each
				err = errors.Join(a.print(r, r.Print), err)
			}
			if err != nil {
				return err
			}
			if len(r.Missed) > 0 {
				return &exit{code: exitTrouble}
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&c.Rounds, "rounds", 10, "power-offs of each peer; Mainstay gets twice as many, half of them with the lead on the holder")
	cmd.Flags().StringSliceVar(&c.Peers, "peers", nil, "which of "+strings.Join(lab.BenchPeers(), ", ")+" (default: all)")
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the lab as it is at the end, also after a mistake, to look around")
	cmd.Flags().BoolVar(&c.Cloud, "cloud", false, "before a real Keystone, instead of a page of HAProxy's own")
	return cmd
}
