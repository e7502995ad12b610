package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/node"
	"mainstay/store"
)

func (a *app) moveCommand() *cobra.Command {
	var wait time.Duration
	var back bool
	cmd := &cobra.Command{
		Use: "move THING HOST", Short: "Move an address or an active/passive service to another host",
		Args: func(cmd *cobra.Command, args []string) error {
			if back {
				return cobra.ExactArgs(1)(cmd, args)
			}
			return cobra.ExactArgs(2)(cmd, args)
		},
		Long: `Asks the holder to hand over, which it does by its own word, and waits until the
other host has it. If it cannot move, says what it waits for. The wish stands until it
has come true; with --cancel and no HOST it is taken back. It is given up, and history says
why, when it cannot come true any more, or somebody swears that HOST is off.`,
		Example: "  mainstay move internal c2\n  mainstay move keystone-flush c3 --wait 2m\n  mainstay move internal --cancel",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.Close()
			if back {
				ctx, cancel := context.WithTimeout(cmd.Context(), limit)
				defer cancel()
				if err := c.Do(ctx, "DELETE", "/v1/wishes/"+url.PathEscape("move-"+args[0]), nil, nil); err != nil {
					return err
				}
				return a.print(map[string]string{"thing": args[0]}, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s stays where it is: the wish to move it is taken back\n", args[0])
					return err
				})
			}
			var wish fleet.Wish
			err = a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				return c.Do(ctx, "POST", "/v1/wishes", fleet.Wish{Verb: "move", Thing: args[0], To: args[1]}, &wish)
			})
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			return a.awaitMove(ctx, c, wish)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for it")
	cmd.Flags().BoolVar(&back, "cancel", false, "take the open wish to move THING back")
	return cmd
}

// awaitMove shows what the move waits for until the thing works where it should, or
// history says that it cannot.
func (a *app) awaitMove(ctx context.Context, c *api.Client, wish fleet.Wish) error {
	thing, to, said := wish.Thing, wish.To, ""
	for {
		s, err := c.Status(ctx)
		if err == nil {
			for _, h := range s.Holdings {
				if (h.Thing == thing || strings.HasSuffix(h.Thing, "/"+thing)) && h.Host == to && h.Works {
					return a.print(h, func(w io.Writer) error {
						_, err := fmt.Fprintf(w, "%s is on %s (generation %d)\n", h.Thing, h.Host, h.Generation)
						return err
					})
				}
			}
			for _, x := range s.Waits {
				if (x.About == thing || strings.HasSuffix(x.About, "/"+thing)) && x.For != said {
					said = x.For
					fmt.Fprintf(a.err, "%s waits for %s\n", x.About, x.For)
				}
			}
			if why := givenUp(ctx, c, s, wish); why != "" {
				return errors.New(why)
			}
		}
		select {
		case <-ctx.Done():
			return &exit{exitUnknown, fmt.Errorf("move %s to %s: not there yet; the wish stands (mainstay status shows it; to take it back: mainstay move %s --cancel)", thing, to, thing)}
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// givenUp is what history says of a wish to move that stands no more and has not come true;
// "" if it stands, or nothing is said.
func givenUp(ctx context.Context, c *api.Client, s api.Status, wish fleet.Wish) string {
	for _, x := range s.Wishes {
		if x.Verb == wish.Verb && strings.HasSuffix("/"+x.Thing, "/"+wish.Thing) {
			return ""
		}
	}
	list, err := c.Events(ctx, "", 0)
	if err != nil {
		return ""
	}
	for _, e := range slices.Backward(list) {
		if e.At.Before(wish.At) {
			break
		}
		if strings.Contains("/"+e.Text, fmt.Sprintf("/%s cannot be moved to %s: ", wish.Thing, wish.To)) {
			return e.Text
		}
	}
	return ""
}

func (a *app) disarmCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "disarm on|off", Short: "Forbid all fencing and moving, or allow it again", Args: cobra.ExactArgs(1),
		Long:    "Disarmed, Mainstay goes on watching and says what it would do. The rules that\nkeep two hosts from holding one thing stay in force.",
		Example: "  mainstay disarm on --why 'switch firmware tonight'\n  mainstay disarm off",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				switch args[0] {
				case "on":
					return a.wish(ctx, c, fleet.Wish{Verb: "disarm", Why: why}, "disarmed: nothing is fenced or moved until mainstay disarm off")
				case "off":
					return a.unwish(ctx, c, "disarm", "armed again")
				}
				return &exit{exitUsage, fmt.Errorf("%q: want on or off", args[0])}
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "what for; shown in status")
	return cmd
}

// wish records what a person asks for and prints what was recorded.
func (a *app) wish(ctx context.Context, c *api.Client, w fleet.Wish, format string, args ...any) error {
	var recorded fleet.Wish
	if err := c.Do(ctx, "POST", "/v1/wishes", w, &recorded); err != nil {
		return err
	}
	return a.done(recorded, format, args...)
}

func (a *app) unwish(ctx context.Context, c *api.Client, id, format string, args ...any) error {
	if err := c.Do(ctx, "DELETE", "/v1/wishes/"+url.PathEscape(id), nil, nil); err != nil {
		return err
	}
	return a.done(map[string]string{"taken_back": id}, format, args...)
}

func (a *app) votersCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "voters", Short: "Change who carries the store, one at a time", Example: "  mainstay voters lead c2\n  mainstay voters replace c3 c3"}
	deed := func(use, short, example string, n int, make func(args []string) api.VoterDeed) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short, Example: example, Args: cobra.ExactArgs(n),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
					var answer api.VoterAnswer
					if err := c.Do(ctx, "POST", "/v1/voters", make(args), &answer); err != nil {
						return err
					}
					return a.print(answer, func(w io.Writer) error {
						_, err := fmt.Fprintln(w, strings.TrimSpace(answer.Text+"\n"+answer.Token))
						return err
					})
				})
			},
		}
	}
	cmd.AddCommand(
		deed("lead HOST", "Hand the lead over to another voter", "  mainstay voters lead c2", 1,
			func(args []string) api.VoterDeed { return api.VoterDeed{Do: "lead", Host: args[0]} }),
		deed("remove HOST", "Take a voter out of the store", "  mainstay voters remove c3", 1,
			func(args []string) api.VoterDeed { return api.VoterDeed{Do: "remove", Host: args[0]} }),
		deed("replace DEAD HOST", "Put a host in the place of a dead voter, and make the token by which it joins",
			"  mainstay voters replace c3 c3   # a new machine under the old name\n  # on the new machine: mainstay join 10.0.0.11 TOKEN && systemctl enable --now mainstay", 2,
			func(args []string) api.VoterDeed { return api.VoterDeed{Do: "replace", Dead: args[0], Host: args[1]} }),
	)
	return cmd
}

func (a *app) recoverCommand() *cobra.Command {
	var yes string
	cmd := &cobra.Command{Use: "recover", Short: "What only a person's word can mend", Example: "  mainstay recover oath c2\n  mainstay recover quorum"}
	oath := &cobra.Command{
		Use: "oath HOST", Short: "Swear that a host is off, so that what it held may start elsewhere", Args: cobra.ExactArgs(1),
		Long: `Mainstay starts nothing twice: what a silent host held waits for a proof that the
host is off. Where no BMC can give it, your word does. Go and look first: if the
host still runs, two copies will write to the same data.`,
		Example: "  mainstay recover oath c2 --i-have-seen-that-it-is-off 'power cord in my hand, ann'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.swearing(&yes, fmt.Sprintf("Have you seen with your own eyes that %s is off? If it runs, data will be lost. Say how you know", args[0])); err != nil {
				return err
			}
			return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				return a.wish(ctx, c, fleet.Wish{Verb: "oath", Host: args[0], Why: yes}, "sworn: what %s held starts elsewhere now; mainstay status shows it", args[0])
			})
		},
	}
	oath.Flags().StringVar(&yes, "i-have-seen-that-it-is-off", "", "how you know; asked for when left out")
	quorum := &cobra.Command{
		Use: "quorum", Short: "Go on from this voter's own data when the majority is lost for ever", Args: cobra.NoArgs,
		Long: `Makes this host's copy of the store the only one. Do it on the voter that led last,
with every other voter off for good: what only they knew is lost, and a voter
that comes back would be a second truth. Your oath counts as the proof that they are
off, so what they held starts elsewhere. Addresses come back when a majority of the
site's voters hears again: replace the lost ones. The old data is kept beside the new.`,
		Example: "  systemctl stop mainstay-quorum\n  mainstay recover quorum --the-others-are-gone 'c1 and c2 burnt, ann'\n  systemctl start mainstay-quorum\n  mainstay voters replace c1 c1",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.swearing(&yes, "Are all other voters off for good? Say how you know"); err != nil {
				return err
			}
			q, err := node.QuorumConfig(a.node())
			if err != nil {
				return err
			}
			spec, _, err := node.ReadSite(a.dirs.site())
			if err != nil {
				return err
			}
			gone := slices.DeleteFunc(spec.Voters(), func(v string) bool { return v == q.Name })
			h, kept, err := store.Recover(cmd.Context(), q, gone, fleet.Wish{Verb: "oath", By: person(), Why: yes, At: time.Now()})
			if err != nil {
				return err
			}
			if err := node.SwornAlone(a.node(), spec, q.Name, person()); err != nil {
				return err
			}
			return a.print(map[string]any{"header": h, "kept": kept}, func(w io.Writer) error {
				if spec.Partner(q.Name) != "" {
					_, err := fmt.Fprintf(w, "The store goes on from this host alone. The old data is in %s.\nNow: systemctl start mainstay-quorum; systemctl reload mainstay. %s joins by itself when it returns.\n", kept, spec.Partner(q.Name))
					return err
				}
				_, err := fmt.Fprintf(w, "The store goes on from this host alone. The old data is in %s.\nNow: systemctl start mainstay-quorum, then mainstay voters replace DEAD HOST for each of the others.\n", kept)
				return err
			})
		},
	}
	quorum.Flags().StringVar(&yes, "the-others-are-gone", "", "how you know; asked for when left out")
	cmd.AddCommand(oath, quorum, a.recoverRabbitCommand(), a.withoutCommand(), a.copyCommand())
	return cmd
}

// person is who acts as root here, as sudo knows it.
func person() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name + " (root)"
	}
	return "root"
}

// swearing asks a person for an oath, unless it was given on the command line.
func (a *app) swearing(word *string, question string) error {
	if *word != "" {
		return nil
	}
	fmt.Fprintf(a.err, "%s: ", question)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	*word = strings.TrimSpace(line)
	if *word == "" {
		return &exit{exitUsage, errors.Join(errors.New("nothing was sworn, nothing was done"), ignoreEOF(err))}
	}
	return nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (a *app) backupCommand() *cobra.Command {
	var database string
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "Save all that the store remembers, or a database", Args: cobra.ExactArgs(1),
		Long: `The file holds no secrets but is worth protecting. Host certificates and the site's
CA are not in it: keep /etc/mainstay/tls of one voter safe besides.

With --database FILE is a folder that does not exist yet, and all data of the database's
member on this host go into it, by mariadb-backup, and are made ready to be put back.
Meanwhile the member is out of the rotation, and the others do not wait for it; run it
where nobody writes. Passwords and all else that OpenStack keeps there are in it.`,
		Example: "  mainstay backup /root/mainstay-$(date +%F).backup\n  mainstay backup --database mariadb /srv/backup/mariadb-$(date +%F)",
		RunE: func(cmd *cobra.Command, args []string) error {
			if database != "" {
				return a.backupDatabase(cmd.Context(), database, args[0])
			}
			path := args[0]
			f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
			if err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			defer os.Remove(path + ".new") // fails once it has been renamed
			err = a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				return c.Do(ctx, "GET", "/v1/backup", nil, io.Writer(f))
			})
			if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
				return err
			}
			if err := os.Rename(path+".new", path); err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			return a.done(map[string]string{"file": path}, "saved in %s", path)
		},
	}
	cmd.Flags().StringVar(&database, "database", "", "the service of kind galera whose data are saved")
	return cmd
}

func (a *app) restoreCommand() *cobra.Command {
	var database, yes string
	var renounce bool
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Begin a new store on this voter from a backup, or put a database's data back", Args: cobra.MaximumNArgs(1),
		Long: `For a site whose stores are all lost. Refused while this host has data: stop the store
on every voter and move /var/lib/mainstay/store away first; the agents may run on, for
no lease needs a store. Things may have changed hands since the backup, so the hosts
are asked who holds what. The other voters join again afterwards.

With --database FILE is a folder of mainstay backup --database, and its data take the
place of those of the database's member on this host, which are set aside. What was
written since the backup is lost, so it asks for your word, and it is refused while any
member runs: mainstay stop ends them all. On each other member --renounce gives up what it
has; it is copied from this one. mainstay stop --cancel lets them begin, as a new history.`,
		Example: "  systemctl stop mainstay-quorum\n  mv /var/lib/mainstay/store /var/lib/mainstay/store.old\n  mainstay restore /root/mainstay-2026-11-23.backup\n  systemctl start mainstay-quorum" +
			"\n  mainstay restore --database mariadb /srv/backup/mariadb-2026-11-23\n  mainstay restore --database mariadb --renounce",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case database != "" && renounce == (len(args) == 0):
				return a.restoreDatabase(cmd.Context(), database, strings.Join(args, ""), yes)
			case database != "" || renounce || len(args) == 0:
				return &exit{exitUsage, errors.New("want the file or folder of a backup; --renounce goes with --database and without one")}
			}
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			defer f.Close()
			q, err := node.QuorumConfig(a.node())
			if err != nil {
				return err
			}
			q.Cluster, q.Join = store.InitialCluster(map[string]string{q.Name: q.Peer}), false
			h, err := store.Restore(cmd.Context(), q, f, person())
			if err != nil {
				return err
			}
			if err := (node.Cluster{Cluster: q.Cluster}).Save(a.node()); err != nil {
				return err
			}
			return a.print(h, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "restored the store of site %s as %s had it; now: systemctl start mainstay-quorum\n", h.Site, h.Version)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&database, "database", "", "the service of kind galera whose data are put back")
	cmd.Flags().BoolVar(&renounce, "renounce", false, "give up the data of the member on this host: it is copied from another")
	cmd.Flags().StringVar(&yes, "what-was-written-since-may-be-lost", "", "why; asked for when left out")
	return cmd
}
