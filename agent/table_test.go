package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mainstay/fleet"
	"mainstay/lease"
)

func row(host, boot string, n uint64, acked fleet.Moment) lease.Row {
	return lease.Row{Stint: fleet.Stint{Host: host, Boot: boot, N: n}, Sent: acked - 1, First: 1, Heard: acked, Acked: acked, Late: fleet.GuardLate, Promised: 7, PromisedN: n}
}

func keeps(rows []lease.Row) func() []lease.Row { return func() []lease.Row { return rows } }

func open(t *testing.T, path, boot string) (*table, []lease.Row) {
	t.Helper()
	x, rows, err := openTable(path, boot, 4)
	if err != nil {
		t.Fatal(err)
	}
	return x, rows
}

// What an ear has said outlives its process, but not its boot.
func TestTableOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ears")
	x, rows := open(t, path, "boot-a")
	if rows != nil {
		t.Fatalf("a new table is known: %v", rows)
	}
	want := []lease.Row{row("c1", "x", 3, 50), row("c2", "y", 1, 60)}
	for _, r := range append([]lease.Row{row("c1", "x", 2, 40)}, want...) {
		if err := x.put(r, keeps(want)); err != nil {
			t.Fatal(err)
		}
	}
	// The process is killed here: nothing is closed or flushed.
	if _, rows = open(t, path, "boot-a"); !cmp.Equal(rows, want) {
		t.Errorf("after a restart: %s", cmp.Diff(want, rows))
	}
	if _, rows = open(t, path, "boot-b"); rows != nil {
		t.Errorf("another boot believes the table of this one: %v", rows)
	}
}

// A kill in the middle of a write leaves the row as it was before; a row of which
// nothing is whole makes the table worthless, because a promise may stand there.
func TestTableTornRow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ears")
	x, _ := open(t, path, "boot")
	old, newer := row("c1", "x", 1, 10), row("c1", "x", 1, 20)
	for _, r := range []lease.Row{old, newer} {
		if err := x.put(r, keeps(nil)); err != nil {
			t.Fatal(err)
		}
	}
	tear := func(which int) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("torn"), int64(headerLen+which*placeLen+20)); err != nil {
			t.Fatal(err)
		}
	}
	tear(1)
	if _, rows := open(t, path, "boot"); len(rows) != 1 || rows[0] != old {
		t.Errorf("after a torn write: %v, want the row before it", rows)
	}
	tear(0)
	if _, rows := open(t, path, "boot"); rows != nil {
		t.Errorf("nothing of the row is whole, and yet: %v", rows)
	}
}

// The place of a boot that the ear keeps no more is used again; one that it keeps
// never is.
func TestTableFull(t *testing.T) {
	x, _ := open(t, filepath.Join(t.TempDir(), "ears"), "boot")
	var kept []lease.Row
	for i, boot := range []string{"a", "b", "c", "d"} {
		kept = append(kept, row("c1", boot, 1, fleet.Moment(i+1)))
		if err := x.put(kept[i], keeps(kept)); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.put(row("c1", "e", 1, 9), keeps(kept)); err == nil {
		t.Error("a row that is still kept gave its place away")
	}
	if err := x.put(row("c1", "e", 1, 9), keeps(kept[1:])); err != nil {
		t.Errorf("a forgotten boot kept its place: %v", err)
	}
}
