package cli

import (
	"strings"
	"testing"

	"mainstay/api"
	"mainstay/fleet"
)

// TestDown: data are put back only where a person has stopped the database, and every
// member is surely down.
func TestDown(t *testing.T) {
	wished := []fleet.Wish{{Verb: "stop", Thing: "service/db"}}
	copies := func(c3 string) []api.ServiceStatus {
		return []api.ServiceStatus{{Name: "db", Copies: map[string]fleet.ServiceState{"c1": {Phase: fleet.Stopped}, "c2": {Phase: fleet.Failed}, "c3": {Phase: c3}}}}
	}
	for _, c := range []struct {
		name string
		s    api.Status
		want string
	}{
		{"all are down", api.Status{Wishes: wished, Services: copies(fleet.Stopped)}, ""},
		{"one runs", api.Status{Wishes: wished, Services: copies(fleet.Running)}, "c3 is running"},
		{"one is silent", api.Status{Wishes: wished, Services: copies(fleet.Unknown)}, "c3 is unknown"},
		{"one is proved off", api.Status{Wishes: wished, Services: copies(fleet.Unknown), Hosts: []api.HostStatus{{Name: "c3", Condition: fleet.Dead}}}, ""},
		{"down by chance", api.Status{Services: copies(fleet.Stopped)}, "mainstay stop db"},
		{"another is stopped", api.Status{Wishes: []fleet.Wish{{Verb: "stop", Thing: "service/db2"}}, Services: copies(fleet.Stopped)}, "mainstay stop db"},
		{"no such", api.Status{Wishes: wished}, "no service"},
	} {
		err := down(c.s, "db")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestSpares: the member to which fewest clients write is saved.
func TestSpares(t *testing.T) {
	ready := fleet.ServiceState{Phase: fleet.Running, Ready: true}
	for _, c := range []struct {
		name    string
		writer  string
		writers map[string]string
		c3      fleet.ServiceState
		host    string
		want    string
	}{
		{"nobody writes there", "c1", nil, ready, "c2", ""},
		{"the writer", "c1", nil, ready, "c1", "run it on c2"},
		{"each has one", "c1", map[string]string{"nova": "c2", "neutron": "c3"}, ready, "c2", ""},
		{"one has two", "c1", map[string]string{"nova": "c2", "neutron": "c1"}, ready, "c2", "run it on c3"},
		{"the idle one does not serve", "c1", map[string]string{"nova": "c2"}, fleet.ServiceState{Phase: fleet.Running}, "c2", ""},
	} {
		s := api.Status{Services: []api.ServiceStatus{{Name: "db", Writer: c.writer, Writers: c.writers,
			Copies: map[string]fleet.ServiceState{"c1": ready, "c2": ready, "c3": c.c3}}}}
		err := spares(s, "db", c.host)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
