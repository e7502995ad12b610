package node

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestAlarming: what needs a person is news, and so is its end, once.
func TestAlarming(t *testing.T) {
	open := raised{}
	for _, c := range []struct {
		kind, text     string
		news, resolved bool
	}{
		{"wait", "service/x waits for proof", true, false},
		{"wait", "service/x waits no more", true, true},
		{"verdict", "c1 is healthy: as ever", false, false},
		{"verdict", "c1 is lapsed: c2, c3 promised", true, false},
		{"verdict", "c1 is dead: off", true, false},
		{"verdict", "c1 is suspect: three beats missed", false, false},
		{"verdict", "c1 is healthy: heard", true, true},
		{"verdict", "c1 is healthy: heard", false, false},
		{"order", "c1 shall start x", false, false},
	} {
		if news, resolved := open.note(fleet.Event{Kind: c.kind, About: "host/c1", Text: c.text}); news != c.news || resolved != c.resolved {
			t.Errorf("%s %q: %v, %v, want %v, %v", c.kind, c.text, news, resolved, c.news, c.resolved)
		}
	}
}

// An alarm that is refused at first is sent again, whole.
func TestPostAlarm(t *testing.T) {
	calls := 0
	var got struct {
		Site     string      `json:"site"`
		Event    fleet.Event `json:"event"`
		Resolved *bool       `json:"resolved"`
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		if calls == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	if err := postAlarm(t.Context(), s.Client(), s.URL, alarm{Site: "beijing", alarmed: alarmed{fleet.Event{ID: "1.2", Text: "c1 is dead"}, true}}); err != nil {
		t.Fatal(err)
	}
	if calls != 2 || got.Site != "beijing" || got.Event.ID != "1.2" || got.Resolved == nil || !*got.Resolved {
		t.Errorf("%d calls, got %+v", calls, got)
	}
}

// TestAlarmKeepsItsToken: what is logged of a webhook that does not answer, or of a
// change of the site's file, tells its host alone.
func TestAlarmKeepsItsToken(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	refuses := httptest.NewServer(http.NotFoundHandler())
	defer refuses.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, url := range []string{gone.URL + "/hunter2", refuses.URL + "/hunter2", "http://h/%zz/hunter2"} {
		err := postAlarm(ctx, http.DefaultClient, url, alarm{})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", url, err)
		}
	}
	was := fleet.Spec{Alarms: []string{"https://h/hunter2"}}
	is := fleet.Spec{Alarms: []string{"https://h/hunter2/other"}}
	said := strings.Join(changes(was, is), " ")
	if !strings.Contains(said, "alarms") || strings.Contains(said, "hunter2") {
		t.Errorf("a changed webhook: %q", said)
	}
	if got := bare(fleet.World{Spec: was}).Spec.Alarms; len(got) != 1 || strings.Contains(got[0], "hunter2") || was.Alarms[0] != "https://h/hunter2" {
		t.Errorf("a World that is kept or told: %v", got)
	}
}

// TestAlarmsTogether: what comes while a webhook is being told is told together when it has
// answered, all of it, once, in its order.
func TestAlarmsTogether(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	posts, answer := make(chan alarm), make(chan struct{})
	h := &webhook{wake: make(chan struct{}, 1), post: func(a alarm) {
		posts <- a
		<-answer
	}}
	go h.run(ctx)
	put := func(id string, resolved bool) {
		h.put(alarm{Site: "beijing", alarmed: alarmed{fleet.Event{ID: id}, resolved}})
	}
	take := func(want ...string) {
		t.Helper()
		select {
		case a := <-posts:
			got := []string{a.Event.ID}
			for _, m := range a.More {
				got = append(got, m.Event.ID)
			}
			if a.Site != "beijing" || strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("%s: %v, not %v", a.Site, got, want)
			}
			if n := len(a.More); n > 0 && !a.More[n-1].Resolved {
				t.Error("the last is not told as resolved")
			}
		case <-time.After(time.Minute):
			t.Fatalf("%v are not told", want)
		}
	}
	put("1", false)
	take("1")
	for _, id := range []string{"2", "3", "4"} {
		put(id, id == "4")
	}
	answer <- struct{}{}
	take("2", "3", "4")
	answer <- struct{}{}
	put("5", false)
	take("5")
	answer <- struct{}{}
}
