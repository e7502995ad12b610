package sim

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
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

// TestHoles sees that each of docs/HOLES.md has a story, or says what holds it instead.
func TestHoles(t *testing.T) {
	text, err := os.ReadFile("../docs/HOLES.md")
	if err != nil {
		t.Fatal(err)
	}
	holes, elsewhere, ok := strings.Cut(string(text), "\nElsewhere, ")
	if !ok {
		t.Fatal("docs/HOLES.md does not say what is held elsewhere")
	}
	told := map[int]bool{}
	for file := range stories(t) {
		var n int
		if _, err := fmt.Sscanf(filepath.Base(file), "h%d-", &n); err == nil {
			told[n] = true
		}
	}
	for _, n := range regexp.MustCompile(`\d+`).FindAllString(elsewhere, -1) {
		i, _ := strconv.Atoi(n)
		told[i] = true
	}
	found := regexp.MustCompile(`(?m)^ ?(\d+) `).FindAllStringSubmatch(holes, -1)
	if len(found) < 40 {
		t.Fatalf("found %d holes only", len(found))
	}
	for _, m := range found {
		if n, _ := strconv.Atoi(m[1]); !told[n] {
			t.Errorf("hole %d has no story and is held by nothing else", n)
		}
	}
}
