package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Upgrader is a Copy whose unit comes in a package of the distribution. Upgrade puts the
// newest packages in, and returns nil once the copy runs again on them; donor is as of
// Member.Join. An error leaves the copy to be started as after any failure.
type Upgrader interface {
	Upgrade(ctx context.Context, donor string) error
}

const (
	fetchTime   = 15 * time.Minute // for the lists and the packages, while the copy runs on
	installTime = 30 * time.Minute
)

// Upgrade of a plain unit.
func (c *unitCopy) Upgrade(ctx context.Context, _ string) error {
	return c.upgrade(ctx, nil, c.Start)
}

// Upgrade takes the library of Galera along: it has a package and a version of its own.
func (c *galeraCopy) Upgrade(ctx context.Context, donor string) error {
	return c.upgrade(ctx, []string{"galera-4", "galera-3"}, func(ctx context.Context) error { return c.Join(ctx, donor) })
}

// Upgrade of a node of RabbitMQ.
func (c *rabbitCopy) Upgrade(ctx context.Context, _ string) error {
	return c.upgrade(ctx, nil, c.Start)
}

// upgrade fetches the packages while the copy runs, stops it, installs them and starts it.
// Debian's maintainer scripts would stop and start the server themselves, when they come to
// it; so they find it stopped, and where the copy has a bar, not to be started either. also
// are packages that belong to it and come from another source.
func (c *unitCopy) upgrade(ctx context.Context, also []string, start func(context.Context) error) error {
	fail := func(err error) error { return fmt.Errorf("upgrade %s: %w", c.name, err) }
	u, err := c.find(ctx, c.systemd.look)
	if err != nil {
		return fail(err)
	}
	packages, err := packagesOf(ctx, u.ID, also)
	if err != nil {
		return fail(err)
	}
	install := append([]string{"apt-get", "-q", "-y", "--only-upgrade", "--no-remove", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0",
		"-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"}, "install")
	for _, argv := range [][]string{
		{"apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "-o", "DPkg::Lock::Timeout=300", "update"},
		append(slices.Concat(install, []string{"--download-only"}), packages...),
	} {
		if err := apt(ctx, fetchTime, argv); err != nil {
			return fail(err)
		}
	}
	if err := c.Stop(ctx); err != nil {
		return fail(err)
	}
	// In a unit of its own: were it ended with the agent, half of a package would be left.
	// Nothing else is restarted by needrestart's hook.
	argv := append([]string{"systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--unit=mainstay-upgrade-" + c.name,
		"--setenv=DEBIAN_FRONTEND=noninteractive", "--setenv=NEEDRESTART_SUSPEND=1"}, slices.Concat(install, packages)...)
	if err := apt(ctx, installTime, argv); err != nil {
		return fail(err)
	}
	if err := start(ctx); err != nil {
		return fail(err)
	}
	return nil
}

func apt(ctx context.Context, limit time.Duration, argv []string) error {
	code, last, err := run(ctx, limit, argv, false)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s ended with %d: %s", strings.Join(argv, " "), code, last)
	}
	return err
}

// packagesOf are the installed packages that were built with the one that a unit comes in:
// a server with its libraries and its tools, which belong together.
func packagesOf(ctx context.Context, unit string, also []string) ([]string, error) {
	owner := ""
	out, code, last, err := output(ctx, time.Minute, []string{"dpkg-query", "-S", "*/systemd/system/" + unit})
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(out)) {
		if name, path, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && !strings.Contains(name, " ") && strings.Contains(path, "lib/systemd/system/") {
			owner = name
		}
	}
	if owner == "" {
		return nil, fmt.Errorf("no package has %s (dpkg-query ended with %d: %s): upgrade it by hand, and leave --upgrade out", unit, code, last)
	}
	if out, code, last, err = output(ctx, time.Minute, []string{"dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${source:Package} ${binary:Package}\\n"}); err == nil && code != 0 {
		err = fmt.Errorf("dpkg-query -W ended with %d: %s", code, last)
	}
	if err != nil {
		return nil, err
	}
	source, of := "", map[string][]string{}
	var packages []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "ii" {
			continue
		}
		name, _, _ := strings.Cut(f[2], ":")
		of[f[1]] = append(of[f[1]], f[2])
		if f[2] == owner || name == owner {
			source = f[1]
		}
		if slices.Contains(also, name) {
			packages = append(packages, f[2])
		}
	}
	packages = append(packages, of[source]...)
	if source == "" {
		return nil, fmt.Errorf("%s, which has %s, is not wholly installed: dpkg --configure -a, or apt-get -f install", owner, unit)
	}
	slices.Sort(packages)
	return slices.Compact(packages), nil
}
