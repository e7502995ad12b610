package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/node"
)

func (a *app) maintenanceCommand() *cobra.Command {
	var why string
	var drain, dry bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "maintenance HOST on|off", Short: "Take a host out of service, or back into it", Args: cobra.ExactArgs(2),
		Long: `With on, what the host holds moves away by its own word, its servers in HAProxy drain,
and nothing on it is restarted or fenced. What runs on runs on: stop it yourself if
you must. The rules that keep two hosts from holding one thing stay in force.

A compute gets no new servers from Nova meanwhile, and keeps those that it has. With
--drain they are live-migrated to others, one after the other; one that is stopped, or
that Nova does not move, stays and is told. --wait shows how it goes on until none is left
to be moved; exit code 3: some stay. --dry-run, on a voter, says what would be moved.
off ends it at any time: nothing more is asked for, what is on its way arrives, and the
compute gets new servers again. Nothing is moved back.`,
		Example: "  mainstay maintenance c2 on --why 'new disks'\n  mainstay maintenance n017 on --drain --dry-run\n  mainstay maintenance n017 on --drain --wait 1h --why 'new kernel'\n  mainstay maintenance n017 off",
		RunE: func(cmd *cobra.Command, args []string) error {
			if dry {
				return a.previewDrain(cmd.Context(), args[0], drain && args[1] == "on")
			}
			if args[1] == "off" && (drain || wait > 0) || wait > 0 && !drain {
				return &exit{exitUsage, errors.New("--drain goes with on, and --wait with --drain")}
			}
			return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				switch args[1] {
				case "on":
					wish := fleet.Wish{Verb: "maintenance", Host: args[0], Why: why, Drain: drain}
					if wait == 0 {
						return a.wish(ctx, c, wish, "%s leaves service: what it holds moves away; mainstay status shows when nothing is left on it", args[0])
					}
					if err := c.Do(ctx, "POST", "/v1/wishes", wish, &wish); err != nil {
						return err
					}
					bound, cancel := context.WithTimeout(cmd.Context(), wait)
					defer cancel()
					return a.awaitDrain(bound, c, args[0])
				case "off":
					return a.unwish(ctx, c, "maintenance-"+args[0], "%s is in service again", args[0])
				}
				return &exit{exitUsage, fmt.Errorf("%q: want on or off", args[1])}
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "what for; shown in status")
	cmd.Flags().BoolVar(&drain, "drain", false, "of a compute: live-migrate its servers to others")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say which servers --drain would move, and change nothing")
	cmd.Flags().DurationVar(&wait, "wait", 0, "show the drain's progress, for so long at most")
	return cmd
}

func (a *app) previewDrain(ctx context.Context, host string, drain bool) error {
	if !drain {
		return &exit{exitUsage, errors.New("--dry-run says what on --drain would move")}
	}
	spec, _, err := node.ReadSite(a.dirs.site())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rows, err := node.PreviewDrain(ctx, spec, host)
	if err != nil {
		return err
	}
	return a.print(rows, func(out io.Writer) error {
		w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "SERVER\tID\tSTATE\tWOULD")
		for _, r := range rows {
			would := "be live-migrated"
			if r.Stays != "" {
				would = "stay: " + r.Stays
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", cmp.Or(r.Name, r.Server), r.Server, r.State, would)
		}
		return w.Flush()
	})
}

// awaitDrain shows what the drain of a compute waits for until it waits for nothing but,
// perhaps, a person.
func (a *app) awaitDrain(ctx context.Context, c *api.Client, host string) error {
	said := ""
	for {
		s, err := c.Status(ctx)
		if over, text := drained(s, host); err == nil {
			if text != said && text != "" {
				fmt.Fprintf(a.err, "%s waits for %s\n", host, text)
			}
			said = text
			switch {
			case over && text == "":
				return a.print(map[string]string{"host": host, "drained": "yes"}, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "nothing is left on %s that must be moved; take it back with: mainstay maintenance %[1]s off\n", host)
					return err
				})
			case over:
				return &exit{exitTrouble, fmt.Errorf("drain %s: %s", host, text)}
			}
		}
		select {
		case <-ctx.Done():
			return &exit{exitUnknown, fmt.Errorf("drain %s: not over yet; it goes on (mainstay status shows it; to end it: mainstay maintenance %[1]s off)", host)}
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// drained says whether a drain is over, and what it waits for. The wish and the waits are of
// the same decision of the leader's.
func drained(s api.Status, host string) (over bool, text string) {
	for _, w := range s.Waits {
		if w.About == "compute/"+host {
			text = w.For
		}
	}
	for _, p := range s.Departures {
		if p.From == host && p.Ended == "" && p.Strayed.IsZero() { // of a broken one a person is told
			return false, text
		}
	}
	wished := false
	for _, w := range s.Wishes {
		wished = wished || w.Verb == "maintenance" && w.Host == host && w.Drain
	}
	return wished && s.Leader != "" && (text == "" || strings.HasPrefix(text, "a person:")), text
}
