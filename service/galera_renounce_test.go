package service

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mainstay/fleet"
)

// TestGiveUp: a member gives its data up once under a mark, however often it is told, and
// what it had is kept beside; a copy of the order that is late costs nothing that came since.
func TestGiveUp(t *testing.T) {
	programs(t, map[string]string{recoverProgram: "echo --wsrep_start_position=" + historyA + ":1042\n"})
	f, c, data := openGaleraTest(t, fakeUnit{})
	put := func(text string) {
		t.Helper()
		for name, text := range map[string]string{"grastate.dat": "uuid:    " + historyA + "\nseqno:   -1\n", "gvwstate.dat": viewFile, "ibdata1": text} {
			if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
	has := func(dir string) string {
		raw, _ := os.ReadFile(filepath.Join(dir, "ibdata1"))
		return string(raw)
	}
	tend := func(mark string) {
		t.Helper()
		if err := c.Tend(t.Context(), fleet.StepRenounce, mark, "key"); err != nil {
			t.Fatal(err)
		}
	}
	const first, second = "2026-11-27T03:00:00Z", "2026-11-27T04:00:00.5Z"
	put("old")
	if err := os.Chmod(data, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := c.Position(t.Context()); err != nil {
		t.Fatal(err)
	}
	tend(first)
	r := state(t, c, "stopped").Replica
	if !r.Empty || r.Known || r.View != "" || r.Renounced != first || has(r.Aside) != "old" || has(data) != "" {
		t.Fatalf("%+v; aside %q, here %q", r, has(r.Aside), has(data))
	}
	if info, err := os.Stat(data); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("the new folder: %v, %v", info, err)
	}
	put("of the others")
	tend(first)
	if r := state(t, c, "stopped").Replica; has(data) != "of the others" || r.UUID != historyA {
		t.Fatalf("a late copy of the order threw away what the member was given: %q, %+v", has(data), r)
	}
	// A crash of the host between the two renames, say, and then the order once more.
	aside := data + ".without-20261127T0400005Z"
	if err := os.Rename(data, aside); err != nil {
		t.Fatal(err)
	}
	tend(second)
	if r := state(t, c, "stopped").Replica; r.Renounced != first+","+second || r.Aside != aside || !r.Empty {
		t.Errorf("after a cut: %+v", r)
	}
	put("again")
	tend(first)
	if has(data) != "again" {
		t.Error("a copy of a much earlier order threw away what the member was given")
	}
	if err := c.Tend(t.Context(), fleet.StepReset, "", "key"); err == nil {
		t.Error("it knows the steps of others")
	}
	// What runs keeps its data, and so does what nobody may write down.
	f.add("mariadb.service", fakeUnit{Active: "active", Sub: "running"})
	if err := c.Tend(t.Context(), fleet.StepRenounce, "2026-11-27T05:00:00Z", "key"); err == nil || !strings.Contains(err.Error(), "is running") || has(data) != "again" {
		t.Errorf("while it runs: %v, %q", err, has(data))
	}
	if err := os.WriteFile(c.renounced, []byte("torn"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Tend(t.Context(), fleet.StepRenounce, first, "key"); err == nil || has(data) != "again" {
		t.Errorf("with a record that cannot be read: %v, %q", err, has(data))
	}
}
