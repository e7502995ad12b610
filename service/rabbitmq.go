package service

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"mainstay/fleet"
)

// rabbitCopy is the kind "rabbitmq": a systemd unit that runs a RabbitMQ node.
//
// What it says of its cluster it reads from two small files in the node's data, which
// RabbitMQ itself keeps and trusts at its next start: who is a member, and whom it saw
// running. RabbitMQ 3.10 writes them within 0.3 s of a change; they cost nothing, and
// they can be read while the node is down, which is when they matter most. rabbitmqctl
// would tell the same and starts an Erlang machine for it (0.6 s of CPU each time): it is
// used for deeds only. The management API needs a plugin that a distribution does not
// switch on.
//
// Whether the node works is asked over AMQP on a connection that is kept: a message is
// published to a queue of the probe's own, confirmed and consumed again. The same
// connection is told of memory and disk alarms. A new connection for each question would
// fill the broker's log.
type rabbitCopy struct {
	*unitCopy
	node   string // rabbit@c1
	data   string // the folder of all nodes' data; this one's is data/node
	addr   string
	vhost  string
	secret func() (user, password string, err error)
	tools  string // where rabbitmqctl is; "": wherever PATH says
	config string // the folder of rabbitmq.conf

	asking sync.Mutex // one question at a time; guards link
	link   *rabbitLink

	now      func() time.Time
	mu       sync.Mutex // guards all below
	view     fleet.Peers
	last     fleet.ServiceState // when Since last changed
	heard    time.Time          // when a message last came back
	mute     time.Time          // since when none has, though the node took the question
	replaced time.Time          // when it was last replaced
	trouble  string             // what came of the last question; empty: it was answered
}

const (
	// rabbitQuiet is how long no message may come back until the node is out of service:
	// a busy one may be late, and nothing else of what it does tells.
	rabbitQuiet = 5 * time.Second
	// rabbitStuck is how long until it is called stuck, to be started anew: longer than a
	// node can wait for one that hangs (75 s, with net_ticktime at its default).
	rabbitStuck = 2 * time.Minute
	// rabbitMirror is the policy that mirrors classic queues on 3.x; what OpenStack makes
	// for one reply or one reader's copy would only be mirrored in vain.
	rabbitMirror = `^(?!(amq\.|reply_|.*_fanout_)).*`
)

func openRabbit(s fleet.Service, env Env) (Copy, error) {
	u, p := newUnit(s, env)
	c := &rabbitCopy{unitCopy: u, node: p.text("node"), data: p.text("data"), addr: p.text("address"), vhost: p.text("vhost"), config: "/etc/rabbitmq", now: time.Now}
	if c.node == "" {
		name, err := os.Hostname()
		p.add(err)
		short, _, _ := strings.Cut(name, ".")
		c.node = "rabbit@" + short
	}
	if rabbitNode.FindString(c.node) != c.node {
		p.add(fmt.Errorf("params: node: %q is not the name of a node; write it as rabbit@HOST", c.node))
	}
	if _, _, err := net.SplitHostPort(c.addr); err != nil {
		p.add(fmt.Errorf("params: address: %q: %w; write it as 127.0.0.1:5672", c.addr, err))
	}
	user, file := p.text("user"), p.text("password_file")
	if file == "" && user != "guest" {
		p.add(fmt.Errorf("params: password_file: none given for user %s", user))
	}
	c.secret = func() (string, string, error) {
		if file == "" {
			return user, user, nil // guest may come from this host alone, with the password that everybody knows
		}
		raw, err := os.ReadFile(file) // each time, so that a changed password needs no restart
		if err != nil {
			return "", "", fmt.Errorf("password file: %w", err)
		}
		return user, strings.TrimRight(string(raw), "\r\n"), nil
	}
	return c, errors.Join(p.wrongs...)
}

// rabbitNode is how Erlang writes a node in the two files; it quotes a name that has
// anything but these.
var rabbitNode = regexp.MustCompile(`[a-zA-Z0-9_.-]+@[a-zA-Z0-9_.-]+`)

// rabbitNames reads the names of the first list of a file such as
//
//	{[rabbit@c1,'rabbit@c-2'],[rabbit@c1]}.
//
// "" if the file is not there or holds none.
func rabbitNames(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	list, _, _ := strings.Cut(string(raw), "]")
	names := rabbitNode.FindAllString(list, -1)
	slices.Sort(names)
	return strings.Join(names, " ")
}

// State adds what the node says of its cluster. While it starts it writes whom it has
// found so far over whom it saw last; until then what was read before stands.
func (c *rabbitCopy) State(ctx context.Context) (fleet.ServiceState, error) {
	st, u, err := c.unitCopy.state(ctx, c.systemd.glance)
	if err != nil {
		return st, err
	}
	dir := filepath.Join(c.data, c.node)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view.Self, c.view.Members = c.node, rabbitNames(filepath.Join(dir, "cluster_nodes.config"))
	if st.Phase == fleet.Running || down(st.Phase) {
		c.view.Running = rabbitNames(filepath.Join(dir, "nodes_running_at_shutdown"))
	}
	if st.Phase != fleet.Running {
		c.heard, c.mute, c.trouble = time.Time{}, time.Time{}, ""
	}
	if st.Phase == fleet.Starting {
		st.Why = joined(st.Why, "starts, or waits for the members that went down after it", "look: journalctl -fu "+u.ID)
	}
	if st.Phase == fleet.Running && !c.mute.IsZero() && c.now().Sub(c.mute) > rabbitStuck {
		st.Stuck = true
		st.Why = joined(st.Why, fmt.Sprintf("no message has come back for more than %v: %s", rabbitStuck, c.trouble))
	}
	st.Ready, _ = c.ready(st.Phase)
	st.Peers = c.view
	st.Peers.Since = time.Time{}
	if now := (fleet.ServiceState{Phase: st.Phase, Ready: st.Ready, Peers: st.Peers}); now != c.last {
		c.last, c.view.Since = now, c.now().Round(0).UTC()
	}
	st.Peers.Since = c.view.Since
	return st, nil
}

// Ready says whether the node sees enough of its members, and whether messages pass
// through it, as the newest questions (Probe) found.
func (c *rabbitCopy) Ready(ctx context.Context) (bool, string, error) {
	st, _, err := c.unitCopy.state(ctx, c.systemd.glance)
	if err != nil {
		return false, "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ready, why := c.ready(st.Phase)
	if !ready && why == "" {
		why = strings.TrimSuffix(st.Phase+": "+st.Why, ": ")
	}
	return ready, why, nil
}

// ready judges what is known; the caller holds the lock.
func (c *rabbitCopy) ready(phase string) (bool, string) {
	members, running := strings.Fields(c.view.Members), strings.Fields(c.view.Running)
	switch {
	case phase != fleet.Running:
		return false, ""
	case len(running) < fleet.Majority(len(members)):
		// With pause_minority it has stopped by itself; with anything else it takes
		// messages that the others will never see.
		return false, fmt.Sprintf("sees %d of %d members running (%s): a minority; it waits for the others", len(running), len(members), orNone(c.view.Running))
	case !slices.Contains(running, c.node):
		return false, "does not count itself as running yet"
	case c.trouble != "" && (c.heard.IsZero() || c.mute.IsZero() || c.now().Sub(c.heard) > rabbitQuiet):
		return false, c.trouble + "; look: rabbitmqctl status"
	case c.heard.IsZero():
		return false, "no message has passed through it yet"
	}
	return true, ""
}

// Probe publishes a message to a queue of its own, and waits until it is confirmed and
// has come back.
func (c *rabbitCopy) Probe(ctx context.Context) error {
	c.asking.Lock()
	defer c.asking.Unlock()
	err := c.ask(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.heard, c.mute, c.trouble = c.now(), time.Time{}, ""
		return nil
	case !errors.Is(err, ErrUnknown) && !errors.As(err, new(*rabbitLate)):
		c.mute = time.Time{}
	case c.mute.IsZero():
		c.mute = c.now()
	}
	c.trouble = err.Error()
	return err
}

// rabbitLate says that the node took the question and left a part of it unanswered. It is
// alive, so this is not the silence by which a hung process is told: a node that must
// write its tables waits for one that hangs, and it would be ended instead of that one.
type rabbitLate struct{ text string }

// Error says what was not answered.
func (e *rabbitLate) Error() string { return e.text }

func (c *rabbitCopy) ask(ctx context.Context) error {
	if c.link != nil && c.link.conn.IsClosed() {
		c.link.close()
		c.link = nil
	}
	if c.link == nil {
		l, err := c.connect(ctx)
		if err != nil {
			return err
		}
		c.link = l
	}
	l := c.link
	if why := l.blocked(); why != "" {
		return fmt.Errorf("%s takes no messages: %s", c.node, why)
	}
	token := rand.Text()
	confirm, err := l.ch.PublishWithDeferredConfirmWithContext(ctx, "", l.queue, true, false, amqp.Publishing{Body: []byte(token)})
	if err != nil {
		return fmt.Errorf("publish to %s: %w", c.node, err)
	}
	acked, err := confirm.WaitContext(ctx)
	for err == nil {
		select {
		case d, ok := <-l.back:
			switch {
			case !ok:
				return fmt.Errorf("%s ended the connection", c.node)
			case string(d.Body) != token:
				continue // of a question that was not waited for
			case !acked:
				return fmt.Errorf("%s refused a message", c.node)
			}
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if why := l.blocked(); why != "" { // told only once something was published
		return fmt.Errorf("%s takes no messages: %s", c.node, why)
	}
	return unknown("a message to %s at %s did not come back in time: %w", c.node, c.addr, err)
}

// rabbitLink is a connection, and on it the probe's own queue. RabbitMQ names the queue,
// deletes it with the connection, keeps it on this node and mirrors it nowhere.
type rabbitLink struct {
	raw   net.Conn
	conn  *amqp.Connection
	ch    *amqp.Channel
	queue string
	back  <-chan amqp.Delivery

	mu    sync.Mutex
	alarm string
}

func (l *rabbitLink) blocked() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.alarm
}

// close ends it without a word to a server that may not listen.
func (l *rabbitLink) close() {
	_ = l.raw.Close()
	_ = l.conn.Close()
}

// connect opens a connection and the queue. The library's calls know no deadline: at the
// end of ctx the connection is taken from under them.
func (c *rabbitCopy) connect(ctx context.Context) (*rabbitLink, error) {
	user, password, err := c.secret()
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.node, err)
	}
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		if n, ok := errors.AsType[net.Error](err); ctx.Err() != nil || ok && n.Timeout() {
			return nil, unknown("reach %s at %s: %w", c.node, c.addr, err)
		}
		return nil, fmt.Errorf("reach %s at %s: %w", c.node, c.addr, err)
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	l := &rabbitLink{raw: raw}
	fail := func(what string, err error) (*rabbitLink, error) {
		raw.Close()
		switch {
		case ctx.Err() == nil:
			return nil, fmt.Errorf("%s at %s: %s: %w", c.node, c.addr, what, err)
		case l.conn == nil:
			return nil, unknown("%s at %s: %s: %w", c.node, c.addr, what, err)
		}
		return nil, &rabbitLate{fmt.Sprintf("%s at %s: %s was not answered in time", c.node, c.addr, what)}
	}
	conn, err := amqp.Open(raw, amqp.Config{
		SASL: []amqp.Authentication{&amqp.PlainAuth{Username: user, Password: password}}, Vhost: c.vhost, Heartbeat: 10 * time.Second,
		Properties: amqp.Table{"connection_name": "mainstay probe"},
	})
	if err != nil {
		return fail("log in as "+user, err)
	}
	l.conn = conn
	alarms := conn.NotifyBlocked(make(chan amqp.Blocking, 4))
	go func() {
		for b := range alarms {
			l.mu.Lock()
			l.alarm = ""
			if b.Active {
				l.alarm = cmp.Or(b.Reason, "blocked")
			}
			l.mu.Unlock()
		}
	}()
	if l.ch, err = conn.Channel(); err != nil {
		return fail("open a channel", err)
	}
	if err := l.ch.Confirm(false); err != nil {
		return fail("ask for confirms", err)
	}
	q, err := l.ch.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return fail("declare a queue", err)
	}
	l.queue = q.Name
	if l.back, err = l.ch.Consume(q.Name, "", true, true, false, false, nil); err != nil {
		return fail("consume", err)
	}
	return l, nil
}

// Restart ends a node at once that does not answer, or waits in its start: its own way of
// stopping, rabbitmqctl, would wait for it. A killed node loses nothing that was confirmed.
func (c *rabbitCopy) Restart(ctx context.Context) error {
	u, err := c.find(ctx, c.systemd.look)
	c.mu.Lock()
	mute := !c.mute.IsZero()
	c.mu.Unlock()
	if err == nil && (mute || u.Active == "activating") {
		err = c.kill(ctx, u)
	}
	if err != nil {
		return fmt.Errorf("restart %s: %w", c.name, err)
	}
	return c.unitCopy.Restart(ctx)
}

// end has the node's processes killed and its unit stopped.
func (c *rabbitCopy) end(ctx context.Context) error {
	u, err := c.find(ctx, c.systemd.look)
	if err != nil {
		return err
	}
	if err := c.kill(ctx, u); err != nil {
		return err
	}
	return c.unitCopy.Stop(ctx)
}

func (c *rabbitCopy) kill(ctx context.Context, u unit) error {
	if u.Active == "inactive" || u.Active == "failed" || strings.HasPrefix(u.Sub, "auto-restart") {
		return nil // nothing runs
	}
	return c.systemd.call(ctx, "KillUnit", u.ID, "all", int32(9)).Err
}

// Close closes the connection to the broker.
func (c *rabbitCopy) Close() error {
	c.asking.Lock()
	defer c.asking.Unlock()
	if c.link != nil {
		c.link.close()
		c.link = nil
	}
	return nil
}

// Tend takes a step of the node's way back into its cluster.
func (c *rabbitCopy) Tend(ctx context.Context, step, with, key string) error {
	var err error
	switch step {
	case fleet.StepJoin:
		err = c.join(ctx, with)
	case fleet.StepForceStart:
		err = c.forceStart(ctx)
	case fleet.StepReset:
		err = c.reset(ctx, key)
	case fleet.StepReplace, fleet.StepAbandon:
		err = c.replace(ctx, with, key, step == fleet.StepAbandon)
	case fleet.StepPurge:
		err = c.purge(ctx, with)
	default:
		return fmt.Errorf("kind rabbitmq knows no step %q", step)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", step, c.node, err)
	}
	return nil
}

// purge empties a queue. What is asked is asked again by whoever still wants it; what lies
// in a queue since its reader died is carried out when the reader comes back, whatever has
// been decided meanwhile.
func (c *rabbitCopy) purge(ctx context.Context, queue string) error {
	var queues []struct {
		Name string `json:"name"`
	}
	if err := c.ctlJSON(ctx, &queues, "list_queues", "-p", c.vhost, "name"); err != nil {
		return err
	}
	for _, q := range queues {
		if q.Name == queue {
			_, err := c.ctl(ctx, "rabbitmqctl", "purge_queue", "-p", c.vhost, queue)
			return err
		}
	}
	return nil
}

// join makes this node a member of another's cluster: what it holds itself is thrown away
// by RabbitMQ, so a node that holds a message is left as it is.
func (c *rabbitCopy) join(ctx context.Context, with string) error {
	var queues []struct {
		Name     string `json:"name"`
		Messages int    `json:"messages"`
	}
	if err := c.ctlJSON(ctx, &queues, "list_queues", "name", "messages"); err != nil {
		return err
	}
	for _, q := range queues {
		if q.Messages > 0 {
			return fmt.Errorf("its queue %s holds %d messages, which would be lost; have them consumed, or throw them away: rabbitmqctl purge_queue %s",
				q.Name, q.Messages, q.Name)
		}
	}
	if _, err := c.ctl(ctx, "rabbitmqctl", "stop_app"); err != nil {
		return err
	}
	_, err := c.ctl(ctx, "rabbitmqctl", "join_cluster", with)
	_, started := c.ctl(ctx, "rabbitmqctl", "start_app") // whatever came of it, the node shall run
	if err := errors.Join(err, started); err != nil {
		return err
	}
	// A replica of each quorum queue here too, or the next loss would be one too many.
	if _, err := c.ctl(ctx, "rabbitmq-queues", "grow", c.node, "all"); err != nil {
		return fmt.Errorf("it has joined, but has no replicas of the quorum queues yet; then: rabbitmq-queues grow %s all: %w", c.node, err)
	}
	return c.mirror(ctx)
}

// mirror sets the policy by which classic queues are mirrored, on 3.x and unless there is
// one that does. 4.0 has no mirrored queues any more.
func (c *rabbitCopy) mirror(ctx context.Context) error {
	out, err := c.ctl(ctx, "rabbitmqctl", "version")
	if err != nil || !strings.HasPrefix(strings.TrimSpace(string(out)), "3.") {
		return err
	}
	out, err = c.ctl(ctx, "rabbitmqctl", "--formatter", "json", "list_policies", "-p", c.vhost)
	if err != nil || strings.Contains(string(out), "ha-mode") {
		return err
	}
	_, err = c.ctl(ctx, "rabbitmqctl", "set_policy", "-p", c.vhost, "--apply-to", "queues", "mainstay-mirror", rabbitMirror,
		`{"ha-mode":"all","ha-sync-mode":"automatic"}`)
	return err
}

// forceStart makes the node start with the tables that it has.
func (c *rabbitCopy) forceStart(ctx context.Context) error {
	if err := c.end(ctx); err != nil {
		return err
	}
	if _, err := c.ctl(ctx, "rabbitmqctl", "force_boot"); err != nil {
		return err
	}
	return c.unitCopy.Start(ctx)
}

// reset sets the node's data aside and starts it anew. The data are kept beside, until the
// next reset. The same key does it once only.
func (c *rabbitCopy) reset(ctx context.Context, key string) error {
	dir := filepath.Join(c.data, c.node)
	aside := dir + ".before-" + url.PathEscape(key)
	if _, err := os.Stat(aside); err == nil {
		return c.unitCopy.Start(ctx)
	}
	if err := c.end(ctx); err != nil {
		return err
	}
	old, err := filepath.Glob(dir + ".before-*")
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := os.Rename(dir, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := syncDir(c.data); err != nil {
		return err
	}
	return c.unitCopy.Start(ctx)
}

// replace has another member forget this node, and joins it again with nothing.
func (c *rabbitCopy) replace(ctx context.Context, with, key string, whatever bool) error {
	c.mu.Lock()
	ago := c.now().Sub(c.replaced)
	lately := !c.replaced.IsZero() && ago < c.restarts.within
	if !lately {
		c.replaced = c.now()
	}
	c.mu.Unlock()
	if lately && !whatever {
		return fmt.Errorf("it was replaced %v ago, and is outside again: a person should look; journalctl -u %s", ago.Round(time.Second), strings.Join(c.units, " -u "))
	}
	if err := c.end(ctx); err != nil {
		return err
	}
	if !whatever {
		if err := c.alone(ctx, with); err != nil {
			return errors.Join(err, c.unitCopy.Start(ctx))
		}
	}
	if _, err := c.ctl(ctx, "rabbitmqctl", "-n", with, "forget_cluster_node", c.node); err != nil {
		return errors.Join(err, c.unitCopy.Start(ctx))
	}
	if err := c.reset(ctx, key); err != nil {
		return err
	}
	if rabbitNames(filepath.Join(c.data, c.node, "cluster_nodes.config")) != c.node {
		return nil // its own configuration names the others, and it has joined them
	}
	return c.join(ctx, with)
}

// alone says, as another member knows it, whether a durable classic queue lives on this
// node alone; the node is down. 3.10 lists those as offline and has them in no other list;
// 4.0.5 lists nothing as offline and has them among all.
func (c *rabbitCopy) alone(ctx context.Context, with string) error {
	var offline []struct {
		Name string `json:"name"`
	}
	if err := c.ctlJSON(ctx, &offline, "-n", with, "list_queues", "--offline", "name"); err != nil {
		return err
	}
	here, err := c.ctl(ctx, "rabbitmqctl", "-n", with, "eval", fmt.Sprintf(
		`[rabbit_misc:rs(amqqueue:get_name(Q)) || Q <- rabbit_amqqueue:list(), amqqueue:is_durable(Q), amqqueue:get_type(Q) =:= rabbit_classic_queue, amqqueue:qnode(Q) =:= '%s'].`, c.node))
	if err != nil {
		return err
	}
	names := strings.TrimSpace(string(here))
	if names == "[]" && len(offline) == 0 {
		return nil
	}
	if len(offline) > 0 {
		names = fmt.Sprintf("%d, %s among them", len(offline), offline[0].Name)
	}
	return fmt.Errorf("classic queues live on it alone (%s): they would be lost; if they may be: mainstay recover rabbitmq HOST", names)
}

// ctlTime bounds one call of RabbitMQ's own tools: a join copies tables.
const ctlTime = 2 * time.Minute

// ctl runs one of RabbitMQ's own tools and returns what it prints.
func (c *rabbitCopy) ctl(ctx context.Context, tool string, args ...string) ([]byte, error) {
	argv := append([]string{filepath.Join(c.tools, tool), "-q"}, args...)
	if c.tools == "" {
		argv[0] = tool
	}
	out, code, last, err := output(ctx, ctlTime, argv)
	switch {
	case err != nil:
		return out, err
	case code != 0:
		return out, fmt.Errorf("%s %s: exit code %d: %s", tool, strings.Join(args, " "), code, last)
	}
	return out, nil
}

func (c *rabbitCopy) ctlJSON(ctx context.Context, into any, args ...string) error {
	out, err := c.ctl(ctx, "rabbitmqctl", append([]string{"--formatter", "json"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("rabbitmqctl %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Examine tells what of this host's configuration would let a cluster come apart, or be
// slow to notice: nothing of it can be told from outside until it happens.
func (c *rabbitCopy) Examine([]fleet.Host) []string {
	var out []string
	settings, err := rabbitConf(c.config)
	if err != nil {
		return append(out, fmt.Sprintf("its configuration cannot be read: %v", err))
	}
	if v := settings["cluster_partition_handling"]; v != "pause_minority" {
		out = append(out, fmt.Sprintf("cluster_partition_handling is %s: after a partition both sides go on, and one side's messages are lost; want cluster_partition_handling = pause_minority in %s",
			cmp.Or(v, "not set"), filepath.Join(c.config, "rabbitmq.conf")))
	}
	if v, err := strconv.Atoi(cmp.Or(settings["net_ticktime"], "60")); err != nil || v > 15 {
		out = append(out, fmt.Sprintf("net_ticktime is %s: a member that is cut off or hangs is noticed after up to %d s; want net_ticktime = 6 in %s, the same on every host",
			cmp.Or(settings["net_ticktime"], "not set (60)"), v*5/4, filepath.Join(c.config, "rabbitmq.conf")))
	}
	out = append(out, c.slow(settings)...)
	cookie := filepath.Join(filepath.Dir(c.data), ".erlang.cookie")
	if st, err := os.Stat(cookie); err != nil {
		out = append(out, fmt.Sprintf("no Erlang cookie: %v; want the same file on every host, owned by rabbitmq, mode 0400", err))
	} else if st.Mode().Perm()&0o077 != 0 {
		out = append(out, fmt.Sprintf("the Erlang cookie %s has mode %04o: whoever reads it rules the broker; want 0400", cookie, st.Mode().Perm()))
	}
	return out
}

// rabbitTimers are the settings by which a node notices the loss of another; none of them
// can be written in rabbitmq.conf of 3.10. What they were measured to do is in docs/STATE.md.
var rabbitTimers = []struct {
	name   string
	found  *regexp.Regexp // in advanced.config or rabbitmq-env.conf
	most   int
	unset  int
	want   string
	effect string
}{
	{"aten poll_interval", regexp.MustCompile(`\bpoll_interval\s*[, ]\s*(\d+)`), 1000, 5000, "{aten, [{poll_interval, 1000}]}",
		"a quorum queue whose leader hangs or is cut off gets another after up to 11 s"},
	{"net_setuptime", regexp.MustCompile(`\bnet_setuptime\s*[, ]\s*(\d+)`), 2, 7, "{kernel, [{net_setuptime, 2}]}",
		"whoever asks a member that is cut off stands still for so many seconds"},
	{"TCP_USER_TIMEOUT of inet_dist_listen_options", userTimeout("listen"), 5000, 0, "{kernel, [{inet_dist_listen_options, [{raw, 6, 18, <<3000:32/native>>}]}]}", rabbitSilent},
	{"TCP_USER_TIMEOUT of inet_dist_connect_options", userTimeout("connect"), 5000, 0, "{kernel, [{inet_dist_connect_options, [{raw, 6, 18, <<3000:32/native>>}]}]}", rabbitSilent},
}

const rabbitSilent = "the kernel does not end a connection to a member that is cut off or has no power, and who waits for it waits for net_ticktime"

func userTimeout(side string) *regexp.Regexp {
	return regexp.MustCompile(`\binet_dist_` + side + `_options\s*[, ]\s*\[[^\]]*\{\s*raw\s*,\s*6\s*,\s*18\s*,\s*<<\s*(\d+)`)
}

// slow tells which of them are too long, or not set.
func (c *rabbitCopy) slow(settings map[string]string) []string {
	var text strings.Builder
	for _, file := range []struct{ name, comment string }{{"advanced.config", "%"}, {"rabbitmq-env.conf", "#"}} {
		raw, err := os.ReadFile(filepath.Join(c.config, file.name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return []string{fmt.Sprintf("its configuration cannot be read: %v", err)}
		}
		for line := range strings.Lines(string(raw)) {
			line, _, _ = strings.Cut(line, file.comment)
			text.WriteString(line + " ")
		}
	}
	// From 3.12 on this one has a name in rabbitmq.conf too.
	if v := settings["raft.adaptive_failure_detector.poll_interval"]; v != "" {
		text.WriteString("poll_interval " + v)
	}
	var out []string
	for _, x := range rabbitTimers {
		set, have := "not set", x.unset
		if m := x.found.FindStringSubmatch(text.String()); m != nil {
			set = m[1]
			have, _ = strconv.Atoi(m[1]) // digits; too many of them are too many
		} else if x.unset > 0 {
			set = fmt.Sprintf("not set (%d)", x.unset)
		}
		if have <= 0 || have > x.most {
			out = append(out, fmt.Sprintf("%s is %s: %s; want %s in %s, the same on every host", x.name, set, x.effect, x.want, filepath.Join(c.config, "advanced.config")))
		}
	}
	return out
}

// rabbitConf reads the lines "name = value" of rabbitmq.conf and conf.d; a later one wins.
func rabbitConf(dir string) (map[string]string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "conf.d", "*.conf"))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, name := range append([]string{filepath.Join(dir, "rabbitmq.conf")}, names...) {
		raw, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(raw)) {
			line, _, _ = strings.Cut(line, "#")
			if k, v, ok := strings.Cut(line, "="); ok {
				out[strings.TrimSpace(k)] = strings.TrimSpace(v)
			}
		}
	}
	return out, nil
}
