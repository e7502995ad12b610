package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/fleet"
)

// recoverRabbitCommand is a person's word that messages may be lost.
func (a *app) recoverRabbitCommand() *cobra.Command {
	var yes, name string
	var all, cancel bool
	cmd := &cobra.Command{
		Use: "rabbitmq [HOST]", Short: "Reset a RabbitMQ node, or with --all the whole cluster, though messages are lost", Args: cobra.MaximumNArgs(1),
		Long: `Mainstay starts, joins, restarts and replaces a node by itself as long as no message
can be lost. Beyond that your word is needed.

With HOST the others forget that node, its data are set aside, and it joins them
again: classic queues that lived on it alone are lost, quorum queues are not.

With --all every node sets its data aside, and they form an empty cluster: all
queues, messages, users and virtual hosts are gone but for those that rabbitmq.conf
loads (load_definitions). Clients declare their queues again by themselves. It waits
until every host of the service can be asked, and resets none before: one that came back
later would bring the old cluster with it. --cancel takes either word back.

What was set aside lies beside the new data, as NODE.before-..., until the next reset.`,
		Example: "  mainstay recover rabbitmq c2 --messages-may-be-lost 'reply queues only, ann'\n  mainstay recover rabbitmq --all --messages-may-be-lost 'clients retry, ann'\n  mainstay recover rabbitmq --cancel",
		RunE: func(cmd *cobra.Command, args []string) error {
			if cancel {
				return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
					return a.unwish(ctx, c, "reset-"+name, "%s is reset no more; a node that was reset already stays so", name)
				})
			}
			w := fleet.Wish{Verb: "reset", Thing: name}
			switch {
			case len(args) == 1 && !all:
				w.Host = args[0]
			case len(args) != 0 || !all:
				return &exit{exitUsage, errors.New("want a host, or --all for every one")}
			}
			if err := a.swearing(&yes, "Messages will be lost. Say why they may be"); err != nil {
				return err
			}
			w.Why = yes
			return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				return a.wish(ctx, c, w, "recorded: mainstay events --follow shows how it is done")
			})
		},
	}
	cmd.Flags().StringVar(&yes, "messages-may-be-lost", "", "why they may; asked for when left out")
	cmd.Flags().BoolVar(&all, "all", false, "every node of the cluster")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "take the word back")
	cmd.Flags().StringVar(&name, "service", "rabbitmq", "the service's name in the site's file")
	return cmd
}
