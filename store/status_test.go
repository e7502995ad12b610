package store

import (
	"context"
	"testing"
	"time"

	"mainstay/fleet"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestAlarmIsItsOwners: a member says what it has raised itself, not what others have,
// and says so while nothing can be written.
func TestAlarmIsItsOwners(t *testing.T) {
	h := newHouse(t, room(), "c1", "c2", "c3")
	h.up()
	lead, epoch := h.raise()
	full := h.other(lead.cfg.Name)
	e := full.m.etcd.Load().Server
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := e.Alarm(ctx, &etcdserverpb.AlarmRequest{
		Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: uint64(e.MemberID()), Alarm: etcdserverpb.AlarmType_NOSPACE,
	})
	check(t, err)
	for lead.client.Commit(ctx, epoch, []fleet.Record{holding("address/a", "c1", 1)}, nil) == nil {
		check(t, sleep(ctx, 10*time.Millisecond)) // until the leader has applied it too
	}
	for name, f := range h.rooms {
		st, err := f.client.Status(ctx)
		check(t, err)
		if owns := len(st.Alarms) == 1 && st.Alarms[0] == "NOSPACE"; owns != (name == full.cfg.Name) {
			t.Errorf("%s has raised %v; %s has", name, st.Alarms, full.cfg.Name)
		}
	}
}
