package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/node"
	"mainstay/service"
	"mainstay/trust"
)

func (a *app) stopCommand() *cobra.Command {
	var wait time.Duration
	var cancel bool
	var why string
	cmd := &cobra.Command{
		Use: "stop SERVICE", Short: "End all members of a database, and keep them down", Args: cobra.ExactArgs(1),
		Long: `Ends every member of a database of kind galera in good order and keeps them down, also
over a reboot, until --cancel takes it back: to restore a backup. What needs the database
does not work meanwhile.`,
		Example: "  mainstay stop mariadb --why 'restore of yesterday'\n  mainstay stop mariadb --cancel",
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.TrimPrefix(args[0], "service/")
			if cancel {
				return a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
					if err := c.Do(ctx, "DELETE", "/v1/wishes/"+url.PathEscape("stop-"+name), nil, nil); err != nil {
						return err
					}
					return a.done(map[string]string{"service": name}, "%s is kept down no more: mainstay status shows how it comes back", name)
				})
			}
			if err := a.swearing(&why, fmt.Sprintf("Nothing that needs %s will work. Say why", name)); err != nil {
				return err
			}
			err := a.ask(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				return c.Do(ctx, "POST", "/v1/wishes", fleet.Wish{Verb: "stop", Thing: name, Why: why}, nil)
			})
			if err != nil {
				return err
			}
			return a.awaitStop(cmd.Context(), name, wait)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 20*time.Minute, "how long to wait for it")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "let it come back")
	cmd.Flags().StringVar(&why, "why", "", "why; asked for when left out")
	return cmd
}

// awaitStop waits until no member runs any more.
func (a *app) awaitStop(ctx context.Context, name string, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		left := errors.New("nobody has been asked yet")
		err := a.ask(ctx, func(ctx context.Context, c *api.Client) error {
			s, err := c.Status(ctx)
			if err == nil {
				left = down(s, name)
			}
			return err
		})
		if err == nil && left == nil {
			return a.done(map[string]string{"service": name}, "%s is down on every host, and stays so until: mainstay stop %s --cancel", name, name)
		}
		select {
		case <-ctx.Done():
			return &exit{exitUnknown, fmt.Errorf("stop %s: %w; the wish stands", name, errors.Join(err, left))}
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// down says, by a status, what keeps the members of a database from being surely down on
// a person's wish.
func down(s api.Status, name string) error {
	dead := map[string]bool{}
	for _, h := range s.Hosts {
		dead[h.Name] = h.Condition == fleet.Dead
	}
	wished := false
	for _, w := range s.Wishes {
		wished = wished || w.Verb == "stop" && w.Thing == "service/"+name
	}
	for _, v := range s.Services {
		if v.Name != name {
			continue
		}
		if !wished {
			return fmt.Errorf("%s runs, or may: nobody wished it stopped; first: mainstay stop %s", name, name)
		}
		var left []string
		for _, host := range fleet.Sorted(v.Copies) {
			switch v.Copies[host].Phase {
			case fleet.Stopped, fleet.Failed, fleet.Absent:
				continue
			}
			if !dead[host] {
				left = append(left, fmt.Sprintf("%s is %s", host, phaseOf(v.Copies[host])))
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%s is not down everywhere: %s; a host that is silent is off only when it is proved (mainstay recover oath HOST)", name, strings.Join(left, ", "))
		}
		return nil
	}
	return fmt.Errorf("the site has no service %q", name)
}

// saver opens this host's copy of a database.
func (a *app) saver(name string) (service.Saver, service.Saved, error) {
	files := trust.Files{Dir: a.dirs.tls()}
	me, err := files.Load()
	if err != nil {
		return nil, service.Saved{}, err
	}
	spec, _, err := node.ReadSite(a.dirs.site())
	if err != nil {
		return nil, service.Saved{}, err
	}
	about := service.Saved{Site: spec.Site, Host: me.Name, Version: Version}
	v, ok := spec.Service(name)
	if !ok {
		return nil, about, fmt.Errorf("the site has no service %q", name)
	}
	c, err := service.Open(v, service.Env{Systemd: service.NewSystemd(""), Saved: filepath.Join(a.dirs.state, "saved")})
	if err != nil {
		return nil, about, err
	}
	s, can := c.(service.Saver)
	if !can {
		return nil, about, errors.Join(fmt.Errorf("%s is of kind %s: what can be saved is a database of kind galera", name, v.Kind), c.Close())
	}
	return s, about, nil
}

// backupDatabase saves the data of the member on this host, unless another one serves
// that fewer clients write to.
func (a *app) backupDatabase(ctx context.Context, name, dir string) error {
	c, about, err := a.saver(name)
	if err != nil {
		return err
	}
	defer c.Close()
	err = a.ask(ctx, func(ctx context.Context, api *api.Client) error {
		s, err := api.Status(ctx)
		if err != nil {
			return err
		}
		return spares(s, name, about.Host)
	})
	if err != nil {
		return err
	}
	saved, err := c.Backup(ctx, dir, about)
	if err != nil {
		return err
	}
	return a.print(saved, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "saved in %s: %s as it was at %s (%s:%d), %d MiB\n", dir, name, saved.Taken.Local().Format(time.DateTime), saved.UUID, saved.Seqno, saved.Bytes>>20)
		return err
	})
}

// spares says why a database should not be saved on a host: another member serves, and
// writes go to fewer of its faces.
func spares(s api.Status, name, host string) error {
	for _, v := range s.Services {
		if v.Name != name {
			continue
		}
		writes := map[string]int{v.Writer: 1}
		for _, writer := range fleet.Sorted(v.Writers) {
			writes[v.Writers[writer]]++
		}
		for _, other := range fleet.Sorted(v.Copies) {
			if v.Copies[other].Ready && writes[other] < writes[host] {
				return fmt.Errorf("clients write to %s of %s, and it would leave the rotation; run it on %s", host, name, other)
			}
		}
	}
	return nil
}

// restoreDatabase puts a backup in the place of the data on this host, or with dir ""
// gives them up.
func (a *app) restoreDatabase(ctx context.Context, name, dir, yes string) error {
	c, about, err := a.saver(name)
	if err != nil {
		return err
	}
	defer c.Close()
	refused := func(ctx context.Context) error {
		return a.ask(ctx, func(ctx context.Context, api *api.Client) error {
			s, err := api.Status(ctx)
			if err == nil {
				err = down(s, name)
			}
			return err
		})
	}
	if err := refused(ctx); err != nil {
		return err
	}
	question := fmt.Sprintf("What was written to %s since this backup will be lost. Say why it may", name)
	if dir == "" {
		question = fmt.Sprintf("What %s has of %s will be lost. Say why it may", about.Host, name)
	}
	if err := a.swearing(&yes, question); err != nil {
		return err
	}
	if err := refused(ctx); err != nil { // the answer may have taken its time
		return err
	}
	if dir == "" {
		if err := c.Renounce(ctx); err != nil {
			return err
		}
		return a.done(map[string]string{"service": name, "host": about.Host, "why": yes}, "%s has no data of %s any more: they are copied from another member when it joins", about.Host, name)
	}
	saved, aside, err := c.Restore(ctx, dir, about)
	if err != nil {
		return err
	}
	return a.print(map[string]any{"restored": saved, "aside": aside, "why": yes}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s on %s is as it was at %s; what was there before is in %s\nOn each other member: mainstay restore --database %s --renounce\nThen: mainstay stop %s --cancel\n",
			name, about.Host, saved.Taken.Local().Format(time.DateTime), aside, name, name)
		return err
	})
}
