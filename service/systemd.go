package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mainstay/fleet"
)

// unitCopy is the kind "systemd": a copy that is a systemd unit.
type unitCopy struct {
	name      string
	units     []string
	systemd   *Systemd
	bar       bar
	dropIns   string // the folder for drop-ins
	startTime time.Duration
	stopTime  time.Duration

	mu       sync.Mutex
	found    string // the first of units that existed when last looked
	restarts restarts
	counted  int // systemd's own count when last looked
	// fails: a start of what was to run and ended counts as a restart, so that what cannot
	// run here goes elsewhere. One copy of many has nowhere to go, and is tried again with
	// growing pauses. Kinds that know their service better count for themselves.
	fails  bool
	wanted bool // it ran here or was started here, and was not stopped since
}

func openUnit(s fleet.Service, env Env) (Copy, error) {
	c, p := newUnit(s, env)
	c.fails = s.Mode.Exclusive()
	return c, errors.Join(p.wrongs...)
}

func newUnit(s fleet.Service, env Env) (*unitCopy, *params) {
	p := &params{kind: s.Kind, given: s.Params}
	c := &unitCopy{
		name: s.Name, units: s.Units, systemd: env.Systemd, bar: barOf(s, env), dropIns: env.Units,
		startTime: p.duration("start_timeout"), stopTime: p.duration("stop_timeout"),
		restarts: restarts{within: s.Restarts.Within},
	}
	if len(s.Units) == 0 {
		p.wrongs = append(p.wrongs, errors.New("units: none given; name the systemd unit, as in keystone.service"))
	}
	for _, u := range s.Units {
		if !strings.Contains(u, ".") || strings.ContainsAny(u, "/ \t\n") {
			p.wrongs = append(p.wrongs, fmt.Errorf("units: %q is not the name of a unit; write it with its type, as in keystone.service", u))
		}
	}
	if env.Systemd == nil {
		p.wrongs = append(p.wrongs, fmt.Errorf("kind %s needs a connection to systemd", s.Kind))
	}
	return c, p
}

// find looks at the first of the units that exists, at the last one if none
// does, by Systemd's look or glance.
func (c *unitCopy) find(ctx context.Context, look func(context.Context, string) (unit, error)) (unit, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c.mu.Lock()
	first := c.found
	c.mu.Unlock()
	var u unit
	for _, name := range append([]string{first}, c.units...) {
		if name == "" {
			continue
		}
		var err error
		if u, err = look(ctx, name); err != nil {
			return u, err
		}
		if u.Load != "not-found" || u.Active != "inactive" {
			c.mu.Lock()
			c.found = name
			c.mu.Unlock()
			return u, nil
		}
	}
	return u, nil
}

// Prepare sets the bar on the unit that exists here.
func (c *unitCopy) Prepare(ctx context.Context) error {
	if !c.bar.set() {
		return nil
	}
	u, err := c.find(ctx, c.systemd.look)
	if err != nil {
		return err
	}
	if u.Load == "not-found" {
		return nil
	}
	path := c.bar.dropIn(c.dropIns, u.ID)
	changed, err := write(path, c.bar.text())
	if err != nil {
		return fmt.Errorf("bar %s: write its drop-in: %w", u.ID, err)
	}
	if !changed && slices.Contains(u.DropIns, path) && !u.Stale {
		return nil
	}
	if err := c.systemd.Reload(ctx); err != nil {
		return fmt.Errorf("bar %s: %w", u.ID, err)
	}
	if u, err = c.find(ctx, c.systemd.look); err != nil {
		return err
	}
	if !slices.Contains(u.DropIns, path) {
		return fmt.Errorf("bar %s: systemd does not read %s; look: systemctl cat %s", u.ID, path, u.ID)
	}
	return nil
}

// Forget removes the bar from every unit that could have it.
func (c *unitCopy) Forget(ctx context.Context) error {
	if !c.bar.set() {
		return nil
	}
	names := slices.Clone(c.units)
	if u, err := c.find(ctx, c.systemd.look); err == nil {
		names = append(names, u.ID) // when one of units is an alias
	}
	removed := false
	for _, name := range names {
		path := c.bar.dropIn(c.dropIns, name)
		err := os.Remove(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unbar %s: %w", name, err)
		}
		removed = removed || err == nil
		_ = os.Remove(filepath.Dir(path)) // stays if there are drop-ins of others
	}
	if removed {
		if err := c.systemd.Reload(ctx); err != nil {
			return fmt.Errorf("unbar %s: %w", c.name, err)
		}
	}
	return c.bar.drop()
}

// State maps the unit's state; see phase.
func (c *unitCopy) State(ctx context.Context) (fleet.ServiceState, error) {
	st, _, err := c.state(ctx, c.systemd.glance)
	return st, err
}

func (c *unitCopy) state(ctx context.Context, look func(context.Context, string) (unit, error)) (fleet.ServiceState, unit, error) {
	u, err := c.find(ctx, look)
	if err != nil {
		return fleet.ServiceState{Phase: fleet.Unknown, Why: err.Error()}, u, err
	}
	phase, why := phase(u)
	if phase == fleet.Absent {
		why = "no unit here named " + strings.Join(c.units, " or ")
	}
	st := fleet.ServiceState{Phase: phase, Why: why, Restarts: c.count(u)}
	if phase == fleet.Running {
		c.want(true)
	}
	if !c.bar.set() {
		return st, u, nil
	}
	if down(phase) {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		left, err := c.systemd.processes(ctx, u.ID)
		if err != nil {
			st.Phase, st.Why = fleet.Unknown, err.Error()
			return st, u, err
		}
		if len(left) > 0 {
			st.Phase = fleet.Unknown
			st.Why = fmt.Sprintf("%s is %s, but %d of its processes are left: %s; end them, or the host", u.ID, u.Active, len(left), list(left))
			return st, u, nil
		}
	}
	if phase != fleet.Absent && !slices.Contains(u.DropIns, c.bar.dropIn(c.dropIns, u.ID)) {
		st.Why = strings.TrimPrefix(st.Why+"; not barred: a boot of this host would start it", "; ")
	}
	return st, u, nil
}

func list(left []process) string {
	var out []string
	for i, p := range left {
		if i == 3 {
			out = append(out, "...")
			break
		}
		command, _, _ := strings.Cut(p.Command, " ") // arguments may hold secrets
		out = append(out, fmt.Sprintf("%d (%s)", p.PID, filepath.Base(command)))
	}
	return strings.Join(out, ", ")
}

// count brings systemd's own restarts into the window. Its counter falls to 0
// at every start by somebody.
func (c *unitCopy) count(u unit) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u.Restarts > c.counted {
		c.restarts.add(u.Restarts - c.counted)
	}
	c.counted = u.Restarts
	return c.restarts.count()
}

// phase maps a unit's state to the phase of a copy. What is not surely down is
// never called stopped or failed: a unit with a job in the queue is starting.
func phase(u unit) (phase, why string) {
	look := "; look: journalctl -u " + u.ID + " -n 50"
	switch u.Active {
	case "active", "reloading", "refreshing":
		return fleet.Running, ""
	case "activating":
		if strings.HasPrefix(u.Sub, "auto-restart") {
			return fleet.Starting, "systemd will start it again; it ended with " + ending(u) + look
		}
		return fleet.Starting, said(u)
	case "deactivating":
		return fleet.Stopping, said(u)
	case "inactive", "failed":
		switch {
		case u.Queued:
			return fleet.Starting, "its job waits in systemd's queue; look: systemctl list-jobs"
		case u.Load == "not-found":
			return fleet.Absent, ""
		case u.Load == "masked":
			return fleet.Absent, u.ID + " is masked; to allow it: systemctl unmask " + u.ID
		case u.Load != "loaded":
			return fleet.Failed, "systemd cannot load it (" + u.Load + "); look: systemctl status " + u.ID
		case u.Active == "failed":
			return fleet.Failed, "it ended with " + ending(u) + look
		}
		return fleet.Stopped, ""
	}
	return fleet.Unknown, fmt.Sprintf("systemd calls %s %s/%s", u.ID, u.Active, u.Sub)
}

// down says whether a copy in this phase surely does not run.
func down(phase string) bool {
	return phase == fleet.Absent || phase == fleet.Stopped || phase == fleet.Failed
}

func ending(u unit) string {
	if u.Exit != 0 {
		return fmt.Sprintf("%s (status %d)", u.Result, u.Exit)
	}
	return u.Result
}

func said(u unit) string {
	if u.Status == "" {
		return u.Sub
	}
	return u.Sub + ": " + u.Status
}

// want notes whether the copy is to run on, and says whether it was.
func (c *unitCopy) want(on bool) (was bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, c.wanted = c.wanted, on
	return was
}

// Start lifts the bar and has systemd start the unit.
func (c *unitCopy) Start(ctx context.Context) error { return c.begin(ctx, "StartUnit", c.startTime) }

// Restart has systemd stop and start the unit.
func (c *unitCopy) Restart(ctx context.Context) error {
	c.mu.Lock()
	c.restarts.add(1)
	c.mu.Unlock()
	return c.begin(ctx, "RestartUnit", c.stopTime+c.startTime)
}

func (c *unitCopy) begin(ctx context.Context, method string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	u, err := c.find(ctx, c.systemd.look)
	if err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	if p, why := phase(u); p == fleet.Absent {
		if why == "" {
			why = "no unit here named " + strings.Join(c.units, " or ")
		}
		return fmt.Errorf("start %s: %s", c.name, why)
	}
	if err := c.Prepare(ctx); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	if err := c.bar.lift(); err != nil {
		return err
	}
	if p, _ := phase(u); p == fleet.Running && !u.Queued && method == "StartUnit" {
		return nil
	}
	if p, _ := phase(u); c.want(true) && c.fails && down(p) && method == "StartUnit" {
		c.mu.Lock()
		c.restarts.add(1) // it ended by itself, or its last start failed
		c.mu.Unlock()
	}
	if u.Active == "failed" {
		// Clears systemd's own limit of starts: how often is Mainstay's to say.
		if err := c.systemd.call(ctx, "ResetFailedUnit", u.ID).Err; err != nil {
			return fmt.Errorf("start %s: %w", c.name, err)
		}
	}
	if err := c.systemd.run(ctx, method, u.ID); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	// A job is done, too, when a condition refused the start.
	after, err := c.find(ctx, c.systemd.look)
	if err != nil {
		return unknown("start %s: its job is done, but it cannot be looked at: %w", c.name, err)
	}
	switch p, why := phase(after); {
	case p == fleet.Running:
		return nil
	case p == fleet.Stopped && !after.Conditions:
		return fmt.Errorf("start %s: a condition of %s is not met; look: systemctl status %s", c.name, after.ID, after.ID)
	case p == fleet.Stopped:
		return fmt.Errorf("start %s: %s ended by itself at once; look: journalctl -u %s -n 50", c.name, after.ID, after.ID)
	default:
		return fmt.Errorf("start %s: %s is %s: %s", c.name, after.ID, p, why)
	}
}

// Stop drops the bar, has systemd stop the unit, and looks whether it is down.
func (c *unitCopy) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.stopTime)
	defer cancel()
	// First the bar: from here on nothing starts it again. Should that fail, it
	// is stopped all the same, but its word is not given.
	defer c.want(false) // whoever looks meanwhile may still see it run
	barred := c.bar.drop()
	st, u, err := c.state(ctx, c.systemd.look)
	if err != nil {
		return errors.Join(barred, fmt.Errorf("stop %s: %w", c.name, err))
	}
	if !down(st.Phase) {
		if err := c.systemd.run(ctx, "StopUnit", u.ID); err != nil {
			return errors.Join(barred, fmt.Errorf("stop %s: %w", c.name, err))
		}
		if st, u, err = c.state(ctx, c.systemd.look); err != nil {
			return errors.Join(barred, unknown("stop %s: its job is done, but it cannot be looked at: %w", c.name, err))
		}
	}
	if down(st.Phase) {
		return barred
	}
	return errors.Join(barred, fmt.Errorf("stop %s: %s is still %s: %s", c.name, u.ID, st.Phase, st.Why))
}

// Ready of a plain unit is no more than its state: the service's check says the rest.
func (c *unitCopy) Ready(ctx context.Context) (bool, string, error) {
	st, err := c.State(ctx)
	if err != nil {
		return false, "", err
	}
	if st.Phase == fleet.Running {
		return true, "", nil
	}
	return false, strings.TrimSuffix(st.Phase+": "+st.Why, ": "), nil
}

// PIDs lists the processes of the unit's control group.
func (c *unitCopy) PIDs(ctx context.Context) ([]int, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	u, err := c.find(ctx, c.systemd.glance)
	if err != nil || u.Load == "not-found" {
		return nil, err
	}
	found, err := c.systemd.processes(ctx, u.ID)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, p := range found {
		out = append(out, int(p.PID))
	}
	return out, nil
}

// Events listens to the unit's property changes.
func (c *unitCopy) Events(ctx context.Context) <-chan string { return c.systemd.watch(ctx, c.units) }

// Close does nothing: the connection to systemd belongs to Env.
func (c *unitCopy) Close() error { return nil }
