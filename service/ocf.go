package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"mainstay/fleet"
)

// The return codes of the OCF Resource Agent API 1.1 (ClusterLabs/OCF-spec, ra/1.1).
const (
	ocfSuccess          = 0
	ocfInstalled        = 5 // OCF_ERR_INSTALLED: what it runs is not on this host
	ocfNotRunning       = 7
	ocfPromoted         = 8 // OCF_RUNNING_PROMOTED, before 1.1 OCF_RUNNING_MASTER
	ocfFailedPromoted   = 9
	ocfDegraded         = 190
	ocfDegradedPromoted = 191
)

// ocfWords says what a return code means where the agent gives no reason of its own.
var ocfWords = map[int]string{
	1: "a generic error", 2: "wrong arguments", 3: "an action that the agent does not have", 4: "not permitted", ocfInstalled: "not installed here",
	6: "not configured rightly", ocfNotRunning: "not running", ocfPromoted: "promoted", ocfFailedPromoted: "failed while promoted",
	ocfDegraded: "degraded", ocfDegradedPromoted: "promoted and degraded",
}

// ocfReason begins the line in which an agent says why it failed.
const ocfReason = "ocf-exit-reason:"

// ocfCopy is the kind "ocf": a copy driven by a resource agent of the OCF, such as
// those of Debian's package resource-agents, unmodified: as Pacemaker runs them.
//
// Nobody but Mainstay starts such a copy: no unit is bound to it, so no bar can keep
// it down by a unit's condition, and after a boot nothing brings it up until it is
// ordered. What an agent drives must therefore not be enabled elsewhere.
//
// monitor is believed, and nothing else: 7 is stopped, 0 and 8 are running, 5 is not
// installed; a monitor that fails with anything else may have something running
// before it, so the copy is running, not ready and stuck: it is stopped and started
// anew, as Pacemaker does. A time-out is unknown, and its process group is killed.
type ocfCopy struct {
	name    string
	agent   ocfAgent
	role    string // as last seen or asked for: "" not known yet
	bar     bar
	env     Env
	mode    fleet.Mode
	every   time.Duration
	homes   int
	plain   map[string]string        // OCF_RESKEY_*
	secrets map[string]string        // parameter -> file
	limits  map[string]time.Duration // by action, as the site's file gives them
	turn    chan struct{}            // an agent does one thing at a time

	mu       sync.Mutex
	restarts restarts
	wanted   bool   // it was started here, and not stopped since
	acting   string // the action that is being carried out, but for monitor
	seen     ocfWord
	asked    time.Time // when seen was; zero: ask anew
	conf     drbdConf  // of a mirrored one
	confRead time.Time
}

// ocfWord is an agent's answer to one action.
type ocfWord struct {
	code int
	why  string // its own reason, or the code's meaning
}

var ocfName = regexp.MustCompile(`^(?:ocf:)?([A-Za-z0-9_][A-Za-z0-9_.-]*):([A-Za-z0-9_][A-Za-z0-9_.-]*)$`)

// ocfActions are those that may take their time from the site's file.
var ocfActions = []string{"start", "stop", "monitor", "promote", "demote"}

func openOCF(s fleet.Service, env Env) (Copy, error) {
	p := &params{kind: s.Kind, given: s.Params}
	c := &ocfCopy{
		name: s.Name, bar: barOf(s, env), env: env, mode: s.Mode, every: s.Check.Every, homes: max(2, len(s.Hosts)),
		plain: map[string]string{}, secrets: map[string]string{}, limits: map[string]time.Duration{},
		turn: make(chan struct{}, 1), restarts: restarts{within: s.Restarts.Within},
	}
	for _, action := range ocfActions {
		if key := "op_" + action; s.Params[key] != "" {
			c.limits[action] = p.duration(key)
		}
	}
	for key, value := range s.Params {
		if !slices.ContainsFunc(ocfParams, func(q Param) bool { return q.Name == key }) {
			c.plain[key] = value
		}
	}
	name := ocfName.FindStringSubmatch(s.Params["agent"])
	if name == nil {
		p.wrong("agent", "%q is not the name of a resource agent; right would be heartbeat:IPaddr2", s.Params["agent"])
		return c, errors.Join(p.wrongs...)
	}
	c.agent = ocfAgent{provider: name[1], kind: name[2], path: filepath.Join(env.OCF, "resource.d", name[1], name[2])}
	m, err := c.describe(context.Background())
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrUnknown):
		// What is not on this host may be on those where the service lives, and one that
		// does not answer in time is asked again.
	case err != nil:
		p.wrong("agent", "%v", err)
	default:
		c.check(m, p)
	}
	return c, errors.Join(p.wrongs...)
}

// check holds the parameters against what the agent says of itself.
func (c *ocfCopy) check(m ocfMeta, p *params) {
	for _, key := range slices.Sorted(maps.Keys(c.plain)) {
		value := c.plain[key]
		q, known := m.param(key)
		of, isFile := strings.CutSuffix(key, "_file")
		secret, has := m.param(of)
		switch {
		case known && ocfSecret(q.Name) && value != "":
			p.wrong(key, "a secret does not stand in the site's file: write it into a file that only root can read, and give %s_file", key)
		case known: // its value is the agent's to judge: the types of metadata are loose
		case isFile && has && ocfSecret(secret.Name):
			if !filepath.IsAbs(value) {
				p.wrong(key, "%q is not an absolute path", value)
			}
			c.secrets[of] = value
			delete(c.plain, key)
		default:
			p.wrong(key, "%s has no such parameter; it knows %s", c.agent, strings.Join(m.names(), ", "))
		}
	}
	for _, q := range m.Parameters {
		if _, given := c.plain[q.Name]; !given && c.secrets[q.Name] == "" && q.Required == "1" && q.Content.Default == "" {
			p.wrong("", "%s is missing: %s (%s needs it)", q.Name, q.about(), c.agent)
		}
	}
	for _, action := range []string{"start", "stop", "monitor"} {
		if !m.has(action) {
			p.wrong("agent", "%s has no action %s", c.agent, action)
		}
	}
	if c.mode == fleet.Promoted && !(m.has("promote") && m.has("demote")) {
		p.wrong("agent", "%s cannot be promoted: it has no such action; mode: active/active or active/passive", c.agent)
	}
}

// Prepare lays out what agents find under HA_SBIN_DIR and HA_RSCTMP.
func (c *ocfCopy) Prepare(context.Context) error {
	if err := os.MkdirAll(c.env.OCFTemp, 0o755|os.ModeSticky); err != nil {
		return fmt.Errorf("prepare %s: %w", c.name, err)
	}
	if err := linkShims(c.env.Shims); err != nil {
		return fmt.Errorf("prepare %s: %w", c.name, err)
	}
	return nil
}

// LookOn gives the agent what its monitor needs, and takes the bar's file away: without
// our programs it would find those of a Pacemaker that still runs the host, and write there.
func (c *ocfCopy) LookOn(ctx context.Context) error {
	return errors.Join(c.Prepare(ctx), c.bar.drop())
}

// Forget takes away the bar's file and what the agent had us remember.
func (c *ocfCopy) Forget(context.Context) error {
	return errors.Join(c.bar.drop(), attributes{c.env, c.name}.forget())
}

// State asks the agent's monitor, and while an action is under way says which.
func (c *ocfCopy) State(ctx context.Context) (fleet.ServiceState, error) {
	c.mu.Lock()
	st := fleet.ServiceState{Phase: fleet.Unknown, Role: c.shown(c.role), Restarts: c.restarts.count()}
	acting := c.acting
	c.mu.Unlock()
	switch acting {
	case "start", "promote":
		st.Phase, st.Why = fleet.Starting, c.agent.String()+": "+acting
		return st, nil
	case "stop", "demote":
		st.Phase, st.Why = fleet.Stopping, c.agent.String()+": "+acting
		return st, nil
	}
	release, err := c.wait(ctx)
	if err != nil {
		st.Why = err.Error()
		return st, err
	}
	defer release()
	return c.look(ctx, c.isWanted())
}

// wait takes the agent's turn.
func (c *ocfCopy) wait(ctx context.Context) (release func(), err error) {
	select {
	case c.turn <- struct{}{}:
		return func() { <-c.turn }, nil
	case <-ctx.Done():
		return nil, unknown("%s of %s is busy: %w", c.agent, c.name, context.Cause(ctx))
	}
}

func (c *ocfCopy) isWanted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wanted
}

// look asks monitor and says what its answer means. The caller has the turn. A
// monitor with an interval is told that the copy should run, one without is a probe,
// in which agents are lenient with what is not there yet.
func (c *ocfCopy) look(ctx context.Context, recurring bool) (fleet.ServiceState, error) {
	c.mu.Lock()
	c.asked = time.Time{}
	st := fleet.ServiceState{Phase: fleet.Unknown, Restarts: c.restarts.count()}
	role := c.role
	c.mu.Unlock()
	if role == "" {
		role = fleet.RolePromoted // until it is known not to be
	}
	if _, err := os.Stat(c.agent.path); errors.Is(err, fs.ErrNotExist) {
		st.Phase, st.Why, st.Role = fleet.Absent, c.absent(), c.shown(fleet.RoleUnpromoted)
		return st, nil
	}
	every := time.Duration(0)
	if recurring {
		every = max(c.every, time.Second)
	}
	w, err := c.act(ctx, "monitor", every)
	if err != nil {
		st.Why, st.Role = "monitor: "+err.Error(), c.shown(role)
		return st, fmt.Errorf("monitor of %s: %w", c.name, err)
	}
	switch w.code {
	case ocfSuccess, ocfDegraded:
		st.Phase, role = fleet.Running, fleet.RoleUnpromoted
	case ocfPromoted, ocfDegradedPromoted:
		st.Phase, role = fleet.Running, fleet.RolePromoted
	case ocfNotRunning:
		st.Phase, role = fleet.Stopped, fleet.RoleUnpromoted
		if recurring {
			st.Phase, st.Why = fleet.Failed, "it was started here and runs no more: "+w.why
		}
	case ocfInstalled:
		st.Phase, st.Why, role = fleet.Absent, w.why, fleet.RoleUnpromoted
	case ocfFailedPromoted:
		st.Phase, st.Stuck, st.Why, role = fleet.Running, true, w.why, fleet.RolePromoted
	case 2, 3, 4, 6: // it could not even look
		st.Why = fmt.Sprintf("%s monitor cannot tell (%d): %s", c.agent, w.code, w.why)
	default:
		st.Phase, st.Stuck, st.Why = fleet.Running, true, fmt.Sprintf("%s monitor failed (%d): %s", c.agent, w.code, w.why)
	}
	if w.code == ocfDegraded || w.code == ocfDegradedPromoted {
		st.Why = w.why
	}
	c.mu.Lock()
	c.role, c.seen, c.asked = role, ocfWord{w.code, cmp.Or(st.Why, w.why)}, time.Now()
	c.wanted = c.wanted || st.Phase == fleet.Running // one that is found running is to run on
	c.mu.Unlock()
	st.Role = c.shown(role)
	if c.mode == fleet.Promoted {
		st.Score = attributes{c.env, c.name}.score()
	}
	if c.Resource() != "" && st.Phase == fleet.Running {
		if st.Mirror, err = c.Mirror(ctx); err != nil && st.Why == "" {
			st.Why = err.Error() // nothing is said of its peers then, and nothing taken for granted
		}
	}
	return st, nil
}

// shown is the role as far as the service has one.
func (c *ocfCopy) shown(role string) string {
	if c.mode != fleet.Promoted {
		return ""
	}
	return role
}

func (c *ocfCopy) absent() string {
	return fmt.Sprintf("there is no %s here: apt-get install the package that has %s (resource-agents, pacemaker-resource-agents)", c.agent.path, c.agent)
}

// begin takes the turn for an action and notes it. end gives it back.
func (c *ocfCopy) begin(ctx context.Context, action string) (end func(), err error) {
	release, err := c.wait(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s %s: not tried: %w", action, c.name, err)
	}
	c.mu.Lock()
	c.acting = action
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		c.acting, c.asked = "", time.Time{}
		c.mu.Unlock()
		release()
	}, nil
}

// Start runs the agent's start, unless its monitor says that it runs.
func (c *ocfCopy) Start(ctx context.Context) error {
	end, err := c.begin(ctx, "start")
	if err != nil {
		return err
	}
	defer end()
	return c.start(ctx)
}

func (c *ocfCopy) start(ctx context.Context) error {
	if err := c.bar.lift(); err != nil {
		return err
	}
	st, err := c.look(ctx, false)
	if err != nil {
		return fmt.Errorf("start %s: not tried, its state is not known: %w", c.name, err)
	}
	c.mu.Lock()
	again := c.wanted
	c.wanted = st.Phase == fleet.Running || st.Phase == fleet.Stopped
	if again && st.Phase == fleet.Stopped {
		c.restarts.add(1) // it ended by itself, or its last start failed
	}
	c.mu.Unlock()
	switch {
	case st.Phase == fleet.Running && !st.Stuck:
		return nil
	case st.Phase != fleet.Stopped:
		return fmt.Errorf("start %s: not tried, it is %s: %s", c.name, st.Phase, st.Why)
	}
	return c.do(ctx, "start", func(st fleet.ServiceState) bool { return st.Phase == fleet.Running && !st.Stuck })
}

// Stop demotes and stops the copy, unless the monitor says that it is stopped.
func (c *ocfCopy) Stop(ctx context.Context) error {
	barred := c.bar.drop()
	end, err := c.begin(ctx, "stop")
	if err != nil {
		return errors.Join(barred, err)
	}
	defer end()
	return errors.Join(barred, c.stop(ctx))
}

func (c *ocfCopy) stop(ctx context.Context) error {
	gone := func(st fleet.ServiceState) bool { return st.Phase == fleet.Stopped || st.Phase == fleet.Absent }
	st, err := c.look(ctx, false)
	if err == nil && (st.Phase == fleet.Stopped || st.Phase == fleet.Absent && !c.isWanted()) {
		c.setWanted(false)
		return nil
	}
	c.mu.Lock()
	role := c.role
	c.mu.Unlock()
	if c.mode == fleet.Promoted && role != fleet.RoleUnpromoted {
		// What comes of it the stop will tell: many agents refuse to stop while promoted.
		if _, err := c.act(ctx, "demote", 0); err != nil {
			return fmt.Errorf("stop %s: demote: %w", c.name, err)
		}
	}
	if err := c.do(ctx, "stop", gone); err != nil {
		return err
	}
	c.setWanted(false)
	return nil
}

func (c *ocfCopy) setWanted(on bool) {
	c.mu.Lock()
	c.wanted = on
	c.mu.Unlock()
}

// Restart is a stop and a start. The bar stays lifted, so that a start that is
// interrupted here can be gone on with.
func (c *ocfCopy) Restart(ctx context.Context) error {
	c.mu.Lock()
	c.restarts.add(1)
	c.mu.Unlock()
	end, err := c.begin(ctx, "stop")
	if err != nil {
		return err
	}
	defer end()
	if err := c.stop(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	c.acting = "start"
	c.mu.Unlock()
	return c.start(ctx)
}

// Promote runs the agent's promote, unless its monitor says that it is promoted.
func (c *ocfCopy) Promote(ctx context.Context) error {
	end, err := c.begin(ctx, "promote")
	if err != nil {
		return err
	}
	defer end()
	st, err := c.look(ctx, true)
	switch {
	case err != nil:
		return fmt.Errorf("promote %s: not tried, its state is not known: %w", c.name, err)
	case st.Phase != fleet.Running || st.Stuck:
		return fmt.Errorf("promote %s: not tried, it is %s: %s", c.name, st.Phase, st.Why)
	case st.Role == fleet.RolePromoted:
		return nil
	}
	c.mu.Lock()
	c.role = fleet.RolePromoted // from now on it may be
	c.mu.Unlock()
	err = c.do(ctx, "promote", func(st fleet.ServiceState) bool { return st.Role == fleet.RolePromoted && !st.Stuck })
	if err != nil {
		c.mu.Lock()
		c.restarts.add(1) // one that cannot be promoted again and again is no better than one that cannot start
		c.mu.Unlock()
	}
	return err
}

// Demote runs the agent's demote, unless its monitor says that nothing is promoted.
// nil is the holder's word.
func (c *ocfCopy) Demote(ctx context.Context) error {
	end, err := c.begin(ctx, "demote")
	if err != nil {
		return err
	}
	defer end()
	demoted := func(st fleet.ServiceState) bool {
		return down(st.Phase) || st.Phase == fleet.Running && st.Role == fleet.RoleUnpromoted && !st.Stuck
	}
	if st, err := c.look(ctx, false); err == nil && demoted(st) {
		return nil
	}
	return c.do(ctx, "demote", demoted)
}

// do runs an action and believes only the monitor that follows it.
func (c *ocfCopy) do(ctx context.Context, action string, good func(fleet.ServiceState) bool) error {
	w, err := c.act(ctx, action, 0)
	if err != nil {
		return fmt.Errorf("%s %s: %w", action, c.name, err)
	}
	st, err := c.look(ctx, false)
	switch {
	case err != nil:
		return unknown("%s %s: done, but its state is not known: %w", action, c.name, err)
	case good(st):
		return nil
	case w.code != ocfSuccess:
		return fmt.Errorf("%s %s: %s returned %d: %s; it is %s", action, c.name, c.agent, w.code, w.why, strings.TrimSpace(st.Phase+" "+st.Role))
	}
	return fmt.Errorf("%s %s: %s says that it is done, but its monitor: %s %s", action, c.name, c.agent, strings.TrimSpace(st.Phase+" "+st.Role), st.Why)
}

// Ready is the monitor's word, a moment old at most.
func (c *ocfCopy) Ready(ctx context.Context) (bool, string, error) {
	c.mu.Lock()
	w, fresh := c.seen, time.Since(c.asked) < time.Second
	c.mu.Unlock()
	if !fresh {
		st, err := c.State(ctx)
		if err != nil || st.Phase != fleet.Running || st.Stuck {
			return false, strings.TrimSuffix(st.Phase+": "+st.Why, ": "), err
		}
		return true, st.Why, nil
	}
	switch w.code {
	case ocfSuccess, ocfPromoted:
		return true, "", nil
	case ocfDegraded, ocfDegradedPromoted:
		return true, w.why, nil
	}
	return false, w.why, nil
}

// Validate runs the agent's own check of its parameters, where it has one: by the
// API it changes nothing. The metadata is asked for again where it was not to be had.
func (c *ocfCopy) Validate(ctx context.Context) error {
	m, err := c.describe(ctx)
	if err != nil {
		return err
	}
	if !m.has("validate-all") {
		return nil
	}
	w, err := c.act(ctx, "validate-all", 0)
	if err != nil {
		return fmt.Errorf("%s validate-all: %w", c.agent, err)
	}
	if w.code != ocfSuccess {
		return fmt.Errorf("%s validate-all returned %d: %s", c.agent, w.code, w.why)
	}
	return nil
}

// Patience is how long one question for the state may take: agents look at disks and
// databases, and one that is asked too soon again is only killed again.
func (c *ocfCopy) Patience() time.Duration { return c.limit("monitor") + time.Second }

// PIDs reads the file that the agent's own parameter for it names.
func (c *ocfCopy) PIDs(ctx context.Context) ([]int, error) {
	m, err := c.describe(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the processes of %s: %w", c.name, err)
	}
	for _, key := range []string{"pidfile", "pid_file", "pid"} {
		q, known := m.param(key)
		file := q.Content.Default
		if given := c.plain[key]; given != "" {
			file = given
		}
		if known && filepath.IsAbs(file) {
			return pidFrom(c.name, file)
		}
	}
	return nil, nil
}

// Events has none to tell: such a service is asked for its state regularly.
func (c *ocfCopy) Events(ctx context.Context) <-chan string {
	out := make(chan string)
	context.AfterFunc(ctx, func() { close(out) })
	return out
}

// Close has nothing to let go of.
func (c *ocfCopy) Close() error { return nil }

// limit is how long an action may take: as the site's file says, else as the agent
// advises, else Pacemaker's own default.
func (c *ocfCopy) limit(action string) time.Duration {
	if d, given := c.limits[action]; given {
		return d
	}
	if m, err := c.describe(context.Background()); err == nil {
		if d := m.timeout(action); d > 0 {
			return d
		}
	}
	return 20 * time.Second
}

// act runs one action of the agent in a process group of its own. An error means
// that there is no answer.
func (c *ocfCopy) act(ctx context.Context, action string, interval time.Duration) (ocfWord, error) {
	limit := c.limit(action)
	env, hidden, err := c.environment(action, limit, interval)
	if err != nil {
		return ocfWord{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var said speech
	log := openAgentLog(c.env.Shims)
	code, err := runOCF(ctx, c.agent.path, action, append(env, log.env()...), nil, &said)
	hide := func(text string) string {
		for _, h := range hidden {
			text = strings.ReplaceAll(text, h, "[hidden]")
		}
		return text
	}
	failure, last := log.close(hide)
	why, line := said.reasons(hide)
	if err != nil {
		if word := cmp.Or(why, failure, last, line); word != "" {
			err = fmt.Errorf("%w; its last word was: %s", err, word)
		}
		return ocfWord{}, err
	}
	w := ocfWord{code, cmp.Or(why, failure, line, last)}
	if w.why == "" {
		w.why = ocfWords[code]
	}
	if w.why == "" {
		w.why = "return code " + strconv.Itoa(code)
	}
	return w, nil
}

// environment is what the agent is told (OCF RA API, "Parameter passing"; the
// CRM_meta names are Pacemaker's). hidden are the secrets in it.
func (c *ocfCopy) environment(action string, limit, interval time.Duration) (env, hidden []string, err error) {
	host, _ := os.Hostname()
	set := map[string]string{
		"OCF_RESOURCE_INSTANCE": c.name, "OCF_RESOURCE_TYPE": c.agent.kind, "OCF_RESOURCE_PROVIDER": c.agent.provider,
		"OCF_RESKEY_CRM_meta_timeout":  strconv.FormatInt(limit.Milliseconds(), 10),
		"OCF_RESKEY_CRM_meta_interval": strconv.FormatInt(interval.Milliseconds(), 10),
		"OCF_RESKEY_CRM_meta_name":     action, "OCF_RESKEY_CRM_meta_on_node": host,
		"OCF_RESKEY_crm_feature_set": "3.16.2", // of Pacemaker 2.1.5: agents ask by it what its tools can do
	}
	if c.mode != fleet.ActivePassive {
		set["OCF_RESKEY_CRM_meta_clone"] = "0"
		set["OCF_RESKEY_CRM_meta_clone_max"] = strconv.Itoa(c.homes) // more than one is all that agents ask
		set["OCF_RESKEY_CRM_meta_clone_node_max"] = "1"
		set["OCF_RESKEY_CRM_meta_globally_unique"] = "false"
		set["OCF_RESKEY_CRM_meta_notify"] = "false"
	}
	if c.mode == fleet.Promoted {
		for _, word := range []string{"promoted", "master"} { // the newer and the older name
			set["OCF_RESKEY_CRM_meta_"+word+"_max"], set["OCF_RESKEY_CRM_meta_"+word+"_node_max"] = "1", "1"
		}
		set["OCF_RESKEY_CRM_meta_promotable"] = "true"
	}
	for key, value := range c.plain {
		set["OCF_RESKEY_"+key] = value
	}
	for key, file := range c.secrets {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, nil, fmt.Errorf("%s of %s: %w", key, c.name, err)
		}
		value := strings.TrimRight(string(raw), "\r\n")
		if value == "" {
			return nil, nil, fmt.Errorf("%s of %s: %s is empty", key, c.name, file)
		}
		set["OCF_RESKEY_"+key] = value
		hidden = append(hidden, value)
	}
	env = ocfBase(c.env)
	for _, key := range slices.Sorted(maps.Keys(set)) {
		env = append(env, key+"="+set[key])
	}
	return env, hidden, nil
}

// ocfBase is what every run of an agent is told.
func ocfBase(e Env) []string {
	return []string{
		"PATH=" + e.Shims + ":/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root",
		"OCF_ROOT=" + e.OCF, "OCF_RA_VERSION_MAJOR=1", "OCF_RA_VERSION_MINOR=1", "OCF_EXIT_REASON_PREFIX=" + ocfReason,
		"HA_SBIN_DIR=" + e.Shims, "HA_RSCTMP=" + e.OCFTemp, "HA_LOGFACILITY=daemon", "HA_debug=0",
		shimRun + "=" + filepath.Join(e.Shims, "attributes"), shimKept + "=" + e.Kept,
	}
}

// runOCF runs an agent and returns its code. A daemon that it leaves behind has its
// end of the pipe closed a moment after the agent has ended, as under Pacemaker.
func runOCF(ctx context.Context, path, action string, env []string, stdout, stderr *speech) (int, error) {
	cmd := exec.CommandContext(ctx, path, action)
	cmd.Env, cmd.Dir = env, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 200 * time.Millisecond
	if stdout != nil {
		cmd.Stdout = stdout
	}
	if stderr != nil {
		cmd.Stderr = stderr
	}
	err := cmd.Start()
	if err == nil {
		demote(cmd.Process.Pid)
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return -1, unknown("%s %s did not end in time and was killed: %w", path, action, context.Cause(ctx))
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return cmd.ProcessState.ExitCode(), nil
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	case exit != nil: // ended by a signal
		return -1, unknown("%s %s: %w", path, action, err)
	default: // not even begun
		return -1, fmt.Errorf("%s %s: %w", path, action, err)
	}
}
