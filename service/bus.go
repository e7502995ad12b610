package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

const (
	busName     = "org.freedesktop.systemd1"
	managerPath = dbus.ObjectPath("/org/freedesktop/systemd1")
	unitIface   = busName + ".Unit"
	svcIface    = busName + ".Service"
	propsIface  = "org.freedesktop.DBus.Properties"

	// askTime bounds a question that systemd answers from memory, dialTime the
	// connection to the bus.
	askTime  = 5 * time.Second
	dialTime = 5 * time.Second
	// reloadTime bounds daemon-reload, which runs all generators.
	reloadTime = 90 * time.Second
	// freshTime is how long what was seen of a running unit may be told again.
	// systemd's signals end it at once; it bounds only a bus gone silent.
	freshTime = 2 * time.Second
)

// Systemd is a connection to one systemd over its D-Bus. It connects at first
// use and again after the bus or systemd was restarted; a call that was under
// way at that moment ends with ErrUnknown. One serves all copies of a host.
//
// It stands on godbus and not on go-systemd's Conn, because that one holds a
// lock during the call that enqueues a job: with a systemd that does not answer,
// every other call would outlive its deadline.
type Systemd struct {
	address string
	life    context.Context
	end     context.CancelFunc
	turn    chan struct{} // whoever has put its token in may look at and replace current
	current *link
}

// NewSystemd returns a connection to the systemd on the bus at address, in
// D-Bus notation; empty means the system's bus. It does not connect yet.
func NewSystemd(address string) *Systemd {
	if address == "" {
		address = os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	}
	if address == "" {
		address = "unix:path=/run/dbus/system_bus_socket"
	}
	life, end := context.WithCancel(context.Background())
	return &Systemd{address: address, life: life, end: end, turn: make(chan struct{}, 1)}
}

// Close ends the connection and all waiting on it.
func (s *Systemd) Close() error {
	s.end()
	return nil
}

// Reload has systemd read its unit files again (daemon-reload).
func (s *Systemd) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTime)
	defer cancel()
	return s.call(ctx, "Reload").Err
}

// Enable makes units start at boot, each named as in "mainstay.service".
func (s *Systemd) Enable(ctx context.Context, units ...string) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTime)
	defer cancel()
	if err := s.call(ctx, "EnableUnitFiles", units, false, false).Err; err != nil {
		return err
	}
	return s.call(ctx, "Reload").Err
}

// Start starts a unit and waits for its job; ctx bounds the wait, and when it
// ends first the error is ErrUnknown. Meant for Mainstay's own units, which are
// no services of the catalogue.
func (s *Systemd) Start(ctx context.Context, unit string) error {
	return s.run(ctx, "StartUnit", unit)
}

// Stop stops a unit like Start starts one.
func (s *Systemd) Stop(ctx context.Context, unit string) error {
	return s.run(ctx, "StopUnit", unit)
}

// ReloadUnit asks a unit to read its own configuration again and waits for its job.
func (s *Systemd) ReloadUnit(ctx context.Context, unit string) error {
	return s.run(ctx, "ReloadUnit", unit)
}

// Version is systemd's own, the leading number of it: 252.
func (s *Systemd) Version(ctx context.Context) (int, error) {
	var v dbus.Variant
	if err := s.get(ctx, managerPath, busName+".Manager", "Version", &v); err != nil {
		return 0, err
	}
	text, _ := v.Value().(string)
	digits := 0
	for digits < len(text) && text[digits] >= '0' && text[digits] <= '9' {
		digits++
	}
	n, err := strconv.Atoi(text[:digits])
	if err != nil {
		return 0, fmt.Errorf("systemd: version %q: %w", text, err)
	}
	return n, nil
}

// Stopping says whether this host is shutting down or rebooting.
func (s *Systemd) Stopping(ctx context.Context) (bool, error) {
	var v dbus.Variant
	if err := s.get(ctx, managerPath, busName+".Manager", "SystemState", &v); err != nil {
		return false, err
	}
	return v.Value() == "stopping", nil
}

// environment is what every unit that is started from now on is given, as NAME=VALUE.
func (s *Systemd) environment(ctx context.Context) ([]string, error) {
	var v dbus.Variant
	if err := s.get(ctx, managerPath, busName+".Manager", "Environment", &v); err != nil {
		return nil, err
	}
	all, _ := v.Value().([]string)
	return all, nil
}

// link is one connection, from its beginning to its end.
type link struct {
	conn *dbus.Conn
	mu   sync.Mutex
	// calling counts calls that enqueue a job and have no answer yet: while
	// there are any, finished keeps results that nobody waits for so far,
	// because a result may overtake the answer that names the job.
	calling  int
	finished map[dbus.ObjectPath]string
	waiting  map[dbus.ObjectPath][]chan string
	watchers []*watcher
	// seen holds running units as last looked at, changes how often each unit
	// has changed: an answer that a change overtook is not kept.
	seen    map[dbus.ObjectPath]sighting
	changes map[dbus.ObjectPath]int
	reloads int
	// aliases leads from the path of a unit's other name to its own, which is
	// the only one that signals come from.
	aliases map[dbus.ObjectPath]dbus.ObjectPath
}

type sighting struct {
	unit unit
	at   time.Time
}

// watcher wants news of some units.
type watcher struct {
	paths []dbus.ObjectPath
	news  chan string // holds one line; a newer one replaces it
}

func (w *watcher) tell(line string) {
	for {
		select {
		case w.news <- line:
			return
		default:
		}
		select {
		case <-w.news:
		default:
		}
	}
}

// link returns the living connection, and makes one if there is none.
func (s *Systemd) link(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("systemd: wait for the bus at %s: %w", s.address, context.Cause(ctx))
	}
	if s.current != nil && s.current.conn.Connected() {
		return s.current, nil
	}
	l, err := s.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("systemd: connect to the bus at %s: %w", s.address, err)
	}
	s.current = l
	return l, nil
}

func (s *Systemd) dial(ctx context.Context) (*link, error) {
	// The connection lives as long as s; the deadline of the first user must
	// end only the dialling, which godbus itself does not bound.
	life, end := context.WithCancel(s.life)
	stop := context.AfterFunc(ctx, end)
	conn, err := dbus.Connect(s.address,
		dbus.WithContext(life),
		dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()),
		dbus.WithAuth(dbus.AuthExternal(strconv.Itoa(os.Getuid()))))
	if err != nil {
		stop()
		end()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	l := &link{conn: conn, finished: map[dbus.ObjectPath]string{}, waiting: map[dbus.ObjectPath][]chan string{},
		seen: map[dbus.ObjectPath]sighting{}, changes: map[dbus.ObjectPath]int{}, aliases: map[dbus.ObjectPath]dbus.ObjectPath{}}
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	go l.listen(signals) // ends when the connection closes the channel
	err = errors.Join(
		conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName+".Manager"), dbus.WithMatchMember("JobRemoved")),
		conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName+".Manager"), dbus.WithMatchMember("Reloading")),
		conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(busName), dbus.WithMatchInterface(propsIface), dbus.WithMatchMember("PropertiesChanged"), dbus.WithMatchArg(0, unitIface)),
		conn.AddMatchSignalContext(ctx, dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)),
	)
	if err == nil { // systemd speaks of changes only to those who asked
		err = conn.Object(busName, managerPath).CallWithContext(ctx, busName+".Manager.Subscribe", dbus.FlagNoAutoStart).Err
	}
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		end()
		return nil, errors.Join(err, conn.Close())
	}
	return l, nil
}

func (l *link) listen(signals <-chan *dbus.Signal) {
	for sig := range signals {
		switch sig.Name {
		case busName + ".Manager.JobRemoved":
			var (
				id           uint32
				job          dbus.ObjectPath
				unit, result string
			)
			if dbus.Store(sig.Body, &id, &job, &unit, &result) == nil {
				l.removed(job, result)
			}
		case busName + ".Manager.Reloading":
			if active := false; dbus.Store(sig.Body, &active) == nil && !active {
				l.tell("", "systemd read its unit files again")
			}
		case propsIface + ".PropertiesChanged":
			l.tell(sig.Path, describe(sig))
		case "org.freedesktop.DBus.NameOwnerChanged":
			// Another systemd, or the same after a re-exec: it knows neither our
			// subscription nor what we wait for. Begin anew.
			if name, old := "", ""; len(sig.Body) == 3 && dbus.Store(sig.Body[:2], &name, &old) == nil && name == busName && old != "" {
				l.conn.Close()
			}
		}
	}
}

func describe(sig *dbus.Signal) string {
	var (
		iface   string
		changed map[string]dbus.Variant
	)
	if len(sig.Body) >= 2 && dbus.Store(sig.Body[:2], &iface, &changed) == nil {
		active, _ := changed["ActiveState"].Value().(string)
		sub, _ := changed["SubState"].Value().(string)
		if active != "" {
			return active + "/" + sub
		}
	}
	return "changed"
}

// tell passes news of a unit to its watchers and forgets what was seen of it; an
// empty path means all units.
func (l *link) tell(path dbus.ObjectPath, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if path == "" {
		clear(l.seen)
		l.reloads++
		for _, w := range l.watchers {
			w.tell(line)
		}
		return
	}
	names := []dbus.ObjectPath{path}
	for alias, own := range l.aliases {
		if own == path {
			names = append(names, alias)
		}
	}
	for _, name := range names {
		delete(l.seen, name)
		l.changes[name]++
	}
	for _, w := range l.watchers {
		if slices.ContainsFunc(names, func(n dbus.ObjectPath) bool { return slices.Contains(w.paths, n) }) {
			w.tell(line)
		}
	}
}

// removed passes on the result of a job that systemd has done with.
func (l *link) removed(job dbus.ObjectPath, result string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ch := range l.waiting[job] {
		ch <- result // each has room for one
	}
	delete(l.waiting, job)
	if l.calling > 0 {
		l.finished[job] = result
	}
}

// await calls a method that enqueues a job and returns the job's result. Equal
// calls may be answered with one and the same job.
func (l *link) await(ctx context.Context, method, unit string) (string, error) {
	l.mu.Lock()
	l.calling++
	l.mu.Unlock()
	var job dbus.ObjectPath
	err := l.conn.Object(busName, managerPath).CallWithContext(ctx, busName+".Manager."+method, dbus.FlagNoAutoStart, unit, "replace").Store(&job)
	ch := make(chan string, 1)
	l.mu.Lock()
	l.calling--
	result, done := l.finished[job]
	if l.calling == 0 {
		clear(l.finished)
	}
	if err == nil && !done {
		l.waiting[job] = append(l.waiting[job], ch)
	}
	l.mu.Unlock()
	if err != nil {
		return "", classify(err)
	}
	if done {
		return result, nil
	}
	select {
	case result := <-ch:
		return result, nil
	case <-l.conn.Context().Done():
		return "", unknown("the bus was lost before the job ended")
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waiting[job] = slices.DeleteFunc(l.waiting[job], func(c chan string) bool { return c == ch })
		if len(l.waiting[job]) == 0 {
			delete(l.waiting, job)
		}
		return "", unknown("the job did not end in time: %w", context.Cause(ctx))
	}
}

// classify marks an error of a call: systemd's own refusal is an answer,
// everything else leaves open whether the call arrived.
func classify(err error) error {
	var refusal dbus.Error
	if errors.As(err, &refusal) {
		switch refusal.Name {
		case "org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Timeout",
			"org.freedesktop.DBus.Error.TimedOut", "org.freedesktop.DBus.Error.Disconnected":
		default:
			return err
		}
	}
	return unknown("%w", err)
}

// run has systemd do one job on a unit and says what came of it.
func (s *Systemd) run(ctx context.Context, method, unit string) error {
	l, err := s.link(ctx)
	if err != nil {
		return err
	}
	result, err := l.await(ctx, method, unit)
	if err != nil {
		return fmt.Errorf("systemd: %s %s: %w", method, unit, err)
	}
	if result != "done" {
		return fmt.Errorf("systemd: %s %s: the job ended as %q; look: journalctl -u %s -n 50", method, unit, result, unit)
	}
	return nil
}

// call calls a method of the manager.
func (s *Systemd) call(ctx context.Context, method string, args ...any) *dbus.Call {
	l, err := s.link(ctx)
	if err != nil {
		return &dbus.Call{Err: err}
	}
	call := l.conn.Object(busName, managerPath).CallWithContext(ctx, busName+".Manager."+method, dbus.FlagNoAutoStart, args...)
	if call.Err != nil {
		call.Err = fmt.Errorf("systemd: %s: %w", method, classify(call.Err))
	}
	return call
}

func (s *Systemd) get(ctx context.Context, path dbus.ObjectPath, iface, name string, into *dbus.Variant) error {
	l, err := s.link(ctx)
	if err != nil {
		return err
	}
	if err := l.conn.Object(busName, path).CallWithContext(ctx, propsIface+".Get", dbus.FlagNoAutoStart, iface, name).Store(into); err != nil {
		return fmt.Errorf("systemd: %s: %w", name, classify(err))
	}
	return nil
}

// unit is what systemd says of one unit.
type unit struct {
	ID                string
	Load, Active, Sub string
	// Queued: a job for it waits or runs.
	Queued bool
	// Conditions is false when the last start was refused by a condition.
	Conditions bool
	// Stale: its files have changed since systemd read them.
	Stale   bool
	DropIns []string
	// The rest is of services only.
	Service  bool
	Result   string // "success" or how it ended: "exit-code", "signal", "timeout" ...
	Status   string // the service's own words
	Exit     int    // of the main process
	Restarts int    // by systemd itself since the last start by anybody
}

func unitPath(name string) dbus.ObjectPath {
	return dbus.ObjectPath(string(managerPath) + "/unit/" + sd.PathBusEscape(name))
}

// glance is look, except that a unit which ran a moment ago and has not changed
// since is not asked about again: an agent does it several times a second for
// each service, and one answer is some 300 properties long.
func (s *Systemd) glance(ctx context.Context, name string) (unit, error) {
	l, err := s.link(ctx)
	if err != nil {
		return unit{}, err
	}
	path := unitPath(name)
	l.mu.Lock()
	last, known := l.seen[path]
	before, reloads := l.changes[path], l.reloads
	l.mu.Unlock()
	if known && time.Since(last.at) < freshTime {
		return last.unit, nil
	}
	at := time.Now()
	u, err := s.look(ctx, name)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, path)
	if err == nil && u.Active == "active" && !u.Queued && l.changes[path] == before && l.reloads == reloads {
		l.seen[path] = sighting{u, at}
	}
	return u, err
}

// look asks for a unit; one that does not exist has Load "not-found".
func (s *Systemd) look(ctx context.Context, name string) (unit, error) {
	l, err := s.link(ctx)
	if err != nil {
		return unit{}, err
	}
	object := l.conn.Object(busName, unitPath(name))
	ask := func(iface string) (map[string]dbus.Variant, error) {
		var out map[string]dbus.Variant
		err := object.CallWithContext(ctx, propsIface+".GetAll", dbus.FlagNoAutoStart, iface).Store(&out)
		if err != nil {
			return nil, fmt.Errorf("systemd: look at %s: %w", name, classify(err))
		}
		return out, nil
	}
	u := unit{ID: name}
	v, err := ask(unitIface)
	if err != nil {
		return u, err
	}
	read(v, "Id", &u.ID)
	if u.ID != name {
		l.mu.Lock()
		l.aliases[unitPath(name)] = unitPath(u.ID)
		l.mu.Unlock()
	}
	read(v, "LoadState", &u.Load)
	read(v, "ActiveState", &u.Active)
	read(v, "SubState", &u.Sub)
	read(v, "ConditionResult", &u.Conditions)
	read(v, "NeedDaemonReload", &u.Stale)
	read(v, "DropInPaths", &u.DropIns)
	var job struct {
		ID   uint32
		Path dbus.ObjectPath
	}
	if err := dbus.Store([]any{v["Job"].Value()}, &job); err == nil {
		u.Queued = job.ID != 0
	}
	if u.Load == "not-found" || !strings.HasSuffix(u.ID, ".service") {
		return u, nil
	}
	if v, err = ask(svcIface); err != nil {
		return u, err
	}
	u.Service = true
	var exit int32
	var restarts uint32
	read(v, "Result", &u.Result)
	read(v, "StatusText", &u.Status)
	read(v, "ExecMainStatus", &exit)
	read(v, "NRestarts", &restarts)
	u.Exit, u.Restarts = int(exit), int(restarts)
	return u, nil
}

func read[T any](from map[string]dbus.Variant, name string, into *T) {
	if v, ok := from[name].Value().(T); ok {
		*into = v
	}
}

// process is one process of a unit.
type process struct {
	Cgroup  string
	PID     uint32
	Command string
}

// processes lists what runs in a unit's control group, its own children's
// groups included, whatever the unit's state.
func (s *Systemd) processes(ctx context.Context, name string) ([]process, error) {
	var out []process
	call := s.call(ctx, "GetUnitProcesses", name)
	var refusal dbus.Error
	if errors.As(call.Err, &refusal) && refusal.Name == busName+".NoSuchUnit" {
		return nil, nil // systemd keeps a unit in memory as long as a process is left in its group
	}
	if err := call.Store(&out); err != nil {
		return nil, fmt.Errorf("systemd: processes of %s: %w", name, err)
	}
	slices.SortFunc(out, func(a, b process) int { return cmp.Compare(a.PID, b.PID) })
	return out, nil
}

// watch yields news of the units until ctx ends, over every reconnection.
func (s *Systemd) watch(ctx context.Context, units []string) <-chan string {
	w := &watcher{news: make(chan string, 1)}
	for _, u := range units {
		w.paths = append(w.paths, unitPath(u))
	}
	out := make(chan string, 1)
	go func() {
		defer close(out)
		relay := &watcher{news: out}
		pause := 100 * time.Millisecond
		lost := false
		for ctx.Err() == nil && s.life.Err() == nil {
			l, err := s.link(ctx)
			if err != nil {
				if !lost {
					relay.tell(err.Error())
				}
				lost = true
				select {
				case <-time.After(pause):
					pause = min(2*pause, 2*time.Second)
				case <-ctx.Done():
				case <-s.life.Done():
				}
				continue
			}
			l.add(w)
			if lost { // what happened in between went unseen
				relay.tell("systemd answers again")
			}
			pause, lost = 100*time.Millisecond, false
			w.relay(ctx, l, relay)
			l.remove(w)
			if ctx.Err() == nil && s.life.Err() == nil {
				lost = true
				relay.tell("the connection to systemd was lost")
			}
		}
	}()
	return out
}

// relay passes lines on until the link or ctx ends.
func (w *watcher) relay(ctx context.Context, l *link, to *watcher) {
	for {
		select {
		case line := <-w.news:
			to.tell(line)
		case <-l.conn.Context().Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

func (l *link) add(w *watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers = append(l.watchers, w)
}

func (l *link) remove(w *watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers = slices.DeleteFunc(l.watchers, func(o *watcher) bool { return o == w })
}
