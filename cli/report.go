package cli

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/balance"
	"mainstay/service"
)

// Of the journal of each unit the newest lines, and of the kept Worlds the newest, are
// in a report.
const (
	reportLines  = 3000
	reportWorlds = 20
)

// reportUnits are the units whose journal and state are in a report.
var reportUnits = []string{"mainstay.service", "mainstay-quorum.service", service.HAProxyUnit}

// report is a support bundle as it is written.
type report struct {
	tar     *tar.Writer
	has     map[string]bool
	missing []string
}

// put adds a file, or puts on record why it could not be had.
func (r *report) put(name string, text []byte, lacks error) error {
	if lacks == nil {
		return r.write(name, text)
	}
	r.missing = append(r.missing, fmt.Sprintf("%s: %s", name, api.Redact([]byte(lacks.Error()))))
	return nil
}

// write adds a file, without what looks like a secret.
func (r *report) write(name string, text []byte) error {
	text = api.Redact(text)
	r.has[name] = true
	err := r.tar.WriteHeader(&tar.Header{Name: "mainstay-report/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: time.Now()})
	if err == nil {
		_, err = r.tar.Write(text)
	}
	return err
}

func (a *app) reportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "report [FILE]", Short: "Write a support bundle without secrets", Args: cobra.MaximumNArgs(1),
		Long: `Gathers what explains a site: status, events, the World and the newest kept ones,
metrics, the site's file, HAProxy's configuration without your snippets, and the
journals and states of Mainstay's units on this host. What can be read without the
agent is there when the agent is not. Of each URL only the host is told, and whatever
looks like a password, token or key is taken out; look through it all the same before
you send it. The exit code is 1 if something essential is missing.`,
		Example: "  mainstay report /tmp/mainstay.tar.gz && tar tzf /tmp/mainstay.tar.gz\n  mainstay --server c2 --cert ./ann report c2.tar.gz",
		RunE: func(cmd *cobra.Command, args []string) error {
			path := fmt.Sprintf("mainstay-report-%s.tar.gz", time.Now().UTC().Format("20060102-150405"))
			if len(args) > 0 {
				path = args[0]
			}
			f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
			if err != nil {
				return fmt.Errorf("report: %w", err)
			}
			z := gzip.NewWriter(f)
			r := &report{tar: tar.NewWriter(z), has: map[string]bool{}}
			err = a.gather(cmd.Context(), r)
			err = errors.Join(err, r.put("missing.txt", []byte(strings.Join(r.missing, "\n")+"\n"), nil), r.tar.Close(), z.Close(), f.Close())
			if err != nil {
				return fmt.Errorf("report: %w", err)
			}
			err = a.print(map[string]any{"file": path, "missing": r.missing}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, path)
				for _, m := range r.missing {
					fmt.Fprintf(a.err, "left out: %s\n", m)
				}
				return err
			})
			if lacks := r.lacks(a.server == ""); err == nil && lacks != "" {
				return fmt.Errorf("report: it is written, but lacks %s", lacks)
			}
			return err
		},
	}
}

// lacks names the essential things that are not in the report.
func (r *report) lacks(here bool) string {
	var out []string
	if !r.has["status.json"] {
		out = append(out, "the status")
	}
	if !r.has["site.yaml"] {
		out = append(out, "the site's file")
	}
	if here && !r.has["journal/mainstay.service.txt"] {
		out = append(out, "the agent's journal")
	}
	return strings.Join(out, ", ")
}

// gather asks for everything. An error means that the report cannot be written.
func (a *app) gather(ctx context.Context, r *report) error {
	here := a.server == ""
	asks := []struct{ name, path string }{
		{"status.json", "/v1/status"}, {"status-local.json", "/v1/status?local"}, {"world.json", "/v1/world"},
		{"events.json", "/v1/events"}, {"metrics.txt", "/metrics"},
	}
	if !here {
		asks = append(asks, struct{ name, path string }{"site.yaml", "/v1/site"})
	}
	var hangs error
	for _, x := range asks {
		var text []byte
		err := hangs // an agent that has let one question run out is not asked the next
		if err == nil {
			err = a.ask(ctx, func(ctx context.Context, c *api.Client) error { return c.Do(ctx, "GET", x.path, nil, &text) })
		}
		if errors.Is(err, context.DeadlineExceeded) {
			hangs = err
		}
		if err := r.put(x.name, text, err); err != nil {
			return err
		}
	}
	if err := r.put("version.txt", []byte(Version+"\n"), nil); err != nil || !here {
		return err
	}
	site, err := os.ReadFile(a.dirs.site())
	if err := r.put("site.yaml", site, err); err != nil {
		return err
	}
	if cfg, err := os.ReadFile(filepath.Join(a.dirs.config, "haproxy.cfg")); !errors.Is(err, os.ErrNotExist) {
		if err := r.put("haproxy.cfg", balance.Bare(cfg), err); err != nil {
			return err
		}
	}
	worlds, err := filepath.Glob(filepath.Join(a.dirs.state, "worlds", "*.json"))
	if err != nil {
		return err
	}
	slices.Sort(worlds)
	for _, path := range worlds[max(0, len(worlds)-reportWorlds):] {
		raw, err := os.ReadFile(path)
		if err := r.put("worlds/"+filepath.Base(path), raw, err); err != nil {
			return err
		}
	}
	for _, unit := range reportUnits {
		text, err := said(ctx, "journalctl", "--no-pager", "--quiet", "--output", "short-iso-precise", "--lines", fmt.Sprint(reportLines), "--unit", unit)
		if err := r.put("journal/"+unit+".txt", text, err); err != nil {
			return err
		}
	}
	text, err := said(ctx, "systemctl", append([]string{"--no-pager", "--full", "status"}, reportUnits...)...)
	var code *exec.ExitError
	if errors.As(err, &code) && len(text) > 0 {
		err = nil // it says so when one of them does not run, which is what we want to see
	}
	return r.put("units.txt", text, err)
}

// said is what a program of the host prints.
func said(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	var code *exec.ExitError
	switch {
	case errors.As(err, &code):
		return out, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(code.Stderr)))
	case err != nil:
		return out, fmt.Errorf("%s: %w", name, err)
	case len(out) == 0:
		return nil, fmt.Errorf("%s prints nothing", name)
	}
	return out, nil
}
