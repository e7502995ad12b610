package service

import (
	"bytes"
	"embed"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"text/template"
)

//go:embed units/*.service
var unitFiles embed.FS

// Mainstay's own units.
const (
	AgentUnit   = "mainstay.service"
	QuorumUnit  = "mainstay-quorum.service"
	HAProxyUnit = "mainstay-haproxy.service"
)

// UnitValues are what Mainstay's unit files leave open. Empty fields take the
// values in brackets.
type UnitValues struct {
	Binary  string // this program's whole path [/usr/bin/mainstay]
	HAProxy string // [/usr/sbin/haproxy]
	Config  string // HAProxy's configuration [/etc/mainstay/haproxy.cfg]
	Systemd int    // systemd's version [252]: an older one complains of settings it does not know
}

// Units returns the text of each of Mainstay's own unit files by name.
func Units(v UnitValues) (map[string]string, error) {
	if v.Binary == "" {
		v.Binary = "/usr/bin/mainstay"
	}
	if v.HAProxy == "" {
		v.HAProxy = "/usr/sbin/haproxy"
	}
	if v.Config == "" {
		v.Config = "/etc/mainstay/haproxy.cfg"
	}
	if v.Systemd == 0 {
		v.Systemd = 252
	}
	all, err := template.New("").Option("missingkey=error").ParseFS(unitFiles, "units/*.service")
	if err != nil {
		return nil, fmt.Errorf("unit files: %w", err)
	}
	out := map[string]string{}
	for _, t := range all.Templates() {
		var text bytes.Buffer
		if err := t.Execute(&text, v); err != nil {
			return nil, fmt.Errorf("unit file %s: %w", t.Name(), err)
		}
		out[t.Name()] = text.String()
	}
	return out, nil
}

// WriteUnits writes Mainstay's own unit files into a folder, in production
// /etc/systemd/system, and returns the names of those that changed. If there are
// any, systemd must be told (Systemd.Reload); only AgentUnit is to be enabled,
// the agent starts the others. Nothing is started or restarted by it.
func WriteUnits(folder string, v UnitValues) (changed []string, err error) {
	units, err := Units(v)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(units)) {
		new, err := write(filepath.Join(folder, name), []byte(units[name]))
		if err != nil {
			return changed, fmt.Errorf("write unit %s: %w", name, err)
		}
		if new {
			changed = append(changed, name)
		}
	}
	return changed, nil
}
