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
			[]string{"waits for its peers: 1 of 3 members", "position 5d0e:1234", "pc.bootstrap=YES", "SHOW STATUS"}},
		{"not primary though synced", map[string]string{"wsrep_cluster_status": "non-Primary"}, false, false, []string{"waits for its peers"}},
		{"disconnected", map[string]string{"wsrep_cluster_status": "Disconnected", "wsrep_cluster_size": "0"}, false, false, []string{"0 of 3 members", "systemctl restart mariadb.service"}},
		{"joining", map[string]string{"wsrep_local_state": "1"}, false, false, []string{"takes over the state", "journalctl -fu mariadb.service"}},
		{"donor", map[string]string{"wsrep_local_state": "2"}, false, false, []string{"Donor/Desynced"}},
		{"donor, allowed", map[string]string{"wsrep_local_state": "2"}, true, true, nil},
		{"donor, allowed, but refuses queries", map[string]string{"wsrep_local_state": "2", "wsrep_ready": "OFF"}, true, false, []string{"refuses queries"}},
		{"joined, donor allowed", map[string]string{"wsrep_local_state": "3"}, true, false, []string{"catches up: 17 writes"}},
		{"synced, but refuses queries", map[string]string{"wsrep_ready": "OFF"}, false, false, []string{"refuses queries: wsrep_ready OFF"}},
		{"state not told", map[string]string{"wsrep_local_state": ""}, false, false, []string{"is in state"}},
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

func openGaleraTest(t *testing.T, unit fakeUnit) (*fakeSystemd, *galeraCopy, string) {
	t.Helper()
	f := newFakeSystemd(t)
	f.add("mariadb.service", unit)
	data := t.TempDir()
	c, err := Open(fleet.Service{Name: "mariadb", Kind: "galera", Mode: fleet.ActiveActive, Units: []string{"mariadb.service"},
		Params: map[string]string{"data": data, "address": filepath.Join(data, "none.sock")}}, Env{Systemd: newSystemd(t, f)})
	if err != nil {
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
		{"stopped cleanly", head + "uuid:    5d0e-11\nseqno:   42\nsafe_to_bootstrap: 1\n", fakeUnit{}, fleet.Stopped,
			[]string{"position on disk 5d0e-11:42", "the highest position: galera_new_cluster"}},
		{"crashed", head + "uuid:    5d0e-11\nseqno:   -1\nsafe_to_bootstrap: 0\n", fakeUnit{Active: "failed", Sub: "failed", Result: "exit-code"}, fleet.Failed,
			[]string{"exit-code", "5d0e-11:unknown", "galera_recovery", "galera_new_cluster"}},
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
		if strings.HasPrefix(tc.want[0], "no data") && strings.Contains(st.Why, "galera_new_cluster") {
			t.Errorf("%s: a member without data is offered for bootstrap: %s", tc.name, st.Why)
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
		Params: map[string]string{"address": socket, "query_timeout": "200ms"}}, Env{Systemd: newSystemd(t, f)})
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
		Params: map[string]string{"address": "127.0.0.1:1", "user": "monitor", "password_file": file}}, Env{Systemd: newSystemd(t, f)})
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
