package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/fleet"
)

// What DRBD makes of its handler's exit code (conn_try_outdate_peer in
// drivers/block/drbd/drbd_nl.c of Linux, DRBD 8.4): 3 the peer is inconsistent, 4 it is
// outdated, 5 it is down, 6 it is primary and this copy is outdated, 7 it was fenced. 4, 5
// and 7 let writes go on. Any other code is "broken", and writes go on waiting.
const (
	peerOutdated = 4
	peerUnknown  = 1
)

// partBound is how long the handler waits. Afterwards the agent goes on asking, and lets
// writes go on by itself when it has leave.
const partBound = 40 * time.Second

func (a *app) fencePeerCommand() *cobra.Command {
	return &cobra.Command{
		Use: "fence-peer", Short: "Answer DRBD whether it may write on without its peer (its handler)", Args: cobra.NoArgs,
		Long: `DRBD's handler fence-peer, for resources with fencing resource-and-stonith. The kernel
of a primary that has lost its peer stops all writes and calls it; it asks this host's
agent, whose leader records that the peer's copy is behind. Then writes go on, and that
copy is not promoted until it has caught up. DRBD says in DRBD_RESOURCE and DRBD_PEERS
what it is about.

Exit code 4, and nothing else, lets writes go on: it is recorded. Without a leader, an
agent or an answer it ends after 40 s with 1, and writes wait on; the agent goes on asking.
It ends with 1 at once where a copy is promoted by hand on a host that holds no right to
it; DRBD calls it four times then, and the agent's log says so each time.`,
		Example: "  # /etc/drbd.d/global_common.conf:\n  # common { disk { fencing resource-and-stonith; } handlers { fence-peer \"/usr/bin/mainstay fence-peer\"; } }\n  DRBD_RESOURCE=r0 DRBD_PEERS=c2 mainstay fence-peer",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.part(cmd.Context(), os.Getenv("DRBD_RESOURCE"), os.Getenv("DRBD_PEERS")); err != nil {
				if refused(err) {
					return &exit{peerUnknown, fmt.Errorf("fence-peer: refused, nothing is written here: %w", err)}
				}
				return &exit{peerUnknown, fmt.Errorf("fence-peer: writes go on waiting: %w", err)}
			}
			return &exit{peerOutdated, nil}
		},
	}
}

// part asks until there is an answer or the time is up: the agent may be about to start.
func (a *app) part(ctx context.Context, resource, peers string) error {
	peer := strings.Fields(peers)
	if resource == "" || len(peer) != 1 {
		return fmt.Errorf("DRBD_RESOURCE is %q and DRBD_PEERS is %q: want one resource and one peer", resource, peers)
	}
	ctx, cancel := context.WithTimeout(ctx, partBound)
	defer cancel()
	for {
		c, err := a.client()
		if err == nil {
			err = c.Do(ctx, "POST", "/v1/part", api.PartRequest{Resource: resource, Peer: peer[0]}, nil)
			c.Close()
		}
		if err == nil {
			return nil
		}
		if refused(err) {
			return err // whoever asks again is told the same
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(2 * time.Second):
		}
	}
}

func refused(err error) bool {
	refusal, is := errors.AsType[*api.Refusal](err)
	return is && refusal.Code < 500
}

func (a *app) copyCommand() *cobra.Command {
	var yes string
	var cancel bool
	cmd := &cobra.Command{
		Use: "copy SERVICE HOST", Short: "Let a copy be promoted that is behind, though newer data are lost", Args: cobra.ExactArgs(2),
		Long: `A mirrored copy (DRBD) that was not reached while another was written lacks what was
acknowledged then, and is not promoted. Bring back the host that has written last, and it
catches up by itself. Only if that one's data are lost: your word lets the service go on
with the copy on HOST. What the other has written is given up from then on; should it
return, both have changed, and it stays outside until you have thrown its changes away.
A host that is silent must be proved off besides (mainstay recover oath HOST). --cancel
takes the word back, until the copy is promoted.`,
		Example: "  mainstay recover copy disk c2 --newer-data-may-be-lost 'c1 burnt, ann'",
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.TrimPrefix(args[0], "service/")
			if cancel {
				return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
					return a.unwish(ctx, c, "copy-"+name+"-"+args[1], "the word is taken back: the copy of %s on %s is not promoted while it is behind", name, args[1])
				})
			}
			if err := a.swearing(&yes, fmt.Sprintf("May what the copy of %s on %s lacks be lost? Say why", name, args[1])); err != nil {
				return err
			}
			return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				return a.wish(ctx, c, fleet.Wish{Verb: "copy", Thing: args[0], Host: args[1], Why: yes}, "sworn: %s may go on with the copy on %s; mainstay status shows it", name, args[1])
			})
		},
	}
	cmd.Flags().BoolVar(&cancel, "cancel", false, "take the word back")
	cmd.Flags().StringVar(&yes, "newer-data-may-be-lost", "", "why; asked for when left out")
	return cmd
}
