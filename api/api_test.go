package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"mainstay/fleet"
	"mainstay/trust"
)

func TestWhyWalksBack(t *testing.T) {
	events := []fleet.Event{
		{ID: "1.1", About: "host/c1", Text: "c2 promised"},
		{ID: "1.2", About: "host/c1", Text: "c1 is lapsed", Because: []string{"1.1"}},
		{ID: "1.3", About: "address/internal", Text: "goes to c2", Because: []string{"1.2"}},
		{ID: "1.4", About: "address/internal", Text: "claimed", Because: []string{"1.3", "gone"}},
		{ID: "1.5", About: "address/public", Text: "something else"},
	}
	for _, subject := range []string{"internal", "address/internal", "1.4"} {
		var got []string
		for _, l := range Why(events, subject) {
			got = append(got, l.Event.ID)
		}
		if want := "1.4 1.3 1.2 1.1"; strings.Join(got, " ") != want {
			t.Errorf("why %s: %v, want %s", subject, got, want)
		}
	}
	events = append(events, fleet.Event{ID: "1.6", About: "keystone@c1", Text: "hung"}, fleet.Event{ID: "1.7", About: "keystone@c2", Text: "ready"},
		fleet.Event{ID: "1.8", About: "keystone@c1", Text: "ready", Because: []string{"1.6"}}, fleet.Event{ID: "1.9", About: "keystone-flush@c1"})
	for subject, want := range map[string]string{"keystone": "1.8 1.6 1.7", "service/keystone": "1.8 1.6 1.7", "keystone@c2": "1.7"} {
		var got []string
		for _, l := range Why(events, subject) {
			got = append(got, l.Event.ID)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("why %s: %v, want %s", subject, got, want)
		}
	}
	if got := Why(events, "nothing"); len(got) != 0 {
		t.Errorf("why of something unknown: %v", got)
	}
}

// backend answers just enough to see who is let in.
type backend struct{ Backend }

func (backend) Status(context.Context, bool) (Status, error) { return Status{Site: "x"}, nil }
func (backend) Wish(context.Context, fleet.Wish) error       { return nil }
func (backend) Report(context.Context, fleet.Report, string) {}
func (backend) Neighbour(string, netip.Addr)                 {}
func (backend) Part(context.Context, PartRequest) error      { return nil }
func (backend) OfferSite(context.Context, SiteOffer) error   { return nil }
func (backend) Apply(context.Context, ApplyRequest) (ApplyAnswer, error) {
	return ApplyAnswer{}, nil
}
func (backend) Order(context.Context, fleet.Order) fleet.Effect {
	return fleet.Effect{Outcome: fleet.Done}
}
func (backend) IsVoter(host string) bool { return host == "c1" }
func (backend) MayAct(host string) bool  { return host == "c1" || host == "k1" }
func (backend) Join(context.Context, JoinRequest) (JoinAnswer, error) {
	return JoinAnswer{}, Refuse(http.StatusForbidden, "mainstay token", "no")
}

// Who may do what: nobody without a name, each host for itself, only voters give
// orders, only operators who may act change anything.
func TestWhoMay(t *testing.T) {
	read, operate := Person{Name: "rita", Role: trust.Read}, Person{Name: "otto", Role: trust.Operate}
	c1, n1, k1 := Person{Name: "c1", Host: true}, Person{Name: "n1", Host: true}, Person{Name: "k1", Host: true}
	h := Handler(backend{}, slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		who          Person
		method, path string
		body         string
		want         int
	}{
		{Person{}, "GET", "/v1/status", "", 403},
		{read, "GET", "/v1/status", "", 200},
		{n1, "GET", "/v1/status", "", 200},
		{read, "POST", "/v1/wishes", `{"verb":"disarm"}`, 403},
		{n1, "POST", "/v1/wishes", `{"verb":"disarm"}`, 403},
		{operate, "POST", "/v1/wishes", `{"verb":"disarm"}`, 200},
		{operate, "POST", "/v1/wishes", `{`, 400},
		{k1, "POST", "/v1/wishes", `{"verb":"disarm"}`, 200}, // a controller that does not vote passes its operator's wish on
		{k1, "POST", "/v1/host/order", `{"verb":"start"}`, 403},
		{n1, "DELETE", "/v1/wishes/disarm", "", 403},
		{n1, "POST", "/v1/voters", `{}`, 403},
		{n1, "POST", "/v1/tokens", `{}`, 403},
		{n1, "POST", "/v1/operators", `{}`, 403},
		{read, "POST", "/v1/operators", `{}`, 403},
		{n1, "GET", "/v1/backup", "", 403},
		{n1, "POST", "/v1/host/report", `{"host":"n1"}`, 204},
		{n1, "POST", "/v1/host/report", `{"host":"c1"}`, 403},
		{operate, "POST", "/v1/host/report", `{"host":"otto"}`, 403},
		{c1, "POST", "/v1/host/site", `{}`, 200},
		{n1, "POST", "/v1/host/site", `{}`, 403},
		{operate, "POST", "/v1/host/site", `{}`, 403},
		{operate, "POST", "/v1/site", `{}`, 200},
		{c1, "POST", "/v1/site", `{}`, 200},
		{n1, "POST", "/v1/site", `{}`, 403},
		{read, "POST", "/v1/site", `{}`, 403},
		{c1, "POST", "/v1/host/order", `{"verb":"start"}`, 200},
		{n1, "POST", "/v1/host/order", `{"verb":"start"}`, 403},
		{operate, "POST", "/v1/host/order", `{"verb":"start"}`, 403},
		{Person{}, "POST", "/v1/join", `{}`, 403},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		if c.who.Name != "" {
			r = r.WithContext(context.WithValue(r.Context(), personKey{}, c.who))
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s: %s %s: %d %s, want %d", c.who.Name, c.method, c.path, w.Code, w.Body, c.want)
		}
	}
}

// A refusal arrives at the client as it left: with its code, its words and its help.
func TestRefusalTravels(t *testing.T) {
	s := httptest.NewServer(Handler(backend{}, slog.New(slog.DiscardHandler)))
	defer s.Close()
	c := &Client{base: s.URL, http: s.Client()}
	err := c.Do(t.Context(), "POST", "/v1/join", JoinRequest{}, nil)
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Code != 403 || refusal.Help != "mainstay token" || err.Error() != "no" {
		t.Errorf("got %#v", err)
	}
}

// What people have asked for stands in the status, and a site that they disarmed says so.
func TestStatusTellsWishes(t *testing.T) {
	w := fleet.World{State: fleet.State{Wishes: map[string]fleet.Wish{
		"disarm":                {ID: "disarm", Verb: "disarm", By: "ann", Why: "switch firmware"},
		"deed-1":                {ID: "deed-1", Verb: fleet.VerbDeed, By: "eve"},
		"move-address-internal": {ID: "move-address-internal", Verb: "move", Thing: "address/internal", To: "c2", By: "bob"},
	}}}
	s := StatusOf(w, fleet.Plan{})
	if s.Disarmed != "ann: switch firmware" || len(s.Wishes) != 2 || s.Wishes[1].By != "bob" {
		t.Errorf("disarmed by %q, wishes %+v", s.Disarmed, s.Wishes)
	}
}

// What becomes of crashed servers stands in the status, those under way first.
func TestStatusTellsRevivals(t *testing.T) {
	w := fleet.World{State: fleet.State{Revivals: map[string]fleet.Revival{"a": {Server: "a", Ended: "it runs again on n1"}, "b": {Server: "b"}}}}
	if s := StatusOf(w, fleet.Plan{}); len(s.Revivals) != 2 || s.Revivals[0].Server != "b" {
		t.Errorf("%+v", s.Revivals)
	}
}
