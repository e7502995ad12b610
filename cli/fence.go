package cli

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
)

func (a *app) fenceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "fence", Short: "The power switches by which hosts are proved off", Example: "  mainstay fence test"}
	test := &cobra.Command{
		Use: "test [HOST]", Short: "Ask power switches how they are, and switch nothing", Args: cobra.MaximumNArgs(1),
		Long: `Lets every voter ask the power switches of all hosts, or of one, whose machine they
hold and whether it has power: what a fence needs, without the off. Each voter does
so once an hour by itself; what it finds is in mainstay status. The exit code is 3
if a switch would prove nothing.`,
		Example: "  mainstay fence test\n  mainstay fence test c2 -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.Close()
			var ask api.FenceRequest
			if len(args) > 0 {
				ask.Host = args[0]
			}
			fmt.Fprintln(a.err, "asking the power switches; one that does not answer takes some seconds")
			found := []api.FenceExam{}
			if err := c.Do(cmd.Context(), "POST", "/v1/fences", ask, &found); err != nil {
				return err
			}
			if err := a.print(found, func(w io.Writer) error { return printExams(w, found) }); err != nil {
				return err
			}
			for _, x := range found {
				if x.Error != "" {
					return &exit{code: exitTrouble}
				}
			}
			return nil
		},
	}
	cmd.AddCommand(test)
	return cmd
}

func printExams(out io.Writer, found []api.FenceExam) error {
	if len(found) == 0 {
		_, err := fmt.Fprintln(out, "No host has a fence: an active/passive service of a lost host waits for its return or an oath.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tLEVEL\tBY\tPOWER\tMACHINE\tTOOK\tDEVICE\tWHY NOT")
	for _, x := range found {
		why := x.Error
		if why != "" {
			why = string(x.Outcome) + ": " + why
		}
		level := ""
		if x.Level > 0 { // of a voter that did not answer nothing is known
			level = strconv.Itoa(x.Level)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Host, level, x.By, x.Power, x.Machine, x.Took.Round(time.Millisecond), x.Device, why)
	}
	return w.Flush()
}
