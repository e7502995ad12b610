package fleet

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFollows: what a look has no answer to stays as it was, with its own time.
func TestFollows(t *testing.T) {
	before := Cloud{At: 1, Computes: map[string]Compute{"n1": {ID: "a"}}, Looked: map[string]Moment{"n1": 1, "n2": 1},
		Servers: map[string]Server{"s1": {ID: "s1", Host: "n1"}, "s2": {ID: "s2", Host: "n2"}, "s3": {ID: "s3", Host: "n3"}}}
	now := Cloud{At: 2, Computes: map[string]Compute{"n1": {ID: "a", Forced: true}}, Looked: map[string]Moment{"n1": 2}, Servers: map[string]Server{"s4": {ID: "s4", Host: "n1"}}}
	for _, c := range []struct {
		name string
		now  Cloud
		want Cloud
	}{
		{"all was answered", now, now},
		{"nothing was", Cloud{Away: "away"}, Cloud{At: 1, Away: "away", Computes: before.Computes, Looked: before.Looked, Servers: before.Servers}},
		{"one host was, and s1 is not on it any more", Cloud{At: 2, Away: "n2", Computes: now.Computes, Looked: now.Looked, Servers: now.Servers},
			Cloud{At: 2, Away: "n2", Computes: now.Computes, Looked: map[string]Moment{"n1": 2, "n2": 1},
				Servers: map[string]Server{"s2": before.Servers["s2"], "s3": before.Servers["s3"], "s4": now.Servers["s4"]}}},
	} {
		if d := cmp.Diff(c.want, c.now.Follows(before)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
	if d := cmp.Diff(Cloud{Away: "away", Looked: map[string]Moment{}, Servers: map[string]Server{}}, Cloud{Away: "away"}.Follows(Cloud{})); d != "" {
		t.Error(d)
	}
}
