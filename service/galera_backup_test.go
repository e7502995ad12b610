package service

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mainstay/fleet"
)

// backupScript does what mariadb-backup does, as far as it is looked at.
const backupScript = `for a; do case $a in --target-dir=*) d=${a#*=} ;; --datadir=*) to=${a#*=} ;; --defaults-extra-file=*) cat "${a#*=}" >"$0.login" ;; esac; done
[ ! -e "$0.fails" ] || { echo disk full; exit 1; }
case "$*" in
*--backup*) mkdir -p "$d" && echo ` + historyA + `:41 >"$d/xtrabackup_galera_info" && echo saved >"$d/ibdata1" ;;
*--copy-back*) cp "$d/ibdata1" "$to" ;;
esac
echo "completed OK!" >&2
`

// aloneScript comes up with a new history, and ends when it is told to.
const aloneScript = `for a; do case $a in --datadir=*) d=${a#*=} ;; esac; done
trap 'exit 0' TERM
echo "WSREP: Synchronized with group, ready for connections" >&2
printf 'uuid:    ` + historyB + `\nseqno:   2\n' >"$d/grastate.dat"
touch "$d/galera.cache"
echo "mariadbd: ready for connections." >&2
while :; do sleep 0.05; done
`

var synced = map[string]string{"wsrep_on": "ON", "wsrep_cluster_status": "Primary", "wsrep_local_state": "4", "wsrep_ready": "ON", "wsrep_connected": "ON"}

// saving is a copy that serves, with false programs beside it.
func saving(t *testing.T, unit fakeUnit) (c *galeraCopy, data string, calls func() string, desynced *[]string) {
	t.Helper()
	calls = programs(t, map[string]string{backupProgram: backupScript, "mariadbd": aloneScript,
		recoverProgram: "echo --wsrep_start_position=" + historyB + ":2\n"})
	_, c, data = openGaleraTest(t, unit)
	c.status = func(context.Context) (map[string]string, error) { return synced, nil }
	desynced = &[]string{}
	c.desync = func(_ context.Context, on string) error { *desynced = append(*desynced, on); return nil }
	return c, data, calls, desynced
}

// TestBackup: the member lags only while it is copied, also when that fails; what cannot
// be prepared or is half done is not there.
func TestBackup(t *testing.T) {
	c, _, calls, desynced := saving(t, fakeUnit{Active: "active", Sub: "running"})
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("ge\"heim\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.server.passwordFile = password
	dir := filepath.Join(t.TempDir(), "saved")
	s, err := c.Backup(t.Context(), dir, Saved{Site: "beijing", Host: "c2"})
	if err != nil {
		t.Fatal(err)
	}
	if s.UUID != historyA || s.Seqno != 41 || s.Service != "mariadb" || s.Bytes == 0 || s.Taken.IsZero() {
		t.Errorf("%+v", s)
	}
	if got := strings.Join(*desynced, " "); got != "ON OFF" {
		t.Errorf("desynced %q", got)
	}
	said := calls()
	if strings.Contains(said, "heim") || !strings.Contains(said, "--backup") || strings.Index(said, "--prepare") < strings.Index(said, "--backup") {
		t.Errorf("called %s", said)
	}
	tool, _, _ := strings.Cut(said, " ")
	if login, err := os.ReadFile(filepath.Join(filepath.SplitList(os.Getenv("PATH"))[0], tool+".login")); err != nil || !strings.Contains(string(login), `password="ge\"heim"`) {
		t.Errorf("%v: %s", err, login)
	}
	if left, _ := filepath.Glob(dir + ".part"); left != nil {
		t.Error("the half-made folder is left")
	}
	read, err := readSaved(filepath.Join(dir, savedFile))
	if err != nil || read != s {
		t.Errorf("%+v, %v; want %+v", read, err, s)
	}
	if r := c.Replica(fleet.Running); !r.Saved.Equal(s.Taken) {
		t.Errorf("the newest backup is of %v, and it says %v", s.Taken, r.Saved)
	}
	if _, err := c.Backup(t.Context(), dir, Saved{}); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("over another backup: %v", err)
	}
	if err := os.WriteFile(filepath.Join(filepath.SplitList(os.Getenv("PATH"))[0], tool+".fails"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Backup(t.Context(), dir+"2", Saved{}); err == nil || !strings.Contains(err.Error(), "disk full") || strings.Join(*desynced, " ") != "ON OFF ON OFF" {
		t.Errorf("%v; desynced %v", err, *desynced)
	}
	if left, _ := filepath.Glob(dir + "2*"); left != nil {
		t.Errorf("of a backup that failed are left %v", left)
	}
	*desynced = nil
	c.desync = func(_ context.Context, on string) error {
		*desynced = append(*desynced, on)
		return errors.New("no answer")
	}
	if _, err := c.Backup(t.Context(), dir+"4", Saved{}); err == nil || !strings.Contains(err.Error(), "wsrep_desync=OFF") || strings.Join(*desynced, " ") != "ON OFF" {
		t.Errorf("without an answer: %v; desynced %v", err, *desynced)
	}
	c.status = func(context.Context) (map[string]string, error) {
		return map[string]string{"wsrep_on": "ON", "wsrep_cluster_status": "non-Primary"}, nil
	}
	if _, err := c.Backup(t.Context(), dir+"3", Saved{}); err == nil || !strings.Contains(err.Error(), "waits for its peers") {
		t.Errorf("of one that is apart: %v", err)
	}
}

// TestRestore puts the data back as a new history; refused, or failed, it leaves those that
// were there.
func TestRestore(t *testing.T) {
	c, data, _, _ := saving(t, fakeUnit{Active: "active", Sub: "running"})
	about := Saved{Site: "beijing", Host: "c2"}
	dir := filepath.Join(t.TempDir(), "saved")
	if _, err := c.Backup(t.Context(), dir, about); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Restore(t.Context(), dir, about); err == nil || !strings.Contains(err.Error(), "mainstay stop mariadb") {
		t.Fatalf("while it runs: %v", err)
	}
	if err := c.Renounce(t.Context()); err == nil || !strings.Contains(err.Error(), "is running") {
		t.Errorf("renounced while it runs: %v", err)
	}
	if err := c.unitCopy.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	has := func(dir, name string) string {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(raw))
	}
	put("ibdata1", "present")
	put("grastate.dat", "uuid:    "+historyA+"\nseqno:   -1\n")
	if _, _, err := c.Restore(t.Context(), dir, Saved{Site: "elsewhere"}); err == nil || !strings.Contains(err.Error(), "of site beijing") {
		t.Errorf("of another site: %v", err)
	}
	tools := filepath.SplitList(os.Getenv("PATH"))[0]
	for name, text := range map[string]string{
		backupProgram:  "#!/bin/sh\necho no room; exit 1\n",
		"mariadbd":     "#!/bin/sh\necho corrupt page >&2; exit 1\n",
		recoverProgram: "#!/bin/sh\necho --wsrep_start_position=" + historyA + ":41\n",
	} {
		good, err := os.ReadFile(filepath.Join(tools, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := writeProgram(filepath.Join(tools, name), text); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Restore(t.Context(), dir, about); err == nil || has(data, "ibdata1") != "present" {
			t.Errorf("with a bad %s: %v; ibdata1: %s", name, err, has(data, "ibdata1"))
		}
		if left, _ := filepath.Glob(data + ".before-*"); left != nil {
			t.Errorf("with a bad %s are left %v", name, left)
		}
		if err := writeProgram(filepath.Join(tools, name), string(good)); err != nil {
			t.Fatal(err)
		}
	}
	s, aside, err := c.Restore(t.Context(), dir, about)
	if err != nil || s.Seqno != 41 || has(data, "ibdata1") != "saved" || has(aside, "ibdata1") != "present" {
		t.Fatalf("%v: %+v, %s", err, s, has(data, "ibdata1"))
	}
	if r := c.read(); r.UUID != historyB || has(data, "galera.cache") != "" {
		t.Errorf("%+v", r)
	}
}

// TestRenounce: without a state file the member has no data, whatever lies beside it; and
// what its storage engine said before counts no more.
func TestRenounce(t *testing.T) {
	programs(t, map[string]string{recoverProgram: "echo --wsrep_start_position=" + historyA + ":1042\n"})
	_, c, data := openGaleraTest(t, fakeUnit{})
	for name, text := range map[string]string{"grastate.dat": "uuid:    " + historyA + "\nseqno:   -1\n", "gvwstate.dat": viewFile, "galera.cache": "x", "ibdata1": "x"} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Position(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := state(t, c, "stopped").Replica; !r.Known || r.Seqno != 1042 {
		t.Fatalf("%+v", r)
	}
	if err := c.Renounce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := state(t, c, "stopped").Replica; !r.Empty || r.Known || r.UUID != "" {
		t.Errorf("%+v", r)
	}
	if err := c.Bootstrap(t.Context()); err == nil {
		t.Error("a cluster is begun from what a person gave up")
	}
}
