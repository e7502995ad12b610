package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/fleet"
)

func (a *app) restartCommand() *cobra.Command {
	var wait time.Duration
	var cancel, upgrade bool
	cmd := &cobra.Command{
		Use: "restart SERVICE", Short: "Restart or upgrade an active/active service host by host", Args: cobra.ExactArgs(1),
		Long: `Restarts one copy after another, each only when all are ready, a database's writer
last. The one that is restarted is out of the rotation meanwhile. What was done is
remembered: a new leader goes on with the rest. --cancel ends it where it is.

--upgrade is the rolling upgrade: on the host whose turn it is the packages of the unit
(all of one source, with galera-4) are fetched, the copy is stopped, apt-get puts them in,
and the copy starts. Do not upgrade them on all hosts first: Debian's packages stop and
start the server themselves, on all hosts at once. If apt-get fails somewhere, nothing goes
on, and a person is told.`,
		Example: "  mainstay restart mariadb\n  mainstay restart mariadb --upgrade\n  mainstay restart mariadb --cancel",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, stop := context.WithTimeout(cmd.Context(), wait)
			defer stop()
			id := "restart-" + strings.TrimPrefix(args[0], "service/")
			if cancel {
				return a.unwish(ctx, c, id, "the restart of %s ends where it is", args[0])
			}
			if err := c.Do(ctx, "POST", "/v1/wishes", fleet.Wish{Verb: "restart", Thing: args[0], Upgrade: upgrade}, nil); err != nil {
				return err
			}
			return a.awaitRestart(ctx, c, id)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", time.Hour, "how long to wait for it")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "end it where it is")
	cmd.Flags().BoolVar(&upgrade, "upgrade", false, "put the newest packages in on each host in its turn")
	return cmd
}

// awaitRestart shows how far a rolling restart is until its wish has come true.
func (a *app) awaitRestart(ctx context.Context, c *api.Client, id string) error {
	said, done, seen := "", []string{}, false
	for {
		var v api.WorldView
		s, err := c.Status(ctx)
		if err = errors.Join(err, c.Do(ctx, "GET", "/v1/world", nil, &v)); err == nil {
			wish, open := v.World.State.Wishes[id]
			switch {
			case !open && seen:
				return a.print(map[string]any{"restarted": wish.Thing, "done": done}, func(w io.Writer) error {
					_, err := fmt.Fprintln(w, "restarted on every host")
					return err
				})
			case open:
				seen = true
				if wish.Stuck != "" {
					return fmt.Errorf("%s: %s; nothing goes on (mainstay status has what to do)", id, wish.Stuck)
				}
				for _, host := range wish.Done[min(len(done), len(wish.Done)):] {
					fmt.Fprintf(a.err, "restarted on %s\n", host)
				}
				done = wish.Done
			}
			for _, x := range s.Waits {
				if open && x.About == wish.Thing && x.For != said {
					said = x.For
					fmt.Fprintf(a.err, "%s waits for %s\n", x.About, x.For)
				}
			}
		}
		select {
		case <-ctx.Done():
			return &exit{exitUnknown, fmt.Errorf("%s: restarted on %d hosts so far; it goes on (mainstay status shows it, --cancel ends it)", id, len(done))}
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (a *app) withoutCommand() *cobra.Command {
	var host, yes string
	var cancel bool
	cmd := &cobra.Command{
		Use: "service NAME --without HOST", Short: "Let a cluster that lost all its members go on without the data of one", Args: cobra.ExactArgs(1),
		Long: `A database cluster of which no member is up begins again with the newest data of all
members of the site's file. One that cannot say where its data stand may be the one
that has the last commits, so it is waited for. Your word lets the others go on
without it: what only it has is lost then. A host that is silent must be proved off
besides (mainstay recover oath HOST). --cancel takes the word back, until a member has begun.

When that member comes back it joins with nothing, and is given all data of the others.
What it had is kept beside, as /var/lib/mysql.without-TIME, if the folder can be renamed
and the disk has room for both; else it is overwritten. History says which.`,
		Example: "  mainstay recover service mariadb --without c3 --its-data-may-be-lost 'both disks are broken, ann'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if host == "" {
				return &exit{exitUsage, errors.New("say whose data may be lost: --without HOST")}
			}
			if cancel {
				return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
					return a.unwish(ctx, c, "without-"+args[0]+"-"+host, "the data of %s on %s are waited for again", args[0], host)
				})
			}
			if err := a.swearing(&yes, fmt.Sprintf("May what only %s has of %s be lost? Say why", host, args[0])); err != nil {
				return err
			}
			return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				return a.wish(ctx, c, fleet.Wish{Verb: "without", Thing: args[0], Host: host, Why: yes},
					"%s may go on without the data of %s: mainstay status says what it waits for still", args[0], host)
			})
		},
	}
	cmd.Flags().StringVar(&host, "without", "", "the host whose member's data are given up")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "take the word back")
	cmd.Flags().StringVar(&yes, "its-data-may-be-lost", "", "why; asked for when left out")
	return cmd
}
