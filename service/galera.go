package service

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"mainstay/fleet"
)

// galeraCopy is the kind "galera": a systemd unit that runs a MariaDB member.
//
// It begins no cluster by itself. After a power cut of all members each one comes
// back, finds in gvwstate.dat who was there, waits for all of them and goes on
// (pc.recovery); a start of ours in between would only join that one, and a
// restart would spoil it, so a member that is starting is not restarted. Where
// that cannot come true the leader decides (plan, clustered) by what galeraFiles
// reads, and orders Position, Bootstrap and Join.
//
// Whatever its mode it carries the bar: a member that a boot starts by itself could go
// on, from its own gvwstate.dat, beside a cluster that was begun without it.
type galeraCopy struct {
	*unitCopy
	status statusQuery
	close  func() error
	galeraFiles
	donor  bool
	polite time.Duration // politely
	taken  string        // the file that says when the newest backup was taken here
	// renounced is the file that says under which marks the data were given up.
	renounced string
	// lagging is the file that says that the member was let lag; drag is guarded by
	// unitCopy.mu.
	lagging string
	drag    drag

	timers   string // provider options that the server is told; "": none
	tune     func(context.Context, string) error
	desync   func(ctx context.Context, on string) error // "ON": the group shall not wait for it
	server   serverLogin
	tuned    time.Time     // when they were last told; guarded by unitCopy.mu, as is untuned
	untuned  string        // why they could not be
	synced   chan struct{} // closed when what it began with is on disk; nil: not begun. Guarded so too
	governed bool          // it was prepared: in shadow mode it is not, and its server is told nothing

	ask  sync.Mutex        // held while the storage engine is asked, or the server started
	last map[string]string // the server's newest words; nil: it did not answer. Guarded by unitCopy.mu, as is at
	at   *fleet.Replica    // what the storage engine said; nil: not asked since the server ran
	// asked is what the files said then: a person may have put other data in their place.
	asked fleet.Replica
}

// serverLogin is how the server is reached.
type serverLogin struct {
	user, passwordFile string
	network, address   string // "unix" and the socket's path, or "tcp" and host:port
}

// statusQuery reads the server's wsrep_* status and variables.
type statusQuery func(context.Context) (map[string]string, error)

func openGalera(s fleet.Service, env Env) (Copy, error) {
	u, p := newUnit(s, env)
	c := &galeraCopy{unitCopy: u, galeraFiles: galeraFiles{data: p.text("data")}, donor: p.flag("donor_ready"), polite: politely, close: func() error { return nil }}
	c.bar = bar{name: s.Name, held: filepath.Join(env.Held, s.Name), why: "Its member of the cluster is started by Mainstay alone"}
	c.taken, c.renounced = filepath.Join(env.Saved, s.Name+".json"), filepath.Join(env.Saved, s.Name+".renounced.json")
	c.lagging = filepath.Join(filepath.Dir(env.Held), "lags", s.Name)
	if d, err := time.ParseDuration(p.text("backup_within")); err != nil || d < 0 {
		p.wrong("backup_within", "%q is no duration such as 26h; 0s: nobody is told", p.text("backup_within"))
	}
	limit := p.duration("query_timeout")
	c.timers = galeraTimers(p)
	cfg := mysql.NewConfig()
	cfg.User, cfg.Net, cfg.Addr = p.text("user"), "tcp", p.text("address")
	if strings.HasPrefix(cfg.Addr, "/") {
		cfg.Net = "unix"
	}
	c.server = serverLogin{cfg.User, p.text("password_file"), cfg.Net, cfg.Addr}
	cfg.Timeout, cfg.ReadTimeout, cfg.WriteTimeout = limit, limit, limit
	cfg.Logger = &mysql.NopLogger{} // every error is returned, too
	if file := p.text("password_file"); file != "" {
		// Read at each connection, so that a changed password needs no restart.
		p.add(cfg.Apply(mysql.BeforeConnect(func(_ context.Context, cfg *mysql.Config) error {
			raw, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("password file: %w", err)
			}
			cfg.Passwd = strings.TrimRight(string(raw), "\r\n")
			return nil
		})))
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		p.add(fmt.Errorf("params: address %q, user %q: %w", cfg.Addr, cfg.User, err))
		return c, errors.Join(p.wrongs...)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(3) // Ready, Probe, and what is told to the server
	db.SetMaxIdleConns(1)
	c.close = db.Close
	c.status = func(ctx context.Context) (map[string]string, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*limit) // the driver's own limits are for each read
		defer cancel()
		out, err := askStatus(ctx, db)
		var answer *mysql.MySQLError
		var refused *net.OpError
		var password *fs.PathError
		switch {
		case err == nil:
			return out, nil
		case errors.As(err, &answer), errors.As(err, &password), errors.As(err, &refused) && !refused.Timeout() && !errors.Is(err, syscall.EAGAIN): // its queue is full: nobody takes calls
			return nil, fmt.Errorf("ask %s at %s: %w", s.Name, cfg.Addr, err)
		default: // the driver calls a read that timed out an invalid connection
			return nil, unknown("ask %s at %s: no answer within %v: %w", s.Name, cfg.Addr, limit, err)
		}
	}
	c.tune = func(ctx context.Context, options string) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		// The variable takes no parameter in a prepared statement. What is set so is added
		// to what the server's own configuration says.
		_, err := db.ExecContext(ctx, "SET GLOBAL wsrep_provider_options = '"+options+"'")
		return err
	}
	c.desync = func(ctx context.Context, on string) error {
		// It waits until the group has heard of it and until what this member got before that
		// is applied: where it is told so because it is slow, this takes a while.
		slow := cfg.Clone()
		slow.ReadTimeout = 60 * limit
		connector, err := mysql.NewConnector(slow)
		if err != nil {
			return err
		}
		db := sql.OpenDB(connector)
		_, err = db.ExecContext(ctx, "SET GLOBAL wsrep_desync = "+on)
		return errors.Join(err, db.Close())
	}
	return c, errors.Join(p.wrongs...)
}

// galeraTimers are the provider options by which a member is taken for gone after so long
// a silence. Galera's own are 5 s with a sign of life each second: for so long every
// writer waits when a host dies without a word. (evs.inactive_check_period, 0.5 s, cannot
// be changed while the server runs, so it is as coarse as that.)
func galeraTimers(p *params) string {
	d, err := time.ParseDuration(p.text("suspect_timeout"))
	switch {
	case err != nil || d != 0 && d < time.Second || d > time.Minute:
		p.add(fmt.Errorf("params: suspect_timeout: %q is no duration from 1s to 1m; 0s leaves what the server's configuration says", p.text("suspect_timeout")))
		return ""
	case d == 0:
		return ""
	}
	iso := func(d time.Duration) string { return fmt.Sprintf("PT%gS", d.Seconds()) }
	return strings.Join([]string{
		// In this order: each must lie between others as they are at that moment.
		"evs.inactive_timeout=" + iso(max(3*d, 6*time.Second)), "evs.install_timeout=" + iso(max(3*d/2, 3*time.Second)), "evs.suspect_timeout=" + iso(d),
		"evs.keepalive_period=" + iso(d/4), "evs.join_retrans_period=" + iso(d/4),
	}, "; ")
}

// settleTimers tells the server the timers again after each of its starts, and now and
// then besides.
func (c *galeraCopy) settleTimers(ctx context.Context, anew bool) {
	c.mu.Lock()
	due := c.timers != "" && c.governed && (anew || time.Since(c.tuned) > tuneAgain)
	c.mu.Unlock()
	if !due {
		return
	}
	why := ""
	if err := c.tune(ctx, c.timers); err != nil {
		why = "its timers could not be set: " + err.Error()
	}
	c.mu.Lock()
	c.tuned, c.untuned = time.Now(), why
	c.mu.Unlock()
}

// durable says whether all that the member had when its server began to answer is on its
// disk. A whole transfer leaves files that nobody synced: a power cut up to half a minute
// later tore them, and the member could not even say where its data stood (seen in the lab).
func (c *galeraCopy) durable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.synced != nil {
		select {
		case <-c.synced:
			return true
		default:
			return false
		}
	}
	done := make(chan struct{})
	c.synced = done
	go func() {
		defer close(done)
		_ = c.sync() // what cannot be synced is seen by the server itself
	}()
	return false
}

// tuneAgain is how often the timers are told to a server that has not been restarted.
const tuneAgain = time.Minute

// askStatus reads what readiness rests on. The server answers it even while it
// refuses all other work.
func askStatus(ctx context.Context, db *sql.DB) (map[string]string, error) {
	out := map[string]string{}
	for _, q := range []string{
		`SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_ready','wsrep_connected','wsrep_cluster_status','wsrep_cluster_size',
			'wsrep_cluster_state_uuid','wsrep_local_state','wsrep_local_state_comment','wsrep_last_committed','wsrep_local_recv_queue','wsrep_flow_control_sent','wsrep_flow_control_requested','wsrep_flow_control_paused_ns')`,
		`SHOW GLOBAL VARIABLES WHERE Variable_name IN ('wsrep_on','wsrep_cluster_address','wsrep_node_name','wsrep_reject_queries','wsrep_desync','read_only')`,
	} {
		rows, err := db.QueryContext(ctx, q)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			var name, value string
			if err := rows.Scan(&name, &value); err != nil {
				return nil, errors.Join(err, rows.Close())
			}
			out[strings.ToLower(name)] = value
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// The values of wsrep_local_state.
const (
	galeraJoining = "1"
	galeraDonor   = "2" // Donor/Desynced
	galeraJoined  = "3"
	galeraSynced  = "4"
)

// galeraLags is how many changes may wait to be applied by a member that is synced. The
// group slows down for one that has a few dozen (see drag); only one that was told not to
// be waited for (wsrep_desync, FLUSH TABLES WITH READ LOCK, donor_ready) comes to have more.
const galeraLags = 500

// galeraReady judges a member by its own words; why is for the operator.
func galeraReady(v map[string]string, unit string, donorReady bool) (ready bool, why string) {
	look := `; look: mariadb -e "SHOW STATUS LIKE 'wsrep_%'"`
	if !strings.EqualFold(v["wsrep_on"], "ON") || v["wsrep_cluster_status"] == "" {
		return false, "this MariaDB is not a member of a Galera cluster (wsrep_on, wsrep_cluster_address); look: mariadb -e \"SHOW VARIABLES LIKE 'wsrep_%'\""
	}
	position := v["wsrep_cluster_state_uuid"] + ":" + v["wsrep_last_committed"]
	switch v["wsrep_cluster_status"] {
	case "Primary":
	case "Disconnected": // it has left the group, and pc.bootstrap would not bring it back
		return false, fmt.Sprintf("has lost its cluster and does not look for it any more: 0 of %s members, position %s; look: journalctl -u %s -n 50; then: systemctl restart %s",
			members(v["wsrep_cluster_address"]), position, unit, unit)
	default:
		return false, fmt.Sprintf("waits for its peers: %s of %s members, component %s, position %s%s; "+
			"what is done about it: mainstay status",
			orNone(v["wsrep_cluster_size"]), members(v["wsrep_cluster_address"]), v["wsrep_cluster_status"], position, look)
	}
	switch v["wsrep_local_state"] {
	case galeraSynced:
	case galeraDonor:
		if !donorReady {
			if strings.EqualFold(v["wsrep_desync"], "ON") {
				return false, "was told to lag, as a backup tells it while it runs (Donor/Desynced); if none does: mariadb -e \"SET GLOBAL wsrep_desync=OFF\""
			}
			return false, "gives its state to a member that joins (Donor/Desynced); ready again when that is done" + look
		}
	case galeraJoining:
		return false, "joins: takes over the state of another member; look: journalctl -fu " + unit
	case galeraJoined:
		return false, fmt.Sprintf("has joined and catches up: %s writes to apply%s", orNone(v["wsrep_local_recv_queue"]), look)
	default:
		return false, fmt.Sprintf("is in state %s (%s)%s", v["wsrep_local_state"], v["wsrep_local_state_comment"], look)
	}
	if v["wsrep_ready"] != "ON" || v["wsrep_connected"] != "ON" {
		return false, fmt.Sprintf("refuses queries: wsrep_ready %s, wsrep_connected %s%s", orNone(v["wsrep_ready"]), orNone(v["wsrep_connected"]), look)
	}
	if n, err := strconv.Atoi(v["wsrep_local_recv_queue"]); err == nil && n > galeraLags {
		return false, fmt.Sprintf("lags: %d writes to apply%s", n, look)
	}
	if x := v["wsrep_reject_queries"]; x != "" && !strings.EqualFold(x, "NONE") {
		return false, "somebody made it refuse queries; to undo it: mariadb -e \"SET GLOBAL wsrep_reject_queries=NONE\""
	}
	if v["read_only"] != "" && v["read_only"] != "OFF" && v["read_only"] != "0" {
		return false, "somebody made it read only; to undo it: mariadb -e \"SET GLOBAL read_only=OFF\""
	}
	return true, ""
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// members counts the addresses in gcomm://a,b,c?options.
func members(address string) string {
	list, _, _ := strings.Cut(strings.TrimPrefix(address, "gcomm://"), "?")
	if list == "" {
		return "unknown"
	}
	return strconv.Itoa(len(strings.Split(list, ",")))
}

// State adds to the unit's state where the member's data stand.
func (c *galeraCopy) State(ctx context.Context) (fleet.ServiceState, error) {
	st, u, err := c.unitCopy.state(ctx, c.systemd.glance)
	if err != nil {
		return st, err
	}
	st.Replica = c.replica(st.Phase)
	switch st.Phase {
	case fleet.Starting:
		st.Why = joined("recovers or waits for its peers", st.Why, stand(st.Replica), "look: journalctl -fu "+u.ID)
	case fleet.Failed, fleet.Stopped:
		st.Why = joined(st.Why, stand(st.Replica))
	case fleet.Running:
		c.mu.Lock()
		st.Why = joined(st.Why, c.untuned)
		c.mu.Unlock()
	}
	return st, nil
}

// replica is where the member's data stand, by its files, by what its storage engine
// said if nothing has run since, and by its server's newest words if it runs.
func (c *galeraCopy) replica(phase string) fleet.Replica {
	r := c.read()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !down(phase) || r.UUID != c.asked.UUID || r.Empty != c.asked.Empty {
		c.at = nil
	}
	if c.at != nil {
		r.UUID, r.Seqno, r.Known, r.Empty = c.at.UUID, c.at.Seqno, c.at.Known, c.at.Empty
	}
	if s, err := readSaved(c.taken); err == nil {
		r.Saved = s.Taken
	}
	c.tellRenounced(&r)
	if phase == fleet.Running {
		r.Part, r.Name, r.Drags = part(c.last), c.last["wsrep_node_name"], c.drag.on
	} else {
		c.last, c.synced, c.drag = nil, nil, drag{}
		if phase == fleet.Starting || down(phase) {
			_ = os.Remove(c.lagging) // what its server was told ended with it
		}
	}
	return r
}

// part is the part that a member plays by its server's words; "" if it does not say.
func part(v map[string]string) string {
	switch {
	case len(v) == 0:
		return ""
	case v["wsrep_cluster_status"] != "Primary":
		return fleet.PartApart
	}
	switch v["wsrep_local_state"] {
	case galeraSynced:
		return fleet.PartSynced
	case galeraDonor:
		return fleet.PartDonor
	case galeraJoined:
		return fleet.PartJoined
	}
	return fleet.PartJoining
}

// stand tells where the data stand.
func stand(r fleet.Replica) string {
	switch {
	case r.Empty:
		return "no data of a cluster on disk: it must join others"
	case r.UUID == "":
		return "position on disk not known"
	case !r.Known:
		return fmt.Sprintf("position on disk %s:unknown", r.UUID)
	}
	return fmt.Sprintf("position on disk %s:%d", r.UUID, r.Seqno)
}

func joined(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, "; ")
}

// Ready asks the server itself whether it is synced in the primary component.
func (c *galeraCopy) Ready(ctx context.Context) (bool, string, error) {
	st, u, err := c.unitCopy.state(ctx, c.systemd.glance)
	if err != nil {
		return false, "", err
	}
	if down(st.Phase) {
		return false, joined(st.Phase, st.Why, stand(c.replica(st.Phase))), nil
	}
	v, err := c.status(ctx)
	c.mu.Lock()
	anew := c.last == nil
	c.last = v
	c.mu.Unlock()
	if err == nil {
		c.settleTimers(ctx, anew)
		ready, why := galeraReady(v, u.ID, c.donor)
		if ready && !c.durable() {
			ready, why = false, "its data are written to disk, now that it has started"
		}
		if slow := c.slows(ctx, v); slow != "" && (ready || part(v) == fleet.PartDonor) {
			ready, why = false, slow
		}
		if full := c.full(); ready && full != "" {
			ready, why = false, full
		}
		return ready, why, nil
	}
	if st.Phase != fleet.Running { // no socket yet: nothing strange about that
		return false, joined("recovers or waits for its peers", st.Why, stand(c.replica(st.Phase)), "look: journalctl -fu "+u.ID), nil
	}
	return false, "", err
}

// Replica is where the data stand, with what the newest Ready heard of the server.
func (c *galeraCopy) Replica(phase string) fleet.Replica { return c.replica(phase) }

// Prepare sets the bar.
func (c *galeraCopy) Prepare(ctx context.Context) error {
	c.mu.Lock()
	c.governed = true
	c.mu.Unlock()
	return c.unitCopy.Prepare(ctx)
}

// Forget takes the bar away. The timers that the server was told last until its restart.
func (c *galeraCopy) Forget(ctx context.Context) error {
	c.mu.Lock()
	c.governed = false
	c.mu.Unlock()
	return c.unitCopy.Forget(ctx)
}

// Start lets the member go on with those that it last saw, or join others.
func (c *galeraCopy) Start(ctx context.Context) error {
	c.ask.Lock()
	defer c.ask.Unlock()
	if err := c.unfound(ctx); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	return c.unitCopy.Start(ctx)
}

// Join starts the member so that it can only join others.
func (c *galeraCopy) Join(ctx context.Context, donor string) error {
	c.ask.Lock()
	defer c.ask.Unlock()
	st, _, err := c.unitCopy.state(ctx, c.systemd.look)
	if err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	if down(st.Phase) {
		if err := errors.Join(c.unfound(ctx), c.forgetView()); err != nil {
			return fmt.Errorf("start %s: %w", c.name, err)
		}
	}
	defer c.takeFrom(ctx, donor)()
	return c.unitCopy.Start(ctx)
}

// Bootstrap starts the member as the first one of its cluster. To be called once under
// a right, after Position.
func (c *galeraCopy) Bootstrap(ctx context.Context) error {
	c.ask.Lock()
	defer c.ask.Unlock()
	st, u, err := c.unitCopy.state(ctx, c.systemd.look)
	if err != nil {
		return fmt.Errorf("bootstrap %s: %w", c.name, err)
	}
	c.replica(st.Phase) // forgets what was said of other data
	c.mu.Lock()
	at := c.at
	c.restarts.add(1) // one that fails is not tried without end
	c.mu.Unlock()
	if !down(st.Phase) || at == nil || !at.Known {
		return fmt.Errorf("bootstrap %s: it is %s, and must be down with its position known", c.name, st.Phase)
	}
	if err := errors.Join(c.forgetView(), c.vouch()); err != nil {
		return fmt.Errorf("bootstrap %s: %w", c.name, err)
	}
	if err := c.Prepare(ctx); err != nil {
		return fmt.Errorf("bootstrap %s: %w", c.name, err)
	}
	if err := c.bar.lift(); err != nil {
		return err
	}
	// The distribution's own program knows how its unit is told to begin a cluster.
	// It must not be killed half-way, or the next start would begin another one.
	code, last, err := run(context.WithoutCancel(ctx), c.startTime, []string{foundProgram, u.ID}, false)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s ended with %d: %s; look: journalctl -u %s -n 50", foundProgram, code, last, u.ID)
	}
	if err != nil {
		return fmt.Errorf("bootstrap %s: %w", c.name, errors.Join(err, c.unfound(ctx)))
	}
	return nil
}

// Position ends the member, puts aside what it could go on from by itself, and asks its
// storage engine where its data stand. To be called on one that is in no primary
// component.
func (c *galeraCopy) Position(ctx context.Context) error {
	st, u, err := c.unitCopy.state(ctx, c.systemd.look)
	if err != nil {
		return fmt.Errorf("position of %s: %w", c.name, err)
	}
	switch st.Phase {
	case fleet.Running:
		// The order may be a late copy: the members may have gone on meanwhile.
		v, err := c.status(ctx)
		if err != nil {
			return fmt.Errorf("position of %s: it runs and may be in the primary component: %w", c.name, err)
		}
		if p := part(v); p != fleet.PartApart {
			return fmt.Errorf("position of %s: it is in the primary component (%s)", c.name, p)
		}
	case fleet.Starting:
		// One that waits for its peers hears no polite signal before its own time is
		// over, and has taken no write that could be lost.
		if err := c.shoot(ctx, u.ID); err != nil {
			return fmt.Errorf("position of %s: %w", c.name, err)
		}
	}
	if err := c.end(ctx, u.ID); err != nil {
		return fmt.Errorf("position of %s: %w", c.name, err)
	}
	c.ask.Lock()
	defer c.ask.Unlock()
	// Its start may have waited for the lock.
	if st, _, err := c.unitCopy.state(ctx, c.systemd.look); err != nil || !down(st.Phase) {
		return errors.Join(fmt.Errorf("position of %s: it is %s", c.name, st.Phase), err)
	}
	if err := c.forgetView(); err != nil {
		return fmt.Errorf("position of %s: %w", c.name, err)
	}
	at, err := c.recover(ctx, c.startTime)
	files := c.read()
	c.mu.Lock()
	c.at, c.asked = &at, files
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("position of %s: %w", c.name, err)
	}
	return nil
}

// Restart leaves a member that is starting alone and waits for it instead.
func (c *galeraCopy) Restart(ctx context.Context) error { return c.Rejoin(ctx, "") }

// Rejoin is Restart with a donor.
func (c *galeraCopy) Rejoin(ctx context.Context, donor string) error {
	u, err := c.find(ctx, c.systemd.look)
	if err != nil {
		return fmt.Errorf("restart %s: %w", c.name, err)
	}
	if u.Active == "activating" && !strings.HasPrefix(u.Sub, "auto-restart") {
		return c.Start(ctx)
	}
	c.ask.Lock()
	defer c.ask.Unlock()
	if err := c.unfound(ctx); err != nil {
		return fmt.Errorf("restart %s: %w", c.name, err)
	}
	defer c.takeFrom(ctx, donor)()
	return c.unitCopy.Restart(ctx)
}

// Close closes the connections to the server.
func (c *galeraCopy) Close() error { return c.close() }
