package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/lease"
	"mainstay/plan"
)

func (a *app) statusCommand() *cobra.Command {
	var watch, local bool
	cmd := &cobra.Command{
		Use: "status", Short: "What is true now: hosts, addresses, services, and what waits for what", Args: cobra.NoArgs,
		Long: `Shows hosts, holdings, services and waits. The exit code is 3 if a host is not
healthy, a holding does not work, a copy of a service that should serve does not,
something waits, or the site is disarmed.`,
		Example: "  mainstay status\n  mainstay status --watch\n  mainstay status -o json | jq '.waits'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return a.watchStatus(cmd.Context(), local)
			}
			var s api.Status
			err := a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) (err error) {
				s, err = a.status(ctx, c, local)
				return err
			})
			if err != nil {
				return err
			}
			if err := a.print(s, func(w io.Writer) error { return writeStatus(w, s) }); err != nil {
				return err
			}
			if !sound(s) {
				return &exit{code: exitTrouble}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it anew whenever it changes")
	cmd.Flags().BoolVar(&local, "local", false, "only what this host itself knows; needs no leader and no quorum")
	return cmd
}

func (a *app) status(ctx context.Context, c *api.Client, local bool) (api.Status, error) {
	if local {
		return c.LocalStatus(ctx)
	}
	return c.Status(ctx)
}

// watchStatus shows the status whenever it changes: on the same screen for people, one
// after the other for programs.
func (a *app) watchStatus(ctx context.Context, local bool) error {
	var last string
	for {
		var b strings.Builder
		var s api.Status
		err := a.ask(ctx, func(ctx context.Context, c *api.Client) (err error) {
			if s, err = a.status(ctx, c, local); err != nil {
				return err
			}
			return writeStatus(&b, s)
		})
		if err != nil {
			fmt.Fprintf(&b, "mainstay: %v\n", err)
		}
		if b.String() != last && ctx.Err() == nil {
			last = b.String()
			switch {
			case a.output == "":
				_, err = fmt.Fprintf(a.out, "\033[H\033[2J%s\n%s", time.Now().Format(time.TimeOnly), last)
			case err != nil:
				_, err = fmt.Fprint(a.err, last)
			default:
				err = a.item(s, "")
			}
			if err != nil {
				return err // nobody reads any more
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// sound says whether an operator may go back to sleep.
func sound(s api.Status) bool {
	if s.Leader == "" || len(s.Waits) > 0 || s.Disarmed != "" {
		return false
	}
	for _, h := range s.Hosts {
		if h.Condition != fleet.Healthy || h.Voter && h.Store != "votes" || h.Site != "" {
			return false
		}
	}
	for _, h := range s.Holdings {
		if !h.Works {
			return false
		}
	}
	return len(s.Ailing()) == 0
}

// phaseOf is a copy's state in a word or two.
func phaseOf(c fleet.ServiceState) string {
	switch {
	case c.Hung:
		return "HUNG"
	case c.Phase == fleet.Running && !c.Ready:
		return "running (not ready)"
	}
	return c.Phase
}

func writeStatus(out io.Writer, s api.Status) error {
	leader := s.Leader
	if leader == "" {
		leader = "none known"
	}
	fmt.Fprintf(out, "Site %s   leader %s   epoch %d   seen by %s (%s)\n", s.Site, leader, s.Epoch, s.By, s.View)
	if s.Shadow {
		fmt.Fprintln(out, "SHADOW MODE: decides and says so, carries out nothing")
	}
	if s.Disarmed != "" {
		fmt.Fprintf(out, "DISARMED by %s: nothing is fenced or moved until: mainstay disarm off\n", s.Disarmed)
	}
	// A host without a store knows of nobody's part in it.
	asked := slices.ContainsFunc(s.Hosts, func(h api.HostStatus) bool { return h.Store == "votes" || h.Store == "learns" })
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nHOST\tROLES\tCONDITION\tVERSION\tWHY")
	for _, h := range s.Hosts {
		why := h.Why
		if h.Maintenance != "" {
			why = "maintenance by " + h.Maintenance
		}
		if h.Barred != "" {
			why = "barred: " + h.Barred
		}
		switch {
		case h.StoreWhy != "" && h.Store != fleet.StoreLearns && (h.Store != fleet.StoreAlone || s.Leader != ""): // where nobody leads all are alone
			why += fmt.Sprintf("; ITS STORE IS %s: %s", strings.ToUpper(h.Store), h.StoreWhy)
		case h.Voter && h.Store != "votes" && asked:
			why += "; IT DOES NOT VOTE YET: the store can bear one loss less"
		}
		if h.Site != "" {
			why += "; it " + h.Site
		}
		name := h.Name
		if h.Name == s.Leader {
			name += " *"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", name, strings.Join(h.Roles, ","), h.Condition, h.Version, why)
	}
	fmt.Fprintln(w, "\nHOLDING\tADDRESS\tHOST\tGENERATION\tSTATE\tWHY")
	for _, h := range s.Holdings {
		state := "works"
		switch {
		case h.Host == "":
			state = "held by nobody"
		case !h.Works:
			state = "NOT IN EFFECT"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", h.Thing, h.Address, h.Host, h.Generation, state, h.Why)
	}
	fmt.Fprintln(w, "\nSERVICE\tMODE\tCOPIES")
	for _, v := range s.Services {
		var copies []string
		for _, host := range fleet.Sorted(v.Copies) {
			c := v.Copies[host]
			text := host + " " + phaseOf(c)
			if c.Role == fleet.RolePromoted {
				text += " (promoted)"
			}
			if v.Writer == host {
				text += " (writer)"
			}
			for _, name := range fleet.Sorted(v.Writers) {
				if v.Writers[name] == host {
					text += " (writer " + name + ")"
				}
			}
			copies = append(copies, text)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", v.Name, v.Mode, strings.Join(copies, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	writeLeaderless(out, s)
	if ailing := s.Ailing(); len(ailing) > 0 {
		fmt.Fprintln(out, "\nNOT READY")
		for _, x := range ailing {
			fmt.Fprintf(out, "  %s  %s", x.Copy, phaseOf(x.State))
			if !x.State.Unready.IsZero() {
				fmt.Fprintf(out, ", not ready since %s", x.State.Unready.Local().Format(time.DateTime))
			}
			fmt.Fprintln(out)
			if x.State.Why != "" {
				fmt.Fprintf(out, "      %s\n", x.State.Why)
			}
		}
	}
	if len(s.Waits) > 0 {
		fmt.Fprintln(out, "\nWAITS")
		for _, x := range s.Waits {
			fmt.Fprintf(out, "  %s waits for %s\n", x.About, x.For)
			if x.Help != "" {
				fmt.Fprintf(out, "      help: %s\n", x.Help)
			}
		}
	}
	writeEvacuations(out, s)
	writeSnapshots(out, s)
	for i, x := range s.Wishes {
		if i == 0 {
			fmt.Fprintln(out, "\nWISHES")
		}
		fmt.Fprintf(out, "  %s by %s since %s\n", wishText(x), x.By, x.At.Local().Format(time.DateTime))
		if undo := undoing(x); undo != "" {
			fmt.Fprintf(out, "      taken back by: %s\n", undo)
		}
	}
	return nil
}

// writeEvacuations shows the way of each server that leaves a dead compute.
func writeEvacuations(out io.Writer, s api.Status) {
	if s.Away != "" {
		fmt.Fprintf(out, "\nOPENSTACK DOES NOT ANSWER: %s\n", s.Away)
	}
	if len(s.Evacuations)+len(s.Departures)+len(s.Revivals) == 0 {
		return
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SERVER\tFROM\tTO\tTRY\tSINCE\tSTATE")
	for _, e := range s.Evacuations {
		to := e.To
		if to == "" {
			to = "(Nova chooses)"
		}
		state := e.Ended
		if state == "" {
			state = "on its way"
			if n := len(e.Path); n > 0 {
				state += "; " + e.Path[n-1]
			}
		}
		if lost := e.Restore.Lost(); lost != "" {
			state += fmt.Sprintf("; from its snapshot of %s, so %s", e.Restore.Made.Local().Format(time.DateTime), lost)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", cmp.Or(e.Name, e.Server), e.From, to, e.Try, e.At.Local().Format(time.DateTime), state)
	}
	for _, p := range s.Departures {
		state := "live-migrated: " + cmp.Or(p.Ended, "on its way")
		if p.Stays {
			state = "stays: " + p.Ended
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", p.Title(), p.From, cmp.Or(p.To, "(Nova chooses)"), p.Try, p.At.Local().Format(time.DateTime), state)
	}
	for _, r := range s.Revivals {
		state := "crashed: " + cmp.Or(r.Ended, "is started again")
		if r.Silent {
			state = "its guest agent is silent: " + cmp.Or(r.Ended, "is watched, and rebooted if it stays so")
		}
		if r.Ended == "" && r.Why != "" {
			state += "; " + r.Why
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", cmp.Or(r.Name, r.Server), r.Host, r.Host, r.Try, r.Crash.Local().Format(time.DateTime), state)
	}
	_ = w.Flush() // what it writes to says so at its next line
}

// snapshotsShown is how many servers are shown with the age of their newest snapshot.
const snapshotsShown = 10

// writeSnapshots shows how old the snapshots of local disks are: that much is lost with a host that
// does not come back.
func writeSnapshots(out io.Writer, s api.Status) {
	t := s.Snapshots
	if t.Servers == 0 {
		return
	}
	late, _ := t.Overdue(s.At)
	fmt.Fprintf(out, "\nSNAPSHOTS of %d servers with local disks, as of %s: %d have none, of %d the newest is older than twice its interval; the oldest are\n", t.Servers, t.At.Local().Format(time.TimeOnly), t.Without, late)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "  SERVER\tHOST\tNEWEST\tAGE\tNEXT")
	for _, p := range t.Oldest[:min(len(t.Oldest), snapshotsShown)] {
		newest, age, next := "none", "", "due"
		if !p.Newest.IsZero() {
			newest, age = p.Newest.Local().Format(time.DateTime), s.At.Sub(p.Newest).Truncate(time.Minute).String()
		}
		if p.Due.After(s.At) {
			next = p.Due.Local().Format(time.DateTime)
		}
		if p.Overdue(s.At) {
			next += ", late"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", cmp.Or(p.Name, p.Server), p.Host, newest, age, next)
	}
	_ = w.Flush() // what it writes to says so at its next line
}

// wishText says what a person asked for.
func wishText(w fleet.Wish) string {
	text := w.Verb
	for _, word := range []string{w.Host, w.Thing} {
		if word != "" {
			text += " " + word
		}
	}
	if w.Drain {
		text += " with drain"
	}
	if w.To != "" {
		text += " to " + w.To
	}
	if w.Why != "" {
		text += " (" + w.Why + ")"
	}
	return text
}

// undoing is the command that takes a wish back; an oath cannot be.
func undoing(w fleet.Wish) string {
	switch w.Verb {
	case "move":
		return "mainstay move " + w.Thing + " --cancel"
	case "maintenance":
		return "mainstay maintenance " + w.Host + " off"
	case "stop", "restart":
		return fmt.Sprintf("mainstay %s %s --cancel", w.Verb, strings.TrimPrefix(w.Thing, "service/"))
	case "disarm":
		return "mainstay disarm off"
	case "reset":
		return "mainstay recover rabbitmq --cancel --service " + strings.TrimPrefix(w.Thing, "service/")
	case "without":
		return "mainstay recover service " + strings.TrimPrefix(w.Thing, "service/") + " --without " + w.Host + " --cancel"
	}
	return ""
}

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var after string
	var n int
	cmd := &cobra.Command{
		Use: "events", Short: "History: what was seen, judged, decided and done", Args: cobra.NoArgs,
		Long: `Shows the newest events, or those after an id. With --follow it goes on as new ones
come: after the id, after the newest -n if that is given, or from now on. Programs
then get one JSON object a line, or one YAML document each.`,
		Example: "  mainstay events -n 50\n  mainstay events --follow -n 20\n  mainstay events --after 00000007.00000012 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []fleet.Event
			if !follow || after == "" && cmd.Flags().Changed("number") {
				err := a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) (err error) {
					list, err = c.Events(ctx, after, 0)
					return err
				})
				if err != nil {
					return err
				}
				if n > 0 && len(list) > n && after == "" {
					list = list[len(list)-n:]
				}
			}
			if !follow {
				return a.print(list, func(w io.Writer) error {
					for _, e := range list {
						if _, err := fmt.Fprintln(w, eventLine(e)); err != nil {
							return err
						}
					}
					return nil
				})
			}
			for _, e := range list {
				if err := a.item(e, eventLine(e)); err != nil {
					return err
				}
				after = e.ID
			}
			return a.follow(cmd.Context(), after)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as new ones come")
	cmd.Flags().StringVar(&after, "after", "", "only what came after this id")
	cmd.Flags().IntVarP(&n, "number", "n", 100, "at most the newest so many; 0 for all")
	return cmd
}

// follow shows events as they come, and goes on when the connection breaks.
func (a *app) follow(ctx context.Context, after string) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	for ctx.Err() == nil {
		after, err = c.Follow(ctx, after, func(e fleet.Event) error { return a.item(e, eventLine(e)) })
		if ctx.Err() != nil {
			return nil
		}
		fmt.Fprintf(a.err, "mainstay: %v; following again from %s\n", err, after)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// item writes one of many that come one by one: a line of JSON, a document of YAML, or
// text for people.
func (a *app) item(v any, text string) error {
	var err error
	switch a.output {
	case "json":
		return json.NewEncoder(a.out).Encode(v)
	case "yaml":
		if _, err = fmt.Fprintln(a.out, "---"); err == nil {
			err = a.print(v, nil)
		}
	default:
		_, err = fmt.Fprintln(a.out, text)
	}
	return err
}

func eventLine(e fleet.Event) string {
	return fmt.Sprintf("%s  %s  %-11s %s", e.At.Local().Format("2006-01-02 15:04:05.000"), e.ID, e.Kind, e.Text)
}

func (a *app) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "why SUBJECT", Short: "Why did this happen: from an event, a thing or a host back to what was seen", Args: cobra.ExactArgs(1),
		Example: "  mainstay why internal\n  mainstay why host/c2\n  mainstay why keystone      # each copy's newest\n  mainstay why keystone@c1\n  mainstay why 00000007.00000012",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				var links []api.Link
				if err := c.Do(ctx, "GET", "/v1/why/"+args[0], nil, &links); err != nil {
					return err
				}
				return a.print(links, func(w io.Writer) error {
					for _, l := range links {
						lead := ""
						if l.Depth > 0 {
							lead = strings.Repeat("  ", l.Depth-1) + "because "
						}
						fmt.Fprintf(w, "%s  %s%s  [%s]\n", l.Event.At.Local().Format("15:04:05.000"), lead, l.Event.Text, l.Event.ID)
						if l.Event.World != "" {
							fmt.Fprintf(w, "              %s(the whole World: mainstay replay %s)\n", strings.Repeat("  ", l.Depth), l.Event.World)
						}
					}
					return nil
				})
			})
		},
	}
}

func (a *app) replayCommand() *cobra.Command {
	return &cobra.Command{
		Use: "replay FILE|ID", Short: "Decide a kept World again and compare", Args: cobra.ExactArgs(1),
		Long: `Every World that led to orders is kept where the leader was; ask for it by its ID on
any host. replay decides it again with this binary and says whether the same orders come out: a bug seen in the field becomes a
test by copying one file. Exit code 3: it decides differently.`,
		Example: "  mainstay replay 00000007.w000012\n  mainstay replay ./world.json -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := a.keptWorld(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if v.World.Epoch == 0 || len(v.World.Spec.Hosts) == 0 {
				return &exit{exitUsage, fmt.Errorf("%s holds no World: it has no epoch or no hosts; a kept World is in /var/lib/mainstay/worlds of the host that led, and mainstay events -o json names it", args[0])}
			}
			_, now := plan.Turn(v.World)
			same := samePlan(v.Plan, now)
			err = a.print(map[string]any{"same": same, "then": v.Plan, "now": now}, func(w io.Writer) error {
				fmt.Fprintf(w, "World of %s, epoch %d, led by %s\n", v.World.Wall.Local().Format(time.DateTime+".000"), v.World.Epoch, v.World.Leader)
				for _, r := range now.Records {
					fmt.Fprintf(w, "  record  %s: %s\n", r.Key, r.Text)
				}
				for _, r := range now.Asks {
					fmt.Fprintf(w, "  ask     every ear is %s\n", lease.Question(r.Stint))
				}
				for _, o := range now.Orders {
					fmt.Fprintf(w, "  order   %s: %s %s: %s\n", o.To, o.Verb, o.Thing, o.Why)
				}
				for _, x := range now.Waits {
					fmt.Fprintf(w, "  wait    %s waits for %s\n", x.About, x.For)
				}
				if same {
					_, err := fmt.Fprintln(w, "Decided again: the same.")
					return err
				}
				_, err := fmt.Fprintln(w, "Decided again: DIFFERENT from what was decided then (see -o json).")
				return err
			})
			if err == nil && !same {
				return &exit{code: exitTrouble}
			}
			return err
		},
	}
}

func (a *app) keptWorld(ctx context.Context, which string) (api.WorldView, error) {
	var v api.WorldView
	if raw, err := os.ReadFile(which); err == nil {
		if err := json.Unmarshal(raw, &v); err != nil {
			return v, fmt.Errorf("read World %s: %w", which, err)
		}
		return v, nil
	}
	err := a.ask(ctx, func(ctx context.Context, c *api.Client) error {
		return c.Do(ctx, "GET", "/v1/worlds/"+which, nil, &v)
	})
	return v, err
}

// samePlan compares what was decided then with now, through JSON, since the one
// of then has been through it.
func samePlan(then, now fleet.Plan) bool {
	raw, err := json.Marshal(now)
	if err != nil {
		return false
	}
	var again fleet.Plan
	if err := json.Unmarshal(raw, &again); err != nil {
		return false
	}
	return reflect.DeepEqual(then, again)
}
