package fence

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mainstay/fence/falsebmc"
	"mainstay/fleet"
)

// TestMain lets this program play a fence agent: "TEST false-agent URL", which asks its
// device at URL and ends with the exit code that it answers.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "false-agent" {
		os.Exit(falseAgent(os.Args[2], os.Args[3:]))
	}
	dir, err := os.MkdirTemp("", "agents")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	falseAgents = dir
	agentDirs = append(agentDirs, dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// falseAgents is where tests install theirs.
var falseAgents string

const falseMetadata = `<?xml version="1.0" ?>
<resource-agent name="fence_false" shortdesc="A false agent">
<parameters>
	<parameter name="action"><content type="string" default="reboot" /><shortdesc>Fencing action</shortdesc></parameter>
	<parameter name="plug"><content type="string" /><shortdesc>Number of the plug</shortdesc></parameter>
	<parameter name="username"><content type="string" /><shortdesc>Login name</shortdesc></parameter>
	<parameter name="password"><content type="string" /><shortdesc>Login password</shortdesc></parameter>
	<parameter name="debug_file"><content type="string" /><shortdesc>Write debug information</shortdesc></parameter>
</parameters>
<actions><action name="on" /><action name="off" /><action name="status" /><action name="metadata" /></actions>
</resource-agent>`

func falseAgent(device string, args []string) int {
	if strings.Join(args, " ") == "-o metadata" {
		fmt.Println(falseMetadata)
		return 0
	}
	form := url.Values{}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		key, value, _ := strings.Cut(in.Text(), "=")
		form.Set(key, value)
	}
	for _, arg := range os.Args { // a secret that reached argv would be seen here
		form.Add("argv", arg)
	}
	r, err := http.PostForm(device, form) //nolint:noctx // the caller kills this process
	if err != nil {
		fmt.Fprintln(os.Stderr, "Unable to connect to", device, "with", form.Get("password"))
		return 1
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(r.Body)
	code := 1
	if _, err := fmt.Sscan(string(text), &code); err != nil || code == 1 {
		fmt.Fprintf(os.Stderr, "Failed: Unable to obtain correct plug status as %s, %s\n", form.Get("username"), form.Get("password"))
	}
	return code
}

// agentDevice is a power strip behind a fence agent.
func agentDevice(t *testing.T) device {
	t.Helper()
	l, f := &lamp{}, &falsebmc.Faults{}
	l.on.Store(true)
	life, end := context.WithCancel(t.Context())
	var late sync.WaitGroup
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		for _, arg := range r.PostForm["argv"] {
			if strings.Contains(arg, rightPassword) || strings.Contains(arg, wrongPassword) {
				t.Error("a secret is in argv")
			}
		}
		fault, action := f.Get(), r.PostForm.Get("action")
		wait := fault.Slow
		if fault.Hang {
			wait = time.Hour
		}
		select {
		case <-time.After(wait):
		case <-life.Done():
			return
		case <-r.Context().Done():
			return
		}
		code := 0
		switch {
		case fault.Locked || r.PostForm.Get("password") != rightPassword || r.PostForm.Get("plug") != "3":
			code = 1
		case action == "status":
			if !l.on.Load() || fault.Lies {
				code = 2
			}
		case fault.Lies:
		case action == "off" && fault.Late > 0:
			late.Go(func() {
				select {
				case <-time.After(fault.Late):
					l.on.Store(false)
				case <-life.Done():
				}
			})
		case action == "off" || action == "on":
			l.on.Store(action == "on")
			if fault.Lost {
				code = 1
			}
		default: // a reboot proves nothing
			t.Errorf("action %q", action)
			code = 1
		}
		fmt.Fprintln(w, code)
	}))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("fence_false_%d", time.Now().UnixNano())
	script := fmt.Sprintf("#!/bin/sh\nexec %s false-agent %s \"$@\"\n", self, s.URL)
	if err := os.WriteFile(filepath.Join(falseAgents, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop := func() { once.Do(func() { end(); s.Close(); late.Wait() }) }
	t.Cleanup(stop)
	return device{
		params: map[string]string{"agent": name, "plug": "3", "username": "mainstay", "password_file": secretFile(t, rightPassword+"\n")},
		faults: f, power: l, stop: stop, blind: true,
	}
}

// TestFenceDummy drives an agent that others wrote, as Debian ships it.
func TestFenceDummy(t *testing.T) {
	power := filepath.Join(t.TempDir(), "power")
	if err := os.WriteFile(power, []byte("on"), 0o600); err != nil {
		t.Fatal(err)
	}
	params := map[string]string{"agent": "fence_dummy", "status_file": power}
	d, err := Open(fleet.Fence{Driver: "agent", Params: params})
	if err != nil {
		t.Fatal(err, "; package fence-agents, which .ci/run installs")
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var n uint64
	target := Target{Host: "c2", Boot: "b1", By: "c1", Others: func() map[string]uint64 { n++; return map[string]uint64{"c3": n} }}
	if _, err := Prove(ctx, d, target); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(power); string(text) != "off" {
		t.Errorf("its status is %q", text)
	}
	if err := PowerOn(ctx, d, target); err != nil {
		t.Error(err)
	}
	if state, err := d.State(ctx); err != nil || state != On {
		t.Errorf("state %q, %v", state, err)
	}
}

// TestAgentParams: a program's own metadata is what is known of its parameters, and what
// Mainstay decides or keeps is not for the site's file.
func TestAgentParams(t *testing.T) {
	t.Setenv("PDU_COMMUNITY", "private")
	for _, c := range []struct {
		params map[string]string
		wrong  []string
	}{
		{map[string]string{"agent": "fence_ipmilan", "ip": "bmc", "username": "x", "lanplus": "1", "cipher": "3"}, nil},
		{map[string]string{"agent": "fence_apc_snmp", "ip": "pdu-a", "plug": "3", "community_env": "PDU_COMMUNITY"}, nil},
		{map[string]string{"agent": "fence_apc_snmp", "ip": "pdu-a", "plug": "3", "community": "hunter2"}, []string{"community_file"}},
		{map[string]string{"agent": "fence_ipmilan", "ipadr": "bmc", "delay": "3", "action": "reboot"}, []string{"ipadr", "delay", "action"}},
		{map[string]string{"agent": "fence_ipmilan", "ip": "bmc", "password": "hunter2"}, []string{"password_file"}},
		{map[string]string{"agent": "fence_nosuch"}, []string{"there is no fence_nosuch"}},
		{map[string]string{"agent": "../bin/sh"}, []string{"no fence agent's name"}},
		{map[string]string{"plug": "3"}, []string{"missing"}},
	} {
		d, err := Open(fleet.Fence{Driver: "agent", Params: c.params})
		if err == nil {
			d.Close()
		}
		if (err == nil) != (c.wrong == nil) {
			t.Errorf("%v: %v", c.params, err)
		}
		for _, want := range c.wrong {
			if !strings.Contains(fmt.Sprint(err), want) || strings.Contains(fmt.Sprint(err), "hunter2") {
				t.Errorf("%v: %v", c.params, err)
			}
		}
	}
}

// TestBlindDevice: a device that knows no machine is not believed when another host
// falls silent in place of the one we mean, nor where nobody listens.
func TestBlindDevice(t *testing.T) {
	for name, c := range map[string]struct {
		others func() func() map[string]uint64
		want   fleet.Outcome
		fallen []string
	}{
		"all others go on": {others: func() func() map[string]uint64 {
			var n uint64
			return func() map[string]uint64 { n++; return map[string]uint64{"c3": n, "c4": n} }
		}, want: fleet.Done},
		"another beats no more": {others: func() func() map[string]uint64 {
			var n uint64
			return func() map[string]uint64 { n++; return map[string]uint64{"c3": 7, "c4": n} }
		}, want: fleet.NoWord},
		"another is gone": {others: func() func() map[string]uint64 {
			var n uint64
			return func() map[string]uint64 {
				if n++; n > 1 {
					return map[string]uint64{"c4": n}
				}
				return map[string]uint64{"c3": n, "c4": n}
			}
		}, want: fleet.NoWord},
		"another's last beat came after the order, and none after the off": {others: func() func() map[string]uint64 {
			var n uint64
			return func() map[string]uint64 {
				n++
				return map[string]uint64{"c3": min(n, 2), "c4": n} // by the time of the off it has beaten once more
			}
		}, want: fleet.NoWord},
		"another beats seldom": {others: func() func() map[string]uint64 {
			var n uint64
			return func() map[string]uint64 { n++; return map[string]uint64{"c3": n / 4, "c4": n} }
		}, want: fleet.Done},
		"another has fallen silent since": {others: func() func() map[string]uint64 {
			var n uint64
			return func() map[string]uint64 { n++; return map[string]uint64{"c3": n} }
		}, want: fleet.Broken, fallen: []string{"c4"}},
		"nobody listens": {others: func() func() map[string]uint64 { return nil }, want: fleet.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dev := agentDevice(t)
			d, err := Open(fleet.Fence{Driver: "agent", Params: dev.params})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			_, err = Prove(t.Context(), d, Target{Host: "c2", Boot: "b", By: "c1", Others: c.others(), Fallen: func() []string { return c.fallen }})
			if OutcomeOf(err) != c.want {
				t.Errorf("%q: %v", OutcomeOf(err), err)
			}
			if (c.want == fleet.Refused || c.fallen != nil) && !dev.power.on.Load() {
				t.Error("it was switched off all the same")
			}
		})
	}
}
