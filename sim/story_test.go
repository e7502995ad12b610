package sim

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the logs that result into scenarios/; then read the diff")

// stories reads every file of scenarios/.
func stories(t *testing.T) map[string]Story {
	t.Helper()
	files, err := filepath.Glob("../scenarios/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	out := map[string]Story{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		st, err := Parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		out[f] = st
	}
	return out
}

// TestStory plays each story twice, and compares its log with the other run's
// and with the one in the file.
func TestStory(t *testing.T) {
	for file, st := range stories(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			r := Play(st)
			log := st.Shown(r.Log)
			if diff := cmp.Diff(log, st.Shown(Play(st).Log)); diff != "" {
				t.Fatalf("the same story ended otherwise:\n%s", diff)
			}
			if r.Violation != nil {
				t.Errorf("%s: %s\n%s", r.Violation.Audit, r.Violation.Text, strings.Join(log, "\n"))
				return
			}
			if *update {
				st.Golden = log
				if err := os.WriteFile(file, []byte(st.Write()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(st.Golden, log); diff != "" {
				t.Errorf("the log is another one (-file +run); go test ./sim -run Story -update writes it anew:\n%s", diff)
			}
		})
	}
}
