package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/plan"
)

// previewLimit bounds one preview: of a large cloud all servers are read.
const previewLimit = 5 * time.Minute

func (a *app) previewCommand() *cobra.Command {
	return &cobra.Command{
		Use: "preview ['host NAME dies' | 'hosts NAME,NAME die']", Short: "What would happen if a compute died now; alone: which losses fit",
		Long: `Asks OpenStack for the room on its computes and says for each server of the hosts
where it would go, by the very rules of an evacuation, what would find no place and
why, and how long it would take. Without a question it says for each compute whether
its loss would fit, and for each zone how many can be lost at once. Nothing is
changed. The leader looks by itself soon after it has begun, each night, and each
hour while a loss would not fit; that stands in mainstay status and is an alarm.
Exit code 3: something would not fit, cannot be told, or nothing would be done.`,
		Example: "  mainstay preview 'host n017 dies'\n  mainstay preview 'hosts n001,n002 die' -o json\n  mainstay preview 'hosts n[001-040] die'   # a rack\n  mainstay preview",
		RunE: func(cmd *cobra.Command, args []string) error {
			hosts, err := plan.Question(args)
			if err != nil {
				return usage(cmd.CommandPath(), err)
			}
			if len(hosts) == 0 {
				return a.bear(cmd.Context())
			}
			var p fleet.Preview
			err = a.askFor(cmd.Context(), previewLimit, func(ctx context.Context, c *api.Client) error {
				return c.Do(ctx, "GET", "/v1/preview?"+url.Values{"host": hosts}.Encode(), nil, &p)
			})
			if err != nil {
				return err
			}
			if err := a.print(p, func(w io.Writer) error { return writePreview(w, p) }); err != nil {
				return err
			}
			if p.Unfit+p.Unsure+len(p.Held) > 0 {
				return &exit{code: exitTrouble}
			}
			return nil
		},
	}
}

func (a *app) bear(ctx context.Context) error {
	var c fleet.Capacity
	err := a.askFor(ctx, previewLimit, func(ctx context.Context, client *api.Client) error {
		return client.Do(ctx, "GET", "/v1/capacity", nil, &c)
	})
	if err != nil {
		return err
	}
	if err := a.print(c, func(w io.Writer) error { return writeCapacity(w, c) }); err != nil {
		return err
	}
	if len(c.Short) > 0 || c.Away != "" {
		return &exit{code: exitTrouble}
	}
	return nil
}

// spanText is a range of times for people.
func spanText(s fleet.Span) string {
	return fmt.Sprintf("%v to %v", s.Least.Round(100*time.Millisecond), s.Most.Round(100*time.Millisecond))
}

func writePreview(out io.Writer, p fleet.Preview) error {
	fmt.Fprintf(out, "If %s died now: %d servers", strings.Join(p.Hosts, ", "), len(p.Fates))
	switch {
	case len(p.Fates) == 0:
		fmt.Fprintln(out, ", so nothing would move")
	case p.Unfit == 0:
		fmt.Fprintf(out, ", all that are moved have a place")
	default:
		fmt.Fprintf(out, ", %d WOULD NOT FIT", p.Unfit)
	}
	if len(p.Fates) > 0 {
		fmt.Fprintf(out, "; %d cannot be told, %d are left\n", p.Unsure, p.Left)
	}
	if p.Last.Most > 0 {
		fmt.Fprintf(out, "Active elsewhere after the loss of power: the first %s, the last %s\n", spanText(p.First), spanText(p.Last))
	}
	for _, x := range p.Held {
		fmt.Fprintf(out, "NOTHING WOULD BE DONE: %s\n", x)
	}
	if len(p.Fates) > 0 {
		w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "\nSERVER\tFROM\tTO\tTRIES\tAFTER\tSTATE")
		for _, f := range p.Fates {
			after, state := "", f.State
			if f.RTO.Most > 0 {
				after = spanText(f.RTO)
			}
			if f.State == fleet.FateUnfit {
				state = strings.ToUpper(state)
			}
			if f.Why != "" {
				state += ": " + f.Why
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", cmp.Or(f.Name, f.Server), f.From, cmp.Or(f.To, "-"), f.Tries, after, state)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(out, "\nHow the times come about:")
		for _, x := range p.How {
			fmt.Fprintf(out, "  %s\n", x)
		}
	}
	for _, x := range p.Notes {
		fmt.Fprintf(out, "Note: %s\n", x)
	}
	_, err := fmt.Fprintf(out, "(%d requests to OpenStack)\n", p.Requests)
	return err
}

func writeCapacity(out io.Writer, c fleet.Capacity) error {
	fmt.Fprintf(out, "%d computes, %d servers, %d requests to OpenStack\n", c.Hosts, c.Servers, c.Requests)
	if c.Away != "" {
		fmt.Fprintf(out, "PLACEMENT DOES NOT ANSWER (%s): room is Nova's own count of memory, without overcommitment; no alarm rests on it\n", c.Away)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nZONE\tCOMPUTES\tCAN BE LOST AT ONCE\tMOST IS ON")
	for _, zone := range fleet.Sorted(c.Zones) {
		b := c.Zones[zone]
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", zone, b.Hosts, b.K, b.Worst)
	}
	if len(c.Short) > 0 {
		fmt.Fprintln(w, "\nWOULD NOT FIT\tSERVERS\tTHE FIRST\tWHY")
		for _, host := range fleet.Sorted(c.Short) {
			s := c.Short[host]
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", host, s.Servers, s.First, s.Why)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(c.Short) == 0 {
		_, err := fmt.Fprintln(out, "The loss of any one compute would fit.")
		return err
	}
	return nil
}
