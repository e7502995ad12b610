package service

import (
	"context"
	"slices"
	"testing"
)

// TestGaleraDonor: the donor is named for the start that it was meant for, and for no
// other; what a person has told all servers stays.
func TestGaleraDonor(t *testing.T) {
	t.Parallel()
	const start = "MYSQLD_OPTS=--wsrep-sst-donor="
	join := func(c *galeraCopy, ctx context.Context, donor string) error { return c.Join(ctx, donor) }
	rejoin := func(c *galeraCopy, ctx context.Context, donor string) error { return c.Rejoin(ctx, donor) }
	f, c, _ := openGaleraTest(t, fakeUnit{})
	for _, tc := range []struct {
		name, donor string
		start       func(*galeraCopy, context.Context, string) error
		before      []string
		given       string
		after       []string
	}{
		{"a join", "c2", join, nil, start + "c2,", nil},
		{"a restart", "c2", rejoin, nil, start + "c2,", nil},
		{"anybody", "", join, nil, "", nil},
		{"a name that would be two words", "c2 --skip-grant-tables", join, nil, "", nil},
		{"a person's own options", "c2", join, []string{"MYSQLD_OPTS=--debug --x=y"}, start + "c2, --debug --x=y", []string{"MYSQLD_OPTS=--debug --x=y"}},
		{"left over by an agent that was killed", "", join, []string{start + "c9,"}, "", nil},
		{"left over, and a person's", "c2", rejoin, []string{start + "c9, --debug"}, start + "c2, --debug", []string{"MYSQLD_OPTS=--debug"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.add("mariadb.service", fakeUnit{})
			f.mu.Lock()
			f.environment, f.given = slices.Clone(tc.before), nil
			f.mu.Unlock()
			if err := tc.start(c, t.Context(), tc.donor); err != nil {
				t.Fatal(err)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.given) != 1 || f.given[0] != tc.given {
				t.Errorf("started with %q, want %q", f.given, tc.given)
			}
			if !slices.Equal(f.environment, tc.after) {
				t.Errorf("afterwards %q, want %q", f.environment, tc.after)
			}
		})
	}
}
