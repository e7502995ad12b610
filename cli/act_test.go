package cli

import (
	"context"
	"strings"
	"testing"

	"mainstay/api"
	"mainstay/fleet"
)

func (b *backend) Unwish(_ context.Context, id, _ string) error {
	b.undone = append(b.undone, id)
	return nil
}

func (b *backend) Wish(_ context.Context, w fleet.Wish) error {
	b.wishes = append(b.wishes, w)
	return nil
}

// TestMoveCancel: a wish to move is taken back by the very command that an unfinished
// move names.
func TestMoveCancel(t *testing.T) {
	b := &backend{status: api.Status{}}
	run := serve(t, b)
	code, _, errOut := run("move", "internal", "c2", "--wait", "1ms")
	if code != exitUnknown || !strings.Contains(errOut, "mainstay move internal --cancel") {
		t.Fatalf("a move that does not come true: exit %d, %s", code, errOut)
	}
	if code, out, errOut := run("move", "internal", "--cancel"); code != 0 || len(b.undone) != 1 || b.undone[0] != "move-internal" {
		t.Errorf("exit %d, taken back %v: %s%s", code, b.undone, out, errOut)
	}
	for _, args := range [][]string{{"move", "internal"}, {"move", "internal", "c2", "--cancel"}} {
		if code, _, errOut := run(args...); code != exitUsage {
			t.Errorf("%v: exit %d, want %d: %s", args, code, exitUsage, errOut)
		}
	}
}
