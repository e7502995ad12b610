package service

import (
	"context"
	"regexp"
	"strings"
)

// How Debian's unit is told further options of the server, and how ours begins: the donor,
// and behind the comma nobody, which lets Galera choose when that one cannot.
const (
	optionsVariable = "MYSQLD_OPTS"
	donorOption     = "--wsrep-sst-donor="
)

var (
	donorRule = regexp.MustCompile(`^[A-Za-z0-9._-]+$`) // systemd parts the variable at blanks, Galera at commas
	donorMine = regexp.MustCompile(`^` + donorOption + `[A-Za-z0-9._-]+, ?`)
)

// takeFrom names the member that is to give its data to the one that starts next. What it
// returns takes that back, whatever became of the start: another start may need another.
// A name that cannot be told is no reason not to start: Galera chooses by itself then.
func (c *galeraCopy) takeFrom(ctx context.Context, donor string) (forget func()) {
	if !donorRule.MatchString(donor) || c.nameDonor(ctx, donor) != nil {
		return func() {}
	}
	return func() { _ = c.nameDonor(context.WithoutCancel(ctx), "") } // else the next start does
}

// nameDonor puts the option in front of what a person has set in systemd's environment, or
// takes it away from there.
func (c *galeraCopy) nameDonor(ctx context.Context, donor string) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	all, err := c.systemd.environment(ctx)
	if err != nil {
		return err
	}
	old := ""
	for _, x := range all {
		if value, ok := strings.CutPrefix(x, optionsVariable+"="); ok {
			old = value
		}
	}
	text := donorMine.ReplaceAllString(old, "")
	if donor != "" {
		text = strings.TrimSpace(donorOption + donor + ", " + text)
	}
	switch text {
	case old:
		return nil
	case "":
		return c.systemd.call(ctx, "UnsetEnvironment", []string{optionsVariable}).Err
	}
	return c.systemd.call(ctx, "SetEnvironment", []string{optionsVariable + "=" + text}).Err
}
