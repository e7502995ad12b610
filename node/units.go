package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"mainstay/service"
)

// WriteUnits writes Mainstay's own systemd units into c.Units, for the program that runs
// now, and has systemd read those that changed. It starts and stops nothing. Where
// c.Units is "" it does nothing.
func WriteUnits(ctx context.Context, c Config) error {
	if c.Units == "" {
		return nil
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	system := service.NewSystemd("")
	defer system.Close()
	values := service.UnitValues{Binary: binary, Config: filepath.Join(c.Config, "haproxy.cfg")}
	if v, err := system.Version(ctx); err == nil {
		values.Systemd = v
	}
	changed, err := service.WriteUnits(c.Units, values)
	if err != nil || len(changed) == 0 {
		return err
	}
	if err := system.Reload(ctx); err != nil {
		c.Log.Warn("systemd was not told of its new units", "units", changed, "error", err, "help", "systemctl daemon-reload")
		return nil
	}
	c.Log.Info("Mainstay's units are those of this version", "changed", changed)
	return nil
}

// followUnits brings the units of an earlier version up to this one, where init or join
// has written them: a new program with the old settings is half an upgrade.
func followUnits(ctx context.Context, c Config) {
	if _, err := os.Stat(filepath.Join(c.Units, service.AgentUnit)); errors.Is(err, fs.ErrNotExist) {
		return // they come from elsewhere: a package, or nobody
	}
	if err := WriteUnits(ctx, c); err != nil {
		c.Log.Error("write the units of this version", "error", err)
	}
}
