package service

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mainstay/fleet"
)

func TestGaleraReady(t *testing.T) {
	synced := map[string]string{
		"wsrep_on": "ON", "wsrep_cluster_address": "gcomm://10.0.0.11,10.0.0.12,10.0.0.13?pc.wait_prim=yes",
		"wsrep_ready": "ON", "wsrep_connected": "ON", "wsrep_cluster_status": "Primary", "wsrep_cluster_size": "3",
		"wsrep_cluster_state_uuid": "5d0e", "wsrep_last_committed": "1234", "wsrep_local_state": "4", "wsrep_local_state_comment": "Synced",
		"wsrep_local_recv_queue": "17",
	}
	for _, tc := range []struct {
		name  string
		but   map[string]string
		donor bool
		ready bool
		why   []string
	}{
		{"synced", nil, false, true, nil},
		{"two of three, synced", map[string]string{"wsrep_cluster_size": "2"}, false, true, nil},
		{"alone, not primary", map[string]string{"wsrep_cluster_status": "non-Primary", "wsrep_cluster_size": "1", "wsrep_ready": "OFF", "wsrep_local_state": "0"}, false, false,
			[]string{"waits for its peers: 1 of 3 members", "position 5d0e:1234", "mainstay status", "SHOW STATUS"}},
		{"not primary though synced", map[string]string{"wsrep_cluster_status": "non-Primary"}, false, false, []string{"waits for its peers"}},
		{"disconnected", map[string]string{"wsrep_cluster_status": "Disconnected", "wsrep_cluster_size": "0"}, false, false, []string{"0 of 3 members", "systemctl restart mariadb.service"}},
		{"joining", map[string]string{"wsrep_local_state": "1"}, false, false, []string{"takes over the state", "journalctl -fu mariadb.service"}},
		{"donor", map[string]string{"wsrep_local_state": "2"}, false, false, []string{"Donor/Desynced"}},
		{"donor, allowed", map[string]string{"wsrep_local_state": "2"}, true, true, nil},
		{"donor, allowed, but refuses queries", map[string]string{"wsrep_local_state": "2", "wsrep_ready": "OFF"}, true, false, []string{"refuses queries"}},
		{"joined, donor allowed", map[string]string{"wsrep_local_state": "3"}, true, false, []string{"catches up: 17 writes"}},
		{"synced, but refuses queries", map[string]string{"wsrep_ready": "OFF"}, false, false, []string{"refuses queries: wsrep_ready OFF"}},
		{"state not told", map[string]string{"wsrep_local_state": ""}, false, false, []string{"is in state"}},
		{"lags behind", map[string]string{"wsrep_local_recv_queue": "501"}, false, false, []string{"lags: 501 writes"}},
		{"a donor that lags behind", map[string]string{"wsrep_local_state": "2", "wsrep_local_recv_queue": "5000"}, true, false, []string{"lags: 5000 writes"}},
		{"made to refuse", map[string]string{"wsrep_reject_queries": "ALL"}, false, false, []string{"wsrep_reject_queries=NONE"}},
		{"made read only", map[string]string{"read_only": "ON"}, false, false, []string{"read_only=OFF"}},
		{"no Galera", map[string]string{"wsrep_on": "OFF", "wsrep_cluster_status": "Disconnected"}, false, false, []string{"not a member"}},
		{"new cluster by mistake of the site", map[string]string{"wsrep_cluster_address": "gcomm://", "wsrep_cluster_status": "non-Primary"}, false, false, []string{"of unknown members"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := maps.Clone(synced)
			maps.Copy(v, tc.but)
			ready, why := galeraReady(v, "mariadb.service", tc.donor)
			if ready != tc.ready || ready != (why == "") {
				t.Errorf("ready = %v, %q; want %v", ready, why, tc.ready)
			}
			for _, w := range tc.why {
				if !strings.Contains(why, w) {
					t.Errorf("why does not say %q: %s", w, why)
				}
			}
		})
	}
	if ready, _ := galeraReady(nil, "mariadb.service", true); ready {
		t.Error("ready without an answer")
	}
}

func galeraEnv(t *testing.T, f *fakeSystemd) Env {
	return Env{Systemd: newSystemd(t, f), Units: f.Units, Held: filepath.Join(t.TempDir(), "held"), Saved: filepath.Join(t.TempDir(), "saved")}
}

func openGaleraTest(t *testing.T, unit fakeUnit) (*fakeSystemd, *galeraCopy, string) {
	t.Helper()
	f := newFakeSystemd(t)
	f.add("mariadb.service", unit)
	data := t.TempDir()
	c, err := Open(fleet.Service{Name: "mariadb", Kind: "galera", Mode: fleet.ActiveActive, Units: []string{"mariadb.service"},
		Params: map[string]string{"data": data, "address": filepath.Join(data, "none.sock")}}, galeraEnv(t, f))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return f, c.(*galeraCopy), data
}

// TestGaleraSaysWhatItWaitsFor, with its position and the command for a person.
func TestGaleraSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	const head = "# GALERA saved state\nversion: 2.1\n"
	for _, tc := range []struct {
		name, grastate string
		unit           fakeUnit
		phase          string
		want           []string
	}{
		{"stopped", head + "uuid:    5d0e-11\nseqno:   42\nsafe_to_bootstrap: 1\n", fakeUnit{}, fleet.Stopped,
			[]string{"position on disk 5d0e-11:unknown"}}, // the file may be older than the data: only InnoDB knows
		{"crashed", head + "uuid:    5d0e-11\nseqno:   -1\nsafe_to_bootstrap: 0\n", fakeUnit{Active: "failed", Sub: "failed", Result: "exit-code"}, fleet.Failed,
			[]string{"exit-code", "5d0e-11:unknown"}},
		{"recovers", head + "uuid:    5d0e-11\nseqno:   -1\nsafe_to_bootstrap: 0\n", fakeUnit{Active: "activating", Sub: "start", Status: "Waiting for cluster"}, fleet.Starting,
			[]string{"recovers or waits for its peers", "Waiting for cluster", "5d0e-11:unknown", "journalctl -fu mariadb.service"}},
		// safe_to_bootstrap is 1 in a state file that nobody has ever used (G2):
		// such a member must never be named as one to begin with.
		{"empty", head + "uuid:    00000000-0000-0000-0000-000000000000\nseqno:   -1\nsafe_to_bootstrap: 1\n", fakeUnit{}, fleet.Stopped,
			[]string{"no data of a cluster on disk: it must join others"}},
		{"no file", "", fakeUnit{}, fleet.Stopped, []string{"it must join others"}},
	} {
		_, c, data := openGaleraTest(t, tc.unit)
		if tc.grastate != "" {
			if err := os.WriteFile(filepath.Join(data, "grastate.dat"), []byte(tc.grastate), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		st := state(t, c, tc.phase)
		ready, why, err := c.Ready(t.Context())
		if ready || err != nil {
			t.Errorf("%s: Ready = %v, %v", tc.name, ready, err)
		}
		for _, w := range tc.want {
			if !strings.Contains(st.Why, w) || !strings.Contains(why, w) {
				t.Errorf("%s: no %q in State's or Ready's\n%s\n%s", tc.name, w, st.Why, why)
			}
		}
		if empty := strings.Contains(tc.want[0], "it must join others"); empty != st.Replica.Empty || st.Replica.Known || empty == (st.Replica.UUID != "") {
			t.Errorf("%s: %+v", tc.name, st.Replica)
		}
	}
}

// TestGaleraRestartSparesRecovery: members that recover together are not torn apart.
func TestGaleraRestartSparesRecovery(t *testing.T) {
	t.Parallel()
	f, c, _ := openGaleraTest(t, fakeUnit{Active: "activating", Sub: "condition", OnStart: "never"})
	events := c.Events(t.Context())
	f.until(t, events, func() { f.change("mariadb.service", func(*fakeUnit) {}) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Restart(ctx) }()
	hear(t, events, "activating/start")
	cancel()
	if err := <-done; !errors.Is(err, ErrUnknown) {
		t.Errorf("Restart = %v; want to have waited in vain", err)
	}
	if f.called("RestartUnit") > 0 || f.called("StopUnit") > 0 {
		t.Error("a member that recovers was restarted")
	}
}

func TestGaleraServerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	_, c, _ := openGaleraTest(t, fakeUnit{Active: "active", Sub: "running"})
	ready, why, err := c.Ready(t.Context())
	if ready || why != "" || err == nil || !strings.Contains(err.Error(), "none.sock") {
		t.Errorf("Ready = %v, %q, %v; want an error that names the socket", ready, why, err)
	}
	if errors.Is(err, ErrUnknown) {
		t.Error("a socket that is not there is an answer")
	}
	c.status = func(context.Context) (map[string]string, error) {
		return map[string]string{"wsrep_on": "ON", "wsrep_cluster_status": "Primary", "wsrep_local_state": "4", "wsrep_ready": "ON", "wsrep_connected": "ON"}, nil
	}
	if ready, why, err := c.Ready(t.Context()); ready || !strings.Contains(why, "written to disk") || err != nil {
		t.Errorf("Ready of one that has just started = %v, %q, %v", ready, why, err)
	}
	<-c.synced
	if ready, why, err := c.Ready(t.Context()); !ready || why != "" || err != nil {
		t.Errorf("Ready = %v, %q, %v", ready, why, err)
	}
}

// TestGaleraServerIsSilent: one that accepts and says nothing is unknown.
func TestGaleraServerIsSilent(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("mariadb.service", fakeUnit{Active: "active", Sub: "running"})
	socket := filepath.Join(t.TempDir(), "m.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Open(fleet.Service{Name: "mariadb", Kind: "galera", Units: []string{"mariadb.service"},
		Params: map[string]string{"address": socket, "query_timeout": "200ms"}}, galeraEnv(t, f))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if ready, _, err := c.Ready(t.Context()); ready || !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "no answer within 200ms") {
		t.Errorf("Ready = %v, %v; want ErrUnknown", ready, err)
	}
}

// TestGaleraPassword is read anew and never told.
func TestGaleraPassword(t *testing.T) {
	t.Parallel()
	f := newFakeSystemd(t)
	f.add("mariadb.service", fakeUnit{Active: "active", Sub: "running"})
	file := filepath.Join(t.TempDir(), "password")
	c, err := Open(fleet.Service{Name: "mariadb", Kind: "galera", Units: []string{"mariadb.service"},
		Params: map[string]string{"address": "127.0.0.1:1", "user": "monitor", "password_file": file}}, galeraEnv(t, f))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := c.Ready(t.Context()); err == nil || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), file) {
		t.Errorf("Ready without the password file: %v", err)
	}
	if err := os.WriteFile(file, []byte("geheim\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Ready(t.Context()); err == nil || strings.Contains(err.Error(), "geheim") || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("Ready with nobody listening: %v", err)
	}
}

// programs puts scripts in the place of MariaDB's programs, and returns what they were called with.
func programs(t *testing.T, scripts map[string]string) (calls func() string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "calls")
	for name, text := range scripts {
		if err := writeProgram(filepath.Join(dir, name), "#!/bin/sh\necho "+name+" $* >>"+log+"\n"+text); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		raw, _ := os.ReadFile(log)
		return string(raw)
	}
}

const (
	historyA = "5d0e1111-0000-11ef-8000-000000000001"
	historyB = "5d0e2222-0000-11ef-8000-000000000002"
	viewFile = "my_uuid: aaaa\n#vwbeg\nview_id: 3 aaaa 7\nbootstrap: 0\nmember: aaaa 0\nmember: bbbb 0\n#vwend\n"
)

// TestGaleraPosition is asked of InnoDB, because grastate.dat may say -1 or be as it was
// long before; what the member could go on from by itself is put aside first.
func TestGaleraPosition(t *testing.T) {
	for _, tc := range []struct {
		name, grastate, program string
		want                    fleet.Replica
		err                     string
	}{
		{"crashed", "uuid:    " + historyA + "\nseqno:   -1\nsafe_to_bootstrap: 0\n",
			"echo WSREP: Recovered position " + historyA + ":1042 >&2; echo --wsrep_start_position=" + historyA + ":1042\n",
			fleet.Replica{UUID: historyA, Seqno: 1042, Known: true}, ""},
		{"a file from before the power cut", "uuid:    " + historyA + "\nseqno:   93\nsafe_to_bootstrap: 1\n",
			"echo --wsrep_start_position=" + historyA + ":1042,0-1-7\n", fleet.Replica{UUID: historyA, Seqno: 1042, Known: true}, ""},
		{"G2 no data", "uuid:    00000000-0000-0000-0000-000000000000\nseqno:   -1\nsafe_to_bootstrap: 1\n",
			"echo --wsrep_start_position=" + historyA + ":1042\n", fleet.Replica{Empty: true}, ""},
		{"InnoDB has nothing", "uuid:    " + historyA + "\nseqno:   -1\n",
			"echo --wsrep_start_position=00000000-0000-0000-0000-000000000000:-1\n", fleet.Replica{UUID: historyA}, "it has none"},
		{"another history", "uuid:    " + historyA + "\nseqno:   -1\n",
			"echo --wsrep_start_position=" + historyB + ":3\n", fleet.Replica{UUID: historyA}, historyB},
		{"InnoDB is broken", "uuid:    " + historyA + "\nseqno:   -1\n", "echo corrupt page; exit 1\n", fleet.Replica{UUID: historyA}, "corrupt page"},
		{"Galera is not on", "uuid:    " + historyA + "\nseqno:   -1\n", "echo\n", fleet.Replica{UUID: historyA}, "galera_recovery"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			programs(t, map[string]string{recoverProgram: tc.program})
			_, c, data := openGaleraTest(t, fakeUnit{})
			for name, text := range map[string]string{"grastate.dat": tc.grastate, "gvwstate.dat": viewFile} {
				if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if before := state(t, c, fleet.Stopped).Replica; before.Known || before.View != "3 aaaa 7" || before.Seen != "aaaa,bbbb" || before.Me != "aaaa" {
				t.Errorf("before: %+v", before)
			}
			err := c.Position(t.Context())
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("Position: %v; want %q", err, tc.err)
			}
			if got := state(t, c, fleet.Stopped).Replica; got != tc.want {
				t.Errorf("Replica = %+v, want %+v", got, tc.want)
			}
		})
	}
}

// TestGaleraPositionEndsAWait: a member that waits for its peers is ended.
func TestGaleraPositionEndsAWait(t *testing.T) {
	programs(t, map[string]string{recoverProgram: "echo --wsrep_start_position=" + historyA + ":7\n"})
	f, c, data := openGaleraTest(t, fakeUnit{Active: "activating", Sub: "start"})
	if err := os.WriteFile(filepath.Join(data, "grastate.dat"), []byte("uuid:    "+historyA+"\nseqno:   -1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Position(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.called("KillUnit") == 0 || c.Replica(fleet.Stopped).Seqno != 7 {
		t.Errorf("KillUnit called %d times, %+v", f.called("KillUnit"), c.Replica(fleet.Stopped))
	}
}

// TestGaleraPositionSparesThePrimary: a late copy of the order ends no member that has
// gone on meanwhile, nor one that does not say.
func TestGaleraPositionSparesThePrimary(t *testing.T) {
	programs(t, map[string]string{recoverProgram: "echo --wsrep_start_position=" + historyA + ":7\n"})
	f, c, data := openGaleraTest(t, fakeUnit{Active: "active", Sub: "running"})
	if err := os.WriteFile(filepath.Join(data, "grastate.dat"), []byte("uuid:    "+historyA+"\nseqno:   -1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	answer, fails := map[string]string{"wsrep_cluster_status": "Primary", "wsrep_local_state": "4"}, errors.New("no answer")
	c.status = func(context.Context) (map[string]string, error) { return answer, fails }
	for range 2 {
		if err := c.Position(t.Context()); err == nil || f.called("StopUnit") > 0 {
			t.Errorf("Position = %v, StopUnit called %d times", err, f.called("StopUnit"))
		}
		fails = nil
	}
	answer["wsrep_cluster_status"] = "non-Primary"
	if err := c.Position(t.Context()); err != nil || !c.Replica(fleet.Stopped).Known {
		t.Errorf("Position of one that is apart: %v, %+v", err, c.Replica(fleet.Stopped))
	}
}

// TestGaleraBootstrap begins a cluster only where the position is known, and no start
// after it does so again.
func TestGaleraBootstrap(t *testing.T) {
	calls := programs(t, map[string]string{recoverProgram: "echo --wsrep_start_position=" + historyA + ":7\n", foundProgram: ""})
	_, c, data := openGaleraTest(t, fakeUnit{})
	path := filepath.Join(data, "grastate.dat")
	if err := os.WriteFile(path, []byte("version: 2.1\nuuid:    "+historyA+"\nseqno:   -1\nsafe_to_bootstrap: 0\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := c.Bootstrap(t.Context()); err == nil || strings.Contains(calls(), foundProgram) {
		t.Fatalf("a cluster was begun from an unknown position: %v, %s", err, calls())
	}
	if err := c.Position(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "gvwstate.dat"), []byte(viewFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Bootstrap(t.Context()); err != nil || !strings.Contains(calls(), foundProgram+" mariadb.service") {
		t.Fatalf("%v, called: %s", err, calls())
	}
	raw, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(raw), "safe_to_bootstrap: 1") || strings.Contains(string(raw), "safe_to_bootstrap: 0") || !strings.Contains(string(raw), historyA) {
		t.Errorf("grastate.dat: %v\n%s", err, raw)
	}
	if r := c.Replica(fleet.Stopped); r.View != "" {
		t.Errorf("the old view is left: %+v", r)
	}
	state(t, c, fleet.Stopped) // the fake program starts nothing
	if err := c.Join(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(calls(), foundProgram); n != 1 {
		t.Errorf("a cluster was begun %d times", n)
	}
	if r := state(t, c, fleet.Running).Replica; r.Known {
		t.Errorf("the position is still believed after a start: %+v", r)
	}
}

// TestGaleraJoinForgetsItsView, or it could go on by itself beside the cluster.
func TestGaleraJoinForgetsItsView(t *testing.T) {
	for _, join := range []bool{true, false} {
		_, c, data := openGaleraTest(t, fakeUnit{})
		if err := os.WriteFile(filepath.Join(data, "gvwstate.dat"), []byte(viewFile), 0o644); err != nil {
			t.Fatal(err)
		}
		start := c.Start
		if join {
			start = func(ctx context.Context) error { return c.Join(ctx, "") }
		}
		if err := start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(data, "gvwstate.dat")); (err == nil) == join {
			t.Errorf("join %v: gvwstate.dat is there: %v", join, err == nil)
		}
	}
}

// TestGaleraTornView: a view that a power cut tore names nobody.
func TestGaleraTornView(t *testing.T) {
	for _, text := range []string{"", viewFile[:len(viewFile)-4], "my_uuid: aaaa\n#vwbeg\n#vwend\n", "\x00\x00"} {
		if id, seen, me := view(text); id+seen+me != "" {
			t.Errorf("%q: %q %q %q", text, id, seen, me)
		}
	}
}

// TestGaleraTimers are told once after each start of the server, and a server that
// refuses them stays in service.
func TestGaleraTimers(t *testing.T) {
	t.Parallel()
	_, c, _ := openGaleraTest(t, fakeUnit{Active: "active", Sub: "running"})
	var told []string
	var fails error
	c.tune = func(_ context.Context, options string) error {
		told = append(told, options)
		return fails
	}
	answer := map[string]string{"wsrep_on": "ON", "wsrep_cluster_status": "Primary", "wsrep_local_state": "4", "wsrep_ready": "ON", "wsrep_connected": "ON"}
	var down error
	c.status = func(context.Context) (map[string]string, error) {
		if down != nil {
			return nil, down
		}
		return answer, nil
	}
	ready := func() bool {
		is, _, _ := c.Ready(t.Context())
		if !is && c.synced != nil && down == nil {
			<-c.synced
			is, _, _ = c.Ready(t.Context())
		}
		return is
	}
	if !ready() || !ready() || len(told) != 1 || !strings.Contains(told[0], "evs.suspect_timeout=PT2S; evs.keepalive_period=PT0.5S") {
		t.Fatalf("told %q", told)
	}
	if st := state(t, c, fleet.Running); st.Replica.Part != fleet.PartSynced || st.Why != "" {
		t.Errorf("%+v", st)
	}
	down = errors.New("no socket")
	if ready() || c.Replica(fleet.Running).Part != "" {
		t.Error("a server that does not answer is said to be in a component")
	}
	down, fails = nil, errors.New("access denied")
	if !ready() || len(told) != 2 {
		t.Errorf("after a restart: told %q", told)
	}
	if st := state(t, c, fleet.Running); !strings.Contains(st.Why, "access denied") {
		t.Errorf("nobody is told that the timers were refused: %+v", st)
	}
	if err := c.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	down = errors.New("no socket")
	ready()
	down = nil
	if !ready() || len(told) != 2 {
		t.Errorf("in shadow mode the server was told %q", told)
	}
}

// TestGaleraFull: a file system without room is seen before a write waits for it.
func TestGaleraFull(t *testing.T) {
	t.Parallel()
	if why := (galeraFiles{data: t.TempDir()}).full(); why != "" {
		t.Skipf("the disk of this machine is full: %s", why)
	}
	if why := (galeraFiles{data: "/proc"}).full(); !strings.Contains(why, "its disk is full") || !strings.Contains(why, "df -h /proc") {
		t.Errorf("a file system without room: %q", why)
	}
}
