package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mainstay/fence"
	"mainstay/fleet"
	"mainstay/probe"
	"mainstay/service"
)

// reference is what a site's file may say: the tables of the code itself.
type reference struct {
	Keys     []fleet.Key     `json:"keys,omitempty"`
	Kinds    []row           `json:"kinds,omitempty"`
	Agents   []row           `json:"agents,omitempty"` // of class ocf
	Fences   []row           `json:"fences,omitempty"`
	Probes   []row           `json:"probes,omitempty"`
	Services []fleet.Service `json:"services,omitempty"` // the catalogue
}

// row is a kind of service, a fence driver or a probe.
type row struct {
	Name   string      `json:"name"`
	Doc    string      `json:"doc"`
	Params []parameter `json:"params,omitempty"`
}

type parameter struct {
	Name     string `json:"name"`
	Doc      string `json:"doc"`
	Default  string `json:"default,omitempty"`
	Required bool   `json:"required,omitempty"`
}

// allOf is the whole reference.
func allOf() reference {
	r := reference{Keys: fleet.Keys()}
	for _, k := range service.Kinds() {
		x := row{Name: k.Name, Doc: k.Doc}
		for _, p := range k.Params {
			x.Params = append(x.Params, parameter{Name: p.Name, Doc: p.Doc, Default: p.Default})
		}
		r.Kinds = append(r.Kinds, x)
	}
	for _, d := range fence.Drivers() {
		r.Fences = append(r.Fences, driver(d))
	}
	for _, p := range probe.Probes() {
		r.Probes = append(r.Probes, row{Name: p.Name, Doc: p.About})
	}
	known := service.Catalogue()
	for _, name := range fleet.Sorted(known) {
		r.Services = append(r.Services, known[name])
	}
	return r
}

func driver(d fence.Row) row {
	x := row{Name: d.Name, Doc: d.About}
	for _, p := range d.Params {
		name := p.Name
		if p.Secret {
			name += "_file or " + p.Name + "_env"
		}
		x.Params = append(x.Params, parameter{Name: name, Doc: p.Doc, Default: p.Default, Required: p.Required})
	}
	return x
}

// agent is what a program of others, which is on this host, says of itself: a resource
// agent of the OCF or a fence agent.
func agent(ctx context.Context, word string) (r reference, ours bool, err error) {
	switch {
	case fence.ProgramNamed(word):
		d, err := fence.Program(word)
		if err != nil {
			return r, true, err
		}
		r.Fences = []row{driver(d)}
		return r, true, nil
	case service.AgentNamed(word):
		m, err := service.Describe(ctx, word, service.Env{})
		if err != nil {
			return r, true, err
		}
		x := row{Name: m.Name, Doc: m.Doc}
		for _, p := range m.Params {
			x.Params = append(x.Params, parameter{Name: p.Name, Doc: p.Doc, Default: p.Default, Required: p.Required})
		}
		r.Agents = []row{x}
		return r, true, nil
	}
	return r, false, nil
}

// about is the part of it that has to do with a word: a key or what stands below it, a
// kind, a driver, a probe, a service of the catalogue.
func (r reference) about(word string) reference {
	named := func(rows []row) []row {
		return slices.DeleteFunc(rows, func(x row) bool { return x.Name != word })
	}
	r.Keys = slices.DeleteFunc(r.Keys, func(k fleet.Key) bool {
		return !strings.HasPrefix(k.Path+"/", word+"/") && !slices.Contains(strings.Split(k.Path, "/"), word)
	})
	r.Kinds, r.Fences, r.Probes = named(r.Kinds), named(r.Fences), named(r.Probes)
	r.Services = slices.DeleteFunc(r.Services, func(v fleet.Service) bool { return v.Name != word })
	return r
}

func (r reference) empty() bool {
	return len(r.Keys)+len(r.Kinds)+len(r.Fences)+len(r.Probes)+len(r.Services) == 0
}

// words are what one may ask about.
func (r reference) words(context.Context) (out []string) {
	for _, k := range r.Keys {
		top, _, _ := strings.Cut(k.Path, "/")
		if !slices.Contains(out, top) {
			out = append(out, top)
		}
	}
	for _, rows := range [][]row{r.Kinds, r.Fences, r.Probes} {
		for _, x := range rows {
			out = append(out, x.Name)
		}
	}
	for _, v := range r.Services {
		if !slices.Contains(out, v.Name) {
			out = append(out, v.Name)
		}
	}
	return out
}

func (a *app) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "explain [WORD]", Short: "What a site's file may say: keys, kinds of service, fence drivers, probes, the catalogue", Args: cobra.MaximumNArgs(1),
		Long: `Without a word, lists everything in one line each. With one, tells all about a key
(services/NAME/check, or on_failure), a kind (galera), a fence driver (redfish), a
probe (http) or a service of the catalogue (keystone): parameters and what holds
where the file says nothing. Of a resource agent (heartbeat:IPaddr2) or a fence
agent (fence_apc_snmp) it tells what the program, which must be on this host, says
of itself.`,
		Example: "  mainstay explain\n  mainstay explain redfish\n  mainstay explain services/NAME/listen\n  mainstay explain heartbeat:Filesystem\n  mainstay explain keystone -o json",
		ValidArgsFunction: complete(func(ctx context.Context) []string {
			return append(allOf().words(ctx), service.Agents(service.Env{})...)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := allOf()
			if len(args) == 0 {
				return a.print(r, func(w io.Writer) error { return writeReference(w, r, false) })
			}
			if said, ours, err := agent(cmd.Context(), args[0]); err != nil {
				return err
			} else if ours {
				return a.print(said, func(w io.Writer) error { return writeReference(w, said, true) })
			}
			r = r.about(args[0])
			if r.empty() {
				return usage(cmd.CommandPath(), fmt.Errorf("nothing is called %q; there are %s", args[0], strings.Join(allOf().words(cmd.Context()), ", ")))
			}
			return a.print(r, func(w io.Writer) error { return writeReference(w, r, true) })
		},
	}
}

// writeReference writes it for people; whole says with the parameters.
func writeReference(out io.Writer, r reference, whole bool) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	title := ""
	head := func(text string) {
		if title != "" {
			fmt.Fprintln(w)
		}
		title = text
		fmt.Fprintln(w, text)
	}
	or := func(text string) string {
		if text == "" {
			return ""
		}
		return " [" + text + "]"
	}
	if len(r.Keys) > 0 {
		head("KEYS of the site's file [what holds where it says nothing]")
		for _, k := range r.Keys {
			fmt.Fprintf(w, "  %s\t%s%s\n", k.Path, k.Doc, or(k.Default))
		}
	}
	for _, t := range []struct {
		title string
		rows  []row
	}{{"KINDS of service: services/NAME/kind", r.Kinds}, {"RESOURCE AGENTS: kind ocf, services/NAME/params/agent", r.Agents}, {"FENCE DRIVERS: hosts/NAME/fence {driver: NAME}", r.Fences}, {"PROBES: services/NAME/check/kind", r.Probes}} {
		if len(t.rows) > 0 {
			head(t.title)
		}
		for _, x := range t.rows {
			fmt.Fprintf(w, "  %s\t%s\n", x.Name, x.Doc)
			for _, p := range x.Params {
				if whole {
					must := ""
					if p.Required {
						must = " (must be given)"
					}
					fmt.Fprintf(w, "    %s\t%s%s%s\n", p.Name, p.Doc, must, or(p.Default))
				}
			}
		}
	}
	if len(r.Services) > 0 {
		head("CATALOGUE: services that need no more than their name")
	}
	for _, v := range r.Services {
		fmt.Fprintf(w, "  %s\t%s, kind %s\n", v.Name, v.Mode, v.Kind)
		if !whole {
			continue
		}
		fmt.Fprintf(w, "    why\t%s\n    units\t%s\n    after\t%s\n", v.Why, strings.Join(v.Units, ", "), cmp.Or(strings.Join(v.After, ", "), "-"))
		if v.Check.Kind != "" {
			fmt.Fprintf(w, "    check\t%s, port %d %s\n", v.Check.Kind, v.Check.Port, v.Check.Path)
		}
		if v.Listen.Port != 0 {
			fmt.Fprintf(w, "    listen\t%s, port %d\n", v.Listen.Protocol, v.Listen.Port)
		}
		fmt.Fprintf(w, "    restarts\t%d within %v, then %s\n", v.Restarts.Count, v.Restarts.Within, v.OnFailure)
	}
	return w.Flush()
}
