package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mainstay/api"
	"mainstay/fleet"
	"mainstay/service"
)

// keepalived is VRRP with an advertisement every so many seconds: all hosts
// start as backups, and whoever has the address keeps it.
func keepalived(name, seconds string) peer {
	return peer{
		name: name, setting: "VRRP 3, advert_int " + seconds + " s, nopreempt", units: []string{"keepalived"},
		files: func(b *bench, m Machine) map[string]File {
			priority := 101
			for i, h := range b.Hosts {
				if h.Name == m.Name {
					priority += i
				}
			}
			return map[string]File{"/etc/keepalived/keepalived.conf": {Data: fmt.Appendf(nil, `global_defs {
    vrrp_version 3
    script_user root
}
vrrp_instance vip {
    state BACKUP
    nopreempt
    interface management
    virtual_router_id 51
    priority %d
    advert_int %s
    notify_backup "/bin/sh -c 'echo backup >%[3]s'"
    notify_master "/bin/sh -c 'echo holder >%[3]s'"
    virtual_ipaddress {
        %s/24 dev management
    }
}
`, priority, seconds, vrrpState, b.vip)}}
		},
		ready: func(ctx context.Context, b *bench) error {
			return b.everywhere(func(m Machine) error {
				return errors.Join(b.running(ctx, m.Name), b.sh(ctx, m.Name, "systemctl is-active keepalived && test -s "+vrrpState))
			})
		},
	}
}

// vrrpState holds what keepalived has said of itself in this boot.
const vrrpState = "/run/bench-vrrp"

// corosyncFiles is Pacemaker's messaging layer at its defaults.
func corosyncFiles(b *bench, _ Machine) map[string]File {
	var t strings.Builder
	t.WriteString("totem {\n    version: 2\n    cluster_name: bench\n    transport: knet\n    crypto_cipher: none\n    crypto_hash: none\n    token: 3000\n}\n")
	t.WriteString("quorum {\n    provider: corosync_votequorum\n}\nlogging {\n    to_syslog: yes\n}\nnodelist {\n")
	for i, m := range b.Hosts {
		fmt.Fprintf(&t, "    node {\n        name: %s\n        nodeid: %d\n        ring0_addr: %s\n    }\n", m.Name, i+1, m.Addresses["management"].V4.Addr())
	}
	t.WriteString("}\n")
	return map[string]File{"/etc/corosync/corosync.conf": {Data: []byte(t.String())}}
}

// pacemakerBegin makes the address a resource, without fencing, which favours it:
// with it the BMC's time would come on top.
func pacemakerBegin(ctx context.Context, b *bench) error {
	address := fmt.Sprintf(`<resources><primitive id="vip" class="ocf" provider="heartbeat" type="IPaddr2"><instance_attributes id="vip-set">`+
		`<nvpair id="vip-ip" name="ip" value="%s"/><nvpair id="vip-mask" name="cidr_netmask" value="24"/><nvpair id="vip-nic" name="nic" value="management"/>`+
		`</instance_attributes><operations><op id="vip-monitor" name="monitor" interval="10s"/></operations></primitive></resources>`, b.vip)
	err := until(ctx, benchSettle, func() error {
		return b.sh(ctx, b.Hosts[0].Name, `set -e
crm_attribute --type crm_config --name stonith-enabled --update false
crm_attribute --type crm_config --name no-quorum-policy --update stop
crm_attribute --type rsc_defaults --name resource-stickiness --update 100
cibadmin --replace --scope resources --xml-text '`+address+"'")
	})
	if err != nil {
		return fmt.Errorf("configure Pacemaker: %w", err)
	}
	return nil
}

func pacemakerReady(ctx context.Context, b *bench) error {
	var online []string
	for _, m := range b.Hosts {
		online = append(online, m.Name)
		if err := b.running(ctx, m.Name); err != nil {
			return fmt.Errorf("on %s: %w", m.Name, err)
		}
	}
	want := "Online: [ " + strings.Join(online, " ") + " ]"
	text, err := b.Run(ctx, b.Hosts[0].Name, "crm_mon", "--one-shot")
	if err == nil && !strings.Contains(text, want) {
		err = fmt.Errorf("crm_mon does not say %q: %s", want, text)
	}
	return err
}

// mainstayBegin installs Mainstay as an operator would, or lets it go on where an
// earlier run has stopped it.
func mainstayBegin(ctx context.Context, b *bench) error {
	root, err := b.HostPath(b.Hosts[len(b.Hosts)-1].Name)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(root, "etc/mainstay/tls/host.pem")); err != nil {
		// Adopted would be what the peers before it needed; a first day begins without.
		return b.Deploy(ctx, b.site, b.say)
	}
	return b.everywhere(func(m Machine) error {
		return b.sh(ctx, m.Name, "systemctl -q enable "+service.AgentUnit+" && sync && systemctl start "+service.AgentUnit)
	})
}

// mainstayReady wants every host healthy and admitted, everything on it ready, and
// every address in effect.
func mainstayReady(ctx context.Context, b *bench) error {
	s, err := b.siteStatus(ctx)
	if err != nil {
		return err
	}
	if len(s.Hosts) != len(b.Hosts) {
		return fmt.Errorf("%d hosts of %d are known", len(s.Hosts), len(b.Hosts))
	}
	for _, h := range s.Hosts {
		if h.Condition != fleet.Healthy || h.Barred != "" {
			return fmt.Errorf("%s is %s: %s %s", h.Name, h.Condition, h.Why, h.Barred)
		}
	}
	for _, h := range s.Holdings {
		if !h.Works {
			return fmt.Errorf("%s does not work on %s yet", h.Thing, h.Host)
		}
	}
	for _, v := range s.Services {
		for _, host := range fleet.Sorted(v.Copies) {
			if c := v.Copies[host]; v.Mode == fleet.ActiveActive && !c.Ready {
				return fmt.Errorf("%s on %s is %s: %s", v.Name, host, c.Phase, c.Why)
			}
		}
	}
	return b.everywhere(func(m Machine) error {
		return b.sh(ctx, m.Name, "systemctl is-active "+service.QuorumUnit)
	})
}

// siteStatus asks the first host whose Mainstay knows a leader.
func (b *bench) siteStatus(ctx context.Context) (api.Status, error) {
	var errs []error
	for _, m := range b.Hosts {
		s, err := b.SiteStatus(ctx, m.Name)
		if err == nil && s.Leader != "" {
			return s, nil
		}
		errs = append(errs, err)
	}
	return api.Status{}, errors.Join(append(errs, errors.New("nobody knows a leader"))...)
}

// lead sees that the address's holder leads, or that it does not.
func (b *bench) lead(ctx context.Context, holder string, leading bool) error {
	err := until(ctx, time.Minute, func() error {
		s, err := b.siteStatus(ctx)
		if err != nil {
			return err
		}
		if (s.Leader == holder) == leading {
			return nil
		}
		to := holder
		for _, m := range b.Hosts {
			if !leading && m.Name != holder {
				to = m.Name
				break
			}
		}
		if err := b.sh(ctx, to, "mainstay voters lead "+to); err != nil {
			return err
		}
		return fmt.Errorf("%s leads, and %s was asked to", s.Leader, to)
	})
	if err != nil {
		return fmt.Errorf("move the lead: %w", err)
	}
	return nil
}
