package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/lab"
)

func (a *app) demoCommand() *cobra.Command {
	var keep bool
	var name, suite string
	cmd := &cobra.Command{
		Use: "demo", Short: "Break a small cloud on this machine and watch it stay up", Args: cobra.NoArgs,
		Long: `Builds a lab of three controllers with MariaDB Galera, memcached, Keystone and
HAProxy under Mainstay and a client outside; then (1) powers off the host that
holds the internal address, (2) powers off the store's leader, (3) hangs Keystone
on one host. Shows hosts, holdings and the client's successes meanwhile, and at the
end each fault's timeline and what the client measured. The exit code is 3 if a
promise was broken. Cleans up after itself, also on Ctrl-C (exit code 1).`,
		Example: "  sudo mainstay demo\n  sudo mainstay demo --keep",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			switch _, err := lab.Open(name); {
			case err == nil:
				return fmt.Errorf("a lab named %[1]s is there already, from a demo that was kept or killed: mainstay lab --name %[1]s down takes it away", name)
			case !errors.Is(err, lab.ErrNoLab):
				return err
			}
			deployed := false
			defer func() {
				if cmd.Context().Err() != nil {
					err = errors.New("interrupted: the demo was not played to its end")
				}
				if keep {
					a.kept(name, deployed)
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
			deployed = true
			return a.playDemo(cmd.Context(), l)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the lab running afterwards")
	cmd.Flags().StringVar(&name, "name", "demo", "the lab's name; several can stand side by side")
	cmd.Flags().StringVar(&suite, "suite", lab.DefaultSuite, "Debian suite of the hosts: "+strings.Join(lab.Suites(), " or "))
	return cmd
}

// kept says how to look around in the lab that a demo leaves, if it came as far as
// making one, and how to take it away.
func (a *app) kept(name string, deployed bool) {
	switch _, err := lab.Open(name); {
	case errors.Is(err, lab.ErrNoLab):
		return // it failed before there was one
	case err != nil:
		fmt.Fprintf(a.err, "mainstay: look whether a lab is there: %v\n", err)
		return
	}
	look := "mainstay lab --name %[1]s status"
	if deployed {
		look = "mainstay lab --name %[1]s exec c1 -- mainstay status\n  mainstay lab --name %[1]s exec c1 -- mainstay why internal\n  mainstay lab --name %[1]s poweroff c2"
	}
	fmt.Fprintf(a.err, "\nThe lab is still there. Look around:\n  "+look+"\nand take it down with:\n  mainstay lab --name %[1]s down\n", name)
}

func (a *app) playDemo(ctx context.Context, l *lab.Lab) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	var client atomic.Pointer[lab.Log]
	go a.live(watching, l, &client)
	r, err := lab.Demo{Lab: l, Binary: exe, Watching: client.Store, Live: func(s string) { fmt.Fprintln(a.err, "\n==", s) }}.Run(ctx)
	stop()
	if err != nil {
		return err
	}
	return a.tellDemo(r)
}

// tellDemo prints what came of a demo; its error says whether a promise was broken.
func (a *app) tellDemo(r lab.Result) error {
	if err := a.print(r, func(w io.Writer) error { return r.Print(w) }); err != nil {
		return err
	}
	if len(r.Broken) > 0 {
		return &exit{code: exitTrouble}
	}
	return nil
}

// live shows hosts, holdings, services and the client's successes while the demo
// plays: a line whenever one of them changes.
func (a *app) live(ctx context.Context, l *lab.Lab, client *atomic.Pointer[lab.Log]) {
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	site, last := "", ""
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
			// One that dies while it is asked must not hold up the view.
			once, stop := context.WithTimeout(ctx, 500*time.Millisecond)
			s, err := l.SiteStatus(once, m.Name)
			stop()
			if err == nil && s.Leader != "" {
				site = liveLine(s)
				break
			}
		}
		line := site
		if log := client.Load(); log != nil {
			line += " | " + clientLine(log.Tries(), time.Now())
		}
		if line != last {
			last = line
			fmt.Fprintf(a.err, "   %s  %s\n", time.Now().Format("15:04:05.0"), line)
		}
	}
}

// clientLine tells of the client's tries that ended in the newest second. While all
// succeed it is always the same line.
func clientLine(tries []lab.Try, now time.Time) string {
	good, all := 0, 0
	for _, t := range slices.Backward(tries) { // in the order of their ends
		if now.Sub(t.Begun.Add(t.Took)) > time.Second {
			break
		}
		all++
		if t.OK {
			good++
		}
	}
	switch {
	case all == 0:
		return "client: no try ended"
	case good == all:
		return "client: all answered"
	}
	return fmt.Sprintf("client: %d of %d answered", good, all)
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
		_, name, _ := strings.Cut(h.Thing, "/")
		where := h.Host
		if !h.Works {
			where += "?"
		}
		fmt.Fprintf(&b, " %s@%s", name, where)
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
