package service

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// openRabbitTest opens a copy on a unit and on data of its own; rabbitmqctl and
// rabbitmq-queues are a script that writes down how it was called.
func openRabbitTest(t *testing.T, unit fakeUnit, tool string) (*fakeSystemd, *rabbitCopy, func() []string) {
	t.Helper()
	f := newFakeSystemd(t)
	f.add("rabbitmq-server.service", unit)
	data := filepath.Join(t.TempDir(), "mnesia")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	opened, err := Open(fleet.Service{Name: "rabbitmq", Kind: "rabbitmq", Mode: fleet.ActiveActive, Units: []string{"rabbitmq-server.service"},
		Restarts: fleet.Restarts{Count: 5, Within: time.Hour},
		Params:   map[string]string{"data": data, "node": "rabbit@c1", "address": silent.Addr().String(), "start_timeout": "10s"}}, Env{Systemd: newSystemd(t, f)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	c := opened.(*rabbitCopy)
	c.tools = t.TempDir()
	for _, name := range []string{"rabbitmqctl", "rabbitmq-queues"} {
		text := "#!/bin/sh\necho \"" + name + " $*\" >>\"$(dirname \"$0\")/calls\"\n" + tool + "\n"
		if err := writeProgram(filepath.Join(c.tools, name), text); err != nil {
			t.Fatal(err)
		}
	}
	return f, c, func() []string {
		raw, _ := os.ReadFile(filepath.Join(c.tools, "calls"))
		return strings.Split(strings.TrimSpace(string(raw)), "\n")
	}
}

// says writes what the node has written of its cluster.
func (c *rabbitCopy) says(t *testing.T, members, running string) {
	t.Helper()
	dir := filepath.Join(c.data, c.node)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cluster_nodes.config": "{[" + members + "],[" + members + "]}.\n", "nodes_running_at_shutdown": "[" + running + "].\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *rabbitCopy) set(heard, mute time.Duration, trouble string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	c.heard, c.mute, c.trouble = time.Time{}, time.Time{}, trouble
	if heard != 0 {
		c.heard = now.Add(-heard)
	}
	if mute != 0 {
		c.mute = now.Add(-mute)
	}
}

func TestRabbitReady(t *testing.T) {
	const all = "rabbit@c3,'rabbit@c-2',rabbit@c1"
	for _, tc := range []struct {
		name             string
		members, running string
		heard, mute      time.Duration
		trouble          string
		ready, stuck     bool
		why              string
	}{
		{"whole", all, all, time.Second, 0, "", true, false, ""},
		{"one is away", all, "'rabbit@c-2',rabbit@c1", time.Second, 0, "", true, false, ""},
		{"alone of three", all, "rabbit@c1", time.Second, 0, "", false, false, "1 of 3 members running (rabbit@c1): a minority"},
		{"paused", all, "", time.Second, 0, "", false, false, "0 of 3 members running (none)"},
		{"of its own", "rabbit@c1", "rabbit@c1", time.Second, 0, "", true, false, ""},
		{"the others run without it", all, "'rabbit@c-2',rabbit@c3", time.Second, 0, "", false, false, "does not count itself"},
		{"never answered", all, all, 0, 0, "", false, false, "no message has passed"},
		{"late for a moment", all, all, 2 * time.Second, time.Second, "late", true, false, ""},
		{"late for long", all, all, 7 * time.Second, 6 * time.Second, "late", false, false, "late; look: rabbitmqctl status"},
		{"late while another may hang", all, all, 80 * time.Second, 80 * time.Second, "late", false, false, "late"},
		{"late for ever", all, all, 3 * time.Minute, 3 * time.Minute, "late", false, true, "late"},
		{"an alarm", all, all, 2 * time.Second, 0, "takes no messages: low on memory", false, false, "low on memory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, c, _ := openRabbitTest(t, fakeUnit{Active: "active", Sub: "running"}, "")
			c.says(t, tc.members, tc.running)
			c.set(tc.heard, tc.mute, tc.trouble)
			st := state(t, c, fleet.Running)
			ready, why, err := c.Ready(t.Context())
			if err != nil || ready != tc.ready || ready != (why == "") || !strings.Contains(why, tc.why) {
				t.Errorf("Ready = %v, %q, %v; want %v, %q", ready, why, err, tc.ready, tc.why)
			}
			if st.Stuck != tc.stuck {
				t.Errorf("Stuck = %v, %s", st.Stuck, st.Why)
			}
			if tc.members == all && st.Peers.Members != "rabbit@c-2 rabbit@c1 rabbit@c3" || st.Peers.Self != "rabbit@c1" {
				t.Errorf("Peers = %+v", st.Peers)
			}
			if again := state(t, c, fleet.Running); again.Peers != st.Peers || st.Peers.Since.IsZero() {
				t.Errorf("nothing changed, and Peers did: %+v, then %+v", st.Peers, again.Peers)
			}
		})
	}
}

// TestRabbitRemembersWhomItSaw: a node on its way up writes whom it has found so far over
// whom it saw last; who may be started first rests on the latter.
func TestRabbitRemembersWhomItSaw(t *testing.T) {
	t.Parallel()
	f, c, _ := openRabbitTest(t, fakeUnit{}, "")
	c.says(t, "rabbit@c1,rabbit@c2", "rabbit@c1,rabbit@c2")
	before := state(t, c, fleet.Stopped).Peers
	f.change("rabbitmq-server.service", func(u *fakeUnit) { u.Active, u.Sub = "activating", "start" })
	c.says(t, "rabbit@c1,rabbit@c2", "rabbit@c1")
	until := time.Now().Add(patience)
	st, err := c.State(t.Context())
	for ; st.Phase != fleet.Starting && time.Now().Before(until); st, err = c.State(t.Context()) {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil || st.Phase != fleet.Starting || st.Peers.Running != before.Running || before.Running != "rabbit@c1 rabbit@c2" {
		t.Errorf("before its start %q, now %+v, %v", before.Running, st, err)
	}
	// An agent that begins now does not know.
	again, err := Open(fleet.Service{Name: "rabbitmq", Kind: "rabbitmq", Mode: fleet.ActiveActive, Units: []string{"rabbitmq-server.service"},
		Params: map[string]string{"data": c.data, "node": "rabbit@c1"}}, Env{Systemd: c.systemd})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if st, err := again.State(t.Context()); err != nil || st.Peers.Running != "" || st.Peers.Members == "" {
		t.Errorf("a new agent claims to know whom the node saw: %+v, %v", st.Peers, err)
	}
}

// TestRabbitProbe: a port that nobody answers on is unknown, a closed one an answer.
func TestRabbitProbe(t *testing.T) {
	t.Parallel()
	_, c, _ := openRabbitTest(t, fakeUnit{Active: "active", Sub: "running"}, "")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := c.Probe(ctx); !errors.Is(err, ErrUnknown) {
		t.Errorf("a server that says nothing: %v; want ErrUnknown", err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.addr = closed.Addr().String()
	closed.Close()
	if err := c.Probe(t.Context()); err == nil || errors.Is(err, ErrUnknown) {
		t.Errorf("a closed port: %v; want an answer", err)
	}
	if ready, why, err := c.Ready(t.Context()); ready || why == "" || err != nil {
		t.Errorf("Ready = %v, %q, %v", ready, why, err)
	}
}

// TestRabbitTend: what each step does, and before what it stops.
func TestRabbitTend(t *testing.T) {
	const running = `case "$*" in *"--formatter json version"*) ;; *version*) echo 3.10.8 ;; *"list_policies"*) echo '[]' ;; *list_queues*|*eval*) echo '[]' ;; esac`
	const asks = `rabbitmqctl -q -n rabbit@c2 eval [rabbit_misc:rs(amqqueue:get_name(Q)) || Q <- rabbit_amqqueue:list(), amqqueue:is_durable(Q), amqqueue:get_type(Q) =:= rabbit_classic_queue, amqqueue:qnode(Q) =:= 'rabbit@c1'].`
	for _, tc := range []struct {
		name, step, tool string
		want             []string // calls, in their order
		err              string
		aside            bool
	}{
		{"join", fleet.StepJoin, running, []string{
			"rabbitmqctl -q --formatter json list_queues name messages", "rabbitmqctl -q stop_app", "rabbitmqctl -q join_cluster rabbit@c2", "rabbitmqctl -q start_app",
			"rabbitmq-queues -q grow rabbit@c1 all", "rabbitmqctl -q version", "rabbitmqctl -q --formatter json list_policies -p /",
			`rabbitmqctl -q set_policy -p / --apply-to queues mainstay-mirror ` + rabbitMirror + ` {"ha-mode":"all","ha-sync-mode":"automatic"}`}, "", false},
		{"join where somebody else mirrors", fleet.StepJoin, strings.Replace(running, "echo '[]' ;; *list_queues", `echo '[{"definition":"{\"ha-mode\":\"exactly\"}"}]' ;; *list_queues`, 1), []string{
			"rabbitmqctl -q --formatter json list_queues name messages", "rabbitmqctl -q stop_app", "rabbitmqctl -q join_cluster rabbit@c2", "rabbitmqctl -q start_app",
			"rabbitmq-queues -q grow rabbit@c1 all", "rabbitmqctl -q version", "rabbitmqctl -q --formatter json list_policies -p /"}, "", false},
		{"join of 4.0", fleet.StepJoin, strings.Replace(running, "3.10.8", "4.0.5", 1), []string{
			"rabbitmqctl -q --formatter json list_queues name messages", "rabbitmqctl -q stop_app", "rabbitmqctl -q join_cluster rabbit@c2", "rabbitmqctl -q start_app",
			"rabbitmq-queues -q grow rabbit@c1 all", "rabbitmqctl -q version"}, "", false},
		{"join of one that holds messages", fleet.StepJoin, `echo '[{"name":"q","messages":7}]'`,
			[]string{"rabbitmqctl -q --formatter json list_queues name messages"}, "its queue q holds 7 messages", false},
		{"join that is refused", fleet.StepJoin, `case "$*" in *join_cluster*) echo no such node >&2; exit 69 ;; *) echo '[]' ;; esac`,
			[]string{"rabbitmqctl -q --formatter json list_queues name messages", "rabbitmqctl -q stop_app", "rabbitmqctl -q join_cluster rabbit@c2", "rabbitmqctl -q start_app"}, "no such node", false},
		{"force the start", fleet.StepForceStart, "", []string{"rabbitmqctl -q force_boot"}, "", false},
		{"reset", fleet.StepReset, "", []string{""}, "", true},
		{"replace", fleet.StepReplace, running, []string{
			"rabbitmqctl -q --formatter json -n rabbit@c2 list_queues --offline name", asks, "rabbitmqctl -q -n rabbit@c2 forget_cluster_node rabbit@c1"}, "", true},
		{"replace one that alone has a queue", fleet.StepReplace, `echo '[{"name":"only"}]'`,
			[]string{"rabbitmqctl -q --formatter json -n rabbit@c2 list_queues --offline name", asks}, "classic queues live on it alone (1, only among them)", false},
		{"replace one that alone has a queue of 4.0", fleet.StepReplace, `case "$*" in *eval*) echo "[\"queue 'only' in vhost '/'\"]" ;; *) echo '[]' ;; esac`,
			[]string{"rabbitmqctl -q --formatter json -n rabbit@c2 list_queues --offline name", asks}, "queue 'only' in vhost '/'", false},
		{"abandon it", fleet.StepAbandon, `echo '[{"name":"only"}]'`, []string{"rabbitmqctl -q -n rabbit@c2 forget_cluster_node rabbit@c1"}, "", true},
		{"replace when the others cannot be asked", fleet.StepReplace, `exit 69`,
			[]string{"rabbitmqctl -q --formatter json -n rabbit@c2 list_queues --offline name"}, "exit code 69", false},
		{"purge a queue", fleet.StepPurge, `echo '[{"name":"other"},{"name":"rabbit@c2"}]'`,
			[]string{"rabbitmqctl -q --formatter json list_queues -p / name", "rabbitmqctl -q purge_queue -p / rabbit@c2"}, "", false},
		{"purge a queue that there is not", fleet.StepPurge, `echo '[{"name":"other"}]'`, []string{"rabbitmqctl -q --formatter json list_queues -p / name"}, "", false},
		{"an unknown step", "dance", "", []string{""}, `knows no step "dance"`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, c, calls := openRabbitTest(t, fakeUnit{Active: "active", Sub: "running"}, tc.tool)
			c.says(t, "rabbit@c1,rabbit@c2", "rabbit@c1")
			err := c.Tend(t.Context(), tc.step, "rabbit@c2", "key/1")
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v; want %q", err, tc.err)
			}
			got := calls()
			if tc.step == fleet.StepReplace || tc.step == fleet.StepAbandon {
				got = got[:min(len(got), len(tc.want))] // then it joins
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("called\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
			kept, _ := filepath.Glob(filepath.Join(c.data, "rabbit@c1.before-*"))
			if (len(kept) == 1) != tc.aside {
				t.Errorf("set aside: %v; want %v", kept, tc.aside)
			}
			state(t, c, fleet.Running) // whatever came of it
			if tc.step == fleet.StepReset {
				c.says(t, "rabbit@c1", "rabbit@c1")
				if err := c.Tend(t.Context(), tc.step, "", "key/1"); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(filepath.Join(c.data, "rabbit@c1", "cluster_nodes.config")); err != nil {
					t.Errorf("the same step taken again reset it again: %v", err)
				}
			}
		})
	}
}

// TestRabbitIsReplacedOnce: one that falls out again is a person's.
func TestRabbitIsReplacedOnce(t *testing.T) {
	t.Parallel()
	_, c, calls := openRabbitTest(t, fakeUnit{Active: "active", Sub: "running"}, `case "$*" in *list_queues*|*eval*) echo '[]' ;; esac`)
	c.says(t, "rabbit@c1,rabbit@c2", "rabbit@c1")
	if err := c.Tend(t.Context(), fleet.StepReplace, "rabbit@c2", "1"); err != nil {
		t.Fatal(err)
	}
	n := len(calls())
	if err := c.Tend(t.Context(), fleet.StepReplace, "rabbit@c2", "2"); err == nil || !strings.Contains(err.Error(), "a person should look") || len(calls()) != n {
		t.Errorf("replaced again: %v, %v", err, calls()[n:])
	}
}

func TestRabbitExamine(t *testing.T) {
	t.Parallel()
	_, c, _ := openRabbitTest(t, fakeUnit{}, "")
	c.config = t.TempDir()
	cookie := filepath.Join(filepath.Dir(c.data), ".erlang.cookie")
	const sound = "# as it should be\ncluster_partition_handling = pause_minority\nnet_ticktime = 6\n"
	const advanced = `[
  %% a comment with {aten, [{poll_interval, 9}]}
  {aten, [{poll_interval, 1000}]},
  {kernel, [
    {net_setuptime, 2},
    {inet_dist_listen_options, [{nodelay, true}, {raw, 6, 18, <<3000:32/native>>}]},
    {inet_dist_connect_options, [{raw, 6, 18,
                                  <<3000:32/native>>}]}
  ]}
].
`
	for _, tc := range []struct {
		conf, advanced, env string
		mode                os.FileMode
		want                []string
	}{
		{"", "", "", 0, []string{"cluster_partition_handling is not set", "net_ticktime is not set (60): a member that is cut off or hangs is noticed after up to 75 s",
			"aten poll_interval is not set (5000): a quorum queue", "net_setuptime is not set (7)", "inet_dist_listen_options is not set: the kernel", "inet_dist_connect_options is not set", "no Erlang cookie"}},
		{"cluster_partition_handling = autoheal\nnet_ticktime=30 # s\n", advanced, "", 0o644, []string{"cluster_partition_handling is autoheal", "net_ticktime is 30", "has mode 0644"}},
		{sound, advanced, "", 0o400, nil},
		{sound, strings.Replace(advanced, "{poll_interval, 1000}", "{poll_interval, 5000}", 1), "", 0o400, []string{"aten poll_interval is 5000"}},
		{sound + "raft.adaptive_failure_detector.poll_interval = 500\n", "", `RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel net_setuptime 2 -kernel inet_dist_listen_options [{raw,6,18,<<9000:32/native>>}]"`,
			0o400, []string{"inet_dist_listen_options is 9000", "inet_dist_connect_options is not set"}},
	} {
		for name, text := range map[string]string{"advanced.config": tc.advanced, "rabbitmq-env.conf": tc.env} {
			if err := os.WriteFile(filepath.Join(c.config, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(c.config, "rabbitmq.conf"), []byte(tc.conf), 0o644); err != nil {
			t.Fatal(err)
		}
		if tc.mode != 0 {
			_ = os.Remove(cookie)
			if err := os.WriteFile(cookie, []byte("secret"), tc.mode); err != nil {
				t.Fatal(err)
			}
		}
		got := c.Examine(nil)
		if len(got) != len(tc.want) {
			t.Errorf("%q: %q", tc.conf, got)
			continue
		}
		for i, w := range tc.want {
			if !strings.Contains(got[i], w) || strings.Contains(got[i], "secret") {
				t.Errorf("%q: does not say %q: %s", tc.conf, w, got[i])
			}
		}
	}
}

// TestRabbitRestartKillsWhatHangs: RabbitMQ's own stop would wait for a node that does not
// answer.
func TestRabbitRestartKillsWhatHangs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		unit  fakeUnit
		mute  time.Duration
		kills int
	}{
		{fakeUnit{Active: "active", Sub: "running"}, 0, 0},
		{fakeUnit{Active: "active", Sub: "running"}, time.Second, 1},
		{fakeUnit{Active: "activating", Sub: "start"}, 0, 1},
		{fakeUnit{Active: "activating", Sub: "auto-restart"}, 0, 0},
	} {
		f, c, _ := openRabbitTest(t, tc.unit, "")
		c.set(time.Second, tc.mute, "")
		if err := c.Restart(t.Context()); err != nil {
			t.Errorf("%+v: %v", tc.unit, err)
		}
		if n := f.called("KillUnit"); n != tc.kills {
			t.Errorf("%+v, silent for %v: killed %d times, want %d", tc.unit, tc.mute, n, tc.kills)
		}
	}
}
