package storage

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestWriteAndRead: what one host writes another reads, whole, whenever it looks.
func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	n1, n2 := Open(dir, "lab", "n1", "boot-1"), Open(dir, "lab", "n2", "boot-2")
	if _, _, err := n2.Read("n1"); err == nil {
		t.Error("nothing is written, and something is read")
	}
	var writer sync.WaitGroup
	const last = 150
	if err := n1.Write(1); err != nil {
		t.Fatal(err)
	}
	writer.Go(func() {
		for i := uint64(2); i <= last; i++ {
			if err := n1.Write(i * 1_000_003); err != nil {
				t.Error(err)
				return
			}
		}
	})
	before, torn := uint64(0), 0
	for before != last*1_000_003 && !t.Failed() {
		boot, count, err := n2.Read("n1")
		switch {
		case err != nil:
			torn++
		case boot != "boot-1" || count < before || count > 1 && count%1_000_003 != 0:
			t.Fatalf("read %s, %d after %d", boot, count, before)
		default:
			before = count
		}
	}
	writer.Wait()
	t.Logf("%d looks met a write", torn)
	if st, err := os.Stat(filepath.Join(dir, "mainstay-lab", "n1")); err != nil || st.Size() != length {
		t.Errorf("%v, %v", st, err)
	}
	// Another process of this boot, and the next boot, go on with the same file.
	if err := Open(dir, "lab", "n1", "boot-3").Write(7); err != nil {
		t.Fatal(err)
	}
	if boot, count, err := n2.Read("n1"); boot != "boot-3" || count != 7 || err != nil {
		t.Errorf("%s, %d, %v", boot, count, err)
	}
	if _, _, err := Open(dir, "other", "n2", "boot-2").Read("n1"); err == nil {
		t.Error("another site's host of the same name is taken for this one's")
	}
}

// TestWhatIsNoHeartbeat: each is an error, and none is a count.
func TestWhatIsNoHeartbeat(t *testing.T) {
	dir := t.TempDir()
	d := Open(dir, "lab", "n1", "b")
	if err := d.Write(5); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(d.Path(), "n1")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "half of it": string(whole[:length/2]), "half old, half new": strings.Replace(string(whole), `"again":5`, `"again":4`, 1),
		"another's, copied": strings.Replace(string(whole), `"n1"`, `"n2"`, 1), "noise": strings.Repeat("\x00", length),
	} {
		if text == string(whole) {
			t.Fatalf("%s: is whole", name)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if boot, count, err := d.Read("n1"); err == nil {
			t.Errorf("%s: boot %s, count %d", name, boot, count)
		}
	}
}

// TestLinksLeadNowhere: the directory may be another user's, who puts a link where root will write.
func TestLinksLeadNowhere(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "shadow")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := Open(dir, "lab", "n1", "b")
	if err := os.Mkdir(d.Path(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(d.Path(), "n1")); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(1); err == nil {
		t.Error("it wrote through a link")
	}
	if text, _ := os.ReadFile(outside); string(text) != "secret" {
		t.Errorf("outside stands %q", text)
	}
}

func TestExamine(t *testing.T) {
	dir := t.TempDir()
	d := Open(dir, "lab", "n1", "b")
	said := strings.Join(d.Examine([]string{"n2", "n3"}), "; ")
	if strings.Contains(said, "cannot be written") || strings.Contains(said, "no other's") {
		t.Errorf("before anybody has written: %s", said)
	}
	if left, _ := os.ReadDir(d.Path()); len(left) > 0 {
		t.Errorf("it left %v behind", left)
	}
	if err := d.Write(1); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(d.Examine([]string{"n2", "n3"}), "; "); !strings.Contains(said, "and no other's") {
		t.Errorf("the others write elsewhere: %q", said)
	}
	if err := Open(dir, "lab", "n2", "b").Write(1); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(d.Examine([]string{"n2", "n3"}), "; "); strings.Contains(said, "no other's") {
		t.Errorf("one other writes there: %q", said)
	}
	if said := Open(dir+"/none", "lab", "n1", "b").Examine(nil); len(said) != 1 || !strings.Contains(said[0], "is not there") {
		t.Errorf("no directory: %q", said)
	}
	if err := Open(dir+"/none", "lab", "n1", "b").Write(1); err == nil {
		t.Error("a directory was made where nothing is mounted")
	}
}
