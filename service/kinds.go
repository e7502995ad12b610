// Package service runs the services of a host: it starts and stops their copies
// and says, honestly, in which state each one is.
//
// A kind of service is one row of the table below: "systemd" (a unit, over
// D-Bus), "compute" (nova-compute, which waits after a boot), "exec" (three commands), "galera" (a unit that is ready only when its
// database is in the primary component and synced), "garbd" (its arbitrator), "rabbitmq"
// (one that is ready only when a message passes through its broker) and "ocf" (a resource agent, as
// Pacemaker runs them). A further kind is one more file here, one more row, and a
// subject in kinds_test.go, whose contract every row must keep.
//
// Two sentences rule the package. A time-out is unknown, never stopped: whoever
// reads "stopped" may start the service elsewhere, and then two of them write.
// And an active/passive service carries a bar on each host: a condition on a
// file in /run, written before a start and removed before a stop, so that
// neither a boot nor systemd's own restarts bring up a copy that Mainstay has
// not asked for. The kinds "exec" and "ocf" have no unit to bar: nobody but
// Mainstay starts such a copy, so a boot brings nothing up.
//
// The catalogue (catalogue.go) is the data: which services we know, their units
// on each distribution, and why each one runs in the mode that it does. The
// units of Mainstay itself are in units/.
package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mainstay/fleet"
)

// ErrUnknown is in the chain of every error that leaves open what became of the
// deed: the deadline passed, or the bus was lost in between. An error without it
// is an answer: it surely did not happen as asked.
var ErrUnknown = errors.New("outcome unknown")

// Copy is this host's copy of one service. Its methods may be called at the
// same time. All of them end with their context, and by themselves after the
// time-outs among the kind's parameters.
type Copy interface {
	// Prepare makes the host ready to carry the copy: for an active/passive
	// service it sets the bar that keeps the copy down until Start. It starts,
	// stops and restarts nothing, so a copy that already runs is adopted as it
	// is. Idempotent; to be called before the first State after each start of
	// the agent.
	Prepare(ctx context.Context) error
	// Forget takes back what Prepare wrote, for a service that is no longer in
	// the site's file; a running copy is left alone. Idempotent.
	Forget(ctx context.Context) error
	// State says which phase the copy is in and why, and how many restarts it
	// had within the service's window; Ready, Hung and Generation are left to
	// the caller, and so is Stuck unless the kind knows by itself that what runs
	// works no more. Of a service that is promoted on one host it says the role:
	// "promoted" unless it is surely not, and the score. Phase is fleet.Unknown whenever err is not nil. fleet.Stopped
	// and fleet.Failed of an active/passive service mean that no process is left,
	// and are always asked for anew; fleet.Running may be as old as freshTime if
	// whoever should have told of a change has itself fallen silent.
	State(ctx context.Context) (fleet.ServiceState, error)
	// Start returns nil once the copy runs, at once if it runs already. To be
	// called only under the right to run it: it lifts the bar first.
	Start(ctx context.Context) error
	// Stop returns nil once the copy is surely not running, at once if there is
	// none. It puts the bar down before it stops anything. nil is "the holder's
	// word", on which another host may start.
	Stop(ctx context.Context) error
	// Restart stops and starts the copy; one that is not running is started. It
	// counts in State's Restarts.
	Restart(ctx context.Context) error
	// Ready says whether the copy may be given work as far as its kind can tell
	// beyond the phase, and if not, why, in words for an operator. An error
	// means that it could not be asked.
	Ready(ctx context.Context) (ready bool, why string, err error)
	// PIDs lists the copy's processes, ascending; nil if there is none or the
	// kind cannot tell.
	PIDs(ctx context.Context) ([]int, error)
	// Events yields a line whenever the copy may have changed, so that its state
	// is asked at once instead of at the next second. Lines are news, not truth:
	// several changes may come as one, none is promised, and after a lost
	// connection one line says so. The channel is closed when ctx ends.
	Events(ctx context.Context) <-chan string
	// Close lets go of connections; the copy runs on.
	Close() error
}

// Prober is a Copy whose kind has a question of its own at layer 7, for a service whose
// check names none.
type Prober interface {
	// Probe asks once, within ctx. nil is an answer; ErrUnknown is in the chain of no
	// answer in time; any other error is a bad answer.
	Probe(ctx context.Context) error
}

// Tender is a Copy whose kind knows more steps than start, stop and restart.
type Tender interface {
	// Tend takes a step (fleet.StepJoin ...), with the help of the node that the cluster
	// calls by that name. One that is taken again under the same key does no more harm
	// than the first.
	Tend(ctx context.Context, step, with, key string) error
}

// Examiner is a Copy whose kind knows what a host's configuration of it should say.
type Examiner interface {
	// Examine says, in words for an operator, what is amiss; homes are the hosts that have
	// a copy. It changes nothing.
	Examine(homes []fleet.Host) []string
}

// Promoter is a Copy that can be promoted. Demote's nil is the holder's word, as
// Stop's is: surely this copy is promoted no more.
type Promoter interface {
	// Promote returns nil once the copy, which must be running, is promoted. To be
	// called only under the right to be.
	Promote(ctx context.Context) error
	// Demote returns nil once the copy is surely not promoted, at once if it is not.
	Demote(ctx context.Context) error
}

// Onlooker is a Copy that needs something on its host to be asked at all, and has more
// than a bar to forget. In shadow mode LookOn takes the place of Forget.
type Onlooker interface {
	// LookOn makes ready what State needs, and takes back a bar; nothing else.
	LookOn(ctx context.Context) error
}

// Validator is a Copy that can ask this host whether its parameters will do there.
// It changes nothing. An error with ErrUnknown says nothing against them.
type Validator interface {
	Validate(ctx context.Context) error
}

// Member is a copy that shares a history with the copies on other hosts. Its Start lets
// it go on with those that it last saw. To be called only by order of the leader, who
// compares all members.
type Member interface {
	Copy
	// Replica is where its data stand; asked right after State, and Ready if it runs.
	Replica(phase string) fleet.Replica
	// Join starts it so that it can only join others; donor is what the cluster calls the
	// one that is to give its data, if that one can, "" any. Rejoin is Restart with a donor.
	Join(ctx context.Context, donor string) error
	Rejoin(ctx context.Context, donor string) error
	// Position ends it, puts aside what it could go on from by itself, and finds out
	// where its data stand: Replica says it from then on, until it is started.
	Position(ctx context.Context) error
	// Bootstrap starts it as the first one of its cluster.
	Bootstrap(ctx context.Context) error
	// Kill ends it, which hangs, whatever it is at; it refuses one that answers. Safe
	// beside any of the others.
	Kill(ctx context.Context) error
}

// Env is what copies share on one host. The zero value of a path is the one
// used in production.
type Env struct {
	// Systemd is the connection to this host's systemd; kinds that drive units need it.
	Systemd *Systemd
	// Units is where drop-ins are written: /etc/systemd/system.
	Units string
	// Held holds one file for each active/passive service that may run here on
	// this boot: /run/mainstay/held.
	Held string
	// OCF is where resource agents are (their OCF_ROOT): /usr/lib/ocf. OCFTemp is what
	// they keep until the next boot (their HA_RSCTMP): /run/resource-agents.
	OCF, OCFTemp string
	// Shims is where agents find crm_master and its like, and below it what they had
	// us remember until the next boot: /run/mainstay/ocf. Kept is what they had us
	// remember for longer: /var/lib/mainstay/ocf.
	Shims, Kept string
	// Saved is where it is remembered when the newest backup of each service was taken
	// here: /var/lib/mainstay/saved.
	Saved string
}

// Kind is one row of the table.
type Kind struct {
	Name   string
	Doc    string
	Params []Param
	// More: the service has further parameters, which Open checks itself.
	More bool
	// Cluster: all copies are members of one cluster, so none of them runs alone.
	Cluster bool
	// Open makes the copy of a service. It reads the service and changes nothing,
	// so that "mainstay check" may open every one and report all mistakes.
	Open func(fleet.Service, Env) (Copy, error)
}

// Param is a parameter of a kind, as written under "params" in the site's file.
type Param struct {
	Name    string
	Doc     string
	Default string
}

var (
	startTimeout = Param{"start_timeout", "how long a start is waited for; systemd's own time-out should be shorter", "100s"}
	stopTimeout  = Param{"stop_timeout", "how long a stop is waited for; systemd's own time-out should be shorter", "100s"}
)

var ocfParams = []Param{
	{"agent", "provider and type of the agent, such as heartbeat:IPaddr2", ""},
	{"op_start", "how long its start may take; as the agent advises", ""},
	{"op_stop", "how long its stop may take; as the agent advises", ""},
	{"op_monitor", "how long its monitor may take; as the agent advises", ""},
	{"op_promote", "how long its promote may take; as the agent advises", ""},
	{"op_demote", "how long its demote may take; as the agent advises", ""},
}

// Kinds is the table of all kinds.
func Kinds() []Kind {
	return []Kind{
		{
			Name:   "systemd",
			Doc:    "a systemd unit, the first of the service's units that exists on the host",
			Params: []Param{startTimeout, stopTimeout},
			Open:   openUnit,
		},
		{
			Name:   "compute",
			Doc:    "a systemd unit of nova-compute: after a boot it is started once the servers of the boot before are settled",
			Params: []Param{startTimeout, stopTimeout, {"instances", "nova-compute's instances_path, of which the agent asks whether it is read-only or hangs", "/var/lib/nova/instances"}},
			Open:   openCompute,
		},
		{
			Name: "exec",
			Doc:  "three commands, run without a shell; status exits 0 when running, 3 when stopped",
			Params: []Param{startTimeout, stopTimeout,
				{"status_timeout", "how long the status command may take", "5s"},
				{"pid_file", "a file that holds the main process's id, for the detection of a hung service", ""},
			},
			Open: openExec,
		},
		{
			Name:    "galera",
			Cluster: true,
			Doc:     "a systemd unit of MariaDB with Galera; ready when synced in the primary component; a cluster is begun only by the leader's order",
			Params: []Param{
				{"start_timeout", "how long a start is waited for: members recover together, and one may send its whole state", "20m"},
				{"stop_timeout", "how long a stop is waited for", "16m"},
				{"user", "the database user who may read the status", "root"},
				{"password_file", "a file with that user's password; none for authentication by the socket", ""},
				{"address", "the server: the path of its socket, or host:port", "/run/mysqld/mysqld.sock"},
				{"query_timeout", "how long a status query may take", "1s"},
				{"data", "the server's data directory, to read its position while it is down", "/var/lib/mysql"},
				{"suspect_timeout", "after how long a silence the group goes on without a member (evs.suspect_timeout and what belongs to it); 0s leaves the server's own configuration", "2s"},
				{"backup_within", "after how long without a backup of any member a person is told; 0s never", "0s"},
				{"donor_ready", "true: a member that sends its state to another keeps taking traffic", "false"},
			},
			Open: openGalera,
		},
		{
			Name: "garbd",
			Doc:  "a systemd unit of Galera's arbitrator: the third vote of two members, without data; may live on arbiters",
			Params: []Param{startTimeout, stopTimeout,
				{"config", "the file that says what it is started with", "/etc/default/garb"},
				{"suspect_timeout", "that of the members, with which its options are compared", "2s"},
			},
			Open: openGarbd,
		},
		{
			Name:    "rabbitmq",
			Cluster: true,
			Doc:     "a systemd unit of RabbitMQ; ready when it sees a majority of its cluster and a message passes through it; joins nodes one at a time",
			Params: []Param{
				{"start_timeout", "how long a start is waited for; a node that waits for others goes on waiting by itself", "45s"},
				{"stop_timeout", "how long a stop is waited for; systemd's own time-out should be shorter", "2m"},
				{"node", "the node's name; none for rabbit@ and this host's own short name", ""},
				{"data", "the folder that holds the node's data, under its name", "/var/lib/rabbitmq/mnesia"},
				{"address", "where the broker on this host listens, as host:port", "127.0.0.1:5672"},
				{"vhost", "the virtual host in which the probe has its queue, and which the services use", "/"},
				{"user", "the user of the probe; it must be allowed to configure, write and read", "guest"},
				{"password_file", "a file with that user's password; none for guest, who may come from this host alone", ""},
			},
			Open: openRabbit,
		},
		{
			Name:   "ocf",
			Doc:    "a resource agent of the OCF, as Pacemaker runs them; its own parameters stand beside these (its meta-data has them)",
			Params: ocfParams, More: true,
			Open: openOCF,
		},
	}
}

var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// Open makes the copy of a service by its kind. The error names every mistake
// in the service's own fields at once; nothing outside the service is touched.
func Open(s fleet.Service, env Env) (Copy, error) {
	kinds := Kinds()
	i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == s.Kind })
	if i < 0 {
		var names []string
		for _, k := range kinds {
			names = append(names, k.Name)
		}
		return nil, fmt.Errorf("service %s: no such kind: %q; there are %s", s.Name, s.Kind, strings.Join(names, ", "))
	}
	var errs []error
	if !nameRule.MatchString(s.Name) {
		errs = append(errs, fmt.Errorf("name %q: use lower-case letters, digits, dots and dashes", s.Name))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Params)) {
		if !kinds[i].More && !slices.ContainsFunc(kinds[i].Params, func(p Param) bool { return p.Name == name }) {
			var known []string
			for _, p := range kinds[i].Params {
				known = append(known, p.Name)
			}
			errs = append(errs, &ParamError{name, fmt.Sprintf("unknown %q; kind %s knows %s", name, s.Kind, strings.Join(known, ", "))})
		}
	}
	c, err := kinds[i].Open(s, env.filled())
	if _, can := c.(Promoter); s.Mode == fleet.Promoted && !can {
		errs = append(errs, fmt.Errorf("mode: %s needs kind ocf with an agent that can be promoted; kind %s runs active/active or active/passive", s.Mode, s.Kind))
	}
	if kinds[i].Cluster && s.Mode == fleet.ActivePassive {
		errs = append(errs, fmt.Errorf("mode: kind %s is a cluster of all its copies and runs active/active; a server that runs on one host at a time is of kind systemd", s.Kind))
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		if c != nil {
			err = errors.Join(err, c.Close())
		}
		return nil, fmt.Errorf("service %s: %w", s.Name, err)
	}
	return c, nil
}

func (e Env) filled() Env {
	if e.Units == "" {
		e.Units = "/etc/systemd/system"
	}
	if e.Held == "" {
		e.Held = "/run/mainstay/held"
	}
	e.OCF = cmp.Or(e.OCF, "/usr/lib/ocf")
	e.OCFTemp = cmp.Or(e.OCFTemp, "/run/resource-agents")
	e.Shims = cmp.Or(e.Shims, "/run/mainstay/ocf")
	e.Kept = cmp.Or(e.Kept, "/var/lib/mainstay/ocf")
	e.Saved = cmp.Or(e.Saved, "/var/lib/mainstay/saved")
	return e
}

// ParamError is a mistake in one parameter of the site's file; whoever knows the
// file adds its name and line. Param "" is the parameters as a whole.
type ParamError struct {
	Param string
	Text  string // what is wrong and what would be right; never a secret
}

func (e *ParamError) Error() string {
	return strings.ReplaceAll("params: "+e.Param+": ", ": : ", ": ") + e.Text
}

// params reads a service's parameters with the defaults of its kind's row and
// collects what is wrong with them.
type params struct {
	kind   string
	given  map[string]string
	wrongs []error
}

func (p *params) text(name string) string {
	if v, ok := p.given[name]; ok {
		return v
	}
	for _, k := range Kinds() {
		for _, q := range k.Params {
			if k.Name == p.kind && q.Name == name {
				return q.Default
			}
		}
	}
	panic("service: kind " + p.kind + " has no parameter " + name) // a mistake in this package
}

func (p *params) add(err error) {
	if err != nil {
		p.wrongs = append(p.wrongs, err)
	}
}

func (p *params) wrong(param, format string, args ...any) {
	p.wrongs = append(p.wrongs, &ParamError{param, fmt.Sprintf(format, args...)})
}

func (p *params) duration(name string) time.Duration {
	d, err := time.ParseDuration(p.text(name))
	if err != nil || d <= 0 {
		p.wrong(name, "%q is not a duration; write one such as 90s or 15m", p.text(name))
	}
	return d
}

func (p *params) flag(name string) bool {
	v, err := strconv.ParseBool(p.text(name))
	if err != nil {
		p.wrong(name, "%q is neither true nor false", p.text(name))
	}
	return v
}

// unknown wraps an error whose deed may or may not have happened.
func unknown(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), ErrUnknown)
}

// restarts counts what happened within the last span. Callers hold a lock.
type restarts struct {
	within time.Duration
	at     []time.Time
}

func (r *restarts) add(n int) {
	for range n {
		r.at = append(r.at, time.Now())
	}
}

func (r *restarts) count() int {
	r.at = slices.DeleteFunc(r.at, func(t time.Time) bool { return time.Since(t) > r.within })
	return len(r.at)
}
