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

	"github.com/go-sql-driver/mysql"

	"mainstay/fleet"
)

// galeraCopy is the kind "galera": a systemd unit that runs a MariaDB member.
//
// It never bootstraps. After a power cut of all members each one comes back,
// finds in gvwstate.dat who was there, waits for all of them and goes on
// (pc.recovery); a start of ours in between would only join that one, and a
// restart would spoil it, so a member that is starting is not restarted. When
// members are lost for good, a person decides; Why holds the command.
type galeraCopy struct {
	*unitCopy
	status statusQuery
	close  func() error
	data   string
	donor  bool
}

// statusQuery reads the server's wsrep_* status and variables.
type statusQuery func(context.Context) (map[string]string, error)

func openGalera(s fleet.Service, env Env) (Copy, error) {
	u, p := newUnit(s, env)
	c := &galeraCopy{unitCopy: u, data: p.text("data"), donor: p.flag("donor_ready"), close: func() error { return nil }}
	limit := p.duration("query_timeout")
	cfg := mysql.NewConfig()
	cfg.User, cfg.Net, cfg.Addr = p.text("user"), "tcp", p.text("address")
	if strings.HasPrefix(cfg.Addr, "/") {
		cfg.Net = "unix"
	}
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
	db.SetMaxOpenConns(2)
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
		case errors.As(err, &answer), errors.As(err, &password), errors.As(err, &refused) && !refused.Timeout():
			return nil, fmt.Errorf("ask %s at %s: %w", s.Name, cfg.Addr, err)
		default: // the driver calls a read that timed out an invalid connection
			return nil, unknown("ask %s at %s: no answer within %v: %w", s.Name, cfg.Addr, limit, err)
		}
	}
	return c, errors.Join(p.wrongs...)
}

// askStatus reads what readiness rests on. The server answers it even while it
// refuses all other work.
func askStatus(ctx context.Context, db *sql.DB) (map[string]string, error) {
	out := map[string]string{}
	for _, q := range []string{
		`SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_ready','wsrep_connected','wsrep_cluster_status','wsrep_cluster_size',
			'wsrep_cluster_state_uuid','wsrep_local_state','wsrep_local_state_comment','wsrep_last_committed','wsrep_local_recv_queue')`,
		`SHOW GLOBAL VARIABLES WHERE Variable_name IN ('wsrep_on','wsrep_cluster_address')`,
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
			`if the others never return, on the member with the highest position: mariadb -e "SET GLOBAL wsrep_provider_options='pc.bootstrap=YES'"`,
			orNone(v["wsrep_cluster_size"]), members(v["wsrep_cluster_address"]), v["wsrep_cluster_status"], position, look)
	}
	switch v["wsrep_local_state"] {
	case galeraSynced:
	case galeraDonor:
		if !donorReady {
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

// State adds to the unit's state where the member's data stand while it is down
// or on its way up.
func (c *galeraCopy) State(ctx context.Context) (fleet.ServiceState, error) {
	st, u, err := c.unitCopy.state(ctx, c.systemd.glance)
	if err != nil {
		return st, err
	}
	switch st.Phase {
	case fleet.Starting:
		st.Why = joined("recovers or waits for its peers", st.Why, c.position(u.ID), "look: journalctl -fu "+u.ID)
	case fleet.Failed, fleet.Stopped:
		st.Why = joined(st.Why, c.position(u.ID))
	}
	return st, nil
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

// position tells where the data on disk stand, and the command by which a
// person ends a wait for members that are lost.
func (c *galeraCopy) position(unit string) string {
	raw, err := os.ReadFile(filepath.Join(c.data, "grastate.dat"))
	if errors.Is(err, fs.ErrNotExist) {
		return "no data of a cluster on disk: it must join others"
	}
	if err != nil {
		return "position on disk not known: " + err.Error()
	}
	v := grastate(string(raw))
	if strings.Trim(v["uuid"], "0-") == "" {
		return "no data of a cluster on disk: it must join others"
	}
	if v["seqno"] == "-1" {
		return fmt.Sprintf("position on disk %s:unknown (it did not stop cleanly; while %s is stopped: galera_recovery); "+
			"if the other members never return, on the one with the highest position: galera_new_cluster", v["uuid"], unit)
	}
	return fmt.Sprintf("position on disk %s:%s; if the other members never return, on the one with the highest position: galera_new_cluster",
		v["uuid"], v["seqno"])
}

// grastate reads the lines "name: value" of Galera's state file.
func grastate(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
			out[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return out
}

// Ready asks the server itself whether it is synced in the primary component.
func (c *galeraCopy) Ready(ctx context.Context) (bool, string, error) {
	st, u, err := c.unitCopy.state(ctx, c.systemd.glance)
	if err != nil {
		return false, "", err
	}
	if down(st.Phase) {
		return false, joined(st.Phase, st.Why, c.position(u.ID)), nil
	}
	v, err := c.status(ctx)
	if err == nil {
		ready, why := galeraReady(v, u.ID, c.donor)
		return ready, why, nil
	}
	if st.Phase != fleet.Running { // no socket yet: nothing strange about that
		return false, joined("recovers or waits for its peers", st.Why, c.position(u.ID), "look: journalctl -fu "+u.ID), nil
	}
	return false, "", err
}

// Restart leaves a member that is starting alone and waits for it instead.
func (c *galeraCopy) Restart(ctx context.Context) error {
	u, err := c.find(ctx, c.systemd.look)
	if err != nil {
		return fmt.Errorf("restart %s: %w", c.name, err)
	}
	if u.Active == "activating" && !strings.HasPrefix(u.Sub, "auto-restart") {
		return c.Start(ctx)
	}
	return c.unitCopy.Restart(ctx)
}

// Close closes the connections to the server.
func (c *galeraCopy) Close() error { return c.close() }
