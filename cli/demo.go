package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/lab"
)

func (a *app) demoCommand() *cobra.Command {
	var keep bool
	var suite string
	cmd := &cobra.Command{
		Use: "demo", Short: "Break a small cloud on this machine and watch it stay up", Args: cobra.NoArgs,
		Long: `Builds a lab of three controllers with MariaDB Galera, memcached, Keystone and
HAProxy under Mainstay and a client outside; then (1) powers off the host that
holds the internal address, (2) powers off the store's leader, (3) hangs Keystone
on one host. Prints each fault's timeline and what the client measured. The exit
code is 3 if a promise was broken. Cleans up after itself, also on Ctrl-C.`,
		Example: "  sudo mainstay demo\n  sudo mainstay demo --keep",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			const name = "demo"
			switch _, err := lab.Open(name); {
			case err == nil:
				return fmt.Errorf("a lab named %[1]s is there already, from a demo that was kept or killed: mainstay lab --name %[1]s down takes it away", name)
			case !errors.Is(err, lab.ErrNoLab):
				return err
			}
			defer func() {
				if keep {
					fmt.Fprintf(a.out, "\nThe lab is still there. Look around:\n  mainstay lab --name %[1]s exec c1 -- mainstay status\n  mainstay lab --name %[1]s exec c1 -- mainstay why internal\n  mainstay lab --name %[1]s poweroff c2\nand take it down with:\n  mainstay lab --name %[1]s down\n", name)
					return
				}
				// The context may have been cancelled by Ctrl-C; what was made goes all the same.
				clean, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 2*time.Minute)
				defer cancel()
				err = errors.Join(err, lab.Down(clean, name))
			}()
			fmt.Fprintln(a.err, "This machine needs the Debian packages:", strings.Join(lab.Prerequisites(), " "))
			l, err := a.buildLab(cmd.Context(), labOptions{name: name, cloud: true, timing: "rack", suite: suite})
			if err != nil {
				return err
			}
			return a.playDemo(cmd.Context(), l)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the lab running afterwards")
	cmd.Flags().StringVar(&suite, "suite", lab.DefaultSuite, "Debian suite of the hosts: "+strings.Join(lab.Suites(), " or "))
	return cmd
}

func (a *app) playDemo(ctx context.Context, l *lab.Lab) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go a.live(watching, l)
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	r, err := lab.Demo{Lab: l, Binary: exe, Live: func(s string) { fmt.Fprintln(a.err, "\n==", s) }}.Run(ctx)
	stop()
	if err != nil {
		return err
	}
	if err := a.print(r, func(w io.Writer) error { return r.Print(w) }); err != nil {
		return err
	}
	if len(r.Broken) > 0 {
		return &exit{code: exitTrouble}
	}
	return nil
}

// live shows hosts, holdings and services while the demo plays.
func (a *app) live(ctx context.Context, l *lab.Lab) {
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, m := range l.Hosts {
			if on, err := l.Powered(m.Name); err != nil || !on {
				continue
			}
			s, err := l.SiteStatus(ctx, m.Name)
			if err != nil || s.Leader == "" {
				continue
			}
			if line := liveLine(s); line != last {
				last = line
				fmt.Fprintf(a.err, "   %s  %s\n", time.Now().Format("15:04:05.0"), line)
			}
			break
		}
	}
}

func liveLine(s api.Status) string {
	var b strings.Builder
	for _, h := range s.Hosts {
		mark := ""
		if h.Name == s.Leader {
			mark = "*"
		}
		fmt.Fprintf(&b, "%s%s %s  ", h.Name, mark, h.Condition)
	}
	b.WriteString("|")
	for _, h := range s.Holdings {
		if name, ok := strings.CutPrefix(h.Thing, "address/"); ok {
			where := h.Host
			if !h.Works {
				where += "?"
			}
			fmt.Fprintf(&b, " %s@%s", name, where)
		}
	}
	for _, v := range s.Services {
		if v.Name == "keystone" {
			n := 0
			for _, c := range v.Copies {
				if c.Ready {
					n++
				}
			}
			fmt.Fprintf(&b, " | keystone %d/%d", n, len(v.Copies))
		}
	}
	return b.String()
}
