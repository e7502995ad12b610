package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/lab"
	"mainstay/node"
	"mainstay/trust"
)

// This file says what <TAB> offers. What stands on the command line is completed by
// the running site's status; without one, by the site's file on this host.

// offer is what one place on the command line may hold.
type offer func(context.Context) []string

// completeBound is how long a person waits for a completion.
const completeBound = time.Second

// completions sets, for each command, what each of its arguments may be, and for each
// flag that has a few values, which.
func (a *app) completions(root *cobra.Command) {
	words := func(list ...string) offer { return func(context.Context) []string { return list } }
	for path, places := range map[string][]offer{
		"move":           {a.things, a.hosts},
		"maintenance":    {a.hosts, words("on", "off")},
		"disarm":         {words("on", "off")},
		"why":            {a.subjects},
		"preview":        {words("host", "hosts"), a.computes, words("dies", "die")},
		"fence test":     {a.hosts},
		"voters lead":    {a.voters},
		"voters remove":  {a.voters},
		"voters replace": {a.voters, a.voters},
		"recover oath":   {a.hosts},
		"recover copy":   {a.things, a.hosts},
		"join":           {words()},
	} {
		if cmd, _, err := root.Find(strings.Fields(path)); err == nil {
			cmd.ValidArgsFunction = complete(places...)
		}
	}
	values := map[string]offer{
		"output": words("json", "yaml"), "role": words(string(trust.Read), string(trust.Operate)), "mode": words("act", "shadow"),
		"timing": words(fleet.Sorted(fleet.Presets())...), "suite": words(lab.Suites()...), "peers": words(lab.BenchPeers()...),
		"host": a.hosts, "name": labs,
	}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, name := range fleet.Sorted(values) {
			if cmd.LocalFlags().Lookup(name) != nil || cmd.PersistentFlags().Lookup(name) != nil {
				// It fails only for a flag that is not there or has its values already.
				_ = cmd.RegisterFlagCompletionFunc(name, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
					return values[name](cmd.Context()), cobra.ShellCompDirectiveNoFileComp
				})
			}
		}
		if cmd.Parent() != nil && cmd.Parent().Name() == "lab" && strings.Contains(cmd.Use, "HOST") {
			cmd.ValidArgsFunction = complete(func(context.Context) []string { return labHosts(cmd.Flag("name").Value.String()) })
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(root)
}

// complete offers at each place what it may hold, and no files anywhere.
func complete(places ...offer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(places) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return places[len(args)](cmd.Context()), cobra.ShellCompDirectiveNoFileComp
	}
}

// known is the site as its status or, without an agent, its file on this host has it.
func (a *app) known(ctx context.Context) (s api.Status) {
	err := a.askFor(ctx, completeBound, func(ctx context.Context, c *api.Client) (err error) {
		s, err = c.Status(ctx)
		return err
	})
	if err == nil {
		return s
	}
	spec, _, _ := node.ReadSite(a.dirs.site()) // a completion has nobody to tell of a mistake
	return api.StatusOf(fleet.World{Spec: spec}, fleet.Plan{})
}

func (a *app) hosts(ctx context.Context) (out []string) {
	for _, h := range a.known(ctx).Hosts {
		out = append(out, h.Name)
	}
	return out
}

func (a *app) computes(ctx context.Context) (out []string) {
	for _, h := range a.known(ctx).Hosts {
		if slices.Contains(h.Roles, "compute") {
			out = append(out, h.Name)
		}
	}
	return out
}

func (a *app) voters(ctx context.Context) (out []string) {
	for _, h := range a.known(ctx).Hosts {
		if h.Voter {
			out = append(out, h.Name)
		}
	}
	return out
}

// things are what can be moved, by their short names.
func (a *app) things(ctx context.Context) (out []string) {
	for _, h := range a.known(ctx).Holdings {
		_, name, _ := strings.Cut(h.Thing, "/")
		out = append(out, name)
	}
	return out
}

// subjects are what one may ask the why of.
func (a *app) subjects(ctx context.Context) (out []string) {
	s := a.known(ctx)
	for _, h := range s.Hosts {
		out = append(out, "host/"+h.Name)
	}
	for _, h := range s.Holdings {
		out = append(out, h.Thing)
	}
	for _, v := range s.Services {
		if !slices.Contains(out, "service/"+v.Name) {
			out = append(out, "service/"+v.Name)
		}
	}
	return out
}

func labs(context.Context) []string {
	names, _ := lab.List() // without labs there is nothing to offer
	return names
}

func labHosts(name string) (out []string) {
	l, err := lab.Open(name)
	if err != nil {
		return nil
	}
	for _, h := range l.Hosts {
		out = append(out, h.Name)
	}
	return out
}
