package plan

import (
	"strings"
	"testing"

	"mainstay/fleet"
)

// A host that is back but not yet admitted starts what is active/active all the
// same. In the lab, after a loss of power of all three, it was not so: the
// admission waited for a service that waited for the database, and the database,
// as Galera does, waited for the member on the host that was not admitted.
func TestActiveNeedsNoAdmission(t *testing.T) {
	w := small()
	w.Spec.Services = append(w.Spec.Services, fleet.Service{Name: "db", Mode: fleet.ActiveActive, Roles: []string{"controller"}, Restarts: fleet.Restarts{Count: 3}})
	reboot(w, "c2", "later")
	r := w.Reports["c2"]
	r.Services["db"] = fleet.ServiceState{Phase: fleet.Stopped}
	w.Reports["c2"] = r
	// What c2 held has been given to c3 and does not work there yet.
	w.State.Holdings["service/s"] = fleet.Holding{
		Thing: "service/s", Host: "c3", Boot: "b", Stint: 1, Generation: 5, From: fleet.Stint{Host: "c2", Boot: "b", N: 1}, Why: "proved off",
	}
	_, p := Turn(w)
	started := false
	for _, o := range p.Orders {
		started = started || o.Verb == fleet.VerbStart && o.To == "c2" && o.Thing == "service/db"
	}
	if !started {
		t.Errorf("c2 starts no db: %v", brief(p))
	}
	for _, x := range p.Records {
		if strings.HasPrefix(x.Key, "member/c2") {
			t.Errorf("c2 was admitted before what was taken from it has arrived: %s", x.Text)
		}
	}
}
