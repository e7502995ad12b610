package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"mainstay/api"

	amqp "github.com/rabbitmq/amqp091-go"
)

// What stands on the mirrored file system as a group: a database, or a RabbitMQ. A client
// on the third machine writes and notes each thing that was acknowledged; whatever befalls
// the group, all of these must be where it works next.

// mirrorDatabase is a MariaDB on the file system. Its data are made beforehand, as a person
// does it: mariadb-install-db, and the folder its user's.
const mirrorDatabase = `  db:
    kind: ocf
    mode: active/passive
    why: one server writes to the data
    hosts: [d1, d2]
    with: [service/fs]
    check: {every: 30s}
    restarts: {count: 20, within: 1h}
    params: {agent: "heartbeat:mysql", binary: /usr/sbin/mariadbd, client_binary: /usr/bin/mariadb, config: /etc/db.cnf, datadir: /srv/db, pid: /run/mysqld/db.pid, socket: /run/mysqld/db.sock, log: /run/mysqld/db.log, op_start: 300s, op_stop: 120s, op_monitor: 180s}
`

const mirrorDatabaseData = "install -d -o mysql -g mysql /var/tmp/data/db && mariadb-install-db --defaults-file=/etc/db.cnf --user=mysql --datadir=/var/tmp/data/db --skip-test-db >/dev/null"

// mirrorRabbit is a RabbitMQ on the file system, behind an address that follows it. Its
// node has the same name on both hosts, rabbit@localhost, for its data are that name's.
const mirrorRabbit = `  mq:
    kind: ocf
    mode: active/passive
    why: one server writes to the data
    hosts: [d1, d2]
    with: [service/fs]
    check: {every: 2m}
    restarts: {count: 20, within: 1h}
    params: {agent: "rabbitmq:rabbitmq-server", nodename: rabbit@localhost, mnesia_base: /srv/mq, ctl: /usr/sbin/rabbitmqctl-patient, op_start: 900s, op_stop: 600s, op_monitor: 300s}
addresses:
  mq: {address: ` + mirrorRabbitAddress + `/24, with: [mq]}
`

const mirrorRabbitAddress = "10.9.0.100"

// mirrorRabbitControl is what its agent calls, as docs/OPERATING.md has it: rabbitmqctl
// gives up a question after a minute, and to wait for a node that was just started after
// ten seconds. The agent takes both for a fault.
const mirrorRabbitControl = `#!/bin/sh
case "$*" in
*status*) exec /usr/sbin/rabbitmqctl --timeout 280 "$@" ;;
*wait*) exec /usr/sbin/rabbitmqctl --timeout 840 "$@" ;;
esac
exec /usr/sbin/rabbitmqctl "$@"
`

const mirrorRabbitData = "install -d -o rabbitmq -g rabbitmq /var/tmp/data/mq"

// mirrorGroup is what stands on the mirrored disk.
type mirrorGroup struct {
	*mirrored
	// write begins a client that notes what was acknowledged in /root/written of the third machine.
	write string
	// kept is what is there, on the machine where the group works.
	kept func(t *testing.T, on *machine) []string
	// kill ends its server.
	kill  string
	bound time.Duration
}

// written is what the client has noted.
func (g *mirrorGroup) written(t *testing.T) []string {
	t.Helper()
	return strings.Fields(g.d3.must(t, "sleep 1; cat /root/written 2>/dev/null; true")) // what asks all the time slows the rest
}

// begin starts the client, and waits until it has written.
func (g *mirrorGroup) begin(t *testing.T) {
	g.d3.must(t, "(setsid bash -c '"+g.write+"' >/root/client.log 2>&1 </dev/null &)")
	g.goesOn(t)
}

// goesOn waits until more has been written.
func (g *mirrorGroup) goesOn(t *testing.T) {
	t.Helper()
	before := len(g.written(t))
	for begun := time.Now(); len(g.written(t)) < before+5; {
		if time.Since(begun) > g.bound {
			t.Fatalf("nothing more is written after %v: %s", g.bound, g.d3.ask(t, "tail -n 5 /root/client.log").Text)
		}
	}
}

// whole: what was acknowledged is there.
func (g *mirrorGroup) whole(t *testing.T, on *machine, written []string) {
	t.Helper()
	kept := map[string]bool{}
	for _, n := range g.kept(t, on) {
		kept[n] = true
	}
	missing := slices.DeleteFunc(slices.Clone(written), func(n string) bool { return kept[n] })
	if len(missing) > 0 || len(written) == 0 {
		t.Errorf("%d acknowledged, of which %s misses %d: %v", len(written), on.name, len(missing), missing)
	}
	t.Logf("%d acknowledged, %d there on %s", len(written), len(kept), on.name)
}

// killed: its server is ended; it is started again where it was.
func (g *mirrorGroup) killed(t *testing.T) {
	on := g.on(t, g.top)
	before := g.status(t)
	begun := time.Now()
	on.must(t, g.kill)
	g.goesOn(t)
	g.await(t, g.top+" works again", g.bound, func(st api.Status) string { return works(st, g.top, on.name) })
	t.Logf("killed, and served again after %v", time.Since(begun).Round(time.Second))
	for _, thing := range []string{"service/disk", "service/fs"} {
		if a, b := generation(before, thing), generation(g.status(t), thing); a != b {
			t.Errorf("%s changed hands: generation %d, then %d", thing, a, b)
		}
	}
	g.whole(t, on, g.written(t))
}

// losesPower: the primary's power is cut and a person swears it; then it is back, and even.
func (g *mirrorGroup) losesPower(t *testing.T) {
	on := g.on(t, g.top)
	off := g.other(on)
	g.goesOn(t)
	on.powerCut()
	written := g.written(t)
	g.byHand(t, off)
	begun := time.Now()
	g.swear(t, on)
	g.await(t, "the other has taken over", g.bound, func(st api.Status) string { return works(st, g.top, off.name) })
	t.Logf("the power of %s cut, %s works on %s %v after the oath", on.name, g.top, off.name, time.Since(begun).Round(time.Second))
	g.whole(t, off, written)
	g.goesOn(t)
	g.back(t, on)
	g.settled(t)
}

// byHand: before anybody has sworn, somebody promotes the other copy by hand. Its handler
// refuses each time that DRBD asks, without waiting for what will not come.
func (g *mirrorGroup) byHand(t *testing.T, off *machine) {
	t.Helper()
	off.must(t, "for i in $(seq 300); do drbdsetup events2 --now r0 | grep -q connection:Connected || exit 0; sleep 1; done; exit 1")
	begun := time.Now()
	a := off.ask(t, "drbdadm primary r0 2>&1")
	if role := off.must(t, "drbdadm role r0"); a.Error == "" || !strings.HasPrefix(role, "Secondary") {
		t.Fatalf("%s was promoted by hand, without a right: %s %s", off.name, role, a.Text)
	}
	log := off.must(t, "grep -h 'DRBD is refused' /var/log/run.log; dmesg | grep 'fence-peer' | tail -n 8")
	t.Logf("by hand: %s after %v: %s\n%s", strings.TrimSpace(a.Text), time.Since(begun).Round(100*time.Millisecond), a.Error, log)
	if !strings.Contains(log, "holds no right") || !strings.Contains(log, "exit code 1 ") {
		t.Error("its handler did not refuse for want of a right")
	}
}

// moved in good order, to the one that lost its power before: what came to it since then
// and by its resync is all there.
func (g *mirrorGroup) moved(t *testing.T) {
	from := g.on(t, g.top)
	to := g.other(from)
	g.goesOn(t)
	begun := time.Now()
	// Beside it the status is asked, so that a move that comes to no end shows what it waits for.
	g.d3.must(t, "(setsid sh -c 'mainstay move disk "+to.name+" --wait "+g.bound.String()+"; echo ended with $?' >/root/move.log 2>&1 </dev/null &)")
	g.await(t, "moved", g.bound, func(st api.Status) string { return works(st, g.top, to.name) })
	if said := g.d3.must(t, "until grep 'ended with' /root/move.log; do sleep 1; done; cat /root/move.log"); !strings.Contains(said, "ended with 0") {
		t.Errorf("mainstay move: %s", said)
	}
	t.Logf("moved to %s after %v", to.name, time.Since(begun).Round(time.Second))
	g.goesOn(t)
	g.whole(t, to, g.written(t))
	history := g.d3.must(t, "mainstay events -n 400 2>&1")
	at := 0
	for _, deed := range []string{from.name + ": stop service/" + g.top, from.name + ": stop service/fs", from.name + ": demote service/disk", to.name + ": promote service/disk", to.name + ": start service/fs", to.name + ": start service/" + g.top} {
		i := strings.LastIndex(history, deed)
		if i < at {
			t.Errorf("%q is not in history after what has to come before it", deed)
		}
		at = max(at, i)
	}
	t.Log(history)
	g.settled(t)
}

func generation(st api.Status, thing string) uint64 {
	for _, h := range st.Holdings {
		if h.Thing == thing {
			return h.Generation
		}
	}
	return 0
}

// database is a MariaDB with a client that commits rows.
func database(t *testing.T, s *mirrored) *mirrorGroup {
	on := s.on(t, s.top)
	on.must(t, `mariadb -S /run/mysqld/db.sock -e "create database if not exists test; create user if not exists writer@'%'; grant all on test.* to writer@'%'; create table if not exists test.written (n int primary key) engine=InnoDB"`)
	return &mirrorGroup{
		mirrored: s, bound: 10 * time.Minute, kill: "kill -9 $(cat /run/mysqld/db.pid)",
		// A row whose answer was lost is inserted again.
		write: `while :; do n=$(($(wc -l </root/written 2>/dev/null || echo 0)+1)); for h in 10.9.0.1 10.9.0.2; do timeout 20 mariadb -h $h -u writer --connect-timeout=3 -e "insert ignore into test.written values ($n)" && echo $n >>/root/written && break; done; done`,
		kept: func(t *testing.T, on *machine) []string {
			return strings.Fields(on.must(t, "mariadb -S /run/mysqld/db.sock -N -e 'select n from test.written order by n'"))
		},
	}
}

// broker is a RabbitMQ with a client that publishes to a quorum queue and a classic one.
func broker(t *testing.T, s *mirrored) *mirrorGroup {
	return &mirrorGroup{
		mirrored: s, bound: 30 * time.Minute, kill: "pkill -9 beam.smp",
		write: "exec env " + machineTalks + "=publish /machine",
		kept: func(t *testing.T, on *machine) []string {
			return strings.Fields(s.d3.must(t, machineTalks+"=10.9.0."+on.name[1:]+" /machine"))
		},
	}
}

// machineTalks marks the process of a machine that is a client of RabbitMQ: one that
// publishes for ever, or takes a look at all that the broker with an address has.
const machineTalks = "machine_talks"

// talkQueues are durable, of both sorts.
var talkQueues = map[string]amqp.Table{"quorum": {"x-queue-type": "quorum"}, "classic": {"x-queue-type": "classic"}}

func machineTalk() {
	what := os.Getenv(machineTalks)
	if what != "publish" {
		if err := talkLook(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	for n := 0; ; {
		err := talkPublish(mirrorRabbitAddress, &n)
		fmt.Println(time.Now().Format(time.TimeOnly), n, err)
		time.Sleep(time.Second)
	}
}

func talkOpen(host string) (*amqp.Connection, *amqp.Channel, error) {
	conn, err := amqp.DialConfig("amqp://guest:guest@"+net.JoinHostPort(host, "5672")+"/", amqp.Config{Heartbeat: 30 * time.Second, Dial: amqp.DefaultDial(20 * time.Second)})
	if err != nil {
		return nil, nil, err
	}
	ch, err := conn.Channel()
	for queue, args := range talkQueues {
		if err == nil {
			_, err = ch.QueueDeclare(queue, true, false, false, false, args)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, ch, nil
}

// talkPublish publishes until that fails. Only what was confirmed is noted.
func talkPublish(host string, n *int) error {
	conn, ch, err := talkOpen(host)
	if err != nil {
		return err
	}
	defer conn.Close()
	notes, err := os.OpenFile("/root/written", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer notes.Close()
	if err := ch.Confirm(false); err != nil {
		return err
	}
	for {
		for queue := range talkQueues {
			*n++
			id := fmt.Sprintf("%s-%d", queue, *n)
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			c, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(id)})
			ok := false
			if err == nil {
				ok, err = c.WaitContext(ctx)
			}
			cancel()
			if err != nil {
				return err
			}
			if ok {
				fmt.Fprintln(notes, id)
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// talkLook prints all that is in the queues, and leaves it there.
func talkLook(host string) error {
	conn, ch, err := talkOpen(host)
	if err != nil {
		return err
	}
	defer conn.Close() // what was not acknowledged goes back
	for queue := range talkQueues {
		for {
			d, ok, err := ch.Get(queue, false)
			if err != nil {
				return fmt.Errorf("take from %s of %s: %w", queue, host, err)
			}
			if !ok {
				break
			}
			fmt.Println(string(d.Body))
		}
	}
	return nil
}
