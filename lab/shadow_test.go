package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// TestShadow plays the first day on a running site: it says what it would do about a
// host that is lost, to the fence, and none of it happens.
func TestShadow(t *testing.T) {
	if testing.Short() {
		t.Skip("boots three hosts")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	l := up(t, Config{Name: "shadow", Hosts: []Host{{Name: "c1"}, {Name: "c2"}, {Name: "c3"}}, Disk: 2 << 30})
	s := &lightSite{
		site:   &site{ctx: ctx, lab: l, binary: build(ctx, t, "one")},
		config: SiteConfig{Timing: "wide", Services: memberServices, Mode: "shadow"},
	}
	s.config.Binary = s.binary
	for _, m := range l.Hosts {
		s.furnish(t, m.Name)
	}
	s.run(t, "c2", "systemctl", "start", "solo.service") // as the site itself does
	if err := l.Deploy(ctx, s.config, func(text string) { t.Log(text) }); err != nil {
		t.Fatal(err)
	}
	says := func(host, want string) {
		t.Helper()
		s.eventually(t, fmt.Sprintf("%s to say %q", host, want), func() error {
			out, err := s.lab.Run(ctx, host, "mainstay", "events", "-n", "0")
			if err == nil && !strings.Contains(out, want) {
				err = fmt.Errorf("not in\n%s", out)
			}
			return err
		})
	}
	says("c1", "would have recorded: service/solo goes to c2: it was found running there")
	says("c1", "would have ordered c1 to start service/haproxy")

	// Once the voter that joined last has heard of c2, all can ask its switch.
	s.eventually(t, "every voter to test the fence of c2", func() error {
		out, err := l.Run(ctx, "c1", "mainstay", "fence", "test", "c2")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})

	s.deed(t)(l.Cut(ctx, Cut{Host: "c2", Network: All, Direction: Both}))
	says("c1", "would have recorded: c2 will be fenced")
	says("c1", "to fence host/c2")
	if on, err := l.Powered("c2"); err != nil || !on {
		t.Errorf("c2 was switched off: %v", err)
	}
	s.deed(t)(l.Heal(ctx, "c2", All))

	for _, m := range l.Hosts {
		for what, script := range map[string]string{
			"a guard that ends it": "! nft list ruleset | grep -qE '" + l.Virtual()["internal"].String() + "[^0-9]'",
			"a bar":                "! test -e /etc/systemd/system/solo.service.d",
			"HAProxy of Mainstay":  "! systemctl is-active -q mainstay-haproxy",
			"an address":           "! ip -o addr | grep -qE '" + l.Virtual()["internal"].String() + "[ /]'",
		} {
			if out, err := l.Run(ctx, m.Name, "sh", "-c", script); err != nil {
				t.Errorf("%s has %s: %v\n%s", m.Name, what, err, out)
			}
		}
	}
	if st := s.status(t); !st.Shadow || find(st, "service/solo").Host != "" {
		t.Errorf("the status shows somebody as the holder of what nobody was given: %+v", st.Holdings)
	}

	s.deed(t)(l.PowerOff(ctx, "c2"))
	s.deed(t)(l.Start(ctx, "c2"))
	s.await(t, "c2 heard again", func(st api.Status) bool {
		for _, h := range st.Hosts {
			if h.Condition != fleet.Healthy {
				return false
			}
		}
		return st.Leader != ""
	})
	if out, err := l.Run(ctx, "c2", "systemctl", "start", "solo.service"); err != nil {
		t.Error(errors.Join(err, errors.New(out)))
	}
	if out, err := l.Run(ctx, "c2", "systemctl", "is-active", "solo.service"); err != nil {
		t.Errorf("after a reboot the service cannot be started as before: %v %s", err, out)
	}
}
